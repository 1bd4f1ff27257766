//! Paraphrase mining: how well the most similar pairs of a set are its known duplicates.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use search::Similarity;
use tch::Tensor;

use crate::{
    csv::{self, CsvTable},
    entry::{Columns, Entry, Holds, Needs, Prepared, Reader, Table, TableColumn, TableNeeds},
    error::EvalError,
    evaluator::{Evaluator, Inputs},
    metrics::Metrics,
    options::{Flag, Options, parses},
    rows::RowFigures,
    similarity::{TensorSimilarity, to_vec},
};

/// Average precision and best F1 of the mined pairs, by falling cosine; pairs of equal cosine count as
/// one step.
///
/// # Keys
///
/// The primary one `{name}_average_precision`, then `{name}_f1`, `{name}_precision`,
/// `{name}_recall` and `{name}_threshold`, the last three at the best F1. CSV:
/// `paraphrase_mining_evaluation_{name}_results.csv`.
///
/// Upstream file: `sentence_transformer/evaluation/paraphrase_mining.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct ParaphraseMiningEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// How pairs are mined.
    pub mining: Mining,
    rows: usize,
    duplicates: HashSet<(usize, usize)>,
}

/// How many pairs are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mining {
    /// For each text, the most similar others that are taken.
    pub top_k: usize,
    /// The most pairs in all.
    pub max_pairs: usize,
    /// Texts whose neighbours are sought at once.
    pub query_chunk_size: usize,
    /// Texts that they are compared with at once.
    pub corpus_chunk_size: usize,
}

/// Two texts and their cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Cosine of the two embeddings.
    pub score: f64,
    /// Row of the first text.
    pub first: usize,
    /// Row of the second, greater than the first.
    pub second: usize,
}

const NAME: &str = "ParaphraseMiningEvaluator";
const HEADING: &str = "Paraphrase mining";

static DUPLICATES: Flag = Flag::new(
    "duplicates",
    "FILE",
    "Pairs of ids that are known duplicates, for paraphrase-mining in the sentences",
)
.below(HEADING);

static DUPLICATES_COLUMNS: Flag = Flag::new(
    "duplicates-columns",
    "ID1,ID2",
    "Its two columns [default: id1,id2 or qid1,qid2]",
)
.below(HEADING)
.list()
.requiring("duplicates");

static TRANSITIVE: Flag = Flag::switch(
    "add-transitive-closure",
    "Count duplicates of duplicates too",
)
.below(HEADING);

static TOP_K: Flag = Flag::new(
    "top-k",
    "N",
    "Most similar sentences that are looked at for each [default: 100]",
)
.below(HEADING)
.checked(parses::<usize>);

static MAX_PAIRS: Flag = Flag::new(
    "max-pairs",
    "N",
    "Pairs that are looked at in all [default: 500000]",
)
.below(HEADING)
.checked(parses::<usize>);

pub(crate) static ENTRY: Entry = Entry {
    name: "paraphrase-mining",
    unit: "sentences",
    sides: &[],
    flags: &[
        &DUPLICATES,
        &DUPLICATES_COLUMNS,
        &TRANSITIVE,
        &TOP_K,
        &MAX_PAIRS,
    ],
    needs: Needs::Tables(TableNeeds {
        tables: &[
            Table {
                flag: None,
                columns_flag: None,
                words: "an id and a sentence a row",
                columns: &[
                    TableColumn::unique(&["id", "_id", "qid", "sid"]),
                    TableColumn::new(&["sentence", "text", "question"], Holds::Text),
                ],
            },
            Table {
                flag: Some(&DUPLICATES),
                columns_flag: Some(&DUPLICATES_COLUMNS),
                words: "the ids of two sentences that mean the same a row",
                columns: &[
                    TableColumn::new(&["id1", "qid1", "sid1"], Holds::Id),
                    TableColumn::new(&["id2", "qid2", "sid2"], Holds::Id),
                ],
            },
        ],
        named_by: 0,
        build: prepare,
    }),
};

