//! Which outcome a task has whose child has ended: decisions without effects.

use std::{convert::Infallible, time::Duration};

use crate::{
    error::TaskError,
    lane::child::{End, Exit},
    outcome::Outcome,
};

/// A reason why we killed a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// An item passed its limit.
    Late(Duration),
    /// It held this much memory.
    Large { held: u64, limit: u64 },
    /// Nobody wants the item's result any more.
    CalledOff,
    /// It said what no child of ours says.
    Broken(String),
}

/// Returns the outcome of the item that a child was running when it ended.
pub(crate) fn blame(why: Option<&Why>, end: &End) -> Outcome<Infallible> {
    match (why, end.status.exit) {
        (_, _) if end.stopped => Outcome::Cancelled,
        (Some(Why::CalledOff), _) => Outcome::Cancelled,
        (Some(Why::Late(limit)), _) => Outcome::TimedOut { limit: *limit },
        (Some(Why::Large { held, limit }), _) => Outcome::Failed(memory(*held, *limit)),
        (Some(Why::Broken(text)), _) => Outcome::Lost(format!("its child process was ended: {text}")),
        (None, Exit::Signal(signal)) => Outcome::Killed { signal },
        (None, Exit::Code(code)) => Outcome::Lost(format!("its child process ended itself with exit code {code}")),
    }
}

fn memory(held: u64, limit: u64) -> TaskError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    TaskError::new("memory", format!("its child process held {} MiB and was killed; the limit is {} MiB", mib(held), mib(limit)))
}

#[cfg(test)]
mod tests {
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
            let outcome = blame(why.as_ref(), &end(exit, stopped));
            let told = format!("{outcome:?}");
            assert!(told.contains(want), "{why:?} {exit:?} {stopped}: {told}");
        }
    }
}
