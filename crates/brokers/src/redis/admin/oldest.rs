//! The age of the next message of a list. Lists are served in the order in which they were filled,
//! so it is the oldest one there.
//!
//! What longshore has sent says when, in its delivery tag. What Celery has sent says nothing: for
//! that it is noted which message was seen at the end of a list, and since when. Such a note goes
//! away by itself when nobody looks any more.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Admin;
use crate::{
    json,
    redis::{
        fail::Fail,
        link::Wait,
        resp::{Pack, Reply},
    },
};

/// Seconds that a note stays after the last look.
const NOTED: &[u8] = b"86400";
/// Number of lists that are looked at in one go: their messages may be large.
const SOME: usize = 100;

/// Age of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Age {
    pub(super) age: Duration,
    /// It is known since when it is there, not when it came.
    pub(super) at_least: bool,
}

impl Admin<'_> {
    /// Returns the ages of the next messages of these lists, as far as they can be known.
    pub(super) async fn ages(&self, lists: Vec<String>) -> Result<BTreeMap<String, Age>, Fail> {
        let mut ages = BTreeMap::new();
        for some in lists.chunks(SOME) {
            let mut pack = Pack::default();
            some.iter().for_each(|list| pack.add(&[b"LRANGE", list.as_bytes(), b"-1", b"-1"]));
            let next = self.looks(pack).await?;
            let now = SystemTime::now();
            let mut silent = Vec::new();
            for (list, reply) in some.iter().zip(next) {
                let Some(raw) = reply.into_list().pop().and_then(Reply::into_bytes) else { continue };
                let Some(tag) = json::text(&raw, &["properties", "delivery_tag"]) else { continue };
                match longshore_celery::sent_at(tag) {
                    // The clocks of two machines may differ a little.
                    Some(sent) => {
                        ages.insert(list.clone(), Age { age: now.duration_since(sent).unwrap_or_default(), at_least: false });
                    }
                    None => silent.push((list.clone(), tag.to_owned())),
                }
            }
            ages.extend(self.noted(silent, now).await?);
        }
        Ok(ages)
    }

    /// Returns since when these messages are known to be next, by their lists and tags; notes it
    /// for those that have come there since.
    async fn noted(&self, next: Vec<(String, String)>, now: SystemTime) -> Result<Vec<(String, Age)>, Fail> {
        if next.is_empty() {
            return Ok(Vec::new());
        }
        let now = u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(0);
        let keys: Vec<String> = next.iter().map(|(list, _)| self.layout.own(&format!("next:{list}"))).collect();
        let mut args: Vec<&[u8]> = vec![b"MGET"];
        args.extend(keys.iter().map(String::as_bytes));
        let notes = self.one(&args).await?.into_list();
        let mut ages = Vec::new();
        let mut pack = Pack::default();
        for (((list, tag), key), note) in next.into_iter().zip(&keys).zip(notes) {
            let since = note.text().and_then(|note| since_of(&note, &tag)).unwrap_or(now);
            pack.add(&[b"SET", key.as_bytes(), format!("{since} {tag}").as_bytes(), b"EX", NOTED]);
            ages.push((list, Age { age: Duration::from_millis(now.saturating_sub(since)), at_least: true }));
        }
        // A server that takes no writes now still has its lengths told.
        match self.link.ask(pack, Wait::Patience).await {
            Ok(_) | Err(Fail::Unable(_)) => Ok(ages),
            Err(fail) => Err(fail),
        }
    }
}

/// Returns when this message was first seen, if the note is about it.
fn since_of(note: &str, tag: &str) -> Option<u64> {
    let (since, noted) = note.split_once(' ')?;
    (noted == tag).then(|| since.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_about_one_message() {
        assert_eq!(since_of("17 tag", "tag"), Some(17));
        assert_eq!(since_of("17 tag", "other"), None);
        assert_eq!(since_of("nonsense", "nonsense"), None);
    }
}
