//! Schedules, and who fires them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use super::{
    fail::Fail,
    layout::Layout,
    link::{Link, Wait},
    resp::{Pack, RedisCall, Reply},
    scripts,
};
use crate::halves::{Fired, Firing, Leading, ScheduleBook, ScheduleRow, SchedulerName};

const SPECS: &str = "schedules";
const MARKS: &str = "schedules:marks";
const PAUSED: &str = "schedules:paused";
const LEAD: &str = "schedules:lead";
const CHANGES: &str = "schedules:changes";

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: &str) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis.parse().ok()?))
}

/// Begins a call of the script, for a list if something is to be put into it.
fn call(layout: &Layout, list: Option<&str>, act: &str, name: &str) -> RedisCall {
    let own = [SPECS, MARKS, PAUSED, LEAD, CHANGES].map(|name| layout.own(name));
    let keys: Vec<&[u8]> = own.iter().map(String::as_bytes).chain(list.map(str::as_bytes)).collect();
    let mut call = RedisCall::new(&scripts::SCHEDULES, &keys);
    call.arg(act);
    call.arg(name);
    call
}

/// All of them may be asked for again when the answer is lost.
async fn ask(link: &Link, call: RedisCall) -> Result<Reply, Fail> {
    Ok(link.ask(call.pack(), Wait::Patience).await?.swap_remove(0))
}

async fn is_done(link: &Link, call: RedisCall) -> Result<bool, Fail> {
    Ok(ask(link, call).await?.int() == Some(1))
}

pub(super) async fn put(link: &Link, layout: &Layout, name: &str, spec: &[u8], at: SystemTime) -> Result<bool, Fail> {
    let mut call = call(layout, None, "put", name);
    call.arg(spec);
    call.number(millis(at));
    is_done(link, call).await
}

pub(super) async fn amend(link: &Link, layout: &Layout, name: &str, before: &[u8], spec: &[u8]) -> Result<bool, Fail> {
    let mut call = call(layout, None, "amend", name);
    call.arg(before);
    call.arg(spec);
    is_done(link, call).await
}

pub(super) async fn remove(link: &Link, layout: &Layout, name: &str) -> Result<bool, Fail> {
    is_done(link, call(layout, None, "remove", name)).await
}

pub(super) async fn pause(link: &Link, layout: &Layout, name: &str, by: Option<&str>, at: SystemTime) -> Result<bool, Fail> {
    let mut call = call(layout, None, if by.is_some() { "pause" } else { "resume" }, name);
    call.number(millis(at));
    by.into_iter().for_each(|by| call.arg(by));
    is_done(link, call).await
}

pub(super) async fn lead(link: &Link, layout: &Layout, scheduler: &SchedulerName, term: Duration) -> Result<Leading, Fail> {
    let mut call = call(layout, None, "lead", &scheduler.token);
    call.arg(&scheduler.node);
    call.number(u64::try_from(term.as_millis()).unwrap_or(u64::MAX).max(1));
    let reply = ask(link, call).await?.into_list();
    Ok(match &reply[..] {
        [Reply::Int(1), version] => Leading::Ours { version: version.int().unwrap_or(0).unsigned_abs() },
        rest => Leading::Theirs { node: rest.get(1).and_then(Reply::text).unwrap_or_default() },
    })
}

pub(super) async fn resign(link: &Link, layout: &Layout, scheduler: &SchedulerName) -> Result<(), Fail> {
    ask(link, call(layout, None, "resign", &scheduler.token)).await.map(drop)
}

pub(super) async fn fire(link: &Link, layout: &Layout, firing: &Firing) -> Result<Fired, Fail> {
    let list = firing.message.as_ref().map(|message| layout.list(&message.queue, message.priority));
    let mut call = call(layout, list.as_deref(), "fire", &firing.name);
    call.arg(&firing.scheduler.token);
    [firing.since, firing.due, firing.at].into_iter().for_each(|at| call.number(millis(at)));
    firing.message.iter().for_each(|message| call.arg(&message.raw));
    let reply = ask(link, call).await?.text();
    Ok(match reply.as_deref() {
        Some("done") => Fired::Done,
        Some("already") => Fired::Already,
        Some("not leading") => Fired::NotLeading,
        _ => Fired::Changed,
    })
}

pub(super) async fn book(link: &Link, layout: &Layout) -> Result<ScheduleBook, Fail> {
    // What is changed between two of these is told by the next look.
    let mut pack = Pack::default();
    [SPECS, MARKS, PAUSED].iter().for_each(|name| pack.add(&[b"HGETALL", layout.own(name).as_bytes()]));
    pack.add(&[b"GET", layout.own(LEAD).as_bytes()]);
    let mut replies = link.ask(pack, Wait::Patience).await?.into_iter();
    let mut next = || replies.next().unwrap_or(Reply::Nil);
    let (specs, marks, paused, lead) = (pairs(next()), texts(next()), texts(next()), next());
    let row = |(name, spec): (String, Vec<u8>)| {
        let mut mark = marks.get(&name)?.split(' ');
        let (since, last, sent) = (time(mark.next()?)?, time(mark.next()?), time(mark.next()?));
        let fired = mark.next()?.parse().ok()?;
        let paused = paused.get(&name).and_then(|text| text.split_once(' ')).and_then(|(at, by)| Some((by.to_owned(), time(at)?)));
        Some(ScheduleRow { name, spec, since, last, sent, fired, paused })
    };
    let leader = lead.text().and_then(|lead| Some(lead.split_once(' ')?.1.to_owned()));
    Ok(ScheduleBook { leader, rows: specs.into_iter().filter_map(row).collect() })
}

fn pairs(reply: Reply) -> BTreeMap<String, Vec<u8>> {
    let mut list = reply.into_list().into_iter();
    std::iter::from_fn(|| Some((list.next()?.text()?, list.next()?.into_bytes()?))).collect()
}

fn texts(reply: Reply) -> HashMap<String, String> {
    pairs(reply).into_iter().map(|(name, text)| (name, String::from_utf8_lossy(&text).into_owned())).collect()
}
