//! The papers that losses are from, as model cards cite them.

/// A paper as BibTeX has it.
#[derive(Debug)]
pub struct Paper {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) authors: &'static str,
    pub(crate) year: u16,
    pub(crate) place: Place,
}

/// The number of a paper.
#[derive(Debug)]
pub(crate) enum Place {
    Arxiv(&'static str),
    Doi(&'static str),
}

impl Paper {
    /// The entry of a bibliography, with a line break at its end.
    pub fn to_bibtex(&self) -> String {
        let Self {
            key,
            title,
            authors,
            year,
            place,
        } = self;
        let (kind, place) = match place {
            Place::Arxiv(number) => (
                "misc",
                format!(
                    "    eprint={{{number}}},\n    archivePrefix={{arXiv}},\n    url={{https://arxiv.org/abs/{number}}}\n"
                ),
            ),
            Place::Doi(doi) => ("article", format!("    doi={{{doi}}}\n")),
        };
        format!(
            "@{kind}{{{key},\n    title={{{title}}},\n    author={{{authors}}},\n    year={{{year}}},\n{place}}}\n"
        )
    }
}

/// The paper behind sentence-transformers.
pub const SENTENCE_BERT: Paper = Paper {
    key: "reimers-2019-sentence-bert",
    title: "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
    authors: "Nils Reimers and Iryna Gurevych",
    year: 2019,
    place: Place::Arxiv("1908.10084"),
};
