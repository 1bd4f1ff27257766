//! Names and openings that a source may not have.

use super::source::{Kind, Token, without_tests};

/// Openings that no doc comment may have: a clause or half a phrase, where a noun or verb would name the thing.
const RIDDLES: [&str; 14] = [
    "What ",
    "Whatever ",
    "Who ",
    "Whoever ",
    "Whose ",
    "Those ",
    "The one who ",
    "The ones ",
    "That ",
    "Of ",
    "By ",
    "It ",
    "They ",
    "So ",
];

/// The doc comments that begin with a riddle, each with its line.
pub(super) fn riddles(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut last = None;
    for token in tokens.iter().filter(|token| token.kind == Kind::Doc) {
        let begins = last.is_none_or(|line| token.line > line + 1);
        last = Some(token.line);
        let opening = RIDDLES
            .iter()
            .find(|opening| token.text.starts_with(**opening));
        if begins && let Some(opening) = opening {
            let problem = format!(
                "a doc comment begins with \"{}\": name the thing, with a noun or a verb",
                opening.trim_end()
            );
            found.push((token.line, problem));
        }
    }
    found
}

/// The folder that may name architectures.
pub(super) const ENCODERS: &str = "crates/model/src/encoder";

/// The names and strings that name an architecture, each with its line; only the encoders themselves may.
pub(super) fn architectures(tokens: &[Token]) -> Vec<(usize, String)> {
    let tokens = without_tests(tokens);
    let named = tokens.iter().filter(|token| match token.kind {
        Kind::Word => names_architecture(token.text),
        // Names on the hub, such as org/name or name-base-cased, and of files are no knowledge of an architecture.
        Kind::Text => token.text.split_whitespace().any(|word| {
            let is_name = ["/", "-base", "-large"]
                .iter()
                .any(|part| word.contains(part));
            !is_name && !word.ends_with(".json") && names_architecture(word)
        }),
        Kind::Doc | Kind::Sign => false,
    });
    named
        .map(|token| {
            let problem = format!(
                "`{}` names an architecture, and only {ENCODERS} may: ask the encoder",
                token.text
            );
            (token.line, problem)
        })
        .collect()
}

/// Parts of the names of architectures. `bert` alone is in too many others: of files, papers and models.
const ARCHITECTURES: [&str; 5] = ["mpnet", "bertmodel", "roberta", "distilbert", "modernbert"];

fn names_architecture(text: &str) -> bool {
    let text = text.to_lowercase();
    ARCHITECTURES.iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, *};

    fn lines(found: &[(usize, String)]) -> Vec<usize> {
        found.iter().map(|(line, _)| *line).collect()
    }

    #[test]
    fn a_doc_comment_may_not_begin_with_a_riddle() {
        let text = "//! What this is.\n\n/// The loss.\n/// What follows is fine.\nfn a() {}\n/// Those of it.\nstruct B {\n    /// Whatsoever.\n    c: u8, // What\n    /// Who computes.\n    d: u8,\n}";
        assert_eq!(lines(&riddles(&tokens(text))), [1, 6, 10]);
    }

    #[test]
    fn only_the_encoders_name_an_architecture() {
        let text = "//! MPNet.\nuse mpnet::MpNet;\nlet a = \"microsoft/mpnet-base\";\nlet b = \"MPNetModel\";\nlet c = [\"roberta\", \"roberta-base\", \"sentence_roberta_config.json\"];\n#[cfg(test)]\nmod tests { fn mpnet() {} }";
        assert_eq!(lines(&architectures(&tokens(text))), [2, 2, 4, 5]);
    }
}
