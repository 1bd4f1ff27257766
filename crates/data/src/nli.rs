//! Natural-language inference as triplets.

use std::collections::{HashMap, HashSet};

/// The relation of a hypothesis to its premise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The premise implies the hypothesis.
    Entailment,
    /// The premise implies the opposite.
    Contradiction,
    /// Neither, or the annotators did not agree.
    Other,
}

/// Triplets of rows: premise and entailed hypothesis, and a contradicted hypothesis of the same
/// premise.
///
/// Every entailed hypothesis meets every contradicted one of its premise, as in the `triplet` subset of
/// sentence-transformers/all-nli; or, with `max_per_positive`, only the first so many. A triplet whose three
/// texts came before is left out. In order of the premises' first rows.
///
/// Returns (row of the entailment, row of the contradiction); the premise is the same in both.
pub fn triplets<'t>(
    rows: impl IntoIterator<Item = (&'t str, &'t str, Relation)>,
    max_per_positive: usize,
) -> Vec<(u32, u32)> {
    #[derive(Default)]
    struct Hypotheses<'t> {
        entailed: Vec<(u32, &'t str)>,
        contradicted: Vec<(u32, &'t str)>,
    }
    let mut premises: Vec<Hypotheses<'t>> = Vec::new();
    let mut place_of = HashMap::new();
    for (row, (premise, hypothesis, relation)) in rows.into_iter().enumerate() {
        let place = *place_of.entry(premise).or_insert_with(|| {
            premises.push(Hypotheses::default());
            premises.len() - 1
        });
        let hypotheses = match relation {
            Relation::Entailment => &mut premises[place].entailed,
            Relation::Contradiction => &mut premises[place].contradicted,
            Relation::Other => continue,
        };
        hypotheses.push((row as u32, hypothesis));
    }
    let mut triplets = Vec::new();
    for Hypotheses {
        entailed,
        contradicted,
    } in premises
    {
        let mut seen = HashSet::new();
        for (positive_row, positive) in &entailed {
            let negatives = contradicted.iter().take(max_per_positive);
            for (negative_row, negative) in negatives {
                if seen.insert((*positive, *negative)) {
                    triplets.push((*positive_row, *negative_row));
                }
            }
        }
    }
    triplets
}

#[cfg(test)]
mod tests {
    use super::*;
    use Relation::{Contradiction, Entailment, Other};

    #[test]
    fn entailments_meet_contradictions_of_their_premise() {
        let rows = [
            ("p", "no", Contradiction),
            ("q", "yes", Entailment),
            ("p", "yes", Entailment),
            ("p", "maybe", Other),
            ("p", "sure", Entailment),
            ("p", "never", Contradiction),
            ("p", "sure", Entailment),
            ("r", "no", Contradiction),
            ("q", "no", Contradiction),
        ];
        assert_eq!(
            triplets(rows, usize::MAX),
            [(2, 0), (2, 5), (4, 0), (4, 5), (1, 8)]
        );
        assert_eq!(triplets(rows, 1), [(2, 0), (4, 0), (1, 8)]);
        assert_eq!(triplets([], 1), []);
    }
}
