//! Charts as SVG.
//!
//! Written by hand rather than by a plotting crate: colours are CSS classes, so that the page's light, dark and printed
//! forms share one drawing, which plotters' SVG backend (fixed colours, 23 more crates) does not offer.

use std::fmt::Write;

use crate::table::Table;

/// Number of colours; series beyond it repeat them with other dashes.
pub const N_COLOURS: usize = 8;

/// Style of a chart that stands alone: the classes' colours on white paper.
pub const PAPER_STYLE: &str = "svg{background:#fff;font:12px Helvetica,Arial,sans-serif;fill:#222}.grid{stroke:#d8d8d8}.rule{stroke:#222;stroke-dasharray:4 4}.faint{fill:#555}.dot{fill:#2f6db3;fill-opacity:.55}.mean{stroke:#b3411f;stroke-width:2.5}.of-mean{fill:#b3411f}";

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y), ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// A chart with the table of its numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Chart {
    /// Title.
    pub title: String,
    /// The drawing.
    pub svg: String,
    /// Names of the groups, in the order of their colours; empty for one.
    pub legend: Vec<String>,
    /// Remark on what is shown, empty for none.
    pub note: String,
    /// The numbers.
    pub table: Table,
}

/// Size of a chart, small enough that its letters can be read on a phone.
const SIZE: (f64, f64) = (480.0, 270.0);
/// Space to the left of the frame, above, to the right and below.
const MARGIN: (f64, f64, f64, f64) = (56.0, 12.0, 12.0, 36.0);

/// Draws curves over each other, thinned to about `n_points` points in all by means of neighbours. `None` without points.
pub fn lines(title: &str, x_name: &str, series: &[Series], n_points: usize) -> Option<Chart> {
    let n_longest = series.iter().map(|series| series.points.len()).max()?;
    let most = (n_points / series.len()).max(24);
    let bucket = n_longest.div_ceil(most).max(1);
    let thinned: Vec<Series> = series
        .iter()
        .map(|series| thinned(series, bucket))
        .collect();
    let all = || thinned.iter().flat_map(|series| &series.points);
    let frame = Frame::of(all())?;
    let mut svg = frame.open(title, x_name);
    for (i, series) in thinned.iter().enumerate() {
        let path: Vec<String> = series
            .points
            .iter()
            .map(|&(x, y)| format!("{:.1},{:.1}", frame.x(x), frame.y(y)))
            .collect();
        let (colour, dash) = (i % N_COLOURS, i / N_COLOURS % 3);
        let name = escaped(&series.name);
        match path.as_slice() {
            [] => {}
            [only] => {
                let (x, y) = only.split_once(',').unwrap_or_default();
                let _ = write!(
                    svg,
                    r#"<circle class="f{colour}" cx="{x}" cy="{y}" r="3"><title>{name}</title></circle>"#
                );
            }
            path => {
                let _ = write!(
                    svg,
                    r#"<polyline class="l s{colour} d{dash}" points="{}"><title>{name}</title></polyline>"#,
                    path.join(" ")
                );
            }
        }
    }
    svg += "</svg>";
    let note = match bucket {
        1 => String::new(),
        n => format!("Each point is the mean of {n} log entries."),
    };
    Some(Chart {
        title: title.to_owned(),
        svg,
        legend: legend(series.iter().map(|series| series.name.clone())),
        note,
        table: lines_table(x_name, &thinned),
    })
}

/// A row for each x, a column for each curve.
fn lines_table(x_name: &str, series: &[Series]) -> Table {
    let mut xs: Vec<f64> = series
        .iter()
        .flat_map(|series| series.points.iter().map(|point| point.0))
        .collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let mut header = vec![x_name];
    header.extend(series.iter().map(|series| series.name.as_str()));
    let mut table = Table::new("", &header);
    for x in xs {
        let mut row = vec![number(x)];
        row.extend(series.iter().map(|series| {
            let found = series.points.iter().find(|point| point.0 == x);
            found.map_or_else(String::new, |point| number(point.1))
        }));
        table.push(row);
    }
    table.finished()
}

/// Means of `bucket` neighbours each.
fn thinned(series: &Series, bucket: usize) -> Series {
    let points = series.points.chunks(bucket).map(|points| {
        let n = points.len() as f64;
        let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| {
            (sum.0 + point.0 / n, sum.1 + point.1 / n)
        });
        (if bucket == 1 { points[0].0 } else { x.round() }, y)
    });
    Series {
        name: series.name.clone(),
        points: points.collect(),
    }
}

