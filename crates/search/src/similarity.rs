//! The four similarities by name, and on slices.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    embeddings::{Embeddings, Matrix, absolute_distance, dot, squared_distance},
    error::SearchError,
};

/// A similarity of two embeddings; greater is more alike.
///
/// The crates that know tensors add its tensor forms: `losses::similarity` and `eval::similarity`.
/// Upstream: `SimilarityFunction` in `sentence_transformers/util/similarity.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// Cosine of the angle.
    #[default]
    #[serde(alias = "cos_sim", alias = "cos-sim")]
    Cosine,
    /// Dot product.
    #[serde(alias = "dot_score", alias = "dot-score")]
    Dot,
    /// Euclidean distance, negated.
    #[serde(alias = "euclidean_sim", alias = "euclidean-sim")]
    Euclidean,
    /// Manhattan distance, negated.
    #[serde(alias = "manhattan_sim", alias = "manhattan-sim")]
    Manhattan,
}

impl Similarity {
    /// All four, in the order in which sentence-transformers names them.
    pub const ALL: [Self; 4] = [Self::Cosine, Self::Dot, Self::Euclidean, Self::Manhattan];

    /// The name in options, metrics and models: `cosine`, `dot`, `euclidean` or `manhattan`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
            Self::Manhattan => "manhattan",
        }
    }

    /// The similarity of row `i` of `a` and row `i` of `b`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn of_rows(self, a: Embeddings<'_>, b: Embeddings<'_>) -> Result<Vec<f32>, SearchError> {
        if (a.len(), a.dimension()) != (b.len(), b.dimension()) {
            return Err(SearchError::Shape(format!(
                "{} embeddings of {} dimensions and {} of {} are no pairs",
                a.len(),
                a.dimension(),
                b.len(),
                b.dimension()
            )));
        }
        let (a, b) = (self.prepared(a), self.prepared(b));
        let rows = a.view().rows().zip(b.view().rows());
        Ok(rows.map(|(a, b)| self.of_prepared(a, b)).collect())
    }

    /// The rows that [`Self::of_prepared`] takes.
    pub(crate) fn prepared(self, embeddings: Embeddings<'_>) -> Matrix<'_> {
        match self {
            Self::Cosine => Matrix::normalized(embeddings),
            _ => Matrix::borrowed(embeddings),
        }
    }

    /// The similarity of two rows, in f64 but for the last step: the same two rows have the same
    /// similarity wherever they stand.
    pub(crate) fn of_prepared(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Cosine | Self::Dot => dot(a, b) as f32,
            Self::Euclidean => -squared_distance(a, b).sqrt() as f32,
            Self::Manhattan => -absolute_distance(a, b) as f32,
        }
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Similarity {
    type Err = SearchError;

    fn from_str(name: &str) -> Result<Self, SearchError> {
        let mut all = Self::ALL.into_iter();
        all.find(|similarity| similarity.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                SearchError::UnknownSimilarity {
                    name: name.to_owned(),
                    known: names,
                }
            })
    }
}
