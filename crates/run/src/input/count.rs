//! About how many records some files hold.

use super::Format;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Counts the line ends (or NULs) in these files, and a last line without one. `None` if any is not
/// a regular file, or cannot be read.
///
/// An estimate for progress: empty lines and lines inside quotes are counted too, and a header is.
pub fn count_records(paths: &[PathBuf], format: Format) -> Option<u64> {
    let end = if format == Format::Nul { 0 } else { b'\n' };
    paths.iter().map(|path| count(path, end).ok().flatten()).sum()
}

fn count(path: &Path, end: u8) -> io::Result<Option<u64>> {
    // Asked before opening: opening a named pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let (mut total, mut last) = (0_u64, end);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(total + u64::from(last != end))),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += buffer[..read].iter().filter(|byte| **byte == end).count() as u64;
        last = buffer[read - 1];
    }
}
