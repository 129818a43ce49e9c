//! The page of one worker: what it runs, how its lanes and connections are, what its tasks did.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use longshore_core::{
    LaneKind,
    watch::{Command, View},
};
use minijinja::{context, value::Serde};

use crate::{
    api::{Field, Operation, Routes, orders},
    audit::Action,
    error::WebError,
    frame::{Frame, Page, PageRequest, Said, page},
    guard::{Caller, FormFields},
    health::Readiness,
};

/// State of the page.
pub(crate) struct WorkerPage {
    readiness: Readiness,
    frame: Arc<Frame>,
}

/// Returns the page, its actions, and the view as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, readiness: Readiness) -> Routes {
    let state = Arc::new(WorkerPage { readiness, frame: frame.clone() });
    let looks = Operation::get("/api/v1/view", "What this worker looks like now").answers("View").refuses(&[503]);
    let steers = |path, summary| Operation::act(path, summary).refuses(&[503]);
    let acts = [
        steers("/api/v1/pause", "Lets this worker consume nothing more"),
        steers("/api/v1/resume", "Lets this worker consume again"),
        steers("/api/v1/drain", "Stops this worker warmly"),
        steers("/api/v1/concurrency", "Sets how many slots a lane has")
            .field(Field::text("lane", "async, blocking, cpu or process").required())
            .field(Field::whole("most", "slots, from 1 to 100000").required()),
    ];
    let asked = state.clone();
    let orders = orders(frame, acts, move |_, form| {
        let state = asked.clone();
        async move {
            let noted = Action::new(form.get("what").unwrap_or_default(), form.get("lane").unwrap_or_default());
            let done = steer(&state, &noted.what, &form);
            (noted, done)
        }
    });
    Routes::new()
        .route("/", page(frame, &state, show))
        .route("/act/{what}", post(act).with_state(state.clone()))
        .api(looks, get(view).with_state(state))
        .merge(orders)
}

fn unavailable(why: &str) -> WebError {
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn show(state: Arc<WorkerPage>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let view = state.readiness.view().await.map_err(unavailable)?;
    let troubles = state.readiness.troubles().await;
    let title = if view.name.is_empty() { "worker".to_owned() } else { view.name.clone() };
    let gauge = |name: &str| view.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value);
    let memory = gauge("process_resident_memory_bytes");
    let waits: Vec<(usize, String)> = view.waiting.iter().map(|wait| (wait.tasks, wait.reason.to_string())).collect();
    let (tasks, queues): (Vec<_>, Vec<_>) = view.labels.iter().partition(|label| label.kind == "task");
    let context = context! {
        view => Serde(&view), troubles, memory, waits,
        tasks => Serde(tasks), queues => Serde(queues),
        active => view.active(), done => view.counts.done(), failures => view.counts.failures(), throughput => view.throughput(),
    };
    Ok(Page::new("worker.html", title, context))
}

async fn view(State(state): State<Arc<WorkerPage>>) -> Response {
    match state.readiness.view().await {
        Ok(view) => axum::Json::<View>(view).into_response(),
        Err(why) => unavailable(why).json(),
    }
}

/// Returns what a form asks for.
fn command(what: &str, form: &FormFields) -> Result<Command, WebError> {
    match what {
        "pause" => Ok(Command::Pause),
        "resume" => Ok(Command::Resume),
        "drain" => Ok(Command::Drain),
        "concurrency" => {
            let lane: Option<LaneKind> = form.get("lane").and_then(LaneKind::parse);
            let most = form.get("most").and_then(|most| most.trim().parse().ok()).filter(|most| (1..=100_000).contains(most));
            match (lane, most) {
                (Some(lane), Some(most)) => Ok(Command::Concurrency { lane: Some(lane), most }),
                (None, _) => Err(WebError::unprocessable("name a lane: async, blocking, cpu, process")),
                (_, None) => Err(WebError::unprocessable("slots are a number from 1 to 100000")),
            }
        }
        _ => Err(WebError::not_found(format_args!("action {what} here"))),
    }
}

/// Does what a form asks for.
fn steer(state: &WorkerPage, what: &str, form: &FormFields) -> Result<String, WebError> {
    let command = command(what, form)?;
    let handle = state.readiness.handle().ok_or_else(|| unavailable("it does not run"))?;
    let said = said(&command);
    handle.steer(command).map_err(|error| WebError::unprocessable(error.to_string()))?;
    Ok(said)
}

async fn act(
    State(state): State<Arc<WorkerPage>>,
    Path(what): Path<String>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<FormFields>,
) -> Response {
    let mut noted = Action::new(&what, form.get("lane").unwrap_or_default());
    let said = steer(&state, &what, &form).map_or_else(Said::refused, Said::done);
    state.frame.answer(&caller, &form, &mut noted, said)
}

fn said(command: &Command) -> String {
    match command {
        Command::Pause => "paused: it consumes nothing more; what it has goes on".to_owned(),
        Command::Resume => "it consumes again".to_owned(),
        Command::Drain => "it stops: what runs may end, what waits goes back to its queue".to_owned(),
        Command::Concurrency { lane: Some(lane), most } => format!("the {lane} lane has {most} slots now"),
        _ => "done".to_owned(),
    }
}
