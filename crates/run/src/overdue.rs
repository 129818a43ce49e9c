//! `--timeout 300%`: a limit that nobody knows before some tasks have ended.
//!
//! Attempts that start later have it as their own timeout, which the engine keeps. This is for
//! those that run already when it becomes known, or when it becomes shorter: requests wait for it
//! beside their answer, children are ended from outside.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::{LaneKind, Stop, engine::RunningTask, lane::child::Children};
use tokio::sync::watch;

/// Time by which an attempt may be late: the looks at what runs are this far apart, and starting a
/// child takes a moment too.
const SLACK: Duration = Duration::from_millis(100);

/// The limit, and which attempts it has ended.
#[derive(Debug)]
pub(crate) struct Overdue {
    limit: watch::Sender<Option<Duration>>,
    /// By task and attempt, when it was told to end.
    ended: Mutex<HashMap<(u64, u32), Instant>>,
}

impl Default for Overdue {
    fn default() -> Self {
        Self { limit: watch::Sender::new(None), ended: Mutex::default() }
    }
}

impl Overdue {
    /// Sets the limit.
    pub(crate) fn set(&self, limit: Duration) {
        self.limit.send_if_modified(|known| known.replace(limit) != Some(limit));
    }

    /// Waits until an attempt that starts now is overdue; returns the limit. Cancel safe.
    pub(crate) async fn passed(&self) -> Duration {
        let began = tokio::time::Instant::now();
        let mut changes = self.limit.subscribe();
        loop {
            let limit = *changes.borrow_and_update();
            let until = limit.map(|limit| began + limit);
            tokio::select! {
                () = async { match until { Some(until) => tokio::time::sleep_until(until).await, None => std::future::pending().await } } => {
                    return limit.unwrap_or_default();
                }
                // The sender is ours, so that this fails only when nobody waits any more.
                _ = changes.changed() => {}
            }
        }
    }

    /// Ends the children of attempts that are overdue: TERM, and KILL when that has not helped for
    /// a while.
    pub(crate) fn end_children(&self, running: &[RunningTask], children: &Children, kill_after: Duration) {
        let Some(limit) = *self.limit.borrow() else { return };
        let late: Vec<_> =
            running.iter().filter(|task| matches!(task.lane, LaneKind::Process | LaneKind::Blocking) && task.age > limit + SLACK).collect();
        if late.is_empty() {
            return;
        }
        let live = children.running();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for task in late {
            let Some(child) = live.iter().find(|child| child.slot == task.slot && child.age > limit) else { continue };
            let told = *ended.entry((task.id, task.attempt)).or_insert_with(|| {
                if !kill_after.is_zero() {
                    children.end(child.slot, child.pid, Stop::Soft);
                }
                Instant::now()
            });
            if told.elapsed() >= kill_after {
                children.end(child.slot, child.pid, Stop::Hard);
            }
        }
    }

    /// The limit, if it has ended this attempt. An attempt is asked about once, at its end.
    pub(crate) fn was_ended(&self, id: u64, attempt: u32) -> Option<Duration> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&(id, attempt))?;
        *self.limit.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_comes_late_counts_from_the_start() {
        let overdue = std::sync::Arc::new(Overdue::default());
        let began = tokio::time::Instant::now();
        let waiting = tokio::spawn({
            let overdue = overdue.clone();
            async move { overdue.passed().await }
        });
        tokio::time::sleep(Duration::from_secs(3)).await;
        overdue.set(Duration::from_secs(9));
        tokio::time::sleep(Duration::from_secs(1)).await;
        overdue.set(Duration::from_secs(5));
        assert_eq!(waiting.await.unwrap(), Duration::from_secs(5));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
