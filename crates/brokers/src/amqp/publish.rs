//! Sending, with the server's confirmation of each message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use lapin::{Channel, options::ConfirmSelectOptions};
use tokio::time::{sleep, timeout};

use super::{
    declare::{Declarer, Giving, LONGEST_NAME, Undeclared},
    delay::{self, Delays, LONG, seconds_until},
    direct::DirectChannel,
    fail::{advised, is_denied, is_precondition, refused, transient, words},
    link::{Link, Open, Wait, pause},
    parts::Parcel,
    sending::{Sending, Troubles, UNCONFIRMED},
};
use crate::{
    error::BrokerError,
    message::{Outgoing, unbound},
    names,
};

/// The largest body that a server takes unless it is told otherwise (`max_message_size`).
const LARGEST: usize = 128 << 20;

/// Time that a channel has to close.
const CLOSE: Duration = Duration::from_millis(250);

/// A message and where it goes.
#[derive(Clone)]
pub(super) struct Routed {
    pub(super) exchange: Arc<str>,
    pub(super) key: Arc<str>,
    /// The queue that must be there; none where an exchange finds them.
    pub(super) queue: Option<Arc<str>>,
    /// Not to be there before this time.
    pub(super) due: Option<SystemTime>,
    /// It comes back where nobody takes it.
    pub(super) mandatory: bool,
    pub(super) parcel: Arc<Parcel>,
}

impl Routed {
    /// Makes it of a message for a queue.
    ///
    /// # Errors
    /// AMQP cannot carry it; the reason, for people.
    pub(super) fn of(out: &Outgoing) -> Result<Self, String> {
        let to = Self { due: out.due, ..Self::to(&out.queue, Parcel::with_priority(&out.raw, out.priority)?) };
        Ok(match &out.exchange {
            None => to,
            Some(through) => Self { exchange: through.name.clone(), key: through.key.clone(), queue: None, ..to },
        })
    }

    /// Says whether it is for whoever listens.
    pub(super) fn is_for_listeners(&self) -> bool {
        self.queue.is_none() && !self.mandatory
    }

    /// Returns the exchange that was named for it, which finds the queues: there must be one.
    pub(super) fn through(&self) -> Option<&Arc<str>> {
        (self.queue.is_none() && self.mandatory && !self.exchange.is_empty()).then_some(&self.exchange)
    }

    pub(super) fn to(queue: &Arc<str>, parcel: Parcel) -> Self {
        Self { exchange: "".into(), key: queue.clone(), queue: Some(queue.clone()), due: None, mandatory: true, parcel: Arc::new(parcel) }
    }

    /// Makes it of a message for whoever listens, which may be nobody.
    pub(super) fn over(exchange: &Arc<str>, key: &str, parcel: Parcel) -> Self {
        Self { exchange: exchange.clone(), key: key.into(), queue: None, due: None, mandatory: false, parcel: Arc::new(parcel) }
    }
}

/// Outcome of sending one message.
pub(super) enum Sent {
    Confirmed,
    /// Nobody took it: its queue is not there.
    Returned,
    /// The server did not take it: a limit of its queue, or trouble of the server's own.
    Nacked,
    /// The channel was closed before the server said anything of it.
    Channel(lapin::Error),
    /// The connection was.
    Away(lapin::Error),
}

/// Outcome of sending a message alone, where another with it had ended the channel.
pub(super) enum Alone {
    Confirmed,
    /// It can never be sent: the reason.
    Never(String),
    /// It was not sent: the reason.
    Again(String),
}

/// A channel on which messages are confirmed.
pub(super) struct Outlet {
    // Given back before the channel ends.
    pub(super) direct: DirectChannel,
    pub(super) open: Arc<Open>,
    channel: Channel,
}

/// Sends for any number of callers.
pub(super) struct Publisher {
    pub(super) link: Arc<Link>,
    pub(super) declarer: Arc<Declarer>,
    pub(super) delays: Delays,
    pub(super) outlet: tokio::sync::Mutex<Option<Arc<Outlet>>>,
    pub(super) troubles: Troubles,
    /// Largest body that the server takes, as far as it has said so.
    largest: AtomicUsize,
}

