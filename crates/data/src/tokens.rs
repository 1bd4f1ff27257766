//! Tokenised columns, which the training loop reads.

use std::{borrow::Cow, collections::HashMap};

use crate::dataset::{Dataset, Labels};

/// Token ids of a column's rows, end to end in one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenColumn {
    /// All rows' ids.
    pub ids: Vec<u32>,
    /// `offsets[i]..offsets[i + 1]` are row `i`'s ids; starts with 0.
    pub offsets: Vec<usize>,
    /// The prompt that each row's ids begin with.
    pub prompt: Prompt,
}

/// A text that is put before every text of a column in tokenisation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The text; empty for no prompt.
    pub text: String,
    /// Tokens at the start of each row that are not the row's own: the prompt's and a special one before it.
    pub n_tokens: usize,
}

impl TokenColumn {
    /// Row `i`'s ids.
    ///
    /// # Panics
    /// If `i` is not below [`TokenColumn::len`].
    pub fn get(&self, i: usize) -> &[u32] {
        &self.ids[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all rows together.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
    }

    /// The rows `indices`, in that order.
    fn select(&self, indices: &[u32]) -> Self {
        let rows = indices.iter().map(|&i| self.get(i as usize));
        let n_tokens = rows.clone().map(<[u32]>::len).sum();
        let mut selected = Self::with_capacity(indices.len(), n_tokens);
        rows.for_each(|row| selected.push(row));
        selected
    }

    fn with_capacity(n_rows: usize, n_tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(n_rows + 1);
        offsets.push(0);
        Self {
            ids: Vec::with_capacity(n_tokens),
            offsets,
            prompt: Prompt::default(),
        }
    }
}

impl Default for TokenColumn {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

/// A [`Dataset`] whose texts have become token ids; made by [`Dataset::tokenize`].
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedDataset {
    /// In the data set's order.
    pub columns: Vec<TokenColumn>,
    /// The data set's labels.
    pub labels: Option<Labels>,
}

impl TokenizedDataset {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, TokenColumn::len)
    }

    /// Number of tokens of each column.
    pub fn n_tokens(&self) -> Vec<usize> {
        self.columns.iter().map(TokenColumn::n_tokens).collect()
    }

    /// The ids of some rows of a data set, in the places that those have among its `n_rows` rows, with the labels of all.
    /// The other rows have no ids, which no text has that was tokenised.
    ///
    /// # Panics
    /// If the rows don't ascend, or are not as many as these.
    pub fn spread(self, rows: &[u32], n_rows: usize, labels: Option<Labels>) -> Self {
        assert!(rows.is_sorted_by(|a, b| a < b), "rows that don't ascend");
        let spread = |column: TokenColumn| {
            assert_eq!(column.len(), rows.len(), "one row of ids for each row");
            let mut offsets = Vec::with_capacity(n_rows + 1);
            offsets.push(0);
            for (row, end) in rows.iter().zip(&column.offsets[1..]) {
                let start = offsets[offsets.len() - 1];
                offsets.resize(*row as usize + 1, start);
                offsets.push(*end);
            }
            offsets.resize(n_rows + 1, column.ids.len());
            TokenColumn { offsets, ..column }
        };
        Self {
            columns: self.columns.into_iter().map(spread).collect(),
            labels,
        }
    }

    /// The rows that have ids, where [`Self::spread`] left some without.
    pub fn rows_with_ids(&self) -> Option<Vec<u32>> {
        let column = self.columns.first()?;
        let has_ids = |row: &u32| !column.get(*row as usize).is_empty();
        let rows: Vec<u32> = (0..column.len() as u32).filter(has_ids).collect();
        (rows.len() < column.len()).then_some(rows)
    }

    /// Notes the prompts that the ids begin with, one a column, or none at all.
    ///
    /// # Panics
    /// If there are prompts and not as many as columns.
    pub fn with_prompts(mut self, prompts: &[Prompt]) -> Self {
        check_prompts(prompts, self.columns.len());
        for (column, prompt) in self.columns.iter_mut().zip(prompts) {
            column.prompt = prompt.clone();
        }
        self
    }
}