fn prepare(name: &str, options: &Options, tables: Vec<Columns>) -> Result<Prepared, EvalError> {
    let [mut sentences, mut pairs] = Reader::of::<2>(NAME, tables)?;
    let (ids, texts) = (sentences.texts()?, sentences.texts()?);
    let duplicates: Vec<(String, String)> =
        pairs.texts()?.into_iter().zip(pairs.texts()?).collect();
    let transitive = options.has(TRANSITIVE.name);
    let mut evaluator = ParaphraseMiningEvaluator::new(name, &ids, &duplicates, transitive);
    let mining = &mut evaluator.mining;
    mining.top_k = options.one(TOP_K.name)?.unwrap_or(mining.top_k);
    mining.max_pairs = options.one(MAX_PAIRS.name)?.unwrap_or(mining.max_pairs);
    Ok(Prepared {
        evaluator: Box::new(evaluator),
        counts: vec![(texts.len(), "sentences")],
        texts: vec![texts],
    })
}
const METRICS: [&str; 5] = [
    "average_precision",
    "f1",
    "precision",
    "recall",
    "threshold",
];
const CSV_METRICS: [&str; 5] = [
    "precision",
    "recall",
    "f1",
    "threshold",
    "average_precision",
];

impl Default for Mining {
    /// 100 neighbours, 500,000 pairs, in chunks of 5,000 and 100,000.
    fn default() -> Self {
        Self {
            top_k: 100,
            max_pairs: 500_000,
            query_chunk_size: 5_000,
            corpus_chunk_size: 100_000,
        }
    }
}

impl ParaphraseMiningEvaluator {
    /// An evaluator for texts with these ids and pairs of ids that are known duplicates; pairs with
    /// other ids are left out. With `transitive`, duplicates of duplicates count too.
    pub fn new(
        name: &str,
        ids: &[String],
        duplicates: &[(String, String)],
        transitive: bool,
    ) -> Self {
        let rows: HashMap<&str, usize> = ids
            .iter()
            .enumerate()
            .map(|(row, id)| (id.as_str(), row))
            .collect();
        let row_of = |id: &String| rows.get(id.as_str()).copied();
        let known = duplicates
            .iter()
            .filter_map(|(a, b)| Some((row_of(a)?, row_of(b)?)));
        let mut pairs: HashSet<(usize, usize)> = known.map(|(a, b)| (a.min(b), a.max(b))).collect();
        if transitive {
            pairs = closure(ids.len(), &pairs);
        }
        Self {
            name: name.to_owned(),
            mining: Mining::default(),
            rows: ids.len(),
            duplicates: pairs,
        }
    }
}

impl Evaluator for ParaphraseMiningEvaluator {
    /// Takes embeddings of the texts, `[texts, dimension]`, in the order of the ids.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let [embeddings] = inputs.columns(NAME)?;
        let shape = embeddings.size();
        if shape.len() != 2 || shape[0] != self.rows as i64 {
            let rows = self.rows;
            let problem =
                format!("embeddings have shape {shape:?}, but [{rows}, dimension] is needed");
            return Err(EvalError::inputs(NAME, problem));
        }
        let pairs = mine(embeddings, &self.mining)?;
        let total = self.duplicates.len() as f64;
        let (mut extracted, mut correct, mut precisions) = (0, 0.0, 0.0);
        let [mut f1, mut precision, mut recall, mut threshold] = [0.0; 4];
        for group in pairs.chunk_by(|a, b| a.score == b.score) {
            let is_known = |pair: &&Pair| self.duplicates.contains(&(pair.first, pair.second));
            let gained = group.iter().filter(is_known).count() as f64;
            extracted += group.len();
            if gained == 0.0 {
                continue;
            }
            correct += gained;
            let precision_here = correct / extracted as f64;
            let recall_here = correct / total;
            let f1_here = 2.0 * precision_here * recall_here / (precision_here + recall_here);
            precisions += precision_here * gained;
            if f1_here > f1 {
                let last = &pairs[extracted - 1];
                let next = pairs.get(extracted).unwrap_or(last);
                (f1, precision, recall) = (f1_here, precision_here, recall_here);
                threshold = (last.score + next.score) / 2.0;
            }
        }
        let average = if total > 0.0 { precisions / total } else { 0.0 };
        let figures = [average, f1, precision, recall, threshold];
        let entries = METRICS
            .map(str::to_owned)
            .into_iter()
            .zip(figures)
            .collect();
        Ok(Metrics::new(&self.name, METRICS[0], entries))
    }

    /// Pairs are no rows that could be drawn anew.
    fn rows(&self, _: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        Ok(None)
    }

    fn csv(&self) -> CsvTable {
        let columns = CSV_METRICS.map(|metric| (metric.to_owned(), metric.to_owned()));
        let file = csv::file_name("paraphrase_mining_evaluation", &self.name);
        CsvTable::new(file, &self.name, columns)
    }
}

