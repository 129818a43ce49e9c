//! What has happened, in a file of the dashboard's own: a ring, bounded in tasks and bytes.
//!
//! Events come in as notes; one thread writes them (`history/writer.rs`), many at once, and nobody
//! waits for it: beyond [`MOST_WAITING`] notes are left out, and counted. Pages read over
//! connections of their own. A file that cannot be used is said, and tried again; what comes
//! meanwhile is counted as left out. A damaged file gets another name, and a new one is begun.
//!
//! - `history/state.rs`: how a remembered task stands
//! - `history/traffic.rs`: counts over time
//! - `history/levels.rs`: how long queues were, in memory; `history/level_rows.rs`: the same, of a
//!   day
//! - `history/file.rs`: tables and files; `history/book.rs`: what events change in them
//! - `history/matching.rs`: what is looked for, as SQL
//! - `history/find.rs`: search; `history/timeline.rs`: one task; `history/told.rs`: both in the
//!   words of Celery's events
//! - `history/troubled.rs`: what needs attention; `history/times.rs`: ends and times by name
//! - `history/writer.rs`: the thread

mod book;
mod file;
mod find;
mod level_rows;
pub(crate) mod levels;
mod matching;
mod state;
mod timeline;
mod times;
mod told;
mod traffic;
mod troubled;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use axum::http::StatusCode;
use rusqlite::{Connection, ErrorCode};
use serde::Serialize;
use tokio::sync::Semaphore;

use self::book::RingLimits;
pub(crate) use self::{
    book::Note,
    find::{KnownNames, PastPage, PastQuery, PastSort},
    levels::{QueueLevel, QueueLevels},
    matching::{MatchField, Matching, NamedColumn},
    state::PastState,
    timeline::Timeline,
    times::{NameTimes, TimesTable},
    told::{SortKey, ToldQuery, ToldTask},
    traffic::{ChartSpan, TrafficPoint},
    troubled::{FailedTasks, LostTasks, TroubledTasks},
};
use crate::{error::WebError, heard::now_ms};

/// Most bytes of notes that wait to be written.
const MOST_WAITING: usize = 24 << 20;
/// Most questions that are answered at once.
const READERS: usize = 3;
/// Longest time for which the end of the writer is waited for.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Place and size of what the dashboard remembers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HistoryOptions {
    /// Its file.
    pub path: PathBuf,
    /// True where nothing else than a history can be in this place: what is no SQLite file there
    /// was damaged, and is set aside.
    pub is_own_place: bool,
    /// Most tasks that are remembered.
    pub most_tasks: u64,
    /// Most bytes that the file takes, without what SQLite keeps beside it (about 8 MiB).
    pub most_bytes: u64,
    /// Hears what is wrong with the file; without one it goes to the log (`tracing`).
    pub tell: Option<HistoryTeller>,
}

/// Hears what is wrong with the file of a history, in sentences.
#[derive(Clone)]
pub struct HistoryTeller(Arc<dyn Fn(&str) + Send + Sync>);

impl HistoryTeller {
    /// Tells it to this function, on a thread that may wait.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

/// Facts about the file of a history. What cannot be read is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HistoryFacts {
    /// Its path.
    pub(crate) path: String,
    /// Tasks in it, and the most that are remembered.
    pub(crate) tasks: Option<u64>,
    pub(crate) most_tasks: u64,
    /// Bytes that it takes, with what SQLite keeps beside it, and the most without that.
    pub(crate) bytes: Option<u64>,
    pub(crate) most_bytes: u64,
    /// Events that were left out since the start.
    pub(crate) left_out: u64,
}

impl fmt::Debug for HistoryTeller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HistoryTeller")
    }
}

impl HistoryOptions {
    /// Remembers 100 000 tasks in at most 256 MiB of this file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_own_place: false, most_tasks: 100_000, most_bytes: 256 << 20, tell: None }
    }
}

/// State that the writer shares with whoever reads.
struct Shared {
    options: HistoryOptions,
    /// Bytes of notes that wait to be written.
    waiting_bytes: AtomicUsize,
    /// Events that were left out, ever and since the last write.
    left_out: AtomicU64,
    left_out_new: AtomicU64,
    health: Mutex<Health>,
}

/// State of the file.
#[derive(Default)]
struct Health {
    trouble: Option<String>,
    set_aside: Option<String>,
    is_open: bool,
    /// Workers that had tasks when it was opened.
    holders: Vec<String>,
    /// Counts files that were opened, so that nobody reads in one that was set aside.
    opened: u64,
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> RingLimits {
        RingLimits { tasks: self.options.most_tasks.max(1), bytes: self.options.most_bytes.max(1) }
    }

