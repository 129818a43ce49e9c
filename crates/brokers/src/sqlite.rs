//! Queues and results in an SQLite file: a task queue with no server. Any number of processes of
//! one machine may have the file open.
//!
//! `sqlite:PATH`, with two parameters:
//! - `?sync=full` (the default): a commit is on the disk before anybody is told; what was confirmed
//!   survives a loss of power. Everything that waits is committed together, so that many wait for
//!   one write of the disk.
//! - `?sync=normal`: a commit is with the system; what was confirmed survives the death of any
//!   process, but a loss of power or a crash of the system may take the last moments back: tasks
//!   that were sent may be gone, tasks that were finished may run again. The file stays sound.
//! - `?max_size=BYTES`: the file grows no larger; whoever wants to send more than it holds fails as
//!   with a full disk.
//!
//! A write that cannot be done now (a full disk, one that fails) is undone, and that is said
//! ([`ErrorKind::Unwritable`]); workers wait until it can be. A value that the file can never take
//! (it is too large) is refused to whoever asked for it, and nobody else. Nothing counts as done
//! that is not in the file.
//!
//! If the file cannot be trusted any more (it is damaged, or was taken away), nothing is done with
//! it until it is opened anew: every call fails with [`ErrorKind::Fatal`].
//!
//! A worker that died is noticed at once by the others on the same machine (its process is gone),
//! or (it hangs, it runs in another container) when its heartbeat in the file has not changed for
//! its lease, by the watch of who looks: no clock of another process counts, and none of the wall.
//!
//! Layout:
//! - `sqlite/file.rs`: URL, tables, opening, what errors mean
//! - `sqlite/beside.rs`: whether it and what SQLite keeps beside it are still those that are open
//! - `sqlite/store.rs`: an open file; `sqlite/writer.rs`: the thread that commits in groups;
//!   `sqlite/save.rs`: the one that copies what is committed into the file;
//!   `sqlite/wake.rs`: waking across processes
//! - `sqlite/queues.rs`: messages, in SQL; `sqlite/consumer.rs`: claiming and waiting
//! - `sqlite/list.rs`: what lies there, for people; `sqlite/count.rs`: how much
//! - `sqlite/shared.rs`: rates and revoked ids; `sqlite/runs.rs`: who runs what;
//!   `sqlite/sends.rs`: what is sent once; `sqlite/schedules.rs`: schedules
//! - `sqlite/owners.rs`: leases and rescue; `sqlite/life.rs`: who is alive
//! - `sqlite/bus.rs`: broadcasts, replies, waiting for results; `sqlite/sweep.rs`: what has expired
//! - `sqlite/results.rs`: results and chords

mod beside;
pub(crate) mod bus;
mod consumer;
mod count;
mod file;
mod life;
mod list;
mod owners;
mod queues;
mod results;
mod runs;
mod save;
mod schedules;
mod sends;
mod shared;
mod store;
mod sweep;
mod wake;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::{ErrorKind, Rate};

use self::{consumer::SqliteConsumer, store::Store};
pub(crate) use self::{
    queues::{millis, now},
    writer::Step,
};
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueState},
    connected::{Connected, Halves},
    error::BrokerError,
    halves::{
        Bus, DeadLetter, DeadLetters, Fired, Firing, Found, Inspect, Leading, LimitState, ScheduleBook, SchedulerName, Schedules,
        SharedState, Subscription,
    },
    message::Outgoing,
    names,
    news::Notice,
    rates::{Bucket, Slot},
    send_notes::{NotedEnd, NotedSend, SendNote},
};

/// Longest time that a broadcast waits for another program that writes: it is for those who listen
/// now.
const HEARD: Duration = Duration::from_secs(1);

/// An open file: broker and result backend. A clone is the same one; the file is closed with the
/// last of them.
#[derive(Clone)]
pub struct Sqlite(pub(crate) Arc<Store>);

impl Sqlite {
    /// Opens the file of this URL, and makes it if it is not there (its directory must be).
    ///
    /// # Errors
    /// Refused: the URL is wrong, the file is not ours, was made by a newer version, or cannot be
    /// opened.
    pub fn open(url: &str) -> Result<Self, BrokerError> {
        Self::open_with(url, Arc::new(|_| {}))
    }

    /// Opens the file as well; the notice is told when a worker has to wait because the file can
    /// take nothing, and when that is over.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(url: &str, notice: Notice) -> Result<Self, BrokerError> {
        Store::open(file::place(url)?, notice).map(Self)
    }

    /// Refuses messages that the file does not take.
    fn check(&self, batch: &[Outgoing]) -> Result<(), BrokerError> {
        if let Some(why) = queues::too_large(batch) {
            let message = format!("{}: {why}", Broker::url(self));
            return Err(BrokerError { kind: ErrorKind::Refused, message });
        }
        names::check_all("", batch)
    }
}

