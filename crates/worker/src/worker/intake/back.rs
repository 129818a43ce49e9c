//! What goes back unrun: what the engine did not start, and at the end whatever is left here.

use std::sync::{Arc, atomic::Ordering};

use longshore_brokers::{BrokerError, Claimed, End, Finish, Outgoing};
use longshore_celery::Encoding;
use longshore_core::{Receipt, Verdict, source::Settlement};
use tokio::task::JoinHandle;

use super::{
    super::{close::Closing, shared::Shared, suspects::rested, work::ClaimedTask},
    Intake,
};

impl Intake {
    /// Hands back, at the end, whatever was claimed and did not reach the engine, also when the
    /// last fetch has failed and nobody has closed anything.
    pub(crate) async fn clear(&self) -> Result<(), BrokerError> {
        self.closed.store(true, Ordering::Release);
        self.shared.consumer.close();
        self.let_go();
        let (leaving, closing) = {
            let mut state = self.state();
            (state.leaving.take(), state.closing.take())
        };
        let left = over(leaving).await;
        left.and(over(closing).await)
    }

    /// Ends what shall not run, while others are claimed and run: to bury a large message takes its
    /// time. One such batch after the other.
    pub(super) async fn close_beside(&self, closings: Vec<Closing>) {
        // It is never closed.
        let place = self.beside.clone().acquire_owned().await;
        let mut state = self.state();
        let (before, closer) = (state.closing.take(), self.closer.clone());
        state.closing = Some(tokio::spawn(async move {
            over(before).await?;
            let closed = closer.close(closings).await;
            drop(place);
            closed
        }));
    }

    /// Hands back at once, after the consumer is closed, what is ready here, what is not read yet
    /// and what a claim on its way still brings. It does not wait until everything that runs has
    /// ended.
    pub(super) fn let_go(&self) {
        let mut state = self.state();
        let (claim, ready) = (state.claim.take(), Vec::from(std::mem::take(&mut state.ready)));
        let mut unread: Vec<Claimed> = state.unread.drain(..).map(|unread| unread.claimed).collect();
        if claim.is_none() && ready.is_empty() && unread.is_empty() {
            return;
        }
        ready.iter().for_each(|work| self.shared.load.add(work.task.lane, -1));
        let (before, shared) = (state.leaving.take(), self.shared.clone());
        count_given(&shared, &unread);
        state.leaving = Some(tokio::spawn(async move {
            let before = over(before).await;
            if let Some(claim) = claim {
                let claimed = claim.await.claimed;
                count_given(&shared, &claimed);
                unread.extend(claimed);
            }
            before.and(give_back(&shared, ready, unread).await)
        }));
    }

