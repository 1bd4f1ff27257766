//! The switches of the transformer that all encoders are computed by.

use std::fmt;

use crate::encoder::numbering::Numbering;

/// Sizes and switches of an encoder. All are chosen once for a layer or for the whole encoder, never per element.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Rows of the word embedding table.
    pub vocab_size: i64,
    /// The width of a token embedding, H.
    pub hidden_size: i64,
    /// The number of attention heads, h; divides `hidden_size`.
    pub heads: i64,
    /// The width of the feed-forward part, I.
    pub intermediate_size: i64,
    /// The longest sentence, in tokens.
    pub max_length: usize,
    /// Padding and positions.
    pub numbering: Numbering,
    /// Rows of the position embedding table.
    pub position_rows: i64,
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// Whether a bias by relative position, one table for all layers, is added to the attention's scores.
    pub relative_bias: bool,
    /// One entry a layer, from the first.
    pub layers: Vec<LayerSpec>,
    /// The probabilities of dropout in training.
    pub dropout: Dropout,
    /// The rule for random weights.
    pub init: Init,
}

impl Spec {
    /// Floating point operations that the linear layers need for a token of a training step: two for each of their
    /// weights forward, and four backward. Attention's own products are left out.
    pub fn flops_per_token(&self) -> f64 {
        let (hidden, intermediate) = (self.hidden_size as f64, self.intermediate_size as f64);
        let a_layer = 4.0 * hidden * hidden + 2.0 * hidden * intermediate;
        6.0 * self.layers.len() as f64 * a_layer
    }
}

/// The switches of one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LayerSpec {}

/// The probability of dropout at each of its sites; `None` where an architecture has no such site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// After the norm of the embeddings.
    pub embeddings: Option<f64>,
    /// Of the attention probabilities.
    pub probabilities: Option<f64>,
    /// After the attention's output projection.
    pub attention: Option<f64>,
    /// After the feed-forward part's last projection.
    pub output: Option<f64>,
}

impl Dropout {
    /// No dropout anywhere.
    pub const NONE: Self = Self {
        embeddings: None,
        probabilities: None,
        attention: None,
        output: None,
    };

    /// The same probability at all sites that there are.
    pub fn with_probability(self, probability: f64) -> Self {
        let set = |site: Option<f64>| site.map(|_| probability);
        Self {
            embeddings: set(self.embeddings),
            probabilities: set(self.probabilities),
            attention: set(self.attention),
            output: set(self.output),
        }
    }
}

// For messages and fingerprints: the one probability of hidden states, and that of the attention's.
impl fmt::Display for Dropout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = [self.embeddings, self.attention, self.output];
        let mut hidden: Vec<f64> = hidden.into_iter().flatten().collect();
        hidden.dedup();
        match hidden.as_slice() {
            [hidden] => write!(f, "{hidden}")?,
            several => write!(f, "{several:?}")?,
        }
        write!(f, " (attention: {})", self.probabilities.unwrap_or(0.0))
    }
}

/// The rule for random weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    /// The standard deviation of the normal distribution that weights and tables are drawn from.
    pub range: f64,
}
