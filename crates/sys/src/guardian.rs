//! The guardian: a process that kills the process groups of a parent that died.
//!
//! A job that is killed with SIGKILL cannot end its commands, and the parent-death signal reaches
//! only direct children, so that grandchildren would go on and overlap with their own second run.
//! The guardian is the program's own executable in a session of its own, which neither a signal to
//! the job's group nor the end of its terminal reaches. It holds one end of a socket; when the
//! other end closes, by whatever death, it
//!
//! 1. kills every group in the [`SlotTable`](crate::SlotTable);
//! 2. looks through `/proc` for what carries the run's marker in its environment
//!    ([`Guardian::marker`]) and kills that and its group: a child that was started and not yet
//!    entered, or one that left its group;
//! 3. repeats 2 until two looks find nothing, and exits. What it was given to keep (the descriptor
//!    of a lock file) closes then, so that whoever waits for the lock starts when nothing of the
//!    dead run is left.
//!
//! Children are never in a state that neither step sees: they inherit the parent's end of the
//! socket until their exec, so its end comes after it. What escapes is a process that both left its
//! group and cleared its environment, and one that changed to another user.

/// The first argument of a guardian, known to [`main_if_asked`].
pub const ARGUMENT: &str = "__guardian";

/// The environment variable that every child of a guarded run carries.
pub const MARKER: &str = "LONGSHORE_RUN";

#[cfg(target_os = "linux")]
pub use linux::{Guardian, main_if_asked};
#[cfg(target_os = "linux")]
pub(crate) use linux::{receive, send};
#[cfg(not(target_os = "linux"))]
pub use other::{Guardian, main_if_asked};

#[cfg(target_os = "linux")]
mod linux {
    use super::{ARGUMENT, MARKER};
    use crate::{
        poll::{Interest, ready},
        table::SlotTable,
    };
    use rustix::{
        cmsg_space,
        net::{
            AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
            SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
        },
    };
    use std::{
        hash::{BuildHasher, Hasher, RandomState},
        io::{self, IoSlice, IoSliceMut},
        mem::MaybeUninit,
        os::{
            fd::{AsFd, BorrowedFd, OwnedFd},
            unix::process::CommandExt,
        },
        process::{Child, Command, Stdio},
        time::Duration,
    };

    /// Table and marker, parent to guardian, with the table's file.
    const TABLE: u8 = b'T';
    /// A descriptor to keep open.
    const KEEP: u8 = b'K';
    /// The parent ends as it should.
    const BYE: u8 = b'B';
    /// Guardian to parent: from now on nothing escapes.
    const READY: u8 = b'R';

    /// Longest time that a guardian may take to come up or to go; it needs milliseconds.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A running guardian. Dropping it tells the guardian that all is well, and waits for it.
    #[derive(Debug)]
    pub struct Guardian {
        socket: Option<OwnedFd>,
        process: Child,
        marker: String,
    }

    impl Guardian {
        /// Starts a guardian for the groups in `table`, which keeps the descriptors in `keep` open
        /// until it has done its work, and returns when it is ready. No child may be started
        /// before.
        ///
        /// The executable of this process is started again, so its `main` must begin with
        /// [`main_if_asked`].
        ///
        /// # Errors
        /// What the start says; `TimedOut` or `UnexpectedEof` when what was started does not answer
        /// as a guardian.
        pub fn start(table: &SlotTable, keep: &[BorrowedFd<'_>]) -> io::Result<Self> {
            // A socket instead of a pipe: descriptors can be sent over it, so none ever has to be
            // inheritable, where a child that another thread starts at that moment would catch it
            // too.
            let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let process = Command::new("/proc/self/exe")
                .arg0("longshore-guardian")
                .arg(ARGUMENT)
                // A run may itself be a command of a guarded run, and its guardian must outlive it.
                .env_remove(MARKER)
                .stdin(Stdio::from(theirs))
                // It must not hold the pipes of whoever reads the job's output.
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let random = RandomState::new().build_hasher().finish();
            let guardian = Self { socket: Some(ours), process, marker: format!("{:x}-{random:016x}", std::process::id()) };
            let socket = guardian.socket()?;
            let hello = format!("{}{MARKER}={}", char::from(TABLE), guardian.marker);
            send(socket, hello.as_bytes(), Some(table.file()))?;
            for fd in keep {
                guardian.keep(*fd)?;
            }
            if !ready([Some((socket, Interest::Read))], Some(PATIENCE))?[0] {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the guardian of the children did not get ready"));
            }
            match receive(socket) {
                Ok((message, _)) if message == [READY] => Ok(guardian),
                _ => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the guardian of the children did not start: does main begin with guardian::main_if_asked()?",
                )),
            }
        }

