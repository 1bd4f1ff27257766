//! The model card of a trained model: README.md with the metadata that the hub indexes, and the run in words and
//! tables.
//!
//! Keys, their order and the sections are those of sentence-transformers' cards (`base/model_card.py`,
//! `sentence_transformer/model_card_template.md`). What is not known is left out.

mod yaml;

use std::fmt;

use losses::paper::SENTENCE_BERT;
use serde_json::{Map, Value, json};
use wording::thousands;

/// Facts about a model that no run can know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(crate) name: Option<String>,
    pub(crate) languages: Vec<String>,
    pub(crate) license: Option<String>,
    pub(crate) tags: Vec<String>,
    /// The repository on the hub, where the model is pushed to one.
    pub(crate) id: Option<String>,
}

/// A model and the run that made it.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub(crate) stated: Stated,
    /// The model that was trained further: its name on the hub, or that of its folder.
    pub(crate) base: String,
    /// Whether `base` is a name on the hub.
    pub(crate) is_base_on_hub: bool,
    /// The adapter, where the folder holds one in place of weights.
    pub(crate) adapter: Option<AdapterFacts>,
    pub(crate) max_length: usize,
    pub(crate) dimension: usize,
    /// `cosine`, `dot`, `euclidean` or `manhattan`.
    pub(crate) similarity: String,
    pub(crate) training: Vec<DataSection>,
    pub(crate) evaluation: Vec<DataSection>,
    /// Class names of the losses, wrapped ones too.
    pub(crate) losses: Vec<String>,
    pub(crate) results: Vec<ResultSection>,
    /// The lines of the run's log, each with its keys in order.
    pub(crate) logs: Vec<Map<String, Value>>,
    /// The configuration of the run as TOML.
    pub(crate) configuration: String,
    /// Names and versions.
    pub(crate) versions: Vec<(String, String)>,
}

/// An adapter of low rank, in peft's terms.
#[derive(Debug, Clone)]
pub(crate) struct AdapterFacts {
    pub(crate) rank: i64,
    pub(crate) alpha: f64,
    pub(crate) dropout: f64,
    pub(crate) is_rslora: bool,
    /// Names of the linear layers.
    pub(crate) modules: Vec<String>,
}

/// A data set of a run.
#[derive(Debug, Clone)]
pub(crate) struct DataSection {
    pub(crate) name: String,
    /// Its name on the hub, where it came from there.
    pub(crate) id: Option<String>,
    pub(crate) n_rows: usize,
    pub(crate) columns: Vec<Column>,
    /// The first rows, a text for each column.
    pub(crate) samples: Vec<Vec<String>>,
    /// Class name of the loss.
    pub(crate) loss: String,
    /// The loss's parameters.
    pub(crate) parameters: Value,
}

/// A column with the lengths or values of its first rows.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `int` or `float`.
    pub(crate) kind: &'static str,
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

/// An evaluator's metrics on a data set, before and after training.
#[derive(Debug, Clone)]
pub(crate) struct ResultSection {
    /// Such as `Triplet` or `Semantic Similarity`.
    pub(crate) task: String,
    /// Such as `TripletEvaluator`.
    pub(crate) evaluator: String,
    pub(crate) dataset: String,
    /// The metric that decides which model is best.
    pub(crate) primary: String,
    /// Key without the data set's name, value before where it was measured, value after.
    pub(crate) metrics: Vec<(String, Option<f64>, f64)>,
}

/// Rows of data that are shown or described.
pub(crate) const N_SAMPLES: usize = 3;

/// Rows that columns are described by.
pub(crate) const N_DESCRIBED: usize = 100;

/// Characters of a text that are shown.
const MOST_CHARS: usize = 300;

/// Lines of the log that are shown; of more, every other one, and so on.
const MOST_LOGS: usize = 100;

