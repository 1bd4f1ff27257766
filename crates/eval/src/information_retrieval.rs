//! Information retrieval: how high a query's relevant documents rank in a corpus.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use search::Similarity;
use tch::{Kind, Tensor};

use crate::{
    csv::{self, CsvTable},
    entry::{Columns, Entry, Holds, Needs, Prepared, Reader, Side, Table, TableColumn, TableNeeds},
    error::EvalError,
    evaluator::{Evaluator, Inputs},
    metrics::Metrics,
    options::{Flag, MAIN_SIMILARITY, Options, at_least_one},
    rows::RowFigures,
    similarity::{self, TensorSimilarity},
};

/// Accuracy, precision, recall, NDCG, MRR and MAP of the documents nearest to each query.
///
/// # Keys
///
/// For each similarity in order: `{name}_{similarity}_accuracy@k` for each k, then `precision@k`,
/// `recall@k`, `ndcg@k`, `mrr@k` and `map@k`. The primary one is NDCG at the greatest k, of
/// `main_similarity` or of the similarity where it is greatest. CSV:
/// `Information-Retrieval_evaluation_{name}_results.csv`.
///
/// Queries without a relevant document are left out. Documents of equal score rank by their id, in
/// the order of code points, whatever the size of the chunks; but a matrix product may round equal
/// texts differently where they fall into different chunks. A relevant id that is not in the
/// corpus counts as a document that is never found.
///
/// # Definitions
///
/// With the gain 1 of a relevant document, DCG is Σ gain / log₂(rank + 1), and NDCG divides it by
/// that of all relevant documents in front. MAP at k divides the sum of precisions by
/// min(k, relevant). Järvelin and Kekäläinen 2002, <https://doi.org/10.1145/582415.582418>.
/// Upstream file: `sentence_transformer/evaluation/information_retrieval.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct InformationRetrievalEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to rank by.
    pub similarity_fn_names: Vec<Similarity>,
    /// The similarity whose NDCG is the primary metric.
    pub main_similarity: Option<Similarity>,
    /// The k of accuracy: whether any of the first k documents is relevant.
    pub accuracy_at_k: Vec<usize>,
    /// The k of precision and recall.
    pub precision_recall_at_k: Vec<usize>,
    /// The k of the mean reciprocal rank.
    pub mrr_at_k: Vec<usize>,
    /// The k of the normalised discounted cumulative gain.
    pub ndcg_at_k: Vec<usize>,
    /// The k of the mean average precision.
    pub map_at_k: Vec<usize>,
    /// How many documents are compared with the queries at once.
    pub corpus_chunk_size: usize,
    queries: Vec<usize>,
    relevant: Vec<HashSet<usize>>,
    relevant_count: Vec<usize>,
    /// Place of each document when the ids are sorted; settles equal scores.
    id_rank: Vec<usize>,
}

const NAME: &str = "InformationRetrievalEvaluator";

/// The heading of the flags of searches.
pub(crate) const HEADING: &str = "Retrieval";

static QUERIES: Flag = Flag::new(
    "queries",
    "FILE",
    "Queries for information-retrieval: a file with an id and a text a row",
)
.below(HEADING);

static QUERIES_COLUMNS: Flag = Flag::new(
    "queries-columns",
    "ID,TEXT",
    "Their columns [default: _id,text, id,text, or qid,query]",
)
.below(HEADING)
.list()
.requiring("queries");

static CORPUS: Flag = Flag::new(
    "corpus",
    "FILE",
    "Documents: a file with an id and a text a row",
)
.below(HEADING);

static CORPUS_COLUMNS: Flag = Flag::new(
    "corpus-columns",
    "ID,TEXT",
    "Their columns [default: _id,text or id,text]",
)
.below(HEADING)
.list()
.requiring("corpus");

static QRELS: Flag = Flag::new(
    "qrels",
    "FILE",
    "Relevant documents: a file with a query's id and a document's id, or a list of them, a row. Rows \
     with a score of 0 or less are of irrelevant ones",
)
.below(HEADING);

