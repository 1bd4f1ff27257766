//! The table of a GPU in docs/benchmarks.md, and the same for programs.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    GEMM,
    plan::{Cell, Precision, Task},
};
use crate::bench::{
    Results,
    case::Side,
    report::{best_rate, figure},
};

/// What stands before and after the tables in the document.
pub(super) const MARKERS: [&str; 2] = [
    "<!-- begin: written by cargo xtask bench --device cuda -->",
    "<!-- end: written by cargo xtask bench --device cuda -->",
];

/// What was asked for: ours over the peer's.
const RATIO_TARGETS: [(Task, Precision, f64); 2] = [
    (Task::Train(16), Precision::Bf16, 5.0),
    (Task::Train(128), Precision::Bf16, 3.0),
];

/// What was asked for of the GPU's rate, in batches of 1024 in bf16.
const SHARE_TARGET: (Task, Precision, f64) = (Task::Train(1024), Precision::Bf16, 0.4);

/// All that is kept, in the order of the table.
#[derive(Debug)]
pub(super) struct Report {
    rows: Vec<Row>,
    gpu: Value,
    rates: Vec<(&'static str, f64)>,
    raw: Value,
}

/// A cell with both sides.
#[derive(Debug)]
struct Row {
    cell: Cell,
    peer: Outcome,
    ours: Outcome,
}

/// What one side came to: figures, or why there are none.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Measured {
        value: f64,
        tokens_per_second: Option<f64>,
        /// Of the rate of matrix products.
        share: Option<f64>,
        /// By the driver's word, in bytes.
        peak: Option<f64>,
        /// By the side's own word, in bytes.
        allocated: Option<f64>,
    },
    Not(String),
}

impl Report {
    /// Sums up what is kept.
    pub(super) fn new(results: &Results) -> Result<Self> {
        let gemm = results.get(GEMM);
        let gpu = gemm.context("the GPU itself is not described: measure without --resume")?;
        let rate = |precision: &str| best_rate(gpu, precision);
        let precisions = ["fp32", "tf32", "bf16"].into_iter();
        let rates = precisions
            .filter_map(|name| Some((name, rate(name)?)))
            .collect();
        let mut rows = Vec::new();
        let mut sorted = Cell::all();
        sorted.sort_by_key(|cell| {
            (
                cell.batch_size().unwrap_or(usize::MAX),
                cell.precision.name(),
            )
        });
        for cell in sorted {
            if let Some(result) = results.get(&cell.name()) {
                let outcome = |side| outcome(result, side, rate(cell.precision.name()));
                rows.push(Row {
                    cell,
                    peer: outcome(Side::Peer),
                    ours: outcome(Side::Ours),
                });
            }
        }
        ensure!(!rows.is_empty(), "no case is measured yet");
        Ok(Self {
            rows,
            gpu: gpu["gpu"].clone(),
            rates,
            raw: json!(results),
        })
    }

    /// The tables.
    pub(super) fn markdown(&self) -> String {
        let mut text = self.head();
        text += "\n| case | sentune | peer | ratio | target | of the GPU's rate | target | memory |\n|---|--:|--:|--:|--:|--:|--:|--:|\n";
        for row in &self.rows {
            text += &row.ratio_line();
        }
        text += "\n| case | side | speed | real tokens/s | of the GPU's rate | peak memory | of it handed out |\n|---|---|--:|--:|--:|--:|--:|\n";
        for row in &self.rows {
            for (side, outcome) in [(Side::Peer, &row.peer), (Side::Ours, &row.ours)] {
                text += &row.line(side, outcome);
            }
        }
        text
    }

    fn head(&self) -> String {
        let texts = |key: &str| -> String {
            let all = self.raw.as_object().into_iter().flatten();
            let values = all.filter_map(|(_, result)| result[key].as_str());
            values
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join("; ")
        };
        let of_gpu = |key: &str| self.gpu[key].as_str().unwrap_or("unknown").to_owned();
        let gigabytes = self.gpu["memory_bytes"].as_f64().unwrap_or(f64::NAN) / 1e9;
        let mut text = format!(
            "Measured on {} ({gigabytes:.0} GB, compute capability {}; PyTorch {}, CUDA {}) beside {}, at commit {}: {} on {}, one round.",
            of_gpu("name"),
            of_gpu("capability"),
            of_gpu("torch"),
            of_gpu("cuda"),
            texts("machine"),
            texts("commit"),
            texts("model"),
            texts("data"),
        );
        let more = texts("sentune_args");
        if !more.is_empty() {
            let _ = write!(text, " sentune ran with `{more}`.");
        }
        let rates: Vec<String> = self
            .rates
            .iter()
            .map(|(precision, rate)| format!("{precision} {:.1}", rate / 1e3))
            .collect();
        let _ = writeln!(
            text,
            "\n\nThe GPU's rate of matrix products in TFLOP/s, by torch, the best of all shapes: {}.",
            rates.join(", ")
        );
        text
    }

