//! `sentune search`: the nearest texts of a corpus.

use data::OnBadRow;
use model::Role;
use search::{Embeddings, SearchError, SearchOptions, semantic_search};
use serde_json::json;

use crate::{
    flags::search::SearchFlags,
    models::{encode_texts, load_model, set_max_seq_length, two_sided_options},
    npy::Matrix,
    output::{print, print_json},
    session::Session,
    texts::read_texts,
    usage::UsageError,
};

/// Most characters of a text in the table.
const N_CHARS: usize = 100;

/// Prints the hits of every query.
pub(crate) fn run(flags: &SearchFlags, session: &Session) -> anyhow::Result<()> {
    let column = flags.corpus_column.as_deref();
    let corpus = read_texts(
        "--corpus",
        &flags.corpus,
        "--corpus-column",
        column,
        OnBadRow::Keep,
    )?;
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let queries = match &flags.queries {
        None => flags.query.clone(),
        Some(queries) => {
            let column = flags.query_column.as_deref();
            read_texts(
                "--queries",
                queries,
                "--query-column",
                column,
                OnBadRow::Keep,
            )?
        }
    };
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let given = match &flags.corpus_embeddings {
        None => None,
        Some(path) => {
            let matrix = Matrix::read("--corpus-embeddings", path)?;
            let n_rows = matrix.embeddings()?.len();
            if n_rows != corpus.len() {
                return Err(UsageError(format!(
                    "--corpus-embeddings {} has {n_rows} rows, but the corpus has {} texts: encode it anew with `sentune encode --as document`",
                    path.display(),
                    corpus.len()
                ))
                .into());
            }
            Some(matrix)
        }
    };
    let mut model = load_model(&flags.model, session)?;
    set_max_seq_length(&mut model, flags.encoding.max_seq_length)?;
    let similarity = flags
        .encoding
        .similarity
        .unwrap_or(model.similarity_fn_name());
    let encode = |role, texts: &[&str], what| {
        let options = two_sided_options(&flags.encoding, role);
        encode_texts(&model, texts, &options, what, session)
    };
    let query_values = encode(Role::Query, &queries, "queries")?;
    let dimension = query_values.len() / queries.len().max(1);
    let encoded;
    let corpus_embeddings = match &given {
        Some(matrix) => matrix.embeddings()?,
        None => {
            encoded = encode(Role::Document, &corpus, "corpus")?;
            Embeddings::new(&encoded, dimension)?
        }
    };
    let options = SearchOptions {
        top_k: flags.top_k as usize,
        similarity,
        ..SearchOptions::default()
    };
    let bar = session.bar("searching", queries.len());
    let hits = semantic_search(
        Embeddings::new(&query_values, dimension)?,
        corpus_embeddings,
        &options,
        &mut session.following(&bar),
    );
    bar.finish_and_clear();
    let hits = match hits {
        Err(SearchError::Stopped) => return Err(session.interrupt.error()),
        hits => hits?,
    };
    let text = |id: u32| corpus[id as usize];
    let mut table = String::new();
    for (query, hits) in queries.iter().zip(&hits) {
        if flags.json {
            let hits: Vec<_> = hits
                .iter()
                .map(|hit| json!({"corpus_id": hit.corpus_id, "score": hit.score, "text": text(hit.corpus_id)}))
                .collect();
            print_json(&json!({"query": query, "hits": hits}))?;
            continue;
        }
        if !table.is_empty() {
            table.push('\n');
        }
        table += &format!("{}\n", one_line(query));
        let width = hits
            .iter()
            .map(|hit| hit.corpus_id.to_string().len())
            .max()
            .unwrap_or(0);
        for hit in hits {
            let (id, score) = (hit.corpus_id, hit.score);
            table += &format!("  {score:>8.4}  {id:>width$}  {}\n", one_line(text(id)));
        }
    }
    Ok(print(&table)?)
}

/// A text on one line of the table, shortened.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(N_CHARS) {
        None => line,
        Some((end, _)) => format!("{}...", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_a_line() {
        assert_eq!(one_line("two\nlines\tand  more"), "two lines and more");
        let long = "ä".repeat(101);
        assert_eq!(one_line(&long), format!("{}...", "ä".repeat(100)));
    }
}
