use super::*;
use crate::error::Again;
use std::{
    io::{PipeReader, PipeWriter},
    os::{fd::BorrowedFd, unix::fs::PermissionsExt},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

fn command(program: &str, args: &[&str]) -> Command {
    Command { program: program.into(), args: args.iter().map(OsString::from).collect(), ..Command::default() }
}

fn sh(script: &str) -> Command {
    command("sh", &["-c", script])
}

fn run_once(command: &Command, limits: &Limits) -> Result<Output, TaskError> {
    run(command, limits, 0, &Children::new().unwrap())
}

fn ok(command: &Command) -> Output {
    run_once(command, &Limits::default()).unwrap()
}

fn within(timeout_ms: u64, kill_after_ms: u64) -> Limits {
    Limits { timeout: Some(Duration::from_millis(timeout_ms)), kill_after: Duration::from_millis(kill_after_ms), ..Limits::default() }
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()), Some('Z' | 'X') | None))
}

/// A killed process needs a moment to go.
fn gone(pids: &str) -> bool {
    let start = Instant::now();
    while pids.split_whitespace().any(runs) {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        thread::yield_now();
    }
    true
}

#[test]
fn exit_codes_signals_and_both_streams_are_told_apart() {
    for (script, exit, stdout, stderr) in [
        ("echo out; echo err >&2", Exit::Code(0), "out\n", "err\n"),
        ("printf x; exit 75", Exit::Code(75), "x", ""),
        ("echo bye >&2; kill -9 $$", Exit::Signal(9), "", "bye\n"),
        ("exec >&- 2>&-; exit 3", Exit::Code(3), "", ""),
    ] {
        let output = ok(&sh(script));
        assert_eq!(
            (output.exit, output.stdout.as_slice(), output.stderr.as_slice()),
            (exit, stdout.as_bytes(), stderr.as_bytes()),
            "{script}"
        );
        assert!(!output.timed_out && !output.stopped && output.stdout_cut == 0, "{script}");
        assert!(output.usage.max_rss_bytes > 0 && output.usage.cpu() > Duration::ZERO, "{script}: {:?}", output.usage);
    }
}

#[test]
fn a_child_that_closes_its_streams_early_is_still_waited_for() {
    let output = run_once(&sh("exec >&- 2>&- <&-; sleep 0.1; exit 4"), &Limits::default()).unwrap();
    assert_eq!(output.exit, Exit::Code(4));
    assert!(output.wall >= Duration::from_millis(100));
}

#[test]
fn environment_and_directory_are_the_commands_own() {
    let mut command = sh("printf '%s %s' \"$WORD\" \"$PWD\"");
    command.env.push(("WORD".into(), "one two".into()));
    command.cwd = Some("/".into());
    assert_eq!(ok(&command).stdout, b"one two /");
}

#[test]
fn a_path_of_its_own_finds_the_program() {
    let mut named = command("sh", &["-c", "echo $0"]);
    named.env.push(("PATH".into(), "/nowhere:/usr/bin:/bin".into()));
    assert_eq!(ok(&named).stdout, b"sh\n");
    named.env.push(("PATH".into(), "/nowhere".into()));
    assert_eq!(run_once(&named, &Limits::default()).unwrap_err().message(), "cannot run `sh`: no such program in PATH");
}

#[test]
fn sigterm_at_the_timeout_is_respected() {
    let output = run_once(&sh("trap 'echo cleaned; exit 5' TERM; echo up; while :; do sleep 0.01; done"), &within(200, 20_000)).unwrap();
    assert!(output.timed_out);
    assert_eq!(output.exit, Exit::Code(5));
    assert_eq!(output.stdout, b"up\ncleaned\n");
    assert!(output.wall >= Duration::from_millis(200) && output.wall < Duration::from_secs(10), "{:?}", output.wall);
}

