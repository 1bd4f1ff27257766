//! The bias of attention scores by relative position, of T5 and MPNet.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tch::Tensor;

use crate::{
    batch::buckets::Bucket,
    error::ModelError,
    parameters::{LeafId, Parameters},
};

/// The number of buckets of distances, fixed upstream too.
pub(crate) const BUCKETS: i64 = 32;

/// Distances from here on share the last bucket of their direction.
const MAX_DISTANCE: i64 = 128;

/// The bucket of a key's position relative to the query's, `key - query`.
///
/// Half of the buckets is for each direction; half of those holds one distance each, and the
/// others grow with the logarithm of the distance (Raffel et al. 2020, T5, section 2.1).
pub fn relative_position_bucket(relative_position: i64) -> i64 {
    const PER_DIRECTION: i64 = BUCKETS / 2;
    const EXACT: i64 = PER_DIRECTION / 2;
    let direction = if relative_position > 0 {
        PER_DIRECTION
    } else {
        0
    };
    let distance = relative_position.abs();
    if distance < EXACT {
        return direction + distance;
    }
    // In f32 and in upstream's order of operations, as the edges of buckets depend on rounding.
    let range = (MAX_DISTANCE as f64 / EXACT as f64).ln() as f32;
    let scaled = (distance as f32 / EXACT as f32).ln() / range * (PER_DIRECTION - EXACT) as f32;
    direction + (EXACT + scaled as i64).min(PER_DIRECTION - 1)
}

/// The table of the bias, [buckets, h], one for all layers.
#[derive(Debug)]
pub(crate) struct RelativeBias {
    pub(crate) table: LeafId,
    heads: i64,
    /// Values chosen from the table, by length and kind.
    chosen: Mutex<HashMap<(i64, i32), Tensor>>,
}

impl RelativeBias {
    pub(crate) fn new(table: LeafId, heads: i64) -> Self {
        Self {
            table,
            heads,
            chosen: Mutex::default(),
        }
    }

    /// The bias for the scores of a bucket, `[n, h, l, l]`, with minus infinity for keys that are no token.
    pub(crate) fn of_bucket(&self, p: &Parameters, bucket: &Bucket) -> Result<Tensor, ModelError> {
        let table = p.leaf(self.table);
        let (n, l) = (bucket.sentences(), bucket.length());
        // [l * l, 32] x [32, h] -> [h, l, l]; the gradient by the table is a product too.
        let bias = self
            .chosen(l, table)?
            .f_matmul(table)?
            .f_view([l, l, self.heads])?
            .f_permute([2, 0, 1])?;
        let is_empty = bucket.is_empty()?.f_view([n, 1, 1, l])?;
        Ok(bias
            .f_unsqueeze(0)?
            .f_expand([n, self.heads, l, l], false)?
            .f_masked_fill(&is_empty, f64::NEG_INFINITY)?)
    }

    /// The bucket of each query and key of a sentence of `l` tokens as a row with a single one, `[l * l, 32]`, of the
    /// table's kind and on its device. It is made once for each length.
    fn chosen(&self, l: i64, table: &Tensor) -> Result<Tensor, ModelError> {
        let mut made = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (l, table.kind() as i32);
        if let Some(chosen) = made.get(&key) {
            return Ok(chosen.shallow_clone());
        }
        let _guard = tch::no_grad_guard();
        let buckets: Vec<i64> = (0..l)
            .flat_map(|query| (0..l).map(move |key| relative_position_bucket(key - query)))
            .collect();
        let chosen = Tensor::f_from_slice(&buckets)?
            .f_one_hot(BUCKETS)?
            .f_to_device(table.device())?
            .f_to_kind(table.kind())?;
        made.insert(key, chosen.shallow_clone());
        Ok(chosen)
    }
}

/// The bias table [buckets, h] by distance, [h, 2 L - 1] for a longest sentence of L tokens: column
/// `key - query + L - 1`.
pub(crate) fn unfold(table: &[f32], longest: usize) -> Vec<f32> {
    let heads = table.len() / BUCKETS as usize;
    let n_distances = 2 * longest - 1;
    let mut relative = vec![0.0; heads * n_distances];
    for (column, bucket) in buckets(longest).enumerate() {
        for head in 0..heads {
            relative[head * n_distances + column] = table[bucket * heads + head];
        }
    }
    relative
}

/// The backward pass of [`unfold`]: adds the gradient [h, 2 L - 1] to the table's [buckets, h].
pub(crate) fn fold(d_relative: &[f32], longest: usize, d_table: &mut [f32]) {
    let heads = d_table.len() / BUCKETS as usize;
    let n_distances = 2 * longest - 1;
    for (column, bucket) in buckets(longest).enumerate() {
        for head in 0..heads {
            d_table[bucket * heads + head] += d_relative[head * n_distances + column];
        }
    }
}

/// The bucket of every distance `key - query`, from 1 - L to L - 1.
fn buckets(longest: usize) -> impl Iterator<Item = usize> {
    let longest = longest as i64;
    (1 - longest..longest).map(|distance| relative_position_bucket(distance) as usize)
}
