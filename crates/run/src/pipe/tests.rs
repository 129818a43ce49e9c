use std::{thread, time::Instant};

use super::*;
use longshore_core::lane::child::Stop;

fn options(argv: &[&str]) -> PipeOptions {
    PipeOptions::new(argv.iter().copied())
}

fn pipe(argv: &[&str]) -> Pipe {
    Pipe::new(options(argv), Children::new().unwrap()).unwrap()
}

fn sh(script: &str) -> Pipe {
    pipe(&["sh", "-c", script])
}

/// What one record ends in, in one line: `json …`, `text …`, or outcome, kind and message.
fn said(pipe: &Pipe, line: &str) -> String {
    told(pipe.ask(0, line.into(), Some(Duration::from_secs(20))))
}

fn told(answer: Result<Answer, Failure>) -> String {
    match answer {
        Ok(Answer::Json(json)) => format!("json {}", json.get()),
        Ok(Answer::Text(text)) => format!("text {text}"),
        Ok(Answer::Bytes(bytes)) => format!("bytes {}", bytes.escape_ascii()),
        Err(Failure { outcome, .. }) => match outcome.error() {
            Some(error) => format!("{} {}: {}", outcome.word(), error.kind(), error.message()),
            None => outcome.word().to_string(),
        },
    }
}

fn pid(pipe: &Pipe) -> i32 {
    pipe.0.children().running()[0].pid
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()), Some('Z' | 'X') | None))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::yield_now();
    }
}

