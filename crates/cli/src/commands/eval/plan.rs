//! What `sentune eval` is to do: which evaluators, on what.

use super::{Bench, Evaluated, classifier, columns, nano_beir, retrieval};
use crate::{
    flags::eval::{EvalFlags, EvaluatorName},
    named::{self, Named},
    session::Session,
    usage::UsageError,
};

/// The evaluations, in order.
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    /// Whether the metrics are merged and get a `sequential_score`.
    pub(super) is_sequential: bool,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// None: by the columns of the data.
    pub(super) evaluator: Option<EvaluatorName>,
    /// The data set, for an evaluator that takes one.
    pub(super) data: Option<Named<String>>,
    /// The name that metrics begin with, where a flag gives one.
    pub(super) name: Option<String>,
}

impl Plan {
    /// Reads the flags: each data set is put through the evaluators of its name, or those without one, or the
    /// one of its columns; then come the evaluators that take other data.
    pub(super) fn new(flags: &EvalFlags) -> Result<Self, UsageError> {
        let mut parts = parts(&flags.evaluator, &flags.data, has_retrieval(flags))?;
        for part in &mut parts {
            let of_data = part.data.as_ref().and_then(|data| data.name.clone());
            part.name = part
                .name
                .take()
                .or(of_data)
                .or_else(|| flags.options.name.clone());
        }
        if flags.options.name.is_some() && flags.data.len() > 1 {
            return Err(UsageError(
                "--name is for one data set: name each of several with --data NAME=DATA".to_owned(),
            ));
        }
        check_flags(flags, &parts)?;
        let is_sequential = parts.len() > 1
            || flags
                .evaluator
                .iter()
                .any(|evaluator| evaluator.value == EvaluatorName::Sequential);
        Ok(Self {
            parts,
            is_sequential,
        })
    }
}

fn has_retrieval(flags: &EvalFlags) -> bool {
    let flags = &flags.retrieval;
    flags.queries.is_some() || flags.corpus.is_some() || flags.qrels.is_some()
}

fn parts(
    evaluators: &[Named<EvaluatorName>],
    data: &[Named<String>],
    has_retrieval: bool,
) -> Result<Vec<Part>, UsageError> {
    named::check("--data", data)?;
    let (on_data, others): (Vec<_>, Vec<_>) = evaluators
        .iter()
        .filter(|evaluator| evaluator.value != EvaluatorName::Sequential)
        .partition(|evaluator| evaluator.value.takes_data());
    for evaluator in &on_data {
        if data.is_empty() {
            return Err(UsageError(format!(
                "--evaluator {evaluator} needs --data: a file, or a name on the hub"
            )));
        }
        if evaluator.name.is_some() && !data.iter().any(|data| data.name == evaluator.name) {
            return Err(UsageError(format!(
                "--evaluator {evaluator} has no --data of its name"
            )));
        }
    }
    let mut parts = Vec::new();
    for data in data {
        let of_name = |named: bool| {
            let own = on_data
                .iter()
                .filter(move |evaluator| match &evaluator.name {
                    Some(name) => named && Some(name) == data.name.as_ref(),
                    None => !named,
                });
            own.map(|evaluator| Some(evaluator.value.clone()))
                .collect::<Vec<_>>()
        };
        let mut own = of_name(true);
        if own.is_empty() {
            own = of_name(false);
        }
        if own.is_empty() {
            own.push(None);
        }
        parts.extend(own.into_iter().map(|evaluator| Part {
            evaluator,
            data: Some(data.clone()),
            name: None,
        }));
    }
    parts.extend(others.iter().map(|evaluator| Part {
        evaluator: Some(evaluator.value.clone()),
        data: None,
        name: evaluator.name.clone(),
    }));
    let is_retrieval = |part: &Part| part.evaluator == Some(EvaluatorName::InformationRetrieval);
    if has_retrieval && !parts.iter().any(is_retrieval) {
        parts.push(Part {
            evaluator: Some(EvaluatorName::InformationRetrieval),
            data: None,
            name: None,
        });
    }
    if parts.is_empty() {
        return Err(UsageError(
            "nothing to evaluate on: give --data, or --queries, --corpus and --qrels, or --evaluator nano-beir"
                .to_owned(),
        ));
    }
    Ok(parts)
}

