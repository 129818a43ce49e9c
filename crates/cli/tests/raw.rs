//! Raw output that is longer than the journal keeps: it goes through whole, and survives what the
//! run does not. And lines that are shown while commands run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Place, finish, number, run, signal, text, until, wait};
use rustix::process::Signal;

/// Command of a record. The lines that it writes are its own, and they are longer in all than the
/// journal keeps.
const WRITES: &str =
    "yes {}' wrote this line, which is a long one so that there are not so many of them: a test has to look at each' | head -c 2500000";

fn written(record: &str) -> Vec<u8> {
    let line = format!("{record} wrote this line, which is a long one so that there are not so many of them: a test has to look at each\n");
    let mut all = line.repeat(2_500_000 / line.len() + 1).into_bytes();
    all.truncate(2_500_000);
    all
}

/// The same behind tags: each line, and a newline where the last has none.
fn tagged(record: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for line in written(record).split_inclusive(|byte| *byte == b'\n') {
        all.extend_from_slice(record.as_bytes());
        all.push(b'\t');
        all.extend_from_slice(line);
    }
    if !all.ends_with(b"\n") {
        all.push(b'\n');
    }
    all
}

fn bytes(mut command: Command) -> (Option<i32>, Vec<u8>, String) {
    let output = finish(command.spawn().unwrap(), Duration::from_secs(60));
    (output.status.code(), output.stdout, text(&output.stderr))
}

/// Folders of output that waits, and what was set aside.
fn left_over(place: &Place) -> Vec<PathBuf> {
    let all = |dir: &str| fs::read_dir(place.path(dir)).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_spool = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "spool" || extension == "old");
    all("state").chain(all(".")).filter(is_spool).collect()
}

/// Returns whether these bytes are those of all records one behind the other, in whichever order.
fn is_whole(mut all: &[u8], records: &[String], form: fn(&str) -> Vec<u8>) -> bool {
    let mut left: Vec<Vec<u8>> = records.iter().map(|record| form(record)).collect();
    while let Some(at) = left.iter().position(|one| all.starts_with(one)) {
        all = &all[left.swap_remove(at).len()..];
    }
    all.is_empty() && left.is_empty()
}

fn records(count: u64) -> Vec<String> {
    (1..=count).map(|number| format!("r{number}")).collect()
}

#[test]
fn raw_output_goes_through_whole_however_large() {
    let temporary = Place::new();
    for (flags, form) in [
        (&[][..], written as fn(&str) -> Vec<u8>),
        (&["-k"], written),
        (&["--tag"], tagged),
        (&["-k", "--tag", "-j", "3"], tagged),
        (&["--durable", "off"], written),
        (&["--durable", "each"], written),
        (&["--max-output", "1", "-k"], written),
        (&["-o", "out"], written),
        (&["-o", "out", "-k", "--tag"], tagged),
        (&["-o", "out", "--emit", "raw", "--durable", "off"], written),
        (&["--save-output", "saved", "--emit", "none"], written),
    ] {
        let place = Place::new();
        let mut command = place.run();
        command.env("TMPDIR", temporary.dir.path()).args(flags);
        if flags.contains(&"-o") {
            command.args(["--emit", "raw"]);
        }
        command.args(["--summary", "text", "--progress", "none", "--shell", "--", WRITES, ":::", "r1", "r2", "r3"]);
        let (code, stdout, stderr) = bytes(command);
        assert_eq!(code, Some(0), "{flags:?}: {stderr}");
        let all = match flags[..] {
            ["-o", ..] => fs::read(place.path("out")).unwrap(),
            ["--save-output", ..] => (1..=3).flat_map(|seq| fs::read(place.path(&format!("saved/{seq}.out"))).unwrap()).collect(),
            _ => stdout,
        };
        assert!(is_whole(&all, &records(3), form), "{flags:?}: {} bytes: {stderr}", all.len());
        assert_eq!(left_over(&place), Vec::<PathBuf>::new(), "{flags:?}");
        let off = flags.contains(&"off");
        assert_eq!(stderr.contains("3 tasks wrote more than --max-output"), !off, "{flags:?}: {stderr}");
    }
    assert_eq!(fs::read_dir(temporary.dir.path()).unwrap().count(), 0, "temporary folders go");
}

