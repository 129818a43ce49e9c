//! Ends of messages: what follows one is confirmed before it is acknowledged.
//!
//! What a single destination does not take for now (a full queue, one without a leader, one that we
//! may not write to) waits beside the others, with its message unacknowledged: should this process
//! end meanwhile, the message comes again.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    consumer::{Shared, State},
    dead,
    held::Lent,
    link::Wait,
    plan::Plan,
    publish::Routed,
    sending::Sending,
};
use crate::{
    error::BrokerError,
    message::{End, Ended, Finish},
    news::News,
};

/// Longest time for which an end waits for its message to come again, counted from when another
/// channel was there.
const COMES_AGAIN: Duration = Duration::from_secs(3);
/// Time after which messages that nobody confirms hold up the others no longer.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(5);
/// Most ends that wait beside the others. Each runs once more where its worker is killed meanwhile,
/// so there are not many; with more of them, all wait.
pub(super) const MOST_ASIDE: u32 = 100;
/// Time that those have when the consumer leaves.
const LAST: Duration = Duration::from_secs(3);

/// An end that waits until what it sends is confirmed.
struct Waiting {
    number: u64,
    /// Places of what it sends.
    places: Range<usize>,
    /// It is left to the dead-letter exchange of its queue then.
    rejects: bool,
}

