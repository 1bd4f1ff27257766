//! Flags of `sentune eval`.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use data::OnBadRow;
use eval::{SimilarityFunction, nano_beir::NanoDataset};
use train::{EvaluatorKind, by_name};

use crate::{flags::encode::EncodingFlags, named::Named, source::Split, usage::UsageError};

#[derive(Debug, Args)]
pub(crate) struct EvalFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// What to measure: triplet, embedding-similarity, binary-classification, translation, reranking, mse,
    /// label-accuracy, paraphrase-mining, information-retrieval, nano-beir (or nano-beir:msmarco,nq); class names
    /// are accepted. Several, each with the flag, are put through one after the other (sequential): for several
    /// data sets as NAME=EVALUATOR [default: triplet or embedding-similarity, by the columns].
    #[arg(long, value_name = "EVALUATOR")]
    pub(crate) evaluator: Vec<Named<EvaluatorName>>,
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional
    /// :subset; several as NAME=DATA, each with the flag.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: Vec<Named<String>>,
    #[command(flatten)]
    pub(crate) options: EvalDataOptions,

    /// Print one JSON object with the evaluators' keys instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Append the metrics to each evaluator's CSV file in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) csv_dir: Option<PathBuf>,
    /// Give intervals that hold this share of resamplings of the rows, or of the queries.
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "0.95", require_equals = true, value_parser = share)]
    pub(crate) confidence: Option<f64>,
    /// Resamplings behind an interval.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "confidence", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) bootstrap: u32,
    /// Seed of the resampling.
    #[arg(long, value_name = "N", default_value_t = 42, requires = "confidence")]
    pub(crate) seed: u64,
    /// What sequential_score is of the primary metrics of several evaluators.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "last")]
    pub(crate) main_score: MainScore,

    /// Similarity of the primary metric [default: the greatest].
    #[arg(long, value_name = "NAME")]
    pub(crate) main_similarity: Option<SimilarityFunction>,
    /// By how much the positive of a triplet has to be more similar: a number, or for each similarity
    /// cosine=X,dot=X [default: 0].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub(crate) margin: Option<MarginFlag>,
    /// Compare embeddings in this precision, for embedding-similarity: float32, int8, uint8, binary, ubinary.
    #[arg(long, value_name = "NAME")]
    pub(crate) quantize: Option<search::Precision>,

    #[command(flatten)]
    pub(crate) retrieval: RetrievalFlags,

    /// Pairs of ids that are known duplicates, for paraphrase-mining in the sentences of --data.
    #[arg(long, value_name = "FILE", help_heading = "Paraphrase mining")]
    pub(crate) duplicates: Option<String>,
    /// Its two columns [default: id1,id2 or qid1,qid2].
    #[arg(
        long,
        value_name = "ID1,ID2",
        value_delimiter = ',',
        num_args = 1,
        requires = "duplicates",
        help_heading = "Paraphrase mining"
    )]
    pub(crate) duplicates_columns: Option<Vec<String>>,
    /// Count duplicates of duplicates too.
    #[arg(long, help_heading = "Paraphrase mining")]
    pub(crate) add_transitive_closure: bool,
    /// Most similar sentences that are looked at for each [default: 100].
    #[arg(long, value_name = "N", help_heading = "Paraphrase mining")]
    pub(crate) top_k: Option<usize>,
    /// Pairs that are looked at in all [default: 500000].
    #[arg(long, value_name = "N", help_heading = "Paraphrase mining")]
    pub(crate) max_pairs: Option<usize>,

    /// Model whose embeddings the model's own should equal, for mse.
    #[arg(
        long,
        value_name = "MODEL",
        help_heading = "Distillation and classification"
    )]
    pub(crate) teacher: Option<String>,
    /// The loss that trained the classifier, for label-accuracy, where its features were not the default ones:
    /// softmax:concatenation_sent_multiplication=true.
    #[arg(
        long,
        value_name = "LOSS",
        help_heading = "Distillation and classification"
    )]
    pub(crate) loss: Option<losses::LossConfig>,
    /// Data set in training whose classifier it is, where several had one.
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Distillation and classification"
    )]
    pub(crate) classifier: Option<String>,
}

/// How data sets are read and similarities are taken.
#[derive(Debug, Args)]
pub(crate) struct EvalDataOptions {
    /// Split of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "test", value_parser = Split::parse)]
    pub(crate) split: Split,
    /// Name that the metrics' keys begin with [default: from the data's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Columns to use, in order, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Use only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) max_samples: Option<usize>,
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them).
    #[arg(long, value_name = "ROWS", default_value = "error", value_parser = by_name::<OnBadRow>)]
    pub(crate) on_bad_row: OnBadRow,
    /// Similarities to evaluate by, separated by commas: cosine, dot, euclidean, manhattan [default: all four; the
    /// model's own for information-retrieval and nano-beir, cosine for reranking].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    similarity: Vec<SimilarityFunction>,
    #[command(flatten)]
    pub(crate) encoding: EncodingFlags,
}

