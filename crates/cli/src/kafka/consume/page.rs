//! The page of a consumer: served from its start until it has ended.

use longshore_kafka::ConsumerHandle;
use longshore_run::jobs::StateDir;
use longshore_web::{Auditor, ConsumerNote, Serving, Site, WebOptions, WebServer};

use super::args::ConsumeArgs;
use crate::{
    config::Config,
    fault::Fault,
    progress::{Voice, bar::Bar},
    web::{audit_line, unserved},
};

/// An address that is listened on, and what is to be served there.
pub(super) struct ConsumerPage {
    server: WebServer,
    options: WebOptions,
    state: Option<StateDir>,
    lines: Lines,
}

/// A page that is served, and the note of where it is.
pub(super) struct ServedConsumer {
    serving: Serving,
    _note: Option<ConsumerNote>,
}

/// Writes lines beside the view.
#[derive(Clone)]
struct Lines(Option<Bar>);

impl Lines {
    fn say(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.message(line),
            None => eprintln!("{line}"),
        }
    }
}

impl ConsumerPage {
    /// Listens, where there is an address for it. What is done over the page is told beside the
    /// view.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a flag that says who may makes no sense.
    pub(super) async fn open(args: &ConsumeArgs, config: &Config, voice: Voice, bar: Option<Bar>) -> Result<Option<Self>, Fault> {
        let Some(address) = &args.listen else { return Ok(None) };
        let lines = Lines(bar);
        let told = lines.clone();
        // Also with --quiet: who changed what is no chatter.
        let options = args.web.options(Auditor::new(move |action| {
            told.say(&match voice.json {
                true => serde_json::json!({ "level": "info", "action": action }).to_string(),
                false => format!(" {}", longshore_run::text::harmless(&audit_line(action), usize::MAX)),
            });
        }))?;
        let server = WebServer::bind(address, &options).await.map_err(|error| unserved(&error))?;
        // Without one a dashboard's page of the group does not link to this page.
        let state = StateDir::open(config.state_dir().map_err(Fault::usage)?.as_deref()).ok();
        Ok(Some(Self { server, options, state, lines }))
    }

    /// Serves it, and says where.
    pub(super) fn serve(self, handle: &ConsumerHandle, name: &str, voice: Voice) -> ServedConsumer {
        let serving = self.server.serve(Site::of_consumer(self.options, handle.clone()));
        let note = self.state.and_then(|state| ConsumerNote::write(&state, &handle.client_id(), serving.address()).ok());
        if let Some(line) = voice.note(&format!(" {name}: page http://{}", serving.address())) {
            self.lines.say(&line);
        }
        ServedConsumer { serving, _note: note }
    }
}

impl ServedConsumer {
    /// Takes no more requests, and lets answers end.
    pub(super) async fn stop(self) {
        self.serving.stop().await;
    }
}