#[test]
fn what_lines_of_json_do_not_keep_is_counted() {
    let place = Place::new();
    let mut command = place.run();
    command.args([
        "--emit",
        "jsonl",
        "--fields",
        "value.stdout_cut",
        "--progress",
        "json",
        "--every",
        "100ms",
        "--summary-file",
        "sum",
        "--shell",
    ]);
    // While the second one runs, progress is told of the first.
    command.args(["-j", "1", "--", "yes {} | head -c 2500000; sleep 0.5", ":::", "r1", "r2"]);
    let (code, stdout, stderr) = bytes(command);
    assert_eq!((code, text(&stdout).as_str()), (Some(0), "{\"value.stdout_cut\":1451424}\n".repeat(2).as_str()), "{stderr}");
    assert!(stderr.contains("   cut  2 tasks wrote more than --max-output 1.0MiB: 2.8MiB were thrown away\n"), "{stderr}");
    let sum: serde_json::Value = serde_json::from_str(&place.read("sum")).unwrap();
    assert_eq!(sum["cut"], serde_json::json!({ "tasks": 2, "bytes": 2_902_848, "thrown_away": 2_902_848 }));
    assert!(stderr.lines().any(|line| line.starts_with('{') && line.contains("\"cut\":1")), "{stderr}");
}

#[test]
fn standard_error_beside_raw_output_goes_through_whole() {
    let place = Place::new();
    let mut command = place.run();
    command.args(["--summary", "none", "--progress", "none", "--shell", "--", &format!("{{ {WRITES}; }} >&2"), ":::", "r1"]);
    let (code, stdout, stderr) = bytes(command);
    assert_eq!((code, stdout.len()), (Some(0), 0));
    assert!(stderr.as_bytes() == written("r1"), "{} bytes", stderr.len());
    assert_eq!(left_over(&place), Vec::<PathBuf>::new());
}

#[test]
fn the_parts_of_a_file_and_the_records_of_a_batch_are_whole_too() {
    let place = Place::new();
    let lines: String = (1..=400_000).map(|number| format!("{number:07}\n")).collect();
    place.write("big", &lines);
    for flags in [&["big", "--split", "2MiB", "-k", "--", "cat"][..], &["in", "--batch", "2", "-k", "--", "cat"]] {
        let mut command = place.run();
        place.write("in", "big\nbig\n");
        command.args(["--summary", "none", "--progress", "none"]).args(flags);
        let (code, stdout, stderr) = bytes(command);
        assert_eq!(code, Some(0), "{stderr}");
        let times = if flags[0] == "in" { 2 } else { 1 };
        assert!(stdout == lines.repeat(times).as_bytes(), "{flags:?}: {} bytes", stdout.len());
    }
}

