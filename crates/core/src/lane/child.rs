//! Commands: one child process per attempt, in a group of its own.
//!
//! Layout:
//! - [`run`]: one command from start to end, on the calling thread.
//! - [`Children`]: the groups that live, for stopping all of them and for the list of what runs.
//! - [`Spill`], [`Rest`]: what is not kept of a stream in memory, in a file.
//! - [`OutputListener`]: whoever hears what a command writes, while it runs.
//! - [`Child`]: one child that its owner talks to, for lanes whose children serve many tasks.
//!
//! What holds:
//! - A child is started by posix_spawn: no hook between fork and exec, which would make every start
//!   copy this process's page tables.
//! - Whatever way a command ends, its whole group is killed before its leader is reaped: nothing
//!   that stayed in the group outlives the task.
//! - A group is only signalled under its slot's lock and while its leader is not reaped, so that
//!   the number cannot be another's.
//! - stdout and stderr are read to their end whatever the limit, so that no child waits for a
//!   reader, unless its listener has no room.

mod children;
mod listener;
mod patience;
mod spill;
mod start;
#[cfg(test)]
mod tests;

pub use crate::lane::Stop;
pub use children::{Child, ChildSlot, Children, End, RunningChild};
pub use listener::{OutputListener, OutputStream};
pub use longshore_sys::{Exit, Usage, child::Status};
pub use spill::{Rest, Spill};
pub use start::{is_of_program, missing};

use std::{
    cell::RefCell,
    ffi::OsString,
    fmt,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
    path::PathBuf,
    process::ChildStdin,
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_sys::poll::{Interest, ready, unread};

use self::patience::Patience;
use crate::{clock, error::TaskError};

/// Command to run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables that its environment has beyond this process's.
    pub env: Vec<(OsString, OsString)>,
    /// Directory in which it runs; this process's working directory if `None`.
    pub cwd: Option<PathBuf>,
    /// Bytes that it can read from its standard input.
    pub stdin: Stdin,
    /// The most address space that it may have, in bytes, and each of its own children (Linux;
    /// elsewhere it has no effect). Set as soon as it runs.
    pub memory: Option<u64>,
    /// Place for the part of its output that is not kept; thrown away if `None`.
    pub spill: Option<Spill>,
    /// Hears all that it writes, as it is read.
    pub listener: Option<Arc<dyn OutputListener>>,
}

/// Bytes that a command can read from its standard input.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// These bytes. A command that does not read them all is none the worse.
    Bytes(Vec<u8>),
    /// A pipe that the owner of the [`Child`] writes to; [`run`] closes it at once.
    Open,
    /// All that this reads, a piece at a time, as fast as the command takes it.
    Stream(Stream),
}

/// A command's input that is not held in memory: opened anew for each attempt, and read on the
/// thread that waits for the command.
///
/// Reading should not wait for anybody, as a regular file does not. When opening fails, nothing is
/// started. When reading fails, the command is killed before it sees an end of its input, and
/// [`run`] returns the error.
#[derive(Clone)]
pub struct Stream(Arc<Opener>);

type Opener = dyn Fn() -> Result<Box<dyn Read + Send>, TaskError> + Send + Sync;

