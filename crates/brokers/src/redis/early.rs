//! Messages that are given, not lent: one script takes a batch for good, and nothing has to be said
//! when they end. What a worker cannot run at once, or not at all, is parked after all.

use longshore_celery::Limits;
use longshore_core::Receipt;

use super::{
    claim::{Taken, lent},
    fail::Fail,
    finish::tag,
    layout::{Layout, entry_end},
    link::{Link, Wait},
    resp::{Pack, RedisCall, Reply},
    scripts,
    wait::{List, Lists},
};
use crate::message::Claimed;

/// The most that one script takes.
pub(super) const MOST: usize = 500;
/// The most that one script parks.
const PARKED: usize = 100;

/// A batch to be taken for good.
pub(super) struct GivenBatch<'a> {
    pub(super) layout: &'a Layout,
    /// Text before the number in our tags.
    pub(super) boot: &'a str,
    /// The key of our copy of the batch that was taken last.
    pub(super) copy: &'a str,
    /// In the order of service.
    pub(super) lists: &'a [List],
    /// The number of the first; the next `most` numbers are ours to use.
    pub(super) first: u64,
    pub(super) most: usize,
}

impl GivenBatch<'_> {
    /// Takes what there is. When the answer is lost, looks at the copy.
    pub(super) async fn take(&self, from: &mut Lists) -> Result<Vec<Claimed>, Fail> {
        match from.call(self.call(), self.lists).await {
            Ok(mut replies) => Ok(lent(self.read(replies.pop().unwrap_or(Reply::Nil)), true).await),
            Err(Fail::Lost(_)) => {
                let copy = from.link().one(&[b"LRANGE", self.copy.as_bytes(), b"0", b"-1"], Wait::Forever).await?;
                Ok(lent(self.read_copy(copy), true).await)
            }
            Err(fail) => Err(fail),
        }
    }

    fn call(&self) -> Pack {
        let paused = self.layout.own("paused");
        let (unacked, index) = (self.layout.unacked(), self.layout.unacked_index());
        let mut keys = vec![self.copy.as_bytes(), paused.as_bytes(), unacked.as_bytes(), index.as_bytes()];
        keys.extend(self.lists.iter().map(|list| list.key.as_bytes()));
        let mut call = RedisCall::new(&scripts::CLAIM_EARLY, &keys);
        call.number(self.most as u64);
        call.number(self.first);
        call.arg(self.boot);
        call.number(Limits::MESSAGE as u64);
        call.arg(self.layout.aside(""));
        for list in self.lists {
            call.arg(list.queue.as_bytes());
            call.arg(entry_end(&list.queue));
        }
        call.pack()
    }

    fn read(&self, reply: Reply) -> Vec<Taken> {
        let mut claimed = Vec::with_capacity(self.most);
        let mut parts = reply.into_list().into_iter();
        while let (Some(place), Some(messages)) = (parts.next(), parts.next()) {
            self.add(&place, messages.into_list(), &mut claimed);
        }
        claimed
    }

    /// Reads the copy: number of the first, place of a list, how many, its messages; and so on.
    fn read_copy(&self, copy: Reply) -> Vec<Taken> {
        let mut claimed = Vec::new();
        let mut parts = copy.into_list().into_iter();
        while let (Some(first), Some(place), Some(count)) = (parts.next(), parts.next(), parts.next()) {
            let count = count.int().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            // Of an earlier batch: this one was never taken.
            if first.int().and_then(|first| u64::try_from(first).ok()) != Some(self.first) {
                return claimed;
            }
            self.add(&place, parts.by_ref().take(count).collect(), &mut claimed);
        }
        claimed
    }

    fn add(&self, place: &Reply, messages: Vec<Reply>, claimed: &mut Vec<Taken>) {
        let place = place.int().and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
        let Some(List { queue, .. }) = self.lists.get(place) else { return };
        for message in messages {
            let number = self.first + claimed.len() as u64;
            claimed.push((number, queue.clone(), message.into_bytes().unwrap_or_default()));
        }
    }
}

/// Parks what was given under its number, as if it had been lent. May be done twice.
pub(super) async fn hold(link: &Link, layout: &Layout, boot: &str, given: &[Claimed]) -> Result<(), Fail> {
    for some in given.chunks(PARKED) {
        let keys = [layout.unacked(), layout.unacked_index()];
        let mut call = RedisCall::new(&scripts::HOLD, &keys.each_ref().map(|key| key.as_bytes()));
        for Claimed { receipt: Receipt(number), queue, raw, .. } in some {
            call.arg(tag(boot, Receipt(*number)));
            call.arg([b"[", raw.as_slice(), &entry_end(queue)].concat());
        }
        link.ask(call.pack(), Wait::Forever).await?;
    }
    Ok(())
}
