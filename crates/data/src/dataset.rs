//! Text columns, labels, and the data set they make up.

/// Texts end to end in one buffer: two allocations, however many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    buffer: String,
    /// `offsets[i]..offsets[i + 1]` is text `i`; always starts with 0.
    offsets: Vec<usize>,
}

impl Texts {
    /// An empty list with room for `n_texts` texts of `n_bytes` in all.
    pub fn with_capacity(n_texts: usize, n_bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(n_texts + 1);
        offsets.push(0);
        Self {
            buffer: String::with_capacity(n_bytes),
            offsets,
        }
    }

    /// Appends one text.
    pub fn push(&mut self, text: &str) {
        self.buffer.push_str(text);
        self.offsets.push(self.buffer.len());
    }

    /// Appends all texts of another list.
    pub(crate) fn append(&mut self, more: &Self) {
        let start = self.buffer.len();
        self.buffer.push_str(&more.buffer);
        let ends = more.offsets.iter().skip(1);
        self.offsets.extend(ends.map(|end| start + end));
    }

    /// Drops all but the first `n_texts` texts.
    pub(crate) fn truncate(&mut self, n_texts: usize) {
        self.offsets.truncate(n_texts + 1);
        self.buffer
            .truncate(self.offsets.last().copied().unwrap_or(0));
    }

    /// Text `i`, or `None` past the end.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.offsets.get(i.checked_add(1)?)?;
        self.buffer.get(self.offsets[i]..end)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes of all texts together.
    pub fn n_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The texts in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.offsets
            .windows(2)
            .map(|ends| &self.buffer[ends[0]..ends[1]])
    }

    /// The texts of the rows `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Texts::len`].
    pub fn select(&self, indices: &[u32]) -> Self {
        let n_bytes = indices
            .iter()
            .map(|&i| self.offsets[i as usize + 1] - self.offsets[i as usize])
            .sum();
        let mut selected = Self::with_capacity(indices.len(), n_bytes);
        for &i in indices {
            let i = i as usize;
            selected.push(&self.buffer[self.offsets[i]..self.offsets[i + 1]]);
        }
        selected
    }

    /// All texts end to end, and where each begins and ends.
    pub(crate) fn parts(&self) -> (&str, &[usize]) {
        (&self.buffer, &self.offsets)
    }
}

impl Default for Texts {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl<'a> FromIterator<&'a str> for Texts {
    fn from_iter<I: IntoIterator<Item = &'a str>>(texts: I) -> Self {
        let texts = texts.into_iter();
        let mut all = Self::with_capacity(texts.size_hint().0, 0);
        texts.for_each(|text| all.push(text));
        all
    }
}

/// One column of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextColumn {
    /// The column's name in the file, for messages only: losses go by the columns' order.
    pub name: String,
    /// One text a row.
    pub texts: Texts,
}

/// The label column: whole numbers (classes), fractions (scores), or lists of numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Every label in the file is a whole number or a truth value (0 and 1).
    Integer(Vec<i64>),
    /// Some label has a fraction; all are finite. `f32`, as torch makes of Python's floats.
    Float(Vec<f32>),
    /// Several numbers a row, such as a teacher's scores or its embedding, row after row.
    Vector {
        /// All numbers.
        values: Vec<f32>,
        /// The shape of one row's numbers; a file's lists have one length.
        shape: Vec<usize>,
    },
}

impl Labels {
    /// Number of labels.
    pub fn len(&self) -> usize {
        match self {
            Self::Integer(labels) => labels.len(),
            Self::Float(labels) => labels.len(),
            Self::Vector { values, shape } => values.len() / shape.iter().product::<usize>().max(1),
        }
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels as scores: whole numbers become the nearest `f32`; of lists, all numbers.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::Integer(labels) => labels.into_iter().map(|label| label as f32).collect(),
            Self::Float(labels) => labels,
            Self::Vector { values, .. } => values,
        }
    }

    /// The labels of the rows `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Labels::len`].
    pub fn select(&self, indices: &[u32]) -> Self {
        match self {
            Self::Integer(labels) => {
                Self::Integer(indices.iter().map(|&i| labels[i as usize]).collect())
            }
            Self::Float(labels) => {
                Self::Float(indices.iter().map(|&i| labels[i as usize]).collect())
            }
            Self::Vector { values, shape } => {
                let width: usize = shape.iter().product();
                let row = |&i: &u32| &values[i as usize * width..][..width];
                Self::Vector {
                    values: indices.iter().flat_map(row).copied().collect(),
                    shape: shape.clone(),
                }
            }
        }
    }
}

