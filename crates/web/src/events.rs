//! Events of workers and tasks, heard once for all who look: for the history, for whoever watches.
//!
//! With a history they are heard all the time; without one, while somebody watches. Workers send
//! heartbeats always, and events of tasks only when they are asked to (`enable_events`): all are
//! asked when somebody begins to hear, and each when it comes, while events are wanted. None is
//! ever asked to stop, since nobody knows who else listens.
//!
//! - `events/tail.rs`: the last events; `events/roll.rs`: workers as events show them

mod roll;
mod tail;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use longshore_brokers::Subscription;
use longshore_celery::{
    control::Request,
    events::{self, Event, EventKind, Heartbeat},
};
use longshore_core::CancelToken;
use longshore_worker::{Client, remote::tell};
use tokio::{
    sync::Notify,
    time::{Instant, interval, sleep, timeout},
};

use self::roll::{Roll, RollCall};
pub(crate) use self::tail::{EventFilter, EventTail};
use crate::{
    heard::{HeardEvent, now_ms},
    history::{History, Note},
};

/// Longest message of events that is read, in bytes.
const LONGEST: usize = 4 << 20;
/// Time between two looks at who is silent.
const LOOK: Duration = Duration::from_secs(1);
/// The same where workers begin, at the least.
const CALL_EVERY: Duration = Duration::from_millis(200);
/// Time that a request may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time after a look at events for which they are still wanted.
const WATCHED: Duration = Duration::from_secs(30);
/// Most messages that are taken together.
const TOGETHER: usize = 64;

/// Hears events.
pub(crate) struct EventFeed {
    pub(crate) tail: EventTail,
    pub(crate) history: Option<Arc<History>>,
    client: Client,
    options: FeedOptions,
    state: Mutex<FeedState>,
    nudge: Notify,
    left_out: AtomicU64,
}

/// Way in which events are heard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FeedOptions {
    /// Arguments and results are not kept.
    pub(crate) hide_args: bool,
    /// Workers are not asked to send events of tasks.
    pub(crate) leaves_workers: bool,
}

#[derive(Default)]
struct FeedState {
    roll: Roll,
    watched: Option<Instant>,
    trouble: Option<String>,
}

impl EventFeed {
    /// Returns whether arguments and results are neither shown nor kept.
    pub(crate) fn hides_args(&self) -> bool {
        self.options.hide_args
    }

