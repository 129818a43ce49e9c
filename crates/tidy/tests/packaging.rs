//! What strangers get: crates that can be published, units that systemd reads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Crates that are for tests alone.
const OWN: [&str; 4] = ["longshore-interop", "longshore-suite", "longshore-testkit", "longshore-tidy"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn each_crate_can_be_packaged() {
    let target = tempfile::tempdir().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--workspace", "--no-verify", "--allow-dirty", "--offline", "--quiet"]).current_dir(root());
    cargo.arg("--target-dir").arg(target.path());
    for own in OWN {
        cargo.args(["--exclude", own]);
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_published_crate_says_what_it_is() {
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        if manifest.contains("publish = false") {
            continue;
        }
        for key in ["description = ", "keywords = ", "categories = ", "documentation = ", "readme = ", "[package.metadata.docs.rs]"] {
            assert!(manifest.contains(key), "{}: no {key}", folder.display());
        }
        let readme = manifest.lines().find_map(|line| line.strip_prefix("readme = \"")?.strip_suffix('"')).unwrap();
        assert!(folder.join(readme).is_file(), "{}: no {readme}", folder.display());
    }
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        longshore_testkit::left_out::missing("systemd-analyze is missing: apt-get install systemd");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in std::fs::read_dir(root().join("packaging/systemd")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.contains("@.") {
            continue;
        }
        // The program is not installed here; any other stands for it.
        let text = std::fs::read_to_string(&path).unwrap().replace("/usr/bin/longshore ", "/bin/true ");
        assert!(name.ends_with(".timer") || text.contains("KillMode=mixed"), "{name}: SIGTERM must reach longshore alone");
        let unit = place.path().join(name.replace("@.", "@some."));
        std::fs::write(&unit, &text).unwrap();
        std::fs::write(place.path().join(name), &text).unwrap();
        units.push(unit);
    }
    assert_eq!(units.len(), 3);
    let output = Command::new("systemd-analyze").args(["--man=no", "verify"]).args(units).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns all packages that cargo knows, also those for other systems, which no build has fetched.
fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--all-features", "--locked"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether an SPDX expression can be met with these licences.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    fn either(words: &mut std::iter::Peekable<std::slice::Iter<'_, &str>>, allowed: &[String]) -> bool {
        let mut met = both(words, allowed);
        while words.next_if(|word| matches!(**word, "OR" | "/")).is_some() {
            met |= both(words, allowed);
        }
        met
    }
    fn both(words: &mut std::iter::Peekable<std::slice::Iter<'_, &str>>, allowed: &[String]) -> bool {
        let mut met = one(words, allowed);
        while words.next_if(|word| **word == "AND").is_some() {
            met &= one(words, allowed);
        }
        met
    }
    fn one(words: &mut std::iter::Peekable<std::slice::Iter<'_, &str>>, allowed: &[String]) -> bool {
        let word = *words.next().unwrap();
        let met = if word == "(" { either(words, allowed) } else { allowed.iter().any(|name| name == word) };
        if word == "(" {
            words.next();
        }
        // An exception is a licence of its own: it counts only if it is listed.
        if words.next_if(|word| **word == "WITH").is_some() {
            words.next();
            return false;
        }
        met
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " / ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    either(&mut words.iter().peekable(), allowed)
}

#[test]
fn each_dependency_has_a_licence_that_is_allowed() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    let allowed: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(is_allowed("(MIT OR GPL-3.0) AND ISC", &allowed) && is_allowed("Unlicense/MIT", &allowed));
    assert!(!is_allowed("MIT AND GPL-3.0", &allowed) && !is_allowed("GPL-2.0 WITH Classpath-exception-2.0", &allowed));
    let packages = metadata()["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{}: {licence} is not in deny.toml", package["name"]);
    }
}

#[test]
fn each_direct_dependency_is_built_at_the_lowest_version_that_is_stated() {
    let metadata = metadata();
    let locked = |name: &str| {
        let all = metadata["packages"].as_array().unwrap().iter().filter(move |package| package["name"] == name);
        all.map(|package| package["version"].as_str().unwrap().split('+').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()) {
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|dependency| !dependency["source"].is_null()) {
            let (name, stated) = (dependency["name"].as_str().unwrap(), dependency["req"].as_str().unwrap());
            let lowest = stated.trim_start_matches('^').split('+').next().unwrap();
            let lowest = if lowest.matches('.').count() == 1 { format!("{lowest}.0") } else { lowest.to_owned() };
            assert!(locked(name).contains(&lowest), "{}: {name} {stated}, but {:?} is what is tested", package["name"], locked(name));
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}
