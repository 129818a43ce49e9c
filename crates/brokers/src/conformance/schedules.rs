//! Cases about schedules, and which of several schedulers fires them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Subject,
    kit::{SOON, message},
};
use crate::{
    halves::{Fired, Firing, Leading, ScheduleRow, SchedulerName, Schedules},
    message::Outgoing,
};

/// A term that no case sees the end of.
const LONG: Duration = Duration::from_secs(60);

fn named(word: &str) -> SchedulerName {
    SchedulerName { token: format!("token-{word}"), node: format!("{word} at here") }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
}

fn firing(word: &str, name: &str, due: u64, message: Option<Outgoing>) -> Firing {
    Firing { scheduler: named(word), name: name.to_owned(), since: at(0), due: at(due), at: at(due + 1), message }
}

async fn rows(store: &dyn Schedules) -> Vec<ScheduleRow> {
    store.schedules().await.expect("it answers").rows
}

async fn leads(store: &dyn Schedules, word: &str, term: Duration) -> bool {
    matches!(store.lead(&named(word), term).await.expect("it answers"), Leading::Ours { .. })
}

/// One that says the same again is not changed; one that says something else begins anew.
pub async fn schedules_are_kept_listed_paused_and_forgotten(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let (one, other) = (one.schedules(), other.schedules());
    assert_eq!(rows(one).await, []);
    assert!(!one.remove("none").await.expect("it answers") && !one.pause_schedule("none", Some("me"), at(0)).await.expect("it answers"));
    let millis = Duration::from_millis(7);
    assert!(one.put("b", b"{\"x\": \"\xc3\xa4 |\"}", at(0) + millis).await.expect("it is kept"));
    assert!(one.put("a b: c", b"1", at(1)).await.expect("it is kept"));
    assert!(!other.put("b", b"{\"x\": \"\xc3\xa4 |\"}", at(9)).await.expect("it answers"));
    let row = |name: &str, spec: &[u8], since| ScheduleRow {
        name: name.to_owned(),
        spec: spec.to_owned(),
        since,
        last: None,
        sent: None,
        fired: 0,
        paused: None,
    };
    assert_eq!(rows(other).await, [row("a b: c", b"1", at(1)), row("b", b"{\"x\": \"\xc3\xa4 |\"}", at(0) + millis)]);
    assert!(other.put("a b: c", b"2", at(5)).await.expect("it is kept"));
    assert!(other.pause_schedule("b", Some("me at home"), at(6)).await.expect("it answers"));
    let mut paused = row("b", b"{\"x\": \"\xc3\xa4 |\"}", at(0) + millis);
    paused.paused = Some(("me at home".to_owned(), at(6)));
    assert_eq!(rows(one).await, [row("a b: c", b"2", at(5)), paused]);
    for _ in 0..2 {
        assert!(one.pause_schedule("b", None, at(8)).await.expect("it answers"));
    }
    assert!(one.remove("a b: c").await.expect("it answers") && !one.remove("a b: c").await.expect("it answers"));
    assert_eq!(rows(one).await, [row("b", b"{\"x\": \"\xc3\xa4 |\"}", at(8))], "one that is resumed begins anew");
}

/// Where it still says what was read of it: then it is due as if it had said so from the first.
pub async fn what_a_schedule_says_changes_and_its_times_go_on(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let (one, other) = (one.schedules(), other.schedules());
    assert!(!one.amend("a", b"1", b"2").await.expect("it answers"), "there is none");
    one.put("a", b"1", at(0)).await.expect("it is kept");
    let lead = async || match one.lead(&named("one"), LONG).await.expect("it answers") {
        Leading::Ours { version } => version,
        Leading::Theirs { node } => panic!("{node} leads"),
    };
    lead().await;
    assert_eq!(one.fire(&firing("one", "a", 10, None)).await.expect("it answers"), Fired::Done);
    other.pause_schedule("a", Some("me"), at(11)).await.expect("it answers");
    let (before, version) = (rows(one).await.remove(0), lead().await);
    assert!(other.amend("a", b"1", b"\xc3\xa4").await.expect("it answers"));
    assert_eq!(rows(one).await, [ScheduleRow { spec: b"\xc3\xa4".to_vec(), ..before.clone() }]);
    let amended = lead().await;
    assert_ne!(amended, version, "who leads reads it");
    assert!(!other.amend("a", b"1", b"3").await.expect("it answers"), "somebody else has changed it");
    assert_eq!((rows(one).await.remove(0).spec, lead().await), (b"\xc3\xa4".to_vec(), amended));
}

