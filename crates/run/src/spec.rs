//! What a run is to do, as plain data.
//!
//! Layout: `program.rs`: what runs for each record

mod program;

use std::{ffi::OsString, fmt, fs::File, path::PathBuf, sync::Arc, time::Duration};

use longshore_core::{Backoff, ErrorClass, RetryOn, gate::adaptive::Bounds};

pub use program::{CommandSpec, PipeSpec, Program, ProgramLimits, RequestSpec, TaskSpec};

pub use crate::{
    batch::BatchSize,
    checks::{Check, MaxFail, UntilOk},
    journal::{Begin, Durability},
    output::{Emit, ORDER_WINDOW, Only},
};
use crate::{
    input::{Format, Source},
    units,
};

/// Description of a run: what runs, on which records, how fast, how often again, and where results
/// go.
///
/// Plain data, with public fields in groups and short ways to set the usual ones. Texts that hold
/// expressions and templates are compiled by [`Run::plan`](crate::Run::plan), which says what is
/// wrong with them; its messages name the flags of `longshore run`, which are called like the
/// fields.
///
/// Unless told otherwise a run has no journal, shows results to nobody but those who listen, and
/// tries again as the command line would.
///
/// ```
/// use std::time::Duration;
/// use longshore_run::{Program, RunSpec};
///
/// let spec = RunSpec::new(Program::http("GET https://example.com/{}"))
///     .records(["a", "b"])
///     .concurrency(8)
///     .retries(2)
///     .timeout(Duration::from_secs(5));
/// assert_eq!(spec.input.sources.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunSpec {
    /// The program that runs for each record.
    pub program: Program,
    /// Which records.
    pub input: InputSpec,
    /// The number of tasks at once, and the lanes that they run on.
    pub lanes: LaneSpec,
    /// The pace of starts.
    pub pace: PaceSpec,
    /// The rules by which failed tasks are tried again.
    pub retry: RetrySpec,
    /// The limits of time.
    pub time: TimeSpec,
    /// The conditions to stop early, and those that must hold at the end.
    pub stop: StopSpec,
    /// The destinations of results, and what is written there.
    pub output: ResultSpec,
    /// The files that are kept on disk, so that the run can go on.
    pub journal: JournalSpec,
}

/// Which records a run has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InputSpec {
    /// The places that they come from, one after the other.
    pub sources: Vec<Source>,
    /// The format by which they are cut.
    pub format: Format,
    /// The first row of a table names its columns.
    pub header: bool,
    /// Number of records that are passed over.
    pub skip: u64,
    /// Most that are taken.
    pub take: Option<u64>,
    /// An expression that is true for those that run.
    pub filter: Option<String>,
    /// An expression that identifies a record; its content when absent.
    pub key: Option<String>,
    /// The treatment of records whose key came before.
    pub dups: Dups,
    /// Most bytes of a record; a longer one is a failed task.
    pub max_record: u64,
    /// Byte ranges of about this size are the records.
    pub split: Option<u64>,
    /// Most records that share a call of a command.
    pub batch: BatchSize,
}

impl Default for InputSpec {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            format: Format::Auto,
            header: true,
            skip: 0,
            take: None,
            filter: None,
            key: None,
            dups: Dups::Run,
            max_record: 16 << 20,
            split: None,
            batch: BatchSize::default(),
        }
    }
}

/// Number of tasks that run at once, and the lanes that they run on.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LaneSpec {
    /// Number of tasks that run at once.
    pub concurrency: Concurrency,
    /// Expressions, each with the most tasks of one value that run at once.
    pub per: Vec<(String, usize)>,
    /// The name of a lane, or an expression that makes it.
    pub lane: Option<String>,
    /// An expression; records of one value never run at once and keep their order.
    pub order_by: Option<String>,
    /// Share of the cores above which the machine's load pauses the run.
    pub max_load: Option<f64>,
    /// Free memory, in bytes, below which the run pauses.
    pub min_free_mem: Option<u64>,
}

/// Number of tasks that run at once: chosen here, or found while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Concurrency {
    /// As many as suits what runs: cores for commands, 50 for requests.
    #[default]
    Default,
    /// This many.
    Fixed(usize),
    /// As many as turns out to be best, measured while the run goes on.
    Measured,
    /// As many as the other side can use, between two numbers.
    Adaptive(Bounds),
}

/// Pace at which tasks start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PaceSpec {
    /// Starts per time.
    pub rate: Option<units::Rate>,
    /// Most starts at once after a pause.
    pub burst: u32,
    /// An expression; each of its values has the rate.
    pub by: Option<String>,
    /// A limit that has a name.
    pub limit: Option<NamedLimit>,
    /// The times that servers ask for (`Retry-After`) are kept to.
    pub retry_after: bool,
    /// Over this time from the start, the number at once and the rate grow evenly to what they are
    /// set to.
    pub ramp: Option<Duration>,
}

