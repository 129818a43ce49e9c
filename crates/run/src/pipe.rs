//! `--pipe`: children that stay, and answer one line for each line.
//!
//! Each slot has a child of its own, started when its first record comes. How such children are
//! kept, and what becomes of a record whose child does wrong, is `longshore_core::lane::children`'s
//! business; here is what an answer means.

use std::{collections::BTreeMap, convert::Infallible, ffi::OsString, path::PathBuf, time::Duration};

use longshore_core::{
    Again, ChildLimits, Outcome, TaskError,
    lane::{
        child::{Children, Command},
        children::{ChildAnswer, ChildCall, ChildPool, Lines, TakenSlot},
    },
};
use serde_json::value::RawValue;

use crate::record::{Range, Record};

/// Settings of the children of a pipe: how they are started and how far they may go.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PipeOptions {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Variables of their environment beyond this process's.
    pub env: Vec<(OsString, OsString)>,
    /// Their working directory; this process's if `None`.
    pub cwd: Option<PathBuf>,
    /// The most address space of a child, in bytes.
    pub memory: Option<u64>,
    /// The longest answer, in bytes, where it is not 16 MiB, and the setting that says so.
    pub max_answer: Option<(usize, &'static str)>,
    /// The limits at which they are replaced, and the way in which they end.
    pub limits: ChildLimits,
}

impl PipeOptions {
    /// Children that run this program with these arguments, no shell.
    pub fn new(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Returns the kind of such children, and their limits.
    ///
    /// # Errors
    /// When there is no program to run.
    pub(crate) fn kind(self) -> Result<(Lines, ChildLimits), TaskError> {
        let Self { argv, env, cwd, memory, max_answer, limits } = self;
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or_else(|| TaskError::invalid("--pipe needs a program to run"))?;
        let lines = Lines::new(Command { program, args: argv.collect(), env, cwd, memory, ..Command::default() });
        let lines = match max_answer {
            Some((bytes, setting)) => lines.max_answer(bytes, setting),
            None => lines,
        };
        Ok((lines, limits))
    }
}

/// Answer of a child.
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

/// Reason why there is no answer.
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
pub struct Pipe(ChildPool<Lines>);

impl Pipe {
    /// Children with these options. None is started yet. They are entered in `children`, so that
    /// its `stop` and its guardian reach them.
    ///
    /// # Errors
    /// When there is no program to run.
    pub fn new(options: PipeOptions, children: Children) -> Result<Self, TaskError> {
        let (lines, limits) = options.kind()?;
        Ok(Self(ChildPool::new(lines, limits, children)))
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
    pub fn ask(&self, slot: u32, line: Vec<u8>, timeout: Option<Duration>) -> Result<Answer, Failure> {
        self.ask_if(slot, line, timeout, &|| true)
    }

    /// The same, if it still may be asked when all is ready for it; else it is as if everything
    /// stopped.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_if(&self, slot: u32, line: Vec<u8>, timeout: Option<Duration>, may: &dyn Fn() -> bool) -> Result<Answer, Failure> {
        let line = one_line(line)?;
        read(self.0.ask(slot, ChildCall::new(line).timeout(timeout).may_begin(may)))
    }

    /// Waits for a slot that nobody else has taken so, of this many at most.
    pub fn take(&self, most: usize) -> TakenSlot<'_, Lines> {
        self.0.take(most)
    }

    /// Ends all children: their input ends, and whoever has not ended after the farewell gets
    /// SIGTERM, then SIGKILL. To be called when nobody asks any more; dropping the `Pipe` without
    /// it kills them.
    pub fn end(&self) {
        self.0.end();
    }
}

/// Refuses what a child would read as several lines.
pub(crate) fn one_line(line: Vec<u8>) -> Result<Vec<u8>, TaskError> {
    if line.contains(&b'\n') {
        return Err(TaskError::invalid("the record contains a newline, and --pipe hands over one line a record"));
    }
    Ok(line)
}

/// Returns what a child's end with a line means.
pub(crate) fn read(answer: ChildAnswer) -> Result<Answer, Failure> {
    let ChildAnswer { outcome, tail, .. } = answer;
    match outcome {
        Outcome::Ok(answer) => read_answer(answer, tail),
        other => Err(Failure { outcome: other.map(|_| unreachable!("an answer was read")), tail }),
    }
}

/// Returns the line that a child of `--pipe` reads: a plain record as it is, any other as JSON on
/// one line.
pub(crate) fn line(record: &Record) -> Result<Vec<u8>, TaskError> {
    record.check()?;
    record.as_range().map_or(Ok(()), Range::check_unchanged)?;
    if record.is_plain() {
        return Ok(record.raw().to_vec());
    }
    let json = record.to_json();
    let text = json.get();
    if text.contains('\n') {
        // The text of a record may be spread over lines inside; as a value it is the same on one.
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| record.invalid(error))?;
        return Ok(value.to_string().into_bytes());
    }
    Ok(text.as_bytes().to_vec())
}

fn with_tail(error: TaskError, tail: Option<&str>) -> TaskError {
    match tail {
        Some(tail) => error.with_tail(tail),
        None => error,
    }
}

/// JSON, text, or the failure that the child reports.
fn read_answer(mut line: Vec<u8>, tail: Option<String>) -> Result<Answer, Failure> {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let Ok(json) = serde_json::from_slice::<Box<RawValue>>(&line) else {
        return Ok(String::from_utf8(line).map_or_else(|error| Answer::Bytes(error.into_bytes()), Answer::Text));
    };
    let Some(reported) = Reported::read(json.get()) else { return Ok(Answer::Json(json)) };
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

#[cfg(test)]
mod tests;
