//! Rescue of what the dead have left: it is put back message by message. Nobody has to hold a mutex
//! for it; `watcher.rs` says who does it.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use longshore_celery::{Stub, crashes_of};

use super::{
    exchanges,
    fail::Fail,
    layout::{Layout, entry},
    lease::LeaseOwner,
    link::{Link, Wait, locked},
    marks,
    resp::{Pack, RedisCall, Reply},
    scripts,
};
use crate::crash::after_crash;

/// Hands back what this owner holds, to the front of its queues. Whether all of it went back.
pub(super) async fn give_back(link: &Link, owner: &LeaseOwner) -> Result<bool, Fail> {
    let mut rescuer = Rescuer::new(link, owner);
    let tags = rescuer.tags_of(&owner.boot).await?;
    let back = rescuer.put_back(&tags, None, |raw, _| crashes_of(raw)).await?;
    rescuer.say(&owner.boot, back.refused.as_deref());
    locked(&owner.held).clear();
    Ok(back.refused.is_none())
}

/// Result of putting messages back.
#[derive(Default)]
struct Back {
    /// Number of messages that were put back.
    count: u64,
    /// Last refusal, because of which some stay where they are.
    refused: Option<String>,
}

/// Puts back what others have left, and what stands under our own name without being ours.
pub(super) struct Rescuer<'a> {
    link: &'a Link,
    layout: &'a Layout,
    owner: &'a LeaseOwner,
    /// Tags that stood under our name in the sweep before, without being held by us.
    strays: HashSet<String>,
    /// Which connections were there when strays were looked for, and how often they were since it
    /// is.
    seen: (u64, u32),
    /// Owners whose messages cannot be put back, as was said.
    said: HashSet<String>,
}

impl<'a> Rescuer<'a> {
    pub(super) fn new(link: &'a Link, owner: &'a LeaseOwner) -> Self {
        Self { link, layout: &owner.layout, owner, strays: HashSet::new(), seen: (0, 0), said: HashSet::new() }
    }

    /// Returns those of the owners whose sign stands.
    async fn living(&self) -> Result<HashSet<String>, Fail> {
        let owners = self.link.one(&[b"SMEMBERS", self.layout.own("owners").as_bytes()], Wait::Forever).await?.into_list();
        let owners: Vec<String> = owners.iter().filter_map(Reply::text).collect();
        if owners.is_empty() {
            return Ok(HashSet::new());
        }
        let keys: Vec<String> = owners.iter().map(|boot| self.layout.own(&format!("owner:{boot}"))).collect();
        let mut args: Vec<&[u8]> = vec![b"MGET"];
        args.extend(keys.iter().map(String::as_bytes));
        let signs = self.link.one(&args, Wait::Forever).await?.into_list();
        Ok(owners.into_iter().zip(signs).filter(|(_, sign)| *sign != Reply::Nil).map(|(boot, _)| boot).collect())
    }

    /// Says once why messages stay where they are.
    fn say(&mut self, whose: &str, refused: Option<&str>) {
        match refused {
            None => drop(self.said.remove(whose)),
            Some(why) if self.said.insert(whose.to_owned()) => {
                (self.link.notice())(&crate::News::remark(format!(
                    "{why}; messages stay where they are until they can be put back into their queues"
                )));
            }
            Some(_) => {}
        }
    }

