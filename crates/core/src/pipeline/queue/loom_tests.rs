//! Every interleaving of the queue between stages (up to three preemptions). Run with
//! `RUSTFLAGS="--cfg longshore_loom" cargo test -p longshore-core --lib --target-dir target/loom
//! loom_tests`.

use std::{future::poll_fn, task::Poll};

use loom::{future::block_on, sync::Arc, thread};

use super::*;
use crate::mailbox::loom_tests::assert_found_out;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

fn queue(capacity: usize, takers: usize, window: Option<usize>) -> Arc<StageQueue<u32>> {
    Arc::new(std::sync::Arc::into_inner(StageQueue::new(capacity, takers, window)).unwrap())
}

/// Takes everything up to the end, at most so many at a time, and releases what it took.
fn drain(queue: &StageQueue<u32>, who: usize, most: usize, eager: bool) -> Vec<u32> {
    let mut all = Vec::new();
    let mut batch = ItemBatch::new();
    loop {
        let ask = Ask { most, sharers: 1, eager };
        let taken = block_on(poll_fn(|cx| match queue.take(who, ask, &mut batch, cx.waker()) {
            TakenItems::Empty | TakenItems::Ahead => Poll::Pending,
            taken => Poll::Ready(taken),
        }));
        match taken {
            TakenItems::Items(_) => {
                queue.release(batch.len() as u64);
                all.extend(batch.drain(..).map(|(_, item)| item));
            }
            _ => return all,
        }
    }
}

/// Gives everything and leaves.
fn fill(queue: &StageQueue<u32>, who: usize, items: impl IntoIterator<Item = u32>) -> Given {
    let mut batch: ItemBatch<u32> = items.into_iter().map(|item| (0, item)).collect();
    let given = block_on(poll_fn(|cx| match queue.give(who, &mut batch, cx.waker()) {
        Given::Full => Poll::Pending,
        given => Poll::Ready(given),
    }));
    queue.leave(who);
    given
}

#[test]
fn what_is_given_is_taken_in_order_through_a_queue_that_is_too_small() {
    for (capacity, most, eager) in [(1, 1, true), (2, 1, false), (2, 2, false)] {
        model(move || {
            let queue = queue(capacity, 1, None);
            let giver = queue.enter();
            let own = queue.clone();
            let giving = thread::spawn(move || fill(&own, giver, 0..3));
            assert_eq!(drain(&queue, 0, most, eager), [0, 1, 2]);
            assert_eq!(giving.join().unwrap(), Given::All);
        });
    }
}

#[test]
fn two_takers_share_what_is_given_and_both_learn_of_the_end() {
    model(|| {
        let queue = queue(2, 2, Some(2));
        let giver = queue.enter();
        let own = queue.clone();
        let taking = thread::spawn(move || drain(&own, 1, 1, false));
        let other = queue.clone();
        let giving = thread::spawn(move || fill(&other, giver, 0..2));
        let mut all = drain(&queue, 0, 1, false);
        all.extend(taking.join().unwrap());
        giving.join().unwrap();
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

#[test]
fn two_givers_that_wait_for_room_are_both_served() {
    model(|| {
        let queue = queue(1, 1, None);
        let givers = [queue.enter(), queue.enter()];
        let giving = givers.map(|giver| {
            let own = queue.clone();
            thread::spawn(move || fill(&own, giver, [giver as u32]))
        });
        let mut all = drain(&queue, 0, 1, false);
        giving.into_iter().for_each(|giving| assert_eq!(giving.join().unwrap(), Given::All));
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

#[test]
fn a_stop_wakes_both_sides() {
    model(|| {
        let queue = queue(1, 1, None);
        let giver = queue.enter();
        let own = queue.clone();
        let giving = thread::spawn(move || fill(&own, giver, 0..2));
        let other = queue.clone();
        let stopping = thread::spawn(move || other.stop());
        let taken = drain(&queue, 0, 1, false);
        stopping.join().unwrap();
        let given = giving.join().unwrap();
        // Each item was taken, or is counted as left.
        assert_eq!(taken.len() as u64 + queue.left(), 2, "{taken:?} {given:?}");
    });
}

/// A planted bug, to show that the model finds a lost wake-up: a giver that is called does not
/// come, and its call is not passed on.
#[test]
fn a_call_that_is_not_passed_on_is_found_out() {
    assert_found_out("pipeline::queue::loom_tests::planted_call_that_is_not_passed_on");
}

#[test]
#[ignore = "a planted bug, run by the test above"]
fn planted_call_that_is_not_passed_on() {
    model(|| {
        let queue = queue(1, 1, None);
        let givers = [queue.enter(), queue.enter()];
        fill_some(&queue, givers[0], 7);
        // It waits for room, is called when there is some, and never looks again.
        let waker = futures_util::task::noop_waker();
        let mut more = ItemBatch::from([(0, 8)]);
        assert_eq!(queue.give(givers[0], &mut more, &waker), Given::Full);
        let own = queue.clone();
        let giving = thread::spawn(move || fill(&own, givers[1], [9]));
        let mut batch = ItemBatch::new();
        let ask = Ask { most: 1, sharers: 1, eager: true };
        queue.take(0, ask, &mut batch, &waker);
        giving.join().unwrap();
    });
}

fn fill_some(queue: &StageQueue<u32>, who: usize, item: u32) {
    let mut batch = ItemBatch::from([(0, item)]);
    assert_eq!(queue.give(who, &mut batch, &futures_util::task::noop_waker()), Given::All);
}
