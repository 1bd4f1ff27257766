//! The folder of a run: names, layout, and writing whole or not at all.
//!
//! ```text
//! <output-dir>/
//!   config.toml            the resolved configuration, which re-runs the run
//!   metrics.jsonl          every log entry, one JSON object a line
//!   runs/                  TensorBoard events
//!   eval/                  the CSV files of evaluations during training
//!   test/                  those of the evaluations before and after
//!   checkpoint-<step>/     a model, the optimizer's moments, trainer_state.json and manifest.json
//!   final/                 the trained model
//!   .lock                  the number of the process that trains here, and its lock
//! ```

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use fs_err as fs;
use model::ModelFiles;

use crate::{
    error::{TrainError, unsaved},
    failpoint,
    run::{lock::FolderLock, state::TrainerState},
};

/// Name of the folder with the trained model.
pub const FINAL: &str = "final";
/// Name of the log of all entries.
pub const METRICS: &str = "metrics.jsonl";
/// Name of the resolved configuration.
pub const CONFIG: &str = "config.toml";

const CHECKPOINT_PREFIX: &str = "checkpoint-";
/// Prefix of files and folders that are not whole yet.
const WRITING_PREFIX: &str = ".writing-";
/// Prefix of folders that hold a file or folder that was replaced.
const REPLACED_PREFIX: &str = ".replaced-";

/// The folder of one run, locked for as long as the value or a clone of it lives.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
    /// `None` where another rank has it.
    lock: Option<Arc<FolderLock>>,
}

impl RunFolder {
    /// Makes the folder where it is missing, locks it, and clears away half-written files of a killed run.
    ///
    /// # Errors
    /// When it can't be written, with the path; [`TrainError::Locked`] when another process trains in it.
    pub fn create(root: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(root)?;
        let lock = Arc::new(FolderLock::take(root)?);
        clear_away(root)?;
        Ok(Self {
            root: root.to_owned(),
            lock: Some(lock),
        })
    }

    /// The folder that rank 0 has made and locked, perhaps on another machine, for a rank that writes nothing.
    pub fn of_first_rank(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            lock: None,
        }
    }

    /// Whether the file system has locks, so that no second trainer can write to the folder.
    pub fn is_locked(&self) -> bool {
        self.lock.as_ref().is_none_or(|lock| lock.is_held())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the trained model.
    pub fn final_model(&self) -> PathBuf {
        self.root.join(FINAL)
    }

    /// Path of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Path of the CSV files of evaluations during training.
    pub fn eval(&self) -> PathBuf {
        self.root.join("eval")
    }

    /// Path of the CSV files of the evaluations before and after: they have more similarities, and so other columns,
    /// even where the data is the same.
    pub fn test(&self) -> PathBuf {
        self.root.join("test")
    }

    /// Path of the checkpoint of `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(format!("{CHECKPOINT_PREFIX}{step}"))
    }

    /// Removes the rows of the evaluations' CSV files that a run resumed from `state` will append again.
    pub(crate) fn forget_evaluations_after(&self, state: &TrainerState) -> Result<(), TrainError> {
        if !self.eval().exists() {
            return Ok(());
        }
        for entry in fs::read_dir(self.eval())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "csv") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let kept: String = text
                .split_inclusive('\n')
                .filter(|line| {
                    let step = line.split(',').nth(1).and_then(|step| step.parse().ok());
                    step.is_none_or(|step: u64| {
                        step < state.global_step
                            || (step == state.global_step && !state.is_evaluation_due)
                    })
                })
                .collect();
            if kept != text {
                write_file(&path, kept.as_bytes())?;
            }
        }
        Ok(())
    }

    /// The steps that have a checkpoint, in order.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>, TrainError> {
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            steps.extend(name.to_str().and_then(step_of_name));
        }
        steps.sort_unstable();
        Ok(steps)
    }
}

/// The step that a folder of this name is the checkpoint of.
pub(crate) fn step_of_name(name: &str) -> Option<u64> {
    name.strip_prefix(CHECKPOINT_PREFIX)?.parse().ok()
}

