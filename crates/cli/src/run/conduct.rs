//! Runs a plan: journal, output, lanes and engine put together, watched until the end.

use std::{
    collections::VecDeque,
    io::Write,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
    },
    time::{Duration, Instant, SystemTime},
};

use longshore_core::{
    Clock, LaneKind, Phase, Reason, Stop, Word,
    engine::{self, Engine, EngineConfig, Handle, Lanes},
    gate::GateConfig,
    lane::child::Children,
    source::thread::ThreadSource,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    progress::{self, ColorMode, Progress, RateMeter, Slow, Snapshot, Summary, summary::Waited, view::State},
    run::{
        RunError,
        args::{RunArgs, Timeout},
        checks,
        ending::Facts,
        input::Input,
        intake::{Counts, Intake, Item, Window},
        journal::{Begin, Durability, End, Index, Journal, OpenJob, Occurrences, StateDir},
        keys::Keys,
        ledger::{Journaled, Ledger, Tally},
        machine,
        output::{Emit, Feed, Hooks, Output, OutputError, save::SaveOutput},
        plan::Plan,
        reply::Reply,
        what::Lanebuilder,
    },
    units,
};

/// Time between looks at the engine.
const LOOK: Duration = Duration::from_millis(100);
/// Runs that must have ended before `--timeout 300%` knows a median.
const MEDIAN_OF: u64 = 5;
/// How long the reader of stdout may take for what is left after an interruption.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a run stops before its input is at its end.
enum Why {
    MaxFail { now: bool },
    UntilOk,
    ReaderGone,
    /// The journal or the output; what they said.
    Unwritable(String),
}

/// What is left of a job that ran: for the exit code, the summary and the last words.
struct Left {
    engine: engine::Summary,
    facts: Facts,
    wall: Duration,
    words: Vec<String>,
}

/// Everything about a job that is ready to run.
pub struct Ready {
    args: RunArgs,
    plan: Plan,
    input: Input,
    job: Option<OpenJob>,
    id: String,
}

impl Ready {
    /// Takes the job: its journal and its lock.
    ///
    /// # Errors
    /// What the journal's directory says: 2, 7, 74 or 75.
    pub fn take(args: RunArgs, mut plan: Plan, input: Input, command_line: Vec<String>) -> Result<Self, RunError> {
        let fail = |error: crate::run::journal::JobError| RunError { code: error.exit_code(), message: error.to_string() };
        plan.spec.args = command_line;
        if args.durable.0 == Durability::Off {
            if args.name.is_some() || args.resume.is_some() || args.retry_failed.is_some() {
                return Err(RunError { code: 2, message: "--name, --resume and --retry-failed need the journal; leave --durable off out".to_owned() });
            }
            let id = format!("{:04x}", fastrand::u16(..));
            return Ok(Self { args, plan, input, job: None, id });
        }
        let state = StateDir::open(args.state_dir.as_deref()).map_err(fail)?;
        let given = |job: &String| if job.is_empty() { None } else { Some(job.clone()) };
        let begin = match (&args.resume, &args.retry_failed, args.fresh) {
            (Some(job), _, _) => Begin::Resume(given(job)),
            (_, Some(job), _) => Begin::RetryFailed(given(job)),
            (_, _, true) => Begin::Fresh,
            _ => Begin::Auto,
        };
        let job = state.begin(&plan.spec, &begin).map_err(fail)?;
        // Old journals go quietly; a journal that cannot be removed is no reason not to run.
        let _ = state.prune(crate::commands::jobs::KEEP);
        let id = job.header.job.clone();
        Ok(Self { args, plan, input, job: Some(job), id })
    }

