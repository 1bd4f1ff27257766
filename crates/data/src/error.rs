//! Errors of data files, and their messages.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use wording::counted;

use crate::{formats::splits::Split, options::OnBadRow};

/// The advice for bytes that are not UTF-8.
pub(crate) const FROM_WINDOWS: &str =
    "from Windows, for example with `iconv -f CP1252 -t UTF-8 OLD > NEW`";

/// An error of loading or writing data. Every message names the file and says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// An error of the file system; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The source is neither a file, nor a folder, nor a pattern that matches something.
    #[error(
        "no data at `{pattern}`: give a file ({EXTENSIONS}), a folder of such files, or a pattern \
         such as `data/*.parquet`"
    )]
    NoFiles {
        /// The source as given.
        pattern: String,
    },
    /// A folder has no files of the split.
    #[error(
        "{source_path}: no file of the {split} split by the names of files and folders, which are \
         of {found}: choose one of these with --split, or name the files"
    )]
    NoSplit {
        /// The source as given.
        source_path: String,
        /// The split.
        split: Split,
        /// The splits that there are.
        found: String,
    },
    /// The pattern is malformed.
    #[error("`{pattern}` is not a valid pattern: {message}")]
    Pattern {
        /// The source as given.
        pattern: String,
        /// The problem.
        message: String,
    },
    /// A folder or pattern holds files of several kinds.
    #[error(
        "`{pattern}` holds files of several kinds (`{}` and `{}`): name one kind with a pattern \
         such as `folder/*.parquet`",
        first.display(), second.display()
    )]
    MixedKinds {
        /// The source as given.
        pattern: String,
        /// A file of one kind.
        first: PathBuf,
        /// A file of another.
        second: PathBuf,
    },
    /// The file's extension is none that can be read.
    #[error("{}: don't know how to read this file: its name must end in {EXTENSIONS}", path.display())]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// The content is of another kind than the extension says.
    #[error("{}: the name says {expected}, but the content looks like {found}: {advice}", path.display())]
    WrongContent {
        /// The file.
        path: PathBuf,
        /// The format by the extension.
        expected: &'static str,
        /// The format by the first bytes.
        found: &'static str,
        /// The way out.
        advice: &'static str,
    },
    /// The file has no bytes, or nothing but white space.
    #[error("{}: the file is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A table could not be written.
    #[error("{0}")]
    Write(String),
    /// The file has columns but no rows, or all its rows were skipped.
    #[error("{pattern}: no rows{}", skipped(*n_skipped))]
    NoRows {
        /// The source.
        pattern: String,
        /// Rows that were dropped as bad.
        n_skipped: usize,
    },
    /// The sources together have more rows than the sampler can shuffle as torch does.
    #[error("{}: more than {max} rows: load a part of them with a maximum number of rows", path.display())]
    TooManyRows {
        /// The file in which the number was passed.
        path: PathBuf,
        /// The largest number.
        max: usize,
    },
    /// A file that is to be read part by part can be read as a whole alone.
    #[error(
        "{}: {what}, and so can be read into memory alone: leave out --data-in-memory never, or write the data as parquet, CSV or \
         JSON Lines with a text or a number in every column",
        path.display()
    )]
    ReadWhole {
        /// The file.
        path: PathBuf,
        /// The reason.
        what: &'static str,
    },
    /// The reading of a source was broken off by the function that takes its chunks.
    #[error("stopped")]
    Stopped,
    /// A store of token ids takes more disk than it may.
    #[error(
        "the token ids of {n_rows} rows take more than {max_bytes} bytes on disk, as many as --token-cache-limit allows: \
         raise it, for example to {}GB, or use fewer rows", 3 * max_bytes / 1_000_000_000 + 1
    )]
    StoreTooLarge {
        /// Rows that are in the store.
        n_rows: usize,
        /// The limit.
        max_bytes: u64,
    },
    /// A store of token ids could not be written.
    #[error(
        "the token ids can't be written to the token cache: {0}: make room there, or name another folder with SENTUNE_CACHE"
    )]
    StoreWrite(#[source] io::Error),
    /// A row of a store of token ids is not as it was written.
    #[error(
        "{}: row {row} is damaged: start again with --resume-from-checkpoint, which makes the token ids anew",
        path.display()
    )]
    StoreDamaged {
        /// The store.
        path: PathBuf,
        /// The row, from 1.
        row: usize,
    },
    /// Batches of this kind can't be drawn from the data set.
    #[error("data set `{dataset}`: batch sampler {sampler}: {problem}")]
    Sampler {
        /// Name of the data set.
        dataset: String,
        /// Name of the sampler.
        sampler: &'static str,
        /// The problem, the values allowed and the way out.
        problem: String,
    },
    /// The header or schema is unusable.
    #[error("{}: {message}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The problem and the way out.
        message: String,
    },
    /// A column was asked for that is not there.
    #[error("{}: no column `{}`; the columns are {}", path.display(), shortened(column), quoted(available))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The missing column.
        column: String,
        /// The file's columns.
        available: Vec<String>,
    },
    /// A column that is no label holds something else than text.
    #[error(
        "{}: column `{}` holds {found}, not text: choose the columns to use with --columns, in their \
         order (anchor, positive, negatives), from {}{}",
        path.display(), shortened(column), quoted(available), label_advice(column, found)
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its content.
        found: String,
        /// The file's columns.
        available: Vec<String>,
    },
    /// The label column holds no labels.
    #[error(
        "{}: the label column `{column}` holds {found}, not labels: write whole numbers \
         (0, 1, 2), scores or the names of classes, or choose the columns to use without it", path.display()
    )]
    NotLabels {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its content.
        found: String,
    },
    /// No column of texts is left after choosing.
    #[error("{}: no text column among {}", path.display(), quoted(available))]
    NoTextColumns {
        /// The file.
        path: PathBuf,
        /// The columns looked at.
        available: Vec<String>,
    },
    /// Two columns claim to be the label.
    #[error(
        "{}: columns `{first}` and `{second}` both have a label's name: choose the columns to use \
         with one of them or none", path.display()
    )]
    TwoLabels {
        /// The file.
        path: PathBuf,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// Files of one source differ in their columns.
    #[error(
        "{}: the columns are {}, but those of {} are {}: load them one by one, or choose columns \
         that both have", path.display(), quoted(columns), first.display(), quoted(first_columns)
    )]
    ColumnsDiffer {
        /// The file.
        path: PathBuf,
        /// Its columns.
        columns: Vec<String>,
        /// The first file.
        first: PathBuf,
        /// Its columns.
        first_columns: Vec<String>,
    },
    /// Rows that can't be trained on.
    #[error("{}: {}", path.display(), bad_rows(rows, *n_rows, *n_bad))]
    BadRows {
        /// The file.
        path: PathBuf,
        /// The first few of them.
        rows: Vec<BadRow>,
        /// Rows looked at.
        n_rows: usize,
        /// Number of bad rows.
        n_bad: usize,
    },
    /// The reader of the format gave up; the file is probably damaged.
    #[error("{}: can't be read as {format}: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// The reader's message.
        message: String,
    },
    /// The reader of the format panicked; the file is probably damaged.
    #[error(
        "{}: can't be read as {format}: the file is damaged; write or download it again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
}

