//! Rows and texts that two data sets share.

use std::collections::HashSet;

use crate::dataset::Dataset;

/// The part of a data set that is in others too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Rows whose texts are those of a row of the others, in the same order; labels don't count.
    pub n_rows: usize,
    /// Distinct texts that are among the others' texts, in whatever column.
    pub n_texts: usize,
    /// Distinct texts of the data set.
    pub n_all_texts: usize,
}

/// The part of `dataset` that is in `others` too.
pub fn overlap(others: &[&Dataset], dataset: &Dataset) -> Overlap {
    let texts_of = |dataset| -> HashSet<&str> { texts(dataset).collect() };
    let all = texts_of(dataset);
    let mut shared: HashSet<&str> = HashSet::new();
    for other in others {
        shared.extend(texts(other).filter(|text| all.contains(text)));
    }
    // Only rows of shared texts can be shared, which are few.
    let candidates =
        |dataset| rows(dataset).filter(|row| row.iter().all(|text| shared.contains(text)));
    let known: HashSet<Vec<&str>> = others.iter().flat_map(|other| candidates(other)).collect();
    Overlap {
        n_rows: candidates(dataset)
            .filter(|row| known.contains(row))
            .count(),
        n_texts: shared.len(),
        n_all_texts: all.len(),
    }
}

fn texts(dataset: &Dataset) -> impl Iterator<Item = &str> {
    dataset
        .columns
        .iter()
        .flat_map(|column| column.texts.iter())
}

fn rows(dataset: &Dataset) -> impl Iterator<Item = Vec<&str>> {
    (0..dataset.n_rows()).map(|row| {
        let columns = dataset.columns.iter();
        columns.filter_map(|column| column.texts.get(row)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::TextColumn;

    fn dataset(columns: [&[&str]; 2]) -> Dataset {
        let columns = columns.map(|texts| TextColumn {
            name: String::new(),
            texts: texts.iter().copied().collect(),
        });
        Dataset {
            name: String::new(),
            columns: columns.into(),
            labels: None,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    #[test]
    fn equal_rows_and_texts_are_counted() {
        let one = dataset([&["a", "c"], &["b", "d"]]);
        let two = dataset([&["e"], &["f"]]);
        let test = dataset([&["a", "c", "b", "e", "x"], &["b", "x", "a", "f", "x"]]);
        let found = overlap(&[&one, &two], &test);
        assert_eq!(
            found,
            Overlap {
                n_rows: 2,
                n_texts: 5,
                n_all_texts: 6
            }
        );
        assert_eq!(overlap(&[], &test).n_texts, 0);
    }
}
