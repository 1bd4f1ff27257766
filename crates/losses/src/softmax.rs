//! Softmax loss: a classifier on a pair's two embeddings.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, TchError, Tensor};

use crate::{
    context::BuildContext,
    error::LossError,
    inputs::{self, Accepts, LabelKind, Requirements},
    linear::Linear,
    loss::Loss,
};

/// Cross-entropy of a linear classifier over the classes of a pair.
///
/// # Formula
///
/// ```text
/// loss = CE( W [u; v; |u - v|; u·v] + b, y )
/// ```
///
/// with those parts of the features that are asked for.
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`, and per pair a class from 0 to `num_labels` - 1, or the
/// probabilities of all classes.
///
/// # Defaults
///
/// `num_labels` 3, the classes of NLI, `concatenation_sent_rep` true,
/// `concatenation_sent_difference` true, `concatenation_sent_multiplication` false.
///
/// # When to use
///
/// To repeat the first SBERT models.
/// [`MultipleNegativesRanking`](crate::multiple_negatives_ranking::MultipleNegativesRanking) on
/// triplets of the same data gives better embeddings.
///
/// # Relations
///
/// Unlike all others it has weights of its own, `classifier.weight` and `classifier.bias`, that
/// [`Loss::parameters`] hands out to be stepped, clipped and saved. sentence-transformers neither
/// clips nor saves them.
///
/// # Paper
///
/// Reimers and Gurevych 2019, <https://arxiv.org/abs/1908.10084>. Upstream file:
/// `sentence_transformer/losses/softmax.py`.
#[derive(Debug)]
pub struct Softmax {
    options: SoftmaxOptions,
    classifier: Linear,
}

/// The parameters of [`Softmax`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftmaxOptions {
    /// Number of classes.
    pub num_labels: i64,
    /// Whether the two embeddings are features.
    pub concatenation_sent_rep: bool,
    /// Whether the absolute difference is one.
    pub concatenation_sent_difference: bool,
    /// Whether the product is one.
    pub concatenation_sent_multiplication: bool,
}

const NAME: &str = "SoftmaxLoss";

impl Default for SoftmaxOptions {
    fn default() -> Self {
        Self {
            num_labels: 3,
            concatenation_sent_rep: true,
            concatenation_sent_difference: true,
            concatenation_sent_multiplication: false,
        }
    }
}

impl Softmax {
    /// A classifier with the random weights that `torch.nn.Linear` draws after
    /// `torch.manual_seed(context.seed)`.
    ///
    /// # Errors
    /// Where no part of the features is asked for or there are fewer than two classes.
    pub fn new(options: SoftmaxOptions, context: &BuildContext) -> Result<Self, LossError> {
        let parts = 2 * i64::from(options.concatenation_sent_rep)
            + i64::from(options.concatenation_sent_difference)
            + i64::from(options.concatenation_sent_multiplication);
        if parts == 0 {
            let problem = "concatenation_sent_rep, concatenation_sent_difference and \
                concatenation_sent_multiplication are all false: one has to be true";
            return Err(LossError::parameter(NAME, problem));
        }
        if options.num_labels < 2 {
            let problem = format!(
                "num_labels is {}, but must be at least 2",
                options.num_labels
            );
            return Err(LossError::parameter(NAME, problem));
        }
        let features = parts * context.dimension.unwrap_or(1);
        let classifier = Linear::new(features, options.num_labels, context)?;
        Ok(Self {
            options,
            classifier,
        })
    }

    /// The classifier's logits `[batch, num_labels]` for two columns `[batch, dimension]`, as the
    /// label-accuracy evaluator takes them.
    ///
    /// # Errors
    /// Where the columns don't fit.
    pub fn logits(&self, embeddings: &[Tensor]) -> Result<Tensor, LossError> {
        let columns = self.requirements().columns_of(NAME, embeddings)?;
        Ok(self.logits_of(&columns[0], &columns[1])?)
    }

    /// Classes `[batch]`, or their probabilities `[batch, num_labels]`.
    fn targets(&self, labels: &Tensor, batch: i64) -> Result<Tensor, LossError> {
        let (shape, n_labels) = (labels.size(), self.options.num_labels);
        if shape == [batch, n_labels] {
            return Ok(labels.f_to_kind(Kind::Float)?);
        }
        if labels.numel() != batch as usize || labels.is_floating_point() {
            return Err(LossError::Shape {
                loss: NAME,
                what: "labels".to_owned(),
                shape,
                expected: format!("[{batch}] classes or [{batch}, {n_labels}] probabilities"),
            });
        }
        Ok(labels.f_view([batch])?.f_to_kind(Kind::Int64)?)
    }

    fn logits_of(&self, u: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
        let mut features = Vec::new();
        if self.options.concatenation_sent_rep {
            features.extend([u.shallow_clone(), v.shallow_clone()]);
        }
        if self.options.concatenation_sent_difference {
            features.push(u.f_sub(v)?.f_abs()?);
        }
        if self.options.concatenation_sent_multiplication {
            features.push(u.f_mul(v)?);
        }
        self.classifier.forward(&Tensor::f_cat(&features, 1)?)
    }
}

impl Loss for Softmax {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(
            const {
                &[
                    Accepts::exactly(2, LabelKind::Integer),
                    Accepts::exactly(2, LabelKind::Probabilities),
                ]
            },
        )
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let logits = self.logits_of(&columns[0], &columns[1])?;
        let labels = self.targets(&inputs::required(NAME, labels)?, logits.size()[0])?;
        let mean = Reduction::Mean;
        Ok(logits.f_cross_entropy_loss::<Tensor>(&labels, None, mean, -100, 0.0)?)
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        self.classifier.parameters("classifier")
    }
}
