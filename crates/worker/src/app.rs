//! The registry of tasks, and the settings that clients and workers share.

use std::{
    collections::HashMap,
    fmt,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use longshore_brokers::{Connected, News, Notice, QueueSpec};
use longshore_celery::{Compression, control::Command};

use crate::{
    answer::Answer,
    built_in,
    client::{Client, ClientParts},
    environment::Environment,
    error::ClientError,
    route::Route,
    schedule::Schedule,
    settings::Settings,
    signature::Signature,
    spans::Spans,
    task::{Acks, Task, registry::TaskRegistry},
};

/// Named tasks with the settings that their clients and workers share.
/// ```
/// use longshore_worker::{App, Task};
/// use longshore_celery::Value;
///
/// let ping = Task::plain("shop.ping", |_context, _call| Ok(Value::from("pong")));
/// let app = App::new().broker("redis://127.0.0.1/0").route("mail.*", "mail").task(ping);
/// assert!(app.task_named("shop.ping").is_some());
/// assert_eq!(app.settings().queue_of("mail.send"), "mail");
/// ```
#[derive(Clone)]
pub struct App {
    registry: Arc<TaskRegistry>,
    pub(crate) told: Option<Notice>,
    /// Where spans go.
    spans: Option<Spans>,
    /// Client that it sends with, once it has sent something. Shared by clones until one of them is
    /// changed.
    client: Arc<Mutex<Option<Client>>>,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// Makes an app with Celery's own tasks (`celery.map`, `celery.accumulate`, …). Tasks and
    /// results are in the file `longshore.db` of the working directory.
    pub fn new() -> Self {
        let told: Notice = Arc::new(|news: &News| {
            // One write, so that nothing else stands in the line.
            let _ = std::io::stderr().write_all(format!("longshore: {news}\n").as_bytes());
        });
        let registry = TaskRegistry {
            tasks: HashMap::new(),
            commands: HashMap::new(),
            acks: Acks::default(),
            settings: Settings::default(),
            environment: Environment::SYSTEM,
            schedules: Vec::new(),
            is_configured: false,
        };
        let app = Self { registry: Arc::new(registry), told: Some(told), spans: None, client: Arc::default() };
        built_in::tasks().into_iter().fold(app, Self::task)
    }

    /// Sets the broker, where tasks wait: `redis://127.0.0.1/0`, `sqlite:shop.db`, `memory:`.
    #[must_use]
    pub fn broker(mut self, url: impl Into<String>) -> Self {
        self.settings_mut().broker = url.into();
        self
    }

    /// Sets where results are stored, if not with the broker.
    #[must_use]
    pub fn results(mut self, url: impl Into<String>) -> Self {
        self.settings_mut().results = Some(url.into());
        self
    }

    /// Sets the queue of calls that name none, in place of `celery`.
    #[must_use]
    pub fn default_queue(mut self, queue: impl Into<String>) -> Self {
        self.settings_mut().default_queue = queue.into();
        self
    }

    /// Sends the tasks of this name, or of the names that match a pattern (`mail.*`), to this
    /// queue, or with this [priority](Route::priority), unless a call says otherwise, or the
    /// [task](crate::TaskPolicy::queue) itself. A name goes before patterns; of these the first
    /// that matches counts. Holds for clients and for what workers send: the next link of a chain,
    /// callbacks, errbacks, bodies of chords. A retry stays in its queue.
    #[must_use]
    pub fn route(mut self, task: impl Into<String>, to: impl Into<Route>) -> Self {
        self.settings_mut().routes.push((task.into(), to.into()));
        self
    }

    /// Says how a queue is declared, as Celery's `task_queues` does: whoever comes first makes it.
    /// A queue that is there already is taken as it is. Only RabbitMQ has more of a queue than its
    /// name; elsewhere it is left out, and that is said.
    /// ```
    /// use longshore_worker::{App, QueueSpec};
    ///
    /// let orders = QueueSpec::new("orders").bound("orders", "topic", "order.#").max_priority(10);
    /// let app = App::new().queue(orders);
    /// assert_eq!(app.settings().queues[0].exchange_type, "topic");
    /// ```
    #[must_use]
    pub fn queue(mut self, queue: QueueSpec) -> Self {
        self.settings_mut().queues.push(queue);
        self
    }

    /// Sets when messages of tasks are acknowledged that do not say it themselves
    /// (`#[task(acks = "…")]`), in place of [`Acks::Late`].
    /// ```
    /// use longshore_worker::{Acks, App};
    ///
    /// let app = App::new().acks(Acks::Early); // as Celery does
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.registry_mut().acks = acks;
        self
    }

    /// Names an errback that takes three arguments, as those of Celery's new style do; `mail.*`
    /// matches what begins so. When a task fails here, such an errback is sent the failed task's
    /// request (an object with its `id`, `task`, `args`, …), its exception (as results have it:
    /// `exc_type`, `exc_message`, `exc_module`) and its traceback. All others are sent the failed
    /// task's id alone: a message does not say what an errback takes. An errback of this app says
    /// it itself, `#[task(errback)]`.
    #[must_use]
    pub fn errback(mut self, task: impl Into<String>) -> Self {
        self.settings_mut().errbacks.push(task.into());
        self
    }

    /// Sets how long results are kept, in place of one day; `None`: for ever.
    #[must_use]
    pub fn result_expires(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.settings_mut().result_expires = after.into();
        self
    }

    /// Stores the task's name, arguments, worker and queue with each result.
    #[must_use]
    pub fn result_extended(mut self) -> Self {
        self.settings_mut().result_extended = true;
        self
    }

    /// Tells monitors when a task is sent (`task-sent`), so that a timeline knows it.
    #[must_use]
    pub fn task_send_sent_event(mut self) -> Self {
        self.settings_mut().task_send_sent_event = true;
        self
    }

    /// Lets workers take bodies in MessagePack too.
    #[must_use]
    pub fn accept_msgpack(mut self) -> Self {
        self.settings_mut().accept_msgpack = true;
        self
    }

    /// Compresses the bodies of what is sent.
    #[must_use]
    pub fn compression(mut self, how: impl Into<Option<Compression>>) -> Self {
        self.settings_mut().compression = how.into();
        self
    }

    /// Sets who is told, for people, what happens to the connections of its clients and workers
    /// (lost, back, tasks rescued from a dead worker), and that no worker serves the queue of a
    /// task that is waited for. It must not block. Default: stderr, a line each; `None`: nobody.
    /// ```
    /// use std::sync::Arc;
    /// use longshore_worker::App;
    ///
    /// let app = App::new().told(Arc::new(|news: &longshore_brokers::News| println!("the queue says: {news}")) as longshore_brokers::Notice);
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn told(mut self, told: impl Into<Option<Notice>>) -> Self {
        self.client = Arc::default();
        self.told = told.into();
        self
    }

    /// Sets where the spans of its clients and workers go (sent, waited, run), in place of nowhere:
    /// `longshore-otel` brings them to a collector of OpenTelemetry.
    #[must_use]
    pub fn spans(mut self, spans: impl Into<Option<Spans>>) -> Self {
        self.client = Arc::default();
        self.spans = spans.into();
        self
    }

    /// Puts time, chance and threads of its clients and workers in place of the real ones: for
    /// simulations.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.registry_mut().environment = environment;
        self
    }

    /// Sets all settings at once.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        *self.settings_mut() = settings;
        self
    }

    /// Registers a task: the name of a function that stands under `#[longshore::task]`, or a
    /// [`Task`] made by hand.
    ///
    /// # Panics
    /// There is a task of this name: whichever ran would be the wrong one for somebody.
    #[must_use]
    pub fn task(mut self, task: impl Into<Task>) -> Self {
        let task = task.into();
        let name = task.name.clone();
        let before = self.registry_mut().tasks.insert(name.clone(), Arc::new(task));
        assert!(before.is_none(), "two tasks are named {name}: give one of them another `name`");
        self
    }

    /// Has a task sent at its times, by the [scheduler](crate::Scheduler) of a worker
    /// ([`WorkerOptions::beat`](crate::WorkerOptions::beat)) or one of its own. The store keeps the
    /// schedule from then on, with when it was last due; `longshore schedule` lists, pauses and
    /// removes it.
    ///
    /// # Panics
    /// There is a schedule of this name.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        let schedules = &mut self.registry_mut().schedules;
        assert!(schedules.iter().all(|other| other.name != schedule.name), "two schedules are named {}", schedule.name);
        schedules.push(schedule);
        self
    }

    /// Says that a configuration was read, whose schedules, if it has any, are among those of this
    /// app. A scheduler then [tells](crate::SchedulerEvent::Left) of those that the store has from
    /// a configuration beside them.
    #[must_use]
    pub fn configured(mut self) -> Self {
        self.registry_mut().is_configured = true;
        self
    }

    /// Returns its [schedules](Self::schedule).
    pub fn schedules(&self) -> &[Schedule] {
        &self.registry.schedules
    }

    /// Adds a command to remote control: `longshore control NAME key=value`, `celery control NAME`
    /// and [`remote::ask`](crate::remote::ask) call this function in every worker of this app, or
    /// in those that they name. Its name is the last word of its task's: `shop.set_rate` is
    /// `set_rate`.
    ///
    /// Arguments come by name. What it returns is the reply, `{"ok": …}`; its failure is
    /// `{"error": …}`, as Celery's own commands have it. It is no task: it waits in no queue, is
    /// answered while all slots are busy, has no retries and stores nothing. A plain function runs
    /// on a thread. It has as long as its task's `timeout` says, else a minute; at most 32 run at
    /// once.
    /// ```
    /// use longshore_worker::{App, Client, Failure, Task, Worker, WorkerOptions, remote};
    /// use longshore_celery::control::Request;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let greet = Task::plain("shop.greet", |_context, mut call| {
    ///     let name = call.kwargs.remove("name").ok_or_else(|| Failure::error("KeyError", "name"))?;
    ///     Ok(name)
    /// });
    /// let app = App::new().broker("memory://commands").command(greet);
    /// let worker = Worker::start(app.clone(), WorkerOptions::new("w1@here")).await?;
    ///
    /// let client = Client::of(&app)?;
    /// let request = Request::new("greet").argument("name", "Ada").to(["w1@here"]);
    /// let mut replies = Vec::new();
    /// while replies.is_empty() {
    ///     // It listens soon after it has started.
    ///     replies = remote::ask(client.connected(), request.clone(), remote::PATIENCE).await?;
    /// }
    /// assert_eq!(replies[0].1.get("ok"), Some(&"Ada".into()));
    /// # worker.stopper().warm();
    /// # worker.join().await;
    /// # Ok::<(), longshore_worker::ClientError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Panics
    /// There is a command of this name, one of Celery's or of ours.
    #[must_use]
    pub fn command(mut self, command: impl Into<Task>) -> Self {
        let task = command.into();
        let name: Arc<str> = task.name.rsplit('.').next().unwrap_or_default().into();
        let is_known = Command::is_known(&name);
        let before = self.registry_mut().commands.insert(name.clone(), Arc::new(task));
        assert!(before.is_none() && !is_known, "two commands of remote control are named {name}: give one of them another `name`");
        self
    }

    /// Changes every task, for what a worker is told of all of them.
    pub fn change_tasks(&mut self, mut change: impl FnMut(&mut Task)) {
        self.registry_mut().tasks.values_mut().for_each(|task| change(Arc::make_mut(task)));
    }

    /// Returns the task of this name.
    pub fn task_named(&self, name: &str) -> Option<&Arc<Task>> {
        self.registry.task_named(name)
    }

    /// Returns all tasks, in the order of their names, Celery's own included.
    pub fn tasks(&self) -> Vec<&Arc<Task>> {
        let mut tasks: Vec<_> = self.registry.tasks.values().collect();
        tasks.sort_by(|a, b| a.name.cmp(&b.name));
        tasks
    }

    /// Returns whether every task is acknowledged early, Celery's own aside: then a broker can give
    /// messages away as they are claimed.
    pub(crate) fn is_early(&self) -> bool {
        let mut own = self.registry.tasks.values().filter(|task| !task.name.starts_with("celery.")).peekable();
        own.peek().is_some() && own.all(|task| self.registry.acks_of(&task.policy) == Acks::Early)
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.registry.settings
    }

    /// Returns the settings, to be changed.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.registry_mut().settings
    }

    /// Returns the tasks with the settings that hold for them: what an attempt knows of its app.
    pub fn registry(&self) -> &Arc<TaskRegistry> {
        &self.registry
    }

    /// Returns the registry, to be changed, and forgets the client that knows the old one.
    fn registry_mut(&mut self) -> &mut TaskRegistry {
        self.client = Arc::default();
        Arc::make_mut(&mut self.registry)
    }

    /// Returns the app's share in its client.
    fn client_parts(&self) -> ClientParts {
        let TaskRegistry { tasks, settings, environment, .. } = &*self.registry;
        let defaults = tasks.values().map(|task| (task.name.clone(), task.policy.options())).collect();
        ClientParts { settings: settings.clone(), environment: *environment, told: self.told.clone(), defaults, spans: self.spans.clone() }
    }

    /// Returns the client of this app: the same one each time, as long as the app is not changed
    /// and the runtime is the same.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn client(&self) -> Result<Client, ClientError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was made on a runtime that has ended cannot wait for results.
        let here = tokio::runtime::Handle::try_current().ok().map(|runtime| runtime.id());
        if let Some(client) = client.as_ref().filter(|client| client.runtime().map(|runtime| runtime.id()) == here) {
            return Ok(client.clone());
        }
        Ok(client.insert(Client::of(self)?).clone())
    }

    /// Sends a task, or a whole canvas, as [`Client::send`] does.
    /// ```
    /// use longshore_worker::{App, Signature};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let app = App::new().broker("memory://app");
    /// let sum: Signature<i64> = Signature::named("tasks.add").arg(&1).arg(&1).returns();
    /// let answer = app.send(sum).await?; // answer.get().await? would wait for the 2
    /// # assert_eq!(app.client()?.result(answer.id()).id(), answer.id());
    /// # Ok::<(), longshore_worker::ClientError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Client::connect`] and [`Client::send`].
    ///
    /// # Cancel safety
    /// As [`Client::send`].
    pub async fn send<R>(&self, signature: Signature<R>) -> Result<Answer<R>, ClientError> {
        self.client()?.send(signature).await
    }
}

