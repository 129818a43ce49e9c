//! Iterators and streams as sources: lazy, infinite if they like, never asked for more than there
//! is room for.

use std::{sync::Mutex, time::Duration};

use futures_util::{
    future::{BoxFuture, FutureExt},
    stream::{BoxStream, StreamExt},
};
use tokio::sync::Notify;

use crate::{
    cancel::CancelToken,
    clock::{Clock, Lap},
    error::SourceError,
    source::{Fetched, Settlement, Source},
    task::{Delivery, Options},
};

/// An iterator's turn on the runtime's thread. One that takes longer gets a thread of its own for
/// its next turns.
const TURN: Duration = Duration::from_millis(1);
/// Number of quick turns in a row that bring it back: perhaps the thread had been set aside for
/// others. Each further time it takes twice as many.
const QUICK_TURNS: u32 = 16;
/// Items between two looks at the clock, which costs more than a cheap item.
const LOOK: usize = 64;

/// Wishes of a task that differ from its job's, told from its payload.
pub type OptionsOf<T> = Box<dyn Fn(&T) -> Option<Box<Options>> + Send + Sync>;

/// An iterator as a source.
///
/// While its items come quickly it is asked on the runtime's threads. If a turn takes longer than a
/// millisecond (it reads a pipe, say), it goes on on a thread for blocking work, so that it holds
/// up nobody, until it has been quick there for long enough.
pub struct IterSource<I: Iterator> {
    state: Mutex<IterState<I>>,
    options: Option<std::sync::Arc<OptionsOf<I::Item>>>,
    closed: Notify,
}

struct IterState<I> {
    /// Away while it is on another thread.
    iter: Option<I>,
    next: u64,
    slow: bool,
    /// Quick turns since it became slow, and how many bring it back.
    quick: u32,
    proof: u32,
    /// Items between two looks at the clock: few, until it has proved quick.
    look: usize,
    closed: bool,
}

impl<I: Iterator> IterState<I> {
    /// Notes how a turn went.
    fn note(&mut self, took: Duration) {
        if took > TURN {
            if !self.slow {
                self.proof = self.proof.saturating_mul(2);
            }
            (self.slow, self.quick, self.look) = (true, 0, 1);
            return;
        }
        self.look = LOOK.min(self.look * 2);
        if self.slow {
            self.quick += 1;
            self.slow = self.quick < self.proof;
        }
    }
}

impl<I: Iterator> IterSource<I> {
    /// Lends the items of this iterator, in order.
    pub fn new(iter: I, options: Option<OptionsOf<I::Item>>) -> Self {
        Self {
            state: Mutex::new(IterState {
                iter: Some(iter),
                next: 1,
                slow: false,
                quick: 0,
                proof: QUICK_TURNS / 2,
                look: 1,
                closed: false,
            }),
            options: options.map(std::sync::Arc::new),
            closed: Notify::new(),
        }
    }
}

/// Takes up to `room` items in one turn. Says how long that took.
fn turn<I: Iterator>(
    iter: &mut I,
    room: usize,
    look: usize,
    next: &mut u64,
    options: Option<&OptionsOf<I::Item>>,
    into: &mut Vec<Delivery<I::Item>>,
) -> (Fetched, Duration) {
    let lap = Lap::begin(Clock::SYSTEM);
    let mut look_at = look;
    for taken in 1..=room {
        let Some(item) = iter.next() else { return (Fetched::End, lap.elapsed()) };
        let options = options.and_then(|options| options(&item));
        into.push(Delivery { options, ..Delivery::new(*next, item) });
        *next += 1;
        if taken == look_at && taken < room {
            look_at += LOOK.min(look_at);
            let took = lap.elapsed();
            if took > TURN {
                return (Fetched::More, took);
            }
        }
    }
    (Fetched::More, lap.elapsed())
}

