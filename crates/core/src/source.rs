//! Where deliveries come from.

pub mod iter;
pub mod queue;
pub mod thread;

use futures_util::future::BoxFuture;

use crate::{
    decide::Verdict,
    error::SourceError,
    task::{Delivery, Receipt},
};

/// Word of a fetch about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There may be more.
    More,
    /// There is no more: the source is not asked again.
    End,
}

/// A verdict, with the receipt that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The delivery.
    pub receipt: Receipt,
    /// Its verdict. `Requeue` here means: handed back unfinished.
    pub verdict: Verdict,
}

/// Origin of deliveries. Fetching and settling run side by side, hence `&self`.
pub trait Source<T>: Send + Sync {
    /// Waits for work and appends at least one and at most `room` deliveries, or says that there is
    /// no more.
    ///
    /// The engine never cancels this future (a pop that is cut off loses a task); it calls
    /// [`close`](Source::close) and waits.
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<T>>) -> BoxFuture<'a, Result<Fetched, SourceError>>;

    /// Settles deliveries; each exactly once, and only after the sink has accepted its result (or
    /// when it is handed back).
    fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>>;

    /// Returns false for a source to which it is all the same what becomes of what it has lent:
    /// [`settle`](Source::settle) is not called.
    fn is_told(&self) -> bool {
        true
    }

    /// A task that this source has lent waits for its next attempt (`away`), or waits no more; in
    /// either moment the engine has no attempt of it under way. For sources that bound what waits
    /// to run and what backs off apart from each other; called from the engine's loop, so it
    /// returns at once.
    fn backing_off(&self, receipt: Receipt, payload: &T, away: bool) {
        let _ = (receipt, payload, away);
    }

    /// Wakes an idle fetch, which returns at once with what it has; nothing is fetched afterwards.
    fn close(&self);
}
