//! Schedules: which there are, when they are due, who sends them; pause, resume, run now, put and
//! remove.
//!
//! `schedules/import.rs`: those of a Celery application

mod import;

use std::time::SystemTime;

use longshore_brokers::ScheduleRow;
use longshore_worker::{Client, MissedPolicy, Schedule, Signature};
use serde::{Serialize, Serializer, ser::SerializeStruct};

pub use self::import::{ImportedSchedules, RefusedSchedule, SCRIPT, import};
use crate::{
    error::OpsError,
    wire::{json_of, time_text},
};

/// Asks for schedules.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SchedulesRequest {
    /// These, each of which must be there; all, where there are none.
    pub names: Vec<String>,
}

impl SchedulesRequest {
    /// Asks for these.
    pub fn names(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect() }
    }
}

/// The schedules of a store.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SchedulesInfo {
    /// Scheduler that sends what is due now; none, where none runs.
    pub leader: Option<String>,
    /// The schedules in the order of their names.
    pub schedules: Vec<ScheduleInfo>,
}

/// One schedule.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScheduleInfo {
    /// Its name.
    pub name: String,
    /// What it says, or why that cannot be read.
    pub schedule: Result<Schedule, String>,
    /// When it is sent next: its next due time and its jitter. None where it is paused, or never
    /// due again.
    pub next: Option<SystemTime>,
    /// Last due time that was sent.
    pub last: Option<SystemTime>,
    /// When that was sent.
    pub sent: Option<SystemTime>,
    /// Number of due times that were sent.
    pub fired: u64,
    /// Who paused it, and when.
    pub paused: Option<(String, SystemTime)>,
}

impl ScheduleInfo {
    /// Reads what a store keeps. Pure.
    fn of(row: ScheduleRow, now: SystemTime) -> Self {
        let schedule = Schedule::decode(&row.name, &row.spec);
        let next = match &schedule {
            Ok(schedule) if row.paused.is_none() => schedule.spec.next(row.since, row.last, now, schedule.seed()).map(|next| next.at),
            _ => None,
        };
        Self { name: row.name, schedule, next, last: row.last, sent: row.sent, fired: row.fired, paused: row.paused }
    }
}

impl Serialize for ScheduleInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = self.schedule.as_ref().ok();
        let spec = known.map(|schedule| &schedule.spec);
        let missed = spec.map(|spec| match spec.missed {
            MissedPolicy::Skip => "skip",
            MissedPolicy::Once => "once",
            MissedPolicy::All(_) => "all",
        });
        let most = spec.and_then(|spec| if let MissedPolicy::All(most) = spec.missed { Some(most) } else { None });
        let mut info = serializer.serialize_struct("ScheduleInfo", 17)?;
        info.serialize_field("name", &self.name)?;
        info.serialize_field("task", &known.map(|schedule| &schedule.call.task))?;
        info.serialize_field("args", &known.map(|schedule| schedule.call.args.iter().map(json_of).collect::<Vec<_>>()))?;
        info.serialize_field("kwargs", &known.map(|schedule| json_of(&schedule.call.kwargs.clone().into())))?;
        info.serialize_field("options", &known.map(|schedule| json_of(&schedule.call.options.clone().into())))?;
        info.serialize_field("timing", &spec.map(|spec| spec.timing.to_string()))?;
        info.serialize_field("jitter_seconds", &spec.map(|spec| spec.jitter.as_secs_f64()))?;
        info.serialize_field("missed", &missed)?;
        info.serialize_field("most", &most)?;
        info.serialize_field("from", &known.map(|schedule| schedule.origin.as_str()))?;
        info.serialize_field("next", &self.next.map(time_text))?;
        info.serialize_field("last", &self.last.map(time_text))?;
        info.serialize_field("sent", &self.sent.map(time_text))?;
        info.serialize_field("fired", &self.fired)?;
        info.serialize_field("paused_by", &self.paused.as_ref().map(|(by, _)| by))?;
        info.serialize_field("paused_since", &self.paused.as_ref().map(|(_, since)| time_text(*since)))?;
        info.serialize_field("unreadable", &self.schedule.as_ref().err())?;
        info.end()
    }
}

/// Looks which schedules there are, and when they are due.
///
/// # Errors
/// The store cannot be reached, or refuses; neither the broker nor the result backend keeps
/// schedules; there is none of a name that was asked for.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &SchedulesRequest) -> Result<SchedulesInfo, OpsError> {
    let book = client.connected().schedules()?.schedules().await?;
    for name in &request.names {
        if !book.rows.iter().any(|row| row.name == *name) {
            return Err(unknown(name));
        }
    }
    let now = SystemTime::now();
    let asked = book.rows.into_iter().filter(|row| request.names.is_empty() || request.names.contains(&row.name));
    Ok(SchedulesInfo { leader: book.leader, schedules: asked.map(|row| ScheduleInfo::of(row, now)).collect() })
}

