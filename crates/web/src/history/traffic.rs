//! Counts over time: what came in each span, and what ran and waited then.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::Serialize;

use crate::heard::HeardEvent;

/// Points of a chart.
pub(crate) const POINTS: i64 = 120;

/// Time that a chart shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChartSpan {
    /// Ten minutes, in points of five seconds.
    TenMinutes,
    /// A day, in points of twelve minutes.
    Day,
}

impl ChartSpan {
    pub(crate) const ALL: [Self; 2] = [Self::TenMinutes, Self::Day];

    /// Returns the seconds of one point.
    pub(crate) fn seconds(self) -> i64 {
        match self {
            Self::TenMinutes => 5,
            Self::Day => 720,
        }
    }
}

/// Counts of one span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct TrafficPoint {
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) started: i64,
    pub(crate) ok: i64,
    pub(crate) failed: i64,
    pub(crate) retried: i64,
    pub(crate) other: i64,
    /// Running times of those that succeeded, added up, in seconds.
    pub(crate) took: f64,
    pub(crate) left_out: i64,
    pub(crate) running: Option<i64>,
    pub(crate) waiting: Option<i64>,
    pub(crate) workers: Option<i64>,
}

/// Classes of running times for each factor of ten: a time is known within 8 %.
const CLASSES: f64 = 30.0;
/// Shortest and longest time that have a class of their own, in seconds: a microsecond, 11 days.
const SHORTEST: f64 = 1e-6;
const LONGEST: f64 = 1e6;

/// Returns the class of a running time in seconds. Pure.
pub(super) fn class_of(seconds: f64) -> i64 {
    ((seconds.clamp(SHORTEST, LONGEST) / SHORTEST).log10() * CLASSES).floor() as i64
}

/// Returns the middle of a class, in seconds. Pure.
fn middle(class: i64) -> f64 {
    SHORTEST * 10_f64.powf((class as f64 + 0.5) / CLASSES)
}

/// News since the last time that it was written.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// How many tasks took how long, by the second of arrival and class.
    took: BTreeMap<(i64, i64), i64>,
    /// By the second of arrival.
    points: BTreeMap<i64, TrafficPoint>,
    waiting: Option<i64>,
    left_out: i64,
    running: Option<i64>,
    workers: Option<i64>,
}

impl Traffic {
    /// Counts an event.
    pub(crate) fn event(&mut self, event: &HeardEvent) {
        let point = self.points.entry(event.heard_ms.div_euclid(1_000)).or_default();
        *match event.kind.as_str() {
            "task-sent" => &mut point.sent,
            "task-received" => &mut point.received,
            "task-started" => &mut point.started,
            "task-succeeded" => &mut point.ok,
            "task-failed" => &mut point.failed,
            "task-retried" => &mut point.retried,
            "task-revoked" | "task-rejected" => &mut point.other,
            _ => return,
        } += 1;
        point.took += event.runtime.unwrap_or(0.0);
        if let Some(took) = event.runtime.filter(|took| took.is_finite()) {
            *self.took.entry((event.heard_ms.div_euclid(1_000), class_of(took))).or_default() += 1;
        }
    }

