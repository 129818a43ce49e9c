//! The first page of a deployment: how much runs and waits, and what needs attention.

use std::sync::Arc;

use longshore_ops::overview::Overview;
use minijinja::{Value, context, value::Serde};

use super::past;
use crate::{
    api::{Operation, Routes},
    deployment::{Deployment, Glance},
    error::WebError,
    frame::{Frame, Page, PageRequest, page},
    history::ChartSpan,
    pages::facts,
    templates::filters,
};

/// Returns the page, and its facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = facts(frame, deployment, async |deployment, _| Ok(Overview::clone(&*deployment.look().await?)));
    let described = Operation::get("/api/v1/overview", "All workers and queues, at one moment").answers("Overview").refuses(&[503]);
    Routes::new().route("/", page(frame, deployment, show)).api(described, all)
}

async fn show(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let Glance { overview, begins } = deployment.glance().await?;
    let sum = |of: &dyn Fn(&longshore_ops::queues::QueueInfo) -> u64| overview.queues.iter().map(of).sum::<u64>();
    // Of queues that only Celery's workers serve nobody knows it: the sum is a lower bound then.
    let rate = |of: &dyn Fn(&longshore_ops::queues::QueueInfo) -> Option<f64>| {
        let known: Vec<f64> = overview.queues.iter().filter_map(of).collect();
        let sign = if known.len() < overview.queues.len() && !known.is_empty() { "≥ " } else { "" };
        let sum = if known.is_empty() { "–".to_owned() } else { filters::rate(known.iter().sum()) };
        format!("{sign}{sum}")
    };
    let span = past::span(&request);
    let points = match &deployment.feed.history {
        // What is wrong with the file stands above.
        Some(history) => history.points(span).await.ok(),
        None => None,
    };
    let p99_took = match &deployment.feed.history {
        Some(history) => history.took(span, 0.99).await.ok().flatten(),
        None => None,
    };
    let charts = points.map(|points| {
        let charts = past::charts(&points, span);
        let svg = |svg: String| Value::from_safe_string(svg);
        context! {
            running => svg(charts.running), waiting => svg(charts.waiting), workers => svg(charts.workers), incoming => svg(charts.incoming),
            outgoing => svg(charts.outgoing), failed => svg(charts.failed), took => svg(charts.took), throughput => svg(charts.throughput),
            failed_percent => charts.failed_percent, mean_took => charts.mean_took, p99_took, is_day => span == ChartSpan::Day,
        }
    });
    let running: u64 = overview.workers.iter().filter_map(|worker| worker.running).sum();
    let context = context! {
        overview => Serde(&*overview), running,
        waiting => sum(&|queue| queue.waiting),
        later => sum(&|queue| queue.eta),
        dead => sum(&|queue| queue.dead),
        incoming => rate(&|queue| queue.in_per_second),
        outgoing => rate(&|queue| queue.out_per_second),
        there => overview.workers.iter().filter(|worker| worker.silent.is_none()).count(),
        attention => attention(&overview, begins, &deployment.feed.notices()),
        charts, begins,
    };
    Ok(Page::new("overview.html", "Overview", context))
}

/// Returns what somebody should look at, as sentences with the page to look at it.
fn attention(overview: &Overview, begins: bool, notices: &[String]) -> Vec<(String, &'static str)> {
    let mut found: Vec<(String, &str)> = notices.iter().map(|text| (text.clone(), "/events")).collect();
    for worker in overview.workers.iter().filter(|worker| worker.silent.is_some()) {
        let silent = worker.silent.unwrap_or_default();
        let running = worker.running.filter(|running| *running > 0).map(|running| format!(", with {running} tasks")).unwrap_or_default();
        found.push((format!("worker {} has not been heard for {} s{running}", worker.node, silent.as_secs()), "/workers"));
    }
    for queue in &overview.queues {
        if let Some(by) = &queue.paused_by {
            found.push((format!("queue {} is paused by {by}", queue.name), "/queues"));
        }
        if queue.workers == Some(0) && queue.waiting > 0 {
            found.push((format!("queue {} has {} waiting, and no worker serves it", queue.name, queue.waiting), "/queues"));
        }
        if queue.dead > 0 {
            let letters = if queue.dead == 1 { "letter" } else { "letters" };
            found.push((format!("queue {} has {} dead {letters}", queue.name, queue.dead), "/dead"));
        }
    }
    if overview.workers.is_empty() && !begins {
        found.push(("no worker is there".to_owned(), "/workers"));
    }
    found
}
