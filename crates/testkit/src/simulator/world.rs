//! The ledger of a run. Everyone who takes part reports here, and whoever breaks an invariant is
//! blamed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::{
    Attempt, Clock, Event, LaneKind, Limit, Options, Outcome, Phase, Rate, Receipt, RetryPolicy, Stamp, Verdict, Word, decide,
    engine::{Snapshot, Summary},
};
use tokio::sync::Notify;

use super::{
    Invariant, Sabotage, Tally,
    pace::check_pace,
    plan::{Do, Plan},
};

/// Most tasks parked in all lines together, as a multiple of one line's limit.
const LINES: usize = 10;
pub(super) struct World {
    ledger: Mutex<Ledger>,
    started: Notify,
}

pub(super) struct Ledger {
    sabotage: Sabotage,
    blame: Option<(Invariant, String)>,
    tasks: Vec<TaskState>,
    lane: LaneKind,
    lanes: [bool; 4],
    retry: Arc<RetryPolicy>,
    limits: Vec<Limit>,
    keep_payloads: bool,
    sizes: [usize; 4],
    largest: [usize; 4],
    /// What the cpu lane last said that it wants to hold.
    capacity: Option<usize>,
    concurrency: Option<usize>,
    queue: usize,
    results: usize,
    parking: usize,
    timeout: Option<Duration>,
    pub(super) rates: Vec<(Instant, Option<Rate>)>,
    /// When `set_timeout` was called last, nothing tells which attempts in that very moment it
    /// meets.
    running: [usize; 4],
    slots: HashSet<(LaneKind, u32)>,
    values: HashMap<(usize, Arc<str>), usize>,
    last_of_key: HashMap<Arc<str>, u64>,
    on_key: HashMap<Arc<str>, u64>,
    starts: u64,
    ended: u64,
    restarts: u64,
    refused: u64,
    paused: bool,
    /// The job was told to stop.
    pub(super) stopping: bool,
    /// A source or a sink failed.
    broken: bool,
    sink_broken: bool,
    unreleased: usize,
    fetching: bool,
    fetch_ended: bool,
    pub(super) closed: bool,
    settled: usize,
    handed_back: u64,
    accepted: [u64; Word::ALL.len()],
    /// Accepted and failed by the sink.
    failed_by_sink: usize,
}

struct TaskState {
    options: Option<Options>,
    lane: LaneKind,
    refused: bool,
    attempt: u32,
    running: bool,
    last: Option<Last>,
    accepted: bool,
    failed_by_sink: bool,
    settled: Option<Verdict>,
    /// It was in a settlement that failed: nobody knows.
    unsure: bool,
}

/// How the last attempt ended.
#[derive(Clone, Copy)]
struct Last {
    word: Word,
    at: Instant,
    /// Another attempt follows, not sooner than this.
    again: Option<Duration>,
    while_stopping: bool,
}

