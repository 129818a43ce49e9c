//! Numbers for a scrape, as OpenMetrics text. They are made when they are asked for, from views and
//! from the states of queues: nothing is counted for them.
//!
//! - `metrics/families.rs`: families of numbers, each row once, and their text
//! - `metrics/names.rs`: which families there are
//! - `metrics/runs.rs`: what runs, from its view; `metrics/broker.rs`: queues, workers and limits
//!
//! No label says a task's id. Labels are bounded: tasks and queues by [`MOST_LABELS`] for what runs
//! alone and fewer where many are told of, workers and queues of a deployment by [`MOST_NAMED`].
//! What is beyond counts as `other`.

mod broker;
mod families;
mod names;
mod runs;

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use longshore_core::watch::{MOST_LABELS, View};
use longshore_ops::{limits::LimitInfo, overview::WorkerGlance, queues::QueueInfo};

use self::families::Families;
use crate::{deployment::Deployment, error::WebError, health::Readiness, intake::IntakeCounts};

/// Type of the text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Most workers and queues of a deployment that are named.
const MOST_NAMED: usize = 1_000;

/// Everything that a scrape is told of. What a site does not know is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told<'a> {
    /// Views of what runs.
    pub(crate) views: &'a [View],
    /// Queues of a broker.
    pub(crate) queues: &'a [QueueInfo],
    /// Workers of a broker, Celery's too.
    pub(crate) workers: &'a [WorkerGlance],
    /// Limits that processes share.
    pub(crate) limits: &'a [LimitInfo],
    /// True where a broker was asked and has answered; `None` where none was asked.
    pub(crate) broker: Option<bool>,
    /// Tasks that were sent over HTTP here, and those for which there was no room; `None` where
    /// none are taken.
    pub(crate) intake: Option<IntakeCounts>,
    /// Events of workers and tasks that were left out here; `None` where none are heard.
    pub(crate) events_left_out: Option<u64>,
}

/// Returns everything as OpenMetrics text.
pub(crate) fn text(told: &Told<'_>) -> String {
    let mut families = Families::default();
    families.build();
    let labels = labels_of_each(told.views.len());
    told.views.iter().for_each(|view| runs::add(&mut families, view, labels));
    broker::add(&mut families, told);
    families.text()
}

/// Returns how many tasks, and how many queues, are named of each of so many that run.
fn labels_of_each(views: usize) -> usize {
    match views {
        0..=10 => MOST_LABELS,
        11..=100 => 20,
        _ => 2,
    }
}

/// Answers a scrape.
pub(crate) fn answer(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], text).into_response()
}

/// Answers with what runs here; until it runs there is nothing to tell.
pub(crate) async fn of_one(State(readiness): State<Readiness>) -> Response {
    match readiness.view().await {
        Ok(view) => answer(text(&Told { views: &[view], ..Told::default() })),
        Err(why) => WebError::new(StatusCode::SERVICE_UNAVAILABLE, why).json(),
    }
}

/// Answers with queues, workers and shared limits; a broker that does not answer is told of as
/// such.
pub(crate) async fn of_deployment(deployment: Arc<Deployment>, intake: IntakeCounts) -> Response {
    let overview = deployment.look().await.ok();
    // A broker that is away is not waited for once more.
    let limits = if overview.is_some() { deployment.limits().await } else { Vec::new() };
    let (queues, workers) = overview.as_deref().map_or((&[][..], &[][..]), |overview| (&overview.queues[..], &overview.workers[..]));
    let events_left_out = Some(deployment.feed.left_out());
    answer(text(&Told {
        queues,
        workers,
        limits: &limits,
        broker: Some(overview.is_some()),
        intake: Some(intake),
        events_left_out,
        ..Told::default()
    }))
}

#[cfg(test)]
mod tests;
