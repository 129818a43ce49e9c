//! What this process has used of its machine, as far as the system says it.

use std::time::Instant;

/// Reads how many bytes of memory this process has.
pub(crate) fn resident() -> Option<u64> {
    of_status("VmRSS:")
}

/// Reads how many bytes it has had at most.
pub(crate) fn peak() -> Option<u64> {
    of_status("VmHWM:")
}

fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok())?;
    Some(kibibytes * 1024)
}

/// Reads the time of processors that it has used, its own and the system's, in seconds.
pub(crate) fn processor_times() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_ascii_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; the first two stand before the bracket.
    let ticks = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / 100.0);
    Some((ticks(11)?, ticks(12)?))
}

/// Share of processors that was used between one look and the next.
#[derive(Debug, Default)]
pub(crate) struct ProcessorShare(Option<(Instant, f64)>);

impl ProcessorShare {
    /// Returns how many processors were busy since the last look (1.0: one, all of the time).
    /// `None`: nobody has looked before, or the system does not say it.
    pub(crate) fn since_last(&mut self, now: Instant, used: Option<f64>) -> Option<f64> {
        let before = std::mem::replace(&mut self.0, used.map(|used| (now, used)));
        let ((then, before), used) = before.zip(used)?;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        (seconds > 0.0).then(|| ((used - before) / seconds * 1e3).round().max(0.0) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_share_is_that_of_the_time_since_the_last_look() {
        let (mut share, begun) = (ProcessorShare::default(), Instant::now());
        let mut look = |second: u64, used: Option<f64>| share.since_last(begun + Duration::from_secs(second), used);
        assert_eq!([look(0, Some(1.0)), look(2, Some(2.0)), look(2, Some(2.0)), look(4, Some(5.0))], [None, Some(0.5), None, Some(1.5)]);
        assert_eq!([look(6, None), look(8, Some(9.0)), look(10, Some(9.0))], [None, None, Some(0.0)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_what_this_process_uses() {
        let (now, most) = (resident().unwrap(), peak().unwrap());
        assert!(now > 100_000 && most >= now / 2, "{now} {most}");
        assert!(processor_times().is_some());
    }
}
