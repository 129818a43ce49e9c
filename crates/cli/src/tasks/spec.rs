//! A section `[tasks.NAME]`, read and checked: what runs, and its policy.

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use longshore_core::{Backoff, ErrorClass, LaneKind, RetryPolicy, lane::child::Limits};
use longshore_worker::{Acks, RateScope, TaskPolicy};

use crate::{
    config::{Config, ConfigError, Section, Value},
    flags::{BackoffArg, retry_on},
    units,
};
use longshore_run::{
    command::CommandPlan,
    environment::{constants, env_pair},
    http::{Guard, HttpOptions, HttpPlan, HttpWords, StatusRanges},
    pipe::PipeOptions,
    template::{Expr, Shape},
};

/// A task that a program serves.
pub struct Spec {
    /// The task's name.
    pub name: String,
    pub(super) what: What,
    pub(super) policy: TaskPolicy,
    pub(super) retry: RetryPolicy,
    text: String,
}

/// Program that a task runs.
pub(super) enum What {
    Exec(Box<CommandPlan>),
    /// With the most children.
    Pipe(Box<PipeOptions>, usize),
    Http(Box<HttpPlan>),
}

impl Spec {
    /// Reads the section of this task.
    ///
    /// # Errors
    /// What is wrong in it, with its place.
    pub fn read(config: &Config, name: &str) -> Result<Self, ConfigError> {
        let section = config.task(name)?;
        let keys = Keys { config, section: &section, name };
        keys.spec()
    }

    /// The lane that it runs on.
    pub fn lane(&self) -> LaneKind {
        if self.has_children() { LaneKind::Process } else { LaneKind::Async }
    }

    /// Its starts per time, for people.
    pub fn rate(&self) -> Option<String> {
        if let (Some(limit), Some(rate)) = (&self.policy.limit, self.policy.rate_limit) {
            return Some(format!("limit {limit}, every {}, with all that name it", units::show_duration(rate.interval())));
        }
        let over = if self.policy.rate_scope == RateScope::Shared { ", all workers together" } else { ", each worker" };
        self.policy.rate_limit.map(|rate| format!("every {}{over}", units::show_duration(rate.interval())))
    }

    /// The rate of its starts, and the limit that it has it from.
    pub fn pace(&self) -> Option<(longshore_core::Rate, Option<&str>)> {
        self.policy.rate_limit.map(|rate| (rate, self.policy.limit.as_deref()))
    }

    /// Returns what it runs, for people: `exec convert {args.0} …`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets these limits of children, where it has none of its own.
    #[must_use]
    pub fn with_limits(mut self, max_tasks: Option<u64>, memory: Option<u64>) -> Self {
        match &mut self.what {
            What::Pipe(options, _) => {
                options.limits.max_tasks = options.limits.max_tasks.or(max_tasks.map(few));
                options.memory = options.memory.or(memory);
            }
            What::Exec(plan) => plan.limit_memory(memory),
            What::Http(_) => {}
        }
        self
    }

    pub(super) fn has_children(&self) -> bool {
        !matches!(self.what, What::Http(_))
    }
}

/// Keys of a section with their types.
struct Keys<'a> {
    config: &'a Config,
    section: &'a Section,
    name: &'a str,
}

/// Longest result that is kept, unless the section says another.
const MAX_OUTPUT: u64 = 1 << 20;

