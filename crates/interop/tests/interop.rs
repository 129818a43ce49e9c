//! Runs `tests/interop`: real Celery clients, real Python workers and Flower beside ours. What that
//! needs from PyPI goes into a virtual environment of its own under the target directory, made once
//! for each state of `requirements.txt`.

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use longshore_testkit::left_out::{left_out, missing};

/// Where the Python side lies.
const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop");

#[test]
fn celerys_clients_workers_and_tools_find_nothing_strange_beside_ours() {
    let python = match environment() {
        Ok(python) => python,
        Err(what) => return missing(&what),
    };
    let mut pytest = Command::new(python);
    pytest.args(["-m", "pytest", "--color=no", "-p", "no:cacheprovider", "-rs"]);
    pytest.args(std::env::var("LONGSHORE_INTEROP_ARGS").unwrap_or_default().split_whitespace());
    // Pytest ends with us, and what it started with it: also when we are killed.
    pytest.env("LONGSHORE_INTEROP_PARENT", std::process::id().to_string());
    pytest
        .env("LONGSHORE_LABAPP", env!("CARGO_BIN_EXE_labapp"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LONGSHORE_INTEROP_VENVS", env!("CARGO_TARGET_TMPDIR"))
        .current_dir(SUITE);
    #[cfg(feature = "kafka")]
    if let Some(address) = longshore_testkit::kafka::shared() {
        pytest.env("LONGSHORE_KAFKA", address);
    }
    let mut pytest = pytest.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(pytest.stdout.take().unwrap()).lines() {
        said.push(line.unwrap());
    }
    let status = pytest.wait().unwrap();
    assert!(status.success(), "pytest: {status}\n{}", said.join("\n"));
    // `SKIPPED [3] test_x.py:12: the reason`
    for line in said.iter().filter_map(|line| line.strip_prefix("SKIPPED [")) {
        let (count, reason) = line.split_once("] ").unwrap_or(("1", line));
        left_out(reason.split_once(": ").map_or(reason, |(_, reason)| reason), count.parse().unwrap_or(1));
    }
    let _ = writeln!(std::io::stderr(), "interop: {}", said.last().map_or("", |line| line.trim_matches(['=', ' '])));
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
        output(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-input", "-r"]).arg(&requirements))
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
