//! One worker of all looks after the dead: it holds a key that lasts for a round and a half, and
//! renews it in each. The others look now and then whether somebody does. A worker that is alone
//! has nobody to look after, and looks whether it still is.
//!
//! Two who watch at once, or workers of before this key who all do, harm nobody: each message is
//! put back in one step, by one of them.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    fail::Fail,
    layout::Layout,
    lease::LeaseOwner,
    link::{Link, Wait},
    rescue::Rescuer,
    resp::Reply,
};
use crate::lease;

/// Time between two looks for somebody who is missing. Someone has to be missing in two of them: a
/// server that was away lets every sign expire.
const AGAIN: Duration = Duration::from_millis(800);
/// Most by which the server's clock and ours part between two readings.
const DRIFT: Duration = Duration::from_secs(1);
/// Number of rounds between two looks at the list of owners: a worker that has just come lives for
/// a lease without being looked at.
const LISTED: u32 = 3;
/// Time between two looks for what stands under our name.
const SWEEP: Duration = Duration::from_secs(10);
/// Time between two readings of the server's clock, and between two looks for what nobody of ours
/// holds.
const CLOCK: Duration = Duration::from_secs(30);

/// Returns the time between two rounds of whoever watches so many. A sign that is not given any
/// more is missed in the first look after a lease, and in the one after that.
fn round(lease: Duration, others: usize) -> Duration {
    let round = lease.mul_f64(0.4).clamp(Duration::from_millis(400), Duration::from_secs(2));
    // Of two nobody is left who would have to find out that the watcher has died, too.
    if others == 1 { round.mul_f64(1.5) } else { round }
}

/// Returns how long the key of a watcher lasts that has these rounds.
fn lasts(round: Duration) -> Duration {
    round.mul_f64(1.5)
}

/// Returns the longest time between two looks whether somebody watches.
fn longest(round: Duration) -> Duration {
    round.mul_f64(1.65).min(Duration::from_millis(3300))
}

/// Returns the longest time that passes between two looks while nothing stands still. After more,
/// signs have expired whose givers live: until these have been able to give them again, nobody is
/// dead.
fn most_gap(rest: Duration) -> Duration {
    rest.mul_f64(1.2) + Duration::from_secs(1)
}

/// Looks after the dead, or whether somebody does, until it is aborted.
pub(super) async fn run(link: Arc<Link>, claims: Arc<Link>, owner: LeaseOwner) {
    let mut watch = WatchRound::new(&link, &owner);
    let mut swept: Option<Instant> = None;
    loop {
        let looked = async {
            if swept.is_none_or(|at| at.elapsed() > SWEEP) {
                swept = Some(Instant::now());
                watch.rescuer.look_for_strays(claims.generation()).await?;
            }
            watch.look().await
        };
        let rest = match looked.await {
            Ok(rest) => rest,
            Err(fail @ Fail::Refused(_)) => {
                watch.take(WatcherPost::Beside);
                (link.notice())(&crate::News::remark(format!("cannot look after dead workers: {}", fail.text())));
                Duration::from_secs(10)
            }
            Err(_) => AGAIN,
        };
        // Looked first, then waited: where workers do not live long, the next one needs but one
        // more look.
        sleep(rest).await;
    }
}

/// Part that a worker takes in looking after the others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WatcherPost {
    /// There are none, as far as it knows.
    Alone,
    /// Somebody else looks after them.
    Beside,
    /// It looks after them.
    Watching,
}

struct WatchRound<'a> {
    link: &'a Link,
    layout: &'a Layout,
    owner: &'a LeaseOwner,
    rescuer: Rescuer<'a>,
    post: WatcherPost,
    /// All owners but ourselves, and how many rounds ago they were listed.
    others: Vec<String>,
    listed: u32,
    /// Owners that were missing in the look before.
    missing: HashSet<String>,
    /// Time of the last look.
    looked: Option<Instant>,
    /// Last reading of the server's clock, and when it was read.
    clock: Option<(Duration, Instant)>,
    /// Time until which no missing sign is believed.
    doubtful: Option<Instant>,
}

/// Tells whether signs have lost no more of their time on the server's clock than has passed here:
/// one that was set back lets them live longer.
fn agree(before: (Duration, Instant), now: (Duration, Instant)) -> bool {
    now.0.saturating_sub(before.0) < now.1.saturating_duration_since(before.1) + DRIFT
}

impl<'a> WatchRound<'a> {
    fn new(link: &'a Link, owner: &'a LeaseOwner) -> Self {
        Self {
            link,
            layout: &owner.layout,
            owner,
            rescuer: Rescuer::new(link, owner),
            post: WatcherPost::Alone,
            others: Vec::new(),
            listed: 0,
            missing: HashSet::new(),
            looked: None,
            clock: None,
            doubtful: None,
        }
    }

