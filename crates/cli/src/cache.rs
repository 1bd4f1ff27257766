//! The user's cache folder.

use std::{ffi::OsString, path::PathBuf};

use data::TokenCache;

/// The cache of tokenised data, if there is a place for it. It takes at most so much of the disk.
pub(crate) fn token_cache(max_bytes: u64) -> Option<TokenCache> {
    Some(TokenCache::new(folder()?.join("tokens"), max_bytes))
}

/// The user's cache folder.
pub(crate) fn folder() -> Option<PathBuf> {
    folder_by(|name| std::env::var_os(name))
}

/// `SENTUNE_CACHE`, or `sentune` in the user's cache folder by the XDG base directory specification: relative
/// paths are to be ignored, and ~/.cache is the default.
fn folder_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| {
        let path = variable(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    path("SENTUNE_CACHE")
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("sentune")))
        .or_else(|| Some(path("HOME")?.join(".cache/sentune")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_absolute_path_is_the_cache() {
        let found = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
            let folder = folder_by(|name| find(name).map(|(_, value)| value.into()));
            folder.map(|path| path.to_string_lossy().into_owned())
        };
        let home = ("HOME", "/h");
        let path = |text: &str| Some(text.to_owned());
        let own = ("SENTUNE_CACHE", "/c");
        assert_eq!(found(&[own, ("XDG_CACHE_HOME", "/x"), home]), path("/c"));
        assert_eq!(found(&[("XDG_CACHE_HOME", "/x"), home]), path("/x/sentune"));
        for odd in ["x", ""] {
            let variables = [("SENTUNE_CACHE", odd), ("XDG_CACHE_HOME", odd), home];
            assert_eq!(found(&variables), path("/h/.cache/sentune"));
        }
        assert_eq!(found(&[("HOME", "h")]), None);
        assert_eq!(found(&[]), None);
    }
}
