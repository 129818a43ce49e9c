//! `longshore tasks`: what is sent, runs and has run, and the tasks that are known here.
//!
//! Layout: here the table of sub-commands, and `names`; `which.rs`: the flags that say
//! which tasks are meant; `list.rs`, `act.rs`: what is done with them

mod act;
mod list;
mod which;

use std::io::Write;

use clap::Subcommand;
use longshore_worker::{Acks, Task};
use serde_json::{Value as Json, json};

use self::which::Which;
use crate::{
    exit::Exit,
    fault::Fault,
    queue::{Place, show::plain},
    units::show_duration,
};

/// `longshore tasks …`
#[derive(Subcommand, Clone, Debug)]
pub enum TasksCommand {
    /// The tasks that a worker here would serve (the default)
    Names {
        /// Celery's own too
        #[arg(long)]
        all: bool,
    },
    /// What waits, runs, is dead or has ended, as far as the broker and the results know it
    List {
        /// The tasks.
        #[command(flatten)]
        which: Which,
        /// Most that are shown
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// One task: where it is, its arguments, its result
    Show {
        /// Its id
        id: String,
    },
    /// Send again what has failed, was called off (under a new id) or is a dead letter
    Retry {
        /// The tasks.
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Call off what has not ended: it is not started any more
    Cancel {
        /// The tasks.
        #[command(flatten)]
        which: Which,
        /// End those that run, too
        #[arg(long)]
        terminate: bool,
        /// With --terminate: the signal of their processes
        #[arg(long, value_name = "SIGNAL", default_value = "SIGTERM", requires = "terminate")]
        signal: String,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<TasksCommand>, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let all = match command.unwrap_or(TasksCommand::Names { all: false }) {
        TasksCommand::List { which, limit } => return list::list(&which, limit, place, out).await,
        TasksCommand::Show { id } => return list::show(&id, place, out).await,
        TasksCommand::Retry { which, yes } => return act::retry(&which, yes, place, out).await,
        TasksCommand::Cancel { which, terminate, signal, yes } => {
            return act::cancel(&which, terminate.then_some(signal.as_str()), yes, place, out).await;
        }
        TasksCommand::Names { all } => all,
    };
    let mut rows: Vec<(String, String, Json)> = Vec::new();
    for task in place.app.tasks().into_iter().filter(|task| all || !task.name.starts_with("celery.")) {
        rows.push((task.name.to_string(), format!("{:<9} Rust{}", task.lane.as_str(), policy(task)), document(task)));
    }
    for spec in &place.specs {
        let text = format!("{:<9} {}", spec.lane().as_str(), plain(spec.text()));
        rows.push((spec.name.clone(), text, json!({ "task": spec.name, "lane": spec.lane().as_str(), "runs": spec.text() })));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if place.json {
        rows.iter().try_for_each(|(_, _, document)| writeln!(out, "{document}"))?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        writeln!(out, "no tasks here: write a [tasks.NAME] with exec, pipe or http into longshore.toml")?;
        return Ok(Exit::Done);
    }
    let wide = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    for (name, text, _) in &rows {
        writeln!(out, "{:<wide$}  {text}", plain(name))?;
    }
    Ok(Exit::Done)
}

/// Returns what is special about a task, for people.
fn policy(task: &Task) -> String {
    let policy = &task.policy;
    let mut text = String::new();
    if let Some(limit) = policy.time_limit {
        text.push_str(&format!(", limit {}", show_duration(limit)));
    }
    if let Some(rate) = policy.rate_limit {
        text.push_str(&format!(", every {}", show_duration(rate.interval())));
    }
    if policy.acks == Some(Acks::Early) {
        text.push_str(", acks early");
    }
    text
}

fn document(task: &Task) -> Json {
    json!({ "task": &*task.name, "lane": task.lane.as_str(), "runs": "rust" })
}
