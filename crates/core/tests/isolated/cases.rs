//! What the children do, and what is expected of it.

use std::{
    collections::HashSet,
    fs,
    hint::black_box,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use longshore_core::{Backoff, ChildLimits, Executor, Functions, Job, LaneKind, Outcome, RetryPolicy, Stop, TaskError};
use serde::{Deserialize, Serialize};

/// What a child is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Act {
    /// Say who you are.
    Pid,
    /// Add a line to a file.
    Note(PathBuf, u32),
    Fail,
    Panic,
    Abort,
    Overflow,
    Exit(i32),
    /// Be killed, as the kernel does when memory runs out.
    Signal(i32),
    Allocate,
    /// Take so many MiB and keep them.
    Leak(usize),
    Loop,
    /// Wait until this file is there.
    Wait(PathBuf),
    /// Abort if this file is not there, and make it.
    AbortOnce(PathBuf),
    /// Leave a process behind; its pid.
    Leave,
    /// So many bytes back.
    Bytes(Vec<u8>),
    /// Start a child of your own.
    Nest,
    /// What can be read from standard input.
    Stdin,
}

fn act(act: Act) -> Result<Vec<u8>, TaskError> {
    let pid = || std::process::id().to_string().into_bytes();
    match act {
        Act::Pid => return Ok(pid()),
        Act::Note(file, n) => {
            let mut file = fs::File::options().append(true).create(true).open(file)?;
            file.write_all(format!("{n}\n").as_bytes())?;
        }
        Act::Fail => return Err(TaskError::new("odd", "as asked").with_code(7).with_tail("the end")),
        Act::Panic => panic!("as {}", "asked"),
        Act::Abort => std::process::abort(),
        Act::Overflow => return Ok(vec![overflow(1)]),
        Act::Exit(code) => std::process::exit(code),
        Act::Signal(signal) => {
            Command::new("kill").args([format!("-{signal}"), std::process::id().to_string()]).status()?;
            spin();
        }
        Act::Allocate => loop {
            black_box(vec![1_u8; 1 << 20]).leak();
        },
        Act::Leak(mib) => (0..mib).for_each(|_| {
            black_box(vec![1_u8; 1 << 20]).leak();
        }),
        Act::Loop => spin(),
        Act::Wait(file) => {
            while !file.exists() {
                thread::yield_now();
            }
        }
        Act::AbortOnce(file) => {
            if !file.exists() {
                fs::write(file, "")?;
                std::process::abort();
            }
        }
        Act::Leave => return Ok(Command::new("sleep").arg("1000").spawn()?.id().to_string().into_bytes()),
        Act::Bytes(bytes) => return Ok(bytes),
        Act::Nest => {
            let nested: Job<Act, Vec<u8>> = Job::isolated(self::act, ChildLimits::default());
            return match nested.params([Act::Pid]).collect().outcomes.pop().unwrap() {
                Outcome::Failed(error) => Ok(error.message().as_bytes().to_vec()),
                other => Err(format!("{other:?}").into()),
            };
        }
        Act::Stdin => return Ok(std::io::read_to_string(std::io::stdin())?.into_bytes()),
    }
    Ok(pid())
}

fn overflow(n: u64) -> u8 {
    let frame = black_box([n; 512]);
    if black_box(n) == 0 { 0 } else { overflow(n + 1).wrapping_add(frame[7] as u8) }
}

fn spin() {
    loop {
        black_box(0);
        std::hint::spin_loop();
    }
}

fn stranger(n: u64) -> Result<u64, String> {
    Ok(n)
}

pub(crate) fn functions() -> Functions {
    Functions::new().with(act)
}

fn job(limits: ChildLimits) -> Job<Act, Vec<u8>> {
    Job::isolated(act, limits)
}

fn text(outcome: &Outcome<Vec<u8>>) -> String {
    match outcome {
        Outcome::Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

/// Whether a process is there and has not ended.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit_once(')').unwrap().1.trim_start().chars().next(), Some('Z' | 'X')))
}

#[track_caller]
fn soon(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} within 20 s");
        thread::yield_now();
    }
}

