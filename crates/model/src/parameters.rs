//! All parameters of a model as views of one flat tensor.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicI64, Ordering},
};

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;

/// All weights of a model in one flat `f32` tensor.
///
/// The modules compute with *leaves*: tensors that are views into `flat` and that autograd
/// differentiates. A checkpoint names *spans*. A leaf covers one span or several that lie side by
/// side, such as the query, key and value projections, which are one matrix product.
///
/// The weights that are trained come first, as one range: see [`Parameters::trained`]; gradients and moments are of
/// that range alone. Within it decayed weights come first and the others follow, so that an optimizer treats two
/// contiguous ranges: see [`Parameters::decayed`]. Biases, the relative position bias and norms are not decayed, by their kind;
/// those are the ones that transformers' trainer leaves out by their class and name
/// (`get_decay_parameter_names` in its trainer.py).
///
/// An update of `flat` in place, under `no_grad`, is seen by the next forward pass.
#[derive(Debug)]
pub struct Parameters {
    flat: Tensor,
    leaves: Vec<Leaf>,
    spans: Vec<Span>,
    /// The elements that are trained: the first ones.
    n_trained: i64,
    decayed: i64,
    /// The leaves before this one are the encoder's.
    encoder_end: usize,
    /// The leaves that are trained, in the order of the flat tensor.
    order: Vec<usize>,
    rounded: Option<Rounded>,
}

/// The weights in 16 bits, and the encoder's leaves as views of them.
#[derive(Debug)]
struct Rounded {
    flat: Tensor,
    leaves: Vec<Tensor>,
    /// The version of the weights that these were rounded from.
    version: AtomicI64,
}

/// A version that no tensor has.
const STALE: i64 = -1;

/// One parameter of the checkpoint, as a range of the flat tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The checkpoint's name, such as `encoder.layer.0.attention.attn.q.weight`.
    pub name: String,
    /// The checkpoint's shape.
    pub shape: Vec<i64>,
    /// Its first element in the flat tensor.
    pub offset: i64,
    /// Whether weight decay applies to it.
    pub decay: bool,
    /// Whether it is trained.
    pub trained: bool,
    pub(crate) kind: LeafKind,
    /// The root that it was declared under, which its name begins with.
    root: String,
}

/// The kind of a parameter, which decides on weight decay and on random values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeafKind {
    /// The weights of a linear layer.
    Matrix,
    /// The weights of a linear layer whose output goes into the residual.
    OutputMatrix,
    /// An embedding table, and its row that gets no gradient.
    Table {
        /// The row.
        padding: Option<u32>,
    },
    /// A table of biases by relative position.
    RelativeBias,
    /// The scale of a norm.
    Scale,
    /// The bias of a linear layer, or the shift of a norm.
    Bias,
    /// The first factor of an adapter, [rank, inputs].
    Down,
    /// The second factor of an adapter, [outputs, rank].
    Up,
}

impl LeafKind {
    fn decays(self) -> bool {
        matches!(
            self,
            Self::Matrix | Self::OutputMatrix | Self::Table { .. } | Self::Down | Self::Up
        )
    }
}

impl Span {
    /// The number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Names a leaf of the [`Parameters`] that the module was declared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafId(usize);

#[derive(Debug)]
struct Leaf {
    tensor: Tensor,
    shape: Vec<i64>,
    offset: i64,
    trained: bool,
}

impl Leaf {
    /// The leaf's place in `flat`, for autograd, which differentiates by what is trained.
    fn view_of(&self, flat: &Tensor) -> Result<Tensor, ModelError> {
        view(flat, self.offset, &self.shape, self.trained)
    }
}

fn view(flat: &Tensor, offset: i64, shape: &[i64], trained: bool) -> Result<Tensor, ModelError> {
    let view = flat
        .f_narrow(0, offset, shape.iter().product())?
        .f_view(shape)?;
    Ok(view.f_detach()?.f_requires_grad_(trained)?)
}

impl Parameters {
    /// The flat tensor, `[n]`. Update it in place under `no_grad`.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Every parameter of the checkpoint, in the order of the flat tensor.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The number of elements.
    pub fn numel(&self) -> i64 {
        self.spans.iter().map(Span::numel).sum()
    }

    /// The weights that are trained, `[n]`: the first elements of the flat tensor. Update it in place under
    /// `no_grad`.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub fn trained(&self) -> Result<Tensor, ModelError> {
        Ok(self.flat.f_narrow(0, 0, self.n_trained)?)
    }