        /// Has the guardian keep one more descriptor open until it has done its work; a lock
        /// (flock) that it carries stays held.
        ///
        /// # Errors
        /// `BrokenPipe` when the guardian is gone.
        pub fn keep(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
            // No answer needed: what is on its way when this process dies is still delivered before
            // the end.
            send(self.socket()?, &[KEEP], Some(fd))
        }

        /// The environment variable, name and value, that every child of this run has to carry. It
        /// names this run and no other.
        pub fn marker(&self) -> (&'static str, &str) {
            (MARKER, &self.marker)
        }

        /// The guardian's pid.
        pub fn pid(&self) -> i32 {
            self.process.id().cast_signed()
        }

        /// Tells the guardian that this process ends as it should, and waits until it is gone. What
        /// is still in the table is killed.
        ///
        /// # Errors
        /// `BrokenPipe` when the guardian was gone already.
        pub fn finish(mut self) -> io::Result<()> {
            self.end()
        }

        fn socket(&self) -> io::Result<BorrowedFd<'_>> {
            self.socket.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::NotConnected.into())
        }

        fn end(&mut self) -> io::Result<()> {
            let Some(socket) = self.socket.take() else { return Ok(()) };
            let said = send(socket.as_fd(), &[BYE], None);
            // Its end of the socket closes when it exits.
            if !ready([Some((socket.as_fd(), Interest::Read))], Some(PATIENCE)).is_ok_and(|[gone]| gone) {
                let _ = self.process.kill();
            }
            self.process.wait()?;
            said
        }
    }

    impl Drop for Guardian {
        fn drop(&mut self) {
            let _ = self.end();
        }
    }

    /// Becomes a guardian, and never returns, when this process was started as one. Belongs at the
    /// very start of `main`: before any thread, and before any file is opened.
    pub fn main_if_asked() {
        if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
            std::process::exit(match guard() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("longshore: {ARGUMENT} is started by longshore itself and not by hand: {error}");
                    2
                }
            });
        }
    }

    fn guard() -> io::Result<()> {
        let stdin = io::stdin();
        let socket = stdin.as_fd();
        let (hello, file) = receive(socket)?;
        let (Some((&TABLE, marker)), Some(file)) = (hello.split_first(), file) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the message of a parent"));
        };
        let table = SlotTable::open(alone(file)?)?;
        let mut home_group = rustix::process::getpgrp().as_raw_nonzero().get();
        if rustix::process::setsid().is_err() {
            // Already the leader of a group: somebody started it so, and the group is its own.
            home_group = 0;
        }
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP]
        {
            // SAFETY: ignoring a signal runs no code of ours in a handler, and no other thread
            // exists.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let _ = rustix::thread::set_name(c"longshore-guard");
        // A working directory would keep its file system busy.
        let _ = std::env::set_current_dir("/");
        send(socket, &[READY], None)?;

        let mut kept = Vec::new();
        let died = loop {
            match receive(socket) {
                Ok((message, fd)) if message == [KEEP] => kept.extend(fd),
                Ok((message, _)) if message == [BYE] => break false,
                // The end, or an error that can only mean the same.
                _ => break true,
            }
        };
        for pgid in table.groups() {
            let _ = crate::child::kill_group(pgid, libc::SIGKILL);
        }
        if died {
            super::sweep::kill_all(table.groups(), marker, home_group);
        }
        drop(kept);
        Ok(())
    }

    /// Closes every descriptor but the standard ones and this: what the parent itself had inherited
    /// (the pipe of a script that waits for its end, say) must not stay open here.
    fn alone(file: OwnedFd) -> io::Result<OwnedFd> {
        use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
        let fd = if file.as_raw_fd() == 3 { file.into_raw_fd() } else { rustix::io::fcntl_dupfd_cloexec(&file, 3)?.into_raw_fd() };
        // Either it is 3 now, or 3 was taken by what we inherited; close around it. Kernels before
        // 5.9 answer ENOSYS, and then they stay open.
        let close = |from: i32, to: u32| {
            // SAFETY: close_range touches no memory. This process has only just begun and owns no
            // descriptor but the standard ones and `fd`.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        };
        if fd > 3 {
            close(3, fd.unsigned_abs() - 1);
        }
        close(fd + 1, u32::MAX);
        // SAFETY: `fd` came from into_raw_fd above and was left open.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn send(socket: BorrowedFd<'_>, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<_> = fd.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// One message, and the descriptor that came with it; `UnexpectedEof` at the end.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut message = vec![0; 256];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        message.truncate(received.bytes);
        let fd = control.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((message, fd))
    }
}

