//! `sentune data audit`: doubts about rows, by their texts and by a model.

mod by_model;
mod right_way;
mod runs;
mod scores;

use std::path::Path;

use data::{
    Cells, Dataset, OnBadRow, OutputColumn, Texts,
    audit::{Doubt, Finding, audit, sorted},
};
use serde_json::{Map, Value, json};
use wording::{counted, thousands};

use self::{runs::Runs, scores::Scoring};
use super::{
    files::{load, write},
    stat::row_json,
};
use crate::{
    flags::data::{AuditFlags, Dropped, Scored},
    models::{load_model, set_max_seq_length},
    output::{check_free, print, print_json, table_format},
    session::Session,
    source::{self, DataOptions},
    table::table,
    usage::UsageError,
};

/// Looks at a data set, and writes what was found and the rows without doubt.
pub(super) fn run(flags: &AuditFlags, session: &Session) -> anyhow::Result<()> {
    for (flag, path) in [
        ("--output", &flags.output),
        ("--findings", &flags.findings),
        ("--scores", &flags.scores),
    ] {
        if let Some(path) = path {
            table_format(flag, path)?;
            check_free(flag, path, flags.overwrite)?;
        }
    }
    check_rows(flags)?;
    let dataset = load(&flags.data, OnBadRow::Skip, session)?;
    let others = others(flags, session)?;
    check_swap(flags, &dataset)?;
    let runs = runs(flags, &dataset, session)?;
    let audited = Audited::new(flags, dataset, others, runs.as_ref(), session)?;
    if let Some(path) = &flags.findings {
        audited.write_findings(path)?;
    }
    if let Some(path) = &flags.scores {
        audited.write_scores(path)?;
    }
    let copy = audited.copy(flags);
    if let Some(path) = &flags.output {
        audited.write_copy(path, &copy)?;
    }
    if flags.json {
        return Ok(print_json(&audited.to_json(flags, &copy))?);
    }
    Ok(print(&audited.to_text(flags))?)
}

/// Refuses to drop or swap rows by what nothing looks for.
fn check_rows(flags: &AuditFlags) -> Result<(), UsageError> {
    if let Some(swapped) = flags.swap
        && flags.folds.is_none()
    {
        return Err(UsageError(format!(
            "--swap {} needs --folds, which scores the rows",
            swapped.name()
        )));
    }
    for dropped in &flags.drop {
        let (name, needed) = match dropped {
            Dropped::Doubt(doubt) if doubt.needs_model() && flags.model.is_none() => {
                (doubt.name(), "--model")
            }
            Dropped::Scored(scored) if flags.folds.is_none() => {
                (scored.name(), "--folds, which scores the rows")
            }
            _ => continue,
        };
        return Err(UsageError(format!("--drop {name} needs {needed}")));
    }
    Ok(())
}

/// Refuses to exchange positives and negatives of what is no triplets.
fn check_swap(flags: &AuditFlags, dataset: &Dataset) -> Result<(), UsageError> {
    if flags.swap.is_none() || dataset.columns.len() == 3 && dataset.labels.is_none() {
        return Ok(());
    }
    let labels = if dataset.labels.is_some() {
        " and labels"
    } else {
        ""
    };
    Err(UsageError(format!(
        "--swap exchanges positive and negative of triplets, and {} has {}{labels}: choose three with --columns, or leave rows out with --drop",
        dataset.name,
        counted(dataset.columns.len(), "text columns"),
    )))
}

fn others(flags: &AuditFlags, session: &Session) -> anyhow::Result<Vec<Dataset>> {
    let load = |against: &String| {
        let options = DataOptions {
            columns: flags.data.columns.clone(),
            on_bad_row: Some(OnBadRow::Skip),
            reading: flags.data.reading.clone(),
            ..DataOptions::default()
        };
        source::dataset(against, flags.against_split, &options, session)
    };
    flags.against.iter().map(load).collect()
}

/// The runs that score the rows, where they are asked for.
fn runs<'a>(
    flags: &'a AuditFlags,
    dataset: &Dataset,
    session: &'a Session,
) -> anyhow::Result<Option<Runs<'a>>> {
    let (Some(n_folds), Some(model)) = (flags.folds, &flags.model) else {
        return Ok(None);
    };
    let runs = Runs {
        flags,
        model,
        n_folds: n_folds as usize,
        scoring: Scoring::of(dataset)?,
        session,
    };
    runs.loss()?;
    Ok(Some(runs))
}

/// Fates of the rows in the cleaned copy.
struct CleanCopy {
    /// The rows that it has.
    rows: Vec<u32>,
    /// For each row of the data set, whether it is there with positive and negative exchanged.
    is_swapped: Vec<bool>,
}

impl CleanCopy {
    fn n_swapped(&self) -> usize {
        self.is_swapped
            .iter()
            .filter(|is_swapped| **is_swapped)
            .count()
    }
}