static QRELS_COLUMNS: Flag = Flag::new(
    "qrels-columns",
    "QUERY,DOCUMENT[,SCORE]",
    "Its columns [default: query-id,corpus-id and score, if it is there]",
)
.below(HEADING)
.list()
.requiring("qrels");

const fn at_k(name: &'static str, help: &'static str) -> Flag {
    let flag = Flag::new(name, "K", help).below(HEADING);
    flag.list().checked(at_least_one)
}

pub(crate) static ACCURACY_AT_K: Flag = at_k("accuracy-at-k", "k of accuracy [default: 1,3,5,10]");

pub(crate) static PRECISION_RECALL_AT_K: Flag = at_k(
    "precision-recall-at-k",
    "k of precision and recall [default: 1,3,5,10]",
);

pub(crate) static MRR_AT_K: Flag = at_k("mrr-at-k", "k of the mean reciprocal rank [default: 10]");

pub(crate) static NDCG_AT_K: Flag = at_k(
    "ndcg-at-k",
    "k of the normalised discounted cumulative gain [default: 10]",
);

pub(crate) static MAP_AT_K: Flag =
    at_k("map-at-k", "k of the mean average precision [default: 100]");

pub(crate) static QUERY_PROMPT: Flag = Flag::new(
    "query-prompt",
    "TEXT",
    "Text put in front of every query [default: the model's prompt `query`, if it has one]",
)
.below(HEADING)
.excluding("query-prompt-name");

pub(crate) static QUERY_PROMPT_NAME: Flag = Flag::new(
    "query-prompt-name",
    "NAME",
    "Name of the model's prompt for queries",
)
.below(HEADING);

pub(crate) static CORPUS_PROMPT: Flag = Flag::new(
    "corpus-prompt",
    "TEXT",
    "Text put in front of every document [default: the model's prompt `document`, `passage` or \
     `corpus`]",
)
.below(HEADING)
.excluding("corpus-prompt-name");

pub(crate) static CORPUS_PROMPT_NAME: Flag = Flag::new(
    "corpus-prompt-name",
    "NAME",
    "Name of the model's prompt for documents",
)
.below(HEADING);

/// The tables of a retrieval task: queries, corpus, judgements.
static TABLES: [Table; 3] = [
    Table {
        flag: Some(&QUERIES),
        columns_flag: Some(&QUERIES_COLUMNS),
        words: "an id and a text a row",
        columns: &[
            TableColumn::unique(&["_id", "id", "query-id", "query_id", "qid"]),
            TableColumn::new(&["text", "query", "question"], Holds::Text),
        ],
    },
    Table {
        flag: Some(&CORPUS),
        columns_flag: Some(&CORPUS_COLUMNS),
        words: "the same",
        columns: &[
            TableColumn::new(
                &["_id", "id", "corpus-id", "corpus_id", "cid", "doc_id"],
                Holds::Id,
            ),
            TableColumn::new(&["text", "document", "passage"], Holds::Text),
        ],
    },
    Table {
        flag: Some(&QRELS),
        columns_flag: Some(&QRELS_COLUMNS),
        words: "a query's id and a document's id a row",
        columns: &[
            TableColumn::new(&["query-id", "query_id", "qid"], Holds::Id),
            TableColumn::new(&["corpus-id", "corpus_id", "cid", "doc_id"], Holds::Ids),
            TableColumn::optional_number(&["score", "relevance"]),
        ],
    },
];

