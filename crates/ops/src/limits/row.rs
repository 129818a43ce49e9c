//! One limit, one of its buckets, or one task's rate.

use std::time::Duration;

use longshore_brokers::{BUCKET, LimitState};
use longshore_core::Rate;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value as Json, json};

use super::{KnownLimit, KnownRate, told::ToldRate};

/// Time by which slots may lie ahead and are still as good as now.
const NOW: Duration = Duration::from_millis(1);

/// A limit, one of its buckets, or a task's rate: what is asked for, and what holds.
///
/// Serialised flat, with `rate`, `per_second` and `burst` of what holds and `set_by` for who said
/// so: `configuration`, `program`, `all` (it was set for all who share it) or `workers`, each its
/// own.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LimitInfo {
    /// The limit; of a task, the one that it has its rate from.
    pub limit: Option<String>,
    /// Name of its bucket, where the limit has one for each value.
    pub bucket: Option<String>,
    /// The task, if it is a task's rate.
    pub task: Option<String>,
    /// The rate that whoever asked knows.
    pub own: Option<Rate>,
    /// The same in the words of whoever wrote it, if they are known.
    pub words: Option<String>,
    /// Source from which the limit is known.
    pub from: LimitSource,
    /// Most tasks that may run under it at once in each process.
    pub concurrency: Option<u64>,
    /// The template whose values have a bucket each.
    pub by: Option<String>,
    /// The rate that was set for all who share it, in place of theirs.
    pub set: Option<Rate>,
    /// Time for which its slots are reserved in advance: whoever asks now would wait so long.
    pub ahead: Duration,
    /// The workers that keep another rate, and theirs; `None`: no limit.
    pub workers: Vec<(String, Option<Rate>)>,
}

/// Source from which a limit or a rate is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitSource {
    /// A configuration.
    #[default]
    Configuration,
    /// A program's own tasks.
    Program,
    /// The broker alone: somebody else uses it.
    Broker,
}

impl LimitSource {
    /// Returns its word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Program => "program",
            Self::Broker => "broker",
        }
    }
}

impl LimitInfo {
    pub(super) fn of_limit(limit: &KnownLimit, state: Option<&LimitState>) -> Self {
        Self {
            own: limit.rate,
            words: limit.words.clone(),
            concurrency: limit.concurrency,
            by: limit.by.clone(),
            set: state.and_then(|state| state.set),
            ahead: state.map_or(Duration::ZERO, |state| state.ahead),
            limit: Some(limit.name.clone()),
            ..Self::default()
        }
    }

    /// Describes a bucket that only the broker knows.
    pub(super) fn of_state(state: &LimitState) -> Self {
        let (limit, bucket) = match state.name.split_once(BUCKET) {
            Some((limit, bucket)) => (limit, Some(bucket.to_owned())),
            None => (state.name.as_str(), None),
        };
        Self { limit: Some(limit.to_owned()), bucket, set: state.set, ahead: state.ahead, from: LimitSource::Broker, ..Self::default() }
    }

    /// Describes a task with its own rate and the limit that it has it from, if it has one.
    pub(super) fn of_task(known: &KnownRate) -> Self {
        Self {
            task: Some(known.task.clone()),
            limit: known.limit.clone(),
            own: known.rate,
            words: known.words.clone(),
            from: known.from,
            ..Self::default()
        }
    }

    /// Hears which rate a worker says that it keeps; the same as here says nothing new.
    pub(super) fn hear(&mut self, told: &ToldRate) {
        let interval = |rate: Option<Rate>| rate.map(|rate| rate.interval().as_micros());
        if interval(told.rate) != interval(self.own) {
            self.workers.push((told.node.clone(), told.rate));
        }
    }

    /// Returns whether anything is held back, here or at a worker.
    pub fn has_rate(&self) -> bool {
        self.own.is_some() || !self.workers.is_empty()
    }

    /// Returns whether slots are reserved ahead: whoever asks now would wait.
    pub fn in_use(&self) -> bool {
        self.ahead > NOW
    }

    /// Returns the rate that holds, and who said so.
    pub fn holds(&self) -> (Option<Rate>, Option<&'static str>) {
        // Of a task that is known only from workers, the rate that all of them keep.
        let theirs =
            self.workers.first().map(|(_, rate)| *rate).filter(|first| self.workers.iter().all(|(_, rate)| rate == first)).flatten();
        let set_by = match (self.set, self.own, self.workers.is_empty()) {
            (Some(_), ..) => Some("all"),
            (None, Some(_), _) => Some(self.from.word()),
            (None, None, false) => Some("workers"),
            (None, None, true) => None,
        };
        (self.set.or(self.own).or(theirs), set_by)
    }
}

