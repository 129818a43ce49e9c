//! The state directory: where jobs are begun, found, listed and pruned.
//!
//! A job is `<id>.jsonl`, its journal, and `<id>.lock`; `<id>.args` where its command line has
//! secrets in it, which no journal has; and the folder `<id>.spool` as long as output waits that is
//! too long for the journal. Names live in headers only, so that no name ever becomes part of a
//! path. `.lock` is held for the moment in which jobs are looked for and locked, so that two runs
//! cannot both be the first of a name.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{mask_text, mask_words};
use longshore_sys::files::{Own, own};
use rustix::fs::{FlockOperation, flock};

use super::{
    error::JobError,
    file::{JournalFile, may_be_named, peek},
    format::{End, Header, OutputFile, ReadUpTo, Sitting, TakenOver, VERSION, now},
    index::Index,
    info::{JobInfo, JobState},
    lock::{JobLock, Taken},
    prune::{Finished, PruneRules, Pruned},
};

/// Time for which a new run waits for the guardian of a dead one.
const GUARDIAN_WAIT: Duration = Duration::from_secs(15);

/// A directory of jobs.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Description of a job. Two runs belong to the same job when `template` and `key_rule` agree.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobSpec {
    /// `--name`.
    pub name: Option<String>,
    /// The program, for people; without secrets.
    pub what: String,
    /// A hash of everything that decides what a task does.
    pub template: String,
    /// The rule by which keys are made.
    pub key_rule: String,
    /// The sources of records, for people.
    pub inputs: Vec<String>,
    /// The command line.
    pub args: Vec<String>,
    /// Its working directory.
    pub cwd: String,
}

/// Which job a run goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// The job of this name if there is one, else a new job.
    #[default]
    Auto,
    /// `--resume [JOB]`: that job, else the one of this name, else the latest unfinished one that
    /// does the same.
    Resume(Option<String>),
    /// `--retry-failed [JOB]`: as `Resume`, finished jobs included, and failed tasks run again.
    RetryFailed(Option<String>),
    /// `--fresh`: a new job; if one of this name exists, its journal is begun anew.
    Fresh,
}

/// A job that this run may work on.
#[derive(Debug)]
pub(crate) struct OpenJob {
    /// The first line of its journal.
    pub header: Header,
    /// The right to run it.
    pub lock: JobLock,
    /// Its journal, for [`Journal::start`](super::Journal::start).
    pub journal: JournalFile,
    /// The state of its tasks as of now.
    pub index: Arc<Index>,
    /// The number of this sitting, from 1.
    pub sitting: u32,
    /// It was begun by an earlier run.
    pub resumed: bool,
    /// Failed tasks were made unfinished, now or in an earlier sitting, so that tasks can have more
    /// than one result line.
    pub retried: bool,
    /// Files that belong to it.
    pub outputs: Vec<OutputFile>,
    /// The end of the last sitting, if it ended in order.
    pub end: Option<End>,
    /// The folder of output that is too long for the journal; it need not exist.
    pub spool: PathBuf,
    /// Files of that folder whose bytes the output has, by their names.
    pub taken: HashMap<String, TakenOver>,
    /// Extent to which the earlier sitting that came furthest read the input.
    pub read: ReadUpTo,
    /// The time that earlier sittings took together.
    pub spent: Duration,
}

impl OpenJob {
    /// Removes a job of which nothing has run. What cannot be removed stays, as a job with nothing
    /// done.
    pub(crate) fn discard(self) {
        let path = self.journal.path();
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(path.with_extension("lock"));
        let _ = std::fs::remove_file(path.with_extension("args"));
        let _ = std::fs::remove_dir_all(self.spool);
    }
}