pub(crate) fn connect(url: &str, notice: Notice) -> Result<Halves, BrokerError> {
    let handle = Arc::new(Sqlite::open_with(url, notice)?);
    Ok(Connected::whole(handle.clone(), handle).into())
}

impl Broker for Sqlite {
    fn url(&self) -> &str {
        &self.0.shared.place.url
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        async move {
            let begun = Instant::now();
            self.0.read(|conn| conn.query_row("SELECT count(*) FROM owners", [], |row| row.get::<_, i64>(0))).await?;
            Ok((format!("sqlite {}", rusqlite::version()), begun.elapsed()))
        }
        .boxed()
    }

    fn is_store_of(&self, results_url: &str) -> bool {
        let is_file = crate::urls::is_file(results_url) || results_url.starts_with("sqlite:");
        is_file && file::place(results_url).is_ok_and(|place| file::same_file(&place.path, &self.0.shared.place.path))
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        async move {
            names::check("", options.queues.iter().map(|queue| &**queue))?;
            Ok(Arc::new(SqliteConsumer::open(Arc::clone(&self.0), options).await?) as Arc<dyn Consumer>)
        }
        .boxed()
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            self.check(batch)?;
            let batch = batch.to_vec();
            self.0.write(move |step| queues::publish(step, &batch)).await
        }
        .boxed()
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        let names = names.to_vec();
        self.0.count(move |conn| list::states(conn, &names)).boxed()
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let queue = queue.to_owned();
        self.0.write(move |step| queues::purge(step.conn, &queue)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let store = Arc::clone(&self.0);
        async move { tokio::task::spawn_blocking(move || store.close()).await.unwrap_or(()) }.boxed()
    }
}

impl Bus for Sqlite {
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        if bus::is_heartbeat(exchange, routing_key) {
            let (exchange, key, raw) = (exchange.to_owned(), routing_key.to_owned(), raw.to_vec());
            // An idle worker touches the file no more often than its lease asks for.
            let done = self.0.write_along(move |step| bus::tell(step, &exchange, &key, &raw));
            return std::future::ready(done).boxed();
        }
        async move {
            let (exchange, key, raw) = (exchange.to_owned(), routing_key.to_owned(), raw.to_vec());
            let told = self.0.write(move |step| bus::tell(step, &exchange, &key, &raw));
            // It is told all the same, when the file is free.
            tokio::time::timeout(HEARD, told).await.unwrap_or_else(|_| {
                let message = format!("{}: another program keeps it locked; those who listen hear of it later", Broker::url(self));
                Err(BrokerError { kind: ErrorKind::Transient, message })
            })
        }
        .boxed()
    }

    fn broadcast_counted<'a>(
        &'a self,
        exchange: &'a str,
        routing_key: &'a str,
        raw: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        async move {
            self.broadcast(exchange, routing_key, raw).await?;
            // Who serves queues of this file listens to it. Where nobody does, it may be the bus of
            // another broker.
            let workers: i64 = self.0.read(|conn| conn.query_row("SELECT count(*) FROM owners", [], |row| row.get(0))).await?;
            Ok(u64::try_from(workers).ok().filter(|workers| *workers > 0))
        }
        .boxed()
    }

    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        bus::subscribe(&self.0.shared, exchange, pattern).boxed()
    }

    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.broadcast(exchange, routing_key, raw)
    }

    fn replies<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        self.subscribe(crate::REPLIES, oid)
    }
}

impl Inspect for Sqlite {
    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let queue = queue.to_owned();
        self.0.look_through(move |conn| list::peek(conn, &queue, most)).boxed()
    }

    fn look_ahead<'a>(&'a self, queue: &'a str, most: usize, words: &'static [&'static [u8]]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let queue = queue.to_owned();
        self.0.look_through(move |conn| list::look_ahead(conn, &queue, most, words)).boxed()
    }

    fn later<'a>(&'a self, queues: &'a [Arc<str>], most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let names = queues.to_vec();
        self.0.look_through(move |conn| list::later(conn, &names, most)).boxed()
    }

    fn transfer<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        async move {
            names::check("", [to])?;
            let (from, to) = (from.to_owned(), to.to_owned());
            self.0.write(move |step| queues::transfer(step, &from, &to)).await
        }
        .boxed()
    }

    fn pause<'a>(&'a self, queue: &'a str, by: Option<&'a str>) -> BoxFuture<'a, Result<(), BrokerError>> {
        let (queue, by) = (queue.to_owned(), by.map(str::to_owned));
        self.0.write(move |step| queues::pause(step, &queue, by.as_deref())).boxed()
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        let id = id.to_owned();
        self.0.look_through(move |conn| list::find(conn, &id)).boxed()
    }

    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        let queue = queue.map(str::to_owned);
        self.0.look_through(move |conn| list::list(conn, queue.as_deref(), most)).boxed()
    }
}

