//! The gate decides what may start now: concurrency, pace, order by key, limits by value.
//!
//! It lives in the engine's loop, so it is plain integers and maps. Every task waits in exactly one
//! line: the ready line, or the line of the busy thing (a lane, a key, a limited value) that it met
//! first. Whatever becomes free lets its own line pass before the ready line.

pub mod adaptive;
pub mod concurrency;
mod lines;
pub mod pace;
mod ready;
mod refusal;
mod settings;
#[cfg(all(test, not(longshore_loom)))]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use concurrency::Slots;
use pace::{Pace, Rate};
use ready::{ReadyBatch, ReadyLine};
pub use refusal::{Reason, Refusal};
pub use settings::{GateConfig, Limit};

use crate::{
    stamp::Stamp,
    task::{Attempt, Delivery, EngineTask, FetchedTask, LaneKind},
};

/// Most parked tasks in all lines together, as a multiple of one line's limit.
const LINES: usize = 10;

/// A line of tasks that wait for one busy thing.
type Line<T> = VecDeque<Attempt<T>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Lane(LaneKind),
    Key(Arc<str>),
    /// A key that its source has numbered.
    Number(NonZeroU32),
    Value(usize, Arc<str>),
}

struct Key<T> {
    held: bool,
    line: Line<T>,
}

struct Value<T> {
    running: usize,
    pace: Option<Pace>,
    line: Line<T>,
    /// A timer for the line's next slot is set.
    timed: bool,
    /// It stands among the freed places.
    freed: bool,
}

struct Rule<T> {
    limit: Limit,
    values: HashMap<Arc<str>, Value<T>>,
    /// The number of values at which those that rest are next forgotten.
    sweep_at: usize,
}

/// The gate. `T` is the payload of the tasks that wait in it.
pub struct Gate<T> {
    ready: ReadyLine<T>,
    /// The first of the ready line, if it has asked to pass and may not yet.
    head: Option<Attempt<T>>,
    /// Retries whose backoff is over. They go first: they are the oldest.
    again: Line<T>,
    slots: [Slots; 4],
    lane_lines: [Line<T>; 4],
    keys: HashMap<Arc<str>, Key<T>>,
    /// The keys that have numbers, by number.
    numbers: Vec<Key<T>>,
    rules: Vec<Rule<T>>,
    /// Places that became free while tasks stood in their line.
    freed: VecDeque<Place>,
    lane_freed: [bool; 4],
    /// Time at which a value's leaky bucket has its next slot.
    timers: BinaryHeap<Reverse<(Instant, usize, Arc<str>)>>,
    most: Option<usize>,
    /// The slots of all lanes.
    size: usize,
    running: usize,
    unreleased: usize,
    results: usize,
    pace: Option<(Rate, Pace)>,
    parking: usize,
    parked: usize,
    paused: bool,
}

/// Answer to a task that asked to pass.
enum Passage<T> {
    Passed(Attempt<T>),
    Parked,
    Refused(Attempt<T>, Reason),
}

impl<T> Gate<T> {
    /// A gate that is set so.
    pub fn new(config: GateConfig) -> Self {
        Self {
            ready: ReadyLine::new(),
            head: None,
            again: Line::new(),
            slots: config.lanes.map(Slots::new),
            lane_lines: std::array::from_fn(|_| Line::new()),
            keys: HashMap::new(),
            numbers: Vec::new(),
            rules: config.limits.into_iter().map(|limit| Rule { limit, values: HashMap::new(), sweep_at: 1024 }).collect(),
            freed: VecDeque::new(),
            lane_freed: [false; 4],
            timers: BinaryHeap::new(),
            most: config.concurrency,
            size: config.lanes.iter().sum(),
            running: 0,
            unreleased: 0,
            results: config.results,
            pace: config.rate.map(|rate| (rate, Pace::new(rate))),
            parking: config.parking.max(1),
            parked: 0,
            paused: false,
        }
    }

    /// Puts what was fetched at this time at the end of the ready line; `lane` is where those go
    /// that name none. Returns an empty buffer.
    pub fn push(&mut self, batch: Vec<Delivery<T>>, lane: LaneKind, queued: Stamp) -> Vec<Delivery<T>> {
        self.ready.push(batch, lane, queued)
    }

    /// Puts a task whose backoff is over before the ready line.
    pub fn push_again(&mut self, attempt: Attempt<T>) {
        self.again.push_back(attempt);
    }

