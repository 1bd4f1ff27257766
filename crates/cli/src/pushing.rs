//! Models on their way to the hub: the trained one, and those of checkpoints while training goes on.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, bail};
use hub::{
    config::HubConfig,
    error::HubError,
    name::RepoId,
    push::{PushFile, PushOptions, Pushed, destination, push_model},
    watcher::Watcher,
};
use tempfile::TempDir;
use train::{
    TrainError,
    events::{Event, Observer},
};
use wording::counted;

use crate::{
    flags::hub::{HubFlags, HubStrategy},
    interrupt::Interrupt,
    session::Session,
    source::Download,
};

/// Files of a checkpoint that are not the model's.
const TRAINING_FILES: [&str; 5] = [
    "optimizer.safetensors",
    "trainer_state.json",
    "manifest.json",
    "loss.safetensors",
    "loss_optimizer.safetensors",
];

/// Prefix of the folders that hold a checkpoint's files until they are pushed.
const STAGING_PREFIX: &str = ".push-";

/// A repository to push to.
pub(crate) struct Destination {
    config: HubConfig,
    id: RepoId,
    is_private: Option<bool>,
}

impl Destination {
    /// Checks the name, and that the hub knows the token.
    pub(crate) fn find(
        name: &str,
        is_private: Option<bool>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let config = HubConfig::from_env()?;
        let id = destination(&config, name, &mut Download::new(session));
        session.check()?;
        Ok(Self {
            id: id.with_context(|| format!("pushing to `{name}`"))?,
            config,
            is_private,
        })
    }

    /// The repository that the flags of a run name, or its folder; none where nothing is to be pushed.
    pub(crate) fn of_run(
        flags: &HubFlags,
        run: &Path,
        session: &Session,
    ) -> anyhow::Result<Option<Self>> {
        if !flags.push_to_hub {
            return Ok(None);
        }
        let name = match &flags.hub_model_id {
            Some(name) => name.clone(),
            None => folder_name(run).context("--hub-model-id")?,
        };
        Self::find(&name, flags.hub_private_repo, session)
            .context("--push-to-hub")
            .map(Some)
    }

    /// `org/name`.
    pub(crate) fn id(&self) -> &str {
        self.id.id()
    }

    /// Pushes the model of a folder.
    pub(crate) fn push(
        &self,
        folder: &Path,
        message: &str,
        session: &Session,
    ) -> anyhow::Result<Pushed> {
        let files = PushFile::below(folder)?;
        let pushed = self.push_files(&files, message, &mut Download::new(session));
        session.check()?;
        let pushed = pushed.with_context(|| {
            format!(
                "{} could not be pushed and is whole: `sentune push {} {}` tries again",
                folder.display(),
                folder.display(),
                self.id
            )
        })?;
        match pushed.n_files {
            0 => tracing::info!("{} has these files already", pushed.url),
            n => tracing::info!("pushed {} to {}", counted(n, "files"), pushed.url),
        }
        Ok(pushed)
    }

    fn push_files(
        &self,
        files: &[PushFile],
        message: &str,
        watcher: &mut dyn Watcher,
    ) -> Result<Pushed, HubError> {
        let options = PushOptions {
            is_private: self.is_private,
            summary: message.to_owned(),
        };
        push_model(&self.config, &self.id, files, &options, watcher)
    }
}

/// The folder of the model in `folder`: the trained one of a run, or the folder itself.
pub(crate) fn model_folder(folder: &Path) -> anyhow::Result<PathBuf> {
    let trained = folder.join("final");
    for candidate in [trained.as_path(), folder] {
        if candidate.join("modules.json").is_file() || candidate.join("config.json").is_file() {
            return Ok(candidate.to_owned());
        }
    }
    bail!(
        "{} holds no model: give the folder of a run that has ended, or one with config.json and model.safetensors",
        folder.display()
    )
}

/// The name of a folder as the name of a repository.
pub(crate) fn folder_name(folder: &Path) -> anyhow::Result<String> {
    let folder = fs_err::canonicalize(folder)?;
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} is no name for a repository", folder.display()))?;
    Ok(name.to_owned())
}

/// Pushes checkpoints while training goes on, one at a time; those that come meanwhile are left out.
pub(crate) struct CheckpointPushes {
    destination: Arc<Destination>,
    strategy: HubStrategy,
    run: PathBuf,
    interrupt: Interrupt,
    running: Option<JoinHandle<()>>,
}

impl CheckpointPushes {
    /// None where the strategy asks for none.
    pub(crate) fn new(
        destination: &Arc<Destination>,
        strategy: HubStrategy,
        run: &Path,
        session: &Session,
    ) -> Option<Self> {
        (strategy != HubStrategy::End).then(|| Self {
            destination: Arc::clone(destination),
            strategy,
            run: run.to_owned(),
            interrupt: session.interrupt.clone(),
            running: None,
        })
    }

