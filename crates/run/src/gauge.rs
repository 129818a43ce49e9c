//! Bytes on their way to somebody slow: whoever sends them sees when there is room for more, and
//! when they have arrived.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time between two looks whether everything stops, while the last bytes are on their way.
const LOOK: Duration = Duration::from_millis(50);

/// Counts bytes that are on their way, in order.
#[derive(Debug)]
pub(crate) struct Gauge {
    state: Mutex<GaugeState>,
    changed: Condvar,
    /// Readable while there is room.
    room: (PipeReader, PipeWriter),
    /// Bytes on their way from which on there is none.
    most: u64,
}

#[derive(Debug)]
struct GaugeState {
    sent: u64,
    arrived: u64,
    /// Nothing arrives any more.
    is_closed: bool,
    is_readable: bool,
}

impl GaugeState {
    fn has_room(&self, most: u64) -> bool {
        self.is_closed || self.sent - self.arrived < most
    }
}

impl Gauge {
    /// Makes one with room for this many bytes; more than that are on their way only where one
    /// piece is longer.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(crate) fn new(most: u64) -> io::Result<Self> {
        let room = io::pipe()?;
        (&room.1).write_all(&[0])?;
        let state = GaugeState { sent: 0, arrived: 0, is_closed: false, is_readable: true };
        Ok(Self { state: Mutex::new(state), changed: Condvar::new(), room, most })
    }

    /// Sends bytes: `send` puts them behind all that was sent before. Returns a number that
    /// [`wait`](Self::wait) knows them by.
    pub(crate) fn send(&self, count: usize, send: impl FnOnce()) -> u64 {
        let mut state = self.lock();
        send();
        state.sent += count as u64;
        self.show(&mut state);
        state.sent
    }

    /// Notes that this many bytes have arrived.
    pub(crate) fn arrived(&self, count: usize) {
        let mut state = self.lock();
        state.arrived += count as u64;
        self.show(&mut state);
        self.changed.notify_all();
    }

    /// Notes that nothing arrives any more. Nobody waits from now on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.show(&mut state);
        self.changed.notify_all();
    }

    /// Returns what becomes readable when there is room again; `None` while there is some.
    pub(crate) fn full(&self) -> Option<BorrowedFd<'_>> {
        (!self.lock().has_room(self.most)).then(|| self.room.0.as_fd())
    }

    /// Waits until the bytes of this number have arrived; returns whether they have. Once
    /// everything stops they have this much patience.
    pub(crate) fn wait(&self, number: u64, is_stopping: &dyn Fn() -> bool, patience: Duration) -> bool {
        let mut state = self.lock();
        let mut until: Option<Instant> = None;
        loop {
            if state.arrived >= number {
                return true;
            }
            if state.is_closed || until.is_some_and(|until| Instant::now() >= until) {
                return false;
            }
            if until.is_none() && is_stopping() {
                until = Some(Instant::now() + patience);
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Brings the descriptor in line with the room.
    fn show(&self, state: &mut GaugeState) {
        let has_room = state.has_room(self.most);
        if has_room != state.is_readable {
            state.is_readable = has_room;
            // There is one byte or none in the pipe, so that neither waits.
            let _ = if has_room { (&self.room.1).write(&[0]) } else { (&self.room.0).read(&mut [0]) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, GaugeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use longshore_sys::poll::{Interest, ready};

    use super::*;

    fn is_ready(fd: BorrowedFd<'_>) -> bool {
        ready([Some((fd, Interest::Read))], Some(Duration::ZERO)).unwrap()[0]
    }

    #[test]
    fn whoever_sends_sees_room_and_arrival() {
        let gauge = Gauge::new(10).unwrap();
        let never = || false;
        let first = gauge.send(4, || ());
        assert!(gauge.full().is_none());
        let second = gauge.send(30, || ());
        assert!(gauge.full().is_some_and(|fd| !is_ready(fd)));
        gauge.arrived(4);
        assert!(gauge.wait(first, &never, Duration::ZERO));
        let full = gauge.full().unwrap();
        assert!(!is_ready(full));
        gauge.arrived(25);
        assert!(gauge.full().is_none() && is_ready(full));
        assert!(!gauge.wait(second, &|| true, Duration::ZERO), "it gives up when everything stops");
        gauge.arrived(5);
        assert!(gauge.wait(second, &|| true, Duration::ZERO));
    }

    #[test]
    fn nobody_waits_for_what_will_never_arrive() {
        let gauge = Gauge::new(10).unwrap();
        let number = gauge.send(20, || ());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gauge.wait(number, &|| false, Duration::ZERO));
            gauge.close();
            assert!(!waits.join().unwrap());
        });
        assert!(gauge.full().is_none());
    }
}
