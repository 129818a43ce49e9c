//! Ids that were called off before we listened. The broker is asked, which all workers of ours
//! tell, and so are Celery's workers, as they ask each other at their start ("mingle"). Of ours
//! only a few answer Celery's workers, and none answers ours: where many start at once, not
//! everybody answers everybody.

use std::{collections::HashSet, sync::Arc, time::Duration};

use longshore_celery::{
    Limits,
    control::{self, Reply, Request},
};
use tokio::time::{Instant, timeout_at};

use super::shared::Shared;

/// Time to wait for replies, as in Celery.
const WAIT: Duration = Duration::from_secs(1);

/// The argument of `hello` by which workers of ours know each other; those in Python overlook it.
const OURS: &str = "longshore";

/// Returns whether we answer: whoever is asked by name does, else those who stand for all, and only
/// to those who have no other way to learn it.
pub(crate) fn answers(request: &Request, shared: &Shared) -> bool {
    request.destination.as_ref().is_some_and(|nodes| !nodes.is_empty())
        || (request.arguments.get(OURS).is_none() && shared.consumer.stands_for_all())
}

/// Learns what was called off, and tells the other workers what is known here. What cannot be asked
/// now is asked when the subscription is next renewed.
pub(crate) async fn mingle(shared: Arc<Shared>) {
    let Ok(bus) = shared.connected.bus() else { return };
    if let Ok(store) = shared.connected.shared()
        && let Ok(ids) = store.revoked().await
    {
        // What it could not be told when we heard it.
        let told: HashSet<&String> = ids.iter().collect();
        let untold: Vec<String> = shared.revoked().ids().into_iter().filter(|id| !told.contains(id)).collect();
        if !untold.is_empty() {
            let _ = store.revoke(&untold).await;
        }
        shared.call_off(&ids);
        if !bus.has_strangers().await.unwrap_or(true) {
            return;
        }
    }
    let oid = (shared.environment.id)();
    let Ok(mut replies) = bus.replies(&oid).await else { return };
    let known = shared.revoked().ids();
    let hello = Request::new("hello").argument("from_node", &*shared.node).argument("revoked", known).argument(OURS, true);
    let hello = Request { clock: shared.clock().forward(), ..hello.answered(oid.as_str(), oid.as_str()) };
    if bus.broadcast(control::EXCHANGE, "", &hello.encode(&oid)).await.is_err() {
        return;
    }
    let until = Instant::now() + WAIT;
    while let Ok(Some((_, raw))) = timeout_at(until, replies.messages.recv()).await {
        let Ok(reply) = Reply::decode(&raw, Limits::default().message) else { continue };
        for (ids, clock) in reply.from.iter().filter_map(|(_, said)| control::read_hello(said)) {
            shared.clock().adjust(clock);
            shared.call_off(&ids);
        }
    }
}
