//! The three streams of a child that is talked to: what is on its way to it, what it has said, and
//! the last that it wrote to its standard error.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use longshore_sys::poll::{Interest, ready, unread};

use super::{ChildLimits, FAREWELL, KILL_AFTER, link::Woken};
use crate::{
    clock,
    lane::child::{Child, read_some},
};

/// Bytes of a child's standard error that are kept for an error.
const TAIL: usize = 4096;

/// Gets what a child writes to its standard error, as it comes.
#[derive(Clone)]
pub(super) struct HearStderr(pub(super) Arc<dyn Fn(&[u8]) + Send + Sync>);

impl fmt::Debug for HearStderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HearStderr")
    }
}

/// A child and its streams.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) child: Child,
    /// Bytes that it is told, and how many of them are written.
    told: Vec<u8>,
    written: usize,
    /// Bytes that were written before those.
    before: u64,
    /// True once nobody reads its stdin any more.
    deaf: bool,
    /// Bytes that it wrote to stdout and nobody has taken yet.
    pub(super) heard: Vec<u8>,
    /// The last bytes that it wrote to stderr.
    tail: Vec<u8>,
    hear_stderr: Option<HearStderr>,
}

impl Talk {
    pub(super) fn new(child: Child, hear_stderr: Option<HearStderr>) -> Self {
        Self { child, told: Vec::new(), written: 0, before: 0, deaf: false, heard: Vec::new(), tail: Vec::new(), hear_stderr }
    }

    /// Tells it something, behind what it is being told already. It is written when it is waited
    /// for.
    pub(super) fn tell(&mut self, pieces: &[&[u8]]) {
        if self.is_written() {
            self.before += self.written as u64;
            self.told.clear();
            self.told.shrink_to(1 << 20);
            self.written = 0;
        }
        self.told.reserve(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| self.told.extend_from_slice(piece));
    }

    /// Returns how many bytes it has been told, and how many of them are in the pipe or read.
    pub(super) fn told(&self) -> (u64, u64) {
        (self.before + self.told.len() as u64, self.before + self.written as u64)
    }

    /// Returns whether all that it is told is in the pipe.
    pub(super) fn is_written(&self) -> bool {
        self.written == self.told.len()
    }

    /// Returns how many bytes of all that it has been told the child has read, as far as that can
    /// be known.
    pub(super) fn has_read(&self) -> u64 {
        let (_, written) = self.told();
        // Asked at the writing end, the kernel tells what lies in the pipe.
        let unread = self.child.stdin.as_ref().and_then(|stdin| unread(stdin).ok()).unwrap_or(0);
        written.saturating_sub(unread)
    }

