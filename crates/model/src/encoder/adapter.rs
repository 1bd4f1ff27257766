//! Low-rank adapters of linear layers, and the choice of what is trained.
//!
//! An adapter adds `s B A dropout(x)` to a linear layer's output, with s = alpha / rank or alpha / sqrt(rank) (Hu et al.
//! 2021, "LoRA: Low-Rank Adaptation of Large Language Models", [arXiv 2106.09685](https://arxiv.org/abs/2106.09685);
//! Kalajdzievski 2023, [arXiv 2312.03732](https://arxiv.org/abs/2312.03732), for the square root).

use tch::Tensor;

use crate::{
    encoder::{
        family::{ADAPTER_ROOT, Names},
        spec::Spec,
    },
    error::ModelError,
    parameters::{LeafId, LeafKind, Parameters, Scope},
};

/// The adapter of a linear layer that is one product, or several that are stacked and each adapted or not.
#[derive(Debug)]
pub(crate) struct Adapter {
    /// The first factors of all parts, one after the other, [n r, inputs].
    pub(crate) down: LeafId,
    /// The second factors of all parts, one after the other, [n outputs, r].
    pub(crate) up: LeafId,
    /// The places of the parts among the stacked layers.
    pub(crate) parts: Vec<usize>,
    /// The number of stacked layers.
    pub(crate) n_stacked: usize,
    /// r
    pub(crate) rank: usize,
    /// s
    pub(crate) scale: f64,
    /// The number of the first part's dropout site; the others' follow.
    pub(crate) site: usize,
}

impl Adapter {
    /// The adapter of stacked layers of these names, each with so many inputs and outputs; `None` where none of them
    /// is to be adapted.
    pub(crate) fn declare(
        scope: &mut Scope<'_>,
        names: &[&str],
        [outputs, inputs]: [i64; 2],
        of_layer: &LayerAdapters<'_>,
        site: usize,
    ) -> Option<Self> {
        let adapters = of_layer.adapters?;
        let is_adapted = |name: &str| adapters.targets(&of_layer.path(name), of_layer.layer);
        let parts: Vec<usize> = (0..names.len())
            .filter(|&part| is_adapted(names[part]))
            .collect();
        if parts.is_empty() {
            return None;
        }
        let mut scope = scope.under(ADAPTER_ROOT);
        let mut leaf = |factor: &str, shape: [i64; 2], kind| {
            let of_parts: Vec<String> = parts
                .iter()
                .map(|&part| format!("{}.{factor}.weight", names[part]))
                .collect();
            scope.fused_leaf(&of_parts, &shape, kind)
        };
        Some(Self {
            down: leaf("lora_A", [adapters.rank, inputs], LeafKind::Down),
            up: leaf("lora_B", [outputs, adapters.rank], LeafKind::Up),
            parts,
            n_stacked: names.len(),
            rank: adapters.rank as usize,
            scale: adapters.scale,
            site,
        })
    }

    /// The layer's weights [n outputs, inputs] with what the adapter adds, W + s B A.
    pub(crate) fn merged_into(&self, weight: Tensor, p: &Parameters) -> Result<Tensor, ModelError> {
        let mut merged = weight.f_empty_like()?;
        merged.f_copy_(&weight)?;
        let (down, up) = (p.flat_leaf(self.down)?, p.flat_leaf(self.up)?);
        let (rank, outputs) = (self.rank as i64, up.size()[0] / self.parts.len() as i64);
        for (&place, part) in self.parts.iter().zip(0..) {
            let down = down.f_narrow(0, part * rank, rank)?;
            let up = up.f_narrow(0, part * outputs, outputs)?;
            let added = up.f_matmul(&down)?.f_mul_scalar(self.scale)?;
            let mut to = merged.f_narrow(0, place as i64 * outputs, outputs)?;
            let _ = to.f_add_(&added)?;
        }
        Ok(merged)
    }

