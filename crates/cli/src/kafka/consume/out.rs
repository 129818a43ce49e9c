//! Output of records, to stdout and to another topic: a record counts as done only when its output
//! is out.

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use longshore_core::{Outcome, TaskError};
use longshore_kafka::{self as kafka, Output};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::incoming::line;
use crate::progress::bar::Bar;
use longshore_run::reply::Reply;

/// The form of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emit {
    Raw,
    Jsonl,
    None,
}

/// Outputs of a record for another topic.
pub(super) type Made = Vec<Output>;

/// Writes for all handlers, each record's output in one piece.
pub(super) struct Out {
    emit: Emit,
    /// The topic that outputs are written to.
    to: Option<String>,
    pen: Arc<Pen>,
    /// Way to the thread that writes for handlers which must not wait for a slow reader; started
    /// when it is first needed.
    lines: OnceLock<mpsc::Sender<Line>>,
}

/// Writer of all output: one writes at a time.
struct Pen {
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

/// The output of one record, and who waits until it is out.
struct Line {
    bytes: Vec<u8>,
    out: oneshot::Sender<bool>,
}

/// Most bytes that are written in one piece, of lines that gathered while the last piece was
/// written.
const PIECE: usize = 1 << 20;

impl Out {
    pub(super) fn new(emit: Emit, write: Box<dyn Write + Send>, bar: Option<Bar>, to: Option<String>) -> Self {
        let target = Mutex::new(Target { write, bar, broken: None });
        Self { emit, to, pen: Arc::new(Pen { target, stop: OnceLock::new() }), lines: OnceLock::new() }
    }

    /// Sets what is done when nobody takes the output any more: nothing counts as done from then
    /// on.
    pub(super) fn on_broken(&self, stop: impl Fn() + Send + Sync + 'static) {
        let _ = self.pen.stop.set(Box::new(stop));
    }

    /// Returns the error with which the output ended, if it did.
    pub(super) fn broken(&self) -> Option<std::io::ErrorKind> {
        self.pen.target.lock().unwrap_or_else(PoisonError::into_inner).broken
    }

    /// Writes a record itself, without holding up its thread.
    pub(super) async fn record(&self, record: &kafka::Record) -> Outcome<Made> {
        let bytes = match self.emit {
            Emit::None => None,
            Emit::Jsonl => Some(line(record, None).into_bytes()),
            Emit::Raw => Some(record.value().unwrap_or_default().to_vec()),
        };
        let written = match bytes {
            Some(bytes) => self.put(with_newline(bytes)).await,
            None => Outcome::Ok(()),
        };
        written.map(|()| self.to.iter().map(|to| made(to, record, record.value().map(<[u8]>::to_vec))).collect())
    }

    /// Writes what was answered for a record.
    pub(super) fn reply(&self, record: &kafka::Record, reply: &Reply) -> Outcome<Made> {
        if let Err(error) = self.is_whole(record, reply) {
            return Outcome::Failed(error);
        }
        match self.shown(record, reply) {
            Some(bytes) if !self.pen.write(&bytes) => Outcome::Cancelled,
            _ => Outcome::Ok(self.made(record, reply)),
        }
    }

    /// Does as [`reply`](Out::reply), without holding up its thread.
    pub(super) async fn reply_later(&self, record: &kafka::Record, reply: &Reply) -> Outcome<Made> {
        if let Err(error) = self.is_whole(record, reply) {
            return Outcome::Failed(error);
        }
        let made = self.made(record, reply);
        match self.shown(record, reply) {
            Some(bytes) => self.put(bytes).await.map(|()| made),
            None => Outcome::Ok(made),
        }
    }

    /// Refuses an answer of which a part was cut away, where its bytes are written as they are:
    /// nobody could see that something is missing.
    fn is_whole(&self, record: &kafka::Record, reply: &Reply) -> Result<(), TaskError> {
        if self.to.is_none() && self.emit != Emit::Raw {
            return Ok(());
        }
        match cut(reply) {
            Some(why) => Err(TaskError::invalid(format!("{record}: {why}; nothing of it is written"))),
            None => Ok(()),
        }
    }