pub(crate) const CASES: &[(&str, fn())] = &[
    ("whatever_a_function_does_is_its_own_outcome", whatever_a_function_does_is_its_own_outcome),
    ("what_ran_before_a_crash_keeps_its_answer_and_what_stood_behind_runs_once", what_ran_before_a_crash_keeps_its_answer),
    (
        "a_crash_among_batches_that_follow_each_other_closely_is_one_tasks_alone",
        a_crash_among_batches_that_follow_each_other_closely_is_one_tasks_alone,
    ),
    ("tasks_behind_one_that_hangs_are_run_by_another_child", tasks_behind_one_that_hangs_are_run_by_another_child),
    ("a_child_that_passes_the_limit_is_killed_in_time", a_child_that_passes_the_limit_is_killed_in_time),
    ("only_the_task_that_hangs_in_a_batch_times_out", only_the_task_that_hangs_in_a_batch_times_out),
    ("children_are_replaced_after_so_many_tasks", children_are_replaced_after_so_many_tasks),
    ("children_are_replaced_when_they_are_old_or_large", children_are_replaced_when_they_are_old_or_large),
    ("payloads_and_results_may_be_large", payloads_and_results_may_be_large),
    ("a_retry_runs_in_a_new_child", a_retry_runs_in_a_new_child),
    ("what_a_function_leaves_behind_is_killed_with_its_child", what_a_function_leaves_behind_is_killed_with_its_child),
    ("a_stopped_job_ends_its_children", a_stopped_job_ends_its_children),
    ("children_die_with_their_parent", children_die_with_their_parent),
    ("a_function_that_was_not_added_says_so", a_function_that_was_not_added_says_so),
    ("an_executor_calls_functions_in_children_one_by_one", an_executor_calls_functions_in_children_one_by_one),
    ("whatever_happens_to_one_of_a_chunk_is_its_own_outcome", whatever_happens_to_one_of_a_chunk_is_its_own_outcome),
    ("those_behind_one_that_hangs_in_a_chunk_are_run_by_another_child", those_behind_one_that_hangs_in_a_chunk_are_run_by_another_child),
    (
        "only_the_one_of_a_chunk_that_passes_the_limit_is_killed_and_in_time",
        only_the_one_of_a_chunk_that_passes_the_limit_is_killed_and_in_time,
    ),
    ("a_cancelled_executor_ends_every_call_in_a_child", a_cancelled_executor_ends_every_call_in_a_child),
    ("a_child_cannot_have_children_of_this_kind_and_reads_nothing", a_child_cannot_have_children_of_this_kind),
];

fn an_executor_calls_functions_in_children_one_by_one() {
    let pool = Executor::builder().workers(LaneKind::Process, 2).build();
    let calls = pool.isolated(act, ChildLimits::default());
    let bad = calls.submit(Act::Abort);
    let good = calls.submit(Act::Bytes(vec![7]));
    assert_eq!(good.wait().unwrap(), [7]);
    assert_eq!(bad.wait().unwrap_err().kind(), "signal");
    // In order, although one of them fails, and more than are looked ahead at once.
    let inputs = (0..3_000u32).map(|n| if n == 1_234 { Act::Panic } else { Act::Bytes(n.to_le_bytes().to_vec()) });
    for (n, ended) in calls.map(inputs).enumerate() {
        match ended {
            Ok(bytes) => assert_eq!(bytes, (n as u32).to_le_bytes()),
            Err(failed) => assert_eq!((failed.index, failed.error.kind()), (1_234, "panicked")),
        }
    }
    // A handle outlives what it was made by, and closing waits for its call.
    let last = pool.isolated(act, ChildLimits::default()).submit(Act::Bytes(vec![9]));
    drop(calls);
    let closed = pool.close();
    assert_eq!(last.wait().unwrap(), [9]);
    // What a map reports to its reader is no failure of a call. Its chunks are calls.
    assert_eq!((closed.failed(), closed.lanes.len()), (1, 2));
    assert!((3..=3_002).contains(&closed.ok()), "{}", closed.ok());
}

