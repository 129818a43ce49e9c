//! The page of a run: served from before it starts until it has ended.

use std::sync::PoisonError;

use longshore_run::RunHandle;
use longshore_web::{Auditor, Serving, Site, WebOptions, WebServer};

use super::{args::RunArgs, drive::Shown};
use crate::{
    fault::Fault,
    progress::Voice,
    web::{audit_line, unserved},
};

/// An address that is listened on, and what is to be served there.
pub(super) struct RunPage {
    server: WebServer,
    options: WebOptions,
}

impl RunPage {
    /// Listens, where there is an address for it. What is done over the page is told beside the
    /// progress.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a flag that says who may makes no sense.
    pub(super) async fn open(args: &RunArgs, voice: Voice, shown: &Shown) -> Result<Option<Self>, Fault> {
        let Some(address) = &args.listen else { return Ok(None) };
        let progress = shown.clone();
        // Also with --quiet: who changed what is no chatter.
        let options = args.web.options(Auditor::new(move |action| {
            let line = match voice.json {
                true => serde_json::json!({ "level": "info", "action": action }).to_string(),
                false => format!(" {}", longshore_run::text::harmless(&audit_line(action), usize::MAX)),
            };
            say(&progress, &line);
        }))?;
        let server = WebServer::bind(address, &options).await.map_err(|error| unserved(&error))?;
        Ok(Some(Self { server, options }))
    }

    /// Serves it, and says where.
    pub(super) fn serve(self, handle: RunHandle, name: &str, voice: Voice, shown: &Shown) -> Serving {
        let serving = self.server.serve(Site::of_run(self.options, handle));
        if let Some(line) = voice.note(&format!(" {name}: page http://{}", serving.address())) {
            say(shown, &line);
        }
        serving
    }
}

fn say(shown: &Shown, line: &str) {
    match &*shown.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(progress) => progress.message(line),
        None => eprintln!("{line}"),
    }
}
