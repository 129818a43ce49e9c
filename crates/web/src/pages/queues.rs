//! Queues: how long, how fast, what is next; pause, resume, purge, move.

use std::{sync::Arc, time::Duration};

use longshore_ops::{
    MessageBrief,
    queues::{PeekRequest, QueueAction, QueueDone, QueuesRequest, act, list, peek},
};
use minijinja::{context, value::Serde};

use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::{Deployment, Glance},
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page, page},
    pages::{Asked, action, facts, orders},
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
        .merge(orders(frame, deployment, acts, do_it))
}

async fn next(deployment: &Deployment, queue: &str, most: usize) -> Result<Vec<MessageBrief>, WebError> {
    Ok(peek(&deployment.client, &PeekRequest::new(queue).count(most.min(MOST_PEEKED))).await?)
}

async fn peeked(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Vec<MessageBrief>, WebError> {
    let most = request.number("count")?.unwrap_or(20);
    next(&deployment, request.param("queue"), most).await
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
            found
                .filter(|queue| queue.waiting + queue.held + queue.later + queue.dead > 0 || queue.paused_by.is_some())
                .ok_or_else(|| WebError::not_found(format_args!("queue {name}: nothing waits there, and no worker serves it")))?
        }
    };
    let serves: Vec<String> = overview
        .workers
        .iter()
        .filter(|worker| worker.queues.iter().any(|served| served == name))
        .map(|worker| worker.node.clone())
        .collect();
    // A broker that lets nobody look says so.
    let (next, hidden) = match next(&deployment, name, 20).await {
        Ok(next) => (next, None),
        Err(error) => (Vec::new(), Some(error.message)),
    };
    Ok(Page::new("queue.html", format!("Queue {name}"), context! { queue => Serde(queue), next => Serde(next), hidden, serves, begins }))
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
