//! Cases about queues: the messages that wait, and taking them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use longshore_core::source::Fetched;

use super::{
    Subject,
    kit::{SOON, claim, claim_singly, due, end, id, ids, iso, message, nothing_comes, open_in, publish, with_priority},
};
use crate::{
    broker::{QueueOrder, QueueState},
    halves::Doing,
    message::End,
};

/// First in, first out, within a queue.
pub async fn messages_come_in_the_order_in_which_they_were_published(subject: Arc<Subject>) {
    let broker = subject.broker();
    let expected: Vec<String> = (0..30).map(|number| format!("m{number:02}")).collect();
    let names: Vec<&str> = expected.iter().map(String::as_str).collect();
    publish(&*broker, "q", &names[..20]).await;
    publish(&*broker, "q", &names[20..]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 30).await;
    assert_eq!(ids(&claimed), expected);
    assert!(claimed.iter().all(|claimed| &*claimed.queue == "q" && claimed.crashes == 0 && !claimed.redelivered));
    assert!(subject.is_same(&claimed[7].raw, &message("q", "m07").raw), "bytes stay as they are");
}

/// Priority goes before the order of queues.
pub async fn a_smaller_priority_is_served_first_whatever_its_queue(subject: Arc<Subject>) {
    let broker = subject.broker();
    let batch = [
        with_priority("a", 9, "a9"),
        with_priority("a", 3, "a3"),
        with_priority("b", 6, "b6"),
        with_priority("b", 0, "b0"),
        with_priority("a", 3, "a3-second"),
    ];
    broker.publish(&batch).await.expect("it is published");
    let consumer = subject.consumer(&["a", "b"]).await;
    assert_eq!(claim_singly(&*consumer, 5).await, ["b0", "a3", "a3-second", "b6", "a9"]);
}

/// The queue just served goes last.
pub async fn queues_take_turns(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "a", &["a1", "a2", "a3"]).await;
    publish(&*broker, "b", &["b1", "b2"]).await;
    publish(&*broker, "c", &["c1"]).await;
    let consumer = subject.consumer(&["a", "b", "c"]).await;
    let came = claim_singly(&*consumer, 6).await;
    assert_eq!(came, ["a1", "b1", "c1", "a2", "b2", "a3"]);
}

