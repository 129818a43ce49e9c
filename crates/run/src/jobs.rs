//! What a state directory knows of its jobs, as plain data.

mod digest;
mod export;
mod past;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use longshore_brokers::mask_text;
use longshore_core::{Word, watch::Counts};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

pub use self::{
    digest::JobDigest,
    export::{COLUMNS, ExportForm, ExportSpec, export},
    past::{report, trace},
};
pub use crate::journal::{
    JobError, JournalError, PruneRules, Pruned, StateDir,
    format::Header,
    info::{JobInfo, JobState},
};
use crate::{
    journal::{
        Index,
        file::{Lines, read},
        format::{Line, is_final, parse},
    },
    report::FailureSample,
};

/// A job as `jobs list` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct JobRow {
    /// Its id.
    pub job: String,
    /// Its name.
    pub name: Option<String>,
    /// `running`, `finished`, `unfinished` or `broken`.
    pub state: &'static str,
    /// The process that runs it.
    pub pid: Option<u32>,
    /// Counts of its tasks by outcome; serialised are `ok`, `failed` (all failures) and `skipped`.
    #[serde(flatten, serialize_with = "three")]
    pub counts: Counts,
    /// Tasks that run, or ran when their run died.
    pub in_flight: u64,
    /// Tasks that have not run, as the end of the last sitting says; `None` where it did not end in
    /// order: only the input can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// The exit code of its last run, if that ended in order.
    pub exit: Option<u8>,
    /// Time at which it began.
    pub started: String,
    /// Time at which its journal was last written.
    pub changed: String,
    /// Its program, as people read it.
    pub what: String,
    /// The reason why its journal cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

fn three<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(3))?;
    for (name, tasks) in [("ok", counts.ok), ("failed", counts.failures()), ("skipped", counts.skipped)] {
        map.serialize_entry(name, &tasks)?;
    }
    map.end()
}

/// A job as `jobs show` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// The fields that the list shows, too.
    #[serde(flatten)]
    pub row: JobRow,
    /// The sources of its records.
    pub inputs: Vec<String>,
    /// The directory in which it was begun.
    pub cwd: String,
    /// The rule by which keys are made.
    pub key_rule: String,
    /// Number of times that it was begun or resumed.
    pub sittings: u32,
    /// Its output files.
    pub outputs: Vec<String>,
    /// Its journal.
    pub journal: String,
    /// Failed tasks by kind of error and number, the most frequent first.
    pub failures: Vec<(String, u64)>,
    /// One task of each of those kinds.
    pub samples: Vec<FailureSample>,
}

/// The run that `jobs retry` is to start.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The job's id, for [`Begin::RetryFailed`](crate::journal::Begin::RetryFailed).
    pub job: String,
    /// Number of failed tasks; with none there is nothing to run.
    pub failed: u64,
    /// The command line that began it.
    pub args: Vec<String>,
    /// The directory in which that was started.
    pub cwd: String,
}

/// All jobs, the latest first. A journal that is broken is shown as that, and does not hide the
/// others.
///
/// # Errors
/// When the state directory cannot be read.
pub fn list(state: &StateDir) -> Result<Vec<JobRow>, JobError> {
    Ok(state.list()?.iter().map(row).collect())
}

/// One job, by id or name.
///
/// # Errors
/// When there is none, or its journal cannot be read.
pub fn show(state: &StateDir, job: &str) -> Result<Details, JobError> {
    let info = state.find(job)?;
    let contents = read(&info.path)?;
    let mut kinds = failures(&info.path, contents.len, &contents.index)?;
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
    let failures = kinds.iter().map(|kind| (kind.sample.error.clone(), kind.count)).collect();
    let samples = kinds.into_iter().map(|kind| kind.sample).collect();
    // The command line is left out: it may hold what nobody else should see, and `what` says the
    // same without that.
    let Header { inputs, cwd, key_rule, .. } = info.header.clone();
    let mut outputs: Vec<String> = Vec::new();
    for output in contents.outputs {
        if !outputs.contains(&output.output) {
            outputs.push(output.output);
        }
    }
    let journal = info.path.display().to_string();
    Ok(Details { row: row(&info), inputs, cwd, key_rule, sittings: contents.sittings, outputs, journal, failures, samples })
}

