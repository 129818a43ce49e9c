//! The third step of a run: watched until its engine ends. Takes orders, publishes what it looks
//! like, and stops it when a rule says so.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use longshore_core::{
    LaneKind, Phase, Rate, Reason, Stop,
    engine::{self, Handle},
    lane::child::Children,
    watch::{Counts, ViewKind},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    auto::{Auto, Seen, Step},
    ending::Facts,
    event::{RunEvent, Teller},
    intake::IntakeCounts,
    journal::{Feed, Index},
    ledger::Tally,
    machine::{self, MachineHold},
    overdue::Overdue,
    ramp::Ramp,
    rate::RateMeter,
    report::Held,
    spec::{Program, RunSpec},
    steer::{Order, Steering},
    units,
    view::{RunState, RunView, RunningRecord, SlowTask},
};

/// Time between looks at the engine.
const LOOK: Duration = Duration::from_millis(100);
/// Runs that must have ended before a timeout that is a share of the median is known.
const MEDIAN_OF: u64 = 5;
/// Time that the reader of results has for what is left after an interruption.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Reason to stop a run before its input is at its end.
pub(crate) enum Why {
    MaxFail {
        now: bool,
    },
    UntilOk,
    ReaderGone,
    /// The program cannot be started, whatever the record; what was said.
    NoProgram(String),
    /// The journal or the output; what they said.
    Unwritable(String),
}

/// Results of a run whose engine has ended.
pub(crate) struct Left {
    pub(crate) engine: engine::Summary,
    pub(crate) facts: Facts,
    pub(crate) wall: Duration,
    /// Number of tasks that might run at once at the end.
    pub(crate) width: usize,
    pub(crate) words: Vec<String>,
    /// The reason why it stopped early; of no interest when nothing is left all the same.
    pub(crate) early: Option<String>,
    /// Times for which the machine's load and memory held it.
    pub(crate) held: Vec<(Held, Duration)>,
    /// About how many records the input has.
    pub(crate) total: Option<u64>,
}

impl Left {
    /// Notes that the journal or the output cannot be written; the first reason counts.
    pub(crate) fn unwritable(&mut self, text: String) {
        if !std::mem::replace(&mut self.facts.unwritable, true) {
            self.words.push(text);
        }
    }
}

/// Parties that want it paused: it goes on when none does.
#[derive(Default)]
pub(crate) struct Pauses {
    user: bool,
    machine: bool,
}

/// A run while it is watched.
pub(crate) struct Watch {
    pub(crate) spec: RunSpec,
    pub(crate) handle: Handle,
    pub(crate) children: Children,
    pub(crate) counts: Arc<IntakeCounts>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) index: Arc<Index>,
    pub(crate) feed: Feed,
    pub(crate) teller: Teller,
    pub(crate) views: watch::Sender<Arc<RunView>>,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) concurrency: usize,
    /// With a timeout that is a share of the median: the share, and who ends what runs already.
    pub(crate) median: Option<(f64, Arc<Overdue>)>,
    pub(crate) auto: Option<Auto>,
    /// Until it has grown, or somebody has set what grows.
    pub(crate) ramp: Option<Ramp>,
    pub(crate) state: WatchState,
}

/// Events of a run so far that decide what happens next.
#[derive(Default)]
pub(crate) struct WatchState {
    total: Option<u64>,
    /// Attempts that ran at the last look.
    active: usize,
    meter: RateMeter,
    interrupts: u32,
    terminated: bool,
    stopped: bool,
    paused_by: Pauses,
    machine: MachineHold,
    /// The reader of results has had its last chance.
    giving_up: bool,
    facts: Facts,
    words: Vec<String>,
    early: Option<String>,
}

impl WatchState {
    /// Makes that of a run with or without a check on failures.
    pub(crate) fn checked(failures: bool) -> Self {
        Self { facts: Facts { failures_checked: failures, ..Facts::default() }, ..Self::default() }
    }
}

