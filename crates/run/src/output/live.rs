//! Lines of commands that run, on their way to stdout and stderr. They are no results: those come
//! from the journal, when the command has ended.

use longshore_core::lane::child::OutputStream;

use super::{
    OutputError, StderrHook,
    sink::{Sink, WRITE_BYTES},
};
use crate::journal::{Feed, LiveText};

/// Destination of such lines.
pub(crate) struct LiveSink {
    stdout: Sink,
    stderr: Option<StderrHook>,
    feed: Feed,
    /// Collected lines of one stream, because a system call for each is slow.
    stream: OutputStream,
    text: Vec<u8>,
}

impl LiveSink {
    /// Makes one that says to this feed what has been written.
    pub(crate) fn new(stdout: Sink, stderr: Option<StderrHook>, feed: Feed) -> Self {
        Self { stdout, stderr, feed, stream: OutputStream::Stdout, text: Vec::new() }
    }

    /// Takes whole lines.
    pub(crate) fn put(&mut self, live: &LiveText) -> Result<(), OutputError> {
        if self.stream != live.stream {
            self.flush()?;
            self.stream = live.stream;
        }
        self.text.extend_from_slice(&live.text);
        if self.text.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what was taken.
    pub(crate) fn flush(&mut self) -> Result<(), OutputError> {
        if self.text.is_empty() {
            return Ok(());
        }
        match (self.stream, &self.stderr) {
            (OutputStream::Stdout, _) => self.stdout.write(&self.text)?,
            (OutputStream::Stderr, Some(stderr)) => stderr(&mut self.text.as_slice()),
            (OutputStream::Stderr, None) => {}
        }
        self.feed.gauge().into_iter().for_each(|gauge| gauge.arrived(self.text.len()));
        self.text.clear();
        Ok(())
    }
}
