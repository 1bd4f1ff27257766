//! `sentune encode`: sentences in, embeddings out.

use std::{
    io::{BufRead, Write},
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use anyhow::{Context, bail};
use data::LoadOptions;
use model::ModelError;
use npyz::WriterBuilder;

use crate::{
    commands::{encode_options, load_model},
    flags::{EncodeFlags, UsageError},
    interrupt::Interrupt,
    progress::Talk,
    table::thousands,
};

/// How embeddings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Npy,
    Parquet,
    JsonLines,
    /// JSON Lines on stdout.
    Stdout,
}

/// Encodes the sentences of a file.
pub(crate) fn run(flags: &EncodeFlags, talk: &Talk, interrupt: &Interrupt) -> anyhow::Result<()> {
    let format = format_of(&flags.output)?;
    let texts = read_texts(flags)?;
    let mut model = load_model(&flags.model, talk, interrupt)?;
    let options = encode_options(&flags.encoding, &mut model)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let bar = talk.bar("encoding", texts.len());
    let started = Instant::now();
    let embeddings = model.encode(&texts, &options, &mut |n_encoded| {
        bar.set_position(n_encoded as u64);
        if interrupt.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    let embeddings = match embeddings {
        Err(ModelError::Stopped) => return Err(interrupt.error()),
        embeddings => embeddings?,
    };
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        "encoded {} sentences in {seconds:.3} s: {:.1} sentences/s",
        thousands(texts.len()),
        texts.len() as f64 / seconds
    );
    let dimension = embeddings.size()[1] as usize;
    let values = Vec::<f32>::try_from(embeddings.f_view([-1])?)?;
    write(format, &flags.output, &texts, &values, dimension)
        .with_context(|| format!("--output {}", flags.output.display()))
}

fn format_of(path: &Path) -> Result<Format, UsageError> {
    if path == Path::new("-") {
        return Ok(Format::Stdout);
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => Ok(Format::Npy),
        Some("parquet") => Ok(Format::Parquet),
        Some("jsonl" | "ndjson") => Ok(Format::JsonLines),
        _ => Err(UsageError(format!(
            "--output {}: the name must end in .npy, .parquet or .jsonl, or be - for JSON Lines on stdout",
            path.display()
        ))),
    }
}

/// The sentences, in the input's order.
fn read_texts(flags: &EncodeFlags) -> anyhow::Result<Vec<String>> {
    let input = flags.input.as_str();
    let lines = |reader: &mut dyn BufRead| -> anyhow::Result<Vec<String>> {
        let lines = reader.lines().collect::<Result<Vec<String>, _>>();
        let lines = lines.with_context(|| format!("--input {input}: not UTF-8 text"))?;
        if lines.is_empty() {
            bail!("--input {input}: there is no line in it");
        }
        Ok(lines)
    };
    let ending = Path::new(input)
        .extension()
        .and_then(|extension| extension.to_str());
    match (input, ending) {
        ("-", _) => lines(&mut std::io::stdin().lock()),
        (_, Some("parquet" | "csv" | "tsv" | "json" | "jsonl" | "ndjson")) => {
            let columns = flags.column.clone().map(|column| vec![column]);
            let options = LoadOptions {
                columns,
                ..LoadOptions::default()
            };
            let dataset = data::load(input, &options).context("--input")?;
            let [column] = dataset.columns.as_slice() else {
                return Err(UsageError(format!(
                    "--input {input} has the text columns {}: say which one with --column",
                    dataset.column_names().join(", ")
                ))
                .into());
            };
            Ok(column.texts.iter().map(str::to_owned).collect())
        }
        _ => lines(&mut std::io::BufReader::new(
            fs_err::File::open(input).context("--input")?,
        )),
    }
}

/// Writes `values`, [n, dimension] row by row.
fn write(
    format: Format,
    path: &Path,
    texts: &[&str],
    values: &[f32],
    dimension: usize,
) -> anyhow::Result<()> {
    let rows = values.chunks(dimension.max(1));
    match format {
        Format::Stdout => write_lines(&mut std::io::stdout().lock(), texts, rows),
        Format::JsonLines => replace(path, |file| write_lines(file, texts, rows)),
        Format::Npy => replace(path, |file| {
            let shape = [texts.len() as u64, dimension as u64];
            let mut writer = npyz::WriteOptions::new()
                .default_dtype()
                .shape(&shape)
                .writer(file)
                .begin_nd()?;
            writer.extend(values.iter().copied())?;
            Ok(writer.finish()?)
        }),
        Format::Parquet => replace(path, |file| {
            Ok(data::write_embeddings(file, texts, values, dimension)?)
        }),
    }
}

fn write_lines<'v>(
    out: &mut dyn Write,
    texts: &[&str],
    rows: impl Iterator<Item = &'v [f32]>,
) -> anyhow::Result<()> {
    for (text, embedding) in texts.iter().zip(rows) {
        serde_json::to_writer(
            &mut *out,
            &serde_json::json!({"text": text, "embedding": embedding}),
        )?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes a file whole or not at all.
fn replace(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    let mut buffered = std::io::BufWriter::new(file.as_file_mut());
    fill(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
