//! The nice value of threads.

use std::io;

/// Sets the nice value (-20 first, 19 last) of the calling thread alone; its children inherit it.
///
/// # Errors
/// What the kernel says: values below the present one need a privilege. Unsupported where a nice
/// value belongs to whole processes.
pub fn set_thread_nice(nice: i32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // On Linux "0" means the calling thread, not its process: nice values are kept per thread
        // there.
        Ok(rustix::process::setpriority_process(None, nice)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = nice;
        Err(crate::unsupported("a nice value per thread"))
    }
}

/// The nice value of the calling thread.
///
/// # Errors
/// What the kernel says.
pub fn thread_nice() -> io::Result<i32> {
    Ok(rustix::process::getpriority_process(None)?)
}

/// Makes the calling thread one that computes behind all others: nice, and with a slice of its own
/// that is longer than theirs.
///
/// The slice is what keeps others on time. Since Linux 6.6 a running thread is not preempted before
/// its slice, or the shortest one that waits, is used up, whatever its nice value; since 6.12 a
/// thread may ask for a slice, and one that wakes up with a shorter slice takes over at once
/// (`sched_setattr(2)`, `sched_runtime`). Kernels that know no slices ignore it.
///
/// # Errors
/// What the kernel says to the nice value.
pub fn set_thread_background(nice: i32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        /// `struct sched_attr` of sched_setattr(2), in its first version.
        #[repr(C)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            nice: i32,
            priority: u32,
            runtime: u64,
            deadline: u64,
            period: u64,
        }
        const SLICE: u64 = 20_000_000;
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: libc::SCHED_OTHER as u32,
            flags: 0,
            nice,
            priority: 0,
            runtime: SLICE,
            deadline: 0,
            period: 0,
        };
        // SAFETY: the kernel reads `size` bytes from a live value of that size; 0 is the calling
        // thread, and there are no flags.
        let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        if set == 0 {
            return Ok(());
        }
    }
    set_thread_nice(nice)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_niced_and_the_others_are_not() {
        let before = thread_nice().unwrap();
        let niced = std::thread::spawn(|| {
            set_thread_nice(7).unwrap();
            thread_nice().unwrap()
        });
        assert_eq!(niced.join().unwrap(), 7);
        assert_eq!(thread_nice().unwrap(), before);
    }

    #[test]
    fn a_background_thread_is_niced_alone() {
        let before = thread_nice().unwrap();
        let niced = std::thread::spawn(|| {
            set_thread_background(9).unwrap();
            thread_nice().unwrap()
        });
        assert_eq!(niced.join().unwrap(), 9);
        assert_eq!(thread_nice().unwrap(), before);
    }
}
