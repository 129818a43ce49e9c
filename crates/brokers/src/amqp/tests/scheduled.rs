//! Schedules without a store: what somebody else does to their queues.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_testkit::rabbit;

use super::{counts, until, vhost_of};
use crate::{
    amqp::{
        link::{Link, Wait},
        url::Config,
    },
    connected::Connected,
    halves::{Fired, Firing, Leading, SchedulerName},
    message::Outgoing,
};

const TERM: Duration = Duration::from_secs(60);

fn alone(url: &str) -> Connected {
    crate::connect(url, None).expect("it is there")
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
}

fn named(word: &str) -> SchedulerName {
    SchedulerName { token: word.to_owned(), node: format!("{word}@here") }
}

fn firing(word: &str, due: u64) -> Firing {
    let message = Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: b"one".to_vec() };
    Firing { scheduler: named(word), name: "a".to_owned(), since: at(0), due: at(due), at: at(due), message: Some(message) }
}

async fn is_kept(pair: &Connected) -> bool {
    !pair.schedules().unwrap().schedules().await.unwrap().rows.is_empty()
}

/// Does something to a queue of the virtual host as its server does it.
fn eval(url: &str, queue: &str, what: &str) {
    let name = format!("rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>)", vhost_of(url));
    rabbit::shared().unwrap().eval(&format!("{{ok, Q}} = rabbit_amqqueue:lookup({name}), {what}."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_book_harms_no_schedule_and_goes_with_the_next_change() {
    let Some(url) = rabbit::vhost() else { return };
    let pair = alone(&url);
    let store = pair.schedules().unwrap().clone();
    store.put("a", b"1", at(0)).await.unwrap();
    let link = Link::new(Arc::new(Config::parse(&url).unwrap()), Arc::new(|_| {}), "test".to_owned());
    let open = link.open(Wait::Patience).await.unwrap();
    let channel = open.connection.create_channel().await.unwrap();
    for junk in [&b""[..], b"{}", b"\xff"] {
        let options = lapin::options::BasicPublishOptions::default();
        channel.basic_publish("".into(), "longshore.schedules".into(), options, junk, lapin::BasicProperties::default()).await.unwrap();
    }
    until("they lie there", async || (counts(vhost_of(&url), "longshore.schedules").0 == 4).then_some(())).await;
    assert!(is_kept(&pair).await);
    assert!(store.put("b", b"1", at(0)).await.unwrap());
    until("they are gone", async || (counts(vhost_of(&url), "longshore.schedules") == (1, 0)).then_some(())).await;
    assert_eq!(store.schedules().await.unwrap().rows.len(), 2);
    link.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_whose_queues_are_deleted_leads_again_and_finds_no_schedules() {
    let Some(url) = rabbit::vhost() else { return };
    let pair = alone(&url);
    let store = pair.schedules().unwrap().clone();
    store.put("a", b"1", at(0)).await.unwrap();
    assert!(matches!(store.lead(&named("one"), TERM).await.unwrap(), Leading::Ours { version: 1 }));
    assert_eq!(store.fire(&firing("one", 1)).await.unwrap(), Fired::Done);
    for queue in ["longshore.schedules", "longshore.scheduler"] {
        eval(&url, queue, "rabbit_amqqueue:delete(Q, false, false, <<\"test\">>)");
    }
    until("it leads a new line", async || {
        let leading = store.lead(&named("one"), TERM).await.ok()?;
        matches!(leading, Leading::Ours { version: 0 }).then_some(())
    })
    .await;
    assert!(!is_kept(&pair).await);
    assert!(store.put("a", b"1", at(0)).await.unwrap());
    until("it sees the change", async || {
        let leading = store.lead(&named("one"), TERM).await.ok()?;
        matches!(leading, Leading::Ours { version: 1 }).then_some(())
    })
    .await;
    assert_eq!(store.fire(&firing("one", 2)).await.unwrap(), Fired::Done);
}

/// The server takes the lead with the connection: nothing that was begun on it is done later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_whose_connection_is_cut_fires_nothing_until_it_leads_again() {
    let Some(url) = rabbit::vhost() else { return };
    let (one, other) = (alone(&url), alone(&url));
    let (one, other) = (one.schedules().unwrap().clone(), other.schedules().unwrap().clone());
    other.put("a", b"1", at(0)).await.unwrap();
    assert!(matches!(one.lead(&named("one"), TERM).await.unwrap(), Leading::Ours { .. }));
    assert_eq!(one.fire(&firing("one", 1)).await.unwrap(), Fired::Done);
    rabbit::shared().unwrap().close_connections(vhost_of(&url));
    until("another one leads", async || {
        let leading = other.lead(&named("other"), TERM).await.ok()?;
        matches!(leading, Leading::Ours { .. }).then_some(())
    })
    .await;
    assert_eq!(other.fire(&firing("other", 2)).await.unwrap(), Fired::Done);
    assert!(!matches!(one.fire(&firing("one", 3)).await, Ok(Fired::Done)));
    until("the first waits", async || {
        let leading = one.lead(&named("one"), TERM).await.ok()?;
        (leading == Leading::Theirs { node: "other@here".to_owned() }).then_some(())
    })
    .await;
    assert_eq!(one.fire(&firing("one", 3)).await.unwrap(), Fired::NotLeading);
    let [row] = &other.schedules().await.unwrap().rows[..] else { panic!("one schedule") };
    assert_eq!((row.last, row.fired), (Some(at(2)), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_that_are_too_large_for_one_message_are_refused_in_words() {
    let Some(url) = rabbit::vhost() else { return };
    let pair = alone(&url);
    let store = pair.schedules().unwrap().clone();
    store.put("a", b"1", at(0)).await.unwrap();
    let error = store.put("b", &vec![b'x'; 1 << 20], at(0)).await.unwrap_err();
    assert!(error.message.contains("1024 KiB") && error.message.contains("SQLite, Redis"), "{error}");
    assert_eq!(store.schedules().await.unwrap().rows.len(), 1);
}
