//! The queue whose one message says all of the schedules. Its server gives it to one at a time
//! (single active consumer): whoever has it may change it, all others stand in line. It goes back,
//! and the next one has it, when the channel that has it ends, however that comes.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    BasicProperties, Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::{Instant, timeout};

use super::{
    book::Book,
    declare::{Declarer, Undeclared},
    fail::{advised, is_denied, is_not_found, refused, transient, words},
    link::{Link, Open, Wait},
    own::{SCHEDULER, SCHEDULES},
    parts::Parcel,
    publish::{Publisher, Routed},
};
use crate::{error::BrokerError, news::News};

/// Silence after which it is asked whether there is anything to wait for.
const QUIET: Duration = Duration::from_millis(500);
/// Silence after which a queue without a message is given one. Somebody may have it all the same:
/// then that one holds.
const EMPTY: Duration = Duration::from_secs(2);
/// Most bytes that all schedules may take: each due time writes them.
const MOST_BYTES: usize = 1 << 20;

/// A connection of its own for schedules, which is not replaced when it is lost: what its server
/// still lends to it is lent on then, and nothing that is sent on it arrives.
pub(super) struct Seat {
    pub(super) link: Arc<Link>,
    pub(super) open: Arc<Open>,
    pub(super) publisher: Publisher,
    pub(super) declarer: Arc<Declarer>,
}

impl Seat {
    /// Makes it, within the patience of the URL.
    pub(super) async fn take(link: Arc<Link>, declarer: Arc<Declarer>) -> Result<Self, BrokerError> {
        let open = link.open(Wait::Patience).await?;
        Ok(Self { publisher: Publisher::new(link.clone(), declarer.clone()), link, open, declarer })
    }

    pub(super) fn away(&self, error: &lapin::Error) -> BrokerError {
        transient(&self.open.place, &words(error))
    }

    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        self.open.channel().await.map_err(|error| self.away(&error))
    }

    /// Sends to queues of ours; what is sent is confirmed.
    pub(super) async fn send(&self, batch: &[Routed]) -> Result<(), BrokerError> {
        let refusals = self.publisher.send(batch, Wait::Patience).await?;
        refusals.into_iter().flatten().next().map_or(Ok(()), |why| Err(refused(&self.open.place, &why)))
    }

    /// Begins to take from a queue of ours, which is made if it is not there.
    pub(super) async fn consume(&self, queue: &'static str) -> Result<(Channel, Consumer), BrokerError> {
        for _ in 0..3 {
            match self.declarer.ensure(&self.open, &queue.into()).await {
                Ok(_) => {}
                Err(Undeclared::No(why)) => return Err(refused(&self.open.place, &why)),
                Err(Undeclared::Away(why) | Undeclared::Later(why)) => return Err(transient(&self.open.place, &why)),
            }
            let channel = self.channel().await?;
            let asked = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
            match self.open.answer_of_queue(asked).await {
                Ok(consumer) => return Ok((channel, consumer)),
                Err(error) if is_not_found(&error) => self.declarer.forget(queue),
                Err(error) if is_denied(&error) => return Err(refused(&self.open.place, &advised(&error, "read"))),
                Err(error) => return Err(self.away(&error)),
            }
        }
        Err(transient(&self.open.place, &format!("somebody deletes the queue {queue} as soon as it is made")))
    }

    /// Returns how many messages of a queue are ready and how many take from it; `None` if there is
    /// no such queue.
    pub(super) async fn look(&self, queue: &'static str) -> Result<Option<(u32, u32)>, BrokerError> {
        let channel = self.channel().await?;
        match look(&channel, queue).await {
            Ok(counts) => {
                let _ = channel.close(200, "".into()).await;
                Ok(Some(counts))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(self.away(&error)),
        }
    }

    /// Waits until all is here that the server had sent on a channel by now.
    pub(super) async fn catch_up(&self, channel: &Channel) -> Result<(), BrokerError> {
        self.open.answer(channel.basic_qos(0, BasicQosOptions::default())).await.map_err(|error| self.away(&error))
    }
}

