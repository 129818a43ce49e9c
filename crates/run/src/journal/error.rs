//! What can go wrong with jobs and journals, in words that name what, where and the next step.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{RunError, RunErrorKind};

/// A journal that cannot be written or synced. Final for the run.
#[derive(Clone, Debug)]
pub struct JournalError {
    /// The journal.
    pub path: PathBuf,
    /// Bytes left on its file system, if that could be found out.
    pub free: Option<u64>,
    /// The system's error.
    pub cause: String,
    /// Finished tasks that are not on disk and will run again.
    pub unsynced: u64,
    /// The reason why the journal could not be cut back to what is on disk, if it could not.
    pub uncut: Option<String>,
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "journal {}: {}", self.path.display(), self.cause)?;
        if let Some(free) = self.free {
            write!(f, " ({free} bytes free)")?;
        }
        match self.unsynced {
            0 => {}
            1 => write!(f, "; 1 finished task since the last sync will run again")?,
            many => write!(f, "; {many} finished tasks since the last sync will run again")?,
        }
        if let Some(why) = &self.uncut {
            write!(f, "; it could not be cut back to what is on disk: {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for JournalError {}

impl JournalError {
    /// A thread of the journal ends before its time only if a continuation panicked.
    pub(crate) fn died(path: &Path) -> Self {
        let cause = "its writer has died; this is a bug in longshore".to_owned();
        Self { path: path.to_owned(), free: None, cause, unsynced: 0, uncut: None }
    }
}

/// A job that cannot begin, go on or be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file cannot be used.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The step that was tried, and the system's error.
        cause: String,
    },
    /// Not a name that a job can have.
    #[error("'{name}' cannot be a job's name: use 1 to 128 letters, digits, dots, dashes and underscores, the first not a dash")]
    Name {
        /// The text that was given.
        name: String,
    },
    /// No such job.
    #[error("no job '{job}' in {}: see `longshore jobs list`", dir.display())]
    Unknown {
        /// Id or name that was given.
        job: String,
        /// The directory of jobs that was searched.
        dir: PathBuf,
    },
    /// There is nothing to resume.
    #[error("no unfinished job in {}: see `longshore jobs list`", dir.display())]
    NothingUnfinished {
        /// The directory of jobs that was searched.
        dir: PathBuf,
    },
    /// Another process runs it.
    #[error("job {job} is running already (pid {pid})")]
    Running {
        /// The job.
        job: String,
        /// The process.
        pid: u32,
    },
    /// Its run is dead, and what ends that run's children has not let go of it.
    #[error("job {job}: its last run is dead, but the processes that it left have not ended within {waited} s: try again, or end them")]
    Guarded {
        /// The job.
        job: String,
        /// Seconds waited.
        waited: u64,
    },
    /// It is not the same job any more.
    #[error("job {job}: {what} has changed since it began (was {was}, is {now}): run it as it was, or start over with --fresh")]
    Changed {
        /// The job.
        job: String,
        /// The part that has changed.
        what: &'static str,
        /// Its value in the journal.
        was: String,
        /// The value that was asked for.
        now: String,
    },
    /// The journal cannot be understood.
    #[error("{}:{line}: {why}: {}, or start over with --fresh", path.display(), mending(*line))]
    Broken {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The reason why the line cannot be understood.
        why: String,
    },
    /// The input lacks records of earlier sittings.
    #[error("job {job}: {why}: pipe the same records in again (… | longshore run --resume {job}), or start over with --fresh")]
    Lacking {
        /// Its name, or its id.
        job: String,
        /// Description of what is lacking.
        why: String,
    },
    /// The output file exists and is not the job's.
    #[error("{} exists and is not this job's output: go on with its job (--resume), overwrite it (--fresh), or choose another file", path.display())]
    ForeignOutput {
        /// The file.
        path: PathBuf,
    },
}

impl JobError {
    /// Returns the kind of error that this is for a run.
    pub fn kind(&self) -> RunErrorKind {
        match self {
            Self::Journal(_) | Self::Io { .. } => RunErrorKind::Unwritable,
            Self::Name { .. } | Self::Unknown { .. } | Self::NothingUnfinished { .. } => RunErrorKind::Usage,
            Self::Running { .. } | Self::Guarded { .. } => RunErrorKind::Busy,
            Self::Changed { .. } | Self::Broken { .. } | Self::Lacking { .. } | Self::ForeignOutput { .. } => RunErrorKind::Refused,
        }
    }

    pub(crate) fn io(path: &Path, what: &str, error: &io::Error) -> Self {
        let free = match error.kind() {
            io::ErrorKind::StorageFull => free_bytes(path).map_or(String::new(), |free| format!(" ({free} bytes free)")),
            _ => String::new(),
        };
        Self::Io { path: path.to_owned(), cause: format!("{what}: {}{free}", cause(error)) }
    }
}

impl From<JobError> for RunError {
    fn from(error: JobError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// A journal without its header is none, so that line cannot go.
fn mending(line: u64) -> &'static str {
    if line == 1 { "mend that line, or move the file away" } else { "mend or remove that line" }
}

pub(crate) use longshore_sys::files::cause;

/// Bytes that this user can still write to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(path).or_else(|_| rustix::fs::statvfs(folder)).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
