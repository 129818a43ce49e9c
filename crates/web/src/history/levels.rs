//! How long queues were over the last ten minutes, and how old their oldest message: in memory,
//! bounded in queues. A day of it stands in the history, where there is one
//! (`history/level_rows.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use longshore_charts::{OverTime, Series, Tone};
use longshore_ops::queues::QueueInfo;
use serde::Serialize;

use super::traffic::{ChartSpan, POINTS};

/// Most queues that are remembered: beyond, the shortest are left out.
pub(crate) const MOST_QUEUES: usize = 500;
/// Longest time for which a level holds until somebody looks again, in seconds. While nobody does,
/// the reader looks about once a minute.
const HOLDS: f64 = 150.0;

/// Level of a queue in one span of time: the highest that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct QueueLevel {
    /// Messages that waited.
    pub(crate) waiting: u64,
    /// Age of the oldest of them, in seconds; where nothing waited it is 0.
    pub(crate) oldest_seconds: Option<f64>,
}

impl QueueLevel {
    /// Returns how a queue stands.
    pub(crate) fn of(queue: &QueueInfo) -> Self {
        let oldest = queue.oldest.map(|age| age.as_secs_f64());
        Self { waiting: queue.waiting, oldest_seconds: oldest.or((queue.waiting == 0).then_some(0.0)) }
    }

    /// Returns the higher of two.
    fn or_higher(self, other: Self) -> Self {
        let oldest = [self.oldest_seconds, other.oldest_seconds].into_iter().flatten().reduce(f64::max);
        Self { waiting: self.waiting.max(other.waiting), oldest_seconds: oldest }
    }
}

/// Returns the queues that are remembered: the longest of them where there are very many.
pub(crate) fn longest(queues: &[QueueInfo]) -> Vec<&QueueInfo> {
    let mut queues: Vec<&QueueInfo> = queues.iter().collect();
    if queues.len() > MOST_QUEUES {
        queues.sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.name.cmp(&b.name)));
        queues.truncate(MOST_QUEUES);
    }
    queues
}

/// Levels of queues over the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct QueueLevels(Mutex<BTreeMap<String, VecDeque<(i64, QueueLevel)>>>);

impl QueueLevels {
    /// Takes in a look at all queues, at a time in milliseconds since 1970.
    pub(crate) fn note(&self, queues: &[QueueInfo], now: i64) {
        let place = place_of(ChartSpan::TenMinutes, now);
        let mut levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is older than the chart goes, and what lies ahead because the clock was set back.
        levels.retain(|_, points| {
            points.retain(|(at, _)| (place - POINTS + 1..=place).contains(at));
            !points.is_empty()
        });
        for queue in longest(queues) {
            let level = QueueLevel::of(queue);
            if levels.len() >= MOST_QUEUES && !levels.contains_key(&queue.name) {
                continue;
            }
            let points = levels.entry(queue.name.clone()).or_default();
            match points.back_mut() {
                Some((at, before)) if *at == place => *before = before.or_higher(level),
                _ => points.push_back((place, level)),
            }
        }
    }

    /// Returns the points of a queue's chart, the oldest first; `None` where nobody looked.
    pub(crate) fn points(&self, queue: &str, now: i64) -> Vec<Option<QueueLevel>> {
        let levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points = levels.get(queue).into_iter().flatten().copied();
        held(ChartSpan::TenMinutes, points, now)
    }
}

/// Returns the place of a moment among the points of a chart.
pub(crate) fn place_of(span: ChartSpan, now: i64) -> i64 {
    now.div_euclid(1_000).div_euclid(span.seconds())
}

/// Puts levels at their places; between two looks the last one holds, for a while.
pub(crate) fn held(span: ChartSpan, levels: impl Iterator<Item = (i64, QueueLevel)>, now: i64) -> Vec<Option<QueueLevel>> {
    let first = place_of(span, now) - POINTS + 1;
    let mut seen = vec![None; usize::try_from(POINTS).unwrap_or_default()];
    for (at, level) in levels {
        if let Some(point) = usize::try_from(at - first).ok().and_then(|at| seen.get_mut(at)) {
            *point = Some(level);
        }
    }
    let most = (HOLDS / span.seconds() as f64).ceil() as usize;
    let mut last: Option<(usize, QueueLevel)> = None;
    let hold = |(place, point): (usize, Option<QueueLevel>)| {
        last = point.map(|level| (place, level)).or(last);
        last.filter(|(seen, _)| place - seen <= most).map(|(_, level)| level)
    };
    seen.into_iter().enumerate().map(hold).collect()
}

