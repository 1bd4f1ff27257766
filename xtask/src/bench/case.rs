//! What is measured: the cases, the settings of both sides, and what one process comes to.

use std::{fmt, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{
    Bench,
    inputs::{N_SENTENCES, Shape},
    process::Ended,
};

/// Something that is measured on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// The chip's rate of matrix products
    Gemm,
    /// Where the time of sentune's steps goes, by part
    Profile,
    /// Training, MPNet-base, batches of 16
    #[value(name = "train-base-16")]
    TrainBase16,
    /// Training, the small model, batches of 16
    #[value(name = "train-mini-16")]
    TrainMini16,
    /// Encoding 1,500 sentences, MPNet-base
    EncodeBase,
    /// Encoding 1,500 sentences, the small model
    EncodeMini,
    /// From the command to the first step, the small model
    Start,
    /// Tokenising 100,000 triplets
    Tokenize,
    /// Training, MPNet-base, batches of 128; last, since it takes longest
    #[value(name = "train-base-128")]
    TrainBase128,
}

/// Ours or the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Peer,
    Ours,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peer => "sentence-transformers",
            Self::Ours => "sentune",
        }
    }
}

/// A side with how it computes and how much of it.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) side: Side,
    pub(super) precision: &'static str,
    /// Steps before the clock starts.
    pub(super) n_warmup: usize,
    /// Steps that it runs for.
    pub(super) n_measured: usize,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.side.name(), self.precision)
    }
}

impl Case {
    /// In the order in which they are measured.
    pub(super) const ALL: [Self; 9] = [
        Self::Gemm,
        Self::Profile,
        Self::Start,
        Self::Tokenize,
        Self::TrainMini16,
        Self::EncodeMini,
        Self::TrainBase16,
        Self::EncodeBase,
        Self::TrainBase128,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Profile => "profile",
            Self::TrainBase16 => "train-base-16",
            Self::TrainBase128 => "train-base-128",
            Self::TrainMini16 => "train-mini-16",
            Self::EncodeBase => "encode-base",
            Self::EncodeMini => "encode-mini",
            Self::Start => "start",
            Self::Tokenize => "tokenize",
        }
    }

    /// What the rate counts; seconds are better when they are fewer.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Gemm => "GFLOP/s",
            Self::Profile => "ms",
            Self::EncodeBase | Self::EncodeMini => "sentences/s",
            Self::Start => "s",
            _ => "triplets/s",
        }
    }

    pub(super) fn is_base(self) -> bool {
        matches!(
            self,
            Self::TrainBase16 | Self::TrainBase128 | Self::EncodeBase
        )
    }

    fn batch_size(self) -> usize {
        if self == Self::TrainBase128 { 128 } else { 16 }
    }

    /// Multiplications and additions in matrix products a token: forward, and in training twice that for the
    /// gradients of inputs and weights. Attention's own products come on top and are left out, for both sides.
    pub(super) fn flops_per_token(self, shape: Shape) -> Option<f64> {
        let forward = 2.0 * shape.n_linear_weights();
        match self {
            Self::TrainBase16 | Self::TrainBase128 | Self::TrainMini16 => Some(3.0 * forward),
            Self::EncodeBase | Self::EncodeMini => Some(forward),
            Self::Gemm | Self::Profile | Self::Start | Self::Tokenize => None,
        }
    }

    /// Peer and sentune take turns in this order.
    pub(super) fn settings(self) -> Vec<Setting> {
        use Side::{Ours, Peer};
        let setting = |side, precision, n_warmup, n_measured| Setting {
            side,
            precision,
            n_warmup,
            n_measured,
        };
        let both = |peer: [(usize, usize); 2], ours: (usize, usize)| {
            vec![
                setting(Peer, "fp32", peer[0].0, peer[0].1),
                setting(Ours, "fp32", ours.0, ours.1),
                setting(Peer, "bf16", peer[1].0, peer[1].1),
                setting(Ours, "bf16", ours.0, ours.1),
                setting(Ours, "fp16", ours.0, ours.1),
            ]
        };
        match self {
            Self::TrainBase16 => both([(2, 4), (2, 8)], (2, 10)),
            Self::TrainBase128 => both([(1, 1), (1, 1)], (1, 2)),
            Self::TrainMini16 => both([(4, 20), (4, 20)], (4, 40)),
            Self::EncodeBase | Self::EncodeMini => both([(0, 0), (0, 0)], (0, 0)),
            Self::Start | Self::Tokenize => {
                vec![setting(Peer, "fp32", 0, 1), setting(Ours, "fp32", 0, 1)]
            }
            Self::Gemm | Self::Profile => Vec::new(),
        }
    }
}

