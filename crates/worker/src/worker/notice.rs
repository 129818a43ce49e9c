//! What happens to tasks, told to whoever listens: the log, Celery's events, metrics.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use longshore_celery::Message;
use longshore_core::LaneKind;

/// Something that happened to a task.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When.
    pub at: SystemTime,
    /// The task's message; its arguments are in `argsrepr` as the sender wrote them.
    pub message: Arc<Message>,
    /// Its queue.
    pub queue: Arc<str>,
    /// Where it runs or ran, once it has started.
    pub seat: Option<(LaneKind, u32)>,
    /// What happened.
    pub what: What,
}

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It was claimed and will run; not before its ETA.
    Received,
    /// Its handler begins.
    Started,
    /// Its result is stored.
    Succeeded {
        /// How long it ran.
        runtime: Duration,
        /// The result as Python shows it.
        result: String,
    },
    /// It failed for good.
    Failed {
        /// How long it ran; `None` if it never did.
        runtime: Option<Duration>,
        /// The exception as Python shows it.
        exception: String,
        /// Where.
        traceback: Option<String>,
    },
    /// It is sent again.
    Retried {
        /// Why, as Python shows it.
        exception: String,
        /// Not before this time has passed.
        after: Duration,
    },
    /// It was revoked or it expired.
    Revoked {
        /// It ran and was ended.
        terminated: bool,
        /// By this signal.
        signal: Option<u8>,
        /// It expired.
        expired: bool,
    },
    /// Its handler refused it.
    Rejected {
        /// It goes back to its queue.
        requeue: bool,
    },
    /// Its handler wants no result.
    Ignored,
    /// Something else took its place.
    Replaced,
    /// Its worker or child died, and it is tried again.
    Crashed {
        /// How, and how often so far.
        reason: String,
        /// How often.
        crashes: u32,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        reason: String,
    },
    /// It ended after it had been rescued from this worker: its result was refused.
    Late,
}

type Listener = Arc<dyn Fn(&[Notice]) + Send + Sync>;

/// Where notices go. Nobody listening costs one load.
#[derive(Default)]
pub(crate) struct Board {
    any: AtomicBool,
    listeners: Mutex<Vec<(Listener, Arc<AtomicBool>)>>,
}

impl Board {
    pub(crate) fn listen(&self, listener: Listener) {
        self.listen_if(listener, Arc::new(AtomicBool::new(true)));
    }

    /// A listener that wants to hear something only while this is true. Whoever changes it says so by [`refresh`](Self::refresh).
    pub(crate) fn listen_if(&self, listener: Listener, wants: Arc<AtomicBool>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push((listener, wants));
        self.refresh();
    }

    pub(crate) fn refresh(&self) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(listeners.iter().any(|(_, wants)| wants.load(Ordering::Acquire)), Ordering::Release);
    }

    pub(crate) fn wanted(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    pub(crate) fn post(&self, notices: &[Notice]) {
        if notices.is_empty() {
            return;
        }
        let listeners: Vec<Listener> =
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(listener, _)| listener.clone()).collect();
        for listener in listeners {
            listener(notices);
        }
    }
}
