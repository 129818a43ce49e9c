//! Runs all tests of the workspace, and closes with their sum and with what was left out:
//! `cargo suite [--jobs N] [-- ARGS OF EACH TEST PROGRAM]`.
//!
//! It does what `cargo test --workspace --all-features --no-fail-fast` does, with two differences:
//! test programs run several at once, because most of them wait most of the time, and each one's
//! output is printed as a whole when it has ended; and tests that find something missing on this
//! machine are counted and named at the end, with the way to get it.
//!
//! Layout: `programs.rs` asks cargo for the test programs, `tally.rs` adds up what they said.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints")]

mod programs;
mod tally;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use programs::TestProgram;
use tally::Tally;

/// What is tested.
const FLAGS: [&str; 2] = ["--workspace", "--all-features"];

/// The programs that take longest begin first, so that no core waits for one of them at the end.
const LONGEST: [&str; 7] =
    ["interop::interop", "brokers", "kafka::kafka", "cli::kafka_permissions", "testkit::soak", "worker::poison", "worker::alone"];

/// The longest that a test program may take; the longest of them takes six minutes.
const LIMIT: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(101),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(101)
        }
    }
}

fn run() -> io::Result<bool> {
    let (jobs, passed_on) = arguments()?;
    let began = Instant::now();
    let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut programs = programs::build(&cargo, &FLAGS)?;
    let target = programs
        .first()
        .and_then(|program| program.executable.parent()?.parent()?.parent())
        .map_or_else(|| "target".into(), Path::to_owned);
    let place = target.join("suite");
    fs::create_dir_all(&place)?;
    programs.sort_by_key(|program| LONGEST.iter().position(|name| *name == program.name).unwrap_or(LONGEST.len()));
    println!("built in {:.0} s; {} test programs, {jobs} at once", began.elapsed().as_secs_f64(), programs.len());
    let (queue, tally) = (Mutex::new(VecDeque::from(programs)), Mutex::new(Tally::default()));
    let locked = |queue: &Mutex<VecDeque<TestProgram>>| queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(program) = locked(&queue) {
                    one(&program.name, program.command().args(&passed_on), &place, &tally);
                }
            });
        }
    });
    // Cargo compiles and runs what stands in the documentation by itself.
    let mut documented = Command::new(&cargo);
    documented.arg("test").args(FLAGS).args(["--doc", "--no-fail-fast", "--quiet"]);
    one("documentation", &mut documented, &place, &tally);
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("\n{}", tally.closing(began.elapsed()));
    Ok(tally.is_ok())
}

/// Returns how many test programs run at once, and what each of them is given.
fn arguments() -> io::Result<(usize, Vec<String>)> {
    let mut jobs = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--" => return Ok((jobs, arguments.collect())),
            "--jobs" => {
                let number = arguments.next().and_then(|number| number.parse().ok()).filter(|number| *number > 0);
                jobs = number.ok_or_else(|| io::Error::other("--jobs takes a number from 1"))?;
            }
            other => return Err(io::Error::other(format!("{other}: unknown; cargo suite [--jobs N] [-- ARGS OF EACH TEST PROGRAM]"))),
        }
    }
    Ok((jobs, Vec::new()))
}

/// Runs one program to its end, prints what it said, and adds that up.
fn one(name: &str, command: &mut Command, place: &Path, tally: &Mutex<Tally>) {
    let began = Instant::now();
    let file = |end: &str| place.join(format!("{}.{end}", name.replace("::", "-")));
    let (log, left_out) = (file("log"), file("left-out"));
    let _ = fs::remove_file(&left_out);
    let succeeded = ended(command.env("LONGSHORE_LEFT_OUT", &left_out), &log).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "{name}: {error}");
        false
    });
    let output = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tally.add_output(name, &output, succeeded);
    tally.add_left_out(name, &fs::read_to_string(&left_out).unwrap_or_default());
    // Under the lock, so that no two are mixed.
    println!("     Running {name} ({:.1} s)\n{}", began.elapsed().as_secs_f64(), output.trim_end());
}

/// Runs a command with its output in a file; returns whether it succeeded.
fn ended(command: &mut Command, log: &Path) -> io::Result<bool> {
    let file = File::create(log)?;
    let mut child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?).spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                writeln!(&file, "{status}")?;
            }
            return Ok(status.success());
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            writeln!(&file, "it took longer than {} minutes and was killed", LIMIT.as_secs() / 60)?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
