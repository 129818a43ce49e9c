//! The threads that own a journal while its job runs.
//!
//! The writer takes every message that is waiting, makes one buffer of their lines, writes it with
//! one write(2), and only then lets what was waiting go on. Syncing is another thread's work, so
//! that no start waits for the disk. In `batch` mode it syncs what has been written within the
//! interval; in `each` mode results go on (to their continuations, and to the output) from there,
//! all that were written while the previous sync ran together.

use std::{
    fs::File,
    mem,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::feed::Feed;
use super::{
    error::{JournalError, cause},
    file::{JournalFile, failed, line_of},
    format::{Encoder, End, Piece, ReadUpTo, ResultLine, Start, TakenOver},
};

/// Time at which results are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// There is no journal.
    Off,
    /// Within this time after they were written: the death of the process loses nothing, a power
    /// cut at most that much.
    Batch(Duration),
    /// Before they count.
    Each,
}

impl Default for Durability {
    fn default() -> Self {
        Self::Batch(Duration::from_millis(50))
    }
}

/// Called when lines are written; on a thread of the journal, so it must be quick.
pub(crate) type Then = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

type OnFailure = Box<dyn FnOnce(&JournalError) + Send>;

/// Result lines on their way to the output, as they stand in the journal.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The turn's lines, start lines included.
    pub bytes: Vec<u8>,
    /// The places of its result lines.
    pub pieces: Vec<Piece>,
}

/// The journal of a running job.
///
/// Dropping it without [`close`](Journal::close) writes what was sent before, but does not wait for
/// it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    messages: Sender<Message>,
    writer: JoinHandle<()>,
}

enum Message {
    Read(ReadUpTo),
    Taken(TakenOver, Then),
    Starts(Vec<Start>, Then),
    Results(Vec<ResultLine>, Then),
    Flush(SyncSender<Result<(), JournalError>>),
    Close(Option<End>, SyncSender<Result<(), JournalError>>),
}

/// A turn takes no more messages when its lines have about this size.
const TURN_BYTES: usize = 4 << 20;

impl Journal {
    /// Starts the threads. `journal` is absent when durability is off: then lines go to the output
    /// only.
    ///
    /// `on_failure` is called once, if the journal cannot be written or synced, even while nothing
    /// waits for it. After that every continuation gets the same error.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(
        job: &str,
        journal: Option<JournalFile>,
        durability: Durability,
        output: Option<Feed>,
        on_failure: impl FnOnce(&JournalError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (path, read) = journal.as_ref().map(|journal| (journal.path.clone(), journal.read)).unwrap_or_default();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let shared = match journal {
            Some(journal) if durability != Durability::Off => Some(Arc::new(Shared::new(journal, durability, Box::new(on_failure))?)),
            _ => None,
        };
        let syncer = match &shared {
            Some(shared) => {
                let (shared, output) = (shared.clone(), output.clone());
                Some(thread("journal-sync").spawn(move || shared.sync_until_closed(output.as_ref()))?)
            }
            None => None,
        };
        let (messages, inbox) = channel();
        let encoder = Encoder::new(job);
        let writer = Writer { inbox, encoder, shared, read, output, buffer: Vec::new(), pieces: Vec::new() };
        let writer = thread("journal").spawn(move || {
            writer.run();
            if let Some(syncer) = syncer {
                let _ = syncer.join();
            }
        })?;
        Ok(Self { path, messages, writer })
    }

    /// Writes how far the input has been read, if that is further than the journal says. Start
    /// lines that are sent later stand behind it.
    pub(crate) fn read(&self, read: u64, ended: bool) {
        self.send(Message::Read(ReadUpTo { read, ended }));
    }

    /// Writes start lines. Their attempts may start when `then` is called with `Ok`, and must not
    /// otherwise.
    pub(crate) fn starts(&self, starts: Vec<Start>, then: Then) {
        self.send(Message::Starts(starts, then));
    }

    /// Writes result lines. Their tasks are done when `then` is called with `Ok`; after that the
    /// lines go to the output.
    pub(crate) fn results(&self, results: Vec<ResultLine>, then: Then) {
        self.send(Message::Results(results, then));
    }

    /// Writes that the output has what was spooled. `then` is called when that is on disk.
    pub(crate) fn taken(&self, taken: TakenOver, then: Then) {
        self.send(Message::Taken(taken, then));
    }

