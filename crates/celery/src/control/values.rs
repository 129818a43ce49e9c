//! What replies say.

use std::time::SystemTime;

use super::ok;
use crate::{
    message::Message,
    repr::{REPR_LENGTH, args_repr, kwargs_repr, repr},
    value::{Map, Value},
};

/// A task that a worker has.
#[derive(Clone, Copy, Debug)]
pub struct TaskView<'a> {
    /// Its message.
    pub message: &'a Message,
    /// The queue that it came from.
    pub queue: &'a str,
    /// The node.
    pub node: &'a str,
    /// Its beginning, in seconds since 1970; absent if it has not.
    pub time_start: Option<f64>,
    /// True where its message was acknowledged.
    pub acknowledged: bool,
    /// The process that runs it.
    pub worker_pid: Option<i64>,
}

impl TaskView<'_> {
    /// The task's entry in `active`, `reserved`, `scheduled` and `query_task`; with `safe` its
    /// arguments are texts. Where its queue is not its routing key (it was moved), the queue is a
    /// member of its own.
    pub fn to_value(&self, safe: bool) -> Value {
        let message = self.message;
        let (args, kwargs) = if safe {
            let args = message.argsrepr.clone().unwrap_or_else(|| args_repr(&message.args, REPR_LENGTH));
            let kwargs = message.kwargsrepr.clone().unwrap_or_else(|| kwargs_repr(&message.kwargs, REPR_LENGTH));
            (args.into(), kwargs.into())
        } else {
            (Value::List(message.args.clone()), Value::Map(message.kwargs.clone()))
        };
        let delivery_info: [(&str, Value); 4] = [
            ("exchange", message.exchange.as_str().into()),
            ("routing_key", message.routing_key.as_str().into()),
            ("priority", u32::from(message.priority.unwrap_or(0)).into()),
            ("redelivered", message.redelivered.into()),
        ];
        let members: [(&str, Value); 10] = [
            ("id", message.id.as_str().into()),
            ("name", message.shadow.as_deref().filter(|shadow| !shadow.is_empty()).unwrap_or(&message.task).into()),
            ("args", args),
            ("kwargs", kwargs),
            ("type", message.task.as_str().into()),
            ("hostname", self.node.into()),
            ("time_start", self.time_start.into()),
            ("acknowledged", self.acknowledged.into()),
            ("delivery_info", Map::from_iter(delivery_info).into()),
            ("worker_pid", self.worker_pid.into()),
        ];
        let mut entry = Map::from_iter(members);
        if self.queue != message.routing_key {
            entry.set("queue", self.queue);
        }
        Value::Map(entry)
    }
}

/// `scheduled`: a task that waits for its time: `due`, or where that is absent its ETA.
pub fn scheduled(task: &TaskView<'_>, due: Option<SystemTime>) -> Value {
    let eta = due.or(task.message.eta).map(crate::message::times::format);
    Value::Map(Map::from_iter([("eta", Value::from(eta)), ("priority", 6.into()), ("request", task.to_value(false))]))
}

/// `query_task`: each task with what it does (`active`, `reserved`, `scheduled`, `ready`). What it
/// waits for, where that is given, is a member `waits` of its entry: Celery's clients pass over
/// what they do not know.
pub fn query_task<'a>(tasks: impl IntoIterator<Item = (&'a str, TaskView<'a>, Option<Map>)>) -> Value {
    let entry = |(doing, task, waits): (&str, TaskView<'_>, Option<Map>)| {
        let mut info = task.to_value(false);
        if let (Value::Map(info), Some(waits)) = (&mut info, waits) {
            info.set("waits", waits);
        }
        (task.message.id.clone(), Value::List(vec![doing.into(), info]))
    };
    Value::Map(tasks.into_iter().map(entry).collect())
}

