//! The suite on a real server, and what only RabbitMQ can get wrong.

mod asides;
mod closing;
mod deleted;
mod exchanges;
mod refusals;
mod scheduled;
mod sent;
mod silent;
mod specs;
mod unanswered;

use std::time::{Duration, Instant, SystemTime};

use longshore_testkit::rabbit;

use crate::{
    broker::OpenOptions,
    conformance::{Lacks, Subject},
    message::{End, Ended, Finish, Outgoing},
};

/// A virtual host of its own, and a file for the results.
fn subject(url: String, options: &str) -> Subject {
    let directory = tempfile::tempdir().expect("a directory");
    let results = format!("sqlite:{}?sync=normal", directory.path().join("results.db").display());
    let url = format!("{url}{options}");
    let connect = move || crate::connect(&url, Some(&results)).expect("both are there");
    Subject {
        connect: Box::new(connect),
        keep: Box::new(directory),
        lacks: Lacks { held: true, bytes: true, front: true, innocence: true },
    }
}

// Without `turns`: what is sent ahead is served in the order in which it came. Without
// `priorities`: the smaller number is first in a queue, not among queues. Without `inspect`: nobody
// can look. Without `junk`: ten thousand letters take a real server too long; they have a queue of
// their own. Without `crashes`: nobody is accused. Without `one_store`: results are elsewhere.
crate::conformance!(
    classic,
    match rabbit::vhost() {
        Some(url) => subject(url, ""),
        None => return,
    },
    core,
    letters
);

crate::conformance!(
    quorum,
    match rabbit::vhost() {
        Some(url) => subject(url, "?queue_type=quorum"),
        None => return,
    },
    core,
    letters
);

/// A virtual host alone: without a store, schedules are in it.
fn alone(url: String, options: &str) -> Subject {
    let url = format!("{url}{options}");
    Subject {
        connect: Box::new(move || crate::connect(&url, None).expect("it is there")),
        keep: Box::new(()),
        lacks: Lacks { held: true, bytes: true, front: true, innocence: true },
    }
}

crate::conformance!(
    classic_alone,
    match rabbit::vhost() {
        Some(url) => alone(url, ""),
        None => return,
    },
    schedules
);

crate::conformance!(
    quorum_alone,
    match rabbit::vhost() {
        Some(url) => alone(url, "?queue_type=quorum"),
        None => return,
    },
    schedules
);

/// A message with an ETA, as a client of Celery's sends it.
fn with_eta(queue: &str, id: &str, due: SystemTime) -> Vec<u8> {
    let eta = longshore_celery::iso(due);
    format!(
        r#"{{"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"task": "t", "id": "{id}", "eta": "{eta}"}}, "properties": {{"correlation_id": "{id}", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "{queue}"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{id}"}}}}"#
    )
    .into_bytes()
}

fn outgoing(queue: &str, id: &str, due: SystemTime, says: bool) -> Outgoing {
    Outgoing { queue: queue.into(), exchange: None, priority: 0, due: says.then_some(due), raw: with_eta(queue, id, due) }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Returns how many messages wait and how many are lent in the queues of a virtual host whose names
/// begin so.
fn counts(vhost: &str, begins: &str) -> (u64, u64) {
    let queues = rabbit::shared().expect("a server").queues(vhost);
    let mine = queues.into_iter().filter(|(name, ..)| name.starts_with(begins));
    mine.fold((0, 0), |(ready, unacked), (_, more, lent, _)| (ready + more, unacked + lent))
}

fn vhost_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_due_for_long_waits_in_the_server_and_then_comes() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&format!("{url}?queue_type=quorum"), Some("memory://amqp-delays")).unwrap();
    let (soon, never) = (SystemTime::now() + Duration::from_secs(3), SystemTime::now() + Duration::from_secs(3600));
    connected.broker.publish(&[outgoing("q", "soon", soon, true), outgoing("q", "never", never, true)]).await.unwrap();
    // The first may be on its way by now: to make the queues takes a while.
    until("the server holds them back", async || (counts(vhost_of(&url), "celery_delayed_").0 >= 1).then_some(())).await;
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let mut claimed = Vec::new();
    consumer.claim(5, &mut claimed).await.unwrap();
    // Whole seconds: the rest is the worker's.
    assert!(SystemTime::now() + Duration::from_secs(1) >= soon, "{:?} too early", soon.duration_since(SystemTime::now()));
    assert_eq!((claimed.len(), claimed[0].redelivered, claimed[0].crashes), (1, false, 0));
    assert!(!String::from_utf8_lossy(&claimed[0].raw).contains("x-death"), "headers of the server's own");
    let end = Finish { receipt: claimed[0].receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack };
    assert_eq!(consumer.finish(&[end]).await.unwrap(), [Ended::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eta_that_came_early_is_held_by_no_worker() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-early")).unwrap();
    let far = SystemTime::now() + Duration::from_secs(3600);
    let near = SystemTime::now() + Duration::from_secs(2);
    connected.broker.publish(&[outgoing("q", "far", far, false), outgoing("q", "near", near, false)]).await.unwrap();
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let mut claimed = Vec::new();
    consumer.claim(5, &mut claimed).await.unwrap();
    assert_eq!(claimed.len(), 1, "the worker holds what is due soon");
    let vhost = vhost_of(&url);
    until("it is put off", async || (counts(vhost, "celery_delayed_").0 == 1 && counts(vhost, "q") == (0, 1)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_on_another_channel_is_still_the_one_that_was_claimed() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-again")).unwrap();
    let now = SystemTime::now();
    connected.broker.publish(&["one", "two", "three"].map(|id| outgoing("q", id, now, false))).await.unwrap();
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < 3 {
        consumer.claim(3 - claimed.len(), &mut claimed).await.unwrap();
    }
    let lease = consumer.lease().unwrap();
    let term = lease.term(crate::lease::clock());
    closing::cut_all(&url);
    let end = |at: usize, end| Finish { receipt: claimed[at].receipt, publish: Vec::new(), results: Vec::new(), part: None, end };
    until("the channel is lost", async || (lease.term(crate::lease::clock()) != term).then_some(())).await;
    assert_eq!(consumer.finish(&[end(0, End::Ack), end(1, End::Back { front: true })]).await.unwrap(), [Ended::Done, Ended::Done]);
    assert_eq!(consumer.finish(&[end(0, End::Ack)]).await.unwrap(), [Ended::Refused]);
    let mut again = Vec::new();
    consumer.claim(5, &mut again).await.unwrap();
    assert_eq!(again.len(), 1, "the third is still lent under its old number");
    assert!(String::from_utf8_lossy(&again[0].raw).contains("two") && again[0].redelivered);
    assert_eq!(consumer.finish(&[end(2, End::Ack)]).await.unwrap(), [Ended::Done]);
    let vhost = vhost_of(&url);
    until("one is left", async || (counts(vhost, "q") == (0, 1)).then_some(())).await;
}
