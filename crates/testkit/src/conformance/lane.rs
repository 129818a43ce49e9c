//! The suite of lanes. Lanes run on real threads and processes, so this runs on the real clock; it
//! waits for what must happen, not for time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use longshore_core::{
    Backoff, Context, Event, Finished, LaneKind, Outcome, RetryPolicy, SinkError, Stop, TaskError, Word,
    engine::{Engine, EngineConfig, Summary, outbox},
    gate::GateConfig,
    lane::{Lane, Outbox},
    sink::{Room, Sink},
    source::iter::IterSource,
    watch::{Detail, Heard, Hub},
};
use tokio::{runtime::Handle, sync::mpsc};

/// What a handler is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Succeed.
    Succeed,
    /// Fail.
    Fail,
    /// Panic.
    Panic,
    /// Panic while something is dropped.
    PanicInDrop,
    /// Go on for this many milliseconds.
    Take(u32),
    /// Go on until told to end.
    Hang,
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in drop");
        }
    }
}

/// What a blocking handler does.
///
/// # Panics
/// If asked to.
pub fn perform(context: &Context, ask: Ask) -> Outcome<u32> {
    match ask {
        Ask::Succeed => {}
        Ask::Fail => return Outcome::Failed(TaskError::new("asked", "as asked")),
        Ask::Panic => panic!("as asked"),
        Ask::PanicInDrop => drop(Bomb),
        Ask::Take(ms) => std::thread::sleep(Duration::from_millis(ms.into())),
        Ask::Hang => {
            while !context.cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Outcome::Cancelled;
        }
    }
    Outcome::Ok(context.attempt)
}

/// What an async handler does.
///
/// # Panics
/// If asked to.
pub async fn perform_async(context: Context, ask: Ask) -> Outcome<u32> {
    match ask {
        Ask::Take(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
        Ask::Hang => {
            context.cancel.cancelled().await;
            return Outcome::Cancelled;
        }
        other => {
            tokio::task::yield_now().await;
            return perform(&context, other);
        }
    }
    Outcome::Ok(context.attempt)
}

/// How to make the lane under test.
pub struct MakeLane<F> {
    /// Which.
    pub kind: LaneKind,
    /// Makes one whose handler does what it is asked for.
    pub make: F,
    /// How many attempts the suite may run: a process costs more than a function.
    pub many: usize,
    /// An attempt that passes its timeout ends only when its handler does.
    pub ends_late: bool,
}

struct Ran {
    words: BTreeMap<u64, Word>,
    attempts: BTreeMap<u64, u32>,
    summary: Summary,
}

/// Runs the whole suite.
///
/// # Panics
/// If the lane breaks its contract.
pub async fn suite<F>(lane: MakeLane<F>)
where
    F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>,
{
    each_attempt_has_one_outcome(&lane).await;
    what_fails_is_tried_again(&lane).await;
    an_attempt_that_is_late_has_timed_out(&lane).await;
    what_runs_ends_when_it_is_stopped(&lane).await;
}

async fn each_attempt_has_one_outcome<F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>>(lane: &MakeLane<F>) {
    let asks = [Ask::Succeed, Ask::Fail, Ask::Panic, Ask::Succeed, Ask::PanicInDrop, Ask::Take(1), Ask::Succeed];
    for slots in [1, 3, 20] {
        let asked: Vec<_> = asks.iter().copied().cycle().take(lane.many).collect();
        let ran = run(lane, asked.clone(), slots, 0, None, None).await;
        assert_eq!(ran.words.len(), asked.len(), "every task has an outcome");
        for (id, word) in ran.words {
            let want = match asked[id as usize - 1] {
                Ask::Succeed | Ask::Take(_) | Ask::Hang => Word::Ok,
                Ask::Fail => Word::Failed,
                Ask::Panic | Ask::PanicInDrop => Word::Panicked,
            };
            assert_eq!(word, want, "task {id} with {slots} slots");
        }
    }
}

async fn what_fails_is_tried_again<F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>>(lane: &MakeLane<F>) {
    let ran = run(lane, vec![Ask::Fail, Ask::Succeed, Ask::Panic], 2, 2, None, None).await;
    assert_eq!(ran.attempts.into_iter().collect::<Vec<_>>(), [(1, 3), (2, 1), (3, 3)]);
}

async fn an_attempt_that_is_late_has_timed_out<F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>>(lane: &MakeLane<F>) {
    let late = if lane.ends_late { Ask::Take(1_500) } else { Ask::Hang };
    // Long enough for a process to start on a busy machine.
    let limit = Duration::from_millis(1_000);
    let ran = run(lane, vec![late, Ask::Succeed, late, Ask::Fail], 4, 0, Some(limit), None).await;
    let words: Vec<_> = ran.words.into_values().collect();
    assert_eq!(words, [Word::Timeout, Word::Ok, Word::Timeout, Word::Failed]);
}

async fn what_runs_ends_when_it_is_stopped<F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>>(lane: &MakeLane<F>) {
    for how in [Stop::Soft, Stop::Hard] {
        let ran = run(lane, vec![Ask::Hang; 6], 3, 0, None, Some(how)).await;
        assert_eq!(ran.words.len() as u64 + ran.summary.counts.handed_back, 6, "{how:?}: done or handed back");
        assert!(ran.summary.counts.handed_back >= 3, "{how:?}: what had not started goes back");
        assert_eq!(ran.summary.counts.of(Word::Ok), 0, "{how:?}");
    }
}

/// Keeps the word of each finished task.
struct Words(mpsc::UnboundedSender<(u64, u32, Word)>);

impl Sink<Ask, u32> for Words {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<Ask, u32>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        let count = batch.len();
        for one in batch.drain(..) {
            let _ = self.0.send((one.id(), one.task.attempt, one.outcome.word()));
        }
        room.release(count);
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        std::future::ready(Ok(())).boxed()
    }
}

