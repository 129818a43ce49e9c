//! `longshore demo`: the demos are a program of their own.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Puts a program into a directory that says its arguments.
fn install(dir: &Path, says: &str) {
    let program = dir.join("longshore-demos");
    fs::write(&program, format!("#!/bin/sh\necho {says} \"$@\"\nexit 3\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts this build's program into a directory of its own, with no other beside it.
fn alone(dir: &Path) -> PathBuf {
    let program = dir.join("longshore");
    if fs::hard_link(env!("CARGO_BIN_EXE_longshore"), &program).is_err() {
        fs::copy(env!("CARGO_BIN_EXE_longshore"), &program).unwrap();
    }
    program
}

fn demo(program: &Path, args: &[&str], path: &Path) -> Output {
    Command::new(program).args(args).env("PATH", path).output().unwrap()
}

#[test]
fn the_demos_beside_this_program_go_before_those_in_the_path_and_get_its_words() {
    let (own, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = alone(own.path());
    install(path.path(), "from PATH:");
    for (args, said) in [
        (&["demo", "images", "--scale", "0.1"][..], "from PATH: images --scale 0.1\n"),
        (&["--json", "demo", "urls"], "from PATH: urls --json\n"),
        (&["demo", "--help"], "from PATH: --help\n"),
    ] {
        let output = demo(&program, args, path.path());
        assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()), (said, Some(3)), "{args:?}");
    }
    install(own.path(), "beside:");
    // A link to the program is the program: what is beside that counts.
    let linked = path.path().join("ls");
    symlink(&program, &linked).unwrap();
    for program in [&program, &linked] {
        assert_eq!(demo(program, &["demo"], path.path()).stdout, b"beside:\n");
    }
}

#[test]
fn without_the_demos_their_command_says_what_brings_them() {
    let (own, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = demo(&alone(own.path()), &["demo", "images"], empty.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("longshore-demos") && said.contains("cargo install --path crates/demos"), "{said}");
}
