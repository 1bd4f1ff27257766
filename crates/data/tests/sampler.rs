//! Batch order against sentence-transformers 6.2.0; `fixtures/make_sampler.py` wrote the figures.

// README.md quotes the times that are printed here.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use data::{
    Dataset, Labels, TextColumn, Texts,
    sampler::{
        Batch, BatchSampler, MultiDatasetBatchSampler, Seeds, check, epoch_batches,
        multi_dataset_batches, n_batches, n_multi_dataset_batches, order_version, permutation,
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
    seed: u64,
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
    seed: u64,
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
        classes: Vec::new(),
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
                fixture.seed.into(),
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
                Seeds {
                    seed: 5,
                    data_seed: Some(fixture.seed),
                },
                epoch as u64,
            );
            assert_eq!(&batches, expected, "epoch {epoch}");
            let of_seed = |seed: u64| {
                let kind = BatchSampler::BatchSampler;
                epoch_batches(
                    kind,
                    &dataset,
                    8,
                    fixture.drop_last,
                    seed.into(),
                    epoch as u64,
                )
            };
            assert_eq!(&of_seed(fixture.seed), expected);
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
            let batches = epoch_batches(
                kind,
                &dataset,
                size,
                fixture.drop_last,
                Seeds {
                    seed: fixture.seed,
                    data_seed: Some(9),
                },
                epoch as u64,
            );
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
            let batches: Vec<_> = multi_dataset_batches(
                mix,
                kind,
                &datasets,
                size,
                fixture.drop_last,
                fixture.seed.into(),
                epoch as u64,
            )
            .collect();
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
        let batches = epoch_batches(BatchSampler::NoDuplicates, &dataset, 64, false, 0.into(), 0);
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
        assert!(epoch_batches(kind, &dataset(0, 1, 1), 8, false, 42.into(), 0).is_empty());
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

// The facts of upstream's own tests: `tests/base/samplers/` of sentence-transformers. Images and hashes have no
// counterpart.

/// Rows with these labels, and a text each.
fn with_labels(labels: Vec<i64>) -> Dataset {
    let texts: Vec<String> = (0..labels.len()).map(|i| format!("row {i}")).collect();
    Dataset {
        name: "labelled".to_owned(),
        columns: vec![TextColumn {
            name: "data".to_owned(),
            texts: texts.iter().map(String::as_str).collect(),
        }],
        labels: Some(Labels::Integer(labels)),
        classes: Vec::new(),
        n_skipped: 0,
    }
}

/// Rows whose labels come as often as `sizes` says, one after the other.
fn of_sizes(sizes: &[usize]) -> Dataset {
    let labels = sizes.iter().enumerate();
    with_labels(
        labels
            .flat_map(|(label, &n)| std::iter::repeat_n(label as i64, n))
            .collect(),
    )
}

fn grouped(dataset: &Dataset, batch_size: usize, drop_last: bool) -> Vec<Vec<u32>> {
    let kind = BatchSampler::GroupByLabel;
    check(kind, dataset, batch_size).unwrap();
    let batches = epoch_batches(kind, dataset, batch_size, drop_last, 0.into(), 0);
    assert_eq!(
        n_batches(kind, dataset, batch_size, drop_last),
        batches.len(),
        "batches of {batch_size}, drop_last {drop_last}"
    );
    batches
}

/// How often each label comes in a batch.
fn counts(dataset: &Dataset, batch: &[u32]) -> Vec<usize> {
    let Some(Labels::Integer(labels)) = &dataset.labels else {
        panic!("no labels");
    };
    let mut counts = std::collections::BTreeMap::new();
    for &row in batch {
        *counts.entry(labels[row as usize]).or_insert(0) += 1;
    }
    counts.into_values().collect()
}

/// test_batch_guarantees, test_every_label_appears_at_least_twice_per_batch, test_drop_last_true_no_short_batches,
/// test_imbalanced_dataset_multi_class and test_len_matches_iteration.
#[test]
fn grouped_batches_hold_what_they_promise() {
    let by_turns = |n_labels: i64| with_labels((0..100).map(|i| i % n_labels).collect());
    for dataset in [
        by_turns(5),
        by_turns(2),
        of_sizes(&[20; 5]),
        of_sizes(&[90, 30, 20]),
        of_sizes(&[1000, 500, 3]),
        of_sizes(&[50, 45, 40, 35, 30, 25, 20, 15, 10, 5]),
    ] {
        for drop_last in [true, false] {
            let batches = grouped(&dataset, 16, drop_last);
            let (last, others) = batches.split_last().unwrap();
            assert!(others.iter().all(|batch| batch.len() == 16));
            assert!(if drop_last {
                last.len() == 16
            } else {
                last.len() <= 16
            });
            for batch in &batches {
                let counts = counts(&dataset, batch);
                assert!(
                    counts.len() >= 2 && counts.iter().all(|&n| n >= 2),
                    "{counts:?}"
                );
            }
        }
    }
}

