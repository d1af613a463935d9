//! Predicted against measured: error tables, order of layouts, residuals. Only statistics; `cli` prices the runs.

use crate::estimate::band::{FEWEST, Figure, Residual, Residuals, SHARE};
use itertools::Itertools as _;
use std::collections::BTreeMap;

/// A predicted figure beside a measured one.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The run.
    pub id: String,
    /// Where it is published.
    pub source: String,
    /// Runs of one group differ in their layout only; empty when there are none to compare with.
    pub group: String,
    /// What was measured.
    pub figure: Figure,
    /// Seconds, or bytes.
    pub measured: f64,
    /// The same, predicted.
    pub predicted: f64,
    /// What tables group it by, one value for each of [`Dimension::ALL`].
    pub labels: [String; 5],
    /// Kinds whose bands it belongs to.
    pub kinds: Vec<String>,
}

impl Point {
    /// Predicted over measured, less one.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

/// What error tables go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The publisher of a training run, the engine of a serving point.
    Source,
    /// The GPU.
    Gpu,
    /// The number format of products.
    Precision,
    /// Nodes of the run.
    Nodes,
    /// Dense models and mixtures of experts.
    Model,
}

impl Dimension {
    /// Every dimension, in the order of [`Point::labels`].
    pub const ALL: [Self; 5] = [Self::Source, Self::Gpu, Self::Precision, Self::Nodes, Self::Model];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Gpu => "GPU",
            Self::Precision => "precision",
            Self::Nodes => "nodes",
            Self::Model => "model",
        }
    }
}

/// A few words for a number of nodes.
#[must_use]
pub const fn nodes(count: u32) -> &'static str {
    match count {
        0 | 1 => "1 node",
        2..=8 => "2 to 8 nodes",
        9..=32 => "9 to 32 nodes",
        _ => "over 32 nodes",
    }
}

/// Errors of some points; all are shares of the measured figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many points.
    pub rows: usize,
    /// Mean of the absolute errors.
    pub mean: f64,
    /// Their median.
    pub median: f64,
    /// Nine of ten are no larger.
    pub p90: f64,
    /// The largest.
    pub worst: f64,
    /// Median of the signed errors.
    pub bias: f64,
}

/// The value that a share of the sorted values does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Errors of some points, of at least one.
#[must_use]
pub fn summary<'a>(points: impl IntoIterator<Item = &'a Point>) -> Summary {
    let signed: Vec<f64> = points.into_iter().map(Point::error).sorted_by(f64::total_cmp).collect();
    let absolute: Vec<f64> = signed.iter().map(|e| e.abs()).sorted_by(f64::total_cmp).collect();
    Summary {
        rows: signed.len(),
        mean: absolute.iter().sum::<f64>() / signed.len().max(1) as f64,
        median: quantile(&absolute, 0.5),
        p90: quantile(&absolute, 0.9),
        worst: quantile(&absolute, 1.0),
        bias: quantile(&signed, 0.5),
    }
}

/// One table: a line for each value of a dimension and each figure, in the order in which points come (sources) or by name.
#[must_use]
pub fn table(points: &[Point], by: Dimension) -> Vec<(String, Figure, Summary)> {
    let mut keys: Vec<(&str, Figure)> =
        points.iter().map(|p| (p.labels[by as usize].as_str(), p.figure)).unique().collect();
    if by != Dimension::Source {
        keys.sort_by(|a, b| (a.1, a.0).cmp(&(b.1, b.0)));
    }
    keys.into_iter()
        .map(|(label, figure)| {
            let of = points.iter().filter(|p| p.labels[by as usize] == label && p.figure == figure);
            (label.to_owned(), figure, summary(of))
        })
        .collect()
}

/// Whether the layouts of a source come in the right order.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The source.
    pub source: String,
    /// What was compared.
    pub figure: Figure,
    /// Groups of runs that differ in their layout only.
    pub groups: usize,
    /// Pairs inside them that are measurably apart.
    pub pairs: usize,
    /// Of these, how many are predicted in the right order.
    pub right: usize,
    /// Mean over groups of what the predicted best layout takes longer than the measured best, as a share.
    pub loss: f64,
    /// The same of the worst group.
    pub worst: f64,
}

/// Two runs closer than this are no pair: layouts measured twice differ by as much.
const APART: f64 = 0.05;

/// Fewest runs of a group whose order of training layouts is judged; a serving group is a pair or more at one load.
const GROUP: usize = 4;

