//! The kill test: runs that are killed at random instants and resumed until they end by themselves.
//!
//! Each command writes what it does to a ledger of its own, which is compared with the journal and
//! the output. `LONGSHORE_KILL_ROUNDS` sets the number of rounds, `LONGSHORE_KILL_SEED` repeats one
//! seed's instants.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Journal, Place, alive_with, number, results, signal, signal_group, until, wait};
use rustix::process::Signal;

const TASKS: u64 = 40;
const WIDE: u64 = 4;

/// The records in a call with `--batch 3`.
const BATCH: u64 = 3;

/// Each word is a task. Every seventh leaves a child in the background that would write later;
/// every fifth ignores SIGTERM; some fail.
const TASK: &str = r#"
say() { echo "$*" >>"$LEDGER"; }
code=0
for task; do
set -- $task
say start $1 $LONGSHORE_ATTEMPT $$ $SITTING
if [ $(($1 % 7)) = 0 ]; then (sleep 1.$(($1 % 10)); say orphan $1 0 0 $SITTING) & fi
if [ $(($1 % 11)) = 0 ]; then (sleep 1.$(($1 % 10)); say orphan $1 0 0 $SITTING) >/dev/null 2>&1 & fi
if [ $(($1 % 5)) = 0 ]; then trap '' TERM; fi
sleep $2
say end $1 $LONGSHORE_ATTEMPT $$ $SITTING
code=$3
done
exit $code"#;

#[derive(Default, Debug)]
struct Totals {
    rounds: u64,
    /// Those with `--batch`, and the calls that several records shared.
    batch_rounds: u64,
    shared_calls: u64,
    tasks: u64,
    kills: u64,
    group_kills: u64,
    lost: u64,
    finished_again: u64,
    repeated: u64,
    /// Those of them whose command had ended a moment before the kill.
    ended_unwritten: u64,
    overlaps: u64,
    orphans: u64,
    /// The longest time from a kill to the end of all that it left, and how often it was more than
    /// 300 ms.
    slowest_end: Duration,
    late_ends: u64,
    torn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    kind: char,
    id: u64,
    attempt: u64,
    sitting: u64,
}

fn ledger(place: &Place) -> Vec<Line> {
    let text = place.read("ledger");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse().unwrap_or_else(|_| panic!("{line:?}"));
            Line { kind: line.chars().next().unwrap(), id: number(1), attempt: number(2), sitting: number(4) }
        })
        .collect()
}

