//! The choice of a file's columns: those asked for or all, with the label apart.

use std::path::Path;

use crate::{
    dataset::{LABEL_COLUMNS, RESERVED_COLUMNS},
    error::{DataError, quoted, shortened},
    formats::rows::{Holds, Schema},
    options::LoadOptions,
};

/// The columns to read, by their place in the file.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// In the order in which the data set has them: lists of positives after the columns of one text a row, and lists of
    /// negatives after these.
    pub(crate) texts: Vec<(usize, Role)>,
    pub(crate) label: Option<usize>,
}

/// The texts that a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// One a row.
    Text,
    /// Any number a row, all equal in meaning: the first is the anchor of the others.
    Set,
    /// Any number a row.
    Positives,
    /// Any number a row.
    Negatives,
}

impl Role {
    /// The role of lists of texts, by the column's name.
    fn of_lists(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        if name == "set" {
            Some(Self::Set)
        } else if starts(&["neg", "hard_neg", "contradiction"]) {
            Some(Self::Negatives)
        } else if starts(&["pos", "answer", "entailment"]) {
            Some(Self::Positives)
        } else {
            None
        }
    }
}

/// Chooses among a file's columns: those asked for, or all, with the label apart.
pub(crate) fn choose(
    path: &Path,
    schema: &Schema,
    options: &LoadOptions,
) -> Result<Chosen, DataError> {
    let header = |message: String| DataError::Header {
        path: path.to_path_buf(),
        message,
    };
    let available = schema.names();
    let wanted = match &options.columns {
        Some(wanted) => wanted.clone(),
        None => all(path, schema)?,
    };
    let named: Vec<String> = available
        .iter()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    if let Some(twice) = first_repeated(&named) {
        return Err(header(format!(
            "two columns are called `{}`: rename one of them",
            shortened(twice)
        )));
    }
    if let Some(twice) = first_repeated(&wanted) {
        return Err(header(format!(
            "column `{twice}` is chosen twice: name each column once"
        )));
    }
    let mut wanted_and_label = wanted.clone();
    if let Some(label) = &options.label_column
        && !wanted.contains(label)
    {
        wanted_and_label.push(label.clone());
    }
    let mut chosen = Chosen::default();
    for name in &wanted_and_label {
        let place = named
            .contains(name)
            .then(|| available.iter().position(|column| column == name));
        let Some(place) = place.flatten() else {
            return Err(DataError::MissingColumn {
                path: path.to_path_buf(),
                column: name.clone(),
                available: named,
            });
        };
        if RESERVED_COLUMNS.contains(&name.as_str()) {
            return Err(header(format!(
                "the column name `{name}` is reserved: rename the column, or choose the columns to use without it"
            )));
        }
        let holds = &schema.columns[place].holds;
        let is_label = match &options.label_column {
            Some(label) => label == name,
            None => LABEL_COLUMNS.contains(&name.to_lowercase().as_str()),
        };
        if is_label {
            if let Holds::Other(_) | Holds::Texts(_) = holds {
                return Err(DataError::NotLabels {
                    path: path.to_path_buf(),
                    column: name.clone(),
                    found: holds.to_string(),
                });
            }
            if let Some(first) = chosen.label.replace(place) {
                return Err(DataError::TwoLabels {
                    path: path.to_path_buf(),
                    first: available[first].clone(),
                    second: name.clone(),
                });
            }
            continue;
        }
        let role = match holds {
            Holds::Text | Holds::Either => Some(Role::Text),
            Holds::Texts(_) => Role::of_lists(name),
            _ => None,
        };
        match role {
            Some(role) => chosen.texts.push((place, role)),
            None => {
                return Err(DataError::NotText {
                    path: path.to_path_buf(),
                    column: name.clone(),
                    found: holds.to_string(),
                    available: named,
                });
            }
        }
    }
    if chosen.texts.is_empty() {
        return Err(DataError::NoTextColumns {
            path: path.to_path_buf(),
            available: wanted,
        });
    }
    chosen.texts.sort_by_key(|(_, role)| *role);
    Ok(chosen)
}

/// All columns but those that are known to be none of the data: row numbers that pandas added, and in retrieval data
/// with lists of positives whatever is neither the query nor one of the lists.
fn all(path: &Path, schema: &Schema) -> Result<Vec<String>, DataError> {
    let columns = &schema.columns;
    let is_positives = |holds: &Holds, name: &str| {
        matches!(holds, Holds::Texts(_)) && Role::of_lists(name) == Some(Role::Positives)
    };
    let has_positives = columns
        .iter()
        .any(|column| is_positives(&column.holds, &column.name));
    let has_query = columns.iter().any(|column| is_query(&column.name));
    let (mut used, mut aside) = (Vec::new(), Vec::new());
    for (i, column) in columns.iter().enumerate() {
        let name = &column.name;
        let is_list = matches!(column.holds, Holds::Texts(_));
        if name.is_empty() && column.holds != Holds::Index {
            return Err(DataError::Header {
                path: path.to_path_buf(),
                message: format!(
                    "column {} of {} has no name: the first line must name every column",
                    i + 1,
                    columns.len()
                ),
            });
        }
        let is_used = if is_index(name) {
            false
        } else if has_positives && has_query {
            is_query(name) || (is_list && Role::of_lists(name).is_some())
        } else {
            true
        };
        if is_used {
            used.push(name.clone());
        } else {
            aside.push(match name.as_str() {
                "" => "(no name)".to_owned(),
                name => name.to_owned(),
            });
        }
    }
    if !aside.is_empty() {
        tracing::info!("{}: left aside: columns {}", path.display(), quoted(&aside));
    }
    Ok(used)
}

fn is_query(name: &str) -> bool {
    ["query", "anchor", "question"].contains(&name)
}

/// Whether a column is one that pandas adds: the index of the rows.
fn is_index(name: &str) -> bool {
    let number = |start: &str, end: &str| {
        let number = name.strip_prefix(start)?.strip_suffix(end)?;
        Some(!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    name.is_empty()
        || number("__index_level_", "__").unwrap_or(false)
        || number("Unnamed: ", "").unwrap_or(false)
}

fn first_repeated(names: &[String]) -> Option<&String> {
    names
        .iter()
        .enumerate()
        .find_map(|(i, name)| names[..i].contains(name).then_some(name))
}
