//! A task that is sent at its times, and how a store keeps it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use longshore_brokers::{BrokerError, ScheduleRow, Schedules};
use longshore_celery::{Map, Value, WireSignature};
use longshore_schedule::{MissedPolicy, ScheduleSpec, Timing};
use uuid::Uuid;

use crate::{error::ClientError, signature::Signature};

/// Most levels of what a schedule says, and of what it sends.
const DEPTH: usize = 100;

/// A task that is sent at its times, by whichever [`Scheduler`](crate::Scheduler) leads.
/// ```
/// use std::time::Duration;
/// use longshore_worker::{App, Schedule, Signature, Timing};
///
/// let report = Signature::named("shop.report").arg(&"daily").expires_in(Duration::from_secs(3600));
/// let nightly = Schedule::new("nightly", report, Timing::cron("30 2 * * *", Some("Europe/Berlin"), false).unwrap())?;
/// let app = App::new().schedule(nightly.jitter(Duration::from_secs(30)));
/// # let _ = app;
/// # Ok::<(), longshore_worker::ClientError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Schedule {
    /// Its name, which no other has.
    pub name: String,
    /// The task, with its arguments and options.
    pub call: WireSignature,
    /// When it is due.
    pub spec: ScheduleSpec,
    /// Where it was defined.
    pub origin: ScheduleOrigin,
}

/// Place where a schedule was defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ScheduleOrigin {
    /// A program of its own: [`App::schedule`](crate::App::schedule).
    #[default]
    Program,
    /// A section of a configuration.
    Configuration,
    /// A command.
    Command,
}

impl ScheduleOrigin {
    const ALL: [Self; 3] = [Self::Program, Self::Configuration, Self::Command];

    /// Returns its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Configuration => "configuration",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for ScheduleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Schedule {
    /// Makes one that runs the latest of what was missed, without jitter.
    ///
    /// # Errors
    /// [`ClientError::Signature`]: an argument cannot be written, or it is a canvas: a schedule
    /// sends one task, which may send the others. The name is empty, or longer than 200 bytes.
    pub fn new<R>(name: impl Into<String>, call: Signature<R>, timing: Timing) -> Result<Self, ClientError> {
        Self::of(name.into(), call.into_wire()?, ScheduleSpec::new(timing)).map_err(ClientError::Signature)
    }

    fn of(name: String, call: WireSignature, spec: ScheduleSpec) -> Result<Self, String> {
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            return Err(format!("{name:?}: the name of a schedule has one to 200 bytes, and no control characters"));
        }
        if call.task.is_empty() || call.subtask.as_str().is_some() {
            return Err(format!("{name}: a schedule sends one task, not a canvas; let that task send the others"));
        }
        Ok(Self { name, call, spec, origin: ScheduleOrigin::default() })
    }

    /// Sets the longest time by which a run is put off, by chance.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.spec.jitter = jitter;
        self
    }

    /// Sets what becomes of due times at which no scheduler was there.
    #[must_use]
    pub fn missed(mut self, missed: MissedPolicy) -> Self {
        self.spec.missed = missed;
        self
    }

    /// Sets where it was defined.
    #[must_use]
    pub fn origin(mut self, origin: ScheduleOrigin) -> Self {
        self.origin = origin;
        self
    }

    /// Writes what it says, but its name, as stores keep it.
    pub fn encode(&self) -> Vec<u8> {
        let mut map = Map::default();
        match (self.spec.timing.as_cron(), self.spec.timing.as_every()) {
            (Some((fields, zone, both_days)), _) => {
                map.set("cron", fields);
                zone.into_iter().for_each(|zone| map.set("zone", zone));
                if both_days {
                    map.set("both_days", true);
                }
            }
            (None, every) => map.set("every", every.unwrap_or_default().as_secs_f64()),
        }
        if !self.spec.jitter.is_zero() {
            map.set("jitter", self.spec.jitter.as_secs_f64());
        }
        let (missed, most) = match self.spec.missed {
            MissedPolicy::Skip => ("skip", None),
            MissedPolicy::Once => ("once", None),
            MissedPolicy::All(most) => ("all", Some(most)),
        };
        map.set("missed", missed);
        most.into_iter().for_each(|most| map.set("most", i64::from(most)));
        map.set("task", self.call.task.as_str());
        map.set("args", Value::List(self.call.args.clone()));
        map.set("kwargs", Value::Map(self.call.kwargs.clone()));
        map.set("options", Value::Map(self.call.options.clone()));
        map.set("from", self.origin.as_str());
        Value::Map(map).to_json()
    }

    /// Has a store keep it, which has this of it by now. One whose times are the same goes on with
    /// them, whatever else it says now; another one begins anew. Returns whether anything has
    /// changed.
    ///
    /// # Errors
    /// As [`Schedules::put`].
    pub async fn keep_in(&self, store: &dyn Schedules, kept: Option<&ScheduleRow>, now: SystemTime) -> Result<bool, BrokerError> {
        let spec = self.encode();
        if let Some(row) = kept {
            if row.spec == spec {
                return Ok(false);
            }
            let is_alike = Self::decode(&row.name, &row.spec).is_ok_and(|kept| kept.spec.timing == self.spec.timing);
            if is_alike && store.amend(&self.name, &row.spec, &spec).await? {
                return Ok(true);
            }
        }
        store.put(&self.name, &spec, now).await
    }

    /// Reads what a store keeps under this name.
    ///
    /// # Errors
    /// The text: what cannot be read. It may be of a newer version.
    pub fn decode(name: &str, spec: &[u8]) -> Result<Self, String> {
        let value = Value::parse(spec, DEPTH).map_err(|error| error.to_string())?;
        let text = |member: &str| value.get(member).and_then(Value::as_str);
        let seconds = |member: &str| match value.get(member).and_then(Value::as_f64).map(Duration::try_from_secs_f64) {
            Some(Ok(time)) => Ok(Some(time)),
            Some(Err(_)) => Err(format!("its member {member} is no length of time")),
            None => Ok(None),
        };
        let timing = match (text("cron"), seconds("every")?) {
            (Some(fields), _) => {
                let both_days = value.get("both_days").and_then(Value::as_bool).unwrap_or(false);
                Timing::cron(fields, text("zone"), both_days)?
            }
            (None, Some(period)) => Timing::every(period)?,
            (None, None) => return Err("it says neither `cron` nor `every`".to_owned()),
        };
        let missed = match text("missed").unwrap_or("once") {
            "skip" => MissedPolicy::Skip,
            "once" => MissedPolicy::Once,
            "all" => {
                let most = value.get("most").and_then(Value::as_i64).and_then(|most| u32::try_from(most).ok());
                MissedPolicy::All(most.unwrap_or(MOST_MISSED))
            }
            other => return Err(format!("`missed` is {other:?}; known are skip, once and all")),
        };
        let spec = ScheduleSpec::new(timing).jitter(seconds("jitter")?.unwrap_or_default()).missed(missed);
        let origin = ScheduleOrigin::ALL.into_iter().find(|origin| Some(origin.as_str()) == text("from"));
        let call = WireSignature::from_value(value).map_err(|error| error.to_string())?;
        Ok(Self::of(name.to_owned(), call, spec)?.origin(origin.unwrap_or_default()))
    }

    /// Returns the id of the task of a due time: the same wherever it is made, so that a task that
    /// is sent twice is seen to be one.
    pub fn task_id(&self, since: SystemTime, due: SystemTime) -> String {
        let millis = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let name = format!("longshore:schedule:{}:{}:{}", millis(since), millis(due), self.name);
        Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
    }

    /// Returns the chance that its jitter is made of.
    pub fn seed(&self) -> u64 {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.name.as_bytes()).as_u64_pair().0
    }

    /// Returns the call of a due time, as Celery's beat sends it.
    pub(crate) fn call_of(&self, id: String) -> WireSignature {
        self.call.clone().task_id(id).header("celery_beat_task", true)
    }
}

