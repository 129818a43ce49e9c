//! Runs a plan: journal, output, lanes and engine put together, watched until the end.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use longshore_core::{
    Clock, LaneKind, Word,
    engine::{self, Engine, EngineConfig, Lanes},
    gate::GateConfig,
    lane::child::Children,
    source::thread::ThreadSource,
};
use longshore_sys::files;
use tokio::sync::mpsc;

use crate::{
    commands::{global::Global, jobs::failures},
    progress::{self, Progress, RateMeter, Snapshot, summary::Waited, view::State},
    run::{
        RunError,
        args::{RunArgs, Timeout},
        checks,
        ending::{Brought, Facts},
        heard::Heard,
        input::{Format, Input, Source, count_records},
        intake::{Call, Counts, Group, Intake, Window},
        journal::{Begin, Durability, End, Index, JobError, Journal, Occurrences, OpenJob, StateDir, format},
        last_output::LastOutputs,
        ledger::{Journaled, KeepOutput, Ledger, Tally},
        output::{self, Around, Emit, Hooks, Output, OutputError, save::SaveOutput},
        overdue::Overdue,
        plan::Plan,
        reply::Reply,
        signals::{Ending, PATIENCE, Signals},
        spool::{Spool, Wanted},
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
    pub async fn run(mut self, global: &Global) -> Result<u8, RunError> {
        let (color, voice) = (global.color, global.voice());
        let broken = |message: String| RunError { code: 74, message };
        let (tell, mut told) = mpsc::unbounded_channel::<Why>();
        let counts = Arc::new(Counts::default());
        let window = self.plan.output.ordered_from.map(|first| Arc::new(Window::new(self.args.order_window, first)));
        let show_on_stdout = self.plan.output.file.is_none() && self.plan.output.emit != Emit::None;
        let bar =
            voice.progress(self.args.view.progress).resolve(std::io::IsTerminal::is_terminal(&std::io::stderr())) == progress::Mode::Bar;
        let progress = Arc::new(Mutex::new(Some(Progress::new(self.args.view.progress, color, self.args.view.every, voice))));
        let emits_raw = self.plan.output.emit == Emit::Raw;
        let wanted = Wanted {
            stdout: emits_raw || self.args.save_output.is_some(),
            stderr: emits_raw && show_on_stdout || self.args.save_output.is_some(),
        };
        let unspooled = {
            let tell = tell.clone();
            Box::new(move |why| {
                let _ = tell.send(Why::Unwritable(why));
            })
        };
        let spool = Arc::new(Spool::new(self.job.as_ref().map(|job| job.spool.clone()), wanted, unspooled));
        let taken_by = Arc::new(OnceLock::<Weak<Journal>>::new());
        let hooks = Hooks {
            taken: {
                let (journal, spool) = (taken_by.clone(), spool.clone());
                Box::new(move |taken| {
                    let path = spool.path(&taken.taken);
                    let remove = move |written: Result<_, _>| drop(written.is_ok().then(|| std::fs::remove_file(&path)));
                    if let Some(journal) = journal.get().and_then(Weak::upgrade) {
                        journal.taken(taken, Box::new(remove));
                    }
                })
            },
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
            // Results and a bar on one terminal would overwrite each other.
            around: (bar && show_on_stdout && std::io::IsTerminal::is_terminal(&std::io::stdout())).then(|| {
                let progress = progress.clone();
                Box::new(move |write: &mut dyn FnMut()| match &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
                    Some(progress) => progress.suspend(write),
                    None => write(),
                }) as Around
            }),
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
            Children::guarded(&keep).map_err(|error| RunError {
                code: longshore_sys::files::exit_code(&error, 70),
                message: format!("no guardian for the children: {}", longshore_sys::files::cause(&error)),
            })?
        } else {
            Children::new().map_err(|error| RunError { code: 70, message: error.to_string() })?
        };

        let (index, before, lock, journal_file) = match self.job {
            None => (Arc::new(Index::default()), None, None, None),
            Some(job) => {
                let before = Before {
                    resumed: job.resumed,
                    sitting: job.sitting,
                    name: job.header.name.clone(),
                    spent: job.spent,
                    complete: job.end.as_ref().is_some_and(|end| end.complete),
                    read: job.read,
                    errors: (job.journal.path().to_owned(), job.journal.len()),
                };
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
        let _ = taken_by.set(Arc::downgrade(&journal));

        let mut estimate = {
            let input = self.plan.input.clone();
            tokio::task::spawn_blocking(move || input.estimate())
        };
        let name = before.as_ref().and_then(|before| before.name.clone()).unwrap_or_else(|| self.id.clone());
        if before.as_ref().is_some_and(|before| before.resumed) {
            let total = tokio::time::timeout(PATIENCE / 10, &mut estimate).await.ok().and_then(Result::ok);
            say(&progress, &resume_words(&name, &self.id, self.args.retry_failed.is_some(), &index, total.flatten()));
            if let Some(total) = total {
                estimate = tokio::spawn(std::future::ready(total));
            }
        }

        let tally = Arc::new(Tally::default());
        let outbox = engine::outbox();
        let (queue, results) = (self.plan.queue(), self.plan.result_queue());
        let what = Arc::new(self.plan.what);
        let batching = self.plan.batching.map(Arc::new);
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
            ended: {
                // A reader that waits for its input for ever must not keep the journal.
                let journal = Arc::downgrade(&journal);
                Box::new(move |read| journal.upgrade().into_iter().for_each(|journal| journal.read(read, true)))
            },
            gone: VecDeque::new(),
            held: None,
            batching: batching.clone(),
            group: Group::default(),
            behind: None,
        };
        let noted = intake_error.clone();
        let source = ThreadSource::new(intake.inspect(move |delivery| {
            if let Err(error) = delivery {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.message.clone());
            }
        }));
        let median = match self.plan.timeout {
            Some(Timeout::OfMedian(share)) => Some((share, Arc::new(Overdue::default()))),
            _ => None,
        };
        let pacer = match self.plan.shared {
            Some(limit) => Some(limit.connect(what.clone(), outbox.clone()).await?),
            None => None,
        };
        // Before anything starts, so that no signal finds a run that does not hear it.
        let mut signals = Signals::listen();
        let last = Arc::new(LastOutputs::new(self.plan.retry.clone()));
        let builder = Lanebuilder {
            heard: Heard::listen(),
            spool: (wanted.stdout || wanted.stderr).then(|| spool.clone()),
            last: last.clone(),
            overdue: median.as_ref().map(|(_, overdue)| overdue.clone()),
            outbox: outbox.clone(),
            children: children.clone(),
            job: self.id.clone(),
            cpu: self.plan.lanes[LaneKind::Cpu as usize].max(1),
            batching,
        };
        let (lanes, end_children) = builder.build(&what).map_err(|message| RunError { code: 2, message })?;
        let lanes: Lanes<Call, Reply> = lanes.map(|lane| {
            lane.map(|lane| -> Arc<dyn longshore_core::lane::Lane<_, _>> {
                let lane = if journaled { Arc::new(Journaled::new(lane, journal.clone(), outbox.clone(), counts.clone())) } else { lane };
                match &pacer {
                    Some(pacer) => Arc::new(pacer.before(lane)),
                    None => lane,
                }
            })
        });
        let epoch = (Instant::now(), SystemTime::now());
        let sink = Ledger {
            journal: journal.clone(),
            tally: tally.clone(),
            raw: emits_raw,
            keep: KeepOutput {
                save: (self.args.save_output.as_deref().map(SaveOutput::open).transpose())
                    .map_err(|error| broken(format!("--save-output: {error}")))?,
                stderr: (emits_raw && show_on_stdout).then(|| {
                    let progress = progress.clone();
                    Arc::new(move |bytes: &mut dyn std::io::Read| {
                        if let Some(progress) = &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
                            progress.suspend(|| {
                                let _ = std::io::copy(bytes, &mut std::io::stderr());
                            });
                        }
                    }) as _
                }),
            },
            last,
            unwritable: {
                let tell = tell.clone();
                Box::new(move |why| {
                    let _ = tell.send(Why::Unwritable(why));
                })
            },
            epoch,
            voice,
            tell: {
                let progress = progress.clone();
                Box::new(move |line: &str| {
                    if let Some(progress) = &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
                        progress.message(line);
                    }
                })
            },
        };
        let fixed = match self.plan.timeout {
            Some(Timeout::Fixed(limit)) => Some(limit),
            _ => None,
        };
        let config = EngineConfig {
            gate: GateConfig {
                concurrency: Some(self.plan.auto.as_ref().map_or(self.plan.concurrency, super::auto::Auto::start)),
                lanes: self.plan.lanes,
                rate: self.plan.rate,
                limits: self.plan.limits,
                parking: 1000,
                results,
            },
            lane: self.plan.lane,
            retry: Arc::new(self.plan.retry),
            timeout: fixed,
            queue,
            copy: Some(Arc::clone),
            keep_payloads: true,
            clock: Clock::SYSTEM,
            seed: fastrand::u64(..),
            adaptive: self.plan.adaptive,
            enough: checks::stop_rules(&self.args, &index, tell.clone()),
            labels: None,
        };
        let runtime = tokio::runtime::Handle::current();
        let running = Engine::start(config, Arc::new(source), lanes, Box::new(sink), outbox, longshore_core::watch::Hub::new(), &runtime);
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
            auto: self.plan.auto,
            median,
            total: None,
            active: 0,
            meter: RateMeter::default(),
            interrupts: 0,
            terminated: false,
            state: State::Running,
            paused_by: Pauses::default(),
            facts: Facts { failures_checked: self.args.check.iter().any(checks::Check::is_on_failed), ..Facts::default() },
            words: Vec::new(),
            early: None,
            stopped: false,
            deaf: global.no_input,
            feed: output.feed(),
        };
        let mut left = watch.until_end(running, estimate, &mut told, bar, &mut signals).await;

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
        let mut shown = false;
        match ending.unless_given_up(finished).await {
            Ok(_) => shown = true,
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
        let missing = missing.load(Ordering::Relaxed);
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
        let mut remaining = left.remaining(read, &counts, mine, ended);
        let stdin = self.plan.input.sources.contains(&Source::Stdin);
        let brought = before.as_ref().filter(|before| before.resumed && ended).map_or(Brought::default(), |before| Brought {
            had_read: before.read.read,
            had_ended: before.read.ended || before.complete,
            had_finished: index.finished(),
            had_begun: index.in_flight(),
            read: counts.read.load(Ordering::Relaxed),
            met: counts.in_flight.load(Ordering::Relaxed),
        });
        match brought.lacks() {
            Some(why) if stdin => {
                left.facts.lacking = true;
                remaining = remaining.max(brought.had_read.saturating_sub(finished)).max(brought.lost());
                left.words.push(JobError::Lacking { job: name.clone(), why }.to_string());
            }
            _ if brought.lost() > 0 => {
                let lost = units::show_count(brought.lost());
                say(
                    &progress,
                    &format!(" {name}: of the tasks that were in flight, {lost} are not in the input any more, and were not run"),
                );
            }
            _ => {}
        }
        let complete = remaining == 0 && ended && !left.facts.bug && !left.facts.unwritable && !left.facts.lacking;
        left.facts.stopped_early &= !complete;
        if let Some(why) = left.early.take().filter(|_| !complete) {
            left.words.insert(0, why);
        }
        if complete {
            left.facts.signal = None;
        }
        left.facts.failed = all[Word::Failed as usize..=Word::Lost as usize].iter().sum();
        let sittings = before.as_ref().map_or(1, |before| before.sitting);
        let mut summary = left.summary(&name, &self.id, all, sittings, remaining);
        (summary.retried, summary.ok_retried) = tally.retried();
        summary.failed_by_error = tally.errors();
        if let Some(before) = before.as_ref().filter(|before| before.resumed) {
            summary.wall += before.spent;
            if index.failed() > 0 {
                let ((path, len), index) = (before.errors.clone(), index.clone());
                let earlier = tokio::task::spawn_blocking(move || failures(&path, len, &index)).await;
                add_up(&mut summary.failed_by_error, earlier.ok().and_then(Result::ok).unwrap_or_default());
            }
        }
        summary.rate_per_s = summary.finished() as f64 / summary.wall.as_secs_f64().max(f64::EPSILON);
        summary.width = u32::try_from(left.width).unwrap_or(u32::MAX);
        summary.durable = journaled;
        summary.stdin = stdin;
        summary.cut = tally.cut();
        summary.max_output = self.args.max_output;
        summary.at_least = (!ended && left.total.is_none()) || (left.facts.lacking && !brought.had_ended);
        summary.pace = self.args.pace.rate.map(|rate| rate.to_string());
        summary.waited.retain(|(waited, _)| *waited != Waited::Slots || what.is_http());
        summary.results = self.plan.output.file.clone().filter(|_| regular).map(|path| {
            let lines = count_records(std::slice::from_ref(&path), Format::Lines).unwrap_or(0);
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
            } else if let Some(path) = self.plan.output.file.as_deref().filter(|_| shown && regular) {
                output::forget_aside(path, &self.id);
            }
        }
        spool.close();
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
            eprintln!("{}", voice.error(word));
        }
        let nothing_left = complete && mine.iter().sum::<u64>() == 0 && before.as_ref().is_some_and(|before| before.resumed);
        if nothing_left {
            let line = format!(" {name}: nothing left to do, all {} tasks are finished", units::show_count(finished));
            voice.note(&line).into_iter().for_each(|line| eprintln!("{line}"));
        }
        if code != 141 {
            match self.args.summary.as_str() {
                "text" => eprint!("{}", with_newline(summary.text(color.on_stderr()))),
                "json" => eprintln!("{}", summary.json()),
                _ => {}
            }
        }
        if let Some(path) = &self.args.summary_file {
            files::write_output(path, format!("{}\n", summary.json()).as_bytes())
                .map_err(|error| broken(format!("--summary-file {}: {}", path.display(), files::cause(&error))))?;
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
    /// The last sitting said that nothing is left.
    complete: bool,
    /// Extent to which the input was read.
    read: format::ReadUpTo,
    resumed: bool,
    sitting: u32,
    name: Option<String>,
    /// The time that earlier sittings took.
    spent: Duration,
    /// The journal, and how long it was before this sitting: what failed earlier is in there.
    errors: (PathBuf, u64),
}

/// What a resumed job has behind it, and how much is left if that is known.
fn resume_words(name: &str, id: &str, retry: bool, index: &Index, total: Option<u64>) -> String {
    let who = if name == id { id.to_owned() } else { format!("{name} {id}") };
    let (done, open) = (index.finished(), index.in_flight());
    if retry {
        return format!(" retry {who}: {} done, {} to try again", units::show_count(done), units::show_count(open));
    }
    let left = total.map_or(String::new(), |total| format!(", {} to go", units::show_count(total.saturating_sub(done))));
    format!(
        " resume {who}: {} done ({} failed), {} {} in flight{left}",
        units::show_count(done),
        units::show_count(index.failed()),
        units::show_count(open),
        if open == 1 { "was" } else { "were" },
    )
}

fn add_up(sums: &mut Vec<(String, u64)>, more: Vec<(String, u64)>) {
    for (class, count) in more {
        match sums.iter_mut().find(|(known, _)| *known == class) {
            Some((_, sum)) => *sum += count,
            None => sums.push((class, count)),
        }
    }
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
