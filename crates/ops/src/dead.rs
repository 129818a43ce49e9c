//! Dead letters: messages that are run no more, with the reason; to put back or throw away.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::DeadLetter;
use longshore_worker::Client;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{error::OpsError, message::MessageBrief, queues::flow::served, results::again_from_now, wire::time_text};

/// Asks for dead letters: those for which all of it is true. Of each queue a broker keeps the
/// latest ten thousand, which are looked through.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeadRequest {
    /// Ids of tasks, or keys of letters that cannot be read; each must be there.
    pub ids: Vec<String>,
    /// Letters of this queue.
    pub queue: Option<String>,
    /// Letters of this task.
    pub task: Option<String>,
    /// Letters with this text in the reason.
    pub error: Option<String>,
    /// Letters that are not older than this.
    pub since: Option<Duration>,
}

/// One dead letter. Serialised with the whole message as text (what is no UTF-8 replaced).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeadInfo {
    /// The letter: its key, queue, time, reason, crashes and bytes.
    pub letter: DeadLetter,
    /// Its message, as far as it is shown.
    pub message: MessageBrief,
}

/// Dead letters of one queue that are there no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DroppedLetters {
    /// The queue.
    pub queue: String,
    /// Number of letters that were dropped, the oldest first, because there were too many.
    pub dropped: u64,
    /// Number of letters that are still there.
    pub kept: u64,
}

/// Report of what was done to dead letters, with their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum DeadDone {
    /// Number of letters that are back in their queues, with their crashes forgotten.
    #[serde(rename = "retried")]
    Retried(u64),
    /// Number of letters that were thrown away.
    #[serde(rename = "purged")]
    Purged(u64),
}

impl DeadDone {
    /// Returns how many letters it was done to; fewer than asked for where somebody else was
    /// faster.
    pub fn count(self) -> u64 {
        match self {
            Self::Retried(count) | Self::Purged(count) => count,
        }
    }
}

impl DeadInfo {
    pub(crate) fn of(letter: DeadLetter) -> Self {
        Self { message: MessageBrief::read(&letter.raw), letter }
    }

    /// Returns the task's id, or the letter's key where the message cannot be read.
    pub fn id(&self) -> &str {
        if self.message.id.is_empty() { &self.letter.key } else { &self.message.id }
    }

    fn is(&self, id: &str) -> bool {
        id == self.message.id || id == self.letter.key
    }
}

impl Serialize for DeadInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut letter = serializer.serialize_struct("DeadInfo", 8)?;
        letter.serialize_field("key", &self.letter.key)?;
        letter.serialize_field("id", &self.message.id)?;
        letter.serialize_field("task", &self.message.task)?;
        letter.serialize_field("queue", &self.letter.queue)?;
        letter.serialize_field("at", &time_text(self.letter.at))?;
        letter.serialize_field("reason", &self.letter.reason)?;
        letter.serialize_field("crashes", &self.letter.crashes)?;
        letter.serialize_field("message", &String::from_utf8_lossy(&self.letter.raw))?;
        letter.end()
    }
}

impl DeadRequest {
    /// Asks for the letter of one task.
    pub fn one(id: impl Into<String>) -> Self {
        Self { ids: vec![id.into()], ..Self::default() }
    }

    /// Returns whether this letter is meant. Pure.
    fn matches(&self, dead: &DeadInfo, now: SystemTime) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| dead.is(id)))
            && self.task.as_ref().is_none_or(|task| *task == dead.message.task)
            && self.error.as_ref().is_none_or(|text| dead.letter.reason.contains(text.as_str()))
            && self.since.is_none_or(|since| now.duration_since(dead.letter.at).unwrap_or_default() <= since)
    }
}

/// Looks for dead letters, the latest first.
///
/// # Errors
/// [`OpsError::NoDeadLetter`] where one of the ids is none; the broker cannot be reached, or
/// refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &DeadRequest) -> Result<Vec<DeadInfo>, OpsError> {
    let now = SystemTime::now();
    let letters = letters(client, request.queue.as_deref()).await?;
    let found: Vec<DeadInfo> = letters.into_iter().map(DeadInfo::of).filter(|dead| request.matches(dead, now)).collect();
    match request.ids.iter().find(|id| !found.iter().any(|dead| dead.is(id))) {
        Some(id) => Err(OpsError::NoDeadLetter { id: id.clone() }),
        None => Ok(found),
    }
}

/// Returns the letters of a queue, or of all that are known: where the broker cannot name its
/// queues, those that workers serve are among them.
async fn letters(client: &Client, queue: Option<&str>) -> Result<Vec<DeadLetter>, OpsError> {
    let half = client.connected().letters()?;
    let mut letters = half.dead(queue).await?;
    if queue.is_some() || client.broker().unlisted().is_none() {
        return Ok(letters);
    }
    let known: BTreeSet<String> = letters.iter().map(|letter| letter.key.clone()).collect();
    for queue in served(client).await? {
        letters.extend(half.dead(Some(&queue)).await?.into_iter().filter(|letter| !known.contains(&letter.key)));
    }
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.at));
    Ok(letters)
}

