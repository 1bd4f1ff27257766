//! NanoBEIR: thirteen small retrieval tasks, each measured by itself and their means.

use std::{fmt, str::FromStr};

use search::Similarity;

use crate::{
    bootstrap::{Bootstrap, Interval},
    csv::CsvTable,
    entry::{Columns, Entry, Needs, Prepared, Side},
    error::EvalError,
    evaluator::{Evaluator, Inputs},
    information_retrieval::{
        self as retrieval, InformationRetrievalEvaluator, RetrievalTask, csv_columns,
    },
    metrics::Metrics,
    options::{Flag, MAIN_SIMILARITY, Options},
    rows::RowFigures,
    similarity,
};

/// The data set on the hub that upstream takes unless told otherwise. Its subsets are [`SUBSETS`], and each of
/// them has a split for each of [`NanoDataset::ALL`].
pub const DATASET_ID: &str = "sentence-transformers/NanoBEIR-en";

/// Documents (`_id`, `text`), queries (`_id`, `text`), and which belong together (`query-id`, `corpus-id`).
pub const SUBSETS: [&str; 3] = ["corpus", "queries", "qrels"];

/// One of the thirteen tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NanoDataset {
    name: &'static str,
    human_readable: &'static str,
}

const fn dataset(name: &'static str, human_readable: &'static str) -> NanoDataset {
    NanoDataset {
        name,
        human_readable,
    }
}

impl NanoDataset {
    /// All of them, in upstream's order.
    pub const ALL: [Self; 13] = [
        dataset("climatefever", "ClimateFEVER"),
        dataset("dbpedia", "DBPedia"),
        dataset("fever", "FEVER"),
        dataset("fiqa2018", "FiQA2018"),
        dataset("hotpotqa", "HotpotQA"),
        dataset("msmarco", "MSMARCO"),
        dataset("nfcorpus", "NFCorpus"),
        dataset("nq", "NQ"),
        dataset("quoraretrieval", "QuoraRetrieval"),
        dataset("scidocs", "SCIDOCS"),
        dataset("arguana", "ArguAna"),
        dataset("scifact", "SciFact"),
        dataset("touche2020", "Touche2020"),
    ];

    /// The tasks of these names, with commas or plus signs between them; all without names.
    ///
    /// # Errors
    /// Where there is no task of a name; the message lists all.
    pub fn list(names: Option<&str>) -> Result<Vec<Self>, EvalError> {
        match names {
            None => Ok(Self::ALL.to_vec()),
            Some(names) => names
                .split([',', '+'])
                .map(|name| name.trim().parse())
                .collect(),
        }
    }

    /// The short name, such as `msmarco`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The name of its split in each subset, such as `NanoMSMARCO`.
    pub fn split(self) -> String {
        format!("Nano{}", self.human_readable)
    }
}

impl fmt::Display for NanoDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for NanoDataset {
    type Err = EvalError;

    /// Finds it by the short name, in any case.
    fn from_str(name: &str) -> Result<Self, EvalError> {
        let named = |dataset: &Self| dataset.name.eq_ignore_ascii_case(name);
        let unknown = || {
            let known: Vec<&str> = Self::ALL.iter().map(|dataset| dataset.name).collect();
            let problem = format!("no data set `{name}`: known are {}", known.join(", "));
            EvalError::inputs(NAME, problem)
        };
        Self::ALL.into_iter().find(named).ok_or_else(unknown)
    }
}

/// Means over NanoBEIR's tasks of what [`InformationRetrievalEvaluator`] gives for each.
///
/// # Keys
///
/// The keys of each task, whose name is its split's, such as `NanoMSMARCO_cosine_ndcg@10`, then
/// `NanoBEIR_mean_{similarity}_{metric}@{k}`. With `truncate_dim` it stands after each name:
/// `NanoMSMARCO_64_...`, `NanoBEIR_mean_64_...`. The primary one is the mean NDCG at the greatest k, of
/// `main_similarity` or of the similarity where it is greatest. CSV: `NanoBEIR_evaluation_mean_results.csv`, and
/// each task's own.
///
/// Upstream file: `sentence_transformer/evaluation/nano_beir.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct NanoBeirEvaluator {
    /// The similarities to rank by.
    pub similarity_fn_names: Vec<Similarity>,
    /// The similarity whose NDCG is the primary metric.
    pub main_similarity: Option<Similarity>,
    /// The dimension that embeddings were cut to, which the names then say.
    pub truncate_dim: Option<usize>,
}

