//! Forward and backward: the gradients of a step's batches.

use data::sampler::Batch;
use kernels::{
    profile::{Part, time},
    random::mix,
};
use losses::gradients::gradients;
use model::ModelError;
use tch::{Device, TchError, Tensor};

use crate::{error::TrainError, events::Event, failpoint, step::StepWork, trained::Trained};

/// The sums over a step's batches; the gradients themselves are in [`Trained`].
#[derive(Debug)]
pub(crate) struct Accumulated {
    /// The share of each batch in the step's loss.
    pub(crate) losses: Vec<Tensor>,
    pub(crate) n_tokens: usize,
}

impl Accumulated {
    /// The step's loss, for which the host waits.
    pub(crate) fn loss(&self) -> Result<f64, TrainError> {
        let mut loss = 0.0;
        for share in &self.losses {
            loss += f64::try_from(share)?;
        }
        Ok(loss)
    }
}

/// Forward and backward of all micro-batches, with gradients times `loss_scale`. `None` when a signal came, in which
/// case the gradient is of no use.
///
/// A batch that does not fit in a GPU's memory is cut in parts of half as many tokens, and the step begins again,
/// where the arguments allow it: gradient caching gives the same gradient. The parts stay that small.
pub(crate) fn accumulate(
    trained: &Trained<'_>,
    work: &mut StepWork<'_, '_>,
    loss_scale: Option<&Tensor>,
) -> Result<Option<Accumulated>, TrainError> {
    loop {
        let mut tried = try_accumulate(trained, work, loss_scale);
        if let Ok(Some(sums)) = &mut tried {
            spoil(trained, sums)?;
        }
        if let Some(together) = &work.together {
            tried = together.settle(trained, tried);
        }
        match tried {
            Err(TrainError::OutOfMemoryElsewhere { .. }) => trained.forget_gradients()?,
            Err(error) if error.is_out_of_memory() => cut_smaller(trained, work, error)?,
            done => return done,
        }
    }
}

/// In builds for tests, puts numbers in the place of the loss or the gradient.
fn spoil(trained: &Trained<'_>, sums: &mut Accumulated) -> Result<(), TrainError> {
    if let Some(injected) = failpoint::number("gradient") {
        let _ = trained.gradient.f_narrow(0, 0, 1)?.f_fill_(injected)?;
    }
    if let Some(injected) = failpoint::number("loss") {
        sums.losses = vec![sums.losses[0].f_full_like(injected)?];
    }
    Ok(())
}

fn try_accumulate(
    trained: &Trained<'_>,
    work: &StepWork<'_, '_>,
    loss_scale: Option<&Tensor>,
) -> Result<Option<Accumulated>, TrainError> {
    let mut sums = Accumulated {
        losses: Vec::with_capacity(work.batches.len()),
        n_tokens: 0,
    };
    for (micro_step, batch) in work.batches.iter().enumerate() {
        if (work.is_interrupted)() {
            return Ok(None);
        }
        let (share, n_tokens) = match add_batch(trained, work, batch, micro_step, loss_scale) {
            Err(TrainError::Model(ModelError::Stopped)) => return Ok(None),
            added => added?,
        };
        sums.losses.push(share);
        sums.n_tokens += n_tokens;
    }
    Ok(Some(sums))
}

/// Forward and backward of one micro-batch. Adds its share of the gradients and returns its share of the step's loss,
/// and its number of tokens.
fn add_batch(
    trained: &Trained<'_>,
    work: &StepWork<'_, '_>,
    batch: &Batch,
    micro_step: usize,
    loss_scale: Option<&Tensor>,
) -> Result<(Tensor, usize), TrainError> {
    if failpoint::number("memory").is_some() {
        let words = "CUDA out of memory (a failpoint says so)".to_owned();
        return Err(TchError::Torch(words).into());
    }
    let (model, task) = (&trained.model, &work.tasks[batch.dataset]);
    let loss = task.objective.loss;
    let seed = dropout_seed(work, micro_step);
    let gathering = work.together.filter(|_| loss.gathers_across_devices());
    // One loss over all ranks draws the same on each.
    let loss_seed = match &gathering {
        Some(_) => seed_of(work, micro_step),
        None => seed,
    };
    let share = 1.0 / work.batches.len() as f64;
    let limit = work.chunking.limit(loss);
    let chunks = task.chunks(&batch.rows, limit, model.parameters().device())?;
    let chunks = chunks.stopped_by(work.is_interrupted);
    let layers = loss.prior_layers(model.n_layers(), loss_seed);
    let mut of_weights = Vec::new();
    let value =
        model.forward_backward_layers(&chunks, &layers, seed, &trained.gradient, |embeddings| {
            let _timer = time(Part::Loss);
            let mut inputs = task.loss_inputs(&batch.rows, &layers, embeddings, limit)?;
            if let Some(together) = &gathering {
                inputs = together.gather(&inputs)?;
            }
            let mut found = gradients(loss, &inputs.step(loss_seed), share)?;
            if let Some(together) = &gathering {
                together.scatter(&mut found, inputs.n_columns)?;
            }
            if let Some(scale) = loss_scale {
                found.scale(scale)?;
            }
            of_weights = found.parameters;
            let own = &found.embeddings[..inputs.n_columns];
            let mut by_layer = vec![Tensor::f_cat(own, 0)?];
            for columns in &found.prior {
                by_layer.push(Tensor::f_cat(columns, 0)?);
            }
            Ok::<_, TrainError>((found.value, by_layer))
        })?;
    trained.loss_weights.add(task.place, &of_weights)?;
    Ok((value, chunks.tokens()))
}

/// After `error`, halves the parts that batches are embedded in, and forgets what there is of the step's gradients.
fn cut_smaller(
    trained: &Trained<'_>,
    work: &mut StepWork<'_, '_>,
    error: TrainError,
) -> Result<(), TrainError> {
    let device = trained.gradient.device();
    let (mut n_tokens, mut longest) = (0, 0);
    for batch in work.batches {
        let task = &work.tasks[batch.dataset];
        let limit = work.chunking.limit(task.objective.loss);
        for chunk in task.chunks(&batch.rows, limit, device)?.chunks() {
            n_tokens = n_tokens.max(chunk.tokens());
            longest = longest.max(chunk.max_length());
        }
    }
    let step = work.facts.step;
    if !work.chunking.may_shrink || n_tokens <= longest {
        return Err(TrainError::OutOfMemory {
            step,
            n_tokens,
            can_cut: n_tokens > longest,
            source: Box::new(error),
        });
    }
    let fitting = (n_tokens / 2).max(longest);
    work.chunking.shrink_to(fitting);
    trained.forget_gradients()?;
    if device != Device::Cpu {
        shim::torch::empty_cache()?;
    }
    (work.tell)(&Event::CutSmaller {
        step,
        n_tokens,
        fitting,
    })
}

/// Dropout depends on seed, step and micro-batch alone, so that evaluations in between and a resume change nothing. The
/// batches of several ranks draw what one process draws that makes them all.
pub(crate) fn dropout_seed(work: &StepWork<'_, '_>, micro_step: usize) -> u64 {
    let place = work.together.map(|together| together.place(micro_step));
    seed_of(work, place.unwrap_or(micro_step))
}

/// The seed of what a step draws for its `place`-th batch.
fn seed_of(work: &StepWork<'_, '_>, place: usize) -> u64 {
    let n_made = work.facts.step - 1;
    mix(mix(mix(work.arguments.seed) ^ n_made) ^ place as u64)
}