/// An entry of `registered`: `lab.limited [rate_limit=2/s]`, with those items that the task has.
pub fn registered(task: &str, items: &[(&str, String)]) -> Value {
    if items.is_empty() {
        return task.into();
    }
    let items: Vec<String> = items.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{task} [{}]", items.join(" ")).into()
}

/// A task as a worker tells it in `registered`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredTask {
    /// Its name.
    pub task: String,
    /// Those of the items asked for that it has, each with its value.
    pub items: Vec<(String, String)>,
}

impl RegisteredTask {
    /// Returns the value of an item; `None` where the task has none.
    pub fn item(&self, name: &str) -> Option<&str> {
        self.items.iter().find(|(item, _)| item == name).map(|(_, value)| value.as_str())
    }
}

/// Reads what a worker replied to `registered`, the other way round than [`registered`] writes it.
/// What is no task is passed over.
pub fn read_registered(reply: &Value) -> Vec<RegisteredTask> {
    let read = |entry: &str| {
        let (task, items) = entry.strip_suffix(']').and_then(|entry| entry.split_once(" [")).unwrap_or((entry, ""));
        let items = items.split(' ').filter_map(|item| item.split_once('='));
        let items = items.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        RegisteredTask { task: task.to_owned(), items }
    };
    reply.as_list().unwrap_or_default().iter().filter_map(Value::as_str).map(read).collect()
}

/// `hello` from another node: what is called off here, the oldest first, and the logical time. To
/// itself a node replies null.
pub fn hello(revoked: &[String], clock: u64) -> Value {
    Value::Map(Map::from_iter([("revoked", Value::from(revoked.to_vec())), ("clock", clock.into())]))
}

/// Reads another node's reply to `hello`: the ids that are called off there (up to Celery 5.6 an
/// object, id to times), and its logical time. `None` for anything else, such as what a node
/// replies to itself.
pub fn read_hello(reply: &Value) -> Option<(Vec<String>, u64)> {
    let ids = match reply.get("revoked")? {
        Value::List(ids) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::Map(ids) => ids.iter().map(|(id, _)| id.to_owned()).collect(),
        _ => return None,
    };
    let clock = reply.get("clock").and_then(Value::as_i64).and_then(|clock| u64::try_from(clock).ok());
    Some((ids, clock.unwrap_or_default()))
}

/// `revoke`: these are called off.
pub fn revoked(ids: &[String]) -> Value {
    let shown: Vec<String> = ids.iter().map(|id| repr(&id.as_str().into())).collect();
    let set = if shown.is_empty() { "set()".to_owned() } else { format!("{{{}}}", shown.join(", ")) };
    ok(format!("tasks {set} flagged as revoked"))
}

/// `revoke` with `terminate`: these were running.
pub fn terminated(ids: &[String]) -> Value {
    if ids.is_empty() { ok("terminate: tasks unknown") } else { ok(format!("terminate: {}", ids.join(", "))) }
}

/// `revoke_by_stamped_headers` without `terminate`.
pub fn stamps_revoked(headers: &Map) -> Value {
    ok(format!("headers {} flagged as revoked, but not terminated", repr(&headers.clone().into())))
}

/// `revoke_by_stamped_headers` with `terminate`, where nothing with such a stamp runs.
pub fn stamps_not_terminated(headers: &Map) -> Value {
    ok(format!("headers {} were not terminated", repr(&headers.clone().into())))
}

/// A queue that a worker takes from. Clients compare it literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// The queue.
    pub name: String,
    /// Its exchange; of type `direct` as a rule.
    pub exchange: String,
    /// The exchange's type.
    pub exchange_type: String,
    /// Its routing key.
    pub routing_key: String,
}

