//! What lies where in the folder of a run.
//!
//! ```text
//! <output-dir>/
//!   config.toml            the resolved configuration, which re-runs the run
//!   metrics.jsonl          every log entry, one JSON object a line
//!   runs/                  TensorBoard events
//!   eval/                  the CSV files of evaluations during training
//!   test/                  those of the evaluations before and after
//!   checkpoint-<step>/     a model, the optimizer's moments and trainer_state.json
//!   final/                 the trained model
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::TrainError;

/// Name of the folder with the trained model.
pub const FINAL: &str = "final";
/// Name of the log of all entries.
pub const METRICS: &str = "metrics.jsonl";
/// Name of the resolved configuration.
pub const CONFIG: &str = "config.toml";

const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Makes the folder where it is missing and checks that it can be written.
    ///
    /// # Errors
    /// When it can't, with the path.
    pub fn create(root: &Path) -> Result<Self, TrainError> {
        fs_err::create_dir_all(root)?;
        tempfile::tempfile_in(root).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("output folder {}: {error}", root.display()),
            )
        })?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the trained model goes.
    pub fn final_model(&self) -> PathBuf {
        self.root.join(FINAL)
    }

    /// Where TensorBoard looks.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Where evaluations during training append to their CSV files.
    pub fn eval(&self) -> PathBuf {
        self.root.join("eval")
    }

    /// Where the evaluations before and after do: they have more similarities, and so other columns, even where
    /// the data is the same.
    pub fn test(&self) -> PathBuf {
        self.root.join("test")
    }

    /// Where the checkpoint of `step` lies.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(format!("{CHECKPOINT_PREFIX}{step}"))
    }

    /// The steps that have a checkpoint, in order.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>, TrainError> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(&self.root)? {
            let name = entry?.file_name();
            let step = name
                .to_str()
                .and_then(|name| name.strip_prefix(CHECKPOINT_PREFIX));
            steps.extend(step.and_then(|step| step.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }
}

/// Writes a folder whole or not at all: `fill` writes into a temporary sibling, whose files are then
/// synced before it takes its name. A folder that has the name already is replaced.
///
/// # Errors
/// What `fill` returns, and when the files can't be written.
pub fn write_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    // A name alone has an empty parent, which stands for the current folder but is no path.
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".writing-")
        .tempdir_in(parent)?;
    fill(temporary.path())?;
    sync_all(temporary.path())?;
    // A temporary folder is its owner's alone; a saved model is as open as any new folder.
    let open = fs_err::metadata(parent)?.permissions();
    fs_err::set_permissions(temporary.path(), open)?;
    if folder.exists() {
        let old = tempfile::Builder::new()
            .prefix(".replaced-")
            .tempdir_in(parent)?;
        fs_err::rename(folder, old.path().join("folder"))?;
    }
    fs_err::rename(temporary.keep(), folder)?;
    fs_err::File::open(parent)?.sync_all()?;
    Ok(())
}

fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            fs_err::File::open(&path)?.sync_all()?;
        }
    }
    fs_err::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_written_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("final");
        let failed = write_folder(&folder, |inside| {
            fs_err::write(inside.join("half"), "written")?;
            Err(TrainError::Arguments("stopped".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);

        for text in ["first", "second"] {
            write_folder(&folder, |inside| {
                Ok(fs_err::write(inside.join("file"), text)?)
            })
            .unwrap();
            assert_eq!(fs_err::read_to_string(folder.join("file")).unwrap(), text);
            assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn checkpoints_are_ordered_by_number() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(root.path()).unwrap();
        for step in [1000, 500, 20] {
            fs_err::create_dir(folder.checkpoint(step)).unwrap();
        }
        fs_err::create_dir(root.path().join("checkpoint-best")).unwrap();
        assert_eq!(folder.checkpoints().unwrap(), [20, 500, 1000]);
    }
}
