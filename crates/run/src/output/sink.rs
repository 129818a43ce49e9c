//! One destination of results, and the buffer that puts them in the order of the input.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore_core::{Word, lane::child::Rest};

use super::{
    Around, Emit, OutputError, TakenHook,
    project::each_current,
    render::{Pushed, RawText, Render, Shown},
    spooled::Places,
    waiting::{Held, Waiting},
};
use crate::journal::{
    Batch, Index, error,
    format::{self, OutputPlace, TakenOver},
};

/// A destination.
pub(crate) struct Sink {
    pub(crate) file: File,
    /// Its path; absent for stdout.
    pub(crate) path: Option<PathBuf>,
    pub(crate) regular: bool,
    pub(crate) render: Render,
    pub(crate) order: Option<Order>,
    /// Text of results whose turn has not come.
    pub(crate) waiting: Waiting,
    pub(crate) out: Vec<u8>,
    /// Results shown.
    pub(crate) shown: u64,
    /// For a terminal that something else is drawn on.
    pub(crate) around: Option<Around>,
    /// Told what it has of that which was spooled.
    pub(crate) taken: Option<TakenHook>,
    /// Counts results whose bytes are nowhere any more.
    pub(crate) missing: Arc<AtomicU64>,
}

/// Bytes that are collected before they are written, because a system call for each result is slow.
pub(crate) const WRITE_BYTES: usize = 1 << 18;

impl Sink {
    /// Takes in the result lines of a turn.
    pub(crate) fn lines(&mut self, batch: &Batch) -> Result<(), OutputError> {
        let (Some(first), Some(last)) = (batch.pieces.first(), batch.pieces.last()) else { return Ok(()) };
        if self.order.is_none() && self.render.is_plain() && batch.pieces.iter().all(|piece| self.render.shows(piece.outcome)) {
            // The common case: the very bytes of the journal.
            self.flush()?;
            self.shown += batch.pieces.len() as u64;
            return self.write(&batch.bytes[first.line.start..last.line.end]);
        }
        for piece in &batch.pieces {
            let shown = Shown::of(&batch.bytes, piece);
            self.shown += u64::from(self.render.shows(piece.outcome));
            if let Some(rest) = piece.rest.as_ref().filter(|_| self.render.emit == Emit::Raw) {
                let held = self.waiting.keep(shown.raw.unwrap_or_default());
                let slot = Slot::Spooled(Box::new(Spooled { task: shown.task.into(), held, outcome: shown.outcome, rest: rest.clone() }));
                match &mut self.order {
                    None => self.take(slot)?,
                    Some(order) => order.put(piece.seq, slot),
                }
                self.drain()?;
                continue;
            }
            match &mut self.order {
                None => self.render.push(&mut self.out, shown),
                Some(order) if order.is_next(piece.seq) => {
                    self.render.push(&mut self.out, shown);
                    order.put(piece.seq, Slot::Nothing);
                }
                Some(order) => {
                    let mut text = Vec::new();
                    self.render.push(&mut text, shown);
                    order.put(piece.seq, Slot::Text(self.waiting.keep(&text)));
                }
            }
            self.drain()?;
        }
        self.flush()
    }

    /// Takes in places of the input at which nothing will come, or what the journal has.
    pub(crate) fn skipped(&mut self, places: &[(u64, Option<u64>)]) -> Result<(), OutputError> {
        for &(seq, at) in places {
            let Some(order) = &mut self.order else { return Ok(()) };
            order.put(seq, at.filter(|_| order.stored.is_some()).map_or(Slot::Nothing, Slot::Stored));
            self.drain()?;
        }
        self.flush()
    }