impl Keys<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        match &self.section.get(key)?.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::List(_) => None,
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        match self.section.get(key).map(|setting| &setting.value) {
            Some(Value::List(list)) => list.clone(),
            Some(Value::Text(text)) => vec![text.clone()],
            _ => Vec::new(),
        }
    }

    fn is_on(&self, key: &str) -> bool {
        self.section.get(key).is_some_and(|setting| setting.value == Value::Bool(true))
    }

    fn wrong(&self, key: &str, why: impl std::fmt::Display) -> ConfigError {
        let message = format!("`{}` in [tasks.{:?}]: {why}", key.replace('-', "_"), self.name);
        match self.section.get(key).or_else(|| self.section.values().next()) {
            Some(setting) => ConfigError::at(&setting.origin, message),
            None => ConfigError::nowhere(message),
        }
    }

    fn read<T>(&self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.text(key).map(|text| read(text).map_err(|why| self.wrong(key, why))).transpose()
    }

    fn duration(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        self.read(key, units::duration)
    }

    fn whole(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.read(key, |text| text.parse().map_err(|_| format!("`{text}` is too large")))
    }

    fn max_output(&self) -> Result<usize, ConfigError> {
        let most = self.read("max-output", units::size)?.unwrap_or(MAX_OUTPUT);
        Ok(usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn spec(&self) -> Result<Spec, ConfigError> {
        let http = self.section.contains_key("http");
        let foreign: &[&str] = match http {
            true => &["memory", "children", "max-tasks-per-child", "kill-after", "stdin", "cwd", "env"],
            false => &[
                "header",
                "body-json",
                "body",
                "form",
                "ok",
                "redirects",
                "connect-timeout",
                "http2",
                "insecure",
                "proxy",
                "hosts",
                "private",
            ],
        };
        // A key that has no effect here would be relied upon, so it is a mistake.
        if let Some(key) = foreign.iter().find(|key| self.section.contains_key(**key)) {
            return Err(self.wrong(key, if http { "belongs to exec and pipe" } else { "belongs to http" }));
        }
        let (what, text) = if let Some(text) = self.text("http") {
            let plan = self.http(text)?;
            let text = format!("http {}", plan.text());
            (What::Http(Box::new(plan)), text)
        } else {
            let key = if self.section.contains_key("exec") { "exec" } else { "pipe" };
            let words = self.list(key);
            // Quoted, so that people see where a word ends.
            let text = format!("{key} {}", one_line(&shell_words::join(&words)));
            let what = if key == "exec" { self.exec(&words)? } else { self.pipe(words)? };
            (what, text)
        };
        Ok(Spec { name: self.name.to_owned(), what, policy: self.policy(http)?, retry: self.retry(http)?, text })
    }

    fn policy(&self, http: bool) -> Result<TaskPolicy, ConfigError> {
        let acks = self.read("acks", |text| match text {
            "late" => Ok(Acks::Late),
            "early" => Ok(Acks::Early),
            _ => Err(format!("`{text}` is not late or early")),
        })?;
        let rate = self.read("rate", units::rate)?.map(|rate| longshore_core::Rate::per_second(rate.per_second()));
        let limit = self.text("limit").map(|name| self.limit(name)).transpose()?;
        if rate.is_some() && limit.is_some() {
            return Err(self.wrong("limit", "`rate` and `limit` both set a pace; leave one out"));
        }
        let is_shared = self.is_on("rate-shared") || limit.is_some();
        let mut policy = TaskPolicy::default();
        // A request's own limit says more than the worker's: which host did not answer.
        policy.time_limit = if http { None } else { self.duration("timeout")? };
        policy.soft_time_limit = self.duration("soft-timeout")?;
        policy.rate_limit = rate.or(limit);
        policy.rate_scope = if is_shared { RateScope::Shared } else { RateScope::Worker };
        policy.limit = self.text("limit").map(Arc::from);
        policy.acks = acks;
        policy.ignore_result = self.is_on("ignore-result");
        policy.track_started = self.is_on("track-started");
        Ok(policy)
    }

    /// The rate of a `[limits.NAME]`, which its tasks share with whoever else names it.
    fn limit(&self, name: &str) -> Result<longshore_core::Rate, ConfigError> {
        let limit =
            self.config.limit(name).map_err(|error| if error.path.is_some() { error } else { self.wrong("limit", error.message) })?;
        if limit.by.is_some() {
            return Err(self.wrong("limit", format!("[limits.{name:?}] has `by`, which is for the records of `run`")));
        }
        // Beside a rate it would be kept by `run` and not by workers: whoever wrote it believes
        // that it holds.
        if limit.concurrency.is_some() && limit.rate.is_some() {
            let why = "which is for `run`; how many of a task run at once is its lane's business: give it a limit of its own, with a `rate` alone";
            return Err(self.wrong("limit", format!("[limits.{name:?}] has `concurrency`, {why}")));
        }
        let Some(rate) = limit.rate else {
            return Err(self.wrong("limit", format!("[limits.{name:?}] has no `rate`; how many run at once is the lane's business")));
        };
        let rate = units::rate(&rate).map_err(|why| self.wrong("limit", format!("[limits.{name:?}]: {why}")))?;
        Ok(longshore_core::Rate::per_second(rate.per_second()).burst(u32::try_from(limit.burst).unwrap_or(u32::MAX)))
    }

    fn retry(&self, http: bool) -> Result<RetryPolicy, ConfigError> {
        let retries = self.whole("retries")?.map(|retries| u32::try_from(retries).unwrap_or(u32::MAX));
        let on: Option<Vec<_>> = self.read("retry-on", |list| list.split(',').map(|class| ErrorClass::parse(class.trim())).collect())?;
        let backoff = self.read("backoff", BackoffArg::parse)?.map_or(Backoff::DEFAULT, |backoff| backoff.0);
        let policy = RetryPolicy::times(retries.unwrap_or(if http { 3 } else { 0 }));
        Ok(policy.backoff(backoff).on(retry_on(&on.unwrap_or_default(), http)))
    }

    fn env(&self, shape: &Shape) -> Result<Vec<(OsString, Expr)>, ConfigError> {
        self.list("env").iter().map(|pair| env_pair(pair, shape).map_err(|why| self.wrong("env", why))).collect()
    }

    fn cwd(&self) -> Result<Option<PathBuf>, ConfigError> {
        self.read("cwd", |path| match PathBuf::from(path) {
            path if path.is_dir() => Ok(path),
            path => Err(format!("{}: no such directory", path.display())),
        })
    }

    fn exec(&self, words: &[String]) -> Result<What, ConfigError> {
        for key in ["children", "max-tasks-per-child"] {
            if self.section.contains_key(key) {
                return Err(self.wrong(key, "belongs to pipe; a child of exec serves one task"));
            }
        }
        let shape = Shape::task();
        let mut limits = Limits::default();
        if let Some(kill_after) = self.duration("kill-after")? {
            limits.kill_after = kill_after;
        }
        limits.max_output = self.max_output()?;
        let stdin = self.read("stdin", |text| Expr::parse(text, &shape).map_err(|error| error.to_string()))?;
        let memory = self.read("memory", units::size)?;
        let plan = CommandPlan::of_words(words, self.env(&shape)?, stdin, self.cwd()?, &limits, memory, &shape);
        Ok(What::Exec(Box::new(plan.map_err(|why| self.wrong("exec", why))?)))
    }

    fn pipe(&self, words: Vec<String>) -> Result<What, ConfigError> {
        if self.section.contains_key("stdin") {
            return Err(self.wrong("stdin", "belongs to exec; a child of pipe reads its tasks there"));
        }
        let mut options = PipeOptions::new(words);
        options.max_answer = Some((self.max_output()?, "; `max_output` allows more"));
        options.memory = self.read("memory", units::size)?;
        options.cwd = self.cwd()?;
        options.limits.kill_after = Some(self.duration("kill-after")?.unwrap_or(Duration::from_secs(10)));
        options.limits.max_tasks = self.whole("max-tasks-per-child")?.filter(|most| *most > 0).map(few);
        let env = constants(&self.env(&Shape::task())?);
        options.env =
            env.map_err(|name| self.wrong("env", format!("{name}: a child of pipe serves many tasks; write a constant: {{{{ 'x' }}}}")))?;
        let children = match self.whole("children")? {
            Some(0) => return Err(self.wrong("children", "without a child nothing runs")),
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
            None => LaneKind::Process.default_workers(),
        };
        Ok(What::Pipe(Box::new(options), children))
    }

    fn http(&self, text: &str) -> Result<HttpPlan, ConfigError> {
        let redirects = self.whole("redirects")?.map_or(5, |most| u32::try_from(most).unwrap_or(u32::MAX));
        let mut options = HttpOptions::default();
        options.ok = self.read("ok", StatusRanges::parse)?.unwrap_or_default();
        options.timeout = Some(self.duration("timeout")?.unwrap_or(Duration::from_secs(30)));
        options.connect_timeout = self.duration("connect-timeout")?.unwrap_or(Duration::from_secs(5));
        options.redirects = redirects;
        options.http2 = self.is_on("http2");
        options.insecure = self.is_on("insecure");
        options.proxy = self.text("proxy").map(str::to_owned);
        options.max_body = self.max_output()?;
        options.guard = Some(Arc::new(self.guard(text)));
        let (header, form) = (self.list("header"), self.list("form"));
        let words = HttpWords { dashes: false, headers: &header, body_json: self.text("body-json"), body: self.text("body"), form: &form };
        HttpPlan::compile(text, &words, &Shape::task(), options, None).map_err(|why| self.wrong("http", why))
    }

    /// Returns the hosts to which requests may go: one that stands in the configuration lies
    /// wherever it lies; one from a message is bounded.
    fn guard(&self, text: &str) -> Guard {
        let hosts = self.text("hosts").map(|hosts| hosts.split(',').map(|host| host.trim().to_owned()).collect()).unwrap_or_default();
        Guard { hosts, own: own_host(text).into_iter().collect(), private: self.is_on("private") }
    }
}

/// More tasks than that no child ever has.
fn few(tasks: u64) -> u32 {
    u32::try_from(tasks).unwrap_or(u32::MAX)
}

/// A command for people: scripts have many lines.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    crate::queue::show::cut(&line, 80)
}

/// The host of a URL's template, if no placeholder has a part in it.
fn own_host(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if text.split("://").next().is_some_and(|before| before.contains('{')) || authority.contains('{') {
        return None;
    }
    // The client's own reading of it, so that both mean the same host.
    reqwest::Url::parse(&format!("http://{authority}/")).ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::own_host;

    #[test]
    fn a_host_is_the_configurations_own_when_no_placeholder_has_a_part_in_it() {
        for (text, host) in [
            ("GET http://127.0.0.1:8080/price/{args.0}", Some("127.0.0.1")),
            ("https://API.example/{args.0}", Some("api.example")),
            ("POST http://u:p@api.example?x={id}", Some("api.example")),
            ("GET {args.0}", None),
            ("GET http://{args.0}/x", None),
            ("GET http://{kwargs.sub}.example/x", None),
            ("GET {args.0}://api.example/x", None),
            ("GET http://{args.0}@api.example/", None),
        ] {
            assert_eq!(own_host(text).as_deref(), host, "{text}");
        }
    }
}
