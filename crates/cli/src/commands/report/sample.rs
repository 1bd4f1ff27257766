//! Rows of a run's test data, encoded by the models before and after training.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use data::{Dataset, Labels, Split};
use eval::{bootstrap::Bootstrap, options::Options};
use kernels::gemm::{self, Gemm, RustGemm, Shape};
use model::{Compute, EncodeOptions, SentenceTransformer};
use report::{Analysis, Difference, Page, Sample, Side, TextColumn, chart::number, table::Table};
use search::Similarity;
use tch::{Device, Kind, Tensor};
use train::{ColumnEmbeddings, Evaluation, FINAL};
use wording::counted;

use crate::{
    commands::{
        compare::differences,
        data::stat::{StatTable, Statistics},
        train::prepared::kind_of,
    },
    device,
    flags::train::TrainFlags,
    models::{encode_evaluation, load_model, set_compute, set_max_seq_length},
    session::Session,
    source::{self, DataOptions},
    tokenizing::tokenize,
};

/// Rows whose texts are projected, which bounds the size of the page.
const N_PROJECTED: usize = 150;
/// Rows of each data set whose lengths are counted.
const N_COUNTED: usize = 10_000;

/// Results of a sample of the test data.
pub(super) struct Sampled {
    analysis: Analysis,
    differences: Vec<Difference>,
    data: Vec<Table>,
    speed: Vec<(String, String)>,
    n_rows: usize,
}

impl Sampled {
    /// Encodes up to `n_rows` rows of the test data with the model before and after training. With the speed of the
    /// training, it says how much of this machine that took.
    ///
    /// # Errors
    /// If the run has no test data or no final model, or either can't be read.
    pub(super) fn new(
        folder: &Path,
        flags: &TrainFlags,
        n_rows: usize,
        rows_per_second: Option<f64>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let source = flags
            .test_data
            .as_ref()
            .ok_or_else(|| anyhow!("the run has no test data"))?;
        let tuned = folder.join(FINAL);
        if !tuned.exists() {
            return Err(anyhow!("the run has no final model yet"));
        }
        let load = |source: &str, split, n_rows, classes: &[String]| {
            let options = DataOptions {
                columns: flags.columns.clone(),
                max_rows: Some(n_rows),
                on_bad_row: Some(flags.on_bad_row),
                reading: flags.reading.clone(),
                classes: classes.to_vec(),
                ..DataOptions::default()
            };
            source::dataset(source, split, &options, session)
        };
        let before = set_up(&flags.model, flags, session)?;
        let after = set_up(&tuned.to_string_lossy(), flags, session)?;
        let mut data = Vec::new();
        let mut speed = Vec::new();
        let mut classes = Vec::new();
        for set in &flags.train_data {
            let max_rows = flags.max_train_samples.unwrap_or(N_COUNTED).min(N_COUNTED);
            let dataset = load(&set.value, Split::Train, max_rows, &[]).context("training data")?;
            let counted = Statistics::new(&dataset, Some(&before), session)?;
            data.extend(statistics_tables(
                "training data",
                max_rows,
                &counted,
                &dataset.name,
            ));
            if let Some((rows, tokens)) = rows_per_second.zip(counted.tokens_per_row()) {
                speed = speed_figures(&before, rows * tokens);
            }
            classes = dataset.classes;
        }
        let n_rows = flags.max_eval_samples.unwrap_or(n_rows).min(n_rows);
        let dataset = load(source, Split::Test, n_rows, &classes).context("test data")?;
        let counted = Statistics::new(&dataset, Some(&before), session)?;
        data.extend(statistics_tables(
            "test data",
            n_rows,
            &counted,
            &dataset.name,
        ));

        let tokens = tokenize(dataset, before.tokenizer(), session)?;
        let options = EncodeOptions::default();
        let evaluation = match kind_of(flags) {
            Some(kind) => {
                let all = Options::of(&Similarity::ALL);
                Evaluation::with_kind(tokens, Some(kind), &all, options)?
            }
            None => Evaluation::during_training(tokens, &Similarity::ALL, options)?,
        };
        let columns = [
            encode_evaluation(&evaluation, &before, session)?,
            encode_evaluation(&evaluation, &after, session)?,
        ];
        let mut found = Vec::new();
        if evaluation.has_evaluator() {
            let [before, after] = &columns;
            let how = Bootstrap::default();
            for difference in differences([&evaluation, &evaluation], [before, after], &how)? {
                found.push(Difference {
                    key: difference.key,
                    before: difference.first,
                    after: difference.second,
                    interval: difference
                        .interval
                        .map(|interval| (interval.low, interval.high)),
                });
            }
        }
        let dataset = &evaluation.data().context("test data are rows")?.dataset;
        Ok(Self {
            analysis: analysis(dataset, &columns, before.similarity_fn_name())?,
            differences: found,
            data,
            speed,
            n_rows: dataset.n_rows(),
        })
    }