/// The order of layouts, source by source, by step time and by time per output token.
#[must_use]
pub fn orders(points: &[Point]) -> Vec<Order> {
    let mut groups: BTreeMap<(Figure, &str, &str), Vec<&Point>> = BTreeMap::new();
    for p in points.iter().filter(|p| matches!(p.figure, Figure::StepTime | Figure::Tpot) && !p.group.is_empty()) {
        groups.entry((p.figure, p.labels[Dimension::Source as usize].as_str(), p.group.as_str())).or_default().push(p);
    }
    let mut out: Vec<Order> = Vec::new();
    for ((figure, source, _), runs) in groups {
        if runs.len() < if figure == Figure::StepTime { GROUP } else { 2 } {
            continue;
        }
        if out.last().is_none_or(|o| o.figure != figure || o.source != source) {
            out.push(Order { source: source.to_owned(), figure, groups: 0, pairs: 0, right: 0, loss: 0.0, worst: 0.0 });
        }
        let Some(order) = out.last_mut() else { continue };
        for [a, b] in runs.iter().array_combinations() {
            if (a.measured / b.measured - 1.0).abs() > APART {
                order.pairs += 1;
                order.right += usize::from((a.predicted < b.predicted) == (a.measured < b.measured));
            }
        }
        let best = runs.iter().map(|p| p.measured).fold(f64::INFINITY, f64::min);
        let chosen = runs.iter().min_by(|a, b| a.predicted.total_cmp(&b.predicted).then(a.id.cmp(&b.id)));
        let loss = chosen.map_or(0.0, |p| p.measured / best - 1.0);
        order.groups += 1;
        order.loss += loss;
        order.worst = order.worst.max(loss);
    }
    for order in &mut out {
        order.loss /= order.groups.max(1) as f64;
    }
    out
}

/// What bands are read from: for each kind with enough runs, how far off most of them were in parts of what was predicted, to a percent.
#[must_use]
pub fn residuals(points: &[Point]) -> Residuals {
    let mut off: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for p in points.iter().filter(|p| p.figure != Figure::PeakMemory) {
        for kind in &p.kinds {
            off.entry(kind).or_default().push((p.measured / p.predicted - 1.0).abs());
        }
    }
    let kept = off.into_iter().filter(|(_, values)| values.len() >= FEWEST);
    kept.map(|(kind, mut values)| {
        values.sort_by(f64::total_cmp);
        let rows = u32::try_from(values.len()).unwrap_or(u32::MAX);
        (kind.to_owned(), Residual { rows, off: (quantile(&values, SHARE) * 100.0).ceil() / 100.0 })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(id: &str, group: &str, measured: f64, predicted: f64) -> Point {
        let labels = ["s", "h100", "bf16", nodes(1), "dense"].map(str::to_owned);
        let kinds = vec!["step time".to_owned()];
        let (id, source, group) = (id.to_owned(), String::new(), group.to_owned());
        Point { id, source, group, figure: Figure::StepTime, measured, predicted, labels, kinds }
    }

    #[test]
    fn summaries_are_of_absolute_errors_and_bias_is_not() {
        let points = [point("a", "", 10.0, 9.0), point("b", "", 10.0, 12.0), point("c", "", 10.0, 10.5)];
        let s = summary(&points);
        assert_eq!(
            (s.rows, s.median, s.worst, s.bias),
            (3, summary(&points[..1]).worst, 12.0 / 10.0 - 1.0, 10.5 / 10.0 - 1.0)
        );
        assert!((s.mean - 0.35 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn orders_count_pairs_that_are_apart_and_what_the_first_choice_loses() {
        let points = [
            point("a", "g", 10.0, 9.0),
            point("b", "g", 10.2, 8.0),
            point("c", "g", 20.0, 7.0),
            point("d", "g", 30.0, 31.0),
            point("e", "alone", 1.0, 1.0),
        ];
        let order = orders(&points).remove(0);
        // Six pairs, one of them too close; c is put before a and b.
        assert_eq!((order.groups, order.pairs, order.right), (1, 5, 3));
        assert!((order.loss - 1.0).abs() < 1e-12 && (order.worst - 1.0).abs() < 1e-12);
    }

    #[test]
    fn residuals_need_enough_runs_and_are_shares_of_the_prediction() {
        let few: Vec<Point> = (0..FEWEST - 1).map(|i| point(&i.to_string(), "", 1.0, 2.0)).collect();
        assert!(residuals(&few).is_empty());
        let enough: Vec<Point> = (0..FEWEST).map(|i| point(&i.to_string(), "", 1.0, 2.0)).collect();
        let table = residuals(&enough);
        assert_eq!(table["step time"], Residual { rows: 12, off: 0.5 });
    }
}
