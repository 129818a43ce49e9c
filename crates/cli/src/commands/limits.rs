//! `longshore limits`: the limits of the configuration, the rates of tasks, and what is set of them for all who share them.

use std::{io::Write, time::Duration};

use clap::Subcommand;
use longshore_brokers::{BUCKET, LimitState};
use longshore_core::Rate;
use serde_json::json;

use super::remote::{RemoteArgs, Whom, control};
use crate::{
    config::Config,
    queue::{Fault, Place, remote::PATIENCE, show::plain},
    units::{self, show_duration},
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
    let known = place.broker().limits().await?;
    match command.unwrap_or(LimitsCommand::List) {
        LimitsCommand::List => list(config, &known, place, out),
        LimitsCommand::Set { name, rate, burst } => {
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
        true => writeln!(out, "{}", json!({ "limit": name, "set": rate.map(said) }))?,
        false if rate.is_some() => writeln!(out, "{}: {text} burst {burst}, for all that share it on this broker", plain(name))?,
        false => writeln!(out, "{}: what the configuration says holds again", plain(name))?,
    }
    Ok(0)
}

/// The limit whose bucket it is.
fn limit_of(state: &LimitState) -> &str {
    state.name.split(BUCKET).next().unwrap_or(&state.name)
}

/// A rate for people: `10/s burst 2`.
fn said(rate: Rate) -> String {
    let per_second = rate.count / rate.per.as_secs_f64();
    let text = [(1.0, "s"), (60.0, "min"), (3600.0, "h")].into_iter().find_map(|(seconds, word)| {
        let count = per_second * seconds;
        (count >= 1.0 || word == "h").then(|| format!("{}/{word}", (count * 1000.0).round() / 1000.0))
    });
    format!("{} burst {}", text.unwrap_or_default(), rate.burst)
}

fn list(config: &Config, known: &[LimitState], place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let join = |parts: Vec<String>| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("   ");
    for name in config.limits() {
        let limit = config.limit(name)?;
        let rate = limit.rate.map(|rate| format!("{rate} burst {}", limit.burst)).unwrap_or_default();
        let most = limit.concurrency.map(|most| format!("{most} at once, each process")).unwrap_or_default();
        let by = limit.by.map(|by| format!("by {by}")).unwrap_or_default();
        let state = known.iter().find(|state| state.name == name);
        rows.push((format!("[limits.{name:?}]"), join(vec![rate, most, by, state.map(standing).unwrap_or_default()])));
    }
    // The buckets of limits by value, and limits that only others know.
    let own: Vec<&str> = config.limits().collect();
    for state in known.iter().filter(|state| !own.contains(&state.name.as_str())) {
        let text = match state.name.split_once(BUCKET) {
            Some((limit, value)) => (format!("{limit} = {value}"), standing(state)),
            None => (state.name.clone(), standing(state)),
        };
        rows.push(text);
    }
    for spec in &place.specs {
        rows.extend(spec.rate().map(|rate| (spec.name.clone(), rate)));
    }
    for task in place.app.tasks() {
        rows.extend(task.policy.rate_limit.map(|rate| (task.name.to_string(), format!("every {}", show_duration(rate.interval())))));
    }
    if rows.is_empty() && !place.json {
        writeln!(out, "no limits: write `rate` into a [tasks.NAME], or a [limits.NAME] for `run`")?;
    }
    for (name, text) in rows {
        match place.json {
            true => writeln!(out, "{}", json!({ "limit": name, "is": text }))?,
            false => writeln!(out, "{:<28}  {}", plain(&name), plain(&text))?,
        }
    }
    Ok(0)
}

/// What the broker knows of a bucket, for people.
fn standing(state: &LimitState) -> String {
    let set = state.set.map(|rate| format!("set to {} for all", said(rate)));
    let ahead = (state.ahead > Duration::from_millis(1)).then(|| format!("in use, the next slot in {}", show_duration(state.ahead)));
    set.into_iter().chain(ahead).collect::<Vec<_>>().join("   ")
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

    #[test]
    fn rates_are_said_in_the_unit_that_people_would_take() {
        for (per_second, want) in
            [(10.0, "10/s burst 1"), (0.5, "30/min burst 1"), (1.0 / 360.0, "10/h burst 1"), (1000.0 / 3.0, "333.333/s burst 1")]
        {
            assert_eq!(said(Rate::per_second(per_second)), want);
        }
    }
}
