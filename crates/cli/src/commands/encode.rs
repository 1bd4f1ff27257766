//! `sentune encode`: sentences in, embeddings out.

use std::{io::Write, path::Path, time::Instant};

use anyhow::Context;
use data::OnBadRow;
use model::{EncodeOptions, ModelError, Role, SentenceTransformer};
use search::{
    Embeddings, Precision, Quantized, Ranges, quantization::FEW_EMBEDDINGS, quantize_embeddings,
};
use serde_json::{Value, json};
use wording::counted;

use crate::{
    flags::encode::{EncodeFlags, EncodeTask},
    models::{encode_options, encode_texts, load_model},
    npy::{self, Matrix},
    output::replace,
    session::Session,
    texts::read_texts,
    usage::UsageError,
};

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Npy,
    Parquet,
    JsonLines,
    /// JSON Lines on stdout.
    Stdout,
}

/// Encodes the sentences of a file.
pub(crate) fn run(flags: &EncodeFlags, session: &Session) -> anyhow::Result<()> {
    let format = format_of(flags)?;
    let column = flags.column.as_deref();
    let texts = read_texts("--input", &flags.input, "--column", column, OnBadRow::Keep)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut model = load_model(&flags.model, session)?;
    let mut options = encode_options(&flags.encoding, &mut model)?;
    options.role = flags.task.map(|task| match task {
        EncodeTask::Query => Role::Query,
        EncodeTask::Document => Role::Document,
    });
    let encoder = Encoder {
        model: &model,
        options: &options,
        of_tokens: flags.output_value == "token_embeddings",
        session,
    };
    let started = Instant::now();
    let encoded = encoder.encode(&texts, "encoding")?;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        "encoded {} in {seconds:.3} s: {:.1} sentences/s",
        counted(texts.len(), "sentences"),
        texts.len() as f64 / seconds
    );
    let quantized = quantize(flags, &encoder, &encoded)?;
    write(format, flags, &texts, &encoded, &quantized)
        .with_context(|| format!("--output {}", flags.output.display()))
}

fn format_of(flags: &EncodeFlags) -> Result<Format, UsageError> {
    let path = &flags.output;
    if path == Path::new("-") {
        return Ok(Format::Stdout);
    }
    let is_plain = flags.output_value == "sentence_embedding" && flags.quantize.is_none();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => Ok(Format::Npy),
        Some("parquet") if is_plain => Ok(Format::Parquet),
        Some("parquet") => Err(UsageError(format!(
            "--output {}: parquet holds sentence embeddings in f32 alone: write quantised or token embeddings to .npy or .jsonl",
            path.display()
        ))),
        Some("jsonl" | "ndjson") => Ok(Format::JsonLines),
        _ => Err(UsageError(format!(
            "--output {}: the name must end in .npy, .parquet or .jsonl, or be - for JSON Lines on stdout",
            path.display()
        ))),
    }
}

/// The model with its options.
struct Encoder<'a> {
    model: &'a SentenceTransformer,
    options: &'a EncodeOptions,
    of_tokens: bool,
    session: &'a Session,
}

/// Rows of embeddings, and how many each text has: one, or one a token.
struct Encoded {
    values: Vec<f32>,
    dimension: usize,
    n_rows: Vec<usize>,
}

impl Encoder<'_> {
    fn encode(&self, texts: &[&str], what: &str) -> anyhow::Result<Encoded> {
        let (model, options) = (self.model, self.options);
        if !self.of_tokens {
            let values = encode_texts(model, texts, options, what, self.session)?;
            return Ok(Encoded {
                dimension: values.len() / texts.len().max(1),
                values,
                n_rows: vec![1; texts.len()],
            });
        }
        let bar = self.session.bar(what, texts.len());
        let tokens = model.encode_tokens(texts, options, &mut self.session.following(&bar));
        bar.finish_and_clear();
        let tokens = match tokens {
            Err(ModelError::Stopped) => return Err(self.session.interrupt.error()),
            tokens => tokens?,
        };
        let dimension = model.encoder().hidden_size() as usize;
        Ok(Encoded {
            n_rows: tokens.iter().map(|rows| rows.len() / dimension).collect(),
            values: tokens.concat(),
            dimension,
        })
    }
}

/// The embeddings in the precision asked for.
fn quantize(
    flags: &EncodeFlags,
    encoder: &Encoder<'_>,
    encoded: &Encoded,
) -> anyhow::Result<Quantized> {
    let Some(precision) = flags.quantize else {
        return Ok(Quantized::Float32(encoded.values.clone()));
    };
    let embeddings = Embeddings::new(&encoded.values, encoded.dimension)?;
    let ranges = precision
        .needs_ranges()
        .then(|| ranges(flags, precision, encoder, embeddings))
        .transpose()?;
    match (&flags.save_ranges, &ranges) {
        (Some(path), Some(ranges)) => {
            let values = [ranges.starts(), ranges.ends()].concat();
            replace(path, |file| npy::write(file, &values, encoded.dimension))
                .with_context(|| format!("--save-ranges {}", path.display()))?;
        }
        (Some(_), None) => {
            return Err(UsageError(format!(
                "--save-ranges: {precision} goes by signs and has no ranges; int8 and uint8 have"
            ))
            .into());
        }
        (None, _) => {}
    }
    Ok(quantize_embeddings(embeddings, precision, ranges.as_ref())?)
}

