//! Command line of `kafka consume`, as clap reads it.

use std::time::{Duration, SystemTime};

use clap::Args;
use longshore_core::RetryPolicy;
use longshore_kafka::{Consumer, DeadLetter, Order, Settings, Start};

use crate::{
    flags::program,
    flags::{ChildArgs, LimitArgs, PaceArgs, RequestArgs, RetryArgs, ViewArgs, WhatArgs},
    kafka::{link::LinkArgs, topics::topic_name},
    units,
    web::WebArgs,
};
use longshore_run::{Program, spec::ProgramLimits};

/// `longshore kafka consume`
#[derive(Args, Clone, Debug)]
#[command(
    after_help = AFTER,
    args_override_self = true,
    // What is said otherwise than for `run`.
    mut_arg("command", |arg| arg.help("Run this command for each record, its value on stdin: a program and its arguments, no shell")),
    mut_arg("pipe", |arg| arg.help("Hand each value as a line to a child that stays alive, and read a line as its answer")),
    mut_arg("stdin", |arg| arg.help("What the command reads from its stdin [the value]")),
    mut_arg("body", |arg| arg.help("The request's body: '{}' is the value")),
    mut_arg("insecure", |arg| arg.help("Accept any certificate of the HTTP server")),
    mut_arg("connect_timeout", |arg| arg.help_heading("HTTP")),
    mut_arg("kill_after", |arg| arg.help_heading("Commands"))
)]
pub struct ConsumeArgs {
    /// The topics
    #[arg(value_name = "TOPIC", required = true, value_parser = topic_name)]
    pub topics: Vec<String>,

    /// The command, the request or the pipe that runs.
    #[command(flatten)]
    pub what: WhatArgs,
    /// Wait so long for each record, and do nothing: 10ms, or 5ms..50ms
    #[arg(long, value_name = "DUR[..DUR]", value_parser = Sleep::parse, help_heading = "What")]
    pub sleep: Option<Sleep>,

    /// Write what each record brings to this topic, exactly once, in the transaction that commits
    /// it: each line that a command writes, the body of an answer, the line of a child, or without
    /// WHAT the record itself. Key and headers are the record's. Readers have to read what is
    /// committed alone
    #[arg(long, value_name = "TOPIC", value_parser = topic_name, help_heading = "Output")]
    pub to: Option<String>,

    /// The group: its members share the partitions, and what it has done is kept under its name
    /// [longshore-TOPIC]
    #[arg(short = 'g', long, value_name = "NAME", help_heading = "Group")]
    pub group: Option<String>,
    /// A name of this member that stays the same over restarts: a short absence then moves no
    /// partitions, and one longer than a session costs no second session (--help)
    #[arg(long, value_name = "NAME", help_heading = "Group")]
    pub member: Option<String>,
    /// Where a new group starts: earliest, latest, a time (2026-01-31T12:00:00Z), or so long ago
    /// (2h)
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = start, help_heading = "Group")]
    pub from: Start,
    /// End when the ends of all partitions are reached and everything is done
    #[arg(long, help_heading = "Group")]
    pub until_end: bool,
    /// Time between commits: a member that dies repeats what was finished since, and what was in
    /// work
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = units::duration, help_heading = "Group")]
    pub commit_every: Duration,
    /// End when a permission has been missing for so long: to read a topic, or as a member of the
    /// group
    #[arg(long, value_name = "DUR", default_value = "1m", value_parser = units::duration, help_heading = "Group")]
    pub without_permission: Duration,
    /// How long records in work may take when their partition is taken away
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = units::duration, help_heading = "Group")]
    pub drain: Duration,

    /// Most records in work at once
    #[arg(long, value_name = "N", default_value_t = 75, value_parser = at_least_one, help_heading = "Concurrency")]
    pub max_threads: usize,
    /// Most records in work or waiting for it; at this number the gate closes, and nothing is read
    /// [twice --max-threads, ten times with order by key]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Concurrency")]
    pub max_in_flight: Option<usize>,
    /// A closed gate opens again at this share of it
    #[arg(long, value_name = "PERCENT", default_value = "75%", value_parser = units::percent, help_heading = "Concurrency")]
    pub resume_at: f64,
    /// Longest time between two looks at the gate, at most 100ms
    #[arg(long, value_name = "DUR", default_value = "100ms", value_parser = units::duration, help_heading = "Concurrency")]
    pub pause_interval: Duration,
    /// Most records that wait for another attempt, or behind one that does; they are not in flight
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one, help_heading = "Concurrency")]
    pub max_parked: usize,
    /// Which records wait for each other: those of one key, of one partition, or none
    #[arg(long, value_name = "ORDER", default_value = "key", value_parser = order, help_heading = "Concurrency")]
    pub order: Order,
    /// The most bytes of records in memory: half read ahead by the client, half in work or waiting
    /// for it
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = units::size, help_heading = "Concurrency")]
    pub buffers: u64,
    /// Pace of the starts.
    #[command(flatten, next_help_heading = "Concurrency")]
    pub pace: PaceArgs,

    /// Further attempts for a record that failed
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Failures")]
    pub retries: u32,
    /// Errors after which another attempt follows, and its time.
    #[command(flatten, next_help_heading = "Failures")]
    pub retry: RetryArgs,
    /// Limit of one attempt [HTTP: 30s]
    #[arg(short = 't', long, value_name = "DUR", value_parser = units::duration, help_heading = "Failures")]
    pub timeout: Option<Duration>,
    /// Where a record goes whose last attempt failed: a topic (made if it is missing), `skip`, or
    /// `stop` [TOPIC-dlt; where nothing can fail: none]
    #[arg(long, value_name = "TOPIC|skip|stop", value_parser = dead_letter, help_heading = "Failures")]
    pub dead_letter: Option<DeadLetter>,
    /// How long records in work may go on after Ctrl-C or SIGTERM
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = units::duration, help_heading = "Failures")]
    pub grace: Duration,

    /// What is written to stdout: raw (values, or what commands and children write), jsonl or none
    /// [raw; HTTP: none]
    #[arg(long, value_name = "FORM", value_parser = ["raw", "jsonl", "none"], help_heading = "Output")]
    pub emit: Option<String>,
    /// The most of each stream of a command that is kept; with --emit raw or --to, a record fails
    /// whose output is longer
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = units::size, help_heading = "Output")]
    pub max_output: u64,

    /// Flags of a command.
    #[command(flatten)]
    pub child: ChildArgs,
    /// Flags of an HTTP request.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Limits of its parts.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// Address of Kafka.
    #[command(flatten)]
    pub link: LinkArgs,

    /// Serve a page of this consumer while it goes, with /metrics, /healthz and /readyz, at this
    /// address, such as 127.0.0.1:7073: lag by partition, what is in work, what can be changed
    #[arg(long, value_name = "HOST:PORT", help_heading = "Page")]
    pub listen: Option<String>,
    /// Who may see and change it.
    #[command(flatten)]
    pub web: WebArgs,

    /// Flags of the progress.
    #[command(flatten)]
    pub view: ViewArgs,
    /// The summary: text, json or none
    #[arg(long, default_value = "text", value_parser = ["text", "json", "none"], help_heading = "View")]
    pub summary: String,
}

