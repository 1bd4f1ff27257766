//! The tokenizer of a model folder, built from tokenizer.json or from vocab.txt.

use std::{
    any::Any,
    collections::HashSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use tokenizers::{
    AddedToken, NormalizerWrapper, TruncationParams,
    decoders::wordpiece::WordPiece as WordPieceDecoder, models::wordpiece::WordPiece,
    normalizers::BertNormalizer, normalizers::Lowercase, normalizers::Sequence,
    pre_tokenizers::bert::BertPreTokenizer,
};

use crate::{encoder::family::WordPieces, error::ModelError, folder::json};

/// The crate and its version: another one may cut texts differently.
const TOKENIZERS: &str = "tokenizers 0.23.1";

/// Texts to token ids, special tokens included and cut at a maximal length.
///
/// Wraps the tokenizers crate, which Python's sentence-transformers runs too. A hostile
/// tokenizer.json may make that crate panic; the panic is caught and becomes an error.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    max_length: usize,
    id_limit: usize,
    /// The ids of special tokens.
    special: HashSet<u32>,
}

impl Tokenizer {
    /// Token ids of each text, in order, computed on all cores of rayon's pool.
    ///
    /// # Errors
    ///
    /// When the tokenizers crate fails on a text, and when a text holds a token that the model has no row for.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        let all = self.encode_any(texts)?;
        let beyond = |id: &u32| *id as usize >= self.id_limit;
        match all.iter().flatten().copied().find(beyond) {
            None => Ok(all),
            Some(id) => {
                let token = self.inner.id_to_token(id).unwrap_or_default();
                Err(self.beyond(&format!("the token {token:?}"), id))
            }
        }
    }

    /// As [`Self::encode_batch`], also with ids that the model has no row for.
    fn encode_any(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        guarded(&self.path, || {
            texts
                .par_iter()
                .with_min_len(16)
                .map(|text| Ok(self.inner.encode_fast(*text, true)?.get_ids().to_vec()))
                .collect::<tokenizers::Result<Vec<_>>>()
        })
    }

    fn beyond(&self, token: &str, id: u32) -> ModelError {
        let limit = self.id_limit;
        tokenizer_error(
            &self.path,
            &format!("{token} has id {id}, beyond the model's vocab_size {limit} in config.json"),
        )
    }

    /// A copy that cuts nothing off, to see how long texts are.
    ///
    /// # Errors
    ///
    /// When the tokenizers crate fails.
    pub fn without_truncation(&self) -> Result<Self, ModelError> {
        let inner = guarded(&self.path, || {
            let mut inner = self.inner.clone();
            inner.with_truncation(None)?;
            Ok(inner)
        })?;
        Ok(Self {
            inner,
            path: self.path.clone(),
            max_length: usize::MAX,
            id_limit: self.id_limit,
            special: self.special.clone(),
        })
    }

    /// The largest number of tokens of a text, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The number of rows that an embedding table needs for all tokens.
    pub(crate) fn n_rows(&self) -> usize {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary.values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The number of rows of the model's embedding table: every id is below it.
    pub fn id_limit(&self) -> usize {
        self.id_limit
    }

    /// A key for caches of ids: all that they depend on besides the text, the longest input included.
    ///
    /// # Errors
    ///
    /// When the tokenizers crate fails to write itself down.
    pub fn identity(&self) -> Result<String, ModelError> {
        let json = guarded(&self.path, || self.inner.to_string(false))?;
        Ok(format!("{TOKENIZERS} {json}"))
    }

    /// The number of tokens at the start of a text that are not its own when this prompt is put before it: the
    /// prompt's, and the special one before them. 0 for an empty prompt.
    ///
    /// # Errors
    ///
    /// When the tokenizers crate fails on it.
    pub fn prompt_length(&self, prompt: &str) -> Result<usize, ModelError> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let ids = self.encode_batch(&[prompt])?.concat();
        // A special token at the end of the prompt by itself is not there in the prompted text.
        let is_closed = ids.last().is_some_and(|id| self.special.contains(id));
        Ok(ids.len() - usize::from(is_closed))
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes of a tokenizer.json, `path` being for the messages.
    pub(crate) fn from_tokenizer_json(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let claims: Claims = json::parse(path, bytes)?;
        if claims.model.vocab.longest > LONGEST_PIECE {
            return Err(tokenizer_error(
                path,
                &format!(
                    "a piece of its vocabulary has {} bytes, and up to {LONGEST_PIECE} are read",
                    claims.model.vocab.longest
                ),
            ));
        }
        let inner = guarded(path, || tokenizers::Tokenizer::from_bytes(bytes))?;
        for AddedId { id, content } in claims.added_tokens {
            let found = inner.token_to_id(&content);
            // The tokenizers crate leaves out an empty token, and numbers one that is not in the vocabulary anew.
            if found != Some(id) && !content.is_empty() {
                let found = found.map_or("none".to_owned(), |found| found.to_string());
                let content: String = content.chars().take(100).collect();
                return Err(tokenizer_error(
                    path,
                    &format!(
                        "the added token {content:?} has id {id}, but gets {found} by the vocabulary: give it that id, or \
                         put the token into the vocabulary"
                    ),
                ));
            }
        }
        Self::new(inner, path)
    }

    /// The tokenizer of word pieces from a vocab.txt, one token a line, as transformers builds it.
    ///
    /// `settings` is tokenizer_config.json, or empty; `family` has the special tokens that it leaves out. `added` is
    /// added_tokens.json with its path: tokens with the ids that follow on the vocabulary's.
    pub(crate) fn from_vocab(
        path: &Path,
        vocab: &[u8],
        settings: &Map<String, Value>,
        family: &WordPieces,
        added: Option<(&Path, &Map<String, Value>)>,
    ) -> Result<Self, ModelError> {
        let vocabulary = guarded(path, || WordPiece::read_bytes(vocab))?;
        let special = |key: &str, default: &str| -> Result<(String, u32), ModelError> {
            let token = special_token(settings, key).unwrap_or(default);
            let id = vocabulary
                .get(token)
                .copied()
                .ok_or_else(|| ModelError::Tokenizer {
                    path: path.to_owned(),
                    message: format!("no line holds the {key} {token:?}"),
                })?;
            Ok((token.to_owned(), id))
        };
        let cls = special("cls_token", family.cls)?;
        let sep = special("sep_token", family.sep)?;
        let unk = special("unk_token", family.unk)?;
        let pad = special("pad_token", family.pad)?;
        let mask = special("mask_token", family.mask)?;
        let normalizer = bert_normalizer(settings);
        let processor = family.processor(cls.clone(), sep.clone());
        let inner = guarded(path, || {
            let model = WordPiece::builder()
                .vocab(vocabulary.clone())
                .unk_token(unk.0.clone())
                .build()?;
            let mut tokenizer = tokenizers::Tokenizer::new(model);
            tokenizer.with_normalizer(Some(normalizer))?;
            tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
            tokenizer.with_post_processor(Some(processor));
            tokenizer.with_decoder(Some(WordPieceDecoder::default()));
            let plain =
                [&cls.0, &sep.0, &unk.0, &pad.0].map(|token| AddedToken::from(token.clone(), true));
            tokenizer.add_special_tokens(plain)?;
            let mask = AddedToken::from(mask.0.clone(), true);
            tokenizer.add_special_tokens([mask.lstrip(family.mask_lstrip)])?;
            Ok(tokenizer)
        })?;
        let mut tokenizer = Self::new(inner, path)?;
        if let Some((path, added)) = added {
            tokenizer.add_tokens(path, added)?;
        }
        Ok(tokenizer)
    }

    /// Adds the tokens of an added_tokens.json, which is at `path`.
    fn add_tokens(&mut self, path: &Path, added: &Map<String, Value>) -> Result<(), ModelError> {
        let mut tokens = Vec::with_capacity(added.len());
        for (token, id) in added {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| {
                tokenizer_error(
                    path,
                    &format!("the token {token:?} has no id, a whole number"),
                )
            })?;
            tokens.push((id, token));
        }
        tokens.sort_unstable();
        for (id, token) in tokens {
            let known = self.inner.token_to_id(token);
            let is_special = known.is_some_and(|known| self.special.contains(&known));
            let as_added = AddedToken::from(token.clone(), is_special).normalized(!is_special);
            guarded(path, || self.inner.add_tokens([as_added]))?;
            let found = self.inner.token_to_id(token);
            if found != Some(id) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                return Err(tokenizer_error(
                    path,
                    &format!(
                        "the token {token:?} has id {id}, but gets {found}: added ids follow on the vocabulary's without a gap"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Normalises as transformers 5 does for BERT's tokenizers: by tokenizer_config.json, whatever tokenizer.json says.
    /// Warns where the two differ.
    pub(crate) fn normalize_by_settings(
        &mut self,
        settings: &Map<String, Value>,
    ) -> Result<(), ModelError> {
        let wanted = NormalizerWrapper::from(bert_normalizer(settings));
        let show = |normalizer: Option<&NormalizerWrapper>| {
            serde_json::to_string(&normalizer).unwrap_or_default()
        };
        let (found, wanted_json) = (show(self.inner.get_normalizer()), show(Some(&wanted)));
        if found == wanted_json {
            return Ok(());
        }
        tracing::warn!(
            "{}: its normalizer is {found}, but tokenizer_config.json comes to {wanted_json}, which is taken, as \
             transformers 5 does",
            self.path.display()
        );
        self.inner
            .with_normalizer(Some(wanted))
            .map_err(|e| tokenizer_error(&self.path, &e.to_string()))?;
        Ok(())
    }

    /// Lower-cases before anything else, unless the tokenizer has a step that does.
    ///
    /// `do_lower_case` of sentence_bert_config.json; `Transformer.__init__` of
    /// `sentence_transformers/base/modules/transformer.py`.
    pub(crate) fn lower_case(&mut self) -> Result<(), ModelError> {
        let present = match self.inner.get_normalizer().cloned() {
            None => Vec::new(),
            Some(NormalizerWrapper::Lowercase(_)) => return Ok(()),
            Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().to_vec(),
            Some(other) => vec![other],
        };
        if present
            .iter()
            .any(|step| matches!(step, NormalizerWrapper::Lowercase(_)))
        {
            return Ok(());
        }
        let steps = std::iter::once(NormalizerWrapper::Lowercase(Lowercase))
            .chain(present)
            .collect();
        self.inner
            .with_normalizer(Some(Sequence::new(steps)))
            .map_err(|e| tokenizer_error(&self.path, &e.to_string()))?;
        Ok(())
    }

    /// Cuts texts at this number of tokens, special tokens included.
    pub(crate) fn set_max_length(&mut self, max_length: usize) -> Result<(), ModelError> {
        let truncation = TruncationParams {
            max_length,
            ..TruncationParams::default()
        };
        let path = &self.path;
        guarded(
            path,
            AssertUnwindSafe(|| self.inner.with_truncation(Some(truncation)).map(|_| ())),
        )?;
        self.max_length = max_length;
        Ok(())
    }

    /// Sets the number of rows of the embedding table. A token beyond it is refused where a text holds it.
    pub(crate) fn set_vocab_size(&mut self, vocab_size: i64) -> Result<(), ModelError> {
        self.id_limit = vocab_size.max(0) as usize;
        // The post-processor may carry ids of its own, which an empty text shows. The other text
        // is for tokenizers that fail or panic on any text: better now than in the first batch.
        let special = self.encode_any(&["", "a text"])?.swap_remove(0);
        if special.is_empty() {
            return Err(tokenizer_error(
                &self.path,
                "it puts no special tokens around a text",
            ));
        }
        match special.iter().find(|id| **id as usize >= self.id_limit) {
            Some(&id) => Err(self.beyond("a special token", id)),
            None => Ok(()),
        }
    }

    /// The content of a tokenizer.json, without truncation and padding.
    pub(crate) fn to_json(&self) -> Result<String, ModelError> {
        guarded(&self.path, || {
            let mut plain = self.inner.clone();
            plain.with_truncation(None)?;
            plain.to_string(true)
        })
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path) -> Result<Self, ModelError> {
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let special = special.map(|(id, _)| *id).collect();
        let mut tokenizer = Self {
            inner,
            path: path.to_owned(),
            max_length: 0,
            id_limit: usize::MAX,
            special,
        };
        tokenizer.set_max_length(TruncationParams::default().max_length)?;
        Ok(tokenizer)
    }
}

/// The longest piece of Unigram's vocabulary that is read, in bytes; sentencepiece makes them of 16 characters. The tokenizers
/// crate has a node a byte, and frees nodes by recursion, which overflows the stack on a piece of some 100,000.
const LONGEST_PIECE: usize = 1024;

/// Parts of a tokenizer.json that the tokenizers crate takes on trust.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    added_tokens: Vec<AddedId>,
    #[serde(default)]
    model: Vocabulary,
}

/// An added token and the id that the file gives it.
#[derive(Deserialize)]
struct AddedId {
    id: u32,
    content: String,
}

#[derive(Deserialize, Default)]
struct Vocabulary {
    #[serde(default)]
    vocab: Pieces,
}

/// The length of Unigram's longest piece, in bytes; 0 where the vocabulary is an object, as that of other models is.
#[derive(Default)]
struct Pieces {
    longest: usize,
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PiecesVisitor)
    }
}

struct PiecesVisitor;

impl<'de> Visitor<'de> for PiecesVisitor {
    type Value = Pieces;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("pieces with their scores, or tokens with their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Pieces::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pieces, A::Error> {
        let mut longest = 0;
        while let Some((piece, _)) = seq.next_element::<(String, IgnoredAny)>()? {
            longest = longest.max(piece.len());
        }
        Ok(Pieces { longest })
    }
}

/// A special token of tokenizer_config.json, which has it as a text or as an object with its `content`.
pub(crate) fn special_token<'a>(settings: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    match settings.get(key)? {
        Value::Object(token) => token.get("content")?.as_str(),
        token => token.as_str(),
    }
}

