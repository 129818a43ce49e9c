//! Output files as projections of the journal: whose a file is, and how it is brought in line when
//! a job is resumed.
//!
//! An existing file is the job's own when it is empty, or the journal names its path with the
//! device and inode that it has, or its first line is a result line with the job's id (so that a
//! file that was copied and brought back is known too). Inodes are written to the journal before a
//! file appears under its name, so that a crash in between leaves no file that nobody knows.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use longshore_sys::files::{self, Own};

use super::{
    render::{Pushed, Render},
    spooled::Places,
};
use crate::journal::{
    Index, JobError, OpenJob,
    error::JournalError,
    file::Lines,
    format::{Head, Line, OutputFile, OutputPlace, TakenOver, parse},
};

/// An open output file, and where it stands.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// It is a file on disk, and not a device or a pipe.
    pub(crate) regular: bool,
    /// Results that the journal has without the bytes that the file is to show.
    pub(crate) missing: u64,
}

/// Content that a file must have when the run begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Everything that the journal has.
    Journal,
    /// Nothing: the run writes all of it in its order.
    Nothing,
}

/// Opens an output file, and brings it in line with the journal if the job is resumed.
pub(crate) fn open(path: &Path, render: &Render, content: Content, mut job: Option<&mut OpenJob>, fresh: bool) -> Result<Opened, JobError> {
    let fail = |what: &'static str| move |error: io::Error| JobError::io(path, what, &error);
    let existing = match path.metadata() {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail("cannot open")(error)),
    };
    // A pipe or a device cannot be compared with the journal, so it takes only what is new.
    if existing.as_ref().is_some_and(|meta| !meta.is_file()) {
        let file = files::output(path, files::Output::AppendExisting).map_err(fail("cannot write"))?;
        return Ok(Opened { file, path: path.to_owned(), regular: false, missing: 0 });
    }
    let path = &absolute(path).map_err(fail("cannot open"))?;
    let mut known = job.as_ref().is_some_and(|job| existing.as_ref().is_some_and(|meta| is_known(path, meta, job)));
    // A file that is not ours is somebody's work, and is not overwritten without --fresh.
    if let Some(meta) = &existing
        && !fresh
        && meta.len() > 0
        && !known
        && !job.as_ref().is_some_and(|job| begins_with_job(path, &job.header.job))
    {
        return Err(JobError::ForeignOutput { path: path.clone() });
    }
    let resumed = job.as_deref_mut().filter(|job| job.resumed && content == Content::Journal);
    let Some(resumed) = resumed else {
        // It may be the only place that still has bytes which are to be written again.
        if let (Some(job), Some(meta)) = (job.as_ref().filter(|job| job.resumed && known), &existing) {
            let aside = Places::of(job, path, render.tag).set_aside(meta).map_err(fail("cannot set it aside"))?;
            known &= !aside;
        }
        let file = files::output(path, files::Output::Replace).map_err(fail("cannot write"))?;
        // The journal knows a file by its inode: the next sitting must see that it is ours.
        if let Some(job) = job
            && !known
        {
            job.journal.append(&identify(path, &file).map_err(fail("cannot read"))?, &[])?;
        }
        return Ok(Opened { file, path: path.clone(), regular: true, missing: 0 });
    };
    // The lines are the journal's own, so only those that lack are added; a large file need not be
    // copied.
    if render.is_plain() && !resumed.retried && existing.is_some() {
        let mut file = files::own(path, Own::Append).map_err(fail("cannot write"))?;
        if complete(path, &mut file, resumed).map_err(fail("cannot bring it in line with the journal"))? {
            if !known {
                resumed.journal.append(&identify(path, &file).map_err(fail("cannot read"))?, &[])?;
            }
            return Ok(Opened { file, path: path.clone(), regular: true, missing: 0 });
        }
    }
    write_anew(path, render, resumed).map_err(|error| match error {
        Anew::Journal(error) => JobError::Journal(error),
        Anew::File(error) => fail("cannot write it anew")(error),
    })
}

/// Adds the lines that a file lacks, and cuts its torn tail. False, with the file as it was, if it
/// has lines that it must not have.
///
/// It can: the output is synced by nobody, so after a power cut it may have kept what the journal
/// has lost, and those tasks run again.
fn complete(path: &Path, file: &mut File, job: &OpenJob) -> io::Result<bool> {
    let mut seen = HashSet::new();
    let mut lines = Lines::of(File::open(path)?, 0)?;
    let mut whole = 0;
    while let Some((at, line)) = lines.next()? {
        let Ok(Line::Result(head)) = parse(line) else { return Ok(false) };
        let finished = matches!(job.index.state_of(head.key, head.nth), crate::journal::TaskState::Finished { .. });
        if head.job != job.header.job || !finished || !seen.insert((head.key, head.nth)) {
            return Ok(false);
        }
        whole = at + line.len() as u64;
    }
    if file.metadata()?.len() > whole {
        file.set_len(whole)?;
    }
    let mut out = io::BufWriter::with_capacity(1 << 18, file);
    each_current(job.journal.path(), job.journal.len(), &job.index, |_, head, line| {
        if seen.contains(&(head.key, head.nth)) { Ok(()) } else { out.write_all(line) }
    })?;
    out.flush()?;
    Ok(true)
}

