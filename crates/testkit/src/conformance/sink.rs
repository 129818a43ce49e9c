//! The suite of sinks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use longshore_core::{
    Clock, Finished, LaneKind, Outcome, SinkError,
    engine::{Engine, EngineConfig, Summary, outbox},
    gate::GateConfig,
    lane::{AsyncHandler, async_::AsyncLane},
    sink::{Room, Sink},
    source::iter::IterSource,
    watch::Hub,
};

/// A sink under test, and whoever has to read what it hands on.
pub struct Made {
    /// The sink.
    pub sink: Box<dyn Sink<u64, u64>>,
    /// Reads until there is nothing more.
    pub reader: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    released: AtomicUsize,
}

/// Counts what goes in and what comes out.
struct Watched {
    sink: Box<dyn Sink<u64, u64>>,
    counts: Arc<Counts>,
}

impl Sink<u64, u64> for Watched {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<u64, u64>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        async move {
            self.counts.accepted.fetch_add(batch.len(), Ordering::SeqCst);
            let (counts, outer) = (self.counts.clone(), room.clone());
            let room = Room::new(move |results| {
                let released = counts.released.fetch_add(results, Ordering::SeqCst) + results;
                assert!(released <= counts.accepted.load(Ordering::SeqCst), "more is released than was accepted");
                outer.release(results);
            });
            let accepted = self.sink.accept(batch, &room).await;
            assert!(accepted.is_err() || batch.is_empty(), "what is accepted is drained");
            accepted
        }
        .boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.sink.close()
    }
}

/// Runs the suite: every accepted task leaves the result queue exactly once, and the job ends.
/// `make` is called for each run.
///
/// # Panics
/// If the sink breaks its contract.
pub async fn suite(make: impl Fn() -> Made) {
    for (tasks, workers, results) in [(0, 1, 0), (1, 1, 0), (50, 1, 0), (500, 4, 8), (500, 50, 1), (2_000, 20, 1_000)] {
        let Made { sink, reader } = make();
        let counts = Arc::new(Counts::default());
        let reader = reader.map(tokio::spawn);
        let summary = run(Box::new(Watched { sink, counts: counts.clone() }), tasks, workers, results).await;
        if let Some(reader) = reader {
            reader.await.expect("the reader panics");
        }
        let (accepted, released) = (counts.accepted.load(Ordering::SeqCst), counts.released.load(Ordering::SeqCst));
        assert_eq!((summary.done(), summary.error), (tasks, None));
        assert_eq!((accepted as u64, released as u64), (tasks, tasks), "accepted and released");
    }
}

async fn run(sink: Box<dyn Sink<u64, u64>>, tasks: u64, workers: usize, results: usize) -> Summary {
    let runtime = tokio::runtime::Handle::current();
    let outbox = outbox();
    let handler = AsyncHandler::new(|n: u64| async move { if n % 7 == 3 { Outcome::Failed("seven".into()) } else { Outcome::Ok(n) } });
    let lane = Arc::new(AsyncLane::new(handler, outbox.clone(), Clock::SYSTEM, &runtime));
    let mut config = EngineConfig::new(GateConfig::new([workers, 0, 0, 0]).results(results), LaneKind::Async);
    config.queue = 2 * workers;
    let source = Arc::new(IterSource::new(0..tasks, None));
    let running = Engine::start(config, source, [Some(lane), None, None, None], sink, outbox, Hub::new(), &runtime);
    tokio::time::timeout(Duration::from_secs(60), running.join()).await.expect("the job does not end")
}
