//! Messages on their way: sent in rounds, until each is confirmed or can never be sent. What is
//! confirmed is not sent again, whatever becomes of those that went with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    confirms::Batch,
    fail::{is_denied, is_not_found, is_precondition, transient, words},
    link::{Wait, locked, pause},
    publish::{Alone, Outlet, Publisher, Routed, Sent},
};
use crate::{error::BrokerError, message::unbound, news::Happened};

/// Bytes of a body from which on a message goes alone.
const LARGE: usize = 128 << 10;

/// Time that is given for each message.
const MESSAGE: Duration = Duration::from_millis(2);
/// Rounds in trouble before it is told, and before a caller with patience is.
const TOLD_AFTER: u32 = 2;
const PATIENT: u32 = 4;

pub(super) const UNCONFIRMED: &str = "it confirms nothing of what it was sent (a queue without a leader?); unknown whether it was taken";

/// Messages that are sent together, with what is known of each.
pub(super) struct Sending {
    sends: Vec<Routed>,
    /// Reasons why some of them can never be sent.
    pub(super) refusals: Vec<Option<String>>,
    /// Some were confirmed.
    pub(super) some_sent: bool,
    /// Places of those that are still to go.
    left: Vec<usize>,
    flight: Option<Flight>,
    /// Nothing was sent so far.
    is_fresh: bool,
    attempt: u32,
    /// Destination whose trouble was told.
    told: Option<WaitsFor>,
}

/// Messages that the server has been sent, and has not answered whole.
struct Flight {
    outlet: Arc<Outlet>,
    batch: Arc<Batch>,
    places: Vec<usize>,
    /// Places of those that go behind them.
    later: Vec<usize>,
}

/// State of a flight after a wait.
enum Landing {
    /// The server has said something of each.
    Whole(Vec<Sent>),
    /// It says nothing more.
    Silent,
    /// It may still say something.
    NotYet,
}

/// Outcome of a round.
#[derive(Default)]
struct Round {
    again: Vec<usize>,
    /// Some message is to blame for the end of the channel. It shows which when each goes alone.
    alone: Vec<usize>,
    /// Destination and what is wrong there.
    trouble: Option<(Arc<str>, String)>,
}

/// Destinations that take nothing for now, with the number of those who wait for them.
#[derive(Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// Somebody who waits for a destination.
struct WaitsFor {
    troubles: Troubles,
    key: Arc<str>,
}

impl Troubles {
    /// Notes that somebody waits, and returns whether it is the first.
    fn begin(&self, key: &Arc<str>) -> (WaitsFor, bool) {
        let mut troubles = locked(&self.0);
        let waiting = troubles.entry(key.clone()).or_default();
        *waiting += 1;
        (WaitsFor { troubles: self.clone(), key: key.clone() }, *waiting == 1)
    }

    fn has(&self, key: &str) -> bool {
        locked(&self.0).contains_key(key)
    }

    fn is_empty(&self) -> bool {
        locked(&self.0).is_empty()
    }
}

impl Drop for WaitsFor {
    fn drop(&mut self) {
        let mut troubles = locked(&self.troubles.0);
        if let Some(waiting) = troubles.get_mut(&self.key) {
            *waiting -= 1;
            if *waiting == 0 {
                troubles.remove(&self.key);
            }
        }
    }
}

impl Sending {
    pub(super) fn new(sends: Vec<Routed>, refusals: Vec<Option<String>>) -> Self {
        let left = (0..sends.len()).filter(|at| refusals[*at].is_none()).collect();
        Self { sends, refusals, some_sent: false, left, flight: None, is_fresh: true, attempt: 0, told: None }
    }

    /// Returns whether each is confirmed, or can never be sent.
    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty() && self.flight.is_none()
    }

    /// Returns whether one of them can never be sent.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals.iter().any(Option::is_some)
    }

    /// Returns the places of those that are neither confirmed nor refused, as far as is known.
    pub(super) fn open(&self) -> Vec<usize> {
        let mut open = self.left.clone();
        if let Some(flight) = &self.flight {
            let unsaid = flight.outlet.direct.unsaid(&flight.batch).into_iter();
            open.extend(unsaid.chain(flight.batch.troubled()).map(|at| flight.places[at]));
            open.extend(&flight.later);
        }
        open
    }
}

impl Publisher {
    /// Returns whether nothing is taken there for now, and somebody waits for it.
    pub(super) fn is_in_trouble(&self, key: &str) -> bool {
        self.troubles.has(key)
    }

