//! Bytes that result lines have left beside the journal: found again, wherever they have gone
//! meanwhile.
//!
//! With `-k` a file that holds such bytes is not cut when the job is resumed, since it may be the
//! only place that has them: it is set aside under a name with its inode until the new one has
//! everything.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::journal::{
    OpenJob,
    format::{OutputPlace, Spooled, TakenOver},
};

/// Places where spooled bytes of a job may be.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The folder beside the journal.
    pub(crate) dir: PathBuf,
    taken: HashMap<String, TakenOver>,
    output: PathBuf,
    job: String,
    tag: bool,
}

/// Spooled bytes.
pub(crate) struct Found {
    /// They are read from here.
    pub(crate) bytes: io::Take<File>,
    /// They stand there as they are shown, tags included.
    pub(crate) shown: bool,
}

impl Places {
    /// Returns those of a job whose output is this file.
    pub(crate) fn of(job: &OpenJob, output: &Path, tag: bool) -> Self {
        Self { dir: job.spool.clone(), taken: job.taken.clone(), output: output.to_owned(), job: job.header.job.clone(), tag }
    }

    /// The bytes, if they still are anywhere.
    pub(crate) fn find(&self, spooled: &Spooled) -> Option<Found> {
        if !spooled.is_sound() {
            return None;
        }
        let file = File::open(self.dir.join(&spooled.file)).ok();
        if let Some(file) = file.filter(|file| file.metadata().is_ok_and(|meta| meta.len() == spooled.bytes)) {
            return Some(Found { bytes: file.take(spooled.bytes), shown: false });
        }
        let place = self.taken.get(&spooled.file)?.place.filter(|place| place.tag == self.tag)?;
        [self.output.clone(), aside(&self.output, &self.job, place.ino)].iter().find_map(|path| self.part(path, place))
    }

    fn part(&self, path: &Path, place: OutputPlace) -> Option<Found> {
        let mut file = File::open(path).ok()?;
        let meta = file.metadata().ok()?;
        let same = meta.dev() == place.dev && meta.ino() == place.ino && meta.len() >= place.from + place.bytes;
        file.seek(SeekFrom::Start(place.from)).ok().filter(|_| same)?;
        Some(Found { bytes: file.take(place.bytes), shown: true })
    }

    /// Sets the output aside if it has bytes that nothing else may have; whether it did.
    pub(crate) fn set_aside(&self, meta: &fs::Metadata) -> io::Result<bool> {
        let places = self.taken.values().filter_map(|taken| taken.place);
        let has_some = places.into_iter().any(|place| place.ino == meta.ino() && place.dev == meta.dev());
        if has_some {
            fs::rename(&self.output, aside(&self.output, &self.job, meta.ino()))?;
        }
        Ok(has_some)
    }
}

fn aside_prefix(output: &Path, job: &str) -> String {
    format!(".{}.{job}.", output.file_name().unwrap_or_default().to_string_lossy())
}

fn aside(output: &Path, job: &str, inode: u64) -> PathBuf {
    output.with_file_name(format!("{}{inode}.old", aside_prefix(output, job)))
}

/// Removes what was set aside, when the output has everything and the journal says so.
pub(crate) fn forget_aside(output: &Path, job: &str) {
    let Ok(output) = output.canonicalize() else { return };
    let prefix = aside_prefix(&output, job);
    for file in output.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten() {
        let name = file.file_name();
        let inode = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".old"));
        if inode.is_some_and(|inode| !inode.is_empty() && inode.bytes().all(|byte| byte.is_ascii_digit())) {
            let _ = fs::remove_file(file.path());
        }
    }
}
