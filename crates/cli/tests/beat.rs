//! Schedulers on bad days: two of them, each a process of its own, one killed at random again and
//! again. Each due time is sent, and none twice; on RabbitMQ without a store a kill may send one
//! once more, under the same id. `LONGSHORE_BEAT_KILLS` sets the number of kills.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use common::{BIN, Place};
use longshore_brokers::{Connected, End, Finish, OpenOptions, connect};
use longshore_celery::{Limits, Message};
use longshore_testkit::servers::Redis;
use longshore_worker::{MissedPolicy, Schedule, Signature, Timing};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_millis(100);

/// A scheduler that is killed with its test.
struct Beat(Child);

impl Beat {
    fn start(place: &Place, urls: &Urls, name: &str) -> Self {
        longshore(place, urls, &["beat", "-n", name, "--term", "600ms", "-q"])
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

/// Broker and result backend.
struct Urls {
    broker: String,
    results: String,
}

impl Urls {
    /// Without a store.
    fn rpc(broker: String) -> Self {
        Self { broker, results: "rpc://".to_owned() }
    }

    fn connect(&self) -> Connected {
        connect(&self.broker, Some(&self.results)).unwrap()
    }
}

fn longshore(place: &Place, urls: &Urls, words: &[&str]) -> Beat {
    let mut command = Command::new(BIN);
    command.args(words).args(["--broker", &urls.broker, "--results", &urls.results]).current_dir(place.dir.path());
    command.env("HOME", place.dir.path()).env("LONGSHORE_CONFIG", "longshore.toml");
    Beat(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
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
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two schedulers, one killed at random and started again, so often. Then each due time must have
/// been sent, and none twice; `sent` gives the ids of what was.
async fn killed_at_random(place: &Place, urls: &Urls, again: Again, sent: impl AsyncFn(&Connected, usize) -> Vec<String>) {
    let connected = urls.connect();
    let store = connected.schedules().unwrap().clone();
    let schedule = ticks(&connected).await;
    let names = ["one@here", "other@here"];
    let mut beats = names.map(|name| Beat::start(place, urls, name));
    more(&connected, 1).await;
    let (mut led, kills) = (0, kills());
    for _ in 0..kills {
        // Anywhere between two due times, and anywhere in a term.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..700_000))).await;
        let which = fastrand::usize(0..2);
        led += u32::from(store.schedules().await.unwrap().leader.as_deref() == Some(names[which]));
        beats[which].kill();
        beats[which] = Beat::start(place, urls, names[which]);
    }
    more(&connected, 10).await;
    beats.iter_mut().for_each(Beat::kill);

    let (missing, twice) = missing_and_twice(&connected, &schedule, sent).await;
    println!("{kills} kills, {led} of the one that led: {missing} missing, {twice} twice");
    // Each kill comes between sending and noting of one due time at most.
    let most = if again == Again::AfterAKill { kills as usize } else { 0 };
    assert!(missing == 0 && twice <= most, "{missing} missing, {twice} twice, {most} at most");
}

/// Rule for due times that are sent once more.
#[derive(Clone, Copy, PartialEq)]
enum Again {
    Never,
    /// By who takes over from one that had sent it and not noted it.
    AfterAKill,
}

/// Has the store keep a schedule of which nothing is to be missed.
async fn ticks(connected: &Connected) -> Schedule {
    let schedule = Schedule::new("tick", Signature::named("tick").queue("ticks"), Timing::every(PERIOD).unwrap()).unwrap();
    let schedule = schedule.missed(MissedPolicy::All(1_000_000));
    connected.schedules().unwrap().put("tick", &schedule.encode(), SystemTime::now()).await.unwrap();
    schedule
}

/// Counts due times that were not sent, up to the last that was noted, and those that were sent
/// more than once, when nobody sends any more. Nothing else was sent, and all of it was noted.
async fn missing_and_twice(
    connected: &Connected,
    schedule: &Schedule,
    sent: impl AsyncFn(&Connected, usize) -> Vec<String>,
) -> (usize, usize) {
    let row = connected.schedules().unwrap().schedules().await.unwrap().rows.remove(0);
    let due = row.last.unwrap().duration_since(row.since).unwrap().as_millis() / PERIOD.as_millis();
    let due = usize::try_from(due).unwrap();
    let mut times: HashMap<String, u32> = HashMap::new();
    for id in sent(connected, due).await {
        *times.entry(id).or_default() += 1;
    }
    let id = |turn: usize| schedule.task_id(row.since, row.since + PERIOD * u32::try_from(turn).unwrap());
    let missing = (1..=due).filter(|turn| !times.contains_key(&id(*turn))).count();
    // Where broker and store are two, one more may have been sent that was not noted.
    times.remove(&id(due + 1));
    println!("{due} due times, {} sent", times.len());
    assert_eq!((times.len() + missing, row.fired), (due, due as u64));
    (missing, times.values().filter(|times| **times > 1).count())
}

/// The ids of what waits in the queue.
async fn waiting(connected: &Connected, _: usize) -> Vec<String> {
    let raw = connected.inspect().unwrap().peek("ticks", 1_000_000).await.unwrap();
    raw.iter().map(|raw| Message::decode(raw, &Limits::default()).unwrap().id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_once_on_a_file() {
    let place = Place::new();
    place.write("longshore.toml", "");
    let url = format!("sqlite:{}", place.dir.path().join("beat.db").display());
    killed_at_random(&place, &Urls { broker: url.clone(), results: url }, Again::Never, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_once_on_redis() {
    let Some(server) = Redis::start(&[]) else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    killed_at_random(&place, &Urls { broker: server.url(), results: server.url() }, Again::Never, waiting).await;
}

/// Broker and store are two: a due time that was sent and not noted is sent again, unless its
/// result is known by then; a worker runs what is sent, and nothing whose result it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_runs_once_on_rabbitmq_with_results_in_a_file() {
    let Some(broker) = longshore_testkit::rabbit::vhost() else { return };
    let place = Place::new();
    place.write("longshore.toml", "[tasks.tick]\nexec = [\"sh\", \"-c\", \"echo $LONGSHORE_TASK_ID >> ran\"]\n");
    let urls = Urls { broker, results: format!("sqlite:{}", place.dir.path().join("results.db").display()) };
    let _worker = longshore(&place, &urls, &["worker", "-q", "-Q", "ticks"]);
    killed_at_random(&place, &urls, Again::Never, async |_, due| {
        let ran = || place.read("ran").lines().map(str::to_owned).collect::<Vec<_>>();
        let begun = Instant::now();
        while ran().len() < due {
            assert!(begun.elapsed() < PATIENCE, "{} of {due} ran", ran().len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // One that is on its way all the same comes soon.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ran()
    })
    .await;
}

/// The ids of all that lies in the queue, which is taken out of it.
async fn taken(connected: &Connected, least: usize) -> Vec<String> {
    let consumer = connected.broker.open(OpenOptions::new("reader@here", ["ticks"])).await.unwrap();
    let mut ids = Vec::new();
    loop {
        let mut claimed = Vec::new();
        // What was sent last is there: it was confirmed.
        let patience = if ids.len() < least { PATIENCE } else { Duration::from_secs(1) };
        let _ = tokio::time::timeout(patience, consumer.claim(100, &mut claimed)).await;
        if claimed.is_empty() {
            consumer.leave().await.unwrap();
            return ids;
        }
        let ack = |receipt| Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack };
        let ends: Vec<_> = claimed.iter().map(|claimed| ack(claimed.receipt)).collect();
        consumer.finish(&ends).await.unwrap();
        ids.extend(claimed.iter().map(|claimed| Message::decode(&claimed.raw, &Limits::default()).unwrap().id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_on_rabbitmq_without_a_store() {
    let Some(broker) = longshore_testkit::rabbit::vhost() else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    killed_at_random(&place, &Urls::rpc(broker), Again::AfterAKill, taken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_was_frozen_has_lost_the_lead_on_rabbitmq_and_sends_nothing_when_it_goes_on() {
    let Some(broker) = longshore_testkit::rabbit::vhost() else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    let urls = Urls::rpc(broker);
    let connected = urls.connect();
    let store = connected.schedules().unwrap().clone();
    let schedule = ticks(&connected).await;
    let mut one = Beat::start(&place, &urls, "one@here");
    more(&connected, 3).await;
    let mut other = Beat::start(&place, &urls, "other@here");
    let leader = async || store.schedules().await.unwrap().leader;
    assert_eq!(leader().await.as_deref(), Some("one@here"));
    common::signal(&one.0, rustix::process::Signal::STOP);
    let begun = Instant::now();
    // Its connection is silent for two to three heartbeats of 2 s; a loaded machine needs longer.
    while store.schedules().await.map_or(true, |book| book.leader.as_deref() != Some("other@here")) {
        assert!(begun.elapsed() < PATIENCE, "nobody takes over");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("taken over after {:?}", begun.elapsed());
    more(&connected, 10).await;
    common::signal(&one.0, rustix::process::Signal::CONT);
    more(&connected, 30).await;
    assert_eq!(leader().await.as_deref(), Some("other@here"));
    one.kill();
    other.kill();
    let (missing, twice) = missing_and_twice(&connected, &schedule, taken).await;
    // It may have stood between sending and noting.
    assert!(missing == 0 && twice <= 1, "{missing} missing, {twice} twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_last_is_known_on_rabbitmq_when_its_server_was_restarted() {
    let Some(mut server) = longshore_testkit::rabbit::RabbitServer::start(&[]) else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    let urls = Urls::rpc(server.url());
    let connected = urls.connect();
    let schedule = ticks(&connected).await;
    let mut beats = ["one@here", "other@here"].map(|name| Beat::start(&place, &urls, name));
    more(&connected, 5).await;
    server.restart();
    // The first answer may be that its connection is gone.
    let begun = Instant::now();
    while connected.schedules().unwrap().schedules().await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "it does not come back");
    }
    more(&connected, 20).await;
    beats.iter_mut().for_each(Beat::kill);
    let (missing, twice) = missing_and_twice(&connected, &schedule, taken).await;
    assert!(missing == 0 && twice <= 1, "{missing} missing, {twice} twice");
}

#[test]
fn schedules_are_kept_paused_run_and_forgotten_on_rabbitmq_without_a_store() {
    let Some(broker) = longshore_testkit::rabbit::vhost() else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    let schedule = |words: &[&str]| {
        let mut command = Command::new(BIN);
        command.arg("schedule").args(words).args(["--broker", &broker, "--results", "rpc://"]).current_dir(place.dir.path());
        command.env("HOME", place.dir.path()).env("LONGSHORE_CONFIG", "longshore.toml").output().unwrap()
    };
    let said = |words: &[&str], code: i32, expected: &[&str]| {
        let output = schedule(words);
        let text = common::text(&output.stdout) + &common::text(&output.stderr);
        let is_said = expected.iter().all(|word| text.contains(word));
        assert!(output.status.code() == Some(code) && is_said, "{words:?}: {:?}: {text}", output.status);
    };
    said(&["list"], 0, &["no schedules"]);
    said(&["pause", "a"], 2, &["a"]);
    said(&["add", "a", "t", "--every", "1h", "--queue", "later"], 0, &["kept"]);
    said(&["list"], 0, &["every 1h", "never", "no scheduler runs"]);
    said(&["pause", "a"], 0, &["paused"]);
    said(&["list"], 0, &["paused by"]);
    said(&["resume", "a"], 0, &["resumed"]);
    said(&["run", "a"], 0, &["-"]);
    said(&["remove", "a"], 0, &["removed"]);
    said(&["list"], 0, &["no schedules"]);
}
