//! `cargo xtask setup`: puts libtorch in place, so that the rest can be built.
//!
//! A libtorch of the user's own (LIBTORCH or LIBTORCH_USE_PYTORCH) is checked and used as it is.
//! Otherwise pinned wheels are fetched with pip, and the needed files are unpacked into a
//! folder of the user's cache, which the checkout's `libtorch` then links to: a second checkout
//! costs a link. The folder gets its name once it is complete, and a wheel once pip has verified its
//! hash, so a later run can't mistake the leftovers of an interrupted one for finished.

mod cache;
mod requirement;
mod tools;

use std::{env, io::Write, path::Path, time::SystemTime};

use anyhow::{Result, bail, ensure};
use fs_err as fs;
use launcher::{
    libtorch::{Libtorch, cached_name},
    version::{VERSION, Version},
};
use xshell::cmd;

use self::{
    cache::Cache,
    requirement::Requirement,
    tools::{Compiler, Python},
};
pub(crate) use self::{cache::cache_folder, tools::python_name};
use crate::{
    checkout::{self, Checkout},
    nvidia,
};

/// Put libtorch in place, so that everything else can be built.
///
/// LIBTORCH or LIBTORCH_USE_PYTORCH, where set, name a libtorch of your own; otherwise one is fetched
/// into your cache folder. Every other command that needs libtorch does this first by itself.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Fetch the CUDA libraries too, for training on an NVIDIA GPU (Linux, 3.6 GB when unpacked)
    #[arg(long)]
    cuda: bool,
    /// Fetch again, even if everything is in place
    #[arg(long)]
    force: bool,
}

impl Args {
    /// The flags of `setup --cuda`.
    pub(crate) fn with_cuda() -> Self {
        Self {
            cuda: true,
            force: false,
        }
    }
}

/// Puts libtorch in place and says where it is.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return check_pytorch(checkout, args);
    }
    if let Some(folder) = checkout.own_libtorch() {
        check_folder("LIBTORCH", &folder, args)?;
        eprintln!(
            "setup: libtorch {VERSION} of LIBTORCH, in {}",
            folder.display()
        );
        return Ok(());
    }

    let link = checkout.libtorch();
    if !args.force && in_place(&link, args) {
        eprintln!(
            "setup: libtorch {VERSION} is in place, in {}",
            followed(&link)
        );
        return Ok(());
    }
    ensure!(
        !link.exists() || link.is_symlink(),
        "{} is a folder that setup did not make, and not libtorch {VERSION}{}: move it away, or set LIBTORCH to use another",
        link.display(),
        if args.cuda { " with CUDA" } else { "" },
    );
    // A libtorch with CUDA keeps it: torch-sys would go on looking for its libraries.
    let variant = if args.cuda || has_cuda(&link) {
        Variant::Cuda
    } else {
        Variant::Cpu
    };
    let compiler = Compiler::find(&checkout.shell)?;
    let cache = Cache::find(&checkout.root, variant.name())?;
    if args.force || !cache.is_complete(&variant.version()) {
        fetch(checkout, &cache, variant, &compiler, args)?;
    }
    relink(&link, cache.folder())?;
    eprintln!(
        "setup: libtorch {VERSION} is in place, in {}",
        followed(&link)
    );
    Ok(())
}

/// The features to build `cli` with: CUDA graphs if `setup --cuda` has put CUDA's headers in place.
pub(crate) fn features(checkout: &Checkout) -> &'static [&'static str] {
    let headers = checkout.libtorch().join("cuda/include/cuda_runtime_api.h");
    if checkout.own_libtorch().is_none() && headers.exists() {
        &["--features", "cli/cuda-graphs"]
    } else {
        &[]
    }
}

/// A build of libtorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Cpu,
    Cuda,
}

impl Variant {
    /// The name of its folder in the cache.
    fn name(self) -> String {
        cached_name(self.tag())
    }

    /// The content of its file `build-version`, in the form that torch-sys reads.
    fn version(self) -> String {
        format!("{VERSION}+{}", self.tag())
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cu130",
        }
    }

    fn requirements(self) -> Result<Vec<Requirement>> {
        let cpu = requirement::parse(include_str!("../libtorch/cpu.txt"))?;
        let cuda = requirement::parse(include_str!("../libtorch/cuda.txt"))?;
        Ok(match self {
            Self::Cpu => cpu,
            Self::Cuda => cpu.into_iter().chain(cuda).collect(),
        })
    }

    /// Peak size of the cache's folder while wheels are fetched and unpacked, in bytes: the wheels, a second copy
    /// of the largest while pip moves it, and the unpacked libraries.
    fn disk_space(self) -> u64 {
        match self {
            Self::Cpu => 1_300_000_000,
            Self::Cuda => 6_500_000_000,
        }
    }
}