    /// Sends what is left, in rounds. Without patience it comes back, too, where single messages do
    /// not go: soon after the server has refused them for now, or when `until` has come.
    ///
    /// # Errors
    /// With patience. Transient: unknown which were sent.
    pub(super) async fn go_on(&self, sending: &mut Sending, wait: Wait, until: Option<Instant>) -> Result<(), BrokerError> {
        let went = self.rounds(sending, wait, until).await;
        if sending.is_over() && sending.told.take().is_some() && self.troubles.is_empty() {
            let server = format!("rabbitmq at {}", self.link.place());
            (self.link.notice())(&Happened::Able { server, again: crate::Ability::Take }.into());
        }
        went
    }

    async fn rounds(&self, sending: &mut Sending, wait: Wait, until: Option<Instant>) -> Result<(), BrokerError> {
        while !sending.is_over() {
            let flight = match sending.flight.take() {
                Some(flight) => flight,
                None => match self.take_off(sending, wait).await? {
                    Some(flight) => flight,
                    None => return Ok(()),
                },
            };
            // What the server has said of each; `None` where it says nothing.
            let outcomes: Vec<Option<Sent>> = match self.landing(&flight, wait, until).await {
                Landing::Whole(sent) => sent.into_iter().map(Some).collect(),
                Landing::Silent => {
                    self.give_up(&flight.outlet).await;
                    if wait == Wait::Patience {
                        return Err(transient(&flight.outlet.open.place, UNCONFIRMED));
                    }
                    flight.batch.said(&flight.outlet.direct.unsaid(&flight.batch))
                }
                Landing::NotYet => {
                    let key = flight.outlet.direct.unsaid(&flight.batch).first().map(|at| flight.batch.sends[*at].key.clone());
                    key.iter().for_each(|key| self.tell_trouble(sending, key, &format!("it does not confirm what is sent to {key}")));
                    sending.flight = Some(flight);
                    return Ok(());
                }
            };
            let mut round = self.sort_out(sending, &flight, outcomes, wait).await?;
            self.send_each_alone(sending, &mut round, wait).await?;
            let (in_trouble, trouble) = (!round.again.is_empty(), round.trouble.filter(|_| !round.again.is_empty()));
            sending.left = in_order(round.again, flight.later);
            if let Some((key, trouble)) = &trouble {
                if wait == Wait::Patience && sending.attempt >= PATIENT {
                    return Err(transient(&flight.outlet.open.place, trouble));
                }
                if sending.attempt >= TOLD_AFTER {
                    self.tell_trouble(sending, key, trouble);
                }
            }
            if in_trouble {
                sleep(pause(sending.attempt)).await;
                sending.attempt += 1;
            }
            if trouble.is_some() && until.is_some() && sending.told.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what can be sent now. `None`: with patience, something was refused before anything was
    /// sent.
    async fn take_off(&self, sending: &mut Sending, wait: Wait) -> Result<Option<Flight>, BrokerError> {
        let outlet = self.outlet(wait).await?;
        let left = std::mem::take(&mut sending.left);
        sending.left.clone_from(&left);
        let ready = self.declare(&outlet, &sending.sends, left, &mut sending.refusals, wait).await?;
        if wait == Wait::Patience && sending.is_fresh && sending.is_refused() {
            return Ok(None);
        }
        (sending.is_fresh, sending.left) = (false, Vec::new());
        let (ready, later) = first_run(ready);
        let (places, sends): (Vec<usize>, Vec<Routed>) = ready.into_iter().unzip();
        let batch = outlet.direct.publish(sends);
        Ok(Some(Flight { outlet, batch, places, later }))
    }

    /// Waits for the server's word of each message of a flight. The time counts from its last word,
    /// and from the last byte that it took.
    async fn landing(&self, flight: &Flight, wait: Wait, until: Option<Instant>) -> Landing {
        let most = self.link.silence(wait) + MESSAGE * u32::try_from(flight.places.len()).unwrap_or(u32::MAX);
        let progress = || (flight.batch.left(), flight.outlet.direct.taken());
        let said = self.link.said(most, progress, flight.batch.sent());
        let said = match until {
            None => said.await,
            Some(until) => match timeout_at(until, said).await {
                Ok(said) => said,
                Err(_) => return Landing::NotYet,
            },
        };
        said.map_or(Landing::Silent, Landing::Whole)
    }

    /// Notes what has become of the messages of a flight.
    async fn sort_out(
        &self,
        sending: &mut Sending,
        flight: &Flight,
        outcomes: Vec<Option<Sent>>,
        wait: Wait,
    ) -> Result<Round, BrokerError> {
        let mut round = Round::default();
        for (at, sent) in flight.places.iter().copied().zip(outcomes) {
            let routed = &sending.sends[at];
            let trouble = |what: String| Some((routed.key.clone(), what));
            match sent {
                Some(Sent::Confirmed) => sending.some_sent = true,
                // Who does not take an answer does not get it, as if the queue were gone.
                Some(Sent::Nacked) if !routed.mandatory => {}
                Some(Sent::Returned) if routed.through().is_some() => {
                    self.declarer.note_unbound(&routed.exchange, &routed.key);
                    sending.refusals[at] = Some(unbound(&routed.exchange, &routed.key));
                }
                Some(Sent::Returned) => {
                    routed.queue.iter().for_each(|queue| self.declarer.forget(queue));
                    self.delays.forget().await;
                    round.trouble = trouble(format!("nobody takes what is sent to {}", routed.key));
                    round.again.push(at);
                }
                Some(Sent::Nacked) => {
                    round.trouble = trouble(format!("it does not take what is sent to {} (a limit of the queue?)", routed.key));
                    round.again.push(at);
                }
                None => {
                    round.trouble = trouble(UNCONFIRMED.to_owned());
                    round.again.push(at);
                }
                Some(Sent::Channel(error)) if is_precondition(&error) || is_denied(&error) => round.alone.push(at),
                // An exchange is made by whoever names it; those of the delays are made here.
                Some(Sent::Channel(error)) if is_not_found(&error) && routed.is_for_listeners() && wait == Wait::Patience => {
                    return Err(transient(&flight.outlet.open.place, &words(&error)));
                }
                Some(Sent::Channel(error)) if is_not_found(&error) => {
                    self.declarer.forget_exchanges();
                    self.delays.forget().await;
                    round.trouble = trouble(words(&error));
                    round.again.push(at);
                }
                Some(Sent::Channel(error) | Sent::Away(error)) if wait == Wait::Patience => {
                    return Err(transient(&flight.outlet.open.place, &words(&error)));
                }
                Some(Sent::Channel(_) | Sent::Away(_)) => round.again.push(at),
            }
        }
        Ok(round)
    }

    /// Sends those alone of which one has ended the channel.
    async fn send_each_alone(&self, sending: &mut Sending, round: &mut Round, wait: Wait) -> Result<(), BrokerError> {
        for at in std::mem::take(&mut round.alone) {
            match self.send_alone(&sending.sends[at], wait).await? {
                Alone::Confirmed => sending.some_sent = true,
                Alone::Never(why) => sending.refusals[at] = Some(why),
                Alone::Again(why) => {
                    round.trouble = Some((sending.sends[at].key.clone(), why));
                    round.again.push(at);
                }
            }
        }
        Ok(())
    }

    /// Tells that nothing is taken there for now, once for all who wait for it.
    fn tell_trouble(&self, sending: &mut Sending, key: &Arc<str>, trouble: &str) {
        if sending.told.is_none() {
            let (waits, is_first) = self.troubles.begin(key);
            sending.told = Some(waits);
            if is_first {
                let reason = format!("rabbitmq at {}: {trouble}; asked again", self.link.place());
                (self.link.notice())(&Happened::Refused { reason }.into());
            }
        }
    }

    /// Sends nothing more on a channel.
    async fn give_up(&self, outlet: &Arc<Outlet>) {
        let mut slot = self.outlet.lock().await;
        if slot.as_ref().is_some_and(|other| Arc::ptr_eq(other, outlet)) {
            *slot = None;
        }
    }

    /// Waits until the server has said something of messages that went alone. `None`: it says
    /// nothing for too long.
    pub(super) async fn confirmed(&self, outlet: &Outlet, batch: &Batch, wait: Wait) -> Option<Vec<Sent>> {
        self.link.said(self.link.silence(wait) + MESSAGE, || outlet.direct.taken(), batch.sent()).await
    }
}

/// Returns places of both, in order.
fn in_order(mut some: Vec<usize>, others: Vec<usize>) -> Vec<usize> {
    some.extend(others);
    some.sort_unstable();
    some
}

/// Returns those that go together, and the places of the others: a large one goes alone, behind
/// those that went before. A server that takes none so large ends the channel, and nobody else
/// shall be in doubt.
fn first_run(mut ready: Vec<(usize, Routed)>) -> (Vec<(usize, Routed)>, Vec<usize>) {
    let is_large = |(_, routed): &(usize, Routed)| routed.parcel.body.len() > LARGE;
    let count = ready.iter().position(is_large).unwrap_or(ready.len()).max(1);
    let later = ready.split_off(count.min(ready.len())).into_iter().map(|(at, _)| at).collect();
    (ready, later)
}