    fn trouble(&self) -> Option<String> {
        self.health().trouble.clone()
    }

    fn is_well(&self) {
        let mut health = self.health();
        if health.trouble.take().is_some() {
            self.say(&format!("the history {} is written again", self.options.path.display()));
        }
        health.is_open = true;
        health.opened += 1;
    }

    fn say(&self, text: &str) {
        match &self.options.tell {
            Some(HistoryTeller(tell)) => tell(text),
            None => tracing::warn!("{text}"),
        }
    }

    fn is_troubled(&self, text: &str) {
        let mut health = self.health();
        if health.trouble.as_deref() != Some(text) {
            self.say(&format!("the history is not kept: {text}"));
            health.trouble = Some(text.to_owned());
        }
    }

    fn was_set_aside(&self, text: String) {
        self.say(&text);
        let mut health = self.health();
        health.opened += 1;
        health.set_aside = Some(text);
    }

    fn hold(&self, nodes: Vec<String>) {
        self.health().holders = nodes;
    }

    fn leave_out(&self, events: u64) {
        self.left_out.fetch_add(events, Ordering::Relaxed);
        self.left_out_new.fetch_add(events, Ordering::Relaxed);
    }
}

/// The history, for those who tell it and those who read.
pub(crate) struct History {
    shared: Arc<Shared>,
    notes: Mutex<Option<mpsc::Sender<Note>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Semaphore>,
    /// Connections that nobody reads over now, with the file that they are open to.
    idle: Mutex<Vec<(u64, Connection)>>,
}

impl History {
    /// Begins to write; the file is opened by the thread that does it.
    pub(crate) fn start(options: HistoryOptions) -> Arc<Self> {
        let (notes, waiting) = mpsc::channel();
        let shared = Arc::new(Shared {
            options,
            waiting_bytes: AtomicUsize::new(0),
            left_out: AtomicU64::new(0),
            left_out_new: AtomicU64::new(0),
            health: Mutex::default(),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("longshore-history".to_owned()).spawn(move || writer::run(own, &waiting));
        if let Err(error) = &thread {
            shared.is_troubled(&format!("there is no thread for it ({error})"));
        }
        Arc::new(Self {
            shared,
            notes: Mutex::new(Some(notes)),
            thread: Mutex::new(thread.ok()),
            readers: Arc::new(Semaphore::new(READERS)),
            idle: Mutex::default(),
        })
    }

    /// Takes a note, unless too many wait. Never waits.
    pub(crate) fn note(&self, note: Note) {
        let bytes = writer::weight(&note);
        let shared = &self.shared;
        let is_event = matches!(note, Note::Task(_));
        // Who is there and who is gone is told seldom, and must not be missed.
        let has_room = shared.waiting_bytes.load(Ordering::Relaxed) + bytes <= MOST_WAITING || !is_event;
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = has_room && notes.as_ref().is_some_and(|notes| notes.send(note).is_ok());
        if !is_taken {
            shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.leave_out(u64::from(is_event));
        }
    }

    /// Counts events that were left out before they came here.
    pub(crate) fn leave_out(&self, events: u64) {
        self.shared.leave_out(events);
    }

    /// Returns how many events were left out since the start.
    pub(crate) fn left_out(&self) -> u64 {
        self.shared.left_out.load(Ordering::Relaxed)
    }

    /// Returns what somebody should know of the file: why it is not written, what was set aside.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let health = self.shared.health();
        let trouble = health.trouble.as_ref().map(|text| format!("the history is not kept: {text}"));
        trouble.into_iter().chain(health.set_aside.clone()).collect()
    }

    /// Returns workers that had tasks when the file was opened; each once.
    pub(crate) fn take_holders(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.health().holders)
    }

