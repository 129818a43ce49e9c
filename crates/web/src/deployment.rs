//! What all pages of a broker and its workers share: one reader, however many look.
//!
//! While somebody looks, the reader puts together once a second what heartbeats say, and asks the
//! broker for a few commands a second. While nobody does, it listens, and where there is a history
//! it looks once a minute how much waits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use longshore_brokers::mask;
use longshore_core::CancelToken;
use longshore_ops::{
    limits::{self, LimitInfo, LimitsRequest},
    overview::{Overview, OverviewReader},
};
use longshore_worker::Client;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{
    error::WebError,
    events::EventFeed,
    heard::now_ms,
    history::{History, Note, QueueLevel, QueueLevels, levels},
};

/// Commands a second that a look at queues may cost the broker.
const COMMANDS: f64 = 6.0;
/// Time after a question for which the reader goes on looking.
const WATCHED: Duration = Duration::from_secs(5);
/// Time between two turns of the reader.
const EVERY: Duration = Duration::from_secs(1);
/// Age from which a look is too old to be shown.
const OLD: Duration = Duration::from_secs(4);
/// Time between two looks at queues that a history asks for while nobody looks; so much more for
/// each queue.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);
const REMEMBER_EACH: Duration = Duration::from_secs(2);
/// Time for which a page waits for a look.
const PATIENCE: Duration = Duration::from_secs(7);

/// Time for the broker to answer whoever asks whether it is there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Time between two looks at shared limits for scrapes, and so many times as long as the answer
/// took: a broker may have to go through all that it holds.
const LIMITS_EVERY: Duration = Duration::from_secs(5);
const LIMITS_TIMES: u32 = 100;

/// A broker with its workers.
pub(crate) struct Deployment {
    pub(crate) client: Client,
    /// When it was last asked whether it is there, and why it was not.
    pinged: tokio::sync::Mutex<Option<(Instant, Option<String>)>>,
    /// Shared limits, as scrapes are told of them.
    limits: tokio::sync::Mutex<Option<LimitsLook>>,
    /// Limits and rates that a configuration says.
    pub(crate) known: LimitsRequest,
    /// Events of its workers and tasks.
    pub(crate) feed: Arc<EventFeed>,
    /// Lengths of its queues.
    pub(crate) levels: Arc<QueueLevels>,
    looked: watch::Receiver<Look>,
    wanted: Arc<Wanted>,
}

/// Wishes of those who look, for the reader.
struct Wanted {
    times: Mutex<WantedTimes>,
    nudge: Notify,
}

#[derive(Clone, Copy)]
struct WantedTimes {
    /// Last time that somebody looked.
    asked: Instant,
    /// Nothing that was seen before this may be shown: something was changed then.
    not_before: Instant,
    /// Last time that a reader wished for a new look.
    nudged: Option<Instant>,
}

impl Wanted {
    fn times(&self) -> WantedTimes {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut WantedTimes)) -> WantedTimes {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut times);
        let now = *times;
        drop(times);
        self.nudge.notify_one();
        now
    }
}

/// Sight of the reader: the latest overview, or why there is none.
#[derive(Clone, Debug, Default)]
struct Look {
    overview: Option<(Arc<Overview>, Instant)>,
    /// Queues alone, at the very start: workers have not replied yet.
    queues: Option<(Arc<Overview>, Instant)>,
    /// Reason that there is nothing newer.
    trouble: Option<(String, Instant)>,
}

/// Overview of a deployment.
pub(crate) struct Glance {
    pub(crate) overview: Arc<Overview>,
    /// It is of the queues alone: workers have not replied yet.
    pub(crate) begins: bool,
}

/// Sight of the shared limits.
struct LimitsLook {
    limits: Vec<LimitInfo>,
    at: Instant,
    /// When they may be looked at again.
    next: Instant,
}