    /// Puts back what a dead owner has left, and forgets it. An owner of whose messages some are
    /// refused stays dead, and is looked at again.
    pub(super) async fn rescue(&mut self, boot: &str) -> Result<(), Fail> {
        let key = |name: &str| self.layout.own(&format!("{name}:{boot}"));
        let accused = self.link.one(&[b"GET", key("accused").as_bytes()], Wait::Forever).await?.text();
        let tags = self.tags_of(boot).await?;
        let accused: Vec<String> = accused.iter().flat_map(|numbers| numbers.split(' ')).map(|number| format!("{boot}:{number}")).collect();
        let now = SystemTime::now();
        let fate =
            |raw: &[u8], tag: &str| after_crash(crashes_of(raw), accused.iter().any(|accused| accused == tag), marks::lies_ahead(raw, now));
        let Back { count, refused } = self.put_back(&tags, Some(&key("rescued")), fate).await?;
        if count > 0 {
            (self.link.notice())(&crate::News::remark(format!(
                "redis at {}: {count} tasks of a dead worker were put back",
                self.link.config().place()
            )));
        }
        self.say(boot, refused.as_deref());
        if refused.is_some() {
            return Ok(());
        }
        let mut pack = Pack::of(&[b"DEL", key("accused").as_bytes(), key("kept").as_bytes()]);
        pack.add(&[b"SREM", self.layout.own("owners").as_bytes(), boot.as_bytes()]);
        self.link.ask(pack, Wait::Forever).await?;
        Ok(())
    }

