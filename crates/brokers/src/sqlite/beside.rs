//! The file and those that SQLite keeps beside it while it is open: whether they are still those
//! that we have open.
//!
//! SQLite itself never looks again. Where the write-ahead log was deleted, this process writes into
//! a file that nobody else can see, and is deaf to whatever others write.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rusqlite::Connection;

use super::file;

/// Device and inode.
type FileIdentity = (u64, u64);

/// Files that must stay what they are while a database is open.
pub(crate) struct Beside {
    database: Watched,
    log: Watched,
    index: Watched,
}

struct Watched {
    path: PathBuf,
    /// Identity that it had when it was first seen.
    first: OnceLock<FileIdentity>,
}

/// Fate of a file since it was first seen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FileState {
    Same,
    Gone,
    Another,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        Self { path, first: OnceLock::new() }
    }

    fn look(&self) -> FileState {
        match (self.first.get(), file::identity(&self.path)) {
            // Whatever keeps it from being looked at is no proof that it is gone.
            (_, Err(_)) => FileState::Same,
            // It is made when it is first needed.
            (None, Ok(None)) => FileState::Same,
            (None, Ok(Some(now))) => {
                let _ = self.first.set(now);
                FileState::Same
            }
            (Some(_), Ok(None)) => FileState::Gone,
            (Some(first), Ok(Some(now))) if *first == now => FileState::Same,
            (Some(_), Ok(Some(_))) => FileState::Another,
        }
    }

    fn says(&self, state: FileState) -> String {
        let what = if state == FileState::Gone { "it was deleted" } else { "another file was put in its place" };
        format!("{}: {what} while it was open", self.path.display())
    }

    fn is_empty(&self) -> bool {
        self.path.metadata().map_or(true, |meta| meta.len() == 0)
    }
}

impl Beside {
    pub(crate) fn new(database: &Path) -> Self {
        let beside = |end: &str| Watched::new(file::beside(database, end));
        Self { database: Watched::new(database.into()), log: beside("-wal"), index: beside("-shm") }
    }

    /// Returns what has become of one of them.
    pub(crate) fn changed(&self) -> Option<String> {
        let watched = [&self.database, &self.log, &self.index].into_iter();
        watched.map(|file| (file, file.look())).find(|(_, state)| *state != FileState::Same).map(|(file, state)| file.says(state))
    }

    /// Checks that all are what they were. Where the log is not, what it holds is saved into the
    /// database first, through the connection that still has it open; not if somebody has written a
    /// new one.
    ///
    /// # Errors
    /// A message that says what happened, and what was saved.
    pub(crate) fn check(&self, conn: &Connection) -> Result<(), String> {
        let Some(what) = self.changed() else { return Ok(()) };
        if self.database.look() != FileState::Same {
            return Err(what);
        }
        let saved = self.log.look() == FileState::Same || self.log.is_empty();
        let saved = saved && save(conn);
        let then = match saved {
            true => "all that was confirmed is in the database",
            false => "what was confirmed last may be lost: stop all that use it, and look at it with `longshore queues`",
        };
        Err(format!("{what}; {then}; what lies beside a database must be left alone while it is used"))
    }
}

/// Writes what the log holds into the database; returns whether that is all of it.
fn save(conn: &Connection) -> bool {
    let saved = conn.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
        Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
    });
    saved.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{FileState, Watched};

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_gone() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("directory");
        let away = place.path().join("away");
        fs::create_dir(&directory).expect("a directory");
        fs::write(directory.join("file"), "").expect("a file");
        let watched = Watched::new(directory.join("file"));
        assert_eq!(watched.look(), FileState::Same);
        fs::rename(&directory, &away).expect("it is moved");
        assert_eq!(watched.look(), FileState::Gone);
        // As an error of the disk, or a directory that may not be searched (which root may).
        symlink(&directory, &directory).expect("a link");
        assert_eq!(watched.look(), FileState::Same);
        fs::remove_file(&directory).expect("it is removed");
        fs::rename(&away, &directory).expect("it is moved back");
        assert_eq!(watched.look(), FileState::Same);
    }
}
