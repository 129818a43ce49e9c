//! Runs all tests of the workspace, and closes with their sum and with what was left out:
//! `cargo suite [--jobs N] [-- ARGS OF EACH TEST PROGRAM]`.
//!
//! It does what `cargo test --workspace --all-features --no-fail-fast` does, with two differences:
//! test programs run several at once, because most of them wait most of the time, those that wait
//! for servers with more threads than there are cores, and each one's output is printed as a whole
//! when it has ended; and tests that find something missing on this machine are counted and named
//! at the end, with the way to get it.
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
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tally::Tally;

/// Flags that say which packages and features are tested.
const FLAGS: [&str; 2] = ["--workspace", "--all-features"];

/// Programs that wait for servers and for time to pass, and how many of their tests run at once.
/// They have a line of their own, beside those that compute; with more of them at once on two
/// cores, tests that look at times fail. What takes longest begins first.
const WAITING: [(&str, usize); 4] = [("interop::interop", 2), ("kafka::kafka", 3), ("brokers", 8), ("kafka::kafka_members", 2)];
/// Lines of them.
const WAITING_LINES: usize = 1;
/// Of the other programs, those that take longest begin first, so that no core waits for one of
/// them at the end.
const LONGEST: [&str; 6] = [DOCUMENTATION, "cli::kafka_permissions", "cli::kafka", "worker::poison", "cli::transcripts", "testkit::soak"];
/// What stands in the documentation: cargo compiles and runs it by itself.
const DOCUMENTATION: &str = "documentation";

/// The longest that a test program may take; the longest of them takes four minutes.
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
    let programs = programs::build(&cargo, &FLAGS)?;
    let target = programs
        .first()
        .and_then(|program| program.executable.parent()?.parent()?.parent())
        .map_or_else(|| "target".into(), Path::to_owned);
    let place = target.join("suite");
    fs::create_dir_all(&place)?;
    println!("built in {:.0} s; {} test programs, {jobs} at once", began.elapsed().as_secs_f64(), programs.len());
    let mut programs: Vec<(String, Command)> = programs.iter().map(|program| (program.name.clone(), program.command(&passed_on))).collect();
    let mut documented = Command::new(&cargo);
    documented.arg("test").args(FLAGS).args(["--doc", "--no-fail-fast", "--quiet"]);
    programs.push((DOCUMENTATION.to_owned(), documented));
    let (lines, tally) = (Mutex::new(Lines::new(programs)), Mutex::new(Tally::default()));
    let next = |waits: bool| lines.lock().unwrap_or_else(PoisonError::into_inner).next(waits);
    thread::scope(|scope| {
        for line in 0..jobs {
            let (next, place, tally) = (&next, &place, &tally);
            scope.spawn(move || {
                while let Some((name, mut command)) = next(line < WAITING_LINES) {
                    one(&name, &mut command, place, tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("\n{}", tally.closing(began.elapsed()));
    Ok(tally.is_ok())
}

/// Programs that have not begun.
struct Lines {
    waiting: VecDeque<(String, Command)>,
    others: VecDeque<(String, Command)>,
}

impl Lines {
    fn new(programs: Vec<(String, Command)>) -> Self {
        let place = |name: &str| WAITING.iter().position(|(waits, _)| *waits == name);
        let (mut waiting, mut others): (Vec<_>, Vec<_>) = programs.into_iter().partition(|(name, _)| place(name).is_some());
        waiting.sort_by_key(|(name, _)| place(name));
        for (name, command) in &mut waiting {
            let threads = place(name).map_or(1, |place| WAITING[place].1);
            if std::env::var_os("RUST_TEST_THREADS").is_none() {
                command.env("RUST_TEST_THREADS", threads.to_string());
            }
        }
        others.sort_by_key(|(name, _)| LONGEST.iter().position(|longest| longest == name).unwrap_or(LONGEST.len()));
        Self { waiting: waiting.into(), others: others.into() }
    }

    /// Returns the next one for a line: of its own kind, as long as there are any.
    fn next(&mut self, waits: bool) -> Option<(String, Command)> {
        let (first, second) = if waits { (&mut self.waiting, &mut self.others) } else { (&mut self.others, &mut self.waiting) };
        first.pop_front().or_else(|| second.pop_front())
    }
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
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_its_own_kind_first_and_the_longest_of_it() {
        let programs = ["cli", "brokers", "cli::kafka", "interop::interop", "ops", DOCUMENTATION];
        let mut lines = Lines::new(programs.map(|name| (name.to_owned(), Command::new(name))).into());
        let order: Vec<String> = [true, false, false, true, true, false, false]
            .into_iter()
            .filter_map(|waits| lines.next(waits))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(order, ["interop::interop", DOCUMENTATION, "cli::kafka", "brokers", "cli", "ops"]);
    }
}
