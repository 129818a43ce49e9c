//! An event as pages keep it: the same members whoever sent it, with texts of bounded length.

use std::time::{SystemTime, UNIX_EPOCH};

use longshore_celery::events::{Event, EventKind, TaskInfo};
use longshore_ops::cut;
use serde::Serialize;

/// Longest name that is kept, in characters.
const NAME: usize = 256;
/// Longest text of arguments, results and errors, in characters.
const TEXT: usize = 1_024;
/// Longest traceback, in characters: its end is kept, which says most.
const TRACEBACK: usize = 8_192;

/// Event of a task or a worker, as far as pages keep it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct HeardEvent {
    /// Number in the order of arrival.
    pub(crate) number: u64,
    /// Its kind: `task-succeeded`.
    pub(crate) kind: String,
    /// Time of its arrival here, in milliseconds since 1970.
    pub(crate) heard_ms: i64,
    /// Time that it says itself, in seconds since 1970.
    pub(crate) timestamp: f64,
    /// Logical clock of the node that tells of it.
    pub(crate) clock: i64,
    /// The node that tells of it.
    pub(crate) worker: String,
    /// Its process.
    pub(crate) pid: Option<i64>,
    /// The task's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The task's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    /// Its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<String>,
    /// Its arguments, as Python shows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<String>,
    /// Its keyword arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kwargs: Option<String>,
    /// The first task of its tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
    /// The task that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// Not to be started before (ISO 8601).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eta: Option<String>,
    /// Time after which it is not started (ISO 8601).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
    /// Exchange that it was sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exchange: Option<String>,
    /// Routing key that it was sent with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) routing_key: Option<String>,
    /// Its result, as Python shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    /// Its running time, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<f64>,
    /// Reason that it failed, is tried again, or was called off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Traceback of its failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceback: Option<String>,
    /// True where it went back into its queue.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) requeue: bool,
}

impl HeardEvent {
    /// Keeps an event that came now; without arguments and results where they are hidden.
    pub(crate) fn of(event: &Event, hide: bool) -> Self {
        let mut own = Self {
            kind: cut(event.what.kind(), NAME),
            heard_ms: now_ms(),
            timestamp: if event.timestamp.is_finite() { event.timestamp } else { 0.0 },
            clock: i64::try_from(event.clock).unwrap_or(i64::MAX),
            worker: cut(&event.hostname, NAME),
            pid: event.pid,
            id: event.what.task_id().map(|id| cut(id, NAME)),
            ..Self::default()
        };
        match &event.what {
            EventKind::TaskSent { task, queue, exchange, routing_key } => {
                own.describe(task);
                let name = |text: &Option<String>| text.as_deref().map(|text| cut(text, NAME));
                (own.queue, own.exchange, own.routing_key) = (name(queue), name(exchange), name(routing_key));
            }
            EventKind::TaskReceived(task) => own.describe(task),
            EventKind::TaskSucceeded { result, runtime, .. } => {
                own.result = Some(cut(result, TEXT));
                own.runtime = Some(*runtime).filter(|runtime| runtime.is_finite() && *runtime >= 0.0);
            }
            EventKind::TaskFailed { exception, traceback, .. } | EventKind::TaskRetried { exception, traceback, .. } => {
                own.error = Some(cut(exception, TEXT));
                own.traceback = traceback.as_deref().map(end_of);
            }
            EventKind::TaskRevoked { terminated, expired, signum, .. } => {
                own.error = Some(called_off(*terminated, *expired, *signum));
            }
            EventKind::TaskRejected { requeue, .. } => own.requeue = *requeue,
            EventKind::Other { .. }
            | EventKind::TaskStarted { .. }
            | EventKind::WorkerOnline(_)
            | EventKind::WorkerHeartbeat(_)
            | EventKind::WorkerOffline(_) => {}
        }
        if hide {
            (own.args, own.kwargs, own.result, own.traceback) = (None, None, None, None);
        }
        own
    }