/// A data set with all that was found.
struct Audited {
    dataset: Dataset,
    others: Vec<Dataset>,
    findings: Vec<Finding>,
    /// The score of each row, and the way it was scored.
    scores: Option<(Vec<f32>, Scoring)>,
}

impl Audited {
    fn new(
        flags: &AuditFlags,
        dataset: Dataset,
        others: Vec<Dataset>,
        runs: Option<&Runs<'_>>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let mut findings = audit(&dataset, &others.iter().collect::<Vec<_>>());
        if let Some(name) = &flags.model {
            let mut model = load_model(name, session)?;
            set_max_seq_length(&mut model, flags.max_seq_length)?;
            findings.extend(by_model::cut_off(&dataset, &model, session)?);
            findings.extend(by_model::nearer_elsewhere(&dataset, &model, session)?);
            findings = sorted(findings);
        }
        let scores = match runs {
            None => None,
            Some(runs) => Some((runs.scores(&dataset)?, runs.scoring)),
        };
        Ok(Self {
            dataset,
            others,
            findings,
            scores,
        })
    }

    fn of(&self, doubt: Doubt) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(move |finding| finding.doubt == doubt)
    }

    /// The rows by their scores, worst first; none where there are no scores.
    fn worst(&self) -> Vec<u32> {
        let Some((scores, _)) = &self.scores else {
            return Vec::new();
        };
        let mut rows: Vec<u32> = (0..scores.len() as u32).collect();
        rows.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
        rows
    }

    fn score(&self, row: u32) -> f32 {
        let scores = self.scores.as_ref();
        scores.map_or(f32::NAN, |(scores, _)| scores[row as usize])
    }

    /// Writes a row for each finding: the row from 1, the doubt, the column, the other row and its data, the strength of
    /// the doubt, and the texts.
    fn write_findings(&self, path: &Path) -> anyhow::Result<()> {
        let findings = self.findings.iter();
        let rows: Vec<u32> = findings.clone().map(|finding| finding.row).collect();
        let doubted = self.dataset.select(&rows);
        let names = findings.clone().map(|finding| finding.doubt.name());
        let column = |finding: &Finding| {
            let column = finding
                .column
                .and_then(|place| self.dataset.columns.get(place));
            column.map_or("", |column| column.name.as_str())
        };
        let other_data = |finding: &Finding| {
            let other = finding.other_data.and_then(|place| self.others.get(place));
            other.map_or("", |other| other.name.as_str())
        };
        let others = findings
            .clone()
            .map(|finding| finding.other.map_or(0, number));
        let scores = findings.clone().map(|finding| finding.score.unwrap_or(0.0));
        let mut columns = vec![
            OutputColumn::new("row", Cells::Integers(numbers(&rows))),
            OutputColumn::new("doubt", Cells::Texts(names.collect())),
            OutputColumn::new(
                "column",
                Cells::Texts(findings.clone().map(column).collect()),
            ),
            OutputColumn::new("other_row", Cells::Integers(others.collect())),
            OutputColumn::new(
                "other_data",
                Cells::Texts(findings.clone().map(other_data).collect()),
            ),
            OutputColumn::new("strength", Cells::Floats(scores.collect())),
        ];
        columns.extend(doubted.output_columns());
        write(path, table_format("--findings", path)?, &columns)
    }

    /// Writes all rows with their numbers from 1 and their scores, worst first.
    fn write_scores(&self, path: &Path) -> anyhow::Result<()> {
        let rows = self.worst();
        let ordered = self.dataset.select(&rows);
        let scores = rows.iter().map(|&row| self.score(row));
        let mut columns = vec![
            OutputColumn::new("row", Cells::Integers(numbers(&rows))),
            OutputColumn::new("row_score", Cells::Floats(scores.collect())),
        ];
        columns.extend(ordered.output_columns());
        write(path, table_format("--scores", path)?, &columns)
    }

    /// Whether each row is one of these.
    fn is_scored(&self, scored: Scored) -> Vec<bool> {
        let n_rows = self.dataset.n_rows();
        let mut is_scored = vec![false; n_rows];
        let worst = self.worst().into_iter();
        let chosen: Vec<u32> = match scored {
            Scored::Worst(size) => worst.take(size.rows(n_rows)).collect(),
            Scored::Below(score) => worst.take_while(|row| self.score(*row) < score).collect(),
        };
        chosen
            .into_iter()
            .for_each(|row| is_scored[row as usize] = true);
        is_scored
    }

    /// Rows of the copy by the flags: a doubt of --drop goes before --swap, and that before scores of --drop.
    fn copy(&self, flags: &AuditFlags) -> CleanCopy {
        let n_rows = self.dataset.n_rows();
        let mut is_swapped = match flags.swap {
            Some(swapped) => self.is_scored(swapped),
            None => vec![false; n_rows],
        };
        let mut is_dropped = vec![false; n_rows];
        for dropped in &flags.drop {
            match dropped {
                Dropped::Doubt(doubt) => {
                    for finding in self.of(*doubt) {
                        is_dropped[finding.row as usize] = true;
                        is_swapped[finding.row as usize] = false;
                    }
                }
                Dropped::Scored(scored) => {
                    let scored = self.is_scored(*scored);
                    for (is_dropped, is_scored) in is_dropped.iter_mut().zip(scored) {
                        *is_dropped |= is_scored;
                    }
                }
            }
        }
        let rows = 0..n_rows as u32;
        let is_left = |row: &u32| is_swapped[*row as usize] || !is_dropped[*row as usize];
        CleanCopy {
            rows: rows.filter(is_left).collect(),
            is_swapped,
        }
    }

    /// Writes the rows that are not dropped, those that are swapped with the texts of the second and third columns
    /// exchanged.
    fn write_copy(&self, path: &Path, copy: &CleanCopy) -> anyhow::Result<()> {
        let n_rows = self.dataset.n_rows();
        if copy.rows.is_empty() {
            anyhow::bail!("--drop leaves no row of {}", thousands(n_rows));
        }
        let mut clean = self.dataset.select(&copy.rows);
        if let [_, second, third] = clean.columns.as_mut_slice() {
            let texts = second.texts.iter().zip(third.texts.iter());
            let in_place: Vec<(&str, &str)> = texts
                .zip(&copy.rows)
                .map(
                    |((second, third), row)| match copy.is_swapped[*row as usize] {
                        true => (third, second),
                        false => (second, third),
                    },
                )
                .collect();
            let seconds: Texts = in_place.iter().map(|(second, _)| *second).collect();
            let thirds: Texts = in_place.iter().map(|(_, third)| *third).collect();
            (second.texts, third.texts) = (seconds, thirds);
        }
        tracing::info!(
            "the copy leaves out {} of {}, and exchanges positive and negative of {}",
            thousands(n_rows - copy.rows.len()),
            counted(n_rows, "rows"),
            thousands(copy.n_swapped())
        );
        write(
            path,
            table_format("--output", path)?,
            &clean.output_columns(),
        )
    }

    fn to_json(&self, flags: &AuditFlags, copy: &CleanCopy) -> Value {
        let doubts: Map<String, Value> = looked_for(flags)
            .map(|doubt| (doubt.name().to_owned(), json!(self.of(doubt).count())))
            .collect();
        let mut doubted: Vec<u32> = self.findings.iter().map(|finding| finding.row).collect();
        doubted.dedup();
        let mut found = json!({
            "name": self.dataset.name,
            "rows": self.dataset.n_rows(),
            "doubted": doubted.len(),
            "doubts": doubts,
        });
        if flags.output.is_some() {
            found["copy"] = json!({"rows": copy.rows.len(), "swapped": copy.n_swapped()});
        }
        if self.scores.is_some() {
            let worst = self.worst().into_iter().take(flags.show).map(|row| {
                let values = row_json(&self.dataset, row as usize);
                json!({"row": number(row), "score": self.score(row), "values": values})
            });
            found["worst"] = worst.collect();
        }
        found
    }

    /// The table of doubts, then the rows of the lowest scores with their texts.
    fn to_text(&self, flags: &AuditFlags) -> String {
        let row = |doubt: Doubt| {
            let n = self.of(doubt).count();
            let share = 100.0 * n as f64 / self.dataset.n_rows() as f64;
            let first = self.of(doubt).next();
            let first = first.map(|finding| thousands(finding.row as usize + 1));
            vec![
                doubt.name().to_owned(),
                thousands(n),
                format!("{share:.2} %"),
                first.unwrap_or_default(),
                doubt.words().to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = looked_for(flags).map(row).collect();
        let mut text = table(
            &[&self.dataset.name, "rows", "share", "first", "the doubt"],
            &rows,
        );
        if let Some((_, scoring)) = &self.scores {
            text += &format!("\nworst rows by {}:\n", scoring.words());
            for row in self.worst().into_iter().take(flags.show) {
                text += &format!(
                    "\nrow {}: {:.4}\n",
                    thousands(row as usize + 1),
                    self.score(row)
                );
                let values = row_json(&self.dataset, row as usize);
                let width = values.keys().map(|name| name.chars().count());
                let width = width.max().unwrap_or(0);
                for (name, value) in values {
                    let value = value.as_str().map_or_else(|| value.to_string(), one_line);
                    text += &format!("  {name:<width$}  {value}\n");
                }
            }
        }
        text
    }
}

/// The doubts that are looked for.
fn looked_for(flags: &AuditFlags) -> impl Iterator<Item = Doubt> {
    let has_model = flags.model.is_some();
    let all = Doubt::ALL.into_iter();
    all.filter(move |doubt| has_model || !doubt.needs_model())
}

/// The number of a row, from 1.
fn number(row: u32) -> i64 {
    i64::from(row) + 1
}

fn numbers(rows: &[u32]) -> Vec<i64> {
    rows.iter().copied().map(number).collect()
}

/// A text on one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
