//! A job while it runs: draws progress, hears signals and keys, stops when a rule says so.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use longshore_core::{
    LaneKind, Phase, Reason, Stop, Word,
    engine::{self, Handle},
    lane::child::Children,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    progress::{self, Progress, RateMeter, Slow, Snapshot, Summary, summary::Waited, view::State},
    run::{
        args::RunArgs,
        auto::{Auto, Seen, Step},
        ending::Facts,
        intake::Counts,
        journal::Index,
        keys::Keys,
        ledger::Tally,
        machine,
        output::Feed,
        overdue::Overdue,
        signals::{PATIENCE, Signals, hear, sleep_or_never},
    },
    units,
};

/// Time between looks at the engine.
const LOOK: Duration = Duration::from_millis(100);
/// Runs that must have ended before `--timeout 300%` knows a median.
const MEDIAN_OF: u64 = 5;

/// Why a run stops before its input is at its end.
pub(super) enum Why {
    MaxFail {
        now: bool,
    },
    UntilOk,
    ReaderGone,
    /// The journal or the output; what they said.
    Unwritable(String),
}

/// What is left of a job that ran: for the exit code, the summary and the last words.
pub(super) struct Left {
    pub(super) engine: engine::Summary,
    pub(super) facts: Facts,
    pub(super) wall: Duration,
    /// How many might run at once at the end.
    pub(super) width: usize,
    pub(super) words: Vec<String>,
    /// Why it stopped early; of no interest when nothing is left all the same.
    pub(super) early: Option<String>,
    /// About how many records the input has.
    pub(super) total: Option<u64>,
}

#[derive(Default)]
pub(super) struct Pauses {
    user: bool,
    load: bool,
}

/// Watches a job that runs: draws progress, hears signals and keys, stops when a rule says so.
pub(super) struct Watch<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) handle: Handle,
    pub(super) children: &'a Children,
    pub(super) counts: &'a Counts,
    pub(super) tally: &'a Tally,
    pub(super) index: &'a Index,
    pub(super) progress: &'a Mutex<Option<Progress>>,
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) concurrency: usize,
    /// With `--timeout 300%`: the share, and who ends what runs already.
    pub(super) median: Option<(f64, Arc<Overdue>)>,
    pub(super) total: Option<u64>,
    pub(super) auto: Option<Auto>,
    /// Attempts that ran at the last look.
    pub(super) active: usize,
    pub(super) meter: RateMeter,
    pub(super) interrupts: u32,
    pub(super) terminated: bool,
    pub(super) state: State,
    pub(super) paused_by: Pauses,
    pub(super) facts: Facts,
    pub(super) words: Vec<String>,
    /// Why it stopped early.
    pub(super) early: Option<String>,
    pub(super) stopped: bool,
    /// Reads no keys.
    pub(super) deaf: bool,
    pub(super) feed: Feed,
}

