//! Signals: what ends, how, with which exit code, and that the next run goes on from there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Journal, Place, alive_with, finish, lives, number, run, signal, signal_group, text, until, wait};
use rustix::process::{Pid, Signal, kill_process};

const SECOND: Duration = Duration::from_secs(1);

/// A job of `tasks` commands that run for `$MS` thousandths of a second, four at once. What a
/// command does on SIGTERM is `$TRAP`.
struct Job {
    place: Place,
    input: std::path::PathBuf,
    script: std::path::PathBuf,
}

impl Job {
    fn new(tasks: u64, body: &str) -> Self {
        let place = Place::new();
        let input = place.write("in", (1..=tasks).map(|id| format!("{id}\n")).collect::<String>());
        let head = "say() { echo \"$*\" >>\"$LEDGER\"; }\nsay start $1 $LONGSHORE_ATTEMPT $$\n";
        let script = place.script("task.sh", &format!("{head}{body}\nsay end $1 $LONGSHORE_ATTEMPT $$"));
        Self { place, input, script }
    }

    fn command(&self, flags: &[&str]) -> std::process::Command {
        let mut command = self.place.run();
        command.arg(&self.input).args(["--name", "job", "-j", "4", "--progress", "none"]);
        command
            .args(if flags.contains(&"--summary") { &[][..] } else { &["--summary", "none"] })
            .args(flags)
            .arg("--")
            .arg(&self.script)
            .env("LEDGER", self.place.path("ledger"));
        command
    }

    fn count(&self, word: &str) -> usize {
        self.place.read("ledger").lines().filter(|line| line.starts_with(word)).count()
    }

    /// A run of which `running` tasks have started.
    fn started(&self, running: usize, flags: &[&str]) -> Child {
        let child = self.command(flags).spawn().unwrap();
        until("the start of the tasks", 10 * SECOND, || self.count("start") >= running);
        child
    }

    /// Resumes to the end, with commands that end at once, and looks whether every task is there
    /// once.
    fn resume(&self, tasks: u64, flags: &[&str]) {
        let (code, _, stderr) = run(self.command(flags).env("QUICK", "1"));
        assert_eq!(code, 0, "{stderr}");
        let journal = self.place.journal();
        assert!((1..=tasks).all(|seq| journal.outcome(seq) == "ok"), "{:?}", journal.results.keys());
        assert!(journal.results.values().all(|lines| lines.len() == 1) && journal.started_again.is_empty());
        for attempts in journal.starts.values() {
            assert_eq!(*attempts, (1..=attempts.len() as u64).collect::<Vec<_>>());
        }
        assert_eq!(alive_with(&format!("LEDGER={}", self.place.path("ledger").display())), []);
    }
}

const SLEEP: &str = "[ -n \"$QUICK\" ] || sleep 0.4";

#[test]
fn one_interrupt_waits_for_what_runs_and_resuming_repeats_nothing() {
    let job = Job::new(12, SLEEP);
    let child = job.started(4, &["-o", "out.jsonl"]);
    signal(&child, Signal::INT);
    let output = finish(child, 10 * SECOND);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!((job.count("start"), job.count("end")), (4, 4));
    assert_eq!(job.place.journal().results.len(), 4);
    job.resume(12, &["-o", "out.jsonl"]);
    assert_eq!((job.count("start"), job.count("end")), (12, 12), "nothing is repeated");
    assert_eq!(common::results(&job.place.path("out.jsonl")).len(), 12);
}

#[test]
fn two_interrupts_end_the_children_by_term() {
    let job = Job::new(8, "trap 'say term $1; kill $!; exit 0' TERM\n[ -n \"$QUICK\" ] || { sleep 30 & wait $!; }");
    let child = job.started(4, &[]);
    signal(&child, Signal::INT);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(job.count("term"), 0);
    let began = Instant::now();
    signal(&child, Signal::INT);
    let output = finish(child, 10 * SECOND);
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!((job.count("term"), job.count("end")), (4, 0));
    assert_eq!(job.place.journal().results.len(), 0, "what we ended is not finished");
    job.resume(8, &[]);
    assert_eq!(job.count("start"), 12);
}

#[test]
fn three_interrupts_kill_what_ignores_term_within_a_second() {
    let job = Job::new(8, "trap '' TERM INT\n[ -n \"$QUICK\" ] || { sleep 30; sleep 30; }");
    let child = job.started(4, &[]);
    // Signals that come together are heard as one.
    for _ in 0..2 {
        signal(&child, Signal::INT);
        thread::sleep(Duration::from_millis(300));
    }
    let began = Instant::now();
    signal(&child, Signal::INT);
    let output = finish(child, 10 * SECOND);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(job.place.journal().results.len(), 0);
    job.resume(8, &[]);
}

