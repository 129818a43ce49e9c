//! Queues: how long, over time too, how fast, what is next, what is held; pause, resume, purge,
//! move.

use std::{sync::Arc, time::Duration};

use longshore_ops::{
    MessageBrief,
    held::{self, HeldList, HeldRequest},
    overview::Overview,
    queues::{PeekRequest, QueueAction, QueueDone, QueuesRequest, act, list, peek},
};
use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::{Deployment, Glance},
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page, page},
    heard::now_ms,
    history::{ChartSpan, QueueLevel, levels},
    pages::{Asked, action, facts, orders, past},
};

/// Most messages that one look shows.
const MOST_PEEKED: usize = 200;

/// Returns the pages, their action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = Operation::get("/api/v1/queues", "Queues: how long, how fast, who paused them").answers("[Queue]").refuses(&[503]);
    let next = Operation::get("/api/v1/queues/{queue}/next", "The messages that are next in a queue")
        .query("count", "how many, at most 200 (20)")
        .answers("[Message]")
        .asks()
        .refuses(&[422]);
    let held = Operation::get("/api/v1/queues/{queue}/held", "The messages of a queue that are lent to workers: to whom, since when")
        .answers("HeldList")
        .asks();
    let levels = Operation::get("/api/v1/queues/{queue}/levels", "How long a queue was over time, and how old its oldest message")
        .query("span", "day (where a history is kept), or else the last ten minutes")
        .answers("QueueLevels")
        .refuses(&[404, 503]);
    let to = Field::text("to", "the queue that they go to").required();
    let acts = [
        Operation::act("/api/v1/queues/{queue}/pause", "Pauses a queue for longshore's workers"),
        Operation::act("/api/v1/queues/{queue}/resume", "Lets workers take from a queue again"),
        Operation::act("/api/v1/queues/{queue}/purge", "Throws away the messages that wait in a queue"),
        Operation::act("/api/v1/queues/{queue}/move", "Moves the messages that wait in a queue to another").field(to),
    ];
    Routes::new()
        .route("/queues", page(frame, deployment, list_page))
        .route("/queues/act", action(frame, deployment, do_it))
        .route("/queues/{queue}", asking_page(frame, deployment, queue_page))
        .api(all, facts(frame, deployment, async |deployment, _| Ok(deployment.look().await?.queues.clone())))
        .api(next, facts(frame, deployment, peeked))
        .api(held, facts(frame, deployment, held_facts))
        .api(levels, facts(frame, deployment, level_facts))
        .merge(orders(frame, deployment, acts, do_it))
}

async fn next(deployment: &Deployment, queue: &str, most: usize) -> Result<Vec<MessageBrief>, WebError> {
    Ok(peek(&deployment.client, &PeekRequest::new(queue).count(most.min(MOST_PEEKED))).await?)
}