impl World {
    pub(super) fn new(plan: &Plan, sabotage: Sabotage) -> Self {
        Self {
            ledger: Mutex::new(Ledger {
                sabotage,
                blame: None,
                tasks: Vec::new(),
                lane: plan.lane,
                lanes: plan.lanes,
                retry: plan.retry.clone(),
                limits: plan.limits.clone(),
                keep_payloads: plan.keep_payloads,
                sizes: plan.sizes,
                largest: plan.sizes,
                capacity: None,
                concurrency: plan.concurrency,
                queue: plan.queue,
                results: plan.results,
                parking: plan.parking,
                timeout: plan.timeout,
                rates: vec![(Clock::TOKIO.now(), plan.rate)],
                running: [0; 4],
                slots: HashSet::new(),
                values: HashMap::new(),
                last_of_key: HashMap::new(),
                on_key: HashMap::new(),
                starts: 0,
                ended: 0,
                restarts: 0,
                refused: 0,
                paused: false,
                stopping: false,
                broken: false,
                sink_broken: false,
                unreleased: 0,
                fetching: false,
                fetch_ended: false,
                closed: false,
                settled: 0,
                handed_back: 0,
                accepted: [0; Word::ALL.len()],
                failed_by_sink: 0,
            }),
            started: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blame(&self, invariant: Invariant, what: impl FnOnce() -> String) {
        self.lock().blame(invariant, what);
    }

    pub(super) fn verdict(&self) -> Option<(Invariant, String)> {
        self.lock().blame.clone()
    }

    pub(super) fn tally(&self) -> Tally {
        let ledger = self.lock();
        Tally {
            lent: ledger.tasks.len() as u64,
            attempts: ledger.ended,
            handed_back: ledger.handed_back,
            stopped: u64::from(ledger.stopping),
            broken: u64::from(ledger.broken),
        }
    }

    pub(super) async fn starts_reach(&self, count: u64) {
        loop {
            let started = self.started.notified();
            if self.lock().starts >= count {
                return;
            }
            started.await;
        }
    }

    /// Control that is given now. The engine obeys before it lets anything else pass.
    pub(super) fn note(&self, act: &Do) {
        let mut ledger = self.lock();
        match act {
            Do::Drain | Do::Stop(_) => ledger.stopping = true,
            Do::Pause => ledger.paused = !ledger.stopping,
            Do::Resume => ledger.paused = false,
            Do::Concurrency(None, most) => ledger.concurrency = Some(*most),
            Do::Concurrency(Some(lane), most) => {
                ledger.sizes[*lane as usize] = *most;
                ledger.largest[*lane as usize] = ledger.largest[*lane as usize].max(*most);
            }
            Do::Rate(rate) => ledger.rates.push((Clock::TOKIO.now(), *rate)),
            Do::Timeout(timeout) => ledger.timeout = *timeout,
            Do::Snapshot => {}
        }
    }

    pub(super) fn lane_starts(&self, attempt: &Attempt<u64>, lane: usize) {
        let mut ledger = self.lock();
        if let Err((invariant, what)) = ledger.start(attempt, lane) {
            ledger.blame(invariant, || format!("task {}, attempt {}: {what}", attempt.task.id, attempt.task.attempt));
        }
        drop(ledger);
        self.started.notify_waiters();
    }

    /// Checks what the engine says of itself.
    pub(super) fn check_snapshot(&self, snapshot: &Snapshot) {
        let mut ledger = self.lock();
        if snapshot.running.len() != snapshot.active {
            ledger.blame(Invariant::Counts, || format!("{} active, {} listed", snapshot.active, snapshot.running.len()));
        }
        let waiting: usize = snapshot.waiting.iter().map(|(_, count)| count).sum();
        let lent = ledger.tasks.len();
        if waiting + snapshot.active + snapshot.retrying > lent {
            ledger.blame(Invariant::Counts, || format!("{waiting} wait and {} run of {lent}", snapshot.active));
        }
    }

    /// Checks the engine's events against each other and against the pace.
    pub(super) fn check_events(&self, plan: &Plan, log: &[Event]) {
        let mut ledger = self.lock();
        let mut open: HashMap<(u64, u32), (LaneKind, u32)> = HashMap::new();
        let mut slots: HashSet<(LaneKind, u32)> = HashSet::new();
        let mut keys: HashMap<Arc<str>, u64> = HashMap::new();
        let mut first_of_key: HashMap<Arc<str>, u64> = HashMap::new();
        let mut phase = Phase::Running;
        let (mut ended, mut again, mut back) = (0, 0, 0);
        let mut starts = Vec::new();
        for event in log {
            match event {
                Event::Admitted { id, attempt, lane, slot, at } => {
                    starts.push((*at, *id));
                    if open.insert((*id, *attempt), (*lane, *slot)).is_some() {
                        ledger.blame(Invariant::OneOutcome, || format!("task {id}, attempt {attempt} was admitted twice"));
                    }
                    if !slots.insert((*lane, *slot)) {
                        ledger.blame(Invariant::Concurrency, || format!("task {id} got {lane} slot {slot}, which is taken"));
                    }
                    if let Some(key) = ledger.key(*id) {
                        if let Some(holder) = keys.insert(key.clone(), *id).filter(|holder| holder != id) {
                            ledger.blame(Invariant::Keys, || format!("task {id} passed while task {holder} of key {key} is not done"));
                        }
                        let last = first_of_key.entry(key.clone()).or_insert(*id);
                        if *last > *id {
                            let last = *last;
                            ledger.blame(Invariant::Keys, || format!("task {id} passed after task {last} of key {key}"));
                        } else {
                            *last = *id;
                        }
                    }
                }
                Event::Ended { id, attempt, lane, slot: _, again_after, .. } => {
                    ended += 1;
                    let refused = ledger.tasks[*id as usize - 1].refused;
                    ledger.refused += u64::from(refused);
                    match open.remove(&(*id, *attempt)) {
                        Some((on, slot)) if on == *lane => {
                            slots.remove(&(on, slot));
                        }
                        other => {
                            ledger.blame(Invariant::OneOutcome, || format!("task {id}, attempt {attempt} ended on {lane}, was {other:?}"));
                        }
                    }
                    if again_after.is_some() {
                        again += 1;
                    } else if let Some(key) = ledger.key(*id) {
                        keys.remove(&key);
                    }
                }
                Event::HandedBack { .. } => back += 1,
                Event::Stalled { .. } => {}
                Event::Job { phase: next } => {
                    let paused = |phase| matches!(phase, Phase::Running | Phase::Paused);
                    if *next < phase && !(paused(*next) && paused(phase)) {
                        let was = phase;
                        ledger.blame(Invariant::Counts, || format!("phase {next:?} after {was:?}"));
                    }
                    phase = *next;
                }
            }
        }
        let (attempts, handed_back) = (ledger.ended + ledger.refused, ledger.handed_back);
        if !open.is_empty() {
            ledger.blame(Invariant::OneOutcome, || format!("admitted, and no end: {open:?}"));
        }
        if ended != attempts || again < ledger.restarts || (!ledger.stopping && !ledger.broken && again != ledger.restarts) {
            let restarts = ledger.restarts;
            ledger.blame(Invariant::Counts, || format!("{ended} of {attempts} ended, {again} to start again, {restarts} restarts"));
        }
        if back != handed_back && !ledger.broken {
            ledger.blame(Invariant::Counts, || format!("{back} events of {handed_back} tasks handed back"));
        }
        if phase != Phase::Done {
            ledger.blame(Invariant::Counts, || format!("the last phase is {phase:?}"));
        }
        check_pace(&mut ledger, plan, &starts);
    }

    pub(super) fn check_summary(&self, summary: &Summary) {
        let mut ledger = self.lock();
        let ledger = &mut *ledger;
        let lent = ledger.tasks.len() as u64;
        let accepted: u64 = ledger.accepted.iter().sum();
        let loose: Vec<usize> = ledger
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| !task.unsure && task.settled.is_none() && (task.accepted || !ledger.sink_broken))
            .map(|(nth, _)| nth + 1)
            .collect();
        let running: usize = ledger.running.iter().sum();
        let slots: u64 = summary.slots.iter().map(|slot| slot.tasks).sum();
        let (ended, refused, back) = (ledger.ended, ledger.refused, ledger.handed_back);
        let checks = [
            (Invariant::OneOutcome, running == 0, "attempts run after the end"),
            (Invariant::OneSettlement, loose.is_empty(), "deliveries are not settled"),
            (Invariant::Counts, summary.done() + summary.counts.handed_back == lent, "done and handed back are not what was lent"),
            (
                Invariant::Counts,
                ledger.sink_broken || <[u64; Word::ALL.len()]>::from(summary.counts) == ledger.accepted,
                "counts are not what the sink accepted",
            ),
            (Invariant::Counts, ledger.broken || summary.counts.handed_back == back, "handed back is not what was settled so"),
            (Invariant::Counts, summary.done() >= accepted, "fewer are done than were accepted"),
            (Invariant::Counts, slots == ended + refused, "slots ran another number of attempts"),
            (Invariant::Counts, summary.events_dropped == 0, "events were dropped"),
            (Invariant::Counts, summary.error.is_some() == ledger.broken, "the error is not told, or there was none"),
            (Invariant::Fetches, ledger.closed || ledger.fetch_ended, "the source was neither at its end nor closed"),
            (Invariant::Fetches, !ledger.fetching, "a fetch is still on its way"),
        ];
        for (invariant, holds, what) in checks {
            if !holds {
                let accepted = ledger.accepted;
                ledger.blame(invariant, || {
                    format!("{what}: {lent} lent, accepted {accepted:?}, handed back {back}, loose {loose:?}, {ended} ended; {summary:?}")
                });
            }
        }
    }
}

impl Ledger {
    pub(super) fn blame(&mut self, invariant: Invariant, what: impl FnOnce() -> String) {
        if self.blame.is_none() {
            self.blame = Some((invariant, what()));
        }
    }

