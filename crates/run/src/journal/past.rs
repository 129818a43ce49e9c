//! Results of a journal read back, with their times, for those who draw them.

use std::{borrow::Cow, io, path::Path, time::Duration};

use longshore_core::Word;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    file::Lines,
    format::{Head, Line, Sitting, millis_of, parse},
    index::Index,
};

/// The end of a task, as its last result line tells it.
#[derive(Debug)]
pub(crate) struct PastEnd<'a> {
    pub(crate) seq: u64,
    /// The record, as JSON.
    pub(crate) record: &'a str,
    pub(crate) word: Word,
    pub(crate) attempts: u32,
    /// From its arrival to the start of its last attempt.
    pub(crate) wait: Duration,
    /// Time that its last attempt ran.
    pub(crate) run: Duration,
    /// The start of that, since the job began; absent where none started.
    pub(crate) since_begin: Option<Duration>,
    /// The same without the time between sittings.
    pub(crate) in_sittings: Option<Duration>,
    pub(crate) slot: Option<u32>,
    /// Records that shared its call, in the line of the first of them; 0 in the others.
    pub(crate) call_records: u64,
    pub(crate) failure: Option<PastError>,
}

/// The error of a result line.
#[derive(Debug, Deserialize)]
pub(crate) struct PastError {
    pub(crate) kind: String,
    pub(crate) code: Option<i64>,
    pub(crate) message: String,
    pub(crate) tail: Option<String>,
}

impl PastError {
    /// Returns the class by which failures are counted: kind and number.
    pub(crate) fn class(&self) -> String {
        self.code.map_or_else(|| self.kind.clone(), |code| format!("{} {code}", self.kind))
    }
}

/// Rest of a result line, beyond its head.
#[derive(Deserialize)]
struct PastBody<'a> {
    seq: u64,
    #[serde(borrow)]
    task: &'a RawValue,
    wait_ms: u64,
    run_ms: u64,
    #[serde(borrow)]
    started: Option<Cow<'a, str>>,
    slot: Option<u32>,
    batch: Option<u64>,
    call: Option<u64>,
    error: Option<PastError>,
}

/// Calls `each` for every task's last result in a journal that the index was made of.
///
/// # Errors
/// The journal cannot be read, or what `each` says.
pub(crate) fn each_past(journal: &Path, len: u64, index: &Index, mut each: impl FnMut(&PastEnd<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut lines = Lines::open(journal, 0)?;
    let mut clock = PastClock::default();
    while let Some((at, line)) = lines.next()? {
        if at >= len {
            break;
        }
        if line.starts_with(b"{\"start\"") {
            continue;
        }
        match parse(line) {
            Ok(Line::Header(header)) => clock.begin(&header.started),
            Ok(Line::Sitting(next)) => clock.sit(&next),
            Ok(Line::Result(head)) if index.is_current(head.key, head.nth, at) => {
                each(&past_end(line, &head, &clock).map_err(io::Error::other)?)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Start of a job and of its present sitting, and how long it had run by then, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct PastClock {
    began: i64,
    sitting: i64,
    spent: u64,
}

impl PastClock {
    /// Hears when the job began.
    pub(crate) fn begin(&mut self, started: &str) {
        self.began = millis_of(started).unwrap_or_default();
        (self.sitting, self.spent) = (self.began, 0);
    }

    /// Hears of another sitting.
    pub(crate) fn sit(&mut self, sitting: &Sitting) {
        self.sitting = millis_of(&sitting.started).unwrap_or_default();
        self.spent = sitting.spent_ms;
    }
}

/// Reads a result line whose head is known.
///
/// # Errors
/// It is none.
pub(crate) fn past_end<'a>(line: &'a [u8], head: &Head<'_>, clock: &PastClock) -> Result<PastEnd<'a>, String> {
    let body: PastBody<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let millis = Duration::from_millis;
    let started = body.started.as_deref().map(|at| millis_of(at).unwrap_or_default());
    let since = |from: i64, at: i64| u64::try_from(at - from).unwrap_or(0);
    Ok(PastEnd {
        seq: body.seq,
        record: body.task.get(),
        word: head.outcome,
        attempts: head.attempts,
        wait: millis(body.wait_ms),
        run: millis(body.run_ms),
        since_begin: started.map(|at| millis(since(clock.began, at))),
        in_sittings: started.map(|at| millis(clock.spent + since(clock.sitting, at))),
        slot: body.slot,
        call_records: if body.call.is_none_or(|call| call == body.seq) { body.batch.unwrap_or(1) } else { 0 },
        failure: body.error.filter(|_| head.outcome.is_failure()),
    })
}
