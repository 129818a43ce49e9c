//! Results as messages to whoever asked (`rpc://`): kept by nobody, known to nobody else.
//!
//! A worker sends each state to the queue that its message names (`reply_to`); a client has a queue
//! of its own, and remembers what came there.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use tokio::sync::mpsc;

use super::{
    fail::refused,
    link::{Link, Wait, locked},
    parts::Parcel,
    publish::{Publisher, Routed},
    tap::{OwnQueue, Tap, unique},
};
use crate::{
    error::BrokerError,
    json,
    results::{Key, ResultBackend, Stored, Watch},
};

/// The URL.
pub(super) const URL: &str = "rpc://";
/// Most results, and most bytes of them, that a client remembers. Those that somebody was given go
/// first, then the oldest.
const MOST: (usize, usize) = (100_000, 64 << 20);
/// Milliseconds for which results wait for a client whose connection is away.
const EXPIRES: i64 = 600_000;

/// Sends results, and takes those of what this process has sent.
pub(super) struct RpcResults {
    publisher: Arc<Publisher>,
    sends: Arc<Link>,
    listens: Arc<Link>,
    /// Our queue.
    oid: Arc<str>,
    tap: tokio::sync::Mutex<Option<Tap>>,
    received: Arc<Mutex<Received>>,
    watchers: AtomicU64,
}

/// Results that have come.
#[derive(Default)]
struct Received {
    documents: HashMap<String, Document>,
    /// Ids in the order in which they first came; some may be forgotten since.
    order: VecDeque<String>,
    /// Ids of those that somebody was given, which go first; some may be forgotten since.
    given: VecDeque<String>,
    /// Ids of those for which there was no room any more: whoever waits for one is told.
    dropped: HashSet<String>,
    bytes: usize,
    watchers: HashMap<u64, Watcher>,
}

/// A result.
struct Document {
    bytes: Vec<u8>,
    /// Somebody was given it as the last of its task.
    given: bool,
}

struct Watcher {
    ids: HashSet<String>,
    /// Takes ids of which there is something new, with it; a last result stays where it is, and is
    /// not kept twice.
    sink: mpsc::UnboundedSender<(String, Option<Vec<u8>>)>,
}

impl Received {
    /// Takes a result in. A success stays: an attempt of a dead worker may end late.
    fn take(&mut self, id: String, document: Vec<u8>) {
        if self.documents.get(&id).is_some_and(|before| json::is_success(&before.bytes)) {
            return;
        }
        for watcher in self.watchers.values().filter(|watcher| watcher.ids.contains(&id)) {
            let _ = watcher.sink.send((id.clone(), (!is_over(&document)).then(|| document.clone())));
        }
        self.bytes += document.len();
        match self.documents.insert(id.clone(), Document { bytes: document, given: false }) {
            Some(before) => self.bytes -= before.bytes.len(),
            None => self.order.push_back(id),
        }
        while self.documents.len() > MOST.0 || self.bytes > MOST.1 || self.order.len() > 2 * MOST.0 {
            let Some(oldest) = self.given.pop_front().or_else(|| self.order.pop_front()) else { break };
            if self.forget(&oldest) {
                if self.dropped.len() >= MOST.0 {
                    self.dropped.clear();
                }
                self.dropped.insert(oldest);
            }
        }
    }

    /// Returns a result for whoever asks.
    fn give(&mut self, id: &str) -> Option<Vec<u8>> {
        let document = self.documents.get_mut(id)?;
        if !document.given && is_over(&document.bytes) {
            document.given = true;
            self.given.push_back(id.to_owned());
        }
        Some(document.bytes.clone())
    }

    /// Returns one of these whose result came and was dropped: nobody will be told of it.
    fn dropped<'a>(&self, mut ids: impl Iterator<Item = &'a String>) -> Option<&'a String> {
        if self.dropped.is_empty() {
            return None;
        }
        ids.find(|id| self.dropped.contains(*id) && !self.documents.contains_key(*id))
    }

    fn forget(&mut self, id: &str) -> bool {
        let gone = self.documents.remove(id);
        self.bytes -= gone.as_ref().map_or(0, |gone| gone.bytes.len());
        if self.given.len() > 2 * MOST.0 {
            self.given.retain(|id| self.documents.contains_key(id));
        }
        gone.is_some()
    }
}

