//! Jobs of `longshore run` whose journals are in a state directory: one reader, however many look.
//!
//! Nothing is read while nobody looks. A journal is read on from where the last look stopped, in
//! pieces, beside whoever asks: a long one is shown as far as it has been read. A run that runs is
//! asked through its socket.

mod reading;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use futures_util::future::join_all;
use longshore_brokers::mask_text;
use longshore_core::watch::Counts;
use longshore_run::{
    RunView, Steering,
    jobs::{JobError, JobInfo, JobState, StateDir},
    socket::{ReachError, Reached},
};
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};

use self::reading::Readings;
use crate::{error::WebError, progress::Progress};

/// Time for which a list serves all who look; longer where it takes long to make.
const FRESH: Duration = Duration::from_secs(1);
/// The same for one job.
const JOB_FRESH: Duration = Duration::from_millis(500);
/// Time for a run to say what it looks like.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most jobs that are listed, the latest first.
const MOST_LISTED: usize = 500;
/// Most jobs of which is known what each looked like at the last look.
const MOST_SEEN: usize = 16;
/// Most downloads at once.
const MOST_DOWNLOADS: usize = 4;

/// Reader of a state directory.
pub(crate) struct Jobs {
    pub(crate) state: StateDir,
    list: tokio::sync::Mutex<Option<(Instant, Arc<JobList>)>>,
    /// Jobs that somebody looked at, by id.
    seen: Mutex<HashMap<String, (Instant, Arc<JobSeen>)>>,
    /// Journals of jobs in the list whose end says nothing.
    counted: Readings,
    /// Journals of jobs that somebody looks at.
    told: Readings,
    pub(crate) downloads: Arc<Semaphore>,
}

/// The latest jobs.
#[derive(Debug, Serialize)]
pub(crate) struct JobList {
    pub(crate) jobs: Vec<JobGlance>,
    /// Number of older ones.
    pub(crate) more: usize,
}

/// A job as a list shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JobGlance {
    pub(crate) job: String,
    pub(crate) name: Option<String>,
    /// `running`, `paused` or `stopping`; `finished`; `stopped`: something is left to do, and
    /// nobody does it; `broken`.
    pub(crate) state: &'static str,
    /// The process that runs it.
    pub(crate) pid: Option<u32>,
    /// The program, without secrets.
    pub(crate) what: String,
    pub(crate) started: String,
    pub(crate) changed: String,
    /// The exit code of its last run, if that ended in order.
    pub(crate) exit: Option<u8>,
    /// Absent while its journal is still being read.
    pub(crate) done: Option<u64>,
    pub(crate) ok: Option<u64>,
    pub(crate) failed: Option<u64>,
    /// Tasks that there will be, where that is known.
    pub(crate) total: Option<u64>,
    pub(crate) rate_per_s: Option<f64>,
    /// Seconds that are left.
    pub(crate) eta: Option<f64>,
    /// The reason why its journal cannot be read.
    pub(crate) broken: Option<String>,
}

/// A job as its page shows it.
#[derive(Debug, Serialize)]
pub(crate) struct JobSeen {
    #[serde(flatten)]
    pub(crate) glance: JobGlance,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) sittings: u32,
    /// Tasks that run, or ran when their run died.
    pub(crate) in_flight: u64,
    /// Share of the journal that has been read.
    pub(crate) read: f64,
    /// Its numbers, what runs, and how it went.
    pub(crate) run: Progress,
}

impl JobGlance {
    fn of(info: &JobInfo) -> Self {
        let runs = matches!(info.state, JobState::Running(_)) && info.alive;
        let ended = info.end.as_ref().filter(|_| !runs);
        let counts = ended.map(|end| end.counts);
        let state = match info.state {
            _ if info.broken.is_some() => "broken",
            JobState::Running(_) if runs => "running",
            JobState::Finished => "finished",
            // A run that has died, and whose guardian ends what it left, does not run.
            JobState::Running(_) | JobState::Unfinished => "stopped",
        };
        let glance = Self {
            job: info.header.job.clone(),
            name: info.header.name.clone(),
            state,
            pid: if let JobState::Running(pid @ 1..) = info.state { Some(pid).filter(|_| runs) } else { None },
            // Older versions wrote it with secrets.
            what: mask_text(&info.header.what),
            started: info.header.started.clone(),
            changed: jiff::Timestamp::try_from(info.changed).map_or_else(|_| String::new(), |at| format!("{at:.3}")),
            exit: ended.map(|end| end.exit),
            done: None,
            ok: None,
            failed: None,
            total: ended.map(|end| end.counts.finished() + end.unfinished),
            rate_per_s: None,
            eta: None,
            broken: info.broken.as_ref().map(ToString::to_string),
        };
        match counts {
            Some(counts) => glance.counted(&counts),
            None => glance,
        }
    }

    fn counted(mut self, counts: &Counts) -> Self {
        (self.done, self.ok, self.failed) = (Some(counts.finished()), Some(counts.ok), Some(counts.failures()));
        self
    }

    /// Adds what the run itself says.
    fn running(self, view: &RunView) -> Self {
        Self {
            state: view.state.as_str(),
            total: view.total,
            rate_per_s: Some(view.rate_per_s),
            eta: view.eta.map(|eta| eta.as_secs_f64()),
            ..self.counted(&view.counts)
        }
    }

    /// Returns whether a process runs it.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, "running" | "paused" | "stopping")
    }
}

