//! Medians, ratios, and the tables of docs/benchmarks.md.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Results,
    case::{Case, Side},
    inputs::thousands,
};

/// What stands before and after the tables in the document.
pub(super) const MARKERS: [&str; 2] = [
    "<!-- begin: written by cargo xtask bench -->",
    "<!-- end: written by cargo xtask bench -->",
];

/// What was asked for: the case, whether of each side's fastest setting, the least ratio of speeds, and the
/// largest ratio of memory.
const TARGETS: [(Case, bool, f64, Option<f64>); 7] = [
    (Case::TrainBase16, false, 4.0, Some(0.6)),
    (Case::TrainBase16, true, 2.5, None),
    (Case::TrainBase128, false, 8.0, Some(0.4)),
    (Case::TrainMini16, false, 4.0, None),
    (Case::EncodeBase, false, 3.0, None),
    (Case::EncodeBase, true, 1.5, None),
    // Seconds; the target of the start is 1 s and not a ratio.
    (Case::Start, false, f64::NAN, None),
];

/// All that is measured, summed up.
#[derive(Debug)]
pub(super) struct Report {
    cases: Vec<CaseReport>,
    /// By precision.
    rates: Vec<(&'static str, f64)>,
    machines: BTreeSet<String>,
    commits: BTreeSet<String>,
    raw: Value,
}

/// A case with its settings in the order of measurement.
#[derive(Debug)]
struct CaseReport {
    case: Case,
    model: String,
    data: String,
    settings: Vec<Summary>,
}

/// The medians of one setting.
#[derive(Debug, Clone)]
struct Summary {
    side: Side,
    precision: String,
    values: Vec<f64>,
    tokens_per_second: Option<f64>,
    /// Share of the chip's rate for the precision.
    share: Option<f64>,
    peak_bytes: Option<f64>,
    n_steps: (u64, u64),
}

impl Summary {
    fn value(&self) -> f64 {
        median(&self.values).unwrap_or(f64::NAN)
    }
}

impl Report {
    /// Sums up what is kept.
    pub(super) fn new(results: &Results) -> Result<Self> {
        let gemm = results.get(Case::Gemm.name());
        let rate = |precision: &str| best_rate(gemm?, precision);
        let precisions = ["fp32", "bf16", "fp16"];
        let rates = precisions
            .into_iter()
            .filter_map(|precision| Some((precision, rate(precision)?)))
            .collect();
        let texts = |key: &str| {
            let values = results.values().filter_map(|result| result[key].as_str());
            values.map(str::to_owned).collect()
        };
        let mut cases = Vec::new();
        for case in Case::ALL {
            if let Some(result) = results.get(case.name())
                && !matches!(case, Case::Gemm | Case::Profile)
            {
                let report = CaseReport::read(case, result, rate);
                cases.push(report.with_context(|| format!("what is kept of {}", case.name()))?);
            }
        }
        Ok(Self {
            cases,
            rates,
            machines: texts("machine"),
            commits: texts("commit"),
            raw: json!(results),
        })
    }

    /// The tables.
    pub(super) fn markdown(&self) -> String {
        let list = |texts: &BTreeSet<String>| texts.iter().cloned().collect::<Vec<_>>().join("; ");
        let mut text = format!(
            "Measured on {}, at commit {}, with the development profile (`opt-level = 3`).\n\n",
            list(&self.machines),
            list(&self.commits)
        );
        if !self.rates.is_empty() {
            let rates: Vec<String> = self
                .rates
                .iter()
                .map(|(precision, rate)| format!("{precision} {rate:.0}"))
                .collect();
            let _ = writeln!(
                text,
                "The chip's rate of matrix products in GFLOP/s, the best of all shapes and libraries: {}.\n",
                rates.join(", ")
            );
        }
        text += "### Ratios\n\n| case | sentune | peer | ratio | target | memory | target |\n|---|--:|--:|--:|--:|--:|--:|\n";
        for case in &self.cases {
            for fastest in [false, true] {
                if let Some(row) = case.ratio(fastest) {
                    text += &row.markdown();
                }
            }
        }
        text += "\n### All settings\n\n| case | setting | speed | lowest to highest | real tokens/s | of the chip's rate | peak memory |\n|---|---|--:|--:|--:|--:|--:|\n";
        for case in &self.cases {
            for setting in &case.settings {
                text += &case.line(setting);
            }
        }
        text.push('\n');
        for case in &self.cases {
            text += &case.note();
        }
        if let Some(profiles) = self.raw[Case::Profile.name()]["profiles"].as_array() {
            text += &profile_table(profiles);
        }
        text
    }