/// One job, killed until it ends. The place is returned, because what must not be written later is
/// looked for later.
fn round(number: u64, seed: u64, totals: &Mutex<Totals>) -> Place {
    let mut rng = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let script = place.script("task.sh", TASK);
    let failing = if number.is_multiple_of(3) { 13 } else { 0 };
    let jsonl = !number.is_multiple_of(4);
    let mut input = String::new();
    for id in 1..=TASKS {
        let (ms, code) = (rng.u64(5..=50), u8::from(id == failing));
        input += &if jsonl { format!("{{\"id\":{id},\"s\":\"0.{ms:03}\",\"code\":{code}}}\n") } else { format!("{id} 0.{ms:03} {code}\n") };
    }
    let input = place.write(if jsonl { "in.jsonl" } else { "in.txt" }, input);
    let extra: &[&str] = match number % 5 {
        0 => &["-k"],
        1 => &["--durable", "each"],
        2 => &["--durable", "batch:5ms"],
        _ => &[],
    };
    // Not where a task fails, for that fails its whole call.
    let batch: &[&str] = match number % 6 {
        1 => &["--batch", "3"],
        4 => &["--batch", "auto"],
        _ => &[],
    };
    let command = |sitting: u64| {
        let mut command = place.run();
        command
            .arg(&input)
            .args(["--name", "kill", "-j", &WIDE.to_string(), "-o", "out.jsonl", "--progress", "none"])
            .args(extra)
            .args(batch);
        if jsonl {
            command.arg("--").arg(&script).arg("{id} {s} {code}");
        } else {
            command.arg("--").arg(&script);
        }
        command.env("LEDGER", place.path("ledger")).env("SITTING", sitting.to_string());
        command.stdout(std::process::Stdio::null()).stderr(fs::File::create(place.path("stderr")).unwrap());
        command.process_group(0);
        command
    };
    let mark = |sitting: u64| (format!("LEDGER={}", place.path("ledger").display()), format!("SITTING={sitting}"));
    let left_over = |sitting: u64| {
        let (ours, sitting) = mark(sitting);
        let of_sitting: BTreeSet<i32> = alive_with(&sitting).into_iter().map(|(pid, _)| pid).collect();
        let mut found = alive_with(&ours);
        // The guardian itself carries the environment too, and may look around for a moment longer.
        found.retain(|(pid, words)| of_sitting.contains(pid) && !words.contains("__guardian"));
        found
    };

    // At each kill: what the journal has as finished, and as running.
    let (mut finished_at, mut running_at) = (Vec::<BTreeSet<u64>>::new(), Vec::<BTreeSet<u64>>::new());
    let mut torn = 0;
    let mut orphans = Vec::new();
    let (mut group_kills, mut late_ends, mut slowest_end) = (0, 0, Duration::ZERO);
    let code = loop {
        let sitting = finished_at.len() as u64 + 1;
        assert!(sitting < 60, "seed {seed}: no end");
        let mut child = command(sitting).spawn().unwrap();
        let by_group = rng.bool();
        // Later and later, so that it ends.
        let instant = Duration::from_micros(rng.u64(0..(250_000 + sitting * 60_000)));
        if let Some(status) = wait(&mut child, instant) {
            break status.code().unwrap_or_else(|| panic!("seed {seed}: {status:?}: {}", place.read("stderr")));
        }
        if by_group {
            group_kills += 1;
            signal_group(&child, Signal::KILL);
        } else {
            signal(&child, Signal::KILL);
        }
        let status = child.wait().unwrap();
        if status.signal().is_none() {
            break status.code().unwrap();
        }
        let journal = place.journal_path().map(|path| Journal::read(&path)).unwrap_or_default();
        torn += u64::from(journal.torn);
        let finished: BTreeSet<u64> = journal.results.keys().copied().collect();
        running_at.push(journal.starts.keys().filter(|seq| !finished.contains(seq)).copied().collect());
        finished_at.push(finished);
        if rng.bool() {
            // Usually nothing is left after a few hundredths of a second; a machine with much to do
            // may need more. Whatever takes longer, the next sitting waits for it: that is what the
            // order of the ledger's lines shows below.
            let began = Instant::now();
            thread::sleep(Duration::from_millis(60));
            while began.elapsed() < Duration::from_secs(3) && !left_over(sitting).is_empty() {
                thread::sleep(Duration::from_millis(20));
            }
            slowest_end = slowest_end.max(began.elapsed());
            late_ends += u64::from(began.elapsed() > Duration::from_millis(300));
            orphans.extend(left_over(sitting));
        }
    };
    let kills = finished_at.len() as u64;
    let fail = |what: &str| -> ! { panic!("seed {seed}, round {number}: {what}\n{}\n{}", place.read("stderr"), place.read("ledger")) };
    if code != i32::from(failing > 0) {
        fail(&format!("it ended with {code}"));
    }
    if !orphans.is_empty() {
        fail(&format!("processes of a killed run: {orphans:?}"));
    }

    // The ledger against what the journal said at the kills.
    let lines = ledger(&place);
    let (mut again, mut repeated, mut overlaps, mut latest) = (0, 0, 0, 0);
    let (mut ended_unwritten, mut ended_before) = (0, BTreeSet::new());
    let mut last_attempt = BTreeMap::<u64, (u64, u64)>::new();
    for line in &lines {
        if line.sitting < latest {
            overlaps += 1;
            eprintln!("seed {seed}: {line:?} after sitting {latest} had begun");
        }
        latest = latest.max(line.sitting);
        if line.kind == 'e' {
            ended_before.insert((line.id, line.attempt));
        }
        if line.kind == 's' {
            if let Some((attempt, sitting)) = last_attempt.insert(line.id, (line.attempt, line.sitting)) {
                repeated += 1;
                ended_unwritten += u64::from(ended_before.contains(&(line.id, attempt)));
                if line.attempt <= attempt {
                    fail(&format!("attempt {} after {attempt}: {line:?}", line.attempt));
                }
                let killed = &running_at[(sitting - 1) as usize..(line.sitting - 1) as usize];
                if killed.is_empty() || !killed[0].contains(&line.id) {
                    fail(&format!("it was not running at a kill: {line:?}"));
                }
            }
            if finished_at[..(line.sitting - 1) as usize].iter().any(|finished| finished.contains(&line.id)) {
                again += 1;
            }
        }
    }
    // A slot is free when the result of its last call is in the journal, so a kill meets no more
    // unwritten ones than run at once.
    let together = match batch {
        [] => 1,
        [_, "auto"] => TASKS,
        _ => BATCH,
    };
    if repeated > WIDE * kills * together {
        fail(&format!("{repeated} repeated after {kills} kills"));
    }
    let journal = place.journal();
    for (seq, attempts) in &journal.starts {
        if *attempts != (1..=attempts.len() as u64).collect::<Vec<_>>() {
            fail(&format!("attempts of task {seq}: {attempts:?}"));
        }
    }
    if !journal.started_again.is_empty() || journal.results.values().any(|lines| lines.len() > 1) {
        fail("the journal has a finished task again");
    }
    let ended: BTreeSet<u64> = lines.iter().filter(|line| line.kind == 'e').map(|line| line.id).collect();
    let lost = (1..=TASKS).filter(|id| !journal.results.contains_key(id) || !ended.contains(id)).count() as u64;
    let shown = results(&place.path("out.jsonl"));
    if shown.keys().copied().collect::<Vec<_>>() != (1..=TASKS).collect::<Vec<_>>() {
        fail(&format!("the output holds {:?}", shown.keys()));
    }
    for (seq, value) in &shown {
        if value != &journal.results[seq][0] || value["outcome"] != if *seq == failing { "failed" } else { "ok" } {
            fail(&format!("the output says {value}"));
        }
    }

    // Once more: nothing happens.
    let (before, output) = (lines.len(), fs::read(place.path("out.jsonl")).unwrap());
    let status = command(kills + 2).status().unwrap();
    if status.code() != Some(code) || ledger(&place).len() != before || fs::read(place.path("out.jsonl")).unwrap() != output {
        fail(&format!("a further run: {status:?}"));
    }
    let mut totals = totals.lock().unwrap();
    totals.rounds += 1;
    totals.batch_rounds += u64::from(!batch.is_empty());
    totals.shared_calls += journal.results.values().filter(|lines| lines[0]["call"] == lines[0]["seq"]).count() as u64;
    totals.tasks += TASKS;
    totals.kills += kills;
    totals.group_kills += group_kills;
    totals.lost += lost;
    totals.finished_again += again;
    totals.repeated += repeated;
    totals.ended_unwritten += ended_unwritten;
    totals.overlaps += overlaps;
    totals.torn += torn;
    totals.late_ends += late_ends;
    totals.slowest_end = totals.slowest_end.max(slowest_end);
    place
}

#[test]
fn killed_runs_lose_nothing_and_repeat_only_what_was_running() {
    let rounds = number("LONGSHORE_KILL_ROUNDS", 20);
    let seed = number("LONGSHORE_KILL_SEED", fastrand::u64(..));
    println!("kill test: {rounds} rounds, LONGSHORE_KILL_SEED={seed}");
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(0);
    let places = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        return;
                    }
                    let place = round(number, seed.wrapping_add(number), &totals);
                    places.lock().unwrap().push(place);
                }
            });
        }
    });
    // The last that a background child could still have to say comes after two seconds.
    thread::sleep(Duration::from_millis(2100));
    let mut totals = totals.into_inner().unwrap();
    for place in places.lock().unwrap().iter() {
        totals.orphans += ledger(place).iter().filter(|line| line.kind == 'o').count() as u64;
        until("the end of every process", Duration::from_secs(5), || {
            alive_with(&format!("LEDGER={}", place.path("ledger").display())).is_empty()
        });
    }
    println!("kill test: {totals:?}");
    assert_eq!((totals.lost, totals.finished_again, totals.overlaps, totals.orphans), (0, 0, 0, 0));
    assert!(rounds < 5 || totals.shared_calls > 0, "no call had several records");
}
