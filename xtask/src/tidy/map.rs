//! docs/ARCHITECTURE.md names what is there: its paths, types and functions are looked up in the sources.

use std::collections::BTreeSet;

use super::source::{Kind, Token, closing};

/// Everything that the sources define.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// The path of each item from its crate, as `model`, `encoder`, `Encoder`, `read`. The flag says whether the
    /// last but one is a type or trait, which has to be named with its member.
    items: Vec<(Vec<String>, bool)>,
    /// Every name that occurs in a source.
    words: BTreeSet<String>,
}

impl Definitions {
    /// Adds a source file of a crate; `module` is its path in the crate.
    pub(super) fn add(&mut self, module: &[&str], tokens: &[Token]) {
        let module: Vec<String> = module.iter().map(|&name| name.to_owned()).collect();
        self.items.push((module.clone(), false));
        let words = tokens.iter().filter(|token| token.kind == Kind::Word);
        self.words.extend(words.map(|token| token.text.to_owned()));
        let is_code = |token: &&Token| token.kind != Kind::Doc;
        let code: Vec<Token> = tokens.iter().filter(is_code).copied().collect();
        self.add_items(&module, &code);
    }

    fn add_items(&mut self, module: &[String], tokens: &[Token]) {
        let mut i = 0;
        while i < tokens.len() {
            let name = tokens.get(i + 1).filter(|next| next.kind == Kind::Word);
            match (tokens[i].kind, tokens[i].text, name) {
                (Kind::Word, "fn" | "type" | "const" | "static" | "mod", Some(name)) => {
                    self.push(module, name.text, false);
                }
                (Kind::Word, "struct" | "enum" | "union" | "trait", Some(name)) => {
                    self.push(module, name.text, false);
                    if let Some((body, end)) = body(tokens, i) {
                        self.add_members(module, &[name.text], body);
                        i = end;
                    }
                }
                // `impl Trait` in an argument has no body before the next bracket closes.
                (Kind::Word, "impl", _) => {
                    if let Some((body, end)) = body(tokens, i) {
                        let owners = owners(tokens, i);
                        self.add_members(module, &owners, body);
                        i = end;
                    }
                }
                _ => {}
            }
            i += 1;
        }
    }

    /// Variants, fields, functions and constants between the braces of a type, trait or `impl`.
    fn add_members(&mut self, module: &[String], owners: &[&str], body: &[Token]) {
        let mut depth = 0usize;
        for (i, token) in body.iter().enumerate() {
            match token.text {
                "(" | "[" | "{" if token.kind == Kind::Sign => depth += 1,
                ")" | "]" | "}" if token.kind == Kind::Sign => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > 0 || token.kind != Kind::Word {
                continue;
            }
            let before = i.checked_sub(1).map_or("{", |before| body[before].text);
            let after = body.get(i + 1).map_or("}", |after| after.text);
            let is_function = ["fn", "const", "type"].contains(&before);
            let is_variant =
                ["{", ",", "]"].contains(&before) && [",", "(", "{", "}", "="].contains(&after);
            let is_field = after == ":";
            if is_function || is_variant || is_field {
                for owner in owners {
                    let mut path = module.to_vec();
                    path.push((*owner).to_owned());
                    self.push(&path, token.text, true);
                }
            }
        }
    }

    fn push(&mut self, path: &[String], name: &str, is_member: bool) {
        let mut path = path.to_vec();
        path.push(name.to_owned());
        self.items.push((path, is_member));
    }

    /// Whether an item has this path, written from anywhere: `Type::function`, `krate::Type`, `module::function`.
    fn has(&self, path: &[&str]) -> bool {
        let Some((name, before)) = path.split_last() else {
            return false;
        };
        self.items.iter().any(|(item, is_member)| {
            let Some((item_name, item_before)) = item.split_last() else {
                return false;
            };
            let mut rest = item_before.iter();
            item_name == name
                && before.iter().all(|segment| rest.any(|own| own == segment))
                && (!is_member || before.is_empty() || rest.next().is_none())
        })
    }
}

/// The tokens between the braces of the item at `start`, and the place of the closing brace; `None` where the item
/// has none.
fn body<'s, 't>(tokens: &'s [Token<'t>], start: usize) -> Option<(&'s [Token<'t>], usize)> {
    let mut i = start;
    let (mut n_angles, mut has_where) = (0usize, false);
    while i < tokens.len() {
        let token = tokens[i];
        has_where |= token.is(Kind::Word, "where");
        let sign = if token.kind == Kind::Sign {
            token.text
        } else {
            ""
        };
        match sign {
            "{" => {
                let end = closing(tokens, i)?;
                return Some((&tokens[i + 1..end], end));
            }
            "(" | "[" => i = closing(tokens, i)?,
            "<" => n_angles += 1,
            ">" if tokens[i - 1].text != "-" => n_angles = n_angles.saturating_sub(1),
            ";" | ")" | "]" | "}" => return None,
            "," | "=" if n_angles == 0 && !has_where => return None,
            _ => {}
        }
        i += 1;
    }
    None
}

