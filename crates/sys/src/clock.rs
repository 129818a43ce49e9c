//! CPU time, as the kernel accounts it.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The CPU time that the calling thread has used since it started.
pub fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// The CPU time that all threads of this process have used since it started; its children are not in it.
pub fn process_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
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
        assert!(process_cpu_time() - process >= Duration::from_millis(5), "the process counts what its threads used");
    }
}