/// One chunk of these, and how each ended: its result, or the kind of its error.
fn mapped(acts: Vec<Act>, workers: usize, limits: ChildLimits, timeout: Option<Duration>) -> Vec<Result<Vec<u8>, String>> {
    let builder = Executor::builder().workers(LaneKind::Process, workers);
    let pool = timeout.map_or_else(|| builder.clone(), |limit| builder.clone().timeout(limit)).build();
    let (count, calls) = (acts.len(), pool.isolated(act, limits));
    let ended =
        calls.map(acts).chunk(count).map(|ended| ended.map_err(|failed| format!("{} {}", failed.index, failed.error.kind()))).collect();
    assert_eq!(pool.close().ok(), 1, "one call");
    ended
}

fn whatever_happens_to_one_of_a_chunk_is_its_own_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    for (limits, children) in [
        (ChildLimits::default(), 1),
        (ChildLimits::default().at_once(16), 2),
        (ChildLimits::default().at_once(3), 1),
        (ChildLimits::default().max_tasks(5), 2),
    ] {
        let mut acts: Vec<Act> = (0..16).map(|n| Act::Note(file.clone(), n)).collect();
        (acts[3], acts[8], acts[9], acts[15]) = (Act::Abort, Act::Exit(1), Act::Fail, Act::Panic);
        let ended = mapped(acts, children, limits.clone(), None);
        let bad: Vec<&str> = ended.iter().filter_map(|ended| ended.as_ref().err()).map(String::as_str).collect();
        assert_eq!((ended.len(), bad.as_slice()), (16, ["3 signal", "8 lost", "9 odd", "15 panicked"].as_slice()), "{limits:?}");
        let notes = fs::read_to_string(&file).unwrap();
        let mut ran: Vec<u32> = notes.lines().map(|line| line.parse().unwrap()).collect();
        ran.sort_unstable();
        assert_eq!(ran, [0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14], "each once, {limits:?}");
        fs::remove_file(&file).unwrap();
    }
    // None of them can be sent, or found.
    let pool = Executor::builder().workers(LaneKind::Process, 1).build();
    let kinds =
        |calls: Vec<_>| calls.into_iter().map(|ended: Result<u64, longshore_core::InputError>| ended.unwrap_err().error.kind().to_owned());
    assert_eq!(kinds(pool.isolated(stranger, ChildLimits::default()).map(0..3).chunk(3).collect()).collect::<Vec<_>>(), ["setup"; 3]);
}

fn those_behind_one_that_hangs_in_a_chunk_are_run_by_another_child() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    // What opens the gate stands behind who waits for it.
    let acts = [vec![Act::Pid; 8], vec![Act::Wait(gate.clone())], vec![Act::Pid; 6], vec![Act::Note(gate, 1)]].concat();
    let ended = mapped(acts, 2, ChildLimits::default(), Some(Duration::from_secs(30)));
    let pids: Vec<String> = ended.into_iter().map(|ended| String::from_utf8(ended.unwrap()).unwrap()).collect();
    assert!(pids[0] == pids[8] && pids[8] != pids[9] && pids[9] == pids[15], "{pids:?}");
}

fn only_the_one_of_a_chunk_that_passes_the_limit_is_killed_and_in_time() {
    let limit = Duration::from_millis(200);
    // A machine that is busy with other things has five tries.
    let mut took = (0..5).map(|_| {
        let acts = [vec![Act::Pid; 5], vec![Act::Loop], vec![Act::Pid; 10]].concat();
        let began = Instant::now();
        let ended = mapped(acts, 1, ChildLimits::default(), Some(limit));
        let late: Vec<&str> = ended.iter().filter_map(|ended| ended.as_ref().err()).map(String::as_str).collect();
        assert_eq!(late, ["5 timeout"]);
        began.elapsed()
    });
    // Two starts of a child, and the end of the executor, are in it.
    assert!(took.any(|took| took >= limit && took < limit + Duration::from_millis(100)));
}

