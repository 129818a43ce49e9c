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

use longshore_brokers::{Broker, Connected, missing_file};
use longshore_worker::{App, Client, Route};

use crate::{config::Config, fault::Fault, global::Global, tasks::Spec};

/// The queue that a command works on.
pub struct Place {
    /// The tasks that are known here, with the settings.
    pub app: App,
    /// The programs that serve tasks here.
    pub specs: Vec<Spec>,
    /// Its connections.
    pub client: Client,
    /// JSON in place of tables.
    pub json: bool,
    /// Nothing but results and errors.
    pub quiet: bool,
    no_input: bool,
}

impl Place {
    /// The app with the settings of configuration, variables and flags.
    ///
    /// # Errors
    /// A mistake in the configuration, or a URL that leads nowhere.
    pub fn open(app: &App, config: &Config, global: &Global) -> Result<Self, Fault> {
        Self::of(configured(app, config, global)?, config, global)
    }

    /// The same for a command that only looks: a file that is not there is not made, but said.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn look(app: &App, config: &Config, global: &Global) -> Result<Self, Fault> {
        let (mut app, specs) = configured(app, config, global)?;
        let settings = app.settings_mut();
        if let Some(path) = missing_file(&settings.broker) {
            let note = format!("longshore: there is no {} yet: the first task that is sent makes it", path.display());
            global.voice().note(&note).into_iter().for_each(|note| eprintln!("{note}"));
            // As empty as a new file, and gone with this process.
            settings.broker = "memory://nothing".to_owned();
        }
        settings.results = settings.results.take().filter(|url| missing_file(url).is_none());
        Self::of((app, specs), config, global)
    }

    fn of((app, specs): (App, Vec<Spec>), config: &Config, global: &Global) -> Result<Self, Fault> {
        config.say_in_force(global.voice());
        // Commands say themselves what they wait for.
        let client = Client::of(&app.clone().told(None))?;
        Ok(Self { app, specs, client, json: global.json, quiet: global.voice().level < 0, no_input: global.no_input })
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
/// tasks.
///
/// # Errors
/// A mistake in the configuration.
pub fn configured(app: &App, config: &Config, global: &Global) -> Result<(App, Vec<Spec>), Fault> {
    let (broker, results) = config.connections(global.broker.as_deref(), global.results.as_deref())?;
    let specs = crate::tasks::specs(config)?;
    let mut app = app.clone();
    let settings = app.settings_mut();
    if let Some(broker) = broker {
        settings.broker = broker;
    }
    settings.results = results.or(settings.results.take());
    // The first that matches counts: a task's own queue, then what is configured, then what the
    // program says.
    let own = specs.iter().filter_map(|spec| Some((spec.name.clone(), Route::queue(spec.queue.as_ref()?))));
    let routes = config.routes()?.into_iter().map(|(pattern, queue, priority)| {
        let mut route = Route::default();
        (route.queue, route.priority) = (queue, priority);
        (pattern, route)
    });
    let routes: Vec<_> = own.chain(routes).collect();
    settings.routes.splice(..0, routes);
    Ok((app, specs))
}
