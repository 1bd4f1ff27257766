//! The facts of sentence-transformers' `tests/util/test_quantization.py` and `test_retrieval.py` that concern
//! what is here, as of 6.0.1.

use std::ops::ControlFlow;

use search::{
    Embeddings, Precision, Quantized, Ranges, SearchOptions, Similarity, quantize_embeddings,
    semantic_search,
};

/// Numbers that look random: no generator is needed for facts about shapes and orders.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn bytes(quantized: Quantized) -> Vec<i16> {
    match quantized {
        Quantized::Int8(values) => values.into_iter().map(i16::from).collect(),
        Quantized::Uint8(values) => values.into_iter().map(i16::from).collect(),
        Quantized::Float32(values) => panic!("{values:?} are no bytes"),
    }
}

#[test]
fn bits_of_any_dimension_are_packed_row_by_row() {
    for precision in [Precision::Binary, Precision::Ubinary] {
        for (n_rows, dimension, width) in [
            (4, 10, 2),
            (3, 10, 2),
            (5, 12, 2),
            (4, 8, 1),
            (2, 16, 2),
            (3, 24, 3),
        ] {
            let values = numbers(n_rows * dimension, 1);
            let embeddings = Embeddings::new(&values, dimension).unwrap();
            let quantized = quantize_embeddings(embeddings, precision, None).unwrap();
            let is_signed = matches!(quantized, Quantized::Int8(_));
            assert_eq!(is_signed, precision == Precision::Binary);
            assert_eq!(
                bytes(quantized).len(),
                n_rows * width,
                "{precision}, {dimension}"
            );
        }
    }
}

#[test]
fn a_row_of_ones_leaves_the_next_alone() {
    let values = [[1.0; 8], [-1.0; 8]].concat();
    let embeddings = Embeddings::new(&values, 8).unwrap();
    for (precision, expected) in [
        (Precision::Binary, [127, -128]),
        (Precision::Ubinary, [255, 0]),
    ] {
        let quantized = quantize_embeddings(embeddings, precision, None).unwrap();
        assert_eq!(bytes(quantized), expected, "{precision}");
    }
}

#[test]
fn values_beyond_the_calibration_get_the_ends() {
    let calibration = [1.0, 20.0, -3.0, 4.0, 5.0, -60.0];
    let ranges = Ranges::of(Embeddings::new(&calibration, 3).unwrap()).unwrap();
    let embeddings = Embeddings::new(&[-1.0, 15.0, 1.0], 3).unwrap();
    for (precision, expected) in [
        (Precision::Int8, [-128, 42, 127]),
        (Precision::Uint8, [0, 170, 255]),
    ] {
        let quantized = quantize_embeddings(embeddings, precision, Some(&ranges)).unwrap();
        assert_eq!(bytes(quantized), expected, "{precision}");
    }
}

#[test]
fn search_in_chunks_finds_the_nearest_of_all() {
    let (n_queries, n_documents, dimension, top_k) = (20, 1000, 100, 10);
    let queries = numbers(n_queries * dimension, 2);
    let corpus = numbers(n_documents * dimension, 3);
    let queries = Embeddings::new(&queries, dimension).unwrap();
    let corpus = Embeddings::new(&corpus, dimension).unwrap();
    let options = SearchOptions {
        top_k,
        similarity: Similarity::Cosine,
        query_chunk_size: 5,
        corpus_chunk_size: 17,
    };
    let hits = semantic_search(
        queries,
        corpus,
        &options,
        &mut |_| ControlFlow::Continue(()),
    );
    let hits = hits.unwrap();
    assert_eq!(hits.len(), n_queries);
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    for (query, hits) in queries.rows().zip(hits) {
        let scores: Vec<f64> = corpus
            .rows()
            .map(|document| cosine(query, document))
            .collect();
        let mut order: Vec<usize> = (0..n_documents).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let found: Vec<usize> = hits.iter().map(|hit| hit.corpus_id as usize).collect();
        assert_eq!(found, order[..top_k]);
        for hit in hits {
            assert!((f64::from(hit.score) - scores[hit.corpus_id as usize]).abs() < 1e-6);
        }
    }
}

#[test]
fn an_empty_corpus_has_no_hits() {
    let queries = numbers(2 * 16, 4);
    let hits = semantic_search(
        Embeddings::new(&queries, 16).unwrap(),
        Embeddings::new(&[], 16).unwrap(),
        &SearchOptions::default(),
        &mut |_| ControlFlow::Continue(()),
    );
    assert_eq!(hits.unwrap(), [[], []]);
}

#[test]
fn nothing_is_quantised_to_nothing() {
    let nothing = Embeddings::new(&[], 16).unwrap();
    for precision in [
        Precision::Int8,
        Precision::Uint8,
        Precision::Binary,
        Precision::Ubinary,
    ] {
        let quantized = quantize_embeddings(nothing, precision, None).unwrap();
        assert_eq!(bytes(quantized), [], "{precision}");
    }
}
