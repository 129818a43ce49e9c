//! `longshore worker`: serves queues until it is told to stop, or there is nothing left to do.
//!
//! Layout: `args.rs`: the flags, and what they mean for the worker; `banner.rs`: what it says at
//! its start; `log.rs`: what it says of tasks; `pidfile.rs`: the file that says who it is

pub mod args;
mod banner;
pub(super) mod log;
pub(super) mod pidfile;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::QueueState;
use longshore_celery::{Limits, Message, control::Request};
use longshore_core::Stop;
use longshore_ops::workers::{self, WorkersRequest};
use longshore_web::{Readiness, Serving, Site, WebServer};
use longshore_worker::{App, Task, Worker, WorkerSummary};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{args::WorkerArgs, log::Log, pidfile::Pidfile};
use crate::{
    config::Config,
    exit::Exit,
    fault::Fault,
    global::Global,
    queue::{
        MissingFile, Place,
        show::{clock, plain, time},
    },
    runtime::block_on,
    schedules::with_configured,
    tasks::{self, Programs, Spec},
    units::{show_count, show_duration},
    web::unserved,
};

/// Time between two looks whether there is anything left to do.
const LOOK: Duration = Duration::from_millis(100);

/// A time that lies further ahead than this is told when it is waited for.
const FAR: Duration = Duration::from_secs(5);

/// Looks in a row that must find the queues empty, because worker and broker are asked one after
/// the other.
const EMPTY: u32 = 2;

/// Serves queues.
///
/// # Errors
/// Usage and configuration (2); the broker cannot be reached (6); a pidfile that cannot be written,
/// or is something else (74), or of somebody who lives (75).
pub fn run(args: &WorkerArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    args.check()?;
    let voice = global.voice();
    for notice in args.notices() {
        if voice.level >= 0 {
            eprintln!("longshore: {notice}");
        }
    }
    let _pidfile = args.pidfile.as_deref().map(Pidfile::take).transpose()?;
    block_on(serve(args, app, config, global))
}

/// Adds the tasks that programs serve.
fn with_programs(mut app: App, tasks: Vec<Task>) -> Result<App, Fault> {
    for task in tasks {
        if app.task_named(&task.name).is_some() {
            return Err(Fault::usage(format!(
                "[tasks.{:?}]: there is a task of this name in Rust already; give one of them another name",
                task.name
            )));
        }
        app = app.task(task);
    }
    Ok(app)
}

async fn serve(args: &WorkerArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    // It runs them: none may wait for the user's word.
    let specs = tasks::specs(config)?;
    let place = Place::open(app, config, global, MissingFile::Make)?;
    let mut signals = Signals::listen()?;
    // For the banner, because starting the programs consumes them.
    let texts: Vec<(String, String)> = specs.iter().map(|spec| (spec.name.clone(), described(spec))).collect();
    let specs = specs.into_iter().map(|spec| spec.with_limits(args.max_tasks_per_child, args.max_memory_per_child)).collect();
    let (programs, tasks) = Programs::start(specs, true, &tokio::runtime::Handle::current()).map_err(|error| {
        let message = format!("the programs of tasks cannot be started: {}", longshore_sys::files::cause(&error));
        Fault::new(Exit::of_system(&error, Exit::System), message)
    })?;
    let mut app = with_programs(place.app.clone(), tasks)?;
    args.apply(&mut app)?;
    if args.beat {
        app = with_configured(app, config)?;
    }
    // Celery's own tasks are in every app, and alone are nothing to serve.
    if app.tasks().iter().all(|task| task.name.starts_with("celery.")) {
        return Err(Fault::usage(NO_TASKS));
    }
    let options = args.options(&app)?;
    // The log listens before anything is told.
    let mut log = Log::start(args.loglevel, global.voice(), &options.hub);
    let app = app.told(log.teller());
    let page = WorkerPage::open(args, &log).await?;
    let queues = options.queues.clone();
    if args.purge {
        for queue in &queues {
            let gone = place.broker().purge(queue).await?;
            log.say(format_args!("{queue}: {} thrown away (--purge)", show_count(gone)));
        }
    }
    let (version, _) = place.broker().ping().await?;
    if global.voice().level >= 0 {
        let states = place.broker().queues(&queues.iter().map(|queue| Arc::from(queue.as_str())).collect::<Vec<_>>()).await?;
        banner::write(
            &banner::Facts {
                options: &options,
                place: &place,
                app: &app,
                version: &version,
                states: &states,
                programs: &texts,
                page: page.as_ref().map(WorkerPage::address),
            },
            &log,
        );
    }
    if let Some(warning) = namesake(&place, &options.node).await {
        log.say(format_args!("{} {warning}", clock(SystemTime::now())));
    }
    let grace = options.grace;
    let worker = Worker::start(app, options).await?;
    if let Some(page) = &page {
        page.readiness.started(worker.handle(), worker.stopping());
    }
    log.say(format_args!("{} ready", clock(SystemTime::now())));
    let stopper = worker.stopper();
    let watch = WorkerWatch { args, place: &place, queues: &queues, worker: &worker, log: &log };
    // The first signal lets running tasks end; each further one has less patience.
    let mut asked = 0;
    let stopping = worker.stopping();
    tokio::select! {
        () = signals.next() => asked = 1,
        // By remote control, or because the broker is gone for good.
        () = stopping.cancelled() => {}
        why = watch.done() => log.say(format_args!("{} {why}", clock(SystemTime::now()))),
    }
    log.say(format_args!("{} stopping: {} running, grace {}", clock(SystemTime::now()), stopper.running(), show_duration(grace)));
    stopper.warm();
    // SIGQUIT skips the first step.
    if asked > 0 && signals.last_was_quit {
        stopper.cold();
    }
    let summary = join(worker, &mut signals, asked, &programs, &log).await;
    if let Some(page) = page {
        page.readiness.ended();
        page.serving.stop().await;
    }
    // Waiting for children would hold up the runtime.
    let _ = tokio::task::spawn_blocking(move || programs.end()).await;
    // What the worker told stands above the last line.
    log.catch_up();
    log.say(format_args!("{} stopped: {}", clock(SystemTime::now()), summary_text(&summary)));
    log.end();
    match summary.error {
        None => Ok(Exit::Done),
        // A file that cannot be written is no broker that is away.
        Some(message) => {
            Err(Fault::new(if place.broker().url().starts_with("sqlite:") { Exit::Unwritable } else { Exit::Unreachable }, message))
        }
    }
}