    fn describe(&mut self, task: &TaskInfo) {
        let text = |text: &Option<String>, most| text.as_deref().map(|text| cut(text, most));
        self.task = Some(cut(&task.name, NAME)).filter(|name| !name.is_empty());
        self.queue = text(&task.queue, NAME);
        (self.args, self.kwargs) = (text(&task.args, TEXT), text(&task.kwargs, TEXT));
        self.kwargs.take_if(|kwargs| kwargs == "{}");
        (self.root, self.parent) = (text(&task.root_id, NAME), text(&task.parent_id, NAME));
        (self.eta, self.expires) = (text(&task.eta, NAME), text(&task.expires, NAME));
    }

    /// Returns about how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [
            &self.id,
            &self.task,
            &self.queue,
            &self.args,
            &self.kwargs,
            &self.root,
            &self.parent,
            &self.eta,
            &self.expires,
            &self.exchange,
            &self.routing_key,
            &self.result,
            &self.error,
            &self.traceback,
        ];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + self.kind.len() + self.worker.len() + texts
    }

    /// Returns what it tells besides its kind, in one line.
    pub(crate) fn says(&self) -> String {
        let args = || self.args.as_ref().map(|args| format!("{args}{}", self.kwargs.as_ref().map(|k| format!(" {k}")).unwrap_or_default()));
        let text = self.error.clone().or_else(|| self.result.clone()).or_else(args).unwrap_or_default();
        let back = if self.requeue { "back to its queue" } else { "" };
        cut(&format!("{text}{back}"), 200)
    }
}

/// Returns the time now in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn end_of(traceback: &str) -> String {
    let count = traceback.chars().count();
    if count <= TRACEBACK { traceback.to_owned() } else { format!("…{}", traceback.chars().skip(count - TRACEBACK).collect::<String>()) }
}

fn called_off(terminated: bool, expired: bool, signal: Option<i64>) -> String {
    match (terminated, expired, signal) {
        (true, _, Some(signal)) => format!("called off while it ran (signal {signal})"),
        (true, _, None) => "called off while it ran".to_owned(),
        (false, true, _) => "its time had passed".to_owned(),
        (false, false, _) => "called off".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use longshore_celery::Value;

    use super::*;

    fn event(what: EventKind) -> Event {
        Event { hostname: "w@h".to_owned(), pid: Some(7), utcoffset: 0.0, clock: 1, timestamp: f64::NAN, what }
    }

    #[test]
    fn an_event_of_any_size_is_kept_in_bounded_memory() {
        let long = "é".repeat(1 << 20);
        let info = TaskInfo {
            uuid: long.clone(),
            name: long.clone(),
            args: Some(long.clone()),
            root_id: Some(long.clone()),
            ..TaskInfo::default()
        };
        for what in [
            EventKind::TaskReceived(info),
            EventKind::TaskFailed { uuid: long.clone(), exception: long.clone(), traceback: Some(long.clone()) },
            EventKind::Other { kind: long.clone(), fields: [("uuid", Value::from(long.as_str()))].into_iter().collect() },
        ] {
            let kept = HeardEvent::of(&event(what), false);
            assert!(kept.bytes() < 40_000 && kept.says().chars().count() <= 201 && kept.timestamp == 0.0, "{}", kept.bytes());
        }
    }

    #[test]
    fn arguments_and_results_that_are_hidden_are_not_kept() {
        let info = TaskInfo { uuid: "i".to_owned(), name: "t".to_owned(), args: Some("(4111,)".to_owned()), ..TaskInfo::default() };
        let received = HeardEvent::of(&event(EventKind::TaskReceived(info)), true);
        assert_eq!((received.task.as_deref(), received.args), (Some("t"), None));
        let what = EventKind::TaskSucceeded { uuid: "i".to_owned(), result: "4111".to_owned(), runtime: 0.5 };
        assert_eq!(
            (HeardEvent::of(&event(what.clone()), true).says(), HeardEvent::of(&event(what), false).says()),
            (String::new(), "4111".to_owned())
        );
    }
}
