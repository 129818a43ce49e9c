//! Files: full disks, errors at every write and sync, death at every system call, and files that
//! are somebody else's.
//!
//! `LONGSHORE_FAULT_POINTS` is the number of points that each test of system calls takes (all of
//! them when 0), `LONGSHORE_DISK_SIZES` the number of sizes of the full disk.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Journal, Place, finish, has_tool, number, results, run, skipped, text};

const TASKS: u64 = 20;

/// A job of twenty commands that write their number to a ledger, and its further runs.
struct Job {
    place: Place,
    extra: Vec<&'static str>,
}

impl Job {
    fn new(extra: &[&'static str]) -> Self {
        let place = Place::new();
        place.write("in", (1..=TASKS).map(|id| format!("{id}\n")).collect::<String>());
        place.script("task.sh", "echo $1 >>\"$LEDGER\"; echo out $1");
        Self { place, extra: extra.to_vec() }
    }

    fn command(&self, wrapper: &[&str]) -> Command {
        let mut command = self.place.wrapped(wrapper);
        command.args(["in", "--name", "job", "-j", "2", "--progress", "none", "--summary", "none", "-o", "out.jsonl"]).args(&self.extra);
        command.arg("--").arg(self.place.path("task.sh")).env("LEDGER", self.place.path("ledger")).env("RUST_BACKTRACE", "0");
        command
    }

    fn ran(&self, id: u64) -> usize {
        self.place.read("ledger").lines().filter(|line| *line == id.to_string()).count()
    }

    /// Resumes to the end and looks whether everything is there once, and nothing ran again that
    /// the journal had as finished.
    fn resume(&self, finished: &[u64], what: &str) {
        let before: Vec<usize> = finished.iter().map(|id| self.ran(*id)).collect();
        let (code, _, stderr) = run(&mut self.command(&[]));
        assert_eq!(code, 0, "{what}: {stderr}");
        let results = results(&self.place.path("out.jsonl"));
        assert_eq!(results.keys().copied().collect::<Vec<_>>(), (1..=TASKS).collect::<Vec<_>>(), "{what}: {stderr}");
        let journal = self.place.journal();
        assert!(journal.results.values().all(|lines| lines.len() == 1) && journal.results.len() == TASKS as usize, "{what}");
        for (id, before) in finished.iter().zip(before) {
            assert!(before > 0 && self.ran(*id) == before, "{what}: task {id} was finished and ran again");
        }
        for id in 1..=TASKS {
            assert!(self.ran(id) > 0, "{what}: task {id} never ran");
        }
    }

    fn finished(&self) -> Vec<u64> {
        self.place.journal_path().map(|path| Journal::read(&path).results.into_keys().collect()).unwrap_or_default()
    }
}

/// Does the work for each number on three threads.
fn side_by_side(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < count) {
                    work(at);
                }
            });
        }
    });
}

fn can_trace() -> bool {
    if !has_tool("strace") {
        return false;
    }
    let works =
        Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    works || skipped("strace may not trace here")
}

/// The system calls of a run that are to be hit, by name and number, from a trace of an undisturbed
/// run. strace counts by thread group's thread, so that the n-th call of each thread is hit: the
/// first thread to come to it ends or fails.
fn points(job: &Job, calls: &str, files: &[&str]) -> Vec<(String, usize)> {
    let trace = job.place.path("trace");
    let mut words = vec!["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", "signal=none"];
    words.extend(files.iter().flat_map(|file| ["-P", *file]));
    let filter = format!("trace={calls}");
    words.extend(["-e", &filter]);
    let (code, _, stderr) = run(&mut job.command(&words));
    assert_eq!(code, 0, "{stderr}");
    let text = fs::read_to_string(&trace).unwrap();
    let mut most = std::collections::BTreeMap::<(String, String), usize>::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap_or_default();
        let Some((call, _)) = rest.trim().split_once('(') else { continue };
        if call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *most.entry((call.to_owned(), pid.to_owned())).or_default() += 1;
        }
    }
    let mut by_call = std::collections::BTreeMap::<String, usize>::new();
    for ((call, _), count) in most {
        let best = by_call.entry(call).or_default();
        *best = count.max(*best);
    }
    let all: Vec<(String, usize)> = by_call.into_iter().flat_map(|(call, count)| (1..=count).map(move |at| (call.clone(), at))).collect();
    let wanted = number("LONGSHORE_FAULT_POINTS", 24) as usize;
    if wanted == 0 || all.len() <= wanted {
        return all;
    }
    let offset = fastrand::usize(..all.len());
    (0..wanted).map(|at| all[(offset + at * all.len() / wanted) % all.len()].clone()).collect()
}