    /// Tasks in the ready line.
    #[inline]
    pub fn ready(&self) -> usize {
        self.ready.len() + usize::from(self.head.is_some())
    }

    /// Tasks that wait anywhere in the gate.
    #[inline]
    pub fn waiting_count(&self) -> usize {
        self.ready() + self.again.len() + self.parked
    }

    /// Tasks that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Tasks that could start if nothing but slots were needed.
    #[inline]
    pub fn free_slots(&self) -> usize {
        let free = self.slots.iter().map(Slots::free).sum();
        self.most.map_or(free, |most| most.saturating_sub(self.running).min(free))
    }

    /// The slots of a lane.
    pub fn slots(&self, lane: LaneKind) -> &Slots {
        &self.slots[lane as usize]
    }

    /// Lets tasks that want nothing special pass, as many as may: what [`next`](Gate::next) does,
    /// without asking all of its questions for each of them. Whatever it leaves is for `next`.
    /// For each of them `passed` gets its slot, and the batch whose first task it is to take out.
    #[inline]
    pub(crate) fn pass_plain(&mut self, mut passed: impl FnMut(&mut ReadyBatch<T>, u32)) {
        if self.paused || self.pace.is_some() || self.parked > 0 || !self.again.is_empty() || self.head.is_some() {
            return;
        }
        let workers = self.workers();
        let mut room = workers.saturating_sub(self.running);
        if self.unreleased > 0 {
            room = room.min(workers.saturating_add(self.results).saturating_sub(self.running + self.unreleased));
        }
        while let Some(batch) = self.ready.first_batch() {
            let slots = &mut self.slots[batch.lane as usize];
            let most = room.min(slots.free());
            let mut taken = 0;
            while taken < most && batch.plain().is_some() {
                passed(batch, slots.take_one());
                taken += 1;
            }
            if taken == 0 {
                break;
            }
            (self.running, room) = (self.running + taken, room - taken);
            self.ready.took(taken);
        }
    }

    /// Lets the next task pass, or says why none may.
    ///
    /// Costs amortised constant time; a task that meets something busy is moved to that thing's
    /// line and the next one is tried.
    ///
    /// # Errors
    /// The refusal, with its reason and, where there is one, the next time at which a task may
    /// pass.
    #[inline]
    pub fn next(&mut self, now: Instant) -> Result<Attempt<T>, Refusal> {
        self.ring(now);
        if self.waiting_count() == 0 {
            return Err(self.nothing());
        }
        if let Some(refusal) = self.closed(now) {
            return Err(refusal);
        }
        while let Some(attempt) = self.pop_freed(now) {
            if let Passage::Passed(attempt) = self.pass(attempt, now, true) {
                return Ok(attempt);
            }
        }
        loop {
            let retry = !self.again.is_empty();
            let first = if retry { self.again.pop_front() } else { self.head.take() };
            let next = || self.ready.pop().map(FetchedTask::into_attempt);
            let Some(attempt) = first.or_else(next) else { return Err(self.nothing()) };
            match self.pass(attempt, now, retry) {
                Passage::Passed(attempt) => return Ok(attempt),
                Passage::Parked => {}
                Passage::Refused(attempt, reason) => {
                    if retry {
                        self.again.push_front(attempt);
                    } else {
                        self.head = Some(attempt);
                    }
                    return Err(Refusal { reason, until: self.next_timer() });
                }
            }
        }
    }

    /// An attempt has ended: its slot and its shares of limits are free.
    #[inline]
    pub fn end(&mut self, task: &EngineTask<T>) {
        self.running -= 1;
        self.unreleased += 1;
        self.slots[task.lane as usize].give(task.slot);
        if !self.lane_lines[task.lane as usize].is_empty() {
            self.free(Place::Lane(task.lane));
        }
        if let Some(options) = task.options() {
            for (rule, value) in &options.limits {
                self.end_value(*rule, value);
            }
        }
    }

    /// Attempts on a lane have ended that held nothing but these slots.
    #[inline]
    pub(crate) fn end_plain(&mut self, lane: LaneKind, slots: impl ExactSizeIterator<Item = u32>) {
        self.running -= slots.len();
        self.unreleased += slots.len();
        self.slots[lane as usize].give_all(slots);
        if !self.lane_lines[lane as usize].is_empty() {
            self.free(Place::Lane(lane));
        }
    }

