//! The thread that serves one child: it takes tasks from the lane's queue, sends them, and sees to
//! it that each gets one outcome, whatever happens.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    CHUNK, IsolatedPool, MOST,
    board::{BoardLink, Sending},
    chunk,
    load::{Item, Load, LoadPart, finished, resolve},
    parcel::{Ends, Said},
    progress::Progress,
    wire,
};
use crate::{
    error::TaskError,
    lane::children::{
        ChildLink as _, KeptChild, LOOK, Waited,
        blame::{Why, blame},
    },
    outcome::Outcome,
    stamp::Stamp,
    task::{Attempt, Finished},
};

/// Time between two looks at the board while a child has several items.
const TICK: Duration = Duration::from_millis(10);
/// Time after which a running item holds up those behind it no longer.
const STUCK: Duration = Duration::from_millis(20);
/// Bytes in a batch, beyond which no further item joins it.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes in each of two batches that a child has at once: they are in the pipe at once, with room
/// to spare, for nobody wants to wait for it.
const SHORT_BYTES: usize = 16 * 1024;
/// Time to the end of its batch below which a child has the next one already. More than a chunk: on
/// a busy machine a batch takes longer than its work.
const SOON: Duration = Duration::from_millis(1);
/// Number of children in a row that end before they begin anything, from which on their tasks are
/// lost.
const FRUITLESS: u32 = 3;

/// One child after the other, and what its thread keeps for it.
pub(super) struct BoardSeat<T, R> {
    pool: Arc<IsolatedPool<T, R>>,
    slot: u32,
    child: Option<KeptChild<BoardLink>>,
    /// Batch that the child works on.
    front: Load<T>,
    /// Batch that it gets next, or has got already.
    next: Load<T>,
    done: Vec<Finished<T, R>>,
    /// Of what has just been put into `done`: the place of its last item among the answers, from 1,
    /// and how many items it has.
    places: Vec<(u32, u32)>,
    /// Since when there is something in `done`.
    held: Instant,
    scratch: Vec<u8>,
    /// A mean of what an item takes, in nanoseconds; the first ones are sent one at a time.
    each: f64,
    fruitless: u32,
}