#[test]
fn sigterm_drains_then_ends_after_the_grace() {
    let job = Job::new(8, "trap 'say term $1; kill $!; exit 1' TERM\n[ -n \"$QUICK\" ] || { sleep 30 & wait $!; }");
    let child = job.started(4, &["--grace", "400ms"]);
    let began = Instant::now();
    signal(&child, Signal::TERM);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(job.count("term"), 0, "within the grace they are left alone");
    let output = finish(child, 10 * SECOND);
    assert!((Duration::from_millis(400)..2 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert_eq!((job.count("start"), job.count("term")), (4, 4));
    job.resume(8, &[]);
}

#[test]
fn sigterm_lets_what_runs_end_within_the_grace() {
    let job = Job::new(8, SLEEP);
    let child = job.started(4, &["--grace", "30s"]);
    signal(&child, Signal::TERM);
    let output = finish(child, 10 * SECOND);
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert_eq!((job.count("start"), job.count("end")), (4, 4));
    job.resume(8, &[]);
    assert_eq!(job.count("start"), 8);
}

#[test]
fn sigterm_kills_what_ignores_it_after_the_second_patience() {
    let job = Job::new(4, "trap '' TERM\n[ -n \"$QUICK\" ] || { sleep 30; sleep 30; }");
    let child = job.started(4, &["--grace", "200ms", "--kill-after", "200ms"]);
    let began = Instant::now();
    signal(&child, Signal::TERM);
    let output = finish(child, 10 * SECOND);
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    job.resume(4, &[]);
}

#[test]
fn a_run_whose_tasks_all_ended_is_complete_whatever_signal_came() {
    for signals in [Signal::INT, Signal::TERM] {
        let job = Job::new(4, SLEEP);
        let child = job.started(4, &[]);
        signal(&child, signals);
        let output = finish(child, 10 * SECOND);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let journal = job.place.journal();
        assert_eq!(journal.ends.last().unwrap()["complete"], true);
    }
}

#[test]
fn a_second_run_of_the_job_is_refused_with_the_first_ones_pid() {
    let job = Job::new(4, SLEEP);
    let child = job.started(4, &[]);
    let (code, stdout, stderr) = run(&mut job.command(&[]));
    assert_eq!((code, stdout.as_str()), (75, ""), "{stderr}");
    assert!(stderr.contains(&format!("pid {}", child.id())), "{stderr}");
    assert_eq!(finish(child, 10 * SECOND).status.code(), Some(0));
    job.resume(4, &[]);
    assert_eq!(job.count("start"), 4);
}

#[test]
fn a_reader_that_goes_away_ends_the_run_without_a_word() {
    let job = Job::new(400, "echo line $1; [ -n \"$QUICK\" ] || sleep 0.01");
    let mut child = job.command(&["--summary", "text"]).spawn().unwrap();
    let mut first = [0u8; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // Its stdout is closed now.
    let output = finish(child, 10 * SECOND);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""));
    assert!(job.count("start") < 400);
    job.resume(400, &["--emit", "none"]);
}

#[test]
fn sigusr1_lists_what_runs() {
    let job = Job::new(4, "echo hello; echo step $1 of 9; sleep 0.8");
    let child = job.started(4, &["--emit", "none"]);
    thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::USR1);
    let output = finish(child, 10 * SECOND);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for id in 1..=4 {
        let line = stderr.lines().find(|line| line.contains(&format!("#{id} "))).unwrap_or_else(|| panic!("no #{id} in {stderr}"));
        assert!(line.contains("attempt 1") && line.contains(&format!("step {id} of 9")) && line.contains("ms"), "{line}");
    }
}

/// More than the pipe, the output's queue and the turn of the journal take.
fn large() -> Job {
    Job::new(60, "[ -n \"$QUICK\" ] || head -c 1000000 /dev/zero | tr '\\000' x")
}

