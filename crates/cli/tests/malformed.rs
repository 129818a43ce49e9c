//! Bad records: each is a finished task that says what is wrong and where, and the good one behind
//! it runs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Place, finish, results, run, text};

/// What a table of bad records is read as.
struct Case {
    /// Flags, and the name of the input.
    input: &'static str,
    flags: &'static [&'static str],
    /// What stands before the bad record (a header).
    head: &'static [u8],
    /// A good record; `GOOD` is what the command gets of it.
    good: &'static [u8],
    /// The command's arguments.
    words: &'static [&'static str],
    /// Bad records, each a name and its bytes without the newline.
    bad: Vec<(&'static str, Vec<u8>)>,
    /// Records that look bad and are good.
    odd: Vec<(&'static str, Vec<u8>)>,
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
    format!("{{\"id\":{}1{}}}", open.repeat(depth), close.repeat(depth)).into_bytes()
}

fn cases() -> Vec<Case> {
    let jsonl = Case {
        input: "in.jsonl",
        flags: &["--max-record", "300KiB"],
        head: b"",
        good: br#"{"id":"GOOD"}"#,
        words: &["{id}"],
        bad: vec![
            ("truncated object", bytes(r#"{"id":"a""#)),
            ("truncated string", bytes(r#"{"id":"a"#)),
            ("truncated escape", bytes(r#"{"id":"\u12"}"#)),
            ("truncated key", bytes(r#"{"i"#)),
            ("only an opening brace", bytes("{")),
            ("only a closing brace", bytes("}")),
            ("a word", bytes("hello world")),
            ("a comment", bytes("// id")),
            ("single quotes", bytes("{'id':'a'}")),
            ("a trailing comma", bytes(r#"{"id":"a",}"#)),
            ("no colon", bytes(r#"{"id" "a"}"#)),
            ("two objects", bytes(r#"{"id":"a"}{"id":"b"}"#)),
            ("an object and rubbish", bytes(r#"{"id":"a"} x"#)),
            ("a bad escape", bytes(r#"{"id":"\q"}"#)),
            ("a control character", b"{\"id\":\"a\x01b\"}".to_vec()),
            ("a tab in a string", b"{\"id\":\"a\tb\"}".to_vec()),
            ("invalid UTF-8 in a string", b"{\"id\":\"\xff\xfe\"}".to_vec()),
            ("an overlong encoding", b"{\"id\":\"\xc0\xaf\"}".to_vec()),
            ("invalid UTF-8 in a key", b"{\"id\":\"a\",\"\xff\":1}".to_vec()),
            ("UTF-16", "{\"id\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("binary", (0..=255u8).filter(|byte| *byte != b'\n').collect()),
            ("NULs", vec![0; 64]),
            ("a NUL in an argument", bytes(r#"{"id":"a\u0000b"}"#)),
            ("a field that is missing", bytes(r#"{"di":"a"}"#)),
            ("an empty object", bytes("{}")),
            ("a field that is null", bytes(r#"{"id":null}"#)),
            ("an array", bytes(r#"["id"]"#)),
            ("a number", bytes("17")),
            ("a string", bytes(r#""id""#)),
            ("null", bytes("null")),
            ("NaN", bytes(r#"{"id":NaN}"#)),
            ("a leading zero", bytes(r#"{"id":012}"#)),
            ("a hexadecimal number", bytes(r#"{"id":0x12}"#)),
            ("a byte order mark in the middle", b"\xef\xbb\xbf{\"id\":\"x\"}".to_vec()),
            ("a lone minus", bytes(r#"{"id":-}"#)),
            ("a depth of 100,000 arrays", nested("[", "]", 100_000)),
            ("a depth of 40,000 objects", nested("{\"a\":", "}", 40_000)),
            ("100,000 open brackets", vec![b'['; 100_000]),
            ("longer than --max-record", format!("{{\"id\":\"{}\"}}", "x".repeat(400 << 10)).into_bytes()),
        ],
        odd: vec![
            ("empty line", bytes("")),
            ("spaces", bytes("   ")),
            ("CRLF", bytes("{\"id\":\"x\"}\r")),
            ("duplicate keys", bytes(r#"{"id":"x","id":"y"}"#)),
            ("spaces around", bytes(r#"   {"id":"x"}   "#)),
            ("an object as a field", bytes(r#"{"id":{"a":[1,2]}}"#)),
        ],
    };
    let csv = Case {
        input: "in.csv",
        flags: &["--max-record", "300KiB"],
        head: b"id,name\n",
        good: b"GOOD,x",
        words: &["{id}"],
        bad: vec![
            ("too few fields", bytes("a")),
            ("too many fields", bytes("a,b,c")),
            ("invalid UTF-8 and too many", b"\xff,\xff,\xff".to_vec()),
            ("a NUL", b"a\0b,c".to_vec()),
            ("longer than --max-record", format!("{},y", "x".repeat(400 << 10)).into_bytes()),
        ],
        odd: vec![
            ("empty line", bytes("")),
            ("CRLF", bytes("a,b\r")),
            ("quotes in the middle", bytes("a\"b,c")),
            ("a quoted newline", bytes("\"a\nb\",c")),
            ("only separators", bytes(",")),
        ],
    };
    let lines = Case {
        input: "in.txt",
        flags: &["--max-record", "1KiB"],
        head: b"",
        good: b"GOOD",
        words: &[],
        bad: vec![("a NUL", b"a\0b".to_vec()), ("longer than --max-record", vec![b'x'; 2000])],
        odd: vec![
            ("not UTF-8", b"\xff\xfe\x80".to_vec()),
            ("a flag", bytes("-rf")),
            ("quotes", bytes("'\"$(id)`")),
            ("CRLF", bytes("x\r")),
            ("JSON that is none", bytes("{\"id\"")),
        ],
    };
    let json_of_lines = Case {
        input: "json.txt",
        flags: &["--pipe", "cat"],
        head: b"",
        good: b"GOOD",
        words: &[],
        bad: vec![],
        odd: vec![("not UTF-8", b"\xff\xfe\x80".to_vec()), ("empty", bytes(""))],
    };
    vec![jsonl, csv, lines, json_of_lines]
}

impl Case {
    fn command(&self, place: &Place, more: &[&str]) -> Command {
        let mut command = place.run();
        command.args(["-j", "2", "-o", "out.jsonl", "--summary", "none", "--progress", "none"]).args(self.flags).args(more).arg(self.input);
        if !self.flags.contains(&"--pipe") {
            command.args(["--", "printf", "%s"]).args(self.words);
        }
        command
    }

    /// An input with each of these records before a good one, and the numbers of the lines on which
    /// they stand.
    fn write(&self, place: &Place, records: &[(&str, Vec<u8>)]) -> Vec<usize> {
        let mut input = self.head.to_vec();
        let mut lines = Vec::new();
        for (_, record) in records {
            lines.push(input.iter().filter(|byte| **byte == b'\n').count() + 1);
            for part in [record, self.good] {
                input.extend_from_slice(part);
                input.push(b'\n');
            }
        }
        place.write(self.input, input);
        lines
    }
}

#[test]
fn every_bad_record_fails_with_its_line_and_the_good_one_behind_it_runs() {
    let mut seen = 0;
    for case in cases() {
        for records in [&case.bad, &case.odd] {
            if records.is_empty() {
                continue;
            }
            let bad = std::ptr::eq(records, &case.bad);
            let place = Place::new();
            let lines = case.write(&place, records);
            let (code, _, stderr) = run(&mut case.command(&place, &[]));
            assert!(code == i32::from(bad) || !bad && code == 1, "{}: {code} {stderr}", case.input);
            let results = results(&place.path("out.jsonl"));
            let good = results.values().filter(|line| line["outcome"] == "ok" && line.to_string().contains("GOOD")).count();
            assert_eq!(good, records.len(), "{}: {stderr}", case.input);
            if !bad {
                assert!(
                    results.values().all(|line| line["outcome"] == "ok"),
                    "{}: {:?}",
                    case.input,
                    results.values().find(|line| line["outcome"] != "ok")
                );
                continue;
            }
            let failed: Vec<_> = results.values().filter(|line| line["outcome"] != "ok").collect();
            assert_eq!(failed.len(), records.len(), "{}", case.input);
            for (at, (name, _)) in records.iter().enumerate() {
                let line = failed[at];
                assert_eq!(line["outcome"], "failed", "{name}: {line}");
                assert_eq!(line["error"]["kind"], "invalid", "{name}: {line}");
                let message = line["error"]["message"].as_str().unwrap();
                assert!(message.contains(&format!("{} line {}", case.input, lines[at])), "{name}, line {}: {message}", lines[at]);
                assert!(message.len() < 400, "{name}: {message}");
                seen += 1;
            }

            // --strict: all are listed, nothing runs.
            let strict = Place::new();
            case.write(&strict, records);
            let (code, stdout, stderr) = run(&mut case.command(&strict, &["--strict"]));
            assert_eq!((code, stdout.as_str()), (3, ""), "{}: {stderr}", case.input);
            assert!(stderr.contains(&format!("{} of {} records are bad", records.len(), 2 * records.len())), "{stderr}");
            for line in &lines {
                assert!(stderr.contains(&format!("{} line {line}", case.input)), "{stderr}");
            }
            assert!(!strict.path("out.jsonl").exists() && strict.journal_path().is_none(), "nothing is begun");
        }
    }
    assert!(seen >= 40, "{seen}");
    println!("malformed: {seen} bad records, all survived");
}

#[test]
fn a_byte_order_mark_at_the_beginning_is_none_of_the_record() {
    for (name, input, words) in
        [("a.jsonl", "\u{feff}{\"id\":\"x\"}\n", "{id}"), ("a.csv", "\u{feff}id,n\nx,1\n", "{id}"), ("a.txt", "\u{feff}x\n", "{}")]
    {
        let place = Place::new();
        place.write(name, input);
        let (code, stdout, stderr) = run(place.run().args([name, "--summary", "none", "--", "printf", "%s", words]));
        assert_eq!((code, stdout.as_str()), (0, "x"), "{name}: {stderr}");
    }
}

#[test]
fn an_unterminated_quote_takes_the_rest_and_says_where_it_began() {
    let place = Place::new();
    place.write("in.csv", "id,name\n1,x\n2,\"y\n3,z\n");
    let (code, _, stderr) = run(place.run().args(["in.csv", "-o", "out.jsonl", "--summary", "none", "--", "echo", "{id}"]));
    assert_eq!(code, 1, "{stderr}");
    let results = results(&place.path("out.jsonl"));
    assert_eq!(results[&1]["outcome"], "ok");
    assert_eq!((&results[&2]["outcome"], &results[&2]["error"]["kind"]), (&"failed".into(), &"invalid".into()));
    assert!(results[&2]["error"]["message"].as_str().unwrap().contains("in.csv line 3: "), "{}", results[&2]);
}

#[test]
fn an_input_that_cannot_be_read_ends_with_3() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    for input in ["missing.txt", "folder"] {
        let (code, stdout, stderr) = run(place.run().args([input, "--", "echo"]));
        assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
        assert!(stderr.contains(input) && stderr.lines().count() == 1, "{stderr}");
        assert!(place.journal_path().is_none(), "no job is begun");
    }
    // It begins well and then cannot be read: what was read has run, and the rest is named.
    place.write("good.txt", "a\nb\n");
    let (code, stdout, stderr) = run(place.run().args(["good.txt", "/proc/self/mem", "--summary", "none", "--", "echo"]));
    assert_eq!(code, 3, "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert!(stderr.contains("/proc/self/mem"), "{stderr}");
}

#[test]
fn a_line_of_a_gigabyte_takes_no_memory() {
    let size = common::number("LONGSHORE_LINE_MIB", 128);
    for format in ["lines", "jsonl", "csv", "nul"] {
        let place = Place::new();
        let mut zero = Command::new("head").args(["-c", &(size << 20).to_string(), "/dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut command = place.run();
        command.args([
            "--format",
            format,
            "--max-record",
            "1MiB",
            "-o",
            "out.jsonl",
            "--summary",
            "none",
            "--progress",
            "none",
            "--",
            "printf",
            "%s",
            "{#}",
        ]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (mut from, mut to) = (zero.stdout.take().unwrap(), child.stdin.take().unwrap());
        let feeder = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = std::io::Read::read(&mut from, &mut buffer).unwrap();
                // For NUL records the byte is the end of one.
                buffer[..read].fill(b'x');
                if read == 0 || to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to.write_all(if format == "nul" { b"\0{\"a\":1}\0" } else { b"\n{\"a\":1}\n" });
        });
        let pid = child.id();
        let watcher = thread::spawn(move || {
            let mut most = 0;
            while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
                let Some(kib) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else { break };
                most = kib.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap().max(most);
                thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let output = finish(child, Duration::from_secs(100));
        feeder.join().unwrap();
        zero.wait().unwrap();
        let most = watcher.join().unwrap() >> 10;
        println!("malformed: a line of {size} MiB as {format}: {most} MiB at most");
        // In a table that line is the header, without which nothing can be read.
        assert_eq!(output.status.code(), Some(if format == "csv" { 3 } else { 1 }), "{}", text(&output.stderr));
        assert!(most < 64, "{format}: {most} MiB");
        if format != "csv" {
            let results = results(&place.path("out.jsonl"));
            assert_eq!((results.len(), &results[&1]["error"]["kind"], &results[&2]["outcome"]), (2, &"invalid".into(), &"ok".into()));
        }
    }
}
