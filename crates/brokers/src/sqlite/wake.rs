//! Waking those who wait, in all processes that have the file open.
//!
//! Beside the file lies `<file>-wake`. Whoever has committed something that others may wait for writes a byte to it; all watch it (inotify). Without a
//! message lost or a look too many: what was committed is there before the bell rings, and an idle process sleeps. Elsewhere than on Linux, and where the
//! system has no more watches to give, other processes look once a second.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{file, store::Shared};

/// A look without having been woken.
const SAFETY: Duration = Duration::from_secs(1);
/// A subscriber is behind.
const SOON: Duration = Duration::from_millis(20);

/// What is rung after a commit.
pub(crate) struct Bell {
    path: PathBuf,
    file: Mutex<(File, Option<(u64, u64)>)>,
    /// The bell is not heard by our own thread, which is to be nudged.
    deaf: AtomicBool,
    nudge: UnixStream,
    nudged: Mutex<Option<UnixStream>>,
}

fn open(path: &Path) -> io::Result<(File, Option<(u64, u64)>)> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    Ok((file, file::identity(path)))
}

impl Bell {
    pub(crate) fn open(database: &Path) -> io::Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push("-wake");
        let path = PathBuf::from(path);
        let (nudge, nudged) = UnixStream::pair()?;
        nudge.set_nonblocking(true)?;
        nudged.set_nonblocking(true)?;
        Ok(Self { file: Mutex::new(open(&path)?), path, deaf: AtomicBool::new(true), nudge, nudged: Mutex::new(Some(nudged)) })
    }

    /// Wakes all. Whoever cannot be woken looks within a second.
    pub(crate) fn ring(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let rung = file.0.write_at(b"!", 0).is_ok();
        if !rung || self.deaf.load(Ordering::Relaxed) {
            // Full means that it is awake anyway.
            let _ = (&self.nudge).write(b"!");
        }
    }

    /// Listens to it, if the system lets us.
    fn ear(&self) -> Ear {
        let ear = Ear::new(&self.path);
        self.deaf.store(ear.descriptor().is_none(), Ordering::Relaxed);
        ear
    }

    /// Opens the bell anew if it was taken away. Whether it was.
    fn restore(&self) -> bool {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.1.is_some() && file::identity(&self.path) == file.1 {
            return false;
        }
        open(&self.path).map(|opened| *file = opened).is_ok()
    }
}

/// The thread that hears the bell. Ends when this is dropped.
pub(crate) struct Listening {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    pub(crate) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let nudged = shared.bell.nudged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let nudged = nudged.ok_or_else(|| io::Error::other("it is listened to already"))?;
        let ear = shared.bell.ear();
        let thread = std::thread::Builder::new().name("longshore-sqlite-wake".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || listen(&shared, &nudged, ear)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.shared.bell.nudge.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn listen(shared: &Shared, nudged: &UnixStream, mut ear: Ear) {
    let mut wait = SAFETY;
    loop {
        match heard(&ear, nudged, wait) {
            Heard::End => return,
            Heard::Bell => shared.changed.notify_waiters(),
            // Idle consumers look by themselves once a second.
            Heard::Silence => {
                if wait == SAFETY && shared.bell.restore() {
                    ear = shared.bell.ear();
                }
            }
        }
        wait = if shared.bus.deliver(shared) { SAFETY } else { SOON };
    }
}

enum Heard {
    Bell,
    Silence,
    End,
}

fn heard(ear: &Ear, nudged: &UnixStream, wait: Duration) -> Heard {
    let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
    let mut fds = vec![PollFd::new(nudged, PollFlags::IN)];
    fds.extend(ear.descriptor().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Heard::Silence,
        Ok(_) => {}
        Err(_) => {
            std::thread::sleep(wait);
            return Heard::Silence;
        }
    }
    ear.empty();
    let mut bytes = [0; 64];
    loop {
        match (&mut (&*nudged)).read(&mut bytes) {
            Ok(0) => return Heard::End,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Bell,
            Err(_) => return Heard::End,
        }
    }
}

/// Hears the bell: a watch of the system.
struct Ear(Option<OwnedFd>);

impl Ear {
    #[cfg(target_os = "linux")]
    fn new(path: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let ear = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        Self(ear.filter(|ear| add_watch(ear, path, WatchFlags::MODIFY).is_ok()))
    }

    #[cfg(not(target_os = "linux"))]
    fn new(_: &Path) -> Self {
        Self(None)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// What was heard does not matter, only that something was.
    fn empty(&self) {
        let mut buffer = [0; 4096];
        while self.descriptor().is_some_and(|fd| rustix::io::read(fd, &mut buffer).is_ok_and(|length| length > 0)) {}
    }
}
