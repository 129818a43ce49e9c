//! Cases about the ends of claimed messages.

use std::{sync::Arc, time::Duration};

use longshore_core::{Receipt, source::Fetched};

use super::{
    Subject,
    kit::{claim, claim_singly, end, finish, id, ids, message, nothing_comes, open_early, publish},
};
use crate::{
    message::{End, Ended, Finish},
    results::{ChordPart, Key, PartState, Stored},
};

/// For good.
pub async fn an_acknowledged_message_is_gone(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["one"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 1).await;
    assert_eq!(end(&*consumer, &claimed, End::Ack).await, [Ended::Done]);
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.held, state.dead), (0, 0, 0));
    drop(consumer);
    nothing_comes(subject.consumer(&["q"]).await).await;
}

/// To be run by anybody, marked as lent before.
pub async fn a_message_goes_back_to_the_front_or_to_the_back(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["back", "front", "third"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 2).await;
    assert_eq!(end(&*consumer, &claimed[..1], End::Back { front: false }).await, [Ended::Done]);
    assert_eq!(end(&*consumer, &claimed[1..], End::Back { front: true }).await, [Ended::Done]);
    let mut again = claim(&*consumer, 3).await;
    if subject.lacks.front {
        again.sort_by_key(|claimed| std::cmp::Reverse((id(&claimed.raw) == "front", id(&claimed.raw))));
    }
    assert_eq!(ids(&again), ["front", "third", "back"]);
    let blamed: Vec<_> = again.iter().map(|claimed| (claimed.redelivered, claimed.crashes)).collect();
    assert_eq!(blamed[..2], [(true, subject.handed_back()), (false, 0)]);
    assert_eq!(blamed[2].1, 0);
    again.extend(claimed);
    let receipts: std::collections::BTreeSet<_> = again.iter().map(|claimed| claimed.receipt).collect();
    assert_eq!(receipts.len(), 5, "a receipt names one lending");
}

/// As the last step of a finish that is not the last.
pub async fn a_kept_message_stays_claimed(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["one"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 1).await;
    let next = Finish { publish: vec![message("next", "two")], ..finish(claimed[0].receipt, End::Keep) };
    assert_eq!(consumer.finish(&[next]).await.expect("it finishes"), [Ended::Done]);
    assert_eq!(broker.queues(&["q".into()]).await.expect("it answers")[0].held, subject.held(1));
    assert_eq!(broker.queues(&["next".into()]).await.expect("it answers")[0].waiting, 1);
    assert_eq!(end(&*consumer, &claimed, End::Ack).await, [Ended::Done]);
}

/// A second time, in another call or in the same.
pub async fn what_was_finished_is_refused(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["one", "two"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 2).await;
    let one = claimed[0].receipt;
    assert_eq!(consumer.finish(&[finish(one, End::Ack), finish(one, End::Ack)]).await.expect("it finishes"), [Ended::Done, Ended::Refused]);
    end(&*consumer, &claimed[1..], End::Back { front: true }).await;
    let again = claim(&*consumer, 1).await;
    assert_eq!(end(&*consumer, &claimed[1..], End::Ack).await, [Ended::Refused], "the old lending is over");
    assert_eq!(end(&*consumer, &again, End::Ack).await, [Ended::Done]);
    let unknown = finish(Receipt(u64::MAX), End::Ack);
    assert_eq!(consumer.finish(&[unknown]).await.expect("it finishes"), [Ended::Refused]);
}

