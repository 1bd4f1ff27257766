//! Nearly the same texts: those that share most of their shingles.
//!
//! A shingle is four letters that follow each other, of the text in lower case without punctuation. Documents (one text,
//! or the texts of a row) are nearly the same where they share [`LEAST_SHARE`] of all their shingles (Jaccard similarity)
//! and have the same numbers in them: texts that a template made differ in these alone. Pairs to compare are found by
//! MinHash (Broder 1997) in [`N_BANDS`] bands of [`BAND`] hashes; what is compared is then counted exactly. Of two
//! documents that share 0.8 of their shingles, the bands bring 9,998 in 10,000 together; of two that are equal, all.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use rayon::prelude::*;

use super::plain::plain;

/// Shared shingles, of all that two documents have, from which on they are nearly the same.
const LEAST_SHARE: f64 = 0.8;

/// Letters in a shingle.
const SHINGLE: usize = 4;

const N_BANDS: usize = 16;

/// Hashes in a band.
const BAND: usize = 4;

/// Earlier documents of a band that one is compared with at most: a band that holds more is one of a template.
const N_COMPARED: usize = 32;

/// A document: texts that are compared place by place.
pub(super) type Document<'t> = Vec<&'t str>;

/// Documents by the hashes of their bands.
pub(super) struct Near<'a> {
    documents: &'a [Document<'a>],
    bands: Vec<HashMap<u32, Vec<u32>>>,
}

impl<'a> Near<'a> {
    /// Documents to look for others in.
    pub(super) fn new(documents: &'a [Document<'a>]) -> Self {
        let keys: Vec<[u32; N_BANDS]> = documents
            .par_iter()
            .map(|document| bands(&shingles(document)))
            .collect();
        let mut bands = vec![HashMap::<u32, Vec<u32>>::new(); N_BANDS];
        for (i, keys) in keys.iter().enumerate() {
            for (band, key) in bands.iter_mut().zip(keys) {
                band.entry(*key).or_default().push(i as u32);
            }
        }
        Self { documents, bands }
    }

    /// For each of `documents` the first of these documents that is nearly the same, of those before its own place
    /// where `is_itself`.
    pub(super) fn find(&self, documents: &[Document<'_>], is_itself: bool) -> Vec<Option<u32>> {
        documents
            .par_iter()
            .enumerate()
            .map(|(i, document)| {
                let before = if is_itself { i as u32 } else { u32::MAX };
                self.find_one(document, before)
            })
            .collect()
    }

    fn find_one(&self, document: &[&str], before: u32) -> Option<u32> {
        let own = shingles(document);
        let own_numbers = numbers(document);
        let mut candidates = Vec::new();
        for (band, key) in self.bands.iter().zip(bands(&own)) {
            let found = band.get(&key).map_or(&[][..], Vec::as_slice);
            let found = &found[..found.partition_point(|&other| other < before)];
            candidates.extend(&found[..found.len().min(N_COMPARED)]);
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().find(|&other| {
            let other = &self.documents[other as usize];
            share(&own, &shingles(other)) >= LEAST_SHARE && own_numbers == numbers(other)
        })
    }
}

/// The shingles of a document's texts, each of its place, sorted and once each.
fn shingles(texts: &[&str]) -> Vec<u64> {
    let mut all = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        let letters: Vec<char> = plain(text).chars().collect();
        let of_place = |letters: &[char]| hash(&(place, letters));
        if letters.len() < SHINGLE {
            all.push(of_place(&letters));
        }
        all.extend(letters.windows(SHINGLE).map(of_place));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Shared shingles of all that two documents have.
fn share(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut n_shared) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        n_shared += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    n_shared as f64 / (a.len() + b.len() - n_shared).max(1) as f64
}

/// The numbers in texts, in order.
fn numbers(texts: &[&str]) -> Vec<String> {
    let digits = texts
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_numeric()));
    let digits = digits.filter(|digits| !digits.is_empty());
    digits.map(str::to_owned).collect()
}

/// The hashes of the bands: of the least hashes of all shingles under as many permutations.
fn bands(shingles: &[u64]) -> [u32; N_BANDS] {
    let mut least = [u32::MAX; N_BANDS * BAND];
    for shingle in shingles {
        // Two hashes make all others (Kirsch and Mitzenmacher 2006).
        let (mut hash, step) = (*shingle as u32, (*shingle >> 32) as u32 | 1);
        for least in &mut least {
            hash = hash.wrapping_add(step);
            // The sum alone would order all shingles alike.
            *least = (*least).min((hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d));
        }
    }
    let mut keys = [0; N_BANDS];
    for (key, band) in keys.iter_mut().zip(least.chunks_exact(BAND)) {
        *key = hash(band) as u32;
    }
    keys
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_of(texts: &[&str]) -> Vec<Option<u32>> {
        let documents: Vec<Document<'_>> = texts.iter().map(|&text| vec![text]).collect();
        Near::new(&documents).find(&documents, true)
    }

    #[test]
    fn texts_of_one_wording_are_nearly_the_same() {
        let found = first_of(&[
            "A man in a blue shirt is standing on a ladder and cleaning a window.",
            "the ferry leaves from the north pier at noon",
            "a man in a blue shirt is standing on a ladder, cleaning a window",
            "A man is cleaning a window; he has a ladder and a blue shirt on.",
            "The ferry leaves from the northern pier at noon!",
            "",
            "x",
            "X.",
        ]);
        let expected = [None, None, Some(0), None, Some(1), None, None, Some(6)];
        assert_eq!(found, expected);
    }

    #[test]
    fn texts_with_other_numbers_are_not() {
        let found = first_of(&[
            "an ordinary text of the template, number 11",
            "an ordinary text of the template, number 12",
            "an ordinary text of the template: number 11",
        ]);
        assert_eq!(found, [None, None, Some(0)]);
    }

    #[test]
    fn places_of_texts_count() {
        let rows = [
            vec!["a lazy dog", "the blue sea"],
            vec!["the blue sea", "a lazy dog"],
        ];
        let near = Near::new(&rows);
        assert_eq!(near.find(&rows, true), [None, None]);
        let again = [vec!["A lazy dog!", "The blue sea"]];
        assert_eq!(near.find(&again, false), [Some(0)]);
    }

    /// The bands bring together what the doc comment promises.
    #[test]
    fn pairs_at_the_bound_are_found() {
        let n_pairs = 2000_u64;
        let mut n_found = 0;
        for pair in 0..n_pairs {
            let shingle = |i: u64| hash(&(pair, i));
            // 36 of 45 are shared.
            let a: Vec<u64> = (0..40).map(shingle).collect();
            let b: Vec<u64> = (0..36).chain(100..105).map(shingle).collect();
            let [a_keys, b_keys] = [&a, &b].map(|shingles| bands(shingles));
            n_found += u64::from(a_keys.iter().zip(b_keys).any(|(x, y)| *x == y));
        }
        assert!(n_found >= n_pairs - 10, "{n_found} of {n_pairs}");
    }
}
