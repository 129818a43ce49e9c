//! The file: its place, its opening, and the meaning of its errors.

use std::{
    cell::{Cell, RefCell},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use longshore_sys::files::{self, Own};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::store::StoreShared;
use crate::error::BrokerError;

/// `lngs`: what `file` and other programs know the file by.
const APPLICATION: i32 = 0x6c6e_6773;
/// Raised with every change of the tables.
const VERSION: i32 = 3;
/// Time for which whoever wants to write waits for another program that does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Time after which it is said that somebody waits for longer than that.
const SAID: Duration = Duration::from_secs(2);

/// The tables. Times are milliseconds since 1970. People may look at them with any SQLite tool at
/// any time; they should not write.
const SCHEMA: &str = "
CREATE TABLE messages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- the order within a priority of a queue
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,            -- 0 to 9; 0 is served first
    place INTEGER NOT NULL DEFAULT 1,     -- 0: it was handed back, and goes before the others
    due INTEGER,                          -- held back until then
    sent INTEGER NOT NULL,                -- when it came into this queue
    crashes INTEGER NOT NULL DEFAULT 0,   -- how many workers died while it ran
    lent INTEGER NOT NULL DEFAULT 0,      -- how often it was claimed
    owner INTEGER,                        -- who holds it: owners.number
    accused INTEGER NOT NULL DEFAULT 0,   -- a suspect that was about to run
    held_since INTEGER,
    raw BLOB NOT NULL                     -- the message, as Celery writes it
);
CREATE INDEX messages_waiting ON messages(queue, priority, place) WHERE owner IS NULL AND due IS NULL;
CREATE INDEX messages_later ON messages(due) WHERE owner IS NULL AND due IS NOT NULL;
CREATE INDEX messages_held ON messages(owner) WHERE owner IS NOT NULL;
CREATE TABLE owners(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    node TEXT NOT NULL,                   -- the worker's name, for people
    space TEXT NOT NULL,                  -- where pid means something: boot and pid namespace
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,             -- when the process started, in ticks since boot
    lease INTEGER NOT NULL,               -- dead, when beat has not changed for so long as others saw it
    beat INTEGER NOT NULL DEFAULT 0,
    since INTEGER NOT NULL
);
CREATE TABLE queues(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE paused(queue TEXT PRIMARY KEY, by TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dead(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL, priority INTEGER NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL, crashes INTEGER NOT NULL, raw BLOB NOT NULL
);
CREATE TABLE bus(id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL, raw BLOB NOT NULL);
-- A document that is stored again gets a new id: whoever waits for results reads on from the last one.
CREATE TABLE results(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, expires INTEGER, doc BLOB NOT NULL);
CREATE INDEX results_expires ON results(expires) WHERE expires IS NOT NULL;
CREATE TABLE chords(
    group_id TEXT PRIMARY KEY, size INTEGER, grown INTEGER NOT NULL DEFAULT 0,
    token TEXT, token_until INTEGER,      -- who may send the body, and until when
    over INTEGER NOT NULL DEFAULT 0, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE chord_parts(
    group_id TEXT NOT NULL, task_id TEXT NOT NULL, place INTEGER NOT NULL, -- place: -1 without one
    member BLOB NOT NULL, PRIMARY KEY(group_id, task_id, place)
) WITHOUT ROWID;
CREATE TABLE rates(name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID; -- next: in microseconds since 1970
CREATE TABLE limits(name TEXT PRIMARY KEY, interval INTEGER NOT NULL, span INTEGER NOT NULL) WITHOUT ROWID; -- set for all; in microseconds
CREATE TABLE revoked(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL);
CREATE INDEX revoked_at ON revoked(at);
";

/// A file and the way in which it is to be used, as its URL says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FilePlace {
    pub(crate) path: PathBuf,
    /// The URL, in one form.
    pub(crate) url: String,
    /// True if a commit waits for the disk.
    pub(crate) full: bool,
    /// The largest size in bytes.
    pub(crate) max_size: Option<u64>,
}

impl FilePlace {
    /// Returns the largest value that it can hold, in bytes: SQLite's own limit, with room for the
    /// rest of its row.
    pub(crate) fn most(&self) -> usize {
        const SQLITE: usize = 1_000_000_000 - 65_536;
        self.max_size.map_or(SQLITE, |bytes| usize::try_from(bytes).unwrap_or(SQLITE).min(SQLITE))
    }
}

/// Reads `sqlite:PATH`, `sqlite:///PATH` or a plain path, each with
/// `?sync=full|normal&max_size=BYTES`.
pub(crate) fn place(url: &str) -> Result<FilePlace, BrokerError> {
    let refused = |why: String| BrokerError { kind: ErrorKind::Refused, message: format!("{url}: {why}") };
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() || path.starts_with(':') {
        return Err(refused("a path is missing, as in sqlite:tasks.db; for queues in memory use memory://NAME".to_owned()));
    }
    let (mut full, mut max_size) = (true, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sync", "full")) => full = true,
            Some(("sync", "normal")) => full = false,
            Some(("max_size", bytes)) if bytes.parse::<u64>().is_ok_and(|bytes| bytes > 0) => max_size = bytes.parse().ok(),
            _ => return Err(refused(format!("{pair} is not known; known are sync=full, sync=normal and max_size=BYTES"))),
        }
    }
    let path = PathBuf::from(path);
    Ok(FilePlace { url: format!("sqlite:{}", path.display()), path, full, max_size })
}

/// Returns true if two paths are one file.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Returns device and inode of what the path names now; `None` where there is nothing.
///
/// # Errors
/// Nobody can tell: the disk fails, or what leads to it may not be searched.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    match path.metadata() {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the path of what SQLite keeps beside a database, which may be known by other names.
pub(crate) fn beside(database: &Path, end: &str) -> PathBuf {
    let mut path = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push(end);
    path.into()
}

/// Opens another connection to a file that [`create`] has seen.
pub(crate) fn connect(place: &FilePlace) -> rusqlite::Result<Connection> {
    let mut conn = Connection::open_with_flags(&place.path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_handler(Some(wait_for_lock))?;
    settle(&conn, place)?;
    Ok(conn)
}

fn settle(conn: &Connection, place: &FilePlace) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(64);
    conn.pragma_update(None, "synchronous", if place.full { "FULL" } else { "NORMAL" })?;
    conn.pragma_update(None, "cache_size", -16_384)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    if let Some(bytes) = place.max_size {
        let page: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        conn.query_row(&format!("PRAGMA max_page_count = {}", (bytes / u64::from(page.max(1))).max(1)), [], |_| Ok(()))?;
    }
    Ok(())
}

thread_local! {
    /// Time since which this thread waits for a lock.
    static WAITS: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Open file that this thread works for.
    static WORKS_FOR: RefCell<Option<Arc<StoreShared>>> = const { RefCell::new(None) };
}

/// Has this thread wait no longer for locks when the file is closed, and say that it waits.
pub(crate) fn work_for(shared: &Arc<StoreShared>) {
    WORKS_FOR.set(Some(Arc::clone(shared)));
}

/// Waits between two looks at a lock, and says whether to look again. SQLite's own waiting grows to
/// a tenth of a second a look; another writer here is done within a millisecond.
fn wait_for_lock(looks: i32) -> bool {
    const PAUSE: Duration = Duration::from_micros(400);
    const LAST: Duration = Duration::from_millis(200);
    let now = Instant::now();
    let since = WAITS.get().filter(|_| looks > 0).unwrap_or(now);
    WAITS.set(Some(since));
    let waited = now.duration_since(since);
    let hurries = WORKS_FOR.with_borrow(|shared| {
        let Some(shared) = shared else { return false };
        if waited >= SAID {
            shared.is_locked();
        }
        shared.closing.load(Ordering::Acquire)
    });
    if waited >= if hurries { LAST } else { PATIENCE } {
        return false;
    }
    std::thread::sleep(PAUSE.mul_f64(0.5 + fastrand::f64()));
    true
}

/// Returns whether a file can be looked at that cannot be opened as ever: it may not be written, or
/// its disk is full.
pub(crate) fn can_be_read(place: &FilePlace) -> bool {
    place.path.is_file() && connect_to_read(place).is_ok_and(|conn| check(place, &conn).is_ok())
}

/// Opens a connection that needs no room on the disk, and no permission to write.
pub(crate) fn connect_to_read(place: &FilePlace) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let looked = |conn: rusqlite::Result<Connection>| {
        let mut conn = conn?;
        conn.busy_handler(Some(wait_for_lock))?;
        tables(&conn).map(|_| conn)
    };
    let first = looked(Connection::open_with_flags(&place.path, flags));
    // Nobody has it open, and all of it is in the one file: it can be read as it stands there.
    match first {
        Err(_) if beside(&place.path, "-wal").metadata().map_or(true, |meta| meta.len() == 0) => {
            let path: String = place.path.to_string_lossy().chars().map(escaped).collect();
            looked(Connection::open_with_flags(format!("file:{path}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI))
        }
        first => first,
    }
}

/// Writes a character of a path for a URI.
fn escaped(character: char) -> String {
    match character {
        '%' | '?' | '#' => format!("%{:02X}", character as u32),
        other => other.to_string(),
    }
}

/// Opens a file, makes its tables if it is new, and refuses what is not ours.
pub(crate) fn create(place: &FilePlace) -> Result<Connection, BrokerError> {
    let failed = |error: rusqlite::Error| refusal(place, &error);
    private(place)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&place.path, flags).map_err(failed)?;
    conn.busy_handler(Some(wait_for_lock)).map_err(failed)?;
    // Looked at first, so that nothing is done to a stranger's file.
    if tables(&conn).map_err(failed)? == 0 {
        make(&conn).map_err(failed)?;
    }
    check(place, &conn)?;
    wal(&conn).map_err(failed)?;
    settle(&conn, place).map_err(failed)?;
    Ok(conn)
}

/// Makes a new file its owner's alone, which SQLite does not; the files that it keeps beside it get
/// the same permissions. Refuses what is no file.
fn private(place: &FilePlace) -> Result<(), BrokerError> {
    let refused = |why: &str| BrokerError { kind: ErrorKind::Refused, message: format!("{}: {why}", place.path.display()) };
    match place.path.metadata() {
        Ok(meta) => files::regular(&meta).map_err(|error| refused(&error.to_string())),
        Err(_) if place.path.is_symlink() => Err(refused("it is a symbolic link that leads nowhere")),
        // Another process may be faster, and whatever else is wrong SQLite says.
        Err(_) => {
            drop(files::own(&place.path, Own::New));
            Ok(())
        }
    }
}

fn tables(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

fn make(conn: &Connection) -> rusqlite::Result<()> {
    wal(conn)?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    // Another process may have been faster.
    if tables(conn)? == 0 {
        conn.execute_batch(SCHEMA)?;
        conn.pragma_update(None, "application_id", APPLICATION)?;
        conn.pragma_update(None, "user_version", VERSION)?;
    }
    conn.execute_batch("COMMIT")
}

/// Refuses a file that is not ours, or of a layout that we do not know.
fn check(place: &FilePlace, conn: &Connection) -> Result<(), BrokerError> {
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(|error| refusal(place, &error));
    let shown = place.path.display();
    let message = if number("application_id")? != APPLICATION {
        format!("{shown}: an SQLite file of another program; name a new file, or one of longshore's")
    } else {
        match number("user_version")? {
            VERSION => return Ok(()),
            2 => return grow(conn).map_err(|error| refusal(place, &error)),
            newer if newer > VERSION => {
                format!("{shown}: made by a newer longshore (layout {newer}, this one knows {VERSION}); update this one")
            }
            other => format!("{shown}: its layout {other} is not known; name a new file"),
        }
    };
    Err(BrokerError { kind: ErrorKind::Refused, message })
}

/// Layout 2 had no rates that are set for all.
fn grow(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS limits(name TEXT PRIMARY KEY, interval INTEGER NOT NULL, span INTEGER NOT NULL) WITHOUT ROWID;
         PRAGMA user_version = 3;
         COMMIT",
    )
}

/// Many may open a new file at once, and only one at a time may make this change, which waits for
/// nobody by itself.
fn wal(conn: &Connection) -> rusqlite::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        match conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Ok(_) => return Ok(()),
            Err(error) if is_busy(&error) && begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Says whether the file can never take what it was given, whatever else happens: nothing is wrong
/// with the file.
pub(crate) fn is_refusal(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => {
            matches!(code, ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::ParameterOutOfRange)
        }
        // What rusqlite itself cannot make sense of: it stands in one row.
        None => true,
    }
}

/// Returns how bad the failure of a step is that was undone; `None` where the file cannot be
/// trusted any more.
pub(crate) fn meaning(error: &rusqlite::Error) -> Option<ErrorKind> {
    match error.sqlite_error_code() {
        _ if is_refusal(error) => Some(ErrorKind::Refused),
        _ if is_busy(error) => Some(ErrorKind::Transient),
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied,
        ) => Some(ErrorKind::Unwritable),
        _ => None,
    }
}

/// Says why nothing of the file can be read now, if nothing can. When its disk fails, SQLite calls
/// a file damaged that is as sound as ever; to whoever opens it anew it says what it is.
pub(crate) fn unreadable(place: &FilePlace) -> Option<rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let error = Connection::open_with_flags(&place.path, flags).and_then(|conn| tables(&conn)).err()?;
    matches!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)).then_some(error)
}

