//! The parts that a trainer is made of: token ids, losses and evaluators.

use std::path::Path;

use anyhow::Context;
use data::{Dataset, TokenCache, sampler::BatchSampler};
use eval::{EvaluatorKind, Options, Similarity};
use losses::{Accepts, BuildContext, LabelKind, Loss, LossConfig};
use model::{EncodeOptions, SentenceTransformer};
use serde_json::Value;
use train::{Evaluation, Objective, Tasks, TrainingData};

use crate::{
    cache::token_cache,
    card::N_DESCRIBED,
    commands::train::{
        inputs::{Inputs, prompts_of},
        teacher,
    },
    device,
    flags::train::{RunEvaluator, TrainFlags},
    material::Material,
    models::{load_model, side_encoding},
    named::Named,
    session::Session,
    source::Located,
    tokenizing::{tokenize_prompted, tokenize_to_store},
    usage::UsageError,
};

/// Tokenised data sets, each with the place of its loss.
pub(super) struct Prepared {
    losses: Vec<BuiltLoss>,
    training: Vec<(TrainingData, usize)>,
    evaluations: Vec<(Evaluation, usize)>,
    pub(super) tests: Vec<Evaluation>,
}

impl Prepared {
    /// Builds losses and evaluators, tokenises the data, and has a teacher label it where there is one. `folder` keeps
    /// the teacher's labels, where one is given.
    pub(super) fn new(
        inputs: Inputs,
        model: &SentenceTransformer,
        flags: &TrainFlags,
        n_ranks: usize,
        folder: Option<&Path>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let losses = build_losses(flags, model, session)?;
        let tokens = Tokens {
            flags,
            model,
            session,
        };
        let needed = needed_rows(flags, &inputs, n_ranks);
        let mut training = Vec::new();
        for (i, ((name, dataset), rows)) in inputs.train.into_iter().zip(needed).enumerate() {
            let prompts = prompts_of(flags, name.as_deref(), &dataset)?;
            let place = place_of(&losses, name.as_deref());
            check_classes(&dataset, losses[place].loss.as_ref())?;
            let data = match &inputs.on_disk {
                None => tokens.of_rows(dataset, prompts, rows.as_deref())?,
                Some(files) => tokens.on_disk(&files[i], dataset, prompts)?,
            };
            training.push((data, place));
        }
        if let Some(teacher) = &flags.teacher {
            let teacher_model = load_model(teacher, session).context("--teacher")?;
            for (data, place) in &mut training {
                let loss = losses[*place].loss.as_ref();
                teacher::label(data, loss, &teacher_model, folder, session)
                    .with_context(|| format!("--teacher {teacher}"))?;
            }
        }
        let mut evaluations = Vec::new();
        for (name, dataset) in inputs.eval {
            let prompts = prompts_of(flags, name.as_deref(), &dataset)?;
            let place = place_of(&losses, name.as_deref());
            evaluations.push((during_training(&tokens, dataset, prompts)?, place));
        }
        for tables in inputs.eval_tables {
            let own = [model.similarity_fn_name()];
            evaluations.push((of_tables(tables, flags, model, &own)?, 0));
        }
        let tests = inputs
            .test
            .map(|dataset| before_and_after(&tokens, dataset));
        let mut tests = tests.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        for tables in inputs.test_tables {
            tests.push(of_tables(tables, flags, model, &[])?);
        }
        Ok(Self {
            losses,
            training,
            evaluations,
            tests,
        })
    }

    /// The tasks of a trainer.
    pub(super) fn tasks(&self) -> Tasks<'_> {
        Tasks {
            objectives: self.losses.iter().map(BuiltLoss::objective).collect(),
            training: self
                .training
                .iter()
                .map(|(data, place)| (data, *place))
                .collect(),
            evaluations: self
                .evaluations
                .iter()
                .map(|(data, place)| (data, *place))
                .collect(),
        }
    }

    /// The training data sets.
    pub(super) fn datasets(&self) -> impl Iterator<Item = &Dataset> {
        self.training.iter().map(|(data, _)| &data.dataset)
    }

    /// The training data, each with its loss.
    pub(super) fn training(&self) -> impl Iterator<Item = (&TrainingData, &LossFacts)> {
        self.training
            .iter()
            .map(|(data, place)| (data, &self.losses[*place].facts))
    }

    /// The evaluation data, each with its loss.
    pub(super) fn evaluations(&self) -> impl Iterator<Item = (&Evaluation, &LossFacts)> {
        self.evaluations
            .iter()
            .map(|(data, place)| (data, &self.losses[*place].facts))
    }

    /// The class names of all losses, those that others wrap too, each once.
    pub(super) fn loss_classes(&self) -> Vec<String> {
        let mut classes: Vec<String> = Vec::new();
        for facts in self.losses.iter().map(|built| &built.facts) {
            for class in [facts.class].iter().chain(&facts.wrapped) {
                if !classes.iter().any(|known| known == class) {
                    classes.push((*class).to_owned());
                }
            }
        }
        classes
    }

    /// The plural of a training row.
    pub(super) fn unit(&self) -> &'static str {
        if self.datasets().all(|dataset| dataset.columns.len() == 3) {
            "triplets"
        } else {
            "rows"
        }
    }
}

