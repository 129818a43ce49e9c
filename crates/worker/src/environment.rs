//! Time, chance and threads as inputs of clients and workers.

use std::{
    cell::RefCell,
    fmt,
    time::{Instant, SystemTime},
};

use longshore_brokers::lease;
use longshore_core::Clock;

/// Time, chance and threads of clients and workers. The default is the real one; a simulation puts
/// its own into its [`App`](crate::App::environment). Timers are always tokio's.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Environment {
    /// Time that passes.
    pub clock: Clock,
    /// Time of the day, which anybody may set anew.
    pub wall: fn() -> SystemTime,
    /// Clock of [leases](lease::clock), which also counts the time for which the machine slept.
    pub lease: fn() -> u64,
    /// Gives a random number.
    pub random: fn() -> u64,
    /// Gives an id that nobody had before.
    pub id: fn() -> String,
    /// True where the blocking, the cpu and the process lane have threads and children. Without,
    /// all four lanes run on the runtime.
    pub threads: bool,
}

impl Environment {
    /// The real one.
    pub const SYSTEM: Self = Self {
        clock: Clock::SYSTEM,
        wall: SystemTime::now,
        lease: lease::clock,
        random: || fastrand::u64(..),
        id: fresh_id,
        threads: true,
    };

    /// Returns the time now, for measuring what passes.
    #[inline]
    pub(crate) fn now(self) -> Instant {
        self.clock.now()
    }

    /// Returns the time of the day.
    #[inline]
    pub(crate) fn wall(self) -> SystemTime {
        (self.wall)()
    }

    /// Reads the clock of leases.
    #[inline]
    pub(crate) fn lease(self) -> u64 {
        (self.lease)()
    }

    /// Returns a random number in `[0, 1)`.
    pub(crate) fn draw(self) -> f64 {
        // As many bits as a double holds exactly.
        ((self.random)() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::SYSTEM
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("clock", &self.clock).field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// Returns a random UUID. The kernel is asked for sixteen at once: asking takes about as long as
/// writing a message.
fn fresh_id() -> String {
    const SIZE: usize = size_of::<uuid::Bytes>();
    thread_local! {
        static RANDOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    RANDOM.with_borrow_mut(|random| {
        if random.is_empty() {
            random.resize(16 * SIZE, 0);
            getrandom::fill(random).expect("the system has random numbers");
        }
        let mut id = uuid::Bytes::default();
        id.copy_from_slice(&random[random.len() - SIZE..]);
        random.truncate(random.len() - SIZE);
        uuid::Builder::from_random_bytes(id).into_uuid().to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_lies_between_zero_and_one_whatever_chance_gives() {
        for (random, least, most) in [((|| 0) as fn() -> u64, 0.0, 0.0), (|| u64::MAX, 0.999_999, 0.999_999_999_999_999_9)] {
            let draw = Environment { random, ..Environment::SYSTEM }.draw();
            assert!((least..=most).contains(&draw), "{draw}");
        }
    }
}
