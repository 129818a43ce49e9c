//! `longshore completions` and `longshore man`.

use std::{io::Write, path::Path};

use clap::Command;
use clap_complete::Shell;

/// Writes the completion script of a shell.
pub fn completions(shell: Shell, mut command: Command, out: &mut dyn Write) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "longshore", &mut script);
    // A reader that goes away has read enough.
    let _ = out.write_all(&script);
}

/// Writes a manual page for each command to a directory.
///
/// # Errors
/// What the system says.
pub fn man(dir: &Path, command: Command) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}
