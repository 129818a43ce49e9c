//! `longshore limits`: the limits of the configuration, the rates of tasks, and what is set of them: for all who share them, or at workers that run.
//!
//! Layout: `row.rs`: what is known of one limit or task, for people and for programs; `told.rs`: the rates that workers say they keep

mod row;
mod told;

use std::io::Write;

use clap::Subcommand;
use longshore_brokers::{BUCKET, LimitState};
use longshore_celery::control::Request;
use longshore_core::Rate;
use serde_json::json;

use self::row::{Row, fields};
use super::remote::{RemoteArgs, Whom, control};
use crate::{
    config::Config,
    queue::{
        Fault, Place,
        remote::{PATIENCE, ask},
        show::plain,
    },
    units,
};

/// `longshore limits …`
#[derive(Subcommand, Clone, Debug)]
pub enum LimitsCommand {
    /// The limits of the configuration, and the rates of tasks (the default)
    List,
    /// Set a rate: of a [limits.NAME] for all who share it on the broker, or of a task at all workers that run
    Set {
        /// The limit, or the task
        name: String,
        /// Starts per time: 10/s, 100/min; 0: for a task no limit, for a limit what the configuration says
        rate: String,
        /// Of a limit: starts at once after a pause
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        burst: u32,
    },
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`; a mistake in the configuration; 69: it is a task's, and no worker has replied.
pub async fn run(command: Option<LimitsCommand>, config: &Config, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    match command.unwrap_or(LimitsCommand::List) {
        LimitsCommand::List => {
            // What remote control has set is known to the workers alone.
            let replies = ask(place.broker(), Request::new("registered"), PATIENCE).await?;
            let known = place.broker().limits().await?;
            list(&rows(config, &known, &told::rates(&replies), place)?, place, out)
        }
        LimitsCommand::Set { name, rate, burst } => {
            let known = place.broker().limits().await?;
            let is_task = place.app.task_named(&name).is_some() || place.specs.iter().any(|spec| spec.name == name);
            let is_limit = config.limits().any(|limit| limit == name) || (!is_task && known.iter().any(|limit| limit_of(limit) == name));
            if is_limit {
                return set(&name, &rate, burst, place, out).await;
            }
            let rate = of_task(&rate)?;
            let whom = Whom { timeout: PATIENCE, destination: Vec::new() };
            let words = vec!["rate_limit".to_owned(), name, rate];
            control(&RemoteArgs { words, whom }, place, out).await
        }
    }
}

/// A task's rate as workers read it: Celery's `10/m`, too.
fn of_task(text: &str) -> Result<String, Fault> {
    let celerys = match text.split_once('/') {
        Some((count, "s" | "m" | "h")) => count.parse::<f64>().is_ok(),
        None => text.parse::<f64>().is_ok(),
        _ => false,
    };
    if celerys {
        return Ok(text.to_owned());
    }
    Ok(format!("{}/s", units::rate(text).map_err(Fault::usage)?.per_second()))
}

async fn set(name: &str, text: &str, burst: u32, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let rate = match text {
        "0" => None,
        text => Some(Rate::per_second(units::rate(text).map_err(Fault::usage)?.per_second()).burst(burst)),
    };
    place.broker().set_limit(name, rate).await?;
    match place.json {
        true => writeln!(out, "{}", json!({ "limit": name, "set": fields(rate) }))?,
        false if rate.is_some() => writeln!(out, "{}: {text} burst {burst}, for all that share it on this broker", plain(name))?,
        false => writeln!(out, "{}: what the configuration says holds again", plain(name))?,
    }
    Ok(0)
}

/// The limit whose bucket it is.
fn limit_of(state: &LimitState) -> &str {
    state.name.split(BUCKET).next().unwrap_or(&state.name)
}

/// The limits of the configuration, those that only others know, and the tasks that have a rate: by their own policy, or because a worker was told so.
fn rows(config: &Config, known: &[LimitState], told: &[told::Told], place: &Place) -> Result<Vec<Row>, Fault> {
    let mut rows: Vec<Row> = Vec::new();
    for name in config.limits() {
        let limit = config.limit(name)?;
        let state = known.iter().find(|state| state.name == name);
        rows.push(Row::of_limit(limit, state)?);
    }
    // The buckets of limits by value, and limits that only others know.
    let own: Vec<&str> = config.limits().collect();
    rows.extend(known.iter().filter(|state| !own.contains(&state.name.as_str())).map(Row::of_state));
    let mut tasks: Vec<Row> = Vec::new();
    for spec in &place.specs {
        tasks.push(Row::of_task(&spec.name, spec.pace(), spec.rate(), "configuration"));
    }
    for task in place.app.tasks() {
        tasks.push(Row::of_task(&task.name, task.policy.rate_limit.map(|rate| (rate, None)), None, "program"));
    }
    for one in told {
        match tasks.iter_mut().find(|row| row.task.as_deref() == Some(one.task.as_str())) {
            Some(row) => row.hear(one),
            None => {
                let mut row = Row::of_task(&one.task, None, None, "configuration");
                row.hear(one);
                tasks.push(row);
            }
        }
    }
    rows.extend(tasks.into_iter().filter(Row::has_rate));
    Ok(rows)
}

fn list(rows: &[Row], place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    if rows.is_empty() && !place.json {
        writeln!(out, "no limits: write `rate` into a [tasks.NAME], or a [limits.NAME] for `run`")?;
    }
    for row in rows {
        match place.json {
            true => writeln!(out, "{}", row.json())?,
            false => writeln!(out, "{:<28}  {}", plain(&row.name()), plain(&row.text()))?,
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_rate_is_told_to_workers_in_their_words() {
        for (text, want) in [("10/m", "10/m"), ("0", "0"), ("120/min", "2/s"), ("5/s", "5/s")] {
            assert_eq!(of_task(text).unwrap(), want);
        }
        assert_eq!(of_task("lots").unwrap_err().code, 2);
    }
}
