//! CPU time, as the kernel accounts it, and the processor's own counter of time.

use std::{io, sync::LazyLock, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The CPU time that the calling thread has used since it started.
pub fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// The CPU time that all threads of this process have used since it started; its children are not
/// in it.
pub fn process_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

/// Returns what the calling thread has used since it started; the memory is the whole process's.
///
/// # Errors
/// Unsupported where the system accounts for processes alone.
pub fn thread_usage() -> io::Result<crate::Usage> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zero bytes are a valid rusage.
        let mut used: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a value that lives until the call returns.
        if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut used) } == 0 {
            return Ok(crate::child::usage(&used));
        }
        Err(io::Error::last_os_error())
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err(crate::unsupported("what a thread has used"))
    }
}

/// Returns how long the calling thread has been ready to run while others had the CPU, since it
/// started: on a busy machine this is what makes work that only computes look as if it waited for
/// something. `None` where the system does not tell.
pub fn thread_queued_time() -> Option<Duration> {
    // On-CPU time, time in the line for a CPU, turns; the first two in nanoseconds.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The processor's counter of time, where it can be trusted. To read it takes half as long as to
/// read a clock.
#[derive(Clone, Copy, Debug)]
pub struct Ticks(());

impl Ticks {
    /// The counter, if it runs steadily and alike on all processors. Linux has looked at that, and
    /// says so: its own clock runs on it. It is asked once, and may think better of it later:
    /// whoever counts ticks reads a clock now and then, and counts few of them in between.
    pub fn trusted() -> Option<Self> {
        static TRUSTED: LazyLock<bool> = LazyLock::new(|| {
            let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
            cfg!(target_arch = "x86_64") && source.is_ok_and(|source| source.trim() == "tsc")
        });
        TRUSTED.then_some(Self(()))
    }

    /// Ticks since some time in the past. How long one lasts is to be found by reading a clock
    /// beside it.
    #[inline]
    pub fn read(self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: every x86-64 processor has this instruction, and Linux uses it in this very
            // process's clock: where a process is forbidden it, its clock fails too.
            unsafe { std::arch::x86_64::_rdtsc() }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            0
        }
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_a_pause_does_not() {
        let (thread, process) = (thread_cpu_time(), process_cpu_time());
        std::thread::sleep(Duration::from_millis(30));
        assert!(thread_cpu_time() - thread < Duration::from_millis(20), "a sleeping thread uses no CPU");
        let mut sum = 0_u64;
        while thread_cpu_time() - thread < Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        // The two clocks are not read at the same instant.
        assert!(process_cpu_time() - process >= Duration::from_millis(4), "the process counts what its threads used");
    }

    #[test]
    fn trusted_ticks_go_on_at_an_even_pace() {
        let Some(ticks) = Ticks::trusted() else { return };
        let pace = || {
            let (since, from) = (std::time::Instant::now(), ticks.read());
            std::thread::sleep(Duration::from_millis(50));
            (ticks.read() - from) as f64 / since.elapsed().as_nanos() as f64
        };
        let (first, second) = (pace(), pace());
        assert!((first / second - 1.0).abs() < 0.2, "{first} and {second} ticks a nanosecond");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_sleeps_gives_up_the_cpu_of_its_own_will() {
        let used = std::thread::spawn(|| {
            let before = thread_usage().unwrap();
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let after = thread_usage().unwrap();
            (after.voluntary_switches - before.voluntary_switches, thread_queued_time())
        });
        let (switches, queued) = used.join().unwrap();
        assert!((5..50).contains(&switches), "{switches}");
        assert!(queued.is_some());
    }
}
