//! The folder of a run before it begins: empty, to be started over, or with a checkpoint to go on from.

use std::path::Path;

use anyhow::{Context, bail};
use train::{CONFIG, Checkpoint, METRICS, RunFolder};

use crate::{
    commands::{
        report::{ENVIRONMENT, PAGE, PROFILE},
        train::results::{CLASSES, RESULTS},
    },
    flags::train::TrainFlags,
    usage::UsageError,
};

/// The checkpoint to go on from, where the flags ask for one. Else the folder holds nothing of another run, or no
/// longer does.
///
/// # Errors
/// If the folder holds a run and the flags do not say what to do with it.
pub(super) fn claim(folder: &RunFolder, flags: &TrainFlags) -> anyhow::Result<Option<Checkpoint>> {
    let root = folder.root();
    let has_begun = root.join(CONFIG).exists();
    let has_ended = folder.final_model().exists();
    let wanted = flags.call.resume_from_checkpoint.as_deref();
    match wanted {
        Some(LAST | AUTO) => match Checkpoint::newest(folder)? {
            Some(newest) => {
                for problem in newest.skipped {
                    tracing::warn!("{problem}: going on from an older one");
                }
                Ok(Some(newest.checkpoint))
            }
            None if has_begun && (!has_ended || wanted == Some(AUTO) && is_same(root, flags)?) => {
                tracing::warn!(
                    "the run in {} ended before its first checkpoint: starting it again",
                    root.display()
                );
                remove_run(folder)?;
                Ok(None)
            }
            None if wanted == Some(AUTO) && !has_ended => Ok(None),
            None if wanted == Some(AUTO) => Err(holds_a_run(root)),
            None => bail!(
                "--resume-from-checkpoint: {} holds no checkpoint; leave the flag out to start, or give --resume-from-checkpoint auto",
                root.display()
            ),
        },
        Some(wanted) => Ok(Some(
            Checkpoint::open(Path::new(wanted)).context("--resume-from-checkpoint")?,
        )),
        None if !has_begun && !has_ended && folder.checkpoints()?.is_empty() => Ok(None),
        None if flags.call.overwrite_output_dir => {
            remove_run(folder)?;
            Ok(None)
        }
        None => Err(holds_a_run(root)),
    }
}

/// The value of `--resume-from-checkpoint` where none is given.
const LAST: &str = "last";
/// The value of `--resume-from-checkpoint` by which one command line starts a run and goes on with it.
const AUTO: &str = "auto";

/// Has a run that torchrun starts anew go on with its newest checkpoint, or start where there is none yet.
pub(super) fn go_on_by_itself(flags: &mut TrainFlags) {
    let wanted = &mut flags.call.resume_from_checkpoint;
    wanted.get_or_insert_with(|| AUTO.to_owned());
}

/// Whether `--resume-from-checkpoint auto` finds this very run, trained to its end.
///
/// # Errors
/// If the configuration in the folder can't be read.
pub(super) fn is_complete(flags: &TrainFlags) -> anyhow::Result<bool> {
    let is_auto = flags.call.resume_from_checkpoint.as_deref() == Some(AUTO);
    match &flags.output_dir {
        Some(root) if is_auto && root.join(RESULTS).exists() => is_same(root, flags),
        _ => Ok(false),
    }
}

/// Whether the folder of a run holds the configuration that these flags resolve to.
fn is_same(root: &Path, flags: &TrainFlags) -> anyhow::Result<bool> {
    let path = root.join(CONFIG);
    Ok(path.exists() && fs_err::read_to_string(path)? == crate::config::to_toml(flags)?)
}

fn holds_a_run(root: &Path) -> anyhow::Error {
    UsageError(format!(
        "--output-dir {} already holds a run: give another folder, or add --resume-from-checkpoint to go on with it or --overwrite-output-dir to start over",
        root.display()
    ))
    .into()
}

/// Removes the files of a run.
fn remove_run(folder: &RunFolder) -> anyhow::Result<()> {
    for step in folder.checkpoints()? {
        fs_err::remove_dir_all(folder.checkpoint(step))?;
    }
    for path in [
        folder.final_model(),
        folder.tensorboard(),
        folder.eval(),
        folder.test(),
    ] {
        if path.exists() {
            fs_err::remove_dir_all(path)?;
        }
    }
    for name in [
        CONFIG,
        METRICS,
        RESULTS,
        CLASSES,
        ENVIRONMENT,
        PROFILE,
        PAGE,
    ] {
        let path = folder.root().join(name);
        if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}