impl Deployment {
    /// Begins to read; ends when `stop` says so.
    pub(crate) fn start(client: Client, feed: Arc<EventFeed>, known: LimitsRequest, stop: CancelToken) -> Arc<Self> {
        let (tell, looked) = watch::channel(Look::default());
        let now = Instant::now();
        let times = WantedTimes { asked: now, not_before: now, nudged: None };
        let wanted = Arc::new(Wanted { times: Mutex::new(times), nudge: Notify::new() });
        let levels = Arc::<QueueLevels>::default();
        let keeps = LevelKeeping { levels: levels.clone(), history: feed.history.clone(), next: now };
        let reader = read(OverviewReader::new(client.clone()).sparing(COMMANDS), tell, wanted.clone(), keeps);
        tokio::spawn(async move {
            tokio::select! {
                () = reader => {}
                () = stop.cancelled() => {}
            }
        });
        let (pinged, limits) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { client, pinged, limits, known, feed, levels, looked, wanted })
    }

    /// Returns why the broker cannot be reached, if it cannot. It is asked once a second, however
    /// many want to know; that is no look, and nothing else is read for it.
    pub(crate) async fn trouble(&self) -> Option<String> {
        let mut pinged = self.pinged.lock().await;
        if let Some((at, trouble)) = &*pinged
            && at.elapsed() < EVERY
        {
            return trouble.clone();
        }
        let trouble = match timeout(ANSWERS_WITHIN, self.client.broker().ping()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.message),
            Err(_) => Some(format!("{}: no answer within {ANSWERS_WITHIN:?}", mask(self.client.broker().url()))),
        };
        *pinged = Some((Instant::now(), trouble.clone()));
        trouble
    }

    /// Returns the shared limits for a scrape, as they are or were at most some seconds ago; those
    /// of the last look where the broker does not answer. However many scrape, the broker spends
    /// little of its time on it.
    pub(crate) async fn limits(&self) -> Vec<LimitInfo> {
        let mut seen = self.limits.lock().await;
        let not_before = self.wanted.times().not_before;
        let is_due = seen.as_ref().is_none_or(|look| look.next <= Instant::now() || look.at < not_before);
        if is_due {
            let asked = Instant::now();
            let found = timeout(ANSWERS_WITHIN, limits::shared(&self.client)).await;
            let at = Instant::now();
            let next = at + LIMITS_EVERY.max(asked.elapsed() * LIMITS_TIMES);
            match (found, &mut *seen) {
                (Ok(Ok(limits)), _) => *seen = Some(LimitsLook { limits, at, next }),
                (_, Some(look)) => look.next = next,
                (_, none) => *none = Some(LimitsLook { limits: Vec::new(), at, next }),
            }
        }
        let Some(look) = &*seen else { return Vec::new() };
        let mut limits = look.limits.clone();
        // What lay ahead comes nearer by itself.
        limits.iter_mut().for_each(|limit| limit.ahead = limit.ahead.saturating_sub(look.at.elapsed()));
        limits
    }

    /// Says that something was changed: what was seen before is not shown any more.
    pub(crate) fn changed(&self) {
        self.wanted.set(|times| times.not_before = Instant::now());
    }

    /// Asks for a new look, once a second however many readers wish for one. Whoever has changed
    /// something says [`changed`](Self::changed).
    pub(crate) fn nudge(&self) {
        let now = Instant::now();
        self.wanted.set(|times| {
            if times.nudged.is_none_or(|nudged| now >= nudged + EVERY) {
                (times.nudged, times.not_before) = (Some(now), now);
            }
        });
    }

    /// Returns what all looks like now, or how it looked a few seconds ago.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses, and there is nothing new to be shown.
    pub(crate) async fn look(&self) -> Result<Arc<Overview>, WebError> {
        Ok(self.seen(false).await?.overview)
    }

    /// Returns the same. At the very start, the queues alone: nobody waits for workers then.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub(crate) async fn glance(&self) -> Result<Glance, WebError> {
        self.seen(true).await
    }

    async fn seen(&self, queues_do: bool) -> Result<Glance, WebError> {
        let now = Instant::now();
        let times = self.wanted.set(|times| times.asked = now);
        let mut looked = self.looked.clone();
        let is_fresh = |at: Instant| at >= times.not_before && at + OLD > now;
        let fresh = |look: &Look| {
            let begins = queues_do && look.queues.as_ref().is_some_and(|(_, at)| is_fresh(*at));
            begins
                || look.overview.as_ref().is_some_and(|(_, at)| is_fresh(*at))
                || look.trouble.as_ref().is_some_and(|(_, at)| is_fresh(*at))
        };
        let unavailable = |why: String| Err(WebError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(EVERY));
        match timeout(PATIENCE, looked.wait_for(fresh)).await {
            Ok(Ok(look)) => match (&look.overview, &look.trouble, &look.queues) {
                (_, Some((trouble, _)), _) => unavailable(trouble.clone()),
                (Some((overview, _)), None, _) => Ok(Glance { overview: overview.clone(), begins: false }),
                (None, None, Some((queues, _))) => Ok(Glance { overview: queues.clone(), begins: true }),
                (None, None, None) => unavailable("nothing is known yet".to_owned()),
            },
            Ok(Err(_)) => unavailable("this server is stopping".to_owned()),
            Err(_) => unavailable(format!("the broker has not answered within {PATIENCE:?}")),
        }
    }
}