    fn key(&self, id: u64) -> Option<Arc<str>> {
        self.tasks[id as usize - 1].options.as_ref()?.key.clone()
    }

    pub(super) fn values_of(&self, id: u64) -> Vec<(usize, Arc<str>)> {
        self.tasks[id as usize - 1].options.as_ref().map(|options| options.limits.clone()).unwrap_or_default()
    }

    /// A task is lent. Returns its number.
    pub(super) fn lend(&mut self, options: Option<Options>) -> u64 {
        let lane = options.as_ref().and_then(|options| options.lane).unwrap_or(self.lane);
        let refused = options.as_ref().is_some_and(|options| options.refused.is_some()) || !self.lanes[lane as usize];
        self.tasks.push(TaskState {
            lane: if refused { self.lane } else { lane },
            refused,
            options,
            attempt: 0,
            running: false,
            last: None,
            accepted: false,
            failed_by_sink: false,
            settled: None,
            unsure: false,
        });
        self.tasks.len() as u64
    }

    pub(super) fn fetch_begins(&mut self, room: usize) {
        if self.fetching || self.closed || self.fetch_ended || room == 0 {
            let (fetching, closed, ended) = (self.fetching, self.closed, self.fetch_ended);
            self.blame(Invariant::Fetches, || format!("a fetch for {room}: fetching {fetching}, closed {closed}, ended {ended}"));
        }
        self.fetching = true;
        let slots: usize = self.largest.iter().sum::<usize>() + self.capacity.unwrap_or(0);
        let retrying = self.tasks.iter().filter(|task| !task.accepted && task.last.is_some_and(|last| last.again.is_some())).count();
        let unsettled = self.tasks.len() - self.settled - self.failed_by_sink;
        let bound = self.queue + slots + LINES * self.parking + 2 * (slots + self.results) + retrying;
        if !self.sink_broken && (room > self.queue + slots || unsettled + room > bound + 1) {
            self.blame(Invariant::Memory, || format!("{unsettled} unsettled, room for {room} granted, bound {bound}"));
        }
    }

