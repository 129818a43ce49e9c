//! A line for each action that somebody took over HTTP.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;

/// Most actions that are kept for whoever looks, and longest text of one of them, in characters.
const MOST_KEPT: usize = 200;
const LONGEST_TEXT: usize = 300;

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Action {
    /// Time of the action.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// Name of whoever did it, as far as the [`Access`](crate::Access) tells.
    pub who: String,
    /// The address that the request came from.
    pub from: String,
    /// The action: `pause`, `retry`, `purge`.
    pub what: String,
    /// Thing that it was done to: a queue, an id, a filter.
    pub to: String,
    /// Number of things that it was done to, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Reason that it was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Action {
    /// Describes an action that is taken now; whoever answers the request adds who it was.
    pub(crate) fn new(what: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            at: SystemTime::now(),
            who: String::new(),
            from: String::new(),
            what: what.into(),
            to: to.into(),
            count: None,
            refused: None,
        }
    }
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let at = jiff::Timestamp::try_from(*at).unwrap_or_default();
    serializer.collect_str(&format_args!("{at:.3}"))
}

/// Hears of each action. Called where it was done: it must not block for long.
#[derive(Clone)]
pub struct Auditor(Arc<dyn Fn(&Action) + Send + Sync>);

impl Auditor {
    /// Calls this for each action.
    #[must_use]
    pub fn new(told: impl Fn(&Action) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, action: &Action) {
        (self.0)(action);
    }
}

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auditor")
    }
}

/// The last actions of a server, for whoever looks.
#[derive(Debug, Default)]
pub(crate) struct ActionTail(Mutex<VecDeque<Action>>);

impl ActionTail {
    /// Keeps an action; the oldest one goes where there are too many.
    pub(crate) fn note(&self, action: &Action) {
        let cut = |text: &str| longshore_ops::cut(text, LONGEST_TEXT);
        let Action { at, who, from, what, to, count, refused } = action;
        let (at, count, refused) = (*at, *count, refused.as_deref().map(cut));
        let kept = Action { at, who: cut(who), from: cut(from), what: cut(what), to: cut(to), count, refused };
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() >= MOST_KEPT {
            tail.pop_back();
        }
        tail.push_front(kept);
    }

    /// Returns them, the latest first.
    pub(crate) fn latest(&self) -> Vec<Action> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_actions_are_kept_within_bounds() {
        let tail = ActionTail::default();
        for number in 0..MOST_KEPT + 5 {
            tail.note(&Action { refused: Some("y".repeat(1_000)), ..Action::new(number.to_string(), "x".repeat(100_000)) });
        }
        let kept = tail.latest();
        assert_eq!((kept.len(), kept[0].what.as_str(), kept[MOST_KEPT - 1].what.as_str()), (MOST_KEPT, "204", "5"));
        let longest = |text: &str| text.chars().count() == LONGEST_TEXT + 1;
        assert!(kept.iter().all(|action| longest(&action.to) && longest(action.refused.as_ref().unwrap())));
    }
}
