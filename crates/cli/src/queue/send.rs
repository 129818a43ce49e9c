//! Flags of `call` and `enqueue` about a task, beside its arguments.

use std::time::{Duration, SystemTime};

use clap::Args;
use longshore_celery::{Map, Value};
use longshore_worker::{Signature, TraceContext};

use crate::fault::Fault;
use crate::units;

/// Flags of sending a task.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sending")]
pub struct SendArgs {
    /// The queue [the task's own, else celery]
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// 0 to 9; on Redis and SQLite 0 goes first, on RabbitMQ the largest, up to 255
    #[arg(long, value_name = "N")]
    pub priority: Option<u8>,
    /// Not before this time has passed
    #[arg(long, value_name = "DUR", value_parser = seconds, conflicts_with = "eta")]
    pub countdown: Option<Duration>,
    /// Not before this time: 2026-11-21T12:00:00Z, or without zone: this machine's
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub eta: Option<SystemTime>,
    /// Not after this time, or after so long: 10m
    #[arg(long, value_name = "TIME|DUR", value_parser = expiry)]
    pub expires: Option<SystemTime>,
    /// The limit of one attempt
    #[arg(long, value_name = "DUR", value_parser = seconds)]
    pub time_limit: Option<Duration>,
    /// The limit of one attempt of which the task is told first
    #[arg(long, value_name = "DUR", value_parser = seconds)]
    pub soft_time_limit: Option<Duration>,
    /// Store no result
    #[arg(long)]
    pub ignore_result: bool,
    /// Compress its arguments: zlib, or zstd (a worker in Python needs a module for it)
    #[arg(long, value_name = "HOW", value_parser = ["zlib", "zstd"])]
    pub compress: Option<String>,
}

/// A duration; a bare number is seconds, as Celery has it.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number).map_err(|_| format!("`{text}` is no time")),
        Err(_) => units::duration(text),
    }
}

fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.into());
    }
    let local = text.parse::<jiff::civil::DateTime>().and_then(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    local.map(|at| at.timestamp().into()).map_err(|_| format!("`{text}` is no time; write 2026-11-21T12:00:00Z"))
}

fn expiry(text: &str) -> Result<SystemTime, String> {
    match seconds(text) {
        Ok(after) => SystemTime::now().checked_add(after).ok_or_else(|| format!("`{text}` is too long")),
        Err(_) => moment(text).map_err(|_| format!("`{text}` is neither a duration such as 10m nor a time such as 2026-11-21T12:00:00Z")),
    }
}

impl SendArgs {
    /// The task with these arguments, to be sent so.
    pub fn signature(&self, task: &str, args: Vec<Value>, kwargs: Map) -> Signature {
        let mut signature: Signature = Signature::named(task);
        for arg in &args {
            signature = signature.arg(arg);
        }
        for (name, value) in kwargs.iter() {
            signature = signature.kwarg(name, value);
        }
        if let Some(queue) = &self.queue {
            signature = signature.queue(queue);
        }
        if let Some(priority) = self.priority {
            signature = signature.priority(priority);
        }
        if let Some(countdown) = self.countdown {
            signature = signature.countdown(countdown);
        }
        if let Some(eta) = self.eta {
            signature = signature.eta(eta);
        }
        if let Some(expires) = self.expires {
            signature = signature.expires_at(expires);
        }
        if let Some(limit) = self.time_limit {
            signature = signature.time_limit(limit);
        }
        if let Some(limit) = self.soft_time_limit {
            signature = signature.soft_time_limit(limit);
        }
        if let Some(how) = &self.compress {
            signature = signature.option("compression", how.as_str());
        }
        if self.ignore_result { signature.ignore_result() } else { signature }
    }
}

/// The trace that this process belongs to, as its environment says.
#[must_use]
pub fn trace() -> Option<TraceContext> {
    TraceContext::parse(&std::env::var("TRACEPARENT").ok()?, std::env::var("TRACESTATE").ok().as_deref())
}

/// A JSON array of positional arguments.
///
/// # Errors
/// It is none.
pub fn args(text: &str) -> Result<Vec<Value>, Fault> {
    match Value::parse(text.as_bytes(), 128) {
        Ok(Value::List(list)) => Ok(list),
        Ok(other) => Err(Fault::usage(format!("--args is a JSON array, as in '[2,3]', not {}", other.kind()))),
        Err(error) => Err(Fault::usage(format!("--args is not JSON: {error}; write '[2,3]'"))),
    }
}

/// A JSON object of keyword arguments.
///
/// # Errors
/// It is none.
pub fn kwargs(text: &str) -> Result<Map, Fault> {
    match Value::parse(text.as_bytes(), 128) {
        Ok(Value::Map(map)) => Ok(map),
        Ok(other) => Err(Fault::usage(format!("--kwargs is a JSON object, as in '{{\"size\": 50}}', not {}", other.kind()))),
        Err(error) => Err(Fault::usage(format!("--kwargs is not JSON: {error}; write '{{\"size\": 50}}'"))),
    }
}
