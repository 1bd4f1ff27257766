//! Learning-rate schedules: pure functions of the step.
//!
//! The multipliers are those of transformers' `optimization.py`
//! (`get_linear_schedule_with_warmup` and its siblings); the names are its `SchedulerType`.

use serde::{Deserialize, Serialize};

/// How the learning rate moves over the run (`--lr-scheduler-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// From the peak down to zero in a straight line.
    Linear,
    /// From the peak down to zero along half a cosine.
    Cosine,
    /// The peak from the first step to the last; warm-up steps are ignored, as upstream.
    Constant,
    /// Warm-up, then the peak.
    ConstantWithWarmup,
}

/// A schedule over a known number of optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape of the curve.
    pub kind: SchedulerType,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Optimizer steps over which the rate rises linearly from zero.
    pub n_warmup_steps: u64,
    /// Optimizer steps of the whole run.
    pub n_steps: u64,
}

impl Schedule {
    /// Learning rate of the update number `step`, counted from zero.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.learning_rate * self.multiplier(step)
    }

    fn multiplier(&self, step: u64) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.n_warmup_steps {
            return step as f64 / self.n_warmup_steps.max(1) as f64;
        }
        let n_decay_steps = self.n_steps.saturating_sub(self.n_warmup_steps).max(1) as f64;
        match self.kind {
            SchedulerType::Linear => self.n_steps.saturating_sub(step) as f64 / n_decay_steps,
            SchedulerType::Cosine => {
                let progress = (step - self.n_warmup_steps) as f64 / n_decay_steps;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}

/// Number of warm-up steps meant by `--warmup-steps`: below one a share of the run, rounded up, else
/// a count (transformers 5, `TrainingArguments.get_warmup_steps`).
pub fn warmup_steps(warmup: f64, n_steps: u64) -> u64 {
    if warmup < 1.0 {
        (n_steps as f64 * warmup).ceil() as u64
    } else {
        warmup as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with transformers 5.24.0:
    ///
    /// ```python
    /// import torch, transformers
    /// for kind in ["linear", "cosine", "constant", "constant_with_warmup"]:
    ///     optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    ///     schedule = transformers.get_scheduler(kind, optimizer, 3, 10)
    ///     rates = []
    ///     for _ in range(10):
    ///         rates.append(optimizer.param_groups[0]["lr"]); optimizer.step(); schedule.step()
    ///     print(kind, [f"{rate:.6e}" for rate in rates])
    /// ```
    #[test]
    fn rates_are_those_of_transformers() {
        let check = |kind, expected: [f64; 10]| {
            let schedule = Schedule {
                kind,
                learning_rate: 5e-5,
                n_warmup_steps: 3,
                n_steps: 10,
            };
            for (step, expected) in expected.into_iter().enumerate() {
                let rate = schedule.learning_rate(step as u64);
                assert!(
                    (rate - expected).abs() < 1e-11,
                    "{kind:?} step {step}: {rate} != {expected}"
                );
            }
        };
        check(SchedulerType::Linear, LINEAR);
        check(SchedulerType::Cosine, COSINE);
        check(SchedulerType::Constant, [5e-5; 10]);
        check(SchedulerType::ConstantWithWarmup, CONSTANT_WITH_WARMUP);
    }

    const LINEAR: [f64; 10] = [
        0.0,
        1.666666667e-5,
        3.333333333e-5,
        5e-5,
        4.285714286e-5,
        3.571428571e-5,
        2.857142857e-5,
        2.142857143e-5,
        1.428571429e-5,
        7.142857143e-6,
    ];
    const COSINE: [f64; 10] = [
        0.0,
        1.666666667e-5,
        3.333333333e-5,
        5e-5,
        4.752422170e-5,
        4.058724505e-5,
        3.056302335e-5,
        1.943697665e-5,
        9.412754954e-6,
        2.475778302e-6,
    ];
    const CONSTANT_WITH_WARMUP: [f64; 10] = [
        0.0,
        1.666666667e-5,
        3.333333333e-5,
        5e-5,
        5e-5,
        5e-5,
        5e-5,
        5e-5,
        5e-5,
        5e-5,
    ];

    #[test]
    fn last_step_of_the_article_is_nearly_zero() {
        let schedule = Schedule {
            kind: SchedulerType::Linear,
            learning_rate: 5e-5,
            n_warmup_steps: 0,
            n_steps: 37_500,
        };
        assert_eq!(schedule.learning_rate(0), 5e-5);
        assert_eq!(schedule.learning_rate(37_499), 5e-5 / 37_500.0);
        assert_eq!(schedule.learning_rate(37_500), 0.0);
    }

    #[test]
    fn warmup_below_one_is_a_share() {
        assert_eq!(warmup_steps(0.1, 37_500), 3_750);
        assert_eq!(warmup_steps(0.1, 11), 2);
        assert_eq!(warmup_steps(0.0, 11), 0);
        assert_eq!(warmup_steps(1.0, 11), 1);
        assert_eq!(warmup_steps(500.0, 11), 500);
    }
}
