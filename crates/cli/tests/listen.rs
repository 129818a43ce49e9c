//! The page of a run: what it shows, what can be done on it, and who may.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStderr},
    time::Duration,
};

use common::{Place, finish, text, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A run that is served, and what it has said so far.
struct Served {
    child: Child,
    said: BufReader<ChildStderr>,
    address: String,
}

impl Served {
    fn start(place: &Place, flags: &[&str], rest: &[&str]) -> Self {
        let mut command = place.run();
        command.args(["--listen", "127.0.0.1:0", "--progress", "none", "--summary", "none", "--emit", "none"]).args(flags).args(rest);
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").unwrap_or_else(|| panic!("{line}")).1.to_owned();
        Self { child, said, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    fn get(&self, path: &str) -> String {
        let (status, answer) = self.ask("GET", path, "", "");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    fn facts(&self) -> Value {
        serde_json::from_str(self.get("/api/v1/run").split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Sends a form of the page, as a browser without script does. Returns what the page says then.
    fn submit(&self, fields: &str) -> String {
        let page = self.get("/");
        let token = page.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
        let (status, answer) = self.ask("POST", "/act", FORM, &format!("_token={token}&back=/&{fields}"));
        assert_eq!(status, 303, "{answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().trim().to_owned();
        let page = self.get(&location);
        let said = page.split("role=\"status\">").skip(1).find(|part| part.starts_with(|first: char| first != '<')).unwrap_or_default();
        said.split('<').next().unwrap().replace("&#x2f;", "/")
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (finish(self.child, PATIENCE).status.code(), said)
    }
}

/// Records that nothing of a page must run.
fn hostile(count: usize) -> String {
    (0..count).fold(String::new(), |mut all, number| {
        let _ = writeln!(all, "{number} <script>alert('record')</script> https://me:hunter2@host/");
        all
    })
}

const FAILS: &str = "case $1 in *[05]' '*) echo \"<script>alert('error')</script>\" >&2; exit 3;; esac; sleep 0.05";

#[test]
fn a_run_is_seen_and_steered_on_its_page_without_any_script() {
    let place = Place::new();
    place.write("in.txt", hostile(4_000));
    place.script("work", FAILS);
    let run = Served::start(&place, &["--name", "shown", "-j", "2"], &["in.txt", "--", "./work", "{}"]);
    until("failures and slow ones", PATIENCE, || {
        let facts = run.facts();
        facts["failed"].as_u64() > Some(2) && facts["ok"].as_u64() > Some(20)
    });
    let page = run.get("/");
    for want in ["shown", "Latency</text>", "Throughput</text>", " of 4,000 done", "exit 3", "&lt;script&gt;alert(", "Slowest", "Pause"] {
        assert!(page.contains(want), "{want}: {page}");
    }
    assert!(!page.contains("<script>alert") && !page.contains("hunter2"), "{page}");
    let story = &run.facts()["story"];
    assert_eq!(story["failures"][0]["error"], "exit 3");
    assert!(story["slowest"].as_array().unwrap().len() == 20 && story["heat"]["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
    assert!(run.get("/metrics").contains("longshore_tasks_total{run=\"shown\",outcome=\"failed\"}"));
    assert!(run.get("/healthz").ends_with("ok\n") && run.get("/readyz").ends_with("ready\n"));

    assert_eq!(run.submit("what=set&concurrency=5"), "at most 5 run at once");
    until("five that run", PATIENCE, || run.facts()["active"] == 5);
    assert_eq!(run.submit("what=set&rate=50%2Fs"), "the pace is 50/s");
    assert_eq!(run.facts()["pace"], "50/s");
    assert!(run.submit("what=pause").starts_with("paused: "));
    until("a pause", PATIENCE, || run.facts()["state"] == "paused" && run.facts()["active"] == 0);
    assert!(run.get("/").contains("Go on"));
    assert_eq!(run.submit("what=resume"), "it goes on");
    until("that it goes on", PATIENCE, || run.facts()["active"] != 0);
    // Refused with a sentence, and nothing changes.
    assert!(run.submit("what=set&rate=fast").contains("`fast`"));
    assert!(run.submit("what=explode").contains("no action explode"));
    // The same for programs.
    let json = |what: &str, body| run.ask("POST", &format!("/api/v1/run/{what}"), "Content-Type: application/json\r\n", body);
    assert!(json("set", r#"{"concurrency":3,"rate":"none"}"#).1.contains("at most 3 run at once; no pace is kept"));
    assert_eq!(run.facts()["concurrency"], 3);
    assert_eq!((json("set", "{}").0, json("set", "nonsense").0, json("nope", "").0), (422, 422, 404));
    assert_eq!(json("cancel", "").0, 200);
    let (code, said) = run.end();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("page: pause shown by anybody on this machine from 127.0.0.1"), "{said}");
    assert!(said.contains("page: set shown by anybody on this machine from 127.0.0.1: refused: "), "{said}");
    assert!(said.contains("stopped: it was cancelled"), "{said}");
}

#[test]
fn nobody_changes_a_run_who_may_not_and_no_secret_is_shown() {
    let place = Place::new();
    place.write("in.txt", hostile(2_000));
    place.script("work", FAILS);
    let token = "a-long-enough-token";
    let command = ["--web-token", token, "--hide-args", "in.txt", "--", "./work", "{}", "--password", "hunter2"];
    let run = Served::start(&place, &["--name", "guarded", "-j", "2"], &command);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    // Who shows nothing sees nothing but that it lives.
    assert_eq!(run.ask("GET", "/", "", "").0, 303);
    assert_eq!((run.ask("GET", "/api/v1/run", "", "").0, run.ask("GET", "/metrics", "", "").0), (401, 401));
    assert_eq!(run.ask("GET", "/healthz", "", "").0, 200);
    until("failures", PATIENCE, || run.ask("GET", "/", &bearer, "").1.contains("exit 3"));
    for path in ["/", "/api/v1/run"] {
        let (status, seen) = run.ask("GET", path, &bearer, "");
        assert_eq!(status, 200, "{seen}");
        for hidden in ["hunter2", token, "alert("] {
            assert!(!seen.contains(hidden), "{path} {hidden}: {seen}");
        }
    }
    // A form of another site, one without the page's token, and a program's request from a browser.
    let page = run.ask("GET", "/", &bearer, "").1;
    let form_token = page.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
    let body = format!("_token={form_token}&what=cancel");
    let json = "Content-Type: application/json\r\n";
    for (path, headers, body) in [
        ("/act", format!("{bearer}{FORM}Sec-Fetch-Site: cross-site\r\n"), body.as_str()),
        ("/act", format!("{bearer}{FORM}Origin: https://other.example\r\n"), body.as_str()),
        ("/act", format!("{bearer}{FORM}"), "what=cancel"),
        ("/api/v1/run/cancel", format!("{bearer}{json}Sec-Fetch-Site: cross-site\r\n"), "{}"),
    ] {
        let (status, answer) = run.ask("POST", path, &headers, body);
        assert_eq!(status, 403, "{path} {headers}: {answer}");
    }
    assert_eq!(run.ask("POST", "/api/v1/run/cancel", json, "{}").0, 401);
    assert_eq!(run.ask("POST", "/api/v1/run/cancel", &format!("{bearer}{FORM}"), &body).0, 415);
    assert!(run.ask("GET", "/api/v1/run", &bearer, "").1.contains("\"state\":\"running\""));
    assert_eq!(run.ask("POST", "/api/v1/run/cancel", &format!("{bearer}{json}"), "{}").0, 200);
    let (code, said) = run.end();
    assert_eq!(code, Some(5), "{said}");
    // The journal keeps the command line without its secrets.
    let journal = std::fs::read_to_string(place.journal_path().unwrap()).unwrap();
    assert!(!journal.lines().next().unwrap().contains(token), "{journal}");
}

#[test]
fn an_address_that_cannot_be_listened_on_is_refused_before_anything_runs() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, want) in [
        (vec!["--listen", address.as_str()], "cannot listen there"),
        (vec!["--listen", "0.0.0.0:0"], "needs a token (--web-token)"),
        (vec!["--listen", "127.0.0.1:0", "--web-token", "short"], "less than 16 characters"),
        (vec!["--listen", "127.0.0.1:0", "--web-password", "me"], "write USER:PASSWORD"),
    ] {
        let output = place.run().args(&flags).args(["--", "touch", "ran", ":::", "a"]).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(want), "{flags:?}: {:?} {said}", output.status);
        assert!(!place.path("ran").exists() && place.journal_path().is_none(), "{flags:?}");
    }
}
