//! Lines of the log, written by a thread: whoever does not read them holds up no request.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
};

/// Most lines that may wait to be written.
const WAITING: usize = 10_000;

/// Takes lines for a thread that writes them.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<String>,
    left_out: Arc<AtomicU64>,
}

/// Lines on their way to whoever reads them.
pub(super) struct LogLines {
    lines: Receiver<String>,
    left_out: Arc<AtomicU64>,
}

/// Makes both ends.
pub(super) fn log() -> (Log, LogLines) {
    let (lines, come) = mpsc::sync_channel(WAITING);
    let left_out = Arc::default();
    (Log { lines, left_out: Arc::clone(&left_out) }, LogLines { lines: come, left_out })
}

impl Log {
    /// Writes a line, unless too many wait. Never waits.
    pub(super) fn note(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line, and waits for room.
    pub(super) fn say(&self, line: String) {
        let _ = self.lines.send(line);
    }
}

impl LogLines {
    /// Writes what comes until nobody can say anything more, and how many lines there was no room
    /// for.
    pub(super) fn write(self, mut to: impl Write, line_of: impl Fn(&str) -> String) {
        for line in self.lines {
            let _ = to.write_all(format!("{line}\n").as_bytes());
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                let said = format!("{left_out} lines of this log were left out, those of actions among them: nobody read it");
                let _ = to.write_all(format!("{}\n", line_of(&said)).as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_which_there_is_no_room_are_counted_and_the_count_is_written() {
        let (log, lines) = log();
        for number in 0..WAITING + 7 {
            log.note(format!("line {number}"));
        }
        drop(log);
        let mut written = Vec::new();
        lines.write(&mut written, |text| format!("log: {text}"));
        let written = String::from_utf8(written).expect("text");
        let rows: Vec<&str> = written.lines().collect();
        assert_eq!(rows.len(), WAITING + 1);
        assert_eq!(rows[0], "line 0");
        assert_eq!(rows[1], "log: 7 lines of this log were left out, those of actions among them: nobody read it");
        assert_eq!(rows[WAITING], "line 9999");
    }
}
