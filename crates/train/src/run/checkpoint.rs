//! Checkpoints: a model that opens by itself, the optimizer's moments, the state of the run, and a manifest with
//! the length and sha256 of every file.
//!
//! A checkpoint is made of bytes in memory, which takes as long as copying weights and moments; [`Saver`] writes
//! them on a thread of its own while training goes on. A run resumes from a [`Checkpoint`] alone, whose files agree
//! with the manifest.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use model::{ModelFiles, SentenceTransformer};
use safetensors::{Dtype, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::{
    error::{TrainError, chain},
    run::{
        fingerprint::sha256,
        folder::{RunFolder, remove_folder, step_of_name, write_folder},
        state::TrainerState,
    },
    trained::Trained,
};

/// Files with weights: a whole model's, or an adapter's.
const WEIGHTS: [&str; 2] = ["model.safetensors", "adapter_model.safetensors"];
const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
const MANIFEST: &str = "manifest.json";

/// The version of the layout that this program writes and reads.
const FORMAT_VERSION: u64 = 1;

/// `manifest.json`: the files of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format_version: u64,
    /// The updates that were made, which the folder is named for.
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// A checkpoint whose files agree with its manifest.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    state: TrainerState,
}

/// The newest checkpoint of a run that can be resumed from.
#[derive(Debug)]
pub struct Newest {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The fault of each newer one, newest first.
    pub skipped: Vec<TrainError>,
}

impl Checkpoint {
    /// Opens a checkpoint after reading it through: every file has to have the length and the sha256 that its
    /// manifest says.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`], with the first thing that is wrong.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let state = verify(path).map_err(|problem| TrainError::Checkpoint {
            path: path.to_owned(),
            problem,
        })?;
        Ok(Self {
            path: path.to_owned(),
            state,
        })
    }

    /// The newest checkpoint of a run that is whole; `None` when there is no checkpoint at all.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] when there are checkpoints and none is whole, with the fault of each.
    pub fn newest(folder: &RunFolder) -> Result<Option<Newest>, TrainError> {
        let mut skipped = Vec::new();
        for step in folder.checkpoints()?.into_iter().rev() {
            match Self::open(&folder.checkpoint(step)) {
                Ok(checkpoint) => {
                    return Ok(Some(Newest {
                        checkpoint,
                        skipped,
                    }));
                }
                Err(error) => skipped.push(error),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        let problems: Vec<String> = skipped.iter().map(ToString::to_string).collect();
        Err(TrainError::NoCheckpoint(format!(
            "{} holds no checkpoint that is whole, so there is nothing to go on from ({}): bring one back from a copy, or start over with --overwrite-output-dir",
            folder.root().display(),
            problems.join("; ")
        )))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of its run.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// The number of its updates. The steps that were left out for numbers that are not finite moved no moment.
    pub(crate) fn n_updates(&self) -> u64 {
        self.state.global_step - self.state.n_skipped_steps
    }

    /// Puts weights and moments in place. With `anyway`, weights of a loss that it doesn't hold stay as they are.
    pub(crate) fn load(&self, trained: &mut Trained<'_>, anyway: bool) -> Result<(), TrainError> {
        let path = self.path.join(MOMENTS);
        let moments = if path.exists() {
            Tensor::read_safetensors(path)?
        } else {
            Vec::new()
        };
        let n_updates = self.n_updates();
        trained.optimizer.restore(n_updates, |name| {
            moments
                .iter()
                .find(|(saved, _)| saved == name)
                .map(|(_, tensor)| tensor.shallow_clone())
        })?;
        self.load_model(trained.model)?;
        trained.loss_weights.resume(&self.path, n_updates, anyway)
    }

    /// Puts the weights in place, and no moments.
    pub(crate) fn load_weights(&self, trained: &mut Trained<'_>) -> Result<(), TrainError> {
        self.load_model(trained.model)?;
        trained.loss_weights.load(&self.path)
    }

    fn load_model(&self, model: &SentenceTransformer) -> Result<(), TrainError> {
        model.read_weights(&self.path).map_err(|error| {
            TrainError::Arguments(format!(
                "{} holds another model than the one being trained: {error}",
                self.path.display()
            ))
        })
    }
}

/// Reads a checkpoint through and returns the state in it, or its fault.
fn verify(folder: &Path) -> Result<TrainerState, String> {
    if !folder.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    let text = fs_err::read(folder.join(MANIFEST)).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            format!(
                "{MANIFEST} is missing, so it was not finished or is no checkpoint of sentune's"
            )
        } else {
            chain(&error)
        }
    })?;
    let version: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
    match version.get("format_version").and_then(|v| v.as_u64()) {
        Some(FORMAT_VERSION) => {}
        Some(other) => {
            return Err(format!(
                "{MANIFEST} has format version {other}, and this program reads {FORMAT_VERSION}: go on with the program that wrote it"
            ));
        }
        None => return Err(format!("{MANIFEST} has no format version")),
    }
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let lists = |name: &&str| manifest.files.contains_key(*name);
    if !WEIGHTS.iter().any(lists) {
        return Err(format!("{MANIFEST} does not list {}", WEIGHTS[0]));
    }
    if !lists(&STATE) {
        return Err(format!("{MANIFEST} does not list {STATE}"));
    }
    let mut state = Vec::new();
    for (name, entry) in &manifest.files {
        if !is_inside(Path::new(name)) {
            return Err(format!("{MANIFEST} lists `{name}`, which lies elsewhere"));
        }
        let keep = (name == STATE).then_some(&mut state);
        verify_file(&folder.join(name), entry, keep)
            .map_err(|problem| format!("{name} {problem}"))?;
    }
    if !manifest.files.contains_key(MOMENTS) && folder.join(MOMENTS).exists() {
        return Err(format!(
            "{MANIFEST} does not list {MOMENTS}, which is there"
        ));
    }
    let state: TrainerState = serde_json::from_slice(&state)
        .map_err(|error| format!("{STATE} is not a checkpoint's state: {error}"))?;
    if state.global_step != manifest.step {
        return Err(format!(
            "{MANIFEST} says step {} and {STATE} {}",
            manifest.step, state.global_step
        ));
    }
    let name = folder.file_name().and_then(|name| name.to_str());
    if name
        .and_then(step_of_name)
        .is_some_and(|step| step != manifest.step)
    {
        return Err(format!("it is that of step {}", manifest.step));
    }
    Ok(state)
}

