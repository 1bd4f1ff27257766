//! Reranking: how far a query's positives come before its negatives.

use crate::binary_classification::average_precision;
use crate::similarity::to_vec;
use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv};
use tch::Tensor;

/// MAP, MRR and NDCG of ranking each query's own documents.
///
/// # Keys
///
/// `{name}_map`, `{name}_mrr@{k}` and the primary one, `{name}_ndcg@{k}`. CSV:
/// `RerankingEvaluator_{name}_results_@{k}.csv`.
///
/// MAP counts documents of equal score as one step and NDCG averages over their orders; for MRR
/// positives come before negatives of the same score. Queries without positives or without
/// negatives are left out.
///
/// Upstream file: `sentence_transformer/evaluation/reranking.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankingEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The k of MRR and NDCG.
    pub at_k: usize,
    /// The similarity to rank by.
    pub similarity_fn_name: SimilarityFunction,
}

const NAME: &str = "RerankingEvaluator";

impl RerankingEvaluator {
    /// An evaluator at k 10, by cosine.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            at_k: 10,
            similarity_fn_name: SimilarityFunction::Cosine,
        }
    }

    /// The figures, from the embeddings of the queries `[n, dimension]` and of all documents
    /// `[m, dimension]`: for each query in turn its positives, then its negatives. `sizes` says how
    /// many of each a query has.
    ///
    /// # Errors
    /// Where the rows don't add up, or no query has both positives and negatives.
    pub fn evaluate(
        &self,
        queries: &Tensor,
        documents: &Tensor,
        sizes: &[(usize, usize)],
    ) -> Result<Metrics, EvalError> {
        let rows = self.rows(queries, documents, sizes)?;
        let entries = self.keys().into_iter().zip(rows.all()).collect();
        Ok(Metrics::new(
            &self.name,
            &format!("ndcg@{}", self.at_k),
            entries,
        ))
    }

    /// The figures as functions of the queries that count, for intervals.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(
        &self,
        queries: &Tensor,
        documents: &Tensor,
        sizes: &[(usize, usize)],
    ) -> Result<RowFigures, EvalError> {
        let total: usize = sizes
            .iter()
            .map(|(positives, negatives)| positives + negatives)
            .sum();
        for (what, tensor, rows) in [
            ("queries", queries, sizes.len()),
            ("documents", documents, total),
        ] {
            let shape = tensor.size();
            if shape.len() != 2 || shape[0] != rows as i64 {
                let problem = format!(
                    "embeddings of the {what} have shape {shape:?}, but [{rows}, dimension] is needed"
                );
                return Err(EvalError::inputs(NAME, problem));
            }
        }
        let (queries, documents) = (queries.f_detach()?, documents.f_detach()?);
        let [mut map, mut mrr, mut ndcg] = [const { Vec::new() }; 3];
        let mut first = 0;
        for (query, (positives, negatives)) in sizes.iter().enumerate() {
            let start = first;
            first += positives + negatives;
            if *positives == 0 || *negatives == 0 {
                continue;
            }
            let query = queries.f_narrow(0, query as i64, 1)?;
            let own = documents.f_narrow(0, start as i64, (positives + negatives) as i64)?;
            let scores = to_vec(&self.similarity_fn_name.matrix(&query, &own)?)?;
            let labelled = scores.iter().enumerate();
            let mut rows: Vec<(f32, bool)> = labelled
                .map(|(index, score)| (*score as f32, index < *positives))
                .collect();
            rows.sort_by(|a, b| b.0.total_cmp(&a.0));
            map.push(average_precision(&rows));
            let best = rows
                .iter()
                .take(self.at_k)
                .position(|(_, relevant)| *relevant);
            mrr.push(best.map_or(0.0, |rank| 1.0 / (rank + 1) as f64));
            ndcg.push(tie_averaged_ndcg(&rows, self.at_k));
        }
        if map.is_empty() {
            let problem = "no query has both a positive and a negative document";
            return Err(EvalError::inputs(NAME, problem));
        }
        let n_queries = map.len();
        let columns = self.keys().into_iter().zip([map, mrr, ndcg]).collect();
        Ok(RowFigures::means(&self.name, n_queries, columns))
    }

    fn keys(&self) -> [String; 3] {
        let k = self.at_k;
        ["map".to_owned(), format!("mrr@{k}"), format!("ndcg@{k}")]
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        let name = if self.name.is_empty() {
            String::new()
        } else {
            format!("_{}", self.name)
        };
        format!("RerankingEvaluator{name}_results_@{}.csv", self.at_k)
    }

    /// The CSV's columns: `epoch`, `steps`, `MAP`, `MRR@{k}`, `NDCG@{k}`.
    pub fn csv_header(&self) -> Vec<String> {
        let k = self.at_k;
        csv::header(["MAP".to_owned(), format!("MRR@{k}"), format!("NDCG@{k}")].into_iter())
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        csv::row(at, &self.name, metrics, self.keys().into_iter())
    }
}

/// NDCG at `k` of rows by falling score, averaged over the orders of rows with equal scores, as in
/// `sklearn.metrics.ndcg_score`. McSherry and Najork 2008,
/// <https://doi.org/10.1007/978-3-540-78646-7_38>.
fn tie_averaged_ndcg(rows: &[(f32, bool)], k: usize) -> f64 {
    let discount = |rank: usize| {
        if rank < k {
            1.0 / ((rank + 2) as f64).log2()
        } else {
            0.0
        }
    };
    let (mut gain, mut rank) = (0.0, 0);
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        let relevant = group.iter().filter(|(_, relevant)| *relevant).count();
        let share = relevant as f64 / group.len() as f64;
        gain += share * (rank..rank + group.len()).map(discount).sum::<f64>();
        rank += group.len();
    }
    let relevant = rows.iter().filter(|(_, relevant)| *relevant).count();
    gain / (0..relevant).map(discount).sum::<f64>()
}