/// BERT's normalizer as tokenizer_config.json, or an empty object, has it.
fn bert_normalizer(settings: &Map<String, Value>) -> BertNormalizer {
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    )
}

/// Runs a call into the tokenizers crate; a panic there becomes an error.
fn guarded<T>(path: &Path, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(tokenizer_error(path, &error.to_string())),
        Err(panic) => Err(tokenizer_error(
            path,
            &format!("the tokenizer panics: {}", panic_message(&*panic)),
        )),
    }
}

fn tokenizer_error(path: &Path, message: &str) -> ModelError {
    ModelError::Tokenizer {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (None, Some(message)) => message,
        (None, None) => "no message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_names_the_version_in_use() {
        let manifest = include_str!("../../../Cargo.toml");
        let (name, version) = TOKENIZERS.split_once(' ').unwrap();
        assert!(manifest.contains(&format!("{name} = {{ version = \"={version}\"")));
    }

    #[test]
    fn the_identity_holds_all_that_ids_depend_on() -> Result<(), ModelError> {
        let vocab = b"<s>\n<pad>\n</s>\n<unk>\n[UNK]\n<mask>\na\n";
        const PIECES: WordPieces = WordPieces {
            class: "Any",
            cls: "<s>",
            sep: "</s>",
            unk: "[UNK]",
            pad: "<pad>",
            mask: "<mask>",
            mask_lstrip: true,
            like_roberta: true,
        };
        let build =
            |vocab: &[u8]| Tokenizer::from_vocab(Path::new("v"), vocab, &Map::new(), &PIECES, None);
        let plain = build(vocab)?.identity()?;
        assert_eq!(build(vocab)?.identity()?, plain);
        let mut shorter = build(vocab)?;
        shorter.set_max_length(7)?;
        let mut cased = build(vocab)?;
        cased.lower_case()?;
        let other = build(&[&vocab[..], b"b\n"].concat())?;
        for tokenizer in [shorter, cased, other] {
            assert_ne!(tokenizer.identity()?, plain);
        }
        Ok(())
    }
}
