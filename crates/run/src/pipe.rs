//! `--pipe`: children that stay, and answer one line for each line.
//!
//! Each slot has a child of its own, started when its first record comes. A record goes in as one
//! line and its answer comes back as one line, in turn, so whatever a child says while it was not
//! asked is a mistake that would shift every answer after it: such a child is ended and replaced.
//! So is one that dies, keeps silent past the timeout, or answers without end.
//!
//! What cannot be seen: a line too many that is written after the child has read its next record.
//! It counts as that record's answer; the true one comes behind it, and ends the child and fails
//! the task that is then its.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsString,
    io::{ErrorKind, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use longshore_core::{
    Again, Outcome, TaskError,
    lane::child::{Child, Children, Command, End, Exit, Stdin, read_some},
};
use longshore_sys::poll::{Interest, ready};
use serde_json::value::RawValue;

/// How much of a child's standard error is kept for an error.
const TAIL: usize = 4096;

/// How long the first answer of a child is held back, to see whether another line follows that
/// nobody asked for.
const GREETING: Duration = Duration::from_millis(100);

/// What a `--pipe` child may do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The longest answer, in bytes.
    pub max_answer: usize,
    /// The time between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// The time that a child has at the end of the run, between the end of its input and SIGTERM.
    pub grace: Duration,
    /// The most address space of a child, in bytes.
    pub memory: Option<u64>,
}

impl Default for Limits {
    /// 16 MiB, 10 s, 5 s, no limit of memory.
    fn default() -> Self {
        Self { max_answer: 16 << 20, kill_after: Duration::from_secs(10), grace: Duration::from_secs(5), memory: None }
    }
}

/// What a child answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A line of JSON, as it was written.
    Json(Box<RawValue>),
    /// Any other line.
    Text(String),
    /// A line that is no text.
    Bytes(Vec<u8>),
}

impl Answer {
    /// The line as the child wrote it, without its end.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Answer::Json(json) => json.get().as_bytes(),
            Answer::Text(text) => text.as_bytes(),
            Answer::Bytes(bytes) => bytes,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The outcome of the attempt; never `Ok`.
    pub outcome: Outcome<Infallible>,
    /// The last lines that the child wrote to its standard error meanwhile. An outcome that has an
    /// error holds them too.
    pub tail: Option<String>,
}

impl Failure {
    /// The outcome, as one of a task with answers.
    pub fn into_outcome<R>(self) -> Outcome<R> {
        self.outcome.map(|never| match never {})
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        let tail = error.tail().map(str::to_owned);
        Self { outcome: Outcome::Failed(error), tail }
    }
}

/// The children of a `--pipe` run, one a slot.
#[derive(Debug)]
pub struct Pipe {
    command: Command,
    limits: Limits,
    children: Children,
    slots: RwLock<Vec<Arc<Mutex<Option<Asked>>>>>,
}

impl Pipe {
    /// Children that run `argv` (a program and its arguments, no shell), with `env` beyond this
    /// process's environment, in `cwd` if given. None is started yet. They are entered in
    /// `children`, so that its `stop` and its guardian reach them.
    ///
    /// # Errors
    /// When `argv` is empty.
    pub fn new(
        argv: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
        cwd: Option<PathBuf>,
        limits: Limits,
        children: Children,
    ) -> Result<Self, TaskError> {
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or_else(|| TaskError::invalid("--pipe needs a program to run"))?;
        let command = Command { program, args: argv.collect(), env, cwd, stdin: Stdin::Open, memory: limits.memory, spill: None };
        Ok(Self { command, limits, children, slots: RwLock::new(Vec::new()) })
    }

    /// Hands one line (without its newline) to the child of `slot`, and waits for its answer, on
    /// the calling thread.
    ///
    /// A child that ended between two records is replaced without a word. One that dies before it
    /// has answered is `Killed` or `Lost`, one that does not answer in time is killed with its
    /// group, and `Cancelled` is what [`Children::stop`] made die. An answer `{"error":…}`, an
    /// object with that one key and an object or text in it, is a failure: `"retry":true` asks for
    /// another attempt, `false` forbids it.
    ///
    /// # Errors
    /// The outcome, if it is not an answer.
    pub fn ask(&self, slot: u32, line: &[u8], timeout: Option<Duration>) -> Result<Answer, Failure> {
        self.ask_if(slot, line, timeout, &|| true)
    }

