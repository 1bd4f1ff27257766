//! NanoBEIR, by name through the hub.

use std::path::PathBuf;

use anyhow::Context;
use eval::{
    Evaluator, Inputs, NanoBeirEvaluator, RetrievalTask,
    entry::{self, Cells, Entry},
    nano_beir::{DATASET_ID, NanoDataset, SUBSETS},
};
use wording::counted;

use super::subject::{Evaluated, Subject};
use crate::{flags::eval::EvalFlags, session::Session, source, tables};

/// Some of its tasks, each with its tables.
pub(super) struct NanoBeir {
    entry: &'static Entry,
    tasks: Vec<(NanoDataset, Vec<entry::Columns>)>,
}

impl NanoBeir {
    /// Brings the tasks' files from the hub, or takes them from its cache.
    pub(super) fn load(
        entry: &'static Entry,
        names: Option<&str>,
        flags: &EvalFlags,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let datasets = NanoDataset::list(names)?;
        let id = flags
            .of_evaluators
            .text("nano-beir-data")
            .unwrap_or(DATASET_ID);
        let names: Vec<String> = datasets.iter().map(|dataset| dataset.split()).collect();
        let splits: Vec<(&str, &str)> = names
            .iter()
            .flat_map(|name| SUBSETS.map(|subset| (subset, name.as_str())))
            .collect();
        let files = source::splits(id, &splits, session).with_context(|| {
            format!("--evaluator nano-beir: data set `{id}` could not be had from the hub")
        })?;
        let tasks = datasets.into_iter().zip(files.chunks(SUBSETS.len()));
        let tasks = tasks.map(|(dataset, files)| Ok((dataset, read(dataset, files)?)));
        Ok(Self {
            entry,
            tasks: tasks.collect::<anyhow::Result<_>>()?,
        })
    }

    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        let evaluator = NanoBeirEvaluator::with_options(&subject.options)?;
        let (mut tasks, mut rows, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        for (dataset, tables) in self.tasks {
            let name = evaluator.name_of(dataset);
            let task = RetrievalTask::new(&name, &subject.options, tables)?;
            let embeddings = subject.embed_sides(self.entry, &task.texts, &name)?;
            let inputs = Inputs::new(&embeddings);
            outcomes.push(subject.evaluate(&task.evaluator, &inputs, String::new())?);
            if subject.how.is_some() {
                rows.extend(task.evaluator.rows(&inputs)?);
            }
            tasks.push(task.evaluator);
        }
        let measured: Vec<_> = tasks
            .iter()
            .zip(&outcomes)
            .map(|(task, outcome)| (task, &outcome.metrics))
            .collect();
        let metrics = evaluator.aggregate(&measured)?;
        let means = match &subject.how {
            Some(how) => evaluator.intervals(&measured, &rows.iter().collect::<Vec<_>>(), how)?,
            None => Vec::new(),
        };
        let n_queries: usize = tasks.iter().map(|task| task.queries().len()).sum();
        let what = format!(
            "{} of {}",
            counted(n_queries, self.entry.unit),
            counted(tasks.len(), "tasks")
        );
        let (mut intervals, mut csv) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            intervals.extend(outcome.intervals);
            csv.extend(outcome.csv);
        }
        intervals.extend(means);
        csv.push((evaluator.csv(&tasks[0]), metrics.clone()));
        Ok(Evaluated {
            what,
            metrics,
            intervals,
            csv,
        })
    }
}

/// Reads a task from the files of its subsets, in the order of [`SUBSETS`]. Empty texts are left out, and every
/// judgement is of a relevant document, as upstream has it.
fn read(dataset: NanoDataset, files: &[Vec<PathBuf>]) -> anyhow::Result<Vec<entry::Columns>> {
    let [corpus, queries, qrels] = files else {
        anyhow::bail!("{dataset}: {} subsets in place of three", files.len());
    };
    let [of_queries, of_corpus, of_qrels] = RetrievalTask::tables();
    Ok(vec![
        without_empty(tables::read_files(of_queries, queries)?),
        without_empty(tables::read_files(of_corpus, corpus)?),
        tables::read_files(of_qrels, qrels)?,
    ])
}

/// Ids and texts without the rows whose text is empty.
fn without_empty(mut columns: entry::Columns) -> entry::Columns {
    if let [Some(Cells::Texts(ids)), Some(Cells::Texts(texts))] = columns.as_mut_slice() {
        let mut is_kept = texts.iter().map(|text| !text.is_empty());
        ids.retain(|_| is_kept.next().unwrap_or(true));
        texts.retain(|text| !text.is_empty());
    }
    columns
}
