//! Names of repositories, revisions, subsets and files, under the hub's rules and no looser than a
//! path on any system allows.
//!
//! Every one of these names becomes part of a path below the cache folder, so what could climb out
//! of it is refused here, before anything else looks at it.

use std::fmt;

use crate::error::HubError;

/// The revision of a name without one.
pub const DEFAULT_REVISION: &str = "main";

/// A repository and a revision of it: `org/name` or `org/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoId {
    id: String,
    revision: String,
}

impl RepoId {
    /// Takes `org/name` or `org/name@revision`; the revision (a branch, a tag, a commit or
    /// `refs/pr/N`) defaults to `main`.
    ///
    /// # Errors
    /// [`HubError::Name`], which names the rule that is broken. The rules are those of
    /// `huggingface_hub.utils.validate_repo_id`, except that the organisation is required.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        check_repo(id).map_err(|rule| name_error("hub name", text, rule))?;
        check_revision(revision).map_err(|rule| name_error("revision", revision, rule))?;
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// Takes the name of a model as sentence-transformers does: [`Self::parse`], or a name without a slash, which is
    /// one of the organisation sentence-transformers unless the hub has had it since before there were organisations
    /// (`bert-base-uncased`).
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_model(text: &str) -> Result<Self, HubError> {
        let (name, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        if name.contains('/') {
            return Self::parse(text);
        }
        let full = Self::parse(&format!("{SHORT_NAMES_ORGANISATION}/{name}@{revision}"))?;
        if MODELS_WITHOUT_ORGANISATION.contains(&name.to_ascii_lowercase().as_str()) {
            return Ok(Self {
                id: name.to_owned(),
                ..full
            });
        }
        Ok(full)
    }

    /// The same repository at another revision.
    pub(crate) fn at(&self, revision: &str) -> Self {
        Self {
            id: self.id.clone(),
            revision: revision.to_owned(),
        }
    }

    /// The repository without the revision, as in `microsoft/mpnet-base`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The revision, `main` unless another was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// A data set on the hub and a subset of it: `org/name`, `org/name:subset` or
/// `org/name@revision:subset`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DatasetId {
    /// The repository.
    pub repo: RepoId,
    /// The subset (the hub's "config"); none means the only one there is.
    pub subset: Option<String>,
}

impl DatasetId {
    /// Takes `org/name[@revision][:subset]`.
    ///
    /// # Errors
    /// [`HubError::Name`], which names the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let (repo, subset) = match text.split_once(':') {
            Some((repo, subset)) => (repo, Some(subset)),
            None => (text, None),
        };
        let repo = RepoId::parse(repo)?;
        if let Some(subset) = subset {
            check_subset(subset).map_err(|rule| name_error("subset", subset, rule))?;
        }
        Ok(Self {
            repo,
            subset: subset.map(str::to_owned),
        })
    }
}

impl fmt::Display for DatasetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        match &self.subset {
            Some(subset) => write!(f, ":{subset}"),
            None => Ok(()),
        }
    }
}

/// The organisation of a model's short name.
const SHORT_NAMES_ORGANISATION: &str = "sentence-transformers";

/// Models whose name on the hub has no organisation.
///
/// Source: `ORIGINAL_TRANSFORMER_MODELS` in `sentence_transformers/util/misc.py` (6.2.0).
const MODELS_WITHOUT_ORGANISATION: &[&str] = &[
    "albert-base-v1",
    "albert-base-v2",
    "albert-large-v1",
    "albert-large-v2",
    "albert-xlarge-v1",
    "albert-xlarge-v2",
    "albert-xxlarge-v1",
    "albert-xxlarge-v2",
    "bert-base-cased",
    "bert-base-cased-finetuned-mrpc",
    "bert-base-chinese",
    "bert-base-german-cased",
    "bert-base-german-dbmdz-cased",
    "bert-base-german-dbmdz-uncased",
    "bert-base-multilingual-cased",
    "bert-base-multilingual-uncased",
    "bert-base-uncased",
    "bert-large-cased",
    "bert-large-cased-whole-word-masking",
    "bert-large-cased-whole-word-masking-finetuned-squad",
    "bert-large-uncased",
    "bert-large-uncased-whole-word-masking",
    "bert-large-uncased-whole-word-masking-finetuned-squad",
    "camembert-base",
    "ctrl",
    "distilbert-base-cased",
    "distilbert-base-cased-distilled-squad",
    "distilbert-base-german-cased",
    "distilbert-base-multilingual-cased",
    "distilbert-base-uncased",
    "distilbert-base-uncased-distilled-squad",
    "distilbert-base-uncased-finetuned-sst-2-english",
    "distilgpt2",
    "distilroberta-base",
    "gpt2",
    "gpt2-large",
    "gpt2-medium",
    "gpt2-xl",
    "openai-gpt",
    "roberta-base",
    "roberta-base-openai-detector",
    "roberta-large",
    "roberta-large-mnli",
    "roberta-large-openai-detector",
    "t5-11b",
    "t5-3b",
    "t5-base",
    "t5-large",
    "t5-small",
    "transfo-xl-wt103",
    "xlm-clm-ende-1024",
    "xlm-clm-enfr-1024",
    "xlm-mlm-100-1280",
    "xlm-mlm-17-1280",
    "xlm-mlm-en-2048",
    "xlm-mlm-ende-1024",
    "xlm-mlm-enfr-1024",
    "xlm-mlm-enro-1024",
    "xlm-mlm-tlm-xnli15-1024",
    "xlm-mlm-xnli15-1024",
    "xlm-roberta-base",
    "xlm-roberta-large",
    "xlm-roberta-large-finetuned-conll02-dutch",
    "xlm-roberta-large-finetuned-conll02-spanish",
    "xlm-roberta-large-finetuned-conll03-english",
    "xlm-roberta-large-finetuned-conll03-german",
    "xlnet-base-cased",
    "xlnet-large-cased",
];