impl Stream {
    /// An input that this opens.
    pub fn new(open: impl Fn() -> Result<Box<dyn Read + Send>, TaskError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// Limits of a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// After this time its group gets SIGTERM.
    pub timeout: Option<Duration>,
    /// The time between SIGTERM and SIGKILL, after a timeout and after [`Stop::Soft`]; nothing
    /// means SIGKILL at once.
    pub kill_after: Duration,
    /// Most bytes of each of its streams that are kept; what comes after them is read and counted,
    /// and goes to the command's [`Spill`] if it has one.
    pub max_output: usize,
}

impl Default for Limits {
    /// No timeout, 10 s, 1 MiB.
    fn default() -> Self {
        Self { timeout: None, kill_after: Duration::from_secs(10), max_output: 1 << 20 }
    }
}

/// Result of a command: its end, and what it said.
#[derive(Clone, Debug)]
pub struct Output {
    /// End of the command itself (its background children do not count).
    pub exit: Exit,
    /// True if a signal left a core dump.
    pub core_dumped: bool,
    /// True if it ran into its timeout. It may have ended with code 0 all the same, on SIGTERM.
    pub timed_out: bool,
    /// True if [`Children::stop`] signalled it. It may have ended with code 0 all the same.
    pub stopped: bool,
    /// The first bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The first bytes of its standard error.
    pub stderr: Vec<u8>,
    /// Number of bytes of standard output beyond those.
    pub stdout_cut: u64,
    /// Number of bytes of standard error beyond those.
    pub stderr_cut: u64,
    /// The file with those bytes of standard output, where the command's [`Spill`] wants them.
    pub stdout_rest: Option<Arc<Rest>>,
    /// The file with those bytes of standard error, where the command's [`Spill`] wants them.
    pub stderr_rest: Option<Arc<Rest>>,
    /// Reason why such a file could not be written. The command was killed then, and what it said
    /// is not whole.
    pub unspilled: Option<String>,
    /// True if the command's [`OutputListener`] got all that it wrote; `None` if it has none.
    pub heard: Option<bool>,
    /// Resources that it used, with those of its children that it waited for.
    pub usage: Usage,
    /// From its start to its end.
    pub wall: Duration,
}

/// Runs one command and waits for its end, on the calling thread. `slot` is the calling thread's
/// place in `children`; no other call uses it meanwhile.
///
/// When the command has ended, what is in its pipes is read; pipes that a background child of it
/// holds open are waited for up to 100 ms. After SIGTERM (timeout, or [`Stop::Soft`]) its
/// background children have as long as it had itself, `kill_after`, as long as they hold a pipe.
/// Then its group is killed: a command leaves nothing behind but what moved to another group or
/// session on purpose (a daemon). What it wrote before its end is read whatever the time, where its
/// [`OutputListener`] has no room at once.
///
/// # Errors
/// Kind `spawn` when it could not be started, with the system's error number as code, never retried
/// if another attempt cannot help (no such program, say); kind `invalid` for a NUL byte in an
/// argument; kind `cancelled` after [`Children::stop`]; of a [`Stream`] its own when it cannot be
/// opened, and kind `stdin` when it cannot be read to its end.
pub fn run(command: &Command, limits: &Limits, slot: u32, children: &Children) -> Result<Output, TaskError> {
    let start = clock::now();
    // Opened first: a command whose input cannot be had is not even started.
    let stream = match &command.stdin {
        Stdin::Stream(stream) => Some((stream.0)()?),
        _ => None,
    };
    let mut child = children.start(slot, command)?;
    let mut input = Feed::new(child.stdin.take(), &command.stdin, stream);
    let spill = command.spill.as_ref();
    let listener = command.listener.as_deref();
    let mut stdout = Capture::new(child.stdout.take(), limits.max_output, spill.filter(|spill| spill.stdout), OutputStream::Stdout);
    let mut stderr = Capture::new(child.stderr.take(), limits.max_output, spill.filter(|spill| spill.stderr), OutputStream::Stderr);

    let mut patience = Patience::new(start, limits.timeout, limits.kill_after);
    let mut stop_seen = false;
    let mut ended: Option<Instant> = None;
    let mut unread: Option<std::io::Error> = None;
    let mut unspilled = None;
    while ended.is_none() || stdout.is_open() || stderr.is_open() {
        // A command whose input or output cannot be had whole is ended.
        if let Some(error) = input.failed.take() {
            child.kill();
            input.close();
            unread = Some(error);
        }
        if let Some(error) = stdout.failed.take().or(stderr.failed.take()) {
            child.kill();
            unspilled.get_or_insert(error);
        }
        let full = listener.and_then(OutputListener::full);
        // What an ended command has written waits for room, however long that takes.
        let waits_for_room = full.is_some() && ended.is_some() && !stop_seen;
        let until = patience.next().filter(|_| !waits_for_room);
        let [exited, out, err, space, stop, _] = ready(
            [
                ended.is_none().then(|| (child.end_fd(), Interest::Read)),
                stdout.fd().filter(|_| full.is_none()),
                stderr.fd().filter(|_| full.is_none()),
                input.fd(),
                (!stop_seen).then(|| (children.stop_fd(), Interest::Read)),
                full.map(|fd| (fd, Interest::Read)),
            ],
            until.map(|at| at.saturating_duration_since(clock::now())),
        )?;
        // First what it said, for its end may be what lets its pipes go.
        if out {
            stdout.read(&child, listener);
        }
        if err {
            stderr.read(&child, listener);
        }
        if space {
            input.write();
        }
        let now = clock::now();
        if exited {
            // Its background children may hold its pipes open; these are read for a moment longer.
            ended = Some(now);
            patience.ended(now);
            input.close();
            if listener.is_some() {
                stdout.owe();
                stderr.owe();
            }
        }
        if stop && ended.is_none() {
            patience.stopped(now);
        }
        stop_seen |= stop;
        let deeds = patience.due(now);
        if deeds.terminate {
            child.terminate();
        }
        if deeds.kill {
            child.kill();
        }
        if deeds.leave && (stop_seen || stdout.owed + stderr.owed == 0) {
            break;
        }
    }
    // Up to its own end, whatever its background children did after it.
    let wall = ended.unwrap_or_else(clock::now) - start;
    let end = child.reap()?;
    if let Some(error) = unread {
        return Err(TaskError::new("stdin", format!("its input could not be read to the end: {error}")));
    }
    let is_whole = stdout.owed + stderr.owed == 0;
    let heard = listener.map(|listener| listener.finish(&|| children.is_stopping()) && is_whole);
    let mut output = told(&end, stdout, stderr);
    (output.timed_out, output.wall, output.heard) = (patience.timed_out, wall, heard);
    output.unspilled = unspilled.or(output.unspilled);
    Ok(output)
}

/// Returns an ended command with what it said.
fn told<O: Read + AsFd, E: Read + AsFd>(end: &End, mut stdout: Capture<'_, O>, mut stderr: Capture<'_, E>) -> Output {
    let (stdout_rest, stderr_rest) = (stdout.finish(), stderr.finish());
    Output {
        exit: end.status.exit,
        core_dumped: end.status.core_dumped,
        timed_out: false,
        stopped: end.stopped,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        stdout_cut: stdout.cut,
        stderr_cut: stderr.cut,
        stdout_rest,
        stderr_rest,
        unspilled: stdout.failed.or(stderr.failed),
        heard: None,
        usage: end.usage,
        wall: Duration::ZERO,
    }
}

thread_local! {
    /// Buffer into which a stream is read first, as large as a pipe: outputs then take the memory
    /// that they need and no more.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// Reads once from a pipe that is ready, hands the bytes to `take`, and says whether the end has
/// not come yet.
///
/// The pipe need not be non-blocking: nobody else reads it, so what poll(2) promised is there.
pub fn read_some(mut pipe: impl Read, take: impl FnOnce(&[u8])) -> bool {
    SCRATCH.with_borrow_mut(|scratch| match pipe.read(scratch) {
        Ok(0) => false,
        Ok(count) => {
            take(&scratch[..count]);
            true
        }
        Err(error) => matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock),
    })
}

/// One stream of a child, kept up to a limit.
struct Capture<'a, P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
    cut: u64,
    limit: usize,
    /// Place for the rest, and the rest as far as it was written.
    spill: Option<&'a Spill>,
    rest: Option<Rest>,
    failed: Option<String>,
    stream: OutputStream,
    /// Bytes that lay in the pipe when the command ended, and were not read yet.
    owed: u64,
}

