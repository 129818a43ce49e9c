//! Remote control from the other side: a request to all workers or some, Celery's included, and the
//! replies that come in time.

use std::time::{Duration, SystemTime};

use longshore_brokers::{BrokerError, Connected};
use longshore_celery::{
    Value,
    control::{EXCHANGE, Reply, Request},
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::environment::Environment;

/// Time to wait for replies. Celery's default.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Longest reply that is read, in bytes.
const LONGEST: usize = 16 << 20;
/// The time after which it is said that nobody replies, where nobody listens.
const NOBODY: Duration = Duration::from_millis(100);

/// Sends a request, and collects what workers reply within this time, or until as many have replied
/// as it was for, or as listen (where the broker knows that). In the order of the nodes' names.
///
/// # Errors
/// The broker cannot be reached, or refuses us.
///
/// # Cancel safety
/// Of a dropped future nobody knows whether the request was sent: what it asks for may be done.
///
/// ```
/// use longshore_worker::{Client, Settings, remote};
/// use longshore_celery::control::Request;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let client = Client::connect(&Settings::new("memory://remote"))?;
/// let replies = remote::ask(client.connected(), Request::new("active_queues"), remote::PATIENCE).await?;
/// assert!(replies.is_empty(), "no worker is there");
/// # Ok::<(), longshore_worker::ClientError>(())
/// # }).unwrap();
/// ```
pub async fn ask(connected: &Connected, request: Request, within: Duration) -> Result<Vec<(String, Value)>, BrokerError> {
    let wanted = request.destination.as_ref().map(Vec::len);
    ask_until(connected, request, within, |from| wanted.is_some_and(|wanted| from.len() >= wanted)).await
}

/// Asks as [`ask`] does, until `enough` says that what has come is.
///
/// # Errors
/// As `ask`.
///
/// # Cancel safety
/// As `ask`.
pub async fn ask_until(
    connected: &Connected,
    request: Request,
    within: Duration,
    enough: impl Fn(&[(String, Value)]) -> bool,
) -> Result<Vec<(String, Value)>, BrokerError> {
    ask_in(Environment::SYSTEM, connected, request, within, enough).await
}

/// [`ask_until`], with time and chance of this environment.
pub(crate) async fn ask_in(
    environment: Environment,
    connected: &Connected,
    request: Request,
    within: Duration,
    enough: impl Fn(&[(String, Value)]) -> bool,
) -> Result<Vec<(String, Value)>, BrokerError> {
    let (oid, ticket) = ((environment.id)(), (environment.id)());
    // Before the request goes out, so that no reply is missed.
    let bus = connected.bus()?;
    let mut replies = bus.replies(&oid).await?;
    let expires = environment.wall().checked_add(within).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let request = Request { expires: expires.map_or(0.0, |at| at.as_secs_f64()), clock: 1, ..request }.answered(&ticket, &oid);
    let listeners = bus.broadcast_counted(EXCHANGE, "", &request.encode(&(environment.id)())).await?;
    let have_all = |from: &[(String, Value)]| listeners.is_some_and(|listeners| listeners > 0 && from.len() as u64 >= listeners);
    // Where nobody listens nobody will reply; but whoever asks again and again is not to spin.
    let within = if listeners == Some(0) { within.min(NOBODY) } else { within };
    let mut from: Vec<(String, Value)> = Vec::new();
    let until = Instant::now() + within;
    while !have_all(&from)
        && let Ok(Some((_, raw))) = timeout_at(until, replies.messages.recv()).await
    {
        // Whatever else lies in our queue is no reply to us.
        if let Ok(reply) = Reply::decode(&raw, LONGEST)
            && reply.ticket.as_ref().is_none_or(|other| *other == ticket)
        {
            from.extend(reply.from);
        }
        if enough(&from) {
            break;
        }
    }
    from.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(from)
}

/// Asks workers whether one of them has this task. What was acknowledged before it began is known
/// to nobody else; nor is it known where remote control is off.
///
/// # Errors
/// As [`ask`].
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn is_at_worker(connected: &Connected, id: &str) -> Result<bool, BrokerError> {
    let has = |from: &[(String, Value)]| from.iter().any(|(_, reply)| reply.get(id).is_some());
    let request = Request::new("query_task").argument("ids", vec![id]);
    Ok(has(&ask_until(connected, request, PATIENCE, has).await?))
}

/// Sends a request that nobody replies to.
///
/// # Errors
/// As [`ask`].
///
/// # Cancel safety
/// As `ask`.
pub async fn tell(connected: &Connected, request: Request) -> Result<(), BrokerError> {
    connected.bus()?.broadcast(EXCHANGE, "", &Request { clock: 1, ..request }.encode(&Uuid::new_v4().to_string())).await
}

/// Returns whether a worker that replied this to `active_queues` serves a queue.
pub fn serves(queues: &Value, name: &str) -> bool {
    queues.as_list().unwrap_or_default().iter().any(|queue| queue.get("name").and_then(Value::as_str) == Some(name))
}
