//! Rows of JSON files: lines, or the values of one document.

use std::ops::Range;

use serde::de::IgnoredAny;

/// A row as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The line on which it starts, from 1.
    pub(super) number: usize,
    pub(super) text: &'a [u8],
}

/// The rows of a JSON file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rows<'a> {
    /// Values one after the other, mostly one a line.
    Values(Vec<Line<'a>>),
    /// Columns by name, each with all of its values.
    Columns(Vec<(&'a [u8], &'a [u8])>),
}

/// Finds the rows: the lines that are not blank; or, where the first line is no whole value, the values one after the
/// other, over as many lines as each takes. An array that is the whole file holds the rows, and so does the only field
/// of an object that is the whole file and ends in `.json` (`is_document`) that is an array of objects. Where all
/// fields of such an object are lists, or all are objects, they are the columns, as pandas writes them.
pub(super) fn rows(text: &[u8], is_document: bool) -> Rows<'_> {
    let lines = lines(text);
    let Some(&first) = lines.first() else {
        return Rows::Values(lines);
    };
    let start = offset(text, first.text);
    let is_one = |end: usize| text[end..].trim_ascii().is_empty();
    match value_end(text, start) {
        Some(end) if is_one(end) && text[start] == b'[' => {
            let values = elements(text, start..end);
            let holds_rows = values
                .iter()
                .all(|range| matches!(text[range.start], b'{' | b'['));
            if holds_rows && !values.is_empty() {
                return Rows::Values(numbered(text, &values));
            }
        }
        Some(end) if is_one(end) && text[start] == b'{' && is_document => {
            let fields = fields(text, start..end);
            let of = |open: u8| {
                let is_it =
                    move |(_, value): &&(Range<usize>, Range<usize>)| text[value.start] == open;
                fields.iter().filter(is_it)
            };
            let arrays_of_objects: Vec<_> = of(b'[')
                .filter(|(_, value)| {
                    let values = elements(text, value.clone());
                    !values.is_empty() && values.iter().all(|range| text[range.start] == b'{')
                })
                .collect();
            if let [(_, value)] = arrays_of_objects.as_slice() {
                return Rows::Values(numbered(text, &elements(text, value.clone())));
            }
            let is_columns = |open: u8| {
                fields.len() > 1 && of(open).count() == fields.len() && arrays_of_objects.is_empty()
            };
            if is_columns(b'[') || is_columns(b'{') {
                let slices = fields
                    .into_iter()
                    .map(|(name, value)| (&text[name], &text[value]));
                return Rows::Columns(slices.collect());
            }
        }
        _ => {}
    }
    match value_end(text, start) {
        Some(end) if end > start + first.text.trim_ascii_start().len() => {
            values(text, start).map_or(Rows::Values(lines), Rows::Values)
        }
        _ => Rows::Values(lines),
    }
}

/// Whether [`rows`] finds a row in each line of a file that begins with `text` and goes on after it.
pub(super) fn are_lines(text: &[u8]) -> bool {
    let Some(first) = lines(text).into_iter().next() else {
        return false;
    };
    let start = offset(text, first.text);
    let first_end = start + first.text.trim_ascii_start().len();
    value_end(text, start).is_some_and(|end| end <= first_end && end < text.len())
}

/// The values from `start` on, one after the other, if there is nothing else.
fn values(text: &[u8], start: usize) -> Option<Vec<Line<'_>>> {
    let mut values = Vec::new();
    let mut at = start;
    while at < text.len() {
        let end = value_end(text, at)?;
        // A line that is broken off seems to go on in the next ones.
        serde_json::from_slice::<IgnoredAny>(&text[at..end]).ok()?;
        values.push(at..end);
        at = skip_space(text, end);
    }
    Some(numbered(text, &values))
}

/// The lines that are not blank.
pub(super) fn lines(text: &[u8]) -> Vec<Line<'_>> {
    text.split(|&byte| byte == b'\n')
        .zip(1..)
        .filter(|(text, _)| !text.trim_ascii().is_empty())
        .map(|(text, number)| Line { number, text })
        .collect()
}

/// The place of the first byte of a part that is no space.
fn offset(text: &[u8], part: &[u8]) -> usize {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    skip_space(text, start)
}

fn numbered<'a>(text: &'a [u8], ranges: &[Range<usize>]) -> Vec<Line<'a>> {
    let (mut number, mut at) = (1, 0);
    let mut lines = Vec::with_capacity(ranges.len());
    for range in ranges {
        number += text[at..range.start]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        at = range.start;
        lines.push(Line {
            number,
            text: &text[range.clone()],
        });
    }
    lines
}

