//! The other side of a run's socket.

use std::{io, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{Answer, Hello, MOST_LINE, Request, SocketFolder, VERSION};
use crate::{
    journal::{JobError, StateDir},
    steer::Steering,
    view::RunView,
};

/// Longest time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReachError {
    /// Nothing runs.
    #[error("no job runs here: see `longshore jobs list`")]
    NoneRuns,
    /// Nothing of this name, id or process runs.
    #[error("no run of '{job}' runs here: see `longshore jobs list`")]
    NotRunning {
        /// The name, id or process that was asked for.
        job: String,
    },
    /// More than one runs, and none was named.
    #[error("{} runs are going on: say which of {}", jobs.len(), jobs.join(", "))]
    Several {
        /// Their ids.
        jobs: Vec<String>,
    },
    /// It does not do what was asked.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the run cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// The state directory cannot be read.
    #[error(transparent)]
    State(#[from] JobError),
}

/// A run of another process, reached through its socket.
///
/// ```no_run
/// # async fn example() -> Result<(), longshore_run::socket::ReachError> {
/// use longshore_run::{Steering, jobs::StateDir, socket::Reached};
///
/// let mut run = Reached::find(&StateDir::open(None)?, Some("prices")).await?;
/// run.steer(Steering::Concurrency { most: 8 }).await?;
/// println!("{} done", run.view().await?.map_or(0, |view| view.counts.finished()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reached {
    hello: Hello,
    stream: BufReader<UnixStream>,
}

impl Reached {
    /// Finds a run that runs: by its name, its id or its process; the only one when none is named.
    /// Sockets of runs that were killed are removed on the way.
    ///
    /// # Errors
    /// None runs, or more than one could be meant, or it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn find(state: &StateDir, job: Option<&str>) -> Result<Self, ReachError> {
        let folder = SocketFolder::open(state.path())?;
        let mut found = Vec::new();
        for id in folder.jobs() {
            let Ok(reached) = Self::connect(&folder, &id).await else { continue };
            let Hello { job: id, name, pid, .. } = &reached.hello;
            if job.is_none_or(|job| job == id || job == name || job.parse() == Ok(*pid)) {
                found.push(reached);
            }
        }
        // Where a name is another's id the name counts, as everywhere.
        if let Some(job) = job
            && found.len() > 1
        {
            found.retain(|reached| reached.hello.name == job);
        }
        match found.len() {
            0 | 1 => found.pop().ok_or_else(|| match job {
                Some(job) => ReachError::NotRunning { job: job.to_owned() },
                None => ReachError::NoneRuns,
            }),
            _ => Err(ReachError::Several { jobs: found.into_iter().map(|reached| reached.hello.job).collect() }),
        }
    }

    /// Reaches the run of a job by its id.
    ///
    /// # Errors
    /// It does not run, or cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn open(state: &StateDir, job: &str) -> Result<Self, ReachError> {
        let folder = SocketFolder::open(state.path())?;
        // A job whose run ends has no socket any more, and one that was killed has a dead one.
        let is_gone = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        Self::connect(&folder, job).await.map_err(|error| match error {
            ReachError::Io(error) if is_gone(&error) => ReachError::NotRunning { job: job.to_owned() },
            other => other,
        })
    }

    async fn connect(folder: &SocketFolder, job: &str) -> Result<Self, ReachError> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream = timeout(PATIENCE, folder.connect(job)).await.map_err(late)??;
        let mut stream = BufReader::new(stream);
        let hello: Option<Hello> = timeout(PATIENCE, read(&mut stream)).await.map_err(late)??;
        let hello = hello.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if hello.longshore > VERSION {
            return Err(ReachError::Refused(format!("job {} is run by a newer longshore, which speaks otherwise", hello.job)));
        }
        Ok(Self { hello, stream })
    }

    /// Returns who it is.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Tells it to do something.
    ///
    /// # Errors
    /// It refuses, or the connection broke.
    ///
    /// # Cancel safety
    /// Whether it was told is unknown when the future is dropped.
    pub async fn steer(&mut self, steering: Steering) -> Result<(), ReachError> {
        self.ask(&Request::Steer(steering)).await?;
        self.answer(Some(PATIENCE)).await.map(drop)
    }

    /// Asks what it looks like now, with what runs; `None` when it is over.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// The next answer is of this question when the future is dropped, so connect anew.
    pub async fn view(&mut self) -> Result<Option<RunView>, ReachError> {
        self.ask(&Request::View).await?;
        self.answer(Some(PATIENCE)).await
    }

    /// Asks for a view at each change, which [`next`](Self::next) then waits for.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// Whether it was asked is unknown when the future is dropped.
    pub async fn watch(&mut self) -> Result<(), ReachError> {
        self.ask(&Request::Watch).await
    }

    /// Waits for the next view; `None` when the run is over.
    ///
    /// # Errors
    /// The connection broke: the run was killed.
    ///
    /// # Cancel safety
    /// A view may be lost in part when the future is dropped, so connect anew.
    pub async fn next(&mut self) -> Result<Option<RunView>, ReachError> {
        self.answer(None).await
    }

    async fn ask(&mut self, request: &Request) -> Result<(), ReachError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        let written = timeout(PATIENCE, self.stream.get_mut().write_all(&line)).await;
        Ok(written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
    }

    async fn answer(&mut self, patience: Option<Duration>) -> Result<Option<RunView>, ReachError> {
        let answer = match patience {
            None => read(&mut self.stream).await?,
            Some(patience) => {
                let read = timeout(patience, read(&mut self.stream)).await;
                read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            }
        };
        match answer {
            Some(Answer::View(view)) => Ok(Some(*view)),
            Some(Answer::Done | Answer::Over) => Ok(None),
            Some(Answer::Refused(why)) => Err(ReachError::Refused(why)),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word").into()),
        }
    }
}

/// Reads one line; `None` at the end.
async fn read<T: DeserializeOwned>(from: &mut BufReader<UnixStream>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MOST_LINE).read_until(b'\n', &mut line).await?;
    if !line.ends_with(b"\n") {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
