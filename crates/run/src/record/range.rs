//! Range: a part of a large file as a record, and the way to its bytes.

use std::{
    fmt,
    fs::{File, Metadata},
    io::{self, Cursor, Read, Seek, SeekFrom},
    sync::Arc,
    time::SystemTime,
};

use longshore_core::TaskError;
use serde_json::value::{RawValue, to_raw_value};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The fields of a range.
pub const RANGE_FIELDS: [&str; 5] = ["path", "start", "end", "len", "hash"];

/// The file that ranges are of; of a stream only the header is known.
#[derive(Clone, Debug)]
pub struct Whole {
    /// As it was named.
    pub path: Box<str>,
    /// Its length when it was opened.
    pub len: u64,
    /// Time at which it had been written to last.
    pub modified: SystemTime,
    /// The header of a table, its line end included; nothing if there is none.
    pub header: Box<[u8]>,
}

impl Whole {
    /// Returns true if it is still the same, as far as the system tells.
    pub fn is(&self, meta: &Metadata) -> bool {
        meta.len() == self.len && meta.modified().is_ok_and(|modified| modified == self.modified)
    }
}

/// Bytes of a file, from a record's start to a record's end.
#[derive(Clone, Debug)]
pub struct Range {
    /// The file.
    pub whole: Arc<Whole>,
    /// The first byte.
    pub start: u64,
    /// The byte behind the last.
    pub end: u64,
    /// The hash of its bytes.
    pub hash: u128,
    /// Its bytes, where they were read from a stream and are nowhere else.
    pub held: Option<HeldBytes>,
}

/// Bytes of a stream, which whoever copies them shares.
#[derive(Clone)]
pub struct HeldBytes(Arc<[u8]>);

impl From<Vec<u8>> for HeldBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HeldBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Range {
    /// Returns its name: an object of [`RANGE_FIELDS`].
    pub(super) fn to_json(&self) -> Box<RawValue> {
        let Self { whole, start, end, hash, .. } = self;
        let path = serde_json::Value::from(&*whole.path);
        let text = format!("{{\"path\":{path},\"start\":{start},\"end\":{end},\"len\":{},\"hash\":\"{hash:032x}\"}}", end - start);
        RawValue::from_string(text).unwrap_or_else(|_| to_raw_value(&()).unwrap_or_default())
    }

    /// Of its place in the file and of its bytes, whatever the file is called.
    pub(super) fn key(&self) -> u128 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end.to_le_bytes());
        bytes[16..].copy_from_slice(&self.hash.to_le_bytes());
        xxh3_128(&bytes)
    }

    /// That the file is the one that was cut, for those who read it themselves.
    ///
    /// # Errors
    /// Kind `changed`, or `io` if it is gone.
    pub fn check_unchanged(&self) -> Result<(), TaskError> {
        if self.held.is_some() {
            return Ok(());
        }
        let meta = std::fs::metadata(&*self.whole.path).map_err(|error| self.gone(&error))?;
        if self.whole.is(&meta) { Ok(()) } else { Err(TaskError::new("changed", self.changed())) }
    }

    /// Its bytes, behind the header of the file if that has one. Reading fails at the end if they
    /// are not those that were found when the range was cut.
    ///
    /// # Errors
    /// Kind `io` when the file cannot be opened.
    pub fn open(&self) -> Result<Box<dyn Read + Send>, TaskError> {
        if let Some(held) = &self.held {
            return Ok(Box::new(Cursor::new(self.whole.header.clone()).chain(Cursor::new(held.clone()))));
        }
        let mut file = File::open(&*self.whole.path).map_err(|error| self.gone(&error))?;
        file.seek(SeekFrom::Start(self.start)).map_err(|error| self.gone(&error))?;
        let bytes = Bytes { range: self.clone(), file, left: self.end - self.start, hash: Box::new(Xxh3::new()) };
        Ok(Box::new(Cursor::new(self.whole.header.clone()).chain(bytes)))
    }

    fn gone(&self, error: &io::Error) -> TaskError {
        TaskError::new("io", format!("{}: {error}", self.whole.path))
    }

    fn changed(&self) -> String {
        format!("{} has changed since it was cut into ranges", self.whole.path)
    }
}

/// The bytes of a range on their way.
struct Bytes {
    range: Range,
    file: File,
    left: u64,
    hash: Box<Xxh3>,
}

impl Read for Bytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read(&mut into[..most])?;
        self.hash.update(&into[..count]);
        self.left -= count as u64;
        if count == 0 && (self.left > 0 || self.hash.digest128() != self.range.hash) {
            return Err(io::Error::other(self.range.changed()));
        }
        Ok(count)
    }
}