impl Consumed {
    /// A queue with an exchange and a routing key of its own name, as Celery declares queues that
    /// it is not told more of.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { exchange: name.clone(), exchange_type: "direct".to_owned(), routing_key: name.clone(), name }
    }

    /// Its entry in `active_queues`.
    pub fn to_value(&self) -> Value {
        let exchange: [(&str, Value); 8] = [
            ("name", self.exchange.as_str().into()),
            ("type", self.exchange_type.as_str().into()),
            ("arguments", Value::Null),
            ("durable", true.into()),
            ("passive", false.into()),
            ("auto_delete", false.into()),
            ("delivery_mode", Value::Null),
            ("no_declare", false.into()),
        ];
        let members: [(&str, Value); 18] = [
            ("name", self.name.as_str().into()),
            ("exchange", Map::from_iter(exchange).into()),
            ("routing_key", self.routing_key.as_str().into()),
            ("queue_arguments", Value::Null),
            ("binding_arguments", Value::Null),
            ("consumer_arguments", Value::Null),
            ("durable", true.into()),
            ("exclusive", false.into()),
            ("auto_delete", false.into()),
            ("no_ack", false.into()),
            ("alias", Value::Null),
            ("bindings", Value::List(Vec::new())),
            ("no_declare", Value::Null),
            ("expires", Value::Null),
            ("message_ttl", Value::Null),
            ("max_length", Value::Null),
            ("max_length_bytes", Value::Null),
            ("max_priority", Value::Null),
        ];
        Value::Map(Map::from_iter(members))
    }
}

/// Statistics of a worker.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Stats {
    /// Number of tasks of each name that it took.
    pub total: Vec<(String, u64)>,
    /// Its process.
    pub pid: i64,
    /// Its logical time.
    pub clock: u64,
    /// Seconds since it started.
    pub uptime: u64,
    /// Name of its pool.
    pub implementation: String,
    /// Most tasks that it runs at once.
    pub concurrency: u64,
    /// The processes of its pool.
    pub processes: Vec<i64>,
    /// Most messages that it takes ahead.
    pub prefetch_count: u64,
    /// Its broker: `hostname`, `port`, `transport`, `virtual_host`, `userid`, `ssl`, …; never a
    /// password.
    pub broker: Map,
    /// Resources that it used, as the system counts them.
    pub rusage: Map,
}

impl Stats {
    /// The reply to `stats`.
    pub fn to_value(&self) -> Value {
        let pool: [(&str, Value); 7] = [
            ("implementation", self.implementation.as_str().into()),
            ("max-concurrency", self.concurrency.into()),
            ("processes", self.processes.clone().into()),
            ("max-tasks-per-child", "N/A".into()),
            ("put-guarded-by-semaphore", false.into()),
            ("timeouts", vec![0, 0].into()),
            ("writes", Map::default().into()),
        ];
        let members: [(&str, Value); 8] = [
            ("total", Value::Map(self.total.iter().map(|(task, count)| (task.as_str(), *count)).collect())),
            ("pid", self.pid.into()),
            // A text, for reasons of its own.
            ("clock", self.clock.to_string().into()),
            ("uptime", self.uptime.into()),
            ("pool", Map::from_iter(pool).into()),
            ("broker", self.broker.clone().into()),
            ("prefetch_count", self.prefetch_count.into()),
            ("rusage", self.rusage.clone().into()),
        ];
        Value::Map(Map::from_iter(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_task_is_read_as_it_was_written() {
        let items = |items: &[(&'static str, &str)]| items.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>();
        for (task, items) in [
            ("shop.add", items(&[])),
            ("shop.add", items(&[("lane", "process")])),
            ("shop.add", items(&[("exchange", "x"), ("rate_limit", "10/m")])),
            ("odd [", items(&[])),
        ] {
            let told = read_registered(&Value::List(vec![registered(task, &items)]));
            let items = items.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(told, [RegisteredTask { task: task.to_owned(), items }]);
        }
        let odd = Value::parse(br#"["t", 5, null]"#, 8).unwrap();
        assert_eq!(read_registered(&odd).len(), 1);
        assert_eq!(read_registered(&Value::Null), []);
    }
}
