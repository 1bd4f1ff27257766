//! Evaluators of tables with ids and lists: retrieval, reranking, paraphrase mining.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use data::{Field, FieldKind, OnBadRow, Wanted, load_fields};
use eval::{
    InformationRetrievalEvaluator, Metrics, ParaphraseMiningEvaluator, RerankingEvaluator,
    RowFigures, SimilarityFunction, csv::At,
};
use model::SentenceTransformer;

use super::{Bench, CsvRow, Evaluated, plan::Part};
use crate::{
    flags::eval::{EvalFlags, RetrievalFlags},
    source::local_name,
    table::counted,
    usage::UsageError,
};

/// Queries, documents, and what belongs together.
pub(super) struct Retrieval {
    pub(super) name: String,
    pub(super) query_ids: Vec<String>,
    pub(super) queries: Vec<String>,
    pub(super) corpus_ids: Vec<String>,
    pub(super) corpus: Vec<String>,
    /// Ids of relevant documents by the query's id.
    pub(super) relevant: HashMap<String, HashSet<String>>,
}

/// The names of columns with ids and texts.
pub(super) const QUERY_COLUMNS: [&[&str]; 2] = [
    &["_id", "id", "query-id", "query_id", "qid"],
    &["text", "query", "question"],
];
pub(super) const CORPUS_COLUMNS: [&[&str]; 2] = [
    &["_id", "id", "corpus-id", "corpus_id", "cid", "doc_id"],
    &["text", "document", "passage"],
];
pub(super) const QREL_COLUMNS: [&[&str]; 3] = [
    &["query-id", "query_id", "qid"],
    &["corpus-id", "corpus_id", "cid", "doc_id"],
    &["score", "relevance"],
];

impl Retrieval {
    pub(super) fn load(part: &Part, flags: &EvalFlags) -> anyhow::Result<Self> {
        let given = &flags.retrieval;
        let (Some(queries), Some(corpus), Some(qrels)) =
            (&given.queries, &given.corpus, &given.qrels)
        else {
            return Err(UsageError(
                "--evaluator information-retrieval needs --queries (an id and a text a row), --corpus (the same) and --qrels (a query's id and a document's id a row)"
                    .to_owned(),
            )
            .into());
        };
        let on_bad_row = flags.options.on_bad_row;
        let (query_ids, queries) = ids_and_texts(
            queries,
            "--queries-columns",
            given.queries_columns.as_deref(),
            QUERY_COLUMNS,
            on_bad_row,
        )?;
        let (corpus_ids, texts) = ids_and_texts(
            corpus,
            "--corpus-columns",
            given.corpus_columns.as_deref(),
            CORPUS_COLUMNS,
            on_bad_row,
        )?;
        let relevant = judgements(qrels, given.qrels_columns.as_deref(), on_bad_row)?;
        let mut retrieval = Self {
            name: part.name.clone().unwrap_or_else(|| name_of(corpus)),
            query_ids,
            queries,
            corpus_ids,
            corpus: texts,
            relevant,
        };
        if let Some(max) = flags.options.max_samples {
            retrieval.query_ids.truncate(max);
            retrieval.queries.truncate(max);
        }
        refuse_repeated("--queries", &retrieval.query_ids)?;
        Ok(retrieval)
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let measured = self.measure(bench)?;
        let evaluator = &measured.evaluator;
        let n_documents = counted(evaluator.n_documents(), "documents");
        Ok(Evaluated {
            what: format!(
                "{} in {n_documents}",
                counted(evaluator.queries().len(), "queries")
            ),
            intervals: match (&measured.rows, &bench.how) {
                (Some(rows), Some(how)) => rows.intervals(how),
                _ => Vec::new(),
            },
            csv: vec![measured.csv()],
            metrics: measured.metrics,
        })
    }

    /// Ranks the documents for each query.
    pub(super) fn measure(&self, bench: &Bench<'_>) -> anyhow::Result<Measured> {
        let flags = bench.flags;
        let mut evaluator = InformationRetrievalEvaluator::new(
            &self.name,
            &flags
                .options
                .similarities_with(flags.main_similarity, &[own_similarity(bench.model)?])?,
            &self.query_ids,
            &self.corpus_ids,
            &self.relevant,
        )?;
        evaluator.main_similarity = flags.main_similarity;
        set_ks(&mut evaluator, &flags.retrieval);
        let queries: Vec<&str> = evaluator
            .queries()
            .iter()
            .map(|query| self.queries[*query].as_str())
            .collect();
        let corpus: Vec<&str> = self.corpus.iter().map(String::as_str).collect();
        let (queries, corpus) = bench.embed_sides(&queries, &corpus, &self.name)?;
        let metrics = evaluator.evaluate(&queries, &corpus)?;
        let rows = match &bench.how {
            Some(_) => Some(evaluator.rows(&queries, &corpus)?),
            None => None,
        };
        Ok(Measured {
            evaluator,
            metrics,
            rows,
        })
    }
}

