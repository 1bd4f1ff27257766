//! `sentune`: fine-tune sentence transformers.
//!
//! Data goes to stdout, log lines to stderr. Exit codes: 0 done, 1 failed, 2 used wrongly, 130, 143 and 138 ended by
//! SIGINT, SIGTERM and SIGUSR1.

mod cache;
mod card;
mod commands;
mod config;
mod device;
mod flags;
mod gemm;
mod interrupt;
mod machine;
mod material;
mod memory;
mod models;
mod named;
mod nano_beir;
mod npy;
mod output;
mod processes;
mod progress;
mod pushing;
mod ranks;
mod session;
mod source;
mod table;
mod tables;
mod talk;
mod texts;
mod tokenizing;
mod usage;

use std::{collections::BTreeSet, io, process::ExitCode, thread};

use eval::EvalError;
use hub::error::HubError;
use launcher::LaunchError;
use losses::LossError;
use train::{TrainError, failpoint};

use crate::{
    device::{DeviceName, Unusable},
    flags::{Command, Flags, parse_from},
    interrupt::{Interrupt, Interrupted},
    processes::RankFailed,
    ranks::Launch,
    session::Session,
    talk::Talk,
    usage::UsageError,
};

fn main() -> ExitCode {
    let line = parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit());
    // The other commands have no use for ranks, and run as often as they are started.
    let launch = match &line.flags.command {
        Command::Train(_) => Launch::of_environment(),
        _ => Ok(Launch::default()),
    };
    let place = launch
        .as_ref()
        .ok()
        .and_then(|launch| launch.place.as_ref());
    let rank = place.map(|place| place.rank);
    let talk = Talk::start(line.flags.verbose, line.flags.quiet, rank, line.known);
    let launch = match launch {
        Ok(launch) => launch,
        Err(error) => {
            talk.error(&error.into());
            return ExitCode::from(2);
        }
    };
    let outcome = run(line.flags, &line.given, &launch, &talk);
    if let Err(error) = &outcome {
        launch.report(error);
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            talk.error(&error);
            if is_about_the_installation(&error) {
                talk.hint("`sentune doctor` shows libtorch, devices, the hub's settings and the caches, and what is wrong with them");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(flags: Flags, given: &BTreeSet<String>, launch: &Launch, talk: &Talk) -> anyhow::Result<()> {
    // May start this program anew, with the libtorch that SENTUNE_LIBTORCH names.
    let libtorch = shim::cuda::libtorch_folder();
    if let Err(error) = launcher::enter(libtorch.as_deref()) {
        return match &flags.command {
            Command::Doctor(flags) => commands::doctor::run(flags, Some(&error)),
            _ => Err(error.into()),
        };
    }
    if let Some(folder) = &libtorch {
        tracing::debug!("libtorch is in {}", folder.display());
    }
    let n_to_start = match &flags.command {
        Command::Train(train) => launch.processes_to_start(&train.call)?,
        _ => None,
    };
    let session = || {
        Ok::<_, anyhow::Error>(Session {
            talk: talk.clone(),
            interrupt: Interrupt::listen()?,
        })
    };
    if let Some(n) = n_to_start {
        return processes::run(n, &session()?);
    }
    choose_device(&flags, launch)?;
    set_threads(flags.num_threads, launch)?;
    arm_failpoint()?;
    let session = session()?;
    match flags.command {
        Command::Train(flags) => commands::train::run(*flags, given, launch, &session),
        Command::Sweep(flags) => commands::sweep::run(&flags, &session),
        Command::Eval(flags) => commands::eval::run(&flags, &session),
        Command::Encode(flags) => commands::encode::run(&flags, &session),
        Command::Mine(flags) => commands::mine::run(&flags, &session),
        Command::Search(flags) => commands::search::run(&flags, &session),
        Command::Data(command) => commands::data::run(&command, &session),
        Command::Compare(flags) => commands::compare::run(&flags, &session),
        Command::Report(flags) => commands::report::run(&flags, &session),
        Command::Watch(flags) => commands::watch::run(&flags, &session),
        Command::Init(flags) => commands::init::run(&flags),
        Command::Merge(flags) => commands::merge::run(&flags, &session),
        Command::Doctor(flags) => commands::doctor::run(&flags, None),
        Command::Completions(flags) => commands::completions::run(&flags),
        Command::Man(flags) => commands::man::run(&flags),
        Command::Help(flags) => commands::help::run(&flags),
        Command::Push(flags) => commands::push::run(&flags, &session),
    }
}

/// Chooses the device of a command that computes; the others have no use for one.
///
/// The ranks of a machine take one each.
fn choose_device(flags: &Flags, launch: &Launch) -> anyhow::Result<()> {
    let local_rank = launch.place.as_ref().and_then(|place| place.local_rank);
    match (flags.command.computes(), flags.device) {
        (true, name) => device::choose(name.unwrap_or(DeviceName::Auto), local_rank.unwrap_or(0)),
        (false, Some(name)) => Err(UsageError(format!(
            "--device {name}: this command computes nothing on a device: leave the flag out"
        ))
        .into()),
        (false, None) => Ok(()),
    }
}

/// The threads of our kernels and of work over rows; all cores where the flag doesn't say, which the ranks of a machine
/// divide.
///
/// libtorch keeps one: its share between our kernels is small, and its OpenMP workers spin for a
/// while after each parallel loop, on cores that the kernels need.
fn set_threads(n_threads: Option<u16>, launch: &Launch) -> anyhow::Result<()> {
    tch::set_num_threads(1);
    let n_sharing = launch.place.as_ref().and_then(|place| place.local_size);
    let n_threads = match (n_threads, n_sharing) {
        (Some(n_threads), _) => usize::from(n_threads),
        (None, Some(n_sharing)) => (thread::available_parallelism()?.get() / n_sharing).max(1),
        (None, None) => return Ok(()),
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build_global()?;
    Ok(())
}

/// In builds for tests, arms the failpoint that the environment names.
fn arm_failpoint() -> anyhow::Result<()> {
    if failpoint::ENABLED
        && let Ok(text) = std::env::var("SENTUNE_FAILPOINT")
    {
        failpoint::arm(&text).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        return interrupted.exit_code();
    }
    if let Some(failed) = error.downcast_ref::<RankFailed>() {
        return failed.exit_code();
    }
    let is_usage = error.chain().any(|cause| {
        // A transparent error is no cause of its own: the loss's lies within the trainer's.
        let loss = match cause.downcast_ref() {
            Some(TrainError::Arguments(_) | TrainError::Eval(EvalError::Option(_))) => return true,
            Some(TrainError::Loss(loss)) => Some(loss),
            _ => cause.downcast_ref(),
        };
        let is_option = matches!(cause.downcast_ref(), Some(EvalError::Option(_)));
        cause.is::<UsageError>() || is_option || loss.is_some_and(is_wrong_use)
    });
    if is_usage { 2 } else { 1 }
}

/// Whether a loss was asked for that does not exist, can't have such parameters, or doesn't fit the data.
fn is_wrong_use(error: &LossError) -> bool {
    matches!(
        error,
        LossError::Unknown { .. } | LossError::Parameter { .. } | LossError::Inputs { .. }
    )
}

/// Whether something could not be found: a libtorch, a device, a model or data set on the hub.
fn is_about_the_installation(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<LaunchError>() || cause.is::<Unusable>() || cause.is::<HubError>())
}

/// The reader of our output has seen enough, as in `sentune eval ... | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_use_is_told_from_failure() {
        let unknown = || "nonsense".parse::<losses::LossConfig>().unwrap_err();
        let failed = || io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = |error: TrainError| anyhow::Error::from(error).context("--loss");
        for (error, code) in [
            (wrapped(TrainError::Arguments("--seed".to_owned())), 2),
            (wrapped(TrainError::Loss(unknown())), 2),
            (unknown().into(), 2),
            (wrapped(TrainError::Io(failed())), 1),
            (failed().into(), 1),
            (Interrupted { signal: 15 }.into(), 143),
        ] {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }
}