/// Failed tasks of one class.
pub(crate) struct FailureKind {
    /// Their number.
    pub(crate) count: u64,
    /// The first of them, which also names the class.
    pub(crate) sample: FailureSample,
}

/// Failed tasks of a journal by kind of error, in the order of their names.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn failures(journal: &Path, len: u64, index: &Index) -> Result<Vec<FailureKind>, JobError> {
    #[derive(Deserialize)]
    struct Failed {
        seq: u64,
        task: Box<RawValue>,
        error: Option<Kind>,
        outcome: String,
    }
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
        code: Option<i64>,
        #[serde(default)]
        message: String,
        tail: Option<String>,
    }
    let mut failures: BTreeMap<String, FailureKind> = BTreeMap::new();
    let read = crate::output::each_current(journal, len, index, |_, head, line| {
        if head.outcome.is_failure()
            && let Ok(failed) = serde_json::from_slice::<Failed>(line)
        {
            let Failed { seq, task, error, outcome } = failed;
            let (class, message, tail) = match error {
                Some(Kind { kind, code: Some(code), message, tail }) => (format!("{kind} {code}"), message, tail),
                Some(Kind { kind, code: None, message, tail }) => (kind, message, tail),
                None => (outcome, String::new(), None),
            };
            match failures.get_mut(&class) {
                Some(known) => known.count += 1,
                None => {
                    // A line of the input stands there as a text.
                    let text = serde_json::from_str::<String>(task.get()).unwrap_or_else(|_| task.get().to_owned());
                    let sample = FailureSample::new(&class, seq, text.as_bytes(), &message, tail.as_deref());
                    failures.insert(class, FailureKind { count: 1, sample });
                }
            }
        }
        Ok(())
    });
    read.map_err(|error| JobError::Io { path: journal.to_owned(), cause: error.to_string() })?;
    Ok(failures.into_values().collect())
}

/// Returns the command line that runs a job's failed tasks again.
///
/// # Errors
/// When there is no such job, it runs now, or its journal cannot be read.
pub fn retry(state: &StateDir, job: &str) -> Result<Retry, JobError> {
    let info = state.find(job)?;
    if let JobState::Running(pid) = info.state {
        return Err(JobError::Running { job: info.header.job, pid });
    }
    let (counts, ..) = info.counts()?;
    let args = info.args()?;
    Ok(Retry { job: info.header.job, failed: counts.failures(), args, cwd: info.header.cwd })
}

/// Removes finished jobs by these rules; says which.
///
/// # Errors
/// When the state directory cannot be read, or a file in it not removed.
pub fn prune(state: &StateDir, rules: &PruneRules) -> Result<Pruned, JobError> {
    state.prune(rules)
}

/// Calls `each` for every task's last final result, without keeping anything of any task: a failure
/// is none if it stands before the last line that says that failures are tried again.
fn each_current(info: &JobInfo, mut each: impl FnMut(Word, &[u8]) -> io::Result<()>) -> Result<(), JobError> {
    let fail = |error: &io::Error| JobError::Io { path: info.path.clone(), cause: error.to_string() };
    // First of all: a journal that is broken is not shown in part.
    let mut digest = JobDigest::without_story(&info.path);
    digest.read_on(Duration::MAX)?;
    let mut lines = Lines::open(&info.path, 0).map_err(|error| fail(&error))?;
    while let Some((at, line)) = lines.next().map_err(|error| fail(&error))? {
        if at >= digest.bytes() {
            break;
        }
        if let Ok(Line::Result(head)) = parse(line)
            && is_final(head.outcome)
            && (!head.outcome.is_failure() || at >= digest.retried_at())
        {
            each(head.outcome, line).map_err(|error| fail(&error))?;
        }
    }
    Ok(())
}

