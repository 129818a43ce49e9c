//! Counting the parts of chords.

use std::{sync::Arc, time::Duration};

use super::{Subject, endings::part};
use crate::results::{ChordPart, PartState, ResultBackend};

const LONG: Duration = Duration::from_secs(60);

async fn tell(results: &dyn ResultBackend, id: &str, index: i64, token: &str) -> PartState {
    results.chord_part(&part("g", id, index, token)).await.expect("it counts")
}

fn ours(token: &str) -> PartState {
    PartState::Ours { token: token.to_owned() }
}

/// Also if a part comes before the size is known.
pub async fn a_chord_is_complete_once_and_its_parts_are_in_order(subject: Arc<Subject>) {
    let results = subject.results();
    assert_eq!(tell(&*results, "b", 1, "t1").await, PartState::Waiting);
    results.chord_start("g", 4, LONG).await.expect("it starts");
    let nowhere = |id: &str| ChordPart { index: None, ..part("g", id, 7, "t2") };
    assert_eq!(results.chord_part(&nowhere("z")).await.expect("it counts"), PartState::Waiting);
    assert_eq!(tell(&*results, "c", 10, "t3").await, PartState::Waiting);
    assert_eq!(tell(&*results, "a", 0, "t4").await, ours("t4"));
    let parts = results.chord_parts("g").await.expect("it answers");
    let texts: Vec<_> = parts.iter().map(|part| String::from_utf8_lossy(part)).collect();
    assert_eq!(
        texts,
        [r#"[1, "a", "SUCCESS", 0]"#, r#"[1, "b", "SUCCESS", 1]"#, r#"[1, "c", "SUCCESS", 10]"#, r#"[1, "z", "SUCCESS", 7]"#],
        "by place, those without one last"
    );
    assert_eq!(results.chord_parts("another").await.expect("it answers"), Vec::<Vec<u8>>::new());
}

/// However often it is told.
pub async fn a_part_that_is_told_twice_counts_once(subject: Arc<Subject>) {
    let results = subject.results();
    results.chord_start("g", 2, LONG).await.expect("it starts");
    for _ in 0..3 {
        assert_eq!(tell(&*results, "a", 0, "t1").await, PartState::Waiting);
    }
    assert_eq!(tell(&*results, "b", 1, "t2").await, ours("t2"));
    assert_eq!(tell(&*results, "a", 0, "t3").await, PartState::Waiting, "another one has the right");
    assert_eq!(results.chord_parts("g").await.expect("it answers").len(), 2);
}

/// Exactly one.
pub async fn one_of_many_parts_at_once_has_the_right(subject: Arc<Subject>) {
    for round in 0..5 {
        let group = format!("g{round}");
        let handles = [subject.results(), subject.results(), subject.results()];
        handles[0].chord_start(&group, 24, LONG).await.expect("it starts");
        let telling: Vec<_> = (0..24_usize)
            .map(|at| {
                let (results, group) = (Arc::clone(&handles[at % 3]), group.clone());
                let index = i64::try_from(at).unwrap_or_default();
                tokio::spawn(async move { results.chord_part(&part(&group, &format!("p{at}"), index, &format!("t{at}"))).await })
            })
            .collect();
        let mut rights = 0;
        for told in telling {
            match told.await.expect("it does not panic").expect("it counts") {
                PartState::Ours { .. } => rights += 1,
                state => assert_eq!(state, PartState::Waiting),
            }
        }
        assert_eq!(rights, 1);
    }
}

/// To whoever tells a part again.
pub async fn a_right_that_runs_out_passes_on(subject: Arc<Subject>) {
    let results = subject.results();
    results.chord_start("g", 1, LONG).await.expect("it starts");
    assert_eq!(tell(&*results, "a", 0, "t1").await, ours("t1"));
    assert!(results.chord_extend("g", "t1", Duration::from_millis(1200)).await.expect("it answers"));
    assert!(!results.chord_extend("g", "t2", LONG).await.expect("it answers"), "it is not theirs");
    assert_eq!(tell(&*results, "a", 0, "t2").await, PartState::Waiting);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(tell(&*results, "a", 0, "t2").await, ours("t2"));
    assert!(!results.chord_extend("g", "t1", LONG).await.expect("it answers"));
    assert!(!results.chord_over("g", "t1").await.expect("it answers"));
    assert!(results.chord_over("g", "t2").await.expect("it answers"));
}

/// Whatever is told late; unless it is started again.
pub async fn a_chord_that_is_over_stays_over(subject: Arc<Subject>) {
    let results = subject.results();
    results.chord_start("g", 1, LONG).await.expect("it starts");
    assert_eq!(tell(&*results, "a", 0, "t1").await, ours("t1"));
    assert!(results.chord_over("g", "t1").await.expect("it answers"));
    assert_eq!(results.chord_parts("g").await.expect("it answers"), Vec::<Vec<u8>>::new());
    assert_eq!(tell(&*results, "a", 0, "t2").await, PartState::Over);
    assert!(!results.chord_over("g", "t1").await.expect("it answers"));
    results.chord_start("g", 1, LONG).await.expect("it starts");
    assert_eq!(tell(&*results, "a", 0, "t3").await, ours("t3"), "an earlier attempt is forgotten");
}

/// Its sender begins it again just before the last of its tasks is sent, and a worker may have been
/// quicker with the first.
pub async fn a_part_that_comes_before_its_chord_begins_again_is_not_lost(subject: Arc<Subject>) {
    let results = subject.results();
    for (run, early) in [("first", None), ("one early", Some(1)), ("all but one early", Some(2)), ("again", Some(2))] {
        let mut parts = vec![("a", 0), ("b", 1), ("c", 2)];
        let late = parts.split_off(early.unwrap_or(0));
        for (id, index) in parts {
            assert_eq!(tell(&*results, id, index, &format!("{run} {id}")).await, PartState::Over, "{run}");
        }
        results.chord_start("g", 3, LONG).await.expect("it starts");
        for (id, index) in late {
            let token = format!("{run} {id}");
            let expected = if id == "c" { ours(&token) } else { PartState::Waiting };
            assert_eq!(tell(&*results, id, index, &token).await, expected, "{run}");
        }
        assert_eq!(results.chord_parts("g").await.expect("it answers").len(), 3, "{run}");
        assert!(results.chord_over("g", &format!("{run} c")).await.expect("it answers"));
    }
}

/// By a part at a time.
pub async fn a_chord_can_grow(subject: Arc<Subject>) {
    let results = subject.results();
    results.chord_start("g", 1, LONG).await.expect("it starts");
    results.chord_grow("g").await.expect("it grows");
    results.chord_grow("g").await.expect("it grows");
    assert_eq!(tell(&*results, "a", 0, "t1").await, PartState::Waiting);
    assert_eq!(tell(&*results, "b", 1, "t2").await, PartState::Waiting);
    assert_eq!(tell(&*results, "c", 2, "t3").await, ours("t3"));
}
