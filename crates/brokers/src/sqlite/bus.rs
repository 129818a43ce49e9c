//! Broadcasts, replies and results, as those who wait for them in this process get them: rows that
//! were not there before.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc::{self, error::TrySendError};

use longshore_celery::events::EXCHANGE;

use super::{life, owners, store::StoreShared};
use crate::{
    error::BrokerError,
    halves::{LeftOut, Subscription},
    pattern::matches,
    results::{Key, Watch},
    sqlite::results as documents,
};

/// Messages beyond which a subscription that does not keep up loses those that come.
const MOST_UNREAD: usize = 10_000;

#[derive(Default)]
pub(crate) struct FileBus(Mutex<BusState>);

#[derive(Default)]
struct BusState {
    conn: Option<Connection>,
    listeners: Vec<FileListener>,
    watchers: Vec<Watcher>,
    /// The last rows that were delivered.
    bus: i64,
    results: i64,
    last: u64,
}

struct FileListener {
    number: u64,
    exchange: String,
    pattern: String,
    /// Number of the last message that came before it, and is not for it.
    from: i64,
    sender: mpsc::Sender<(String, Vec<u8>)>,
    left_out: LeftOut,
}

struct Watcher {
    number: u64,
    ids: HashSet<String>,
    from: i64,
    sender: mpsc::Sender<(String, Vec<u8>)>,
    /// There was no room for these.
    behind: BTreeSet<String>,
}

fn last(conn: &Connection, table: &str) -> rusqlite::Result<i64> {
    conn.query_row(&format!("SELECT coalesce(max(id), 0) FROM {table}"), [], |row| row.get(0))
}

impl BusState {
    fn conn<'a>(conn: &'a mut Option<Connection>, shared: &StoreShared) -> rusqlite::Result<&'a Connection> {
        Ok(match conn {
            Some(conn) => conn,
            None => conn.insert(shared.connect()?),
        })
    }

    fn listen(
        &mut self,
        shared: &StoreShared,
        exchange: &str,
        pattern: &str,
    ) -> rusqlite::Result<(u64, mpsc::Receiver<(String, Vec<u8>)>, LeftOut)> {
        let from = last(Self::conn(&mut self.conn, shared)?, "bus")?;
        if self.listeners.is_empty() {
            self.bus = from;
        }
        let (sender, messages) = mpsc::channel(MOST_UNREAD);
        self.last += 1;
        let left_out = LeftOut::default();
        let (exchange, pattern) = (exchange.to_owned(), pattern.to_owned());
        self.listeners.push(FileListener { number: self.last, exchange, pattern, from, sender, left_out: left_out.clone() });
        Ok((self.last, messages, left_out))
    }

    /// Begins a watch; returns its number, what is stored, and what will be.
    fn watch(
        &mut self,
        shared: &StoreShared,
        ids: &[String],
    ) -> rusqlite::Result<(u64, Vec<Option<Vec<u8>>>, mpsc::Receiver<(String, Vec<u8>)>)> {
        let conn = Self::conn(&mut self.conn, shared)?;
        let from = last(conn, "results")?;
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let stored = documents::get(conn, &keys)?;
        if self.watchers.is_empty() {
            self.results = from;
        }
        let (sender, results) = mpsc::channel(256);
        self.last += 1;
        let ids = ids.iter().cloned().collect();
        self.watchers.push(Watcher { number: self.last, ids, from, sender, behind: BTreeSet::new() });
        Ok((self.last, stored, results))
    }

    /// Hands out what is new; returns true if nobody is behind.
    fn deliver(&mut self, shared: &StoreShared) -> rusqlite::Result<bool> {
        if self.listeners.is_empty() && self.watchers.is_empty() {
            return Ok(true);
        }
        let conn = Self::conn(&mut self.conn, shared)?;
        if !self.listeners.is_empty() {
            let mut new = conn.prepare_cached("SELECT id, exchange, routing_key, raw FROM bus WHERE id > ?1 ORDER BY id")?;
            let mut rows = new.query([self.bus])?;
            while let Some(row) = rows.next()? {
                let (id, exchange, key, raw): (i64, String, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                for listener in &self.listeners {
                    if listener.from < id && listener.exchange == exchange && matches(&listener.pattern, &key) {
                        // Nobody waits for a listener that does not keep up.
                        listener.left_out.note(listener.sender.try_send((key.clone(), raw.clone())));
                    }
                }
                self.bus = id;
            }
        }
        if !self.watchers.is_empty() {
            let mut new = conn.prepare_cached("SELECT id, key, doc FROM results WHERE id > ?1 ORDER BY id")?;
            let mut rows = new.query([self.results])?;
            while let Some(row) = rows.next()? {
                let (id, key): (i64, String) = (row.get(0)?, row.get(1)?);
                if let Some(task) = documents::task(&key) {
                    for watcher in self.watchers.iter_mut().filter(|watcher| watcher.from < id && watcher.ids.contains(task)) {
                        watcher.send(task, row.get(2)?);
                    }
                }
                self.results = id;
            }
        }
        let mut caught_up = true;
        for watcher in &mut self.watchers {
            caught_up &= watcher.catch_up(conn)?;
        }
        Ok(caught_up)
    }
}