#[test]
fn whoever_ignores_sigterm_is_killed() {
    for kill_after in [0, 100] {
        let output = run_once(&sh("trap '' TERM; while :; do sleep 1; done"), &within(100, kill_after)).unwrap();
        assert!(output.timed_out);
        assert_eq!(output.exit, Exit::Signal(9));
        assert!(output.wall >= Duration::from_millis(100 + kill_after), "{:?}", output.wall);
    }
}

#[test]
fn a_stopped_process_hears_its_timeout() {
    let output = run_once(&sh("kill -STOP $$"), &within(100, 20_000)).unwrap();
    assert_eq!((output.exit, output.timed_out), (Exit::Signal(15), true));
}

#[test]
fn grandchildren_are_killed_at_the_timeout() {
    let script = "(trap '' TERM; sleep 1000) & echo $!; (sleep 1000 >&- 2>&- & echo $!); sleep 1000 & echo $!; echo $$; wait";
    let output = run_once(&sh(script), &within(300, 100)).unwrap();
    let pids = String::from_utf8(output.stdout).unwrap();
    assert_eq!(pids.lines().count(), 4);
    assert!(gone(&pids), "{pids}");
}

#[test]
fn after_sigterm_the_background_has_the_same_time_to_clean_up() {
    // The shell dies of SIGTERM at once; its child, which holds the pipe, says its last word before
    // kill_after has passed.
    let script = "(trap 'sleep 0.3; echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.01; done) & wait";
    let output = run_once(&sh(script), &within(200, 20_000)).unwrap();
    assert_eq!(output.stdout, b"up\ncleaned\n");
    assert_eq!(output.exit, Exit::Signal(15));
}

#[test]
fn a_background_child_does_not_outlive_the_command_nor_hold_it_up() {
    let start = Instant::now();
    let output = ok(&sh("sleep 1000 & echo $!; exit 6"));
    assert_eq!(output.exit, Exit::Code(6));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(gone(std::str::from_utf8(&output.stdout).unwrap()));
}

#[test]
fn output_over_the_limit_goes_to_a_file_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let spill = |name: &str| Spill { dir: dir.path().join("spool").into(), name: name.to_owned(), stdout: true, stderr: false, sync: true };
    let limits = Limits { max_output: 1000, ..Limits::default() };
    let children = Children::new().unwrap();
    let said = |name: &str, script: &str| {
        let command =
            Command { program: "sh".into(), args: vec!["-c".into(), script.into()], spill: Some(spill(name)), ..Command::default() };
        run(&command, &limits, 0, &children).unwrap()
    };
    let files = || std::fs::read_dir(dir.path().join("spool")).map_or(0, Iterator::count);
    let short = said("short", "head -c 1000 /dev/zero");
    assert!(short.stdout_rest.is_none() && files() == 0, "what fits needs no file");
    let long = said("long", "head -c 2000000 /dev/zero | tr '\\000' x; head -c 5000 /dev/zero >&2");
    let rest = long.stdout_rest.clone().unwrap();
    assert_eq!((long.stdout.len(), rest.len(), long.stdout_cut), (1000, 1_999_000, 1_999_000));
    assert!(std::fs::read(rest.path()).unwrap().iter().all(|byte| *byte == b'x'));
    assert_eq!(rest.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(long.stderr_rest.is_none() && long.stderr_cut == 4000 && long.unspilled.is_none());
    drop(long);
    assert_eq!(files(), 1);
    drop(rest);
    assert_eq!(files(), 0, "it goes with the last that knows it");
    // What cannot be written ends the command, and is told.
    std::fs::remove_dir(dir.path().join("spool")).unwrap();
    std::fs::write(dir.path().join("spool"), "").unwrap();
    let failed = said("failed", "head -c 2000000 /dev/zero; sleep 60");
    assert!(failed.unspilled.as_deref().is_some_and(|why| why.contains("spool/failed.out: ")), "{:?}", failed.unspilled);
    assert!(matches!(crate::lane::process::exit_outcome(failed, None), crate::Outcome::Cancelled));
}

