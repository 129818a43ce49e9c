//! The slots of each lane while the worker runs: as it was set up, as remote control changes them,
//! and with autoscale as the load wants them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::{LaneKind, engine::Handle};

use super::shared::Shared;

/// The slots of some lanes follow the load, between two numbers: more at once when more is claimed
/// than there are slots, fewer when they were not needed for half a minute, as Celery's autoscale
/// does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoscale {
    /// The most slots of each lane.
    pub max: usize,
    /// The fewest; at least one.
    pub min: usize,
    /// The lanes whose slots follow the load.
    pub lanes: Vec<LaneKind>,
}

/// Time between two looks at the load.
const LOOK: Duration = Duration::from_millis(500);
/// Time after which slots go that were not needed.
const KEPT: Duration = Duration::from_secs(30);

/// Most slots that were needed at once, and the time since which that is counted.
#[derive(Clone, Copy, Debug)]
struct PeakLoad {
    peak: usize,
    since: Instant,
}

impl PeakLoad {
    /// Returns how many slots a lane of this size is to have when `demand` tasks are claimed for
    /// it.
    fn look(&mut self, size: usize, demand: usize, scale: &Autoscale, now: Instant) -> usize {
        let fit = |slots: usize| slots.clamp(scale.min.max(1), scale.max.max(1));
        if demand > size {
            *self = Self { peak: demand, since: now };
            return fit(demand);
        }
        self.peak = self.peak.max(demand);
        if now.duration_since(self.since) < KEPT {
            return fit(size);
        }
        let peak = std::mem::replace(self, Self { peak: demand, since: now }).peak;
        fit(peak.min(size))
    }
}

/// The slots of a worker's lanes.
pub(crate) struct LaneSlots {
    engine: Handle,
    shared: Arc<Shared>,
    state: Mutex<ScaleState>,
}

struct ScaleState {
    sizes: [usize; 4],
    scale: Option<Autoscale>,
    loads: [PeakLoad; 4],
}

impl ScaleState {
    /// The slots that each lane may have: what is claimed for them is what lets them grow.
    fn most(&self) -> [usize; 4] {
        let mut most = self.sizes;
        if let Some(scale) = &self.scale {
            scale.lanes.iter().for_each(|lane| most[*lane as usize] = scale.max.max(1));
        }
        most
    }
}

impl LaneSlots {
    pub(crate) fn new(engine: Handle, shared: Arc<Shared>, sizes: [usize; 4], scale: Option<Autoscale>) -> Self {
        let loads = [PeakLoad { peak: 0, since: shared.environment.now() }; 4];
        let state = ScaleState { sizes, scale, loads };
        shared.load.set_slots(state.most());
        Self { engine, shared, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, ScaleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots of each lane, by `lane as usize`.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        self.state().sizes
    }

    /// The bounds of autoscale, if it is on, and how many slots its largest lane has.
    pub(crate) fn scale(&self) -> Option<(Autoscale, usize)> {
        let state = self.state();
        let scale = state.scale.clone()?;
        let most = scale.lanes.iter().map(|lane| state.sizes[*lane as usize]).max().unwrap_or(0);
        Some((scale, most))
    }

    /// Gives the lanes where a task takes a thread or a process `n` more slots, or fewer, as
    /// Celery's pool would. With autoscale it is autoscale's lanes, and its bounds give way.
    pub(crate) fn grow(&self, n: i64) {
        let mut state = self.state();
        let lanes = state.scale.as_ref().map_or_else(|| vec![LaneKind::Blocking, LaneKind::Process], |scale| scale.lanes.clone());
        for lane in lanes {
            let size = i64::try_from(state.sizes[lane as usize]).unwrap_or(i64::MAX).saturating_add(n).max(1);
            let size = usize::try_from(size).unwrap_or(1);
            if let Some(scale) = &mut state.scale {
                (scale.max, scale.min) = (scale.max.max(size), scale.min.min(size));
            }
            self.set(&mut state, lane, size);
        }
    }

    /// Gives a lane this many slots. Where autoscale follows its load, its bounds give way.
    pub(crate) fn set_one(&self, lane: LaneKind, size: usize) {
        let mut state = self.state();
        if let Some(scale) = state.scale.as_mut().filter(|scale| scale.lanes.contains(&lane)) {
            (scale.min, scale.max) = (scale.min.min(size), scale.max.max(size));
        }
        self.set(&mut state, lane, size);
    }

    /// Sets new bounds, where autoscale is on. Returns those that hold then.
    pub(crate) fn rescale(&self, max: Option<usize>, min: Option<usize>) -> Option<(usize, usize)> {
        let mut state = self.state();
        let scale = state.scale.as_mut()?;
        scale.max = max.unwrap_or(scale.max).max(1);
        scale.min = min.unwrap_or(scale.min).clamp(1, scale.max);
        let bounds = (scale.max, scale.min);
        for lane in scale.lanes.clone() {
            let size = state.sizes[lane as usize].clamp(bounds.1, bounds.0);
            self.set(&mut state, lane, size);
        }
        Some(bounds)
    }

    fn set(&self, state: &mut ScaleState, lane: LaneKind, size: usize) {
        if state.sizes[lane as usize] != size {
            state.sizes[lane as usize] = size;
            self.engine.set_concurrency(Some(lane), size);
        }
        self.shared.load.set_slots(state.most());
    }

    /// Lets the slots follow the load until it is dropped.
    pub(crate) async fn follow(self: Arc<Self>, shared: Arc<Shared>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut demands = [0; 4];
            shared.live().values().for_each(|work| demands[work.task.lane as usize] += 1);
            let (now, mut state) = (shared.environment.now(), self.state());
            let Some(scale) = state.scale.clone() else { return };
            for lane in &scale.lanes {
                let (place, size) = (*lane as usize, state.sizes[*lane as usize]);
                let size = state.loads[place].look(size, demands[place], &scale, now);
                self.set(&mut state, *lane, size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_with_the_load_at_once_and_go_half_a_minute_later() {
        let scale = Autoscale { max: 8, min: 2, lanes: vec![LaneKind::Process] };
        let begun = Instant::now();
        let mut load = PeakLoad { peak: 0, since: begun };
        let mut size = 2;
        for (second, demand, want) in [
            (0, 0, 2),
            (1, 5, 5),
            (2, 100, 8),
            (3, 100, 8),
            // The load is over; what it was lately counts for half a minute.
            (4, 6, 8),
            (32, 3, 8),
            (33, 3, 8),
            (34, 1, 8),
            (64, 1, 3),
            (65, 0, 3),
            (94, 0, 2),
        ] {
            size = load.look(size, demand, &scale, begun + Duration::from_secs(second));
            assert_eq!(size, want, "second {second}");
        }
        assert_eq!(load.look(20, 0, &scale, begun), 8, "bounds that were changed hold at once");
    }
}