/// A thing that has to happen at a later time.
enum Later {
    Nothing,
    /// After this time what runs is told to end, or killed.
    End(Duration),
    /// After this time nobody waits for the reader any more.
    GiveUp(Duration),
}

impl Watch {
    /// Watches until the engine has ended.
    pub(crate) async fn until_end(
        mut self,
        running: engine::Running,
        estimate: JoinHandle<Option<u64>>,
        reasons: &mut mpsc::UnboundedReceiver<Why>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Left {
        let began = Instant::now();
        // It starts paused where the machine is full.
        if self.spec.lanes.max_load.is_some() || self.spec.lanes.min_free_mem.is_some() {
            self.look_at_machine();
            self.apply_pause();
        }
        let mut estimate = Some(estimate);
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks = 0u64;
        let mut join = std::pin::pin!(running.join());
        let mut job_limit = std::pin::pin!(sleep_or_never(self.spec.time.job));
        let mut grace = std::pin::pin!(sleep_or_never(None));
        let mut reader = std::pin::pin!(sleep_or_never(None));
        let engine = loop {
            // In this order: once the engine has ended there is nothing left to stop.
            let later = tokio::select! {
                biased;
                summary = &mut join => break summary,
                Some(why) = reasons.recv() => self.stop_because(why),
                Some(order) = orders.recv() => self.obey(order).await,
                // Nothing runs any more, but results wait for a reader that takes none of them:
                // they stay in the journal.
                () = &mut reader => {
                    reader.set(sleep_or_never(None));
                    self.feed.close();
                    Later::Nothing
                }
                // Each of these fires once, and one that is done must not be asked again.
                () = &mut job_limit => {
                    job_limit.set(sleep_or_never(None));
                    self.pass_job_limit()
                }
                () = &mut grace => {
                    grace.set(sleep_or_never(None));
                    self.end_what_runs()
                }
                _ = tick.tick() => {
                    ticks += 1;
                    if estimate.as_ref().is_some_and(JoinHandle::is_finished) && let Some(done) = estimate.take() {
                        self.state.total = done.await.ok().flatten();
                    }
                    // Load and memory change slowly, and reading them costs more than a look at the
                    // engine.
                    if ticks.is_multiple_of(10) {
                        self.look_at_machine();
                    }
                    self.grow(began.elapsed());
                    self.look(false).await;
                    Later::Nothing
                }
            };
            match later {
                Later::Nothing => {}
                Later::End(after) => grace.set(sleep_or_never(Some(after))),
                Later::GiveUp(after) => reader.set(sleep_or_never(Some(after))),
            }
        };
        // What came last came as the engine ended.
        while let Ok(why) = reasons.try_recv() {
            self.stop_because(why);
        }
        // Not waited for: a large input may still be counted, and the run has ended.
        if let Some(estimate) = estimate.filter(JoinHandle::is_finished) {
            self.state.total = estimate.await.ok().flatten();
        }
        self.tell_what_was_found();
        let held = self.state.machine.times(Instant::now());
        let WatchState { facts, words, early, total, .. } = self.state;
        Left { engine, facts, wall: began.elapsed(), width: self.concurrency, words, early, total, held }
    }

    /// Looks at the engine, and publishes what is seen.
    async fn look(&mut self, with_running: bool) -> Option<RunView> {
        let snapshot = self.handle.snapshot().await?;
        if let Some((share, overdue)) = &self.median
            && snapshot.summary.done() >= MEDIAN_OF
        {
            let limit = snapshot.summary.run.p50.mul_f64(*share);
            self.handle.set_timeout(Some(limit));
            overdue.set(limit);
            overdue.end_children(&snapshot.running, &self.children, self.spec.time.kill_after);
        }
        self.state.active = snapshot.active;
        // What it was set to, or what it has found.
        self.concurrency = snapshot.concurrency.unwrap_or(self.concurrency);
        self.find(&snapshot);
        let mut view = self.view(&snapshot, Instant::now());
        self.views.send_replace(Arc::new(view.clone()));
        if with_running {
            view.running = self.running(&snapshot);
            view.engine = Some(Box::new(snapshot.into_view(ViewKind::Run, self.name.clone())));
        }
        Some(view)
    }

    /// `-j auto`: tries more at once as long as that brings something.
    fn find(&mut self, snapshot: &engine::Snapshot) {
        let Some(auto) = &mut self.auto else { return };
        if snapshot.phase != Phase::Running {
            return;
        }
        let all_read = self.counts.ended.load(Ordering::Acquire);
        let known = if all_read { Some(self.counts.read.load(Ordering::Relaxed)) } else { self.state.total };
        let gone = self.counts.left_out.load(Ordering::Relaxed) + self.index.finished() + snapshot.summary.done();
        let left = known.map(|total| total.saturating_sub(gone));
        match auto.look(&Seen::of(&snapshot.summary, Instant::now()), left) {
            Step::Wait => {}
            Step::Try(workers) => self.handle.set_concurrency(None, workers),
            Step::Settle(found) => {
                self.handle.set_concurrency(None, found.workers);
                self.teller.tell(&RunEvent::Found(found));
            }
        }
    }

    /// `--ramp`: lets more run at once, and start faster.
    fn grow(&mut self, since: Duration) {
        let Some(ramp) = self.ramp else { return };
        let (most, rate) = ramp.at(since);
        self.handle.set_concurrency(None, most);
        if rate.is_some() {
            self.handle.set_rate(rate);
        }
        if ramp.is_over(since) {
            self.ramp = None;
        }
    }

    fn tell_what_was_found(&self) {
        let Some(auto) = &self.auto else { return };
        match auto.found() {
            Some(found) => {
                if let Some(message) = found.outcome(Instant::now()) {
                    self.teller.tell(&RunEvent::Outcome { message });
                }
            }
            None => self.teller.tell(&RunEvent::NotFound { most: self.concurrency }),
        }
    }

    fn view(&mut self, snapshot: &engine::Snapshot, now: Instant) -> RunView {
        let (mine, cut) = {
            let sums = self.tally.sums();
            (sums.counts, sums.cut.tasks)
        };
        let counts: Counts = [mine, self.index.counts()].into_iter().sum();
        // Shown is the whole job, but its speed is that of this sitting.
        let (done, here) = (counts.finished(), mine.done());
        self.state.meter.update(now, here);
        let left_out = self.counts.left_out.load(Ordering::Relaxed);
        // An estimate can be wrong either way; at the end of the input the number is known.
        let total = if self.counts.ended.load(Ordering::Acquire) {
            Some(self.counts.read.load(Ordering::Relaxed) - left_out)
        } else {
            self.state.total.map(|total| total.saturating_sub(left_out).max(done))
        };
        let slow = snapshot.running.first().filter(|task| task.age >= self.spec.time.slow);
        // A run that has nothing to start, or all its slots in use, is as it should be.
        let gate = snapshot.waiting.iter().filter(|(reason, _)| {
            *reason != Reason::Empty && !matches!(reason, Reason::Concurrency { .. } | Reason::Results { capacity: 0 })
        });
        RunView {
            name: self.name.clone(),
            job: self.id.clone(),
            counts,
            total,
            cut,
            retrying: snapshot.retrying as u64,
            active: snapshot.active as u64,
            concurrency: self.concurrency,
            pace: snapshot.rate.map(|rate| units::Rate { count: rate.count, per: rate.per }.to_string()),
            rate_per_s: self.state.meter.per_second(),
            // A median of nothing would be shown as 0, and read as very fast.
            p50: (here > 0).then_some(snapshot.summary.run.p50),
            p99: (here > 0).then_some(snapshot.summary.run.p99),
            eta: total.and_then(|total| self.state.meter.eta(total.saturating_sub(done))),
            gate: gate.map(|(reason, waiting)| (reason.to_string(), *waiting as u64)).collect(),
            slow: slow.map(|task| SlowTask { seq: task.id, age: task.age, attempt: task.attempt }),
            state: match snapshot.phase {
                Phase::Paused => RunState::Paused,
                Phase::Running => RunState::Running,
                Phase::Draining | Phase::Cancelling | Phase::Done => RunState::Stopping,
            },
            ..RunView::default()
        }
    }

    /// Returns the running tasks, oldest first.
    fn running(&self, snapshot: &engine::Snapshot) -> Vec<RunningRecord> {
        // A child that has several lines has not the slot of any.
        let talks = matches!(&self.spec.program, Program::Pipe(pipe) if pipe.window > 1);
        let children = if talks { Vec::new() } else { self.children.running() };
        let last_line = |slot| children.iter().find(|child| child.slot == slot).map_or_else(String::new, |child| child.last_line.clone());
        let running = snapshot.running.iter().map(|task| RunningRecord {
            seq: task.id,
            age: task.age,
            attempt: task.attempt,
            lane: task.lane.to_string(),
            slot: task.slot + 1,
            last_line: last_line(task.slot),
        });
        running.collect()
    }

    async fn obey(&mut self, order: Order) -> Later {
        match order {
            Order::Look(answer) => {
                if let Some(view) = self.look(true).await {
                    let _ = answer.send(view);
                }
                Later::Nothing
            }
            Order::Hold(hold, done) => {
                self.children.hold(hold);
                let _ = done.send(());
                Later::Nothing
            }
            Order::Signal(2) => self.interrupt(),
            Order::Signal(_) => self.terminate(),
            Order::Stop(how) => {
                self.stop(how);
                Later::Nothing
            }
            Order::Rate(rate) => {
                self.ramp = None;
                self.handle.set_rate(rate);
                Later::Nothing
            }
            Order::Steer(steering) => self.steer(steering).await,
        }
    }

    async fn steer(&mut self, steering: Steering) -> Later {
        match steering {
            Steering::Pause => self.pause(true),
            Steering::Resume => self.pause(false),
            Steering::Concurrency { most } => self.set_concurrency(most.max(1)).await,
            Steering::Rate { count, per } => {
                let per = Duration::try_from_secs_f64(per).unwrap_or(Duration::from_secs(1));
                self.ramp = None;
                self.handle.set_rate(count.map(|count| Rate { count, per, burst: self.spec.pace.burst }));
            }
            Steering::Drain => self.drain(),
            Steering::Cancel => {
                self.state.facts.stopped_early = true;
                self.state.early.get_or_insert_with(|| "stopped: it was cancelled".to_owned());
                self.stop(Stop::Soft);
                return Later::End(self.spec.time.kill_after);
            }
        }
        Later::Nothing
    }

    async fn set_concurrency(&mut self, most: usize) {
        // Whoever sets it knows better.
        self.auto = None;
        self.ramp = None;
        self.concurrency = most;
        let Some(snapshot) = self.handle.snapshot().await else { return };
        for lane in LaneKind::ALL.into_iter().filter(|lane| snapshot.lanes[*lane as usize] > 0 && *lane != LaneKind::Cpu) {
            self.handle.set_concurrency(Some(lane), most);
        }
        self.handle.set_concurrency(None, most);
        self.look(false).await;
        self.teller.tell(&RunEvent::Concurrency { most });
    }

    fn pause(&mut self, paused: bool) {
        self.state.paused_by.user = paused;
        self.apply_pause();
    }

    fn apply_pause(&self) {
        let Pauses { user, machine } = self.state.paused_by;
        if user || machine { self.handle.pause() } else { self.handle.resume() }
    }

    fn look_at_machine(&mut self) {
        let (loaded, low) = machine::is_full(&self.spec.lanes);
        self.state.machine.see(loaded, low, Instant::now());
        if (loaded || low) != self.state.paused_by.machine {
            self.state.paused_by.machine = loaded || low;
            self.apply_pause();
            self.teller.tell(&RunEvent::Machine { loaded, low });
        }
    }

    fn drain(&mut self) {
        self.handle.drain();
    }

    fn stop(&mut self, how: Stop) {
        self.state.stopped = true;
        self.handle.stop(how);
    }

    fn stop_because(&mut self, why: Why) -> Later {
        let state = &mut self.state;
        match why {
            Why::MaxFail { now } => {
                state.facts.stopped_early = true;
                if let Some(rule) = &self.spec.stop.max_fail {
                    // A resumed job brings its failures along, and its flags.
                    let hint = match self.index.failed() {
                        0 => String::new(),
                        earlier => {
                            let earlier = units::show_count(earlier);
                            format!(", {earlier} of them in earlier sittings; another --max-fail, or --max-fail never, goes on")
                        }
                    };
                    state.early = Some(format!("stopped: too many tasks failed (--max-fail {rule}){hint}"));
                }
                self.drain();
                if now {
                    self.handle.stop(Stop::Soft);
                }
            }
            Why::UntilOk => self.drain(),
            Why::ReaderGone => {
                state.facts.reader_gone = true;
                self.drain();
                self.handle.stop(Stop::Soft);
            }
            Why::NoProgram(text) => {
                state.facts.no_program = true;
                state.early.get_or_insert_with(|| format!("stopped: {text}"));
                self.drain();
            }
            Why::Unwritable(text) => {
                if !std::mem::replace(&mut state.facts.unwritable, true) {
                    state.words.push(text);
                }
                self.drain();
            }
        }
        Later::Nothing
    }

    fn pass_job_limit(&mut self) -> Later {
        self.state.facts.stopped_early = true;
        let limit = units::show_duration(self.spec.time.job.unwrap_or_default());
        self.state.early = Some(format!("stopped after {limit} (--job-timeout)"));
        self.drain();
        self.handle.stop(Stop::Soft);
        Later::End(self.spec.time.kill_after)
    }

    /// Ends what still runs after a grace: softly, then by force.
    fn end_what_runs(&mut self) -> Later {
        let how = if self.state.interrupts < 2 && !self.state.stopped { Stop::Soft } else { Stop::Hard };
        self.state.stopped = true;
        self.handle.stop(how);
        match how {
            Stop::Soft => Later::End(self.spec.time.kill_after),
            Stop::Hard => Later::GiveUp(PATIENCE),
        }
    }

    /// Hears one Ctrl-C: nothing more starts; the second: what runs is told to end; the third: it
    /// is killed.
    fn interrupt(&mut self) -> Later {
        self.state.interrupts += 1;
        self.state.facts.signal.get_or_insert(2);
        match self.state.interrupts {
            1 => {
                self.drain();
                self.teller.tell(&RunEvent::Stopping { running: self.state.active, grace: None });
            }
            2 => {
                self.handle.stop(Stop::Soft);
                self.teller.tell(&RunEvent::Ending { children: self.children.running().len() });
            }
            _ => {
                self.handle.stop(Stop::Hard);
                // Once: further signals must not give the reader more time.
                if !std::mem::replace(&mut self.state.giving_up, true) {
                    return Later::GiveUp(PATIENCE);
                }
            }
        }
        Later::Nothing
    }

    /// Hears SIGTERM or SIGHUP: as one Ctrl-C, and as two after the grace.
    fn terminate(&mut self) -> Later {
        self.state.facts.signal.get_or_insert(15);
        if std::mem::replace(&mut self.state.terminated, true) {
            self.handle.stop(Stop::Soft);
            return Later::Nothing;
        }
        self.drain();
        let grace = self.spec.time.grace;
        self.teller.tell(&RunEvent::Stopping { running: self.state.active, grace: Some(grace) });
        Later::End(grace)
    }
}

/// Sleeps for a time; for ever without one.
pub(crate) async fn sleep_or_never(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