fn a_cancelled_executor_ends_every_call_in_a_child() {
    let pool = Executor::builder().workers(LaneKind::Process, 1).build();
    let calls = pool.isolated(act, ChildLimits::default());
    let file = std::env::temp_dir().join(format!("longshore-never-{}", std::process::id()));
    let handles: Vec<_> = (0..20).map(|_| calls.submit(Act::Wait(file.clone()))).collect();
    pool.cancel();
    for handle in handles {
        assert!(handle.wait().is_err());
    }
    assert_eq!(calls.submit(Act::Pid).wait().unwrap_err().kind(), "closed");
}

fn whatever_a_function_does_is_its_own_outcome() {
    let acts = [
        (Act::Pid, "Ok("),
        (Act::Fail, "Failed(TaskError { kind: \"odd\", code: Some(7), message: \"as asked\""),
        (Act::Panic, "Panicked(\"as asked\")"),
        (Act::Abort, "Killed { signal: 6 }"),
        (Act::Overflow, "Killed { signal: 6 }"),
        (Act::Exit(0), "Lost(\"its child process ended itself with exit code 0\")"),
        (Act::Exit(3), "Lost(\"its child process ended itself with exit code 3\")"),
        (Act::Signal(9), "Killed { signal: 9 }"),
        (Act::Allocate, "Failed(TaskError { kind: \"memory\""),
        (Act::Loop, "TimedOut { limit: 3s }"),
        (Act::Pid, "Ok("),
    ];
    for batch in [None, Some(4)] {
        let limits = batches(batch).memory(256 << 20);
        let job = job(limits).params(acts.clone().map(|(act, _)| act)).workers(2).timeout(Duration::from_secs(3));
        let outcomes = job.collect().outcomes;
        for (outcome, (act, want)) in outcomes.iter().zip(&acts) {
            let told = format!("{outcome:?}");
            assert!(told.starts_with(want), "{act:?} in batches of {batch:?}: {told}");
        }
        assert_eq!(outcomes.len(), acts.len());
    }
}

fn what_ran_before_a_crash_keeps_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    let note = |n| Act::Note(file.clone(), n);
    let mut acts: Vec<Act> = (0..16).map(note).collect();
    (acts[3], acts[8], acts[15]) = (Act::Abort, Act::Exit(1), Act::Abort);
    let outcomes = job(ChildLimits::default().at_once(16)).params(acts).workers(1).queue(64).collect().outcomes;
    let bad: Vec<usize> = (0..16).filter(|n| !outcomes[*n].is_ok()).collect();
    assert_eq!(bad, [3, 8, 15]);
    let notes = fs::read_to_string(&file).unwrap();
    let want: Vec<String> = (0..16).filter(|n| !bad.contains(n)).map(|n| n.to_string()).collect();
    assert_eq!(notes.lines().collect::<Vec<_>>(), want, "each once, in order");
}

fn a_crash_among_batches_that_follow_each_other_closely_is_one_tasks_alone() {
    let folder = tempfile::tempdir().unwrap();
    // Tiny ones: a child has the next batch before it is done with one.
    for batch in [1, 4, 64] {
        let file = folder.path().join(batch.to_string());
        let act_of = |n: u32| match n {
            n if n % 97 == 50 => Act::Abort,
            n if n % 3 == 0 => Act::Note(file.clone(), n),
            n => Act::Bytes(n.to_le_bytes().to_vec()),
        };
        let limits = ChildLimits::default().at_once(batch);
        let outcomes = job(limits).params((0..600).map(act_of).collect::<Vec<_>>()).workers(1).queue(1_000).collect().outcomes;
        for (n, outcome) in (0..600).zip(&outcomes) {
            match (act_of(n), outcome) {
                (Act::Abort, Outcome::Killed { signal: 6 }) | (Act::Note(..), Outcome::Ok(_)) => {}
                (Act::Bytes(sent), Outcome::Ok(back)) if sent == *back => {}
                (act, other) => panic!("{n} in batches of {batch}: {act:?} ended with {other:?}"),
            }
        }
        let ran: Vec<u32> = fs::read_to_string(&file).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(ran, (0..600).filter(|n| n % 3 == 0 && n % 97 != 50).collect::<Vec<_>>(), "each once, in order, in batches of {batch}");
    }
}

