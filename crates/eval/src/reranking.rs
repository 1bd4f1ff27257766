//! Reranking: how far a query's positives come before its negatives.

use search::Similarity;

use crate::{
    binary_classification::average_precision,
    csv::CsvTable,
    entry::{Columns, Entry, Holds, Needs, Prepared, Reader, Side, Table, TableColumn, TableNeeds},
    error::EvalError,
    evaluator::{Evaluator, Inputs},
    information_retrieval as retrieval,
    metrics::Metrics,
    options::{Flag, Options, at_least_one},
    rows::RowFigures,
    similarity::{TensorSimilarity, to_vec},
};

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
    pub similarity_fn_name: Similarity,
    /// For each query, how many of its documents are positives and negatives.
    sizes: Vec<(usize, usize)>,
}

const NAME: &str = "RerankingEvaluator";

static AT_K: Flag = Flag::new("at-k", "K", "k of MRR and NDCG in reranking [default: 10]")
    .below(retrieval::HEADING)
    .checked(at_least_one);

pub(crate) static ENTRY: Entry = Entry {
    name: "reranking",
    unit: "queries",
    sides: &[Side::Query, Side::Document],
    flags: &[
        &AT_K,
        &retrieval::QUERY_PROMPT,
        &retrieval::QUERY_PROMPT_NAME,
        &retrieval::CORPUS_PROMPT,
        &retrieval::CORPUS_PROMPT_NAME,
    ],
    needs: Needs::Tables(TableNeeds {
        tables: &[Table {
            flag: None,
            columns_flag: None,
            words: "a query, the list of its positives and that of its negatives a row",
            columns: &[
                TableColumn::new(&["query", "question", "anchor"], Holds::Text),
                TableColumn::new(&["positive", "positives"], Holds::Texts),
                TableColumn::new(&["negative", "negatives"], Holds::Texts),
            ],
        }],
        named_by: 0,
        build: prepare,
    }),
};

fn prepare(name: &str, options: &Options, tables: Vec<Columns>) -> Result<Prepared, EvalError> {
    let [mut rows] = Reader::of::<1>(NAME, tables)?;
    let (queries, positives, negatives) = (rows.texts()?, rows.lists()?, rows.lists()?);
    let [similarity_fn_name] = options.similarities_or(&[Similarity::Cosine])[..] else {
        return Err(EvalError::Option(
            "--evaluator reranking ranks by one --similarity: name one".to_owned(),
        ));
    };
    let lists = || positives.iter().zip(&negatives);
    let sizes: Vec<(usize, usize)> = lists().map(|(p, n)| (p.len(), n.len())).collect();
    let n_counted = sizes.iter().filter(|(p, n)| *p > 0 && *n > 0).count();
    let documents = lists().flat_map(|(positives, negatives)| positives.iter().chain(negatives));
    let documents = documents.cloned().collect();
    Ok(Prepared {
        evaluator: Box::new(RerankingEvaluator {
            at_k: options.one(AT_K.name)?.unwrap_or(10),
            similarity_fn_name,
            ..RerankingEvaluator::new(name, &sizes)
        }),
        texts: vec![queries, documents],
        counts: vec![(n_counted, "queries")],
    })
}

impl RerankingEvaluator {
    /// An evaluator at k 10, by cosine, of queries with so many positives and negatives.
    pub fn new(name: &str, sizes: &[(usize, usize)]) -> Self {
        Self {
            sizes: sizes.to_vec(),
            name: name.to_owned(),
            at_k: 10,
            similarity_fn_name: Similarity::Cosine,
        }
    }

    fn figures(&self, inputs: &Inputs<'_>) -> Result<RowFigures, EvalError> {
        let [queries, documents] = inputs.columns(NAME)?;
        let total: usize = self
            .sizes
            .iter()
            .map(|(positives, negatives)| positives + negatives)
            .sum();
        for (what, tensor, rows) in [
            ("queries", queries, self.sizes.len()),
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
        for (query, (positives, negatives)) in self.sizes.iter().enumerate() {
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
}

impl Evaluator for RerankingEvaluator {
    /// Takes embeddings of the queries, `[n, dimension]`, and of all documents, `[m, dimension]`: for each query in
    /// turn its positives, then its negatives.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let figures = self.figures(inputs)?.all();
        let entries = self.keys().into_iter().zip(figures).collect();
        let primary = format!("ndcg@{}", self.at_k);
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    /// The rows are the queries that count.
    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        self.figures(inputs).map(Some)
    }

    fn csv(&self) -> CsvTable {
        let k = self.at_k;
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!("_{name}"),
        };
        let file = format!("RerankingEvaluator{name}_results_@{k}.csv");
        let columns = self.keys().map(|key| (key.to_uppercase(), key));
        CsvTable::new(file, &self.name, columns)
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