/// test_drop_last_false_yields_remainder and test_two_labels_with_large_batch.
#[test]
fn a_last_batch_of_groups_adds_rows() {
    let dataset = with_labels((0..100).map(|i| i % 2).collect());
    let (whole, all) = (grouped(&dataset, 32, true), grouped(&dataset, 32, false));
    assert!(all.len() >= whole.len() && all.concat().len() >= whole.concat().len());
    for batch in whole {
        assert_eq!((batch.len(), counts(&dataset, &batch).len()), (32, 2));
    }
}

/// test_sample_coverage and test_minority_labels_participate.
#[test]
fn grouping_uses_nearly_all_rows_once() {
    let rows = |dataset: &Dataset, batch_size| {
        let mut rows = grouped(dataset, batch_size, false).concat();
        let n = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), n, "a row comes twice");
        rows
    };
    assert!(rows(&with_labels((0..100).map(|i| i % 5).collect()), 16).len() >= 80);
    let minority = rows(&of_sizes(&[1000, 500, 3]), 32);
    assert!(
        minority
            .iter()
            .filter(|row| (1500..1503).contains(*row))
            .count()
            >= 2
    );
}

/// test_len_matches_iteration_remainder_of_two.
#[test]
fn a_rest_of_two_rows_is_no_batch() {
    assert_eq!(grouped(&of_sizes(&[6, 4]), 6, false).len(), 1);
}

/// test_raises_on_single_label and test_raises_on_invalid_batch_size.
#[test]
fn what_can_not_be_grouped_is_refused() {
    let refused = |dataset: &Dataset, batch_size, part: &str| {
        let error = check(BatchSampler::GroupByLabel, dataset, batch_size).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(&of_sizes(&[20]), 8, "at least 2");
    refused(&of_sizes(&[50, 50]), 7, "even number");
    refused(&of_sizes(&[50, 50]), 2, "at least 4");
}

/// test_efficiency_few_imbalanced_labels and test_efficiency_many_imbalanced_labels.
#[test]
fn grouping_wastes_little_of_uneven_labels() {
    let efficiency = |sizes: &[usize]| {
        let n_rows: usize = sizes.iter().sum();
        grouped(&of_sizes(sizes), 32, true).concat().len() as f64 / n_rows as f64
    };
    assert!(efficiency(&[1250, 1223, 1162, 896, 835, 86]) >= 0.99);
    let mut many = vec![962, 464, 421, 363, 276, 274, 218, 217, 207, 191];
    many.extend((0..10).map(|i| 80 - i * 3));
    many.extend((0..10).map(|i| 20 - i));
    many.extend([4, 4, 6, 8, 9, 9, 9, 10, 11, 11]);
    assert!(efficiency(&many) >= 0.85);
}

/// Two of each of fifty texts, in an order that only looks random.
fn twos() -> Dataset {
    let texts: Vec<String> = (0..100).map(|i| format!("{}", i * 37 % 100 / 2)).collect();
    let mut dataset = with_labels((0..100).map(|i| i % 2).collect());
    dataset.columns[0].texts = texts.iter().map(String::as_str).collect();
    dataset
}

/// test_group_by_label_batch_sampler_label_a, which is of no_duplicates.
#[test]
fn no_duplicates_has_none() {
    let dataset = twos();
    let batches = epoch_batches(BatchSampler::NoDuplicates, &dataset, 10, true, 0.into(), 0);
    assert!(!batches.is_empty());
    for batch in batches {
        let mut texts: Vec<&str> = batch
            .iter()
            .map(|&row| dataset.columns[0].texts.get(row as usize).unwrap())
            .collect();
        assert_eq!(texts.len(), 10);
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 10);
    }
}

/// test_no_duplicates_batch_sampler_matches_reference_algorithm: the walk as upstream first wrote it.
#[test]
fn no_duplicates_is_the_plain_walk() {
    let dataset = twos();
    for drop_last in [true, false] {
        let mut remaining = permutation(100, 1337);
        let mut expected = Vec::new();
        while !remaining.is_empty() {
            let (mut batch, mut seen) = (Vec::new(), Vec::new());
            for &row in &remaining {
                let text = dataset.columns[0].texts.get(row as usize).unwrap();
                if batch.len() < 10 && !seen.contains(&text) {
                    batch.push(row);
                    seen.push(text);
                }
            }
            remaining.retain(|row| !batch.contains(row));
            if batch.len() == 10 || !drop_last {
                expected.push(batch);
            }
        }
        // Seed 0 and epoch 1337 are seed 1337.
        let found = epoch_batches(
            BatchSampler::NoDuplicates,
            &dataset,
            10,
            drop_last,
            0.into(),
            1337,
        );
        assert_eq!(found, expected);
    }
}

/// Rows of two texts only, `first` of one pair and `second` of another.
fn two_pairs(first: usize, second: usize) -> Dataset {
    let column = |name: &str| TextColumn {
        name: name.to_owned(),
        texts: std::iter::repeat_n(format!("{name}_1"), first)
            .chain(std::iter::repeat_n(format!("{name}_2"), second))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect(),
    };
    Dataset {
        name: "pairs".to_owned(),
        columns: vec![column("anchor"), column("positive")],
        labels: None,
        classes: Vec::new(),
        n_skipped: 0,
    }
}

