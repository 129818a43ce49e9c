//! The sections of a config file.

use super::schema::{self, Keys};

/// Command line of a run of nothing, with which flags of `run` are checked.
pub const RUN_WORDS: &[&str] = &["run", "--noop"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SectionId {
    Top,
    Run,
    Job(String),
    Limit(String),
    Retry(String),
    Connections,
    Route(String),
    Queue(String),
    Worker,
    /// `[dashboard]`.
    Dashboard,
    Task(String),
    Schedule(String),
    Kafka(String),
}

impl SectionId {
    pub(super) fn keys(&self) -> Keys {
        match self {
            SectionId::Top => schema::TOP,
            SectionId::Run | SectionId::Job(_) => schema::RUN,
            SectionId::Limit(_) => schema::LIMIT,
            SectionId::Retry(_) => schema::RETRY,
            SectionId::Connections => schema::CONNECTIONS,
            SectionId::Route(_) => schema::ROUTE,
            SectionId::Queue(_) => schema::QUEUE,
            SectionId::Worker => schema::WORKER,
            SectionId::Dashboard => schema::DASHBOARD,
            SectionId::Task(_) => schema::TASK,
            SectionId::Schedule(_) => schema::SCHEDULE,
            SectionId::Kafka(_) => schema::KAFKA,
        }
    }

    /// The command whose flags the keys are; none where they are no flags.
    pub(super) fn command(&self) -> Option<Vec<&str>> {
        match self {
            SectionId::Top | SectionId::Run | SectionId::Job(_) | SectionId::Limit(_) | SectionId::Retry(_) => Some(RUN_WORDS.to_vec()),
            SectionId::Worker => Some(vec!["worker"]),
            SectionId::Dashboard => Some(vec!["dashboard"]),
            SectionId::Kafka(topic) => Some(vec!["kafka", "consume", topic]),
            SectionId::Connections | SectionId::Route(_) | SectionId::Queue(_) | SectionId::Task(_) | SectionId::Schedule(_) => None,
        }
    }

    /// The long name of a key's flag.
    pub(super) fn flag(&self, name: &'static str) -> &'static str {
        if *self == SectionId::Worker && name == "lanes" { "lane" } else { name }
    }

    /// The header's text.
    pub(super) fn header(&self) -> Option<String> {
        // Names with other characters need quotes, which TOML writes as JSON does.
        let quoted = |name: &str| match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) && !name.is_empty() {
            true => name.to_owned(),
            false => serde_json::Value::from(name).to_string(),
        };
        Some(match self {
            SectionId::Top => return None,
            SectionId::Run => "run".to_owned(),
            SectionId::Job(name) => format!("job.{}", quoted(name)),
            SectionId::Limit(name) => format!("limits.{}", quoted(name)),
            SectionId::Retry(name) => format!("retry.{}", quoted(name)),
            SectionId::Connections => "connections".to_owned(),
            SectionId::Route(pattern) => format!("routes.{}", quoted(pattern)),
            SectionId::Queue(name) => format!("queues.{}", quoted(name)),
            SectionId::Worker => "worker".to_owned(),
            SectionId::Dashboard => "dashboard".to_owned(),
            SectionId::Task(name) => format!("tasks.{}", quoted(name)),
            SectionId::Schedule(name) => format!("schedules.{}", quoted(name)),
            SectionId::Kafka(name) => format!("kafka.{}", quoted(name)),
        })
    }

    /// ` in [job.prices]`, for messages.
    pub(super) fn place(&self) -> String {
        self.header().map(|header| format!(" in [{header}]")).unwrap_or_default()
    }
}
