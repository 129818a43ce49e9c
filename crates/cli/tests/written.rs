//! Files that are written: a limit of their size (`ulimit -f`) is said, links are not followed,
//! pipes hang nobody.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    io::Read as _,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{BIN, Place, run};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    pipe::PipeFlags,
};

/// A command by the shell, in a directory of its own; `longshore` is the binary. Exit code and
/// stderr.
fn shell(place: &Place, script: &str) -> (i32, String) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("longshore() {{ '{BIN}' \"$@\"; }}\n{script}")]).current_dir(place.path("."));
    if place.path("longshore.toml").exists() {
        command.env("LONGSHORE_CONFIG", "longshore.toml");
    }
    command.env("XDG_STATE_HOME", place.path("state")).env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::null());
    let (code, _, said) = run(command.stderr(Stdio::piped()));
    (code, said)
}

#[test]
fn a_line_of_stderr_is_one_write_so_that_no_result_stands_in_it() {
    // Such a pipe keeps apart what was written apart.
    let (reads, writes) = rustix::pipe::pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC).unwrap();
    let mut command = Command::new(BIN);
    command.args(["run", "--durable", "off", "--progress", "plain", "--summary", "text", "-v"]);
    command
        .args(["--emit", "none", "--shell", "--", "echo oh >&2; exit {}", ":::", "0", "1", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writes);
    let mut child = command.spawn().unwrap();
    drop(command);
    let (mut reads, mut buffer, mut lines) = (fs::File::from(reads), [0; 4096], 0);
    loop {
        match reads.read(&mut buffer).unwrap() {
            0 => break,
            count => assert_eq!(buffer[count - 1], b'\n', "{:?}", String::from_utf8_lossy(&buffer[..count])),
        }
        lines += 1;
    }
    assert!(child.wait().unwrap().code() == Some(1) && lines > 3, "{lines}");
}

#[test]
fn what_is_larger_than_the_process_may_write_is_said_with_exit_74_by_every_command_that_writes() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    place.write("longshore.toml", "[tasks.t]\nexec = [\"true\"]\n");
    assert_eq!(shell(&place, "longshore call t --broker sqlite:t.db").0, 0);
    for words in [
        "completions bash",
        "man pages",
        "--help",
        "run --help",
        "config show",
        "config check",
        "run --durable off --noop --progress none --summary none ::: a b c",
        "run --noop ::: a b c",
        "run --durable off --noop -o out.jsonl ::: a",
        "run --durable off --noop --emit none --summary-file s.json ::: a",
        "run --durable off --emit none -- echo ::: a",
        "call t --broker sqlite:new.db",
        "worker --broker sqlite:t.db --until-empty",
        "worker --broker sqlite:t.db --until-empty --pidfile pid",
    ] {
        let (code, said) = shell(&place, &format!("(ulimit -f 0; longshore {words} >out)"));
        assert_eq!(code, 74, "{words}: {said}");
        assert!(said.contains("may write"), "{words}: {said}");
    }
    let (code, said) = shell(&place, "(mkdir d; cd d; ulimit -f 0; longshore config init)");
    assert_eq!((code, said.contains("may write")), (74, true), "{said}");
    // And where that cannot even be said.
    let (code, _) = shell(&place, "(ulimit -f 0; longshore completions bash >out 2>err)");
    assert_eq!(code, 74);
}

#[test]
fn the_limit_holds_for_longshore_and_its_commands_die_of_it_as_anywhere() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    let script = "ulimit -f 4000; longshore run --durable off --emit jsonl --progress none --summary none --shell -- 'head -c 9000000 /dev/zero > {}' ::: large >out";
    let (code, said) = shell(&place, script);
    assert_eq!(code, 1, "{said}");
    let line = place.read("out");
    assert!(line.contains("XFSZ") || line.contains("153"), "{line}");
    assert!(place.path("large").metadata().unwrap().len() <= 4000 * 1024);
}

#[test]
fn a_file_of_ids_that_takes_no_more_loses_no_id_and_says_where_to_go_on() {
    let place = Place::new();
    place.write("longshore.toml", "[tasks.t]\nexec = [\"true\"]\n");
    let send = |limit: &str, more: &str| {
        shell(
            &place,
            &format!("(ulimit -f {limit}; seq 1 3000 | longshore enqueue t --broker memory://x --args '[{{}}]' --ids ids {more})"),
        )
    };
    // Blocks of 512 bytes or of 1024, as the shell counts them.
    let (code, said) = send("40", "");
    assert_eq!(code, 74, "{said}");
    let sent: usize = said
        .lines()
        .find(|line| line.ends_with("tasks sent"))
        .unwrap()
        .replace(',', "")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let told = said.lines().filter(|line| line.contains("its id is not in the file")).count();
    let file = place.read("ids");
    assert!(sent < 3000 && told > 0 && file.ends_with('\n'), "{sent} {told}");
    assert_eq!(file.lines().count() + told, sent, "every id is in the file or told");
    assert!(said.contains(&format!("longshore enqueue t --skip {sent} ")), "{said}");
    let (code, said) = send("unlimited", &format!("--skip {sent}"));
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.read("ids").lines().count() + told, 3000);
}

#[test]
fn no_link_is_followed_for_a_pidfile_and_nothing_else_is_replaced() {
    let place = Place::new();
    place.write("longshore.toml", "[tasks.t]\nexec = [\"true\"]\n");
    place.write("precious", "precious\n");
    symlink("precious", place.path("link")).unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for name in ["precious", "link", "pipe"] {
        let begun = Instant::now();
        let (code, said) = shell(&place, &format!("longshore worker --broker memory://x --until-empty --pidfile {name}"));
        assert_eq!(code, 74, "{name}: {said}");
        assert!(said.contains(&format!("--pidfile {name}: it ")), "{name}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}");
    }
    assert_eq!(place.read("precious"), "precious\n");
    assert!(place.path("link").is_symlink());
}

#[test]
fn outputs_whose_names_are_ours_follow_no_link_and_a_pipe_without_a_reader_is_said() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    place.write("precious", "precious\n");
    fs::create_dir(place.path("saved")).unwrap();
    symlink("../precious", place.path("saved/1.out")).unwrap();
    fs::create_dir(place.path("pages")).unwrap();
    symlink("../precious", place.path("pages/longshore.1")).unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for words in [
        "run --durable off --emit none --progress none --summary none --save-output saved -- echo {} ::: a",
        "man pages",
        "run --durable off --noop --progress none --summary none -o pipe ::: a",
        "run --durable off --noop --progress none --emit none --summary-file pipe ::: a",
    ] {
        let begun = Instant::now();
        let (code, said) = shell(&place, &format!("longshore {words}"));
        assert_ne!(code, 0, "{words}: {said}");
        assert!(said.contains("symbolic link") || said.contains("nobody reads"), "{words}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{words}");
    }
    assert_eq!(place.read("precious"), "precious\n");
}