/// Refuses words as labels where the loss takes scores.
fn check_classes(dataset: &Dataset, loss: &dyn Loss) -> Result<(), UsageError> {
    let takes_scores = |accepts: &Accepts| accepts.labels == LabelKind::Float;
    if dataset.classes.is_empty() || !loss.requirements().accepts.iter().all(takes_scores) {
        return Ok(());
    }
    Err(UsageError(format!(
        "--loss {}: the labels of {} are words ({}), and the loss takes scores",
        loss.name(),
        dataset.name,
        dataset.classes.join(", ")
    )))
}

/// Turns data sets into token ids.
struct Tokens<'a> {
    flags: &'a TrainFlags,
    model: &'a SentenceTransformer,
    session: &'a Session,
}

impl Tokens<'_> {
    fn of(&self, dataset: Dataset, prompts: Vec<String>) -> anyhow::Result<TrainingData> {
        self.of_rows(dataset, prompts, None)
    }

    fn of_rows(
        &self,
        dataset: Dataset,
        prompts: Vec<String>,
        rows: Option<&[u32]>,
    ) -> anyhow::Result<TrainingData> {
        tokenize_prompted(
            dataset,
            prompts,
            rows,
            self.model.tokenizer(),
            self.cache().as_ref(),
            self.session,
        )
    }

    /// The data set in these files, which begins with the rows of `head`, in a store.
    fn on_disk(
        &self,
        files: &Located,
        head: Dataset,
        prompts: Vec<String>,
    ) -> anyhow::Result<TrainingData> {
        let cache = self.cache().context("there is no token cache")?;
        let has_hashes = self.flags.arguments.batch_sampler == BatchSampler::NoDuplicates;
        let tokenizer = self.model.tokenizer();
        tokenize_to_store(
            files,
            head,
            prompts,
            has_hashes,
            tokenizer,
            &cache,
            self.session,
        )
    }

    fn cache(&self) -> Option<TokenCache> {
        let call = &self.flags.call;
        let cache = call
            .token_cache
            .then(|| token_cache(call.token_cache_limit));
        cache.flatten()
    }
}

/// The rows of each training set that become token ids: those of the run's steps, and the first ones, which the model card
/// describes. `None` is all of a set, where that is hardly more, and so is worth keeping. A resumed run may take its steps in
/// another epoch.
fn needed_rows(flags: &TrainFlags, inputs: &Inputs, n_ranks: usize) -> Vec<Option<Vec<u32>>> {
    let datasets = inputs.train.iter().map(|(_, dataset)| dataset);
    let datasets: Vec<&Dataset> = datasets.collect();
    let of_steps = match flags.call.resume_from_checkpoint {
        None if inputs.on_disk.is_none() => {
            train::rows_of_steps(&flags.arguments, &datasets, n_ranks)
        }
        _ => None,
    };
    let Some(of_steps) = of_steps else {
        return vec![None; datasets.len()];
    };
    let with_first = of_steps
        .into_iter()
        .zip(datasets)
        .map(|(mut rows, dataset)| {
            rows.extend(0..dataset.n_rows().min(N_DESCRIBED) as u32);
            rows.sort_unstable();
            rows.dedup();
            (2 * rows.len() < dataset.n_rows()).then_some(rows)
        });
    with_first.collect()
}

/// The evaluator of data sets that the flags name.
pub(crate) fn kind_of(flags: &TrainFlags) -> Option<EvaluatorKind> {
    match &flags.evaluator {
        Some(RunEvaluator::Columns(kind)) => Some(*kind),
        _ => None,
    }
}

