//! Cases about what all workers share beside messages: the slots of rates, and the ids that are
//! called off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::Rate;

use super::{Subject, kit::SOON};
use crate::{
    halves::{MOST_REVOKED, SharedState},
    rates::{AHEAD, Slot},
    send_notes::{NotedEnd, NotedSend, SendNote},
};

/// Asks until so many slots are reserved; each with the earliest and the latest time that it may
/// stand for.
async fn collect(shared: &dyn SharedState, rate: Rate, step: usize, count: usize) -> Vec<(Instant, Instant)> {
    let mut slots = Vec::new();
    while slots.len() < count {
        let early = Instant::now();
        let got = shared.reserve("shared", rate, step.min(count - slots.len())).await.expect("it answers");
        let late = Instant::now();
        let mut again = None;
        for slot in got {
            match slot {
                Slot::Reserved(wait) => slots.push((early + wait, late + wait)),
                Slot::Ask(after) => again = again.or(Some(after)),
            }
        }
        if let Some(after) = again {
            assert!(after < SOON, "{after:?}");
            tokio::time::sleep(after).await;
        }
    }
    slots
}

/// Two handles, as two workers have them: in no window more than burst + rate × window.
pub async fn a_rate_is_kept_by_all_who_share_it(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let rate = Rate::per_second(40.0).burst(3);
    let (mut slots, more) = tokio::join!(collect(one.shared(), rate, 7, 75), collect(other.shared(), rate, 4, 75));
    slots.extend(more);
    // The true times lie between these, place by place.
    let (mut earliest, mut latest): (Vec<_>, Vec<_>) = slots.into_iter().unzip();
    earliest.sort();
    latest.sort();
    for (first, from) in earliest.iter().enumerate() {
        for (last, to) in latest.iter().enumerate().skip(first + 3) {
            let (window, least) = (*to - *from, rate.interval() * u32::try_from(last - first - 2).expect("few"));
            // A microsecond for each of both ends, which are rounded.
            assert!(window + Duration::from_micros(2) >= least, "{first} to {last}: {window:?}, not {least:?}");
        }
    }
}

/// To the microsecond; what is too far ahead is to be asked for again, in time.
pub async fn the_slots_of_a_rate_are_evenly_spaced_and_not_far_ahead(subject: Arc<Subject>) {
    let broker = subject.broker();
    let slots = broker.shared().reserve("even", Rate::per_second(100.0), 500).await.expect("it answers");
    assert_eq!(slots.len(), 500);
    for (place, slot) in (0_u32..).zip(&slots) {
        let wait = Duration::from_millis(10) * place;
        match slot {
            Slot::Reserved(ahead) => assert!(*ahead == wait && wait <= AHEAD, "{place}: {ahead:?}"),
            Slot::Ask(after) => assert!(wait > AHEAD && *after > wait - AHEAD && *after < wait, "{place}: {after:?}"),
        }
    }
    assert!(matches!(
        broker.shared().reserve("other", Rate::per_second(100.0), 1).await.expect("it answers")[..],
        [Slot::Reserved(Duration::ZERO)]
    ));
    assert_eq!(broker.shared().reserve("even", Rate::per_second(100.0), 0).await.expect("it answers"), []);
}

/// A slower one and a faster one.
pub async fn a_changed_rate_holds_behind_what_is_reserved(subject: Arc<Subject>) {
    let broker = subject.broker();
    let begun = Instant::now();
    let first = broker.shared().reserve("shared", Rate::per_second(10.0), 2).await.expect("it answers");
    assert_eq!(first, [Slot::Reserved(Duration::ZERO), Slot::Reserved(Duration::from_millis(100))]);
    let slow = Rate { count: 1.0, per: Duration::from_secs(3600), burst: 1 };
    let slots = broker.shared().reserve("shared", slow, 2).await.expect("it answers");
    assert!(
        matches!(slots[..], [Slot::Reserved(wait), Slot::Ask(after)] if wait <= Duration::from_millis(200) && after > SOON),
        "{slots:?}"
    );
    let slots = collect(broker.shared(), Rate::per_second(10.0), 2, 2).await;
    let (earliest, latest) = slots[0];
    assert!(latest >= begun + Duration::from_millis(300), "it is behind what was reserved");
    assert!(earliest <= Instant::now() + AHEAD, "it does not wait for an hour");
}

