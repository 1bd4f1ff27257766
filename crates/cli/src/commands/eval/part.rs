//! The plan of `sentune eval`: the evaluators, each with its data.

use eval::{
    EvaluatorKind,
    entry::{Entry, Needs},
    registry::{self, EVALUATORS},
};

use crate::{
    flags::eval::{EvalFlags, EvaluatorName},
    named::{self, Named},
    usage::UsageError,
};

/// The evaluations, in order.
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    /// Whether the metrics are merged and get a `sequential_score`.
    pub(super) is_sequential: bool,
}

/// One evaluation.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// None: by the columns of the data.
    pub(super) evaluator: Option<&'static Entry>,
    /// The names of its tasks, where some are chosen.
    pub(super) tasks: Option<String>,
    /// The data set, for an evaluator that takes one.
    pub(super) data: Option<Named<String>>,
    /// The name that metrics begin with, where a flag gives one.
    pub(super) name: Option<String>,
}

impl Plan {
    /// Reads the flags: each data set is put through the evaluators of its name, or those without one, or the
    /// one of its columns; then come the evaluators that take other data.
    pub(super) fn new(flags: &EvalFlags) -> Result<Self, UsageError> {
        let has_flag = |flag: &str| flags.of_evaluators.has(flag);
        let mut parts = parts(&flags.evaluator, &flags.data, has_flag)?;
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
                .any(|evaluator| matches!(evaluator.value, EvaluatorName::Sequential));
        Ok(Self {
            parts,
            is_sequential,
        })
    }
}

/// An evaluator that is asked for.
struct Asked<'a> {
    name: Option<&'a str>,
    entry: &'static Entry,
    tasks: Option<&'a str>,
}

impl Asked<'_> {
    fn part(&self, data: Option<&Named<String>>) -> Part {
        Part {
            evaluator: Some(self.entry),
            tasks: self.tasks.map(str::to_owned),
            data: data.cloned(),
            name: match data {
                Some(_) => None,
                None => self.name.map(str::to_owned),
            },
        }
    }
}

fn parts(
    evaluators: &[Named<EvaluatorName>],
    data: &[Named<String>],
    has_flag: impl Fn(&str) -> bool,
) -> Result<Vec<Part>, UsageError> {
    named::check("--data", data)?;
    let asked = evaluators
        .iter()
        .filter_map(|evaluator| match &evaluator.value {
            EvaluatorName::Registered { entry, tasks } => Some(Asked {
                name: evaluator.name.as_deref(),
                entry,
                tasks: tasks.as_deref(),
            }),
            EvaluatorName::Sequential => None,
        });
    let (on_data, others): (Vec<_>, Vec<_>) = asked.partition(|asked| asked.entry.takes_data());
    for asked in &on_data {
        let evaluator = match asked.name {
            Some(name) => format!("{name}={}", asked.entry.name),
            None => asked.entry.name.to_owned(),
        };
        if data.is_empty() {
            return Err(UsageError(format!(
                "--evaluator {evaluator} needs --data: a file, or a name on the hub"
            )));
        }
        if asked.name.is_some() && !data.iter().any(|data| data.name.as_deref() == asked.name) {
            return Err(UsageError(format!(
                "--evaluator {evaluator} has no --data of its name"
            )));
        }
    }
    let mut parts = Vec::new();
    for data in data {
        let named = |name: Option<&str>| -> Vec<&Asked<'_>> {
            on_data.iter().filter(|asked| asked.name == name).collect()
        };
        let mut own = match data.name.as_deref() {
            Some(name) => named(Some(name)),
            None => Vec::new(),
        };
        if own.is_empty() {
            own = named(None);
        }
        parts.extend(own.iter().map(|asked| asked.part(Some(data))));
        if own.is_empty() {
            parts.push(Part {
                evaluator: None,
                tasks: None,
                data: Some(data.clone()),
                name: None,
            });
        }
    }
    parts.extend(others.iter().map(|asked| asked.part(None)));
    // The flags of an evaluator's tables ask for it.
    for entry in EVALUATORS.into_iter().filter(|entry| !entry.takes_data()) {
        let Needs::Tables(needs) = &entry.needs else {
            continue;
        };
        let flags = needs.tables.iter().filter_map(|table| table.flag);
        let is_planned = |part: &Part| part.evaluator.is_some_and(|own| own.name == entry.name);
        if flags.into_iter().any(|flag| has_flag(flag.name)) && !parts.iter().any(is_planned) {
            let asked = Asked {
                name: None,
                entry,
                tasks: None,
            };
            parts.push(asked.part(None));
        }
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
    let refused = |flag: &str, evaluators: &str| {
        let problem = format!("--{flag} is for {evaluators}, and none such is asked for");
        Err(UsageError(problem))
    };
    let has_tasks = |entry: &Entry| matches!(entry.needs, Needs::Tasks { .. });
    let options = &flags.options;
    if options.columns.is_some() && !parts.iter().any(|part| part.is_any(Entry::takes_data)) {
        return refused("columns", "data sets of --data");
    }
    for (flag, is_given) in [
        ("max-samples", options.max_samples.is_some()),
        ("name", options.name.is_some()),
    ] {
        let is_for = |part: &Part| part.is_any(|entry| !has_tasks(entry));
        if is_given && !parts.iter().any(is_for) {
            return refused(flag, "all but nano-beir");
        }
    }
    for flag in registry::flags() {
        let looks = |entry: &Entry| entry.flags.iter().any(|own| own.name == flag.name);
        if flags.of_evaluators.has(flag.name) && !parts.iter().any(|part| part.is_any(looks)) {
            let names = EVALUATORS.into_iter().filter(|entry| looks(entry));
            let mut names: Vec<&str> = names.map(|entry| entry.name).collect();
            let last = names.pop().unwrap_or_default();
            let names = match names.is_empty() {
                true => last.to_owned(),
                false => format!("{} and {last}", names.join(", ")),
            };
            return refused(flag.name, &names);
        }
    }
    Ok(())
}

impl Part {
    /// Whether this holds for its evaluator, or for any that its data may be put to.
    fn is_any(&self, holds: impl Fn(&Entry) -> bool) -> bool {
        match self.evaluator {
            Some(entry) => holds(entry),
            None => EvaluatorKind::defaults().any(|kind| holds(kind.entry())),
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
        let parts = parts(&evaluators, &data, |_| false).map_err(|error| error.to_string())?;
        let shown = parts.iter().map(|part| {
            let evaluator = part.evaluator.map_or("?", |entry| entry.name);
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
