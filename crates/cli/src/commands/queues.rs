//! `longshore queues`: list, show, peek, pause, resume, purge, move.
//!
//! Layout: `flow.rs`: what comes and goes; `table.rs`: how it is shown

mod flow;
mod table;

use std::{io::Write, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use longshore_brokers::QueueState;
use serde_json::{Value as Json, json};

use self::flow::Flows;
use crate::{
    queue::{
        Fault, Place,
        show::{Brief, plain, who},
    },
    units::{self, show_count},
};

/// `longshore queues …`
#[derive(Subcommand, Clone, Debug)]
pub enum QueuesCommand {
    /// All queues (the default)
    ///
    /// WAITING: for a worker. HELD: lent to workers, to be run as soon as may be. RUNNING: what runs now, as the workers say, acknowledged or not. ETA: for a time
    /// that is still to come. DEAD: dead letters. OLDEST: how long the oldest has waited. What nobody can say is `–`.
    List {
        /// How long it is measured.
        #[command(flatten)]
        measure: Measure,
    },
    /// One queue, and what is next in it
    Show {
        /// The queue
        queue: String,
        /// How long it is measured.
        #[command(flatten)]
        measure: Measure,
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

/// How long it is measured what comes and goes.
#[derive(Args, Clone, Copy, Debug)]
pub struct Measure {
    /// What comes and goes is counted for so long, from the workers that answer; 0s: not at all
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = units::duration)]
    pub window: Duration,
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<QueuesCommand>, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let broker = place.broker();
    match command.unwrap_or(QueuesCommand::List { measure: Measure { window: Duration::from_secs(1) } }) {
        QueuesCommand::List { measure } => {
            let (mut states, flows) = flow::measure(place, &[], measure.window).await?;
            states.sort_by(|a, b| a.name.cmp(&b.name));
            show(&states, &flows, place, out)?;
        }
        QueuesCommand::Show { queue, measure } => {
            let (states, flows) = flow::measure(place, &[Arc::from(queue.as_str())], measure.window).await?;
            show(&states, &flows, place, out)?;
            if !place.json {
                for raw in broker.peek(&queue, 1).await? {
                    writeln!(out, "next    {}", Brief::of(&raw).text())?;
                }
            }
        }
        QueuesCommand::Peek { queue, count } => {
            let next = broker.peek(&queue, count).await?;
            if next.is_empty() && !place.json {
                writeln!(out, "nothing waits in {}", plain(&queue))?;
            }
            for (at, raw) in next.iter().enumerate() {
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
                let state = state(place, queue).await?;
                // What is held back until its time goes too.
                let waiting = state.waiting + state.later;
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

fn show(states: &[QueueState], flows: &Flows, place: &Place, out: &mut dyn Write) -> Result<(), Fault> {
    match place.json {
        true => states.iter().try_for_each(|state| writeln!(out, "{}", table::json(state, flows)))?,
        false => table::write(states, flows, out)?,
    }
    Ok(())
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
