//! `longshore dashboard`: a page of all workers and queues of a broker, until it is told to stop.
//!
//! `dashboard/history.rs`: where it remembers what has happened; `dashboard/kafka.rs`: whose groups
//! it shows; `dashboard/log.rs`: its lines

mod history;
mod kafka;
mod log;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueHint};
use longshore_core::Rate;
use longshore_run::jobs::StateDir;
use longshore_web::{Auditor, HistoryTeller, Intake, IntakeOptions, Site, WebServer};
use longshore_worker::App;
use serde_json::json;

use self::{history::HistoryArgs, kafka::KafkaArgs};
use super::limits;
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
    signals::Signals,
    units,
    web::{WebArgs, audit_line, unserved},
};

/// `longshore dashboard`.
#[derive(Args, Clone, Debug)]
pub struct DashboardArgs {
    /// Serve it at this address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070", help_heading = "Page")]
    pub listen: String,
    /// Take at most so many tasks over HTTP; more get 429 and are told when to come again [no
    /// limit]
    #[arg(long, value_name = "RATE", value_parser = units::rate, help_heading = "Intake")]
    pub intake_rate: Option<Rate>,
    /// Take so many of them at once
    #[arg(long, value_name = "N", default_value_t = 1, requires = "intake_rate", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Intake")]
    pub intake_burst: u32,
    /// Answer 429 too while so many wait in their queue [no limit]
    #[arg(long, value_name = "N", help_heading = "Intake")]
    pub intake_most_waiting: Option<u64>,
    /// Flags of the history.
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Flags of Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Read the journals of jobs in this directory, and keep its own file there
    /// [$XDG_STATE_HOME/longshore, else ~/.local/state/longshore, else $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Page")]
    pub state_dir: Option<PathBuf>,
    /// Who may see and change it.
    #[command(flatten)]
    pub web: WebArgs,
}

/// Serves the page.
///
/// # Errors
/// Usage and configuration, an address that cannot be listened on (2); a broker that refuses us at
/// once (6). One that is away is waited for.
pub fn run(args: &DashboardArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    block_on(serve(args, app, config, global))
}

/// Returns a line of the log.
fn log_line(text: &str, is_json: bool) -> String {
    match is_json {
        true => json!({ "at": time(SystemTime::now()), "message": text }).to_string(),
        false => format!(" {} {}", clock(SystemTime::now()), plain(text)),
    }
}

async fn serve(args: &DashboardArgs, app: &App, config: &Config, global: &Global) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let place = Place::open(app, config, global, MissingFile::Make)?;
    let voice = global.voice();
    let is_json = voice.json;
    let (log, lines) = log::log();
    let writes = std::thread::spawn(move || lines.write(std::io::stderr(), |text| log_line(text, is_json)));
    let noted = log.clone();
    // Also with --quiet: who changed what is no chatter.
    let auditor = Auditor::new(move |action| {
        let line = match is_json {
            true => json!({ "at": time(action.at), "action": action }).to_string(),
            false => format!(" {} {}", clock(action.at), plain(&audit_line(action))),
        };
        noted.note(line);
    });
    let mut options = args.web.options(auditor)?;
    options.jobs = state_directory(args, config)?;
    let told = log.clone();
    let teller = HistoryTeller::new(move |text| told.note(log_line(text, is_json)));
    match args.history.options(&place.broker_url(), options.jobs.as_ref(), teller) {
        Ok(history) => options.history = history,
        Err(why) => log.say(log_line(&format!("no history is kept: {why}"), is_json)),
    }
    options.limits = limits::known(config, &place)?;
    args.kafka.add_to(&mut options, config)?;
    options.leaves_events = args.history.no_enable_events;
    let server = WebServer::bind(&args.listen, &options).await.map_err(|error| unserved(&error))?;
    let address = server.address();
    let say = |text: String| {
        if voice.level >= 0 {
            log.say(log_line(&text, is_json));
        }
    };
    let mut intake = IntakeOptions::default();
    intake.rate = args.intake_rate.map(|rate| rate.burst(args.intake_burst));
    intake.most_waiting = args.intake_most_waiting;
    intake.hide_results = args.web.hide_args;
    let intake = Intake::new(place.client.clone(), intake);
    let serving = server.serve(Site::of_deployment(options, place.client.clone(), &intake));
    say(format!("page http://{address} of {}; Ctrl-C ends it", place.broker_url()));
    signals.next().await;
    say("stopping".to_owned());
    serving.stop().await;
    drop(log);
    // The auditor's end of the channel goes with the last request; a reader that is gone is not
    // waited for.
    let written = tokio::task::spawn_blocking(move || writes.join());
    let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
    Ok(Exit::Done)
}

/// Returns the state directory; none, where nobody names one and there is no home.
fn state_directory(args: &DashboardArgs, config: &Config) -> Result<Option<StateDir>, Fault> {
    let named = match &args.state_dir {
        Some(named) => Some(named.clone()),
        None => config.state_dir().map_err(Fault::usage)?,
    };
    match (StateDir::open(named.as_deref()), named) {
        (Ok(state), _) => Ok(Some(state)),
        (Err(error), Some(_)) => Err(Fault::usage(error)),
        (Err(_), None) => Ok(None),
    }
}
