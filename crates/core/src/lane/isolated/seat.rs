//! The thread that serves one child: it takes tasks from the lane's queue, sends them, and sees to it that each gets one outcome, whatever happens.

use std::{
    io,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    CHUNK, Isolation, MOST, Pool,
    blame::{Progress, Why, blame},
    chunk,
    link::{Link, Sending},
    wire::{self, Batch},
};
use crate::{
    error::TaskError,
    lane::caught,
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
/// So many children in a row that end before they begin anything, and their tasks are lost.
const FRUITLESS: u32 = 3;

/// One child after the other, and what its thread keeps for it.
pub(super) struct Seat<T, R> {
    pool: Arc<Pool<T, R>>,
    slot: u32,
    link: Option<Link>,
    batch: Batch,
    /// The batch's items by number; those that have their outcome are gone.
    items: Vec<Option<Attempt<T>>>,
    done: Vec<Finished<T, R>>,
    /// Since when there is something in `done`.
    held: Instant,
    /// When the item that runs was begun, as far as is known.
    running_since: Instant,
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
            batch: Batch::new(),
            items: Vec::new(),
            done: Vec::with_capacity(MOST),
            held: now,
            running_since: now,
            scratch: Vec::new(),
            each: CHUNK.as_nanos() as f64,
            looked: now,
            resident: 0,
            fruitless: 0,
        }
    }

    pub(super) fn serve(mut self) {
        while self.take() {
            self.run();
        }
        self.flush();
        if let Some(link) = self.link.take() {
            link.retire();
        }
    }

    /// Waits for tasks and makes a batch of them; `false` when there will be no more.
    fn take(&mut self) -> bool {
        self.batch.clear();
        self.items.clear();
        let pool = self.pool.clone();
        let mut state = pool.lock();
        while state.queue.is_empty() {
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
        // Never more than a fair share: the last items of a job are for all children.
        let share = if pool.isolation.batch.is_some() { want } else { want.min(state.queue.len().div_ceil(pool.size)) };
        let count = share.min(self.rest()).max(1).min(state.queue.len());
        let mut taken = state.queue.drain(..count).collect::<Vec<_>>().into_iter();
        let stopped = state.stop.is_some();
        drop(state);
        while self.batch.len() < BATCH_BYTES
            && let Some(attempt) = taken.next()
        {
            if stopped || pool.called_off.is_some_and(|called_off| called_off(&attempt.payload)) {
                self.finish(attempt, Outcome::Cancelled);
                continue;
            }
            match (self.pool.give)(&mut self.batch, &attempt.payload) {
                Ok(()) => self.items.push(Some(attempt)),
                Err(error) => self.finish(attempt, Outcome::Failed(error)),
            }
        }
        if taken.len() > 0 {
            pool.put_back(taken);
        }
        true
    }

    /// How many more tasks the child may be given.
    fn rest(&self) -> usize {
        let given = self.link.as_ref().map_or(0, |link| link.tasks);
        match self.pool.isolation.max_tasks {
            // A child that has had its last is replaced before the next batch.
            Some(most) if given < most => (most - given) as usize,
            Some(most) => most as usize,
            None => MOST,
        }
    }

    /// Runs the batch: afterwards each of its items has its outcome or is back in the lane's queue.
    fn run(&mut self) {
        if self.items.is_empty() {
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
            if self.pool.isolation.max_size().is_some() && now.saturating_duration_since(self.looked) >= LOOK {
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
            // That comes from how the program begins, and another start would be the same, after the same wait.
            if error.kind() == "setup" {
                let _ = self.pool.broken.set(error.clone());
            }
        })
    }

    /// Sends the batch and takes its answers until it is done. `Err` when the child has to be buried: why it was killed, or nothing if it ended by itself.
    fn exchange(&mut self, link: &mut Link) -> Result<(), Option<Why>> {
        let sent = self.pool.clock.now();
        let all = self.items.len();
        let mut progress = Progress::new(sent);
        let mut mark = sent;
        self.running_since = sent;
        let limit = self.limit(0);
        match link.send(self.batch.finish(), all as u32, limit).map_err(|error| Some(broken(&error)))? {
            Sending::Done => {}
            Sending::Ended => return Err(None),
            Sending::Late => return Err(limit.map(Why::Late)),
        }
        // The child has something to do: now is the time to report what is done.
        if self.held_long(self.pool.clock.now()) {
            self.flush();
        }
        loop {
            let news = link.wait(self.patience(&progress)).map_err(|error| Some(broken(&error)))?;
            let now = self.pool.clock.now();
            let done = self.collect(link, &mut mark, now).map_err(|why| Some(Why::Broken(why.to_owned())))?;
            if done {
                if self.items.iter().any(Option::is_some) {
                    return Err(Some(Why::Broken("it did not answer all that it was asked".to_owned())));
                }
                let mean = now.saturating_duration_since(sent).as_nanos().max(1) as f64 / all as f64;
                // Quick to believe in longer items, slower to believe in shorter ones: a batch that is too long holds up those behind.
                self.each = if mean > self.each { mean } else { self.each * 0.5 + mean * 0.5 };
                self.pool.hold(self.each);
                return Ok(());
            }
            if news.ended {
                return Err(None);
            }
            if self.held_long(now) {
                self.flush();
            }
            progress.see(link.begun(), now);
            self.running_since = progress.since();
            if let Some(why) = self.too_far(link, &progress, now) {
                return Err(Some(why));
            }
            let running = now.saturating_duration_since(progress.since());
            // Not before the first one has been begun, for that one stays here, with its limit.
            if running >= STUCK && link.begun() > 0 && self.items.len() > progress.item() + 1 {
                let begun = link.take_back().min(self.items.len());
                self.pool.put_back(self.items.drain(begun..).flatten());
                self.each = self.each.max(running.as_nanos() as f64);
            }
        }
    }

    /// How long the child may be left alone.
    fn patience(&self, progress: &Progress) -> Option<Duration> {
        let now = self.pool.clock.now();
        let limit = self.limit(progress.item()).and_then(|limit| progress.since().checked_add(limit));
        let look = self.pool.isolation.memory.and_then(|_| self.looked.checked_add(LOOK));
        let tick = (self.items.len() > 1).then(|| now + TICK);
        let called_off = self.pool.called_off.map(|_| now + LOOK);
        let held = (!self.done.is_empty()).then(|| self.held + CHUNK);
        [limit, look, tick, called_off, held].into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    fn limit(&self, item: usize) -> Option<Duration> {
        self.items.get(item)?.as_ref()?.task.limit()
    }

    /// Whether the child has passed a limit.
    fn too_far(&mut self, link: &Link, progress: &Progress, now: Instant) -> Option<Why> {
        if let Some(limit) = self.limit(progress.item())
            && now.saturating_duration_since(progress.since()) >= limit
        {
            return Some(Why::Late(limit));
        }
        if let Some(called_off) = self.pool.called_off
            && self.items.get(progress.item()).and_then(Option::as_ref).is_some_and(|attempt| called_off(&attempt.payload))
        {
            return Some(Why::CalledOff);
        }
        let limit = self.pool.isolation.memory?;
        if now.saturating_duration_since(self.looked) >= LOOK {
            (self.looked, self.resident) = (now, link.resident());
        }
        (self.resident > limit).then_some(Why::Large { held: self.resident, limit })
    }

    /// Takes the answers that are there; whether the batch is done.
    fn collect(&mut self, link: &mut Link, mark: &mut Instant, now: Instant) -> Result<bool, &'static str> {
        let first = self.done.len();
        let (items, done, slot, take) = (&mut self.items, &mut self.done, self.slot, self.pool.take);
        let ended = link.receive(&mut self.scratch, |answer| {
            let (item, outcome) = wire::item(answer).ok_or("its answer is torn")?;
            let attempt = items.get_mut(item).and_then(Option::take).ok_or("it answered what it was not asked")?;
            done.push(finished(attempt, take(outcome), slot, now.into()));
            Ok(())
        });
        let fresh = &mut self.done[first..];
        if !fresh.is_empty() {
            if first == 0 {
                self.held = now;
            }
            // Which of them took how long is not known: they share the time since the last answers.
            let count = fresh.len() as u32;
            let mean = now.saturating_duration_since(*mark) / count;
            let cpu = link.cpu_of_each(count);
            for (nth, finished) in (0_u32..).zip(fresh) {
                finished.started = Stamp::from(*mark) + mean * nth;
                finished.ended = finished.started + mean;
                finished.cpu = cpu.map(Into::into);
            }
            *mark = now;
        }
        ended
    }

    /// Ends a child, if it has not ended, and finds out what that means for each item of the batch.
    fn bury(&mut self, mut link: Link, why: Option<Why>) {
        link.kill();
        // What it has said and published counts, whatever ended it.
        let mut mark = self.running_since;
        let last_words = link.wait_for_end().map(|()| self.collect(&mut link, &mut mark, self.pool.clock.now()).err());
        let begun = link.begun().min(self.items.len());
        let end = link.end();
        let now = self.pool.clock.now();
        let why = why.or_else(|| last_words.ok().flatten().map(|text| Why::Broken(text.to_owned())));
        let back: Vec<_> = self.items.drain(begun..).flatten().collect();
        self.fruitless = if begun == 0 { self.fruitless + 1 } else { 0 };
        for attempt in std::mem::take(&mut self.items).into_iter().flatten() {
            let outcome = match &end {
                Ok(end) => blame(why.as_ref(), end),
                Err(error) => Outcome::Lost(format!("its child process cannot be waited for: {error}")),
            };
            let mut finished = finished(attempt, outcome, self.slot, now.into());
            finished.started = self.running_since.min(now).into();
            self.done.push(finished);
        }
        if self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            let told = end.map_or_else(|error| error.to_string(), |end| end.status.exit.to_string());
            for attempt in back {
                self.finish(
                    attempt,
                    Outcome::Lost(format!("{FRUITLESS} child processes in a row ended before they began it, the last one with {told}")),
                );
            }
        } else {
            self.pool.put_back(back.into_iter());
        }
        self.flush();
    }

    /// No child could be had.
    fn fail(&mut self, error: &TaskError) {
        for attempt in std::mem::take(&mut self.items).into_iter().flatten() {
            self.finish(attempt, if error.kind() == "cancelled" { Outcome::Cancelled } else { Outcome::Failed(error.clone()) });
        }
        self.flush();
    }

    /// An attempt that no child has begun.
    fn finish(&mut self, attempt: Attempt<T>, outcome: Outcome<R>) {
        if self.done.is_empty() {
            self.held = self.pool.clock.now();
        }
        let (slot, at) = (attempt.task.slot, attempt.task.admitted);
        self.done.push(finished(attempt, outcome, slot, at));
    }

    fn held_long(&self, now: Instant) -> bool {
        !self.done.is_empty() && (self.done.len() >= MOST || now.saturating_duration_since(self.held) >= CHUNK)
    }

    fn flush(&mut self) {
        self.pool.outbox.finish(&mut self.done);
    }
}