impl Publisher {
    pub(super) fn new(link: Arc<Link>, declarer: Arc<Declarer>) -> Self {
        let delays = Delays::new(link.notice().clone());
        Self {
            link,
            declarer,
            delays,
            outlet: tokio::sync::Mutex::default(),
            troubles: Troubles::default(),
            largest: AtomicUsize::new(LARGEST),
        }
    }

    /// Sends messages, in order. Returns for each that can never be sent why; all others are
    /// confirmed. With patience, nothing is sent where that shows of one of them beforehand.
    ///
    /// # Errors
    /// With patience. Transient: unknown which were sent.
    pub(super) async fn send(&self, batch: &[Routed], wait: Wait) -> Result<Vec<Option<String>>, BrokerError> {
        let mut sending = self.begin(batch.to_vec());
        if wait == Wait::Patience {
            // A batch of which some was taken is asked for once more: what was refused shows now.
            for (routed, refusal) in batch.iter().zip(&mut sending.refusals) {
                if routed.through().is_some() && self.declarer.is_unbound(&routed.exchange, &routed.key) {
                    refusal.get_or_insert_with(|| unbound(&routed.exchange, &routed.key));
                }
            }
            if sending.is_refused() {
                return Ok(sending.refusals);
            }
        }
        self.go_on(&mut sending, wait, None).await?;
        match wait {
            Wait::Patience => self.all_or_none(sending.refusals, sending.some_sent),
            Wait::Forever => Ok(sending.refusals),
        }
    }

    /// Begins to send: looks what can never be sent.
    pub(super) fn begin(&self, sends: Vec<Routed>) -> Sending {
        let refusals = sends.iter().map(|routed| self.impossible(routed)).collect();
        Sending::new(sends, refusals)
    }

    /// Returns the refusals if they are all that was to be sent, or none is: whoever sends a batch
    /// once more, one by one, would send what was taken twice.
    fn all_or_none(&self, refusals: Vec<Option<String>>, some_sent: bool) -> Result<Vec<Option<String>>, BrokerError> {
        match refusals.iter().flatten().next().filter(|_| some_sent) {
            Some(why) => Err(transient(&self.link.place(), &format!("{why}; others that went with it were taken"))),
            None => Ok(refusals),
        }
    }

