//! Medians, ratios, and the tables of docs/benchmarks.md: the same for a processor and a GPU.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::case::{Case, Device, Precision, Side, Task};
use crate::document::figure;

/// Everything that was measured: matrix products, profiles, and a value a case.
pub(super) type Results = BTreeMap<String, Value>;

/// The keys beside those of the cases.
pub(super) const GEMM: &str = "gemm";
pub(super) const PROFILE: &str = "profile";

/// Lines of the document before and after the tables.
pub(super) fn markers(device: Device) -> [&'static str; 2] {
    match device {
        Device::Cpu => [
            "<!-- begin: written by cargo xtask bench -->",
            "<!-- end: written by cargo xtask bench -->",
        ],
        Device::Cuda => [
            "<!-- begin: written by cargo xtask bench --device cuda -->",
            "<!-- end: written by cargo xtask bench --device cuda -->",
        ],
    }
}

/// Targets of speed: device, case, precision or each side's fastest, and what was asked for.
const TARGETS: [(Device, &str, Option<Precision>, &str); 13] = [
    (Device::Cpu, "start", Some(Precision::Fp32), "at most 1 s"),
    (
        Device::Cpu,
        "train-mini-16",
        Some(Precision::Fp32),
        "ratio 4",
    ),
    (
        Device::Cpu,
        "train-base-16",
        Some(Precision::Fp32),
        "ratio 4, memory 0.6",
    ),
    (Device::Cpu, "train-base-16", None, "ratio 2.5"),
    (Device::Cpu, "encode-base", Some(Precision::Fp32), "ratio 3"),
    (Device::Cpu, "encode-base", None, "ratio 1.5"),
    (
        Device::Cpu,
        "train-base-128",
        Some(Precision::Fp32),
        "ratio 8, memory 0.4",
    ),
    (
        Device::Cpu,
        "train-minilm-16",
        Some(Precision::Fp32),
        "train-mini-16's share",
    ),
    (
        Device::Cpu,
        "train-bert-16",
        Some(Precision::Fp32),
        "train-base-16's share",
    ),
    (
        Device::Cpu,
        "train-modernbert-16",
        Some(Precision::Fp32),
        "0.9 of train-base-16's share",
    ),
    (
        Device::Cuda,
        "train-base-16",
        Some(Precision::Bf16),
        "ratio 5",
    ),
    (
        Device::Cuda,
        "train-base-128",
        Some(Precision::Bf16),
        "ratio 3",
    ),
    (
        Device::Cuda,
        "train-base-1024",
        Some(Precision::Bf16),
        "40 % of the rate",
    ),
];

/// Everything that is measured, summed up.
#[derive(Debug)]
pub(super) struct Report<'r> {
    device: Device,
    rows: Vec<Row>,
    /// The rates of matrix products, in GFLOP/s.
    rates: Vec<(Precision, f64)>,
    results: &'r Results,
}

/// Two sides beside each other.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    case: Case,
    /// Whether each side's precision is its fastest for this work.
    is_fastest: bool,
    peer: Outcome,
    ours: Outcome,
}

/// A side in figures, or why there are none.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Measured(Summary),
    Not(String),
}

/// The medians of a side's measurements.
#[derive(Debug, Clone, PartialEq)]
struct Summary {
    precision: Precision,
    value: f64,
    lowest: f64,
    highest: f64,
    tokens_per_second: Option<f64>,
    /// Share of the rate of matrix products in the precision.
    share: Option<f64>,
    peak_bytes: Option<f64>,
    allocated_bytes: Option<f64>,
}