    pub(super) fn fetch_ends(&mut self, last: bool, failed: bool) {
        self.fetching = false;
        self.fetch_ended |= last || failed;
        self.broken |= failed;
    }

    pub(super) fn capacity(&mut self, capacity: usize) {
        let cpu = LaneKind::Cpu as usize;
        self.capacity = Some(capacity);
        self.sizes[cpu] = capacity;
        self.largest[cpu] = self.largest[cpu].max(capacity);
    }

    fn start(&mut self, attempt: &Attempt<u64>, lane: usize) -> Result<(), (Invariant, String)> {
        let task = &attempt.task;
        let nth = task.id as usize - 1;
        let now = Clock::TOKIO.now();
        let rule = |invariant, holds: bool, what: &str| if holds { Ok(()) } else { Err((invariant, what.to_owned())) };
        let state = &self.tasks[nth];
        let first = state.options.as_ref().map_or(0, |options| options.attempts_made) + 1;
        let next = if state.attempt == 0 { first } else { state.attempt + 1 };
        rule(Invariant::Stopped, !self.stopping, "it starts although the job was told to stop")?;
        rule(Invariant::Stopped, !self.paused, "it starts although the job is paused")?;
        rule(Invariant::OneOutcome, !state.running, "its last attempt still runs")?;
        rule(Invariant::OneOutcome, !state.refused, "it is refused, and runs")?;
        rule(Invariant::OneOutcome, task.attempt == next, "it is not the next attempt")?;
        rule(Invariant::OneSettlement, state.settled.is_none() && !state.accepted, "it is done, and runs again")?;
        rule(Invariant::OneOutcome, attempt.payload == task.id, "it has another task's payload")?;
        rule(Invariant::OneOutcome, task.lane as usize == lane && state.lane == task.lane, "it is on another lane")?;
        rule(Invariant::OneOutcome, task.receipt == Receipt(task.id), "it has another receipt")?;
        if let Some(last) = state.last {
            let Some(wait) = last.again else {
                return Err((Invariant::OneOutcome, format!("it starts again after {}", last.word)));
            };
            rule(Invariant::OneOutcome, now >= last.at + wait, "it starts again before its backoff is over")?;
        }
        let timeout = state.options.as_ref().and_then(|options| options.timeout).or(self.timeout);
        rule(Invariant::OneOutcome, attempt.limit() == timeout, "it has another timeout")?;
        rule(Invariant::OneOutcome, attempt.admitted == now.into(), "it was admitted at another time")?;

        // Who may run at once.
        let total: usize = self.running.iter().sum();
        let size: usize = self.sizes.iter().sum();
        let most = self.concurrency.map_or(size, |most| most.min(size));
        rule(Invariant::Concurrency, total < most, "more run than may")?;
        rule(Invariant::Concurrency, self.running[lane] < self.sizes[lane], "more run on its lane than may")?;
        rule(Invariant::Concurrency, (task.slot as usize) < self.largest[lane], "its slot's number is too high")?;
        rule(Invariant::Concurrency, self.slots.insert((task.lane, task.slot)), "its slot is taken")?;
        let room = self.unreleased == 0 || total + self.unreleased < most + self.results;
        rule(Invariant::Concurrency, room, "there is no room for its result")?;
        for (limit, value) in self.values_of(task.id) {
            let running = self.values.entry((limit, value)).or_default();
            *running += 1;
            let most = self.limits[limit].concurrency.unwrap_or(usize::MAX);
            rule(Invariant::Concurrency, *running <= most, "more of its value run than may")?;
        }
        if let Some(key) = self.key(task.id) {
            if let Some(other) = self.on_key.insert(key.clone(), task.id) {
                return Err((Invariant::Keys, format!("task {other} of key {key} runs")));
            }
            let last = self.last_of_key.entry(key).or_insert(task.id);
            rule(Invariant::Keys, *last <= task.id, "a later task of its key has started")?;
            *last = task.id;
        }

        let state = &mut self.tasks[nth];
        self.restarts += u64::from(state.attempt > 0);
        (state.attempt, state.running) = (task.attempt, true);
        self.running[lane] += 1;
        self.starts += 1;
        Ok(())
    }