#[cfg(target_os = "linux")]
mod sweep {
    //! The search for what a dead run left behind.

    use crate::child::kill_group;
    use std::{collections::BTreeSet, fs, thread, time::Duration, time::Instant};

    /// Kills what belongs to `groups`, or carries `marker` (`NAME=value`) in its environment, until
    /// two looks through `/proc` find nothing alive; for five seconds at most, because a process in
    /// uninterruptible sleep dies when it wakes.
    pub(super) fn kill_all(groups: Vec<i32>, marker: &[u8], home_group: i32) {
        let mut groups: BTreeSet<i32> = groups.into_iter().collect();
        let start = Instant::now();
        let mut quiet = 0;
        let mut pauses = [20, 60].into_iter().chain(std::iter::repeat(20));
        while quiet < 2 && start.elapsed() < Duration::from_secs(5) {
            let found = kill_once(&mut groups, marker, home_group);
            quiet = if found == 0 { quiet + 1 } else { 0 };
            if quiet < 2 {
                thread::sleep(Duration::from_millis(pauses.next().unwrap_or(20)));
            }
        }
    }

    /// One look; the number of processes that were alive and ours.
    fn kill_once(groups: &mut BTreeSet<i32>, marker: &[u8], home_group: i32) -> usize {
        let me = std::process::id().cast_signed();
        let Ok(entries) = fs::read_dir("/proc") else { return 0 };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut found = 0;
        for pid in pids.filter(|pid| *pid > 1 && *pid != me) {
            let Some(group) = live_group(pid) else { continue };
            if groups.contains(&group) {
                let _ = kill_group(group, libc::SIGKILL);
            } else if carries(pid, marker) {
                // SAFETY: kill(2) touches no memory; the pid is above 1 and not ours.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // The dead parent's own group may hold the other end of a shell's pipeline, and is
                // not ours to kill.
                if group > 1 && group != home_group && group != me {
                    let _ = kill_group(group, libc::SIGKILL);
                    groups.insert(group);
                }
            } else {
                continue;
            }
            found += 1;
        }
        found
    }

    /// The group of a process that runs; `None` when it has ended, reaped or not.
    fn live_group(pid: i32) -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "pid (name) state parent group …": the name may hold anything, parentheses too.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let group = fields.nth(1)?.parse().ok()?;
        (!matches!(state, "Z" | "X" | "x")).then_some(group)
    }

    fn carries(pid: i32, marker: &[u8]) -> bool {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == marker))
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use crate::table::SlotTable;
    use std::{io, os::fd::BorrowedFd};

    /// A guardian; there is none on this system.
    #[derive(Debug)]
    pub struct Guardian(std::convert::Infallible);

    impl Guardian {
        /// Always an error: unsupported on this system.
        pub fn start(_table: &SlotTable, _keep: &[BorrowedFd<'_>]) -> io::Result<Self> {
            Err(crate::unsupported("a guardian of children"))
        }

        /// Never called.
        pub fn keep(&self, _fd: BorrowedFd<'_>) -> io::Result<()> {
            match self.0 {}
        }

        /// Never called.
        pub fn marker(&self) -> (&'static str, &str) {
            match self.0 {}
        }

        /// Never called.
        pub fn pid(&self) -> i32 {
            match self.0 {}
        }

        /// Never called.
        pub fn finish(self) -> io::Result<()> {
            match self.0 {}
        }
    }

    /// Does nothing: no process is started as a guardian on this system.
    pub fn main_if_asked() {}
}