#[test]
fn death_at_any_system_call_loses_nothing() {
    if !can_trace() {
        return;
    }
    let totals = Mutex::new((0u64, 0u64, 0u64));
    let first = Job::new(&[]);
    let points = points(&first, "write,writev,pwrite64,fsync,fdatasync,ftruncate,rename,renameat2,unlink,flock,openat,futex,sendmsg", &[]);
    side_by_side(points.len(), |at| {
        let (call, count) = &points[at];
        let job = Job::new(match at % 4 {
            0 => &["--durable", "each"],
            1 => &["-k"],
            _ => &[],
        });
        let inject = format!("inject={call}:signal=KILL:when={count}");
        let what = format!("SIGKILL at {call} {count}, {:?}", job.extra);
        // Only the run itself is to die of it: children are followed by nobody, as strace is not
        // told to.
        let mut command = job.command(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        let output = finish(command.stderr(Stdio::piped()).spawn().unwrap(), Duration::from_secs(60));
        let died = output.status.code().is_none() || output.status.code() == Some(137);
        let finished = job.finished();
        job.resume(&finished, &what);
        let mut totals = totals.lock().unwrap();
        totals.0 += 1;
        totals.1 += u64::from(died);
        totals.2 += finished.len() as u64;
    });
    let (runs, died, finished) = totals.into_inner().unwrap();
    println!(
        "files: SIGKILL at {runs} system calls, {died} runs died of it, {finished} tasks had finished; 0 lost, 0 torn, 0 finished again"
    );
    assert!(died > 0);
}

#[test]
fn an_error_at_any_write_or_sync_ends_with_74_and_loses_nothing() {
    if !can_trace() {
        return;
    }
    let totals = Mutex::new((0u64, 0u64));
    // The first task alone, so that the journal has a name by which strace knows it.
    let begun = |extra: &[&'static str]| {
        let job = Job::new(extra);
        let mut command = job.place.run();
        command.args(["in", "--name", "job", "--take", "1", "--summary", "none", "-o", "out.jsonl"]).args(extra);
        let (code, _, stderr) = run(command.arg("--").arg(job.place.path("task.sh")).env("LEDGER", job.place.path("ledger")));
        assert_eq!(code, 0, "{stderr}");
        let files = [job.place.journal_path().unwrap(), job.place.path("out.jsonl")].map(|path| path.to_str().unwrap().to_owned());
        (job, files)
    };
    let (first, files) = begun(&[]);
    let points = points(&first, "write,fdatasync,fsync,ftruncate", &[&files[0], &files[1]]);
    side_by_side(points.len(), |at| {
        let (call, count) = &points[at];
        let (job, files) = begun(if at % 3 == 0 { &["--durable", "each"] } else { &[] });
        let errno = ["ENOSPC", "EIO"][at % 2];
        // From that call on, or once.
        let inject = format!("inject={call}:error={errno}:when={count}{}", ["+", ""][at / 2 % 2]);
        let what = format!("{inject}, {:?}", job.extra);
        let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &files[0], "-P", &files[1], "-e", &inject];
        let output = finish(job.command(&words).spawn().unwrap(), Duration::from_secs(60));
        let stderr = text(&output.stderr);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 74)), "{what}: {code:?} {stderr}");
        if code == Some(74) {
            assert!(files.iter().any(|file| stderr.contains(file)), "{what}: {stderr}");
            assert!(errno != "ENOSPC" || stderr.contains("bytes free"), "{what}: {stderr}");
        }
        let finished = job.finished();
        job.resume(&finished, &what);
        let mut totals = totals.lock().unwrap();
        totals.0 += 1;
        totals.1 += u64::from(code == Some(74));
    });
    let (runs, refused) = totals.into_inner().unwrap();
    println!("files: errors at {runs} writes and syncs, {refused} runs ended with 74; 0 counted as done that was not in the journal");
    assert!(refused > 0);
}