    /// The records for the other topic, if there is one.
    fn made(&self, record: &kafka::Record, reply: &Reply) -> Made {
        let Some(to) = &self.to else { return Vec::new() };
        let values = match reply {
            Reply::Null => Vec::new(),
            Reply::Command(output) => lines(&output.stdout),
            Reply::Http(reply) => vec![reply.raw().to_vec()],
            Reply::Pipe(answer) => vec![answer.bytes().to_vec()],
        };
        values.into_iter().map(|value| made(to, record, Some(value))).collect()
    }

    fn shown(&self, record: &kafka::Record, reply: &Reply) -> Option<Vec<u8>> {
        match (self.emit, reply) {
            (Emit::None, _) | (Emit::Raw, Reply::Null) => None,
            (Emit::Jsonl, reply) => {
                let reply = RawValue::from_string(reply.to_json().into_string()).ok();
                Some(with_newline(line(record, reply.as_deref()).into_bytes()))
            }
            (Emit::Raw, Reply::Http(reply)) => Some(with_newline(reply.raw().to_vec())),
            (Emit::Raw, Reply::Command(_) | Reply::Pipe(_)) => Some(reply.raw().into()),
        }
    }

    async fn put(&self, bytes: Vec<u8>) -> Outcome<()> {
        let (out, is_out) = oneshot::channel();
        let lines = self.lines.get_or_init(|| {
            let (lines, receiver) = mpsc::channel();
            let pen = self.pen.clone();
            // Where no thread can be had the sender fails, and the record comes again.
            let _ = thread::Builder::new().name("longshore-out".to_owned()).spawn(move || pen.run(&receiver));
            lines
        });
        let taken = lines.send(Line { bytes, out }).is_ok() && is_out.await.unwrap_or(false);
        // Neither done nor failed: it comes again.
        if taken { Outcome::Ok(()) } else { Outcome::Cancelled }
    }
}

fn with_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(b'\n');
    bytes
}

impl Pen {
    /// Writes what has gathered in one piece, and then tells those who wait.
    fn run(&self, lines: &mpsc::Receiver<Line>) {
        let (mut piece, mut waiting) = (Vec::new(), Vec::new());
        while let Ok(first) = lines.recv() {
            let mut next = Some(first);
            while let Some(Line { bytes, out }) = next.take() {
                piece.extend_from_slice(&bytes);
                waiting.push(out);
                if piece.len() < PIECE {
                    next = lines.try_recv().ok();
                }
            }
            let is_out = self.write(&piece);
            piece.clear();
            piece.shrink_to(PIECE);
            for out in waiting.drain(..) {
                // Who waits may have been ended.
                let _ = out.send(is_out);
            }
        }
    }

    /// Returns whether it is out. Otherwise the consumer is being stopped: nothing counts as done
    /// any more.
    fn write(&self, bytes: &[u8]) -> bool {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Target { write, bar, broken } = &mut *target;
        if broken.is_none() && !bytes.is_empty() {
            let mut put = || write.write_all(bytes).and_then(|()| write.flush());
            let written = match bar {
                Some(bar) => bar.suspend(put),
                None => put(),
            };
            *broken = written.err().map(|error| error.kind());
        }
        if target.broken.is_none() {
            return true;
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
        false
    }
}

/// Says why an answer is not whole, if a part of it was cut away.
fn cut(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Command(output) if output.stdout_cut > 0 => {
            let bytes = output.stdout.len() as u64 + output.stdout_cut;
            Some(format!("an output of {bytes} bytes is more than --max-output"))
        }
        Reply::Http(reply) if reply.cut => Some(format!("the body of the answer is longer than the {} bytes that are read", reply.bytes)),
        _ => None,
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
