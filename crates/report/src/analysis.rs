//! Rows, neighbours and similarities of a sample before and after training.

use std::{collections::HashMap, ops::ControlFlow};

use search::{Embeddings, SearchOptions, Similarity, semantic_search};
use wording::counted;

use crate::{
    chart::{self, Chart, Dot},
    error::ReportError,
    table::Table,
};

/// Turned rows that are listed in each direction.
const N_TURNED: usize = 15;
/// Texts whose neighbours are listed, and neighbours of each.
const N_QUERIES: usize = 8;
const N_NEIGHBOURS: usize = 5;
/// Classes that have a colour of their own in the projection.
const N_CLASSES: usize = chart::N_COLOURS;

/// A column of the sample.
#[derive(Debug, Clone, PartialEq)]
pub struct TextColumn<'a> {
    /// Name.
    pub name: &'a str,
    /// Text of each row.
    pub texts: Vec<&'a str>,
}

/// Labels of the sample's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels<'a> {
    /// Classes.
    Classes(&'a [i64]),
    /// Scores.
    Scores(&'a [f64]),
}

/// Embeddings of the sample by one model.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// [rows, dimension] of each column.
    pub columns: Vec<Vec<f32>>,
    /// Dimension of an embedding.
    pub dimension: usize,
    /// Place of each text of the first rows in the plane, column after column; empty for no projection.
    pub projection: Vec<(f64, f64)>,
}

/// Rows of the test data with their embeddings before and after training.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// Text columns, one or more.
    pub columns: Vec<TextColumn<'a>>,
    /// Labels, if the data has them.
    pub labels: Option<Labels<'a>>,
    /// Similarity by which rows are judged.
    pub similarity: Similarity,
    /// Embeddings before and after training.
    pub sides: [Side; 2],
}

/// The parts of the page that need embeddings.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Analysis {
    /// Number of rows.
    pub n_rows: usize,
    /// Name of the similarity.
    pub similarity: String,
    /// Meaning of a row's margin.
    pub rule: String,
    /// Rows that are right before, after, and in both, if rows are right or wrong.
    pub counts: Option<[usize; 3]>,
    /// Rows that turned from wrong to right, or improved most.
    pub gained: Table,
    /// Rows that turned from right to wrong, or worsened most.
    pub lost: Table,
    /// Nearest neighbours of some texts, a table a text.
    pub neighbours: Vec<Table>,
    /// Similarities of positive and negative pairs, before and after.
    pub histograms: Vec<Chart>,
    /// Projections, before and after.
    pub projections: Vec<Chart>,
}

/// Judgement of each row by one model.
struct Judged {
    /// Positive for a right row, or the negated error where rows are not right or wrong.
    margins: Vec<f64>,
    /// Similarities of pairs that belong together, and of those that do not.
    positives: Vec<f64>,
    negatives: Vec<f64>,
    /// Similarity that separates them best.
    threshold: Option<f64>,
}

impl Analysis {
    /// Analyses a sample.
    ///
    /// # Errors
    /// If embeddings do not have the sample's shape.
    pub fn new(sample: &Sample<'_>) -> Result<Self, ReportError> {
        let n_rows = sample
            .columns
            .first()
            .map_or(0, |column| column.texts.len());
        let [before, after] = &sample.sides;
        let judged = sample.judged(before)?.zip(sample.judged(after)?);
        let mut analysis = Self {
            n_rows,
            similarity: sample.similarity.to_string(),
            rule: sample.rule().to_owned(),
            neighbours: sample.neighbours()?,
            projections: sample.projections(),
            ..Self::default()
        };
        if let Some((before, after)) = judged {
            analysis.turn(sample, &before, &after);
            analysis.histograms = sample.histograms(&before, &after);
        }
        Ok(analysis)
    }

