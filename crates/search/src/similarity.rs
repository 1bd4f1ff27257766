//! How alike two embeddings are.

use std::{fmt, str::FromStr};

use crate::{
    Embeddings, SearchError,
    embeddings::{Matrix, absolute_distance, dot, squared_distance},
};

/// How alike two embeddings are; greater is more alike.
///
/// `SimilarityFunction` of sentence-transformers 6.0.1, `util/similarity.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// Cosine of the angle.
    #[default]
    Cosine,
    /// Dot product.
    Dot,
    /// Euclidean distance, negated.
    Euclidean,
    /// Manhattan distance, negated.
    Manhattan,
}

impl Similarity {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Cosine, Self::Dot, Self::Euclidean, Self::Manhattan];

    /// The name in options and models: `cosine`, `dot`, `euclidean` or `manhattan`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
            Self::Manhattan => "manhattan",
        }
    }

    /// The similarity of row `i` of `a` with row `i` of `b`.
    ///
    /// # Errors
    /// Where the shapes differ.
    pub fn pairwise(self, a: Embeddings<'_>, b: Embeddings<'_>) -> Result<Vec<f32>, SearchError> {
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
                SearchError::option("similarity", format!("found `{name}`, allowed: {names}"))
            })
    }
}
