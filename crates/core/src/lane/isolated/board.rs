//! The parent's end of one child: the process, two pipes and the board.
//!
//! Pipes, where a pair of sockets would be simpler: a message there and back takes half the time
//! (measured: 4.7 µs against 9 µs).

use std::{
    io::{self, PipeReader, PipeWriter, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use longshore_sys::{
    Board, SIDES, isolated,
    poll::{Interest, ready, set_nonblocking},
};

use super::{
    registry::Function,
    serve::ARGUMENT,
    wire::{ANSWER, DONE, HELLO, Inbox},
};
use crate::{
    error::{Again, TaskError},
    lane::{
        child::{Child, Children, End},
        children::{ChildLimits, ChildLink},
    },
};

/// Longest time that a child may take until it is in `init`; it needs milliseconds, but the machine
/// may be busy.
const HELLO_PATIENCE: Duration = Duration::from_secs(20);
/// Time that a child that is not needed any more has for what its program does at its end.
const FAREWELL: Duration = Duration::from_millis(200);

/// A child that has said hello.
pub(super) struct BoardLink {
    child: Child,
    requests: PipeWriter,
    /// The other end of the requests. A pipe that nobody can read would end a program that does not
    /// ignore SIGPIPE.
    _unbroken: PipeReader,
    answers: PipeReader,
    board: Board,
    inbox: Inbox,
    /// Part of each side of the board that has been read.
    seen: [usize; SIDES],
    /// Batches that were sent, and those of them that are done.
    sent: usize,
    done: usize,
    /// The child's CPU time that has been given to tasks already, in nanoseconds.
    cpu: u64,
    /// Number of tasks that have ended since it last said its CPU time.
    unpaid: u32,
}

/// Result of sending a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Done,
    /// The child ended meanwhile.
    Ended,
    /// It took nothing until the limit.
    Late,
}

/// Events at a child while its parent waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) said: bool,
    pub(super) ended: bool,
}

impl BoardLink {
    /// Starts a child for a function, on a thread that lives longer than the child (its death would
    /// be the child's), and waits for its hello.
    ///
    /// # Errors
    /// Kind `spawn` when there is none to be had now, `setup` when what was started is no child,
    /// `cancelled` when the children are being stopped.
    pub(super) fn start(function: Function, slot: u32, children: &Children, start_up: Option<Duration>) -> Result<Self, TaskError> {
        if children.is_stopping() {
            return Err(stopped());
        }
        let failed = |error: io::Error| {
            let named = TaskError::new("spawn", format!("no child process for `{}` can be started: {error}", function.name));
            error.raw_os_error().map_or_else(|| named.clone(), |code| named.clone().with_code(code.into()))
        };
        let mut link = Self::spawn(function, slot, children).map_err(failed)?;
        let why = match link.hello(function.name, start_up.unwrap_or(HELLO_PATIENCE)) {
            Ok(()) => return Ok(link),
            Err(why) => why,
        };
        let end = link.end().map_err(failed)?;
        if end.stopped || children.is_stopping() {
            return Err(stopped());
        }
        let (name, exit) = (function.name, end.status.exit);
        Err(TaskError::new(
            "setup",
            format!("the child process for `{name}` {why} ({exit}): longshore::init_with must be the first thing in main, and always add the same functions"),
        )
        .with_again(Again::Never))
    }

