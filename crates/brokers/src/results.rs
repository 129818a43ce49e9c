//! The store of results, saved groups and chords.

use std::time::Duration;

use futures_util::future::BoxFuture;
use longshore_core::ErrorKind;
use tokio::sync::mpsc;

use crate::error::BrokerError;

/// Time for which whoever completes a chord has the right to send its body, unless it is
/// [extended](ResultBackend::chord_extend). Celery's time.
pub(crate) const CHORD_CLAIM: Duration = Duration::from_secs(6);

/// Names a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The result of a task (`celery-task-meta-<id>`).
    Task(String),
    /// A saved group (`celery-taskset-meta-<id>`).
    Group(String),
    /// The message of a task that has ended without success, by which it can be sent again. It
    /// stands beside what Celery stores, nobody waits for it, and a store may keep fewer than it is
    /// given: Redis forgets the oldest beyond a number and a size.
    Message(String),
}

/// A document to be stored and told to whoever waits for it, in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name.
    pub key: Key,
    /// The document.
    pub doc: Vec<u8>,
    /// Time after which it is forgotten; never, where absent.
    pub expires: Option<Duration>,
    /// A stored SUCCESS stays as it is.
    pub keep_success: bool,
    /// Queue of whoever asked, for a backend that sends results and keeps none.
    pub reply_to: Option<String>,
}

/// A part of a chord that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ChordPart {
    /// The header group's id.
    pub group: String,
    /// The part's task id.
    pub id: String,
    /// Its place in the group.
    pub index: Option<i64>,
    /// `[1, "<id>", "<state>", <result>]`.
    pub member: Vec<u8>,
    /// Time for which the chord's keys live on.
    pub expires: Duration,
    /// Names whoever may send the body.
    pub token: String,
}

/// State of a chord after a part was counted.
#[derive(Clone, Debug, PartialEq)]
pub enum PartState {
    /// Parts are missing, or another one has the right to send the body.
    Waiting,
    /// All are there, and the right to send the body is ours, under this token, for a short time
    /// ([`ResultBackend::chord_extend`]).
    Ours {
        /// The token.
        token: String,
    },
    /// Its body was sent before.
    Over,
}

/// Store of results. Cheap to share; all methods may be called at once. What is transient is waited
/// out, as with [`Broker`](crate::Broker).
///
/// # Errors
/// Every method: the backend cannot be reached, or it refuses us.
pub trait ResultBackend: Send + Sync {
    /// Returns its URL, with `***` in place of the password.
    fn url(&self) -> &str;

    /// Connects if need be; name and version, and the time of one round trip.
    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>>;

    /// Stores documents and tells whoever waits, in one step each, one round trip for all.
    fn store<'a>(&'a self, batch: &'a [Stored]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Documents, in the order asked for; `None` where there is none.
    fn get<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>>;

    /// Forgets documents; how many there were.
    fn forget<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64, BrokerError>>;

    /// Returns a part of what is stored of tasks: from the beginning, or from where another
    /// [`Page`] ended. The latest come first where the store knows an order (SQLite); what is
    /// stored meanwhile may be missing or come twice.
    fn page<'a>(&'a self, from: Option<&'a str>) -> BoxFuture<'a, Result<Page, BrokerError>> {
        let _ = from;
        lacks(self.url(), "lists nothing of what it keeps; ask for a task by its id")
    }

    /// Listens for the results of these tasks, and looks once at what is stored already, in one
    /// round trip. When this resolves the subscription stands: whatever is stored from now on
    /// arrives (a document may arrive twice). After a lost connection it looks again by itself.
    fn watch<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Watch, BrokerError>>;

    /// Returns the queue in which this process takes the results of what it sends, where results
    /// are sent to whoever asked (`rpc://`): `reply_to` of its messages. `None` where they are
    /// kept.
    fn reply_queue(&self) -> Option<&str> {
        None
    }

    /// Sees to it that the [reply queue](Self::reply_queue) is there before a message names it.
    /// Cheap when it is.
    fn listen(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Says how many parts a chord has, before its last part is sent; clears what an earlier
    /// attempt left.
    fn chord_start<'a>(&'a self, group: &'a str, size: u64, expires: Duration) -> BoxFuture<'a, Result<(), BrokerError>> {
        let _ = (group, size, expires);
        no_chords(self.url())
    }

    /// Counts a part, once however often it is told, and claims the right to send the body if it is
    /// the last: one atomic step.
    fn chord_part<'a>(&'a self, part: &'a ChordPart) -> BoxFuture<'a, Result<PartState, BrokerError>> {
        let _ = part;
        no_chords(self.url())
    }

    /// Returns the parts of a chord in their order, each as it was told.
    fn chord_parts<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let _ = group;
        no_chords(self.url())
    }

    /// Holds the right to send the body for so long. `false`: it is not ours any more.
    fn chord_extend<'a>(&'a self, group: &'a str, token: &'a str, by: Duration) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let _ = (group, token, by);
        no_chords(self.url())
    }

    /// Ends a chord whose body was sent: it is over and its keys go. `false`: the right was not
    /// ours any more.
    fn chord_over<'a>(&'a self, group: &'a str, token: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let _ = (group, token);
        no_chords(self.url())
    }

    /// Adds one more part (`add_to_chord`).
    fn chord_grow<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        let _ = group;
        no_chords(self.url())
    }
}

/// A part of what is stored of tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Id and document.
    pub results: Vec<(String, Vec<u8>)>,
    /// Beginning of the next one; there is none where absent.
    pub next: Option<String>,
}

/// Results as they are stored: id and document. Dropping it ends the subscription.
pub struct Watch {
    /// Documents that were stored when the subscription began, in the order of the ids.
    pub stored: Vec<Option<Vec<u8>>>,
    /// Id and document.
    pub results: mpsc::Receiver<(String, Vec<u8>)>,
    /// Guard that ends the subscription when it is dropped.
    pub guard: Box<dyn Send + Sync>,
}

fn no_chords<'a, T: Send + 'a>(url: &str) -> BoxFuture<'a, Result<T, BrokerError>> {
    lacks(url, "counts no parts of chords; name one that does (SQLite, Redis)")
}

fn lacks<'a, T: Send + 'a>(url: &str, what: &str) -> BoxFuture<'a, Result<T, BrokerError>> {
    let message = format!("{url}: this result backend {what}");
    Box::pin(std::future::ready(Err(BrokerError { kind: ErrorKind::Refused, message })))
}