    /// An attempt ends; its lane says so in the same moment.
    pub(super) fn end(&mut self, attempt: &Attempt<u64>, outcome: &Outcome<u64>) {
        let id = attempt.task.id;
        let state = &self.tasks[id as usize - 1];
        if !state.running || state.attempt != attempt.task.attempt {
            self.blame(Invariant::OneOutcome, || format!("task {id} ends a second time"));
            return;
        }
        let policy = state.options.as_ref().and_then(|options| options.retry.clone()).unwrap_or_else(|| self.retry.clone());
        let now = Clock::TOKIO.now();
        let age = Stamp::from(now).since(attempt.task.queued);
        let again = match decide(outcome, &policy, attempt.task.attempt, age, 0.0) {
            Verdict::Requeue { after } => Some(after),
            Verdict::Ack | Verdict::Reject => None,
        };
        let stopping = self.stopping || self.broken;
        let state = &mut self.tasks[id as usize - 1];
        state.running = false;
        state.last = Some(Last { word: outcome.word(), at: now, again, while_stopping: stopping });
        self.running[state.lane as usize] -= 1;
        self.slots.remove(&(attempt.task.lane, attempt.task.slot));
        self.ended += 1;
        for place in self.values_of(id) {
            *self.values.entry(place).or_default() -= 1;
        }
        if let Some(key) = self.key(id) {
            self.on_key.remove(&key);
        }
    }