async fn peeked(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Vec<MessageBrief>, WebError> {
    let most = request.number("count")?.unwrap_or(20);
    next(&deployment, request.param("queue"), most).await
}

/// Returns the workers that serve a queue and were heard lately.
fn serving(overview: &Overview, queue: &str) -> Vec<String> {
    let serves = overview.workers.iter().filter(|worker| worker.queues.iter().any(|served| served == queue));
    serves.filter(|worker| worker.silent.is_none()).map(|worker| worker.node.clone()).collect()
}

async fn held_facts(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<HeldList, WebError> {
    let queue = request.param("queue");
    // Where nobody knows who serves it the broker says what it knows, or what is wrong.
    let workers = deployment.look().await.map(|overview| serving(&overview, queue)).unwrap_or_default();
    Ok(held::list(&deployment.client, &HeldRequest::new(queue).workers(workers)).await?)
}

/// Levels over time, as programs get them.
#[derive(Serialize)]
struct LevelFacts {
    /// Seconds of one point.
    point_seconds: i64,
    /// The oldest first; nothing where nobody looked.
    points: Vec<Option<QueueLevel>>,
}

async fn level_facts(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<LevelFacts, WebError> {
    let span = past::span(&request);
    // Whoever asks looks: from now on there is something to tell.
    deployment.glance().await?;
    Ok(LevelFacts { point_seconds: span.seconds(), points: levels_of(&deployment, request.param("queue"), span).await? })
}

/// Returns how long a queue was.
///
/// # Errors
/// A day is asked for, and no history is kept, or it cannot be read.
async fn levels_of(deployment: &Deployment, queue: &str, span: ChartSpan) -> Result<Vec<Option<QueueLevel>>, WebError> {
    match span {
        ChartSpan::TenMinutes => Ok(deployment.levels.points(queue, now_ms())),
        ChartSpan::Day => past::history(deployment)?.levels(queue).await,
    }
}

async fn list_page(deployment: Arc<Deployment>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let overview = deployment.glance().await?.overview;
    Ok(Page::new("queues.html", "Queues", context! { queues => Serde(&overview.queues) }))
}

async fn queue_page(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let name = request.param("queue");
    let Glance { overview, begins } = deployment.glance().await?;
    let queue = match overview.queues.iter().find(|queue| queue.name == name) {
        Some(queue) => queue.clone(),
        // One that has come just now, or is named by nobody else.
        None => {
            let asked = QueuesRequest::one(name).window(Duration::ZERO);
            let found = list(&deployment.client, &asked).await?.into_iter().next();
            let queue = found
                .filter(|queue| queue.waiting + queue.held + queue.later + queue.dead > 0 || queue.paused_by.is_some())
                .ok_or_else(|| WebError::not_found(format_args!("queue {name}: nothing waits there, and no worker serves it")))?;
            deployment.levels.note(std::slice::from_ref(&queue), now_ms());
            queue
        }
    };
    let serves: Vec<String> = overview
        .workers
        .iter()
        .filter(|worker| worker.queues.iter().any(|served| served == name))
        .map(|worker| worker.node.clone())
        .collect();
    // A broker that lets nobody look says so. Where nothing is held nobody is asked for it.
    let request_held = HeldRequest::new(name).workers(serving(&overview, name));
    let asked_held =
        async { if queue.held + queue.eta == 0 { Ok(HeldList::default()) } else { held::list(&deployment.client, &request_held).await } };
    let (next, held) = tokio::join!(next(&deployment, name, 20), asked_held);
    let (next, hidden) = match next {
        Ok(next) => (next, None),
        Err(error) => (Vec::new(), Some(error.message)),
    };
    let (held, unheld) = match held {
        Ok(held) => (held, None),
        Err(error) => (HeldList::default(), Some(error.to_string())),
    };
    let span = past::span(&request);
    let has_days = deployment.feed.history.is_some();
    // What is wrong with a history stands above.
    let points = levels_of(&deployment, name, span).await.unwrap_or_default();
    let [depth, age] = levels::charts(&points, span).map(|svg| svg.map(Value::from_safe_string));
    let facts = context! {
        queue => Serde(queue), next => Serde(next), hidden, serves, begins, held => Serde(held), unheld,
        depth, age, has_days, is_day => span == ChartSpan::Day,
    };
    Ok(Page::new("queue.html", format!("Queue {name}"), facts))
}

/// Returns what a form asks for.
fn wanted(asked: &Asked) -> Result<QueueAction, WebError> {
    let queue = asked.text("queue")?;
    match asked.what() {
        "pause" => Ok(QueueAction::Pause { queue, by: asked.by() }),
        "resume" => Ok(QueueAction::Resume { queue }),
        "purge" => Ok(QueueAction::Purge { queue }),
        "move" => Ok(QueueAction::Move { from: queue, to: asked.text("to")? }),
        _ => Err(asked.unknown()),
    }
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<String, WebError>) {
    noted.to = asked.form.get("queue").unwrap_or_default().to_owned();
    let done = match wanted(&asked) {
        Ok(action) => act(&deployment.client, &action).await.map_err(WebError::from),
        Err(error) => Err(error),
    };
    noted.count = match &done {
        Ok(QueueDone::Purged { purged: count, .. } | QueueDone::Moved { moved: count, .. }) => Some(*count),
        _ => None,
    };
    (noted, done.map(|done| said(&done)))
}

fn said(done: &QueueDone) -> String {
    match done {
        QueueDone::Paused { paused, .. } => {
            format!("{paused} is paused: longshore's workers take nothing more from it (Celery's own do not know pauses)")
        }
        QueueDone::Resumed { resumed } => format!("{resumed} goes on"),
        QueueDone::Purged { queue, purged } => format!("{purged} messages of {queue} were thrown away"),
        QueueDone::Moved { from, to, moved } => format!("{moved} messages went from {from} to {to}"),
        _ => "done".to_owned(),
    }
}
