//! `sentune data audit`: doubts about rows, by their texts.

use std::path::Path;

use data::{
    Cells, Dataset, OnBadRow, OutputColumn,
    audit::{Doubt, Finding, audit, clean_rows},
};
use serde_json::{Map, Value, json};
use wording::thousands;

use super::files::{load, write};
use crate::{
    flags::data::AuditFlags,
    output::{check_free, print, print_json, table_format},
    session::Session,
    source::{self, DataOptions},
    table::table,
    usage::UsageError,
};

/// Looks at a data set, and writes what was found and the rows without doubt.
pub(super) fn run(flags: &AuditFlags, session: &Session) -> anyhow::Result<()> {
    for (flag, path) in [("--output", &flags.output), ("--findings", &flags.findings)] {
        if let Some(path) = path {
            table_format(flag, path)?;
            check_free(flag, path, flags.overwrite)?;
        }
    }
    let drop = drop_of(flags)?;
    let dataset = load(&flags.data, OnBadRow::Skip, session)?;
    let mut others = Vec::new();
    for against in &flags.against {
        let options = DataOptions {
            columns: flags.data.columns.clone(),
            on_bad_row: Some(OnBadRow::Skip),
            reading: flags.data.reading.clone(),
            ..DataOptions::default()
        };
        others.push(source::dataset(
            against,
            flags.against_split,
            &options,
            session,
        )?);
    }
    let others: Vec<&Dataset> = others.iter().collect();
    let findings = audit(&dataset, &others);
    if let Some(path) = &flags.findings {
        write_findings(path, &dataset, &findings)?;
    }
    if let Some(path) = &flags.output {
        let rows = clean_rows(&dataset, &findings, &drop);
        if rows.is_empty() {
            anyhow::bail!("--drop leaves no row of {}", dataset.n_rows());
        }
        let format = table_format("--output", path)?;
        write(path, format, &dataset.select(&rows).output_columns())?;
    }
    let of = |doubt: Doubt| {
        findings
            .iter()
            .filter(move |finding| finding.doubt == doubt)
    };
    if flags.json {
        let doubts: Map<String, Value> = Doubt::ALL
            .into_iter()
            .map(|doubt| (doubt.name().to_owned(), json!(of(doubt).count())))
            .collect();
        let mut doubted: Vec<u32> = findings.iter().map(|finding| finding.row).collect();
        doubted.dedup();
        return Ok(print_json(&json!({
            "name": dataset.name,
            "rows": dataset.n_rows(),
            "doubted": doubted.len(),
            "doubts": doubts,
        }))?);
    }
    let rows: Vec<Vec<String>> = Doubt::ALL
        .into_iter()
        .map(|doubt| {
            let n = of(doubt).count();
            let share = 100.0 * n as f64 / dataset.n_rows() as f64;
            let first = of(doubt)
                .next()
                .map(|finding| thousands(finding.row as usize + 1));
            vec![
                doubt.name().to_owned(),
                thousands(n),
                format!("{share:.2} %"),
                first.unwrap_or_default(),
                doubt.words().to_owned(),
            ]
        })
        .collect();
    Ok(print(&table(
        &[&dataset.name, "rows", "share", "first", "the doubt"],
        &rows,
    ))?)
}

/// The doubts whose rows the copy is without.
fn drop_of(flags: &AuditFlags) -> Result<Vec<Doubt>, UsageError> {
    let doubt = |name: &String| {
        let known = Doubt::ALL.into_iter().find(|doubt| doubt.name() == name);
        known.ok_or_else(|| {
            let names = Doubt::ALL.map(Doubt::name).join(", ");
            UsageError(format!(
                "--drop: there is no doubt `{name}`; there are {names}"
            ))
        })
    };
    flags.drop.iter().map(doubt).collect()
}

/// Writes a row for each finding: the row from 1, the doubt, the column, the other row, and the texts.
fn write_findings(path: &Path, dataset: &Dataset, findings: &[Finding]) -> anyhow::Result<()> {
    let rows: Vec<u32> = findings.iter().map(|finding| finding.row).collect();
    let doubted = dataset.select(&rows);
    let column = |finding: &Finding| {
        let column = finding.column.and_then(|place| dataset.columns.get(place));
        column.map_or("", |column| column.name.as_str())
    };
    let number = |row: u32| i64::from(row) + 1;
    let others = findings
        .iter()
        .map(|finding| finding.other.map_or(0, number));
    let mut columns = vec![
        OutputColumn::new(
            "row",
            Cells::Integers(rows.iter().copied().map(number).collect()),
        ),
        OutputColumn::new(
            "doubt",
            Cells::Texts(
                findings
                    .iter()
                    .map(|finding| finding.doubt.name())
                    .collect(),
            ),
        ),
        OutputColumn::new(
            "column",
            Cells::Texts(findings.iter().map(column).collect()),
        ),
        OutputColumn::new("other_row", Cells::Integers(others.collect())),
    ];
    columns.extend(doubted.output_columns());
    let format = table_format("--findings", path)?;
    write(path, format, &columns)
}