#[test]
fn output_over_the_limit_is_cut_counted_and_never_blocks() {
    let limits = Limits { max_output: 1000, ..Limits::default() };
    let output = run_once(&sh("head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; printf end"), &limits).unwrap();
    assert_eq!((output.stdout.len(), output.stdout_cut), (1000, 299_003));
    assert_eq!((output.stderr.len(), output.stderr_cut), (1000, 199_000));
    assert_eq!(output.exit, Exit::Code(0));
}

#[test]
fn a_flood_of_output_takes_no_memory() {
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak();
    let output = ok(&command("head", &["-c", "67108864", "/dev/zero"]));
    assert_eq!((output.stdout.len(), output.stdout_cut), (1 << 20, (64 << 20) - (1 << 20)));
    assert!(peak() - before < 32 << 10, "{} KiB more", peak() - before);
}

#[test]
fn stdin_is_fed_as_the_child_takes_it() {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let feed = |program: &str, bytes: &[u8]| ok(&Command { stdin: Stdin::Bytes(bytes.to_vec()), ..command(program, &[]) });
    assert!(feed("cat", &bytes).stdout == bytes);
    assert_eq!(feed("cat", b"short").stdout, b"short");
    assert_eq!(feed("cat", b"").exit, Exit::Code(0));
    assert_eq!(feed("true", &bytes).exit, Exit::Code(0), "a command that reads nothing is none the worse");
    assert_eq!(ok(&command("cat", &[])).stdout, b"", "without stdin there is an end at once");
}

#[test]
fn a_stream_goes_to_stdin_a_piece_at_a_time() {
    let stream = |len: u64| Stdin::Stream(Stream::new(move || Ok(Box::new(std::io::repeat(b'x').take(len)))));
    let feed = |script: &str, len: u64| ok(&Command { stdin: stream(len), ..sh(script) });
    for len in [0, 1, 65_536, 65_537, 3_000_000] {
        assert_eq!(feed("wc -c", len).stdout, format!("{len}\n").into_bytes());
    }
    assert_eq!(feed("true", 1 << 40).exit, Exit::Code(0), "a command that reads nothing is none the worse");
    assert_eq!(feed("head -c 5", 1 << 40).stdout, b"xxxxx");
}

#[test]
fn a_command_whose_input_cannot_be_read_never_sees_its_end() {
    struct Torn(u64);
    impl Read for Torn {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let count = into.len().min(usize::try_from(self.0).unwrap());
            self.0 -= count as u64;
            if count == 0 { Err(std::io::Error::other("torn")) } else { Ok(count) }
        }
    }
    let file = std::env::temp_dir().join(format!("longshore-torn-{}", std::process::id()));
    for len in [0, 100, 1_000_000] {
        let stdin = Stdin::Stream(Stream::new(move || Ok(Box::new(Torn(len)))));
        let script = format!("cat >/dev/null; echo end >{}", file.display());
        let error = run_once(&Command { stdin, ..sh(&script) }, &Limits::default()).unwrap_err();
        assert_eq!((error.kind(), error.message()), ("stdin", "its input could not be read to the end: torn"), "after {len} bytes");
        assert!(!file.exists());
    }
    let stdin = Stdin::Stream(Stream::new(|| Err(TaskError::new("changed", "no"))));
    assert_eq!(run_once(&Command { stdin, ..sh("true") }, &Limits::default()).unwrap_err().kind(), "changed");
}

