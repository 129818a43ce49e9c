//! The sources, sinks and lanes of the core against their suites.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use longshore_core::{
    Clock, Finished, LaneKind, Outcome,
    lane::{
        AsyncHandler, Lane,
        async_::AsyncLane,
        blocking::BlockingLane,
        child::{Children, Command},
        cpu::CpuLane,
        process::{ProcessHandler, ProcessLane, exit_outcome},
    },
    sink::{
        callbacks::{Callbacks, Panics},
        collect::{Collector, completions},
    },
    source::{
        Source,
        iter::{IterSource, StreamSource},
        queue::queue,
    },
};
use longshore_testkit::conformance::{
    lane::{self, Ask, MakeLane, perform, perform_async},
    sink::{self, Made},
    source::{self, MakeSource},
};

struct Iter;

impl MakeSource for Iter {
    fn with(&self, tasks: u64, produced: Arc<AtomicUsize>) -> Arc<dyn Source<u64>> {
        let items = (0..tasks).inspect(move |_| {
            produced.fetch_add(1, Ordering::SeqCst);
        });
        Arc::new(IterSource::new(items, None))
    }

    fn idle(&self) -> Option<Arc<dyn Source<u64>>> {
        None
    }

    fn ahead(&self) -> usize {
        0
    }
}

struct Stream;

impl MakeSource for Stream {
    fn with(&self, tasks: u64, produced: Arc<AtomicUsize>) -> Arc<dyn Source<u64>> {
        let items = futures_util::stream::iter(0..tasks).inspect(move |_| {
            produced.fetch_add(1, Ordering::SeqCst);
        });
        Arc::new(StreamSource::new(items.boxed(), None))
    }

    fn idle(&self) -> Option<Arc<dyn Source<u64>>> {
        Some(Arc::new(StreamSource::new(futures_util::stream::pending().boxed(), None)))
    }

    fn ahead(&self) -> usize {
        0
    }
}

struct Queue;

impl MakeSource for Queue {
    fn with(&self, tasks: u64, produced: Arc<AtomicUsize>) -> Arc<dyn Source<u64>> {
        let (sender, source) = queue(10);
        tokio::spawn(async move {
            for n in 0..tasks {
                if sender.send(n).await.is_err() {
                    break;
                }
                produced.fetch_add(1, Ordering::SeqCst);
            }
        });
        Arc::new(source)
    }

    fn idle(&self) -> Option<Arc<dyn Source<u64>>> {
        let (sender, source) = queue(10);
        // Never dropped, so that it is not at its end.
        std::mem::forget(sender);
        Some(Arc::new(source))
    }

    fn ahead(&self) -> usize {
        10
    }
}