/// test_proportional_no_duplicates.
#[test]
fn proportional_goes_on_when_a_set_falls_short() {
    let dataset = two_pairs(10, 8);
    for (drop_last, n_expected, n_rows) in [(true, 18, 36), (false, 18, 34)] {
        let batches: Vec<_> = multi_dataset_batches(
            MultiDatasetBatchSampler::Proportional,
            BatchSampler::NoDuplicates,
            &[&dataset, &dataset],
            2,
            drop_last,
            12.into(),
            0,
        )
        .collect();
        assert_eq!(batches.len(), n_expected);
        assert_eq!(
            batches.iter().map(|batch| batch.rows.len()).sum::<usize>(),
            n_rows
        );
        assert!(!drop_last || batches.iter().all(|batch| batch.rows.len() == 2));
    }
}

/// test_no_duplicates_batch_sampler_does_not_truncate_when_first_pass_exceeds_len,
/// ..._unique_data_matches_len_without_resample and ..._cannot_form_batch_does_not_loop_forever.
#[test]
fn no_duplicates_may_have_more_or_fewer_batches_than_it_promises() {
    let kind = BatchSampler::NoDuplicates;
    let more = two_pairs(12, 8);
    assert!(
        epoch_batches(kind, &more, 2, false, 0.into(), 0).len() > n_batches(kind, &more, 2, false)
    );
    let unique = of_sizes(&[10]);
    let batches = epoch_batches(kind, &unique, 2, true, 0.into(), 0);
    assert_eq!((batches.len(), n_batches(kind, &unique, 2, true)), (5, 5));
    let mut rows = batches.concat();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..10));
    let same = two_pairs(10, 0);
    assert_eq!(
        epoch_batches(kind, &same, 2, true, 0.into(), 0),
        Vec::<Vec<u32>>::new()
    );
    assert_eq!(n_batches(kind, &same, 2, true), 5);
}

/// test_round_robin_batch_sampler and test_round_robin_batch_sampler_stops_at_advertised_length.
#[test]
fn round_robin_takes_turns_until_one_set_is_done() {
    let mix = MultiDatasetBatchSampler::RoundRobin;
    let kind = BatchSampler::BatchSampler;
    let round = |sizes: [usize; 2]| {
        let [first, second] = sizes.map(|n| of_sizes(&[n]));
        let both = [&first, &second];
        let batches = multi_dataset_batches(mix, kind, &both, 4, true, 42.into(), 0);
        let batches: Vec<_> = batches.collect();
        (n_multi_dataset_batches(mix, kind, &both, 4, true), batches)
    };
    let (n_promised, batches) = round([25, 50]);
    assert_eq!((n_promised, batches.len()), (12, 12));
    for (i, batch) in batches.iter().enumerate() {
        assert_eq!(batch.dataset, i % 2);
        assert_eq!(batch.rows.len(), 4);
    }
    let (n_promised, batches) = round([20, 12]);
    assert_eq!((n_promised, batches.len()), (6, 6));
}

/// A row that is left over with its label is another one in each epoch, and the same label does not come in two pairs
/// that follow each other in a batch.
#[test]
fn odd_groups_leave_out_another_row_each_epoch() {
    let kind = BatchSampler::GroupByLabel;
    let dataset = of_sizes(&[5, 5]);
    let rows = |epoch| {
        let mut rows = epoch_batches(kind, &dataset, 4, false, 42.into(), epoch).concat();
        rows.sort_unstable();
        rows
    };
    let all: std::collections::BTreeSet<Vec<u32>> = (0..8).map(rows).collect();
    assert!(all.len() > 2, "{all:?}");
    assert!(all.iter().all(|rows| rows.len() == 8));

    let dataset = of_sizes(&[20; 5]);
    for epoch in 0..8 {
        for batch in epoch_batches(kind, &dataset, 16, false, 42.into(), epoch) {
            let labels: Vec<u32> = batch.chunks(2).map(|pair| pair[0] / 20).collect();
            assert!(labels.windows(2).all(|two| two[0] != two[1]), "{labels:?}");
        }
    }
}

/// A checkpoint knows which of the orders it has that 6.2.0 changed.
#[test]
fn the_order_has_a_version() {
    let plain = BatchSampler::BatchSampler;
    let proportional = Some(MultiDatasetBatchSampler::Proportional);
    let round_robin = Some(MultiDatasetBatchSampler::RoundRobin);
    for (kind, mix, data_seed, expected) in [
        (plain, None, None, 1),
        (plain, None, Some(7), 1),
        (plain, proportional, None, 1),
        (plain, proportional, Some(42), 1),
        (plain, proportional, Some(7), 2),
        (plain, round_robin, None, 2),
        (BatchSampler::NoDuplicates, None, None, 2),
        (BatchSampler::GroupByLabel, proportional, None, 2),
    ] {
        let seeds = Seeds {
            seed: 42,
            data_seed,
        };
        assert_eq!(
            order_version(kind, mix, seeds),
            expected,
            "{kind:?} {mix:?}"
        );
    }
}
