//! What is known of one limit, one of its buckets, or one task's rate.

use std::time::Duration;

use longshore_brokers::{BUCKET, LimitState};
use longshore_core::Rate;
use serde_json::{Value as Json, json};

use super::told::Told;
use crate::{
    config::Limit,
    queue::Fault,
    units::{self, show_duration},
};

/// Slots that lie less ahead are as good as now.
const NOW: Duration = Duration::from_millis(1);

/// One line of the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// The limit; of a task, the one that it has its rate from.
    pub(super) limit: Option<String>,
    /// Of a limit by value, which of its buckets.
    pub(super) bucket: Option<String>,
    pub(super) task: Option<String>,
    /// What the configuration or the program says, and which of both it was.
    own: Option<Rate>,
    from: &'static str,
    /// The same in their words.
    words: Option<String>,
    concurrency: Option<u64>,
    by: Option<String>,
    /// What was set for all who share it.
    set: Option<Rate>,
    ahead: Duration,
    /// The workers that keep another rate, and theirs.
    workers: Vec<(String, Option<Rate>)>,
}

impl Row {
    /// A limit of the configuration.
    pub(super) fn of_limit(limit: Limit, state: Option<&LimitState>) -> Result<Self, Fault> {
        let read = |text: &String| Ok(Rate::per_second(units::rate(text)?.per_second()));
        let burst = u32::try_from(limit.burst).unwrap_or(u32::MAX);
        let own =
            limit.rate.as_ref().map(read).transpose().map_err(|why: String| Fault::usage(format!("[limits.{:?}]: {why}", limit.name)))?;
        Ok(Self {
            own: own.map(|rate| rate.burst(burst)),
            from: "configuration",
            words: limit.rate.map(|rate| format!("{rate} burst {}", limit.burst)),
            concurrency: limit.concurrency,
            by: limit.by,
            set: state.and_then(|state| state.set),
            ahead: state.map_or(Duration::ZERO, |state| state.ahead),
            limit: Some(limit.name),
            ..Self::default()
        })
    }

    /// A bucket that only the broker knows.
    pub(super) fn of_state(state: &LimitState) -> Self {
        let (limit, bucket) = match state.name.split_once(BUCKET) {
            Some((limit, bucket)) => (limit, Some(bucket.to_owned())),
            None => (state.name.as_str(), None),
        };
        Self { limit: Some(limit.to_owned()), bucket, set: state.set, ahead: state.ahead, from: "broker", ..Self::default() }
    }

    /// A task with its own rate and the limit that it has it from, if it has one.
    pub(super) fn of_task(name: &str, pace: Option<(Rate, Option<&str>)>, words: Option<String>, from: &'static str) -> Self {
        let own = pace.map(|(rate, _)| rate);
        Self {
            task: Some(name.to_owned()),
            limit: pace.and_then(|(_, limit)| limit).map(str::to_owned),
            own,
            words: words.or_else(|| own.map(|rate| format!("every {}", show_duration(rate.interval())))),
            from,
            ..Self::default()
        }
    }

    /// What a worker says that it keeps; the same as here says nothing new.
    pub(super) fn hear(&mut self, told: &Told) {
        let interval = |rate: Option<Rate>| rate.map(|rate| rate.interval().as_micros());
        if interval(told.rate) != interval(self.own) {
            self.workers.push((told.node.clone(), told.rate));
        }
    }

    /// Whether anything is held back, here or at a worker.
    pub(super) fn has_rate(&self) -> bool {
        self.own.is_some() || !self.workers.is_empty()
    }

    /// The name for people: a section, or a task.
    pub(super) fn name(&self) -> String {
        match (&self.task, &self.limit, &self.bucket) {
            (Some(task), ..) => task.clone(),
            (None, Some(limit), Some(bucket)) => format!("{limit} = {bucket}"),
            (None, Some(limit), None) if self.from == "broker" => limit.clone(),
            (None, limit, None) => format!("[limits.{:?}]", limit.as_deref().unwrap_or_default()),
            (None, None, Some(bucket)) => bucket.clone(),
        }
    }

    /// What holds, for people.
    pub(super) fn text(&self) -> String {
        let most = self.concurrency.map(|most| format!("{most} at once, each process"));
        let by = self.by.as_ref().map(|by| format!("by {by}"));
        let set = self.set.map(|rate| format!("set to {} for all", said(rate)));
        let ahead = (self.ahead > NOW).then(|| format!("in use, the next slot in {}", show_duration(self.ahead)));
        let workers = self.workers.iter().map(|(node, rate)| match rate {
            Some(rate) => format!("{} at {node}", pace(*rate)),
            None => format!("no limit at {node}"),
        });
        self.words.clone().into_iter().chain(most).chain(by).chain(set).chain(ahead).chain(workers).collect::<Vec<_>>().join("   ")
    }