/// Kills a run again and again until it ends by itself; every byte is in the file then, once.
fn killed(flags: &[&str], form: fn(&str) -> Vec<u8>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let all = records(6);
    place.write("in", all.iter().map(|record| format!("{record}\n")).collect::<String>());
    let command = || {
        let mut command = place.run();
        command.args(["in", "--name", "raw", "-j", "3", "-o", "out", "--emit", "raw", "--progress", "none"]).args(flags);
        command.args(["--shell", "--"]).arg(format!("sleep 0.0$LONGSHORE_SLOT; {WRITES}")).stdout(Stdio::null());
        command
    };
    let mut kills = 0;
    let code = loop {
        let mut child = command().spawn().unwrap();
        match wait(&mut child, Duration::from_millis(rng.u64(20..300 + 300 * kills))) {
            Some(status) => break status.code(),
            None => signal(&child, Signal::KILL),
        }
        child.wait().unwrap();
        kills += 1;
    };
    assert_eq!(code, Some(0), "{flags:?}, seed {seed}");
    let file = fs::read(place.path("out")).unwrap();
    let fine = if flags.contains(&"-k") {
        file == all.iter().flat_map(|record| form(record)).collect::<Vec<_>>()
    } else {
        is_whole(&file, &all, form)
    };
    assert!(fine, "{flags:?}, seed {seed}, {kills} kills: {} bytes", file.len());
    assert_eq!(left_over(&place), Vec::<PathBuf>::new(), "{flags:?}, seed {seed}");
    // Once more: nothing is left to do, and nothing is harmed.
    let (code, _, stderr) = run(&mut command());
    assert_eq!(code, 0, "{stderr}");
    let again = fs::read(place.path("out")).unwrap();
    assert!(again == file, "{flags:?}, seed {seed}: {} bytes of {}: {stderr}", again.len(), file.len());
    assert_eq!(left_over(&place), Vec::<PathBuf>::new(), "{flags:?}, seed {seed}");
}

#[test]
fn killed_runs_lose_no_byte_of_raw_output() {
    let rounds = number("LONGSHORE_RAW_ROUNDS", 1);
    let seed = number("LONGSHORE_RAW_SEED", fastrand::u64(..));
    let ways = [
        (&[][..], written as fn(&str) -> Vec<u8>),
        (&["-k"], written),
        (&["-k", "--tag"], tagged),
        (&["--tag", "--durable", "each"], tagged),
    ];
    for round in 0..rounds {
        thread::scope(|scope| {
            for (place, (flags, form)) in ways.into_iter().enumerate() {
                scope.spawn(move || killed(flags, form, seed.wrapping_add(round * 10 + place as u64)));
            }
        });
    }
}

#[test]
fn a_retry_rebuilds_the_file_with_what_only_the_file_had() {
    for flags in [&[][..], &["-k"], &["--tag"]] {
        let form = if flags.contains(&"--tag") { tagged as fn(&str) -> Vec<u8> } else { written };
        let place = Place::new();
        let command = |more: &[&str]| {
            let mut command = place.run();
            command.args(["--name", "raw", "-o", "out", "--emit", "raw", "--progress", "none"]).args(flags).args(more);
            command.args(["--shell", "--", &format!("{WRITES}; test {{}} != r2 || test -e ok"), ":::", "r1", "r2", "r3"]);
            command
        };
        assert_eq!(run(&mut command(&[])).0, 1);
        assert!(is_whole(&fs::read(place.path("out")).unwrap(), &records(3), form), "{flags:?}: a failed one is shown, too");
        assert_eq!(left_over(&place), Vec::<PathBuf>::new());
        place.write("ok", "");
        let (code, _, stderr) = run(&mut command(&["--retry-failed"]));
        assert_eq!(code, 0, "{stderr}");
        let file = fs::read(place.path("out")).unwrap();
        assert!(is_whole(&file, &records(3), form), "{flags:?}: {} bytes: {stderr}", file.len());
        assert_eq!(left_over(&place), Vec::<PathBuf>::new(), "{flags:?}");
        // A file that is gone cannot be made again whole, and that is said.
        fs::remove_file(place.path("out")).unwrap();
        let (code, _, stderr) = run(&mut command(&[]));
        assert!(code == 0 && stderr.contains("3 results of earlier sittings could not be written anew"), "{code}: {stderr}");
    }
}