#[test]
fn a_reader_that_reads_nothing_does_not_keep_an_interrupted_run() {
    let job = large();
    let mut child = job.command(&["--max-output", "1MiB"]).spawn().unwrap();
    let stdout = child.stdout.take();
    // The queue fills up, and the run comes to a halt.
    let mut before = 0;
    until("the halt", 20 * SECOND, || {
        thread::sleep(Duration::from_millis(400));
        let now = job.count("end");
        now > 0 && std::mem::replace(&mut before, now) == now
    });
    // Signals that come together are heard as one, so they are sent one by one until the run ends:
    // with the third it gives the reader up.
    let began = Instant::now();
    while common::wait(&mut child, 500 * SECOND / 1000).is_none() && began.elapsed() < 15 * SECOND {
        signal(&child, Signal::INT);
    }
    let output = finish(child, SECOND);
    assert!(matches!(output.status.code(), Some(74 | 130)), "{:?} {}", output.status, text(&output.stderr));
    drop(stdout);
}

#[test]
fn a_reader_that_reads_nothing_does_not_keep_a_finished_run_that_is_interrupted() {
    let job = Job::new(4, "head -c 1000000 /dev/zero | tr '\\000' x");
    let mut child = job.command(&["--max-output", "1MiB"]).spawn().unwrap();
    let stdout = child.stdout.take();
    until("the end of the tasks", 10 * SECOND, || job.count("end") == 4);
    thread::sleep(Duration::from_millis(500));
    assert!(lives(child.id().cast_signed()), "it waits for its reader");
    let began = Instant::now();
    signal(&child, Signal::INT);
    let output = finish(child, 10 * SECOND);
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
    assert!(matches!(output.status.code(), Some(74 | 130)), "{:?} {}", output.status, text(&output.stderr));
    drop(stdout);
    assert_eq!(job.place.journal().results.len(), 4, "the journal has them all");
}

#[test]
fn pipe_children_that_do_not_want_to_end_are_ended_by_interrupts() {
    let place = Place::new();
    let child = place.script("child.sh", "trap '' TERM INT\nwhile read -r x; do echo $x; done\necho >\"$MARK\"\nwhile :; do sleep 1; done");
    let mut command = place.run();
    command.args(["--pipe", child.to_str().unwrap(), "-j", "2", "--summary", "none", ":::", "1", "2", "3", "4"]);
    command.env("MARK", place.path("mark")).stdout(Stdio::null());
    let run = command.spawn().unwrap();
    until("the end of the children's input", 10 * SECOND, || place.path("mark").exists());
    let began = Instant::now();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(50));
        signal(&run, Signal::INT);
    }
    let output = finish(run, 20 * SECOND);
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(alive_with(&format!("MARK={}", place.path("mark").display())), []);
}

/// Sends a signal to everything that belongs to a run, as systemd does to a control group: to the
/// runner first, or last, or to its group on the way.
fn signal_all(child: &Child, mark: &str, which: Signal, rng: &mut fastrand::Rng) {
    let runner = child.id().cast_signed();
    let mut all: Vec<i32> = alive_with(mark).into_iter().map(|(pid, _)| pid).filter(|pid| *pid != runner).collect();
    rng.shuffle(&mut all);
    let order = rng.u8(0..3);
    if order == 0 {
        signal_group(child, which);
    }
    for (place, pid) in all.iter().enumerate() {
        if order == 1 && place == all.len() / 2 {
            signal_group(child, which);
        }
        // Some have ended meanwhile.
        let _ = kill_process(Pid::from_raw(*pid).unwrap(), which);
    }
    if order == 2 || (order == 1 && all.is_empty()) {
        signal_group(child, which);
    }
}

/// Each record is a task that takes so many milliseconds; every third is a shell that waits for
/// another program.
const REACHED: &str = "if [ $(($1 % 3)) = 0 ]; then sleep $2; else exec sleep $2; fi";

