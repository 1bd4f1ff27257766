//! `sentune mine`: hard negatives for pairs.

use anyhow::Context;
use data::{Cells, OutputColumn, TableFormat, write_table};
use model::{EncodeOptions, Role, SentenceTransformer};
use search::{
    Embeddings, HardNegatives, MinedRow, MiningOptions, MiningPairs, OutputFormat,
    SamplingStrategy, SearchError, mine_hard_negatives,
};
use sha2::{Digest, Sha256};
use wording::counted;

use crate::{
    flags::mine::{MineFlags, MinedFormat, Sampling},
    models::{encode_texts, load_model, set_max_seq_length, two_sided_options},
    npy,
    output::{print, replace},
    session::Session,
    source::{self, DataOptions},
    texts::read_texts,
    usage::UsageError,
};

/// Mines, writes the table, and prints what was found.
pub(crate) fn run(flags: &MineFlags, session: &Session) -> anyhow::Result<()> {
    if let Some(cross_encoder) = &flags.cross_encoder {
        return Err(UsageError(format!(
            "--cross-encoder {cross_encoder}: cross-encoders can't be run here; leave it out and use --relative-margin 0.05, or rescore the table that --output-scores writes"
        ))
        .into());
    }
    let options = mining_options(flags);
    let format = format_of(flags, &options)?;

    let columns = Columns::load(flags, session)?;
    let corpus = match &flags.corpus {
        None => Vec::new(),
        Some(corpus) => {
            let column = flags.corpus_column.as_deref();
            read_texts(
                "--corpus",
                corpus,
                "--corpus-column",
                column,
                flags.on_bad_row,
            )?
        }
    };
    let pairs = MiningPairs::new(
        columns.anchors.texts.iter(),
        columns.positives.texts.iter(),
        corpus.iter().map(String::as_str),
    )?;
    let range_max = options
        .range_max(pairs.max_positives())
        .map_err(usage_error)?;
    tracing::info!(
        "mining for {} of {} in {}, up to rank {range_max}",
        counted(pairs.queries().len(), "anchors"),
        counted(pairs.n_rows(), "rows"),
        counted(pairs.corpus().len(), "texts"),
    );

    let mut model = load_model(&flags.model, session)?;
    set_max_seq_length(&mut model, flags.encoding.max_seq_length)?;
    let similarity = flags
        .encoding
        .similarity
        .unwrap_or(model.similarity_fn_name());
    let encode = |role, texts: &[&str]| -> anyhow::Result<Vec<f32>> {
        let options = EncodeOptions {
            normalize_embeddings: true,
            ..two_sided_options(&flags.encoding, role)
        };
        cached_embeddings(flags, &model, role, texts, &options, session)
    };
    let corpus = encode(Role::Document, pairs.corpus())?;
    let queries = encode(Role::Query, pairs.queries())?;
    let dimension = corpus.len() / pairs.corpus().len();

    let bar = session.bar("searching", pairs.queries().len());
    let mined = mine_hard_negatives(
        &pairs,
        Embeddings::new(&queries, dimension)?,
        Embeddings::new(&corpus, dimension)?,
        similarity,
        &options,
        &mut session.following(&bar),
    );
    bar.finish_and_clear();
    let mined = match mined {
        Err(SearchError::Stopped) => return Err(session.interrupt.error()),
        mined => mined.map_err(usage_error)?,
    };
    let report = mined.report();
    if report.n_rows == 0 {
        anyhow::bail!(
            "no negatives were found, so {} is not written: raise --range-max or --max-score, or lower the margins",
            flags.output.path.display()
        );
    }
    let table = Table::new(flags, &columns, &mined, options.output_format);
    let written = replace(&flags.output.path, |file| {
        Ok(write_table(file, format, &table.columns(&pairs))?)
    });
    written.with_context(|| format!("--output {}", flags.output.path.display()))?;
    tracing::info!(
        "wrote {} to {}",
        counted(report.n_rows, "rows"),
        flags.output.path.display()
    );
    Ok(print(&report.to_string())?)
}

/// A mining option by the flag's name.
fn usage_error(error: SearchError) -> anyhow::Error {
    match error {
        SearchError::Option { option, problem } => {
            UsageError(format!("--{}: {problem}", option.replace('_', "-"))).into()
        }
        error => error.into(),
    }
}