    /// The same for programs: ratios, and everything behind them.
    pub(super) fn json(&self) -> Value {
        let ratios: Vec<Value> = self
            .cases
            .iter()
            .flat_map(|case| [false, true].map(|fastest| case.ratio(fastest)))
            .flatten()
            .map(|row| row.json())
            .collect();
        let rates: serde_json::Map<String, Value> = self
            .rates
            .iter()
            .map(|(precision, rate)| ((*precision).to_owned(), json!(rate)))
            .collect();
        json!({"ratios": ratios, "gemm_gflops": rates, "cases": self.raw})
    }
}

impl CaseReport {
    fn read(case: Case, result: &Value, rate: impl Fn(&str) -> Option<f64>) -> Option<Self> {
        let flops_per_token = result["flops_per_token"].as_f64();
        let mut settings = Vec::new();
        // The peer counts the tokens that both sides encode.
        let encoded = result["settings"]
            .as_array()?
            .iter()
            .find_map(|setting| setting["samples"][0]["n_tokens_by_step"][0].as_u64());
        for setting in result["settings"].as_array()? {
            let column = |key: &str| -> Vec<f64> {
                let samples = setting["samples"].as_array().into_iter().flatten();
                samples.filter_map(|sample| sample[key].as_f64()).collect()
            };
            let values = column("value");
            if values.is_empty() {
                continue;
            }
            let precision = setting["precision"].as_str()?.to_owned();
            let tokens_per_second = median(&column("tokens_per_second")).or_else(|| {
                let sentences = super::inputs::N_SENTENCES as f64;
                matches!(case, Case::EncodeBase | Case::EncodeMini)
                    .then(|| Some(median(&values)? / sentences * encoded? as f64))?
            });
            let share = || Some(tokens_per_second? * flops_per_token? / 1e9 / rate(&precision)?);
            let side = if setting["side"] == Side::Ours.name() {
                Side::Ours
            } else {
                Side::Peer
            };
            settings.push(Summary {
                side,
                share: share(),
                precision,
                values,
                tokens_per_second,
                peak_bytes: median(&column("peak_bytes")),
                n_steps: (
                    setting["n_warmup_steps"].as_u64()?,
                    setting["n_measured_steps"].as_u64()?,
                ),
            });
        }
        Some(Self {
            case,
            model: result["model"].as_str()?.to_owned(),
            data: result["data"].as_str()?.to_owned(),
            settings,
        })
    }

    /// Ours over the peer's, both in fp32 or both at their fastest.
    fn ratio(&self, fastest: bool) -> Option<Ratio> {
        let of = |side| {
            let mut own = self.settings.iter().filter(|setting| setting.side == side);
            if fastest {
                own.max_by(|a, b| a.value().total_cmp(&b.value()))
            } else {
                own.find(|setting| setting.precision == "fp32")
            }
        };
        let n_precisions: BTreeSet<&str> = self
            .settings
            .iter()
            .map(|setting| setting.precision.as_str())
            .collect();
        if fastest && n_precisions.len() < 2 {
            return None;
        }
        let (ours, peer) = (of(Side::Ours)?.clone(), of(Side::Peer)?.clone());
        let ratio = match self.case.unit() {
            "s" => peer.value() / ours.value(),
            _ => ours.value() / peer.value(),
        };
        let memory = ours.peak_bytes.zip(peer.peak_bytes).map(|(a, b)| a / b);
        Some(Ratio {
            case: self.case,
            fastest,
            ours,
            peer,
            ratio,
            memory,
        })
    }

    fn line(&self, setting: &Summary) -> String {
        let (low, high) = setting
            .values
            .iter()
            .fold((f64::INFINITY, 0f64), |(low, high), &value| {
                (low.min(value), high.max(value))
            });
        let optional = |value: Option<String>| value.unwrap_or_default();
        format!(
            "| {} | {} {} | {} {} | {} to {} | {} | {} | {} |\n",
            self.case.name(),
            setting.side.name(),
            setting.precision,
            figure(setting.value()),
            self.case.unit(),
            figure(low),
            figure(high),
            optional(
                setting
                    .tokens_per_second
                    .map(|n| thousands(n.round() as u64))
            ),
            optional(setting.share.map(|share| format!("{:.0} %", 100.0 * share))),
            optional(
                setting
                    .peak_bytes
                    .map(|bytes| format!("{:.2} GB", bytes / 1e9))
            ),
        )
    }

