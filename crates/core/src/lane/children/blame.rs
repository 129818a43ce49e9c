//! Decides, without effects, which outcome a task has whose child has ended.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use crate::{
    error::TaskError,
    lane::child::{End, Exit},
    outcome::Outcome,
};

/// A reason why we killed a child.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// An item passed its limit.
    Late(Duration),
    /// It held this much memory.
    Large { held: u64, limit: u64 },
    /// Nobody wants the item's result any more.
    CalledOff,
    /// It said what no child of ours says.
    Broken(String),
    /// It answered wrongly.
    Wrong(TaskError),
}

/// Returns the outcome of the item that a child was running when it ended; `itself` words an end
/// with an exit code.
pub(crate) fn blame(why: Option<&Why>, end: &End, itself: &dyn Fn(i32) -> String) -> Outcome<Infallible> {
    match (why, end.status.exit) {
        (_, _) if end.stopped => Outcome::Cancelled,
        (Some(Why::CalledOff), _) => Outcome::Cancelled,
        (Some(Why::Late(limit)), _) => Outcome::TimedOut { limit: *limit },
        (Some(Why::Large { held, limit }), _) => Outcome::Failed(memory(*held, *limit)),
        (Some(Why::Broken(text)), _) => Outcome::Lost(format!("its child process was ended: {text}")),
        (Some(Why::Wrong(error)), _) => Outcome::Failed(error.clone()),
        (None, Exit::Signal(signal)) => Outcome::Killed { signal },
        (None, Exit::Code(code)) => Outcome::Lost(itself(code)),
    }
}

/// Consequence for a piece of work whose child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// It may be what ended the child.
    Blamed,
    /// It had begun, and ended with the child because of another.
    Bystander,
    /// It had not begun: another child gets it.
    Again,
}

/// Returns what becomes of a piece of work whose child has ended: because of `culprit` where that
/// is known. Else whatever had begun has the blame; and where nothing ever begins, all of it.
pub(crate) fn charge(id: u64, begun: bool, culprit: Option<u64>, is_fruitless: bool) -> Charge {
    match culprit {
        Some(culprit) if culprit == id => Charge::Blamed,
        Some(_) if begun => Charge::Bystander,
        None if begun || is_fruitless => Charge::Blamed,
        _ => Charge::Again,
    }
}

/// The limits of a piece of work, and how far it has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    /// Since when it counts.
    pub(crate) since: Instant,
    /// After this time it is asked to end.
    pub(crate) soft: Option<Duration>,
    /// After this time its child is ended.
    pub(crate) hard: Option<Duration>,
    /// True once it has been asked.
    pub(crate) is_asked: bool,
}

/// Step that a piece of work's limits ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing before this instant, if ever.
    Later(Option<Instant>),
    /// It is to be asked to end.
    Soft,
    /// Its child is to be ended: it has passed this limit.
    Hard(Duration),
}

/// Returns what is due of a piece of work now. An instant beyond what can be held never comes.
pub(crate) fn due(term: &Term, now: Instant) -> Due {
    let at = |limit: Option<Duration>| limit.and_then(|limit| Some((term.since.checked_add(limit)?, limit)));
    let (soft, hard) = (at(term.soft).filter(|_| !term.is_asked), at(term.hard));
    match (soft, hard) {
        (_, Some((at, limit))) if now >= at => Due::Hard(limit),
        (Some((at, _)), _) if now >= at => Due::Soft,
        (soft, hard) => Due::Later([soft, hard].into_iter().flatten().map(|(at, _)| at).min()),
    }
}