    /// The weights that are not trained, `[n]`.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub fn frozen(&self) -> Result<Tensor, ModelError> {
        let n = self.flat.numel() as i64 - self.n_trained;
        Ok(self.flat.f_narrow(0, self.n_trained, n)?)
    }

    /// The number of elements that are trained.
    pub fn n_trained(&self) -> i64 {
        self.n_trained
    }

    /// Whether a leaf is trained.
    pub(crate) fn is_trained(&self, id: LeafId) -> bool {
        self.leaves[id.0].trained
    }

    /// The number of elements that weight decay applies to: the first ones of the flat tensor.
    pub fn decayed(&self) -> i64 {
        self.decayed
    }

    /// The device that the flat tensor lies on.
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// The parameters that were declared under a root, each with its name without the root.
    pub(crate) fn spans_of<'s>(
        &'s self,
        root: &'s str,
    ) -> impl Iterator<Item = (&'s str, &'s Span)> {
        let spans = self.spans.iter().filter(move |span| span.root == root);
        spans.map(|span| (&span.name[root.len()..], span))
    }

    /// The tensor that a module computes with: a view into the flat tensor, or of the encoder's into the rounded
    /// copy where there is one.
    pub fn leaf(&self, id: LeafId) -> &Tensor {
        self.differentiated(id.0)
    }

    /// The tensor of a leaf that autograd differentiates by.
    fn differentiated(&self, leaf: usize) -> &Tensor {
        let rounded = self.rounded.as_ref();
        rounded
            .and_then(|rounded| rounded.leaves.get(leaf))
            .unwrap_or(&self.leaves[leaf].tensor)
    }

    /// Has the encoder compute with the weights rounded to `kind`, from a copy that [`Self::refresh`] keeps up with
    /// the weights; `f32` are the weights themselves.
    pub(crate) fn round_to(&mut self, kind: Kind) -> Result<(), ModelError> {
        self.rounded = None;
        if kind == Kind::Float {
            return Ok(());
        }
        let flat = self.flat.f_to_kind(kind)?;
        let leaves = self.leaves[..self.encoder_end].iter();
        self.rounded = Some(Rounded {
            leaves: leaves
                .map(|leaf| leaf.view_of(&flat))
                .collect::<Result<_, _>>()?,
            flat,
            version: AtomicI64::new(self.flat.f_internal_version()?),
        });
        Ok(())
    }

    /// Rounds the weights, whether or not they have changed, as a graph that is recorded has to.
    pub(crate) fn round_again(&self) -> Result<(), ModelError> {
        if let Some(rounded) = &self.rounded {
            rounded.version.store(STALE, Ordering::Relaxed);
        }
        self.refresh()
    }

    /// Rounds all weights again, those that are not trained too.
    pub(crate) fn round_all(&self) -> Result<(), ModelError> {
        if let Some(rounded) = &self.rounded {
            let _guard = tch::no_grad_guard();
            rounded.flat.f_detach()?.f_copy_(&self.flat)?;
        }
        Ok(())
    }

    /// Takes note that a replayed graph has changed the weights, which their version does not tell.
    pub fn were_changed_by_a_graph(&self) {
        if let Some(rounded) = &self.rounded {
            rounded.version.store(STALE, Ordering::Relaxed);
        }
    }

    /// Rounds the weights that are trained again if they have changed since.
    pub(crate) fn refresh(&self) -> Result<(), ModelError> {
        let Some(rounded) = &self.rounded else {
            return Ok(());
        };
        let version = self.flat.f_internal_version()?;
        if rounded.version.swap(version, Ordering::Relaxed) != version {
            let _guard = tch::no_grad_guard();
            // Through a detached handle: autograd has it that leaves are not written.
            let mut changed = rounded.flat.f_detach()?.f_narrow(0, 0, self.n_trained)?;
            changed.f_copy_(&self.trained()?)?;
        }
        Ok(())
    }

    /// A leaf as it is in the flat tensor, whatever the modules compute with, outside of autograd.
    pub(crate) fn flat_leaf(&self, id: LeafId) -> Result<Tensor, ModelError> {
        let Leaf { shape, offset, .. } = &self.leaves[id.0];
        view(&self.flat, *offset, shape, false)
    }

    /// The first element of a leaf in the flat tensor, and in a flat gradient.
    pub fn leaf_offset(&self, id: LeafId) -> i64 {
        self.leaves[id.0].offset
    }

    /// The length of a leaf's first dimension.
    pub(crate) fn leaf_rows(&self, id: LeafId) -> i64 {
        self.leaves[id.0].shape[0]
    }

    /// The number of elements of a leaf.
    pub fn leaf_numel(&self, id: LeafId) -> i64 {
        self.leaves[id.0].shape.iter().product()
    }

    /// One parameter of the checkpoint, by name.
    pub(crate) fn span(&self, name: &str) -> Result<&Span, ModelError> {
        let mut spans = self.spans.iter();
        spans
            .find(|span| span.name == name)
            .ok_or_else(|| ModelError::Input(format!("the model has no parameter `{name}`")))
    }

    /// A view of one parameter of the checkpoint, by name, outside of autograd.
    pub fn view(&self, name: &str) -> Result<Tensor, ModelError> {
        let span = self.span(name)?;
        Ok(self
            .flat
            .f_narrow(0, span.offset, span.numel())?
            .f_view(span.shape.as_slice())?)
    }

    /// A zeroed gradient for [`Parameters::backward`], `[n]` for the weights that are trained.
    pub fn zero_gradient(&self) -> Result<Tensor, ModelError> {
        Ok(self.trained()?.f_zeros_like()?)
    }

    /// Checks that a gradient has the shape of the weights that are trained.
    pub(crate) fn check_gradient(&self, gradient: &Tensor) -> Result<(), ModelError> {
        let (found, expected) = (gradient.size(), [self.n_trained]);
        if found != expected {
            return Err(ModelError::Input(format!(
                "the gradient has shape {found:?}, expected {expected:?}"
            )));
        }
        Ok(())
    }

    /// Adds the gradient of `loss`, a scalar, to `gradient`, `[n]` in the layout of [`Parameters::trained`].
    ///
    /// Parameters that the loss does not depend on contribute nothing. The graph of `loss` is freed.
    pub fn backward(&self, loss: &Tensor, gradient: &Tensor) -> Result<(), ModelError> {
        self.backward_to(loss, gradient, &[]).map(drop)
    }

    /// As [`Parameters::backward`], and returns the gradients of `inputs`, tensors that the loss was
    /// computed from; one that it does not depend on is undefined.
    pub(crate) fn backward_to(
        &self,
        loss: &Tensor,
        gradient: &Tensor,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, ModelError> {
        self.check_gradient(gradient)?;
        if !loss.requires_grad() {
            return Err(ModelError::Input(
                "the loss does not depend on the parameters: it was computed under no_grad or detached".to_owned(),
            ));
        }
        let mut leaves: Vec<&Tensor> = self
            .order
            .iter()
            .map(|&leaf| self.differentiated(leaf))
            .collect();
        leaves.extend(inputs);
        let mut gradients = Tensor::f_run_backward(&[loss], &leaves, false, false)?;
        let gradients_of_inputs = gradients.split_off(self.order.len());
        let _guard = tch::no_grad_guard();
        // One addition of all instead of hundreds, each of which a GPU would wait for.
        let mut parts = Vec::with_capacity(gradients.len());
        for (&leaf, gradient) in self.order.iter().zip(&gradients) {
            parts.push(if gradient.defined() {
                gradient.f_reshape([-1])?
            } else {
                let like = self.differentiated(leaf);
                Tensor::f_zeros([like.numel() as i64], (like.kind(), like.device()))?
            });
        }
        let _ = gradient
            .shallow_clone()
            .f_add_(&Tensor::f_cat(&parts, 0)?)?;
        Ok(gradients_of_inputs)
    }
}