#[tokio::test(start_paused = true)]
async fn an_iterator_is_a_source() {
    source::suite(&Iter).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_a_source() {
    source::suite(&Stream).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_a_source() {
    source::suite(&Queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_a_sink() {
    type Callback = Arc<dyn Fn(&Finished<u64, u64>) + Send + Sync>;
    let callbacks: [Option<Callback>; 4] = [
        None,
        Some(Arc::new(|_| {})),
        Some(Arc::new(|one| assert!(one.id() % 10 != 0, "ugly"))),
        Some(Arc::new(|one| {
            if one.id() % 100 == 1 {
                std::thread::sleep(Duration::from_millis(3));
            }
        })),
    ];
    for callback in callbacks {
        for handlers in [1, 3] {
            sink::suite(|| Made {
                sink: Box::new(Callbacks::new(callback.clone(), None, handlers, Arc::new(Panics::default()))),
                reader: None,
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_a_sink() {
    sink::suite(|| {
        let then = Collector::default().then();
        Made { sink: Box::new(Callbacks::new(None, Some(then), 1, Arc::new(Panics::default()))), reader: None }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_completions_is_a_sink_also_if_it_leaves() {
    for most in [usize::MAX, 30, 0] {
        sink::suite(|| {
            let (sink, mut results) = completions();
            let reader = async move {
                let mut read = 0;
                while read < most && results.next().await.is_some() {
                    read += 1;
                }
            };
            Made { sink: Box::new(sink), reader: Some(reader.boxed()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_async_lane_is_a_lane() {
    let make = |outbox: &_, runtime: &_| {
        let handler = AsyncHandler::with_context(perform_async);
        Arc::new(AsyncLane::new(handler, Clone::clone(outbox), Clock::SYSTEM, runtime)) as Arc<dyn Lane<Ask, u32>>
    };
    lane::suite(MakeLane { kind: LaneKind::Async, make, many: 3_000, ends_late: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blocking_lane_is_a_lane() {
    let make =
        |outbox: &_, _: &_| Arc::new(BlockingLane::new(Arc::new(perform), Clone::clone(outbox), Clock::SYSTEM)) as Arc<dyn Lane<Ask, u32>>;
    lane::suite(MakeLane { kind: LaneKind::Blocking, make, many: 1_000, ends_late: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cpu_lane_is_a_lane() {
    // Three threads, so that three tasks that hang do not hold up the rest.
    let make =
        |outbox: &_, _: &_| Arc::new(CpuLane::new(Arc::new(perform), 3, Clone::clone(outbox), Clock::SYSTEM)) as Arc<dyn Lane<Ask, u32>>;
    lane::suite(MakeLane { kind: LaneKind::Cpu, make, many: 1_000, ends_late: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_lane_is_a_lane() {
    let make = |outbox: &_, _: &_| {
        let handler = ProcessHandler {
            command: Arc::new(|_, ask: &Ask| {
                let script = match ask {
                    Ask::Succeed => "exit 0".to_owned(),
                    Ask::Fail => "exit 3".to_owned(),
                    // The functions around the command may panic, too.
                    Ask::Panic | Ask::PanicInDrop => panic!("as asked"),
                    Ask::Take(ms) => format!("sleep 0.{ms:03}"),
                    Ask::Hang => "sleep 1000".to_owned(),
                };
                Ok(Command { program: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() })
            }),
            answer: Arc::new(|context, _, output| match exit_outcome(output, context.timeout) {
                Outcome::Ok(_) => Outcome::Ok(context.attempt),
                Outcome::Failed(error) => Outcome::Failed(error),
                Outcome::TimedOut { limit } => Outcome::TimedOut { limit },
                Outcome::Killed { signal } => Outcome::Killed { signal },
                _ => Outcome::Cancelled,
            }),
            kill_after: Duration::from_secs(1),
            max_output: 1_000,
        };
        let children = Children::new().expect("a registry of children");
        Arc::new(ProcessLane::new(handler, children, Clone::clone(outbox), Clock::SYSTEM)) as Arc<dyn Lane<Ask, u32>>
    };
    lane::suite(MakeLane { kind: LaneKind::Process, make, many: 21, ends_late: false }).await;
}

/// A suite that cannot fail proves nothing: who breaks a contract is found out.
mod planted {
    use super::*;
    use futures_util::future::BoxFuture;
    use longshore_core::{
        Attempt, Delivery, SinkError, SourceError, Stop,
        sink::{Room, Sink},
        source::{Fetched, Settlement},
    };

    /// Breaks one promise of the source inside.
    struct Broken(Arc<dyn Source<u64>>, &'static str);

    impl Source<u64> for Broken {
        fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<u64>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
            let more = usize::from(self.1 == "room");
            async move {
                let fetched = self.0.fetch(room + more, into).await;
                if self.1 == "order" {
                    into.reverse();
                }
                fetched
            }
            .boxed()
        }

        fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
            self.0.settle(batch)
        }

        fn close(&self) {
            if self.1 != "close" {
                self.0.close();
            }
        }
    }

    struct MakeBroken(&'static str);

    impl MakeSource for MakeBroken {
        fn with(&self, tasks: u64, produced: Arc<AtomicUsize>) -> Arc<dyn Source<u64>> {
            Arc::new(Broken(Stream.with(tasks, produced), self.0))
        }

        fn idle(&self) -> Option<Arc<dyn Source<u64>>> {
            Stream.idle().map(|source| Arc::new(Broken(source, self.0)) as Arc<dyn Source<u64>>)
        }

        fn ahead(&self) -> usize {
            0
        }
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "lent, room for")]
    async fn a_source_that_lends_more_than_there_is_room_for() {
        source::suite(&MakeBroken("room")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "order or number")]
    async fn a_source_that_lends_out_of_order() {
        source::suite(&MakeBroken("order")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "a fetch does not end")]
    async fn a_source_that_does_not_hear_close() {
        source::suite(&MakeBroken("close")).await;
    }

    /// Releases some results twice, or never.
    struct Careless(usize);

    impl Sink<u64, u64> for Careless {
        fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<u64, u64>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
            for one in batch.drain(..) {
                room.release(if one.id() == 1 { self.0 } else { 1 });
            }
            std::future::ready(Ok(())).boxed()
        }

        fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
            std::future::ready(Ok(())).boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the job does not end")]
    async fn a_sink_that_keeps_a_result_for_itself() {
        sink::suite(|| Made { sink: Box::new(Careless(0)), reader: None }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the sink panicked: more is released than was accepted")]
    async fn a_sink_that_releases_a_result_twice() {
        sink::suite(|| Made { sink: Box::new(Careless(2)), reader: None }).await;
    }

    /// Loses every seventh attempt.
    struct Forgetful(Arc<dyn Lane<Ask, u32>>, AtomicUsize);

    impl Lane<Ask, u32> for Forgetful {
        fn start(&self, batch: &mut Vec<Attempt<Ask>>) {
            batch.retain(|_| self.1.fetch_add(1, Ordering::SeqCst) % 7 != 6);
            self.0.start(batch);
        }

        fn stop(&self, how: Stop) {
            self.0.stop(how);
        }
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the job does not end")]
    async fn a_lane_that_loses_an_attempt() {
        let make = |outbox: &_, runtime: &_| {
            let handler = AsyncHandler::with_context(perform_async);
            let lane = Arc::new(AsyncLane::new(handler, Clone::clone(outbox), Clock::SYSTEM, runtime));
            Arc::new(Forgetful(lane, AtomicUsize::new(0))) as Arc<dyn Lane<Ask, u32>>
        };
        lane::suite(MakeLane { kind: LaneKind::Async, make, many: 30, ends_late: false }).await;
    }
}
