//! Journals that are read on while somebody looks.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_run::jobs::{JobDigest, JobInfo};
use tokio::sync::OwnedMutexGuard;

use super::in_background;
use crate::error::WebError;

/// Time for which a look reads on before it shows what there is.
pub(super) const FIRST: Duration = Duration::from_millis(25);
/// The same for a piece that is read while nobody waits for it.
const PIECE: Duration = Duration::from_millis(40);
/// Pause between two pieces: reading leaves others half of a processor.
const PAUSE: Duration = Duration::from_millis(20);
/// Time after the last look for which a journal is read on.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Journals by the ids of their jobs.
pub(super) struct Readings {
    most: usize,
    begin: fn(&Path) -> JobDigest,
    all: Mutex<HashMap<String, Arc<Reading>>>,
}

/// One journal.
struct Reading {
    digest: Arc<tokio::sync::Mutex<JobDigest>>,
    asked: Mutex<Instant>,
    goes_on: AtomicBool,
}

impl Readings {
    /// Keeps at most so many.
    pub(super) fn new(most: usize, begin: fn(&Path) -> JobDigest) -> Self {
        Self { most, begin, all: Mutex::default() }
    }

    /// Returns a job's journal as far as it has been read, and whether that is all of it. What is
    /// left is read on.
    pub(super) async fn look(&self, info: &JobInfo, budget: Duration) -> Result<(OwnedMutexGuard<JobDigest>, bool), WebError> {
        let reading = self.of(info);
        let (digest, is_whole) = reading.read(budget).await?;
        if !is_whole {
            reading.go_on();
        }
        Ok((digest, is_whole))
    }

    fn of(&self, info: &JobInfo) -> Arc<Reading> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&info.header.job) && all.len() >= self.most {
            let oldest = all.iter().min_by_key(|(_, reading)| reading.asked()).map(|(job, _)| job.clone());
            oldest.iter().for_each(|job| drop(all.remove(job)));
        }
        let begin = || Arc::new(Reading::of((self.begin)(&info.path)));
        let reading = all.entry(info.header.job.clone()).or_insert_with(begin).clone();
        drop(all);
        *reading.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        reading
    }
}

impl Reading {
    fn of(digest: JobDigest) -> Self {
        let digest = Arc::new(tokio::sync::Mutex::new(digest));
        Self { digest, asked: Mutex::new(Instant::now()), goes_on: AtomicBool::new(false) }
    }

    fn asked(&self) -> Instant {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, budget: Duration) -> Result<(OwnedMutexGuard<JobDigest>, bool), WebError> {
        let mut digest = self.digest.clone().lock_owned().await;
        in_background(move || {
            let is_whole = digest.read_on(budget)?;
            Ok((digest, is_whole))
        })
        .await?
    }

    /// Reads on until all is read, or nobody looks any more.
    fn go_on(self: Arc<Self>) {
        if self.goes_on.swap(true, Ordering::Relaxed) {
            return;
        }
        tokio::spawn(async move {
            while self.asked().elapsed() < FORGOTTEN {
                // Whoever looks next is told what is wrong.
                let Ok((digest, false)) = self.read(PIECE).await else { break };
                drop(digest);
                tokio::time::sleep(PAUSE).await;
            }
            self.goes_on.store(false, Ordering::Relaxed);
        });
    }
}
