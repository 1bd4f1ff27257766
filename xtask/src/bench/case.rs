//! The measured cases, on a processor and on a GPU.

use std::fmt;

use clap::ValueEnum;

/// The device that both sides compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Device {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
}

impl Device {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// The format of matrix products on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Precision {
    /// Single precision
    Fp32,
    /// Single precision with products in TF32
    Tf32,
    /// bf16, with weights in single precision
    Bf16,
    /// fp16, with weights in single precision
    Fp16,
}

impl Precision {
    pub(super) const ALL: [Self; 4] = [Self::Fp32, Self::Tf32, Self::Bf16, Self::Fp16];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

/// One of the two sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Peer,
    Ours,
}

impl Side {
    /// In the order of measurement.
    pub(super) const BOTH: [Self; 2] = [Self::Peer, Self::Ours];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Ours => "sentune",
        }
    }
}

/// The model that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Model {
    /// MPNet-base's shape.
    Base,
    /// A small MPNet.
    Mini,
    /// BERT-base's shape.
    Bert,
    /// All-MiniLM's shape: a BERT of 6 layers, 384 wide.
    MiniLm,
    /// ModernBERT-base's shape.
    ModernBert,
    /// The same on texts of 2,048 tokens.
    ModernBertLong,
}

impl Model {
    /// The other types of encoders, beside MPNet.
    pub(super) const OTHERS: [Self; 4] = [
        Self::MiniLm,
        Self::Bert,
        Self::ModernBert,
        Self::ModernBertLong,
    ];

    /// The name in `--only`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Mini => "mini",
            Self::Bert => "bert",
            Self::MiniLm => "minilm",
            Self::ModernBert => "modernbert",
            Self::ModernBertLong => "modernbert-2048",
        }
    }
}

/// The measured work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// From the command to the first step.
    Start,
    /// Tokenising 100,000 triplets.
    Tokenize,
    /// Training in batches of this size.
    Train(usize),
    Encode,
}

/// One row of the tables: a task on a model in a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) task: Task,
    pub(super) model: Model,
    pub(super) precision: Precision,
}

impl Case {
    /// All cases of a device: on a GPU, where the time is limited, the most telling first; on a processor the longest
    /// last.
    pub(super) fn all(device: Device) -> Vec<Self> {
        use Precision::{Bf16, Fp16, Fp32, Tf32};
        let mut cases = Vec::new();
        let mut add = |task, model, precisions: &[Precision]| {
            cases.extend(precisions.iter().map(|&precision| Self {
                task,
                model,
                precision,
            }));
        };
        match device {
            Device::Cpu => {
                add(Task::Start, Model::Mini, &[Fp32]);
                add(Task::Tokenize, Model::Mini, &[Fp32]);
                for model in [Model::Mini, Model::Base] {
                    add(Task::Train(16), model, &[Fp32, Bf16, Fp16]);
                    add(Task::Encode, model, &[Fp32, Bf16, Fp16]);
                }
                for model in Model::OTHERS {
                    let batch_size = match model {
                        Model::ModernBertLong => 2,
                        _ => 16,
                    };
                    add(Task::Train(batch_size), model, &[Fp32, Bf16]);
                    add(Task::Encode, model, &[Fp32, Bf16]);
                }
                add(Task::Train(128), Model::Base, &[Fp32, Bf16, Fp16]);
            }
            Device::Cuda => {
                for precision in [Bf16, Fp32, Tf32] {
                    for batch_size in [16, 128, 1024, 8] {
                        add(Task::Train(batch_size), Model::Base, &[precision]);
                    }
                    // `sentune encode` has no TF32.
                    if precision != Tf32 {
                        add(Task::Encode, Model::Base, &[precision]);
                    }
                }
            }
        }
        cases
    }

    /// The case without its precision, as `--only` takes it.
    pub(super) fn work(self) -> String {
        let model = self.model.name();
        match self.task {
            Task::Start => "start".to_owned(),
            Task::Tokenize => "tokenize".to_owned(),
            Task::Train(batch_size) => format!("train-{model}-{batch_size}"),
            Task::Encode => format!("encode-{model}"),
        }
    }

    /// The unit of its figures; seconds are better when they are fewer.
    pub(super) fn unit(self) -> &'static str {
        match self.task {
            Task::Start => "s",
            Task::Tokenize | Task::Train(_) => "triplets/s",
            Task::Encode => "sentences/s",
        }
    }

    /// The sides that have the precision.
    pub(super) fn sides(self) -> &'static [Side] {
        match self.precision {
            Precision::Fp16 => &[Side::Ours],
            _ => &Side::BOTH,
        }
    }

    /// Whether it belongs to the look at whether everything works.
    pub(super) fn is_quick(self) -> bool {
        let is_common = [Precision::Fp32, Precision::Bf16].contains(&self.precision);
        is_common
            && [Task::Train(16), Task::Encode].contains(&self.task)
            && !Model::OTHERS.contains(&self.model)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.work(), self.precision.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_cases_of_a_gpu_come_first() {
        let names: Vec<String> = Case::all(Device::Cuda)
            .iter()
            .map(Case::to_string)
            .collect();
        assert_eq!(names.len(), 14);
        assert_eq!(names[..2], ["train-base-16, bf16", "train-base-128, bf16"]);
        let cpu = Case::all(Device::Cpu);
        assert_eq!(cpu.len(), 33);
        assert_eq!(cpu.last().unwrap().work(), "train-base-128");
    }
}
