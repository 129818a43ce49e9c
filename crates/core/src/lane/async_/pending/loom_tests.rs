//! Nobody who is woken is forgotten, whoever wakes them: `RUSTFLAGS="--cfg longshore_loom" cargo
//! test -p longshore-core --lib --target-dir target/loom loom_tests`.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
};

use loom::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use super::Pending;

/// The loop's own waker.
struct Loop(AtomicBool);

impl Wake for Loop {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a place waits for: so many times something is brought.
struct Work {
    brought: Arc<AtomicUsize>,
    wanted: usize,
}

/// Two places, what was brought to them, and whether the loop was woken.
struct Bench {
    pending: Pending<Work>,
    wakers: Vec<Waker>,
    brought: Vec<Arc<AtomicUsize>>,
    waker: Waker,
    woken: Arc<Loop>,
    seen: usize,
}

impl Bench {
    fn new(wanted: [usize; 2]) -> Self {
        let mut pending = Pending::new();
        let brought: Vec<_> = wanted.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let put = |(brought, wanted): (&Arc<AtomicUsize>, usize)| {
            let place = pending.vacant();
            pending.put(place, Work { brought: brought.clone(), wanted });
            pending.waker(place).clone()
        };
        let wakers = brought.iter().zip(wanted).map(put).collect();
        let woken = Arc::new(Loop(AtomicBool::new(false)));
        Self { pending, wakers, brought, waker: Waker::from(woken.clone()), woken, seen: 0 }
    }

    /// Brings something elsewhere, and then wakes who waits for it.
    fn bring(&self, which: usize) -> thread::JoinHandle<()> {
        let (brought, waker) = (self.brought[which].clone(), self.wakers[which].clone());
        thread::spawn(move || {
            brought.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        })
    }

    fn poll(&mut self) {
        let seen = &mut self.seen;
        self.pending.poll_woken(
            usize::MAX,
            |work, _| (work.brought.load(Ordering::Relaxed) == work.wanted).then_some(()),
            |_, ()| *seen += 1,
        );
    }

    fn sleeps(&mut self) -> bool {
        self.pending.sleep(&Context::from_waker(&self.waker))
    }

    /// After all has been brought: if the loop went to sleep on it, it has been woken; and then it
    /// sees everything.
    fn settle(mut self, slept: bool, all: usize) {
        if self.seen < all {
            assert!(!slept || self.woken.0.load(Ordering::Acquire), "the loop sleeps on what was brought");
            let _near = self.pending.near();
            self.poll();
        }
        assert_eq!(self.seen, all, "what was woken has its turn");
    }
}

#[test]
fn who_is_woken_from_afar_while_the_loop_goes_to_sleep_is_seen() {
    loom::model(|| {
        let mut bench = Bench::new([1, 1]);
        let ringer = bench.bring(0);
        let slept = {
            let _near = bench.pending.near();
            bench.poll();
            bench.sleeps()
        };
        ringer.join().expect("no panic");
        bench.settle(slept, 1);
    });
}

#[test]
fn who_is_woken_here_and_from_afar_at_once_is_seen() {
    loom::model(|| {
        let mut bench = Bench::new([1, 1]);
        let near = bench.pending.near();
        bench.wakers[0].wake_by_ref();
        let ringer = bench.bring(0);
        bench.poll();
        let slept = bench.sleeps();
        drop(near);
        ringer.join().expect("no panic");
        bench.settle(slept, 1);
    });
}

#[test]
fn what_two_threads_bring_while_the_loop_is_handed_on_is_seen() {
    loom::model(|| {
        let mut bench = Bench::new([1, 1]);
        let (first, second) = (bench.bring(0), bench.bring(1));
        {
            let _near = bench.pending.near();
            bench.wakers[1].wake_by_ref();
            // Woken here and not polled: for whoever polls next.
        }
        bench.poll();
        let slept = bench.sleeps();
        first.join().expect("no panic");
        second.join().expect("no panic");
        bench.settle(slept, 2);
    });
}

#[test]
fn what_two_threads_bring_to_the_same_place_is_seen() {
    loom::model(|| {
        let mut bench = Bench::new([2, 1]);
        let (first, second) = (bench.bring(0), bench.bring(0));
        let slept = {
            let _near = bench.pending.near();
            bench.poll();
            bench.sleeps()
        };
        first.join().expect("no panic");
        second.join().expect("no panic");
        bench.settle(slept, 1);
    });
}
