//! Lamport's clock: numbers, not times. Who sends counts on; who receives counts on from the
//! greater of both.

/// A node's logical time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Clock(u64);

impl Clock {
    /// Before anything happened.
    pub fn new() -> Self {
        Self(0)
    }

    /// The time now.
    pub fn now(self) -> u64 {
        self.0
    }

    /// Something happens here: the time of it.
    pub fn forward(&mut self) -> u64 {
        self.0 = self.0.saturating_add(1);
        self.0
    }

    /// Something came from a node whose time was this: the time now. Nonsense from outside does not
    /// end time: what is beyond 2^62 counts as nothing.
    pub fn adjust(&mut self, other: u64) -> u64 {
        let other = if other >= 1 << 62 { 0 } else { other };
        self.0 = self.0.max(other).saturating_add(1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_clock_counts_on_from_the_greater_of_both() {
        let mut clock = Clock::new();
        assert_eq!((clock.forward(), clock.adjust(7), clock.adjust(3), clock.forward(), clock.now()), (1, 8, 9, 10, 10));
        assert_eq!(clock.adjust(u64::MAX), 11);
    }
}