impl Serialize for LimitInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (rate, set_by) = self.holds();
        let workers: Vec<Json> = self.workers.iter().map(|(node, rate)| json!({ "node": node, "set": fields(*rate) })).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("limit", &self.limit)?;
        map.serialize_entry("bucket", &self.bucket)?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("rate", &rate.map(rate_text))?;
        map.serialize_entry("per_second", &rate.map(per_second))?;
        map.serialize_entry("burst", &rate.map(|rate| rate.burst))?;
        map.serialize_entry("set_by", &set_by)?;
        map.serialize_entry("own", &fields(self.own))?;
        map.serialize_entry("set", &fields(self.set))?;
        map.serialize_entry("concurrency", &self.concurrency)?;
        map.serialize_entry("by", &self.by)?;
        map.serialize_entry("in_use", &self.in_use())?;
        map.serialize_entry("ahead_seconds", &self.ahead.as_secs_f64())?;
        map.serialize_entry("workers", &workers)?;
        map.end()
    }
}

/// Returns a rate for programs: `{"rate", "per_second", "burst"}`, or null.
pub(super) fn fields(rate: Option<Rate>) -> Json {
    rate.map_or(Json::Null, |rate| json!({ "rate": rate_text(rate), "per_second": per_second(rate), "burst": rate.burst }))
}

fn per_second(rate: Rate) -> f64 {
    // What went through intervals of whole microseconds or nanoseconds has more digits than sense.
    let exact = rate.count / rate.per.as_secs_f64();
    format!("{exact:.9}").parse().unwrap_or(exact)
}

/// Returns a rate in the unit that people would take, without its burst: `10/s`, `30/min`.
pub fn rate_text(rate: Rate) -> String {
    let per_second = rate.count / rate.per.as_secs_f64();
    let text = [(1.0, "s"), (60.0, "min"), (3600.0, "h")].into_iter().find_map(|(seconds, word)| {
        let count = per_second * seconds;
        (count >= 1.0 || word == "h").then(|| format!("{}/{word}", (count * 1000.0).round() / 1000.0))
    });
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_said_in_the_unit_that_people_would_take() {
        for (per_second, want) in [(10.0, "10/s"), (0.5, "30/min"), (1.0 / 360.0, "10/h"), (1000.0 / 3.0, "333.333/s")] {
            assert_eq!(rate_text(Rate::per_second(per_second)), want);
        }
    }

    fn json_of(info: &LimitInfo) -> Json {
        serde_json::to_value(info).unwrap()
    }

    #[test]
    fn a_limit_has_its_numbers_in_fields_of_their_own() {
        let limit = KnownLimit { rate: Some(Rate::per_second(1.0 / 6.0)), ..KnownLimit::new("api") };
        let state = LimitState { name: "api".into(), set: None, ahead: Duration::from_millis(1500) };
        let json = json_of(&LimitInfo::of_limit(&limit, Some(&state)));
        for (field, want) in [
            ("limit", json!("api")),
            ("rate", json!("10/min")),
            ("burst", json!(1)),
            ("set_by", json!("configuration")),
            ("set", Json::Null),
            ("in_use", json!(true)),
            ("ahead_seconds", json!(1.5)),
        ] {
            assert_eq!(json[field], want, "{field}");
        }
        let set = LimitState { set: Some(Rate::per_second(5.0).burst(2)), ..state };
        let json = json_of(&LimitInfo::of_limit(&limit, Some(&set)));
        assert_eq!((&json["rate"], &json["burst"], &json["set_by"]), (&json!("5/s"), &json!(2), &json!("all")));
        assert_eq!(json["own"]["rate"], "10/min");
        let bucket = LimitInfo::of_state(&LimitState { name: format!("host{BUCKET}a.example"), set: None, ahead: Duration::ZERO });
        let json = json_of(&bucket);
        assert_eq!((&json["limit"], &json["bucket"]), (&json!("host"), &json!("a.example")));
    }

    #[test]
    fn a_task_is_listed_when_a_worker_keeps_a_rate_that_is_not_its_own() {
        let told = |node: &str, rate: Option<f64>| ToldRate { task: "t".into(), node: node.into(), rate: rate.map(Rate::per_second) };
        let mut info = LimitInfo::of_task(&KnownRate::new("t"));
        info.hear(&told("a", None));
        assert!(!info.has_rate());
        info.hear(&told("b", Some(0.5)));
        assert!(info.has_rate());
        assert_eq!((&json_of(&info)["set_by"], &json_of(&info)["rate"]), (&json!("workers"), &json!("30/min")));
        let known = KnownRate { rate: Some(Rate::per_second(5.0)), from: LimitSource::Program, ..KnownRate::new("t") };
        let mut info = LimitInfo::of_task(&known);
        info.hear(&told("a", Some(5.0)));
        info.hear(&told("b", None));
        assert_eq!((&json_of(&info)["set_by"], &json_of(&info)["workers"]), (&json!("program"), &json!([{ "node": "b", "set": null }])));
    }
}
