//! Our evaluators on the embeddings of xtask/peer/parity.py: writes the metrics of each case to ours.jsonl.
//!
//! `cargo xtask parity` runs it: `cargo run -p eval --example parity -- FOLDER`.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    path::Path,
};

use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, Evaluator,
    InformationRetrievalEvaluator, Inputs, LabelAccuracyEvaluator, Labels, Margin, Metrics,
    MseEvaluator, NanoBeirEvaluator, ParaphraseMiningEvaluator, RerankingEvaluator, Similarity,
    TranslationEvaluator, TripletEvaluator,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
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
    let columns = |inputs: &Value| -> Result<Vec<Tensor>, Failed> {
        let columns: Option<Vec<Vec<i64>>> = get(&inputs["columns"])?;
        let rows = |rows: Vec<i64>| Ok(all.f_index_select(0, &Tensor::f_from_slice(&rows)?)?);
        columns.unwrap_or_default().into_iter().map(rows).collect()
    };
    let name = inputs["name"].as_str().unwrap_or_default();
    let functions = || get::<Vec<Similarity>>(&inputs["functions"]);
    let made: Box<dyn Evaluator> = match evaluator {
        "triplet" => {
            let mut evaluator = TripletEvaluator::new(name, &functions()?);
            if !inputs["margin"].is_null() {
                evaluator.margin = Margin::Each(get(&inputs["margin"])?);
            }
            Box::new(evaluator)
        }
        "embedding-similarity" => {
            let mut evaluator = EmbeddingSimilarityEvaluator::new(name, &functions()?);
            if let Some(precision) = inputs["precision"].as_str() {
                evaluator.precision = Some(precision.parse()?);
            }
            Box::new(evaluator)
        }
        "binary-classification" => {
            Box::new(BinaryClassificationEvaluator::new(name, &functions()?))
        }
        "information-retrieval" => Box::new(retrieval(name, &functions()?, inputs)?),
        "nano-beir" => {
            let functions = functions()?;
            let nano = NanoBeirEvaluator::new(&functions);
            let mut tasks = Vec::new();
            for dataset in inputs["datasets"].as_array().ok_or("no data sets")? {
                let name = nano.name_of(text(&dataset["dataset"])?.parse()?);
                let task = retrieval(&name, &functions, dataset)?;
                let metrics = task.evaluate(&Inputs::new(&columns(dataset)?))?;
                tasks.push((task, metrics));
            }
            let tasks: Vec<_> = tasks
                .iter()
                .map(|(task, metrics)| (task, metrics))
                .collect();
            return Ok(nano.aggregate(&tasks)?);
        }
        "reranking" => {
            let mut evaluator = RerankingEvaluator::new(name, &get::<Vec<_>>(&inputs["sizes"])?);
            evaluator.similarity_fn_name = get(&inputs["function"])?;
            Box::new(evaluator)
        }
        "paraphrase-mining" => {
            let ids: Vec<String> = get(&inputs["ids"])?;
            let duplicates: Vec<(String, String)> = get(&inputs["duplicates"])?;
            let closure = inputs["closure"] == json!(true);
            let evaluator = ParaphraseMiningEvaluator::new(name, &ids, &duplicates, closure);
            Box::new(evaluator)
        }
        "translation" => Box::new(TranslationEvaluator::new(name)),
        "mse" => Box::new(MseEvaluator::new(name)),
        "label-accuracy" => Box::new(LabelAccuracyEvaluator::new(name)),
        other => return Err(format!("no evaluator {other}").into()),
    };
    let embeddings = match evaluator {
        "label-accuracy" => vec![tensors.get("logits").ok_or("no logits")?.shallow_clone()],
        _ => columns(inputs)?,
    };
    let labels = match (&inputs["labels"], &inputs["scores"]) {
        (Value::Null, Value::Null) => None,
        (Value::Null, scores) => Some(Labels::Scores(get(scores)?)),
        (classes, _) => Some(Labels::Classes(get(classes)?)),
    };
    // A text's row among the embeddings is its number.
    let text_ids: Option<Vec<Vec<u32>>> = get(&inputs["columns"])?;
    Ok(made.evaluate(&Inputs {
        labels: labels.as_ref(),
        text_ids: &text_ids.unwrap_or_default(),
        ..Inputs::new(&embeddings)
    })?)
}

/// The evaluator of a retrieval task.
fn retrieval(
    name: &str,
    functions: &[Similarity],
    inputs: &Value,
) -> Result<InformationRetrievalEvaluator, Failed> {
    let query_ids: Vec<String> = get(&inputs["query_ids"])?;
    let corpus_ids: Vec<String> = get(&inputs["corpus_ids"])?;
    let relevant: HashMap<String, HashSet<String>> = get(&inputs["relevant"])?;
    let mut evaluator =
        InformationRetrievalEvaluator::new(name, functions, &query_ids, &corpus_ids, &relevant)?;
    if let Some(chunk) = inputs["chunk"].as_u64() {
        evaluator.corpus_chunk_size = chunk as usize;
    }
    Ok(evaluator)
}

fn get<T: DeserializeOwned>(value: &Value) -> Result<T, Failed> {
    Ok(serde_json::from_value(value.clone())?)
}

fn text(value: &Value) -> Result<&str, Failed> {
    Ok(value.as_str().ok_or("no text")?)
}
