//! `sentune data`: statistics of data sets, conversions into others, and doubts about rows.

mod audit;
mod files;
pub(crate) mod stat;

use data::{
    Cells, Dataset, Labels, OnBadRow, OutputColumn,
    nli::{self, Relation},
    split::{PartSize, split},
};

use crate::{
    commands::data::files::{load, write},
    flags::data::{ConvertFlags, DataCommand, SplitFlags, TripletsFlags},
    output::{check_free, table_format},
    session::Session,
    usage::UsageError,
};

/// Runs the subcommand.
pub(crate) fn run(command: &DataCommand, session: &Session) -> anyhow::Result<()> {
    match command {
        DataCommand::Stat(flags) => {
            let dataset = load(&flags.data, OnBadRow::Skip, session)?;
            stat::run(flags, &dataset, session)
        }
        DataCommand::Convert(flags) => convert(flags, session),
        DataCommand::Split(flags) => split_into_parts(flags, session),
        DataCommand::Triplets(flags) => triplets(flags, session),
        DataCommand::Audit(flags) => audit::run(flags, session),
    }
}

fn convert(flags: &ConvertFlags, session: &Session) -> anyhow::Result<()> {
    let format = flags.output.check()?;
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    write(&flags.output.path, format, &dataset.output_columns())
}

fn split_into_parts(flags: &SplitFlags, session: &Session) -> anyhow::Result<()> {
    let size = |flag: &str, size: f64| match size {
        0.0..1.0 => Ok(PartSize::Share(size)),
        size if size >= 1.0 && size.fract() == 0.0 => Ok(PartSize::Rows(size as usize)),
        _ => Err(UsageError(format!(
            "{flag}: found {size}, allowed: a share from 0 to below 1, or a number of rows"
        ))),
    };
    let (dev, test) = (size("--dev", flags.dev)?, size("--test", flags.test)?);
    let path = |part: &str| flags.output_dir.join(format!("{part}.{}", flags.format));
    for part in ["train", "dev", "test"] {
        check_free("--output-dir:", &path(part), flags.overwrite)?;
    }
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    let parts =
        split(&dataset, dev, test, flags.seed, flags.no_shared_anchors).ok_or_else(|| {
            UsageError(format!(
                "--dev {} and --test {} leave nothing of {} rows to train on: lower them",
                flags.dev,
                flags.test,
                dataset.n_rows()
            ))
        })?;
    for (part, rows) in [
        ("train", parts.train),
        ("dev", parts.dev),
        ("test", parts.test),
    ] {
        let path = path(part);
        // A part that was not asked for has no file; one that lies there from before is not this split's.
        if rows.is_empty() {
            if path.exists() {
                fs_err::remove_file(&path)?;
            }
            continue;
        }
        let format = table_format("--format", &path)?;
        write(&path, format, &dataset.select(&rows).output_columns())?;
    }
    Ok(())
}

fn triplets(flags: &TripletsFlags, session: &Session) -> anyhow::Result<()> {
    let format = flags.output.check()?;
    if flags.entailment == flags.contradiction {
        return Err(UsageError(format!(
            "--entailment and --contradiction are both {}: they must differ",
            flags.entailment
        ))
        .into());
    }
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    let relations = relations(&dataset, flags)?;
    let [premises, hypotheses] = [0, 1].map(|i| &dataset.columns[i].texts);
    let rows = premises.iter().zip(hypotheses.iter()).zip(relations);
    let rows = rows.map(|((premise, hypothesis), relation)| (premise, hypothesis, relation));
    let triplets = nli::triplets(rows, flags.max_per_positive.unwrap_or(usize::MAX));
    if triplets.is_empty() {
        anyhow::bail!(
            "{}: no premise has both a hypothesis labelled {} and one labelled {}: say what the labels are with --entailment and --contradiction",
            dataset.name,
            flags.entailment,
            flags.contradiction
        );
    }
    let (positives, negatives): (Vec<u32>, Vec<u32>) = triplets.into_iter().unzip();
    let anchors = premises.select(&positives);
    let (positives, negatives) = (hypotheses.select(&positives), hypotheses.select(&negatives));
    let columns = [
        ("anchor", &anchors),
        ("positive", &positives),
        ("negative", &negatives),
    ]
    .map(|(name, texts)| OutputColumn::new(name, Cells::Texts(texts.iter().collect())));
    write(&flags.output.path, format, &columns)
}

/// The relation of each hypothesis to its premise, from labels or from a third column of words.
fn relations(dataset: &Dataset, flags: &TripletsFlags) -> Result<Vec<Relation>, UsageError> {
    let of = |is_entailment, is_contradiction| match (is_entailment, is_contradiction) {
        (true, _) => Relation::Entailment,
        (_, true) => Relation::Contradiction,
        _ => Relation::Other,
    };
    match (dataset.columns.as_slice(), &dataset.labels) {
        ([_, _], Some(Labels::Integer(labels))) => Ok(labels
            .iter()
            .map(|label| of(*label == flags.entailment, *label == flags.contradiction))
            .collect()),
        ([_, _, words], None) => Ok(words
            .texts
            .iter()
            .map(|word| of(word == "entailment", word == "contradiction"))
            .collect()),
        _ => Err(UsageError(format!(
            "--data {} has the text columns {} and {}, but premise, hypothesis and a whole number as label, or a third text column with `entailment` and `contradiction`, are needed: choose them with --columns",
            flags.data.data,
            dataset.column_names().join(", "),
            match &dataset.labels {
                None => "no labels",
                Some(Labels::Integer(_)) => "labels",
                Some(Labels::Float(_)) => "scores",
                Some(Labels::Vector { .. }) => "lists as labels",
            }
        ))),
    }
}
