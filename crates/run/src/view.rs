//! What a run looks like at one moment.

use std::time::Duration;

use longshore_core::watch::{Counts, View};
use serde::{Deserialize, Serialize};

/// Version of what travels. It grows when a field changes its meaning, not when one is added.
pub(crate) const VERSION: u32 = 1;

/// A moment of a run: plain data, that serde can carry anywhere. All counts are of tasks, those of
/// earlier sittings included. Durations travel as seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunView {
    /// Version of the layout. It grows when a field changes its meaning, not when one is added.
    pub version: u32,
    /// The job's name, or its id when it has none.
    pub name: String,
    /// The job's id.
    pub job: String,
    /// The state of the run: new tasks start, or why not.
    pub state: RunState,
    /// Tasks by outcome. On the wire also `done`, `ok` and `failed` (all failures), as before there
    /// was more.
    #[serde(flatten, with = "ends")]
    pub counts: Counts,
    /// Number of tasks that there will be, once that is known.
    pub total: Option<u64>,
    /// Tasks of whose output the journal and JSON lack something.
    pub cut: u64,
    /// Waiting for another attempt.
    pub retrying: u64,
    /// Running now.
    pub active: u64,
    /// Most that may run at once.
    pub concurrency: usize,
    /// The pace, as it is written (`100/s`), where there is one.
    pub pace: Option<String>,
    /// Tasks that end per second, smoothed (see [`RateMeter`](crate::rate::RateMeter)).
    pub rate_per_s: f64,
    /// Median of the run times, once there is one.
    #[serde(with = "seconds")]
    pub p50: Option<Duration>,
    /// 99th percentile of the run times.
    #[serde(with = "seconds")]
    pub p99: Option<Duration>,
    /// The time that is left, when it can be said.
    #[serde(with = "seconds")]
    pub eta: Option<Duration>,
    /// Reasons that hold ready tasks back (`pace 100/s`), each with the number of tasks that wait
    /// for it.
    pub gate: Vec<(String, u64)>,
    /// The slowest running task, when it has run for longer than it should.
    pub slow: Option<SlowTask>,
    /// Running tasks, oldest first, where they were asked for.
    pub running: Vec<RunningRecord>,
    /// The face that everything that runs has, where that was asked for.
    pub engine: Option<Box<View>>,
}

impl Default for RunView {
    fn default() -> Self {
        Self {
            version: VERSION,
            name: String::new(),
            job: String::new(),
            state: RunState::default(),
            counts: Counts::default(),
            total: None,
            cut: 0,
            retrying: 0,
            active: 0,
            concurrency: 0,
            pace: None,
            rate_per_s: 0.0,
            p50: None,
            p99: None,
            eta: None,
            gate: Vec::new(),
            slow: None,
            running: Vec::new(),
            engine: None,
        }
    }
}

/// A task that has run for long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowTask {
    /// Its place in the input.
    pub seq: u64,
    /// Time that this attempt has run.
    #[serde(with = "plain_seconds")]
    pub age: Duration,
    /// Which attempt it is, from 1.
    pub attempt: u32,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningRecord {
    /// Its place in the input.
    pub seq: u64,
    /// Time that this attempt has run.
    #[serde(with = "plain_seconds")]
    pub age: Duration,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The lane, by its name.
    pub lane: String,
    /// The slot, from 1.
    pub slot: u32,
    /// The last line that it wrote, if it is a child process.
    pub last_line: String,
}

/// State of a run: new tasks start, or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// They do.
    #[default]
    Running,
    /// Not until someone says so.
    Paused,
    /// No more; running ones may end.
    Stopping,
}

impl RunState {
    /// Returns the word for lines that machines read.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Stopping => "stopping",
        }
    }
}

/// Counts, and of them what readers of before know. What such a writer says of skipped tasks is
/// `done` without the others.
mod ends {
    use longshore_core::watch::Counts;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Ends<'a> {
            done: u64,
            ok: u64,
            failed: u64,
            counts: &'a Counts,
        }
        Ends { done: counts.finished(), ok: counts.ok, failed: counts.failures(), counts }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Ends {
            done: u64,
            ok: u64,
            failed: u64,
            counts: Option<Counts>,
        }
        let Ends { done, ok, failed, counts } = Ends::deserialize(from)?;
        Ok(counts.unwrap_or_else(|| {
            let mut counts = Counts::default();
            (counts.ok, counts.failed, counts.skipped) = (ok, failed, done.saturating_sub(ok + failed));
            counts
        }))
    }
}

/// Durations as seconds.
mod plain_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Ok(Duration::try_from_secs_f64(f64::deserialize(from)?).unwrap_or_default())
    }
}

/// Durations that may be unknown, as seconds or null.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_travels_as_one_line_and_an_older_or_newer_one_is_read_too() {
        let counts = Counts::from([5, 1, 2, 0, 0, 0, 3, 4]);
        let view = RunView { name: "a".to_owned(), counts, p50: Some(Duration::from_millis(250)), ..RunView::default() };
        let text = serde_json::to_string(&view).unwrap();
        assert!(text.contains(r#""p50":0.25,"p99":null"#), "{text}");
        assert!(text.contains(r#""done":12,"ok":5,"failed":3,"#), "for readers of before: {text}");
        assert_eq!(serde_json::from_str::<RunView>(&text).unwrap(), view);
        let older = serde_json::from_str::<RunView>(r#"{"version":1,"done":12,"ok":5,"failed":3,"total":20}"#).unwrap();
        assert_eq!((older.counts.finished(), older.counts.ok, older.counts.failures(), older.total), (12, 5, 3, Some(20)));
        let newer = r#"{"version":2,"name":"a","colour":"red"}"#;
        assert_eq!(serde_json::from_str::<RunView>(newer).unwrap(), RunView { version: 2, name: "a".to_owned(), ..RunView::default() });
    }
}
