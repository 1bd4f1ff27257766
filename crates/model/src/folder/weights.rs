//! Reading and writing safetensors files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use tch::Tensor;

use crate::{
    encoder::family::{ADAPTER_ROOT, KeyRules},
    error::ModelError,
    folder::json::{inner_path, read_object},
    parameters::{Parameters, Span},
};

/// The files of a module's weights.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The file or the index, for messages about the whole.
    path: PathBuf,
    files: Vec<PathBuf>,
    /// For shards: the file that the index promises each tensor in.
    weight_map: BTreeMap<String, PathBuf>,
}

/// A tensor that nothing computes with, and that a saved folder gets back.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Checkpoint {
    /// Finds model.safetensors, or the shards of model.safetensors.index.json, in a folder.
    pub(crate) fn find(folder: &Path) -> Result<Self, ModelError> {
        let file = folder.join("model.safetensors");
        if file.is_file() {
            return Ok(Self {
                path: file.clone(),
                files: vec![file],
                weight_map: BTreeMap::new(),
            });
        }
        let index = folder.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::from_index(folder, index);
        }
        if let Some(pickle) = find_pickle(folder) {
            return Err(ModelError::MissingFile {
                folder: folder.to_owned(),
                file: "model.safetensors".to_owned(),
                hint: format!("{pickle} {PICKLE}"),
            });
        }
        Err(ModelError::MissingFile {
            folder: folder.to_owned(),
            file: "model.safetensors or model.safetensors.index.json".to_owned(),
            hint: "fetch the model again, with its weights".to_owned(),
        })
    }

    /// The one file of this path.
    pub(crate) fn single(path: &Path) -> Result<Self, ModelError> {
        if path.is_file() {
            return Ok(Self {
                path: path.to_owned(),
                files: vec![path.to_owned()],
                weight_map: BTreeMap::new(),
            });
        }
        let (folder, name) = (path.parent(), path.file_name());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Err(ModelError::MissingFile {
            hint: match find_pickle(&folder) {
                Some(pickle) => format!("{pickle} {PICKLE}"),
                None => "fetch the adapter again, with its weights".to_owned(),
            },
            file: name.unwrap_or_default().display().to_string(),
            folder,
        })
    }

    fn from_index(folder: &Path, path: PathBuf) -> Result<Self, ModelError> {
        let index = read_object(&path)?;
        let Some(map) = index
            .get("weight_map")
            .and_then(Value::as_object)
            .filter(|map| !map.is_empty())
        else {
            let found = index
                .get("weight_map")
                .map_or("nothing".to_owned(), Value::to_string);
            let (key, allowed) = (
                "weight_map".to_owned(),
                "an object from tensor names to files".to_owned(),
            );
            return Err(ModelError::Value {
                path,
                key,
                value: found,
                allowed,
            });
        };
        let mut weight_map = BTreeMap::new();
        for (name, file) in map {
            let Some(file) = file.as_str() else {
                let (key, allowed) = (
                    format!("weight_map.{name}"),
                    "the name of a file".to_owned(),
                );
                return Err(ModelError::Value {
                    path,
                    key,
                    value: file.to_string(),
                    allowed,
                });
            };
            weight_map.insert(name.clone(), folder.join(inner_path(&path, file)?));
        }
        let files: BTreeSet<_> = weight_map.values().cloned().collect();
        if let Some(missing) = files.iter().find(|file| !file.is_file()) {
            return Err(ModelError::ShardIndex {
                message: format!("the shard {} is not there: fetch it", missing.display()),
                path,
            });
        }
        Ok(Self {
            path,
            files: files.into_iter().collect(),
            weight_map,
        })
    }

    /// The length of all its files together, in bytes.
    pub(crate) fn n_bytes(&self) -> Result<u64, ModelError> {
        let lengths = self.files.iter().map(fs_err::metadata);
        let lengths = lengths.map(|metadata| Ok(metadata?.len()));
        lengths.sum()
    }

    /// The names of all tensors, as the files have them.
    pub(crate) fn names(&self) -> Result<Vec<String>, ModelError> {
        let mut names = Vec::new();
        for file in &self.files {
            let bytes = fs_err::read(file)?;
            let tensors = deserialize(file, &bytes)?;
            names.extend(tensors.iter().map(|(name, _)| name.to_owned()));
        }
        Ok(names)
    }

    /// Fills the parameters under `root` from the checkpoint's tensors, which are named without it. Returns the tensors
    /// that are kept for saving.
    pub(crate) fn load(
        &self,
        parameters: &Parameters,
        root: &str,
        keys: &KeyRules,
    ) -> Result<Vec<Kept>, ModelError> {
        let mut kept = Vec::new();
        let spans: HashMap<&str, &Span> = parameters.spans_of(root).collect();
        let mut seen: HashMap<String, &Path> = HashMap::new();
        let mut ignored = Vec::new();
        let mut unexpected = Vec::new();
        for file in &self.files {
            let bytes = fs_err::read(file)?;
            let tensors = deserialize(file, &bytes)?;
            if let Some(name) = duplicate_name(&bytes) {
                return Err(ModelError::DuplicateTensor {
                    path: file.clone(),
                    name,
                    first: file.clone(),
                });
            }
            self.check_promises(file, &tensors)?;
            for (full_name, tensor) in tensors.iter() {
                let name = keys.present_name(full_name);
                if let Some(first) = seen.insert(name.clone(), file) {
                    let (path, first) = (file.clone(), first.to_owned());
                    return Err(ModelError::DuplicateTensor { path, name, first });
                }
                match spans.get(name.as_str()) {
                    Some(span) => fill(parameters, span, &name, &tensor, file)?,
                    None if keys.is_buffer(&name) => (),
                    None if keys.is_kept(&name) => {
                        let shape = tensor.shape().to_vec();
                        // Values that cannot be read do no harm, and are left out.
                        match values_of(&tensor, &name, file) {
                            Ok(values) => kept.push(Kept {
                                name,
                                shape,
                                values,
                            }),
                            Err(_) => ignored.push(full_name.to_owned()),
                        }
                    }
                    None if keys.is_head(&name) => {
                        ignored.push(full_name.to_owned());
                    }
                    None => unexpected.push(format!("`{full_name}` {:?}", tensor.shape())),
                }
            }
        }
        let mut missing: Vec<_> = spans
            .iter()
            .filter(|(name, _)| !seen.contains_key(**name))
            .map(|(name, span)| format!("`{name}` {:?}", span.shape))
            .collect();
        if !missing.is_empty() {
            missing.sort();
            return Err(ModelError::MissingTensors {
                path: self.path.clone(),
                names: missing,
            });
        }
        if !unexpected.is_empty() {
            unexpected.sort();
            return Err(ModelError::UnexpectedTensors {
                path: self.path.clone(),
                names: unexpected,
            });
        }
        if !ignored.is_empty() {
            ignored.sort();
            let names = ignored.join(", ");
            tracing::info!(
                "{}: not part of the encoder, ignored: {names}",
                self.path.display()
            );
        }
        Ok(kept)
    }

    fn check_promises(&self, file: &Path, tensors: &SafeTensors<'_>) -> Result<(), ModelError> {
        let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| name).collect();
        for (name, _) in self
            .weight_map
            .iter()
            .filter(|(_, promised)| *promised == file)
        {
            if !names.contains(name.as_str()) {
                return Err(ModelError::ShardIndex {
                    path: self.path.clone(),
                    message: format!("tensor `{name}` is not in the shard {}", file.display()),
                });
            }
        }
        Ok(())
    }
}

