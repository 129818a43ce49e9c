//! A queue of our own, and what comes to it: made again when the connection was lost.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    fail::{Consequence, advised, consequence, is_precondition, refused, transient, words},
    link::{Link, Wait, pause},
};
use crate::error::BrokerError;

/// The most deliveries that come ahead of their acknowledgement.
const AHEAD: u16 = 1000;

/// An exchange that a queue of ours is bound to, or that we send to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exchange {
    pub(super) name: Arc<str>,
    pub(super) kind: ExchangeKind,
    pub(super) durable: bool,
}

impl Exchange {
    /// Makes it if it is not there. One that differs, or that we may not make, is taken as it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) async fn ensure(&self, link: &Link, wait: Wait) -> Result<(), BrokerError> {
        let (open, channel) = link.channel(wait).await?;
        let options = ExchangeDeclareOptions { durable: self.durable, ..ExchangeDeclareOptions::default() };
        let made = channel.exchange_declare((*self.name).into(), self.kind.clone(), options, FieldTable::default());
        match open.answer_of_queue(made).await {
            Ok(()) => {
                let _ = channel.close(200, "".into()).await;
                Ok(())
            }
            Err(error) if is_precondition(&error) || consequence(&error) == Consequence::Refused => Ok(()),
            Err(error) => Err(transient(&open.place, &words(&error))),
        }
    }
}

/// A queue that is ours alone.
#[derive(Clone)]
pub(super) struct OwnQueue {
    /// Its name; of an exclusive one the `*` stands for what nobody else has, and is another one
    /// each time: the server may not know yet that the connection of the last one is gone.
    pub(super) name: Arc<str>,
    /// It goes with its connection; else it outlives that, and is deleted at the end.
    pub(super) exclusive: bool,
    /// True where all that comes has to be acknowledged.
    pub(super) acknowledged: bool,
    /// Milliseconds after which it goes when nobody listens.
    pub(super) expires: i64,
    /// Milliseconds after which a message goes.
    pub(super) message_ttl: Option<i64>,
    /// The exchange that it is bound to, and the key.
    pub(super) bound: Option<(Exchange, Arc<str>)>,
}

impl OwnQueue {
    /// Makes it and begins to listen.
    async fn listen(&self, link: &Link, wait: Wait) -> Result<(Channel, Consumer), BrokerError> {
        if let Some((exchange, _)) = &self.bound {
            exchange.ensure(link, wait).await?;
        }
        let (open, channel) = link.channel(wait).await?;
        match open.answer_of_queue(self.begin(&channel)).await {
            Ok(consumer) => Ok((channel, consumer)),
            Err(error) if consequence(&error) == Consequence::Connection => Err(transient(&open.place, &words(&error))),
            Err(error) => Err(refused(&open.place, &format!("queue {}: {}", self.name, advised(&error, "use")))),
        }
    }

    async fn begin(&self, channel: &Channel) -> lapin::Result<Consumer> {
        let name = if self.exclusive { self.name.replacen('*', &unique(), 1) } else { self.name.to_string() };
        let name = name.as_str();
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(self.expires));
        if let Some(ttl) = self.message_ttl {
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl));
        }
        let options = QueueDeclareOptions {
            exclusive: self.exclusive,
            auto_delete: self.exclusive,
            durable: !self.exclusive,
            ..QueueDeclareOptions::default()
        };
        channel.queue_declare(name.into(), options, arguments).await?;
        if let Some((exchange, key)) = &self.bound {
            let options = QueueBindOptions::default();
            channel.queue_bind(name.into(), (*exchange.name).into(), (**key).into(), options, FieldTable::default()).await?;
        }
        if self.acknowledged {
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
        }
        let options = BasicConsumeOptions { no_ack: !self.acknowledged, ..BasicConsumeOptions::default() };
        channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await
    }
}

/// Makes a name that nobody else has.
pub(super) fn unique() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// Gives what comes to a queue of ours to a function, until it is dropped.
pub(super) struct Tap {
    end: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Begins. When this resolves the queue is there. The function is called on the runtime that is
    /// current, and should be quick.
    ///
    /// # Errors
    /// Transient: the server is away for longer than the patience. Refused: it does not want us.
    pub(super) async fn open(link: Arc<Link>, queue: OwnQueue, take: impl FnMut(Delivery) + Send + 'static) -> Result<Self, BrokerError> {
        let (channel, consumer) = queue.listen(&link, Wait::Patience).await?;
        let (end, ended) = watch::channel(());
        let task = tokio::spawn(run(link, queue, channel, consumer, take, ended));
        Ok(Self { end, task })
    }

    /// Ends it, and its queue, if the server answers soon.
    pub(super) async fn close(self) {
        drop(self.end);
        let _ = timeout(Duration::from_secs(2), self.task).await;
    }
}

async fn run(
    link: Arc<Link>,
    queue: OwnQueue,
    mut channel: Channel,
    mut consumer: Consumer,
    mut take: impl FnMut(Delivery) + Send + 'static,
    mut ended: watch::Receiver<()>,
) {
    loop {
        tokio::select! {
            biased;
            // Nobody sends: it ends when the tap is dropped.
            _ = ended.changed() => {
                if !queue.exclusive {
                    let _ = channel.queue_delete((*queue.name).into(), QueueDeleteOptions::default()).await;
                }
                let _ = channel.close(200, "".into()).await;
                return;
            }
            () = drain(&channel, &mut consumer, queue.acknowledged, &mut take) => {}
        }
        // It was lost: the connection went, or somebody deleted the queue.
        let _ = channel.close(200, "".into()).await;
        let mut attempt = 0;
        (channel, consumer) = loop {
            tokio::select! {
                biased;
                _ = ended.changed() => return,
                () = sleep(pause(attempt)) => {}
            }
            match queue.listen(&link, Wait::Forever).await {
                Ok(again) => break again,
                Err(_) if link.is_closed() => return,
                Err(_) => attempt += 1,
            }
        };
    }
}

/// Takes what comes until the queue or its channel is lost.
async fn drain(channel: &Channel, consumer: &mut Consumer, acknowledged: bool, take: &mut impl FnMut(Delivery)) {
    while let Some(Ok(delivery)) = consumer.next().await {
        let mut last = delivery.delivery_tag;
        take(delivery);
        while let Some(next) = consumer.next().now_or_never() {
            let Some(Ok(delivery)) = next else { return };
            last = delivery.delivery_tag;
            take(delivery);
        }
        if acknowledged && channel.basic_ack(last, BasicAckOptions { multiple: true }).await.is_err() {
            return;
        }
    }
}