    /// Begins to hear; ends when `stop` says so, and the history with it.
    pub(crate) fn start(
        client: Client,
        history: Option<Arc<History>>,
        options: FeedOptions,
        stop: CancelToken,
    ) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let own = Arc::new(Self {
            tail: EventTail::default(),
            history,
            client,
            options,
            state: Mutex::default(),
            nudge: Notify::new(),
            left_out: AtomicU64::new(0),
        });
        let feed = own.clone();
        let ends = tokio::spawn(async move {
            tokio::select! {
                () = feed.hear() => {}
                () = stop.cancelled() => {}
            }
            if let Some(history) = &feed.history {
                history.close().await;
            }
        });
        (own, ends)
    }

    fn state<T>(&self, change: impl FnOnce(&mut FeedState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that somebody watches now.
    pub(crate) fn watch(&self) {
        self.state(|state| state.watched = Some(Instant::now()));
        self.nudge.notify_one();
    }

    fn is_wanted(&self) -> bool {
        self.history.is_some() || self.state(|state| state.watched).is_some_and(|at| at.elapsed() < WATCHED)
    }

    /// Returns whether workers are asked for events of their tasks.
    pub(crate) fn enables(&self) -> bool {
        !self.options.leaves_workers
    }

    /// Returns how many events were left out since the start, wherever that was.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed) + self.history.as_ref().map_or(0, |history| history.left_out())
    }

    /// Returns what somebody should know: of the history, of events that are missing.
    pub(crate) fn notices(&self) -> Vec<String> {
        let mut notices = self.history.as_ref().map(|history| history.troubles()).unwrap_or_default();
        let (trouble, mute) = self.state(|state| (state.trouble.clone(), state.roll.mute()));
        notices.extend(trouble.filter(|_| self.is_wanted()).map(|why| format!("events are not heard: {why}")));
        let left_out = self.left_out();
        if left_out > 0 {
            notices.push(format!("{left_out} events were left out since this page was started: there are gaps in what it remembers"));
        }
        match mute.as_slice() {
            [] => {}
            [one] => notices.push(format!("worker {one} ends tasks and sends no events of them{}", self.advice())),
            [one, rest @ ..] => {
                notices.push(format!("{one} and {} more workers end tasks and send no events of them{}", rest.len(), self.advice()))
            }
        }
        notices
    }

    /// Returns what to do about a worker that sends no events.
    fn advice(&self) -> &'static str {
        if self.enables() {
            ": start it with -E, or let it hear remote control"
        } else {
            ": start it with -E, or this page without --no-enable-events"
        }
    }

    async fn hear(&self) {
        loop {
            while !self.is_wanted() {
                self.nudge.notified().await;
            }
            let subscribed = match self.client.connected().bus() {
                Ok(bus) => bus.subscribe(events::EXCHANGE, "#").await,
                Err(error) => Err(error),
            };
            match subscribed {
                Ok(subscription) => {
                    self.state(|state| state.trouble = None);
                    self.listen(subscription).await;
                }
                Err(error) => self.state(|state| state.trouble = Some(error.to_string())),
            }
            sleep(LOOK).await;
        }
    }

    /// Takes what comes, until the connection has ended or nobody wants it any more.
    async fn listen(&self, mut subscription: Subscription) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut raw, mut left_out, mut called) = (Vec::with_capacity(TOGETHER), 0, Instant::now());
        if self.enables() {
            // Nobody need be known for it. Who does not hear it now is asked when it comes.
            let _ = timeout(PATIENCE, tell(self.client.connected(), Request::new("enable_events"))).await;
        }
        loop {
            tokio::select! {
                count = subscription.messages.recv_many(&mut raw, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    let mut has_new = false;
                    raw.drain(..).for_each(|(_, raw)| has_new |= self.take(&raw));
                    self.tail.tell();
                    // A worker that begins is asked at once: what it does meanwhile nobody tells.
                    if has_new && called.elapsed() >= CALL_EVERY {
                        self.call_roll().await;
                        called = Instant::now();
                    }
                }
                _ = looks.tick() => {
                    let count = subscription.left_out.count();
                    self.leave_out(count - left_out);
                    left_out = count;
                    if !self.is_wanted() {
                        return;
                    }
                    self.call_roll().await;
                }
            }
        }
    }

    /// Counts messages with events that never came, or could not be read.
    fn leave_out(&self, events: u64) {
        match &self.history {
            Some(history) => history.leave_out(events),
            None => drop(self.left_out.fetch_add(events, Ordering::Relaxed)),
        }
    }

    /// Takes the events of a message. Returns whether a worker has begun.
    fn take(&self, raw: &[u8]) -> bool {
        match events::decode(raw, LONGEST) {
            Ok(events) => {
                events.iter().for_each(|event| self.take_one(event));
                events.iter().any(|event| matches!(event.what, EventKind::WorkerOnline(_)))
            }
            Err(_) => {
                self.leave_out(1);
                false
            }
        }
    }

    fn take_one(&self, event: &Event) {
        let (now, heard) = (std::time::Instant::now(), now_ms());
        let node = || longshore_ops::cut(&event.hostname, 256);
        match &event.what {
            EventKind::WorkerHeartbeat(beat) | EventKind::WorkerOnline(beat) => {
                let Heartbeat { freq, processed, active, .. } = beat;
                self.state(|state| state.roll.beat(&node(), event.pid, *freq, *processed, now));
                let active = active.map(|active| active.clamp(0, 1 << 40));
                if let Some(history) = &self.history {
                    history.note(Note::Beat { node: node(), pid: event.pid, active, heard });
                }
                if matches!(event.what, EventKind::WorkerHeartbeat(_)) {
                    return;
                }
            }
            EventKind::WorkerOffline(_) => {
                self.state(|state| state.roll.leave(&node()));
                if let Some(history) = &self.history {
                    history.note(Note::Gone { node: node(), said: true, heard });
                }
            }
            what if what.is_task() => self.state(|state| state.roll.task(&event.hostname, now)),
            _ => {}
        }
        let kept = self.tail.take(HeardEvent::of(event, self.options.hide_args));
        if event.what.is_task()
            && let Some(history) = &self.history
        {
            history.note(Note::Task(kept));
        }
    }

    /// Asks those that are silent, notes those that are gone, and asks new ones for events.
    async fn call_roll(&self) {
        let now = std::time::Instant::now();
        let holders = self.history.as_ref().map(|history| history.take_holders()).unwrap_or_default();
        let call = self.state(|state| {
            holders.iter().for_each(|node| state.roll.expect(node, now));
            state.roll.call(self.enables(), now)
        });
        for node in &call.gone {
            if let Some(history) = &self.history {
                history.note(Note::Gone { node: node.clone(), said: false, heard: now_ms() });
            }
        }
        let RollCall { ask, enable, .. } = &call;
        for (method, nodes) in [("heartbeat", ask), ("enable_events", enable)] {
            if nodes.is_empty() {
                continue;
            }
            let request = Request::new(method).to(nodes.iter().cloned());
            let is_sent = matches!(timeout(PATIENCE, tell(self.client.connected(), request)).await, Ok(Ok(())));
            if !is_sent {
                self.state(|state| state.roll.not_asked(&call, std::time::Instant::now()));
                return;
            }
        }
    }
}
