//! What is asked of a worker.

use super::{
    arguments::{Parameters, raised, type_error},
    error,
    request::Request,
};
use crate::value::{Map, Value};

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Are you there?
    Ping,
    /// The tasks that run; with `safe` their arguments as text.
    Active {
        /// Arguments as text.
        safe: bool,
    },
    /// The tasks that wait for a place.
    Reserved,
    /// The tasks that wait for their time.
    Scheduled,
    /// The ids of tasks that are called off.
    Revoked,
    /// The names of the tasks that it knows, each with those of these items that it has.
    Registered {
        /// The items.
        items: Vec<String>,
        /// Also the built-in ones.
        builtins: bool,
    },
    /// Its statistics so far.
    Stats,
    /// The queues that it takes from.
    ActiveQueues,
    /// Its settings.
    Conf {
        /// Also those that are not set.
        with_defaults: bool,
    },
    /// Its program and its system.
    Report,
    /// Its logical time.
    Clock,
    /// A node starts, and tells what it knows.
    Hello {
        /// The node.
        from_node: String,
        /// The ids of tasks that are called off.
        revoked: Vec<String>,
    },
    /// The memory that it holds.
    Memsample,
    /// Its view as JSON: a command of ours, which Celery's own workers do not know.
    View,
    /// The places of these tasks.
    QueryTask {
        /// Their ids.
        ids: Vec<String>,
    },
    /// A new rate for tasks of this name.
    RateLimit {
        /// The task's name.
        task_name: String,
        /// The rate.
        rate_limit: Rate,
    },
    /// New limits of time for tasks of this name.
    TimeLimit {
        /// The task's name.
        task_name: Option<String>,
        /// The soft limit, in seconds.
        soft: Option<f64>,
        /// The hard limit, in seconds.
        hard: Option<f64>,
    },
    /// More places.
    PoolGrow {
        /// Number of places.
        n: i64,
    },
    /// Fewer places.
    PoolShrink {
        /// Number of places.
        n: i64,
    },
    /// Start the pool anew.
    PoolRestart,
    /// Between how many places and how many.
    Autoscale {
        /// At most.
        max: Option<i64>,
        /// At least.
        min: Option<i64>,
    },
    /// Take from this queue too.
    AddConsumer {
        /// The queue.
        queue: String,
        /// Its exchange.
        exchange: Option<String>,
        /// The exchange's type.
        exchange_type: Option<String>,
        /// Its routing key.
        routing_key: Option<String>,
    },
    /// Take no longer from this queue.
    CancelConsumer {
        /// The queue.
        queue: String,
    },
    /// Tell of tasks.
    EnableEvents,
    /// Tell no longer of tasks.
    DisableEvents,
    /// Give a sign of life.
    Heartbeat,
    /// Call tasks off.
    Revoke {
        /// Their ids.
        ids: Vec<String>,
        /// Also those that run.
        terminate: bool,
        /// With this signal.
        signal: Option<String>,
    },
    /// Call off tasks with one of these stamps.
    RevokeByStampedHeaders {
        /// Stamps by name: one, or a list of them.
        headers: Map,
        /// Also those that run.
        terminate: bool,
        /// With this signal.
        signal: Option<String>,
    },
    /// Finish what runs, and end.
    Shutdown,
    /// A vote on the worker that does something.
    Election {
        /// Names the election.
        id: String,
        /// Subject of the election.
        topic: String,
        /// Work for the worker that is elected.
        action: Value,
    },
}

/// Rate at which tasks may start.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// Starts in a second; 0 is no limit.
    pub per_second: f64,
    /// As it was said: `10/m`.
    pub said: Value,
}

impl Rate {
    /// Reads `10`, `"10/s"`, `"10/m"`, `"10/h"`; nothing and 0 are no limit.
    ///
    /// # Errors
    /// It says something else: what to reply.
    pub fn read(said: &Value) -> Result<Self, Value> {
        let per_second = match said {
            Value::Null | Value::Bool(false) => 0.0,
            Value::Text(text) if text.is_empty() => 0.0,
            Value::Text(text) => {
                let (number, unit) = text.split_once('/').unwrap_or((text, ""));
                let seconds = match unit {
                    "" | "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    other => return Err(raised("KeyError", other)),
                };
                let wrong = || error(&format!("Invalid rate limit string: {}", float_error(number)));
                number.trim().parse::<f64>().map_err(|_| wrong())? / seconds
            }
            other => match other.as_f64() {
                Some(number) => number,
                None => return Err(type_error("a rate limit is a number or a text like 10/m")),
            },
        };
        Ok(Self { per_second, said: said.clone() })
    }
}

