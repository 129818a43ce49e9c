//! How a run ends: one exit code for everything that happened.

/// Facts about a run that decide its exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A part of longshore itself broke.
    pub bug: bool,
    /// The journal or the output could not be written.
    pub unwritable: bool,
    /// The reader of stdout has gone.
    pub reader_gone: bool,
    /// The signal that stopped the run: 2 or 15.
    pub signal: Option<u8>,
    /// Its program cannot be started, with tasks left.
    pub no_program: bool,
    /// The input could not be read to its end.
    pub unreadable: bool,
    /// The input lacks what earlier sittings left unfinished.
    pub lacking: bool,
    /// `--max-fail` or `--job-timeout` stopped it with tasks left.
    pub stopped_early: bool,
    /// A `--check` failed.
    pub check_failed: bool,
    /// There was a `--check` on `failed`, which replaces the rule that any failure counts.
    pub failures_checked: bool,
    /// Tasks that failed for good.
    pub failed: u64,
}

impl Facts {
    /// The exit code: the first that applies.
    pub fn code(self) -> u8 {
        match self {
            Facts { bug: true, .. } => 70,
            Facts { unwritable: true, .. } => 74,
            Facts { reader_gone: true, .. } => 141,
            Facts { signal: Some(signal), .. } => 128 + signal,
            Facts { no_program: true, .. } => 2,
            Facts { unreadable: true, .. } => 3,
            Facts { lacking: true, .. } => 7,
            Facts { stopped_early: true, .. } => 5,
            Facts { check_failed: true, .. } => 4,
            Facts { failures_checked: false, failed: 1.., .. } => 1,
            _ => 0,
        }
    }
}

/// Input as earlier sittings knew it, and as far as this one has met it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Brought {
    /// Records that an earlier sitting had read.
    pub had_read: u64,
    /// It had read them all.
    pub had_ended: bool,
    /// Tasks that earlier sittings finished.
    pub had_finished: u64,
    /// Tasks that earlier sittings began and did not finish.
    pub had_begun: u64,
    /// Records that this sitting has read.
    pub read: u64,
    /// Tasks that had begun, as far as this sitting has met them.
    pub met: u64,
    /// Tasks that were finished, as far as this sitting has met them.
    pub met_finished: u64,
}

impl Brought {
    /// Tasks that had begun and that the input, read to its end, does not have.
    pub(crate) fn lost(self) -> u64 {
        self.had_begun.saturating_sub(self.met)
    }

    /// Says what stdin, read to its end, lacks of what earlier sittings left unfinished; `None` if
    /// nothing.
    pub(crate) fn lacks(self) -> Option<String> {
        let unread = !self.had_ended || self.had_finished < self.had_read;
        let left = self.had_begun > 0 || unread;
        let records = |count: u64| if count == 1 { "1 record".to_owned() } else { format!("{count} records") };
        if left && self.read < self.had_read {
            let (brought, had) = (records(self.read), self.had_read);
            return Some(format!("stdin brought {brought}, where an earlier sitting had read {had} and left some unfinished"));
        }
        match self.lost() {
            // Records that were read and had not begun are known to nobody. Whether they are here
            // shows by those beside them, which were finished.
            0 if unread && self.met_finished < self.had_finished => {
                let missing = self.had_finished - self.met_finished;
                let of = records(missing);
                let are = if missing == 1 { "is" } else { "are" };
                Some(format!("{of} that an earlier sitting finished {are} not on stdin, so that it is another input"))
            }
            0 => None,
            1 => Some("1 task that an earlier sitting left unfinished is not on stdin".to_owned()),
            lost => Some(format!("{lost} tasks that an earlier sitting left unfinished are not on stdin")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_lacks_what_an_earlier_sitting_left_unfinished_and_it_does_not_bring() {
        let was = Brought { had_read: 50, had_finished: 10, met_finished: 10, had_begun: 2, ..Brought::default() };
        for (name, brought, want) in [
            ("nothing comes", was, Some("0 records, where an earlier sitting had read 50")),
            ("fewer come", Brought { read: 12, met: 2, ..was }, Some("12 records")),
            ("all come", Brought { read: 50, met: 2, ..was }, None),
            ("more come", Brought { read: 60, met: 2, ..was }, None),
            ("others come", Brought { read: 50, met: 1, ..was }, Some("1 task that")),
            ("others come and nothing had begun", Brought { read: 50, had_begun: 0, met_finished: 0, ..was }, Some("10 records that")),
            ("one that was done is missing", Brought { read: 50, had_begun: 0, met_finished: 9, ..was }, Some("1 record that")),
            (
                "all were done, and others come",
                Brought { read: 10, had_read: 10, had_begun: 0, had_ended: true, met_finished: 0, ..was },
                None,
            ),
            ("it had not read all", Brought { had_read: 10, had_begun: 0, ..was }, Some("0 records")),
            ("it was finished", Brought { had_read: 10, had_begun: 0, had_ended: true, ..was }, None),
            ("it is the first", Brought { read: 5, ..Brought::default() }, None),
            ("it is the first and empty", Brought::default(), None),
        ] {
            let lacks = brought.lacks();
            assert_eq!(lacks.is_some(), want.is_some(), "{name}: {lacks:?}");
            assert!(lacks.is_none_or(|lacks| lacks.contains(want.unwrap())), "{name}");
        }
    }

    #[test]
    fn the_first_that_applies_is_the_exit_code() {
        let all = Facts {
            bug: true,
            unwritable: true,
            reader_gone: true,
            signal: Some(15),
            no_program: true,
            unreadable: true,
            lacking: true,
            stopped_early: true,
            check_failed: true,
            failures_checked: false,
            failed: 3,
        };
        for (facts, want) in [
            (all, 70),
            (Facts { bug: false, ..all }, 74),
            (Facts { bug: false, unwritable: false, ..all }, 141),
            (Facts { signal: Some(2), failed: 1, ..Facts::default() }, 130),
            (Facts { signal: Some(15), stopped_early: true, ..Facts::default() }, 143),
            (Facts { no_program: true, unreadable: true, failed: 1, ..Facts::default() }, 2),
            (Facts { unreadable: true, lacking: true, failed: 1, ..Facts::default() }, 3),
            (Facts { lacking: true, stopped_early: true, failed: 1, ..Facts::default() }, 7),
            (Facts { stopped_early: true, check_failed: true, failed: 9, ..Facts::default() }, 5),
            (Facts { check_failed: true, failed: 9, ..Facts::default() }, 4),
            (Facts { failures_checked: true, failed: 9, ..Facts::default() }, 0),
            (Facts { failed: 1, ..Facts::default() }, 1),
            (Facts::default(), 0),
        ] {
            assert_eq!(facts.code(), want, "{facts:?}");
        }
    }
}
