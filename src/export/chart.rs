//! Charts of a few series: characters for a terminal, inline SVG for a page. Belongs here: drawing, and nothing about plans.
//!
//! Both axes start at zero, so that lengths compare; nothing is said by colour alone.

use super::html::{COLORS, escape};
use std::fmt::Write as _;

/// A value at a place, with the words that name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// What it is.
    pub label: String,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What they have in common; empty when the chart has one series.
    pub name: String,
    /// The character that marks them; without one every point gets its own letter, explained below the chart.
    pub mark: Option<char>,
    /// Whether neighbours are joined by a line, in the order given.
    pub joined: bool,
    /// The points.
    pub points: Vec<Point>,
}

/// A chart: what is across, what is up, and the series.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The axis across, with its unit.
    pub x: String,
    /// The axis up, with its unit.
    pub y: String,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// Letters of single points; further ones share the last.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ*";
/// Rows of a terminal chart.
const ROWS: usize = 16;
/// The narrowest and widest chart, in characters.
const WIDTHS: (usize, usize) = (40, 120);

impl Chart {
    /// The largest values across and up of what can be drawn; nothing when there is nothing to draw.
    fn most(&self) -> Option<(f64, f64)> {
        let (mut across, mut up, mut any) = (0.0_f64, 0.0_f64, false);
        for point in self.series.iter().flat_map(|s| &s.points).filter(|p| drawable(p)) {
            (across, up, any) = (across.max(point.x), up.max(point.y), true);
        }
        (any && across > 0.0 && up > 0.0).then_some((across, up))
    }

    /// The chart in at most `width` columns of ASCII, with a key under it; empty when no point has positive, finite values.
    #[must_use]
    pub fn text(&self, width: usize) -> String {
        let Some((across, up)) = self.most() else { return String::new() };
        let ticks: Vec<String> = (0..ROWS).map(|row| tick(up, ROWS - 1 - row, ROWS - 1)).collect();
        let margin = ticks.iter().map(String::len).max().unwrap_or(0);
        let columns = width.clamp(WIDTHS.0, WIDTHS.1) - margin - 3;
        let mut grid = vec![vec![' '; columns]; ROWS];
        let place = |p: &Point| {
            let column = (p.x / across * (columns - 1) as f64).round() as usize;
            let row = (p.y / up * (ROWS - 1) as f64).round() as usize;
            (column.min(columns - 1), ROWS - 1 - row.min(ROWS - 1))
        };
        for series in self.series.iter().filter(|s| s.joined) {
            let points: Vec<&Point> = series.points.iter().filter(|p| drawable(p)).collect();
            for pair in points.windows(2) {
                line(&mut grid, place(pair[0]), place(pair[1]));
            }
        }
        // What comes first is drawn last, and so on top.
        for series in self.series.iter().rev() {
            for (i, point) in series.points.iter().enumerate().rev().filter(|(_, p)| drawable(p)) {
                let (column, row) = place(point);
                grid[row][column] = series.mark.unwrap_or_else(|| letter(i));
            }
        }
        let mut out = format!("{}\n", self.y);
        for (row, cells) in grid.iter().enumerate() {
            let label = if row % 3 == 0 { ticks[row].as_str() } else { "" };
            let cells: String = cells.iter().collect();
            let _ = writeln!(out, "{label:>margin$} |{}", cells.trim_end());
        }
        let _ = writeln!(out, "{:>margin$} +{}", "", "-".repeat(columns));
        let (middle, right) = (tick(across, 1, 2), tick(across, 1, 1));
        let gap = (columns / 2).saturating_sub(1 + middle.len() / 2);
        let mut scale = format!("{:>margin$}  0{:gap$}{middle}", "", "");
        let rest = (margin + 2 + columns).saturating_sub(scale.len() + right.len());
        let _ = write!(scale, "{:rest$}{right}", "");
        let _ = writeln!(out, "{scale}");
        let _ = writeln!(out, "{:>width$}", self.x, width = margin + 2 + columns);
        self.key(&mut out);
        out
    }

    /// What the marks mean.
    fn key(&self, out: &mut String) {
        for series in &self.series {
            match series.mark {
                Some(mark) if !series.name.is_empty() => {
                    let _ = writeln!(out, "  {mark}  {}", series.name);
                }
                Some(_) => {}
                None => {
                    for (i, p) in series.points.iter().enumerate().filter(|(_, p)| drawable(p)) {
                        let _ = writeln!(out, "  {}  {}  ({}, {})", letter(i), p.label, short(p.x), short(p.y));
                    }
                }
            }
        }
    }