    /// A task is done, or handed back: its key is free.
    #[inline]
    pub fn done(&mut self, task: &EngineTask<T>) {
        if task.holds_key {
            self.free_key(task);
        }
    }

    fn free_key(&mut self, task: &EngineTask<T>) {
        if let Some(number) = task.key {
            if let Some(entry) = self.numbers.get_mut(number.get() as usize) {
                entry.held = false;
                if !entry.line.is_empty() {
                    self.free(Place::Number(number));
                }
            }
            return;
        }
        let Some(key) = task.options().and_then(|options| options.key.as_ref()) else { return };
        if let Some(entry) = self.keys.get_mut(key) {
            entry.held = false;
            if entry.line.is_empty() {
                self.keys.remove(key);
            } else {
                self.free(Place::Key(key.clone()));
            }
        }
    }

    /// This many results have left the result queue (or never entered it).
    #[inline]
    pub fn release(&mut self, results: usize) {
        debug_assert!(self.unreleased >= results, "results were released twice");
        self.unreleased = self.unreleased.saturating_sub(results);
    }

    /// Results that have not left the result queue.
    pub fn unreleased(&self) -> usize {
        self.unreleased
    }

    /// Stops or resumes all starts.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Changes the most running over all lanes, and the slots of a lane.
    pub fn set_concurrency(&mut self, lane: Option<LaneKind>, most: usize) {
        match lane {
            None => self.most = Some(most),
            Some(lane) => {
                self.size = self.size - self.slots[lane as usize].size() + most;
                self.slots[lane as usize].resize(most);
                if !self.lane_lines[lane as usize].is_empty() {
                    self.free(Place::Lane(lane));
                }
            }
        }
    }

    /// Changes the pace of all starts.
    pub fn set_rate(&mut self, rate: Option<Rate>, now: Instant) {
        self.pace = match (self.pace.take(), rate) {
            (Some((_, mut pace)), Some(rate)) => {
                pace.set(rate, now);
                Some((rate, pace))
            }
            (None, Some(rate)) => Some((rate, Pace::new(rate))),
            (_, None) => None,
        };
    }

    /// The pace of all starts.
    pub fn rate(&self) -> Option<Rate> {
        self.pace.as_ref().map(|(rate, _)| *rate)
    }

    /// Everything that waits, oldest lines first, and the gate is empty.
    pub fn take_all(&mut self) -> Vec<Attempt<T>> {
        let mut all: Vec<_> = self.again.drain(..).collect();
        for line in &mut self.lane_lines {
            all.extend(line.drain(..));
        }
        for key in self.keys.values_mut() {
            all.extend(key.line.drain(..));
        }
        self.keys.retain(|_, key| key.held);
        for key in &mut self.numbers {
            all.extend(key.line.drain(..));
        }
        for rule in &mut self.rules {
            for value in rule.values.values_mut() {
                all.extend(value.line.drain(..));
                (value.freed, value.timed) = (false, false);
            }
        }
        all.extend(self.head.take());
        all.extend(std::iter::from_fn(|| self.ready.pop()).map(FetchedTask::into_attempt));
        self.freed.clear();
        self.lane_freed = [false; 4];
        self.timers.clear();
        self.parked = 0;
        all
    }

    /// Returns what waits, by what it waits for; the ready line under `head`, the reason of the
    /// last refusal.
    pub fn waiting(&self, head: &Reason) -> Vec<(Reason, usize)> {
        let mut waiting = Vec::new();
        let ready = self.ready() + self.again.len();
        if ready > 0 {
            waiting.push((head.clone(), ready));
        }
        for lane in LaneKind::ALL {
            let parked = self.lane_lines[lane as usize].len();
            if parked > 0 {
                waiting.push((Reason::Lane { lane }, parked));
            }
        }
        let busiest = self.keys.iter().max_by_key(|(_, key)| key.line.len());
        if let Some((key, _)) = busiest.filter(|(_, key)| !key.line.is_empty()) {
            let parked = self.keys.values().map(|key| key.line.len()).sum();
            waiting.push((Reason::Key { key: key.clone() }, parked));
        }
        let busiest = self.numbers.iter().enumerate().max_by_key(|(_, key)| key.line.len());
        if let Some((number, _)) = busiest.filter(|(_, key)| !key.line.is_empty()) {
            let parked = self.numbers.iter().map(|key| key.line.len()).sum();
            waiting.push((Reason::Key { key: format!("#{number}").into() }, parked));
        }
        for rule in &self.rules {
            let busiest = rule.values.iter().max_by_key(|(_, value)| value.line.len());
            if let Some((value, _)) = busiest.filter(|(_, value)| !value.line.is_empty()) {
                let parked = rule.values.values().map(|value| value.line.len()).sum();
                waiting.push((Reason::Limit { name: rule.limit.name.clone(), value: value.clone() }, parked));
            }
        }
        waiting
    }