impl Jobs {
    /// Reads this directory when somebody looks.
    pub(crate) fn new(state: StateDir) -> Arc<Self> {
        Arc::new(Self {
            state,
            list: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            counted: Readings::new(MOST_LISTED, longshore_run::jobs::JobDigest::without_story),
            told: Readings::new(MOST_SEEN, longshore_run::jobs::JobDigest::new),
            downloads: Arc::new(Semaphore::new(MOST_DOWNLOADS)),
        })
    }

    /// Returns the latest jobs.
    pub(crate) async fn list(&self) -> Result<Arc<JobList>, WebError> {
        let mut last = self.list.lock().await;
        if let Some((until, list)) = &*last
            && Instant::now() < *until
        {
            return Ok(list.clone());
        }
        let began = Instant::now();
        let state = self.state.clone();
        let mut infos = in_background(move || state.list()).await??;
        let more = infos.len().saturating_sub(MOST_LISTED);
        infos.truncate(MOST_LISTED);
        let jobs = join_all(infos.iter().map(|info| self.glance(info))).await;
        let list = Arc::new(JobList { jobs, more });
        // Looking holds up whoever begins a job for a moment: many jobs are looked for more rarely.
        let fresh = FRESH.max(began.elapsed() * 10);
        *last = Some((Instant::now() + fresh, list.clone()));
        Ok(list)
    }

    async fn glance(&self, info: &JobInfo) -> JobGlance {
        let glance = JobGlance::of(info);
        if glance.runs()
            && let Some(view) = self.view(&glance.job).await
        {
            return glance.running(&view);
        }
        if glance.done.is_some() || glance.broken.is_some() {
            return glance;
        }
        // It was killed, or cannot be reached.
        match self.counted.look(info, Duration::ZERO).await {
            Ok((digest, true)) => Self::with_total(glance, digest.total()).counted(&digest.counts()),
            Ok((_, false)) => glance,
            Err(error) => JobGlance { state: "broken", broken: Some(error.to_string()), ..glance },
        }
    }

    fn with_total(glance: JobGlance, total: Option<u64>) -> JobGlance {
        JobGlance { total: glance.total.or(total), ..glance }
    }

    /// Asks a run that runs; `None`, where it does not answer.
    async fn view(&self, job: &str) -> Option<RunView> {
        let asked = async { Reached::open(&self.state, job).await.ok()?.view().await.ok()? };
        timeout(PATIENCE, asked).await.ok()?
    }

    /// Returns a job, by its id or name, and where it stands.
    pub(crate) async fn find(&self, job: &str) -> Result<JobInfo, WebError> {
        let (state, job) = (self.state.clone(), job.to_owned());
        Ok(in_background(move || state.find(&job)).await??)
    }

    /// Returns what a job looks like: now, or a moment ago.
    pub(crate) async fn look(&self, job: &str, hide_args: bool) -> Result<Arc<JobSeen>, WebError> {
        if let Some((at, seen)) = self.seen().get(job)
            && at.elapsed() < JOB_FRESH
        {
            return Ok(seen.clone());
        }
        let info = self.find(job).await?;
        let glance = JobGlance::of(&info);
        let view = if glance.runs() { self.view(&glance.job).await } else { None };
        let (digest, _) = self.told.look(&info, reading::FIRST).await?;
        let story = digest.story();
        let (glance, view) = match view {
            Some(view) => (glance.running(&view), view),
            None => {
                let counts = info.end.as_ref().filter(|_| !glance.runs()).map_or(digest.counts(), |end| end.counts);
                let glance = Self::with_total(glance, digest.total()).counted(&counts);
                let time = |seconds| Some(Duration::from_secs_f64(seconds)).filter(|time| !time.is_zero());
                let view = RunView {
                    name: glance.name.clone().unwrap_or_else(|| glance.job.clone()),
                    job: glance.job.clone(),
                    counts,
                    total: glance.total,
                    p50: time(story.p50),
                    p99: time(story.p99),
                    ..RunView::default()
                };
                (glance, view)
            }
        };
        let seen = Arc::new(JobSeen {
            inputs: info.header.inputs.clone(),
            outputs: digest.outputs().to_vec(),
            cwd: info.header.cwd.clone(),
            sittings: digest.sittings(),
            in_flight: digest.in_flight(),
            read: digest.share(),
            run: Progress { view, story: Some(story) }.shown(hide_args),
            glance,
        });
        let mut all = self.seen();
        if all.len() >= MOST_SEEN {
            all.retain(|_, (at, _)| at.elapsed() < JOB_FRESH);
        }
        if all.len() < MOST_SEEN {
            all.insert(job.to_owned(), (Instant::now(), seen.clone()));
        }
        drop(all);
        Ok(seen)
    }

    /// Tells a run that runs something.
    pub(crate) async fn steer(&self, job: &str, steering: &[Steering]) -> Result<(), WebError> {
        let info = self.find(job).await?;
        let mut run = Reached::open(&self.state, &info.header.job).await?;
        for steering in steering {
            run.steer(steering.clone()).await?;
        }
        // What is shown next is what came of it.
        self.seen().clear();
        *self.list.lock().await = None;
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<JobSeen>)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what blocks on a thread for such work.
pub(crate) async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, WebError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| WebError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("it could not be read: {error}")))
}

impl From<JobError> for WebError {
    fn from(error: JobError) -> Self {
        let status = match &error {
            JobError::Unknown { .. } => StatusCode::NOT_FOUND,
            JobError::Broken { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ReachError> for WebError {
    fn from(error: ReachError) -> Self {
        let status = match &error {
            ReachError::NotRunning { .. } => StatusCode::CONFLICT,
            ReachError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
