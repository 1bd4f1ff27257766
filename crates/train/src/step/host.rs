//! Updates that the host decides on.

use std::ops::ControlFlow;

use crate::{
    error::TrainError,
    optimizer::clip_scale,
    step::{Numbers, SettledStep, StepWork, Update, gradients::accumulate},
    trained::Trained,
};

/// Reads loss and norm at once, and makes the update where both are finite.
#[derive(Debug, Default)]
pub(crate) struct HostUpdate {
    made: Option<SettledStep>,
}

impl Update for HostUpdate {
    fn step(
        &mut self,
        trained: &mut Trained<'_>,
        mut work: StepWork<'_, '_>,
    ) -> Result<ControlFlow<()>, TrainError> {
        let Some(accumulated) = accumulate(trained, &mut work, None)? else {
            return Ok(ControlFlow::Break(()));
        };
        let loss = accumulated.loss()?;
        let grad_norm = if loss.is_finite() {
            trained.gradient_norm()?
        } else {
            f64::NAN
        };
        let numbers = Numbers {
            loss,
            grad_norm,
            loss_scale: 1.0,
        };
        if numbers.is_finite() {
            let scale = clip_scale(grad_norm, work.arguments.max_grad_norm);
            trained.update(scale, work.facts.learning_rate)?;
        } else {
            trained.forget_gradients()?;
        }
        self.made = Some(SettledStep {
            facts: work.facts,
            n_tokens: accumulated.n_tokens,
            numbers,
            device_memory: None,
        });
        Ok(ControlFlow::Continue(()))
    }

    fn settled(&mut self, _: &mut Trained<'_>, _: bool) -> Result<Vec<SettledStep>, TrainError> {
        Ok(self.made.take().into_iter().collect())
    }
}
