//! Messages that are larger than any worker reads: they lie aside, whole, and a stub goes their
//! way.

use std::{sync::Arc, time::Duration};

use longshore_celery::{Limits, Message, MessageFault, Stub};
use longshore_testkit::servers::Redis;

use super::kit::{message, open, raw};
use crate::{
    broker::{Consumer, OpenOptions},
    connected::Connected,
    message::{Claimed, End, Ended, Finish, Outgoing},
    redis::{both, both_with},
};

/// A message that is one byte too long, in the form of any other.
fn large(id: &str) -> Outgoing {
    let whole = String::from_utf8(raw(id)).unwrap();
    let more = "x".repeat(Limits::MESSAGE + 1 - whole.len());
    Outgoing { raw: whole.replace("W1td", &format!("{more}W1td")).into_bytes(), ..message(id) }
}

async fn claim(consumer: &dyn Consumer, count: usize) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    while claimed.len() < count {
        consumer.claim(count - claimed.len(), &mut claimed).await.unwrap();
    }
    claimed
}

fn options(early: bool) -> OpenOptions {
    OpenOptions {
        queues: vec!["q".into()],
        lease: Duration::from_millis(500),
        visibility_timeout: Duration::from_secs(60),
        node: "test@here".to_owned(),
        early,
        order: crate::QueueOrder::InTurn,
        takes_delayed: false,
    }
}

async fn end(consumer: &dyn Consumer, claimed: &Claimed, end: End) {
    let finish = Finish { receipt: claimed.receipt, publish: vec![], results: vec![], part: None, end };
    assert_eq!(consumer.finish(&[finish]).await.unwrap(), [Ended::Done]);
}

async fn bury(consumer: &dyn Consumer, claimed: &Claimed) {
    end(consumer, claimed, End::Junk { reason: "it is too \"large\"".to_owned() }).await;
}

