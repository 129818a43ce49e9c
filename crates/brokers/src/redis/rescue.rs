//! What the dead have left: found by their missing sign of life, put back message by message. Nobody has to hold a mutex for it.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::try_join_all;
use longshore_celery::crashes_of;
use tokio::time::sleep;

use super::{
    fail::Fail,
    layout::{Layout, bound, entry, matches},
    lease::Owner,
    link::{Link, Wait, locked},
    marks,
    resp::{Call, Pack, Reply},
    scripts,
};
use crate::crash::after_crash;

/// Between two rounds, with jitter. Someone has to be missing in two of them: a server that was away lets every sign expire.
const ROUND: Duration = Duration::from_millis(800);
/// So many rounds between two looks for what nobody of ours holds.
const SWEEP: u32 = 12;
/// Between two looks no more time passes, here or on the server's clock; or something stood still, or that clock was set, and signs have expired whose givers
/// live. Until these have been able to give them again, nobody is dead.
const MOST_GAP: Duration = Duration::from_secs(3);

/// Looks after the dead, until it is aborted.
pub(super) async fn run(link: Arc<Link>, claims: Arc<Link>, owner: Owner) {
    let mut rescuer = Rescuer::new(&link, &owner);
    for round in 1.. {
        let looked = async {
            if rescuer.signs_can_be_trusted().await? {
                rescuer.look_for_the_dead().await?;
                if round % SWEEP == 1 {
                    rescuer.look_for_the_overdue().await?;
                }
            }
            if round % SWEEP == 1 {
                rescuer.look_for_strays(claims.generation()).await?;
            }
            Ok::<_, Fail>(())
        };
        if let Err(fail @ Fail::Refused(_)) = looked.await {
            (link.notice())(&format!("cannot look after dead workers: {}", fail.text()));
            sleep(Duration::from_secs(10)).await;
        }
        // Looked first, then waited: where workers do not live long, the next one needs but one more look.
        sleep(ROUND.mul_f64(0.85 + 0.3 * fastrand::f64())).await;
    }
}

/// Hands back what this owner holds, to the front of its queues.
pub(super) async fn give_back(link: &Link, owner: &Owner) -> Result<(), Fail> {
    let rescuer = Rescuer::new(link, owner);
    let tags = rescuer.tags_of(&owner.boot).await?;
    rescuer.put_back(&tags, None, |raw, _| crashes_of(raw)).await?;
    locked(&owner.held).clear();
    Ok(())
}

struct Rescuer<'a> {
    link: &'a Link,
    layout: &'a Layout,
    owner: &'a Owner,
    /// Who was missing in the round before.
    missing: HashSet<String>,
    /// What stood under our name in the sweep before, without being held by us.
    strays: HashSet<String>,
    /// Which connections were there when strays were looked for, and how often they were since it is.
    seen: (u64, u32),
    /// When the last look was, on the server's clock and on ours.
    looked: Option<(Duration, Instant)>,
    /// Until then no missing sign is believed.
    doubtful: Option<Instant>,
}

/// Whether no more time has passed than there should between two looks, each on the server's clock and on ours.
fn steady(before: (Duration, Instant), now: (Duration, Instant)) -> bool {
    now.1.saturating_duration_since(before.1) < MOST_GAP && now.0.saturating_sub(before.0) < MOST_GAP
}

impl<'a> Rescuer<'a> {
    fn new(link: &'a Link, owner: &'a Owner) -> Self {
        Self {
            link,
            layout: &owner.layout,
            owner,
            missing: HashSet::new(),
            strays: HashSet::new(),
            seen: (0, 0),
            looked: None,
            doubtful: None,
        }
    }

    async fn look_for_the_dead(&mut self) -> Result<(), Fail> {
        let now_missing = self.owners(false).await?;
        let dead: Vec<String> = now_missing.iter().filter(|boot| self.missing.contains(*boot)).cloned().collect();
        self.missing = now_missing;
        if dead.is_empty() || !self.server_is_no_newcomer().await? {
            return Ok(());
        }
        for boot in dead {
            self.rescue(&boot).await?;
            self.missing.remove(&boot);
        }
        Ok(())
    }

