//! Children that are talked to in frames, with a child in Python: several tasks at once, answers in
//! any order, and everything that can go wrong with one. And children in lines that have several at
//! once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::{
    ChildLimits, Clock, Finished, LaneKind, Outcome, SinkError, TaskError,
    engine::{Engine, EngineConfig, Running, outbox},
    gate::GateConfig,
    lane::{
        Lane,
        child::{Children, Command},
        children::{ChildAnswer, ChildCall, ChildHandler, ChildKind, ChildLane, ChildPool, Frames, Lines},
    },
    sink::{Room, Sink},
    source::{Source, iter::IterSource, queue::queue},
    watch::Hub,
};
use longshore_testkit::conformance::lane::{self, Ask, MakeLane};
use tokio::{runtime::Handle, sync::mpsc};

const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/child.py");

fn frames(env: &[(&str, &str)]) -> Frames {
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Frames::new(Command { program: "python3".into(), args: vec![CHILD.into()], env, ..Command::default() })
}

fn handler<T: AsRef<str>>() -> ChildHandler<T, String> {
    ChildHandler {
        work: Box::new(|_, task| Ok(task.as_ref().into())),
        answer: Box::new(|_, _, ChildAnswer { outcome, .. }| outcome.map(|answer| String::from_utf8_lossy(&answer).into_owned())),
        soft: |task| task.as_ref().starts_with("soft").then_some(Duration::from_millis(200)),
        called_off: Some(|task| task.as_ref() == "hang revoked" && REVOKED.load(Ordering::SeqCst)),
    }
}

/// How tasks ended: their numbers from 1 in the order of their ends, and each in a few words.
struct Ended {
    order: Vec<u64>,
    said: BTreeMap<u64, String>,
}

impl Ended {
    fn of(&self, id: u64) -> &str {
        &self.said[&id]
    }
}

struct Ends(mpsc::UnboundedSender<(u64, String)>);

impl Sink<String, String> for Ends {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<String, String>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        room.release(batch.len());
        for one in batch.drain(..) {
            let said = match &one.outcome {
                Outcome::Ok(answer) => answer.clone(),
                other => other.error().map_or_else(|| other.word().to_string(), |error| format!("{}: {}", other.word(), error.message())),
            };
            let _ = self.0.send((one.id(), said));
        }
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        std::future::ready(Ok(())).boxed()
    }
}

type Got = mpsc::UnboundedReceiver<(u64, String)>;

/// Starts what runs the tasks of a source with so many children at most, and so much time for each.
fn start<K: ChildKind + 'static>(
    lane: (K, ChildLimits, usize),
    children: Children,
    timeout: Option<Duration>,
    source: Arc<dyn Source<String>>,
) -> (Running, Got) {
    let ((kind, limits, size), outbox) = (lane, outbox());
    let lane = ChildLane::new(kind, handler(), size, limits, children, outbox.clone(), Clock::SYSTEM);
    let mut lanes = [const { None }; 4];
    lanes[LaneKind::Process as usize] = Some(Arc::new(lane) as Arc<dyn Lane<String, String>>);
    let mut config = EngineConfig::new(GateConfig::new([0, 0, 0, 64]), LaneKind::Process);
    (config.timeout, config.queue) = (timeout, 64);
    let (ends, got) = mpsc::unbounded_channel();
    (Engine::start(config, source, lanes, Box::new(Ends(ends)), outbox, Hub::new(), &Handle::current()), got)
}

/// Runs tasks with so many children at most, and so much time for each.
async fn run<K: ChildKind + 'static>(kind: K, limits: ChildLimits, children: usize, timeout: Option<Duration>, tasks: &[&str]) -> Ended {
    let tasks: Vec<String> = tasks.iter().map(|task| (*task).to_owned()).collect();
    let source = Arc::new(IterSource::new(tasks.into_iter(), None));
    let (running, mut got) = start((kind, limits, children), Children::new().unwrap(), timeout, source);
    tokio::time::timeout(Duration::from_secs(60), running.join()).await.expect("the job does not end");
    let (mut order, mut said) = (Vec::new(), BTreeMap::new());
    while let Ok((id, words)) = got.try_recv() {
        assert_eq!(said.insert(id, words), None, "task {id} comes twice");
        order.push(id);
    }
    Ended { order, said }
}