fn mining_options(flags: &MineFlags) -> MiningOptions {
    let mut output_format = match flags.output_format {
        MinedFormat::Triplet => OutputFormat::Triplet,
        MinedFormat::NTuple => OutputFormat::NTuple,
        MinedFormat::LabeledPair => OutputFormat::LabeledPair,
        MinedFormat::LabeledList => OutputFormat::LabeledList,
    };
    if flags.include_positives {
        if output_format != OutputFormat::NTuple {
            tracing::warn!(
                "--include-positives writes n-tuples, whatever --output-format says, so that the order by rank is kept"
            );
            output_format = OutputFormat::NTuple;
        }
        let is_narrowed = flags.range_min != 0
            || flags.range_max.is_some()
            || flags.max_score.is_some()
            || flags.sampling_strategy != Sampling::Top;
        if is_narrowed {
            tracing::warn!(
                "with --include-positives, --range-min, --range-max, --max-score and --sampling-strategy may still leave positives out"
            );
        }
    }
    MiningOptions {
        range_min: flags.range_min,
        range_max: flags.range_max,
        max_score: flags.max_score,
        min_score: flags.min_score,
        absolute_margin: flags.absolute_margin,
        relative_margin: flags.relative_margin,
        num_negatives: flags.num_negatives,
        sampling_strategy: match flags.sampling_strategy {
            Sampling::Top => SamplingStrategy::Top,
            Sampling::Random => SamplingStrategy::Random { seed: flags.seed },
        },
        include_positives: flags.include_positives,
        output_format,
    }
}

/// The format of the output, which has to hold lists where the table has some.
fn format_of(flags: &MineFlags, options: &MiningOptions) -> Result<TableFormat, UsageError> {
    let path = flags.output.path.display();
    let format = flags.output.check()?;
    let has_lists = match options.output_format {
        OutputFormat::LabeledList => true,
        OutputFormat::LabeledPair => false,
        OutputFormat::Triplet | OutputFormat::NTuple => flags.output_scores,
    };
    if has_lists && !format.has_lists() {
        return Err(UsageError(format!(
            "--output {path}: CSV and TSV have no lists, which labeled-list and the scores of triplets and n-tuples are: write .parquet or .jsonl"
        )));
    }
    Ok(format)
}

/// The two columns of the data set.
struct Columns {
    anchors: data::TextColumn,
    positives: data::TextColumn,
}

impl Columns {
    fn load(flags: &MineFlags, session: &Session) -> anyhow::Result<Self> {
        let named = (&flags.anchor_column_name, &flags.positive_column_name);
        let options = DataOptions {
            columns: match named {
                (Some(anchor), Some(positive)) => Some(vec![anchor.clone(), positive.clone()]),
                _ => None,
            },
            max_rows: flags.max_samples,
            on_bad_row: Some(flags.on_bad_row),
            ..DataOptions::default()
        };
        let mut dataset = source::dataset(&flags.data, flags.split, &options, session)?;
        let place = |name: &Option<String>, usual: usize| -> anyhow::Result<usize> {
            let names = dataset.column_names();
            let Some(name) = name else {
                return Ok(usual);
            };
            names
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| {
                    let names = names.join(", ");
                    UsageError(format!(
                        "--data {} has no text column {name}, but {names}",
                        flags.data
                    ))
                    .into()
                })
        };
        let (anchor, positive) = (place(named.0, 0)?, place(named.1, 1)?);
        if anchor == positive || positive >= dataset.columns.len() {
            return Err(UsageError(format!(
                "--data {} must have a column of anchors and another of positives, but has {}: say which they are with --anchor-column-name and --positive-column-name",
                flags.data,
                dataset.column_names().join(", ")
            ))
            .into());
        }
        if dataset.columns.len() > 2 || dataset.labels.is_some() {
            let names = dataset.column_names();
            tracing::info!(
                "of {}, {} holds the anchors and {} the positives; other columns are left aside",
                dataset.name,
                names[anchor],
                names[positive]
            );
        }
        let positives = dataset.columns[positive].clone();
        let anchors = dataset.columns.swap_remove(anchor);
        Ok(Self { anchors, positives })
    }
}

/// Embeddings of texts, from the cache where it has them.
fn cached_embeddings(
    flags: &MineFlags,
    model: &SentenceTransformer,
    role: Role,
    texts: &[&str],
    options: &EncodeOptions,
    session: &Session,
) -> anyhow::Result<Vec<f32>> {
    let what = match role {
        Role::Query => "query",
        Role::Document => "corpus",
    };
    let Some(folder) = &flags.cache_folder else {
        return encode_texts(model, texts, options, what, session);
    };
    let name = format!(
        "{what}_embeddings_{}.npy",
        cache_key(model, texts, options)?
    );
    let path = folder.join(name);
    if path.exists() {
        let matrix = npy::Matrix::read("--cache-folder", &path)?;
        let embeddings = matrix.embeddings()?;
        if embeddings.len() != texts.len() {
            anyhow::bail!(
                "--cache-folder {}: found {} embeddings for {} texts: remove the file",
                path.display(),
                embeddings.len(),
                texts.len()
            );
        }
        tracing::info!("{what} embeddings are {}", path.display());
        return Ok(embeddings.values().to_vec());
    }
    let embeddings = encode_texts(model, texts, options, what, session)?;
    let dimension = embeddings.len() / texts.len().max(1);
    let written = replace(&path, |file| npy::write(file, &embeddings, dimension));
    written.with_context(|| format!("--cache-folder {}", folder.display()))?;
    Ok(embeddings)
}