/// A retrieval task that was measured.
pub(super) struct Measured {
    pub(super) evaluator: InformationRetrievalEvaluator,
    pub(super) metrics: Metrics,
    /// Where intervals are asked for.
    pub(super) rows: Option<RowFigures>,
}

impl Measured {
    pub(super) fn csv(&self) -> CsvRow {
        CsvRow {
            name: self.evaluator.csv_file(),
            header: self.evaluator.csv_header(),
            row: self.evaluator.csv_row(At::Outside, &self.metrics),
        }
    }
}

fn set_ks(evaluator: &mut InformationRetrievalEvaluator, flags: &RetrievalFlags) {
    for (given, ks) in [
        (&flags.accuracy_at_k, &mut evaluator.accuracy_at_k),
        (
            &flags.precision_recall_at_k,
            &mut evaluator.precision_recall_at_k,
        ),
        (&flags.mrr_at_k, &mut evaluator.mrr_at_k),
        (&flags.ndcg_at_k, &mut evaluator.ndcg_at_k),
        (&flags.map_at_k, &mut evaluator.map_at_k),
    ] {
        if let Some(given) = given {
            ks.clone_from(given);
        }
    }
}

/// The similarity that the model's configuration names.
pub(super) fn own_similarity(model: &SentenceTransformer) -> anyhow::Result<SimilarityFunction> {
    Ok(model.similarity_fn_name().parse()?)
}

/// The folder's name for a file that is only called corpus, else the file's.
fn name_of(corpus: &str) -> String {
    let path = Path::new(corpus);
    let name = local_name(path);
    let folder = path.parent().and_then(Path::file_name);
    match folder {
        Some(folder) if name == "corpus" => folder.to_string_lossy().into_owned(),
        _ => name,
    }
}

fn refuse_repeated(flag: &str, ids: &[String]) -> Result<(), UsageError> {
    let mut seen = HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        None => Ok(()),
        Some(id) => Err(UsageError(format!("{flag}: the id `{id}` comes twice"))),
    }
}

/// The columns that a flag names, each as the only one of its kind.
fn chosen<'a, const N: usize>(
    flag: &str,
    given: Option<&'a [String]>,
    counts: &[usize],
) -> Result<Option<[Vec<&'a str>; N]>, UsageError> {
    let Some(given) = given else {
        return Ok(None);
    };
    if !counts.contains(&given.len()) {
        let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
        return Err(UsageError(format!(
            "{flag} {}: {} columns are needed",
            given.join(","),
            counts.join(" or ")
        )));
    }
    let names = |i: usize| {
        given
            .get(i)
            .map(|name| vec![name.as_str()])
            .unwrap_or_default()
    };
    Ok(Some(std::array::from_fn(names)))
}

fn ids_and_texts(
    source: &str,
    flag: &str,
    given: Option<&[String]>,
    usual: [&[&str]; 2],
    on_bad_row: OnBadRow,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let chosen = chosen::<2>(flag, given, &[2])?;
    let names = match &chosen {
        Some(chosen) => [chosen[0].as_slice(), chosen[1].as_slice()],
        None => usual,
    };
    let wanted =
        [(names[0], FieldKind::Id), (names[1], FieldKind::Text)].map(|(names, holds)| Wanted {
            names,
            holds,
            optional: false,
        });
    let mut fields = load_fields(source, &wanted, on_bad_row)?.into_iter();
    match (fields.next().flatten(), fields.next().flatten()) {
        (Some(Field::Texts(ids)), Some(Field::Texts(texts))) => Ok((ids, texts)),
        _ => anyhow::bail!("{source}: ids and texts were read as something else"),
    }
}

/// The ids of relevant documents by the query's id.
fn judgements(
    source: &str,
    given: Option<&[String]>,
    on_bad_row: OnBadRow,
) -> anyhow::Result<HashMap<String, HashSet<String>>> {
    let chosen = chosen::<3>("--qrels-columns", given, &[2, 3])?;
    let names = match &chosen {
        Some(chosen) => [&*chosen[0], &*chosen[1], &*chosen[2]],
        None => QREL_COLUMNS,
    };
    let wanted = qrel_wanted(names, given.is_none() || names[2].is_empty());
    relevant(load_fields(source, &wanted, on_bad_row)?)
}

