//! How a remembered task stands, and what an event changes of that.

use longshore_ops::tasks::TaskStanding;

/// State of a remembered task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PastState {
    /// It was sent, or went back into its queue.
    Waiting,
    /// A worker has it.
    Held,
    /// It runs.
    Started,
    /// It waits for another attempt.
    Retry,
    /// It is done.
    Success,
    /// It has failed.
    Failure,
    /// It was called off, or its time had passed.
    Revoked,
    /// Its worker refused it.
    Rejected,
    /// Its worker is gone, and no other one has told of it yet.
    Lost,
    /// Its worker says that it runs nothing any more; its end was not heard.
    Unheard,
}

impl PastState {
    /// All of them, as they are numbered in the file.
    pub(crate) const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Held,
        Self::Started,
        Self::Retry,
        Self::Success,
        Self::Failure,
        Self::Revoked,
        Self::Rejected,
        Self::Lost,
        Self::Unheard,
    ];

    /// Returns its number in the file.
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    /// Returns the one with this number.
    pub(crate) fn of_number(number: i64) -> Self {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied()).unwrap_or(Self::Unheard)
    }

    /// Returns its word, for programs and people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Waiting => TaskStanding::Waiting.word(),
            Self::Held => TaskStanding::Held.word(),
            Self::Started => TaskStanding::Started.word(),
            Self::Retry => TaskStanding::Retry.word(),
            Self::Success => TaskStanding::Success.word(),
            Self::Failure => TaskStanding::Failure.word(),
            Self::Revoked => TaskStanding::Revoked.word(),
            Self::Rejected => "rejected",
            Self::Lost => "lost",
            Self::Unheard => "unheard",
        }
    }

    /// Returns whether nothing comes after it by itself.
    pub(super) fn is_end(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked | Self::Rejected)
    }

    /// Returns a sentence on it.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Waiting => "It was sent, or went back into its queue",
            Self::Held => "A worker has it, and has not begun it",
            Self::Started => "It runs",
            Self::Retry => "It failed, and waits for another attempt",
            Self::Success => "It is done",
            Self::Failure => "It has failed",
            Self::Revoked => "It was called off, or its time had passed",
            Self::Rejected => "Its worker refused it",
            Self::Lost => "Its worker is gone, and no other one has told of it yet",
            Self::Unheard => "Its worker runs nothing any more, and its end was not heard",
        }
    }
}

/// Returns how a task stands after an event of this kind; `None`: the event says nothing of that.
pub(crate) fn after(kind: &str, requeue: bool, before: Option<PastState>) -> Option<PastState> {
    Some(match kind {
        // Whoever sends and whoever works are heard in any order.
        "task-sent" => before.unwrap_or(PastState::Waiting),
        "task-received" => PastState::Held,
        "task-started" => PastState::Started,
        "task-succeeded" => PastState::Success,
        "task-failed" => PastState::Failure,
        // Celery's parent process tells it, sometimes when the next attempt has ended already.
        "task-retried" => before.filter(|before| before.is_end()).unwrap_or(PastState::Retry),
        "task-revoked" => PastState::Revoked,
        "task-rejected" if requeue => PastState::Waiting,
        "task-rejected" => PastState::Rejected,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_number_and_a_word_of_its_own() {
        for (place, state) in PastState::ALL.into_iter().enumerate() {
            assert_eq!((state.number(), PastState::of_number(place as i64)), (place as i64, state));
        }
        let words: std::collections::BTreeSet<&str> = PastState::ALL.map(PastState::word).into_iter().collect();
        assert_eq!(words.len(), PastState::ALL.len());
    }

    #[test]
    fn events_move_a_task_and_a_late_word_of_its_sender_or_its_last_attempt_does_not() {
        for (kind, requeue, before, want) in [
            ("task-sent", false, None, Some(PastState::Waiting)),
            ("task-sent", false, Some(PastState::Started), Some(PastState::Started)),
            ("task-received", false, Some(PastState::Lost), Some(PastState::Held)),
            ("task-rejected", true, Some(PastState::Started), Some(PastState::Waiting)),
            ("task-rejected", false, Some(PastState::Started), Some(PastState::Rejected)),
            ("task-retried", false, Some(PastState::Started), Some(PastState::Retry)),
            ("task-retried", false, Some(PastState::Success), Some(PastState::Success)),
            ("task-custom", false, Some(PastState::Started), None),
        ] {
            assert_eq!(after(kind, requeue, before), want, "{kind}");
        }
    }
}
