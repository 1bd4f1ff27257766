//! Label accuracy: the classifier that softmax loss trained, on labelled pairs.

use std::path::Path;

use anyhow::Context;
use data::{Dataset, Labels};
use eval::{LabelAccuracyEvaluator, csv::At};
use losses::{
    BuildContext, Loss,
    softmax::{Softmax, SoftmaxOptions},
};
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};
use train::LOSS_WEIGHTS;

use super::{Bench, CsvRow, Evaluated, columns::load_dataset, plan::Part};
use crate::{flags::eval::EvalFlags, session::Session, source, table::counted, usage::UsageError};

/// Pairs with a class.
pub(super) struct LabelAccuracy {
    dataset: Dataset,
}

impl LabelAccuracy {
    pub(super) fn load(part: &Part, flags: &EvalFlags, session: &Session) -> anyhow::Result<Self> {
        let dataset = load_dataset(part, flags, session)?;
        let fits = dataset.columns.len() == 2 && matches!(dataset.labels, Some(Labels::Integer(_)));
        if !fits {
            return Err(UsageError(format!(
                "data set `{}`: evaluator label-accuracy needs 2 text columns with a label column of whole numbers (classes), but the text columns are {} and the labels {}",
                dataset.name,
                dataset.column_names().join(", "),
                match dataset.labels {
                    None => "missing",
                    Some(Labels::Integer(_)) => "whole numbers",
                    Some(_) => "none of classes",
                }
            ))
            .into());
        }
        Ok(Self { dataset })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let Self { dataset } = self;
        let flags = bench.flags;
        let folder = source::model(&flags.model, bench.session)?;
        let classifier = classifier(&folder, flags, bench.model.dimension())?;
        let Some(Labels::Integer(labels)) = &dataset.labels else {
            anyhow::bail!("data set `{}` has no classes", dataset.name);
        };
        let mut columns = Vec::with_capacity(2);
        for column in &dataset.columns {
            let texts: Vec<&str> = column.texts.iter().collect();
            columns.push(bench.embed(bench.model, &texts, &bench.options, &dataset.name)?);
        }
        let logits = no_grad(|| classifier.logits(&columns))?;
        let n_classes = logits.size()[1];
        if let Some(label) = labels.iter().find(|label| !(0..n_classes).contains(*label)) {
            return Err(UsageError(format!(
                "data set `{}`: label {label} is none of the classifier's {n_classes} classes, 0 to {}",
                dataset.name,
                n_classes - 1
            ))
            .into());
        }
        let evaluator = LabelAccuracyEvaluator::new(&dataset.name);
        let metrics = evaluator.evaluate(&logits, labels)?;
        let intervals = match &bench.how {
            Some(how) => evaluator.rows(&logits, labels)?.intervals(how),
            None => Vec::new(),
        };
        Ok(Evaluated {
            what: counted(labels.len(), "labelled pairs"),
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

/// The classifier that lies beside a model's weights.
fn classifier(folder: &Path, flags: &EvalFlags, dimension: i64) -> anyhow::Result<Softmax> {
    let path = folder.join(LOSS_WEIGHTS);
    if !path.exists() {
        return Err(UsageError(format!(
            "--evaluator label-accuracy: {} is not there: give a --model that was trained with --loss softmax, the folder `final` of its run or a checkpoint",
            path.display()
        ))
        .into());
    }
    let weights = Tensor::read_safetensors(&path)
        .with_context(|| format!("{} can't be read", path.display()))?;
    let name = weight_name(&path, &weights, flags.classifier.as_deref())?;
    let find = |ending: &str| {
        let name = format!("{name}.{ending}");
        let found = weights.iter().find(|(saved, _)| *saved == name);
        found.map(|(_, tensor)| tensor).with_context(|| {
            format!(
                "{} holds no `{name}`: it is no classifier of softmax",
                path.display()
            )
        })
    };
    let (weight, bias) = (find("weight")?, find("bias")?);
    let [n_labels, n_features] = weight.size()[..] else {
        anyhow::bail!("{}: `{name}.weight` is no matrix", path.display());
    };
    let mut options = options(flags)?;
    options.num_labels = n_labels;
    let context = BuildContext {
        dimension: Some(dimension),
        device: Device::Cpu,
        seed: 0,
    };
    let classifier = Softmax::new(options, &context)?;
    for ((part, own), saved) in classifier.parameters().iter().zip([weight, bias]) {
        if own.size() != saved.size() || saved.kind() != Kind::Float {
            return Err(UsageError(format!(
                "{}: the classifier has {n_features} features and {n_labels} classes, but {part} of such a softmax loss on {dimension} dimensions has the shape {:?}: say with --loss how it was trained, as softmax:concatenation_sent_multiplication=true",
                path.display(),
                own.size()
            ))
            .into());
        }
        no_grad(|| own.shallow_clone().f_copy_(saved))?;
    }
    Ok(classifier)
}

/// What the names of the classifier's weights begin with.
fn weight_name(
    path: &Path,
    weights: &[(String, Tensor)],
    wanted: Option<&str>,
) -> Result<String, UsageError> {
    const NAME: &str = "classifier";
    let sets: Vec<&str> = weights
        .iter()
        .filter_map(|(name, _)| name.strip_suffix("classifier.weight"))
        .map(|prefix| prefix.trim_end_matches('.'))
        .collect();
    let whole = |set: &str| match set {
        "" => NAME.to_owned(),
        set => format!("{set}.{NAME}"),
    };
    match (wanted, sets.as_slice()) {
        (None, [set]) => Ok(whole(set)),
        (Some(wanted), sets) if sets.contains(&wanted) => Ok(whole(wanted)),
        (_, []) => Err(UsageError(format!(
            "{}: there is no classifier in it: label-accuracy needs a model trained with --loss softmax",
            path.display()
        ))),
        (_, sets) => Err(UsageError(format!(
            "{}: name one of its classifiers with --classifier: {}",
            path.display(),
            sets.join(", ")
        ))),
    }
}

/// The parameters of the loss that a flag gives.
fn options(flags: &EvalFlags) -> anyhow::Result<SoftmaxOptions> {
    let Some(config) = &flags.loss else {
        return Ok(SoftmaxOptions::default());
    };
    if config.name() != "softmax" {
        return Err(UsageError(format!(
            "--loss {}: label-accuracy is of the classifier of softmax",
            config.name()
        ))
        .into());
    }
    config.check().context("--loss")?;
    let mut parameters = serde_json::to_value(config)?;
    if let Value::Object(parameters) = &mut parameters {
        parameters.remove("name");
    }
    Ok(serde_json::from_value(parameters)?)
}
