//! The one thread that writes. It takes what has come together, and is waited for by nobody.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::ErrorCode;

use super::{
    Shared,
    book::{Book, Note},
    file::{self, FileTrouble, OpenFile},
};
use crate::heard::now_ms;

/// Time for which notes are gathered before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// Most notes of one transaction.
const MOST: usize = 5_000;
/// Time after which a file that could not be used is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Most times that a quarter of all tasks is forgotten for a batch that finds no room.
const SHRINKS: u32 = 6;
/// Time between two looks at charts and limits where nothing comes.
const IDLE: Duration = Duration::from_secs(5);

/// The writer.
struct Writer {
    shared: Arc<Shared>,
    open: Option<(OpenFile, Book)>,
    again: Instant,
}

/// Writes until nothing more comes.
pub(super) fn run(shared: Arc<Shared>, notes: &Receiver<Note>) {
    let mut writer = Writer { shared, open: None, again: Instant::now() };
    writer.look();
    let mut batch = Vec::new();
    loop {
        let is_over = gather(&mut batch, notes);
        let taken: usize = batch.iter().map(weight).sum();
        writer.write(&mut batch);
        writer.shared.waiting_bytes.fetch_sub(taken, Ordering::Relaxed);
        batch.clear();
        if is_over {
            return;
        }
    }
}

/// Returns how much a note counts in memory.
pub(super) fn weight(note: &Note) -> usize {
    match note {
        Note::Task(event) => event.bytes(),
        Note::Levels(queues) => queues.iter().map(|(queue, level)| queue.len() + size_of_val(level)).sum(),
        _ => size_of::<Note>(),
    }
}

/// Gathers what comes within a moment. Returns whether it was the last.
fn gather(batch: &mut Vec<Note>, notes: &Receiver<Note>) -> bool {
    let mut until = Instant::now() + IDLE;
    loop {
        match notes.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Note::End) | Err(RecvTimeoutError::Disconnected) => return true,
            Ok(note) => {
                if batch.is_empty() {
                    until = Instant::now() + GATHER;
                }
                batch.push(note);
                if batch.len() >= MOST {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

impl Writer {
    /// Opens the file if it is not open and it is time to try.
    fn look(&mut self) {
        if self.open.is_some() || Instant::now() < self.again {
            return;
        }
        self.again = Instant::now() + AGAIN;
        let opened = self.attempt().or_else(|trouble| match trouble {
            FileTrouble::Damaged(text) => {
                self.set_aside(&text)?;
                self.attempt()
            }
            other => Err(other),
        });
        match opened {
            Ok(open) => {
                self.open = Some(open);
                self.shared.is_well();
            }
            Err(trouble) => self.shared.is_troubled(trouble.text()),
        }
    }

    fn attempt(&self) -> Result<(OpenFile, Book), FileTrouble> {
        let options = &self.shared.options;
        let open = file::open(&options.path, options.most_bytes, options.is_own_place)?;
        let meaning = |error: rusqlite::Error| file::trouble(&options.path, &error);
        let book = Book::open(&open.conn, self.shared.limits()).map_err(meaning)?;
        self.shared.hold(Book::holders(&open.conn).map_err(meaning)?);
        Ok((open, book))
    }

    fn set_aside(&mut self, text: &str) -> Result<(), FileTrouble> {
        self.open = None;
        match file::set_aside(&self.shared.options.path) {
            Ok(aside) => {
                self.shared.was_set_aside(format!("{text}: it is now {}, and a new history was begun", aside.display()));
                Ok(())
            }
            Err(error) => Err(FileTrouble::Unusable(format!("{text}, and cannot be set aside ({error}); move it away"))),
        }
    }

    /// Writes a batch; where it cannot, what is in it is left out and counted.
    fn write(&mut self, batch: &mut Vec<Note>) {
        self.look();
        let left_out = self.shared.left_out_new.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            batch.push(Note::LeftOut(left_out));
        }
        let mut done = self.attempt_write(batch);
        if let Err(FileTrouble::Damaged(text)) = &done {
            let text = text.clone();
            done = self.set_aside(&text);
            self.again = Instant::now();
            self.look();
            if done.is_ok() {
                done = self.attempt_write(batch);
            }
        }
        if let Err(trouble) = done {
            self.open = None;
            self.again = Instant::now() + AGAIN;
            self.shared.is_troubled(trouble.text());
            self.shared.leave_out(batch.iter().filter(|note| matches!(note, Note::Task(_))).count() as u64);
        }
    }

    fn attempt_write(&mut self, batch: &[Note]) -> Result<(), FileTrouble> {
        let path = &self.shared.options.path;
        let Some((open, book)) = &mut self.open else {
            return Err(FileTrouble::Unusable(self.shared.trouble().unwrap_or_else(|| format!("{} is not open", path.display()))));
        };
        // A file that was taken away would be written to, and be seen by nobody.
        if !path.exists() {
            return Err(FileTrouble::Unusable(format!("{}: it was taken away", path.display())));
        }
        if batch.iter().any(|note| matches!(note, Note::Check)) {
            file::check(&open.conn).map_err(|error| match error {
                Some(error) => file::trouble(path, &error),
                None => FileTrouble::Damaged(format!("{} is damaged", path.display())),
            })?;
        }
        let mut done = book.write(&mut open.conn, batch, now_ms());
        // The ring is full before its disk is, mostly: the oldest make room.
        for _ in 0..SHRINKS {
            if !matches!(&done, Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull)) {
                break;
            }
            done = book.shrink(&mut open.conn).and_then(|()| book.write(&mut open.conn, batch, now_ms()));
        }
        done.map_err(|error| file::trouble(path, &error))
    }
}