/// Rows of texts, with a label each or none: pairs, triplets, or an anchor, a positive and any
/// number of negatives. As in sentence-transformers the **order** of the columns has a meaning
/// and their names have none, except that a column named as in [`LABEL_COLUMNS`] is the label.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The data set's name in logs and metrics.
    pub name: String,
    /// At least one; all of the same length.
    pub columns: Vec<TextColumn>,
    /// As long as the columns, where there is a label column.
    pub labels: Option<Labels>,
    /// The classes that the labels are numbers of, where the file has words as labels: label 0 is the first.
    pub classes: Vec<String>,
    /// Rows that loading dropped, where it was asked to drop bad ones.
    pub n_skipped: usize,
}

/// The names that make a column the label.
///
/// Source: `valid_label_columns` of sentence-transformers 6.2.0, `base/data_collator.py`.
pub const LABEL_COLUMNS: [&str; 4] = ["label", "labels", "score", "scores"];

/// Column names that upstream's collator and trainer use themselves.
///
/// Source: sentence-transformers 6.2.0, `base/data_collator.py` and `base/trainer.py`.
pub const RESERVED_COLUMNS: [&str; 2] = ["dataset_name", "return_loss"];

impl Dataset {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, |column| column.texts.len())
    }

    /// The text columns' names, in order.
    pub fn column_names(&self) -> Vec<&str> {
        self.columns
            .iter()
            .map(|column| column.name.as_str())
            .collect()
    }

    /// The first `n` rows, or all where there are fewer.
    pub fn head(&self, n: usize) -> Self {
        let indices: Vec<u32> = (0..self.n_rows().min(n) as u32).collect();
        self.select(&indices)
    }

    /// The triplets of rows with several negatives, such as `sentune mine` writes: the anchor and the positive with each
    /// of the negatives. A data set with at most one negative, or with labels, stays as it is.
    pub fn into_triplets(self) -> Self {
        if self.columns.len() < 4 || self.labels.is_some() {
            return self;
        }
        let n_rows = self.n_rows();
        let (kept, negatives) = self.columns.split_at(2);
        let each: Vec<u32> = (0..n_rows as u32)
            .flat_map(|row| std::iter::repeat_n(row, negatives.len()))
            .collect();
        let mut columns: Vec<TextColumn> = kept
            .iter()
            .map(|column| TextColumn {
                name: column.name.clone(),
                texts: column.texts.select(&each),
            })
            .collect();
        let rows = (0..n_rows).flat_map(|row| negatives.iter().map(move |column| (column, row)));
        columns.push(TextColumn {
            name: "negative".to_owned(),
            texts: rows
                .filter_map(|(column, row)| column.texts.get(row))
                .collect(),
        });
        tracing::info!(
            "{}: {n_rows} rows with {} negatives each are {} triplets",
            self.name,
            negatives.len(),
            each.len()
        );
        Self { columns, ..self }
    }

    /// The rows `indices`, in that order; an index may come more than once.
    ///
    /// # Panics
    /// If an index is not below [`Dataset::n_rows`].
    pub fn select(&self, indices: &[u32]) -> Self {
        Self {
            name: self.name.clone(),
            columns: self
                .columns
                .iter()
                .map(|column| TextColumn {
                    name: column.name.clone(),
                    texts: column.texts.select(indices),
                })
                .collect(),
            labels: self.labels.as_ref().map(|labels| labels.select(indices)),
            classes: self.classes.clone(),
            n_skipped: self.n_skipped,
        }
    }
}
