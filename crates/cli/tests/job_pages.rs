//! The dashboard's pages of jobs: runs of other processes and journals of runs that are over.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{BIN, Place, finish, signal, text, until};
use rustix::process::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const QUIET: [&str; 6] = ["--progress", "none", "--summary", "none", "--emit", "none"];

/// A dashboard over the jobs of a place.
struct Dashboard {
    child: Child,
    address: String,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dashboard {
    fn start(place: &Place, flags: &[&str]) -> Self {
        let mut command = Command::new(BIN);
        command.args(["dashboard", "--broker", "memory://jobs", "--listen", "127.0.0.1:0", "--state-dir"]).arg(place.path("state"));
        command.args(flags).current_dir(place.dir.path()).env("HOME", place.dir.path());
        command.env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(" page http://") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it has ended");
        }
        // Nobody reads what else it says, and it must not stop for that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer[9..12].parse().unwrap(), answer)
    }

    fn get(&self, path: &str) -> String {
        let (status, answer) = self.ask("GET", path, "", "");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    fn facts(&self, path: &str) -> Value {
        serde_json::from_str(self.get(path).split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn job(&self, job: &str) -> Value {
        self.facts(&format!("/api/v1/jobs/{job}"))
    }

    /// Sends a form of a job's page, as a browser without script does. Returns what is said then.
    fn submit(&self, job: &str, fields: &str) -> String {
        let page = format!("/jobs/{job}");
        let html = self.get(&page);
        let token = html.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let (status, answer) = self.ask("POST", &format!("{page}/act"), form, &format!("_token={token}&back={page}&{fields}"));
        assert_eq!(status, 303, "{answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().trim().to_owned();
        let html = self.get(&location);
        let said = html.split("class=\"said").nth(1).unwrap_or_default().split_once('>').unwrap_or_default().1;
        said.split('<').next().unwrap().to_owned()
    }
}

const WORK: &str = "case $1 in *5' '*) echo \"<script>alert('error')</script>\" >&2; exit 3;; esac";

fn records(count: usize) -> String {
    (0..count).map(|number| format!("{number} <script>alert('record')</script> https://me:hunter2@host/\n")).collect()
}

#[test]
fn a_job_that_runs_is_seen_and_steered_and_one_that_was_killed_is_stopped_and_one_that_is_over_has_its_results() {
    let place = Place::new();
    // A hostile name, too: names of files are anybody's.
    place.write("<b>in.txt", records(40));
    place.write("long.txt", records(4_000));
    place.script("work", WORK);
    place.script("slow", &format!("{WORK}\nsleep 0.1"));
    let over = place.run().args(QUIET).args(["--name", "over", "<b>in.txt", "--", "./work", "{}"]).output().unwrap();
    assert_eq!(over.status.code(), Some(1), "{}", text(&over.stderr));
    let run = |name: &str| {
        let mut command = place.run();
        command.args(QUIET).args(["--name", name, "-j", "2", "long.txt", "--", "./slow", "{}"]).spawn().unwrap()
    };
    let (mut killed, steered) = (run("killed"), run("steered"));
    let dashboard = Dashboard::start(&place, &[]);
    let known = |job: &str| dashboard.ask("GET", &format!("/api/v1/jobs/{job}"), "", "").0 == 200;
    until("both jobs", PATIENCE, || known("killed") && known("steered"));

    // One that runs.
    until("failures and slow ones", PATIENCE, || {
        dashboard.job("steered")["failed"].as_u64() > Some(1) && dashboard.job("killed")["done"].as_u64() > Some(5)
    });
    assert_eq!(dashboard.submit("steered", "what=set&concurrency=5"), "at most 5 run at once");
    until("five that run", PATIENCE, || dashboard.job("steered")["run"]["active"] == 5);
    assert!(dashboard.submit("steered", "what=pause").starts_with("paused: "));
    until("a pause", PATIENCE, || dashboard.job("steered")["state"] == "paused");
    let json =
        |path: &str, headers: &str, body: &str| dashboard.ask("POST", path, &format!("Content-Type: application/json\r\n{headers}"), body);
    assert_eq!(json("/api/v1/jobs/steered/resume", "", "").0, 200);
    until("that it goes on", PATIENCE, || dashboard.job("steered")["state"] == "running");
    // Who may not changes nothing.
    assert_eq!(json("/api/v1/jobs/steered/cancel", "Sec-Fetch-Site: cross-site\r\n", "").0, 403);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(dashboard.ask("POST", "/jobs/steered/act", form, "what=cancel").0, 403);
    assert!(dashboard.submit("steered", "what=explode").contains("no action explode"));

    // One that was killed does not run, whatever its guardian still does, and is not steered.
    assert_eq!(dashboard.job("killed")["state"], "running");
    signal(&killed, Signal::KILL);
    killed.wait().unwrap();
    until("that it is stopped", PATIENCE, || dashboard.job("killed")["state"] == "stopped");
    let page = dashboard.get("/jobs/killed");
    assert!(page.contains("stopped</span>") && page.contains("longshore run --resume") && !page.contains("action=\"/jobs/"), "{page}");
    let (status, answer) = json("/api/v1/jobs/killed/pause", "", "");
    assert!(status == 409 && answer.contains("runs here"), "{status} {answer}");

    // One that is over.
    let over = dashboard.job("over");
    assert_eq!((&over["state"], &over["done"], &over["failed"], &over["exit"]), (&"finished".into(), &40.into(), &4.into(), &1.into()));
    assert_eq!(over["run"]["story"]["failures"][0]["count"], 4);
    let list = dashboard.facts("/api/v1/jobs");
    let mut states: Vec<_> = list["jobs"].as_array().unwrap().iter().map(|job| (&job["name"], &job["state"])).collect();
    states.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(
        format!("{states:?}").replace("String", ""),
        r#"[(("killed"), ("stopped")), (("over"), ("finished")), (("steered"), ("running"))]"#
    );
    for path in ["/jobs", "/jobs/over", "/jobs/killed", "/jobs/steered"] {
        let page = dashboard.get(path);
        assert!(!page.contains("<script>alert") && !page.contains("<b>in") && !page.contains("hunter2"), "{path}: {page}");
    }
    // Its results, whole or in part, as the command exports them.
    let exported = |words: &[&str]| {
        let output =
            Command::new(BIN).args(["jobs", "export", "over", "--state-dir"]).arg(place.path("state")).args(words).output().unwrap();
        text(&output.stdout)
    };
    for (query, words) in [("", &[][..]), ("?as=csv", &["--as", "csv"]), ("?only=failed&as=tsv", &["--only", "failed", "--as", "tsv"])] {
        let answer = dashboard.get(&format!("/jobs/over/results{query}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("content-disposition: attachment"), "{head}");
        // In pieces, each behind its length.
        let lines = |text: &str| text.lines().filter(|line| line.len() > 8).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(body), lines(&exported(words)), "{query}");
    }
    for (path, want) in
        [("/jobs/nope", 404), ("/jobs/nope/results", 404), ("/jobs/..%2f..%2fover", 404), ("/jobs/over/results?as=exe", 422)]
    {
        assert_eq!(dashboard.ask("GET", path, "", "").0, want, "{path}");
    }
    assert_eq!(json("/api/v1/jobs/steered/cancel", "", "").0, 200);
    assert_eq!(finish(steered, PATIENCE).status.code(), Some(5));
}

#[test]
fn records_and_results_are_hidden_and_a_broken_journal_hides_no_other() {
    let place = Place::new();
    place.write("in.txt", records(20));
    place.script("work", WORK);
    for name in ["good", "bad"] {
        place.run().args(QUIET).args(["--name", name, "in.txt", "--", "./work", "{}"]).output().unwrap();
    }
    // Its end cannot be read any more, and neither can what stands before.
    let path = place.journal_path().unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}nonsense\n")).unwrap();
    let dashboard = Dashboard::start(&place, &["--hide-args", "--web-read-only"]);
    let state = |name: &str| {
        let list = dashboard.facts("/api/v1/jobs");
        let job = list["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).cloned().unwrap();
        job["state"].as_str().unwrap().to_owned()
    };
    until("a look at both", PATIENCE, || state("good") == "finished" && state("bad") == "broken");
    let (status, answer) = dashboard.ask("GET", "/jobs/bad", "", "");
    assert!(status == 422 && answer.contains("no line of a journal"), "{status} {answer}");
    for path in ["/jobs/good", "/api/v1/jobs/good"] {
        let seen = dashboard.get(path);
        assert!(seen.contains("exit 3") && !seen.contains("alert("), "{path}: {seen}");
    }
    assert_eq!(dashboard.ask("GET", "/jobs/good/results", "", "").0, 403);
}
