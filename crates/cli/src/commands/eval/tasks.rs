//! NanoBEIR's tasks, each evaluated by itself, with the intervals of their means.

use eval::{Evaluator, Inputs, NanoBeirEvaluator, RetrievalTask};
use wording::counted;

use super::subject::{Evaluated, Subject};
use crate::nano_beir::NanoBeir;

pub(super) fn evaluate(input: NanoBeir, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
    let entry = input.entry;
    let evaluator = NanoBeirEvaluator::with_options(&subject.options)?;
    let (mut tasks, mut rows, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for (dataset, tables) in input.tasks {
        let name = evaluator.name_of(dataset);
        let task = RetrievalTask::new(&name, &subject.options, tables)?;
        let embeddings = subject.embed_sides(entry, &task.texts, &name)?;
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
        counted(n_queries, entry.unit),
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
