//! A loss by its name and parameters, as a command line or a configuration file gives it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tch::Device;

use crate::{
    adaptive_layer::{self, AdaptiveLayer},
    angle::{self, Angle},
    batch_all_triplet::BatchAllTriplet,
    batch_hard_soft_margin_triplet::BatchHardSoftMarginTriplet,
    batch_hard_triplet::BatchHardTriplet,
    batch_semi_hard_triplet::BatchSemiHardTriplet,
    cached::{self, Cached},
    context::BuildContext,
    contrastive::{self, Contrastive},
    cosent::{self, CoSent},
    cosine_similarity::CosineSimilarity,
    distill_kl_div::{self, DistillKlDiv},
    embed_distill::{self, EmbedDistill, Mse},
    error::LossError,
    gist_embed::{self, GistEmbed},
    global_orthogonal_regularization::{self, GlobalOrthogonalRegularization},
    inputs::Requirements,
    loss::Loss,
    margin_mse::{self, MarginMse},
    matryoshka::{self, Matryoshka},
    mega_batch_margin::{self, MegaBatchMargin},
    multiple_negatives_ranking::{self, MultipleNegativesRanking},
    online_contrastive::OnlineContrastive,
    paper::{Paper, SENTENCE_BERT},
    softmax::Softmax,
    triplet::{self, Triplet},
};

/// The name of a loss and the parameters that differ from its defaults.
///
/// As text it is `name` or `name:key=value,key=value`, with `+` between the elements of a list:
/// `triplet:distance=cosine,margin=0.5` or `mnrl:directions=query-to-doc+doc-to-query`. A loss that
/// wraps another has that after a slash: `matryoshka:dims=768+256/mnrl:scale=30`. Names may be those
/// of the classes in sentence-transformers, the same in kebab case with or without `-loss`, or a
/// common short form. In a configuration file it is such a text, or a table with the
/// key `name` beside the parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LossConfig {
    name: &'static str,
    #[serde(flatten)]
    parameters: Map<String, Value>,
}

/// The names of all losses, in kebab case.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|entry| entry.name)
}

/// The paper of the loss of this name; none where its authors name none.
pub fn paper(name: &str) -> Option<&'static Paper> {
    find(name).ok()?.paper
}

/// Whether the loss of this name goes around another.
pub fn is_wrapper(name: &str) -> bool {
    find(name).is_ok_and(|entry| entry.is_wrapper)
}

impl LossConfig {
    /// A loss by name, with the defaults of sentence-transformers.
    ///
    /// # Errors
    /// Where no loss has this name; the message lists all.
    pub fn new(name: &str) -> Result<Self, LossError> {
        Ok(Self {
            name: find(name)?.name,
            parameters: Map::new(),
        })
    }

    /// The name in kebab case, such as `multiple-negatives-ranking`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Sets a parameter from text: a number, `true`, `false`, `null`, a word, or a list of these
    /// with `+` between them. Whether the loss knows the parameter shows in [`Self::build`].
    pub fn set(&mut self, key: &str, value: &str) {
        let value = match value.split_once('+') {
            _ if key == GUIDE => value.into(),
            // `1e+3` is a number and not a list.
            Some(_) if value.parse::<f64>().is_err() => {
                Value::Array(value.split('+').map(scalar).collect())
            }
            _ => scalar(value),
        };
        self.parameters.insert(key.replace('-', "_"), value);
    }

    /// Looks at the parameters, as far as that can be done without a model.
    ///
    /// # Errors
    /// As [`Self::build`], but for what depends on the model's dimension.
    pub fn check(&self) -> Result<(), LossError> {
        let loss = self.build_anywhere()?;
        if loss.requirements().guide && loss.guide().is_none() {
            let problem = "the guide is missing: name a model by guide=MODEL";
            return Err(LossError::parameter(self.name, problem));
        }
        Ok(())
    }

    /// The data that the loss takes.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn requirements(&self) -> Result<Requirements, LossError> {
        Ok(self.build_anywhere()?.requirements())
    }

    /// The loss as it is built without a model.
    fn build_anywhere(&self) -> Result<Box<dyn Loss>, LossError> {
        self.build(&BuildContext {
            dimension: None,
            device: Device::Cpu,
            seed: 0,
        })
    }

    /// The loss itself, its parameters checked.
    ///
    /// # Errors
    /// Where a parameter is unknown, of the wrong type or out of range.
    pub fn build(&self, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
        let loss = (find(self.name)?.build)(self, context)?;
        loss.validate()?;
        Ok(loss)
    }
}

impl FromStr for LossConfig {
    type Err = LossError;

    fn from_str(text: &str) -> Result<Self, LossError> {
        // In the parameters of a loss that wraps no other, a slash is part of a path.
        let name = text.split([':', '/']).next().unwrap_or(text);
        let (text, inner) = match text.split_once('/') {
            Some((text, inner)) if find(name)?.is_wrapper => (text, Some(inner)),
            _ => (text, None),
        };
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let mut config = Self::new(name)?;
        for parameter in parameters
            .split(',')
            .filter(|parameter| !parameter.trim().is_empty())
        {
            let Some((key, value)) = parameter.split_once('=') else {
                let problem = format!("`{}` is not of the form key=value", parameter.trim());
                return Err(LossError::parameter(name, problem));
            };
            config.set(key.trim(), value.trim());
        }
        if let Some(inner) = inner {
            let inner: Self = inner.parse()?;
            config
                .parameters
                .insert("loss".to_owned(), inner.to_string().into());
        }
        Ok(config)
    }
}

