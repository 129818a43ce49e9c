//! The engine on real threads, with sinks that take their time.

use std::{
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use longshore_core::{
    Clock, Finished, LaneKind, Outcome, SinkError,
    engine::{Engine, EngineConfig, Summary, outbox},
    gate::GateConfig,
    lane::{AsyncHandler, Lane, async_::AsyncLane},
    sink::{Room, Sink},
    source::iter::IterSource,
    watch::Hub,
};
use tokio::sync::oneshot;

/// A sink whose answers come from another thread, as a journal's do.
struct Remote {
    ask: std_mpsc::Sender<(usize, oneshot::Sender<()>)>,
    /// Waits for so many answers in one acceptance.
    answers: usize,
    /// Waits for a task that it spawns, too.
    spawns: bool,
}

impl Sink<u32, u32> for Remote {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<u32, u32>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        async move {
            if self.spawns {
                let task = tokio::spawn(tokio::task::yield_now());
                task.await.map_err(|error| SinkError::fatal(error.to_string()))?;
            }
            for nth in 0..self.answers {
                let (answer, answered) = oneshot::channel();
                self.ask.send((nth, answer)).map_err(|_| SinkError::fatal("gone"))?;
                answered.await.map_err(|_| SinkError::fatal("gone"))?;
            }
            let count = batch.len();
            batch.clear();
            room.release(count);
            Ok(())
        }
        .boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        async move {
            let (answer, answered) = oneshot::channel();
            self.ask.send((0, answer)).map_err(|_| SinkError::fatal("gone"))?;
            answered.await.map_err(|_| SinkError::fatal("gone"))
        }
        .boxed()
    }
}

fn run(tasks: u32, threads: usize, answers: usize, spawns: bool, delay: Duration) -> Summary {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime");
    let (ask, asked) = std_mpsc::channel::<(usize, oneshot::Sender<()>)>();
    let journal = std::thread::spawn(move || {
        for (_, answer) in asked {
            let began = std::time::Instant::now();
            while began.elapsed() < delay {
                std::hint::spin_loop();
            }
            let _ = answer.send(());
        }
    });
    let (done, ended) = std_mpsc::channel();
    runtime.spawn(async move {
        let handle = tokio::runtime::Handle::current();
        let outbox = outbox();
        let handler = AsyncHandler::new(|n: u32| async move { Outcome::Ok(n) });
        let lane: Arc<dyn Lane<u32, u32>> = Arc::new(AsyncLane::new(handler, outbox.clone(), Clock::SYSTEM, &handle));
        let mut config = EngineConfig::new(GateConfig::new([20, 0, 0, 0]), LaneKind::Async);
        config.queue = 40;
        let source = Arc::new(IterSource::new(0..tasks, None));
        let running = Engine::start(
            config,
            source,
            [Some(lane), None, None, None],
            Box::new(Remote { ask, answers, spawns }),
            outbox,
            Hub::new(),
            &handle,
        );
        let _ = done.send(running.join().await);
    });
    let summary = ended.recv_timeout(Duration::from_secs(20)).expect("the run does not end");
    runtime.shutdown_background();
    journal.join().expect("the journal's thread");
    summary
}

#[test]
fn a_sink_that_waits_for_another_thread_holds_nobody_up_for_ever() {
    for (threads, answers, delay) in [(2, 0, 0), (2, 1, 5), (2, 1, 30), (2, 1, 100), (2, 5, 20), (1, 1, 20), (3, 1, 30)] {
        for spawns in [false, true] {
            let summary = run(5_000, threads, answers, spawns, Duration::from_micros(delay));
            assert_eq!((summary.done(), summary.error.clone()), (5_000, None), "{threads} threads, {answers} answers of {delay} µs");
        }
    }
}
