//! Schedules as people write them: in `[schedules.NAME]`, and as flags.

use std::time::Duration;

use longshore_worker::{App, MOST_MISSED, MissedPolicy, Schedule, ScheduleOrigin, ScheduleSpec, Signature, Timing};

use crate::{
    config::{Config, ConfigError, ConfigErrors, Section, Setting, Value},
    fault::Fault,
    queue::send,
    units,
};

/// The words that say when something is due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimingWords<'a> {
    pub(crate) cron: Option<&'a str>,
    pub(crate) every: Option<&'a str>,
    pub(crate) zone: Option<&'a str>,
    pub(crate) both_days: bool,
    pub(crate) jitter: Option<&'a str>,
    pub(crate) missed: Option<&'a str>,
    pub(crate) most: Option<&'a str>,
}

/// A key that is wrong, and why.
type Wrong = (&'static str, String);

impl TimingWords<'_> {
    /// Reads them.
    pub(crate) fn spec(self) -> Result<ScheduleSpec, Wrong> {
        let timing = match (self.cron, self.every) {
            (Some(fields), None) => {
                let read = Timing::cron(fields, self.zone, self.both_days);
                read.map_err(|why| (if why.starts_with("the time zone") { "zone" } else { "cron" }, why))?
            }
            (None, Some(period)) => {
                if self.zone.is_some() || self.both_days {
                    return Err(("every", "an interval counts time that passes: it has no zone and no days".to_owned()));
                }
                Timing::every(seconds(period).map_err(|why| ("every", why))?).map_err(|why| ("every", why))?
            }
            (Some(_), Some(_)) => return Err(("every", "cron and every both say when; leave one out".to_owned())),
            (None, None) => return Err(("cron", "say when: cron, such as \"30 2 * * *\", or every, such as \"10m\"".to_owned())),
        };
        let most = match self.most.map(str::parse) {
            None => None,
            Some(Ok(most)) if most > 0 => Some(most),
            Some(_) => return Err(("most", "a whole number from 1".to_owned())),
        };
        let missed = match (self.missed.unwrap_or("once"), most) {
            ("all", most) => MissedPolicy::All(most.unwrap_or(MOST_MISSED)),
            (_, Some(_)) => return Err(("most", "it bounds what missed = \"all\" makes up for".to_owned())),
            ("once", None) => MissedPolicy::Once,
            ("skip", None) => MissedPolicy::Skip,
            (other, None) => return Err(("missed", format!("{other:?}; known are skip, once and all"))),
        };
        let jitter = self.jitter.map(seconds).transpose().map_err(|why| ("jitter", why))?;
        Ok(ScheduleSpec::new(timing).jitter(jitter.unwrap_or_default()).missed(missed))
    }
}

/// A duration; a bare number is seconds, as Celery has it.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number).map_err(|_| format!("`{text}` is no time")),
        Err(_) => units::duration(text),
    }
}

/// Makes a schedule of words that were read.
pub(crate) fn schedule(name: &str, call: Signature, spec: ScheduleSpec, origin: ScheduleOrigin) -> Result<Schedule, String> {
    let made = Schedule::new(name, call, spec.timing).map_err(|error| error.to_string())?;
    Ok(made.jitter(spec.jitter).missed(spec.missed).origin(origin))
}

/// All that the configuration names, in the order of their names.
///
/// # Errors
/// Every mistake.
pub fn configured(config: &Config) -> Result<Vec<Schedule>, ConfigErrors> {
    let (mut schedules, mut errors) = (Vec::new(), Vec::new());
    for name in config.schedules() {
        match config.schedule(name).and_then(|section| read(name, &section)) {
            Ok(schedule) => schedules.push(schedule),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(schedules) } else { Err(ConfigErrors(errors)) }
}

/// Adds the schedules of the configuration to those of a program.
///
/// # Errors
/// Every mistake; one of the program has the same name.
pub(crate) fn with_configured(app: App, config: &Config) -> Result<App, Fault> {
    let app = if config.files.is_empty() { app } else { app.configured() };
    configured(config)?.into_iter().try_fold(app, |app, schedule| {
        if app.schedules().iter().any(|other| other.name == schedule.name) {
            let message =
                format!("[schedules.{:?}]: the program has a schedule of this name; give one of them another name", schedule.name);
            return Err(Fault::usage(message));
        }
        Ok(app.schedule(schedule))
    })
}

fn read(name: &str, section: &Section) -> Result<Schedule, ConfigError> {
    let text = |key: &str| section.get(key).and_then(|setting| setting.values().first()).map(String::as_str);
    let place = format!(" in [schedules.{name:?}]");
    let wrong = |key: &str, why: &str| match section.get(key).or_else(|| section.values().next()) {
        Some(setting) => Setting::wrong(setting, key, &place, why),
        None => ConfigError::nowhere(format!("`{key}`{place}: {why}")),
    };
    let words = TimingWords {
        cron: text("cron"),
        every: text("every"),
        zone: text("zone"),
        both_days: section.get("both-days").is_some_and(|setting| setting.value == Value::Bool(true)),
        jitter: text("jitter"),
        missed: text("missed"),
        most: text("most"),
    };
    let spec = words.spec().map_err(|(key, why)| wrong(key, &why))?;
    let Some(task) = text("task").filter(|task| !task.is_empty()) else { return Err(wrong("task", "name the task that is sent")) };
    let mut call: Signature = Signature::named(task);
    if let Some(json) = text("args") {
        call = call.args(&send::args(json).map_err(|fault| wrong("args", &fault.message))?);
    }
    if let Some(json) = text("kwargs") {
        let kwargs = send::kwargs(json).map_err(|fault| wrong("kwargs", &fault.message))?;
        call = kwargs.iter().fold(call, |call, (name, value)| call.kwarg(name, value));
    }
    if let Some(queue) = text("queue") {
        call = call.queue(queue);
    }
    if let Some(priority) = text("priority") {
        let read = priority.parse().ok();
        call = call.priority(read.ok_or_else(|| wrong("priority", "a priority is a number from 0 to 9, on RabbitMQ to 255"))?);
    }
    if let Some(expires) = text("expires") {
        call = call.expires_in(seconds(expires).map_err(|why| wrong("expires", &why))?);
    }
    schedule(name, call, spec, ScheduleOrigin::Configuration).map_err(|why| wrong("task", &why))
}
