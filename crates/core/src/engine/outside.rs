//! The outside of the loop as one task: the pump and the reporter, polled side by side.
//!
//! They share a task because each wake-up of another thread costs as much as dozens of tiny tasks.
//! For the same reason this task looks around for a moment before it sleeps, as long as it has
//! lately been woken within such a moment: while a job hands over batch after batch, none of them
//! has to go through the operating system. Where other programs want the processor too, that would
//! be a bad bargain (a thread that looks around is set aside for milliseconds, with work that
//! another one could have taken over), so after such an experience it does without for a while.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::{MaybeDone, maybe_done};

use crate::sync::AtomicBool;

/// Time to look around. A wake-up costs about as much.
const SPIN: Duration = Duration::from_micros(40);
/// Looks are less than a microsecond apart. If so much time lies between two of them, the processor
/// was with somebody else.
const AWAY: Duration = Duration::from_micros(100);
/// For how long not to look around then.
const REST: Duration = Duration::from_millis(50);

/// Runs both to their end; returns what `reporter` returns. `work` tells cheaply whether either has
/// something to do; `spin` allows looking around (never on a single thread: there nobody else could
/// bring work meanwhile). What is done `in_passing`, by one who will be back, needs no looking
/// around.
pub(super) async fn run<O>(
    pump: impl Future<Output = ()>,
    reporter: impl Future<Output = O>,
    work: impl Fn() -> bool,
    spin: bool,
    in_passing: Arc<AtomicBool>,
) -> O {
    let mut pump = pin!(maybe_done(pump));
    let mut reporter = pin!(reporter);
    let mut slept: Option<Instant> = None;
    let mut busy = false;
    let mut rested = Instant::now();
    std::future::poll_fn(move |cx| {
        if let Some(since) = slept.take() {
            let now = Instant::now();
            busy = now >= rested && now.duration_since(since) < SPIN;
        }
        loop {
            if !matches!(*pump, MaybeDone::Done(())) {
                let _ = pump.as_mut().poll(cx);
            }
            if let Poll::Ready(output) = reporter.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            if in_passing.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            if !(spin && busy) {
                break;
            }
            match look_around(&work) {
                Found::Work => {}
                Found::Nothing => break,
                Found::Crowd => {
                    busy = false;
                    rested = Instant::now() + REST;
                }
            }
        }
        slept = spin.then(Instant::now);
        Poll::Pending
    })
    .await
}

/// Results of looking around.
enum Found {
    Work,
    Nothing,
    /// Others want the processor.
    Crowd,
}

fn look_around(work: &impl Fn() -> bool) -> Found {
    let began = Instant::now();
    let mut last = began;
    loop {
        for _ in 0..32 {
            if work() {
                return Found::Work;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        if now.duration_since(last) > AWAY {
            return Found::Crowd;
        }
        last = now;
        if now.duration_since(began) > SPIN {
            return Found::Nothing;
        }
    }
}