#[test]
fn output_that_cannot_be_put_on_disk_stops_the_run_and_fails_nobody() {
    let place = Place::new();
    place.write("in", "r1\nr2\n");
    let command = |take: &str| {
        let mut command = place.run();
        command.args([
            "in",
            "--name",
            "full",
            "-j",
            "1",
            "--take",
            take,
            "--progress",
            "none",
            "--shell",
            "--",
            &format!("test {{}} = r1 || {WRITES}"),
        ]);
        command
    };
    assert_eq!(bytes(command("1")).0, Some(0));
    let blocked = place.journal_path().unwrap().with_extension("spool");
    fs::write(&blocked, "").unwrap();
    let (code, stdout, stderr) = bytes(command("2"));
    assert_eq!((code, stdout.len()), (Some(74), 0), "{stderr}");
    assert!(
        stderr.contains("output that is too long for the journal cannot be put beside it: ") && stderr.contains(".spool/2-1.out: "),
        "{stderr}"
    );
    assert!(stderr.contains("1 of 2 done; 1 remains"), "{stderr}");
    fs::remove_file(&blocked).unwrap();
    let (code, stdout, stderr) = bytes(command("2"));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout == written("r2"), "{} bytes", stdout.len());
}

#[test]
fn what_waits_is_rebuilt_pruned_and_started_over() {
    let place = Place::new();
    // Nobody reads: the bytes wait beside the journal when the run is killed.
    let killed = |name: &str| {
        let mut command = place.run();
        command.args(["--name", name, "--progress", "none", "--shell", "--", WRITES, ":::", "r1", "r2", "r3"]);
        let mut child = command.spawn().unwrap();
        let _reader = child.stdout.take();
        let journal = || place.journal_path().map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
        until("the results", Duration::from_secs(20), || {
            let journal = journal();
            journal.contains(&format!("\"name\":\"{name}\"")) && journal.matches("\"spool\":{").count() == 3
        });
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        assert_eq!(left_over(&place).len(), 1, "{name}");
    };
    let ends_well = |words: &[&str]| {
        let (code, _, stderr) = bytes({
            let mut command = place.run();
            command.args(words);
            command
        });
        assert_eq!(code, Some(0), "{words:?}: {stderr}");
    };
    killed("rebuilt");
    ends_well(&["--resume", "rebuilt", "-o", "out", "--emit", "raw"]);
    assert!(is_whole(&fs::read(place.path("out")).unwrap(), &records(3), written));
    assert_eq!(left_over(&place), Vec::<PathBuf>::new());
    killed("over");
    ends_well(&["--name", "over", "--fresh", "--summary", "none", "--shell", "--", "true", ":::", "r1"]);
    assert_eq!(left_over(&place), Vec::<PathBuf>::new());
    killed("pruned");
    // Finished, but stdout never had them.
    ends_well(&["--resume", "pruned"]);
    assert_eq!(left_over(&place).len(), 1);
    let mut prune = Command::new(common::BIN);
    let prune = prune
        .args(["jobs", "prune", "--older-than", "0s", "--state-dir"])
        .arg(place.path("state"))
        .env("HOME", place.dir.path())
        .output()
        .unwrap();
    assert!(prune.status.success(), "{}", text(&prune.stderr));
    assert_eq!(left_over(&place), Vec::<PathBuf>::new());
}

