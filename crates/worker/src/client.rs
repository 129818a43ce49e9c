//! Sends tasks, and waits for their results.

mod bulk;
mod prepared;
mod sent_event;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use futures_util::Stream;
use longshore_brokers::{Broker, BrokerError, Connected, Key, Notice, Outgoing, ResultBackend};
use longshore_celery::{Map, Message, ResultTree, TraceContext, Value, WireSignature, canvas, events::Clock};
use longshore_core::ErrorKind;

pub use bulk::{Refused, SendAll, Sent};
pub use prepared::PreparedTask;

use crate::{
    answer::Answer,
    connections::{Connections, declare, unserved::UnservedQueues},
    environment::Environment,
    error::ClientError,
    outgoing,
    settings::Settings,
    signature::Signature,
    spans::{SendSpans, SpanMaker, Spans},
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
    inner: Arc<ClientInner>,
    /// The trace that what it sends belongs to.
    trace: Option<Arc<TraceContext>>,
    /// Maker of its spans, where some are made.
    maker: Option<Arc<SpanMaker>>,
}

struct ClientInner {
    connections: Arc<Connections>,
    sender: Sender,
    /// Logical time of the events that it tells.
    clock: Mutex<Clock>,
    /// Runtime on which it was made, if on one.
    runtime: Option<tokio::runtime::Handle>,
}

/// The sender as messages name it, and the options of its tasks.
struct Sender {
    /// Queue in which answers are taken, for result backends that send them.
    oid: String,
    /// Name of the sender, for people.
    origin: String,
    /// Options that tasks have by themselves, where they are known.
    defaults: Box<dyn Fn(&str) -> Option<Map> + Send + Sync>,
}

/// An app's share in its client.
pub(crate) struct ClientParts {
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    /// Listener who is told, for people, what happens.
    pub(crate) told: Option<Notice>,
    /// Options of the app's tasks, by their names.
    pub(crate) defaults: HashMap<Arc<str>, Map>,
    /// Where spans go.
    pub(crate) spans: Option<Spans>,
}

impl Client {
    /// Makes a client that connects as its settings say.
    pub(crate) fn open(parts: ClientParts) -> Result<Self, ClientError> {
        let told = parts.told.clone().unwrap_or_else(|| Arc::new(|_: &longshore_brokers::News| {}));
        let connected = longshore_brokers::connect_with(&parts.settings.broker, parts.settings.results.as_deref(), told)?;
        // A worker says what of it the broker leaves out.
        declare(&parts.settings, &connected)?;
        Ok(Self::new(parts, connected))
    }

    /// Makes a client over connections that are there already.
    pub(crate) fn new(parts: ClientParts, connected: Connected) -> Self {
        let ClientParts { settings, environment, told, defaults, spans } = parts;
        let sender = Sender {
            oid: connected.results.reply_queue().map_or_else(|| (environment.id)(), str::to_owned),
            origin: format!("gen{}@{}", std::process::id(), outgoing::hostname()),
            defaults: Box::new(move |task| defaults.get(task).cloned()),
        };
        let broker = Arc::from(connected.broker.url());
        let maker = spans.map(|spans| Arc::new(SpanMaker { spans, broker, node: None }));
        let connections = Connections { settings, connected, environment, told, unserved: UnservedQueues::default() };
        let runtime = tokio::runtime::Handle::try_current().ok();
        Self {
            inner: Arc::new(ClientInner { connections: Arc::new(connections), sender, clock: Mutex::default(), runtime }),
            trace: None,
            maker,
        }
    }

