//! Remote control: what Celery's `status`, `inspect` and `control`, Flower and our own commands ask
//! of a worker. `control/told.rs`: its tasks and settings.

mod told;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use longshore_brokers::{Key, Stored, mask};
use longshore_celery::{
    Exception, Limits, Map, Message, State, TaskResult, Value,
    control::{self, Addressed, Command, Consumed, Reply, Request, Stats, TaskView},
};
use longshore_core::{LaneKind, Rate, Receipt};

use self::told::said;
use super::{
    Stopper,
    events::Events,
    held::Entry,
    intake::Intake,
    mingle::{answers, mingle},
    revoked::{stamp, values},
    shared::Shared,
    slots::Slots,
    work::Work,
};

/// Most held tasks that a reply tells of; it says so when there are more.
const TOLD: usize = 1000;
/// Most held tasks that are looked through for those that somebody asks for.
const LOOKED_THROUGH: usize = 10 * TOLD;

/// A task that is held for its time.
struct Later {
    message: Message,
    /// When it is due, where that is not its ETA.
    due: Option<SystemTime>,
    /// Of this task's rate it waits for a slot.
    paced: Option<Arc<str>>,
}

/// Answers remote control.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) events: Events,
    pub(crate) stopper: Stopper,
    pub(crate) slots: Arc<Slots>,
    pub(crate) parking: usize,
    pub(crate) prefetch: Option<usize>,
}