fn aside(server: &Redis) -> usize {
    server.command(&["KEYS", "*longshore:aside:*"]).matches("aside").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_ahead_at_large_messages_brings_none_of_them() {
    let Some(server) = Redis::start(&[]) else { return };
    let connected = both(&server.url()).unwrap();
    let broker = connected.broker.clone();
    for number in 0..4 {
        broker.publish(&[large(&number.to_string())]).await.unwrap();
    }
    let sent = || {
        let text = server.command(&["INFO", "stats"]);
        text.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")?.trim().parse::<u64>().ok()).unwrap()
    };
    let before = sent();
    for _ in 0..10 {
        assert!(!connected.inspect().unwrap().look_ahead("q", 8, &[b"nowhere"]).await.unwrap());
        assert!(connected.inspect().unwrap().look_ahead("q", 8, &[b"\"task\": \"t\""]).await.unwrap());
    }
    let brought = sent() - before;
    assert!(brought < 1 << 20, "twenty looks brought {brought} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_lies_aside_and_comes_back_whole_from_its_dead_letter() {
    for (query, early) in [("", false), ("", true), ("?global_keyprefix=app1", false)] {
        let Some(server) = Redis::start(&[]) else { return };
        let connected = both(&format!("{}{query}", server.url())).unwrap();
        let broker = connected.broker.clone();
        let consumer = broker.open(options(early)).await.unwrap();
        let at_limit = {
            let mut message = large("fits");
            let at = message.raw.windows(2).position(|two| two == b"xx").unwrap();
            message.raw.remove(at);
            message
        };
        for message in [message("a"), large("big"), at_limit.clone(), message("b")] {
            broker.publish(&[message]).await.unwrap();
        }
        let claimed = claim(&*consumer, 4).await;
        let lengths: Vec<usize> = claimed.iter().map(|claimed| claimed.raw.len()).collect();
        assert!(lengths[1] < 1000 && lengths[2] == Limits::MESSAGE, "{lengths:?}");
        assert_eq!(claimed.iter().map(|claimed| claimed.given).collect::<Vec<_>>(), [early, false, early, early]);
        let bad = Message::decode(&claimed[1].raw, &Limits::default()).unwrap_err();
        assert_eq!((bad.wrong, bad.id.as_deref(), bad.task.as_deref()), (MessageFault::TooLarge, Some("big"), Some("t")));
        assert!(bad.reason.contains(&(Limits::MESSAGE + 1).to_string()), "{}", bad.reason);
        bury(&*consumer, &claimed[1]).await;
        assert_eq!(aside(&server), 1);
        let letters = connected.letters().unwrap().dead(Some("q")).await.unwrap();
        assert_eq!(Stub::read(&letters[0].raw).and_then(|stub| stub.id), Some("big"));
        assert_eq!(connected.inspect().unwrap().find("big").await.unwrap().len(), 1);
        assert_eq!(connected.letters().unwrap().bury(&letters, true).await.unwrap(), 1);
        assert_eq!(connected.inspect().unwrap().peek("q", 1).await.unwrap(), [large("big").raw], "as it was sent");
        assert_eq!(aside(&server), 0);
        // Once more, and thrown away.
        bury(&*consumer, &self::claim(&*consumer, 1).await[0]).await;
        assert_eq!(connected.letters().unwrap().bury(&connected.letters().unwrap().dead(None).await.unwrap(), false).await.unwrap(), 1);
        assert_eq!(aside(&server), 0, "nothing of it stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_aside_survives_its_worker_and_goes_with_its_letter() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker, .. } = both(&server.url()).unwrap();
    let first = open(&*broker, Duration::from_millis(300), Duration::from_secs(60)).await;
    broker.publish(&[large("big")]).await.unwrap();
    claim(&*first, 1).await;
    drop(first);
    let second = open(&*broker, Duration::from_millis(300), Duration::from_secs(60)).await;
    let again = claim(&*second, 1).await;
    let id = Stub::read(&again[0].raw).and_then(|stub| stub.id);
    assert_eq!((id, aside(&server)), (Some("big"), 1));
    bury(&*second, &again[0]).await;
    // Beyond ten thousand the oldest letter goes, and with it what lies aside.
    let some: Vec<&str> = ["LPUSH", "longshore:junk:q"].into_iter().chain(std::iter::repeat_n("{}", 9_999)).collect();
    server.command(&some);
    broker.publish(&[message("one more")]).await.unwrap();
    assert_eq!(aside(&server), 1);
    bury(&*second, &claim(&*second, 1).await[0]).await;
    assert_eq!((aside(&server), server.command(&["LLEN", "longshore:junk:q"]).as_str()), (0, ":10000\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_claim_brings_few_of_the_large_and_all_of_the_small() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker, .. } = both(&server.url()).unwrap();
    let consumer: Arc<dyn Consumer> = open(&*broker, Duration::from_secs(5), Duration::from_secs(60)).await;
    let sized = |bytes: usize| Outgoing { raw: vec![b'x'; bytes], ..message("") };
    for (bytes, brought) in [(100, 90), (600 << 10, 4), (2 << 20, 1)] {
        for _ in 0..90 {
            broker.publish(&[sized(bytes)]).await.unwrap();
        }
        let mut claimed = Vec::new();
        consumer.claim(90, &mut claimed).await.unwrap();
        assert_eq!(claimed.len(), brought, "of {bytes} bytes each");
        broker.purge("q").await.unwrap();
    }
    // The small ones say nothing of what comes behind them.
    for bytes in std::iter::repeat_n(100, 64).chain(std::iter::repeat_n(2 << 20, 36)) {
        broker.publish(&[sized(bytes)]).await.unwrap();
    }
    let mut claimed = Vec::new();
    consumer.claim(100, &mut claimed).await.unwrap();
    assert!((65..=72).contains(&claimed.len()), "{}", claimed.len());
}

/// How a worker lets go of what it holds.
#[derive(Clone, Copy, Debug)]
enum LetGo {
    Dies,
    Leaves,
    HandsBack { front: bool },
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_goes_back_whole_whoever_lets_go_of_it() {
    for (how, early) in
        [(LetGo::Dies, false), (LetGo::Leaves, true), (LetGo::HandsBack { front: true }, false), (LetGo::HandsBack { front: false }, true)]
    {
        let Some(server) = Redis::start(&[]) else { return };
        let connected = both(&server.url()).unwrap();
        let broker = connected.broker.clone();
        let first = broker.open(options(early)).await.unwrap();
        broker.publish(&[large("big")]).await.unwrap();
        let claimed = claim(&*first, 1).await;
        let second = broker.open(OpenOptions { queues: vec!["other".into()], ..options(early) }).await.unwrap();
        match how {
            LetGo::Dies => drop(first),
            LetGo::Leaves => first.leave().await.unwrap(),
            LetGo::HandsBack { front } => end(&*first, &claimed[0], End::Back { front }).await,
        }
        let whole = async {
            while connected.inspect().unwrap().peek("q", 2).await.unwrap() != [large("big").raw] {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), whole).await.unwrap_or_else(|_| panic!("{how:?}: another program finds a stub"));
        assert_eq!(aside(&server), 0, "{how:?}");
        drop(second);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stub_that_another_version_left_in_a_queue_is_lent_and_what_lies_aside_goes_with_it() {
    for early in [false, true] {
        for back in [false, true] {
            let Some(server) = Redis::start(&[]) else { return };
            let connected = both(&server.url()).unwrap();
            let broker = connected.broker.clone();
            let consumer = broker.open(options(early)).await.unwrap();
            broker.publish(&[large("big")]).await.unwrap();
            let stub = claim(&*consumer, 1).await.remove(0).raw;
            server.command(&["DEL", "unacked", "unacked_index"]);
            broker.publish(&[Outgoing { raw: stub, ..message("") }]).await.unwrap();
            let again = claim(&*consumer, 1).await;
            assert!(!again[0].given);
            if back {
                end(&*consumer, &again[0], End::Back { front: true }).await;
                assert_eq!((connected.inspect().unwrap().peek("q", 1).await.unwrap(), aside(&server)), (vec![large("big").raw], 0));
            } else {
                bury(&*consumer, &again[0]).await;
                assert_eq!(
                    connected.letters().unwrap().bury(&connected.letters().unwrap().dead(None).await.unwrap(), true).await.unwrap(),
                    1
                );
                assert_eq!((connected.inspect().unwrap().peek("q", 1).await.unwrap(), aside(&server)), (vec![large("big").raw], 0));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_lies_aside_for_what_is_acknowledged() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker, .. } = both(&server.url()).unwrap();
    let consumer = broker.open(options(false)).await.unwrap();
    broker.publish(&[large("big")]).await.unwrap();
    let claimed = claim(&*consumer, 1).await;
    end(&*consumer, &claimed[0], End::Keep).await;
    assert_eq!(aside(&server), 1);
    end(&*consumer, &claimed[0], End::Ack).await;
    assert_eq!(aside(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_refused_leaves_nothing_aside() {
    for (early, key) in [(false, "unacked"), (false, "unacked_index"), (true, "unacked"), (true, "unacked_index")] {
        let Some(server) = Redis::start(&[]) else { return };
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let notice = std::sync::Arc::new(move |news: &crate::News| drop(said.send(news.to_string())));
        let Connected { broker, .. } = both_with(&server.url(), notice).unwrap();
        let consumer = broker.open(options(early)).await.unwrap();
        server.command(&["SET", key, "x"]);
        broker.publish(&[large("big")]).await.unwrap();
        let (mut claimed, mut refused) = (Vec::new(), false);
        {
            let mut claiming = consumer.claim(1, &mut claimed);
            while !refused {
                tokio::select! {
                    claimed = &mut claiming => panic!("{key}: {claimed:?}"),
                    text = heard.recv() => refused = text.unwrap().contains("WRONGTYPE"),
                }
            }
            assert_eq!(aside(&server), 0, "{key}, early: {early}");
            server.command(&["DEL", key]);
            claiming.await.unwrap();
        }
        assert_eq!((claimed.len(), aside(&server)), (1, 1), "{key}, early: {early}");
    }
}