/// Waits for the end of a worker that is stopping; each further signal has less patience.
async fn join(worker: Worker, signals: &mut Signals, mut asked: u32, programs: &Programs, log: &Log) -> WorkerSummary {
    let stopper = worker.stopper();
    let mut joined = Box::pin(worker.join());
    loop {
        tokio::select! {
            summary = &mut joined => return summary,
            () = signals.next() => {
                asked += 1;
                if asked <= 2 {
                    log.say(format_args!("{} {} running are ended and handed back (once more: killed)", clock(SystemTime::now()), stopper.running()));
                    stopper.cold();
                } else {
                    log.say(format_args!("{} killed", clock(SystemTime::now())));
                    programs.stop(Stop::Hard);
                    stopper.hard();
                    last_resort();
                }
            }
        }
    }
}

/// The page of this worker. It is there before the broker is, so that whoever starts workers sees
/// that this one lives.
struct WorkerPage {
    readiness: Readiness,
    serving: Serving,
}

impl WorkerPage {
    /// Serves it, where there is an address for it.
    async fn open(args: &WorkerArgs, log: &Log) -> Result<Option<Self>, Fault> {
        let Some(address) = &args.listen else { return Ok(None) };
        let options = args.web.options(log.auditor())?;
        let server = WebServer::bind(address, &options).await.map_err(|error| unserved(&error))?;
        let readiness = Readiness::starting();
        let serving = server.serve(Site::of_worker(options, readiness.clone()));
        Ok(Some(Self { readiness, serving }))
    }

    fn address(&self) -> SocketAddr {
        self.serving.address()
    }
}

/// Time for which a worker of the same name may answer before this one starts.
const NAMESAKE: Duration = Duration::from_millis(100);

/// Returns a warning where another worker of this name answers.
async fn namesake(place: &Place, node: &str) -> Option<String> {
    let mut whom = WorkersRequest::default();
    (whom.nodes, whom.patience) = (vec![node.to_owned()], NAMESAKE);
    let there = workers::inspect(&place.client, Request::new("ping"), &whom).await.ok()?;
    let warning = "another worker answers to this name: remote control tells both, and cannot tell them apart; name one of them (-n NAME)";
    (!there.is_empty()).then(|| format!("{}: {warning}", plain(node)))
}

/// Describes what serves a task, for the banner: `process exec convert {args.0}, every 20ms, each
/// worker`.
fn described(spec: &Spec) -> String {
    let rate = spec.rate().map(|rate| format!(", {rate}")).unwrap_or_default();
    format!("{} {}{rate}", spec.lane(), spec.text())
}

const NO_TASKS: &str = "there are no tasks to serve: name one in longshore.toml, such as