#[test]
fn output_of_a_command_that_is_ended_is_shown_as_far_as_it_came() {
    let late = format!("{WRITES}; sleep 60");
    let killed = format!("{WRITES}; kill -9 $$");
    for (command, flags, form) in [
        (&late, &["-t", "1s"][..], written as fn(&str) -> Vec<u8>),
        (&late, &["-t", "1s", "-o", "out", "--emit", "raw"], written),
        (&late, &["-t", "1s", "--durable", "off", "--kill-after", "0s"], written),
        (&killed, &["--tag", "-k"], tagged),
        (&killed, &["--retries", "1", "--backoff", "fixed:1ms"], written),
        (&killed, &["--retries", "1", "--give-up-after", "1ms"], written),
        (&killed, &["--save-output", "saved", "--emit", "none"], written),
    ] {
        let place = Place::new();
        let mut run = place.run();
        run.args(["--progress", "none", "--summary", "none"]).args(flags).args(["--shell", "--", command, ":::", "r1", "r2"]);
        let (code, stdout, stderr) = bytes(run);
        let all = match flags {
            [.., "-o", _, _, _] => fs::read(place.path("out")).unwrap(),
            [.., "--emit", _] => (1..=2).flat_map(|seq| fs::read(place.path(&format!("saved/{seq}.out"))).unwrap()).collect(),
            _ => stdout,
        };
        assert_eq!(code, Some(1), "{command} {flags:?}: {stderr}");
        assert!(is_whole(&all, &records(2), form), "{command} {flags:?}: {} bytes: {stderr}", all.len());
        assert_eq!(left_over(&place), Vec::<PathBuf>::new(), "{command} {flags:?}");
    }
    // What it said last stands in its result, as that of a command that fails by itself.
    let place = Place::new();
    let mut command = place.run();
    command.args(["--emit", "jsonl", "--fields", "outcome,error.tail", "--shell", "--", "echo so far >&2; kill -9 $$", ":::", "r1"]);
    assert_eq!(run(&mut command).1, "{\"outcome\":\"killed\",\"error.tail\":\"so far\"}\n");
}

#[test]
fn the_temporary_output_of_a_run_that_was_killed_goes_with_the_next_one() {
    let (place, temporary) = (Place::new(), Place::new());
    let folders = || fs::read_dir(temporary.dir.path()).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let command = |script: &str| {
        let mut command = place.run();
        command.env("TMPDIR", temporary.dir.path()).args(["--durable", "off", "--progress", "none", "--summary", "none"]);
        command.args(["--shell", "--", script, ":::", "r1"]);
        command
    };
    let start = || {
        let before = folders();
        let child = command(&format!("{WRITES}; sleep 60")).spawn().unwrap();
        let begun = || {
            folders().into_iter().find(|folder| !before.contains(folder) && fs::read_dir(folder).is_ok_and(|mut all| all.next().is_some()))
        };
        until("its temporary file", Duration::from_secs(20), || begun().is_some());
        (child, begun().unwrap())
    };
    let (mut dies, deserted) = start();
    let (mut lives, used) = start();
    signal(&dies, Signal::KILL);
    dies.wait().unwrap();
    assert!(deserted.exists() && used.exists());
    // A folder of the same kind that is somebody else's business: a link.
    std::os::unix::fs::symlink(place.dir.path(), temporary.path("longshore-spool-link")).unwrap();
    assert_eq!(bytes(command(WRITES)).0, Some(0));
    assert!(!deserted.exists() && used.exists() && place.dir.path().exists());
    signal(&lives, Signal::KILL);
    lives.wait().unwrap();
}

/// Lines of stdout that are shown while commands run, by the record and the attempt that they
/// are of.
fn live_lines(shown: &[u8]) -> BTreeMap<(String, u64), Vec<String>> {
    let mut all = BTreeMap::<_, Vec<String>>::new();
    for line in text(shown).split_inclusive('\n') {
        let (tag, said) = line.strip_suffix('\n').and_then(|line| line.split_once('\t')).unwrap_or_else(|| panic!("torn: {line:?}"));
        let (record, attempt) = tag.strip_suffix(')').and_then(|tag| tag.split_once(" (attempt ")).unwrap_or((tag, "1"));
        all.entry((record.to_owned(), attempt.parse().unwrap())).or_default().push(said.to_owned());
    }
    all
}

