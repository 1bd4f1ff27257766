//! Learning-rate schedules: pure functions of the step.
//!
//! The multipliers are those of transformers' `optimization.py` (5.24): `get_linear_schedule_with_warmup` and its
//! siblings. The names are its `SchedulerType`, of which `reduce_lr_on_plateau` and `greedy` are missing: they follow
//! evaluations, and not the step alone.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::TrainError;

/// The shape of the learning rate over the run (`--lr-scheduler-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// From the peak down to zero in a straight line.
    Linear,
    /// From the peak down to zero along half a cosine, or `num_cycles` of one.
    Cosine,
    /// Down to zero along half a cosine, `num_cycles` times.
    CosineWithRestarts,
    /// From the peak down to `lr_end` along the power `power`.
    Polynomial,
    /// The peak from the first step to the last; warm-up steps are ignored, as upstream.
    Constant,
    /// Warm-up, then the peak.
    ConstantWithWarmup,
    /// Down with one over the square root of the step, over `timescale`.
    InverseSqrt,
    /// Along half a cosine down to `min_lr`, or `min_lr_rate` of the peak.
    CosineWithMinLr,
    /// Like `cosine_with_min_lr`, but warm-up begins at `warmup_lr_rate` of the peak and not at zero.
    CosineWarmupWithMinLr,
    /// Warm-up, the peak, and a decay of `num_decay_steps` down to `min_lr_ratio` of the peak.
    WarmupStableDecay,
}

/// Parameters of a schedule (`--lr-scheduler-kwargs`), under transformers' names.
pub type SchedulerKwargs = Map<String, Value>;

/// A schedule over a known number of optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    shape: Shape,
    /// Peak learning rate.
    learning_rate: f64,
    /// Optimizer steps over which the rate rises from zero.
    n_warmup_steps: u64,
    /// Optimizer steps of the whole run.
    n_steps: u64,
}

