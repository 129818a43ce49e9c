//! Looking at queues, and changing what waits in them.

mod find;
mod oldest;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use longshore_celery::Stub;

use self::oldest::Age;
use super::{
    dead,
    fail::Fail,
    layout::{Layout, bound, entry},
    link::{Link, Wait},
    marks,
    resp::{Pack, RedisCall, Reply, Script},
    scripts,
};
use crate::{REPLIES, broker::QueueState, crash::forgiven, ends::END, halves::DeadLetter};

/// Number of entries that are looked at in one go.
const PAGE: i64 = 500;

/// Looks at one server.
pub(super) struct Admin<'a> {
    pub(super) link: &'a Link,
    pub(super) layout: &'a Layout,
}

impl Admin<'_> {
    async fn one(&self, args: &[&[u8]]) -> Result<Reply, Fail> {
        self.link.one(args, Wait::Patience).await
    }

    /// The same for a command that only looks: where a key is of another kind there is nothing to
    /// see.
    async fn look(&self, args: &[&[u8]]) -> Result<Reply, Fail> {
        Ok(self.looks(Pack::of(args)).await?.pop().unwrap_or(Reply::Nil))
    }

    async fn looks(&self, pack: Pack) -> Result<Vec<Reply>, Fail> {
        let mut replies = self.link.ask(pack.looking(), Wait::Patience).await?;
        replies.iter_mut().filter(|reply| reply.error().is_some()).for_each(|reply| *reply = Reply::Nil);
        Ok(replies)
    }

    /// Returns all keys that begin so.
    pub(super) async fn keys(&self, begin: &str) -> Result<BTreeSet<String>, Fail> {
        let pattern = beginning(begin);
        let mut keys = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        loop {
            let mut page = self.one(&[b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"]).await?.into_list().into_iter();
            cursor = page.next().and_then(Reply::into_bytes).unwrap_or_else(|| b"0".to_vec());
            keys.extend(page.next().map(Reply::into_list).unwrap_or_default().iter().filter_map(Reply::text));
            if cursor == b"0" {
                return Ok(keys);
            }
        }
    }

    /// Returns the queues that are bound to anything, or paused, or have dead letters.
    async fn known(&self) -> Result<BTreeSet<String>, Fail> {
        let mut queues = BTreeSet::new();
        for key in self.keys(&self.layout.binding("")).await? {
            let exchange = self.layout.exchange_of_binding(&key).unwrap_or_default();
            // What is not for tasks.
            if exchange == REPLIES || exchange == "celeryev" || exchange.ends_with(".pidbox") {
                continue;
            }
            let members = self.look(&[b"SMEMBERS", key.as_bytes()]).await?.into_list();
            queues.extend(members.iter().filter_map(Reply::text).filter_map(|member| Some(bound(&member)?.2.to_owned())));
        }
        queues.extend(self.buried().await?);
        queues.extend(self.paused().await?.into_keys());
        Ok(queues)
    }

    /// Returns the queues that have dead letters or junk.
    async fn buried(&self) -> Result<BTreeSet<String>, Fail> {
        let mut queues = BTreeSet::new();
        for begin in [self.layout.dead(""), self.layout.junk("")] {
            queues.extend(self.keys(&begin).await?.iter().filter_map(|key| self.layout.queue_of_dead(key)).map(str::to_owned));
        }
        Ok(queues)
    }

    /// Returns the queues that are paused, with by whom and since when.
    async fn paused(&self) -> Result<BTreeMap<String, (String, Option<SystemTime>)>, Fail> {
        let pairs = self.look(&[b"HGETALL", self.layout.own("paused").as_bytes()]).await?.into_list();
        Ok(pairs.chunks(2).filter_map(|pair| Some((pair[0].text()?, read_pause(&pair.get(1)?.text()?)))).collect())
    }

    /// Returns how many dead letters of each queue were dropped, its junk included.
    async fn dropped(&self) -> Result<BTreeMap<String, u64>, Fail> {
        let mut dropped = BTreeMap::new();
        for key in [self.layout.dropped(), self.layout.dropped_junk()] {
            let pairs = self.look(&[b"HGETALL", key.as_bytes()]).await?.into_list();
            for (queue, count) in pairs.chunks(2).filter_map(|pair| Some((pair[0].text()?, pair.get(1)?.text()?.parse::<u64>().ok()?))) {
                *dropped.entry(queue).or_default() += count;
            }
        }
        Ok(dropped)
    }

    /// Returns how much is held of each queue, and how much of that until its time.
    async fn held(&self) -> Result<BTreeMap<String, (u64, u64)>, Fail> {
        let mut held = BTreeMap::new();
        let mut cursor = b"0".to_vec();
        loop {
            let page = self.page(&scripts::HELD, &[self.layout.unacked()], &[&cursor]).await?;
            let mut page = page.into_iter();
            cursor = page.next().and_then(Reply::into_bytes).unwrap_or_else(|| b"0".to_vec());
            while let (Some(ending), Some(count), Some(later)) = (page.next(), page.next(), page.next()) {
                let whole = [b"[0", ending.bytes().unwrap_or_default()].concat();
                let Some((_, _, routing_key)) = entry(&whole) else { continue };
                let (all, to_come): &mut (u64, u64) = held.entry(routing_key).or_default();
                *all += count.int().unwrap_or(0).unsigned_abs();
                *to_come += later.int().unwrap_or(0).unsigned_abs();
            }
            if cursor == b"0" {
                return Ok(held);
            }
        }
    }

    async fn page(&self, script: &'static Script, keys: &[String], args: &[&[u8]]) -> Result<Vec<Reply>, Fail> {
        let mut call = RedisCall::new(script, &keys.iter().map(String::as_bytes).collect::<Vec<_>>());
        args.iter().for_each(|arg| call.arg(arg));
        let replies = self.looks(call.pack()).await?;
        Ok(replies.into_iter().flat_map(Reply::into_list).collect())
    }

    pub(super) async fn queues(&self, names: &[Arc<str>]) -> Result<Vec<QueueState>, Fail> {
        let names: Vec<String> =
            if names.is_empty() { self.known().await?.into_iter().collect() } else { names.iter().map(ToString::to_string).collect() };
        // One round for all lengths, however many queues there are.
        let mut pack = Pack::default();
        for name in &names {
            self.layout.lists(name).for_each(|list| pack.add(&[b"LLEN", list.as_bytes()]));
            pack.add(&[b"LLEN", self.layout.dead(name).as_bytes()]);
            pack.add(&[b"LLEN", self.layout.junk(name).as_bytes()]);
        }
        if pack.is_empty() {
            return Ok(Vec::new());
        }
        let lengths = self.looks(pack).await?;
        let (held, mut paused, dropped) = (self.held().await?, self.paused().await?, self.dropped().await?);
        let lengths: Vec<u64> = lengths.iter().map(|reply| reply.int().unwrap_or(0).unsigned_abs()).collect();
        let steps = self.layout.steps();
        let each = steps + 2;
        // Only those that have something in them have something old in them.
        let full = |(name, lengths): (&String, &[u64])| -> Vec<String> {
            self.layout.lists(name).zip(&lengths[..steps]).filter(|(_, length)| **length > 0).map(|(list, _)| list).collect()
        };
        let ages = self.ages(names.iter().zip(lengths.chunks(each)).flat_map(full).collect()).await?;
        let oldest = |name: &str| {
            let known: Vec<&Age> = self.layout.lists(name).filter_map(|list| ages.get(&list)).collect();
            (known.iter().map(|age| age.age).max(), known.iter().any(|age| age.at_least))
        };
        let oldest: Vec<(Option<Duration>, bool)> = names.iter().map(|name| oldest(name)).collect();
        let state = |((name, lengths), (oldest, oldest_at_least)): ((String, &[u64]), (Option<Duration>, bool))| QueueState {
            waiting: lengths[..steps].iter().sum(),
            dead: lengths[steps..].iter().sum(),
            dead_dropped: dropped.get(&name).copied().unwrap_or(0),
            held: held.get(&name).map_or(0, |(all, _)| *all),
            consumers: None,
            held_for_later: held.get(&name).map_or(0, |(_, later)| *later),
            paused_since: paused.get(&name).and_then(|(_, since)| *since),
            paused: paused.remove(&name).map(|(by, _)| by),
            later: 0,
            oldest,
            oldest_at_least,
            idle_since: None,
            name,
        };
        Ok(names.into_iter().zip(lengths.chunks(each)).zip(oldest).map(state).collect())
    }

    pub(super) async fn peek(&self, queue: &str, most: usize) -> Result<Vec<Vec<u8>>, Fail> {
        let mut seen = Vec::new();
        for list in self.layout.lists(queue) {
            let mut from = 0;
            while seen.len() < most {
                let (next, some) = self.slice(&list, from, PAGE.min(i64::try_from(most - seen.len()).unwrap_or(PAGE))).await?;
                if some.is_empty() {
                    break;
                }
                seen.extend(some);
                from = next;
            }
        }
        Ok(seen)
    }

    /// Returns whether one of these words stands in an end of one of the next messages.
    pub(super) async fn look_ahead(&self, queue: &str, most: usize, words: &[&[u8]]) -> Result<bool, Fail> {
        let lists: Vec<String> = self.layout.lists(queue).collect();
        let mut call = RedisCall::new(&scripts::LOOK_AHEAD, &lists.iter().map(String::as_bytes).collect::<Vec<_>>());
        call.number(most as u64);
        call.number(END as u64);
        words.iter().for_each(|word| call.arg(word));
        let answer = self.looks(call.pack()).await?.pop();
        Ok(answer.as_ref().and_then(Reply::int) == Some(1))
    }

    /// Returns messages from this place on, the next one first; and the place behind them.
    async fn slice(&self, list: &str, from: i64, count: i64) -> Result<(i64, Vec<Vec<u8>>), Fail> {
        let (first, last) = ((-from - count).to_string(), (-from - 1).to_string());
        let found = self.look(&[b"LRANGE", list.as_bytes(), first.as_bytes(), last.as_bytes()]).await?.into_list();
        let some: Vec<Vec<u8>> = found.into_iter().rev().filter_map(Reply::into_bytes).collect();
        Ok((from + count, some))
    }

    pub(super) async fn purge(&self, queue: &str) -> Result<u64, Fail> {
        let lists: Vec<String> = self.layout.lists(queue).collect();
        let pack = Pack::transaction(|pack| {
            lists.iter().for_each(|list| pack.add(&[b"LLEN", list.as_bytes()]));
            let mut args: Vec<&[u8]> = vec![b"DEL"];
            args.extend(lists.iter().map(String::as_bytes));
            pack.add(&args);
        });
        let lengths = self.link.call(pack, Wait::Patience).await?.pop().unwrap_or(Reply::Nil).into_list();
        Ok(lengths.iter().take(lists.len()).filter_map(Reply::int).sum::<i64>().unsigned_abs())
    }

    pub(super) async fn transfer(&self, from: &str, to: &str) -> Result<u64, Fail> {
        if from == to {
            return Ok(0);
        }
        let mut moved = 0;
        for (from, to) in self.layout.lists(from).zip(self.layout.lists(to)) {
            // What comes meanwhile is for the next call: it shall end.
            let mut left = self.one(&[b"LLEN", from.as_bytes()]).await?.int().unwrap_or(0);
            while left > 0 {
                let mut call = RedisCall::new(&scripts::TRANSFER, &[from.as_bytes(), to.as_bytes()]);
                call.number(left.min(PAGE).unsigned_abs());
                let some = self.link.call(call.pack(), Wait::Patience).await?[0].int().unwrap_or(0);
                if some == 0 {
                    break;
                }
                moved += some.unsigned_abs();
                left -= some;
            }
        }
        Ok(moved)
    }

    pub(super) async fn pause(&self, queue: &str, by: Option<&str>) -> Result<(), Fail> {
        let key = self.layout.own("paused");
        match by {
            Some(by) => self.one(&[b"HSET", key.as_bytes(), queue.as_bytes(), write_pause(by).as_bytes()]).await?,
            None => self.one(&[b"HDEL", key.as_bytes(), queue.as_bytes()]).await?,
        };
        Ok(())
    }

    /// Returns the dead letters in a list, the latest first.
    async fn letters(&self, list: &str) -> Result<Vec<Vec<u8>>, Fail> {
        let entries = self.look(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]).await?.into_list();
        Ok(entries.into_iter().filter_map(Reply::into_bytes).collect())
    }

    pub(super) async fn dead(&self, queue: Option<&str>) -> Result<Vec<DeadLetter>, Fail> {
        let queues = match queue {
            Some(queue) => BTreeSet::from([queue.to_owned()]),
            None => self.buried().await?,
        };
        let mut letters = Vec::new();
        for queue in &queues {
            for list in [self.layout.dead(queue), self.layout.junk(queue)] {
                letters.extend(self.letters(&list).await?.iter().filter_map(|entry| dead::decode(queue, entry)));
            }
        }
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.at));
        Ok(letters)
    }

    pub(super) async fn bury(&self, letters: &[DeadLetter], retry: bool) -> Result<u64, Fail> {
        let mut count = 0;
        let queues: BTreeSet<&str> = letters.iter().map(|letter| letter.queue.as_str()).collect();
        for queue in queues {
            let places = [(self.layout.dead(queue), self.layout.dropped()), (self.layout.junk(queue), self.layout.dropped_junk())];
            for (from, dropped) in places {
                let entries = self.letters(&from).await?;
                let by_key: BTreeMap<String, &Vec<u8>> =
                    entries.iter().filter_map(|entry| Some((dead::decode(queue, entry)?.key, entry))).collect();
                for letter in letters.iter().filter(|letter| letter.queue == queue) {
                    let Some(entry) = by_key.get(&letter.key) else { continue };
                    let list = self.layout.list(queue, marks::priority_of(&letter.raw));
                    let aside = Stub::read(&letter.raw).map(|stub| self.layout.aside(stub.tag));
                    let keys: Vec<&[u8]> = [&from, &list].into_iter().chain(&aside).map(String::as_bytes).collect();
                    let mut call = RedisCall::new(&scripts::BURY, &keys);
                    call.arg(entry);
                    call.arg(if retry { forgiven(&letter.raw) } else { Vec::new() });
                    count += self.link.call(call.pack(), Wait::Patience).await?[0].int().unwrap_or(0).unsigned_abs();
                }
                // The count is of what was dropped before those that are there.
                if self.one(&[b"EXISTS", from.as_bytes()]).await?.int() == Some(0) {
                    self.one(&[b"HDEL", dropped.as_bytes(), queue.as_bytes()]).await?;
                }
            }
        }
        Ok(count)
    }
}