/// Checks the PyTorch that torch-sys will ask Python for.
fn check_pytorch(checkout: &Checkout, args: &Args) -> Result<()> {
    let python = tools::python_name();
    let script = "import torch; print(torch.__version__, torch.version.cuda)";
    let output = cmd!(checkout.shell, "{python} -c {script}")
        .quiet()
        .ignore_stderr()
        .read();
    let Ok(output) = output else {
        bail!(
            "LIBTORCH_USE_PYTORCH is set, but `{python}` cannot import torch: install PyTorch {VERSION} there, or unset LIBTORCH_USE_PYTORCH to have libtorch fetched"
        );
    };
    let (version, cuda) = output.split_once(' ').unwrap_or((&output, "None"));
    check_version(
        &Version::parse(version),
        "the PyTorch of LIBTORCH_USE_PYTORCH",
    )?;
    ensure!(
        !args.cuda || cuda != "None",
        "the PyTorch of LIBTORCH_USE_PYTORCH, {version}, was built without CUDA: install one with CUDA there, or unset LIBTORCH_USE_PYTORCH"
    );
    eprintln!(
        "setup: libtorch of PyTorch {version}, as {python} imports it (LIBTORCH_USE_PYTORCH)"
    );
    Ok(())
}

/// Checks that a folder holds the libtorch that tch expects.
fn check_folder(name: &str, folder: &Path, args: &Args) -> Result<()> {
    let lib = env::var_os("LIBTORCH_LIB")
        .map_or_else(|| folder.to_owned(), Into::into)
        .join("lib");
    ensure!(
        lib.is_dir(),
        "{name} leads to {}, but there is no folder {}: set it to a folder that holds include/ and lib/ of libtorch {VERSION}, or unset it to have libtorch fetched",
        folder.display(),
        lib.display(),
    );
    match Version::of_folder(folder) {
        Some(version) => check_version(&version, &format!("the libtorch in {}", folder.display()))?,
        None => eprintln!(
            "setup: {} does not tell its version: taken for {VERSION}",
            folder.display()
        ),
    }
    ensure!(
        !args.cuda || has_cuda(folder),
        "the libtorch in {} has no libtorch_cuda.so: set {name} to one with CUDA, or unset it to have one fetched",
        folder.display(),
    );
    Ok(())
}

/// Checks that tch builds with this version; `what` names the libtorch in the error.
fn check_version(version: &Version, what: &str) -> Result<()> {
    ensure!(
        version.builds(),
        "{what} is version {version}, and tch needs {VERSION}: use that one, or unset LIBTORCH and LIBTORCH_USE_PYTORCH to have it fetched"
    );
    Ok(())
}

/// Whether the checkout's link leads to a usable libtorch.
fn in_place(link: &Path, args: &Args) -> bool {
    Libtorch::at(link).is_some_and(|libtorch| {
        libtorch.version().is_some_and(Version::builds) && (!args.cuda || libtorch.has_cuda())
    })
}

fn has_cuda(folder: &Path) -> bool {
    Libtorch::at(folder).is_some_and(|libtorch| libtorch.has_cuda())
}

/// Fetches and unpacks the pinned wheels into the cache.
fn fetch(
    checkout: &Checkout,
    cache: &Cache,
    variant: Variant,
    compiler: &Compiler,
    args: &Args,
) -> Result<()> {
    ensure!(
        cfg!(all(
            target_os = "linux",
            target_arch = "x86_64",
            target_env = "gnu"
        )),
        "libtorch can be fetched for Linux on x86_64 with glibc only, and this is {} on {}: set LIBTORCH to a folder that holds libtorch {VERSION}, or LIBTORCH_USE_PYTORCH=1 where Python has PyTorch {VERSION}",
        env::consts::OS,
        env::consts::ARCH,
    );
    let shell = &checkout.shell;
    let python = Python::find(shell)?;
    let _lock = cache.lock()?;
    if !args.force && cache.is_complete(&variant.version()) {
        // Another checkout's setup put it there while this one waited.
        return Ok(());
    }
    if variant == Variant::Cuda && !nvidia::has_driver(shell) {
        eprintln!(
            "setup: this machine has no NVIDIA driver: the CUDA libraries are fetched, but will not run here"
        );
    }
    let work = cache.begin()?;
    let (free, needed) = (python.free_space(cache.wheels())?, variant.disk_space());
    ensure!(
        free >= needed,
        "{} has {:.1} GB free, and fetching libtorch takes {:.1} GB: free some, or set XDG_CACHE_HOME to a folder on a larger disk",
        cache.wheels().display(),
        free as f64 / 1e9,
        needed as f64 / 1e9,
    );

    let requirements = variant.requirements()?;
    let mut wheels = Vec::new();
    for (index, requirement) in requirements.iter().enumerate() {
        let place = format!("{} of {}", index + 1, requirements.len());
        let wheel = cache.wheels().join(requirement.file_name());
        if wheel.exists() {
            eprintln!("setup: {requirement} ({place}) was fetched before");
        } else {
            eprintln!("setup: fetching {requirement} ({place})");
            let download = work.join(requirement.file_name());
            fs::create_dir(&download)?;
            fs::rename(python.fetch_wheel(requirement, &download)?, &wheel)?;
        }
        wheels.push(wheel);
    }

    eprintln!("setup: unpacking");
    let folder = work.join("libtorch");
    let unpack = include_str!("../libtorch/unpack.py");
    let (python, tag) = (python.program(), variant.tag());
    cmd!(shell, "{python} -c {unpack} {tag} {folder} {wheels...}")
        .quiet()
        .run()?;
    if variant == Variant::Cpu {
        compiler.link_stand_in(shell, &folder.join("lib"))?;
    }
    compiler.check_loads(shell, &folder.join("lib"), &work)?;
    let mut version = fs::File::create(folder.join("build-version"))?;
    writeln!(version, "{}", variant.version())?;
    version.sync_all()?;
    cache.finish(&folder)
}