impl<'r> Report<'r> {
    pub(super) fn new(device: Device, results: &'r Results) -> Result<Self> {
        let best = |precision| best_rate(results.get(GEMM)?, precision);
        let rates: Vec<(Precision, f64)> = Precision::ALL
            .into_iter()
            .filter_map(|precision| Some((precision, best(precision)?)))
            .collect();
        let mut rows = Vec::new();
        for case in Case::all(device) {
            if let Some(result) = results.get(&case.to_string()) {
                let rate = rates
                    .iter()
                    .find(|(precision, _)| *precision == case.precision);
                let rate = rate.map(|(_, rate)| *rate);
                rows.push(Row {
                    name: case.to_string(),
                    case,
                    is_fastest: false,
                    peer: Outcome::read(case, result, Side::Peer, rate),
                    ours: Outcome::read(case, result, Side::Ours, rate),
                });
            }
        }
        ensure!(
            !rows.is_empty() || results.contains_key(GEMM),
            "nothing is measured yet: leave out --report"
        );
        rows.sort_by_key(|row| order(row.case));
        Ok(Self {
            device,
            rows: with_fastest(rows),
            rates,
            results,
        })
    }

    /// The tables.
    pub(super) fn markdown(&self) -> String {
        let mut text = self.head();
        text += "\n| case | sentune | peer | ratio | of the chip's rate | memory | target |\n|---|--:|--:|--:|--:|--:|---|\n";
        let has_both = |row: &&Row| row.case.sides() == Side::BOTH || row.is_fastest;
        for row in self.rows.iter().filter(has_both) {
            text += &row.markdown(self.device);
        }
        text += "\n| case | side | speed | lowest to highest | real tokens/s | of the chip's rate | peak memory |\n|---|---|--:|--:|--:|--:|--:|\n";
        for row in self
            .rows
            .iter()
            .filter(|row| row.name == row.case.to_string())
        {
            for (side, outcome) in [(Side::Peer, &row.peer), (Side::Ours, &row.ours)] {
                if row.case.sides().contains(&side) {
                    text += &outcome.line(row.case, side);
                }
            }
        }
        if let Some(profiles) = self
            .results
            .get(PROFILE)
            .and_then(|profile| profile["profiles"].as_array())
        {
            text += &profile_table(profiles);
        }
        text
    }

    fn head(&self) -> String {
        let texts = |key: &str| -> String {
            let texts = self
                .results
                .values()
                .filter_map(|result| result[key].as_str());
            let texts: BTreeSet<&str> = texts.collect();
            texts.into_iter().collect::<Vec<_>>().join("; ")
        };
        let mut text = format!("Measured on {}", texts("machine"));
        if let Some(gpu) = self
            .results
            .get(GEMM)
            .map(|gemm| &gemm["gpu"])
            .filter(|gpu| gpu.is_object())
        {
            let of_gpu = |key: &str| gpu[key].as_str().unwrap_or("unknown").to_owned();
            let _ = write!(
                text,
                " with {} ({:.0} GB, compute capability {}; PyTorch {}, CUDA {})",
                of_gpu("name"),
                gpu["memory_bytes"].as_f64().unwrap_or(f64::NAN) / 1e9,
                of_gpu("capability"),
                of_gpu("torch"),
                of_gpu("cuda"),
            );
        }
        let _ = write!(
            text,
            ", at commit {}, beside {}: {} on {}.",
            texts("commit"),
            texts("peer"),
            texts("model"),
            texts("data")
        );
        let more = texts("sentune_args");
        if !more.is_empty() {
            let _ = write!(text, " sentune ran with `{more}`.");
        }
        let rates: Vec<String> = self
            .rates
            .iter()
            .map(|(precision, rate)| format!("{} {}", precision.name(), figure(*rate)))
            .collect();
        if !rates.is_empty() {
            let rates = rates.join(", ");
            let _ = write!(
                text,
                "\n\nThe chip's rate of matrix products in GFLOP/s, the best of all shapes and libraries: {rates}."
            );
        }
        text + "\n"
    }

    /// The same for programs: the rows of the tables, and everything behind them.
    pub(super) fn json(&self) -> Value {
        let rates: Map<String, Value> = self
            .rates
            .iter()
            .map(|(precision, rate)| (precision.name().to_owned(), json!(rate)))
            .collect();
        let rows: Vec<Value> = self.rows.iter().map(|row| row.json(self.device)).collect();
        json!({"gemm_gflops": rates, "rows": rows, "measured": self.results})
    }
}

