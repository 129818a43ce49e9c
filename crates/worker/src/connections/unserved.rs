//! Tells whoever waits for a result that does not come that no worker serves the queue that its
//! task was sent to.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use longshore_celery::{Value, control::Request};
use tokio::{sync::Mutex, time::Instant};

use super::Connections;
use crate::remote::{PATIENCE, ask_in};

/// Time after which it is known whether workers serve the queue.
const DOUBT: Duration = Duration::from_secs(2);
/// Time for which the workers' answer counts. Of one queue nobody is told more often.
const AGAIN: Duration = Duration::from_secs(30);

/// Queues that workers serve, as they last said. Shared by all who wait, so that a thousand of them
/// ask once.
#[derive(Default)]
pub(crate) struct UnservedQueues {
    known: Mutex<KnownQueues>,
}

#[derive(Default)]
struct KnownQueues {
    asked: Option<Instant>,
    served: HashSet<String>,
    /// Queues that nobody serves, and when that was told.
    told: HashMap<Arc<str>, Instant>,
}

/// Says after a while that nobody serves a queue, and never ends.
pub(crate) async fn tell_unserved(connections: &Connections, queue: Option<&Arc<str>>, id: &str) -> Infallible {
    let (Some(queue), Some(told)) = (queue, &connections.told) else { return std::future::pending().await };
    let due = Instant::now() + DOUBT;
    tokio::time::sleep(DOUBT - PATIENCE).await;
    if is_unserved(connections, queue, due).await {
        let shown: String = queue.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect();
        told(&longshore_brokers::News::remark(format!(
            "no worker that answers serves queue {shown}, which task {id} was sent to (longshore worker -Q {shown}); waiting on"
        )));
    }
    std::future::pending().await
}

/// Returns whether somebody is to be told that no worker serves this queue; not before `due`.
async fn is_unserved(connections: &Connections, queue: &Arc<str>, due: Instant) -> bool {
    // The lock is held while workers are asked: whoever comes meanwhile takes the same answer.
    let mut known = connections.unserved.known.lock().await;
    let fresh = |at: &Instant, within: Duration| at.elapsed() < within;
    if known.told.get(queue).is_some_and(|at| fresh(at, AGAIN)) {
        return false;
    }
    let may_be_old = if known.served.contains(&**queue) { AGAIN } else { PATIENCE };
    if !known.asked.is_some_and(|at| fresh(&at, may_be_old)) {
        // On its own: its reply queue is taken down when it has ended, and not only half when the
        // result comes meanwhile.
        let (connected, environment) = (connections.connected.clone(), connections.environment);
        let asked =
            tokio::spawn(async move { ask_in(environment, &connected, Request::new("active_queues"), PATIENCE, |_| false).await }).await;
        // A broker that cannot be asked tells nothing.
        let Ok(Ok(replies)) = asked else { return false };
        known.served = replies.iter().flat_map(|(_, queues)| names(queues)).collect();
        known.asked = Some(Instant::now());
    }
    let unserved = !known.served.contains(&**queue);
    if unserved {
        // Where nobody listens that is known at once. Who gives up meanwhile has told nobody.
        tokio::time::sleep_until(due).await;
        known.told.retain(|_, at| fresh(at, AGAIN));
        known.told.insert(queue.clone(), Instant::now());
    }
    unserved
}

/// The queues of a worker that replied this to `active_queues`.
fn names(queues: &Value) -> impl Iterator<Item = String> {
    let names = queues.as_list().unwrap_or_default().iter();
    names.filter_map(|queue| Some(queue.get("name")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{environment::Environment, settings::Settings};

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_nobody_serves_is_remembered_for_half_a_minute_and_told_once_in_it() {
        let connections = Connections {
            settings: Settings::default(),
            connected: longshore_brokers::connect("memory://unserved", None).unwrap(),
            environment: Environment::SYSTEM,
            told: None,
            unserved: UnservedQueues::default(),
        };
        for (after, queue, told, remembered) in
            [(0, "a", true, 1), (5, "a", false, 1), (5, "b", true, 2), (21, "c", true, 2), (40, "d", true, 1)]
        {
            tokio::time::advance(Duration::from_secs(after)).await;
            assert_eq!(is_unserved(&connections, &queue.into(), Instant::now()).await, told, "{queue}");
            assert_eq!(connections.unserved.known.lock().await.told.len(), remembered, "{queue}");
        }
    }
}
