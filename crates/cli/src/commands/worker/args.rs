//! The flags of `longshore worker`, and what they mean for the worker.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum, ValueHint};
use longshore_brokers::QueueOrder;
use longshore_core::{LaneKind, Rate};
use longshore_worker::{Acks, App, Autoscale, WorkerOptions};

use crate::{fault::Fault, units, web::WebArgs};

/// `longshore worker`.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true, after_help = AFTER)]
pub struct WorkerArgs {
    /// Its node name: %h is this machine, %n the name, %% a percent sign
    #[arg(short = 'n', long, value_name = "NAME@HOST", default_value = "longshore@%h")]
    pub hostname: String,
    /// The queues that it serves [default: celery]; NAME=N has N times the claims of one without
    #[arg(short = 'Q', long, value_name = "LIST", value_delimiter = ',')]
    pub queues: Vec<String>,
    /// Serve a queue only when those before it have nothing that waits
    #[arg(long)]
    pub strict: bool,
    /// Queues that it does not serve
    #[arg(short = 'X', long, value_name = "LIST", value_delimiter = ',')]
    pub exclude_queues: Vec<String>,

    /// Slots of a lane: async=200, blocking=32, cpu=cores, process=cores
    #[arg(long, value_name = "LANE=N", value_delimiter = ',', value_parser = lane, help_heading = "Concurrency")]
    pub lane: Vec<(LaneKind, usize)>,
    /// Slots of the lanes that --pool means; without it of the blocking, cpu and process lanes
    #[arg(short = 'c', long, value_name = "N", value_parser = slots, help_heading = "Concurrency")]
    pub concurrency: Option<usize>,
    /// Celery's word for a lane: prefork is cpu and process, threads blocking, gevent and eventlet
    /// async, solo one slot each
    #[arg(short = 'P', long, value_name = "POOL", help_heading = "Concurrency")]
    pub pool: Option<Pool>,
    /// In place of -c: the slots of those lanes (but cpu's) follow the load, MAX at most, MIN at
    /// least [MIN: 1]
    #[arg(long, value_name = "MAX,MIN", value_parser = autoscale, help_heading = "Concurrency")]
    pub autoscale: Option<(usize, usize)>,
    /// Most tasks that it has at once, waiting ones included, but not those for later
    /// [slots and 100]
    #[arg(long, value_name = "N", help_heading = "Concurrency")]
    pub prefetch: Option<usize>,
    /// Bodies that it takes, as Celery's accept_content: json (the default), msgpack
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = ["json", "msgpack"], help_heading = "Safety")]
    pub accept: Vec<String>,
    /// Errbacks that take (request, exc, traceback): they are sent these, and all others the failed
    /// task's id; mail.* is all that begin so
    #[arg(long, value_name = "TASKS", value_delimiter = ',', help_heading = "Safety")]
    pub errback: Vec<String>,
    /// Store name, arguments, worker and queue with each result, so that `tasks` can tell, filter
    /// and retry what has ended
    #[arg(long, help_heading = "View")]
    pub result_extended: bool,
    /// Starts per time of a task: shop.fetch=50/s
    #[arg(long, value_name = "TASK=RATE", value_parser = task_rate, help_heading = "Concurrency")]
    pub task_rate: Vec<(String, Rate)>,

    /// When messages are acknowledged: late, after the result is stored, or early, before the start
    /// [the task's own, else late]
    #[arg(long, value_name = "WHEN", help_heading = "Safety")]
    pub acks: Option<AcksWord>,
    /// How long what it holds stays its own without a sign of life
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = units::duration, help_heading = "Safety")]
    pub lease: Duration,
    /// At most the shortest of any Celery on the broker (Redis)
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = units::duration, help_heading = "Safety")]
    pub visibility_timeout: Duration,
    /// The limit of one attempt of tasks that have none of their own
    #[arg(long, value_name = "DUR", value_parser = seconds, help_heading = "Safety")]
    pub time_limit: Option<Duration>,
    /// The same, of which the task is told first
    #[arg(long, value_name = "DUR", value_parser = seconds, help_heading = "Safety")]
    pub soft_time_limit: Option<Duration>,
    /// A child of a pipe, or of functions in Rust, is replaced after so many tasks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Safety")]
    pub max_tasks_per_child: Option<u64>,
    /// A child of functions in Rust that holds more is replaced after its task; a program (exec,
    /// pipe) gets no more. 512MiB; a bare number is KiB
    #[arg(long, value_name = "SIZE", value_parser = kibibytes, help_heading = "Safety")]
    pub max_memory_per_child: Option<u64>,

    /// How long running tasks may go on after SIGTERM; a broker that is away is waited for 15s
    /// longer, then what it could not be told of is counted
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = units::duration, help_heading = "Ending")]
    pub grace: Duration,
    /// Stop when the queues are empty; what has its time still to come is waited for, and told
    #[arg(long, help_heading = "Ending")]
    pub until_empty: bool,
    /// Stop when so many tasks have ended; those that it has taken by then may end, too
    #[arg(long, value_name = "N", help_heading = "Ending")]
    pub max_tasks: Option<u64>,
    /// Stop when there was nothing to do for so long
    #[arg(long, value_name = "DUR", value_parser = units::duration, help_heading = "Ending")]
    pub max_idle: Option<Duration>,
    /// Send what is due, too, as `longshore beat` does: of several that do one leads
    #[arg(short = 'B', long, help_heading = "Schedules")]
    pub beat: bool,

    /// Throw away what waits in the queues, first
    #[arg(long, help_heading = "Ending")]
    pub purge: bool,
    /// Write its pid to this file while it runs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Ending")]
    pub pidfile: Option<PathBuf>,

    /// What is said, in Celery's lines: debug, info, warning, error
    /// [retries, failures and dead letters, in short lines]
    #[arg(short = 'l', long, value_name = "LEVEL", ignore_case = true, help_heading = "View")]
    pub loglevel: Option<Level>,
    /// Send events of tasks from the start [when a monitor asks for them]
    #[arg(short = 'E', long, overrides_with = "no_events", help_heading = "View")]
    pub task_events: bool,
    /// Not before a monitor asks for them
    #[arg(long, help_heading = "View")]
    pub no_events: bool,
    /// Answer no remote control, and send no heartbeat
    #[arg(long, help_heading = "View")]
    pub no_remote_control: bool,

    /// Serve a page about this worker, /healthz, /readyz and /metrics at this address, such as
    /// 127.0.0.1:7070
    #[arg(long, value_name = "HOST:PORT", help_heading = "Page")]
    pub listen: Option<String>,
    /// Who may see and change it.
    #[command(flatten)]
    pub web: WebArgs,

    /// A Celery application
    #[arg(short = 'A', long, value_name = "PROJ", hide = true)]
    pub app: Option<String>,
    /// Of Celery, without a meaning here
    #[arg(short = 'O', value_name = "WORD", hide = true)]
    pub optimization: Option<String>,
    /// Of Celery, without a meaning here
    #[arg(long, hide = true)]
    pub without_gossip: bool,
    /// Of Celery, without a meaning here
    #[arg(long, hide = true)]
    pub without_mingle: bool,
    /// Of Celery, without a meaning here
    #[arg(long, hide = true)]
    pub without_heartbeat: bool,
}