enum Anew {
    Journal(JournalError),
    File(io::Error),
}

impl From<io::Error> for Anew {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// Writes a file from the journal alone, beside the old one, and puts it in its place.
fn write_anew(path: &Path, render: &Render, job: &mut OpenJob) -> Result<Opened, Anew> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.new", job.header.job));
    let mut missing = 0;
    let places = Places::of(job, path, render.tag);
    let mut taken = Vec::new();
    let mut write = || -> Result<File, Anew> {
        // A sitting that was killed here may have left one.
        let _ = std::fs::remove_file(&beside);
        let old = path.metadata().ok();
        // Its content may be secret: nobody else may read it before it has the old one's
        // permissions.
        let file = files::own_with_mode(&beside, Own::New, if old.is_some() { 0o600 } else { 0o666 })?;
        if let Some(old) = old {
            file.set_permissions(old.permissions())?;
        }
        let mut out = io::BufWriter::with_capacity(1 << 18, &file);
        let (mut shown, mut chunk, mut at) = (Vec::new(), vec![0; 1 << 16], 0);
        let id = identify(path, &file)?;
        each_current(job.journal.path(), job.journal.len(), &job.index, |_, head, line| {
            shown.clear();
            let pushed = render.push_stored(&mut shown, line, head.outcome);
            let found = match pushed {
                Pushed::Part(spooled, text) => places.find(&spooled).map(|found| (spooled, text, found)),
                Pushed::Whole => return write_counted(&mut out, &shown, &mut at),
                Pushed::Lacking => None,
            };
            write_counted(&mut out, &shown, &mut at)?;
            // The bytes are nowhere any more: the place stays empty, and the report counts it.
            let Some((spooled, mut text, mut found)) = found else {
                missing += 1;
                return Ok(());
            };
            let from = at;
            // A piece at a time, because the output of one task can be larger than the memory.
            loop {
                let read = found.bytes.read(&mut chunk)?;
                shown.clear();
                match read {
                    0 if !found.shown => text.end(&mut shown),
                    _ if found.shown => shown.extend_from_slice(&chunk[..read]),
                    _ => text.push(&mut shown, &chunk[..read]),
                }
                write_counted(&mut out, &shown, &mut at)?;
                if read == 0 {
                    break;
                }
            }
            let place = OutputPlace { dev: id.dev, ino: id.ino, from, bytes: at - from, tag: render.tag };
            taken.push(TakenOver { taken: spooled.file, place: Some(place) });
            Ok(())
        })?;
        out.flush()?;
        drop(out);
        // First the bytes, then the line that says where they are, then the name. A kill between
        // two of these leaves the old file, or the new one whole and known.
        file.sync_data()?;
        job.journal.append(&id, &taken).map_err(Anew::Journal)?;
        std::fs::rename(&beside, path)?;
        Ok(file)
    };
    let file = write().inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })?;
    for TakenOver { taken: name, .. } in &taken {
        // It may be long gone.
        let _ = std::fs::remove_file(places.dir.join(name));
    }
    job.taken.extend(taken.into_iter().map(|taken| (taken.taken.clone(), taken)));
    Ok(Opened { file, path: path.to_owned(), regular: true, missing })
}

fn write_counted(out: &mut impl Write, bytes: &[u8], count: &mut u64) -> io::Result<()> {
    *count += bytes.len() as u64;
    out.write_all(bytes)
}

/// Calls `each` with every result line that counts, among the first `len` bytes of a journal.
pub(crate) fn each_current(
    journal: &Path,
    len: u64,
    index: &Index,
    mut each: impl FnMut(u64, &Head<'_>, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut lines = Lines::open(journal, 0)?;
    while let Some((at, line)) = lines.next()? {
        if at >= len {
            break;
        }
        // The journal was read whole when it was opened, so that a line that is none of these was
        // none then.
        if line.starts_with(b"{\"job\"")
            && let Ok(Line::Result(head)) = parse(line)
            && index.is_current(head.key, head.nth, at)
        {
            each(at, &head, line)?;
        }
    }
    Ok(())
}

fn is_known(path: &Path, meta: &std::fs::Metadata, job: &OpenJob) -> bool {
    let path = path.to_string_lossy();
    job.outputs.iter().any(|known| known.output == path && known.dev == meta.dev() && known.ino == meta.ino())
}

fn begins_with_job(path: &Path, job: &str) -> bool {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| BufReader::new(io::Read::take(file, 32 << 20)).read_until(b'\n', &mut first));
    // The line may be torn, but it begins with the id.
    read.is_ok() && first.starts_with(format!("{{\"job\":\"{job}\",").as_bytes())
}

fn identify(path: &Path, file: &File) -> io::Result<OutputFile> {
    let meta = file.metadata()?;
    Ok(OutputFile { output: path.to_string_lossy().into_owned(), dev: meta.dev(), ino: meta.ino() })
}

/// The path without links, so that a file put in its place does not replace a link.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or(error)?;
            Ok(folder.canonicalize()?.join(name))
        }
        other => other,
    }
}