    /// Those of the owners whose sign stands, or those whose does not.
    async fn owners(&self, alive: bool) -> Result<HashSet<String>, Fail> {
        let owners = self.link.one(&[b"SMEMBERS", self.layout.own("owners").as_bytes()], Wait::Forever).await?.into_list();
        let owners: Vec<String> = owners.iter().filter_map(Reply::text).collect();
        if owners.is_empty() {
            return Ok(HashSet::new());
        }
        let keys: Vec<String> = owners.iter().map(|boot| self.layout.own(&format!("owner:{boot}"))).collect();
        let mut args: Vec<&[u8]> = vec![b"MGET"];
        args.extend(keys.iter().map(String::as_bytes));
        let signs = self.link.one(&args, Wait::Forever).await?.into_list();
        let picked = owners.into_iter().zip(signs).filter(|(_, sign)| (*sign != Reply::Nil) == alive);
        Ok(picked.map(|(boot, _)| boot).collect())
    }

    async fn server_time(&self) -> Result<Duration, Fail> {
        let time = self.link.one(&[b"TIME"], Wait::Forever).await?.into_list();
        let part = |place: usize| time.get(place).and_then(Reply::int).unwrap_or(0).unsigned_abs();
        Ok(Duration::from_secs(part(0)) + Duration::from_micros(part(1)))
    }

    /// A server that stood still, or whose clock was set, lets signs expire whose givers live; nobody can see it who stood still himself.
    async fn signs_can_be_trusted(&mut self) -> Result<bool, Fail> {
        let now = (self.server_time().await?, Instant::now());
        let before = self.looked.replace(now);
        if before.is_some_and(|before| !steady(before, now)) {
            self.doubtful = Some(now.1 + self.owner.lease / 2 + Duration::from_secs(1));
            self.missing.clear();
        }
        Ok(self.doubtful.is_none_or(|until| now.1 >= until))
    }

    /// A server that was just started may have let signs expire whose givers live.
    async fn server_is_no_newcomer(&self) -> Result<bool, Fail> {
        let facts = self.link.one(&[b"INFO", b"server"], Wait::Forever).await?.text().unwrap_or_default();
        let uptime = facts.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")?.trim().parse().ok());
        Ok(Duration::from_secs(uptime.unwrap_or(0)) > self.owner.lease.min(Duration::from_secs(30)) / 2)
    }

    async fn rescue(&self, boot: &str) -> Result<(), Fail> {
        let key = |name: &str| self.layout.own(&format!("{name}:{boot}"));
        let accused = self.link.one(&[b"GET", key("accused").as_bytes()], Wait::Forever).await?.text();
        let tags = self.tags_of(boot).await?;
        let accused: Vec<String> = accused.iter().flat_map(|numbers| numbers.split(' ')).map(|number| format!("{boot}:{number}")).collect();
        let now = SystemTime::now();
        let fate =
            |raw: &[u8], tag: &str| after_crash(crashes_of(raw), accused.iter().any(|accused| accused == tag), marks::lies_ahead(raw, now));
        let count = self.put_back(&tags, Some(&key("rescued")), fate).await?;
        let mut pack = Pack::of(&[b"DEL", key("accused").as_bytes(), key("kept").as_bytes()]);
        pack.add(&[b"SREM", self.layout.own("owners").as_bytes(), boot.as_bytes()]);
        self.link.ask(pack, Wait::Forever).await?;
        if count > 0 {
            (self.link.notice())(&format!("redis at {}: {count} tasks of a dead worker were put back", self.link.config().place()));
        }
        Ok(())
    }

    /// Every tag of an owner's, the latest first.
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

