//! The file of the history: its tables, its opening, and what its errors mean.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use longshore_sys::files::{self, Own};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::level_rows::LEVELS;
use crate::heard::now_ms;

/// `lngh`: what other programs know the file by.
const APPLICATION: i32 = 0x6c6e_6768;
/// Raised with every change of the tables.
const VERSION: i32 = 1;
/// Time for which a writer waits for another program that holds a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tables. Times named `heard` are milliseconds since 1970 by this machine's clock; the others
/// are seconds since 1970, as events tell them. The order is that of arrival, whatever the clocks
/// say.
pub(super) const SCHEMA: &str = "
CREATE TABLE tasks(
    n INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were first heard of
    id TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL,
    was INTEGER,                         -- of one that is lost: its state before
    name TEXT, queue TEXT, worker TEXT, pid INTEGER,
    heard INTEGER NOT NULL,              -- when its last event came
    sent REAL, received REAL, started REAL, ended REAL,
    took REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,                          -- its first line
    steps INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX tasks_state ON tasks(state, n);
CREATE INDEX tasks_held ON tasks(worker) WHERE state IN (1, 2, 8);
-- What lists need not read.
CREATE TABLE texts(n INTEGER PRIMARY KEY, args TEXT, kwargs TEXT, result TEXT, error TEXT, traceback TEXT, root TEXT, parent TEXT, eta TEXT);
CREATE INDEX texts_parent ON texts(parent) WHERE parent IS NOT NULL;
CREATE TABLE steps(n INTEGER PRIMARY KEY, task INTEGER NOT NULL, kind TEXT NOT NULL, worker TEXT, heard INTEGER NOT NULL, at REAL NOT NULL, text TEXT);
CREATE INDEX steps_task ON steps(task, n);
-- Counts of what came in spans of time, and of what ran and waited then.
CREATE TABLE traffic(
    span INTEGER NOT NULL, at INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0, received INTEGER NOT NULL DEFAULT 0, started INTEGER NOT NULL DEFAULT 0, ok INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, retried INTEGER NOT NULL DEFAULT 0, other INTEGER NOT NULL DEFAULT 0,
    took REAL NOT NULL DEFAULT 0, left_out INTEGER NOT NULL DEFAULT 0, running INTEGER, waiting INTEGER, workers INTEGER,
    PRIMARY KEY(span, at)
) WITHOUT ROWID;
";

/// A table that files of before do not have: how many tasks took how long in each span of time.
pub(super) const TOOK: &str = "
CREATE TABLE IF NOT EXISTS took(
    span INTEGER NOT NULL, at INTEGER NOT NULL, class INTEGER NOT NULL, count INTEGER NOT NULL, PRIMARY KEY(span, at, class)
) WITHOUT ROWID;
";

/// Columns that files of before do not have: table, column, type.
const ADDED: [(&str, &str, &str); 4] =
    [("tasks", "clock", "INTEGER"), ("texts", "expires", "TEXT"), ("texts", "exchange", "TEXT"), ("texts", "routing_key", "TEXT")];

/// Reason that a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileTrouble {
    /// Its content is nonsense: it is set aside.
    Damaged(String),
    /// It is full, away or not to be written: that may pass.
    Unusable(String),
}

impl FileTrouble {
    /// Returns the sentence.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Damaged(text) | Self::Unusable(text) => text,
        }
    }
}

/// Returns what an error means for the file, in words: what, where, what to do.
pub(crate) fn trouble(path: &Path, error: &rusqlite::Error) -> FileTrouble {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return FileTrouble::Damaged(format!("{} is damaged ({error})", path.display()));
        }
        Some(ErrorCode::DiskFull) => "its disk is full; make room",
        Some(ErrorCode::ReadOnly) => "it cannot be written; it and its directory must be writable",
        Some(ErrorCode::CannotOpen) => "it cannot be opened; its directory must exist and be writable",
        Some(ErrorCode::PermissionDenied) => "it may not be opened; see its permissions",
        Some(ErrorCode::SystemIoFailure) if files::size_limit().is_some() => {
            "its disk fails, or it would be larger than this process may write (see ulimit -f)"
        }
        Some(ErrorCode::SystemIoFailure) => "its disk fails, or it was taken away",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program keeps it locked",
        _ => "SQLite refuses",
    };
    FileTrouble::Unusable(format!("{}: {advice} ({error})", path.display()))
}

/// A history that this process writes: nobody else does while it is held.
pub(crate) struct OpenFile {
    pub(crate) conn: Connection,
    _lock: File,
}

