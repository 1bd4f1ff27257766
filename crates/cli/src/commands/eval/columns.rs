//! Evaluators of data sets whose columns and labels say all: triplets, pairs, translations, distillation.

use data::{Dataset, Labels};
use eval::{MseEvaluator, SimilarityFunction, csv::At};
use model::{Compute, EncodeOptions};
use tch::Tensor;
use train::{Evaluation, Evaluator, EvaluatorKind};

use super::{Bench, CsvRow, Evaluated, plan::Part};
use crate::{
    flags::eval::EvalFlags,
    models::{encode_evaluation, load_model, set_compute},
    session::Session,
    source::{self, DataOptions},
    table::counted,
    tokenizing::tokenize,
    usage::UsageError,
};

/// Reads the data set of a part.
pub(super) fn load_dataset(
    part: &Part,
    flags: &EvalFlags,
    session: &Session,
) -> anyhow::Result<Dataset> {
    let source = part.data.as_ref().map_or("", |data| data.value.as_str());
    let options = DataOptions {
        name: part.name.clone(),
        columns: flags.options.columns.clone(),
        max_rows: flags.options.max_samples,
        on_bad_row: Some(flags.options.on_bad_row),
    };
    source::dataset(source, flags.options.split, &options, session)
}

/// Data for an evaluator of columns, by name or by the columns.
pub(super) struct Columns {
    kind: Option<EvaluatorKind>,
    dataset: Dataset,
}

impl Columns {
    pub(super) fn load(
        part: &Part,
        kind: Option<EvaluatorKind>,
        flags: &EvalFlags,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let dataset = load_dataset(part, flags, session)?;
        Evaluation::check(&dataset, kind)?;
        Ok(Self { kind, dataset })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let flags = bench.flags;
        let data = tokenize(self.dataset, bench.model.tokenizer(), bench.session)?;
        let main = flags.main_similarity;
        let mut evaluation = Evaluation::with_kind(
            data,
            self.kind,
            &flags
                .options
                .similarities_with(main, &SimilarityFunction::ALL)?,
            bench.options.clone(),
        )?;
        match evaluation.evaluator_mut() {
            Evaluator::Triplet(evaluator) => {
                evaluator.main_similarity = main;
                if let Some(margin) = &flags.margin {
                    evaluator.margin = margin.0.clone();
                }
            }
            Evaluator::EmbeddingSimilarity(evaluator) => {
                evaluator.main_similarity = main;
                evaluator.precision = flags.quantize;
            }
            _ => {}
        }
        let unit = match evaluation.evaluator() {
            Evaluator::Triplet(_) => "triplets",
            Evaluator::EmbeddingSimilarity(_) => "scored pairs",
            Evaluator::BinaryClassification(_) => "labelled pairs",
            Evaluator::Translation(_) => "translations",
            Evaluator::LossOnly => "rows",
        };
        let embeddings = encode_evaluation(&evaluation, bench.model, bench.session)?;
        let metrics = evaluation.metrics(&embeddings)?;
        let intervals = match &bench.how {
            Some(how) => evaluation.row_figures(&embeddings)?.intervals(how),
            None => Vec::new(),
        };
        let csv = evaluation.csv(&metrics, At::Outside);
        Ok(Evaluated {
            what: counted(evaluation.data().dataset.n_rows(), unit),
            intervals,
            csv: csv
                .into_iter()
                .map(|(name, header, row)| CsvRow { name, header, row })
                .collect(),
            metrics,
        })
    }
}

/// Texts whose embeddings a teacher gives too.
pub(super) struct Mse {
    dataset: Dataset,
    teacher: Option<String>,
}

impl Mse {
    pub(super) fn load(part: &Part, flags: &EvalFlags, session: &Session) -> anyhow::Result<Self> {
        let dataset = load_dataset(part, flags, session)?;
        let n_columns = dataset.columns.len();
        let refused = |problem: String| {
            Err(UsageError(format!("data set `{}`: {problem}", dataset.name)).into())
        };
        match (&flags.teacher, &dataset.labels) {
            _ if n_columns > 2 => {
                return refused(format!(
                    "evaluator mse needs 1 text column, or 2 (what the teacher embeds, what the model embeds), but there are {n_columns} ({}): choose them with --columns",
                    dataset.column_names().join(", ")
                ));
            }
            (None, Some(Labels::Vector { .. })) if n_columns == 1 => {}
            (None, _) => {
                return refused(
                    "evaluator mse needs a --teacher, or 1 text column with the teacher's embeddings as labels (lists of numbers)"
                        .to_owned(),
                );
            }
            (Some(_), _) => {}
        }
        Ok(Self {
            teacher: flags.teacher.clone(),
            dataset,
        })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let Self { dataset, teacher } = self;
        let column = |i: usize| dataset.columns[i].texts.iter().collect::<Vec<&str>>();
        let source = match (teacher, &dataset.labels) {
            (Some(name), _) => {
                let mut teacher = load_model(&name, bench.session)?;
                let encoding = &bench.flags.options.encoding;
                let compute = Compute {
                    gemm: encoding.gemm,
                    precision: encoding.precision,
                    ..Compute::default()
                };
                set_compute(&mut teacher, compute)?;
                // The model's prompts may not be the teacher's.
                let options = EncodeOptions {
                    prompt_name: None,
                    ..bench.options.clone()
                };
                let what = format!("{}: teacher", dataset.name);
                bench.embed(&teacher, &column(0), &options, &what)?
            }
            (None, Some(Labels::Vector { values, shape })) => {
                let width: usize = shape.iter().product();
                Tensor::f_from_slice(values)?.f_reshape([-1, width as i64])?
            }
            (None, _) => anyhow::bail!("data set `{}` has no teacher", dataset.name),
        };
        let texts = column(dataset.columns.len() - 1);
        let target = bench.embed(bench.model, &texts, &bench.options, &dataset.name)?;
        let evaluator = MseEvaluator::new(&dataset.name);
        let metrics = evaluator.evaluate(&source, &target)?;
        let intervals = match &bench.how {
            Some(how) => evaluator.rows(&source, &target)?.intervals(how),
            None => Vec::new(),
        };
        Ok(Evaluated {
            what: counted(texts.len(), "rows"),
            intervals,
            csv: vec![CsvRow {
                name: evaluator.csv_file(),
                header: evaluator.csv_header(),
                row: evaluator.csv_row(At::Outside, &metrics),
            }],
            metrics,
        })
    }
}
