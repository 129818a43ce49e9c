//! The face of a run: seen, heard, steered, resumed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use longshore_core::{
    Stop,
    watch::{Heard, ViewKind},
};
use longshore_run::{Program, Run, RunEvent, RunSpec};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_seen_heard_and_steered() {
    let spec = RunSpec::new(Program::command(["sleep"])).records(vec!["0.05"; 200]).concurrency(1);
    let running = Run::start(Run::plan(spec).unwrap()).await.unwrap();
    let (mut events, handle) = (running.events(1_000), running.handle());
    handle.watched().set_concurrency(None, 7);
    loop {
        match events.next().await.unwrap() {
            Heard::Event(RunEvent::Concurrency { most }) => break assert_eq!(most, 7),
            Heard::Event(RunEvent::Ended(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let view = handle.look().await.unwrap();
    let engine = handle.watched().view().await.unwrap();
    assert_eq!((view.concurrency, engine.kind, engine.concurrency), (7, ViewKind::Run, Some(7)));
    handle.watched().stop(Stop::Soft);
    let report = running.await;
    assert!(report.remaining > 0 && report.failed() == 0, "{report:?}");
    assert!(handle.look().await.is_none(), "it is over");
    while events.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let spec = || {
        let spec = RunSpec::new(Program::command(["sleep"])).records((1..=20).map(|n| format!("0.0{n:02}")));
        spec.concurrency(2).name("again").state_dir(folder.path()).output_file(folder.path().join("out.jsonl"))
    };
    let running = Run::start(Run::plan(spec()).unwrap()).await.unwrap();
    let mut handle = running.handle();
    while handle.view().counts.finished() < 5 && handle.changed().await {}
    handle.drain();
    let first = running.await;
    assert!(first.remaining > 0 && first.finished() >= 5, "{first:?}");
    let second = Run::start(Run::resume(spec(), None).unwrap()).await.unwrap().await;
    assert_eq!((second.finished(), second.failed(), second.remaining, second.sittings), (20, 0, 0, 2));
    assert_eq!(std::fs::read_to_string(folder.path().join("out.jsonl")).unwrap().lines().count(), 20);
    let none = tokio::time::timeout(Duration::from_secs(20), Run::start(Run::retry_failed(spec(), None).unwrap())).await;
    assert!(none.unwrap().unwrap().await.nothing_left);
}

#[test]
fn a_socket_that_has_its_name_answers() {
    let folder = tempfile::tempdir().unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Looks for sockets without a pause, and connects to each that it sees.
        let looking = scope.spawn(|| {
            let (mut met, mut refused) = (0, 0);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for file in std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()) {
                    if file.extension().is_some_and(|ending| ending == "sock") {
                        match std::os::unix::net::UnixStream::connect(&file) {
                            Ok(_) => met += 1,
                            Err(error) => refused += usize::from(error.kind() == std::io::ErrorKind::ConnectionRefused),
                        }
                    }
                }
            }
            (met, refused)
        });
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            for _ in 0..300 {
                let mut spec = RunSpec::new(Program::command(["sleep"])).records(["0.001"]).state_dir(folder.path());
                spec.journal.reachable = true;
                let report = Run::start(Run::plan(spec).unwrap()).await.unwrap().await;
                assert_eq!(report.finished(), 1, "{report:?}");
            }
        });
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let (met, refused) = looking.join().unwrap();
        assert!(met > 0 && refused == 0, "{met} answered, {refused} did not");
    });
}
