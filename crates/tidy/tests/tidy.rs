//! The rules of the house, read from its source. Each has a list of today's exceptions in
//! `exceptions/`, which may only get shorter: one that is no longer needed is a failure, too. A
//! file that has moved is renamed in its list by hand.
//!
//! `LONGSHORE_TIDY=write cargo test -p longshore-tidy` takes exceptions away that are not needed
//! any more (it never adds one), and writes the list of public names (`crates/longshore/api.txt`),
//! whose change then shows in the commit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use longshore_tidy::{
    api, circles,
    items::{Item, ItemKind},
    measures::{self, COLUMNS},
    paths::Resolver,
    tree::{SourceFile, Workspace},
};

/// Most lines of a function.
const LONGEST: usize = 100;

/// Crates of which a part prints: the command line, and programs that are nothing else.
const PRINTING: [&str; 2] = ["cli", "demos"];

/// Ends of the names of structs that callers fill in to say how something shall be done.
const OPTIONS: [&str; 8] = ["Options", "Settings", "Policy", "Config", "Limits", "Limit", "Bounds", "Route"];

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(|| Workspace::read(&root()).unwrap());

fn root() -> PathBuf {
    fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap()
}

fn writes() -> bool {
    std::env::var_os("LONGSHORE_TIDY").is_some_and(|word| word == "write")
}

/// Holds what was found against a list of exceptions. `found` says for each exception that would be
/// needed why.
fn hold(list: &str, found: &BTreeMap<String, String>, advice: &str) {
    let path = root().join("crates/tidy/exceptions").join(list);
    let listed = fs::read_to_string(&path).unwrap();
    let known = |line: &str| line.is_empty() || line.starts_with('#') || found.contains_key(line);
    if writes() {
        let kept: String = listed.lines().filter(|line| known(line)).map(|line| format!("{line}\n")).collect();
        fs::write(&path, kept).unwrap();
        return;
    }
    let mut said = String::new();
    let exceptions: BTreeSet<&str> = listed.lines().collect();
    for (key, why) in found.iter().filter(|(key, _)| !exceptions.contains(key.as_str())) {
        writeln!(said, "{key}: {why}").unwrap();
    }
    if !said.is_empty() {
        writeln!(said, "  → {advice}").unwrap();
    }
    for (line, text) in listed.lines().enumerate().filter(|(_, text)| !known(text)) {
        writeln!(said, "crates/tidy/exceptions/{list}:{}: `{text}` is no exception any more", line + 1).unwrap();
        writeln!(said, "  → remove the line; LONGSHORE_TIDY=write cargo test -p longshore-tidy does it").unwrap();
    }
    assert!(said.is_empty(), "\n{said}");
}

/// Returns every Rust file of the workspace's crates: tests, benches and examples too.
fn every_file() -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut open = vec![root().join("crates")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(SourceFile::read(&root(), &path).unwrap());
            }
        }
    }
    found
}

fn facade() -> usize {
    WORKSPACE.crates.iter().position(|tree| tree.dir == "longshore").unwrap()
}

#[test]
fn top_modules_of_a_crate_stand_in_no_circle() {
    let resolver = Resolver::new(&WORKSPACE);
    let mut found = BTreeMap::new();
    for (nth, tree) in WORKSPACE.crates.iter().enumerate() {
        let edges = circles::edges(&WORKSPACE, &resolver, nth);
        for circle in circles::all(&edges) {
            for module in &circle {
                let names = edges.iter().filter(|((from, to), _)| from == module && circle.contains(to));
                let names: Vec<String> = names.map(|((_, to), place)| format!("it names {to} in {place}")).collect();
                let why = format!("this module stands in a circle with {}: {}", circle.join(", "), names.join("; "));
                found.insert(format!("{} {module}", tree.dir), why);
            }
        }
    }
    hold("circles.txt", &found, "move what both need to a module that names neither, or hand it over as an argument");
}

#[test]
fn only_the_command_line_prints() {
    let mut found = BTreeMap::new();
    for tree in WORKSPACE.products().filter(|tree| !PRINTING.contains(&tree.dir.as_str())) {
        for file in &tree.files {
            let lines = measures::prints(file);
            if !lines.is_empty() {
                found.insert(file.path.clone(), format!("prints, or takes stdout or stderr, in line {}", said(&lines)));
            }
        }
    }
    hold("printing.txt", &found, "return it, or make an event of it: only crates/cli decides what a person sees");
}

#[test]
fn outcomes_are_counted_in_one_struct() {
    let mut found = BTreeMap::new();
    for tree in WORKSPACE.products() {
        for module in &tree.modules {
            let file = &tree.files[module.file];
            for item in module.items.iter().filter(|item| measures::counts_outcomes(file, item)) {
                found.insert(
                    format!("{} {}", tree.dir, item.name),
                    format!("counts outcomes in fields of its own, {}:{}", file.path, item.line),
                );
            }
        }
    }
    hold("outcomes.txt", &found, "hold a `watch::Counts`: a new outcome or metric is then one field in one file");
}

