//! The limit on how many tasks may wait in a queue, by looks at its length.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use longshore_worker::Client;
use tokio::time::timeout_at;

use crate::error::WebError;

/// Time for which a look at a queue holds, also one that failed.
const HOLDS: Duration = Duration::from_secs(1);
/// Longest time for a look at a queue, with the wait for whoever looks already.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Number of queues whose lengths are remembered.
const MOST_QUEUES: usize = 1_000;

/// Lengths of queues, looked at at most once a second each.
#[derive(Debug)]
pub(super) struct QueueLengths {
    most: u64,
    looks: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<QueueLook>>>>,
}

/// A look at a queue, with what was let in since.
#[derive(Debug, Default)]
pub(super) struct QueueLook {
    at: Option<Instant>,
    waiting: u64,
    /// Reason that it failed.
    trouble: Option<WebError>,
}

/// Reason why a task is not let in now.
#[derive(Debug)]
pub(super) enum NotNow {
    /// There is no room: after this time it may be asked again.
    Full(WebError, Duration),
    /// The broker did not say.
    Unknown(WebError),
}

impl NotNow {
    /// Returns the answer for whoever does not wait.
    pub(super) fn into_error(self) -> WebError {
        match self {
            Self::Full(error, after) => error.retry_after(after),
            Self::Unknown(error) => error,
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Says that the broker did not tell a queue's length in time.
fn no_length(queue: &str) -> WebError {
    let said = format!("the broker has not told within {} s how much waits in the queue {queue}: nothing was sent", LOOK_WITHIN.as_secs());
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, said).retry_after(super::AWAY_FOR)
}

impl QueueLengths {
    pub(super) fn new(most: u64) -> Self {
        Self { most, looks: Mutex::default() }
    }

    /// Lets a task into its queue if there is room and `further` has nothing against it.
    pub(super) async fn admit(&self, client: &Client, queue: &str, further: impl FnOnce() -> Result<(), NotNow>) -> Result<(), NotNow> {
        let look = self.look(queue, now());
        let until = tokio::time::Instant::now() + LOOK_WITHIN;
        // Others who ask for this queue wait for the same look.
        let mut look = timeout_at(until, look.lock()).await.map_err(|_| NotNow::Unknown(no_length(queue)))?;
        if look.at.is_none_or(|at| now().saturating_duration_since(at) >= HOLDS) {
            *look = match timeout_at(until, client.broker().queues(&[queue.into()])).await {
                Ok(Ok(states)) => QueueLook { at: Some(now()), waiting: states.first().map_or(0, |state| state.waiting), trouble: None },
                Ok(Err(error)) => QueueLook { at: Some(now()), waiting: 0, trouble: Some(super::of_broker(&error)) },
                Err(_) => QueueLook { at: Some(now()), waiting: 0, trouble: Some(no_length(queue)) },
            };
        }
        // Who has waited for a look that failed does not ask once more.
        if let Some(trouble) = &look.trouble {
            return Err(NotNow::Unknown(trouble.clone()));
        }
        if look.waiting >= self.most {
            // Who has waited for the look need not wait for that time again.
            let next = look.at.map_or(HOLDS, |at| (at + HOLDS).saturating_duration_since(now()));
            let said = format!("{} tasks wait in the queue {queue}, and no more than {} may: come again later", look.waiting, self.most);
            return Err(NotNow::Full(super::too_many(said), next));
        }
        further()?;
        look.waiting += 1;
        Ok(())
    }

    pub(super) fn look(&self, queue: &str, now: Instant) -> Arc<tokio::sync::Mutex<QueueLook>> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looks.get(queue) {
            return look.clone();
        }
        if looks.len() >= MOST_QUEUES {
            let is_new = |look: &QueueLook| look.at.is_some_and(|at| now.saturating_duration_since(at) < HOLDS);
            looks.retain(|_, look| look.try_lock().is_ok_and(|look| is_new(&look)));
            if looks.len() >= MOST_QUEUES {
                looks.clear();
            }
        }
        looks.entry(queue.into()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use longshore_worker::Settings;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_look_need_not_wait_for_that_time_again() {
        let (lengths, client) = (QueueLengths::new(1), Client::connect(&Settings::new("memory://looks")).unwrap());
        let look = lengths.look("q", now());
        let mut held = look.lock().await;
        let mut asked = Box::pin(lengths.admit(&client, "q", || Ok(())));
        assert!((&mut asked).now_or_never().is_none());
        *held = QueueLook { at: Some(now()), waiting: 1, trouble: None };
        tokio::time::advance(Duration::from_millis(700)).await;
        drop(held);
        match asked.await {
            Err(NotNow::Full(_, wait)) => assert_eq!(wait, Duration::from_millis(300)),
            other => panic!("there is no room: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_hangs_is_waited_for_once_by_all_who_ask_for_its_queue() {
        // It takes connections, and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/0?patience=60", silent.local_addr().unwrap());
        let (lengths, client) = (QueueLengths::new(1), Client::connect(&Settings::new(url)).unwrap());
        let begun = tokio::time::Instant::now();
        let asked = futures_util::future::join_all((0..3).map(|_| lengths.admit(&client, "q", || Ok(())))).await;
        for answer in asked.into_iter().chain([lengths.admit(&client, "q", || Ok(())).await]) {
            match answer {
                Err(NotNow::Unknown(error)) => assert!(error.status == 503 && error.message.contains("nothing was sent"), "{error}"),
                other => panic!("nobody knows the length: {other:?}"),
            }
        }
        let took = begun.elapsed();
        assert!(took >= LOOK_WITHIN && took < LOOK_WITHIN + HOLDS, "{took:?}");
        // After a moment it is asked again.
        tokio::time::advance(HOLDS).await;
        assert!(lengths.admit(&client, "q", || Ok(())).await.is_err());
        assert!(begun.elapsed() >= LOOK_WITHIN * 2);
    }
}
