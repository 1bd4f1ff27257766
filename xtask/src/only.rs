//! `--only WORD`: a part of a list, by a word in the names.

use anyhow::{Result, bail};

/// The items with the word in their name, or all without a word; `kind` is what messages call them.
pub(crate) fn chosen<'i, T>(
    all: &'i [T],
    word: Option<&str>,
    name: impl Fn(&T) -> &str,
    kind: &str,
) -> Result<Vec<&'i T>> {
    let has_word = |item: &&T| word.is_none_or(|word| name(item).contains(word));
    let chosen: Vec<&T> = all.iter().filter(has_word).collect();
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(name).collect();
        bail!(
            "no {kind} has that word in its name; the {kind}s are: {}",
            names.join(", ")
        );
    }
    Ok(chosen)
}
