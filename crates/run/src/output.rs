//! Where results go: a projection of the journal.
//!
//! The output has a thread of its own behind a queue that is bounded by bytes, so that a slow
//! reader does not stop the journal before that is full. What it writes are the journal's result
//! lines, byte for byte, unless something else is asked for.
//!
//! | module | what it holds |
//! |---|---|
//! | `live` | lines of commands that run, which are no results |
//! | `project` | whose a file is, and how it is brought in line with the journal |
//! | `render` | from a result line to what is shown of it |
//! | `sink` | one destination, and the order of the input |
//! | `spooled` | what result lines left beside the journal |
//! | `waiting` | text whose turn has not come: in memory up to 16 MiB, else in a file |
//! | [`save`] | one file a task (`--save-output`) |

#[cfg(test)]
mod crash;
mod live;
mod project;
mod render;
pub(crate) mod save;
mod sink;
mod spooled;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

pub(crate) use project::each_current;
pub(crate) use render::{dig, push_fields, tag_of};
pub(crate) use spooled::forget_aside;

use self::{
    live::LiveSink,
    project::{Content, Opened, open},
    render::Render,
    sink::{Order, Sink, Stored},
    spooled::Places,
    waiting::Waiting,
};
use crate::journal::{Feed, JobError, OpenJob, feed::Item, format::TakenOver};

/// Places by which `-k` lets the input run ahead of the lowest unwritten one, unless
/// `--order-window` says otherwise: what waits for its turn is held in memory.
pub const ORDER_WINDOW: u64 = 10_000;

/// Part of a result that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// Its result line.
    #[default]
    Jsonl,
    /// The bytes that the task wrote.
    Raw,
    /// Nothing.
    None,
}

/// Which results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Those of tasks that ended well.
    Ok,
    /// Those of tasks that failed, in whatever way.
    Failed,
}

/// Description of the output.
#[derive(Clone, Debug)]
pub(crate) struct OutputSpec {
    /// A file, which is the job's own.
    pub file: Option<PathBuf>,
    /// Without one: something that is open; nothing is shown when absent.
    pub open: Option<Arc<File>>,
    /// `--emit`.
    pub emit: Emit,
    /// `--only`.
    pub only: Option<Only>,
    /// `--fields`: paths into the result line, such as `seq` or `value.status`.
    pub fields: Vec<String>,
    /// `--tag`, for [`Emit::Raw`]: the record and a tab before each line.
    pub tag: bool,
    /// `-k`: the order of the input. The value is the first place that will come.
    pub ordered_from: Option<u64>,
    /// `--failed-out FILE`: the result lines of failed tasks go there, too.
    pub failed_out: Option<PathBuf>,
    /// `--line-buffer`: what commands write to stdout goes there while they run.
    pub live: Option<Arc<File>>,
}

impl Default for OutputSpec {
    /// Result lines as they come, to nowhere.
    fn default() -> Self {
        Self {
            file: None,
            open: None,
            emit: Emit::Jsonl,
            only: None,
            fields: Vec::new(),
            tag: false,
            ordered_from: None,
            failed_out: None,
            live: None,
        }
    }
}

/// The output cannot be written. Final for the run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum OutputError {
    /// Nobody reads stdout any more.
    ReaderGone,
    /// The system refused.
    Write {
        /// The file; stdout when absent.
        path: Option<PathBuf>,
        /// Bytes left on its file system, if that could be found out.
        free: Option<u64>,
        /// The system's error.
        cause: String,
    },
    /// The reader did not take what was left in the time that [`Output::finish`] was given.
    Stalled,
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReaderGone => f.write_str("output: its reader has gone"),
            Self::Stalled => f.write_str("output: its reader takes nothing more; what is left was not written"),
            Self::Write { path, free, cause } => {
                let path = path.as_deref().unwrap_or(Path::new("stdout"));
                write!(f, "output {}: {cause}", path.display())?;
                free.map_or(Ok(()), |free| write!(f, " ({free} bytes free)"))
            }
        }
    }
}

impl std::error::Error for OutputError {}

/// Functions that are called from the output's thread; all must be quick.
pub(crate) struct Hooks {
    /// The output has failed; called once, even while nothing waits for it.
    pub failed: Box<dyn FnOnce(&OutputError) + Send>,
    /// With `-k`: the lowest unwritten place has moved, so that more of the input may be taken in.
    pub advanced: Box<dyn Fn(u64) + Send>,
    /// It has what was spooled, for good.
    pub taken: TakenHook,
    /// Makes room on the terminal that is open, calls its argument, and draws again what was there.
    pub around: Option<Around>,
    /// With lines of running commands: gets those that they write to stderr.
    pub stderr: Option<StderrHook>,
}