    /// Returns every tag of an owner's, the latest first.
    async fn tags_of(&self, boot: &str) -> Result<Vec<String>, Fail> {
        let (index, pattern) = (self.layout.unacked_index(), format!("{boot}:*"));
        let mut tags = Vec::new();
        let mut cursor = b"0".to_vec();
        loop {
            let args: [&[u8]; 7] = [b"ZSCAN", index.as_bytes(), &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"];
            let mut reply = self.link.one(&args, Wait::Forever).await?.into_list().into_iter();
            cursor = reply.next().and_then(Reply::into_bytes).unwrap_or_else(|| b"0".to_vec());
            tags.extend(reply.next().map(Reply::into_list).unwrap_or_default().chunks(2).filter_map(|pair| pair[0].text()));
            if cursor == b"0" {
                break;
            }
        }
        let number = |tag: &String| tag.rsplit(':').next().and_then(|number| number.parse::<u64>().ok());
        tags.sort_unstable_by_key(|tag| std::cmp::Reverse(number(tag)));
        tags.dedup();
        Ok(tags)
    }

    /// Puts messages back where they came from, each in one step, if they are still there. What is
    /// refused of one keeps none of the others.
    async fn put_back(&self, tags: &[String], rescued: Option<&str>, crashes_after: impl Fn(&[u8], &str) -> u32) -> Result<Back, Fail> {
        let (unacked, index) = (self.layout.unacked(), self.layout.unacked_index());
        let mut back = Back::default();
        for some in tags.chunks(100) {
            let mut args: Vec<&[u8]> = vec![b"HMGET", unacked.as_bytes()];
            args.extend(some.iter().map(String::as_bytes));
            let found = self.link.one(&args, Wait::Forever).await?.into_list();
            let mut restores = Vec::new();
            for (tag, whole) in some.iter().zip(found) {
                let Some(whole) = whole.into_bytes() else { continue };
                let Some((raw, exchange, routing_key)) = entry(&whole) else { continue };
                let queues = match self.queues_of(&exchange, &routing_key).await {
                    Err(Fail::Refused(why)) => {
                        back.refused = Some(why);
                        continue;
                    }
                    queues => queues?,
                };
                let priority = marks::priority_of(raw);
                let lists: Vec<String> = queues.iter().map(|queue| self.layout.list(queue, priority)).collect();
                let message = marks::mark_redelivered(raw, crashes_after(raw, tag));
                let mut keys: Vec<&[u8]> = vec![unacked.as_bytes(), index.as_bytes(), rescued.unwrap_or(&unacked).as_bytes()];
                keys.extend(lists.iter().map(String::as_bytes));
                let mut call = RedisCall::new(&scripts::RESTORE, &keys);
                call.arg(tag);
                call.arg(message);
                call.number(rescued.is_some().into());
                call.arg(Stub::read(raw).map_or_else(String::new, |stub| self.layout.aside(stub.tag)));
                restores.push(self.link.ask(call.pack(), Wait::Forever));
            }
            // The first one alone: where the server does not know the script, it is brought, and no
            // other one overtakes it meanwhile.
            let mut restores = restores.into_iter();
            let Some(first) = restores.next() else { continue };
            let first = first.await;
            for done in join_all(restores).await.into_iter().chain([first]) {
                match done {
                    Err(Fail::Refused(why)) => back.refused = Some(why),
                    done => back.count += done?.iter().filter_map(Reply::int).sum::<i64>().unsigned_abs(),
                }
            }
        }
        Ok(back)
    }

    /// Returns the queues that an exchange and a routing key mean; at least one.
    async fn queues_of(&self, exchange: &str, routing_key: &str) -> Result<Vec<String>, Fail> {
        let mut queues = match exchange {
            "" => Vec::new(),
            exchange => exchanges::queues_of(self.link, self.layout, exchange, routing_key, Wait::Forever).await?,
        };
        if queues.is_empty() {
            queues.push(routing_key.to_owned());
        }
        Ok(queues)
    }

    /// Puts back what nobody of ours holds, and nobody acknowledged within the visibility timeout:
    /// Celery's, as Celery itself does it. `now` is the server's time.
    pub(super) async fn look_for_the_overdue(&mut self, now: Duration) -> Result<(), Fail> {
        let until = now.as_secs_f64() - self.owner.visibility_timeout.as_secs_f64();
        let until = until.to_string();
        let index = self.layout.unacked_index();
        let args: [&[u8]; 7] = [b"ZRANGEBYSCORE", index.as_bytes(), b"-inf", until.as_bytes(), b"LIMIT", b"0", b"1000"];
        let overdue = self.link.one(&args, Wait::Forever).await?.into_list();
        if overdue.is_empty() {
            return Ok(());
        }
        let alive = self.living().await?;
        let is_held = |tag: &String| tag.rsplit_once(':').is_some_and(|(boot, _)| alive.contains(boot));
        let mut tags: Vec<String> = overdue.iter().filter_map(Reply::text).filter(|tag| !is_held(tag)).collect();
        // The oldest is put back last, so that it is served first.
        tags.reverse();
        let Back { count, refused } = self.put_back(&tags, None, |raw, _| crashes_of(raw)).await?;
        self.say("overdue", refused.as_deref());
        if count > 0 {
            (self.link.notice())(&crate::News::remark(format!(
                "{count} tasks that nobody acknowledged within {:?} were put back",
                self.owner.visibility_timeout
            )));
        }
        Ok(())
    }

    /// Puts back what stands under our name and is not held by us: a server that lost its last
    /// moments has it again.
    pub(super) async fn look_for_strays(&mut self, claims: u64) -> Result<(), Fail> {
        // Only a server that was away can have forgotten something; twice, because what is being
        // claimed now is on its way to us.
        let generations = self.link.generation() + claims;
        if self.seen.0 != generations {
            self.seen = (generations, 0);
            self.strays.clear();
        }
        if self.seen.1 == 3 {
            return Ok(());
        }
        self.seen.1 += 1;
        let mut strays = self.tags_of(&self.owner.boot).await?;
        {
            let held = locked(&self.owner.held);
            let claiming = self.owner.claiming.load(Ordering::Acquire);
            let is_stray = |number: u64| number < claiming && !held.contains(&number);
            strays.retain(|tag| tag.rsplit(':').next().and_then(|number| number.parse().ok()).is_some_and(is_stray));
        }
        let twice: Vec<String> = strays.iter().filter(|tag| self.strays.contains(*tag)).cloned().collect();
        self.strays = strays.into_iter().collect();
        let rescued = self.layout.own(&format!("rescued:{}", self.owner.boot));
        let back = self.put_back(&twice, Some(&rescued), |raw, _| crashes_of(raw)).await?;
        self.say("stray", back.refused.as_deref());
        Ok(())
    }
}
