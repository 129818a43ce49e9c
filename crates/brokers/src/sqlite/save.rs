//! Copies what was committed from the log beside the file into the file (a checkpoint), on a thread
//! of its own: whoever writes meanwhile does not wait for it.
//!
//! A log that is written without a pause never begins anew, however much of it was copied. The
//! writer itself copies the rest then, which is little, once the log is long.

use std::{
    ffi::c_int,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{Connection, hooks::Wal};

use super::store::Reader;

/// Pages of a log that are copied together.
const PAGES: c_int = 1_000;
/// Pages of a log from which on the writer copies.
const MOST: c_int = 4_000;

/// Has this reader copy what is committed on the writer's connection. An error is nobody's: what
/// could not be copied is in the log, and the next one tries again.
pub(crate) fn beside_the_writer(conn: &mut Connection, reader: Arc<Reader>) -> rusqlite::Result<()> {
    let (mut next, copies) = (PAGES, Arc::new(AtomicBool::new(false)));
    conn.wal_hook(Some(move |wal: &mut Wal, pages| {
        if pages >= MOST {
            let _ = wal.checkpoint();
        }
        // The log has begun anew.
        next = next.min(pages + PAGES).max(PAGES);
        if pages >= next && !copies.swap(true, Ordering::AcqRel) {
            next = pages + PAGES;
            let over = copies.clone();
            let asked = reader.ask(move |conn| {
                if let Ok(conn) = conn {
                    let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                }
                over.store(false, Ordering::Release);
            });
            if asked.is_none() {
                copies.store(false, Ordering::Release);
            }
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use std::{
        path::{Path, PathBuf},
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::MOST;
    use crate::sqlite::{file, store::Store, writer::Step};

    fn size(path: &Path, end: &str) -> u64 {
        std::fs::metadata(format!("{}{end}", path.display())).map_or(0, |meta| meta.len())
    }

    async fn write(store: &Store, kibibytes: usize) {
        let raw = vec![b'x'; 1 << 10];
        for _ in 0..kibibytes / 100 {
            let raw = raw.clone();
            let step = move |step: &mut Step<'_>| {
                for _ in 0..100 {
                    step.conn.prepare_cached("INSERT INTO bus(at, exchange, routing_key, raw) VALUES (0, '', '', ?1)")?.execute([&raw])?;
                }
                Ok(())
            };
            store.write(step).await.unwrap();
        }
    }

    /// Opens a new file in a folder that goes with the test.
    fn open() -> (tempfile::TempDir, PathBuf, Arc<Store>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tasks.db");
        let place = file::place(&format!("sqlite:{}?sync=normal", path.display())).unwrap();
        (directory, path, Store::open(place, Arc::new(|_| {})).unwrap())
    }

    #[tokio::test]
    async fn what_is_committed_comes_into_the_file_long_before_a_writer_has_to_copy_it() {
        let (_directory, path, store) = open();
        // Some 1,600 pages of 4,000.
        write(&store, 6_000).await;
        let end = Instant::now() + Duration::from_secs(20);
        while size(&path, "") < 3 << 20 {
            assert!(Instant::now() < end, "{} bytes are in the file", size(&path, ""));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_log_that_is_written_without_a_pause_stays_short() {
        let (_directory, path, store) = open();
        write(&store, 60_000).await;
        let most = 2 * MOST as u64 * 4_096;
        assert!(size(&path, "-wal") < most, "{} bytes are in the log", size(&path, "-wal"));
        drop(store);
        assert_eq!((size(&path, "-wal"), size(&path, "") > 60 << 20), (0, true), "it is tidied up");
    }
}
