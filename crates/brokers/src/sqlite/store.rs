//! One file, opened: a writer thread that commits in groups, threads that read, and what tells of
//! changes.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread::JoinHandle,
};

use longshore_core::ErrorKind;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, oneshot};

use super::{
    beside::Beside,
    bus::FileBus,
    file::{self, FilePlace},
    owners, save,
    wake::{Bell, Listening},
    writer::{self, Along, Call, Op, Step},
};
use crate::{
    error::BrokerError,
    news::{Ability, Happened, Notice},
};

/// State that all parts of an open file share.
pub(crate) struct StoreShared {
    pub(crate) place: FilePlace,
    /// Set once, when something failed that leaves us unsure of the file: nothing is done with it
    /// any more.
    poison: OnceLock<BrokerError>,
    /// Way to the writer; gone when the store is closed.
    writes: Mutex<Option<std_mpsc::Sender<Box<dyn Op>>>>,
    /// There are workers here, which take from the dead.
    pub(crate) serves: AtomicBool,
    /// There may be something to claim.
    pub(crate) changed: Notify,
    pub(crate) bell: Bell,
    pub(crate) bus: FileBus,
    beside: Beside,
    /// Nobody waits any more for what is still done.
    pub(crate) closing: AtomicBool,
    /// Reason why it is only looked at.
    only_read: Option<BrokerError>,
    notice: Notice,
    /// Somebody waits until the file takes what it is given.
    unable: AtomicBool,
    /// Somebody waits until it can be read.
    unread: AtomicBool,
}

impl StoreShared {
    /// Has the writer do a step. Returns whether it still takes any.
    fn send(&self, op: Box<dyn Op>) -> bool {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.as_ref().is_some_and(|sender| sender.send(op).is_ok())
    }

    /// Takes what those hold that are surely dead, if there are workers here.
    pub(crate) fn rescue_from_dead(&self) {
        if !self.serves.load(Ordering::Relaxed) || self.poisoned().is_err() {
            return;
        }
        let dead = self.bus.surely_dead(self).map_err(|error| self.fault(&error)).unwrap_or_default();
        if !dead.is_empty() {
            let rescue = move |step: &mut Step<'_>| {
                dead.iter().try_for_each(|number| owners::rescue(step.conn, *number).map(|found| step.wake |= found))
            };
            self.send(Call::boxed(rescue, oneshot::channel().0));
        }
    }

    fn new(
        place: FilePlace,
        bell: Bell,
        writes: Option<std_mpsc::Sender<Box<dyn Op>>>,
        only_read: Option<BrokerError>,
        notice: Notice,
    ) -> Arc<Self> {
        let (beside, writes) = (Beside::new(&place.path), Mutex::new(writes));
        let (poison, serves, changed, bus, closing, unable, unread) = Default::default();
        Arc::new(Self { place, poison, writes, serves, changed, bell, bus, beside, closing, only_read, notice, unable, unread })
    }

    /// Opens another connection to it.
    pub(crate) fn connect(&self) -> rusqlite::Result<Connection> {
        if self.only_read.is_some() { file::connect_to_read(&self.place) } else { file::connect(&self.place) }
    }

    /// Checks that what is looked at is what the writer writes. Where it is not, he says so when he
    /// is next asked or renews a lease, and saves what he can.
    pub(crate) fn may_look(&self) -> Result<(), BrokerError> {
        match self.beside.changed().filter(|_| self.only_read.is_none()) {
            Some(message) => Err(BrokerError { kind: ErrorKind::Transient, message }),
            None => Ok(()),
        }
    }

    /// Checks that the files are those that were opened, through the writer's connection, which has
    /// them open.
    pub(crate) fn still_there(&self, conn: &Connection) -> Result<(), BrokerError> {
        if self.only_read.is_some() {
            return Ok(());
        }
        self.beside.check(conn).map_err(|text| self.poison(text))
    }

    /// Says that the file takes nothing now, once until it [is able](Self::is_able) again.
    pub(crate) fn is_unable(&self, text: &str) {
        if !self.unable.swap(true, Ordering::AcqRel) {
            (self.notice)(&Happened::Refused { reason: format!("{text}; it is waited for") }.into());
        }
    }

    /// Says that the file takes what it is given again, if it did not.
    pub(crate) fn is_able(&self) {
        if self.unable.swap(false, Ordering::AcqRel) {
            (self.notice)(&Happened::Able { server: self.place.path.display().to_string(), again: Ability::Take }.into());
        }
    }

    /// Says that another program keeps it locked, to workers, whose every step waits for it.
    pub(crate) fn is_locked(&self) {
        if self.serves.load(Ordering::Relaxed) && !self.unable.load(Ordering::Relaxed) {
            self.is_unable(&format!("{}: another program keeps it locked", self.place.path.display()));
        }
    }

    /// Says that the file cannot be read now, once until it [can be](Self::is_readable) again.
    pub(crate) fn is_unreadable(&self, text: &str) {
        if !self.unread.swap(true, Ordering::AcqRel) {
            (self.notice)(&Happened::Refused { reason: format!("{text}; until it can be read, it is waited for") }.into());
        }
    }

    /// Says that the file can be read again, if it could not.
    pub(crate) fn is_readable(&self) {
        if self.unread.swap(false, Ordering::AcqRel) {
            (self.notice)(&Happened::Able { server: self.place.path.display().to_string(), again: Ability::Read }.into());
        }
    }

    pub(crate) fn poisoned(&self) -> Result<(), BrokerError> {
        self.poison.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Notes that the file is used no more. The first cause stays.
    pub(crate) fn poison(&self, message: String) -> BrokerError {
        let error =
            BrokerError { kind: ErrorKind::Fatal, message: format!("{message}; nothing more is done with it until it is opened anew") };
        let error = self.poison.get_or_init(|| error).clone();
        self.changed.notify_waiters();
        error
    }

    /// Returns what an error of a step means: it is over for now, or the file is used no more.
    pub(crate) fn fault(&self, error: &rusqlite::Error) -> BrokerError {
        match self.meaning(error) {
            (Some(kind), message) => BrokerError { kind, message },
            (None, message) => self.poison(message),
        }
    }

    /// Returns how bad the failure of a step is that was undone, and says it for people; without a
    /// kind the file cannot be trusted any more.
    pub(crate) fn meaning(&self, error: &rusqlite::Error) -> (Option<ErrorKind>, String) {
        let is_damaged = error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt);
        let disk = is_damaged.then(|| file::unreadable(&self.place)).flatten();
        let error = disk.as_ref().unwrap_or(error);
        (file::meaning(error), file::explain(&self.place, error))
    }
}