/// A point of a scatter plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    /// Place.
    pub at: (f64, f64),
    /// Group, which gives the colour.
    pub group: usize,
    /// Text of the point.
    pub text: String,
}

/// Draws points in the colours of their groups. `None` without points.
pub fn scatter(title: &str, groups: &[String], dots: &[Dot]) -> Option<Chart> {
    let frame = Frame::of(dots.iter().map(|dot| &dot.at))?;
    let mut svg = frame.open(title, "");
    for dot in dots {
        let _ = write!(
            svg,
            r#"<circle class="f{}" cx="{:.1}" cy="{:.1}" r="3"><title>{}</title></circle>"#,
            dot.group % N_COLOURS,
            frame.x(dot.at.0),
            frame.y(dot.at.1),
            escaped(&dot.text)
        );
    }
    svg += "</svg>";
    let mut table = Table::new("", &["text", "group", "x", "y"]);
    for dot in dots {
        let group = groups.get(dot.group).cloned().unwrap_or_default();
        table.push(vec![
            dot.text.clone(),
            group,
            number(dot.at.0),
            number(dot.at.1),
        ]);
    }
    Some(Chart {
        title: title.to_owned(),
        svg,
        legend: legend(groups.iter().cloned()),
        note: String::new(),
        table: table.finished(),
    })
}

/// Draws how often values fall into equal bins, a group over the other, with a dashed line at `threshold`. `None` without
/// values.
pub fn histogram(
    title: &str,
    x_name: &str,
    groups: &[(&str, &[f64])],
    range: (f64, f64),
    threshold: Option<f64>,
) -> Option<Chart> {
    const N_BINS: usize = 40;
    if groups.iter().all(|(_, values)| values.is_empty()) {
        return None;
    }
    let (low, high) = if range.0 < range.1 {
        range
    } else {
        (range.0 - 0.5, range.0 + 0.5)
    };
    let width = (high - low) / N_BINS as f64;
    let counts: Vec<Vec<usize>> = groups
        .iter()
        .map(|(_, values)| {
            let mut counts = vec![0; N_BINS];
            for value in *values {
                let bin = ((value - low) / width)
                    .floor()
                    .clamp(0.0, (N_BINS - 1) as f64);
                counts[bin as usize] += 1;
            }
            counts
        })
        .collect();
    let most = counts.iter().flatten().copied().max().unwrap_or(0) as f64;
    let frame = Frame::new((low, high), (0.0, most.max(1.0)), true);
    let mut svg = frame.open(title, x_name);
    for (group, counts) in counts.iter().enumerate() {
        for (bin, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let from = low + bin as f64 * width;
            let (left, right, top) = (frame.x(from), frame.x(from + width), frame.y(count as f64));
            let _ = write!(
                svg,
                r#"<rect class="b{group}" x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"><title>{}: {count}</title></rect>"#,
                right - left,
                frame.bottom() - top,
                escaped(groups[group].0),
            );
        }
    }
    if let Some(threshold) = threshold.filter(|x| (low..=high).contains(x)) {
        let at = frame.x(threshold);
        let _ = write!(
            svg,
            r#"<line class="rule" x1="{at:.1}" y1="{}" x2="{at:.1}" y2="{}"/><text x="{:.1}" y="{}" text-anchor="{}">{}</text>"#,
            MARGIN.1,
            frame.bottom(),
            if at < SIZE.0 / 2.0 {
                at + 4.0
            } else {
                at - 4.0
            },
            MARGIN.1 + 11.0,
            if at < SIZE.0 / 2.0 { "start" } else { "end" },
            number(threshold)
        );
    }
    svg += "</svg>";
    let mut header = vec!["from", "to"];
    header.extend(groups.iter().map(|group| group.0));
    let mut table = Table::new("", &header);
    for bin in 0..N_BINS {
        if counts.iter().all(|counts| counts[bin] == 0) {
            continue;
        }
        let from = low + bin as f64 * width;
        let mut row = vec![number(from), number(from + width)];
        row.extend(counts.iter().map(|counts| counts[bin].to_string()));
        table.push(row);
    }
    Some(Chart {
        title: title.to_owned(),
        svg,
        legend: legend(groups.iter().map(|group| group.0.to_owned())),
        note: String::new(),
        table: table.finished(),
    })
}