    /// Moves what is in order to the buffer.
    fn drain(&mut self) -> Result<(), OutputError> {
        while let Some(slot) = self.order.as_mut().and_then(Order::next) {
            self.take(slot)?;
            // Much can have waited for one place.
            if self.out.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        if self.out.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn take(&mut self, slot: Slot) -> Result<(), OutputError> {
        match slot {
            Slot::Nothing => {}
            Slot::Text(held) => {
                let text = self.waited(held)?;
                self.out.extend_from_slice(&text);
            }
            Slot::Spooled(spooled) => {
                let mut place = None;
                // Taken in any case, so that what held it is free again.
                let held = self.waited(spooled.held)?;
                if self.render.shows(spooled.outcome) {
                    let mut text = self.render.raw_text(&spooled.task);
                    text.push(&mut self.out, &held);
                    let path = spooled.rest.path();
                    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
                    place = self.copy(&mut file.take(spooled.rest.len()), spooled.rest.len(), Some(text), path)?;
                }
                // Told also of what is not shown: then nobody needs the file, and it can go.
                self.tell(TakenOver { taken: spooled.rest.name(), place });
            }
            Slot::Stored(at) => {
                let stored = self.order.as_mut().and_then(|order| order.stored.as_mut());
                // Noted, because the end shows what the journal has for records that did not come
                // this time.
                if let Some(stored) = stored
                    && stored.emitted.insert(at)
                {
                    let (line, places) = (stored.line(at), stored.places.clone());
                    let line = line.map_err(|error| self.error(&error))?;
                    if let Ok(format::Line::Result(head)) = format::parse(&line) {
                        match self.render.push_stored(&mut self.out, &line, head.outcome) {
                            Pushed::Whole => {}
                            Pushed::Lacking => self.lacks(),
                            Pushed::Part(spooled, text) => match places.find(&spooled) {
                                None => self.lacks(),
                                Some(mut found) => {
                                    let (text, len) = ((!found.shown).then_some(text), found.bytes.limit());
                                    let place = self.copy(&mut found.bytes, len, text, &places.dir.join(&spooled.file))?;
                                    self.tell(TakenOver { taken: spooled.file, place });
                                }
                            },
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn waited(&mut self, held: Held) -> Result<Box<[u8]>, OutputError> {
        self.waiting.take(held).map_err(|error| unreadable(&std::env::temp_dir(), &error))
    }

    fn lacks(&self) {
        self.missing.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, taken: TakenOver) {
        if let Some(tell) = &self.taken {
            tell(taken);
        }
    }

    /// Writes bytes that are in a file behind what waits to be written, a piece at a time, and says
    /// where they stand if the destination is a file on disk: then they are on that disk. `text` is
    /// absent where they are as they are shown already.
    fn copy(&mut self, from: &mut impl Read, len: u64, mut text: Option<RawText>, path: &Path) -> Result<Option<OutputPlace>, OutputError> {
        let begins = if self.regular {
            self.flush()?;
            Some(self.file.metadata().map_err(|error| self.error(&error))?)
        } else {
            None
        };
        let mut chunk = vec![0; WRITE_BYTES];
        let mut copied = 0;
        loop {
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    copied += read as u64;
                    match &mut text {
                        Some(text) => text.push(&mut self.out, &chunk[..read]),
                        None => self.out.extend_from_slice(&chunk[..read]),
                    }
                    self.flush_lines()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(path, &error)),
            }
        }
        if copied != len {
            return Err(unreadable(path, &io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(text) = &mut text {
            text.end(&mut self.out);
        }
        let Some(begins) = begins else { return self.flush_lines().map(|()| None) };
        self.flush()?;
        let ends = self.file.sync_data().and_then(|()| self.file.metadata()).map_err(|error| self.error(&error))?;
        let (dev, ino, from) = (begins.dev(), begins.ino(), begins.len());
        Ok(Some(OutputPlace { dev, ino, from, bytes: ends.len() - from, tag: self.render.tag }))
    }

    /// Writes what waits; to a terminal that something else is drawn on whole lines only, if there
    /// are any.
    fn flush_lines(&mut self) -> Result<(), OutputError> {
        let end = self.out.iter().rposition(|byte| *byte == b'\n');
        match end {
            Some(end) if self.around.is_some() => {
                let rest = self.out.split_off(end + 1);
                self.flush()?;
                self.out = rest;
                Ok(())
            }
            _ => self.flush(),
        }
    }

    /// Writes what is left, in order as far as there is one.
    pub(crate) fn finish(&mut self) -> Result<(), OutputError> {
        // What waits for a place that never came: the run was stopped there.
        let rest: Vec<Slot> = self.order.as_mut().map(|order| order.slots.drain(..).flatten().collect()).unwrap_or_default();
        for slot in rest {
            self.take(slot)?;
            self.drain()?;
        }
        // And what the journal has for records that the input did not have this time, or that it
        // did not come to.
        let mut left = Vec::new();
        if let Some(stored) = self.order.as_ref().and_then(|order| order.stored.as_ref())
            && (stored.emitted.len() as u64) < stored.index.finished()
        {
            let read = each_current(&stored.path, stored.len, &stored.index, |at, _, _| {
                left.extend((!stored.emitted.contains(&at)).then_some(at));
                Ok(())
            });
            read.map_err(|error| self.error(&error))?;
        }
        for at in left {
            self.take(Slot::Stored(at))?;
            self.drain()?;
        }
        self.flush()?;
        if self.regular {
            self.file.sync_data().map_err(|error| self.error(&error))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        let out = std::mem::take(&mut self.out);
        let written = self.write(&out);
        self.out = out;
        self.out.clear();
        written
    }

    /// Writes bytes, out of the way of whatever else is drawn there.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(around) = self.around.take() else { return self.write_all(bytes) };
        let mut written = Ok(());
        around(&mut || {
            written = self.write_all(bytes);
            // What is drawn below needs a line of its own.
            if written.is_ok() && !bytes.ends_with(b"\n") {
                written = self.write_all(b"\n");
            }
        });
        self.around = Some(around);
        written
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), OutputError> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(self.error(&io::ErrorKind::WriteZero.into())),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares a terminal or pipe with this process can have made it
                // non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut wait = [rustix::event::PollFd::from_borrowed_fd(self.file.as_fd(), rustix::event::PollFlags::OUT)];
                    let _ = rustix::event::poll(&mut wait, None);
                }
                Err(error) => return Err(self.error(&error)),
            }
        }
        Ok(())
    }

    fn error(&self, error: &io::Error) -> OutputError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return OutputError::ReaderGone;
        }
        let free = self.path.as_deref().and_then(error::free_bytes);
        OutputError::Write { path: self.path.clone(), free, cause: error::cause(error) }
    }
}

/// A file beside the journal cannot be read: what it has is nowhere else.
fn unreadable(path: &Path, error: &io::Error) -> OutputError {
    OutputError::Write { path: Some(path.to_owned()), free: None, cause: format!("cannot read it: {}", error::cause(error)) }
}

/// A result of which a part is in a file.
struct Spooled {
    task: Box<[u8]>,
    held: Held,
    outcome: Word,
    rest: Arc<Rest>,
}

/// Content of a place of the input.
enum Slot {
    Nothing,
    Text(Held),
    Spooled(Box<Spooled>),
    /// A result line of an earlier sitting, by its offset in the journal.
    Stored(u64),
}

/// The reorder buffer.
pub(crate) struct Order {
    lowest: Arc<AtomicU64>,
    slots: VecDeque<Option<Slot>>,
    pub(crate) stored: Option<Stored>,
}

/// The journal, to show again what earlier sittings finished.
pub(crate) struct Stored {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) index: Arc<Index>,
    pub(crate) emitted: HashSet<u64>,
    pub(crate) places: Arc<Places>,
}

impl Stored {
    fn line(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut line = vec![0; 512];
        let mut read = 0;
        loop {
            let more = self.file.read_at(&mut line[read..], at + read as u64)?;
            if let Some(end) = line[read..read + more].iter().position(|byte| *byte == b'\n') {
                line.truncate(read + end + 1);
                return Ok(line);
            }
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read += more;
            line.resize(line.len() * 2, 0);
        }
    }
}

impl Order {
    /// A buffer that begins at the place that `lowest` holds, and keeps it at the lowest place that
    /// is not written.
    pub(crate) fn new(lowest: Arc<AtomicU64>, stored: Option<Stored>) -> Self {
        Self { lowest, slots: VecDeque::new(), stored }
    }

    fn is_next(&self, seq: u64) -> bool {
        seq == self.lowest.load(Ordering::Relaxed)
    }

    fn put(&mut self, seq: u64, slot: Slot) {
        // A place below is written already; who sends it twice gets it shown once.
        let Some(place) = seq.checked_sub(self.lowest.load(Ordering::Relaxed)) else { return };
        let place = place as usize;
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(slot);
    }

    fn next(&mut self) -> Option<Slot> {
        let slot = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        // The write itself may come a moment later; the window bounds memory and need not be exact.
        self.lowest.fetch_add(1, Ordering::Release);
        Some(slot)
    }
}