const AFTER: &str = "\
SIGTERM or Ctrl-C: once, takes nothing more, hands back what waits, lets running tasks end; twice, ends and hands them back; three times, kills.
Exit: 0 stopped · 2 usage or configuration · 6 broker unreachable · 74 its file cannot be written · 75 its pidfile's owner runs";

/// Celery's pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pool {
    /// Processes.
    #[value(alias = "processes")]
    Prefork,
    /// Threads.
    Threads,
    /// One at a time.
    Solo,
    /// Green threads.
    #[value(alias = "eventlet")]
    Gevent,
}

/// `--acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksWord {
    /// After the result is stored.
    Late,
    /// Before the start.
    Early,
}

/// `--loglevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// What happens to tasks.
    Info,
    /// What may be wrong.
    #[value(alias = "warn")]
    Warning,
    /// What failed.
    Error,
    /// Nothing of tasks.
    #[value(alias = "fatal")]
    Critical,
}

fn slots(text: &str) -> Result<usize, String> {
    match text {
        "cores" => Ok(LaneKind::Cpu.default_workers()),
        text => match text.parse() {
            Ok(0) | Err(_) => Err(format!("`{text}` is not a number of slots; write a number from 1, or cores")),
            Ok(number) => Ok(number),
        },
    }
}

