//! Doubts that need a model: texts that are cut off, and texts that are nearer to another row's anchor than that row's
//! own positive is.

use std::collections::HashMap;

use data::{
    Dataset, TextColumn,
    audit::{Doubt, Finding},
};
use model::{EncodeOptions, Role, SentenceTransformer};
use search::{Embeddings, OwnTexts, SearchError, nearer_texts};

use crate::{models::encode_texts, session::Session, tokenizing::token_counts};

/// Texts that have more tokens than the model takes.
pub(super) fn cut_off(
    dataset: &Dataset,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<Vec<Finding>> {
    let limit = model.max_seq_length();
    let mut findings = Vec::new();
    for (column, counts) in token_counts(dataset, model, session)?.iter().enumerate() {
        for (row, &n_tokens) in counts.iter().enumerate() {
            if n_tokens > limit {
                findings.push(Finding {
                    score: Some((n_tokens - limit) as f32),
                    ..Finding::of_column(Doubt::CutOff, row, column)
                });
            }
        }
    }
    Ok(findings)
}

/// Positives and negatives that are nearer to another row's anchor than that row's own positive is: in a batch with that
/// row they are false negatives. Of data with labels nothing is looked at.
pub(super) fn nearer_elsewhere(
    dataset: &Dataset,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<Vec<Finding>> {
    let [anchors, others @ ..] = dataset.columns.as_slice() else {
        return Ok(Vec::new());
    };
    if others.is_empty() || dataset.labels.is_some() {
        return Ok(Vec::new());
    }
    let mut anchor_texts = UniqueTexts::default();
    let mut other_texts = UniqueTexts::default();
    let anchor_of = anchor_texts.places(anchors);
    let places: Vec<Vec<u32>> = others
        .iter()
        .map(|column| other_texts.places(column))
        .collect();
    let mut own = vec![OwnTexts::default(); anchor_texts.texts.len()];
    let mut first_row = vec![u32::MAX; anchor_texts.texts.len()];
    for (row, &anchor) in anchor_of.iter().enumerate() {
        let (own, first) = (&mut own[anchor as usize], &mut first_row[anchor as usize]);
        *first = (*first).min(row as u32);
        own.positives.push(places[0][row]);
        own.known
            .extend(places[1..].iter().map(|column| column[row]));
    }
    // An anchor that is a text of another row too.
    for (own, text) in own.iter_mut().zip(&anchor_texts.texts) {
        own.known.extend(other_texts.place_of.get(text));
    }
    let encode = |texts: &[&str], role: Role, what: &str| {
        let options = EncodeOptions {
            role: Some(role),
            ..EncodeOptions::default()
        };
        encode_texts(model, texts, &options, what, session)
    };
    let of_anchors = encode(&anchor_texts.texts, Role::Query, "anchors")?;
    let of_others = encode(&other_texts.texts, Role::Document, "texts")?;
    let dimension = model.dimension() as usize;
    let bar = session.bar("comparing", anchor_texts.texts.len());
    let nearer = nearer_texts(
        Embeddings::new(&of_anchors, dimension)?,
        Embeddings::new(&of_others, dimension)?,
        &own,
        &mut session.following(&bar),
    );
    bar.finish_and_clear();
    let nearer = match nearer {
        Err(SearchError::Stopped) => return Err(session.interrupt.error()),
        nearer => nearer?,
    };
    let mut findings = Vec::new();
    for (column, places) in places.iter().enumerate() {
        for (row, place) in places.iter().enumerate() {
            findings.extend(nearer[*place as usize].map(|nearer| Finding {
                other: Some(first_row[nearer.anchor as usize]),
                score: Some(nearer.excess),
                ..Finding::of_column(Doubt::NearerElsewhere, row, 1 + column)
            }));
        }
    }
    Ok(findings)
}

/// Texts, each once, with their places.
#[derive(Default)]
struct UniqueTexts<'t> {
    texts: Vec<&'t str>,
    place_of: HashMap<&'t str, u32>,
}

impl<'t> UniqueTexts<'t> {
    /// The place of each text of a column; new ones come to the end.
    fn places(&mut self, column: &'t TextColumn) -> Vec<u32> {
        let texts = column.texts.iter();
        let place = texts.map(|text| {
            *self.place_of.entry(text).or_insert_with(|| {
                self.texts.push(text);
                self.texts.len() as u32 - 1
            })
        });
        place.collect()
    }
}
