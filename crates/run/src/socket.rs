//! A run that runs is reached by other processes of its user through a socket beside its journal.
//!
//! Both sides speak lines of JSON. The run says first who it is ([`Hello`]); then each `Request`
//! is answered by one `Answer`, but for `watch`, which is answered by a view at each change until
//! the run or the reader ends. Everything is bounded: connections, lines, and the time for which a
//! reader may take nothing, after which it is let go.
//!
//! Other users cannot reach it: the socket's mode is 0600, and each side looks at whose the other
//! is. A path that is too long for a socket's address is reached through the folder's descriptor.
//!
//! Layout: `serve.rs`: the run's side; `client.rs`: the other side

mod client;
mod serve;

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

pub use client::{ReachError, Reached};
pub(crate) use serve::Served;

use crate::{steer::Steering, view::RunView};

/// Version of the protocol.
const VERSION: u32 = 1;
/// Most bytes of a line.
const MOST_LINE: u64 = 1 << 20;
/// Ending of the names of sockets.
const ENDING: &str = "sock";
/// Ending of one that does not listen yet. One that is left is of a process that was killed there.
const UNNAMED: &str = "sock-new";

/// First line of a run, to whoever connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub longshore: u32,
    /// The job's id.
    pub job: String,
    /// Its name, or its id when it has none.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
}

/// Request to a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Asks for a view of now, with what runs.
    View,
    /// Asks for a view at each change.
    Watch,
    /// To do something.
    Steer(Steering),
}

/// Answer of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    View(Box<RunView>),
    /// It is told so.
    Done,
    /// The request is not understood.
    Refused(String),
    /// The run is over.
    Over,
}

/// The folder of sockets, held open so that its sockets have short paths.
struct SocketFolder {
    path: PathBuf,
    open: File,
}

impl SocketFolder {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), open: File::open(path)? })
    }

    /// Returns a path to a job's socket that is never too long for an address.
    fn address(&self, job: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{job}.{ENDING}", self.open.as_raw_fd()))
    }

    /// Returns the jobs that have a socket here, the live and the dead.
    fn jobs(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        let sockets = files.filter(|path| path.extension().is_some_and(|ending| ending == ENDING));
        sockets.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    }

    /// Connects to a job's socket. One that nobody listens on any more is removed.
    async fn connect(&self, job: &str) -> io::Result<UnixStream> {
        let address = self.address(job);
        let stream = match UnixStream::connect(&address).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&address);
                return Err(error);
            }
            other => other?,
        };
        // Whoever may write to the folder could have put a socket of theirs there.
        if !is_ours(&stream)? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens there"));
        }
        Ok(stream)
    }
}

/// Returns whether the other side is this user's, or root's.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    let peer = stream.peer_cred()?.uid();
    Ok(peer == 0 || peer == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_is_one_short_line_of_json() {
        for (request, want) in [
            (Request::View, r#""view""#),
            (Request::Steer(Steering::Pause), r#"{"steer":{"command":"pause"}}"#),
            (Request::Steer(Steering::Concurrency { most: 8 }), r#"{"steer":{"command":"concurrency","most":8}}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), want);
            assert!(serde_json::from_str::<Request>(want).is_ok(), "{want}");
        }
    }
}
