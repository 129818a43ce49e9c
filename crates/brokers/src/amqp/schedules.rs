//! Schedules on a server that keeps nothing but queues: one message says all of them, and a line of
//! schedulers who leads. All of it goes over one connection with a short heartbeat: whoever stands
//! still loses it within seconds, and with it the lead, the message, and the way to send anything.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{
    cell::{Seat, TakenBook},
    declare::Declarer,
    fail::{refused, transient},
    line::LinePlace,
    link::Link,
    own::{SCHEDULER, SCHEDULES},
    publish::Routed,
};
use crate::{
    error::BrokerError,
    halves::{Fired, Firing, Leading, ScheduleBook, SchedulerName, Schedules},
    message::Outgoing,
    names,
    schedule_rows::ScheduleRows,
};

/// Seconds of silence of which two to three make a scheduler dead.
const HEARTBEAT: u16 = 2;

/// Schedules in a message, and who fires them.
pub(super) struct AmqpSchedules {
    link: Arc<Link>,
    shelf: Arc<Shelf>,
}

struct Shelf {
    link: Arc<Link>,
    declarer: Arc<Declarer>,
    places: Mutex<Places>,
}

/// Place in the line of one scheduler, while it has one.
type Slot = Arc<Mutex<Option<LinePlace>>>;

#[derive(Default)]
struct Places {
    seat: Option<Arc<Seat>>,
    /// Places in the line, by the token of their scheduler.
    line: HashMap<String, Slot>,
}

impl Places {
    /// Returns the connection, which is made anew where it was lost: then all places in the line
    /// are.
    async fn seat(&mut self, shelf: &Shelf) -> Result<Arc<Seat>, BrokerError> {
        if let Some(seat) = self.seat.as_ref().filter(|seat| seat.open.is_up()) {
            return Ok(seat.clone());
        }
        self.line.clear();
        if let Some(lost) = self.seat.take() {
            lost.link.close().await;
        }
        let link = Arc::new(shelf.link.only_once("schedules".to_owned(), HEARTBEAT));
        let seat = Arc::new(Seat::take(link, shelf.declarer.clone()).await?);
        self.seat = Some(seat.clone());
        Ok(seat)
    }
}

impl AmqpSchedules {
    pub(super) fn new(link: Arc<Link>, declarer: Arc<Declarer>) -> Self {
        let shelf = Arc::new(Shelf { link: link.clone(), declarer, places: Mutex::default() });
        Self { link, shelf }
    }

    /// Ends its connection.
    pub(super) async fn close(&self) {
        let mut places = self.shelf.places.lock().await;
        places.line.clear();
        if let Some(seat) = places.seat.take() {
            seat.link.close().await;
        }
    }

    /// Does it to its end, also when nobody waits for that any more: half of a change would keep
    /// all others from the message for as long as the connection lives.
    fn wholly<'a, T: Send + 'static>(
        &'a self,
        work: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> BoxFuture<'a, Result<T, BrokerError>> {
        Box::pin(async move {
            let given_up = |_| Err(transient(&self.link.place(), "what was to be done with its schedules was given up"));
            tokio::spawn(work).await.unwrap_or_else(given_up)
        })
    }

    fn change(&self, make: bool, act: impl FnOnce(&mut ScheduleRows) -> bool + Send + 'static) -> BoxFuture<'_, Result<bool, BrokerError>> {
        self.wholly(self.shelf.clone().change(make, act))
    }
}

impl Shelf {
    /// Changes the schedules; where there are none, and none are to be made, there is no change.
    async fn change(self: Arc<Self>, make: bool, act: impl FnOnce(&mut ScheduleRows) -> bool) -> Result<bool, BrokerError> {
        let seat = self.places.lock().await.seat(&self).await?;
        if !make && seat.look(SCHEDULES).await?.is_none() {
            return Ok(act(&mut ScheduleRows::default()));
        }
        let mut taken = TakenBook::take(&seat).await?;
        let before = taken.book.all.version;
        let answer = act(&mut taken.book.all);
        if taken.book.all.version == before {
            taken.give_back().await;
        } else {
            taken.keep(&seat, true).await?;
        }
        Ok(answer)
    }

    async fn book(self: Arc<Self>) -> Result<ScheduleBook, BrokerError> {
        let seat = self.places.lock().await.seat(&self).await?;
        if seat.look(SCHEDULES).await?.is_none() {
            return Ok(ScheduleBook::default());
        }
        let book = TakenBook::take(&seat).await?.give_back().await;
        // Whoever led last may be gone, and nobody else there.
        let line = seat.look(SCHEDULER).await?.map_or(0, |(_, takers)| takers);
        let leader = book.leader.filter(|_| line > 0).map(|leader| leader.node);
        Ok(ScheduleBook { leader, rows: book.all.rows.into_values().collect() })
    }

