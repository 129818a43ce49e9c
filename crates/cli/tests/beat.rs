//! Schedulers on bad days: two of them, each a process of its own, one killed at random again and
//! again. Each due time is sent, and none twice. `LONGSHORE_BEAT_KILLS` sets the number of kills.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use common::{BIN, Place};
use longshore_brokers::{Connected, connect};
use longshore_celery::{Limits, Message};
use longshore_testkit::servers::Redis;
use longshore_worker::{MissedPolicy, Schedule, Signature, Timing};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_millis(100);

/// A scheduler that is killed with its test.
struct Beat(Child);

impl Beat {
    fn start(place: &Place, url: &str, name: &str) -> Self {
        let mut command = Command::new(BIN);
        command.args(["beat", "--broker", url, "-n", name, "--term", "600ms", "-q"]).current_dir(place.dir.path());
        command.env("HOME", place.dir.path()).env("LONGSHORE_CONFIG", "/dev/null");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kills() -> u32 {
    std::env::var("LONGSHORE_BEAT_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(5)
}

async fn fired(connected: &Connected) -> u64 {
    connected.schedules().unwrap().schedules().await.unwrap().rows[0].fired
}

/// Waits until so many more due times were sent.
async fn more(connected: &Connected, count: u64) {
    let (before, begun) = (fired(connected).await, Instant::now());
    while fired(connected).await < before + count {
        assert!(begun.elapsed() < PATIENCE, "nobody sends what is due");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two schedulers, one killed at random and started again, so often.
async fn killed_at_random(place: &Place, url: &str) {
    let connected = connect(url, None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let schedule = Schedule::new("tick", Signature::named("t").queue("ticks"), Timing::every(PERIOD).unwrap()).unwrap();
    let schedule = schedule.missed(MissedPolicy::All(1_000_000));
    store.put("tick", &schedule.encode(), SystemTime::now()).await.unwrap();
    let names = ["one@here", "other@here"];
    let mut beats = names.map(|name| Beat::start(place, url, name));
    more(&connected, 1).await;
    let (mut led, kills) = (0, kills());
    for _ in 0..kills {
        // Anywhere between two due times, and anywhere in a term.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..700_000))).await;
        let which = fastrand::usize(0..2);
        led += u32::from(store.schedules().await.unwrap().leader.as_deref() == Some(names[which]));
        beats[which].kill();
        beats[which] = Beat::start(place, url, names[which]);
    }
    more(&connected, 10).await;
    beats.iter_mut().for_each(Beat::kill);

    let row = store.schedules().await.unwrap().rows.remove(0);
    let due = row.last.unwrap().duration_since(row.since).unwrap().as_millis() / PERIOD.as_millis();
    let mut times: HashMap<String, u32> = HashMap::new();
    for raw in connected.inspect().unwrap().peek("ticks", 1_000_000).await.unwrap() {
        *times.entry(Message::decode(&raw, &Limits::default()).unwrap().id).or_default() += 1;
    }
    let twice = times.values().filter(|times| **times > 1).count();
    let missing =
        (1..=u32::try_from(due).unwrap()).filter(|turn| !times.contains_key(&schedule.task_id(row.since, row.since + PERIOD * *turn)));
    let missing = missing.count();
    println!("{kills} kills, {led} of the one that led; {due} due times, {} sent, {missing} missing, {twice} twice", times.len());
    assert_eq!((missing, twice, times.len() as u128, u128::from(row.fired)), (0, 0, due, due));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_once_on_a_file() {
    let place = Place::new();
    let url = format!("sqlite:{}", place.dir.path().join("beat.db").display());
    killed_at_random(&place, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_once_on_redis() {
    let Some(server) = Redis::start(&[]) else { return };
    killed_at_random(&Place::new(), &server.url()).await;
}
