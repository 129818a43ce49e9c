//! Sends tasks, and waits for their results.

mod bulk;
pub(crate) mod outgoing;

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::Stream;
use longshore_brokers::{Broker, BrokerError, Key, Notice, Outgoing, ResultBackend, Stored};
use longshore_celery::{Exception, Map, Message, ResultTree, Signature as Wire, State, Value, canvas};
use longshore_core::ErrorKind;

pub use bulk::{Refused, SendAll, Sent};

use crate::{
    answer::{Answer, doubt::Doubts},
    app::{App, Settings},
    environment::Environment,
    signature::Signature,
};

/// Sends tasks, and waits for their results. Cheap to clone; clones share their connections.
/// ```
/// use longshore_worker::{Client, Settings, Signature};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let settings = Settings::new("memory://client");
/// let client = Client::connect(&settings)?;
/// let sum: Signature<i64> = Signature::named("tasks.add").arg(&1).arg(&1).returns();
/// let answer = client.send(sum).await?;
/// println!("{} is on its way", answer.id()); // answer.get().await? would wait for the 2
/// # Ok::<(), longshore_worker::ClientError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    broker: Arc<dyn Broker>,
    results: Arc<dyn ResultBackend>,
    /// Queue in which answers would be taken, for result backends that send them.
    oid: String,
    environment: Environment,
    /// Name of the sender, for people.
    origin: String,
    /// Options that tasks have by themselves, where they are known.
    defaults: Box<dyn Fn(&str) -> Option<Map> + Send + Sync>,
    /// Runtime on which it was made, if on one.
    runtime: Option<tokio::runtime::Handle>,
    told: Option<Notice>,
    doubts: Doubts,
}

/// The reason why a task could not be sent, or the error that came back in place of a result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker or the result backend. Of a transient one it is unknown whether the task was
    /// sent.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The signature cannot be sent: an argument that cannot be written, a canvas that makes no
    /// sense. Nothing was sent.
    #[error("{0}")]
    Signature(String),
    /// The task failed, or was revoked.
    #[error("{0}")]
    Remote(Box<RemoteError>),
    /// There is no result yet. The task may run all the same.
    #[error("no result of task {id} after {waited:?}; it may still be waiting or running")]
    TimedOut {
        /// The task (or the group).
        id: String,
        /// Time that was waited.
        waited: std::time::Duration,
    },
    /// The stored document is no result, or not of the type that is wanted.
    #[error("the result of task {id} cannot be read: {reason}")]
    Unreadable {
        /// The task.
        id: String,
        /// Why.
        reason: String,
    },
}

/// End of a task that gave no result.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteError {
    /// The task.
    pub id: String,
    /// `FAILURE` or `REVOKED`.
    pub state: State,
    /// Its exception: type, module and arguments.
    pub exception: Exception,
    /// Traceback, as its worker tells it.
    pub traceback: Option<String>,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.state == State::Revoked { "was revoked" } else { "failed" };
        write!(f, "task {} {how}: {}", self.id, self.exception)
    }
}

impl ClientError {
    /// The exception of a task that failed or was revoked.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Remote(remote) => Some(&remote.exception),
            _ => None,
        }
    }
}

impl Client {
    /// A client with these settings. A server is connected to when it is first needed, and waited
    /// for as its URL says; a file is opened now.
    ///
    /// # Errors
    /// A URL is wrong or names what is not built in, or a file cannot be opened.
    pub fn connect(settings: &Settings) -> Result<Self, ClientError> {
        Self::of(&App::new().with_settings(settings.clone()))
    }

