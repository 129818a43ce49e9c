//! `longshore queues`: list, show, peek, pause, resume, purge, move.

use std::{io::Write, sync::Arc};

use clap::Subcommand;
use longshore_brokers::QueueState;
use serde_json::{Value as Json, json};

use crate::{
    queue::{
        Fault, Place,
        show::{Brief, plain, who},
    },
    units::{show_count, show_duration},
};

/// `longshore queues …`
#[derive(Subcommand, Clone, Debug)]
pub enum QueuesCommand {
    /// All queues (the default)
    List,
    /// One queue
    Show {
        /// The queue
        queue: String,
    },
    /// The tasks that are next, without taking them
    Peek {
        /// The queue
        queue: String,
        /// How many
        #[arg(short = 'n', default_value_t = 20)]
        count: usize,
    },
    /// Let longshore's workers take nothing more from a queue
    Pause {
        /// The queues
        #[arg(required = true)]
        queues: Vec<String>,
    },
    /// Let them go on
    Resume {
        /// The queues
        #[arg(required = true)]
        queues: Vec<String>,
    },
    /// Throw away what waits in a queue
    Purge {
        /// The queues
        #[arg(required = true)]
        queues: Vec<String>,
        /// Do not ask
        #[arg(short = 'f', long, visible_alias = "force")]
        yes: bool,
    },
    /// Move what waits in a queue to another one, in order
    Move {
        /// From this queue
        from: String,
        /// To this one
        to: String,
    },
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<QueuesCommand>, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let broker = place.broker();
    match command.unwrap_or(QueuesCommand::List) {
        QueuesCommand::List => {
            let mut states = broker.queues(&[]).await?;
            states.sort_by(|a, b| a.name.cmp(&b.name));
            if place.json {
                states.iter().try_for_each(|state| writeln!(out, "{}", json(state)))?;
            } else {
                table(&states, out)?;
            }
        }
        QueuesCommand::Show { queue } => {
            let state = state(place, &queue).await?;
            if place.json {
                writeln!(out, "{}", json(&state))?;
            } else {
                table(std::slice::from_ref(&state), out)?;
                for raw in broker.peek(&queue, 1).await? {
                    writeln!(out, "next    {}", Brief::of(&raw).text())?;
                }
            }
        }
        QueuesCommand::Peek { queue, count } => {
            for (at, raw) in broker.peek(&queue, count).await?.iter().enumerate() {
                let brief = Brief::of(raw);
                match place.json {
                    true => writeln!(out, "{}", brief.json())?,
                    false => writeln!(out, "{:>4}  {}", at + 1, brief.text())?,
                }
            }
        }
        QueuesCommand::Pause { queues } => {
            let by = who();
            for queue in &queues {
                broker.pause(queue, Some(&by)).await?;
                said(place, out, json!({ "paused": queue, "by": by }), format_args!("{} paused", plain(queue)))?;
            }
        }
        QueuesCommand::Resume { queues } => {
            for queue in &queues {
                broker.pause(queue, None).await?;
                said(place, out, json!({ "resumed": queue }), format_args!("{} goes on", plain(queue)))?;
            }
        }
        QueuesCommand::Purge { queues, yes } => {
            for queue in &queues {
                let waiting = state(place, queue).await?.waiting;
                if !place.confirm(&format!("throw away {} waiting {} of {}?", show_count(waiting), tasks(waiting), plain(queue)), yes)? {
                    continue;
                }
                let gone = broker.purge(queue).await?;
                let text = format!("{}: {} {} thrown away", plain(queue), show_count(gone), tasks(gone));
                said(place, out, json!({ "queue": queue, "purged": gone }), format_args!("{text}"))?;
            }
        }
        QueuesCommand::Move { from, to } => {
            if from == to {
                return Err(Fault::usage(format!("{from} and {to} are one queue")));
            }
            let moved = broker.transfer(&from, &to).await?;
            let text = format!("{} {} moved from {} to {}", show_count(moved), tasks(moved), plain(&from), plain(&to));
            said(place, out, json!({ "from": from, "to": to, "moved": moved }), format_args!("{text}"))?;
        }
    }
    Ok(0)
}

fn said(place: &Place, out: &mut dyn Write, json: Json, text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    if place.json { writeln!(out, "{json}") } else { writeln!(out, "{text}") }
}

/// `task` or `tasks`.
pub(super) fn tasks(count: u64) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

/// The state of one queue; that of an empty one where it is not known.
async fn state(place: &Place, queue: &str) -> Result<QueueState, Fault> {
    let found = place.broker().queues(&[Arc::from(queue)]).await?.into_iter().find(|state| state.name == queue);
    Ok(found.unwrap_or_else(|| QueueState { name: queue.to_owned(), ..QueueState::default() }))
}

fn json(state: &QueueState) -> Json {
    json!({
        "queue": state.name,
        "waiting": state.waiting,
        "held": state.held,
        "later": state.later,
        "dead": state.dead,
        "oldest_seconds": state.oldest.map(|age| age.as_secs_f64()),
        "paused_by": state.paused,
    })
}

fn table(states: &[QueueState], out: &mut dyn Write) -> std::io::Result<()> {
    if states.is_empty() {
        return writeln!(out, "no queues yet: a task that is sent makes one");
    }
    let wide = states.iter().map(|state| state.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(out, "{:<wide$}  {:>9} {:>7} {:>7} {:>6} {:>8}  STATE", "QUEUE", "WAITING", "HELD", "LATER", "DEAD", "OLDEST")?;
    for state in states {
        let oldest = state.oldest.map_or_else(|| "–".to_owned(), show_duration);
        let doing = state.paused.as_deref().map_or_else(|| "running".to_owned(), |by| format!("paused by {}", plain(by)));
        let [waiting, held, later, dead] = [state.waiting, state.held, state.later, state.dead].map(show_count);
        writeln!(out, "{:<wide$}  {waiting:>9} {held:>7} {later:>7} {dead:>6} {oldest:>8}  {doing}", plain(&state.name))?;
    }
    Ok(())
}