/// Nothing of it is done.
pub async fn what_was_handed_back_is_refused_whole(subject: Arc<Subject>) {
    let (broker, results) = subject.pair();
    publish(&*broker, "q", &["one"]).await;
    let late = subject.consumer(&["q"]).await;
    let claimed = claim(&*late, 1).await;
    late.leave().await.expect("it leaves");
    let consumer = subject.consumer(&["q"]).await;
    let again = claim(&*consumer, 1).await;
    let doc = br#"{"status": "SUCCESS", "result": "late", "task_id": "one"}"#.to_vec();
    let stored = Stored { key: Key::Task("one".to_owned()), doc, expires: None, keep_success: false, reply_to: None };
    let finish = Finish { publish: vec![message("next", "late")], results: vec![stored], ..finish(claimed[0].receipt, End::Ack) };
    assert_eq!(late.finish(&[finish]).await.expect("it answers"), [Ended::Refused]);
    assert!(broker.inspect().peek("next", 9).await.expect("it answers").is_empty());
    assert_eq!(results.get(&[Key::Task("one".to_owned())]).await.expect("it answers"), [None]);
    assert_eq!(end(&*consumer, &again, End::Ack).await, [Ended::Done]);
}

/// All of it.
pub async fn one_finish_publishes_stores_and_ends(subject: Arc<Subject>) {
    let (broker, results) = subject.pair();
    publish(&*broker, "q", &["one"]).await;
    results.chord_start("chord", 2, Duration::from_secs(60)).await.expect("it starts");
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 1).await;
    let doc = br#"{"status": "SUCCESS", "result": 1, "task_id": "one"}"#.to_vec();
    let finish = Finish {
        receipt: claimed[0].receipt,
        publish: vec![message("next", "callback"), message("other", "link")],
        results: vec![Stored { key: Key::Task("one".to_owned()), doc: doc.clone(), expires: None, keep_success: false, reply_to: None }],
        part: Some(part("chord", "one", 0, "token")),
        end: End::Ack,
    };
    assert_eq!(consumer.finish(&[finish]).await.expect("it finishes"), [Ended::Done]);
    assert_eq!(broker.inspect().peek("next", 9).await.expect("it answers").iter().map(|raw| id(raw)).collect::<Vec<_>>(), ["callback"]);
    assert_eq!(broker.inspect().peek("other", 9).await.expect("it answers").len(), 1);
    assert_eq!(results.get(&[Key::Task("one".to_owned())]).await.expect("it answers"), [Some(doc)]);
    assert_eq!(results.chord_parts("chord").await.expect("it answers").len(), 1);
    assert_eq!(broker.queues(&["q".into()]).await.expect("it answers")[0].held, 0);
}

pub(super) fn part(group: &str, id: &str, index: i64, token: &str) -> ChordPart {
    let member = format!(r#"[1, "{id}", "SUCCESS", {index}]"#).into_bytes();
    let (group, id, token) = (group.to_owned(), id.to_owned(), token.to_owned());
    ChordPart { group, id, index: Some(index), member, expires: Duration::from_secs(60), token }
}

/// So that its body is sent first.
pub async fn a_finish_that_completes_a_chord_keeps_its_message(subject: Arc<Subject>) {
    let (broker, results) = subject.pair();
    publish(&*broker, "q", &["one", "two"]).await;
    results.chord_start("chord", 2, Duration::from_secs(60)).await.expect("it starts");
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 2).await;
    let parts: Vec<_> = (0..2_u8)
        .map(|at| {
            let (claimed, name) = (&claimed[usize::from(at)], format!("token-{at}"));
            Finish { part: Some(part("chord", &id(&claimed.raw), at.into(), &name)), ..finish(claimed.receipt, End::Ack) }
        })
        .collect();
    let ended = consumer.finish(&parts).await.expect("it finishes");
    assert_eq!(ended, [Ended::Done, Ended::Complete(PartState::Ours { token: "token-1".to_owned() })]);
    assert_eq!(broker.queues(&["q".into()]).await.expect("it answers")[0].held, 1);
    let body = Finish { publish: vec![message("q", "body")], ..finish(claimed[1].receipt, End::Ack) };
    assert_eq!(consumer.finish(&[body]).await.expect("it finishes"), [Ended::Done]);
    assert!(results.chord_over("chord", "token-1").await.expect("it answers"));
    assert_eq!(claim_singly(&*consumer, 1).await, ["body"]);
}

