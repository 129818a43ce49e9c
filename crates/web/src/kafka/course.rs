//! How a consumer went: what was done, and how far it was behind, over the last ten minutes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use longshore_charts::{OverTime, Series, Tone};

/// Time that one point stands for, and most points.
const STEP: Duration = Duration::from_secs(5);
const POINTS: usize = 120;
/// Time over which a rate is taken.
const METER: Duration = Duration::from_secs(5);

/// Counts at one look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Records that are done and did not fail, and those that failed for good.
    pub(super) good: u64,
    pub(super) bad: u64,
    pub(super) lag: Option<u64>,
}

/// What happened in one step.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    good: u64,
    bad: u64,
    lag: u64,
}

/// Counts of the last ten minutes.
#[derive(Debug, Default)]
pub(super) struct Course {
    points: VecDeque<Point>,
    /// The last look of the step before, and when it was.
    step: Option<(Instant, Tally)>,
    looks: VecDeque<(Instant, u64)>,
}

impl Course {
    /// Takes in a look. Returns records done per second.
    pub(super) fn note(&mut self, now: Instant, tally: Tally) -> f64 {
        let (began, before) = *self.step.get_or_insert((now, tally));
        // A look that came late stands for the steps that it missed.
        let steps = (now.duration_since(began).as_secs_f64() / STEP.as_secs_f64()) as u32;
        if steps > 0 {
            let share = |now: u64, before: u64| now.saturating_sub(before) / u64::from(steps);
            let lag = tally.lag.or_else(|| self.points.back().map(|point| point.lag)).unwrap_or(0);
            let point = Point { good: share(tally.good, before.good), bad: share(tally.bad, before.bad), lag };
            (0..steps.min(POINTS as u32)).for_each(|_| self.points.push_back(point));
            while self.points.len() > POINTS {
                self.points.pop_front();
            }
            self.step = Some((began + STEP * steps, tally));
        }
        let ended = tally.good + tally.bad;
        self.looks.push_back((now, ended));
        while self.looks.len() > 2 && now.duration_since(self.looks[0].0) > METER {
            self.looks.pop_front();
        }
        let (first, then) = self.looks[0];
        let seconds = now.duration_since(first).as_secs_f64();
        if seconds > 0.0 { ended.saturating_sub(then) as f64 / seconds } else { 0.0 }
    }

    /// Draws throughput and lag; nothing before the first step is over.
    pub(super) fn charts(&self) -> Vec<String> {
        if self.points.is_empty() {
            return Vec::new();
        }
        let seconds = STEP.as_secs_f64();
        let series = |name: &str, tone, of: &dyn Fn(&Point) -> f64| Series {
            name: name.to_owned(),
            tone,
            values: self.points.iter().map(of).collect(),
        };
        let chart = |title: &str, axis: &str, series: Vec<Series>| OverTime {
            title: title.to_owned(),
            axis: axis.to_owned(),
            series,
            bucket: seconds,
            span: seconds * self.points.len() as f64,
            ends_now: true,
            limit: None,
        };
        let ended = vec![
            series("ok", Tone::Good, &|point| point.good as f64 / seconds),
            series("failed", Tone::Bad, &|point| point.bad as f64 / seconds),
        ];
        let lag = vec![series("lag", Tone::Plain, &|point| point.lag as f64)];
        vec![chart("Throughput", "records per second", ended).svg(), chart("Lag", "records behind", lag).svg()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_has_a_point_for_each_step_and_forgets_the_oldest() {
        let (mut course, start) = (Course::default(), Instant::now());
        let at = |second: u64, done: u64| {
            (start + Duration::from_secs(second), Tally { good: done - done / 10, bad: done / 10, lag: Some(1_000 - done) })
        };
        let mut rate = 0.0;
        for second in 0..=12 {
            let (now, tally) = at(second, second * 20);
            rate = course.note(now, tally);
        }
        assert!((rate - 20.0).abs() < 0.1, "{rate}");
        let points: Vec<_> = course.points.iter().map(|point| (point.good, point.bad, point.lag)).collect();
        assert_eq!(points, [(90, 10, 900), (90, 10, 800)]);
        assert!(course.charts().iter().all(|chart| chart.contains(">ago</text>")), "{:?}", course.charts());
        // Nobody answered for a minute, and then for an hour.
        let (now, tally) = at(72, 960);
        course.note(now, tally);
        assert_eq!((course.points.len(), course.points[13].good), (14, 57));
        let (now, tally) = at(3_700, 990);
        course.note(now, tally);
        assert_eq!(course.points.len(), POINTS);
    }

    #[test]
    fn a_lag_that_nobody_knows_is_the_last_one_that_was_known() {
        let (mut course, start) = (Course::default(), Instant::now());
        for (second, lag) in [(0, None), (5, Some(7)), (10, None)] {
            course.note(start + Duration::from_secs(second), Tally { good: 0, bad: 0, lag });
        }
        assert_eq!(course.points.iter().map(|point| point.lag).collect::<Vec<_>>(), [7, 7]);
    }
}
