//! Values over time, one on the other.

use std::ops::Range;

use crate::{
    frame::{Frame, HEIGHT, LEFT, RIGHT, Tone, height_of},
    scale::{show_number, show_time, time_ticks, value_ticks},
};

/// A limit is drawn up to this multiple of the highest value.
const NEAR: f64 = 4.0;

/// Values over time: areas that stand one on the other, in steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OverTime {
    /// Its title.
    pub title: String,
    /// The name of what is measured, with its unit: `tasks per second`.
    pub axis: String,
    /// The areas, from the lowest.
    pub series: Vec<Series>,
    /// Seconds that one value stands for.
    pub bucket: f64,
    /// Seconds that all values stand for; the last one may stand for less or more than the others.
    pub span: f64,
    /// The last value is of now: the level axis counts back from it, and not from the start.
    pub ends_now: bool,
    /// A value that is not passed; drawn where it is not far above the others.
    pub limit: Option<Limit>,
}

/// One area.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its colour.
    pub tone: Tone,
    /// Its values; 0 where it ends before others. Where one is not a number nothing is known, and
    /// nothing is drawn.
    pub values: Vec<f64>,
}

/// A level line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
}

impl OverTime {
    /// Draws it.
    pub fn svg(&self) -> String {
        let count = self.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
        let value = |series: &Series, place: usize| series.values.get(place).copied().unwrap_or(0.0).max(0.0);
        let sums = |below: usize| -> Vec<f64> {
            (0..count).map(|place| self.series[..below].iter().map(|series| value(series, place)).sum()).collect()
        };
        let highest = sums(self.series.len()).into_iter().fold(0.0, f64::max);
        // One that is far away would press everything else to the ground.
        let limit = self.limit.as_ref().filter(|limit| limit.value <= highest * NEAR);
        let ticks = value_ticks(limit.map_or(highest, |limit| highest.max(limit.value)), false);
        let top = ticks.last().copied().unwrap_or(1.0);
        let says = format!("at most {} {} in {}", show_number(highest), self.axis, show_time(self.span));
        let mut frame = Frame::new(HEIGHT, &self.title, &says);
        frame.values(&ticks, &self.axis);
        let span = if self.span > 0.0 { self.span } else { 1.0 };
        let across = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds / span).clamp(0.0, 1.0);
        // The last value reaches to the end, wherever that is.
        let edge = |place: usize| if place >= count { RIGHT } else { across(place as f64 * self.bucket) };
        for (index, series) in self.series.iter().enumerate() {
            let (low, high) = (sums(index), sums(index + 1));
            let steps = |sums: &[f64], places: Range<usize>| -> Vec<(f64, f64)> {
                let step = |place: usize| [(edge(place), height_of(sums[place], top)), (edge(place + 1), height_of(sums[place], top))];
                places.flat_map(step).collect()
            };
            for places in known(&series.values, count) {
                let mut points = steps(&high, places.clone());
                points.extend(steps(&low, places.clone()).into_iter().rev());
                if places.into_iter().any(|place| value(series, place) > 0.0) {
                    frame.area(series.tone, &points);
                }
            }
        }
        if let Some(limit) = limit {
            let y = height_of(limit.value, top);
            frame.line("mark", (LEFT, y), (RIGHT, y));
            frame.text(RIGHT, y - 4.0, "", "end", &limit.name);
        }
        if self.series.len() > 1 {
            let names: Vec<_> = self.series.iter().map(|series| (series.name.as_str(), series.tone)).collect();
            frame.legend(&names);
        }
        let place = |tick: f64| across(if self.ends_now { span - tick } else { tick });
        let labels: Vec<_> = time_ticks(span).into_iter().map(|tick| (place(tick), show_time(tick))).collect();
        frame.level(&labels, if self.ends_now { "ago" } else { "time since the start" });
        frame.end()
    }
}

/// Returns the stretches of so many places in which something is known.
fn known(values: &[f64], count: usize) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for place in (0..count).filter(|place| values.get(*place).is_none_or(|value| !value.is_nan())) {
        match stretches.last_mut() {
            Some(last) if last.end == place => last.end = place + 1,
            _ => stretches.push(place..place + 1),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> OverTime {
        let series = |name: &str, tone, values: &[f64]| Series { name: name.to_owned(), tone, values: values.to_vec() };
        OverTime {
            title: "Throughput <b>".to_owned(),
            axis: "tasks per second".to_owned(),
            series: vec![series("ok", Tone::Good, &[10.0, 20.0]), series("failed", Tone::Bad, &[0.0, 10.0])],
            bucket: 4.0,
            span: 6.0,
            ends_now: false,
            limit: Some(Limit { name: "limit 40".to_owned(), value: 40.0 }),
        }
    }

    #[test]
    fn areas_stand_one_on_the_other_and_the_last_reaches_the_end() {
        let svg = chart().svg();
        // 40 is the top (y 46) and 0 the bottom (y 196), so 10 is 37.5 high;
        // 4 s of 6 are two thirds of 376.
        assert!(svg.contains("<path class=\"good\" d=\"M50 158.5L300.7 158.5L300.7 121L426 121L426 196"), "{svg}");
        assert!(svg.contains("<path class=\"bad\" d=\"M50 158.5L300.7 158.5L300.7 83.5L426 83.5"), "{svg}");
        assert!(svg.contains(">limit 40</text>") && svg.contains(">time since the start</text>"), "{svg}");
        assert!(svg.contains("Throughput &lt;b&gt;") && !svg.contains("style="), "{svg}");
    }

    #[test]
    fn a_limit_that_is_far_away_is_not_drawn() {
        let limit = Some(Limit { name: "limit 4000".to_owned(), value: 4_000.0 });
        let svg = OverTime { limit, ..chart() }.svg();
        assert!(!svg.contains("limit") && svg.contains(">30</text>"), "{svg}");
    }

    #[test]
    fn a_chart_that_ends_now_counts_back_from_it() {
        let svg = OverTime { ends_now: true, ..chart() }.svg();
        // Two seconds ago stand at two thirds of the width.
        assert!(
            svg.contains(">ago</text>") && svg.contains("<text class=\"faint\" x=\"300.7\" y=\"213\" text-anchor=\"middle\">2s</text>"),
            "{svg}"
        );
    }

    #[test]
    fn a_chart_of_nothing_is_a_chart() {
        let svg = OverTime::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_where_nothing_is_known() {
        let values = vec![1.0, 1.0, f64::NAN, 1.0, 0.0];
        let series = vec![Series { name: "waiting".to_owned(), tone: Tone::Plain, values }];
        let svg = OverTime { series, bucket: 1.0, span: 5.0, ..OverTime::default() }.svg();
        assert_eq!(svg.matches("<path").count(), 2, "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
