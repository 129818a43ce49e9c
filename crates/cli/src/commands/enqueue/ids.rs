//! `--ids FILE`: the ids of what was sent. A file that takes no more loses none: what is not in it
//! is told.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use longshore_sys::files::{self, Output};

/// Bytes of ids that are gathered before they are written: as much as a page or two.
const BATCH: usize = 8 << 10;

/// The open file.
pub(super) struct IdsFile {
    path: PathBuf,
    file: File,
    /// Length of the whole lines in it.
    len: u64,
    /// Lines that are not in it yet.
    lines: Vec<u8>,
    failed: Option<io::Error>,
}

impl IdsFile {
    /// Opens it, behind what stands there if the sending goes on.
    pub(super) fn open(path: &Path, goes_on: bool) -> io::Result<Self> {
        let file = files::output(path, if goes_on { Output::Append } else { Output::Replace })?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, lines: Vec::new(), failed: None })
    }

    /// Adds an id, at once or with those that follow. Returns whether the file still takes ids.
    pub(super) fn add(&mut self, id: &str, at_once: bool) -> bool {
        self.lines.extend_from_slice(id.as_bytes());
        self.lines.push(b'\n');
        if at_once || self.lines.len() >= BATCH {
            self.write();
        }
        self.failed.is_none()
    }

    /// Writes what is left. Returns what is missing, if anything is.
    pub(super) fn finish(mut self) -> Option<MissingIds> {
        self.write();
        let error = self.failed?;
        let ids = String::from_utf8_lossy(&self.lines).lines().map(str::to_owned).collect();
        Some(MissingIds { why: format!("{}: {}", self.path.display(), files::cause(&error)), ids })
    }

    fn write(&mut self) {
        if self.failed.is_some() {
            return;
        }
        match self.file.write_all(&self.lines) {
            Ok(()) => {
                self.len += self.lines.len() as u64;
                self.lines.clear();
            }
            Err(error) => {
                // No torn line; what is no file on disk cannot be cut.
                let _ = self.file.set_len(self.len);
                self.failed = Some(error);
            }
        }
    }
}

/// Ids of tasks that were sent, and are not in the file.
pub(super) struct MissingIds {
    /// The file, and what the system said.
    pub(super) why: String,
    pub(super) ids: Vec<String>,
}
