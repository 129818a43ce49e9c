//! `longshore tasks`: the tasks that are known here, and where one is.

use std::io::Write;

use clap::Subcommand;
use longshore_worker::{Acks, Task};
use serde_json::{Value as Json, json};

use crate::{
    queue::{Fault, Place, show::plain},
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
    /// Where a task is (as `why`)
    Show {
        /// Its id
        id: String,
    },
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<TasksCommand>, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let all = match command.unwrap_or(TasksCommand::Names { all: false }) {
        TasksCommand::Show { id } => return super::why::run(&id, place, out).await,
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
        return Ok(0);
    }
    if rows.is_empty() {
        writeln!(out, "no tasks here: write a [tasks.NAME] with exec, pipe or http into longshore.toml")?;
        return Ok(0);
    }
    let wide = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    for (name, text, _) in &rows {
        writeln!(out, "{:<wide$}  {text}", plain(name))?;
    }
    Ok(0)
}

/// What is special about a task, for people.
fn policy(task: &Task) -> String {
    let policy = &task.policy;
    let mut text = String::new();
    if let Some(limit) = policy.time_limit {
        text.push_str(&format!(", limit {}", show_duration(limit)));
    }
    if let Some(rate) = policy.rate_limit {
        text.push_str(&format!(", every {}", show_duration(rate.interval())));
    }
    if policy.acks == Acks::Early {
        text.push_str(", acks early");
    }
    text
}

fn document(task: &Task) -> Json {
    json!({ "task": &*task.name, "lane": task.lane.as_str(), "runs": "rust" })
}
