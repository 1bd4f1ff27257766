//! Folds of a data set: parts of which each is judged by what is learnt from the others.

use std::collections::HashMap;

use super::plain::Plain;
use crate::{dataset::Dataset, sampler::permutation};

/// The fold of each row, from 0. Rows that are equal but for case, punctuation and space are in one fold, so that no row
/// is judged by its own copy; apart from that folds are equally large, and drawn by `seed`.
pub fn folds(dataset: &Dataset, n_folds: usize, seed: u64) -> Vec<usize> {
    let plain = Plain::new(dataset);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<Vec<u32>, usize> = HashMap::new();
    for row in 0..plain.n_rows() {
        let group = *group_of.entry(plain.row(row)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(row);
    }
    let mut fold_of = vec![0; plain.n_rows()];
    let mut sizes = vec![0_usize; n_folds.max(1)];
    for group in permutation(groups.len(), seed) {
        let rows = &groups[group as usize];
        let smallest = (0..sizes.len())
            .min_by_key(|&fold| sizes[fold])
            .unwrap_or(0);
        sizes[smallest] += rows.len();
        rows.iter().for_each(|&row| fold_of[row] = smallest);
    }
    fold_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::TextColumn;

    #[test]
    fn folds_are_equal_and_copies_stay_together() {
        let texts: Vec<String> = (0..100).map(|i| format!("text {}", i / 2)).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts[1] = "TEXT 0!";
        let dataset = Dataset {
            name: String::new(),
            columns: vec![TextColumn {
                name: "a".to_owned(),
                texts: texts.into_iter().collect(),
            }],
            labels: None,
            classes: Vec::new(),
            n_skipped: 0,
        };
        let found = folds(&dataset, 5, 42);
        for fold in 0..5 {
            assert_eq!(found.iter().filter(|&&other| other == fold).count(), 20);
        }
        assert!(found.chunks_exact(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(found, folds(&dataset, 5, 42));
        assert_ne!(found, folds(&dataset, 5, 43));
    }
}