impl Watcher {
    fn send(&mut self, id: &str, doc: Vec<u8>) {
        if !self.behind.is_empty() || matches!(self.sender.try_send((id.to_owned(), doc)), Err(TrySendError::Full(_))) {
            self.behind.insert(id.to_owned());
        }
    }

    /// Sends what there was no room for, as it is now.
    fn catch_up(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        while let Some(id) = self.behind.first().cloned() {
            let Ok(permit) = self.sender.try_reserve() else { return Ok(self.sender.is_closed()) };
            let mut get = conn.prepare_cached("SELECT doc FROM results WHERE key = ?1")?;
            if let Some(doc) = get.query_row([documents::name(&Key::Task(id.clone()))], |row| row.get(0)).optional()? {
                permit.send((id.clone(), doc));
            }
            self.behind.remove(&id);
        }
        Ok(true)
    }
}

impl FileBus {
    /// Owners of messages that are surely dead.
    pub(crate) fn surely_dead(&self, shared: &StoreShared) -> rusqlite::Result<Vec<i64>> {
        let mut state = self.lock();
        let all = owners::all(BusState::conn(&mut state.conn, shared)?)?;
        Ok(all.iter().filter(|owner| life::surely_dead(&owner.who)).map(|owner| owner.number).collect())
    }

    /// Returns whether somebody here wants to see the heartbeats of workers, which ring no bell.
    pub(crate) fn is_watched_closely(&self) -> bool {
        self.lock().listeners.iter().any(|listener| listener.exchange == EXCHANGE)
    }

    /// Ends its connection, and all subscriptions.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.listeners.clear();
        state.watchers.clear();
        state.conn = None;
    }

    fn lock(&self) -> MutexGuard<'_, BusState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what is new. Whether all have taken it.
    pub(crate) fn deliver(&self, shared: &StoreShared) -> bool {
        if shared.poisoned().is_err() {
            // The subscriptions end, so that nobody waits for ever.
            let mut state = self.lock();
            state.listeners.clear();
            state.watchers.clear();
            return true;
        }
        if shared.may_look().is_err() {
            return true;
        }
        let delivered = self.lock().deliver(shared);
        delivered.map_err(|error| shared.fault(&error)).unwrap_or(false)
    }
}

/// Ends a subscription when it is dropped.
struct BusGuard {
    shared: Arc<StoreShared>,
    number: u64,
}

impl Drop for BusGuard {
    fn drop(&mut self) {
        let mut state = self.shared.bus.lock();
        state.listeners.retain(|listener| listener.number != self.number);
        state.watchers.retain(|watcher| watcher.number != self.number);
    }
}

async fn off_the_runtime<T: Send + 'static>(
    shared: &Arc<StoreShared>,
    step: impl FnOnce(&Arc<StoreShared>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, BrokerError> {
    shared.poisoned()?;
    let shared = Arc::clone(shared);
    let path = shared.place.path.clone();
    let done = tokio::task::spawn_blocking(move || step(&shared).map_err(|error| shared.fault(&error))).await;
    done.unwrap_or_else(|_| {
        let message = format!("{}: the program is ending", path.display());
        Err(BrokerError { kind: longshore_core::ErrorKind::Fatal, message })
    })
}

pub(crate) async fn subscribe(shared: &Arc<StoreShared>, exchange: &str, pattern: &str) -> Result<Subscription, BrokerError> {
    let (exchange, pattern) = (exchange.to_owned(), pattern.to_owned());
    off_the_runtime(shared, move |shared| {
        let (number, messages, left_out) = shared.bus.lock().listen(shared, &exchange, &pattern)?;
        Ok(Subscription { messages, left_out, guard: Box::new(BusGuard { shared: Arc::clone(shared), number }) })
    })
    .await
}

pub(crate) async fn watch(shared: &Arc<StoreShared>, ids: &[String]) -> Result<Watch, BrokerError> {
    let ids = ids.to_vec();
    off_the_runtime(shared, move |shared| {
        let (number, stored, results) = shared.bus.lock().watch(shared, &ids)?;
        Ok(Watch { stored, results, guard: Box::new(BusGuard { shared: Arc::clone(shared), number }) })
    })
    .await
}

/// Returns true for the heartbeat of a worker: it comes again, and nobody waits for it.
pub(crate) fn is_heartbeat(exchange: &str, routing_key: &str) -> bool {
    exchange == EXCHANGE && routing_key == "worker.heartbeat"
}

/// Writes a broadcast for all who listen. A heartbeat wakes nobody.
pub(crate) fn tell(step: &mut super::writer::Step<'_>, exchange: &str, key: &str, raw: &[u8]) -> rusqlite::Result<()> {
    let mut insert = step.conn.prepare_cached("INSERT INTO bus(at, exchange, routing_key, raw) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![super::queues::now(), exchange, key, raw])?;
    step.wake |= !is_heartbeat(exchange, key);
    Ok(())
}
