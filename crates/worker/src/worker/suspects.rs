//! What may have killed a worker: when it may run again.

use std::time::{Duration, Instant};

use longshore_core::Receipt;

/// What kills its worker mostly does so at once: a suspect that has run for so long does not keep the next one from starting beside it.
const TRIED: Duration = Duration::from_secs(1);

/// A suspect that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accused {
    pub(crate) receipt: Receipt,
    pub(crate) crashes: u32,
    pub(crate) since: Instant,
}

/// When a suspect may start beside those that run: at once, then, or (`None`) when one of them has ended.
///
/// One starts at a time. Should the worker die of a later one all that run are to blame, so whoever is blamed for the second time runs all alone: nobody is
/// buried for another's crash.
pub(crate) fn may_start(crashes: u32, running: &[Accused], now: Instant) -> Option<Instant> {
    let Some(last) = running.iter().map(|accused| accused.since).max() else { return Some(now) };
    let alone = crashes > 1 || running.iter().any(|accused| accused.crashes > 1);
    (!alone).then(|| (last + TRIED).max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_starts_at_a_time_and_who_is_blamed_twice_is_alone() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let running = |rows: &[(u32, u64)]| -> Vec<Accused> {
            rows.iter().map(|&(crashes, at)| Accused { receipt: Receipt(at), crashes, since: start + ms(at) }).collect()
        };
        // Its crashes; crashes and start of those that run; when it may start, at 5 s.
        let rows: &[(u32, &[(u32, u64)], Option<u64>)] = &[
            (1, &[], Some(5000)),
            (2, &[], Some(5000)),
            (1, &[(1, 4900)], Some(5900)),
            (1, &[(1, 1000)], Some(5000)),
            (1, &[(1, 1000), (1, 4500)], Some(5500)),
            (1, &[(2, 1000)], None),
            (2, &[(1, 1000)], None),
        ];
        for &(crashes, others, expected) in rows {
            let expected = expected.map(|at| start + ms(at));
            assert_eq!(may_start(crashes, &running(others), start + ms(5000)), expected, "{crashes} beside {others:?}");
        }
    }
}
