//! `longshore limits`: the limits of the configuration, the rates of tasks, and what is set of
//! them: for all who share them, or at workers that run.

use std::{io::Write, time::Duration};

use clap::Subcommand;
use longshore_core::Rate;
use longshore_ops::{
    limits::{self, KnownLimit, KnownRate, LimitInfo, LimitSource, LimitsRequest, SetLimit, rate_text},
    workers::{WorkerAction, WorkersRequest},
};

use super::remote::told;
use crate::{
    config::{Config, Limit},
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{json_line, plain},
    },
    units::{self, show_duration},
};

/// `longshore limits …`
#[derive(Subcommand, Clone, Debug)]
pub enum LimitsCommand {
    /// The limits of the configuration, and the rates of tasks (the default)
    List,
    /// Set a rate: of a [limits.NAME] for all who share it on the broker, or of a task at all
    /// workers that run
    Set {
        /// The limit, or the task
        name: String,
        /// Starts per time: 10/s, 100/min; 0: for a task no limit, for a limit what the
        /// configuration says
        rate: String,
        /// Of a limit: starts at once after a pause
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        burst: u32,
    },
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`; a mistake in the configuration; 69: it is a task's, and no
/// worker has replied.
pub async fn run(command: Option<LimitsCommand>, config: &Config, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match command.unwrap_or(LimitsCommand::List) {
        LimitsCommand::List => {
            let limits = limits::list(&place.client, &known(config, place)?).await?;
            show(&limits, place, out)
        }
        LimitsCommand::Set { name, rate, burst } => {
            let is_task = place.app.task_named(&name).is_some() || place.specs.iter().any(|spec| spec.name == name);
            let is_limit = config.limits().any(|limit| limit == name) || (!is_task && limits::is_known(&place.client, &name).await?);
            if is_limit {
                return set(&name, &rate, burst, place, out).await;
            }
            let action = WorkerAction::SetRate { task: name, rate: of_task(&rate)? };
            told(&action, &WorkersRequest::default(), place, out).await
        }
    }
}

/// Reads a task's rate, which may be in Celery's words: `10/m`, or a number a second. Nothing above
/// 0 is no limit.
fn of_task(text: &str) -> Result<Option<Rate>, Fault> {
    let per = |seconds| Duration::from_secs(seconds);
    let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
    let per = match unit {
        "s" => Some(per(1)),
        "m" => Some(per(60)),
        "h" => Some(per(3600)),
        _ => None,
    };
    match (count.parse::<f64>(), per) {
        (Ok(count), Some(per)) if count.is_finite() => Ok((count > 0.0).then_some(Rate { count, per, burst: 1 })),
        _ => Ok(Some(units::rate(text).map_err(Fault::usage)?.with_burst(1))),
    }
}

async fn set(name: &str, text: &str, burst: u32, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let rate = match text {
        "0" => None,
        text => Some(Rate::per_second(units::rate(text).map_err(Fault::usage)?.per_second()).burst(burst)),
    };
    let done = limits::set(&place.client, &SetLimit::new(name, rate)).await?;
    match place.json {
        true => json_line(out, &done)?,
        false if rate.is_some() => writeln!(out, "{}: {text} burst {burst}, for all that share it on this broker", plain(name))?,
        false => writeln!(out, "{}: what the configuration says holds again", plain(name))?,
    }
    Ok(Exit::Done)
}

/// Returns the limits and rates that the configuration and the program say.
///
/// # Errors
/// A mistake in the configuration.
pub(super) fn known(config: &Config, place: &Place) -> Result<LimitsRequest, Fault> {
    let mut request = LimitsRequest::default();
    for name in config.limits() {
        request.limits.push(limit_of(config.limit(name)?)?);
    }
    for spec in &place.specs {
        let mut known = KnownRate::new(spec.name.as_str());
        known.rate = spec.pace().map(|(rate, _)| rate);
        known.limit = spec.pace().and_then(|(_, limit)| limit).map(str::to_owned);
        known.words = spec.rate();
        request.rates.push(known);
    }
    for task in place.app.tasks() {
        let mut known = KnownRate::new(&*task.name);
        (known.rate, known.from) = (task.policy.rate_limit, LimitSource::Program);
        request.rates.push(known);
    }
    Ok(request)
}

/// Returns a limit of the configuration.
fn limit_of(limit: Limit) -> Result<KnownLimit, Fault> {
    let read = |text: &String| Ok(Rate::per_second(units::rate(text)?.per_second()));
    let burst = u32::try_from(limit.burst).unwrap_or(u32::MAX);
    let rate =
        limit.rate.as_ref().map(read).transpose().map_err(|why: String| Fault::usage(format!("[limits.{:?}]: {why}", limit.name)))?;
    let mut known = KnownLimit::new(limit.name);
    known.rate = rate.map(|rate| rate.burst(burst));
    known.words = limit.rate.map(|rate| format!("{rate} burst {}", limit.burst));
    (known.concurrency, known.by) = (limit.concurrency, limit.by);
    Ok(known)
}

fn show(limits: &[LimitInfo], place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    if limits.is_empty() && !place.json {
        writeln!(out, "no limits: write `rate` into a [tasks.NAME], or a [limits.NAME] for `run`")?;
    }
    for limit in limits {
        match place.json {
            true => json_line(out, limit)?,
            false => writeln!(out, "{:<28}  {}", plain(&name(limit)), plain(&text(limit)))?,
        }
    }
    Ok(Exit::Done)
}

/// Returns the name for people: a section, or a task.
fn name(info: &LimitInfo) -> String {
    match (&info.task, &info.limit, &info.bucket) {
        (Some(task), ..) => task.clone(),
        (None, Some(limit), Some(bucket)) => format!("{limit} = {bucket}"),
        (None, Some(limit), None) if info.from == LimitSource::Broker => limit.clone(),
        (None, limit, None) => format!("[limits.{:?}]", limit.as_deref().unwrap_or_default()),
        (None, None, Some(bucket)) => bucket.clone(),
    }
}

/// Returns everything that holds, for people.
fn text(info: &LimitInfo) -> String {
    let of_task = info.own.filter(|_| info.task.is_some()).map(|rate| format!("every {}", show_duration(rate.interval())));
    let own = info.words.clone().or(of_task);
    let most = info.concurrency.map(|most| format!("{most} at once, each process"));
    let by = info.by.as_ref().map(|by| format!("by {by}"));
    let set = info.set.map(|rate| format!("set to {} burst {} for all", rate_text(rate), rate.burst));
    let ahead = info.in_use().then(|| format!("in use, the next slot in {}", show_duration(info.ahead)));
    let workers = info.workers.iter().map(|(node, rate)| match rate {
        Some(rate) => format!("{} at {node}", rate_text(*rate)),
        None => format!("no limit at {node}"),
    });
    own.into_iter().chain(most).chain(by).chain(set).chain(ahead).chain(workers).collect::<Vec<_>>().join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_rate_is_read_in_our_words_and_in_celerys() {
        let per_second = |rate: Rate| rate.count / rate.per.as_secs_f64();
        for (text, want) in
            [("10/m", Some(10.0 / 60.0)), ("0", None), ("0/s", None), ("4", Some(4.0)), ("120/min", Some(2.0)), ("5/s", Some(5.0))]
        {
            assert_eq!(of_task(text).unwrap().map(per_second), want, "{text}");
        }
        assert_eq!(of_task("lots").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_limit_is_told_with_all_that_is_known_of_it() {
        let limit = Limit { name: "api".into(), rate: Some("10/min".into()), burst: 1, concurrency: None, by: None };
        let known = limit_of(limit).unwrap();
        let mut info = LimitInfo::default();
        (info.limit, info.own, info.words) = (Some(known.name), known.rate, known.words);
        info.ahead = Duration::from_millis(1500);
        assert_eq!((name(&info).as_str(), text(&info).as_str()), ("[limits.\"api\"]", "10/min burst 1   in use, the next slot in 1.5s"));
        let mut info = LimitInfo::default();
        (info.task, info.own) = (Some("t".into()), Some(Rate::per_second(5.0)));
        info.workers = vec![("b".into(), None), ("c".into(), Some(Rate::per_second(0.5)))];
        assert_eq!(text(&info), "every 200ms   no limit at b   30/min at c");
    }
}
