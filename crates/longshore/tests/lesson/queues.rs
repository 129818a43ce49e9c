//! Queues between producers and consumers: bounded, and nobody is left standing at a full one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use longshore::{Clock, Executor, Job, LaneKind, Pipeline, SendError, Stage, Stop, Word};

use crate::{Gate, HOUR, ends};

/// The consumer dies of its first item, and the producer waits for ever for a place in the queue.
#[test]
fn a_consumer_that_dies_of_every_task_leaves_no_producer_at_a_full_queue() {
    let dies = |n: u32| -> Result<(), String> { panic!("no consumer survives item {n}") };
    let (sender, job) = Job::blocking(dies).workers(1).queue(0).sender(1);
    let producer = thread::spawn(move || (0..20).filter(|n| sender.blocking_send(*n).is_ok()).count());
    let (report, sent) = ends(move || (job.run(), producer.join().unwrap()));
    assert_eq!((sent, report.counts.of(Word::Panicked)), (20, 20));
}

/// And when there really is nobody any more, the producer is told, and has its task back.
#[tokio::test(start_paused = true)]
async fn a_job_that_has_stopped_gives_a_waiting_producer_its_task_back() {
    let never = |_: u32| std::future::pending::<Result<(), String>>();
    let (sender, job) = Job::new(never).clock(Clock::TOKIO, 1).workers(1).queue(0).sender(1);
    let running = job.start();
    let producer = tokio::spawn(async move {
        for n in 0.. {
            if let Err(refused) = sender.send(n).await {
                return (n, refused);
            }
        }
        unreachable!("the numbers do not end")
    });
    // By now the queue is full, and the producer waits.
    tokio::time::sleep(HOUR).await;
    assert!(!producer.is_finished());
    running.handle().stop(Stop::Soft);
    let (number, refused) = tokio::time::timeout(HOUR, producer).await.unwrap().unwrap();
    assert_eq!(refused, SendError::Closed(number));
    let report = running.join().await;
    assert_eq!((report.done(), report.error.as_deref()), (0, None));
}

/// `queue.Queue()`: as long as there is memory.
#[tokio::test(start_paused = true)]
async fn an_endless_producer_is_never_further_ahead_than_workers_and_queue() {
    let drawn = Arc::new(AtomicUsize::new(0));
    let count = drawn.clone();
    let endless = (0u64..).inspect(move |_| _ = count.fetch_add(1, Ordering::SeqCst));
    let never = |_: u64| std::future::pending::<Result<(), String>>();
    let running = Job::new(never).clock(Clock::TOKIO, 1).workers(4).queue(3).params(endless).start();
    tokio::time::sleep(HOUR).await;
    assert_eq!(drawn.load(Ordering::SeqCst), 4 + 3);
    running.handle().stop(Stop::Soft);
    running.join().await;
}

/// The same for the results, which the lesson keeps in a queue without a bound until everything is
/// done.
#[tokio::test(start_paused = true)]
async fn results_that_nobody_takes_hold_the_workers_back() {
    let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Gate::default()));
    let (count, hold) = (begun.clone(), gate.clone());
    let work = move |n: u32| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, String>(n) }
    };
    let job = Job::new(work).clock(Clock::TOKIO, 1).workers(3).result_queue(2).params(0..100);
    let running = job.on_task_complete(move |_| hold.pass()).start();
    tokio::time::sleep(HOUR).await;
    // Two results wait, the first of them with its callback, and each worker has one in its hands.
    let ahead = begun.load(Ordering::SeqCst);
    gate.open();
    assert_eq!(ahead, 3 + 2);
    assert_eq!(running.join().await.ok(), 100);
}

/// Three stages whose last one takes nothing: what is ahead of it is what the queues and the
/// workers hold, up to the source.
#[tokio::test(start_paused = true)]
async fn a_stage_that_takes_nothing_holds_back_the_source_of_its_pipeline() {
    let drawn = Arc::new(AtomicUsize::new(0));
    let count = drawn.clone();
    let endless = futures_util::stream::iter((0u64..).inspect(move |_| _ = count.fetch_add(1, Ordering::SeqCst)));
    let pass_on = |n: u64| async move { Ok::<_, String>(n) };
    let never = |_: u64| std::future::pending::<Result<(), String>>();
    let line = Pipeline::from_stream(endless).stage(Stage::new(pass_on).queue(3)).stage(Stage::new(never).queue(3));
    let running = line.clock(Clock::TOKIO, 1).start();
    tokio::time::sleep(HOUR).await;
    let ahead = drawn.load(Ordering::SeqCst);
    // Two queues of three, two workers, and what the source has fetched for a place that is not
    // free yet.
    assert!((3 + 1..=2 * 3 + 2 + 16).contains(&ahead), "{ahead}");
    running.reporter().cancel();
    assert!(running.join().await.cancelled);
}

/// A map draws from its input as it is read.
#[test]
fn a_map_draws_no_more_of_its_input_than_its_lane_can_use() {
    let drawn = Arc::new(AtomicUsize::new(0));
    let count = drawn.clone();
    let endless = (0u64..).inspect(move |_| _ = count.fetch_add(1, Ordering::SeqCst));
    let pool = Executor::builder().workers(LaneKind::Blocking, 2).build();
    let first = ends(move || pool.blocking().map(endless, |n| n * n).chunk(1).take(3).map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(first, [0, 1, 4]);
    // Three that were read, and eight times the workers ahead of the last.
    assert!(drawn.load(Ordering::SeqCst) <= 3 + 16, "{drawn:?}");
}