fn named(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Makes SQLite's files beside a file writable again: those that were made while the file was not
/// have its permissions.
fn heal(path: &Path) {
    let Ok(own) = path.metadata() else { return };
    for beside in [named(path, "-wal"), named(path, "-shm")] {
        let is_readonly = beside.symlink_metadata().is_ok_and(|found| found.is_file() && found.permissions().readonly());
        if is_readonly && !own.permissions().readonly() {
            // Where they are somebody else's SQLite says what is wrong.
            let _ = std::fs::set_permissions(&beside, own.permissions());
        }
    }
}

/// Opens a file, and makes its tables if it is new.
///
/// `may_be_strange`: what is no SQLite file is one of ours that was damaged, since it lies where
/// nothing else does.
pub(crate) fn open(path: &Path, most_bytes: u64, may_be_strange: bool) -> Result<OpenFile, FileTrouble> {
    let refused = |why: String| FileTrouble::Unusable(format!("{}: {why}", path.display()));
    let lock = files::own(&named(path, "-lock"), Own::WriteOrCreate)
        .map_err(|error| refused(format!("it cannot be made there: {}", files::cause(&error))))?;
    lock.try_lock().map_err(|_| refused("another dashboard keeps this history; name another file with --history".to_owned()))?;
    // SQLite makes files that others may read.
    drop(files::own(path, Own::New));
    if let Err(error) = File::options().write(true).open(path)
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        // Before SQLite makes files beside it that cannot be written either, and stay so.
        return Err(refused(format!("it cannot be written; it and its directory must be writable ({error})")));
    }
    heal(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|conn| {
        conn.busy_timeout(PATIENCE)?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((conn, tables))
    });
    let (conn, tables) = opened.map_err(|error| match trouble(path, &error) {
        FileTrouble::Damaged(_) if !may_be_strange => {
            refused("it is no SQLite file; name another one with --history, or move it away".to_owned())
        }
        other => other,
    })?;
    let prepared = (|| {
        if tables == 0 {
            conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; BEGIN IMMEDIATE")?;
            conn.execute_batch(SCHEMA)?;
            conn.pragma_update(None, "application_id", APPLICATION)?;
            conn.pragma_update(None, "user_version", VERSION)?;
            conn.execute_batch("COMMIT")?;
        }
        let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        Ok((number("application_id")?, number("user_version")?))
    })();
    match prepared.map_err(|error: rusqlite::Error| trouble(path, &error))? {
        (APPLICATION, VERSION) => {}
        (APPLICATION, other) => {
            return Err(refused(format!("its layout {other} is not known to this version; name another file with --history")));
        }
        _ => return Err(refused("it is an SQLite file of another program; name another one with --history".to_owned())),
    }
    settle(&conn, most_bytes).and_then(|()| add(&conn)).map_err(|error| trouble(path, &error))?;
    check(&conn).map_err(|error| {
        error.map_or_else(|| FileTrouble::Damaged(format!("{} is damaged", path.display())), |error| trouble(path, &error))
    })?;
    Ok(OpenFile { conn, _lock: lock })
}

fn settle(conn: &Connection, most_bytes: u64) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 8388608")?;
    conn.set_prepared_statement_cache_capacity(64);
    let page: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    conn.query_row(&format!("PRAGMA max_page_count = {}", (most_bytes / u64::from(page.max(1))).max(16)), [], |_| Ok(()))
}

/// Adds what files of before do not have.
fn add(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TOOK)?;
    conn.execute_batch(LEVELS)?;
    for (table, column, kind) in ADDED {
        if !conn.column_exists(None, table, column)? {
            conn.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
        }
    }
    Ok(())
}

/// Looks whether all of it hangs together. The error is `None` where it does not.
pub(crate) fn check(conn: &Connection) -> Result<(), Option<rusqlite::Error>> {
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(Some)?;
    if said == "ok" { Ok(()) } else { Err(None) }
}

/// Opens a connection that only reads.
pub(crate) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(Duration::from_secs(1))?;
    conn.execute_batch("PRAGMA cache_size = -4096")?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// Gives a damaged file another name. Returns it.
pub(crate) fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut stamp = now_ms() / 1_000;
    let aside = loop {
        let aside = named(path, &format!(".damaged-{stamp}"));
        if !aside.exists() {
            break aside;
        }
        stamp += 1;
    };
    std::fs::rename(path, &aside)?;
    for end in ["-wal", "-shm"] {
        // Where there is none there is nothing to keep.
        let _ = std::fs::rename(named(path, end), named(&aside, end));
    }
    Ok(aside)
}

/// Returns the bytes of a file and of those that SQLite keeps beside it; `None`: it is not there.
pub(crate) fn bytes_of(path: &Path) -> Option<u64> {
    let own = path.metadata().ok()?.len();
    let beside = ["-wal", "-shm"].map(|end| named(path, end).metadata().map_or(0, |found| found.len()));
    Some(own + beside.iter().sum::<u64>())
}

/// Returns the bytes that its pages take, and those that hold something.
pub(crate) fn sizes(conn: &Connection) -> rusqlite::Result<(u64, u64)> {
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (size, all, free) = (number("page_size")?, number("page_count")?, number("freelist_count")?);
    let bytes = |pages: i64| u64::try_from(size.saturating_mul(pages)).unwrap_or_default();
    Ok((bytes(all), bytes(all - free)))
}
