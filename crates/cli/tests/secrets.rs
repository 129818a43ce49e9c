//! Secrets: no output and no journal shows one, however it was spelled, and a job that needs some
//! still resumes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use common::{BIN, Place, run};

/// Spellings of a broker with a secret in them; none of them connects to anything.
const BROKERS: [&str; 12] = [
    "redis:/u:S3CRET@h",
    "redis//u:S3CRET@h",
    "redis:u:S3CRET@h",
    "redis: //u:S3CRET@h",
    "rdis:/u:S3CRET@h",
    "u:S3CRET@h:6379",
    ":S3CRET@h",
    "amqp://u:S3CRET@h//",
    "redis://u:a/S3CRET@h:port",
    "redis://h:6379/0?pasword=S3CRET",
    "redis://h:x/0?password=S3CRET",
    "redis://:S3CRET",
];

fn longshore(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(BIN);
    command.args(words).current_dir(place.dir.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    if place.path("longshore.toml").exists() {
        command.env("LONGSHORE_CONFIG", "longshore.toml");
    }
    command.env("HOME", place.dir.path()).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[test]
fn errors_and_settings_hide_secrets_however_they_are_spelled() {
    for broker in BROKERS {
        let place = Place::new();
        place.write(
            "longshore.toml",
            format!(
                "[connections]\nbroker = {broker:?}\n[run]\nproxy = {broker:?}\nheader = [\"Authorization: Bearer S3CRET\", \"X-Api-Key: S3CRET\"]\n\
                 env = {{ GITHUB_PAT = \"S3CRET\", DB = {broker:?} }}\n[job.a]\nhttp = \"GET https://h/x?token=S3CRET&page=2\"\n\
                 [job.b]\ncommand = [\"curl\", \"--oauth2-bearer\", \"S3CRET\", {broker:?}]\n\
                 [kafka.orders]\nsetting = {{ \"sasl.password\" = \"S3CRET\" }}\n"
            ),
        );
        let words: [&[&str]; 6] = [
            &["config", "show"],
            &["config", "show", "--json"],
            &["config", "show", "--origin"],
            &["config", "check"],
            &["queues"],
            &["queues", "--broker", broker, "--json"],
        ];
        for words in words {
            let (code, stdout, stderr) = run(&mut longshore(&place, words));
            let shown = format!("{stdout}{stderr}");
            assert!(!shown.contains("S3CRET"), "{words:?} with {broker}: {shown}");
            assert!(!shown.is_empty(), "{words:?} with {broker}: exit {code}");
        }
    }
}

/// A job that succeeds once there is a file `ready`, and only with its secrets.
fn job(place: &Place, flags: &[&str]) -> Command {
    let mut command = place.run();
    command.args(["--name", "s", "--progress", "none", "--summary", "none", "--env", "GITHUB_PAT={{ 'S3CRET' }}"]);
    command.args(flags).args(["--shell", "--", "[ \"$GITHUB_PAT\" = S3CRET ] && [ -e ready ] && echo password=S3CRET > seen", ":::", "a"]);
    command
}

fn jobs(place: &Place, words: &[&str]) -> Command {
    let mut command = longshore(place, &["jobs"]);
    command.args(words).arg("--state-dir").arg(place.path("state"));
    command
}

#[test]
fn a_journal_has_no_secrets_and_its_job_resumes_with_them() {
    let place = Place::new();
    let (code, _, stderr) = run(&mut job(&place, &[]));
    assert_eq!(code, 1, "{stderr}");
    let path = place.journal_path().unwrap();
    let journal = fs::read_to_string(&path).unwrap();
    assert!(!journal.contains("S3CRET") && journal.contains("***"), "{journal}");
    let kept = path.with_extension("args");
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for words in [&["list"][..], &["list", "--json"], &["show", "s"], &["show", "s", "--json"]] {
        let (code, stdout, stderr) = run(&mut jobs(&place, words));
        assert_eq!(code, 0, "{words:?}: {stderr}");
        assert!(!stdout.contains("S3CRET"), "{words:?}: {stdout}");
    }
    place.write("ready", "");
    let (code, _, stderr) = run(place.run().args(["--retry-failed", "s", "--progress", "none"]));
    assert_eq!((code, place.read("seen").trim()), (0, "password=S3CRET"), "{stderr}");
}

#[test]
fn a_job_whose_secrets_are_gone_asks_for_them_and_goes_on_when_they_are_given_again() {
    let place = Place::new();
    run(&mut job(&place, &[]));
    fs::remove_file(place.journal_path().unwrap().with_extension("args")).unwrap();
    place.write("ready", "");
    let (code, _, stderr) = run(place.run().args(["--retry-failed", "s"]));
    assert!(code == 74 && stderr.contains("has secrets in it") && stderr.contains("give all of it again"), "{code}: {stderr}");
    let (code, _, stderr) = run(&mut job(&place, &["--retry-failed"]));
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_journal_with_its_command_line_in_clear_as_older_versions_wrote_it_resumes() {
    let place = Place::new();
    run(&mut job(&place, &[]));
    let path = place.journal_path().unwrap();
    let args: serde_json::Value = serde_json::from_slice(&fs::read(path.with_extension("args")).unwrap()).unwrap();
    fs::remove_file(path.with_extension("args")).unwrap();
    let journal = fs::read_to_string(&path).unwrap();
    let (first, rest) = journal.split_once('\n').unwrap();
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_str(first).unwrap();
    header.insert("args".to_owned(), args);
    header.remove("shown_args").unwrap();
    // Version 1 had no hash in its header, and no lines of what was read. The version is always the
    // first member.
    header.remove("check").unwrap();
    header.remove("longshore").unwrap();
    let others = serde_json::to_string(&header).unwrap();
    let rest: String = rest.lines().filter(|line| !line.starts_with("{\"read\"")).map(|line| format!("{line}\n")).collect();
    fs::write(&path, format!("{{\"longshore\":1,{}\n{rest}", &others[1..])).unwrap();
    place.write("ready", "");
    let (code, _, stderr) = run(place.run().args(["--retry-failed", "s", "--progress", "none"]));
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn mistakes_in_what_holds_a_secret_do_not_tell_it() {
    let place = Place::new();
    for flags in [
        &["--env", "GITHUB_PAT=S3CRET", "--", "true"][..],
        &["--http", "GET http://h/{}", "-H", "Authorization S3CRET"],
        &["--http", "GET http://h/{}", "-H", "Authorization: Bearer S3CRET{"],
        &["--http", "GET ftp://u:S3CRET@h/{}"],
        &["--http", "GET http//u:S3CRET@h/{}"],
    ] {
        let (code, stdout, stderr) = run(place.run().args(flags).args([":::", "a"]));
        assert!(!format!("{stdout}{stderr}").contains("S3CRET"), "{flags:?}: {code} {stderr}");
    }
}

#[test]
fn a_pruned_job_leaves_no_secrets() {
    let place = Place::new();
    place.write("ready", "");
    assert_eq!(run(&mut job(&place, &[])).0, 0);
    let kept = place.journal_path().unwrap().with_extension("args");
    assert!(kept.exists());
    let (code, _, stderr) = run(&mut jobs(&place, &["prune", "--older-than", "0s"]));
    assert!(code == 0 && !kept.exists(), "{stderr}");
}