    /// What the case's figures are of.
    fn note(&self) -> String {
        let rounds = self
            .settings
            .iter()
            .map(|setting| setting.values.len())
            .max()
            .unwrap_or(0);
        let mut steps: Vec<String> = self
            .settings
            .iter()
            .filter(|setting| setting.n_steps.0 > 0)
            .map(|setting| {
                let (n_warmup, n_measured) = setting.n_steps;
                format!(
                    "{} {} {n_warmup} + {n_measured}",
                    setting.side.name(),
                    setting.precision
                )
            })
            .collect();
        if !steps.is_empty() {
            steps = vec![format!(
                "; steps (warm-up + measured): {}",
                steps.join(", ")
            )];
        }
        format!(
            "- {}: {} on {}, {rounds} rounds{}.\n",
            self.case.name(),
            self.model,
            self.data,
            steps.concat()
        )
    }
}

/// Two settings side by side.
#[derive(Debug)]
struct Ratio {
    case: Case,
    fastest: bool,
    ours: Summary,
    peer: Summary,
    ratio: f64,
    memory: Option<f64>,
}

impl Ratio {
    fn target(&self) -> Option<(f64, Option<f64>)> {
        let mut targets = TARGETS.iter();
        let found = targets.find(|target| (target.0, target.1) == (self.case, self.fastest))?;
        Some((found.2, found.3))
    }

    fn markdown(&self) -> String {
        let target = match self.target() {
            Some((target, _)) if target.is_nan() => "ours at most 1 s".to_owned(),
            Some((target, _)) => format!("{target:.1}"),
            None => String::new(),
        };
        let memory = self
            .memory
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let memory_target = self.target().and_then(|target| target.1);
        let memory_target = memory_target.map_or_else(String::new, |ratio| format!("{ratio:.1}"));
        let unit = self.case.unit();
        let side = |side: &Summary| format!("{} {unit} ({})", figure(side.value()), side.precision);
        format!(
            "| {}{} | {} | {} | {:.2} | {target} | {memory} | {memory_target} |\n",
            self.case.name(),
            if self.fastest { ", fastest" } else { "" },
            side(&self.ours),
            side(&self.peer),
            self.ratio,
        )
    }

