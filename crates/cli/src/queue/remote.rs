//! Asking running workers: a request to all of them or some, and the replies that come in time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::Broker;
use longshore_celery::{
    Value,
    control::{EXCHANGE, Reply, Request},
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::Fault;

/// So long replies are waited for, as Celery does.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The longest reply that is read.
const LONGEST: usize = 16 << 20;

/// Sends a request, and collects what workers reply within this time, or until as many have replied as it was for. In the order of the nodes' names.
///
/// # Errors
/// The broker cannot be reached, or refuses us.
pub async fn ask(broker: &Arc<dyn Broker>, request: Request, within: Duration) -> Result<Vec<(String, Value)>, Fault> {
    let (oid, ticket) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let wanted = request.destination.as_ref().map(Vec::len);
    // Before the request goes out, so that no reply is missed.
    let mut replies = broker.replies(&oid).await?;
    let expires = SystemTime::now().checked_add(within).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let request = Request { expires: expires.map_or(0.0, |at| at.as_secs_f64()), clock: 1, ..request }.answered(&ticket, &oid);
    broker.broadcast(EXCHANGE, "", &request.encode(&Uuid::new_v4().to_string())).await?;
    let mut from: Vec<(String, Value)> = Vec::new();
    let until = Instant::now() + within;
    while let Ok(Some((_, raw))) = timeout_at(until, replies.messages.recv()).await {
        // Whatever else lies in our queue is no reply to us.
        if let Ok(reply) = Reply::decode(&raw, LONGEST)
            && reply.ticket.as_ref().is_none_or(|other| *other == ticket)
        {
            from.extend(reply.from);
        }
        if wanted.is_some_and(|wanted| from.len() >= wanted) {
            break;
        }
    }
    from.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(from)
}

/// Sends a request that nobody replies to.
///
/// # Errors
/// As [`ask`].
pub async fn tell(broker: &Arc<dyn Broker>, request: Request) -> Result<(), Fault> {
    Ok(broker.broadcast(EXCHANGE, "", &Request { clock: 1, ..request }.encode(&Uuid::new_v4().to_string())).await?)
}

/// No worker has replied.
pub fn nobody() -> Fault {
    Fault { code: 69, message: "no nodes replied within time constraint: does a worker run on this broker?".to_owned() }
}