impl RpcResults {
    pub(super) fn new(publisher: Arc<Publisher>, sends: Arc<Link>) -> Self {
        let listens = Arc::new(sends.beside("takes results".to_owned()));
        let (oid, tap, received) = (unique().into(), tokio::sync::Mutex::default(), Arc::default());
        Self { publisher, sends, listens, oid, tap, received, watchers: AtomicU64::default() }
    }

    /// Says that a result was not kept.
    fn no_room(&self, id: &str) -> BrokerError {
        let what = format!(
            "the result of {id} came and was not kept: a client remembers {} results and {} MiB of them, and forgets those first that \
             were read; ask for them as they come, or name a result backend that keeps them (SQLite, Redis)",
            MOST.0,
            MOST.1 >> 20
        );
        refused(&self.sends.place(), &what)
    }

    /// Ends its connection, and its queue.
    pub(super) async fn close(&self) {
        if let Some(tap) = self.tap.lock().await.take() {
            tap.close().await;
        }
        self.listens.close().await;
    }
}

/// Returns whether a result is the last of its task.
fn is_over(document: &[u8]) -> bool {
    matches!(json::text(document, &["status"]), Some("SUCCESS" | "FAILURE" | "REVOKED"))
}

/// Returns the message of a result; `None` of what nobody asked for.
///
/// # Errors
/// It is nothing that can be sent; the reason, for people.
pub(super) fn routed(stored: &Stored) -> Result<Option<Routed>, String> {
    let id = match &stored.key {
        Key::Task(id) => id,
        Key::Message(_) => return Ok(None),
        Key::Group(_) => return Err(NO_GROUPS.to_owned()),
    };
    let Some(reply_to) = stored.reply_to.as_deref().filter(|queue| !queue.is_empty()) else { return Ok(None) };
    // A client that dies with its queue is no trouble of the worker's, nor is a name that no queue
    // can have.
    if reply_to.len() > 255 || id.len() > 255 {
        return Ok(None);
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(1)
        .with_priority(0)
        .with_correlation_id(id.as_str().into());
    Ok(Some(Routed::over(&"".into(), reply_to, Parcel::read(&properties, stored.doc.clone()))))
}

/// Reason why there are no chords.
pub(super) const NO_CHORDS: &str = "results are sent to whoever asked and kept by nobody, so the parts of a chord are not counted; name a result backend \
                                    that keeps them (SQLite, Redis)";
const NO_GROUPS: &str = "results are sent to whoever asked and kept by nobody, so no group can be saved; name a result backend that keeps them \
                         (SQLite, Redis)";

impl ResultBackend for RpcResults {
    fn url(&self) -> &str {
        URL
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        Box::pin(self.sends.ping())
    }

    fn store<'a>(&'a self, batch: &'a [Stored]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let place = self.sends.place();
            let sends: Result<Vec<_>, _> = batch.iter().filter_map(|stored| routed(stored).transpose()).collect();
            let refusals = self.publisher.send(&sends.map_err(|why| refused(&place, &why))?, Wait::Patience).await?;
            refusals.into_iter().flatten().next().map_or(Ok(()), |why| Err(refused(&place, &why)))
        })
    }

    fn get<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let mut received = locked(&self.received);
        let ids = keys.iter().filter_map(|key| if let Key::Task(id) = key { Some(id) } else { None });
        let answer = match received.dropped(ids) {
            Some(id) => Err(self.no_room(id)),
            None => Ok(keys.iter().map(|key| if let Key::Task(id) = key { received.give(id) } else { None }).collect()),
        };
        Box::pin(std::future::ready(answer))
    }

    fn forget<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let mut received = locked(&self.received);
        let count = keys.iter().filter(|key| matches!(key, Key::Task(id) if received.forget(id))).count();
        Box::pin(std::future::ready(Ok(count as u64)))
    }

    fn watch<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Watch, BrokerError>> {
        Box::pin(async move {
            self.listen().await?;
            let (sink, mut came) = mpsc::unbounded_channel();
            let number = self.watchers.fetch_add(1, Ordering::Relaxed);
            let stored = {
                let mut received = locked(&self.received);
                if let Some(id) = received.dropped(ids.iter()) {
                    return Err(self.no_room(id));
                }
                received.watchers.insert(number, Watcher { ids: ids.iter().cloned().collect(), sink });
                ids.iter().map(|id| received.give(id)).collect()
            };
            let (out, results) = mpsc::channel(64);
            let received = self.received.clone();
            tokio::spawn(async move {
                while let Some((id, document)) = came.recv().await {
                    let Ok(place) = out.reserve().await else { break };
                    let document = document.or_else(|| locked(&received).give(&id));
                    if let Some(document) = document {
                        place.send((id, document));
                    }
                }
            });
            Ok(Watch { stored, results, guard: Box::new(Watching { received: self.received.clone(), number }) })
        })
    }

    fn reply_queue(&self) -> Option<&str> {
        Some(&self.oid)
    }

    fn listen(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            let mut tap = self.tap.lock().await;
            if tap.is_some() {
                return Ok(());
            }
            let received = self.received.clone();
            let queue =
                OwnQueue { name: self.oid.clone(), exclusive: false, acknowledged: true, expires: EXPIRES, message_ttl: None, bound: None };
            let opened = Tap::open(self.listens.clone(), queue, move |delivery| {
                // Celery may be asked for another correlation id; what is inside names the task.
                let named = json::text(&delivery.data, &["task_id"]).map(str::to_owned);
                let id = named.or_else(|| delivery.properties.correlation_id().as_ref().map(ToString::to_string));
                if let Some(id) = id {
                    locked(&received).take(id, delivery.data);
                }
            });
            *tap = Some(opened.await?);
            Ok(())
        })
    }
}

