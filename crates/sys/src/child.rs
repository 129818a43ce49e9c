//! Children: how they ended and what they used, and signals to their groups.

use std::{fmt, io, time::Duration};

/// End of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It ended by itself, with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Exit {
    /// Returns whether it ended with code 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// The name of a signal that programs die of, such as `SIGSEGV`.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// End of a process, as wait4(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code or the signal.
    pub exit: Exit,
    /// True where the signal left a core dump.
    pub core_dumped: bool,
}

/// Resources that a process used, with those of its own children that it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in the program.
    pub user: Duration,
    /// CPU time in the kernel on its behalf.
    pub system: Duration,
    /// The most memory that it, or one of those children, held at once.
    pub max_rss_bytes: u64,
    /// Number of times that it gave up the CPU to wait for something.
    pub voluntary_switches: u64,
    /// Number of times that the CPU was taken from it.
    pub forced_switches: u64,
}

impl Usage {
    /// User and system time together.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// Waits for a child of this process, reaps it, and says what it used. With `block` false, `None`
/// when it still runs.
///
/// From then on the pid may belong to another process: nothing may signal it any more.
///
/// # Errors
/// What wait4(2) says, but for `EINTR`: there is no such child, or it has been reaped already.
pub fn wait4(pid: i32, block: bool) -> io::Result<Option<(Status, Usage)>> {
    let mut raw: libc::c_int = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: all zero bytes are a valid rusage.
        let mut used: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to values that live until the call returns.
        let got = unsafe { libc::wait4(pid, &raw mut raw, flags, &raw mut used) };
        match got {
            0 => return Ok(None),
            got if got > 0 => return Ok(Some((status(raw), usage(&used)))),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn status(raw: libc::c_int) -> Status {
    if libc::WIFSIGNALED(raw) {
        Status { exit: Exit::Signal(libc::WTERMSIG(raw)), core_dumped: libc::WCOREDUMP(raw) }
    } else {
        Status { exit: Exit::Code(libc::WEXITSTATUS(raw)), core_dumped: false }
    }
}

pub(crate) fn usage(used: &libc::rusage) -> Usage {
    // The fields' widths differ between systems.
    let time = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    let count = |count: libc::c_long| u64::try_from(count).unwrap_or(0);
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "linux") { 1024 } else { 1 };
    Usage {
        user: time(used.ru_utime),
        system: time(used.ru_stime),
        max_rss_bytes: count(used.ru_maxrss) * unit,
        voluntary_switches: count(used.ru_nvcsw),
        forced_switches: count(used.ru_nivcsw),
    }
}

/// Sends a signal to every process of a group. The caller knows that the group is still the one it
/// means: a process of it has not been reaped.
///
/// # Errors
/// What kill(2) says (`ESRCH`: nobody is left); `InvalidInput` for a number that is not a group of
/// its own, which would reach this process, every process, or init.
pub fn kill_group(pgid: i32, signal: i32) -> io::Result<()> {
    if pgid <= 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pgid} is not a process group that may be signalled")));
    }
    // SAFETY: kill(2) touches no memory of this process.
    match unsafe { libc::kill(-pgid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks a group to end: SIGTERM, and SIGCONT so that a stopped process can hear it.
///
/// # Errors
/// As [`kill_group`].
pub fn terminate_group(pgid: i32) -> io::Result<()> {
    kill_group(pgid, libc::SIGTERM)?;
    kill_group(pgid, libc::SIGCONT)
}

/// Stops a group where it is (SIGSTOP), or lets it go on.
///
/// # Errors
/// As [`kill_group`].
pub fn hold_group(pgid: i32, hold: bool) -> io::Result<()> {
    kill_group(pgid, if hold { libc::SIGSTOP } else { libc::SIGCONT })
}

/// Stops this process as if it had no handler for SIGTSTP, and returns when it goes on: at once
/// where nobody could let it go on (its group has no parent in the session).
pub fn stop_self() {
    // SAFETY: the structs are plain data that is valid when zeroed, and live through the calls; the
    // handler that was there is put back, and a signal that comes in between has the default's
    // effect, which is what is wanted here.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = libc::SIG_DFL;
        if libc::sigaction(libc::SIGTSTP, &raw const new, &raw mut old) == 0 {
            libc::raise(libc::SIGTSTP);
            libc::sigaction(libc::SIGTSTP, &raw const old, std::ptr::null_mut());
        }
    }
}

/// A descriptor that becomes readable when this child has ended, before it is reaped. Closed on
/// exec.
///
/// # Errors
/// What pidfd_open(2) says; unsupported on other systems than Linux, and by kernels before 5.3
/// (`ENOSYS`).
#[cfg(target_os = "linux")]
pub fn pidfd_open(pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// A descriptor that becomes readable when this child has ended, before it is reaped.
///
/// # Errors
/// Always: unsupported on this system.
#[cfg(not(target_os = "linux"))]
pub fn pidfd_open(_pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    Err(crate::unsupported("waiting for a child through a descriptor"))
}

/// Limits the address space of a process, and of those that it starts from now on.
///
/// # Errors
/// There is no such process, or it is not ours.
#[cfg(target_os = "linux")]
pub fn limit_memory(pid: i32, bytes: u64) -> io::Result<()> {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    prlimit(Some(pid), Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    Ok(())
}

/// Not to be had on this system.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn limit_memory(_pid: i32, _bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    fn spawn(script: &str) -> i32 {
        Command::new("sh").args(["-c", script]).stdin(Stdio::null()).process_group(0).spawn().unwrap().id().cast_signed()
    }

    #[test]
    fn wait4_tells_code_signal_and_usage() {
        let (status, usage) = wait4(spawn("exit 7"), true).unwrap().unwrap();
        assert_eq!(status, Status { exit: Exit::Code(7), core_dumped: false });
        assert!(usage.max_rss_bytes > 100_000, "{usage:?}");
        let (status, _) = wait4(spawn("kill -9 $$"), true).unwrap().unwrap();
        assert_eq!(status.exit, Exit::Signal(9));
        assert_eq!(status.exit.to_string(), "signal 9 (SIGKILL)");
    }

    #[test]
    fn a_running_child_is_not_waited_for_and_a_killed_group_is() {
        let pid = spawn("sleep 100 & sleep 100");
        assert_eq!(wait4(pid, false).unwrap(), None);
        kill_group(pid, libc::SIGKILL).unwrap();
        assert_eq!(wait4(pid, true).unwrap().unwrap().0.exit, Exit::Signal(9));
        assert_eq!(wait4(pid, true).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn groups_that_would_reach_everybody_are_refused() {
        for pgid in [i32::MIN, -5, -1, 0, 1] {
            assert_eq!(kill_group(pgid, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{pgid}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pidfd_is_readable_at_the_end_and_the_child_is_still_to_be_reaped() {
        use crate::poll::{Interest, ready};
        use std::os::fd::AsFd;
        let pid = spawn("sleep 100");
        let pidfd = pidfd_open(pid).unwrap();
        let wait = |timeout| ready([Some((pidfd.as_fd(), Interest::Read))], timeout).unwrap();
        assert_eq!(wait(Some(Duration::ZERO)), [false]);
        terminate_group(pid).unwrap();
        assert_eq!(wait(None), [true]);
        assert_eq!(wait4(pid, false).unwrap().unwrap().0.exit, Exit::Signal(15));
    }
}