/// Whether a path stays in the folder that it is relative to.
fn is_inside(path: &Path) -> bool {
    path.components()
        .all(|component| matches!(component, std::path::Component::Normal(_)))
}

fn verify_file(path: &Path, entry: &Entry, mut keep: Option<&mut Vec<u8>>) -> Result<(), String> {
    let mut file = fs_err::File::open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            "is missing".to_owned()
        } else {
            format!("can't be read: {}", chain(&error))
        }
    })?;
    let found = file.metadata().map_err(|error| chain(&error))?.len();
    if found != entry.bytes {
        return Err(format!("has {found} bytes instead of {}", entry.bytes));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buffer)
            .map_err(|error| format!("can't be read: {}", chain(&error)))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        if let Some(keep) = &mut keep {
            keep.extend_from_slice(&buffer[..n]);
        }
    }
    if hex::encode(hash.finalize()) != entry.sha256 {
        return Err("is damaged: its sha256 is not the manifest's".to_owned());
    }
    Ok(())
}

/// The files of a checkpoint as of now, all but the manifest.
pub(crate) fn files(trained: &Trained<'_>, state: &TrainerState) -> Result<ModelFiles, TrainError> {
    let mut files = trained.files()?;
    trained.loss_weights.add_moments_to(&mut files)?;
    let moments = trained
        .optimizer
        .moments()
        .iter()
        .map(|(name, tensor)| Ok((*name, tensor.f_to_device(Device::Cpu)?)))
        .collect::<Result<Vec<_>, TrainError>>()?;
    let views = moments
        .iter()
        .map(|(name, tensor)| {
            let values = shim::slice(tensor)?;
            let view =
                TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
            Ok((*name, view.map_err(io::Error::other)?))
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    if !views.is_empty() {
        let bytes = safetensors::serialize(views, None).map_err(io::Error::other)?;
        files.add(MOMENTS, bytes);
    }
    let mut text = serde_json::to_string_pretty(state).map_err(io::Error::from)?;
    text.push('\n');
    files.add(STATE, text.into_bytes());
    Ok(files)
}

/// A checkpoint to be written, and the rule for removing older ones afterwards.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) folder: RunFolder,
    pub(crate) step: u64,
    pub(crate) files: ModelFiles,
    /// Checkpoints to keep.
    pub(crate) limit: Option<usize>,
    pub(crate) best_step: Option<u64>,
}

impl Job {
    /// Writes the checkpoint whole or not at all; then removes those above the limit.
    fn run(self) -> Result<(), TrainError> {
        let Self {
            folder,
            step,
            mut files,
            limit,
            best_step,
        } = self;
        let entries = files.files().map(|(path, bytes)| {
            let entry = Entry {
                bytes: bytes.len() as u64,
                sha256: sha256(bytes),
            };
            (path.display().to_string(), entry)
        });
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            step,
            files: entries.collect(),
        };
        let mut text = serde_json::to_string_pretty(&manifest).map_err(io::Error::from)?;
        text.push('\n');
        files.add(MANIFEST, text.into_bytes());
        let path = folder.checkpoint(step);
        write_folder(&path, &files)?;
        if let Some(limit) = limit {
            remove_oldest(&folder, limit, step, best_step)?;
        }
        Ok(())
    }
}

