//! A sweep's plot as SVG: a panel for each key that varies, a dot for each run, a bar at each value's mean.

use std::fmt::Write;

use crate::chart::{PAPER_STYLE, decimals, escaped, ticks};

/// The content of a plot.
pub struct Plot {
    /// Name of the vertical axis.
    pub metric: String,
    /// Its value before training, where all runs began with the same.
    pub before: Option<f64>,
    /// Number of runs.
    pub n_runs: usize,
    /// Panels, in order.
    pub panels: Vec<Panel>,
}

/// The metric against one key.
pub struct Panel {
    /// Name of the key.
    pub title: String,
    /// Runs.
    pub dots: Vec<Dot>,
}

/// One run.
pub struct Dot {
    /// The key's value.
    pub at: String,
    /// The metric's value.
    pub value: f64,
}

const COLUMNS: usize = 3;
const PANEL: f64 = 340.0;
/// Height of a panel's frame.
const FRAME: f64 = 180.0;
/// To the left of a panel's frame, above it and to the right of it.
const MARGIN: (f64, f64, f64) = (62.0, 34.0, 14.0);
/// Below a frame whose labels are level, and below one whose labels are turned.
const BELOW: (f64, f64) = (40.0, 104.0);
/// Above all panels.
const HEAD: f64 = 58.0;
/// Shares of the range below and above the values; below, the means are written.
const ROOM: (f64, f64) = (0.12, 0.04);
/// Width of a small letter, about.
const LETTER: f64 = 6.2;

/// The plot, or nothing where there is nothing to plot.
pub fn svg(plot: &Plot) -> Option<String> {
    let values = || {
        plot.panels
            .iter()
            .flat_map(|panel| &panel.dots)
            .map(|dot| dot.value)
    };
    if values().next().is_none() || values().any(|value| !value.is_finite()) {
        return None;
    }
    let (least, most) = values().fold((f64::MAX, f64::MIN), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    // The line of before is there where it does not press the runs together.
    let spread = (most - least).max(1e-4);
    let before = plot
        .before
        .filter(|before| (least - spread..most + spread).contains(before));
    let (low, high) = (
        before.map_or(least, |b| b.min(least)),
        before.map_or(most, |b| b.max(most)),
    );
    let ticks = ticks(low, high, ROOM);

    let n_columns = plot.panels.len().min(COLUMNS);
    let width = (PANEL * n_columns as f64).max(520.0);
    // The top of each row of panels, and the end of the last.
    let mut tops = vec![HEAD];
    for row in plot.panels.chunks(COLUMNS) {
        let is_turned = row.iter().any(|panel| is_tight(&in_order(panel)));
        let below = if is_turned { BELOW.1 } else { BELOW.0 };
        tops.push(tops[tops.len() - 1] + MARGIN.1 + FRAME + below);
    }
    let height = tops[tops.len() - 1];
    let mut text = String::new();
    let _ = writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="What affects {name}">
<style>{PAPER_STYLE}</style>
<text x="16" y="26" font-size="16" font-weight="bold">What affects {name}</text>"#,
        name = escaped(&plot.metric)
    );
    let before_text = plot
        .before
        .map_or_else(String::new, |b| format!("; before training {b:.4}"));
    let runs = if plot.n_runs == 1 { "run" } else { "runs" };
    let _ = writeln!(
        text,
        r#"<text x="16" y="46" class="faint">{} {runs}: a dot each, a bar at the mean of each value{before_text}</text>"#,
        plot.n_runs
    );
    for (i, panel) in plot.panels.iter().enumerate() {
        let left = PANEL * (i % COLUMNS) as f64;
        let corner = (left, tops[i / COLUMNS]);
        draw(&mut text, panel, corner, &ticks, before);
    }
    text += "</svg>\n";
    Some(text)
}

/// A plot for a page, which has its own colours.
pub fn without_style(svg: &str) -> String {
    svg.replacen(&format!("<style>{PAPER_STYLE}</style>\n"), "", 1)
}