/// Collects the modules' declarations, then lays them out.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    declared: Vec<Declared>,
    encoder_end: usize,
}

#[derive(Debug)]
struct Declared {
    names: Vec<String>,
    root: String,
    shape: Vec<i64>,
    kind: LeafKind,
    trained: bool,
}

impl Declared {
    /// Its place in the flat tensor: what is trained and decayed comes first, and what is not trained last.
    fn place(&self) -> u8 {
        match (self.trained, self.kind.decays()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        }
    }
}

impl Layout {
    /// A root of names; `root` is empty or ends in a dot.
    pub(crate) fn root(&mut self, root: &str) -> Scope<'_> {
        Scope {
            layout: self,
            root: root.to_owned(),
            prefix: root.to_owned(),
            trained: true,
        }
    }

    /// Ends the encoder's declarations.
    pub(crate) fn end_encoder(&mut self) {
        self.encoder_end = self.declared.len();
    }

    /// The number of all parameters.
    pub(crate) fn numel(&self) -> i64 {
        let numels = self
            .declared
            .iter()
            .map(|d| d.shape.iter().product::<i64>());
        numels.sum()
    }

    /// Allocates the flat tensor, zeroed, and the leaves.
    pub(crate) fn build(self, device: Device) -> Result<Parameters, ModelError> {
        let mut names = HashSet::new();
        if let Some(name) = self
            .declared
            .iter()
            .flat_map(|d| &d.names)
            .find(|name| !names.insert(*name))
        {
            return Err(ModelError::Input(format!(
                "the parameter `{name}` is declared twice"
            )));
        }
        let numel = |below: u8| -> i64 {
            let first = self.declared.iter().filter(|d| d.place() < below);
            first.map(|d| d.shape.iter().product::<i64>()).sum()
        };
        let (decayed, n_trained) = (numel(1), numel(2));
        let mut spans = Vec::new();
        let mut offsets = vec![0; self.declared.len()];
        let mut offset = 0;
        for place in 0..3 {
            for (i, declared) in self
                .declared
                .iter()
                .enumerate()
                .filter(|(_, d)| d.place() == place)
            {
                offsets[i] = offset;
                let mut shape = declared.shape.clone();
                shape[0] /= declared.names.len() as i64;
                for name in &declared.names {
                    let span = Span {
                        name: name.clone(),
                        shape: shape.clone(),
                        offset,
                        decay: place == 0,
                        trained: declared.trained,
                        kind: declared.kind,
                        root: declared.root.clone(),
                    };
                    offset += span.numel();
                    spans.push(span);
                }
            }
        }
        let flat = Tensor::f_zeros([offset], (Kind::Float, device))?;
        let leaves = self
            .declared
            .into_iter()
            .zip(offsets)
            .map(|(declared, offset)| {
                Ok(Leaf {
                    tensor: view(&flat, offset, &declared.shape, declared.trained)?,
                    shape: declared.shape,
                    offset,
                    trained: declared.trained,
                })
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let mut order: Vec<usize> = (0..leaves.len()).filter(|&i| leaves[i].trained).collect();
        order.sort_by_key(|&leaf| leaves[leaf].offset);
        Ok(Parameters {
            flat,
            leaves,
            spans,
            n_trained,
            decayed,
            encoder_end: self.encoder_end,
            order,
            rounded: None,
        })
    }
}

/// A place in the tree of names, for the declarations of a module.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    layout: &'a mut Layout,
    root: String,
    prefix: String,
    trained: bool,
}

