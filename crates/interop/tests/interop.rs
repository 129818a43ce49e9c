//! Runs `tests/interop`: real Celery clients, real Python workers and Flower beside ours. What that
//! needs from PyPI goes into a virtual environment of its own under the target directory, made once
//! for each state of `requirements.txt`.

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use longshore_testkit::left_out::{left_out, missing};

/// Processes that share the tests, each with servers and workers of its own: most of the time they
/// wait.
const PROCESSES: usize = 2;

/// Where the Python side lies.
const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop");

#[test]
fn celerys_clients_workers_and_tools_find_nothing_strange_beside_ours() {
    let python = match environment() {
        Ok(python) => python,
        Err(what) => return missing(&what),
    };
    let arguments = std::env::var("LONGSHORE_INTEROP_ARGS").unwrap_or_default();
    let taken = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-taken-{}", std::process::id()));
    fs::create_dir_all(&taken).unwrap();
    #[cfg(feature = "kafka")]
    let kafka = longshore_testkit::kafka::shared();
    #[cfg(not(feature = "kafka"))]
    let kafka: Option<String> = None;
    // All are started by this thread: they end with it.
    let pytests: Vec<Child> = (0..if arguments.is_empty() { PROCESSES } else { 1 })
        .map(|_| {
            let mut pytest = Command::new(&python);
            pytest.args(["-m", "pytest", "--color=no", "-p", "no:cacheprovider", "-rs"]).args(arguments.split_whitespace());
            // Pytest ends with us, and what it started with it: also when we are killed.
            pytest.env("LONGSHORE_INTEROP_PARENT", std::process::id().to_string());
            pytest
                .env("LONGSHORE_INTEROP_TAKEN", &taken)
                .env("LONGSHORE_LABAPP", env!("CARGO_BIN_EXE_labapp"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("LONGSHORE_INTEROP_VENVS", env!("CARGO_TARGET_TMPDIR"))
                .envs(kafka.as_ref().map(|address| ("LONGSHORE_KAFKA", address)))
                .current_dir(SUITE);
            pytest.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
        })
        .collect();
    let waits: Vec<_> = pytests.into_iter().map(|pytest| thread::spawn(|| pytest.wait_with_output().unwrap())).collect();
    let mut failed = Vec::new();
    let mut lasts = Vec::new();
    for wait in waits {
        let output = wait.join().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // `SKIPPED [3] test_x.py:12: the reason`
        for line in said.lines().filter_map(|line| line.strip_prefix("SKIPPED [")) {
            let (count, reason) = line.split_once("] ").unwrap_or(("1", line));
            left_out(reason.split_once(": ").map_or(reason, |(_, reason)| reason), count.parse().unwrap_or(1));
        }
        lasts.push(said.lines().last().unwrap_or_default().to_owned());
        if !output.status.success() {
            failed.push(format!("pytest: {}\n{said}", output.status));
        }
    }
    let _ = fs::remove_dir_all(&taken);
    let _ = writeln!(std::io::stderr(), "interop: {}", together(&lasts));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Adds up what each pytest said last: `5 passed, 1 skipped in 3.21s (0:00:03)`.
fn together(lasts: &[String]) -> String {
    let mut counts: Vec<(&str, u64)> = Vec::new();
    let mut longest = 0.0_f64;
    for last in lasts {
        let (counted, took) = last.trim_matches(['=', ' ']).rsplit_once(" in ").unwrap_or((last, ""));
        longest = longest.max(took.split('s').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0));
        for part in counted.split(", ") {
            let Some((number, word)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match counts.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += number,
                None => counts.push((word, number)),
            }
        }
    }
    let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("{} in {longest:.2}s", counts.join(", "))
}

#[test]
fn what_the_processes_said_is_added_up() {
    let lasts = ["256 passed, 12 skipped in 150.09s (0:02:30)", "==== 270 passed, 1 xfailed in 151.39s (0:02:31) ===="];
    assert_eq!(together(&lasts.map(str::to_owned)), "526 passed, 12 skipped, 1 xfailed in 151.39s");
}

/// The Python of an environment that has what `requirements.txt` lists; or what is missing on this
/// machine, and how to get it.
fn environment() -> Result<PathBuf, String> {
    found("redis-server", "--version", "apt-get install redis-server")?;
    found("python3", "--version", "apt-get install python3 python3-venv")?;
    let requirements = Path::new(SUITE).join("requirements.txt");
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(tmp).unwrap();
    // Two test runs at once: one makes it, the other waits.
    let lock = File::create(tmp.join("interop-venv.lock")).unwrap();
    lock.lock().unwrap();
    let mut hash = DefaultHasher::new();
    (fs::read(&requirements).unwrap(), output(Command::new("python3").arg("--version"))?).hash(&mut hash);
    let venv = tmp.join(format!("interop-venv-{:016x}", hash.finish()));
    let (python, complete) = (venv.join("bin/python"), venv.join("complete"));
    if !complete.exists() {
        if venv.exists() {
            fs::remove_dir_all(&venv).unwrap();
        }
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv))
            .map_err(|why| format!("python3 makes no virtual environment: apt-get install python3-venv ({why})"))?;
        output(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "-r"]).arg(&requirements))
            .map_err(|why| format!("the packages of tests/interop/requirements.txt cannot be had from PyPI: {why}"))?;
        File::create(&complete).unwrap();
    }
    Ok(python)
}

/// Whether a program is there.
fn found(program: &str, argument: &str, install: &str) -> Result<(), String> {
    output(Command::new(program).arg(argument)).map(drop).map_err(|_| format!("{program} is missing: {install}"))
}

/// What a program printed; or what it complained of, on one line.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Err(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned())
}
