//! State that the parts of a worker share, and its counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_brokers::{
    Broker, Connected, Consumer, ResultBackend,
    lease::{Lease, Term},
};
use longshore_celery::{Limits, Message, events};
use longshore_core::{
    CancelToken, LaneKind, Rate,
    gate::pace::Pace,
    watch::{Counts, Hub, Labels},
};
use tokio::sync::Notify;

use super::{
    WorkerSummary,
    notice::{TaskChange, TaskNotice, WorkerEvent},
    revoked::RevokedIds,
    runs::RunNotes,
    view::ConnectionStates,
    work::ClaimedTask,
};
use crate::{app::App, client::Client, environment::Environment, task::Task};

/// State that the parts of a worker share.
pub(crate) struct Shared {
    pub(crate) app: Arc<App>,
    pub(crate) environment: Environment,
    /// `name@host`.
    pub(crate) node: Arc<str>,
    /// Client that handlers send with.
    pub(crate) client: Client,
    /// Its broker and result backend, with the other halves of both.
    pub(crate) connected: Connected,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) consumer: Arc<dyn Consumer>,
    /// The consumer's lease; `None` where what is held stays ours.
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) results: Arc<dyn ResultBackend>,
    /// Notes of what runs, where the broker may lend it to another, and a store can keep them.
    pub(crate) runs: Option<Arc<RunNotes>>,
    /// True where results are stored in the step that acknowledges.
    pub(crate) one_store: bool,
    pub(crate) limits: Limits,
    pub(crate) hub: Hub<WorkerEvent>,
    pub(crate) links: Arc<ConnectionStates>,
    pub(crate) counts: Books,
    /// Queue in which answers to what this worker sends would be taken.
    pub(crate) oid: String,
    pub(crate) started: Instant,
    /// Cancelled when the worker begins to stop.
    pub(crate) stopping: CancelToken,
    /// Cancelled when what still runs is dropped.
    pub(crate) dropped: CancelToken,
    /// The logical clock of all nodes.
    clock: Mutex<events::Clock>,
    revoked: Mutex<RevokedIds>,
    /// Claimed and neither finished nor handed back, as far as the broker knows, by receipt; what
    /// is held for its ETA is not here.
    live: Mutex<HashMap<u64, Arc<ClaimedTask>>>,
    pub(crate) load: LaneLoad,
    paces: Mutex<HashMap<Arc<str>, (Rate, Pace)>>,
    /// Limits that remote control has set, by task.
    set: Mutex<HashMap<Arc<str>, TaskOverride>>,
}

/// Tasks that run, and that wait for a slot, counted at one moment.
#[derive(Debug, Default)]
pub(crate) struct RunningTasks {
    /// By `lane as usize`.
    pub(crate) lanes: [usize; 4],
    /// Those that are claimed and have not begun, by the lane that they wait for.
    pub(crate) waiting: [usize; 4],
    /// Those that run, by the queue that they came from.
    pub(crate) queues: BTreeMap<Arc<str>, u64>,
}

/// Slots and tasks of a worker's lanes, by `lane as usize`.
#[derive(Default)]
pub(crate) struct LaneLoad {
    /// Slots; with autoscale as many as there may be.
    slots: [AtomicUsize; 4],
    /// Running, and waiting to run.
    busy: [AtomicIsize; 4],
    /// Notified when the slots have changed.
    pub(crate) changed: Notify,
}

impl LaneLoad {
    pub(crate) fn set_slots(&self, slots: [usize; 4]) {
        let differ = |(place, slots): (&AtomicUsize, usize)| place.swap(slots, Ordering::Relaxed) != slots;
        if self.slots.iter().zip(slots).filter(|(place, slots)| differ((place, *slots))).count() > 0 {
            self.changed.notify_one();
        }
    }

