//! Small plots for a terminal, in Unicode's Braille patterns.

/// First of the Braille patterns, the one without dots.
const BLANK: u32 = 0x2800;
/// Bits of a pattern's dots, by row and column.
const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Plots a curve in `height` lines of at most `width` characters, with its highest and lowest value to the left and the
/// first and last x below. `None` for fewer than two points.
pub fn plot(title: &str, points: &[(f64, f64)], width: usize, height: usize) -> Option<String> {
    let [first, .., last] = points else {
        return None;
    };
    let (low, high) = points
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), point| {
            (low.min(point.1), high.max(point.1))
        });
    let labels = [label(high), label(low)];
    let margin = labels.iter().map(|label| label.chars().count()).max()?;
    let width = width.saturating_sub(margin + 2).max(8);
    let height = height.max(2);
    let (n_columns, n_rows) = (2 * width, 4 * height);
    let column = |x: f64| {
        let share = (x - first.0) / (last.0 - first.0).max(f64::MIN_POSITIVE);
        (share * (n_columns - 1) as f64).round() as usize
    };
    let row = |y: f64| {
        let share = if high > low {
            (high - y) / (high - low)
        } else {
            0.5
        };
        (share * (n_rows - 1) as f64).round() as usize
    };
    let mut cells = vec![BLANK; width * height];
    let mut dot = |x: usize, y: usize| {
        let (x, y) = (x.min(n_columns - 1), y.min(n_rows - 1));
        cells[y / 4 * width + x / 2] |= BITS[y % 4][x % 2];
    };
    for pair in points.windows(2) {
        // A line of dots, one for each column or row that it crosses.
        let (from, to) = (
            (column(pair[0].0), row(pair[0].1)),
            (column(pair[1].0), row(pair[1].1)),
        );
        let n = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        for i in 0..=n {
            let at = |from: usize, to: usize| {
                let share = i as f64 / n as f64;
                (from as f64 + share * (to as f64 - from as f64)).round() as usize
            };
            dot(at(from.0, to.0), at(from.1, to.1));
        }
    }
    let mut text = format!("{title}\n");
    for (i, line) in cells.chunks(width).enumerate() {
        let label = match i {
            0 => labels[0].as_str(),
            i if i + 1 == height => labels[1].as_str(),
            _ => "",
        };
        let line: String = line
            .iter()
            .filter_map(|&cell| char::from_u32(cell))
            .collect();
        text += &format!("{label:>margin$} ┤{}\n", line.trim_end_matches('\u{2800}'));
    }
    let (start, end) = (label(first.0), label(last.0));
    let gap = width.saturating_sub(start.chars().count());
    text += &format!("{:>margin$}  {start}{end:>gap$}\n", "");
    Some(text)
}

fn label(value: f64) -> String {
    crate::chart::number(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_curve_falls() {
        let points: Vec<(f64, f64)> = (0..=10)
            .map(|i| (f64::from(i), f64::from(10 - i)))
            .collect();
        let text = plot("loss", &points, 20, 3).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "loss");
        assert!(lines[1].starts_with("10 ┤⠉"), "{text}");
        assert!(lines[3].starts_with(" 0 ┤"), "{text}");
        assert!(
            lines[3].chars().count() > lines[1].chars().count(),
            "{text}"
        );
        assert!(lines[4].ends_with("10"), "{text}");
        assert!(
            lines.iter().all(|line| line.chars().count() <= 20),
            "{text}"
        );
    }

    #[test]
    fn a_level_curve_is_drawn_and_a_point_is_none() {
        assert!(plot("loss", &[(1.0, 2.0), (2.0, 2.0)], 20, 3).is_some());
        assert_eq!(plot("loss", &[(1.0, 2.0)], 20, 3), None);
    }
}
