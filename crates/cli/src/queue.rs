//! Common ground of the commands of the task queue: where the queue is, and how tasks are shown.
//!
//! Layout: `show.rs`: messages, ages, places for people; `send.rs`: how `call` and `enqueue` send a
//! task; `wait.rs`: waiting for a result. Questions and actions themselves are `longshore-ops`'s.

pub mod send;
pub mod show;
pub mod wait;

use std::{
    io::{BufRead, IsTerminal, Write},
    sync::Arc,
};

use longshore_brokers::{Broker, Connected, mask, missing_file};
use longshore_worker::{App, Client, Route};

use crate::{config::Config, fault::Fault, global::Global, tasks::Spec};

/// The queue that a command works on.
pub struct Place {
    /// The tasks that are known here, with the settings.
    pub app: App,
    /// The programs that serve tasks here, without those that wait for the user's word.
    pub specs: Vec<Spec>,
    /// Its connections.
    pub client: Client,
    /// Stores that are not there yet, which nothing makes that only looks.
    pub absent: Absent,
    /// JSON in place of tables.
    pub json: bool,
    /// Nothing but results and errors.
    pub quiet: bool,
    no_input: bool,
}

/// URLs of stores whose files are not there, without passwords; in their place the client has empty
/// ones that are gone with this process.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    /// The broker's.
    pub broker: Option<String>,
    /// The result backend's.
    pub results: Option<String>,
    /// The app that connects to them.
    app: Option<App>,
}

impl Absent {
    /// Returns connections once the broker's file is there; `None` until then, and where it always
    /// was.
    ///
    /// # Errors
    /// It is no broker of ours.
    pub fn connect(&mut self) -> Result<Option<Client>, Fault> {
        let is_there = self.broker.is_some() && self.app.as_ref().is_some_and(|app| missing_file(&app.settings().broker).is_none());
        if !is_there {
            return Ok(None);
        }
        self.broker = None;
        let app = self.app.take().map(|app| app.told(None));
        Ok(app.map(|app| Client::of(&app)).transpose()?)
    }
}

/// Treatment of files that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingFile {
    /// It is made.
    Make,
    /// It is not made, which is said.
    Say,
    /// It is not made, which nobody asked about.
    Pass,
}

impl Place {
    /// The app with the settings of configuration, variables and flags.
    ///
    /// # Errors
    /// A mistake in the configuration, or a URL that leads nowhere.
    pub fn open(app: &App, config: &Config, global: &Global, missing: MissingFile) -> Result<Self, Fault> {
        let (mut app, specs) = configured(app, config, global)?;
        let mut absent = Absent::default();
        if missing != MissingFile::Make {
            let asked = app.clone();
            let settings = app.settings_mut();
            if let Some(path) = missing_file(&settings.broker) {
                let note = format!("longshore: there is no {} yet: the first task that is sent makes it", path.display());
                let note = global.voice().note(&note).filter(|_| missing == MissingFile::Say);
                note.into_iter().for_each(|note| eprintln!("{note}"));
                // As empty as a new file, and gone with this process.
                absent.broker = Some(mask(&std::mem::replace(&mut settings.broker, "memory://nothing".to_owned())));
                absent.app = Some(asked);
            }
            absent.results = settings.results.take_if(|url| missing_file(url).is_some()).map(|url| mask(&url));
        }
        config.say_in_force(global.voice());
        // Commands say themselves what they wait for.
        let client = Client::of(&app.clone().told(None))?;
        Ok(Self { app, specs, client, absent, json: global.json, quiet: global.voice().level < 0, no_input: global.no_input })
    }

    /// Returns the broker's URL without its password, as it was asked for.
    pub fn broker_url(&self) -> String {
        self.absent.broker.clone().unwrap_or_else(|| mask(self.broker().url()))
    }

    /// Returns its broker and result backend, with the other halves of both.
    pub fn connected(&self) -> &Connected {
        self.client.connected()
    }

    /// Returns the broker, where tasks wait.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        self.client.broker()
    }

    /// Asks before something is lost. `yes` is the flag that answers beforehand.
    ///
    /// # Errors
    /// Nobody can be asked.
    pub fn confirm(&self, question: &str, yes: bool) -> Result<bool, Fault> {
        if yes {
            return Ok(true);
        }
        let stdin = std::io::stdin();
        if self.no_input || !stdin.is_terminal() {
            return Err(Fault::usage(format!("{question} Nobody can be asked here: --yes answers beforehand")));
        }
        eprint!("{question} [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// The app with the settings of configuration, variables and flags, and the programs that serve
/// tasks, without those that wait for the user's word.
///
/// # Errors
/// A mistake in the configuration.
pub fn configured(app: &App, config: &Config, global: &Global) -> Result<(App, Vec<Spec>), Fault> {
    let (broker, results) = config.connections(global.broker.as_deref(), global.results.as_deref())?;
    let specs = crate::tasks::known(config)?;
    let mut app = app.clone();
    let settings = app.settings_mut();
    if let Some(broker) = broker {
        settings.broker = broker;
    }
    settings.results = results.or(settings.results.take());
    settings.task_send_sent_event |= global.task_send_sent_event || config.task_send_sent_event()?;
    // The first that matches counts: a task's own queue, then what is configured, then what the
    // program says.
    let mut own = Vec::new();
    for name in config.tasks() {
        own.extend(config.task_queue(name)?.map(|queue| (name.to_owned(), Route::queue(queue))));
    }
    let routes: Vec<_> = own.into_iter().chain(config.routes()?).collect();
    settings.routes.splice(..0, routes);
    // What is configured stands behind what the program says, and goes before it.
    settings.queues.extend(config.queues()?);
    Ok((app, specs))
}