fn float_error(text: &str) -> String {
    let shown = crate::repr::repr(&text.into());
    crate::result::Exception::builtin("ValueError", format!("could not convert string to float: {shown}")).to_string()
}

const fn parameters(name: &'static str, required: &'static [&'static str], optional: &'static [&'static str], open: bool) -> Parameters {
    Parameters { name, required, optional, open }
}

/// Returns what a command takes in Python, by any of the names that it goes by.
fn parameters_of(method: &str) -> Option<Parameters> {
    Some(match method {
        "ping" => parameters("ping", &[], &[], true),
        "active" | "dump_active" => parameters("active", &[], &["safe"], true),
        "reserved" | "dump_reserved" => parameters("reserved", &[], &[], true),
        "scheduled" | "dump_schedule" => parameters("scheduled", &[], &[], true),
        "revoked" | "dump_revoked" => parameters("revoked", &[], &[], true),
        "registered" | "dump_tasks" => parameters("registered", &[], &["taskinfoitems", "builtins"], true),
        "stats" => parameters("stats", &[], &[], true),
        "active_queues" => parameters("active_queues", &[], &[], false),
        "conf" | "dump_conf" => parameters("conf", &[], &["with_defaults"], true),
        "report" => parameters("report", &[], &[], false),
        "clock" => parameters("clock", &[], &[], true),
        "hello" => parameters("hello", &["from_node"], &["revoked"], true),
        "memsample" => parameters("memsample", &[], &[], true),
        "longshore_view" => parameters("longshore_view", &[], &[], true),
        "query_task" => parameters("query_task", &["ids"], &[], true),
        "rate_limit" => parameters("rate_limit", &["task_name", "rate_limit"], &[], true),
        "time_limit" => parameters("time_limit", &[], &["task_name", "hard", "soft"], true),
        "pool_grow" => parameters("pool_grow", &[], &["n"], true),
        "pool_shrink" => parameters("pool_shrink", &[], &["n"], true),
        "pool_restart" => parameters("pool_restart", &[], &["modules", "reload", "reloader"], true),
        "autoscale" => parameters("autoscale", &[], &["max", "min"], false),
        "add_consumer" => parameters("add_consumer", &["queue"], &["exchange", "exchange_type", "routing_key"], true),
        "cancel_consumer" => parameters("cancel_consumer", &["queue"], &[], true),
        "enable_events" => parameters("enable_events", &[], &[], false),
        "disable_events" => parameters("disable_events", &[], &[], false),
        "heartbeat" => parameters("heartbeat", &[], &[], false),
        "revoke" => parameters("revoke", &["task_id"], &["terminate", "signal"], true),
        "terminate" => parameters("terminate", &["signal", "task_id"], &[], true),
        "revoke_by_stamped_headers" => parameters("revoke_by_stamped_headers", &["headers"], &["terminate", "signal"], true),
        "shutdown" => parameters("shutdown", &[], &["msg"], true),
        "election" => parameters("election", &["id", "topic"], &["action"], true),
        _ => return None,
    })
}

impl Command {
    /// Returns whether there is a command of this name, one of Celery's or of ours.
    pub fn is_known(name: &str) -> bool {
        parameters_of(name).is_some()
    }

    /// Reads a request's command.
    ///
    /// # Errors
    /// There is no such command, or these are not its arguments: what to reply.
    pub fn read(request: &Request) -> Result<Self, Value> {
        let Some(parameters) = parameters_of(&request.method) else { return Err(raised("KeyError", &request.method)) };
        // Checked first, as Python does: a wrong name must not be passed over in silence.
        parameters.check(&request.arguments)?;
        let of = Arguments(&request.arguments);
        Ok(match parameters.name {
            "ping" => Self::Ping,
            "active" => Self::Active { safe: of.truth("safe") },
            "reserved" => Self::Reserved,
            "scheduled" => Self::Scheduled,
            "revoked" => Self::Revoked,
            "registered" => {
                let mut items = of.texts("taskinfoitems");
                items.retain(|item| !item.starts_with('_'));
                // Celery's own choice, where nothing was asked for.
                if of.texts("taskinfoitems").is_empty() {
                    items = ["exchange", "routing_key", "rate_limit"].map(str::to_owned).to_vec();
                }
                Self::Registered { items, builtins: of.truth("builtins") }
            }
            "stats" => Self::Stats,
            "active_queues" => Self::ActiveQueues,
            "conf" => Self::Conf { with_defaults: of.truth("with_defaults") },
            "report" => Self::Report,
            "clock" => Self::Clock,
            "hello" => Self::Hello { from_node: of.text("from_node").unwrap_or_default(), revoked: of.texts("revoked") },
            "memsample" => Self::Memsample,
            "longshore_view" => Self::View,
            "query_task" => Self::QueryTask { ids: of.texts("ids") },
            "rate_limit" => {
                let rate_limit = Rate::read(request.arguments.get("rate_limit").unwrap_or(&Value::Null))?;
                Self::RateLimit { task_name: of.text("task_name").unwrap_or_default(), rate_limit }
            }
            "time_limit" => Self::TimeLimit { task_name: of.text("task_name"), soft: of.seconds("soft")?, hard: of.seconds("hard")? },
            "pool_grow" => Self::PoolGrow { n: of.whole("n")?.unwrap_or(1) },
            "pool_shrink" => Self::PoolShrink { n: of.whole("n")?.unwrap_or(1) },
            "pool_restart" => Self::PoolRestart,
            "autoscale" => Self::Autoscale { max: of.whole("max")?, min: of.whole("min")? },
            "add_consumer" => Self::AddConsumer {
                queue: of.text("queue").ok_or_else(|| type_error("queue is not a text"))?,
                exchange: of.text("exchange"),
                exchange_type: of.text("exchange_type"),
                routing_key: of.text("routing_key"),
            },
            "cancel_consumer" => Self::CancelConsumer { queue: of.text("queue").ok_or_else(|| type_error("queue is not a text"))? },
            "enable_events" => Self::EnableEvents,
            "disable_events" => Self::DisableEvents,
            "heartbeat" => Self::Heartbeat,
            "revoke" => Self::Revoke { ids: of.texts("task_id"), terminate: of.truth("terminate"), signal: of.text("signal") },
            "terminate" => Self::Revoke { ids: of.texts("task_id"), terminate: true, signal: of.text("signal") },
            "revoke_by_stamped_headers" => {
                Self::RevokeByStampedHeaders { headers: of.stamps()?, terminate: of.truth("terminate"), signal: of.text("signal") }
            }
            "shutdown" => Self::Shutdown,
            // The last of those that `parameters_of` knows.
            _ => Self::Election {
                id: of.text("id").unwrap_or_default(),
                topic: of.text("topic").unwrap_or_default(),
                action: request.arguments.get("action").cloned().unwrap_or_default(),
            },
        })
    }
}

/// Arguments by name.
struct Arguments<'a>(&'a Map);

impl Arguments<'_> {
    /// As Python takes it for true.
    fn truth(&self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(is)) => *is,
            Some(Value::Text(text)) => !text.is_empty(),
            Some(Value::List(list)) => !list.is_empty(),
            Some(other) => other.as_f64() != Some(0.0),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// One text or several; of an object its names.
    fn texts(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Text(one)) => vec![one.clone()],
            Some(Value::List(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::Map(map)) => map.iter().map(|(name, _)| name.to_owned()).collect(),
            _ => Vec::new(),
        }
    }

    fn whole(&self, name: &str) -> Result<Option<i64>, Value> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Int(number)) => Ok(Some(*number)),
            Some(Value::Text(text)) if text.trim().parse::<i64>().is_ok() => Ok(text.trim().parse().ok()),
            Some(other) => Err(type_error(&format!("{name} is not a whole number but {}", other.kind()))),
        }
    }

    fn seconds(&self, name: &str) -> Result<Option<f64>, Value> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
                Some(seconds) => Ok(Some(seconds)),
                None => Err(type_error(&format!("{name} is not a number of seconds"))),
            },
        }
    }

    /// Stamps by name, also as `["name=stamp"]`.
    fn stamps(&self) -> Result<Map, Value> {
        match self.0.get("headers") {
            Some(Value::Map(headers)) => match headers.iter().find(|(_, stamps)| stamps.is_null()) {
                Some(_) => Err(type_error("'NoneType' object is not iterable")),
                None => Ok(headers.clone()),
            },
            Some(Value::List(list)) => {
                let mut headers = Map::default();
                for pair in list {
                    let mut parts = pair.as_str().unwrap_or_default().split('=');
                    let (Some(name), Some(stamp)) = (parts.next(), parts.next()) else {
                        return Err(raised("IndexError", "list index out of range"));
                    };
                    headers.set(name, stamp);
                }
                Ok(headers)
            }
            _ => Err(type_error("headers is neither an object nor a list of name=stamp")),
        }
    }
}