pub(crate) static ENTRY: Entry = Entry {
    name: "information-retrieval",
    unit: "queries",
    sides: &[Side::Query, Side::Document],
    flags: &[
        &MAIN_SIMILARITY,
        &QUERIES,
        &QUERIES_COLUMNS,
        &CORPUS,
        &CORPUS_COLUMNS,
        &QRELS,
        &QRELS_COLUMNS,
        &ACCURACY_AT_K,
        &PRECISION_RECALL_AT_K,
        &MRR_AT_K,
        &NDCG_AT_K,
        &MAP_AT_K,
        &QUERY_PROMPT,
        &QUERY_PROMPT_NAME,
        &CORPUS_PROMPT,
        &CORPUS_PROMPT_NAME,
    ],
    needs: Needs::Tables(TableNeeds {
        tables: &TABLES,
        named_by: 1,
        build: |name, options, tables| {
            let task = RetrievalTask::new(name, options, tables)?;
            let (n_queries, n_documents) = (task.texts[0].len(), task.texts[1].len());
            Ok(Prepared {
                evaluator: Box::new(task.evaluator),
                texts: task.texts.into(),
                counts: vec![(n_queries, "queries"), (n_documents, "documents")],
            })
        },
    }),
};

/// A retrieval task as its tables give it.
#[derive(Debug)]
pub struct RetrievalTask {
    /// The evaluator.
    pub evaluator: InformationRetrievalEvaluator,
    /// The texts of [`InformationRetrievalEvaluator::queries`] and of the corpus.
    pub texts: [Vec<String>; 2],
}

impl RetrievalTask {
    /// Its three tables: queries, corpus, judgements.
    pub fn tables() -> &'static [Table; 3] {
        &TABLES
    }

    /// A task from the columns of its tables. Documents whose score is not above zero are irrelevant.
    ///
    /// # Errors
    /// Where an id of the corpus comes twice, or no query has a relevant document.
    pub fn new(name: &str, options: &Options, tables: Vec<Columns>) -> Result<Self, EvalError> {
        let [mut queries, mut corpus, mut judgements] = Reader::of::<3>(NAME, tables)?;
        let (query_ids, queries) = (queries.texts()?, queries.texts()?);
        let (corpus_ids, corpus) = (corpus.texts()?, corpus.texts()?);
        let judged = judgements.texts()?.into_iter().zip(judgements.lists()?);
        let scores = judgements.numbers()?;
        let mut relevant: HashMap<String, HashSet<String>> = HashMap::new();
        for (i, (query, documents)) in judged.enumerate() {
            if scores.as_ref().is_none_or(|scores| scores[i] > 0.0) {
                relevant.entry(query).or_default().extend(documents);
            }
        }
        let (main, similarities) = options.main_among(&[options.own_similarity])?;
        let mut evaluator = InformationRetrievalEvaluator::new(
            name,
            &similarities,
            &query_ids,
            &corpus_ids,
            &relevant,
        )?;
        evaluator.main_similarity = main;
        for (flag, ks) in [
            (&ACCURACY_AT_K, &mut evaluator.accuracy_at_k),
            (&PRECISION_RECALL_AT_K, &mut evaluator.precision_recall_at_k),
            (&MRR_AT_K, &mut evaluator.mrr_at_k),
            (&NDCG_AT_K, &mut evaluator.ndcg_at_k),
            (&MAP_AT_K, &mut evaluator.map_at_k),
        ] {
            if let Some(given) = options.all(flag.name)? {
                *ks = given;
            }
        }
        let kept = evaluator.queries().iter();
        let queries = kept.map(|query| queries[*query].clone()).collect();
        Ok(Self {
            evaluator,
            texts: [queries, corpus],
        })
    }
}

/// Queries compared with a chunk of the corpus at once: 1,024 times 50,000 scores are 200 MB.
const QUERY_CHUNK: i64 = 1024;