/// Draws how long a queue was and how old its oldest message; `None` of what is not known at all.
pub(crate) fn charts(points: &[Option<QueueLevel>], span: ChartSpan) -> [Option<String>; 2] {
    let seconds = span.seconds() as f64;
    let draw = |title: &str, axis: &str, tone, of: &dyn Fn(&QueueLevel) -> Option<f64>| {
        let values: Vec<f64> = points.iter().map(|point| point.as_ref().and_then(of).unwrap_or(f64::NAN)).collect();
        let is_known = values.iter().any(|value| !value.is_nan());
        let (title, axis) = (title.to_owned(), axis.to_owned());
        let series = vec![Series { name: title.clone(), tone, values }];
        let span = seconds * points.len() as f64;
        is_known.then(|| OverTime { title, axis, series, bucket: seconds, span, ends_now: true, limit: None }.svg())
    };
    [
        draw("Waiting", "messages", Tone::Plain, &|point| Some(point.waiting as f64)),
        draw("Age of the oldest", "seconds", Tone::Bad, &|point| point.oldest_seconds),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2027, at the beginning of a point.
    const NOW: i64 = 1_800_000_000_000;

    fn queue(name: &str, waiting: u64, oldest: Option<u64>) -> QueueInfo {
        let mut queue = QueueInfo::default();
        (queue.name, queue.waiting, queue.oldest) = (name.to_owned(), waiting, oldest.map(Duration::from_secs));
        queue
    }

    #[test]
    fn the_highest_of_each_span_is_kept_and_holds_until_somebody_looks_again() {
        let levels = QueueLevels::default();
        for (ms, waiting, oldest) in [(0, 3, Some(1)), (1_000, 9, Some(2)), (4_999, 2, Some(7)), (60_000, 0, None)] {
            levels.note(&[queue("q", waiting, oldest)], NOW + ms);
        }
        let points = levels.points("q", NOW + 60_000);
        let level = |waiting, oldest| Some(QueueLevel { waiting, oldest_seconds: Some(oldest) });
        assert_eq!(points[points.len() - 14..].to_vec(), [vec![None], vec![level(9, 7.0); 12], vec![level(0, 0.0)]].concat());
        // After a while nobody knows any more, and then it is forgotten.
        assert_eq!(levels.points("q", NOW + 240_000).last(), Some(&None));
        assert_eq!(levels.points("none", NOW), vec![None; 120]);
        levels.note(&[], NOW + 700_000);
        assert!(levels.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_flood_of_queues_is_bounded_and_the_longest_are_kept() {
        let levels = QueueLevels::default();
        let many: Vec<QueueInfo> = (0..2_000).map(|n| queue(&format!("q{n}"), n, None)).collect();
        for second in 0..1_000 {
            levels.note(&many, NOW + second * 1_000);
        }
        let known = levels.0.lock().unwrap();
        assert_eq!((known.len(), known.contains_key("q1999"), known.contains_key("q0")), (MOST_QUEUES, true, false));
        assert!(known.values().all(|points| points.len() <= 120));
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_points_that_lie_ahead() {
        let levels = QueueLevels::default();
        levels.note(&[queue("q", 9, None)], NOW + 7_200_000);
        levels.note(&[queue("q", 1, None)], NOW);
        assert_eq!(levels.points("q", NOW + 7_200_000).iter().flatten().count(), 0);
        assert_eq!(levels.points("q", NOW).last().unwrap().unwrap().waiting, 1);
    }

    #[test]
    fn a_chart_is_drawn_of_what_is_known() {
        let mut points = vec![None; 120];
        assert_eq!(charts(&points, ChartSpan::Day), [None, None]);
        points[7] = Some(QueueLevel { waiting: 4, oldest_seconds: None });
        let [depth, age] = charts(&points, ChartSpan::TenMinutes);
        assert!(depth.unwrap().contains("at most 4 messages in 10m") && age.is_none());
    }
}