#[test]
fn a_full_disk_ends_with_74_whatever_its_size_and_resuming_loses_nothing() {
    if !has_tool("unshare") || !rustix::process::geteuid().is_root() && !skipped("only root can mount a small disk") {
        return;
    }
    let mounts = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).stderr(Stdio::null()).status();
    if !mounts.is_ok_and(|status| status.success()) {
        skipped("a small disk cannot be mounted here");
        return;
    }
    let sizes = number("LONGSHORE_DISK_SIZES", 16) as usize;
    let totals = Mutex::new((0u64, 0u64));
    side_by_side(sizes, |at| {
        let job = Job::new(&[]);
        let disk = job.place.path("disk");
        fs::create_dir(&disk).unwrap();
        // The results of the twenty tasks take about 90 KiB in the journal, and as much in the
        // output; pages are 4 KiB.
        let pages = 1 + at * 64 / sizes;
        job.place.script("task.sh", "echo $1 >>\"$LEDGER\"; printf '%4000s' x");
        // Everything in one private mount: the run on the full disk, then the disk grows, and the
        // rest.
        let script = r#"
set -e
mount -t tmpfs -o size=$1 none disk
code=0; "$2" run --state-dir disk/state in --name job -j 2 --progress none --summary none -o disk/out.jsonl -- ./task.sh || code=$?
cp -a disk/. full/
mount -o remount,size=64M none disk
again=0; "$2" run --state-dir disk/state in --name job -j 2 --progress none --summary none -o disk/out.jsonl -- ./task.sh || again=$?
cp -a disk/. grown/
echo $code $again"#;
        for name in ["full", "grown"] {
            fs::create_dir(job.place.path(name)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", &format!("{}k", 4 * pages), common::BIN]);
        command.current_dir(job.place.dir.path()).env("LEDGER", job.place.path("ledger")).env("HOME", job.place.dir.path());
        let output =
            finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), Duration::from_secs(60));
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let (code, again) = stdout.trim().split_once(' ').unwrap_or_else(|| panic!("{pages} pages: {stderr}"));
        assert_eq!(again, "0", "{pages} pages: {stderr}");
        assert!(matches!(code, "0" | "74"), "{pages} pages: {code} {stderr}");
        if code == "74" {
            assert!(stderr.contains("bytes free"), "{pages} pages: {stderr}");
        }
        let journal = |name: &str| {
            let state = fs::read_dir(job.place.path(name).join("state")).into_iter().flatten().flatten().map(|entry| entry.path());
            state
                .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
                .map(|path| Journal::read(&path))
                .next()
                .unwrap_or_default()
        };
        let (full, grown) = (journal("full"), journal("grown"));
        assert!(!full.torn, "{pages} pages: it was cut back to whole lines");
        assert_eq!(grown.results.len(), TASKS as usize, "{pages} pages");
        assert!(grown.results.values().all(|lines| lines.len() == 1), "{pages} pages");
        assert!(grown.started_again.is_empty(), "{pages} pages: {:?}", grown.started_again);
        assert_eq!(results(&job.place.path("grown").join("out.jsonl")).len(), TASKS as usize, "{pages} pages");
        let mut totals = totals.lock().unwrap();
        totals.0 += u64::from(code == "74");
        totals.1 += u64::from(code == "0");
    });
    let (full, enough) = totals.into_inner().unwrap();
    println!("files: disks of {sizes} sizes, {full} were full (74), {enough} were large enough; 0 lost");
    assert!(full > 0 && enough > 0);
}

#[test]
fn a_device_that_is_full_ends_with_74_and_the_journal_has_what_ran() {
    let place = Place::new();
    let mut command = place.run();
    command.args([
        "--name",
        "full",
        "-j",
        "2",
        "--summary",
        "none",
        "-o",
        "/dev/full",
        "--emit",
        "jsonl",
        "--",
        "sh",
        "-c",
        "sleep 0.05; echo \"$1\"",
        "sh",
        "{}",
        ":::",
    ]);
    command.args((0..40).map(|id| id.to_string()));
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 74, "{stderr}");
    assert!(stderr.contains("/dev/full") && stderr.contains("bytes free"), "{stderr}");
    let journal = place.journal();
    assert!((1..20).contains(&journal.results.len()), "new starts were stopped: {}", journal.results.len());
    assert!(journal.results.values().all(|lines| lines[0]["outcome"] == "ok"), "what ran was let end");
    let again: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let again = again.iter().map(|word| if word == "/dev/full" { "out.jsonl" } else { word });
    let mut command = place.run();
    command.args(again.skip(3));
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(results(&place.path("out.jsonl")).len(), 40);
    assert!(place.journal().started_again.is_empty());
}