const AFTER: &str = "\
--to: the transactional id is GROUP-MEMBER, which needs permission to write; with --member it stays the same, so that what a dead member left open is ended at its restart, not after 30 s. What commands do elsewhere is done at least once, as ever.

A broker that was away for longer than a session (-X session.timeout.ms, 45 s) keeps a member waiting for as long again once it is back: Kafka's client joins as somebody new, beside its former self, whose session has to end first. Not so with --member NAME, which takes its own place, nor with -X group.protocol=consumer (Kafka 4).

WHAT is one of: -- CMD ARG…, --http, --pipe, --sleep; without any the values are printed. Each record is processed at least once, and committed when it is done.

Templates: {} value · {field} {a.b} of a JSON value · {key} {topic} {partition} {offset} {timestamp}, where the value has no such field · {{ expression }}
Commands also find LONGSHORE_TOPIC, _PARTITION, _OFFSET, _TIMESTAMP (ms), _KEY, _HEADER_NAME, _GROUP, _ATTEMPT, _SLOT, and _TASK_ID (topic[partition]@offset).

Keys on a terminal: + - most in work, by a tenth · > < most in flight · ] [ --sleep, by a tenth · p pause · s what runs · q stop. Ctrl-C: once, read no more; twice, end what runs; three times, kill it.

Exit: 0 all done · 1 some failed for good (dead letters, skipped) · 2 usage · 6 Kafka, or what is done may not be committed · 74 output · 130/143 interrupted, what was done is committed";

/// `--sleep`: a time, or between two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sleep(pub Duration, pub Duration);

impl Sleep {
    fn parse(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let (from, to) = (units::duration(from)?, units::duration(to)?);
        if from > to { Err(format!("the first time of `{text}` is longer than the second")) } else { Ok(Self(from, to)) }
    }

    /// The time for one record.
    pub fn draw(self) -> Duration {
        self.0 + (self.1 - self.0).mul_f64(fastrand::f64())
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=10_000_000).contains(number))
        .ok_or_else(|| format!("`{text}` is not a number from 1 to 10000000"))
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "key" => Ok(Order::Key),
        "partition" => Ok(Order::Partition),
        "none" => Ok(Order::None),
        _ => Err(format!("`{text}` is not an order; write key, partition or none")),
    }
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => {
            let bad = || format!("`{text}` is not a place to start; write earliest, latest, 2026-01-31T12:00:00Z or 2h");
            if let Ok(ago) = units::duration(text) {
                return SystemTime::now().checked_sub(ago).map(Start::At).ok_or_else(bad);
            }
            text.parse::<jiff::Timestamp>().map(|at| Start::At(at.into())).map_err(|_| bad())
        }
    }
}