    /// Says of each message why it can never be sent, as far as that shows before it is.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn check(&self, batch: &[Routed], wait: Wait) -> Result<Vec<Option<String>>, BrokerError> {
        let mut refusals: Vec<Option<String>> = batch.iter().map(|routed| self.impossible(routed)).collect();
        let left = (0..batch.len()).filter(|at| refusals[*at].is_none()).collect();
        let outlet = self.outlet(wait).await?;
        self.declare(&outlet, batch, left, &mut refusals, wait).await?;
        Ok(refusals)
    }

    /// Notes that a queue was deleted: it is to be made anew, and bound.
    pub(super) fn deleted(&self, queue: &str) {
        self.declarer.forget(queue);
        self.delays.unbound(queue);
    }

    /// Returns whether a queue is to be bound to where the server holds messages back: where others
    /// send with a delay, if it is not, and else if it was, and was deleted since.
    pub(super) fn is_to_bind(&self, queue: &str, for_others: bool) -> bool {
        self.delays.is_to_bind(queue, for_others || self.declarer.is_led_to(queue))
    }

    /// Binds a queue to where the server holds messages back. Makes what it takes, over the
    /// connection that sends: that of a consumer would live on for as long as this takes, with all
    /// that it was lent.
    pub(super) async fn take_delayed(&self, queue: &Arc<str>) {
        if let Ok(open) = self.link.open(Wait::Forever).await
            && self.delays.reach(&open, queue).await.is_ok_and(|reached| reached)
            && let Some(spec) = self.declarer.spec(queue)
        {
            self.delays.reach_through(&open, &spec).await;
        }
    }

    /// Sends messages that are not due yet to where the server holds them back. Returns for each
    /// whether it was: where the server cannot, it is not sent at all.
    ///
    /// # Errors
    /// As [`send`](Self::send): unknown which were sent.
    pub(super) async fn put_off(&self, batch: &[Routed]) -> Result<Vec<bool>, BrokerError> {
        let outlet = self.outlet(Wait::Forever).await?;
        let mut off = Vec::with_capacity(batch.len());
        for routed in batch {
            off.push(match &routed.queue {
                Some(queue) => self.delayed(&outlet, routed, queue, Giving::Fixed).await.queue.is_none(),
                None => false,
            });
        }
        // Their way is found anew with each attempt: what holds them back may have been deleted.
        let sends: Vec<Routed> = batch.iter().zip(&off).filter(|(_, is_off)| **is_off).map(|(routed, _)| routed.clone()).collect();
        let mut refusals = self.send(&sends, Wait::Forever).await?.into_iter();
        off.iter_mut().filter(|is_off| **is_off).for_each(|is_off| *is_off = refusals.next().flatten().is_none());
        Ok(off)
    }

    /// Returns how much room a server has for the properties of a message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn room(&self, wait: Wait) -> Result<usize, BrokerError> {
        Ok(room(&self.outlet(wait).await?.open))
    }

    /// Says why a message can never be sent.
    fn impossible(&self, routed: &Routed) -> Option<String> {
        if let Some(why) = routed.queue.as_ref().and_then(|queue| names::refused_key("", queue)) {
            return Some(why);
        }
        if let Some(long) = [&routed.exchange, &routed.key].into_iter().find(|name| name.len() > LONGEST_NAME) {
            return Some(format!("the name of an exchange or a routing key is {} bytes long; AMQP has {LONGEST_NAME} at most", long.len()));
        }
        let size = routed.parcel.body.len();
        let largest = self.largest.load(Ordering::Relaxed);
        (size > largest).then(|| format!("its body of {size} bytes is larger than configured max size {largest} (`max_message_size`)"))
    }

    /// Finds the queues of what is to be sent, and its way there. Returns what can be sent.
    pub(super) async fn declare(
        &self,
        outlet: &Outlet,
        batch: &[Routed],
        left: Vec<usize>,
        refusals: &mut [Option<String>],
        wait: Wait,
    ) -> Result<Vec<(usize, Routed)>, BrokerError> {
        let mut ready = Vec::with_capacity(left.len());
        for at in left {
            let routed = &batch[at];
            let most = room(&outlet.open);
            let size = routed.parcel.size_of_properties();
            if size > most {
                refusals[at] = Some(format!("its headers take {size} bytes, and a frame of this server's has room for {most}"));
                continue;
            }
            let through = match routed.through() {
                Some(exchange) => self.declarer.look_for_exchange(&outlet.open, exchange).await,
                None => Ok(()),
            };
            let found = match (&routed.queue, through) {
                (_, Err(error)) => Err(error),
                (None, Ok(())) => Ok(routed.clone()),
                // Another connection may not look for it; the worker that has it makes it.
                (Some(queue), Ok(())) if self.declarer.spec(queue).is_some_and(|spec| spec.exclusive) => Ok(routed.clone()),
                (Some(queue), Ok(())) => match self.declarer.ensure(&outlet.open, queue).await {
                    Ok(giving) => Ok(self.delayed(outlet, routed, queue, giving).await),
                    Err(error) => Err(error),
                },
            };
            match found {
                Ok(routed) => ready.push((at, routed)),
                Err(Undeclared::No(why)) => refusals[at] = Some(why),
                Err(Undeclared::Away(why) | Undeclared::Later(why)) if wait == Wait::Patience => {
                    return Err(transient(&outlet.open.place, &why));
                }
                // The next round connects anew; a queue that is down gives it back.
                Err(Undeclared::Away(_) | Undeclared::Later(_)) => ready.push((at, routed.clone())),
            }
        }
        Ok(ready)
    }

    /// Returns a message on its way: by the queues that hold it back, where it is not due for long.
    /// One that nobody holds back is lent early.
    async fn delayed(&self, outlet: &Outlet, routed: &Routed, queue: &Arc<str>, giving: Giving) -> Routed {
        let seconds = routed.due.map_or(0, |due| seconds_until(due, SystemTime::now()));
        // What a worker holds takes a place of a window that does not grow.
        let least = if giving == Giving::Classic { LONG.as_secs() } else { 1 };
        if seconds < least || !self.delays.reach(&outlet.open, queue).await.unwrap_or(false) {
            return routed.clone();
        }
        delay::routed(queue, routed.parcel.clone(), seconds)
    }

    /// Returns the channel that all send on; makes one if there is none.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn outlet(&self, wait: Wait) -> Result<Arc<Outlet>, BrokerError> {
        let mut slot = match wait {
            Wait::Forever => self.outlet.lock().await,
            // Somebody with more patience may be making one.
            Wait::Patience => timeout(self.link.config().patience, self.outlet.lock()).await.map_err(|_| self.link.late())?,
        };
        if let Some(outlet) = slot.as_ref().filter(|outlet| outlet.open.is_up() && outlet.channel.status().connected()) {
            return Ok(outlet.clone());
        }
        let outlet = Arc::new(self.new_outlet(wait).await?);
        *slot = Some(outlet.clone());
        Ok(outlet)
    }

    async fn new_outlet(&self, wait: Wait) -> Result<Outlet, BrokerError> {
        let mut attempt = 0;
        loop {
            let (open, channel) = self.link.channel(wait).await?;
            match open.answer(channel.confirm_select(ConfirmSelectOptions::default())).await {
                Ok(()) => {
                    let direct = open.direct.publishes(channel.id(), open.frame_max());
                    return Ok(Outlet { direct, open, channel });
                }
                Err(error) if wait == Wait::Patience && attempt >= 3 => return Err(transient(&open.place, &words(&error))),
                Err(_) => sleep(pause(attempt)).await,
            }
            attempt += 1;
        }
    }

    /// Returns a refusal. A limit that it names shows of the next message before anything is sent.
    fn learned(&self, why: String) -> String {
        limit_of(&why).into_iter().for_each(|limit| self.largest.store(limit, Ordering::Relaxed));
        why
    }

    /// Sends one message on a channel of its own, which it may end.
    ///
    /// # Errors
    /// With patience. Transient: unknown whether it was sent. Refused: we may not.
    pub(super) async fn send_alone(&self, routed: &Routed, wait: Wait) -> Result<Alone, BrokerError> {
        match self.try_alone(routed, wait).await {
            Ok(Sent::Confirmed) => Ok(Alone::Confirmed),
            Err(error) if wait == Wait::Patience => Err(error),
            Ok(Sent::Channel(error)) if is_precondition(&error) => Ok(Alone::Never(self.learned(words(&error)))),
            Ok(Sent::Channel(error)) if is_denied(&error) => {
                let why = advised(&error, "write to");
                // Somebody may let us; until then it is nobody's fault but the user's.
                if wait == Wait::Patience { Err(refused(&self.link.place(), &why)) } else { Ok(Alone::Again(why)) }
            }
            _ => Ok(Alone::Again(format!("it takes nothing of what is sent to {}", routed.key))),
        }
    }

    async fn try_alone(&self, routed: &Routed, wait: Wait) -> Result<Sent, BrokerError> {
        let outlet = self.new_outlet(wait).await?;
        let batch = outlet.direct.publish(vec![routed.clone()]);
        let sent = self.confirmed(&outlet, &batch, wait).await;
        let Outlet { direct, open, channel } = outlet;
        drop(direct);
        let _ = timeout(CLOSE, channel.close(200, "".into())).await;
        sent.and_then(|mut sent| sent.pop()).ok_or_else(|| transient(&open.place, UNCONFIRMED))
    }
}

/// Sends messages for queues that a caller named, all or none as far as that shows beforehand.
pub(super) async fn publish_all(publisher: &Publisher, place: &str, batch: &[Outgoing]) -> Result<(), BrokerError> {
    names::check("", batch.iter().filter(|out| out.exchange.is_none()).map(|out| &*out.queue))?;
    let routed = batch.iter().map(Routed::of).collect::<Result<Vec<_>, _>>().map_err(|why| refused(place, &why))?;
    let refusals = publisher.send(&routed, Wait::Patience).await?;
    refusals.into_iter().flatten().next().map_or(Ok(()), |why| Err(refused(place, &why)))
}

/// Returns the largest body that a server takes, of a refusal that names it.
fn limit_of(refusal: &str) -> Option<usize> {
    refusal.split_once("larger than configured max size ")?.1.trim().parse().ok()
}

fn room(open: &Open) -> usize {
    open.frame_max() - 8
}