    /// Fills the tables of rows that turned.
    fn turn(&mut self, sample: &Sample<'_>, before: &Judged, after: &Judged) {
        let (was, is) = (&before.margins, &after.margins);
        let has_right = !matches!(sample.labels, Some(Labels::Scores(_)));
        let count = |right: &dyn Fn(usize) -> bool| (0..self.n_rows).filter(|&i| right(i)).count();
        if has_right {
            self.counts = Some([
                count(&|i| was[i] > 0.0),
                count(&|i| is[i] > 0.0),
                count(&|i| was[i] > 0.0 && is[i] > 0.0),
            ]);
        }
        let mut gained: Vec<usize> = (0..self.n_rows)
            .filter(|&i| {
                if has_right {
                    was[i] <= 0.0 && is[i] > 0.0
                } else {
                    is[i] > was[i]
                }
            })
            .collect();
        let mut lost: Vec<usize> = (0..self.n_rows)
            .filter(|&i| {
                if has_right {
                    was[i] > 0.0 && is[i] <= 0.0
                } else {
                    is[i] < was[i]
                }
            })
            .collect();
        let change = |&i: &usize| is[i] - was[i];
        gained.sort_by(|a, b| change(b).total_cmp(&change(a)));
        lost.sort_by(|a, b| change(a).total_cmp(&change(b)));
        let names = if has_right {
            ["turned from wrong to right", "turned from right to wrong"]
        } else {
            ["improved", "worsened"]
        };
        let table = |rows: &[usize], name: &str| {
            let shown = rows.len().min(N_TURNED);
            let caption = match rows.len() - shown {
                0 => format!("{} {name}", counted(shown, "rows")),
                _ => format!("{} rows {name}, the largest {shown} changes", rows.len()),
            };
            sample.rows_table(&caption, &rows[..shown], was, is)
        };
        self.gained = table(&gained, names[0]);
        self.lost = table(&lost, names[1]);
    }
}

