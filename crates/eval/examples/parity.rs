//! Our evaluators on the embeddings of xtask/peer/parity.py: writes the metrics of each case to ours.jsonl.
//!
//! `cargo xtask parity` runs it: `cargo run -p eval --example parity -- FOLDER`.

use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator,
    LabelAccuracyEvaluator, Margin, Metrics, MseEvaluator, NanoBeirEvaluator,
    ParaphraseMiningEvaluator, RerankingEvaluator, SimilarityFunction, TranslationEvaluator,
    TripletEvaluator,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use tch::Tensor;

type Failed = Box<dyn Error>;

fn main() -> Result<(), Failed> {
    let folder = std::env::args().nth(1).ok_or("name the folder")?;
    let folder = Path::new(&folder);
    tch::set_num_threads(1);
    let tensors: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder.join("embeddings.safetensors"))?
            .into_iter()
            .collect();
    let cases: Vec<Value> = serde_json::from_slice(&fs_err::read(folder.join("cases.json"))?)?;
    let mut done: Vec<(String, String, Metrics)> = Vec::new();
    let mut lines = String::new();
    for case in &cases {
        let (evaluator, title) = (text(&case["evaluator"])?, text(&case["title"])?);
        let metrics = if evaluator == "sequential" {
            let parts: Vec<(String, String)> = get(&case["inputs"]["parts"])?;
            let find = |(evaluator, title): &(String, String)| {
                let found = done.iter().find(|(e, t, _)| e == evaluator && t == title);
                found
                    .map(|(.., metrics)| metrics.clone())
                    .ok_or("no such part")
            };
            let parts = parts.iter().map(find).collect::<Result<Vec<_>, _>>()?;
            Metrics::sequential(&parts, |scores| scores[scores.len() - 1])
        } else {
            evaluate(evaluator, &case["inputs"], &tensors)?
        };
        lines += &json!({"metrics": metrics, "primary": metrics.primary_key()}).to_string();
        lines.push('\n');
        done.push((evaluator.to_owned(), title.to_owned(), metrics));
    }
    fs_err::write(folder.join("ours.jsonl"), lines)?;
    Ok(())
}

fn evaluate(
    evaluator: &str,
    inputs: &Value,
    tensors: &HashMap<String, Tensor>,
) -> Result<Metrics, Failed> {
    let all = tensors.get("embeddings").ok_or("no embeddings")?;
    let name = inputs["name"].as_str().unwrap_or_default();
    let rows = |columns: &Value, i: usize| -> Result<Tensor, Failed> {
        let rows: Vec<i64> = get(&columns[i])?;
        Ok(all.f_index_select(0, &Tensor::f_from_slice(&rows)?)?)
    };
    let column = |i: usize| rows(&inputs["columns"], i);
    let functions = || get::<Vec<SimilarityFunction>>(&inputs["functions"]);
    Ok(match evaluator {
        "triplet" => {
            let mut evaluator = TripletEvaluator::new(name, &functions()?);
            if !inputs["margin"].is_null() {
                evaluator.margin = Margin::Each(get(&inputs["margin"])?);
            }
            evaluator.evaluate(&column(0)?, &column(1)?, &column(2)?)?
        }
        "embedding-similarity" => {
            let mut evaluator = EmbeddingSimilarityEvaluator::new(name, &functions()?);
            if let Some(precision) = inputs["precision"].as_str() {
                evaluator.precision = Some(precision.parse()?);
            }
            let scores: Vec<f64> = get(&inputs["scores"])?;
            evaluator.evaluate(&column(0)?, &column(1)?, &scores)?
        }
        "binary-classification" => {
            let labels: Vec<i64> = get(&inputs["labels"])?;
            let labels: Vec<bool> = labels.into_iter().map(|label| label == 1).collect();
            let evaluator = BinaryClassificationEvaluator::new(name, &functions()?);
            evaluator.evaluate(&column(0)?, &column(1)?, &labels)?
        }
        "information-retrieval" => {
            let (evaluator, queries, corpus) = retrieval(name, &functions()?, inputs, &rows)?;
            evaluator.evaluate(&queries, &corpus)?
        }
        "nano-beir" => {
            let functions = functions()?;
            let nano = NanoBeirEvaluator::new(&functions);
            let datasets = inputs["datasets"].as_array().ok_or("no data sets")?;
            let mut tasks = Vec::new();
            for dataset in datasets {
                let name = nano.name_of(text(&dataset["dataset"])?.parse()?);
                let (task, queries, corpus) = retrieval(&name, &functions, dataset, &rows)?;
                let metrics = task.evaluate(&queries, &corpus)?;
                tasks.push((task, metrics));
            }
            let tasks: Vec<_> = tasks
                .iter()
                .map(|(task, metrics)| (task, metrics))
                .collect();
            nano.aggregate(&tasks)?
        }
        "reranking" => {
            let mut evaluator = RerankingEvaluator::new(name);
            evaluator.similarity_fn_name = get(&inputs["function"])?;
            let sizes: Vec<(usize, usize)> = get(&inputs["sizes"])?;
            evaluator.evaluate(&column(0)?, &column(1)?, &sizes)?
        }
        "paraphrase-mining" => {
            let ids: Vec<String> = get(&inputs["ids"])?;
            let duplicates: Vec<(String, String)> = get(&inputs["duplicates"])?;
            let closure = inputs["closure"] == json!(true);
            let evaluator = ParaphraseMiningEvaluator::new(name, &ids, &duplicates, closure);
            evaluator.evaluate(&column(0)?)?
        }
        "translation" => TranslationEvaluator::new(name).evaluate(&column(0)?, &column(1)?)?,
        "mse" => MseEvaluator::new(name).evaluate(&column(0)?, &column(1)?)?,
        "label-accuracy" => {
            let labels: Vec<i64> = get(&inputs["labels"])?;
            let logits = tensors.get("logits").ok_or("no logits")?;
            LabelAccuracyEvaluator::new(name).evaluate(logits, &labels)?
        }
        other => return Err(format!("no evaluator {other}").into()),
    })
}

/// A retrieval task with the embeddings of its queries and its corpus.
fn retrieval(
    name: &str,
    functions: &[SimilarityFunction],
    inputs: &Value,
    rows: &dyn Fn(&Value, usize) -> Result<Tensor, Failed>,
) -> Result<(InformationRetrievalEvaluator, Tensor, Tensor), Failed> {
    let query_ids: Vec<String> = get(&inputs["query_ids"])?;
    let corpus_ids: Vec<String> = get(&inputs["corpus_ids"])?;
    let relevant: HashMap<String, HashSet<String>> = get(&inputs["relevant"])?;
    let mut evaluator =
        InformationRetrievalEvaluator::new(name, functions, &query_ids, &corpus_ids, &relevant)?;
    if let Some(chunk) = inputs["chunk"].as_u64() {
        evaluator.corpus_chunk_size = chunk as usize;
    }
    let columns = &inputs["columns"];
    Ok((evaluator, rows(columns, 0)?, rows(columns, 1)?))
}

fn get<T: DeserializeOwned>(value: &Value) -> Result<T, Failed> {
    Ok(serde_json::from_value(value.clone())?)
}

fn text(value: &Value) -> Result<&str, Failed> {
    Ok(value.as_str().ok_or("no text")?)
}
