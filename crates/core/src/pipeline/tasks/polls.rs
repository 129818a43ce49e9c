//! Polling the futures of a stage: a panic is an outcome, and so is a time that is over.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::RunningItem;
use crate::{
    lane::{IntoOutcome, panic_text},
    outcome::Outcome,
    pipeline::{
        post::{Post, Tried},
        run::Halt,
        threads::Grip,
    },
};

/// Makes a future in this place and polls it; a panic is an outcome. What is ready is dropped.
#[inline]
pub(super) fn poll_new<T, V, F, Fut, A>(
    place: &mut Pin<Box<Option<Fut>>>,
    function: &F,
    item: T,
    cx: &mut Context<'_>,
) -> Option<Outcome<V>>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = A>,
    A: IntoOutcome<V>,
{
    polled(
        catch_unwind(AssertUnwindSafe(|| {
            place.set(Some(function(item)));
            poll_once(place, cx)
        })),
        place,
    )
}

/// Polls the future in this place.
#[inline]
pub(super) fn poll_on<V, Fut, A>(place: &mut Pin<Box<Option<Fut>>>, cx: &mut Context<'_>) -> Option<Outcome<V>>
where
    Fut: Future<Output = A>,
    A: IntoOutcome<V>,
{
    polled(catch_unwind(AssertUnwindSafe(|| poll_once(place, cx))), place)
}

#[inline]
fn poll_once<V, Fut, A>(place: &mut Pin<Box<Option<Fut>>>, cx: &mut Context<'_>) -> Poll<Outcome<V>>
where
    Fut: Future<Output = A>,
    A: IntoOutcome<V>,
{
    let Some(future) = place.as_mut().as_pin_mut() else { return Poll::Ready(Outcome::Lost("polled after its end".to_owned())) };
    let polled = future.poll(cx);
    if polled.is_ready() {
        // Dropped in here, so that a panicking destructor is this item's outcome too.
        place.set(None);
    }
    polled.map(IntoOutcome::into_outcome)
}

#[inline]
fn polled<V, Fut>(polled: std::thread::Result<Poll<Outcome<V>>>, place: &mut Pin<Box<Option<Fut>>>) -> Option<Outcome<V>> {
    match polled {
        Ok(Poll::Pending) => None,
        Ok(Poll::Ready(outcome)) => Some(outcome),
        Err(panic) => {
            let text = panic_text(&*panic);
            let _ = drop_in_place(place);
            Some(Outcome::Panicked(text))
        }
    }
}

pub(super) fn drop_in_place<Fut>(place: &mut Pin<Box<Option<Fut>>>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| place.set(None))).map_err(|panic| panic_text(&*panic))
}

pub(super) fn drop_future<Fut>(future: Pin<Box<Option<Fut>>>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
}

/// An attempt has ended: `None` if another one follows it.
pub(super) fn settle<T, V, Fut>(
    running: &mut RunningItem<T, Fut>,
    outcome: Outcome<V>,
    post: &Post<T>,
    grip: &mut Grip,
    rng: &mut fastrand::Rng,
    resting: &mut usize,
    now: Instant,
) -> Option<Outcome<V>> {
    let time = now.saturating_duration_since(running.started);
    grip.learn(time, 1);
    let mut tally = post.meter.tally.lock();
    tally.run.add(time);
    if outcome.is_ok() {
        return Some(outcome);
    }
    drop(tally);
    let age = now.saturating_duration_since(running.taken);
    let Some(after) = post.again(&outcome, &running.tried, age, rng.f64()) else { return Some(outcome) };
    post.meter.tally.lock().counts.retries += 1;
    *resting += 1;
    running.resting = true;
    running.due = now.checked_add(after.max(Duration::from_nanos(1)));
    None
}

/// An item has ended; its output, if it has one.
#[inline]
pub(super) fn conclude<T, V>(post: &Post<T>, tried: Tried<T>, outcome: Outcome<V>, ok: &mut u64) -> Option<(u64, V)> {
    match outcome {
        Outcome::Ok(output) => {
            *ok += 1;
            Some((tried.number, output))
        }
        Outcome::Cancelled if post.run.halt() != Halt::No => {
            post.cancelled();
            None
        }
        other => {
            post.failed(&other, tried);
            None
        }
    }
}