    /// Notes that this many more tasks are for this lane; fewer, where they have ended or gone
    /// back.
    pub(crate) fn add(&self, lane: LaneKind, count: isize) {
        self.busy[lane as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn slots(&self) -> [usize; 4] {
        self.slots.each_ref().map(|slots| slots.load(Ordering::Relaxed))
    }

    pub(crate) fn busy(&self) -> [usize; 4] {
        self.busy.each_ref().map(|busy| usize::try_from(busy.load(Ordering::Relaxed)).unwrap_or(0))
    }
}

/// Limits that remote control has set for a task, in place of its policy's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TaskOverride {
    /// `Some(None)`: no limit.
    pub(crate) rate: Option<Option<Rate>>,
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

/// Counts of what has ended in this worker, in all and by label.
pub(crate) struct Ends {
    pub(crate) counts: Counts,
    /// By [`LABELS`].
    pub(crate) labels: Labels,
    /// Attempts that ended, and tasks that were not run.
    pub(crate) ended: u64,
}

/// The labels by which a worker counts.
const LABELS: [&str; 2] = ["queue", "task"];

/// Counts of a worker.
pub(crate) struct Books {
    ends: Mutex<Ends>,
    /// Messages that were given, not read, and are not held yet.
    pub(crate) given_unread: AtomicU64,
    pub(crate) events_dropped: AtomicU64,
    /// Times that a task held up the async lane.
    pub(crate) stalls: AtomicU64,
    /// Messages that somebody had been lent before.
    redelivered: AtomicU64,
    by_task: Mutex<HashMap<Arc<str>, u64>>,
    /// Messages that came to their end here, by queue.
    by_queue: Mutex<HashMap<Arc<str>, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Books {
    fn default() -> Self {
        let ends = Ends { counts: Counts::default(), labels: Labels::new(&LABELS), ended: 0 };
        Self {
            ends: Mutex::new(ends),
            given_unread: AtomicU64::new(0),
            events_dropped: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            by_task: Mutex::default(),
            by_queue: Mutex::default(),
        }
    }
}

impl Ends {
    /// Counts something of a queue, and of a task that is known here.
    pub(crate) fn count(&mut self, queue: &str, task: Option<&str>, change: impl Fn(&mut Counts)) {
        change(&mut self.counts);
        self.labels.count(0, queue, &change);
        if let Some(task) = task {
            self.labels.count(1, task, &change);
        }
    }

    /// Adds the times of an attempt.
    pub(crate) fn time(&mut self, queue: &str, task: &str, run: Duration, wait: Duration) {
        self.labels.time(0, queue, run, wait);
        self.labels.time(1, task, run, wait);
    }
}

impl Books {
    pub(crate) fn ends(&self) -> MutexGuard<'_, Ends> {
        lock(&self.ends)
    }

    pub(crate) fn received(&self, tasks: impl Iterator<Item = Arc<str>>) {
        let mut by_task = lock(&self.by_task);
        for task in tasks {
            *by_task.entry(task).or_default() += 1;
        }
    }

    /// Notes a message that is taken in, if somebody had been lent it before.
    pub(crate) fn note_redelivered(&self, lent_before: bool) {
        if lent_before {
            self.redelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// Notes that messages of these queues have come to their end.
    pub(crate) fn ended<'a>(&self, queues: impl Iterator<Item = &'a Arc<str>>) {
        let mut by_queue = lock(&self.by_queue);
        for queue in queues {
            match by_queue.get_mut(queue) {
                Some(count) => *count += 1,
                None => drop(by_queue.insert(queue.clone(), 1)),
            }
        }
    }

    pub(crate) fn by_queue(&self) -> Vec<(Arc<str>, u64)> {
        let mut counts: Vec<_> = lock(&self.by_queue).iter().map(|(queue, count)| (queue.clone(), *count)).collect();
        counts.sort();
        counts
    }

    pub(crate) fn by_task(&self) -> Vec<(Arc<str>, u64)> {
        let mut counts: Vec<_> = lock(&self.by_task).iter().map(|(task, count)| (task.clone(), *count)).collect();
        counts.sort();
        counts
    }

    pub(crate) fn processed(&self) -> u64 {
        let counts = self.ends().counts;
        counts.done() + counts.retries + counts.dead
    }
}

impl Shared {
    pub(crate) fn new(
        app: Arc<App>,
        node: Arc<str>,
        client: Client,
        connected: Connected,
        consumer: Arc<dyn Consumer>,
        links: Arc<ConnectionStates>,
    ) -> Self {
        let Connected { broker, results, .. } = connected.clone();
        let one_store = broker.is_store_of(app.settings().results_url());
        let limits = Limits::default().with_msgpack(app.settings().accept_msgpack);
        let environment = app.registry().environment;
        let oid = (environment.id)();
        let store = connected.shared.clone().filter(|_| consumer.lends_again());
        let runs = store.map(|store| Arc::new(RunNotes::new(store, format!("{node} {oid}"))));
        Self {
            app,
            environment,
            node,
            client,
            connected,
            broker,
            lease: consumer.lease(),
            consumer,
            results,
            runs,
            one_store,
            limits,
            hub: links.hub.clone(),
            links,
            counts: Books::default(),
            oid,
            started: environment.now(),
            stopping: CancelToken::new(),
            dropped: CancelToken::new(),
            clock: Mutex::new(events::Clock::new()),
            revoked: Mutex::default(),
            live: Mutex::default(),
            load: LaneLoad::default(),
            paces: Mutex::default(),
            set: Mutex::default(),
        }
    }

    /// Returns the term of our lease that runs now; `None` while it is over, for all that we know.
    pub(crate) fn term(&self) -> Option<Term> {
        match &self.lease {
            Some(lease) => lease.term(self.environment.lease()),
            None => Some(Term::default()),
        }
    }

    pub(crate) fn revoked(&self) -> MutexGuard<'_, RevokedIds> {
        lock(&self.revoked)
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<ClaimedTask>>> {
        lock(&self.live)
    }

    pub(crate) fn clock(&self) -> MutexGuard<'_, events::Clock> {
        lock(&self.clock)
    }

    /// Returns the number of tasks that run.
    pub(crate) fn running(&self) -> usize {
        self.live().values().filter(|work| work.started().is_some()).count()
    }

    /// Counts the tasks that run, and those that wait for a slot.
    pub(crate) fn running_tasks(&self) -> RunningTasks {
        let mut running = RunningTasks::default();
        for work in self.live().values() {
            let Some(start) = work.started() else {
                running.waiting[work.task.lane as usize] += 1;
                continue;
            };
            running.lanes[start.lane as usize] += 1;
            match running.queues.get_mut(&work.queue) {
                Some(count) => *count += 1,
                None => drop(running.queues.insert(work.queue.clone(), 1)),
            }
        }
        running
    }

    /// Returns the tasks that are claimed and not finished.
    pub(crate) fn works(&self) -> Vec<Arc<ClaimedTask>> {
        let mut works: Vec<_> = self.live().values().cloned().collect();
        works.sort_unstable_by_key(|work| work.receipt.0);
        works
    }

    /// Sums up at the end, when nobody adds to the counts any more. `gone_back`: the broker has
    /// taken back whatever was left; of what was about to end nobody knows whether it was.
    pub(crate) fn summary(&self, gone_back: bool, error: Option<String>) -> WorkerSummary {
        let mut counts = self.counts.ends().counts;
        let left = self.works();
        let gone = left.iter().filter(|work| work.is_gone()).count() as u64;
        let untold = left.iter().filter(|work| !work.is_gone() && (!gone_back || work.ending.load(Ordering::Acquire))).count() as u64;
        let returned = left.len() as u64 - gone - untold;
        counts.handed_back += returned;
        counts.lost += gone + self.counts.given_unread.load(Ordering::Relaxed);
        WorkerSummary { counts, untold, error }
    }

    /// Notes ids that must not run any more. Whoever starts a task asks for them.
    pub(crate) fn call_off(&self, ids: &[String]) {
        let now = self.environment.now();
        let mut revoked = self.revoked();
        ids.iter().for_each(|id| revoked.add(id, now));
    }

    /// Returns whether a message's id or one of its stamps is revoked.
    pub(crate) fn is_revoked(&self, message: &Message) -> bool {
        let revoked = self.revoked();
        revoked.has(&message.id)
            || message.stamped_headers.iter().any(|name| message.stamps.get(name).is_some_and(|stamp| revoked.has_stamp(name, stamp)))
    }

    pub(crate) fn overrides(&self, task: &str) -> TaskOverride {
        lock(&self.set).get(task).copied().unwrap_or_default()
    }

    pub(crate) fn set_override(&self, task: &Arc<str>, set: impl FnOnce(&mut TaskOverride)) {
        set(lock(&self.set).entry(task.clone()).or_default());
    }

    /// Returns how long an attempt may take. What its sender says of this one message goes before
    /// what is said of all of its task, as in Celery.
    pub(crate) fn time_limit(&self, work: &ClaimedTask) -> Option<Duration> {
        work.message.time_limit.or_else(|| self.overrides(&work.task.name).hard).or(work.task.policy.time_limit)
    }

    /// Returns the time after which an attempt is told to end; in the same order.
    pub(crate) fn soft_time_limit(&self, work: &ClaimedTask) -> Option<Duration> {
        work.message.soft_time_limit.or_else(|| self.overrides(&work.task.name).soft).or(work.task.policy.soft_time_limit)
    }

    pub(crate) fn rate_of(&self, task: &Task) -> Option<Rate> {
        self.overrides(&task.name).rate.unwrap_or(task.policy.rate_limit)
    }

    /// Reserves the next slot of a task's rate: now, or a time that lies ahead.
    pub(crate) fn reserve(&self, task: &Task, now: Instant) -> Option<Instant> {
        let rate = self.rate_of(task)?;
        let mut paces = lock(&self.paces);
        let (set, pace) = paces.entry(task.name.clone()).or_insert_with(|| (rate, Pace::new(rate)));
        if *set != rate {
            pace.set(rate, now);
            *set = rate;
        }
        let slot = pace.slot(now).max(now);
        pace.wait();
        pace.take(slot);
        Some(slot)
    }

    /// Forgets what was reserved, for a new rate.
    pub(crate) fn forget_pace(&self, task: &str) {
        lock(&self.paces).remove(task);
    }

    pub(crate) fn notice(&self, work: &ClaimedTask, what: TaskChange) -> TaskNotice {
        TaskNotice {
            at: self.environment.wall(),
            message: work.message.clone(),
            queue: work.queue.clone(),
            slot: work.started().map(|start| (start.lane, start.slot)),
            what,
        }
    }
}