    /// Puts messages back where they came from, each in one step, if they are still there. How many were.
    async fn put_back(&self, tags: &[String], rescued: Option<&str>, crashes_after: impl Fn(&[u8], &str) -> u32) -> Result<u64, Fail> {
        let (unacked, index) = (self.layout.unacked(), self.layout.unacked_index());
        let mut count = 0;
        for some in tags.chunks(100) {
            let mut args: Vec<&[u8]> = vec![b"HMGET", unacked.as_bytes()];
            args.extend(some.iter().map(String::as_bytes));
            let found = self.link.one(&args, Wait::Forever).await?.into_list();
            let mut restores = Vec::new();
            for (tag, whole) in some.iter().zip(found) {
                let Some(whole) = whole.into_bytes() else { continue };
                let Some((raw, exchange, routing_key)) = entry(&whole) else { continue };
                let queues = self.queues_of(&exchange, &routing_key).await?;
                let priority = marks::priority_of(raw);
                let lists: Vec<String> = queues.iter().map(|queue| self.layout.list(queue, priority)).collect();
                let message = marks::mark_redelivered(raw, crashes_after(raw, tag));
                let mut keys: Vec<&[u8]> = vec![unacked.as_bytes(), index.as_bytes(), rescued.unwrap_or(&unacked).as_bytes()];
                keys.extend(lists.iter().map(String::as_bytes));
                let mut call = Call::new(&scripts::RESTORE, &keys);
                call.arg(tag);
                call.arg(message);
                call.number(rescued.is_some().into());
                restores.push(self.link.ask(call.pack(), Wait::Forever));
            }
            // The first one alone: where the server does not know the script, it is brought, and no other one overtakes it meanwhile.
            let mut restores = restores.into_iter();
            let Some(first) = restores.next() else { continue };
            let first = first.await?;
            let done = try_join_all(restores).await?;
            count += done.iter().chain([&first]).flatten().filter_map(Reply::int).sum::<i64>().unsigned_abs();
        }
        Ok(count)
    }

    /// The queues that an exchange and a routing key mean; at least one.
    async fn queues_of(&self, exchange: &str, routing_key: &str) -> Result<Vec<String>, Fail> {
        let mut queues = Vec::new();
        if !exchange.is_empty() {
            let members = self.link.one(&[b"SMEMBERS", self.layout.binding(exchange).as_bytes()], Wait::Forever).await?.into_list();
            for member in members.iter().filter_map(Reply::text) {
                if let Some((key, pattern, queue)) = bound(&member)
                    && matches(routing_key, key, pattern)
                {
                    queues.push(queue.to_owned());
                }
            }
        }
        if queues.is_empty() {
            queues.push(routing_key.to_owned());
        }
        Ok(queues)
    }

    /// What nobody of ours holds, and nobody acknowledged within the visibility timeout: Celery's, as Celery itself does it.
    async fn look_for_the_overdue(&self) -> Result<(), Fail> {
        let until = self.server_time().await?.as_secs_f64() - self.owner.visibility_timeout.as_secs_f64();
        let until = until.to_string();
        let index = self.layout.unacked_index();
        let args: [&[u8]; 7] = [b"ZRANGEBYSCORE", index.as_bytes(), b"-inf", until.as_bytes(), b"LIMIT", b"0", b"1000"];
        let overdue = self.link.one(&args, Wait::Forever).await?.into_list();
        if overdue.is_empty() {
            return Ok(());
        }
        let alive = self.owners(true).await?;
        let is_held = |tag: &String| tag.rsplit_once(':').is_some_and(|(boot, _)| alive.contains(boot));
        let mut tags: Vec<String> = overdue.iter().filter_map(Reply::text).filter(|tag| !is_held(tag)).collect();
        // The oldest is put back last, so that it is served first.
        tags.reverse();
        let count = self.put_back(&tags, None, |raw, _| crashes_of(raw)).await?;
        if count > 0 {
            (self.link.notice())(&format!(
                "{count} tasks that nobody acknowledged within {:?} were put back",
                self.owner.visibility_timeout
            ));
        }
        Ok(())
    }

    /// What stands under our name and is not held by us: a server that lost its last moments has it again.
    async fn look_for_strays(&mut self, claims: u64) -> Result<(), Fail> {
        // Only a server that was away can have forgotten something; twice, because what is being claimed now is on its way to us.
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
        self.put_back(&twice, Some(&rescued), |raw, _| crashes_of(raw)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stood_still_or_was_told_another_time_believes_no_missing_sign() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let at = |there: u64, here: u64| (ms(1_000_000 + there), start + ms(here));
        for (there, here, expected) in [
            (800, 800, true),
            (2000, 2000, true),
            // The server's clock was set back: signs live longer, and none is missing for that.
            (0, 800, true),
            // It was set forward.
            (60_000, 800, false),
            // The server or we stood still.
            (8000, 8000, false),
            (800, 8000, false),
        ] {
            assert_eq!(steady(at(0, 0), at(there, here)), expected, "{there} {here}");
        }
    }
}
