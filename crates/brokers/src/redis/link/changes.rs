//! Changes that the server told of the keys that it tracks for a connection.

use std::{collections::HashSet, mem, sync::Mutex};

use tokio::sync::Notify;

use super::{super::resp::Reply, locked};

/// Collects what has changed, and wakes whoever waits for that.
#[derive(Default)]
pub(super) struct Changes {
    seen: Mutex<Changed>,
    told: Notify,
}

/// Keys that may have changed since they were asked for, or since the last look at this.
#[derive(Debug, Default, PartialEq)]
pub(in crate::redis) struct Changed {
    /// Any of them: the connection is a new one, or the server has forgotten what it tracked.
    pub(in crate::redis) all: bool,
    pub(in crate::redis) keys: HashSet<Vec<u8>>,
}

impl Changes {
    pub(super) fn add(&self, push: Vec<Reply>) {
        let mut parts = push.into_iter();
        if parts.next().as_ref().and_then(Reply::bytes) != Some(b"invalidate") {
            return;
        }
        match parts.next() {
            Some(Reply::List(keys)) => locked(&self.seen).keys.extend(keys.into_iter().filter_map(Reply::into_bytes)),
            _ => locked(&self.seen).all = true,
        }
        self.told.notify_one();
    }

    /// Forgets what it was told: that is worth nothing any more.
    pub(super) fn forget(&self) {
        *locked(&self.seen) = Changed { all: true, keys: HashSet::new() };
        self.told.notify_one();
    }

    /// Returns what has changed since this was asked the last time.
    pub(super) fn take(&self) -> Changed {
        mem::take(&mut *locked(&self.seen))
    }

    pub(super) fn are_none(&self) -> bool {
        *locked(&self.seen) == Changed::default()
    }

    /// Resolves when there is one since the last time.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}
