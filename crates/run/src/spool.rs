//! Files beside the journal for output that is too long for it: they stay until the output has
//! their bytes.
//!
//! The part of what a task writes that is beyond `--max-output` goes to a file while it runs. Its
//! result line names that file; once the output has the bytes (on disk, where the output is a
//! file), a line of the journal says so and where they stand there, and then the file goes. So at
//! every instant each byte is in the journal, in such a file, or in the output, and the journal
//! says which. Without a journal the files are in a temporary folder, whose lock says that its run
//! lives: the next run removes the folders of those that were killed.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use longshore_core::lane::child::Spill;

/// Beginning of the names of temporary folders.
const PREFIX: &str = "longshore-spool-";
/// Most entries of the temporary folder that are looked at for folders of runs that were killed.
const LOOKED_AT: usize = 10_000;

/// Which streams are wanted whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Standard output, and bodies of answers.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// The folder of a run's files.
pub(crate) struct Spool {
    dir: Arc<Path>,
    wanted: Wanted,
    /// It is the job's, and the files have to outlive this process.
    journaled: bool,
    /// The temporary folder, locked for as long as this run lives.
    lock: OnceLock<Option<File>>,
    failed: Box<dyn Fn(String) + Send + Sync>,
}

impl Spool {
    /// The folder of a job, or a temporary one. `failed` is told why a file could not be written.
    pub(crate) fn new(job: Option<PathBuf>, wanted: Wanted, failed: Box<dyn Fn(String) + Send + Sync>) -> Self {
        let journaled = job.is_some();
        let dir = job.unwrap_or_else(|| std::env::temp_dir().join(format!("{PREFIX}{:016x}", fastrand::u64(..))));
        Self { dir: dir.into(), wanted, journaled, lock: OnceLock::new(), failed }
    }

    /// Returns the place for the part of this attempt's output that is not kept.
    pub(crate) fn of(&self, seq: u64, attempt: u32) -> Spill {
        let Wanted { stdout, stderr } = self.wanted;
        if !self.journaled {
            // A folder that cannot be made here is told by whoever needs it.
            self.lock.get_or_init(|| lock(&self.dir).ok());
        }
        Spill { dir: self.dir.clone(), name: format!("{seq}-{attempt}"), stdout, stderr, sync: self.journaled }
    }

    /// The file of this name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says that a file could not be written, with the path and the reason.
    pub(crate) fn fail(&self, why: &str) {
        let why = why.split_once(" (os error").map_or(why, |(words, _)| words);
        (self.failed)(format!("output that is too long for the journal cannot be put beside it: {why}"));
    }

    /// Removes the folder, as far as nothing is needed of it any more.
    pub(crate) fn close(&self) {
        let _ = if self.journaled { std::fs::remove_dir(&self.dir) } else { std::fs::remove_dir_all(&self.dir) };
    }
}

/// Makes a temporary folder and takes its lock, after the folders of runs that were killed are
/// gone.
fn lock(dir: &Path) -> io::Result<File> {
    // Where the parent cannot be read nothing of ours is found, and nothing is lost.
    let _ = dir.parent().map(remove_deserted);
    DirBuilder::new().mode(0o700).create(dir)?;
    let file = File::open(dir)?;
    file.try_lock()?;
    Ok(file)
}

/// Removes this user's temporary folders whose lock nobody holds.
fn remove_deserted(all: &Path) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(all)?.take(LOOKED_AT).flatten() {
        let is_spool = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        // Not through a link: another user may have put one here.
        let is_ours = || entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == us);
        if !is_spool || !is_ours() {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            // Another run may take it away at the same time.
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}
