//! Where the pages of this machine's consumers are: a file for each in the state directory, so that
//! the page of a group links to those of its members.
//!
//! A file is believed while its process lives, and shown where the broker has a member of that
//! name.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use longshore_run::jobs::StateDir;
use serde::{Deserialize, Serialize};

/// Folder of the files.
const FOLDER: &str = "consumers";
/// Most files that are read.
const MOST: usize = 1_000;
/// Longest file, in bytes.
const LONGEST: u64 = 64 << 10;

/// Note of where a consumer's page is. It goes when this is dropped.
#[derive(Debug)]
pub struct ConsumerNote(PathBuf);

/// What a note says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Noted {
    /// Its name among clients.
    pub(super) client: String,
    pid: u32,
    page: SocketAddr,
}

impl ConsumerNote {
    /// Notes that this process serves the page of a client there. Notes of processes that died are
    /// taken away.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn write(state: &StateDir, client: &str, page: SocketAddr) -> io::Result<Self> {
        let folder = state.path().join(FOLDER);
        fs::create_dir_all(&folder)?;
        for (path, noted) in files(&folder) {
            if noted.is_none_or(|noted| !noted.lives()) {
                let _ = fs::remove_file(path);
            }
        }
        let pid = std::process::id();
        let noted = Noted { client: client.to_owned(), pid, page };
        let path = folder.join(format!("{pid}.json"));
        let unfinished = folder.join(format!("{pid}.new"));
        fs::write(&unfinished, serde_json::to_vec(&noted)?)?;
        fs::rename(&unfinished, &path)?;
        Ok(Self(path))
    }
}

impl Drop for ConsumerNote {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Noted {
    fn lives(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// Returns the page's address for a browser of this machine.
    pub(super) fn url(&self) -> String {
        let ip = match self.page.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/", SocketAddr::new(ip, self.page.port()))
    }
}

/// Reads the notes of consumers that live.
pub(super) fn read(state: &StateDir) -> Vec<Noted> {
    files(&state.path().join(FOLDER)).into_iter().filter_map(|(_, noted)| noted).filter(Noted::lives).collect()
}

/// Returns the files with what they say; nothing, where one cannot be read.
fn files(folder: &Path) -> Vec<(PathBuf, Option<Noted>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let noted = |path: &Path| {
        let is_short = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= LONGEST);
        is_short.then(|| serde_json::from_slice(&fs::read(path).ok()?).ok())?
    };
    paths.take(MOST).map(|path| (path.clone(), noted(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_while_its_consumer_lives() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(folder.path())).unwrap();
        let consumers = folder.path().join(FOLDER);
        fs::create_dir_all(&consumers).unwrap();
        // Of one that was killed, and nonsense.
        let dead = r#"{"client":"longshore-vm-0","pid":4294967295,"page":"127.0.0.1:1"}"#;
        fs::write(consumers.join("4294967295.json"), dead).unwrap();
        fs::write(consumers.join("7.json"), "{").unwrap();
        assert_eq!(read(&state), []);
        let note = ConsumerNote::write(&state, "longshore-vm-1", "0.0.0.0:7073".parse().unwrap()).unwrap();
        let noted = read(&state);
        assert_eq!(noted.len(), 1);
        assert_eq!((noted[0].client.as_str(), noted[0].url().as_str()), ("longshore-vm-1", "http://127.0.0.1:7073/"));
        assert_eq!(fs::read_dir(&consumers).unwrap().count(), 1, "what is left of the dead is taken away");
        drop(note);
        assert_eq!((read(&state), fs::read_dir(&consumers).unwrap().count()), (Vec::new(), 0));
    }
}