/// Returns the pattern of all keys that begin so.
pub(super) fn beginning(begin: &str) -> String {
    let escaped: String =
        begin.chars().flat_map(|character| "\\*?[]".contains(character).then_some('\\').into_iter().chain([character])).collect();
    format!("{escaped}*")
}

/// Writes who paused a queue as it is stored: milliseconds since 1970, a space, the name.
fn write_pause(by: &str) -> String {
    format!("{} {by}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
}

fn read_pause(text: &str) -> (String, Option<SystemTime>) {
    match text.split_once(' ').map(|(at, by)| (at.parse().map(Duration::from_millis), by)) {
        Some((Ok(at), by)) => (by.to_owned(), UNIX_EPOCH.checked_add(at)),
        _ => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_paused_a_queue_and_when_comes_back() {
        let (by, since) = read_pause(&write_pause("ops team@laptop"));
        assert_eq!(by, "ops team@laptop");
        assert!(since.unwrap().elapsed().unwrap() < Duration::from_secs(60));
        assert_eq!(read_pause("ops@laptop"), ("ops@laptop".to_owned(), None));
    }

    #[test]
    fn a_beginning_stands_for_itself() {
        assert_eq!(beginning("a*[b]?\\"), "a\\*\\[b\\]\\?\\\\*");
    }
}