    /// The reasons that stop every start.
    #[inline]
    fn closed(&mut self, now: Instant) -> Option<Refusal> {
        if self.paused {
            return Some(Refusal { reason: Reason::Paused, until: None });
        }
        let most = self.workers();
        if self.running >= most {
            return Some(Refusal { reason: Reason::Concurrency { most }, until: None });
        }
        // A result whose worker waits with it because the queue is full still holds that worker: so
        // many fewer may run.
        if self.unreleased > 0 && self.running + self.unreleased >= most.saturating_add(self.results) {
            return Some(Refusal { reason: Reason::Results { capacity: self.results }, until: None });
        }
        if let Some((rate, pace)) = &mut self.pace {
            let slot = pace.slot(now);
            if slot > now {
                pace.wait();
                return Some(Refusal { reason: Reason::Pace { rate: *rate }, until: Some(slot) });
            }
        }
        None
    }

    /// Most that may run at once, over all lanes.
    #[inline]
    fn workers(&self) -> usize {
        self.most.map_or(self.size, |most| most.min(self.size))
    }

    fn nothing(&mut self) -> Refusal {
        if let Some((_, pace)) = &mut self.pace {
            pace.idle();
        }
        Refusal { reason: Reason::Empty, until: self.next_timer() }
    }

    /// Lets a task take all that it needs, or parks it at the first thing that is busy. `parked`
    /// tells that it stood in a line before: then it finds room in another one, whatever its limit,
    /// since that makes none longer than all were.
    #[inline]
    fn pass(&mut self, mut attempt: Attempt<T>, now: Instant, parked: bool) -> Passage<T> {
        if (attempt.task.options.is_some() || attempt.task.key.is_some())
            && let Some(place) = self.busy(&mut attempt.task, now)
        {
            return self.park(place, attempt, now, parked);
        }
        let lane = attempt.task.lane;
        let Some(slot) = self.slots[lane as usize].take() else {
            return self.park(Place::Lane(lane), attempt, now, parked);
        };
        attempt.task.slot = slot;
        attempt.admitted = now.into();
        self.running += 1;
        if let Some((_, pace)) = &mut self.pace {
            pace.take(now);
        }
        if let Some(options) = attempt.task.options() {
            for (rule, value) in &options.limits {
                if let Some(value) = self.rules[*rule].values.get_mut(value) {
                    value.running += 1;
                    if let Some(pace) = &mut value.pace {
                        pace.take(now);
                    }
                }
            }
        }
        Passage::Passed(attempt)
    }

    /// The first thing that this task needs and that is busy. Takes the key, if that is free, and
    /// keeps it: a task that then waits for something else stays ahead of its successors.
    fn busy(&mut self, task: &mut EngineTask<T>, now: Instant) -> Option<Place> {
        if let Some(number) = task.key.filter(|_| !task.holds_key) {
            let at = number.get() as usize;
            if at >= self.numbers.len() {
                self.numbers.resize_with(at + 1, || Key { held: false, line: Line::new() });
            }
            if std::mem::replace(&mut self.numbers[at].held, true) {
                return Some(Place::Number(number));
            }
            task.holds_key = true;
        }
        let options = task.options.as_deref()?;
        if let Some(key) = options.key.as_ref().filter(|_| !task.holds_key) {
            match self.keys.get_mut(key) {
                Some(entry) if entry.held => return Some(Place::Key(key.clone())),
                Some(entry) => entry.held = true,
                None => {
                    self.keys.insert(key.clone(), Key { held: true, line: Line::new() });
                }
            }
            task.holds_key = true;
        }
        for (rule, value) in &options.limits {
            let rule_state = &mut self.rules[*rule];
            let most = rule_state.limit.concurrency.unwrap_or(usize::MAX);
            let state = rule_state.value(value, now);
            if state.running >= most || state.pace.as_ref().is_some_and(|pace| pace.slot(now) > now) {
                return Some(Place::Value(*rule, value.clone()));
            }
        }
        None
    }
}
