//! The signals that a command hears while it runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

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

pub(crate) async fn hear(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
