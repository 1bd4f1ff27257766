//! Packed batches against padded ones: sentences filled up to the longest, and an attention mask, as upstream
//! computes them, here in f64 and with autograd.

use model::{
    ChunkLimit, ChunkedBatch, ModelError, Pooling, PoolingMode, SentenceTransformer,
    relative_position_bucket,
};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture;

/// Largest difference of a gradient's element, relative to the largest of its parameter, or of `least` where that
/// is more.
const TOLERANCE: f64 = 1e-5;

/// Two layers, 32 wide, for up to 512 tokens, with weights large enough that attention is uneven.
fn model() -> SentenceTransformer {
    let text = std::fs::read_to_string(fixture("tiny-mpnet/config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    config["max_position_embeddings"] = json!(514);
    config["initializer_range"] = json!(0.3);
    let pooling = Pooling::new(PoolingMode::Mean);
    let tokenizer = fixture("tiny-mpnet");
    let mut model =
        SentenceTransformer::random(&config, &tokenizer, pooling, false, 1, Device::Cpu).unwrap();
    model.set_dropout(0.0).unwrap();
    model
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    /// One to six sentences of 1 to 512 tokens, of which some are there twice.
    fn batch(&mut self) -> Vec<Vec<u32>> {
        let mut sentences: Vec<Vec<u32>> = Vec::new();
        for i in 0..1 + self.below(6) {
            if i > 0 && self.below(4) == 0 {
                let twin = self.below(i);
                sentences.push(sentences[twin].clone());
                continue;
            }
            let longest = [4, 20, 60, 512][self.below(4)];
            let length = 1 + self.below(longest);
            sentences.push((0..length).map(|_| 5 + self.below(200) as u32).collect());
        }
        sentences
    }

    fn limit(&mut self) -> ChunkLimit {
        match self.below(3) {
            0 => ChunkLimit {
                tokens: 64,
                sentences: 2,
            },
            _ => ChunkLimit::NONE,
        }
    }
}

/// The parameters in f64, for autograd.
struct Padded<'a> {
    model: &'a SentenceTransformer,
    flat: Tensor,
}

impl Padded<'_> {
    fn leaf(&self, name: &str) -> Tensor {
        let spans = self.model.parameters().spans();
        let span = spans.iter().find(|span| span.name == name).unwrap();
        self.flat
            .narrow(0, span.offset, span.numel())
            .view(span.shape.as_slice())
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        x.linear(
            &self.leaf(&format!("{name}.weight")),
            Some(&self.leaf(&format!("{name}.bias"))),
        )
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let (weight, bias) = (
            self.leaf(&format!("{name}.weight")),
            self.leaf(&format!("{name}.bias")),
        );
        let spec = self.model.encoder().spec();
        x.layer_norm(
            [spec.hidden_size],
            Some(&weight),
            Some(&bias),
            spec.eps,
            false,
        )
    }

    /// Mean-pooled embeddings, [n, H].
    fn embed(&self, sentences: &[Vec<u32>]) -> Tensor {
        let spec = self.model.encoder().spec();
        let (n, h) = (sentences.len() as i64, spec.heads);
        let longest = sentences.iter().map(Vec::len).max().unwrap();
        let l = longest as i64;
        let padding = i64::from(spec.numbering.padding_id);
        let filled: Vec<i64> = sentences
            .iter()
            .flat_map(|ids| (0..longest).map(|i| ids.get(i).map_or(padding, |&id| i64::from(id))))
            .collect();
        let ids = Tensor::from_slice(&filled).view([n, l]);
        let mask = ids.not_equal(padding);
        let positions = mask.cumsum(1, Kind::Int64) * &mask + padding;
        let mask = mask.to_kind(Kind::Double);
        let table = |name: &str, rows: &Tensor| {
            Tensor::embedding(
                &self.leaf(&format!("embeddings.{name}.weight")),
                rows,
                padding,
                false,
                false,
            )
        };
        let words = table("word_embeddings", &ids) + table("position_embeddings", &positions);
        let mut hidden = self.norm(&words, "embeddings.LayerNorm");
        let buckets: Vec<i64> = (0..l)
            .flat_map(|query| (0..l).map(move |key| relative_position_bucket(key - query)))
            .collect();
        let buckets = Tensor::from_slice(&buckets).view([l, l]);
        let bias = Tensor::embedding(
            &self.leaf("encoder.relative_attention_bias.weight"),
            &buckets,
            -1,
            false,
            false,
        );
        let bias = bias.permute([2, 0, 1]).unsqueeze(0)
            + mask.rsub_scalar(1.0).view([n, 1, 1, l]) * f64::from(f32::MIN);
        for layer in 0..spec.layers.len() {
            let at = |name: &str| format!("encoder.layer.{layer}.{name}");
            let heads = |name: &str| {
                let x = self.linear(&hidden, &at(&format!("attention.attn.{name}")));
                x.view([n, l, h, -1]).transpose(1, 2)
            };
            let (q, k, v) = (heads("q"), heads("k"), heads("v"));
            let scale = (spec.hidden_size as f64 / h as f64).sqrt();
            let scores = q.matmul(&k.transpose(2, 3)) / scale + &bias;
            let context = scores.softmax(-1, Kind::Double).matmul(&v);
            let context = context.transpose(1, 2).reshape([n, l, -1]);
            let attended = self.linear(&context, &at("attention.attn.o")) + &hidden;
            let attended = self.norm(&attended, &at("attention.LayerNorm"));
            let wide = self
                .linear(&attended, &at("intermediate.dense"))
                .gelu("none");
            let output = self.linear(&wide, &at("output.dense")) + &attended;
            hidden = self.norm(&output, &at("output.LayerNorm"));
        }
        let mask = mask.unsqueeze(2);
        (hidden * &mask).sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
            / mask.sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
    }
}

