//! How events reach whoever listens: any number of listeners, each with a bounded queue of its own.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures_util::Stream;

use crate::event::Event;

/// Amount that a listener wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Detail {
    /// Events of the whole: phases, connections, tasks that hold a lane. Rare.
    Changes = 1,
    /// Also what happens to each task.
    Tasks = 2,
}

/// An event that a [`Hub`] can tell.
pub trait Tell: Clone + Send + 'static {
    /// Returns who wants to hear it.
    fn detail(&self) -> Detail;
}

/// Item that a listener gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<E> {
    /// An event.
    Event(E),
    /// Here this many events are missing, because the listener's queue was full.
    Missed(u64),
}

/// Tells events to whoever listens. Clones are one hub.
///
/// Posting never waits for a listener: one that is too slow misses events, and is told how many, at
/// the place where they are missing. While nobody listens, [`wants`](Hub::wants) is one relaxed
/// load and nothing has to be made.
///
/// ```
/// use longshore_core::watch::{Detail, Heard, Hub, Tell};
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct Step(u32);
/// impl Tell for Step {
///     fn detail(&self) -> Detail {
///         Detail::Tasks
///     }
/// }
///
/// let hub = Hub::new();
/// let mut slow = hub.listen(Detail::Tasks, 2);
/// hub.post((1..=5).map(Step));
/// hub.close();
/// let heard: Vec<_> = std::iter::from_fn(|| slow.blocking_next()).collect();
/// assert_eq!(heard, [Heard::Event(Step(1)), Heard::Event(Step(2)), Heard::Missed(3)]);
/// ```
pub struct Hub<E> {
    listeners: Arc<Listeners<E>>,
    /// Closes it at its end.
    owns: bool,
}

struct Listeners<E> {
    /// The most that any of them wants, as a [`Detail`]; 0: nobody listens.
    wants: AtomicU8,
    missed: AtomicU64,
    lines: Mutex<ListenerLines<E>>,
}

struct ListenerLines<E> {
    all: Vec<Arc<ListenerLine<E>>>,
    closed: bool,
}

type Wants<E> = Box<dyn Fn(&E) -> bool + Send + Sync>;

/// Queue of one listener.
struct ListenerLine<E> {
    detail: Detail,
    /// Which events it wants of those, where not all.
    wants: Option<Wants<E>>,
    queue: Mutex<LineQueue<E>>,
    /// Events that the listener has taken out of the queue together, and not read yet.
    unread: AtomicUsize,
    /// For listeners that block a thread.
    came: Condvar,
}

struct LineQueue<E> {
    heard: VecDeque<Heard<E>>,
    capacity: usize,
    /// Events that are missing behind the last one.
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

fn lock<X>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E> Clone for Hub<E> {
    fn clone(&self) -> Self {
        Self { listeners: self.listeners.clone(), owns: self.owns }
    }
}

impl<E> fmt::Debug for Hub<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("missed", &self.missed()).finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for Events<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("detail", &self.line.detail).finish_non_exhaustive()
    }
}

impl<E> Default for Hub<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Hub<E> {
    /// Returns a hub that nobody listens to.
    #[must_use]
    pub fn new() -> Self {
        let lines = Mutex::new(ListenerLines { all: Vec::new(), closed: false });
        Self { listeners: Arc::new(Listeners { wants: AtomicU8::new(0), missed: AtomicU64::new(0), lines }), owns: true }
    }

    /// Returns the same hub for a part of what owns it: it tells through it, and does not close it
    /// at its end.
    #[must_use]
    pub fn lent(&self) -> Self {
        Self { listeners: self.listeners.clone(), owns: false }
    }

    /// Returns whether anybody wants to hear events of this detail.
    #[inline]
    #[must_use]
    pub fn wants(&self, detail: Detail) -> bool {
        self.listeners.wants.load(Ordering::Relaxed) >= detail as u8
    }

    /// Returns a listener that hears what is posted from now on, and keeps at most `capacity` (at
    /// least one) that it has not read.
    #[must_use]
    pub fn listen(&self, detail: Detail, capacity: usize) -> Events<E> {
        self.join(detail, capacity, None)
    }

    /// As [`listen`](Hub::listen), for those events alone of which this is true; the others take no
    /// room.
    #[must_use]
    pub fn listen_to(&self, detail: Detail, capacity: usize, wants: impl Fn(&E) -> bool + Send + Sync + 'static) -> Events<E> {
        self.join(detail, capacity, Some(Box::new(wants)))
    }

    fn join(&self, detail: Detail, capacity: usize, wants: Option<Wants<E>>) -> Events<E> {
        let mut lines = lock(&self.listeners.lines);
        let queue = LineQueue { heard: VecDeque::new(), capacity: capacity.max(1), missed: 0, closed: lines.closed, waker: None };
        let line = Arc::new(ListenerLine { detail, wants, queue: Mutex::new(queue), unread: AtomicUsize::new(0), came: Condvar::new() });
        if !lines.closed {
            lines.all.push(line.clone());
            self.listeners.count(&lines);
        }
        Events { line, listeners: Arc::downgrade(&self.listeners), taken: VecDeque::new() }
    }

