//! State that all workers share beside messages: the slots of rates, and the ids that are called
//! off.

use std::{collections::BTreeMap, time::Duration};

use longshore_core::Rate;

use super::{
    admin::Admin,
    fail::Fail,
    layout::Layout,
    link::{Link, Wait},
    resp::{RedisCall, Reply},
    scripts,
};
use crate::{
    halves::{LimitState, MOST_REVOKED, REVOKED_FOR},
    rates::{self, AHEAD, Bucket, Slot},
    send_notes::{NotedEnd, NotedSend, SendNote},
};

/// Before the names of buckets.
const RATE: &str = "rate:";
/// The rates that were set for all: for each limit interval and span in microseconds.
const LIMITS: &str = "limits";

/// The most ids that one script notes.
const PAGE: usize = 500;

pub(super) async fn reserve(link: &Link, layout: &Layout, limit: &str, rate: Rate, count: usize) -> Result<Vec<Slot>, Fail> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let bucket = Bucket::of(rate);
    let keys = [layout.own(&format!("{RATE}{limit}")), layout.own(LIMITS)];
    let mut call = RedisCall::new(&scripts::RESERVE, &keys.each_ref().map(|key| key.as_bytes()));
    [bucket.interval, bucket.span, AHEAD.as_micros() as u64, count as u64].into_iter().for_each(|number| call.number(number));
    call.arg(rates::limit_of(limit));
    // Asked once more if the answer is lost: slots that were reserved for nobody pass, and the rate
    // is kept.
    let asked = link.ask(call.pack(), Wait::Patience).await;
    if let Err(Fail::Refused(text)) = &asked {
        // Whoever asks for slots asks again, and nobody would know why.
        link.is_unable(text);
    } else if asked.is_ok() {
        link.is_able();
    }
    let mut replies = asked?.swap_remove(0).into_list().into_iter();
    let from = replies.next().and_then(|from| from.text()?.parse().ok()).unwrap_or(0);
    let given = replies.next().and_then(|given| given.int()).unwrap_or(0);
    // The rate that was set for all, if one was.
    let mut number = || replies.next().and_then(|number| number.text()?.parse().ok());
    let bucket = match (number(), number()) {
        (Some(interval), Some(span)) => Bucket::stored(interval, span),
        _ => bucket,
    };
    Ok(bucket.slots(from, given.unsigned_abs(), count))
}

pub(super) async fn set_limit(link: &Link, layout: &Layout, limit: &str, rate: Option<Rate>) -> Result<(), Fail> {
    let key = layout.own(LIMITS);
    match rate.map(Bucket::of) {
        Some(Bucket { interval, span }) => {
            link.one(&[b"HSET", key.as_bytes(), limit.as_bytes(), format!("{interval} {span}").as_bytes()], Wait::Patience).await?
        }
        None => link.one(&[b"HDEL", key.as_bytes(), limit.as_bytes()], Wait::Patience).await?,
    };
    Ok(())
}

pub(super) async fn limits(link: &Link, layout: &Layout) -> Result<Vec<LimitState>, Fail> {
    let pairs = link.one(&[b"HGETALL", layout.own(LIMITS).as_bytes()], Wait::Patience).await?.into_list();
    let pair = |pair: &[Reply]| {
        let (interval, span) =
            pair.get(1)?.text()?.split_once(' ').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)))?;
        Some((pair[0].text()?, Bucket::stored(interval, span).rate()))
    };
    let set: BTreeMap<String, Rate> = pairs.chunks(2).filter_map(pair).collect();
    let begin = layout.own(RATE);
    let keys: Vec<String> = Admin { link, layout }.keys(&begin).await?.into_iter().collect();
    let mut names: BTreeMap<String, u64> = set.keys().map(|name| (name.clone(), 0)).collect();
    for some in keys.chunks(PAGE) {
        let mut args: Vec<&[u8]> = vec![b"MGET"];
        args.extend(some.iter().map(String::as_bytes));
        let next = link.one(&args, Wait::Patience).await?.into_list();
        let known =
            some.iter().zip(next).filter_map(|(key, next)| Some((key.strip_prefix(&begin)?.to_owned(), next.text()?.parse().ok()?)));
        names.extend(known);
    }
    let time = link.one(&[b"TIME"], Wait::Patience).await?.into_list();
    let part = |at: usize| time.get(at).and_then(Reply::int).map_or(0, i64::unsigned_abs);
    let now = part(0) * 1_000_000 + part(1);
    let state = |(name, next): (String, u64)| LimitState {
        set: set.get(rates::limit_of(&name)).copied(),
        ahead: Duration::from_micros(next.saturating_sub(now)),
        name,
    };
    Ok(names.into_iter().map(state).collect())
}

