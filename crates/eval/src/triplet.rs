//! Triplet accuracy: how often the positive is more similar to the anchor than the negative.

use std::{collections::HashMap, str::FromStr};

use search::Similarity;

use crate::{
    csv::{self, CsvTable},
    entry::{ColumnNeeds, Entry, Needs, Side, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    options::{Flag, MAIN_SIMILARITY, parses},
    rows::{RowFigures, shares},
    similarity::{self, TensorSimilarity, same_shape, to_vec},
};

/// Share of triplets with `sim(anchor, positive) > sim(anchor, negative) + margin`, strictly.
///
/// # Keys
///
/// `{name}_{similarity}_accuracy` for each similarity in order, and `{name}_max_accuracy` where
/// there are several. The primary one is that of `main_similarity`, else the maximum, else the
/// only one. CSV: `triplet_evaluation_{name}_results.csv`.
///
/// The accuracy is counted the same way for the dot product as for the others.
/// sentence-transformers 3.0 counted the dot product the wrong way round, so that figures from that
/// time are one minus what they should be, but for ties.
///
/// Upstream file: `sentence_transformer/evaluation/triplet.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct TripletEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to give an accuracy for.
    pub similarity_fn_names: Vec<Similarity>,
    /// The similarity whose accuracy is the primary metric.
    pub main_similarity: Option<Similarity>,
    /// Least lead of the positive in similarity.
    pub margin: Margin,
}

/// A margin for all similarities or for each.
#[derive(Debug, Clone, PartialEq)]
pub enum Margin {
    /// The same for all.
    Same(f64),
    /// One for each similarity; zero for those not named.
    Each(HashMap<Similarity, f64>),
}

const NAME: &str = "TripletEvaluator";

static MARGIN: Flag = Flag::new(
    "margin",
    "X",
    "By how much the positive of a triplet has to be more similar: a number, or for each similarity \
     cosine=X,dot=X [default: 0]",
)
.signed()
.checked(parses::<Margin>);

pub(crate) static ENTRY: Entry = Entry {
    name: "triplet",
    unit: "triplets",
    sides: &[Side::Query, Side::Document, Side::Document],
    flags: &[&MAIN_SIMILARITY, &MARGIN],
    needs: Needs::Columns(ColumnNeeds {
        words: "3 text columns without labels (anchor, positive, negative)",
        n_columns: &[3],
        labels: &[LabelKind::None],
        is_default: true,
        compares_texts: false,
        source: Source::Model,
        build: |name, options| {
            let (main_similarity, similarities) = options.main_among(&Similarity::ALL)?;
            Ok(Box::new(TripletEvaluator {
                main_similarity,
                margin: options.one(MARGIN.name)?.unwrap_or(Margin::Same(0.0)),
                ..TripletEvaluator::new(name, &similarities)
            }))
        },
    }),
};

impl TripletEvaluator {
    /// An evaluator with margin zero; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[Similarity]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: similarity::or_cosine(similarity_fn_names),
            main_similarity: None,
            margin: Margin::Same(0.0),
        }
    }

    /// Whether each triplet is right by one similarity.
    fn correct(&self, function: Similarity, inputs: &Inputs<'_>) -> Result<Vec<bool>, EvalError> {
        let [anchors, positives, negatives] = inputs.columns(NAME)?;
        let columns = same_shape(
            NAME,
            &[
                ("anchors", anchors),
                ("positives", positives),
                ("negatives", negatives),
            ],
        )?;
        let positive = function.pairwise(&columns[0], &columns[1])?;
        let negative = function.pairwise(&columns[0], &columns[2])?;
        let threshold = negative.f_add_scalar(self.margin.of(function))?;
        let correct = to_vec(&positive.f_gt_tensor(&threshold)?)?;
        Ok(correct.into_iter().map(|correct| correct != 0.0).collect())
    }
}

impl Evaluator for TripletEvaluator {
    /// Takes anchors, positives and negatives, each `[n, dimension]`.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let mut entries = Vec::new();
        for function in &self.similarity_fn_names {
            let correct = self.correct(*function, inputs)?;
            let hits = correct.iter().filter(|correct| **correct).count();
            let accuracy = hits as f64 / correct.len() as f64;
            entries.push((format!("{function}_accuracy"), accuracy));
        }
        let only = self.similarity_fn_names.first().copied();
        let mut primary = format!("{}_accuracy", only.unwrap_or_default());
        if entries.len() > 1 {
            let accuracies = entries.iter().map(|(_, accuracy)| *accuracy);
            let max = accuracies.fold(0.0, f64::max);
            entries.push(("max_accuracy".to_owned(), max));
            primary = "max_accuracy".to_owned();
        }
        if let Some(main) = self.main_similarity {
            primary = format!("{main}_accuracy");
        }
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let (mut n_rows, mut columns) = (0, Vec::new());
        for function in &self.similarity_fn_names {
            let correct = self.correct(*function, inputs)?;
            n_rows = correct.len();
            columns.push((format!("{function}_accuracy"), shares(&correct)));
        }
        Ok(Some(RowFigures::means(&self.name, n_rows, columns)))
    }

    fn csv(&self) -> CsvTable {
        let functions = self.similarity_fn_names.iter();
        let columns = functions.map(|function| {
            (
                format!("accuracy_{function}"),
                format!("{function}_accuracy"),
            )
        });
        let file = csv::file_name("triplet_evaluation", &self.name);
        CsvTable::new(file, &self.name, columns)
    }
}

impl Margin {
    /// The margin of one similarity.
    pub fn of(&self, function: Similarity) -> f64 {
        match self {
            Self::Same(margin) => *margin,
            Self::Each(margins) => margins.get(&function).copied().unwrap_or(0.0),
        }
    }
}

impl FromStr for Margin {
    type Err = String;

    /// A number, or `similarity=number` for each, with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| format!("`{text}` is not a number"))
        };
        if !text.contains('=') {
            return number(text).map(Self::Same);
        }
        let each = text.split(',').map(|part| {
            let (name, margin) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not of the form similarity=margin"))?;
            let function = name.parse::<Similarity>();
            Ok((
                function.map_err(|error| error.to_string())?,
                number(margin)?,
            ))
        });
        Ok(Self::Each(each.collect::<Result<_, String>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_one_or_one_for_each() {
        assert_eq!("-0.5".parse(), Ok(Margin::Same(-0.5)));
        let margin: Margin = "cosine=0.1,dot=2".parse().unwrap();
        assert_eq!(margin.of(Similarity::Dot), 2.0);
        assert_eq!(margin.of(Similarity::Manhattan), 0.0);
        let refused = |text: &str| text.parse::<Margin>().unwrap_err();
        assert!(refused("cos=1").contains("known are cosine"));
        assert!(refused("much").contains("`much`"));
    }
}
