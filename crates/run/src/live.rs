//! Lines of commands that are shown while they run (`--line-buffer`).
//!
//! What is shown so is a look at what runs, and no result: that is written when the command has
//! ended, as always. A command has ended only when all its lines have been written out; if they
//! cannot be, it is as if it had not run. So whatever is killed, no line of a task that the journal
//! calls finished is missing, and an attempt that was cut short is shown again, by its number.
//!
//! Nothing is held without bound: there is room for a mebibyte on its way to a slow reader, and
//! for [`LONGEST`] bytes of each unfinished line; beyond that the command waits on its pipe.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use longshore_core::{
    Context,
    lane::child::{OutputListener, OutputStream},
};

use crate::{
    call::Call,
    event::{RunEvent, Tell},
    journal::{Feed, LiveText},
    output::tag_of,
};

/// Longest line that is shown whole. A longer one is broken.
const LONGEST: usize = 1 << 20;
/// Time that the reader has for the last lines once everything stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way of commands' lines to the output.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) feed: Feed,
    /// The record stands before each line.
    pub(crate) tag: bool,
    /// Told of further attempts, where no line says which it is of.
    pub(crate) tell: Tell,
}

impl Live {
    /// Returns the listener of an attempt.
    pub(crate) fn of(&self, context: &Context, call: &Call) -> Arc<dyn OutputListener> {
        let again = context.attempt > 1;
        let tag = self.tag.then(|| {
            let mut tag = call.first().map_or_else(Vec::new, |item| tag_of(item.record.to_json().get().as_bytes()));
            if again {
                tag.extend_from_slice(format!(" (attempt {})", context.attempt).as_bytes());
            }
            tag.push(b'\t');
            tag
        });
        if again && tag.is_none() {
            (self.tell)(&RunEvent::ShownAgain { seq: context.id, attempt: context.attempt });
        }
        let lines = LiveLines { tag: tag.unwrap_or_default(), held: Vec::new() };
        let heard = LiveStreams { out: lines.clone(), err: lines, last: 0 };
        Arc::new(LiveOutput { feed: self.feed.clone(), heard: Mutex::new(heard) })
    }
}

/// Output of one attempt, on its way.
#[derive(Debug)]
struct LiveOutput {
    feed: Feed,
    heard: Mutex<LiveStreams>,
}

#[derive(Debug)]
struct LiveStreams {
    out: LiveLines,
    err: LiveLines,
    /// Number of the last text that was sent.
    last: u64,
}

impl LiveOutput {
    fn lock(&self) -> MutexGuard<'_, LiveStreams> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, heard: &mut LiveStreams, stream: OutputStream, text: Vec<u8>) {
        if !text.is_empty() {
            heard.last = self.feed.live(LiveText { stream, text });
        }
    }
}

impl OutputListener for LiveOutput {
    fn hear(&self, stream: OutputStream, bytes: &[u8]) {
        let mut heard = self.lock();
        let text = match stream {
            OutputStream::Stdout => heard.out.take(bytes),
            OutputStream::Stderr => heard.err.take(bytes),
        };
        self.send(&mut heard, stream, text);
    }

    fn full(&self) -> Option<BorrowedFd<'_>> {
        self.feed.gauge()?.full()
    }

    fn finish(&self, is_stopping: &dyn Fn() -> bool) -> bool {
        let last = {
            let mut heard = self.lock();
            let (out, err) = (heard.out.end(), heard.err.end());
            self.send(&mut heard, OutputStream::Stdout, out);
            self.send(&mut heard, OutputStream::Stderr, err);
            heard.last
        };
        self.feed.gauge().is_none_or(|gauge| gauge.wait(last, is_stopping, PATIENCE))
    }
}

/// One stream, as whole lines.
#[derive(Clone, Debug)]
struct LiveLines {
    /// Stands before each line.
    tag: Vec<u8>,
    /// The beginning of a line that has no end yet.
    held: Vec<u8>,
}

impl LiveLines {
    /// Returns the lines that end in what comes now. One that is too long is broken.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends) = line.strip_suffix(b"\n").map_or((line, false), |text| (text, true));
            while self.held.len() + text.len() > LONGEST {
                let (fits, rest) = text.split_at(LONGEST - self.held.len());
                self.push(&mut lines, fits);
                text = rest;
            }
            if ends {
                self.push(&mut lines, text);
            } else {
                self.held.extend_from_slice(text);
            }
        }
        lines
    }

    /// Returns what has no end, as a line.
    fn end(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        if !self.held.is_empty() {
            self.push(&mut line, b"");
        }
        line
    }

    fn push(&mut self, lines: &mut Vec<u8>, text: &[u8]) {
        lines.extend_from_slice(&self.tag);
        lines.append(&mut self.held);
        lines.extend_from_slice(text);
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(tag: &str, pieces: &[&[u8]]) -> Vec<u8> {
        let mut lines = LiveLines { tag: tag.into(), held: Vec::new() };
        let mut shown: Vec<u8> = pieces.iter().flat_map(|piece| lines.take(piece)).collect();
        shown.extend(lines.end());
        shown
    }

    #[test]
    fn lines_are_shown_whole_behind_their_tag() {
        for (tag, pieces, want) in [
            ("", &["a\nb\n"][..], "a\nb\n"),
            ("", &["a", "b\nc", "", "d"], "ab\ncd\n"),
            ("x\t", &["a\n\nb"], "x\ta\nx\t\nx\tb\n"),
            ("x\t", &["", "\n"], "x\t\n"),
            ("x\t", &[], ""),
        ] {
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(String::from_utf8(lines(tag, &pieces)).unwrap(), want, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_broken_where_it_is_too_long() {
        let long = vec![b'x'; LONGEST];
        let whole = [&long[..], b"\n"].concat();
        assert!(lines("", &[&whole]) == whole, "as long as may be");
        assert!(lines("", &[&long, b"y", b"z\n"]) == [&long[..], b"\nyz\n"].concat());
        let shown = lines("t\t", &[&long, &long, &long, &long]);
        assert_eq!(shown.len(), 4 * (LONGEST + 3));
        assert!(shown.chunks(LONGEST + 3).all(|line| line.starts_with(b"t\tx") && line.ends_with(b"x\n")));
    }

    proptest! {
        /// However it is cut on its way, what is shown is what was written, and ends with a line's
        /// end.
        #[test]
        fn nothing_is_lost_on_the_way(bytes in prop::collection::vec(prop::sample::select(b"ab\n\r\0\xff".to_vec()), 0..200), step in 1_usize..20) {
            let pieces: Vec<&[u8]> = bytes.chunks(step).collect();
            let shown = lines("", &pieces);
            let mut want = bytes.clone();
            if !want.is_empty() && !want.ends_with(b"\n") {
                want.push(b'\n');
            }
            prop_assert_eq!(shown, want);
        }
    }
}
