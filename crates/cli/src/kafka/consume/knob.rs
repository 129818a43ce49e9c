//! The time that `--sleep` takes, which keys change while it runs.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::args::Sleep;

/// A sleep that can be turned.
#[derive(Debug)]
pub(super) struct Knob(Mutex<Sleep>);

/// The least that one turn changes.
const LEAST: Duration = Duration::from_millis(1);

impl Knob {
    pub(super) fn new(sleep: Sleep) -> Self {
        Self(Mutex::new(sleep))
    }

    /// Returns the sleep that it is set to.
    pub(super) fn get(&self) -> Sleep {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns it by a tenth, up or down to nothing.
    pub(super) fn turn(&self, up: bool) {
        let turned = |time: Duration| {
            let step = (time / 10).max(LEAST);
            if up { time + step } else { time.saturating_sub(step) }
        };
        let mut sleep = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sleep = Sleep(turned(sleep.0), turned(sleep.1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Knob, Sleep};

    #[test]
    fn a_knob_turns_by_a_tenth_and_a_millisecond_at_least_and_never_below_nothing() {
        let ms = |from, to| Sleep(Duration::from_millis(from), Duration::from_millis(to));
        for (before, up, after) in [
            (ms(100, 100), true, ms(110, 110)),
            (ms(100, 200), false, ms(90, 180)),
            (ms(5, 5), true, ms(6, 6)),
            (ms(1, 50), false, ms(0, 45)),
            (ms(0, 0), false, ms(0, 0)),
            (ms(0, 0), true, ms(1, 1)),
        ] {
            let knob = Knob::new(before);
            knob.turn(up);
            assert_eq!(knob.get(), after, "{before:?}");
        }
    }
}