fn lane(text: &str) -> Result<(LaneKind, usize), String> {
    let (name, number) = text.split_once('=').ok_or_else(|| format!("`{text}`: write LANE=N, such as async=200"))?;
    let lane = LaneKind::parse(name.trim()).ok_or_else(|| format!("`{name}` is not a lane; there are async, blocking, cpu and process"))?;
    Ok((lane, slots(number.trim())?))
}

fn autoscale(text: &str) -> Result<(usize, usize), String> {
    let (max, min) = text.split_once(',').unwrap_or((text, "1"));
    let max = slots(max.trim())?;
    // Celery's 0 is one here: a lane without a slot would see no load.
    let min = if min.trim() == "0" { 1 } else { slots(min.trim())? };
    if min > max { Err(format!("`{text}`: the most stands first, as in 10,3")) } else { Ok((max, min)) }
}

fn task_rate(text: &str) -> Result<(String, Rate), String> {
    let (task, rate) = text.rsplit_once('=').ok_or_else(|| format!("`{text}`: write TASK=RATE, such as shop.fetch=50/s"))?;
    Ok((task.to_owned(), Rate::per_second(units::rate(rate)?.per_second())))
}

/// A duration; a bare number is seconds, as Celery has it.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number).map_err(|_| format!("`{text}` is no time")),
        Err(_) => units::duration(text),
    }
}

fn kibibytes(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) => Ok(number.saturating_mul(1024)),
        Err(_) => units::size(text),
    }
}

impl WorkerArgs {
    /// Refuses what this version cannot do.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let Some(app) = &self.app else { return Ok(()) };
        Err(Fault::usage(format!(
            "-A {app}: this version does not serve the Python tasks of a Celery application. Run `celery -A {app} worker -Q …` for their queues, \
             beside this worker on the same broker, and give this worker other queues with -Q; or serve a program as a task with [tasks.NAME] \
             exec, pipe or http in longshore.toml"
        )))
    }

    /// Names what is accepted and has no effect, in one sentence.
    pub(super) fn notices(&self) -> Vec<String> {
        let given = [
            ("-O", self.optimization.is_some()),
            ("--without-gossip", self.without_gossip),
            ("--without-mingle", self.without_mingle),
            ("--without-heartbeat", self.without_heartbeat),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect();
        if given.is_empty() { Vec::new() } else { vec![format!("{} of Celery: without a meaning here, ignored", given.join(" "))] }
    }

    /// Applies what the flags say of all tasks.
    pub(super) fn apply(&self, app: &mut App) -> Result<(), Fault> {
        for (name, _) in &self.task_rate {
            if app.task_named(name).is_none() {
                return Err(Fault::usage(format!("--task-rate {name}: there is no task of this name here (longshore tasks)")));
            }
        }
        if self.accept.iter().any(|body| body == "msgpack") {
            app.settings_mut().accept_msgpack = true;
        }
        if !self.errback.is_empty() {
            app.settings_mut().errbacks.extend(self.errback.iter().cloned());
        }
        if self.result_extended {
            app.settings_mut().result_extended = true;
        }
        app.change_tasks(|task| {
            let policy = &mut task.policy;
            if let Some(acks) = self.acks {
                policy.acks = Some(if acks == AcksWord::Early { Acks::Early } else { Acks::Late });
            }
            policy.time_limit = policy.time_limit.or(self.time_limit);
            policy.soft_time_limit = policy.soft_time_limit.or(self.soft_time_limit);
            if let Some((_, rate)) = self.task_rate.iter().rev().find(|(name, _)| **name == *task.name) {
                policy.rate_limit = Some(*rate);
            }
        });
        Ok(())
    }

    /// Returns the worker's options, as the flags say.
    pub(super) fn options(&self, app: &App) -> Result<WorkerOptions, Fault> {
        let mut options = WorkerOptions::new(node(&self.hostname)?);
        let queues = if self.queues.is_empty() { vec![app.settings().default_queue.clone()] } else { self.queues.clone() };
        let mut weights = Vec::new();
        for queue in queues {
            let (queue, weight) = weighted(queue.trim()).map_err(Fault::usage)?;
            if let Some(weight) = weight {
                weights.push((Arc::from(queue.as_str()), weight));
            }
            if !queue.is_empty() && !self.exclude_queues.contains(&queue) && !options.queues.contains(&queue) {
                options.queues.push(queue);
            }
        }
        options.order = match (self.strict, weights.is_empty()) {
            (false, true) => QueueOrder::InTurn,
            (false, false) => QueueOrder::Weighted(weights),
            (true, true) => QueueOrder::Strict,
            (true, false) => return Err(Fault::usage("--strict serves queues in their order: leave the weights out, or --strict")),
        };
        if options.queues.is_empty() {
            return Err(Fault::usage("no queues to serve: name one with -Q"));
        }
        for (lane, slots) in lanes(self.pool, self.concurrency).into_iter().chain(self.lane.iter().copied()) {
            options.lanes[lane as usize] = slots;
        }
        if let Some((max, min)) = self.autoscale {
            options.autoscale = Some(Autoscale { max, min, lanes: self.scaled()? });
        }
        options.max_tasks_per_child = self.max_tasks_per_child.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        options.max_memory_per_child = self.max_memory_per_child;
        if let Some(prefetch) = self.prefetch {
            if prefetch == 0 {
                return Err(Fault::usage("--prefetch 0: it could take no task; the fewest is 1"));
            }
            options.prefetch = Some(prefetch);
            options.parking = prefetch.saturating_sub(options.lanes.iter().sum());
        }
        options.lease = self.lease;
        options.visibility_timeout = self.visibility_timeout;
        options.grace = self.grace;
        options.events = self.task_events && !self.no_events;
        options.remote_control = !self.no_remote_control;
        options.beat = self.beat;
        Ok(options)
    }
}

