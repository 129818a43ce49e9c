//! `longshore demo`: the demos are a program of their own, so that what they need (images are
//! decoded, resized and encoded) is not part of this one. It is looked for beside this program,
//! then in PATH.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{exit::Exit, fault::Fault};

/// Name of the demos' program.
const PROGRAM: &str = "longshore-demos";

/// Becomes the demos with these words; on systems that cannot do that, runs them and returns their
/// exit code.
///
/// # Errors
/// The program is not installed, with what brings it, or cannot be started.
pub fn run(mut words: Vec<OsString>, json: bool) -> Result<Exit, Fault> {
    if json && !words.iter().any(|word| word == "--json") {
        words.push("--json".into());
    }
    // A link to this program is this program.
    let found = env::current_exe().and_then(fs::canonicalize).ok().and_then(|own| beside(&own));
    let program = found.as_deref().unwrap_or(Path::new(PROGRAM));
    start(Command::new(program).args(words)).map_err(|error| Fault::usage(match error.kind() {
        ErrorKind::NotFound => format!(
            "the demos are a program of their own, {PROGRAM}, which is neither beside this one nor in PATH: cargo install --path crates/demos, \
             or without installing it: cargo run --release -p {PROGRAM} -- NAME"
        ),
        _ => format!("{}: {error}", program.display()),
    }))
}

#[cfg(unix)]
fn start(command: &mut Command) -> io::Result<Exit> {
    // Comes back only if it cannot be started.
    Err(std::os::unix::process::CommandExt::exec(command))
}

#[cfg(not(unix))]
fn start(command: &mut Command) -> io::Result<Exit> {
    Ok(command.status()?.code().and_then(|code| u8::try_from(code).ok()).map_or(Exit::Failed, Exit::of))
}

/// Returns the program in the same directory as this one, if it is there.
fn beside(own: &Path) -> Option<PathBuf> {
    let program = own.with_file_name(format!("{PROGRAM}{}", env::consts::EXE_SUFFIX));
    program.is_file().then_some(program)
}
