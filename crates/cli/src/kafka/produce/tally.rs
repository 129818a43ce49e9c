//! Fates of the records, counted and told.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use longshore_brokers::BrokerError;
use longshore_core::{
    Word,
    watch::{Counts, SharedCounts},
};
use longshore_kafka::Placed;

use crate::progress::{RateMeter, Snapshot, view::State};

/// Most failures that are told, unless all are asked for.
const TOLD: u64 = 20;
/// Most lines that wait to be told: a terminal is slower than a broker that refuses everything.
const WAITING: usize = 10_000;

/// Counts, told from several threads.
pub(super) struct Tally {
    verbose: bool,
    taken: AtomicU64,
    /// Delivered or not.
    ended: SharedCounts,
    bad: AtomicU64,
    bytes: AtomicU64,
    said: Mutex<Said>,
    took: Mutex<Histogram<u64>>,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    count: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// Nothing yet. `verbose`: every failure is told.
    pub(super) fn new(verbose: bool) -> Self {
        let zero = || AtomicU64::new(0);
        // Microseconds up to an hour, three digits: 3 is always a valid precision.
        let took = Histogram::new_with_max(3_600_000_000, 3).unwrap_or_else(|_| Histogram::new_with_bounds(1, 2, 1).expect("constants"));
        let (taken, bad, bytes) = (zero(), zero(), zero());
        Self { verbose, taken, ended: SharedCounts::default(), bad, bytes, said: Mutex::default(), took: Mutex::new(took) }
    }

    /// A record was handed over.
    pub(super) fn taken(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    /// A record's fate. Its place is for people.
    pub(super) fn delivered(&self, place: &str, result: Result<Placed, BrokerError>, bytes: usize, begun: Instant) {
        match result {
            Ok(_) => {
                self.ended.add(Word::Ok, 1);
                self.bytes.fetch_add(bytes as u64, Relaxed);
                lock(&self.took).saturating_record(begun.elapsed().as_micros() as u64);
            }
            Err(error) => {
                self.ended.add(Word::Failed, 1);
                self.tell(format!(" {place}: {error}"));
            }
        }
    }

    /// A record that the client does not take at all.
    pub(super) fn refused(&self, place: &str, error: &BrokerError) {
        self.ended.add(Word::Failed, 1);
        self.tell(format!(" {place}: {error}"));
    }

    /// A record that cannot be read; the reason begins with its place.
    pub(super) fn bad(&self, why: &str) {
        self.bad.fetch_add(1, Relaxed);
        self.tell(format!(" {why}"));
    }

    fn tell(&self, line: String) {
        let mut said = lock(&self.said);
        said.count += 1;
        if (self.verbose || said.count <= TOLD) && said.lines.len() < WAITING {
            said.lines.push(line);
        } else if !self.verbose && said.count == TOLD + 1 {
            said.lines.push(" … further ones are counted; -v tells each".to_owned());
        }
    }

    /// Takes the lines that are to be told now.
    pub(super) fn told(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.said).lines)
    }

    /// Delivered, not delivered, not to be read; the bytes of the first.
    pub(super) fn counts(&self) -> (u64, u64, u64, u64) {
        let ended = self.ended.get();
        (ended.ok, ended.failed, self.bad.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// This moment, as a run shows it: a record in flight is active.
    pub(super) fn snapshot(&self, topic: &str, total: Option<u64>, state: State, meter: &mut RateMeter) -> Snapshot {
        let (delivered, failed, bad, _) = self.counts();
        let done = delivered + failed + bad;
        let rate_per_s = meter.update(Instant::now(), done);
        let took = lock(&self.took);
        let quantile = |share: f64| (!took.is_empty()).then(|| Duration::from_micros(took.value_at_quantile(share)));
        Snapshot {
            name: topic.to_owned(),
            job: topic.to_owned(),
            counts: Counts::from([delivered, failed + bad, 0, 0, 0, 0, 0, 0]),
            total,
            active: self.taken.load(Relaxed).saturating_sub(delivered + failed),
            rate_per_s,
            p50: quantile(0.5),
            p99: quantile(0.99),
            eta: total.and_then(|total| meter.eta(total.saturating_sub(done))),
            state,
            ..Snapshot::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use longshore_brokers::BrokerError;
    use longshore_core::ErrorKind;
    use longshore_kafka::Placed;

    use super::{TOLD, Tally};
    use crate::progress::{RateMeter, view::State};

    #[test]
    fn failures_are_named_up_to_a_limit_and_counted_beyond() {
        for (verbose, lines) in [(false, TOLD as usize + 1), (true, 100)] {
            let tally = Tally::new(verbose);
            for at in 0..100 {
                let error = BrokerError { kind: ErrorKind::Refused, message: "too large".to_owned() };
                tally.taken();
                tally.delivered(&format!("line {at}"), Err(error), 1, Instant::now());
            }
            let told = tally.told();
            assert_eq!((told.len(), told[3].as_str()), (lines, " line 3: too large"));
            assert_eq!(tally.counts(), (0, 100, 0, 0));
            assert!(tally.told().is_empty());
        }
    }

    #[test]
    fn what_is_on_its_way_is_active() {
        let tally = Tally::new(false);
        (0..5).for_each(|_| tally.taken());
        tally.delivered("x", Ok(Placed { partition: 0, offset: 0 }), 7, Instant::now());
        tally.bad("line 2: bad JSON");
        let snapshot = tally.snapshot("t", Some(10), State::Running, &mut RateMeter::default());
        assert_eq!((snapshot.counts.done(), snapshot.counts.ok, snapshot.counts.failed, snapshot.active), (2, 1, 1, 4));
        assert_eq!(tally.counts(), (1, 0, 1, 7));
    }
}
