//! The lines of a journal: how they are written and how they are read back.
//!
//! A journal is JSON Lines. Its kinds of line are told apart by their first member, which longshore
//! always writes first:
//!
//! | first member | what it says |
//! |---|---|
//! | `longshore` | the header, first line and only once: version, job, what runs |
//! | `sitting` | the job was resumed; with `retry` every failed task became unfinished at this point |
//! | `output` | a file that belongs to the job, by path, device and inode |
//! | `read` | how many records of the input have been read; `ended` says that there were no more |
//! | `start` | an attempt is about to start |
//! | `job` | a result line, byte for byte as the output shows it |
//! | `taken` | the output has what a result line left in a file beside the journal, and that file goes |
//! | `end` | a sitting ended in order; `complete` says that nothing is left |

#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc, time::SystemTime};

use longshore_core::{Word, lane::child::Rest, watch::Counts};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::text::{Stamp, push_json, push_latin1, push_string, push_u64, push_u128_hex};

/// The version of the format that this program writes. It reads the earlier ones, too: 1 had no
/// `check` in its header, and no `read` lines.
pub(crate) const VERSION: u32 = 2;

/// The first line of a journal.
///
/// Written by `header_line` with a last member more, `check`: a hash of all before it, since a
/// header in which a bit has changed may still read well and belong to another job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `VERSION` at the time of writing.
    pub longshore: u32,
    /// The job's id.
    pub job: String,
    /// The name given with `--name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program, for people; without secrets.
    pub what: String,
    /// A hash of everything that decides what a task does: WHAT and its templates.
    pub template: String,
    /// The rule by which keys are made from records.
    pub key_rule: String,
    /// The sources of records, for people.
    pub inputs: Vec<String>,
    /// The command line that started the job, so that `--resume JOB` needs none. Empty where there
    /// are secrets in it.
    #[serde(default)]
    pub args: Vec<String>,
    /// Command line without its secrets, where there are any. The whole one is in a file beside the
    /// journal, `ID.args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown_args: Vec<String>,
    /// The directory in which it was started.
    #[serde(default)]
    pub cwd: String,
    /// Time at which the job began (RFC 3339, UTC).
    pub started: String,
}

/// A line that says that the job was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sitting {
    /// The number of this sitting; the first one, which the header stands for, is 1.
    pub sitting: u32,
    /// Time at which it began.
    pub started: String,
    /// Failed tasks became unfinished here (`--retry-failed`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
    /// The time that the sittings before this one took together, in milliseconds.
    #[serde(default)]
    pub spent_ms: u64,
}

/// A line that says that a file belongs to the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputFile {
    /// Its absolute path.
    pub output: String,
    /// The device it is on.
    pub dev: u64,
    /// Its inode there.
    pub ino: u64,
}

/// A line that says how far the input was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadUpTo {
    /// Records read.
    pub read: u64,
    /// There were no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl ReadUpTo {
    /// Takes in what is known since; whether that is news. A sitting that has read less than an
    /// earlier one has none.
    pub(crate) fn advance(&mut self, now: Self) -> bool {
        let news = now.read > self.read || now.read == self.read && now.ended && !self.ended;
        if news {
            *self = now;
        }
        news
    }
}

/// File in the folder beside the journal that has the rest of a task's raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spooled {
    /// The file's name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
}

impl Spooled {
    /// Returns whether it names a file of ours, and nothing outside of the folder.
    pub(crate) fn is_sound(&self) -> bool {
        self.file.ends_with(".out") && self.file.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    }
}

/// A line that says that the output has what was spooled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenOver {
    /// The name of the file.
    pub taken: String,
    /// Place of the bytes in the output, if that is a file on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<OutputPlace>,
}

/// A part of an output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputPlace {
    /// The device it is on.
    pub dev: u64,
    /// Its inode there.
    pub ino: u64,
    /// Offset at which the part begins.
    pub from: u64,
    /// Its length.
    pub bytes: u64,
    /// Tags stand before its lines.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tag: bool,
}

/// A line that ends a sitting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Time at which it ended.
    pub end: String,
    /// Nothing is left to do: every record of the input has a final result.
    pub complete: bool,
    /// The exit code of that run.
    pub exit: u8,
    /// Finished tasks by outcome; in the file a list in the order of [`Word::ALL`].
    #[serde(with = "by_outcome")]
    pub counts: Counts,
    /// Started tasks without a final result.
    #[serde(default)]
    pub unfinished: u64,
}

impl End {
    /// A sitting that ends now.
    pub fn now(complete: bool, exit: u8, counts: Counts, unfinished: u64) -> Self {
        Self { end: now(), complete, exit, counts, unfinished }
    }
}