    /// Runs the job to its end on the current runtime. Returns the exit code.
    ///
    /// # Errors
    /// Exit code and sentence, when it cannot even start.
    pub async fn run(mut self, color: ColorMode) -> Result<u8, RunError> {
        let broken = |message: String| RunError { code: 74, message };
        let (tell, mut told) = mpsc::unbounded_channel::<Why>();
        let counts = Arc::new(Counts::default());
        let window = self.plan.output.ordered_from.map(|first| Arc::new(Window::new(self.args.order_window, first)));
        let hooks = Hooks {
            failed: {
                let tell = tell.clone();
                Box::new(move |error| {
                    let _ = tell.send(match error {
                        OutputError::ReaderGone => Why::ReaderGone,
                        other => Why::Unwritable(other.to_string()),
                    });
                })
            },
            advanced: {
                let window = window.clone();
                Box::new(move |lowest| {
                    if let Some(window) = &window {
                        window.advance(lowest);
                    }
                })
            },
        };
        let output = Output::open(&self.plan.output, self.job.as_mut(), self.args.fresh, hooks).map_err(|error| {
            // A job that has only just begun never was: the next --resume is not about it.
            if let Some(job) = self.job.take().filter(|job| !job.resumed) {
                job.discard();
            }
            RunError { code: error.exit_code(), message: error.to_string() }
        })?;

        let children = if self.plan.what.has_children() {
            let keep: Vec<_> = self.job.iter().map(|job| job.lock.as_fd()).collect();
            Children::guarded(&keep).map_err(|error| RunError { code: 70, message: format!("no guardian for the children: {error}") })?
        } else {
            Children::new().map_err(|error| RunError { code: 70, message: error.to_string() })?
        };

        let (index, before, lock, journal_file) = match self.job {
            None => (Arc::new(Index::default()), None, None, None),
            Some(job) => {
                let before = Before { resumed: job.resumed, sitting: job.sitting, name: job.header.name.clone() };
                (job.index, Some(before), Some(job.lock), Some(job.journal))
            }
        };
        let journaled = journal_file.is_some();
        let on_failure = {
            let tell = tell.clone();
            move |error: &crate::run::journal::JournalError| {
                let _ = tell.send(Why::Unwritable(error.to_string()));
            }
        };
        let journal = Journal::start(&self.id, journal_file, self.args.durable.0, Some(output.feed()), on_failure)
            .map_err(|error| broken(format!("no thread for the journal: {error}")))?;
        let journal = Arc::new(journal);

        let show_on_stdout = self.plan.output.file.is_none() && self.plan.output.emit != Emit::None;
        let mode = match self.args.progress {
            // Results and a bar on one terminal would overwrite each other.
            progress::Mode::Auto if show_on_stdout && std::io::IsTerminal::is_terminal(&std::io::stdout()) => progress::Mode::None,
            mode => mode,
        };
        let name = before.as_ref().and_then(|before| before.name.clone()).unwrap_or_else(|| self.id.clone());
        let progress = Arc::new(Mutex::new(Some(Progress::new(mode, color, self.args.every))));
        if before.as_ref().is_some_and(|before| before.resumed) {
            say(&progress, &resume_words(&name, &self.id, &index));
        }

        let tally = Arc::new(Tally::default());
        let outbox = engine::outbox();
        let what = Arc::new(self.plan.what);
        let intake_error = Arc::new(Mutex::new(None));
        let intake = Intake {
            input: self.input,
            rules: self.plan.rules,
            what: what.clone(),
            index: index.clone(),
            occurrences: (journaled || self.args.dups != crate::run::args::Dups::Run).then(Occurrences::default),
            window,
            skipped: {
                let (feed, ordered) = (output.feed(), self.plan.output.ordered_from.is_some());
                Box::new(move |places| {
                    if ordered {
                        feed.skipped(places);
                    }
                })
            },
            counts: counts.clone(),
            gone: VecDeque::new(),
        };
        let noted = intake_error.clone();
        let source = ThreadSource::new(intake.inspect(move |delivery| {
            if let Err(error) = delivery {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.message.clone());
            }
        }));
        let builder = Lanebuilder {
            outbox: outbox.clone(),
            children: children.clone(),
            job: self.id.clone(),
            cpu: self.plan.lanes[LaneKind::Cpu as usize].max(1),
        };
        let (lanes, end_children) = builder.build(&what).map_err(|message| RunError { code: 2, message })?;
        let lanes: Lanes<Arc<Item>, Reply> = lanes.map(|lane| {
            lane.map(|lane| -> Arc<dyn longshore_core::lane::Lane<_, _>> {
                if journaled { Arc::new(Journaled::new(lane, journal.clone(), outbox.clone())) } else { lane }
            })
        });
        let epoch = (Instant::now(), SystemTime::now());
        let emits_raw = self.plan.output.emit == Emit::Raw;
        let sink = Ledger {
            journal: journal.clone(),
            tally: tally.clone(),
            raw: emits_raw,
            save: self
                .args
                .save_output
                .as_deref()
                .map(SaveOutput::open)
                .transpose()
                .map_err(|error| broken(format!("--save-output: {error}")))?,
            after: stop_rules(&self.args, &index, tell.clone()),
            stderr: (emits_raw && show_on_stdout).then(|| {
                let progress = progress.clone();
                Box::new(move |bytes: &[u8]| {
                    if let Some(progress) = &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
                        progress.suspend(|| {
                            let _ = std::io::stderr().write_all(bytes);
                        });
                    }
                }) as Box<dyn Fn(&[u8]) + Send>
            }),
            epoch,
        };
        let queue = 2 * self.plan.concurrency;
        let fixed = match self.plan.timeout {
            Some(Timeout::Fixed(limit)) => Some(limit),
            _ => None,
        };
        let config = EngineConfig {
            gate: GateConfig {
                concurrency: Some(self.plan.concurrency),
                lanes: self.plan.lanes,
                rate: self.plan.rate,
                limits: self.plan.limits,
                parking: 1000,
                results: queue,
            },
            lane: self.plan.lane,
            retry: Arc::new(self.plan.retry),
            timeout: fixed,
            queue,
            copy: Some(Arc::clone),
            keep_payloads: true,
            clock: Clock::SYSTEM,
            seed: fastrand::u64(..),
        };
        // Before anything starts, so that no signal finds a run that does not hear it.
        let mut signals = Signals::listen();
        let runtime = tokio::runtime::Handle::current();
        let running = Engine::start(config, Arc::new(source), lanes, Box::new(sink), outbox, None, &runtime);
        let estimate = {
            let input = self.plan.input.clone();
            tokio::task::spawn_blocking(move || input.estimate())
        };
        let keys_wanted = mode.resolve(std::io::IsTerminal::is_terminal(&std::io::stderr())) == progress::Mode::Bar;
        let watch = Watch {
            args: &self.args,
            handle: running.handle(),
            children: &children,
            counts: &counts,
            tally: &tally,
            index: &index,
            progress: &progress,
            name: &name,
            id: &self.id,
            concurrency: self.plan.concurrency,
            median: match self.plan.timeout {
                Some(Timeout::OfMedian(share)) => Some(share),
                _ => None,
            },
            total: None,
            meter: RateMeter::default(),
            interrupts: 0,
            terminated: false,
            state: State::Running,
            paused_by: Pauses::default(),
            facts: Facts { failures_checked: self.args.check.iter().any(checks::Check::is_on_failed), ..Facts::default() },
            words: Vec::new(),
            stopped: false,
            feed: output.feed(),
        };
        let mut left = watch.until_end(running, estimate, &mut told, keys_wanted, &mut signals).await;

        // The engine is done. What it wrote goes to the output, then the journal ends. Children and a reader may take their time, but a signal is
        // heard to the end.
        let mut ending = Ending { signals: &mut signals, children: &children, feed: output.feed(), signal: left.facts.signal, give_up: None };
        ending.wait(end_children).await;
        if left.facts.signal.is_some() || left.facts.reader_gone {
            ending.give_up = Some(Instant::now() + PATIENCE);
        }
        let flushed = { let journal = journal.clone(); ending.wait(move || journal.flush()).await };
        if let Some(Err(error)) = flushed {
            left.unwritable(error.to_string());
        }
        let (regular, missing) = (output.is_file(), output.missing());
        let finished = tokio::task::spawn_blocking(move || output.finish(None));
        match ending.unless_given_up(finished).await {
            Ok(_) => {}
            Err(OutputError::ReaderGone) => left.facts.reader_gone = true,
            Err(error) => left.unwritable(error.to_string()),
        }
        left.facts.signal = ending.signal;
        if let Some(error) = intake_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            left.facts.unreadable = true;
            left.words.push(error);
        } else if let Some(error) = left.engine.error.take().filter(|_| !left.facts.unwritable) {
            // Not the input, not the disk: the engine itself.
            left.facts.bug = true;
            left.words.push(error);
        }
        if missing > 0 {
            left.words.push(format!("{missing} results of earlier sittings could not be written anew: the journal does not have their raw bytes"));
        }

        let mine = tally.counts();
        let all: [u64; Word::ALL.len()] = std::array::from_fn(|word| mine[word] + index.counts()[word]);
        let finished: u64 = Word::ALL.iter().filter(|word| **word != Word::Cancelled).map(|word| all[*word as usize]).sum();
        let ended = counts.ended.load(Ordering::Acquire);
        let read = counts.read.load(Ordering::Relaxed) - counts.left_out.load(Ordering::Relaxed);
        let remaining = left.remaining(read, &counts, mine, ended);
        let complete = remaining == 0 && ended && !left.facts.bug && !left.facts.unwritable;
        left.facts.stopped_early &= !complete;
        if complete {
            left.facts.signal = None;
        }
        left.facts.failed = all[Word::Failed as usize..=Word::Lost as usize].iter().sum();
        let sittings = before.as_ref().map_or(1, |before| before.sitting);
        let mut summary = left.summary(&name, &self.id, all, sittings, remaining);
        (summary.retried, summary.ok_retried) = tally.retried();
        summary.failed_by_error = tally.errors();
        summary.width = u32::try_from(self.plan.concurrency).unwrap_or(u32::MAX);
        summary.pace = self.args.rate.map(|rate| rate.to_string());
        summary.waited.retain(|(waited, _)| *waited != Waited::Slots || what.is_http());
        summary.results = self.plan.output.file.clone().filter(|_| regular).map(|path| {
            let lines = std::fs::read(&path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
            progress::summary::ResultsFile { path, lines }
        });
        for failure in checks::evaluate(&self.args.check, &summary) {
            left.facts.check_failed = true;
            left.words.push(failure);
        }
        let mut code = left.facts.code();
        if self.args.exit_count && matches!(code, 0 | 1) {
            code = u8::try_from(left.facts.failed.min(101)).unwrap_or(101);
        }
        summary.exit_code = i32::from(code);
        if let Some(journal) = unshared(journal).await {
            let end = End::now(complete, code, all, remaining);
            let closed = tokio::task::spawn_blocking(move || journal.close(Some(end))).await;
            if let Ok(Err(error)) = closed
                && !left.facts.unwritable
            {
                left.unwritable(error.to_string());
                code = left.facts.code();
                summary.exit_code = i32::from(code);
            }
        }
        // No child is left. A guardian that is told so goes at once, and the job is free with the end of this process and not a moment later.
        let guard = children.clone();
        let _ = tokio::task::spawn_blocking(move || guard.finish()).await;
        drop(lock);
        if let Some(progress) = progress.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let last = Snapshot {
                name: name.clone(),
                job: self.id.clone(),
                done: finished,
                total: ended.then_some(read),
                ok: all[Word::Ok as usize],
                failed: left.facts.failed,
                rate_per_s: summary.rate_per_s,
                p50: Some(summary.run.p50),
                p99: Some(summary.run.p99),
                ..Snapshot::default()
            };
            progress.finish(&last);
        }
        for word in &left.words {
            eprintln!("longshore: {word}");
        }
        let nothing_left = complete && mine.iter().sum::<u64>() == 0 && before.as_ref().is_some_and(|before| before.resumed);
        if nothing_left {
            eprintln!(" {name}: nothing left to do, all {} tasks are finished", units::show_count(finished));
        }
        if code != 141 {
            match self.args.summary.as_str() {
                "text" => eprint!("{}", with_newline(summary.text(color.on_stderr()))),
                "json" => eprintln!("{}", summary.json()),
                _ => {}
            }
        }
        if let Some(path) = &self.args.summary_file {
            std::fs::write(path, format!("{}\n", summary.json())).map_err(|error| broken(format!("--summary-file {}: {error}", path.display())))?;
        }
        Ok(code)
    }
}