    /// Returns how many events listeners have missed so far, all of them together.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.listeners.missed.load(Ordering::Relaxed)
    }

    /// Ends all listeners, once they have read what waits for them; nothing where it is
    /// [lent](Hub::lent).
    pub fn close(&self) {
        if self.owns {
            self.listeners.close();
        }
    }
}

impl<E: Tell> Hub<E> {
    /// Tells events to all that want them. Never waits for a listener.
    pub fn post(&self, events: impl IntoIterator<Item = E>) {
        if !self.wants(Detail::Changes) {
            return;
        }
        let lines = lock(&self.listeners.lines);
        let [one] = lines.all.as_slice() else {
            let events: Vec<E> = events.into_iter().collect();
            let missed = lines.all.iter().map(|line| line.push(events.iter().cloned())).sum();
            self.listeners.missed.fetch_add(missed, Ordering::Relaxed);
            return;
        };
        self.listeners.missed.fetch_add(one.push(events.into_iter()), Ordering::Relaxed);
    }
}

impl<E> Listeners<E> {
    fn count(&self, lines: &ListenerLines<E>) {
        let most = lines.all.iter().map(|line| line.detail as u8).max().unwrap_or(0);
        self.wants.store(most, Ordering::Relaxed);
    }

    fn close(&self) {
        let all = {
            let mut lines = lock(&self.lines);
            lines.closed = true;
            std::mem::take(&mut lines.all)
        };
        self.wants.store(0, Ordering::Relaxed);
        all.iter().for_each(|line| line.close());
    }
}

