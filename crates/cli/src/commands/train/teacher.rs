//! Labels that a teacher model gives, computed once and kept in the run's folder.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use data::Labels;
use losses::{LabelKind, Loss};
use model::{EncodeOptions, SentenceTransformer};
use tch::{Kind, Tensor};
use train::TrainingData;

use crate::{session::Session, usage::UsageError};

/// Gives the data the labels that the loss learns from: for a loss of single columns the teacher's embeddings,
/// `[columns, dimension]` a row, for one of queries and documents the dot products of its embeddings of the
/// query and of each document.
///
/// # Errors
/// If the loss has no use for a teacher or the data has labels already.
pub(crate) fn label(
    data: &mut TrainingData,
    loss: &dyn Loss,
    teacher: &SentenceTransformer,
    folder: Option<&Path>,
    session: &Session,
) -> anyhow::Result<()> {
    let dataset = &data.dataset;
    let takes = loss.requirements().accepts.iter();
    let Some(takes) = takes
        .filter(|accepts| accepts.labels == LabelKind::FloatVector)
        .min_by_key(|accepts| accepts.min_columns)
    else {
        return Err(UsageError(format!(
            "{} learns nothing from a teacher: choose mse, embed-distill, margin-mse or distill-kl-div",
            loss.name()
        ))
        .into());
    };
    if dataset.labels.is_some() {
        return Err(UsageError(format!(
            "data set `{}` has labels already: choose --columns without them, or leave out --teacher",
            dataset.name
        ))
        .into());
    }
    loss.check(dataset.columns.len(), LabelKind::FloatVector)?;
    let are_scores = takes.min_columns > 1;
    let file = format!("teacher-{}.safetensors", file_name(&dataset.name));
    let path = folder.map(|folder| folder.join(file));
    let digest = digest(data, teacher, are_scores)?;
    let kept = path.as_ref().and_then(|path| read(path, digest));
    let labels = match kept {
        Some(labels) => labels,
        None => {
            let labels = compute(data, teacher, are_scores, session)?;
            if let Some(path) = &path {
                let digest = Tensor::f_from_slice(&[digest])?;
                Tensor::write_safetensors(&[("labels", &labels), ("digest", &digest)], path)?;
            }
            labels
        }
    };
    let shape: Vec<usize> = labels.size()[1..]
        .iter()
        .map(|&length| length as usize)
        .collect();
    let values = Vec::<f32>::try_from(labels.f_reshape([-1])?)?;
    let labels = Some(Labels::Vector { values, shape });
    data.tokens.labels.clone_from(&labels);
    data.dataset.labels = labels;
    Ok(())
}

fn compute(
    data: &TrainingData,
    teacher: &SentenceTransformer,
    are_scores: bool,
    session: &Session,
) -> anyhow::Result<Tensor> {
    let dataset = &data.dataset;
    let n_rows = dataset.n_rows();
    let bar = session.bar("teacher", n_rows * dataset.columns.len());
    let mut follow = session.following(&bar);
    let mut columns = Vec::with_capacity(dataset.columns.len());
    for (i, column) in dataset.columns.iter().enumerate() {
        let texts: Vec<&str> = column.texts.iter().collect();
        let embeddings = teacher.encode(&texts, &EncodeOptions::default(), &mut |n_done| {
            follow(i * n_rows + n_done)
        });
        session.check()?;
        columns.push(embeddings?);
    }
    bar.finish_and_clear();
    if !are_scores {
        return Ok(Tensor::f_stack(&columns, 1)?);
    }
    let dot = |document: &Tensor| -> Result<Tensor, tch::TchError> {
        let product = columns[0].f_mul(document)?;
        product.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
    };
    let scores = columns[1..]
        .iter()
        .map(dot)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&scores, 1)?)
}

/// The labels in the file, if they are of this teacher and these texts.
fn read(path: &Path, digest: i64) -> Option<Tensor> {
    if !path.exists() {
        return None;
    }
    let mut tensors = Tensor::read_safetensors(path).ok()?;
    let mut take = |name: &str| {
        let place = tensors.iter().position(|(saved, _)| saved == name)?;
        Some(tensors.swap_remove(place).1)
    };
    let (labels, saved) = (take("labels")?, take("digest")?);
    let is_same = saved.numel() == 1 && i64::try_from(saved).ok() == Some(digest);
    (is_same && labels.kind() == Kind::Float).then_some(labels)
}

/// A number of all that the labels depend on.
fn digest(
    data: &TrainingData,
    teacher: &SentenceTransformer,
    are_scores: bool,
) -> anyhow::Result<i64> {
    let mut hasher = DefaultHasher::new();
    are_scores.hash(&mut hasher);
    teacher.max_seq_length().hash(&mut hasher);
    let weights = Vec::<f32>::try_from(teacher.parameters().flat())?;
    for weight in weights {
        weight.to_bits().hash(&mut hasher);
    }
    for column in &data.dataset.columns {
        column.texts.iter().for_each(|text| text.hash(&mut hasher));
    }
    Ok(hasher.finish() as i64)
}

/// The data set's name as part of a file's.
fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.replace(|c| !is_plain(c), "-")
}
