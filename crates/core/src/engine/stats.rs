//! What the loop counts.

use std::time::{Duration, Instant};

use crate::{
    decide::Verdict,
    engine::Broken,
    gate::{Gate, Reason},
    outcome::Word,
    stamp::Stamp,
    task::{Finished, LaneKind, Receipt},
    watch::{Counts, Labelled, Labels, LabelsOf, Quantiles, Spread},
};

pub(super) struct Stats {
    began: Instant,
    /// The loop's own counts of tasks: attempts that were followed by another one, and what was
    /// handed back. How tasks ended the reporter counts.
    pub(super) counts: Counts,
    /// Tasks that were admitted last, by lane and by the gate's slot. Which of them run, the gate
    /// knows.
    admitted: [Vec<Admitted>; 4],
    /// The slots' share of attempts that were followed by another one.
    again: SlotUses,
    waited: Vec<(Reason, Duration)>,
    stalled: u64,
    /// The latest task that held a loop, and since when.
    stall: Option<(u64, Instant)>,
    /// Tasks that hold a loop now, one at most for each, and since when.
    holding: Vec<(u64, Instant)>,
    pub(super) events_dropped: u64,
    pub(super) broken: Option<Broken>,
}

/// A task that passed the gate.
#[derive(Clone, Copy)]
struct Admitted {
    id: u64,
    receipt: Receipt,
    attempt: u32,
    since: Stamp,
}

/// Attempts that ran, by lane and by the lane's slot, and the nanoseconds for which they did.
#[derive(Default)]
struct SlotUses([Vec<(u64, u64)>; 4]);

impl SlotUses {
    #[inline]
    fn add<T, R>(&mut self, one: &Finished<T, R>) {
        let slot = place(&mut self.0[one.task.lane as usize], one.slot, (0, 0));
        slot.0 += 1;
        slot.1 += one.ended.nanos_since(one.started);
    }
}

/// The place of a slot, made if need be.
#[inline]
fn place<X: Clone>(slots: &mut Vec<X>, slot: u32, empty: X) -> &mut X {
    let slot = slot as usize;
    if slot >= slots.len() {
        slots.resize(slot + 1, empty);
    }
    &mut slots[slot]
}

