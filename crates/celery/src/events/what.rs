//! What can happen, and how each kind of it is written.

use crate::value::{Map, Value};

/// The member of a heartbeat that only longshore's workers have.
const ACCOUNT: &str = "longshore";

/// An event of a task or of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// A worker is there.
    WorkerOnline(Heartbeat),
    /// A worker is still there.
    WorkerHeartbeat(Heartbeat),
    /// A worker goes.
    WorkerOffline(Heartbeat),
    /// A client sent a task.
    TaskSent {
        /// The task.
        task: TaskInfo,
        /// Its queue.
        queue: Option<String>,
        /// Its exchange.
        exchange: Option<String>,
        /// Its routing key.
        routing_key: Option<String>,
    },
    /// A worker has a task.
    TaskReceived(TaskInfo),
    /// A task begins.
    TaskStarted {
        /// The task's id.
        uuid: String,
    },
    /// A task is done.
    TaskSucceeded {
        /// The task's id.
        uuid: String,
        /// Its result, as Python shows it.
        result: String,
        /// Its running time, in seconds.
        runtime: f64,
    },
    /// A task failed.
    TaskFailed {
        /// The task's id.
        uuid: String,
        /// The exception, as Python shows it.
        exception: String,
        /// Traceback of its failure.
        traceback: Option<String>,
    },
    /// A task will be tried again.
    TaskRetried {
        /// The task's id.
        uuid: String,
        /// The exception, as Python shows it.
        exception: String,
        /// Traceback of its failure.
        traceback: Option<String>,
    },
    /// A task was called off.
    TaskRevoked {
        /// The task's id.
        uuid: String,
        /// True where it was running.
        terminated: bool,
        /// The signal that ended it.
        signum: Option<i64>,
        /// True where its time had passed.
        expired: bool,
    },
    /// A worker refused a task.
    TaskRejected {
        /// The task's id.
        uuid: String,
        /// True where it went back into its queue.
        requeue: bool,
    },
    /// Something else: its kind (`worker-elect`), and its fields.
    Other {
        /// Its kind.
        kind: String,
        /// Its fields.
        fields: Map,
    },
}

/// State of a worker.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Heartbeat {
    /// Seconds between its heartbeats; twice that without one, and it is taken for dead.
    pub freq: f64,
    /// Number of tasks that run. Absent, as are the next two, in a heartbeat that was asked for.
    pub active: Option<i64>,
    /// Number of tasks that have ended.
    pub processed: Option<i64>,
    /// The machine's load over one, five and fifteen minutes.
    pub loadavg: Option<[f64; 3]>,
    /// The program.
    pub sw_ident: String,
    /// Its version.
    pub sw_ver: String,
    /// The system (`Linux`).
    pub sw_sys: String,
    /// Account that a worker of longshore gives of itself, in the words of its reply to `stats`: so
    /// that nobody need ask it. Celery's readers pass over it.
    pub account: Option<Map>,
}

/// A task, for people.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TaskInfo {
    /// Its id.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its arguments as Python shows them.
    pub args: Option<String>,
    /// Its keyword arguments as Python shows them.
    pub kwargs: Option<String>,
    /// The first task of its tree.
    pub root_id: Option<String>,
    /// The task that sent it.
    pub parent_id: Option<String>,
    /// Number of its retries.
    pub retries: i64,
    /// Not to be started before (ISO 8601).
    pub eta: Option<String>,
    /// Not to be started after (ISO 8601).
    pub expires: Option<String>,
    /// Its queue, where a worker of longshore has it. Celery's say none, and pass over it.
    pub queue: Option<String>,
}

impl EventKind {
    /// The word for it: `task-succeeded`.
    pub fn kind(&self) -> &str {
        match self {
            Self::WorkerOnline(_) => "worker-online",
            Self::WorkerHeartbeat(_) => "worker-heartbeat",
            Self::WorkerOffline(_) => "worker-offline",
            Self::TaskSent { .. } => "task-sent",
            Self::TaskReceived(_) => "task-received",
            Self::TaskStarted { .. } => "task-started",
            Self::TaskSucceeded { .. } => "task-succeeded",
            Self::TaskFailed { .. } => "task-failed",
            Self::TaskRetried { .. } => "task-retried",
            Self::TaskRevoked { .. } => "task-revoked",
            Self::TaskRejected { .. } => "task-rejected",
            Self::Other { kind, .. } => kind,
        }
    }

    /// Returns whether it is an event of a task: such events are published only when they are
    /// switched on, and may travel together.
    pub fn is_task(&self) -> bool {
        self.kind().starts_with("task-")
    }

    /// The id of the task that it happened to.
    pub fn task_id(&self) -> Option<&str> {
        match self {
            Self::TaskSent { task, .. } | Self::TaskReceived(task) => Some(&task.uuid),
            Self::TaskStarted { uuid }
            | Self::TaskSucceeded { uuid, .. }
            | Self::TaskFailed { uuid, .. }
            | Self::TaskRetried { uuid, .. }
            | Self::TaskRevoked { uuid, .. }
            | Self::TaskRejected { uuid, .. } => Some(uuid),
            Self::Other { fields, .. } => fields.get("uuid").and_then(Value::as_str),
            Self::WorkerOnline(_) | Self::WorkerHeartbeat(_) | Self::WorkerOffline(_) => None,
        }
    }

