//! A job as lists show it.

use std::{io, path::PathBuf, time::SystemTime};

use longshore_core::watch::Counts;

use super::{
    error::JobError,
    file::read,
    format::{End, Header},
};

/// State of a job: running, done with, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// A process runs it, or guards what a dead one left; 0 if unknown.
    Running(u32),
    /// Nothing is left to do.
    Finished,
    /// It can be resumed.
    Unfinished,
}

/// A job as lists show it.
#[derive(Clone, Debug)]
pub struct JobInfo {
    /// The first line of its journal.
    pub header: Header,
    /// Its state.
    pub state: JobState,
    /// Where it is running: the process that runs it lives. If not, a guardian ends what is left.
    pub alive: bool,
    /// The end of its last sitting, if that ended in order.
    pub end: Option<End>,
    /// Time at which its journal was last written.
    pub changed: SystemTime,
    /// Its journal.
    pub path: PathBuf,
    /// Reason why the journal's header cannot be trusted; then only the id is known.
    pub broken: Option<JobError>,
}

impl JobInfo {
    /// Returns the command line that started the job, secrets included.
    ///
    /// # Errors
    /// It has secrets, and the file that keeps it is gone or cannot be read.
    pub fn args(&self) -> Result<Vec<String>, JobError> {
        if self.header.shown_args.is_empty() {
            return Ok(self.header.args.clone());
        }
        let path = self.path.with_extension("args");
        let read = std::fs::read(&path).and_then(|json| serde_json::from_slice(&json).map_err(io::Error::from));
        read.map_err(|error| {
            let cause = format!(
                "the command line of job {} has secrets in it and is kept here: {error}; give all of it again, behind --resume {0}",
                self.header.job
            );
            JobError::Io { path, cause }
        })
    }

    /// Finished tasks by outcome, the number of those in flight, and that of all that are left
    /// where it is known; reads the whole journal unless its end says them. A task is in flight
    /// while it runs; where its run died, from then on until it runs again.
    ///
    /// # Errors
    /// When the journal cannot be read or understood.
    pub fn counts(&self) -> Result<(Counts, u64, Option<u64>), JobError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        match &self.end {
            Some(end) if !matches!(self.state, JobState::Running(_)) => Ok((end.counts, 0, Some(end.unfinished))),
            _ => read(&self.path).map(|contents| (contents.index.counts(), contents.index.started(), None)),
        }
    }
}