/// An open file. Closed when the last handle is dropped.
pub(crate) struct Store {
    pub(crate) shared: Arc<StoreShared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    quick: Reader,
    slow: Reader,
    /// Counts, which takes the longer the more there is: nobody who looks waits for it.
    counts: Reader,
    /// Copies what the writer has committed.
    saver: Arc<Reader>,
    /// Ends with the store.
    listening: Mutex<Option<Listening>>,
}

impl Store {
    /// Opens a file; one that cannot be written, to be looked at.
    pub(crate) fn open(place: FilePlace, notice: Notice) -> Result<Arc<Self>, BrokerError> {
        let opened = file::create(&place).map_err(|error| (error.kind != ErrorKind::Transient, error));
        match opened.and_then(|conn| Self::open_to_write(&place, conn, notice.clone())) {
            Err((true, error)) if file::can_be_read(&place) => Self::open_to_read(place, error, notice),
            opened => opened.map_err(|(_, error)| error),
        }
    }

    fn open_to_read(place: FilePlace, why: BrokerError, notice: Notice) -> Result<Arc<Self>, BrokerError> {
        let bell = Bell::mute().map_err(|_| why.clone())?;
        let shared = StoreShared::new(place, bell, None, Some(why), notice);
        let [quick, slow, counts, saver] = [READS, READS, READS, SAVES].map(|name| Reader::new(name, &shared));
        let (writer, listening) = Default::default();
        Ok(Arc::new(Self { shared, writer, quick, slow, counts, saver: Arc::new(saver), listening }))
    }

