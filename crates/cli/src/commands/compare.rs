//! `sentune compare`: two models on one data set.

use anyhow::Context;
use data::Dataset;
use eval::bootstrap::{Bootstrap, Interval};
use serde_json::json;
use train::{ColumnEmbeddings, Evaluation};

use crate::{
    flags::{compare::CompareFlags, eval::EvalDataOptions},
    models::{encode_evaluation, encode_options, load_model, short_name},
    output::{print, print_json},
    session::Session,
    source::{self, DataOptions},
    table::table,
    tokenizing::tokenize,
};

/// One metric of both models.
pub(crate) struct Difference {
    pub(crate) key: String,
    pub(crate) first: f64,
    pub(crate) second: f64,
    /// Interval of second minus first; none for a maximum over similarities.
    pub(crate) interval: Option<Interval>,
}

/// Prints each metric of both models and their difference with a 95 % interval.
pub(crate) fn run(flags: &CompareFlags, session: &Session) -> anyhow::Result<()> {
    let [first, second] = flags.models.as_slice() else {
        anyhow::bail!("compare needs two models, got {}", flags.models.len());
    };
    let (before, first_embeddings) = evaluate(first, flags, session)?;
    let (after, second_embeddings) = evaluate(second, flags, session)?;
    let how = Bootstrap {
        resamples: flags.bootstrap as usize,
        seed: flags.seed,
        ..Bootstrap::default()
    };
    let differences = differences(
        [&before, &after],
        [&first_embeddings, &second_embeddings],
        &how,
    )?;
    if flags.json {
        for Difference {
            key,
            first,
            second,
            interval,
        } in &differences
        {
            let bounds = interval
                .as_ref()
                .map(|interval| [interval.low, interval.high]);
            print_json(&json!({
                "type": "metric", "metric": key, "first": first, "second": second,
                "difference": second - first, "interval_95": bounds,
            }))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(
            |Difference {
                 key,
                 first,
                 second,
                 interval,
             }| {
                let interval = interval.as_ref().map_or_else(String::new, |interval| {
                    format!("{:+.4} to {:+.4}", interval.low, interval.high)
                });
                let change = format!("{:+.4}", second - first);
                vec![
                    key.clone(),
                    format!("{first:.4}"),
                    format!("{second:.4}"),
                    change,
                    interval,
                ]
            },
        )
        .collect();
    let header = [
        "metric",
        &short_name(first),
        &short_name(second),
        "difference",
        "95 % interval",
    ];
    Ok(print(&table(&header, &rows))?)
}

/// Every metric of two models on the same data, with the interval of its difference. Each model has an evaluation of its
/// own, since tokenizers may differ.
pub(crate) fn differences(
    evaluations: [&Evaluation; 2],
    embeddings: [&ColumnEmbeddings; 2],
    how: &Bootstrap,
) -> anyhow::Result<Vec<Difference>> {
    let [first, second] = [0, 1].map(|i| evaluations[i].metrics(embeddings[i]));
    let (first, second) = (first?, second?);
    let [before, after] = [0, 1].map(|i| evaluations[i].row_figures(embeddings[i]));
    let rows = before?.zip(after?);
    let intervals = rows.and_then(|(before, after)| before.differences(&after, how));
    let intervals = intervals.unwrap_or_default();
    first
        .iter()
        .map(|(key, value)| {
            let interval = intervals.iter().find(|(of, _)| of == key);
            Ok(Difference {
                key: key.to_owned(),
                first: value,
                second: second
                    .get(key)
                    .context("both models give the same metrics")?,
                interval: interval.map(|(_, interval)| *interval),
            })
        })
        .collect()
}

/// The data set that evaluation flags name.
fn load_eval_data(
    source: &str,
    flags: &EvalDataOptions,
    session: &Session,
) -> anyhow::Result<Dataset> {
    let options = DataOptions {
        name: flags.name.clone(),
        columns: flags.columns.clone(),
        max_rows: flags.max_samples,
        on_bad_row: Some(flags.on_bad_row),
        reading: flags.reading.clone(),
        ..DataOptions::default()
    };
    source::dataset(source, flags.split, &options, session)
}

fn evaluate(
    name: &str,
    flags: &CompareFlags,
    session: &Session,
) -> anyhow::Result<(Evaluation, ColumnEmbeddings)> {
    let dataset = load_eval_data(&flags.data, &flags.options, session)?;
    let mut model = load_model(name, session)?;
    let options = encode_options(&flags.options.encoding, &mut model)?;
    let data = tokenize(dataset, model.tokenizer(), session)?;
    let evaluation = Evaluation::new(data, &flags.options.similarities(), options)?;
    let embeddings = encode_evaluation(&evaluation, &model, session)?;
    Ok((evaluation, embeddings))
}
