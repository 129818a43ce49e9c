//! What running workers say of tasks.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::{Broker, BrokerError};
use longshore_celery::{Value, control::Request};
use longshore_worker::remote::ask_until;
pub use longshore_worker::remote::{PATIENCE, ask, serves, tell};

use super::{
    Fault,
    show::{clock, plain},
};

/// What a worker says of a task that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct AtWorker {
    /// The worker.
    pub node: String,
    /// What it does there: `active`, `reserved`, `scheduled`; anything else: it has just ended.
    pub doing: String,
    /// When it began.
    pub since: Option<SystemTime>,
    /// The rest, as `inspect active` has it.
    pub info: Value,
}

impl AtWorker {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.doing == "active"
    }

    fn of(node: &str, reply: &Value, id: &str) -> Option<Self> {
        let known = reply.get(id)?.as_list()?;
        let (doing, info) = (known.first()?.as_str()?, known.get(1)?);
        let started = info.get("time_start").and_then(Value::as_f64).and_then(|at| Duration::try_from_secs_f64(at).ok());
        let since = started.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(at));
        Some(Self { node: node.to_owned(), doing: doing.to_owned(), since, info: info.clone() })
    }
}

impl fmt::Display for AtWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = plain(&self.node);
        match (self.doing.as_str(), self.since) {
            ("active", Some(since)) => write!(f, "runs at {node} since {}", clock(since)),
            ("active", None) => write!(f, "runs at {node}"),
            ("reserved", _) => write!(f, "waits for a free slot at {node}"),
            ("scheduled", _) => write!(f, "waits for its time at {node}"),
            _ => write!(f, "has ended at {node}, which is about to say so"),
        }
    }
}

/// Asks workers which of these tasks they have. What was acknowledged before it began is known to nobody else; nor is it known where remote control is off.
///
/// # Errors
/// As [`ask`].
pub async fn at_workers(broker: &Arc<dyn Broker>, ids: &[&str]) -> Result<HashMap<String, AtWorker>, BrokerError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let request = Request::new("query_task").argument("ids", ids.to_vec());
    let at = |id: &str, from: &[(String, Value)]| from.iter().find_map(|(node, reply)| AtWorker::of(node, reply, id));
    let from = ask_until(broker, request, PATIENCE, |from| ids.iter().all(|id| at(id, from).is_some())).await?;
    Ok(ids.iter().filter_map(|id| Some(((*id).to_owned(), at(id, &from)?))).collect())
}

/// No worker has replied.
pub fn nobody() -> Fault {
    Fault { code: 69, message: "no nodes replied within time constraint: does a worker run on this broker?".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_what_a_task_does_there() {
        let reply = r#"{"a": ["active", {"id": "a", "time_start": 1000.5}], "b": ["reserved", {"id": "b", "time_start": null}], "c": 7}"#;
        let reply = Value::parse(reply.as_bytes(), 16).unwrap();
        let at = |id: &str| AtWorker::of("w@h", &reply, id);
        let running = at("a").unwrap();
        assert_eq!(running.since, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500)));
        assert!(running.is_running() && running.to_string().starts_with("runs at w@h since "), "{running}");
        assert_eq!(at("b").unwrap().to_string(), "waits for a free slot at w@h");
        assert_eq!((at("c"), at("d")), (None, None));
    }
}
