//! The engine: source → gate → lane → sink → settle. **The hot loop is `Engine::run`.**
//!
//! One loop owns all state. It awaits nothing but its mailbox and the next time at which the gate
//! may open; it never runs user code, never touches the network and never waits for a sink. Around
//! it: the pump (`engine/pump.rs`) fetches for the room that it is told, the reporter
//! (`engine/report.rs`) hands finished tasks to the sink and settles what the sink has accepted.
//! All of it travels in batches.

mod handle;
pub(crate) mod helm;
mod mail;
mod obey;
mod outbox;
mod outside;
mod passed;
mod pump;
mod report;
mod stats;
mod view;

use std::{
    collections::BinaryHeap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use longshore_sys::place::push_made;
use tokio::{runtime::Handle as Runtime, time::Sleep};

pub use handle::{Handle, Running, Snapshot};
pub(crate) use mail::{Broken, Mail};
pub(crate) use outbox::CHUNK;
pub use outbox::{Lane, Outbox};
pub use stats::{RunningTask, SlotUse, StallSeen, Summary};
pub use view::Named;

pub use crate::watch::Quantiles;

use crate::{
    clock::Clock,
    decide::{Verdict, decide},
    event::{Event, Phase},
    gate::{
        Gate, GateConfig, Reason, Refusal,
        adaptive::{self, Adaptive, Bounds},
    },
    mailbox::{Mailbox, append},
    outcome::{Outcome, Word},
    retry::RetryPolicy,
    sink::{Room, Sink},
    source::{Settlement, Source},
    stamp::{Span, Stamp},
    task::{Attempt, Delivery, EngineTask, FetchedTask, Finished, LaneKind, Options},
    watch::{Detail, Hub, LabelsOf},
};
use helm::{Crew, Helm};
use mail::RetryDue;
use passed::Passed;
use pump::Pump;
use report::Reports;
use stats::Stats;

/// Most tasks in backoff. Beyond, nothing new starts.
const BACKOFF: usize = 10_000;

/// Settings of an engine. Clock and randomness are inputs: a seeded simulation on a paused clock
/// is the engine itself.
#[non_exhaustive]
pub struct EngineConfig<T> {
    /// Concurrency, lanes, pace, limits.
    pub gate: GateConfig,
    /// The lane of a task that names none.
    pub lane: LaneKind,
    /// Rule for further attempts, for a task that says nothing.
    pub retry: Arc<RetryPolicy>,
    /// The limit of one attempt, for a task that says nothing.
    pub timeout: Option<Duration>,
    /// Tasks fetched ahead of those that run.
    pub queue: usize,
    /// Copies a payload. Needed for retries and for sinks that want to see it; without it a task
    /// has one attempt.
    pub copy: Option<fn(&T) -> T>,
    /// Set: a copy of each payload travels to the sink.
    pub keep_payloads: bool,
    /// The time.
    pub clock: Clock,
    /// The seed of the jitter.
    pub seed: u64,
    /// Lets the most running over all lanes find itself, within these bounds, instead of
    /// [`GateConfig::concurrency`]. The lanes need slots for the ceiling.
    pub adaptive: Option<Bounds>,
    /// Asked about each task that has ended for good, in the loop: after the first `true` nothing
    /// more starts, as after [`Handle::drain`].
    pub enough: Option<Enough<T>>,
    /// Starts paused, until [`Handle::resume`].
    pub paused: bool,
    /// By what labels ended tasks are counted, beside the loop.
    pub labels: Option<LabelsOf<T>>,
}

impl<T> EngineConfig<T> {
    /// Returns the settings of an engine with this gate, whose tasks have this lane, one attempt
    /// and no time limit. It fetches nothing ahead, copies no payload, and has the system's clock
    /// and the seed 0.
    pub fn new(gate: GateConfig, lane: LaneKind) -> Self {
        Self {
            gate,
            lane,
            retry: Arc::new(RetryPolicy::NONE),
            timeout: None,
            queue: 0,
            copy: None,
            keep_payloads: false,
            clock: Clock::SYSTEM,
            seed: 0,
            adaptive: None,
            enough: None,
            paused: false,
            labels: None,
        }
    }
}

/// Says whether a job has seen enough. Gets the task, with its payload where a copy is kept, and
/// how it ended.
pub type Enough<T> = Box<dyn FnMut(&EngineTask<T>, Word) -> bool + Send>;

/// The lanes of an engine, by `lane as usize`.
pub type Lanes<T, R> = [Option<Arc<dyn Lane<T, R>>>; 4];

/// One engine: everything about one job, owned by one loop.
pub struct Engine<T, R> {
    config: EngineConfig<T>,
    mailbox: Arc<Mailbox<Mail<T, R>>>,
    mail: Mail<T, R>,
    gate: Gate<T>,
    adaptive: Option<Adaptive>,
    /// The slots of a lane that somebody has set while it runs.
    set: [Option<usize>; 4],
    lanes: Lanes<T, R>,
    /// Attempts that passed the gate in this turn, by lane.
    passed: [Passed<T>; 4],
    backoff: BinaryHeap<RetryDue<T>>,
    source: Arc<dyn Source<T>>,
    pump: Arc<Pump>,
    reports: Arc<Reports<T, R>>,
    /// Tasks for the sink after this turn, and those that go back to the source unfinished.
    done: Vec<Finished<T, R>>,
    back: Vec<Settlement>,
    /// Fetched tasks that the pump still counts as on their way.
    took: usize,
    /// Deliveries that are not settled.
    unsettled: usize,
    source_ended: bool,
    phase: Phase,
    refusal: Refusal,
    /// The time of this turn.
    now: Instant,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// Time at which the loop wants to be woken without any mail.
    wake_at: Option<Instant>,
    stats: Stats,
    rng: fastrand::Rng,
    events: Hub<Event>,
    /// Somebody wants to hear of each task. Read once a turn.
    telling: bool,
    happened: Vec<Event>,
}

/// Makes the box through which lanes report to an engine that is made afterwards.
pub fn outbox<T, R>() -> Outbox<T, R> {
    Outbox { mailbox: Arc::new(Mailbox::new()), crew: Arc::default() }
}

impl<T: Send + 'static, R: Send + 'static> Engine<T, R> {
    /// Starts an engine on a runtime: its loop, its pump and its reporter are tasks there.
    ///
    /// `outbox` is the one that the lanes report to; `events` tells what happens to whoever
    /// listens, and is closed at the end.
    pub fn start(
        mut config: EngineConfig<T>,
        source: Arc<dyn Source<T>>,
        lanes: Lanes<T, R>,
        sink: Box<dyn Sink<T, R>>,
        outbox: Outbox<T, R>,
        events: Hub<Event>,
        runtime: &Runtime,
    ) -> Running {
        let Outbox { mailbox, crew } = outbox;
        let pump = Arc::new(Pump::new());
        let reports = Arc::new(Reports::new(config.labels.clone()));
        let room = {
            let mailbox = mailbox.clone();
            Room::new(move |results| mailbox.post_quietly(|mail| mail.released += results))
        };
        let now = config.clock.now();
        let adaptive = config.adaptive.map(Adaptive::new);
        if let Some(adaptive) = &adaptive {
            config.gate.concurrency = Some(adaptive.limit());
        }
        let mut gate = Gate::new(config.gate.clone());
        gate.set_paused(config.paused);
        let engine = Engine {
            gate,
            adaptive,
            set: [None; 4],
            mailbox: mailbox.clone(),
            mail: Mail::default(),
            lanes,
            passed: LaneKind::ALL.map(Passed::new),
            backoff: BinaryHeap::new(),
            source: source.clone(),
            pump: pump.clone(),
            reports: reports.clone(),
            done: Vec::new(),
            back: Vec::new(),
            took: 0,
            unsettled: 0,
            source_ended: false,
            phase: if config.paused { Phase::Paused } else { Phase::Running },
            refusal: Refusal { reason: Reason::Empty, until: None },
            now,
            since: now,
            timer: None,
            wake_at: None,
            stats: Stats::new(now),
            rng: fastrand::Rng::with_seed(config.seed),
            events: events.clone(),
            telling: false,
            happened: Vec::new(),
            config,
        };
        let handle = Handle::new({
            let mailbox = mailbox.clone();
            move |control| {
                // What comes too late is dropped, so that whoever waits for an answer is told.
                let late = mailbox.post(|mail| {
                    if mail.over {
                        Some(control)
                    } else {
                        mail.controls.push(control);
                        None
                    }
                });
                drop(late);
            }
        });
        let clock = engine.config.clock;
        let outside =
            Helm::new(outside::run(pump::run(pump, source.clone(), mailbox.clone()), report::run(reports, source, sink, mailbox, room)));
        let engine = Helm::new(engine.run());
        let running = Running::new(handle, events, runtime.spawn(engine.task()), runtime.spawn(outside.task()));
        let _ = crew.set(Crew::new(engine, outside, clock));
        running
    }

    /// The loop.
    async fn run(mut self) -> Summary {
        loop {
            self.admit();
            self.hand_out();
            if self.is_done() {
                break;
            }
            self.wait().await;
            // The one reading of the clock for a turn, and the one question whether anybody
            // listens.
            self.now = self.config.clock.now();
            self.telling = self.events.wants(Detail::Tasks);
            self.obey();
            self.take_fetched();
            self.take_finished();
            self.take_settled();
        }
        self.enter(Phase::Done);
        self.hand_out();
        self.reports.close();
        let late = self.mailbox.post(|mail| {
            mail.over = true;
            std::mem::take(&mut mail.controls)
        });
        drop(late);
        self.stats.events_dropped = self.events.missed();
        self.events.close();
        self.stats.summary(&self.reports.times(), self.config.clock.now())
    }

    /// Lets pass what the gate allows.
    fn admit(&mut self) {
        let now = self.now;
        self.account_for_waiting(now);
        while self.backoff.peek().is_some_and(|due| due.at <= now) {
            if let Some(due) = self.backoff.pop() {
                self.source.backing_off(due.attempt.task.receipt, &due.attempt.payload, false);
                self.gate.push_again(due.attempt);
            }
        }
        for lane in LaneKind::ALL {
            // Only the cpu lane knows better than its number of workers; asking costs one load.
            if let Some(capacity) = self.lanes[lane as usize].as_ref().and_then(|lane| lane.capacity()) {
                // Unless somebody has said so while it runs.
                self.gate.set_concurrency(Some(lane), self.set[lane as usize].unwrap_or(capacity));
            }
        }
        self.refusal = loop {
            if self.backoff.len() >= BACKOFF {
                break Refusal { reason: Reason::Backoff { most: BACKOFF }, until: None };
            }
            self.pass_plain(now);
            match self.gate.next(now) {
                Ok(attempt) => self.start_attempt(attempt, now),
                Err(refusal) => break refusal,
            }
        };
        if self.phase >= Phase::Draining {
            self.refusal = Refusal { reason: Reason::Stopping, until: None };
        }
        for (lane, passed) in self.lanes.iter().zip(&mut self.passed) {
            if let Some(lane) = lane {
                passed.start(&**lane);
            }
        }
        self.wake_at = [self.refusal.until, self.backoff.peek().map(|due| due.at)].into_iter().flatten().min();
    }

    /// Lets those pass that want nothing but what the job gives to all.
    fn pass_plain(&mut self, now: Instant) {
        let Self { config, gate, passed, stats, telling, happened, .. } = self;
        let timeout = config.timeout.map(Span::from);
        let admitted_at = Stamp::from(now);
        gate.pass_plain(|ready, slot| {
            let Some(&Delivery { id, receipt, .. }) = ready.plain() else { return };
            let lane = ready.lane;
            stats.admitted(lane, slot, id, receipt, 1, admitted_at);
            let batch = passed[lane as usize].batch();
            push_made(batch, || ready.take(slot, admitted_at, timeout));
            if let Some(attempt) = batch.last_mut() {
                keep_payload(attempt, config.retry.retries, config);
            }
            if *telling {
                happened.push(Event::Admitted { id, attempt: 1, lane, slot, at: now });
            }
        });
    }

    fn start_attempt(&mut self, mut attempt: Attempt<T>, now: Instant) {
        let options = attempt.task.options();
        let retries = options.and_then(|options| options.retry.as_ref()).unwrap_or(&self.config.retry).retries;
        let timeout = options.and_then(|options| options.timeout).or(self.config.timeout).map(Span::from);
        attempt.timeout = timeout;
        keep_payload(&mut attempt, retries, &self.config);
        let EngineTask { id, receipt, attempt: number, lane, slot, .. } = attempt.task;
        self.stats.admitted(lane, slot, id, receipt, number, attempt.admitted);
        if self.telling {
            self.happened.push(Event::Admitted { id, attempt: number, lane, slot, at: now });
        }
        match attempt.task.options().and_then(|options| options.refused.clone()) {
            None => self.passed[attempt.task.lane as usize].push(attempt),
            Some(error) => {
                let finished = attempt.unstarted(Outcome::Failed(error));
                self.mailbox.post(|mail| mail.finished.push(finished));
            }
        }
    }

    /// Hands finished tasks to the reporter, room to the pump and events to whoever listens.
    fn hand_out(&mut self) {
        if !self.done.is_empty() || !self.back.is_empty() {
            self.reports.post(&mut self.done, &mut self.back);
        }
        if self.phase < Phase::Draining && !self.source_ended {
            // What the pace will not let start soon waits with its source, whose capacity is the
            // user's.
            let burst = self.gate.rate().map_or(usize::MAX, |rate| rate.burst.max(1) as usize);
            let ahead = self.config.queue + self.gate.free_slots().min(burst);
            self.pump.set_room(ahead.saturating_sub(self.gate.ready()), std::mem::take(&mut self.took), self.gate.ready() * 2 <= ahead);
        }
        if !self.happened.is_empty() {
            self.events.post(self.happened.drain(..));
        }
    }

    fn is_done(&self) -> bool {
        self.source_ended && self.unsettled == 0 && self.gate.unreleased() == 0 && self.gate.running() == 0
    }

    /// Returns true if new tasks, or room in the result queue, would let something start or end
    /// now. Otherwise they can wait for the next attempt that ends.
    fn is_hungry(&self) -> bool {
        self.gate.running() == 0 || matches!(self.refusal.reason, Reason::Empty | Reason::Results { .. } | Reason::Stopping)
    }

    /// Waits for mail, or until the gate may open.
    async fn wait(&mut self) {
        std::future::poll_fn(|cx| self.poll_wait(cx)).await;
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let hungry = self.is_hungry();
        if self.mailbox.poll_take(&mut self.mail, hungry, cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(at) = self.wake_at else { return Poll::Pending };
        // The runtime's clock goes on while this process is stopped.
        let late = if self.config.clock.is_steady() { crate::clock::stopped() } else { Duration::ZERO };
        let at = tokio::time::Instant::from_std(at + late);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }

    fn take_fetched(&mut self) {
        if !self.mail.fetched.is_empty() {
            let mut fetched = std::mem::take(&mut self.mail.fetched);
            self.unsettled += fetched.len();
            self.took += fetched.len();
            if self.phase >= Phase::Draining {
                for delivery in fetched.drain(..) {
                    self.give_back(FetchedTask { delivery, lane: self.config.lane, queued: self.now.into() }.into_attempt());
                }
            } else {
                fetched.iter_mut().filter_map(|delivery| delivery.options.as_mut()).for_each(|options| self.look_at(options));
                fetched = self.gate.push(fetched, self.config.lane, self.now.into());
            }
            self.mail.fetched = fetched;
        }
        if let Some(end) = self.mail.ended.take() {
            self.source_ended = true;
            if let Err(error) = end {
                self.stats.broken = Some(Broken::Source(error));
            }
        }
    }

    /// Settles on which lane a task with wishes of its own runs, and refuses what this job does not
    /// have.
    fn look_at(&self, options: &mut Options) {
        let mut lane = options.lane.unwrap_or(self.config.lane);
        if self.lanes[lane as usize].is_none() && options.refused.is_none() {
            options.refused = Some(crate::TaskError::new("lane", format!("this job has no {lane} lane")).with_again(crate::Again::Never));
        }
        if let Some((limit, value)) = options.limits.iter().find(|(limit, _)| *limit >= self.config.gate.limits.len()) {
            let text = format!("this job has no limit number {limit} (for `{value}`)");
            options.refused.get_or_insert(crate::TaskError::new("limit", text).with_again(crate::Again::Never));
            options.limits.clear();
        }
        if options.refused.is_some() {
            // It needs no lane; a place at the gate is all that it takes, and the job's own lane
            // has one.
            lane = self.config.lane;
        }
        options.lane = Some(lane);
    }

    fn take_finished(&mut self) {
        if self.mail.finished.is_empty() {
            return;
        }
        let mut finished = std::mem::take(&mut self.mail.finished);
        let mut next = 0;
        let mut enough = false;
        while next < finished.len() {
            if self.adaptive.is_none() && self.config.enough.is_none() {
                next += self.end_plain(&finished[next..]);
            }
            let Some(one) = finished.get(next) else { break };
            if let Some(adaptive) = &mut self.adaptive
                && let Some(limit) =
                    adaptive.observe(one.started.into(), one.ended.into(), self.gate.running(), adaptive::signal(&one.outcome))
            {
                self.gate.set_concurrency(None, limit);
                self.config.gate.concurrency = Some(limit);
            }
            self.gate.end(&one.task);
            let verdict = match &one.outcome {
                Outcome::Ok(_) => Verdict::Ack,
                _ => self.judge(one),
            };
            let draining = self.phase >= Phase::Draining;
            self.stats.ended(one, verdict, draining);
            let word = one.outcome.word();
            if self.telling {
                self.happened.push(ended_event(one, verdict));
            }
            match verdict {
                Verdict::Ack | Verdict::Reject => {
                    self.gate.done(&one.task);
                    next += 1;
                    enough |= self.config.enough.as_mut().is_some_and(|enough| enough(&one.task, word));
                }
                Verdict::Requeue { after } => {
                    // Its place in the result queue is free at once: there is no result.
                    self.gate.release(1);
                    let one = finished.swap_remove(next);
                    self.back_off(one, after);
                }
            }
        }
        append(&mut self.done, &mut finished);
        self.mail.finished = finished;
        if enough {
            self.drain();
        }
    }

    /// Ends those at the front of a batch that need no decision, as they have a result and hold
    /// nothing but slots of one lane. Returns how many.
    #[inline]
    fn end_plain(&mut self, finished: &[Finished<T, R>]) -> usize {
        let Some(lane) = finished.first().map(|first| first.task.lane) else { return 0 };
        let plain = |one: &Finished<T, R>| matches!(one.outcome, Outcome::Ok(_)) && one.task.is_plain() && one.task.lane == lane;
        let count = finished.iter().position(|one| !plain(one)).unwrap_or(finished.len());
        let ended = &finished[..count];
        self.gate.end_plain(lane, ended.iter().map(|one| one.task.slot));
        if self.telling {
            self.happened.extend(ended.iter().map(|one| ended_event(one, Verdict::Ack)));
        }
        count
    }

    /// Decides what becomes of a task that did not end well.
    fn judge(&mut self, one: &Finished<T, R>) -> Verdict {
        if self.phase >= Phase::Draining && matches!(one.outcome, Outcome::Cancelled) {
            // Ended by us, not by itself: it goes back unfinished.
            return Verdict::Requeue { after: Duration::ZERO };
        }
        let policy = one.task.options().and_then(|options| options.retry.as_ref()).unwrap_or(&self.config.retry);
        let age = one.ended.since(one.task.queued);
        let verdict = decide(&one.outcome, policy, one.task.attempt, age, self.rng.f64());
        match verdict {
            Verdict::Requeue { .. } if one.task.payload.is_none() => Verdict::Ack,
            verdict => verdict,
        }
    }

    fn back_off(&mut self, one: Finished<T, R>, after: Duration) {
        let mut task = one.task;
        if self.phase >= Phase::Draining {
            self.hand_back(&task);
            return;
        }
        let Some(payload) = task.payload.take() else { return };
        task.attempt += 1;
        let at = Instant::from(one.ended);
        let at = at.checked_add(after).unwrap_or(at);
        self.source.backing_off(task.receipt, &payload, true);
        self.backoff.push(RetryDue { at, attempt: Attempt { task, payload, admitted: one.ended, timeout: None } });
    }

    fn take_settled(&mut self) {
        self.gate.release(std::mem::take(&mut self.mail.released));
        self.unsettled -= std::mem::take(&mut self.mail.settled);
        if let Some(broken) = self.mail.broken.take() {
            if self.stats.broken.is_none() {
                self.stats.broken = Some(broken);
            }
            self.drain();
        }
        for (id, held) in self.mail.stalled.drain(..) {
            let Some(held) = held else {
                self.stats.stall_over(id);
                continue;
            };
            let receipt = self.stats.stalled(id, held, self.now, &self.gate);
            self.happened.push(Event::Stalled { id, receipt, held });
        }
    }
}

/// Gives an attempt a copy of its payload where one will be needed.
#[inline]
fn keep_payload<T>(attempt: &mut Attempt<T>, retries: u32, config: &EngineConfig<T>) {
    if let Some(copy) = config.copy
        && (config.keep_payloads || attempt.task.attempt <= retries)
    {
        attempt.task.payload = Some(copy(&attempt.payload));
    }
}

fn ended_event<T, R>(one: &Finished<T, R>, verdict: Verdict) -> Event {
    Event::Ended {
        id: one.task.id,
        attempt: one.task.attempt,
        lane: one.task.lane,
        slot: one.slot,
        started: one.started.into(),
        ended: one.ended.into(),
        word: one.outcome.word(),
        cpu: one.cpu.map(Duration::from),
        again_after: match verdict {
            Verdict::Requeue { after } => Some(after),
            Verdict::Ack | Verdict::Reject => None,
        },
    }
}
