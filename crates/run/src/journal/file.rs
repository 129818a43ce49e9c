//! A journal on disk: created, opened again with its torn tail cut, read.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use longshore_sys::files::{Own, own};
use serde::Serialize;

use super::{
    error::{JobError, JournalError, cause, free_bytes},
    format::{End, Header, Line, OutputFile, ReadUpTo, Sitting, TakenOver, header_line, millis_between, parse, time_text},
    index::Index,
};

/// An open journal, before its writer runs.
#[derive(Debug)]
pub(crate) struct JournalFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Length of what has been written, in whole lines.
    pub(crate) len: u64,
    /// Lines that go before the next ones. A resumed job that finds nothing to do leaves its
    /// journal as it was.
    pub(crate) staged: Vec<u8>,
    /// The journal ends with a line that says that nothing is left.
    pub(crate) complete: bool,
    /// Extent to which the input was read, as it says.
    pub(crate) read: ReadUpTo,
}

/// Contents of a journal, as its lines say.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Its first line.
    pub header: Header,
    /// The state of every task.
    pub index: Index,
    /// Sittings so far, the first included.
    pub sittings: u32,
    /// Failed tasks were made unfinished at least once.
    pub retried: bool,
    /// Files that belong to the job, oldest first.
    pub outputs: Vec<OutputFile>,
    /// The end of the last sitting, if it ended in order and nothing was written since.
    pub end: Option<End>,
    /// Extent to which the input was read by the sitting that came furthest.
    pub read: ReadUpTo,
    /// Files in which a result line left a part of its bytes: the task's key and occurrence, and
    /// where the line begins.
    pub spooled: HashMap<String, (u128, u32, u64)>,
    /// Files of that kind whose bytes the output has, by their names.
    pub taken: HashMap<String, TakenOver>,
    /// Length of all whole lines.
    pub len: u64,
    /// The time that all sittings took together, in milliseconds; the last one counts to the
    /// journal's last change if it did not end in order.
    pub spent_ms: u64,
}

impl JournalFile {
    /// Creates the journal of a job in `dir` with this header, in place of any that it had.
    ///
    /// The file appears under its name with the whole header or not at all, and is synced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn create(dir: &Path, header: &Header) -> Result<Self, JobError> {
        let path = dir.join(format!("{}.jsonl", header.job));
        let fresh = dir.join(format!("{}.new", header.job));
        let write = || -> io::Result<(File, u64)> {
            // Left behind by a run that died right here; the job's lock says that nobody else
            // writes it.
            let _ = std::fs::remove_file(&fresh);
            let mut file = own(&fresh, Own::New)?;
            let line = header_line(header);
            file.write_all(&line)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(dir)?.sync_all()?;
            Ok((file, line.len() as u64))
        };
        let (file, len) = write().map_err(|error| {
            let _ = std::fs::remove_file(&fresh);
            JobError::Journal(failed(&path, &error))
        })?;
        Ok(Self { file, path, len, staged: Vec::new(), complete: false, read: ReadUpTo::default() })
    }

    /// Opens a journal to go on with it. What follows its last newline was torn by the death of its
    /// run, and is cut off.
    ///
    /// # Errors
    /// When it cannot be read, or a line in it is no line of a journal.
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents), JobError> {
        // Appending, so that after a cut the next write goes to the new end.
        let file = own(path, Own::Append).map_err(|error| JobError::io(path, "cannot open", &error))?;
        let contents = read(path)?;
        let actual = file.metadata().map_err(|error| JobError::io(path, "cannot read", &error))?.len();
        if actual > contents.len {
            file.set_len(contents.len).map_err(|error| JobError::Journal(failed(path, &error)))?;
        }
        // The last run may have died before it synced, and from here on all of this counts as being
        // on disk.
        file.sync_data().map_err(|error| JobError::Journal(failed(path, &error)))?;
        let complete = contents.end.as_ref().is_some_and(|end| end.complete);
        let (len, read) = (contents.len, contents.read);
        let this = Self { file, path: path.to_owned(), len, staged: Vec::new(), complete, read };
        Ok((this, contents))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The length of what it held when it was opened or last appended to.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Has a line written before the first that the writer writes.
    pub(crate) fn stage(&mut self, line: &Sitting) {
        self.staged.extend_from_slice(&line_of(line));
    }

    /// Appends these lines and syncs them, now.
    pub(crate) fn append(&mut self, output: &OutputFile, taken: &[TakenOver]) -> Result<(), JournalError> {
        let mut bytes = std::mem::take(&mut self.staged);
        bytes.extend_from_slice(&line_of(output));
        taken.iter().for_each(|line| bytes.extend_from_slice(&line_of(line)));
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let mut failed = failed(&self.path, &error);
            failed.uncut = self.file.set_len(self.len).err().map(|error| cause(&error));
            return Err(failed);
        }
        self.len += bytes.len() as u64;
        self.complete = false;
        Ok(())
    }
}

