//! NanoBEIR: thirteen small retrieval tasks, each measured by itself and their means.

use std::{fmt, str::FromStr};

use search::Similarity;

use crate::{
    bootstrap::{Bootstrap, Interval},
    csv::CsvTable,
    entry::{Entry, Needs, Side},
    error::EvalError,
    information_retrieval::{self as retrieval, InformationRetrievalEvaluator, csv_columns},
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

    /// By the short name, in any case.
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
    sides: &[Side::Query, Side::Document],
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn nothing_has_no_mean() {
        let evaluator = NanoBeirEvaluator::new(&[]);
        let message = evaluator.aggregate(&[]).unwrap_err().to_string();
        assert_eq!(message, "NanoBEIREvaluator: there is no data set");
    }
}
