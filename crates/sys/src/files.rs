//! Opening files that are to be written, and removing them.
//!
//! Two kinds of file are written. Those of **our own** (journals, locks, a pidfile, what lies
//! beside a database) have names that we make up or that must hold nothing of anybody else: no link
//! is followed, only a regular file is taken, and a new one may be read by its owner alone.
//! **Outputs** are named by the user, who may name a link, a device or a pipe as with the shell's
//! `>`. Neither is cut before it is known to be a regular file, neither hangs on a pipe that nobody
//! reads, and none is inherited by a child.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

/// Longest wait for somebody who reads the pipe that is an output:
/// `cat pipe & longshore … -o pipe` opens both at once.
const READER_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks for that reader.
const READER_LOOK: Duration = Duration::from_millis(20);

/// A way to open a file of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Reads it.
    Read,
    /// Reads and appends; it must be there.
    Append,
    /// Reads and appends; makes it if it is not there.
    AppendOrCreate,
    /// Reads and writes at any place; makes it if it is not there.
    WriteOrCreate,
    /// Reads and appends to a new one; an error if anything has this name, a link that leads
    /// nowhere included.
    New,
}

/// Opens a file of our own: through no link, nothing but a regular file, for its owner alone when
/// it is new.
///
/// # Errors
/// The error of open(2); in words where there is a link or no regular file.
pub fn own(path: &Path, how: Own) -> io::Result<File> {
    own_with_mode(path, how, 0o600)
}

/// [`own`], with other permissions for a new file (less the umask).
///
/// # Errors
/// As for [`own`].
pub fn own_with_mode(path: &Path, how: Own, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match how {
        Own::Read => &mut options,
        Own::Append => options.append(true),
        Own::AppendOrCreate => options.append(true).create(true),
        Own::WriteOrCreate => options.write(true).create(true),
        Own::New => options.append(true).create_new(true),
    };
    let opened = options.mode(mode).custom_flags(flags(OFlags::NOFOLLOW)).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => refused("a symbolic link, which is not followed here"),
        // A pipe that nobody reads, or a socket.
        Some(Errno::NXIO) => refused("not a regular file"),
        _ => error,
    })?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens an output whose name is ours, in a directory that the user named: empty, through no link,
/// nothing but a regular file.
///
/// # Errors
/// As for [`own`].
pub fn output_in_directory(path: &Path) -> io::Result<File> {
    let file = own_with_mode(path, Own::WriteOrCreate, 0o666)?;
    file.set_len(0)?;
    Ok(file)
}

/// A way to open an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Cuts away what it holds, if it is a regular file.
    Replace,
    /// Keeps what it holds.
    Append,
    /// As `Append`, and it must be there.
    AppendExisting,
}

/// Opens an output that the user named, for appending. A pipe is waited for until somebody reads
/// it, but not for long.
///
/// # Errors
/// The error of open(2); in words where nobody reads the pipe.
pub fn output(path: &Path, how: Output) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(how != Output::AppendExisting).custom_flags(flags(OFlags::empty()));
    let begun = Instant::now();
    let file = loop {
        match options.open(path) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) && is_pipe(path) => {
                if begun.elapsed() >= READER_PATIENCE {
                    return Err(refused("a pipe that nobody reads; start its reader first"));
                }
                thread::sleep(READER_LOOK);
            }
            opened => break opened?,
        }
    };
    // Who writes is to wait for a reader that is slow.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    if how == Output::Replace && file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Writes an output whole.
///
/// # Errors
/// As for [`output`], and what write(2) says.
pub fn write_output(path: &Path, bytes: &[u8]) -> io::Result<()> {
    output(path, Output::Replace)?.write_all(bytes)
}

/// Writes an output so that its name has the old bytes or all of the new ones, whatever happens. A
/// device or a pipe is written as it is.
///
/// # Errors
/// What open(2), write(2) or rename(2) says.
pub fn replace_output(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some((path, aside)) = beside(path)? else { return write_output(path, bytes) };
    let written = write_aside(&aside, bytes).and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Returns an error if [`replace_output`] could not write there now. Leaves nothing behind.
///
/// # Errors
/// What open(2) says.
pub fn can_replace_output(path: &Path) -> io::Result<()> {
    let Some((_, aside)) = beside(path)? else { return Ok(()) };
    write_aside(&aside, b"")?;
    std::fs::remove_file(&aside)
}

fn write_aside(aside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(aside)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Returns a file's path without links, and a name beside it; nothing for what is no file.
fn beside(path: &Path) -> io::Result<Option<(std::path::PathBuf, std::path::PathBuf)>> {
    let path = match path.metadata() {
        Ok(meta) if meta.is_dir() => return Err(refused("a directory")),
        Ok(meta) if !meta.is_file() => return Ok(None),
        Ok(_) => path.canonicalize()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let name = path.file_name().ok_or_else(|| refused("no name of a file"))?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}.new", std::process::id()));
    let aside = path.with_file_name(aside);
    Ok(Some((path, aside)))
}

/// Removes a name of ours, if it is still the file that we opened. Returns whether it was.
///
/// # Errors
/// The errors of stat(2) and unlink(2).
pub fn remove_own(path: &Path, file: &File) -> io::Result<bool> {
    let ours = is_still(path, file)?;
    if ours {
        fs::remove_file(path)?;
    }
    Ok(ours)
}

/// Returns whether a name is still the file that was opened by it, and no link.
///
/// # Errors
/// The error of stat(2).
pub fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says that a file must be a regular one, if it is not.
///
/// # Errors
/// Says what it is instead.
pub fn regular(meta: &Metadata) -> io::Result<()> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => Ok(()),
        () if kind.is_dir() => Err(refused("a directory, not a regular file")),
        () if kind.is_fifo() => Err(refused("a pipe, not a regular file")),
        () if kind.is_socket() => Err(refused("a socket, not a regular file")),
        () => Err(refused("a device, not a regular file")),
    }
}

/// Makes a write beyond the largest size of a file (`ulimit -f`) fail with EFBIG from now on, which
/// can be said, instead of ending the process without a word. Children have the signal's default: a
/// handler does not survive exec, where an ignored signal would. For a program, at its start.
pub fn say_when_too_large() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, so it may interrupt anything; the structs are plain data
    // that is valid when zeroed, and live through the calls.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        // Whoever ignores it already gets the error already, and so do the children.
        if libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_DFL {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            new.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGXFSZ, &raw const new, std::ptr::null_mut());
        }
    }
}

/// The largest size of a file that this process may write (`ulimit -f`), if there is one.
pub fn size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// Lets this process open as many files as its hard limit allows, and no more than `most`. Returns
/// how many those are.
pub fn raise_open_files(most: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(now) = current else { return most };
    let wanted = maximum.map_or(most, |maximum| maximum.min(most));
    if wanted <= now || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_err() {
        return now;
    }
    wanted
}

/// Returns what the system said about a file, with advice where there is some.
pub fn cause(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::FBIG) => match size_limit() {
            Some(limit) => format!("the file would be larger than this process may write ({limit} bytes; see ulimit -f)"),
            None => "the file would be larger than its file system takes".to_owned(),
        },
        // Without the number that the standard library adds.
        _ => {
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned()
        }
    }
}

/// Returns whether an error says that no more can be written: a full disk, a quota, a limit.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn flags(more: OFlags) -> i32 {
    (OFlags::NONBLOCK | OFlags::NOCTTY | more).bits().cast_signed()
}

fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {why}"))
}

#[cfg(test)]
mod tests;