#[test]
fn whatever_is_killed_lines_of_finished_commands_have_been_shown_and_are_not_shown_again() {
    let seed = number("LONGSHORE_LIVE_SEED", fastrand::u64(..));
    println!("LONGSHORE_LIVE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let wrote: Vec<String> = (1..=3000).map(|n| format!("{n} of a line")).collect();
    for _ in 0..number("LONGSHORE_LIVE_ROUNDS", 4) {
        let place = Place::new();
        let mut shown = BTreeMap::<(String, u64), Vec<String>>::new();
        for sitting in 1.. {
            let mut command = place.run();
            command.args(["--name", "live", "-j", "3", "--line-buffer", "--tag", "--progress", "none", "--summary", "none", "--shell"]);
            command.args(["--", "seq -f '%g of a line' 1 3000; sleep 0.0{}", ":::"]).args((1..=15).map(|n| n.to_string()));
            let mut child = command.spawn().unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let reader = thread::spawn(move || {
                let mut all = Vec::new();
                std::io::Read::read_to_end(&mut stdout, &mut all).map(|_| all).unwrap()
            });
            let ended = wait(&mut child, Duration::from_micros(rng.u64(0..(150_000 * sitting))));
            if ended.is_none() {
                signal(&child, Signal::KILL);
                child.wait().unwrap();
            }
            let mut read = reader.join().unwrap();
            // What a kill cut short is torn.
            read.truncate(read.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
            for (key, lines) in live_lines(&read) {
                assert_eq!(shown.insert(key.clone(), lines), None, "{key:?} twice");
            }
            let Some(path) = place.journal_path() else { continue };
            let journal = common::Journal::read(&path);
            for (seq, results) in &journal.results {
                let attempts = results[0]["attempts"].as_u64().unwrap();
                assert_eq!(shown.get(&(seq.to_string(), attempts)), Some(&wrote), "task {seq}, sitting {sitting}");
                assert!(shown.keys().all(|(record, attempt)| *record != seq.to_string() || *attempt <= attempts), "task {seq} again");
            }
            if let Some(status) = ended {
                assert_eq!((status.code(), journal.results.len()), (Some(0), 15));
                break;
            }
        }
    }
}

#[test]
fn a_slow_reader_of_lines_holds_the_commands_up_and_fills_no_memory() {
    let place = Place::new();
    let mut command = place.run();
    command.args(["--line-buffer", "--progress", "none", "--summary", "none", "--max-output", "1KiB", "--shell", "--"]);
    command.args(["yes | head -c 50000000; until [ -e {} ]; do sleep 0.01; done", ":::", "go"]);
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Time in which it could read all of it.
    thread::sleep(Duration::from_millis(500));
    let mut all = vec![0; 50_000_000];
    std::io::Read::read_exact(&mut stdout, &mut all).unwrap();
    assert!(all.chunks(2).all(|line| line == b"y\n"));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    // A build for tests takes 45.5 MiB before it has read anything.
    assert!(peak < 64 << 10, "{peak} KiB");
    place.write("go", "");
    assert_eq!(wait(&mut child, Duration::from_secs(20)).and_then(|status| status.code()), Some(0));
}

#[test]
fn commands_whose_lines_nobody_reads_have_not_run() {
    // A reader that goes away, and one that stays and reads nothing until the run is interrupted.
    for stays in [false, true] {
        let place = Place::new();
        let command = || {
            let mut command = place.run();
            command.args(["--name", "job", "-j", "2", "--line-buffer", "--progress", "none", "--summary", "none", "--shell", "--"]);
            command.args(["yes {} | head -c 3000000", ":::", "aaa", "bbb"]);
            command
        };
        let mut child = command().spawn().unwrap();
        let reader = child.stdout.take();
        until("the start", Duration::from_secs(20), || {
            place.journal_path().is_some_and(|path| fs::read_to_string(path).unwrap().contains("\"start\":2"))
        });
        if stays {
            for _ in 0..3 {
                signal(&child, Signal::INT);
                thread::sleep(Duration::from_millis(50));
            }
        } else {
            drop(reader);
        }
        let status = wait(&mut child, Duration::from_secs(30)).and_then(|status| status.code());
        assert_eq!(status, Some(if stays { 74 } else { 141 }));
        let (code, stdout, stderr) = bytes(command());
        assert_eq!((code, stdout.len()), (Some(0), 6_000_000), "{stderr}");
    }
}
