//! The children that live: who they are, how to end all of them, and what they said last.

use std::{
    collections::BTreeSet,
    fmt, io,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_sys::{
    Guardian, SlotTable, Usage,
    child::{Status, hold_group, kill_group, pidfd_open, terminate_group, wait4},
};

use super::Command;
use crate::{
    clock,
    error::{Again, TaskError},
    lane::{Stop, child::start},
};

/// Bytes of a last line that are kept.
const LAST_LINE: usize = 200;

const SIGKILL: i32 = 9;

/// The live children of a run by slot, shared by the threads that run them. Cheap to clone.
#[derive(Clone)]
pub struct Children(Arc<ChildTable>);

struct ChildTable {
    slots: RwLock<Vec<Arc<Mutex<Entry>>>>,
    stopping: AtomicBool,
    /// They are held, and so is each that starts now.
    held: AtomicBool,
    /// Readable once the children are being stopped, and for ever after, so that one write wakes
    /// every thread that waits for a child.
    stop_reader: io::PipeReader,
    stop_writer: io::PipeWriter,
    table: Option<SlotTable>,
    marker: Option<(&'static str, String)>,
    guardian: Mutex<Option<Guardian>>,
    claimed: Mutex<ClaimedSlots>,
}

/// The slots that were claimed; the others are their users' own business.
#[derive(Default)]
struct ClaimedSlots {
    free: BTreeSet<u32>,
    next: u32,
}

/// A slot that nobody else claims until this is dropped.
#[derive(Debug)]
pub struct ChildSlot {
    number: u32,
    children: Children,
}

impl ChildSlot {
    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for ChildSlot {
    fn drop(&mut self) {
        lock(&self.children.0.claimed).free.insert(self.number);
    }
}

/// One slot.
#[derive(Default)]
struct Entry {
    live: Option<Live>,
    stopped: bool,
    last_line: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Live {
    group: i32,
    since: Instant,
}

/// A child that runs now.
#[derive(Clone, Debug)]
pub struct RunningChild {
    /// Its slot.
    pub slot: u32,
    /// Its pid, which is also its group's number.
    pub pid: i32,
    /// Time since its start.
    pub age: Duration,
    /// The last line that it wrote to either stream (its last 200 bytes); empty if none.
    pub last_line: String,
}

impl Children {
    /// Makes a registry without a guardian: the children of a process that dies of SIGKILL go on.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Self> {
        Self::with(None, None)
    }

    /// A registry whose children a guardian kills if this process dies. The guardian keeps the
    /// descriptors in `keep` open until it is done, so a lock (flock) in `keep` is free when
    /// nothing of this run is left.
    ///
    /// # Errors
    /// As [`Guardian::start`], which also says what `main` has to do.
    pub fn guarded(keep: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let table = SlotTable::new()?;
        let guardian = Guardian::start(&table, keep)?;
        Self::with(Some(table), Some(guardian))
    }

    fn with(table: Option<SlotTable>, guardian: Option<Guardian>) -> io::Result<Self> {
        let (stop_reader, stop_writer) = io::pipe()?;
        let marker = guardian.as_ref().map(|guardian| {
            let (name, value) = guardian.marker();
            (name, value.to_owned())
        });
        Ok(Self(Arc::new(ChildTable {
            slots: RwLock::new(Vec::new()),
            stopping: AtomicBool::new(false),
            held: AtomicBool::new(false),
            stop_reader,
            stop_writer,
            table,
            marker,
            guardian: Mutex::new(guardian),
            claimed: Mutex::default(),
        })))
    }

    /// Ends every live child now, from any thread, and lets no further one start. May be called
    /// again, harder. The number of groups signalled.
    pub fn stop(&self, how: Stop) -> usize {
        // First the flag, then slot by slot: a child that is entered after its slot was visited
        // sees the flag and is signalled by whoever entered it.
        if !self.0.stopping.swap(true, Ordering::SeqCst) {
            let _ = (&self.0.stop_writer).write(&[0]);
        }
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut signalled = 0;
        for slot in slots {
            let mut entry = lock(&slot);
            if let Some(Live { group, .. }) = entry.live {
                entry.stopped = true;
                signalled += 1;
                // All that can fail is that nobody hears it any more.
                let _ = match how {
                    Stop::Soft => terminate_group(group),
                    Stop::Hard => kill_group(group, SIGKILL),
                };
            }
        }
        signalled
    }

    /// Holds every live child where it is, and each that starts from now on, as Ctrl-Z does; or
    /// lets them go on.
    pub fn hold(&self, hold: bool) {
        // First the flag, as in `stop`.
        self.0.held.store(hold, Ordering::SeqCst);
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        for slot in slots {
            if let Some(Live { group, .. }) = lock(&slot).live {
                let _ = hold_group(group, hold);
            }
        }
    }

    /// Signals the one child that has this pid in this slot; its owner sees a child that was ended
    /// by somebody else. Nothing if it has gone.
    pub fn end(&self, slot: u32, pid: i32, how: Stop) {
        let entry = self.entry(slot);
        let entry = lock(&entry);
        if entry.live.is_some_and(|live| live.group == pid) {
            let _ = match how {
                Stop::Soft => terminate_group(pid),
                Stop::Hard => kill_group(pid, SIGKILL),
            };
        }
    }

    /// Returns true once [`stop`](Self::stop) has been called.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// Returns what runs now, by slot.
    pub fn running(&self) -> Vec<RunningChild> {
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let running = |(slot, entry): (usize, &Arc<Mutex<Entry>>)| {
            let entry = lock(entry);
            let Live { group, since } = entry.live?;
            let last_line = String::from_utf8_lossy(&entry.last_line).into_owned();
            Some(RunningChild {
                slot: u32::try_from(slot).ok()?,
                pid: group,
                age: clock::now().saturating_duration_since(since),
                last_line,
            })
        };
        slots.iter().enumerate().filter_map(running).collect()
    }

    /// Claims the lowest slot that is free. All slots of a registry are claimed, or none: numbers
    /// that its users chose themselves are not known here.
    pub fn claim(&self) -> ChildSlot {
        let mut claimed = lock(&self.0.claimed);
        let number = claimed.free.pop_first().unwrap_or_else(|| {
            claimed.next += 1;
            claimed.next - 1
        });
        ChildSlot { number, children: self.clone() }
    }

    /// Has the guardian keep one more descriptor open; nothing without a guardian.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub fn keep(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match &*lock(&self.0.guardian) {
            Some(guardian) => guardian.keep(fd),
            None => Ok(()),
        }
    }

    /// Sends the guardian home and waits for it; to be called when no child is left. Dropping the
    /// last clone does the same.
    ///
    /// # Errors
    /// When the guardian was gone already.
    pub fn finish(&self) -> io::Result<()> {
        let guardian = lock(&self.0.guardian).take();
        guardian.map_or(Ok(()), Guardian::finish)
    }

    /// Returns a descriptor that is readable from the moment when the children are stopped.
    pub fn stop_fd(&self) -> BorrowedFd<'_> {
        self.0.stop_reader.as_fd()
    }

    /// Starts a command in a group of its own and enters it in `slot`, which has no other child
    /// now. stdout and stderr are pipes; stdin is one unless it is [`Null`](super::Stdin::Null),
    /// and its writes do not block.
    ///
    /// # Errors
    /// As [`run`](super::run).
    pub fn start(&self, slot: u32, command: &Command) -> Result<Child, TaskError> {
        if self.is_stopping() {
            return Err(stopped());
        }
        let process = start::start(command, self.marker())?;
        if let Some(bytes) = command.memory {
            // What has ended already needs no limit.
            let _ = longshore_sys::child::limit_memory(process.id().cast_signed(), bytes);
        }
        let child = self.enter(slot, process).map_err(|error| start::error(command, &error))?;
        if let Some(stdin) = &child.stdin {
            longshore_sys::poll::set_nonblocking(stdin).map_err(|error| start::error(command, &error))?;
        }
        Ok(child)
    }

    /// Returns the variable, with its value, that every child of this registry must carry in its
    /// environment.
    pub(crate) fn marker(&self) -> Option<(&str, &str)> {
        self.0.marker.as_ref().map(|(name, value)| (*name, value.as_str()))
    }

    /// Enters a process that was started just now, as the leader of a group of its own, in `slot`,
    /// which has no other child now.
    ///
    /// # Errors
    /// When no descriptor is left; the process has been killed then.
    pub(crate) fn enter(&self, slot: u32, mut process: std::process::Child) -> io::Result<Child> {
        let entry = self.entry(slot);
        let pid = process.id().cast_signed();
        let end = match pidfd_open(pid) {
            Ok(end) => end,
            Err(error) => {
                let _ = kill_group(pid, SIGKILL);
                let _ = wait4(pid, true);
                return Err(error);
            }
        };
        {
            let mut entry = lock(&entry);
            debug_assert!(entry.live.is_none(), "slot {slot} has a child already");
            *entry = Entry { live: Some(Live { group: pid, since: clock::now() }), ..Entry::default() };
            if let Some(table) = &self.0.table {
                table.set(slot, pid);
            }
            if self.0.held.load(Ordering::SeqCst) {
                let _ = hold_group(pid, true);
            }
            if self.is_stopping() {
                entry.stopped = true;
                let _ = kill_group(pid, SIGKILL);
            }
        }
        Ok(Child {
            stdin: process.stdin.take(),
            stdout: process.stdout.take(),
            stderr: process.stderr.take(),
            end,
            pid,
            slot,
            entry,
            children: self.clone(),
            reaped: false,
        })
    }

    fn entry(&self, slot: u32) -> Arc<Mutex<Entry>> {
        let index = slot as usize;
        if let Some(entry) = self.0.slots.read().unwrap_or_else(PoisonError::into_inner).get(index) {
            return entry.clone();
        }
        let mut slots = self.0.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.len() <= index {
            slots.resize_with(index + 1, Arc::default);
        }
        slots[index].clone()
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("running", &self.running()).field("stopping", &self.is_stopping()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopped() -> TaskError {
    TaskError::new("cancelled", "the children are being stopped, so this one was not started").with_again(Again::Never)
}

/// A live child and its pipes. Dropping it kills its group and reaps it.
pub struct Child {
    /// Pipe from which it reads, if it reads from one. Writes do not block.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: Option<ChildStdout>,
    /// Its standard error.
    pub stderr: Option<ChildStderr>,
    end: OwnedFd,
    pid: i32,
    slot: u32,
    entry: Arc<Mutex<Entry>>,
    children: Children,
    reaped: bool,
}

/// End of a child.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Code or signal.
    pub status: Status,
    /// Resources that it used.
    pub usage: Usage,
    /// True if [`Children::stop`] signalled it.
    pub stopped: bool,
}

impl Child {
    /// Returns its pid, which is also its group's number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns a descriptor that is readable once the child has ended.
    pub fn end_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Remembers the last line of what the child wrote.
    pub fn note(&self, written: &[u8]) {
        let line = last_line(written);
        if !line.is_empty() {
            let mut entry = lock(&self.entry);
            entry.last_line.clear();
            entry.last_line.extend_from_slice(line);
        }
    }

    /// Sends SIGTERM to the group.
    pub fn terminate(&self) {
        self.signal(terminate_group);
    }

    /// Sends SIGKILL to the group.
    pub fn kill(&self) {
        self.signal(|group| kill_group(group, SIGKILL));
    }

    fn signal(&self, send: impl FnOnce(i32) -> io::Result<()>) {
        if let Some(Live { group, .. }) = lock(&self.entry).live {
            // All that can fail is that nobody hears it any more.
            let _ = send(group);
        }
    }

    /// Kills what is left of the group, and reaps the child (waiting for its end, which comes at
    /// once).
    ///
    /// # Errors
    /// What wait4(2) says: never, unless somebody else reaped the child.
    pub fn reap(mut self) -> io::Result<End> {
        self.end()
    }

    fn end(&mut self) -> io::Result<End> {
        self.reaped = true;
        let stopped = {
            let mut entry = lock(&self.entry);
            // The leader is not reaped yet, so the number is still the group's, even if nobody in
            // it lives. From here on no one signals it.
            let _ = kill_group(self.pid, SIGKILL);
            entry.live = None;
            if let Some(table) = &self.children.0.table {
                table.clear(self.slot);
            }
            entry.stopped
        };
        let (status, usage) = wait4(self.pid, true)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(End { status, usage, stopped })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.end();
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid).field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// Returns the last line in what was read that is not empty, finished or not; a progress bar's
/// carriage return ends a line too.
fn last_line(written: &[u8]) -> &[u8] {
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let end = written.iter().rposition(|byte| !breaks(byte)).map_or(0, |at| at + 1);
    let start = written[..end].iter().rposition(breaks).map_or(0, |at| at + 1);
    &written[start.max(end.saturating_sub(LAST_LINE))..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        for (written, want) in
            [("", ""), ("\n\n", ""), ("one\ntwo\n", "two"), ("one\ntwo", "two"), ("10%\r20%\r", "20%"), ("one\r\ntwo\r\n\n", "two")]
        {
            assert_eq!(last_line(written.as_bytes()), want.as_bytes(), "{written:?}");
        }
        assert_eq!(last_line(&[b'x'; 5000]).len(), LAST_LINE);
    }
}