impl Watch<'_> {
    pub(super) async fn until_end(
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
        let _keys = if keys_wanted && !self.deaf { Keys::start(press) } else { None };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks = 0u64;
        let mut join = std::pin::pin!(running.join());
        let mut job_limit = std::pin::pin!(sleep_or_never(self.args.job_timeout));
        let mut grace = std::pin::pin!(sleep_or_never(None));
        let mut reader = std::pin::pin!(sleep_or_never(None));
        let mut giving_up = false;
        let engine = loop {
            tokio::select! {
                biased;
                summary = &mut join => break summary,
                Some(why) = told.recv() => self.stop_because(why),
                Some(()) = hear(int) => {
                    if self.interrupt() {
                        // Once: further signals must not give the reader more time.
                        if !std::mem::replace(&mut giving_up, true) {
                            reader.set(sleep_or_never(Some(PATIENCE)));
                        }
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
                    let limit = units::show_duration(self.args.job_timeout.unwrap_or_default());
                    self.early = Some(format!("stopped after {limit} (--job-timeout)"));
                    self.drain();
                    self.handle.stop(Stop::Soft);
                    grace.set(sleep_or_never(Some(self.args.limits.kill_after)));
                }
                () = &mut grace => {
                    // After the grace of SIGTERM softly, then by force.
                    let how = if self.interrupts < 2 && !self.stopped { Stop::Soft } else { Stop::Hard };
                    self.stopped = true;
                    self.handle.stop(how);
                    if how == Stop::Hard {
                        reader.set(sleep_or_never(Some(PATIENCE)));
                    }
                    grace.set(sleep_or_never((how == Stop::Soft).then_some(self.args.limits.kill_after)));
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
        // What came last came as the engine ended.
        while let Ok(why) = told.try_recv() {
            self.stop_because(why);
        }
        if let Some(estimate) = estimate.filter(tokio::task::JoinHandle::is_finished) {
            self.total = estimate.await.ok().flatten();
        }
        if let Some(auto) = &self.auto {
            match auto.found() {
                Some(found) => {
                    if let Some(outcome) = found.outcome(Instant::now()) {
                        self.say(&format!(" {outcome}"));
                    }
                }
                None => self.say(&format!(" -j auto: over before it was known what is best; {} at once in the end", self.concurrency)),
            }
        }
        Left {
            total: self.total,
            engine,
            facts: self.facts,
            wall: began.elapsed(),
            width: self.concurrency,
            words: self.words,
            early: self.early,
        }
    }

    async fn look(&mut self) {
        let Some(snapshot) = self.handle.snapshot().await else { return };
        if let Some((share, overdue)) = &self.median
            && snapshot.summary.done() >= MEDIAN_OF
        {
            let limit = snapshot.summary.run.p50.mul_f64(*share);
            self.handle.set_timeout(Some(limit));
            overdue.set(limit);
            overdue.end_children(&snapshot.running, self.children, self.args.limits.kill_after);
        }
        self.active = snapshot.active;
        // What it was set to, or what it has found.
        self.concurrency = snapshot.concurrency.unwrap_or(self.concurrency);
        self.find(&snapshot);
        let view = self.view(&snapshot, Instant::now());
        if let Some(progress) = &mut *self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.update(&view, Instant::now());
        }
    }

    /// `-j auto`: tries more at once as long as that brings something.
    fn find(&mut self, snapshot: &engine::Snapshot) {
        let Some(auto) = &mut self.auto else { return };
        if snapshot.phase != Phase::Running {
            return;
        }
        let known = if self.counts.ended.load(Ordering::Acquire) { Some(self.counts.read.load(Ordering::Relaxed)) } else { self.total };
        let gone = self.counts.left_out.load(Ordering::Relaxed) + self.index.finished() + snapshot.summary.done();
        let left = known.map(|total| total.saturating_sub(gone));
        match auto.look(&Seen::of(&snapshot.summary, Instant::now()), left) {
            Step::Wait => {}
            Step::Try(workers) => self.handle.set_concurrency(None, workers),
            Step::Settle(found) => {
                self.handle.set_concurrency(None, found.workers);
                self.say(&format!(" -j auto: {found}"));
            }
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
            self.total.map(|total| total.saturating_sub(left_out).max(done))
        };
        let slow = snapshot.running.first().filter(|task| task.age >= self.args.slow);
        let gate = snapshot.waiting.iter().filter(|(reason, _)| {
            *reason != Reason::Empty && !matches!(reason, Reason::Concurrency { .. } | Reason::Results { capacity: 0 })
        });
        Snapshot {
            name: self.name.to_owned(),
            job: self.id.to_owned(),
            done,
            total,
            ok: count(Word::Ok),
            failed,
            cut: self.tally.cut().tasks,
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
                    // A resumed job brings its failures along, and its flags.
                    let hint = match self.index.failed() {
                        0 => String::new(),
                        earlier => {
                            let earlier = units::show_count(earlier);
                            format!(", {earlier} of them in earlier sittings; another --max-fail, or --max-fail never, goes on")
                        }
                    };
                    self.early = Some(format!("stopped: too many tasks failed (--max-fail {rule}){hint}"));
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
                self.say(&format!(" stopping: no new tasks, {} running (Ctrl-C again to end them)", self.active));
            }
            2 => {
                self.handle.stop(Stop::Soft);
                let children = match running {
                    0 => String::new(),
                    1 => ": 1 child".to_owned(),
                    _ => format!(": {running} children"),
                };
                self.say(&format!(" ending what runs{children} (Ctrl-C again to kill)"));
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
                // Whoever presses a key knows better.
                self.auto = None;
                let step = (self.concurrency / 10).max(1);
                self.concurrency = if key == '+' { self.concurrency + step } else { self.concurrency.saturating_sub(step).max(1) };
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
            self.say(&format!(
                " #{} {} attempt {} slot {}-{}{last}",
                task.id,
                units::show_duration(task.age),
                task.attempt,
                task.lane,
                task.slot + 1
            ));
        }
    }

    fn say(&self, line: &str) {
        say(self.progress, line);
    }
}

pub(super) fn say(progress: &Mutex<Option<Progress>>, line: &str) {
    match &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(progress) => progress.note(line),
        None => eprintln!("{line}"),
    }
}

impl Left {
    pub(super) fn unwritable(&mut self, text: String) {
        if !std::mem::replace(&mut self.facts.unwritable, true) {
            self.words.push(text);
        }
    }

    /// Tasks that have not run, as far as is known: those handed back, and the part of the input that was not read.
    pub(super) fn remaining(&self, read: u64, counts: &Counts, mine: [u64; Word::ALL.len()], ended: bool) -> u64 {
        let done_here: u64 = Word::ALL.iter().filter(|word| **word != Word::Cancelled).map(|word| mine[*word as usize]).sum();
        let known = read.saturating_sub(counts.finished.load(Ordering::Relaxed)).saturating_sub(done_here);
        if ended {
            return known;
        }
        // What was not read is known from the estimate alone.
        let left_out = counts.left_out.load(Ordering::Relaxed);
        let rest = self.total.map_or(0, |total| total.saturating_sub(left_out + counts.finished.load(Ordering::Relaxed) + done_here));
        known.max(rest).max(1)
    }

    pub(super) fn summary(&self, name: &str, id: &str, counts: [u64; Word::ALL.len()], sittings: u32, remaining: u64) -> Summary {
        let engine = &self.engine;
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
            run: engine.run,
            wait: engine.wait,
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
        // Without a result queue a result holds its slot until it is written.
        Reason::Results { capacity: 0 } => Waited::Slots,
        Reason::Results { .. } => Waited::Results,
        Reason::Backoff { .. } => Waited::Backoff,
        Reason::Paused => Waited::Pause,
        _ => return None,
    })
}
