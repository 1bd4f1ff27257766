//! The trait of all losses.

use tch::{Device, Kind, TchError, Tensor};

use crate::{
    error::LossError,
    inputs::{LabelKind, Requirements},
};

/// A training objective: a differentiable function of a batch's embeddings.
///
/// [`Self::value`] is for callers. [`Self::compute`] and [`Self::compute_step`] are the formula: they
/// take a batch that has been checked.
pub trait Loss: std::fmt::Debug + Send {
    /// The name of the class in sentence-transformers, such as `MultipleNegativesRankingLoss`.
    fn name(&self) -> &'static str;

    /// The columns and labels that a data set must have for this loss.
    fn requirements(&self) -> Requirements;

    /// The loss of one batch, a scalar in f32 (or f64 where the embeddings are). It never waits for
    /// the device.
    ///
    /// `columns` holds one tensor `[batch, dimension]` in f32 or f64 per column, in the order of the
    /// data set, then those of a guide. There are as many as [`Self::requirements`] asks for, and
    /// labels where it asks for them: `[batch]`, or one of the shapes that the loss describes.
    ///
    /// # Errors
    /// Where labels with several numbers a row have another shape, and where libtorch fails.
    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError>;

    /// [`Self::compute`] in a step of training: other than that where the loss takes earlier layers
    /// too or draws something at random.
    ///
    /// # Errors
    /// As [`Self::compute`].
    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        self.compute(step.embeddings, step.labels)
    }

    /// The loss of one batch of any precision, checked against [`Self::requirements`].
    ///
    /// # Errors
    /// Where the columns or labels don't fit, and where libtorch fails.
    fn value(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        let (name, requirements) = (self.name(), self.requirements());
        let columns = requirements.columns_of(name, step.embeddings)?;
        let own = requirements.n_own(columns.len());
        let labels = requirements.labels_of(name, step.labels, columns[0].size()[0])?;
        let without_guide = Requirements {
            guide: false,
            ..requirements
        };
        let mut prior = Vec::with_capacity(step.prior.len());
        for (layer, of_layer) in step.prior {
            let of_layer = without_guide.columns_of(name, of_layer)?;
            if of_layer.len() != own {
                return Err(LossError::Inputs {
                    loss: name,
                    needs: format!("{own} columns for each layer"),
                    has: format!("{} for layer {layer}", of_layer.len()),
                });
            }
            prior.push((*layer, of_layer));
        }
        self.compute_step(&StepInputs {
            embeddings: &columns,
            prior: &prior,
            labels: labels.as_ref(),
            own: step.own,
            seed: step.seed,
        })
    }

    /// Checks a data set with `columns` text columns and labels of this kind, before the first step.
    ///
    /// # Errors
    /// Says what the loss needs and what the data set has.
    fn check(&self, columns: usize, labels: LabelKind) -> Result<(), LossError> {
        self.requirements().check(self.name(), columns, labels)
    }

    /// Checks the values of the parameters; [`LossConfig::build`](crate::LossConfig::build) asks.
    ///
    /// # Errors
    /// Names the parameter, its value and what is allowed.
    fn validate(&self) -> Result<(), LossError> {
        Ok(())
    }

    /// Trainable tensors that the loss itself owns, by name; empty for most.
    ///
    /// The tensors share storage with the loss's own, so that an optimizer may step them, clipping
    /// may count them and a checkpoint may save and restore them in place.
    fn parameters(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// How many rows are to be embedded at a time, where the batch is too large for one go; see
    /// [`cached`](crate::cached).
    fn mini_batch_size(&self) -> Option<usize> {
        None
    }

    /// Whether [`Self::compute_step`] does the same operations for all batches of one size, whatever
    /// the seed, so that they can be recorded once and repeated.
    fn is_recordable(&self) -> bool {
        false
    }

    /// Whether the columns are to hold the rows of all ranks that train together, this rank's being
    /// [`StepInputs::own`] (`gather_across_devices`).
    fn gathers_across_devices(&self) -> bool {
        false
    }

    /// The model whose embeddings [`Requirements::guide`] asks for: a folder, or a name on the hub.
    fn guide(&self) -> Option<&str> {
        None
    }

    /// The layers, of the `n_prior` before the last, on which the loss is to be computed as well in
    /// the step of this seed, in order; 0 is the embedding of the words. Most losses take none.
    fn prior_layers(&self, n_prior: usize, seed: u64) -> Vec<usize> {
        let _ = (n_prior, seed);
        Vec::new()
    }
}

/// The inputs of a loss in one step.
#[derive(Debug, Clone, Copy)]
pub struct StepInputs<'a> {
    /// The columns, as in [`Loss::compute`].
    pub embeddings: &'a [Tensor],
    /// For each of [`Loss::prior_layers`], its index and its columns, pooled like the last layer's. A
    /// guide's columns are in `embeddings` only.
    pub prior: &'a [(usize, Vec<Tensor>)],
    /// One entry per row, as in [`Loss::compute`].
    pub labels: Option<&'a Tensor>,
    /// The rows that the loss is the mean over, where the columns hold those of other ranks too; all
    /// where `None`.
    pub own: Option<OwnRows>,
    /// Seed of what is drawn at random.
    pub seed: u64,
}

impl<'a> StepInputs<'a> {
    /// Inputs of a loss that takes no earlier layers and draws nothing.
    pub fn new(embeddings: &'a [Tensor], labels: Option<&'a Tensor>) -> Self {
        Self {
            embeddings,
            prior: &[],
            labels,
            own: None,
            seed: 0,
        }
    }
}

/// The rows of one rank among those of all, which are in the order of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRows {
    /// The first of them.
    pub first: i64,
    /// Their number.
    pub n: i64,
}

impl OwnRows {
    /// The rows themselves, of a column with `n_all` rows; all of them where no rank has its own.
    pub(crate) fn or_all(own: Option<Self>, n_all: i64) -> Self {
        own.unwrap_or(Self { first: 0, n: n_all })
    }

    /// These rows of a column.
    pub(crate) fn of(self, column: &Tensor) -> Result<Tensor, TchError> {
        match column.size()[0] == self.n {
            true => Ok(column.shallow_clone()),
            false => column.f_narrow(0, self.first, self.n),
        }
    }

    /// The place of each of these rows among all.
    pub(crate) fn places(self, device: Device) -> Result<Tensor, TchError> {
        Tensor::f_arange_start(self.first, self.first + self.n, (Kind::Int64, device))
    }

    /// True where a column of `[n, blocks * n_all]` belongs to the row itself.
    pub(crate) fn is_own(
        self,
        n_all: i64,
        blocks: i64,
        device: Device,
    ) -> Result<Tensor, TchError> {
        let all = Tensor::f_eye(n_all, (Kind::Bool, device))?;
        self.of(&all)?.f_repeat([1, blocks])
    }
}
