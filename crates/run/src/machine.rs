//! What the machine has to spare, for `--max-load` and `--min-free-mem`.

use std::time::{Duration, Instant};

use crate::{report::Held, spec::LaneSpec};

/// Returns whether the load is above what a run bears, and whether memory is below it.
pub(crate) fn is_full(lanes: &LaneSpec) -> (bool, bool) {
    let loaded = lanes.max_load.is_some_and(|most| load().is_some_and(|load| load > most));
    let low = lanes.min_free_mem.is_some_and(|least| free_memory().is_some_and(|free| free < least));
    (loaded, low)
}

/// Times for which the load and the memory of the machine held a run.
#[derive(Debug, Default)]
pub(crate) struct MachineHold {
    /// Since when the load, and then the memory, holds it.
    since: [Option<Instant>; 2],
    held: [Duration; 2],
}

impl MachineHold {
    /// Takes note of a look at the machine.
    pub(crate) fn see(&mut self, loaded: bool, low: bool, now: Instant) {
        for ((since, held), holds) in self.since.iter_mut().zip(&mut self.held).zip([loaded, low]) {
            if let Some(since) = since.filter(|_| !holds) {
                *held += now.saturating_duration_since(since);
            }
            *since = holds.then(|| since.unwrap_or(now));
        }
    }

    /// Returns what held it, each with its time.
    pub(crate) fn times(&self, now: Instant) -> Vec<(Held, Duration)> {
        let sum = |at: usize| self.held[at] + self.since[at].map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        [(Held::Load, sum(0)), (Held::Memory, sum(1))].into_iter().filter(|(_, time)| !time.is_zero()).collect()
    }
}

/// The load of the last minute as a share of the cores, where the system tells it.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Some(load / cores as f64)
}

/// Memory that programs can still have, in bytes, where the system tells it.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_which_each_held_is_summed_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hold = MachineHold::default();
        for (loaded, low, second) in
            [(false, true, 0), (false, true, 1), (true, true, 2), (true, false, 5), (false, false, 6), (false, true, 10)]
        {
            hold.see(loaded, low, at(second));
        }
        let times = [(Held::Load, Duration::from_secs(4)), (Held::Memory, Duration::from_secs(8))];
        assert_eq!(hold.times(at(13)), times);
        assert_eq!(MachineHold::default().times(at(13)), []);
    }
}
