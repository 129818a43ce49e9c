//! `longshore queues`: list, show, peek, pause, resume, purge, move.
//!
//! `table.rs`: how they are shown

mod table;

use std::{io::Write, time::Duration};

use clap::{Args, Subcommand};
use longshore_ops::queues::{PeekRequest, QueueAction, QueueDone, QueueInfo, QueuesRequest, act, list, peek};

use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{brief, json_line, plain, who},
    },
    units::{self, show_count},
};

/// `longshore queues …`
#[derive(Subcommand, Clone, Debug)]
pub enum QueuesCommand {
    /// All queues (the default)
    ///
    /// WAITING: for a worker. HELD: lent to workers, to be run as soon as may be. RUNNING: what
    /// runs now, as the workers say, acknowledged or not. ETA: for a time that is still to come.
    /// DEAD: dead letters. OLDEST: how long the oldest has waited. What nobody can say is `–`.
    List {
        /// Time of the measurement.
        #[command(flatten)]
        measure: Measure,
    },
    /// One queue, and what is next in it
    Show {
        /// The queue
        queue: String,
        /// Time of the measurement.
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

/// Time over which traffic is measured where nothing else is said.
const WINDOW: Duration = Duration::from_millis(150);

/// Time over which a queue's traffic is measured.
#[derive(Args, Clone, Copy, Debug)]
pub struct Measure {
    /// What comes and goes is counted for so long, from the workers that answer; 0s: not at all
    #[arg(long, value_name = "DUR", default_value = "150ms", value_parser = units::duration)]
    pub window: Duration,
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<QueuesCommand>, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let client = &place.client;
    match command.unwrap_or(QueuesCommand::List { measure: Measure { window: WINDOW } }) {
        QueuesCommand::List { measure } => {
            let queues = list(client, &QueuesRequest::default().window(measure.window)).await?;
            let unlisted = place.broker().unlisted();
            if unlisted.is_none() || place.json || !queues.is_empty() {
                show(&queues, place, out)?;
            }
            if let Some(why) = unlisted.filter(|_| !place.quiet) {
                eprintln!("longshore: {why}");
            }
        }
        QueuesCommand::Show { queue, measure } => {
            let queues = list(client, &QueuesRequest::one(&queue).window(measure.window)).await?;
            show(&queues, place, out)?;
            // A JSON reader gets one object a queue, and asks for messages with `peek`.
            if !place.json {
                for next in peek(client, &PeekRequest::new(&queue).count(1)).await? {
                    writeln!(out, "next    {}", brief(&next))?;
                }
            }
        }
        QueuesCommand::Peek { queue, count } => {
            let next = peek(client, &PeekRequest::new(&queue).count(count)).await?;
            if next.is_empty() && !place.json {
                writeln!(out, "nothing waits in {}", plain(&queue))?;
            }
            for (at, message) in next.iter().enumerate() {
                match place.json {
                    true => json_line(out, message)?,
                    false => writeln!(out, "{:>4}  {}", at + 1, brief(message))?,
                }
            }
        }
        QueuesCommand::Pause { queues } => {
            // Asked once: all these pauses are one person's.
            let by = who();
            for queue in queues {
                done(QueueAction::Pause { queue, by: by.clone() }, place, out).await?;
            }
        }
        QueuesCommand::Resume { queues } => {
            for queue in queues {
                done(QueueAction::Resume { queue }, place, out).await?;
            }
        }
        // Each queue is asked for by itself, with its own number: this cannot be taken back.
        QueuesCommand::Purge { queues, yes } => {
            for queue in queues {
                let waiting = waiting(&queue, place).await?;
                if place.confirm(&format!("throw away {} waiting {} of {}?", show_count(waiting), tasks(waiting), plain(&queue)), yes)? {
                    done(QueueAction::Purge { queue }, place, out).await?;
                }
            }
        }
        QueuesCommand::Move { from, to } => done(QueueAction::Move { from, to }, place, out).await?,
    }
    Ok(Exit::Done)
}

/// Does something to a queue, and says so.
async fn done(action: QueueAction, place: &Place, out: &mut dyn Write) -> Result<(), Fault> {
    let done = act(&place.client, &action).await?;
    match place.json {
        true => json_line(out, &done)?,
        false => writeln!(out, "{}", sentence(&done))?,
    }
    Ok(())
}

/// Returns what was done, for people.
fn sentence(done: &QueueDone) -> String {
    match done {
        QueueDone::Paused { paused, .. } => format!("{} paused", plain(paused)),
        QueueDone::Resumed { resumed } => format!("{} goes on", plain(resumed)),
        QueueDone::Purged { queue, purged } => format!("{}: {} {} thrown away", plain(queue), show_count(*purged), tasks(*purged)),
        QueueDone::Moved { from, to, moved } => {
            format!("{} {} moved from {} to {}", show_count(*moved), tasks(*moved), plain(from), plain(to))
        }
        _ => "done".to_owned(),
    }
}

fn show(queues: &[QueueInfo], place: &Place, out: &mut dyn Write) -> Result<(), Fault> {
    match place.json {
        true => queues.iter().try_for_each(|queue| json_line(out, queue))?,
        false => table::write(queues, out)?,
    }
    Ok(())
}

/// `task` or `tasks`.
pub(super) fn tasks(count: u64) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

/// Returns how many messages a purge would throw away: what is held back until its time goes too.
async fn waiting(queue: &str, place: &Place) -> Result<u64, Fault> {
    let queues = list(&place.client, &QueuesRequest::one(queue).window(Duration::ZERO)).await?;
    Ok(queues.iter().filter(|info| info.name == queue).map(|info| info.waiting + info.later).sum())
}
