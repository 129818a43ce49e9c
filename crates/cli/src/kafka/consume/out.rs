//! What is written to stdout: a record counts as done only when its output is out.

use std::{
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use longshore_brokers::kafka;
use longshore_core::Outcome;
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

/// Writes for all handlers, each record's output in one piece.
pub(super) struct Out {
    emit: Emit,
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
    pub(super) fn new(emit: Emit, write: Box<dyn Write + Send>, bar: Option<Bar>) -> Self {
        Self { emit, target: Mutex::new(Target { write, bar, broken: None }), stop: OnceLock::new() }
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
    pub(super) fn record(&self, record: &kafka::Record) -> Outcome<()> {
        match self.emit {
            Emit::None => Outcome::Ok(()),
            Emit::Jsonl => self.write(line(record, None).into_bytes(), true),
            Emit::Raw => self.write(record.value().unwrap_or_default().to_vec(), true),
        }
    }

    /// Writes what was answered for a record.
    pub(super) fn reply(&self, record: &kafka::Record, reply: &Reply) -> Outcome<()> {
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
