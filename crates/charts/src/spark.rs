//! Values over time in a line of text's height: without axes, for a glance.

use std::fmt::Write as _;

use crate::{
    escape::escape,
    frame::{Tone, short},
    scale::show_number,
};

/// Size in the chart's own units.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;

/// Values over time, small.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spark {
    /// Text for who does not see it: `running, the last ten minutes`.
    pub title: String,
    /// Its colour.
    pub tone: Tone,
    /// The values, the oldest first; `None` where nothing is known.
    pub values: Vec<Option<f64>>,
}

impl Spark {
    /// Draws it.
    pub fn svg(&self) -> String {
        let known = || self.values.iter().flatten().copied().filter(|value| value.is_finite());
        let highest = known().fold(0.0, f64::max);
        let says = match known().next_back() {
            Some(last) => format!("at most {}, now {}", show_number(highest), show_number(last)),
            None => "nothing is known".to_owned(),
        };
        let title = escape(&self.title);
        let mut svg = format!(
            "<svg class=\"chart spark\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}: {}\" \
             preserveAspectRatio=\"none\" xmlns=\"http://www.w3.org/2000/svg\">",
            escape(&says)
        );
        let step = WIDTH / self.values.len().max(1) as f64;
        let top = if highest > 0.0 { highest } else { 1.0 };
        for (first, run) in runs(&self.values) {
            let _ = write!(svg, "<path class=\"{}\" d=\"M{} {HEIGHT}", self.tone.class(), short(first as f64 * step));
            for (place, value) in run.iter().enumerate() {
                let (left, right) = ((first + place) as f64 * step, (first + place + 1) as f64 * step);
                // What is more than nothing can be seen.
                let height = if *value > 0.0 { (value / top * (HEIGHT - 1.0)).max(1.0) } else { 0.0 };
                let y = short(HEIGHT - height);
                let _ = write!(svg, "L{} {y}L{} {y}", short(left), short(right));
            }
            let _ = write!(svg, "L{} {HEIGHT}Z\"/>", short((first + run.len()) as f64 * step));
        }
        svg.push_str("</svg>");
        svg
    }
}

/// Returns the stretches in which values are known: where each begins, and its values.
fn runs(values: &[Option<f64>]) -> Vec<(usize, Vec<f64>)> {
    let mut runs: Vec<(usize, Vec<f64>)> = Vec::new();
    for (place, value) in values.iter().enumerate() {
        let Some(value) = value.filter(|value| value.is_finite()) else { continue };
        match runs.last_mut() {
            Some((first, run)) if *first + run.len() == place => run.push(value),
            _ => runs.push((place, vec![value])),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_gap_and_not_nothing() {
        let values = vec![Some(0.0), Some(4.0), None, Some(2.0)];
        let svg = Spark { title: "a<b".to_owned(), tone: Tone::Good, values }.svg();
        assert_eq!(svg.matches("<path class=\"good\"").count(), 2, "{svg}");
        assert!(svg.contains("M0 24L0 24L30 24L30 1L60 1L60 24Z") && svg.contains("M90 24L90 12.5L120 12.5L120 24Z"), "{svg}");
        assert!(svg.contains("aria-label=\"a&lt;b: at most 4, now 2\"") && !svg.contains("style="), "{svg}");
    }

    #[test]
    fn nothing_and_nonsense_are_a_chart() {
        for values in [Vec::new(), vec![None; 120], vec![Some(f64::NAN)], vec![Some(0.0); 120]] {
            let svg = Spark { values, ..Spark::default() }.svg();
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        }
    }
}