/// Refuses flags that no part of the plan looks at.
fn check_flags(flags: &EvalFlags, parts: &[Part]) -> Result<(), UsageError> {
    use EvaluatorName as Name;
    use train::EvaluatorKind as Kind;

    let retrieval = &flags.retrieval;
    let by_columns = |kind: Kind| {
        move |name: &Option<Name>| match name {
            None => matches!(kind, Kind::Triplet | Kind::EmbeddingSimilarity),
            Some(name) => *name == Name::Columns(kind),
        }
    };
    let is_search =
        |name: &Option<Name>| matches!(name, Some(Name::InformationRetrieval | Name::NanoBeir(_)));
    let is_mining = |name: &Option<Name>| *name == Some(Name::ParaphraseMining);
    let triplet = by_columns(Kind::Triplet);
    let scored = by_columns(Kind::EmbeddingSimilarity);
    let has_main = |name: &Option<Name>| is_search(name) || triplet(name) || scored(name);
    let has_sides = |name: &Option<Name>| is_search(name) || *name == Some(Name::Reranking);
    type Looks<'a> = &'a dyn Fn(&Option<Name>) -> bool;
    let all: [(bool, &str, &str, Looks<'_>); 25] = [
        (
            flags.options.columns.is_some(),
            "--columns",
            "data sets of --data",
            &|name| !is_search(name),
        ),
        (
            flags.options.max_samples.is_some(),
            "--max-samples",
            "all but nano-beir",
            &|name| !matches!(name, Some(Name::NanoBeir(_))),
        ),
        (
            flags.options.name.is_some(),
            "--name",
            "all but nano-beir",
            &|name| !matches!(name, Some(Name::NanoBeir(_))),
        ),
        (
            flags.main_similarity.is_some(),
            "--main-similarity",
            "triplet, embedding-similarity, information-retrieval and nano-beir",
            &has_main,
        ),
        (flags.margin.is_some(), "--margin", "triplet", &triplet),
        (
            flags.quantize.is_some(),
            "--quantize",
            "embedding-similarity",
            &scored,
        ),
        (
            retrieval.accuracy_at_k.is_some(),
            "--accuracy-at-k",
            "information-retrieval and nano-beir",
            &is_search,
        ),
        (
            retrieval.precision_recall_at_k.is_some(),
            "--precision-recall-at-k",
            "information-retrieval and nano-beir",
            &is_search,
        ),
        (
            retrieval.mrr_at_k.is_some(),
            "--mrr-at-k",
            "information-retrieval and nano-beir",
            &is_search,
        ),
        (
            retrieval.ndcg_at_k.is_some(),
            "--ndcg-at-k",
            "information-retrieval and nano-beir",
            &is_search,
        ),
        (
            retrieval.map_at_k.is_some(),
            "--map-at-k",
            "information-retrieval and nano-beir",
            &is_search,
        ),
        (retrieval.at_k.is_some(), "--at-k", "reranking", &|name| {
            *name == Some(Name::Reranking)
        }),
        (
            retrieval.query_prompt.is_some(),
            "--query-prompt",
            "information-retrieval, nano-beir and reranking",
            &has_sides,
        ),
        (
            retrieval.query_prompt_name.is_some(),
            "--query-prompt-name",
            "information-retrieval, nano-beir and reranking",
            &has_sides,
        ),
        (
            retrieval.corpus_prompt.is_some(),
            "--corpus-prompt",
            "information-retrieval, nano-beir and reranking",
            &has_sides,
        ),
        (
            retrieval.corpus_prompt_name.is_some(),
            "--corpus-prompt-name",
            "information-retrieval, nano-beir and reranking",
            &has_sides,
        ),
        (
            retrieval.nano_beir_data.is_some(),
            "--nano-beir-data",
            "nano-beir",
            &|name| matches!(name, Some(Name::NanoBeir(_))),
        ),
        (
            flags.duplicates.is_some(),
            "--duplicates",
            "paraphrase-mining",
            &is_mining,
        ),
        (
            flags.duplicates_columns.is_some(),
            "--duplicates-columns",
            "paraphrase-mining",
            &is_mining,
        ),
        (
            flags.add_transitive_closure,
            "--add-transitive-closure",
            "paraphrase-mining",
            &is_mining,
        ),
        (
            flags.top_k.is_some(),
            "--top-k",
            "paraphrase-mining",
            &is_mining,
        ),
        (
            flags.max_pairs.is_some(),
            "--max-pairs",
            "paraphrase-mining",
            &is_mining,
        ),
        (flags.teacher.is_some(), "--teacher", "mse", &|name| {
            *name == Some(Name::Mse)
        }),
        (flags.loss.is_some(), "--loss", "label-accuracy", &|name| {
            *name == Some(Name::LabelAccuracy)
        }),
        (
            flags.classifier.is_some(),
            "--classifier",
            "label-accuracy",
            &|name| *name == Some(Name::LabelAccuracy),
        ),
    ];
    for (is_given, flag, evaluators, looks) in all {
        if is_given && !parts.iter().any(|part| looks(&part.evaluator)) {
            return Err(UsageError(format!(
                "{flag} is for {evaluators}, and none such is asked for"
            )));
        }
    }
    Ok(())
}

/// The data of an evaluation, read and checked.
pub(super) enum Input {
    Columns(columns::Columns),
    Reranking(retrieval::Reranking),
    Mse(columns::Mse),
    LabelAccuracy(classifier::LabelAccuracy),
    Mining(retrieval::Mining),
    Retrieval(retrieval::Retrieval),
    NanoBeir(nano_beir::NanoBeir),
}

impl Part {
    /// Reads the data.
    pub(super) fn load(&self, flags: &EvalFlags, session: &Session) -> anyhow::Result<Input> {
        use EvaluatorName as Name;

        Ok(match &self.evaluator {
            None => Input::Columns(columns::Columns::load(self, None, flags, session)?),
            Some(Name::Columns(kind)) => {
                Input::Columns(columns::Columns::load(self, Some(*kind), flags, session)?)
            }
            Some(Name::Mse) => Input::Mse(columns::Mse::load(self, flags, session)?),
            Some(Name::LabelAccuracy) => {
                Input::LabelAccuracy(classifier::LabelAccuracy::load(self, flags, session)?)
            }
            Some(Name::Reranking) => Input::Reranking(retrieval::Reranking::load(self, flags)?),
            Some(Name::ParaphraseMining) => Input::Mining(retrieval::Mining::load(self, flags)?),
            Some(Name::NanoBeir(datasets)) => {
                Input::NanoBeir(nano_beir::NanoBeir::load(datasets, flags, session)?)
            }
            Some(Name::InformationRetrieval | Name::Sequential) => {
                Input::Retrieval(retrieval::Retrieval::load(self, flags)?)
            }
        })
    }
}

impl Input {
    /// Puts the model through the evaluator.
    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        match self {
            Self::Columns(input) => input.evaluate(bench),
            Self::Mse(input) => input.evaluate(bench),
            Self::LabelAccuracy(input) => input.evaluate(bench),
            Self::Reranking(input) => input.evaluate(bench),
            Self::Mining(input) => input.evaluate(bench),
            Self::Retrieval(input) => input.evaluate(bench),
            Self::NanoBeir(input) => input.evaluate(bench),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(evaluators: &[&str], data: &[&str]) -> Result<Vec<String>, String> {
        let evaluators: Vec<_> = evaluators
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let data: Vec<_> = data.iter().map(|text| text.parse().unwrap()).collect();
        let parts = parts(&evaluators, &data, false).map_err(|error| error.to_string())?;
        let shown = parts.iter().map(|part| {
            let evaluator = part
                .evaluator
                .as_ref()
                .map_or("?".to_owned(), ToString::to_string);
            let data = part
                .data
                .as_ref()
                .map_or(String::new(), ToString::to_string);
            format!("{evaluator} {data}").trim_end().to_owned()
        });
        Ok(shown.collect())
    }

    #[test]
    fn data_sets_meet_their_evaluators() {
        let plan = |evaluators: &[&str], data: &[&str]| planned(evaluators, data).unwrap();
        assert_eq!(plan(&[], &["a.csv"]), ["? a.csv"]);
        assert_eq!(plan(&["triplet"], &["a.csv"]), ["triplet a.csv"]);
        assert_eq!(
            plan(
                &["binary-classification", "embedding-similarity"],
                &["a.csv"]
            ),
            ["binary-classification a.csv", "embedding-similarity a.csv"]
        );
        assert_eq!(
            plan(
                &["x=mse", "nano-beir", "translation"],
                &["x=a.csv", "y=b.csv"]
            ),
            ["mse x=a.csv", "translation y=b.csv", "nano-beir"]
        );
        assert_eq!(
            plan(&["x=mse"], &["x=a.csv", "y=b.csv"]),
            ["mse x=a.csv", "? y=b.csv"]
        );
        assert_eq!(plan(&["nano-beir"], &[]), ["nano-beir"]);
        assert_eq!(plan(&["sequential"], &["a.csv"]), ["? a.csv"]);
    }

    #[test]
    fn what_does_not_meet_is_said() {
        let refused = |evaluators: &[&str], data: &[&str]| planned(evaluators, data).unwrap_err();
        assert!(refused(&[], &[]).contains("nothing to evaluate on"));
        assert!(refused(&["mse"], &[]).contains("--evaluator mse needs --data"));
        assert!(refused(&["x=mse"], &["y=a.csv"]).contains("x=mse has no --data of its name"));
        assert!(refused(&[], &["a.csv", "b.csv"]).contains("write each as NAME=DATA"));
    }
}