/// No legend for a single group: the title names it.
fn legend(names: impl Iterator<Item = String>) -> Vec<String> {
    let names: Vec<String> = names.collect();
    if names.len() > 1 { names } else { Vec::new() }
}

/// The scales of a chart.
struct Frame {
    x_ticks: Vec<f64>,
    y_ticks: Vec<f64>,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    /// A frame around points with finite coordinates; `None` without points.
    fn of<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> Option<Self> {
        let (mut x, mut y) = ((f64::MAX, f64::MIN), (f64::MAX, f64::MIN));
        let mut n = 0;
        for point in points.filter(|point| point.0.is_finite() && point.1.is_finite()) {
            x = (x.0.min(point.0), x.1.max(point.0));
            y = (y.0.min(point.1), y.1.max(point.1));
            n += 1;
        }
        (n > 0).then(|| Self::new(x, y, false))
    }

    /// A frame over these ranges. With `is_floor` the lowest y is the bottom edge.
    fn new(x: (f64, f64), y: (f64, f64), is_floor: bool) -> Self {
        // Room below, but none that would show negative values where there are none.
        let below = match (y.0 / (y.1 - y.0)).max(0.0) {
            _ if is_floor => 0.0,
            share if y.0 >= 0.0 => share.min(0.04),
            _ => 0.04,
        };
        let y_ticks = ticks(y.0, y.1, (below, 0.04));
        let x_ticks = ticks(x.0, x.1, (0.0, 0.0));
        let inside = |tick: &f64| x.0 <= *tick + 1e-9 && *tick <= x.1 + 1e-9;
        let pad = if x.0 < x.1 { 0.02 * (x.1 - x.0) } else { 0.5 };
        Self {
            x: (x.0 - pad, x.1 + pad),
            y: (y_ticks[0], y_ticks[y_ticks.len() - 1]),
            x_ticks: x_ticks.into_iter().filter(inside).collect(),
            y_ticks,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value - self.x.0) / (self.x.1 - self.x.0);
        MARGIN.0 + share * (SIZE.0 - MARGIN.0 - MARGIN.2)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.y.0) / (self.y.1 - self.y.0);
        self.bottom() - share * (self.bottom() - MARGIN.1)
    }

    fn bottom(&self) -> f64 {
        SIZE.1 - MARGIN.3
    }

    /// The start of the drawing: grid and labels.
    fn open(&self, title: &str, x_name: &str) -> String {
        let mut svg = format!(
            r#"<svg viewBox="0 0 {} {}" role="img" aria-label="{}">"#,
            SIZE.0,
            SIZE.1,
            escaped(title)
        );
        let digits = decimals(step_of(&self.y_ticks));
        for &tick in &self.y_ticks {
            let at = self.y(tick);
            let label = tick_label(tick, digits);
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{}" y1="{at:.1}" x2="{}" y2="{at:.1}"/><text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#,
                MARGIN.0,
                SIZE.0 - MARGIN.2,
                MARGIN.0 - 6.0,
                at + 4.0,
            );
        }
        let digits = decimals(step_of(&self.x_ticks));
        for &tick in &self.x_ticks {
            let at = self.x(tick);
            let label = tick_label(tick, digits);
            let _ = write!(
                svg,
                r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
                self.bottom() + 15.0,
            );
        }
        if !x_name.is_empty() {
            let _ = write!(
                svg,
                r#"<text class="faint" x="{}" y="{}" text-anchor="end">{}</text>"#,
                SIZE.0 - MARGIN.2,
                SIZE.1 - 6.0,
                escaped(x_name)
            );
        }
        svg
    }
}

fn step_of(ticks: &[f64]) -> f64 {
    match ticks {
        [first, second, ..] => second - first,
        _ => 1.0,
    }
}

fn tick_label(tick: f64, digits: usize) -> String {
    if digits > 4 && tick != 0.0 {
        return format!("{tick:.1e}");
    }
    let digits = if tick == 0.0 { 0 } else { digits };
    format!("{tick:.digits$}")
}