/// The tensors of a file's bytes.
fn deserialize<'b>(file: &Path, bytes: &'b [u8]) -> Result<SafeTensors<'b>, ModelError> {
    SafeTensors::deserialize(bytes).map_err(|cause| match foreign(bytes) {
        Some((found, advice)) => ModelError::NotWeights {
            path: file.to_owned(),
            found,
            advice,
        },
        None => ModelError::Safetensors {
            path: file.to_owned(),
            cause,
        },
    })
}

/// Advice about a pickle, to follow on its name.
const PICKLE: &str = "is a pickle, which can run code when read, and is not opened; take model.safetensors, or convert it with \
     Python: from transformers import AutoModel; \
     AutoModel.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)";

/// The file of a folder that holds weights as a pickle, whatever its name, or that is an index of such.
fn find_pickle(folder: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name == "pytorch_model.bin"
                || name == "pytorch_model.bin.index.json"
                || is_pickle_file(&entry.path())
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().next()
}

/// Whether a file starts as torch.save and pickle.dump have it.
fn is_pickle_file(path: &Path) -> bool {
    use std::io::Read;
    let mut start = Vec::new();
    path.is_file()
        && std::fs::File::open(path)
            .and_then(|file| file.take(1024).read_to_end(&mut start))
            .is_ok()
        && foreign(&start).is_some_and(|(_, advice)| advice.contains("pickle"))
}

