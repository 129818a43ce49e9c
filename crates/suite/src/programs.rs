//! The test programs that cargo builds.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// A test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// `longshore-core`, `longshore-core::lanes`
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The package's folder, in which its tests run.
    pub(crate) folder: PathBuf,
    /// Variables that cargo sets beside: `CARGO_BIN_EXE_*`.
    pub(crate) variables: Vec<(String, PathBuf)>,
}

impl TestProgram {
    /// Returns the command that cargo would run with these arguments behind `--`.
    pub(crate) fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(arguments);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(self.variables.iter().map(|(name, path)| (name, path)));
        command
    }
}

/// Builds all test programs and returns them.
///
/// # Errors
/// What could not be built; cargo has said why.
pub(crate) fn build(cargo: &Path, flags: &[&str]) -> io::Result<Vec<TestProgram>> {
    let mut command = Command::new(cargo);
    command.arg("test").args(flags).args(["--no-run", "--message-format=json-render-diagnostics"]);
    if std::env::var_os("CARGO_INCREMENTAL").is_none() {
        // What would make the next build quicker takes 3 of 8 GB.
        command.env("CARGO_INCREMENTAL", "0");
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("cargo test --no-run: {}", output.status)));
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads cargo's messages, one of JSON a line.
fn read(messages: &str) -> Vec<TestProgram> {
    let (mut tests, mut binaries) = (Vec::new(), HashMap::<PathBuf, Vec<(String, PathBuf)>>::new());
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let Some(folder) = message["manifest_path"].as_str().and_then(|path| Path::new(path).parent()) else { continue };
        let target = &message["target"];
        let (name, kind) = (target["name"].as_str().unwrap_or_default(), target["kind"][0].as_str().unwrap_or_default());
        if message["profile"]["test"] == true {
            let package = folder.file_name().unwrap_or_default().to_string_lossy();
            let own = if kind == "lib" || kind == "proc-macro" { String::new() } else { format!("::{name}") };
            tests.push(TestProgram { name: format!("{package}{own}"), executable, folder: folder.to_owned(), variables: Vec::new() });
        } else if kind == "bin" {
            binaries.entry(folder.to_owned()).or_default().push((format!("CARGO_BIN_EXE_{name}"), executable));
        }
    }
    for test in &mut tests {
        test.variables = binaries.get(&test.folder).cloned().unwrap_or_default();
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_have_the_folder_and_the_binaries_of_their_package() {
        let message = |manifest: &str, kind: &str, name: &str, test: bool, executable: &str| {
            serde_json::json!({"reason": "compiler-artifact", "manifest_path": manifest, "target": {"kind": [kind], "name": name},
                "profile": {"test": test}, "executable": executable})
            .to_string()
        };
        let lines = [
            message("/w/crates/cli/Cargo.toml", "bin", "longshore", false, "/t/longshore"),
            message("/w/crates/cli/Cargo.toml", "lib", "longshore_cli", true, "/t/cli-1"),
            message("/w/crates/cli/Cargo.toml", "test", "kill", true, "/t/kill-1"),
            message("/w/crates/core/Cargo.toml", "lib", "longshore_core", true, "/t/core-1"),
            "{\"reason\":\"build-finished\"}".to_owned(),
        ];
        let found = read(&lines.join("\n"));
        let names: Vec<_> =
            found.iter().map(|test| (test.name.as_str(), test.folder.to_str().unwrap_or(""), test.variables.len())).collect();
        assert_eq!(names, [("cli", "/w/crates/cli", 1), ("cli::kill", "/w/crates/cli", 1), ("core", "/w/crates/core", 0)]);
    }
}
