//! The outside of the loop as one task: the pump and the reporter, polled side by side.
//!
//! They share a task because each wake-up of another thread costs as much as dozens of tiny tasks. For the same reason this task looks around for a
//! moment before it sleeps, as long as it has lately been woken within such a moment: while a job hands over batch after batch, none of them has to go
//! through the operating system.

use std::{
    future::Future,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::{MaybeDone, maybe_done};

/// How long to look around. A wake-up costs about as much.
const SPIN: Duration = Duration::from_micros(20);

/// Runs both to their end; returns what `reporter` returns. `work` tells cheaply whether either has something to do; `spin` allows looking around
/// (never on a single thread: there nobody else could bring work meanwhile).
pub(super) async fn run<O>(pump: impl Future<Output = ()>, reporter: impl Future<Output = O>, work: impl Fn() -> bool, spin: bool) -> O {
    let mut pump = pin!(maybe_done(pump));
    let mut reporter = pin!(reporter);
    let mut slept: Option<Instant> = None;
    let mut busy = false;
    std::future::poll_fn(move |cx| {
        if let Some(since) = slept.take() {
            busy = since.elapsed() < SPIN * 2;
        }
        loop {
            if !matches!(*pump, MaybeDone::Done(())) {
                let _ = pump.as_mut().poll(cx);
            }
            if let Poll::Ready(output) = reporter.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            if !(spin && busy && look_around(&work)) {
                break;
            }
        }
        slept = spin.then(Instant::now);
        Poll::Pending
    })
    .await
}

fn look_around(work: &impl Fn() -> bool) -> bool {
    let began = Instant::now();
    loop {
        for _ in 0..32 {
            if work() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.elapsed() > SPIN {
            return false;
        }
    }
}