impl InformationRetrievalEvaluator {
    /// An evaluator with the usual k: accuracy, precision and recall at 1, 3, 5, 10; MRR and NDCG
    /// at 10; MAP at 100. Without similarities it takes cosine. `relevant` gives the ids of the
    /// relevant documents by the id of the query.
    ///
    /// # Errors
    /// Where an id of the corpus comes twice, or no query has a relevant document.
    pub fn new(
        name: &str,
        similarity_fn_names: &[Similarity],
        query_ids: &[String],
        corpus_ids: &[String],
        relevant: &HashMap<String, HashSet<String>>,
    ) -> Result<Self, EvalError> {
        let mut place = HashMap::new();
        for (index, id) in corpus_ids.iter().enumerate() {
            if place.insert(id.as_str(), index).is_some() {
                let problem = format!("the document id `{id}` comes twice in the corpus");
                return Err(EvalError::inputs(NAME, problem));
            }
        }
        let mut by_id: Vec<usize> = (0..corpus_ids.len()).collect();
        by_id.sort_by_key(|index| &corpus_ids[*index]);
        let mut id_rank = vec![0; corpus_ids.len()];
        by_id
            .iter()
            .enumerate()
            .for_each(|(rank, index)| id_rank[*index] = rank);

        let (mut queries, mut places, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (index, id) in query_ids.iter().enumerate() {
            let Some(ids) = relevant.get(id).filter(|ids| !ids.is_empty()) else {
                continue;
            };
            queries.push(index);
            places.push(
                ids.iter()
                    .filter_map(|id| place.get(id.as_str()).copied())
                    .collect(),
            );
            counts.push(ids.len());
        }
        if queries.is_empty() {
            let problem = format!(
                "none of the {} queries has a relevant document",
                query_ids.len()
            );
            return Err(EvalError::inputs(NAME, problem));
        }
        Ok(Self {
            name: name.to_owned(),
            similarity_fn_names: similarity::or_cosine(similarity_fn_names),
            main_similarity: None,
            accuracy_at_k: vec![1, 3, 5, 10],
            precision_recall_at_k: vec![1, 3, 5, 10],
            mrr_at_k: vec![10],
            ndcg_at_k: vec![10],
            map_at_k: vec![100],
            corpus_chunk_size: 50_000,
            queries,
            relevant: places,
            relevant_count: counts,
            id_rank,
        })
    }

    /// Which of the queries are evaluated, as indexes into the `query_ids` of [`Self::new`]; only
    /// these have to be encoded.
    pub fn queries(&self) -> &[usize] {
        &self.queries
    }

    /// The embeddings without gradients, once their shapes are right.
    fn checked(&self, inputs: &Inputs<'_>) -> Result<(Tensor, Tensor), EvalError> {
        let [queries, corpus] = inputs.columns(NAME)?;
        for (what, tensor, rows) in [
            ("embeddings of the queries", queries, self.queries.len()),
            ("embeddings of the corpus", corpus, self.id_rank.len()),
        ] {
            let shape = tensor.size();
            if shape.len() != 2 || shape[0] != rows as i64 {
                let problem =
                    format!("{what} have shape {shape:?}, but [{rows}, dimension] is needed");
                return Err(EvalError::inputs(NAME, problem));
            }
        }
        Ok((queries.f_detach()?, corpus.f_detach()?))
    }

    /// The documents nearest to each query, best first, as many as the greatest k asks for.
    fn rank(
        &self,
        function: Similarity,
        queries: &Tensor,
        corpus: &Tensor,
    ) -> Result<Vec<Vec<usize>>, EvalError> {
        let ks = [
            &self.accuracy_at_k,
            &self.precision_recall_at_k,
            &self.mrr_at_k,
            &self.ndcg_at_k,
            &self.map_at_k,
        ];
        let max_k = ks.into_iter().flatten().copied().max().unwrap_or(1);
        let mut hits: Vec<Vec<(f64, usize)>> = vec![Vec::new(); self.queries.len()];
        let (rows, documents) = (queries.size()[0], corpus.size()[0]);
        let chunk = self.corpus_chunk_size.max(1) as i64;
        for first_document in (0..documents).step_by(chunk as usize) {
            let part = corpus.f_narrow(0, first_document, chunk.min(documents - first_document))?;
            for first_query in (0..rows).step_by(QUERY_CHUNK as usize) {
                let part_of_queries =
                    queries.f_narrow(0, first_query, QUERY_CHUNK.min(rows - first_query))?;
                let scores = function.matrix(&part_of_queries, &part)?;
                let nearest = self.nearest(&scores, first_document as usize, max_k)?;
                for (row, found) in nearest.into_iter().enumerate() {
                    let hits = &mut hits[first_query as usize + row];
                    hits.extend(found);
                    hits.sort_by(|a, b| self.before(a, b));
                    hits.truncate(max_k);
                }
            }
        }
        let documents =
            |hits: Vec<(f64, usize)>| hits.into_iter().map(|(_, place)| place).collect();
        Ok(hits.into_iter().map(documents).collect())
    }

    /// For each row of `scores` `[queries, documents]` the `k` best, with `first` the place of the
    /// first document in the corpus. Where the k-th score occurs more often than there is room, the
    /// ids decide, which takes the whole row.
    fn nearest(
        &self,
        scores: &Tensor,
        first: usize,
        k: usize,
    ) -> Result<Vec<Vec<(f64, usize)>>, EvalError> {
        let size = scores.size();
        let k = k.min(size[1] as usize);
        let (values, places) = scores.f_topk(k as i64, 1, true, false)?;
        let threshold = values.f_amin([1i64].as_slice(), true)?;
        let at_least = scores.f_ge_tensor(&threshold)?;
        let at_least = at_least.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)?;
        let (values, places) = (similarity::to_vec(&values)?, similarity::to_vec(&places)?);
        let at_least = similarity::to_vec(&at_least)?;
        let mut nearest = Vec::with_capacity(at_least.len());
        for (row, at_least) in at_least.iter().enumerate() {
            if *at_least > k as f64 {
                let all = similarity::to_vec(&scores.f_select(0, row as i64)?)?;
                let mut all: Vec<(f64, usize)> = all
                    .into_iter()
                    .enumerate()
                    .map(|(place, score)| (score, first + place))
                    .collect();
                all.sort_by(|a, b| self.before(a, b));
                all.truncate(k);
                nearest.push(all);
            } else {
                let cells = row * k..(row + 1) * k;
                let places = places[cells.clone()]
                    .iter()
                    .map(|place| first + *place as usize);
                nearest.push(values[cells].iter().copied().zip(places).collect());
            }
        }
        Ok(nearest)
    }

