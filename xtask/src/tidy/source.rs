//! A Rust source as tokens: enough of the language to tell names, strings and comments apart.

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// The content of a string literal.
    Text,
    /// A line of a doc comment, without its slashes.
    Doc,
    /// A punctuation character, or `::`.
    Sign,
}

/// One token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    /// Counted from 1.
    pub(super) line: usize,
}

impl Token<'_> {
    pub(super) fn is(&self, kind: Kind, text: &str) -> bool {
        self.kind == kind && self.text == text
    }
}

/// The tokens of a source. Comments that are not docs, characters and lifetimes are left out.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut scanner = Scanner {
        text,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while scanner.step() {}
    scanner.tokens
}

/// The tokens without the modules that only tests have: `#[cfg(test)] mod tests { ... }`.
pub(super) fn without_tests<'t>(tokens: &[Token<'t>]) -> Vec<Token<'t>> {
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if let Some(end) = end_of_test_module(tokens, i) {
            i = end;
        } else {
            kept.push(tokens[i]);
            i += 1;
        }
    }
    kept
}

/// The place behind the module that an attribute `#[cfg(test)]` at `start` belongs to.
fn end_of_test_module(tokens: &[Token], start: usize) -> Option<usize> {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|token| token.text == text);
    if !(is(start, "#") && is(start + 1, "[") && is(start + 2, "cfg")) {
        return None;
    }
    let attribute = closing(tokens, start + 1)?;
    let condition = &tokens[start + 3..attribute];
    let has = |word| condition.iter().any(|token| token.is(Kind::Word, word));
    if !has("test") || has("not") {
        return None;
    }
    let mut i = attribute + 1;
    while is(i, "#") {
        i = closing(tokens, i + 1)? + 1;
    }
    if !is(i, "mod") {
        return None;
    }
    let open = i + 2;
    if is(open, ";") {
        return Some(open + 1);
    }
    Some(closing(tokens, open)? + 1)
}

/// The place of the bracket that closes the one at `open`.
pub(super) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.kind != Kind::Sign {
            continue;
        }
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

struct Scanner<'t> {
    text: &'t str,
    /// The byte that is read next.
    at: usize,
    line: usize,
    tokens: Vec<Token<'t>>,
}

impl<'t> Scanner<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, text: &'t str) {
        let line = self.line;
        self.tokens.push(Token { kind, text, line });
    }

    fn skip(&mut self, n_bytes: usize) {
        let skipped = &self.text[self.at..self.at + n_bytes];
        self.line += skipped.matches('\n').count();
        self.at += n_bytes;
    }

    /// Reads one token or what lies between two; `false` at the end.
    fn step(&mut self) -> bool {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return false;
        };
        if rest.starts_with("//") {
            let line = rest.split('\n').next().unwrap_or(rest);
            let is_doc =
                line.starts_with("//!") || (line.starts_with("///") && !line.starts_with("////"));
            if is_doc {
                self.push(Kind::Doc, line[3..].trim());
            }
            self.skip(line.len());
        } else if rest.starts_with("/*") {
            self.skip(block_comment(rest));
        } else if let Some((open, hashes)) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = rest[open..].find(&close).unwrap_or(rest.len() - open);
            self.push(Kind::Text, &rest[open..open + end]);
            self.skip((open + end + close.len()).min(rest.len()));
        } else if let Some(open) = string(rest) {
            let end = open + end_of_string(&rest[open..]);
            self.push(Kind::Text, &rest[open..end]);
            self.skip((end + 1).min(rest.len()));
        } else if first == '\'' {
            self.skip(character(rest));
        } else if first.is_alphanumeric() || first == '_' {
            let is_inside = |c: char| c.is_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_inside(c)).unwrap_or(rest.len());
            self.push(Kind::Word, &rest[..end]);
            self.skip(end);
        } else if rest.starts_with("::") {
            self.push(Kind::Sign, &rest[..2]);
            self.skip(2);
        } else {
            let n_bytes = first.len_utf8();
            if !first.is_whitespace() {
                self.push(Kind::Sign, &rest[..n_bytes]);
            }
            self.skip(n_bytes);
        }
        true
    }
}

/// The length of a comment `/* ... */`, which may hold others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Where the content of a raw string begins, and its number of `#`.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix) && rest[prefix.len()..].starts_with(['"', '#']))?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    // Otherwise it is an identifier as `r#type`.
    after[hashes..]
        .starts_with('"')
        .then_some((prefix.len() + hashes + 1, hashes))
}

/// Where the content of a string begins.
fn string(rest: &str) -> Option<usize> {
    let mut prefixes = ["\"", "b\"", "c\""].into_iter();
    let prefix = prefixes.find(|prefix| rest.starts_with(prefix))?;
    Some(prefix.len())
}

fn end_of_string(content: &str) -> usize {
    let mut is_escaped = false;
    for (i, c) in content.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return i,
            _ => {}
        }
    }
    content.len()
}

/// The length of a character `'x'` or a lifetime `'a`.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            rest[2..]
                .char_indices()
                .skip(1)
                .find(|(_, c)| *c == '\'')
                .map_or(rest.len(), |(i, _)| i + 3)
        }
        Some((i, c)) if rest[i + c.len_utf8()..].starts_with('\'') => i + c.len_utf8() + 1,
        // The name of the lifetime is left for the next step as a word, which harms nothing.
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let letter = |kind| match kind {
            Kind::Word => 'w',
            Kind::Text => 't',
            Kind::Doc => 'd',
            Kind::Sign => 's',
        };
        let tokens = tokens(text);
        let shown = tokens.iter();
        shown
            .map(|token| format!("{}{} {}", token.line, letter(token.kind), token.text))
            .collect()
    }

    #[test]
    fn names_strings_and_comments_are_told_apart() {
        let text = "//! Docs.\nuse crate::a; // not docs: \"x\"\n/* no /* nor */ this */ let s = \"a \\\" b\";\nr#\"raw \"\n\"#; '\\'' '\"' b'x' &'a str\n//// none\n";
        assert_eq!(
            shown(text),
            [
                "1d Docs.",
                "2w use",
                "2w crate",
                "2s ::",
                "2w a",
                "2s ;",
                "3w let",
                "3w s",
                "3s =",
                "3t a \\\" b",
                "3s ;",
                "4t raw \"\n",
                "5s ;",
                "5w b",
                "5s &",
                "5w a",
                "5w str"
            ]
        );
    }

    #[test]
    fn modules_of_tests_are_cut_out() {
        let text = "fn a() {}\n#[cfg(test)]\n#[expect(x)]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(not(test))]\nmod d {}\n#[cfg(test)]\nmod e;";
        let all = tokens(text);
        let kept: Vec<&str> = without_tests(&all)
            .iter()
            .filter(|token| token.kind == Kind::Word && token.text.len() == 1)
            .map(|token| token.text)
            .collect();
        assert_eq!(kept, ["a", "c", "d"]);
    }
}
