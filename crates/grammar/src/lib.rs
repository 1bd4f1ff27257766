//! A seeded grammar that writes natural-language-inference triplets.

/// A premise, a sentence that follows from it and one that contradicts it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Triplet {
    /// The premise.
    pub anchor: String,
    /// Follows from the premise.
    pub positive: String,
    /// Contradicts the premise.
    pub negative: String,
}