#[test]
fn a_directory_that_cannot_be_written_ends_with_74_before_anything_runs() {
    if !has_tool("unshare") || !rustix::process::geteuid().is_root() && !skipped("only root can mount a disk read-only") {
        return;
    }
    let place = Place::new();
    let script = r#"
mkdir disk; mount -t tmpfs none disk && mkdir disk/state && mount -o remount,ro none disk || exit 99
"$1" run --state-dir disk/state -o out.jsonl -- sh -c 'echo ran >>ran' ::: 1 2; echo $?
"$1" run --state-dir state -o disk/out.jsonl -- sh -c 'echo ran >>ran' ::: 1 2; echo $?
ls state"#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", common::BIN]).current_dir(place.dir.path()).env("HOME", place.dir.path());
    let output =
        finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), Duration::from_secs(30));
    if output.status.code() == Some(99) {
        skipped("a disk cannot be mounted here");
        return;
    }
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(stdout, "74\n74\n", "and no job is left behind: {stderr}");
    assert!(stderr.contains("disk/state") && stderr.contains("disk/out.jsonl") && stderr.contains("ead-only"), "{stderr}");
    assert!(!place.path("ran").exists());
}

#[test]
fn somebody_elses_output_is_refused_and_leaves_no_job_behind() {
    let place = Place::new();
    place.write("out.jsonl", "my thesis\n");
    let job = |flags: &[&str]| {
        let mut command = place.run();
        command.args(["-o", "out.jsonl", "--summary", "none"]).args(flags).args([
            "--",
            "sh",
            "-c",
            "echo $1 >>ran",
            "sh",
            "{}",
            ":::",
            "1",
            "2",
        ]);
        run(&mut command)
    };
    for flags in [&[][..], &["--name", "mine"]] {
        let (code, _, stderr) = job(flags);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains("out.jsonl") && stderr.contains("--resume") && stderr.contains("--fresh"), "{stderr}");
    }
    assert_eq!(place.read("out.jsonl"), "my thesis\n");
    assert!(!place.path("ran").exists());
    assert!(place.journal_path().is_none(), "a job that never was cannot be resumed");
    let (code, _, stderr) = job(&["--fresh"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(results(&place.path("out.jsonl")).len(), 2);
}

#[test]
fn the_refused_second_start_of_a_job_does_not_hide_it_from_resume() {
    let place = Place::new();
    let job = |flags: &[&str]| {
        let mut command = place.run();
        command.args(["-o", "out.jsonl", "-j", "1", "--summary", "none"]).args(flags);
        command.args(["--", "sh", "-c", "[ $1 = 2 ] && [ ! -e two ] && { : >two; while [ ! -s out.jsonl ]; do sleep 0.01; done; kill -KILL $PPID; sleep 9; }; echo $1 >>ran", "sh", "{}", ":::", "1", "2", "3"]);
        finish(command.spawn().unwrap(), Duration::from_secs(20))
    };
    assert_eq!(job(&[]).status.code(), None, "it kills its run");
    let refused = job(&[]);
    assert_eq!(refused.status.code(), Some(7), "{}", text(&refused.stderr));
    let resumed = job(&["--resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    assert_eq!(place.read("ran"), "1\n2\n3\n");
    assert_eq!(results(&place.path("out.jsonl")).len(), 3);
}

#[test]
fn a_job_that_is_another_one_now_is_refused() {
    let place = Place::new();
    let job = |flags: &[&str], words: &[&str]| {
        let mut command = place.run();
        command.args(["--name", "job", "-o", "out.jsonl", "--summary", "none"]).args(flags).arg("--").args(words).args([":::", "1", "2"]);
        run(&mut command)
    };
    assert_eq!(job(&[], &["echo", "a{}"]).0, 0);
    let before = place.read("out.jsonl");
    for (flags, words) in [
        (&[][..], &["echo", "b{}"][..]),
        (&["--shell"], &["echo", "a{}"]),
        (&["--key", "{}"], &["echo", "a{}"]),
        (&["--stdin", "{}"], &["echo", "a{}"]),
    ] {
        let (code, stdout, stderr) = job(flags, words);
        assert_eq!((code, stdout.as_str()), (7, ""), "{flags:?} {words:?}: {stderr}");
        assert!(stderr.contains("--fresh"), "{stderr}");
    }
    assert_eq!(place.read("out.jsonl"), before);
    assert_eq!(job(&["--fresh"], &["echo", "b{}"]).0, 0);
    assert!(place.read("out.jsonl").contains("b1"));
}
