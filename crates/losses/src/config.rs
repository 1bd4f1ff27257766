//! A loss by its name and parameters, as a command line or a configuration file gives it.

use crate::adaptive_layer::AdaptiveLayer;
use crate::angle::Angle;
use crate::batch_all_triplet::BatchAllTriplet;
use crate::batch_hard_soft_margin_triplet::BatchHardSoftMarginTriplet;
use crate::batch_hard_triplet::BatchHardTriplet;
use crate::batch_semi_hard_triplet::BatchSemiHardTriplet;
use crate::cached::Cached;
use crate::contrastive::Contrastive;
use crate::cosent::CoSent;
use crate::cosine_similarity::CosineSimilarity;
use crate::distill_kl_div::DistillKlDiv;
use crate::embed_distill::{EmbedDistill, Mse};
use crate::gist_embed::GistEmbed;
use crate::global_orthogonal_regularization::GlobalOrthogonalRegularization;
use crate::margin_mse::MarginMse;
use crate::matryoshka::Matryoshka;
use crate::mega_batch_margin::MegaBatchMargin;
use crate::multiple_negatives_ranking::MultipleNegativesRanking;
use crate::online_contrastive::OnlineContrastive;
use crate::softmax::Softmax;
use crate::triplet::Triplet;
use crate::{Loss, LossError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;
use tch::Device;

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

/// What a loss with trainable parameters of its own has to know when it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuildContext {
    /// Dimension of the embeddings; `None` where it is not known yet, and the parameters are only to
    /// be looked at.
    pub dimension: Option<i64>,
    /// Where the embeddings will be.
    pub device: Device,
    /// Decides the first weights of a loss that has such: those that torch draws after
    /// `torch.manual_seed`. It is given to libtorch's generator.
    pub seed: u64,
}

/// The names of all losses, in kebab case.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|entry| entry.name)
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
        let context = BuildContext {
            dimension: None,
            device: Device::Cpu,
            seed: 0,
        };
        let loss = self.build(&context)?;
        if loss.requirements().guide && loss.guide().is_none() {
            let problem = "the guide is missing: name a model by guide=MODEL";
            return Err(LossError::parameter(self.name, problem));
        }
        Ok(())
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
            Some((text, inner)) if WRAPPERS.contains(&Self::new(name)?.name) => (text, Some(inner)),
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

/// A loss that can be had by name.
struct Entry {
    /// Kebab case, without `-loss`.
    name: &'static str,
    /// Short forms, folded.
    aliases: &'static [&'static str],
    build: Build,
}

type Build = fn(&LossConfig, &BuildContext) -> Result<Box<dyn Loss>, LossError>;

/// The parameter that names a model.
const GUIDE: &str = "guide";

/// Losses around another.
const WRAPPERS: [&str; 3] = ["matryoshka", "matryoshka-2d", "adaptive-layer"];

const REGISTRY: &[Entry] = &[
    Entry {
        name: "multiple-negatives-ranking",
        aliases: &["mnrl", "mnr", "infonce"],
        build: plain::<MultipleNegativesRanking>,
    },
    Entry {
        name: "cached-multiple-negatives-ranking",
        aliases: &["cachedmnrl", "cmnrl"],
        build: cached_multiple_negatives_ranking,
    },
    Entry {
        name: "multiple-negatives-symmetric-ranking",
        aliases: &["mnsrl"],
        build: symmetric,
    },
    Entry {
        name: "cached-multiple-negatives-symmetric-ranking",
        aliases: &["cachedmnsrl", "cmnsrl"],
        build: cached_symmetric,
    },
    Entry {
        name: "triplet",
        aliases: &[],
        build: plain::<Triplet>,
    },
    Entry {
        name: "cosine-similarity",
        aliases: &["cosine"],
        build: plain::<CosineSimilarity>,
    },
    Entry {
        name: "cosent",
        aliases: &[],
        build: plain::<CoSent>,
    },
    Entry {
        name: "angle",
        aliases: &[],
        build: plain::<Angle>,
    },
    Entry {
        name: "contrastive",
        aliases: &[],
        build: plain::<Contrastive>,
    },
    Entry {
        name: "online-contrastive",
        aliases: &[],
        build: plain::<OnlineContrastive>,
    },
    Entry {
        name: "softmax",
        aliases: &[],
        build: softmax,
    },
    Entry {
        name: "mse",
        aliases: &[],
        build: plain::<Mse>,
    },
    Entry {
        name: "embed-distill",
        aliases: &[],
        build: embed_distill,
    },
    Entry {
        name: "margin-mse",
        aliases: &[],
        build: plain::<MarginMse>,
    },
    Entry {
        name: "distill-kl-div",
        aliases: &["kldiv"],
        build: plain::<DistillKlDiv>,
    },
    Entry {
        name: "gist-embed",
        aliases: &["gist"],
        build: plain::<GistEmbed>,
    },
    Entry {
        name: "cached-gist-embed",
        aliases: &["cachedgist"],
        build: cached_gist_embed,
    },
    Entry {
        name: "batch-all-triplet",
        aliases: &[],
        build: plain::<BatchAllTriplet>,
    },
    Entry {
        name: "batch-hard-triplet",
        aliases: &[],
        build: plain::<BatchHardTriplet>,
    },
    Entry {
        name: "batch-semi-hard-triplet",
        aliases: &[],
        build: plain::<BatchSemiHardTriplet>,
    },
    Entry {
        name: "batch-hard-soft-margin-triplet",
        aliases: &[],
        build: plain::<BatchHardSoftMarginTriplet>,
    },
    Entry {
        name: "mega-batch-margin",
        aliases: &[],
        build: plain::<MegaBatchMargin>,
    },
    Entry {
        name: "global-orthogonal-regularization",
        aliases: &["gor"],
        build: plain::<GlobalOrthogonalRegularization>,
    },
    Entry {
        name: "matryoshka",
        aliases: &["mrl"],
        build: matryoshka,
    },
    Entry {
        name: "matryoshka-2d",
        aliases: &["mrl2d"],
        build: matryoshka_2d,
    },
    Entry {
        name: "adaptive-layer",
        aliases: &[],
        build: adaptive_layer,
    },
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
    const OF_MATRYOSHKA: [&str; 6] = [
        "loss",
        "matryoshka_dims",
        "dims",
        "matryoshka_weights",
        "weights",
        "n_dims_per_step",
    ];
    let (mut inner, mut outer): (Map<String, Value>, Map<String, Value>) = config
        .parameters
        .clone()
        .into_iter()
        .partition(|(key, _)| OF_MATRYOSHKA.contains(&key.as_str()));
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

/// A list, or one element alone, which a text without `+` gives.
pub(crate) fn one_or_many<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::One(one) => vec![one],
        Form::Many(many) => many,
    })
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
