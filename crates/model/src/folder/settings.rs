//! Settings of a model's folder: its own, its tokenizer's and sentence-transformers'.

use std::{collections::BTreeMap, path::Path};

use search::Similarity;
use serde_json::{Map, Value};

use crate::{
    encoder::{Recipe, family::NORMALIZED_BY_SETTINGS, spec::Spec},
    error::ModelError,
    folder::json::{self, parse_object, read_object, value_error},
    tokenizer::Tokenizer,
};

/// The tokenizer's files, which a saved folder gets byte for byte.
const TOKENIZER_FILES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
];

/// Names that sentence-transformers has had for the Transformer module's settings.
const TRANSFORMER_SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The shortest `max_seq_length`: two special tokens and one of the text.
pub(crate) const MIN_SEQ_LENGTH: usize = 3;

/// Settings that are kept from the folder, and saved again.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// config.json, unknown keys included.
    pub(crate) config: Map<String, Value>,
    pub(crate) max_seq_length: usize,
    pub(crate) do_lower_case: bool,
    pub(crate) prompts: BTreeMap<String, String>,
    pub(crate) default_prompt_name: Option<String>,
    pub(crate) similarity_fn_name: Similarity,
    pub(crate) truncate_dim: Option<usize>,
    pub(crate) tokenizer_files: BTreeMap<&'static str, Vec<u8>>,
}

impl Settings {
    /// Settings of a folder that has only a config.json and a tokenizer.
    pub(crate) fn new(
        config_json: Map<String, Value>,
        spec: &Spec,
        tokenizer: &Path,
    ) -> Result<Self, ModelError> {
        let mut tokenizer_files = BTreeMap::new();
        for name in TOKENIZER_FILES {
            let path = tokenizer.join(name);
            if path.is_file() {
                tokenizer_files.insert(name, json::read(&path)?);
            }
        }
        let mut settings = Self {
            config: config_json,
            max_seq_length: spec.max_length,
            do_lower_case: false,
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            similarity_fn_name: Similarity::default(),
            truncate_dim: None,
            tokenizer_files,
        };
        let path = tokenizer.join("tokenizer_config.json");
        let tokenizer_config = settings.tokenizer_config(&path)?;
        if let Some(value) = tokenizer_config
            .get("model_max_length")
            .filter(|value| !value.is_null())
        {
            // "No limit" is written as 1e30 there.
            let limit = value
                .as_f64()
                .filter(|limit| *limit >= MIN_SEQ_LENGTH as f64)
                .ok_or_else(|| value_error(&path, "model_max_length", value, "3 or more"))?;
            settings.max_seq_length = settings.max_seq_length.min(limit as usize);
        }
        Ok(settings)
    }

    /// Builds the tokenizer; `folder` is for the messages.
    pub(crate) fn tokenizer(
        &self,
        folder: &Path,
        recipe: &Recipe,
    ) -> Result<Tokenizer, ModelError> {
        let path = folder.join("tokenizer_config.json");
        let tokenizer_config = self.tokenizer_config(&path)?;
        let mut tokenizer = if let Some(bytes) = self.tokenizer_files.get("tokenizer.json") {
            let path = folder.join("tokenizer.json");
            let mut tokenizer = Tokenizer::from_tokenizer_json(&path, bytes)?;
            let class = tokenizer_config.get("tokenizer_class");
            let class = class.and_then(Value::as_str);
            let class = class.unwrap_or(recipe.family.word_pieces.class);
            if NORMALIZED_BY_SETTINGS.contains(&class.trim_end_matches("Fast")) {
                tokenizer.normalize_by_settings(&tokenizer_config)?;
            }
            tokenizer
        } else if let Some(bytes) = self.tokenizer_files.get("vocab.txt") {
            let path = folder.join("added_tokens.json");
            let added = match self.tokenizer_files.get("added_tokens.json") {
                Some(bytes) => Some(parse_object(&path, bytes)?),
                None => None,
            };
            Tokenizer::from_vocab(
                &folder.join("vocab.txt"),
                bytes,
                &tokenizer_config,
                &recipe.family.word_pieces,
                added.as_ref().map(|added| (path.as_path(), added)),
            )?
        } else {
            return Err(ModelError::MissingFile {
                folder: folder.to_owned(),
                file: "tokenizer.json or vocab.txt".to_owned(),
                hint: "fetch the model again, with its tokenizer".to_owned(),
            });
        };
        tokenizer.set_vocab_size(recipe.spec.vocab_size)?;
        if self.do_lower_case {
            tokenizer.lower_case()?;
        }
        tokenizer.set_max_length(self.max_seq_length)?;
        Ok(tokenizer)
    }

