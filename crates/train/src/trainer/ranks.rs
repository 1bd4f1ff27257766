//! A run of several ranks: what each does, and what all do together between steps.

use std::{borrow::Cow, ops::ControlFlow};

use data::sampler::Batch;
use tch::{Tensor, no_grad};

use super::{Trainer, schedule};
use crate::{
    arguments::TrainingArguments,
    error::TrainError,
    group::Group,
    sampling::of_rank,
    tasks::{Task, check_ranks},
};

impl Group {
    /// Looks whether a run can be made by several ranks.
    pub(super) fn check_run(
        &self,
        arguments: &TrainingArguments,
        training: &[Task<'_>],
    ) -> Result<(), TrainError> {
        if arguments.cuda_graphs {
            return Err(TrainError::Arguments(format!(
                "--cuda-graphs records steps that take no part of other ranks, and there are {} ranks: leave it out",
                self.size()
            )));
        }
        check_ranks(training)
    }
}

impl Trainer<'_> {
    /// Whether this process writes, logs and evaluates.
    pub(super) fn is_first(&self) -> bool {
        self.group.is_none_or(Group::is_first)
    }

    /// Whether an evaluation is to be broken off: a signal has come, or a rank is gone.
    pub(super) fn is_stopped(&self) -> bool {
        (self.is_interrupted)() || self.group.is_some_and(Group::is_lost)
    }

    /// Batches of a step, of all ranks.
    pub(super) fn batches_per_step(&self) -> usize {
        self.arguments.gradient_accumulation_steps * self.plan.n_ranks
    }

    /// The batches of a step that this rank makes.
    pub(super) fn own_batches<'b>(&self, all: &'b [Batch]) -> Cow<'b, [Batch]> {
        match self.group {
            None => Cow::Borrowed(all),
            Some(group) => {
                let own = of_rank(all, group.rank(), group.size());
                Cow::Owned(own.cloned().collect())
            }
        }
    }

    /// Gives all ranks the state, weights and moments of rank 0, which has started or gone on from a checkpoint.
    pub(super) fn share(&mut self) -> Result<(), TrainError> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let state = match group.is_first() {
            true => serde_json::to_vec(&self.state).map_err(std::io::Error::from)?,
            false => Vec::new(),
        };
        let state = group.share(&state)?;
        for tensor in self.trained.state()? {
            // A copy tells the model that its weights have changed.
            let shared = copy_of(&tensor)?;
            group.broadcast(&shared)?;
            no_grad(|| tensor.shallow_clone().f_copy_(&shared))?;
        }
        if !group.is_first() {
            self.state = serde_json::from_slice(&state).map_err(std::io::Error::from)?;
            let n_updates = self.state.global_step - self.state.n_skipped_steps;
            self.trained.count_updates(n_updates);
            self.update.restore(n_updates, self.state.loss_scale)?;
            self.plan.first_step = self.state.global_step;
            self.plan.n_steps = self.state.max_steps;
            self.schedule = schedule(&self.arguments, &self.plan)?;
        }
        Ok(())
    }

    /// Has rank 0 evaluate, and all ranks do what follows from it. `Break` when it was interrupted.
    pub(super) fn evaluate_together(&mut self) -> Result<ControlFlow<()>, TrainError> {
        let mut evaluated = ControlFlow::Continue(());
        if self.is_first() {
            evaluated = self.evaluate()?;
        }
        let Some(group) = self.group else {
            return Ok(evaluated);
        };
        let outcome = [evaluated.is_break(), self.state.should_stop].map(u8::from);
        let outcome = group.share(&outcome)?;
        self.state.should_stop = outcome[1] == 1;
        Ok(match outcome[0] {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    /// Goes on with the data where `n_before` ranks have left off, which were to make `n_steps_before` steps. A step of
    /// another number of ranks takes other rows, so what is left of the run takes another number of steps.
    pub(super) fn fit_to_ranks(
        &mut self,
        n_before: u64,
        n_steps_before: u64,
    ) -> Result<(), TrainError> {
        let n_now = self.plan.n_ranks as u64;
        let is_alone = n_before == 1 && n_now == 1;
        let is_as_planned = n_before == n_now && n_steps_before == self.plan.n_steps;
        if is_alone || is_as_planned {
            return Ok(());
        }
        self.state.n_steps_in_epoch = self.state.n_steps_in_epoch * n_before / n_now;
        if self.arguments.max_steps <= 0 {
            let per_epoch = self.plan.n_steps_per_epoch;
            let made = self.state.epoch_index * per_epoch + self.state.n_steps_in_epoch;
            let all = (self.plan.n_epochs * per_epoch as f64).ceil() as u64;
            self.plan.n_steps = self.state.global_step + all.saturating_sub(made);
            self.state.max_steps = self.plan.n_steps;
            self.schedule = schedule(&self.arguments, &self.plan)?;
        }
        Ok(())
    }
}

fn copy_of(tensor: &Tensor) -> Result<Tensor, TrainError> {
    let mut copy = tensor.f_empty_like()?;
    no_grad(|| copy.f_copy_(tensor))?;
    Ok(copy)
}