impl WorkerArgs {
    /// The lanes that follow the load: where a task takes a thread or a process, but for the cpu
    /// lane, which has as many slots as there are cores.
    fn scaled(&self) -> Result<Vec<LaneKind>, Fault> {
        let lanes = match self.pool {
            None => vec![LaneKind::Blocking, LaneKind::Process],
            Some(Pool::Prefork) => vec![LaneKind::Process],
            Some(Pool::Threads) => vec![LaneKind::Blocking],
            Some(Pool::Gevent) => vec![LaneKind::Async],
            Some(Pool::Solo) => return Err(Fault::usage("--autoscale: the pool solo has one slot")),
        };
        match self.lane.iter().find(|(lane, _)| lanes.contains(lane)) {
            Some((lane, _)) => Err(Fault::usage(format!("--autoscale and --lane {lane}=… both set its slots; leave one out"))),
            None => Ok(lanes),
        }
    }
}

/// The slots that Celery's words mean.
fn lanes(pool: Option<Pool>, concurrency: Option<usize>) -> Vec<(LaneKind, usize)> {
    use LaneKind::{Async, Blocking, Cpu, Process};
    let lanes: &[LaneKind] = match pool {
        Some(Pool::Solo) => return LaneKind::ALL.map(|lane| (lane, 1)).to_vec(),
        Some(Pool::Prefork) => &[Cpu, Process],
        Some(Pool::Threads) => &[Blocking],
        Some(Pool::Gevent) => &[Async],
        None => &[Blocking, Cpu, Process],
    };
    concurrency.map(|slots| lanes.iter().map(|lane| (*lane, slots)).collect()).unwrap_or_default()
}

/// The node name, with what stands for this machine filled in.
pub(in crate::commands) fn node(pattern: &str) -> Result<String, Fault> {
    let host = crate::queue::show::host();
    let (short, domain) = host.split_once('.').unwrap_or((&host, ""));
    let (mut name, mut chars) = (String::new(), pattern.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('h')) => name.push_str(&host),
            ('%', Some('n')) => name.push_str(short),
            ('%', Some('d')) => name.push_str(domain),
            ('%', Some('%')) => name.push('%'),
            ('%', Some(other)) => return Err(Fault::usage(format!("-n {pattern}: %{other} means nothing; there are %h, %n, %d and %%"))),
            (c, _) => name.push(c),
        }
    }
    if !name.contains('@') {
        name = format!("{name}@{host}");
    }
    if name.chars().any(char::is_whitespace) {
        return Err(Fault::usage(format!("-n {pattern}: a name has no spaces")));
    }
    Ok(name)
}

