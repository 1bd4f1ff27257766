//! Places where tests end the process, make an operation on a file fail, or spoil a number.
//!
//! Without the feature `failpoints`, which only tests switch on, the functions here do nothing and nothing can
//! be armed. A place has a name, such as `sync manifest.json`; it is armed as
//! `<name>@<n>=<action>`, and acts at the `n`th time that the place is passed, counted from one. The name `*` stands for
//! all places of the file system together. Several are separated by semicolons. Actions:
//!
//! | action | what happens |
//! |---|---|
//! | `kill` | the process ends at once, as by SIGKILL |
//! | `error:<errno>` | the operation fails with that error of the system |
//! | `sleep:<ms>` | the operation takes so many milliseconds longer |
//! | `nan`, `inf`, `-inf` | the number is replaced |

#[cfg(feature = "failpoints")]
pub use armed::arm;
#[cfg(feature = "failpoints")]
pub(crate) use armed::{at, number};
#[cfg(not(feature = "failpoints"))]
pub use unarmed::arm;
#[cfg(not(feature = "failpoints"))]
pub(crate) use unarmed::{at, number};

/// Whether this build has failpoints.
pub const ENABLED: bool = cfg!(feature = "failpoints");

#[cfg(not(feature = "failpoints"))]
mod unarmed {
    use std::{io, path::Path};

    /// Refuses: this build has no failpoints.
    ///
    /// # Errors
    /// Always.
    pub fn arm(_text: &str) -> Result<(), String> {
        Err("this build has no failpoints".to_owned())
    }

    #[inline(always)]
    pub(crate) fn at(_operation: &str, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn number(_name: &str) -> Option<f64> {
        None
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::{
        io,
        path::Path,
        process,
        sync::{Mutex, PoisonError},
        thread,
        time::Duration,
    };

    static ARMED: Mutex<Vec<Failpoint>> = Mutex::new(Vec::new());

    #[derive(Debug, Clone, PartialEq)]
    struct Failpoint {
        name: String,
        /// Passes until it acts.
        n_left: u64,
        action: Action,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Action {
        Kill,
        Error(i32),
        Sleep(u64),
        Number(f64),
    }

    /// Arms failpoints, as the module's documentation has it.
    ///
    /// # Errors
    /// When the text is no failpoint.
    pub fn arm(text: &str) -> Result<(), String> {
        let failpoints = text.split(';').map(parse).collect::<Option<_>>();
        let failpoints = failpoints
            .ok_or_else(|| format!("`{text}` is no failpoint: `<name>@<n>=<action>` is one"))?;
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = failpoints;
        Ok(())
    }

    fn parse(text: &str) -> Option<Failpoint> {
        let (place, action) = text.rsplit_once('=')?;
        let (name, n_left) = place.rsplit_once('@')?;
        let action = match action.split_once(':') {
            Some(("error", errno)) => Action::Error(errno.parse().ok()?),
            Some(("sleep", ms)) => Action::Sleep(ms.parse().ok()?),
            None if action == "kill" => Action::Kill,
            None => Action::Number(action.parse().ok()?),
            Some(_) => return None,
        };
        Some(Failpoint {
            name: name.to_owned(),
            n_left: n_left.parse().ok().filter(|n| *n > 0)?,
            action,
        })
    }

    /// Passes the place `name`; its action where that is due now.
    fn pass(name: &str, is_file: bool) -> Option<Action> {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = None;
        armed.retain_mut(|failpoint| {
            if failpoint.name == name || (is_file && failpoint.name == "*") {
                failpoint.n_left -= 1;
                if failpoint.n_left == 0 {
                    due = Some(failpoint.action);
                }
            }
            failpoint.n_left > 0
        });
        due
    }

    /// The place before `operation` on `path`, named for the last part of the path.
    pub(crate) fn at(operation: &str, path: &Path) -> io::Result<()> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        // The names of temporary files are drawn at random.
        let file = match file.split_once('-') {
            Some((prefix @ (".writing" | ".replaced"), _)) => prefix,
            _ => &file,
        };
        match pass(&format!("{operation} {file}"), true) {
            None | Some(Action::Number(_)) => Ok(()),
            Some(Action::Error(errno)) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(io::Error::new(
                    error.kind(),
                    Injected {
                        place: format!("failed to {operation} `{}`", path.display()),
                        source: error,
                    },
                ))
            }
            Some(Action::Sleep(ms)) => {
                thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
            Some(Action::Kill) => process::abort(),
        }
    }

    /// The number to put in the place of another, where that is due.
    pub(crate) fn number(name: &str) -> Option<f64> {
        match pass(name, false) {
            Some(Action::Number(value)) => Some(value),
            _ => None,
        }
    }

    /// As fs-err words the system's own errors.
    #[derive(Debug, thiserror::Error)]
    #[error("{place}")]
    struct Injected {
        place: String,
        source: io::Error,
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_failpoint_acts_at_its_pass_and_once() {
            arm("sync a@2=error:28").unwrap();
            let path = Path::new("x/a");
            assert!(at("sync", path).is_ok());
            assert!(at("open", path).is_ok());
            let error = at("sync", path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(at("sync", path).is_ok());

            arm("loss@1=nan;loss@2=inf").unwrap();
            assert!(number("gradient").is_none());
            assert!(number("loss").unwrap().is_nan());
            assert_eq!(number("loss"), Some(f64::INFINITY));
            assert_eq!(number("loss"), None);
            for text in ["", "a=kill", "a@0=kill", "a@1=eat", "a@1=error:x"] {
                assert!(arm(text).is_err(), "{text}");
            }
        }
    }
}
