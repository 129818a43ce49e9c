//! What was called off before we listened: asked of the broker, and of the other workers, as Celery's ask each other at their start ("mingle").

use std::{sync::Arc, time::Duration};

use longshore_celery::{
    Limits,
    control::{self, Reply, Request},
};
use tokio::time::{Instant, timeout_at};

use super::shared::Shared;

/// How long replies are waited for, as in Celery.
const WAIT: Duration = Duration::from_secs(1);

/// Learns what was called off, and tells the other workers what is known here. What cannot be asked now is asked when the subscription is next renewed.
pub(crate) async fn mingle(shared: Arc<Shared>) {
    if let Ok(ids) = shared.broker.revoked().await {
        shared.call_off(&ids);
    }
    let oid = uuid::Uuid::new_v4().to_string();
    let Ok(mut replies) = shared.broker.replies(&oid).await else { return };
    let known = shared.revoked().ids();
    let hello = Request::new("hello").argument("from_node", &*shared.node).argument("revoked", known);
    let hello = Request { clock: shared.clock().forward(), ..hello.answered(oid.as_str(), oid.as_str()) };
    if shared.broker.broadcast(control::EXCHANGE, "", &hello.encode(&oid)).await.is_err() {
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