impl Bench {
    /// The command of one measurement.
    pub(super) fn command(&self, case: Case, setting: &Setting) -> Result<Command> {
        let n_steps = (setting.n_warmup + setting.n_measured).to_string();
        let inputs = &self.inputs;
        let model = inputs.model(case);
        let data = match case {
            Case::EncodeBase | Case::EncodeMini => &inputs.sentences,
            Case::Tokenize => &inputs.many,
            _ => &inputs.triplets,
        };
        let batch_size = case.batch_size().to_string();
        let mut command;
        if setting.side == Side::Peer {
            let script = match case {
                Case::EncodeBase | Case::EncodeMini => "encode.py",
                Case::Tokenize => "tokenize_all.py",
                _ => "train.py",
            };
            command = self.peer.command(script, model, data, self.n_threads);
            match case {
                Case::Tokenize => {}
                Case::EncodeBase | Case::EncodeMini => {
                    command.args(["--precision", setting.precision]);
                }
                _ => {
                    command.args(["--precision", setting.precision]);
                    command.args(["--batch-size", &batch_size, "--max-steps", &n_steps]);
                }
            }
            return Ok(command);
        }
        command = self.sentune.command();
        command
            .args(["--num-threads", &self.n_threads.to_string()])
            .args(["--device", "cpu"])
            .env("SENTUNE_CACHE", inputs.folder.join("cache"));
        if matches!(case, Case::EncodeBase | Case::EncodeMini) {
            command.arg("encode").arg("--model").arg(model);
            command.arg("--input").arg(data);
            command
                .arg("--output")
                .arg(inputs.folder.join("embeddings.npy"));
        } else {
            command.args(["--quiet", "train", "--json", "--overwrite-output-dir"]);
            command.arg("--model").arg(model);
            command.arg("--train-data").arg(data);
            command.arg("--output-dir").arg(inputs.folder.join("run"));
            command.args(["--batch-size", &batch_size, "--max-steps", &n_steps]);
            command.args(["--logging-steps", "1", "--save-strategy", "no"]);
            if case == Case::Tokenize {
                command.arg("--token-cache=false");
            }
        }
        // A sentune without the flag has fp32 alone.
        if setting.precision != "fp32" {
            command.args(["--precision", setting.precision]);
        }
        Ok(command)
    }
}

/// What one process came to.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// In the case's unit.
    value: f64,
    unit: &'static str,
    tokens_per_second: Option<f64>,
    /// In training until the end of the last step.
    peak_bytes: Option<u64>,
    /// Until the process ended: sentune writes the trained model then.
    peak_bytes_of_process: Option<u64>,
    /// Of each step, or of all sentences.
    pub(super) n_tokens_by_step: Vec<u64>,
}

