//! Number of tasks that run at once.

use longshore_core::{LaneKind, gate::adaptive::Bounds};

use super::usage;
use crate::{
    auto::Auto,
    error::RunError,
    intake::LaneRule,
    spec::{Concurrency, RunSpec, Timeout},
    what::What,
};

/// Number of tasks that run at once, on all lanes and on each, and how it may change.
pub(super) struct Width {
    pub(super) concurrency: usize,
    pub(super) adaptive: Option<Bounds>,
    pub(super) auto: Option<Auto>,
    pub(super) lanes: [usize; 4],
}

impl Width {
    pub(super) fn of(spec: &RunSpec, what: &What, lane: LaneKind, lane_rule: &LaneRule, limit: Option<usize>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let asked = match spec.lanes.concurrency {
            Concurrency::Default => None,
            Concurrency::Fixed(most) => Some(most.max(1)),
            Concurrency::Measured => Some(Auto::most(what.is_http())),
            Concurrency::Adaptive(bounds) => Some(bounds.ceiling),
        };
        // Each line that a child has is a task that runs.
        let mut concurrency = asked.unwrap_or_else(|| what.default_concurrency()).saturating_mul(what.window());
        let mut lanes = [0; 4];
        for kind in what.lanes().1 {
            lanes[*kind as usize] = match (*kind == lane, lane_rule) {
                (true, LaneRule::Fixed) => concurrency,
                (false, LaneRule::Fixed) => 0,
                (_, LaneRule::Of(_)) => kind.default_workers().min(asked.unwrap_or(usize::MAX)),
            };
        }
        if matches!(lane_rule, LaneRule::Of(_)) && asked.is_none() {
            concurrency = lanes.iter().sum();
        }
        concurrency = concurrency.min(limit.unwrap_or(usize::MAX));
        let (mut adaptive, mut auto) = (None, None);
        match spec.lanes.concurrency {
            Concurrency::Adaptive(bounds) => {
                adaptive = Some(Bounds::new(bounds.floor.min(concurrency), concurrency));
            }
            Concurrency::Measured => auto = Some(Auto::new(cores, concurrency, lane)),
            Concurrency::Default | Concurrency::Fixed(_) => {}
        }
        Self { concurrency, adaptive, auto, lanes }
    }
}

/// Refuses what does not know how many lines a child has at once.
pub(super) fn check_window(spec: &RunSpec, what: &What) -> Result<(), RunError> {
    let because = match (what.window(), spec.lanes.concurrency, spec.time.timeout) {
        (0 | 1, ..) => return Ok(()),
        (_, Concurrency::Measured | Concurrency::Adaptive(_), _) => "-j auto and --adaptive: name a number of children with -j",
        (_, _, Some(Timeout::OfMedian(_))) => "--timeout with a share of the median: name a time",
        _ => return Ok(()),
    };
    Err(usage(format!("--pipe-window excludes {because}")))
}
