//! Tables of the page.

use serde::Serialize;

/// A table of texts. The page lets readers sort it by each column.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    /// Caption, empty for none.
    pub caption: String,
    /// Headers of the columns.
    pub header: Vec<String>,
    /// Rows, as long as the header.
    pub rows: Vec<Vec<String>>,
    /// Whether each column holds numbers, which are aligned to the right.
    pub numeric: Vec<bool>,
}

impl Table {
    /// A table with these headers.
    pub fn new(caption: impl Into<String>, header: &[&str]) -> Self {
        Self {
            caption: caption.into(),
            header: header.iter().map(|&name| name.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Determines which columns hold numbers: those of whose non-empty cells all begin like one.
    #[must_use]
    pub fn finished(mut self) -> Self {
        let is_number = |text: &str| {
            let start = text.trim_start_matches(['+', '-', '−']);
            start.starts_with(|c: char| c.is_ascii_digit())
        };
        self.numeric = (0..self.header.len())
            .map(|column| {
                let mut cells = self
                    .rows
                    .iter()
                    .map(|row| row[column].as_str())
                    .filter(|text| !text.is_empty())
                    .peekable();
                cells.peek().is_some() && cells.all(is_number)
            })
            .collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_are_found() {
        let mut table = Table::new("", &["metric", "change", "none"]);
        table.push(vec!["a".to_owned(), "+0.5".to_owned(), String::new()]);
        table.push(vec!["2b".to_owned(), "−1 %".to_owned(), String::new()]);
        assert_eq!(table.finished().numeric, [false, true, false]);
    }
}
