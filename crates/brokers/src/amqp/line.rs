//! The line of the schedulers: each takes from one queue, of which the server gives to the first in
//! line alone. Whoever holds a token leads; the next one has it when the channel of the first ends.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions},
};
use tokio::time::{Instant, timeout};

use super::{
    cell::{Seat, TakenBook, token},
    own::SCHEDULER,
};
use crate::{
    error::BrokerError,
    halves::{Leading, SchedulerName},
};

/// Time that a token may need to who is the first in line.
const SOON: Duration = Duration::from_millis(500);
/// Age of a token at which the one that leads takes a new one: a server takes a channel for dead
/// that holds one for half an hour. It looks at the schedules then, too.
const OLD: Duration = Duration::from_secs(60);
/// Age of the name of the one that leads at which it is read again.
const NAME: Duration = Duration::from_secs(10);
/// Longest term.
const LONGEST: Duration = Duration::from_secs(60);

/// A place in the line.
pub(super) struct LinePlace {
    channel: Channel,
    consumer: Consumer,
    /// Token that it holds.
    held: Option<u64>,
    /// Moment at which it has asked for a token.
    asked: Instant,
    /// Version of the schedules, if it leads and nothing has changed.
    version: Option<u64>,
    /// The one that leads, and when that was read.
    leader: Option<(String, Instant)>,
    /// Moment at which it leaves unless it has asked for the lead once more.
    pub(super) until: Instant,
}

impl LinePlace {
    /// Takes the last place.
    pub(super) async fn take(seat: &Seat) -> Result<Self, BrokerError> {
        let (channel, consumer) = seat.consume(SCHEDULER).await?;
        // Whether there is one nobody can see, while another one holds it.
        seat.send(&[token()]).await?;
        let asked = Instant::now();
        Ok(Self { channel, consumer, held: None, asked, version: None, leader: None, until: asked + LONGEST })
    }

    /// Takes the lead, or keeps it, if it is the first.
    ///
    /// # Errors
    /// The connection is lost, or we may not.
    pub(super) async fn lead(&mut self, seat: &Seat, scheduler: &SchedulerName, term: Duration) -> Result<Option<Leading>, BrokerError> {
        seat.catch_up(&self.channel).await?;
        let mut is_in_line = self.drain().await;
        if is_in_line && self.held.is_none() {
            is_in_line = self.wait().await;
        }
        if !is_in_line {
            return Ok(None);
        }
        self.until = Instant::now() + term.min(LONGEST);
        if self.held.is_none() {
            return Ok(Some(Leading::Theirs { node: self.name(seat).await? }));
        }
        if self.asked.elapsed() > OLD {
            seat.send(&[token()]).await?;
            self.asked = Instant::now();
        }
        let version = match self.version {
            Some(version) => version,
            None => self.enter(seat, scheduler).await?,
        };
        (self.version, self.until) = (Some(version), Instant::now() + term.min(LONGEST));
        Ok(Some(Leading::Ours { version }))
    }

    /// Returns whether it leads, as far as is known here.
    pub(super) fn leads(&self) -> bool {
        self.held.is_some() && self.version.is_some() && self.is_up()
    }

    /// Returns whether it stands in line, as far as is known here. One that has let its term pass
    /// does not.
    pub(super) fn is_up(&self) -> bool {
        self.channel.status().connected() && Instant::now() < self.until
    }

    /// Leaves the line. When this resolves the next one may be the first.
    pub(super) async fn leave(self) {
        // A queue hears of the end of a channel when it is over; it answers the first of these.
        let _ = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default()).await;
        if let Some(held) = self.held {
            let _ = self.channel.basic_nack(held, BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await;
        }
        let _ = self.channel.close(200, "".into()).await;
    }

    /// Takes the tokens that have come, and keeps the last of them. Returns whether it is still in
    /// line.
    async fn drain(&mut self) -> bool {
        while let Some(next) = self.consumer.next().now_or_never() {
            let Some(Ok(delivery)) = next else { return false };
            self.hold(delivery.delivery_tag).await;
        }
        true
    }

    /// Waits for a token that may be on its way. Returns whether it is still in line.
    async fn wait(&mut self) -> bool {
        match timeout(SOON, self.consumer.next()).await {
            Err(_) => true,
            Ok(Some(Ok(delivery))) => {
                self.hold(delivery.delivery_tag).await;
                true
            }
            Ok(_) => false,
        }
    }

    /// Holds a token in place of the one before. It says that something has changed.
    async fn hold(&mut self, token: u64) {
        if let Some(before) = self.held.replace(token) {
            let _ = self.channel.basic_ack(before, BasicAckOptions::default()).await;
        }
        self.version = None;
    }

    /// Writes itself down as the one that leads, if it is not. Returns the schedules' version.
    async fn enter(&self, seat: &Seat, scheduler: &SchedulerName) -> Result<u64, BrokerError> {
        let mut taken = TakenBook::take(seat).await?;
        let version = taken.book.all.version;
        if taken.book.leader.as_ref() == Some(scheduler) {
            taken.give_back().await;
        } else {
            taken.book.leader = Some(scheduler.clone());
            taken.keep(seat, false).await?;
        }
        Ok(version)
    }

    /// Returns the name of the one that leads.
    async fn name(&mut self, seat: &Seat) -> Result<String, BrokerError> {
        if let Some((name, _)) = self.leader.as_ref().filter(|(_, read)| read.elapsed() < NAME) {
            return Ok(name.clone());
        }
        let book = TakenBook::take(seat).await?.give_back().await;
        let name = book.leader.map_or_else(|| "another one".to_owned(), |leader| leader.node);
        self.leader = Some((name.clone(), Instant::now()));
        Ok(name)
    }
}
