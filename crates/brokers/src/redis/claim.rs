//! Taking messages: one script a batch, and what to do when its answer is lost.

use std::sync::Arc;

use longshore_celery::{Limits, Stub};
use longshore_core::Receipt;

use super::{
    fail::Fail,
    layout::{Layout, entry, entry_end},
    link::{Link, Wait},
    marks,
    resp::{Pack, RedisCall, Reply},
    scripts,
    wait::{List, Lists},
};
use crate::{apart, message::Claimed};

/// The most that one script takes; more brought nothing.
pub(super) const MOST: usize = 100;

/// A batch to be taken.
pub(super) struct ClaimBatch<'a> {
    pub(super) layout: &'a Layout,
    /// Text before the number in our tags.
    pub(super) boot: &'a str,
    /// In the order of service.
    pub(super) lists: &'a [List],
    /// The number of the first; the next `most` numbers are ours to use.
    pub(super) first: u64,
    pub(super) most: usize,
}

impl ClaimBatch<'_> {
    /// Takes what there is. When the answer is lost, looks up what was parked under our numbers.
    pub(super) async fn take(&self, from: &mut Lists) -> Result<Vec<Claimed>, Fail> {
        match from.call(self.call(), self.lists).await {
            Ok(mut replies) => Ok(lent(self.read(replies.pop().unwrap_or(Reply::Nil)), false).await),
            Err(Fail::Lost(_)) => Ok(lent(self.look_up(from.link()).await?, false).await),
            Err(fail) => Err(fail),
        }
    }

    fn call(&self) -> Pack {
        let Self { layout, lists, .. } = self;
        let ours = [layout.unacked(), layout.unacked_index(), layout.own("paused")];
        let keys: Vec<&[u8]> = ours.iter().chain(lists.iter().map(|list| &list.key)).map(String::as_bytes).collect();
        let mut call = RedisCall::new(&scripts::CLAIM, &keys);
        call.number(self.most as u64);
        call.number(self.first);
        call.arg(self.boot);
        call.number(Limits::MESSAGE as u64);
        call.arg(layout.aside(""));
        for list in *lists {
            call.arg(list.queue.as_bytes());
            call.arg(entry_end(&list.queue));
        }
        call.pack()
    }

    fn read(&self, reply: Reply) -> Vec<Taken> {
        let mut number = self.first;
        let mut claimed = Vec::with_capacity(self.most);
        let mut parts = reply.into_list().into_iter();
        while let (Some(place), Some(messages)) = (parts.next(), parts.next()) {
            let place = place.int().and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
            let Some(List { queue, .. }) = self.lists.get(place) else { continue };
            // In place of messages there is the error of a key that is no list, which whoever
            // counts it tells.
            for message in messages.into_list() {
                claimed.push((number, queue.clone(), message.into_bytes().unwrap_or_default()));
                number += 1;
            }
        }
        claimed
    }

    async fn look_up(&self, link: &Link) -> Result<Vec<Taken>, Fail> {
        let numbers: Vec<u64> = (self.first..self.first + self.most as u64).collect();
        let found = entries(link, self.layout, self.boot, &numbers).await?;
        let ours = numbers.into_iter().zip(found).filter_map(|(number, found)| {
            let (raw, queue) = found?;
            Some((number, queue.into(), raw))
        });
        Ok(ours.collect())
    }
}

/// A message as it was taken: its number, its queue, its bytes.
pub(super) type Taken = (u64, Arc<str>, Vec<u8>);

/// Returns messages as they are lent, or given.
pub(super) async fn lent(taken: Vec<Taken>, given: bool) -> Vec<Claimed> {
    let bytes = taken.iter().map(|(_, _, raw)| raw.len()).sum();
    let lend = move |(number, queue, raw): Taken| {
        let (crashes, redelivered) = (longshore_celery::crashes_of(&raw), marks::is_redelivered(&raw));
        // What lies aside is not given, but lent.
        Claimed { receipt: Receipt(number), queue, crashes, redelivered, given: given && !Stub::is_one(&raw), raw }
    };
    apart(bytes, move || taken.into_iter().map(lend).collect()).await
}

/// Returns the message and the queue of what is parked under these numbers of ours. `None` where
/// nothing is.
pub(super) async fn entries(link: &Link, layout: &Layout, boot: &str, numbers: &[u64]) -> Result<Vec<Option<(Vec<u8>, String)>>, Fail> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let unacked = layout.unacked();
    let tags: Vec<String> = numbers.iter().map(|number| format!("{boot}{number}")).collect();
    let mut args: Vec<&[u8]> = vec![b"HMGET", unacked.as_bytes()];
    args.extend(tags.iter().map(String::as_bytes));
    let found = link.one(&args, Wait::Forever).await?.into_list();
    let read = |reply: Reply| {
        let whole = reply.into_bytes()?;
        let (raw, _, queue) = entry(&whole)?;
        Some((raw.to_vec(), queue))
    };
    Ok(found.into_iter().map(read).collect())
}
