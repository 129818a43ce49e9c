//! From the broker to the engine: claims, reads, sorts out, holds back what is not due.
//!
//! Layout: `claims.rs`: when to claim; `ahead.rs`: how many are claimed ahead; `share.rs`: how many
//! are this worker's share; `sort.rs`: what can be done with one now; `back.rs`: what goes back
//! unrun; `again.rs`: what was lent before and has ended; `turns.rs`: whose turn it is, of suspects
//! and others; `rated.rs`: how many of a rate wait for their lane

mod again;
mod ahead;
mod back;
mod claims;
mod rated;
mod share;
mod sort;
mod turns;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, Claimed, FEW, Slot, lease::Term};
use longshore_core::{
    Delivery, ErrorKind, LaneKind, Options, Receipt, SourceError,
    source::{Fetched, Settlement, Source},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use self::{
    again::{Doubt, RunBefore},
    ahead::AheadEstimate,
    rated::RatedLines,
    share::{ClaimShare, LaneForecast},
    sort::SortedMessage,
    turns::suspect,
};
use super::{
    close::Closer,
    conclude::{self, UnrunReason},
    held::{HeldEntry, HeldMessages},
    notice::{TaskChange, WorkerEvent},
    shared::Shared,
    suspects::{self, Accused, QuietWait},
    work::{ClaimedTask, TaskTicket},
};
use crate::task::Task;

/// Most messages that are held for their time. Beyond, nothing is claimed.
const HELD: usize = 100_000;
/// Most messages that are read before the engine gets the first of them.
const READ: usize = 100;
/// Most held messages that are loaded at once when they are due.
const DUE: usize = 100;
/// Most batches that wait to be ended beside everything else.
const BESIDE: usize = 16;
/// A slot of a rate that is no farther off than this is not waited for.
const NEAR: Duration = Duration::from_micros(500);
/// A slot of a rate that was not used for this time has passed.
const PAST: Duration = Duration::from_millis(50);
/// Time between two looks at a lease that is over.
const OVER: Duration = Duration::from_millis(20);
/// Time after which a broker that is away is asked again for slots of a rate.
const AWAY: Duration = Duration::from_secs(1);
/// Time between two looks at the wall clock while something is held: it may have been set.
const GLANCE: Duration = Duration::from_secs(5);

/// The engine's source: the consumer's messages, sorted out.
pub(crate) struct Intake {
    shared: Arc<Shared>,
    closer: Arc<Closer>,
    state: Mutex<IntakeState>,
    /// Permits for batches that are ended beside everything else.
    beside: Arc<Semaphore>,
    /// Wakes a fetch that waits: something may be ready, or a time has changed.
    wake: Notify,
    closed: AtomicBool,
    /// True where messages are given, not lent: they are claimed ahead.
    early: bool,
    /// Most messages that are claimed at once: running, waiting to run, and not read yet.
    most: usize,
}

struct IntakeState {
    /// A claim that goes on while the engine is told of something else. Never dropped before it has
    /// ended: what it pops would be lost for a lease.
    claim: Option<BoxFuture<'static, ClaimedBatch>>,
    held: HeldMessages,
    /// Claimed, and not read yet: the first of a batch run while the others are read. Not in any
    /// list of what is reserved, since nothing is known of them.
    unread: VecDeque<UnreadMessage>,
    /// Ready for the engine.
    ready: VecDeque<Arc<ClaimedTask>>,
    /// Messages that may have killed a worker: one starts at a time.
    suspects: VecDeque<Arc<ClaimedTask>>,
    /// Suspects that run.
    accused: Vec<Accused>,
    /// Earliest time at which a suspect may start that the next death would bury.
    calm: Option<Instant>,
    /// Time at which the engine was last given a task that nobody suspects.
    fresh: Option<Instant>,
    /// Time until which nobody starts whom nobody suspects, since a suspect waits for those that
    /// run.
    hush: Option<Instant>,
    quiet: QuietWait,
    /// The lane that the first suspect in line waits for: nobody whom nobody suspects starts there.
    reserved: Option<LaneKind>,
    ended: bool,
    /// Hands back what was ready and never reached the engine.
    leaving: Option<JoinHandle<Result<(), BrokerError>>>,
    /// Ends, beside everything else, what is too large to be waited for and shall not run.
    closing: Option<JoinHandle<Result<(), BrokerError>>>,
    ahead: AheadEstimate,
    forecast: LaneForecast,
    lines: RatedLines,
    /// True where the next claim waits until something has ended.
    full: bool,
    /// True where the last claim found less than it asked for.
    drained: bool,
}

/// A message that is claimed and not read yet.
struct UnreadMessage {
    claimed: Claimed,
    term: Term,
}

/// Result of a claim.
struct ClaimedBatch {
    /// The term of our lease in which it was asked for.
    term: Term,
    /// Number of messages that were asked for.
    asked: usize,
    claimed: Vec<Claimed>,
    result: Result<Fetched, BrokerError>,
    /// Time that a look took which found nothing to claim.
    look: Option<Duration>,
}

/// A task, and why it may run elsewhere, if it may.
type DoubtedTask = (Arc<ClaimedTask>, Option<Doubt>);

impl Intake {
    pub(crate) fn new(shared: Arc<Shared>, closer: Arc<Closer>, early: bool, most: Option<usize>) -> Self {
        let (built_in, own): (Vec<_>, Vec<_>) = shared.app.registry().tasks.values().partition(|task| task.name.starts_with("celery."));
        let lanes = |tasks: Vec<&Arc<Task>>| tasks.into_iter().map(|task| task.lane).collect::<Vec<_>>();
        let forecast = LaneForecast::new(lanes(own), lanes(built_in));
        let state = Mutex::new(IntakeState {
            claim: None,
            held: HeldMessages::default(),
            unread: VecDeque::new(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            accused: Vec::new(),
            calm: Some(suspects::calm(shared.started)),
            fresh: None,
            hush: None,
            quiet: QuietWait::default(),
            reserved: None,
            ended: false,
            leaving: None,
            closing: None,
            ahead: AheadEstimate::default(),
            forecast,
            lines: RatedLines::default(),
            full: false,
            drained: false,
        });
        let (beside, wake, closed) = (Arc::new(Semaphore::new(BESIDE)), Notify::new(), AtomicBool::new(false));
        Self { shared, closer, state, beside, wake, closed, early, most: most.unwrap_or(usize::MAX) }
    }

    fn state(&self) -> MutexGuard<'_, IntakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages held for their time, soonest first.
    pub(crate) fn held(&self) -> Vec<HeldEntry> {
        let mut held: Vec<_> = self.state().held.iter().cloned().collect();
        held.sort();
        held
    }

    /// Suspects that may not start yet.
    pub(crate) fn waiting_suspects(&self) -> Vec<Receipt> {
        self.state().suspects.iter().map(|work| work.receipt).collect()
    }

    /// Returns the number of messages that are held for their time.
    pub(crate) fn held_count(&self) -> usize {
        self.state().held.len()
    }

    /// Reads these again at once, although their time has not come.
    pub(crate) fn make_due(&self, receipts: &[Receipt]) {
        self.state().held.make_due(receipts, self.shared.environment.wall());
        self.wake.notify_one();
    }

    /// Returns when the first of what is held is due.
    pub(crate) fn next_due(&self) -> Option<SystemTime> {
        self.state().held.next()
    }

    /// Looks again at what waits for a task's rate, which has been changed.
    pub(crate) fn rate_changed(&self, task: &str) {
        self.shared.forget_pace(task);
        let now = self.shared.environment.wall();
        {
            let mut state = self.state();
            for entry in state.held.take_paced(task) {
                // Due at once; when it is read again, its task's rate says anew when.
                state.held.push(HeldEntry { due: now, slot: false, ..entry });
            }
        }
        self.wake.notify_one();
    }

    /// Sorts out what was claimed, and ends at once what shall not run. Returns how many may run.
    async fn take(&self, claimed: Vec<Claimed>, term: Term, slots_taken: bool) -> Result<usize, BrokerError> {
        let now = self.shared.environment.wall();
        // Each message goes into one of these: to run, to ask for a slot of a shared rate, to wait
        // for its time, or to be ended here.
        let mut closings = Vec::new();
        let mut are_large = false;
        let mut works = Vec::with_capacity(claimed.len());
        let mut again = RunBefore::default();
        let (mut to_hold, mut later, mut asking) = (Vec::new(), Vec::new(), Vec::new());
        // Until they are held or live, an error here loses them; then that is counted.
        let given = back::count_given(&self.shared, &claimed);
        for mut claimed in claimed {
            let crashes = claimed.crashes;
            are_large |= claimed.raw.len() > FEW;
            let message = self.read(&mut claimed).await;
            let lent_before = claimed.redelivered || message.as_ref().is_ok_and(|message| message.redelivered);
            let twice = !self.shared.one_store && message.as_ref().is_ok_and(again::may_come_twice);
            let sorted = self.sort(message, now, slots_taken);
            self.shared.counts.note_redelivered(lent_before && !matches!(sorted, SortedMessage::Later { .. }));
            if claimed.given && (crashes > 0 || !matches!(sorted, SortedMessage::Run(..))) {
                // It does not run at once, or not at all: it must not be lost with this worker.
                claimed.given = false;
                to_hold.push(claimed.clone());
            }
            let doubt = if lent_before { Some(Doubt::Lent) } else { twice.then_some(Doubt::Sent) };
            let (receipt, redelivered) = (claimed.receipt, claimed.redelivered);
            let queue = claimed.queue.clone();
            let sorted = match sorted {
                SortedMessage::Run(message, task) | SortedMessage::Ask(message, task) if suspect(crashes, &task).is_guilty() => {
                    SortedMessage::Unrun(message, UnrunReason::Crashed(crashes))
                }
                sorted => sorted,
            };
            match sorted {
                SortedMessage::Run(message, task) => {
                    again.works.extend(doubt.map(|doubt| (works.len(), doubt)));
                    works.push(Arc::new(ClaimedTask::new(message, task, claimed, term)));
                }
                SortedMessage::Ask(message, task) => {
                    asking.push((Arc::new(ClaimedTask::new(message, task, claimed, term)), doubt));
                }
                SortedMessage::Later { due, paced, slot } => {
                    later.push(HeldEntry { due, receipt: receipt.0, queue, crashes, redelivered, paced, slot });
                }
                SortedMessage::Unrun(message, why) => {
                    if doubt.is_some() {
                        again.closings.push(closings.len());
                    }
                    closings.push(conclude::unrun(&self.shared, message, receipt, queue, why));
                }
                SortedMessage::Bad(bad) => closings.push(conclude::bad(&self.shared, &bad, receipt, queue)),
            }
        }
        // Held before anything else waits: until then nobody else has them.
        if !to_hold.is_empty() {
            self.shared.consumer.hold(&to_hold).await?;
        }
        back::are_ours(&self.shared, to_hold.len() as u64);
        for (work, doubt) in self.ask(asking).await? {
            again.works.extend(doubt.map(|doubt| (works.len(), doubt)));
            works.push(work);
        }
        // What was lent before may run in a worker that lost its connection, and lives.
        let (elsewhere, taken_in) = self.run_elsewhere(&mut again, &mut works).await;
        for (work, wait) in elsewhere {
            let (queue, crashes, due) = (work.queue.clone(), work.crashes, now + wait);
            later.push(HeldEntry { due, receipt: work.receipt.0, queue, crashes, redelivered: true, paced: None, slot: false });
        }
        // It may have ended in a worker that died before it could say so.
        self.end_finished(again, &mut works, &mut closings).await?;
        self.judge(&mut works, &mut closings).await;
        closings.iter_mut().for_each(|closing| closing.term = Some(term));
        // Live from here on: remote control sees them, and a stop gives them back.
        self.note(&works);
        drop(taken_in);
        back::are_ours(&self.shared, given - to_hold.len() as u64);
        let run = works.len();
        {
            let mut state = self.state();
            later.into_iter().for_each(|entry| state.held.push(entry));
            for work in works {
                state.forecast.saw(work.task.lane);
                if let Some((bucket, _)) = self.rate(&work.task) {
                    state.lines.add(bucket, &work);
                }
                if work.crashes > 0 { state.suspects.push_back(work) } else { self.make_ready(&mut state, work) }
            }
        }
        // Last, so that what may run has not waited for the ends of others.
        match closings.is_empty() {
            true => {}
            false if are_large => self.close_beside(closings).await,
            false => self.closer.close(closings).await?,
        }
        Ok(run)
    }

    /// Asks for slots of the rates that all workers share, in one call a task. Returns those whose
    /// slot has come, and holds the others.
    async fn ask(&self, asking: Vec<DoubtedTask>) -> Result<Vec<DoubtedTask>, BrokerError> {
        let mut by_task: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
        for (work, doubt) in asking {
            by_task.entry(work.task.name.clone()).or_default().push((work, doubt));
        }
        let mut ready = Vec::new();
        for (task, works) in by_task {
            let first = works.first().map(|(work, _)| work.task.clone());
            let Some((limit, rate)) = first.and_then(|of| self.rate(&of)) else {
                ready.extend(works);
                continue;
            };
            let slots = match self.shared.connected.shared()?.reserve(&limit, rate, works.len()).await {
                Ok(slots) => slots,
                Err(error) if error.kind == ErrorKind::Fatal => return Err(error),
                Err(_) => vec![Slot::Ask(AWAY); works.len()],
            };
            let now = self.shared.environment.wall();
            let mut state = self.state();
            for ((work, doubt), slot) in works.into_iter().zip(slots) {
                let (wait, slot) = match slot {
                    Slot::Reserved(wait) if wait <= NEAR => {
                        ready.push((work, doubt));
                        continue;
                    }
                    Slot::Reserved(wait) => (wait, true),
                    Slot::Ask(after) => (after, false),
                };
                let (receipt, queue, crashes, redelivered) = (work.receipt.0, work.queue.clone(), work.crashes, doubt == Some(Doubt::Lent));
                state.held.push(HeldEntry { due: now + wait, receipt, queue, crashes, redelivered, paced: Some(task.clone()), slot });
            }
        }
        Ok(ready)
    }

    /// Notes what was received.
    fn note(&self, works: &[Arc<ClaimedTask>]) {
        if self.shared.hub.wants(longshore_core::watch::Detail::Tasks) {
            self.shared.hub.post(works.iter().map(|work| WorkerEvent::Task(self.shared.notice(work, TaskChange::Received))));
        }
        self.shared.counts.received(works.iter().map(|work| work.task.name.clone()));
        self.shared.live().extend(works.iter().map(|work| (work.receipt.0, work.clone())));
    }

    fn make_ready(&self, state: &mut IntakeState, work: Arc<ClaimedTask>) {
        self.shared.load.add(work.task.lane, 1);
        state.ready.push_back(work);
    }

    /// Reads what is due of what was held. Returns whether there was any.
    async fn take_due(&self, room: usize) -> Result<bool, BrokerError> {
        let Some(term) = self.shared.term() else { return Ok(false) };
        let due = {
            let mut state = self.state();
            let room = state.room_for_fresh(room, self.shared.environment.now());
            let now = self.shared.environment.wall();
            let due = state.held.due(now, room.min(DUE));
            self.with_room_in_line(&mut state, due, now)
        };
        if due.is_empty() {
            return Ok(false);
        }
        let receipts: Vec<_> = due.iter().map(HeldEntry::receipt).collect();
        let raws = match self.shared.consumer.load(&receipts).await {
            Ok(raws) => raws,
            Err(error) => {
                let mut state = self.state();
                due.into_iter().for_each(|entry| state.held.push(entry));
                return Err(error);
            }
        };
        let now = self.shared.environment.wall();
        let (mut slots, mut others) = (Vec::new(), Vec::new());
        for (entry, raw) in due.into_iter().zip(raws) {
            // One that is not ours any more was rescued: somebody else runs it.
            let Some(raw) = raw else { continue };
            let (receipt, HeldEntry { queue, crashes, redelivered, .. }) = (entry.receipt(), &entry);
            let claimed = Claimed { receipt, queue: queue.clone(), raw, crashes: *crashes, redelivered: *redelivered, given: false };
            // A slot that was not used in its time has passed: were several of them made up for at
            // once, the rate would be exceeded.
            let is_past = now.duration_since(entry.due).is_ok_and(|late| late > PAST);
            if entry.slot && !is_past { slots.push(claimed) } else { others.push(claimed) }
        }
        self.take(slots, term, true).await?;
        self.take(others, term, false).await?;
        Ok(true)
    }

    fn delivery(&self, work: Arc<ClaimedTask>) -> Delivery<TaskTicket> {
        let lane = work.task.lane;
        let hard = self.shared.time_limit(&work);
        let options = (lane != LaneKind::Async || hard.is_some()).then(|| {
            let mut options = Options::default().lane(lane);
            options.timeout = hard;
            Box::new(options)
        });
        Delivery { id: work.receipt.0, receipt: work.receipt, payload: TaskTicket(work), options, key: None }
    }

    /// Waits for a claim to end, for the next time that is held, or to be woken.
    async fn wait(&self, room: usize) -> Option<ClaimedBatch> {
        let (mut claim, look, next, suspect, kept_back) = {
            let mut state = self.state();
            let now = self.shared.environment.now();
            let kept_back = state.keeps_back(now);
            let room = state.room_for_fresh(room, now);
            let (claim, look) = match state.claim.take() {
                None if room > 0 && self.may_claim(&state) => match self.share(&mut state, room, now) {
                    ClaimShare::UpTo(room) => (Some(self.claim(&mut state, room)), None),
                    ClaimShare::IfBuiltIn(room) => (Some(self.claim_if_built_in(room)), None),
                    ClaimShare::Later(at) => (None, at.map(|at| at.duration_since(now))),
                },
                claim => (claim, None),
            };
            // Whoever waits until something has ended is told of it.
            state.full |= state.reserved.is_some() || state.hush.is_some();
            let suspect = state.hush.or_else(|| self.turn(&state, now).starts.map(|(_, at)| at));
            let from_now = |at: Instant| at.duration_since(now);
            // What is due and finds no room is not waited for.
            let next = state.held.next().filter(|_| room > 0);
            (claim, look, next, suspect.map(from_now), kept_back.map(from_now))
        };
        // The nearest of all times counts. The wall clock may be set: a far time is looked at anew.
        let due = next.map(|due| due.duration_since(self.shared.environment.wall()).unwrap_or_default().min(GLANCE));
        let left = due.into_iter().chain(suspect).chain(kept_back).chain(look).min();
        // While our lease is over nothing is claimed, and nothing that is held is looked at.
        let left = if self.shared.term().is_none() { Some(left.unwrap_or(OVER).max(OVER)) } else { left };
        let mut timer = left.map(|left| Box::pin(tokio::time::sleep(left)));
        let mut woken = std::pin::pin!(self.wake.notified());
        let mut grown = std::pin::pin!(self.shared.load.changed.notified());
        let batch = std::future::poll_fn(|cx| {
            if let Some(claim) = &mut claim
                && let Poll::Ready(batch) = claim.as_mut().poll(cx)
            {
                return Poll::Ready(Some(batch));
            }
            let grown = grown.as_mut().poll(cx).is_ready();
            let timed = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if timed || grown || woken.as_mut().poll(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        // A claim is never dropped: what it pops would be lost for a lease.
        if batch.is_none() {
            self.state().claim = claim;
        }
        batch
    }

    async fn fetch_some(&self, room: usize, into: &mut Vec<Delivery<TaskTicket>>) -> Result<Fetched, BrokerError> {
        loop {
            let closed = self.closed.load(Ordering::Acquire);
            // Before others are taken, since they may have to be kept back for it.
            if !closed {
                self.try_suspect().await?;
            }
            if closed {
                self.let_go();
            }
            {
                let mut state = self.state();
                into.extend(state.take_ready(room, self.shared.environment.now()).into_iter().map(|work| self.delivery(work)));
                self.claim_ahead(&mut state, room);
                // The engine gets what is ready before more is read or waited for.
                if !into.is_empty() {
                    return Ok(Fetched::More);
                }
                if state.ended || (closed && state.claim.is_none()) {
                    return Ok(Fetched::End);
                }
            }
            if !closed && self.read_some().await? {
                continue;
            }
            if !closed && self.take_due(room).await? {
                continue;
            }
            if let Some(batch) = self.wait(room).await {
                let mut state = self.state();
                if let Some(took) = batch.look {
                    state.forecast.looked(took, self.shared.environment.now());
                }
                if batch.asked > 0 {
                    // Brokers give at least so many at once, where they have them.
                    let is_less = batch.claimed.len() < batch.asked.min(READ);
                    state.drained = is_less && !self.shared.consumer.may_have_more();
                    if let Some(trip) = self.shared.consumer.trip() {
                        state.ahead.claim_took(batch.claimed.len(), trip);
                    }
                }
                state.unread.extend(batch.claimed.into_iter().map(|claimed| UnreadMessage { claimed, term: batch.term }));
                match batch.result {
                    // Before these are read: the broker looks for the next ones meanwhile.
                    Ok(Fetched::More) => self.claim_ahead(&mut state, room),
                    Ok(Fetched::End) => {
                        debug_assert!(state.unread.is_empty(), "the end of a consumer brings nothing");
                        state.ended = true;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

fn source_error(error: BrokerError) -> SourceError {
    SourceError { kind: error.kind, message: error.message }
}

impl Source<TaskTicket> for Intake {
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<TaskTicket>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move { self.fetch_some(room, into).await.map_err(source_error) })
    }

    fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move { self.settle_all(batch).await.map_err(source_error) })
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.shared.consumer.close();
        self.wake.notify_one();
        self.let_go();
    }
}
