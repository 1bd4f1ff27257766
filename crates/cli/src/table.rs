//! Plain tables for people: names to the left, numbers to the right.

use wording::counted;

/// Lays out rows under a header; the first column is left-aligned, the others right-aligned.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|i| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(i))
                .map(|cell| cell.chars().count());
            cells.chain([header[i].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, &width))| {
                if i == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    text += &("-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)) + "\n");
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Counts with their nouns, such as `10 queries in 200 documents`.
pub(crate) fn counted_all(counts: &[(usize, &str)]) -> String {
    let counts = counts.iter().map(|(n, plural)| counted(*n, plural));
    counts.collect::<Vec<_>>().join(" in ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![
            vec![
                "cosine".to_owned(),
                "0.6999".to_owned(),
                "0.9119".to_owned(),
            ],
            vec![
                "manhattan accuracy".to_owned(),
                "1".to_owned(),
                "0.87".to_owned(),
            ],
        ];
        assert_eq!(
            table(&["metric", "before", "after"], &rows),
            "metric              before   after\n\
             ----------------------------------\n\
             cosine              0.6999  0.9119\n\
             manhattan accuracy       1    0.87\n"
        );
    }
}
