//! What a task answers, and how that stands in a result line and in raw output.

use std::sync::Arc;

use longshore_core::{
    Outcome, TaskError,
    lane::child::{Exit, Output, Rest},
};
use serde::Serialize;

use crate::{http::HttpReply, pipe::Answer};

/// The answer of a task that ended well.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing to say.
    Null,
    /// A command ended with 0.
    Command(Arc<Output>),
    /// A server answered.
    Http(Arc<HttpReply>),
    /// A child of `--pipe` answered.
    Pipe(Arc<Answer>),
}

/// The value of a command: its exit code and what it wrote. Streams that are not UTF-8 stand as
/// base64.
#[derive(Serialize)]
struct CommandValue<'a> {
    exit: i32,
    stdout: Stream<'a>,
    #[serde(skip_serializing_if = "Stream::is_empty")]
    stderr: Stream<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    stdout_cut: u64,
    #[serde(skip_serializing_if = "is_zero")]
    stderr_cut: u64,
    cpu_ms: u64,
    max_rss: u64,
}

struct Stream<'a>(&'a [u8]);

impl Stream<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Stream<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &crate::record::base64(self.0))?;
                map.end()
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Reply {
    /// The `value` of the result line, as JSON.
    pub fn to_json(&self) -> Box<str> {
        match self {
            Reply::Null => "null".into(),
            Reply::Command(output) => command_json(output).into(),
            Reply::Http(reply) => {
                let mut json = Vec::new();
                reply.to_json(&mut json);
                String::from_utf8(json).unwrap_or_default().into()
            }
            Reply::Pipe(answer) => match &**answer {
                Answer::Json(json) => json.get().into(),
                Answer::Text(text) => serde_json::Value::from(text.as_str()).to_string().into(),
                // JSON has no bytes.
                Answer::Bytes(bytes) => serde_json::Value::from(String::from_utf8_lossy(bytes)).to_string().into(),
            },
        }
    }

    /// The raw output behind those bytes, if there is more.
    pub fn rest(&self) -> Option<Arc<Rest>> {
        match self {
            Reply::Command(output) => output.stdout_rest.clone(),
            Reply::Http(reply) => reply.rest.clone(),
            Reply::Null | Reply::Pipe(_) => None,
        }
    }

    /// The bytes of raw output, as far as they are kept in memory.
    pub fn raw(&self) -> Box<[u8]> {
        match self {
            Reply::Null => Box::default(),
            Reply::Command(output) => output.stdout.as_slice().into(),
            Reply::Http(reply) => reply.raw().into(),
            Reply::Pipe(answer) => {
                let mut line = answer.bytes().to_vec();
                line.push(b'\n');
                line.into()
            }
        }
    }
}

/// Part of an attempt's output that is not kept: the journal and JSON lack it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Attempts of which anything is.
    pub tasks: u64,
    /// Bytes, as far as they were read.
    pub bytes: u64,
    /// Those of them that nobody else got.
    pub thrown: u64,
}

impl Cut {
    /// Returns that of an attempt that ended so, if it was a command with this output.
    pub fn of(outcome: &Outcome<Reply>, output: Option<&Output>) -> Self {
        let (cut, bytes, thrown) = match (outcome, output) {
            (_, Some(output)) => {
                let streams = [(output.stdout_cut, &output.stdout_rest), (output.stderr_cut, &output.stderr_rest)];
                let bytes = streams.iter().map(|(cut, _)| cut).sum();
                let is_nowhere = |rest: &Option<Arc<Rest>>| rest.is_none() && output.heard != Some(true);
                (bytes > 0, bytes, streams.iter().filter(|(_, rest)| is_nowhere(rest)).map(|(cut, _)| cut).sum())
            }
            (Outcome::Ok(Reply::Http(reply)), _) => (reply.cut, reply.rest.as_ref().map_or(0, |rest| rest.len()), 0),
            _ => (false, 0, 0),
        };
        Self { tasks: cut.into(), bytes, thrown }
    }

    /// Adds what is cut of others.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { tasks, bytes, thrown } = other;
        self.tasks += tasks;
        self.bytes += bytes;
        self.thrown += thrown;
    }
}

fn command_json(output: &Output) -> String {
    let exit = match output.exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    };
    let value = CommandValue {
        exit,
        stdout: Stream(&output.stdout),
        stderr: Stream(&output.stderr),
        stdout_cut: output.stdout_cut,
        stderr_cut: output.stderr_cut,
        cpu_ms: u64::try_from(output.usage.cpu().as_millis()).unwrap_or(u64::MAX),
        max_rss: output.usage.max_rss_bytes,
    };
    serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned())
}

/// Returns the output of a command, whether it ended well or not.
pub fn command_output(outcome: &Outcome<Reply>) -> Option<&Output> {
    match outcome {
        Outcome::Ok(Reply::Command(output)) => Some(output),
        Outcome::Failed(error) => output_of(error),
        _ => None,
    }
}

/// Returns the output of a command that failed.
pub fn output_of(error: &TaskError) -> Option<&Output> {
    error.detail::<Output>()
}
