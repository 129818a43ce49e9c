//! What strangers get: crates that can be published, units that systemd reads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that are for tests alone.
const OWN: [&str; 3] = ["longshore-interop", "longshore-testkit", "longshore-tidy"];

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