/// Reads a journal, which may be growing meanwhile. A last line without a newline is left out.
///
/// # Errors
/// When it cannot be read, or a line in it is no line of a journal.
pub(crate) fn read(path: &Path) -> Result<Contents, JobError> {
    let mut contents: Option<Contents> = None;
    let mut lines = Lines::open(path, 0).map_err(|error| JobError::io(path, "cannot open", &error))?;
    let mut number = 0;
    let mut began = String::new();
    let broken = |line: u64, why: String| JobError::Broken { path: path.to_owned(), line, why };
    while let Some((at, line)) = lines.next().map_err(|error| JobError::io(path, "cannot read", &error))? {
        // A line without a newline never comes here, so one that cannot be parsed is not a torn
        // tail but damage.
        number += 1;
        let parsed = parse(line).map_err(|why| broken(number, why))?;
        let Some(this) = &mut contents else {
            let Line::Header(header) = parsed else { return Err(broken(1, "it is no header of a journal".to_owned())) };
            let index = Index::default();
            began.clone_from(&header.started);
            contents = Some(Contents {
                header: *header,
                index,
                sittings: 1,
                retried: false,
                outputs: Vec::new(),
                end: None,
                read: ReadUpTo::default(),
                spooled: HashMap::new(),
                taken: HashMap::new(),
                len: line.len() as u64,
                spent_ms: 0,
            });
            continue;
        };
        this.len = at + line.len() as u64;
        // Whatever stands behind an end line shows that the job went on after it.
        this.end = None;
        match parsed {
            Line::Header(_) => return Err(broken(number, "it is a second header".to_owned())),
            Line::Start(start) => this.index.start(&start),
            // Two files that were mixed must not pass as one job's.
            Line::Result(head) if *head.job != *this.header.job => {
                return Err(broken(number, format!("it belongs to job {}", head.job)));
            }
            Line::Result(head) => {
                if let Some(spool) = &head.spool {
                    this.spooled.insert(spool.file.clone(), (head.key, head.nth, at));
                }
                this.index.result(&head, at);
            }
            Line::Taken(taken) => {
                this.taken.insert(taken.taken.clone(), taken);
            }
            Line::Output(output) => this.outputs.push(output),
            Line::Read(read) => {
                this.read.advance(read);
            }
            Line::End(end) => {
                if end.complete {
                    // Older journals do not say how far they read.
                    this.read.advance(ReadUpTo { read: this.read.read.max(this.index.finished()), ended: true });
                }
                this.spent_ms += millis_between(&began, &end.end);
                this.end = Some(end);
            }
            Line::Sitting(sitting) => {
                // Its line has the sum up to then; the gap until the next sitting is nobody's work.
                this.spent_ms = sitting.spent_ms;
                began = sitting.started;
                this.sittings = sitting.sitting;
                if sitting.retry {
                    this.retried = true;
                    this.index.reopen_failed();
                }
            }
        }
    }
    // The last sitting died: its time goes to the last sign of it.
    if let Some(this) = contents.as_mut().filter(|this| this.end.is_none())
        && let Ok(changed) = path.metadata().and_then(|meta| meta.modified())
    {
        this.spent_ms += millis_between(&began, &time_text(changed));
    }
    if let Some(this) = contents.as_mut().filter(|this| this.header.longshore == 1) {
        // It did not say, but so many were there.
        let tasks = this.index.finished() + this.index.in_flight();
        this.read.advance(ReadUpTo { read: tasks, ended: false });
    }
    contents.ok_or_else(|| broken(1, "the journal has no whole first line".to_owned()))
}

