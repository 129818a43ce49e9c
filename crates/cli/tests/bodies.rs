//! Bodies: commands and children of `--pipe` that crash, hang, flood or lie. Only their own task
//! suffers, and its outcome says what happened.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use common::{Place, alive_with, results, run};
use serde_json::Value;

/// Runs a shell text for each name, with three harmless tasks between them; the result lines by
/// name.
fn each(place: &Place, flags: &[&str], bodies: &[(&str, &str)]) -> (i32, BTreeMap<String, Value>) {
    let script = place.script(
        "body.sh",
        &format!(
            "case $1 in\ngood*) echo fine; exit 0;;\n{}esac",
            bodies.iter().map(|(name, body)| format!("{name})\n{body}\n;;\n")).collect::<String>()
        ),
    );
    let mut input = String::from("good0\n");
    for (at, (name, _)) in bodies.iter().enumerate() {
        input += &format!("{name}\ngood{}\n", at + 1);
    }
    place.write("in", input);
    let mut command = place.run();
    command.args(["in", "-j", "8", "-o", "out.jsonl", "--summary", "none", "--progress", "none"]).args(flags).arg("--").arg(&script);
    let (code, _, stderr) = run(command.env("MARK", place.dir.path()));
    let results: BTreeMap<String, Value> =
        results(&place.path("out.jsonl")).into_values().map(|line| (line["task"].as_str().unwrap().to_owned(), line)).collect();
    assert_eq!(results.len(), 2 * bodies.len() + 1, "{stderr}");
    for (name, line) in results.iter().filter(|(name, _)| name.starts_with("good")) {
        assert_eq!(
            (&line["outcome"], &line["value"]["stdout"], &line["attempts"]),
            (&"ok".into(), &"fine\n".into(), &1.into()),
            "{name}: {line}"
        );
    }
    assert_eq!(alive_with(&format!("MARK={}", place.dir.path().display())), [], "nothing is left behind");
    (code, results)
}

fn says(results: &BTreeMap<String, Value>, name: &str, outcome: &str, kind: &str, code: Option<i64>) {
    let line = &results[name];
    assert_eq!(
        (line["outcome"].as_str(), line["error"]["kind"].as_str(), line["error"]["code"].as_i64()),
        (Some(outcome), Some(kind), code),
        "{name}: {line}"
    );
}

#[test]
fn a_command_that_crashes_is_killed_or_failed_and_alone() {
    let place = Place::new();
    let (code, results) = each(
        &place,
        &["--retries", "1", "--backoff", "fixed:10ms"],
        &[
            ("abort", "kill -ABRT $$"),
            ("segv", "kill -SEGV $$"),
            ("kill", "kill -KILL $$"),
            ("term", "kill -TERM $$; sleep 5"),
            ("group", "kill -KILL 0"),
            ("exit75", "exit 75"),
            ("exit255", "echo no >&2; exit 255"),
            ("parent", "echo hello; kill -CONT $PPID; exit 3"),
            ("notfound", "exec /no/such/program"),
            ("closes", "exec <&- >&- 2>&-; sleep 0.3; exit 4"),
            ("stops", "(sleep 0.2; kill -CONT $$) & kill -STOP $$; exit 5"),
            ("second", "[ $LONGSHORE_ATTEMPT = 2 ] && exit 0; exit 6"),
            ("background", "sleep 100 & exit 7"),
            ("daemon", "(sleep 100 </dev/null >/dev/null 2>&1 &) ; exit 8"),
        ],
    );
    assert_eq!(code, 1);
    for (name, signal) in [("abort", 6), ("segv", 11), ("kill", 9), ("term", 15), ("group", 9)] {
        says(&results, name, "killed", "signal", Some(signal));
    }
    for (name, code) in [("exit75", 75), ("exit255", 255), ("parent", 3), ("closes", 4), ("stops", 5), ("background", 7), ("daemon", 8)] {
        says(&results, name, "failed", "exit", Some(code));
    }
    assert!(matches!(results["notfound"]["error"]["code"].as_i64(), Some(126 | 127)), "{}", results["notfound"]);
    assert_eq!(results["exit255"]["error"]["tail"], "no");
    assert_eq!(results["second"]["outcome"], "ok");
    for (name, line) in results.iter().filter(|(name, _)| !name.starts_with("good")) {
        assert_eq!(line["attempts"], 2, "{name}: every failure is tried again");
    }
}

#[test]
fn a_command_that_does_not_end_is_a_timeout_and_its_group_is_gone() {
    let place = Place::new();
    let began = Instant::now();
    let (code, results) = each(
        &place,
        // Two of these keep both processors of a small machine busy: the good ones need time, too.
        &["-t", "700ms", "--kill-after", "200ms", "--retries", "1", "--backoff", "fixed:10ms"],
        &[
            ("hangs", "sleep 100"),
            ("ignores", "trap '' TERM; sleep 100; sleep 100"),
            ("children", "for i in 1 2 3; do (trap '' TERM; sleep 100; sleep 100) & done; wait"),
            ("stopped", "kill -STOP $$"),
            ("loops", "while :; do :; done"),
            ("polite", "trap 'exit 0' TERM; sleep 100 & wait"),
            ("dies", "trap 'kill -KILL $$' TERM; sleep 100 & wait"),
            ("closed", "exec <&- >&- 2>&-; sleep 100"),
            ("talks", "while echo x; do :; done"),
        ],
    );
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(code, 1);
    for (name, line) in results.iter().filter(|(name, _)| !name.starts_with("good")) {
        says(&results, name, "timeout", "timeout", None);
        assert_eq!(line["attempts"], 2, "{name}");
        let took = line["run_ms"].as_u64().unwrap();
        assert!((700..3500).contains(&took), "{name}: {took} ms");
    }
}