fn unknown(name: &str) -> OpsError {
    OpsError::NoSchedule { name: name.to_owned() }
}

/// An action on schedules.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ScheduleAction {
    /// Keep it, in place of one of the same name.
    Put(Box<Schedule>),
    /// Send nothing of it until it is resumed.
    Pause {
        /// The schedule.
        name: String,
        /// Who pauses it.
        by: String,
    },
    /// Send what is due from now on.
    Resume {
        /// The schedule.
        name: String,
    },
    /// Forget it.
    Remove {
        /// The schedule.
        name: String,
    },
    /// Send its task now, beside what is due.
    Run {
        /// The schedule.
        name: String,
    },
}

/// Report of what was done to a schedule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScheduleDone {
    /// The schedule.
    pub name: String,
    /// Word for what was done: put, unchanged, paused, resumed, removed, sent.
    pub done: &'static str,
    /// The id of the task that was sent.
    pub id: Option<String>,
}

/// Does it.
///
/// # Errors
/// As [`list`]; or its task cannot be sent.
///
/// # Cancel safety
/// Not cancel safe: of a dropped future nobody knows whether it was done.
pub async fn act(client: &Client, action: &ScheduleAction) -> Result<ScheduleDone, OpsError> {
    let store = client.connected().schedules()?;
    let now = SystemTime::now();
    let report = |name: &str, done, id| ScheduleDone { name: name.to_owned(), done, id };
    let known = |name: &str, is, done| if is { Ok(report(name, done, None)) } else { Err(unknown(name)) };
    match action {
        ScheduleAction::Put(schedule) => {
            let rows = store.schedules().await?.rows;
            let kept = rows.iter().find(|row| row.name == schedule.name);
            let is_new = schedule.keep_in(&**store, kept, now).await?;
            Ok(report(&schedule.name, if is_new { "put" } else { "unchanged" }, None))
        }
        ScheduleAction::Pause { name, by } => known(name, store.pause_schedule(name, Some(by), now).await?, "paused"),
        ScheduleAction::Resume { name } => known(name, store.pause_schedule(name, None, now).await?, "resumed"),
        ScheduleAction::Remove { name } => known(name, store.remove(name).await?, "removed"),
        ScheduleAction::Run { name } => {
            let found = list(client, &SchedulesRequest::names([name])).await?.schedules.remove(0);
            let schedule = found.schedule.map_err(|why| OpsError::Invalid(format!("schedule {name} cannot be read: {why}")))?;
            let call: Signature = schedule.call.header("celery_beat_task", true).into();
            let answer = client.send(call).await?;
            Ok(report(name, "sent", Some(answer.id().to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_worker::{Settings, Timing};

    use super::*;

    #[tokio::test]
    async fn a_schedule_is_put_shown_paused_run_and_removed() {
        let client = Client::connect(&Settings::new("memory://ops-schedules")).unwrap();
        let every = Timing::every(Duration::from_secs(3600)).unwrap();
        let schedule = Schedule::new("hourly", Signature::named("shop.report").arg(&1).queue("slow"), every).unwrap();
        let put = ScheduleAction::Put(Box::new(schedule));
        assert_eq!(act(&client, &put).await.unwrap().done, "put");
        assert_eq!(act(&client, &put).await.unwrap().done, "unchanged");
        let info = list(&client, &SchedulesRequest::default()).await.unwrap();
        assert_eq!((info.leader, info.schedules.len()), (None, 1));
        let left = info.schedules[0].next.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(3590) && left <= Duration::from_secs(3600), "{left:?}");
        let json = serde_json::to_value(&info.schedules[0]).unwrap();
        assert_eq!((&json["timing"], &json["args"][0], &json["options"]["queue"]), (&"every 1h".into(), &1.into(), &"slow".into()));
        let name = || "hourly".to_owned();
        act(&client, &ScheduleAction::Pause { name: name(), by: "me".to_owned() }).await.unwrap();
        let info = list(&client, &SchedulesRequest::names(["hourly"])).await.unwrap().schedules.remove(0);
        assert_eq!((info.paused.unwrap().0.as_str(), info.next), ("me", None));
        let sent = act(&client, &ScheduleAction::Run { name: name() }).await.unwrap();
        assert_eq!((sent.done, sent.id.unwrap().len()), ("sent", 36));
        act(&client, &ScheduleAction::Remove { name: name() }).await.unwrap();
        for action in [ScheduleAction::Resume { name: name() }, ScheduleAction::Run { name: name() }] {
            let error = act(&client, &action).await.unwrap_err().to_string();
            assert!(error.contains("no schedule hourly"), "{error}");
        }
    }
}
