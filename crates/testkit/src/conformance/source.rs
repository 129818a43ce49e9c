//! The suite of sources. Run it on a paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_core::{
    Delivery, Verdict,
    source::{Fetched, Settlement, Source},
};

/// How to make the source under test.
pub trait MakeSource {
    /// A source that lends the numbers from 0 and then ends; `produced` counts what it has drawn
    /// from wherever it draws.
    fn with(&self, tasks: u64, produced: Arc<AtomicUsize>) -> Arc<dyn Source<u64>>;

    /// A source that has nothing to lend and is not at its end, if there is such a thing.
    fn idle(&self) -> Option<Arc<dyn Source<u64>>>;

    /// How far it may look ahead of what it has lent.
    fn ahead(&self) -> usize;
}

/// Runs the whole suite.
///
/// # Panics
/// If the source breaks its contract.
pub async fn suite(make: &impl MakeSource) {
    lends_everything_in_order_within_its_room(make).await;
    looks_no_further_ahead_than_it_says(make).await;
    an_idle_fetch_is_woken_by_close(make).await;
    nothing_is_fetched_after_close(make).await;
}

async fn fetch(source: &dyn Source<u64>, room: usize) -> (Vec<Delivery<u64>>, Fetched) {
    let mut lent = Vec::new();
    let fetched = tokio::time::timeout(Duration::from_secs(3600), source.fetch(room, &mut lent)).await;
    (lent, fetched.expect("a fetch does not end").expect("a fetch fails"))
}

async fn lends_everything_in_order_within_its_room(make: &impl MakeSource) {
    for (tasks, room) in [(0, 1), (1, 1), (10, 3), (100, 7), (100, 1000)] {
        let source = make.with(tasks, Arc::default());
        let mut all = Vec::new();
        loop {
            let (lent, fetched) = fetch(&*source, room).await;
            assert!(lent.len() <= room, "{} lent, room for {room}", lent.len());
            assert!(fetched == Fetched::End || !lent.is_empty(), "nothing is lent, and it is not the end");
            let receipts: Vec<_> = lent.iter().map(|one| Settlement { receipt: one.receipt, verdict: Verdict::Ack }).collect();
            source.settle(&receipts).await.expect("a settlement fails");
            all.extend(lent);
            if fetched == Fetched::End {
                break;
            }
        }
        assert!(all.iter().map(|one| one.payload).eq(0..tasks), "{tasks} in rooms of {room}: order or number");
        assert!(all.iter().map(|one| one.id).eq(1..=tasks), "numbers start at 1 and have no gaps");
        let mut receipts: Vec<_> = all.iter().map(|one| one.receipt).collect();
        receipts.sort_unstable();
        receipts.dedup();
        assert_eq!(receipts.len() as u64, tasks, "a receipt names one delivery");
    }
}

async fn looks_no_further_ahead_than_it_says(make: &impl MakeSource) {
    let produced = Arc::new(AtomicUsize::new(0));
    let source = make.with(10_000, produced.clone());
    let mut lent = 0;
    for _ in 0..10 {
        lent += fetch(&*source, 5).await.0.len();
        tokio::task::yield_now().await;
        let produced = produced.load(Ordering::SeqCst);
        assert!(produced <= lent + make.ahead(), "{produced} drawn for {lent} lent");
    }
    source.close();
}

async fn an_idle_fetch_is_woken_by_close(make: &impl MakeSource) {
    let Some(source) = make.idle() else { return };
    let idle = tokio::spawn({
        let source = source.clone();
        async move { fetch(&*source, 5).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!idle.is_finished(), "it has nothing, and comes back");
    let began = tokio::time::Instant::now();
    source.close();
    let (lent, fetched) = idle.await.expect("the fetch panics");
    assert_eq!((lent.len(), fetched), (0, Fetched::End));
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
}

async fn nothing_is_fetched_after_close(make: &impl MakeSource) {
    for fetches in [0, 1] {
        let source = make.with(100, Arc::default());
        for _ in 0..fetches {
            fetch(&*source, 5).await;
        }
        source.close();
        let (lent, fetched) = fetch(&*source, 5).await;
        assert_eq!((lent.len(), fetched), (0, Fetched::End), "after {fetches} fetches");
    }
}