impl fmt::Display for LossConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        let own = self.parameters.iter().filter(|(key, _)| *key != "loss");
        for (index, (key, value)) in own.enumerate() {
            let separator = if index == 0 { ':' } else { ',' };
            write!(f, "{separator}{key}={}", text(value))?;
        }
        match self.parameters.get("loss").map(Self::deserialize) {
            Some(Ok(inner)) => write!(f, "/{inner}"),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for LossConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Table {
                name: String,
                #[serde(flatten)]
                parameters: Map<String, Value>,
            },
        }
        let config = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse(),
            Form::Table { name, parameters } => Self::new(&name).map(|config| {
                let parameters = parameters.into_iter();
                let parameters = parameters.map(|(key, value)| (key.replace('-', "_"), value));
                Self {
                    parameters: parameters.collect(),
                    ..config
                }
            }),
        };
        config.map_err(serde::de::Error::custom)
    }
}

/// A loss by name.
struct Entry {
    /// Kebab case, without `-loss`.
    name: &'static str,
    /// Short forms, folded.
    aliases: &'static [&'static str],
    /// Whether the loss goes around another, its parameter `loss`.
    is_wrapper: bool,
    /// The paper that it is from, where its authors name one.
    paper: Option<&'static Paper>,
    build: Build,
}

type Build = fn(&LossConfig, &BuildContext) -> Result<Box<dyn Loss>, LossError>;

impl Entry {
    const fn new(name: &'static str, aliases: &'static [&'static str], build: Build) -> Self {
        Self {
            name,
            aliases,
            is_wrapper: false,
            paper: None,
            build,
        }
    }

    const fn paper(self, paper: &'static Paper) -> Self {
        Self {
            paper: Some(paper),
            ..self
        }
    }

    const fn wrapper(self) -> Self {
        Self {
            is_wrapper: true,
            ..self
        }
    }
}

/// The parameter that names a model.
const GUIDE: &str = "guide";

const REGISTRY: &[Entry] = &[
    Entry::new(
        "multiple-negatives-ranking",
        &["mnrl", "mnr", "infonce"],
        plain::<MultipleNegativesRanking>,
    )
    .paper(&multiple_negatives_ranking::PAPER),
    Entry::new(
        "cached-multiple-negatives-ranking",
        &["cachedmnrl", "cmnrl"],
        cached_multiple_negatives_ranking,
    )
    .paper(&cached::PAPER),
    Entry::new(
        "multiple-negatives-symmetric-ranking",
        &["mnsrl"],
        symmetric,
    ),
    Entry::new(
        "cached-multiple-negatives-symmetric-ranking",
        &["cachedmnsrl", "cmnsrl"],
        cached_symmetric,
    ),
    Entry::new("triplet", &[], plain::<Triplet>).paper(&triplet::PAPER),
    Entry::new("cosine-similarity", &["cosine"], plain::<CosineSimilarity>),
    Entry::new("cosent", &[], plain::<CoSent>).paper(&cosent::PAPER),
    Entry::new("angle", &[], plain::<Angle>).paper(&angle::PAPER),
    Entry::new("contrastive", &[], plain::<Contrastive>).paper(&contrastive::PAPER),
    Entry::new("online-contrastive", &[], plain::<OnlineContrastive>),
    Entry::new("softmax", &[], softmax).paper(&SENTENCE_BERT),
    Entry::new("mse", &[], plain::<Mse>).paper(&embed_distill::MSE_PAPER),
    Entry::new("embed-distill", &[], embed_distill).paper(&embed_distill::PAPER),
    Entry::new("margin-mse", &[], plain::<MarginMse>).paper(&margin_mse::PAPER),
    Entry::new("distill-kl-div", &["kldiv"], plain::<DistillKlDiv>).paper(&distill_kl_div::PAPER),
    Entry::new("gist-embed", &["gist"], plain::<GistEmbed>).paper(&gist_embed::PAPER),
    Entry::new("cached-gist-embed", &["cachedgist"], cached_gist_embed),
    Entry::new("batch-all-triplet", &[], plain::<BatchAllTriplet>).paper(&triplet::PAPER),
    Entry::new("batch-hard-triplet", &[], plain::<BatchHardTriplet>).paper(&triplet::PAPER),
    Entry::new(
        "batch-semi-hard-triplet",
        &[],
        plain::<BatchSemiHardTriplet>,
    )
    .paper(&triplet::PAPER),
    Entry::new(
        "batch-hard-soft-margin-triplet",
        &[],
        plain::<BatchHardSoftMarginTriplet>,
    )
    .paper(&triplet::PAPER),
    Entry::new("mega-batch-margin", &[], plain::<MegaBatchMargin>).paper(&mega_batch_margin::PAPER),
    Entry::new(
        "global-orthogonal-regularization",
        &["gor"],
        plain::<GlobalOrthogonalRegularization>,
    )
    .paper(&global_orthogonal_regularization::PAPER),
    Entry::new("matryoshka", &["mrl"], matryoshka)
        .paper(&matryoshka::PAPER)
        .wrapper(),
    Entry::new("matryoshka-2d", &["mrl2d"], matryoshka_2d)
        .paper(&adaptive_layer::PAPER)
        .wrapper(),
    Entry::new("adaptive-layer", &[], adaptive_layer)
        .paper(&adaptive_layer::PAPER)
        .wrapper(),
];

/// A loss that is nothing but its parameters.
fn plain<L: Loss + DeserializeOwned + 'static>(
    config: &LossConfig,
    _: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    Ok(Box::new(parameters::<L>(config)?))
}