impl Sample<'_> {
    fn rule(&self) -> &'static str {
        match (self.columns.len(), self.labels) {
            (2, Some(Labels::Scores(_))) => {
                "The margin is the difference between a pair's rank by score and its rank by similarity, as a share of all rows and negated: 0 is best."
            }
            (2, Some(Labels::Classes(_))) => {
                "A pair is right if its similarity is on its label's side of the threshold that separates labels best; the margin is the distance from it."
            }
            (2, None) => {
                "A row is right if no other row's second text is as near as its own; the margin is the difference of the two similarities."
            }
            (1, Some(Labels::Classes(_))) => {
                "A text is right if its nearest neighbour has the same class; the margin is the similarity to the nearest of its class minus that to the nearest of another."
            }
            _ => {
                "A row is right if the anchor is nearer to the positive than to each negative; the margin is the difference of the two similarities."
            }
        }
    }

    fn embeddings<'a>(&self, side: &'a Side, column: usize) -> Result<Embeddings<'a>, ReportError> {
        Ok(Embeddings::new(&side.columns[column], side.dimension)?)
    }

    /// Similarity of two columns, row by row.
    fn pairwise(&self, side: &Side, a: usize, b: usize) -> Result<Vec<f64>, ReportError> {
        let (a, b) = (self.embeddings(side, a)?, self.embeddings(side, b)?);
        let found = self.similarity.of_rows(a, b)?;
        Ok(found.into_iter().map(f64::from).collect())
    }

    /// Judges each row by one model, where the columns and labels have a rule for it.
    fn judged(&self, side: &Side) -> Result<Option<Judged>, ReportError> {
        Ok(Some(match (self.columns.len(), self.labels) {
            (2, Some(Labels::Scores(scores))) => {
                let found = self.pairwise(side, 0, 1)?;
                let n = scores.len().max(1) as f64;
                let margins = ranks(&found).into_iter().zip(ranks(scores));
                let margins = margins.map(|(a, b)| -(a - b).abs() / n).collect();
                let middle = median(scores);
                let part = |is_high: bool| {
                    let pairs = found.iter().zip(scores);
                    let part = pairs.filter(|(_, score)| (**score > middle) == is_high);
                    part.map(|(found, _)| *found).collect()
                };
                Judged::new(margins, part(true), part(false))
            }
            (2, Some(Labels::Classes(classes))) => {
                let found = self.pairwise(side, 0, 1)?;
                let part = |is_high: bool| -> Vec<f64> {
                    let pairs = found.iter().zip(classes);
                    let part = pairs.filter(|(_, class)| (**class > 0) == is_high);
                    part.map(|(found, _)| *found).collect()
                };
                let mut judged = Judged::new(Vec::new(), part(true), part(false));
                let threshold = judged.threshold.unwrap_or(0.0);
                let margins = found.iter().zip(classes);
                judged.margins = margins
                    .map(|(found, class)| (found - threshold) * if *class > 0 { 1.0 } else { -1.0 })
                    .collect();
                judged
            }
            (2, None) => {
                let own = self.pairwise(side, 0, 1)?;
                let others = self.best_other(side, 1, &|i, j| {
                    self.columns[1].texts[i] != self.columns[1].texts[j]
                })?;
                let margins = own.iter().zip(&others).map(|(own, other)| own - other);
                Judged::new(margins.collect(), own.clone(), others)
            }
            (1, Some(Labels::Classes(classes))) => {
                let same = self.best_other(side, 0, &|i, j| i != j && classes[i] == classes[j])?;
                let other = self.best_other(side, 0, &|i, j| classes[i] != classes[j])?;
                let margins = same.iter().zip(&other).map(|(same, other)| same - other);
                Judged::new(margins.collect(), same.clone(), other)
            }
            (3.., None) => {
                let positives = self.pairwise(side, 0, 1)?;
                let mut nearest = vec![f64::NEG_INFINITY; positives.len()];
                let mut negatives = Vec::new();
                for column in 2..self.columns.len() {
                    let found = self.pairwise(side, 0, column)?;
                    for (nearest, found) in nearest.iter_mut().zip(&found) {
                        *nearest = nearest.max(*found);
                    }
                    negatives.extend(found);
                }
                let margins = positives.iter().zip(&nearest).map(|(p, n)| p - n);
                Judged::new(margins.collect(), positives.clone(), negatives)
            }
            _ => return Ok(None),
        }))
    }

    /// Similarity of each row's first text to the nearest text of `column` in an admitted row; 0 if there is none.
    fn best_other(
        &self,
        side: &Side,
        column: usize,
        is_admitted: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<f64>, ReportError> {
        let n_rows = self.columns[0].texts.len();
        let hits = self.search(side, self.embeddings(side, 0)?, column, n_rows)?;
        Ok(hits
            .into_iter()
            .enumerate()
            .map(|(i, hits)| {
                let found = hits.into_iter().find(|(j, _)| is_admitted(i, *j));
                found.map_or(0.0, |(_, score)| score)
            })
            .collect())
    }

    /// The rows of a column by similarity to each query, nearest first.
    fn search(
        &self,
        side: &Side,
        queries: Embeddings<'_>,
        column: usize,
        top_k: usize,
    ) -> Result<Vec<Vec<(usize, f64)>>, ReportError> {
        let options = SearchOptions {
            top_k: top_k.max(1),
            similarity: self.similarity,
            ..SearchOptions::default()
        };
        let corpus = self.embeddings(side, column)?;
        let hits = semantic_search(
            queries,
            corpus,
            &options,
            &mut |_| ControlFlow::Continue(()),
        )?;
        let hits = hits.into_iter().map(|hits| {
            hits.into_iter()
                .map(|hit| (hit.corpus_id as usize, f64::from(hit.score)))
                .collect()
        });
        Ok(hits.collect())
    }

    /// Margins and texts of rows.
    fn rows_table(&self, caption: &str, rows: &[usize], was: &[f64], is: &[f64]) -> Table {
        let mut header = vec!["row", "before", "after"];
        header.extend(self.columns.iter().map(|column| column.name));
        if self.labels.is_some() {
            header.push("label");
        }
        let mut table = Table::new(caption, &header);
        for &i in rows {
            let mut row = vec![(i + 1).to_string(), signed(was[i]), signed(is[i])];
            row.extend(self.columns.iter().map(|column| shortened(column.texts[i])));
            match self.labels {
                Some(Labels::Classes(classes)) => row.push(classes[i].to_string()),
                Some(Labels::Scores(scores)) => row.push(chart::number(scores[i])),
                None => {}
            }
            table.push(row);
        }
        table.finished()
    }

    /// Neighbours of some texts of the first column, among the texts of the others, before and after.
    fn neighbours(&self) -> Result<Vec<Table>, ReportError> {
        let n_rows = self.columns.first().map_or(0, |column| column.texts.len());
        let n_queries = N_QUERIES.min(n_rows);
        let queries: Vec<usize> = (0..n_queries).map(|i| i * n_rows / n_queries).collect();
        let targets = if self.columns.len() > 1 {
            1..self.columns.len()
        } else {
            0..1
        };
        // The nearest different texts of each query, before and after.
        let mut found: [Vec<Vec<(String, String, f64)>>; 2] = Default::default();
        for (side, found) in self.sides.iter().zip(&mut found) {
            let first = self.embeddings(side, 0)?;
            let rows: Vec<f32> = queries
                .iter()
                .flat_map(|&row| first.row(row))
                .copied()
                .collect();
            let rows = Embeddings::new(&rows, side.dimension)?;
            *found = vec![Vec::new(); n_queries];
            for column in targets.clone() {
                let hits = self.search(side, rows, column, n_rows)?;
                for ((found, hits), &query) in found.iter_mut().zip(hits).zip(&queries) {
                    let mut n_found = 0;
                    for (row, score) in hits {
                        let text = self.columns[column].texts[row];
                        let is_known = found.iter().any(|(known, ..)| known == text);
                        if is_known || text == self.columns[0].texts[query] {
                            continue;
                        }
                        let role = match (row == query, self.columns.len()) {
                            (true, 2..) => format!("its own {}", self.columns[column].name),
                            _ => format!("{} of row {}", self.columns[column].name, row + 1),
                        };
                        found.push((text.to_owned(), role, score));
                        n_found += 1;
                        if n_found == N_NEIGHBOURS {
                            break;
                        }
                    }
                }
            }
            for found in found.iter_mut() {
                found.sort_by(|a, b| b.2.total_cmp(&a.2));
                found.truncate(N_NEIGHBOURS);
            }
        }
        let [before, after] = found;
        let tables = queries.iter().zip(before.into_iter().zip(after));
        Ok(tables
            .map(|(&query, (before, after))| {
                let caption = shortened(self.columns[0].texts[query]);
                let header = ["rank", "before", "similarity", "after", "similarity"];
                let mut table = Table::new(caption, &header);
                let cells = |side: &[(String, String, f64)], rank: usize| match side.get(rank) {
                    Some((text, role, score)) => [
                        format!("{} ({role})", shortened(text)),
                        format!("{score:.3}"),
                    ],
                    None => Default::default(),
                };
                for rank in 0..before.len().max(after.len()) {
                    let mut row = vec![(rank + 1).to_string()];
                    row.extend(cells(&before, rank));
                    row.extend(cells(&after, rank));
                    table.push(row);
                }
                table.finished()
            })
            .collect())
    }

    /// Similarities of positive and negative pairs, on one scale before and after.
    fn histograms(&self, before: &Judged, after: &Judged) -> Vec<Chart> {
        let all = [before, after]
            .into_iter()
            .flat_map(|judged| judged.positives.iter().chain(&judged.negatives))
            .filter(|value| value.is_finite());
        let range = all.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
        let names = match (self.columns.len(), self.labels) {
            (2, Some(Labels::Scores(_))) => {
                ["lower half of the scores", "upper half of the scores"]
            }
            (2, None) => ["nearest other", "own"],
            (1, _) => ["nearest of another class", "nearest of the same class"],
            _ => ["negative", "positive"],
        };
        let draw = |judged: &Judged, when: &str| {
            let groups: [(&str, &[f64]); 2] =
                [(names[0], &judged.negatives), (names[1], &judged.positives)];
            let title = format!("Similarities {when}");
            chart::histogram(
                &title,
                &self.similarity.to_string(),
                &groups,
                range,
                judged.threshold,
            )
        };
        let charts = [draw(before, "before"), draw(after, "after")];
        charts.into_iter().flatten().collect()
    }

    /// Places of all texts, coloured by class, or else by column.
    fn projections(&self) -> Vec<Chart> {
        let n_rows = self.columns.first().map_or(0, |column| column.texts.len());
        let (groups, group_of): (Vec<String>, Vec<usize>) = match self.labels {
            Some(Labels::Classes(classes)) => {
                let mut counts: HashMap<i64, usize> = HashMap::new();
                classes
                    .iter()
                    .for_each(|&class| *counts.entry(class).or_default() += 1);
                let mut known: Vec<i64> = counts.keys().copied().collect();
                known.sort_by_key(|class| (std::cmp::Reverse(counts[class]), *class));
                let n_named = if known.len() > N_CLASSES {
                    N_CLASSES - 1
                } else {
                    known.len()
                };
                let mut names: Vec<String> = known[..n_named]
                    .iter()
                    .map(|class| format!("class {class}"))
                    .collect();
                if known.len() > n_named {
                    names.push("other classes".to_owned());
                }
                let place = |class: &i64| known[..n_named].iter().position(|k| k == class);
                let of_row: Vec<usize> = classes
                    .iter()
                    .map(|class| place(class).unwrap_or(n_named))
                    .collect();
                (names, of_row.repeat(self.columns.len()))
            }
            _ => (
                self.columns
                    .iter()
                    .map(|column| column.name.to_owned())
                    .collect(),
                (0..self.columns.len())
                    .flat_map(|i| vec![i; n_rows])
                    .collect(),
            ),
        };
        let texts: Vec<&str> = self
            .columns
            .iter()
            .flat_map(|column| column.texts.iter().copied())
            .collect();
        let draw = |side: &Side, when: &str| {
            // Only as many rows of each column as were projected.
            let n_projected = side.projection.len() / self.columns.len().max(1);
            let places = side.projection.iter().enumerate().map(|(i, &at)| {
                let (column, row) = (i / n_projected.max(1), i % n_projected.max(1));
                let place = column * n_rows + row;
                Dot {
                    at,
                    group: group_of[place],
                    text: shortened(texts[place]),
                }
            });
            chart::scatter(
                &format!("Projection {when}"),
                &groups,
                &places.collect::<Vec<_>>(),
            )
        };
        let [before, after] = &self.sides;
        let charts = [draw(before, "before"), draw(after, "after")];
        charts.into_iter().flatten().collect()
    }
}

