//! Every interleaving of a helm (up to two preemptions): whoever wakes it, or takes it, it is
//! polled afterwards. Run as the mailbox's.

use loom::{future::block_on, thread};

use super::*;
use crate::mailbox::loom_tests::assert_found_out;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(check);
}

/// Is over when so many have brought it something. What wakes it is only what each of them does
/// afterwards.
fn work(brought: Arc<AtomicUsize>, wanted: usize) -> Arc<Helm<()>> {
    Helm::new(std::future::poll_fn(move |_| if brought.load(Ordering::Acquire) == wanted { Poll::Ready(()) } else { Poll::Pending }))
}

fn bring(helm: &Arc<Helm<()>>, brought: &Arc<AtomicUsize>, how: impl FnOnce(&Arc<Helm<()>>) + Send + 'static) -> thread::JoinHandle<()> {
    let (helm, brought) = (helm.clone(), brought.clone());
    thread::spawn(move || {
        brought.fetch_add(1, Ordering::AcqRel);
        how(&helm);
    })
}

#[test]
fn who_wakes_it_and_who_takes_it_get_on_together() {
    model(|| {
        let brought = Arc::new(AtomicUsize::new(0));
        let helm = work(brought.clone(), 2);
        let waker = bring(&helm, &brought, |helm| helm.wake_by_ref());
        let taker = bring(&helm, &brought, |helm| helm.turn());
        block_on(helm.task());
        waker.join().unwrap();
        taker.join().unwrap();
    });
}

#[test]
fn a_wake_while_it_is_held_is_left_to_the_holder() {
    model(|| {
        let brought = Arc::new(AtomicUsize::new(0));
        let helm = work(brought.clone(), 1);
        let waker = bring(&helm, &brought, |helm| helm.wake_by_ref());
        let holder = {
            let helm = helm.clone();
            thread::spawn(move || {
                helm.hold();
                if helm.release() {
                    helm.run();
                }
            })
        };
        block_on(helm.task());
        waker.join().unwrap();
        holder.join().unwrap();
    });
}

#[test]
fn what_is_dropped_while_somebody_has_it_is_gone_afterwards() {
    model(|| {
        let brought = Arc::new(AtomicUsize::new(0));
        let helm = work(brought.clone(), 2);
        let taker = bring(&helm, &brought, |helm| helm.turn());
        drop(helm.task());
        taker.join().unwrap();
        assert!(matches!(*helm.work.lock(), HelmWork::Gone));
    });
}

/// A planted bug, to show that the model finds a lost wake-up: a holder that does not look when it
/// lets go.
#[test]
fn a_holder_that_does_not_look_is_found_out() {
    assert_found_out("engine::helm::loom_tests::planted_holder_that_does_not_look");
}

#[test]
#[ignore = "a planted bug, run by the test above"]
fn planted_holder_that_does_not_look() {
    model(|| {
        let brought = Arc::new(AtomicUsize::new(0));
        let helm = work(brought.clone(), 1);
        let waker = bring(&helm, &brought, |helm| helm.wake_by_ref());
        let holder = {
            let helm = helm.clone();
            thread::spawn(move || {
                helm.hold();
                let _ = helm.release();
            })
        };
        block_on(helm.task());
        waker.join().unwrap();
        holder.join().unwrap();
    });
}
