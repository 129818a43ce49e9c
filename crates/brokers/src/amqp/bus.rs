//! Remote control and events, as Celery does them: messages to whoever listens now, on exchanges of
//! its names, and queues that end with their connection.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use lapin::ExchangeKind;
use longshore_celery::{control, events};
use tokio::sync::mpsc;

use super::{
    fail::refused,
    link::{Link, Wait, locked},
    parts::Parcel,
    publish::{Publisher, Routed},
    tap::{Exchange, OwnQueue, Tap},
};
use crate::{
    REPLIES,
    error::BrokerError,
    halves::{Bus, LeftOut, Subscription},
};

/// Most messages that wait for a subscriber; what comes beyond is left out.
const ROOM: usize = 4096;
/// Milliseconds after which a queue of remote control goes when nobody listens, and a message in
/// it; those of events. All are Celery's.
const CONTROL: (i64, i64) = (10_000, 300_000);
const EVENTS: (i64, i64) = (60_000, 5_000);

/// The bus of a server.
pub(super) struct AmqpBus {
    /// Sends; on a channel of its own, so that an exchange that goes away harms no task.
    publisher: Publisher,
    sends: Arc<Link>,
    /// Listens, also while the server takes nothing from those who send.
    listens: Arc<Link>,
    /// Exchanges that are there.
    known: Mutex<Vec<Arc<str>>>,
}

/// Returns an exchange as Celery declares the one of this name.
fn exchange(name: &str) -> Exchange {
    let (kind, durable) = match name {
        control::EXCHANGE => (ExchangeKind::Fanout, false),
        REPLIES => (ExchangeKind::Direct, false),
        _ => (ExchangeKind::Topic, true),
    };
    Exchange { name: name.into(), kind, durable }
}

impl AmqpBus {
    pub(super) fn new(publisher: Publisher, sends: Arc<Link>) -> Self {
        let listens = Arc::new(sends.beside("listens".to_owned()));
        Self { publisher, sends, listens, known: Mutex::default() }
    }

    /// Ends the connection of those who listen.
    pub(super) async fn close(&self) {
        self.listens.close().await;
    }

    async fn send(&self, to: &str, key: &str, raw: &[u8]) -> Result<(), BrokerError> {
        let exchange = exchange(to);
        let parcel = Parcel::of(raw).map_err(|why| refused(&self.sends.place(), &why))?;
        let routed = Routed::over(&exchange.name, key, parcel);
        let is_known = locked(&self.known).contains(&exchange.name);
        let sent = match is_known {
            true => self.publisher.send(std::slice::from_ref(&routed), Wait::Patience).await,
            false => self.send_anew(&exchange, &routed).await,
        };
        let sent = match sent {
            // It may have been deleted, which ends the channel; or a server has come back without
            // it. Whoever listens does not mind what comes twice.
            Err(_) if is_known => {
                locked(&self.known).retain(|known| *known != exchange.name);
                self.send_anew(&exchange, &routed).await
            }
            sent => sent,
        };
        sent?.into_iter().flatten().next().map_or(Ok(()), |why| Err(refused(&self.sends.place(), &why)))
    }

    /// Sends to an exchange that may have to be made.
    async fn send_anew(&self, exchange: &Exchange, routed: &Routed) -> Result<Vec<Option<String>>, BrokerError> {
        exchange.ensure(&self.sends, Wait::Patience).await?;
        let sent = self.publisher.send(std::slice::from_ref(routed), Wait::Patience).await?;
        let mut known = locked(&self.known);
        if !known.contains(&exchange.name) {
            known.push(exchange.name.clone());
        }
        Ok(sent)
    }

    async fn listen(&self, queue: OwnQueue) -> Result<Subscription, BrokerError> {
        let (sink, messages) = mpsc::channel(ROOM);
        let left_out = LeftOut::default();
        let counted = left_out.clone();
        let tap = Tap::open(self.listens.clone(), queue, move |delivery| {
            let (exchange, key) = (delivery.exchange.to_string(), delivery.routing_key.to_string());
            let raw = Parcel::read(&delivery.properties, delivery.data).to_raw(&exchange, &key);
            counted.note(sink.try_send((key, raw)));
        });
        Ok(Subscription { messages, left_out, guard: Box::new(tap.await?) })
    }
}

impl Bus for AmqpBus {
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.send(exchange, routing_key, raw))
    }

    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        let (name, (expires, ttl)) = match exchange {
            events::EXCHANGE => ("celeryev.*".to_owned(), EVENTS),
            other => (format!("*.{other}"), CONTROL),
        };
        Box::pin(self.listen(OwnQueue {
            name: name.into(),
            exclusive: true,
            acknowledged: false,
            expires,
            message_ttl: Some(ttl),
            bound: Some((self::exchange(exchange), pattern.into())),
        }))
    }

    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.send(exchange, routing_key, raw))
    }

    fn replies<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        Box::pin(self.listen(OwnQueue {
            name: format!("{oid}.*.{REPLIES}").into(),
            exclusive: true,
            acknowledged: false,
            expires: CONTROL.0,
            message_ttl: Some(CONTROL.1),
            bound: Some((self::exchange(REPLIES), oid.into())),
        }))
    }
}
