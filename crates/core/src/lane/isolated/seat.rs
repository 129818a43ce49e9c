//! The thread that serves one child: it takes tasks from the lane's queue, sends them, and sees to
//! it that each gets one outcome, whatever happens.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    CHUNK, Isolation, MOST, Pool,
    blame::{Progress, Why, blame},
    chunk,
    link::{Link, Sending},
    load::{Item, Load, Part, finished, resolve},
    parcel::{Ends, Said},
    wire::{self},
};
use crate::{
    error::TaskError,
    outcome::Outcome,
    stamp::Stamp,
    task::{Attempt, Finished},
};

/// Between two looks at the memory of a child.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at the board while a child has several items.
const TICK: Duration = Duration::from_millis(10);
/// An item that has been running for this long holds up those behind it no longer.
const STUCK: Duration = Duration::from_millis(20);
/// Bytes in a batch, beyond which no further item joins it.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes in each of two batches that a child has at once: they are in the pipe at once, with room
/// to spare, for nobody wants to wait for it.
const SHORT_BYTES: usize = 16 * 1024;
/// A child that will be done sooner than this has the next batch already. More than a chunk: on a
/// busy machine a batch takes longer than its work.
const SOON: Duration = Duration::from_millis(1);
/// So many children in a row that end before they begin anything, and their tasks are lost.
const FRUITLESS: u32 = 3;

/// One child after the other, and what its thread keeps for it.
pub(super) struct Seat<T, R> {
    pool: Arc<Pool<T, R>>,
    slot: u32,
    link: Option<Link>,
    /// What the child works on.
    front: Load<T>,
    /// What it gets next, or has got already.
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
    looked: Instant,
    resident: u64,
    fruitless: u32,
}