/// Ends a subscription when it is dropped.
struct Watching {
    received: Arc<Mutex<Received>>,
    number: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        locked(&self.received).watchers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(documents: &[(&str, &str)]) -> Received {
        let mut received = Received::default();
        for (id, document) in documents {
            received.take((*id).to_owned(), document.as_bytes().to_vec());
        }
        received
    }

    #[test]
    fn the_last_state_counts_and_a_success_stays() {
        let (started, success, failure) = (r#"{"status": "STARTED"}"#, r#"{"status": "SUCCESS"}"#, r#"{"status": "FAILURE"}"#);
        for (came, stays) in
            [([started, success, failure], success), ([failure, started, success], success), ([started, failure, started], started)]
        {
            let received = received(&came.map(|document| ("a", document)));
            assert_eq!((received.documents["a"].bytes.as_slice(), received.bytes), (stays.as_bytes(), stays.len()), "{came:?}");
        }
    }

    #[test]
    fn what_is_remembered_has_a_limit_and_the_oldest_goes_first() {
        let mut received = received(&[("first", "1")]);
        received.take("large".to_owned(), vec![b'x'; MOST.1 - 1]);
        assert_eq!(received.documents.len(), 2);
        received.take("last".to_owned(), b"2".to_vec());
        assert_eq!((received.documents.contains_key("first"), received.bytes), (false, MOST.1));
        assert_eq!(received.dropped([&"last".to_owned(), &"first".to_owned()].into_iter()).map(String::as_str), Some("first"));
        assert!(received.forget("large") && !received.forget("large"));
        assert_eq!((received.documents.len(), received.bytes), (1, 1));
    }

    #[test]
    fn what_somebody_was_given_goes_before_what_nobody_has_asked_for() {
        let mut received = received(&[("unread", r#"{"status": "SUCCESS"}"#), ("read", r#"{"status": "FAILURE"}"#)]);
        assert!(received.give("read").is_some());
        received.take("large".to_owned(), vec![b'x'; MOST.1 - 30]);
        let names: Vec<&String> =
            ["unread", "read"].map(|name| received.documents.keys().find(|key| *key == name)).into_iter().flatten().collect();
        assert_eq!(names, ["unread"]);
        assert!(received.dropped.contains("read"), "whoever asks for it once more is told");
    }

    #[test]
    fn only_a_result_of_somebody_who_asked_is_sent() {
        let stored = |key: Key, reply_to: Option<&str>| Stored {
            key,
            doc: b"{}".to_vec(),
            expires: None,
            keep_success: true,
            reply_to: reply_to.map(str::to_owned),
        };
        let task = || Key::Task("a".to_owned());
        for (stored, key) in [
            (stored(task(), Some("q")), Some("q")),
            (stored(task(), Some("")), None),
            (stored(task(), None), None),
            (stored(task(), Some(&"q".repeat(256))), None),
            (stored(Key::Message("a".to_owned()), Some("q")), None),
        ] {
            assert_eq!(routed(&stored).unwrap().map(|routed| routed.key.to_string()).as_deref(), key, "{stored:?}");
        }
        assert!(routed(&stored(Key::Group("g".to_owned()), Some("q"))).err().unwrap().contains("Redis"));
    }
}
