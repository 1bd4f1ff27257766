//! The options of evaluators: the flags that name them, and their values.

use std::{collections::BTreeMap, fmt, str::FromStr};

use search::Similarity;

use crate::error::EvalError;

/// A flag that one evaluator or several have.
pub struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// The name of its value; without one it is a switch.
    pub value: Option<&'static str>,
    /// The line of help.
    pub help: &'static str,
    /// The heading that it stands below.
    pub heading: Option<&'static str>,
    /// Whether several values may follow, with commas between them.
    pub is_list: bool,
    /// Whether a value may begin with a minus sign.
    pub is_signed: bool,
    /// The flag without which this one has no meaning.
    pub requires: Option<&'static str>,
    /// The flag that this one excludes.
    pub conflicts_with: Option<&'static str>,
    /// Checks one value.
    pub check: fn(&str) -> Result<(), String>,
}

impl Flag {
    /// A flag with one text for a value.
    pub const fn new(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            value: Some(value),
            help,
            heading: None,
            is_list: false,
            is_signed: false,
            requires: None,
            conflicts_with: None,
            check: |_| Ok(()),
        }
    }

    /// A flag without a value.
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self {
            value: None,
            ..Self::new(name, "", help)
        }
    }

    /// The same below a heading.
    pub(crate) const fn below(self, heading: &'static str) -> Self {
        Self {
            heading: Some(heading),
            ..self
        }
    }

    /// The same, which goes with another flag only.
    pub(crate) const fn requiring(self, flag: &'static str) -> Self {
        Self {
            requires: Some(flag),
            ..self
        }
    }

    /// The same, which excludes another flag.
    pub(crate) const fn excluding(self, flag: &'static str) -> Self {
        Self {
            conflicts_with: Some(flag),
            ..self
        }
    }

    /// The same with several values.
    pub(crate) const fn list(self) -> Self {
        Self {
            is_list: true,
            ..self
        }
    }

    /// The same with a value that may begin with a minus sign.
    pub(crate) const fn signed(self) -> Self {
        Self {
            is_signed: true,
            ..self
        }
    }

    /// The same with values that are checked.
    pub(crate) const fn checked(self, check: fn(&str) -> Result<(), String>) -> Self {
        Self { check, ..self }
    }
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.name)
    }
}

/// Accepts the texts that are a `T`.
pub(crate) fn parses<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<(), String> {
    match text.parse::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Accepts whole numbers above zero.
pub(crate) fn at_least_one(text: &str) -> Result<(), String> {
    match text.parse::<usize>() {
        Ok(k) if k > 0 => Ok(()),
        _ => Err("it must be a whole number above 0".to_owned()),
    }
}

/// The flag of the primary metric's similarity.
pub(crate) static MAIN_SIMILARITY: Flag = Flag::new(
    "main-similarity",
    "NAME",
    "Similarity of the primary metric [default: the greatest]",
)
.checked(parses::<Similarity>);

/// The options that are given.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The similarities that are asked for; where empty, an evaluator takes those of its choice.
    pub similarities: Vec<Similarity>,
    /// The similarity that the model is meant for, the choice of some evaluators.
    pub own_similarity: Similarity,
    /// The dimension that embeddings are cut to, which some names then say.
    pub truncate_dim: Option<usize>,
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Options {
    /// Options that name similarities alone.
    pub fn of(similarities: &[Similarity]) -> Self {
        Self {
            similarities: similarities.to_vec(),
            ..Self::default()
        }
    }

    /// Sets a flag; a switch has no values.
    pub fn set(&mut self, flag: &'static str, values: Vec<String>) {
        self.given.insert(flag, values);
    }

    /// Whether a flag is given.
    pub fn has(&self, flag: &str) -> bool {
        self.given.contains_key(flag)
    }

    /// The values of a flag as texts.
    pub fn texts(&self, flag: &str) -> Option<&[String]> {
        self.given.get(flag).map(Vec::as_slice)
    }

    /// The value of a flag as text.
    pub fn text(&self, flag: &str) -> Option<&str> {
        self.texts(flag)?.first().map(String::as_str)
    }

    /// The values of a flag.
    ///
    /// # Errors
    /// Where one is not a `T`.
    pub fn all<T: FromStr<Err: fmt::Display>>(
        &self,
        flag: &str,
    ) -> Result<Option<Vec<T>>, EvalError> {
        let parse = |text: &String| {
            let refused = |error| EvalError::Option(format!("--{flag} {text}: {error}"));
            text.parse::<T>().map_err(refused)
        };
        let values = self.texts(flag).map(|texts| texts.iter().map(parse));
        values.map(Iterator::collect).transpose()
    }

    /// The value of a flag.
    ///
    /// # Errors
    /// Where it is not a `T`.
    pub fn one<T: FromStr<Err: fmt::Display>>(&self, flag: &str) -> Result<Option<T>, EvalError> {
        Ok(self.all(flag)?.and_then(|values| values.into_iter().next()))
    }

    /// The similarities that are asked for, or these.
    pub fn similarities_or(&self, default: &[Similarity]) -> Vec<Similarity> {
        match self.similarities.as_slice() {
            [] => default.to_vec(),
            given => given.to_vec(),
        }
    }

    /// The similarity of the primary metric, if one is named, and the similarities that are asked for
    /// or these, with that one among them.
    ///
    /// # Errors
    /// Where it is not among those that are asked for.
    pub(crate) fn main_among(
        &self,
        default: &[Similarity],
    ) -> Result<(Option<Similarity>, Vec<Similarity>), EvalError> {
        let main = self.one::<Similarity>(MAIN_SIMILARITY.name)?;
        let similarities = self.similarities_or(default);
        match main {
            Some(main) if !similarities.contains(&main) => {
                if self.similarities.is_empty() {
                    return Ok((Some(main), vec![main]));
                }
                let names: Vec<&str> = similarities.iter().map(|one| one.name()).collect();
                Err(EvalError::Option(format!(
                    "--main-similarity {main} is not among --similarity {}",
                    names.join(",")
                )))
            }
            main => Ok((main, similarities)),
        }
    }
}