pub(super) fn qrel_wanted<'a>(
    names: [&'a [&'a str]; 3],
    score_is_optional: bool,
) -> [Wanted<'a>; 3] {
    [
        Wanted {
            names: names[0],
            holds: FieldKind::Id,
            optional: false,
        },
        Wanted {
            names: names[1],
            holds: FieldKind::Ids,
            optional: false,
        },
        Wanted {
            names: names[2],
            holds: FieldKind::Number,
            optional: score_is_optional,
        },
    ]
}

/// Relevant documents by query, from the columns of [`qrel_wanted`].
pub(super) fn relevant(
    fields: Vec<Option<Field>>,
) -> anyhow::Result<HashMap<String, HashSet<String>>> {
    let mut fields = fields.into_iter();
    let (Some(Field::Texts(queries)), Some(Field::Lists(documents))) =
        (fields.next().flatten(), fields.next().flatten())
    else {
        anyhow::bail!("judgements were read as something else");
    };
    let scores = match fields.next().flatten() {
        Some(Field::Numbers(scores)) => Some(scores),
        _ => None,
    };
    let mut relevant: HashMap<String, HashSet<String>> = HashMap::new();
    for (i, (query, documents)) in queries.into_iter().zip(documents).enumerate() {
        if scores.as_ref().is_none_or(|scores| scores[i] > 0.0) {
            relevant.entry(query).or_default().extend(documents);
        }
    }
    Ok(relevant)
}

/// Queries, each with documents of its own.
pub(super) struct Reranking {
    name: String,
    queries: Vec<String>,
    positives: Vec<Vec<String>>,
    negatives: Vec<Vec<String>>,
}

impl Reranking {
    pub(super) fn load(part: &Part, flags: &EvalFlags) -> anyhow::Result<Self> {
        let source = local_file(part, "reranking")?;
        let chosen = chosen::<3>("--columns", flags.options.columns.as_deref(), &[3])?;
        let usual: [&[&str]; 3] = [
            &["query", "question", "anchor"],
            &["positive", "positives"],
            &["negative", "negatives"],
        ];
        let names = match &chosen {
            Some(chosen) => [&*chosen[0], &*chosen[1], &*chosen[2]],
            None => usual,
        };
        let kinds = [FieldKind::Text, FieldKind::Texts, FieldKind::Texts];
        let wanted: Vec<Wanted<'_>> = names
            .into_iter()
            .zip(kinds)
            .map(|(names, holds)| Wanted {
                names,
                holds,
                optional: false,
            })
            .collect();
        let mut fields = load_fields(source, &wanted, flags.options.on_bad_row)?
            .into_iter()
            .flatten();
        let (
            Some(Field::Texts(mut queries)),
            Some(Field::Lists(mut positives)),
            Some(Field::Lists(mut negatives)),
        ) = (fields.next(), fields.next(), fields.next())
        else {
            anyhow::bail!("{source}: lists of texts were read as something else");
        };
        let max = flags.options.max_samples.unwrap_or(usize::MAX);
        queries.truncate(max);
        positives.truncate(max);
        negatives.truncate(max);
        let name = part.name.clone();
        Ok(Self {
            name: name.unwrap_or_else(|| local_name(Path::new(source))),
            queries,
            positives,
            negatives,
        })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let flags = bench.flags;
        let mut evaluator = RerankingEvaluator::new(&self.name);
        let similarities = flags.options.similarities_or(&[SimilarityFunction::Cosine]);
        let [similarity] = similarities[..] else {
            return Err(UsageError(
                "--evaluator reranking ranks by one --similarity: name one".to_owned(),
            )
            .into());
        };
        evaluator.similarity_fn_name = similarity;
        if let Some(k) = flags.retrieval.at_k {
            evaluator.at_k = k;
        }
        let sizes: Vec<(usize, usize)> = self
            .positives
            .iter()
            .zip(&self.negatives)
            .map(|(positives, negatives)| (positives.len(), negatives.len()))
            .collect();
        let queries: Vec<&str> = self.queries.iter().map(String::as_str).collect();
        let documents: Vec<&str> = self
            .positives
            .iter()
            .zip(&self.negatives)
            .flat_map(|(positives, negatives)| positives.iter().chain(negatives))
            .map(String::as_str)
            .collect();
        let (queries, documents) = bench.embed_sides(&queries, &documents, &self.name)?;
        let metrics = evaluator.evaluate(&queries, &documents, &sizes)?;
        let intervals = match &bench.how {
            Some(how) => evaluator.rows(&queries, &documents, &sizes)?.intervals(how),
            None => Vec::new(),
        };
        let n_counted = sizes.iter().filter(|(p, n)| *p > 0 && *n > 0).count();
        Ok(Evaluated {
            what: counted(n_counted, "queries"),
            intervals,
            csv: vec![CsvRow {
                name: evaluator.csv_file(),
                header: evaluator.csv_header(),
                row: evaluator.csv_row(At::Outside, &metrics),
            }],
            metrics,
        })
    }
}