/// The names of the type, and of the trait, of the `impl` at `start`.
fn owners<'t>(tokens: &[Token<'t>], start: usize) -> Vec<&'t str> {
    let mut owners = Vec::new();
    let mut depth = 0usize;
    let mut last = None;
    for (i, token) in tokens.iter().enumerate().skip(start + 1) {
        let is_arrow = token.text == ">" && tokens[i - 1].text == "-";
        match (token.kind, token.text) {
            (Kind::Sign, "<") => depth += 1,
            (Kind::Sign, ">") if !is_arrow => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            (Kind::Sign, "{") | (Kind::Word, "where") => break,
            (Kind::Word, "for") => owners.extend(last.take()),
            (Kind::Word, name) => last = Some(name),
            _ => {}
        }
    }
    owners.extend(last);
    owners
}

/// Names of a document that are not there. `files` are all files of the tree.
pub(super) fn problems(document: &str, files: &[&str], definitions: &Definitions) -> Vec<String> {
    let mut problems = Vec::new();
    for Named { line, krates, name } in names(document) {
        let problem = if is_path(name) {
            missing_path(name, &krates, files)
        } else {
            missing_item(name, definitions)
        };
        problems.extend(problem.map(|problem| format!("docs/ARCHITECTURE.md:{line}: {problem}")));
    }
    problems
}

/// A back-ticked name.
#[derive(Debug)]
struct Named<'d> {
    line: usize,
    /// The crates that the section is about, where it is about any.
    krates: Vec<&'d str>,
    name: &'d str,
}

/// The names between back-ticks, outside of blocks of code.
fn names(document: &str) -> Vec<Named<'_>> {
    let mut names = Vec::new();
    let mut krates: Vec<&str> = Vec::new();
    let mut is_code = false;
    for (number, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        if line.starts_with('#') {
            krates.clear();
        }
        if line.starts_with("**`") {
            let bold = line.split("**`").skip(1);
            krates = bold
                .filter_map(|rest| Some(rest.split_once("`**")?.0))
                .collect();
        }
        names.extend(line.split('`').skip(1).step_by(2).map(|name| Named {
            line: number + 1,
            krates: krates.clone(),
            name,
        }));
    }
    names
}

/// Whether the name is meant as a file or folder of the tree.
fn is_path(name: &str) -> bool {
    let folders = [
        "crates/", "xtask/", "docs/", "data/", "fuzz/", ".ci/", ".cargo/",
    ];
    let endings = [".rs", ".cpp", ".py"];
    !name.contains(char::is_whitespace)
        && (folders.iter().any(|folder| name.starts_with(folder))
            || endings.iter().any(|ending| name.ends_with(ending)))
}

fn missing_path(name: &str, krates: &[&str], files: &[&str]) -> Option<String> {
    let is_file = |file: &&str| matches(file, name);
    let found = files.iter().any(is_file);
    if found {
        return None;
    }
    // A file of the crate that the section is about, or of any where it is about none.
    let below = format!("/{name}");
    let mut candidates = files.iter().filter(|file| file.ends_with(&below));
    let is_here = candidates.any(|file| {
        krates.is_empty()
            || krates.iter().any(|krate| {
                file.starts_with(&format!("crates/{krate}/"))
                    || file.starts_with(&format!("{krate}/"))
            })
    });
    if is_here {
        return None;
    }
    Some(if krates.is_empty() {
        format!("`{name}` is not there")
    } else {
        format!("`{name}` is not in {}", krates.join(" or "))
    })
}

