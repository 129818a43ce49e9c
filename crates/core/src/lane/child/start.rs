//! Starting a process, and saying in words why it could not be started.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process,
};

use super::{Command, Stdin};
use crate::error::{Again, TaskError};

// Error numbers, equal on all Linux architectures and macOS unless a cfg says otherwise.
const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

/// Starts a command in a group of its own, with this marker in its environment.
pub(super) fn start(command: &Command, marker: Option<(&str, &str)>) -> Result<process::Child, TaskError> {
    let found = own_path(command).and_then(|path| look_up(&command.program, &path));
    let mut process = match &found {
        // With a PATH of its own std would fork to look the program up in it; with a path it need
        // not.
        Some(found) => {
            let mut process = process::Command::new(found);
            process.arg0(&command.program);
            process
        }
        None => process::Command::new(&command.program),
    };
    process.args(&command.args).envs(command.env.iter().map(|(name, value)| (name, value))).envs(marker);
    if let Some(cwd) = &command.cwd {
        process.current_dir(cwd);
    }
    process.stdin(match command.stdin {
        Stdin::Null => process::Stdio::null(),
        Stdin::Bytes(_) | Stdin::Open | Stdin::Stream(_) => process::Stdio::piped(),
    });
    process.stdout(process::Stdio::piped()).stderr(process::Stdio::piped()).process_group(0);
    process.spawn().map_err(|why| error(command, &why))
}

/// Returns the PATH that the command's own environment sets.
fn own_path(command: &Command) -> Option<OsString> {
    command.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone())
}

/// Returns the first executable file of this name on the path; `None` for what has a slash, and for
/// what is not there.
fn look_up(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return None;
    }
    env::split_paths(path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Explains why a command could not be started, so that the reader knows what to change.
pub(super) fn error(command: &Command, error: &io::Error) -> TaskError {
    let program = command.program.to_string_lossy();
    if error.kind() == io::ErrorKind::InvalidInput {
        return TaskError::invalid(format!("cannot run `{program}`: an argument or environment variable holds a NUL byte"));
    }
    let code = error.raw_os_error();
    if let Some(cwd) = command.cwd.as_ref().filter(|cwd| matches!(code, Some(ENOENT | EACCES | ENOTDIR)) && !cwd.is_dir()) {
        return never(code, format!("cannot run `{program}` in {}: no such directory", cwd.display()));
    }
    let message = match code {
        Some(ENOENT) => match exists(command) {
            None if program.contains('/') => format!("cannot run `{program}`: no such file"),
            None => format!("cannot run `{program}`: no such program in PATH"),
            Some(file) => format!("cannot run {}: the interpreter that its first line names is missing", file.display()),
        },
        Some(EACCES) => format!("cannot run `{program}`: not executable (chmod +x), or not permitted"),
        Some(ENOTDIR) => format!("cannot run `{program}`: a part of its path is not a directory"),
        Some(ENOEXEC) => format!("cannot run `{program}`: not a program of this system; a script needs a first line such as #!/bin/sh"),
        Some(E2BIG) => format!(
            "cannot run `{program}`: {} bytes of arguments and environment are more than the system takes; hand them over on stdin",
            argument_bytes(command)
        ),
        // Out of processes, descriptors or memory, or a file that is being written: this passes.
        _ => {
            let failed = TaskError::new("spawn", format!("cannot run `{program}`: {error}"));
            return match code {
                Some(code) => failed.with_code(code.into()),
                None => failed,
            };
        }
    };
    never(code, message)
}

fn never(code: Option<i32>, message: String) -> TaskError {
    TaskError::new("spawn", message).with_code(code.unwrap_or(0).into()).with_again(Again::Never)
}

/// Returns why no command of this program can be started, if that is sure before one is: there is
/// no such file. What else may be wrong with it is known when it is tried.
pub fn missing(command: &Command) -> Option<TaskError> {
    let has_slash = command.program.as_bytes().contains(&b'/');
    let path = own_path(command).or_else(|| env::var_os("PATH"));
    // Where PATH is not set the system has one of its own; a folder of it that is not absolute
    // means another one after the child has gone to its directory.
    let sure = has_slash || path.is_some_and(|path| env::split_paths(&path).all(|folder| folder.is_absolute()));
    if !sure || command.cwd.as_ref().is_some_and(|cwd| !cwd.is_dir()) || exists(command).is_some() {
        return None;
    }
    Some(error(command, &io::Error::from_raw_os_error(ENOENT)))
}

/// Returns whether an error says that no command of this program can be started, whatever its
/// arguments are.
pub fn is_of_program(error: &TaskError) -> bool {
    let codes = [ENOENT, ENOEXEC, EACCES, ENOTDIR].map(i64::from);
    error.kind() == "spawn" && error.again() == Again::Never && error.code().is_some_and(|code| codes.contains(&code))
}

fn exists(command: &Command) -> Option<PathBuf> {
    if command.program.as_bytes().contains(&b'/') {
        let file = command.cwd.as_deref().unwrap_or(Path::new("")).join(&command.program);
        return file.exists().then_some(file);
    }
    look_up(&command.program, &own_path(command).or_else(|| env::var_os("PATH"))?)
}

fn argument_bytes(command: &Command) -> usize {
    let own = command.args.iter().map(|arg| arg.len() + 1).sum::<usize>() + command.program.len() + 1;
    let pair = |(name, value): (&OsStr, &OsStr)| name.len() + value.len() + 2;
    let given: usize = command.env.iter().map(|(name, value)| pair((name, value))).sum();
    own + given + env::vars_os().map(|(name, value)| pair((&name, &value))).sum::<usize>()
}
