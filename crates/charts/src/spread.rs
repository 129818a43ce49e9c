//! How times are spread: a histogram whose axis has equal factors.

use crate::{
    frame::{BOTTOM, Frame, HEIGHT, LEFT, RIGHT, TOP, Tone, height_of},
    scale::{log_ticks, show_number, show_time, value_ticks},
};

/// Spread of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// Its title.
    pub title: String,
    /// The name of what is counted.
    pub axis: String,
    /// The bins, from the shortest times to the longest, one behind the other.
    pub bins: Vec<Bin>,
    /// Times that are marked, from the shortest: quantiles.
    pub marks: Vec<Mark>,
}

/// Number of times between two, in seconds; both are more than 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// The shortest.
    pub from: f64,
    /// The longest.
    pub to: f64,
    /// Number of these.
    pub count: u64,
}

/// A time with a name, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// Its name, with the time as it is to be read: `p50 12ms`.
    pub name: String,
    /// The time.
    pub at: f64,
}

impl Spread {
    /// Draws it.
    pub fn svg(&self) -> String {
        let most = self.bins.iter().map(|bin| bin.count).max().unwrap_or(0);
        let ticks = value_ticks(most as f64, true);
        let top = ticks.last().copied().unwrap_or(1.0);
        let (from, to) = match (self.bins.first(), self.bins.last()) {
            (Some(first), Some(last)) if first.from > 0.0 && last.to > first.from => (first.from, last.to),
            _ => (0.001, 1.0),
        };
        let marks: Vec<&str> = self.marks.iter().map(|mark| mark.name.as_str()).collect();
        let mut frame = Frame::new(HEIGHT, &self.title, &marks.join(", "));
        frame.values(&ticks, &self.axis);
        let across = |time: f64| LEFT + (RIGHT - LEFT) * ((time.max(1e-9) / from).ln() / (to / from).ln()).clamp(0.0, 1.0);
        for bin in self.bins.iter().filter(|bin| bin.count > 0) {
            let (x, end, y) = (across(bin.from), across(bin.to), height_of(bin.count as f64, top));
            let says = format!("{} to {}: {}", show_time(bin.from), show_time(bin.to), show_number(bin.count as f64));
            // A count that is small beside the highest is still to be seen.
            let height = (BOTTOM - y).max(1.0);
            frame.bar(Tone::Plain, (x, BOTTOM - height), ((end - x - 0.6).max(0.6), height), &says);
        }
        // Named above the plot, in their order: among the bars the names would hide each other.
        frame.text(RIGHT, 32.0, "", "end", &marks.join("   "));
        for mark in &self.marks {
            let x = across(mark.at);
            frame.line("mark", (x, TOP), (x, BOTTOM));
        }
        let labels: Vec<_> = log_ticks(from, to).into_iter().map(|tick| (across(tick), show_time(tick))).collect();
        frame.level(&labels, "run time of an attempt, logarithmic");
        frame.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_factor_is_as_wide_as_the_next() {
        let bin = |from: f64, count| Bin { from, to: from * 10.0, count };
        let spread = Spread {
            bins: vec![bin(0.001, 1), bin(0.01, 4), bin(0.1, 0)],
            marks: vec![Mark { name: "p50 10ms".to_owned(), at: 0.01 }],
            ..Spread::default()
        };
        let svg = spread.svg();
        assert!(
            svg.contains("<rect class=\"plain\" x=\"175.3\" y=\"46\" width=\"124.7\" height=\"150\"><title>10ms to 100ms: 4</title>"),
            "{svg}"
        );
        assert!(svg.contains("<line class=\"mark\" x1=\"175.3\""), "{svg}");
        assert_eq!(svg.matches("<rect class=\"plain\"").count(), 2);
        assert!(!Spread::default().svg().contains("NaN"));
    }
}
