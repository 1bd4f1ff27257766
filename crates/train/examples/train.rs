//! A training run from Rust: `train MODEL DATA FOLDER` fine-tunes the model in a folder on a table of texts.

use std::{env, error::Error, io::Write, ops::ControlFlow, path::Path};

use data::LoadOptions;
use losses::{BuildContext, LossConfig};
use model::SentenceTransformer;
use tch::Device;
use train::{MetricsFile, RunFolder, RunOutcome, Trainer, TrainingArguments, tokenize};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, data, folder] = arguments.as_slice() else {
        return Err("usage: train MODEL DATA FOLDER".into());
    };
    let mut model = SentenceTransformer::load(Path::new(model), Device::Cpu)?;
    let dataset = data::load(data, &LoadOptions::default())?;
    let mut go_on = |_: train::Tokenizing<'_>| ControlFlow::Continue(());
    let data = tokenize(dataset, model.tokenizer(), &mut go_on)?;
    let arguments = TrainingArguments {
        num_train_epochs: 1.0,
        per_device_train_batch_size: 16,
        logging_steps: 10,
        ..TrainingArguments::default()
    };
    let loss: LossConfig = "multiple-negatives-ranking".parse()?;
    let loss = loss.build(&BuildContext {
        dimension: Some(model.dimension()),
        device: Device::Cpu,
        seed: arguments.seed,
    })?;
    let folder = RunFolder::create(Path::new(folder))?;
    let metrics = folder.root().join(train::METRICS);
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        None,
        arguments,
        folder,
        &|| false,
    )?;
    trainer.observe(MetricsFile::create(&metrics, trainer.state())?);
    let RunOutcome::Finished(summary) = trainer.train()? else {
        return Err("interrupted, though nobody asked for it".into());
    };
    writeln!(std::io::stdout(), "{}", serde_json::Value::Object(summary))?;
    Ok(())
}
