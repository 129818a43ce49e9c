//! `longshore call`: send one task, and wait for its result if that is asked for.

use std::{io::Write, time::Duration};

use clap::Args;
use longshore_celery::State;
use longshore_ops::{tasks::ResultInfo, workers};
use serde_json::json;

use super::result::{Patience, patience};
use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        send::{self, SendArgs},
        show::{json_line, plain},
        wait,
    },
};

/// `longshore call`.
#[derive(Args, Clone, Debug)]
pub struct CallArgs {
    /// The task's name
    #[arg(value_name = "TASK")]
    pub task: String,
    /// Its arguments, as a JSON array
    #[arg(short = 'a', long, value_name = "JSON", default_value = "[]")]
    pub args: String,
    /// Its keyword arguments, as a JSON object
    #[arg(short = 'k', long, value_name = "JSON", default_value = "{}")]
    pub kwargs: String,
    /// Wait for the result, for so long at most [for ever], and print it in place of the id
    #[arg(short = 'w', long, value_name = "DUR", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = patience)]
    pub wait: Option<Patience>,
    /// The task's id [a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Flags of sending.
    #[command(flatten)]
    pub send: SendArgs,
}

/// Longest time that workers are asked whether they know a task, while it is sent.
const KNOWN: Duration = Duration::from_millis(100);

/// Says that no worker knows this task, if those that answer at once do not.
async fn warn_unknown(task: &str, place: &Place) {
    let is_ours = place.app.task_named(task).is_some() || place.specs.iter().any(|spec| spec.name == task);
    if !is_ours && let Ok(Some(false)) = workers::knows(&place.client, task, KNOWN).await {
        let task = plain(task);
        eprintln!("longshore: no worker that answers knows {task}: is the name right? It is sent, and fails where nobody knows it");
    }
}

/// Runs the command.
///
/// # Errors
/// The arguments', the broker's, and those of `out`.
pub async fn run(args: &CallArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let mut signature = args.send.signature(&args.task, send::args(&args.args)?, send::kwargs(&args.kwargs)?);
    if let Some(id) = &args.id {
        signature = signature.task_id(id);
    }
    if args.wait.is_some() && args.send.ignore_result {
        return Err(Fault::usage("--wait waits for a result, and --ignore-result stores none"));
    }
    let client = place.client.in_trace(send::trace());
    let (answer, ()) = tokio::join!(client.send(signature), warn_unknown(&args.task, place));
    let answer = answer?;
    let Some(Patience(limit)) = args.wait else {
        match place.json {
            true => writeln!(out, "{}", json!({ "task_id": answer.id() }))?,
            false => writeln!(out, "{}", answer.id())?,
        }
        return Ok(Exit::Done);
    };
    match wait::result(place, &answer, limit).await {
        Ok(value) if !place.json => wait::print(&value, false, out)?,
        Ok(_) | Err(longshore_worker::ClientError::Remote(_)) => {
            let Some(stored) = answer.stored().await? else { return Err(super::why::unknown(place)) };
            if place.json {
                json_line(out, &ResultInfo::of(answer.id(), &stored))?;
            } else {
                eprintln!("longshore: {}", wait::failure(answer.id(), &stored, true));
            }
            return Ok(if stored.state == State::Success { Exit::Done } else { Exit::Failed });
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}
