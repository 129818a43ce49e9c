//! Runs the transcripts in `tests/cmd/*.md` and in the pages of the book, and compares what they
//! print.
//!
//! Each file gets an empty directory, an empty state directory and, if it mentions `$SERVER`, an
//! HTTP server of its own. A block that begins with ````
//! ```file=NAME ```` is written to that file; in a block that begins with ```` ```console ```` each line with `$
//! ` is run by `sh` (lines with `> ` go on with it), and the lines below are what it must print, to
//! stdout and stderr together. `[..]` stands for anything within a line, a line `...` for any
//! number of lines; `[exit N]` follows when the command ends with anything but 0.
//!
//! A file that mentions `$RUN` is about Kafka: it needs that feature, and finds a broker in
//! `LONGSHORE_KAFKA`; `$RUN` is a word that no other run has, for the names of topics.
//!
//! A file whose commands start with `python3` is left out where that is missing.
//!
//! `LONGSHORE_BLESS=1` writes what was printed into the files, `LONGSHORE_CASES=jobs,config` runs
//! only those.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "transcripts/server.rs"]
mod server;

use std::{
    fmt::Write as _,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// No command of a transcript takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_transcript_prints_what_it_shows() {
    run_all(pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd")));
}

#[test]
fn every_page_of_the_book_prints_what_it_shows() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
    run_all([pages(&book), pages(&book.join("reference"))].concat());
}

/// The files of a folder, but for those that `LONGSHORE_CASES` leaves out.
fn pages(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "md"));
    paths.sort();
    assert!(!paths.is_empty());
    if let Ok(only) = std::env::var("LONGSHORE_CASES") {
        paths.retain(|path| only.split(',').any(|name| path.file_stem().is_some_and(|stem| stem == name)));
    }
    paths
}

fn run_all(paths: Vec<PathBuf>) {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = paths.iter().map(|path| scope.spawn(move || transcript(path))).collect();
        running.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "{}\n(LONGSHORE_BLESS=1 takes what was printed)", failures.join("\n"));
}

/// Where a transcript runs.
struct Place {
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
    server: Option<server::Server>,
    /// `longshore.toml` is named, so that it needs no word; not on pages that speak of that word.
    names_settings: bool,
    /// Kafka's address, and the word of this run.
    kafka: Option<(String, String)>,
}

impl Place {
    /// Runs a command. Returns what it printed, with `[exit N]` if it failed.
    fn run(&self, command: &str) -> String {
        let bin = Path::new(env!("CARGO_BIN_EXE_longshore")).parent().unwrap().to_owned();
        let mut path = vec![bin];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = Command::new("sh");
        child.args(["-c", command]).current_dir(self.dir.path()).env_clear();
        child.env("PATH", std::env::join_paths(path).unwrap()).env("HOME", self.state.path()).env("XDG_STATE_HOME", self.state.path());
        child.env("LC_ALL", "C.UTF-8");
        if self.names_settings && self.dir.path().join("longshore.toml").exists() {
            child.env("LONGSHORE_CONFIG", "longshore.toml");
        }
        if let Some(server) = &self.server {
            child.env("SERVER", server.url()).env("SERVER_PORT", server.port().to_string());
        }
        if let Some((address, run)) = &self.kafka {
            child.env("LONGSHORE_KAFKA", address).env("RUN", run);
        }
        child.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut running = child.spawn().unwrap();
        drop(child);
        let (send, printed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            let _ = send.send(bytes);
        });
        let Ok(printed) = printed.recv_timeout(PATIENCE) else {
            let _ = running.kill();
            let _ = running.wait();
            return format!("(killed after {PATIENCE:?})\n");
        };
        let status = running.wait().unwrap();
        let mut text = String::from_utf8_lossy(&printed).into_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        if let Some(server) = &self.server {
            text = text.replace(&server.url(), "$SERVER").replace(&format!(":{}", server.port()), ":$SERVER_PORT");
        }
        if let Some((address, run)) = &self.kafka {
            text = text.replace(run, "$RUN").replace(address, "$KAFKA");
        }
        text = text.replace(&*self.dir.path().to_string_lossy(), "$DIR").replace(&*self.state.path().to_string_lossy(), "$STATE");
        match status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "[exit {code}]").unwrap(),
            None => writeln!(text, "[{status}]").unwrap(),
        }
        text
    }
}

