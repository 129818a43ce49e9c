//! What `call` and `enqueue` say of a task beside its arguments.

use std::time::{Duration, SystemTime};

use clap::Args;
use longshore_celery::{Map, Value};
use longshore_core::TaskError;
use longshore_worker::Signature;

use super::Fault;
use crate::{
    run::{
        record::Record,
        template::{Shape, Template, Vars},
    },
    units,
};

/// How a task is sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sending")]
pub struct SendArgs {
    /// The queue [the task's own, else celery]
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// 0 to 9; on Redis and SQLite 0 goes first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
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

/// A task's arguments as templates of records say them.
#[derive(Debug)]
pub struct Filling {
    args: Option<Template>,
    kwargs: Option<Template>,
}

impl Filling {
    /// Compiles `--args` and `--kwargs`.
    ///
    /// # Errors
    /// A sentence for people: a bad template, a field that cannot be there.
    pub fn compile(args: Option<&str>, kwargs: Option<&str>, shape: &Shape) -> Result<Self, String> {
        let template = |flag: &str, text: Option<&str>| {
            text.map(|text| Template::parse(text, shape).map_err(|error| format!("{flag}: {error}"))).transpose()
        };
        Ok(Self { args: template("--args", args)?, kwargs: template("--kwargs", kwargs)? })
    }

    /// The templates as they were written.
    pub fn sources(&self) -> [&[u8]; 2] {
        [&self.args, &self.kwargs].map(|template| template.as_ref().map_or(&b""[..], Template::source))
    }

    /// The arguments that a record makes. Without templates a plain record is the one argument, a JSON array the arguments, and an object or a row the
    /// keyword arguments.
    ///
    /// # Errors
    /// Of kind `invalid`: the record is bad, or what is filled in is no JSON of the right kind.
    pub fn fill(&self, record: &Record) -> Result<(Vec<Value>, Map), TaskError> {
        record.check()?;
        let fill = |flag: &str, template: &Template| {
            let text = template.render_json(record, &Vars::default())?;
            Value::parse(text.as_bytes(), DEPTH).map_err(|error| record.invalid(format_args!("{flag} is not JSON when filled in: {error}")))
        };
        let (mut args, mut kwargs) = (Vec::new(), Map::default());
        if self.args.is_none() && self.kwargs.is_none() {
            if record.is_plain() {
                return Ok((vec![Value::Text(record.as_text()?.into_owned())], kwargs));
            }
            match Value::parse(record.to_json().get().as_bytes(), DEPTH).map_err(|error| record.invalid(error))? {
                Value::Map(map) => kwargs = map,
                Value::List(list) => args = list,
                value => args.push(value),
            }
        }
        if let Some(template) = &self.args {
            match fill("--args", template)? {
                Value::List(list) => args = list,
                other => return Err(record.invalid(format_args!("--args is {}, not an array", other.kind()))),
            }
        }
        if let Some(template) = &self.kwargs {
            match fill("--kwargs", template)? {
                Value::Map(map) => kwargs = map,
                other => return Err(record.invalid(format_args!("--kwargs is {}, not an object", other.kind()))),
            }
        }
        Ok((args, kwargs))
    }
}

/// The deepest nesting of arguments.
const DEPTH: usize = 128;

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