/// One answer for each, in their order.
pub async fn the_endings_of_a_batch_are_told_in_order(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["ack", "back", "dead", "keep", "gone"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 5).await;
    end(&*consumer, &claimed[4..], End::Ack).await;
    let ends = [End::Ack, End::Back { front: true }, End::Dead { reason: "bad".to_owned() }, End::Keep, End::Ack];
    let batch: Vec<_> = claimed.iter().zip(ends).map(|(claimed, end)| finish(claimed.receipt, end)).collect();
    let ended = consumer.finish(&batch).await.expect("it finishes");
    assert_eq!(ended, [Ended::Done, Ended::Done, Ended::Done, Ended::Done, Ended::Refused]);
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    // What went back may be on its way to us again.
    let waiting = if subject.lacks.held { state.waiting } else { 1 };
    assert_eq!((state.waiting, state.held, state.dead), (waiting, subject.held(1), 1));
    assert_eq!(consumer.finish(&[]).await.expect("it finishes"), []);
}

/// The latest first.
pub async fn dead_letters_are_shown_retried_and_thrown_away(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["one", "two", "three"]).await;
    publish(&*broker, "other", &["four"]).await;
    let consumer = subject.consumer(&["q", "other"]).await;
    for claimed in claim(&*consumer, 4).await {
        let reason = format!("because of {}", id(&claimed.raw));
        assert_eq!(end(&*consumer, &[claimed], End::Dead { reason }).await, [Ended::Done]);
    }
    assert_eq!(broker.letters().dead(None).await.expect("it answers").len(), 4);
    let letters = broker.letters().dead(Some("q")).await.expect("it answers");
    assert_eq!(letters.iter().map(|letter| id(&letter.raw)).collect::<Vec<_>>(), ["three", "two", "one"]);
    assert_eq!((&*letters[2].queue, &*letters[2].reason, letters[2].crashes), ("q", "because of one", 0));
    assert!(letters[2].at.elapsed().unwrap_or_default() < Duration::from_secs(60));
    assert_eq!(broker.letters().bury(&letters[..2], true).await.expect("it answers"), 2);
    assert_eq!(broker.letters().bury(&letters, false).await.expect("it answers"), 1, "two of them are dead no more");
    assert_eq!(broker.letters().dead(Some("q")).await.expect("it answers"), []);
    assert_eq!(broker.letters().dead(None).await.expect("it answers").len(), 1);
    let mut again = ids(&claim(&*consumer, 2).await);
    again.sort();
    assert_eq!(again, ["three", "two"]);
}

/// One more than a broker that keeps a limited number of them does, each for the same reason. What
/// it throws away is junk, and is counted.
pub async fn so_much_junk_pushes_no_dead_letter_out(subject: Arc<Subject>) {
    const MUCH: usize = 10_001;
    let broker = subject.broker();
    publish(&*broker, "q", &["real"]).await;
    let consumer = subject.consumer(&["q"]).await;
    end(&*consumer, &claim(&*consumer, 1).await, End::Dead { reason: "it was rejected".to_owned() }).await;
    let names: Vec<String> = (0..MUCH).map(|number| format!("junk {number}")).collect();
    for some in names.chunks(500) {
        publish(&*broker, "q", &some.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let ended = end(&*consumer, &claim(&*consumer, some.len()).await, End::Junk { reason: "nobody knows it".to_owned() }).await;
        assert!(ended.iter().all(|ended| *ended == Ended::Done));
    }
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.held, state.dead + state.dead_dropped), (0, 0, MUCH as u64 + 1), "{state:?}");
    let letters = broker.letters().dead(Some("q")).await.expect("it answers");
    assert_eq!(letters.len() as u64, state.dead);
    let real: Vec<_> = letters.iter().filter(|letter| letter.reason == "it was rejected").map(|letter| id(&letter.raw)).collect();
    assert_eq!(real, ["real"]);
    // A broker that keeps no more than so many has thrown the oldest away.
    assert!(matches!(state.dead_dropped, 0 | 1), "{state:?}");
    let has = |name: &str| letters.iter().any(|letter| id(&letter.raw) == name);
    assert_eq!((has("junk 0"), has("junk 1")), (state.dead_dropped == 0, true));
}