impl DeadLetters for Sqlite {
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>> {
        let queue = queue.map(str::to_owned);
        self.0.look_through(move |conn| queues::dead(conn, queue.as_deref())).boxed()
    }

    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let keys: Vec<_> = letters.iter().map(|letter| letter.key.clone()).collect();
        self.0.write(move |step| queues::settle_dead(step, &keys, retry)).boxed()
    }
}

impl SharedState for Sqlite {
    fn reserve<'a>(&'a self, limit: &'a str, rate: Rate, count: usize) -> BoxFuture<'a, Result<Vec<Slot>, BrokerError>> {
        let limit = limit.to_owned();
        self.0.write(move |step| shared::reserve(step, &limit, Bucket::of(rate), count)).boxed()
    }

    fn set_limit<'a>(&'a self, limit: &'a str, rate: Option<Rate>) -> BoxFuture<'a, Result<(), BrokerError>> {
        let limit = limit.to_owned();
        self.0.write(move |step| shared::set_limit(step, &limit, rate.map(Bucket::of))).boxed()
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitState>, BrokerError>> {
        self.0.look_through(shared::limits).boxed()
    }

    fn revoke<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let ids = ids.to_vec();
        self.0.write(move |step| shared::revoke(step, &ids)).boxed()
    }

    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>> {
        self.0.look_through(shared::revoked).boxed()
    }

    fn note_runs<'a>(&'a self, worker: &'a str, ids: &'a [String], time: Duration) -> BoxFuture<'a, Result<Vec<bool>, BrokerError>> {
        let (worker, ids) = (worker.to_owned(), ids.to_vec());
        self.0.write(move |step| runs::note(step, &worker, &ids, time)).boxed()
    }

    fn forget_runs<'a>(&'a self, worker: &'a str, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let (worker, ids) = (worker.to_owned(), ids.to_vec());
        self.0.write(move |step| runs::forget(step, &worker, &ids)).boxed()
    }

    fn note_send<'a>(&'a self, note: &'a SendNote) -> BoxFuture<'a, Result<NotedSend, BrokerError>> {
        let note = note.clone();
        self.0.write(move |step| sends::note(step, &note)).boxed()
    }

    fn end_send<'a>(&'a self, note: &'a SendNote, ending: NotedEnd) -> BoxFuture<'a, Result<(), BrokerError>> {
        let note = note.clone();
        self.0.write(move |step| sends::end(step, &note, ending)).boxed()
    }
}

impl Schedules for Sqlite {
    fn store(&self) -> &str {
        Broker::url(self)
    }

    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (name, spec, at) = (name.to_owned(), spec.to_owned(), queues::floor(at));
        self.0.write(move |step| schedules::put(step, &name, &spec, at)).boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let name = name.to_owned();
        self.0.write(move |step| schedules::remove(step, &name)).boxed()
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (name, by, at) = (name.to_owned(), by.map(str::to_owned), queues::floor(at));
        self.0.write(move |step| schedules::pause(step, &name, by.as_deref(), at)).boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>> {
        self.0.look_through(schedules::book).boxed()
    }

    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>> {
        async move {
            let (who, scheduler) = (scheduler.clone(), scheduler.clone());
            if let Some(theirs) = self.0.read(move |conn| schedules::look(conn, &who)).await? {
                return Ok(theirs);
            }
            self.0.write(move |step| schedules::lead(step, &scheduler, term)).await
        }
        .boxed()
    }

    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>> {
        let scheduler = scheduler.clone();
        self.0.write(move |step| schedules::resign(step, &scheduler)).boxed()
    }

    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>> {
        async move {
            self.check(firing.message.as_slice())?;
            let firing = firing.clone();
            self.0.write(move |step| schedules::fire(step, &firing)).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use crate::conformance::Subject;

    fn subject() -> Subject {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}?sync=normal", directory.path().join("tasks.db").display());
        Subject {
            connect: Box::new(move || crate::connect(&url, None).expect("the file opens")),
            keep: Box::new(directory),
            lacks: crate::conformance::Lacks::default(),
        }
    }

    crate::conformance!(conforms, subject());
}
