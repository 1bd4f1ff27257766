//! A step of several ranks: what they decide, gather and add up together.

use losses::{OwnRows, gradients::Gradients};
use tch::Tensor;

use crate::{
    error::TrainError,
    group::Vote,
    step::{Together, gradients::Accumulated},
    tasks::LossInputs,
    trained::Trained,
};

impl Together<'_> {
    /// The place of this rank's batch in a step of one process, which makes the batches of all ranks in turn.
    pub(crate) fn place(&self, micro_step: usize) -> usize {
        micro_step * self.group.size() + self.group.rank()
    }

    /// Brings the ranks together after each has tried its batches: all go on with the mean of their losses and gradients,
    /// or none does. `None` where a signal has come to one of them.
    ///
    /// # Errors
    /// This rank's own error, and [`TrainError::OutOfMemoryElsewhere`], after which all try again.
    pub(crate) fn settle(
        &self,
        trained: &Trained<'_>,
        tried: Result<Option<Accumulated>, TrainError>,
    ) -> Result<Option<Accumulated>, TrainError> {
        let sums = match tried {
            // The others are at one of the points where ranks vote, and try again too.
            Err(error) if error.is_out_of_memory() => {
                self.vote(Vote {
                    is_out_of_memory: true,
                    ..Vote::default()
                })?;
                return Err(error);
            }
            tried => tried?,
        };
        let Some(sums) = sums else {
            // A rank breaks its batches off where another is lost, and for nothing else.
            self.group.check()?;
            return Ok(None);
        };
        let votes = self.vote(Vote {
            loss: sums.loss()?,
            n_tokens: sums.n_tokens as f64,
            wants_to_stop: (self.is_interrupted)(),
            is_out_of_memory: false,
        })?;
        self.check_memory(&votes)?;
        if votes.iter().any(|vote| vote.wants_to_stop) {
            return Ok(None);
        }
        for gradient in trained.gradients() {
            self.group.mean(gradient)?;
        }
        let sum = |of: fn(&Vote) -> f64| votes.iter().map(of).sum::<f64>();
        let loss = Tensor::f_from_slice(&[sum(|vote| vote.loss) / votes.len() as f64])?;
        let loss = loss.f_reshape([0i64; 0].as_slice())?;
        Ok(Some(Accumulated {
            losses: vec![loss.f_to_device(trained.gradient.device())?],
            n_tokens: sum(|vote| vote.n_tokens) as usize,
        }))
    }

    /// The inputs of the loss of all ranks, of which it takes this rank's own rows.
    pub(crate) fn gather(&self, inputs: &LossInputs) -> Result<LossInputs, TrainError> {
        self.check_memory(&self.vote(Vote::default())?)?;
        let (texts, guide) = inputs.columns.split_at(inputs.n_columns);
        let prior = inputs.prior.iter().flat_map(|(_, columns)| columns);
        let mut columns = self.gather_columns(texts.iter().chain(prior).collect())?;
        let mut of_layers = columns.split_off(inputs.n_columns).into_iter();
        columns.extend(self.gather_columns(guide.iter().collect())?);
        let layers = inputs.prior.iter();
        let prior =
            layers.map(|(layer, own)| (*layer, of_layers.by_ref().take(own.len()).collect()));
        let n = texts[0].size()[0];
        Ok(LossInputs {
            columns,
            n_columns: inputs.n_columns,
            prior: prior.collect(),
            labels: None,
            own: Some(OwnRows {
                first: self.group.rank() as i64 * n,
                n,
            }),
        })
    }

    /// Columns of all ranks, `[ranks * rows, dimension]`, in the order of ranks.
    fn gather_columns(&self, columns: Vec<&Tensor>) -> Result<Vec<Tensor>, TrainError> {
        let Some(first) = columns.first() else {
            return Ok(Vec::new());
        };
        let dimension = first.size()[1];
        let all = self.group.gather(&Tensor::f_stack(&columns, 0)?)?;
        let of_column = |i| Ok(all.f_select(1, i)?.f_reshape([-1, dimension])?);
        (0..columns.len() as i64).map(of_column).collect()
    }

    /// Replaces gradients by the columns of all ranks by those of this rank's own rows, summed over the losses of all
    /// ranks. The mean of the ranks' gradients is then that of the mean of their losses.
    pub(crate) fn scatter(
        &self,
        found: &mut Gradients,
        n_columns: usize,
    ) -> Result<(), TrainError> {
        self.check_memory(&self.vote(Vote::default())?)?;
        let texts = found.embeddings[..n_columns].iter_mut();
        let columns: Vec<&mut Tensor> = texts.chain(found.prior.iter_mut().flatten()).collect();
        let dimension = columns[0].size()[1];
        let (n, size) = (columns.len() as i64, self.group.size() as i64);
        let all = Tensor::f_stack(&columns, 0)?.f_view([n, size, -1, dimension])?;
        let own = self.group.scatter_sum(&all.f_transpose(0, 1)?)?;
        for (i, column) in columns.into_iter().enumerate() {
            *column = own.f_select(0, i as i64)?;
        }
        Ok(())
    }

    fn vote(&self, own: Vote) -> Result<Vec<Vote>, TrainError> {
        self.group.vote(own)
    }

    fn check_memory(&self, votes: &[Vote]) -> Result<(), TrainError> {
        match votes.iter().position(|vote| vote.is_out_of_memory) {
            None => Ok(()),
            Some(rank) => Err(TrainError::OutOfMemoryElsewhere { rank }),
        }
    }
}
