//! `sentune eval`: one model on one data set.

use eval::csv::At;
use train::{Evaluation, Evaluator};

use crate::{
    commands::{encode_evaluation, encode_options, load_eval_data, load_model, tokenize},
    flags::EvalFlags,
    interrupt::Interrupt,
    output::{print, print_json},
    progress::Talk,
    table::{table, thousands},
};

/// Prints the evaluator's metrics, as a table or as one JSON object.
pub(crate) fn run(flags: &EvalFlags, talk: &Talk, interrupt: &Interrupt) -> anyhow::Result<()> {
    let dataset = load_eval_data(&flags.data, talk, interrupt)?;
    let mut model = load_model(&flags.model, talk, interrupt)?;
    let options = encode_options(&flags.data.encoding, &mut model)?;
    let data = tokenize(dataset, model.tokenizer(), talk, interrupt)?;
    let evaluation = Evaluation::new(data, &flags.data.similarity, options)?;
    let embeddings = encode_evaluation(&evaluation, &model, talk, interrupt)?;
    let metrics = evaluation.metrics(&embeddings)?;
    if let Some(folder) = &flags.csv_dir {
        evaluation.append_csv(folder, &metrics, At::Outside)?;
    }
    if flags.json {
        return Ok(print_json(&metrics)?);
    }
    let unit = match evaluation.evaluator() {
        Evaluator::Triplet(_) => "triplets",
        Evaluator::EmbeddingSimilarity(_) => "scored pairs",
        Evaluator::LossOnly => "rows",
    };
    let n_rows = thousands(evaluation.data().dataset.n_rows());
    let rows: Vec<Vec<String>> = metrics
        .iter()
        .map(|(key, value)| vec![key.to_owned(), format!("{value:.4}")])
        .collect();
    Ok(print(&table(
        &[&format!("{n_rows} {unit}"), "value"],
        &rows,
    ))?)
}