    /// The same for programs: what stands in the tables, and everything behind it.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let rates: Map<String, Value> = self
            .rates
            .iter()
            .map(|(precision, rate)| ((*precision).to_owned(), json!(rate)))
            .collect();
        json!({"gpu": self.gpu, "gemm_gflops": rates, "rows": rows, "cells": self.raw})
    }
}

fn outcome(result: &Value, side: Side, rate: Option<f64>) -> Outcome {
    let own = &result["sides"][side.name()];
    let Some(value) = own["value"].as_f64() else {
        let problems = [&own["problem"], &result["problem"]];
        let problem = problems.into_iter().find_map(Value::as_str);
        return Outcome::Not(problem.unwrap_or("not measured").to_owned());
    };
    let tokens_per_second = own["tokens_per_second"].as_f64();
    let share = || {
        let flops = tokens_per_second? * result["flops_per_token"].as_f64()?;
        Some(flops / 1e9 / rate?)
    };
    Outcome::Measured {
        value,
        tokens_per_second,
        share: share(),
        peak: own["device_peak_bytes"].as_f64(),
        allocated: own["allocated_peak_bytes"].as_f64(),
    }
}

impl Outcome {
    fn value(&self) -> Option<f64> {
        match self {
            Self::Measured { value, .. } => Some(*value),
            Self::Not(_) => None,
        }
    }

    fn share(&self) -> Option<f64> {
        match self {
            Self::Measured { share, .. } => *share,
            Self::Not(_) => None,
        }
    }

    fn peak(&self) -> Option<f64> {
        match self {
            Self::Measured { peak, .. } => *peak,
            Self::Not(_) => None,
        }
    }

    /// The figure, or why there is none.
    fn shown(&self, unit: &str) -> String {
        match self {
            Self::Measured { value, .. } => format!("{} {unit}", figure(*value)),
            // A bar would end the cell.
            Self::Not(problem) => problem.replace('|', "/"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Measured {
                value,
                tokens_per_second,
                share,
                peak,
                allocated,
            } => json!({
                "value": value, "tokens_per_second": tokens_per_second,
                "share_of_gemm_rate": share, "device_peak_bytes": peak,
                "allocated_peak_bytes": allocated,
            }),
            Self::Not(problem) => json!({"problem": problem}),
        }
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        Some(self.ours.value()? / self.peer.value()?)
    }

    fn ratio_target(&self) -> Option<f64> {
        let mut targets = RATIO_TARGETS.iter();
        let own = targets.find(|(task, precision, _)| self.is_of(*task, *precision))?;
        Some(own.2)
    }

    fn is_of(&self, task: Task, precision: Precision) -> bool {
        self.cell.task == task && self.cell.precision == precision
    }

    fn ratio_line(&self) -> String {
        let unit = self.cell.task.unit();
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        let memory = self
            .ours
            .peak()
            .zip(self.peer.peak())
            .map(|(ours, peer)| ours / peer);
        let (task, precision, target) = SHARE_TARGET;
        let share_target = self.is_of(task, precision).then_some(target);
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.cell.name(),
            self.ours.shown(unit),
            self.peer.shown(unit),
            number(self.ratio(), 2),
            number(self.ratio_target(), 1),
            percent(self.ours.share()),
            percent(share_target),
            number(memory, 2),
        )
    }

    fn line(&self, side: Side, outcome: &Outcome) -> String {
        let (case, side) = (self.cell.name(), side.name());
        let shown = outcome.shown(self.cell.task.unit());
        let gigabytes = |bytes: Option<f64>| {
            bytes.map_or_else(String::new, |bytes| format!("{:.1} GB", bytes / 1e9))
        };
        match outcome {
            Outcome::Measured {
                tokens_per_second,
                share,
                peak,
                allocated,
                ..
            } => format!(
                "| {case} | {side} | {shown} | {} | {} | {} | {} |\n",
                tokens_per_second.map_or_else(String::new, figure),
                percent(*share),
                gigabytes(*peak),
                gigabytes(*allocated),
            ),
            Outcome::Not(_) => format!("| {case} | {side} | {shown} |  |  |  |  |\n"),
        }
    }