    /// Adds what the adapter gives for `rows` [T, inputs] to the layer's output, [T, n outputs].
    pub(crate) fn add_to(
        &self,
        output: &Tensor,
        p: &Parameters,
        rows: &Tensor,
        dropout: Option<f64>,
    ) -> Result<Tensor, ModelError> {
        let (down, up) = (p.leaf(self.down), p.leaf(self.up));
        let none = None::<&Tensor>;
        let rank = self.rank as i64;
        let inner = match dropout {
            None | Some(0.0) => rows.f_linear(down, none)?,
            Some(probability) => {
                let parts = (0..self.parts.len() as i64).map(|part| {
                    let down = down.f_narrow(0, part * rank, rank)?;
                    rows.f_dropout(probability, true)?.f_linear(&down, none)
                });
                Tensor::f_cat(&parts.collect::<Result<Vec<_>, _>>()?, 1)?
            }
        }; // [T, n r]
        let up = if self.n_stacked == 1 {
            up.shallow_clone()
        } else {
            // Each part's outputs in their place, and zeros in those of the others.
            let outputs = up.size()[0] / self.parts.len() as i64;
            let parts = self.parts.iter().zip(0..).map(|(&place, part)| {
                let before = place as i64 * outputs;
                let after = (self.n_stacked - 1 - place) as i64 * outputs;
                let up = up.f_narrow(0, part * outputs, outputs)?;
                up.f_constant_pad_nd([0, 0, before, after])
            });
            Tensor::f_cat(&parts.collect::<Result<Vec<_>, _>>()?, 1)?
        }; // [all outputs, n r]
        let up = up.f_mul_scalar(self.scale)?;
        Ok(output.f_addmm(&inner, &up.f_tr()?)?)
    }
}

/// The adapters of an encoder, resolved to the names of its modules.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Adapters {
    pub(crate) rank: i64,
    pub(crate) scale: f64,
    /// Names of linear layers: the end of a path, from a dot on, or all of it.
    pub(crate) names: Vec<String>,
    /// The layers that are adapted; all where none is named.
    pub(crate) layers: Option<Vec<usize>>,
}

impl Adapters {
    fn targets(&self, path: &str, layer: usize) -> bool {
        let is_layer = self.layers.as_ref();
        is_layer.is_none_or(|layers| layers.contains(&layer))
            && self.names.iter().any(|name| is_named(path, name))
    }
}

/// Whether a module's path is, or ends in, a name, as peft compares them.
pub(crate) fn is_named(path: &str, name: &str) -> bool {
    let before = path.strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The adapters of one layer, for its linear layers to ask.
pub(crate) struct LayerAdapters<'a> {
    pub(crate) adapters: Option<&'a Adapters>,
    pub(crate) layers: &'a str,
    pub(crate) layer: usize,
}

impl LayerAdapters<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}.{}.{name}", self.layers, self.layer)
    }
}

/// The parts of an encoder that are trained, and its adapters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selection {
    /// With adapters, they alone are trained.
    pub(crate) adapters: Option<Adapters>,
    /// The parts that are not trained, by the names of [`parts`].
    pub(crate) frozen: Vec<String>,
}

impl Selection {
    /// Whether a part is trained.
    pub(crate) fn trains(&self, part: &str) -> bool {
        self.adapters.is_none() && !self.frozen.iter().any(|frozen| frozen == part)
    }
}

/// The name of the part with all tables of the embeddings and their norm.
pub(crate) const EMBEDDINGS: &str = "embeddings";

/// The name of the part with the table of relative positions.
pub(crate) const RELATIVE_BIAS: &str = "relative-bias";

/// The name of the part with the norm after the last layer.
pub(crate) const FINAL_NORM: &str = "final-norm";

/// The name of a layer's part.
pub(crate) fn layer_part(layer: usize) -> String {
    format!("layers:{layer}")
}

/// The linear layers of a layer, by their names in it.
pub(crate) fn linear_names(names: &Names) -> Vec<&'static str> {
    let mut all = names.qkv.to_vec();
    all.extend([names.attention_output, names.up, names.down]);
    all
}

/// The ends of the names of the projections to query and value, or of the one to all three.
pub(crate) fn query_and_value(names: &Names) -> Vec<String> {
    let chosen = match names.qkv {
        [query, _, value] => vec![*query, *value],
        together => together.to_vec(),
    };
    let end = |name: &&str| name.rsplit('.').next().unwrap_or(name).to_owned();
    chosen.iter().map(end).collect()
}

/// The linear layers that targets name, by their paths within the encoder.
pub(crate) fn linear_paths(spec: &Spec, names: &Names) -> Vec<String> {
    let of_layer = |layer| {
        let linear = linear_names(names).into_iter();
        linear.map(move |name| format!("{}.{layer}.{name}", names.layers))
    };
    (0..spec.layers.len()).flat_map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_end_of_a_path_from_a_dot_on() {
        let path = "encoder.layer.0.attention.attn.q";
        for name in ["q", "attn.q", path] {
            assert!(is_named(path, name), "{name}");
        }
        for name in ["", "tn.q", "k", "encoder.layer.0.attention.attn", ".q"] {
            assert!(!is_named(path, name), "{name}");
        }
    }
}
