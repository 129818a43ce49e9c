//! How a run ends: one exit code for everything that happened.

/// What happened, as far as the exit code is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// A part of longshore itself broke.
    pub bug: bool,
    /// The journal or the output could not be written.
    pub unwritable: bool,
    /// The reader of stdout has gone.
    pub reader_gone: bool,
    /// The signal that stopped the run: 2 or 15.
    pub signal: Option<u8>,
    /// The input could not be read to its end.
    pub unreadable: bool,
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
            Facts { unreadable: true, .. } => 3,
            Facts { stopped_early: true, .. } => 5,
            Facts { check_failed: true, .. } => 4,
            Facts { failures_checked: false, failed: 1.., .. } => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_applies_is_the_exit_code() {
        let all = Facts {
            bug: true,
            unwritable: true,
            reader_gone: true,
            signal: Some(15),
            unreadable: true,
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
            (Facts { unreadable: true, failed: 1, ..Facts::default() }, 3),
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