fn with_newline(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

struct Before {
    resumed: bool,
    sitting: u32,
    name: Option<String>,
}

fn resume_words(name: &str, id: &str, index: &Index) -> String {
    format!(
        " resume {name} {id}: {} done ({} failed), {} were in flight",
        units::show_count(index.finished()),
        units::show_count(index.failed()),
        units::show_count(index.in_flight())
    )
}

/// The journal, once all others have let go of it.
async fn unshared(journal: Arc<Journal>) -> Option<Journal> {
    let mut journal = journal;
    for _ in 0..100 {
        match Arc::try_unwrap(journal) {
            Ok(journal) => return Some(journal),
            Err(shared) => journal = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

fn say(progress: &Mutex<Option<Progress>>, line: &str) {
    match &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(progress) => progress.message(line),
        None => eprintln!("{line}"),
    }
}

/// `--max-fail` and `--until-ok`, looked at after each batch of results.
fn stop_rules(args: &RunArgs, index: &Arc<Index>, tell: mpsc::UnboundedSender<Why>) -> Box<dyn Fn(&Tally) + Send> {
    let (max_fail, until_ok, index) = (args.max_fail.clone(), args.until_ok, index.clone());
    if max_fail.is_none() && until_ok.is_none() {
        return Box::new(|_| ());
    }
    let told = std::cell::Cell::new(false);
    Box::new(move |tally| {
        let (now, before) = (tally.counts(), index.counts());
        let count = |word: Word| now[word as usize] + before[word as usize];
        let failed = [Word::Failed, Word::Timeout, Word::Panicked, Word::Killed, Word::Lost].into_iter().map(count).sum();
        let ok = count(Word::Ok);
        if told.get() {
            return;
        }
        if let Some(rule) = max_fail.as_ref().filter(|rule| rule.tripped(failed, failed + ok)) {
            told.set(true);
            let _ = tell.send(Why::MaxFail { now: rule.now });
        } else if until_ok.is_some_and(|rule| rule.reached(ok)) {
            told.set(true);
            let _ = tell.send(Why::UntilOk);
        }
    })
}

#[derive(Default)]
struct Pauses {
    user: bool,
    load: bool,
}

/// Watches a job that runs: draws progress, hears signals and keys, stops when a rule says so.
struct Watch<'a> {
    args: &'a RunArgs,
    handle: Handle,
    children: &'a Children,
    counts: &'a Counts,
    tally: &'a Tally,
    index: &'a Index,
    progress: &'a Mutex<Option<Progress>>,
    name: &'a str,
    id: &'a str,
    concurrency: usize,
    median: Option<f64>,
    total: Option<u64>,
    meter: RateMeter,
    interrupts: u32,
    terminated: bool,
    state: State,
    paused_by: Pauses,
    facts: Facts,
    words: Vec<String>,
    stopped: bool,
    feed: Feed,
}

impl Watch<'_> {
    async fn until_end(
        mut self,
        running: engine::Running,
        estimate: tokio::task::JoinHandle<Option<u64>>,
        told: &mut mpsc::UnboundedReceiver<Why>,
        keys_wanted: bool,
        signals: &mut Signals,
    ) -> Left {
        let began = Instant::now();
        let mut estimate = Some(estimate);
        let Signals { int, term, hup, usr1 } = signals;
        let (press, mut pressed) = mpsc::unbounded_channel();
        let _keys = if keys_wanted { Keys::start(press) } else { None };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks = 0u64;
        let mut join = std::pin::pin!(running.join());
        let mut job_limit = std::pin::pin!(sleep_or_never(self.args.job_timeout));
        let mut grace = std::pin::pin!(sleep_or_never(None));
        let mut reader = std::pin::pin!(sleep_or_never(None));
        let engine = loop {
            tokio::select! {
                biased;
                summary = &mut join => break summary,
                Some(why) = told.recv() => self.stop_because(why),
                Some(()) = hear(int) => {
                    if self.interrupt() {
                        reader.set(sleep_or_never(Some(PATIENCE)));
                    }
                }
                // Nothing runs any more, but results wait for a reader that takes none of them: they stay in the journal.
                () = &mut reader => {
                    reader.set(sleep_or_never(None));
                    self.feed.close();
                }
                Some(()) = hear(term) => {
                    if self.terminate() {
                        grace.set(sleep_or_never(Some(self.args.grace)));
                    }
                }
                Some(()) = hear(hup) => {
                    if self.terminate() {
                        grace.set(sleep_or_never(Some(self.args.grace)));
                    }
                }
                Some(()) = hear(usr1) => self.list_running().await,
                Some(key) = pressed.recv() => self.key(key).await,
                () = &mut job_limit => {
                    job_limit.set(sleep_or_never(None));
                    self.facts.stopped_early = true;
                    self.words.push(format!("stopped after {} (--job-timeout)", units::show_duration(self.args.job_timeout.unwrap_or_default())));
                    self.drain();
                    self.handle.stop(Stop::Soft);
                    grace.set(sleep_or_never(Some(self.args.kill_after)));
                }
                () = &mut grace => {
                    // After the grace of SIGTERM softly, then by force.
                    let how = if self.interrupts < 2 && !self.stopped { Stop::Soft } else { Stop::Hard };
                    self.stopped = true;
                    self.handle.stop(how);
                    if how == Stop::Hard {
                        reader.set(sleep_or_never(Some(PATIENCE)));
                    }
                    grace.set(sleep_or_never((how == Stop::Soft).then_some(self.args.kill_after)));
                }
                _ = tick.tick() => {
                    ticks += 1;
                    if estimate.as_ref().is_some_and(tokio::task::JoinHandle::is_finished) && let Some(done) = estimate.take() {
                        self.total = done.await.ok().flatten();
                    }
                    if ticks.is_multiple_of(10) {
                        self.look_at_machine();
                    }
                    self.look().await;
                }
            }
        };
        Left { engine, facts: self.facts, wall: began.elapsed(), words: self.words }
    }

    async fn look(&mut self) {
        let Some(snapshot) = self.handle.snapshot().await else { return };
        if let Some(share) = self.median
            && snapshot.summary.done() >= MEDIAN_OF
        {
            self.handle.set_timeout(Some(snapshot.summary.run.p50.mul_f64(share)));
        }
        let view = self.view(&snapshot, Instant::now());
        if let Some(progress) = &mut *self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.update(&view, Instant::now());
        }
    }

    fn view(&mut self, snapshot: &engine::Snapshot, now: Instant) -> Snapshot {
        let (mine, before) = (self.tally.counts(), self.index.counts());
        let count = |word: Word| mine[word as usize] + before[word as usize];
        let failed: u64 = [Word::Failed, Word::Timeout, Word::Panicked, Word::Killed, Word::Lost].into_iter().map(count).sum();
        let done = count(Word::Ok) + failed + count(Word::Skipped);
        let here: u64 = mine.iter().sum();
        self.meter.update(now, here);
        let left_out = self.counts.left_out.load(Ordering::Relaxed);
        let total = if self.counts.ended.load(Ordering::Acquire) {
            Some(self.counts.read.load(Ordering::Relaxed) - left_out)
        } else {
            let take = self.args.take.unwrap_or(u64::MAX);
            self.total.map(|total| total.saturating_sub(self.args.skip).min(take).saturating_sub(left_out).max(done))
        };
        let slow = snapshot.running.first().filter(|task| task.age >= self.args.slow);
        let gate = snapshot.waiting.iter().filter(|(reason, _)| *reason != Reason::Empty && !matches!(reason, Reason::Concurrency { .. }));
        Snapshot {
            name: self.name.to_owned(),
            job: self.id.to_owned(),
            done,
            total,
            ok: count(Word::Ok),
            failed,
            retrying: snapshot.retrying as u64,
            active: snapshot.active as u64,
            rate_per_s: self.meter.per_second(),
            p50: (here > 0).then_some(snapshot.summary.run.p50),
            p99: (here > 0).then_some(snapshot.summary.run.p99),
            eta: total.and_then(|total| self.meter.eta(total.saturating_sub(done))),
            gate: gate.map(|(reason, waiting)| (reason.to_string(), *waiting as u64)).collect(),
            slow: slow.map(|task| Slow { seq: task.id, age: task.age, attempt: task.attempt }),
            state: match snapshot.phase {
                Phase::Paused => State::Paused,
                Phase::Running => State::Running,
                Phase::Draining | Phase::Cancelling | Phase::Done => State::Stopping,
            },
        }
    }

    fn drain(&mut self) {
        self.state = State::Stopping;
        self.handle.drain();
    }

    fn stop_because(&mut self, why: Why) {
        match why {
            Why::MaxFail { now } => {
                self.facts.stopped_early = true;
                if let Some(rule) = &self.args.max_fail {
                    self.words.push(format!("stopped: too many tasks failed (--max-fail {rule})"));
                }
                self.drain();
                if now {
                    self.handle.stop(Stop::Soft);
                }
            }
            Why::UntilOk => self.drain(),
            Why::ReaderGone => {
                self.facts.reader_gone = true;
                self.drain();
                self.handle.stop(Stop::Soft);
            }
            Why::Unwritable(text) => {
                if !std::mem::replace(&mut self.facts.unwritable, true) {
                    self.words.push(text);
                }
                self.drain();
            }
        }
    }

    /// Ctrl-C. Returns whether this was the last that there is.
    fn interrupt(&mut self) -> bool {
        self.interrupts += 1;
        self.facts.signal.get_or_insert(2);
        let running = self.children.running().len();
        match self.interrupts {
            1 => {
                self.drain();
                self.say(" stopping: no new tasks; waiting for those that run (Ctrl-C again to end them)");
            }
            2 => {
                self.handle.stop(Stop::Soft);
                let children = if running > 0 { format!(" {running} children") } else { String::new() };
                self.say(&format!(" ending{children} what runs (Ctrl-C again to kill)").replace("  ", " "));
            }
            _ => self.handle.stop(Stop::Hard),
        }
        self.interrupts > 2
    }

    /// SIGTERM or SIGHUP: as one Ctrl-C, and as two after the grace. Returns whether this was the first.
    fn terminate(&mut self) -> bool {
        self.facts.signal.get_or_insert(15);
        if std::mem::replace(&mut self.terminated, true) {
            self.handle.stop(Stop::Soft);
            return false;
        }
        self.drain();
        self.say(&format!(" stopping: no new tasks; those that run have {}", units::show_duration(self.args.grace)));
        true
    }

    async fn key(&mut self, key: char) {
        match key {
            's' => self.list_running().await,
            'p' => {
                self.paused_by.user = !self.paused_by.user;
                self.apply_pause();
            }
            '+' | '-' => {
                let step = (self.concurrency / 10).max(1);
                self.concurrency =
                    if key == '+' { self.concurrency + step } else { self.concurrency.saturating_sub(step).max(1) };
                let Some(snapshot) = self.handle.snapshot().await else { return };
                for lane in LaneKind::ALL.into_iter().filter(|lane| snapshot.lanes[*lane as usize] > 0 && *lane != LaneKind::Cpu) {
                    self.handle.set_concurrency(Some(lane), self.concurrency);
                }
                self.handle.set_concurrency(None, self.concurrency);
                self.say(&format!(" concurrency {}", self.concurrency));
            }
            'q' => {
                self.interrupt();
            }
            _ => {}
        }
    }

    fn apply_pause(&self) {
        if self.paused_by.user || self.paused_by.load { self.handle.pause() } else { self.handle.resume() }
    }

    fn look_at_machine(&mut self) {
        let loaded = self.args.max_load.is_some_and(|most| machine::load().is_some_and(|load| load > most));
        let low = self.args.min_free_mem.is_some_and(|least| machine::free_memory().is_some_and(|free| free < least));
        if (loaded || low) != self.paused_by.load {
            self.paused_by.load = loaded || low;
            self.apply_pause();
            self.say(match (loaded, low) {
                (true, _) => " paused: the load is above --max-load",
                (_, true) => " paused: less memory is free than --min-free-mem",
                _ => " going on: the machine has room again",
            });
        }
    }

    async fn list_running(&self) {
        let Some(snapshot) = self.handle.snapshot().await else { return };
        let lines = self.children.running();
        self.say(&format!(" {} running, {} waiting for another attempt", snapshot.active, snapshot.retrying));
        for task in &snapshot.running {
            let last = lines.iter().find(|child| child.slot == task.slot).map_or("", |child| &child.last_line);
            let last = if last.is_empty() { String::new() } else { format!("   {}", last.escape_debug()) };
            self.say(&format!(" #{} {} attempt {} slot {}-{}{last}", task.id, units::show_duration(task.age), task.attempt, task.lane, task.slot + 1));
        }
    }

    fn say(&self, line: &str) {
        say(self.progress, line);
    }
}

