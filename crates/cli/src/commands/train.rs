//! `sentune train`: evaluate, fine-tune, evaluate again, and set the two side by side.

use std::{path::Path, time::Instant};

use anyhow::{Context, bail};
use eval::{Metrics, SimilarityFunction};
use kernels::profile;
use losses::{BuildContext, LossConfig};
use model::{Compute, EncodeOptions, SentenceTransformer};
use serde_json::{Map, Value, json};
use train::{
    CONFIG, Checkpoint, Evaluation, EvaluatorKind, METRICS, Objective, Outcome, RunFolder, Tasks,
    TrainError, Trainer, TrainingData,
    report::{Event, Memory, MetricsFile, Observer, TensorBoard},
    write_file,
};

use crate::{
    cache::token_cache,
    commands::teacher,
    config::{resolve, to_toml, training_arguments},
    device,
    flags::train::TrainFlags,
    models::{encode_evaluation, load_model, set_compute, set_max_seq_length},
    named::Named,
    output::{print, print_json},
    progress::TrainingProgress,
    session::Session,
    source::{self, DataOptions, Split},
    table::{counted, table},
    tokenizing::tokenize_prompted,
    usage::UsageError,
};

/// Trains as the flags and their configuration file say, and prints what came of it.
pub(crate) fn run(flags: TrainFlags, session: &Session) -> anyhow::Result<()> {
    let flags = resolve(flags)?;
    let done = run_resolved(&flags, session)?;
    if flags.json == Some(true) {
        return Ok(print_json(&done.results.event())?);
    }
    match done.table {
        Some(table) => Ok(print(&table)?),
        None => Ok(()),
    }
}

/// A run that was trained to its end.
pub(crate) struct Done {
    results: Results,
    /// The metrics before and after, where they were measured.
    table: Option<String>,
}

/// Trains as a resolved configuration says. What comes of it is in the run's folder, [`RESULTS`] last of all.
pub(crate) fn run_resolved(flags: &TrainFlags, session: &Session) -> anyhow::Result<Done> {
    training_arguments(flags).validate()?;
    let output_dir = flags
        .output_dir
        .clone()
        .context("a resolved configuration names its folder")?;
    let folder = RunFolder::create(&output_dir).context("--output-dir")?;
    if !folder.is_locked() {
        tracing::warn!(
            "the file system of {} has no locks: see to it that no other run writes to it",
            output_dir.display()
        );
    }
    let outcome = run_in(&folder, flags, session);
    // The lock's file goes first.
    drop(folder);
    if outcome.is_err() {
        // What failed before it wrote anything leaves no folder behind; one with files in it can't be removed.
        let _ = fs_err::remove_dir(&output_dir);
    }
    outcome
}