/// A row that can't be trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Number of the row in its file, from 1, without the header and without blank lines.
    pub row: usize,
    /// Line on which the row starts, from 1 and with the header, in files made of lines.
    pub line: Option<usize>,
    /// The column, where the defect is in one.
    pub column: Option<String>,
    /// The defect.
    pub defect: Defect,
}

/// The defect of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// The value is null.
    Null,
    /// The text has no character.
    Empty,
    /// The text is white space alone.
    Blank,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// The CSV row has another number of fields than the header.
    Ragged {
        /// Fields in the row.
        found: usize,
        /// Fields in the header.
        expected: usize,
    },
    /// A quoted CSV field goes on after its closing quote.
    TextAfterQuote,
    /// A quoted CSV field never closes.
    OpenQuote,
    /// The line is not JSON.
    NotJson(String),
    /// The line is JSON, but no object; or no list, where the first line is one.
    NotObject(&'static str),
    /// The line is a list of another length than the first line's.
    LineLength {
        /// Values in this line.
        found: usize,
        /// Values in the first line.
        expected: usize,
    },
    /// A list of texts has too few.
    TooFewTexts {
        /// Texts in the list.
        found: usize,
        /// Texts needed.
        needed: usize,
    },
    /// The object lacks the column.
    MissingKey,
    /// The object has the key twice.
    DuplicateKey,
    /// The value is no text.
    NotText(&'static str),
    /// The value is no list of texts.
    NotTexts(&'static str),
    /// The value is no list of numbers.
    NotScores(&'static str),
    /// A list of scores is of another length than the list of texts that it is of.
    ScoreCount {
        /// Scores in the list.
        found: usize,
        /// Texts in the other list.
        n_texts: usize,
    },
    /// The label is no number.
    NotNumber(String),
    /// The label is infinite, not a number (NaN), or too large.
    OutOfRange(String),
    /// The label is a list of another length than the first row's.
    ListLength {
        /// Numbers in this row's list.
        found: usize,
        /// Numbers in the first row's.
        expected: usize,
    },
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.row)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column `{}`", shortened(column))?;
        }
        write!(f, ": {}", self.defect)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => write!(f, "the value is null"),
            Self::Empty => write!(f, "the text is empty"),
            Self::Blank => write!(f, "the text is only white space"),
            Self::NotUtf8 => write!(
                f,
                "the bytes are not UTF-8: save the file as UTF-8; {FROM_WINDOWS}"
            ),
            Self::Ragged { found, expected } => write!(
                f,
                "{} where the header has {expected}",
                counted(*found, "fields")
            ),
            Self::ListLength { found, expected } => write!(
                f,
                "a list of {} where the first row has {expected}",
                counted(*found, "numbers")
            ),
            Self::TextAfterQuote => write!(
                f,
                "a quoted field goes on after its closing quote (a quote inside a quoted field is \
                 written twice; where quotes are part of the texts, say so with --no-quotes)"
            ),
            Self::OpenQuote => write!(
                f,
                "a quoted field is never closed (where quotes are part of the texts, say so with --no-quotes)"
            ),
            Self::NotJson(message) => write!(f, "not valid JSON: {message}"),
            Self::NotObject(found) => write!(f, "the line holds {found}, not an object"),
            Self::LineLength { found, expected } => write!(
                f,
                "{} where the first line has {expected}",
                counted(*found, "values")
            ),
            Self::TooFewTexts { found, needed } => write!(
                f,
                "{} in the list, where {needed} or more are needed",
                counted(*found, "texts")
            ),
            Self::MissingKey => write!(f, "the key is missing"),
            Self::DuplicateKey => write!(f, "the key comes twice"),
            Self::NotText(found) => write!(f, "the value is {found}, not text"),
            Self::NotTexts(found) => write!(f, "the value is {found}, not a list of texts"),
            Self::NotScores(found) => write!(f, "the value is {found}, not a list of numbers"),
            Self::ScoreCount { found, n_texts } => write!(
                f,
                "{} for {}",
                counted(*found, "scores"),
                counted(*n_texts, "texts")
            ),
            Self::NotNumber(found) => write!(f, "the label is {found}, not a number"),
            Self::OutOfRange(found) => {
                write!(f, "the label {found} is not a finite number in range")
            }
        }
    }
}

