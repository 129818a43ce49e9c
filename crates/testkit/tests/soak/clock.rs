//! Time and chance of the node in whose name code runs. All of a run happens on one thread.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use longshore_core::Clock;
use longshore_worker::Environment;
use tokio::time::Instant;

/// When every run begins.
const BEGINNING: Duration = Duration::from_secs(1_800_000_000);

/// Whose clocks are read.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// What the runtime's clock showed when the node began; `None`: nobody's, time stands still.
    pub(crate) base: Option<Instant>,
    /// Nanoseconds of the run that its runtime does not count: before it began, and while its
    /// machine slept.
    pub(crate) missed: u64,
    /// By how many seconds its time of the day is wrong.
    pub(crate) wrong: i64,
}

thread_local! {
    static HERE: Cell<Here> = const { Cell::new(Here { base: None, missed: 0, wrong: 0 }) };
    static CHANCE: RefCell<Rng> = const { RefCell::new(Rng::with_seed(0)) };
}

pub(crate) fn enter(here: Here) {
    HERE.set(here);
}

pub(crate) fn seed(seed: u64) {
    CHANCE.replace(Rng::with_seed(seed));
    fastrand::seed(seed);
}

/// Nanoseconds since the run began, those included for which the machine slept.
pub(crate) fn now() -> u64 {
    let here = HERE.get();
    let passed = here.base.map_or(Duration::ZERO, |base| Instant::now().saturating_duration_since(base));
    here.missed + u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn wall() -> SystemTime {
    UNIX_EPOCH + (BEGINNING + Duration::from_nanos(now())).saturating_add_signed(HERE.get().wrong)
}

/// The clock of leases of a worker that takes the time of the day for one.
pub(crate) fn lease_by_wall() -> u64 {
    let passed = wall().duration_since(UNIX_EPOCH + BEGINNING).unwrap_or_default();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

trait AddSigned {
    fn saturating_add_signed(self, seconds: i64) -> Self;
}

impl AddSigned for Duration {
    fn saturating_add_signed(self, seconds: i64) -> Self {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self.saturating_sub(by) } else { self + by }
    }
}

fn random() -> u64 {
    CHANCE.with_borrow_mut(|rng| rng.u64(..))
}

/// What clients and workers of a run are given; `lease`: the clock of leases.
pub(crate) fn environment(lease: fn() -> u64) -> Environment {
    let mut environment = Environment::SYSTEM;
    environment.clock = Clock::TOKIO;
    environment.wall = wall;
    environment.lease = lease;
    environment.random = random;
    environment.id = || format!("{:016x}-{:016x}", random(), random());
    environment.threads = false;
    environment
}
