use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::metadata::decode;

/// What a commit says is done, from the position on.
fn told(commit: &Commit) -> BTreeSet<i64> {
    let map = decode(&commit.metadata).unwrap();
    (0..map.len()).filter(|index| map.is_done(*index)).map(|index| commit.offset + index as i64).collect()
}

fn restarted(commit: &Commit) -> Ledger {
    Ledger::new(commit.offset, Some(decode(&commit.metadata).unwrap()))
}

#[test]
fn only_the_contiguous_prefix_is_committed_and_the_rest_is_in_the_map() {
    let mut ledger = Ledger::new(10, None);
    assert_eq!(ledger.commit(), Commit { offset: 10, metadata: String::new() });
    for offset in 10..20 {
        assert_eq!(ledger.take(offset), Taken::New);
    }
    for offset in [15, 11, 12] {
        assert!(ledger.done(offset));
    }
    assert_eq!((ledger.position(), ledger.oldest(), ledger.incomplete(), ledger.highest_done()), (10, Some(10), 7, 15));
    assert_eq!(told(&ledger.commit()), [11, 12, 15].into());
    assert!(ledger.done(10));
    assert_eq!(ledger.commit().offset, 13);
    assert_eq!(told(&ledger.commit()), [15].into());
    for offset in [13, 14, 16, 17, 18, 19] {
        assert!(ledger.done(offset));
    }
    assert_eq!(ledger.commit(), Commit { offset: 20, metadata: String::new() });
    assert_eq!(ledger.oldest(), None);
}

#[test]
fn who_goes_on_skips_what_was_done_and_does_what_was_not() {
    let mut ledger = Ledger::new(0, None);
    (0..8).for_each(|offset| assert_eq!(ledger.take(offset), Taken::New));
    [0, 2, 3, 5].into_iter().for_each(|offset| assert!(ledger.done(offset)));
    let mut next = restarted(&ledger.commit());
    assert_eq!((next.position(), next.incomplete(), next.highest_done()), (1, 2, 5));
    assert_eq!(next.commit(), ledger.commit(), "nothing is forgotten before anything is read");
    let said: Vec<Taken> = (1..8).map(|offset| next.take(offset)).collect();
    use Taken::{AlreadyDone, New};
    assert_eq!(said, [New, AlreadyDone, AlreadyDone, New, AlreadyDone, New, New]);
    [1, 4, 6, 7].into_iter().for_each(|offset| assert!(next.done(offset)));
    assert_eq!(next.commit(), Commit { offset: 8, metadata: String::new() });
}

#[test]
fn an_offset_that_never_came_holds_up_nothing() {
    let mut ledger = Ledger::new(0, None);
    for offset in [3, 1_000, 1_001, 900_000] {
        assert_eq!(ledger.take(offset), Taken::New);
        assert!(ledger.done(offset));
        assert_eq!(ledger.position(), offset + 1);
    }
    for offset in [2_000_000, 3_000_000] {
        assert_eq!(ledger.take(offset), Taken::New);
    }
    assert!(ledger.done(2_000_000));
    assert_eq!(ledger.commit().offset, 3_000_000);
}

#[test]
fn what_was_told_to_be_incomplete_and_is_gone_holds_up_nothing() {
    let mut before = Ledger::new(0, None);
    (0..6).for_each(|offset| assert_eq!(before.take(offset), Taken::New));
    assert!(before.done(5));
    let commit = before.commit();
    // Retention took 0 to 2; compaction took 4.
    let mut ledger = restarted(&commit);
    assert_eq!(ledger.take(3), Taken::New);
    assert_eq!((ledger.position(), ledger.incomplete()), (3, 2));
    assert_eq!(ledger.take(6), Taken::New);
    assert!(ledger.done(3) && ledger.done(6));
    assert_eq!(ledger.commit(), Commit { offset: 7, metadata: String::new() });
}

#[test]
fn a_reader_that_goes_back_is_told_so() {
    let mut ledger = Ledger::new(100, None);
    assert_eq!(ledger.take(99), Taken::Backwards);
    assert_eq!(ledger.take(100), Taken::New);
    assert_eq!(ledger.take(100), Taken::Backwards);
    assert!(ledger.done(100));
    assert_eq!(ledger.take(100), Taken::Backwards);
    for offset in [-1, i64::MIN, i64::MAX] {
        assert_eq!(ledger.take(offset), Taken::Backwards);
    }
    assert_eq!(ledger.take(i64::MAX - 1), Taken::New);
    assert!(ledger.done(i64::MAX - 1));
    assert_eq!(ledger.position(), i64::MAX);
}

