//! An iterator that may block, always asked on a thread for blocking work: files, pipes, anything
//! that waits.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, Either, FutureExt, select};
use tokio::sync::Notify;

use crate::{
    error::SourceError,
    source::{Fetched, Settlement, Source},
    task::Delivery,
};

/// A fetch that has something is not kept waiting for more than this.
const TURN: Duration = Duration::from_millis(2);

/// Deliveries from an iterator that may block and may fail. The iterator numbers its deliveries
/// itself; after an error it is not asked again.
///
/// `Ok(None)` says that what it gave goes on now, since asking for the next may block until that is
/// done with.
pub struct ThreadSource<I> {
    state: Mutex<ThreadState<I>>,
    closed: Notify,
}

struct ThreadState<I> {
    /// Away while a thread asks it.
    iter: Option<I>,
    closed: bool,
}

impl<I> ThreadSource<I> {
    /// Lends what this iterator gives, in order.
    pub fn new(iter: I) -> Self {
        Self { state: Mutex::new(ThreadState { iter: Some(iter), closed: false }), closed: Notify::new() }
    }
}

type ThreadTurn<I, T> = (I, Vec<Delivery<T>>, Result<Fetched, SourceError>);

fn turn<T, I: Iterator<Item = Result<Option<Delivery<T>>, SourceError>>>(mut iter: I, room: usize) -> ThreadTurn<I, T> {
    let began = Instant::now();
    let mut batch = Vec::new();
    while batch.len() < room {
        match iter.next() {
            None => return (iter, batch, Ok(Fetched::End)),
            Some(Err(error)) => return (iter, batch, Err(error)),
            Some(Ok(Some(delivery))) => batch.push(delivery),
            Some(Ok(None)) if batch.is_empty() => {}
            Some(Ok(None)) => break,
        }
        if (batch.len().is_power_of_two() || batch.len().is_multiple_of(64)) && began.elapsed() > TURN {
            break;
        }
    }
    (iter, batch, Ok(Fetched::More))
}

impl<T, I> Source<T> for ThreadSource<I>
where
    T: Send + 'static,
    I: Iterator<Item = Result<Option<Delivery<T>>, SourceError>> + Send + 'static,
{
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<T>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        async move {
            let iter = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.closed {
                    return Ok(Fetched::End);
                }
                state.iter.take()
            };
            let Some(iter) = iter else { return Err(SourceError::fatal("the input's reader panicked")) };
            let turn = tokio::task::spawn_blocking(move || turn(iter, room));
            // A thread that blocks cannot be woken: when the job closes it is left behind, with
            // what it may still bring. None of that was lent.
            match select(std::pin::pin!(turn), std::pin::pin!(self.closed.notified())).await {
                Either::Left((Ok((iter, mut batch, fetched)), _)) => {
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).iter = Some(iter);
                    into.append(&mut batch);
                    fetched
                }
                Either::Left((Err(error), _)) => Err(SourceError::fatal(format!("the input's reader panicked: {error}"))),
                Either::Right(_) => Ok(Fetched::End),
            }
        }
        .boxed()
    }

    fn settle<'a>(&'a self, _batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.closed.notify_one();
    }
}