/// The one that leads goes on leading; the other takes over when it has left or its term is over.
pub async fn one_of_two_schedulers_leads_until_it_leaves_or_its_term_is_over(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let (one, other) = (one.schedules(), other.schedules());
    assert!(leads(one, "one", LONG).await && leads(one, "one", LONG).await);
    assert_eq!(other.lead(&named("other"), LONG).await.expect("it answers"), Leading::Theirs { node: "one at here".to_owned() });
    other.resign(&named("other")).await.expect("it was never its own");
    assert!(!leads(other, "other", LONG).await);
    assert_eq!(other.schedules().await.expect("it answers").leader.as_deref(), Some("one at here"));
    one.resign(&named("one")).await.expect("it leaves");
    assert!(leads(other, "other", LONG).await, "what was left is taken over");
    assert!(!leads(one, "one", LONG).await, "it has left");
    assert!(leads(other, "other", Duration::from_millis(300)).await);
    let begun = std::time::Instant::now();
    while !leads(one, "one", LONG).await {
        assert!(begun.elapsed() < SOON, "a term that is over passes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!leads(other, "other", LONG).await);
}

/// So that who leads reads them again, and only then.
pub async fn a_change_of_the_schedules_is_seen_by_who_leads(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let (one, other) = (one.schedules(), other.schedules());
    let mut seen = Vec::new();
    for change in 0..5 {
        match change {
            1 => assert!(other.put("a", b"1", at(0)).await.expect("it is kept")),
            2 => assert!(!other.put("a", b"1", at(1)).await.expect("it is kept")),
            3 => assert!(other.pause_schedule("a", Some("me"), at(0)).await.expect("it answers")),
            4 => assert!(other.remove("a").await.expect("it answers")),
            _ => {}
        }
        let Leading::Ours { version } = one.lead(&named("one"), LONG).await.expect("it answers") else { panic!("it leads") };
        seen.push(version);
    }
    let changed: Vec<bool> = seen.windows(2).map(|two| two[0] != two[1]).collect();
    assert_eq!(changed, [true, false, true, true], "{seen:?}");
}

/// Whoever asks again is told so; who does not lead, and who knows another schedule, does nothing.
pub async fn a_due_time_is_noted_once_and_by_who_leads(subject: Arc<Subject>) {
    let (one, other) = (subject.broker(), subject.broker());
    let (one, other) = (one.schedules(), other.schedules());
    one.put("a", b"1", at(0)).await.expect("it is kept");
    let fire = async |store: &dyn Schedules, firing: Firing| store.fire(&firing).await.expect("it answers");
    assert_eq!(fire(one, firing("one", "a", 10, None)).await, Fired::NotLeading);
    assert!(leads(one, "one", LONG).await);
    assert_eq!(fire(one, firing("one", "a", 10, None)).await, Fired::Done);
    assert_eq!(fire(one, firing("one", "a", 10, None)).await, Fired::Already);
    assert_eq!(fire(one, firing("one", "a", 9, None)).await, Fired::Already);
    assert_eq!(fire(other, firing("other", "a", 20, None)).await, Fired::NotLeading);
    assert_eq!(fire(one, firing("one", "none", 20, None)).await, Fired::Changed);
    let [row] = &rows(other).await[..] else { panic!("one schedule") };
    assert_eq!((row.last, row.sent, row.fired), (Some(at(10)), Some(at(11)), 1));
    // What it says now is another schedule, and its last due time stays.
    one.put("a", b"2", at(3)).await.expect("it is kept");
    assert_eq!(fire(one, firing("one", "a", 20, None)).await, Fired::Changed);
    let mut anew = firing("one", "a", 20, None);
    anew.since = at(3);
    assert_eq!(fire(one, anew.clone()).await, Fired::Done);
    anew.due = at(30);
    one.pause_schedule("a", Some("me"), at(25)).await.expect("it answers");
    assert_eq!(fire(one, anew.clone()).await, Fired::Changed);
    // Resumed by a clock that was put back: what it had fired by then may come again.
    one.pause_schedule("a", None, at(15)).await.expect("it answers");
    let [row] = &rows(other).await[..] else { panic!("one schedule") };
    assert_eq!((row.since, row.last, row.fired), (at(15), Some(at(15)), 2));
    (anew.since, anew.due) = (at(15), at(16));
    assert_eq!(fire(one, anew).await, Fired::Done);
}

/// However often and by however many it is asked for.
pub async fn a_due_time_sends_its_message_in_the_step_that_notes_it(subject: Arc<Subject>) {
    let broker = subject.broker();
    let store = broker.schedules();
    store.put("a", b"1", at(0)).await.expect("it is kept");
    let fire = async |due: u64| {
        let firing = firing("one", "a", due, Some(message("q", &due.to_string())));
        store.fire(&firing).await.expect("it answers")
    };
    assert_eq!(fire(1).await, Fired::NotLeading);
    assert!(leads(store, "one", LONG).await);
    for due in 1..=20 {
        let (first, second, third) = tokio::join!(fire(due), fire(due), fire(due));
        let mut answers = [first, second, third];
        answers.sort_by_key(|fired| *fired != Fired::Done);
        assert_eq!(answers, [Fired::Done, Fired::Already, Fired::Already], "{due}");
    }
    let consumer = subject.consumer(&["q"]).await;
    let ids = super::kit::claim_singly(&*consumer, 20).await;
    assert_eq!(ids, (1..=20).map(|due: u64| due.to_string()).collect::<Vec<_>>());
    super::kit::nothing_comes(consumer).await;
}

/// And the schedule stands as it did.
pub async fn a_message_that_is_refused_is_not_noted(subject: Arc<Subject>) {
    let broker = subject.broker();
    let store = broker.schedules();
    store.put("a", b"1", at(0)).await.expect("it is kept");
    assert!(leads(store, "one", LONG).await);
    let refused = firing("one", "a", 1, Some(message("", "x")));
    store.fire(&refused).await.expect_err("no queue has this name");
    assert_eq!(rows(store).await[0].last, None);
    assert_eq!(store.fire(&firing("one", "a", 1, Some(message("q", "y")))).await.expect("it answers"), Fired::Done);
}
