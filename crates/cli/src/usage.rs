//! Wrong use of the program, and advice on right use.

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

/// Flags or a configuration file that no run could follow: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// A message without the advice that can't be followed, since it names flags other than the `known` ones.
///
/// The crates behind the program advise in terms of flags, but not all commands have them. The clause is cut that begins
/// at the last colon, semicolon or open parenthesis before such a flag.
pub(crate) fn without_foreign_flags<'m>(
    message: &'m str,
    known: &BTreeSet<String>,
) -> Cow<'m, str> {
    let mut message = Cow::Borrowed(message);
    while let Some(clause) = foreign_clause(&message, known) {
        message.to_mut().replace_range(clause, "");
    }
    message
}

/// The first clause that names a flag which is not known, if it can be cut.
fn foreign_clause(message: &str, known: &BTreeSet<String>) -> Option<Range<usize>> {
    let flag = flags_in(message).find(|flag| !known.contains(&message[flag.clone()]))?;
    let start = clause_start(&message[..flag.start])?;
    let is_in_parentheses = message[start..].starts_with(" (");
    let mut depth = 0;
    let rest = &message[flag.end..];
    let end = rest.char_indices().find_map(|(i, c)| match c {
        ')' if depth == 0 => Some(i + usize::from(is_in_parentheses)),
        ';' if depth == 0 && !is_in_parentheses => Some(i),
        '\n' => Some(i),
        '(' => {
            depth += 1;
            None
        }
        ')' => {
            depth -= 1;
            None
        }
        _ => None,
    });
    Some(start..flag.end + end.unwrap_or(rest.len()))
}

/// The start of the clause at the end of a text: a colon, a semicolon, or a parenthesis that is open.
fn clause_start(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().rev().find_map(|(i, c)| match c {
        ')' => {
            depth += 1;
            None
        }
        '(' if depth > 0 => {
            depth -= 1;
            None
        }
        '(' if text[..i].ends_with(' ') => Some(i - 1),
        ':' | ';' if depth == 0 && text[i + 1..].starts_with(' ') => Some(i),
        _ => None,
    })
}

/// The places of the names of flags, without their dashes. Command lines in backticks are other programs', or complete.
fn flags_in(message: &str) -> impl Iterator<Item = Range<usize>> {
    message.match_indices("--").filter_map(|(dashes, _)| {
        let before = &message[..dashes];
        let is_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        let start = dashes + 2;
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let rest = &message[start..];
        let length = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let name = rest[..length].trim_end_matches('-');
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase());
        let is_quoted = before.matches('`').count() % 2 == 1
            && before
                .rsplit('`')
                .next()
                .is_some_and(|line| line.contains(' '));
        (!is_word && is_name && !is_quoted).then(|| start..start + name.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_that_can_not_be_followed_is_cut() {
        let known = BTreeSet::from(["input", "column"].map(str::to_owned));
        for (message, expected) in [
            ("--input x: no such file", "--input x: no such file"),
            (
                "--input: x.csv: row 2: the text is empty; mend it, or load the others with --on-bad-row skip\n",
                "--input: x.csv: row 2: the text is empty\n",
            ),
            (
                "x.csv: column `a` holds lists, not text: choose the columns to use with --columns, in order",
                "x.csv: column `a` holds lists, not text",
            ),
            (
                "a field is never closed (where quotes are texts (\"), say so with --no-quotes); mend it",
                "a field is never closed; mend it",
            ),
            (
                "row 1 (line 2; a quote, see --no-quotes): bad",
                "row 1 (line 2): bad",
            ),
            (
                "not there: run `cargo xtask fetch-data --model x` or `--column`",
                "not there: run `cargo xtask fetch-data --model x` or `--column`",
            ),
            ("--teacher is unknown", "--teacher is unknown"),
            ("a--b and <--c", "a--b and <--c"),
        ] {
            assert_eq!(without_foreign_flags(message, &known), expected);
        }
    }
}