/// The signals that a run hears.
struct Signals {
    int: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
    usr1: Option<Signal>,
}

impl Signals {
    fn listen() -> Self {
        let listen = |kind| signal(kind).ok();
        Self {
            int: listen(SignalKind::interrupt()),
            term: listen(SignalKind::terminate()),
            hup: listen(SignalKind::hangup()),
            usr1: listen(SignalKind::user_defined1()),
        }
    }

    /// The next that asks for an end: 2 or 15.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            Some(()) = hear(&mut self.int) => 2,
            Some(()) = hear(&mut self.term) => 15,
            Some(()) = hear(&mut self.hup) => 15,
            else => std::future::pending().await,
        }
    }
}

/// What is left to do when every task has ended, for which nobody has to wait who does not want to: the first signal ends the children and leaves
/// the reader of stdout a moment, the second leaves it none.
struct Ending<'a> {
    signals: &'a mut Signals,
    children: &'a Children,
    feed: Feed,
    signal: Option<u8>,
    /// When the reader has had enough time.
    give_up: Option<Instant>,
}

impl Ending<'_> {
    /// Waits for work that ends when the children have ended and nothing waits for the reader.
    async fn wait<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let mut work = tokio::task::spawn_blocking(work);
        if let Some(done) = self.turn(&mut work).await {
            return done;
        }
        self.feed.close();
        // Now nothing waits for the reader any more, so this ends, and then the output is given up at once.
        work.await.ok()
    }

    /// Waits for the output, as long as anybody wants to.
    async fn unless_given_up(&mut self, mut work: tokio::task::JoinHandle<Result<u64, OutputError>>) -> Result<u64, OutputError> {
        self.turn(&mut work).await.flatten().unwrap_or(Err(OutputError::Stalled))
    }

    /// What the work returned (nothing if it panicked), or `None` when it is time to give up.
    async fn turn<T>(&mut self, work: &mut tokio::task::JoinHandle<T>) -> Option<Option<T>> {
        loop {
            let rest = self.give_up.map(|at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                done = &mut *work => return Some(done.ok()),
                () = sleep_or_never(rest) => return None,
                signal = self.signals.next() => {
                    let first = self.signal.replace(signal).is_none();
                    self.children.stop(Stop::Hard);
                    self.give_up = Some(Instant::now() + if first { PATIENCE } else { Duration::ZERO });
                }
            }
        }
    }
}