fn at_once(most: u32) -> ChildLimits {
    ChildLimits::default().at_once(most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_has_several_tasks_at_once_and_answers_in_any_order() {
    let ended =
        run(frames(&[("WORKERS", "3")]), at_once(3), 1, None, &["hold a", "echo x", "hold b", "free b", "free a", "pid", "pid"]).await;
    assert_eq!(ended.said.len(), 7);
    assert_eq!(ended.of(2), "x");
    let at = |id: u64| ended.order.iter().position(|ended| *ended == id).unwrap();
    assert!(at(2) < at(1) && at(4) < at(1), "{:?}", ended.order);
    assert_eq!(ended.of(6), ended.of(7), "one child has had them all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_charged_to_what_had_begun_and_the_others_go_to_another_child() {
    let ended = run(frames(&[]), at_once(6), 1, None, &["echo 1", "die", "echo 2", "pid", "exit 3", "pid"]).await;
    assert_eq!((ended.of(1), ended.of(3)), ("1", "2"));
    assert_eq!(ended.of(2), "killed: ended by signal 9");
    assert_eq!(ended.of(5), "lost: the child ended with exit code 3 before it had answered: sorry");
    assert_ne!(ended.of(4), ended.of(6), "a third child");
    // Nobody can tell which of two it was.
    let ended = run(frames(&[("WORKERS", "2")]), at_once(3), 1, None, &["hold a", "die", "echo 1"]).await;
    assert_eq!(ended.said.into_values().collect::<Vec<_>>(), ["killed: ended by signal 9", "killed: ended by signal 9", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_takes_too_long_is_asked_to_end_and_then_its_child_is_ended() {
    let limit = Some(Duration::from_millis(1_500));
    let ended = run(frames(&[]), at_once(4), 1, limit, &["soft", "hang", "echo 1", "echo 2"]).await;
    assert_eq!(ended.said.into_values().collect::<Vec<_>>(), ["softened", "timeout: no end within 1.5s", "1", "2"]);
    // What had begun beside it has ended with it, and says why.
    let ended = run(frames(&[("WORKERS", "2")]), at_once(2), 1, limit, &["hang", "hang"]).await;
    let mut said: Vec<_> = ended.said.into_values().collect();
    said.sort();
    assert_eq!(said, ["lost: its child process was ended because of another of its tasks", "timeout: no end within 1.5s"]);
}

/// Nobody wants the result of `hang revoked` once it runs.
static REVOKED: AtomicBool = AtomicBool::new(false);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_result_nobody_wants_ends_with_its_child() {
    let frames = frames(&[]).on_stderr(|_| REVOKED.store(true, Ordering::SeqCst));
    let ended = run(frames, at_once(2), 1, None, &["hang revoked", "echo 1"]).await;
    assert_eq!(ended.said.into_values().collect::<Vec<_>>(), ["cancelled: stopped before it ended", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_the_child_and_harms_nobody_else() {
    for (nonsense, want) in [("garbage", "failed: the child wrote what is no frame"), ("stranger", "failed: the child speaks of task 10")] {
        let ended = run(frames(&[]), at_once(4), 1, None, &["echo 1", nonsense, "echo 2", "echo 3"]).await;
        assert!(ended.of(2).starts_with(want), "{}", ended.of(2));
        assert_eq!([1, 3, 4].map(|id| ended.of(id)), ["1", "2", "3"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_child_prints_is_handed_on_and_is_no_answer() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let frames = frames(&[]).on_stderr(move |bytes| hear.lock().unwrap().extend_from_slice(bytes));
    let ended = run(frames, at_once(1), 1, None, &["print hello there"]).await;
    assert_eq!(ended.of(1), "hello there");
    assert_eq!(String::from_utf8_lossy(&heard.lock().unwrap()), "hello there\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_with_much_to_read_and_to_answer_holds_up_nobody() {
    let long = format!("echo {}", "x".repeat(1 << 20));
    let tasks: Vec<&str> = std::iter::repeat_n(long.as_str(), 12).collect();
    let ended = run(frames(&[("SLOW", "0.02"), ("WORKERS", "2")]), at_once(4), 2, None, &tasks).await;
    assert_eq!(ended.said.len(), 12);
    assert!(ended.said.values().all(|said| said.len() == 1 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_does_not_get_ready_says_why_to_each_task() {
    let silent = Frames::new(Command { program: "sleep".into(), args: vec!["1000".into()], ..Command::default() });
    let limits = at_once(2).start_up(Duration::from_millis(100));
    let ended = run(silent, limits, 1, None, &["echo 1"]).await;
    assert_eq!(ended.of(1), "failed: the child `sleep` did not get ready in time (signal 9 (SIGKILL))");
    let script = "echo no such module >&2; exit 4";
    let broken = Frames::new(Command { program: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() });
    let ended = run(broken, at_once(2), 1, None, &["echo 1"]).await;
    assert_eq!(ended.of(1), "failed: the child `sh` ended before it was ready (exit code 4)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_replaced_after_their_tasks_and_ended_for_their_size() {
    let ended = run(frames(&[]), at_once(2).max_tasks(3), 1, None, &["pid"; 9]).await;
    let mut children = BTreeMap::<&str, u32>::new();
    ended.said.values().for_each(|pid| *children.entry(pid).or_default() += 1);
    assert_eq!(children.into_values().collect::<Vec<_>>(), [3, 3, 3]);
    let ended = run(frames(&[]), at_once(2).memory(128 << 20), 1, None, &["grow 400", "echo 1"]).await;
    assert!(ended.of(1).contains("the limit is 128 MiB"), "{}", ended.of(1));
    assert_eq!(ended.of(2), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_has_nothing_to_do_for_a_while_is_ended() {
    let (children, (sender, source)) = (Children::new().unwrap(), queue(4));
    let lane = (frames(&[]), at_once(1).max_idle(Duration::from_millis(100)), 1);
    let (running, mut got) = start(lane, children.clone(), None, Arc::new(source));
    for _ in 0..2 {
        sender.send("pid".to_owned()).await.unwrap();
        got.recv().await.unwrap();
        let began = Instant::now();
        while !children.running().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "the child is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop(sender);
    running.join().await;
}

#[test]
fn whoever_waits_for_an_answer_may_ask_such_a_child_too() {
    let pool = ChildPool::new(frames(&[]), ChildLimits::default(), Children::new().unwrap());
    let pid = |slot: u32| pool.ask(slot, ChildCall::new(*b"pid")).outcome.ok().unwrap();
    assert_eq!(pid(0), pid(0));
    assert_ne!(pid(0), pid(1));
    assert!(pool.ask(0, ChildCall::new(*b"die")).outcome.ok().is_none());
    pool.end();
    assert!(pool.children().running().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_in_frames_are_a_lane() {
    let make = |outbox: &_, _: &_| {
        let handler = ChildHandler {
            work: Box::new(|_, ask: &Ask| {
                Ok(match ask {
                    Ask::Succeed => "echo".into(),
                    Ask::Fail => return Err(TaskError::new("asked", "as asked")),
                    // The functions around the child may panic, too.
                    Ask::Panic | Ask::PanicInDrop => panic!("as asked"),
                    Ask::Take(ms) => format!("sleep {ms}").into(),
                    Ask::Hang => "hang".into(),
                })
            }),
            answer: Box::new(|context, _, ChildAnswer { outcome, .. }| outcome.map(|_| context.attempt)),
            soft: |_| None,
            called_off: None,
        };
        let lane = ChildLane::new(
            frames(&[("WORKERS", "4")]),
            handler,
            4,
            at_once(4),
            Children::new().unwrap(),
            Clone::clone(outbox),
            Clock::SYSTEM,
        );
        Arc::new(lane) as Arc<dyn Lane<Ask, u32>>
    };
    lane::suite(MakeLane { kind: LaneKind::Process, make, many: 21, ends_late: false }).await;
}

/// A child that works lines off one after the other. Of each it says in a file that it has begun
/// it.
const SHELL: &str = "while read -r line; do echo \"$line\" >>\"$BEGUN\"; case $line in
    die*) kill -9 $$;; exit*) exit 3;; leave*) exit 0;; hang*) sleep 1000;; last*) echo \"$line\"; exit 0;; *) echo \"$line\";; esac; done";

/// The same, but it reads ahead as far as it can.
const AHEAD: &str = "import os, signal, sys, time
for line in sys.stdin:
    line = line.rstrip()
    with open(os.environ['BEGUN'], 'a') as begun: begun.write(line + '\\n')
    if line.startswith('die'): os.kill(os.getpid(), signal.SIGKILL)
    if line.startswith('exit'): os._exit(3)
    if line.startswith('leave'): os._exit(0)
    if line.startswith('hang'): time.sleep(1000)
    print(line, flush=True)
    if line.startswith('last'): os._exit(0)
";

/// What becomes of such a line, however many a child has at once.
fn fate_of(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "die" => "killed: ended by signal 9".to_owned(),
        "exit" => "lost: the child ended with exit code 3 before it had answered".to_owned(),
        "leave" => "lost: the child ended with exit code 0 before it had answered".to_owned(),
        "hang" => "timeout: no end within 3s".to_owned(),
        _ => line.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_lines_that_a_child_has_only_the_first_unanswered_has_the_blame_for_its_end() {
    let dir = std::env::temp_dir().join(format!("longshore-lines-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut chance = fastrand::Rng::with_seed(17);
    for round in 0..8 {
        let words = ["echo", "echo", "echo", "echo", "echo", "echo", "last", "die", "exit", "leave"];
        let mut tasks: Vec<String> = (0..24).map(|n| format!("{} {n}", chance.choice(words).unwrap())).collect();
        // Only a shell is up soon enough on a busy machine.
        let limit = (round == 0).then_some(Duration::from_secs(3));
        if limit.is_some() {
            tasks[20] = "hang 20".to_owned();
        }
        let (window, children) = (chance.u32(2..16), chance.usize(1..4));
        let (program, script) = if round % 2 == 0 { ("sh", SHELL) } else { ("python3", AHEAD) };
        let begun = dir.join(round.to_string());
        let env = vec![("BEGUN".into(), begun.clone().into())];
        let lines = Lines::new(Command { program: program.into(), args: vec!["-c".into(), script.into()], env, ..Command::default() });
        let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
        let ended = run(lines, at_once(window), children, limit, &tasks).await;
        let told = format!("round {round}: {children} {program} with {window} each");
        assert_eq!(ended.said.len(), tasks.len(), "{told}");
        for (id, line) in (1..).zip(&tasks) {
            assert_eq!(ended.of(id), fate_of(line), "{told}, line {id}");
        }
        // No line was begun twice, but for those with which a child that had answered ended well:
        // it may have been done with its work.
        let mut times = BTreeMap::<&str, u32>::new();
        let begun = std::fs::read_to_string(begun).unwrap();
        begun.lines().for_each(|line| *times.entry(line).or_default() += 1);
        for (line, times) in times {
            assert!(times == 1 || (times == 2 && line.starts_with("leave")), "{told}: {line} {times} times");
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_in_lines_that_says_too_much_harms_the_last_that_it_has() {
    let script = "n=0; while read -r line; do n=$((n + 1)); echo \"$line\"; [ $n != 3 ] || echo more; done";
    let lines = Lines::new(Command { program: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() });
    let ended = run(lines, at_once(2), 1, None, &["a", "b", "c"]).await;
    assert_eq!((ended.of(1), ended.of(2)), ("a", "b"));
    // As with one at a time: whether it was seen before the last answer was taken is chance.
    assert!(ended.of(3) == "c" || ended.of(3).starts_with("failed: the child wrote a line that nobody asked for"), "{}", ended.of(3));
    // A greeting is no answer, and is seen before it counts as one; a slow child has it read with
    // what follows.
    let lines = Lines::new(Command { program: "sh".into(), args: vec!["-c".into(), "echo hello; cat".into()], ..Command::default() });
    let ended = run(lines, at_once(8), 1, None, &["a", "b"]).await;
    assert!(ended.said.values().all(|said| said.contains("nobody asked for, and was ended: `")), "{:?}", ended.said);
}
