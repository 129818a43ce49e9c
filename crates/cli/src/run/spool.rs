//! Files beside the journal for output that is too long for it: they stay until the output has
//! their bytes.
//!
//! The part of what a task writes that is beyond `--max-output` goes to a file while it runs. Its
//! result line names that file; once the output has the bytes (on disk, where the output is a
//! file), a line of the journal says so and where they stand there, and then the file goes. So at
//! every instant each byte is in the journal, in such a file, or in the output, and the journal
//! says which. Without a journal the files are in a temporary folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use longshore_core::lane::child::Spill;

/// Which streams are wanted whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Standard output, and bodies of answers.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// The folder of a run's files.
pub struct Spool {
    dir: Arc<Path>,
    wanted: Wanted,
    /// It is the job's, and the files have to outlive this process.
    journaled: bool,
    failed: Box<dyn Fn(String) + Send + Sync>,
}

impl Spool {
    /// The folder of a job, or a temporary one. `failed` is told why a file could not be written.
    pub fn new(job: Option<PathBuf>, wanted: Wanted, failed: Box<dyn Fn(String) + Send + Sync>) -> Self {
        let journaled = job.is_some();
        let dir = job.unwrap_or_else(|| std::env::temp_dir().join(format!("longshore-{:016x}", fastrand::u64(..))));
        Self { dir: dir.into(), wanted, journaled, failed }
    }

    /// Returns the place for the part of this attempt's output that is not kept.
    pub fn of(&self, seq: u64, attempt: u32) -> Spill {
        let Wanted { stdout, stderr } = self.wanted;
        Spill { dir: self.dir.clone(), name: format!("{seq}-{attempt}"), stdout, stderr, sync: self.journaled }
    }

    /// The file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says that a file could not be written, with the path and the reason.
    pub fn fail(&self, why: &str) {
        let why = why.split_once(" (os error").map_or(why, |(words, _)| words);
        (self.failed)(format!("output that is too long for the journal cannot be put beside it: {why}"));
    }

    /// Removes the folder, as far as nothing is needed of it any more.
    pub fn close(&self) {
        let _ = if self.journaled { std::fs::remove_dir(&self.dir) } else { std::fs::remove_dir_all(&self.dir) };
    }
}
