//! The nice value of threads.

use std::io;

/// Sets the nice value (-20 first, 19 last) of the calling thread alone; its children inherit it.
///
/// # Errors
/// What the kernel says: values below the present one need a privilege. Unsupported where a nice value belongs to whole processes.
pub fn set_thread_nice(nice: i32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // On Linux "0" means the calling thread, not its process: nice values are kept per thread there.
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
}
