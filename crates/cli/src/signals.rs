//! The signals that a run hears, to its very end.

use std::time::{Duration, Instant};

use longshore_core::{Stop, lane::child::Children};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::run::output::{Feed, OutputError};

/// How long the reader of stdout may take for what is left after an interruption.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The signals that a run hears.
pub(crate) struct Signals {
    pub(crate) int: Option<Signal>,
    pub(crate) term: Option<Signal>,
    pub(crate) hup: Option<Signal>,
    pub(crate) usr1: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> Self {
        let listen = |kind| signal(kind).ok();
        Self {
            int: listen(SignalKind::interrupt()),
            term: listen(SignalKind::terminate()),
            hup: listen(SignalKind::hangup()),
            usr1: listen(SignalKind::user_defined1()),
        }
    }

    /// The next that asks for an end: 2 or 15.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            Some(()) = hear(&mut self.int) => 2,
            Some(()) = hear(&mut self.term) => 15,
            Some(()) = hear(&mut self.hup) => 15,
            else => std::future::pending().await,
        }
    }
}

/// What is left to do when every task has ended, for which nobody has to wait who does not want to: the first signal ends the children and leaves
/// the reader of stdout a moment, the second leaves it none.
pub(super) struct Ending<'a> {
    pub(super) signals: &'a mut Signals,
    pub(super) children: &'a Children,
    pub(super) feed: Feed,
    pub(super) signal: Option<u8>,
    /// When the reader has had enough time.
    pub(super) give_up: Option<Instant>,
}

impl Ending<'_> {
    /// Waits for work that ends when the children have ended and nothing waits for the reader.
    pub(super) async fn wait<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let mut work = tokio::task::spawn_blocking(work);
        if let Some(done) = self.turn(&mut work).await {
            return done;
        }
        self.feed.close();
        // Now nothing waits for the reader any more, so this ends, and then the output is given up at once.
        work.await.ok()
    }

    /// Waits for the output, as long as anybody wants to.
    pub(super) async fn unless_given_up(
        &mut self,
        mut work: tokio::task::JoinHandle<Result<u64, OutputError>>,
    ) -> Result<u64, OutputError> {
        self.turn(&mut work).await.flatten().unwrap_or(Err(OutputError::Stalled))
    }

    /// What the work returned (nothing if it panicked), or `None` when it is time to give up.
    async fn turn<T>(&mut self, work: &mut tokio::task::JoinHandle<T>) -> Option<Option<T>> {
        loop {
            let rest = self.give_up.map(|at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                done = &mut *work => return Some(done.ok()),
                () = sleep_or_never(rest) => return None,
                signal = self.signals.next() => {
                    let first = self.signal.replace(signal).is_none();
                    self.children.stop(Stop::Hard);
                    self.give_up = Some(Instant::now() + if first { PATIENCE } else { Duration::ZERO });
                }
            }
        }
    }
}

pub(super) async fn sleep_or_never(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

pub(crate) async fn hear(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