    /// Notes how many messages wait in all queues.
    pub(crate) fn waiting(&mut self, count: u64) {
        self.waiting = Some(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts events that never came.
    pub(crate) fn left_out(&mut self, count: u64) {
        self.left_out = self.left_out.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes how many tasks run at how many workers.
    pub(crate) fn gauges(&mut self, running: i64, workers: usize) {
        (self.running, self.workers) = (Some(running), i64::try_from(workers).ok());
    }

    /// Writes all of it, and forgets what is older than any chart.
    pub(crate) fn write(&mut self, conn: &Connection, now: i64) -> rusqlite::Result<()> {
        let now = now.div_euclid(1_000);
        let point = self.points.entry(now).or_default();
        (point.left_out, point.running, point.waiting, point.workers) = (self.left_out, self.running, self.waiting, self.workers);
        for span in ChartSpan::ALL {
            let mut add = conn.prepare_cached(
                "INSERT INTO traffic(span, at, sent, received, started, ok, failed, retried, other, took, left_out, running, waiting, workers)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
                 ON CONFLICT(span, at) DO UPDATE SET sent = sent + excluded.sent, received = received + excluded.received,
                     started = started + excluded.started, ok = ok + excluded.ok, failed = failed + excluded.failed,
                     retried = retried + excluded.retried, other = other + excluded.other, took = took + excluded.took,
                     left_out = left_out + excluded.left_out, running = coalesce(excluded.running, running),
                     waiting = coalesce(excluded.waiting, waiting), workers = coalesce(excluded.workers, workers)",
            )?;
            let seconds = span.seconds();
            for (second, point) in &self.points {
                let TrafficPoint { sent, received, started, ok, failed, retried, other, took, left_out, running, waiting, workers } = point;
                add.execute(params![
                    seconds,
                    second.div_euclid(seconds),
                    sent,
                    received,
                    started,
                    ok,
                    failed,
                    retried,
                    other,
                    took,
                    left_out,
                    running,
                    waiting,
                    workers
                ])?;
            }
            let mut add = conn.prepare_cached(
                "INSERT INTO took(span, at, class, count) VALUES (?1, ?2, ?3, ?4) ON CONFLICT(span, at, class) DO UPDATE SET count = count + excluded.count",
            )?;
            for ((second, class), count) in &self.took {
                add.execute([seconds, second.div_euclid(seconds), *class, *count])?;
            }
            // A clock that was set back has left points that lie ahead.
            let place = now.div_euclid(seconds);
            for table in ["traffic", "took"] {
                let mut old = conn.prepare_cached(&format!("DELETE FROM {table} WHERE span = ?1 AND (at < ?2 OR at > ?3)"))?;
                old.execute([seconds, place - POINTS - 1, place + 1])?;
            }
        }
        Ok(())
    }

    /// Begins anew.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Reads the points of a chart, the oldest first. `None`: nothing is known of that time.
pub(crate) fn points(conn: &Connection, span: ChartSpan, now: i64) -> rusqlite::Result<Vec<Option<TrafficPoint>>> {
    let seconds = span.seconds();
    let last = now.div_euclid(1_000).div_euclid(seconds);
    let first = last - POINTS + 1;
    let mut read = conn.prepare_cached(
        "SELECT at, sent, received, started, ok, failed, retried, other, took, left_out, running, waiting, workers
         FROM traffic WHERE span = ?1 AND at BETWEEN ?2 AND ?3",
    )?;
    let mut points = vec![None; usize::try_from(POINTS).unwrap_or_default()];
    let mut rows = read.query([seconds, first, last])?;
    while let Some(row) = rows.next()? {
        let place = usize::try_from(row.get::<_, i64>(0)? - first).unwrap_or(usize::MAX);
        if let Some(point) = points.get_mut(place) {
            *point = Some(TrafficPoint {
                sent: row.get(1)?,
                received: row.get(2)?,
                started: row.get(3)?,
                ok: row.get(4)?,
                failed: row.get(5)?,
                retried: row.get(6)?,
                other: row.get(7)?,
                took: row.get(8)?,
                left_out: row.get(9)?,
                running: row.get(10)?,
                waiting: row.get(11)?,
                workers: row.get(12)?,
            });
        }
    }
    Ok(points)
}

/// Reads the running time in seconds that this part of the tasks of a chart did not exceed, within
/// 8 %. `None`: none has succeeded.
pub(crate) fn took(conn: &Connection, span: ChartSpan, now: i64, part: f64) -> rusqlite::Result<Option<f64>> {
    let seconds = span.seconds();
    let last = now.div_euclid(1_000).div_euclid(seconds);
    let mut read =
        conn.prepare_cached("SELECT class, sum(count) FROM took WHERE span = ?1 AND at BETWEEN ?2 AND ?3 GROUP BY class ORDER BY class")?;
    let rows = read.query_map([seconds, last - POINTS + 1, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(quantile(&rows.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?, part))
}

/// Returns the time in seconds that this part did not exceed, of classes with their counts, the
/// shortest first. Pure.
pub(super) fn quantile(classes: &[(i64, i64)], part: f64) -> Option<f64> {
    let wanted = classes.iter().map(|(_, count)| *count as f64).sum::<f64>() * part;
    let mut seen = 0.0;
    let found = classes.iter().find(|(_, count)| {
        seen += *count as f64;
        seen >= wanted
    });
    found.map(|(class, _)| middle(*class))
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    #[test]
    fn the_slowest_of_a_hundred_is_known_within_a_twelfth() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&[file::SCHEMA, file::TOOK].concat()).unwrap();
        let now = 1_800_000_000_000;
        let p99 = || took(&conn, ChartSpan::TenMinutes, now, 0.99).unwrap();
        assert_eq!(p99(), None);
        let mut traffic = Traffic::default();
        // 1,000 tasks of a millisecond to a second, over two minutes, written in two parts.
        for n in 1..=1_000 {
            let event = HeardEvent {
                kind: "task-succeeded".to_owned(),
                heard_ms: now - n * 120,
                runtime: Some(n as f64 / 1_000.0),
                ..HeardEvent::default()
            };
            traffic.event(&event);
            if n % 500 == 0 {
                traffic.write(&conn, now).unwrap();
                traffic.forget();
            }
        }
        let found = p99().unwrap();
        assert!((found / 0.99 - 1.0).abs() < 0.08, "{found}");
        assert_eq!(took(&conn, ChartSpan::TenMinutes, now + 3_600_000, 0.99).unwrap(), None);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_points_that_lie_ahead() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&[file::SCHEMA, file::TOOK].concat()).unwrap();
        let mut traffic = Traffic::default();
        let count = |now| points(&conn, ChartSpan::TenMinutes, now).unwrap().iter().flatten().map(|point| point.failed).sum::<i64>();
        let now = 1_800_000_000_000;
        for at in [now + 7_200_000, now] {
            traffic.event(&HeardEvent { kind: "task-failed".to_owned(), heard_ms: at, ..HeardEvent::default() });
            traffic.write(&conn, at).unwrap();
            traffic.forget();
            assert_eq!(count(at), 1);
        }
        assert_eq!(count(now + 7_200_000), 0);
    }
}