impl<I> Source<I::Item> for IterSource<I>
where
    I: Iterator + Send + 'static,
    I::Item: Send + 'static,
{
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<I::Item>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let lock = || self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        {
            let mut state = lock();
            let state = &mut *state;
            if state.closed {
                return std::future::ready(Ok(Fetched::End)).boxed();
            }
            if let (Some(iter), false) = (&mut state.iter, state.slow) {
                let (fetched, took) = turn(iter, room, state.look, &mut state.next, self.options.as_deref(), into);
                state.note(took);
                return std::future::ready(Ok(fetched)).boxed();
            }
        }
        async move {
            let (iter, mut next, look) = {
                let mut state = lock();
                (state.iter.take(), state.next, state.look)
            };
            let Some(mut iter) = iter else { return Err(SourceError::fatal("the iterator panicked")) };
            let options = self.options.clone();
            // A blocking iterator cannot be woken. When the job closes we leave it behind with what
            // it may still bring.
            let blocked = tokio::task::spawn_blocking(move || {
                let mut batch = Vec::new();
                let (fetched, took) = turn(&mut iter, room, look, &mut next, options.as_deref(), &mut batch);
                (iter, next, batch, fetched, took)
            });
            let closed = self.closed.notified();
            match futures_util::future::select(std::pin::pin!(blocked), std::pin::pin!(closed)).await {
                futures_util::future::Either::Left((Ok((iter, next, mut batch, fetched, took)), _)) => {
                    let mut state = lock();
                    (state.iter, state.next) = (Some(iter), next);
                    state.note(took);
                    into.append(&mut batch);
                    Ok(fetched)
                }
                futures_util::future::Either::Left((Err(error), _)) => Err(SourceError::fatal(format!("the iterator panicked: {error}"))),
                futures_util::future::Either::Right(_) => Ok(Fetched::End),
            }
        }
        .boxed()
    }

    fn settle<'a>(&'a self, _batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn is_told(&self) -> bool {
        false
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).closed = true;
        self.closed.notify_one();
    }
}

/// A stream as a source.
pub struct StreamSource<T> {
    state: tokio::sync::Mutex<(BoxStream<'static, T>, u64)>,
    options: Option<OptionsOf<T>>,
    closed: CancelToken,
}

impl<T> StreamSource<T> {
    /// Lends the items of this stream, in order.
    pub fn new(stream: BoxStream<'static, T>, options: Option<OptionsOf<T>>) -> Self {
        Self { state: tokio::sync::Mutex::new((stream, 1)), options, closed: CancelToken::new() }
    }
}

impl<T: Send + 'static> Source<T> for StreamSource<T> {
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<T>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        async move {
            let mut state = self.state.lock().await;
            let (stream, next) = &mut *state;
            if self.closed.is_cancelled() {
                return Ok(Fetched::End);
            }
            let mut closed = std::pin::pin!(self.closed.cancelled());
            let before = into.len();
            std::future::poll_fn(|cx| {
                loop {
                    if into.len() - before == room {
                        return std::task::Poll::Ready(Ok(Fetched::More));
                    }
                    match stream.poll_next_unpin(cx) {
                        std::task::Poll::Ready(None) => return std::task::Poll::Ready(Ok(Fetched::End)),
                        std::task::Poll::Ready(Some(item)) => {
                            let options = self.options.as_ref().and_then(|options| options(&item));
                            into.push(Delivery { options, ..Delivery::new(*next, item) });
                            *next += 1;
                        }
                        std::task::Poll::Pending if into.len() > before => return std::task::Poll::Ready(Ok(Fetched::More)),
                        std::task::Poll::Pending => return closed.as_mut().poll(cx).map(|()| Ok(Fetched::End)),
                    }
                }
            })
            .await
        }
        .boxed()
    }

    fn settle<'a>(&'a self, _batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn is_told(&self) -> bool {
        false
    }

    fn close(&self) {
        self.closed.cancel();
    }
}

#[cfg(all(test, not(longshore_loom)))]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    /// The threads on which the items of such an iterator are made, one item a turn; `slow` says
    /// which of them take longer than a turn may.
    fn threads(items: u64, slow: fn(u64) -> bool) -> Vec<ThreadId> {
        let source = IterSource::new(
            (0..items).map(move |n| {
                if slow(n) {
                    thread::sleep(TURN * 3);
                }
                thread::current().id()
            }),
            None,
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut all = Vec::new();
            while source.fetch(1, &mut all).await.expect("no panic") == Fetched::More {}
            all.into_iter().map(|delivery| delivery.payload).collect()
        })
    }

    #[test]
    fn an_iterator_that_was_slow_once_comes_back_and_one_that_is_slow_does_not() {
        let here = thread::current().id();
        let once = threads(2_000, |n| n == 3);
        assert_eq!(once[0], here);
        assert!(once[4..4 + QUICK_TURNS as usize].iter().all(|thread| *thread != here));
        assert!(once.iter().filter(|thread| **thread == here).count() > 1_000, "it comes back");
        let often = threads(60, |n| n % 5 == 0);
        assert!(often[1..].iter().all(|thread| *thread != here));
    }
}