impl<'a, P: Read + AsFd> Capture<'a, P> {
    fn new(pipe: Option<P>, limit: usize, spill: Option<&'a Spill>, stream: OutputStream) -> Self {
        Self { pipe, bytes: Vec::new(), cut: 0, limit, spill, rest: None, failed: None, stream, owed: 0 }
    }

    /// Returns the extension of the rest's file.
    fn extension(&self) -> &'static str {
        match self.stream {
            OutputStream::Stdout => "out",
            OutputStream::Stderr => "err",
        }
    }

    /// Notes that the command has ended: what lies in the pipe now is its own.
    fn owe(&mut self) {
        self.owed = self.pipe.as_ref().map_or(0, |pipe| unread(pipe).unwrap_or(0));
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    fn fd(&self) -> Option<(std::os::fd::BorrowedFd<'_>, Interest)> {
        self.pipe.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read))
    }

    fn read(&mut self, child: &Child, listener: Option<&dyn OutputListener>) {
        let extension = self.extension();
        let Some(pipe) = &mut self.pipe else { return };
        let mut failed = None;
        let open = read_some(pipe, |read| {
            let kept = read.len().min(self.limit - self.bytes.len());
            self.bytes.extend_from_slice(&read[..kept]);
            self.cut += (read.len() - kept) as u64;
            self.owed = self.owed.saturating_sub(read.len() as u64);
            child.note(read);
            if let Some(listener) = listener {
                listener.hear(self.stream, read);
            }
            if let Some(spill) = self.spill.filter(|_| kept < read.len()) {
                let rest = match self.rest.take() {
                    None => spill.open(extension),
                    Some(rest) => Ok(rest),
                };
                let written = rest.and_then(|rest| {
                    let rest = self.rest.insert(rest);
                    rest.write(&read[kept..])
                });
                failed = written.err();
            }
        });
        if let Some(error) = failed {
            self.fail(&error);
        }
        if !open {
            (self.pipe, self.owed) = (None, 0);
        }
    }

    /// The rest, whole and closed.
    fn finish(&mut self) -> Option<Arc<Rest>> {
        if let Some(Err(error)) = self.rest.as_mut().map(Rest::finish) {
            self.fail(&error);
        }
        self.rest.take().map(Arc::new)
    }

    /// Gives the rest up, and with it the room that it took.
    fn fail(&mut self, error: &std::io::Error) {
        if let Some(spill) = self.spill.take() {
            let path = spill.dir.join(format!("{}.{}", spill.name, self.extension()));
            self.failed = Some(format!("{}: {error}", path.display()));
        }
        self.rest = None;
    }
}