    /// Puts the results on a page. Metrics stay those of the run, which measured all rows; intervals are the sample's.
    pub(super) fn fill(self, page: &mut Page) {
        let recorded = page.recorded_differences();
        page.differences = if recorded.is_empty() {
            self.differences
        } else {
            let interval = |key: &str| {
                let found = self.differences.iter().find(|found| found.key == key);
                found.and_then(|found| found.interval)
            };
            let with_interval = |mut difference: Difference| {
                difference.interval = interval(&difference.key);
                difference
            };
            recorded.into_iter().map(with_interval).collect()
        };
        page.intervals_note = format!(
            "Intervals of the change from 1,000 resamplings of the first {} of the test data.",
            counted(self.n_rows, "rows")
        );
        page.analysis = Some(self.analysis);
        page.data = self.data;
        page.speed = self.speed;
    }
}

/// A model with the run's settings of length and products.
fn set_up(
    name: &str,
    flags: &TrainFlags,
    session: &Session,
) -> anyhow::Result<SentenceTransformer> {
    let mut model = load_model(name, session)?;
    set_max_seq_length(&mut model, flags.max_seq_length)?;
    let compute = Compute {
        gemm: flags.gemm,
        precision: flags.arguments.precision,
        engine: flags.engine,
    };
    set_compute(&mut model, compute)?;
    Ok(model)
}

/// The tables of `sentune data stat`, with the role of the data and the most rows of it that are counted.
fn statistics_tables(
    role: &str,
    max_rows: usize,
    statistics: &Statistics<'_>,
    name: &str,
) -> Vec<Table> {
    let tables = statistics.tables().into_iter();
    let tables = tables.map(|StatTable { header, rows }| Table {
        caption: match header[0] == name {
            true => {
                let rows = counted(max_rows, "rows");
                format!("{role}: {name}, at most the first {rows}")
            }
            false => role.to_owned(),
        },
        header,
        rows,
        ..Table::default()
    });
    tables.map(Table::finished).collect()
}

