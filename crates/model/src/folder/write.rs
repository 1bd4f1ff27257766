//! Writing a model's folder.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    encoder::family::Family, error::ModelError, folder::settings::Settings, tokenizer::Tokenizer,
};

/// All files of a model's folder, in memory: those of [`SentenceTransformer::save`] at this moment, to be written
/// later or elsewhere.
///
/// [`SentenceTransformer::save`]: crate::SentenceTransformer::save
#[derive(Debug, Clone, Default)]
pub struct ModelFiles {
    pub(crate) folders: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl ModelFiles {
    /// The folders within the folder, in the order in which they can be made.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// The files by their paths within the folder, in the order to write them in: a folder that lacks the
    /// last was not finished.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.files
            .iter()
            .map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
    }

    /// Adds a file, to be written after those that are there.
    pub fn add(&mut self, path: impl Into<PathBuf>, bytes: Vec<u8>) {
        self.files.push((path.into(), bytes));
    }

    pub(crate) fn add_json(&mut self, path: impl Into<PathBuf>, json: &Value) {
        self.add(path, format!("{json:#}\n").into_bytes());
    }

    /// Writes the files, each whole before it takes its name.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), ModelError> {
        fs_err::create_dir_all(folder)?;
        for inner in &self.folders {
            fs_err::create_dir_all(folder.join(inner))?;
        }
        for (path, bytes) in &self.files {
            write(&folder.join(path), bytes)?;
        }
        Ok(())
    }
}

impl Settings {
    /// Adds the files of the encoder and the tokenizer, but for the weights.
    pub(crate) fn add_transformer(
        &self,
        files: &mut ModelFiles,
        tokenizer: &Tokenizer,
        family: &Family,
    ) -> Result<(), ModelError> {
        self.add_config(files, family);
        self.add_tokenizer(files, tokenizer, family)
    }

    /// Adds config.json.
    fn add_config(&self, files: &mut ModelFiles, family: &Family) {
        let mut config = self.config.clone();
        config.insert(
            "architectures".to_owned(),
            serde_json::json!([family.architecture]),
        );
        config.insert("dtype".to_owned(), serde_json::json!("float32"));
        // The key's name before transformers 4.56.
        if let Some(dtype) = config.get_mut("torch_dtype") {
            *dtype = serde_json::json!("float32");
        }
        files.add_json("config.json", &Value::Object(config));
    }

    /// Adds the files of the tokenizer, and the settings of the module that it belongs to.
    pub(crate) fn add_tokenizer(
        &self,
        files: &mut ModelFiles,
        tokenizer: &Tokenizer,
        family: &Family,
    ) -> Result<(), ModelError> {
        for (name, bytes) in &self.tokenizer_files {
            files.add(name, bytes.clone());
        }
        if !self.tokenizer_files.contains_key("tokenizer.json") {
            files.add("tokenizer.json", tokenizer.to_json()?.into_bytes());
        }
        if !self.tokenizer_files.contains_key("tokenizer_config.json") {
            let json = family.word_pieces.to_json(self.max_seq_length);
            files.add_json("tokenizer_config.json", &json);
        }
        let json = serde_json::json!({"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case});
        files.add_json("sentence_bert_config.json", &json);
        Ok(())
    }

    /// Adds config_sentence_transformers.json.
    pub(crate) fn add_sentence_transformers_config(&self, files: &mut ModelFiles) {
        let mut json = serde_json::json!({
            // The versions whose layout this is; newer ones than the reader's make it warn.
            "__version__": {"sentence_transformers": "3.0.1", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
        });
        if let Some(dim) = self.truncate_dim {
            json["truncate_dim"] = serde_json::json!(dim);
        }
        files.add_json("config_sentence_transformers.json", &json);
    }
}

/// Writes a file under a temporary name beside its place, then renames it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        // The mode of any new file: the process's umask is taken off.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(named)?;
    file.write_all(bytes).map_err(named)?;
    file.as_file().sync_all().map_err(named)?;
    file.persist(path).map_err(|error| named(error.error))?;
    Ok(())
}
