//! One reader of a consumer, however many look: it asks once a second.
//!
//! What it saw last is shown while the consumer does not answer: Kafka's client may wait for a
//! broker. Troubles and counts are known all the same.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use longshore_core::{CancelToken, watch::Command};
use longshore_kafka::ConsumerHandle;
use tokio::sync::{Notify, watch};

use super::{
    course::{Course, Tally},
    facts::{ConsumerFacts, RunningFacts, troubles},
};
use crate::error::WebError;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Most records in work that are named.
const MOST_RUNNING: usize = 50;
/// Time after a question for which records in work are asked for.
const WATCHED: Duration = Duration::from_secs(5);
/// Silence of the consumer from which on it is said.
const LATE: Duration = Duration::from_secs(3);
/// Time for which a page waits for a look.
const PATIENCE: Duration = Duration::from_secs(2);

/// A consumer, and what was seen of it.
pub(crate) struct ConsumerReader {
    handle: ConsumerHandle,
    looked: watch::Receiver<Seen>,
    wishes: Arc<Wishes>,
}

/// What was seen.
#[derive(Clone, Default)]
enum Seen {
    /// It has not answered yet.
    #[default]
    Nothing,
    Look(Look),
    Over,
}

/// What was seen, and when.
#[derive(Clone)]
struct Look {
    facts: Arc<ConsumerFacts>,
    charts: Arc<Vec<String>>,
    asked: Instant,
    answered: Instant,
}

/// Wishes of those who look.
struct Wishes {
    times: Mutex<WishTimes>,
    nudge: Notify,
}

#[derive(Clone, Copy)]
struct WishTimes {
    /// Last time that somebody looked.
    asked: Option<Instant>,
    /// Nothing that was seen before this may be shown: something was changed then.
    not_before: Option<Instant>,
}

impl Wishes {
    fn times(&self, change: impl FnOnce(&mut WishTimes)) -> WishTimes {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut times);
        *times
    }
}

impl ConsumerReader {
    /// Begins to read; ends when `stop` says so. Runs on the current runtime.
    pub(crate) fn start(handle: ConsumerHandle, stop: CancelToken) -> Arc<Self> {
        let (tell, looked) = watch::channel(Seen::Nothing);
        let times = Mutex::new(WishTimes { asked: None, not_before: None });
        let wishes = Arc::new(Wishes { times, nudge: Notify::new() });
        let reader = read(handle.clone(), tell, wishes.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = reader => {}
                () = stop.cancelled() => {}
            }
        });
        Arc::new(Self { handle, looked, wishes })
    }

    /// Returns the consumer as it is now, or as it was when it answered last, and charts of how it
    /// went.
    ///
    /// # Errors
    /// It has not answered yet, or is over.
    pub(crate) async fn look(&self) -> Result<(ConsumerFacts, Arc<Vec<String>>), WebError> {
        let now = Instant::now();
        let times = self.wishes.times(|times| {
            // Nobody has looked: records in work were not asked for.
            if times.asked.is_none_or(|asked| asked.elapsed() >= WATCHED) {
                times.not_before = Some(now);
                self.wishes.nudge.notify_one();
            }
            times.asked = Some(now);
        });
        let mut looked = self.looked.clone();
        let is_new = |seen: &Seen| match seen {
            Seen::Nothing => false,
            Seen::Look(look) => times.not_before.is_none_or(|at| look.asked >= at),
            Seen::Over => true,
        };
        // Who does not answer in time is shown as it was.
        let _ = tokio::time::timeout(PATIENCE, looked.wait_for(is_new)).await.is_ok();
        let seen = looked.borrow().clone();
        let Look { facts, charts, answered, .. } = match seen {
            Seen::Look(look) => look,
            Seen::Over => return Err(over()),
            Seen::Nothing => {
                return Err(WebError::new(StatusCode::SERVICE_UNAVAILABLE, "the consumer has not answered yet").retry_after(EVERY));
            }
        };
        let mut facts = ConsumerFacts::clone(&facts);
        let late = answered.elapsed();
        if late >= LATE {
            facts.late = late.as_secs_f64();
            facts.troubles = troubles(&self.handle.troubles(), self.handle.complaint().as_deref());
            facts.counts = self.handle.counts();
        }
        Ok((facts, charts))
    }

    /// Changes the consumer.
    ///
    /// # Errors
    /// It is over.
    pub(crate) fn steer(&self, orders: &[Order]) -> Result<(), WebError> {
        if matches!(*self.looked.borrow(), Seen::Over) {
            return Err(over());
        }
        for order in orders {
            match order {
                Order::Threads(most) => self.handle.set_max_threads(*most),
                Order::InFlight(most) => self.handle.set_max_in_flight(*most),
                Order::StopNow => self.handle.stop_now(),
                Order::Stop => self.handle.stop(),
                Order::Engine(command) => self.handle.engine().obey(command.clone()),
            }
        }
        // What is shown next is what came of it.
        self.wishes.times(|times| times.not_before = Some(Instant::now()));
        self.wishes.nudge.notify_one();
        Ok(())
    }
}

fn over() -> WebError {
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, "the consumer is over")
}

/// Order to a consumer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Most records in work.
    Threads(usize),
    /// Most records in work or waiting for it.
    InFlight(usize),
    /// Reads no more; what is in work may end.
    Stop,
    /// The same, and ends what is in work.
    StopNow,
    /// Pause, and pace.
    Engine(Command),
}

async fn read(handle: ConsumerHandle, tell: watch::Sender<Seen>, wishes: Arc<Wishes>) {
    let mut course = Course::default();
    loop {
        let asked = Instant::now();
        let view = handle.snapshot().await;
        let is_watched = wishes.times(|_| {}).asked.is_some_and(|asked| asked.elapsed() < WATCHED);
        if let Some(view) = view {
            let running = if is_watched { handle.running(MOST_RUNNING).await.unwrap_or_default() } else { Vec::new() };
            let running: Vec<_> = running.into_iter().map(RunningFacts::of).collect();
            let mut facts = ConsumerFacts::of(&handle, view, running, 0.0);
            let answered = Instant::now();
            facts.rate_per_s = course.note(answered, Tally { good: facts.done_well(), bad: facts.failed(), lag: facts.lag });
            let (facts, charts) = (Arc::new(facts), Arc::new(course.charts()));
            tell.send_replace(Seen::Look(Look { facts, charts, asked, answered }));
        } else if handle.engine().snapshot().await.is_none() {
            tell.send_replace(Seen::Over);
            return;
        }
        let _ = tokio::time::timeout(EVERY.saturating_sub(asked.elapsed()).max(EVERY / 10), wishes.nudge.notified()).await;
    }
}
