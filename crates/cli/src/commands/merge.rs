//! `sentune merge`: one model from several of one architecture, or from an adapter and its base.

use std::path::Path;

use anyhow::Context;
use model::{LoadOptions, MergeMethod, SentenceTransformer};
use tch::Device;
use train::write_folder;
use wording::thousands;

use crate::{
    flags::merge::{MergeFlags, MethodName},
    models::load_model_with,
    output::check_new,
    session::Session,
    usage::UsageError,
};

/// Merges the models into a folder that does not exist yet.
pub(crate) fn run(flags: &MergeFlags, session: &Session) -> anyhow::Result<()> {
    let output = &flags.output;
    check_new(output)?;
    let load = |flag: &str, name: &str| -> anyhow::Result<SentenceTransformer> {
        session.check()?;
        load_model_with(name, LoadOptions::default(), Device::Cpu, session)
            .with_context(|| format!("{flag} {name}"))
    };
    let whole = |flag: &str, name: &str| -> anyhow::Result<SentenceTransformer> {
        let mut model = load(flag, name)?;
        model.merge_adapter()?;
        Ok(model)
    };
    if let [name] = flags.model.as_slice() {
        let mut model = load("--model", name)?;
        if model.adapter().is_none() {
            return Err(UsageError(
                "merge takes two models or more, each with --model, or one with an adapter, which is merged into its base"
                    .to_owned(),
            )
            .into());
        }
        model.merge_adapter()?;
        return write(&model, flags);
    }
    let method = method(flags)?;
    let (first, others) = flags.model.split_first().context("a model is required")?;
    let mut merged = whole("--model", first)?;
    let others = others.iter().map(|name| whole("--model", name));
    let others = others.collect::<anyhow::Result<Vec<_>>>()?;
    let base = flags.base_model.as_deref();
    let base = base.map(|name| whole("--base-model", name)).transpose()?;
    merged.merge(&others, &method, base.as_ref())?;
    write(&merged, flags)
}

/// Writes the merged model.
fn write(merged: &SentenceTransformer, flags: &MergeFlags) -> anyhow::Result<()> {
    let output = &flags.output;
    if let Some(parent) = output.parent().filter(|parent| *parent != Path::new("")) {
        fs_err::create_dir_all(parent)?;
    }
    write_folder(output, &merged.files()?)?;
    tracing::info!(
        "made {}: {} parameters of {} models",
        output.display(),
        thousands(merged.parameters().numel() as usize),
        flags.model.len()
    );
    Ok(())
}

/// The method with its parameters, checked.
fn method(flags: &MergeFlags) -> Result<MergeMethod, UsageError> {
    let n_models = flags.model.len();
    let name = flags.method;
    for (flag, is_given, methods) in [
        (
            "weights",
            flags.weights.is_some(),
            [MethodName::Linear, MethodName::Ties].as_slice(),
        ),
        ("t", flags.t.is_some(), &[MethodName::Slerp]),
        (
            "base-model",
            flags.base_model.is_some(),
            &[MethodName::Ties],
        ),
        ("density", flags.density.is_some(), &[MethodName::Ties]),
        ("lambda", flags.lambda.is_some(), &[MethodName::Ties]),
    ] {
        if is_given && !methods.contains(&name) {
            let methods: Vec<String> = methods.iter().map(|name| shown(*name)).collect();
            let methods = methods.join(" and ");
            return Err(UsageError(format!("--{flag} is for --method {methods}")));
        }
    }
    let is_share = |x: f64| (0.0..=1.0).contains(&x);
    let weights = flags.weights.clone().unwrap_or_else(|| vec![1.0; n_models]);
    if weights.len() != n_models {
        return Err(UsageError(format!(
            "--weights gives {} for {n_models} models",
            weights.len()
        )));
    }
    if weights.iter().any(|weight| !weight.is_finite()) || weights.iter().sum::<f64>() == 0.0 {
        return Err(UsageError(
            "--weights must be finite numbers whose sum is not 0".to_owned(),
        ));
    }
    match name {
        MethodName::Linear => Ok(MergeMethod::Linear { weights }),
        MethodName::Slerp => {
            let t = flags.t.unwrap_or(0.5);
            if n_models != 2 {
                return Err(UsageError(format!(
                    "--method slerp takes two models, not {n_models}"
                )));
            }
            if !is_share(t) {
                return Err(UsageError(format!("--t {t}: it must be from 0 to 1")));
            }
            Ok(MergeMethod::Slerp { t })
        }
        MethodName::Ties => {
            let density = flags.density.unwrap_or(1.0);
            let lambda = flags.lambda.unwrap_or(1.0);
            if flags.base_model.is_none() {
                return Err(UsageError(
                    "--method ties needs --base-model: the model that the others were trained from"
                        .to_owned(),
                ));
            }
            if !is_share(density) || density == 0.0 {
                return Err(UsageError(format!(
                    "--density {density}: it must be above 0 and at most 1"
                )));
            }
            if !lambda.is_finite() {
                return Err(UsageError(format!("--lambda {lambda}: it must be finite")));
            }
            Ok(MergeMethod::Ties {
                weights,
                density,
                lambda,
            })
        }
    }
}

fn shown(name: MethodName) -> String {
    format!("{name:?}").to_lowercase()
}
