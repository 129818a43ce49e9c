//! Handing work over: what can be sent, who takes it, what its failure is called.

use std::{
    collections::HashMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use longshore::{Executor, Job, LaneKind, Word, as_completed, lane::child::Command};

use crate::{Gate, ends};

/// `executor.submit(lambda x: x * 2, i)` and functions inside of functions: no process pool of
/// Python takes them.
#[test]
fn local_functions_and_closures_can_be_sent_to_every_lane() {
    fn local(n: u32) -> u32 {
        n + 1
    }
    let (factor, names) = (10, Arc::new(HashMap::from([(1, "one"), (2, "two")])));
    let pool = Executor::new();
    let closure = move |n: u32| local(n) * factor;
    assert_eq!(pool.blocking().map([1, 2], closure).results().unwrap(), [20, 30]);
    assert_eq!(pool.cpu().map([1, 2], closure).results().unwrap(), [20, 30]);
    assert_eq!(pool.futures().map([1, 2], move |n| async move { closure(n) }).results().unwrap(), [20, 30]);
    // Here the closure stays, and what it makes is sent.
    let job = Job::commands(move |n: &u32| Command {
        program: "echo".into(),
        args: vec![names[n].into(), closure(*n).to_string().into()],
        ..Command::default()
    });
    let outputs = job.params([1, 2]).collect().results().unwrap();
    assert_eq!(outputs.iter().map(|output| &output.stdout[..]).collect::<Vec<_>>(), [b"one 20\n", b"two 30\n"]);
}

/// `args=("Worker")` is a string, not a tuple, so Python calls the function with six letters.
#[test]
fn one_parameter_is_one_argument_and_arrives_whole() {
    let greet = |name: &'static str| Ok::<_, String>(format!("{name} is ready"));
    assert_eq!(Job::blocking(greet).params(["Worker"]).collect().results().unwrap(), ["Worker is ready"]);
    assert_eq!(Executor::new().blocking().map(["Worker"], |name| name.len()).results().unwrap(), [6]);
}

/// `for i in range(10): worker(i)`: the first one does everything, and the other nine find nothing.
#[test]
fn workers_work_at_the_same_time_and_each_has_its_share() {
    let meet = Arc::new(Barrier::new(3));
    let here = meet.clone();
    // Nobody gets past a task before three are at work: with fewer workers than that this would
    // never end.
    let together = move |_: u32| {
        here.wait();
        Ok::<_, String>(())
    };
    let report = ends(move || Job::blocking(together).workers(3).params(0..30).run());
    assert_eq!((report.ok(), report.slots.len()), (30, 3));
    assert!(report.slots.iter().all(|slot| slot.tasks == 10), "{:?}", report.slots);

    let pool = Executor::builder().workers(LaneKind::Cpu, 3).build();
    let here = meet.clone();
    let handles = (0..3).map(|_| {
        let here = here.clone();
        pool.cpu().submit(move || here.wait().is_leader())
    });
    let leaders = longshore::gather(handles.collect::<Vec<_>>());
    assert_eq!(ends(move || leaders.wait()).unwrap().into_iter().filter(|leads| *leads).count(), 1);

    let meet = Arc::new(tokio::sync::Barrier::new(3));
    let together = move |_: u32| {
        let here = meet.clone();
        async move {
            here.wait().await;
            Ok::<_, String>(())
        }
    };
    let report = ends(move || Job::new(together).workers(3).params(0..30).run());
    assert_eq!((report.ok(), report.slots.len()), (30, 3));
}

/// "Always wrap worker functions in try/except": in Python a thread that does not is gone, and its
/// work with it.
#[test]
fn a_panic_is_the_end_of_its_task_and_of_no_worker() {
    let meet = Arc::new(Barrier::new(2));
    let work = move |n: u32| {
        assert!(n >= 20, "nobody wrapped this");
        // Two workers are needed for each of these, after twenty panics on two workers.
        meet.wait();
        Ok::<_, String>(n)
    };
    let report = ends(move || Job::blocking(work).workers(2).params(0..40).run());
    assert_eq!((report.counts.of(Word::Panicked), report.ok()), (20, 20));
}

/// `enumerate(as_completed(…))` counts what has ended and calls it "chunk i".
#[test]
fn what_has_ended_is_called_by_its_place_and_not_by_when_it_came() {
    let pool = Executor::builder().workers(LaneKind::Blocking, 3).build();
    let (releases, handles): (Vec<_>, Vec<_>) = (0..3)
        .map(|chunk| {
            let (release, released) = mpsc::channel::<()>();
            let work = move |_: &longshore::CancelToken| {
                released.recv().map_err(|error| error.to_string())?;
                if chunk == 1 { Err("no such column".to_owned()) } else { Ok(chunk * 100) }
            };
            (release, pool.blocking().try_submit(work))
        })
        .unzip();
    let mut ended = as_completed(handles);
    let seen = ends(move || {
        [2, 1, 0].map(|chunk: usize| {
            releases[chunk].send(()).unwrap();
            let (place, end) = ended.next().unwrap();
            (place, end.map_err(|error| error.message().to_owned()))
        })
    });
    assert_eq!(seen, [(2, Ok(200)), (1, Err("no such column".to_owned())), (0, Ok(0))]);

    // The same for a map, whose results come as they are done.
    let chunks = pool.cpu().try_map(0..10, |chunk| if chunk == 7 { Err("torn") } else { Ok(chunk) });
    let combined = ends(move || chunks.combine(0, |sum, chunk| sum + chunk));
    assert_eq!((combined.value, combined.count, combined.failed[0].index), (38, 9, 7));
}

/// "Submit and forget", which then waits for everything.
#[test]
fn submit_and_forget_waits_for_nothing_and_forgets_no_failure() {
    let pool = Executor::new();
    let (gate, done) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (opens, count) = (gate.clone(), done.clone());
    let closed = ends(move || {
        for check in 0..3 {
            let (gate, done) = (gate.clone(), done.clone());
            let work = move |_: &longshore::CancelToken| {
                gate.pass();
                done.fetch_add(1, Ordering::SeqCst);
                if check == 1 { Err("unhealthy") } else { Ok(()) }
            };
            pool.blocking().try_submit(work).forget();
        }
        // Had any of the calls above waited for its task, nobody would be here to open the gate.
        assert_eq!(done.load(Ordering::SeqCst), 0);
        opens.open();
        pool.close()
    });
    assert_eq!((count.load(Ordering::SeqCst), closed.ok(), closed.unread), (3, 2, 1));
    assert_eq!(closed.first_unread.unwrap().message(), "unhealthy");
}

/// `map` over two inputs stops at the shorter one in Python, without a word.
#[test]
fn two_inputs_of_different_lengths_are_an_error_that_says_so() {
    let pool = Executor::new();
    assert_eq!(pool.blocking().map2([1, 2, 3], [1, 2, 3], |a, b| a + b).results().unwrap(), [2, 4, 6]);
    let error = pool.blocking().map2([1, 2, 3], [1, 2], |a, b| a + b).results().unwrap_err();
    assert_eq!(error.error.message(), "the inputs differ in length: the first has 3, the second 2");
}
