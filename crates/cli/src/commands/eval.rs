//! `sentune eval`: one model put through one evaluator or several.

mod classifier;
mod columns;
mod input;
mod part;
mod subject;
mod tasks;

use eval::{
    Metrics,
    bootstrap::{Bootstrap, Interval},
    csv::At,
};
use serde_json::{Value, json};

use self::{
    input::Input,
    part::Plan,
    subject::{Evaluated, Subject},
};
use crate::{
    flags::eval::{EvalFlags, MainScore},
    models::{encode_options, load_model},
    output::{print, print_json},
    session::Session,
    table::table,
};

/// Prints the evaluators' metrics, as a table or as one JSON object.
pub(crate) fn run(flags: &EvalFlags, session: &Session) -> anyhow::Result<()> {
    let plan = Plan::new(flags)?;
    // All data first, so that what is wrong with it shows before a model is opened.
    let inputs = plan
        .parts
        .iter()
        .map(|part| Input::load(part, flags, session))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut model = load_model(&flags.model, session)?;
    let encoding = encode_options(&flags.options.encoding, &mut model)?;
    let own_similarity = model.similarity_fn_name();
    let subject = Subject {
        flags,
        model: &model,
        encoding,
        options: flags.of_evaluators.options(&flags.options, own_similarity),
        how: flags.confidence.map(|confidence| Bootstrap {
            resamples: flags.bootstrap as usize,
            confidence,
            seed: flags.seed,
        }),
        session,
    };
    let mut all = Vec::with_capacity(inputs.len());
    for input in inputs {
        let evaluated = input.evaluate(&subject)?;
        if let Some(folder) = &flags.csv_dir {
            for (table, metrics) in &evaluated.csv {
                table.append(folder, At::Outside, metrics)?;
            }
        }
        all.push(evaluated);
    }
    show(flags, plan.is_sequential, all)
}

/// Prints the outcome of all evaluators.
fn show(flags: &EvalFlags, is_sequential: bool, all: Vec<Evaluated>) -> anyhow::Result<()> {
    let metrics: Vec<Metrics> = all.iter().map(|one| one.metrics.clone()).collect();
    let (metrics, what) = match all.as_slice() {
        [one] if !is_sequential => (one.metrics.clone(), one.what.clone()),
        all => {
            let whats: Vec<&str> = all.iter().map(|one| one.what.as_str()).collect();
            let score = |scores: &[f64]| one_score(flags.main_score, scores);
            (Metrics::sequential(&metrics, score), whats.join(" + "))
        }
    };
    let intervals: Vec<&(String, Interval)> = all.iter().flat_map(|one| &one.intervals).collect();
    // Of equal keys the last, as for the metrics.
    let interval_of = |key: &str| intervals.iter().rev().find(|(other, _)| other == key);
    let percent = flags
        .confidence
        .map(|share| format!("{}", (share * 1e4).round() / 1e2));
    if flags.json {
        let mut object = serde_json::to_value(&metrics)?;
        if let (Some(percent), Value::Object(object)) = (&percent, &mut object) {
            let bounds = metrics.iter().filter_map(|(key, _)| {
                let (_, interval) = interval_of(key)?;
                Some((key.to_owned(), json!([interval.low, interval.high])))
            });
            object.insert(
                format!("interval_{percent}"),
                Value::Object(bounds.collect()),
            );
        }
        return Ok(print_json(&object)?);
    }
    let rows: Vec<Vec<String>> = metrics
        .iter()
        .map(|(key, value)| {
            let mut row = vec![key.to_owned(), format!("{value:.4}")];
            if percent.is_some() {
                row.push(interval_of(key).map_or_else(String::new, |(_, interval)| {
                    format!("{:.4} to {:.4}", interval.low, interval.high)
                }));
            }
            row
        })
        .collect();
    let title = percent.map(|percent| format!("{percent} % interval"));
    let mut header = vec![what.as_str(), "value"];
    header.extend(title.as_deref());
    Ok(print(&table(&header, &rows))?)
}

fn one_score(main: MainScore, scores: &[f64]) -> f64 {
    match main {
        MainScore::Last => scores.last().copied().unwrap_or(f64::NAN),
        MainScore::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
        MainScore::Max => scores.iter().copied().fold(f64::NAN, f64::max),
        MainScore::Min => scores.iter().copied().fold(f64::NAN, f64::min),
    }
}
