//! The metric that decides which evaluation is best.

use eval::Metrics;
use tch::{Device, Kind, Tensor};

use crate::{
    arguments::{IntervalStrategy, TrainingArguments},
    error::TrainError,
    evaluation::{ColumnEmbeddings, Evaluation},
    tasks::EvaluationTask,
};

/// A key of log entries of evaluations, with its direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BestMetric {
    /// The key, with its `eval_` in front.
    pub(crate) key: String,
    /// Whether more of it is better.
    pub(crate) is_greatest: bool,
}

impl BestMetric {
    /// The metric that decides which of a run's evaluations is best, where one does. Data that an evaluator refuses is
    /// found out here, before the first step.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] with the keys there are, or with the data set and its evaluator's problem.
    pub(crate) fn of_run(
        arguments: &TrainingArguments,
        evaluations: &[EvaluationTask<'_>],
    ) -> Result<Option<Self>, TrainError> {
        if arguments.eval_strategy == IntervalStrategy::No {
            return Ok(None);
        }
        let keys = metric_keys(evaluations)?;
        let is_wanted = arguments.wants_best();
        is_wanted.then(|| Self::new(arguments, &keys)).transpose()
    }

    /// The metric that the arguments mean, out of the keys that evaluations will give. A name may lack its `eval_`, and
    /// the name of the data set where no other key ends as it does.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] with the keys there are, where the name means none of them or several.
    fn new(arguments: &TrainingArguments, keys: &[String]) -> Result<Self, TrainError> {
        let asked = arguments.metric_for_best_model.as_deref();
        let name = asked.unwrap_or("loss");
        let bare = name.strip_prefix("eval_").unwrap_or(name);
        let is_whole = |key: &&String| key.strip_prefix("eval_") == Some(bare);
        let ends_so = |key: &&String| key.ends_with(&format!("_{bare}"));
        let found: Vec<&String> = match keys.iter().find(is_whole) {
            Some(key) => vec![key],
            None => keys.iter().filter(ends_so).collect(),
        };
        let [key] = found.as_slice() else {
            let subject = match asked {
                Some(asked) => format!("--metric-for-best-model `{asked}`"),
                None => "--metric-for-best-model is not given, and its default `loss`".to_owned(),
            };
            let problem = if found.is_empty() {
                "is not among the metrics of the evaluations"
            } else {
                "may be several of the metrics of the evaluations"
            };
            return Err(TrainError::Arguments(format!(
                "{subject} {problem}: give one of {}",
                keys.join(", ")
            )));
        };
        Ok(Self {
            key: (*key).clone(),
            is_greatest: arguments
                .greater_is_better
                .unwrap_or(!key.ends_with("loss")),
        })
    }
}

/// The keys of log entries of evaluations that may decide which is best, and with them everything that an evaluator
/// will refuse: each is put to embeddings that no model made.
///
/// # Errors
/// [`TrainError::Arguments`] with the data set and the evaluator's problem.
fn metric_keys(evaluations: &[EvaluationTask<'_>]) -> Result<Vec<String>, TrainError> {
    let mut keys = Vec::new();
    for task in evaluations {
        let evaluation = task.evaluation;
        if task.of_loss.is_some() {
            keys.push(format!("{}_loss", task.prefix(evaluations.len())));
        }
        if evaluation.has_evaluator() {
            let metrics = metrics_without_model(evaluation)?;
            keys.extend(metrics.iter().map(|(key, _)| format!("eval_{key}")));
        }
    }
    Ok(keys)
}

/// The metrics of embeddings that are functions of row and column.
fn metrics_without_model(evaluation: &Evaluation) -> Result<Metrics, TrainError> {
    const DIMENSION: i64 = 8;
    let lengths = evaluation.column_lengths();
    let embeddings = lengths.iter().zip(1_i64..).map(|(&n_texts, column)| {
        let n_texts = n_texts as i64;
        let places = Tensor::f_arange(n_texts * DIMENSION, (Kind::Float, Device::Cpu))?;
        let values = places.f_add_scalar(column)?.f_sin()?;
        values.f_view([n_texts, DIMENSION])
    });
    let embeddings = embeddings.collect::<Result<ColumnEmbeddings, _>>()?;
    evaluation.metrics(&embeddings).map_err(|error| {
        let TrainError::Eval(error) = error else {
            return error;
        };
        let name = evaluation.name();
        TrainError::Arguments(match evaluation.data().map(|data| data.dataset.n_rows()) {
            Some(1) => format!("--eval-data {name}, 1 row: {error}"),
            Some(n_rows) => format!("--eval-data {name}, {n_rows} rows: {error}"),
            None => format!("{name}: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: Option<&str>, keys: &[&str]) -> Result<BestMetric, String> {
        let arguments = TrainingArguments {
            metric_for_best_model: name.map(str::to_owned),
            ..TrainingArguments::default()
        };
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        BestMetric::new(&arguments, &keys).map_err(|error| error.to_string())
    }

    fn metric(key: &str, is_greatest: bool) -> BestMetric {
        BestMetric {
            key: key.to_owned(),
            is_greatest,
        }
    }

    #[test]
    fn names_may_lack_their_prefixes() {
        let keys = ["eval_loss", "eval_dev_cosine_accuracy"];
        let accuracy = metric("eval_dev_cosine_accuracy", true);
        assert_eq!(chosen(None, &keys).unwrap(), metric("eval_loss", false));
        assert_eq!(
            chosen(Some("loss"), &keys).unwrap(),
            metric("eval_loss", false)
        );
        for name in [
            "eval_dev_cosine_accuracy",
            "dev_cosine_accuracy",
            "cosine_accuracy",
            "eval_cosine_accuracy",
        ] {
            assert_eq!(chosen(Some(name), &keys).unwrap(), accuracy, "{name}");
        }
    }

    #[test]
    fn a_name_that_means_no_key_or_several_is_refused_with_the_keys() {
        let keys = ["eval_nli_loss", "eval_nli_cosine_accuracy", "eval_sts_loss"];
        let error = chosen(Some("cosine_acuracy"), &keys).unwrap_err();
        assert_eq!(
            error,
            "--metric-for-best-model `cosine_acuracy` is not among the metrics of the evaluations: give one of eval_nli_loss, eval_nli_cosine_accuracy, eval_sts_loss"
        );
        let error = chosen(None, &keys).unwrap_err();
        assert!(
            error.starts_with(
                "--metric-for-best-model is not given, and its default `loss` may be several"
            ),
            "{error}"
        );
        // A part of a word is no name.
        assert!(chosen(Some("ccuracy"), &keys).is_err());
    }
}