impl Sample {
    /// Reads the lines of a process that succeeded.
    pub(super) fn of(case: Case, setting: &Setting, ended: &Ended) -> Result<Self> {
        let mut sample = Self {
            value: f64::NAN,
            unit: case.unit(),
            tokens_per_second: None,
            peak_bytes: ended.peak_bytes(f64::INFINITY),
            peak_bytes_of_process: ended.peak_bytes(f64::INFINITY),
            n_tokens_by_step: Vec::new(),
        };
        match case {
            Case::EncodeBase | Case::EncodeMini => sample.read_encoding(setting, ended)?,
            Case::Tokenize => sample.read_tokenizing(setting, ended)?,
            Case::Start => sample.value = find(ended, "begin")?.0,
            _ => sample.read_steps(setting, ended)?,
        }
        ensure!(
            sample.value.is_finite() && sample.value > 0.0,
            "{} {} is no measurement",
            sample.value,
            sample.unit
        );
        Ok(sample)
    }

    /// From the end of the last step of warm-up to that of the last step, by the time that lines came.
    fn read_steps(&mut self, setting: &Setting, ended: &Ended) -> Result<()> {
        let steps: Vec<(f64, u64, u64)> = ended
            .lines
            .iter()
            .filter_map(|(seconds, line)| {
                Some((
                    *seconds,
                    line["n_rows"].as_u64()?,
                    line["n_tokens"].as_u64()?,
                ))
            })
            .collect();
        let n_steps = setting.n_warmup + setting.n_measured;
        ensure!(
            setting.n_warmup > 0 && steps.len() == n_steps,
            "it told of {} steps, not {n_steps}",
            steps.len()
        );
        let measured = &steps[setting.n_warmup..];
        let seconds = steps[n_steps - 1].0 - steps[setting.n_warmup - 1].0;
        let sum = |part: fn(&(f64, u64, u64)) -> u64| measured.iter().map(part).sum::<u64>() as f64;
        self.value = sum(|step| step.1) / seconds;
        self.tokens_per_second = Some(sum(|step| step.2) / seconds);
        self.n_tokens_by_step = steps.iter().map(|step| step.2).collect();
        self.peak_bytes = ended.peak_bytes(steps[n_steps - 1].0);
        Ok(())
    }

    fn read_encoding(&mut self, setting: &Setting, ended: &Ended) -> Result<()> {
        let seconds = if setting.side == Side::Ours {
            encoding_seconds(&ended.stderr).context("it did not say how long it encoded")?
        } else {
            let line = find(ended, "encoded")?.1;
            let n_tokens = line["n_tokens"]
                .as_u64()
                .context("no tokens were counted")?;
            self.n_tokens_by_step = vec![n_tokens];
            let seconds = line["seconds"].as_f64().context("no time was taken")?;
            self.tokens_per_second = Some(n_tokens as f64 / seconds);
            seconds
        };
        self.value = N_SENTENCES as f64 / seconds;
        Ok(())
    }

    fn read_tokenizing(&mut self, setting: &Setting, ended: &Ended) -> Result<()> {
        let (n_rows, seconds) = if setting.side == Side::Ours {
            let line = find(ended, "begin")?.1;
            (&line["n_rows"], &line["seconds"]["tokens"])
        } else {
            let line = find(ended, "tokenized")?.1;
            (&line["n_rows"], &line["seconds"])
        };
        let rate = n_rows.as_f64().zip(seconds.as_f64());
        let (n_rows, seconds) = rate.context("it did not say how long it took")?;
        self.value = n_rows / seconds;
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "value": self.value,
            "tokens_per_second": self.tokens_per_second,
            "peak_bytes": self.peak_bytes,
            "peak_bytes_of_process": self.peak_bytes_of_process,
            "n_tokens_by_step": self.n_tokens_by_step,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} {}", self.value, self.unit)?;
        if let Some(bytes) = self.peak_bytes {
            write!(f, ", {:.2} GB", bytes as f64 / 1e9)?;
        }
        Ok(())
    }
}

/// The first line of this type.
pub(super) fn find<'e>(ended: &'e Ended, kind: &str) -> Result<(f64, &'e Value)> {
    let mut lines = ended.lines.iter();
    let found = lines.find(|(_, line)| line["type"] == kind);
    let (seconds, line) = found.with_context(|| format!("it printed no `{kind}` line"))?;
    Ok((*seconds, line))
}