/// What nobody asked for is gone.
pub async fn an_idle_rate_saves_up_no_more_than_its_burst(subject: Arc<Subject>) {
    let broker = subject.broker();
    for (name, burst) in [("one", 1), ("three", 3)] {
        let rate = Rate::per_second(100.0).burst(burst);
        broker.shared().reserve(name, rate, 1).await.expect("it answers");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let slots = broker.shared().reserve(name, rate, 5).await.expect("it answers");
        let expected = (0..5_u32).map(|place| Slot::Reserved(Duration::from_millis(10) * (place + 1).saturating_sub(burst)));
        assert_eq!(slots, expected.collect::<Vec<_>>());
    }
}

/// Wherever it was set; until that is taken back.
pub async fn a_rate_that_is_set_holds_for_all_buckets_of_its_limit(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    assert_eq!(one.shared().limits().await.expect("it answers"), []);
    let quick = Rate::per_second(1000.0);
    let millis = Duration::from_millis;
    one.shared().set_limit("api", Some(Rate::per_second(10.0).burst(2))).await.expect("it is set");
    let slots = other.shared().reserve("api\u{1f}host", quick, 4).await.expect("it answers");
    assert_eq!(slots, [0, 0, 100, 200].map(|wait| Slot::Reserved(millis(wait))), "ten a second, two at once");
    assert_eq!(other.shared().reserve("free", quick, 2).await.expect("it answers"), [0, 1].map(|wait| Slot::Reserved(millis(wait))));
    let known = one.shared().limits().await.expect("it answers");
    let names: Vec<_> = known.iter().map(|limit| limit.name.as_str()).filter(|name| *name != "free").collect();
    assert_eq!(names, ["api", "api\u{1f}host"]);
    for limit in known.iter().filter(|limit| limit.name != "free") {
        let rate = limit.set.expect("it is set");
        assert_eq!((rate.count / rate.per.as_secs_f64(), rate.burst), (10.0, 2), "{limit:?}");
        assert!(limit.ahead <= millis(400) && (limit.name == "api") == limit.ahead.is_zero(), "{limit:?}");
    }
    other.shared().set_limit("api", None).await.expect("it is taken back");
    let slots = one.shared().reserve("api", quick, 2).await.expect("it answers");
    assert_eq!(slots, [0, 1].map(|wait| Slot::Reserved(millis(wait))));
}

/// In their order, each once.
pub async fn revoked_ids_are_known_to_whoever_comes_later(subject: Arc<Subject>) {
    let broker = subject.broker();
    assert_eq!(broker.shared().revoked().await.expect("it answers"), [""; 0]);
    broker.shared().revoke(&["a".to_owned(), "b".to_owned()]).await.expect("it is noted");
    broker.shared().revoke(&["c".to_owned(), "c".to_owned()]).await.expect("it is noted");
    broker.shared().revoke(&[]).await.expect("there is nothing to note");
    drop(broker);
    let later = subject.broker();
    assert_eq!(later.shared().revoked().await.expect("it answers"), ["a", "b", "c"]);
    later.shared().revoke(&["a".to_owned()]).await.expect("it is noted again");
    assert_eq!(later.shared().revoked().await.expect("it answers"), ["b", "c", "a"]);
}

/// Memory of them has a limit.
pub async fn the_oldest_of_too_many_revoked_ids_are_forgotten(subject: Arc<Subject>) {
    let broker = subject.broker();
    let ids: Vec<String> = (0..MOST_REVOKED + 10).map(|number| number.to_string()).collect();
    broker.shared().revoke(&ids[..20]).await.expect("it is noted");
    broker.shared().revoke(&ids[20..]).await.expect("it is noted");
    let kept = broker.shared().revoked().await.expect("it answers");
    assert_eq!((kept.len(), kept.first(), kept.last()), (MOST_REVOKED, ids.get(10), ids.last()));
}