/// Returns the meaning of an error at opening.
fn refusal(place: &FilePlace, error: &rusqlite::Error) -> BrokerError {
    let kind = match error.sqlite_error_code() {
        _ if is_busy(error) => ErrorKind::Transient,
        // As a commit that fails so: what is to be written cannot be.
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => ErrorKind::Fatal,
        _ => ErrorKind::Refused,
    };
    BrokerError { kind, message: explain(place, error) }
}

/// Returns the meaning of an error for people, and what to do.
pub(crate) fn explain(place: &FilePlace, error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) if place.max_size.is_some() => "the disk is full, or the file has reached its max_size; make room",
        Some(ErrorCode::DiskFull) => "the disk is full; make room",
        Some(ErrorCode::TooBig) => "this is larger than a value in an SQLite file may be",
        Some(ErrorCode::OutOfMemory) => "there is no memory for it",
        Some(ErrorCode::ReadOnly) => "it cannot be written; its directory must be writable too (SQLite keeps files beside it)",
        Some(ErrorCode::CannotOpen) => "it cannot be opened; its directory must exist and be writable",
        Some(ErrorCode::PermissionDenied) => "it may not be opened; see its permissions",
        Some(ErrorCode::NotADatabase) => "not an SQLite file; name a new file, or one of longshore's",
        Some(ErrorCode::DatabaseCorrupt) => {
            "the file is damaged; stop all workers, keep a copy, and rescue it with `sqlite3 FILE .recover`"
        }
        Some(ErrorCode::SystemIoFailure) if files::size_limit().is_some() => {
            "the disk fails, or the file would be larger than this process may write (see ulimit -f); what was not confirmed may not be on it"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk fails, or the file was taken away; what was not confirmed may not be on it",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program keeps it locked; nothing was done, try again",
        _ => "SQLite refuses",
    };
    format!("{}: {advice} ({error})", place.path.display())
}