impl<E> Drop for Listeners<E> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<E> ListenerLine<E> {
    fn close(&self) {
        let waker = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            queue.waker.take()
        };
        self.wake(waker);
    }

    fn wake(&self, waker: Option<Waker>) {
        self.came.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<E: Tell> ListenerLine<E> {
    /// Returns how many of these events had no room.
    fn push(&self, mut events: impl Iterator<Item = E>) -> u64 {
        let mut missed = 0;
        let waker = {
            let mut queue = lock(&self.queue);
            if self.wants.is_none() && self.detail == Detail::Tasks && queue.missed == 0 {
                // All of it, as far as there is room, without a look at each.
                let room = queue.room(&self.unread);
                queue.heard.extend(events.by_ref().take(room).map(Heard::Event));
            }
            let wants = |event: &E| event.detail() <= self.detail && self.wants.as_ref().is_none_or(|wants| wants(event));
            for event in events.filter(wants) {
                if queue.room(&self.unread) == 0 {
                    queue.missed += 1;
                    missed += 1;
                    continue;
                }
                if queue.missed > 0 {
                    let gap = std::mem::take(&mut queue.missed);
                    queue.heard.push_back(Heard::Missed(gap));
                }
                queue.heard.push_back(Heard::Event(event));
            }
            if queue.is_empty() { None } else { queue.waker.take() }
        };
        self.wake(waker);
        missed
    }
}

impl<E> LineQueue<E> {
    fn is_empty(&self) -> bool {
        self.heard.is_empty() && self.missed == 0
    }

    /// Returns how many more events it may take; `unread` are in the listener's hands.
    fn room(&self, unread: &AtomicUsize) -> usize {
        self.capacity.saturating_sub(self.heard.len() + unread.load(Ordering::Relaxed))
    }
}

/// A listener of a [`Hub`]. Dropping it ends it.
///
/// It has ended when what it listened to has, and everything was read.
pub struct Events<E> {
    line: Arc<ListenerLine<E>>,
    listeners: Weak<Listeners<E>>,
    /// Taken out of the queue, and not read yet: whoever posts is in the way once for all of it.
    taken: VecDeque<Heard<E>>,
}

// Nothing in it is ever pinned.
impl<E> Unpin for Events<E> {}

impl<E> Events<E> {
    /// Waits for the next event; `None`: there will be none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Heard<E>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns the next event, if there is one now.
    pub fn try_next(&mut self) -> Option<Heard<E>> {
        self.next_taken().or_else(|| {
            let line = self.line.clone();
            self.take(&mut lock(&line.queue))
        })
    }

    /// Returns the next event of those that were taken together.
    fn next_taken(&mut self) -> Option<Heard<E>> {
        let next = self.taken.pop_front();
        if next.is_some() {
            self.line.unread.store(self.taken.len(), Ordering::Relaxed);
        }
        next
    }

    /// Takes what is in the queue, and returns the first of it; last comes what is missing.
    fn take(&mut self, queue: &mut LineQueue<E>) -> Option<Heard<E>> {
        std::mem::swap(&mut self.taken, &mut queue.heard);
        self.next_taken().or_else(|| (queue.missed > 0).then(|| Heard::Missed(std::mem::take(&mut queue.missed))))
    }

    /// Waits for the next event on this thread; `None`: there will be none.
    pub fn blocking_next(&mut self) -> Option<Heard<E>> {
        if let Some(heard) = self.next_taken() {
            return Some(heard);
        }
        let line = self.line.clone();
        let mut queue = lock(&line.queue);
        loop {
            if let Some(heard) = self.take(&mut queue) {
                return Some(heard);
            }
            if queue.closed {
                return None;
            }
            queue = line.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Heard<E>>> {
        if let Some(heard) = self.next_taken() {
            return Poll::Ready(Some(heard));
        }
        let line = self.line.clone();
        let mut queue = lock(&line.queue);
        if let Some(heard) = self.take(&mut queue) {
            return Poll::Ready(Some(heard));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<E> Stream for Events<E> {
    type Item = Heard<E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Heard<E>>> {
        self.poll(cx)
    }
}

impl<E> Drop for Events<E> {
    fn drop(&mut self) {
        let Some(listeners) = self.listeners.upgrade() else { return };
        let mut lines = lock(&listeners.lines);
        lines.all.retain(|line| !Arc::ptr_eq(line, &self.line));
        listeners.count(&lines);
    }
}

impl Tell for Event {
    fn detail(&self) -> Detail {
        match self {
            Event::Admitted { .. } | Event::Ended { .. } | Event::HandedBack { .. } => Detail::Tasks,
            Event::Stalled { .. } | Event::Job { .. } => Detail::Changes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Told {
        Phase,
        Task(u32),
    }

    impl Tell for Told {
        fn detail(&self) -> Detail {
            match self {
                Told::Phase => Detail::Changes,
                Told::Task(_) => Detail::Tasks,
            }
        }
    }

    fn read(events: &mut Events<Told>) -> Vec<Heard<Told>> {
        std::iter::from_fn(|| events.try_next()).collect()
    }

    #[test]
    fn each_listener_hears_what_it_wants_in_order_and_where_something_is_missing() {
        let hub = Hub::new();
        assert!(!hub.wants(Detail::Changes), "nobody listens");
        hub.post([Told::Phase]);
        let mut changes = hub.listen(Detail::Changes, 10);
        assert!(hub.wants(Detail::Changes) && !hub.wants(Detail::Tasks));
        let (mut all, mut small) = (hub.listen(Detail::Tasks, 10), hub.listen(Detail::Tasks, 2));
        assert!(hub.wants(Detail::Tasks));
        hub.post([Told::Task(1), Told::Phase, Told::Task(2), Told::Task(3)]);
        assert_eq!(small.try_next(), Some(Heard::Event(Told::Task(1))));
        hub.post([Told::Task(4), Told::Task(5)]);
        assert_eq!(read(&mut changes), [Heard::Event(Told::Phase)]);
        assert_eq!(read(&mut all).len(), 6);
        // The gap is told before what came after it.
        let heard = read(&mut small);
        assert_eq!(heard[..3], [Heard::Event(Told::Phase), Heard::Missed(2), Heard::Event(Told::Task(4))], "{heard:?}");
        assert_eq!(heard[3..], [Heard::Missed(1)]);
        assert_eq!(hub.missed(), 3);
        drop((all, small));
        assert!(!hub.wants(Detail::Tasks) && hub.wants(Detail::Changes), "whoever is gone wants nothing");
    }

    #[test]
    fn a_listener_ends_with_its_hub_after_what_waits_for_it() {
        let hub = Hub::new();
        let mut events = hub.listen(Detail::Tasks, 10);
        hub.post([Told::Task(1)]);
        let reader = std::thread::spawn(move || std::iter::from_fn(|| events.blocking_next()).count());
        let mut late = {
            let last = hub.clone();
            drop(hub);
            last.post([Told::Task(2)]);
            last.close();
            last.post([Told::Task(3)]);
            last.listen(Detail::Tasks, 1)
        };
        assert_eq!(reader.join().expect("it counts"), 2);
        assert_eq!(late.blocking_next(), None);
    }

    #[test]
    fn a_listener_that_waits_is_woken_and_hears_nothing_twice() {
        let hub = Hub::new();
        let mut events = hub.listen(Detail::Tasks, 100);
        let reader = std::thread::spawn(move || {
            crate::block_on::block_on(async {
                let mut heard = Vec::new();
                while let Some(Heard::Event(Told::Task(n))) = events.next().await {
                    heard.push(n);
                }
                heard
            })
        });
        for n in 0..100 {
            hub.post([Told::Task(n)]);
            std::thread::yield_now();
        }
        drop(hub);
        assert_eq!(reader.join().expect("it reads"), (0..100).collect::<Vec<_>>());
    }
}