impl Shared {
    /// Returns what is lent, with the tag under which it is ours now. Where its channel was lost,
    /// it may come again: a server that is away is waited for.
    async fn ours(&self, number: u64) -> Option<Lent> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let begun = {
                let state = self.state();
                let lent = state.held.get(number)?;
                if lent.tag.is_some() {
                    return Some(lent.clone());
                }
                match self.declarer.known(&lent.queue) {
                    Some(giving) => state.begun[giving as usize],
                    None => state.begun.into_iter().flatten().max(),
                }
            };
            // Nothing is asked for any more, so it does not come here.
            if self.is_closed() {
                return None;
            }
            match begun {
                Some(begun) => timeout_at(begun + COMES_AGAIN, arrived).await.ok()?,
                None => arrived.await,
            }
        }
    }

    /// Ends messages. Resolves when each is done, or waits beside the others.
    pub(super) async fn finish_all(self: &Arc<Self>, batch: &[Finish]) -> Result<Vec<Ended>, BrokerError> {
        let mut plans = self.plans(batch).await?;
        self.check(&mut plans).await?;
        // Where it is known that nothing is taken, there is no use in trying with all the others.
        let mut asides = Vec::new();
        for (finish, plan) in batch.iter().zip(&mut plans) {
            if let Plan::Ack(sends) = plan
                && sends.iter().any(|routed| self.publisher.is_in_trouble(&routed.key))
            {
                asides.push((finish.receipt.0, std::mem::take(sends)));
                *plan = Plan::Aside;
            }
        }
        // What is confirmed is there; if this process ends before the acknowledgement, it is sent
        // again.
        let mut places = Vec::with_capacity(plans.len());
        let mut sends: Vec<Routed> = Vec::new();
        for plan in &plans {
            let first = sends.len();
            sends.extend_from_slice(plan.sends());
            places.push(first..sends.len());
        }
        let mut sending = self.publisher.begin(sends);
        let open = self.send_for_a_while(&mut sending, &plans, &places).await?;
        // The rest is for later; each refusal is its message's own.
        let mut waiting = Vec::new();
        for ((finish, plan), places) in batch.iter().zip(&mut plans).zip(places) {
            if places.clone().any(|place| open.contains(&place)) {
                waiting.push(Waiting { number: finish.receipt.0, places, rejects: matches!(plan, Plan::Reject(_)) });
                *plan = Plan::Aside;
            } else if let Some(reason) = sending.refusals[places].iter_mut().find_map(Option::take) {
                *plan = Plan::Over(Ended::Impossible { reason });
            }
        }
        let ended = self.end(batch, plans);
        if !waiting.is_empty() {
            self.put_aside(sending, waiting).await;
        }
        for (number, sends) in asides {
            let waiting = Waiting { number, places: 0..sends.len(), rejects: false };
            self.put_aside(self.publisher.begin(sends), vec![waiting]).await;
        }
        Ok(ended)
    }

    /// Makes the plans of some ends.
    async fn plans(&self, batch: &[Finish]) -> Result<Vec<Plan>, BrokerError> {
        let has_letter = batch.iter().any(|finish| matches!(finish.end, End::Dead { .. } | End::Junk { .. }));
        let room = if has_letter { self.publisher.room(Wait::Forever).await? } else { 0 };
        let (mut plans, mut ending) = (Vec::with_capacity(batch.len()), HashSet::new());
        for finish in batch {
            if finish.end != End::Keep && !ending.insert(finish.receipt) {
                plans.push(Plan::Over(Ended::Refused));
                continue;
            }
            plans.push(match self.ours(finish.receipt.0).await {
                Some(lent) => Plan::of(finish, &lent, (!self.declarer.is_to_reject(&lent.queue)).then_some(room)),
                None => {
                    self.state().held.remove(finish.receipt.0, false);
                    Plan::Over(Ended::Refused)
                }
            });
        }
        Ok(plans)
    }

    /// Looks what shows before anything is sent: nothing of what is refused is.
    async fn check(&self, plans: &mut [Plan]) -> Result<(), BrokerError> {
        let sends: Vec<Routed> = plans.iter().flat_map(Plan::sends).cloned().collect();
        if sends.is_empty() {
            return Ok(());
        }
        let mut checks = self.publisher.check(&sends, Wait::Forever).await?.into_iter();
        for plan in plans {
            let count = plan.sends().len();
            if let Some(reason) = checks.by_ref().take(count).flatten().last() {
                *plan = Plan::Over(Ended::Impossible { reason });
            }
        }
        Ok(())
    }

    /// Sends, and returns the places of what holds up the others. What has to be there before
    /// something else is done is waited for.
    async fn send_for_a_while(
        &self,
        sending: &mut Sending,
        plans: &[Plan],
        places: &[Range<usize>],
    ) -> Result<HashSet<usize>, BrokerError> {
        let mut until = Instant::now() + UNCONFIRMED_FOR;
        loop {
            self.publisher.go_on(sending, Wait::Forever, Some(until)).await?;
            let open: HashSet<usize> = sending.open().into_iter().collect();
            let is_open = |places: &Range<usize>| places.clone().any(|place| open.contains(&place));
            let must_wait = plans.iter().zip(places).any(|(plan, places)| matches!(plan, Plan::Keep(_)) && is_open(places));
            if !must_wait {
                return Ok(open);
            }
            until = self.after_silence();
        }
    }

    /// Returns a time by which what nobody confirms has been given up, and is sent again.
    fn after_silence(&self) -> Instant {
        Instant::now() + self.publisher.link.silence(Wait::Forever) * 2
    }

    /// Has ends wait beside the others, as soon as there is room for that.
    async fn put_aside(self: &Arc<Self>, sending: Sending, waiting: Vec<Waiting>) {
        let count = u32::try_from(waiting.len()).unwrap_or(MOST_ASIDE).min(MOST_ASIDE);
        let Ok(room) = self.asides.clone().acquire_many_owned(count).await else { return };
        let shared = self.clone();
        tokio::spawn(async move {
            shared.end_aside(sending, waiting).await;
            drop(room);
        });
    }

    /// Ends messages as what they send is confirmed, for as long as they are ours.
    async fn end_aside(self: Arc<Self>, mut sending: Sending, mut waiting: Vec<Waiting>) {
        while !waiting.is_empty() && !self.has_left() {
            let until = Some(self.after_silence());
            if self.publisher.go_on(&mut sending, Wait::Forever, until).await.is_err() {
                return;
            }
            let open: HashSet<usize> = sending.open().into_iter().collect();
            let (still, over): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|one| one.places.clone().any(|at| open.contains(&at)));
            waiting = still;
            for one in over {
                let refusal = sending.refusals[one.places].iter_mut().find_map(Option::take);
                if one.rejects {
                    Self::reject(&mut self.state(), one.number);
                } else {
                    self.end_one(one.number, refusal).await;
                }
            }
        }
    }

    /// Ends a message that is told as ended already. One of which something is refused is a dead
    /// letter, with the reason.
    async fn end_one(&self, number: u64, refusal: Option<String>) {
        if let Some(why) = refusal {
            let Some(lent) = self.state().held.get(number).cloned() else { return };
            let Ok(room) = self.publisher.room(Wait::Forever).await else { return };
            let reason = format!("it ended, and what follows it is refused: {why}");
            let letter = dead::letter(&lent.queue, &lent.parcel, &reason, false, room);
            if self.publisher.send(&[letter], Wait::Forever).await.is_err() {
                return;
            }
        }
        let tag = self.state().held.remove(number, true).and_then(|lent| lent.tag);
        self.settle(tag.into_iter().collect(), Vec::new());
    }

    /// Leaves a message to the dead-letter exchange of its queue. It is not remembered: if this is
    /// lost with its channel, it has to end so once more.
    fn reject(state: &mut State, number: u64) {
        let tag = state.held.remove(number, false).and_then(|lent| lent.tag);
        tag.into_iter().for_each(|tag| state.reject(tag));
    }

    /// Gives those that wait beside the others a last moment, and says how many come again.
    pub(super) async fn wait_for_asides(&self) {
        let is_over = timeout(LAST, self.asides.acquire_many(MOST_ASIDE)).await.is_ok();
        let left = MOST_ASIDE as usize - self.asides.available_permits().min(MOST_ASIDE as usize);
        if !is_over && left > 0 {
            let messages = if left == 1 { "1 message that has ended comes" } else { &format!("{left} messages that have ended come") };
            let text = format!("rabbitmq at {}: {messages} again: what follows is not taken where it goes", self.link.place());
            (self.link.notice())(&News::remark(text));
        }
    }

    /// Says to the server what has ended.
    fn end(&self, batch: &[Finish], plans: Vec<Plan>) -> Vec<Ended> {
        let (mut acks, mut backs, mut ended) = (Vec::new(), Vec::new(), Vec::with_capacity(plans.len()));
        {
            let mut state = self.state();
            for (finish, plan) in batch.iter().zip(plans) {
                let number = finish.receipt.0;
                ended.push(match plan {
                    Plan::Over(ended) => ended,
                    Plan::Keep(_) | Plan::Aside => Ended::Done,
                    // Its tag may be another one by now, or gone: then the message comes again, and
                    // what was sent on is sent twice.
                    Plan::Ack(_) => {
                        acks.extend(state.held.remove(number, true).and_then(|lent| lent.tag));
                        Ended::Done
                    }
                    Plan::Reject(_) => {
                        Self::reject(&mut state, number);
                        Ended::Done
                    }
                    Plan::Back => {
                        backs.extend(state.held.remove(number, false).and_then(|lent| lent.tag));
                        Ended::Done
                    }
                });
            }
        }
        self.settle(acks, backs);
        ended
    }
}
