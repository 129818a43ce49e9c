//! Exit codes of `longshore`: one table for all commands.

use std::process::ExitCode;

use longshore_run::RunErrorKind;

/// Defines the exit codes: name, number and meaning of each in one place.
macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $means:literal;)+) => {
        /// An exit code of `longshore`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Exit {
            $($(#[$doc])* #[doc = $means] $name,)+
            /// A number that is none of ours: a count of failed tasks (`--exit-count`), or of a
            /// program that stood in for this one
            Number(u8),
        }

        impl Exit {
            /// All that have a meaning of their own, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the number.
            pub fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)+
                    Self::Number(code) => code,
                }
            }

            /// Returns the meaning, for the manual.
            pub fn means(self) -> &'static str {
                match self {
                    $(Self::$name => $means,)+
                    Self::Number(_) => "the number of tasks that failed (--exit-count)",
                }
            }
        }
    };
}

exits! {
    Done = 0, "all done";
    Failed = 1, "some of it failed for good";
    Usage = 2, "a mistake in the command line, the configuration or a template";
    Input = 3, "the input cannot be read, or is refused";
    Check = 4, "a check failed, or it is worse than asked for";
    Early = 5, "stopped early, by a limit on failures or time";
    Unreachable = 6, "a broker or server is out of reach, or refuses";
    Changed = 7, "it cannot be resumed: the job, its input or its output is not what it was";
    NotReady = 8, "no result yet, or not in time";
    Unknown = 9, "no such task or dead letter";
    NoWorkers = 69, "no worker replied";
    System = 70, "the system gave no thread or no process, or longshore has a bug";
    Unwritable = 74, "something cannot be written: the output, the journal, a file";
    Busy = 75, "another process does this already";
    Interrupted = 130, "interrupted (SIGINT); what was done is kept";
    ReaderGone = 141, "the reader of stdout has gone";
    Terminated = 143, "told to end (SIGTERM, SIGHUP); what was done is kept";
}

impl Exit {
    /// Returns the exit code with this number.
    pub fn of(code: u8) -> Self {
        Self::ALL.iter().copied().find(|exit| exit.code() == code).unwrap_or(Self::Number(code))
    }

    /// Returns the exit code of whoever was ended by a signal.
    pub fn of_signal(signal: u8) -> Self {
        Self::of(128 + signal)
    }

    /// Returns the one with the larger number: of several things asked for, that is told.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if other.code() > self.code() { other } else { self }
    }

    /// Returns [`Exit::Unwritable`] for an error that says that no more can be written, else
    /// `otherwise`.
    pub fn of_system(error: &std::io::Error, otherwise: Self) -> Self {
        if longshore_sys::files::is_full(error) { Self::Unwritable } else { otherwise }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<RunErrorKind> for Exit {
    fn from(kind: RunErrorKind) -> Self {
        match kind {
            RunErrorKind::Usage => Self::Usage,
            RunErrorKind::Input => Self::Input,
            RunErrorKind::Unreachable => Self::Unreachable,
            RunErrorKind::Refused => Self::Changed,
            RunErrorKind::Unwritable => Self::Unwritable,
            RunErrorKind::Busy => Self::Busy,
            // The kind of troubles that have no name of their own.
            _ => Self::System,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_every_exit_code() {
        let page = include_str!("../../../docs/src/reference/exit-codes.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.means());
            assert!(page.contains(&row), "docs/src/reference/exit-codes.md lacks: {row}");
        }
    }

    #[test]
    fn every_number_has_one_name() {
        assert!(Exit::ALL.is_sorted_by(|one, next| one.code() < next.code()));
        for exit in Exit::ALL {
            assert_eq!(Exit::of(exit.code()), *exit);
        }
        assert_eq!((Exit::of(101), Exit::of_signal(2), Exit::of_signal(15)), (Exit::Number(101), Exit::Interrupted, Exit::Terminated));
    }

    #[test]
    fn of_several_the_largest_is_told() {
        assert_eq!(Exit::Done.or(Exit::Unknown).or(Exit::Failed), Exit::Unknown);
    }
}