/// The ways to make a client, which itself knows no app.
impl Client {
    /// Makes a client with these settings. A server is connected to when it is first needed, and
    /// waited for as its URL says; a file is opened now.
    ///
    /// # Errors
    /// A URL is wrong or names what is not built in, or a file cannot be opened.
    pub fn connect(settings: &Settings) -> Result<Self, ClientError> {
        Self::of(&App::new().with_settings(settings.clone()))
    }

    /// Makes a client for an app's tasks.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn of(app: &App) -> Result<Self, ClientError> {
        Self::open(app.client_parts())
    }

    /// Makes a client for an app's tasks, over connections that are there already.
    pub fn over(app: &App, connected: Connected) -> Self {
        Self::new(app.client_parts(), connected)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.tasks().iter().map(|task| &*task.name).collect();
        f.debug_struct("App").field("tasks", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_celery::{Value, canvas::ErrbackStyle};

    #[test]
    fn a_task_goes_where_its_route_says_or_to_the_default_queue() {
        let app = App::new().route("mail.send", "fast").route("mail.*", "mail").route("*", "rest");
        for (task, queue) in [("mail.send", "fast"), ("mail.sent", "mail"), ("mail", "rest"), ("x", "rest")] {
            assert_eq!(app.settings().queue_of(task), queue, "{task}");
        }
        assert_eq!(Settings::default().queue_of("x"), "celery");
    }

    #[test]
    fn an_errback_that_is_named_is_told_more() {
        let own = Task::plain("own.alarm", |_, _| Ok(Value::Null)).with_policy(|policy| policy.errback = true);
        let app = App::new().errback("shop.alarm").errback("mail.*").task(own);
        for (errback, told) in [
            ("own.alarm", ErrbackStyle::Error),
            ("shop.alarm", ErrbackStyle::Error),
            ("mail.failed", ErrbackStyle::Error),
            ("shop.alarms", ErrbackStyle::Id),
            ("shop", ErrbackStyle::Id),
        ] {
            assert_eq!(app.registry().told(errback), told, "{errback}");
        }
    }

    #[test]
    #[should_panic(expected = "two commands of remote control are named ping")]
    fn a_command_has_no_name_of_celerys() {
        let _ = App::new().command(Task::plain("shop.ping", |_, _| Ok(Value::Null)));
    }

    #[test]
    #[should_panic(expected = "two tasks are named a.b")]
    fn two_tasks_of_one_name_are_refused() {
        let task = || Task::plain("a.b", |_, _| Ok(Value::Null));
        let _ = App::new().task(task()).task(task());
    }
}
