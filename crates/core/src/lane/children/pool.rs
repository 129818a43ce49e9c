//! Children for callers that wait: each call is done on its caller's thread, by the child of a
//! slot.

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use super::{
    ChildLimits,
    link::{ChildKind, ChildLink as _},
    seat::{ChildAnswer, ChildSeat, Errand, Feed, SeatKind},
};
use crate::lane::child::{ChildSlot, Children};

/// Children that stay, one a slot, each started when its first call comes.
pub struct ChildPool<K: ChildKind> {
    kind: K,
    limits: ChildLimits,
    children: Children,
    seats: RwLock<Vec<Arc<Mutex<ChildSeat<K>>>>>,
    places: Mutex<Places>,
    freed: Condvar,
}

/// The slots of callers that bring none.
#[derive(Default)]
struct Places {
    /// Slots that nobody uses now, the last used last: its child is warm.
    free: Vec<ChildSlot>,
    made: usize,
}

/// A call of a child.
pub struct ChildCall<'a> {
    work: Vec<u8>,
    soft: Option<Duration>,
    hard: Option<Duration>,
    may_begin: &'a dyn Fn() -> bool,
}

impl ChildCall<'_> {
    /// Makes a call with this work, without limits.
    pub fn new(work: impl Into<Vec<u8>>) -> Self {
        Self { work: work.into(), soft: None, hard: None, may_begin: &|| true }
    }

    /// Sets the time after which the child is killed with its group.
    #[must_use]
    pub fn timeout(mut self, limit: Option<Duration>) -> Self {
        self.hard = limit;
        self
    }

    /// Sets the time after which the child is asked to end it.
    #[must_use]
    pub fn soft_timeout(mut self, limit: Option<Duration>) -> Self {
        self.soft = limit;
        self
    }
}

impl<'a> ChildCall<'a> {
    /// Sets a question that is asked when all is ready for it; without a yes the outcome is
    /// `Cancelled`.
    #[must_use]
    pub fn may_begin<'b>(self, may_begin: &'b dyn Fn() -> bool) -> ChildCall<'b>
    where
        'a: 'b,
    {
        ChildCall { may_begin, ..self }
    }
}

impl<K: ChildKind> ChildPool<K> {
    /// Children of this kind. None is started yet. They are entered in `children`, so that its
    /// `stop` and its guardian reach them.
    pub fn new(kind: K, limits: ChildLimits, children: Children) -> Self {
        let limits = ChildLimits { at_once: None, ..limits };
        Self { kind, limits, children, seats: RwLock::default(), places: Mutex::default(), freed: Condvar::new() }
    }

    /// Returns the registry of its children.
    pub fn children(&self) -> &Children {
        &self.children
    }

    /// Has the child of a slot do a call, and waits for its end on the calling thread.
    ///
    /// A child that ended between two calls is replaced without a word. A call whose child dies is
    /// `Killed` or `Lost`, one that passes its limit is `TimedOut`, and `Cancelled` is what
    /// [`Children::stop`] made die.
    pub fn ask(&self, slot: u32, call: ChildCall<'_>) -> ChildAnswer {
        let ChildCall { work, soft, hard, may_begin } = call;
        let mut feed = OneCall { errand: Some(Errand { id: 0, work, soft, hard, is_doubtful: false }), may_begin, answer: None };
        if !self.children.is_stopping() {
            lock(&self.seat(slot)).run(SeatKind { kind: &self.kind, limits: &self.limits, children: &self.children }, &mut feed);
        }
        feed.answer.unwrap_or_else(|| ChildAnswer::none(crate::outcome::Outcome::Cancelled))
    }

    /// Waits for a slot that nobody else has taken so, of this many at most.
    pub fn take(&self, most: usize) -> TakenSlot<'_, K> {
        let mut places = lock(&self.places);
        let slot = loop {
            if let Some(slot) = places.free.pop() {
                break slot;
            }
            if places.made < most.max(1) {
                places.made += 1;
                break self.children.claim();
            }
            places = self.freed.wait(places).unwrap_or_else(PoisonError::into_inner);
        };
        TakenSlot { number: slot.number(), slot: Some(slot), pool: self }
    }

    /// Ends all children side by side, so that the times do not add up: their input ends, and
    /// whoever has not ended after the farewell gets SIGTERM, then SIGKILL. What they still write
    /// is thrown away. To be called when nobody asks any more; dropping the pool without it kills
    /// them.
    pub fn end(&self) {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner).clone();
        thread::scope(|scope| {
            for link in seats.iter().filter_map(|seat| lock(seat).take()) {
                scope.spawn(|| link.retire(&self.limits));
            }
        });
    }

    fn seat(&self, slot: u32) -> Arc<Mutex<ChildSeat<K>>> {
        let index = slot as usize;
        if let Some(seat) = self.seats.read().unwrap_or_else(PoisonError::into_inner).get(index) {
            return seat.clone();
        }
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        for slot in seats.len()..=index {
            seats.push(Arc::new(Mutex::new(ChildSeat::new(slot as u32))));
        }
        seats[index].clone()
    }
}

impl<K: ChildKind> fmt::Debug for ChildPool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildPool").field("children", &self.children).finish_non_exhaustive()
    }
}

/// A slot that is nobody else's until this is dropped.
pub struct TakenSlot<'a, K: ChildKind> {
    number: u32,
    slot: Option<ChildSlot>,
    pool: &'a ChildPool<K>,
}

impl<K: ChildKind> TakenSlot<'_, K> {
    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Has its child do a call, as [`ChildPool::ask`].
    pub fn ask(&self, call: ChildCall<'_>) -> ChildAnswer {
        self.pool.ask(self.number, call)
    }
}

impl<K: ChildKind> Drop for TakenSlot<'_, K> {
    fn drop(&mut self) {
        lock(&self.pool.places).free.extend(self.slot.take());
        self.pool.freed.notify_one();
    }
}

/// One call, whose caller waits.
struct OneCall<'a> {
    errand: Option<Errand>,
    may_begin: &'a dyn Fn() -> bool,
    answer: Option<ChildAnswer>,
}

impl Feed for OneCall<'_> {
    fn next(&mut self) -> Option<Errand> {
        self.errand.take()
    }

    fn may_begin(&mut self, _: u64) -> bool {
        (self.may_begin)()
    }

    fn again(&mut self, errand: Errand) {
        self.errand = Some(errand);
    }

    fn ended(&mut self, _: u64, _: Option<Instant>, answer: ChildAnswer) {
        self.answer = Some(answer);
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn hear_bell(&mut self) {}

    fn is_called_off(&self, _: u64) -> bool {
        false
    }

    fn may_call_off(&self) -> bool {
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