#[test]
fn what_was_not_taken_or_is_done_cannot_be_done() {
    let mut ledger = Ledger::new(5, None);
    assert!(!ledger.done(5));
    assert_eq!(ledger.take(5), Taken::New);
    assert_eq!(ledger.take(9), Taken::New);
    for offset in [4, 6, 8, 10, 1 << 40, i64::MIN, i64::MAX] {
        assert!(!ledger.done(offset), "{offset}");
    }
    assert!(ledger.done(9) && !ledger.done(9));
    assert_eq!(ledger.finished(), 1);
}

#[test]
fn with_no_room_for_a_map_one_offset_at_a_time_is_taken() {
    let mut ledger = Ledger::with_limit(0, None, 0);
    assert_eq!(ledger.take(0), Taken::New);
    assert_eq!(ledger.take(1), Taken::TooFar);
    assert!(ledger.done(0));
    assert_eq!(ledger.take(1), Taken::New);
    assert_eq!(ledger.commit(), Commit { offset: 1, metadata: String::new() });
}

#[test]
fn one_stuck_record_lets_millions_pass_and_no_more() {
    let mut ledger = Ledger::new(7, None);
    assert_eq!(ledger.take(7), Taken::New);
    let mut next = 8;
    while ledger.take(next) == Taken::New {
        assert!(ledger.done(next));
        next += 1;
    }
    assert_eq!(next, 7 + MOST_OFFSETS as i64);
    assert!(ledger.commit().metadata.len() < 50);
    assert!(ledger.ring.len() * 8 <= 1 << 19, "half a megabyte");
    assert!(ledger.done(7));
    assert_eq!(ledger.take(next), Taken::New);
}

#[test]
fn a_lower_limit_leaves_the_end_of_the_map_out_and_takes_nothing_until_it_fits() {
    let mut ledger = Ledger::new(0, None);
    let mut random = fastrand::Rng::with_seed(3);
    (0..2_000).for_each(|offset| assert_eq!(ledger.take(offset), Taken::New));
    let (done, open): (Vec<i64>, Vec<i64>) = (1..2_000).partition(|_| random.bool());
    done.iter().for_each(|offset| assert!(ledger.done(*offset)));
    assert!(ledger.commit().metadata.len() > 100);
    ledger.set_limit(64);
    let commit = ledger.commit();
    assert_eq!(commit.offset, 0);
    assert!(commit.metadata.len() <= 64 && told(&commit).len() > 50, "{commit:?}");
    assert!(told(&commit).iter().all(|offset| done.contains(offset)));
    assert_eq!(ledger.take(2_000), Taken::TooFar);
    open.iter().rev().skip(5).for_each(|offset| assert!(ledger.done(*offset)));
    assert_eq!(ledger.take(2_000), Taken::New);
}

