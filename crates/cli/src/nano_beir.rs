//! NanoBEIR, by name through the hub.

use std::path::PathBuf;

use anyhow::Context;
use eval::{
    EvalError, Options, RetrievalTask,
    entry::{self, Cells, Entry, Prepared},
    nano_beir::{DATASET_ID, NanoBeirTasks, NanoDataset, SUBSETS},
};

use crate::{flags::eval::EvaluatorFlags, session::Session, source, tables};

/// The flag that names the data set of the tasks.
pub(crate) const NANO_BEIR_DATA: &str = "nano-beir-data";

/// Some of its tasks, each with its tables.
#[derive(Debug, Clone)]
pub(crate) struct NanoBeir {
    pub(crate) entry: &'static Entry,
    pub(crate) tasks: Vec<(NanoDataset, Vec<entry::Columns>)>,
}

impl NanoBeir {
    /// Brings the tasks' files from the hub, or takes them from its cache.
    pub(crate) fn load(
        entry: &'static Entry,
        names: Option<&str>,
        flags: &EvaluatorFlags,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let datasets = NanoDataset::list(names)?;
        let id = flags.text(NANO_BEIR_DATA).unwrap_or(DATASET_ID);
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

    /// Makes one evaluator of all tasks.
    pub(crate) fn prepare(self, options: &Options) -> Result<Prepared, EvalError> {
        NanoBeirTasks::prepare(options, self.tasks)
    }

    /// A digest of all cells.
    pub(crate) fn sha256(&self) -> String {
        tables::sha256(self.tasks.iter().flat_map(|(_, tables)| tables))
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