/// Counts as a list in the order of [`Word::ALL`].
mod by_outcome {
    use longshore_core::{Word, watch::Counts};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        <[u64; Word::ALL.len()]>::from(*counts).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        <[u64; Word::ALL.len()]>::deserialize(from).map(Counts::from)
    }
}

/// An attempt that is about to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The task's place in the input, from 1 or 0 as the caller counts.
    pub seq: u64,
    /// The task's key.
    pub key: u128,
    /// Records with the same key that stood before it in the input.
    pub nth: u32,
    /// The number of the attempt, from 1 and going on over sittings.
    pub attempt: u32,
}

/// A finished task. The job's id is added when the line is written.
#[derive(Clone, Debug)]
pub(crate) struct ResultLine {
    /// The task's place in the input.
    pub seq: u64,
    /// The task's key.
    pub key: u128,
    /// Records with the same key that stood before it in the input; shown as `n` when it is not 0.
    pub nth: u32,
    /// The record, as one JSON value.
    pub task: Box<str>,
    /// The word for its outcome.
    pub outcome: Word,
    /// Attempts so far, those of earlier sittings included.
    pub attempts: u32,
    /// Time between its arrival and the start of its last attempt.
    pub wait_ms: u64,
    /// Time that its last attempt took.
    pub run_ms: u64,
    /// Time at which its last attempt started; absent if none did.
    pub started: Option<SystemTime>,
    /// The slot in which it ran; absent if it never did.
    pub slot: Option<u32>,
    /// With whom it shared its call, if with anybody.
    pub shared: Option<Shared>,
    /// Its result, as one JSON value.
    pub value: Option<Box<str>>,
    /// The error with which it ended, if it did not end well.
    pub error: Option<Box<ErrorLine>>,
    /// Bytes that `--emit raw` shows. Give them only then: they are written to the journal, so that
    /// the output can be made again from it.
    pub raw: Option<Box<[u8]>>,
    /// The raw bytes behind those.
    pub rest: Option<Arc<Rest>>,
}

/// A call that several records had together: their lines differ in the record alone, and what the
/// call wrote stands in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Number of these records: `batch`.
    pub records: u64,
    /// The place of the call's first record in the input: `call`.
    pub call: u64,
}

impl ResultLine {
    /// About how long its line will be.
    pub(crate) fn weight(&self) -> usize {
        let error = self.error.as_ref().map_or(0, |error| error.message.len() + error.tail.as_deref().map_or(0, str::len));
        256 + self.task.len() + self.value.as_deref().map_or(0, str::len) + self.raw.as_deref().map_or(0, <[u8]>::len) + error
    }
}

/// The error of a result line.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErrorLine {
    /// A short word to decide by.
    pub kind: Box<str>,
    /// The number that belongs to it.
    pub code: Option<i64>,
    /// A sentence that says what happened, for people.
    pub message: Box<str>,
    /// The last that the task said before.
    pub tail: Option<Box<str>>,
}

impl From<&longshore_core::TaskError> for ErrorLine {
    fn from(error: &longshore_core::TaskError) -> Self {
        Self { kind: error.kind().into(), code: error.code(), message: error.message().into(), tail: error.tail().map(Into::into) }
    }
}

/// Returns true if a task with this outcome is done with. A cancelled one is not: the run was
/// stopped while it ran, and resuming runs it again.
pub(crate) fn is_final(word: Word) -> bool {
    word != Word::Cancelled
}

/// Now, as journals write it.
pub(crate) fn now() -> String {
    time_text(SystemTime::now())
}

/// A time, as journals write it.
pub(crate) fn time_text(time: SystemTime) -> String {
    let mut text = Vec::with_capacity(24);
    Stamp::default().push(&mut text, time);
    String::from_utf8(text).unwrap_or_default()
}

/// Returns a text of [`now`] as seconds since 1970.
pub(crate) fn seconds_of(text: &str) -> Option<f64> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond() as f64 / 1e3)
}

/// Returns a text of [`now`] as milliseconds since 1970.
pub(crate) fn millis_of(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// The time between two texts of [`now`], in milliseconds; 0 if they are none.
pub(crate) fn millis_between(from: &str, to: &str) -> u64 {
    millis_of(from).zip(millis_of(to)).and_then(|(from, to)| u64::try_from(to - from).ok()).unwrap_or(0)
}

/// Place of a result line in a buffer, with all that is needed to pass it on without reading it
/// again.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The line, its newline included.
    pub line: Range<usize>,
    /// The JSON text of its `task`.
    pub task: Range<usize>,
    /// The task's place in the input.
    pub seq: u64,
    /// The word for its outcome.
    pub outcome: Word,
    /// Bytes for `--emit raw`.
    pub raw: Option<Box<[u8]>>,
    /// The bytes behind those.
    pub rest: Option<Arc<Rest>>,
}