const NAME: &str = "NanoBEIREvaluator";

/// The columns of texts of a task.
const SIDES: [Side; 2] = [Side::Query, Side::Document];

static DATA: Flag = Flag::new(
    "nano-beir-data",
    "NAME",
    "Where nano-beir's data is: a name on the hub with an optional @revision [default: \
     sentence-transformers/NanoBEIR-en]",
)
.below(retrieval::HEADING);

pub(crate) static ENTRY: Entry = Entry {
    name: "nano-beir",
    unit: "queries",
    sides: &SIDES,
    flags: &[
        &MAIN_SIMILARITY,
        &retrieval::ACCURACY_AT_K,
        &retrieval::PRECISION_RECALL_AT_K,
        &retrieval::MRR_AT_K,
        &retrieval::NDCG_AT_K,
        &retrieval::MAP_AT_K,
        &retrieval::QUERY_PROMPT,
        &retrieval::QUERY_PROMPT_NAME,
        &retrieval::CORPUS_PROMPT,
        &retrieval::CORPUS_PROMPT_NAME,
        &DATA,
    ],
    needs: Needs::Tasks {
        check: |names| NanoDataset::list(Some(names)).map(drop),
    },
};

impl NanoBeirEvaluator {
    /// An evaluator with the options that are given.
    ///
    /// # Errors
    /// Where the similarity of the primary metric is not among those that are asked for.
    pub fn with_options(options: &Options) -> Result<Self, EvalError> {
        let (main_similarity, similarities) = options.main_among(&[options.own_similarity])?;
        Ok(Self {
            main_similarity,
            truncate_dim: options.truncate_dim,
            ..Self::new(&similarities)
        })
    }

    /// An evaluator; without similarities it takes cosine.
    pub fn new(similarity_fn_names: &[Similarity]) -> Self {
        Self {
            similarity_fn_names: similarity::or_cosine(similarity_fn_names),
            main_similarity: None,
            truncate_dim: None,
        }
    }

    /// The name that the means' keys begin with.
    pub fn name(&self) -> String {
        self.with_dimension("NanoBEIR_mean")
    }

    /// The name of a task's own evaluator.
    pub fn name_of(&self, dataset: NanoDataset) -> String {
        self.with_dimension(&dataset.split())
    }

    fn with_dimension(&self, name: &str) -> String {
        match self.truncate_dim {
            None => name.to_owned(),
            Some(dimension) => format!("{name}_{dimension}"),
        }
    }

    /// All figures of the tasks, each with its evaluator and what that gave, then the means.
    ///
    /// # Errors
    /// Where there is no task, or two of them were measured at different k or by different similarities.
    pub fn aggregate(
        &self,
        tasks: &[(&InformationRetrievalEvaluator, &Metrics)],
    ) -> Result<Metrics, EvalError> {
        let keys = Self::keys(tasks)?;
        let mean = |key: &String| {
            let values = tasks.iter().map(|(evaluator, metrics)| {
                let key = Metrics::key(&evaluator.name, key);
                metrics.get(&key).unwrap_or(f64::NAN)
            });
            values.sum::<f64>() / tasks.len() as f64
        };
        let means: Vec<(String, f64)> = keys.iter().map(|key| (key.clone(), mean(key))).collect();
        let ndcg_at = tasks[0].0.ndcg_at_k.iter().copied().max().unwrap_or(10);
        let ndcg = |function: &Similarity| {
            let key = format!("{function}_ndcg@{ndcg_at}");
            let found = means.iter().find(|(other, _)| *other == key);
            found.map_or(f64::NAN, |(_, value)| *value)
        };
        let mut best = self.similarity_fn_names.first().copied();
        for function in &self.similarity_fn_names {
            if best.is_none_or(|best| ndcg(function) > ndcg(&best)) {
                best = Some(*function);
            }
        }
        let main = self.main_similarity.or(best).unwrap_or_default();
        let primary = format!("{main}_ndcg@{ndcg_at}");
        let means = Metrics::new(&self.name(), &primary, means);
        let all: Vec<&Metrics> = tasks.iter().map(|(_, metrics)| *metrics).collect();
        Ok(means.after(&all))
    }

