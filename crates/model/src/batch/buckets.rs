//! A packed batch on a device: its ids, and its sentences in buckets of similar length.
//!
//! Linear layers and norms run over the packed rows. Attention and pooling need the tokens of a sentence side by
//! side in a rectangle, and a GPU wants few and large rectangles rather than one for each length: a bucket holds
//! sentences of several lengths, each padded to the bucket's. The padding is masked, and no other part of the encoder
//! sees it.

use tch::{Kind, Tensor};

use crate::{
    batch::{
        packed::{OneToken, PackedBatch},
        upload::upload,
    },
    encoder::numbering::Numbering,
    error::ModelError,
};

/// Lengths are rounded up to a multiple of it, which the attention kernels of GPUs are fast for.
const LENGTH_STEP: usize = 16;

/// A bucket is filled up to the next longer one's length where that adds so many scores a head at most: about as
/// many as a GPU computes in the time that it takes to launch the bucket's kernels.
const MERGED_SCORES: usize = 1 << 19;

/// A batch as libtorch computes with it.
#[derive(Debug)]
pub(crate) struct DeviceBatch {
    /// Token ids, `[T]`, 64-bit, in packed order.
    pub(crate) ids: Tensor,
    /// Positions, `[T]`, 64-bit, in packed order.
    pub(crate) positions: Tensor,
    /// The packed row of each of the caller's sentences, `[S]`, 64-bit.
    pub(crate) restore: Tensor,
    /// Shortest sentences first, in packed order.
    pub(crate) buckets: Vec<Bucket>,
}

/// Neighbours in packed order as a rectangle.
#[derive(Debug)]
pub(crate) struct Bucket {
    shape: BucketShape,
    /// The place of each packed token in the rectangle `[n * l]`, `[t]`, 64-bit.
    slots: Tensor,
    /// Tokens of each sentence, `[n, 1]`, 64-bit.
    lengths: Tensor,
    /// The length of the prompt at the start of each sentence, in tokens, `[n, 1]`, 64-bit.
    starts: Tensor,
}

/// The sizes that decide on the shapes of a bucket's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketShape {
    /// Sentences, n.
    pub(crate) sentences: usize,
    /// Tokens that each has room for, l.
    pub(crate) length: usize,
    /// Packed tokens, t.
    pub(crate) tokens: usize,
    /// Padding tokens appended to the packed ones to reach a round number of them; they belong to no sentence.
    pub(crate) filler: usize,
}

impl BucketShape {
    /// The rows of the rectangle, n * l.
    fn rows(self) -> i64 {
        (self.sentences * self.length) as i64
    }
}

impl DeviceBatch {
    /// Puts a batch on its device, by one copy that the host does not wait for.
    pub(crate) fn new(batch: &PackedBatch, numbering: Numbering) -> Result<Self, ModelError> {
        let shapes = shapes(batch.offsets());
        let numbers = numbers(batch, numbering, &shapes, batch.host_restore());
        let numbers = upload(&numbers, batch.device())?;
        Self::of(&numbers, &shapes)
    }

    /// The parts of the result of [`numbers`] for these buckets, as views.
    pub(crate) fn of(numbers: &Tensor, shapes: &[BucketShape]) -> Result<Self, ModelError> {
        let n_tokens = shapes.iter().map(|shape| shape.tokens).sum();
        let n_sentences = shapes.iter().map(|shape| shape.sentences).sum();
        let mut at = 0;
        let mut take = |n: usize| -> Result<Tensor, ModelError> {
            let part = numbers.f_narrow(0, at, n as i64)?;
            at += n as i64;
            Ok(part)
        };
        let (ids, positions) = (take(n_tokens)?, take(n_tokens)?);
        let restore = take(n_sentences)?;
        let mut buckets = Vec::with_capacity(shapes.len());
        for &shape in shapes {
            buckets.push(Bucket {
                shape,
                slots: take(shape.tokens)?,
                lengths: take(shape.sentences)?.f_unsqueeze(1)?,
                starts: take(shape.sentences)?.f_unsqueeze(1)?,
            });
        }
        Ok(Self {
            ids,
            positions,
            restore,
            buckets,
        })
    }

    /// Splits `[T, ...]` into one tensor per bucket, `[t, ...]`.
    ///
    /// One split, not a slice per bucket: its gradient is one concatenation.
    pub(crate) fn split(&self, rows: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        if let [_] = self.buckets.as_slice() {
            return Ok(vec![rows.shallow_clone()]);
        }
        let sizes = self.buckets.iter().map(|bucket| bucket.shape.tokens as i64);
        Ok(rows.f_split_with_sizes(sizes.collect::<Vec<_>>().as_slice(), 0)?)
    }

    /// As [`Self::split`], of one row a sentence, `[S, ...]`.
    pub(crate) fn split_sentences(&self, rows: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let sizes = self.buckets.iter().map(Bucket::sentences);
        Ok(rows.f_split_with_sizes(sizes.collect::<Vec<_>>().as_slice(), 0)?)
    }