    fn spawn(function: Function, slot: u32, children: &Children) -> io::Result<Self> {
        let board = Board::new()?;
        let (socket, theirs) = UnixStream::pair()?;
        let (unbroken, requests) = io::pipe()?;
        let (answers, their_answers) = io::pipe()?;
        set_nonblocking(&requests)?;
        set_nonblocking(&answers)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("longshore-child")
            .args([ARGUMENT, &function.place.to_string(), &std::process::id().to_string()])
            .envs(children.marker())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0);
        let child = children.enter(slot, command.spawn()?)?;
        isolated::hand_over(&socket, &board, &unbroken, their_answers)?;
        Ok(Self {
            child,
            requests,
            _unbroken: unbroken,
            answers,
            board,
            inbox: Inbox::new(),
            seen: [0; SIDES],
            sent: 0,
            done: 0,
            cpu: 0,
            unpaid: 0,
        })
    }

    fn hello(&mut self, name: &str, patience: Duration) -> Result<(), &'static str> {
        let until = Instant::now() + patience;
        loop {
            let news = self.wait(Some(until.saturating_duration_since(Instant::now()))).map_err(|_| "could not be waited for")?;
            let eof = self.inbox.fill(&self.answers).map_err(|_| "could not be heard")?;
            match self.inbox.next()? {
                Some((HELLO, said)) if said == name.as_bytes() => return Ok(()),
                Some(_) => return Err("is for another function"),
                None if eof || news.ended => return Err("ended before it was ready"),
                None if Instant::now() >= until => return Err("did not get ready"),
                None => {}
            }
        }
    }

    /// Waits until the child says something or ends, or the time is over (with nothing), or a
    /// signal comes (with nothing).
    pub(super) fn wait(&self, time: Option<Duration>) -> io::Result<News> {
        let [said, ended] = ready([Some((self.answers.as_fd(), Interest::Read)), Some((self.child.end_fd(), Interest::Read))], time)?;
        Ok(News { said, ended })
    }

    /// Sends a batch, with no more than one before it that is not done; waits for
    /// a child that is slow to take it.
    pub(super) fn send(&mut self, mut batch: &[u8], limit: Option<Duration>) -> io::Result<Sending> {
        let side = self.sent % SIDES;
        self.board.reset(side);
        self.seen[side] = 0;
        self.sent += 1;
        let began = Instant::now();
        while !batch.is_empty() {
            match (&self.requests).write(batch) {
                Ok(count) => batch = &batch[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let rest = limit.map(|limit| limit.saturating_sub(began.elapsed()));
                    let [_, ended, said] = ready(
                        [
                            Some((self.requests.as_fd(), Interest::Write)),
                            Some((self.child.end_fd(), Interest::Read)),
                            Some((self.answers.as_fd(), Interest::Read)),
                        ],
                        rest,
                    )?;
                    if said {
                        // It may have answers of the batch before that it wants to be rid of first.
                        self.inbox.fill(&self.answers)?;
                    }
                    if ended {
                        return Ok(Sending::Ended);
                    }
                    if rest.is_some_and(|rest| rest.is_zero()) {
                        return Ok(Sending::Late);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Ok(Sending::Ended);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Sending::Done)
    }

    /// Takes every answer of the first batch that is not done, as far as there are, and gives each
    /// to `answer`; whether that batch is done now.
    ///
    /// # Errors
    /// What the child did that no child of ours does.
    pub(super) fn receive(
        &mut self,
        scratch: &mut Vec<u8>,
        mut answer: impl FnMut(&[u8]) -> Result<(), &'static str>,
    ) -> Result<bool, &'static str> {
        self.inbox.fill(&self.answers).map_err(|_| "could not be heard")?;
        let mut done = false;
        while let Some((kind, body)) = self.inbox.next()? {
            match kind {
                ANSWER => answer(body)?,
                DONE => {
                    done = true;
                    break;
                }
                _ => return Err("it sent what is no answer"),
            }
        }
        // Last, for all that was published before "done" is on the board by now.
        scratch.clear();
        let side = self.done % SIDES;
        self.seen[side] = self.board.read(side, self.seen[side], scratch);
        self.done += usize::from(done);
        let mut rest = scratch.as_slice();
        while !rest.is_empty() {
            let (body, behind) = super::wire::entry(rest).ok_or("what it published is torn")?;
            answer(body)?;
            rest = behind;
        }
        Ok(done)
    }

    /// Returns true if it has said something that was not taken yet, so that there is nothing to
    /// wait for.
    pub(super) fn has_said(&self) -> bool {
        self.inbox.has_next()
    }

    /// Returns how many items have been begun of a batch that is not done, the first (0) or the
    /// second (1).
    pub(super) fn begun(&self, batch: usize) -> usize {
        self.board.claimed((self.done + batch) % SIDES) as usize
    }

    /// Takes back the items of such a batch that have not been begun; how many have been.
    pub(super) fn take_back(&self, batch: usize) -> usize {
        self.board.revoke((self.done + batch) % SIDES) as usize
    }

    /// Returns what each of the last `count` tasks used of the CPU; `None` when the child has not
    /// said: for many tiny ones it says so only now and then, and then the last of them stand for
    /// all since.
    pub(super) fn cpu_of_each(&mut self, count: u32) -> Option<Duration> {
        self.unpaid = self.unpaid.saturating_add(count);
        let cpu = self.board.cpu();
        let used = cpu.saturating_sub(self.cpu);
        if used == 0 {
            return None;
        }
        self.cpu = cpu;
        Some(Duration::from_nanos(used) / std::mem::take(&mut self.unpaid))
    }

    /// Kills its group, at once and by force; [`end`](Self::end) tells how it went.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// Waits until it has ended; it has been killed.
    pub(super) fn wait_for_end(&self) -> io::Result<()> {
        while !ready([Some((self.child.end_fd(), Interest::Read))], None)?[0] {}
        Ok(())
    }

    /// Kills what is left of its group, and reaps it.
    pub(super) fn end(self) -> io::Result<End> {
        self.child.reap()
    }
}

impl ChildLink for BoardLink {
    fn child(&self) -> &Child {
        &self.child
    }

    /// Batches that are not done.
    fn in_flight(&self) -> usize {
        self.sent - self.done
    }

    /// It writes what its program writes at its end.
    fn retire(self, limits: &ChildLimits) {
        let Self { child, requests, .. } = self;
        drop(requests);
        let _ = ready([Some((child.end_fd(), Interest::Read))], Some(limits.farewell.unwrap_or(FAREWELL)));
        let _ = child.reap();
    }
}

fn stopped() -> TaskError {
    TaskError::new("cancelled", "the children are being stopped, so this one was not started").with_again(Again::Never)
}