impl Default for PaceSpec {
    fn default() -> Self {
        Self { rate: None, burst: 1, by: None, limit: None, retry_after: true, ramp: None }
    }
}

/// A limit that has a name, and that other processes keep too where it names a broker.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NamedLimit {
    /// Its name.
    pub name: String,
    /// Most that run at once, counted in this run alone.
    pub concurrency: Option<usize>,
    /// Starts per time.
    pub rate: Option<units::Rate>,
    /// Most starts at once after a pause.
    pub burst: u32,
    /// An expression; each of its values has the limit.
    pub by: Option<String>,
    /// URL of the broker that has the rate's bucket.
    pub broker: Option<String>,
    /// URL of the result backend, which has the bucket where the broker can have none.
    pub results: Option<String>,
}

/// Rules by which a task that failed is tried again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetrySpec {
    /// Further attempts; 3 for requests and none for others when absent.
    pub retries: Option<u32>,
    /// Time between attempts.
    pub backoff: Backoff,
    /// Errors worth another attempt; those that may pass when empty.
    pub on: Vec<ErrorClass>,
    /// Age beyond which a task gets no further attempt.
    pub give_up_after: Option<Duration>,
}

impl Default for RetrySpec {
    fn default() -> Self {
        let backoff = Backoff::Exponential { base: Duration::from_millis(200), cap: Duration::from_secs(30) };
        Self { retries: None, backoff, on: Vec::new(), give_up_after: None }
    }
}

/// Returns which errors are retried: those that were named; else those of a request that may pass,
/// or any that may.
pub fn retry_on(named: &[ErrorClass], http: bool) -> RetryOn {
    let of_http = || ["connect", "timeout", "status:429", "status:5xx"].iter().filter_map(|class| ErrorClass::parse(class).ok()).collect();
    match (named, http) {
        ([], true) => RetryOn::Only(of_http()),
        ([], false) => RetryOn::default(),
        (named, _) => RetryOn::Only(named.to_vec()),
    }
}

/// Limits of time, for attempts and for the run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TimeSpec {
    /// Limit of one attempt; 30 s for requests and none for others when absent.
    pub timeout: Option<Timeout>,
    /// From TERM to KILL.
    pub kill_after: Duration,
    /// Time for which tasks may go on after the run was told to terminate.
    pub grace: Duration,
    /// Age from which a view names a task as slow.
    pub slow: Duration,
    /// Limit of the whole run.
    pub job: Option<Duration>,
}

impl Default for TimeSpec {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { timeout: None, kill_after: seconds(10), grace: seconds(30), slow: seconds(60), job: None }
    }
}

/// Limit of one attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Timeout {
    /// A time.
    Fixed(Duration),
    /// A share of the median of the run times so far.
    OfMedian(f64),
}

impl Timeout {
    /// Parses a time or a share: `10s`, `300%`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.ends_with('%') { units::percent(text).map(Timeout::OfMedian) } else { units::duration(text).map(Timeout::Fixed) }
    }
}

/// Conditions at which a run stops early, and those that must hold at its end.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StopSpec {
    /// Failures at which it gives up.
    pub max_fail: Option<MaxFail>,
    /// Good ends at which it is done.
    pub until_ok: Option<UntilOk>,
    /// The checks that must hold.
    pub checks: Vec<Check>,
    /// The exit code is the number of tasks that failed, up to 101.
    pub exit_count: bool,
}

/// Destinations of results, and what is written there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResultSpec {
    /// The main destination.
    pub to: Destination,
    /// The part of a result that is written.
    pub emit: Emit,
    /// Which results.
    pub only: Option<Only>,
    /// Paths into the result line, such as `seq` or `value.status`; the whole line when empty.
    pub fields: Vec<String>,
    /// With [`Emit::Raw`] or `live`: the record and a tab before each line.
    pub tag: bool,
    /// Lines that commands write to stdout go there while they run, whole and as they come, beside
    /// their results; with `tag` behind their record. What they write to stderr goes where
    /// [`Surroundings`](crate::Surroundings) says.
    pub live: Option<Arc<File>>,
    /// In the order of the input.
    pub ordered: bool,
    /// With that: how far the input may run ahead of the oldest unwritten result.
    pub order_window: u64,
    /// Most of each stream of a task that the journal and JSON keep; raw output is whole.
    pub max_output: u64,
    /// A directory for each task's streams.
    pub save: Option<PathBuf>,
    /// A file for the result lines of failed tasks.
    pub failed: Option<PathBuf>,
    /// The report tells how the run went over time ([`Report::story`](crate::Report::story)).
    pub story: bool,
}