impl Stats {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            counts: Counts::default(),
            admitted: std::array::from_fn(|_| Vec::new()),
            again: SlotUses::default(),
            waited: Vec::new(),
            stalled: 0,
            stall: None,
            holding: Vec::new(),
            events_dropped: 0,
            broken: None,
        }
    }

    #[inline]
    pub(super) fn admitted(&mut self, lane: LaneKind, slot: u32, id: u64, receipt: Receipt, attempt: u32, since: Stamp) {
        let admitted = Admitted { id, receipt, attempt, since };
        *place(&mut self.admitted[lane as usize], slot, admitted) = admitted;
    }

    #[inline]
    pub(super) fn ended<T, R>(&mut self, one: &Finished<T, R>, verdict: Verdict, draining: bool) {
        if matches!(verdict, Verdict::Requeue { .. }) {
            // While the job drains nothing is tried again: it goes back.
            self.counts.retries += u64::from(!draining);
            self.again.add(one);
        }
    }

    /// Notes that a task has held a loop of the async lane for so long. Returns its receipt, if it
    /// still runs.
    pub(super) fn stalled<T>(&mut self, id: u64, held: Duration, now: Instant, gate: &Gate<T>) -> Option<Receipt> {
        self.stalled += 1;
        let since = now.checked_sub(held).unwrap_or(now);
        self.stall = Some((id, since));
        self.holding.push((id, since));
        self.taken(LaneKind::Async, gate).find(|(_, task)| task.id == id).map(|(_, task)| task.receipt)
    }

    /// Notes that a task does not hold its loop any more.
    pub(super) fn stall_over(&mut self, id: u64) {
        self.holding.retain(|(other, _)| *other != id);
    }

    /// Returns who has held a loop for longest, of those that still do; else who did so last.
    pub(super) fn latest_stall(&self, now: Instant) -> Option<StallSeen> {
        let seen = |holds| move |(id, since): (u64, Instant)| StallSeen { id, ago: now.saturating_duration_since(since), holds };
        let longest = self.holding.iter().min_by_key(|(_, since)| *since).copied();
        longest.map(seen(true)).or_else(|| self.stall.map(seen(false)))
    }

    /// Tasks waited this long for this reason.
    pub(super) fn waited(&mut self, reason: &Reason, time: Duration) {
        let same = |known: &Reason| std::mem::discriminant(known) == std::mem::discriminant(reason);
        match self.waited.iter_mut().find(|(known, _)| same(known)) {
            Some((_, sum)) => *sum += time,
            None => self.waited.push((reason.clone(), time)),
        }
    }

    /// Returns the slots of a lane in which tasks run, and what runs there.
    fn taken<T>(&self, lane: LaneKind, gate: &Gate<T>) -> impl Iterator<Item = (u32, &Admitted)> {
        let taken = gate.slots(lane).taken();
        (0..).zip(&self.admitted[lane as usize]).zip(taken).filter_map(|(place, taken)| taken.then_some(place))
    }

    pub(super) fn running<T>(&self, now: Instant, gate: &Gate<T>) -> Vec<RunningTask> {
        let now = Stamp::from(now);
        let mut running: Vec<_> = LaneKind::ALL
            .into_iter()
            .flat_map(|lane| {
                self.taken(lane, gate).map(move |(slot, admitted)| {
                    let Admitted { id, receipt, attempt, since } = *admitted;
                    RunningTask { id, receipt, attempt, lane, slot, age: now.since(since) }
                })
            })
            .collect();
        running.sort_by_key(|task| std::cmp::Reverse(task.age));
        running
    }

    pub(super) fn summary(&self, times: &Times, now: Instant) -> Summary {
        let wall = now.saturating_duration_since(self.began);
        let slots = LaneKind::ALL
            .iter()
            .flat_map(|lane| {
                let (once, again) = (&times.slots.0[*lane as usize], &self.again.0[*lane as usize]);
                (0..once.len().max(again.len())).filter_map(move |slot| {
                    let of = |slots: &[(u64, u64)]| slots.get(slot).copied().unwrap_or_default();
                    let (tasks, busy) = (of(once).0 + of(again).0, Duration::from_nanos(of(once).1 + of(again).1));
                    let share = if wall.is_zero() { 0.0 } else { busy.as_secs_f64() / wall.as_secs_f64() };
                    (tasks > 0).then_some(SlotUse { lane: *lane, slot: slot as u32, tasks, busy, share })
                })
            })
            .collect();
        Summary {
            counts: [times.counts, self.counts].into_iter().sum(),
            wall,
            run: times.run.quantiles(),
            wait: times.wait.quantiles(),
            slots,
            on_cpu: times.on_cpu.0,
            on_cpu_of: times.on_cpu.1,
            waited: self.waited.clone(),
            stalled: self.stalled,
            events_dropped: self.events_dropped,
            error: self.broken.as_ref().map(ToString::to_string),
        }
    }
}

/// Counts of finished tasks, and the times that they ran and waited. The reporter keeps it, as
/// the loop has enough to do; in a snapshot it may be a batch behind.
pub(super) struct Times {
    counts: Counts,
    slots: SlotUses,
    /// On-CPU time, and of how many tasks it is known.
    on_cpu: (Duration, u64),
    pub(super) run: Spread,
    pub(super) wait: Spread,
    labels: Labels,
}

