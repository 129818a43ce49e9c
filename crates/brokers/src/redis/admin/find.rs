//! Looking for messages: one by its task's id, or all that lie there.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use longshore_celery::Stub;

use super::{
    super::{
        fail::Fail,
        layout::entry,
        resp::{Pack, Reply},
        scripts,
    },
    Admin, PAGE,
};
use crate::{
    halves::{Doing, Found},
    json,
};

/// Most pages of what is held that are looked through for one queue: ten thousand messages.
const HELD_PAGES: usize = 20;

/// A message that is held: its queue and bytes, who has it, since when or until when.
struct HeldEntry {
    queue: String,
    raw: Vec<u8>,
    boot: Option<String>,
    since: Option<SystemTime>,
}

impl Admin<'_> {
    pub(in super::super) async fn find(&self, id: &str) -> Result<Vec<Found>, Fail> {
        let mut found = Vec::new();
        for queue in self.known().await? {
            self.find_waiting(&queue, id, &mut found).await?;
            for letter in self.dead(Some(&queue)).await?.into_iter().filter(|letter| is(&letter.raw, id)) {
                found.push(Found { queue: queue.clone(), doing: Doing::Dead { reason: letter.reason }, raw: letter.raw });
            }
        }
        self.find_held(id, &mut found).await?;
        Ok(found)
    }

    async fn find_waiting(&self, queue: &str, id: &str, found: &mut Vec<Found>) -> Result<(), Fail> {
        let mut place = 0;
        let mut here = Vec::new();
        for list in self.layout.lists(queue) {
            let mut from = 0;
            loop {
                let (next, some) = self.slice(&list, from, PAGE).await?;
                if some.is_empty() {
                    break;
                }
                for raw in some {
                    place += 1;
                    if is(&raw, id) {
                        here.push((place, raw));
                    }
                }
                from = next;
            }
        }
        found.extend(here.into_iter().map(|(at, raw)| Found {
            queue: queue.to_owned(),
            doing: Doing::Waiting { place: at, of: place, since: sent_at(&raw) },
            raw,
        }));
        Ok(())
    }

    async fn find_held(&self, id: &str, found: &mut Vec<Found>) -> Result<(), Fail> {
        let mut cursor = b"0".to_vec();
        let mut nodes = BTreeMap::new();
        loop {
            let held = self.held_page(&mut cursor, id).await?;
            self.add_held(held.into_iter().filter(|held| is(&held.raw, id)), &mut nodes, found).await?;
            if cursor == b"0" {
                return Ok(());
            }
        }
    }

    /// Returns a part of what is held and has this text in it.
    async fn held_page(&self, cursor: &mut Vec<u8>, text: &str) -> Result<Vec<HeldEntry>, Fail> {
        let keys = [self.layout.unacked(), self.layout.unacked_index()];
        let mut page = self.page(&scripts::FIND_HELD, &keys, &[cursor, text.as_bytes()]).await?.into_iter();
        *cursor = page.next().and_then(Reply::into_bytes).unwrap_or_else(|| b"0".to_vec());
        let mut held = Vec::new();
        while let (Some(tag), Some(whole), Some(time)) = (page.next(), page.next(), page.next()) {
            let Some((raw, _, queue)) = whole.bytes().and_then(entry) else { continue };
            let boot = tag.text().and_then(|tag| Some(tag.rsplit_once(':')?.0.to_owned()));
            let since = time.text().and_then(|time| Duration::try_from_secs_f64(time.parse().ok()?).ok()).map(|time| UNIX_EPOCH + time);
            held.push(HeldEntry { queue, raw: raw.to_vec(), boot, since });
        }
        Ok(held)
    }

    /// With the names of those who have them; each is asked for once.
    async fn add_held(
        &self,
        held: impl Iterator<Item = HeldEntry>,
        nodes: &mut BTreeMap<String, Option<String>>,
        found: &mut Vec<Found>,
    ) -> Result<(), Fail> {
        for HeldEntry { queue, raw, boot, since } in held {
            let by = match boot {
                None => None,
                Some(boot) => match nodes.get(&boot) {
                    Some(by) => by.clone(),
                    None => {
                        let by = self.look(&[b"GET", self.layout.own(&format!("owner:{boot}")).as_bytes()]).await?.text();
                        nodes.entry(boot).or_insert(by).clone()
                    }
                },
            };
            found.push(Found { queue, doing: Doing::Held { by, since }, raw });
        }
        Ok(())
    }

    /// Lists what is held of a queue, up to `most`, as far as the first [`HELD_PAGES`] tell.
    pub(in super::super) async fn held_of(&self, queue: &str, most: usize) -> Result<Vec<Found>, Fail> {
        let (mut found, mut cursor, mut nodes) = (Vec::new(), b"0".to_vec(), BTreeMap::new());
        // A name that JSON writes as it is stands in each entry of its queue; others stay there.
        let is_plain = queue.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        for _ in 0..HELD_PAGES {
            let page = self.held_page(&mut cursor, if is_plain { queue } else { "" }).await?;
            let own = page.into_iter().filter(|held| held.queue == queue).take(most - found.len());
            self.add_held(own, &mut nodes, &mut found).await?;
            if cursor == b"0" || found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    /// Lists what is held and what waits, up to `most` of each in each queue.
    pub(in super::super) async fn list(&self, queue: Option<&str>, most: usize) -> Result<Vec<Found>, Fail> {
        let mut found = Vec::new();
        let (mut cursor, mut nodes) = (b"0".to_vec(), BTreeMap::new());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let page = self.held_page(&mut cursor, "").await?;
            let wanted = page.into_iter().filter(|held| queue.is_none_or(|queue| queue == held.queue)).filter(|held| {
                let count = counts.entry(held.queue.clone()).or_default();
                *count += 1;
                *count <= most
            });
            self.add_held(wanted, &mut nodes, &mut found).await?;
            if cursor == b"0" {
                break;
            }
        }
        let queues = match queue {
            Some(queue) => std::iter::once(queue.to_owned()).collect(),
            None => self.known().await?,
        };
        for queue in queues {
            let mut pack = Pack::default();
            self.layout.lists(&queue).for_each(|list| pack.add(&[b"LLEN", list.as_bytes()]));
            let lengths = self.looks(pack).await?;
            let of = lengths.iter().filter_map(Reply::int).sum::<i64>().unsigned_abs();
            let line = (1_u64..).zip(self.peek(&queue, most).await?);
            let waits = |place: u64, raw: &[u8]| Doing::Waiting { place, of: of.max(place), since: sent_at(raw) };
            found.extend(line.map(|(place, raw)| Found { queue: queue.clone(), doing: waits(place, &raw), raw }));
        }
        Ok(found)
    }
}

/// Returns whether it is the message of the task with this id.
fn is(raw: &[u8], id: &str) -> bool {
    memchr::memmem::find(raw, id.as_bytes()).is_some() && Stub::read(raw).map_or_else(|| json::task_id(raw), |stub| stub.id) == Some(id)
}

/// Returns when it was sent, if it says so.
fn sent_at(raw: &[u8]) -> Option<SystemTime> {
    longshore_celery::sent_at(json::text(raw, &["properties", "delivery_tag"])?)
}