    /// Waits until all that was sent is written, synced and handed to the output.
    ///
    /// # Errors
    /// The first failure to write or sync, whenever it was.
    pub(crate) fn flush(&self) -> Result<(), JournalError> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Flush(reply));
        answer.recv().unwrap_or_else(|_| Err(JournalError::died(&self.path)))
    }

    /// Writes all that was sent, then the line that ends the sitting, syncs, and ends the threads.
    ///
    /// # Errors
    /// The first failure to write or sync, whenever it was.
    pub(crate) fn close(self, end: Option<End>) -> Result<(), JournalError> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Close(end, reply));
        let closed = answer.recv().unwrap_or_else(|_| Err(JournalError::died(&self.path)));
        let _ = self.writer.join();
        closed
    }

    fn send(&self, message: Message) {
        // The writer receives until this sender is gone or closes, so this fails only if it
        // panicked; dropping the continuation tells.
        let _ = self.messages.send(message);
    }
}

struct Writer {
    inbox: Receiver<Message>,
    encoder: Encoder,
    shared: Option<Arc<Shared>>,
    read: ReadUpTo,
    output: Option<Feed>,
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Writer {
    fn run(mut self) {
        let (mut starts, mut results, mut synced) = (Vec::new(), Vec::new(), Vec::new());
        let mut waiting: Vec<Vec<ResultLine>> = Vec::new();
        while let Ok(first) = self.inbox.recv() {
            let mut last = None;
            let mut next = Some(first);
            let mut weight = 0;
            // Start lines come before the result lines of the same turn, wherever they were in the
            // queue: a task's result is sent after its starts were written, so this changes the
            // order of no task's lines, and keeps the result lines in one piece.
            while let Some(message) = next.take() {
                match message {
                    Message::Read(now) => {
                        if self.read.advance(now) && self.shared.is_some() {
                            self.buffer.extend_from_slice(&line_of(&now));
                        }
                    }
                    Message::Taken(taken, then) => {
                        if self.shared.is_some() {
                            self.buffer.extend_from_slice(&line_of(&taken));
                        }
                        synced.push(then);
                    }
                    Message::Starts(lines, then) => {
                        lines.iter().for_each(|line| self.encoder.start(&mut self.buffer, line));
                        starts.push(then);
                    }
                    Message::Results(lines, then) => {
                        weight += lines.iter().map(ResultLine::weight).sum::<usize>();
                        waiting.push(lines);
                        results.push(then);
                    }
                    // All others wait for what was sent before, so they end the turn.
                    other => {
                        last = Some(other);
                        break;
                    }
                }
                if self.buffer.len() + weight < TURN_BYTES {
                    next = self.inbox.try_recv().ok();
                }
            }
            for line in waiting.drain(..).flatten() {
                let mut line = line;
                let piece = self.encoder.result(&mut self.buffer, &mut line);
                if let Some(rest) = piece.rest.as_ref().filter(|_| self.shared.is_some()) {
                    // From here on the journal says where it is.
                    rest.keep();
                }
                self.pieces.push(piece);
            }
            // One write for all that has come together: with many small tasks this is what makes it
            // fast.
            self.turn(&mut starts, &mut results, &mut synced);
            match last {
                Some(Message::Flush(reply)) => {
                    let _ = reply.send(self.shared.as_ref().map_or(Ok(()), |shared| shared.settle()));
                }
                Some(Message::Close(end, reply)) => {
                    let _ = reply.send(self.shared.as_ref().map_or(Ok(()), |shared| shared.close(end)));
                    return;
                }
                _ => {}
            }
        }
        // Everybody who could send is gone, and nobody ended the sitting: it stays one that was cut
        // off.
        if let Some(shared) = &self.shared {
            let _ = shared.close(None);
        }
    }

    /// Writes the turn's buffer, and lets go on what may.
    fn turn(&mut self, starts: &mut Vec<Then>, results: &mut Vec<Then>, synced: &mut Vec<Then>) {
        let written = match &self.shared {
            Some(shared) if !self.buffer.is_empty() => shared.write(&self.buffer, self.pieces.len() as u64),
            Some(shared) => shared.lock().failed.clone().map_or(Ok(()), Err),
            None => Ok(()),
        };
        starts.drain(..).for_each(|then| then(written.clone()));
        match &self.shared {
            Some(shared) if written.is_ok() && !synced.is_empty() => shared.hand_to_sync(mem::take(synced), None),
            _ => synced.drain(..).for_each(|then| then(written.clone())),
        }
        let synced_first = self.shared.as_ref().is_some_and(|shared| shared.durability == Durability::Each);
        if written.is_ok() && synced_first && !results.is_empty() {
            let batch = Batch { bytes: mem::take(&mut self.buffer), pieces: mem::take(&mut self.pieces) };
            if let Some(shared) = &self.shared {
                shared.hand_to_sync(mem::take(results), Some(batch));
            }
            return;
        }
        results.drain(..).for_each(|then| then(written.clone()));
        match &self.output {
            Some(output) if written.is_ok() && !self.pieces.is_empty() => {
                let capacity = self.buffer.len();
                let bytes = mem::replace(&mut self.buffer, Vec::with_capacity(capacity));
                output.send(Batch { bytes, pieces: mem::take(&mut self.pieces) });
            }
            _ => {}
        }
        self.buffer.clear();
        self.pieces.clear();
    }
}

/// State that the writer and the syncing thread share.
struct Shared {
    /// The same open file, for syncing without the lock.
    sync: File,
    durability: Durability,
    progress: Mutex<Progress>,
    changed: Condvar,
}

struct Progress {
    journal: JournalFile,
    /// Result lines written, and those of them that are synced.
    results: u64,
    results_synced: u64,
    /// The journal's length at the last sync.
    synced: u64,
    /// Moment at which the first byte was written that is not synced.
    dirty_since: Option<Instant>,
    /// Sync without waiting for the interval.
    urgent: bool,
    /// Results that wait for a sync, in `each` mode, and the length up to which the journal must be
    /// synced.
    waiting: Vec<(Then, u64)>,
    batches: Vec<Batch>,
    /// A sync is running, or what it released is being handed on.
    busy: bool,
    closing: bool,
    failed: Option<JournalError>,
    on_failure: Option<OnFailure>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("durability", &self.durability).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(journal: JournalFile, durability: Durability, on_failure: OnFailure) -> std::io::Result<Self> {
        let sync = journal.file.try_clone()?;
        let progress = Progress {
            // What was there before was synced when it was opened.
            synced: journal.len,
            journal,
            results: 0,
            results_synced: 0,
            dirty_since: None,
            urgent: false,
            waiting: Vec::new(),
            batches: Vec::new(),
            busy: false,
            closing: false,
            failed: None,
            on_failure: Some(on_failure),
        };
        Ok(Self { sync, durability, progress: Mutex::new(progress), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a turn's lines in one call.
    fn write(&self, lines: &[u8], results: u64) -> Result<(), JournalError> {
        let mut progress = self.lock();
        if let Some(error) = &progress.failed {
            return Err(error.clone());
        }
        let staged = mem::take(&mut progress.journal.staged);
        let joined;
        let bytes = if staged.is_empty() {
            lines
        } else {
            joined = [&staged, lines].concat();
            &joined
        };
        if let Err(error) = std::io::Write::write_all(&mut progress.journal.file, bytes) {
            // Whole turns before this one may be saved yet; then only what is torn has to go.
            if self.sync.sync_data().is_ok() {
                progress.synced = progress.journal.len;
                progress.results_synced = progress.results;
            }
            return Err(self.fail(progress, &error));
        }
        progress.journal.len += bytes.len() as u64;
        progress.journal.complete = false;
        progress.results += results;
        // In `each` mode a turn of starts alone is synced with the next results: losing a start
        // line to a power cut loses nothing.
        let lazy = self.durability == Durability::Each;
        if !lazy && progress.dirty_since.is_none() {
            progress.dirty_since = Some(Instant::now());
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Has what was written go on when it is synced.
    fn hand_to_sync(&self, thens: Vec<Then>, batch: Option<Batch>) {
        let mut progress = self.lock();
        let upto = progress.journal.len;
        progress.waiting.extend(thens.into_iter().map(|then| (then, upto)));
        progress.batches.extend(batch);
        progress.dirty_since.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// Makes this failure final: cuts the journal back to what is on disk, and says so.
    fn fail(&self, mut progress: MutexGuard<'_, Progress>, error: &std::io::Error) -> JournalError {
        let mut failure = failed(&progress.journal.path, error);
        failure.unsynced = progress.results - progress.results_synced;
        match progress.journal.file.set_len(progress.synced) {
            Ok(()) => progress.journal.len = progress.synced,
            Err(error) => failure.uncut = Some(cause(&error)),
        }
        progress.failed = Some(failure.clone());
        let on_failure = progress.on_failure.take();
        drop(progress);
        self.changed.notify_all();
        if let Some(on_failure) = on_failure {
            on_failure(&failure);
        }
        failure
    }

    /// Waits until everything is synced and handed on.
    fn settle(&self) -> Result<(), JournalError> {
        let mut progress = self.lock();
        if progress.journal.len > progress.synced && progress.failed.is_none() {
            progress.dirty_since.get_or_insert_with(Instant::now);
        }
        progress.urgent = true;
        self.changed.notify_all();
        while progress.busy || !progress.waiting.is_empty() || (progress.dirty_since.is_some() && progress.failed.is_none()) {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.urgent = false;
        progress.failed.clone().map_or(Ok(()), Err)
    }

    fn close(&self, end: Option<End>) -> Result<(), JournalError> {
        if let Some(end) = end {
            // A finished job that was run again and had nothing to do keeps its journal as it is.
            let untouched = self.lock().journal.complete;
            if !untouched {
                let _ = self.write(&line_of(&end), 0);
            }
        }
        let settled = self.settle();
        self.lock().closing = true;
        self.changed.notify_all();
        settled
    }

    /// The syncing thread.
    fn sync_until_closed(&self, output: Option<&Feed>) {
        let _guard = Guard(self);
        let mut last = Duration::ZERO;
        let mut progress = self.lock();
        loop {
            while progress.dirty_since.is_none() && progress.waiting.is_empty() && !progress.closing {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
            if let (Durability::Batch(interval), Some(since)) = (self.durability, progress.dirty_since) {
                // Begin so much earlier that the sync, if it takes as long as the last one, is over
                // within the interval.
                let at = since + interval - last.min(interval / 2);
                while !progress.urgent && !progress.closing && progress.failed.is_none() {
                    let Some(rest) = at.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else { break };
                    progress = self.changed.wait_timeout(progress, rest).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            if progress.closing && progress.waiting.is_empty() && progress.dirty_since.is_none() {
                return;
            }
            // What is written from here on is of the next sync, and begins an interval of its own.
            progress.busy = true;
            progress.dirty_since = None;
            let (target, results) = (progress.journal.len, progress.results);
            let (waiting, batches) = (mem::take(&mut progress.waiting), mem::take(&mut progress.batches));
            let earlier = progress.failed.clone();
            // The writer goes on while the disk works.
            drop(progress);

            let mut failure = earlier;
            if failure.is_none() {
                let began = Instant::now();
                let synced = self.sync.sync_data();
                last = began.elapsed();
                let mut progress = self.lock();
                match (synced, &progress.failed) {
                    // The writer failed meanwhile, and has cut the journal: what it kept is on
                    // disk, for it has synced that itself.
                    (_, Some(error)) => failure = Some(error.clone()),
                    (Ok(()), None) => {
                        progress.synced = target;
                        progress.results_synced = results;
                    }
                    (Err(error), None) => failure = Some(self.fail(progress, &error)),
                }
            }
            let kept = self.lock().synced;
            // With `each` the output gets only what is on disk: what was cut off runs again.
            let whole = waiting.iter().all(|(_, upto)| *upto <= kept);
            for (then, upto) in waiting {
                then(match &failure {
                    Some(error) if upto > kept => Err(error.clone()),
                    _ => Ok(()),
                });
            }
            if let Some(output) = output.filter(|_| whole) {
                batches.into_iter().for_each(|batch| output.send(batch));
            }
            progress = self.lock();
            progress.busy = false;
            self.changed.notify_all();
        }
    }
}

/// Says that the syncing thread has panicked, so that nobody waits for it for ever.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut progress = self.0.lock();
            let died = JournalError::died(&progress.journal.path);
            progress.failed.get_or_insert(died);
            progress.busy = false;
            progress.waiting.clear();
            self.0.changed.notify_all();
        }
    }
}
