//! `sentune doctor`: the installation in lines for a bug report, and what is wrong with it.

use std::{env, path::Path};

use anyhow::bail;
use hub::config::HubConfig;
use kernels::gemm::half::{Bf16Gemm, Fp16Gemm};
use launcher::{LaunchError, libtorch::Libtorch, version::RELEASE};
use serde_json::{Map, Value, json};
use shim::{cuda, graph};

use crate::{
    cache,
    flags::doctor::DoctorFlags,
    output::{print, print_json},
};

/// Variables that change what the program does. The values of those that may hold a secret are not shown.
const VARIABLES: [(&str, bool); 25] = [
    ("CUDA_VISIBLE_DEVICES", true),
    ("CURL_CA_BUNDLE", true),
    ("HF_ENDPOINT", true),
    ("HF_HOME", true),
    ("HF_HUB_CACHE", true),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", true),
    ("HF_HUB_OFFLINE", true),
    ("HF_TOKEN", false),
    ("HF_TOKEN_PATH", true),
    ("HTTPS_PROXY", false),
    ("https_proxy", false),
    ("KERNELS_LEVEL", true),
    ("LD_LIBRARY_PATH", true),
    ("LD_PRELOAD", true),
    ("LIBTORCH_BYPASS_VERSION_CHECK", true),
    ("NO_PROXY", true),
    ("no_proxy", true),
    ("REQUESTS_CA_BUNDLE", true),
    ("RUST_LOG", true),
    ("SENTUNE_CACHE", true),
    ("SENTUNE_LIBTORCH", true),
    ("SSL_CERT_DIR", true),
    ("SSL_CERT_FILE", true),
    ("TRANSFORMERS_OFFLINE", true),
    ("XDG_CACHE_HOME", true),
];

/// The findings, in the order in which they are printed.
#[derive(Default)]
struct Findings {
    facts: Vec<(&'static str, String)>,
    problems: Vec<String>,
}

impl Findings {
    fn add(&mut self, name: &'static str, fact: impl Into<String>) {
        self.facts.push((name, fact.into()));
    }

    fn to_json(&self) -> Value {
        let facts = self.facts.iter();
        let mut object: Map<String, Value> = facts
            .map(|(name, fact)| (name.replace(' ', "_"), json!(fact)))
            .collect();
        object.insert("problems".to_owned(), json!(self.problems));
        Value::Object(object)
    }

    fn text(&self) -> String {
        let width = self.facts.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        let mut text = String::new();
        for (name, fact) in &self.facts {
            text += &format!("{name:<width$}  {fact}\n");
        }
        match self.problems.as_slice() {
            [] => text += "\nnothing is wrong\n",
            problems => {
                text += "\nwrong:\n";
                for problem in problems {
                    text += &format!("- {problem}\n");
                }
            }
        }
        text
    }
}

/// Prints the findings. `launch_error` is the failure to find a libtorch or to start with it.
///
/// # Errors
/// If something is wrong.
pub(crate) fn run(flags: &DoctorFlags, launch_error: Option<&LaunchError>) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    if let Some(error) = launch_error {
        findings.problems.push(error.to_string());
    }
    program(&mut findings);
    libtorch(&mut findings);
    devices(&mut findings);
    hub(&mut findings);
    own_cache(&mut findings);
    variables(&mut findings);
    if flags.json {
        print_json(&findings.to_json())?;
    } else {
        print(&findings.text())?;
    }
    match findings.problems.len() {
        0 => Ok(()),
        1 => bail!("1 thing is wrong with this installation"),
        n => bail!("{n} things are wrong with this installation"),
    }
}

/// The facts about the program and its libtorch.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let mut findings = Findings::default();
    program(&mut findings);
    libtorch(&mut findings);
    findings.facts
}