    /// The rows `[S, ...]` of one token of each sentence, of all rows `[T, ...]`.
    pub(crate) fn choose(&self, rows: &Tensor, token: OneToken) -> Result<Tensor, ModelError> {
        let mut chosen = Vec::with_capacity(self.buckets.len());
        for (bucket, rows) in self.buckets.iter().zip(self.split(rows)?) {
            // Where each sentence begins among the bucket's tokens.
            let begins = bucket.lengths.f_cumsum(0, Kind::Int64)?;
            let begins = begins.f_sub(&bucket.lengths)?;
            let places = begins.f_add(&bucket.place_of(token)?)?;
            chosen.push(rows.f_index_select(0, &places.f_view([-1])?)?);
        }
        Ok(Tensor::f_cat(&chosen, 0)?)
    }
}

impl Bucket {
    /// The number of sentences, n.
    pub(crate) fn sentences(&self) -> i64 {
        self.shape.sentences as i64
    }

    /// The tokens that each sentence has room for, l.
    pub(crate) fn length(&self) -> i64 {
        self.shape.length as i64
    }

    /// Packed rows `[t, w]` as a rectangle `[n * l, w]`, filled up with zeros.
    pub(crate) fn fill_up(&self, rows: &Tensor) -> Result<Tensor, ModelError> {
        let (_, width) = rows.size2()?;
        let size = self.shape.rows() + self.shape.filler as i64;
        // The gradient of this copy is a selection, and needs no atomic additions.
        let filled = Tensor::f_zeros([size, width], (rows.kind(), rows.device()))?.f_index_copy(
            0,
            &self.slots,
            rows,
        )?;
        if self.shape.filler == 0 {
            return Ok(filled);
        }
        Ok(filled.f_narrow(0, 0, self.shape.rows())?)
    }

    /// The packed rows `[t, w]` of a rectangle `[n * l, w]`.
    pub(crate) fn pack(&self, filled: &Tensor) -> Result<Tensor, ModelError> {
        if self.shape.filler == 0 {
            return Ok(filled.f_index_select(0, &self.slots)?);
        }
        let (_, width) = filled.size2()?;
        let rest = Tensor::f_zeros(
            [self.shape.filler as i64, width],
            (filled.kind(), filled.device()),
        )?;
        Ok(Tensor::f_cat(&[filled, &rest], 0)?.f_index_select(0, &self.slots)?)
    }

    /// The places beyond the end of each sentence, `[n, l]`, of booleans.
    pub(crate) fn is_empty(&self) -> Result<Tensor, ModelError> {
        Ok(self.places()?.f_ge_tensor(&self.lengths)?)
    }

    /// The places of the tokens that are pooled, `[n, l]`, of booleans; with `prompts`, those of prompts too.
    pub(crate) fn is_pooled(&self, prompts: bool) -> Result<Tensor, ModelError> {
        let places = self.places()?;
        let is_within = places.f_lt_tensor(&self.lengths)?;
        if prompts {
            return Ok(is_within);
        }
        Ok(is_within.f_logical_and(&places.f_ge_tensor(&self.starts)?)?)
    }

    /// Places within a sentence, counted from zero, `[1, l]`, 64-bit.
    pub(crate) fn places(&self) -> Result<Tensor, ModelError> {
        let options = (Kind::Int64, self.lengths.device());
        Ok(Tensor::f_arange(self.length(), options)?.f_unsqueeze(0)?)
    }

    /// The place of a token within its sentence, `[n, 1]`, 64-bit.
    pub(crate) fn place_of(&self, token: OneToken) -> Result<Tensor, ModelError> {
        Ok(match token {
            OneToken::First { prompts: true } => self.starts.f_zeros_like()?,
            OneToken::First { prompts: false } => self.starts.shallow_clone(),
            OneToken::Last => self.lengths.f_sub_scalar(1)?,
        })
    }
}

/// The buckets of a batch, given where each sentence begins in packed order and its number of tokens.
pub(crate) fn shapes(offsets: &[usize]) -> Vec<BucketShape> {
    let mut shapes: Vec<BucketShape> = Vec::new();
    // From the longest sentence down, so that shorter ones join a bucket that is there.
    for sentence in (1..offsets.len()).rev() {
        let tokens = offsets[sentence] - offsets[sentence - 1];
        let length = tokens.next_multiple_of(LENGTH_STEP);
        match shapes.last_mut() {
            Some(bucket) if joins(bucket, &offsets[..=sentence], length) => {
                bucket.sentences += 1;
                bucket.tokens += tokens;
            }
            _ => shapes.push(BucketShape {
                sentences: 1,
                length,
                tokens,
                filler: 0,
            }),
        }
    }
    shapes.reverse();
    shapes
}

/// Whether the last of the sentences that end at `offsets` is filled up to the length of `bucket`.
fn joins(bucket: &BucketShape, offsets: &[usize], length: usize) -> bool {
    if bucket.length == length {
        return true;
    }
    // All of this length go the same way: how many there are decides.
    let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
    let n = lengths
        .rev()
        .take_while(|tokens| tokens.next_multiple_of(LENGTH_STEP) == length)
        .count();
    n * (bucket.length * bucket.length - length * length) <= MERGED_SCORES
}