#[test]
fn what_a_signal_to_everything_ends_is_run_again_and_nothing_fails() {
    let rounds = number("LONGSHORE_SIGNAL_ROUNDS", 6);
    let seed = number("LONGSHORE_SIGNAL_SEED", fastrand::u64(..));
    println!("signals to everything: {rounds} rounds each of TERM and INT, LONGSHORE_SIGNAL_SEED={seed}");
    let (mut signalled, mut cut_off) = (0, 0);
    for round in 0..2 * rounds {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(round));
        let which = if round % 2 == 0 { Signal::TERM } else { Signal::INT };
        let place = Place::new();
        let tasks: String = (1..=24).map(|id| format!("{id} 0.{:03}\n", rng.u64(10..=500))).collect();
        let (input, script) = (place.write("in", tasks), place.script("task.sh", &format!("set -- $1; {REACHED}")));
        let mark = format!("LEDGER={}", place.path("ledger").display());
        let mut sittings = 0;
        loop {
            sittings += 1;
            let started = || place.journal_path().map_or(0, |path| Journal::read(&path).starts.values().map(Vec::len).sum::<usize>());
            let before = started();
            let mut command = place.run();
            command.arg(&input).args(["--name", "all", "-j", "8", "--progress", "none", "--emit", "none", "--"]).arg(&script);
            let mut child = command.env("LEDGER", place.path("ledger")).process_group(0).spawn().unwrap();
            // Later and later, so that it ends.
            let ended = wait(&mut child, Duration::from_millis(rng.u64(30..300 + 300 * sittings)));
            if ended.is_none() {
                signal_all(&child, &mark, which, &mut rng);
                signalled += 1;
            }
            let output = finish(child, 60 * SECOND);
            let said = format!("seed {seed}, round {round}, {which:?}, {:?}: {}", output.status, text(&output.stderr));
            match output.status.code() {
                Some(0) => break,
                Some(130 | 143) => {}
                // So early that it did not hear signals yet: then it has started nothing.
                None => assert_eq!(started(), before, "{said}"),
                Some(_) => panic!("{said}"),
            }
            assert!(sittings < 40, "{said}");
        }
        let journal = place.journal();
        let outcomes: Vec<&str> = (1..=24).map(|seq| journal.outcome(seq)).collect();
        assert!(outcomes.iter().all(|outcome| *outcome == "ok"), "seed {seed}, round {round}: {outcomes:?}");
        cut_off += journal.starts.values().filter(|attempts| attempts.len() > 1).count();
    }
    println!("signals to everything: {signalled} signals, {cut_off} tasks that were cut off and ran again");
    assert!(rounds < 3 || cut_off > 0, "no signal met a command");
}

/// Its state in /proc: `T` is stopped.
fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn ctrl_z_stops_the_commands_too_and_the_time_until_fg_is_nobodys() {
    let job = Job::new(1, "for tick in $(seq 20); do say tick; sleep 0.05; done");
    // A group of its own in our session, as a shell gives it: somebody is there to let it go on.
    let mut child = job.command(&["--timeout", "5s", "-o", "out.jsonl"]).process_group(0).spawn().unwrap();
    until("the first tick", 10 * SECOND, || job.count("tick") > 0);
    let command: i32 = job.place.read("ledger").lines().next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    signal(&child, Signal::TSTP);
    let all_stopped = || [child.id().cast_signed(), command].map(state) == [Some('T'); 2];
    until("both to stop", 10 * SECOND, all_stopped);
    let ticks = job.count("tick");
    // Longer than the limit of an attempt.
    thread::sleep(6 * SECOND);
    assert!(all_stopped());
    assert_eq!(job.count("tick"), ticks);
    signal(&child, Signal::CONT);
    let status = wait(&mut child, 20 * SECOND).expect("an end");
    assert_eq!(status.code(), Some(0));
    assert_eq!(job.count("tick"), 20);
    let results = common::results(&job.place.path("out.jsonl"));
    assert!(results[&1]["run_ms"].as_u64().unwrap() < 5000, "{results:?}");
}

#[test]
fn what_was_typed_before_the_view_is_drawn_is_no_key() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        eprintln!("no script(1), so no terminal");
        return;
    }
    let place = Place::new();
    let run = format!("sleep 0.5; exec '{}' run --state-dir state --durable off -o out -- echo {{}} ::: 1 2 3", common::BIN);
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &run, "/dev/null"]).current_dir(place.dir.path()).env("TERM", "xterm").env("HOME", place.dir.path());
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut typed = terminal.stdin.take().unwrap();
    // A pause that nobody ends, and a stop.
    std::io::Write::write_all(&mut typed, b"pq").unwrap();
    let status = wait(&mut terminal, 30 * SECOND);
    drop(typed);
    let _ = terminal.kill();
    assert_eq!(status.expect("an end").code(), Some(0));
    assert_eq!(place.read("out").lines().count(), 3);
}

#[test]
fn a_command_in_the_background_of_a_terminal_is_not_stopped() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        eprintln!("no script(1), so no terminal");
        return;
    }
    let place = Place::new();
    // With job control, what is in the background may not touch the terminal.
    let run = format!("bash -mc '\"{}\" run --durable off --summary none -- echo ::: here < /dev/tty > out & wait'", common::BIN);
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &run, "/dev/null"]).current_dir(place.dir.path()).env("TERM", "xterm").env("HOME", place.dir.path());
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = wait(&mut terminal, 30 * SECOND);
    let _ = terminal.kill();
    assert!(status.is_some());
    // One that is stopped has written nothing.
    assert_eq!(place.read("out"), "here\n");
}