#[test]
fn many_children_and_much_output_do_no_harm() {
    let place = Place::new();
    let (code, results) = each(
        &place,
        &["--max-output", "1KiB"],
        &[
            ("bomb", "i=0; while [ $i -lt 200 ]; do sleep 100 & i=$((i+1)); done; echo $i"),
            ("flood", "head -c 67108864 /dev/zero | tr '\\0' x"),
            ("both", "head -c 4000000 /dev/zero >&2; head -c 4000000 /dev/zero | tr '\\0' y"),
            ("noline", "printf '%5000s' x; exit 9"),
        ],
    );
    assert_eq!(code, 1);
    assert_eq!(results["bomb"]["value"]["stdout"], "200\n");
    let flood = &results["flood"]["value"];
    assert_eq!((flood["stdout"].as_str().unwrap().len(), flood["stdout_cut"].as_u64()), (1024, Some((64 << 20) - 1024)));
    assert_eq!(results["both"]["value"]["stderr_cut"], 4_000_000 - 1024);
    says(&results, "noline", "failed", "exit", Some(9));
}

#[test]
fn pipe_children_that_misbehave_fail_their_own_record_only() {
    let place = Place::new();
    // A new child counts its lines, so that the place of each answer shows whether it is the same
    // child.
    let child = place.script(
        "child.sh",
        r#"
[ -n "$EARLY" ] && echo "$EARLY"
while read -r line; do
    case $line in
    die) printf 'half an ans'; exit 3;;
    abort) kill -ABRT $$;;
    quiet) exit 0;;
    twice) printf 'one\ntwo\n';;
    silent) sleep 100;;
    ignores) trap '' TERM; sleep 100; sleep 100;;
    close) exec >&-; sleep 100;;
    error) echo '{"error":{"kind":"sour","message":"no milk"}}';;
    again) if [ -e "$MARK.again" ]; then echo fresh; else : >"$MARK.again"; echo '{"error":{"kind":"sour","message":"no milk","retry":true}}'; fi;;
    never) echo '{"error":{"kind":"sour","message":"no milk","retry":false}}';;
    binary) printf '\377\376\n';;
    *) echo "<$line>";;
    esac
done"#,
    );
    let bodies = ["die", "abort", "quiet", "twice", "silent", "ignores", "close", "error", "again", "never", "binary"];
    let mut input = String::new();
    for (at, body) in bodies.iter().enumerate() {
        input += &format!("good{at}\n{body}\n");
    }
    place.write("in", input);
    let mut command = place.run();
    command.args(["in", "-j", "3", "-o", "out.jsonl", "--summary", "none", "--progress", "none", "-t", "600ms", "--kill-after", "100ms"]);
    command.args(["--retries", "1", "--backoff", "fixed:10ms", "--pipe", child.to_str().unwrap()]);
    let (code, _, stderr) = run(command.env("MARK", place.dir.path()));
    assert_eq!(code, 1, "{stderr}");
    let results: BTreeMap<String, Value> =
        results(&place.path("out.jsonl")).into_values().map(|line| (line["task"].as_str().unwrap().to_owned(), line)).collect();
    assert_eq!(results.len(), 2 * bodies.len());
    for at in 0..bodies.len() {
        let line = &results[&format!("good{at}")];
        assert_eq!((&line["outcome"], &line["value"]), (&"ok".into(), &format!("<good{at}>").into()), "{line}");
    }
    for (name, outcomes) in [
        ("die", &["lost", "killed"][..]),
        ("abort", &["killed"]),
        ("quiet", &["lost"]),
        ("twice", &["failed", "ok"]),
        ("silent", &["timeout"]),
        ("ignores", &["timeout"]),
        ("close", &["lost", "timeout"]),
        ("error", &["failed"]),
        ("again", &["ok"]),
        ("never", &["failed"]),
        ("binary", &["ok", "failed"]),
    ] {
        let line = &results[name];
        assert!(outcomes.contains(&line["outcome"].as_str().unwrap()), "{name}: {line}");
        let attempts = if ["never", "binary"].contains(&name) || line["outcome"] == "ok" && name != "again" { 1 } else { 2 };
        assert_eq!(line["attempts"], attempts, "{name}: {line}");
    }
    assert_eq!(results["error"]["error"]["kind"], "sour");
    assert_eq!(alive_with(&format!("MARK={}", place.dir.path().display())), []);
}

#[test]
fn a_pipe_child_that_speaks_before_it_is_asked_fails_with_that_reason() {
    let place = Place::new();
    let child = place.script("child.sh", "echo hello there\nwhile read -r line; do echo \"<$line>\"; done");
    let mut command = place.run();
    command.args(["-j", "1", "-o", "out.jsonl", "--summary", "none", "--pipe", child.to_str().unwrap(), ":::", "1", "2", "3"]);
    let (code, _, stderr) = run(&mut command);
    let all = results(&place.path("out.jsonl"));
    assert_eq!((code, all.len()), (1, 3), "{stderr}");
    // On a machine that is busy the answer may come so long after the greeting that only the next
    // record shows what happened.
    let told = |line: &&Value| line["outcome"] == "failed" && line["error"]["message"].as_str().unwrap().contains("nobody asked for");
    assert!(all.values().filter(told).count() >= 1, "{all:?}");
}

#[test]
fn a_pipe_program_that_is_not_there_ends_the_run_before_it_begins() {
    let place = Place::new();
    let (code, _, stderr) = run(place.run().args(["-o", "out.jsonl", "--summary", "none", "--pipe", "/no/such/program", ":::", "1", "2"]));
    assert!(code == 2 && stderr.contains("/no/such/program"), "{code}: {stderr}");
    assert!(!place.path("out.jsonl").exists() && place.journal_path().is_none());
}