impl<T, R> Seat<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    pub(super) fn new(pool: Arc<Pool<T, R>>, slot: u32) -> Self {
        let now = pool.clock.now();
        Self {
            pool,
            slot,
            link: None,
            front: Load::new(now),
            next: Load::new(now),
            done: Vec::with_capacity(MOST),
            places: Vec::new(),
            held: now,
            scratch: Vec::new(),
            each: CHUNK.as_nanos() as f64,
            looked: now,
            resident: 0,
            fruitless: 0,
        }
    }

    pub(super) fn serve(mut self) {
        loop {
            let given = self.link.as_ref().map_or(0, |link| link.tasks);
            if !self.take(given, BATCH_BYTES, true) {
                break;
            }
            self.run();
        }
        self.flush();
        if let Some(link) = self.link.take() {
            link.retire();
        }
    }

    /// Makes the next batch of tasks from the lane's queue, for a child that has been given so
    /// many; waits for some if it may. `false` when there are none.
    fn take(&mut self, given: u32, bytes: usize, wait: bool) -> bool {
        self.next.clear();
        let pool = self.pool.clone();
        let mut state = pool.lock();
        while state.queue.is_empty() {
            if !wait {
                return false;
            }
            if !self.done.is_empty() {
                drop(state);
                self.flush();
                state = pool.lock();
                continue;
            }
            if state.closed {
                return false;
            }
            state.idle += 1;
            state = pool.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        let want = pool.isolation.batch.map_or_else(|| chunk(self.each), |batch| (batch as usize).clamp(1, MOST));
        // Never more than a fair share: the last attempts of a job are for all children.
        let fair = if pool.isolation.batch.is_some() { MOST } else { state.queue.len().div_ceil(pool.size) };
        let room = self.rest(given).clamp(1, MOST);
        let mut taken = Vec::with_capacity(want.min(fair).min(state.queue.len()));
        let mut count = 0;
        while taken.len() < fair
            && let Some(next) = state.queue.front()
        {
            let items = (pool.items.count)(&next.payload);
            if !taken.is_empty() && count + items > want.min(room) {
                break;
            }
            count += items;
            taken.extend(state.queue.pop_front());
        }
        let stopped = state.stop.is_some();
        drop(state);
        let most = if pool.isolation.batch.is_some() { want.min(room) } else { room };
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
        load.parts.push(Some(Part { attempt, first, count: load.items.len() - first, began: None }));
        rest
    }

    /// How many more tasks the child may be given.
    fn rest(&self, given: u32) -> usize {
        match self.pool.isolation.max_tasks {
            // A child that has had its last is replaced before the next batch.
            Some(most) if given < most => (most - given) as usize,
            Some(most) => most as usize,
            None => MOST,
        }
    }

    /// Runs the batch, and others as long as there is no pause: afterwards each of their items has
    /// its outcome or is back in the lane's queue.
    fn run(&mut self) {
        if self.next.items.is_empty() {
            return;
        }
        let mut link = match self.child() {
            Ok(link) => link,
            Err(error) => return self.fail(&error),
        };
        match self.exchange(&mut link) {
            Ok(()) => {
                self.fruitless = 0;
                self.link = Some(link);
            }
            Err(why) => self.bury(link, why),
        }
    }

    /// The child that is there, if it still serves, or a new one.
    fn child(&mut self) -> Result<Link, TaskError> {
        let now = self.pool.clock.now();
        if let Some(link) = self.link.take() {
            // A child that was never looked at is, however soon it is asked again.
            let due = self.resident == 0 || now.saturating_duration_since(self.looked) >= LOOK;
            if self.pool.isolation.worn_size().is_some() && due {
                (self.looked, self.resident) = (now, link.resident());
            }
            if !self.pool.isolation.is_worn(link.tasks, now.saturating_duration_since(link.born), self.resident) {
                return Ok(link);
            }
            link.retire();
        }
        (self.looked, self.resident) = (now, 0);
        if let Some(error) = self.pool.broken.get() {
            return Err(error.clone());
        }
        Link::start(self.pool.function, self.slot, &self.pool.children, now).inspect_err(|error| {
            // That comes from how the program begins, and another start would be the same, after
            // the same wait.
            if error.kind() == "setup" {
                let _ = self.pool.broken.set(error.clone());
            }
        })
    }

    /// Sends the batch and takes its answers until it is done, and others behind it. `Err` when the
    /// child has to be buried: why it was killed, or nothing if it ended by itself.
    fn exchange(&mut self, link: &mut Link) -> Result<(), Option<Why>> {
        self.advance();
        Self::send(&mut self.front, link)?;
        loop {
            // A child that will soon be done gets the next batch before it is: neither waits for
            // the other then.
            if self.may_follow(link) && self.take(link.tasks, SHORT_BYTES, false) {
                if self.next.batch.len() > 2 * SHORT_BYTES {
                    let back = self.next.unload(&self.pool, 0);
                    self.pool.put_back(back.into_iter());
                } else if !self.next.items.is_empty() {
                    Self::send(&mut self.next, link)?;
                }
            }
            // The child has something to do: now is the time to report what is done.
            if self.held_long(self.pool.clock.now()) {
                self.flush();
            }
            self.attend(link)?;
            if link.flying() == 0 {
                return Ok(());
            }
            self.advance();
        }
    }

    /// The next batch is what the child works on from now on.
    fn advance(&mut self) {
        std::mem::swap(&mut self.front, &mut self.next);
        self.next.clear();
        let now = self.pool.clock.now();
        let front = &mut self.front;
        (front.since, front.progress, front.mark) = (now, Progress::new(now), now);
    }

    fn send(load: &mut Load<T>, link: &mut Link) -> Result<(), Option<Why>> {
        load.all = (load.items.len(), load.parts.len());
        let limit = load.limit(0);
        match link.send(load.batch.finish(), load.items.len() as u32, limit).map_err(|error| Some(broken(&error)))? {
            Sending::Done => Ok(()),
            Sending::Ended => Err(None),
            Sending::Late => Err(limit.map(Why::Late)),
        }
    }

    /// Whether the child should have another batch now: if it will soon be done, and nothing has to
    /// be looked at between the two.
    fn may_follow(&self, link: &Link) -> bool {
        let (front, isolation) = (&self.front, &self.pool.isolation);
        link.flying() == 1
            && self.each * (front.all.0 as f64) < SOON.as_nanos() as f64
            && front.batch.len() <= SHORT_BYTES
            && self.pool.called_off.is_none()
            && isolation.worn_size().is_none()
            && !isolation.is_worn(link.tasks, self.pool.clock.now().saturating_duration_since(link.born), 0)
    }

    /// Takes the answers of the first batch until it is done.
    fn attend(&mut self, link: &mut Link) -> Result<(), Option<Why>> {
        loop {
            let ended = !link.has_said() && link.wait(self.patience(link)).map_err(|error| Some(broken(&error)))?.ended;
            let now = self.pool.clock.now();
            let done = self.collect(link, now).map_err(|why| Some(Why::Broken(why.to_owned())))?;
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
            front.progress.see(link.begun(0), now);
            if self.held_long(now) {
                self.flush();
            }
            if let Some(why) = self.too_far(link, now) {
                return Err(Some(why));
            }
            let front = &mut self.front;
            let running = now.saturating_duration_since(front.progress.since());
            let others = front.items.len() > front.progress.item() + 1 || !self.next.items.is_empty();
            // Not before the first one has been begun, for that one stays here, with its limit.
            if running >= STUCK && link.begun(0) > 0 && others {
                let begun = link.take_back(0);
                let mut back = front.unload(&self.pool, begun);
                if link.flying() > 1 {
                    let begun = link.take_back(1);
                    back.append(&mut self.next.unload(&self.pool, begun));
                }
                self.pool.put_back(back.into_iter());
                self.each = self.each.max(running.as_nanos() as f64);
            }
        }
    }

    /// How long the child may be left alone.
    fn patience(&self, link: &Link) -> Option<Duration> {
        let now = self.pool.clock.now();
        let progress = &self.front.progress;
        let limit = self.front.limit(progress.item()).and_then(|limit| progress.since().checked_add(limit));
        let look = self.pool.isolation.memory.and_then(|_| self.looked.checked_add(LOOK));
        let tick = (self.front.items.len() > 1 || link.flying() > 1).then(|| now + TICK);
        let called_off = self.pool.called_off.map(|_| now + LOOK);
        let held = (!self.done.is_empty()).then(|| self.held + CHUNK);
        [limit, look, tick, called_off, held].into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    /// Whether the child has passed a limit.
    fn too_far(&mut self, link: &Link, now: Instant) -> Option<Why> {
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
        let limit = self.pool.isolation.memory?;
        if now.saturating_duration_since(self.looked) >= LOOK {
            (self.looked, self.resident) = (now, link.resident());
        }
        (self.resident > limit).then_some(Why::Large { held: self.resident, limit })
    }

    /// Takes the answers of the first batch that are there; whether it is done.
    fn collect(&mut self, link: &mut Link, now: Instant) -> Result<bool, &'static str> {
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
    fn bury(&mut self, mut link: Link, why: Option<Why>) {
        link.kill();
        // What it has said and published counts, whatever ended it.
        let last_words = link.wait_for_end().map(|()| self.last_words(&mut link));
        let (now, flying, over) = (self.pool.clock.now(), link.flying(), usize::from(self.front.done));
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
                    Ok(end) => blame(why.as_ref(), end),
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
    fn last_words(&mut self, link: &mut Link) -> Option<&'static str> {
        while !self.front.done {
            if let Err(text) = self.collect(link, self.pool.clock.now()) {
                return Some(text);
            }
            // What it left out of a batch that it calls done has to be found there.
            if self.front.done && link.flying() > 0 && self.front.items.iter().all(Option::is_none) {
                self.advance();
            } else {
                break;
            }
        }
        None
    }

    /// No child could be had.
    fn fail(&mut self, error: &TaskError) {
        let outcome = if error.kind() == "cancelled" { Outcome::Cancelled } else { Outcome::Failed(error.clone()) };
        for part in std::mem::take(&mut self.next.parts).into_iter().flatten() {
            self.finish(part.attempt, &outcome);
        }
        self.flush();
    }

    /// An attempt, or what is left of it, that no child has begun.
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

fn broken(error: &io::Error) -> Why {
    Why::Broken(format!("it cannot be talked to: {error}"))
}

impl Isolation {
    /// Returns the memory beyond which a child is replaced between tasks.
    fn worn_size(&self) -> Option<u64> {
        [self.max_size, self.memory.map(|memory| memory / 2)].into_iter().flatten().min()
    }

    /// Returns whether a child that has nothing to do is to be replaced.
    fn is_worn(&self, tasks: u32, age: Duration, resident: u64) -> bool {
        self.max_tasks.is_some_and(|most| tasks >= most)
            || self.max_age.is_some_and(|most| age > most)
            || self.worn_size().is_some_and(|most| resident > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_replaced_after_its_tasks_its_age_or_its_size() {
        let none = Isolation::default();
        let tasks = none.clone().max_tasks(3);
        let age = none.clone().max_age(Duration::from_secs(9));
        let size = none.clone().max_size(100);
        let memory = none.clone().memory(100);
        let s = Duration::from_secs;
        for (isolation, given, old, held, worn) in [
            (&none, u32::MAX, Duration::MAX, u64::MAX, false),
            (&tasks, 2, s(0), 0, false),
            (&tasks, 3, s(0), 0, true),
            (&age, 1, s(9), 0, false),
            (&age, 1, s(10), 0, true),
            (&size, 1, s(0), 100, false),
            (&size, 1, s(0), 101, true),
            (&memory, 1, s(0), 50, false),
            (&memory, 1, s(0), 51, true),
        ] {
            assert_eq!(isolation.is_worn(given, old, held), worn, "{isolation:?} {given} {old:?} {held}");
        }
    }
}
