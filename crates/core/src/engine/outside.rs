//! The outside of the loop as one task: the pump and the reporter, polled side by side. They share
//! a task because each wake-up of another thread costs as much as dozens of tiny tasks.

use std::{future::Future, pin::pin};

use futures_util::future::{MaybeDone, maybe_done};

/// Runs both to their end; returns what `reporter` returns.
pub(super) async fn run<O>(pump: impl Future<Output = ()>, reporter: impl Future<Output = O>) -> O {
    let mut pump = pin!(maybe_done(pump));
    let mut reporter = pin!(reporter);
    std::future::poll_fn(move |cx| {
        if !matches!(*pump, MaybeDone::Done(())) {
            let _ = pump.as_mut().poll(cx);
        }
        reporter.as_mut().poll(cx)
    })
    .await
}
