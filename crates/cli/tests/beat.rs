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
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two schedulers, one killed at random and started again, so often. Then each due time must have
/// been sent, and none twice; `sent` gives the ids of what was.
async fn killed_at_random(place: &Place, urls: &Urls, sent: impl AsyncFn(&Connected, usize) -> Vec<String>) {
    let connected = urls.connect();
    let store = connected.schedules().unwrap().clone();
    let schedule = Schedule::new("tick", Signature::named("tick").queue("ticks"), Timing::every(PERIOD).unwrap()).unwrap();
    let schedule = schedule.missed(MissedPolicy::All(1_000_000));
    store.put("tick", &schedule.encode(), SystemTime::now()).await.unwrap();
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

    let row = store.schedules().await.unwrap().rows.remove(0);
    let due = row.last.unwrap().duration_since(row.since).unwrap().as_millis() / PERIOD.as_millis();
    let due = usize::try_from(due).unwrap();
    let mut times: HashMap<String, u32> = HashMap::new();
    for id in sent(&connected, due).await {
        *times.entry(id).or_default() += 1;
    }
    let id = |turn: usize| schedule.task_id(row.since, row.since + PERIOD * u32::try_from(turn).unwrap());
    let missing = (1..=due).filter(|turn| !times.contains_key(&id(*turn))).count();
    // Where broker and store are two, one more may have been sent that was not noted.
    times.remove(&id(due + 1));
    let twice = times.values().filter(|times| **times > 1).count();
    println!("{kills} kills, {led} of the one that led; {due} due times, {} sent, {missing} missing, {twice} twice", times.len());
    assert_eq!((missing, twice, times.len() as u64, row.fired), (0, 0, due as u64, due as u64));
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
    killed_at_random(&place, &Urls { broker: url.clone(), results: url }, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_is_killed_at_random_and_each_due_time_is_sent_once_on_redis() {
    let Some(server) = Redis::start(&[]) else { return };
    let place = Place::new();
    place.write("longshore.toml", "");
    killed_at_random(&place, &Urls { broker: server.url(), results: server.url() }, waiting).await;
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
    killed_at_random(&place, &urls, async |_, due| {
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