/// Tables with their evaluator; without similarities, it takes those of its choice.
fn of_tables(
    tables: Material,
    flags: &TrainFlags,
    model: &SentenceTransformer,
    similarities: &[Similarity],
) -> anyhow::Result<Evaluation> {
    let mut options = Options::of(similarities);
    options.own_similarity = model.similarity_fn_name();
    flags.tables.0.set_options(&mut options);
    let (entry, name, sha256) = (tables.entry(), tables.name().to_owned(), tables.sha256());
    let side = tables.side();
    let prepared = tables.prepare(&options)?;
    let encoding = EncodeOptions::default();
    let of_column = |i| side_encoding(&options, &encoding, side(i));
    Ok(Evaluation::of_tables(
        name, entry, prepared, of_column, sha256,
    ))
}

/// Evaluation data with its evaluator, which goes by the model's own similarity.
fn during_training(
    tokens: &Tokens<'_>,
    dataset: Dataset,
    prompts: Vec<String>,
) -> anyhow::Result<Evaluation> {
    let similarity = [tokens.model.similarity_fn_name()];
    let data = tokens.of(dataset, prompts)?;
    let options = EncodeOptions::default();
    match kind_of(tokens.flags) {
        None => Ok(Evaluation::during_training(data, &similarity, options)?),
        asked => Evaluation::with_kind(data, asked, &Options::of(&similarity), options)
            .context("--eval-data"),
    }
}

/// Test data with its evaluator, which encodes with the model's own prompts.
fn before_and_after(tokens: &Tokens<'_>, dataset: Dataset) -> anyhow::Result<Evaluation> {
    let data = tokens.of(dataset, Vec::new())?;
    let all = Options::of(&Similarity::ALL);
    Evaluation::with_kind(data, kind_of(tokens.flags), &all, EncodeOptions::default())
        .context("--test-data")
}

/// Checks the names and parameters of all losses, before anything is read.
pub(super) fn check_losses(flags: &TrainFlags) -> anyhow::Result<()> {
    for config in &flags.loss {
        config
            .value
            .check()
            .with_context(|| format!("--loss {config}"))?;
    }
    Ok(())
}

/// A loss with its guide.
struct BuiltLoss {
    name: Option<String>,
    loss: Box<dyn losses::Loss>,
    guide: Option<SentenceTransformer>,
    facts: LossFacts,
}

/// Names and parameters of a loss.
pub(super) struct LossFacts {
    /// Such as `MultipleNegativesRankingLoss`.
    pub(super) class: &'static str,
    /// The classes of the losses that it wraps.
    pub(super) wrapped: Vec<&'static str>,
    /// The parameters that were given.
    pub(super) parameters: Value,
}

impl LossFacts {
    fn of(
        config: &LossConfig,
        loss: &dyn losses::Loss,
        context: &BuildContext,
    ) -> anyhow::Result<Self> {
        let mut parameters = serde_json::to_value(config)?;
        if let Some(parameters) = parameters.as_object_mut() {
            parameters.remove("name");
        }
        let mut wrapped = Vec::new();
        // A loss that wraps another has that behind a slash; a path may have slashes too.
        let mut text = config.to_string();
        while let Some((_, inner)) = text.split_once('/') {
            let Ok(config) = inner.parse::<LossConfig>() else {
                break;
            };
            wrapped.push(config.build(context)?.name());
            text = inner.to_owned();
        }
        Ok(Self {
            class: loss.name(),
            wrapped,
            parameters,
        })
    }
}

fn build_losses(
    flags: &TrainFlags,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<Vec<BuiltLoss>> {
    let seed = flags.arguments.seed;
    let build = |config: &Named<LossConfig>| {
        BuiltLoss::new(config, model, seed, session).with_context(|| format!("--loss {config}"))
    };
    flags.loss.iter().map(build).collect()
}

impl BuiltLoss {
    fn new(
        config: &Named<LossConfig>,
        model: &SentenceTransformer,
        seed: u64,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let context = BuildContext {
            dimension: Some(model.dimension()),
            device: device::chosen(),
            seed,
        };
        let loss = config.value.build(&context)?;
        let facts = LossFacts::of(&config.value, loss.as_ref(), &context)?;
        let guide = loss.guide().map(|guide| load_model(guide, session));
        Ok(Self {
            name: config.name.clone(),
            guide: guide.transpose().context("guide")?,
            loss,
            facts,
        })
    }

    fn objective(&self) -> Objective<'_> {
        Objective {
            name: self.name.as_deref(),
            loss: self.loss.as_ref(),
            guide: self.guide.as_ref(),
        }
    }
}

/// The place of a data set's loss: that of its name, or the only one.
fn place_of(losses: &[BuiltLoss], name: Option<&str>) -> usize {
    let same_name = |built: &BuiltLoss| built.name.is_some() && built.name.as_deref() == name;
    losses.iter().position(same_name).unwrap_or(0)
}
