//! The choice of a file's columns: those asked for or all, with the label apart.

use std::path::Path;

use crate::{
    dataset::{LABEL_COLUMNS, RESERVED_COLUMNS},
    error::{DataError, shortened},
    formats::{Holds, Schema},
    options::LoadOptions,
};

/// The columns to read, by their place in the file.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// In the order in which the data set has them.
    pub(crate) texts: Vec<usize>,
    pub(crate) label: Option<usize>,
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
    if let Some(twice) = first_repeated(&available) {
        return Err(header(format!(
            "two columns are called `{}`: rename one of them",
            shortened(twice)
        )));
    }
    let wanted = options.columns.as_ref().unwrap_or(&available);
    if let Some(twice) = first_repeated(wanted) {
        return Err(header(format!(
            "column `{twice}` is chosen twice: name each column once"
        )));
    }
    let mut chosen = Chosen::default();
    for name in wanted {
        let Some(place) = available.iter().position(|column| column == name) else {
            return Err(DataError::MissingColumn {
                path: path.to_path_buf(),
                column: name.clone(),
                available,
            });
        };
        if RESERVED_COLUMNS.contains(&name.as_str()) {
            return Err(header(format!(
                "the column name `{name}` is reserved: rename the column, or choose the columns to use without it"
            )));
        }
        let holds = &schema.columns[place].holds;
        if LABEL_COLUMNS.contains(&name.as_str()) {
            if let Holds::Text | Holds::Other(_) = holds {
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
        if let Holds::Numbers(_) | Holds::Lists(_) | Holds::Other(_) = holds {
            return Err(DataError::NotText {
                path: path.to_path_buf(),
                column: name.clone(),
                found: holds.to_string(),
                available,
            });
        }
        chosen.texts.push(place);
    }
    if chosen.texts.is_empty() {
        return Err(DataError::NoTextColumns {
            path: path.to_path_buf(),
            available: wanted.clone(),
        });
    }
    Ok(chosen)
}

fn first_repeated(names: &[String]) -> Option<&String> {
    names
        .iter()
        .enumerate()
        .find_map(|(i, name)| names[..i].contains(name).then_some(name))
}