    /// The means with their intervals; the queries of each task are resampled by themselves.
    ///
    /// # Errors
    /// As [`Self::aggregate`].
    pub fn intervals(
        &self,
        tasks: &[(&InformationRetrievalEvaluator, &Metrics)],
        rows: &[&RowFigures],
        how: &Bootstrap,
    ) -> Result<Vec<(String, Interval)>, EvalError> {
        let keys: Vec<String> = Self::keys(tasks)?
            .iter()
            .map(|key| Metrics::key(&self.name(), key))
            .collect();
        if rows.len() != tasks.len() || rows.iter().any(|rows| rows.keys().len() != keys.len()) {
            let problem = "the rows are not those of the tasks";
            return Err(EvalError::inputs(NAME, problem));
        }
        Ok(RowFigures::intervals_of_means(rows, &keys, how))
    }

    /// The keys of the first task without its name; the others have to have the same.
    fn keys(
        tasks: &[(&InformationRetrievalEvaluator, &Metrics)],
    ) -> Result<Vec<String>, EvalError> {
        let of = |(evaluator, metrics): &(&InformationRetrievalEvaluator, &Metrics)| {
            let prefix = Metrics::key(&evaluator.name, "");
            let keys = metrics
                .iter()
                .map(|(key, _)| key.strip_prefix(&prefix).unwrap_or(key).to_owned());
            keys.collect::<Vec<String>>()
        };
        let Some(first) = tasks.first().map(of) else {
            return Err(EvalError::inputs(NAME, "there is no data set"));
        };
        if let Some((other, _)) = tasks.iter().find(|task| of(task) != first) {
            let problem = format!(
                "{} was measured otherwise than {}",
                other.name, tasks[0].0.name
            );
            return Err(EvalError::inputs(NAME, problem));
        }
        Ok(first)
    }

    /// The file with the means, which have the columns of each `task`.
    pub fn csv(&self, task: &InformationRetrievalEvaluator) -> CsvTable {
        let file = "NanoBEIR_evaluation_mean_results.csv".to_owned();
        CsvTable::new(file, &self.name(), csv_columns(task))
    }
}

/// Tasks of NanoBEIR as one evaluator, for a run: its columns are the queries and the documents of the first task, then
/// those of the next. Its metrics are [`NanoBeirEvaluator::aggregate`]'s.
#[derive(Debug)]
pub struct NanoBeirTasks {
    means: NanoBeirEvaluator,
    tasks: Vec<InformationRetrievalEvaluator>,
}

impl NanoBeirTasks {
    /// The evaluator of tasks from the columns of their tables, with the texts that it takes.
    ///
    /// # Errors
    /// Those of the options and of [`RetrievalTask::new`], and where there is no task.
    pub fn prepare(
        options: &Options,
        tasks: Vec<(NanoDataset, Vec<Columns>)>,
    ) -> Result<Prepared, EvalError> {
        let means = NanoBeirEvaluator::with_options(options)?;
        if tasks.is_empty() {
            return Err(EvalError::inputs(NAME, "there is no data set"));
        }
        let (mut evaluators, mut texts) = (Vec::new(), Vec::new());
        for (dataset, tables) in tasks {
            let task = RetrievalTask::new(&means.name_of(dataset), options, tables)?;
            evaluators.push(task.evaluator);
            texts.extend(task.texts);
        }
        let n_of = |side: usize| {
            texts
                .iter()
                .skip(side)
                .step_by(SIDES.len())
                .map(Vec::len)
                .sum()
        };
        let counts = vec![(n_of(0), "queries"), (n_of(1), "documents")];
        let evaluator = Box::new(Self {
            means,
            tasks: evaluators,
        });
        Ok(Prepared {
            evaluator,
            texts,
            counts,
        })
    }

    /// The side of a column of texts.
    pub fn side(column: usize) -> Side {
        SIDES[column % SIDES.len()]
    }
}