    fn tokenizer_config(&self, path: &Path) -> Result<Map<String, Value>, ModelError> {
        match self.tokenizer_files.get("tokenizer_config.json") {
            Some(bytes) => parse_object(path, bytes),
            None => Ok(Map::new()),
        }
    }

    pub(super) fn read_transformer_settings(
        &mut self,
        folder: &Path,
        spec: &Spec,
    ) -> Result<(), ModelError> {
        let candidates = TRANSFORMER_SETTINGS.map(|name| folder.join(name));
        let Some(path) = candidates.into_iter().find(|path| path.is_file()) else {
            return Ok(());
        };
        let json = read_object(&path)?;
        if let Some(value) = json.get("max_seq_length").filter(|value| !value.is_null()) {
            let length = value
                .as_u64()
                .filter(|length| *length >= MIN_SEQ_LENGTH as u64)
                .ok_or_else(|| {
                    value_error(
                        &path,
                        "max_seq_length",
                        value,
                        "an integer, 3 or more, or null",
                    )
                })?;
            let limit = spec.max_length;
            self.max_seq_length = usize::try_from(length).unwrap_or(usize::MAX).min(limit);
            if length > limit as u64 {
                tracing::warn!(
                    "{}: max_seq_length {length} is more than the model's {limit}: cut",
                    path.display()
                );
            }
        }
        if let Some(value) = json.get("do_lower_case").filter(|value| !value.is_null()) {
            self.do_lower_case = value
                .as_bool()
                .ok_or_else(|| value_error(&path, "do_lower_case", value, "true or false"))?;
        }
        Ok(())
    }

    pub(super) fn read_sentence_transformers_config(
        &mut self,
        folder: &Path,
    ) -> Result<(), ModelError> {
        let path = folder.join("config_sentence_transformers.json");
        if !path.is_file() {
            return Ok(());
        }
        let json = read_object(&path)?;
        let given = |key: &str| json.get(key).filter(|value| !value.is_null());
        if let Some(value) = given("model_type").filter(|value| *value != "SentenceTransformer") {
            return Err(value_error(
                &path,
                "model_type",
                value,
                "\"SentenceTransformer\"",
            ));
        }
        if let Some(value) = given("prompts") {
            let allowed = "an object from names to texts";
            let prompts = value
                .as_object()
                .ok_or_else(|| value_error(&path, "prompts", value, allowed))?;
            for (name, prompt) in prompts {
                let prompt = prompt
                    .as_str()
                    .ok_or_else(|| value_error(&path, "prompts", value, allowed))?;
                self.prompts.insert(name.clone(), prompt.to_owned());
            }
        }
        if let Some(value) = given("default_prompt_name") {
            let name = value
                .as_str()
                .filter(|name| self.prompts.contains_key(*name))
                .ok_or_else(|| {
                    let names: Vec<_> = self.prompts.keys().map(String::as_str).collect();
                    value_error(
                        &path,
                        "default_prompt_name",
                        value,
                        &format!("null, or one of {names:?}"),
                    )
                })?;
            self.default_prompt_name = Some(name.to_owned());
        }
        if let Some(value) = given("similarity_fn_name") {
            let name = value.as_str().and_then(|name| name.parse().ok());
            self.similarity_fn_name = name.ok_or_else(|| {
                let known = Similarity::ALL.map(Similarity::name).join(", ");
                value_error(&path, "similarity_fn_name", value, &known)
            })?;
        }
        if let Some(value) = given("truncate_dim") {
            let dim = value.as_u64().filter(|dim| *dim > 0).ok_or_else(|| {
                value_error(
                    &path,
                    "truncate_dim",
                    value,
                    "an integer, 1 or more, or null",
                )
            })?;
            self.truncate_dim = usize::try_from(dim).ok();
        }
        Ok(())
    }
}