/// Gets what commands write to their standard error.
pub(crate) type StderrHook = Arc<dyn Fn(&mut dyn Read) + Send + Sync>;

/// Is told what the output has of that which was spooled.
pub(crate) type TakenHook = Box<dyn Fn(TakenOver) + Send>;

/// Calls a function at a moment when it may write to the terminal.
pub(crate) type Around = Box<dyn Fn(&mut dyn FnMut()) + Send>;

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Default for Hooks {
    /// Nothing is told.
    fn default() -> Self {
        Self { failed: Box::new(|_| ()), advanced: Box::new(|_| ()), taken: Box::new(|_| ()), around: None, stderr: None }
    }
}

/// The output of a running job.
#[derive(Debug)]
pub(crate) struct Output {
    feed: Feed,
    ended: Receiver<Result<u64, OutputError>>,
    missing: Arc<AtomicU64>,
    regular: bool,
}

impl Output {
    /// Opens the destinations, brings files in line with the journal if the job is resumed, and
    /// starts the thread.
    ///
    /// Call it between [`StateDir::begin`](crate::journal::StateDir::begin) and
    /// [`Journal::start`](crate::journal::Journal::start). `job` is absent when durability is off.
    /// `fresh` lets existing files be overwritten.
    ///
    /// # Errors
    /// [`JobError::ForeignOutput`] for a file that is not this job's; others when a file cannot be
    /// opened, read or written.
    pub(crate) fn open(spec: &OutputSpec, mut job: Option<&mut OpenJob>, fresh: bool, mut hooks: Hooks) -> Result<Self, JobError> {
        let render = Render { emit: spec.emit, only: spec.only, fields: spec.fields.clone(), tag: spec.tag };
        let lowest = Arc::new(AtomicU64::new(spec.ordered_from.unwrap_or(0)));
        let mut sinks = Vec::new();
        let missing = Arc::new(AtomicU64::new(0));
        let mut regular = false;
        if let Some(path) = &spec.file {
            // In the order of the input the run writes all of it anew, with earlier results in
            // their places.
            let content = if spec.ordered_from.is_some() { Content::Nothing } else { Content::Journal };
            let opened = open(path, &render, content, job.as_deref_mut(), fresh)?;
            regular = opened.regular;
            missing.store(opened.missing, Ordering::Relaxed);
            sinks.push(sink(opened, render));
        } else {
            // Also when nothing is shown: with `-k` this is what moves the window on.
            let file = match &spec.open {
                Some(open) => open.try_clone().map_err(not_stdout)?,
                None => File::options().write(true).open("/dev/null").map_err(not_stdout)?,
            };
            let (render, around) = match spec.open {
                Some(_) => (render, hooks.around.take()),
                None => (Render { emit: Emit::None, ..render }, None),
            };
            sinks.push(Sink { around, ..open_sink(file, render) });
        }
        let (feed, live) = match &spec.live {
            None => (Feed::default(), None),
            Some(stdout) => {
                let feed = Feed::with_live().map_err(not_stdout)?;
                let file = stdout.try_clone().map_err(not_stdout)?;
                let sink = Sink { around: hooks.around.take(), ..open_sink(file, Render::default()) };
                (feed.clone(), Some(LiveSink::new(sink, hooks.stderr.take(), feed)))
            }
        };
        if let Some(path) = &spec.failed_out {
            // Always result lines and as they come, whatever the main output is: it is there to be
            // read again.
            let render = Render { only: Some(Only::Failed), ..Render::default() };
            let opened = open(path, &render, Content::Journal, job.as_deref_mut(), fresh)?;
            sinks.push(sink(opened, render));
        }
        if let (Some(_), Some(main)) = (spec.ordered_from, sinks.first_mut()) {
            // Only a file on disk is written anew; what was shown on a terminal or a pipe is not
            // shown twice.
            let stored = match job {
                Some(job) if job.resumed && regular => Some(stored(job, main)?),
                _ => None,
            };
            main.order = Some(Order::new(lowest.clone(), stored));
        }
        // Only the main destination can show raw bytes, so it alone says what may be removed beside
        // the journal.
        if let Some(main) = sinks.first_mut() {
            main.taken = Some(hooks.taken);
            main.missing = missing.clone();
        }
        let (tell, ended) = sync_channel(1);
        let thread = Thread { feed: feed.clone(), sinks, live, lowest, advanced: hooks.advanced };
        let run = move || {
            let done = thread.run();
            // Told at once, since a run that waits for nothing would go on without an output.
            if let Err(error) = &done {
                (hooks.failed)(error);
            }
            let _ = tell.send(done);
        };
        let fail = |error: std::io::Error| JobError::io(Path::new("output"), "cannot start its thread", &error);
        std::thread::Builder::new().name("output".to_owned()).spawn(run).map_err(fail)?;
        Ok(Self { feed, ended, missing, regular })
    }

