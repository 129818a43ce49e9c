//! `longshore jobs`: what the state directory knows, for people (text) and programs (JSON Lines).

pub mod reach;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use longshore_run::{
    Steering,
    jobs::{self, Details, ExportForm, ExportSpec, JobRow, PruneRules, Pruned, StateDir},
    page::page,
    spec::Only,
};
use serde::Serialize;

use self::reach::SetArgs;
use crate::{exit::Exit, fault::Fault, flags::ViewArgs, global::Global, units};

/// The directory of the journals.
#[derive(Args, Clone, Debug)]
pub struct StateArgs {
    /// Look for journals in this directory [$XDG_STATE_HOME/longshore, else
    /// ~/.local/state/longshore, else $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Age from which on finished jobs go, where no rule is given.
const PRUNED: Duration = Duration::from_secs(720 * 3_600);

/// `longshore jobs …`
#[derive(Subcommand, Clone, Debug)]
pub enum JobsCommand {
    /// All jobs
    List {
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// One job
    Show {
        /// Its id or name
        job: String,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Run its failed tasks again
    Retry {
        /// Its id or name
        job: String,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Its result lines, from the journal to stdout; or a page or a trace of it
    Export {
        /// Its id or name
        job: String,
        /// What is written: jsonl (result lines), csv or tsv (a table with the columns of GNU
        /// parallel's job log, and Key, Outcome, Error), html (a page with charts, as `run
        /// --report` makes it) or perfetto (a trace with a track for each slot, for
        /// ui.perfetto.dev and Chrome)
        #[arg(long = "as", value_name = "FORM", default_value = "jsonl", value_parser = ["jsonl", "csv", "tsv", "html", "perfetto"])]
        form: String,
        /// Only these members of each result line, by their paths (seq,value.status); of a table
        /// also its columns
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        fields: Vec<String>,
        /// Only these result lines: ok or failed
        #[arg(long, value_parser = ["ok", "failed"])]
        only: Option<String>,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// See a job that runs in another process, until it is over
    Watch {
        /// Its id, its name or its process; the only one that runs when absent
        job: Option<String>,
        /// Show it once, with what runs
        #[arg(long)]
        once: bool,
        /// Form of the progress
        #[command(flatten)]
        view: ViewArgs,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Change a job that runs: how many at once, how fast
    Set {
        /// Its id, its name or its process
        job: String,
        /// The changes.
        #[command(flatten)]
        set: SetArgs,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Let a job that runs start no more tasks until it is resumed
    Pause {
        /// Its id, its name or its process
        job: String,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Let a job that was paused go on
    Resume {
        /// Its id, its name or its process
        job: String,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Stop a job that runs: what runs is ended, and runs again when the job goes on
    Cancel {
        /// Its id, its name or its process
        job: String,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Remove finished jobs, and never one that runs or has something left to do
    Prune {
        /// Those that ended longer ago [720h, where no other rule is given]
        #[arg(long, value_name = "DUR", value_parser = units::duration)]
        older_than: Option<Duration>,
        /// All but the latest N
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// The oldest, until all jobs together, unfinished ones too, take no more than this
        #[arg(long, value_name = "SIZE", value_parser = units::size)]
        max_size: Option<u64>,
        /// The directory of the journals.
        #[command(flatten)]
        state: StateArgs,
    },
}

/// Runs the command. `again` runs the failed tasks of a job again.
///
/// # Errors
/// No such job, a state directory or an output that cannot be used, or a run out of reach.
pub fn run(
    command: JobsCommand,
    global: &Global,
    state_dir: Option<PathBuf>,
    again: impl FnOnce(&str, Option<PathBuf>) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    let json = global.json;
    let mut out = io::stdout().lock();
    let open = |state: &StateArgs| StateDir::open(state.state_dir.as_deref().or(state_dir.as_deref()));
    match command {
        JobsCommand::List { state } => {
            let rows = jobs::list(&open(&state)?)?;
            if json { print_json(&rows, &mut out) } else { print_list(&rows, &mut out) }?;
        }
        JobsCommand::Show { job, state } => {
            let details = jobs::show(&open(&state)?, &job)?;
            if json { print_json(&[details], &mut out) } else { print_details(&details, &mut out) }?;
        }
        JobsCommand::Retry { job, state } => {
            let retry = jobs::retry(&open(&state)?, &job)?;
            if retry.failed == 0 {
                eprintln!(" {job}: no task failed, nothing to retry");
                return Ok(Exit::Done);
            }
            drop(out);
            // Stdout is free by now: the run that begins here writes to it.
            return again(&retry.job, state.state_dir.or(state_dir));
        }
        JobsCommand::Export { job, form, fields, only, state } => {
            export(&open(&state)?, &job, &form, fields, only.as_deref(), &mut out)?;
        }
        JobsCommand::Watch { job, once, view, state } => {
            let state = open(&state)?;
            drop(out);
            return reach::watch(&state, job.as_deref(), once, &view, global);
        }
        // These go to the process that runs the job, which answers or is out of reach.
        JobsCommand::Set { job, set, state } => return reach::tell(&open(&state)?, &job, &set.steering(), global),
        JobsCommand::Pause { job, state } => return reach::tell(&open(&state)?, &job, &[Steering::Pause], global),
        JobsCommand::Resume { job, state } => return reach::tell(&open(&state)?, &job, &[Steering::Resume], global),
        JobsCommand::Cancel { job, state } => return reach::tell(&open(&state)?, &job, &[Steering::Cancel], global),
        JobsCommand::Prune { older_than, keep, max_size, state } => {
            let mut rules = PruneRules::default();
            let usual = (keep.is_none() && max_size.is_none()).then_some(PRUNED);
            (rules.older_than, rules.keep, rules.max_size) = (older_than.or(usual), keep, max_size);
            let gone = jobs::prune(&open(&state)?, &rules)?;
            match json {
                true => print_json(&gone.jobs, &mut out)?,
                false => writeln!(out, "{}", prune_line(&gone, max_size))?,
            }
        }
    }
    Ok(Exit::Done)
}

fn export(state: &StateDir, job: &str, form: &str, fields: Vec<String>, only: Option<&str>, out: &mut impl Write) -> Result<(), Fault> {
    let whole = matches!(form, "html" | "perfetto");
    if let Some(flag) = only.map(|_| "--only").or((!fields.is_empty()).then_some("--fields")).filter(|_| whole) {
        return Err(Fault::usage(format!("{flag} chooses from result lines; --as {form} has all that ran")));
    }
    // Stdout alone would hand over line by line.
    let mut out = io::BufWriter::new(out);
    match form {
        "html" => out.write_all(page(&jobs::report(state, job)?).as_bytes())?,
        "perfetto" => drop(jobs::trace(state, job, &mut out)?),
        _ => {
            let mut spec = ExportSpec::new(match form {
                "csv" => ExportForm::Csv,
                "tsv" => ExportForm::Tsv,
                _ => ExportForm::Jsonl,
            });
            spec.only = only.map(|only| if only == "ok" { Only::Ok } else { Only::Failed });
            spec.fields = fields;
            jobs::export(state, job, &spec, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// Prints one JSON object a line.
fn print_json(values: &[impl Serialize], out: &mut impl Write) -> io::Result<()> {
    for value in values {
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Says what went, and what is left where that is still too much.
fn prune_line(gone: &Pruned, max_size: Option<u64>) -> String {
    let jobs = if gone.jobs.len() == 1 { "job" } else { "jobs" };
    let freed = if gone.freed > 0 { format!(", {} freed", units::show_size(gone.freed)) } else { String::new() };
    let left = max_size
        .filter(|most| gone.left > *most)
        .map_or_else(String::new, |_| format!("; {} are left, of jobs that run or have something left to do", units::show_size(gone.left)));
    format!("{} {jobs} removed{freed}{left}", gone.jobs.len())
}

/// Prints the table of `jobs list`.
fn print_list(rows: &[JobRow], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no jobs yet: `longshore run` begins one");
    }
    let name = |row: &JobRow| plain(row.name.as_deref().unwrap_or("–"));
    let wide = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:<6} {:<wide$} {:<10} {:>9} {:>7} {:>8}  {:<20}  WHAT",
        "JOB", "NAME", "STATE", "OK", "FAILED", "IN-FLIGHT", "CHANGED"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:<6} {:<wide$} {:<10} {:>9} {:>7} {:>9}  {:<20}  {}",
            row.job,
            name(row),
            row.state,
            row.counts.ok,
            row.counts.failures(),
            row.in_flight,
            row.changed,
            plain(row.broken.as_deref().unwrap_or(&row.what)),
        )?;
    }
    Ok(())
}

/// Prints what `jobs show` says.
fn print_details(details: &Details, out: &mut impl Write) -> io::Result<()> {
    let Details { row, .. } = details;
    let title = row.name.as_deref().map_or_else(|| row.job.clone(), |name| format!("{} {}", plain(name), row.job));
    let exit = row.exit.map_or(String::new(), |exit| format!(", last exit {exit}"));
    writeln!(out, "{title}  {}{exit}", row.state)?;
    let mut line = |label: &str, text: String| if text.is_empty() { Ok(()) } else { writeln!(out, "  {label:<9} {}", plain(&text)) };
    line("what", row.what.clone())?;
    line("inputs", details.inputs.join(" "))?;
    let left = row.left.filter(|left| *left > 0).map_or(String::new(), |left| format!("   left {left}"));
    let (ok, failed, skipped) = (row.counts.ok, row.counts.failures(), row.counts.skipped);
    line("tasks", format!("ok {ok}   failed {failed}   skipped {skipped}   in flight {}{left}", row.in_flight))?;
    let failures: Vec<String> = details.failures.iter().take(10).map(|(class, count)| format!("{count} {class}")).collect();
    line("failed by", failures.join("   "))?;
    for sample in details.samples.iter().take(10) {
        line("e.g.", sample.to_string())?;
    }
    line("started", format!("{}   changed {}   sittings {}", row.started, row.changed, details.sittings))?;
    line("output", details.outputs.join(" "))?;
    line("journal", details.journal.clone())?;
    line("in", details.cwd.clone())
}

/// Text that can do nothing to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_control() { '\u{fffd}' } else { each }).collect()
}

#[cfg(test)]
mod tests {
    use longshore_core::watch::Counts;

    use super::*;

    #[test]
    fn a_job_is_one_line_and_nothing_in_it_reaches_the_terminal() {
        let row = JobRow {
            job: "7f3a".to_owned(),
            name: Some("prices".to_owned()),
            state: "unfinished",
            pid: None,
            counts: Counts::from([2, 1, 0, 0, 0, 0, 0, 0]),
            in_flight: 0,
            left: None,
            exit: None,
            started: String::new(),
            changed: String::new(),
            what: "\u{1b}[2J".to_owned(),
            broken: None,
        };
        let mut text = Vec::new();
        print_list(&[row], &mut text).unwrap();
        assert!(!text.contains(&0x1b));
        assert!(String::from_utf8(text).unwrap().contains(" prices unfinished         2       1         0  "));
    }
}
