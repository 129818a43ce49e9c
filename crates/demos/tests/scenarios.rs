//! The demos: every scenario runs, checks its own results, and says why.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

fn demo(args: &[&str]) -> Output {
    // Asked for at run time: a compiler wrapper that is a shell script loses a name with a hyphen.
    Command::new(std::env::var_os("CARGO_BIN_EXE_longshore-demos").unwrap()).args(args).output().unwrap()
}

#[test]
fn every_scenario_runs_and_compares_its_ways() {
    // Each checks by itself that all of its ways came to the same results, and fails if not.
    let output = demo(&["all", "--scale", "0.05", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let names: Vec<&str> = lines.iter().map(|line| line["scenario"].as_str().unwrap()).collect();
    let said = String::from_utf8(demo(&["nosuch"]).stderr).unwrap();
    assert_eq!(names.join(", "), said.trim_end().split_once("all, ").unwrap().1);
    for line in &lines {
        assert!(!line["why"].as_str().unwrap().is_empty() && !line["ways"].as_array().unwrap().is_empty(), "{line}");
        assert!(line["ways"][0]["seconds"].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn three_waits_take_as_long_as_one_on_every_lane() {
    let output = demo(&["options", "--scale", "0.1", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ways = shown["ways"].as_array().unwrap();
    assert_eq!(ways.len(), 5);
    for way in &ways[1..] {
        assert!(way["speed_up"].as_f64().unwrap() > 1.5, "{way}");
    }
}

#[test]
fn an_unknown_demo_names_those_that_there_are() {
    let output = demo(&["nosuch"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no demo `nosuch`") && said.contains("io-vs-cpu") && said.contains("images"), "{said}");
    assert_eq!(demo(&["options", "--scale", "0"]).status.code(), Some(2));
}
