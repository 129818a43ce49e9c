//! Cost of this process: processor time, memory, threads.

use std::time::{Duration, Instant};

/// The kernel's clock ticks a second as programs see them: 100 on every Linux.
const TICKS: f64 = 100.0;

/// Cost of this process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Share of one processor since the last look, 1.0 for a whole one.
    pub(super) cpu: f64,
    /// Resident memory, in bytes.
    pub(super) memory: u64,
    /// Threads.
    pub(super) threads: u64,
}

/// Looks at this process, now and then.
#[derive(Debug, Default)]
pub(super) struct Machine {
    last: Option<(Instant, f64)>,
    cpu: f64,
}

/// Least time over which a processor's share is measured, because its clock ticks in hundredths.
const LEAST: Duration = Duration::from_millis(500);

impl Machine {
    /// Returns what this process costs, as far as the system tells.
    pub(super) fn look(&mut self, now: Instant) -> Cost {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let used = seconds(&read("/proc/self/stat")).unwrap_or(0.0);
        match self.last {
            Some((then, before)) if now - then >= LEAST => {
                self.cpu = (used - before) / (now - then).as_secs_f64();
                self.last = Some((now, used));
            }
            Some(_) => {}
            None => self.last = Some((now, used)),
        }
        let status = read("/proc/self/status");
        Cost {
            cpu: self.cpu.max(0.0),
            memory: field(&status, "VmRSS:").unwrap_or(0) * 1024,
            threads: field(&status, "Threads:").unwrap_or(0),
        }
    }
}

/// Time on processors, of all threads. The name in brackets may hold anything, so it is read from
/// behind.
fn seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Machine, field, seconds};

    #[test]
    fn the_kernels_texts_are_read_whatever_the_program_is_called() {
        let stat = "42 (a) b 9) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 7 0 100 1 2";
        assert_eq!(seconds(stat), Some(3.0));
        assert_eq!(field("Name:\tx\nVmRSS:\t  31000 kB\nThreads:\t7\n", "VmRSS:"), Some(31_000));
        assert_eq!((seconds(""), field("", "x")), (None, None));
    }

    #[test]
    fn this_process_has_memory_and_a_thread() {
        let cost = Machine::default().look(std::time::Instant::now());
        assert!(cost.memory > 1 << 20 && cost.threads >= 1, "{cost:?}");
    }
}
