//! From texts to embeddings.

use std::{collections::HashMap, ops::ControlFlow};

use tch::{Device, Kind, Tensor};

use crate::{
    batch::packed::PackedBatch, error::ModelError, modules::normalize,
    sentence_transformer::SentenceTransformer,
};

/// The side of a search that texts are on.
///
/// `encode_query` and `encode_document` of sentence-transformers 6.2.0, which differ from `encode` in the
/// prompt that is taken where none is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Queries: the prompt `query`.
    Query,
    /// Documents: the first of the prompts `document`, `passage` and `corpus` that the model has.
    Document,
}

impl Role {
    /// The names of the prompts that stand for the role, the first wins.
    pub fn prompt_names(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["query"],
            Self::Document => &["document", "passage", "corpus"],
        }
    }
}

/// Options of encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The largest number of sentences in a batch.
    pub batch_size: usize,
    /// The largest number of tokens in a batch; a longer sentence is a batch of its own.
    pub batch_tokens: usize,
    /// A text put before every text. It wins over `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; without it the role's prompt, without that the model's
    /// default prompt.
    pub prompt_name: Option<String>,
    /// The texts' side of a search, where the model has a prompt for each.
    pub role: Option<Role>,
    /// Whether to scale embeddings to length 1.
    pub normalize_embeddings: bool,
    /// Keep only so many leading dimensions, before normalizing; without it, the model's setting.
    pub truncate_dim: Option<usize>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            batch_size: 256,
            batch_tokens: 2048,
            prompt: None,
            prompt_name: None,
            role: None,
            normalize_embeddings: false,
            truncate_dim: None,
        }
    }
}

impl SentenceTransformer {
    /// Embeddings of texts, `[texts, dimension]`, `f32` on the CPU, in order.
    ///
    /// `on_progress` is called after every batch with the number of texts done so far, and as often while the
    /// texts are being made into ids.
    ///
    /// # Errors
    ///
    /// [`ModelError::Stopped`] when `on_progress` breaks; an unknown prompt name; the errors of
    /// [`Self::forward`].
    pub fn encode(
        &self,
        texts: &[&str],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let (ids, prompt_length) = self.prompted_ids(texts, self.prompt(options)?, on_progress)?;
        let sentences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        self.encode_packed(&sentences, prompt_length, options, on_progress)
    }

    /// Token ids of texts with a prompt before each, and the number of tokens at the start that are the prompt's.
    /// `on_progress` is told of no text done, so that it can break off.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails on a text, and [`ModelError::Stopped`] when `on_progress` breaks.
    fn prompted_ids(
        &self,
        texts: &[&str],
        prompt: &str,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(Vec<Vec<u32>>, usize), ModelError> {
        let prompt_length = self.tokenizer.prompt_length(prompt)?;
        Ok((self.tokenize(texts, prompt, on_progress)?, prompt_length))
    }

    /// The ids of texts with `prompt` before each. `on_progress` is told of no text done, so that it can break off.
    fn tokenize(
        &self,
        texts: &[&str],
        prompt: &str,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        /// Enough to keep all cores busy for a fraction of a second.
        const N_TEXTS: usize = 4096;
        let mut ids = Vec::with_capacity(texts.len());
        for texts in texts.chunks(N_TEXTS) {
            if prompt.is_empty() {
                ids.extend(self.tokenizer.encode_batch(texts)?);
            } else {
                let prompted: Vec<String> =
                    texts.iter().map(|text| format!("{prompt}{text}")).collect();
                let prompted: Vec<&str> = prompted.iter().map(String::as_str).collect();
                ids.extend(self.tokenizer.encode_batch(&prompted)?);
            }
            if on_progress(0).is_break() {
                return Err(ModelError::Stopped);
            }
        }
        Ok(ids)
    }

    /// Token embeddings of texts in order: for each the encoder's output, [tokens, hidden_size], of the
    /// prompt and special tokens too. They are not scaled and not truncated.
    ///
    /// `output_value="token_embeddings"` of upstream's `encode`.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_tokens(
        &self,
        texts: &[&str],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let (ids, prompt_length) = self.prompted_ids(texts, self.prompt(options)?, on_progress)?;
        let sentences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let width = self.network.encoder.hidden_size() as usize;
        let mut embeddings = vec![Vec::new(); sentences.len()];
        self.for_each_batch(
            &sentences,
            None,
            prompt_length,
            options,
            on_progress,
            |batch, rows| {
                let tokens = self.backend.begin(&self.network).tokens(batch)?;
                for (&row, &packed) in rows.iter().zip(batch.host_restore()) {
                    let places =
                        batch.offsets()[packed] * width..batch.offsets()[packed + 1] * width;
                    embeddings[row] = tokens[places].to_vec();
                }
                Ok(())
            },
        )?;
        Ok(embeddings)
    }