/// Figures of a training that took this many tokens per second, and on the CPU its share of the machine.
fn speed_figures(model: &SentenceTransformer, tokens_per_second: f64) -> Vec<(String, String)> {
    let mut figures = vec![("tokens per second", number(tokens_per_second.round()))];
    let flops = tokens_per_second * model.encoder().spec().flops_per_token();
    figures.push(("GFLOP/s of linear layers", number(flops / 1e9)));
    if device::chosen() == Device::Cpu {
        let rate = product_rate();
        figures.push(("GFLOP/s of fp32 matrix products here", number(rate / 1e9)));
        figures.push((
            "share of that rate",
            format!("{:.1} %", 100.0 * flops / rate),
        ));
    }
    let figures = figures.into_iter();
    figures
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Floating-point operations per second of our fp32 matrix product on this machine, the best of a quarter of a second.
fn product_rate() -> f64 {
    let shape = Shape {
        m: 512,
        n: 768,
        k: 768,
    };
    let (a, b) = (vec![0.5; shape.m * shape.k], vec![0.5; shape.n * shape.k]);
    let mut c = vec![0.0; shape.m * shape.n];
    let operations = 2.0 * (shape.m * shape.n * shape.k) as f64;
    let start = Instant::now();
    let mut best: f64 = 0.0;
    while start.elapsed() < Duration::from_millis(250) {
        let one = Instant::now();
        RustGemm.product(gemm::Kind::NT, shape, 1.0, &a, &b, 0.0, &mut c);
        best = best.max(operations / one.elapsed().as_secs_f64());
    }
    best
}

fn analysis(
    dataset: &Dataset,
    columns: &[ColumnEmbeddings; 2],
    similarity: Similarity,
) -> anyhow::Result<Analysis> {
    let scores: Vec<f64>;
    let labels = match (&dataset.labels, dataset.columns.len()) {
        (Some(Labels::Integer(labels)), 1) => Some(report::Labels::Classes(labels)),
        (Some(Labels::Integer(labels)), 2) if labels.iter().all(|label| matches!(label, 0 | 1)) => {
            Some(report::Labels::Classes(labels))
        }
        (Some(Labels::Integer(labels)), 2) => {
            scores = labels.iter().map(|&label| label as f64).collect();
            Some(report::Labels::Scores(&scores))
        }
        (Some(Labels::Float(labels)), 2) => {
            scores = labels.iter().map(|&label| f64::from(label)).collect();
            Some(report::Labels::Scores(&scores))
        }
        _ => None,
    };
    let sides = columns
        .iter()
        .map(|columns| {
            Ok(Side {
                dimension: columns
                    .first()
                    .map_or(0, |column| column.size()[1] as usize),
                projection: projection(columns)?,
                columns: columns
                    .iter()
                    .map(|column| Ok(Vec::try_from(column.f_reshape([-1])?)?))
                    .collect::<anyhow::Result<_>>()?,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let sides = <[Side; 2]>::try_from(sides).map_err(|_| anyhow!("two models have two sides"))?;
    let texts = dataset.columns.iter().map(|column| TextColumn {
        name: &column.name,
        texts: column.texts.iter().collect(),
    });
    Ok(Analysis::new(&Sample {
        columns: texts.collect(),
        labels,
        similarity,
        sides,
    })?)
}

/// The two principal components of the first rows of all columns, [column, row]. Of the two directions that a component
/// may have, the one in which its largest coordinate is positive.
fn projection(columns: &[Tensor]) -> anyhow::Result<Vec<(f64, f64)>> {
    let parts = columns
        .iter()
        .map(|column| column.f_narrow(0, 0, column.size()[0].min(N_PROJECTED as i64)))
        .collect::<Result<Vec<_>, _>>()?;
    let all = Tensor::f_cat(&parts, 0)?.f_to_kind(Kind::Double)?;
    if all.size()[0] < 3 || all.size()[1] < 2 {
        return Ok(Vec::new());
    }
    let centred = all.f_sub(&all.f_mean_dim([0i64].as_slice(), true, Kind::Double)?)?;
    let (_, _, directions) = centred.f_svd(true, true)?;
    let places = centred.f_matmul(&directions.f_narrow(1, 0, 2)?)?;
    let component = |i: i64| -> anyhow::Result<Vec<f64>> {
        let values: Vec<f64> = Vec::try_from(places.f_select(1, i)?.f_contiguous()?)?;
        let largest = values
            .iter()
            .copied()
            .fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        Ok(values
            .into_iter()
            .map(|value| value * largest.signum())
            .collect())
    };
    Ok(component(0)?.into_iter().zip(component(1)?).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projection_keeps_the_directions_of_greatest_spread() {
        // Points on a line in three dimensions, a little off it.
        let values: Vec<f32> = (0..10)
            .flat_map(|i| {
                let (t, off) = (i as f32, if i % 2 == 0 { 0.1 } else { -0.1 });
                [2.0 * t, 2.0 * t + off, t]
            })
            .collect();
        let places = projection(&[Tensor::from_slice(&values).view([10, 3])]).unwrap();
        assert_eq!(places.len(), 10);
        // From end to end: 9 steps of (2, 2, 1), less 0.2 in the second dimension.
        let length = (places[9].0 - places[0].0).abs();
        assert!((length - 26.867).abs() < 0.01, "{length}");
        assert!(places.iter().all(|place| place.1.abs() < 0.2), "{places:?}");
        let largest = places
            .iter()
            .fold(0.0, |a: f64, b| if b.0.abs() > a.abs() { b.0 } else { a });
        assert!(largest > 0.0);
    }
}
