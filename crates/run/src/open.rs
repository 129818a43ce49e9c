//! The first step of a run: its journal, its lock, its output, and the guardian of its children.

use std::{
    fs,
    io::Read,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use longshore_core::lane::child::Children;
use longshore_sys::files;
use tokio::sync::mpsc;

use crate::{
    error::{RunError, RunErrorKind},
    event::Listener,
    intake::Window,
    journal::{Durability, Index, JobLock, Journal, JournalError, OpenJob, PruneRules, StateDir, format},
    output::{Around, Emit, Hooks, Output, OutputError},
    plan::Plan,
    spool::{Spool, Wanted},
    watch::Why,
};

/// Time for which finished jobs are kept.
pub(crate) const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Surroundings of a run beside its plan: who hears of it, and a terminal that has to be shared.
#[derive(Default)]
#[non_exhaustive]
pub struct Surroundings {
    /// Hears every event.
    pub listener: Option<Listener>,
    /// Gets the standard error of commands whose standard output is shown raw, or while they run.
    pub stderr: Option<Arc<dyn Fn(&mut dyn Read) + Send + Sync>>,
    /// Makes room on the terminal that results go to, calls its argument, and draws again what was
    /// there.
    pub around: Option<Around>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// A run whose files are open.
pub(crate) struct Opened {
    pub(crate) plan: Plan,
    /// The job's id.
    pub(crate) id: String,
    pub(crate) before: Option<Before>,
    pub(crate) lock: Option<JobLock>,
    pub(crate) index: Arc<Index>,
    pub(crate) journaled: bool,
    pub(crate) spool: Arc<Spool>,
    pub(crate) wanted: Wanted,
    pub(crate) window: Option<Arc<Window>>,
    pub(crate) children: Children,
}

/// Files that a run writes to.
pub(crate) struct Files {
    pub(crate) journal: Arc<Journal>,
    pub(crate) output: Output,
}

/// State of a job as earlier sittings left it.
pub(crate) struct Before {
    /// The last sitting said that nothing is left.
    pub(crate) complete: bool,
    /// Extent to which the input was read.
    pub(crate) read: format::ReadUpTo,
    pub(crate) resumed: bool,
    pub(crate) sitting: u32,
    pub(crate) name: Option<String>,
    /// The time that earlier sittings took.
    pub(crate) spent: Duration,
    /// The journal, and its length before this sitting: what failed earlier is in there.
    pub(crate) errors: (PathBuf, u64),
}

/// Reasons to stop, on their way to the loop that watches.
pub(crate) type Reasons = mpsc::UnboundedSender<Why>;

impl Opened {
    /// Takes the job, and opens all that the run writes to.
    pub(crate) fn open(plan: Plan, around: &mut Surroundings, tell: &Reasons) -> Result<(Self, Files), RunError> {
        // Before there is a job: what cannot run for any record is a mistake in what was asked.
        if let Some(why) = plan.what.missing() {
            return Err(RunError::new(RunErrorKind::Usage, why));
        }
        let (mut job, id) = take_job(&plan)?;
        let raw = plan.output.emit == Emit::Raw;
        let shown = plan.output.open.is_some();
        let saved = plan.spec.output.save.is_some();
        let wanted = Wanted { stdout: raw || saved, stderr: raw && shown || saved };
        let spool = Arc::new(Spool::new(job.as_ref().map(|job| job.spool.clone()), wanted, unwritable(tell)));
        let window = plan.output.ordered_from.map(|first| Arc::new(Window::new(plan.spec.output.order_window, first)));
        // The output and the journal need each other, so one of them gets the other later.
        let taken_by = Arc::new(OnceLock::<Weak<Journal>>::new());
        let mut hooks = hooks(tell, &spool, window.clone(), taken_by.clone());
        (hooks.around, hooks.stderr) = (around.around.take(), around.stderr.clone());
        let fresh = plan.spec.journal.begin == crate::journal::Begin::Fresh;
        let output = match Output::open(&plan.output, job.as_mut(), fresh, hooks) {
            Ok(output) => output,
            Err(error) => {
                // A job that has only just begun never was: the next --resume is not about it.
                if let Some(job) = job.take().filter(|job| !job.resumed) {
                    job.discard();
                }
                return Err(error.into());
            }
        };
        let children = children(&plan, job.as_ref())?;
        let (index, before, lock, file) = match job {
            None => (Arc::new(Index::default()), None, None, None),
            Some(job) => {
                let before = Before::of(&job);
                (job.index, Some(before), Some(job.lock), Some(job.journal))
            }
        };
        let journaled = file.is_some();
        let failed = unwritable(tell);
        let failed = move |error: &JournalError| failed(error.to_string());
        let journal = Journal::start(&id, file, plan.spec.journal.durability, Some(output.feed()), failed)
            .map_err(|error| RunError::new(RunErrorKind::Unwritable, format!("no thread for the journal: {error}")))?;
        let journal = Arc::new(journal);
        let _ = taken_by.set(Arc::downgrade(&journal));
        let files = Files { journal, output };
        Ok((Self { plan, id, before, lock, index, journaled, spool, wanted, window, children }, files))
    }

    /// Returns the job's name, or its id when it has none.
    pub(crate) fn name(&self) -> String {
        self.before.as_ref().and_then(|before| before.name.clone()).unwrap_or_else(|| self.id.clone())
    }
}

impl Before {
    fn of(job: &OpenJob) -> Self {
        Self {
            resumed: job.resumed,
            sitting: job.sitting,
            name: job.header.name.clone(),
            spent: job.spent,
            complete: job.end.as_ref().is_some_and(|end| end.complete),
            read: job.read,
            errors: (job.journal.path().to_owned(), job.journal.len()),
        }
    }
}

/// Takes the job: its journal and its lock. Without a journal it has an id alone.
fn take_job(plan: &Plan) -> Result<(Option<OpenJob>, String), RunError> {
    let spec = &plan.spec.journal;
    if spec.durability == Durability::Off {
        let needs = spec.name.is_some() || matches!(spec.begin, crate::journal::Begin::Resume(_) | crate::journal::Begin::RetryFailed(_));
        if needs {
            let message = "--name, --resume and --retry-failed need the journal; leave --durable off out";
            return Err(RunError::new(RunErrorKind::Usage, message));
        }
        return Ok((None, format!("{:04x}", fastrand::u16(..))));
    }
    let state = StateDir::open(spec.state_dir.as_deref())?;
    let job = state.begin(&plan.job, &spec.begin)?;
    // Old journals go quietly; a journal that cannot be removed is no reason not to run.
    let _ = state.prune(&PruneRules { older_than: Some(KEEP), ..PruneRules::default() });
    let id = job.header.job.clone();
    Ok((Some(job), id))
}

fn children(plan: &Plan, job: Option<&OpenJob>) -> Result<Children, RunError> {
    let broken = |error: &std::io::Error| {
        let message = format!("no guardian for the children: {}", files::cause(error));
        let kind = if files::is_full(error) { RunErrorKind::Unwritable } else { RunErrorKind::System };
        RunError::new(kind, message)
    };
    if plan.what.has_children() {
        // The guardian holds the job's lock until it has ended what a dead run left.
        let keep: Vec<_> = job.iter().map(|job| job.lock.as_fd()).collect();
        return longshore_core::children(&keep).map_err(|error| broken(&error));
    }
    Children::new().map_err(|error| RunError::new(RunErrorKind::System, error.to_string()))
}

/// Returns what tells the loop that the journal or an output cannot be written.
pub(crate) fn unwritable(tell: &Reasons) -> Box<dyn Fn(String) + Send + Sync> {
    let tell = tell.clone();
    Box::new(move |why| {
        let _ = tell.send(Why::Unwritable(why));
    })
}

fn hooks(tell: &Reasons, spool: &Arc<Spool>, window: Option<Arc<Window>>, journal: Arc<OnceLock<Weak<Journal>>>) -> Hooks {
    let (tell, spool) = (tell.clone(), spool.clone());
    Hooks {
        taken: Box::new(move |taken| {
            let path = spool.path(&taken.taken);
            let remove = move |written: Result<_, _>| drop(written.is_ok().then(|| fs::remove_file(&path)));
            if let Some(journal) = journal.get().and_then(Weak::upgrade) {
                journal.taken(taken, Box::new(remove));
            }
        }),
        failed: Box::new(move |error| {
            let _ = tell.send(match error {
                OutputError::ReaderGone => Why::ReaderGone,
                other => Why::Unwritable(other.to_string()),
            });
        }),
        advanced: Box::new(move |lowest| {
            if let Some(window) = &window {
                window.advance(lowest);
            }
        }),
        around: None,
        stderr: None,
    }
}