    fn start(&mut self, checkpoint: &Path) -> io::Result<()> {
        // A checkpoint may be removed while it is being pushed.
        let staged = stage(checkpoint, &self.run)?;
        let name = checkpoint.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let step = name.rsplit('-').next().unwrap_or(&name);
        let message = format!("Training in progress, step {step}");
        let files = files_to_push(staged.path(), &name, self.strategy).map_err(io::Error::other)?;
        let destination = Arc::clone(&self.destination);
        let mut quiet = Quiet(self.interrupt.clone());
        self.running = Some(
            thread::Builder::new()
                .name("push".to_owned())
                .spawn(move || {
                    match destination.push_files(&files, &message, &mut quiet) {
                        Ok(pushed) => tracing::info!("pushed {name} to {}", pushed.url),
                        Err(HubError::Interrupted) => {}
                        Err(error) => tracing::warn!("{name} is not pushed: {error}"),
                    }
                    drop(staged);
                })?,
        );
        Ok(())
    }
}

impl Observer for CheckpointPushes {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        let Event::Saved(checkpoint) = event else {
            return Ok(());
        };
        let is_busy = self
            .running
            .as_ref()
            .is_some_and(|push| !push.is_finished());
        if is_busy {
            tracing::info!(
                "{} is not pushed: the push before it goes on",
                checkpoint.display()
            );
        } else if let Err(error) = self.start(checkpoint) {
            tracing::warn!("{} is not pushed: {error}", checkpoint.display());
        }
        Ok(())
    }
}

impl Drop for CheckpointPushes {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// A folder in the run with links to the checkpoint's files, which stay when the checkpoint goes.
fn stage(checkpoint: &Path, run: &Path) -> io::Result<TempDir> {
    let staged = tempfile::Builder::new()
        .prefix(STAGING_PREFIX)
        .tempdir_in(run)?;
    for file in PushFile::below(checkpoint).map_err(io::Error::other)? {
        let place = staged.path().join(&file.name);
        if let Some(folder) = place.parent() {
            fs_err::create_dir_all(folder)?;
        }
        if fs_err::hard_link(&file.path, &place).is_err() {
            fs_err::copy(&file.path, &place)?;
        }
    }
    Ok(staged)
}

/// The model of a checkpoint, and the checkpoint itself in a folder of the repository where the strategy asks for it.
fn files_to_push(
    staged: &Path,
    name: &str,
    strategy: HubStrategy,
) -> Result<Vec<PushFile>, HubError> {
    let all = PushFile::below(staged)?;
    let is_model = |file: &&PushFile| !TRAINING_FILES.contains(&file.name.as_str());
    let mut files: Vec<PushFile> = all.iter().filter(is_model).cloned().collect();
    let folder = match strategy {
        HubStrategy::End | HubStrategy::EverySave => return Ok(files),
        HubStrategy::Checkpoint => "last-checkpoint",
        HubStrategy::AllCheckpoints => name,
    };
    files.extend(all.into_iter().map(|file| PushFile {
        name: format!("{folder}/{}", file.name),
        path: file.path,
    }));
    Ok(files)
}

/// Shows no progress, which is the training's.
struct Quiet(Interrupt);

impl Watcher for Quiet {
    fn interrupted(&mut self) -> bool {
        self.0.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(strategy: HubStrategy) -> Vec<String> {
        let checkpoint = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "optimizer.safetensors"] {
            fs_err::write(checkpoint.path().join(name), name).unwrap();
        }
        let run = tempfile::tempdir().unwrap();
        let staged = stage(checkpoint.path(), run.path()).unwrap();
        drop(checkpoint);
        let files = files_to_push(staged.path(), "checkpoint-7", strategy).unwrap();
        let name = |file: PushFile| {
            let content = fs_err::read_to_string(&file.path).unwrap();
            assert!(file.name.ends_with(&content), "{}", file.name);
            file.name
        };
        files.into_iter().map(name).collect()
    }

    #[test]
    fn a_strategy_decides_what_of_a_checkpoint_is_pushed() {
        let model = ["config.json", "model.safetensors"];
        assert_eq!(names(HubStrategy::EverySave), model);
        for (strategy, folder) in [
            (HubStrategy::Checkpoint, "last-checkpoint"),
            (HubStrategy::AllCheckpoints, "checkpoint-7"),
        ] {
            let mut expected = model.map(str::to_owned).to_vec();
            for name in ["config.json", "model.safetensors", "optimizer.safetensors"] {
                expected.push(format!("{folder}/{name}"));
            }
            assert_eq!(names(strategy), expected);
        }
    }
}