    /// Returns the queue that takes the journal's result lines to the output.
    pub(crate) fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Counts results of earlier sittings that could not be written anew, since the journal does
    /// not have the bytes that `--emit raw` shows.
    pub(crate) fn missing(&self) -> Arc<AtomicU64> {
        self.missing.clone()
    }

    /// Returns true if the main destination is a file on disk.
    pub(crate) fn is_file(&self) -> bool {
        self.regular
    }

    /// Writes all that was sent, and ends. Returns how many results were shown at the main
    /// destination in this sitting.
    ///
    /// # Errors
    /// The first failure to write, whenever it was; [`OutputError::Stalled`] if the reader takes
    /// too long.
    pub(crate) fn finish(self, patience: Option<Duration>) -> Result<u64, OutputError> {
        // The queue may be full, and putting would wait for as long as the reader does: a last item
        // has no weight and is always taken.
        self.feed.finish();
        let ended = match patience {
            Some(patience) => self.ended.recv_timeout(patience).ok(),
            None => self.ended.recv().ok(),
        };
        self.feed.close();
        ended.unwrap_or(Err(OutputError::Stalled))
    }
}

fn sink(opened: Opened, render: Render) -> Sink {
    Sink { path: Some(opened.path), regular: opened.regular, ..open_sink(opened.file, render) }
}

/// Returns the sink of something that is open.
fn open_sink(file: File, render: Render) -> Sink {
    Sink {
        file,
        path: None,
        regular: false,
        render,
        order: None,
        waiting: Waiting::default(),
        out: Vec::new(),
        shown: 0,
        around: None,
        taken: None,
        missing: Arc::default(),
    }
}

fn not_stdout(error: std::io::Error) -> JobError {
    JobError::io(Path::new("stdout"), "cannot open", &error)
}

fn stored(job: &OpenJob, main: &Sink) -> Result<Stored, JobError> {
    let path = job.journal.path().to_owned();
    let file = File::open(&path).map_err(|error| JobError::io(&path, "cannot open", &error))?;
    let places = Arc::new(Places::of(job, main.path.as_deref().unwrap_or(Path::new("")), main.render.tag));
    Ok(Stored { file, path, len: job.journal.len(), index: job.index.clone(), emitted: HashSet::new(), places })
}

struct Thread {
    feed: Feed,
    sinks: Vec<Sink>,
    live: Option<LiveSink>,
    lowest: Arc<AtomicU64>,
    advanced: Box<dyn Fn(u64) + Send>,
}

impl Thread {
    fn run(mut self) -> Result<u64, OutputError> {
        let done = self.write_until_finished();
        // Whatever still comes must not wait for a thread that is gone.
        self.feed.close();
        done
    }

    fn write_until_finished(&mut self) -> Result<u64, OutputError> {
        let mut told = self.lowest.load(Ordering::Relaxed);
        loop {
            let items = self.feed.take();
            if items.is_empty() {
                return Err(OutputError::Stalled);
            }
            for item in items {
                match item {
                    Item::Lines(batch) => self.sinks.iter_mut().try_for_each(|sink| sink.lines(&batch))?,
                    Item::Skipped(places) => self.sinks.iter_mut().try_for_each(|sink| sink.skipped(&places))?,
                    Item::Live(text) => self.live.iter_mut().try_for_each(|live| live.put(&text))?,
                    Item::Finish => {
                        self.live.iter_mut().try_for_each(LiveSink::flush)?;
                        self.sinks.iter_mut().try_for_each(Sink::finish)?;
                        return Ok(self.sinks.first().map_or(0, |sink| sink.shown));
                    }
                }
            }
            self.live.iter_mut().try_for_each(LiveSink::flush)?;
            let lowest = self.lowest.load(Ordering::Relaxed);
            if lowest != told {
                told = lowest;
                (self.advanced)(lowest);
            }
        }
    }
}