[tasks.\"shop.resize\"]
exec = [\"convert\", \"{args.0}\", \"-resize\", \"{kwargs.size}\", \"{args.1}\"]

or write one in Rust and call longshore::main(&App::new().task(…)) from your program";

fn summary_text(summary: &WorkerSummary) -> String {
    let counts = &summary.counts;
    let mut text = format!("{} ok, {} failed, {} lost", show_count(counts.ok), show_count(counts.failed), show_count(counts.lost));
    let more = [
        (counts.retries, "retried"),
        (summary.revoked(), "revoked or expired"),
        (counts.dead, if counts.dead == 1 { "dead letter" } else { "dead letters" }),
        (counts.late, "too late, refused"),
        (counts.handed_back, "handed back"),
        (summary.untold, "that the broker could not be told of (they come again)"),
    ];
    for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {} {what}", show_count(count)));
    }
    text
}

/// Ends the process in a few seconds, whatever hangs: no thread of the runtime is needed for it.
fn last_resort() {
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(3));
        std::process::exit(1);
    });
}

/// The signals that a worker hears.
struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
    quit: Signal,
    last_was_quit: bool,
}

impl Signals {
    fn listen() -> Result<Self, Fault> {
        let listen = |kind| signal(kind).map_err(|error| Fault::new(Exit::System, format!("signals: {error}")));
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            last_was_quit: false,
        })
    }

    async fn next(&mut self) {
        self.last_was_quit = false;
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            _ = self.hup.recv() => {}
            _ = self.quit.recv() => self.last_was_quit = true,
        }
    }
}

/// Looks whether there is anything left to do.
struct WorkerWatch<'a> {
    args: &'a WorkerArgs,
    place: &'a Place,
    queues: &'a [String],
    worker: &'a Worker,
    log: &'a Log,
}

impl WorkerWatch<'_> {
    /// Says what is waited for, where all that is left has a time that lies far ahead.
    async fn for_later(&self, names: &[Arc<str>], states: &[QueueState]) -> Option<String> {
        let (held, now) = (self.worker.held() as u64, SystemTime::now());
        let others = states.iter().any(|state| state.waiting > 0 || state.held > state.held_for_later.max(held));
        let count = held.max(states.iter().map(|state| state.held_for_later).sum()) + states.iter().map(|state| state.later).sum::<u64>();
        if count == 0 || others || self.worker.running() > 0 {
            return None;
        }
        let later = match self.place.connected().inspect() {
            Ok(inspect) => inspect.later(names, 1).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let later = later.first().and_then(|raw| Message::decode(raw, &Limits::default()).ok()).and_then(|message| message.eta);
        let next = self.worker.next_due().into_iter().chain(later).min().filter(|next| *next > now + FAR)?;
        let (tasks, left) = (if count == 1 { "task" } else { "tasks" }, show_duration(next.duration_since(now).unwrap_or_default()));
        Some(format!(
            "--until-empty waits for {} {tasks} whose time has not come, the next at {} in {left} (`longshore tasks cancel ID` calls one off)",
            show_count(count),
            time(next)
        ))
    }

    /// Waits until it is time to stop and returns why; for ever, unless a flag says when.
    async fn done(&self) -> String {
        let WorkerArgs { until_empty, max_tasks, max_idle, .. } = *self.args;
        if !until_empty && max_tasks.is_none() && max_idle.is_none() {
            std::future::pending::<()>().await;
        }
        let names: Vec<Arc<str>> = self.queues.iter().map(|queue| Arc::from(queue.as_str())).collect();
        let (mut empty, mut busy_at, mut ended) = (0, Instant::now(), 0);
        let mut told = false;
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(most) = max_tasks.filter(|most| self.worker.ended() >= *most) {
                return format!("--max-tasks {most} reached");
            }
            if self.worker.ended() != ended || self.worker.running() > 0 {
                (ended, busy_at) = (self.worker.ended(), Instant::now());
            }
            if let Some(limit) = max_idle.filter(|limit| busy_at.elapsed() >= *limit) {
                return format!("nothing to do for {} (--max-idle)", show_duration(limit));
            }
            if until_empty {
                let states = self.place.broker().queues(&names).await.ok();
                let nothing = |state: &QueueState| state.waiting == 0 && state.held == 0 && state.later == 0;
                let is_empty = self.worker.held() == 0
                    && self.worker.running() == 0
                    && states.as_ref().is_some_and(|states| states.iter().all(nothing));
                empty = if is_empty { empty + 1 } else { 0 };
                if empty >= EMPTY {
                    return "the queues are empty (--until-empty)".to_owned();
                }
                if !told && let Some(waiting) = self.for_later(&names, &states.unwrap_or_default()).await {
                    told = true;
                    self.log.say(format_args!("{} {waiting}", clock(SystemTime::now())));
                }
            }
        }
    }
}