/// A digest of all that the embeddings depend on: weights, longest input, prompt, texts.
fn cache_key(
    model: &SentenceTransformer,
    texts: &[&str],
    options: &EncodeOptions,
) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    // A checksum of the weights rather than their name: two runs may leave models in one folder.
    let weights = Vec::<f32>::try_from(model.parameters().flat().f_view([-1])?)?;
    for part in weights.chunks(1 << 16) {
        let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
        add(&bytes);
    }
    let prompt = model.prompt(options)?;
    add(format!(
        "{:?} {:?} {prompt:?}",
        model.max_seq_length(),
        options.truncate_dim
    )
    .as_bytes());
    for text in texts {
        add(text.as_bytes());
    }
    let digest = hash.finalize();
    Ok(hex::encode(digest))
}

/// The table to write, by columns.
struct Table<'t> {
    anchor_name: &'t str,
    positive_name: &'t str,
    format: OutputFormat,
    has_scores: bool,
    rows: Vec<MinedRow>,
}

impl<'t> Table<'t> {
    fn new(
        flags: &MineFlags,
        columns: &'t Columns,
        mined: &HardNegatives,
        format: OutputFormat,
    ) -> Self {
        Self {
            anchor_name: &columns.anchors.name,
            positive_name: &columns.positives.name,
            format,
            has_scores: flags.output_scores,
            rows: mined.rows(),
        }
    }

    /// Upstream's columns with upstream's names.
    fn columns<'p>(&self, pairs: &MiningPairs<'p>) -> Vec<OutputColumn<'p>> {
        let text = |id: &u32| pairs.corpus()[*id as usize];
        let rows = self.rows.iter();
        let anchors = rows.clone().map(|row| pairs.queries()[row.query as usize]);
        let mut columns = vec![OutputColumn::new(
            self.anchor_name,
            Cells::Texts(anchors.collect()),
        )];
        let nth = |i: usize| -> Cells<'p> {
            Cells::Texts(
                self.rows
                    .iter()
                    .map(|row| text(&row.documents[i]))
                    .collect(),
            )
        };
        let scores = || Cells::FloatLists(self.rows.iter().map(|row| row.scores.clone()).collect());
        match self.format {
            OutputFormat::Triplet | OutputFormat::NTuple => {
                let width = self.rows.first().map_or(0, |row| row.documents.len());
                for i in 0..width {
                    let name = match (i, self.format) {
                        (0, _) => self.positive_name.to_owned(),
                        (_, OutputFormat::Triplet) => "negative".to_owned(),
                        _ => format!("negative_{i}"),
                    };
                    columns.push(OutputColumn::new(&name, nth(i)));
                }
                if self.has_scores {
                    columns.push(OutputColumn::new("scores", scores()));
                }
            }
            OutputFormat::LabeledPair => {
                columns.push(OutputColumn::new(self.positive_name, nth(0)));
                columns.push(if self.has_scores {
                    let scores = rows.map(|row| row.scores[0]);
                    OutputColumn::new("score", Cells::Floats(scores.collect()))
                } else {
                    let labels = rows.map(|row| i64::from(row.starts_with_positive));
                    OutputColumn::new("label", Cells::Integers(labels.collect()))
                });
            }
            OutputFormat::LabeledList => {
                let texts = rows
                    .clone()
                    .map(|row| row.documents.iter().map(text).collect());
                columns.push(OutputColumn::new(
                    self.positive_name,
                    Cells::TextLists(texts.collect()),
                ));
                columns.push(if self.has_scores {
                    OutputColumn::new("scores", scores())
                } else {
                    let labels = rows.map(|row| {
                        (0..row.documents.len())
                            .map(|i| i64::from(i == 0))
                            .collect()
                    });
                    OutputColumn::new("labels", Cells::IntegerLists(labels.collect()))
                });
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mining_options_are_named_by_their_flags() {
        let error = SearchError::Option {
            option: "range_min",
            problem: "found 9".to_owned(),
        };
        let error = usage_error(error);
        assert_eq!(error.to_string(), "--range-min: found 9");
        assert!(error.is::<UsageError>());
    }
}
