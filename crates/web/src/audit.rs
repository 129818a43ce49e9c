//! A line for each action that somebody took over HTTP.

use std::{fmt, sync::Arc, time::SystemTime};

use serde::Serialize;

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
