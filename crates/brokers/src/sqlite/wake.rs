//! Waking those who wait, in all processes that have the file open.
//!
//! Beside the file lies `<file>-wake`. Whoever has committed something that others may wait for
//! writes a byte to it; all watch it (inotify). Without a message lost or a look too many: what was
//! committed is there before the bell rings, and an idle process sleeps. All have it open for as
//! long as they live, so its being closed tells of every end: of a process that was killed between
//! a commit and the bell, and of a worker whose messages are to be rescued. Elsewhere than on
//! Linux, and where the system has no more watches to give, other processes look once a second.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::unix::{
        fs::{FileExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use longshore_sys::files::{self, Own};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::store::StoreShared;

/// Time between two looks where nothing wakes us.
const DEAF: Duration = Duration::from_secs(1);
/// Longest time between two deliveries of broadcasts and results where the bell is heard: nothing
/// depends on it.
const HEARING: Duration = Duration::from_secs(10);
/// Times of the looks for dead workers after somebody closed the bell: its files are closed a
/// little before it is seen to be dead.
const ENDS: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];
/// Time until the next try while a subscriber is behind.
const SOON: Duration = Duration::from_millis(20);

/// Bell that is rung after a commit.
pub(crate) struct Bell {
    path: PathBuf,
    /// Permissions of a new one.
    mode: u32,
    file: Mutex<File>,
    /// The bell is not heard by our own thread, which is to be nudged.
    deaf: AtomicBool,
    nudge: UnixStream,
    nudged: Mutex<Option<UnixStream>>,
}

/// Opens the bell, which nobody may read who may not read the file beside which it lies.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let said = |error: io::Error| io::Error::new(error.kind(), format!("{}: {}", path.display(), files::cause(&error)));
    let file = files::own_with_mode(path, Own::WriteOrCreate, mode).map_err(said)?;
    // More than the byte that rings it was written by somebody else.
    match file.metadata().map_err(said)?.len() {
        0 | 1 => Ok(file),
        _ => Err(said(io::Error::other("it is not longshore's; move it away"))),
    }
}

fn mode_of(database: &Path) -> u32 {
    database.metadata().map_or(0o600, |meta| meta.permissions().mode() & 0o666)
}

impl Bell {
    pub(crate) fn open(database: &Path) -> io::Result<Self> {
        // The file may be known by several names, and has one bell.
        let mut path = database.canonicalize()?.into_os_string();
        let mode = mode_of(Path::new(&path));
        path.push("-wake");
        let path = PathBuf::from(path);
        let (nudge, nudged) = UnixStream::pair()?;
        nudge.set_nonblocking(true)?;
        nudged.set_nonblocking(true)?;
        Ok(Self { file: Mutex::new(open(&path, mode)?), path, mode, deaf: AtomicBool::new(true), nudge, nudged: Mutex::new(Some(nudged)) })
    }

    /// Makes one that nobody hears, of a file that is only read.
    pub(crate) fn mute() -> io::Result<Self> {
        let (nudge, _) = UnixStream::pair()?;
        let file = Mutex::new(File::options().write(true).open("/dev/null")?);
        let (deaf, nudged) = (AtomicBool::new(true), Mutex::default());
        Ok(Self { file, path: PathBuf::new(), mode: 0o600, deaf, nudge, nudged })
    }

    /// Wakes all. Whoever cannot be woken looks within a second.
    pub(crate) fn ring(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let rung = file.write_at(b"!", 0).is_ok();
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

    /// Returns whether the bell wakes us, so that nothing need be looked at in vain.
    pub(crate) fn is_heard(&self) -> bool {
        !self.deaf.load(Ordering::Relaxed)
    }

    /// Opens the bell anew if it was taken away, or is not heard. Returns whether it is to be
    /// listened to anew.
    fn restore(&self) -> bool {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if !files::is_still(&self.path, &file).unwrap_or(false) {
            match open(&self.path, self.mode) {
                Ok(opened) => *file = opened,
                Err(_) => {
                    self.deaf.store(true, Ordering::Relaxed);
                    return false;
                }
            }
            return true;
        }
        !self.is_heard()
    }
}

/// The thread that hears the bell. Ends when this is dropped.
pub(crate) struct Listening {
    shared: Arc<StoreShared>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    pub(crate) fn start(shared: Arc<StoreShared>) -> io::Result<Self> {
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

fn listen(shared: &Arc<StoreShared>, nudged: &UnixStream, mut ear: Ear) {
    // When to look for dead workers.
    let mut looks: VecDeque<Instant> = VecDeque::new();
    let mut wait = DEAF;
    loop {
        let heard = heard(&ear, nudged, wait);
        let now = Instant::now();
        if matches!(heard, Heard::End) {
            return;
        }
        if let Heard::Bell { closed, .. } = heard {
            shared.changed.notify_waiters();
            if closed {
                looks.truncate(1);
                looks.extend(ENDS.iter().skip(looks.len()).map(|after| now + *after));
            }
        }
        if !matches!(heard, Heard::Bell { moved: false, .. }) && shared.bell.restore() {
            ear = shared.bell.ear();
            // Whoever rang meanwhile was not heard.
            shared.changed.notify_waiters();
        }
        if looks.pop_front_if(|at| *at <= now).is_some() {
            shared.rescue_from_dead();
        }
        let safety = if shared.bell.is_heard() && !shared.bus.is_watched_closely() { HEARING } else { DEAF };
        let next = looks.front().map_or(safety, |at| at.saturating_duration_since(now).min(safety));
        wait = if shared.bus.deliver(shared) { next } else { next.min(SOON) };
    }
}

enum Heard {
    Bell {
        /// Somebody has closed it, maybe by ending.
        closed: bool,
        /// Another file may have its name.
        moved: bool,
    },
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
            std::thread::sleep(wait.min(DEAF));
            return Heard::Silence;
        }
    }
    let (closed, moved) = ear.empty();
    let mut bytes = [0; 64];
    loop {
        match (&mut (&*nudged)).read(&mut bytes) {
            Ok(0) => return Heard::End,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Bell { closed, moved },
            Err(_) => return Heard::End,
        }
    }
}

/// Hears the bell: a watch of the system.
struct Ear(Option<OwnedFd>);

#[cfg(target_os = "linux")]
impl Ear {
    fn new(path: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let what = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let ear = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        Self(ear.filter(|ear| add_watch(ear, path, what).is_ok()))
    }

    /// Reads all that was heard. Returns whether somebody closed the bell, and whether it may have
    /// lost its name.
    fn empty(&self) -> (bool, bool) {
        use rustix::fs::inotify::{ReadFlags, Reader};
        let Some(ear) = self.descriptor() else { return (false, false) };
        let (mut buffer, mut all) = ([MaybeUninit::uninit(); 4096], ReadFlags::empty());
        let mut events = Reader::new(ear, &mut buffer);
        while let Ok(event) = events.next() {
            all |= event.events();
        }
        // More than the system keeps: anything may have been among it.
        let lost = all.contains(ReadFlags::QUEUE_OVERFLOW);
        let moved = ReadFlags::ATTRIB | ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
        (lost || all.contains(ReadFlags::CLOSE_WRITE), lost || all.intersects(moved))
    }
}

#[cfg(not(target_os = "linux"))]
impl Ear {
    fn new(_: &Path) -> Self {
        Self(None)
    }

    fn empty(&self) -> (bool, bool) {
        (false, false)
    }
}

impl Ear {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}
