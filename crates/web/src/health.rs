//! Is it there, is it ready: for whoever starts, routes to and restarts processes.

use std::{sync::Arc, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use longshore_core::{
    CancelToken, Phase,
    watch::{Handle, LinkState, View},
};
use tokio::sync::watch;

/// Time for a view. Whoever takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for which a task may hold the async lane before that lane counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Tells a site what runs: nothing yet, a worker, or nothing any more.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Stage>>);

/// Stage that something that runs has come to.
#[derive(Clone, Default)]
enum Stage {
    #[default]
    Starting,
    Started {
        handle: Handle,
        stopping: CancelToken,
    },
    Ended,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "Starting",
            Self::Started { .. } => "Started",
            Self::Ended => "Ended",
        })
    }
}

impl Readiness {
    /// Returns one of which nothing runs yet.
    #[must_use]
    pub fn starting() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Starting)))
    }

    /// Says that it runs. `stopping` is cancelled when it begins to stop.
    pub fn started(&self, handle: Handle, stopping: CancelToken) {
        self.0.send_replace(Stage::Started { handle, stopping });
    }

    /// Says that it has ended.
    pub fn ended(&self) {
        self.0.send_replace(Stage::Ended);
    }

    /// Returns the handle of what runs.
    pub(crate) fn handle(&self) -> Option<Handle> {
        match &*self.0.borrow() {
            Stage::Started { handle, .. } => Some(handle.clone()),
            Stage::Starting | Stage::Ended => None,
        }
    }

    /// Returns what it looks like now, or why that cannot be known.
    pub(crate) async fn view(&self) -> Result<View, &'static str> {
        let stage = self.0.borrow().clone();
        match stage {
            Stage::Starting => Err("it is starting"),
            Stage::Ended => Err("it has ended"),
            Stage::Started { handle, .. } => match tokio::time::timeout(PATIENCE, handle.view()).await {
                Ok(Some(view)) => Ok(view),
                Ok(None) => Err("it has ended"),
                Err(_) => Err("it does not answer within 2 s: its engine is held up"),
            },
        }
    }

    /// Returns why no work should be brought to it; nothing, where it is ready.
    pub(crate) async fn troubles(&self) -> Vec<String> {
        let is_stopping = matches!(&*self.0.borrow(), Stage::Started { stopping, .. } if stopping.is_cancelled());
        if is_stopping {
            return vec!["it is stopping".to_owned()];
        }
        match self.view().await {
            Ok(view) => troubles(&view),
            Err(why) => vec![why.to_owned()],
        }
    }
}

/// Returns why no work should be brought to what looks so.
fn troubles(view: &View) -> Vec<String> {
    let mut troubles = Vec::new();
    match view.phase {
        Phase::Running | Phase::Paused => {}
        Phase::Draining | Phase::Cancelling => troubles.push("it is stopping".to_owned()),
        _ => troubles.push("it has ended".to_owned()),
    }
    for connection in &view.connections {
        match &connection.state {
            LinkState::Lost { .. } => troubles.push(format!("no connection to its {}", connection.name)),
            LinkState::Refused { .. } => troubles.push(format!("its {} refuses it", connection.name)),
            _ => {}
        }
    }
    let held = view.stalled.latest.as_ref().filter(|stall| stall.holds);
    let held = held.and_then(|stall| Some((stall, view.at.duration_since(stall.since).ok()?)));
    if let Some((stall, held)) = held.filter(|(_, held)| *held >= STUCK) {
        let task = if stall.name.is_empty() { format!("task {}", stall.id) } else { format!("task {}", stall.name) };
        troubles.push(format!("the async lane is stuck: {task} has held it for {} s", held.as_secs()));
    }
    troubles
}

/// Answers whether the process can serve: it does.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers whether work should be brought here.
pub(crate) async fn readyz(troubles: impl Future<Output = Vec<String>>) -> Response {
    let troubles = troubles.await;
    if troubles.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", troubles.join("; "))).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use longshore_core::watch::{Connection, Stall, Stalled, ViewKind};

    use super::*;

    #[test]
    fn what_keeps_a_worker_from_being_ready_is_named() {
        let base = || View::new(ViewKind::Worker, "w@h");
        let with = |change: &dyn Fn(&mut View)| {
            let mut view = base();
            change(&mut view);
            troubles(&view)
        };
        let lost = |state: LinkState| {
            move |view: &mut View| {
                let mut connection = Connection::up("broker", "redis://secret@h");
                connection.set(state.clone(), SystemTime::now());
                view.connections.push(connection);
            }
        };
        let stall = |seconds, running| {
            move |view: &mut View| {
                let since = view.at - Duration::from_secs(seconds);
                view.stalled = Stalled::new(1, Some(Stall::new(7, "id-7", since, running)));
            }
        };
        assert_eq!(troubles(&base()), [""; 0]);
        assert_eq!(with(&|view| view.phase = Phase::Paused), [""; 0]);
        assert_eq!(with(&|view| view.phase = Phase::Draining), ["it is stopping"]);
        assert_eq!(with(&|view| view.phase = Phase::Done), ["it has ended"]);
        assert_eq!(with(&lost(LinkState::Lost { reason: "x".into() })), ["no connection to its broker"]);
        assert_eq!(with(&lost(LinkState::Refused { reason: "x".into() })), ["its broker refuses it"]);
        assert_eq!(with(&lost(LinkState::Up)), [""; 0]);
        assert_eq!(with(&stall(12, true)), ["the async lane is stuck: task id-7 has held it for 12 s"]);
        assert_eq!(with(&stall(12, false)), [""; 0]);
        assert_eq!(with(&stall(3, true)), [""; 0]);
    }

    #[tokio::test]
    async fn it_is_not_ready_before_it_runs_and_after_it_has_ended() {
        let readiness = Readiness::starting();
        assert_eq!(readiness.troubles().await, ["it is starting"]);
        readiness.ended();
        assert_eq!(readiness.troubles().await, ["it has ended"]);
        assert_eq!(readyz(readiness.troubles()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
