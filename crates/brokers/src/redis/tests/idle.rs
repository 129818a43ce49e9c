//! Cost of workers that have nothing to do, and the number of them that a message wakes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use longshore_testkit::servers::Redis;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::kit::{id, message};
use crate::{
    broker::{Broker, Consumer, OpenOptions},
    redis::broker,
};

const SOON: Duration = Duration::from_secs(2);

/// Returns how often each command was called, those inside of scripts included; not counting what
/// asks for it.
fn calls(server: &Redis) -> HashMap<String, u64> {
    let text = server.command(&["INFO", "commandstats"]);
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).filter(|(name, _)| name != "info").collect()
}

/// Waits until the server has nothing more to do than in rest.
async fn settled(server: &Redis) {
    let total = || calls(server).values().sum::<u64>();
    let (mut before, begun) = (total(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = total();
        if now - before < 10 || begun.elapsed() > 5 * SOON {
            return;
        }
        before = now;
    }
}

/// Workers of one slot: each takes one message at a time, says so, and asks for the next when it is
/// let.
struct Fleet {
    /// Kept for as long as they live.
    #[expect(dead_code, reason = "held, not read")]
    brokers: Vec<Arc<dyn Broker>>,
    tasks: Vec<JoinHandle<()>>,
    taken: mpsc::UnboundedReceiver<(usize, String)>,
}

async fn fleet(server: &Redis, count: usize, queues: usize, rests: Duration) -> Fleet {
    let (sender, taken) = mpsc::unbounded_channel();
    let queues: Vec<Arc<str>> = std::iter::once("q".into()).chain((1..queues).map(|number| format!("q{number}").into())).collect();
    let (mut brokers, mut tasks) = (Vec::new(), Vec::new());
    for number in 0..count {
        let ours = broker(&server.url()).unwrap();
        let options = OpenOptions {
            queues: queues.clone(),
            lease: Duration::from_secs(5),
            visibility_timeout: Duration::from_secs(3600),
            node: format!("w{number}@here"),
            early: false,
            order: crate::QueueOrder::InTurn,
            takes_delayed: false,
        };
        let consumer: Arc<dyn Consumer> = ours.open(options).await.unwrap();
        let sender = sender.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let mut claimed = Vec::new();
                consumer.claim(1, &mut claimed).await.unwrap();
                for claimed in &claimed {
                    let _ = sender.send((number, id(claimed)));
                }
                tokio::time::sleep(rests).await;
            }
        }));
        brokers.push(ours);
    }
    settled(server).await;
    Fleet { brokers, tasks, taken }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_sends_at_most_two_commands_a_second_however_many_there_are_and_queues_they_serve() {
    const TIME: Duration = Duration::from_secs(7);
    /// A worker's heartbeat, which this one has not.
    const HEARTBEAT: f64 = 0.5;
    join_all([(1, 1), (2, 1), (9, 1), (1, 50), (9, 50)].map(|(count, queues)| async move {
        let Some(server) = Redis::start(&[]) else { return };
        let _fleet = fleet(&server, count, queues, Duration::ZERO).await;
        let (before, begun) = (calls(&server), Instant::now());
        tokio::time::sleep(TIME).await;
        let after = calls(&server);
        let rate = |name: &String| (after[name] - before.get(name).unwrap_or(&0)) as f64 / begun.elapsed().as_secs_f64() / count as f64;
        let rates: Vec<(f64, &String)> = after.keys().map(|name| (rate(name), name)).filter(|(rate, _)| *rate > 0.0).collect();
        let sum: f64 = rates.iter().map(|(rate, _)| rate).sum();
        // What comes every six seconds may come twice in seven.
        let twice = 2.0 / TIME.as_secs_f64();
        assert!(sum <= 2.0 - HEARTBEAT + twice, "{count} workers, {queues} queues: {sum:.2}: {rates:?}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_wakes_four_of_twelve_who_wait_for_it_and_the_next_in_line() {
    const MESSAGES: u64 = 20;
    let Some(server) = Redis::start(&[]) else { return };
    let mut fleet = fleet(&server, 12, 1, Duration::from_millis(30)).await;
    let ours = broker(&server.url()).unwrap();
    let before = calls(&server);
    for number in 0..MESSAGES {
        ours.publish(&[message(&number.to_string())]).await.unwrap();
        let (_, id) = timeout(SOON, fleet.taken.recv()).await.unwrap().unwrap();
        assert_eq!(id, number.to_string());
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    let after = calls(&server);
    // Whoever is woken looks into the list that has changed; who was taken from the line asks
    // whether there is anything; who comes back looks into all four.
    let looks = (after["lrange"] - before.get("lrange").unwrap_or(&0)) as f64 / MESSAGES as f64;
    assert!(looks <= 4.0 + 4.0 + 1.0, "{looks} looks into lists a message");
    let all: u64 = after.iter().map(|(name, calls)| calls - before.get(name).unwrap_or(&0)).sum();
    let each = all as f64 / MESSAGES as f64;
    assert!(each < 80.0, "{each} commands a message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_gets_the_next_message_at_once_when_all_that_listened_are_busy() {
    let Some(server) = Redis::start(&[]) else { return };
    let hour = Duration::from_secs(3600);
    for together in [false, true] {
        let mut fleet = fleet(&server, 12, 1, hour).await;
        let ours = broker(&server.url()).unwrap();
        let begun = Instant::now();
        let mut takers = Vec::new();
        if together {
            ours.publish(&(0..12).map(|number| message(&number.to_string())).collect::<Vec<_>>()).await.unwrap();
        }
        for number in 0..12 {
            if !together {
                ours.publish(&[message(&number.to_string())]).await.unwrap();
            }
            let (taker, _) = timeout(SOON, fleet.taken.recv()).await.unwrap_or_else(|_| panic!("{together}: {number}")).unwrap();
            takers.push(taker);
        }
        assert!(begun.elapsed() < 2 * SOON, "{together}: {:?}", begun.elapsed());
        takers.sort_unstable();
        assert_eq!(takers, (0..12).collect::<Vec<_>>());
        drop(fleet);
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_found_within_seconds_when_all_who_listened_have_died_at_once() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut fleet = fleet(&server, 6, 1, Duration::from_secs(3600)).await;
    // Those that came first listen.
    fleet.tasks.drain(..4).for_each(|task| task.abort());
    let ours = broker(&server.url()).unwrap();
    ours.publish(&[message("a")]).await.unwrap();
    let (taker, _) = timeout(Duration::from_secs(10), fleet.taken.recv()).await.unwrap().unwrap();
    assert!(taker >= 4, "{taker}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_who_listened_have_died_only_the_first_message_waits_for_those_in_line_to_look() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut fleet = fleet(&server, 5, 1, Duration::ZERO).await;
    fleet.tasks.drain(..4).for_each(|task| task.abort());
    // Their signs of life end.
    let begun = Instant::now();
    while server.command(&["KEYS", "longshore:owner:*"]).lines().next() != Some("*1") {
        assert!(begun.elapsed() < 10 * SOON, "{}", server.command(&["KEYS", "longshore:owner:*"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ours = broker(&server.url()).unwrap();
    ours.publish(&[message("a")]).await.unwrap();
    let (taker, _) = timeout(5 * SOON, fleet.taken.recv()).await.unwrap().unwrap();
    assert_eq!(taker, 4);
    settled(&server).await;
    for number in 0..3 {
        ours.publish(&[message(&number.to_string())]).await.unwrap();
        let (_, found) = timeout(SOON, fleet.taken.recv()).await.unwrap_or_else(|_| panic!("message {number}")).unwrap();
        assert_eq!(found, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_claim_is_put_aside_gives_its_place_away() {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&server.url()).unwrap();
    let aside = super::kit::open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    let mut claimed = Vec::new();
    let mut claim = aside.claim(1, &mut claimed);
    assert!(timeout(SOON, &mut claim).await.is_err(), "there is nothing to claim");
    let listeners = || {
        let keys = server.command(&["KEYS", "longshore:listeners:*"]);
        let key = keys.lines().find(|line| line.starts_with("longshore:")).unwrap().to_owned();
        server.command(&["SMEMBERS", &key])
    };
    let first = listeners();
    assert!(first.starts_with("*1"), "{first}");
    let boot = first.lines().nth(2).unwrap();
    let _fleet = fleet(&server, 5, 1, Duration::ZERO).await;
    let begun = Instant::now();
    while listeners().contains(boot) {
        assert!(begun.elapsed() < 5 * SOON, "{}", listeners());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(listeners().starts_with("*4"), "another one listens in its place");
}