    /// A client for an app's tasks.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn of(app: &App) -> Result<Self, ClientError> {
        let told = app.told.clone().unwrap_or_else(|| Arc::new(|_: &longshore_brokers::News| {}));
        let (broker, results) = longshore_brokers::connect_with(&app.settings.broker, app.settings.results.as_deref(), told)?;
        Ok(Self::over(app, broker, results))
    }

    /// A client for an app's tasks, over connections that are there already.
    pub fn over(app: &App, broker: Arc<dyn Broker>, results: Arc<dyn ResultBackend>) -> Self {
        let defaults: HashMap<Arc<str>, Map> = app.tasks.values().map(|task| (task.name.clone(), task.policy.options())).collect();
        let origin = format!("gen{}@{}", std::process::id(), outgoing::hostname());
        Self {
            inner: Arc::new(Inner {
                settings: app.settings.clone(),
                broker,
                results,
                oid: (app.environment.id)(),
                environment: app.environment,
                origin,
                defaults: Box::new(move |task| defaults.get(task).cloned()),
                runtime: tokio::runtime::Handle::try_current().ok(),
                told: app.told.clone(),
                doubts: Doubts::default(),
            }),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Returns the broker, where tasks wait.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    /// Returns the result backend, where results are stored.
    pub fn results(&self) -> &Arc<dyn ResultBackend> {
        &self.inner.results
    }

    /// Sends a task, or a whole canvas. When this resolves the broker has it.
    ///
    /// Dropping the future leaves open whether it was sent.
    ///
    /// # Errors
    /// It cannot be written, or the broker cannot be reached or refuses it.
    pub async fn send<R>(&self, signature: Signature<R>) -> Result<Answer<R>, ClientError> {
        let wire = signature.into_wire().map_err(ClientError::Signature)?;
        let plan = self.plan(&wire, None)?;
        let tree = place(&plan)?;
        let queue = self.publish(plan).await?;
        Ok(Answer::new(self.clone(), tree).sent_to(queue))
    }

    /// Sends many, in order, in batches of up to 128: one is on its way to the broker while the
    /// next is taken from the stream, and no more. An iterator becomes a stream with
    /// `futures_util::stream::iter`. Nothing happens until the answers are asked for.
    pub fn send_all<R, S: Stream<Item = Signature<R>> + Unpin>(&self, signatures: S) -> SendAll<S, R> {
        SendAll::new(self.clone(), signatures)
    }

    /// The runtime on which it was made.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.inner.runtime.as_ref()
    }

    /// Returns where it reads the time.
    pub(crate) fn environment(&self) -> Environment {
        self.inner.environment
    }

    /// Returns who is told, for people, what happens.
    pub(crate) fn told(&self) -> Option<&Notice> {
        self.inner.told.as_ref()
    }

    pub(crate) fn doubts(&self) -> &Doubts {
        &self.inner.doubts
    }

    /// The result of a task that was sent by anybody. Whether there is such a task is unknown until
    /// there is something of it.
    pub fn result(&self, id: impl Into<String>) -> Answer<Value> {
        Answer::new(self.clone(), ResultTree::task(id))
    }

    /// A group that was [saved](Answer::save); `None` if there is none (any more).
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no group.
    pub async fn restore<R>(&self, group: &str) -> Result<Option<Answer<Vec<R>>>, ClientError> {
        let documents = self.inner.results.get(&[Key::Group(group.to_owned())]).await?;
        let Some(document) = documents.into_iter().next().flatten() else { return Ok(None) };
        let saved = longshore_celery::GroupResult::decode(&document, crate::answer::LONGEST)
            .map_err(|error| ClientError::Unreadable { id: group.to_owned(), reason: error.to_string() })?;
        Ok(Some(Answer::new(self.clone(), saved.tree)))
    }

    /// Plans what is to be sent, as the task of this message or as nobody's.
    pub(crate) fn plan(&self, signature: &Wire, parent: Option<&Message>) -> Result<canvas::Plan, ClientError> {
        // A link is sent by whoever runs its task, when it is too late to say it to the sender.
        if let Some(message) = canvas::refused_part(signature, &|queue| self.inner.broker.refused_queue(queue)) {
            return Err(BrokerError { kind: ErrorKind::Refused, message }.into());
        }
        canvas::apply(signature, &[], &self.canvas(parent), &mut || (self.inner.environment.id)())
            .map_err(|error| ClientError::Signature(error.to_string()))
    }

    /// Returns the sender, for a canvas.
    pub(crate) fn canvas<'a>(&'a self, parent: Option<&'a Message>) -> canvas::Context<'a> {
        canvas::Context {
            oid: &self.inner.oid,
            origin: &self.inner.origin,
            now: self.inner.environment.wall(),
            parent: parent.map(canvas::Parent::of),
            defaults: &*self.inner.defaults,
        }
    }

    /// Sends what is planned, chords begun first. The queue of the first.
    pub(crate) async fn publish(&self, plan: canvas::Plan) -> Result<Option<Arc<str>>, BrokerError> {
        if let Some(group) = &plan.grown {
            self.inner.results.chord_grow(group).await?;
        }
        for start in &plan.starts {
            self.start(start).await?;
        }
        let mut batch: Vec<Outgoing> = Vec::with_capacity(plan.sends.len());
        let mut queue = None;
        for send in plan.sends {
            if !send.before.is_empty() {
                // What was planned before it goes before it.
                self.put(&batch).await?;
                batch.clear();
                for start in &send.before {
                    self.start(start).await?;
                }
            }
            let outgoing = self.outgoing(send);
            queue.get_or_insert_with(|| outgoing.queue.clone());
            batch.push(outgoing);
        }
        self.put(&batch).await.map(|()| queue)
    }

    /// Makes of a planned message what the broker takes.
    fn outgoing(&self, send: canvas::PlannedSend) -> Outgoing {
        outgoing::of(&self.inner.settings, send.message, &send.routing)
    }

    /// All or none.
    async fn put(&self, batch: &[Outgoing]) -> Result<(), BrokerError> {
        if batch.is_empty() { Ok(()) } else { self.inner.broker.publish(batch).await }
    }

    async fn start(&self, start: &canvas::ChordStart) -> Result<(), BrokerError> {
        let expires = self.inner.settings.result_expires.unwrap_or(Settings::DAY);
        if let Some(saved) = &start.saved {
            self.save(&start.group, saved.encode()).await?;
        }
        self.inner.results.chord_start(&start.group, start.size, expires).await
    }

    /// Stores the document of a group.
    pub(crate) async fn save(&self, group: &str, doc: Vec<u8>) -> Result<(), BrokerError> {
        let expires = self.inner.settings.result_expires;
        self.inner.results.store(&[Stored { key: Key::Group(group.to_owned()), doc, expires, keep_success: false }]).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("broker", &self.inner.broker.url())
            .field("results", &self.inner.results.url())
            .finish_non_exhaustive()
    }
}

/// Returns where the result of a plan will stand.
pub(crate) fn place(plan: &canvas::Plan) -> Result<ResultTree, ClientError> {
    plan.result.clone().ok_or_else(|| ClientError::Signature("an empty chain or group: there is nothing to send".to_owned()))
}