    /// Returns this client within a trace: what it sends carries `traceparent` and `tracestate`
    /// among its headers, with all that is sent because of it.
    ///
    /// ```
    /// # use longshore_worker::{Client, Settings, TraceContext};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let client = Client::connect(&Settings::new("memory://traced"))?;
    /// let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None);
    /// let client = client.in_trace(trace);
    /// # Ok::<(), longshore_worker::ClientError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn in_trace(&self, trace: Option<TraceContext>) -> Self {
        Self { trace: trace.map(Arc::new), ..self.clone() }
    }

    /// Returns this client as that of a worker, whose spans name it.
    pub(crate) fn of_node(mut self, node: &Arc<str>) -> Self {
        if let Some(maker) = &mut self.maker {
            Arc::make_mut(maker).node = Some(node.clone());
        }
        self
    }

    /// Returns who makes its spans, where some are made.
    pub(crate) fn maker(&self) -> Option<&SpanMaker> {
        self.maker.as_deref()
    }

    /// Returns the answer that will stand here.
    pub(crate) fn answer<R>(&self, tree: ResultTree) -> Answer<R> {
        Answer::new(self.inner.connections.clone(), tree)
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.connections.settings
    }

    /// Returns its broker and result backend, with the other halves of both: the bus, the view into
    /// queues, dead letters, what is shared.
    pub fn connected(&self) -> &Connected {
        &self.inner.connections.connected
    }

    /// Returns the broker, where tasks wait.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.connections.connected.broker
    }

    /// Returns the result backend, where results are stored.
    pub fn results(&self) -> &Arc<dyn ResultBackend> {
        &self.inner.connections.connected.results
    }

    /// Sends a task, or a whole canvas. When this resolves the broker has it.
    ///
    /// # Errors
    /// It cannot be written, or the broker cannot be reached or refuses it.
    ///
    /// # Cancel safety
    /// Not cancel safe: of a dropped future nobody knows whether the task was sent.
    pub async fn send<R>(&self, signature: Signature<R>) -> Result<Answer<R>, ClientError> {
        let wire = signature.into_wire()?;
        let plan = self.plan(&wire, None)?;
        let tree = place(&plan)?;
        let queue = self.publish(plan).await?;
        Ok(self.answer(tree).sent_to(queue))
    }

    /// Sends a message to the queue that its routing key names, as one that a task was sent with
    /// before: it keeps its id, its callbacks and its place in a canvas. One without an id gets
    /// one. When this resolves the broker has it.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses it.
    ///
    /// # Cancel safety
    /// Not cancel safe: of a dropped future nobody knows whether the message was sent.
    pub async fn send_message(&self, mut message: Message) -> Result<Answer<Value>, ClientError> {
        if message.id.is_empty() {
            message.id = (self.environment().id)();
        }
        let tree = ResultTree::task(message.id.as_str());
        let routing = canvas::Routing { queue: Some(message.routing_key.clone()), ..canvas::Routing::default() };
        let mut spans = SendSpans::default();
        let outgoing = outgoing::of(self.settings(), message, &routing, (self.maker(), &mut spans));
        let queue = outgoing.queue.clone();
        self.put(&[outgoing], spans).await?;
        Ok(self.answer(tree).sent_to(Some(queue)))
    }

    /// Sends many, in order, in batches of up to 128: one is on its way to the broker while the
    /// next is taken from the stream, and no more. An iterator becomes a stream with
    /// `futures_util::stream::iter`. Nothing happens until the answers are asked for.
    pub fn send_all<R, S: Stream<Item = Signature<R>> + Unpin>(&self, signatures: S) -> SendAll<S, R> {
        SendAll::new(self.clone(), signatures)
    }

    /// Returns the runtime on which it was made.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.inner.runtime.as_ref()
    }

    /// Returns where it reads the time.
    pub(crate) fn environment(&self) -> Environment {
        self.inner.connections.environment
    }

    /// Returns the answer of a task that anybody has sent. Whether there is such a task is unknown
    /// until there is something of it.
    pub fn result(&self, id: impl Into<String>) -> Answer<Value> {
        self.answer(ResultTree::task(id))
    }

    /// Returns a group that was [saved](Answer::save); `None` if there is none (any more).
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no group.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn restore<R>(&self, group: &str) -> Result<Option<Answer<Vec<R>>>, ClientError> {
        let documents = self.inner.connections.connected.results.get(&[Key::Group(group.to_owned())]).await?;
        let Some(document) = documents.into_iter().next().flatten() else { return Ok(None) };
        let saved = longshore_celery::GroupResult::decode(&document, crate::answer::LONGEST)
            .map_err(|error| ClientError::Unreadable { id: group.to_owned(), reason: error.to_string() })?;
        Ok(Some(self.answer(saved.tree)))
    }

    /// Plans what is to be sent, as the task of this message or as nobody's.
    pub(crate) fn plan(&self, signature: &WireSignature, parent: Option<&Message>) -> Result<canvas::Plan, ClientError> {
        // A link is sent by whoever runs its task, when it is too late to say it to the sender.
        if let Some(message) = canvas::refused_part(signature, &|queue| self.inner.connections.connected.broker.refused_queue(queue)) {
            return Err(BrokerError { kind: ErrorKind::Refused, message }.into());
        }
        canvas::apply(signature, &[], &self.canvas(parent), &mut || (self.inner.connections.environment.id)())
            .map_err(|error| ClientError::Signature(error.to_string()))
    }

    /// Returns the sender, for a canvas.
    pub(crate) fn canvas<'a>(&'a self, parent: Option<&'a Message>) -> canvas::Context<'a> {
        canvas::Context {
            oid: &self.inner.sender.oid,
            origin: &self.inner.sender.origin,
            now: self.inner.connections.environment.wall(),
            parent: parent.map(canvas::Parent::of),
            trace: self.trace.as_deref(),
            defaults: &*self.inner.sender.defaults,
        }
    }

    /// Sends what is planned, chords begun first. Returns the queue of the first message.
    pub(crate) async fn publish(&self, plan: canvas::Plan) -> Result<Option<Arc<str>>, BrokerError> {
        if let Some(group) = &plan.grown {
            self.inner.connections.connected.results.chord_grow(group).await?;
        }
        for start in &plan.starts {
            self.start(start).await?;
        }
        let mut batch: Vec<Outgoing> = Vec::with_capacity(plan.sends.len());
        let (mut queue, mut spans) = (None, SendSpans::default());
        for send in plan.sends {
            if !send.before.is_empty() {
                // What was planned before it goes before it.
                self.put(&batch, std::mem::take(&mut spans)).await?;
                batch.clear();
                for start in &send.before {
                    self.start(start).await?;
                }
            }
            let outgoing = self.outgoing(send, &mut spans);
            // Of one that goes through an exchange nobody knows who serves it.
            if outgoing.exchange.is_none() {
                queue.get_or_insert_with(|| outgoing.queue.clone());
            }
            batch.push(outgoing);
        }
        self.put(&batch, spans).await.map(|()| queue)
    }

    /// Makes of a planned message what the broker takes, and begins its span.
    pub(crate) fn outgoing(&self, send: canvas::PlannedSend, spans: &mut SendSpans) -> Outgoing {
        outgoing::of(&self.inner.connections.settings, send.message, &send.routing, (self.maker(), spans))
    }

    /// Publishes messages, all or none, and ends their spans.
    async fn put(&self, batch: &[Outgoing], spans: SendSpans) -> Result<(), BrokerError> {
        if batch.is_empty() {
            return Ok(());
        }
        let published = self.put_unended(batch).await;
        self.ended(spans, &published);
        published
    }

    /// Publishes messages, all or none; their spans are the caller's.
    async fn put_unended(&self, batch: &[Outgoing]) -> Result<(), BrokerError> {
        self.listen().await?;
        let at = self.environment().wall();
        self.inner.connections.connected.broker.publish(batch).await?;
        self.tell_sent(at, batch).await;
        Ok(())
    }

    /// Ends the spans of messages that were published, or were not.
    fn ended<T>(&self, spans: SendSpans, published: &Result<T, BrokerError>) {
        spans.end(self.maker(), published.as_ref().map(|_| ()));
    }

    /// Makes sure that results are taken that are sent to this client: those that are sent to a
    /// queue that is not there yet are lost.
    async fn listen(&self) -> Result<(), BrokerError> {
        let results = &self.inner.connections.connected.results;
        if results.reply_queue().is_some() {
            results.listen().await?;
        }
        Ok(())
    }

    async fn start(&self, start: &canvas::ChordStart) -> Result<(), BrokerError> {
        let expires = self.inner.connections.settings.result_expires.unwrap_or(Settings::DAY);
        if let Some(saved) = &start.saved {
            self.inner.connections.save(&start.group, saved.encode()).await?;
        }
        self.inner.connections.connected.results.chord_start(&start.group, start.size, expires).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("broker", &self.inner.connections.connected.broker.url())
            .field("results", &self.inner.connections.connected.results.url())
            .finish_non_exhaustive()
    }
}

/// Returns where the result of a plan will stand.
pub(crate) fn place(plan: &canvas::Plan) -> Result<ResultTree, ClientError> {
    plan.result.clone().ok_or_else(|| ClientError::Signature("an empty chain or group: there is nothing to send".to_owned()))
}
