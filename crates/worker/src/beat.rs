//! A scheduler: sends tasks when they are due.
//!
//! Of several on one store one leads; the others ask now and then whether it still does. The one
//! that leads renews its lead, reads the schedules again when they have changed, and sleeps until
//! the next due time.
//!
//! Layout: `beat/event.rs`: what is told; `beat/table.rs`: what is due next; `beat/held.rs`: queues
//! that take nothing for now

mod event;
mod held;
mod table;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::{BrokerError, Fired, Firing, Key, Leading, ScheduleRow, SchedulerName, Schedules};
use longshore_core::{CancelToken, ErrorKind};
use longshore_schedule::NextDue;

pub use self::event::{SchedulerEvent, SchedulerNotice};
use self::{held::HeldQueues, table::Table};
use crate::{
    app::App,
    client::Client,
    error::ClientError,
    schedule::{Schedule, ScheduleOrigin},
    spans::SendSpans,
};

/// Difference between the clock and the time that has passed that is told.
const MOVED: Duration = Duration::from_secs(2);
/// Longest wait before a store that is away is asked again.
const LONGEST: Duration = Duration::from_secs(5);
/// Wait before a scheduler of a worker is tried again that was refused: a permission may come.
const REFUSED: Duration = Duration::from_secs(30);
/// Time that giving the lead back may take.
const LAST: Duration = Duration::from_secs(2);

/// Options of a scheduler.
#[derive(Clone)]
#[non_exhaustive]
pub struct SchedulerOptions {
    /// Its name, for people; `name@host`.
    pub node: String,
    /// Time for which it keeps the lead without a sign of life: another one takes over after it. No
    /// longer than the [longest](Self::LONGEST_TERM).
    pub term: Duration,
    /// Listener that is told what happens.
    pub told: SchedulerNotice,
}

impl SchedulerOptions {
    /// Longest term: the others ask every third of it, and have taken over before what was due is
    /// [late](longshore_schedule::LATE) for schedules that skip what was missed.
    pub const LONGEST_TERM: Duration = Duration::from_secs(40);

    /// The defaults of a scheduler with this name: a term of 6 s, and nobody is told.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), term: Duration::from_secs(6), told: Arc::new(|_| {}) }
    }
}

/// A scheduler: sends tasks when they are due. Any number may share a store; one of them leads.
pub struct Scheduler {
    client: Client,
    store: Arc<dyn Schedules>,
    /// True where the store of the schedules is the broker.
    one_store: bool,
    name: SchedulerName,
    options: SchedulerOptions,
    /// Schedules of this program that the store is to keep.
    own: Vec<Schedule>,
    /// True where a configuration was read, which may have none.
    is_configured: bool,
    state: LeadState,
}

/// What a scheduler knows of the lead. Times are of the clock of leases, in nanoseconds.
#[derive(Default)]
struct LeadState {
    leads: bool,
    /// The one that leads in its place.
    leader: Option<String>,
    /// When the lead was asked for that it has.
    confirmed: Option<u64>,
    /// When it asks again.
    renew: u64,
    /// Version of the schedules that the table has.
    version: Option<u64>,
    table: Table,
    held: HeldQueues,
    /// Both clocks at the last look.
    clocks: Option<(SystemTime, u64)>,
    /// Time that it waits for a store that is away.
    away: Option<Duration>,
    /// True once the store has answered.
    answered: bool,
    /// True once the store keeps the schedules of this program.
    kept: bool,
}

/// Outcome of sending what is due.
enum Attempt {
    /// The store's answer, and the queue that has taken a message.
    Fired(Fired, Option<Arc<str>>),
    /// Its queue takes nothing for now: why.
    Refused(Arc<str>, BrokerError),
    /// Nothing is sent to its queue until then.
    Held(SystemTime),
}

impl Scheduler {
    /// Makes a scheduler over the connections of a client, with the [schedules](App::schedule) of
    /// its app.
    ///
    /// # Errors
    /// Refused: neither the broker nor the result backend keeps schedules.
    pub fn over(app: &App, client: Client, mut options: SchedulerOptions) -> Result<Self, BrokerError> {
        options.term = options.term.min(SchedulerOptions::LONGEST_TERM);
        let store = Arc::clone(client.connected().schedules()?);
        let one_store = client.broker().is_store_of(store.store());
        let name = SchedulerName { token: (client.environment().id)(), node: options.node.clone() };
        let own = app.registry().schedules.clone();
        let is_configured = app.registry().is_configured || own.iter().any(|own| own.origin == ScheduleOrigin::Configuration);
        Ok(Self { client, store, one_store, name, options, own, is_configured, state: LeadState::default() })
    }

