//! Time as an input of the engine.

use std::time::Instant;

/// Where the engine reads the time. Timers are always tokio's; on a paused tokio clock use [`Clock::TOKIO`], so that both agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> Instant);

impl Clock {
    /// The system's monotonic clock.
    pub const SYSTEM: Clock = Clock(Instant::now);
    /// The clock of the tokio runtime, which tests can pause and advance.
    pub const TOKIO: Clock = Clock(|| tokio::time::Instant::now().into_std());

    /// The time now.
    #[inline]
    pub fn now(self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::SYSTEM
    }
}
