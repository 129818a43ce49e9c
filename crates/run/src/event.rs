//! What happens in a run, for whoever listens.

use std::{fmt, sync::Arc, time::Duration};

use longshore_core::{Word, watch::Counts};
use tokio::sync::broadcast;

use crate::auto::BestWidth;

/// Events that wait for a listener; one that reads too slowly misses the oldest and is told how
/// many.
const MOST_WAITING: usize = 1024;

/// What happens in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunEvent {
    /// It goes on with a job that was begun earlier.
    Resumed(Resumed),
    /// A task has ended for good.
    Ended(TaskEnd),
    /// A server is away, and is waited for.
    Waiting {
        /// What happened, and where.
        message: String,
    },
    /// Nothing more starts. What runs may end.
    Stopping {
        /// Attempts that run.
        running: usize,
        /// How long they have, if that is limited.
        grace: Option<Duration>,
    },
    /// What runs is told to end.
    Ending {
        /// Child processes among it.
        children: usize,
    },
    /// Another number of tasks may run at once.
    Concurrency {
        /// How many.
        most: usize,
    },
    /// The machine's load or memory pauses the run, or lets it go on when neither does.
    Machine {
        /// The load is too high.
        loaded: bool,
        /// Too little memory is free.
        low: bool,
    },
    /// How many at once is best was found out.
    Found(BestWidth),
    /// What was expected when that was found, beside what came of it.
    Outcome {
        /// Both in words.
        message: String,
    },
    /// The run was over before it was known how many at once is best.
    NotFound {
        /// How many ran at once in the end.
        most: usize,
    },
    /// Tasks that were in flight when the job died are not in its input any more.
    Lost {
        /// The job's name.
        name: String,
        /// How many.
        tasks: u64,
    },
}

/// What a resumed job has behind it.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Its name, or its id.
    pub name: String,
    /// Its id.
    pub job: String,
    /// Tasks that failed are tried again.
    pub retry: bool,
    /// What became of the tasks that are finished.
    pub counts: Counts,
    /// Tasks that were in flight, or are to be tried again.
    pub open: u64,
    /// Records that its input has, if that is known.
    pub total: Option<u64>,
}

/// A task that has ended for good.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    /// Its place in the input.
    pub seq: u64,
    /// How many records shared its call.
    pub records: usize,
    /// How it ended.
    pub word: Word,
    /// Its last attempt.
    pub attempt: u32,
    /// How long that ran.
    pub run: Duration,
    /// The slot, from 1.
    pub slot: u32,
    /// Why it did not end well.
    pub error: Option<String>,
}

/// Which tasks a [`Listener`] wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskDetail {
    /// None.
    #[default]
    None,
    /// Those that did not end well.
    Failed,
    /// All.
    All,
}

/// Hears every event, in order and on the thread where it happens, so it must be quick.
pub struct Listener {
    /// Which tasks it wants to hear of.
    pub tasks: TaskDetail,
    /// What is called.
    pub hear: Box<dyn Fn(&RunEvent) + Send + Sync>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

/// Tells one event to all who listen.
pub type Tell = Arc<dyn Fn(&RunEvent) + Send + Sync>;

/// Passes events on.
#[derive(Clone)]
pub(crate) struct Teller {
    listener: Option<Arc<Listener>>,
    others: broadcast::Sender<RunEvent>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self { listener: listener.map(Arc::new), others: broadcast::Sender::new(MOST_WAITING) }
    }

    pub(crate) fn tell(&self, event: &RunEvent) {
        if let Some(listener) = &self.listener {
            (listener.hear)(event);
        }
        if self.others.receiver_count() > 0 {
            let _ = self.others.send(event.clone());
        }
    }

    /// Returns whether anybody wants to hear of a task that ended so.
    pub(crate) fn hears_of(&self, word: Word) -> bool {
        let listens = self.listener.as_ref().is_some_and(|listener| match listener.tasks {
            TaskDetail::None => false,
            TaskDetail::Failed => word != Word::Ok,
            TaskDetail::All => true,
        });
        listens || self.others.receiver_count() > 0
    }

    pub(crate) fn as_fn(&self) -> Tell {
        let this = self.clone();
        Arc::new(move |event| this.tell(event))
    }

    pub(crate) fn later(&self) -> LaterEvents {
        LaterEvents(self.others.downgrade())
    }
}

/// Makes listeners later on, and keeps no event of a run that is over from ending.
#[derive(Debug)]
pub(crate) struct LaterEvents(broadcast::WeakSender<RunEvent>);

impl LaterEvents {
    pub(crate) fn events(&self) -> Events {
        // Of a run that is over there is nothing to hear.
        let others = self.0.upgrade().unwrap_or_else(|| broadcast::Sender::new(1));
        Events { from: others.subscribe(), missed: 0 }
    }
}

/// What happens in a run, from now on.
///
/// A reader that is slow holds up nobody: it misses the oldest events, which are counted.
#[derive(Debug)]
pub struct Events {
    from: broadcast::Receiver<RunEvent>,
    missed: u64,
}

impl Events {
    /// Waits for the next event; `None` when the run is over.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<RunEvent> {
        loop {
            match self.from.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => self.missed += missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Returns how many events this reader was too slow for.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
