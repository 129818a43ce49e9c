//! One run of a job at a time.
//!
//! The lock is an flock on `<id>.lock`, so that the kernel frees it however a run dies. It belongs
//! to the open file, not to the process: a guardian that inherited the descriptor keeps the job
//! locked until it has ended a dead run's children. The file says who took it.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use longshore_sys::files::{Own, own};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The right to run a job; given up when it is dropped, unless a process that inherited the
/// descriptor still holds it.
#[derive(Debug)]
pub(crate) struct JobLock {
    file: File,
}

/// An attempt to take a lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(JobLock),
    /// Somebody holds it.
    Held {
        /// The process that took it; 0 if the file does not say.
        pid: u32,
        /// That process still runs. If not, the dead run's guardian holds it.
        alive: bool,
    },
}

impl JobLock {
    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub(crate) fn try_take(path: &Path) -> io::Result<Taken> {
        let mut file = own(path, Own::AppendOrCreate)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let pid = std::process::id();
                file.set_len(0)?;
                writeln!(file, "{pid} {}", started_at(pid).unwrap_or_default())?;
                Ok(Taken::Ours(Self { file }))
            }
            Err(Errno::WOULDBLOCK) => {
                let (pid, alive) = taker(&mut file)?;
                Ok(Taken::Held { pid, alive })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the process that took the lock, if somebody holds it (0 if the file does not say),
    /// and whether that still runs; if not, the dead run's guardian holds it. Call it only where no
    /// lock can be taken meanwhile.
    pub(crate) fn holder(path: &Path) -> Option<(u32, bool)> {
        let mut file = own(path, Own::Read).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Some(taker(&mut file).unwrap_or((0, false))),
            _ => None,
        }
    }
}

impl AsFd for JobLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for JobLock {
    fn drop(&mut self) {
        // Who looks while a guardian still holds the lock must not take this process for the one
        // that runs the job.
        let _ = self.file.set_len(0);
    }
}

fn taker(file: &mut File) -> io::Result<(u32, bool)> {
    let mut text = String::new();
    file.rewind()?;
    file.take(64).read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let since: Option<u64> = words.next().and_then(|word| word.parse().ok());
    // A process id alone may have been given to another process since.
    let alive = pid != 0 && started_at(pid).is_some_and(|started| since.is_none_or(|since| since == 0 || since == started));
    Ok((pid, alive))
}

/// Returns the time at which a process started, in the kernel's ticks; `None` if it does not run (a
/// zombie does not).
fn started_at(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may contain anything, so the fields are counted
    // from the last one that closes.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let Taken::Ours(lock) = JobLock::try_take(&path).unwrap() else { panic!("nobody has it") };
        let ours = std::process::id();
        assert!(matches!(JobLock::try_take(&path).unwrap(), Taken::Held { pid, alive: true } if pid == ours));
        assert_eq!(JobLock::holder(&path), Some((ours, true)));
        drop(lock);
        assert_eq!(JobLock::holder(&path), None);
        assert!(matches!(JobLock::try_take(&path).unwrap(), Taken::Ours(_)));
    }

    #[test]
    fn an_inherited_descriptor_keeps_it_and_the_dead_taker_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let Taken::Ours(lock) = JobLock::try_take(&path).unwrap() else { panic!("nobody has it") };
        let guardian = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(matches!(JobLock::try_take(&path).unwrap(), Taken::Held { pid: 0, alive: false }));
        std::fs::write(&path, "4194305 77\n").unwrap();
        assert!(matches!(JobLock::try_take(&path).unwrap(), Taken::Held { pid: 4_194_305, alive: false }));
        drop(guardian);
        assert!(matches!(JobLock::try_take(&path).unwrap(), Taken::Ours(_)));
    }

    #[test]
    fn a_zombie_does_not_run_the_job() {
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        // The end of its stdout comes a moment before its own.
        child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        while started_at(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists(), "nobody has waited for it yet");
        child.wait().unwrap();
    }

    #[test]
    fn a_recycled_process_id_is_not_taken_for_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        std::fs::write(&path, format!("{} 1\n", std::process::id())).unwrap();
        let mut file = File::open(&path).unwrap();
        assert_eq!(taker(&mut file).unwrap(), (std::process::id(), false));
    }
}
