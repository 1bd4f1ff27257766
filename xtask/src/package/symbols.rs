//! The oldest C library that a program runs with, by the versions of the symbols that it needs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// The platform tag of wheels, which promises no newer symbols than these.
pub(super) const PLATFORM: &str = "manylinux_2_34_x86_64";

/// The newest versions of symbols under that tag, by library.
const NEWEST: [(&str, &[u32]); 4] = [
    ("GLIBC", &[2, 34]),
    ("GLIBCXX", &[3, 4, 29]),
    ("CXXABI", &[1, 3, 13]),
    ("GCC", &[12, 0, 0]),
];

/// Fails where the program needs a newer symbol than the tag promises.
pub(super) fn check(shell: &Shell, program: &Path) -> Result<()> {
    let symbols = cmd!(shell, "readelf --version-info --wide {program}")
        .quiet()
        .ignore_stderr()
        .read()?;
    let newer = newer(&symbols);
    ensure!(
        newer.is_empty(),
        "{} needs {}, and {PLATFORM} has none newer than GLIBC_2.34: build it on an older Linux",
        program.display(),
        newer.join(", ")
    );
    Ok(())
}

/// Checks both programs in a packed one: the launcher, and the program that it carries.
#[cfg(target_os = "linux")]
pub(super) fn check_carried(shell: &Shell, packed: &Path) -> Result<()> {
    check(shell, packed)?;
    let carried = launcher::carried::Program::of(packed)?;
    let descriptor = carried.path();
    let descriptor = descriptor.file_name().context("a path has a name")?;
    let own = Path::new("/proc").join(std::process::id().to_string());
    check(shell, &own.join("fd").join(descriptor))
}

/// Programs are packed on Linux only.
#[cfg(not(target_os = "linux"))]
pub(super) fn check_carried(_: &Shell, packed: &Path) -> Result<()> {
    anyhow::bail!("{} is packed on Linux only", packed.display())
}

/// The versions in readelf's list that the tag does not promise.
fn newer(symbols: &str) -> Vec<String> {
    let mut newer: Vec<String> = symbols
        .lines()
        .filter_map(|line| line.split("Name: ").nth(1)?.split_whitespace().next())
        .filter(|name| !is_promised(name))
        .map(str::to_owned)
        .collect();
    newer.sort();
    newer.dedup();
    newer
}

/// Whether a version such as `GLIBC_2.28` is promised. Libtorch's own symbols have no versions.
fn is_promised(name: &str) -> bool {
    let Some((library, version)) = name.split_once('_') else {
        return true;
    };
    let Some((_, newest)) = NEWEST.iter().find(|(known, _)| *known == library) else {
        return true;
    };
    let version: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    // `GLIBC_PRIVATE` and the like are promised nowhere.
    version.is_some_and(|version| version.as_slice() <= *newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_symbols_are_named() {
        let list = "Version needs section '.gnu.version_r' contains 2 entries:\n\
            \x20 000000: Version: 1  File: libc.so.6  Cnt: 3\n\
            \x20 0x0010:   Name: GLIBC_2.35  Flags: none  Version: 8\n\
            \x20 0x0020:   Name: GLIBC_2.34  Flags: none  Version: 2\n\
            \x20 0x0030:   Name: GLIBC_2.2.5  Flags: none  Version: 3\n\
            \x20 0x0040:   Name: GLIBC_PRIVATE  Flags: none  Version: 4\n\
            \x20 0x0050:   Name: GLIBCXX_3.4.30  Flags: none  Version: 5\n\
            \x20 0x0060:   Name: GLIBCXX_3.4.9  Flags: none  Version: 6\n\
            \x20 0x0070:   Name: OTHER_9.9  Flags: none  Version: 7\n";
        assert_eq!(
            newer(list),
            ["GLIBCXX_3.4.30", "GLIBC_2.35", "GLIBC_PRIVATE"]
        );
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_built_programs_need_none() -> Result<()> {
        // This test's own program, and beside it those that are built already.
        let own = std::env::current_exe()?;
        let built = own.ancestors().nth(2);
        let programs = ["sentune", "launcher"].into_iter();
        let programs = programs.filter_map(|name| Some(built?.join(name)));
        for program in programs
            .filter(|program| program.exists())
            .chain([own.clone()])
        {
            check(&Shell::new()?, &program)?;
        }
        Ok(())
    }
}