/// Small work before large, and training before encoding.
fn order(case: Case) -> (u8, usize, Precision) {
    match case.task {
        Task::Start => (0, 0, case.precision),
        Task::Tokenize => (1, 0, case.precision),
        Task::Train(batch_size) => (2 + case.model as u8, batch_size, case.precision),
        Task::Encode => (8 + case.model as u8, 0, case.precision),
    }
}

/// The rows, with one more for each work whose sides are fastest in different precisions.
fn with_fastest(rows: Vec<Row>) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for group in rows.chunk_by(|a, b| a.case.work() == b.case.work()) {
        let fastest = |outcome: fn(&Row) -> &Outcome| {
            let measured = group
                .iter()
                .filter_map(move |row| outcome(row).measured().map(|summary| (row, summary)));
            measured
                .max_by(|(_, a), (_, b)| a.value.total_cmp(&b.value))
                .map(|(row, _)| row)
        };
        let mut group_rows = group.to_vec();
        if group.len() > 1
            && let (Some(ours), Some(peer)) = (fastest(|row| &row.ours), fastest(|row| &row.peer))
        {
            match group_rows
                .iter_mut()
                .find(|row| row.case == ours.case && row.case == peer.case)
            {
                Some(row) => row.is_fastest = true,
                None => group_rows.push(Row {
                    name: format!("{}, fastest", ours.case.work()),
                    case: ours.case,
                    is_fastest: true,
                    peer: peer.peer.clone(),
                    ours: ours.ours.clone(),
                }),
            }
        }
        all.extend(group_rows);
    }
    all
}

impl Outcome {
    fn read(case: Case, result: &Value, side: Side, rate: Option<f64>) -> Self {
        let own = &result["sides"][side.name()];
        let column = |side: &Value, key: &str| -> Vec<f64> {
            let measured = side["measurements"].as_array().into_iter().flatten();
            measured
                .filter_map(|measured| measured[key].as_f64())
                .collect()
        };
        let values = column(own, "value");
        let Some(value) = median(&values) else {
            let problems = [&own["problem"], &result["problem"]];
            let problem = problems.into_iter().find_map(Value::as_str);
            return Self::Not(problem.unwrap_or("not measured").to_owned());
        };
        // Both sides compute on the same rows, and one may have counted their tokens.
        let tokens_per_row = median(&column(own, "tokens_per_row")).or_else(|| {
            let mut sides = Side::BOTH.iter().map(|side| &result["sides"][side.name()]);
            sides.find_map(|side| median(&column(side, "tokens_per_row")))
        });
        let tokens_per_second = tokens_per_row.map(|tokens| tokens * value);
        let share = || Some(tokens_per_second? * result["flops_per_token"].as_f64()? / 1e9 / rate?);
        Self::Measured(Summary {
            precision: case.precision,
            value,
            lowest: values.iter().copied().fold(f64::INFINITY, f64::min),
            highest: values.iter().copied().fold(0.0, f64::max),
            tokens_per_second,
            share: share(),
            peak_bytes: median(&column(own, "peak_bytes")),
            allocated_bytes: median(&column(own, "allocated_bytes")),
        })
    }

    fn measured(&self) -> Option<&Summary> {
        match self {
            Self::Measured(summary) => Some(summary),
            Self::Not(_) => None,
        }
    }

    /// The figure, or why there is none.
    fn shown(&self, unit: &str) -> String {
        match self {
            Self::Measured(summary) => format!("{} {unit}", figure(summary.value)),
            // A bar would end the cell.
            Self::Not(problem) => problem.replace('|', "/"),
        }
    }

