//! The end of a run told to others: `--on-finish` and `--notify`.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    time::Duration,
};

use longshore_core::{
    Stop,
    lane::child::{self, Children, Command, Exit, Limits, Output, Stdin},
};
use longshore_run::Report;

use super::args::RunArgs;
use crate::{progress::Voice, progress::text, signals::Signals};

/// Time that the desktop has to show a notification.
const NOTIFY: Duration = Duration::from_secs(5);

/// Tells whoever asked for it that the run has ended. What goes wrong with that is said, and
/// changes nothing.
pub(super) async fn tell(report: &Report, args: &RunArgs, voice: Voice) {
    if let Some(text) = &args.on_finish {
        let failed = run(hook(text, report), Limits::default()).await.and_then(|output| {
            // Stdout is for results.
            let mut err = std::io::stderr().lock();
            let _ = err.write_all(&output.stdout).and_then(|()| err.write_all(&output.stderr));
            match output.exit {
                Exit::Code(0) => Ok(()),
                Exit::Code(code) => Err(format!("exit status {code}")),
                Exit::Signal(signal) => Err(format!("ended by signal {signal}")),
            }
        });
        if let Err(why) = failed {
            eprintln!("{}", voice.error(&format!("--on-finish: {why}")));
        }
    }
    if args.notify {
        let mut limits = Limits::default();
        limits.timeout = Some(NOTIFY);
        let shown = run(notification(report), limits).await.is_ok_and(|output| output.exit == Exit::Code(0));
        let mut err = std::io::stderr();
        if !shown && err.is_terminal() {
            let _ = err.write_all(b"\x07");
        }
    }
}

/// Runs a command to its end, or until a signal asks for an end.
async fn run(command: Command, limits: Limits) -> Result<Output, String> {
    let mut signals = Signals::listen();
    let children = Children::new().map_err(|error| error.to_string())?;
    let registry = children.clone();
    let mut running = tokio::task::spawn_blocking(move || child::run(&command, &limits, 0, &registry));
    let ended = tokio::select! {
        biased;
        ended = &mut running => ended,
        _ = signals.next() => {
            children.stop(Stop::Hard);
            running.await
        }
    };
    ended.map_err(|error| error.to_string())?.map_err(|error| error.message().to_owned())
}

fn hook(text: &str, report: &Report) -> Command {
    let variable = |name: &str, value: String| (OsString::from(format!("LONGSHORE_{name}")), OsString::from(value));
    Command {
        program: "sh".into(),
        args: vec!["-c".into(), text.into()],
        env: vec![
            variable("JOB", report.job.clone()),
            variable("NAME", report.name.clone()),
            variable("EXIT_CODE", report.exit_code.to_string()),
            variable("OK", report.counts.ok.to_string()),
            variable("FAILED", report.failed().to_string()),
            variable("REMAINING", report.remaining.to_string()),
        ],
        stdin: Stdin::Bytes(format!("{}\n", report.json()).into_bytes()),
        ..Command::default()
    }
}

fn notification(report: &Report) -> Command {
    let mut says = format!("ok {}", text::count(report.counts.ok));
    for (word, count) in [("failed", report.failed()), ("left", report.remaining)] {
        if count > 0 {
            says += &format!(", {word} {}", text::count(count));
        }
    }
    let title = format!("longshore run {}", report.name);
    let args = [title, format!("{says} in {}", text::long(report.wall))];
    Command { program: "notify-send".into(), args: args.into_iter().map(OsString::from).collect(), ..Command::default() }
}