impl Card {
    /// The card as Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let sections = [
            format!("---\n{}---\n\n", yaml::write(&self.metadata())),
            self.introduction(),
            self.usage(),
            self.evaluation_section(),
            self.training_section(),
            self.citations_section(),
        ];
        sections.concat()
    }

    fn title(&self) -> String {
        match &self.stated.name {
            Some(name) => name.clone(),
            None => format!("SentenceTransformer based on {}", self.base),
        }
    }

    /// The keys that the hub indexes; those without a value are left out.
    fn metadata(&self) -> Value {
        let n_rows: usize = self.training.iter().map(|data| data.n_rows).sum();
        let mut tags = vec![
            "sentence-transformers".to_owned(),
            "sentence-similarity".to_owned(),
            "feature-extraction".to_owned(),
            "dense".to_owned(),
            "generated_from_trainer".to_owned(),
            format!("dataset_size:{n_rows}"),
        ];
        tags.extend(self.losses.iter().map(|loss| format!("loss:{loss}")));
        if self.adapter.is_some() {
            // As on peft's cards, from which the hub knows that it is an adapter, and of what.
            tags.extend(["peft", "lora"].map(str::to_owned));
            if self.is_base_on_hub {
                tags.push(format!("base_model:adapter:{}", self.base));
            }
        }
        tags.extend(self.stated.tags.iter().cloned());
        let mut ids: Vec<&String> = Vec::new();
        for id in self.training.iter().filter_map(|data| data.id.as_ref()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut metrics: Vec<&String> = Vec::new();
        for (key, _, _) in self.results.iter().flat_map(|result| &result.metrics) {
            if !metrics.contains(&key) {
                metrics.push(key);
            }
        }
        let languages = match self.stated.languages.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
        let base = self.is_base_on_hub.then_some(&self.base);
        let mut metadata = json!({
            "language": languages,
            "license": self.stated.license,
            "tags": tags,
            "base_model": base,
            "widget": self.widget(),
            "datasets": ids,
            "pipeline_tag": "sentence-similarity",
            "library_name": "sentence-transformers",
            "metrics": metrics,
            "model-index": self.model_index(),
        });
        if let Value::Object(entries) = &mut metadata {
            entries.retain(|_, value| !value.is_null() && *value != json!([]));
        }
        metadata
    }

    /// A sentence with others to compare it with, out of the evaluation data or else the training data.
    fn widget(&self) -> Value {
        let of = |data: &DataSection| {
            let columns = data.columns.iter().enumerate();
            let texts: Vec<usize> = columns
                .filter(|(_, column)| column.kind == "string")
                .map(|(i, _)| i)
                .collect();
            let mut widget = Vec::new();
            for row in &data.samples {
                let mut texts = texts.iter().filter_map(|i| row.get(*i));
                if let Some(source) = texts.next() {
                    let sentences: Vec<&String> = texts.collect();
                    if !sentences.is_empty() {
                        widget.push(json!({"source_sentence": source, "sentences": sentences}));
                    }
                }
            }
            widget
        };
        let data = self.evaluation.iter().chain(&self.training);
        json!(
            data.map(of)
                .find(|widget| !widget.is_empty())
                .unwrap_or_default()
        )
    }

    fn model_index(&self) -> Value {
        let result = |result: &ResultSection| {
            let metrics: Vec<Value> = result
                .metrics
                .iter()
                .filter(|(_, _, after)| after.is_finite())
                .map(|(key, _, after)| json!({"type": key, "value": after, "name": titled(key)}))
                .collect();
            json!({
                "task": {"type": result.task.to_lowercase().replace(' ', "-"), "name": result.task},
                "dataset": {"name": result.dataset.replace(['_', '-'], " "), "type": result.dataset},
                "metrics": metrics,
            })
        };
        let results: Vec<Value> = self.results.iter().map(result).collect();
        if results.is_empty() {
            return json!([]);
        }
        json!([{"name": self.title(), "results": results}])
    }

    fn introduction(&self) -> String {
        let base = self.base_link();
        let data: Vec<String> = self.training.iter().map(DataSection::link).collect();
        let similarity = match self.similarity.as_str() {
            "cosine" => "Cosine Similarity",
            "dot" => "Dot Product",
            "euclidean" => "Euclidean Distance",
            "manhattan" => "Manhattan Distance",
            other => other,
        };
        let mut text = format!(
            "# {title}\n\nThis is a [sentence-transformers](https://www.SBERT.net) model finetuned from {base} on {data} with sentune. It maps sentences and paragraphs to a {dimension}-dimensional dense vector space and can be used for semantic textual similarity, semantic search, paraphrase mining, text classification, clustering, and more.\n\n## Model Details\n\n### Model Description\n- **Model Type:** Sentence Transformer\n- **Base model:** {base}\n- **Maximum Sequence Length:** {length} tokens\n- **Output Dimensionality:** {dimension} dimensions\n- **Similarity Function:** {similarity}\n",
            title = self.title(),
            data = joined(&data),
            dimension = self.dimension,
            length = self.max_length,
        );
        if let Some(adapter) = &self.adapter {
            text += &format!(
                "- **Adapter:** {adapter}. This folder holds the adapter alone: its weights are added to those of the base model when it is loaded\n"
            );
        }
        for data in &self.training {
            text += &format!("- **Training Dataset:** {}\n", data.link());
        }
        if !self.stated.languages.is_empty() {
            text += &format!("- **Language:** {}\n", self.stated.languages.join(", "));
        }
        if let Some(license) = &self.stated.license {
            text += &format!("- **License:** {license}\n");
        }
        text + "\n"
    }

    fn base_link(&self) -> String {
        if self.is_base_on_hub {
            return format!("[{0}](https://huggingface.co/{0})", self.base);
        }
        self.base.clone()
    }

    fn usage(&self) -> String {
        let id = self.stated.id.as_deref().unwrap_or("path/to/this/folder");
        let peft = self.adapter.as_ref().map_or("", |_| " peft");
        format!(
            "## Usage\n\n```bash\npip install -U sentence-transformers{peft}\n```\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(\"{id}\")\nsentences = [\n    \"The weather is lovely today.\",\n    \"It's so sunny outside!\",\n    \"He drove to the stadium.\",\n]\nembeddings = model.encode(sentences)\nprint(embeddings.shape)\n# [3, {}]\nsimilarities = model.similarity(embeddings, embeddings)\nprint(similarities.shape)\n# [3, 3]\n```\n\n",
            self.dimension
        )
    }

    fn evaluation_section(&self) -> String {
        let mut text = String::new();
        for result in &self.results {
            if text.is_empty() {
                text += "## Evaluation\n\n### Metrics\n\n";
            }
            text += &format!(
                "#### {}\n\n* Dataset: `{}`\n* Evaluated as [<code>{evaluator}</code>](https://sbert.net/docs/package_reference/sentence_transformer/evaluation.html#sentence_transformers.sentence_transformer.evaluation.{evaluator}) does\n\n| Metric | Before | After |\n|:--|--:|--:|\n",
                result.task,
                result.dataset,
                evaluator = result.evaluator,
            );
            for (key, before, after) in &result.metrics {
                let mark = if *key == result.primary { "**" } else { "" };
                let before = before.map_or("-".to_owned(), |before| format!("{before:.4}"));
                text += &format!("| {mark}{key}{mark} | {before} | {mark}{after:.4}{mark} |\n");
            }
            text.push('\n');
        }
        text
    }

    fn training_section(&self) -> String {
        let mut text = "## Training Details\n\n".to_owned();
        for (kind, sections) in [
            ("Training", &self.training),
            ("Evaluation", &self.evaluation),
        ] {
            for data in sections {
                text += &data.to_markdown(kind);
            }
        }
        text += &format!(
            "### Training Hyperparameters\n\nThe configuration of the run:\n\n```toml\n{}```\n\n",
            self.configuration
        );
        text += &self.logs_section();
        text += "### Framework Versions\n";
        for (name, version) in &self.versions {
            text += &format!("- {name}: {version}\n");
        }
        text + "\n"
    }

    fn logs_section(&self) -> String {
        let mut keys: Vec<&String> = Vec::new();
        let is_shown = |key: &str| key == "loss" || key.starts_with("eval_");
        for key in self.logs.iter().flat_map(|line| line.keys()) {
            let is_time = key.ends_with("_runtime") || key.ends_with("_per_second");
            if is_shown(key) && !is_time && !keys.contains(&key) {
                keys.push(key);
            }
        }
        let lines: Vec<&Map<String, Value>> = self
            .logs
            .iter()
            .filter(|line| keys.iter().any(|key| line.contains_key(*key)))
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        let names: Vec<String> = keys
            .iter()
            .map(|key| match key.as_str() {
                "loss" => "Training Loss".to_owned(),
                "eval_loss" => "Validation Loss".to_owned(),
                key => key.trim_start_matches("eval_").to_owned(),
            })
            .collect();
        let mut text = format!(
            "### Training Logs\n\n| Epoch | Step | {} |\n|--:|--:|{}\n",
            names.join(" | "),
            "--:|".repeat(keys.len())
        );
        let step = lines.len().div_ceil(MOST_LOGS);
        let number = |line: &Map<String, Value>, key: &str, n_digits: usize| {
            let number = line.get(key).and_then(Value::as_f64);
            number.map_or("-".to_owned(), |number| format!("{number:.n_digits$}"))
        };
        for line in lines.iter().step_by(step) {
            let cells: Vec<String> = keys.iter().map(|key| number(line, key, 4)).collect();
            let (epoch, step) = (number(line, "epoch", 4), number(line, "step", 0));
            text += &format!("| {epoch} | {step} | {} |\n", cells.join(" | "));
        }
        text + "\n"
    }

    fn citations_section(&self) -> String {
        let mut cited: Vec<(String, Vec<&str>)> =
            vec![(SENTENCE_BERT.to_bibtex(), vec!["Sentence Transformers"])];
        for loss in &self.losses {
            let Some(paper) = losses::paper(loss) else {
                continue;
            };
            let bibtex = paper.to_bibtex();
            match cited.iter_mut().find(|(other, _)| *other == bibtex) {
                Some((_, names)) => names.push(loss),
                None => cited.push((bibtex, vec![loss])),
            }
        }
        let mut text = "## Citation\n\n### BibTeX\n\n".to_owned();
        for (bibtex, names) in cited {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            text += &format!("#### {}\n```bibtex\n{bibtex}```\n\n", joined(&names));
        }
        text.trim_end().to_owned() + "\n"
    }
}