impl StateDir {
    /// The directory given, else `$XDG_STATE_HOME/longshore`, else `~/.local/state/longshore`, else
    /// `$STATE_DIRECTORY`, which systemd sets; created for this user only.
    ///
    /// # Errors
    /// When it cannot be created, or is no directory.
    pub fn open(given: Option<&Path>) -> Result<Self, JobError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => Self::default_path(|name| std::env::var_os(name).map(PathBuf::from)).ok_or_else(|| JobError::Io {
                path: PathBuf::from("~/.local/state/longshore"),
                cause: "HOME is not set: give a --state-dir".to_owned(),
            })?,
        };
        let fail = |error: io::Error| JobError::io(&path, "cannot use it as the state directory", &error);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        // Errors name the file wherever they are read.
        let path = path.canonicalize().map_err(fail)?;
        Ok(Self { path })
    }

    /// Returns the directory of a user with these variables, if they name one.
    pub fn default_path(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
        let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        // systemd may name several, with colons between them.
        let of_unit = || var("STATE_DIRECTORY")?.to_str()?.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute());
        base.map(|base| base.join("longshore")).or_else(of_unit)
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An id for a job without a journal.
    pub fn new_id(&self) -> String {
        loop {
            // Four digits are easy to type; a directory with many jobs gets longer ones before it
            // gets slow to find a free one.
            for digits in (4..=12).flat_map(|digits| [digits; 8]) {
                let id = format!("{:0digits$x}", fastrand::u64(..1 << (4 * digits)));
                if !self.journal(&id).exists() && !self.lock(&id).exists() {
                    return id;
                }
            }
        }
    }

    /// Begins a job or goes on with one, and locks it.
    ///
    /// If its last run died and its guardian is still ending that run's children, this waits for up
    /// to 15 s.
    ///
    /// # Errors
    /// [`JobError`] says which: the name is none, the job is unknown, runs already, has changed, or
    /// its journal is broken or unwritable.
    pub(crate) fn begin(&self, spec: &JobSpec, begin: &Begin) -> Result<OpenJob, JobError> {
        self.begin_within(spec, begin, GUARDIAN_WAIT)
    }

    pub(crate) fn begin_within(&self, spec: &JobSpec, begin: &Begin, patience: Duration) -> Result<OpenJob, JobError> {
        if let Some(name) = &spec.name {
            check_name(name)?;
        }
        let since = Instant::now();
        loop {
            let guard = self.exclusive()?;
            let known = self.choose(spec, begin)?;
            let id = known.clone().unwrap_or_else(|| self.new_id());
            let path = self.lock(&id);
            match JobLock::try_take(&path).map_err(|error| JobError::io(&path, "cannot lock", &error))? {
                Taken::Ours(lock) if known.is_some() && *begin != Begin::Fresh => return self.resume(&id, lock, spec, begin),
                Taken::Ours(lock) => {
                    let created = self.create(&id, lock, spec);
                    if created.is_err() && known.is_none() {
                        let _ = std::fs::remove_file(&path);
                    }
                    return created;
                }
                Taken::Held { pid, alive: true } => return Err(JobError::Running { job: id, pid }),
                Taken::Held { alive: false, .. } if since.elapsed() >= patience => {
                    return Err(JobError::Guarded { job: id, waited: patience.as_secs() });
                }
                Taken::Held { .. } => {
                    drop(guard);
                    std::thread::sleep(Duration::from_millis(20).min(patience));
                }
            }
        }
    }

    fn create(&self, id: &str, lock: JobLock, spec: &JobSpec) -> Result<OpenJob, JobError> {
        let shown_args = mask_words(&spec.args);
        let has_secrets = shown_args != spec.args;
        let path = self.journal(id).with_extension("args");
        let kept = if has_secrets { keep(&path, &spec.args) } else { forget(&path) };
        kept.map_err(|error| JobError::io(&path, "cannot keep the command line", &error))?;
        let header = Header {
            longshore: VERSION,
            job: id.to_owned(),
            name: spec.name.clone(),
            what: spec.what.clone(),
            template: spec.template.clone(),
            key_rule: spec.key_rule.clone(),
            inputs: spec.inputs.clone(),
            args: if has_secrets { Vec::new() } else { spec.args.clone() },
            shown_args: if has_secrets { shown_args } else { Vec::new() },
            cwd: spec.cwd.clone(),
            started: now(),
        };
        let journal = JournalFile::create(&self.path, &header)?;
        let spool = self.spool(id);
        let _ = std::fs::remove_dir_all(&spool);
        let index = Arc::new(Index::default());
        Ok(OpenJob {
            header,
            lock,
            journal,
            index,
            sitting: 1,
            resumed: false,
            retried: false,
            outputs: Vec::new(),
            end: None,
            spool,
            taken: HashMap::new(),
            read: ReadUpTo::default(),
            spent: Duration::ZERO,
        })
    }

    fn resume(&self, id: &str, lock: JobLock, spec: &JobSpec, begin: &Begin) -> Result<OpenJob, JobError> {
        let (mut journal, contents) = JournalFile::open(&self.journal(id))?;
        let header = contents.header;
        let changed = |what, was: &str, now: &str| JobError::Changed { job: id.to_owned(), what, was: was.to_owned(), now: now.to_owned() };
        if header.template != spec.template {
            return Err(match header.what == spec.what {
                true => changed("what it runs, or how,", &header.template, &spec.template),
                false => changed("what it runs", &mask_text(&header.what), &spec.what),
            });
        }
        if header.key_rule != spec.key_rule {
            return Err(changed("the rule for keys (--key, --split)", &header.key_rule, &spec.key_rule));
        }
        let mut index = contents.index;
        let retry = matches!(begin, Begin::RetryFailed(_));
        if retry {
            index.reopen_failed();
        }
        // What no result names that counts is of an attempt that ended with its run, or was tried
        // again; what the output has is not needed any more.
        let spool = self.spool(id);
        let wanted = |name: &str| contents.spooled.get(name).is_some_and(|(key, nth, at)| index.is_current(*key, *nth, *at));
        for file in std::fs::read_dir(&spool).into_iter().flatten().flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            if !wanted(&name) || contents.taken.contains_key(&*name) {
                let _ = std::fs::remove_file(file.path());
            }
        }
        let index = Arc::new(index);
        let sitting = contents.sittings + 1;
        journal.stage(&Sitting { sitting, started: now(), retry, spent_ms: contents.spent_ms });
        let spent = Duration::from_millis(contents.spent_ms);
        let retried = contents.retried || retry;
        let (outputs, end, read, taken) = (contents.outputs, contents.end, contents.read, contents.taken);
        Ok(OpenJob { header, lock, journal, index, sitting, resumed: true, retried, outputs, end, spool, taken, read, spent })
    }

    /// The existing job that a run goes on with; `None` for a new one.
    fn choose(&self, spec: &JobSpec, begin: &Begin) -> Result<Option<String>, JobError> {
        let named = || match &spec.name {
            Some(name) => self.peek_all()?.of_name(name),
            None => Ok(None),
        };
        let same = |job: &Peeked| job.header.template == spec.template && job.header.key_rule == spec.key_rule;
        let found = match begin {
            Begin::Auto => named()?,
            // Whatever else there is: it is to be begun anew.
            Begin::Fresh => named().unwrap_or_default(),
            Begin::Resume(Some(job)) | Begin::RetryFailed(Some(job)) => Some(self.find_peeked(job)?),
            Begin::Resume(None) | Begin::RetryFailed(None) => {
                let retry = matches!(begin, Begin::RetryFailed(_));
                let wanted = |job: &Peeked| same(job) && if retry { job.may_have_failures() } else { !job.complete() };
                let found = match named()? {
                    Some(job) => Some(job),
                    None => {
                        let jobs = self.peek_all()?;
                        let found = jobs.known.into_iter().filter(wanted).max_by_key(|job| job.changed);
                        let latest = found.as_ref().map(|job| job.changed);
                        // It may be the one that is meant.
                        match jobs.broken.into_iter().filter(|broken| Some(broken.changed) > latest).max_by_key(|broken| broken.changed) {
                            Some(broken) => return Err(broken.error),
                            None => found,
                        }
                    }
                };
                Some(found.ok_or_else(|| JobError::NothingUnfinished { dir: self.path.clone() })?)
            }
        };
        Ok(found.map(|job| job.header.job))
    }

    /// Returns all jobs, the latest first; those whose journals cannot be understood, too.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<JobInfo>, JobError> {
        let _guard = self.exclusive()?;
        let Jobs { known, broken } = self.peek_all()?;
        let mut jobs: Vec<JobInfo> = known.into_iter().map(|job| self.info(job)).collect();
        jobs.extend(broken.into_iter().map(|job| {
            let header = Header { job: job.id, ..Header::default() };
            JobInfo {
                header,
                state: JobState::Unfinished,
                alive: false,
                end: None,
                changed: job.changed,
                path: job.path,
                broken: Some(job.error),
            }
        }));
        jobs.sort_by_key(|job| std::cmp::Reverse(job.changed));
        Ok(jobs)
    }

    /// The job with this id, else with this name.
    ///
    /// # Errors
    /// [`JobError::Unknown`] if there is none.
    pub fn find(&self, job: &str) -> Result<JobInfo, JobError> {
        let _guard = self.exclusive()?;
        self.find_peeked(job).map(|job| self.info(job))
    }

    /// The job that was written to last of those that have something left to do and do not run; for
    /// `--resume` without a word of what.
    ///
    /// # Errors
    /// [`JobError::NothingUnfinished`] if there is none.
    pub fn latest_unfinished(&self) -> Result<JobInfo, JobError> {
        let unfinished = self.list()?.into_iter().find(|job| job.state == JobState::Unfinished);
        let found = unfinished.ok_or_else(|| JobError::NothingUnfinished { dir: self.path.clone() })?;
        found.broken.clone().map_or(Ok(found), Err)
    }

    /// Removes finished jobs by these rules. Jobs that run or have something left to do stay.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file in it not removed.
    pub fn prune(&self, rules: &PruneRules) -> Result<Pruned, JobError> {
        let _guard = self.exclusive()?;
        let Jobs { known, broken } = self.peek_all()?;
        let mut other: u64 = broken.iter().map(|job| size(&job.path)).sum();
        let mut finished = Vec::new();
        for job in known {
            let bytes = size(&job.path) + size(&job.path.with_extension("args")) + size(&self.spool(&job.header.job));
            // A look at its state takes its lock for a moment, so not at each job's.
            let may_go = rules.keep.is_some()
                || rules.max_size.is_some()
                || rules.older_than.is_some_and(|most| job.changed.elapsed().is_ok_and(|age| age > most));
            match may_go && self.info(job.clone()).state == JobState::Finished {
                true => finished.push((job, bytes)),
                false => other += bytes,
            }
        }
        finished.sort_by_key(|(job, _)| std::cmp::Reverse(job.changed));
        let ages: Vec<_> =
            finished.iter().map(|(job, bytes)| Finished { age: job.changed.elapsed().unwrap_or_default(), bytes: *bytes }).collect();
        let mut pruned = Pruned { left: other, ..Pruned::default() };
        for ((job, bytes), goes) in finished.iter().zip(rules.doomed(&ages, other)) {
            if !goes {
                pruned.left += bytes;
                continue;
            }
            std::fs::remove_file(&job.path).map_err(|error| JobError::io(&job.path, "cannot remove", &error))?;
            let _ = std::fs::remove_file(self.lock(&job.header.job));
            let _ = forget(&job.path.with_extension("args"));
            let _ = std::fs::remove_dir_all(self.spool(&job.header.job));
            pruned.freed += bytes;
            pruned.jobs.push(job.header.job.clone());
        }
        Ok(pruned)
    }

    fn journal(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.jsonl"))
    }

    fn spool(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.spool"))
    }

    fn lock(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.lock"))
    }

    fn exclusive(&self) -> Result<File, JobError> {
        let path = self.path.join(".lock");
        let locked = own(&path, Own::AppendOrCreate)
            .and_then(|file| flock(&file, FlockOperation::LockExclusive).map(|()| file).map_err(io::Error::from));
        locked.map_err(|error| JobError::io(&path, "cannot lock", &error))
    }

    fn peek_all(&self) -> Result<Jobs, JobError> {
        let fail = |error: io::Error| JobError::io(&self.path, "cannot read the state directory", &error);
        let mut jobs = Jobs::default();
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_none_or(|extension| extension != "jsonl") || !is_id(id) {
                continue;
            }
            let id = id.to_owned();
            let changed = path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            match peek(&path) {
                Ok((header, end)) if header.job == id => jobs.known.push(Peeked { header, end, changed, path }),
                Ok((header, _)) => {
                    let why = format!("it is the header of job {}, not of {id}", header.job);
                    jobs.broken.push(BrokenJob { id, changed, error: JobError::Broken { path: path.clone(), line: 1, why }, path });
                }
                // Gone meanwhile, or not to be read by this user.
                Err(error @ JobError::Broken { .. }) => jobs.broken.push(BrokenJob { id, changed, error, path }),
                Err(_) => {}
            }
        }
        Ok(jobs)
    }

    fn find_peeked(&self, job: &str) -> Result<Peeked, JobError> {
        let path = self.journal(job);
        if is_id(job) && path.exists() {
            // Asked for by its id, so that a journal that cannot be understood is named.
            let (header, end) = peek(&path)?;
            let changed = path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            return Ok(Peeked { header, end, changed, path });
        }
        let found = self.peek_all()?.of_name(job)?;
        found.ok_or_else(|| JobError::Unknown { job: job.to_owned(), dir: self.path.clone() })
    }

    fn info(&self, job: Peeked) -> JobInfo {
        let holder = JobLock::holder(&self.lock(&job.header.job));
        let state = match holder {
            Some((pid, _)) => JobState::Running(pid),
            None if job.complete() => JobState::Finished,
            None => JobState::Unfinished,
        };
        let alive = holder.is_some_and(|(_, alive)| alive);
        JobInfo { header: job.header, state, alive, end: job.end, changed: job.changed, path: job.path, broken: None }
    }
}