/// As a worker stops: it takes nothing more, and lets what runs end.
pub async fn what_was_claimed_before_a_close_is_finished_after_it(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["runs", "second", "waits"]).await;
    let consumer = subject.consumer(&["q"]).await;
    let claimed = claim(&*consumer, 2).await;
    consumer.close();
    let mut more = Vec::new();
    while !matches!(consumer.claim(10, &mut more).await.expect("it answers"), Fetched::End) {}
    // Others may be served meanwhile, and the connection looked after.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let all: Vec<_> = claimed.into_iter().chain(more).collect();
    assert_eq!(end(&*consumer, &all, End::Ack).await, vec![Ended::Done; all.len()]);
    consumer.leave().await.expect("it leaves");
    let other = subject.consumer(&["q"]).await;
    if all.len() < 3 {
        assert_eq!(ids(&claim(&*other, 1).await), ["waits"]);
    }
    drop(other);
}

/// In the order in which they were claimed, blaming nobody.
pub async fn a_consumer_that_leaves_hands_back_to_the_front(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["1", "2", "3", "4"]).await;
    let leaves = subject.consumer(&["q"]).await;
    let claimed = claim(&*leaves, 3).await;
    end(&*leaves, &claimed[1..2], End::Ack).await;
    leaves.leave().await.expect("it leaves");
    let consumer = subject.consumer(&["q"]).await;
    let again = claim(&*consumer, 3).await;
    assert_eq!(ids(&again), ["1", "3", "4"]);
    let told: Vec<_> = again.iter().map(|claimed| (claimed.redelivered, claimed.crashes)).collect();
    if subject.lacks.innocence {
        // The last may have been sent ahead, or not.
        assert_eq!(told[..2], [(true, 1), (true, 1)]);
    } else {
        assert_eq!(told, [(true, 0), (true, 0), (false, 0)]);
    }
}

/// A broker that gives messages has nothing more to do with them until they are held: then they are
/// lent like others. The rest lend them as ever.
pub async fn what_is_given_is_forgotten_unless_it_is_held(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["a", "b", "c", "d"]).await;
    let consumer = open_early(&*broker, &["q"]).await;
    let claimed = claim(&*consumer, 4).await;
    assert_eq!(ids(&claimed), ["a", "b", "c", "d"]);
    let gives = claimed[0].given;
    assert!(claimed.iter().all(|claimed| claimed.given == gives));
    let held = async || broker.queues(&["q".into()]).await.expect("it answers").remove(0).held;
    assert_eq!(held().await, if gives { 0 } else { subject.held(4) });
    consumer.hold(&claimed[1..]).await.expect("they are held");
    consumer.hold(&claimed[2..]).await.expect("twice is as good as once");
    assert_eq!(held().await, if gives { 3 } else { subject.held(4) });
    let loaded = consumer.load(&[claimed[2].receipt]).await.expect("it is there");
    assert_eq!(loaded, [Some(claimed[2].raw.clone())]);
    assert_eq!(end(&*consumer, &claimed[1..2], End::Ack).await, [Ended::Done]);
    assert_eq!(end(&*consumer, &claimed[2..3], End::Back { front: true }).await, [Ended::Done]);
    assert_eq!(ids(&claim(&*consumer, 1).await), ["c"]);
    consumer.close();
    consumer.leave().await.expect("it leaves");
    // "d" was held; "c" was given once more and not held, "a" never was.
    let left = (if gives { 1 } else { 3 }, 0);
    let stands = async || {
        let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
        (state.waiting, state.held)
    };
    // A server may put back what was lent a moment after it has let its consumer go.
    for _ in 0..200 {
        if stands().await == left {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stands().await, left);
}