    /// Embeddings of texts that are token ids already, as [`Self::encode`]; prompts are not used.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`], and for a text without tokens.
    pub fn encode_ids(
        &self,
        sentences: &[&[u32]],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        self.encode_packed(sentences, 0, options, on_progress)
    }

    fn encode_packed(
        &self,
        sentences: &[&[u32]],
        prompt_length: usize,
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let dimension = match options.truncate_dim.or(self.settings.truncate_dim) {
            Some(0) => {
                return Err(ModelError::Input(
                    "truncate_dim: found 0, allowed: 1 or more".to_owned(),
                ));
            }
            Some(dim) => self.dimension().min(i64::try_from(dim).unwrap_or(i64::MAX)),
            None => self.dimension(),
        };
        let _guard = tch::no_grad_guard();
        // A text that is there again is computed once.
        let (mut different, mut n_copies, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashMap::with_capacity(sentences.len());
        for &sentence in sentences {
            let place = *seen.entry(sentence).or_insert(different.len());
            if place == different.len() {
                different.push(sentence);
                n_copies.push(0);
            }
            n_copies[place] += 1;
            places.push(place as i64);
        }
        drop(seen);
        let mut embeddings = Tensor::f_empty(
            [different.len() as i64, dimension],
            (Kind::Float, Device::Cpu),
        )?;
        self.for_each_batch(
            &different,
            Some(&n_copies),
            prompt_length,
            options,
            on_progress,
            |batch, rows| {
                let mut pooled = self.embed(batch)?.f_narrow(1, 0, dimension)?;
                if options.normalize_embeddings {
                    pooled = normalize(&pooled)?;
                }
                let rows: Vec<i64> = rows.iter().map(|&i| i as i64).collect();
                let _ = embeddings.f_index_copy_(
                    0,
                    &Tensor::f_from_slice(&rows)?,
                    &pooled.f_to_device(Device::Cpu)?,
                )?;
                Ok(())
            },
        )?;
        if different.len() == sentences.len() {
            return Ok(embeddings);
        }
        Ok(embeddings.f_index_select(0, &Tensor::f_from_slice(&places)?)?)
    }

    /// Calls `consume` with batches of the sentences and with their places among them. In `on_progress` a sentence counts
    /// as often as `n_copies` says, or once.
    fn for_each_batch(
        &self,
        sentences: &[&[u32]],
        n_copies: Option<&[usize]>,
        prompt_length: usize,
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
        mut consume: impl FnMut(&PackedBatch, &[usize]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        // The longest come first, so that a batch which is too big for the memory fails at once.
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sentences[i].len()));
        // A GPU is busy with many more tokens than a processor.
        let batch_tokens = match self.network.parameters.device() {
            Device::Cpu => options.batch_tokens,
            _ => options.batch_tokens.saturating_mul(16),
        };
        let (mut done, mut n_done) = (0, 0);
        while done < order.len() {
            let mut n_tokens = 0;
            let n_fitting = order[done..]
                .iter()
                .take(options.batch_size)
                .take_while(|&&i| {
                    n_tokens += sentences[i].len();
                    n_tokens <= batch_tokens
                })
                .count();
            let rows = &order[done..done + n_fitting.max(1)];
            let batch: Vec<&[u32]> = rows.iter().map(|&i| sentences[i]).collect();
            let batch = PackedBatch::new(&batch, self.network.parameters.device())?
                .with_prompt_length(prompt_length);
            consume(&batch, rows)?;
            done += rows.len();
            n_done += n_copies.map_or(rows.len(), |n| rows.iter().map(|&i| n[i]).sum());
            if on_progress(n_done).is_break() {
                return Err(ModelError::Stopped);
            }
        }
        Ok(())
    }

    /// The prompt that these options choose; empty for none.
    ///
    /// # Errors
    ///
    /// For a name that the model has no prompt of.
    pub fn prompt<'a>(&'a self, options: &'a EncodeOptions) -> Result<&'a str, ModelError> {
        if let Some(prompt) = &options.prompt {
            return Ok(prompt);
        }
        let prompts = &self.settings.prompts;
        let of_role = || {
            let mut names = options.role?.prompt_names().iter();
            names.find_map(|&name| prompts.get_key_value(name).map(|(name, _)| name))
        };
        let Some(name) = options
            .prompt_name
            .as_ref()
            .or_else(of_role)
            .or(self.settings.default_prompt_name.as_ref())
        else {
            return Ok("");
        };
        prompts.get(name).map(String::as_str).ok_or_else(|| {
            let names: Vec<_> = prompts.keys().collect();
            ModelError::Input(format!("prompt_name: found {name:?}, allowed: {names:?}"))
        })
    }
}