fn run_in(folder: &RunFolder, flags: &TrainFlags, session: &Session) -> anyhow::Result<Done> {
    let checkpoint = claim(folder, flags)?;
    let arguments = training_arguments(flags);
    train::device::configure(&arguments)?;
    let loss_configs = flags.loss.as_deref().unwrap_or_default();
    for config in loss_configs {
        config
            .value
            .check()
            .with_context(|| format!("--loss {config}"))?;
    }
    let model_name = flags
        .model
        .as_deref()
        .context("a resolved configuration names its model")?;
    let mut laps = Laps::start();
    let inputs = load_inputs(flags, session)?;
    check_prompts(flags, &inputs)?;
    laps.end("data");
    let mut model = load_model(model_name, session)?;
    laps.end("model");
    set_max_seq_length(&mut model, flags.max_seq_length)?;
    let compute = Compute {
        gemm: flags.gemm.unwrap_or_default(),
        precision: arguments.precision,
        engine: flags.engine.unwrap_or_default(),
    };
    set_compute(&mut model, compute)?;
    if let Some(dropout) = flags.dropout {
        model
            .set_dropout(dropout)
            .map_err(|error| UsageError(format!("--dropout: {error}")))?;
    }
    let objectives = loss_configs
        .iter()
        .map(|config| {
            BuiltLoss::new(config, &model, arguments.seed, session)
                .with_context(|| format!("--loss {config}"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let cache = match flags.token_cache {
        Some(false) => None,
        _ => token_cache(),
    };
    let ids = |dataset, prompts| {
        let (tokenizer, cache) = (model.tokenizer(), cache.as_ref());
        tokenize_prompted(dataset, prompts, tokenizer, cache, session)
    };
    let mut training = Vec::new();
    for (name, dataset) in inputs.train {
        let prompts = prompts_of(flags, name.as_deref(), &dataset)?;
        let data = ids(dataset, prompts)?;
        training.push((data, place_of(&objectives, name.as_deref())));
    }
    if let Some(teacher) = &flags.teacher {
        let teacher_model = load_model(teacher, session).context("--teacher")?;
        for (data, place) in &mut training {
            let loss = objectives[*place].loss.as_ref();
            teacher::label(data, loss, &teacher_model, folder.root(), session)
                .with_context(|| format!("--teacher {teacher}"))?;
        }
    }
    let own_similarity = [model.similarity_fn_name().parse()?];
    let mut dev = Vec::new();
    for (name, dataset) in inputs.eval {
        let prompts = prompts_of(flags, name.as_deref(), &dataset)?;
        let data = ids(dataset, prompts)?;
        let options = EncodeOptions::default();
        let evaluation = match flags.evaluator {
            None => Evaluation::during_training(data, &own_similarity, options),
            asked => Evaluation::with_kind(data, asked, &own_similarity, options)
                .context("--eval-data")?,
        };
        dev.push((evaluation, place_of(&objectives, name.as_deref())));
    }
    // The evaluation before and after is an evaluator's: with the model's own prompts.
    let no_prompts = |dataset| ids(dataset, Vec::new());
    let test = evaluation(inputs.test, flags.evaluator, no_prompts)?;
    laps.end("tokens");

    let is_interrupted = || session.interrupt.is_set();
    let tasks = Tasks {
        objectives: objectives.iter().map(BuiltLoss::objective).collect(),
        training: training
            .iter()
            .map(|(data, place)| (data, *place))
            .collect(),
        evaluations: dev.iter().map(|(data, place)| (data, *place)).collect(),
    };
    let mut trainer = Trainer::with_tasks(
        &mut model,
        tasks,
        arguments,
        folder.clone(),
        &is_interrupted,
    )?;
    let anyway = flags.resume_anyway == Some(true);
    if let Some(checkpoint) = checkpoint.as_ref().filter(|_| !anyway) {
        trainer.check_same_run(checkpoint)?;
    }
    write_file(&folder.root().join(CONFIG), to_toml(flags)?.as_bytes())?;
    let before = test
        .as_ref()
        .map(|test| measure(test, trainer.model(), folder, session))
        .transpose()?;
    if let Some(checkpoint) = &checkpoint {
        for difference in trainer.resume(checkpoint, anyway)? {
            tracing::warn!("going on although the {difference}");
        }
        tracing::info!("going on from {}", checkpoint.path().display());
    }
    let has_triplets = |(data, _): &(TrainingData, usize)| data.dataset.columns.len() == 3;
    let unit = if training.iter().all(has_triplets) {
        "triplets"
    } else {
        "rows"
    };
    let metrics = MetricsFile::create(&folder.root().join(METRICS), trainer.state())?;
    let tensorboard = TensorBoard::create(&folder.tensorboard(), trainer.state())?;
    trainer.observe(metrics);
    trainer.observe(tensorboard);
    trainer.observe(TrainingProgress::new(&session.talk, unit));
    if flags.profile == Some(true) {
        trainer.observe(Profile::new(flags.json == Some(true)));
    }
    if flags.json == Some(true) {
        trainer.observe(JsonLines::new(laps));
    }
    let unsaved = session.interrupt.hold();
    let outcome = trainer.train()?;
    drop(unsaved);
    let summary = match outcome {
        Outcome::Finished(summary) => summary,
        Outcome::Interrupted { step } => {
            tracing::warn!(
                "stopped after step {step}, which is saved: the same command with --resume-from-checkpoint goes on"
            );
            return Err(session.interrupt.error());
        }
    };
    let after = test
        .as_ref()
        .map(|test| measure(test, trainer.model(), folder, session))
        .transpose()?;
    drop(trainer);
    let results = Results {
        before,
        after,
        summary,
    };
    let sets: Vec<&data::Dataset> = training.iter().map(|(data, _)| &data.dataset).collect();
    let loss_names: Vec<&str> = objectives.iter().map(|built| built.loss.name()).collect();
    let card = model_card(flags, &loss_names.join(", "), &sets, &model, &results)?;
    write_file(&folder.final_model().join("README.md"), card.as_bytes())?;
    write_file(&folder.root().join(RESULTS), results.to_json()?.as_bytes())?;
    tracing::info!("the trained model is {}", folder.final_model().display());
    let table = results.table(test.as_ref());
    Ok(Done { results, table })
}

/// Name of the file with the figures before and after. A run that has it is done.
pub(crate) const RESULTS: &str = "results.json";

/// Looks at what a folder holds: the checkpoint to go on from, where the flags ask for one, else nothing of
/// another run.
fn claim(folder: &RunFolder, flags: &TrainFlags) -> anyhow::Result<Option<Checkpoint>> {
    let root = folder.root();
    let has_begun = root.join(CONFIG).exists();
    let has_ended = folder.final_model().exists();
    match flags.resume_from_checkpoint.as_deref() {
        Some("last") => match folder.newest_checkpoint()? {
            Some(newest) => {
                for problem in newest.skipped {
                    tracing::warn!("{problem}: going on from an older one");
                }
                Ok(Some(newest.checkpoint))
            }
            None if has_begun && !has_ended => {
                tracing::warn!(
                    "the run in {} ended before its first checkpoint: starting it again",
                    root.display()
                );
                remove_run(folder)?;
                Ok(None)
            }
            None => bail!(
                "--resume-from-checkpoint: {} holds no checkpoint; leave the flag out to start",
                root.display()
            ),
        },
        Some(wanted) => Ok(Some(
            Checkpoint::open(Path::new(wanted)).context("--resume-from-checkpoint")?,
        )),
        None if !has_begun && !has_ended && folder.checkpoints()?.is_empty() => Ok(None),
        None if flags.overwrite_output_dir == Some(true) => {
            remove_run(folder)?;
            Ok(None)
        }
        None => Err(UsageError(format!(
            "--output-dir {} already holds a run: give another folder, or add --resume-from-checkpoint to go on with it or --overwrite-output-dir to start over",
            root.display()
        ))
        .into()),
    }
}

/// Removes the files of a run.
fn remove_run(folder: &RunFolder) -> anyhow::Result<()> {
    for step in folder.checkpoints()? {
        fs_err::remove_dir_all(folder.checkpoint(step))?;
    }
    for path in [
        folder.final_model(),
        folder.tensorboard(),
        folder.eval(),
        folder.test(),
    ] {
        if path.exists() {
            fs_err::remove_dir_all(path)?;
        }
    }
    for name in [CONFIG, METRICS, RESULTS] {
        let path = folder.root().join(name);
        if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

/// The data of a run, read and checked.
struct Inputs {
    train: Vec<NamedDataset>,
    eval: Vec<NamedDataset>,
    test: Option<data::Dataset>,
}

/// A data set, with the name that a flag gave it.
type NamedDataset = (Option<String>, data::Dataset);

fn load_inputs(flags: &TrainFlags, session: &Session) -> anyhow::Result<Inputs> {
    let load = |source: &str, name: Option<&String>, split, max_rows| {
        let options = DataOptions {
            name: name.cloned(),
            columns: flags.columns.clone(),
            max_rows,
            on_bad_row: flags.on_bad_row,
        };
        source::dataset(source, split, &options, session)
    };
    let load_all = |flag: &'static str, sets: &Option<Vec<Named<String>>>, split, max_rows| {
        let load = |set: &Named<String>| {
            let dataset = load(&set.value, set.name.as_ref(), split, max_rows).context(flag)?;
            Ok((set.name.clone(), dataset))
        };
        sets.iter()
            .flatten()
            .map(load)
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let (max_train, max_eval) = (flags.max_train_samples, flags.max_eval_samples);
    Ok(Inputs {
        train: load_all("--train-data", &flags.train_data, Split::Train, max_train)?,
        eval: load_all("--eval-data", &flags.eval_data, Split::Dev, max_eval)?,
        test: flags
            .test_data
            .as_ref()
            .map(|source| load(source, None, Split::Test, max_eval).context("--test-data"))
            .transpose()?,
    })
}

/// Looks whether --prompts names what there is.
fn check_prompts(flags: &TrainFlags, inputs: &Inputs) -> anyhow::Result<()> {
    let sets = || inputs.train.iter().chain(&inputs.eval);
    let names: Vec<_> = sets()
        .map(|(name, dataset)| (name.as_deref(), dataset.column_names()))
        .collect();
    for prompts in flags.prompts.iter().flatten() {
        prompts.check(&names)?;
    }
    for (name, dataset) in sets() {
        prompts_of(flags, name.as_deref(), dataset)?;
    }
    Ok(())
}

/// The prompts of a data set's columns, or none at all.
fn prompts_of(
    flags: &TrainFlags,
    name: Option<&str>,
    dataset: &data::Dataset,
) -> anyhow::Result<Vec<String>> {
    match flags.prompts.as_deref() {
        Some([prompts]) => Ok(prompts.of(name, &dataset.column_names())?),
        _ => Ok(Vec::new()),
    }
}

/// A loss with its guide.
struct BuiltLoss {
    name: Option<String>,
    loss: Box<dyn losses::Loss>,
    guide: Option<SentenceTransformer>,
}

impl BuiltLoss {
    fn new(
        config: &Named<LossConfig>,
        model: &SentenceTransformer,
        seed: u64,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let loss = config.value.build(&BuildContext {
            dimension: Some(model.dimension()),
            device: device::chosen(),
            seed,
        })?;
        let guide = loss.guide().map(|guide| load_model(guide, session));
        Ok(Self {
            name: config.name.clone(),
            guide: guide.transpose().context("guide")?,
            loss,
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

/// The loss of a data set: that of its name, or the only one.
fn place_of(losses: &[BuiltLoss], name: Option<&str>) -> usize {
    let same_name = |built: &BuiltLoss| built.name.is_some() && built.name.as_deref() == name;
    losses.iter().position(same_name).unwrap_or(0)
}

fn evaluation(
    dataset: Option<data::Dataset>,
    kind: Option<EvaluatorKind>,
    tokenize: impl FnOnce(data::Dataset) -> anyhow::Result<TrainingData>,
) -> anyhow::Result<Option<Evaluation>> {
    let Some(dataset) = dataset else {
        return Ok(None);
    };
    let data = tokenize(dataset)?;
    let options = EncodeOptions::default();
    let evaluation = Evaluation::with_kind(data, kind, &SimilarityFunction::ALL, options);
    Ok(Some(evaluation.context("--test-data")?))
}

/// The test data's metrics with the weights as they are now; also appended to the run's CSV file.
fn measure(
    test: &Evaluation,
    model: &SentenceTransformer,
    folder: &RunFolder,
    session: &Session,
) -> anyhow::Result<Metrics> {
    let embeddings = encode_evaluation(test, model, session)?;
    let metrics = test.metrics(&embeddings)?;
    test.append_csv(&folder.test(), &metrics, eval::csv::At::Outside)?;
    Ok(metrics)
}

/// What a run came to.
struct Results {
    before: Option<Metrics>,
    after: Option<Metrics>,
    summary: Map<String, Value>,
}

impl Results {
    fn event(&self) -> Value {
        json!({"type": "results", "before": self.before, "after": self.after, "train": self.summary})
    }

    fn to_json(&self) -> anyhow::Result<String> {
        let primary = self.after.as_ref().map(Metrics::primary_key);
        let results = json!({
            "before": self.before,
            "after": self.after,
            "primary_metric": primary,
            "train": self.summary,
        });
        Ok(serde_json::to_string_pretty(&results)? + "\n")
    }

    /// Metric, before, after and change, or nothing where nothing was measured.
    fn table(&self, test: Option<&Evaluation>) -> Option<String> {
        let (Some(before), Some(after), Some(test)) = (&self.before, &self.after, test) else {
            return None;
        };
        let rows: Vec<Vec<String>> = before
            .iter()
            .filter_map(|(key, before)| {
                let after = after.get(key)?;
                let change = format!("{:+.4}", after - before);
                Some(vec![
                    key.to_owned(),
                    format!("{before:.4}"),
                    format!("{after:.4}"),
                    change,
                ])
            })
            .collect();
        let what = counted(test.data().dataset.n_rows(), "rows");
        Some(table(&[&what, "before", "after", "change"], &rows))
    }
}

/// The seconds that the parts of the start took, one after the other.
struct Laps {
    last: Instant,
    seconds: Map<String, Value>,
}

impl Laps {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            seconds: Map::new(),
        }
    }

    /// Ends the part `name`; the next one begins.
    fn end(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.seconds.insert(name.to_owned(), json!(seconds));
        self.last = now;
    }
}

/// Prints the begin of the training and every log entry as JSON lines.
struct JsonLines {
    laps: Laps,
    /// Of the steps since the last line.
    n_rows: usize,
    n_tokens: usize,
    memory: Option<Memory>,
}

impl JsonLines {
    fn new(laps: Laps) -> Self {
        Self {
            laps,
            n_rows: 0,
            n_tokens: 0,
            memory: None,
        }
    }
}

impl Observer for JsonLines {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin(plan) => print_json(&json!({
                "type": "begin",
                "n_rows": plan.n_rows,
                "n_steps": plan.n_steps,
                "n_parameters": plan.n_parameters,
                "device_flops": plan.device_flops,
                "seconds": self.laps.seconds,
            }))?,
            Event::Step(step) => {
                self.n_rows += step.n_rows;
                self.n_tokens += step.n_tokens;
                self.memory = step.device_memory;
            }
            Event::Log(entry) => {
                let mut line = Map::new();
                line.insert("type".to_owned(), json!("log"));
                line.extend((*entry).clone());
                if entry.contains_key("loss") {
                    line.insert("n_rows".to_owned(), json!(self.n_rows));
                    line.insert("n_tokens".to_owned(), json!(self.n_tokens));
                    (self.n_rows, self.n_tokens) = (0, 0);
                    if let Some(memory) = self.memory {
                        line.insert("device_memory_reserved".to_owned(), json!(memory.reserved));
                        line.insert("device_memory_peak".to_owned(), json!(memory.peak));
                    }
                }
                print_json(&line)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Tells at the end where the time of a step went. The first steps, in which buffers grow, don't count.
struct Profile {
    is_json: bool,
    /// When the last step ended, once the stopwatch runs.
    last: Option<Instant>,
    seconds: f64,
    n_steps: usize,
}

impl Profile {
    /// Steps before the stopwatch starts.
    const N_WARMUP: u64 = 2;

    fn new(is_json: bool) -> Self {
        Self {
            is_json,
            last: None,
            seconds: 0.0,
            n_steps: 0,
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        match self.last {
            Some(last) => {
                self.seconds += (now - last).as_secs_f64();
                self.n_steps += 1;
            }
            None => profile::start(),
        }
        self.last = Some(now);
    }

    /// The parts with their milliseconds a step, and at last what no part has counted.
    fn parts(&self) -> Vec<(&'static str, f64)> {
        let per_step = |seconds: f64| 1e3 * seconds / self.n_steps as f64;
        let mut parts: Vec<(&str, f64)> = profile::stop()
            .into_iter()
            .map(|(part, time)| (part.name(), per_step(time.as_secs_f64())))
            .collect();
        let counted: f64 = parts.iter().map(|(_, milliseconds)| milliseconds).sum();
        parts.push(("rest", per_step(self.seconds) - counted));
        parts
    }

    fn tell(&self) -> Result<(), TrainError> {
        let parts = self.parts();
        let total: f64 = parts.iter().map(|(_, milliseconds)| milliseconds).sum();
        if self.is_json {
            let parts: Map<String, Value> = parts
                .iter()
                .map(|(name, milliseconds)| ((*name).to_owned(), json!(milliseconds)))
                .collect();
            let line = json!({"type": "profile", "n_steps": self.n_steps, "milliseconds_per_step": total, "parts": parts});
            return Ok(print_json(&line)?);
        }
        tracing::info!("a step took {total:.1} ms, the mean of {}", self.n_steps);
        for (name, milliseconds) in parts {
            let share = 100.0 * milliseconds / total;
            tracing::info!("{name:>30} {milliseconds:9.1} ms {share:5.1} %");
        }
        Ok(())
    }
}

impl Observer for Profile {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(step) if step.step >= Self::N_WARMUP => self.step(),
            // What lies between two steps is no part of a step.
            Event::EvaluationEnd(_) | Event::Saved(_) if self.last.is_some() => {
                self.last = Some(Instant::now());
            }
            Event::Log(entry) if entry.contains_key("train_runtime") && self.n_steps > 0 => {
                self.tell()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// README.md of the trained model: the header that the hub reads, then how it was made and what it gained.
fn model_card(
    flags: &TrainFlags,
    loss_name: &str,
    training: &[&data::Dataset],
    model: &SentenceTransformer,
    results: &Results,
) -> anyhow::Result<String> {
    let base = flags.model.as_deref().unwrap_or_default();
    let name = |path: &str| {
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(path)
            .to_owned()
    };
    let base_line = if Path::new(base).exists() {
        String::new()
    } else {
        format!("base_model: {base}\n")
    };
    let list = |of: &dyn Fn(&data::Dataset) -> String| {
        let parts: Vec<String> = training.iter().map(|dataset| of(dataset)).collect();
        parts.join("; ")
    };
    let mut card = format!(
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n{base_line}tags:\n- sentence-transformers\n- sentence-similarity\n- feature-extraction\n- dataset_size:{n_rows}\n- loss:{loss_name}\n---\n\n\
         # {base} fine-tuned on {data}\n\n\
         A sentence-transformers model that maps a text of up to {max_length} tokens to {dimension} dimensions, fine-tuned with sentune {version} from {base} on {n_rows} rows of {data} ({columns}) with {loss_name}.\n\n\
         ```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(\"path/to/this/folder\")\nembeddings = model.encode([\"The weather is lovely today.\", \"It is sunny outside.\"])\nprint(model.similarity(embeddings, embeddings))\n```\n",
        base = name(base),
        data = list(&|dataset| dataset.name.clone()),
        n_rows = training
            .iter()
            .map(|dataset| dataset.n_rows())
            .sum::<usize>(),
        columns = list(&|dataset| dataset.column_names().join(", ")),
        max_length = model.max_seq_length(),
        dimension = model.dimension(),
        version = env!("CARGO_PKG_VERSION"),
    );
    if let (Some(before), Some(after)) = (&results.before, &results.after) {
        card += "\n## Evaluation\n\n| metric | before | after |\n|---|--:|--:|\n";
        for (key, before) in before.iter() {
            let after = after.get(key).unwrap_or(f64::NAN);
            card += &format!("| {key} | {before:.4} | {after:.4} |\n");
        }
    }
    card += &format!(
        "\n## Training\n\nThe configuration of the run:\n\n```toml\n{}```\n",
        to_toml(flags)?
    );
    Ok(card)
}
