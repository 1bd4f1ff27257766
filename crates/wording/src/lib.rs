//! Counts as messages, tables and pages have them. No dependencies.

/// A count with commas between thousands.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, such as `2 queries`; the plural is cut where there is one.
pub fn counted(n: usize, plural: &str) -> String {
    let what = match (n, plural.strip_suffix("ies"), plural.strip_suffix('s')) {
        (1, Some(stem), _) => format!("{stem}y"),
        (1, None, Some(stem)) => stem.to_owned(),
        _ => plural.to_owned(),
    };
    format!("{} {what}", thousands(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_commas() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "triplets"), "1 triplet");
        assert_eq!(counted(1, "scored pairs"), "1 scored pair");
        assert_eq!(counted(1, "queries"), "1 query");
        assert_eq!(counted(0, "queries"), "0 queries");
        assert_eq!(counted(1000, "rows"), "1,000 rows");
    }
}