/// Undoes the unfinished writes of a process that was killed: files that are not whole are removed, and those that
/// were moved aside for a replacement that never came are moved back.
fn clear_away(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if name.starts_with(REPLACED_PREFIX) {
            for old in fs::read_dir(&path)? {
                let old = old?;
                let place = root.join(old.file_name());
                if !place.exists() {
                    fs::rename(old.path(), place)?;
                }
            }
            fs::remove_dir_all(&path)?;
        } else if name.starts_with(WRITING_PREFIX) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// Writes a folder whole or not at all: the files go into a temporary sibling, each is synced, then the folders
/// are, and it takes its name. A folder that has the name already is replaced.
///
/// # Errors
/// [`TrainError::Unsaved`], with the system's error and the remedy.
pub fn write_folder(folder: &Path, files: &ModelFiles) -> Result<(), TrainError> {
    try_write_folder(folder, files).map_err(|error| unsaved(folder, error))
}

fn try_write_folder(folder: &Path, files: &ModelFiles) -> io::Result<()> {
    let parent = parent_of(folder);
    failpoint::at("make", &folder.join(WRITING_PREFIX))?;
    let temporary = tempfile::Builder::new()
        .prefix(WRITING_PREFIX)
        .tempdir_in(parent)?;
    for inner in files.folders() {
        failpoint::at("make", inner)?;
        fs::create_dir_all(temporary.path().join(inner))?;
    }
    for (path, bytes) in files.files() {
        write_synced(&temporary.path().join(path), bytes)?;
    }
    sync_folders(temporary.path())?;
    // A temporary folder is its owner's alone; a saved model is as open as any new folder.
    let open = fs::metadata(parent)?.permissions();
    fs::set_permissions(temporary.path(), open)?;
    let mut replaced = None;
    if folder.exists() {
        let old = tempfile::Builder::new()
            .prefix(REPLACED_PREFIX)
            .tempdir_in(parent)?;
        failpoint::at("replace", folder)?;
        fs::rename(
            folder,
            old.path().join(folder.file_name().unwrap_or_default()),
        )?;
        replaced = Some(old);
    }
    let renamed =
        failpoint::at("rename", folder).and_then(|()| fs::rename(temporary.path(), folder));
    match (renamed, replaced) {
        (Err(error), old) => {
            if let Some(old) = old {
                fs::rename(
                    old.path().join(folder.file_name().unwrap_or_default()),
                    folder,
                )?;
            }
            return Err(error);
        }
        (Ok(()), old) => {
            // The name is another's now: there is nothing left to remove under it.
            let _ = temporary.keep();
            sync_folder(parent)?;
            if let Some(old) = old {
                failpoint::at("remove", old.path())?;
                old.close()?;
            }
        }
    }
    Ok(())
}

/// Writes a file whole or not at all, as [`write_folder`] does folders.
///
/// # Errors
/// [`TrainError::Unsaved`], with the system's error and the remedy.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    try_write_file(path, bytes).map_err(|error| unsaved(path, error))
}

fn try_write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{WRITING_PREFIX}{}-{name}", std::process::id()));
    let written = write_synced(&temporary, bytes)
        .and_then(|()| failpoint::at("rename", path))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The cause of the failure may keep this from working too; the next start clears it away.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(parent_of(path))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    failpoint::at("open", path)?;
    let mut file = fs::File::create(path)?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all(first)?;
    failpoint::at("write", path)?;
    file.write_all(second)?;
    failpoint::at("sync", path)?;
    file.sync_all()
}

/// Syncs a folder and those within it: their files have been.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    failpoint::at("sync", folder)?;
    fs::File::open(folder)?.sync_all()
}

/// A name alone has an empty parent, which stands for the current folder but is no path.
fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Removes a folder of the run: first its name goes, so that no half of it is ever found under that name.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    failpoint::at("remove", folder)?;
    let doomed = tempfile::Builder::new()
        .prefix(WRITING_PREFIX)
        .tempdir_in(parent_of(folder))?;
    fs::rename(folder, doomed.path().join("folder"))?;
    failpoint::at("remove", doomed.path())?;
    doomed.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> ModelFiles {
        let mut files = ModelFiles::default();
        files.add("file", text.as_bytes().to_vec());
        files
    }

    #[test]
    fn a_folder_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("final");
        for text in ["first", "second"] {
            write_folder(&folder, &files(text)).unwrap();
            assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), text);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
        let missing = root.path().join("no/such/final");
        let error = write_folder(&missing, &files("third")).unwrap_err();
        assert!(error.to_string().contains("no/such/final"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(CONFIG);
        for text in ["first", "second"] {
            write_file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn unfinished_writes_are_cleared_away_or_undone() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            ".writing-a/half",
            ".replaced-b/checkpoint-5",
            ".replaced-c/final",
            "final",
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        fs::write(root.path().join(".writing-1-config.toml"), "se").unwrap();
        let folder = RunFolder::create(root.path()).unwrap();
        assert_eq!(folder.checkpoints().unwrap(), [5]);
        drop(folder);
        let mut names: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["checkpoint-5", "final"]);
    }

    #[test]
    fn checkpoints_are_ordered_by_number() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(root.path()).unwrap();
        for step in [1000, 500, 20] {
            fs::create_dir(folder.checkpoint(step)).unwrap();
        }
        fs::create_dir(root.path().join("checkpoint-best")).unwrap();
        assert_eq!(folder.checkpoints().unwrap(), [20, 500, 1000]);
    }
}
