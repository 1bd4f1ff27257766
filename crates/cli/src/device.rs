//! `--device`: the device to compute on, chosen once at start-up.
//!
//! libtorch's CUDA library can be opened only before libtorch is asked for anything that a device could have a part
//! in, so the choice is the process's and not a command's.

use std::{fmt, str::FromStr, sync::OnceLock};

use anyhow::Context;
use shim::cuda::{self, CudaError};
use tch::Device;

use crate::usage::UsageError;

static CHOSEN: OnceLock<Device> = OnceLock::new();

/// The device that this process computes on: the CPU until [`choose`] has chosen another.
pub(crate) fn chosen() -> Device {
    CHOSEN.get().copied().unwrap_or(Device::Cpu)
}

/// A device as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// CUDA's first device where there is one, else the CPU.
    Auto,
    Cpu,
    /// This one, or the first.
    Cuda(Option<usize>),
}

/// The names that a device may have.
const KNOWN: &str = "auto, cpu, cuda or cuda:N, N from 0";

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => number
                .parse()
                .map(|number| Self::Cuda(Some(number)))
                .map_err(|_| KNOWN.to_owned()),
            _ => Err(KNOWN.to_owned()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

/// Chooses the device that this process computes on, and opens the libraries that it takes. Without a number it is the
/// `own`-th: the ranks of a machine take one each.
///
/// # Errors
/// If a device is asked for by name and is not there.
pub(crate) fn choose(name: DeviceName, own: usize) -> anyhow::Result<()> {
    let device = pick(name, own, cuda::open)?;
    if let Device::Cuda(number) = device {
        tracing::info!("computing on cuda:{number}");
    }
    CHOSEN.get_or_init(|| device);
    Ok(())
}

/// The device of that name, where `open` says how many CUDA has.
fn pick(
    name: DeviceName,
    own: usize,
    open: impl FnOnce() -> Result<usize, CudaError>,
) -> anyhow::Result<Device> {
    let number = match name {
        DeviceName::Cpu => return Ok(Device::Cpu),
        DeviceName::Auto => {
            return match open() {
                Ok(n_devices) => of_rank(name, own, n_devices),
                Err(error) => {
                    tracing::debug!("computing on the CPU: {:#}", anyhow::Error::from(error));
                    Ok(Device::Cpu)
                }
            };
        }
        DeviceName::Cuda(number) => number.unwrap_or(own),
    };
    let n_devices = open()
        .map_err(explained)
        .with_context(|| format!("--device {name}"))?;
    of_rank(name, number, n_devices)
}

/// A device by its number, where there are so many.
fn of_rank(name: DeviceName, number: usize, n_devices: usize) -> anyhow::Result<Device> {
    if number >= n_devices {
        let there = match n_devices {
            1 => "there is one device, cuda:0".to_owned(),
            n => format!("there are {n} devices, cuda:0 to cuda:{}", n - 1),
        };
        return Err(UsageError(format!(
            "--device {name}: there is no cuda:{number}: {there}"
        ))
        .into());
    }
    Ok(Device::Cuda(number))
}

/// CUDA can't be used although a device of it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {what_to_do}")]
pub(crate) struct Unusable {
    error: CudaError,
    what_to_do: String,
}

/// The error with what to do about it.
fn explained(error: CudaError) -> anyhow::Error {
    let what_to_do = match &error {
        CudaError::NoLibrary { .. } => {
            let driver = if cuda::has_driver() {
                ""
            } else {
                " (but this machine has no NVIDIA driver either)"
            };
            format!(
                "in the checkout `cargo xtask setup --cuda` brings it, and for a program that was carried here SENTUNE_LIBTORCH names a libtorch {} with CUDA, or the torch package of a Python that has it{driver}; --device cpu does without",
                launcher::version::RELEASE
            )
        }
        CudaError::NoDriver => {
            "install the driver of the GPU, or compute with --device cpu".to_owned()
        }
        _ => return error.into(),
    };
    Unusable { error, what_to_do }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: usize = 2;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:11"] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "CUDA",
            "cuda:",
            "cuda:-1",
            "cuda:x",
            "cpu:0",
            "cuda:99999999999999999999",
        ] {
            let error = text.parse::<DeviceName>().unwrap_err();
            assert_eq!(error, KNOWN, "{text}");
        }
    }

    #[test]
    fn the_cpu_opens_nothing() {
        let device = pick(DeviceName::Cpu, 0, || panic!("CUDA was opened"));
        assert_eq!(device.unwrap(), Device::Cpu);
    }

    #[test]
    fn auto_takes_the_first_device_or_the_cpu() {
        assert_eq!(
            pick(DeviceName::Auto, 0, || Ok(ANY)).unwrap(),
            Device::Cuda(0)
        );
        let device = pick(DeviceName::Auto, 0, || Err(CudaError::NoDriver));
        assert_eq!(device.unwrap(), Device::Cpu);
    }

    #[test]
    fn a_device_is_there_or_the_user_learns_how_many_are() {
        for (name, device) in [(None, 0), (Some(0), 0), (Some(1), 1)] {
            let picked = pick(DeviceName::Cuda(name), 0, || Ok(ANY)).unwrap();
            assert_eq!(picked, Device::Cuda(device));
        }
        for (n_devices, words) in [
            (
                1,
                "--device cuda:2: there is no cuda:2: there is one device, cuda:0",
            ),
            (
                2,
                "--device cuda:2: there is no cuda:2: there are 2 devices, cuda:0 to cuda:1",
            ),
        ] {
            let error = pick(DeviceName::Cuda(Some(2)), 0, || Ok(n_devices)).unwrap_err();
            assert_eq!(error.to_string(), words);
            assert!(error.is::<UsageError>());
        }
    }

    #[test]
    fn the_ranks_of_a_machine_take_a_device_each() {
        for name in [DeviceName::Auto, DeviceName::Cuda(None)] {
            assert_eq!(pick(name, 1, || Ok(ANY)).unwrap(), Device::Cuda(1));
            let error = pick(name, 2, || Ok(ANY)).unwrap_err().to_string();
            assert!(error.contains("there is no cuda:2"), "{error}");
        }
        let same = pick(DeviceName::Cuda(Some(0)), 1, || Ok(ANY)).unwrap();
        assert_eq!(same, Device::Cuda(0));
    }

    #[test]
    fn what_is_missing_comes_with_what_brings_it() {
        let folder = Some("/libs".into());
        for (error, words) in [
            (
                CudaError::NoLibrary { folder },
                &[
                    "/libs has no libtorch_cuda.so",
                    "cargo xtask setup --cuda",
                    "SENTUNE_LIBTORCH",
                ][..],
            ),
            (CudaError::NoDriver, &["no NVIDIA driver", "--device cpu"]),
            (CudaError::NoDevice, &["CUDA_VISIBLE_DEVICES"]),
        ] {
            let error = pick(DeviceName::Cuda(Some(1)), 0, || Err(error)).unwrap_err();
            assert!(!error.is::<UsageError>());
            let message = format!("{error:#}");
            assert!(message.starts_with("--device cuda:1: "), "{message}");
            for word in words {
                assert!(message.contains(word), "`{word}` is not in {message}");
            }
        }
    }
}
