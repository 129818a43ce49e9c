//! The two ends of a child that runs functions of its own program: what the parent gives it, and
//! what it does to itself before anything else.

#[cfg(target_os = "linux")]
pub use linux::{Original, enter, hand_over, leave, resident_bytes};
#[cfg(not(target_os = "linux"))]
pub use other::{Original, enter, hand_over, leave, resident_bytes};

#[cfg(target_os = "linux")]
mod linux {
    use crate::{Board, guardian};
    use rustix::{
        mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
        process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit},
    };
    use std::{
        fs::{self, File},
        io::{self, PipeReader, PipeWriter},
        os::{
            fd::{AsFd, OwnedFd},
            unix::net::UnixStream,
        },
        ptr,
        sync::atomic::{AtomicU8, Ordering},
    };

    /// Tells this process from a copy of it that fork(2) made, by one look at memory (asking for
    /// the pid is a system call).
    #[derive(Debug)]
    pub struct Original(&'static AtomicU8);

    impl Original {
        /// For this process. One a process is enough: its page is never given back.
        ///
        /// # Errors
        /// What mmap(2) and madvise(2) say.
        pub fn mark() -> io::Result<Self> {
            let length = rustix::param::page_size();
            // SAFETY: a fresh private mapping at an address that the kernel chooses aliases nothing
            // of ours.
            let page = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
            // SAFETY: the page is the one that was just mapped, whole; only a copy of this process
            // finds it wiped, and a zero is valid there too.
            unsafe { madvise(page, length, Advice::LinuxWipeOnFork)? };
            // SAFETY: mapped, zero-filled, aligned to a page, never unmapped, and only ever seen as
            // an atomic.
            let this = Self(unsafe { &*page.cast::<AtomicU8>() });
            this.0.store(1, Ordering::Relaxed);
            Ok(this)
        }

        /// Returns whether this is the process that was marked, and no copy of it.
        pub fn is_here(&self) -> bool {
            self.0.load(Ordering::Relaxed) == 1
        }
    }

    /// Parent: sends a child, whose standard input is the other end of this socket, what it works
    /// with. Nothing of it ever has to be inheritable, where a child that another thread starts at
    /// that moment would catch it too.
    ///
    /// # Errors
    /// What sendmsg(2) says.
    pub fn hand_over(socket: &UnixStream, board: &Board, requests: &PipeReader, answers: PipeWriter) -> io::Result<()> {
        for fd in [board.file(), requests.as_fd(), answers.as_fd()] {
            guardian::send(socket.as_fd(), b"F", Some(fd))?;
        }
        Ok(())
    }

    /// Child, first thing in `main`: takes over what its parent sends (standard input is empty from
    /// then on); and sees to it that it dies with the thread that started it, leaves no core dump,
    /// and is what the kernel ends first when memory runs out.
    ///
    /// # Errors
    /// `NotFound` when `parent` is not its parent (any more), else what the calls say.
    pub fn enter(parent: i32) -> io::Result<(Board, PipeReader, PipeWriter)> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its parent has gone"));
        }
        let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        // What follows is for the machine's good; a system that forbids it can still run functions.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
        let next = || {
            let (_, file) = guardian::receive(socket.as_fd())?;
            file.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the message of a parent"))
        };
        let board = Board::open(next()?)?;
        Ok((board, next()?.into(), next()?.into()))
    }

    /// Ends this process at once, without the program's own clean-up: for a copy (fork) of a child,
    /// which has no business in its loop.
    pub fn leave(code: i32) -> ! {
        // SAFETY: _exit(2) touches no memory of this process, and does not return.
        unsafe { libc::_exit(code) }
    }

    /// The memory that a process holds now, in bytes, shared parts (its program's own pages)
    /// included; `None` when it has gone.
    pub fn resident_bytes(pid: i32) -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_copy_of_a_process_is_not_the_original() {
            let original = Original::mark().unwrap();
            assert!(original.is_here());
            // SAFETY: the copy touches one atomic and leaves; it takes no lock and allocates
            // nothing.
            let copy = unsafe { libc::fork() };
            if copy == 0 {
                leave(if original.is_here() { 1 } else { 77 });
            }
            assert_eq!(crate::child::wait4(copy, true).unwrap().unwrap().0.exit, crate::Exit::Code(77));
            assert!(original.is_here());
        }

        #[test]
        fn resident_bytes_grow_with_what_is_touched() {
            let me = std::process::id().cast_signed();
            let before = resident_bytes(me).unwrap();
            let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
            let after = resident_bytes(me).unwrap();
            assert!(after >= before + (32 << 20), "{before} then {after} with {} more", touched.len());
            assert_eq!(resident_bytes(i32::MAX), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use crate::Board;
    use std::{
        io::{self, PipeReader, PipeWriter},
        os::unix::net::UnixStream,
    };

    /// Tells this process from a copy of it; there is none on this system.
    #[derive(Debug)]
    pub struct Original(std::convert::Infallible);

    impl Original {
        /// Always an error: unsupported on this system.
        pub fn mark() -> io::Result<Self> {
            Err(crate::unsupported("telling a process from its copy"))
        }

        /// Never called.
        pub fn is_here(&self) -> bool {
            match self.0 {}
        }
    }

    /// Always an error: unsupported on this system.
    pub fn hand_over(_socket: &UnixStream, _board: &Board, _requests: &PipeReader, _answers: PipeWriter) -> io::Result<()> {
        Err(crate::unsupported("a child that runs functions of this program"))
    }

    /// Always an error: unsupported on this system.
    pub fn enter(_parent: i32) -> io::Result<(Board, PipeReader, PipeWriter)> {
        Err(crate::unsupported("a child that runs functions of this program"))
    }

    /// Ends this process.
    pub fn leave(code: i32) -> ! {
        std::process::exit(code)
    }

    /// `None`: unsupported on this system.
    pub fn resident_bytes(_pid: i32) -> Option<u64> {
        None
    }
}
