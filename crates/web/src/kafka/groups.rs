//! One reader of a cluster's groups: it asks while somebody looks, one question at a time, and lets
//! go of its clients when nobody does.
//!
//! Questions block, so they have a thread. A page waits for a few seconds and no longer; the answer
//! that comes later serves the next one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use longshore_brokers::BrokerError;
use longshore_core::ErrorKind;
use longshore_kafka::{Admin, Settings, admin::Group};
use longshore_run::jobs::StateDir;
use tokio::sync::watch;

use super::{
    note,
    seen::{GroupGlance, GroupSeen, GroupsSeen},
};
use crate::error::WebError;

/// Time for which an answer serves all who look.
const FRESH: Duration = Duration::from_secs(2);
/// Time for which a page waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for one question to a broker; a group takes several.
const QUESTION: Duration = Duration::from_secs(4);
/// Time for the lags of a list. Those that were not asked for are asked next time.
const LAGS: Duration = Duration::from_secs(2);
/// Most lags that are asked for each time: each costs a client, unless it was kept.
const MOST_LAGS: usize = 16;
/// Time without a question after which the clients are closed: they ask now and then by themselves.
const IDLE: Duration = Duration::from_secs(30);
/// Most answers that are remembered, and most questions that wait.
const MOST_SEEN: usize = 64;

/// Cluster whose groups a dashboard shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KafkaOptions {
    /// Its address, and settings of the client.
    pub settings: Settings,
    /// The groups; all of them, where none is named.
    pub groups: Vec<String>,
}

impl KafkaOptions {
    /// Shows all groups of this cluster.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, groups: Vec::new() }
    }
}

/// Question to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Groups,
    Group(String),
}

/// Answer to it.
#[derive(Clone)]
enum Answer {
    Groups(Arc<GroupsSeen>),
    Group(Arc<GroupSeen>),
    Refused(WebError),
}

/// Reader of a cluster.
pub(crate) struct KafkaReader {
    ask: SyncSender<Question>,
    asked: Arc<Mutex<HashMap<Question, Asked>>>,
    kafka: String,
}

/// A question that was asked: whether an answer is to come, and the last one.
struct Asked {
    is_pending: bool,
    answer: watch::Sender<Option<(Instant, Answer)>>,
}

impl KafkaReader {
    /// Begins to wait for questions; nothing is asked before the first. Its thread ends with it.
    pub(crate) fn start(options: KafkaOptions, notes: Option<StateDir>) -> Arc<Self> {
        let (ask, questions) = sync_channel(MOST_SEEN);
        let asked = Arc::<Mutex<HashMap<Question, Asked>>>::default();
        let kafka = options.settings.to_string();
        let asker = Asker { kafka: kafka.clone(), options, notes, admin: None, lags: HashMap::new() };
        let answers = asked.clone();
        // Where there is no thread to be had, questions are refused.
        let _ = thread::Builder::new().name("longshore-kafka".to_owned()).spawn(move || asker.run(&questions, &answers));
        Arc::new(Self { ask, asked, kafka })
    }

    /// Returns the cluster's address, without the password.
    pub(crate) fn kafka(&self) -> &str {
        &self.kafka
    }

    /// Returns the groups.
    ///
    /// # Errors
    /// No broker answers, or it refuses.
    pub(crate) async fn groups(&self) -> Result<Arc<GroupsSeen>, WebError> {
        match self.answer(Question::Groups).await {
            Answer::Groups(groups) => Ok(groups),
            Answer::Refused(error) => Err(error),
            Answer::Group(_) => Err(self.unanswered()),
        }
    }

    /// Returns one group.
    ///
    /// # Errors
    /// There is no such group, no broker answers, or it refuses.
    pub(crate) async fn group(&self, group: &str) -> Result<Arc<GroupSeen>, WebError> {
        match self.answer(Question::Group(group.to_owned())).await {
            Answer::Group(seen) if seen.is_unknown() => Err(WebError::not_found(format_args!("group {group} in {}", self.kafka))),
            Answer::Group(seen) => Ok(seen),
            Answer::Refused(error) => Err(error),
            Answer::Groups(_) => Err(self.unanswered()),
        }
    }

    async fn answer(&self, question: Question) -> Answer {
        let since = Instant::now();
        let is_fresh = move |answer: &Option<(Instant, Answer)>| answer.as_ref().is_some_and(|(at, _)| *at + FRESH > since);
        let mut answered = match self.asking(question, is_fresh) {
            Ok(answered) => answered,
            Err(error) => return Answer::Refused(error),
        };
        match tokio::time::timeout(PATIENCE, answered.wait_for(is_fresh)).await {
            Ok(Ok(answer)) => answer.as_ref().map_or_else(|| Answer::Refused(self.unanswered()), |(_, answer)| answer.clone()),
            Ok(Err(_)) | Err(_) => Answer::Refused(self.unanswered()),
        }
    }