/// Whether a path of the tree is the named one or lies below it; `*` stands for one name.
fn matches(file: &str, name: &str) -> bool {
    let mut own = file.split('/');
    name.trim_end_matches('/').split('/').all(|wanted| {
        own.next().is_some_and(|own| match wanted.split_once('*') {
            Some((before, after)) => {
                own.len() >= before.len() + after.len()
                    && own.starts_with(before)
                    && own.ends_with(after)
            }
            None => own == wanted,
        })
    })
}

fn missing_item(name: &str, definitions: &Definitions) -> Option<String> {
    let name = name.strip_suffix("()").unwrap_or(name);
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let path: Vec<&str> = name.split("::").collect();
    if !path.iter().all(|segment| is_name(segment)) {
        return None;
    }
    let has_lower = name.contains(|c: char| c.is_ascii_lowercase());
    let is_type = name.starts_with(|c: char| c.is_ascii_uppercase()) && has_lower;
    let is_function = name.contains('_') && has_lower;
    let is_there = if path.len() > 1 {
        definitions.has(&path)
    } else if is_type {
        definitions.has(&path) || definitions.words.contains(name)
    } else if is_function {
        // A name of libtorch's has a prefix in tch.
        definitions.words.contains(name) || definitions.words.contains(&format!("f_{name}"))
    } else {
        true
    };
    (!is_there).then(|| format!("`{name}` is not in the sources"))
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, *};

    const SOURCE: &str = "
        pub struct Trainer<'a, L> where L: Fn() -> u8 { step: usize, loss: L }
        impl<'a, L: Fn() -> u8> Trainer<'a, L> { pub fn train(&self) -> Result<()> { fn inner() {} } const MAX: u8 = 1; }
        impl fmt::Display for Trainer<'_, u8> { fn fmt(&self) {} }
        #[derive(Debug)] pub enum Engine { Auto, #[doc = \"x\"] Libtorch { threads: u8 }, Kernels(u8) }
        pub trait Loss { fn check(&self); }
        pub fn load(source: &impl AsRef<Path>) {}
    ";

    fn definitions() -> Definitions {
        let mut definitions = Definitions::default();
        definitions.add(&["train", "trainer"], &tokens(SOURCE));
        definitions
    }

    #[test]
    fn items_are_found_by_any_path_to_them() {
        let definitions = definitions();
        for path in [
            "Trainer::train",
            "Trainer::step",
            "Trainer::MAX",
            "Trainer::fmt",
            "Display::fmt",
            "Engine::Auto",
            "Engine::Libtorch",
            "Engine::Kernels",
            "Loss::check",
            "train::load",
            "train::trainer::load",
            "trainer::Trainer",
            "train::Trainer::train",
            "train::trainer",
        ] {
            assert!(
                definitions.has(&path.split("::").collect::<Vec<_>>()),
                "{path}"
            );
        }
        for path in [
            "Trainer::inner",
            "Trainer::gone",
            "Engine::train",
            "train::train",
            "eval::load",
            "load::train",
        ] {
            assert!(
                !definitions.has(&path.split("::").collect::<Vec<_>>()),
                "{path}"
            );
        }
    }

    #[test]
    fn a_name_that_is_gone_is_told_with_its_line() {
        let files = [
            "crates/train/src/trainer.rs",
            "crates/train/src/step/host.rs",
            "crates/data/src/csv.rs",
            "docs/guide.md",
        ];
        let good = "`Trainer::train` of `crates/train/src/trainer.rs`, `crates/*/src/`, `config.json`, `--flag`\n\n\
            **`train`** has `trainer.rs` and `step/host.rs`, `Engine`, `SENTUNE_X`.\n```text\n`Gone::gone`\n```\n";
        assert_eq!(problems(good, &files, &definitions()), Vec::<String>::new());
        for (line, problem) in [
            (
                "`Trainer::gone`",
                "1: `Trainer::gone` is not in the sources",
            ),
            (
                "\nsee `trainer_gone()`",
                "2: `trainer_gone` is not in the sources",
            ),
            ("`Gone`", "1: `Gone` is not in the sources"),
            (
                "`crates/train/src/gone.rs`",
                "1: `crates/train/src/gone.rs` is not there",
            ),
            ("`docs/gone.md`", "1: `docs/gone.md` is not there"),
            ("`gone.rs`", "1: `gone.rs` is not there"),
            (
                "**`train`** reads by\n`csv.rs`",
                "2: `csv.rs` is not in train",
            ),
        ] {
            let found = problems(line, &files, &definitions());
            assert_eq!(found, [format!("docs/ARCHITECTURE.md:{problem}")]);
        }
    }
}
