//! Whether anybody will run what is waited for: whoever waits for a result that does not come is told once when no worker serves the queue.

use std::{convert::Infallible, time::Duration};

use longshore_brokers::Doing;
use longshore_celery::{ResultTree, control::Request};

use super::leaves;
use crate::{
    client::Client,
    remote::{PATIENCE, ask, serves},
};

/// After this time it is looked whether anybody will run the task at all.
const DOUBT: Duration = Duration::from_secs(2);
/// Of many that wait at once, one looks in so long: it costs the length of the queues.
pub(crate) const AGAIN: Duration = Duration::from_secs(30);
/// Of a canvas so many tasks are looked for.
const LOOKED_FOR: usize = 3;

/// Says after a while that nobody serves the queue of a task, and never ends.
pub(super) async fn doubt(client: &Client, tree: &ResultTree) -> Infallible {
    tokio::time::sleep(DOUBT - PATIENCE).await;
    if client.may_doubt()
        && let Some(text) = unserved(client, tree).await
    {
        client.tell(&text);
    }
    std::future::pending().await
}

/// `None`: it does not wait, or somebody serves its queue, or that cannot be told.
async fn unserved(client: &Client, tree: &ResultTree) -> Option<String> {
    let broker = client.broker();
    let workers = ask(broker, Request::new("active_queues"), PATIENCE).await.ok()?;
    for id in begins(tree).into_iter().take(LOOKED_FOR) {
        let found = broker.find(&id).await.ok()?;
        let waiting = found.iter().find(|found| matches!(found.doing, Doing::Waiting { .. }));
        if let Some(found) = waiting.filter(|found| !workers.iter().any(|(_, queues)| serves(queues, &found.queue))) {
            let queue = &found.queue;
            return Some(format!("task {id} waits in queue {queue}, and no worker serves it (longshore worker -Q {queue}); waiting on"));
        }
    }
    None
}

/// The tasks with which it begins: of a chain the first, of a group all.
fn begins(tree: &ResultTree) -> Vec<String> {
    tree.parent.as_deref().map_or_else(|| leaves(tree), begins)
}