/// Texts handed to the tokenizer at once: enough to keep all cores busy, few enough that a
/// progress bar moves and an interrupt is seen within a fraction of a second.
const N_TEXTS_PER_CHUNK: usize = 4096;

/// The distinct texts of a [`Dataset`], made by [`Dataset::unique_texts`]: a premise that comes with several hypotheses,
/// or a negative that is another row's positive, is tokenised once. The same text after two prompts counts as two.
#[derive(Debug)]
pub struct UniqueTexts<'d> {
    dataset: &'d Dataset,
    /// One a column, or none.
    prompts: &'d [Prompt],
    /// Prompts and texts in the order in which they first come, column by column.
    texts: Vec<(&'d str, &'d str)>,
    /// For each column, its rows' places in `texts`.
    columns: Vec<Vec<u32>>,
}

impl UniqueTexts<'_> {
    /// Number of distinct texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Tokenises each text, its prompt before it, by calling `tokenize` on chunks of texts. `tokenize` returns one list of
    /// ids a text, in the texts' order; it may also advance a progress bar, or end the work with an error of its own where
    /// there is an interrupt.
    ///
    /// # Errors
    /// The first error of `tokenize`.
    ///
    /// # Panics
    /// If `tokenize` returns another number of lists than it was given texts.
    pub fn tokenize<E>(
        &self,
        mut tokenize: impl FnMut(&[&str]) -> Result<Vec<Vec<u32>>, E>,
    ) -> Result<TokenizedDataset, E> {
        let mut unique = TokenColumn::default();
        for texts in self.texts.chunks(N_TEXTS_PER_CHUNK) {
            let texts: Vec<Cow<'_, str>> = texts
                .iter()
                .map(|&(prompt, text)| match prompt {
                    "" => Cow::Borrowed(text),
                    prompt => Cow::Owned(format!("{prompt}{text}")),
                })
                .collect();
            let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
            let rows = tokenize(&texts)?;
            assert_eq!(rows.len(), texts.len(), "one list of ids for each text");
            rows.iter().for_each(|row| unique.push(row));
        }
        let columns = self.columns.iter().map(|rows| unique.select(rows));
        let tokens = TokenizedDataset {
            columns: columns.collect(),
            labels: self.dataset.labels.clone(),
        };
        Ok(tokens.with_prompts(self.prompts))
    }
}

impl Dataset {
    /// The data set's distinct texts, to be tokenised once each.
    pub fn unique_texts(&self) -> UniqueTexts<'_> {
        self.prompted_texts(&[])
    }

    /// The distinct pairs of prompt and text, to be tokenised once each. There is one prompt a column, or none at all.
    ///
    /// # Panics
    /// If there are prompts and not as many as columns.
    pub fn prompted_texts<'d>(&'d self, prompts: &'d [Prompt]) -> UniqueTexts<'d> {
        check_prompts(prompts, self.columns.len());
        let n_texts = self.n_rows() * self.columns.len();
        let mut places: HashMap<(&str, &str), u32> = HashMap::with_capacity(n_texts);
        let mut texts = Vec::new();
        let mut place = |text| {
            *places.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() as u32 - 1
            })
        };
        let columns = self.columns.iter().enumerate();
        let columns = columns
            .map(|(i, column)| {
                let prompt = prompts.get(i).map_or("", |prompt| prompt.text.as_str());
                let texts = column.texts.iter();
                texts.map(|text| place((prompt, text))).collect()
            })
            .collect();
        UniqueTexts {
            dataset: self,
            prompts,
            texts,
            columns,
        }
    }

    /// Tokenises every text: [`Dataset::unique_texts`] and [`UniqueTexts::tokenize`].
    ///
    /// # Errors
    /// The first error of `tokenize`.
    ///
    /// # Panics
    /// If `tokenize` returns another number of lists than it was given texts.
    pub fn tokenize<E>(
        &self,
        tokenize: impl FnMut(&[&str]) -> Result<Vec<Vec<u32>>, E>,
    ) -> Result<TokenizedDataset, E> {
        self.unique_texts().tokenize(tokenize)
    }
}