fn ranges(
    flags: &EncodeFlags,
    precision: Precision,
    encoder: &Encoder<'_>,
    embeddings: Embeddings<'_>,
) -> anyhow::Result<Ranges> {
    if let Some(path) = &flags.ranges {
        let matrix = Matrix::read("--ranges", path)?;
        return Ranges::new(matrix.embeddings()?)
            .with_context(|| format!("--ranges {}", path.display()));
    }
    let Some(calibration) = &flags.calibration else {
        if embeddings.len() == 1 {
            return Err(UsageError(format!(
                "--quantize {precision} of one text: its own ranges are points, which leaves nothing of it: give others to take them from with --calibration, or --ranges"
            ))
            .into());
        }
        if embeddings.len() < FEW_EMBEDDINGS {
            tracing::warn!(
                "the ranges of {precision} are those of {} embeddings alone; give more with --calibration, or --ranges",
                embeddings.len()
            );
        }
        return Ok(Ranges::of(embeddings)?);
    };
    let path = Path::new(calibration);
    if path.extension().is_some_and(|extension| extension == "npy") {
        let matrix = Matrix::read("--calibration", path)?;
        return Ok(Ranges::of(matrix.embeddings()?)?);
    }
    let column = flags.calibration_column.as_deref();
    let texts = read_texts(
        "--calibration",
        calibration,
        "--calibration-column",
        column,
        OnBadRow::Keep,
    )?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let encoded = encoder.encode(&texts, "calibration")?;
    Ok(Ranges::of(Embeddings::new(
        &encoded.values,
        encoded.dimension,
    )?)?)
}

fn write(
    format: Format,
    flags: &EncodeFlags,
    texts: &[&str],
    encoded: &Encoded,
    quantized: &Quantized,
) -> anyhow::Result<()> {
    let (path, dimension) = (&flags.output, encoded.dimension);
    let n_rows: usize = encoded.n_rows.iter().sum();
    let key = if flags.output_value == "token_embeddings" {
        "token_embeddings"
    } else {
        "embedding"
    };
    match format {
        Format::Stdout => {
            let lines = Lines {
                key,
                texts,
                encoded,
            };
            lines.write(&mut std::io::stdout().lock(), quantized)
        }
        Format::JsonLines => replace(path, |file| {
            Lines {
                key,
                texts,
                encoded,
            }
            .write(file, quantized)
        }),
        Format::Npy => {
            replace(path, |file| match quantized {
                Quantized::Float32(values) => npy::write(file, values, dimension),
                Quantized::Int8(values) => npy::write(file, values, values.len() / n_rows.max(1)),
                Quantized::Uint8(values) => npy::write(file, values, values.len() / n_rows.max(1)),
            })?;
            if key == "token_embeddings" {
                let lengths: Vec<i64> = encoded.n_rows.iter().map(|&n| n as i64).collect();
                let lengths_path = path.with_extension("lengths.npy");
                replace(&lengths_path, |file| npy::write_lengths(file, &lengths))?;
            }
            Ok(())
        }
        Format::Parquet => replace(path, |file| {
            Ok(data::write_embeddings(
                file,
                texts,
                &encoded.values,
                dimension,
            )?)
        }),
    }
}

/// JSON Lines to be written.
struct Lines<'a> {
    key: &'static str,
    texts: &'a [&'a str],
    encoded: &'a Encoded,
}

impl Lines<'_> {
    fn write(&self, out: &mut dyn Write, quantized: &Quantized) -> anyhow::Result<()> {
        match quantized {
            Quantized::Float32(values) => self.write_values(out, values),
            Quantized::Int8(values) => self.write_values(out, values),
            Quantized::Uint8(values) => self.write_values(out, values),
        }
    }

    fn write_values<T: serde::Serialize>(
        &self,
        out: &mut dyn Write,
        values: &[T],
    ) -> anyhow::Result<()> {
        let n_rows: usize = self.encoded.n_rows.iter().sum();
        let width = (values.len() / n_rows.max(1)).max(1);
        let mut rows = values.chunks(width);
        for (text, &n) in self.texts.iter().zip(&self.encoded.n_rows) {
            let rows: Vec<Value> = rows.by_ref().take(n).map(|row| json!(row)).collect();
            let value = match (self.key, rows.as_slice()) {
                ("embedding", [row]) => row.clone(),
                _ => json!(rows),
            };
            let mut line = serde_json::Map::new();
            line.insert("text".to_owned(), json!(text));
            line.insert(self.key.to_owned(), value);
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}