/// The time in `encoded 1,500 sentences in 3.214 s: ...`.
pub(super) fn encoding_seconds(stderr: &str) -> Option<f64> {
    let line = stderr.lines().find(|line| line.contains("encoded "))?;
    let (_, rest) = line.split_once(" in ")?;
    rest.split(' ').next()?.parse().ok()
}

/// The name of a folder or file, as documents show it.
pub(super) fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(lines: &[(f64, Value)], stderr: &str) -> Ended {
        Ended {
            code: Some(0),
            lines: lines.to_vec(),
            stderr: stderr.to_owned(),
            peaks: vec![(0.5, 3), (12.0, 5), (13.5, 9)],
        }
    }

    fn setting(side: Side, n_warmup: usize, n_measured: usize) -> Setting {
        Setting {
            side,
            precision: "fp32",
            n_warmup,
            n_measured,
        }
    }

    #[test]
    fn the_warm_up_does_not_count() -> Result<()> {
        let step = |n_tokens| json!({"type": "step", "n_rows": 16, "n_tokens": n_tokens});
        let lines = [
            (1.0, json!({"type": "begin", "n_rows": 3256})),
            (9.0, step(700)),
            (11.0, step(500)),
            (13.0, step(300)),
            (14.0, json!({"type": "log", "train_loss": 1.0})),
        ];
        let ended = ended(&lines, "");
        let sample = Sample::of(Case::TrainBase16, &setting(Side::Peer, 1, 2), &ended)?;
        assert_eq!(sample.value, 8.0);
        assert_eq!(sample.tokens_per_second, Some(200.0));
        assert_eq!(sample.n_tokens_by_step, [700, 500, 300]);
        assert_eq!(sample.peak_bytes, Some(5));
        assert_eq!(sample.peak_bytes_of_process, Some(9));
        assert!(Sample::of(Case::TrainBase16, &setting(Side::Peer, 1, 3), &ended).is_err());
        let start = Sample::of(Case::Start, &setting(Side::Ours, 0, 1), &ended)?;
        assert_eq!(start.value, 1.0);
        Ok(())
    }

    #[test]
    fn both_sides_say_how_long_they_encode() -> Result<()> {
        let stderr = " INFO model x: 1 parameters\n INFO encoded 1,500 sentences in 3.000 s: 500.0 sentences/s\n";
        let ours = Sample::of(
            Case::EncodeBase,
            &setting(Side::Ours, 0, 0),
            &ended(&[], stderr),
        )?;
        assert_eq!(ours.value, 500.0);
        let line = json!({"type": "encoded", "seconds": 6.0, "n_tokens": 18_000});
        let peer = ended(&[(8.0, line)], "");
        let peer = Sample::of(Case::EncodeBase, &setting(Side::Peer, 0, 0), &peer)?;
        assert_eq!((peer.value, peer.tokens_per_second), (250.0, Some(3000.0)));
        let silent = ended(&[], "");
        assert!(Sample::of(Case::EncodeBase, &setting(Side::Ours, 0, 0), &silent).is_err());
        Ok(())
    }

    #[test]
    fn both_sides_say_how_long_they_tokenize() -> Result<()> {
        for (side, line) in [
            (
                Side::Ours,
                json!({"type": "begin", "n_rows": 100, "seconds": {"tokens": 2.0}}),
            ),
            (
                Side::Peer,
                json!({"type": "tokenized", "n_rows": 100, "seconds": 2.0}),
            ),
        ] {
            let ended = ended(&[(1.0, line)], "");
            let sample = Sample::of(Case::Tokenize, &setting(side, 0, 1), &ended)?;
            assert_eq!(sample.value, 50.0);
        }
        Ok(())
    }
}
