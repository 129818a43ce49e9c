//! `longshore completions` and `longshore man`.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use longshore_sys::files;

use crate::{exit::Exit, fault::Fault};

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
pub fn man(dir: &Path, command: Command) -> Result<(), Fault> {
    std::fs::create_dir_all(dir).map_err(|error| Fault::new(Exit::Unwritable, format!("{}: {}", dir.display(), files::cause(&error))))?;
    let mut command = command.disable_help_subcommand(true);
    // Gives each subcommand its whole name.
    command.build();
    pages(dir, command)
}

fn pages(dir: &Path, command: Command) -> Result<(), Fault> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(dir, inner.clone())?;
    }
    let top = command.get_name() == "longshore";
    let page = Man::new(command);
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    let written = page
        .render(&mut text)
        .and_then(|()| if top { exit_status(&mut text) } else { Ok(()) })
        .and_then(|()| files::output_in_directory(&path)?.write_all(&text));
    written.map_err(|error| Fault::new(Exit::Unwritable, format!("{}: {}", path.display(), files::cause(&error))))
}

/// Adds the table of exit codes to a page.
fn exit_status(text: &mut dyn Write) -> io::Result<()> {
    let others = "other numbers with --exit-count: how many tasks failed, at most 101";
    writeln!(text, ".SH \"EXIT STATUS\"")?;
    Exit::ALL.iter().try_for_each(|exit| writeln!(text, ".TP\n{}\n{}", exit.code(), exit.means()))?;
    writeln!(text, ".PP\n{others}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        man(dir.path(), Command::new("longshore").subcommand(Command::new("run"))).unwrap();
        let [top, run] = ["longshore.1", "longshore-run.1"].map(|page| std::fs::read_to_string(dir.path().join(page)).unwrap());
        for exit in Exit::ALL {
            assert!(top.contains(&format!(".TP\n{}\n{}\n", exit.code(), exit.means())), "{exit:?}");
        }
        assert!(!run.contains("EXIT STATUS"));
    }
}