/// The header of a journal, and how its last sitting ended; without reading what stands between.
///
/// # Errors
/// When it cannot be read, or its first line is no header.
pub(crate) fn peek(path: &Path) -> Result<(Header, Option<End>), JobError> {
    let fail = |error: &io::Error| JobError::io(path, "cannot read", error);
    let broken = |why: String| JobError::Broken { path: path.to_owned(), line: 1, why };
    // A header is short, and there may be thousands of jobs.
    let file = open(path).map_err(|error| JobError::io(path, "cannot open", &error))?;
    let mut lines = Lines { reader: BufReader::with_capacity(2_048, file), at: 0, line: Vec::new() };
    let first = lines.next().map_err(|error| fail(&error))?.ok_or_else(|| broken("the journal has no whole first line".to_owned()))?;
    let Line::Header(header) = parse(first.1).map_err(broken)? else { return Err(broken("it is no header of a journal".to_owned())) };
    // A line that ends a sitting is far shorter than this.
    let mut file = lines.into_file();
    let len = file.metadata().map_err(|error| fail(&error))?.len();
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(2_048)))
        .and_then(|_| file.take(2_048).read_to_end(&mut tail))
        .map_err(|error| fail(&error))?;
    let whole = tail.strip_suffix(b"\n").unwrap_or_default();
    let last = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let end = match parse(last) {
        Ok(Line::End(end)) => Some(end),
        _ => None,
    };
    Ok((*header, end))
}

/// Returns whether a journal whose header cannot be trusted may be that of the job of this name:
/// the name stands at its beginning, but for the bits of one byte.
pub(crate) fn may_be_named(path: &Path, name: &str) -> bool {
    let mut start = Vec::new();
    let read = open(path).and_then(|file| file.take(4_096).read_to_end(&mut start));
    let pattern = format!("\"name\":\"{name}\"");
    let differs = |window: &[u8]| window.iter().zip(pattern.bytes()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    read.is_ok() && start.windows(pattern.len()).any(|window| differs(window) <= 8)
}

/// The whole lines of a file, each with the offset at which it begins.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<File>,
    at: u64,
    line: Vec<u8>,
}

impl Lines {
    /// The lines from this offset on.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn open(path: &Path, from: u64) -> io::Result<Self> {
        Self::of(open(path)?, from)
    }

    pub(crate) fn of(mut file: File, from: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(from))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 18, file), at: from, line: Vec::new() })
    }

    /// The next line, its newline included; `None` at the end or before a line without one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line)?;
        if !self.line.ends_with(b"\n") {
            return Ok(None);
        }
        let at = self.at;
        self.at += read as u64;
        Ok(Some((at, &self.line)))
    }

    fn into_file(self) -> File {
        self.reader.into_inner()
    }
}

/// A value as one line.
pub(crate) fn line_of(value: &impl Serialize) -> Vec<u8> {
    // The kinds of line have members of plain types only, which always serialise.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

pub(crate) fn failed(path: &Path, error: &io::Error) -> JournalError {
    JournalError { path: path.to_owned(), free: free_bytes(path), cause: cause(error), unsynced: 0, uncut: None }
}

fn open(path: &Path) -> io::Result<File> {
    own(path, Own::Read)
}