impl fmt::Display for AdapterFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rslora = if self.is_rslora { ", rsLoRA" } else { "" };
        let modules = self.modules.iter().map(|name| format!("`{name}`"));
        write!(
            f,
            "LoRA, rank {}, alpha {}, dropout {}{rslora}, of {}",
            self.rank,
            self.alpha,
            self.dropout,
            joined(&modules.collect::<Vec<_>>())
        )
    }
}

impl DataSection {
    fn link(&self) -> String {
        match &self.id {
            Some(id) => format!("[{}](https://huggingface.co/datasets/{id})", self.name),
            None => self.name.clone(),
        }
    }

    fn to_markdown(&self, kind: &str) -> String {
        let codes: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("<code>{}</code>", column.name))
            .collect();
        let row =
            |first: &str, cells: &[String]| format!("  | {first} | {} |\n", cells.join(" | "));
        let rule = format!("  |:--|{}\n", ":--|".repeat(self.columns.len()));
        let names: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let kinds: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.kind.to_owned())
            .collect();
        let mut text = format!(
            "### {kind} Dataset\n\n#### {}\n\n* Dataset: {}\n* Size: {} rows\n* Columns: {}\n* Statistics of the first {} rows:\n{}{rule}{}{}",
            self.name,
            self.link(),
            thousands(self.n_rows),
            joined(&codes),
            self.n_rows.min(N_DESCRIBED),
            row("", &names),
            row("type", &kinds),
            row(
                "details",
                &self.columns.iter().map(Column::details).collect::<Vec<_>>()
            ),
        );
        text += &format!(
            "* Samples:\n  | {} |\n  |{}\n",
            names.join(" | "),
            ":--|".repeat(names.len())
        );
        for sample in self.samples.iter().take(N_SAMPLES) {
            let cells: Vec<String> = sample.iter().map(|cell| code(cell)).collect();
            text += &format!("  | {} |\n", cells.join(" | "));
        }
        text += &format!(
            "* Loss: [<code>{0}</code>](https://sbert.net/docs/package_reference/sentence_transformer/losses.html#{1})",
            self.loss,
            self.loss.to_lowercase()
        );
        if self
            .parameters
            .as_object()
            .is_some_and(|object| !object.is_empty())
        {
            let parameters = serde_json::to_string_pretty(&self.parameters).unwrap_or_default();
            let parameters = parameters.replace('\n', "\n  ");
            text += &format!(" with these parameters:\n  ```json\n  {parameters}\n  ```");
        }
        text + "\n\n"
    }
}

