//! The work that waits for children, and the threads that take it: one for each child.

use std::{
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::cancel::Stop;

/// Work that waits, and how many threads there are for it.
pub(crate) struct WorkQueue<W> {
    state: Mutex<QueueState<W>>,
    wake: Condvar,
    /// The most threads.
    pub(crate) size: usize,
}

/// State of the queue, as a thread sees it while nobody else changes it.
pub(crate) struct QueueState<W> {
    pub(crate) waiting: VecDeque<W>,
    pub(crate) stop: Option<Stop>,
    idle: usize,
    threads: usize,
    closed: bool,
}

/// End of a thread's waiting.
pub(crate) enum Waited<'a, W> {
    /// There is work.
    Work(MutexGuard<'a, QueueState<W>>),
    /// Nothing came for as long as it would wait.
    Idle,
    /// Nothing will come.
    Closed,
}

impl<W> WorkQueue<W> {
    pub(crate) fn new(size: usize) -> Self {
        let state = QueueState { waiting: VecDeque::new(), stop: None, idle: 0, threads: 0, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), size: size.max(1) }
    }

    /// Adds work, and starts threads for what those that wait cannot take. Returns what nobody will
    /// ever take, because there is no thread and none could be started.
    pub(crate) fn add(&self, work: impl Iterator<Item = W>, start: impl FnMut(u32) -> io::Result<()>) -> Result<(), (Vec<W>, io::Error)> {
        let mut state = self.lock();
        state.waiting.extend(work);
        let called = state.waiting.len().min(state.idle);
        let staffed = self.staff(&mut state, start);
        let lost = match staffed {
            Err(error) if state.threads == 0 => Err((state.waiting.drain(..).collect(), error)),
            // Those that are there come to it.
            _ => Ok(()),
        };
        drop(state);
        self.call(called);
        lost
    }

    /// Gives back what no child has begun, in order, in front of everything else. Returns what ends
    /// here, because everything stops.
    pub(crate) fn put_back(&self, work: impl DoubleEndedIterator<Item = W>, start: impl FnMut(u32) -> io::Result<()>) -> Vec<W> {
        let mut state = self.lock();
        let before = state.waiting.len();
        for piece in work.rev() {
            state.waiting.push_front(piece);
        }
        let ended = if state.stop.is_some() { state.waiting.drain(..).collect() } else { Vec::new() };
        let called = state.waiting.len().saturating_sub(before).min(state.idle);
        // If no more can be had, those that are there come to it.
        let _ = self.staff(&mut state, start);
        drop(state);
        self.call(called);
        ended
    }

    /// Takes everything out for good; what is put back later ends.
    pub(crate) fn stop(&self, how: Stop) -> Vec<W> {
        let mut state = self.lock();
        state.stop = Some(how);
        state.waiting.drain(..).collect()
    }

    /// Has every thread end when the queue is empty.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Returns the queue if there is work.
    pub(crate) fn look(&self) -> Option<MutexGuard<'_, QueueState<W>>> {
        let state = self.lock();
        (!state.waiting.is_empty()).then_some(state)
    }

    /// Waits for work, for ever without a patience.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> Waited<'_, W> {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() {
                return Waited::Work(state);
            }
            if state.closed {
                return Waited::Closed;
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = match patience {
                None => (self.wake.wait(state).unwrap_or_else(PoisonError::into_inner), false),
                Some(time) => {
                    let (state, waited) = self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
                    (state, waited.timed_out())
                }
            };
            state.idle -= 1;
            if timed_out && state.waiting.is_empty() && !state.closed {
                return Waited::Idle;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, count: usize) {
        for _ in 0..count {
            self.wake.notify_one();
        }
    }

    /// Starts threads for what waits beyond those that have nothing to do.
    fn staff(&self, state: &mut QueueState<W>, mut start: impl FnMut(u32) -> io::Result<()>) -> io::Result<()> {
        for _ in state.idle..state.waiting.len().min(self.size) {
            if state.threads >= self.size {
                break;
            }
            start(state.threads as u32)?;
            state.threads += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(queue: &WorkQueue<u32>) -> Vec<u32> {
        queue.look().map(|state| state.waiting.iter().copied().collect()).unwrap_or_default()
    }

    #[test]
    fn work_gets_as_many_threads_as_there_is_work_and_place_for() {
        let queue = WorkQueue::new(3);
        let mut started = Vec::new();
        // Nobody takes anything here: what came first waits still.
        for (work, threads) in [(0..1, vec![0]), (1..2, vec![0, 1, 2]), (2..9, vec![0, 1, 2])] {
            queue
                .add(work, |slot| {
                    started.push(slot);
                    Ok(())
                })
                .unwrap();
            assert_eq!(started, threads);
        }
    }

    #[test]
    fn work_is_lost_only_where_no_thread_is_left_for_it() {
        let none = |_| Err(io::ErrorKind::OutOfMemory.into());
        let queue = WorkQueue::new(2);
        assert_eq!(queue.add(0..2, none).unwrap_err().0, [0, 1]);
        queue.add(0..1, |_| Ok(())).unwrap();
        assert!(queue.add(1..3, none).is_ok(), "the thread that is there comes to it");
        assert_eq!(waiting(&queue), [0, 1, 2]);
    }

    #[test]
    fn what_is_put_back_comes_first_and_in_its_order_and_ends_where_everything_stops() {
        let queue = WorkQueue::new(1);
        queue.add(5..7, |_| Ok(())).unwrap();
        assert!(queue.put_back(1..4, |_| Ok(())).is_empty());
        assert_eq!(waiting(&queue), [1, 2, 3, 5, 6]);
        assert_eq!(queue.stop(Stop::Soft), [1, 2, 3, 5, 6]);
        assert_eq!(queue.put_back(1..3, |_| Ok(())), [1, 2]);
    }

    #[test]
    fn a_thread_waits_for_as_long_as_it_likes_and_ends_when_nothing_will_come() {
        let queue = WorkQueue::<u32>::new(1);
        assert!(matches!(queue.wait(Some(Duration::from_millis(1))), Waited::Idle));
        queue.close();
        assert!(matches!(queue.wait(None), Waited::Closed));
        queue.add(0..1, |_| Ok(())).unwrap();
        assert!(matches!(queue.wait(None), Waited::Work(_)));
    }
}