/// While all have something that waits; nobody starves.
pub async fn a_queue_has_its_share_of_claims_by_its_weight(subject: Arc<Subject>) {
    let broker = subject.broker();
    let names = |queue: &str| (0..40).map(|number| format!("{queue}{number}")).collect::<Vec<_>>();
    for queue in ["a", "b"] {
        publish(&*broker, queue, &names(queue).iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let consumer = open_in(&*broker, &["a", "b"], QueueOrder::Weighted(vec![("a".into(), 3)])).await;
    let came = claim_singly(&*consumer, 32).await;
    let of_a = came.iter().filter(|id| id.starts_with('a')).count();
    assert!((23..=25).contains(&of_a), "{came:?}");
    assert!(came.split(|id| id.starts_with('b')).all(|between| between.len() <= 4), "{came:?}");
}

/// Before all priorities of the others.
pub async fn in_strict_order_a_queue_waits_for_those_before_it(subject: Arc<Subject>) {
    let broker = subject.broker();
    let batch = [with_priority("a", 0, "a1"), with_priority("a", 0, "a2"), with_priority("b", 0, "b1"), with_priority("b", 0, "b2")];
    broker.publish(&batch).await.expect("it is published");
    let consumer = open_in(&*broker, &["b", "a"], QueueOrder::Strict).await;
    assert_eq!(claim_singly(&*consumer, 3).await, ["b1", "b2", "a1"]);
    publish(&*broker, "b", &["b3"]).await;
    assert_eq!(claim_singly(&*consumer, 2).await, ["b3", "a2"]);
}

/// Room is a limit, also across queues.
pub async fn no_more_is_claimed_than_there_is_room_for(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "a", &["1", "2", "3"]).await;
    publish(&*broker, "b", &["4", "5", "6"]).await;
    let consumer = subject.consumer(&["a", "b"]).await;
    let mut claimed = Vec::new();
    while claimed.len() < 6 {
        let before = claimed.len();
        assert_eq!(consumer.claim(4, &mut claimed).await.expect("it claims"), Fetched::More);
        assert!((1..=4).contains(&(claimed.len() - before)), "{} → {}", before, claimed.len());
    }
    assert_eq!(ids(&claimed).into_iter().collect::<BTreeSet<_>>().len(), 6);
}

/// Closing is what ends an idle claim.
pub async fn close_wakes_an_idle_claim_and_nothing_is_claimed_afterwards(subject: Arc<Subject>) {
    let consumer = subject.consumer(&["q"]).await;
    let idle = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move {
            let mut claimed = Vec::new();
            let fetched = consumer.claim(1, &mut claimed).await.expect("it claims");
            (fetched, claimed.len())
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let closed = Instant::now();
    consumer.close();
    let (fetched, count) = tokio::time::timeout(SOON, idle).await.expect("close wakes it").expect("it does not panic");
    assert!(closed.elapsed() < Duration::from_secs(2), "it took {:?}", closed.elapsed());
    assert_eq!((fetched, count), (Fetched::End, 0));
    publish(&*subject.broker(), "q", &["late"]).await;
    let mut claimed = Vec::new();
    assert_eq!(consumer.claim(1, &mut claimed).await.expect("it claims"), Fetched::End);
    assert!(claimed.is_empty());
}

/// From one process to another, without waiting for the next look.
pub async fn a_publish_wakes_an_idle_claim(subject: Arc<Subject>) {
    let consumer = subject.consumer(&["other", "q"]).await;
    let broker = subject.broker();
    broker.ping().await.expect("it answers");
    let mut fastest = Duration::MAX;
    for round in 0..5 {
        let idle = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move {
                let claimed = claim(&*consumer, 1).await;
                (Instant::now(), claimed)
            }
        });
        tokio::time::sleep(Duration::from_millis(150 + 40 * round)).await;
        let published = Instant::now();
        publish(&*broker, "q", &["wake"]).await;
        let (came, claimed) = idle.await.expect("it does not panic");
        let took = came.saturating_duration_since(published);
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        fastest = fastest.min(took);
        end(&*consumer, &claimed, End::Ack).await;
    }
    assert!(fastest < Duration::from_millis(100), "the fastest of 5 took {fastest:?}");
}

/// Consumers do not get each other's.
pub async fn each_message_is_lent_once_to_many_consumers(subject: Arc<Subject>) {
    const COUNT: usize = 300;
    let broker = subject.broker();
    let names: Vec<String> = (0..COUNT).map(|number| format!("m{number}")).collect();
    publish(&*broker, "q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(subject.consumer(&["q"]).await);
    }
    let claiming: Vec<_> = consumers
        .iter()
        .map(|consumer| {
            let consumer = Arc::clone(consumer);
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                while consumer.claim(7, &mut claimed).await.expect("it claims") == Fetched::More {}
                ids(&claimed)
            })
        })
        .collect();
    let start = Instant::now();
    while broker.queues(&["q".into()]).await.expect("it answers")[0].waiting > 0 {
        assert!(start.elapsed() < SOON, "something is left waiting");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumers.iter().for_each(|consumer| consumer.close());
    let mut all = Vec::new();
    for claims in claiming {
        all.extend(claims.await.expect("it does not panic"));
    }
    assert_eq!(all.len(), COUNT);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), COUNT, "some were lent twice");
}

/// Held back by the broker until then; or lent early, to be held by the worker.
pub async fn what_is_due_later_is_not_run_before_and_soon_after(subject: Arc<Subject>) {
    let broker = subject.broker();
    let second = Duration::from_secs(1);
    // On the full second, because the header says no more.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(since) + 2 * second;
    let batch = [due("q", "later", at, &iso(at)), message("q", "now"), due("q", "past", at - 9 * second, &iso(at - 9 * second))];
    broker.publish(&batch).await.expect("it is published");
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    if state.later == 0 {
        return lent_early_it_counts_as_held_for_later(&subject).await;
    }
    assert_eq!((state.waiting, state.later, state.held), (2, 1, 0));
    let later = broker.inspect().later(&["other".into(), "q".into()], 9).await.expect("it answers");
    assert_eq!(later.iter().map(|raw| id(raw)).collect::<Vec<_>>(), ["later"]);
    assert!(broker.inspect().later(&["other".into()], 9).await.expect("it answers").is_empty());
    assert!(broker.inspect().later(&["q".into()], 0).await.expect("it answers").is_empty());
    let found = broker.inspect().find("later").await.expect("it answers");
    assert_eq!(found.iter().map(|found| found.doing.clone()).collect::<Vec<_>>(), [Doing::Later { due: at }]);
    let consumer = subject.consumer(&["q"]).await;
    let mut early = ids(&claim(&*consumer, 2).await);
    early.sort();
    assert_eq!(early, ["now", "past"]);
    assert_eq!(ids(&claim(&*consumer, 1).await), ["later"]);
    let late = SystemTime::now().duration_since(at).expect("it is not run before its time");
    assert!(late < second, "late by {late:?}");
}