/// Runs one file. The error says what differs.
fn transcript(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let kafka = if text.contains("$RUN") { Some(kafka()) } else { None };
    if let Some(None) = kafka {
        return Ok(());
    }
    if text.contains("\n$ python3 ") && Command::new("python3").arg("--version").output().is_err() {
        longshore_testkit::left_out::missing("python3 is missing: apt-get install python3");
        return Ok(());
    }
    let place = Place {
        kafka: kafka.flatten(),
        names_settings: !text.contains("longshore config trust"),
        dir: tempfile::tempdir().unwrap(),
        state: tempfile::tempdir().unwrap(),
        server: text.contains("$SERVER").then(server::Server::start),
    };
    let (mut blessed, mut differences) = (String::new(), String::new());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((_, line)) = lines.next() {
        writeln!(blessed, "{line}").unwrap();
        if let Some(name) = line.strip_prefix("```file=") {
            let body: String = block(&mut lines).map(|(_, line)| format!("{line}\n")).collect();
            fs::write(place.dir.path().join(name), &body).unwrap();
            blessed += &body;
            blessed += "```\n";
        } else if line == "```console" {
            let mut inside = block(&mut lines).peekable();
            while let Some((number, line)) = inside.next() {
                let mut command =
                    line.strip_prefix("$ ").unwrap_or_else(|| panic!("{}:{}: no command", path.display(), number + 1)).to_owned();
                writeln!(blessed, "{line}").unwrap();
                while let Some((_, more)) = inside.next_if(|(_, line)| line.starts_with("> ")) {
                    write!(command, "\n{}", &more[2..]).unwrap();
                    writeln!(blessed, "{more}").unwrap();
                }
                let mut wanted = Vec::new();
                while let Some((_, line)) = inside.next_if(|(_, line)| !line.starts_with("$ ")) {
                    wanted.push(line);
                }
                let printed = place.run(&command);
                let got: Vec<&str> = printed.lines().collect();
                if all_match(&wanted, &got) {
                    blessed.extend(wanted.iter().flat_map(|line| [line, "\n"]));
                } else {
                    write!(
                        differences,
                        "{}:{}: $ {command}\n--- wanted\n{}\n+++ printed\n{printed}",
                        path.display(),
                        number + 1,
                        wanted.join("\n")
                    )
                    .unwrap();
                    for line in got {
                        let kept = wanted.iter().find(|wanted| **wanted != "..." && matches(wanted, line));
                        writeln!(blessed, "{}", kept.map_or_else(|| without_times(line), |kept| (*kept).to_owned())).unwrap();
                    }
                }
            }
            blessed += "```\n";
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    if std::env::var_os("LONGSHORE_BLESS").is_some() {
        fs::write(path, blessed).unwrap();
        return Ok(());
    }
    Err(differences)
}

/// Where Kafka is, if this build knows it.
#[cfg(feature = "kafka")]
fn kafka() -> Option<(String, String)> {
    Some((longshore_testkit::kafka::shared()?, longshore_testkit::kafka::name("run")))
}

#[cfg(not(feature = "kafka"))]
fn kafka() -> Option<(String, String)> {
    None
}

/// The lines up to the end of a block, and not those behind it.
fn block<'a, L: Iterator<Item = (usize, &'a str)>>(lines: &mut L) -> impl Iterator<Item = (usize, &'a str)> + use<'_, 'a, L> {
    lines.take_while(|(_, line)| *line != "```")
}

/// Whether lines are as wanted; `...` stands for any number of them.
fn all_match(wanted: &[&str], got: &[&str]) -> bool {
    match wanted {
        [] => got.is_empty(),
        ["...", rest @ ..] => (0..=got.len()).any(|skip| all_match(rest, &got[skip..])),
        [first, rest @ ..] => got.split_first().is_some_and(|(line, more)| matches(first, line) && all_match(rest, more)),
    }
}

/// Whether a line is as wanted; `[..]` stands for anything.
fn matches(wanted: &str, line: &str) -> bool {
    match wanted.split_once("[..]") {
        None => wanted == line,
        Some((head, tail)) => line
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| matches(tail, &rest[at..]))),
    }
}

/// For blessing: lines of the summary without what differs from run to run.
fn without_times(line: &str) -> String {
    if let Some((head, tail)) = line.split_once(" in ")
        && let Some(tasks) = head.trim_start().split_once("  ").map(|(_, tasks)| tasks)
        && (tasks.ends_with(" task") || tasks.ends_with(" tasks"))
    {
        let wide = tail.rsplit_once("   ").map_or("", |(_, wide)| wide);
        return format!(" [..]  {tasks} in [..]   {wide}");
    }
    if line.starts_with("   run   p50") {
        return "   run   [..]".to_owned();
    }
    line.to_owned()
}

#[test]
fn wildcards_stand_for_what_differs() {
    for (wanted, line, want) in
        [("a", "a", true), ("a[..]c", "abc", true), ("a[..]c", "ab", false), ("[..]", "", true), ("[..]x[..]", "axxb", true)]
    {
        assert_eq!(matches(wanted, line), want, "{wanted} {line}");
    }
    assert!(all_match(&["a", "...", "c"], &["a", "b", "b", "c"]));
    assert!(!all_match(&["a", "...", "c"], &["a", "b"]));
}
