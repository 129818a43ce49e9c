//! What a client and its answers have in common: connections, settings, and who is told.

pub(crate) mod unserved;

use longshore_brokers::{BrokerError, Connected, Key, Notice, Stored};
use longshore_core::ErrorKind;

use crate::{environment::Environment, settings::Settings};
use unserved::UnservedQueues;

/// Connections of a client, with the settings that hold for them. Shared with every answer.
pub(crate) struct Connections {
    pub(crate) settings: Settings,
    pub(crate) connected: Connected,
    pub(crate) environment: Environment,
    /// Listener who is told, for people, what happens.
    pub(crate) told: Option<Notice>,
    /// Queues that no worker was found to serve.
    pub(crate) unserved: UnservedQueues,
}

impl Connections {
    /// Stores the document of a group.
    pub(crate) async fn save(&self, group: &str, doc: Vec<u8>) -> Result<(), BrokerError> {
        let expires = self.settings.result_expires;
        self.connected
            .results
            .store(&[Stored { key: Key::Group(group.to_owned()), doc, expires, keep_success: false, reply_to: None }])
            .await
    }
}

/// Tells a broker how queues are declared. Returns what of it means nothing there, for people.
///
/// # Errors
/// Refused: no server would take it.
pub(crate) fn declare(settings: &Settings, connected: &Connected) -> Result<Option<String>, BrokerError> {
    let wrong = settings.queues.iter().find_map(|queue| queue.check().err());
    wrong.map_or(Ok(()), |message| Err(BrokerError { kind: ErrorKind::Refused, message }))?;
    Ok(connected.broker.declare_as(&settings.queues))
}