/// Whether this is a full commit hash, which never moves.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether this is lower-case hexadecimal, as the hub writes hashes.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Refuses a file name from a listing that could leave the folder it is put into, or fool a reader
/// of the message that shows it. No honest repository has such a name, so one spoils the listing.
pub(crate) fn check_listed(name: &str) -> Result<(), HubError> {
    let rule = if name.is_empty() {
        "is empty"
    } else if name.len() > 1024 {
        "is longer than 1,024 bytes"
    } else if name.starts_with('/') {
        "is absolute"
    } else if name.contains('\\') {
        "holds a backslash"
    } else if name.chars().any(is_invisible) {
        "holds a control or invisible character"
    } else if has_drive(name) {
        "starts with a drive letter"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "has an empty, `.` or `..` part"
    } else if name.split('/').any(|part| part.len() > 255) {
        "has a part longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(name_error("file in the repository", name, rule))
}

/// Refuses a file name that not every system can store; only for files that are to be fetched.
pub(crate) fn check_portable(name: &str) -> Result<(), HubError> {
    check_listed(name)?;
    for part in name.split('/') {
        check_part(part).map_err(|rule| name_error("file in the repository", name, rule))?;
    }
    Ok(())
}

fn name_error(what: &'static str, name: &str, rule: &str) -> HubError {
    let mut name: String = name.chars().take(120).collect();
    if name.len() >= 120 {
        name.push('…');
    }
    HubError::Name {
        what,
        name,
        rule: rule.to_owned(),
    }
}

fn check_repo(id: &str) -> Result<(), &'static str> {
    if id.contains(':') {
        return Err("holds a colon, which is only for the subset of a data set");
    }
    let Some((org, name)) = id.split_once('/') else {
        return Err("is not of the form org/name, as in microsoft/mpnet-base");
    };
    if name.contains('/') {
        return Err("has more than one slash, the form is org/name");
    }
    if id.len() > 96 {
        return Err("is longer than the hub's 96 characters");
    }
    for part in [org, name] {
        if part.is_empty() {
            return Err("lacks the part before or after the slash, the form is org/name");
        }
        if !part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err(
                "holds something else than ASCII letters, digits, `-`, `_`, `.` and one slash",
            );
        }
        if part.contains("..") || part.contains("--") {
            return Err("holds `..` or `--`, which the hub forbids");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Err("has a part that starts or ends with `-` or `.`, which the hub forbids");
        }
    }
    if name.ends_with(".git") {
        return Err("ends with `.git`, which the hub forbids");
    }
    Ok(())
}

// Git's rules for a reference (git-check-ref-format), less the characters that no branch on the hub
// needs and that mean something in an address or to a shell.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    if revision.is_empty() {
        return Err("is empty, leave out the `@` for main");
    }
    if revision.len() > 200 {
        return Err("is longer than 200 characters");
    }
    if revision.contains(':') {
        return Err("holds a colon, which is only for the subset of a data set");
    }
    if !revision
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+/".contains(&byte))
    {
        return Err("holds something else than ASCII letters, digits and `-_.+/`");
    }
    for part in revision.split('/') {
        if part.is_empty() {
            return Err("has an empty part (a slash at its start, its end, or two in a row)");
        }
        if part.contains("..") {
            return Err("holds `..`, which git forbids");
        }
        if part.starts_with(['.', '-']) || part.ends_with(".lock") {
            return Err("has a part that starts with `.` or `-` or ends with `.lock`");
        }
        check_part(part)?;
    }
    Ok(())
}

/// Refuses a subset's name that could leave the folder it is a part of.
pub(crate) fn check_subset(subset: &str) -> Result<(), &'static str> {
    if subset.is_empty() {
        return Err("is empty, leave out the `:` for the only one");
    }
    if subset.contains('/') {
        return Err("holds a slash");
    }
    if subset.starts_with('.') {
        return Err("starts with `.`");
    }
    check_part(subset)
}

// One part of a path, under the rules of POSIX and Windows together.
fn check_part(part: &str) -> Result<(), &'static str> {
    if part.len() > 255 {
        return Err("has a part longer than 255 bytes");
    }
    if part.chars().any(is_invisible) {
        return Err("holds a control or invisible character");
    }
    if part.contains(['<', '>', ':', '"', '|', '?', '*', '\\']) {
        return Err("holds one of `<>:\"|?*\\`, which not every system can store");
    }
    if part.ends_with(['.', ' ']) || part.starts_with(' ') {
        return Err("has a part that ends with a dot, or starts or ends with a space");
    }
    let stem = part
        .split('.')
        .next()
        .unwrap_or(part)
        .trim_end()
        .to_ascii_uppercase();
    let is_device = matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) || ["COM", "LPT"].iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|rest| {
            let mut rest = rest.chars();
            let number = rest.next();
            number.is_some_and(|n| n.is_ascii_digit() || "¹²³".contains(n)) && rest.next().is_none()
        })
    });
    if is_device {
        return Err("has a part that is a device name on Windows");
    }
    Ok(())
}

fn has_drive(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':'
}

// Control characters, and those that hide or reorder the text around them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}')
}