    fn json(&self) -> Value {
        let side = |side: &Summary| {
            json!({
                "precision": side.precision,
                "median": side.value(),
                "tokens_per_second": side.tokens_per_second,
                "share_of_gemm_rate": side.share,
                "peak_bytes": side.peak_bytes,
            })
        };
        json!({
            "case": self.case.name(),
            "fastest": self.fastest,
            "unit": self.case.unit(),
            "sentune": side(&self.ours),
            "peer": side(&self.peer),
            "ratio": self.ratio,
            "memory_ratio": self.memory,
        })
    }
}

/// A column a profile, a row a part: milliseconds a step, and their share.
fn profile_table(profiles: &[Value]) -> String {
    let column = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = "\n### A step by part, batches of 16\n\n| part |".to_owned();
    for profile in profiles {
        let (model, precision) = (column(&profile["model"]), column(&profile["precision"]));
        let _ = write!(text, " {model}, {precision} |");
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(profiles.len()));
    let parts = profiles
        .iter()
        .find_map(|profile| profile["parts"].as_object());
    for part in parts.into_iter().flat_map(|parts| parts.keys()) {
        let _ = write!(text, "| {part} |");
        for profile in profiles {
            let milliseconds = profile["parts"][part].as_f64().unwrap_or(0.0);
            let total = profile["milliseconds_per_step"]
                .as_f64()
                .unwrap_or(f64::NAN);
            let share = 100.0 * milliseconds / total;
            let _ = write!(text, " {milliseconds:.1} ms, {share:.1} % |");
        }
        text.push('\n');
    }
    text += "| a step |";
    for profile in profiles {
        let total = profile["milliseconds_per_step"]
            .as_f64()
            .unwrap_or(f64::NAN);
        let _ = write!(text, " {total:.1} ms |");
    }
    text + "\n"
}

/// The document with other tables between these markers.
pub(super) fn replace(document: &str, [begin, end]: [&str; 2], tables: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(begin)
        .with_context(|| format!("there is no `{begin}`"))?;
    let (_, after) = rest
        .split_once(end)
        .with_context(|| format!("there is no `{end}`"))?;
    Ok(format!(
        "{before}{begin}\n\n{}\n\n{end}{after}",
        tables.trim_end()
    ))
}

/// The best rate in GFLOP/s of this precision, of what the program `bench` printed.
pub(super) fn best_rate(gemm: &Value, precision: &str) -> Option<f64> {
    let products = gemm["products"].as_array()?.iter();
    products
        .filter(|product| product["precision"] == precision)
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

/// Three digits that count.
pub(super) fn figure(value: f64) -> String {
    if value >= 100.0 {
        thousands(value.round() as u64)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(side: Side, precision: &str, values: &[f64], gigabytes: f64) -> Value {
        let samples: Vec<Value> = values
            .iter()
            .map(|value| {
                json!({
                    "value": value, "tokens_per_second": value * 40.0,
                    "peak_bytes": gigabytes * 1e9, "n_tokens_by_step": [640],
                })
            })
            .collect();
        json!({
            "side": side.name(), "precision": precision, "n_warmup_steps": 2,
            "n_measured_steps": 4, "samples": samples, "problem": null,
        })
    }

    fn results() -> Results {
        let train = json!({
            "unit": "triplets/s", "model": "base", "data": "d", "flops_per_token": 5e8,
            "machine": "2 threads of a chip", "commit": "abc",
            "settings": [
                setting(Side::Peer, "fp32", &[4.0, 9.0, 5.0], 4.0),
                setting(Side::Ours, "fp32", &[19.0, 20.0, 21.0], 2.0),
                setting(Side::Peer, "bf16", &[10.0, 10.0], 4.0),
                setting(Side::Ours, "bf16", &[29.0, 31.0], 2.0),
                setting(Side::Ours, "fp16", &[], 2.0),
            ],
        });
        let start = json!({
            "unit": "s", "model": "mini", "data": "d", "flops_per_token": null,
            "settings": [
                setting(Side::Peer, "fp32", &[5.0], 1.0),
                setting(Side::Ours, "fp32", &[0.5], 0.5),
            ],
        });
        let products = json!({"products": [
            {"precision": "fp32", "gflops": 300.0}, {"precision": "fp32", "gflops": 500.0},
            {"precision": "bf16", "gflops": 1000.0},
        ]});
        [
            ("train-base-16", train),
            ("start", start),
            ("gemm", products),
        ]
        .map(|(name, result)| (name.to_owned(), result))
        .into()
    }

    #[test]
    fn medians_stand_beside_each_other() -> Result<()> {
        let report = Report::new(&results())?;
        let markdown = report.markdown();
        for line in [
            "Measured on 2 threads of a chip, at commit abc, ",
            "rate of matrix products in GFLOP/s, the best of all shapes and libraries: fp32 500, bf16 1000.",
            "| start | 0.50 s (fp32) | 5.00 s (fp32) | 10.00 | ours at most 1 s | 0.50 |  |\n",
            "| train-base-16 | 20.0 triplets/s (fp32) | 5.00 triplets/s (fp32) | 4.00 | 4.0 | 0.50 | 0.6 |\n",
            "| train-base-16, fastest | 30.0 triplets/s (bf16) | 10.0 triplets/s (bf16) | 3.00 | 2.5 | 0.50 |  |\n",
            "| train-base-16 | sentune fp32 | 20.0 triplets/s | 19.0 to 21.0 | 800 | 80 % | 2.00 GB |\n",
            "- train-base-16: base on d, 3 rounds; steps (warm-up + measured): sentence-transformers fp32 2 + 4, ",
        ] {
            assert!(markdown.contains(line), "`{line}` is not in\n{markdown}");
        }
        assert!(!markdown.contains("fp16") && !markdown.contains("start, fastest"));
        let json = report.json();
        assert_eq!(json["ratios"][1]["ratio"], 4.0);
        assert_eq!(json["gemm_gflops"]["bf16"], 1000.0);
        Ok(())
    }

    #[test]
    fn a_step_is_taken_apart() -> Result<()> {
        let profile = |precision, milliseconds| {
            json!({
                "model": "base", "precision": precision, "milliseconds_per_step": milliseconds,
                "parts": {"matrix products": 300.0, "rest": milliseconds - 300.0},
            })
        };
        let profiles = json!({"profiles": [profile("fp32", 400.0), profile("bf16", 600.0)]});
        let results = [("profile".to_owned(), profiles)].into();
        let markdown = Report::new(&results)?.markdown();
        for line in [
            "| part | base, fp32 | base, bf16 |\n|---|--:|--:|\n",
            "| matrix products | 300.0 ms, 75.0 % | 300.0 ms, 50.0 % |\n| rest | 100.0 ms, 25.0 % | 300.0 ms, 50.0 % |\n",
            "| a step | 400.0 ms | 600.0 ms |\n",
        ] {
            assert!(markdown.contains(line), "`{line}` is not in\n{markdown}");
        }
        Ok(())
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() -> Result<()> {
        let [begin, end] = MARKERS;
        let document = format!("# Top\n\n{begin}\nold\n{end}\n\nrest\n");
        let new = replace(&document, MARKERS, "new\n")?;
        assert_eq!(new, format!("# Top\n\n{begin}\n\nnew\n\n{end}\n\nrest\n"));
        assert_eq!(replace(&new, MARKERS, "new\n")?, new);
        assert!(replace("# Top\n", MARKERS, "new").is_err());
        Ok(())
    }
}