    /// Higher scores first, then smaller ids.
    fn before(&self, a: &(f64, usize), b: &(f64, usize)) -> Ordering {
        let by_score = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
        by_score.then(self.id_rank[a.1].cmp(&self.id_rank[b.1]))
    }

    /// All figures of one similarity for each query, by key, in the order of sentence-transformers.
    fn per_query(&self, hits: &[Vec<usize>]) -> Vec<(String, Vec<f64>)> {
        let relevance: Vec<Vec<bool>> = hits
            .iter()
            .zip(&self.relevant)
            .map(|(hits, relevant)| hits.iter().map(|place| relevant.contains(place)).collect())
            .collect();
        let each = |figure: &dyn Fn(&[bool], usize) -> f64| -> Vec<f64> {
            let queries = relevance.iter().zip(&self.relevant_count);
            queries
                .map(|(hits, relevant)| figure(hits, *relevant))
                .collect()
        };
        let found =
            |hits: &[bool], k: usize| hits.iter().take(k).filter(|hit| **hit).count() as f64;
        let mut figures = Vec::new();
        for k in &self.accuracy_at_k {
            figures.push((
                format!("accuracy@{k}"),
                each(&|hits, _| found(hits, *k).min(1.0)),
            ));
        }
        for k in &self.precision_recall_at_k {
            figures.push((
                format!("precision@{k}"),
                each(&|hits, _| found(hits, *k) / *k as f64),
            ));
        }
        for k in &self.precision_recall_at_k {
            let recall = each(&|hits, relevant| found(hits, *k) / relevant as f64);
            figures.push((format!("recall@{k}"), recall));
        }
        for k in &self.ndcg_at_k {
            let ndcg = each(&|hits, relevant| dcg(hits, *k) / dcg(&vec![true; relevant], *k));
            figures.push((format!("ndcg@{k}"), ndcg));
        }
        for k in &self.mrr_at_k {
            let first = |hits: &[bool]| hits.iter().take(*k).position(|hit| *hit);
            let mrr = each(&|hits, _| first(hits).map_or(0.0, |rank| 1.0 / (rank + 1) as f64));
            figures.push((format!("mrr@{k}"), mrr));
        }
        for k in &self.map_at_k {
            let map = each(&|hits, relevant| {
                let (mut correct, mut sum) = (0.0, 0.0);
                for (rank, _) in hits.iter().take(*k).enumerate().filter(|(_, hit)| **hit) {
                    correct += 1.0;
                    sum += correct / (rank + 1) as f64;
                }
                sum / relevant.min(*k) as f64
            });
            figures.push((format!("map@{k}"), map));
        }
        figures
    }
}