fn memory(held: u64, limit: u64) -> TaskError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    TaskError::new("memory", format!("its child process held {} MiB and was killed; the limit is {} MiB", mib(held), mib(limit)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lane::child::Status;

    #[test]
    fn the_item_that_ran_has_the_outcome_that_its_child_stands_for() {
        let end = |exit, stopped| End { status: Status { exit, core_dumped: false }, usage: Default::default(), stopped };
        let second = Duration::from_secs(1);
        let large = Why::Large { held: 300 << 20, limit: 256 << 20 };
        let broken = Why::Broken("it sent what is no message".to_owned());
        for (why, exit, stopped, want) in [
            (None, Exit::Signal(6), false, "Killed { signal: 6 }"),
            (None, Exit::Code(0), false, "exit code 0"),
            (None, Exit::Code(3), false, "exit code 3"),
            (None, Exit::Signal(15), true, "Cancelled"),
            (Some(Why::Late(second)), Exit::Signal(9), false, "TimedOut { limit: 1s }"),
            // It was killed by the stop as well: nobody wants to hear of a limit then.
            (Some(Why::Late(second)), Exit::Signal(9), true, "Cancelled"),
            (Some(Why::CalledOff), Exit::Signal(9), false, "Cancelled"),
            (Some(large), Exit::Signal(9), false, "300 MiB and was killed; the limit is 256 MiB"),
            (Some(broken), Exit::Signal(9), false, "no message"),
        ] {
            let outcome = blame(why.as_ref(), &end(exit, stopped), &|code| format!("exit code {code}"));
            let told = format!("{outcome:?}");
            assert!(told.contains(want), "{why:?} {exit:?} {stopped}: {told}");
        }
    }

    #[test]
    fn a_death_is_charged_to_what_may_have_caused_it() {
        for (begun, culprit, is_fruitless, want) in [
            (true, None, false, Charge::Blamed),
            (false, None, false, Charge::Again),
            (false, None, true, Charge::Blamed),
            (true, Some(7), false, Charge::Blamed),
            (false, Some(7), false, Charge::Blamed),
            (true, Some(8), false, Charge::Bystander),
            (false, Some(8), false, Charge::Again),
            (false, Some(8), true, Charge::Again),
        ] {
            assert_eq!(charge(7, begun, culprit, is_fruitless), want, "{begun} {culprit:?} {is_fruitless}");
        }
    }

    proptest! {
        /// Whoever else is there: what had not begun goes to another child, a known culprit alone
        /// has the blame, and of an unknown one somebody has it.
        #[test]
        fn nobody_is_blamed_for_what_another_did(begun in prop::collection::vec(any::<bool>(), 1..20), culprit in prop::option::of(0_u64..20)) {
            let culprit = culprit.filter(|id| *id < begun.len() as u64);
            let charges: Vec<_> = begun.iter().enumerate().map(|(id, begun)| charge(id as u64, *begun, culprit, false)).collect();
            for (id, (charged, begun)) in charges.iter().zip(&begun).enumerate() {
                prop_assert!(*begun || culprit == Some(id as u64) || *charged == Charge::Again);
            }
            let blamed = charges.iter().filter(|charged| **charged == Charge::Blamed).count();
            prop_assert_eq!(blamed, if culprit.is_some() { 1 } else { begun.iter().filter(|begun| **begun).count() });
        }
    }

    #[test]
    fn a_task_is_asked_to_end_and_then_its_child_is_ended() {
        let start = Instant::now();
        let (ms, at) = (Duration::from_millis, |ms| start + Duration::from_millis(ms));
        for (soft, hard, is_asked, now, want) in [
            (None, None, false, 9, Due::Later(None)),
            (Some(5), Some(8), false, 4, Due::Later(Some(at(5)))),
            (Some(5), Some(8), false, 5, Due::Soft),
            (Some(5), Some(8), true, 5, Due::Later(Some(at(8)))),
            (Some(5), Some(8), true, 8, Due::Hard(ms(8))),
            (Some(5), Some(8), false, 8, Due::Hard(ms(8))),
            (Some(5), None, true, 9, Due::Later(None)),
        ] {
            let term = Term { since: start, soft: soft.map(ms), hard: hard.map(ms), is_asked };
            assert_eq!(due(&term, at(now)), want, "{term:?} {now}");
        }
        let never = Term { since: start, soft: None, hard: Some(Duration::MAX), is_asked: false };
        assert_eq!(due(&never, start), Due::Later(None));
    }
}