    /// Sends and reads what can be; as [`TalkLink::wait`](super::TalkLink::wait).
    pub(super) fn wait(&mut self, others: [Option<BorrowedFd<'_>>; 2], time: Option<Duration>) -> io::Result<Woken> {
        // All that it was told since the last wait, with one call.
        if !self.is_written() && !self.deaf {
            self.write();
        }
        let child = &self.child;
        let [first, second] = others.map(|fd| fd.map(|fd| (fd, Interest::Read)));
        let [out, err, ended, space, first, second] = ready(
            [
                child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                child.stderr.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                Some((child.end_fd(), Interest::Read)),
                child.stdin.as_ref().filter(|_| !self.is_written() && !self.deaf).map(|pipe| (pipe.as_fd(), Interest::Write)),
                first,
                second,
            ],
            time,
        )?;
        if err {
            self.read_stderr();
        }
        if space {
            self.write();
        }
        let open = !out || self.read_stdout();
        // An ended child is read to the end of what it said, which is there already; a background
        // child of it may hold the pipe for ever. poll(2) looked at stdout before it saw the end,
        // so only a second look tells that nothing came in between.
        let gone = !open || (ended && !out && !self.poll(Some(Duration::ZERO)).is_ok_and(|[out, ..]| out));
        Ok(Woken { gone, others: [first, second] })
    }

    /// Reads what is there without waiting, and forgets what it wrote to stderr; whether it is
    /// still there.
    pub(super) fn look(&mut self) -> bool {
        let Ok([out, err, ended]) = self.poll(Some(Duration::ZERO)) else { return false };
        if err {
            self.read_stderr();
        }
        self.tail.clear();
        let open = !out || self.read_stdout();
        open && !ended
    }

    /// Reads what comes on its stdout within this time.
    pub(super) fn linger(&mut self, time: Duration) {
        let child = &self.child;
        let fds = [child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)), Some((child.end_fd(), Interest::Read))];
        if let Ok([true, _]) = ready(fds, Some(time)) {
            self.read_stdout();
        }
    }

    /// Reads what is left of both streams of a child that has ended, without waiting.
    pub(super) fn drain(&mut self, with_stdout: bool) {
        // Background children of it may write for ever.
        for _ in 0..1 << 10 {
            match self.poll(Some(Duration::ZERO)) {
                Ok([_, true, _]) if self.read_stderr() => {}
                Ok([true, ..]) if with_stdout && self.read_stdout() => {}
                _ => break,
            }
        }
    }

    /// Ends the child: its input ends, then it gets SIGTERM, then SIGKILL. What it still writes is
    /// thrown away.
    pub(super) fn retire(mut self, limits: &ChildLimits) {
        self.child.stdin = None;
        if !self.wait_for_end(limits.farewell.unwrap_or(FAREWELL)) {
            self.child.terminate();
            self.wait_for_end(limits.kill_after.unwrap_or(KILL_AFTER));
        }
        // Dropping it kills what is left of its group, and reaps it.
    }

    /// Returns the last that it wrote to its standard error.
    pub(super) fn tail(&self) -> Option<String> {
        let tail = &self.tail[self.tail.len().saturating_sub(TAIL)..];
        (!tail.is_empty()).then(|| String::from_utf8_lossy(tail).trim_end().to_owned())
    }

    /// Waits until the child has ended, reading what it still writes so that it does not wait for a
    /// reader. Whether it has ended.
    fn wait_for_end(&mut self, patience: Duration) -> bool {
        let start = clock::now();
        loop {
            let left = patience.saturating_sub(clock::now().saturating_duration_since(start));
            let Ok([out, err, ended]) = self.poll(Some(left)) else { return false };
            if ended || left.is_zero() {
                return ended;
            }
            if out && !self.read_stdout() {
                self.child.stdout = None;
            }
            self.heard.clear();
            if err {
                self.read_stderr();
            }
        }
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<[bool; 3]> {
        ready(
            [
                self.child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                self.child.stderr.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                Some((self.child.end_fd(), Interest::Read)),
            ],
            timeout,
        )
    }

    /// Reads once; whether the stream is still open.
    fn read_stdout(&mut self) -> bool {
        let heard = &mut self.heard;
        self.child.stdout.as_mut().is_some_and(|pipe| read_some(pipe, |read| heard.extend_from_slice(read)))
    }

    /// Reads once; whether the stream is still open.
    fn read_stderr(&mut self) -> bool {
        let Some(mut pipe) = self.child.stderr.take() else { return false };
        let open = read_some(&mut pipe, |read| {
            self.tail.extend_from_slice(&read[read.len().saturating_sub(TAIL)..]);
            // Cut now and then instead of at every line.
            if self.tail.len() > 4 * TAIL {
                self.tail.drain(..self.tail.len() - TAIL);
            }
            self.child.note(read);
            if let Some(HearStderr(hear)) = &self.hear_stderr {
                hear(read);
            }
        });
        self.child.stderr = open.then_some(pipe);
        open
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.child.stdin else { return };
        match stdin.write(&self.told[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It reads no more. That alone is no failure: it may have ended, which its pidfd will
            // say, or hang, which the timeout is for. The pipe stays open, because the kernel still
            // knows what lies in it.
            Err(_) => self.deaf = true,
        }
    }
}
