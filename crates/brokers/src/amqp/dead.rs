//! Dead letters: queues of their own beside each queue, read message by message as RabbitMQ's own
//! tools do it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    BasicProperties, Channel,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    fail::{is_not_found, transient, words},
    link::{Link, Open, Wait},
    parts::Parcel,
    publish::{Publisher, Routed},
};
use crate::{crash::forgiven, error::BrokerError, halves::DeadLetter};

/// The header with the reason of a dead letter.
const REASON: &str = "x-longshore-reason";
/// The header with the microsecond since 1970 in which it died, and the one with its name.
const DIED: &str = "x-longshore-died";
const KEY: &str = "x-longshore-key";
/// Beginnings of the names of the queues of dead letters, and of those of junk.
const DEAD: &str = "longshore.dead.";
const JUNK: &str = "longshore.junk.";
/// Bytes that these headers take beside the reason, at most.
const OURS: usize = 200;
/// The most dead letters of a queue; the oldest go first.
const MOST: i64 = 20_000;

/// Returns whether a name is that of a queue of dead letters.
pub(super) fn is_dead(queue: &str) -> bool {
    queue.starts_with(DEAD) || queue.starts_with(JUNK)
}

/// Returns the queues of another's dead letters.
pub(super) fn queues_of(queue: &str) -> [Arc<str>; 2] {
    [format!("{DEAD}{queue}").into(), format!("{JUNK}{queue}").into()]
}

/// Makes the letter that a message becomes, whose properties have so much room. Where those of the
/// message leave none, all of it is the letter's body.
pub(super) fn letter(queue: &str, parcel: &Parcel, reason: &str, junk: bool, room: usize) -> Routed {
    let [dead, heap] = queues_of(queue);
    let mut letter = parcel.fresh();
    let reason = first_of(reason, room / 4);
    if letter.size_of_properties() + reason.len() + OURS > room {
        letter = Parcel::as_it_is(letter.to_raw("", queue));
    }
    let properties = letter.properties.parse();
    let mut headers = properties.headers().clone().unwrap_or_default();
    let died = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    headers.insert(DIED.into(), AMQPValue::LongLongInt(i64::try_from(died).unwrap_or(i64::MAX)));
    headers.insert(KEY.into(), AMQPValue::LongString(uuid::Uuid::new_v4().to_string().into()));
    let letter = Parcel::read(&lasting(properties).with_headers(headers), letter.body);
    Routed::to(if junk { &heap } else { &dead }, letter)
}

/// Returns the beginning of a text, of so many bytes at most.
fn first_of(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Returns properties without a time to live: a letter waits for somebody to read it.
fn lasting(from: BasicProperties) -> BasicProperties {
    let mut to = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($get:ident $with:ident),*) => { $(if let Some(value) = from.$get() { to = to.$with(value.clone()); })* };
    }
    keep!(
        content_type with_content_type, content_encoding with_content_encoding, priority with_priority,
        correlation_id with_correlation_id, reply_to with_reply_to, message_id with_message_id,
        timestamp with_timestamp, kind with_type, app_id with_app_id
    );
    to
}

/// Returns the arguments of a queue of dead letters.
pub(super) fn arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST));
    arguments
}

/// Returns how many letters a queue has.
pub(super) async fn count(open: &Open, queue: &str) -> Result<u64, BrokerError> {
    let mut sum = 0;
    for queue in queues_of(queue) {
        let channel = open.channel().await.map_err(|error| transient(&open.place, &words(&error)))?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match open.answer_of_queue(channel.queue_declare((*queue).into(), options, FieldTable::default())).await {
            Ok(queue) => {
                sum += u64::from(queue.message_count());
                let _ = channel.close(200, "".into()).await;
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(transient(&open.place, &words(&error))),
        }
    }
    Ok(sum)
}

/// Returns the letters of a queue, the latest first.
pub(super) async fn list(link: &Link, queue: &str) -> Result<Vec<DeadLetter>, BrokerError> {
    let mut letters = Vec::new();
    for dead in queues_of(queue) {
        let (open, channel) = link.channel(Wait::Patience).await?;
        while let Some(message) = get(&open, &channel, &dead).await? {
            letters.push(letter_of(queue, message).0);
        }
        // They go back to their places with the channel.
        let _ = channel.close(200, "".into()).await;
    }
    letters.reverse();
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.at));
    Ok(letters)
}

async fn get(open: &Open, channel: &Channel, queue: &str) -> Result<Option<BasicGetMessage>, BrokerError> {
    match open.answer_of_queue(channel.basic_get(queue.into(), BasicGetOptions::default())).await {
        Ok(message) => Ok(message),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(transient(&open.place, &words(&error))),
    }
}

/// Returns a letter as it is shown, and the message as it was.
fn letter_of(queue: &str, message: BasicGetMessage) -> (DeadLetter, Parcel) {
    let delivery = message.delivery;
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => String::new(),
    };
    let died = match headers.inner().get(DIED) {
        Some(AMQPValue::LongLongInt(micros)) => u64::try_from(*micros).unwrap_or(0),
        _ => 0,
    };
    let (key, reason) = (text(KEY), text(REASON));
    let kept = headers.inner().iter().filter(|(name, _)| ![REASON, DIED, KEY].contains(&name.as_str()));
    let headers = FieldTable::from(kept.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>());
    let parcel = Parcel::read(&delivery.properties.with_headers(headers), delivery.data);
    let raw = parcel.to_raw("", queue);
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(died);
    let crashes = longshore_celery::crashes_of(&raw);
    (DeadLetter { key, queue: queue.to_owned(), at, reason, crashes, raw }, parcel)
}

/// Puts letters of a queue back into it, or throws them away; how many there were.
pub(super) async fn bury(link: &Link, publisher: &Publisher, queue: &Arc<str>, keys: &[&str], retry: bool) -> Result<u64, BrokerError> {
    let mut left: Vec<&str> = keys.to_vec();
    let mut count = 0;
    for dead in queues_of(queue) {
        let (open, channel) = link.channel(Wait::Patience).await?;
        while !left.is_empty() {
            let Some(message) = get(&open, &channel, &dead).await? else { break };
            let tag = message.delivery.delivery_tag;
            let (letter, _) = letter_of(queue, message);
            let Some(at) = left.iter().position(|key| *key == letter.key) else { continue };
            left.swap_remove(at);
            if retry {
                let raw = forgiven(&letter.raw);
                let room = publisher.room(Wait::Patience).await?;
                // As it came it might not fit.
                let parcel = Parcel::of(&raw).ok().filter(|parcel| parcel.size_of_properties() <= room);
                let parcel = parcel.unwrap_or_else(|| Parcel::as_it_is(raw));
                let refusals = publisher.send(&[Routed::to(queue, parcel)], Wait::Patience).await?;
                if let Some(why) = refusals.into_iter().flatten().next() {
                    return Err(super::fail::refused(&open.place, &why));
                }
            }
            // What was sent is there; if this is lost, the letter is there too.
            channel.basic_ack(tag, BasicAckOptions::default()).await.map_err(|error| transient(&open.place, &words(&error)))?;
            count += 1;
        }
        let _ = channel.close(200, "".into()).await;
    }
    Ok(count)
}
