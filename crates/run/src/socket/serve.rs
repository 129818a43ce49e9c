//! The run's side of its socket.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{Answer, Hello, MOST_LINE, Request, SocketFolder, UNNAMED, VERSION, is_ours};
use crate::steer::RunHandle;

/// Most connections at once; others wait for one of them to end.
const MOST: usize = 16;
/// Longest time for which a reader may take nothing.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for which a connection may ask nothing.
const IDLE: Duration = Duration::from_secs(60);
/// Shortest time between two views of a reader that watches.
const BETWEEN: Duration = Duration::from_millis(100);
/// Most running tasks that a view names.
const MOST_RUNNING: usize = 100;
/// Longest time for which a run that is over waits for readers to hear so.
const FAREWELL: Duration = Duration::from_millis(200);

/// A socket that is served, until this is closed or dropped.
pub(crate) struct Served {
    address: PathBuf,
    _folder: Arc<SocketFolder>,
    task: JoinHandle<()>,
}

impl Served {
    /// Serves a run's socket in this folder, on the current runtime.
    ///
    /// # Errors
    /// The folder or the socket cannot be used.
    pub(crate) async fn start(folder: PathBuf, handle: RunHandle) -> io::Result<Self> {
        let folder = Arc::new(SocketFolder::open(&folder)?);
        // Sockets of runs that were killed are of no use to anybody.
        for job in folder.jobs().into_iter().take(MOST_LINE as usize >> 10) {
            let _ = timeout(FAREWELL, folder.connect(&job)).await;
        }
        let view = handle.view();
        let address = folder.address(&view.job);
        // It gets its name when it listens and is its owner's alone: a socket that refuses is dead.
        // The id is ours alone, and so is what is left under it.
        let unnamed = address.with_extension(UNNAMED);
        let _ = fs::remove_file(&unnamed);
        let listener = UnixListener::bind(&unnamed)?;
        fs::set_permissions(&unnamed, Permissions::from_mode(0o600))?;
        fs::rename(&unnamed, &address)?;
        let hello = Hello { longshore: VERSION, job: view.job.clone(), name: view.name.clone(), pid: std::process::id() };
        let task = tokio::spawn(listen((listener, address.clone()), handle, hello));
        Ok(Self { address, _folder: folder, task })
    }

    /// Ends it when the run is over: readers hear so, if they listen.
    pub(crate) async fn close(mut self) {
        let _ = fs::remove_file(&self.address);
        let _ = timeout(FAREWELL, &mut self.task).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.address);
        self.task.abort();
    }
}

async fn listen((listener, address): (UnixListener, PathBuf), mut handle: RunHandle, hello: Hello) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut all = JoinSet::new();
    let steering = handle.clone();
    loop {
        let accepted = tokio::select! {
            over = async { while handle.changed().await {} } => { let () = over; break }
            Some(_) = all.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            // No descriptors are left, say. Whoever waits goes on waiting.
            tokio::time::sleep(BETWEEN).await;
            continue;
        };
        let (handle, hello) = (steering.clone(), hello.clone());
        all.spawn(async move {
            // A reader that goes away, or says what nobody understands, harms itself alone.
            let _ = serve(stream, handle, hello).await;
            drop(permit);
        });
    }
    // First its name: a socket that refuses is dead.
    let _ = fs::remove_file(&address);
    drop(listener);
    while all.join_next().await.is_some() {}
}

async fn accept(listener: &UnixListener, room: &Arc<Semaphore>) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    is_ours(&stream).is_ok_and(|ours| ours).then_some((stream, permit))
}

async fn serve(stream: UnixStream, mut handle: RunHandle, hello: Hello) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    say(&mut to, &hello).await?;
    let mut from = BufReader::new(from);
    loop {
        let line = tokio::select! {
            line = timeout(IDLE, line(&mut from)) => line.unwrap_or(Ok(None))?,
            () = async { while handle.changed().await {} } => return say(&mut to, &Answer::Over).await,
        };
        let Some(line) = line else { return Ok(()) };
        match serde_json::from_slice(&line) {
            Err(error) => say(&mut to, &Answer::Refused(format!("not understood: {error}"))).await?,
            Ok(Request::View) => say(&mut to, &look(&handle).await).await?,
            Ok(Request::Steer(steering)) => {
                handle.steer(steering);
                say(&mut to, &Answer::Done).await?;
            }
            Ok(Request::Watch) => return watch(&mut from, &mut to, handle).await,
        }
    }
}

async fn look(handle: &RunHandle) -> Answer {
    match handle.look().await {
        None => Answer::Over,
        Some(mut view) => {
            view.running.truncate(MOST_RUNNING);
            Answer::View(Box::new(view))
        }
    }
}

/// Sends a view at each change, until the run or the reader ends.
async fn watch(from: &mut BufReader<OwnedReadHalf>, to: &mut OwnedWriteHalf, mut handle: RunHandle) -> io::Result<()> {
    say(to, &look(&handle).await).await?;
    loop {
        let changed = tokio::select! {
            changed = handle.changed() => changed,
            // It says nothing any more but that it goes.
            line = line(from) => match line? {
                None => return Ok(()),
                Some(_) => continue,
            },
        };
        if !changed {
            return say(to, &Answer::Over).await;
        }
        say(to, &Answer::View(Box::new((*handle.view()).clone()))).await?;
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Reads a line; `None` at the end.
async fn line(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.take(MOST_LINE).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read as u64 == MOST_LINE => Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long")),
        Some(_) => Ok(None),
    }
}

async fn say(to: &mut OwnedWriteHalf, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    timeout(WRITE_LIMIT, to.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