    fn key(&self) -> String {
        self.layout.own("watcher")
    }

    fn take(&mut self, post: WatcherPost) {
        self.post = post;
        self.missing.clear();
        self.owner.watches.store(post != WatcherPost::Beside, Ordering::Relaxed);
        self.owner.alone.store(post == WatcherPost::Alone, Ordering::Relaxed);
    }

    /// Believes no missing sign for a lease: whoever was cut off may have given one that expired
    /// too soon, and counts on it.
    fn doubt(&mut self) {
        self.doubtful = Some(Instant::now() + self.owner.lease + Duration::from_secs(1));
        self.missing.clear();
    }

    /// Looks once, and returns how long to wait until the next look.
    async fn look(&mut self) -> Result<Duration, Fail> {
        let round = round(self.owner.lease, self.others.len());
        if self.clock.is_none_or(|(_, at)| at.elapsed() > CLOCK) {
            let now = self.clock_agrees().await?.0;
            if self.post != WatcherPost::Beside {
                self.rescuer.look_for_the_overdue(now).await?;
            }
        }
        match self.post {
            WatcherPost::Alone => {
                self.list().await?;
                if self.others.is_empty() {
                    self.take(WatcherPost::Alone);
                    return Ok(round * LISTED);
                }
                self.take(WatcherPost::Beside);
                self.looked = None;
                Ok(Duration::ZERO)
            }
            WatcherPost::Beside => {
                let most = most_gap(round * 2);
                let holder = self.link.one(&[b"GET", self.key().as_bytes()], Wait::Forever).await?.text();
                let is_steady = self.looked.replace(Instant::now()).is_none_or(|before| before.elapsed() < most);
                if holder.is_some_and(|holder| holder != self.owner.boot) || !self.stand(round).await? {
                    // Each at a time of its own, so that the first to miss the watcher is soon.
                    return Ok(longest(round).mul_f64(0.8 + 0.2 * fastrand::f64()));
                }
                self.take(WatcherPost::Watching);
                if !is_steady || !self.clock_agrees().await?.1 {
                    self.doubt();
                }
                self.list().await?;
                self.looked = Some(Instant::now());
                Ok(Duration::ZERO)
            }
            WatcherPost::Watching => self.look_at_the_others(round).await,
        }
    }

    async fn look_at_the_others(&mut self, round: Duration) -> Result<Duration, Fail> {
        if self.listed >= LISTED {
            self.list().await?;
        }
        if self.others.is_empty() {
            self.take(WatcherPost::Alone);
            return Ok(round * LISTED);
        }
        let keys: Vec<String> = self.others.iter().map(|boot| self.layout.own(&format!("owner:{boot}"))).collect();
        let own = self.key();
        let mut args: Vec<&[u8]> = vec![b"MGET", own.as_bytes()];
        args.extend(keys.iter().map(String::as_bytes));
        let mut signs = self.link.one(&args, Wait::Forever).await?.into_list().into_iter();
        let is_steady = self.looked.replace(Instant::now()).is_none_or(|before| before.elapsed() < most_gap(round));
        if !self.still_stands(signs.next().and_then(|holder| holder.text()), round).await? {
            self.take(WatcherPost::Beside);
            return Ok(round);
        }
        self.listed += 1;
        // A server that has not taken our sign for so long (it is full, or a replica now) has taken
        // none of others.
        if !is_steady || self.owner.renewal.is_late(lease::clock()) {
            self.doubt();
        }
        if self.doubtful.is_some_and(|until| Instant::now() < until) {
            return Ok(round.min(AGAIN));
        }
        let missing: HashSet<String> =
            self.others.iter().zip(signs).filter(|(_, sign)| *sign == Reply::Nil).map(|(boot, _)| boot.clone()).collect();
        let dead: Vec<String> = missing.intersection(&self.missing).cloned().collect();
        self.missing = missing;
        if !dead.is_empty() && self.server_is_no_newcomer().await? {
            for boot in dead {
                self.rescuer.rescue(&boot).await?;
                self.missing.remove(&boot);
                self.others.retain(|other| *other != boot);
            }
            self.looked = Some(Instant::now());
        }
        Ok(if self.missing.is_empty() { round } else { AGAIN.min(round) })
    }