    /// The chart as an `<svg>` element; empty when no point has positive, finite values.
    #[must_use]
    pub fn svg(&self) -> String {
        let Some((across, up)) = self.most() else { return String::new() };
        let (left, top, wide, high) = (70.0, 16.0, 640.0, 300.0);
        let height = 372 + 18 * self.series.iter().filter(|s| !s.name.is_empty()).count();
        let mut out = format!("<svg width=\"740\" height=\"{height}\" role=\"img\">");
        for i in 0..=4 {
            let (x, y) = (left + wide * f64::from(i) / 4.0, top + high * (1.0 - f64::from(i) / 4.0));
            let _ = write!(
                out,
                "<path d=\"M{left} {y:.1}H{}\" stroke=\"#d8dee4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                left + wide,
                left - 6.0,
                y + 4.0,
                tick(up, i as usize, 4),
                top + high + 18.0,
                tick(across, i as usize, 4)
            );
        }
        let _ = write!(
            out,
            "<path d=\"M{left} {top}V{}H{}\" fill=\"none\" stroke=\"#57606a\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"end\">{}</text>",
            top + high,
            left + wide,
            left + wide,
            top + high + 36.0,
            escape(&self.x),
            top,
            escape(&self.y)
        );
        let at = |p: &Point| (left + p.x / across * wide, top + high * (1.0 - p.y / up));
        for (s, series) in self.series.iter().enumerate() {
            let color = COLORS[s % COLORS.len()];
            let points: Vec<&Point> = series.points.iter().filter(|p| drawable(p)).collect();
            if series.joined && points.len() > 1 {
                let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", at(p).0, at(p).1)).collect();
                let _ = write!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\"/>", path.join(" "));
            }
            for p in points {
                let (x, y) = at(p);
                let _ = write!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"><title>{}: {}, {}</title></circle>",
                    escape(&p.label),
                    short(p.x),
                    short(p.y)
                );
            }
            if !series.name.is_empty() {
                let y = 372 + 18 * s;
                let _ = write!(
                    out,
                    "<circle cx=\"{}\" cy=\"{}\" r=\"4\" fill=\"{color}\"/><text x=\"{}\" y=\"{y}\">{}</text>",
                    left + 6.0,
                    y - 4,
                    left + 16.0,
                    escape(&series.name)
                );
            }
        }
        out.push_str("</svg>\n");
        out
    }
}

fn drawable(p: &Point) -> bool {
    p.x.is_finite() && p.y.is_finite() && p.x >= 0.0 && p.y >= 0.0
}

fn letter(at: usize) -> char {
    char::from(LETTERS[at.min(LETTERS.len() - 1)])
}

/// `step` of `steps` on the way to `most`.
fn tick(most: f64, step: usize, steps: usize) -> String {
    short(most * step as f64 / steps as f64)
}

/// A number in about three digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 || value.fract().abs() < 1e-9 {
        super::grouped(value)
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// A dotted line between two cells.
fn line(grid: &mut [Vec<char>], from: (usize, usize), to: (usize, usize)) {
    let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
    let between = |a: usize, b: usize, i: usize| {
        let share = i as f64 / steps as f64;
        (a as f64 + (b as f64 - a as f64) * share).round() as usize
    };
    for i in 0..=steps {
        grid[between(from.1, to.1, i)][between(from.0, to.0, i)] = '.';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        let points = points.iter().map(|(x, y)| Point { x: *x, y: *y, label: format!("at <{x}>") }).collect();
        let series = Series { name: String::new(), mark: None, joined: true, points };
        Chart { x: "across (s)".into(), y: "up (GiB)".into(), series: vec![series] }
    }

    #[test]
    fn a_chart_keeps_to_its_width() {
        let chart = chart(&[(1.0, 900.0), (50.0, 400.0), (123_456.0, 12.0)]);
        for width in [0, 40, 72, 100, 500] {
            let text = chart.text(width);
            let plot = text.lines().filter(|l| !l.starts_with("  ")).map(str::len).max().expect("at least one line");
            assert!(plot <= width.clamp(40, 120), "{width}: {plot}\n{text}");
            assert!(text.is_ascii() && text.contains("a  at <1>  (1, 900)"), "{text}");
        }
        assert_eq!(chart.text(60).lines().filter(|l| l.contains('|')).count(), ROWS);
    }

    #[test]
    fn nothing_to_draw_draws_nothing() {
        for points in [&[][..], &[(0.0, 0.0)], &[(f64::NAN, 1.0)], &[(f64::INFINITY, 1.0)], &[(-1.0, 2.0)]] {
            assert_eq!((chart(points).text(80), chart(points).svg()), (String::new(), String::new()), "{points:?}");
        }
    }

    #[test]
    fn svg_escapes_and_closes() {
        let svg = chart(&[(1.0, 2.0), (3.0, 1.0)]).svg();
        assert!(svg.contains("at &lt;1&gt;: 1, 2") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