/// Writes checkpoints on a thread of its own, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Saver {
    in_flight: Option<(PathBuf, JoinHandle<Result<(), TrainError>>)>,
}

impl Saver {
    /// Begins to write a checkpoint; the one before has to be waited for first.
    pub(crate) fn start(&mut self, job: Job) -> Result<(), TrainError> {
        let path = job.folder.checkpoint(job.step);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || job.run())?;
        self.in_flight = Some((path, thread));
        Ok(())
    }

    /// The checkpoint that is being written, if it has been by now.
    pub(crate) fn poll(&mut self) -> Result<Option<PathBuf>, TrainError> {
        match &self.in_flight {
            Some((_, thread)) if thread.is_finished() => self.wait(),
            _ => Ok(None),
        }
    }

    /// Waits for the checkpoint that is being written, if there is one.
    pub(crate) fn wait(&mut self) -> Result<Option<PathBuf>, TrainError> {
        let Some((path, thread)) = self.in_flight.take() else {
            return Ok(None);
        };
        match thread.join() {
            Ok(written) => written.map(|()| Some(path)),
            Err(_) => Err(io::Error::other(format!(
                "the thread that writes {} panicked",
                path.display()
            ))
            .into()),
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // An error is reported by `wait`; here the process must only not end in the middle of a write.
        if let Some((_, thread)) = self.in_flight.take() {
            let _ = thread.join();
        }
    }
}

/// Removes checkpoints until `limit` are left, but never that of `newest`, which was just written, nor that of
/// `best_step` (transformers' `rotate_checkpoints`). Those of later steps go first: a run that went on from an
/// older checkpoint has left them behind; then the oldest.
fn remove_oldest(
    folder: &RunFolder,
    limit: usize,
    newest: u64,
    best_step: Option<u64>,
) -> Result<(), TrainError> {
    let mut steps = folder.checkpoints()?;
    let mut n_excess = steps.len().saturating_sub(limit);
    if n_excess == 0 {
        return Ok(());
    }
    // Nothing is removed before the newest has been read back.
    Checkpoint::open(&folder.checkpoint(newest))?;
    steps.sort_unstable_by_key(|step| (*step <= newest, *step));
    for step in steps {
        if n_excess > 0 && step != newest && Some(step) != best_step {
            remove_folder(&folder.checkpoint(step))?;
            n_excess -= 1;
        }
    }
    Ok(())
}

/// Removes all checkpoints but the best step's, where that has one: with a limit of one, a run keeps two only as long as
/// it may have to go on from the newest (end of transformers' `_finalize_training`).
pub(crate) fn remove_all_but(folder: &RunFolder, best_step: Option<u64>) -> Result<(), TrainError> {
    let steps = folder.checkpoints()?;
    if let Some(best) = best_step.filter(|best| steps.contains(best)) {
        Checkpoint::open(&folder.checkpoint(best))?;
        for step in steps.into_iter().filter(|step| *step != best) {
            remove_folder(&folder.checkpoint(step))?;
        }
    }
    Ok(())
}
