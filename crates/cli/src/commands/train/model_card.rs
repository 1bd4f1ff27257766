//! README.md of a trained model, out of the run's facts.

use std::{fs, path::Path};

use data::Labels;
use launcher::{libtorch::Libtorch, version::VERSION};
use model::{AdapterConfig, SentenceTransformer};
use serde_json::{Map, Value};
use train::{Evaluation, METRICS, TrainingData};

use crate::{
    card::{
        AdapterFacts, Card, Column, DataSection, N_DESCRIBED, N_SAMPLES, ResultSection, Stated,
    },
    commands::train::{
        prepared::{LossFacts, Prepared},
        results::Results,
    },
    config::to_toml,
    device,
    flags::train::TrainFlags,
    source,
};

/// The card of the model that a run in the folder `run` has trained. `id` is the repository that it is pushed to, if
/// any.
pub(super) fn model_card(
    flags: &TrainFlags,
    prepared: &Prepared,
    model: &SentenceTransformer,
    results: &Results,
    run: &Path,
    id: Option<&str>,
) -> anyhow::Result<String> {
    let adapter = model.adapter();
    let base = adapter.map_or(flags.model.as_str(), AdapterConfig::base);
    let on_hub = source::model_on_hub(base);
    let is_base_on_hub = on_hub.is_some();
    let training = prepared.training().zip(&flags.train_data);
    let evaluations = prepared.evaluations().zip(&flags.eval_data);
    let card = Card {
        stated: Stated {
            name: flags.hub.model_card_name.clone(),
            languages: flags.hub.model_card_language.clone(),
            license: flags.hub.model_card_license.clone(),
            tags: flags.hub.model_card_tags.clone(),
            id: id.map(str::to_owned),
        },
        base: on_hub.unwrap_or_else(|| last_part(base)),
        is_base_on_hub,
        adapter: adapter.map(|adapter| AdapterFacts {
            rank: adapter.rank(),
            alpha: adapter.alpha(),
            dropout: adapter.dropout(),
            is_rslora: adapter.is_rslora(),
            modules: adapter.modules().to_vec(),
        }),
        max_length: model.max_seq_length(),
        dimension: usize::try_from(model.dimension())?,
        similarity: model.similarity_fn_name().to_string(),
        training: training
            .map(|((data, loss), source)| section(data, loss, &source.value))
            .collect(),
        evaluation: evaluations
            .filter_map(|((evaluation, loss), source)| {
                Some(section(evaluation.data()?, loss, &source.value))
            })
            .collect(),
        losses: prepared.loss_classes(),
        results: result_sections(&prepared.tests, results),
        logs: logs(&run.join(METRICS)),
        configuration: to_toml(flags)?,
        versions: versions(),
    };
    Ok(card.to_markdown())
}

/// The name of a folder or file, without the folders above it.
fn last_part(path: &str) -> String {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn section(data: &TrainingData, loss: &LossFacts, source: &str) -> DataSection {
    let dataset = &data.dataset;
    let n_described = dataset.n_rows().min(N_DESCRIBED);
    let mut columns: Vec<Column> = dataset
        .columns
        .iter()
        .zip(&data.tokens.columns)
        .map(|(column, tokens)| {
            let lengths = (0..n_described).map(|row| tokens.get(row).len() as f64);
            described(&column.name, "string", lengths)
        })
        .collect();
    let label = |row: usize| match &dataset.labels {
        Some(Labels::Integer(labels)) => labels.get(row).map(|label| (*label as f64, "int")),
        Some(Labels::Float(labels)) => labels.get(row).map(|label| (f64::from(*label), "float")),
        _ => None,
    };
    if let Some((_, kind)) = label(0) {
        let values = (0..n_described).filter_map(label).map(|(value, _)| value);
        columns.push(described("label", kind, values));
    }
    let sample = |row: usize| {
        let texts = dataset.columns.iter();
        let mut cells: Vec<String> = texts
            .map(|column| column.texts.get(row).unwrap_or_default().to_owned())
            .collect();
        cells.extend(label(row).map(|(value, _)| value.to_string()));
        cells
    };
    DataSection {
        name: dataset.name.clone(),
        id: source::dataset_on_hub(source),
        n_rows: data.n_rows(),
        columns,
        samples: (0..dataset.n_rows().min(N_SAMPLES)).map(sample).collect(),
        loss: loss.class.to_owned(),
        parameters: loss.parameters.clone(),
    }
}

fn described(name: &str, kind: &'static str, values: impl Iterator<Item = f64>) -> Column {
    let values: Vec<f64> = values.collect();
    Column {
        name: name.to_owned(),
        kind,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        mean: values.iter().sum::<f64>() / values.len() as f64,
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

/// The metrics of test data and tables, each with its evaluator; none where nothing was measured.
fn result_sections(tests: &[Evaluation], results: &Results) -> Vec<ResultSection> {
    let Some(after) = &results.after else {
        return Vec::new();
    };
    let section = |test: &Evaluation| {
        let name = test.evaluator_name()?;
        let words: Vec<String> = name.split('-').map(capitalised).collect();
        let task = match name {
            "embedding-similarity" => "Semantic Similarity".to_owned(),
            _ => words.join(" "),
        };
        let prefix = format!("{}_", test.name());
        let short = |key: &str| key.strip_prefix(&prefix).unwrap_or(key).to_owned();
        let before = |key: &str| results.before.as_ref().and_then(|before| before.get(key));
        // The metrics of several are in one list.
        let is_own = |key: &str| tests.len() == 1 || key.starts_with(&prefix);
        Some(ResultSection {
            task,
            evaluator: format!("{}Evaluator", words.concat()),
            dataset: test.name().to_owned(),
            primary: short(after.primary_key()),
            metrics: after
                .iter()
                .filter(|(key, _)| is_own(key))
                .map(|(key, after)| (short(key), before(key), after))
                .collect(),
        })
    };
    tests.iter().filter_map(section).collect()
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// The lines of the run's log that can be read.
fn logs(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| match serde_json::from_str(line) {
        Ok(Value::Object(line)) => Some(line),
        _ => None,
    };
    text.lines().filter_map(line).collect()
}

fn versions() -> Vec<(String, String)> {
    let libtorch = shim::cuda::libtorch_folder().and_then(|folder| Libtorch::at(&folder));
    let libtorch = libtorch.and_then(|libtorch| libtorch.version().map(ToString::to_string));
    let rows = [
        ("sentune", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", libtorch.unwrap_or_else(|| VERSION.to_owned())),
        ("Device", format!("{:?}", device::chosen())),
        (
            "System",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
    ];
    rows.map(|(name, version)| (name.to_owned(), version))
        .into()
}