/// Largest weight of a queue.
const MOST_WEIGHT: u32 = 1000;

/// Reads a queue and its weight: `mail` or `mail=3`.
fn weighted(text: &str) -> Result<(String, Option<u32>), String> {
    let Some((queue, weight)) = text.split_once('=') else { return Ok((text.to_owned(), None)) };
    let read = weight.parse().ok().filter(|weight| (1..=MOST_WEIGHT).contains(weight) && !queue.is_empty());
    let weight = read.ok_or_else(|| {
        format!("-Q {text}: behind a queue's `=` stands its weight, a whole number from 1 to {MOST_WEIGHT}, such as mail=3")
    })?;
    Ok((queue.to_owned(), Some(weight)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn parse(words: &str) -> WorkerArgs {
        #[derive(clap::Parser)]
        struct Parse {
            #[command(flatten)]
            args: WorkerArgs,
        }
        <Parse as clap::Parser>::try_parse_from(std::iter::once("worker").chain(words.split_whitespace())).unwrap().args
    }

    #[test]
    fn celerys_words_become_slots_of_lanes() {
        let cores = LaneKind::Cpu.default_workers();
        for (words, want) in [
            ("", [200, 32, cores, cores]),
            ("-c 7", [200, 7, 7, 7]),
            ("-P prefork -c 7", [200, 32, 7, 7]),
            ("-P threads -c 7", [200, 7, cores, cores]),
            ("-P gevent -c 700", [700, 32, cores, cores]),
            ("-P solo", [1, 1, 1, 1]),
            ("--lane async=5,cpu=cores --lane process=4", [5, 32, cores, 4]),
        ] {
            assert_eq!(parse(words).options(&App::new()).unwrap().lanes, want, "{words}");
        }
        for (words, lanes, bounds) in [
            ("--autoscale 9,3", vec![LaneKind::Blocking, LaneKind::Process], (9, 3)),
            ("--autoscale 9 -P prefork", vec![LaneKind::Process], (9, 1)),
            ("--autoscale 9,0 -P threads --lane async=7", vec![LaneKind::Blocking], (9, 1)),
        ] {
            let (max, min) = bounds;
            assert_eq!(parse(words).options(&App::new()).unwrap().autoscale, Some(Autoscale { max, min, lanes }), "{words}");
        }
        for words in ["--autoscale 9,3 -P solo", "--autoscale 9,3 --lane process=4"] {
            assert_eq!(parse(words).options(&App::new()).err().map(|fault| fault.exit), Some(Exit::Usage), "{words}");
        }
        assert!(autoscale("3,9").unwrap_err().contains("10,3"));
        let options = parse("--prefetch 10 -P solo -Q a,b -X b -n w1@%%h").options(&App::new()).unwrap();
        assert_eq!((options.parking, options.prefetch), (6, Some(10)));
        assert_eq!((options.queues, options.node.as_str()), (vec!["a".to_owned()], "w1@%h"));
        assert_eq!(parse("--prefetch 0").options(&App::new()).err().map(|fault| fault.exit), Some(Exit::Usage));
    }

    #[test]
    fn what_celery_has_and_we_have_not_is_said() {
        assert_eq!(parse("-O fair --without-gossip").notices(), ["-O --without-gossip of Celery: without a meaning here, ignored"]);
        let refusal = parse("-A proj").check().unwrap_err();
        assert!(refusal.exit == Exit::Usage && refusal.message.contains("celery -A proj worker"));
        assert!(parse("--task-rate no.such=1/s").apply(&mut App::new()).unwrap_err().message.contains("no task of this name"));
    }

    #[test]
    fn a_queue_may_have_a_weight() {
        for (text, read) in [
            ("a", Some(("a", None))),
            ("a=3", Some(("a", Some(3)))),
            ("a=1000", Some(("a", Some(1000)))),
            ("a=0", None),
            ("a=1001", None),
            ("a=", None),
            ("=3", None),
            ("a=b", None),
            ("a=1=2", None),
        ] {
            let got = weighted(text);
            assert_eq!(got.as_ref().ok().map(|(queue, weight)| (queue.as_str(), *weight)), read, "{text}");
            assert!(got.is_ok() || got.is_err_and(|why| why.contains(text)), "{text}");
        }
    }
}