/// The error for a file where a model's folder is wanted.
pub(crate) fn refuse_file(path: &Path) -> ModelError {
    if is_pickle_file(path) {
        return ModelError::NotWeights {
            path: path.to_owned(),
            found: "not a folder",
            advice: format!("the file {PICKLE}"),
        };
    }
    ModelError::MissingFile {
        folder: path.to_owned(),
        file: "such folder, it is a file".to_owned(),
        hint: "give the folder of a model, the one with config.json and model.safetensors"
            .to_owned(),
    }
}

/// The kind of a file that is no safetensors file, by its first bytes, and advice about it.
fn foreign(bytes: &[u8]) -> Option<(&'static str, String)> {
    let pickle = || format!("this {PICKLE}");
    let again = |what: &str| format!("{what} and fetch model.safetensors again");
    match bytes {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(("a zip archive, as torch.save writes", pickle())),
        [0x80, 0..=5, ..] => Some(("a Python pickle", pickle())),
        // Protocol 0 has no mark: it opens a tuple or names a class, and is text.
        [b'(', b'd' | b'l' | b't' | b'i', ..] | [b'c', b'_' | b'a'..=b'z', ..]
            if bytes.contains(&b'\n') =>
        {
            Some(("a Python pickle", pickle()))
        }
        _ if bytes.get(257..262) == Some(b"ustar") => Some((
            "a tar archive, as old versions of torch.save write",
            pickle(),
        )),
        [0x89, b'H', b'D', b'F', ..] => Some((
            "an HDF5 file (Keras)",
            again("take the repository's PyTorch side"),
        )),
        [0x1f, 0x8b, ..] => Some(("a gzip file", again("unpack it, or delete it"))),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            Some(("a Git LFS pointer", "run git lfs pull".to_owned()))
        }
        _ if bytes.trim_ascii_start().starts_with(b"<") => Some(("a web page", again("delete it"))),
        _ => None,
    }
}

/// The parameters under `root` as the bytes of a safetensors file, F32, named without it.
pub(crate) fn to_safetensors(parameters: &Parameters, root: &str) -> Result<Vec<u8>, ModelError> {
    let names = parameters.spans_of(root).map(|(name, _)| name.to_owned());
    write(parameters, root, names.collect(), &[], &[])
}

/// As [`to_safetensors`] of the encoder, with other values from an offset on for each pair of `others`, and with the
/// tensors that are kept.
pub(crate) fn encoder_to_safetensors(
    parameters: &Parameters,
    others: &[(i64, Vec<f32>)],
    kept: &[Kept],
) -> Result<Vec<u8>, ModelError> {
    let names = parameters.spans_of("").map(|(name, _)| name.to_owned());
    write(parameters, "", names.collect(), others, kept)
}

/// The parameters of an adapter as the bytes of a safetensors file, named with their root.
pub(crate) fn adapter_to_safetensors(parameters: &Parameters) -> Result<Vec<u8>, ModelError> {
    let spans = parameters.spans_of(ADAPTER_ROOT);
    let names = spans.map(|(_, span)| span.name.clone());
    write(parameters, ADAPTER_ROOT, names.collect(), &[], &[])
}