impl Scope<'_> {
    /// The scope of a child module.
    pub(crate) fn sub(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Scope {
            layout: self.layout,
            root: self.root.clone(),
            prefix,
            trained: self.trained,
        }
    }

    /// The same place, whose parameters are trained or not.
    pub(crate) fn trained(&mut self, trained: bool) -> Scope<'_> {
        Scope {
            layout: self.layout,
            root: self.root.clone(),
            prefix: self.prefix.clone(),
            trained,
        }
    }

    /// The same place below another root, whose parameters are trained.
    pub(crate) fn under(&mut self, root: &str) -> Scope<'_> {
        Scope {
            layout: self.layout,
            prefix: format!("{root}{}", &self.prefix[self.root.len()..]),
            root: root.to_owned(),
            trained: true,
        }
    }

    /// Declares one parameter.
    pub(crate) fn leaf(&mut self, name: &str, shape: &[i64], kind: LeafKind) -> LeafId {
        self.fused_leaf(&[name.to_owned()], shape, kind)
    }

    /// Declares parameters of one shape that are computed with as one, stacked along the first dimension.
    pub(crate) fn fused_leaf(&mut self, names: &[String], shape: &[i64], kind: LeafKind) -> LeafId {
        let mut shape = shape.to_vec();
        shape[0] *= names.len() as i64;
        self.layout.declared.push(Declared {
            names: names
                .iter()
                .map(|name| format!("{}{name}", self.prefix))
                .collect(),
            root: self.root.clone(),
            shape,
            kind,
            trained: self.trained,
        });
        LeafId(self.layout.declared.len() - 1)
    }
}