    /// The sink takes a finished task.
    pub(super) fn accept(&mut self, id: u64, attempt: u32, word: Word, payload: Option<u64>) {
        let stopping = self.stopping || self.broken;
        let keep = self.keep_payloads;
        let state = &mut self.tasks[id as usize - 1];
        let fault = if state.accepted {
            Some("twice")
        } else if state.settled.is_some() {
            Some("after its settlement")
        } else if state.running {
            Some("while it runs")
        } else if keep && payload != Some(id) {
            Some("without its payload")
        } else if state.refused {
            (word != Word::Failed).then_some("refused, with another outcome")
        } else {
            match state.last {
                None => Some("before it ran"),
                Some(last) if last.word != word || state.attempt != attempt => Some("with another attempt's outcome"),
                Some(last) if last.again.is_some() => Some("although it is to be tried again"),
                Some(last) if last.word == Word::Cancelled && last.while_stopping && stopping => None,
                Some(_) => None,
            }
        };
        state.accepted = true;
        self.accepted[word as usize] += 1;
        self.unreleased += 1;
        if let Some(fault) = fault {
            self.blame(Invariant::OncePerTask, || format!("the sink gets task {id} {fault} ({word}, attempt {attempt})"));
        }
    }

    /// The sink refuses a batch. Nobody is asked again.
    pub(super) fn sink_fails(&mut self, batch: impl Iterator<Item = (u64, Word)>) {
        if self.sink_broken {
            self.blame(Invariant::OncePerTask, || "a broken sink gets more results".to_owned());
        }
        for (id, _) in batch {
            self.tasks[id as usize - 1].failed_by_sink = true;
            self.failed_by_sink += 1;
        }
        (self.broken, self.sink_broken) = (true, true);
    }

    pub(super) fn sink_fails_to_close(&mut self) {
        self.broken = true;
    }

    pub(super) fn release(&mut self, results: usize) {
        self.unreleased -= results;
    }

    pub(super) fn settle(&mut self, receipt: Receipt, verdict: Verdict) {
        let id = receipt.0;
        let (stopping, sabotage) = (self.stopping || self.broken, self.sabotage);
        let Some(state) = self.tasks.get_mut(id.wrapping_sub(1) as usize) else {
            self.blame(Invariant::OneSettlement, || format!("{receipt:?} was never lent"));
            return;
        };
        let fault = if state.settled.is_some() {
            Some((Invariant::OneSettlement, "a second time"))
        } else {
            match verdict {
                _ if state.failed_by_sink => Some((Invariant::AcceptedFirst, "although the sink failed")),
                Verdict::Requeue { .. } if state.accepted => Some((Invariant::OneSettlement, "as unfinished, after its result")),
                Verdict::Requeue { .. } if state.running => Some((Invariant::OneSettlement, "as unfinished, while it runs")),
                Verdict::Requeue { .. } if !stopping => Some((Invariant::AcceptedFirst, "as unfinished, and nothing stops")),
                Verdict::Requeue { .. } => None,
                _ if !state.accepted => Some((Invariant::AcceptedFirst, "before the sink accepted it")),
                Verdict::Reject if state.last.is_none_or(|last| last.word != Word::Skipped) => Some((Invariant::Counts, "as refused")),
                Verdict::Ack if state.last.is_some_and(|last| last.word == Word::Skipped) => Some((Invariant::Counts, "as done")),
                _ => None,
            }
        };
        if sabotage != Sabotage::SourceForgetsSettlement || id != 3 {
            state.settled = Some(verdict);
        }
        self.settled += 1;
        self.handed_back += u64::from(matches!(verdict, Verdict::Requeue { .. }));
        if let Some((invariant, fault)) = fault {
            self.blame(invariant, || format!("task {id} is settled {fault}"));
        }
    }

    pub(super) fn settle_fails(&mut self, batch: impl Iterator<Item = Receipt>) {
        self.broken = true;
        for receipt in batch {
            self.tasks[receipt.0 as usize - 1].unsure = true;
            self.settled += 1;
        }
    }
}