fn dead_letter(text: &str) -> Result<DeadLetter, String> {
    match text {
        "skip" => Ok(DeadLetter::Skip),
        "stop" => Ok(DeadLetter::Stop),
        topic => topic_name(topic).map(DeadLetter::Topic),
    }
}

impl ConsumeArgs {
    /// The group's name.
    pub fn group(&self) -> String {
        self.group.clone().unwrap_or_else(|| format!("longshore-{}", self.topics.join("-")))
    }

    /// Returns the id under which outputs are written in transactions, if they are.
    pub fn transactional_id(&self) -> Option<String> {
        self.to.as_ref()?;
        let member = self.member.clone().unwrap_or_else(|| format!("{:016x}", fastrand::u64(..)));
        Some(format!("{}-{member}", self.group()))
    }

    /// Refuses what can never be written to another topic.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn check_to(&self) -> Result<(), String> {
        match &self.to {
            Some(to) if self.topics.contains(to) => Err(format!("--to {to}: that topic is read, too; it would never end")),
            Some(_) if self.sleep.is_some() => Err("--to and --sleep exclude each other: a sleep brings nothing".to_owned()),
            _ => Ok(()),
        }
    }

    /// Counts the things that it says to run.
    pub fn whats(&self) -> usize {
        [!self.what.command.is_empty(), self.what.http.is_some(), self.what.pipe.is_some(), self.sleep.is_some()]
            .into_iter()
            .filter(|given| *given)
            .count()
    }

    /// Returns true where a record can fail: printing and sleeping cannot, so that no topic is made
    /// for what fails.
    fn can_fail(&self) -> bool {
        self.whats() > 0 && self.sleep.is_none()
    }

    /// The consumer that follows.
    pub fn consumer(&self, settings: Settings) -> Consumer {
        let mut consumer = Consumer::new(settings, self.group(), self.topics.iter().cloned())
            .order(self.order)
            .from(self.from)
            .max_threads(self.max_threads)
            .max_parked(self.max_parked)
            .resume_at(self.resume_at)
            .pause_interval(self.pause_interval)
            .retry(RetryPolicy::times(self.retries).backoff(self.retry.backoff.0.clone()).on(self.retry.on(self.what.http.is_some())))
            .dead_letter(self.dead_letter.clone().unwrap_or_else(|| if self.can_fail() { DeadLetter::default() } else { DeadLetter::Skip }))
            .commit_every(self.commit_every)
            .drain(self.drain)
            .without_permission(self.without_permission)
            .grace(self.grace)
            .buffers(usize::try_from(self.buffers).unwrap_or(usize::MAX));
        if let Some(most) = self.max_in_flight {
            consumer = consumer.max_in_flight(most);
        }
        if let Some(member) = &self.member {
            consumer = consumer.member(member);
        }
        if let Some(rate) = self.pace.bucket() {
            consumer = consumer.rate(rate);
        }
        if let Some(limit) = self.timeout.or(self.what.http.is_some().then_some(Duration::from_secs(30))) {
            consumer = consumer.timeout(limit);
        }
        if self.until_end { consumer.until_end() } else { consumer }
    }

    /// Returns what runs for a record, and its limits.
    pub fn program(&self) -> (Program, ProgramLimits) {
        let mut program = program(&self.what, &self.child, &self.request, &self.limits);
        if let Program::Command(command) = &mut program {
            // A command that uses its record nowhere would get it as an argument; here it has it on
            // stdin.
            command.stdin.get_or_insert_with(|| "{}".to_owned());
        }
        let mut limits = ProgramLimits::default();
        limits.kill_after = self.limits.kill_after;
        limits.max_output = self.max_output;
        (program, limits)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use longshore_kafka::Start;

    use super::{Sleep, start};

    #[test]
    fn a_place_to_start_is_a_word_a_time_or_so_long_ago() {
        assert_eq!((start("earliest"), start("latest")), (Ok(Start::Earliest), Ok(Start::Latest)));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(start("2023-11-14T22:13:20Z"), Ok(Start::At(at)));
        let Ok(Start::At(ago)) = start("2h") else { panic!("a time") };
        let ago = ago.elapsed().expect("it has passed");
        assert!(ago >= Duration::from_secs(7_200) && ago < Duration::from_secs(7_260));
        assert!(start("yesterday").is_err_and(|error| error.contains("earliest, latest")));
    }

    #[test]
    fn a_sleep_is_a_time_or_between_two() {
        assert_eq!(Sleep::parse("10ms"), Ok(Sleep(Duration::from_millis(10), Duration::from_millis(10))));
        let sleep = Sleep::parse("5ms..50ms").expect("two times");
        for _ in 0..100 {
            assert!((Duration::from_millis(5)..=Duration::from_millis(50)).contains(&sleep.draw()));
        }
        assert!(Sleep::parse("50ms..5ms").is_err() && Sleep::parse("10").is_err());
    }
}
