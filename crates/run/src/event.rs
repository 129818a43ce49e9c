//! What happens in a run, for whoever listens.

use std::{fmt, sync::Arc, time::Duration};

use longshore_core::{
    Word,
    watch::{self, Counts, Detail, Hub},
};

use crate::auto::BestWidth;

/// Something that has happened in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunEvent {
    /// It goes on with a job that was begun earlier.
    Resumed(Resumed),
    /// A task has ended for good.
    Ended(TaskEnd),
    /// A server or a worker is away, and is waited for.
    Waiting {
        /// A sentence that says what happened, and where.
        message: String,
    },
    /// Nothing more starts. What runs may end.
    Stopping {
        /// Attempts that run.
        running: usize,
        /// Time that these attempts have, if it is limited.
        grace: Option<Duration>,
    },
    /// Running attempts are told to end.
    Ending {
        /// Child processes among it.
        children: usize,
    },
    /// Another number of tasks may run at once.
    Concurrency {
        /// The new limit.
        most: usize,
    },
    /// The machine's load or memory pauses the run, or lets it go on when neither does.
    Machine {
        /// The load is too high.
        loaded: bool,
        /// Too little memory is free.
        low: bool,
    },
    /// The best number of tasks at once was found out.
    Found(BestWidth),
    /// A comparison at the end: the time that was expected when that was found, and the time it
    /// took.
    Outcome {
        /// Both in words.
        message: String,
    },
    /// The run was over before it was known how many at once is best.
    NotFound {
        /// Number of tasks that ran at once in the end.
        most: usize,
    },
    /// A command begins another attempt, and its lines are shown while it runs: those of the
    /// attempt before have been shown, as far as it came.
    ShownAgain {
        /// Its place in the input.
        seq: u64,
        /// Which attempt begins, from 2.
        attempt: u32,
    },
    /// Tasks that were in flight when the job died are not in its input any more.
    Lost {
        /// The job's name.
        name: String,
        /// Number of these tasks.
        tasks: u64,
    },
}

impl watch::Tell for RunEvent {
    fn detail(&self) -> Detail {
        if matches!(self, RunEvent::Ended(_)) { Detail::Tasks } else { Detail::Changes }
    }
}

/// State of a job that is resumed, as earlier sittings left it.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Its name, or its id.
    pub name: String,
    /// Its id.
    pub job: String,
    /// Tasks that failed are tried again.
    pub retry: bool,
    /// Counts of the tasks that are finished, by outcome.
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
    /// Records that shared its call.
    pub records: usize,
    /// Its outcome.
    pub word: Word,
    /// Its last attempt.
    pub attempt: u32,
    /// Time that this attempt ran.
    pub run: Duration,
    /// The slot, from 1.
    pub slot: u32,
    /// The reason why it did not end well.
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
    /// The function that is called for each event.
    pub hear: Box<dyn Fn(&RunEvent) + Send + Sync>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

/// Tells one event to all who listen.
pub(crate) type Tell = Arc<dyn Fn(&RunEvent) + Send + Sync>;

/// Passes events on.
#[derive(Clone)]
pub(crate) struct Teller {
    listener: Option<Arc<Listener>>,
    others: Hub<RunEvent>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self { listener: listener.map(Arc::new), others: Hub::new() }
    }

    pub(crate) fn tell(&self, event: &RunEvent) {
        if let Some(listener) = &self.listener {
            (listener.hear)(event);
        }
        if self.others.wants(watch::Tell::detail(event)) {
            self.others.post([event.clone()]);
        }
    }

    /// Returns whether anybody wants to hear of a task that ended so.
    pub(crate) fn hears_of(&self, word: Word) -> bool {
        let listens = self.listener.as_ref().is_some_and(|listener| match listener.tasks {
            TaskDetail::None => false,
            TaskDetail::Failed => word != Word::Ok,
            TaskDetail::All => true,
        });
        listens || self.others.wants(Detail::Tasks)
    }

    pub(crate) fn as_fn(&self) -> Tell {
        let this = self.clone();
        Arc::new(move |event| this.tell(event))
    }

    /// Returns the hub for those who come to listen later on.
    pub(crate) fn hub(&self) -> Hub<RunEvent> {
        self.others.lent()
    }

    /// Returns what ends all who listen, when it is dropped: with the run, however that ends.
    pub(crate) fn until_dropped(&self) -> UntilDropped {
        UntilDropped(self.others.clone())
    }
}

pub(crate) struct UntilDropped(Hub<RunEvent>);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.close();
    }
}