pub(super) async fn revoke(link: &Link, layout: &Layout, ids: &[String]) -> Result<(), Fail> {
    for some in ids[ids.len().saturating_sub(MOST_REVOKED)..].chunks(PAGE) {
        let mut call = RedisCall::new(&scripts::REVOKE, &[layout.own("revoked").as_bytes()]);
        call.number(REVOKED_FOR.as_secs());
        call.number(MOST_REVOKED as u64);
        some.iter().for_each(|id| call.arg(id));
        link.ask(call.pack(), Wait::Patience).await?;
    }
    Ok(())
}

pub(super) async fn revoked(link: &Link, layout: &Layout) -> Result<Vec<String>, Fail> {
    let mut call = RedisCall::new(&scripts::REVOKED, &[layout.own("revoked").as_bytes()]);
    call.number(REVOKED_FOR.as_secs());
    let ids = link.ask(call.pack(), Wait::Patience).await?.swap_remove(0).into_list();
    Ok(ids.iter().filter_map(Reply::text).collect())
}

/// Before the ids of tasks that are noted to run.
const RUN: &str = "run:";

pub(super) async fn note_runs(link: &Link, layout: &Layout, worker: &str, ids: &[String], time: Duration) -> Result<Vec<bool>, Fail> {
    let mut ours = Vec::with_capacity(ids.len());
    for some in ids.chunks(PAGE) {
        let mut call = RedisCall::new(&scripts::RUNS, &[layout.own(RUN).as_bytes()]);
        call.arg(worker);
        call.number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        some.iter().for_each(|id| call.arg(id));
        let replies = link.ask(call.pack(), Wait::Patience).await?.swap_remove(0).into_list();
        ours.extend(replies.iter().map(|reply| reply.int() == Some(1)));
    }
    Ok(ours)
}

pub(super) async fn forget_runs(link: &Link, layout: &Layout, worker: &str, ids: &[String]) -> Result<(), Fail> {
    // As a note that holds for no time.
    note_runs(link, layout, worker, ids, Duration::ZERO).await.map(drop)
}

/// Before the keys under which something is sent once.
const SEND: &str = "send:";

pub(super) async fn note_send(link: &Link, layout: &Layout, note: &SendNote) -> Result<NotedSend, Fail> {
    let mut call = RedisCall::new(&scripts::SENDS, &[layout.own(&format!("{SEND}{}", note.key)).as_bytes()]);
    call.arg(&note.digest);
    call.arg(&note.id);
    call.arg(&note.by);
    [note.hold, note.keep].into_iter().for_each(|time| call.number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    let reply = link.ask(call.pack(), Wait::Patience).await?.swap_remove(0).into_list();
    let mut words = reply.iter().filter_map(Reply::text);
    let (how, id) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(match how.as_str() {
        "first" => NotedSend::First,
        "unfinished" => NotedSend::Unfinished { id },
        "underway" => NotedSend::Underway { id },
        "sent" => NotedSend::Sent { id },
        _ => NotedSend::Other,
    })
}

pub(super) async fn end_send(link: &Link, layout: &Layout, note: &SendNote, ending: NotedEnd) -> Result<(), Fail> {
    let mut call = RedisCall::new(&scripts::END_SEND, &[layout.own(&format!("{SEND}{}", note.key)).as_bytes()]);
    call.arg(&note.digest);
    call.arg(&note.by);
    call.arg(match ending {
        NotedEnd::Sent => "sent",
        NotedEnd::NotSent => "not",
        NotedEnd::Unknown => "unknown",
    });
    link.ask(call.pack(), Wait::Patience).await.map(drop)
}