/// Keeps a command line with secrets in it, for this user alone.
fn keep(path: &Path, args: &[String]) -> io::Result<()> {
    forget(path)?;
    let mut file = own(path, Own::New)?;
    file.write_all(&serde_json::to_vec(args)?)?;
    file.sync_all()
}

fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The journals of a directory.
#[derive(Default)]
struct Jobs {
    known: Vec<Peeked>,
    broken: Vec<BrokenJob>,
}

/// Returns the bytes of a file, or of the files in a folder; 0 for what is not there.
fn size(path: &Path) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    std::fs::read_dir(path).map_or(0, |entries| entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
}

/// A journal whose header cannot be trusted.
struct BrokenJob {
    id: String,
    changed: SystemTime,
    error: JobError,
    path: PathBuf,
}

impl Jobs {
    /// The job of this name, if there is one. An error if a broken journal may be its.
    fn of_name(self, name: &str) -> Result<Option<Peeked>, JobError> {
        match self.known.into_iter().find(|job| job.has_name(name)) {
            Some(job) => Ok(Some(job)),
            None => self.broken.into_iter().find(|job| may_be_named(&job.path, name)).map_or(Ok(None), |job| Err(job.error)),
        }
    }
}

#[derive(Clone, Debug)]
struct Peeked {
    header: Header,
    end: Option<End>,
    changed: SystemTime,
    path: PathBuf,
}

impl Peeked {
    fn has_name(&self, name: &str) -> bool {
        self.header.name.as_deref() == Some(name)
    }

    fn complete(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.complete)
    }

    fn may_have_failures(&self) -> bool {
        self.end.as_ref().is_none_or(|end| end.counts.failures() > 0)
    }
}

fn is_id(text: &str) -> bool {
    (4..=16).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks that this can be a job's name.
///
/// # Errors
/// [`JobError::Name`] says what a name is made of.
pub(crate) fn check_name(name: &str) -> Result<(), JobError> {
    let fits = (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    // A dash in front would read as a flag behind --resume.
    if fits && !name.starts_with('-') { Ok(()) } else { Err(JobError::Name { name: name.to_owned() }) }
}
