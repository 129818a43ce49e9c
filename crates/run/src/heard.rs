//! The signals that have asked a run to stop, and which ends of commands they explain.
//!
//! A signal often reaches a run's commands as well: systemd ends a whole control group, a terminal
//! a whole process group. What such a command says of its end is not its record's fault, and the
//! run that is resumed has to repeat it.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::Outcome;

/// Most by which a signal may reach a command earlier than the run. The end of a command that died
/// of such a signal is not told for so long.
const AHEAD: Duration = Duration::from_millis(500);
/// Longest time that a command which heard a signal needs to fail of it in its own way.
const BEHIND: Duration = Duration::from_secs(1);

/// The signals that ask for a stop: HUP, INT, TERM.
const ASKING: [i32; 3] = [1, 2, 15];

/// Times at which the run last heard each of the signals that ask for a stop.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    at: Mutex<[Option<Instant>; ASKING.len()]>,
    changed: Condvar,
}

/// Trace, in the end of a command, of the signal that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    /// It has none: the end is the command's own.
    None,
    /// A signal that asks for a stop, or the exit code that shells and others make of it.
    Signal(i32),
    /// A child that stays has vanished.
    Vanished,
    /// A failure of any other kind.
    Failure,
}

impl Heard {
    /// Hears a signal, now.
    pub(crate) fn hear(&self, number: i32) {
        let mut at = self.lock();
        for (known, at) in ASKING.into_iter().zip(at.iter_mut()) {
            if known == number {
                *at = Some(Instant::now());
            }
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Instant>; ASKING.len()]> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of a command that has ended just now: `Cancelled`, so that it runs again, if a
    /// signal that the run hears too ended it.
    ///
    /// Waits a moment where that cannot be known yet, so it is called on a thread that may.
    pub(crate) fn judge<R>(&self, outcome: Outcome<R>) -> Outcome<R> {
        let (trace, ended) = (trace(&outcome), Instant::now());
        let mut at = self.lock();
        loop {
            if is_of_signal(trace, ended, &at) {
                return Outcome::Cancelled;
            }
            let rest = match trace {
                Trace::Signal(_) | Trace::Vanished => AHEAD.saturating_sub(ended.elapsed()),
                Trace::None | Trace::Failure => return outcome,
            };
            if rest.is_zero() {
                return outcome;
            }
            at = self.changed.wait_timeout(at, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn trace<R>(outcome: &Outcome<R>) -> Trace {
    let asking = |number: i64| ASKING.into_iter().find(|known| i64::from(*known) == number);
    match outcome {
        Outcome::Killed { signal } => asking((*signal).into()).map_or(Trace::Failure, Trace::Signal),
        Outcome::Failed(error) if error.kind() == "exit" => {
            error.code().and_then(|code| asking(code - 128)).map_or(Trace::Failure, Trace::Signal)
        }
        Outcome::Lost(_) => Trace::Vanished,
        _ => Trace::None,
    }
}

/// Returns whether an end at `ended` is explained by the signals heard so far.
fn is_of_signal(trace: Trace, ended: Instant, heard: &[Option<Instant>; ASKING.len()]) -> bool {
    ASKING.into_iter().zip(heard).filter_map(|(number, at)| Some((number, (*at)?))).any(|(number, at)| match trace {
        Trace::None => false,
        // However late: it may have waited for its own children.
        Trace::Signal(of) => of == number && ended + AHEAD >= at,
        Trace::Vanished => ended + AHEAD >= at && ended <= at + BEHIND,
        Trace::Failure => ended >= at && ended <= at + BEHIND,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use longshore_core::TaskError;

    #[test]
    fn an_end_is_explained_by_the_signal_that_the_run_heard_around_that_time() {
        let ms = Duration::from_millis;
        let exit = |code| Outcome::<()>::Failed(TaskError::new("exit", "").with_code(code));
        let killed = |signal| Outcome::<()>::Killed { signal };
        let base = Instant::now() + Duration::from_secs(100);
        // The outcome, the signal heard at 0, the end of the command after it or before it, and
        // whether the one explains the other.
        for (outcome, number, ended, want) in [
            (killed(15), 15, 0, true),
            (killed(15), 15, -500, true),
            (killed(15), 15, -501, false),
            (killed(15), 15, 20_000, true),
            (killed(15), 2, 0, false),
            (killed(2), 2, -3, true),
            (killed(1), 1, 3, true),
            (exit(143), 15, -3, true),
            (exit(130), 2, 3, true),
            (exit(130), 15, 2000, false),
            // In its own way: only behind the signal, and only for a while.
            (exit(1), 15, 999, true),
            (exit(1), 15, 1001, false),
            (exit(1), 15, -1, false),
            (killed(9), 15, 10, true),
            (Outcome::Lost(String::new()), 2, -400, true),
            (Outcome::Lost(String::new()), 2, 1001, false),
            // Not the signal's work.
            (Outcome::Ok(()), 15, 0, false),
            (Outcome::TimedOut { limit: ms(1) }, 15, 0, false),
            (Outcome::Failed(TaskError::invalid("")), 15, 0, false),
        ] {
            let mut heard = [None; 3];
            heard[ASKING.into_iter().position(|known| known == number).unwrap()] = Some(base);
            let at = if ended < 0 { base - ms(-ended as u64) } else { base + ms(ended as u64) };
            assert_eq!(is_of_signal(trace(&outcome), at, &heard), want, "{outcome:?}, signal {number}, {ended} ms");
            assert!(!is_of_signal(trace(&outcome), at, &[None; 3]), "{outcome:?} without a signal");
        }
    }

    #[test]
    fn the_end_of_a_command_that_died_first_is_told_when_the_run_has_heard_the_signal() {
        let heard = Arc::new(Heard::default());
        let waiting = heard.clone();
        let judged = std::thread::spawn(move || waiting.judge(Outcome::<()>::Killed { signal: 15 }));
        heard.hear(15);
        assert!(matches!(judged.join().unwrap(), Outcome::Cancelled));
        assert!(matches!(heard.judge(Outcome::Ok(())), Outcome::Ok(())));
        assert!(matches!(Heard::default().judge(Outcome::<()>::Killed { signal: 9 }), Outcome::Killed { signal: 9 }));
    }
}