/// Leads the checkout's link to `folder`, in one step.
fn relink(link: &Path, folder: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    let replaces = link.is_symlink();
    checkout::link(folder, link)?;
    if replaces {
        // The run path of what was built before leads to the old place: see libtorch::link_run_path.
        let version = folder.join("build-version");
        let touched = fs::OpenOptions::new()
            .append(true)
            .open(&version)
            .and_then(|file| file.file().set_modified(SystemTime::now()));
        if touched.is_err() {
            eprintln!(
                "setup: run `cargo clean` if a binary built before still looks for the old libtorch"
            );
        }
    }
    Ok(())
}

/// The target of a link, for messages.
fn followed(link: &Path) -> String {
    link.canonicalize()
        .unwrap_or_else(|_| link.to_owned())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_are_whole() -> Result<()> {
        let cpu = Variant::Cpu.requirements()?;
        let cuda = Variant::Cuda.requirements()?;
        assert_eq!(cpu[0].to_string(), format!("torch {VERSION}"));
        assert!(cuda.starts_with(&cpu));
        let mut names: Vec<_> = cuda.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cuda.len());
        Ok(())
    }

    #[test]
    fn a_folder_tells_whether_it_will_do() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let lib = folder.path().join("lib");
        let any = Args::default();
        let cuda = Args::with_cuda();
        let missing = check_folder("LIBTORCH", folder.path(), &any);
        assert!(missing.is_err_and(|error| error.to_string().contains("there is no folder")));
        fs::create_dir(&lib)?;
        fs::write(lib.join("libtorch_cpu.so"), "")?;
        assert!(!in_place(folder.path(), &any), "its version is not known");
        fs::write(folder.path().join("build-version"), "2.10.0+cpu\n")?;
        assert!(!in_place(folder.path(), &any));
        assert!(check_folder("LIBTORCH", folder.path(), &any).is_err());
        fs::write(folder.path().join("build-version"), Variant::Cpu.version())?;
        assert!(in_place(folder.path(), &any));
        assert!(check_folder("LIBTORCH", folder.path(), &any).is_ok());
        assert!(!in_place(folder.path(), &cuda));
        assert!(check_folder("LIBTORCH", folder.path(), &cuda).is_err());
        fs::write(lib.join("libtorch_cuda.so"), "")?;
        assert!(in_place(folder.path(), &cuda));
        Ok(())
    }

    #[test]
    fn another_version_is_named_beside_the_one_that_is_needed() {
        let error = check_version(&Version::parse("2.9.1+cpu"), "the libtorch in /opt/torch");
        assert_eq!(
            error.map_err(|error| error.to_string()),
            Err(
                "the libtorch in /opt/torch is version 2.9.1+cpu, and tch needs 2.11.0: use that \
                 one, or unset LIBTORCH and LIBTORCH_USE_PYTORCH to have it fetched"
                    .to_owned()
            )
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_link_follows_the_last_setup() -> Result<()> {
        let root = tempfile::tempdir()?;
        let link = root.path().join("libtorch");
        for name in ["one", "two"] {
            let folder = root.path().join(name);
            fs::create_dir(&folder)?;
            fs::write(folder.join("build-version"), VERSION)?;
            relink(&link, &folder)?;
            relink(&link, &folder)?;
            assert_eq!(fs::read_link(&link)?, folder);
        }
        Ok(())
    }
}
