//! `longshore completions` and `longshore man`.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use longshore_sys::files;

/// Writes the completion script of a shell.
///
/// # Errors
/// Those of `out`.
pub fn completions(shell: Shell, mut command: Command, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "longshore", &mut script);
    out.write_all(&script)?;
    out.flush()
}

/// Writes a manual page for each command to a directory.
///
/// # Errors
/// The page, and what the system says.
pub fn man(dir: &Path, command: Command) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {}", dir.display(), files::cause(&error)))?;
    let mut command = command.disable_help_subcommand(true);
    // Gives each subcommand its whole name.
    command.build();
    pages(dir, command)
}

fn pages(dir: &Path, command: Command) -> Result<(), String> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(dir, inner.clone())?;
    }
    let page = Man::new(command);
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    let written = page.render(&mut text).and_then(|()| files::output_in_directory(&path)?.write_all(&text));
    written.map_err(|error| format!("{}: {}", path.display(), files::cause(&error)))
}
