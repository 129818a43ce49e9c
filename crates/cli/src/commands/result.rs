//! `longshore result`: look up, or wait for, the results of tasks.

use std::{io::Write, time::Duration};

use clap::Args;
use longshore_celery::State;
use serde_json::json;

use super::why::unknown;
use crate::{
    queue::{Fault, Place, show::whereabouts, wait},
    units,
};

/// `longshore result`: 0 success, 1 failure, 8 not ready (in time), 9 id unknown; of several ids the largest.
#[derive(Args, Clone, Debug)]
pub struct ResultArgs {
    /// Ids of tasks
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Wait for them, for so long at most [for ever]
    #[arg(short = 'w', long, value_name = "DUR", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = patience)]
    pub wait: Option<Patience>,
    /// Also show the traceback of a failure
    #[arg(long)]
    pub traceback: bool,
}

/// How long somebody waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Option<Duration>);

/// Reads how long somebody waits; nothing is for ever.
pub(super) fn patience(text: &str) -> Result<Patience, String> {
    if text.is_empty() { Ok(Patience(None)) } else { units::duration(text).map(|limit| Patience(Some(limit))) }
}

/// Runs the command.
///
/// # Errors
/// The backend's, and those of `out`.
pub async fn run(args: &ResultArgs, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let mut worst = 0;
    let several = args.ids.len() > 1;
    for id in &args.ids {
        match one(id, args, place, several, out).await {
            Ok(code) => worst = worst.max(code),
            Err(Fault { code: code @ (1 | 8 | 9), message }) => {
                worst = worst.max(code);
                eprintln!("longshore: {}{message}", if several { format!("{id}: ") } else { String::new() });
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(worst)
}

async fn one(id: &str, args: &ResultArgs, place: &Place, several: bool, out: &mut dyn Write) -> Result<u8, Fault> {
    let answer = place.client.result(id);
    let mut stored = answer.stored().await?;
    if !stored.as_ref().is_some_and(|stored| stored.state.is_ready()) {
        let found = place.broker().find(id).await?;
        if found.is_empty() {
            // It may have ended between the two looks.
            stored = answer.stored().await?;
            if stored.is_none() {
                return Err(unknown());
            }
        }
        match args.wait {
            Some(Patience(limit)) if !stored.as_ref().is_some_and(|stored| stored.state.is_ready()) => {
                match wait::result(place, &answer, limit).await {
                    Ok(_) | Err(longshore_worker::ClientError::Remote(_)) => stored = answer.stored().await?,
                    Err(error) => return Err(error.into()),
                }
            }
            _ if !stored.as_ref().is_some_and(|stored| stored.state.is_ready()) => {
                let state = stored.as_ref().map_or(State::Pending, |stored| stored.state.clone());
                if place.json {
                    writeln!(out, "{}", json!({ "task_id": id, "status": state.as_str() }))?;
                    return Ok(8);
                }
                let place = found.first().map(|found| whereabouts(found, None, std::time::SystemTime::now()));
                return Err(Fault {
                    code: 8,
                    message: place.map_or_else(|| format!("not ready: {state}"), |place| format!("not ready: it {place}")),
                });
            }
            _ => {}
        }
    }
    let Some(stored) = stored else { return Err(unknown()) };
    if place.json {
        writeln!(out, "{}", wait::document(id, &stored))?;
        return Ok(if stored.state == State::Success { 0 } else { 1 });
    }
    if stored.state == State::Success {
        if several {
            write!(out, "{id}  ")?;
        }
        wait::print(&stored.result, false, out)?;
        return Ok(0);
    }
    Err(Fault { code: 1, message: wait::failure(id, &stored, args.traceback) })
}