    /// The same for programs. `rate` is what holds, and `set_by` who said so: `configuration`, `program`, `all` (it was set for all who share it), or
    /// `workers`, each its own.
    pub(super) fn json(&self) -> Json {
        // Of a task that is known only from workers, the rate that all of them keep.
        let theirs =
            self.workers.first().map(|(_, rate)| *rate).filter(|first| self.workers.iter().all(|(_, rate)| rate == first)).flatten();
        let rate = self.set.or(self.own).or(theirs);
        let set_by = match (self.set, self.own, self.workers.is_empty()) {
            (Some(_), ..) => Some("all"),
            (None, Some(_), _) => Some(self.from),
            (None, None, false) => Some("workers"),
            (None, None, true) => None,
        };
        let workers: Vec<Json> = self.workers.iter().map(|(node, rate)| json!({ "node": node, "set": fields(*rate) })).collect();
        json!({
            "limit": self.limit,
            "bucket": self.bucket,
            "task": self.task,
            "rate": rate.map(pace),
            "per_second": rate.map(per_second),
            "burst": rate.map(|rate| rate.burst),
            "set_by": set_by,
            "own": fields(self.own),
            "set": fields(self.set),
            "concurrency": self.concurrency,
            "by": self.by,
            "in_use": self.ahead > NOW,
            "ahead_seconds": self.ahead.as_secs_f64(),
            "workers": workers,
        })
    }
}

/// A rate for programs.
pub(super) fn fields(rate: Option<Rate>) -> Json {
    rate.map_or(Json::Null, |rate| json!({ "rate": pace(rate), "per_second": per_second(rate), "burst": rate.burst }))
}

fn per_second(rate: Rate) -> f64 {
    // What went through intervals of whole microseconds or nanoseconds has more digits than sense.
    let exact = rate.count / rate.per.as_secs_f64();
    format!("{exact:.9}").parse().unwrap_or(exact)
}

/// A rate for people: `10/s burst 2`.
pub(super) fn said(rate: Rate) -> String {
    format!("{} burst {}", pace(rate), rate.burst)
}

/// The same without its burst.
fn pace(rate: Rate) -> String {
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
        for (per_second, want) in
            [(10.0, "10/s burst 1"), (0.5, "30/min burst 1"), (1.0 / 360.0, "10/h burst 1"), (1000.0 / 3.0, "333.333/s burst 1")]
        {
            assert_eq!(said(Rate::per_second(per_second)), want);
        }
    }

    #[test]
    fn a_limit_has_its_numbers_in_fields_of_their_own() {
        let limit = |rate: Option<&str>| Limit { name: "api".into(), rate: rate.map(str::to_owned), burst: 1, concurrency: None, by: None };
        let state = LimitState { name: "api".into(), set: None, ahead: Duration::from_millis(1500) };
        let row = Row::of_limit(limit(Some("10/min")), Some(&state)).unwrap();
        assert_eq!((row.name().as_str(), row.text().as_str()), ("[limits.\"api\"]", "10/min burst 1   in use, the next slot in 1.5s"));
        let json = row.json();
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
        let json = Row::of_limit(limit(Some("10/min")), Some(&set)).unwrap().json();
        assert_eq!((&json["rate"], &json["burst"], &json["set_by"]), (&json!("5/s"), &json!(2), &json!("all")));
        assert_eq!(json["own"]["rate"], "10/min");
        let bucket = Row::of_state(&LimitState { name: format!("host{BUCKET}a.example"), set: None, ahead: Duration::ZERO });
        assert_eq!((&bucket.json()["limit"], &bucket.json()["bucket"]), (&json!("host"), &json!("a.example")));
    }

    #[test]
    fn a_task_is_listed_when_a_worker_keeps_a_rate_that_is_not_its_own() {
        let told = |node: &str, rate: Option<f64>| Told { task: "t".into(), node: node.into(), rate: rate.map(Rate::per_second) };
        let mut row = Row::of_task("t", None, None, "configuration");
        row.hear(&told("a", None));
        assert!(!row.has_rate());
        row.hear(&told("b", Some(0.5)));
        assert!(row.has_rate());
        assert_eq!((row.text().as_str(), &row.json()["set_by"], &row.json()["rate"]), ("30/min at b", &json!("workers"), &json!("30/min")));
        let mut row = Row::of_task("t", Some((Rate::per_second(5.0), None)), None, "program");
        row.hear(&told("a", Some(5.0)));
        row.hear(&told("b", None));
        assert_eq!(row.text(), "every 200ms   no limit at b");
        assert_eq!((&row.json()["set_by"], &row.json()["workers"]), (&json!("program"), &json!([{ "node": "b", "set": null }])));
    }
}