fn skip_space(text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + (rest.len() - rest.trim_ascii_start().len())
}

/// The end of the value that starts at `start`, by its brackets and quotes alone.
fn value_end(text: &[u8], start: usize) -> Option<usize> {
    match text.get(start)? {
        b'{' | b'[' => {
            let (mut depth, mut at) = (0_usize, start);
            loop {
                match text.get(at)? {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    b'"' => at = string_end(text, at)? - 1,
                    _ => {}
                }
                at += 1;
            }
        }
        b'"' => string_end(text, start),
        _ => {
            let is_end =
                |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
            let length = text[start..].iter().position(is_end);
            length
                .map(|length| start + length)
                .filter(|end| *end > start)
        }
    }
}

/// The end of the text that starts with the quote at `start`.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The elements of an array.
fn elements(text: &[u8], array: Range<usize>) -> Vec<Range<usize>> {
    let mut elements = Vec::new();
    let mut at = skip_space(text, array.start + 1);
    while at < array.end - 1 {
        let Some(end) = value_end(text, at) else {
            break;
        };
        elements.push(at..end);
        at = skip_space(text, end);
        if text.get(at) == Some(&b',') {
            at = skip_space(text, at + 1);
        } else {
            break;
        }
    }
    elements
}

/// The keys and values of an object.
fn fields(text: &[u8], object: Range<usize>) -> Vec<(Range<usize>, Range<usize>)> {
    let mut fields = Vec::new();
    let mut at = skip_space(text, object.start + 1);
    while text.get(at) == Some(&b'"') {
        let Some(key) = string_end(text, at) else {
            break;
        };
        let colon = skip_space(text, key);
        if text.get(colon) != Some(&b':') {
            break;
        }
        let start = skip_space(text, colon + 1);
        let Some(end) = value_end(text, start) else {
            break;
        };
        fields.push((at..key, start..end));
        at = skip_space(text, end);
        if text.get(at) == Some(&b',') {
            at = skip_space(text, at + 1);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, &str)> {
        match rows(text.as_bytes(), true) {
            Rows::Values(lines) => lines
                .into_iter()
                .map(|line| (line.number, std::str::from_utf8(line.text).unwrap().trim()))
                .collect(),
            Rows::Columns(_) => panic!("columns"),
        }
    }

    #[test]
    fn lines_stay_lines() {
        for text in [
            "{\"a\":1}\n\n{\"a\":2}",
            "[1,2]\n\n[3,4]\n",
            "{\"a\"\n\n{\"b\":1}\n",
            "x\n\ny",
        ] {
            let lines: Vec<_> = text.trim().split("\n\n").collect();
            assert_eq!(found(text), [(1, lines[0]), (3, lines[1])], "{text}");
        }
        assert_eq!(found("[\"x\",\"y\"]"), [(1, "[\"x\",\"y\"]")]);
        assert_eq!(found(""), []);
    }

    #[test]
    fn documents_are_taken_apart() {
        let rows = [(2, "{\"a\":\"]\\\"\"}"), (3, "{\"a\":{}}")];
        assert_eq!(found("[\n{\"a\":\"]\\\"\"},\n {\"a\":{}}\n]\n"), rows);
        assert_eq!(found("\n{\"a\":\"]\\\"\"}\n{\"a\":{}}"), rows);
        assert_eq!(
            found("{\"version\": [1], \"data\":\n[{\"a\":\"]\\\"\"},\n{\"a\":{}}]}"),
            rows
        );
        assert_eq!(
            found("{\n\"a\":1}\n{\n\"a\":2}"),
            [(1, "{\n\"a\":1}"), (3, "{\n\"a\":2}")]
        );
        assert_eq!(
            found("[[\"x\"], [\"y\"]]"),
            [(1, "[\"x\"]"), (1, "[\"y\"]")]
        );
        let text = "{\"a\": [\"x\"], \"b\": [\"y\"]}";
        let columns: Vec<(&[u8], &[u8])> = vec![(b"\"a\"", b"[\"x\"]"), (b"\"b\"", b"[\"y\"]")];
        assert_eq!(super::rows(text.as_bytes(), true), Rows::Columns(columns));
        assert_eq!(found("{\"query\": \"x\", \"pos\": [\"y\"]}").len(), 1);
    }
}