/// All whole numbers of a batch, in the order in which [`DeviceBatch::of`] takes them apart.
///
/// `restore` is the packed row of each of the caller's sentences. Where the last bucket has room for filler, its
/// tokens come last and are padding.
pub(crate) fn numbers(
    batch: &PackedBatch,
    numbering: Numbering,
    shapes: &[BucketShape],
    restore: &[usize],
) -> Vec<i64> {
    let offsets = batch.offsets();
    let filler: usize = shapes.iter().map(|shape| shape.filler).sum();
    let positions = numbering.of_packed(batch.host_ids(), offsets);
    let mut numbers = Vec::with_capacity(3 * (batch.tokens() + filler) + 3 * batch.sentences());
    for (part, padding) in [
        (batch.host_ids(), numbering.padding_id),
        (positions.as_slice(), numbering.of_padding()),
    ] {
        numbers.extend(part.iter().map(|&number| i64::from(number)));
        numbers.extend(std::iter::repeat_n(i64::from(padding), filler));
    }
    numbers.extend(restore.iter().map(|&row| row as i64));
    let mut first = 0;
    for shape in shapes {
        let sentences = first..first + shape.sentences;
        for (i, sentence) in sentences.clone().enumerate() {
            let tokens = offsets[sentence + 1] - offsets[sentence];
            numbers.extend((0..tokens).map(|token| (i * shape.length + token) as i64));
        }
        numbers.extend((0..shape.filler as i64).map(|i| shape.rows() + i));
        numbers.extend(
            sentences
                .clone()
                .map(|i| (offsets[i + 1] - offsets[i]) as i64),
        );
        let prompts = batch.prompt_lengths();
        numbers.extend(sentences.map(|i| prompts.get(i).map_or(0, |&length| length as i64)));
        first += shape.sentences;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::encoder::numbering::Positions;

    fn shapes_of(lengths: &[usize]) -> Vec<(usize, usize, usize)> {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets.last().unwrap() + length);
        }
        let shapes = shapes(&offsets);
        let shapes = shapes.iter().map(|s| (s.sentences, s.length, s.tokens));
        shapes.collect()
    }

    #[test]
    fn a_small_batch_is_one_bucket() {
        assert_eq!(shapes_of(&[3, 5, 9, 17, 40]), [(5, 48, 74)]);
        assert_eq!(shapes_of(&[16]), [(1, 16, 16)]);
        assert_eq!(shapes_of(&[1]), [(1, 16, 1)]);
    }

    #[test]
    fn many_short_sentences_are_not_filled_up_to_a_long_one() {
        let mut lengths = vec![9; 3000];
        lengths.extend([30; 500]);
        lengths.push(500);
        assert_eq!(
            shapes_of(&lengths),
            [(3000, 16, 27_000), (500, 32, 15_000), (1, 512, 500)]
        );
    }

    #[test]
    fn rectangles_hold_the_packed_rows_and_zeros() {
        let sentences: [&[u32]; 3] = [&[5, 6, 7], &[8], &[9, 10]];
        let packed = PackedBatch::new(&sentences, Device::Cpu).unwrap();
        for filler in [0, 5] {
            let mut shapes = shapes(packed.offsets());
            shapes[0].filler = filler;
            shapes[0].tokens += filler;
            let numbering = Numbering {
                padding_id: 1,
                positions: Positions::AfterPadding,
            };
            let numbers = numbers(&packed, numbering, &shapes, packed.host_restore());
            let batch = DeviceBatch::of(&Tensor::from_slice(&numbers), &shapes).unwrap();
            let ids = Vec::<i64>::try_from(&batch.ids).unwrap();
            let mut expected = vec![8, 9, 10, 5, 6, 7];
            expected.extend(vec![1; filler]);
            assert_eq!(ids, expected);
            assert_eq!(Vec::<i64>::try_from(&batch.restore).unwrap(), [2, 0, 1]);

            let bucket = &batch.buckets[0];
            let rows = batch.ids.to_kind(Kind::Float).unsqueeze(1);
            let filled = bucket.fill_up(&rows).unwrap();
            let table = Vec::<f32>::try_from(&filled.view([-1])).unwrap();
            assert_eq!(table.len(), 48);
            assert_eq!(table[..3], [8.0, 0.0, 0.0]);
            assert_eq!(table[16..19], [9.0, 10.0, 0.0]);
            assert_eq!(table[32..36], [5.0, 6.0, 7.0, 0.0]);
            let again = Vec::<f32>::try_from(&bucket.pack(&filled).unwrap().view([-1])).unwrap();
            assert_eq!(again[..6], [8.0, 9.0, 10.0, 5.0, 6.0, 7.0]);
            assert_eq!(again[6..], vec![0.0; filler]);

            let is_empty = bucket.is_empty().unwrap();
            assert_eq!(is_empty.size(), [3, 16]);
            assert_eq!(is_empty.sum(Kind::Int64).int64_value(&[]), 42);
        }
    }
}
