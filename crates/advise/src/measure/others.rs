//! Share of the machine's CPU time that others had while something was measured.

use std::{fs, time::Duration};

use longshore_sys::clock::process_cpu_time;

/// Unit of the kernel's counts: hundredths of a second, whatever its own tick.
const TICK: Duration = Duration::from_millis(10);

/// CPU time that had been used at one moment: by all, and by this process.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    all: Option<(u64, u64)>,
    own: Duration,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { all: fs::read_to_string("/proc/stat").ok().and_then(|text| used_and_idle(&text)), own: process_cpu_time() }
    }

    /// The share of the machine's CPU time since then that others had (other programs, and what the
    /// machine's host kept for itself), from 0 to 1. 0 where the system does not tell, or too
    /// little time has passed. What children use counts as others'.
    pub fn others(&self) -> f64 {
        let now = Self::now();
        let (Some((used, idle)), Some((used_before, idle_before))) = (now.all, self.all) else { return 0.0 };
        let (used, idle) = (used.saturating_sub(used_before), idle.saturating_sub(idle_before));
        let own = now.own.saturating_sub(self.own).as_secs_f64() / TICK.as_secs_f64();
        // Fewer ticks than these say nothing.
        if used + idle < 20 { 0.0 } else { ((used as f64 - own) / (used + idle) as f64).clamp(0.0, 1.0) }
    }
}

/// Ticks of all cores together.
fn used_and_idle(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests used is in user.
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().sum::<u64>() - idle, idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_what_the_kernel_writes() {
        assert_eq!(used_and_idle("cpu  10 1 5 100 20 0 2 3 7 0\ncpu0 1 1\n"), Some((21, 120)));
        assert_eq!(used_and_idle("cpu  10 1\n"), None);
        assert_eq!(used_and_idle(""), None);
    }

    #[test]
    fn what_we_use_ourselves_is_not_others() {
        let before = Moment { all: Some((0, 0)), own: Duration::ZERO };
        let others = before.others();
        assert!((0.0..=1.0).contains(&others), "{others}");
        assert_eq!(Moment { all: None, own: Duration::ZERO }.others(), 0.0);
    }
}
