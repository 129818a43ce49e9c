//! What the tests of bad days share: the binary in a directory of its own, and what can be seen of
//! it from outside.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part; a test may panic")]

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

pub const BIN: &str = env!("CARGO_BIN_EXE_longshore");

/// A directory with a state directory, where runs find and leave everything.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("longshore-bad-day-").tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.write(name, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `longshore run` here, with nothing of the user's.
    pub fn run(&self) -> Command {
        self.wrapped(&[])
    }

    /// The same under another program, such as strace.
    pub fn wrapped(&self, wrapper: &[&str]) -> Command {
        let mut words = wrapper.iter().copied().chain([BIN]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("run").arg("--state-dir").arg(self.path("state"));
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME");
        if self.path("longshore.toml").exists() {
            // Who names a file trusts it.
            command.env("LONGSHORE_CONFIG", "longshore.toml");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The journal of the only job; of the one that was written to last if there are more.
    pub fn journal(&self) -> Journal {
        Journal::read(&self.journal_path().expect("a journal"))
    }

    pub fn journal_path(&self) -> Option<PathBuf> {
        let files = fs::read_dir(self.path("state")).ok()?.flatten().map(|entry| entry.path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
    }
}

/// What a journal says, by the place of records in the input.
#[derive(Default, Debug)]
pub struct Journal {
    /// Attempts, in the order of their start lines.
    pub starts: BTreeMap<u64, Vec<u64>>,
    /// Final result lines; a place has more than one if something went wrong.
    pub results: BTreeMap<u64, Vec<Value>>,
    /// A start line behind the result of its task.
    pub started_again: Vec<u64>,
    pub ends: Vec<Value>,
    pub sittings: usize,
    /// The last line has no newline.
    pub torn: bool,
}

impl Journal {
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let mut this = Self { torn: !bytes.is_empty() && !bytes.ends_with(b"\n"), ..Self::default() };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let value: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
            if let Some(seq) = value["start"].as_u64() {
                if this.results.contains_key(&seq) {
                    this.started_again.push(seq);
                }
                this.starts.entry(seq).or_default().push(value["attempt"].as_u64().unwrap());
            } else if let Some(seq) = value["seq"].as_u64() {
                if value["outcome"] != "cancelled" {
                    this.results.entry(seq).or_default().push(value);
                }
            } else if value.get("end").is_some() {
                this.ends.push(value);
            } else if value.get("sitting").is_some() || value.get("longshore").is_some() {
                this.sittings += 1;
            }
        }
        this
    }

    pub fn outcome(&self, seq: u64) -> &str {
        self.results.get(&seq).map_or("-", |lines| lines[0]["outcome"].as_str().unwrap())
    }
}

/// Result lines of an output file; panics at a torn line or a task that stands there twice.
pub fn results(path: &Path) -> BTreeMap<u64, Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line of {} is torn", path.display());
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let twice = all.insert(value["seq"].as_u64().unwrap(), value);
        assert!(twice.is_none(), "twice in {}: {line}", path.display());
    }
    all
}

/// The end of a process, or `None` if it does not come in time. Its pipes have to be small or read
/// by somebody else.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if began.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As [`wait`], with what it wrote. Whatever does not end in time is killed, and the test fails.
pub fn finish(mut child: Child, patience: Duration) -> Output {
    fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    }
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, patience);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else {
        panic!("no end within {patience:?}; it said: {}", String::from_utf8_lossy(&stderr));
    };
    Output { status, stdout, stderr }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs to the end; the exit code, stdout and stderr.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let output = finish(command.spawn().unwrap(), Duration::from_secs(60));
    let code = output.status.code().unwrap_or_else(|| panic!("{:?}: {}", output.status, text(&output.stderr)));
    (code, text(&output.stdout), text(&output.stderr))
}

pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

pub fn signal_group(child: &Child, signal: Signal) {
    kill_process_group(Pid::from_child(child), signal).unwrap();
}

/// Waits until something holds; panics when it does not come.
pub fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < patience, "{what} did not come within {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that live (zombies do not) and have this in their environment, by pid, with their
/// command lines.
pub fn alive_with(entry: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(environ) = fs::read(process.path().join("environ")) else { continue };
        let ours = environ.split(|byte| *byte == 0).any(|each| each == entry.as_bytes());
        if ours && lives(pid) {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if words.is_empty() {
                // It has just given its memory back: it is ending.
                continue;
            }
            found.push((pid, text(&words).replace('\0', " ")));
        }
    }
    found
}

/// Whether a process runs: it exists and is no zombie.
pub fn lives(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| !matches!(state.as_str(), "Z" | "X"))
}

/// Whether a program is there. If not, says so in one line, and fails where everything has to be
/// there.
pub fn has_tool(name: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(name).exists());
    found || skipped(&format!("{name} is missing: install the package of that name"))
}

/// Says why a test is left out; false. Fails where everything has to run.
pub fn skipped(why: &str) -> bool {
    longshore_testkit::left_out::missing(why);
    false
}

/// A number from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