impl EvalDataOptions {
    /// The similarities that are asked for, or these.
    pub(crate) fn similarities_or(
        &self,
        default: &[SimilarityFunction],
    ) -> Vec<SimilarityFunction> {
        if self.similarity.is_empty() {
            default.to_vec()
        } else {
            self.similarity.clone()
        }
    }

    /// As [`Self::similarities_or`], with the one of the primary metric among them.
    pub(crate) fn similarities_with(
        &self,
        main: Option<SimilarityFunction>,
        default: &[SimilarityFunction],
    ) -> Result<Vec<SimilarityFunction>, UsageError> {
        let functions = self.similarities_or(default);
        match main {
            Some(main) if !functions.contains(&main) && self.similarity.is_empty() => {
                Ok(vec![main])
            }
            Some(main) if !functions.contains(&main) => Err(UsageError(format!(
                "--main-similarity {main} is not among --similarity {}",
                functions
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            ))),
            _ => Ok(functions),
        }
    }

    /// The similarities that are asked for, or all.
    pub(crate) fn similarities(&self) -> Vec<SimilarityFunction> {
        self.similarities_or(&SimilarityFunction::ALL)
    }
}

/// Queries, corpus, and what belongs together.
#[derive(Debug, Args)]
#[command(next_help_heading = "Retrieval")]
pub(crate) struct RetrievalFlags {
    /// Queries for information-retrieval: a file with an id and a text a row.
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: Option<String>,
    /// Their columns [default: _id,text, id,text, or qid,query].
    #[arg(
        long,
        value_name = "ID,TEXT",
        value_delimiter = ',',
        num_args = 1,
        requires = "queries"
    )]
    pub(crate) queries_columns: Option<Vec<String>>,
    /// Documents: a file with an id and a text a row.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: Option<String>,
    /// Their columns [default: _id,text or id,text].
    #[arg(
        long,
        value_name = "ID,TEXT",
        value_delimiter = ',',
        num_args = 1,
        requires = "corpus"
    )]
    pub(crate) corpus_columns: Option<Vec<String>>,
    /// Relevant documents: a file with a query's id and a document's id, or a list of them, a row. Rows with a
    /// score of 0 or less are of irrelevant ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) qrels: Option<String>,
    /// Its columns [default: query-id,corpus-id and score, if it is there].
    #[arg(
        long,
        value_name = "QUERY,DOCUMENT[,SCORE]",
        value_delimiter = ',',
        num_args = 1,
        requires = "qrels"
    )]
    pub(crate) qrels_columns: Option<Vec<String>>,
    /// k of accuracy [default: 1,3,5,10].
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_k)]
    pub(crate) accuracy_at_k: Option<Vec<usize>>,
    /// k of precision and recall [default: 1,3,5,10].
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_k)]
    pub(crate) precision_recall_at_k: Option<Vec<usize>>,
    /// k of the mean reciprocal rank [default: 10].
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_k)]
    pub(crate) mrr_at_k: Option<Vec<usize>>,
    /// k of the normalised discounted cumulative gain [default: 10].
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_k)]
    pub(crate) ndcg_at_k: Option<Vec<usize>>,
    /// k of the mean average precision [default: 100].
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_k)]
    pub(crate) map_at_k: Option<Vec<usize>>,
    /// k of MRR and NDCG in reranking [default: 10].
    #[arg(long, value_name = "K", value_parser = at_k)]
    pub(crate) at_k: Option<usize>,
    /// Text put in front of every query [default: the model's prompt `query`, if it has one].
    #[arg(long, value_name = "TEXT", conflicts_with = "query_prompt_name")]
    pub(crate) query_prompt: Option<String>,
    /// Name of the model's prompt for queries.
    #[arg(long, value_name = "NAME")]
    pub(crate) query_prompt_name: Option<String>,
    /// Text put in front of every document [default: the model's prompt `document`, `passage` or `corpus`].
    #[arg(long, value_name = "TEXT", conflicts_with = "corpus_prompt_name")]
    pub(crate) corpus_prompt: Option<String>,
    /// Name of the model's prompt for documents.
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus_prompt_name: Option<String>,
    /// Where nano-beir's data is: a name on the hub with an optional @revision
    /// [default: sentence-transformers/NanoBEIR-en].
    #[arg(long, value_name = "NAME")]
    pub(crate) nano_beir_data: Option<String>,
}

/// What one number is made of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MainScore {
    Last,
    Mean,
    Max,
    Min,
}

/// An evaluator by its name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EvaluatorName {
    /// One that needs no more than texts in columns, and labels.
    Columns(EvaluatorKind),
    Reranking,
    Mse,
    LabelAccuracy,
    ParaphraseMining,
    InformationRetrieval,
    NanoBeir(Vec<NanoDataset>),
    /// All others that are asked for, one after the other.
    Sequential,
}

static OTHERS: [(&str, EvaluatorName); 6] = [
    ("reranking", EvaluatorName::Reranking),
    ("mse", EvaluatorName::Mse),
    ("label-accuracy", EvaluatorName::LabelAccuracy),
    ("paraphrase-mining", EvaluatorName::ParaphraseMining),
    ("information-retrieval", EvaluatorName::InformationRetrieval),
    ("sequential", EvaluatorName::Sequential),
];

