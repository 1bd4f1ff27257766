//! Evaluators of data sets whose columns and labels say all: triplets, pairs, translations, distillation.

use anyhow::Context;
use data::{Dataset, Labels};
use eval::{
    EvaluatorKind, Inputs,
    entry::{ColumnNeeds, Entry},
};
use model::{Compute, EncodeOptions};
use tch::Tensor;
use train::Evaluation;
use wording::counted;

use super::subject::{Evaluated, Subject};
use crate::{
    flags::eval::EvalFlags,
    models::{encode_evaluation, load_model, set_compute},
    table::counted_all,
    tokenizing::tokenize,
    usage::UsageError,
};

/// Data for an evaluator of the model's own embeddings, by name or by the columns.
pub(super) struct Columns {
    kind: Option<EvaluatorKind>,
    dataset: Dataset,
}

impl Columns {
    pub(super) fn new(dataset: Dataset, entry: Option<&'static Entry>) -> anyhow::Result<Self> {
        let kind = entry.and_then(EvaluatorKind::new);
        Evaluation::check(&dataset, kind)?;
        Ok(Self { kind, dataset })
    }

    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        let session = subject.session;
        let data = tokenize(self.dataset, subject.model.tokenizer(), session)?;
        let encoding = subject.encoding.clone();
        let evaluation = Evaluation::with_kind(data, self.kind, &subject.options, encoding)?;
        let embeddings = encode_evaluation(&evaluation, subject.model, session)?;
        let metrics = evaluation.metrics(&embeddings)?;
        let rows = match &subject.how {
            Some(how) => evaluation
                .row_figures(&embeddings)?
                .map(|rows| rows.intervals(how)),
            None => None,
        };
        Ok(Evaluated {
            what: counted_all(&evaluation.counts()),
            intervals: rows.unwrap_or_default(),
            csv: evaluation
                .csv()
                .into_iter()
                .map(|table| (table, metrics.clone()))
                .collect(),
            metrics,
        })
    }
}

/// Texts whose embeddings a teacher gives too.
pub(super) struct Taught {
    entry: &'static Entry,
    needs: &'static ColumnNeeds,
    dataset: Dataset,
    teacher: Option<String>,
}

impl Taught {
    pub(super) fn new(
        dataset: Dataset,
        entry: &'static Entry,
        needs: &'static ColumnNeeds,
        flags: &EvalFlags,
    ) -> anyhow::Result<Self> {
        let n_columns = dataset.columns.len();
        let refused = |problem: String| {
            Err(UsageError(format!("data set `{}`: {problem}", dataset.name)).into())
        };
        let teacher = flags.of_evaluators.text("teacher").map(str::to_owned);
        match (&teacher, &dataset.labels) {
            _ if !needs.n_columns.contains(&n_columns) => {
                return refused(format!(
                    "evaluator {} needs {}, but there are {n_columns} ({}): choose them with --columns",
                    entry.name,
                    needs.words,
                    dataset.column_names().join(", ")
                ));
            }
            (None, Some(Labels::Vector { .. })) if n_columns == 1 => {}
            (None, _) => {
                return refused(format!(
                    "evaluator {} needs a --teacher, or 1 text column with the teacher's embeddings as labels (lists of numbers)",
                    entry.name
                ));
            }
            (Some(_), _) => {}
        }
        Ok(Self {
            entry,
            needs,
            dataset,
            teacher,
        })
    }

    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        let dataset = &self.dataset;
        let column = |i: usize| dataset.columns[i].texts.iter().collect::<Vec<&str>>();
        let source = match (&self.teacher, &dataset.labels) {
            (Some(name), _) => self.ask(name, &column(0), subject)?,
            (None, Some(Labels::Vector { values, shape })) => {
                let width: usize = shape.iter().product();
                Tensor::f_from_slice(values)?.f_reshape([-1, width as i64])?
            }
            (None, _) => anyhow::bail!("data set `{}` has no teacher", dataset.name),
        };
        let texts = column(dataset.columns.len() - 1);
        let target = subject.embed(subject.model, &texts, &subject.encoding, &dataset.name)?;
        let evaluator = (self.needs.build)(&dataset.name, &subject.options)?;
        let what = counted(texts.len(), self.entry.unit);
        subject.evaluate(evaluator.as_ref(), &Inputs::new(&[source, target]), what)
    }

    /// The teacher's embeddings.
    fn ask(&self, teacher: &str, texts: &[&str], subject: &Subject<'_>) -> anyhow::Result<Tensor> {
        let mut teacher = load_model(teacher, subject.session).context("--teacher")?;
        let flags = &subject.flags.options.encoding;
        let compute = Compute {
            gemm: flags.gemm,
            precision: flags.precision,
            ..Compute::default()
        };
        set_compute(&mut teacher, compute)?;
        // The model's prompts may not be the teacher's.
        let encoding = EncodeOptions {
            prompt_name: None,
            ..subject.encoding.clone()
        };
        let what = format!("{}: teacher", self.dataset.name);
        subject.embed(&teacher, texts, &encoding, &what)
    }
}