impl Evaluator for NanoBeirTasks {
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        if inputs.embeddings.len() != SIDES.len() * self.tasks.len() {
            let problem = format!(
                "{} columns of embeddings for {} data sets",
                inputs.embeddings.len(),
                self.tasks.len()
            );
            return Err(EvalError::inputs(NAME, problem));
        }
        let of_tasks = inputs.embeddings.chunks(SIDES.len());
        let metrics = self.tasks.iter().zip(of_tasks);
        let metrics = metrics
            .map(|(task, embeddings)| task.evaluate(&Inputs::new(embeddings)))
            .collect::<Result<Vec<_>, _>>()?;
        let measured: Vec<_> = self.tasks.iter().zip(&metrics).collect();
        self.means.aggregate(&measured)
    }

    fn rows(&self, _: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        Ok(None)
    }

    fn csv(&self) -> CsvTable {
        self.means.csv(&self.tasks[0])
    }

    fn all_csv(&self) -> Vec<CsvTable> {
        let tasks = self.tasks.iter().map(Evaluator::csv);
        tasks.chain([self.csv()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::entry::Cells;

    #[test]
    fn names_are_known_in_any_case() {
        let nq: NanoDataset = "NQ".parse().unwrap();
        assert_eq!((nq.name(), nq.split()), ("nq", "NanoNQ".to_owned()));
        let message = "nqq".parse::<NanoDataset>().unwrap_err().to_string();
        assert!(
            message.contains("no data set `nqq`") && message.contains("quoraretrieval, scidocs"),
            "{message}"
        );
    }

    #[test]
    fn tasks_together_are_measured_as_each_alone() {
        let columns = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            Some(Cells::Texts(texts))
        };
        let judged = Some(Cells::Lists(vec![
            vec!["d0".to_owned()],
            vec!["d1".to_owned()],
        ]));
        let tables = || {
            vec![
                vec![columns(&["q0", "q1"]), columns(&["one", "two"])],
                vec![columns(&["d0", "d1", "d2"]), columns(&["a", "b", "c"])],
                vec![columns(&["q0", "q1"]), judged.clone(), None],
            ]
        };
        let (options, datasets) = (Options::default(), &NanoDataset::ALL[..2]);
        let tasks = datasets.iter().map(|&dataset| (dataset, tables()));
        let prepared = NanoBeirTasks::prepare(&options, tasks.collect()).unwrap();
        assert_eq!(prepared.counts, [(4, "queries"), (6, "documents")]);
        let lengths: Vec<usize> = prepared.texts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 3, 2, 3]);
        let of = |values: &[f32]| Tensor::from_slice(values).view([-1, 2]);
        let documents = of(&[1.0, 0.0, 0.0, 1.0, -1.0, 0.0]);
        let right = of(&[1.0, 0.1, 0.1, 1.0]);
        let wrong = of(&[-1.0, 0.1, 0.1, 1.0]);
        let embeddings = [right, documents.shallow_clone(), wrong, documents];
        let inputs = Inputs::new(&embeddings);
        let metrics = prepared.evaluator.evaluate(&inputs).unwrap();
        for (key, value) in [
            ("NanoClimateFEVER_cosine_accuracy@1", 1.0),
            ("NanoDBPedia_cosine_accuracy@1", 0.5),
            ("NanoBEIR_mean_cosine_accuracy@1", 0.75),
        ] {
            assert_eq!(metrics.get(key), Some(value), "{key}");
        }
        assert_eq!(metrics.primary_key(), "NanoBEIR_mean_cosine_ndcg@10");
        let files: Vec<String> = prepared
            .evaluator
            .all_csv()
            .into_iter()
            .map(|csv| csv.file)
            .collect();
        assert_eq!(files.len(), 3);
        assert_eq!(files[2], "NanoBEIR_evaluation_mean_results.csv");
        assert!(
            prepared
                .evaluator
                .evaluate(&Inputs::new(&embeddings[..2]))
                .is_err()
        );
        assert_eq!(
            (NanoBeirTasks::side(2), NanoBeirTasks::side(5)),
            (Side::Query, Side::Document)
        );
    }

    #[test]
    fn nothing_has_no_mean() {
        let evaluator = NanoBeirEvaluator::new(&[]);
        let message = evaluator.aggregate(&[]).unwrap_err().to_string();
        assert_eq!(message, "NanoBEIREvaluator: there is no data set");
    }
}
