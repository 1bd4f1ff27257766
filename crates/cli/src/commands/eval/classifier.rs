//! Label accuracy: the classifier that softmax loss trained, on labelled pairs.

use std::path::Path;

use anyhow::Context;
use data::Dataset;
use eval::{
    Inputs, LabelKind, Labels, Options,
    entry::{ColumnNeeds, Entry},
};
use losses::{
    BuildContext, Loss, LossConfig,
    softmax::{Softmax, SoftmaxOptions},
};
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};
use train::LOSS_WEIGHTS;
use wording::counted;

use super::subject::{Evaluated, Subject};
use crate::{source, usage::UsageError};

/// Pairs with a class.
pub(super) struct Classified {
    entry: &'static Entry,
    needs: &'static ColumnNeeds,
    dataset: Dataset,
    labels: Labels,
}

impl Classified {
    pub(super) fn new(
        dataset: Dataset,
        entry: &'static Entry,
        needs: &'static ColumnNeeds,
    ) -> anyhow::Result<Self> {
        let labels = train::evaluator_labels(&dataset);
        if !needs.fits(dataset.columns.len(), labels.as_ref()) {
            return Err(UsageError(format!(
                "data set `{}`: evaluator {} needs {}, but there are {} text columns ({}) {}",
                dataset.name,
                entry.name,
                needs.words,
                dataset.columns.len(),
                dataset.column_names().join(", "),
                LabelKind::of(labels.as_ref()).describe(),
            ))
            .into());
        }
        let labels = labels.context("there are classes")?;
        Ok(Self {
            entry,
            needs,
            dataset,
            labels,
        })
    }

    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        let dataset = &self.dataset;
        let folder = source::model(&subject.flags.model, subject.session)?;
        let classifier = classifier(&folder, &subject.options, subject.model.dimension())?;
        let mut columns = Vec::with_capacity(2);
        for column in &dataset.columns {
            let texts: Vec<&str> = column.texts.iter().collect();
            columns.push(subject.embed(subject.model, &texts, &subject.encoding, &dataset.name)?);
        }
        let logits = no_grad(|| classifier.logits(&columns))?;
        let n_classes = logits.size()[1];
        let strange = match &self.labels {
            Labels::Classes(classes) => classes
                .iter()
                .find(|label| !(0..n_classes).contains(*label)),
            _ => None,
        };
        if let Some(label) = strange {
            return Err(UsageError(format!(
                "data set `{}`: label {label} is none of the classifier's {n_classes} classes, 0 to {}",
                dataset.name,
                n_classes - 1
            ))
            .into());
        }
        let evaluator = (self.needs.build)(&dataset.name, &subject.options)?;
        let inputs = Inputs {
            embeddings: &[logits],
            labels: Some(&self.labels),
            text_ids: &[],
        };
        let what = counted(dataset.n_rows(), self.entry.unit);
        subject.evaluate(evaluator.as_ref(), &inputs, what)
    }
}

/// The classifier that lies beside a model's weights.
fn classifier(folder: &Path, given: &Options, dimension: i64) -> anyhow::Result<Softmax> {
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
    let name = weight_name(&path, &weights, given.text("classifier"))?;
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
    let mut options = options(given)?;
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

/// The prefix of the names of the classifier's weights.
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
fn options(given: &Options) -> anyhow::Result<SoftmaxOptions> {
    let Some(config) = given.text("loss").map(str::parse::<LossConfig>) else {
        return Ok(SoftmaxOptions::default());
    };
    let config = config.context("--loss")?;
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