fn check_prompts(prompts: &[Prompt], n_columns: usize) {
    assert!(
        prompts.is_empty() || prompts.len() == n_columns,
        "{} prompts for {n_columns} columns",
        prompts.len()
    );
}

/// The bytes of each text as its ids.
#[cfg(test)]
pub(crate) fn tokens_of_bytes(dataset: &Dataset) -> TokenizedDataset {
    dataset
        .tokenize::<()>(|texts| {
            let ids = texts.iter().map(|text| text.bytes().map(u32::from));
            Ok(ids.map(Iterator::collect).collect())
        })
        .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_some_rows_stand_in_their_places() {
        let column = |ids: &[u32], offsets: &[usize]| TokenColumn {
            ids: ids.to_vec(),
            offsets: offsets.to_vec(),
            prompt: Prompt::default(),
        };
        let some = TokenizedDataset {
            columns: vec![column(&[1, 2, 3], &[0, 1, 3]), column(&[4, 5], &[0, 1, 2])],
            labels: None,
        };
        assert_eq!(some.rows_with_ids(), None);
        let labels = Some(Labels::Integer(vec![9; 5]));
        let spread = some.clone().spread(&[1, 3], 5, labels.clone());
        assert_eq!((spread.n_rows(), &spread.labels), (5, &labels));
        let rows = |column: &TokenColumn| -> Vec<Vec<u32>> {
            (0..column.len())
                .map(|row| column.get(row).to_vec())
                .collect()
        };
        let expected = [vec![], vec![1], vec![], vec![2, 3], vec![]];
        assert_eq!(rows(&spread.columns[0]), expected);
        let expected = [vec![], vec![4], vec![], vec![5], vec![]];
        assert_eq!(rows(&spread.columns[1]), expected);
        assert_eq!(spread.rows_with_ids(), Some(vec![1, 3]));
        let all = some.clone().spread(&[0, 1], 2, None);
        assert_eq!(all, some);
    }
    use crate::dataset::TextColumn;

    #[test]
    fn texts_are_tokenised_once_for_each_prompt() {
        let column = |texts: [&str; 2]| TextColumn {
            name: String::new(),
            texts: texts.into_iter().collect(),
        };
        let dataset = Dataset {
            name: "d".to_owned(),
            columns: vec![column(["a", "b"]), column(["b", "b"]), column(["a", "a"])],
            labels: None,
            classes: Vec::new(),
            n_skipped: 0,
        };
        let prompt = |text: &str| Prompt {
            text: text.to_owned(),
            n_tokens: text.len(),
        };
        let prompts = ["q:", "", "q:"].map(prompt);
        let mut seen = Vec::new();
        let texts = dataset.prompted_texts(&prompts);
        let tokens = texts
            .tokenize::<()>(|texts| {
                seen.extend(texts.iter().map(|text| (*text).to_owned()));
                let ids = texts.iter().map(|text| text.bytes().map(u32::from));
                Ok(ids.map(Iterator::collect).collect())
            })
            .unwrap();
        assert_eq!(seen, ["q:a", "q:b", "b"]);
        let row = |column: usize, row: usize| {
            let bytes = tokens.columns[column].get(row).iter().map(|&id| id as u8);
            String::from_utf8(bytes.collect()).unwrap()
        };
        assert_eq!([row(0, 0), row(0, 1)], ["q:a", "q:b"]);
        assert_eq!([row(1, 0), row(1, 1)], ["b", "b"]);
        assert_eq!([row(2, 0), row(2, 1)], ["q:a", "q:a"]);
        let found = tokens.columns.iter().map(|column| column.prompt.n_tokens);
        assert_eq!(found.collect::<Vec<_>>(), [2, 0, 2]);
    }
}