/// Bound of [`MissedPolicy::All`] where none is said.
pub const MOST_MISSED: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::group;

    #[test]
    fn what_is_written_is_read_again() {
        let call = || Signature::named("shop.report").arg(&"ä").kwarg("n", &1.5).queue("slow").expires_in(Duration::from_secs(60));
        let cron = Timing::cron("0 9 13 * 5", Some("Asia/Tokyo"), true).unwrap();
        let nightly = Schedule::new("nightly", call(), cron).unwrap().jitter(Duration::from_millis(1500)).missed(MissedPolicy::All(7));
        let often = Schedule::new("often", call(), Timing::every(Duration::from_millis(300)).unwrap()).unwrap();
        let often = often.missed(MissedPolicy::Skip).origin(ScheduleOrigin::Command);
        for schedule in [nightly, often] {
            assert_eq!(Schedule::decode(&schedule.name, &schedule.encode()), Ok(schedule));
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        for (spec, words) in [
            ("{\"task\": \"t\"}", "neither `cron` nor `every`"),
            ("{\"task\": \"t\", \"every\": -1}", "every is no length"),
            ("{\"task\": \"t\", \"every\": 0.01}", "the shortest is 100 ms"),
            ("{\"task\": \"t\", \"every\": 1, \"missed\": \"some\"}", "skip, once and all"),
            ("{\"task\": \"t\", \"cron\": \"* *\"}", "2 fields"),
            ("{\"task\": \"t\", \"cron\": \"* * * * *\", \"zone\": \"Mars/Base\"}", "Mars/Base"),
            ("{\"every\": 1}", "without a task"),
            ("[]", "neither"),
            ("{", ""),
        ] {
            let error = Schedule::decode("x", spec.as_bytes()).expect_err(spec);
            assert!(error.contains(words), "{spec}: {error}");
        }
        let every = || Timing::every(Duration::from_secs(1)).unwrap();
        let canvas = Schedule::new("x", group([Signature::named("a"), Signature::named("b")]), every()).unwrap_err();
        assert!(canvas.to_string().contains("one task"), "{canvas}");
        assert!(Schedule::new("", Signature::named("a"), every()).is_err());
    }

    #[test]
    fn a_due_time_has_one_id_and_another_schedule_another() {
        let schedule = |name: &str| Schedule::new(name, Signature::named("t"), Timing::every(Duration::from_secs(1)).unwrap()).unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = schedule("a").task_id(at(1), at(2));
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'5'));
        assert_eq!(schedule("a").task_id(at(1), at(2) + Duration::from_micros(1)), id);
        for other in [schedule("b").task_id(at(1), at(2)), schedule("a").task_id(at(0), at(2)), schedule("a").task_id(at(1), at(3))] {
            assert_ne!(other, id);
        }
    }
}
