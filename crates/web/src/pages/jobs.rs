//! Jobs of `longshore run`: how each goes or went, what can be changed of one that runs, and its
//! results.

use std::{io, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use longshore_run::{
    jobs::{ExportForm, ExportSpec, export},
    spec::Only,
};
use minijinja::{context, value::Serde};
use tokio::sync::mpsc;

use crate::{
    api::{Operation, Routes, orders},
    audit::Action,
    error::WebError,
    frame::{Frame, Page, PageRequest, Said, page, read_query},
    guard::{Caller, FormFields},
    jobs::{JobList, JobSeen, Jobs},
    progress::{Changes, operations, steering},
    templates::refusal,
};

/// Bytes of a piece of results on their way.
const PIECE: usize = 64 << 10;
/// Most pieces that wait for whoever reads them.
const PIECES: usize = 4;

/// State of the pages.
struct JobPages {
    frame: Arc<Frame>,
    jobs: Arc<Jobs>,
}

impl JobPages {
    fn hide_args(&self) -> bool {
        self.frame.guard.options.hide_args
    }

    async fn look(&self, job: &str) -> Result<Arc<JobSeen>, WebError> {
        self.jobs.look(job, self.hide_args()).await
    }

    /// Tells a run what was asked for, and says so.
    async fn steer(&self, job: &str, form: &FormFields) -> (Action, Result<String, WebError>) {
        let what = form.get("what").unwrap_or_default();
        let noted = Action::new(what, job);
        let done = async {
            let (steering, said) = steering(what, &Changes::of_form(form)?)?;
            self.jobs.steer(job, &steering).await?;
            Ok(said)
        };
        (noted, done.await)
    }
}

/// Returns the pages, their actions, and the same as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, jobs: &Arc<Jobs>) -> Routes {
    let state = Arc::new(JobPages { frame: frame.clone(), jobs: jobs.clone() });
    let list_of = Operation::get("/api/v1/jobs", "Jobs of `longshore run`, from their journals").answers("JobList").refuses(&[500]);
    let one = Operation::get("/api/v1/jobs/{job}", "One job").answers("Job").refuses(&[404, 500]);
    let acts = operations([
        "/api/v1/jobs/{job}/pause",
        "/api/v1/jobs/{job}/resume",
        "/api/v1/jobs/{job}/drain",
        "/api/v1/jobs/{job}/cancel",
        "/api/v1/jobs/{job}/set",
    ]);
    let acts = acts.map(|operation| operation.refuses(&[404, 409]));
    let steered = state.clone();
    let steer = move |_caller, form: FormFields| {
        let state = steered.clone();
        async move { state.steer(form.get("job").unwrap_or_default(), &form).await }
    };
    Routes::new()
        .route("/jobs", page(frame, &state, list_page))
        .route("/jobs/{job}", page(frame, &state, job_page))
        .route("/jobs/{job}/act", post(act).with_state(state.clone()))
        .route("/jobs/{job}/results", get(results).with_state(state.clone()))
        .api(list_of, get(list).with_state(state.clone()))
        .api(one, get(job).with_state(state))
        .merge(orders(frame, acts, steer))
}

async fn list_page(state: Arc<JobPages>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let list = state.jobs.list().await?;
    let directory = state.jobs.state.path().display().to_string();
    Ok(Page::new("jobs.html", "Jobs", context! { jobs => Serde(&list.jobs), more => list.more, directory }))
}

async fn job_page(state: Arc<JobPages>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let seen = state.look(request.param("job")).await?;
    let glance = &seen.glance;
    let act = format!("/jobs/{}/act", glance.job);
    let failures = glance.failed.unwrap_or(0);
    let context = context! {
        act, job => Serde(&*seen), can_resume => glance.state == "stopped", can_retry => !glance.runs() && failures > 0,
        percent_read => (seen.read * 100.0).floor(), ..seen.run.context(glance.state, glance.runs())
    };
    Ok(Page::new("job.html", format!("Job {}", seen.run.view.name), context))
}

async fn list(State(state): State<Arc<JobPages>>) -> Response {
    let list = state.jobs.list().await;
    super::json::<&JobList>(list.as_deref().map_err(Clone::clone))
}

async fn job(State(state): State<Arc<JobPages>>, Path(job): Path<String>) -> Response {
    let seen = state.look(&job).await;
    super::json::<&JobSeen>(seen.as_deref().map_err(Clone::clone))
}

async fn act(
    State(state): State<Arc<JobPages>>,
    Path(job): Path<String>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<FormFields>,
) -> Response {
    let actions = state.frame.actions.clone();
    let done = async move {
        let (mut noted, said) = state.steer(&job, &form).await;
        state.frame.answer(&caller, &form, &mut noted, said.map_or_else(Said::refused, Said::done))
    };
    actions.run(done).await
}

/// Returns which results are asked for, in which form.
fn wanted(query: &[(String, String)]) -> Result<(ExportSpec, &'static str, &'static str), WebError> {
    let field = |name: &str| query.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let (form, ending, kind) = match field("as").unwrap_or("jsonl") {
        "jsonl" => (ExportForm::Jsonl, "jsonl", "application/x-ndjson"),
        "csv" => (ExportForm::Csv, "csv", "text/csv; charset=utf-8"),
        "tsv" => (ExportForm::Tsv, "tsv", "text/tab-separated-values; charset=utf-8"),
        _ => return Err(WebError::unprocessable("results are there as jsonl, csv or tsv")),
    };
    let mut spec = ExportSpec::new(form);
    spec.only = match field("only") {
        None | Some("") => None,
        Some("ok") => Some(Only::Ok),
        Some("failed") => Some(Only::Failed),
        Some(_) => return Err(WebError::unprocessable("only: ok or failed")),
    };
    Ok((spec, ending, kind))
}

/// Answers with the results of a job, read as fast as they are taken.
async fn results(State(state): State<Arc<JobPages>>, Path(job): Path<String>, uri: axum::http::Uri) -> Response {
    let begun = async {
        if state.hide_args() {
            return Err(WebError::forbidden("this page shows no records and no results (--hide-args)"));
        }
        let (spec, ending, kind) = wanted(&read_query(uri.query().unwrap_or_default()))?;
        let info = state.jobs.find(&job).await?;
        let busy = || WebError::new(StatusCode::SERVICE_UNAVAILABLE, "others take results at this moment: try again soon");
        let place = state.jobs.downloads.clone().try_acquire_owned().map_err(|_| busy())?;
        Ok((info.header.job, spec, ending, kind, place))
    };
    let (id, spec, ending, kind, place) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return refusal(&error),
    };
    let (send, pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let (directory, job) = (state.jobs.state.clone(), id.clone());
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut out = io::BufWriter::with_capacity(PIECE, Pieces(send.clone()));
        // An answer that is cut off is known for that: it has no end.
        if let Err(error) = export(&directory, &job, &spec, &mut out) {
            let _ = send.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // An id is digits and letters.
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{id}.{ending}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

/// Sends what is written to whoever reads; waits while too much is on its way.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