/// The most similar pairs of rows of `[n, dimension]` by cosine, best first, each pair once.
///
/// Source: `paraphrase_mining_embeddings` in `sentence_transformers/util/retrieval.py`.
///
/// # Errors
/// Where libtorch fails.
pub fn mine(embeddings: &Tensor, how: &Mining) -> Result<Vec<Pair>, EvalError> {
    let embeddings = embeddings.f_detach()?;
    let rows = embeddings.size().first().copied().unwrap_or(0);
    let queries = how.query_chunk_size.max(1) as i64;
    let mut heap: BinaryHeap<Reverse<Candidate>> = BinaryHeap::new();
    let mut queued: HashSet<(usize, usize)> = HashSet::new();
    let mut lowest = f64::NEG_INFINITY;
    for first_row in (0..rows).step_by(queries as usize) {
        let part = embeddings.f_narrow(0, first_row, queries.min(rows - first_row))?;
        let (values, places) = nearest(&part, &embeddings, how)?;
        let k = values.size()[1] as usize;
        let (values, places) = (to_vec(&values)?, to_vec(&places)?);
        let cells = values.chunks(k).zip(places.chunks(k));
        for (i, (scores, places)) in (first_row as usize..).zip(cells) {
            let others = scores
                .iter()
                .zip(places)
                .map(|(score, j)| (*score, *j as usize));
            for (score, j) in others.filter(|(_, j)| *j != i).take(how.top_k) {
                let (first, second) = (i.min(j), i.max(j));
                if score <= lowest || !queued.insert((first, second)) {
                    continue;
                }
                heap.push(Reverse(Candidate {
                    score,
                    first,
                    second,
                }));
                if heap.len() > how.max_pairs
                    && let Some(Reverse(worst)) = heap.pop()
                {
                    queued.remove(&(worst.first, worst.second));
                    lowest = worst.score;
                }
            }
        }
    }
    let pair = |Reverse(candidate): Reverse<Candidate>| Pair {
        score: candidate.score,
        first: candidate.first,
        second: candidate.second,
    };
    // Ascending by `Reverse`, so the best first.
    Ok(heap.into_sorted_vec().into_iter().map(pair).collect())
}

/// The cosines and the places of the rows of `all` that are nearest to each row of `part`, best first:
/// one more than asked for, since a text is nearest to itself.
fn nearest(part: &Tensor, all: &Tensor, how: &Mining) -> Result<(Tensor, Tensor), EvalError> {
    let (rows, chunk) = (all.size()[0], how.corpus_chunk_size.max(1) as i64);
    let k = how.top_k as i64 + 1;
    let mut best: Option<(Tensor, Tensor)> = None;
    for first in (0..rows).step_by(chunk as usize) {
        let others = all.f_narrow(0, first, chunk.min(rows - first))?;
        let scores = Similarity::Cosine.matrix(part, &others)?;
        let (values, places) = scores.f_topk(k.min(scores.size()[1]), 1, true, true)?;
        let places = places.f_add_scalar(first)?;
        best = Some(match best {
            None => (values, places),
            Some((best_values, best_places)) => {
                let values = Tensor::f_cat(&[best_values, values], 1)?;
                let places = Tensor::f_cat(&[best_places, places], 1)?;
                let (values, chosen) = values.f_topk(k.min(values.size()[1]), 1, true, true)?;
                (values, places.f_gather(1, &chosen, false)?)
            }
        });
    }
    best.ok_or_else(|| EvalError::inputs(NAME, "there are no texts"))
}

/// A pair in the queue of candidates, worst first; equal scores go by row.
#[derive(PartialEq)]
struct Candidate {
    score: f64,
    first: usize,
    second: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score
            .total_cmp(&other.score)
            .then((self.first, self.second).cmp(&(other.first, other.second)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// All pairs of rows that are connected by pairs.
fn closure(rows: usize, pairs: &HashSet<(usize, usize)>) -> HashSet<(usize, usize)> {
    let mut group: Vec<usize> = (0..rows).collect();
    fn root(group: &mut [usize], mut row: usize) -> usize {
        while group[row] != row {
            group[row] = group[group[row]];
            row = group[row];
        }
        row
    }
    for (a, b) in pairs {
        let (a, b) = (root(&mut group, *a), root(&mut group, *b));
        group[a.max(b)] = a.min(b);
    }
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for row in 0..rows {
        members.entry(root(&mut group, row)).or_default().push(row);
    }
    let mut connected = pairs.clone();
    for members in members.values() {
        for (index, a) in members.iter().enumerate() {
            connected.extend(members[index + 1..].iter().map(|b| (*a, *b)));
        }
    }
    connected
}
