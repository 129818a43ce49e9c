//! What all workers share beside messages: the slots of rates, and the ids that are called off.

use longshore_core::Rate;

use super::{
    fail::Fail,
    layout::Layout,
    link::{Link, Wait},
    resp::{Call, Reply},
    scripts,
};
use crate::{
    broker::{MOST_REVOKED, REVOKED_FOR},
    rates::{Bucket, Slot},
};

/// The most ids that one script notes.
const PAGE: usize = 500;

pub(super) async fn reserve(link: &Link, layout: &Layout, limit: &str, rate: Rate, count: usize) -> Result<Vec<Slot>, Fail> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let bucket = Bucket::of(rate);
    let mut call = Call::new(&scripts::RESERVE, &[layout.own(&format!("rate:{limit}")).as_bytes()]);
    [bucket.interval, bucket.reach(), count as u64].into_iter().for_each(|number| call.number(number));
    // Asked once more if the answer is lost: slots that were reserved for nobody pass, and the rate is kept.
    let mut replies = link.ask(call.pack(), Wait::Patience).await?.swap_remove(0).into_list().into_iter();
    let from = replies.next().and_then(|from| from.text()?.parse().ok()).unwrap_or(0);
    let given = replies.next().and_then(|given| given.int()).unwrap_or(0);
    Ok(bucket.slots(from, given.unsigned_abs(), count))
}

pub(super) async fn revoke(link: &Link, layout: &Layout, ids: &[String]) -> Result<(), Fail> {
    for some in ids[ids.len().saturating_sub(MOST_REVOKED)..].chunks(PAGE) {
        let mut call = Call::new(&scripts::REVOKE, &[layout.own("revoked").as_bytes()]);
        call.number(REVOKED_FOR.as_secs());
        call.number(MOST_REVOKED as u64);
        some.iter().for_each(|id| call.arg(id));
        link.ask(call.pack(), Wait::Patience).await?;
    }
    Ok(())
}

pub(super) async fn revoked(link: &Link, layout: &Layout) -> Result<Vec<String>, Fail> {
    let mut call = Call::new(&scripts::REVOKED, &[layout.own("revoked").as_bytes()]);
    call.number(REVOKED_FOR.as_secs());
    let ids = link.ask(call.pack(), Wait::Patience).await?.swap_remove(0).into_list();
    Ok(ids.iter().filter_map(Reply::text).collect())
}