impl EvaluatorName {
    /// Whether it evaluates what --data names.
    pub(crate) fn takes_data(&self) -> bool {
        !matches!(
            self,
            Self::InformationRetrieval | Self::NanoBeir(_) | Self::Sequential
        )
    }
}

impl fmt::Display for EvaluatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(kind) => kind.fmt(f),
            Self::NanoBeir(_) => f.write_str("nano-beir"),
            other => {
                let named = OTHERS.iter().find(|(_, evaluator)| evaluator == other);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

impl FromStr for EvaluatorName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, parameters) = match text.split_once(':') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (text, None),
        };
        let folded = |text: &str| text.to_lowercase().replace(['-', '_'], "");
        let wanted = folded(name);
        let wanted = wanted.strip_suffix("evaluator").unwrap_or(&wanted);
        if wanted == "nanobeir" {
            let datasets = match parameters {
                None => Ok(NanoDataset::ALL.to_vec()),
                Some(names) => names
                    .split([',', '+'])
                    .map(|name| {
                        name.trim()
                            .parse()
                            .map_err(|e: eval::EvalError| e.to_string())
                    })
                    .collect(),
            };
            return datasets.map(Self::NanoBeir);
        }
        if parameters.is_some() {
            return Err(format!(
                "only nano-beir has something after a colon: `{text}`"
            ));
        }
        if let Ok(kind) = name.parse() {
            return Ok(Self::Columns(kind));
        }
        let other = OTHERS.iter().find(|(name, _)| folded(name) == wanted);
        other
            .map(|(_, evaluator)| evaluator.clone())
            .ok_or_else(|| {
                let kinds = EvaluatorKind::ALL.iter().map(|kind| kind.name());
                let others = OTHERS.iter().map(|(name, _)| *name);
                let names: Vec<&str> = kinds.chain(others).chain(["nano-beir"]).collect();
                format!(
                    "there is no evaluator `{text}`: there are {}",
                    names.join(", ")
                )
            })
    }
}

/// A margin for all similarities or for each.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MarginFlag(pub(crate) eval::Margin);

impl FromStr for MarginFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| format!("`{text}` is not a number"))
        };
        if !text.contains('=') {
            return number(text).map(|margin| Self(eval::Margin::Same(margin)));
        }
        let each = text.split(',').map(|part| {
            let (name, margin) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not of the form similarity=margin"))?;
            let function = name.parse::<SimilarityFunction>();
            Ok((
                function.map_err(|error| error.to_string())?,
                number(margin)?,
            ))
        });
        Ok(Self(eval::Margin::Each(
            each.collect::<Result<_, String>>()?,
        )))
    }
}

fn at_k(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(k) if k > 0 => Ok(k),
        _ => Err("it must be a whole number above 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("it must be between 0 and 1, such as 0.95".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluators_are_known_by_name_and_class() {
        let parsed = |text: &str| text.parse::<EvaluatorName>();
        let binary = EvaluatorName::Columns(EvaluatorKind::BinaryClassification);
        assert_eq!(parsed("binary-classification"), Ok(binary.clone()));
        assert_eq!(parsed("BinaryClassificationEvaluator"), Ok(binary));
        assert_eq!(parsed("MSEEvaluator"), Ok(EvaluatorName::Mse));
        assert_eq!(parsed("label_accuracy"), Ok(EvaluatorName::LabelAccuracy));
        for name in ["NanoBEIREvaluator:msmarco,NQ", "nano-beir:msmarco+nq"] {
            let Ok(EvaluatorName::NanoBeir(datasets)) = parsed(name) else {
                panic!("{name}");
            };
            assert_eq!(
                datasets.iter().map(|d| d.name()).collect::<Vec<_>>(),
                ["msmarco", "nq"]
            );
        }
        for (name, _) in &OTHERS {
            assert_eq!(parsed(name).unwrap().to_string(), *name);
        }
        let message = parsed("accuracy").unwrap_err();
        assert!(
            message.contains("`accuracy`") && message.contains("reranking, mse"),
            "{message}"
        );
        assert!(
            parsed("nano-beir:all")
                .unwrap_err()
                .contains("quoraretrieval")
        );
        assert!(parsed("triplet:x").unwrap_err().contains("only nano-beir"));
    }

    #[test]
    fn margins_are_one_or_one_for_each() {
        let parsed = |text: &str| text.parse::<MarginFlag>().map(|margin| margin.0);
        assert_eq!(parsed("-0.5"), Ok(eval::Margin::Same(-0.5)));
        let Ok(margin) = parsed("cosine=0.1,dot=2") else {
            panic!("it is well formed");
        };
        assert_eq!(margin.of(SimilarityFunction::Dot), 2.0);
        assert_eq!(margin.of(SimilarityFunction::Manhattan), 0.0);
        assert!(parsed("cos=1").unwrap_err().contains("known are cosine"));
        assert!(parsed("much").unwrap_err().contains("`much`"));
    }
}
