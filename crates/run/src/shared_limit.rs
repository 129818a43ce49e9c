//! A limit of the configuration that is shared with other processes: its bucket is in the broker,
//! and each attempt gets a slot of it before it starts.
//!
//! An attempt that waits for its slot has one of the run's slots already; its timeout begins when
//! it starts. What waits when the run is stopped ends as cancelled, and its slots of the bucket
//! pass unused.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use longshore_brokers::{BUCKET, SharedState, Slot, connect};
use longshore_core::{
    Attempt, CancelToken, ErrorKind, Outcome, Rate, Stop, TaskError,
    lane::{Lane, Outbox},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    call::Call,
    error::{RunError, RunErrorKind},
    event::{RunEvent, Tell},
    reply::Reply,
    template::{Expr, Vars},
    what::What,
};

/// A broker that is away is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// A limit whose bucket is in a broker.
pub(crate) struct SharedLimit {
    /// Its name.
    pub name: String,
    /// The rate, unless another one was set for all.
    pub rate: Rate,
    /// One bucket for each value of it.
    pub by: Option<Expr>,
    /// The broker's URL.
    pub broker: String,
    /// The result backend's URL.
    pub results: Option<String>,
    /// The expression may ask for the request's host.
    pub host: bool,
}

impl SharedLimit {
    /// Connects to the broker.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    pub(crate) async fn connect(self, what: Arc<What>, outbox: Outbox<Call, Reply>, tell: Tell) -> Result<Pacer, RunError> {
        let away = |error: longshore_brokers::BrokerError| {
            RunError::new(RunErrorKind::Unreachable, format!("limit {}: {}", self.name, error.message))
        };
        let connected = connect(&self.broker, self.results.as_deref()).map_err(away)?;
        connected.broker.ping().await.map_err(away)?;
        let shared = connected.shared().map_err(away)?.clone();
        Ok(Pacer(Arc::new(Inner { limit: self, shared, what, outbox, stop: CancelToken::new(), told: AtomicBool::new(false), tell })))
    }
}

/// Gives attempts their slots, for all lanes of a run.
#[derive(Clone)]
pub(crate) struct Pacer(Arc<Inner>);

impl Pacer {
    /// The lane, behind the limit.
    pub(crate) fn before(&self, lane: Arc<dyn Lane<Call, Reply>>) -> Paced {
        Paced { pacer: self.clone(), lane, runtime: tokio::runtime::Handle::current() }
    }
}

struct Inner {
    limit: SharedLimit,
    shared: Arc<dyn SharedState>,
    what: Arc<What>,
    outbox: Outbox<Call, Reply>,
    stop: CancelToken,
    /// It was said that the broker is away.
    told: AtomicBool,
    tell: Tell,
}

/// A lane behind a shared limit.
pub(crate) struct Paced {
    pacer: Pacer,
    lane: Arc<dyn Lane<Call, Reply>>,
    runtime: tokio::runtime::Handle,
}

impl Lane<Call, Reply> for Paced {
    fn start(&self, batch: &mut Vec<Attempt<Call>>) {
        let mut buckets: BTreeMap<String, Vec<Attempt<Call>>> = BTreeMap::new();
        let mut bad = Vec::new();
        for attempt in batch.drain(..) {
            match self.pacer.0.bucket(&attempt) {
                Ok(bucket) => buckets.entry(bucket).or_default().push(attempt),
                Err(error) => bad.push(attempt.unstarted(Outcome::Failed(error))),
            }
        }
        self.pacer.0.outbox.finish(&mut bad);
        for (bucket, attempts) in buckets {
            self.runtime.spawn(self.pacer.0.clone().pace(bucket, attempts, self.lane.clone()));
        }
    }

    fn capacity(&self) -> Option<usize> {
        self.lane.capacity()
    }

    fn stop(&self, how: Stop) {
        self.pacer.0.stop.cancel();
        self.lane.stop(how);
    }
}

impl Inner {
    /// The bucket of an attempt.
    fn bucket(&self, attempt: &Attempt<Call>) -> Result<String, TaskError> {
        let name = &self.limit.name;
        let (Some(by), Some(item)) = (&self.limit.by, attempt.payload.first()) else { return Ok(name.clone()) };
        let host = if self.limit.host { self.what.host(&item.record) } else { None };
        let extra: Vec<(&str, &str)> = host.as_deref().map(|host| ("host", host)).into_iter().collect();
        let value = by.eval_text(&item.record, &Vars { extra: &extra, ..Vars::default() })?;
        Ok(format!("{name}{BUCKET}{value}"))
    }

    /// Starts attempts, each when its slot has come.
    async fn pace(self: Arc<Self>, bucket: String, attempts: Vec<Attempt<Call>>, lane: Arc<dyn Lane<Call, Reply>>) {
        let mut waiting = attempts.into_iter().peekable();
        // Why the rest does not start: an error, or that the run is stopped.
        let error = loop {
            let left = waiting.len();
            if left == 0 {
                return;
            }
            let asked = tokio::select! {
                biased;
                () = self.stop.cancelled() => break None,
                asked = self.shared.reserve(&bucket, self.limit.rate, left) => asked,
            };
            // Waits count from the arrival of the answer: late slows this run alone, early would
            // break the limit for all.
            let begun = Instant::now();
            let slots = match asked {
                Ok(slots) => slots,
                Err(error) if error.kind == ErrorKind::Transient => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        let message = format!("limit {}: {}; waiting for it", self.limit.name, error.message);
                        (self.tell)(&RunEvent::Waiting { message });
                    }
                    sleep(AGAIN).await;
                    continue;
                }
                // Nobody knows whether there is a slot, so nothing starts.
                Err(error) => break Some(TaskError::new("limit", error.message)),
            };
            let mut stopped = false;
            for slot in slots {
                let (wait, is_ours) = match slot {
                    Slot::Reserved(wait) => (wait, true),
                    Slot::Ask(after) => (after, false),
                };
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => stopped = true,
                    () = sleep_until(begun + wait) => {}
                }
                if stopped || !is_ours {
                    break;
                }
                lane.start(&mut waiting.next().into_iter().collect());
            }
            if stopped {
                break None;
            }
        };
        // The engine waits for an end of every attempt that it gave, started or not.
        let again = |attempt: Attempt<Call>| attempt.unstarted(error.clone().map_or(Outcome::Cancelled, Outcome::Failed));
        self.outbox.finish(&mut waiting.map(again).collect());
    }
}