    fn line(&self, case: Case, side: Side) -> String {
        let start = format!("| {case} | {} | {} |", side.name(), self.shown(case.unit()));
        match self {
            Self::Measured(summary) => format!(
                "{start} {} to {} | {} | {} | {} |\n",
                figure(summary.lowest),
                figure(summary.highest),
                shown(summary.tokens_per_second, figure),
                shown(summary.share, percent),
                shown(summary.peak_bytes, |bytes| format!("{:.2} GB", bytes / 1e9)),
            ),
            Self::Not(_) => format!("{start}  |  |  |  |\n"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Measured(summary) => json!({
                "precision": summary.precision.name(),
                "value": summary.value,
                "tokens_per_second": summary.tokens_per_second,
                "share_of_gemm_rate": summary.share,
                "peak_bytes": summary.peak_bytes,
                "allocated_bytes": summary.allocated_bytes,
            }),
            Self::Not(problem) => json!({"problem": problem}),
        }
    }
}

impl Row {
    /// The quotient of a figure of ours and the peer's.
    fn quotient(&self, figure: impl Fn(&Summary) -> Option<f64>) -> Option<f64> {
        Some(figure(self.ours.measured()?)? / figure(self.peer.measured()?)?)
    }

    /// How many times as fast as the peer.
    fn ratio(&self) -> Option<f64> {
        let quotient = self.quotient(|summary| Some(summary.value))?;
        Some(if self.case.unit() == "s" {
            quotient.recip()
        } else {
            quotient
        })
    }

    fn targets(&self, device: Device) -> String {
        let work = self.case.work();
        let is_own = |(on, case, precision, _): &&(Device, &str, Option<Precision>, &str)| {
            let is_row = match precision {
                Some(precision) => {
                    self.case.precision == *precision && self.name == self.case.to_string()
                }
                None => self.is_fastest,
            };
            *on == device && *case == work && is_row
        };
        let targets: Vec<&str> = TARGETS
            .iter()
            .filter(is_own)
            .map(|target| target.3)
            .collect();
        targets.join(", ")
    }

    fn markdown(&self, device: Device) -> String {
        let side = |outcome: &Outcome| {
            let is_other = self.name != self.case.to_string();
            let precision = outcome
                .measured()
                .filter(|_| is_other)
                .map(|summary| summary.precision);
            let precision =
                precision.map_or_else(String::new, |name| format!(" ({})", name.name()));
            outcome.shown(self.case.unit()) + &precision
        };
        let number = |value: f64| format!("{value:.2}");
        format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            self.name,
            side(&self.ours),
            side(&self.peer),
            shown(self.ratio(), number),
            shown(
                self.ours.measured().and_then(|summary| summary.share),
                percent
            ),
            shown(self.quotient(|summary| summary.peak_bytes), number),
            self.targets(device),
        )
    }

    fn json(&self, device: Device) -> Value {
        json!({
            "case": self.name,
            "unit": self.case.unit(),
            "sentune": self.ours.json(),
            "peer": self.peer.json(),
            "ratio": self.ratio(),
            "target": self.targets(device),
        })
    }
}

/// A column a profile, a row a part: milliseconds a step, and their share.
fn profile_table(profiles: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut table = "\n### A step by part, batches of 16\n\n| part |".to_owned();
    for profile in profiles {
        let (model, precision) = (text(&profile["model"]), text(&profile["precision"]));
        let _ = write!(table, " {model}, {precision} |");
    }
    let _ = writeln!(table, "\n|---|{}", "--:|".repeat(profiles.len()));
    let total = |profile: &Value| {
        profile["milliseconds_per_step"]
            .as_f64()
            .unwrap_or(f64::NAN)
    };
    let parts = profiles
        .iter()
        .find_map(|profile| profile["parts"].as_object());
    for part in parts.into_iter().flat_map(Map::keys) {
        let _ = write!(table, "| {part} |");
        for profile in profiles {
            let milliseconds = profile["parts"][part].as_f64().unwrap_or(0.0);
            let share = 100.0 * milliseconds / total(profile);
            let _ = write!(table, " {milliseconds:.1} ms, {share:.1} % |");
        }
        table.push('\n');
    }
    table += "| a step |";
    for profile in profiles {
        let _ = write!(table, " {:.1} ms |", total(profile));
    }
    table + "\n"
}

