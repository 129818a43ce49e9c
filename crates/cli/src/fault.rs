//! A command that cannot do what it was asked: an exit code and a sentence, made of every crate's
//! errors; and how it is said as the program ends.

use std::{io::Write, sync::OnceLock};

use longshore_brokers::BrokerError;
use longshore_core::ErrorKind;
use longshore_ops::OpsError;
use longshore_run::{RunError, jobs::JobError, socket::ReachError};
use longshore_worker::ClientError;

use crate::{
    config::{ConfigError, ConfigErrors},
    exit::Exit,
    progress::Voice,
};

/// A command that cannot do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Exit code with which the program ends for it.
    pub exit: Exit,
    /// A sentence: what happened, where, and what to do.
    pub message: String,
}

impl Fault {
    /// Makes a fault.
    pub fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Makes a mistake of the user's.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

/// Returns how a broker's error ends a command: of what a client asks for, only a file can be
/// unwritable; all else is out of reach, or refuses us.
pub(crate) fn exit_of(error: &BrokerError) -> Exit {
    if matches!(error.kind, ErrorKind::Fatal | ErrorKind::Unwritable) { Exit::Unwritable } else { Exit::Unreachable }
}

impl From<BrokerError> for Fault {
    fn from(error: BrokerError) -> Self {
        Self::new(exit_of(&error), error.message)
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Signature(_) => Exit::Usage,
            ClientError::Remote(_) => Exit::Failed,
            ClientError::TimedOut { .. } => Exit::NotReady,
            ClientError::Broker(error) => exit_of(error),
            _ => Exit::Unreachable,
        };
        Self::new(exit, error)
    }
}

impl From<OpsError> for Fault {
    fn from(error: OpsError) -> Self {
        let exit = match error {
            OpsError::UnknownTask { .. } | OpsError::UnseenTask { .. } | OpsError::NoDeadLetter { .. } => Exit::Unknown,
            OpsError::NoWorkers => Exit::NoWorkers,
            OpsError::Broker(error) => return error.into(),
            OpsError::Client(error) => return error.into(),
            // What makes no sense is a mistake of the user's.
            _ => Exit::Usage,
        };
        Self::new(exit, error)
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        Self::new(error.kind.into(), error.message)
    }
}

impl From<JobError> for Fault {
    fn from(error: JobError) -> Self {
        RunError::from(error).into()
    }
}

impl From<ReachError> for Fault {
    fn from(error: ReachError) -> Self {
        let exit = match &error {
            ReachError::NoneRuns | ReachError::NotRunning { .. } | ReachError::Several { .. } => Exit::Usage,
            ReachError::State(error) => error.kind().into(),
            _ => Exit::Unreachable,
        };
        Self::new(exit, error)
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<ConfigErrors> for Fault {
    fn from(errors: ConfigErrors) -> Self {
        Self::usage(errors)
    }
}

/// Output that nobody takes: a reader that has gone, or a disk that is full.
impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::ReaderGone } else { Exit::Unwritable };
        Self::new(exit, format!("stdout: {}", longshore_sys::files::cause(&error)))
    }
}

/// Voice in which errors are said, once that is known.
static VOICE: OnceLock<Voice> = OnceLock::new();

/// Sets how errors are said from here on.
pub(crate) fn speak_with(voice: Voice) {
    let _ = VOICE.set(voice);
}

/// Says on stderr what went wrong, and returns how the program ends.
pub(crate) fn conclude(ended: Result<Exit, Fault>) -> Exit {
    match ended {
        Ok(exit) => exit,
        // A reader that goes away has read enough.
        Err(Fault { exit: Exit::ReaderGone, .. }) => Exit::ReaderGone,
        Err(Fault { exit, message }) => {
            eprintln!("{}", VOICE.get().copied().unwrap_or_default().error(&message));
            exit
        }
    }
}

/// Ends as clap does, with help on stdout or a mistake on stderr, and says when stdout does not
/// take it.
pub(crate) fn leave(error: &clap::Error) -> ! {
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    let exit = match printed {
        Err(cause) if !error.use_stderr() => conclude(Err(Fault::from(cause))),
        _ => Exit::of(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code())),
    };
    std::process::exit(exit.code().into())
}
