//! A broker and a result backend, with what else the two have.

use std::sync::Arc;

use longshore_core::ErrorKind;

use crate::{
    broker::Broker,
    error::BrokerError,
    halves::{Bus, DeadLetters, Inspect, Schedules, SharedState},
    results::ResultBackend,
};

/// A broker and a result backend, and the halves that one of them has. Cheap to clone.
#[derive(Clone)]
#[non_exhaustive]
pub struct Connected {
    /// Broker in which tasks wait.
    pub broker: Arc<dyn Broker>,
    /// Backend in which results are stored.
    pub results: Arc<dyn ResultBackend>,
    /// Bus for remote control and events.
    pub bus: Option<Arc<dyn Bus>>,
    /// View into the broker's queues.
    pub inspect: Option<Arc<dyn Inspect>>,
    /// Store of messages that are run no more.
    pub letters: Option<Arc<dyn DeadLetters>>,
    /// State that all who use the store share.
    pub shared: Option<Arc<dyn SharedState>>,
    /// Store of schedules, and of who fires them.
    pub schedules: Option<Arc<dyn Schedules>>,
}

/// The halves that one URL has, of which any may be missing.
#[derive(Default)]
pub(crate) struct Halves {
    pub(crate) broker: Option<Arc<dyn Broker>>,
    pub(crate) results: Option<Arc<dyn ResultBackend>>,
    pub(crate) bus: Option<Arc<dyn Bus>>,
    pub(crate) inspect: Option<Arc<dyn Inspect>>,
    pub(crate) letters: Option<Arc<dyn DeadLetters>>,
    pub(crate) shared: Option<Arc<dyn SharedState>>,
    pub(crate) schedules: Option<Arc<dyn Schedules>>,
    /// Schedules of a broker that is no store: for those beside whose results there are none.
    pub(crate) schedules_last: Option<Arc<dyn Schedules>>,
}

impl From<Connected> for Halves {
    fn from(pair: Connected) -> Self {
        let Connected { broker, results, bus, inspect, letters, shared, schedules } = pair;
        Self { broker: Some(broker), results: Some(results), bus, inspect, letters, shared, schedules, schedules_last: None }
    }
}

impl Connected {
    /// Makes a pair that has no other half. They are set field by field.
    pub fn new(broker: Arc<dyn Broker>, results: Arc<dyn ResultBackend>) -> Self {
        Self { broker, results, bus: None, inspect: None, letters: None, shared: None, schedules: None }
    }

    /// Makes a pair of a broker that has all halves of its own, and a result backend.
    pub fn whole(
        broker: Arc<impl Broker + Bus + Inspect + DeadLetters + SharedState + Schedules + 'static>,
        results: Arc<impl ResultBackend + 'static>,
    ) -> Self {
        Self {
            broker: broker.clone(),
            results,
            bus: Some(broker.clone()),
            inspect: Some(broker.clone()),
            letters: Some(broker.clone()),
            shared: Some(broker.clone()),
            schedules: Some(broker),
        }
    }

    /// Makes a pair of a broker and the results of a store, which also has the bus, what is
    /// shared, and schedules. What the broker has of its own is set field by field.
    pub fn beside(broker: Arc<dyn Broker>, store: Self) -> Self {
        Self {
            broker,
            results: store.results,
            bus: store.bus,
            inspect: None,
            letters: None,
            shared: store.shared,
            schedules: store.schedules,
        }
    }

    /// Returns where remote control and events go.
    ///
    /// # Errors
    /// Refused: neither the broker nor the result backend has one.
    pub fn bus(&self) -> Result<&Arc<dyn Bus>, BrokerError> {
        self.bus.as_ref().ok_or_else(|| self.missing("carry remote control and events", true))
    }

    /// Returns what looks into the broker's queues.
    ///
    /// # Errors
    /// Refused: the broker lets nobody.
    pub fn inspect(&self) -> Result<&Arc<dyn Inspect>, BrokerError> {
        self.inspect.as_ref().ok_or_else(|| self.missing("look into its queues, nor move what lies in them", false))
    }

    /// Returns what keeps messages that are run no more.
    ///
    /// # Errors
    /// Refused: the broker does not.
    pub fn letters(&self) -> Result<&Arc<dyn DeadLetters>, BrokerError> {
        self.letters.as_ref().ok_or_else(|| self.missing("show its dead letters", false))
    }

    /// Returns what all who use the store share: rates, and ids that were revoked.
    ///
    /// # Errors
    /// Refused: neither the broker nor the result backend keeps that.
    pub fn shared(&self) -> Result<&Arc<dyn SharedState>, BrokerError> {
        self.shared.as_ref().ok_or_else(|| self.missing("keep limits that are shared, nor revoked ids", true))
    }

    /// Returns what keeps schedules, and who fires them.
    ///
    /// # Errors
    /// Refused: neither the broker nor the result backend keeps them.
    pub fn schedules(&self) -> Result<&Arc<dyn Schedules>, BrokerError> {
        self.schedules.as_ref().ok_or_else(|| self.missing("keep schedules", true))
    }

    fn missing(&self, what: &str, beside: bool) -> BrokerError {
        let way = if beside { "; a result backend that can (SQLite, Redis) does it in its place" } else { "; its own tools may" };
        refused(format!("{}: this broker cannot {what}{way}", self.broker.url()))
    }
}

fn refused(message: String) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Connected;
    use crate::memory::MemoryHandle;

    #[test]
    fn a_half_that_is_missing_is_named_with_the_broker_and_a_way_out() {
        let handle = Arc::new(MemoryHandle::open("halves"));
        let pair = Connected::new(handle.clone(), handle);
        let errors = [
            (pair.bus().err(), "remote control"),
            (pair.inspect().err(), "look into"),
            (pair.letters().err(), "dead letters"),
            (pair.shared().err(), "limits"),
            (pair.schedules().err(), "schedules"),
        ];
        for (error, word) in errors {
            let text = error.expect(word).message;
            assert!(text.contains("memory://halves") && text.contains(word) && text.contains("; "), "{text}");
        }
    }
}