/// Round numbers, evenly spaced, from below `low` to above `high`, with these shares of the range as room below and
/// above.
pub fn ticks(low: f64, high: f64, room: (f64, f64)) -> Vec<f64> {
    let span = match high - low {
        span if span > 0.0 => span,
        _ => (low.abs() * 1e-3).max(1e-4),
    };
    let (low, high) = (low - room.0 * span, high + room.1 * span);
    let rough = (high - low).max(span) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(rough);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last.max(first + 1))
        .map(|i| i as f64 * step)
        .collect()
}

/// Digits after the point that tell multiples of `step` apart.
pub fn decimals(step: f64) -> usize {
    let is_whole = |value: f64| (value - value.round()).abs() < 1e-6;
    (0..8)
        .find(|&digits| is_whole(step * 10f64.powi(digits)))
        .unwrap_or(8) as usize
}

/// A number for a table: four significant digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e15 {
        format!("{value}")
    } else if (1e-3..1e6).contains(&size) {
        let digits = (3 - size.log10().floor() as i32).max(0) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// A text within SVG or HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series {
            name: name.to_owned(),
            points: points.to_vec(),
        }
    }

    #[test]
    fn axes_are_round_and_hold_all() {
        for (low, high) in [
            (0.71, 0.93),
            (0.5, 0.5),
            (-0.2, 0.81),
            (0.9131, 0.9138),
            (12.0, 480.0),
            (1e-7, 5e-5),
            (0.0, 0.0),
        ] {
            let ticks = ticks(low, high, (0.12, 0.04));
            assert!(
                ticks[0] <= low && *ticks.last().unwrap() >= high,
                "{ticks:?}"
            );
            assert!((2..=9).contains(&ticks.len()), "{ticks:?}");
            let digits = decimals(ticks[1] - ticks[0]);
            let mut texts: Vec<String> = ticks.iter().map(|&t| tick_label(t, digits)).collect();
            texts.dedup();
            assert_eq!(texts.len(), ticks.len(), "{texts:?}");
        }
    }

    #[test]
    fn curves_lie_within_the_frame_and_have_a_table() {
        let long: Vec<(f64, f64)> = (0..1000)
            .map(|i| (i as f64, 1.0 / (i + 1) as f64))
            .collect();
        let chart = lines(
            "loss",
            "step",
            &[series("a<b", &long), series("one", &[(7.0, 0.5)])],
            100,
        )
        .unwrap();
        assert!(chart.svg.contains("a&lt;b") && chart.svg.contains("<circle"));
        assert_eq!(chart.legend, ["a<b", "one"]);
        assert!(chart.note.contains("mean of 20"), "{}", chart.note);
        assert_eq!(chart.table.header, ["step", "a<b", "one"]);
        // 50 points of the first, and the step of the second.
        assert_eq!(chart.table.rows.len(), 51);
        let points = chart.svg.split("points=\"").nth(1).unwrap();
        for point in points.split('"').next().unwrap().split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((MARGIN.0..=SIZE.0 - MARGIN.2).contains(&x), "{x}");
            assert!((MARGIN.1..=SIZE.1 - MARGIN.3).contains(&y), "{y}");
        }
        // No value is negative, and so no label is.
        assert!(!chart.svg.contains(">-"), "{}", chart.svg);
        assert_eq!(lines("loss", "step", &[series("a", &[])], 100), None);
        assert_eq!(lines("loss", "step", &[], 100), None);
    }

    #[test]
    fn a_histogram_counts_every_value() {
        let (low, high) = ([0.1, 0.1, -1.0], [0.9, 1.0]);
        let groups: [(&str, &[f64]); 2] = [("negative", &low), ("positive", &high)];
        let chart = histogram("cosine", "", &groups, (-1.0, 1.0), Some(0.5)).unwrap();
        let sum = |column: usize| -> usize {
            let cells = chart
                .table
                .rows
                .iter()
                .map(|row| row[column].parse::<usize>());
            cells.map(Result::unwrap).sum()
        };
        assert_eq!((sum(2), sum(3)), (3, 2));
        assert!(chart.svg.contains("rule"));
        assert_eq!(
            histogram("cosine", "", &[("none", &[])], (0.0, 1.0), None),
            None
        );
    }

    #[test]
    fn numbers_have_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (900.0, "900"),
            (1.56067, "1.561"),
            (0.85, "0.8500"),
            (123.456, "123.5"),
            (4.6667e-5, "4.667e-5"),
            (-0.01234, "-0.01234"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
