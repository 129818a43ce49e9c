//! The sign of life: a thread with a connection of its own, so that nothing that blocks the runtime
//! makes a living worker look dead.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    connection::Connection,
    fail::Fail,
    layout::Layout,
    link::{locked, pause},
    resp::{Pack, RedisCall, Reply},
    scripts,
    url::Config,
};
use crate::lease::{self, Lease};

/// Time after which an owner says again that it is one, whatever happens: somebody may have emptied
/// the database.
const ENLISTED: Duration = Duration::from_secs(60);

/// The numbers of what a consumer holds.
pub(super) type Held = Arc<Mutex<BTreeSet<u64>>>;

/// Owner that gives the sign, and the messages for which it does.
#[derive(Clone)]
pub(super) struct LeaseOwner {
    pub(super) config: Arc<Config>,
    pub(super) layout: Layout,
    /// Our name among the owners; tags are this, a colon and a number.
    pub(super) boot: String,
    /// For people.
    pub(super) node: String,
    pub(super) lease: Duration,
    /// Lease, which says when it was last renewed.
    pub(super) renewal: Arc<Lease>,
    pub(super) visibility_timeout: Duration,
    pub(super) held: Held,
    /// The number of the first message of the latest claim: what has this number or a later one may
    /// still be on its way to us.
    pub(super) claiming: Arc<AtomicU64>,
    /// True while we look after the others, or there are none.
    pub(super) watches: Arc<AtomicBool>,
    /// True while there are none, as far as we know.
    pub(super) alone: Arc<AtomicBool>,
}

impl LeaseOwner {
    /// Returns the time between two signs.
    fn period(&self) -> Duration {
        self.lease / 3
    }

    /// Returns the sign, and new scores for what is held and whose turn it is. `enlists`: says that
    /// we are one of the owners, which nobody forgets between two signs.
    pub(super) fn sign(&self, cursor: &mut u64, enlists: bool) -> Pack {
        let share = share(locked(&self.held).len(), self.period(), self.visibility_timeout / 3);
        let keys = [self.layout.own(&format!("owner:{}", self.boot)), self.layout.own("owners"), self.layout.unacked_index()];
        let lease = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX).max(1);
        let turn = turn(&locked(&self.held), cursor, share);
        if turn.is_empty() && !enlists {
            // One command: most workers of a large fleet hold nothing most of the time.
            return Pack::of(&[b"SET", keys[0].as_bytes(), self.node.as_bytes(), b"PX", lease.to_string().as_bytes()]);
        }
        let mut call = RedisCall::new(&scripts::BEAT, &keys.each_ref().map(|key| key.as_bytes()));
        call.arg(&self.boot);
        call.arg(&self.node);
        call.number(lease);
        for number in turn {
            call.arg(format!("{}:{number}", self.boot));
        }
        call.pack()
    }
}

/// Returns how many are renewed in one beat, so that each has its turn within this time.
fn share(held: usize, period: Duration, within: Duration) -> usize {
    let beats = (within.as_secs_f64() / period.as_secs_f64().max(1e-3)).floor().max(1.0);
    // What a script can take at once.
    ((held as f64 / beats).ceil() as usize).min(3000)
}

/// Returns the next ones after the cursor, round and round.
fn turn(held: &BTreeSet<u64>, cursor: &mut u64, count: usize) -> Vec<u64> {
    let after = held.range((Bound::Excluded(*cursor), Bound::Unbounded));
    let numbers: Vec<u64> = after.chain(held.range(..=*cursor)).take(count).copied().collect();
    *cursor = numbers.last().copied().unwrap_or(*cursor);
    numbers
}

/// The thread. It ends, and the sign with it, when this is dropped.
pub(super) struct Beat {
    #[expect(dead_code, reason = "dropping it ends the thread")]
    stop: watch::Sender<()>,
}

impl Beat {
    pub(super) fn start(owner: LeaseOwner) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("longshore-beat".into()).spawn(move || runtime.block_on(run(owner, stopped)))?;
        Ok(Self { stop })
    }
}

async fn run(owner: LeaseOwner, mut stopped: watch::Receiver<()>) {
    tokio::select! {
        biased;
        _ = stopped.changed() => {}
        () = beat(&owner) => {}
    }
}

async fn beat(owner: &LeaseOwner) {
    let mut cursor = 0;
    let mut attempt = 0;
    let mut last = Instant::now();
    loop {
        let Ok(mut connection) = Connection::open(&owner.config).await else {
            sleep(pause(attempt)).await;
            attempt += 1;
            continue;
        };
        // It may be another server.
        let mut enlisted: Option<Instant> = None;
        loop {
            let (begun, asked) = (Instant::now(), lease::clock());
            // Whoever was silent for longer than a lease may have been taken for dead, and off the
            // list.
            let enlists = enlisted.is_none_or(|at| at.elapsed() > ENLISTED) || last.elapsed() > owner.lease;
            match timeout(owner.lease.max(Duration::from_secs(1)), give(&mut connection, owner.sign(&mut cursor, enlists))).await {
                Ok(Ok(())) => {
                    attempt = 0;
                    owner.renewal.renewed(asked, lease::clock());
                }
                Ok(Err(_)) | Err(_) => break,
            }
            last = Instant::now();
            if enlists {
                enlisted = Some(last);
            }
            sleep(owner.period().saturating_sub(begun.elapsed())).await;
        }
        sleep(pause(attempt)).await;
        attempt += 1;
    }
}

async fn give(connection: &mut Connection, pack: Pack) -> Result<(), Fail> {
    let lost = |error: std::io::Error| Fail::Unable(error.to_string());
    let mut replies = connection.call(&pack).await.map_err(lost)?;
    if replies[0].error().is_some_and(|error| error.starts_with("NOSCRIPT"))
        && let Some(with) = pack.with_script()
    {
        replies = connection.call(&with).await.map_err(lost)?;
    }
    match replies.iter().find_map(Reply::error) {
        Some(error) => Err(Fail::Unable(error.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_what_is_held_has_its_turn_within_a_third_of_the_visibility_timeout() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(share(50_000, seconds(5.0 / 3.0), seconds(1200.0)), 70);
        assert_eq!(share(1, seconds(1.0), seconds(1200.0)), 1);
        assert_eq!(share(10, seconds(1.0), seconds(0.5)), 10);
        let held: BTreeSet<u64> = (1..=10).collect();
        let mut cursor = 0;
        let turns: Vec<_> = (0..4).map(|_| turn(&held, &mut cursor, 4)).collect();
        assert_eq!(turns, [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10, 1, 2], vec![3, 4, 5, 6]]);
        assert_eq!(turn(&BTreeSet::new(), &mut cursor, 4), Vec::<u64>::new());
    }
}