/// Those who remember how long queues were.
struct LevelKeeping {
    levels: Arc<QueueLevels>,
    history: Option<Arc<History>>,
    /// When the history is told of each queue again.
    next: Instant,
}

impl LevelKeeping {
    /// Takes in a look.
    fn note(&mut self, overview: &Overview) {
        self.levels.note(&overview.queues, now_ms());
        let Some(history) = &self.history else { return };
        history.note(Note::Waiting(overview.queues.iter().map(|queue| queue.waiting).sum()));
        if self.next <= Instant::now() {
            self.next = Instant::now() + REMEMBER_EVERY;
            let queues = levels::longest(&overview.queues);
            history.note(Note::Levels(queues.into_iter().map(|queue| (queue.name.clone(), QueueLevel::of(queue))).collect()));
        }
    }
}

async fn read(mut reader: OverviewReader, tell: watch::Sender<Look>, wanted: Arc<Wanted>, mut keeps: LevelKeeping) {
    let mut renewed = wanted.times().not_before;
    let mut next = Instant::now();
    let mut remember_at = next;
    let begun = Instant::now();
    let (queues, trouble) = match reader.look_at_queues().await {
        Ok(queues) => {
            queues.iter().for_each(|queues| keeps.levels.note(&queues.queues, now_ms()));
            (queues.map(|queues| (Arc::new(queues), begun)), None)
        }
        Err(error) => (None, Some((error.to_string(), Instant::now()))),
    };
    tell.send_replace(Look { queues, trouble, ..Look::default() });
    loop {
        let times = wanted.times();
        // A history has to know how much waits, also of times at which nobody looked.
        let remembers = keeps.history.is_some() && Instant::now() >= remember_at;
        if times.asked.elapsed() >= WATCHED && !remembers {
            // What it says is seen when somebody looks.
            let _ = reader.keep_up().await;
            let _ = timeout(EVERY, wanted.nudge.notified()).await;
            continue;
        }
        let at = Instant::now();
        if times.not_before > renewed {
            renewed = times.not_before;
            reader.renew();
        } else if at < next {
            let _ = timeout(next - at, wanted.nudge.notified()).await;
            continue;
        }
        next = at + EVERY;
        match reader.look().await {
            Ok(overview) => {
                remember_at = Instant::now() + REMEMBER_EVERY.max(REMEMBER_EACH * u32::try_from(overview.queues.len()).unwrap_or(u32::MAX));
                keeps.note(&overview);
                drop(tell.send_replace(Look { overview: Some((Arc::new(overview), at)), ..Look::default() }));
            }
            Err(error) => {
                let overview = tell.borrow().overview.clone();
                remember_at = Instant::now() + REMEMBER_EVERY;
                tell.send_replace(Look { overview, trouble: Some((error.to_string(), Instant::now())), queues: None });
                // A broker that refuses at once is not asked without a pause.
                tokio::time::sleep(EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_worker::Settings;

    use super::*;
    use crate::events::FeedOptions;

    #[tokio::test(start_paused = true)]
    async fn readers_who_wish_for_news_get_one_new_look_a_second_and_an_action_one_at_once() {
        let (client, stop) = (Client::connect(&Settings::new("memory://nudged")).unwrap(), CancelToken::new());
        let (feed, _) = EventFeed::start(client.clone(), None, FeedOptions::default(), stop.clone());
        let deployment = Deployment::start(client, feed, LimitsRequest::default(), stop);
        deployment.look().await.unwrap();
        let at = || deployment.wanted.times().not_before;
        let before = at();
        tokio::time::advance(Duration::from_millis(300)).await;
        deployment.nudge();
        let first = at();
        assert!(first > before);
        for _ in 0..20 {
            tokio::time::advance(Duration::from_millis(30)).await;
            deployment.nudge();
            assert_eq!(at(), first);
        }
        deployment.changed();
        assert!(at() > first);
        tokio::time::advance(EVERY).await;
        deployment.nudge();
        assert_eq!(at(), Instant::now());
    }
}