async fn lent_early_it_counts_as_held_for_later(subject: &Arc<Subject>) {
    let broker = subject.broker();
    broker.purge("q").await.expect("it is purged");
    // Whoever compares texts takes each for the other.
    let (zone, hour, now) = (Duration::from_secs(20_700), Duration::from_secs(3_600), SystemTime::now());
    let later = iso(now + hour - zone).replace("+00:00", "-05:45");
    let past = iso(now - hour + zone).replace("+00:00", "+0545");
    let batch = [due("q", "later", now + hour, &later), due("q", "past", now - hour, &past), message("q", "now")];
    broker.publish(&batch).await.expect("it is published");
    let consumer = subject.consumer(&["q"]).await;
    let mut claimed = Vec::new();
    while claimed.len() < 3 {
        claimed.extend(claim(&*consumer, 3 - claimed.len()).await);
    }
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.held, state.held_for_later, state.later), (0, 3, 1, 0));
}

/// The bytes of an ETA task are not kept in memory.
pub async fn a_claimed_message_can_be_loaded_again(subject: Arc<Subject>) {
    publish(&*subject.broker(), "q", &["one", "two", "three"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 3).await;
    end(&*consumer, &claimed[1..2], End::Ack).await;
    let receipts: Vec<_> = [2, 1, 0].map(|at: usize| claimed[at].receipt).to_vec();
    let loaded = consumer.load(&receipts).await.expect("it loads");
    let loaded: Vec<_> = loaded.iter().map(|raw| raw.as_deref().map(id)).collect();
    assert_eq!(loaded, [Some("three".to_owned()), None, Some("one".to_owned())]);
}

/// Which queues are served may change.
pub async fn a_queue_can_be_taken_into_service_and_out_of_it(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "b", &["b1", "b2"]).await;
    let consumer = subject.consumer(&["a"]).await;
    let idle = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { ids(&claim(&*consumer, 1).await) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    consumer.serve("b", true);
    assert_eq!(idle.await.expect("it does not panic"), ["b1"]);
    let mut serving = consumer.serving();
    serving.sort();
    assert_eq!(serving, ["a".into(), "b".into()]);
    consumer.serve("b", false);
    publish(&*broker, "a", &["a1"]).await;
    assert_eq!(ids(&claim(&*consumer, 1).await), ["a1"]);
    nothing_comes(consumer).await;
}

/// Pausing holds for all, wherever it was said.
pub async fn a_paused_queue_gives_nothing_until_it_is_resumed(subject: Arc<Subject>) {
    let broker = subject.broker();
    broker.inspect().pause("q", Some("ann")).await.expect("it pauses");
    publish(&*broker, "q", &["one"]).await;
    nothing_comes(subject.consumer(&["q"]).await).await;
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.paused), (1, Some("ann".to_owned())));
    let since = state.paused_since.expect("it says since when");
    assert!(since.elapsed().unwrap_or_default() < Duration::from_secs(60), "{since:?}");
    let consumer = subject.consumer(&["q"]).await;
    let idle = tokio::spawn(async move { ids(&claim(&*consumer, 1).await) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    broker.inspect().pause("q", None).await.expect("it resumes");
    assert_eq!(idle.await.expect("it does not panic"), ["one"]);
    assert_eq!(broker.queues(&["q".into()]).await.expect("it answers")[0].paused, None);
}

/// Peeking and the state of queues.
pub async fn a_look_takes_nothing(subject: Arc<Subject>) {
    let broker = subject.broker();
    broker.publish(&[with_priority("q", 9, "last"), message("q", "first"), message("q", "second")]).await.expect("it is published");
    publish(&*broker, "other", &["x"]).await;
    let seen: Vec<_> = broker.inspect().peek("q", 2).await.expect("it answers").iter().map(|raw| id(raw)).collect();
    assert_eq!(seen, ["first", "second"]);
    assert_eq!(broker.inspect().peek("q", 10).await.expect("it answers").len(), 3);
    assert!(broker.inspect().peek("unknown", 10).await.expect("it answers").is_empty());
    let consumer = subject.consumer(&["q"]).await;
    let _held = claim(&*consumer, 1).await;
    let states = broker.queues(&["q".into(), "unknown".into()]).await.expect("it answers");
    assert_eq!(
        states.iter().map(|state| (&*state.name, state.waiting, state.held)).collect::<Vec<_>>(),
        [("q", 2, subject.held(1)), ("unknown", 0, 0)]
    );
    let mut all: Vec<_> = broker.queues(&[]).await.expect("it answers").into_iter().map(|state| state.name).collect();
    all.sort();
    assert_eq!(all, ["other", "q"], "all that are known");
}

/// A look ahead takes nothing and stops where it was told to, or has seen much.
pub async fn a_look_ahead_finds_words_near_both_ends_of_the_next_messages(subject: Arc<Subject>) {
    let broker = subject.broker();
    let with = |length: usize, id: &str| {
        let mut message = message("q", id);
        let body = message.raw.windows(4).position(|four| four == b"W1td").expect("it has a body");
        message.raw.splice(body..body, std::iter::repeat_n(b'x', length));
        message
    };
    let names = ["first", "second", "third", "none"];
    // A word stands behind the body, or is that of the body's beginning.
    let words: [&'static [&'static [u8]]; 5] = [
        &[b"\"id\": \"first\""],
        &[b"nowhere", b"\"id\": \"second\""],
        &[b"\"id\": \"third\""],
        &[b"\"id\": \"none\""],
        &[b"\"body\": \"xx"],
    ];
    broker.publish(&[with(0, "first"), with(300_000, "second"), with(1 << 20, "third"), with(0, "none")]).await.expect("it is published");
    for (most, expected) in
        [(1, [true, false, false, false, false]), (2, [true, true, false, false, true]), (8, [true, true, true, false, true])]
    {
        for (words, expected) in words.iter().zip(expected) {
            let found = broker.inspect().look_ahead("q", most, words).await.expect("it answers");
            assert_eq!(found, expected, "{}, of {most}", String::from_utf8_lossy(words[words.len() - 1]));
        }
    }
    assert!(!broker.inspect().look_ahead("unknown", 8, words[0]).await.expect("it answers"));
    let consumer = subject.consumer(&["q"]).await;
    assert_eq!(ids(&claim(&*consumer, 4).await), names, "all are there");
}