    /// Writes what has come, and ends.
    pub(crate) async fn close(&self) {
        // Who closes the file last puts all of it in one place, and may not be somebody who only
        // reads.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(notes) = self.notes.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = notes.send(Note::End);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::time::timeout(END_WITHIN, tokio::task::spawn_blocking(move || thread.join())).await;
        }
    }

    /// Asks the file, on a thread that may wait.
    ///
    /// # Errors
    /// There is no file, or it cannot be read.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, WebError> {
        let place = self.readers.clone().acquire_owned().await;
        let own = self.clone();
        // The place is the thread's: whoever goes away meanwhile does not end the question.
        let asked = tokio::task::spawn_blocking(move || {
            let answer = own.ask_now(question);
            drop(place);
            answer
        })
        .await;
        asked.unwrap_or_else(|_| Err(unavailable("the history cannot be read: the server is stopping".to_owned())))
    }

    fn ask_now<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, WebError> {
        let (is_open, opened, trouble) = {
            let health = self.shared.health();
            (health.is_open, health.opened, health.trouble.clone())
        };
        if !is_open {
            return Err(unavailable(trouble.unwrap_or_else(|| "the history is being opened".to_owned())));
        }
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(of, _)| *of == opened);
            idle.pop()
        };
        let path = &self.shared.options.path;
        let failed = |error: &rusqlite::Error| {
            if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
                self.note(Note::Check);
            }
            unavailable(format!("the history cannot be read: {}", file::trouble(path, error).text()))
        };
        let conn = match idle {
            Some((_, conn)) => conn,
            None => file::open_to_read(path).map_err(|error| failed(&error))?,
        };
        let answer = question(&conn).map_err(|error| failed(&error))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS {
            idle.push((opened, conn));
        }
        Ok(answer)
    }

    /// Looks for tasks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn find(self: &Arc<Self>, query: PastQuery) -> Result<PastPage, WebError> {
        self.ask(move |conn| find::find(conn, &query, now_ms())).await
    }

    /// Returns names that somebody may look for.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn known(self: &Arc<Self>) -> Result<KnownNames, WebError> {
        self.ask(find::known).await
    }

    /// Returns all that is known of one task.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn timeline(self: &Arc<Self>, id: &str) -> Result<Option<Timeline>, WebError> {
        let id = id.to_owned();
        self.ask(move |conn| timeline::read(conn, &id)).await
    }

    /// Returns the running time in seconds that this part of the tasks of a chart did not exceed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn took(self: &Arc<Self>, span: ChartSpan, part: f64) -> Result<Option<f64>, WebError> {
        self.ask(move |conn| traffic::took(conn, span, now_ms(), part)).await
    }

    /// Looks for tasks, told in the words of Celery's events. Returns them in their order, and how
    /// many more there are.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn told(self: &Arc<Self>, query: ToldQuery) -> Result<(Vec<ToldTask>, i64), WebError> {
        self.ask(move |conn| told::find(conn, &query)).await
    }

    /// Returns one task in the words of Celery's events.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn told_one(self: &Arc<Self>, id: &str, hide_args: bool) -> Result<Option<ToldTask>, WebError> {
        let id = id.to_owned();
        self.ask(move |conn| told::one(conn, &id, hide_args)).await
    }

    /// Returns the names of tasks that are remembered, in their order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn names(self: &Arc<Self>) -> Result<Vec<String>, WebError> {
        self.ask(told::names).await
    }

    /// Returns failures of so long, by task and error, and all lost tasks by worker.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn troubled(self: &Arc<Self>, span: Duration) -> Result<TroubledTasks, WebError> {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.ask(move |conn| troubled::read(conn, now_ms().saturating_sub(span))).await
    }

    /// Returns how tasks of each name ended in the time of a chart, and how long they ran.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn times(self: &Arc<Self>, span: ChartSpan) -> Result<TimesTable, WebError> {
        self.ask(move |conn| times::read(conn, span, now_ms())).await
    }

    /// Returns what is known of the file.
    pub(crate) async fn facts(self: &Arc<Self>) -> HistoryFacts {
        let count = |conn: &Connection| conn.query_row("SELECT count(*) FROM tasks", [], |row| row.get::<_, i64>(0));
        let tasks = self.ask(count).await.ok().and_then(|tasks| u64::try_from(tasks).ok());
        let HistoryOptions { path, most_tasks, most_bytes, .. } = &self.shared.options;
        HistoryFacts {
            path: path.display().to_string(),
            tasks,
            most_tasks: *most_tasks,
            bytes: file::bytes_of(path),
            most_bytes: *most_bytes,
            left_out: self.left_out(),
        }
    }

    /// Returns the points of a chart.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn points(self: &Arc<Self>, span: ChartSpan) -> Result<Vec<Option<TrafficPoint>>, WebError> {
        self.ask(move |conn| traffic::points(conn, span, now_ms())).await
    }

    /// Returns how long a queue was over the last day, and how old its oldest message.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn levels(self: &Arc<Self>, queue: &str) -> Result<Vec<Option<QueueLevel>>, WebError> {
        let (queue, now) = (queue.to_owned(), now_ms());
        let rows = self.ask(move |conn| level_rows::read(conn, &queue, now)).await?;
        Ok(levels::held(ChartSpan::Day, rows.into_iter(), now))
    }
}

fn unavailable(why: String) -> WebError {
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

#[cfg(test)]
mod tests;