/// Writes lines into a buffer. Keeps what is the same from line to line.
#[derive(Debug)]
pub(crate) struct Encoder {
    prefix: Vec<u8>,
    stamp: Stamp,
}

impl Encoder {
    /// An encoder for the lines of this job.
    pub(crate) fn new(job: &str) -> Self {
        let mut prefix = b"{\"job\":".to_vec();
        push_string(&mut prefix, job);
        prefix.extend_from_slice(b",\"seq\":");
        Self { prefix, stamp: Stamp::default() }
    }

    /// Appends a start line.
    pub(crate) fn start(&self, out: &mut Vec<u8>, start: &Start) {
        out.extend_from_slice(b"{\"start\":");
        push_u64(out, start.seq);
        push_identity(out, start.key, start.nth);
        out.extend_from_slice(b",\"attempt\":");
        push_u64(out, start.attempt.into());
        out.extend_from_slice(b"}\n");
    }

    /// Appends a result line, and says where it stands. Takes the raw bytes out of `line`.
    pub(crate) fn result(&mut self, out: &mut Vec<u8>, line: &mut ResultLine) -> Piece {
        let from = out.len();
        // Written by hand and not by serde: this runs for every task, and the bytes go to the
        // output as they are.
        out.extend_from_slice(&self.prefix);
        push_u64(out, line.seq);
        push_identity(out, line.key, line.nth);
        out.extend_from_slice(b",\"task\":");
        // The place of the record is kept, so that a tag can be shown without parsing the line
        // again.
        let task = out.len();
        push_json(out, &line.task);
        let task = task..out.len();
        out.extend_from_slice(b",\"outcome\":\"");
        out.extend_from_slice(line.outcome.as_str().as_bytes());
        out.extend_from_slice(b"\",\"attempts\":");
        push_u64(out, line.attempts.into());
        out.extend_from_slice(b",\"wait_ms\":");
        push_u64(out, line.wait_ms);
        out.extend_from_slice(b",\"run_ms\":");
        push_u64(out, line.run_ms);
        if let Some(started) = line.started {
            out.extend_from_slice(b",\"started\":\"");
            self.stamp.push(out, started);
            out.push(b'"');
        }
        if let Some(slot) = line.slot {
            out.extend_from_slice(b",\"slot\":");
            push_u64(out, slot.into());
        }
        if let Some(shared) = &line.shared {
            out.extend_from_slice(b",\"batch\":");
            push_u64(out, shared.records);
            out.extend_from_slice(b",\"call\":");
            push_u64(out, shared.call);
        }
        if let Some(value) = &line.value {
            out.extend_from_slice(b",\"value\":");
            push_json(out, value);
        }
        if let Some(error) = &line.error {
            push_error(out, error);
        }
        // Taken, not copied: the output needs the same bytes next.
        let raw = line.raw.take();
        if let Some(raw) = &raw {
            // Text stands as text; other bytes as one character each, which needs no table and
            // stays readable.
            if let Ok(text) = std::str::from_utf8(raw) {
                out.extend_from_slice(b",\"out\":");
                push_string(out, text);
            } else {
                out.extend_from_slice(b",\"out_latin1\":");
                push_latin1(out, raw);
            }
        }
        let rest = line.rest.take();
        if let Some(rest) = &rest {
            out.extend_from_slice(b",\"spool\":{\"file\":");
            push_string(out, &rest.name());
            out.extend_from_slice(b",\"bytes\":");
            push_u64(out, rest.len());
            out.push(b'}');
        }
        out.extend_from_slice(b"}\n");
        Piece { line: from..out.len(), task, seq: line.seq, outcome: line.outcome, raw, rest }
    }
}

fn push_identity(out: &mut Vec<u8>, key: u128, nth: u32) {
    out.extend_from_slice(b",\"key\":\"");
    push_u128_hex(out, key);
    out.push(b'"');
    if nth > 0 {
        out.extend_from_slice(b",\"n\":");
        push_u64(out, nth.into());
    }
}

fn push_error(out: &mut Vec<u8>, error: &ErrorLine) {
    out.extend_from_slice(b",\"error\":{\"kind\":");
    push_string(out, &error.kind);
    if let Some(code) = error.code {
        out.extend_from_slice(b",\"code\":");
        if code < 0 {
            out.push(b'-');
        }
        push_u64(out, code.unsigned_abs());
    }
    out.extend_from_slice(b",\"message\":");
    push_string(out, &error.message);
    if let Some(tail) = &error.tail {
        out.extend_from_slice(b",\"tail\":");
        push_string(out, tail);
    }
    out.push(b'}');
}