/// The best rate in GFLOP/s of this precision, of all products.
fn best_rate(gemm: &Value, precision: Precision) -> Option<f64> {
    let products = gemm["products"].as_array()?.iter();
    products
        .filter(|product| product["precision"] == precision.name())
        .filter_map(|product| product["gflops"].as_f64())
        .max_by(f64::total_cmp)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n.is_multiple_of(2) => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
        _ => Some(values[n / 2]),
    }
}

fn shown(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(String::new, text)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(values: &[f64], tokens_per_row: Option<f64>, gigabytes: f64) -> Value {
        let measurements: Vec<Value> = values
            .iter()
            .map(|value| {
                json!({
                    "value": value, "tokens_per_row": tokens_per_row,
                    "peak_bytes": gigabytes * 1e9, "allocated_bytes": null,
                })
            })
            .collect();
        json!({"measurements": measurements, "problem": null})
    }

    fn case(peer: Value, ours: Value) -> Value {
        json!({
            "sides": {"peer": peer, "sentune": ours}, "flops_per_token": 5e8,
            "commit": "abc", "machine": "2 threads of a chip", "model": "base", "data": "d",
            "peer": "sentence-transformers 6.0.1", "sentune_args": null,
        })
    }

    fn cpu() -> Results {
        let none = json!({"measurements": [], "problem": "exit code 2: no fp16"});
        let absent = json!({"measurements": []});
        let products = json!({"products": [
            {"precision": "fp32", "gflops": 300.0}, {"precision": "fp32", "gflops": 500.0},
            {"precision": "bf16", "gflops": 1000.0},
        ]});
        let profile = json!({"profiles": [{
            "model": "base", "precision": "fp32", "milliseconds_per_step": 400.0,
            "parts": {"matrix products": 300.0, "rest": 100.0},
        }]});
        [
            ("gemm", products),
            ("profile", profile),
            (
                "start, fp32",
                case(side(&[5.0], None, 1.0), side(&[0.5], None, 0.5)),
            ),
            (
                "train-base-16, fp32",
                case(
                    side(&[4.0, 9.0, 5.0], Some(40.0), 4.0),
                    side(&[19.0, 20.0, 21.0], None, 2.0),
                ),
            ),
            (
                "train-base-16, bf16",
                case(
                    side(&[10.0, 10.0], Some(40.0), 4.0),
                    side(&[29.0, 31.0], Some(40.0), 2.0),
                ),
            ),
            ("train-base-16, fp16", case(absent, none)),
        ]
        .map(|(name, result)| (name.to_owned(), result))
        .into()
    }

    #[track_caller]
    fn check(markdown: &str, lines: &[&str]) {
        for line in lines {
            assert!(markdown.contains(line), "`{line}` is not in\n{markdown}");
        }
    }

    #[test]
    fn medians_stand_beside_each_other_with_their_targets() -> Result<()> {
        let results = cpu();
        let report = Report::new(Device::Cpu, &results)?;
        let markdown = report.markdown();
        check(
            &markdown,
            &[
                "Measured on 2 threads of a chip, at commit abc, beside sentence-transformers 6.0.1: base on d.\n",
                "the best of all shapes and libraries: fp32 500, bf16 1,000.\n",
                "| start, fp32 | 0.50 s | 5.00 s | 10.00 |  | 0.50 | at most 1 s |\n",
                "| train-base-16, fp32 | 20.0 triplets/s | 5.00 triplets/s | 4.00 | 80 % | 0.50 | ratio 4, memory 0.6 |\n",
                "| train-base-16, bf16 | 30.0 triplets/s | 10.0 triplets/s | 3.00 | 60 % | 0.50 | ratio 2.5 |\n",
                "| train-base-16, fp32 | sentune | 20.0 triplets/s | 19.0 to 21.0 | 800 | 80 % | 2.00 GB |\n",
                "| train-base-16, fp16 | sentune | exit code 2: no fp16 |  |  |  |  |\n",
                "| matrix products | 300.0 ms, 75.0 % |\n| rest | 100.0 ms, 25.0 % |\n| a step | 400.0 ms |\n",
            ],
        );
        assert!(!markdown.contains("fp16 | peer") && !markdown.contains("fastest"));
        let json = report.json();
        assert_eq!(json["rows"][1]["ratio"], 4.0);
        assert_eq!(json["gemm_gflops"]["bf16"], 1000.0);
        Ok(())
    }

    #[test]
    fn the_fastest_of_each_side_have_a_row_where_their_precisions_differ() -> Result<()> {
        let mut results = cpu();
        let fp16 = case(json!({}), side(&[50.0], Some(40.0), 2.0));
        results.insert("train-base-16, fp16".to_owned(), fp16);
        let report = Report::new(Device::Cpu, &results)?;
        check(
            &report.markdown(),
            &[
                "| train-base-16, bf16 | 30.0 triplets/s | 10.0 triplets/s | 3.00 | 60 % | 0.50 |  |\n",
                "| train-base-16, fastest | 50.0 triplets/s (fp16) | 10.0 triplets/s (bf16) | 5.00 |  | 0.50 | ratio 2.5 |\n",
            ],
        );
        Ok(())
    }

    #[test]
    fn a_gpu_has_the_same_tables() -> Result<()> {
        let gemm = json!({
            "gpu": {
                "name": "GPU X", "memory_bytes": 141e9, "capability": "9.0",
                "torch": "2.11.0+cu130", "cuda": "13.0",
            },
            "products": [{"precision": "bf16", "gflops": 800_000.0}],
        });
        let full = json!({"measurements": [], "problem": "out of memory"});
        let mut graphs = case(
            side(&[400.0], Some(40.0), 4.0),
            side(&[2400.0], Some(40.0), 3.0),
        );
        graphs["sentune_args"] = json!("--cuda-graphs");
        let results: Results = [
            ("gemm", gemm),
            (
                "encode-base, bf16",
                case(
                    side(&[9000.0], Some(13.0), 1.0),
                    side(&[30_000.0], None, 1.0),
                ),
            ),
            ("train-base-16, bf16", graphs),
            (
                "train-base-1024, bf16",
                case(full, side(&[16_000.0], Some(40.0), 15.0)),
            ),
            ("train-base-8, tf32", json!({"problem": "no time was left"})),
        ]
        .map(|(name, result)| (name.to_owned(), result))
        .into();
        let markdown = Report::new(Device::Cuda, &results)?.markdown();
        check(
            &markdown,
            &[
                " with GPU X (141 GB, compute capability 9.0; PyTorch 2.11.0+cu130, CUDA 13.0), at commit abc",
                "sentune ran with `--cuda-graphs`.\n",
                "| train-base-8, tf32 | no time was left | no time was left |  |  |  |  |\n",
                "| train-base-16, bf16 | 2,400 triplets/s | 400 triplets/s | 6.00 | 6 % | 0.75 | ratio 5 |\n",
                "| train-base-1024, bf16 | 16,000 triplets/s | out of memory |  | 40 % |  | 40 % of the rate |\n",
                "| encode-base, bf16 | sentune | 30,000 sentences/s | 30,000 to 30,000 | 390,000 | 24 % | 1.00 GB |\n",
            ],
        );
        // By the size of the batch, encoding last.
        let place = |text: &str| markdown.find(text).unwrap();
        assert!(place("| train-base-8,") < place("| train-base-16,"));
        assert!(place("| train-base-1024,") < place("| encode-base,"));
        assert!(Report::new(Device::Cuda, &Results::new()).is_err());
        Ok(())
    }
}
