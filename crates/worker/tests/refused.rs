//! What the compiler says of functions that cannot be tasks, where the macro alone cannot see it:
//! each row is compiled with this crate as it was built for this test. (What the macro refuses by
//! itself is a table in `crates/macros/src/expand.rs`, with the place that is underlined.)

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BEFORE: &str =
    "#![allow(unused)]\nuse longshore_worker::{Failure, TaskContext, task};\ntype Reply<T> = Result<T, Failure>;\nstruct Car;\n";

/// The library of this name that was built last, which is the one that this test is linked with.
fn library(folder: &Path, name: &str) -> PathBuf {
    let start = format!("lib{name}-");
    let ours = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.starts_with(&start) && file.ends_with(".rlib")
    };
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(ours);
    found.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok()).expect("the library that is tested")
}

/// Compiles a program, and returns what the compiler says if it refuses.
fn refused(source: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program.rs");
    fs::write(&file, format!("{BEFORE}{}", source.replace("task(", "task(crate = \"longshore_worker\", "))).unwrap();
    let dependencies = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--color", "never", "--out-dir"])
        .arg(folder.path())
        .arg("--extern")
        .arg(format!("longshore_worker={}", library(&dependencies, "longshore_worker").display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg(&file)
        .output()
        .unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_be_a_task_is_refused_in_words_that_say_what_to_do() {
    // Not for another reason.
    let fine = "#[task()] fn f(x: u8, #[args] rest: Vec<u8>) -> Result<u8, Failure> { Ok(x) }\n\
                #[task(fallible)] fn g() -> Reply<u8> { Ok(1) }\n\
                fn h() { let f = 5; let call: longshore_worker::Signature<u8> = g::call(); }";
    assert_eq!(refused(fine), None);
    for (source, says) in [
        (
            "#[task()] fn f() -> Reply<u8> { Ok(1) }",
            &["`Reply<u8>` is a `Result` under another name", "write `#[task(fallible)]`, or `Result<T, E>`", "program.rs:5"][..],
        ),
        ("#[task(fallible)] fn f() -> u8 { 1 }", &["`u8` is no `Result`", "leave `fallible` out"]),
        // Both of serde's traits: one to read an argument, one to send it.
        (
            "#[task()] fn f(car: Car) {}",
            &["`Car: serde::de::DeserializeOwned` is not satisfied", "`Car: serde::Serialize` is not satisfied", "program.rs:5"],
        ),
        ("#[task()] fn f() -> Car { Car }", &["`Car: serde::Serialize` is not satisfied"]),
        ("#[task()] fn f() -> Result<u8, Car> { Err(Car) }", &["`failure`", "Wrong<Car>"]),
        ("#[task()] fn f(#[args] rest: u8) {}\nfn g() { f::call(vec![1]); }", &["mismatched types", "expected `u8`"]),
        ("#[task()] fn f(x: u8) {}\nfn g() { f::call(1, 2); }", &["takes 1 argument but 2 arguments were supplied"]),
        ("#[task()] fn f<T>(x: T) {}", &["a task is one function with one name: it cannot be generic"]),
        ("#[task(retrys = 3)] fn f() {}", &["did you mean `retries`?"]),
    ] {
        let text = refused(source).unwrap_or_else(|| panic!("accepted: {source}"));
        for part in says {
            assert!(text.contains(part), "{source}\nlacks {part}:\n{text}");
        }
    }
}
