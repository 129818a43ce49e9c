//! Tells monitors that a task was sent, where that is switched on: Celery's
//! `task_send_sent_event`.

use std::{
    sync::PoisonError,
    time::{SystemTime, UNIX_EPOCH},
};

use longshore_brokers::Outgoing;
use longshore_celery::{
    Limits, Message,
    events::{self, Event, EventKind, MOST_IN_ONE, TaskInfo},
    iso,
};

use super::Client;

/// Deepest nesting of a message that is read again.
const DEPTH: usize = 256;

impl Client {
    /// Tells monitors of tasks that the broker has, in Celery's words; `at` is the time before they
    /// were handed over, so that no worker seems to have had one earlier. A monitor that is not
    /// reached is no failure.
    pub(crate) async fn tell_sent(&self, at: SystemTime, batch: &[Outgoing]) {
        if !self.settings().task_send_sent_event {
            return;
        }
        let Ok(bus) = self.connected().bus() else { return };
        let timestamp = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = |what: EventKind| Event {
            hostname: self.inner.sender.origin.clone(),
            pid: Some(std::process::id().into()),
            utcoffset: 0.0,
            clock: self.inner.clock.lock().unwrap_or_else(PoisonError::into_inner).forward(),
            timestamp,
            what,
        };
        // What was sent is read again: who has this switched off pays nothing for it.
        let told: Vec<Event> = batch.iter().filter_map(sent).map(event).collect();
        for events in told.chunks(MOST_IN_ONE) {
            let (routing_key, raw) = events::encode(events, &(self.environment().id)());
            let _ = bus.broadcast(events::EXCHANGE, &routing_key, &raw).await;
        }
    }
}

/// Returns what is told of a message; nothing, where it cannot be read.
fn sent(outgoing: &Outgoing) -> Option<EventKind> {
    let message = Message::decode(&outgoing.raw, &Limits::unlimited(DEPTH)).ok()?;
    let queue = Some(outgoing.queue.to_string());
    let task = TaskInfo {
        uuid: message.id,
        name: message.task,
        args: message.argsrepr,
        kwargs: message.kwargsrepr,
        root_id: message.root_id,
        parent_id: message.parent_id,
        retries: message.retries.into(),
        eta: message.eta.map(iso),
        expires: message.expires.map(iso),
        queue: None,
    };
    Some(EventKind::TaskSent { task, queue, exchange: Some(message.exchange), routing_key: Some(message.routing_key) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;

    use super::*;
    use crate::{Settings, Signature};

    /// Returns the events that come until one of this task is told, with that one.
    async fn heard(listening: &mut longshore_brokers::Subscription, last: &str) -> Vec<Event> {
        let mut heard = Vec::new();
        while heard.last().and_then(|event: &Event| event.what.task_id()) != Some(last) {
            let raw = tokio::time::timeout(Duration::from_secs(10), listening.messages.recv()).await.expect("an event").unwrap().1;
            heard.extend(events::decode(&raw, usize::MAX).unwrap());
        }
        heard
    }

    #[tokio::test]
    async fn monitors_are_told_of_every_way_of_sending_where_that_is_switched_on() {
        let silent = Client::connect(&Settings::new("memory://sent-events")).unwrap();
        let mut settings = Settings::new("memory://sent-events");
        settings.task_send_sent_event = true;
        let client = Client::connect(&settings).unwrap();
        let mut listening = client.connected().bus().unwrap().subscribe(events::EXCHANGE, "#").await.unwrap();
        let call = |id: &str| -> Signature { Signature::named("shop.add").arg(&2).queue("cold").task_id(id) };
        silent.send(call("silent")).await.unwrap();
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        client.send(call("one").eta(UNIX_EPOCH + Duration::from_secs(4_000_000_000))).await.unwrap();
        let many = (0..30).map(|number| call(&format!("many-{number}")));
        assert_eq!(client.send_all(stream::iter(many)).finish().await.sent, 30);
        let prepared = client.prepare(call("prepared")).unwrap();
        client.send_prepared(std::slice::from_ref(&prepared)).await.unwrap();
        client.send_prepared_once(&client.prepare(call("once")).unwrap()).await.unwrap();
        let heard = heard(&mut listening, "once").await;
        let ids: Vec<&str> = heard.iter().filter_map(|event| event.what.task_id()).collect();
        assert_eq!((ids[0], ids[1], ids[30], ids[31], ids.len()), ("one", "many-0", "many-29", "prepared", 33));
        let EventKind::TaskSent { task, queue, exchange, routing_key } = &heard[0].what else { panic!("{:?}", heard[0]) };
        assert_eq!((task.name.as_str(), task.args.as_deref(), task.kwargs.as_deref()), ("shop.add", Some("(2,)"), Some("{}")));
        assert_eq!((task.root_id.as_deref(), task.eta.as_deref()), (Some("one"), Some("2096-10-02T07:06:40+00:00")));
        assert_eq!((queue.as_deref(), exchange.as_deref(), routing_key.as_deref()), (Some("cold"), Some(""), Some("cold")));
        assert!(heard.iter().all(|event| event.timestamp >= before && event.hostname.starts_with("gen")));
        assert!(heard.windows(2).all(|two| two[0].clock < two[1].clock), "each has a time of its own");
    }
}
