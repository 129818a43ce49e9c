//! What the commands of the task queue share: where the queue is, what goes wrong there, and how
//! tasks are shown.
//!
//! Layout: `show.rs`: messages, ages, places for people; `send.rs`: how `call` and `enqueue` send a
//! task; `wait.rs`: waiting for a result. Questions and actions themselves are `longshore-ops`'s.

pub mod send;
pub mod show;
pub mod wait;

use std::{
    future::Future,
    io::{BufRead, IsTerminal, Write},
    sync::Arc,
};

use longshore_brokers::{Broker, BrokerError};
use longshore_core::ErrorKind;
use longshore_ops::OpsError;
use longshore_worker::{App, Client, ClientError, Route};

use crate::{
    commands::global::Global,
    config::{Config, ConfigError, ConfigErrors},
    tasks::Spec,
};

/// A command that cannot do what it was asked: an exit code, and a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The exit code.
    pub code: u8,
    /// What, where, and what to do.
    pub message: String,
}

impl Fault {
    /// The same once more.
    pub(crate) fn again(fault: &Self) -> Self {
        Self { code: fault.code, message: fault.message.clone() }
    }

    /// A mistake of the user's.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }
}

/// 74 where a store cannot be written (of what a client asks for, only a file fails so), else 6:
/// out of reach, or it refuses us.
pub(crate) fn code_of(error: &BrokerError) -> u8 {
    if matches!(error.kind, ErrorKind::Fatal | ErrorKind::Unwritable) { 74 } else { 6 }
}

impl From<BrokerError> for Fault {
    fn from(error: BrokerError) -> Self {
        Self { code: code_of(&error), message: error.message }
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Signature(_) => 2,
            ClientError::Remote(_) => 1,
            ClientError::TimedOut { .. } => 8,
            ClientError::Broker(error) => code_of(error),
            _ => 6,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<OpsError> for Fault {
    fn from(error: OpsError) -> Self {
        let code = match error {
            OpsError::UnknownTask { .. } | OpsError::NoDeadLetter { .. } => 9,
            OpsError::NoWorkers => 69,
            OpsError::Broker(error) => return error.into(),
            OpsError::Client(error) => return error.into(),
            // What makes no sense is a mistake of the user's.
            _ => 2,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<ConfigErrors> for Fault {
    fn from(errors: ConfigErrors) -> Self {
        Self::usage(errors)
    }
}

/// Output that nobody takes: a reader that has gone, or a disk that is full.
impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        let code = if error.kind() == std::io::ErrorKind::BrokenPipe { 141 } else { 74 };
        Self { code, message: format!("stdout: {}", longshore_sys::files::cause(&error)) }
    }
}

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
        let (app, specs) = configured(app, config, global)?;
        // Commands say themselves what they wait for.
        let client = Client::of(&app.clone().told(None))?;
        Ok(Self { app, specs, client, json: global.json, quiet: global.voice().level < 0, no_input: global.no_input })
    }

    /// Where tasks wait.
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

/// Runs a command's future to its end.
///
/// # Errors
/// Its own; or the system has no threads.
pub fn block_on<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Fault { code: 70, message: format!("no threads: {error}") })?;
    let result = runtime.block_on(future);
    // A thread that waits for stdin must not hold us up.
    runtime.shutdown_background();
    result
}