impl Default for ResultSpec {
    fn default() -> Self {
        Self {
            to: Destination::Nowhere,
            emit: Emit::Jsonl,
            only: None,
            fields: Vec::new(),
            tag: false,
            live: None,
            ordered: false,
            order_window: crate::output::ORDER_WINDOW,
            max_output: 1 << 20,
            save: None,
            failed: None,
            story: false,
        }
    }
}

/// Main destination of results.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Destination {
    /// Nowhere. Whoever listens hears of them.
    #[default]
    Nowhere,
    /// To a file, which is the job's own and is brought in line with the journal when it is
    /// resumed.
    File(PathBuf),
    /// To something that is open: a pipe, a terminal.
    Open(Arc<File>),
}

impl Destination {
    /// Returns the path of a file.
    pub fn file(&self) -> Option<&PathBuf> {
        if let Self::File(path) = self { Some(path) } else { None }
    }
}

/// Files that a run keeps on disk, so that it can go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JournalSpec {
    /// Time at which results are on disk; [`Durability::Off`] for no journal.
    pub durability: Durability,
    /// A name, under which the job goes on where it stopped.
    pub name: Option<String>,
    /// Which job to go on with.
    pub begin: Begin,
    /// The treatment of tasks that were running when the job died.
    pub in_flight: InFlight,
    /// The directory of journals; `$XDG_STATE_HOME/longshore`, else `~/.local/state/longshore` when
    /// absent.
    pub state_dir: Option<PathBuf>,
    /// Other processes of this user can view and steer the run, through a socket beside its
    /// journal; without a journal it is in the same directory.
    pub reachable: bool,
    /// The words of a command line, from which the job can be run again.
    pub words: Vec<String>,
}

impl Default for JournalSpec {
    fn default() -> Self {
        Self {
            durability: Durability::Off,
            name: None,
            begin: Begin::Auto,
            in_flight: InFlight::Rerun,
            state_dir: None,
            reachable: false,
            words: Vec::new(),
        }
    }
}

/// Treatment of tasks that were running when their job died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InFlight {
    /// They run again.
    #[default]
    Rerun,
    /// They count as failed.
    Skip,
}

/// Treatment of records whose key came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dups {
    /// They run too.
    #[default]
    Run,
    /// They are skipped.
    Skip,
    /// They end the intake with an error.
    Error,
}

impl Dups {
    /// Parses `run`, `skip` or `error`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "run" => Ok(Dups::Run),
            "skip" => Ok(Dups::Skip),
            "error" => Ok(Dups::Error),
            _ => Err(format!("`{text}` is not run, skip or error")),
        }
    }
}

impl RunSpec {
    /// Makes a run of this program, on no records yet.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self { program, ..Self::default() }
    }

    /// Adds these records, each a line of text.
    #[must_use]
    pub fn records<R: Into<OsString>>(mut self, records: impl IntoIterator<Item = R>) -> Self {
        self.input.sources.push(Source::Words(records.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds the records of a file: lines, JSON Lines, CSV or TSV, told by its name and its content.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.input.sources.push(Source::File(path.into()));
        self
    }

    /// Lets this many tasks run at once.
    #[must_use]
    pub fn concurrency(mut self, most: usize) -> Self {
        self.lanes.concurrency = Concurrency::Fixed(most);
        self
    }

    /// Lets this many tasks start in this time, evenly spaced.
    #[must_use]
    pub fn rate(mut self, count: f64, per: Duration) -> Self {
        self.pace.rate = Some(units::Rate { count, per });
        self
    }

    /// Tries a task that failed again, up to this many times.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retry.retries = Some(retries);
        self
    }

    /// Limits each attempt.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.time.timeout = Some(Timeout::Fixed(limit));
        self
    }

    /// Writes the result lines to a file.
    #[must_use]
    pub fn output_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.output.to = Destination::File(path.into());
        self
    }

    /// Keeps a journal under this name. A run of the same name goes on where it stopped.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.journal.name = Some(name.into());
        self.journaled()
    }

    /// Keeps a journal.
    #[must_use]
    pub fn journaled(mut self) -> Self {
        if self.journal.durability == Durability::Off {
            self.journal.durability = Durability::default();
        }
        self
    }

    /// Keeps journals in this directory.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.journal.state_dir = Some(path.into());
        self
    }

    /// Returns what of all this concerns the program.
    pub(crate) fn limits(&self) -> ProgramLimits {
        ProgramLimits {
            kill_after: self.time.kill_after,
            max_output: self.output.max_output,
            max_record: self.input.max_record,
            split: self.input.split.is_some(),
            batch: self.input.batch.is_several(),
            retries_failed: matches!(self.journal.begin, Begin::RetryFailed(_)),
            retry_after: self.pace.retry_after,
        }
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Fixed(most) => write!(f, "{most}"),
            Self::Measured => f.write_str("auto"),
            Self::Adaptive(bounds) => write!(f, "{}..{}", bounds.floor, bounds.ceiling),
        }
    }
}
