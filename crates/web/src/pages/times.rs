//! How tasks of each name ended and how long they ran, as a page and as JSON.

use std::sync::Arc;

use minijinja::{context, value::Serde};
use serde::Serialize;

use super::{
    facts,
    past::{history, span},
};
use crate::{
    api::{Operation, Routes},
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page, in_query},
    history::{ChartSpan, NameTimes, TimesTable},
    search::term_of,
};

/// Returns the page, and its facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let times = Operation::get("/api/v1/times", "How tasks of each name ended, and how long they ran")
        .query("span", "day, or else the last ten minutes")
        .answers("Times");
    Routes::new().route("/times", asking_page(frame, deployment, show)).api(times.refuses(&[404, 503]), facts(frame, deployment, found))
}

async fn found(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<TimesTable, WebError> {
    history(&deployment)?.times(span(&request)).await
}

/// A row of the page, with the searches that it leads to.
#[derive(Serialize)]
struct TimesRow {
    #[serde(flatten)]
    times: NameTimes,
    line: String,
    failed_line: String,
}

async fn show(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let is_day = span(&request) == ChartSpan::Day;
    let times = match deployment.feed.history {
        Some(_) => Some(found(deployment.clone(), request).await?),
        None => None,
    };
    let row = |times: NameTimes| {
        let line = format!("{} since:{}", term_of("task", &times.task), if is_day { "1d" } else { "10m" });
        TimesRow { failed_line: in_query(&format!("{line} state:failure")), line: in_query(&line), times }
    };
    let times = times.map(|TimesTable { span_seconds, known_seconds, names, more }| {
        let names: Vec<TimesRow> = names.into_iter().map(row).collect();
        context! { span_seconds, known_seconds, more, names => Serde(names) }
    });
    Ok(Page::new("times.html", "Times by name", context! { times, is_day }))
}