#[test]
fn answers_are_json_or_else_text_and_one_child_gives_them_all() {
    let pipe = pipe(&["cat"]);
    let mut first = None;
    for (line, want) in [
        (r#"{"a":1.10}"#, r#"json {"a":1.10}"#),
        ("12345678901234567890123", "json 12345678901234567890123"),
        ("null", "json null"),
        ("\"x\"", "json \"x\""),
        ("two words", "text two words"),
        ("", "text "),
        ("007", "text 007"),
        ("carriage\r", "text carriage"),
        (r#"{"error":null}"#, r#"json {"error":null}"#),
        (r#"{"error":{},"more":1}"#, r#"json {"error":{},"more":1}"#),
    ] {
        assert_eq!(said(&pipe, line), want);
        assert_eq!(pid(&pipe), *first.get_or_insert(pid(&pipe)), "the child stays");
    }
    let long = "x".repeat(3_000_000);
    assert!(said(&pipe, &long) == format!("text {long}"));
    assert_eq!(told(pipe.ask(0, b"\xff".to_vec(), None)), "bytes \\xff");
}

#[test]
fn an_error_object_is_a_failure_and_the_child_stays() {
    let pipe = sh("while read -r x; do echo \"about $x\" >&2; echo \"$x\"; done");
    assert_eq!(said(&pipe, "1"), "json 1");
    let child = pid(&pipe);
    for (line, word, again) in [
        (r#"{"error":{"kind":"quota","message":"full","retry":false}}"#, "failed quota: full", Again::Never),
        (r#"{"error":{"kind":"quota","message":"full"}}"#, "failed quota: full", Again::ByPolicy),
        (r#"{"error":"just text"}"#, "failed error: just text", Again::ByPolicy),
        (r#"{"error":{"kind":"no kind!","code":7}}"#, r#"failed error: {"kind":"no kind!","code":7}"#, Again::ByPolicy),
    ] {
        let failure = pipe.ask(0, line.into(), None).unwrap_err();
        let error = failure.outcome.error().unwrap();
        assert_eq!(error.again(), again, "{line}");
        assert_eq!(told(Err(failure)), word);
    }
    let retry = pipe.ask(0, br#"{"error":{"message":"busy","retry":true}}"#.to_vec(), None).unwrap_err();
    assert!(matches!(retry.outcome, Outcome::Retry { after: None, .. }), "{retry:?}");
    assert_eq!(pid(&pipe), child);
}

#[test]
fn each_slot_has_a_child_of_its_own_that_knows_its_slot() {
    let pipe = sh("while read -r x; do echo \"$x $LONGSHORE_SLOT\"; done");
    thread::scope(|scope| {
        for slot in 0..4 {
            let pipe = &pipe;
            scope.spawn(move || {
                for n in 0..50 {
                    assert_eq!(told(pipe.ask(slot, format!("n{n}").into(), None)), format!("text n{n} {slot}"));
                }
            });
        }
    });
    assert_eq!(pipe.0.children().running().len(), 4);
}

#[test]
fn no_answer_in_time_kills_the_group_and_the_next_record_has_a_new_child() {
    let script = "while read -r x; do case $x in hang) sleep 1000 & echo $! >&2; wait;; *) echo \"$x\";; esac; done";
    let pipe = sh(script);
    assert_eq!(said(&pipe, "1"), "json 1");
    let old = pid(&pipe);
    let limit = Duration::from_millis(300);
    let failure = pipe.ask(0, b"hang".to_vec(), Some(limit)).unwrap_err();
    assert!(matches!(failure.outcome, Outcome::TimedOut { limit: passed } if passed == limit), "{failure:?}");
    let grandchild = failure.tail.unwrap();
    wait_until("the group still runs", || !runs(&grandchild) && !runs(&old.to_string()));
    assert_eq!(said(&pipe, "2"), "json 2");
    assert_ne!(pid(&pipe), old);
}

#[test]
fn a_child_that_dies_before_its_answer_is_killed_or_lost_and_replaced() {
    let script = "while read -r x; do case $x in
        die) kill -9 $$;; exit) echo sorry >&2; exit 3;; half) printf half; exit 0;; mute) exec >&-; sleep 1000;; *) echo \"$x\";; esac; done";
    let pipe = sh(script);
    for (line, want) in [
        ("1", "json 1"),
        ("die", "killed signal: ended by signal 9"),
        ("2", "json 2"),
        ("exit", "lost lost: the child ended with exit code 3 before it had answered: sorry"),
        ("half", "lost lost: the child ended with exit code 0 before it had answered"),
        ("mute", "lost lost: the child closed its output before it had answered"),
        ("3", "json 3"),
    ] {
        assert_eq!(said(&pipe, line), want);
    }
}

#[test]
fn a_child_that_ends_after_an_answer_is_replaced_without_a_word() {
    let pipe = sh("read -r x; echo \"$x\"");
    for n in 0..100 {
        assert_eq!(said(&pipe, &n.to_string()), format!("json {n}"));
    }
    // However large the record: what was written and not read is what the kernel counts.
    let long = "x".repeat(300_000);
    for _ in 0..20 {
        assert_eq!(said(&pipe, "1"), "json 1");
        let answer = said(&pipe, &long);
        assert!(answer == format!("text {long}"), "{:.100}", answer);
    }
}

#[test]
fn a_child_that_never_reads_is_lost_with_its_reason_and_not_started_for_ever() {
    let pipe = sh("echo 'no such module' >&2; exit 1");
    let failure = pipe.ask(0, b"1".to_vec(), None).unwrap_err();
    assert_eq!(failure.tail.as_deref(), Some("no such module"));
    assert_eq!(told(Err(failure)), "lost lost: the child ended with exit code 1 before it had answered: no such module");
    let missing = super::tests::pipe(&["/no/such/program"]).ask(0, b"1".to_vec(), None).unwrap_err();
    assert_eq!(told(Err(missing)), "failed spawn: cannot run `/no/such/program`: no such file");
}

#[test]
fn a_line_that_nobody_asked_for_ends_the_child_and_fails_the_task() {
    // Two lines for one, in one write.
    let pipe = sh("while read -r x; do case $x in two) printf 'a\\nb\\n';; *) echo \"$x\";; esac; done");
    assert_eq!(said(&pipe, "1"), "json 1");
    assert_eq!(said(&pipe, "two"), "failed answer: the child wrote a line that nobody asked for, and was ended: `b`");
    assert!(pipe.0.children().running().is_empty());
    assert_eq!(said(&pipe, "2"), "json 2");

    // A second line after the answer has been taken.
    let folder = tempfile::tempdir().unwrap();
    let said_so = folder.path().join("said");
    let script = "while read -r x; do echo \"$x\"; case $x in late) sleep 0.2; echo extra; : >SAID;; esac; done";
    let pipe = sh(&script.replace("SAID", &said_so.display().to_string()));
    assert_eq!(said(&pipe, "late"), "text late");
    wait_until("the second line never came", || said_so.exists());
    assert_eq!(said(&pipe, "2"), "failed answer: the child wrote a line that nobody asked for, and was ended: `extra`");
    assert_eq!(said(&pipe, "3"), "json 3");
}

#[test]
fn a_line_that_comes_late_is_not_taken_for_the_next_answer() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Its second line comes when the test says so, and it reads no further record.
    let pipe = sh(&format!("read a; echo one; read go <{}; echo late; sleep 60", gate.display()));
    assert_eq!(said(&pipe, "1"), "text one");
    thread::scope(|scope| {
        let second = scope.spawn(|| said(&pipe, "2"));
        thread::yield_now();
        std::fs::write(&gate, "go\n").unwrap();
        assert_eq!(second.join().unwrap(), "failed answer: the child wrote a line that nobody asked for, and was ended: `late`");
    });
    assert_eq!(said(&pipe, "3"), "text one", "another child");
}

#[test]
fn an_answer_without_end_fails_and_the_child_is_replaced() {
    let children = Children::new().unwrap();
    let script = "while read -r x; do case $x in big) head -c 1000000000 /dev/zero;; *) echo \"$x\";; esac; done";
    let mut options = options(&["sh", "-c", script]);
    options.max_answer = Some((100_000, " (--max-record)"));
    let pipe = Pipe::new(options, children).unwrap();
    let want = "failed answer: the answer is longer than 100000 bytes (--max-record)";
    assert_eq!(said(&pipe, "big"), want);
    assert_eq!(said(&pipe, &"y".repeat(100_001)), want);
    assert_eq!(said(&pipe, &"y".repeat(100_000)).len(), 100_005);
}

#[test]
fn a_record_with_a_newline_is_invalid_and_reaches_no_child() {
    let pipe = pipe(&["cat"]);
    assert!(said(&pipe, "a\nb").starts_with("failed invalid: "));
    assert!(pipe.0.children().running().is_empty());
}

#[test]
fn a_child_that_answers_before_it_has_read_its_line_is_out_of_step() {
    let pipe = sh("head -c 1 >/dev/null; echo early; exec sleep 1000");
    assert_eq!(said(&pipe, &"x".repeat(1_000_000)), "failed answer: the child answered before it had read its line");
}

#[test]
fn much_on_standard_error_blocks_nobody_and_its_end_is_kept() {
    let pipe = sh("while read -r x; do head -c 1000000 /dev/zero >&2; echo end of $x >&2; exit 1; done");
    let failure = pipe.ask(0, b"1".to_vec(), None).unwrap_err();
    let tail = failure.tail.unwrap();
    assert!(tail.ends_with("end of 1") && tail.len() <= 4096, "{}", tail.len());
}

#[test]
fn stop_reaches_children_that_are_asked_and_children_that_are_not() {
    for (how, patience) in [(Stop::Soft, Duration::from_millis(200)), (Stop::Hard, Duration::from_secs(60))] {
        let children = Children::new().unwrap();
        let script =
            "trap '' TERM; while read -r x; do case $x in hang) echo up >&2; while :; do sleep 0.1; done;; *) echo \"$x\";; esac; done";
        let mut options = options(&["sh", "-c", script]);
        options.limits = ChildLimits::default().kill_after(patience);
        let pipe = Pipe::new(options, children.clone()).unwrap();
        assert_eq!(told(pipe.ask(1, b"1".to_vec(), None)), "json 1");
        thread::scope(|scope| {
            let hanging = scope.spawn(|| told(pipe.ask(0, b"hang".to_vec(), None)));
            wait_until("never asked", || children.running().iter().any(|child| child.last_line == "up"));
            assert_eq!(children.stop(how), 2);
            assert_eq!(hanging.join().unwrap(), "cancelled cancelled: stopped before it ended");
        });
        assert_eq!(told(pipe.ask(1, b"1".to_vec(), None)), "cancelled cancelled: stopped before it ended");
        drop(pipe);
        assert!(children.running().is_empty());
    }
}

#[test]
fn at_the_end_children_may_clean_up_and_those_that_do_not_go_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let children = Children::new().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let script = format!(
        "while read -r x; do kind=$x; echo ok; case $x in slow) trap 'echo term >{term}; exit' TERM;; deaf) trap '' TERM;; esac; done
         case $kind in tidy) head -c 300000 /dev/zero; echo done >{done};; *) while :; do sleep 0.01; done;; esac",
        term = file("term"),
        done = file("done"),
    );
    let mut options = options(&["sh", "-c", &script]);
    options.limits = ChildLimits::default().farewell(Duration::from_millis(300)).kill_after(Duration::from_millis(300));
    let pipe = Pipe::new(options, children.clone()).unwrap();
    for (slot, kind) in [(0, "tidy"), (1, "slow"), (2, "deaf")] {
        assert_eq!(told(pipe.ask(slot, kind.into(), None)), "text ok");
    }
    let start = Instant::now();
    pipe.end();
    assert!(start.elapsed() >= Duration::from_millis(600) && start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(children.running().is_empty());
    assert_eq!(std::fs::read_to_string(file("done")).unwrap(), "done\n", "its last words were read, so it could finish");
    assert_eq!(std::fs::read_to_string(file("term")).unwrap(), "term\n");
}