    /// Returns whether we still hold the key, and renews it. Where it was lost and nobody else has
    /// it, the server's clock is looked at before it is taken again.
    async fn still_stands(&mut self, holder: Option<String>, round: Duration) -> Result<bool, Fail> {
        match holder {
            Some(holder) if holder == self.owner.boot => {
                let most = lasts(round).as_millis().to_string();
                self.link.one(&[b"PEXPIRE", self.key().as_bytes(), most.as_bytes()], Wait::Forever).await?;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => {
                if !self.clock_agrees().await?.1 {
                    self.doubt();
                }
                self.stand(round).await
            }
        }
    }

    /// Takes the key, if nobody has it.
    async fn stand(&self, round: Duration) -> Result<bool, Fail> {
        let (key, most) = (self.key(), lasts(round).as_millis().to_string());
        let args: [&[u8]; 6] = [b"SET", key.as_bytes(), self.owner.boot.as_bytes(), b"NX", b"PX", most.as_bytes()];
        Ok(self.link.one(&args, Wait::Forever).await? != Reply::Nil)
    }

    async fn list(&mut self) -> Result<(), Fail> {
        let owners = self.link.one(&[b"SMEMBERS", self.layout.own("owners").as_bytes()], Wait::Forever).await?.into_list();
        self.others = owners.iter().filter_map(Reply::text).filter(|boot| *boot != self.owner.boot).collect();
        self.listed = 0;
        Ok(())
    }

    /// Returns the server's time, and whether it has gone as ours has since it was read last.
    async fn clock_agrees(&mut self) -> Result<(Duration, bool), Fail> {
        let time = self.link.one(&[b"TIME"], Wait::Forever).await?.into_list();
        let part = |place: usize| time.get(place).and_then(Reply::int).unwrap_or(0).unsigned_abs();
        let now = (Duration::from_secs(part(0)) + Duration::from_micros(part(1)), Instant::now());
        let agrees = self.clock.replace(now).is_none_or(|before| agree(before, now));
        Ok((now.0, agrees))
    }

    /// Returns false for a server that was just started: it may have let signs expire whose givers
    /// live, and may have forgotten that it took them.
    async fn server_is_no_newcomer(&self) -> Result<bool, Fail> {
        let facts = self.link.one(&[b"INFO", b"server"], Wait::Forever).await?.text().unwrap_or_default();
        Ok(knows_the_dead(&facts, self.owner.lease))
    }
}

/// Returns whether a server has been there for a whole lease, by what it says of itself, which may
/// be a second too much. Its last second may be lost, and with it a sign that it took: whoever gave
/// that one, and was cut off then, counts on it until its lease is over.
fn knows_the_dead(facts: &str, lease: Duration) -> bool {
    let uptime = facts.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")?.trim().parse().ok());
    Duration::from_secs(uptime.unwrap_or(0)) >= lease + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_forward_is_not_believed_and_one_that_was_set_back_harms_nobody() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let at = |there: u64, here: u64| (ms(1_000_000 + there), start + ms(here));
        for (there, here, expected) in [
            (800, 800, true),
            (30_000, 30_000, true),
            // The server's clock was set back.
            (0, 800, true),
            // It was set forward.
            (60_000, 800, false),
            (32_000, 30_000, false),
            // Both stood still: that is told by our own looks.
            (8000, 8000, true),
        ] {
            assert_eq!(agree(at(0, 0), at(there, here)), expected, "{there} {here}");
        }
    }

    #[test]
    fn a_server_that_was_started_again_calls_nobody_dead_while_a_lease_may_last_that_it_forgot() {
        let (quick, usual, long) = (Duration::from_millis(500), Duration::from_secs(5), Duration::from_secs(600));
        for (facts, lease, knows) in [
            ("uptime_in_seconds:1\r\n", quick, false),
            ("uptime_in_seconds:2\r\n", quick, true),
            ("redis_version:7.0.15\r\nuptime_in_seconds:5\r\n", usual, false),
            ("redis_version:7.0.15\r\nuptime_in_seconds:6\r\nhz:10\r\n", usual, true),
            ("uptime_in_seconds:600\r\n", long, false),
            ("uptime_in_seconds:601\r\n", long, true),
            ("redis_version:7.0.15\r\n", usual, false),
        ] {
            assert_eq!(knows_the_dead(facts, lease), knows, "{facts:?} {lease:?}");
        }
    }

    #[test]
    fn the_dead_are_found_within_ten_seconds_and_within_fifteen_when_their_watcher_dies_too() {
        let lease = Duration::from_secs(5);
        for others in [1, 2, 1000] {
            let round = round(lease, others);
            let found = lease + round + AGAIN;
            assert!(found < Duration::from_secs(10), "{others}: {found:?}");
            let watchers = lease.max(lasts(round) + longest(round)) + AGAIN;
            assert!(watchers < Duration::from_secs(10), "{others}, the watcher itself: {watchers:?}");
            let both = found + lasts(round) + longest(round) + AGAIN;
            assert!(others == 1 || both < Duration::from_secs(15), "{others}: {both:?}");
        }
    }
}