fn row(info: &JobInfo) -> JobRow {
    let (counts, in_flight, left, broken) = match info.counts() {
        Ok((counts, in_flight, left)) => (counts, in_flight, left, None),
        Err(error) => (Counts::default(), 0, None, Some(error.to_string())),
    };
    let (state, pid) = match info.state {
        JobState::Running(pid) => ("running", (pid != 0).then_some(pid)),
        _ if broken.is_some() => ("broken", None),
        JobState::Finished => ("finished", None),
        JobState::Unfinished => ("unfinished", None),
    };
    JobRow {
        job: info.header.job.clone(),
        name: info.header.name.clone(),
        state,
        pid,
        counts,
        in_flight,
        left,
        exit: info.end.as_ref().map(|end| end.exit),
        started: info.header.started.clone(),
        changed: time(info.changed),
        // Older versions wrote it with secrets.
        what: mask_text(&info.header.what),
        broken,
    }
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunErrorKind;
    use crate::journal::{
        Begin, Durability, End, Journal, ResultLine,
        format::header_line,
        tests::{result, spec, state},
    };

    fn finished(state: &StateDir, lines: Vec<ResultLine>, end: Option<End>) {
        let job = state.begin(&spec("prices"), &Begin::Auto).unwrap();
        let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), None, |_| {}).unwrap();
        journal.results(lines, Box::new(|done| done.unwrap()));
        journal.close(end).unwrap();
        drop(job.lock);
        given_up(state);
    }

    /// A child that another test starts has a copy of the lock until it is another program.
    fn given_up(state: &StateDir) {
        while list(state).unwrap().iter().any(|row| row.state == "running") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_job_is_listed_shown_and_exported_by_its_last_results() {
        let (_dir, state) = state();
        assert!(list(&state).unwrap().is_empty());
        finished(&state, vec![result(1, 1, 0, Word::Ok), result(2, 2, 0, Word::Failed), result(3, 3, 0, Word::Failed)], None);
        let job = state.begin(&spec("prices"), &Begin::RetryFailed(None)).unwrap();
        let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), None, |_| {}).unwrap();
        journal.results(vec![result(2, 2, 0, Word::Ok), result(3, 3, 0, Word::Timeout)], Box::new(|done| done.unwrap()));
        journal.close(None).unwrap();
        drop(job.lock);
        given_up(&state);

        let rows = list(&state).unwrap();
        assert_eq!((rows[0].state, rows[0].counts.ok, rows[0].counts.failures(), rows[0].in_flight), ("unfinished", 2, 1, 0));
        let details = show(&state, "prices").unwrap();
        assert_eq!(details.failures, [("exit 1".to_owned(), 1)]);
        assert_eq!(details.sittings, 2);
        assert_eq!(retry(&state, "prices").unwrap().failed, 1);

        let mut lines = Vec::new();
        assert_eq!(export(&state, "prices", &ExportSpec::default(), &mut lines).unwrap(), 3);
        assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 3);
        let failed = ExportSpec { only: Some(crate::output::Only::Failed), ..ExportSpec::default() };
        assert_eq!(export(&state, "prices", &failed, &mut Vec::new()).unwrap(), 1);
        assert_eq!(show(&state, "other").unwrap_err().kind(), RunErrorKind::Usage);
    }

    #[test]
    fn a_broken_journal_does_not_hide_the_others() {
        let (_dir, state) = state();
        finished(&state, vec![result(1, 1, 0, Word::Ok)], None);
        let path = state.find("prices").unwrap().path;
        let good = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = good.split_once('\n').unwrap();
        let header = Header { what: "\u{1b}[2J".to_owned(), ..state.find("prices").unwrap().header };
        let header = String::from_utf8(header_line(&header)).unwrap();
        std::fs::write(&path, header + rest + "nonsense\n").unwrap();
        let rows = list(&state).unwrap();
        assert_eq!(rows[0].state, "broken");
        assert!(rows[0].broken.as_deref().unwrap().contains(":3: "), "{rows:?}");
        assert!(export(&state, "prices", &ExportSpec::default(), &mut Vec::new()).is_err());
        // A header that has changed by itself is shown as well, and cannot be passed over.
        std::fs::write(&path, good.replace("echo {}", "echo []")).unwrap();
        let rows = list(&state).unwrap();
        assert!(rows[0].broken.as_deref().unwrap().contains(":1: the header has changed"), "{rows:?}");
        assert_eq!(show(&state, "prices").unwrap_err().kind(), RunErrorKind::Refused);
    }
}