fn draw(text: &mut String, panel: &Panel, corner: (f64, f64), ticks: &[f64], before: Option<f64>) {
    let (left, right) = (corner.0 + MARGIN.0, corner.0 + PANEL - MARGIN.2);
    let (top, bottom) = (corner.1 + MARGIN.1, corner.1 + MARGIN.1 + FRAME);
    let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
    let y = |value: f64| bottom - (value - first) / (last - first) * (bottom - top);
    let _ = writeln!(
        text,
        r#"<text x="{left}" y="{}" font-size="13" font-weight="bold">{}</text>"#,
        top - 12.0,
        escaped(&panel.title)
    );
    let digits = decimals(ticks[1] - ticks[0]);
    for &tick in ticks {
        let at = y(tick);
        let _ = writeln!(
            text,
            r#"<line x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}" class="grid"/>
<text x="{}" y="{:.1}" text-anchor="end">{tick:.digits$}</text>"#,
            left - 6.0,
            at + 4.0
        );
    }
    if let Some(before) = before {
        let at = y(before);
        let _ = writeln!(
            text,
            r#"<line x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}" class="rule"/>
<text x="{right}" y="{:.1}" text-anchor="end" font-size="10">before</text>"#,
            at - 4.0
        );
    }
    let values = in_order(panel);
    let slot = (right - left) / values.len() as f64;
    let is_tight = is_tight(&values);
    for (i, value) in values.iter().enumerate() {
        let x = left + slot * (i as f64 + 0.5);
        let (anchor, turn) = match is_tight {
            true => (
                "end",
                format!(r#" transform="rotate(-28 {x:.1} {:.1})""#, bottom + 14.0),
            ),
            false => ("middle", String::new()),
        };
        let _ = writeln!(
            text,
            r#"<text x="{x:.1}" y="{:.1}" text-anchor="{anchor}"{turn}>{}</text>"#,
            bottom + 18.0,
            escaped(&short(value))
        );
        let found: Vec<f64> = panel
            .dots
            .iter()
            .filter(|dot| &dot.at == value)
            .map(|dot| dot.value)
            .collect();
        for (j, &found) in found.iter().enumerate() {
            // Side by side, so that equal ones are seen.
            let aside = ((j * 7) % 11) as f64 / 10.0 - 0.5;
            let cx = x + aside * (slot * 0.3).min(40.0);
            let _ = writeln!(
                text,
                r#"<circle cx="{cx:.1}" cy="{:.1}" r="3.5" class="dot"><title>{}: {found:.4}</title></circle>"#,
                y(found),
                escaped(value)
            );
        }
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let (half, at) = ((slot * 0.32).min(34.0), y(mean));
        let _ = writeln!(
            text,
            r#"<line x1="{:.1}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" class="mean"/>
<text x="{x:.1}" y="{:.1}" text-anchor="middle" font-size="10" class="of-mean">{mean:.4}</text>"#,
            x - half,
            x + half,
            bottom - 4.0
        );
    }
}

/// Most letters of a value's label.
const LONGEST: usize = 26;

/// Whether these labels are too long to stand side by side.
fn is_tight(values: &[String]) -> bool {
    let slot = (PANEL - MARGIN.0 - MARGIN.2) / values.len() as f64;
    let lengths = values
        .iter()
        .map(|value| value.chars().count().min(LONGEST));
    lengths.max().unwrap_or(0) as f64 * LETTER > slot
}

fn short(value: &str) -> String {
    if value.chars().count() <= LONGEST {
        return value.to_owned();
    }
    let mut start: String = value.chars().take(LONGEST - 1).collect();
    start.push('…');
    start
}

/// The different values of a panel, numbers by size and names as they come.
fn in_order(panel: &Panel) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for dot in &panel.dots {
        if !values.contains(&dot.at) {
            values.push(dot.at.clone());
        }
    }
    let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
    if let Some(numbers) = numbers {
        let mut both: Vec<_> = numbers.into_iter().zip(values).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        values = both.into_iter().map(|(_, value)| value).collect();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(values: &[(&str, f64)]) -> Panel {
        let dots = values.iter().map(|&(at, value)| Dot {
            at: at.to_owned(),
            value,
        });
        Panel {
            title: "a & b".to_owned(),
            dots: dots.collect(),
        }
    }

    #[test]
    fn numbers_are_in_order_and_names_as_they_come() {
        assert_eq!(
            in_order(&panel(&[
                ("5e-5", 0.0),
                ("2e-5", 0.0),
                ("1e-4", 0.0),
                ("5e-5", 0.0)
            ])),
            ["2e-5", "5e-5", "1e-4"]
        );
        assert_eq!(
            in_order(&panel(&[("sgd", 0.0), ("10", 0.0), ("adam", 0.0)])),
            ["sgd", "10", "adam"]
        );
    }

    #[test]
    fn every_run_is_a_dot_within_its_panel() {
        let long = "a<b-and-a-name-that-is-much-too-long";
        let plot = |before| Plot {
            metric: "t_accuracy".to_owned(),
            before,
            n_runs: 4,
            panels: vec![
                panel(&[("8", 0.8), ("16", 0.9), ("8", 0.85), ("16", 0.95)]),
                panel(&[("x", 0.8), (long, 0.9), ("x", 0.85), (long, 0.95)]),
            ],
        };
        let text = svg(&plot(Some(0.7))).unwrap();
        assert_eq!(text.matches("<circle").count(), 8);
        assert_eq!(text.matches(">before</text>").count(), 2);
        assert!(
            text.contains("a &amp; b") && text.contains("a&lt;b-and"),
            "{text}"
        );
        // The means of 8 and 16.
        assert!(
            text.contains(">0.8250</text>") && text.contains(">0.9250</text>"),
            "{text}"
        );
        for part in text.split("<circle cx=\"").skip(1) {
            let number = |text: &str| text.split('"').next().unwrap().parse::<f64>().unwrap();
            let (x, y) = (number(part), number(part.split("cy=\"").nth(1).unwrap()));
            let x = x % PANEL;
            assert!(MARGIN.0 < x && x < PANEL - MARGIN.2, "{x}");
            assert!(HEAD + MARGIN.1 < y && y < HEAD + MARGIN.1 + FRAME, "{y}");
        }
        // Too far away to be drawn, and said all the same.
        let far = svg(&plot(Some(0.1))).unwrap();
        assert!(!far.contains(">before</text>") && far.contains("before training 0.1000"));
        let nothing = Plot {
            panels: vec![panel(&[])],
            ..plot(None)
        };
        assert_eq!(svg(&nothing), None);
    }
}