#[test]
fn what_cannot_be_started_says_why_and_whether_to_try_again() {
    let folder = std::env::temp_dir().join(format!("longshore-child-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "x", 0o644);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let nonsense = file("nonsense", "\u{1}\u{2}", 0o755);
    let mut elsewhere = command("true", &[]);
    elsewhere.cwd = Some("/no/such/folder".into());
    for (command, kind, words) in [
        (command("no-such-program-at-all", &[]), "spawn", "cannot run `no-such-program-at-all`: no such program in PATH"),
        (command("/no/such/file", &[]), "spawn", "cannot run `/no/such/file`: no such file"),
        (command(&plain, &[]), "spawn", "not executable"),
        (command(&orphan, &[]), "spawn", "interpreter"),
        (command(&nonsense, &[]), "spawn", "#!/bin/sh"),
        (elsewhere, "spawn", "cannot run `true` in /no/such/folder: no such directory"),
        (command("true", &["a\0b"]), "invalid", "NUL"),
        (command("true", &[&"x".repeat(200_000)]), "spawn", "bytes of arguments"),
    ] {
        let error = run_once(&command, &Limits::default()).unwrap_err();
        assert_eq!((error.kind(), error.again()), (kind, Again::Never), "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    std::fs::remove_dir_all(folder).unwrap();
    let passing = start::error(&command("true", &[]), &std::io::Error::from_raw_os_error(11));
    assert_eq!((passing.kind(), passing.again(), passing.code()), ("spawn", Again::ByPolicy, Some(11)));
}

/// Waits until a child of each of `count` slots has said "up".
fn all_up(children: &Children, count: usize) {
    let start = Instant::now();
    while children.running().iter().filter(|child| child.last_line == "up").count() < count {
        assert!(start.elapsed() < Duration::from_secs(20), "{children:?}");
        thread::yield_now();
    }
}

#[test]
fn stop_reaches_every_child_from_another_thread() {
    for (how, script, exit) in [
        (Stop::Soft, "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done", Exit::Code(0)),
        (Stop::Soft, "echo up; sleep 1000", Exit::Signal(15)),
        (Stop::Hard, "trap '' TERM; echo up; sleep 1000", Exit::Signal(9)),
    ] {
        let children = Children::new().unwrap();
        let (done, outputs) = mpsc::channel();
        for slot in 0..3 {
            let (children, done) = (children.clone(), done.clone());
            thread::spawn(move || done.send(run(&sh(script), &Limits::default(), slot, &children)).unwrap());
        }
        all_up(&children, 3);
        assert_eq!(children.stop(how), 3);
        for _ in 0..3 {
            let output = outputs.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
            assert_eq!((output.exit, output.stopped, output.timed_out), (exit, true, false), "{script}");
        }
        assert!(children.running().is_empty());
        let refused = run(&sh("true"), &Limits::default(), 0, &children).unwrap_err();
        assert_eq!((refused.kind(), children.stop(how)), ("cancelled", 0));
    }
}

#[test]
fn a_soft_stop_turns_hard_after_kill_after() {
    let children = Children::new().unwrap();
    let runner = {
        let children = children.clone();
        thread::spawn(move || run(&sh("trap '' TERM; echo up; sleep 1000"), &within(60_000, 200), 5, &children))
    };
    all_up(&children, 1);
    let asked = Instant::now();
    children.stop(Stop::Soft);
    let output = runner.join().unwrap().unwrap();
    assert_eq!((output.exit, output.stopped, output.timed_out), (Exit::Signal(9), true, false));
    assert!(asked.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_child_that_is_dropped_is_killed_with_its_group() {
    let children = Children::new().unwrap();
    let mut child = children.start(2, &sh("sleep 1000 & echo $!; exec sleep 1000")).unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut pid).unwrap();
    let leader = child.pid().to_string();
    assert_eq!(children.running().len(), 1);
    drop(child);
    assert!(children.running().is_empty() && gone(&pid) && gone(&leader));
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_gets_no_more_memory_than_it_is_granted() {
    let command = |memory| Command { memory, ..sh("sleep 0.2; head -c 200000000 /dev/zero | tail -c 199999999 | wc -c") };
    assert_eq!(ok(&command(None)).stdout, b"199999999\n");
    assert_ne!(ok(&command(Some(64 << 20))).stdout, b"199999999\n");
}

/// Hears what a command writes, as long as there is room for it.
#[derive(Debug)]
struct Ears {
    heard: Mutex<[Vec<u8>; 2]>,
    left: AtomicUsize,
    room: (PipeReader, PipeWriter),
}

impl Ears {
    fn new(left: usize) -> Arc<Self> {
        Arc::new(Self { heard: Mutex::default(), left: left.into(), room: std::io::pipe().unwrap() })
    }

    fn heard(&self) -> [Vec<u8>; 2] {
        self.heard.lock().unwrap().clone()
    }

    fn make_room(&self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
        (&self.room.1).write_all(&[0]).unwrap();
    }
}

impl OutputListener for Ears {
    fn hear(&self, stream: OutputStream, bytes: &[u8]) {
        self.heard.lock().unwrap()[stream as usize].extend_from_slice(bytes);
        let left = self.left.load(Ordering::SeqCst);
        self.left.store(left.saturating_sub(bytes.len()), Ordering::SeqCst);
    }

    fn full(&self) -> Option<BorrowedFd<'_>> {
        (self.left.load(Ordering::SeqCst) == 0).then(|| self.room.0.as_fd())
    }

    fn finish(&self, is_stopping: &dyn Fn() -> bool) -> bool {
        !is_stopping()
    }
}

#[test]
fn a_listener_hears_all_that_a_command_writes() {
    let ears = Ears::new(usize::MAX);
    let command = Command { listener: Some(ears.clone()), ..sh("echo one; echo two >&2; head -c 200000 /dev/zero") };
    let output = run_once(&command, &Limits { max_output: 4, ..Limits::default() }).unwrap();
    let [stdout, stderr] = ears.heard();
    assert_eq!((stdout.len(), stderr.as_slice(), output.heard), (200_004, &b"two\n"[..], Some(true)));
    assert_eq!((output.stdout.as_slice(), output.stdout_cut), (&b"one\n"[..], 200_000), "kept is what it always was");
}

#[test]
fn a_listener_without_room_holds_a_command_up_and_loses_nothing() {
    for (script, timeout, exit) in
        [("seq 1000", None, Exit::Code(0)), ("head -c 300000 /dev/zero", Some(Duration::from_millis(200)), Exit::Signal(15))]
    {
        let ears = Ears::new(0);
        let command = Command { listener: Some(ears.clone()), ..sh(&format!("{script}; exit")) };
        let running = thread::spawn(move || run_once(&command, &Limits { timeout, ..Limits::default() }).unwrap());
        thread::sleep(Duration::from_millis(500));
        assert_eq!((ears.heard(), running.is_finished()), ([Vec::new(), Vec::new()], false), "{script}");
        ears.make_room();
        let output = running.join().unwrap();
        assert_eq!((output.exit, output.timed_out, output.heard), (exit, timeout.is_some(), Some(true)), "{script}");
        let [stdout, _] = ears.heard();
        assert!(stdout == output.stdout && (timeout.is_some() || stdout.ends_with(b"999\n1000\n")), "{script}");
    }
}

#[test]
fn a_command_whose_listener_has_no_room_can_be_stopped() {
    let (children, ears) = (Children::new().unwrap(), Ears::new(1));
    let command = Command { listener: Some(ears), ..sh("echo up; exec yes") };
    let runner = {
        let children = children.clone();
        thread::spawn(move || run(&command, &Limits::default(), 0, &children).unwrap())
    };
    // It says that it is up and nothing else before there is no room, or has begun with the rest.
    let start = Instant::now();
    while children.running().iter().all(|child| child.last_line.is_empty()) {
        assert!(start.elapsed() < Duration::from_secs(20), "{children:?}");
        thread::yield_now();
    }
    children.stop(Stop::Soft);
    let output = runner.join().unwrap();
    assert_eq!((output.stopped, output.heard), (true, Some(false)));
    assert!(matches!(crate::lane::process::exit_outcome(output, None), crate::Outcome::Cancelled));
}