#[test]
fn a_type_name_is_in_two_modules_of_a_crate_at_most() {
    let mut found = BTreeMap::new();
    for tree in WORKSPACE.products() {
        for (name, places) in measures::type_names(tree).into_iter().filter(|(_, places)| places.len() > 2) {
            let places: Vec<String> = places.into_iter().collect();
            found.insert(format!("{} {name}", tree.dir), format!("{} types have this name: {}", places.len(), places.join(", ")));
        }
    }
    hold("names.txt", &found, "say what each is in two words (`IntakeState`, not `State`)");
}

#[test]
fn comments_keep_to_their_columns() {
    let mut found = BTreeMap::new();
    for file in every_file() {
        let lines = measures::wide_comments(&file);
        if !lines.is_empty() {
            found.insert(file.path, format!("comments are wider than {COLUMNS} columns in line {}", said(&lines)));
        }
    }
    hold("columns.txt", &found, "break the lines; better, say it shorter");
}

#[test]
fn functions_are_no_longer_than_a_hundred_lines() {
    let mut found: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for tree in WORKSPACE.products() {
        for function in tree.files.iter().flat_map(measures::functions).filter(|function| function.lines > LONGEST) {
            let place = format!("{}:{}", function.path, function.line);
            let longest = found.entry(format!("{} {}", tree.dir, function.name)).or_default();
            *longest = longest.clone().max((function.lines, place));
        }
    }
    let found = found.into_iter().map(|(key, (lines, place))| (key, format!("{place} has {lines} lines, more than {LONGEST}"))).collect();
    hold("functions.txt", &found, "give each of its steps a function with a name");
}

#[test]
fn structs_that_callers_fill_in_can_grow() {
    let resolver = Resolver::new(&WORKSPACE);
    let mut found = BTreeMap::new();
    for name in api::names(&WORKSPACE, &resolver, facade()) {
        let Some(place) = name.place else { continue };
        let Some(item) = resolver.item(place).filter(|item| item.kind == ItemKind::Struct) else { continue };
        let Some(body) = item.body.clone().filter(|_| OPTIONS.iter().any(|end| item.name.ends_with(end))) else { continue };
        let tree = resolver.tree(place);
        let file = &tree.files[tree.modules[place.module].file];
        let fields = api::fields(&file.tokens, body);
        if !fields.is_empty() && fields.iter().all(|field| field.public) && !item.has_attribute("non_exhaustive") {
            found.insert(format!("{} {}", tree.dir, item.name), format!("{}:{} is not #[non_exhaustive]", file.path, item.line));
        }
    }
    hold(
        "options.txt",
        &found,
        "a new field would break every caller: #[non_exhaustive], with `Default` or `new`, and a method for each field",
    );
}

#[test]
fn a_name_of_the_facade_means_one_thing_whatever_the_features() {
    let resolver = Resolver::new(&WORKSPACE);
    let mut said = String::new();
    // A name that is listed hides what a glob brings: without the feature of the list it would mean
    // something else.
    for (name, listed, brought) in api::hidden(&resolver, facade()) {
        writeln!(said, "longshore::{name} is {listed}; without its feature it would be {brought}").unwrap();
    }
    // Who uses both the root and `queue` with globs gets one meaning, too.
    let names = api::names(&WORKSPACE, &resolver, facade());
    let type_at =
        |name: &str| names.iter().find(|known| known.path == name)?.place.filter(|place| resolver.item(*place).is_some_and(Item::is_type));
    for known in names.iter().filter(|known| known.path.matches("::").count() == 1) {
        let twin = known.path.replacen("::", "::queue::", 1);
        if let Some((one, other)) = type_at(&known.path).zip(type_at(&twin)).filter(|(one, other)| one != other) {
            writeln!(said, "{} is {}, and {twin} is {}", known.path, resolver.told(one), resolver.told(other)).unwrap();
        }
    }
    assert!(said.is_empty(), "\n{said}  → give one of the two another name");
}

#[test]
fn a_change_of_the_public_names_is_seen() {
    let path = root().join("crates/longshore/api.txt");
    let resolver = Resolver::new(&WORKSPACE);
    let names: BTreeSet<String> = api::lines(&WORKSPACE, &resolver, facade()).into_iter().collect();
    if writes() {
        fs::write(&path, names.iter().map(|name| format!("{name}\n")).collect::<String>()).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap();
    let listed: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let mut said: Vec<String> = listed.difference(&names).map(|name| format!("gone: {name}")).collect();
    said.extend(names.difference(&listed).map(|name| format!("new:  {name}")));
    assert!(
        said.is_empty(),
        "\n{}\n  → crates/longshore/api.txt does not say what the crate gives its users. If the change is meant, tell of it in CHANGELOG.md, and let\n  \
         LONGSHORE_TIDY=write cargo test -p longshore-tidy write the list",
        said.join("\n")
    );
}

#[test]
fn every_list_of_exceptions_is_of_a_rule() {
    let rules = ["circles", "columns", "functions", "names", "options", "outcomes", "printing"];
    let mut lists: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("exceptions"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    lists.sort();
    assert_eq!(lists, rules);
}

/// Returns the first of some line numbers, and how many there are more.
fn said(lines: &[usize]) -> String {
    let first: Vec<String> = lines.iter().take(5).map(usize::to_string).collect();
    if lines.len() > 5 { format!("{} and {} more", first.join(", "), lines.len() - 5) } else { first.join(", ") }
}
