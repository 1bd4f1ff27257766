//! `sentune eval`: one model put through one evaluator or several.

mod classifier;
mod columns;
mod nano_beir;
mod plan;
mod retrieval;

use eval::{
    Metrics,
    bootstrap::{Bootstrap, Interval},
    csv,
};
use model::{EncodeOptions, ModelError, SentenceTransformer, Task};
use serde_json::{Value, json};
use tch::Tensor;

use self::plan::Plan;
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
        .map(|part| part.load(flags, session))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut model = load_model(&flags.model, session)?;
    let options = encode_options(&flags.options.encoding, &mut model)?;
    let bench = Bench {
        flags,
        model: &model,
        options,
        how: flags.confidence.map(|confidence| Bootstrap {
            resamples: flags.bootstrap as usize,
            confidence,
            seed: flags.seed,
        }),
        session,
    };
    let mut all = Vec::with_capacity(inputs.len());
    for input in inputs {
        let evaluated = input.evaluate(&bench)?;
        if let Some(folder) = &flags.csv_dir {
            for file in &evaluated.csv {
                csv::append(&folder.join(&file.name), &file.header, &file.row)?;
            }
        }
        all.push(evaluated);
    }
    show(flags, plan.is_sequential, all)
}

/// What all evaluators work with.
struct Bench<'a> {
    flags: &'a EvalFlags,
    model: &'a SentenceTransformer,
    options: EncodeOptions,
    /// How intervals are found, where they are asked for.
    how: Option<Bootstrap>,
    session: &'a Session,
}

impl Bench<'_> {
    /// The embeddings of texts under a bar: `[texts, dimension]`.
    fn embed(
        &self,
        model: &SentenceTransformer,
        texts: &[&str],
        options: &EncodeOptions,
        what: &str,
    ) -> anyhow::Result<Tensor> {
        let bar = self.session.bar(what, texts.len());
        let embeddings = model.encode(texts, options, &mut self.session.following(&bar));
        bar.finish_and_clear();
        match embeddings {
            Err(ModelError::Stopped) => Err(self.session.interrupt.error()),
            embeddings => Ok(embeddings?),
        }
    }

    /// The options for one side of a search: the side's own prompt wins over that for all texts, and that over the
    /// model's for the task.
    fn side(&self, task: Task) -> EncodeOptions {
        let flags = &self.flags.retrieval;
        let (prompt, prompt_name) = match task {
            Task::Query => (&flags.query_prompt, &flags.query_prompt_name),
            Task::Document => (&flags.corpus_prompt, &flags.corpus_prompt_name),
        };
        let mut options = EncodeOptions {
            task: Some(task),
            ..self.options.clone()
        };
        if prompt.is_some() || prompt_name.is_some() {
            options.prompt.clone_from(prompt);
            options.prompt_name.clone_from(prompt_name);
        }
        options
    }

    /// The embeddings of queries and of documents.
    fn embed_sides(
        &self,
        queries: &[&str],
        documents: &[&str],
        name: &str,
    ) -> anyhow::Result<(Tensor, Tensor)> {
        let one = |task, texts, what| {
            self.embed(
                self.model,
                texts,
                &self.side(task),
                &format!("{name}: {what}"),
            )
        };
        Ok((
            one(Task::Query, queries, "queries")?,
            one(Task::Document, documents, "documents")?,
        ))
    }
}

/// What came of one evaluator.
struct Evaluated {
    /// What was evaluated, such as `60 triplets`.
    what: String,
    metrics: Metrics,
    /// By key, where intervals are asked for; not all metrics have one.
    intervals: Vec<(String, Interval)>,
    csv: Vec<CsvRow>,
}

/// A row for one of the evaluators' files.
struct CsvRow {
    name: String,
    header: Vec<String>,
    row: Vec<String>,
}

/// Prints what came of all evaluators.
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