impl Judged {
    fn new(margins: Vec<f64>, positives: Vec<f64>, negatives: Vec<f64>) -> Self {
        Self {
            threshold: best_threshold(&positives, &negatives),
            margins,
            positives,
            negatives,
        }
    }
}

/// The value halfway between two similarities that separates positives above from negatives below with the fewest errors.
fn best_threshold(positives: &[f64], negatives: &[f64]) -> Option<f64> {
    let mut all: Vec<(f64, bool)> = Vec::with_capacity(positives.len() + negatives.len());
    all.extend(positives.iter().map(|&value| (value, true)));
    all.extend(negatives.iter().map(|&value| (value, false)));
    if positives.is_empty() || negatives.is_empty() || all.iter().any(|(value, _)| value.is_nan()) {
        return None;
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut n_right = positives.len();
    let (mut best, mut threshold) = (0, None);
    for pair in all.windows(2) {
        // Everything up to here is called negative.
        n_right = if pair[0].1 { n_right - 1 } else { n_right + 1 };
        if pair[0].0 < pair[1].0 && n_right > best {
            (best, threshold) = (n_right, Some((pair[0].0 + pair[1].0) / 2.0));
        }
    }
    threshold
}

/// Rank of each value from 0, equal values with their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (group.len() - 1) as f64 / 2.0;
        group.iter().for_each(|&i| ranks[i] = mean);
        first += group.len();
    }
    ranks
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn signed(value: f64) -> String {
    // Adding zero makes a negative zero positive.
    format!("{:+.3}", value + 0.0)
}