/// Returns how many messages of a queue are ready, and how many take from it.
pub(super) async fn look(channel: &Channel, queue: &'static str) -> lapin::Result<(u32, u32)> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

/// Makes the word that has the scheduler that leads look again, and anybody lead where nobody does.
pub(super) fn token() -> Routed {
    Routed::to(&SCHEDULER.into(), Parcel::read(&BasicProperties::default().with_delivery_mode(1), Vec::new()))
}

fn written(book: &Book) -> Result<Routed, String> {
    let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    Ok(Routed::to(&SCHEDULES.into(), Parcel::read(&properties, book.encode()?)))
}

/// The book, as long as nobody else has it.
pub(super) struct TakenBook {
    pub(super) book: Book,
    channel: Channel,
    // Ends the consumer when it is dropped.
    _consumer: Consumer,
    last: u64,
}

impl TakenBook {
    /// Waits for the book. Without one, an empty one is made.
    ///
    /// # Errors
    /// Transient: the connection is lost, or somebody else has it for longer than the patience.
    /// Refused: we may not, or it is of a later longshore.
    pub(super) async fn take(seat: &Seat) -> Result<Self, BrokerError> {
        if seat.declarer.known(SCHEDULES).is_none() && seat.look(SCHEDULES).await?.is_none() {
            begin(seat).await?;
        }
        let (channel, mut consumer) = seat.consume(SCHEDULES).await?;
        let mut found = vec![first(seat, &channel, &mut consumer).await?];
        // One that was killed between two steps of a change has left two. The server's channel says
        // what is ready to be sent on before it hears of the second of these questions.
        look(&channel, SCHEDULES).await.map_err(|error| seat.away(&error))?;
        seat.catch_up(&channel).await?;
        while let Some(Some(Ok(next))) = consumer.next().now_or_never() {
            found.push(next);
        }
        let last = found.iter().map(|delivery| delivery.delivery_tag).max().unwrap_or_default();
        let newest = Book::newest(found.iter().map(|delivery| &delivery.data[..]));
        let (book, unread) = newest.map_err(|why| refused(&seat.open.place, &why))?;
        if unread > 0 {
            let text = format!(
                "rabbitmq at {}: {unread} of the messages in {SCHEDULES} are none of longshore's; they go with the next change",
                seat.open.place
            );
            (seat.link.notice())(&News::remark(text));
        }
        Ok(Self { book: book.unwrap_or_default(), channel, _consumer: consumer, last })
    }

    /// Gives it back as it was.
    pub(super) async fn give_back(self) -> Book {
        let _ = self.channel.close(200, "".into()).await;
        self.book
    }

    /// Keeps it as it is now, and gives it back. News has the scheduler that leads look at it.
    ///
    /// # Errors
    /// Refused: it is too large; nothing was changed. Transient: unknown whether it was.
    pub(super) async fn keep(mut self, seat: &Seat, news: bool) -> Result<(), BrokerError> {
        self.book.turn += 1;
        let done = match written(&self.book) {
            Ok(routed) if news && routed.parcel.body.len() > MOST_BYTES => {
                let why = format!(
                    "all schedules together take more than {} KiB, which is the most that RabbitMQ's one message of them may take; name a \
                     result backend that keeps schedules (SQLite, Redis)",
                    MOST_BYTES >> 10
                );
                Err(refused(&seat.open.place, &why))
            }
            Ok(routed) if news => seat.send(&[routed, token()]).await,
            Ok(routed) => seat.send(&[routed]).await,
            Err(why) => Err(refused(&seat.open.place, &why)),
        };
        if done.is_ok() {
            // Where this is lost, the one with the larger number holds.
            let _ = self.channel.basic_ack(self.last, BasicAckOptions { multiple: true }).await;
        }
        let _ = self.channel.close(200, "".into()).await;
        done
    }
}

/// Sends a book without schedules, which holds where there is no other.
async fn begin(seat: &Seat) -> Result<(), BrokerError> {
    let empty = written(&Book::default()).map_err(|why| refused(&seat.open.place, &why))?;
    seat.send(&[empty]).await
}

/// Waits for the first message of the book.
async fn first(seat: &Seat, channel: &Channel, consumer: &mut Consumer) -> Result<Delivery, BrokerError> {
    let begun = Instant::now();
    let patience = seat.link.config().patience;
    loop {
        match timeout(QUIET, consumer.next()).await {
            Ok(Some(Ok(delivery))) => return Ok(delivery),
            Ok(Some(Err(error))) => return Err(seat.away(&error)),
            Ok(None) => {
                seat.declarer.forget(SCHEDULES);
                return Err(transient(&seat.open.place, &format!("the queue {SCHEDULES} was deleted")));
            }
            Err(_) if begun.elapsed() > patience => {
                let _ = channel.close(200, "".into()).await;
                return Err(transient(&seat.open.place, &format!("somebody else has the message in {SCHEDULES} for too long")));
            }
            Err(_) => {
                let (ready, _) = look(channel, SCHEDULES).await.map_err(|error| seat.away(&error))?;
                if ready == 0 && begun.elapsed() > EMPTY {
                    begin(seat).await?;
                }
            }
        }
    }
}