impl Times {
    pub(super) fn new(kinds: &[&'static str]) -> Self {
        Self {
            counts: Counts::default(),
            slots: SlotUses::default(),
            on_cpu: (Duration::ZERO, 0),
            run: Spread::new(),
            wait: Spread::new(),
            labels: Labels::new(kinds),
        }
    }

    /// Adds finished tasks to their labels.
    pub(super) fn label<T, R>(&mut self, batch: &[Finished<T, R>], of: &LabelsOf<T>) {
        for one in batch {
            let (run, wait) = (one.ended.nanos_since(one.started), one.started.nanos_since(one.task.queued));
            for kind in 0..of.kinds.len() {
                if let Some(value) = (of.of)(&one.task, kind) {
                    self.labels.add_nanos(kind, value, one.outcome.word(), run, wait);
                }
            }
        }
    }

    pub(super) fn labels(&self) -> Vec<Labelled> {
        self.labels.labelled()
    }

    /// Adds finished tasks.
    pub(super) fn add<T, R>(&mut self, batch: &[Finished<T, R>]) {
        let (mut ok, mut retried) = (0, 0);
        for one in batch {
            match one.outcome.word() {
                Word::Ok => ok += 1,
                other => self.counts.add(other, 1),
            }
            retried += u64::from(one.task.attempt > 1);
            self.slots.add(one);
            if let Some(cpu) = one.cpu {
                self.on_cpu.0 += Duration::from(cpu);
                self.on_cpu.1 += 1;
            }
        }
        self.counts.add(Word::Ok, ok);
        self.counts.retried += retried;
        self.run.add_all(batch.iter().map(|one| one.ended.nanos_since(one.started)));
        self.wait.add_all(batch.iter().map(|one| one.started.nanos_since(one.task.queued)));
    }
}

/// A task that runs.
#[derive(Clone, Debug)]
pub struct RunningTask {
    /// The task.
    pub id: u64,
    /// The source's name for its delivery.
    pub receipt: Receipt,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Its lane.
    pub lane: LaneKind,
    /// Its slot.
    pub slot: u32,
    /// Since when it has held the slot.
    pub age: Duration,
}

/// A task that held a loop of the async lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallSeen {
    /// The task.
    pub id: u64,
    /// The time since it began to hold it.
    pub ago: Duration,
    /// True while it still holds it.
    pub holds: bool,
}

/// Use of one slot of a lane.
#[derive(Clone, Copy, Debug)]
pub struct SlotUse {
    /// The lane.
    pub lane: LaneKind,
    /// The slot.
    pub slot: u32,
    /// Attempts that it ran.
    pub tasks: u64,
    /// Time for which it ran them.
    pub busy: Duration,
    /// That time as a share of the job's.
    pub share: f64,
}

/// Summary of a job.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Counts of tasks, by outcome and otherwise.
    pub counts: Counts,
    /// From the start to now, or to the end.
    pub wall: Duration,
    /// Times that the last attempts ran.
    pub run: Quantiles,
    /// Times that tasks waited from being fetched until their last attempt started.
    pub wait: Quantiles,
    /// Use of each slot.
    pub slots: Vec<SlotUse>,
    /// Time on a CPU of the last attempts, of those of which it is known: all on the blocking, cpu
    /// and process lanes, a sample on the async lane.
    pub on_cpu: Duration,
    /// Number of those.
    pub on_cpu_of: u64,
    /// For how long the gate let nothing pass while tasks waited, by reason.
    pub waited: Vec<(Reason, Duration)>,
    /// Times that a task held a loop of the async lane for too long.
    pub stalled: u64,
    /// Events that their reader had no room for.
    pub events_dropped: u64,
    /// Error that ended the job early, if one did.
    pub error: Option<String>,
}

impl Summary {
    pub(super) fn broken(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// Returns the finished tasks.
    pub fn done(&self) -> u64 {
        self.counts.done()
    }

    /// Returns the finished tasks that are not `ok`.
    pub fn failed(&self) -> u64 {
        self.counts.not_ok()
    }

    /// Returns finished tasks a second.
    pub fn throughput(&self) -> f64 {
        if self.wall.is_zero() { 0.0 } else { self.done() as f64 / self.wall.as_secs_f64() }
    }
}
