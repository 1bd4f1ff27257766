//! Steps as CUDA graphs: recorded once for each shape of batch, and launched at one go from then on.
//!
//! A step of a few hundred tokens is hundreds of kernels that each take a GPU less time than the host needs to launch
//! it. Recorded, they are launched together. A step that can't be recorded is launched kernel by kernel.

use std::{collections::HashMap, fmt};

use model::{ChunkedBatch, StaticBatch, StaticShape};
use shim::graph::Graph;
use tch::{Device, Tensor};

use crate::error::{TrainError, chain};

/// Batches of a shape that are computed kernel by kernel before it is recorded: libraries choose their algorithms and take
/// their memory in the first.
const N_WARMUP: u32 = 2;

/// The most graphs, each of which takes some memory. Steps of shapes that come later are not recorded.
const MAX_GRAPHS: usize = 64;

/// The work of a step on the batch that stays in place: loss, norm and scale, `[3]`.
pub(crate) type Work<'w> = dyn FnMut(&StaticBatch) -> Result<Tensor, TrainError> + 'w;

/// Records work.
pub(crate) trait Recorder {
    /// Records the work, and does none of it.
    fn record(
        &mut self,
        batch: &StaticBatch,
        work: &mut Work<'_>,
    ) -> Result<Box<dyn Replay>, TrainError>;
}

/// Recorded work.
pub(crate) trait Replay {
    /// Does it on the numbers that the batch holds now. `work` is what was recorded, for recorders that keep no
    /// graph.
    fn replay(&mut self, batch: &StaticBatch, work: &mut Work<'_>) -> Result<Tensor, TrainError>;
}

/// Records by CUDA.
#[derive(Debug)]
pub(crate) struct CudaRecorder;

struct CudaReplay {
    graph: Graph,
    /// Where each replay leaves its numbers.
    numbers: Tensor,
}

impl Recorder for CudaRecorder {
    fn record(
        &mut self,
        batch: &StaticBatch,
        work: &mut Work<'_>,
    ) -> Result<Box<dyn Replay>, TrainError> {
        let mut numbers = None;
        let graph = Graph::record(|| {
            numbers = Some(work(batch)?);
            Ok::<_, TrainError>(())
        })?;
        let numbers = numbers
            .ok_or_else(|| TrainError::Arguments("a graph was recorded of no work".to_owned()))?;
        Ok(Box::new(CudaReplay { graph, numbers }))
    }
}

impl Replay for CudaReplay {
    fn replay(&mut self, _: &StaticBatch, _: &mut Work<'_>) -> Result<Tensor, TrainError> {
        self.graph.replay()?;
        // The next replay writes over them.
        let mut numbers = self.numbers.f_empty_like()?;
        numbers.f_copy_(&self.numbers)?;
        Ok(numbers)
    }
}

/// The graphs of a run.
pub(crate) struct StepGraphs {
    recorder: Box<dyn Recorder>,
    device: Device,
    /// Slots by the place of the data set, whose loss is part of what is recorded, and the batch's shape.
    slots: HashMap<(usize, StaticShape), Slot>,
    n_recorded: usize,
    /// Why nothing more is recorded, once something could not be.
    problem: Option<String>,
}

enum Slot {
    /// The number of batches computed kernel by kernel.
    Seen(u32),
    Recorded(Box<Recorded>),
}

struct Recorded {
    batch: StaticBatch,
    replay: Box<dyn Replay>,
}

impl StepGraphs {
    pub(crate) fn new(recorder: Box<dyn Recorder>, device: Device) -> Self {
        Self {
            recorder,
            device,
            slots: HashMap::new(),
            n_recorded: 0,
            problem: None,
        }
    }

    /// Does the work of a step by its graph. `None` where there is none, and the step has to be computed kernel by
    /// kernel.
    ///
    /// # Errors
    /// A replay's. A recording that fails is no error: it is told by [`Self::take_problem`].
    pub(crate) fn step(
        &mut self,
        dataset: usize,
        shape: StaticShape,
        batch: &ChunkedBatch,
        work: &mut Work<'_>,
    ) -> Result<Option<Tensor>, TrainError> {
        let slot = self.slots.entry((dataset, shape)).or_insert(Slot::Seen(0));
        if let Slot::Seen(n) = slot {
            let may_record = self.problem.is_none() && self.n_recorded < MAX_GRAPHS;
            if *n < N_WARMUP || !may_record {
                *n += 1;
                return Ok(None);
            }
            let mut room = StaticBatch::new(shape, self.device)?;
            room.load(batch)?;
            match self.recorder.record(&room, work) {
                Ok(replay) => {
                    self.n_recorded += 1;
                    *slot = Slot::Recorded(Box::new(Recorded {
                        batch: room,
                        replay,
                    }));
                }
                Err(error) => {
                    self.problem = Some(chain(&error));
                    return Ok(None);
                }
            }
        }
        let Slot::Recorded(recorded) = slot else {
            return Ok(None);
        };
        recorded.batch.load(batch)?;
        recorded.replay.replay(&recorded.batch, work).map(Some)
    }