    /// Sends what is due until it is told to stop; then gives the lead back. A store that is away
    /// is waited for.
    ///
    /// # Errors
    /// The store refuses us from the first, or is gone for good.
    ///
    /// # Cancel safety
    /// As after a kill: what was sent is noted or, where broker and store are two, may be sent once
    /// more; another scheduler takes over when the term is over.
    pub async fn run(mut self, stop: CancelToken) -> Result<(), BrokerError> {
        let ended = loop {
            let wait = match self.turn(&stop).await {
                Ok(wait) => {
                    self.state.answered = true;
                    if self.state.away.take().is_some() {
                        self.tell(&SchedulerEvent::Back);
                    }
                    wait
                }
                Err(error) if error.kind == ErrorKind::Fatal || (error.kind == ErrorKind::Refused && !self.state.answered) => {
                    break Err(error);
                }
                Err(error) => self.wait_for(error),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        };
        if self.state.leads {
            // Another one need not wait for the end of the term.
            let _ = tokio::time::timeout(LAST, self.store.resign(&self.name)).await;
        }
        ended
    }

    /// Runs the scheduler of a worker. What ends it is told, once for each reason, and it is tried
    /// again until it is told to stop.
    pub(crate) async fn keep_running(app: App, client: Client, options: SchedulerOptions, stop: CancelToken) {
        let mut reason = None;
        while !stop.is_cancelled() {
            let ended = match Self::over(&app, client.clone(), options.clone()) {
                Ok(scheduler) => scheduler.run(stop.clone()).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            if reason.as_ref() != Some(&error.message) {
                (options.told)(&SchedulerEvent::Refused { reason: error.message.clone() });
                reason = Some(error.message);
            }
            let _ = tokio::time::timeout(REFUSED, stop.cancelled()).await;
        }
    }

    fn tell(&self, event: &SchedulerEvent) {
        (self.options.told)(event);
    }

    /// Returns how long to wait for a store that is away.
    fn wait_for(&mut self, error: BrokerError) -> Duration {
        if self.state.away.is_none() {
            self.tell(&SchedulerEvent::Away { reason: error.message });
        }
        let wait = self.state.away.map_or(Duration::from_millis(200), |wait| (wait * 2).min(LONGEST));
        self.state.away = Some(wait);
        wait
    }

    /// Keeps or takes the lead and sends what is due. Returns how long there is nothing to do.
    async fn turn(&mut self, stop: &CancelToken) -> Result<Duration, BrokerError> {
        let environment = self.client.environment();
        self.mind_the_clock();
        self.keep_own().await?;
        if environment.lease() >= self.state.renew {
            self.renew().await?;
        }
        while self.state.leads
            && !stop.is_cancelled()
            && let Some((place, next)) = self.state.table.due(environment.wall())
        {
            if environment.lease() >= self.state.renew {
                return Ok(Duration::ZERO);
            }
            match self.fire(place, next).await? {
                Attempt::Fired(Fired::Done | Fired::Already, queue) => {
                    self.state.table.done(place, next.due, environment.wall());
                    if let Some(queue) = queue.filter(|queue| self.state.held.free(queue)) {
                        self.tell(&SchedulerEvent::QueueBack { queue: queue.to_string() });
                    }
                }
                Attempt::Fired(Fired::Changed | Fired::NotLeading, _) => {
                    self.read_again();
                    return Ok(Duration::ZERO);
                }
                Attempt::Held(until) => self.state.table.put_off(place, until),
                Attempt::Refused(queue, error) => self.hold(place, &queue, error.message),
            }
        }
        let renew = Duration::from_nanos(self.state.renew.saturating_sub(environment.lease()));
        let due = self.state.table.next_at().filter(|_| self.state.leads);
        Ok(due.map_or(renew, |at| at.duration_since(environment.wall()).unwrap_or_default().min(renew)))
    }

    /// Has the lead asked for and the schedules read again.
    fn read_again(&mut self) {
        (self.state.confirmed, self.state.renew) = (None, 0);
    }

    /// Puts off what is due for a queue that takes nothing for now. The others go on.
    fn hold(&mut self, place: usize, queue: &Arc<str>, reason: String) {
        let (until, is_news) = self.state.held.hold(queue, &reason, self.client.environment().wall());
        self.state.table.put_off(place, until);
        if is_news {
            let name = self.state.table.entry(place).schedule.name.clone();
            self.tell(&SchedulerEvent::QueueHeld { name, queue: queue.to_string(), reason });
        }
    }

    /// Tells of a clock that was set. The table has due times behind what was sent, wherever the
    /// clock is.
    fn mind_the_clock(&mut self) {
        let environment = self.client.environment();
        let (wall, passed) = (environment.wall(), environment.lease());
        if let Some((before, began)) = self.state.clocks.replace((wall, passed)) {
            let passed = Duration::from_nanos(passed.saturating_sub(began));
            let should = before + passed;
            let moved = match wall.duration_since(should) {
                Ok(forward) => (forward, 1),
                Err(back) => (back.duration(), -1),
            };
            // A machine that slept shows nothing here: the clock of leases counts that time, too.
            if moved.0 > MOVED {
                let seconds = moved.1 * i64::try_from(moved.0.as_secs()).unwrap_or(i64::MAX);
                self.tell(&SchedulerEvent::ClockMoved { seconds });
                // Queues are tried again by the clock that was set.
                if self.state.held.clear() {
                    self.read_again();
                }
            }
        }
    }

    /// Has the store keep the schedules of this program.
    async fn keep_own(&mut self) -> Result<(), BrokerError> {
        if self.state.kept {
            return Ok(());
        }
        if self.own.is_empty() && !self.is_configured {
            self.state.kept = true;
            return Ok(());
        }
        let rows = self.store.schedules().await?.rows;
        let kept: HashMap<&str, &ScheduleRow> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
        for schedule in &self.own {
            self.keep(schedule, kept.get(schedule.name.as_str()).copied()).await?;
        }
        if self.is_configured {
            for row in rows {
                let is_known = self.own.iter().any(|own| own.name == row.name);
                let was = Schedule::decode(&row.name, &row.spec).is_ok_and(|kept| kept.origin == ScheduleOrigin::Configuration);
                if was && !is_known {
                    self.tell(&SchedulerEvent::Left { name: row.name });
                }
            }
        }
        self.state.kept = true;
        Ok(())
    }

    async fn keep(&self, schedule: &Schedule, kept: Option<&ScheduleRow>) -> Result<(), BrokerError> {
        if schedule.keep_in(&*self.store, kept, self.client.environment().wall()).await? {
            self.tell(&SchedulerEvent::Kept { name: schedule.name.clone() });
        }
        Ok(())
    }

    /// Puts the schedules of this program back that are not in the store. One that says something
    /// else there stays: another program has changed it.
    async fn restore_own(&self) -> Result<(), BrokerError> {
        if self.own.is_empty() {
            return Ok(());
        }
        let rows = self.store.schedules().await?.rows;
        let names: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        for schedule in self.own.iter().filter(|own| !names.contains(own.name.as_str())) {
            self.keep(schedule, None).await?;
        }
        Ok(())
    }

    /// Takes the lead or keeps it, and reads the schedules if they have changed.
    async fn renew(&mut self) -> Result<(), BrokerError> {
        let (asked, term) = (self.client.environment().lease(), self.options.term);
        let term_nanos = u64::try_from(term.as_nanos()).unwrap_or(u64::MAX);
        match self.store.lead(&self.name, term).await? {
            Leading::Ours { version } => {
                // A store that was emptied counts anew; what this program says is put into it
                // again. While another one led it may have been.
                let is_emptied = version < self.state.version.unwrap_or(0).max(u64::from(!self.own.is_empty()));
                if is_emptied || !self.state.leads {
                    self.restore_own().await?;
                }
                // Somebody else may have led since: then its due times are to be read.
                let kept = self.state.leads && self.state.confirmed.is_some_and(|before| asked.saturating_sub(before) < term_nanos);
                if !kept || self.state.version != Some(version) {
                    let (table, unread) = Table::read(self.store.schedules().await?.rows, self.client.environment().wall());
                    for (name, reason) in unread {
                        self.tell(&SchedulerEvent::Unreadable { name, reason });
                    }
                    (self.state.table, self.state.version) = (table, Some(version));
                }
                if !self.state.leads {
                    self.tell(&SchedulerEvent::Leads { schedules: self.state.table.len() });
                }
                (self.state.leads, self.state.leader, self.state.confirmed) = (true, None, Some(asked));
            }
            Leading::Theirs { node } => {
                if self.state.leader.as_ref() != Some(&node) {
                    self.tell(&SchedulerEvent::Waits { leader: node.clone() });
                }
                (self.state.leads, self.state.leader, self.state.confirmed) = (false, Some(node), None);
                self.state.held.clear();
            }
        }
        self.state.renew = asked + term_nanos / 3;
        Ok(())
    }

    /// Sends the task of a due time, and notes it.
    async fn fire(&self, place: usize, next: NextDue) -> Result<Attempt, BrokerError> {
        let entry = self.state.table.entry(place);
        let (schedule, name) = (&entry.schedule, entry.schedule.name.clone());
        let id = schedule.task_id(entry.since, next.due);
        let not_sent = |reason: String| self.tell(&SchedulerEvent::NotSent { name: name.clone(), reason });
        let mut firing = Firing {
            scheduler: self.name.clone(),
            name: name.clone(),
            since: entry.since,
            due: next.due,
            at: self.client.environment().wall(),
            message: None,
        };
        let (mut taken_by, mut spans) = (None, SendSpans::default());
        match self.client.message_of(&schedule.call_of(id.clone())) {
            Ok((message, its)) => {
                if let Some(until) = self.state.held.until(&message.queue, firing.at) {
                    return Ok(Attempt::Held(until));
                }
                taken_by = Some(message.queue.clone());
                (firing.message, spans) = (Some(message), its);
            }
            Err(error) => not_sent(error.to_string()),
        }
        // Where the store is another one the message goes first.
        if !self.one_store
            && let Some(message) = firing.message.take()
        {
            match self.publish(&id, message).await? {
                Published::Done => {}
                Published::NotLeading => return Ok(Attempt::Fired(Fired::NotLeading, None)),
                Published::Refused(error) => (taken_by, _) = (None, not_sent(error.message)),
                Published::Held(queue, error) => return Ok(Attempt::Refused(queue, error)),
            }
        }
        let fired = match (self.store.fire(&firing).await, firing.message.take()) {
            (Ok(fired), _) => fired,
            // The message is refused, or all is: then so is this.
            (Err(error), Some(_)) if error.kind == ErrorKind::Refused => {
                let fired = self.store.fire(&firing).await?;
                (taken_by, _) = (None, not_sent(error.message));
                fired
            }
            (Err(error), Some(message)) if error.kind == ErrorKind::Transient && self.answers().await => {
                return Ok(Attempt::Refused(message.queue, error));
            }
            (Err(error), _) => return Err(error),
        };
        if fired == Fired::Done && next.skips {
            self.tell(&SchedulerEvent::Skipped { name: name.clone(), due: next.due });
        }
        if fired == Fired::Done && taken_by.is_some() {
            spans.end(self.client.maker(), Ok(()));
            self.tell(&SchedulerEvent::Sent { name, task: schedule.call.task.clone(), id, due: next.due });
        }
        Ok(Attempt::Fired(fired, taken_by.filter(|_| fired == Fired::Done)))
    }

    /// Returns whether the broker answers, and the store takes what is said of the lead: then what
    /// was not taken is the trouble of one queue.
    async fn answers(&self) -> bool {
        self.client.broker().ping().await.is_ok() && self.store.lead(&self.name, self.options.term).await.is_ok()
    }

    /// Publishes to a broker that is not the store of the schedules, unless its result is known.
    /// Asks for the lead as late as it can, since the broker does not.
    async fn publish(&self, id: &str, message: longshore_brokers::Outgoing) -> Result<Published, BrokerError> {
        let known = match self.client.results().get(&[Key::Task(id.to_owned())]).await {
            Err(error) if error.kind == ErrorKind::Refused => return Ok(Published::Refused(error)),
            known => known?,
        };
        match self.store.lead(&self.name, self.options.term).await? {
            Leading::Ours { version } if Some(version) == self.state.version => {}
            _ => return Ok(Published::NotLeading),
        }
        if known.first().is_none_or(Option::is_none) {
            let (at, batch) = (self.client.environment().wall(), [message]);
            match self.client.broker().publish_once(id, &batch).await {
                Ok(()) => self.client.tell_sent(at, &batch).await,
                Err(error) if error.kind == ErrorKind::Refused => return Ok(Published::Refused(error)),
                Err(error) if error.kind == ErrorKind::Transient && self.answers().await => {
                    let [message] = batch;
                    return Ok(Published::Held(message.queue, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Published::Done)
    }
}

/// Outcome of publishing the task of a due time.
enum Published {
    Done,
    NotLeading,
    /// It can never be sent.
    Refused(BrokerError),
    /// This queue takes nothing for now.
    Held(Arc<str>, BrokerError),
}

impl Client {
    /// Makes the one message of a task that is not sent by this client itself.
    pub(crate) fn message_of(
        &self,
        call: &longshore_celery::WireSignature,
    ) -> Result<(longshore_brokers::Outgoing, SendSpans), ClientError> {
        let mut plan = self.plan(call, None)?;
        match plan.sends.pop() {
            Some(send) if plan.sends.is_empty() => {
                let mut spans = SendSpans::default();
                Ok((self.outgoing(send, &mut spans), spans))
            }
            _ => Err(ClientError::Signature(format!("{}: it is not one task", call.task))),
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_brokers::connect;
    use longshore_schedule::LATE;

    use super::*;

    #[tokio::test]
    async fn of_the_longest_term_another_scheduler_takes_over_before_a_run_is_late() {
        let app = App::new();
        for (asked, term) in [(Duration::from_secs(6), Duration::from_secs(6)), (LATE, SchedulerOptions::LONGEST_TERM)] {
            let client = Client::over(&app, connect("memory://beat-term", None).unwrap());
            let mut options = SchedulerOptions::new("s@here");
            options.term = asked;
            let held = Scheduler::over(&app, client, options).unwrap().options.term;
            assert_eq!(held, term);
            // The others ask every third of their term.
            assert!(held + held / 3 + LAST < LATE);
        }
    }
}