/// What is held is not thrown away.
pub async fn purge_throws_away_what_waits(subject: Arc<Subject>) {
    let broker = subject.broker();
    broker.publish(&[message("q", "held"), message("q", "one"), with_priority("q", 6, "two")]).await.expect("it is published");
    publish(&*broker, "other", &["kept"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let held = claim(&*consumer, 1).await;
    // One may be on its way to the consumer, ahead of a claim, and comes back.
    let (mut purged, begun) = (0, Instant::now());
    while purged < 2 && begun.elapsed() < SOON {
        purged += broker.purge("q").await.expect("it purges");
    }
    assert_eq!(purged, 2);
    assert_eq!(broker.purge("q").await.expect("it purges"), 0);
    let states = broker.queues(&["q".into(), "other".into()]).await.expect("it answers");
    assert_eq!((states[0].waiting, states[0].held, states[1].waiting), (0, subject.held(1), 1));
    assert_eq!(end(&*consumer, &held, End::Ack).await, [crate::Ended::Done]);
}

/// To another queue, as they are.
pub async fn transfer_moves_what_waits_in_order(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "to", &["t1"]).await;
    broker.publish(&[with_priority("from", 3, "f3"), message("from", "f1"), message("from", "f2")]).await.expect("it is published");
    assert_eq!(broker.inspect().transfer("from", "to").await.expect("it moves"), 3);
    assert_eq!(broker.inspect().transfer("from", "to").await.expect("it moves"), 0);
    let seen: Vec<_> = broker.inspect().peek("to", 10).await.expect("it answers").iter().map(|raw| id(raw)).collect();
    assert_eq!(seen, ["t1", "f1", "f2", "f3"]);
    assert_eq!(
        broker.queues(&["from".into()]).await.expect("it answers")[0],
        QueueState { name: "from".to_owned(), ..QueueState::default() }
    );
    assert_eq!(broker.inspect().transfer("to", "to").await.expect("to itself is nothing to do"), 0);
    assert_eq!(broker.queues(&["to".into()]).await.expect("it answers")[0].waiting, 4);
}

/// Waiting, held, dead, or nowhere.
pub async fn a_task_is_found_where_it_is(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["held", "dead", "w1", "w2"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 2).await;
    end(&*consumer, &claimed[1..], End::Dead { reason: "for a reason".to_owned() }).await;
    let doing = async |id: &str| {
        let found = broker.inspect().find(id).await.expect("it answers");
        assert!(found.iter().all(|found| found.queue == "q" && super::kit::id(&found.raw) == id), "{found:?}");
        found.into_iter().map(|found| found.doing).collect::<Vec<_>>()
    };
    let waits = doing("w2").await;
    let lately = |since: Option<SystemTime>| since.is_none_or(|since| since.elapsed().is_ok_and(|age| age < Duration::from_secs(60)));
    assert!(matches!(waits[..], [Doing::Waiting { place: 2, of: 2, since }] if lately(since)), "{waits:?}");
    assert_eq!(doing("dead").await, [Doing::Dead { reason: "for a reason".to_owned() }]);
    let held = doing("held").await;
    assert!(matches!(&held[..], [Doing::Held { by: Some(node), .. }] if node == "suite@here"), "{held:?}");
    assert_eq!(doing("w").await, []);
}

/// What is lent, what waits, what is held back; of each no more than is wanted.
pub async fn all_that_lies_in_the_queues_is_listed(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["held", "w1", "w2", "w3"]).await;
    publish(&*broker, "other", &["x"]).await;
    let far = SystemTime::now() + Duration::from_secs(86_400);
    broker.publish(&[due("next", "eta", far, &iso(far))]).await.expect("it is published");
    let consumer = subject.consumer(&["q"]).await;
    let _held = claim(&*consumer, 1).await;
    let all = async |queue, most| {
        let found = broker.inspect().list(queue, most).await.expect("it answers");
        let mut seen: Vec<_> = found.into_iter().map(|found| (found.queue, id(&found.raw), found.doing)).collect();
        seen.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        seen
    };
    let seen = all(Some("q"), 2).await;
    assert!(
        matches!(&seen[0], (queue, id, Doing::Held { by: Some(node), since: Some(_) }) if queue == "q" && id == "held" && node == "suite@here")
    );
    let places: Vec<_> = seen[1..]
        .iter()
        .map(|(queue, id, doing)| match doing {
            Doing::Waiting { place, of, .. } => (queue.as_str(), id.as_str(), *place, *of),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [("q", "w1", 1, 3), ("q", "w2", 2, 3)], "two of each");
    let seen = all(None, 100).await;
    assert_eq!(seen.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>(), ["eta", "x", "held", "w1", "w2", "w3"]);
    assert!(matches!(seen[0].2, Doing::Later { .. } | Doing::Waiting { .. }), "held back, or by its worker");
    assert!(all(Some("unknown"), 10).await.is_empty());
    for (queue, most, wanted) in [("q", 9, &["held"][..]), ("q", 0, &[]), ("other", 9, &[]), ("unknown", 9, &[])] {
        let held = broker.inspect().held(queue, most).await.expect("it answers");
        assert!(held.iter().all(|found| matches!(&found.doing, Doing::Held { by: Some(node), .. } if node == "suite@here")), "{held:?}");
        assert_eq!(held.iter().map(|found| id(&found.raw)).collect::<Vec<_>>(), wanted, "{queue}");
    }
}

/// Name and version.
pub async fn a_ping_names_the_system(subject: Arc<Subject>) {
    let (name, _) = subject.broker().ping().await.expect("it answers");
    assert!(name.contains(|c: char| c.is_ascii_digit()), "a version: {name}");
}

/// By their URLs.
pub async fn broker_and_results_agree_that_they_are_one_store(subject: Arc<Subject>) {
    let (broker, results) = subject.pair();
    let (name, _) = broker.ping().await.expect("it answers");
    assert_eq!(results.ping().await.expect("it answers").0, name);
    assert!(broker.is_store_of(results.url()));
    assert!(!broker.is_store_of("memory://of-nobody"));
}
