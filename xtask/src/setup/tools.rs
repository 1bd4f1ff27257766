//! Tools that set-up needs: Python with pip, and a C++ compiler.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use launcher::version::VERSION;
use xshell::{Cmd, Shell, cmd};

use super::requirement::Requirement;

/// The manylinux tags that the pinned wheels carry.
///
/// pip matches them literally when the platform is given on the command line.
const PLATFORMS: [&str; 5] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux2014_x86_64",
];

/// Libraries that a program linked to libtorch may load on a CPU.
const LIBRARIES: [&str; 3] = ["torch", "torch_cpu", "c10"];

/// The name under which torch-sys looks for Python.
pub(crate) fn python_name() -> &'static str {
    if env::var_os("VIRTUAL_ENV").is_some() {
        "python"
    } else {
        "python3"
    }
}

/// A Python that has pip.
#[derive(Debug)]
pub(super) struct Python {
    program: &'static str,
}

impl Python {
    pub(super) fn find(shell: &Shell) -> Result<Self> {
        let program = python_name();
        let instead = format!("or set LIBTORCH to a folder that holds libtorch {VERSION}");
        if cmd!(shell, "{program} --version")
            .quiet()
            .ignore_stderr()
            .read()
            .is_err()
        {
            bail!(
                "`{program}` does not run, and libtorch is fetched with Python's pip: install Python 3 with pip (on Debian and Ubuntu `apt install python3-pip`, on Fedora `dnf install python3-pip`), {instead}"
            );
        }
        if cmd!(shell, "{program} -m pip --version")
            .quiet()
            .ignore_stderr()
            .read()
            .is_err()
        {
            bail!(
                "`{program}` has no pip, and libtorch is fetched with it: install it (`{program} -m ensurepip`, or on Debian and Ubuntu `apt install python3-pip`), {instead}"
            );
        }
        Ok(Self { program })
    }

    pub(super) fn program(&self) -> &'static str {
        self.program
    }

    /// Free bytes on the disk of `folder`.
    pub(super) fn free_space(&self, folder: &Path) -> Result<u64> {
        let script = "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free)";
        let output = Command::new(self.program)
            .args(["-c", script])
            .arg(folder)
            .output()
            .with_context(|| format!("running {}", self.program))?;
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .with_context(|| format!("asking for the free space in {}", folder.display()))
    }

    /// Fetches one wheel, verified, into an empty folder, and returns its path.
    ///
    /// pip shows its progress bar. Its own temporary files go into the same folder: the usual one
    /// may be too small for half a gigabyte.
    pub(super) fn fetch_wheel(&self, requirement: &Requirement, folder: &Path) -> Result<PathBuf> {
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, requirement.line())?;
        let status = Command::new(self.program)
            .args(["-m", "pip", "download", "--require-hashes", "--no-deps"])
            // Nothing is kept twice: the wheel is unpacked once and not fetched again.
            .args(["--only-binary=:all:", "--no-cache-dir", "--no-input"])
            .arg("--disable-pip-version-check")
            // Its progress bar, which `--quiet` would hide, shows on terminals only.
            .args((!io::stdout().is_terminal()).then_some("--quiet"))
            .args([
                "--python-version",
                "3.12",
                "--implementation",
                "cp",
                "--abi",
                "cp312",
            ])
            .args(
                PLATFORMS
                    .iter()
                    .flat_map(|platform| ["--platform", platform]),
            )
            .arg("--dest")
            .arg(folder)
            .arg("--requirement")
            .arg(&requirements)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("running {} -m pip", self.program))?;
        if !status.success() {
            bail!(
                "pip could not fetch {requirement} ({status}; its own words are above): run `cargo xtask setup` again to go on where it stopped, or, where no package index can be reached, set LIBTORCH to a folder that holds libtorch {VERSION} or LIBTORCH_USE_PYTORCH=1 where Python has PyTorch {VERSION}"
            );
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                return Ok(path);
            }
        }
        bail!("pip left no wheel of {requirement} in {}", folder.display())
    }
}

/// A C++ compiler, as torch-sys will look for it.
#[derive(Debug)]
pub(super) struct Compiler {
    program: String,
    /// Arguments in CXX after the program.
    args: Vec<String>,
}

impl Compiler {
    pub(super) fn find(shell: &Shell) -> Result<Self> {
        let cxx = env::var("CXX").unwrap_or_default();
        let mut words = cxx.split_whitespace().map(str::to_owned);
        let compiler = Self {
            program: words.next().unwrap_or_else(|| "c++".to_owned()),
            args: words.collect(),
        };
        let answer = compiler.command(shell).arg("--version");
        if answer.quiet().ignore_stderr().read().is_err() {
            bail!(
                "no C++ compiler: `{}` does not run, and tch needs one to build: install one (on Debian and Ubuntu `apt install g++`, on Fedora `dnf install gcc-c++`), or set CXX",
                compiler.program
            );
        }
        Ok(compiler)
    }

    /// Makes an empty libtorch.so that needs libtorch_cpu.so.
    ///
    /// It replaces the wheel's own, which holds no code and needs all other libraries, CUDA's too.
    pub(super) fn link_stand_in(&self, shell: &Shell, lib: &Path) -> Result<()> {
        self.command(shell)
            .args(["-shared", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"])
            .args([OsStr::new("-L"), lib.as_os_str()])
            .args(["-ltorch_cpu", "-x", "c++", "/dev/null", "-o"])
            .arg(lib.join("libtorch.so"))
            .quiet()
            .run()
            .context("linking the stand-in for libtorch.so")
    }

    /// Links and runs a program that needs the libraries, so that a machine that cannot load them fails
    /// now and not after the build.
    pub(super) fn check_loads(&self, shell: &Shell, lib: &Path, work: &Path) -> Result<()> {
        let (source, program) = (work.join("check.cpp"), work.join("check"));
        fs::write(&source, "int main() {}\n")?;
        self.command(shell)
            .arg(source)
            .arg("-Wl,--no-as-needed")
            .args([OsStr::new("-L"), lib.as_os_str()])
            .args(LIBRARIES.map(|library| format!("-l{library}")))
            .arg(format!("-Wl,-rpath,{}", lib.display()))
            .args([OsStr::new("-o"), program.as_os_str()])
            .quiet()
            .run()
            .and_then(|()| cmd!(shell, "{program}").quiet().run())
            .context("libtorch was unpacked, but a program linked to it does not run here")
    }

    fn command<'a>(&self, shell: &'a Shell) -> Cmd<'a> {
        shell.cmd(&self.program).args(&self.args)
    }
}
