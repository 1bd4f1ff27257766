//! Doubts about rows.

/// A doubt about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// The texts are those of an earlier row.
    Repeated,
    /// The texts are nearly those of an earlier row: the same but for case, punctuation and space, or of four fifths of
    /// the same shingles of four letters, and with the same numbers in them.
    NearlyRepeated,
    /// The texts are, or nearly are, those of a row of the data that it is held against.
    Leaked,
    /// A text is, or nearly is, one of the data that it is held against, but the row is not. Texts of fewer than ten
    /// letters are not looked for.
    LeakedText,
    /// Anchor and positive are the same text but for case, punctuation and space.
    AnchorIsPositive,
    /// A negative is the anchor or the positive but for case, punctuation and space.
    NegativeIsPositive,
    /// A negative is the positive of another row with the same anchor.
    FalseNegative,
    /// The same texts have another label in an earlier row.
    Contradicted,
    /// A text is many times longer or shorter than is usual in its column.
    OddLength,
    /// Most letters of a text are of another script than those of most texts of the data set.
    OddScript,
    /// Letters of a text follow each other otherwise than in most texts of the data set.
    OddLanguage,
    /// A text has more tokens than the model takes.
    CutOff,
    /// The positive or a negative is nearer to another row's anchor than that row's own positive is, by a model, and nearer
    /// than the median positive.
    NearerElsewhere,
}

impl Doubt {
    /// All doubts, in the order in which reports have them.
    pub const ALL: [Self; 13] = [
        Self::Repeated,
        Self::NearlyRepeated,
        Self::Leaked,
        Self::LeakedText,
        Self::AnchorIsPositive,
        Self::NegativeIsPositive,
        Self::FalseNegative,
        Self::Contradicted,
        Self::OddLength,
        Self::OddScript,
        Self::OddLanguage,
        Self::CutOff,
        Self::NearerElsewhere,
    ];

    /// The doubt's name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::NearlyRepeated => "nearly-repeated",
            Self::Leaked => "leaked",
            Self::LeakedText => "leaked-text",
            Self::AnchorIsPositive => "anchor-is-positive",
            Self::NegativeIsPositive => "negative-is-positive",
            Self::FalseNegative => "false-negative",
            Self::Contradicted => "contradicted",
            Self::OddLength => "odd-length",
            Self::OddScript => "odd-script",
            Self::OddLanguage => "odd-language",
            Self::CutOff => "cut-off",
            Self::NearerElsewhere => "nearer-elsewhere",
        }
    }

    /// The doubt in words, of a row.
    pub fn words(self) -> &'static str {
        match self {
            Self::Repeated => "the texts are those of an earlier row",
            Self::NearlyRepeated => "the texts are nearly those of an earlier row",
            Self::Leaked => {
                "the texts are, or nearly are, a row of the data that it is held against"
            }
            Self::LeakedText => "a text is, or nearly is, in the data that it is held against",
            Self::AnchorIsPositive => "anchor and positive are the same text",
            Self::NegativeIsPositive => "a negative is the anchor or the positive",
            Self::FalseNegative => "a negative is another row's positive of the same anchor",
            Self::Contradicted => "the same texts have another label in an earlier row",
            Self::OddLength => "a text is far longer or shorter than its column's others",
            Self::OddScript => "a text is of another script than the others",
            Self::OddLanguage => "a text's letters follow each other unlike those of the others",
            Self::CutOff => "a text is longer than the model takes, and is cut off",
            Self::NearerElsewhere => {
                "its positive or negative is nearer to another row's anchor than that row's positive"
            }
        }
    }

    /// Whether a model is needed to find it.
    pub fn needs_model(self) -> bool {
        matches!(self, Self::CutOff | Self::NearerElsewhere)
    }
}

/// A row with a doubt about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The doubt.
    pub doubt: Doubt,
    /// The row, from 0.
    pub row: u32,
    /// The column, where the doubt is about one.
    pub column: Option<usize>,
    /// The earlier row, or the one of other data, where there is one.
    pub other: Option<u32>,
    /// The place among the other data of that row's data set; none for a row of this one.
    pub other_data: Option<usize>,
    /// The strength of the doubt, where it has one: of [`Doubt::NearerElsewhere`] how much nearer, of
    /// [`Doubt::CutOff`] the tokens that are cut off.
    pub score: Option<f32>,
}

impl Finding {
    /// A doubt about a whole row.
    pub fn new(doubt: Doubt, row: usize) -> Self {
        Self {
            doubt,
            row: row as u32,
            column: None,
            other: None,
            other_data: None,
            score: None,
        }
    }

    /// A doubt about one text of a row.
    pub fn of_column(doubt: Doubt, row: usize, column: usize) -> Self {
        Self {
            column: Some(column),
            ..Self::new(doubt, row)
        }
    }

    /// A doubt about a row because of another.
    pub(super) fn beside(doubt: Doubt, row: usize, other: u32) -> Self {
        Self {
            other: Some(other),
            ..Self::new(doubt, row)
        }
    }
}