/// A line of a journal, read back.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// The first line.
    Header(Box<Header>),
    /// A resume.
    Sitting(Sitting),
    /// A file of the job.
    Output(OutputFile),
    /// Extent to which the input was read.
    Read(ReadUpTo),
    /// The output has what was spooled.
    Taken(TakenOver),
    /// An attempt that was about to start.
    Start(Start),
    /// A finished task.
    Result(Head<'a>),
    /// The end of a sitting.
    End(End),
}

/// Parts of a result line that are needed to know a task's state.
#[derive(Debug, Deserialize)]
pub(crate) struct Head<'a> {
    /// The job.
    #[serde(borrow)]
    pub job: std::borrow::Cow<'a, str>,
    /// The task's key.
    #[serde(deserialize_with = "hex_key")]
    pub key: u128,
    /// Records with the same key that stood before it.
    #[serde(default, rename = "n")]
    pub nth: u32,
    /// The word for its outcome.
    #[serde(deserialize_with = "word")]
    pub outcome: Word,
    /// Attempts so far.
    pub attempts: u32,
    /// File that has the rest of its raw bytes.
    #[serde(default)]
    pub spool: Option<Spooled>,
}

#[derive(Deserialize)]
struct StartHead {
    start: u64,
    #[serde(deserialize_with = "hex_key")]
    key: u128,
    #[serde(default, rename = "n")]
    nth: u32,
    attempt: u32,
}

fn hex_key<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
    let text = <&str>::deserialize(from)?;
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(serde::de::Error::custom("a key has 32 hexadecimal digits"));
    }
    u128::from_str_radix(text, 16).map_err(serde::de::Error::custom)
}

fn word<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
    let text = <&str>::deserialize(from)?;
    Word::parse(text).ok_or_else(|| serde::de::Error::custom(format!("no outcome is called '{text}'")))
}

/// A header as the first line of a journal.
pub(crate) fn header_line(header: &Header) -> Vec<u8> {
    // Members of plain types always serialise.
    let mut line = serde_json::to_vec(header).unwrap_or_default();
    line.pop();
    let check = xxh3_64(&line);
    line.extend_from_slice(format!("{CHECK}{check:016x}\"}}\n").as_bytes());
    line
}

const CHECK: &str = ",\"check\":\"";

fn header_of(text: &str) -> Result<Header, String> {
    let header: Header = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match header.longshore {
        1 => Ok(header),
        VERSION => {
            let (before, check) = text.rsplit_once(CHECK).unwrap_or_default();
            let whole = check.trim_end_matches('\n') == format!("{:016x}\"}}", xxh3_64(before.as_bytes()));
            if whole { Ok(header) } else { Err("the header has changed since it was written".to_owned()) }
        }
        other => Err(format!("version {other} of the journal's format, where this program knows 1 to {VERSION}")),
    }
}

/// Reads one line of a journal, with or without its newline.
///
/// # Errors
/// Says what is wrong with it, for people.
pub(crate) fn parse(line: &[u8]) -> Result<Line<'_>, String> {
    // UTF-8 first: the reader of JSON passes over bytes it does not need without looking.
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let kind = text.strip_prefix("{\"").and_then(|rest| rest.split_once('"')).map_or("", |(kind, _)| kind);
    let read = match kind {
        "start" => serde_json::from_str::<StartHead>(text)
            .map(|head| Line::Start(Start { seq: head.start, key: head.key, nth: head.nth, attempt: head.attempt })),
        "job" => serde_json::from_str(text).map(Line::Result),
        "longshore" => return header_of(text).map(|header| Line::Header(Box::new(header))),
        "read" => serde_json::from_str(text).map(Line::Read),
        "taken" => serde_json::from_str(text).map(Line::Taken),
        "sitting" => serde_json::from_str(text).map(Line::Sitting),
        "output" => serde_json::from_str(text).map(Line::Output),
        "end" => serde_json::from_str(text).map(Line::End),
        _ => return Err("it is no line of a journal".to_owned()),
    };
    read.map_err(|error| error.to_string())
}

/// The raw bytes that a result line holds, if it holds any.
pub(crate) fn raw_of(line: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Out {
        out: Option<String>,
        out_latin1: Option<String>,
    }
    let out: Out = serde_json::from_slice(line).ok()?;
    match (out.out, out.out_latin1) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(text)) => text.chars().map(|each| u8::try_from(u32::from(each)).ok()).collect(),
        (None, None) => None,
    }
}