fn tasks_behind_one_that_hangs_are_run_by_another_child() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let done = Arc::new(Mutex::new(0));
    let (open, count) = (gate.clone(), done.clone());
    let acts = [vec![Act::Pid; 8], vec![Act::Wait(gate)], vec![Act::Pid; 7]].concat();
    // The hanging one ends only when all others have.
    let report = job(ChildLimits::default().at_once(16))
        .params(acts)
        .workers(2)
        .queue(64)
        .timeout(Duration::from_secs(30))
        .on_task_complete(move |_| {
            *count.lock().unwrap() += 1;
            if *count.lock().unwrap() == 15 {
                fs::write(&open, "").unwrap();
            }
        })
        .run();
    assert_eq!((report.ok(), *done.lock().unwrap()), (16, 16));
}

fn a_child_that_passes_the_limit_is_killed_in_time() {
    let limit = Duration::from_millis(200);
    // A machine that is busy with other things has five tries.
    let mut late = (0..5).map(|_| {
        let worst = Arc::new(Mutex::new(Duration::ZERO));
        let seen = worst.clone();
        let report = job(ChildLimits::default())
            .params([Act::Loop, Act::Loop])
            .workers(2)
            .timeout(limit)
            .on_task_complete(move |task| {
                let mut worst = seen.lock().unwrap();
                *worst = worst.max(task.run().checked_sub(limit).expect("not before the limit"));
            })
            .run();
        assert_eq!(report.counts.of(longshore_core::Word::Timeout), 2);
        *worst.lock().unwrap()
    });
    assert!(late.any(|late| late < Duration::from_millis(100)));
}

fn only_the_task_that_hangs_in_a_batch_times_out() {
    let acts = [vec![Act::Pid; 5], vec![Act::Loop], vec![Act::Pid; 10]].concat();
    let limits = ChildLimits::default().at_once(16);
    let outcomes = job(limits).params(acts).workers(1).queue(64).timeout(Duration::from_millis(300)).collect().outcomes;
    let late: Vec<usize> = (0..16).filter(|n| !outcomes[*n].is_ok()).collect();
    assert_eq!(late, [5]);
    assert!(matches!(outcomes[5], Outcome::TimedOut { limit } if limit == Duration::from_millis(300)));
}

fn batches(batch: Option<u32>) -> ChildLimits {
    let mut limits = ChildLimits::default();
    limits.at_once = batch;
    limits
}

fn children_are_replaced_after_so_many_tasks() {
    for batch in [None, Some(1), Some(100)] {
        let limits = batches(batch).max_tasks(3);
        let outcomes = job(limits).params(vec![Act::Pid; 10]).workers(1).queue(64).collect().outcomes;
        let pids: Vec<String> = outcomes.iter().map(text).collect();
        assert_eq!(pids.iter().collect::<HashSet<_>>().len(), 4, "{pids:?} in batches of {batch:?}");
        assert!(pids[0] == pids[2] && pids[2] != pids[3] && pids[3] == pids[5], "{pids:?} in batches of {batch:?}");
    }
    let kept = job(ChildLimits::default()).params(vec![Act::Pid; 10]).workers(1).collect().outcomes;
    assert_eq!(kept.iter().map(text).collect::<HashSet<_>>().len(), 1);
}

fn children_are_replaced_when_they_are_old_or_large() {
    let limits = ChildLimits::default().max_age(Duration::ZERO).at_once(1);
    let outcomes = job(limits).params(vec![Act::Pid; 4]).workers(1).collect().outcomes;
    assert_eq!(outcomes.iter().map(text).collect::<HashSet<_>>().len(), 4);

    // Together they leak more than the limit, and none of them does.
    let limits = ChildLimits::default().memory(512 << 20).at_once(1);
    let outcomes = job(limits).params(vec![Act::Leak(80); 10]).workers(1).collect().outcomes;
    let pids: HashSet<String> = outcomes.iter().map(text).collect();
    assert!(pids.len() > 1, "{pids:?}");
}