    /// Why nothing more is recorded, the first time that it is asked for.
    pub(crate) fn take_problem(&mut self) -> Option<String> {
        self.problem
            .as_mut()
            .map(std::mem::take)
            .filter(|problem| !problem.is_empty())
    }
}

impl fmt::Debug for StepGraphs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepGraphs")
            .field("n_recorded", &self.n_recorded)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// Records nothing and does the work again at each replay, on the batch that stays in place: the effect of a graph,
/// without a GPU.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// Recordings to refuse.
    pub(crate) refuses: bool,
}

impl Recorder for Echo {
    fn record(&mut self, _: &StaticBatch, _: &mut Work<'_>) -> Result<Box<dyn Replay>, TrainError> {
        if self.refuses {
            let words = "this work can't be recorded".to_owned();
            return Err(tch::TchError::Torch(words).into());
        }
        Ok(Box::new(Self::default()))
    }
}

impl Replay for Echo {
    fn replay(&mut self, batch: &StaticBatch, work: &mut Work<'_>) -> Result<Tensor, TrainError> {
        work(batch)
    }
}

#[cfg(test)]
mod tests {
    use model::{ChunkLimit, Numbering};

    use super::*;

    fn batch(lengths: &[usize]) -> (ChunkedBatch<'static>, StaticShape) {
        let ids: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![7; length]).collect();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = ChunkedBatch::new(&ids, ChunkLimit::NONE, Device::Cpu).unwrap();
        let shape = StaticShape::of(&batch, Numbering::default()).unwrap();
        (batch, shape)
    }

    /// True for each of these batches that was computed by a graph.
    fn by_graph(graphs: &mut StepGraphs, batches: &[(usize, &[usize])]) -> Vec<bool> {
        let mut answers = Vec::new();
        for (dataset, lengths) in batches {
            let (batch, shape) = batch(lengths);
            let numbers = graphs
                .step(*dataset, shape, &batch, &mut |place| {
                    assert_eq!(place.shape(), shape);
                    Ok(Tensor::from_slice(&[1.0f32, 2.0, 1.0]))
                })
                .unwrap();
            answers.push(numbers.is_some());
        }
        answers
    }

    #[test]
    fn a_shape_is_recorded_when_it_comes_the_third_time() {
        let mut graphs = StepGraphs::new(Box::new(Echo::default()), Device::Cpu);
        // 9 and 12 tokens fill up to the same number, and so do their longest sentences.
        let batches: [(usize, &[usize]); 7] = [
            (0, &[3, 6]),
            (0, &[4, 8]),
            (0, &[5, 5, 5]),
            (0, &[3, 6]),
            (1, &[3, 6]),
            (0, &[3, 7]),
            (0, &[3, 17]),
        ];
        assert_eq!(
            by_graph(&mut graphs, &batches),
            [false, false, false, true, false, true, false]
        );
        assert_eq!(graphs.n_recorded, 1);
    }

    #[test]
    fn a_failed_recording_is_told_once_and_ends_recording() {
        let mut graphs = StepGraphs::new(Box::new(Echo { refuses: true }), Device::Cpu);
        let batches: [(usize, &[usize]); 3] = [(0, &[3]), (0, &[3]), (0, &[3])];
        assert_eq!(by_graph(&mut graphs, &batches), [false; 3]);
        let problem = graphs.take_problem().unwrap();
        assert!(problem.contains("can't be recorded"), "{problem}");
        assert_eq!(by_graph(&mut graphs, &batches), [false; 3]);
        assert!(graphs.take_problem().is_none());
        assert_eq!(graphs.n_recorded, 0);
    }

    #[test]
    fn the_number_of_graphs_has_an_end() {
        let mut graphs = StepGraphs::new(Box::new(Echo::default()), Device::Cpu);
        for n in 1..=MAX_GRAPHS + 1 {
            let lengths = vec![3; n];
            let batches: [(usize, &[usize]); 3] = [(0, &lengths), (0, &lengths), (0, &lengths)];
            let found = by_graph(&mut graphs, &batches);
            assert_eq!(found, [false, false, n <= MAX_GRAPHS]);
        }
    }
}
