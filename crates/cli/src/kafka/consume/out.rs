//! What is written to stdout, and to another topic: a record counts as done only when its output is out.

use std::{
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use longshore_brokers::kafka::{self, Output};
use longshore_core::{Outcome, TaskError};
use serde_json::value::RawValue;

use super::incoming::line;
use crate::{
    progress::bar::Bar,
    run::{pipe::Answer, reply::Reply},
};

/// The form of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emit {
    Raw,
    Jsonl,
    None,
}

/// What a record brought for another topic.
pub(super) type Made = Vec<Output>;

/// Writes for all handlers, each record's output in one piece.
pub(super) struct Out {
    emit: Emit,
    /// The topic that outputs are written to.
    to: Option<String>,
    target: Mutex<Target>,
    /// Stops the consumer when nobody takes the output any more.
    stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Target {
    write: Box<dyn Write + Send>,
    /// On the same terminal: it has to be out of the way meanwhile.
    bar: Option<Bar>,
    broken: Option<std::io::ErrorKind>,
}

impl Out {
    pub(super) fn new(emit: Emit, write: Box<dyn Write + Send>, bar: Option<Bar>, to: Option<String>) -> Self {
        Self { emit, to, target: Mutex::new(Target { write, bar, broken: None }), stop: OnceLock::new() }
    }

    /// What is done when nobody takes the output any more: nothing counts as done from then on.
    pub(super) fn on_broken(&self, stop: impl Fn() + Send + Sync + 'static) {
        let _ = self.stop.set(Box::new(stop));
    }

    /// Why the output ended, if it did.
    pub(super) fn broken(&self) -> Option<std::io::ErrorKind> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).broken
    }

    /// Writes a record itself.
    pub(super) fn record(&self, record: &kafka::Record) -> Outcome<Made> {
        let written = match self.emit {
            Emit::None => Outcome::Ok(()),
            Emit::Jsonl => self.write(line(record, None).into_bytes(), true),
            Emit::Raw => self.write(record.value().unwrap_or_default().to_vec(), true),
        };
        written.map(|()| self.to.iter().map(|to| made(to, record, record.value().map(<[u8]>::to_vec))).collect())
    }

    /// Writes what was answered for a record.
    pub(super) fn reply(&self, record: &kafka::Record, reply: &Reply) -> Outcome<Made> {
        let Some(to) = &self.to else { return self.print(record, reply).map(|()| Vec::new()) };
        let values = match reply {
            Reply::Null => Vec::new(),
            Reply::Command(output) if output.stdout_cut > 0 => {
                let bytes = output.stdout.len() as u64 + output.stdout_cut;
                let text = format!("{record}: an output of {bytes} bytes is more than --max-output; nothing of it is written to `{to}`");
                return Outcome::Failed(TaskError::invalid(text));
            }
            Reply::Command(output) => lines(&output.stdout),
            Reply::Http(reply) => vec![reply.raw().to_vec()],
            Reply::Pipe(answer) => vec![match &**answer {
                Answer::Json(json) => json.get().as_bytes().to_vec(),
                Answer::Text(text) => text.clone().into_bytes(),
            }],
        };
        self.print(record, reply).map(|()| values.into_iter().map(|value| made(to, record, Some(value))).collect())
    }

    fn print(&self, record: &kafka::Record, reply: &Reply) -> Outcome<()> {
        match (self.emit, reply) {
            (Emit::None, _) | (Emit::Raw, Reply::Null) => Outcome::Ok(()),
            (Emit::Jsonl, reply) => {
                let reply = RawValue::from_string(reply.to_json().into_string()).ok();
                self.write(line(record, reply.as_deref()).into_bytes(), true)
            }
            (Emit::Raw, Reply::Command(output)) => self.write(output.stdout.clone(), false),
            (Emit::Raw, Reply::Http(reply)) => self.write(reply.raw().to_vec(), true),
            (Emit::Raw, Reply::Pipe(answer)) => match &**answer {
                Answer::Json(json) => self.write(json.get().as_bytes().to_vec(), true),
                Answer::Text(text) => self.write(text.clone().into_bytes(), true),
            },
        }
    }

    fn write(&self, mut bytes: Vec<u8>, end_line: bool) -> Outcome<()> {
        if end_line {
            bytes.push(b'\n');
        }
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Target { write, bar, broken } = &mut *target;
        if broken.is_none() && !bytes.is_empty() {
            let mut put = || write.write_all(&bytes).and_then(|()| write.flush());
            let written = match bar {
                Some(bar) => bar.suspend(put),
                None => put(),
            };
            *broken = written.err().map(|error| error.kind());
        }
        if target.broken.is_none() {
            return Outcome::Ok(());
        }
        drop(target);
        // The first record may be here before whoever started us knows how to stop.
        let stop = loop {
            match self.stop.get() {
                Some(stop) => break stop,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        stop();
        // Neither done nor failed: it comes again.
        Outcome::Cancelled
    }
}

/// A record for another topic: key and headers are those of the record that it was made of.
fn made(to: &str, record: &kafka::Record, value: Option<Vec<u8>>) -> Output {
    let headers = record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
    Output { topic: to.to_owned(), key: record.key().map(<[u8]>::to_vec), value, headers, ..Output::default() }
}

/// The lines of an output, without their ends. An output without a byte has none.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect() }
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn an_output_has_as_many_lines_as_it_ends_and_one_that_it_does_not_end() {
        for (bytes, want) in
            [(&b""[..], &[][..]), (b"\n", &[&b""[..]]), (b"a", &[b"a"]), (b"a\nb\n", &[b"a", b"b"]), (b"\xff\n\nb", &[b"\xff", b"", b"b"])]
        {
            assert_eq!(lines(bytes), want, "{bytes:?}");
        }
    }
}