    /// The same, if it still may be asked when all is ready for it; else it is as if everything
    /// stopped.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_if(&self, slot: u32, line: &[u8], timeout: Option<Duration>, may: &dyn Fn() -> bool) -> Result<Answer, Failure> {
        if line.contains(&b'\n') {
            return Err(TaskError::invalid("the record contains a newline, and --pipe hands over one line a record").into());
        }
        if self.children.is_stopping() {
            return Err(Failure { outcome: Outcome::Cancelled, tail: None });
        }
        let place = self.place(slot);
        let mut place = lock(&place);
        if let Some(asked) = place.as_mut() {
            match asked.idle() {
                Idle::Quiet => {}
                Idle::Ended => *place = None,
                Idle::Spoke(line) => {
                    *place = None;
                    return Err(unasked(&line).into());
                }
            }
        }
        if let Some(mut old) = place.take() {
            if !may() {
                *place = Some(old);
                return Err(Failure { outcome: Outcome::Cancelled, tail: None });
            }
            match old.ask(line, timeout, self) {
                Ok(answer) => return read_answer(answer, &place.insert(old).stderr),
                // It ended by itself after its last answer, and was not seen to yet; no program has
                // seen the record.
                Err(Trouble::Gone { unread: true }) if !self.children.is_stopping() => {}
                Err(trouble) => return Err(old.fail(trouble)),
            }
        }
        let mut new = Asked::start(self, slot)?;
        if !may() {
            *place = Some(new);
            return Err(Failure { outcome: Outcome::Cancelled, tail: None });
        }
        match new.ask(line, timeout, self).and_then(|answer| new.only(answer)) {
            Ok(answer) => read_answer(answer, &place.insert(new).stderr),
            Err(trouble) => Err(new.fail(trouble)),
        }
    }

    /// Ends the child of one slot, as [`end`](Self::end) does for all.
    pub fn end_slot(&self, slot: u32) {
        let taken = lock(&self.place(slot)).take();
        end_all(taken.into_iter().collect(), &self.limits);
    }

    /// Ends all children: their input ends, and whoever has not ended after the grace time gets
    /// SIGTERM, then SIGKILL. What they still write is thrown away. To be called when nobody asks
    /// any more; dropping the `Pipe` without it kills them.
    pub fn end(&self) {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        end_all(slots.iter().filter_map(|slot| lock(slot).take()).collect(), &self.limits);
    }

    fn place(&self, slot: u32) -> Arc<Mutex<Option<Asked>>> {
        let index = slot as usize;
        if let Some(place) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(index) {
            return place.clone();
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.len() <= index {
            slots.resize_with(index + 1, Arc::default);
        }
        slots[index].clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One child, with what it wrote.
#[derive(Debug)]
struct Asked {
    child: Child,
    /// What it wrote to stdout and nobody has taken yet.
    answer: Vec<u8>,
    /// Whether nobody reads its stdin any more.
    deaf: bool,
    /// The last bytes that it wrote to stderr since the present record.
    stderr: Tail,
}

/// What a child did while nobody asked.
enum Idle {
    Quiet,
    Ended,
    Spoke(Vec<u8>),
}

/// What keeps a child from going on.
enum Trouble {
    TimedOut(Duration),
    /// It ended, or closed its streams, before it had answered; and whether before it had read
    /// anything.
    Gone {
        unread: bool,
    },
    Wrong(TaskError),
}

impl Asked {
    fn start(pipe: &Pipe, slot: u32) -> Result<Self, Failure> {
        let mut command = pipe.command.clone();
        command.env.push(("LONGSHORE_SLOT".into(), slot.to_string().into()));
        match pipe.children.start(slot, &command) {
            Ok(child) => Ok(Self { child, answer: Vec::new(), deaf: false, stderr: Tail::default() }),
            Err(_) if pipe.children.is_stopping() => Err(Failure { outcome: Outcome::Cancelled, tail: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at what happened since the last answer, without waiting, and starts a new tail.
    fn idle(&mut self) -> Idle {
        let Ok([out, err, ended]) = self.poll(Some(Duration::ZERO)) else { return Idle::Ended };
        if err {
            self.read_stderr();
        }
        self.stderr.clear();
        let open = !out || self.read_stdout();
        match () {
            () if !self.answer.is_empty() => Idle::Spoke(std::mem::take(&mut self.answer)),
            () if ended || !open => Idle::Ended,
            () => Idle::Quiet,
        }
    }

    /// Writes the line and reads until there is an answer.
    fn ask(&mut self, line: &[u8], timeout: Option<Duration>, pipe: &Pipe) -> Result<Vec<u8>, Trouble> {
        let until = timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout)));
        let mut kill_at: Option<Instant> = None;
        let mut stop_seen = false;
        let mut message = Vec::with_capacity(line.len() + 1);
        message.extend_from_slice(line);
        message.push(b'\n');
        let mut rest = message.as_slice();
        let mut scanned = 0;
        self.write(&mut rest);
        loop {
            let next = [until.map(|(at, _)| at), kill_at].into_iter().flatten().min();
            let child = &self.child;
            let [out, err, ended, space, stop] = ready(
                [
                    child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                    child.stderr.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                    Some((child.end_fd(), Interest::Read)),
                    child.stdin.as_ref().filter(|_| !rest.is_empty() && !self.deaf).map(|pipe| (pipe.as_fd(), Interest::Write)),
                    (!stop_seen).then(|| (pipe.children.stop_fd(), Interest::Read)),
                ],
                next.map(|at| at.saturating_duration_since(Instant::now())),
            )
            .map_err(|error| Trouble::Wrong(error.into()))?;
            if err {
                self.read_stderr();
            }
            if space {
                self.write(&mut rest);
            }
            let open = !out || self.read_stdout();
            if let Some(at) = self.answer[scanned..].iter().position(|byte| *byte == b'\n').map(|at| scanned + at) {
                if !rest.is_empty() {
                    return Err(Trouble::Wrong(TaskError::new("answer", "the child answered before it had read its line")));
                }
                if at > pipe.limits.max_answer {
                    return Err(too_long(pipe));
                }
                if self.answer.len() > at + 1 {
                    return Err(Trouble::Wrong(unasked(&self.answer[at + 1..])));
                }
                // It cannot be the answer of a line that lies in the pipe still: it came late for
                // an earlier one.
                if self.nothing_read(message.len()) {
                    return Err(Trouble::Wrong(unasked(&self.answer)));
                }
                let mut answer = std::mem::take(&mut self.answer);
                answer.truncate(at);
                return Ok(answer);
            }
            scanned = self.answer.len();
            if scanned > pipe.limits.max_answer {
                return Err(too_long(pipe));
            }
            // An ended child is read to the end of what it said, which is there already; a
            // background child of it may hold the pipe for ever. poll(2) looked at stdout before it
            // saw the end, so only a second look tells that nothing came in between.
            if !open || (ended && !out && !self.poll(Some(Duration::ZERO)).is_ok_and(|[out, ..]| out)) {
                return Err(Trouble::Gone { unread: self.answer.is_empty() && self.nothing_read(message.len() - rest.len()) });
            }
            let now = Instant::now();
            if stop {
                // `stop` has sent its signal already; what is left is to lose patience.
                stop_seen = true;
                kill_at = now.checked_add(pipe.limits.kill_after);
            }
            if kill_at.is_some_and(|at| now >= at) {
                self.child.kill();
                kill_at = None;
            }
            if let Some((_, limit)) = until.filter(|(at, _)| now >= *at) {
                return Err(Trouble::TimedOut(limit));
            }
        }
    }

    /// The first answer of a child, if it is an answer: a program that greets its user writes that
    /// before it has read anything, and its own answer comes right behind.
    fn only(&mut self, answer: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        if let Ok([true, ..]) = self.poll_stdout(GREETING) {
            self.read_stdout();
        }
        if self.answer.is_empty() { Ok(answer) } else { Err(Trouble::Wrong(unasked(&answer))) }
    }

    fn poll_stdout(&self, timeout: Duration) -> std::io::Result<[bool; 2]> {
        let child = &self.child;
        ready([child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)), Some((child.end_fd(), Interest::Read))], Some(timeout))
    }

    /// Ends the child, and says what became of the record.
    fn fail(mut self, trouble: Trouble) -> Failure {
        // Its last words may still be on their way when its end is seen: kill first, then read what
        // is left.
        if !matches!(trouble, Trouble::Gone { .. }) {
            self.child.kill();
        } else {
            // It closed its output and may be about to end: let its own end be seen rather than our
            // signal.
            let _ = ready([Some((self.child.end_fd(), Interest::Read))], Some(Duration::from_millis(100)));
        }
        for _ in 0..16 {
            match self.poll(Some(Duration::ZERO)) {
                Ok([_, true, _]) if self.read_stderr() => {}
                _ => break,
            }
        }
        let tail = self.stderr.text();
        let ended_itself = ready([Some((self.child.end_fd(), Interest::Read))], Some(Duration::ZERO)).is_ok_and(|[ended]| ended);
        let end = self.child.reap();
        let stopped = end.as_ref().is_ok_and(|end| end.stopped);
        let outcome = match trouble {
            _ if stopped => Outcome::Cancelled,
            Trouble::TimedOut(limit) => Outcome::TimedOut { limit },
            Trouble::Wrong(error) => Outcome::Failed(with_tail(error, tail.as_deref())),
            Trouble::Gone { .. } => gone(end.ok().filter(|_| ended_itself), tail.as_deref()),
        };
        Failure { outcome, tail }
    }

    /// Waits until the child has ended, reading what it still writes so that it does not wait for a
    /// reader. Whether it has ended.
    fn wait_for_end(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let Ok([out, err, ended]) = self.poll(Some(left)) else { return false };
            if ended || left.is_zero() {
                return ended;
            }
            if out && !self.read_stdout() {
                self.child.stdout = None;
            }
            self.answer.clear();
            if err {
                self.read_stderr();
            }
        }
    }

    /// Whether the child has read nothing of the line that was written to it.
    fn nothing_read(&self, written: usize) -> bool {
        // Asked at the writing end, the kernel tells what lies in the pipe.
        self.child.stdin.as_ref().is_some_and(|stdin| rustix::io::ioctl_fionread(stdin).is_ok_and(|unread| unread == written as u64))
    }

    fn poll(&self, timeout: Option<Duration>) -> std::io::Result<[bool; 3]> {
        ready(
            [
                self.child.stdout.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                self.child.stderr.as_ref().map(|pipe| (pipe.as_fd(), Interest::Read)),
                Some((self.child.end_fd(), Interest::Read)),
            ],
            timeout,
        )
    }

    /// Whether the stream is still open.
    fn read_stdout(&mut self) -> bool {
        let answer = &mut self.answer;
        self.child.stdout.as_mut().is_some_and(|pipe| read_some(pipe, |read| answer.extend_from_slice(read)))
    }

    fn read_stderr(&mut self) -> bool {
        let Some(mut pipe) = self.child.stderr.take() else { return false };
        let open = read_some(&mut pipe, |read| {
            self.stderr.push(read);
            self.child.note(read);
        });
        self.child.stderr = open.then_some(pipe);
        open
    }

    fn write(&mut self, rest: &mut &[u8]) {
        let Some(stdin) = &mut self.child.stdin else { return };
        match stdin.write(rest) {
            Ok(count) => *rest = &rest[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It reads no more. That alone is no failure: it may have ended, which its pidfd will
            // say, or hang, which the timeout is for. The pipe stays open, because the kernel still
            // knows what lies in it.
            Err(_) => self.deaf = true,
        }
    }
}

fn too_long(pipe: &Pipe) -> Trouble {
    let message = format!("the answer is longer than {} bytes (--max-record)", pipe.limits.max_answer);
    Trouble::Wrong(TaskError::new("answer", message).with_again(Again::Never))
}

fn unasked(line: &[u8]) -> TaskError {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let shown: String = String::from_utf8_lossy(line).chars().take(80).collect();
    TaskError::new("answer", format!("the child wrote a line that nobody asked for, and was ended: `{shown}`"))
}

fn gone(end: Option<End>, tail: Option<&str>) -> Outcome<Infallible> {
    let mut why = match end.map(|end| end.status.exit) {
        Some(Exit::Signal(signal)) => return Outcome::Killed { signal },
        Some(exit) => format!("the child ended with {exit} before it had answered"),
        None => "the child closed its output before it had answered".to_owned(),
    };
    if let Some(last) = tail.and_then(|tail| tail.trim_end().lines().next_back()) {
        why = format!("{why}: {last}");
    }
    Outcome::Lost(why)
}

fn with_tail(error: TaskError, tail: Option<&str>) -> TaskError {
    match tail {
        Some(tail) => error.with_tail(tail),
        None => error,
    }
}

/// JSON, text, or the failure that the child reports.
fn read_answer(mut line: Vec<u8>, stderr: &Tail) -> Result<Answer, Failure> {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let Ok(json) = serde_json::from_slice::<Box<RawValue>>(&line) else {
        return Ok(String::from_utf8(line).map_or_else(|error| Answer::Bytes(error.into_bytes()), Answer::Text));
    };
    let Some(reported) = Reported::read(json.get()) else { return Ok(Answer::Json(json)) };
    let tail = stderr.text();
    let error = with_tail(TaskError::new(reported.kind, reported.message), tail.as_deref());
    let outcome = match reported.retry {
        Some(true) => Outcome::Retry { after: None, why: error },
        Some(false) => Outcome::Failed(error.with_again(Again::Never)),
        None => Outcome::Failed(error),
    };
    Err(Failure { outcome, tail })
}

/// `{"error":{"kind":…,"message":…,"retry":…}}`; every part may be absent, and a text stands
/// for its message.
struct Reported {
    kind: String,
    message: String,
    retry: Option<bool>,
}

impl Reported {
    fn read(json: &str) -> Option<Self> {
        // Most answers are not objects, or begin otherwise: no need to take them apart.
        if !json.starts_with('{') || !json.contains("\"error\"") {
            return None;
        }
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(json).ok()?;
        let error = object.get("error").filter(|_| object.len() == 1)?;
        let text = |name: &str| error.get(name).and_then(serde_json::Value::as_str);
        let message = match error {
            serde_json::Value::String(message) => message.clone(),
            // Whatever was said is better than nothing.
            serde_json::Value::Object(_) => text("message").map_or_else(|| error.to_string(), str::to_owned),
            _ => return None,
        };
        let is_kind = |kind: &&str| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        let kind = text("kind").filter(is_kind).unwrap_or("error").to_owned();
        Some(Self { kind, message, retry: error.get("retry").and_then(serde_json::Value::as_bool) })
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, read: &[u8]) {
        self.0.extend_from_slice(&read[read.len().saturating_sub(TAIL)..]);
        // Cut now and then instead of at every line.
        if self.0.len() > 4 * TAIL {
            self.0.drain(..self.0.len() - TAIL);
        }
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn text(&self) -> Option<String> {
        let tail = &self.0[self.0.len().saturating_sub(TAIL)..];
        (!tail.is_empty()).then(|| String::from_utf8_lossy(tail).trim_end().to_owned())
    }
}

/// Ends children side by side, so that the times do not add up: each gets the end of its input,
/// then SIGTERM, then SIGKILL.
fn end_all(children: Vec<Asked>, limits: &Limits) {
    thread::scope(|scope| {
        for mut asked in children {
            scope.spawn(move || {
                asked.child.stdin = None;
                if !asked.wait_for_end(limits.grace) {
                    asked.child.terminate();
                    asked.wait_for_end(limits.kill_after);
                }
                // Dropping it kills what is left of its group, and reaps it.
            });
        }
    });
}

#[cfg(test)]
mod tests;