/// Sentences among which duplicates are to be found.
pub(super) struct Mining {
    name: String,
    ids: Vec<String>,
    sentences: Vec<String>,
    duplicates: Vec<(String, String)>,
}

impl Mining {
    pub(super) fn load(part: &Part, flags: &EvalFlags) -> anyhow::Result<Self> {
        let source = local_file(part, "paraphrase-mining")?;
        let Some(duplicates) = &flags.duplicates else {
            return Err(UsageError(
                "--evaluator paraphrase-mining needs --duplicates: a file with the ids of two sentences that mean the same a row"
                    .to_owned(),
            )
            .into());
        };
        let usual: [&[&str]; 2] = [
            &["id", "_id", "qid", "sid"],
            &["sentence", "text", "question"],
        ];
        let columns = flags.options.columns.as_deref();
        let on_bad_row = flags.options.on_bad_row;
        let (mut ids, mut sentences) =
            ids_and_texts(source, "--columns", columns, usual, on_bad_row)?;
        let max = flags.options.max_samples.unwrap_or(usize::MAX);
        ids.truncate(max);
        sentences.truncate(max);
        refuse_repeated("--data", &ids)?;
        let given = flags.duplicates_columns.as_deref();
        let chosen = chosen::<2>("--duplicates-columns", given, &[2])?;
        let usual: [&[&str]; 2] = [&["id1", "qid1", "sid1"], &["id2", "qid2", "sid2"]];
        let names = match &chosen {
            Some(chosen) => [&*chosen[0], &*chosen[1]],
            None => usual,
        };
        let wanted = names.map(|names| Wanted {
            names,
            holds: FieldKind::Id,
            optional: false,
        });
        let mut fields = load_fields(duplicates, &wanted, on_bad_row)?
            .into_iter()
            .flatten();
        let (Some(Field::Texts(first)), Some(Field::Texts(second))) =
            (fields.next(), fields.next())
        else {
            anyhow::bail!("{duplicates}: ids were read as something else");
        };
        let name = part.name.clone();
        Ok(Self {
            name: name.unwrap_or_else(|| local_name(Path::new(source))),
            ids,
            sentences,
            duplicates: first.into_iter().zip(second).collect(),
        })
    }

    pub(super) fn evaluate(self, bench: &Bench<'_>) -> anyhow::Result<Evaluated> {
        let flags = bench.flags;
        let mut evaluator = ParaphraseMiningEvaluator::new(
            &self.name,
            &self.ids,
            &self.duplicates,
            flags.add_transitive_closure,
        );
        let mining = &mut evaluator.mining;
        mining.top_k = flags.top_k.unwrap_or(mining.top_k);
        mining.max_pairs = flags.max_pairs.unwrap_or(mining.max_pairs);
        let sentences: Vec<&str> = self.sentences.iter().map(String::as_str).collect();
        let embeddings = bench.embed(bench.model, &sentences, &bench.options, &self.name)?;
        let metrics = evaluator.evaluate(&embeddings)?;
        Ok(Evaluated {
            what: counted(sentences.len(), "sentences"),
            // Pairs are no rows that could be drawn anew.
            intervals: Vec::new(),
            csv: vec![CsvRow {
                name: evaluator.csv_file(),
                header: evaluator.csv_header(),
                row: evaluator.csv_row(At::Outside, &metrics),
            }],
            metrics,
        })
    }
}

/// The file of a part whose data is no data set of the usual form.
fn local_file<'a>(part: &'a Part, evaluator: &str) -> Result<&'a str, UsageError> {
    let source = part.data.as_ref().map_or("", |data| data.value.as_str());
    let is_pattern = source.contains(['*', '?', '[']);
    if is_pattern || Path::new(source).exists() {
        return Ok(source);
    }
    Err(UsageError(format!(
        "--data {source}: there is no such file, and --evaluator {evaluator} takes files only, not names on the hub"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_named_after_its_folder() {
        assert_eq!(name_of("beir/scifact/corpus.jsonl"), "scifact");
        assert_eq!(name_of("beir/scifact/documents.jsonl"), "documents");
        assert_eq!(name_of("corpus.jsonl"), "corpus");
    }
}