/// An attempt that ran until now. Its payload goes here: a drop that panics is nobody else's business.
fn finished<T, R>(attempt: Attempt<T>, outcome: Outcome<R>, slot: u32, now: Stamp) -> Finished<T, R> {
    let Attempt { task, payload } = attempt;
    let _: Outcome<()> = caught(|| {
        drop(payload);
        Outcome::Cancelled
    });
    Finished { slot, task, outcome, started: now, ended: now, cpu: None }
}

fn broken(error: &io::Error) -> Why {
    Why::Broken(format!("it cannot be talked to: {error}"))
}

impl Isolation {
    /// The memory beyond which a child is replaced between tasks.
    fn max_size(&self) -> Option<u64> {
        [self.max_size, self.memory.map(|memory| memory / 2)].into_iter().flatten().min()
    }

    /// Whether a child that has nothing to do is to be replaced.
    fn is_worn(&self, tasks: u32, age: Duration, resident: u64) -> bool {
        self.max_tasks.is_some_and(|most| tasks >= most)
            || self.max_age.is_some_and(|most| age > most)
            || self.max_size().is_some_and(|most| resident > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_replaced_after_its_tasks_its_age_or_its_size() {
        let none = Isolation::default();
        let tasks = Isolation { max_tasks: Some(3), ..none.clone() };
        let age = Isolation { max_age: Some(Duration::from_secs(9)), ..none.clone() };
        let size = Isolation { max_size: Some(100), ..none.clone() };
        let memory = Isolation { memory: Some(100), ..none.clone() };
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