    /// Gives back what did not run; what has run is finished by the sink already.
    pub(super) async fn settle_all(&self, batch: &[Settlement]) -> Result<(), BrokerError> {
        let mut back = Vec::new();
        let (mut again, mut sent) = (Vec::new(), Vec::new());
        let works: Vec<Option<Arc<ClaimedTask>>> = {
            let mut live = self.shared.live();
            let work = |settlement: &Settlement| match settlement.verdict {
                // It is ours until the broker knows.
                Verdict::Requeue { .. } => live.get(&settlement.receipt.0).cloned(),
                Verdict::Ack | Verdict::Reject => live.remove(&settlement.receipt.0),
            };
            batch.iter().map(work).collect()
        };
        let (acquitted, full) = {
            let mut state = self.state();
            works.iter().flatten().for_each(|work| state.ahead.ended(work.task.lane));
            let full = std::mem::take(&mut state.full);
            let before = state.accused.len();
            if before > 0 {
                let now = self.shared.environment.now();
                let ended = state.accused.extract_if(.., |accused| batch.iter().any(|settlement| settlement.receipt == accused.receipt));
                let rested = ended.filter_map(|ended| rested(&ended, now)).max();
                state.calm = state.calm.max(rested);
            }
            (state.accused.len() < before, full)
        };
        if let Some(runs) = self.shared.runs.as_ref().filter(|_| acquitted) {
            let suspects = works.iter().flatten().filter(|work| work.crashes > 0);
            runs.acquit(suspects.map(|work| (work.message.id.as_str(), work.crashes))).await;
        }
        for (Settlement { verdict, .. }, work) in batch.iter().zip(works) {
            let (Verdict::Requeue { .. }, Some(work)) = (verdict, work) else { continue };
            self.shared.load.add(work.task.lane, -1);
            if work.acked.load(Ordering::Acquire) && work.to_hold().is_none() {
                // Acknowledged as it started, and stopped by us: it is sent once more.
                sent.push(work.receipt);
                let raw = work.message.encode(Encoding::Json);
                again.push(Outgoing {
                    queue: work.queue.clone(),
                    exchange: None,
                    priority: work.message.priority.unwrap_or(0),
                    due: None,
                    raw,
                });
            } else {
                back.push(work);
            }
        }
        // A suspect may start, or a claim go out, that waited for one of these.
        if acquitted || full {
            self.wake.notify_one();
        }
        let published = if again.is_empty() { Ok(()) } else { self.shared.broker.publish(&again).await };
        if published.is_ok() {
            gone_back(&self.shared, &sent);
        }
        // Each whether the other can be done or not.
        give_back(&self.shared, back, Vec::new()).await.and(published)
    }
}

/// Waits for what goes on beside.
async fn over(beside: Option<JoinHandle<Result<(), BrokerError>>>) -> Result<(), BrokerError> {
    match beside {
        Some(beside) => beside.await.unwrap_or(Ok(())),
        None => Ok(()),
    }
}

/// Counts what was given and is read by nobody: until it is held or live nobody else has it.
/// Returns how many.
pub(super) fn count_given(shared: &Shared, unread: &[Claimed]) -> u64 {
    let given = unread.iter().filter(|claimed| claimed.given).count() as u64;
    if given > 0 {
        shared.counts.given_unread.fetch_add(given, Ordering::Relaxed);
    }
    given
}

/// Notes that this many of them are held or live.
pub(super) fn are_ours(shared: &Shared, given: u64) {
    if given > 0 {
        shared.counts.given_unread.fetch_sub(given, Ordering::Relaxed);
    }
}

/// Hands back what never started, and after that what was not even read (and has been
/// [counted](count_given)), to the front of its queue.
async fn give_back(shared: &Shared, works: Vec<Arc<ClaimedTask>>, unread: Vec<Claimed>) -> Result<(), BrokerError> {
    let receipts: Vec<Receipt> = works.iter().map(|work| work.receipt).chain(unread.iter().map(|claimed| claimed.receipt)).collect();
    if receipts.is_empty() {
        return Ok(());
    }
    let mut to_hold: Vec<Claimed> = works.iter().filter_map(|work| work.to_hold()).collect();
    let of_works = to_hold.len();
    to_hold.extend(unread.into_iter().filter(|claimed| claimed.given));
    if !to_hold.is_empty() {
        shared.consumer.hold(&to_hold).await?;
        are_ours(shared, (to_hold.len() - of_works) as u64);
        works.iter().filter(|work| work.to_hold().is_some()).for_each(|work| work.gone.store(false, Ordering::Release));
    }
    let back = |receipt| Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Back { front: true } };
    // The first of them last, so that it is served first.
    let finishes: Vec<Finish> = receipts.iter().copied().rev().map(back).collect();
    shared.consumer.finish(&finishes).await?;
    gone_back(shared, &receipts);
    Ok(())
}

/// Forgets messages that the broker has again.
fn gone_back(shared: &Shared, receipts: &[Receipt]) {
    let mut live = shared.live();
    receipts.iter().for_each(|receipt| drop(live.remove(&receipt.0)));
    shared.counts.ends().counts.handed_back += receipts.len() as u64;
}