fn payloads_and_results_may_be_large() {
    let bytes = |n: usize| (0..n).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>();
    let sizes = [0, 1, 1000, 1024, 1025, 70_000, 3_000_000, 5, 0];
    for batch in [None, Some(9)] {
        let acts = sizes.map(|n| Act::Bytes(bytes(n)));
        let results = job(batches(batch)).params(acts).workers(1).queue(64).collect().results().unwrap();
        for (result, n) in results.iter().zip(sizes) {
            assert!(*result == bytes(n), "{n} bytes in batches of {batch:?}");
        }
    }
}

fn a_retry_runs_in_a_new_child() {
    let folder = tempfile::tempdir().unwrap();
    let policy = RetryPolicy::times(2).backoff(Backoff::Fixed(Duration::from_millis(1)));
    let report = job(ChildLimits::default()).params([Act::AbortOnce(folder.path().join("once")), Act::Pid]).retry(policy).run();
    assert_eq!((report.ok(), report.counts.retries), (2, 1));
}

fn what_a_function_leaves_behind_is_killed_with_its_child() {
    let outcomes = job(ChildLimits::default()).params([Act::Leave]).collect().outcomes;
    let left = text(&outcomes[0]);
    soon("the process that was left behind is gone", || !lives(&left));

    // The second task waits for the end of what the first one left: its child has been replaced by
    // then.
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let (open, seen) = (gate.clone(), Arc::new(Mutex::new(String::new())));
    let left = seen.clone();
    let report = job(ChildLimits::default().max_tasks(1))
        .workers(1)
        .params([Act::Leave, Act::Wait(gate)])
        .on_task_complete(move |task| {
            if task.id() == 1 {
                *left.lock().unwrap() = text(&task.outcome);
                soon("the process that was left behind is gone with its child", || !lives(&left.lock().unwrap()));
                fs::write(&open, "").unwrap();
            }
        })
        .run();
    assert_eq!((report.ok(), report.callback_panics), (2, 0));
}

fn a_stopped_job_ends_its_children() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for how in [Stop::Soft, Stop::Hard] {
            let folder = tempfile::tempdir().unwrap();
            let notes = folder.path().join("notes");
            let acts = [Act::Note(notes.clone(), 1), Act::Loop, Act::Loop, Act::Pid];
            let running = job(ChildLimits::default()).params(acts).workers(2).start();
            let handle = running.handle().clone();
            soon("the first task has run", || notes.exists());
            handle.stop(how);
            let report = running.join().await;
            assert_eq!(report.failed(), 0, "{how:?}: {report:?}");
        }
    });
}

/// The part of the parent that is killed: it starts a child that loops, and one that has left
/// something behind.
pub(crate) fn parent_if_asked() {
    if std::env::args().nth(1).is_none_or(|arg| arg != "part-of-the-parent") {
        return;
    }
    let report = job(ChildLimits::default())
        .params([Act::Pid, Act::Leave, Act::Loop])
        .workers(1)
        .on_task_complete(|task| println!("{}", text(&task.outcome)))
        .run();
    panic!("it should have been killed: {report:?}");
}

fn children_die_with_their_parent() {
    let mut parent = Command::new("/proc/self/exe").arg("part-of-the-parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pids: [String; 2] = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
    assert!(pids.iter().all(|pid| lives(pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    for pid in &pids {
        soon("what the dead parent had started is gone", || !lives(pid));
    }
}

fn a_function_that_was_not_added_says_so() {
    let outcome = Job::isolated(stranger, ChildLimits::default()).params([1]).collect().outcomes.pop().unwrap();
    let error = outcome.error().unwrap();
    assert!(error.kind() == "setup" && error.message().contains("stranger") && error.message().contains("init_with"), "{error}");
}

fn a_child_cannot_have_children_of_this_kind() {
    let outcomes = job(ChildLimits::default()).params([Act::Nest, Act::Stdin]).collect().outcomes;
    assert!(text(&outcomes[0]).contains("child process of a child process"), "{outcomes:?}");
    assert_eq!(text(&outcomes[1]), "");
}