    async fn lead(self: Arc<Self>, scheduler: SchedulerName, term: Duration) -> Result<Leading, BrokerError> {
        for _ in 0..2 {
            let (seat, slot) = {
                let mut places = self.places.lock().await;
                (places.seat(&self).await?, places.line.entry(scheduler.token.clone()).or_default().clone())
            };
            let mut held = slot.lock().await;
            let mut place = match held.take() {
                Some(place) if place.is_up() => place,
                lost => {
                    leave(lost).await;
                    LinePlace::take(&seat).await?
                }
            };
            match place.lead(&seat, &scheduler, term).await {
                Ok(Some(leading)) => {
                    mind_the_term(&slot, place.until);
                    *held = Some(place);
                    return Ok(leading);
                }
                Ok(None) => place.leave().await,
                Err(error) => {
                    place.leave().await;
                    return Err(error);
                }
            }
        }
        Err(transient(&self.link.place(), &format!("somebody deletes the queue {SCHEDULER}")))
    }

    async fn resign(self: Arc<Self>, scheduler: SchedulerName) -> Result<(), BrokerError> {
        let slot = self.places.lock().await.line.remove(&scheduler.token);
        if let Some(slot) = slot {
            leave(slot.lock().await.take()).await;
        }
        Ok(())
    }

    /// Sends, and then notes: the message is with us all the while, and who leads stands in it.
    async fn fire(self: Arc<Self>, firing: Firing) -> Result<Fired, BrokerError> {
        let routed = firing.message.as_ref().map(|message| routed(&self.link.place(), message)).transpose()?;
        let (seat, slot) = {
            let places = self.places.lock().await;
            (places.seat.clone().filter(|seat| seat.open.is_up()), places.line.get(&firing.scheduler.token).cloned())
        };
        let (Some(seat), Some(slot)) = (seat, slot) else { return Ok(Fired::NotLeading) };
        // It does not leave the line meanwhile.
        let place = slot.lock().await;
        if !place.as_ref().is_some_and(LinePlace::leads) {
            return Ok(Fired::NotLeading);
        }
        let mut taken = TakenBook::take(&seat).await?;
        let is_leader = taken.book.leader.as_ref().is_some_and(|leader| leader.token == firing.scheduler.token);
        let fired = if is_leader { taken.book.all.judge(&firing) } else { Fired::NotLeading };
        if fired != Fired::Done {
            taken.give_back().await;
            return Ok(fired);
        }
        if let Some(routed) = routed
            && let Err(error) = seat.send(&[routed]).await
        {
            taken.give_back().await;
            return Err(error);
        }
        taken.book.all.note(&firing);
        taken.keep(&seat, false).await?;
        Ok(fired)
    }
}

fn routed(place: &str, message: &Outgoing) -> Result<Routed, BrokerError> {
    if message.exchange.is_none() {
        names::check("", [&*message.queue])?;
        super::check(place, &message.queue)?;
    }
    Routed::of(message).map_err(|why| refused(place, &why))
}

async fn leave(place: Option<LinePlace>) {
    if let Some(place) = place {
        place.leave().await;
    }
}

/// Has a scheduler leave the line at the end of its term, if it has not asked for the lead again.
fn mind_the_term(slot: &Slot, until: Instant) {
    let slot = Arc::downgrade(slot);
    tokio::spawn(async move {
        sleep_until(until).await;
        let Some(slot) = slot.upgrade() else { return };
        let over = slot.lock().await.take_if(|place| place.until <= Instant::now());
        leave(over).await;
    });
}

impl Schedules for AmqpSchedules {
    fn store(&self) -> &str {
        &self.link.config().masked
    }

    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (name, spec) = (name.to_owned(), spec.to_owned());
        self.change(true, move |all| all.put(&name, &spec, at))
    }

    fn amend<'a>(&'a self, name: &'a str, before: &'a [u8], spec: &'a [u8]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (name, before, spec) = (name.to_owned(), before.to_owned(), spec.to_owned());
        self.change(false, move |all| all.amend(&name, &before, &spec))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let name = name.to_owned();
        self.change(false, move |all| all.remove(&name))
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (name, by) = (name.to_owned(), by.map(str::to_owned));
        self.change(false, move |all| all.pause(&name, by.as_deref(), at))
    }

    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>> {
        self.wholly(self.shelf.clone().book())
    }

    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>> {
        self.wholly(self.shelf.clone().lead(scheduler.clone(), term))
    }

    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.wholly(self.shelf.clone().resign(scheduler.clone()))
    }

    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>> {
        self.wholly(self.shelf.clone().fire(firing.clone()))
    }
}
