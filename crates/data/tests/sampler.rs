//! Batch order against sentence-transformers 6.0.1; `fixtures/make_sampler.py` wrote the figures.

// README.md quotes the times that are printed here.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use data::{
    Dataset, Labels, TextColumn, Texts,
    sampler::{
        Batch, BatchSampler, MultiDatasetBatchSampler, check, epoch_batches, multi_dataset_batches,
        n_batches, n_multi_dataset_batches, permutation,
    },
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixtures {
    permutations: Vec<Permutation>,
    no_duplicates: Vec<NoDuplicates>,
    default: Vec<Default>,
    group_by_label: Vec<GroupByLabel>,
    multi_dataset: Vec<MultiDataset>,
}

#[derive(Deserialize)]
struct GroupByLabel {
    n: usize,
    n_labels: i64,
    batch_size: usize,
    drop_last: bool,
    n_batches: usize,
    epochs: Vec<Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
struct MultiDataset {
    mix: MultiDatasetBatchSampler,
    kind: BatchSampler,
    sizes: Vec<usize>,
    batch_size: usize,
    drop_last: bool,
    seed: u64,
    n_batches: usize,
    epochs: Vec<Vec<(usize, Vec<u32>)>>,
}

#[derive(Deserialize)]
struct Permutation {
    n: usize,
    seed: u64,
    order: Vec<u32>,
}

#[derive(Deserialize)]
struct NoDuplicates {
    n: usize,
    n_anchors: usize,
    n_texts: usize,
    batch_size: usize,
    drop_last: bool,
    n_batches_upper_bound: usize,
    epochs: Vec<Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
struct Default {
    n: usize,
    batch_size: usize,
    drop_last: bool,
    seed: u64,
    n_batches_upper_bound: usize,
    epochs: Vec<Vec<Vec<u32>>>,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("fixtures/sampler.json")).unwrap()
}

/// The data set that `rows` in make_sampler.py makes.
fn dataset(n: usize, n_anchors: usize, n_texts: usize) -> Dataset {
    let text = |i: usize| format!("text {}", (i * i * 7 + i) % n_texts);
    let column = |name: &str, text: &dyn Fn(usize) -> String| {
        let mut texts = Texts::with_capacity(n, 0);
        (0..n).for_each(|i| texts.push(&text(i)));
        TextColumn {
            name: name.to_owned(),
            texts,
        }
    };
    Dataset {
        name: "made".to_owned(),
        columns: vec![
            column("anchor", &|i| {
                format!("anchor {}", (i * 5 + i / 3) % n_anchors)
            }),
            column("positive", &text),
            column("negative", &|i| match i % 17 {
                0 => format!("anchor {}", i % n_anchors),
                _ => text(n + i),
            }),
        ],
        labels: Some(Labels::Integer((0..n as i64).map(|i| i % 2).collect())),
        n_skipped: 0,
    }
}

#[test]
fn permutations_are_torchs() {
    for fixture in fixtures().permutations {
        assert_eq!(
            permutation(fixture.n, fixture.seed),
            fixture.order,
            "n {} seed {}",
            fixture.n,
            fixture.seed
        );
    }
}

/// torch.randperm(100_000, generator=torch.Generator().manual_seed(seed))[:8]
#[test]
fn long_permutations_are_torchs() {
    let first: [(u64, &[u32]); 3] = [
        (
            42,
            &[37542, 60279, 68544, 70051, 15790, 14785, 72904, 31383],
        ),
        (43, &[55588, 24349, 73215, 28800]),
        (44, &[19732, 71061, 4861, 75820]),
    ];
    for (seed, expected) in first {
        let mut permutation = permutation(100_000, seed);
        assert_eq!(&permutation[..expected.len()], expected, "seed {seed}");
        permutation.sort_unstable();
        assert!(permutation.into_iter().eq(0..100_000));
    }
}

#[test]
fn no_duplicates_walks_as_upstream() {
    for fixture in fixtures().no_duplicates {
        let dataset = dataset(fixture.n, fixture.n_anchors, fixture.n_texts);
        assert_eq!(
            n_batches(
                BatchSampler::NoDuplicates,
                &dataset,
                fixture.batch_size,
                fixture.drop_last
            ),
            fixture.n_batches_upper_bound
        );
        for (epoch, expected) in fixture.epochs.iter().enumerate() {
            let batches = epoch_batches(
                BatchSampler::NoDuplicates,
                &dataset,
                fixture.batch_size,
                fixture.drop_last,
                // Upstream's trainer does not hand its seed on; neither does this.
                42,
                epoch as u64,
            );
            assert_eq!(
                &batches, expected,
                "{} rows in batches of {}, epoch {epoch}",
                fixture.n, fixture.batch_size
            );
        }
    }
}

#[test]
fn default_order_is_upstreams_over_epochs() {
    for fixture in fixtures().default {
        let dataset = dataset(fixture.n, 10, 10);
        assert_eq!(
            n_batches(
                BatchSampler::BatchSampler,
                &dataset,
                fixture.batch_size,
                fixture.drop_last
            ),
            fixture.n_batches_upper_bound
        );
        for (epoch, expected) in fixture.epochs.iter().enumerate() {
            let batches = epoch_batches(
                BatchSampler::BatchSampler,
                &dataset,
                fixture.batch_size,
                fixture.drop_last,
                fixture.seed,
                epoch as u64,
            );
            assert_eq!(&batches, expected, "epoch {epoch}");
        }
    }
}

/// The data set that `labelled` in make_sampler.py makes.
fn labelled(n: usize, n_labels: i64) -> Dataset {
    Dataset {
        labels: Some(Labels::Integer(
            (0..n as i64).map(|i| i * i % n_labels).collect(),
        )),
        ..dataset(n, 9, 40)
    }
}

#[test]
fn labels_take_turns_as_upstream() {
    for fixture in fixtures().group_by_label {
        let dataset = labelled(fixture.n, fixture.n_labels);
        let (kind, size) = (BatchSampler::GroupByLabel, fixture.batch_size);
        check(kind, &dataset, size).unwrap();
        assert_eq!(
            n_batches(kind, &dataset, size, fixture.drop_last),
            fixture.n_batches
        );
        for (epoch, expected) in fixture.epochs.iter().enumerate() {
            let batches = epoch_batches(kind, &dataset, size, fixture.drop_last, 42, epoch as u64);
            assert_eq!(&batches, expected, "{} rows, epoch {epoch}", fixture.n);
        }
    }
}

#[test]
fn data_sets_are_mixed_as_upstream() {
    for fixture in fixtures().multi_dataset {
        let datasets: Vec<Dataset> = fixture.sizes.iter().map(|&n| labelled(n, 7)).collect();
        let datasets: Vec<&Dataset> = datasets.iter().collect();
        let (mix, kind, size) = (fixture.mix, fixture.kind, fixture.batch_size);
        assert_eq!(
            n_multi_dataset_batches(mix, kind, &datasets, size, fixture.drop_last),
            fixture.n_batches
        );
        for (epoch, expected) in fixture.epochs.iter().enumerate() {
            let batches = multi_dataset_batches(
                mix,
                kind,
                &datasets,
                size,
                fixture.drop_last,
                fixture.seed,
                epoch as u64,
            );
            let found: Vec<(usize, Vec<u32>)> = batches
                .into_iter()
                .map(|Batch { dataset, rows }| (dataset, rows))
                .collect();
            assert_eq!(&found, expected, "{mix:?} {kind:?}, epoch {epoch}");
        }
    }
}

#[test]
fn grouping_says_what_it_needs() {
    let kind = BatchSampler::GroupByLabel;
    let unlabelled = Dataset {
        labels: None,
        ..dataset(20, 9, 40)
    };
    for (dataset, batch_size, needs) in [
        (&unlabelled, 8, "no label column"),
        (&labelled(20, 7), 7, "an even number of at least 4"),
        (&labelled(20, 7), 2, "an even number of at least 4"),
        (&labelled(20, 1), 8, "1 labels have two rows"),
    ] {
        let message = check(kind, dataset, batch_size).unwrap_err().to_string();
        assert!(message.contains(needs), "{message}");
    }
    assert!(check(BatchSampler::NoDuplicates, &unlabelled, 7).is_ok());
}

/// 500,000 rows that all share their anchor, and 500,000 with two anchors by turns: the literal
/// walk would look at 125 thousand million rows.
#[test]
fn many_duplicates_do_not_take_quadratic_time() {
    for n_anchors in [1, 2, 100_000] {
        let dataset = dataset(500_000, n_anchors, 1_000_003);
        let start = Instant::now();
        let batches = epoch_batches(BatchSampler::NoDuplicates, &dataset, 64, false, 0, 0);
        let seconds = start.elapsed();
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 500_000);
        assert!(seconds < Duration::from_secs(30), "{seconds:?}");
        println!(
            "{n_anchors} anchors: {} batches, {seconds:?}",
            batches.len()
        );
    }
}

#[test]
fn no_rows_make_no_batches() {
    for kind in [
        BatchSampler::BatchSampler,
        BatchSampler::NoDuplicates,
        BatchSampler::GroupByLabel,
    ] {
        assert!(epoch_batches(kind, &dataset(0, 1, 1), 8, false, 42, 0).is_empty());
    }
}

#[test]
fn names_are_sentence_transformers() {
    let names = serde_json::to_string(&[
        BatchSampler::BatchSampler,
        BatchSampler::NoDuplicates,
        BatchSampler::GroupByLabel,
    ]);
    assert_eq!(
        names.unwrap(),
        r#"["batch_sampler","no_duplicates","group_by_label"]"#
    );
}