/// Looks which of the queues of these letters had more of them than are kept.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn dropped(client: &Client, found: &[DeadInfo]) -> Result<Vec<DroppedLetters>, OpsError> {
    let names: BTreeSet<Arc<str>> = found.iter().map(|dead| Arc::from(dead.letter.queue.as_str())).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let states = client.broker().queues(&names.into_iter().collect::<Vec<_>>()).await?;
    let fewer = states.into_iter().filter(|state| state.dead_dropped > 0);
    Ok(fewer.map(|state| DroppedLetters { queue: state.name, dropped: state.dead_dropped, kept: state.dead }).collect())
}

/// Puts letters back into their queues, with their crashes forgotten. Before that, whoever looks
/// for their results sees that it is not over.
///
/// # Errors
/// A store cannot be reached, or refuses. What is stored of the tasks is then as it was; of a
/// transient error it is unknown which letters are back.
///
/// # Cancel safety
/// What is cancelled may have been done, in part or as a whole; a letter is always in its queue or
/// among the dead.
pub async fn retry(client: &Client, letters: &[DeadInfo]) -> Result<DeadDone, OpsError> {
    if letters.is_empty() {
        return Ok(DeadDone::Retried(0));
    }
    let ids = letters.iter().map(|dead| dead.message.id.clone()).filter(|id| !id.is_empty());
    let before = again_from_now(client, ids).await?;
    match client.connected().letters()?.bury(&letters_of(letters), true).await {
        Ok(back) => Ok(DeadDone::Retried(back)),
        Err(error) => {
            // As it was: nobody shall wait for what was not sent.
            client.results().store(&before).await?;
            Err(error.into())
        }
    }
}

/// Throws letters away.
///
/// # Errors
/// The broker cannot be reached, or refuses. Of a transient error it is unknown which are gone.
///
/// # Cancel safety
/// What is cancelled may have been done, in part or as a whole.
pub async fn purge(client: &Client, letters: &[DeadInfo]) -> Result<DeadDone, OpsError> {
    if letters.is_empty() {
        return Ok(DeadDone::Purged(0));
    }
    Ok(DeadDone::Purged(client.connected().letters()?.bury(&letters_of(letters), false).await?))
}

fn letters_of(letters: &[DeadInfo]) -> Vec<DeadLetter> {
    letters.iter().map(|dead| dead.letter.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_cannot_be_read_has_a_name_all_the_same() {
        let letter = DeadLetter {
            key: "17".to_owned(),
            queue: "q".to_owned(),
            at: SystemTime::now(),
            reason: "no task".to_owned(),
            crashes: 0,
            raw: b"nonsense".to_vec(),
        };
        let dead = DeadInfo::of(letter);
        let json = serde_json::to_string(&dead).unwrap();
        assert!(json.starts_with(r#"{"key":"17","id":"","task":"","queue":"q","at":""#), "{json}");
        assert!(json.ends_with(r#"Z","reason":"no task","crashes":0,"message":"nonsense"}"#), "{json}");
        assert_eq!(dead.id(), "17");
        assert!(DeadRequest::one("17").matches(&dead, SystemTime::now()));
    }

    #[test]
    fn all_that_was_asked_for_must_be_true_of_a_letter() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let message = longshore_celery::Message { id: "i".into(), task: "t".into(), ..longshore_celery::Message::default() };
        let dead = DeadInfo::of(DeadLetter {
            key: "1".into(),
            queue: "q".into(),
            at: now - Duration::from_secs(60),
            reason: "it died 3 times".into(),
            crashes: 3,
            raw: message.encode(longshore_celery::Encoding::Json),
        });
        let task = |task: &str| DeadRequest { task: Some(task.into()), ..DeadRequest::default() };
        let error = |error: &str| DeadRequest { error: Some(error.into()), ..DeadRequest::default() };
        let since = |since| DeadRequest { since: Some(Duration::from_secs(since)), ..DeadRequest::default() };
        for (request, want) in [
            (DeadRequest::default(), true),
            (DeadRequest::one("i"), true),
            (DeadRequest::one("1"), true),
            (DeadRequest::one("j"), false),
            (task("t"), true),
            (task("u"), false),
            (error("3 times"), true),
            (error("4 times"), false),
            (since(60), true),
            (since(59), false),
            (DeadRequest { task: Some("u".into()), ..DeadRequest::one("i") }, false),
        ] {
            assert_eq!(request.matches(&dead, now), want, "{request:?}");
        }
    }
}