    pub(super) fn fields(&self) -> Map {
        let id = |uuid: &str| ("uuid", Value::from(uuid));
        match self {
            Self::WorkerOnline(beat) | Self::WorkerHeartbeat(beat) | Self::WorkerOffline(beat) => beat.fields(),
            Self::TaskSent { task, queue, exchange, routing_key } => {
                let order = ["uuid", "root_id", "parent_id", "name", "args", "kwargs", "retries", "eta", "expires"];
                let mut fields = task.fields(&order);
                fields.set("queue", queue.as_deref());
                fields.set("exchange", exchange.as_deref());
                fields.set("routing_key", routing_key.as_deref());
                fields
            }
            Self::TaskReceived(task) => {
                let mut fields = task.fields(&["uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires"]);
                if let Some(queue) = &task.queue {
                    fields.set("queue", queue.as_str());
                }
                fields
            }
            Self::TaskStarted { uuid } => Map::from_iter([id(uuid)]),
            Self::TaskSucceeded { uuid, result, runtime } => {
                Map::from_iter([id(uuid), ("result", result.as_str().into()), ("runtime", (*runtime).into())])
            }
            Self::TaskFailed { uuid, exception, traceback } | Self::TaskRetried { uuid, exception, traceback } => {
                Map::from_iter([id(uuid), ("exception", exception.as_str().into()), ("traceback", traceback.as_deref().into())])
            }
            Self::TaskRevoked { uuid, terminated, signum, expired } => Map::from_iter([
                id(uuid),
                ("terminated", (*terminated).into()),
                ("signum", (*signum).into()),
                ("expired", (*expired).into()),
            ]),
            Self::TaskRejected { uuid, requeue } => Map::from_iter([id(uuid), ("requeue", (*requeue).into())]),
            Self::Other { fields, .. } => fields.clone(),
        }
    }

    pub(super) fn read(kind: &str, fields: Map) -> Self {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let uuid = || text("uuid").unwrap_or_default();
        let is = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or_default();
        let (exception, traceback) = (|| text("exception").unwrap_or_default(), || text("traceback"));
        match kind {
            "worker-online" => Self::WorkerOnline(Heartbeat::read(&fields)),
            "worker-heartbeat" => Self::WorkerHeartbeat(Heartbeat::read(&fields)),
            "worker-offline" => Self::WorkerOffline(Heartbeat::read(&fields)),
            "task-sent" => Self::TaskSent {
                task: TaskInfo { queue: None, ..TaskInfo::read(&fields) },
                queue: text("queue"),
                exchange: text("exchange"),
                routing_key: text("routing_key"),
            },
            "task-received" => Self::TaskReceived(TaskInfo::read(&fields)),
            "task-started" => Self::TaskStarted { uuid: uuid() },
            "task-succeeded" => Self::TaskSucceeded {
                uuid: uuid(),
                result: text("result").unwrap_or_default(),
                runtime: fields.get("runtime").and_then(Value::as_f64).unwrap_or_default(),
            },
            "task-failed" => Self::TaskFailed { uuid: uuid(), exception: exception(), traceback: traceback() },
            "task-retried" => Self::TaskRetried { uuid: uuid(), exception: exception(), traceback: traceback() },
            "task-revoked" => Self::TaskRevoked {
                uuid: uuid(),
                terminated: is("terminated"),
                signum: fields.get("signum").and_then(Value::as_i64),
                expired: is("expired"),
            },
            "task-rejected" => Self::TaskRejected { uuid: uuid(), requeue: is("requeue") },
            other => Self::Other { kind: other.to_owned(), fields },
        }
    }
}

impl Heartbeat {
    fn fields(&self) -> Map {
        let mut fields = Map::from_iter([("freq", self.freq)]);
        for (name, count) in [("active", self.active), ("processed", self.processed)] {
            if let Some(count) = count {
                fields.set(name, count);
            }
        }
        if let Some(loads) = self.loadavg {
            fields.set("loadavg", loads.to_vec());
        }
        for (name, text) in [("sw_ident", &self.sw_ident), ("sw_ver", &self.sw_ver), ("sw_sys", &self.sw_sys)] {
            fields.set(name, text.as_str());
        }
        if let Some(account) = &self.account {
            fields.set(ACCOUNT, account.clone());
        }
        fields
    }

    fn read(fields: &Map) -> Self {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let whole = |name: &str| fields.get(name).and_then(Value::as_i64);
        let load = |loads: &[Value], at: usize| loads.get(at).and_then(Value::as_f64).unwrap_or_default();
        let loads = fields.get("loadavg").and_then(Value::as_list);
        Self {
            freq: fields.get("freq").and_then(Value::as_f64).unwrap_or_default(),
            active: whole("active"),
            processed: whole("processed"),
            loadavg: loads.map(|loads| [load(loads, 0), load(loads, 1), load(loads, 2)]),
            sw_ident: text("sw_ident"),
            sw_ver: text("sw_ver"),
            sw_sys: text("sw_sys"),
            account: fields.get(ACCOUNT).and_then(Value::as_map).cloned(),
        }
    }
}

impl TaskInfo {
    fn fields(&self, order: &[&str]) -> Map {
        let of = |name: &str| -> Value {
            match name {
                "uuid" => self.uuid.as_str().into(),
                "name" => self.name.as_str().into(),
                "args" => self.args.as_deref().into(),
                "kwargs" => self.kwargs.as_deref().into(),
                "root_id" => self.root_id.as_deref().into(),
                "parent_id" => self.parent_id.as_deref().into(),
                "retries" => self.retries.into(),
                "eta" => self.eta.as_deref().into(),
                _ => self.expires.as_deref().into(),
            }
        };
        order.iter().map(|name| (*name, of(name))).collect::<Map>()
    }

    fn read(fields: &Map) -> Self {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            uuid: text("uuid").unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            args: text("args"),
            kwargs: text("kwargs"),
            root_id: text("root_id"),
            parent_id: text("parent_id"),
            retries: fields.get("retries").and_then(Value::as_i64).unwrap_or_default(),
            eta: text("eta"),
            expires: text("expires"),
            queue: text("queue"),
        }
    }
}
