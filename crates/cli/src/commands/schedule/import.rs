//! `longshore schedule import`.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use clap::{Args, ValueHint};
use longshore_ops::schedules::{SCRIPT, ScheduleAction, act, import};

use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{json_line, plain},
    },
};

/// Time that an application may take to be loaded.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest file that is read from stdin.
const LONGEST: u64 = 64 << 20;

/// `longshore schedule import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// What the script has printed where Python is (--script); - is stdin
    #[arg(value_name = "FILE", required_unless_present_any = ["app", "script"], conflicts_with = "app", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// The Celery application: it is loaded by Python, in this directory
    #[arg(short = 'A', long, value_name = "PROJ")]
    app: Option<String>,
    /// The Python that has Celery and the application
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Say what would be kept, and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the script that prints the beat_schedule of the application that is its argument
    #[arg(long, conflicts_with_all = ["file", "app"])]
    script: bool,
}

/// Runs the command. Ends with 1 where a schedule was refused; the others are kept all the same.
pub(super) async fn run(args: &ImportArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    if args.script {
        write!(out, "{SCRIPT}")?;
        return Ok(Exit::Done);
    }
    let (printed, from) = match (&args.app, &args.file) {
        (Some(app), _) => (load(&args.python, app).await?, format!("-A {app}")),
        (None, Some(path)) => (read(path)?, path.display().to_string()),
        (None, None) => return Err(Fault::usage("name an application with -A, or a file")),
    };
    let imported = import(&printed).map_err(|why| Fault::usage(format!("{from}: {why}")))?;
    for schedule in imported.schedules {
        let (name, timing, task) = (plain(&schedule.name), plain(&schedule.spec.timing.to_string()), plain(&schedule.call.task));
        let done = match args.dry_run {
            true => "would be kept",
            false => {
                let done = act(&place.client, &ScheduleAction::Put(Box::new(schedule))).await?;
                if place.json {
                    json_line(out, &done)?;
                    continue;
                }
                if done.done == "put" { "kept" } else { done.done }
            }
        };
        writeln!(out, "{name}: {done} ({timing}; {task})")?;
    }
    out.flush()?;
    for refused in &imported.refused {
        eprintln!("longshore: {}: not taken over: {}", plain(&refused.name), plain(&refused.reason));
    }
    Ok(if imported.refused.is_empty() { Exit::Done } else { Exit::Failed })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Fault> {
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), LONGEST), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| Fault::new(Exit::Input, format!("{}: {}", path.display(), longshore_sys::files::cause(&error))))
}

/// Has Python print the schedules of an application.
async fn load(python: &str, app: &str) -> Result<Vec<u8>, Fault> {
    let failed = |why: String| Fault::usage(format!("-A {app}: {why}"));
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, app]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| {
        let cause = longshore_sys::files::cause(&error);
        failed(format!(
            "{python} cannot be started: {cause}; --python names another, or run the script elsewhere (longshore schedule import --script)"
        ))
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = match tokio::time::timeout(PATIENCE, &mut ended).await {
        Ok(ended) => ended.map_err(|_| failed("its output cannot be read".to_owned()))?,
        Err(_) => {
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = ended.await;
            return Err(failed(format!("{python} has not answered within {} s", PATIENCE.as_secs())));
        }
    };
    let output = ended.map_err(|error| failed(longshore_sys::files::cause(&error)))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // The last line of a traceback says what is wrong.
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(failed(format!("{python} ended with {}: {}", output.status, plain(last))))
}
