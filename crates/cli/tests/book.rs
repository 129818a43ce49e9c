//! The book in `docs/`: its links lead somewhere, and its reference is what `--help` says. What its
//! commands print is compared by `transcripts.rs`.
//!
//! `LONGSHORE_BLESS=1` writes the reference anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src")
}

fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [book(), book().join("reference")] {
        found.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| path.extension().is_some_and(|ext| ext == "md"));
    found
}

/// The targets of a page's links, `](target)`, outside of blocks of code.
fn links(text: &str) -> Vec<String> {
    let mut inside = false;
    let prose = text.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside
    });
    let mut found = Vec::new();
    for line in prose {
        for part in line.split("](").skip(1) {
            found.push(part.split(')').next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn links_of_the_book_and_of_the_readme_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let texts = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root.join(name));
    let mut seen = 0;
    for page in pages().into_iter().chain(texts) {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(page.parent().unwrap().join(target).exists(), "{}: no {target}", page.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let summary = links(&fs::read_to_string(book().join("SUMMARY.md")).unwrap());
    for page in pages() {
        let name = page.strip_prefix(book()).unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || summary.iter().any(|link| link == name), "{name} is not in SUMMARY.md");
    }
}

/// What `longshore ARGS --help` prints, if there is such a command.
fn try_help(args: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    let output = command.args(args).arg("--help").env_clear().env("LC_ALL", "C.UTF-8").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// The command lines that a page names: lines of blocks of `sh`, and code within a sentence.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = None;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_none() { Some(language) } else { None };
        } else if block == Some("sh") {
            found.push(line.split(" #").next().unwrap().to_owned());
        } else if block.is_none() {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found.retain(|line| line.starts_with("longshore "));
    found
}

#[test]
fn flags_that_the_book_names_are_there() {
    let mut seen = 0;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    for page in pages().into_iter().chain([readme]) {
        for line in command_lines(&fs::read_to_string(&page).unwrap()) {
            let words: Vec<&str> = line.split(" -- ").next().unwrap().split_whitespace().skip(1).collect();
            // `kafka consume` and `jobs set` are commands of two words.
            let is_name = |word: &str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let depth = words.iter().take(2).take_while(|word| is_name(word)).count();
            let asked = (depth.min(1)..=depth).rev().find_map(|depth| try_help(&words[..depth]));
            // The demos are a program of their own, which may not be built.
            if asked.is_none() && (words[0] == "demo" || words[0] == "kafka" && !cfg!(feature = "kafka")) {
                continue;
            }
            let help = asked.unwrap_or_else(|| panic!("{}: no such command: {line}", page.display()));
            for flag in words.iter().filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap()) {
                assert!(
                    help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                    "{}: no {flag} in: {line}",
                    page.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The reference is that of all commands, so it is compared where all are built.
#[cfg(feature = "kafka")]
mod reference {
    use std::{fmt::Write as _, fs};

    use super::{book, try_help};

    /// What `longshore ARGS --help` prints.
    fn help(args: &[&str]) -> String {
        try_help(args).unwrap_or_else(|| panic!("{args:?}"))
    }

    /// The commands that a help text lists.
    fn commands(help: &str) -> Vec<String> {
        let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names =
            list.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    }

    /// Leaves out the flags that each command has, and headings that have no flags left.
    fn without_common(text: &str, common: &str) -> String {
        let name = |line: &str| line.trim().split("  ").next().unwrap().to_owned();
        let known: Vec<String> = common.lines().filter(|line| line.trim().starts_with('-')).map(name).collect();
        let mut kept: Vec<&str> = Vec::new();
        let mut dropping = false;
        for line in text.lines() {
            // What goes on below a flag, further in, belongs to it.
            let goes_on = line.is_empty() || line.starts_with("       ");
            if !(dropping && goes_on && !line.trim().starts_with('-')) {
                dropping = line.trim().starts_with('-') && known.contains(&name(line));
            }
            if dropping {
                continue;
            }
            if !line.starts_with(' ') && kept.last().is_some_and(|last| is_heading(last)) {
                kept.pop();
            }
            // The empty line in front went with the flag before it.
            if is_heading(line) && kept.last().is_some_and(|last| !last.is_empty()) {
                kept.push("");
            }
            kept.push(line);
        }
        while kept.last().is_some_and(|last| last.is_empty() || is_heading(last)) {
            kept.pop();
        }
        kept.join("\n") + "\n"
    }

    /// Whether a line is the heading of a group of flags.
    fn is_heading(line: &str) -> bool {
        line.ends_with(':') && !line.starts_with(' ') && line.len() < 20
    }

    #[test]
    fn a_group_of_flags_keeps_its_heading_and_one_without_flags_loses_it() {
        let common = "Options:\n      --json  As JSON\n\nTask queue:\n      --broker <URL>  Where\n";
        for (text, want) in [
            ("Time:\n  -t <T>  A limit [HTTP:\n          30s]\n", "Time:\n  -t <T>  A limit [HTTP:\n          30s]\n"),
            ("Options:\n  -a      One\n      --json  As JSON\n\nView:\n  -b  Two\n", "Options:\n  -a      One\n\nView:\n  -b  Two\n"),
            ("  -a  One\n\nTask queue:\n      --broker <URL>  Where\n\nExit: 0\n", "  -a  One\n\nExit: 0\n"),
        ] {
            assert_eq!(without_common(text, common), want, "{text}");
        }
    }

    #[test]
    fn the_reference_of_commands_is_what_help_says() {
        let top = help(&[]);
        let mut text = "# Commands and flags\n\nWhat `--help` says; the flags of the first block are those of every command.\n".to_owned();
        write!(text, "\n## longshore\n\n```text\n{top}```\n").unwrap();
        for name in commands(&top) {
            if name == "demo" {
                continue;
            }
            let own = help(&[&name]);
            write!(text, "\n## longshore {name}\n\n```text\n{}```\n", without_common(&own, &top)).unwrap();
            for sub in commands(&own) {
                write!(text, "\n### longshore {name} {sub}\n\n```text\n{}```\n", without_common(&help(&[&name, &sub]), &top)).unwrap();
            }
        }
        let path = book().join("reference/commands.md");
        if std::env::var_os("LONGSHORE_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap() == text, "{}: stale; LONGSHORE_BLESS=1 writes it anew", path.display());
    }
}