impl Column {
    fn details(&self) -> String {
        let (unit, n_digits) = match self.kind {
            "string" => (" tokens", 0),
            "int" => ("", 0),
            _ => ("", 2),
        };
        let number = |number: f64| format!("{number:.n_digits$}{unit}");
        format!(
            "<ul><li>min: {}</li><li>mean: {:.2}{unit}</li><li>max: {}</li></ul>",
            number(self.min),
            self.mean,
            number(self.max)
        )
    }
}

/// A text in a cell of a table: in one line, cut off where it is long, and nothing of it Markdown.
fn code(text: &str) -> String {
    let mut shown: String = text.chars().take(MOST_CHARS).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    let escaped = shown
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('|', "&#124;")
        .replace('`', "&#96;");
    let escaped = escaped.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("<code>{escaped}</code>")
}

/// `a`, `a and b`, `a, b and c`.
fn joined(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `cosine_accuracy@1` as `Cosine Accuracy@1`.
fn titled(key: &str) -> String {
    let words = key.split('_').map(|word| {
        let mut chars = word.chars();
        let first = chars.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
            min: 4.0,
            mean: 9.875,
            max: 20.0,
        };
        let training = DataSection {
            name: "all-nli".to_owned(),
            id: Some("sentence-transformers/all-nli".to_owned()),
            n_rows: 3256,
            columns: vec![column("anchor", "string"), column("score", "float")],
            samples: vec![vec!["A | b\n<c>".to_owned(), "0.5".to_owned()]],
            loss: "MultipleNegativesRankingLoss".to_owned(),
            parameters: json!({"scale": 20.0}),
        };
        let mut evaluation = training.clone();
        evaluation.columns[1] = column("positive", "string");
        evaluation.samples = vec![vec!["A dog: runs.".to_owned(), "no".to_owned()]];
        let line = |text: &str| match serde_json::from_str(text) {
            Ok(Value::Object(line)) => line,
            _ => panic!("{text}"),
        };
        Card {
            stated: Stated {
                languages: vec!["no".to_owned()],
                license: Some("apache-2.0".to_owned()),
                tags: vec!["own".to_owned()],
                id: Some("me/model".to_owned()),
                name: None,
            },
            base: "microsoft/mpnet-base".to_owned(),
            is_base_on_hub: true,
            adapter: None,
            max_length: 384,
            dimension: 768,
            similarity: "cosine".to_owned(),
            training: vec![training],
            evaluation: vec![evaluation],
            losses: ["MatryoshkaLoss", "MultipleNegativesRankingLoss"]
                .map(str::to_owned)
                .into(),
            results: vec![ResultSection {
                task: "Triplet".to_owned(),
                evaluator: "TripletEvaluator".to_owned(),
                dataset: "all-nli-test".to_owned(),
                primary: "cosine_accuracy".to_owned(),
                metrics: vec![("cosine_accuracy".to_owned(), Some(0.5), 0.9156)],
            }],
            logs: vec![
                line(r#"{"loss": 1.25, "learning_rate": 1e-5, "epoch": 0.5, "step": 10}"#),
                line(r#"{"eval_loss": 1.0, "eval_runtime": 2, "epoch": 0.5, "step": 10}"#),
                line(r#"{"train_runtime": 3.0, "epoch": 1.0, "step": 20}"#),
            ],
            configuration: "seed = 42\n".to_owned(),
            versions: vec![("sentune".to_owned(), "0.1.0".to_owned())],
        }
    }

    #[test]
    fn the_metadata_is_what_the_hub_indexes() {
        let markdown = card().to_markdown();
        let (metadata, _) = markdown[4..].split_once("---\n").unwrap();
        assert_eq!(
            metadata,
            "language: \"no\"\n\
             license: apache-2.0\n\
             tags:\n\
             - sentence-transformers\n\
             - sentence-similarity\n\
             - feature-extraction\n\
             - dense\n\
             - generated_from_trainer\n\
             - dataset_size:3256\n\
             - loss:MatryoshkaLoss\n\
             - loss:MultipleNegativesRankingLoss\n\
             - own\n\
             base_model: microsoft/mpnet-base\n\
             widget:\n\
             - source_sentence: \"A dog: runs.\"\n  \
               sentences:\n  \
               - \"no\"\n\
             datasets:\n\
             - sentence-transformers/all-nli\n\
             pipeline_tag: sentence-similarity\n\
             library_name: sentence-transformers\n\
             metrics:\n\
             - cosine_accuracy\n\
             model-index:\n\
             - name: \"SentenceTransformer based on microsoft/mpnet-base\"\n  \
               results:\n  \
               - task:\n      \
                   type: triplet\n      \
                   name: Triplet\n    \
                 dataset:\n      \
                   name: \"all nli test\"\n      \
                   type: all-nli-test\n    \
                 metrics:\n    \
                 - type: cosine_accuracy\n      \
                   value: 0.9156\n      \
                   name: \"Cosine Accuracy\"\n"
        );
    }

    #[test]
    fn an_adapter_is_named_with_its_settings_and_its_base() {
        let mut card = card();
        card.adapter = Some(AdapterFacts {
            rank: 16,
            alpha: 32.0,
            dropout: 0.05,
            is_rslora: false,
            modules: ["query", "value"].map(str::to_owned).into(),
        });
        let markdown = card.to_markdown();
        for part in [
            "- peft\n- lora\n- base_model:adapter:microsoft/mpnet-base\n- own\n",
            "base_model: microsoft/mpnet-base\n",
            "- **Adapter:** LoRA, rank 16, alpha 32, dropout 0.05, of `query` and `value`. This folder holds the adapter alone",
            "pip install -U sentence-transformers peft\n",
        ] {
            assert!(markdown.contains(part), "no {part:?} in {markdown}");
        }
        card.is_base_on_hub = false;
        assert!(!card.to_markdown().contains("base_model:adapter"));
        card.adapter = None;
        let markdown = card.to_markdown();
        assert!(!markdown.contains("peft") && !markdown.contains("Adapter"));
    }

    #[test]
    fn nothing_that_is_not_known_is_stated() {
        let mut card = card();
        card.stated = Stated::default();
        card.is_base_on_hub = false;
        card.results.clear();
        card.training[0].id = None;
        card.evaluation[0].id = None;
        let Value::Object(metadata) = card.metadata() else {
            panic!("no object");
        };
        let keys: Vec<&String> = metadata.keys().collect();
        let expected = ["tags", "widget", "pipeline_tag", "library_name"];
        assert_eq!(keys, expected);
        let markdown = card.to_markdown();
        for absent in [
            "License",
            "Language",
            "## Evaluation\n",
            "huggingface.co/datasets",
        ] {
            assert!(!markdown.contains(absent), "{absent}");
        }
    }

    #[test]
    fn the_sections_tell_the_run() {
        let markdown = card().to_markdown();
        for part in [
            "finetuned from [microsoft/mpnet-base](https://huggingface.co/microsoft/mpnet-base) on [all-nli](https://huggingface.co/datasets/sentence-transformers/all-nli) with sentune",
            "model = SentenceTransformer(\"me/model\")",
            "| **cosine_accuracy** | 0.5000 | **0.9156** |",
            "* Size: 3,256 rows",
            "| <code>A &#124; b &lt;c&gt;</code> | <code>0.5</code> |",
            "<li>min: 4 tokens</li><li>mean: 9.88 tokens</li><li>max: 20 tokens</li>",
            "\"scale\": 20.0",
            "| Epoch | Step | Training Loss | Validation Loss |\n|--:|--:|--:|--:|\n| 0.5000 | 10 | 1.2500 | - |\n| 0.5000 | 10 | - | 1.0000 |\n",
            "```toml\nseed = 42\n```",
            "- sentune: 0.1.0",
            "#### MatryoshkaLoss\n```bibtex\n@misc{kusupati2024matryoshka,",
            "eprint={2205.13147}",
            "title={Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks}",
        ] {
            assert!(markdown.contains(part), "no {part:?} in {markdown}");
        }
        assert!(!markdown.contains("train_runtime"));
    }

    #[test]
    fn long_logs_and_texts_are_cut() {
        let mut card = card();
        card.logs = vec![card.logs[0].clone(); 1000];
        assert_eq!(card.logs_section().matches("| 10 |").count(), 100);
        assert_eq!(code(&"x".repeat(400)).len(), "<code></code>...".len() + 300);
    }
}