/// At most 160 characters of a text.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 160;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column<'a>(name: &'a str, texts: &[&'a str]) -> TextColumn<'a> {
        TextColumn {
            name,
            texts: texts.to_vec(),
        }
    }

    /// A model that puts texts at these angles.
    fn side(columns: &[&[f64]]) -> Side {
        let embed = |angles: &&[f64]| -> Vec<f32> {
            let vectors = angles.iter().flat_map(|a| [a.cos() as f32, a.sin() as f32]);
            vectors.collect()
        };
        let places = columns
            .iter()
            .flat_map(|angles| angles.iter().map(|&a| (a.cos(), a.sin())));
        Side {
            columns: columns.iter().map(embed).collect(),
            dimension: 2,
            projection: places.collect(),
        }
    }

    fn triplets() -> Sample<'static> {
        Sample {
            columns: vec![
                column("anchor", &["a0", "a1", "a2"]),
                column("positive", &["p0", "p1", "p2"]),
                column("negative", &["n0", "n1", "n2"]),
            ],
            labels: None,
            similarity: Similarity::Cosine,
            sides: [
                side(&[&[0.0, 1.0, 2.0], &[0.5, 1.1, 2.1], &[0.1, 1.5, 2.5]]),
                side(&[&[0.0, 1.0, 2.0], &[0.1, 1.1, 2.7], &[0.5, 1.5, 2.5]]),
            ],
        }
    }

    #[test]
    fn rows_that_turned_are_found() {
        let analysis = Analysis::new(&triplets()).unwrap();
        assert_eq!(analysis.counts, Some([2, 2, 1]));
        assert_eq!(analysis.gained.caption, "1 row turned from wrong to right");
        assert_eq!(
            analysis.gained.rows[0][..5],
            ["1", "-0.117", "+0.117", "a0", "p0"]
        );
        assert_eq!(analysis.lost.rows[0][0], "3");
        assert_eq!(analysis.histograms.len(), 2);
        assert_eq!(analysis.projections.len(), 2);
        assert_eq!(
            analysis.projections[0].legend,
            ["anchor", "positive", "negative"]
        );
        assert_eq!(analysis.projections[0].table.rows.len(), 9);
    }

    #[test]
    fn neighbours_are_listed_with_their_roles() {
        let analysis = Analysis::new(&triplets()).unwrap();
        assert_eq!(analysis.neighbours.len(), 3);
        let table = &analysis.neighbours[0];
        assert_eq!(table.caption, "a0");
        assert_eq!(table.rows[0][1], "n0 (its own negative)");
        assert_eq!(table.rows[0][3], "p0 (its own positive)");
        assert_eq!(table.rows[1][1], "p0 (its own positive)");
    }

    #[test]
    fn pairs_with_scores_improve_or_worsen() {
        let scores = [0.1, 0.5, 0.9];
        let sample = Sample {
            columns: vec![
                column("sentence1", &["a", "b", "c"]),
                column("sentence2", &["d", "e", "f"]),
            ],
            labels: Some(Labels::Scores(&scores)),
            similarity: Similarity::Cosine,
            sides: [
                side(&[&[0.0, 0.0, 0.0], &[0.1, 0.5, 0.9]]),
                side(&[&[0.0, 0.0, 0.0], &[0.9, 0.5, 0.1]]),
            ],
        };
        let analysis = Analysis::new(&sample).unwrap();
        assert_eq!(analysis.counts, None);
        assert_eq!(analysis.gained.caption, "2 rows improved");
        assert_eq!(
            analysis.gained.rows[0][1..3],
            ["-0.667", "+0.000"].map(str::to_owned)
        );
        assert!(analysis.lost.rows.is_empty());
    }

    #[test]
    fn pairs_with_classes_have_a_threshold() {
        let classes = [1, 1, 0, 0];
        let sample = Sample {
            columns: vec![
                column("sentence1", &["a", "b", "c", "d"]),
                column("sentence2", &["e", "f", "g", "h"]),
            ],
            labels: Some(Labels::Classes(&classes)),
            similarity: Similarity::Cosine,
            sides: [
                side(&[&[0.0; 4], &[0.1, 0.7, 0.5, 0.9]]),
                side(&[&[0.0; 4], &[0.1, 0.2, 0.8, 0.9]]),
            ],
        };
        let analysis = Analysis::new(&sample).unwrap();
        assert_eq!(analysis.counts.map(|counts| counts[1]), Some(4));
        assert_eq!(analysis.projections[0].legend, ["class 0", "class 1"]);
        let columns = &analysis.gained.header;
        assert_eq!(columns.last().unwrap(), "label");
    }

    #[test]
    fn pairs_and_classes_are_judged_by_their_neighbours() {
        let columns = || {
            vec![
                column("anchor", &["a", "b"]),
                column("positive", &["c", "d"]),
            ]
        };
        let pairs = Sample {
            columns: columns(),
            labels: None,
            similarity: Similarity::Cosine,
            sides: [
                side(&[&[0.0, 1.0], &[1.1, 0.2]]),
                side(&[&[0.0, 1.0], &[0.2, 1.1]]),
            ],
        };
        assert_eq!(Analysis::new(&pairs).unwrap().counts, Some([0, 2, 0]));
        let classes = [0, 0, 1, 1];
        let single = Sample {
            columns: vec![column("text", &["a", "b", "c", "d"])],
            labels: Some(Labels::Classes(&classes)),
            similarity: Similarity::Cosine,
            sides: [
                side(&[&[0.0, 1.0, 0.1, 1.1]]),
                side(&[&[0.0, 0.1, 1.0, 1.1]]),
            ],
        };
        let analysis = Analysis::new(&single).unwrap();
        assert_eq!(analysis.counts, Some([0, 4, 0]));
        // A text is not its own neighbour.
        assert!(
            analysis.neighbours[0]
                .rows
                .iter()
                .all(|row| !row[1].starts_with("a "))
        );
    }

    #[test]
    fn the_threshold_separates_best() {
        assert_eq!(best_threshold(&[0.8, 0.9], &[0.1, 0.2]), Some(0.5));
        assert_eq!(
            best_threshold(&[0.2, 0.8, 0.9], &[0.1, 0.3, 0.4]),
            Some((0.4 + 0.8) / 2.0)
        );
        assert_eq!(best_threshold(&[0.2], &[]), None);
    }

    #[test]
    fn a_shape_that_differs_is_an_error() {
        let mut sample = triplets();
        sample.sides[1].columns[1].truncate(2);
        assert!(Analysis::new(&sample).is_err());
    }
}