fn softmax(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    Ok(Box::new(Softmax::new(parameters(config)?, context)?))
}

fn embed_distill(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    Ok(Box::new(EmbedDistill::new(parameters(config)?, context)?))
}

fn matryoshka(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    Ok(Box::new(Matryoshka::new(parameters(config)?, context)?))
}

fn adaptive_layer(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    let name = "AdaptiveLayerLoss";
    Ok(Box::new(AdaptiveLayer::new(
        name,
        parameters(config)?,
        context,
    )?))
}

/// Adaptive layers around Matryoshka, each of which draws one layer and one dimension a step unless
/// told otherwise (`sentence_transformer/losses/matryoshka_2d.py`).
fn matryoshka_2d(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    let (mut inner, mut outer): (Map<String, Value>, Map<String, Value>) = config
        .parameters
        .clone()
        .into_iter()
        .partition(|(key, _)| matryoshka::PARAMETERS.contains(&key.as_str()));
    inner.entry("n_dims_per_step").or_insert_with(|| 1.into());
    inner.insert("name".to_owned(), "matryoshka".into());
    outer.insert("loss".to_owned(), inner.into());
    let config = LossConfig {
        name: config.name,
        parameters: outer,
    };
    let name = "Matryoshka2dLoss";
    Ok(Box::new(AdaptiveLayer::new(
        name,
        parameters(&config)?,
        context,
    )?))
}

/// Multiple Negatives Ranking from anchor to document and back, averaged.
fn symmetric(config: &LossConfig, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
    let mut config = config.clone();
    config.set("directions", "query_to_doc+doc_to_query");
    config.set("partition_mode", "per_direction");
    plain::<MultipleNegativesRanking>(&config, context)
}

fn cached_multiple_negatives_ranking(
    config: &LossConfig,
    context: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    let build = plain::<MultipleNegativesRanking>;
    cached("CachedMultipleNegativesRankingLoss", build, config, context)
}

fn cached_symmetric(
    config: &LossConfig,
    context: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    cached(
        "CachedMultipleNegativesSymmetricRankingLoss",
        symmetric,
        config,
        context,
    )
}

fn cached_gist_embed(
    config: &LossConfig,
    context: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    cached("CachedGISTEmbedLoss", plain::<GistEmbed>, config, context)
}

/// A loss that is embedded in mini-batches: `mini_batch_size` is its own, all else the inner one's.
fn cached(
    name: &'static str,
    build: Build,
    config: &LossConfig,
    context: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    let mut config = config.clone();
    let mini_batch_size = match config.parameters.remove("mini_batch_size") {
        None => 32,
        Some(size) => serde_json::from_value(size)
            .map_err(|error| LossError::parameter(name, format!("mini_batch_size: {error}")))?,
    };
    let inner = build(&config, context)?;
    Ok(Box::new(Cached::new(name, inner, mini_batch_size)?))
}

/// The parameters as their type, with defaults for those not given.
fn parameters<P: DeserializeOwned>(config: &LossConfig) -> Result<P, LossError> {
    serde_json::from_value(Value::Object(config.parameters.clone()))
        .map_err(|error| LossError::parameter(config.name, error.to_string()))
}

fn find(name: &str) -> Result<&'static Entry, LossError> {
    let folded = fold(name);
    let matches =
        |entry: &&Entry| fold(entry.name) == folded || entry.aliases.contains(&folded.as_str());
    REGISTRY
        .iter()
        .find(matches)
        .ok_or_else(|| LossError::Unknown {
            name: name.to_owned(),
            known: names().collect::<Vec<_>>().join(", "),
        })
}

/// Class names, kebab case and snake case to one form: lower case letters, without `loss`.
fn fold(name: &str) -> String {
    let mut folded = name.trim().to_ascii_lowercase();
    folded.retain(|letter| letter != '-' && letter != '_');
    match folded.strip_suffix("loss") {
        Some(rest) => rest.to_owned(),
        None => folded,
    }
}

/// A number or literal where the text is one, else the text.
fn scalar(text: &str) -> Value {
    let parsed = serde_json::from_str(text).ok();
    parsed
        .filter(|value: &Value| !value.is_object())
        .unwrap_or_else(|| text.into())
}

/// The inverse of [`LossConfig::set`].
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}