async fn run<F: Fn(&Outbox<Ask, u32>, &Handle) -> Arc<dyn Lane<Ask, u32>>>(
    lane: &MakeLane<F>,
    asks: Vec<Ask>,
    slots: usize,
    retries: u32,
    timeout: Option<Duration>,
    stop: Option<Stop>,
) -> Ran {
    let runtime = Handle::current();
    let outbox = outbox();
    let mut lanes = [None, None, None, None];
    lanes[lane.kind as usize] = Some((lane.make)(&outbox, &runtime));
    let mut sizes = [0; 4];
    sizes[lane.kind as usize] = slots;
    let (words, mut got) = mpsc::unbounded_channel();
    let hub = Hub::new();
    let mut happened = hub.listen(Detail::Tasks, 1 << 16);
    let mut config = EngineConfig::new(GateConfig::new(sizes).results(100), lane.kind);
    config.retry = Arc::new(RetryPolicy::times(retries).backoff(Backoff::Fixed(Duration::ZERO)));
    (config.timeout, config.queue) = (timeout, 2 * slots);
    config.copy = Some(|ask| *ask);
    let source = Arc::new(IterSource::new(asks.into_iter(), None));
    let running = Engine::start(config, source, lanes, Box::new(Words(words)), outbox, hub, &runtime);
    let handle = running.handle();
    let mut log = Vec::new();
    if let Some(how) = stop {
        // When as many have started as may.
        while log.iter().filter(|event| matches!(event, Event::Admitted { .. })).count() < slots {
            match happened.next().await.expect("the job ends by itself") {
                Heard::Event(event) => log.push(event),
                Heard::Missed(count) => panic!("{count} events are missing"),
            }
        }
        handle.stop(how);
    }
    let summary = tokio::time::timeout(Duration::from_secs(60), running.join()).await.expect("the job does not end");
    assert_eq!(summary.error, None);
    while let Some(Heard::Event(event)) = happened.try_next() {
        log.push(event);
    }
    check_log(lane.kind, &log);
    let (mut words, mut attempts) = (BTreeMap::new(), BTreeMap::new());
    while let Ok((id, attempt, word)) = got.try_recv() {
        assert!(words.insert(id, word).is_none(), "task {id} comes twice");
        attempts.insert(id, attempt);
    }
    Ran { words, attempts, summary }
}

/// Every attempt that started has ended once, and no two were in one slot.
fn check_log(kind: LaneKind, log: &[Event]) {
    let mut open = BTreeSet::new();
    let mut slots = BTreeMap::new();
    for event in log {
        match event {
            Event::Admitted { id, attempt, lane, slot, .. } => {
                assert_eq!(*lane, kind);
                assert!(open.insert((*id, *attempt)), "task {id}, attempt {attempt} starts twice");
                assert_eq!(slots.insert(*slot, *id), None, "slot {slot} is taken");
            }
            Event::Ended { id, attempt, started, ended, .. } => {
                assert!(open.remove(&(*id, *attempt)), "task {id}, attempt {attempt} ends twice");
                slots.retain(|_, holder| holder != id);
                assert!(started <= ended);
            }
            Event::HandedBack { .. } | Event::Stalled { .. } | Event::Job { .. } => {}
        }
    }
    assert!(open.is_empty(), "no outcome for {open:?}");
}