fn program(findings: &mut Findings) {
    let features = if graph::AVAILABLE {
        "cuda-graphs"
    } else {
        "none"
    };
    findings.add("sentune", env!("CARGO_PKG_VERSION"));
    findings.add("features", features);
    findings.add(
        "system",
        format!("{} {}", env::consts::OS, env::consts::ARCH),
    );
    match launcher::file() {
        Ok(path) => findings.add("program", path.display().to_string()),
        Err(error) => findings.add("program", format!("unknown: {error}")),
    }
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    let yes = |has: bool| if has { "yes" } else { "no" };
    findings.add(
        "processor",
        format!(
            "{n_cores} cores, kernels for {}, bf16 {}, fp16 {}",
            kernels::instructions(),
            yes(Bf16Gemm::new().is_some()),
            yes(Fp16Gemm::new().is_some()),
        ),
    );
}

fn libtorch(findings: &mut Findings) {
    let Some(folder) = cuda::libtorch_folder() else {
        findings.add(
            "libtorch",
            "unknown: the system does not tell the loaded libraries",
        );
        return;
    };
    let found = Libtorch::at(&folder);
    let version = found.as_ref().and_then(Libtorch::version);
    let version = version.map_or("unknown".to_owned(), ToString::to_string);
    findings.add(
        "libtorch",
        format!("{}, version {version} (needs {RELEASE})", folder.display()),
    );
    if let Some(Err(error)) = found.map(|found| found.check()) {
        findings.problems.push(error.to_string());
    }
}

/// CUDA is opened, as the other commands do. A machine without it is not wrong, but one with a driver and a library
/// that don't go together is.
fn devices(findings: &mut Findings) {
    match cuda::open() {
        Ok(1) => findings.add("devices", "cpu, cuda:0"),
        Ok(n) => findings.add("devices", format!("cpu, cuda:0 to cuda:{}", n - 1)),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            findings.add("devices", format!("cpu ({error})"));
            let has_library =
                cuda::libtorch_folder().is_some_and(|folder| folder.join(cuda::LIBRARY).exists());
            if has_library && cuda::has_driver() {
                findings
                    .problems
                    .push(format!("the GPU can't be used: {error}"));
            }
        }
    }
}

fn hub(findings: &mut Findings) {
    match HubConfig::from_env() {
        Ok(config) => {
            let token = if config.token.is_some() {
                "with a token"
            } else {
                "without a token"
            };
            let mode = if config.offline { ", offline" } else { "" };
            findings.add("hub", format!("{}, {token}{mode}", config.endpoint));
            let fact = place(&config.cache_dir, &mut findings.problems);
            findings.add("hub cache", fact);
        }
        Err(error) => findings
            .problems
            .push(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn own_cache(findings: &mut Findings) {
    match cache::folder() {
        Some(folder) => {
            let fact = place(&folder, &mut findings.problems);
            findings.add("own cache", fact);
        }
        None => findings.problems.push(
            "there is no place for token ids: none of SENTUNE_CACHE, XDG_CACHE_HOME and HOME is set to an absolute path"
                .to_owned(),
        ),
    }
}

/// A folder that files are kept in: whether it is there, and can be written to.
fn place(folder: &Path, problems: &mut Vec<String>) -> String {
    if !folder.exists() {
        return format!("{} (not there yet)", folder.display());
    }
    match tempfile::tempfile_in(folder) {
        Ok(_) => folder.display().to_string(),
        Err(error) => {
            problems.push(format!("{} can't be written to: {error}", folder.display()));
            format!("{} (read only)", folder.display())
        }
    }
}

fn variables(findings: &mut Findings) {
    let set = VARIABLES.iter().filter_map(|(name, is_shown)| {
        let value = env::var_os(name)?;
        Some(match is_shown {
            true => format!("{name}={}", value.display()),
            false => format!("{name} is set"),
        })
    });
    let set: Vec<String> = set.collect();
    findings.add(
        "variables",
        if set.is_empty() {
            "none set".to_owned()
        } else {
            set.join(", ")
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_and_json() {
        let mut findings = Findings::default();
        findings.add("hub cache", "/c");
        findings.add("hub", "h");
        assert_eq!(
            findings.text(),
            "hub cache  /c\nhub        h\n\nnothing is wrong\n"
        );
        findings.problems.push("all".to_owned());
        assert!(findings.text().ends_with("\nwrong:\n- all\n"));
        assert_eq!(
            findings.to_json(),
            json!({"hub_cache": "/c", "hub": "h", "problems": ["all"]})
        );
    }
}
