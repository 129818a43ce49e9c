//! The engine under random circumstances, on a paused clock, from a seed.
//!
//! A run is the real engine with a random source, random lanes and a random sink (`actors.rs`), set
//! to random options and disturbed by random control (`plan.rs`). All of them report to one ledger
//! (`world.rs`; of paces, `pace.rs`), which knows the invariants and blames whoever breaks one. One
//! thread, no real time: a seed is a run, and [`simulate`] with the same seed is the same run.

mod actors;
mod pace;
mod plan;
mod world;

use std::{sync::Arc, time::Duration};

use longshore_core::{
    Clock, Event,
    engine::{Engine, EngineConfig, Summary, outbox},
    gate::GateConfig,
    watch::{Detail, Heard, Hub},
};

use actors::{SimLane, SimSink, SimSource};
use plan::Plan;
use world::World;

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// Every started attempt has exactly one outcome, and attempts follow each other as the retry
    /// policy says.
    OneOutcome,
    /// Every delivery is settled exactly once.
    OneSettlement,
    /// A delivery is settled after the sink has accepted its result, or handed back because the job
    /// stops.
    AcceptedFirst,
    /// The sink gets each task once, with its last outcome.
    OncePerTask,
    /// No more run than may: in all, on a lane, of a limited value; no two in one slot; no more
    /// results than there is room for.
    Concurrency,
    /// Tasks of one key never overlap and keep their order.
    Keys,
    /// No window holds more starts than burst + rate × (window + 10 ms).
    Pace,
    /// Nothing starts while the job is paused or after it was told to stop.
    Stopped,
    /// The source is asked as its contract says: one fetch at a time, none cancelled, none after
    /// the end or after `close`.
    Fetches,
    /// What is lent and unsettled is bounded by the settings.
    Memory,
    /// Counts and events add up.
    Counts,
    /// The run ends.
    Ends,
}

/// Who cheats. Each cheat breaks an invariant, to show that the simulator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nobody.
    None,
    /// A lane reports one attempt's outcome for another one's as well.
    LaneReportsTwice,
    /// A lane drops an attempt and says nothing.
    LaneDropsAttempt,
    /// A lane says that an attempt ended as it did not.
    LaneLies,
    /// A sink accepts results and never makes room for others.
    SinkKeepsRoom,
    /// A source settles one delivery a second time.
    SourceSettlesTwice,
    /// A source forgets a settlement.
    SourceForgetsSettlement,
    /// A source loses a task that it lends.
    SourceSwallowsTask,
    /// The source keeps the keys of its tasks to itself.
    KeysAreHidden,
    /// The source keeps the limited values of its tasks to itself.
    ValuesAreHidden,
    /// Lanes have one slot more than the ledger knows.
    OneSlotMore,
    /// The pace is three times what the ledger knows.
    PaceIsFaster,
    /// The job goes on although it was told to stop.
    StopIsIgnored,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// By what.
    pub what: String,
    /// The seed of the run.
    pub seed: u64,
    /// The options of the run.
    pub plan: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { invariant, what, seed, plan } = self;
        write!(f, "seed {seed}: {invariant:?}: {what}\n  replay: LONGSHORE_SIM_SEED={seed}\n  {plan}")
    }
}

/// What a run was like: so that tests can tell that the runs are not all alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Tasks that were lent.
    pub lent: u64,
    /// Attempts that ended.
    pub attempts: u64,
    /// Tasks that were handed back.
    pub handed_back: u64,
    /// Runs that were told to drain or stop.
    pub stopped: u64,
    /// Runs that a source or a sink broke.
    pub broken: u64,
}

/// Time after which a run that has not ended never will.
const PATIENCE: Duration = Duration::from_secs(1_000_000);

/// Runs the engine once.
///
/// # Errors
/// The first invariant that was broken.
///
/// # Panics
/// If there is no runtime to be had.
pub fn simulate(seed: u64, sabotage: Sabotage) -> Result<Tally, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of this thread");
    runtime.block_on(run(Plan::draw(seed, sabotage), sabotage))
}

async fn run(plan: Plan, sabotage: Sabotage) -> Result<Tally, Violation> {
    let world = Arc::new(World::new(&plan, sabotage));
    let outbox = outbox();
    let source = Arc::new(SimSource::new(world.clone(), &plan, sabotage));
    let sink = Box::new(SimSink::new(world.clone(), &plan, sabotage));
    let lanes = std::array::from_fn(|lane| {
        plan.lanes[lane].then(|| Arc::new(SimLane::new(lane, world.clone(), outbox.clone(), &plan, sabotage)) as Arc<_>)
    });
    let hub = Hub::new();
    let mut happened = hub.listen(Detail::Tasks, 1 << 20);
    let more = usize::from(sabotage == Sabotage::OneSlotMore);
    let sizes = plan.sizes.map(|size| if size > 0 { size + more } else { 0 });
    let mut gate = GateConfig::new(sizes).parking(plan.parking).results(plan.results);
    gate.concurrency = plan.concurrency.map(|most| most + more);
    gate.rate = plan.rate.map(|rate| if sabotage == Sabotage::PaceIsFaster { plan::three_times(rate) } else { rate });
    gate.limits = plan.limits.clone();
    let mut config = EngineConfig::new(gate, plan.lane);
    (config.retry, config.timeout, config.queue) = (plan.retry.clone(), plan.timeout, plan.queue);
    config.copy = Some(|payload| *payload);
    config.keep_payloads = plan.keep_payloads;
    (config.clock, config.seed) = (Clock::TOKIO, plan.seed);
    let running = Engine::start(config, source, lanes, sink, outbox, hub, &tokio::runtime::Handle::current());
    let control = tokio::spawn(plan::control(plan.controls.clone(), running.handle(), world.clone(), sabotage));
    let handle = running.handle();
    let ended = tokio::time::timeout(PATIENCE, running.join()).await;
    control.abort();
    if ended.is_ok() && !matches!(tokio::time::timeout(PATIENCE, handle.snapshot()).await, Ok(None)) {
        world.blame(Invariant::Ends, || "a job that is over answers, or lets whoever asks wait".to_owned());
    }
    match ended {
        Err(_) => world.blame(Invariant::Ends, || "the run does not end".to_owned()),
        Ok(summary) => {
            let mut log = Vec::new();
            while let Some(Heard::Event(event)) = happened.try_next() {
                log.push(event);
            }
            check_end(&world, &plan, &summary, &log);
        }
    }
    match world.verdict() {
        Some((invariant, what)) => Err(Violation { invariant, what, seed: plan.seed, plan: format!("{plan:?}") }),
        None => Ok(world.tally()),
    }
}

fn check_end(world: &World, plan: &Plan, summary: &Summary, log: &[Event]) {
    world.check_events(plan, log);
    world.check_summary(summary);
}
