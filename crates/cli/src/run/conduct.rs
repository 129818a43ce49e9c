//! Runs a plan: journal, output, lanes and engine put together, watched until the end.

use std::{
    collections::VecDeque,
    io::Write,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use longshore_core::{
    Clock, LaneKind, Word,
    engine::{self, Engine, EngineConfig, Lanes},
    gate::GateConfig,
    lane::child::Children,
    source::thread::ThreadSource,
};
use tokio::sync::mpsc;

use crate::{
    progress::{self, ColorMode, Progress, RateMeter, Snapshot, summary::Waited, view::State},
    run::{
        RunError,
        args::{RunArgs, Timeout},
        checks,
        ending::Facts,
        input::Input,
        intake::{Counts, Intake, Item, Window},
        journal::{Begin, Durability, End, Index, Journal, Occurrences, OpenJob, StateDir},
        ledger::{Journaled, Ledger, Tally},
        output::{Emit, Hooks, Output, OutputError, save::SaveOutput},
        plan::Plan,
        reply::Reply,
        signals::{Ending, PATIENCE, Signals},
        watch::{Pauses, Watch, Why, say},
        what::Lanebuilder,
    },
    units,
};

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
                return Err(RunError {
                    code: 2,
                    message: "--name, --resume and --retry-failed need the journal; leave --durable off out".to_owned(),
                });
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
        let output = Output::open(&self.plan.output, self.job.as_mut(), self.args.fresh, hooks)
            .map_err(|error| RunError { code: error.exit_code(), message: error.to_string() })?;

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
        let mut ending =
            Ending { signals: &mut signals, children: &children, feed: output.feed(), signal: left.facts.signal, give_up: None };
        ending.wait(end_children).await;
        if left.facts.signal.is_some() || left.facts.reader_gone {
            ending.give_up = Some(Instant::now() + PATIENCE);
        }
        let flushed = {
            let journal = journal.clone();
            ending.wait(move || journal.flush()).await
        };
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
            left.words.push(format!(
                "{missing} results of earlier sittings could not be written anew: the journal does not have their raw bytes"
            ));
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
            std::fs::write(path, format!("{}\n", summary.json()))
                .map_err(|error| broken(format!("--summary-file {}: {error}", path.display())))?;
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

/// `--max-fail` and `--until-ok`, looked at after each batch of results.
fn stop_rules(args: &RunArgs, index: &Arc<Index>, tell: mpsc::UnboundedSender<Why>) -> Box<dyn Fn(&Tally) + Send> {
    let (max_fail, until_ok, index) = (args.max_fail, args.until_ok, index.clone());
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