/// The bytes that are on their way to a child's standard input.
struct Feed<'a> {
    pipe: Option<ChildStdin>,
    rest: &'a [u8],
    stream: Option<Box<dyn Read + Send>>,
    /// Bytes that were read of the stream, and how many of them are written.
    piece: Vec<u8>,
    written: usize,
    failed: Option<std::io::Error>,
}

/// Bytes that are read of a stream at once: as many as a pipe takes.
const PIECE: usize = 64 << 10;

impl<'a> Feed<'a> {
    fn new(pipe: Option<ChildStdin>, stdin: &'a Stdin, stream: Option<Box<dyn Read + Send>>) -> Self {
        let rest = match stdin {
            Stdin::Bytes(bytes) => bytes.as_slice(),
            Stdin::Null | Stdin::Open | Stdin::Stream(_) => &[],
        };
        let mut this = Self { pipe, rest, stream, piece: Vec::new(), written: 0, failed: None };
        // A short input fits into the pipe at once and needs no turn of the loop.
        this.write();
        this
    }

    fn fd(&self) -> Option<(std::os::fd::BorrowedFd<'_>, Interest)> {
        self.pipe.as_ref().filter(|_| self.failed.is_none()).map(|pipe| (pipe.as_fd(), Interest::Write))
    }

    fn write(&mut self) {
        self.refill();
        let Some(pipe) = &mut self.pipe else { return };
        let bytes = if self.stream.is_some() { &self.piece[self.written..] } else { self.rest };
        if !bytes.is_empty() {
            match pipe.write(bytes) {
                Ok(count) if self.stream.is_some() => self.written += count,
                Ok(count) => self.rest = &self.rest[count..],
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                // Nobody reads any more, which is the command's right.
                Err(_) => (self.rest, self.stream) = (&[], None),
            }
        }
        if self.rest.is_empty() && self.stream.is_none() {
            self.pipe = None;
        }
    }

    /// Reads on where all that was read is written. At its end the stream is let go; where it
    /// fails, the pipe stays open.
    fn refill(&mut self) {
        let Some(stream) = self.stream.as_mut().filter(|_| self.written == self.piece.len() && self.failed.is_none()) else { return };
        self.written = 0;
        self.piece.resize(PIECE, 0);
        let read = loop {
            match stream.read(&mut self.piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.piece.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.stream = None,
            Ok(_) => {}
            Err(error) => self.failed = Some(error),
        }
    }

    fn close(&mut self) {
        (self.pipe, self.stream) = (None, None);
    }
}
