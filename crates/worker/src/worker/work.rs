//! A claimed task on its way through the engine.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{Claimed, lease::Term};
use longshore_celery::{Message, TraceContext, Value};
use longshore_core::{CancelToken, LaneKind, Receipt, lane::Context};

use crate::{
    failure::Failure,
    task::{Task, context::TaskContext},
};

/// A claimed task on its way through the engine: the payload of its attempts. Shared by the engine,
/// the lane, remote control and the sink.
pub(crate) struct ClaimedTask {
    pub(crate) message: Arc<Message>,
    pub(crate) task: Arc<Task>,
    pub(crate) receipt: Receipt,
    pub(crate) queue: Arc<str>,
    /// Number of workers that died of it, or may have.
    pub(crate) crashes: u32,
    /// Term of our lease in which it was claimed; `None` where nobody else can have it.
    pub(crate) term: Option<Term>,
    /// Of the attempt that runs: cancelled when nobody wants its result any more; the handler sees
    /// it.
    cancel: OnceLock<CancelToken>,
    /// Cancelled when the soft limit has passed.
    pub(crate) soft: CancelToken,
    /// True where remote control has called it off.
    pub(crate) revoked: AtomicBool,
    /// Signal that remote control ended it with; 0 for none.
    pub(crate) signal: AtomicU8,
    /// True where the message was acknowledged before it started, or was given.
    pub(crate) acked: AtomicBool,
    /// True where the broker has heard that, and holds nothing of it.
    pub(crate) gone: AtomicBool,
    /// True where it has ended, and the broker is being told of that.
    pub(crate) ending: AtomicBool,
    /// The message as it was given: if it does not start it is held after all.
    given: Option<Vec<u8>>,
    started: OnceLock<AttemptStart>,
    /// Place of the attempt's span, and of what that belongs to, where spans are made.
    pub(crate) place: OnceLock<SpanPlace>,
    /// Context that the handler was given; it knows what the handler has sent.
    pub(crate) context: OnceLock<TaskContext>,
}

/// Time and place of an attempt's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptStart {
    pub(crate) at: SystemTime,
    pub(crate) since: Instant,
    pub(crate) lane: LaneKind,
    pub(crate) slot: u32,
    /// Time after which it is told to end.
    pub(crate) soft: Option<Duration>,
}

/// Place of an attempt's span, and the place that its message names.
pub(crate) type SpanPlace = (TraceContext, Option<TraceContext>);

/// Payload that travels through the engine: a shared [`ClaimedTask`].
#[derive(Clone)]
pub(crate) struct TaskTicket(pub(crate) Arc<ClaimedTask>);

/// Result of an attempt whose handler came to an end.
pub(crate) type AttemptResult = Result<Value, Box<Failure>>;

impl ClaimedTask {
    pub(crate) fn new(message: Arc<Message>, task: Arc<Task>, claimed: Claimed, term: Term) -> Self {
        let Claimed { receipt, queue, raw, crashes, given, .. } = claimed;
        Self {
            message,
            task,
            receipt,
            queue,
            crashes,
            term: (!given).then_some(term),
            cancel: OnceLock::new(),
            soft: CancelToken::new(),
            revoked: AtomicBool::new(false),
            signal: AtomicU8::new(0),
            acked: AtomicBool::new(given),
            gone: AtomicBool::new(given),
            ending: AtomicBool::new(false),
            given: given.then_some(raw),
            started: OnceLock::new(),
            place: OnceLock::new(),
            context: OnceLock::new(),
        }
    }

    /// Notes that the handler begins.
    pub(crate) fn begin(&self, (at, since): (SystemTime, Instant), context: &Context, soft: Option<Duration>) {
        let _ = self.cancel.set(context.cancel.clone());
        let _ = self.started.set(AttemptStart { at, since, lane: context.lane, slot: context.slot, soft });
    }

    /// Returns the receipt that has to be acknowledged at its end; none where it is already.
    pub(crate) fn owed(&self) -> Option<Receipt> {
        (!self.acked.load(Ordering::Acquire)).then_some(self.receipt)
    }

    /// Returns the message if it has to be held before it can go back: a given one that never
    /// started.
    pub(crate) fn to_hold(&self) -> Option<Claimed> {
        let raw = self.given.as_ref().filter(|_| self.started.get().is_none())?.clone();
        let (receipt, queue) = (self.receipt, self.queue.clone());
        Some(Claimed { receipt, queue, raw, crashes: self.crashes, redelivered: false, given: true })
    }

    /// Returns whether the broker has nothing of it any more that could come again.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Returns the place of the attempt's span, where spans are made.
    pub(crate) fn own_place(&self) -> Option<&TraceContext> {
        self.place.get().map(|(own, _)| own)
    }

    /// Returns when and where it began, if it did.
    pub(crate) fn started(&self) -> Option<AttemptStart> {
        self.started.get().copied()
    }

    /// Flags it as revoked; what runs is told to end.
    pub(crate) fn revoke(&self, signal: Option<u8>) {
        self.revoked.store(true, Ordering::Release);
        if let Some(signal) = signal {
            self.signal.store(signal, Ordering::Release);
            if let Some(cancel) = self.cancel.get() {
                cancel.cancel();
            }
        }
    }

    /// Returns whether its running attempt was told to end.
    pub(crate) fn is_called_off(&self) -> bool {
        self.cancel.get().is_some_and(CancelToken::is_cancelled)
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// The signal that remote control ended it with.
    pub(crate) fn signal(&self) -> Option<u8> {
        Some(self.signal.load(Ordering::Acquire)).filter(|signal| *signal > 0)
    }
}
