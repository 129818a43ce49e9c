//! The page of one run: how it goes, and what of it can be changed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use longshore_run::RunHandle;
use minijinja::context;

use crate::{
    api::{Operation, Routes, orders},
    audit::Action,
    error::WebError,
    frame::{Frame, Page, PageRequest, Said, page},
    guard::{Caller, FormFields},
    progress::{Changes, Progress, operations, steering},
};

/// Time for which a look serves all who look.
const FRESH: Duration = Duration::from_millis(500);
/// Time for a look. Whoever takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// State of the page.
struct RunPage {
    frame: Arc<Frame>,
    handle: RunHandle,
    /// The last look: the run is not asked more often than this, however many look.
    seen: Mutex<Option<(Instant, Arc<Progress>)>>,
}

/// Returns the page, its actions, and the same as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, handle: RunHandle) -> Routes {
    let state = Arc::new(RunPage { frame: frame.clone(), handle, seen: Mutex::default() });
    let one = Operation::get("/api/v1/run", "The run as it goes").answers("Run").refuses(&[503]);
    let acts = operations(["/api/v1/run/pause", "/api/v1/run/resume", "/api/v1/run/drain", "/api/v1/run/cancel", "/api/v1/run/set"]);
    let steered = state.clone();
    let steer = move |_caller, form: FormFields| std::future::ready(steered.steer(&form));
    Routes::new()
        .route("/", page(frame, &state, show))
        .route("/act", post(act).with_state(state.clone()))
        .api(one, get(facts).with_state(state))
        .merge(orders(frame, acts, steer))
}

impl RunPage {
    fn seen(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<Progress>)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the run looks like: now, or a moment ago.
    async fn look(&self) -> Result<Arc<Progress>, WebError> {
        if let Some((at, seen)) = &*self.seen()
            && at.elapsed() < FRESH
        {
            return Ok(seen.clone());
        }
        let unavailable = |why: &str| WebError::new(StatusCode::SERVICE_UNAVAILABLE, why);
        let looked = tokio::time::timeout(PATIENCE, self.handle.look()).await;
        let looked = looked.map_err(|_| unavailable("the run does not answer within 2 s: its loop is held up"))?;
        let view = looked.ok_or_else(|| unavailable("the run is over"))?;
        let seen = Arc::new(Progress { view, story: self.handle.story() }.shown(self.frame.guard.options.hide_args));
        *self.seen() = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }

    /// Tells the run what was asked for, and says so.
    fn steer(&self, form: &FormFields) -> (Action, Result<String, WebError>) {
        let what = form.get("what").unwrap_or_default();
        let done = Changes::of_form(form).and_then(|changes| steering(what, &changes)).map(|(steering, said)| {
            steering.into_iter().for_each(|steering| self.handle.steer(steering));
            // What is shown next is what came of it.
            *self.seen() = None;
            said
        });
        (Action::new(what, self.handle.view().name.clone()), done)
    }
}

async fn show(state: Arc<RunPage>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let seen = state.look().await?;
    let context = context! { act => "/act", ..seen.context(seen.view.state.as_str(), true) };
    Ok(Page::new("run.html", seen.view.name.clone(), context))
}

async fn facts(State(state): State<Arc<RunPage>>) -> Response {
    super::json(state.look().await.as_deref().map_err(Clone::clone))
}

async fn act(State(state): State<Arc<RunPage>>, Extension(caller): Extension<Caller>, Extension(form): Extension<FormFields>) -> Response {
    let (mut noted, said) = state.steer(&form);
    state.frame.answer(&caller, &form, &mut noted, said.map_or_else(Said::refused, Said::done))
}