    fn json(&self) -> Value {
        json!({
            "case": self.cell.name(),
            "unit": self.cell.task.unit(),
            "sentune": self.ours.json(),
            "peer": self.peer.json(),
            "ratio": self.ratio(),
            "ratio_target": self.ratio_target(),
        })
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(value: f64, gigabytes: f64) -> Value {
        json!({
            "value": value, "tokens_per_second": 40.0 * value,
            "device_peak_bytes": 1e9 * gigabytes, "allocated_peak_bytes": 0.8e9 * gigabytes,
        })
    }

    fn cell(peer: Value, ours: Value) -> Value {
        json!({
            "sides": {"sentence-transformers": peer, "sentune": ours}, "flops_per_token": 5e8,
            "commit": "abc", "machine": "16 threads of a chip", "model": "base", "data": "d",
            "sentune_args": null,
        })
    }

    /// Made up.
    fn results() -> Results {
        let gemm = json!({
            "gpu": {
                "name": "GPU X", "memory_bytes": 141e9, "capability": "9.0",
                "torch": "2.11.0+cu130", "cuda": "13.0",
            },
            "products": [
                {"precision": "fp32", "gflops": 50_000.0}, {"precision": "bf16", "gflops": 600_000.0},
                {"precision": "bf16", "gflops": 800_000.0},
            ],
            "commit": "abc", "machine": "16 threads of a chip", "model": "base", "data": "d",
        });
        let out = json!({"problem": "out of memory"});
        let mut late = json!({"problem": "no time was left"});
        late["flops_per_token"] = json!(5e8);
        [
            ("gemm", gemm),
            ("train-16-bf16", cell(side(400.0, 4.0), side(2400.0, 3.0))),
            (
                "train-1024-bf16",
                cell(side(4000.0, 60.0), side(16_000.0, 15.0)),
            ),
            ("train-1024-fp32", cell(out, side(1500.0, 40.0))),
            ("train-8-tf32", late),
            ("encode-bf16", cell(side(9000.0, 1.0), side(30_000.0, 1.0))),
        ]
        .map(|(name, result)| (name.to_owned(), result))
        .into()
    }

    #[test]
    fn both_sides_stand_beside_each_other_with_what_was_asked_for() -> Result<()> {
        let report = Report::new(&results())?;
        let markdown = report.markdown();
        for line in [
            "Measured on GPU X (141 GB, compute capability 9.0; PyTorch 2.11.0+cu130, CUDA 13.0) beside 16 threads of a chip, at commit abc: base on d, one round.\n",
            "in TFLOP/s, by torch, the best of all shapes: fp32 50.0, bf16 800.0.\n",
            "| train-16-bf16 | 2,400 triplets/s | 400 triplets/s | 6.00 | 5.0 | 6 % |  | 0.75 |\n",
            "| train-1024-bf16 | 16,000 triplets/s | 4,000 triplets/s | 4.00 |  | 40 % | 40 % | 0.25 |\n",
            "| train-1024-fp32 | 1,500 triplets/s | out of memory |  |  | 60 % |  |  |\n",
            "| train-8-tf32 | no time was left | no time was left |  |  |  |  |  |\n",
            "| train-16-bf16 | sentune | 2,400 triplets/s | 96,000 | 6 % | 3.0 GB | 2.4 GB |\n",
            "| train-1024-fp32 | sentence-transformers | out of memory |  |  |  |  |\n",
            "| encode-bf16 | sentune | 30,000 sentences/s | 1,200,000 | 75 % | 1.0 GB | 0.8 GB |\n",
        ] {
            assert!(markdown.contains(line), "`{line}` is not in\n{markdown}");
        }
        assert!(!markdown.contains("sentune ran with") && !markdown.contains("train-128"));
        // By the size of the batch, encoding last.
        let place = |text: &str| markdown.find(text).unwrap();
        assert!(place("| train-8-tf32") < place("| train-16-bf16"));
        assert!(place("| train-1024-fp32") < place("| encode-bf16"));
        Ok(())
    }

    #[test]
    fn programs_get_the_same() -> Result<()> {
        let mut results = results();
        results.get_mut("train-16-bf16").unwrap()["sentune_args"] = json!("--cuda-graphs");
        let report = Report::new(&results)?;
        assert!(
            report
                .markdown()
                .contains("sentune ran with `--cuda-graphs`.")
        );
        let json = report.json();
        assert_eq!(json["gemm_gflops"]["bf16"], 800_000.0);
        let rows = json["rows"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["case"] == "train-16-bf16")
            .unwrap();
        assert_eq!(
            (&row["ratio"], &row["ratio_target"]),
            (&json!(6.0), &json!(5.0))
        );
        assert_eq!(row["sentune"]["device_peak_bytes"], 3e9);
        let row = rows
            .iter()
            .find(|row| row["case"] == "train-1024-fp32")
            .unwrap();
        assert_eq!(row["peer"], json!({"problem": "out of memory"}));
        assert!(row["ratio"].is_null());
        Ok(())
    }

    #[test]
    fn without_a_gpu_or_a_case_there_is_no_report() {
        let mut results = results();
        let gemm = results.remove("gemm").unwrap();
        assert!(Report::new(&results).is_err());
        let only: Results = [("gemm".to_owned(), gemm)].into();
        assert!(Report::new(&only).is_err());
    }
}