impl Control {
    /// Takes requests until it is dropped. A broker that is away is waited for.
    pub(crate) async fn serve(mut self) {
        loop {
            let Ok(mut subscription) = self.shared.broker.subscribe(control::EXCHANGE, "#").await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            // What was called off while nobody listened here. Meanwhile requests are answered: the others may be asking too.
            let mut mingling = Some(Box::pin(mingle(self.shared.clone())));
            loop {
                let message = match &mut mingling {
                    None => subscription.messages.recv().await,
                    Some(asking) => tokio::select! {
                        () = asking => {
                            mingling = None;
                            continue;
                        }
                        message = subscription.messages.recv() => message,
                    },
                };
                let Some((_, raw)) = message else { break };
                // What is no request is nobody's: there is nobody to tell.
                if let Ok(request) = Request::decode(&raw, Limits::default().message) {
                    self.take(&request).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn take(&mut self, request: &Request) {
        let clock = self.shared.clock().adjust(request.clock);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if request.expires > 0.0 && request.expires < now {
            return;
        }
        let value = match request.is_for(&self.shared.node) {
            Addressed::No => return,
            Addressed::Unclear(error) => error,
            Addressed::Yes => match Command::read(request) {
                Ok(Command::Hello { revoked, .. }) if !answers(request, &self.shared) => return self.shared.call_off(&revoked),
                Ok(command) => self.obey(command, clock).await,
                Err(error) => error,
            },
        };
        if let Some(to) = &request.reply_to {
            let tag = uuid::Uuid::new_v4().to_string();
            let raw = Reply::new(&*self.shared.node, value, request.ticket.as_deref(), clock).encode(to, &tag);
            let _ = self.shared.broker.reply(&to.exchange, &to.routing_key, &raw).await;
        }
    }

    async fn obey(&mut self, command: Command, clock: u64) -> Value {
        let shared = self.shared.clone();
        match command {
            Command::Ping => control::ok("pong"),
            Command::Active { safe } => {
                let works = shared.works();
                Value::List(works.iter().filter(|work| work.started().is_some()).map(|work| view(&shared, work).to_value(safe)).collect())
            }
            Command::Reserved => {
                let works = shared.works();
                Value::List(works.iter().filter(|work| work.started().is_none()).map(|work| view(&shared, work).to_value(false)).collect())
            }
            Command::Scheduled => {
                let held = self.held_messages().await;
                Value::List(held.iter().map(|later| control::scheduled(&waiting(&shared, &later.message), later.due)).collect())
            }
            Command::Revoked => shared.revoked().ids().into(),
            Command::Registered { items, builtins } => self.registered(&items, builtins),
            Command::Stats => self.stats(clock),
            Command::ActiveQueues => {
                Value::List(shared.consumer.serving().iter().map(|queue| Consumed::named(queue.to_string()).to_value()).collect())
            }
            Command::Conf { with_defaults } => control::settings(self.conf(), with_defaults),
            Command::Report => control::ok(format!(
                "\nsoftware -> celery:5.7.0 (protocol 2, by longshore:{}) rust\nplatform -> system:Linux\nsettings -> transport:{} results:{}\n",
                env!("CARGO_PKG_VERSION"),
                mask(shared.broker.url()),
                mask(shared.results.url()),
            )),
            Command::Clock => Value::Map(Map::from_iter([("clock", Value::from(clock))])),
            Command::Hello { from_node, revoked } => {
                if from_node == *shared.node {
                    return Value::Null;
                }
                shared.call_off(&revoked);
                control::hello(&shared.revoked().ids(), clock)
            }
            Command::Memsample => Value::Null,
            Command::QueryTask { ids } => self.query(&ids).await,
            Command::RateLimit { task_name, rate_limit } => {
                let Some(task) = shared.app.task_named(&task_name) else { return control::error("unknown task") };
                let rate = (rate_limit.per_second > 0.0).then(|| Rate::per_second(rate_limit.per_second));
                shared.set_override(&task.name, |set| set.rate = Some(rate));
                self.intake.rate_changed(&task.name);
                control::ok(if rate.is_some() { "new rate limit set successfully" } else { "rate limit disabled successfully" })
            }
            Command::TimeLimit { task_name, soft, hard } => {
                let Some(task) = task_name.and_then(|name| shared.app.task_named(&name).cloned()) else {
                    return control::error("unknown task");
                };
                let limit = |seconds: Option<f64>| seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                shared.set_override(&task.name, |set| (set.soft, set.hard) = (limit(soft), limit(hard)));
                control::ok("time limits set successfully")
            }
            Command::PoolGrow { n } => self.grow(n, "pool will grow"),
            Command::PoolShrink { n } => self.grow(-n, "pool will shrink"),
            Command::PoolRestart => control::error("ValueError('Pool restarts not enabled')"),
            Command::Autoscale { max, min } => self.rescale(max, min),
            Command::AddConsumer { queue, exchange, exchange_type, routing_key } => {
                if let Some(error) = not_bound(&queue, exchange.as_deref(), exchange_type.as_deref(), routing_key.as_deref()) {
                    return error;
                }
                if shared.consumer.serving().iter().any(|serving| **serving == *queue) {
                    return control::ok(format!("already consuming from '{queue}'"));
                }
                if let Some(refused) = shared.broker.refused_queue(&queue) {
                    return control::error(&format!("ValueError({})", longshore_celery::repr(&refused.into())));
                }
                shared.consumer.serve(&queue, true);
                control::ok(format!("add consumer {queue}"))
            }
            Command::CancelConsumer { queue } => {
                shared.consumer.serve(&queue, false);
                control::ok(format!("no longer consuming from {queue}"))
            }
            Command::EnableEvents => control::ok(if self.events.set(true) { "task events enabled" } else { "task events already enabled" }),
            Command::DisableEvents => {
                control::ok(if self.events.set(false) { "task events disabled" } else { "task events already disabled" })
            }
            Command::Heartbeat => {
                self.events.beat();
                Value::Null
            }
            Command::Revoke { ids, terminate, signal } => self.revoke(&ids, terminate, signal.as_deref()).await,
            Command::RevokeByStampedHeaders { headers, terminate, signal } => {
                self.revoke_stamps(&headers, terminate, signal.as_deref()).await
            }
            Command::Shutdown => {
                self.stopper.warm();
                Value::Null
            }
            // Elections are gossip's; no node waits for us.
            _ => Value::Null,
        }
    }

    fn grow(&self, n: i64, said: &str) -> Value {
        self.slots.grow(n);
        control::ok(said)
    }

    /// New bounds of autoscale; those that are absent stay.
    fn rescale(&self, max: Option<i64>, min: Option<i64>) -> Value {
        let whole = |number: i64| usize::try_from(number).unwrap_or(0);
        match self.slots.rescale(max.map(whole), min.map(whole)) {
            Some((max, min)) => control::ok(format!("autoscale now max={max} min={min}")),
            None => control::error("ValueError('Autoscale not enabled')"),
        }
    }

    async fn revoke(&self, ids: &[String], terminate: bool, signal: Option<&str>) -> Value {
        self.shared.call_off(ids);
        // For workers that are not there yet. Where the broker cannot take it now, those that are there still know.
        let _ = self.shared.broker.revoke(ids).await;
        let (mut running, mut on_threads) = (Vec::new(), Vec::new());
        for work in self.shared.works() {
            if ids.contains(&work.message.id) {
                work.revoke(terminate.then(|| number_of(signal)));
                if let Some(start) = work.started() {
                    running.push(work.message.id.clone());
                    // A thread cannot be ended: its handler is told, and goes on if it does not listen. Nobody waits for that.
                    if terminate && matches!(start.lane, LaneKind::Blocking | LaneKind::Cpu) {
                        on_threads.push(work.message.id.clone());
                    }
                }
            }
        }
        let waiting: Vec<&String> = ids.iter().filter(|id| !running.contains(id)).collect();
        self.tell_revoked(&waiting, "revoked").await;
        self.tell_revoked(&on_threads.iter().collect::<Vec<_>>(), "terminated").await;
        if terminate { control::terminated(&running) } else { control::revoked(ids) }
    }

    /// Whoever waits for a task whose result nobody will get is told at once.
    async fn tell_revoked(&self, ids: &[&String], why: &str) {
        if ids.is_empty() {
            return;
        }
        let shared = &self.shared;
        let keys: Vec<Key> = ids.iter().map(|id| Key::Task((*id).clone())).collect();
        let Ok(stored) = shared.results.get(&keys).await else { return };
        let expires = shared.app.settings().result_expires;
        let documents: Vec<Stored> = keys
            .into_iter()
            .zip(stored)
            .zip(ids)
            .filter(|((_, doc), _)| {
                let state = doc.as_ref().and_then(|doc| TaskResult::decode(doc, shared.limits.body).ok()).map(|result| result.state);
                matches!(state, None | Some(State::Pending | State::Retry | State::Received))
                    || (why == "terminated" && state == Some(State::Started))
            })
            .map(|((key, _), id)| {
                let result = TaskResult {
                    task_id: (*id).clone(),
                    state: State::Revoked,
                    result: Exception::revoked(why).to_value(),
                    children: Value::List(Vec::new()),
                    date_done: Some(SystemTime::now()),
                    ..TaskResult::default()
                };
                Stored { key, doc: result.encode(), expires, keep_success: true }
            })
            .collect();
        if !documents.is_empty() {
            let _ = shared.results.store(&documents).await;
        }
    }

    async fn revoke_stamps(&self, headers: &Map, terminate: bool, signal: Option<&str>) -> Value {
        let stamps: Vec<String> =
            headers.0.iter().flat_map(|(name, stamps)| values(stamps).iter().map(move |value| stamp(name, value))).collect();
        self.shared.call_off(&stamps);
        // As with ids: for workers that are not there yet.
        let _ = self.shared.broker.revoke(&stamps).await;
        let mut running = Vec::new();
        for work in self.shared.works() {
            if self.shared.is_revoked(&work.message) {
                work.revoke(terminate.then(|| number_of(signal)));
                if work.started().is_some() {
                    running.push(work.message.id.clone());
                }
            }
        }
        match (terminate, running.is_empty()) {
            (false, _) => control::stamps_revoked(headers),
            (true, true) => control::stamps_not_terminated(headers),
            (true, false) => control::terminated(&running),
        }
    }

    /// The messages that wait for their time: they are not kept in memory, so the broker is asked. Those that it holds back itself are nobody's yet: each
    /// worker that serves their queue tells of them.
    async fn held_messages(&self) -> Vec<Later> {
        let entries: Vec<Entry> = self.intake.held().into_iter().take(TOLD).collect();
        let mut held = self.load(&entries).await;
        held.extend(self.held_back(TOLD - entries.len()).await);
        held
    }

    /// What the broker holds back of the queues that are served here.
    async fn held_back(&self, most: usize) -> impl Iterator<Item = Later> + use<'_> {
        let raws = self.shared.broker.later(&self.shared.consumer.serving(), most).await.unwrap_or_default();
        let limits = &self.shared.limits;
        raws.into_iter().filter_map(move |raw| Message::decode(&raw, limits).ok()).map(|message| Later { message, due: None, paced: None })
    }

    /// The messages of what is held here.
    async fn load(&self, entries: &[Entry]) -> Vec<Later> {
        if entries.is_empty() {
            return Vec::new();
        }
        let receipts: Vec<Receipt> = entries.iter().map(Entry::receipt).collect();
        let raws = self.shared.consumer.load(&receipts).await.unwrap_or_default();
        let read = |(entry, raw): (&Entry, Option<Vec<u8>>)| {
            let message = Message::decode(&raw?, &self.shared.limits).ok()?;
            Some(Later { message, due: Some(entry.due), paced: entry.paced.clone() })
        };
        entries.iter().zip(raws).filter_map(read).collect()
    }

    /// Those of these tasks that are held here, or by the broker.
    async fn held_of(&self, ids: &[String]) -> Vec<Later> {
        let entries: Vec<Entry> = self.intake.held().into_iter().take(LOOKED_THROUGH).collect();
        let mut found: Vec<Later> = self.held_back(TOLD).await.filter(|later| ids.contains(&later.message.id)).collect();
        for some in entries.chunks(TOLD) {
            if found.len() >= ids.len() {
                break;
            }
            found.extend(self.load(some).await.into_iter().filter(|later| ids.contains(&later.message.id)));
        }
        found
    }

    async fn query(&self, ids: &[String]) -> Value {
        let shared = &self.shared;
        let works: Vec<Arc<Work>> = shared.works().into_iter().filter(|work| ids.contains(&work.message.id)).collect();
        let held = if works.len() < ids.len() { self.held_of(ids).await } else { Vec::new() };
        let suspects = self.intake.waiting_suspects();
        let claimed = works.iter().map(|work| match work.started() {
            Some(_) => ("active", view(shared, work), None),
            None => ("reserved", view(shared, work), Some(self.waits(work, suspects.contains(&work.receipt)))),
        });
        let later = held.iter().map(|later| ("scheduled", waiting(shared, &later.message), Some(self.waits_for_time(later))));
        control::query_task(claimed.chain(later))
    }

    /// What a claimed task waits for that has not started.
    fn waits(&self, work: &Work, suspect: bool) -> Map {
        if suspect {
            return Map::from_iter([("for", Value::from("alone")), ("crashes", work.crashes.into())]);
        }
        let lane = work.task.lane;
        let of = |count: usize| Value::from(count as i64);
        let (slots, running) = (self.slots.sizes()[lane as usize], self.running()[lane as usize]);
        Map::from_iter([("for", Value::from("slot")), ("lane", lane.as_str().into()), ("slots", of(slots)), ("running", of(running))])
    }

    /// What a task waits for that is held for its time.
    fn waits_for_time(&self, later: &Later) -> Map {
        let due = later.due.or(later.message.eta).map(|due| due.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let mut waits = Map::from_iter([("for", Value::from(if later.paced.is_some() { "rate" } else { "eta" })), ("until", due.into())]);
        let task = later.paced.as_ref().and_then(|task| self.shared.app.task_named(task));
        if let Some(rate) = task.and_then(|task| self.shared.rate_of(task)) {
            waits.set("rate", said(rate));
        }
        waits
    }

    /// How many tasks run on each lane, by `lane as usize`.
    fn running(&self) -> [usize; 4] {
        let mut running = [0; 4];
        self.shared.works().iter().filter_map(|work| work.started()).for_each(|start| running[start.lane as usize] += 1);
        running
    }

    fn stats(&self, clock: u64) -> Value {
        let shared = &self.shared;
        let sizes = self.slots.sizes();
        let concurrency = sizes.iter().sum::<usize>() as u64;
        let mut broker = Map::default();
        broker.set("url", mask(shared.broker.url()));
        broker.set("hostname", host_of(shared.broker.url()));
        broker.set("port", port_of(shared.broker.url()));
        broker.set("transport", shared.broker.url().split(':').next().unwrap_or_default());
        let running = self.running();
        let of_lanes =
            |counts: [usize; 4]| LaneKind::ALL.iter().map(|lane| (lane.as_str(), counts[*lane as usize] as i64)).collect::<Map>();
        let stats = Stats {
            total: shared.counts.by_task().into_iter().map(|(task, count)| (task.to_string(), count)).collect(),
            pid: std::process::id().into(),
            clock,
            uptime: shared.started.elapsed().as_secs(),
            implementation: "longshore: lanes".to_owned(),
            concurrency,
            processes: vec![std::process::id().into()],
            prefetch_count: (concurrency + self.parking as u64).min(self.prefetch.map_or(u64::MAX, |most| most as u64)),
            broker,
            rusage: rusage(),
        };
        let mut value = stats.to_value();
        if let Value::Map(map) = &mut value {
            map.set("lanes", of_lanes(sizes));
            map.set("running", of_lanes(running));
            map.set("held", self.intake.held_count() as i64);
            if let Some((scale, current)) = self.slots.scale() {
                let bounds = [("max", scale.max), ("min", scale.min), ("current", current), ("qty", shared.live().len())];
                map.set("autoscaler", bounds.into_iter().map(|(name, number)| (name, number as i64)).collect::<Map>());
            }
            // How many messages of each queue have come to their end here.
            let ended = shared.counts.by_queue();
            map.set("queues", ended.iter().map(|(queue, count)| (&**queue, *count)).collect::<Map>());
        }
        value
    }
}

/// A claimed task, for people.
fn view<'a>(shared: &'a Shared, work: &'a Work) -> TaskView<'a> {
    let start = work.started();
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    TaskView {
        message: &work.message,
        queue: &work.queue,
        node: &shared.node,
        time_start: start.map(|start| seconds(start.at)),
        acknowledged: work.acked.load(std::sync::atomic::Ordering::Acquire),
        worker_pid: start.map(|_| std::process::id().into()),
    }
}

/// A task that is held for its time.
fn waiting<'a>(shared: &'a Shared, message: &'a Message) -> TaskView<'a> {
    TaskView { message, queue: &message.routing_key, node: &shared.node, time_start: None, acknowledged: false, worker_pid: None }
}

/// Why a queue is not served with a binding that is not its own: a worker of ours binds each queue to the exchange of its name, and whoever is told that all is well
/// would wait for what is sent elsewhere. An empty text is as good as none.
fn not_bound(queue: &str, exchange: Option<&str>, kind: Option<&str>, key: Option<&str>) -> Option<Value> {
    let own = |said: Option<&str>, own: &str| said.is_none_or(|said| said.is_empty() || said == own);
    if own(exchange, queue) && own(kind, "direct") && own(key, queue) {
        return None;
    }
    let text = format!(
        "add_consumer: queue {queue} is not bound to another exchange or routing key here, nor with a type but direct; bind it where its tasks are sent, then \
         add it by its name alone"
    );
    Some(control::error(&format!("NotImplementedError({})", longshore_celery::repr(&text.into()))))
}

/// The number of a signal: `SIGTERM` (the default), `KILL`, `9`.
fn number_of(signal: Option<&str>) -> u8 {
    let name = signal.unwrap_or("SIGTERM");
    let name = name.strip_prefix("SIG").unwrap_or(name);
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "TERM" => 15,
        other => other.parse().unwrap_or(15),
    }
}

fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split(['/', ':', '?']).next().unwrap_or_default().to_owned()
}

fn port_of(url: &str) -> Option<i64> {
    let rest = url.split_once("://")?.1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let authority = rest.split(['/', '?']).next()?;
    Some(authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(6379))
}

/// What the system says that this process used.
fn rusage() -> Map {
    let mut map = Map::default();
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return map };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; the first two stand before the bracket.
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default() / 100.0;
    map.set("utime", ticks(11));
    map.set("stime", ticks(12));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    map.set("maxrss", peak);
    map
}
