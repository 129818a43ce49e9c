//! The queue by itself: limits, and who is called.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A waker that counts.
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counted() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (count.clone(), Waker::from(count))
}

fn calls(count: &Count) -> usize {
    count.0.swap(0, Ordering::SeqCst)
}

fn items(range: std::ops::Range<u64>) -> ItemBatch<u64> {
    range.map(|n| (n, n)).collect()
}

const ONE: Ask = Ask { most: 1, sharers: 1, eager: false };
const ALL: Ask = Ask { most: usize::MAX, sharers: 1, eager: false };

#[test]
fn a_queue_never_holds_more_than_its_capacity() {
    let queue = StageQueue::new(3, 1, None);
    let giver = queue.enter();
    let (_, waker) = counted();
    let mut batch = items(0..5);
    assert_eq!(queue.give(giver, &mut batch, &waker), Given::Full);
    assert_eq!((batch.len(), queue.room(giver, &waker)), (2, Some(0)));
    let mut taken = ItemBatch::new();
    assert_eq!(queue.take(0, ONE, &mut taken, &waker), TakenItems::Items(0));
    assert_eq!(queue.give(giver, &mut batch, &waker), Given::Full);
    assert_eq!(queue.take(0, ALL, &mut taken, &waker), TakenItems::Items(1));
    assert_eq!(taken.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(queue.give(giver, &mut batch, &waker), Given::All);
    queue.leave(giver);
    assert_eq!(queue.take(0, ALL, &mut taken, &waker), TakenItems::Items(4));
    assert_eq!(queue.take(0, ALL, &mut taken, &waker), TakenItems::End);
}

#[test]
fn a_giver_is_called_when_half_is_free_or_at_once_by_an_eager_taker() {
    for (eager, want) in [(false, [0, 1, 0]), (true, [1, 0, 0])] {
        let queue = StageQueue::new(4, 1, None);
        let giver = queue.enter();
        let (count, waker) = counted();
        queue.give(giver, &mut items(0..5), &waker);
        let (_, taker) = counted();
        let called = [(); 3].map(|()| {
            queue.take(0, Ask { eager, ..ONE }, &mut ItemBatch::new(), &taker);
            calls(&count)
        });
        assert_eq!(called, want, "eager: {eager}");
    }
}

#[test]
fn one_taker_is_called_and_calls_the_next_if_it_leaves_something() {
    let queue = StageQueue::new(9, 3, None);
    let giver = queue.enter();
    let sleepers: Vec<_> = (0..3).map(|_| counted()).collect();
    for (who, (_, waker)) in sleepers.iter().enumerate() {
        assert_eq!(queue.take(who, ONE, &mut ItemBatch::new(), waker), TakenItems::Empty);
    }
    let called = || sleepers.iter().map(|(count, _)| calls(count)).collect::<Vec<_>>();
    queue.give(giver, &mut items(0..2), &sleepers[0].1);
    queue.give(giver, &mut items(2..3), &sleepers[0].1);
    assert_eq!(called(), [1, 0, 0]);
    queue.take(0, Ask { most: 2, ..ONE }, &mut ItemBatch::new(), &sleepers[0].1);
    assert_eq!(called(), [0, 1, 0]);
    queue.take(1, ALL, &mut ItemBatch::new(), &sleepers[1].1);
    assert_eq!(called(), [0, 0, 0]);
    queue.leave(giver);
    assert_eq!(called(), [0, 0, 1]);
}

#[test]
fn no_more_is_taken_than_the_window_until_something_is_released() {
    let queue = StageQueue::new(9, 2, Some(2));
    let giver = queue.enter();
    let (count, waker) = counted();
    queue.give(giver, &mut items(0..5), &waker);
    let mut taken = ItemBatch::new();
    assert_eq!(queue.take(0, ALL, &mut taken, &waker), TakenItems::Items(0));
    assert_eq!((taken.len(), queue.take(1, ALL, &mut taken, &waker)), (2, TakenItems::Ahead));
    queue.release(1);
    assert_eq!(calls(&count), 1);
    assert_eq!((queue.take(1, ALL, &mut taken, &waker), taken.len()), (TakenItems::Items(2), 3));
}

#[test]
fn takers_share_what_is_there() {
    let queue = StageQueue::new(9, 4, None);
    let giver = queue.enter();
    let (_, waker) = counted();
    queue.give(giver, &mut items(0..9), &waker);
    let mut taken = ItemBatch::new();
    queue.take(0, Ask { most: 64, sharers: 4, eager: false }, &mut taken, &waker);
    assert_eq!(taken.len(), 3);
}

#[test]
fn after_a_stop_only_the_queue_behind_the_last_stage_is_read_to_its_end() {
    for (queue, want) in [(StageQueue::new(4, 1, None), TakenItems::Stopped), (StageQueue::last(4), TakenItems::Items(0))] {
        let giver = queue.enter();
        let (_, waker) = counted();
        queue.give(giver, &mut items(0..2), &waker);
        queue.stop();
        assert_eq!(queue.give(giver, &mut items(2..5), &waker), Given::Stopped);
        assert_eq!((queue.left(), queue.room(giver, &waker)), (5, None));
        let mut taken = ItemBatch::new();
        assert_eq!(queue.take(0, ALL, &mut taken, &waker), want);
        queue.leave(giver);
        assert_eq!(queue.take(0, ALL, &mut taken, &waker), TakenItems::Stopped);
    }
}

#[test]
fn a_giver_that_was_called_and_leaves_passes_the_call_on() {
    let queue = StageQueue::new(1, 1, None);
    let givers = [queue.enter(), queue.enter()];
    let sleepers = [counted(), counted()];
    queue.give(givers[0], &mut items(0..2), &sleepers[0].1);
    queue.give(givers[1], &mut items(2..3), &sleepers[1].1);
    let (_, taker) = counted();
    queue.take(0, ONE, &mut ItemBatch::new(), &taker);
    assert_eq!([calls(&sleepers[0].0), calls(&sleepers[1].0)], [1, 0]);
    queue.leave(givers[0]);
    assert_eq!(calls(&sleepers[1].0), 1);
}