impl<T, R> BoardSeat<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    pub(super) fn new(pool: Arc<IsolatedPool<T, R>>, slot: u32) -> Self {
        let now = pool.clock.now();
        Self {
            pool,
            slot,
            child: None,
            front: Load::new(now),
            next: Load::new(now),
            done: Vec::with_capacity(MOST),
            places: Vec::new(),
            held: now,
            scratch: Vec::new(),
            each: CHUNK.as_nanos() as f64,
            fruitless: 0,
        }
    }

    pub(super) fn serve(mut self) {
        loop {
            let given = self.child.as_ref().map_or(0, |child| child.tasks);
            if !self.take(given, BATCH_BYTES, true) {
                break;
            }
            self.run();
        }
        self.flush();
        self.retire();
    }

    /// Ends the child that is there, if there is one.
    fn retire(&mut self) {
        if let Some(child) = self.child.take() {
            child.link.retire(&self.pool.limits);
        }
    }

    /// Makes the next batch of tasks from the lane's queue, for a child that has been given so
    /// many; waits for some if it may. `false` when there are none.
    fn take(&mut self, given: u32, bytes: usize, wait: bool) -> bool {
        self.next.clear();
        let pool = self.pool.clone();
        let mut state = loop {
            if let Some(state) = pool.queue.look() {
                break state;
            }
            if !wait {
                return false;
            }
            // Whoever waits for what has ended here is not to wait for more to do as well.
            self.flush();
            match pool.queue.wait(pool.limits.max_idle.filter(|_| self.child.is_some())) {
                Waited::Work(state) => break state,
                Waited::Idle => self.retire(),
                Waited::Closed => return false,
            }
        };
        let want = pool.limits.at_once.map_or_else(|| chunk(self.each), |batch| (batch as usize).clamp(1, MOST));
        // Never more than a fair share: the last attempts of a job are for all children.
        let fair = if pool.limits.at_once.is_some() { MOST } else { state.waiting.len().div_ceil(pool.queue.size) };
        let room = pool.limits.rest(given, MOST);
        let mut taken = Vec::with_capacity(want.min(fair).min(state.waiting.len()));
        let mut count = 0;
        while taken.len() < fair
            && let Some(next) = state.waiting.front()
        {
            let items = (pool.items.count)(&next.payload);
            // One attempt at least, however many items it has: what is too much of it is left over
            // below.
            if !taken.is_empty() && count + items > want.min(room) {
                break;
            }
            count += items;
            taken.extend(state.waiting.pop_front());
        }
        let stopped = state.stop.is_some();
        drop(state);
        let most = if pool.limits.at_once.is_some() { want.min(room) } else { room };
        let (mut taken, mut rest) = (taken.into_iter(), None);
        while rest.is_none()
            && let Some(attempt) = taken.next()
        {
            if stopped || pool.called_off.is_some_and(|called_off| called_off(&attempt.payload)) {
                self.finish(attempt, &Outcome::Cancelled);
            } else {
                rest = self.pack(attempt, most, bytes);
            }
        }
        if rest.is_some() || taken.len() > 0 {
            pool.put_back(rest.into_iter().chain(taken));
        }
        true
    }

    /// Puts the items of an attempt into the batch, as long as it has fewer than `most` and not
    /// these bytes; what is left over comes back.
    fn pack(&mut self, mut attempt: Attempt<T>, most: usize, bytes: usize) -> Option<Attempt<T>> {
        let pool = self.pool.clone();
        let load = &mut self.next;
        let (part, first) = (load.parts.len() as u32, load.items.len());
        let mut rest = None;
        for place in 0..(pool.items.count)(&attempt.payload) {
            if load.items.len() >= most || load.batch.len() >= bytes {
                if place == 0 {
                    return Some(attempt);
                }
                let (behind, ends) = pool.split(&mut attempt, place);
                rest = Some(behind);
                if !matches!(ends, Ends::Open) {
                    return rest;
                }
                break;
            }
            match (pool.items.give)(&attempt.payload, place, &mut load.batch) {
                Ok(true) => load.items.push(Some(Item { part, place: place as u32 })),
                Ok(false) => {}
                Err(error) => match (pool.items.end)(&mut attempt.payload, place, Said::Nothing(Outcome::Failed(error))) {
                    Ends::Open => {}
                    Ends::Part => return None,
                    Ends::All(outcome) => {
                        self.report(attempt.unstarted(outcome));
                        return None;
                    }
                },
            }
        }
        load.parts.push(Some(LoadPart { attempt, first, count: load.items.len() - first, began: None }));
        rest
    }

    /// Runs the batch, and others as long as there is no pause: afterwards each of their items has
    /// its outcome or is back in the lane's queue.
    fn run(&mut self) {
        if self.next.items.is_empty() {
            return;
        }
        let mut child = match self.fit() {
            Ok(child) => child,
            Err(error) => return self.fail(&error),
        };
        match self.exchange(&mut child) {
            Ok(()) => {
                self.fruitless = 0;
                self.child = Some(child);
            }
            Err(why) => self.bury(child.link, why),
        }
    }

    /// Returns the child that is there, if it still serves, or a new one.
    fn fit(&mut self) -> Result<KeptChild<BoardLink>, TaskError> {
        let (now, pool) = (self.pool.clock.now(), self.pool.clone());
        if let Some(child) = self.child.as_mut()
            && child.is_worn(&pool.limits, now)
        {
            self.retire();
        }
        if let Some(child) = self.child.take() {
            return Ok(child);
        }
        if let Some(error) = pool.broken.get() {
            return Err(error.clone());
        }
        let started = BoardLink::start(pool.function, self.slot, &pool.children, pool.limits.start_up);
        let link = started.inspect_err(|error| {
            // That comes from how the program begins, and another start would be the same, after
            // the same wait.
            if error.kind() == "setup" {
                let _ = pool.broken.set(error.clone());
            }
        })?;
        Ok(KeptChild::new(link, now))
    }

    /// Sends the batch and takes its answers until it is done, and others behind it. `Err` when the
    /// child has to be buried: why it was killed, or nothing if it ended by itself.
    fn exchange(&mut self, child: &mut KeptChild<BoardLink>) -> Result<(), Option<Why>> {
        self.advance();
        Self::send(&mut self.front, child)?;
        loop {
            // A child that will soon be done gets the next batch before it is: neither waits for
            // the other then.
            if self.may_follow(child) && self.take(child.tasks, SHORT_BYTES, false) {
                if self.next.batch.len() > 2 * SHORT_BYTES {
                    let back = self.next.unload(&self.pool, 0);
                    self.pool.put_back(back.into_iter());
                } else if !self.next.items.is_empty() {
                    Self::send(&mut self.next, child)?;
                }
            }
            // The child has something to do: now is the time to report what is done.
            if self.held_long(self.pool.clock.now()) {
                self.flush();
            }
            self.attend(child)?;
            if child.link.in_flight() == 0 {
                return Ok(());
            }
            self.advance();
        }
    }

    /// Makes the next batch the one that the child works on.
    fn advance(&mut self) {
        std::mem::swap(&mut self.front, &mut self.next);
        self.next.clear();
        let now = self.pool.clock.now();
        let front = &mut self.front;
        (front.since, front.progress, front.mark) = (now, Progress::new(now), now);
    }

    fn send(load: &mut Load<T>, child: &mut KeptChild<BoardLink>) -> Result<(), Option<Why>> {
        load.all = (load.items.len(), load.parts.len());
        child.give(load.items.len() as u32);
        let limit = load.limit(0);
        match child.link.send(load.batch.finish(), limit).map_err(|error| Some(broken(&error)))? {
            Sending::Done => Ok(()),
            Sending::Ended => Err(None),
            Sending::Late => Err(limit.map(Why::Late)),
        }
    }

    /// Returns true if the child should have another batch now: if it will soon be done, and
    /// nothing has to be looked at between the two.
    fn may_follow(&self, child: &KeptChild<BoardLink>) -> bool {
        let front = &self.front;
        child.link.in_flight() == 1
            && self.each * (front.all.0 as f64) < SOON.as_nanos() as f64
            && front.batch.len() <= SHORT_BYTES
            && self.pool.called_off.is_none()
            && child.may_have_more(&self.pool.limits, self.pool.clock.now())
    }

    /// Takes the answers of the first batch until it is done.
    fn attend(&mut self, child: &mut KeptChild<BoardLink>) -> Result<(), Option<Why>> {
        loop {
            let ended = !child.link.has_said() && child.link.wait(self.patience(child)).map_err(|error| Some(broken(&error)))?.ended;
            let now = self.pool.clock.now();
            let done = self.collect(&mut child.link, now).map_err(|why| Some(Why::Broken(why.to_owned())))?;
            let front = &mut self.front;
            if done {
                if front.items.iter().any(Option::is_some) {
                    return Err(Some(Why::Broken("it did not answer all that it was asked".to_owned())));
                }
                if !front.items.is_empty() {
                    let (items, attempts) = front.all;
                    let mean = now.saturating_duration_since(front.since).as_nanos().max(1) as f64 / items as f64;
                    // Quick to believe in longer items, slower to believe in shorter ones: a batch
                    // that is too long holds up those behind.
                    self.each = if mean > self.each { mean } else { self.each * 0.5 + mean * 0.5 };
                    self.pool.hold(self.each * items as f64 / attempts as f64);
                }
                return Ok(());
            }
            if ended {
                return Err(None);
            }
            front.progress.see(child.link.begun(0), now);
            if self.held_long(now) {
                self.flush();
            }
            if let Some(why) = self.too_far(child, now) {
                return Err(Some(why));
            }
            let front = &mut self.front;
            let running = now.saturating_duration_since(front.progress.since());
            let others = front.items.len() > front.progress.item() + 1 || !self.next.items.is_empty();
            // Not before the first one has been begun, for that one stays here, with its limit.
            if running >= STUCK && child.link.begun(0) > 0 && others {
                let begun = child.link.take_back(0);
                let mut back = front.unload(&self.pool, begun);
                if child.link.in_flight() > 1 {
                    let begun = child.link.take_back(1);
                    back.append(&mut self.next.unload(&self.pool, begun));
                }
                self.pool.put_back(back.into_iter());
                self.each = self.each.max(running.as_nanos() as f64);
            }
        }
    }

    /// Returns for how long the child may be left alone.
    fn patience(&self, child: &KeptChild<BoardLink>) -> Option<Duration> {
        let now = self.pool.clock.now();
        let progress = &self.front.progress;
        let limit = self.front.limit(progress.item()).and_then(|limit| progress.since().checked_add(limit));
        let look = child.next_look(&self.pool.limits);
        let tick = (self.front.items.len() > 1 || child.link.in_flight() > 1).then(|| now + TICK);
        let called_off = self.pool.called_off.map(|_| now + LOOK);
        let held = (!self.done.is_empty()).then(|| self.held + CHUNK);
        [limit, look, tick, called_off, held].into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    /// Returns the limit that the child has passed, if any.
    fn too_far(&self, child: &mut KeptChild<BoardLink>, now: Instant) -> Option<Why> {
        let progress = self.front.progress;
        if let Some(limit) = self.front.limit(progress.item())
            && now.saturating_duration_since(progress.since()) >= limit
        {
            return Some(Why::Late(limit));
        }
        if let Some(called_off) = self.pool.called_off
            && self.front.attempt(progress.item()).is_some_and(|attempt| called_off(&attempt.payload))
        {
            return Some(Why::CalledOff);
        }
        child.too_large(&self.pool.limits, now)
    }

    /// Takes the answers of the first batch that are there; whether it is done.
    fn collect(&mut self, link: &mut BoardLink, now: Instant) -> Result<bool, &'static str> {
        let first = self.done.len();
        self.places.clear();
        let Self { front, done, places, slot, pool, scratch, .. } = self;
        let Load { items, parts, mark, .. } = front;
        let mut answers = 0_u32;
        let done_with = link.receive(scratch, |answer| {
            let (item, answer) = wire::item(answer).ok_or("its answer is torn")?;
            let unasked = "it answered what it was not asked";
            let item = items.get_mut(item).and_then(Option::take).ok_or(unasked)?;
            let held = parts.get_mut(item.part as usize).ok_or(unasked)?;
            let part = held.as_mut().ok_or(unasked)?;
            answers += 1;
            part.began.get_or_insert(*mark);
            let ends = (pool.items.end)(&mut part.attempt.payload, item.place as usize, Said::Answer(answer));
            if let Some((part, outcome)) = resolve(held, ends) {
                places.push((answers, part.count as u32));
                done.push(finished(part.attempt, outcome, *slot, part.began.unwrap_or(*mark).into(), now.into()));
            }
            Ok(())
        });
        if answers > 0 {
            if first == 0 {
                self.held = now;
            }
            // Which of them took how long is not known: they share the time since the last answers.
            let mean = now.saturating_duration_since(*mark) / answers;
            let cpu = link.cpu_of_each(answers);
            for (finished, &(last, count)) in self.done[first..].iter_mut().zip(&self.places) {
                finished.ended = Stamp::from(*mark) + mean * last;
                if count == 1 {
                    finished.started = Stamp::from(*mark) + mean * (last - 1);
                }
                finished.cpu = cpu.map(|cpu| (cpu * count).into());
            }
            *mark = now;
        }
        self.front.done = done_with?;
        Ok(self.front.done)
    }

    /// Ends a child, if it has not ended, and finds out what that means for each item that it had.
    fn bury(&mut self, mut link: BoardLink, why: Option<Why>) {
        link.kill();
        // What it has said and published counts, whatever ended it.
        let last_words = link.wait_for_end().map(|()| self.last_words(&mut link));
        let (now, flying, over) = (self.pool.clock.now(), link.in_flight(), usize::from(self.front.done));
        let begun = [0, 1].map(|load: usize| match load.checked_sub(over) {
            // What it calls done was begun, all of it.
            None => usize::MAX,
            Some(batch) if batch < flying => link.begun(batch),
            Some(_) => 0,
        });
        let end = link.end();
        let why = why.or_else(|| last_words.ok().flatten().map(|text| Why::Broken(text.to_owned())));
        let mut back = Vec::new();
        for (load, begun) in [&mut self.front, &mut self.next].into_iter().zip(begun) {
            back.append(&mut load.unload(&self.pool, begun));
            for item in std::mem::take(&mut load.items).into_iter().flatten() {
                let outcome = match &end {
                    Ok(end) => blame(why.as_ref(), end, &ended_itself),
                    Err(error) => Outcome::Lost(format!("its child process cannot be waited for: {error}")),
                };
                let held = &mut load.parts[item.part as usize];
                let Some(part) = held else { continue };
                let ends = (self.pool.items.end)(&mut part.attempt.payload, item.place as usize, Said::Nothing(outcome));
                if let Some((part, outcome)) = resolve(held, ends) {
                    let started = part.began.unwrap_or(load.progress.since()).min(now);
                    self.done.push(finished(part.attempt, outcome, self.slot, started.into(), now.into()));
                }
            }
        }
        self.fruitless = if begun == [0, 0] { self.fruitless + 1 } else { 0 };
        if self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            let told = end.map_or_else(|error| error.to_string(), |end| end.status.exit.to_string());
            let lost = format!("{FRUITLESS} child processes in a row ended before they began it, the last one with {told}");
            for attempt in back {
                self.finish(attempt, &Outcome::Lost(lost.clone()));
            }
        } else {
            self.pool.put_back(back.into_iter());
        }
        self.flush();
    }

    /// Takes all answers of a child that has ended; what it did that no child of ours does.
    fn last_words(&mut self, link: &mut BoardLink) -> Option<&'static str> {
        while !self.front.done {
            if let Err(text) = self.collect(link, self.pool.clock.now()) {
                return Some(text);
            }
            // What it left out of a batch that it calls done has to be found there.
            if self.front.done && link.in_flight() > 0 && self.front.items.iter().all(Option::is_none) {
                self.advance();
            } else {
                break;
            }
        }
        None
    }

    /// Ends the attempts of the next batch, because no child could be had.
    fn fail(&mut self, error: &TaskError) {
        let outcome = if error.kind() == "cancelled" { Outcome::Cancelled } else { Outcome::Failed(error.clone()) };
        for part in std::mem::take(&mut self.next.parts).into_iter().flatten() {
            self.finish(part.attempt, &outcome);
        }
        self.flush();
    }

    /// Ends an attempt, or what is left of it, that no child has begun.
    fn finish(&mut self, attempt: Attempt<T>, outcome: &Outcome<Infallible>) {
        if let Some(finished) = self.pool.unstarted(attempt, outcome) {
            self.report(finished);
        }
    }

    fn report(&mut self, finished: Finished<T, R>) {
        if self.done.is_empty() {
            self.held = self.pool.clock.now();
        }
        self.done.push(finished);
    }

    fn held_long(&self, now: Instant) -> bool {
        !self.done.is_empty() && (self.done.len() >= MOST || now.saturating_duration_since(self.held) >= CHUNK)
    }

    fn flush(&mut self) {
        self.pool.outbox.finish(&mut self.done);
    }
}

fn ended_itself(code: i32) -> String {
    format!("its child process ended itself with exit code {code}")
}

fn broken(error: &io::Error) -> Why {
    Why::Broken(format!("it cannot be talked to: {error}"))
}
