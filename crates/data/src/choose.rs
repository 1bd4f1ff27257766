//! Which of a file's columns are used: those asked for or all, with the label apart.

use std::path::Path;

use crate::{
    dataset::{LABEL_COLUMNS, RESERVED_COLUMNS},
    error::{DataError, shortened},
    options::LoadOptions,
};

/// What a column of a file holds, as far as the format tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    Text,
    Numbers(String),
    /// Lists of numbers.
    Lists(String),
    /// Text, or numbers written as text.
    Either,
    Other(String),
}

/// The columns to read.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) texts: Vec<String>,
    pub(crate) label: Option<String>,
}

impl Chosen {
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.texts.iter().chain(&self.label)
    }
}

/// Chooses among a file's columns: those asked for, or all, with the label apart.
pub(crate) fn choose(
    path: &Path,
    columns: &[(String, Holds)],
    options: &LoadOptions,
) -> Result<Chosen, DataError> {
    let path_buf = || path.to_path_buf();
    let available: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    if let Some(twice) = first_repeated(&available) {
        return Err(DataError::Header {
            path: path_buf(),
            message: format!(
                "two columns are called `{}`: rename one of them",
                shortened(twice)
            ),
        });
    }
    let wanted = options.columns.as_ref().unwrap_or(&available);
    if let Some(twice) = first_repeated(wanted) {
        return Err(DataError::Header {
            path: path_buf(),
            message: format!("column `{twice}` is chosen twice: name each column once"),
        });
    }
    let mut chosen = Chosen {
        texts: Vec::new(),
        label: None,
    };
    for name in wanted {
        let Some((_, holds)) = columns.iter().find(|(column, _)| column == name) else {
            return Err(DataError::MissingColumn {
                path: path_buf(),
                column: name.clone(),
                available,
            });
        };
        if RESERVED_COLUMNS.contains(&name.as_str()) {
            return Err(DataError::Header {
                path: path_buf(),
                message: format!(
                    "the column name `{name}` is reserved: rename the column, or choose the \
                     columns to use without it"
                ),
            });
        }
        if LABEL_COLUMNS.contains(&name.as_str()) {
            if let Holds::Text | Holds::Other(_) = holds {
                return Err(DataError::NotLabels {
                    path: path_buf(),
                    column: name.clone(),
                    found: holds.to_string(),
                });
            }
            if let Some(first) = chosen.label.replace(name.clone()) {
                return Err(DataError::TwoLabels {
                    path: path_buf(),
                    first,
                    second: name.clone(),
                });
            }
            continue;
        }
        if let Holds::Numbers(_) | Holds::Lists(_) | Holds::Other(_) = holds {
            return Err(DataError::NotText {
                path: path_buf(),
                column: name.clone(),
                found: holds.to_string(),
                available,
            });
        }
        chosen.texts.push(name.clone());
    }
    if chosen.texts.is_empty() {
        return Err(DataError::NoTextColumns {
            path: path_buf(),
            available: wanted.clone(),
        });
    }
    Ok(chosen)
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text | Self::Either => f.write_str("text"),
            Self::Numbers(kind) => write!(f, "numbers ({kind})"),
            Self::Lists(kind) | Self::Other(kind) => f.write_str(kind),
        }
    }
}

fn first_repeated(names: &[String]) -> Option<&String> {
    names
        .iter()
        .enumerate()
        .find_map(|(i, name)| names[..i].contains(name).then_some(name))
}