/// One worker at a time, until its note is taken back or its time is over.
pub async fn a_run_is_noted_by_one_worker_at_a_time(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let ids = ["a".to_owned(), "b".to_owned()];
    let long = Duration::from_secs(60);
    assert_eq!(one.shared().note_runs("one", &ids, long).await.expect("it is noted"), [true, true]);
    assert_eq!(one.shared().note_runs("one", &ids, long).await.expect("it is noted again"), [true, true]);
    let more = ["b".to_owned(), "c".to_owned()];
    // Who notes something for no time only looks.
    assert_eq!(other.shared().note_runs("", &more, Duration::ZERO).await.expect("it answers"), [false, true]);
    assert_eq!(other.shared().note_runs("other", &more, long).await.expect("it answers"), [false, true]);
    other.shared().forget_runs("other", &ids).await.expect("what is another's stays");
    assert_eq!(other.shared().note_runs("other", &ids, long).await.expect("it answers"), [false, false]);
    one.shared().forget_runs("one", &ids[..1]).await.expect("it is taken back");
    assert_eq!(other.shared().note_runs("other", &ids, long).await.expect("it answers"), [true, false]);
    assert_eq!(one.shared().note_runs("one", &ids[1..], Duration::from_millis(20)).await.expect("it is noted"), [true]);
    let end = std::time::Instant::now() + SOON;
    while other.shared().note_runs("other", &ids[1..], long).await.expect("it answers") != [true] {
        assert!(std::time::Instant::now() < end, "the time of the note is over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn send_note(digest: &str, id: &str, by: &str, hold: Duration, keep: Duration) -> SendNote {
    let [digest, id, by] = [digest, id, by].map(str::to_owned);
    SendNote { key: "ann:order 7".to_owned(), digest, id, by, hold, keep }
}

/// Two handles, as two servers have them.
pub async fn what_is_to_be_sent_once_is_for_one_to_send_at_a_time(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let long = Duration::from_secs(60);
    let ours = send_note("same", "id-1", "one", long, long);
    let theirs = send_note("same", "id-2", "other", long, long);
    let id = || "id-1".to_owned();
    assert_eq!(one.shared().note_send(&ours).await.expect("it is noted"), NotedSend::First);
    assert_eq!(other.shared().note_send(&theirs).await.expect("it answers"), NotedSend::Underway { id: id() });
    assert_eq!(one.shared().note_send(&ours).await.expect("it answers"), NotedSend::Unfinished { id: id() }, "who sends it asks again");
    let different = SendNote { digest: "different".to_owned(), ..theirs.clone() };
    assert_eq!(other.shared().note_send(&different).await.expect("it answers"), NotedSend::Other);
    // It is not for others to say that it was not sent, nor for another task.
    for (note, ending) in
        [(&theirs, NotedEnd::NotSent), (&theirs, NotedEnd::Unknown), (&different, NotedEnd::Sent), (&different, NotedEnd::NotSent)]
    {
        other.shared().end_send(note, ending).await.expect("it answers");
        assert_eq!(other.shared().note_send(&theirs).await.expect("it answers"), NotedSend::Underway { id: id() });
    }
    one.shared().end_send(&ours, NotedEnd::NotSent).await.expect("it was not sent");
    assert_eq!(one.shared().note_send(&ours).await.expect("it is noted anew"), NotedSend::First);
    one.shared().end_send(&ours, NotedEnd::Unknown).await.expect("it is unknown");
    assert_eq!(other.shared().note_send(&theirs).await.expect("it answers"), NotedSend::Unfinished { id: id() });
    assert_eq!(one.shared().note_send(&ours).await.expect("it answers"), NotedSend::Underway { id: id() });
    other.shared().end_send(&theirs, NotedEnd::Sent).await.expect("it was sent");
    for note in [&ours, &theirs] {
        assert_eq!(one.shared().note_send(note).await.expect("it answers"), NotedSend::Sent { id: id() });
        one.shared().end_send(note, NotedEnd::NotSent).await.expect("what was sent stays so");
    }
    assert_eq!(other.shared().note_send(&different).await.expect("it answers"), NotedSend::Other);
}

/// That of the sender first, then the note's own.
pub async fn a_note_of_a_sending_ends_with_its_time(subject: Arc<Subject>) {
    let broker = subject.broker();
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
    broker.shared().note_send(&send_note("same", "id-1", "one", short, long)).await.expect("it is noted");
    let other = send_note("same", "id-2", "other", short, long);
    let end = Instant::now() + SOON;
    while broker.shared().note_send(&other).await.expect("it answers") != (NotedSend::Unfinished { id: "id-1".to_owned() }) {
        assert!(Instant::now() < end, "the time of the sender is over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let note = |by| SendNote { key: "brief".to_owned(), ..send_note("same", "id-3", by, short, Duration::from_millis(200)) };
    broker.shared().note_send(&note("one")).await.expect("it is noted");
    broker.shared().end_send(&note("one"), NotedEnd::Sent).await.expect("it was sent");
    while broker.shared().note_send(&note("other")).await.expect("it answers") != NotedSend::First {
        assert!(Instant::now() < end, "the time of the note is over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