    /// Or says why not, and whether it might still be looked at.
    fn open_to_write(place: &FilePlace, mut conn: Connection, notice: Notice) -> Result<Arc<Self>, (bool, BrokerError)> {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
        let broken = |error: std::io::Error| {
            let message = format!("{}: what wakes others cannot be set up beside it: {error}", place.path.display());
            let may_be_read = matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull);
            (may_be_read, BrokerError { kind: ErrorKind::Refused, message })
        };
        let bell = Bell::open(&place.path).map_err(broken)?;
        let (sender, receiver) = std_mpsc::channel();
        let shared = StoreShared::new(place.clone(), bell, Some(sender), None, notice);
        shared.still_there(&conn).map_err(|error| (false, error))?;
        let [quick, slow, counts, saver] = [READS, READS, READS, SAVES].map(|name| Reader::new(name, &shared));
        let saver = Arc::new(saver);
        save::beside_the_writer(&mut conn, saver.clone()).map_err(|error| (false, shared.fault(&error)))?;
        let listening = Listening::start(Arc::clone(&shared)).map_err(broken)?;
        let writer = std::thread::Builder::new().name("longshore-sqlite".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || writer::run(&shared, conn, &receiver)
        });
        let writer = writer.map_err(broken)?;
        let writer = Mutex::new(Some(writer));
        Ok(Arc::new(Self { shared, writer, quick, slow, counts, saver, listening: Mutex::new(Some(listening)) }))
    }

    /// Does a step in a transaction with whatever else is waiting; returns when it is committed.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.shared.poisoned()?;
        if let Some(why) = &self.shared.only_read {
            return Err(why.clone());
        }
        let (reply, answer) = oneshot::channel();
        match self.shared.send(Call::boxed(step, reply)) {
            true => answer.await.unwrap_or_else(|_| Err(self.gone())),
            false => Err(self.gone()),
        }
    }

    /// Does a step with the next transaction, which a worker's lease asks for if nothing else does.
    /// Nobody is told when.
    pub(crate) fn write_along(&self, step: impl FnMut(&mut Step<'_>) -> rusqlite::Result<()> + Send + 'static) -> Result<(), BrokerError> {
        self.shared.poisoned()?;
        if let Some(why) = &self.shared.only_read {
            return Err(why.clone());
        }
        match self.shared.send(Along::boxed(step)) {
            true => Ok(()),
            false => Err(self.gone()),
        }
    }

    /// Looks at the file, for microseconds.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.quick.read(&self.shared, look).await.unwrap_or_else(|| Err(self.gone()))
    }

    /// Looks through the file, which may take a while.
    pub(crate) async fn look_through<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.slow.read(&self.shared, look).await.unwrap_or_else(|| Err(self.gone()))
    }

    /// Counts what the file has.
    pub(crate) async fn count<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.counts.read(&self.shared, look).await.unwrap_or_else(|| Err(self.gone()))
    }

    fn gone(&self) -> BrokerError {
        self.shared.poison(format!("{}: its thread ended", self.shared.place.path.display()))
    }
}

impl Store {
    /// Ends all threads and connections; the last one that a file has tidies it up. What was sent
    /// before is still done, if the file is free.
    pub(crate) fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.writes.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.quick.end();
        self.slow.end();
        self.counts.end();
        self.saver.end();
        self.shared.bus.close();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            join(writer);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        let _ = thread.join();
    }
}

/// Names of threads.
const READS: &str = "longshore-sqlite-read";
const SAVES: &str = "longshore-sqlite-save";

type QuickLook = Box<dyn FnOnce(Result<&Connection, BrokerError>) + Send>;

/// A thread with a connection of its own, made when it is first needed.
pub(crate) struct Reader {
    name: &'static str,
    looks: Mutex<Option<std_mpsc::Sender<QuickLook>>>,
    start: Mutex<Option<(std_mpsc::Receiver<QuickLook>, Arc<StoreShared>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reader {
    fn new(name: &'static str, shared: &Arc<StoreShared>) -> Self {
        let (looks, receiver) = std_mpsc::channel();
        let (looks, start) = (Mutex::new(Some(looks)), Mutex::new(Some((receiver, Arc::clone(shared)))));
        Self { name, looks, start, thread: Mutex::default() }
    }

    /// Ends its thread, after what it was asked before.
    fn end(&self) {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            join(thread);
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        shared: &Arc<StoreShared>,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<Result<T, BrokerError>> {
        if let Err(error) = shared.poisoned() {
            return Some(Err(error));
        }
        let (reply, answer) = oneshot::channel();
        let shared = Arc::clone(shared);
        self.ask(move |conn| {
            let _ = reply.send(conn.and_then(|conn| look(conn).map_err(|error| shared.fault(&error))));
        })?;
        answer.await.ok()
    }

    /// Has its thread look, and does not wait. `None`: it has ended, or never began.
    pub(crate) fn ask(&self, look: impl FnOnce(Result<&Connection, BrokerError>) + Send + 'static) -> Option<()> {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((receiver, shared)) = start {
            let thread = std::thread::Builder::new().name(self.name.to_owned());
            let thread = thread.spawn(move || Self::run(&shared, &receiver)).ok()?;
            *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        }
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.send(Box::new(look)).ok()
    }

    fn run(shared: &Arc<StoreShared>, looks: &std_mpsc::Receiver<QuickLook>) {
        file::work_for(shared);
        let mut open = None;
        for look in looks {
            let conn = match (shared.may_look(), open.take()) {
                (Err(error), conn) => {
                    open = conn;
                    Err(error)
                }
                (Ok(()), Some(conn)) => Ok(&*open.insert(conn)),
                (Ok(()), None) => match shared.connect() {
                    Ok(conn) => Ok(&*open.insert(conn)),
                    Err(error) => Err(shared.fault(&error)),
                },
            };
            look(conn);
        }
    }
}
