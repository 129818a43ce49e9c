//! How times are spread, over time: cells, the darker the more.

use std::fmt::Write as _;

use crate::{
    frame::{BOTTOM, Frame, HEIGHT, LEFT, RIGHT, TOP, short},
    scale::{show_number, show_time, time_ticks},
};

/// Shades that are told apart.
const SHADES: u64 = 5;
/// Most names of rows.
const NAMES: usize = 6;

/// Numbers of times over time: columns are stretches of time, rows are lengths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMap {
    /// Its title.
    pub title: String,
    /// The name of what is counted.
    pub axis: String,
    /// Seconds that a column stands for.
    pub column: f64,
    /// Seconds that all columns stand for; the last one may stand for less than the others.
    pub span: f64,
    /// The rows, from the shortest times, one behind the other.
    pub rows: Vec<HeatMapRow>,
}

/// A row of cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMapRow {
    /// The shortest time, in seconds.
    pub from: f64,
    /// The longest.
    pub to: f64,
    /// Number of these in each column; 0 where it ends before others.
    pub counts: Vec<u64>,
}

impl HeatMap {
    /// Draws it.
    #[must_use]
    pub fn svg(&self) -> String {
        let most = self.rows.iter().flat_map(|row| &row.counts).copied().max().unwrap_or(0);
        let says = match (self.rows.first(), self.rows.last()) {
            (Some(first), Some(last)) if most > 0 => {
                let (from, to) = (show_time(first.from), show_time(last.to));
                format!("from {from} to {to}, at most {} {} in a cell", show_number(most as f64), self.axis)
            }
            _ => "nothing yet".to_owned(),
        };
        let mut frame = Frame::new(HEIGHT, &self.title, &says);
        let span = if self.span > 0.0 { self.span } else { 1.0 };
        let across = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds / span).clamp(0.0, 1.0);
        let high = (BOTTOM - TOP) / self.rows.len().max(1) as f64;
        // A path for each shade: a rectangle for each cell would be ten times as long.
        let mut shades = vec![String::new(); SHADES as usize];
        for (place, row) in self.rows.iter().enumerate() {
            let y = BOTTOM - (place + 1) as f64 * high;
            for (column, count) in row.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let (left, right) = (across(column as f64 * self.column), across((column + 1) as f64 * self.column));
                let path = &mut shades[shade(*count, most)];
                // Writing to a String cannot fail.
                let _ = write!(path, "M{} {}H{}V{}H{}Z", short(left), short(y), short(right), short(y + high), short(left));
            }
        }
        for (place, path) in shades.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            frame.shade((place + 1) as f64 / SHADES as f64, path);
        }
        let every = self.rows.len().div_ceil(NAMES).max(1);
        for (place, row) in self.rows.iter().enumerate().step_by(every) {
            frame.text(LEFT - 6.0, BOTTOM - place as f64 * high + 4.0, "faint", "end", &show_time(row.from));
        }
        frame.text(0.0, 32.0, "faint", "start", "run time, logarithmic");
        if most > 0 {
            frame.text(RIGHT, 32.0, "faint", "end", &format!("most: {} {} in a cell", show_number(most as f64), self.axis));
        }
        let labels: Vec<_> = time_ticks(span).into_iter().map(|tick| (across(tick), show_time(tick))).collect();
        frame.level(&labels, "time since the start");
        frame.end()
    }
}

/// Returns the shade of a cell: each has a count some times that of the one before, so that few are
/// told from none beside many.
fn shade(count: u64, most: u64) -> usize {
    let share = (1.0 + count as f64).ln() / (1.0 + most as f64).ln();
    ((share * SHADES as f64).ceil() as usize).clamp(1, SHADES as usize) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> HeatMap {
        let row = |from: f64, counts: &[u64]| HeatMapRow { from, to: from * 2.0, counts: counts.to_vec() };
        HeatMap {
            title: "Latency <b>".to_owned(),
            axis: "attempts".to_owned(),
            column: 4.0,
            span: 8.0,
            rows: vec![row(0.001, &[1, 0]), row(0.002, &[0, 100])],
        }
    }

    #[test]
    fn each_cell_stands_where_its_time_is_and_the_most_are_the_darkest() {
        let svg = chart().svg();
        // Two columns of 188 and two rows of 75.
        assert!(svg.contains("<path class=\"plain\" fill-opacity=\"0.2\" d=\"M50 121H238V196H50Z\"/>"), "{svg}");
        assert!(svg.contains("<path class=\"plain\" fill-opacity=\"1\" d=\"M238 46H426V121H238Z\"/>"), "{svg}");
        assert!(svg.contains("from 1ms to 4ms, at most 100 attempts in a cell"), "{svg}");
        assert!(svg.contains("Latency &lt;b&gt;") && !svg.contains("style="), "{svg}");
    }

    #[test]
    fn one_beside_many_is_still_to_be_seen() {
        assert_eq!([1, 2, 10, 1_000, 1_000_000].map(|count| shade(count, 1_000_000)), [0, 0, 0, 2, 4]);
        assert_eq!(shade(1, 1), 4);
    }

    #[test]
    fn a_chart_of_nothing_is_a_chart() {
        let svg = HeatMap::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }
}