async fn sleep_or_never(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn hear(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

impl Left {
    fn unwritable(&mut self, text: String) {
        if !std::mem::replace(&mut self.facts.unwritable, true) {
            self.words.push(text);
        }
    }

    /// Tasks that have not run, as far as is known: those handed back, and the part of the input that was not read.
    fn remaining(&self, read: u64, counts: &Counts, mine: [u64; Word::ALL.len()], ended: bool) -> u64 {
        let done_here: u64 = Word::ALL.iter().filter(|word| **word != Word::Cancelled).map(|word| mine[*word as usize]).sum();
        let known = read.saturating_sub(counts.finished.load(Ordering::Relaxed)).saturating_sub(done_here);
        if ended { known } else { known.max(1) }
    }

    fn summary(&self, name: &str, id: &str, counts: [u64; Word::ALL.len()], sittings: u32, remaining: u64) -> Summary {
        let engine = &self.engine;
        let quantiles = |from: engine::Quantiles| progress::summary::Quantiles { p50: from.p50, p90: from.p90, p95: from.p95, p99: from.p99, max: from.max };
        let wall = self.wall.as_secs_f64().max(f64::EPSILON);
        let mut waited: Vec<(Waited, f64)> = Vec::new();
        for (reason, time) in &engine.waited {
            let Some(kind) = waited_for(reason) else { continue };
            let share = time.as_secs_f64() / wall;
            match waited.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, sum)) => *sum += share,
                None => waited.push((kind, share)),
            }
        }
        Summary {
            name: name.to_owned(),
            job: id.to_owned(),
            counts,
            remaining,
            sittings,
            wall: self.wall,
            rate_per_s: engine.done() as f64 / wall,
            run: quantiles(engine.run),
            wait: quantiles(engine.wait),
            waited,
            slots: engine
                .slots
                .iter()
                .map(|slot| progress::SlotSummary { slot: slot.slot + 1, tasks: slot.tasks, busy: slot.busy, share: slot.share })
                .collect(),
            ..Summary::default()
        }
    }
}

fn waited_for(reason: &Reason) -> Option<Waited> {
    Some(match reason {
        Reason::Pace { .. } => Waited::Pace,
        Reason::Concurrency { .. } | Reason::Lane { .. } | Reason::Limit { .. } => Waited::Slots,
        Reason::Key { .. } => Waited::Key,
        Reason::Results { .. } => Waited::Results,
        Reason::Backoff { .. } => Waited::Backoff,
        Reason::Paused => Waited::Load,
        _ => return None,
    })
}