fn write(
    parameters: &Parameters,
    root: &str,
    names: Vec<String>,
    others: &[(i64, Vec<f32>)],
    kept: &[Kept],
) -> Result<Vec<u8>, ModelError> {
    let ends = parameters.spans_of(root);
    let ends = ends.map(|(_, span)| (span.offset, span.offset + span.numel()));
    let (begin, end) = ends.fold((i64::MAX, 0), |(begin, end), (from, to)| {
        (begin.min(from), end.max(to))
    });
    let begin = begin.min(end);
    // Of an adapter a small part, which may have to come from a device.
    let flat = parameters
        .flat()
        .f_narrow(0, begin, end - begin)?
        .f_detach()?
        .f_to_device(tch::Device::Cpu)?
        .f_contiguous()?;
    // Native order is the format's little endian on every machine that libtorch runs on.
    let bytes: &[u8] = bytemuck::cast_slice(shim::slice(&flat)?);
    let in_memory = |cause| ModelError::Safetensors {
        path: PathBuf::from("model.safetensors"),
        cause,
    };
    let kept = kept.iter().map(|kept| {
        let data = bytemuck::cast_slice(&kept.values);
        let view = TensorView::new(Dtype::F32, kept.shape.clone(), data)?;
        Ok((&kept.name, view))
    });
    let views = parameters
        .spans_of(root)
        .zip(&names)
        .map(|((_, span), name)| {
            let other = others.iter().find_map(|(offset, values)| {
                let from = usize::try_from(span.offset - offset).ok()?;
                values.get(from..from + span.numel() as usize)
            });
            let start = (span.offset - begin) as usize * size_of::<f32>();
            let end = start + span.numel() as usize * size_of::<f32>();
            let data = other.map_or(&bytes[start..end], bytemuck::cast_slice);
            let shape = span.shape.iter().map(|&n| n as usize).collect();
            Ok((name, TensorView::new(Dtype::F32, shape, data)?))
        })
        .chain(kept)
        .collect::<Result<Vec<_>, _>>()
        .map_err(in_memory)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(in_memory)
}

fn fill(
    parameters: &Parameters,
    span: &Span,
    name: &str,
    tensor: &TensorView<'_>,
    file: &Path,
) -> Result<(), ModelError> {
    let found: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
    if found != span.shape {
        let (path, name, expected) = (file.to_owned(), name.to_owned(), span.shape.clone());
        return Err(ModelError::Shape {
            path,
            name,
            found,
            expected,
        });
    }
    let values = values_of(tensor, name, file)?;
    let _guard = tch::no_grad_guard();
    let mut target = parameters.flat().f_narrow(0, span.offset, span.numel())?;
    target.f_copy_(&Tensor::f_from_slice(&values)?)?;
    Ok(())
}

/// The values of a tensor, all of them finite.
fn values_of(tensor: &TensorView<'_>, name: &str, file: &Path) -> Result<Vec<f32>, ModelError> {
    let data = tensor.data();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => data
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        other => {
            let (path, name, found) = (file.to_owned(), name.to_owned(), format!("{other:?}"));
            return Err(ModelError::Dtype { path, name, found });
        }
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let (path, name) = (file.to_owned(), name.to_owned());
        return Err(ModelError::NotFinite {
            path,
            name,
            value: values[index],
            index,
        });
    }
    Ok(values)
}

/// The first name that a file's header holds twice; the safetensors crate keeps the last silently.
fn duplicate_name(bytes: &[u8]) -> Option<String> {
    struct FirstDuplicate;

    impl<'de> Visitor<'de> for FirstDuplicate {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut names, mut duplicate) = (BTreeSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !names.insert(name.clone()) && duplicate.is_none() {
                    duplicate = Some(name);
                }
            }
            Ok(duplicate)
        }
    }

    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..)?.get(..usize::try_from(length).ok()?)?;
    serde_json::Deserializer::from_slice(header)
        .deserialize_map(FirstDuplicate)
        .ok()?
}