/// The first few bad rows, and how many there are.
#[derive(Default)]
pub(crate) struct BadRows {
    pub(crate) first: Vec<BadRow>,
    pub(crate) n_bad: usize,
}

impl BadRows {
    const N_SHOWN: usize = 5;

    /// Counts a row; call it once for each and in the order of rows.
    pub(crate) fn push(&mut self, bad: BadRow) {
        self.n_bad += 1;
        if self.first.len() < Self::N_SHOWN {
            self.first.push(bad);
        }
    }

    /// Adds rows that were found later, in their order.
    pub(crate) fn merge(&mut self, more: Vec<BadRow>) {
        self.n_bad += more.len();
        self.first.extend(more.into_iter().take(Self::N_SHOWN));
        self.first.sort_by_key(|bad| bad.row);
        self.first.truncate(Self::N_SHOWN);
    }

    /// The error for them, unless there are none or they are to be skipped.
    pub(crate) fn check(
        self,
        path: &Path,
        n_rows: usize,
        on_bad_row: OnBadRow,
    ) -> Result<Self, DataError> {
        if self.n_bad == 0 || on_bad_row == OnBadRow::Skip {
            return Ok(self);
        }
        Err(DataError::BadRows {
            path: path.to_path_buf(),
            rows: self.first,
            n_rows,
            n_bad: self.n_bad,
        })
    }
}

/// Enough of a text to recognise it in a message.
pub(crate) fn shortened(text: &str) -> String {
    const N_CHARS: usize = 40;
    match text.char_indices().nth(N_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// The extensions that can be read, for messages.
const EXTENSIONS: &str = ".parquet, .csv, .tsv, .jsonl, .ndjson, .json, .arrow or .feather, perhaps with .gz or .zst after it";

/// "`a`, `b`, `c`".
pub(crate) fn quoted(names: &[String]) -> String {
    const N_SHOWN: usize = 20;
    let shown = names.iter().take(N_SHOWN);
    let shown: Vec<_> = shown.map(|name| format!("`{}`", shortened(name))).collect();
    let mut list = shown.join(", ");
    if names.len() > N_SHOWN {
        list += &format!(" and {} more", names.len() - N_SHOWN);
    }
    list
}

/// The advice where a column that is not text may be the label, or lists that are used by name alone.
fn label_advice(column: &str, found: &str) -> String {
    if found.starts_with("lists") {
        "; lists of texts are used in columns called positives or negatives".to_owned()
    } else if found.contains("numbers") {
        format!(
            "; if it is the label, say --label-column {}",
            shortened(column)
        )
    } else {
        String::new()
    }
}

fn skipped(n_skipped: usize) -> String {
    match n_skipped {
        0 => String::new(),
        n => format!(" left after skipping {}", counted(n, "bad ones")),
    }
}

fn bad_rows(rows: &[BadRow], n_rows: usize, n_bad: usize) -> String {
    let mut message = match rows {
        [] => String::new(),
        [first, ..] => first.to_string(),
    };
    if let [_, others @ ..] = rows
        && n_bad > 1
    {
        let numbers: Vec<_> = others.iter().map(|bad| bad.row.to_string()).collect();
        message += &format!(
            "; {n_bad} of {n_rows} rows are bad (also row{} {}",
            if others.len() == 1 { "" } else { "s" },
            numbers.join(", ")
        );
        if n_bad > rows.len() {
            message += &format!(" and {} more", n_bad - rows.len());
        }
        message += ")";
    } else {
        message += &match n_rows {
            1 => "; it is the only row".to_owned(),
            n => format!("; it is the only bad one of {n} rows"),
        };
    }
    message + "; mend them, or load the others with --on-bad-row skip"
}