/// A type of schedule with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Linear,
    Cosine(Cosine),
    CosineWithRestarts(Restarts),
    Polynomial(Polynomial),
    Constant,
    ConstantWithWarmup,
    InverseSqrt(InverseSqrt),
    CosineWithMinLr(Cosine, f64),
    CosineWarmupWithMinLr(Cosine, f64, Option<f64>),
    WarmupStableDecay(WarmupStableDecay),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cosine {
    num_cycles: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { num_cycles: 0.5 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Restarts {
    num_cycles: f64,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { num_cycles: 1.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Polynomial {
    lr_end: f64,
    power: f64,
}

impl Default for Polynomial {
    fn default() -> Self {
        Self {
            lr_end: 1e-7,
            power: 1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InverseSqrt {
    timescale: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MinLr {
    num_cycles: Option<f64>,
    min_lr: Option<f64>,
    min_lr_rate: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WarmupMinLr {
    num_cycles: Option<f64>,
    min_lr: Option<f64>,
    min_lr_rate: Option<f64>,
    warmup_lr_rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmupStableDecay {
    num_decay_steps: u64,
    #[serde(default)]
    num_stable_steps: Option<u64>,
    #[serde(default = "linear")]
    warmup_type: Curve,
    #[serde(default = "cosine")]
    decay_type: Curve,
    #[serde(default)]
    min_lr_ratio: f64,
    #[serde(default = "half")]
    num_cycles: f64,
}

/// A curve of warm-up or decay.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
enum Curve {
    #[serde(rename = "linear")]
    Linear,
    #[serde(rename = "cosine")]
    Cosine,
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

fn linear() -> Curve {
    Curve::Linear
}

fn cosine() -> Curve {
    Curve::Cosine
}

fn half() -> f64 {
    Cosine::default().num_cycles
}

impl Shape {
    fn new(
        kind: SchedulerType,
        kwargs: &SchedulerKwargs,
        learning_rate: f64,
    ) -> Result<Self, TrainError> {
        let cosine = |num_cycles: Option<f64>| Cosine {
            num_cycles: num_cycles.unwrap_or(half()),
        };
        Ok(match kind {
            SchedulerType::Linear => parse::<NoParameters>(kind, kwargs).map(|_| Self::Linear)?,
            SchedulerType::Constant => {
                parse::<NoParameters>(kind, kwargs).map(|_| Self::Constant)?
            }
            SchedulerType::ConstantWithWarmup => {
                parse::<NoParameters>(kind, kwargs).map(|_| Self::ConstantWithWarmup)?
            }
            SchedulerType::Cosine => Self::Cosine(parse(kind, kwargs)?),
            SchedulerType::CosineWithRestarts => Self::CosineWithRestarts(parse(kind, kwargs)?),
            SchedulerType::InverseSqrt => Self::InverseSqrt(parse(kind, kwargs)?),
            SchedulerType::WarmupStableDecay => Self::WarmupStableDecay(parse(kind, kwargs)?),
            SchedulerType::Polynomial => {
                let polynomial: Polynomial = parse(kind, kwargs)?;
                if polynomial.lr_end >= learning_rate {
                    return Err(refused(
                        kind,
                        &format!(
                            "lr_end is {}: it must be below --learning-rate, which is {learning_rate}",
                            polynomial.lr_end
                        ),
                    ));
                }
                Self::Polynomial(polynomial)
            }
            SchedulerType::CosineWithMinLr => {
                let MinLr {
                    num_cycles,
                    min_lr,
                    min_lr_rate,
                } = parse(kind, kwargs)?;
                let rate = min_rate(kind, min_lr, min_lr_rate, learning_rate)?;
                Self::CosineWithMinLr(cosine(num_cycles), rate)
            }
            SchedulerType::CosineWarmupWithMinLr => {
                let WarmupMinLr {
                    num_cycles,
                    min_lr,
                    min_lr_rate,
                    warmup_lr_rate,
                } = parse(kind, kwargs)?;
                let rate = min_rate(kind, min_lr, min_lr_rate, learning_rate)?;
                Self::CosineWarmupWithMinLr(cosine(num_cycles), rate, warmup_lr_rate)
            }
        })
    }
}

fn parse<T: DeserializeOwned>(
    kind: SchedulerType,
    kwargs: &SchedulerKwargs,
) -> Result<T, TrainError> {
    serde_json::from_value(Value::Object(kwargs.clone()))
        .map_err(|error| refused(kind, &error.to_string()))
}

fn refused(kind: SchedulerType, problem: &str) -> TrainError {
    let name = serde_json::to_value(kind).unwrap_or_default();
    let name = name.as_str().unwrap_or_default();
    TrainError::Arguments(format!(
        "--lr-scheduler-kwargs of --lr-scheduler-type {name}: {problem}"
    ))
}

/// The lowest multiplier, from the lowest rate or the multiplier itself.
fn min_rate(
    kind: SchedulerType,
    min_lr: Option<f64>,
    min_lr_rate: Option<f64>,
    learning_rate: f64,
) -> Result<f64, TrainError> {
    match (min_lr, min_lr_rate) {
        (None, Some(rate)) => Ok(rate),
        (Some(min_lr), None) if learning_rate > 0.0 => Ok(min_lr / learning_rate),
        (Some(_), None) => Err(refused(kind, "min_lr needs a --learning-rate above 0")),
        (Some(_), Some(_)) => Err(refused(kind, "give min_lr or min_lr_rate, not both")),
        (None, None) => Err(refused(
            kind,
            "give min_lr, the lowest learning rate, or min_lr_rate, its share of the peak",
        )),
    }
}

impl Schedule {
    /// A schedule from its type, parameters and peak.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] for parameters that the type doesn't have or that are out of range.
    pub fn new(
        kind: SchedulerType,
        kwargs: &SchedulerKwargs,
        learning_rate: f64,
        n_warmup_steps: u64,
        n_steps: u64,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            shape: Shape::new(kind, kwargs, learning_rate)?,
            learning_rate,
            n_warmup_steps,
            n_steps,
        })
    }

    /// Learning rate of the update number `step`, counted from zero.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.learning_rate * self.multiplier(step)
    }

    fn multiplier(&self, step: u64) -> f64 {
        let (n_warmup, n_steps) = (self.n_warmup_steps as f64, self.n_steps as f64);
        let is_warmup = step < self.n_warmup_steps;
        let step = step as f64;
        // Of warm-up, and of the steps after it.
        let risen = step / n_warmup.max(1.0);
        let progress = (step - n_warmup) / (n_steps - n_warmup).max(1.0);
        match self.shape {
            Shape::Constant => 1.0,
            Shape::CosineWarmupWithMinLr(cosine, min_rate, warmup_rate) => {
                if is_warmup {
                    return match warmup_rate {
                        None => (step + 1.0) / n_warmup.max(1.0),
                        Some(rate) => rate + (1.0 - rate) * step / (n_warmup - 1.0).max(1.0),
                    };
                }
                let progress = (step - n_warmup + 1.0) / (n_steps - n_warmup).max(1.0);
                above(cosine.at(progress), min_rate).max(0.0)
            }
            Shape::WarmupStableDecay(shape) => shape.multiplier(step, n_warmup, n_steps),
            _ if is_warmup => risen,
            Shape::ConstantWithWarmup => 1.0,
            Shape::Linear => (n_steps - step).max(0.0) / (n_steps - n_warmup).max(1.0),
            Shape::Cosine(cosine) => cosine.at(progress).max(0.0),
            Shape::CosineWithRestarts(_) if progress >= 1.0 => 0.0,
            Shape::CosineWithRestarts(Restarts { num_cycles }) => {
                (0.5 * (1.0 + (PI * ((num_cycles * progress) % 1.0)).cos())).max(0.0)
            }
            Shape::Polynomial(Polynomial { lr_end, .. }) if step > n_steps => {
                lr_end / self.learning_rate
            }
            Shape::Polynomial(Polynomial { lr_end, power }) => {
                let remaining: f64 = 1.0 - progress;
                let decay = (self.learning_rate - lr_end) * remaining.powf(power) + lr_end;
                decay / self.learning_rate
            }
            Shape::InverseSqrt(InverseSqrt { timescale }) => {
                let default = if n_warmup > 0.0 { n_warmup } else { 10_000.0 };
                let timescale = timescale.unwrap_or(default);
                1.0 / ((step + timescale - n_warmup) / timescale).sqrt()
            }
            Shape::CosineWithMinLr(cosine, min_rate) => {
                above(cosine.at(progress), min_rate).max(0.0)
            }
        }
    }
}

impl Cosine {
    /// From one down to zero and up again, `num_cycles` times in all.
    fn at(self, progress: f64) -> f64 {
        0.5 * (1.0 + (PI * self.num_cycles * 2.0 * progress).cos())
    }
}

impl WarmupStableDecay {
    fn multiplier(&self, step: f64, n_warmup: f64, n_steps: f64) -> f64 {
        let n_decay = self.num_decay_steps as f64;
        let n_stable = self
            .num_stable_steps
            .map_or(n_steps - n_warmup - n_decay, |n| n as f64);
        let factor = if step < n_warmup {
            let progress = step / n_warmup.max(1.0);
            match self.warmup_type {
                Curve::Linear => progress,
                Curve::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Curve::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            }
        } else if step < n_warmup + n_stable {
            return 1.0;
        } else if step < n_warmup + n_stable + n_decay {
            let progress = (step - n_warmup - n_stable) / n_decay.max(1.0);
            match self.decay_type {
                Curve::Linear => 1.0 - progress,
                Curve::Cosine => Cosine {
                    num_cycles: self.num_cycles,
                }
                .at(progress),
                Curve::OneMinusSqrt => 1.0 - progress.sqrt(),
            }
        } else {
            return self.min_lr_ratio;
        };
        above(factor, self.min_lr_ratio).max(0.0)
    }
}

/// A multiplier from 0 to 1, moved to the range from `least` to 1.
fn above(factor: f64, least: f64) -> f64 {
    factor * (1.0 - least) + least
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

    #[test]
    fn last_step_of_the_article_is_nearly_zero() {
        let none = SchedulerKwargs::new();
        let schedule = Schedule::new(SchedulerType::Linear, &none, 5e-5, 0, 37_500).unwrap();
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