/// A scalar that every embedding has its own part in.
fn weighted_sum(embeddings: &Tensor) -> Tensor {
    let n = embeddings.numel() as i64;
    let weights = (Tensor::arange(n, (embeddings.kind(), Device::Cpu)) * 0.37).sin();
    (embeddings.flatten(0, -1) * weights).sum(embeddings.kind())
}

/// The least share of the whole gradient's largest element that a parameter's gradient is compared relative to: values
/// that are zero but for rounding have no digits to agree in.
///
/// The gradient before the softmax is made of differences of numbers as large as the gradient after it: zero for
/// the keys' bias, which adds the same to all scores of a query, and for a sentence of one token.
fn least(name: &str) -> f64 {
    let is_before_softmax = [".attn.q.", ".attn.k.", "relative_attention_bias"];
    if is_before_softmax.iter().any(|part| name.contains(part)) {
        1.0
    } else {
        0.01
    }
}

/// Compares `n` random batches.
fn check(n: usize) {
    tch::set_num_threads(1);
    let model = model();
    let parameters = model.parameters();
    let mut random = Random(7);
    let mut worst = (0.0, String::new());
    for batch in 0..n {
        let sentences = random.batch();
        let limit = random.limit();
        let flat = parameters
            .flat()
            .to_kind(Kind::Double)
            .set_requires_grad(true);
        let padded = Padded {
            model: &model,
            flat,
        };
        let embeddings = padded.embed(&sentences);
        weighted_sum(&embeddings).backward();
        let expected = padded.flat.grad();

        let ids: Vec<&[u32]> = sentences.iter().map(Vec::as_slice).collect();
        let packed = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
        let gradient = parameters.zero_gradient().unwrap();
        let loss = model.forward_backward(&packed, 0, &gradient, |found| {
            let off = (found - &embeddings).abs().max().double_value(&[]);
            let largest = embeddings.abs().max().double_value(&[]);
            assert!(
                off <= TOLERANCE * largest,
                "batch {batch}: embeddings are off by {off:e}"
            );
            let leaf = found.detach().set_requires_grad(true);
            let loss = weighted_sum(&leaf);
            loss.backward();
            Ok::<_, ModelError>((loss.detach(), leaf.grad()))
        });
        drop(loss.unwrap());

        let largest = expected.abs().max().double_value(&[]);
        for span in parameters.spans() {
            let of = |gradient: &Tensor| gradient.narrow(0, span.offset, span.numel());
            let expected = of(&expected);
            let least = largest * least(&span.name);
            let scale = expected.abs().max().double_value(&[]).max(least);
            let off = (of(&gradient) - expected).abs().max().double_value(&[]) / scale;
            if off > worst.0 || off.is_nan() {
                let lengths: Vec<usize> = sentences.iter().map(Vec::len).collect();
                worst = (
                    off,
                    format!(
                        "{}, batch {batch} of lengths {lengths:?}, {limit:?}",
                        span.name
                    ),
                );
            }
        }
    }
    assert!(worst.0 <= TOLERANCE, "off by {:e}: {}", worst.0, worst.1);
}

#[test]
fn packed_is_padded() {
    check(30);
}

/// `cargo test --workspace --test model -- --ignored a_thousand` takes some minutes.
#[test]
#[ignore = "minutes"]
fn packed_is_padded_in_a_thousand_batches() {
    check(1000);
}
