//! Checkpoints: a model that opens by itself, the optimizer's moments, and the state of the run.

use std::path::Path;

use model::SentenceTransformer;
use tch::{Tensor, no_grad};

use crate::{
    TrainError,
    optimizer::Optimizer,
    run_folder::{RunFolder, write_folder},
    state::TrainerState,
};

const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";

/// Writes the checkpoint `folder`, whole or not at all.
pub(crate) fn save(
    folder: &Path,
    model: &SentenceTransformer,
    optimizer: &Optimizer,
    state: &TrainerState,
) -> Result<(), TrainError> {
    write_folder(folder, |inside| {
        model.save(inside)?;
        let moments = optimizer.moments();
        if !moments.is_empty() {
            Tensor::write_safetensors(moments, inside.join(MOMENTS))?;
        }
        let mut text = serde_json::to_string_pretty(state).map_err(std::io::Error::from)?;
        text.push('\n');
        fs_err::write(inside.join(STATE), text)?;
        Ok(())
    })
}

/// Puts a checkpoint's weights and moments in place and returns the run's state.
pub(crate) fn load(
    folder: &Path,
    model: &mut SentenceTransformer,
    optimizer: &mut Optimizer,
) -> Result<TrainerState, TrainError> {
    let path = folder.join(STATE);
    let state: TrainerState =
        serde_json::from_str(&fs_err::read_to_string(&path)?).map_err(|error| {
            TrainError::Arguments(format!(
                "{} is not a checkpoint's state: {error}",
                path.display()
            ))
        })?;
    let path = folder.join(MOMENTS);
    let moments = if path.exists() {
        Tensor::read_safetensors(path)?
    } else {
        Vec::new()
    };
    optimizer.restore(state.global_step, |name| {
        moments
            .iter()
            .find(|(saved, _)| saved == name)
            .map(|(_, tensor)| tensor.shallow_clone())
    })?;
    load_weights(folder, model)?;
    Ok(state)
}

/// Puts a checkpoint's weights in place.
pub(crate) fn load_weights(
    folder: &Path,
    model: &mut SentenceTransformer,
) -> Result<(), TrainError> {
    let saved = SentenceTransformer::load(folder, model.parameters().device())?;
    let (saved, flat) = (saved.parameters(), model.parameters());
    if !saved
        .spans()
        .iter()
        .map(|span| (&span.name, &span.shape))
        .eq(flat.spans().iter().map(|span| (&span.name, &span.shape)))
    {
        return Err(TrainError::Arguments(format!(
            "{} holds another model than the one being trained",
            folder.display()
        )));
    }
    no_grad(|| flat.flat().shallow_clone().f_copy_(saved.flat()))?;
    Ok(())
}

/// Removes the oldest checkpoints until `limit` are left, but never that of `best_step`
/// (transformers' `rotate_checkpoints`).
pub(crate) fn remove_oldest(
    folder: &RunFolder,
    limit: usize,
    best_step: Option<u64>,
) -> Result<(), TrainError> {
    let steps = folder.checkpoints()?;
    let newest = steps.last().copied();
    let mut n_excess = steps.len().saturating_sub(limit);
    for step in steps {
        let keep = Some(step) == best_step || Some(step) == newest;
        if n_excess > 0 && !keep {
            fs_err::remove_dir_all(folder.checkpoint(step))?;
            n_excess -= 1;
        }
    }
    Ok(())
}

/// Where the best step has a checkpoint, removes all others: with a limit of one, a run keeps two only as long as
/// it may have to go on from the newest (end of transformers' `_finalize_training`).
pub(crate) fn remove_all_but(folder: &RunFolder, best_step: Option<u64>) -> Result<(), TrainError> {
    let steps = folder.checkpoints()?;
    if best_step.is_some_and(|best| steps.contains(&best)) {
        for step in steps.into_iter().filter(|step| Some(*step) != best_step) {
            fs_err::remove_dir_all(folder.checkpoint(step))?;
        }
    }
    Ok(())
}
