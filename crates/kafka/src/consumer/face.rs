//! The face of a consumer, as all that runs has one: its view, its events, its handle.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::{
    Event, Stop,
    watch::{self, Connection, Detail, Events, LinkState, Steer, Unsupported, ViewKind, Waiting},
};

use super::{ConsumerHandle, RunningConsumer};
use crate::{
    trouble::Affected,
    view::{GateState, View},
};

impl RunningConsumer {
    /// Returns the view that all that runs has; `None` when it is over.
    /// [`ConsumerHandle::snapshot`] has more.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Option<watch::View> {
        self.handle.view().await
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read.
    pub fn events(&self, detail: Detail, capacity: usize) -> Events<Event> {
        self.running.events(detail, capacity)
    }
}

impl ConsumerHandle {
    /// Returns the view that all that runs has; `None` when it is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Option<watch::View> {
        Some(self.snapshot().await?.into_watch(&self.consumer.group))
    }

    /// Returns the handle that all that runs has.
    pub fn watch(&self) -> watch::Handle {
        watch::Handle::new(Arc::new(self.clone()))
    }
}

impl Steer for ConsumerHandle {
    fn steer(&self, command: watch::Command) -> Result<(), Unsupported> {
        match command {
            watch::Command::Concurrency { most, .. } => self.set_max_threads(most),
            // Within the grace period; then what is done is committed and the group left.
            watch::Command::Drain => self.stop(),
            watch::Command::Stop { how: Stop::Soft } => self.stop_now(),
            command => self.engine().obey(command),
        }
        Ok(())
    }

    fn view(&self) -> BoxFuture<'static, Option<watch::View>> {
        let own = self.clone();
        async move { ConsumerHandle::view(&own).await }.boxed()
    }
}

impl View {
    /// Returns this as the view that all that runs has; what only Kafka has are gauges of it.
    #[must_use]
    pub fn into_watch(self, group: &str) -> watch::View {
        let mut view = self.engine.into_view(ViewKind::Consumer, group);
        let counts = self.counts;
        view.counts.dead = counts.dead;
        let waits = [("parked", self.parked), ("dead letter topic", self.burying)];
        let waits = waits.into_iter().filter(|(_, records)| *records > 0);
        view.waiting.extend(waits.map(|(name, records)| Waiting::new(longshore_core::Reason::Other { name: name.into() }, records)));
        // Whether a broker answers is a trouble of its own; all others that last are refusals.
        let mut broker = Connection::up("kafka", "");
        broker.since = view.at.checked_sub(view.age).unwrap_or(view.at);
        if let Some(trouble) = self.troubles.iter().find(|trouble| !trouble.affected.is_passing()) {
            let reason = format!("{:?}: Kafka's code {}", trouble.affected, trouble.code);
            broker.state = match trouble.affected {
                Affected::Broker => LinkState::Lost { reason },
                _ => LinkState::Refused { reason },
            };
            broker.since = UNIX_EPOCH + Duration::from_millis(trouble.since);
        }
        view.connections.push(broker);
        for partition in &self.partitions {
            let number = partition.partition.to_string();
            let labels = [("topic", &*partition.topic), ("partition", &*number)];
            if let Some(lag) = partition.lag {
                view.gauge("kafka_lag_records", &labels, lag as f64);
            }
            view.gauge("kafka_incomplete_records", &labels, partition.incomplete as f64);
            view.gauge("kafka_position_offset", &labels, partition.position as f64);
            if let Some(committed) = partition.committed {
                view.gauge("kafka_committed_offset", &labels, committed as f64);
            }
        }
        for (name, value) in [
            ("kafka_assigned_partitions", self.partitions.len() as f64),
            ("kafka_in_flight_records", self.in_flight as f64),
            ("kafka_max_in_flight_records", self.max_in_flight as f64),
            ("kafka_max_threads", self.max_threads as f64),
            ("kafka_parked_records", self.parked as f64),
            ("kafka_gate_open", f64::from(u8::from(self.gate == GateState::Open))),
            ("kafka_buffered_bytes", self.bytes as f64),
            ("kafka_gate_closed_seconds", self.closed_for.as_secs_f64()),
            ("kafka_commits", counts.commits as f64),
            ("kafka_commits_failed", counts.commits_failed as f64),
            ("kafka_rebalances", counts.rebalances as f64),
        ] {
            view.gauge(name, &[], value);
        }
        view
    }
}
