//! Notes about what happens in a run, in words for people.

use longshore_run::{Resumed, RunEvent, RunView};

use crate::{
    progress::{Progress, Voice},
    units,
};

/// Says what has happened, if it is to be said.
pub(super) fn tell(event: &RunEvent, voice: Voice, progress: Option<&Progress>) {
    let message = |line: &str| match progress {
        Some(progress) => progress.message(line),
        None => eprintln!("{line}"),
    };
    match event {
        RunEvent::Ended(ended) => message(&voice.task(ended)),
        // Trouble is always said.
        RunEvent::Waiting { message: what } => message(&format!("longshore: {what}")),
        other => {
            if let Some(line) = note(other) {
                match progress {
                    Some(progress) => progress.note(&line),
                    None => eprintln!("{line}"),
                }
            }
        }
    }
}

/// Returns the line about something that happened.
fn note(event: &RunEvent) -> Option<String> {
    Some(match event {
        RunEvent::Resumed(resumed) => resume_words(resumed),
        RunEvent::Stopping { running, grace: None } => {
            format!(" stopping: no new tasks, {running} running (Ctrl-C again to end them)")
        }
        RunEvent::Stopping { grace: Some(grace), .. } => {
            format!(" stopping: no new tasks; those that run have {}", units::show_duration(*grace))
        }
        RunEvent::Ending { children } => {
            let children = match children {
                0 => String::new(),
                1 => ": 1 child".to_owned(),
                _ => format!(": {children} children"),
            };
            format!(" ending what runs{children} (Ctrl-C again to kill)")
        }
        RunEvent::Concurrency { most } => format!(" concurrency {most}"),
        RunEvent::Machine { loaded: true, .. } => " paused: the load is above --max-load".to_owned(),
        RunEvent::Machine { low: true, .. } => " paused: less memory is free than --min-free-mem".to_owned(),
        RunEvent::Machine { .. } => " going on: the machine has room again".to_owned(),
        RunEvent::Found(found) => format!(" -j auto: {found}"),
        RunEvent::Outcome { message } => format!(" {message}"),
        RunEvent::NotFound { most } => format!(" -j auto: over before it was known what is best; {most} at once in the end"),
        RunEvent::ShownAgain { seq, attempt } => format!(" #{seq} attempt {attempt}: what it wrote before stands above"),
        RunEvent::Lost { name, tasks } => {
            let lost = units::show_count(*tasks);
            format!(" {name}: of the tasks that were in flight, {lost} are not in the input any more, and were not run")
        }
        _ => return None,
    })
}

/// Returns what a resumed job has behind it, and how much is left if that is known.
fn resume_words(resumed: &Resumed) -> String {
    let Resumed { name, job, retry, counts, open, total } = resumed;
    let (done, failed) = (counts.finished(), counts.failures());
    let who = if name == job { job.clone() } else { format!("{name} {job}") };
    if *retry {
        return format!(" retry {who}: {} done, {} to try again", units::show_count(done), units::show_count(*open));
    }
    let left = total.map_or(String::new(), |total| format!(", {} to go", units::show_count(total.saturating_sub(done))));
    format!(
        " resume {who}: {} done ({} failed), {} {} in flight{left}",
        units::show_count(done),
        units::show_count(failed),
        units::show_count(*open),
        if *open == 1 { "was" } else { "were" },
    )
}

/// Returns lines about what runs, the oldest first.
pub(crate) fn running(view: &RunView) -> Vec<String> {
    let mut lines = vec![format!(" {} running, {} waiting for another attempt", view.active, view.retrying)];
    for task in &view.running {
        let last = if task.last_line.is_empty() { String::new() } else { format!("   {}", task.last_line.escape_debug()) };
        let age = units::show_duration(task.age);
        lines.push(format!(" #{} {age} attempt {} slot {}-{}{last}", task.seq, task.attempt, task.lane, task.slot));
    }
    lines
}