impl Evaluator for InformationRetrievalEvaluator {
    /// Takes embeddings of [`Self::queries`], `[queries, dimension]`, and of the corpus, `[documents, dimension]`.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let (queries, corpus) = self.checked(inputs)?;
        let mut entries = Vec::new();
        let ndcg_at = self.ndcg_at_k.iter().copied().max().unwrap_or(10);
        let mut best: Option<(Similarity, f64)> = None;
        for function in &self.similarity_fn_names {
            let hits = self.rank(*function, &queries, &corpus)?;
            for (metric, values) in self.per_query(&hits) {
                let figure = values.iter().sum::<f64>() / values.len() as f64;
                if metric == format!("ndcg@{ndcg_at}") && best.is_none_or(|(_, top)| figure > top) {
                    best = Some((*function, figure));
                }
                entries.push((format!("{function}_{metric}"), figure));
            }
        }
        let best = best.map(|(function, _)| function);
        let main = self.main_similarity.or(best).unwrap_or_default();
        let primary = format!("{main}_ndcg@{ndcg_at}");
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    /// The rows are the queries; the corpus is ranked anew.
    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let (queries, corpus) = self.checked(inputs)?;
        let mut columns = Vec::new();
        for function in &self.similarity_fn_names {
            let hits = self.rank(*function, &queries, &corpus)?;
            let of_function = self.per_query(&hits).into_iter();
            columns.extend(of_function.map(|(key, values)| (format!("{function}_{key}"), values)));
        }
        let n_rows = self.queries.len();
        Ok(Some(RowFigures::means(&self.name, n_rows, columns)))
    }

    fn csv(&self) -> CsvTable {
        let file = csv::file_name("Information-Retrieval_evaluation", &self.name);
        CsvTable::new(file, &self.name, csv_columns(self))
    }
}

/// The columns of an evaluator's CSV: title and key.
pub(crate) fn csv_columns(evaluator: &InformationRetrievalEvaluator) -> Vec<(String, String)> {
    let mut functions = evaluator.similarity_fn_names.clone();
    functions.sort_by_key(|function| function.name());
    let mut metrics = Vec::new();
    for k in &evaluator.accuracy_at_k {
        metrics.push(("Accuracy", "accuracy", k));
    }
    for k in &evaluator.precision_recall_at_k {
        metrics.extend([("Precision", "precision", k), ("Recall", "recall", k)]);
    }
    for (title, key, ks) in [
        ("MRR", "mrr", &evaluator.mrr_at_k),
        ("NDCG", "ndcg", &evaluator.ndcg_at_k),
        ("MAP", "map", &evaluator.map_at_k),
    ] {
        metrics.extend(ks.iter().map(|k| (title, key, k)));
    }
    let column = |function: Similarity| {
        let metrics = metrics.iter();
        metrics.map(move |(title, key, k)| {
            (
                format!("{function}-{title}@{k}"),
                format!("{function}_{key}@{k}"),
            )
        })
    };
    functions.into_iter().flat_map(column).collect()
}

/// Discounted cumulative gain of the first `k`.
fn dcg(hits: &[bool], k: usize) -> f64 {
    let gains = hits.iter().take(k).enumerate().filter(|(_, hit)| **hit);
    gains
        .map(|(rank, _)| 1.0 / ((rank + 2) as f64).log2())
        .sum()
}
