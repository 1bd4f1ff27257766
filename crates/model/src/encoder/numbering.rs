//! Positions and padding: how a type of encoder numbers the tokens of a sentence.

/// The rule by which tokens get positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Positions {
    /// 0, 1, 2 and so on.
    #[default]
    FromZero,
    /// The padding id plus the number of tokens so far that are not padding. A padding token inside of a text, which
    /// only its literal spelling makes, has the padding id.
    AfterPadding,
}

/// The padding token and the positions of an encoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Numbering {
    /// The id of the padding token.
    pub padding_id: u32,
    /// The rule for positions.
    pub positions: Positions,
}

impl Numbering {
    /// The positions of the tokens of one sentence.
    pub fn of_sentence(self, ids: &[u32]) -> impl Iterator<Item = u32> + '_ {
        let mut n_tokens = 0;
        ids.iter().map(move |&id| match self.positions {
            Positions::FromZero => {
                n_tokens += 1;
                n_tokens - 1
            }
            Positions::AfterPadding if id == self.padding_id => id,
            Positions::AfterPadding => {
                n_tokens += 1;
                self.padding_id + n_tokens
            }
        })
    }

    /// The positions of the tokens of sentences that follow each other, each beginning at one of `offsets`.
    pub(crate) fn of_packed(self, ids: &[u32], offsets: &[usize]) -> Vec<u32> {
        offsets
            .windows(2)
            .flat_map(|ends| self.of_sentence(&ids[ends[0]..ends[1]]))
            .collect()
    }

    /// The position of a token that belongs to no sentence.
    pub(crate) fn of_padding(self) -> u32 {
        match self.positions {
            Positions::FromZero => 0,
            Positions::AfterPadding => self.padding_id,
        }
    }

    /// The longest sentence that a table of so many positions has rows for.
    pub(crate) fn longest(self, rows: i64) -> usize {
        let unused = match self.positions {
            Positions::FromZero => 0,
            Positions::AfterPadding => i64::from(self.padding_id) + 1,
        };
        (rows - unused).max(0) as usize
    }
}
