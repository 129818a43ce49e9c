//! The sections of a config file.

use super::schema::{self, Key};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SectionId {
    Top,
    Run,
    Job(String),
    Limit(String),
    Retry(String),
    Connections,
    Worker,
    Task(String),
    Kafka(String),
}

impl SectionId {
    pub(super) fn keys(&self) -> &'static [Key] {
        match self {
            SectionId::Top => schema::TOP,
            SectionId::Run | SectionId::Job(_) => schema::RUN,
            SectionId::Limit(_) => schema::LIMIT,
            SectionId::Retry(_) => schema::RETRY,
            SectionId::Connections => schema::CONNECTIONS,
            SectionId::Worker => schema::WORKER,
            SectionId::Task(_) => schema::TASK,
            SectionId::Kafka(_) => schema::KAFKA,
        }
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
            SectionId::Worker => "worker".to_owned(),
            SectionId::Task(name) => format!("tasks.{}", quoted(name)),
            SectionId::Kafka(name) => format!("kafka.{}", quoted(name)),
        })
    }

    /// ` in [job.prices]`, for messages.
    pub(super) fn place(&self) -> String {
        self.header().map(|header| format!(" in [{header}]")).unwrap_or_default()
    }
}
