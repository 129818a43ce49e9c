//! Exchanges as kombu has them on Redis: for each a set of bindings, which workers write.

use std::borrow::Cow;

use super::{
    fail::Fail,
    layout::{Layout, bound, matches},
    link::{Link, Wait},
    resp::Reply,
};
use crate::message::{Exchange, Finish, Outgoing, unbound};

/// Returns the queues that are bound to an exchange for such a key.
pub(super) async fn queues_of(link: &Link, layout: &Layout, exchange: &str, key: &str, wait: Wait) -> Result<Vec<String>, Fail> {
    let members = link.one(&[b"SMEMBERS", layout.binding(exchange).as_bytes()], wait).await?.into_list();
    let mut queues = Vec::new();
    for member in members.iter().filter_map(Reply::text) {
        if let Some((of_queue, pattern, queue)) = bound(&member)
            && matches(key, of_queue, pattern)
            && !queues.iter().any(|other| other == queue)
        {
            queues.push(queue.to_owned());
        }
    }
    Ok(queues)
}

/// Returns a batch with a message for each queue in the place of one that goes through an exchange.
///
/// # Errors
/// Refused: there is no such queue, or it cannot be known.
pub(super) async fn spread<'a>(link: &Link, layout: &Layout, batch: &'a [Outgoing], wait: Wait) -> Result<Cow<'a, [Outgoing]>, Fail> {
    if batch.iter().all(|message| message.exchange.is_none()) {
        return Ok(Cow::Borrowed(batch));
    }
    let mut all = Vec::with_capacity(batch.len());
    for message in batch {
        let Some(exchange) = &message.exchange else {
            all.push(message.clone());
            continue;
        };
        let Exchange { name, kind, key } = &**exchange;
        if kind.as_deref() == Some("fanout") {
            return Err(Fail::Refused(format!(
                "exchange {name}: on Redis a fanout exchange tells those who listen and keeps nothing, so a task would be lost; use a topic \
                 exchange, or name a queue"
            )));
        }
        let queues = queues_of(link, layout, name, key, wait).await?;
        if queues.is_empty() {
            return Err(Fail::Refused(unbound(name, key)));
        }
        all.extend(queues.iter().map(|queue| Outgoing { queue: queue.as_str().into(), exchange: None, ..message.clone() }));
    }
    Ok(Cow::Owned(all))
}

/// Returns ends whose messages are all for queues, or why there are none; `None` where no message
/// goes through an exchange.
pub(super) async fn spread_each(link: &Link, layout: &Layout, batch: &[Finish]) -> Result<Option<Vec<Result<Finish, String>>>, Fail> {
    if batch.iter().flat_map(|finish| &finish.publish).all(|message| message.exchange.is_none()) {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(batch.len());
    for finish in batch {
        all.push(match spread(link, layout, &finish.publish, Wait::Forever).await {
            Ok(publish) => Ok(Finish { publish: publish.into_owned(), ..finish.clone() }),
            Err(Fail::Refused(why)) => Err(why),
            Err(error) => return Err(error),
        });
    }
    Ok(Some(all))
}
