//! `longshore beat`: sends what is due, until it is told to stop.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use clap::{Args, ValueHint};
use longshore_core::CancelToken;
use longshore_worker::{App, Scheduler, SchedulerEvent, SchedulerOptions};
use serde_json::json;

use super::worker::{
    args::{Level, node},
    log::stamp,
    pidfile::Pidfile,
};
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
    signals::Signals,
    units::{self, show_duration},
};

/// Most lines that may wait to be written.
const WAITING: usize = 10_000;

/// `longshore beat`.
#[derive(Args, Clone, Debug)]
pub struct BeatArgs {
    /// Its name: %h is this machine, %n the name, %% a percent sign
    #[arg(short = 'n', long, value_name = "NAME@HOST", default_value = "beat@%h")]
    pub hostname: String,
    /// How long it keeps the lead without a sign of life, at most 40s: when it dies, another
    /// scheduler takes over after that
    #[arg(long, value_name = "DUR", default_value = "6s", value_parser = units::duration)]
    pub term: Duration,
    /// What is said, in Celery's lines: debug, info, warning, error
    /// [short lines of what is not as ever]
    #[arg(short = 'l', long, value_name = "LEVEL", ignore_case = true)]
    pub loglevel: Option<Level>,
    /// Write its pid to this file while it runs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pidfile: Option<PathBuf>,
}

/// Sends what is due.
///
/// # Errors
/// Usage and configuration (2); the broker cannot be reached or keeps no schedules (6); a pidfile
/// that cannot be written (74), or of somebody who lives (75).
pub fn run(args: &BeatArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    if args.term < Duration::from_millis(500) || args.term > SchedulerOptions::LONGEST_TERM {
        let (term, most) = (show_duration(args.term), show_duration(SchedulerOptions::LONGEST_TERM));
        let message =
            format!("--term {term}: from 500ms to {most}, so that another scheduler has taken over before a run is a minute late");
        return Err(Fault::usage(message));
    }
    let _pidfile = args.pidfile.as_deref().map(Pidfile::take).transpose()?;
    block_on(serve(args, app, config, global))
}

async fn serve(args: &BeatArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let place = Place::open(app, config, global, MissingFile::Make)?;
    let voice = global.voice();
    let level = args.loglevel.or((voice.level >= 2).then_some(Level::Info));
    let style = LineStyle { level, json: voice.json, quiet: voice.level < 0 };
    // Lines are written by a thread: whoever does not read them holds up no task.
    let (send, lines) = mpsc::sync_channel::<String>(WAITING);
    let writes = std::thread::spawn(move || {
        for line in lines {
            eprintln!("{line}");
        }
    });
    let tell = send.clone();
    let news = send.clone();
    let app = with_configured(place.app.clone(), config)?.told(Arc::new(move |news_of: &longshore_brokers::News| {
        if !style.quiet {
            let _ = news.try_send(style.plain(&news_of.to_string()));
        }
    }) as longshore_brokers::Notice);
    let mut options = SchedulerOptions::new(node(&args.hostname)?);
    options.term = args.term;
    options.told = Arc::new(move |event| drop(style.line(event).map(|line| tell.try_send(line))));
    let (version, _) = place.broker().ping().await?;
    let client = longshore_worker::Client::of(&app)?;
    let schedules = app.schedules().len();
    let say = |line: String| drop((!style.quiet).then(|| send.send(style.plain(&line))));
    say(format!("{}, on {} ({version}); {schedules} of the configuration", options.node, place.broker_url()));
    let stop = CancelToken::new();
    let mut ended = Box::pin(Scheduler::over(&app, client, options)?.run(stop.clone()));
    let ended = tokio::select! {
        ended = &mut ended => ended,
        _ = signals.next() => {
            stop.cancel();
            ended.await
        }
    };
    say("stopped".to_owned());
    drop((app, send));
    // What was told is written; a reader that is gone is not waited for.
    let written = tokio::task::spawn_blocking(move || writes.join());
    let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
    ended?;
    Ok(Exit::Done)
}

/// Form in which a scheduler's events are said, and how many of them.
#[derive(Clone, Copy)]
pub(super) struct LineStyle {
    pub(super) level: Option<Level>,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl LineStyle {
    fn plain(self, text: &str) -> String {
        let text = plain(text);
        match (self.json, self.level) {
            (true, _) => json!({ "at": time(SystemTime::now()), "message": text }).to_string(),
            (false, Some(_)) => format!("[{}: INFO/MainProcess] {text}", stamp(SystemTime::now())),
            (false, None) => format!(" {} {text}", clock(SystemTime::now())),
        }
    }

    /// Returns what is said of an event: of a task that was sent nothing, unless somebody asked for
    /// it.
    pub(super) fn line(self, event: &SchedulerEvent) -> Option<String> {
        let is_heard = match (self.level, event.is_notable()) {
            (Some(least), true) => Level::Warning >= least,
            (Some(least), false) => Level::Info >= least,
            (None, is_notable) => is_notable && !self.quiet,
        };
        if !is_heard {
            return None;
        }
        let (now, text) = (SystemTime::now(), plain(&event.to_string()));
        Some(match (event, self.level) {
            (SchedulerEvent::Sent { name, task, id, due }, _) if self.json => {
                json!({ "at": time(now), "event": "sent", "schedule": name, "task": task, "id": id, "due": time(*due) }).to_string()
            }
            (_, _) if self.json => json!({ "at": time(now), "message": text }).to_string(),
            (SchedulerEvent::Sent { name, task, id, .. }, Some(_)) => {
                let (name, task, id) = (plain(name), plain(task), plain(id));
                format!("[{}: INFO/MainProcess] Scheduler: Sending due task {name} ({task}) {id}", stamp(now))
            }
            (_, Some(_)) => format!("[{}: WARNING/MainProcess] {text}", stamp(now)),
            (_, None) => format!(" {} {text}", clock(now)),
        })
    }
}
