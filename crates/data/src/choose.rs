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
    /// Lists of numbers beside the lists of positives, and of negatives where there are such.
    pub(crate) scores: Vec<usize>,
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

/// The places of the columns with a teacher's scores of positives and of negatives, such as FlagEmbedding's `pos_scores` and
/// `neg_scores`; none where the positives have no such column.
fn scores_of_lists(schema: &Schema) -> Option<(usize, Option<usize>)> {
    let of_role = |role: Role| {
        schema.columns.iter().position(|column| {
            let name = column.name.to_lowercase();
            matches!(column.holds, Holds::Lists(_))
                && name.ends_with("scores")
                && Role::of_lists(&name) == Some(role)
        })
    };
    Some((of_role(Role::Positives)?, of_role(Role::Negatives)))
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
    let mut wanted = match &options.columns {
        Some(wanted) => wanted.clone(),
        None => all(path, schema, options)?,
    };
    let scores = scores_of_lists(schema);
    let is_score = |name: &String| {
        let place = available.iter().position(|column| column == name);
        place.is_some() && scores.is_some_and(|(of, others)| place == Some(of) || place == others)
    };
    // Scores are asked for by the name of either column, or by an option that leaves them aside where others are chosen.
    let label_column = options.label_column.as_ref();
    let has_asked = wanted.iter().chain(label_column).any(is_score);
    let label_column = label_column.filter(|name| !is_score(name));
    wanted.retain(|name| !is_score(name));
    let is_free = options.columns.is_none() && label_column.is_none();
    let scores = scores.filter(|_| has_asked || (options.teacher_scores && is_free));
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
    if let Some(label) = label_column
        && !wanted.contains(label)
    {
        wanted_and_label.push(label.clone());
    }
    let mut chosen = Chosen {
        scores: scores.map_or(Vec::new(), |(of, others)| {
            [Some(of), others].into_iter().flatten().collect()
        }),
        ..Chosen::default()
    };
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
        let is_label = match label_column {
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
    let has = |role: Role| chosen.texts.iter().any(|(_, other)| *other == role);
    match chosen.scores.as_slice() {
        [] => {}
        _ if !has(Role::Positives) => {
            return Err(header(
                "scores of positives need the list of positives beside them".to_owned(),
            ));
        }
        [_] if has(Role::Negatives) => {
            return Err(header("there are scores of the positives and none of the negatives: choose the columns without them".to_owned()));
        }
        _ if chosen.label.is_some() => {
            return Err(header("scores of lists become the labels, and there is a label column too: choose the columns with one of them".to_owned()));
        }
        _ => {}
    }
    Ok(chosen)
}

/// All columns but those that are known to be none of the data: row numbers that pandas added, and in retrieval data
/// with lists of positives whatever is neither the query nor one of the lists.
fn all(path: &Path, schema: &Schema, options: &LoadOptions) -> Result<Vec<String>, DataError> {
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
    let label = options.label_column.as_ref();
    let scores = scores_of_lists(schema).map(|(place, _)| &columns[place].name);
    let takes_scores = options.teacher_scores || label.is_some_and(|label| aside.contains(label));
    let mut advice = String::new();
    if let Some(scores) = scores {
        if takes_scores {
            aside.retain(|name| !name.to_lowercase().ends_with("scores"));
        } else {
            advice =
                format!("; scores of lists become a teacher's labels with --label-column {scores}");
        }
    }
    if !aside.is_empty() {
        tracing::info!(
            "{}: left aside: columns {}{advice}",
            path.display(),
            quoted(&aside)
        );
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
