//! Information retrieval: how high a query's relevant documents rank in a corpus.

use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv, similarity};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use tch::{Kind, Tensor};

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
    pub similarity_fn_names: Vec<SimilarityFunction>,
    /// The similarity whose NDCG is the primary metric.
    pub main_similarity: Option<SimilarityFunction>,
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
        similarity_fn_names: &[SimilarityFunction],
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
            similarity_fn_names: SimilarityFunction::or_cosine(similarity_fn_names),
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

    /// The figures, from the embeddings `[queries, dimension]` of [`Self::queries`] and those of
    /// the corpus `[documents, dimension]`.
    ///
    /// # Errors
    /// Where the number of rows is not that of queries or documents, or the dimensions differ.
    pub fn evaluate(&self, queries: &Tensor, corpus: &Tensor) -> Result<Metrics, EvalError> {
        let (queries, corpus) = self.checked(queries, corpus)?;
        let mut entries = Vec::new();
        let ndcg_at = self.ndcg_at_k.iter().copied().max().unwrap_or(10);
        let mut best: Option<(SimilarityFunction, f64)> = None;
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
        let main = self
            .main_similarity
            .or(best.map(|(function, _)| function))
            .unwrap_or_default();
        Ok(Metrics::new(
            &self.name,
            &format!("{main}_ndcg@{ndcg_at}"),
            entries,
        ))
    }

    /// The figures as functions of the queries, for intervals; it ranks the corpus anew.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(&self, queries: &Tensor, corpus: &Tensor) -> Result<RowFigures, EvalError> {
        let (queries, corpus) = self.checked(queries, corpus)?;
        let mut columns = Vec::new();
        for function in &self.similarity_fn_names {
            let hits = self.rank(*function, &queries, &corpus)?;
            let of_function = self.per_query(&hits).into_iter();
            columns.extend(of_function.map(|(key, values)| (format!("{function}_{key}"), values)));
        }
        Ok(RowFigures::means(&self.name, self.queries.len(), columns))
    }

    /// How many documents there are.
    pub fn n_documents(&self) -> usize {
        self.id_rank.len()
    }

    /// The embeddings without gradients, once their shapes are right.
    fn checked(&self, queries: &Tensor, corpus: &Tensor) -> Result<(Tensor, Tensor), EvalError> {
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

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("Information-Retrieval_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps` and `{similarity}-{Metric}@k` for each.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(
            csv_columns(self).map(|(function, title, _, k)| format!("{function}-{title}@{k}")),
        )
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        let keys = csv_columns(self).map(|(function, _, key, k)| format!("{function}_{key}@{k}"));
        csv::row(at, &self.name, metrics, keys)
    }

    /// The documents nearest to each query, best first, as many as the greatest k asks for.
    fn rank(
        &self,
        function: SimilarityFunction,
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

/// The columns of an evaluator's CSV: similarity, metric in the header, metric in the key, and k.
pub(crate) fn csv_columns(
    evaluator: &InformationRetrievalEvaluator,
) -> impl Iterator<Item = (SimilarityFunction, &'static str, &'static str, usize)> + use<> {
    let mut functions = evaluator.similarity_fn_names.clone();
    functions.sort_by_key(|function| function.name());
    let mut metrics = Vec::new();
    let each = |title, key, ks: &[usize]| {
        ks.iter()
            .map(move |k| (title, key, *k))
            .collect::<Vec<(&str, &str, usize)>>()
    };
    metrics.extend(each("Accuracy", "accuracy", &evaluator.accuracy_at_k));
    for k in &evaluator.precision_recall_at_k {
        metrics.extend([("Precision", "precision", *k), ("Recall", "recall", *k)]);
    }
    metrics.extend(each("MRR", "mrr", &evaluator.mrr_at_k));
    metrics.extend(each("NDCG", "ndcg", &evaluator.ndcg_at_k));
    metrics.extend(each("MAP", "map", &evaluator.map_at_k));
    functions.into_iter().flat_map(move |function| {
        let columns = metrics.clone().into_iter();
        columns.map(move |(title, key, k)| (function, title, key, k))
    })
}

/// Discounted cumulative gain of the first `k`.
fn dcg(hits: &[bool], k: usize) -> f64 {
    let gains = hits.iter().take(k).enumerate().filter(|(_, hit)| **hit);
    gains
        .map(|(rank, _)| 1.0 / ((rank + 2) as f64).log2())
        .sum()
}
