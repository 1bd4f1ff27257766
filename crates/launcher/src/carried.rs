//! The program inside the launcher: appended to it, then its length and a mark. The kernel passes over what comes
//! after an executable's own parts.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::LaunchError;

/// At the end of a launcher that carries a program.
const MARK: &[u8; 8] = b"sentune1";

/// The length and the mark.
const N_TRAILER: u64 = 16;

/// A program in memory, to be started by its path while this value lives.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
}

impl Program {
    /// Takes the program out of the launcher at `path` into memory.
    ///
    /// # Errors
    /// Where the launcher carries none, or can't be read.
    pub fn of(path: &Path) -> Result<Self, LaunchError> {
        let mut launcher = File::open(path).map_err(LaunchError::Carried)?;
        let length = seek(&mut launcher).map_err(LaunchError::Carried)?;
        let length = length.ok_or(LaunchError::Empty)?;
        let copy = || {
            let file = memfd_create("sentune", MemfdFlags::CLOEXEC)?;
            let mut sink = File::from(file);
            let n_copied = io::copy(&mut launcher.take(length), &mut sink)?;
            if n_copied != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(sink.into())
        };
        copy()
            .map(|file| Self { file })
            .map_err(LaunchError::Carried)
    }

    /// The path under which this process can start it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Goes to where the program begins, and tells its length.
fn seek(launcher: &mut File) -> io::Result<Option<u64>> {
    let end = launcher.metadata()?.len();
    let Some(trailer) = end.checked_sub(N_TRAILER) else {
        return Ok(None);
    };
    launcher.seek(SeekFrom::Start(trailer))?;
    let (mut length, mut mark) = ([0; 8], [0; 8]);
    launcher.read_exact(&mut length)?;
    launcher.read_exact(&mut mark)?;
    let length = u64::from_le_bytes(length);
    match trailer.checked_sub(length) {
        Some(begin) if &mark == MARK => {
            launcher.seek(SeekFrom::Start(begin))?;
            Ok(Some(length))
        }
        _ => Ok(None),
    }
}

/// Writes a launcher that carries the program to `output`.
///
/// # Errors
/// When a file can't be read or written.
pub fn pack(launcher: &Path, program: &Path, output: &Path) -> io::Result<()> {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    // With the launcher's permissions.
    fs::copy(launcher, &partial)?;
    let mut sink = File::options().append(true).open(&partial)?;
    let length = io::copy(&mut File::open(program)?, &mut sink)?;
    sink.write_all(&length.to_le_bytes())?;
    sink.write_all(MARK)?;
    sink.sync_all()?;
    fs::rename(partial, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let [launcher, program, output] =
            ["launcher", "program", "output"].map(|name| folder.path().join(name));
        fs::write(&launcher, "a launcher, longer than its trailer").unwrap();
        fs::write(&program, [7; 70_000]).unwrap();
        pack(&launcher, &program, &output).unwrap();
        let carried = Program::of(&output).unwrap();
        assert_eq!(fs::read(carried.path()).unwrap(), [7; 70_000]);
        for path in [launcher, program] {
            assert!(matches!(Program::of(&path), Err(LaunchError::Empty)));
        }
    }
}