    /// Sees to it that a question is asked, unless there is an answer that will do.
    fn asking(
        &self,
        question: Question,
        is_fresh: impl Fn(&Option<(Instant, Answer)>) -> bool,
    ) -> Result<watch::Receiver<Option<(Instant, Answer)>>, WebError> {
        let mut asked = locked(&self.asked);
        if asked.len() >= MOST_SEEN && !asked.contains_key(&question) {
            asked.retain(|_, asked| asked.is_pending || is_fresh(&asked.answer.borrow()));
        }
        if asked.len() >= MOST_SEEN && !asked.contains_key(&question) {
            return Err(unavailable("too many groups are looked at at once".to_owned()));
        }
        let entry = asked.entry(question.clone()).or_insert_with(|| Asked { is_pending: false, answer: watch::Sender::new(None) });
        let answered = entry.answer.subscribe();
        if !entry.is_pending && !is_fresh(&answered.borrow()) {
            match self.ask.try_send(question) {
                Ok(()) => entry.is_pending = true,
                Err(TrySendError::Full(_)) => return Err(unavailable("too much is asked of Kafka at once".to_owned())),
                Err(TrySendError::Disconnected(_)) => {
                    return Err(unavailable("nobody asks Kafka any more: this server had no thread for it".to_owned()));
                }
            }
        }
        Ok(answered)
    }

    fn unanswered(&self) -> WebError {
        unavailable(format!("{} has not answered within {} s", self.kafka, PATIENCE.as_secs()))
    }
}

fn unavailable(why: String) -> WebError {
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(FRESH)
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The side that asks.
struct Asker {
    kafka: String,
    options: KafkaOptions,
    notes: Option<StateDir>,
    /// Made with the first question, and anew after a broker was away: a client remembers what it
    /// complained of.
    admin: Option<Admin>,
    lags: HashMap<String, KnownLag>,
}

/// Lag of a group, as it was asked for last.
struct KnownLag {
    at: Instant,
    lag: Result<(usize, u64), String>,
}

impl Asker {
    /// Answers questions until nobody can ask any more.
    fn run(mut self, questions: &Receiver<Question>, asked: &Mutex<HashMap<Question, Asked>>) {
        loop {
            let question = match questions.recv_timeout(IDLE) {
                Ok(question) => question,
                Err(RecvTimeoutError::Timeout) => {
                    self.admin = None;
                    self.lags.clear();
                    match questions.recv() {
                        Ok(question) => question,
                        Err(_) => return,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let answer = self.answer(&question).unwrap_or_else(|error| {
                if error.kind == ErrorKind::Transient {
                    self.admin = None;
                }
                Answer::Refused(refusal(&error))
            });
            if let Some(asked) = locked(asked).get_mut(&question) {
                asked.is_pending = false;
                asked.answer.send_replace(Some((Instant::now(), answer)));
            }
        }
    }

    fn admin(&mut self) -> Result<&Admin, BrokerError> {
        match &mut self.admin {
            Some(admin) => Ok(admin),
            none => Ok(none.insert(Admin::open(&self.options.settings, QUESTION)?)),
        }
    }

    fn answer(&mut self, question: &Question) -> Result<Answer, BrokerError> {
        match question {
            Question::Groups => self.groups().map(|groups| Answer::Groups(Arc::new(groups))),
            Question::Group(group) => {
                let detail = self.admin()?.group(group, &[])?;
                let notes = self.notes.as_ref().map(note::read).unwrap_or_default();
                let seen = GroupSeen::of(&self.kafka, detail, &notes);
                self.lags.insert(group.clone(), KnownLag { at: Instant::now(), lag: Ok((seen.partitions.len(), seen.lag)) });
                Ok(Answer::Group(Arc::new(seen)))
            }
        }
    }

    fn groups(&mut self) -> Result<GroupsSeen, BrokerError> {
        let named = self.options.groups.clone();
        let mut groups = self.admin()?.groups()?;
        if !named.is_empty() {
            groups.retain(|group| named.contains(&group.name));
            let missing = named.into_iter().filter(|name| !groups.iter().any(|group| group.name == *name)).collect::<Vec<_>>();
            groups.extend(missing.into_iter().map(|name| Group { name, state: "Dead".to_owned(), members: 0 }));
        }
        self.lags.retain(|name, _| groups.iter().any(|group| group.name == *name));
        self.ask_lags(&groups)?;
        let glance = |group: Group| {
            let known = self.lags.get(&group.name);
            let mut glance = GroupGlance::of(group);
            glance.lag_seconds_ago = known.map(|known| known.at.elapsed().as_secs_f64());
            match known.map(|known| &known.lag) {
                Some(Ok((partitions, lag))) => (glance.partitions, glance.lag) = (Some(*partitions), Some(*lag)),
                Some(Err(why)) => glance.trouble = Some(why.clone()),
                None => {}
            }
            glance
        };
        Ok(GroupsSeen { kafka: self.kafka.clone(), groups: groups.into_iter().map(glance).collect() })
    }

    /// Asks for the lags that are oldest, as far as there is time.
    fn ask_lags(&mut self, groups: &[Group]) -> Result<(), BrokerError> {
        let until = Instant::now() + LAGS;
        let mut names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        names.sort_by_key(|name| self.lags.get(*name).map(|known| known.at));
        for name in names.into_iter().take(MOST_LAGS) {
            if Instant::now() >= until {
                break;
            }
            let lag = match self.admin()?.lag(name, &[]) {
                Ok(lags) => Ok((lags.len(), lags.iter().map(longshore_kafka::admin::Lag::records).sum())),
                Err(error) if error.kind == ErrorKind::Transient => return Err(error),
                // A group that we may not look at keeps nobody from seeing the others.
                Err(error) => Err(error.message),
            };
            self.lags.insert(name.to_owned(), KnownLag { at: Instant::now(), lag });
        }
        Ok(())
    }
}

fn refusal(error: &BrokerError) -> WebError {
    match error.kind {
        ErrorKind::Transient => unavailable(error.message.clone()),
        _ => WebError::new(StatusCode::BAD_GATEWAY, error.message.clone()),
    }
}
