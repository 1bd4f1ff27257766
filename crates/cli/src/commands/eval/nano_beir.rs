//! NanoBEIR, by name through the hub.

use std::path::PathBuf;

use anyhow::Context;
use data::{Field, FieldKind, OnBadRow, Wanted, load_fields_of};
use eval::{
    NanoBeirEvaluator,
    csv::At,
    nano_beir::{DATASET_ID, NanoDataset, SUBSETS},
};

use super::{
    Bench, CsvRow, Evaluated,
    retrieval::{
        CORPUS_COLUMNS, QREL_COLUMNS, QUERY_COLUMNS, Retrieval, own_similarity, qrel_wanted,
        relevant,
    },
};
use crate::{flags::eval::EvalFlags, session::Session, source, table::counted};

/// Some of its tasks.
pub(super) struct NanoBeir {
    tasks: Vec<Retrieval>,
}

impl NanoBeir {
    /// Brings the tasks' files from the hub, or takes them from its cache.
    pub(super) fn load(
        datasets: &[NanoDataset],
        flags: &EvalFlags,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let id = flags
            .retrieval
            .nano_beir_data
            .as_deref()
            .unwrap_or(DATASET_ID);
        let names: Vec<String> = datasets.iter().map(|dataset| dataset.split()).collect();
        let splits: Vec<(&str, &str)> = names
            .iter()
            .flat_map(|name| SUBSETS.map(|subset| (subset, name.as_str())))
            .collect();
        let files = source::splits(id, &splits, session).with_context(|| {
            format!("--evaluator nano-beir: data set `{id}` could not be had from the hub")
        })?;
        let naming = NanoBeirEvaluator {
            truncate_dim: flags.options.encoding.truncate_dim,
            ..NanoBeirEvaluator::new(&[])
        };
        let tasks = datasets.iter().zip(files.chunks(SUBSETS.len()));
        let tasks = tasks.map(|(dataset, files)| task(naming.name_of(*dataset), files));
        Ok(Self {
            tasks: tasks.collect::<anyhow::Result<_>>()?,
        })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let flags = bench.flags;
        let similarities = flags
            .options
            .similarities_with(flags.main_similarity, &[own_similarity(bench.model)?])?;
        let mut evaluator = NanoBeirEvaluator::new(&similarities);
        evaluator.main_similarity = flags.main_similarity;
        evaluator.truncate_dim = flags.options.encoding.truncate_dim;
        let measured = self
            .tasks
            .iter()
            .map(|task| task.measure(bench))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let tasks: Vec<_> = measured
            .iter()
            .map(|one| (&one.evaluator, &one.metrics))
            .collect();
        let metrics = evaluator.aggregate(&tasks)?;
        let mut csv: Vec<CsvRow> = measured.iter().map(|one| one.csv()).collect();
        csv.push(CsvRow {
            name: evaluator.csv_file(),
            header: evaluator.csv_header(tasks[0].0),
            row: evaluator.csv_row(At::Outside, tasks[0].0, &metrics),
        });
        let mut intervals = Vec::new();
        let n_queries: usize = tasks.iter().map(|(task, _)| task.queries().len()).sum();
        let what = format!(
            "{} of {}",
            counted(n_queries, "queries"),
            counted(tasks.len(), "tasks")
        );
        if let Some(how) = &bench.how {
            let tasks: Vec<_> = measured
                .iter()
                .map(|one| (&one.evaluator, &one.metrics))
                .collect();
            let rows: Vec<_> = measured
                .iter()
                .filter_map(|one| one.rows.as_ref())
                .collect();
            intervals.extend(rows.iter().flat_map(|rows| rows.intervals(how)));
            intervals.extend(evaluator.intervals(&tasks, &rows, how)?);
        }
        Ok(Evaluated {
            what,
            metrics,
            intervals,
            csv,
        })
    }
}

/// Reads a task from the files of its subsets, in the order of [`SUBSETS`]. Empty texts are left out.
fn task(name: String, files: &[Vec<PathBuf>]) -> anyhow::Result<Retrieval> {
    let [corpus, queries, qrels] = files else {
        anyhow::bail!("{name}: {} subsets in place of three", files.len());
    };
    let (corpus_ids, corpus) = texts(corpus, CORPUS_COLUMNS)?;
    let (query_ids, queries) = texts(queries, QUERY_COLUMNS)?;
    let [query, document, _] = QREL_COLUMNS;
    // As upstream: every judgement is of a relevant document.
    let wanted = qrel_wanted([query, document, &[]], true);
    let relevant = relevant(load_fields_of(qrels, &wanted, OnBadRow::Error)?)?;
    Ok(Retrieval {
        name,
        query_ids,
        queries,
        corpus_ids,
        corpus,
        relevant,
    })
}

fn texts(files: &[PathBuf], names: [&[&str]; 2]) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let wanted =
        [(names[0], FieldKind::Id), (names[1], FieldKind::Text)].map(|(names, holds)| Wanted {
            names,
            holds,
            optional: false,
        });
    let mut fields = load_fields_of(files, &wanted, OnBadRow::Error)?
        .into_iter()
        .flatten();
    let (Some(Field::Texts(ids)), Some(Field::Texts(texts))) = (fields.next(), fields.next())
    else {
        anyhow::bail!("ids and texts were read as something else");
    };
    let rows = ids.into_iter().zip(texts);
    Ok(rows.filter(|(_, text)| !text.is_empty()).unzip())
}
