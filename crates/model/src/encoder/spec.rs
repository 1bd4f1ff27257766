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
    /// Rows of the position embedding table, where there is one.
    pub position_rows: Option<i64>,
    /// Rows of the table of token types, where there is one; all tokens are of type 0.
    pub token_types: Option<i64>,
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// Whether linear layers and norms have biases.
    pub biases: bool,
    /// The place of the norms.
    pub placement: Placement,
    /// Whether the first half of the feed-forward part's inner values, under GELU, is a gate for the second.
    pub gated: bool,
    /// Whether a bias by relative position, one table for all layers, is added to the attention's scores.
    pub relative_bias: bool,
    /// One entry a layer, from the first.
    pub layers: Vec<LayerSpec>,
    /// The probabilities of dropout in training.
    pub dropout: Dropout,
    /// The rule for random weights.
    pub init: Init,
}

/// The place of the norms in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// After each half and its residual: x = N(x + f(x)).
    Post,
    /// Before each half: x = x + f(N(x)), and once after the last layer.
    Pre,
}

impl Spec {
    /// Floating point operations that the linear layers need for a token of a training step: two for each of their
    /// weights forward, and four backward. Attention's own products are left out.
    pub fn flops_per_token(&self) -> f64 {
        let (hidden, intermediate) = (self.hidden_size as f64, self.intermediate_size as f64);
        let products = if self.gated { 3.0 } else { 2.0 };
        let a_layer = 4.0 * hidden * hidden + products * hidden * intermediate;
        6.0 * self.layers.len() as f64 * a_layer
    }
}

/// The switches of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// The base of the rotary positions, where there are such.
    pub rotary: Option<f64>,
    /// The largest distance of a key from its query, where it is limited.
    pub window: Option<usize>,
    /// Whether there is a norm before the attention, if norms come before.
    pub attention_norm: bool,
}

impl LayerSpec {
    /// Full attention without rotary positions.
    pub const FULL: Self = Self {
        rotary: None,
        window: None,
        attention_norm: true,
    };
}

/// The probability of dropout at each of its sites; `None` where an architecture has no such site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Dropout after the norm of the embeddings.
    pub embeddings: Option<f64>,
    /// Dropout of the attention probabilities.
    pub probabilities: Option<f64>,
    /// Dropout after the attention's output projection.
    pub attention: Option<f64>,
    /// Dropout before the feed-forward part's last projection.
    pub intermediate: Option<f64>,
    /// Dropout after the feed-forward part's last projection.
    pub output: Option<f64>,
    /// Before the adapters of linear layers, where there are such.
    pub adapters: Option<f64>,
}

impl Dropout {
    /// No dropout anywhere.
    pub const NONE: Self = Self {
        embeddings: None,
        probabilities: None,
        attention: None,
        intermediate: None,
        output: None,
        adapters: None,
    };

    /// The same probability at all sites of the encoder that there are; adapters keep theirs.
    pub fn with_probability(self, probability: f64) -> Self {
        let set = |site: Option<f64>| site.map(|_| probability);
        Self {
            embeddings: set(self.embeddings),
            probabilities: set(self.probabilities),
            attention: set(self.attention),
            intermediate: set(self.intermediate),
            output: set(self.output),
            adapters: self.adapters,
        }
    }
}

// For messages and fingerprints: the one probability of hidden states, that of the attention's, and the adapters'.
impl fmt::Display for Dropout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = [
            self.embeddings,
            self.attention,
            self.intermediate,
            self.output,
        ];
        let mut hidden: Vec<f64> = hidden.into_iter().flatten().collect();
        hidden.dedup();
        match hidden.as_slice() {
            [hidden] => write!(f, "{hidden}")?,
            several => write!(f, "{several:?}")?,
        }
        write!(f, " (attention: {})", self.probabilities.unwrap_or(0.0))?;
        match self.adapters {
            Some(adapters) => write!(f, " (adapters: {adapters})"),
            None => Ok(()),
        }
    }
}

/// The rule for random weights: normal values, zero biases, norms that change nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    /// The standard deviation of weights and tables.
    pub range: f64,
    /// The standard deviation of the weights of both output projections of a layer.
    pub output_range: f64,
    /// Values beyond so many standard deviations are drawn again.
    pub cutoff: Option<f64>,
    /// Whether the padding rows of tables are zero.
    pub zero_padding: bool,
}

impl Init {
    /// BERT's rule.
    pub fn normal(range: f64) -> Self {
        Self {
            range,
            output_range: range,
            cutoff: None,
            zero_padding: true,
        }
    }
}
