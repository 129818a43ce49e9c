//! `--pidfile FILE`: a file with our pid, gone when we are. Nothing but a pidfile is replaced or
//! removed, and no link is followed.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use longshore_sys::files::{self, Own};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::exit::Exit;
use crate::fault::Fault;

/// Its file, locked while we live.
pub(in crate::commands) struct Pidfile {
    path: PathBuf,
    file: File,
}

/// Contents of the file.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    /// Nothing yet, or no more.
    Empty,
    /// A process, which may have ended.
    Pid(u32),
    /// Something that no worker wrote.
    Other,
}

/// Most bytes that are read of a pidfile: the longest pid with its newline, and one more.
const MOST: u64 = 12;

impl Pidfile {
    /// Writes our pid to the file.
    ///
    /// # Errors
    /// 75, a worker that lives has it; 74, it cannot be written, or is something else than a
    /// pidfile.
    pub(in crate::commands) fn take(path: &Path) -> Result<Self, Fault> {
        let failed = |error: &io::Error| Fault::new(Exit::Unwritable, format!("--pidfile {}: {}", path.display(), files::cause(error)));
        loop {
            // Others may read it: that is what it is for.
            let mut file = files::own_with_mode(path, Own::WriteOrCreate, 0o644).map_err(|error| failed(&error))?;
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            let held = read(&mut file).map_err(|error| failed(&error))?;
            if held == Held::Other {
                return Err(failed(&io::Error::other("it holds something else than a pid; name another file, or remove it")));
            }
            match locked {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(taken(path, held)),
                Err(error) => return Err(failed(&error.into())),
            }
            // Whoever had it may have removed it between our opening and our locking.
            if !files::is_still(path, &file).map_err(|error| failed(&error))? {
                continue;
            }
            // Older workers hold no lock.
            if let Held::Pid(pid) = held
                && pid != std::process::id()
                && PathBuf::from(format!("/proc/{pid}")).exists()
            {
                return Err(taken(path, held));
            }
            write(&mut file).map_err(|error| failed(&error))?;
            return Ok(Self { path: path.to_owned(), file });
        }
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Somebody may have put something else in its place, or into it.
        if read(&mut self.file).is_ok_and(|held| held == Held::Pid(std::process::id())) {
            let _ = files::remove_own(&self.path, &self.file);
        }
    }
}

fn taken(path: &Path, held: Held) -> Fault {
    let who = match held {
        Held::Pid(pid) => format!("with pid {pid}"),
        _ => "that is just starting".to_owned(),
    };
    Fault::new(Exit::Busy, format!("{}: a worker {who} runs already", path.display()))
}

fn read(file: &mut File) -> io::Result<Held> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(held(&bytes))
}

fn held(bytes: &[u8]) -> Held {
    let text = str::from_utf8(bytes).unwrap_or("-");
    match text.trim_ascii_end() {
        "" => Held::Empty,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map_or(Held::Other, Held::Pid),
        _ => Held::Other,
    }
}

fn write(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_but_a_pidfile_is_replaced_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("precious"), "precious\n").unwrap();
        fs::write(at("numbers"), "1\n2\n3\n").unwrap();
        fs::write(at("long"), "12345678901234567890\n").unwrap();
        symlink("precious", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        fs::write(at("stale"), "4194305\n").unwrap();
        symlink("stale", at("link to a pidfile")).unwrap();
        for name in ["precious", "numbers", "long", "link", "dangling", "link to a pidfile"] {
            let error = Pidfile::take(&at(name)).err().expect(name);
            assert_eq!(error.exit, Exit::Unwritable, "{name}: {}", error.message);
        }
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious\n");
        assert_eq!(fs::read_to_string(at("numbers")).unwrap(), "1\n2\n3\n");
        assert_eq!(fs::read_to_string(at("stale")).unwrap(), "4194305\n");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn a_stale_or_empty_one_is_taken_and_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("stale", "4194305\n"), ("empty", ""), ("ours", &format!("{}\n", std::process::id()))] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            let pidfile = Pidfile::take(&path).map_err(|fault| fault.message).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()), "{name}");
            drop(pidfile);
            assert!(!path.exists(), "{name}");
        }
    }

    #[test]
    fn the_second_one_is_told_who_has_it_and_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let first = Pidfile::take(&path).map_err(|fault| fault.message).unwrap();
        let refused = Pidfile::take(&path).err().unwrap();
        assert_eq!(refused.exit, Exit::Busy);
        assert!(refused.message.contains(&format!("pid {}", std::process::id())), "{}", refused.message);
        drop(first);
        fs::write(&path, "1\n").unwrap();
        assert_eq!(Pidfile::take(&path).err().unwrap().exit, Exit::Busy, "process 1 lives, and holds no lock");
    }

    #[test]
    fn what_was_put_in_its_place_or_into_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::take(&path).map_err(|fault| fault.message).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
        fs::remove_file(&path).unwrap();
        let pidfile = Pidfile::take(&path).map_err(|fault| fault.message).unwrap();
        fs::write(&path, "notes").unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }
}
