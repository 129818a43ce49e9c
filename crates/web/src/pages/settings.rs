//! What this server is and does: its version, what it looks at, who may see it, what it remembers
//! and takes; and the last actions that were taken here.

use std::sync::Arc;

use longshore_brokers::mask;
use minijinja::{context, value::Serde};
use serde::Serialize;

use crate::{
    api::{Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, page},
    guard::Guard,
    history::HistoryFacts,
    intake::{Intake, IntakeOptions},
    options::{Access, WebOptions},
    pages::facts,
};

/// Settings of a server, as pages and programs get them. No password and no token is among them.
#[derive(Debug, Serialize)]
struct ServerSettings {
    version: &'static str,
    /// Optional parts that this program was built with.
    features: Vec<&'static str>,
    /// Address on which it listens.
    listen: Option<String>,
    /// URLs without their passwords.
    broker: String,
    results: String,
    /// Rule of who is let in, as a sentence.
    access: String,
    read_only: bool,
    hide_args: bool,
    /// Workers are asked to send events of their tasks.
    asks_for_events: bool,
    /// The file that remembers; `None`: nothing is remembered.
    history: Option<HistoryFacts>,
    intake: IntakeSettings,
    /// Actions that were taken here, the latest first.
    actions: Vec<Action>,
}

/// Limits of what is taken over HTTP; `None`: no limit.
#[derive(Debug, Serialize)]
struct IntakeSettings {
    rate: Option<String>,
    burst: Option<u32>,
    most_waiting: Option<u64>,
    longest_task_bytes: usize,
}

impl IntakeSettings {
    fn of(options: &IntakeOptions) -> Self {
        Self {
            rate: options.rate.map(longshore_ops::limits::rate_text),
            burst: options.rate.map(|rate| rate.burst),
            most_waiting: options.most_waiting,
            longest_task_bytes: options.longest_task,
        }
    }
}

/// Says who is let in.
fn access_words(options: &WebOptions) -> String {
    match &options.access {
        Access::Open => "whoever is on this machine".to_owned(),
        Access::Token(_) => "who shows the token".to_owned(),
        Access::Basic { user, .. } => format!("{user}, with a password"),
        Access::Proxy { header, from } => {
            let from: Vec<String> = from.iter().map(ToString::to_string).collect();
            format!("whom {} names in the header {header}", from.join(", "))
        }
    }
}

/// Returns the page, and its facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>, intake: &Intake) -> Routes {
    let described = Operation::get("/api/v1/settings", "What this server is and does, and the last actions that were taken here");
    let gather = {
        let (guard, intake) = (frame.guard.clone(), intake.clone());
        move |deployment: Arc<Deployment>| gathered(guard.clone(), intake.clone(), deployment)
    };
    let asked = gather.clone();
    let show = move |deployment: Arc<Deployment>, _request: Arc<PageRequest>| {
        let gathered = gather(deployment);
        async move { Ok(Page::new("settings.html", "Settings", context! { settings => Serde(gathered.await) })) }
    };
    let told = move |deployment: Arc<Deployment>, _request: Arc<PageRequest>| {
        let gathered = asked(deployment);
        async move { Ok::<_, WebError>(gathered.await) }
    };
    Routes::new().route("/settings", page(frame, deployment, show)).api(described.answers("Settings"), facts(frame, deployment, told))
}

async fn gathered(guard: Arc<Guard>, intake: Intake, deployment: Arc<Deployment>) -> ServerSettings {
    let history = match &deployment.feed.history {
        Some(history) => Some(history.facts().await),
        None => None,
    };
    let options = &guard.options;
    ServerSettings {
        version: env!("CARGO_PKG_VERSION"),
        features: if cfg!(feature = "kafka") { vec!["kafka"] } else { Vec::new() },
        listen: guard.address.get().map(ToString::to_string),
        broker: mask(deployment.client.broker().url()).to_string(),
        results: mask(deployment.client.results().url()).to_string(),
        access: access_words(options),
        read_only: options.read_only,
        hide_args: options.hide_args,
        asks_for_events: !options.leaves_events,
        history,
        intake: IntakeSettings::of(intake.options()),
        actions: guard.actions.latest(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;

    #[test]
    fn who_is_let_in_is_said_without_what_lets_them_in() {
        let words = |access| access_words(&WebOptions { access, ..WebOptions::default() });
        for (access, want) in [
            (Access::Open, "whoever is on this machine"),
            (Access::Token(Secret::new("hush hush hush hush")), "who shows the token"),
            (Access::Basic { user: "ann".to_owned(), password: Secret::new("hush") }, "ann, with a password"),
            (
                Access::Proxy { header: "X-User".to_owned(), from: vec![[10, 0, 0, 9].into(), [10, 0, 0, 8].into()] },
                "whom 10.0.0.9, 10.0.0.8 names in the header X-User",
            ),
        ] {
            assert_eq!(words(access), want);
        }
    }
}