/// Works through offsets with many in flight, each for a time of its own, and says (how often none
/// could be taken, the longest metadata, the most in flight). `time` gives how many offsets are
/// done while one is.
fn simulate(in_flight: usize, count: i64, most: usize, mut time: impl FnMut(i64) -> u64) -> (u64, usize, usize) {
    let mut ledger = Ledger::with_limit(0, None, most);
    let mut running: BTreeMap<(u64, i64), ()> = BTreeMap::new();
    let mut done = BTreeSet::new();
    let (mut next, mut refused, mut longest, mut peak) = (0, 0, 0, 0);
    while next < count || !running.is_empty() {
        let now = running.first_key_value().map_or(0, |((due, _), ())| *due);
        while running.len() < in_flight && next < count {
            match ledger.take(next) {
                Taken::New => {
                    running.insert((now + time(next), next), ());
                    next += 1;
                }
                Taken::TooFar => {
                    refused += 1;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        peak = peak.max(running.len());
        let ((_, offset), ()) = running.pop_first().expect("an empty ledger takes any offset");
        assert!(ledger.done(offset));
        done.insert(offset);
        if offset % 499 == 0 {
            let commit = ledger.commit();
            longest = longest.max(commit.metadata.len());
            assert!(commit.metadata.len() <= most);
            done = done.split_off(&commit.offset);
            let map = decode(&commit.metadata).unwrap();
            assert_eq!(map.len() - map.incomplete(), done.len(), "nothing that is done is left out of the map");
        }
    }
    assert_eq!(ledger.commit(), Commit { offset: count, metadata: String::new() });
    (refused, longest, peak)
}

#[test]
fn a_thousand_in_flight_of_which_some_are_slow_fit_the_map() {
    let mut random = fastrand::Rng::with_seed(11);
    let (refused, longest, _) =
        simulate(1_000, 30_000, MOST_CHARACTERS, |_| random.u64(1..2_000) * if random.u32(0..100) == 0 { 100 } else { 1 });
    assert_eq!(refused, 0, "the longest was {longest}");
}

#[test]
fn what_could_not_be_written_down_is_not_started() {
    let mut random = fastrand::Rng::with_seed(5);
    for (in_flight, most) in [(6_000, 1_200), (4_000, 999), (500, 200), (100, 64), (10, 12)] {
        let (refused, longest, peak) = simulate(in_flight, (3 * in_flight as i64).max(3_000), most, |_| {
            random.u64(1..2_000) * if random.u32(0..50) == 0 { 1_000 } else { 1 }
        });
        assert!(
            refused > 0 && longest > 0,
            "{in_flight} in flight, {most} characters: {refused} refused, {longest} the longest, {peak} at once"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many offsets are read, with a gap before each.
    Take(Vec<u8>),
    /// The n-th of those in flight is done.
    Done(Vec<prop::sample::Index>),
    /// The process is killed, and another goes on from the last commit.
    Restart,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![20 => Just(0_u8), 3 => 1_u8..5, 1 => any::<u8>()];
    let step = prop_oneof![
        4 => prop::collection::vec(gap, 1..80).prop_map(Step::Take),
        4 => prop::collection::vec(any::<prop::sample::Index>(), 1..60).prop_map(Step::Done),
        3 => Just(Step::Commit),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn a_commit_is_never_past_what_is_not_done_and_never_goes_back(steps in steps(), most in prop::sample::select(vec![0, 8, 40, 300, 4_000]), first in 0_i64..200) {
        // The log: the offsets that exist, in order, as the steps make them up.
        let mut log: Vec<i64> = Vec::new();
        let mut ledger = Ledger::with_limit(first, None, most);
        let mut committed = ledger.commit();
        let (mut read, mut flying, mut done) = (0_usize, Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Take(gaps) => for gap in gaps {
                    if read == log.len() {
                        log.push(log.last().map_or(first, |last| last + 1) + i64::from(gap));
                    }
                    let offset = log[read];
                    match ledger.take(offset) {
                        Taken::New => flying.push(offset),
                        Taken::AlreadyDone => prop_assert!(done.contains(&offset), "{} was skipped and not done", offset),
                        Taken::TooFar => {
                            prop_assert!(!flying.is_empty(), "nothing in flight, and nothing may be taken");
                            prop_assert!(offset > ledger.highest_done());
                            break;
                        }
                        Taken::Backwards => prop_assert!(false, "{offset} is no step back"),
                    }
                    read += 1;
                },
                Step::Done(which) => for index in which {
                    if !flying.is_empty() {
                        let offset = flying.swap_remove(index.index(flying.len()));
                        prop_assert!(ledger.done(offset));
                        done.insert(offset);
                    }
                },
                Step::Commit => {
                    let commit = ledger.commit();
                    prop_assert!(commit.offset >= committed.offset, "a commit went back");
                    prop_assert!(flying.iter().all(|offset| *offset >= commit.offset), "a commit passed what is in flight");
                    prop_assert!(log[..read].iter().all(|offset| *offset >= commit.offset || done.contains(offset)), "a commit passed what is not done");
                    prop_assert!(commit.metadata.len() <= most);
                    let told = told(&commit);
                    prop_assert!(log.iter().filter(|offset| told.contains(offset)).all(|offset| done.contains(offset)), "the map tells of what is not done");
                    prop_assert!(done.range(commit.offset..).all(|offset| told.contains(offset)), "the map leaves out what is done");
                    prop_assert_eq!(ledger.oldest().unwrap_or(commit.offset), commit.offset);
                    committed = commit;
                }
                Step::Restart => {
                    ledger = Ledger::with_limit(committed.offset, Some(decode(&committed.metadata).unwrap()), most);
                    prop_assert_eq!(&ledger.commit(), &committed);
                    let told = told(&committed);
                    done.retain(|offset| *offset < committed.offset || told.contains(offset));
                    read = log.partition_point(|offset| *offset < committed.offset);
                    flying.clear();
                }
            }
        }
        // All that is left is done: the position is behind the last one.
        let mut rest: Vec<i64> = flying;
        while read < log.len() || !rest.is_empty() {
            match log.get(read).map(|offset| ledger.take(*offset)) {
                Some(Taken::New) => { rest.push(log[read]); read += 1; }
                Some(Taken::AlreadyDone) => read += 1,
                _ => { let offset = rest.pop().expect("an empty ledger takes any offset"); prop_assert!(ledger.done(offset)); }
            }
        }
        prop_assert_eq!(ledger.position(), log.last().map_or(first, |last| last + 1));
        prop_assert_eq!(ledger.incomplete(), 0);
    }
}
