//! Handlers of records, and the lanes on which they run.

use std::{future::Future, sync::Arc};

use longshore_core::{
    Clock, Context, Finished, IntoOutcome, LaneKind, Outcome, Skip, TaskError,
    lane::{
        AsyncHandler, Lane, Outbox, SyncHandler,
        async_::AsyncLane,
        blocking::BlockingLane,
        child::Children,
        cpu::CpuLane,
        process::{ProcessHandler, ProcessLane},
    },
};
use tokio::runtime::Handle as Runtime;

use crate::record::Record;

pub(crate) type OnEnd<R> = Box<dyn Fn(&Finished<Record, R>) + Send + Sync>;
type MakeLane<R> = Box<dyn FnOnce(&Outbox<Record, R>, Clock, &Runtime, usize) -> Arc<dyn Lane<Record, R>> + Send>;

/// Handler of records: the function that runs for each, and the lane on which it runs. Its result
/// says that the record is done; an error has it tried again, and at last buried in the dead-letter
/// topic.
///
/// A record that was read, and whose partition is then taken from us before the handler begins with
/// it, never reaches the handler.
pub struct Handler<R> {
    pub(crate) lane: LaneKind,
    pub(crate) make: MakeLane<R>,
    pub(crate) on_end: Option<OnEnd<R>>,
}

impl<R: Send + 'static> Handler<R> {
    /// Takes an async function, for the async lane: for handlers that wait.
    pub fn new<F, Fut, A>(function: F) -> Self
    where
        F: Fn(Record) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: IntoOutcome<R>,
    {
        Self::of_async(AsyncHandler::new(function))
    }

    /// Takes a plain function, for the blocking lane: a thread for each record that is in work.
    pub fn blocking<F, A>(function: F) -> Self
    where
        F: Fn(&Context, Record) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        Self::of_blocking(Arc::new(move |context, record| function(context, record).into_outcome()))
    }

    /// Takes a plain function, for the cpu lane: for handlers that compute.
    pub fn cpu<F, A>(function: F) -> Self
    where
        F: Fn(&Context, Record) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        let handler = guarded(Arc::new(move |context: &Context, record| function(context, record).into_outcome()));
        Self {
            lane: LaneKind::Cpu,
            make: Box::new(move |outbox, clock, _, workers| Arc::new(CpuLane::new(handler, workers, outbox.clone(), clock))),
            on_end: None,
        }
    }

    /// Takes a handler of the async lane, as the engine knows it.
    pub fn of_async(handler: AsyncHandler<Record, R>) -> Self {
        let handler = handler.unless(|record: &Record| (!record.begin()).then(withdrawn));
        Self {
            lane: LaneKind::Async,
            make: Box::new(move |outbox, clock, runtime, _| Arc::new(AsyncLane::new(handler, outbox.clone(), clock, runtime))),
            on_end: None,
        }
    }

    /// Takes a handler of the blocking lane, as the engine knows it.
    pub fn of_blocking(handler: SyncHandler<Record, R>) -> Self {
        let handler = guarded(handler);
        Self {
            lane: LaneKind::Blocking,
            make: Box::new(move |outbox, clock, _, _| Arc::new(BlockingLane::new(handler, outbox.clone(), clock))),
            on_end: None,
        }
    }

    /// Takes a command for each record, for the process lane; the children are entered in this
    /// registry.
    pub fn of_process(handler: ProcessHandler<Record, R>, children: Children) -> Self {
        let ProcessHandler { command, answer, kill_after, max_output } = handler;
        let command: Arc<dyn Fn(&Context, &Record) -> _ + Send + Sync> =
            Arc::new(
                move |context, record: &Record| {
                    if record.begin() { command(context, record) } else { Err(TaskError::invalid("its partition was taken from us")) }
                },
            );
        let handler = ProcessHandler { command, answer, kill_after, max_output };
        Self {
            lane: LaneKind::Process,
            make: Box::new(move |outbox, clock, _, _| Arc::new(ProcessLane::new(handler, children, outbox.clone(), clock))),
            on_end: None,
        }
    }

    /// Is told of each record that has ended for good, well or badly, before it counts as done. To
    /// be quick, since what comes next waits for it; a panic stops the consumer.
    #[must_use]
    pub fn on_end(mut self, on_end: impl Fn(&Finished<Record, R>) + Send + Sync + 'static) -> Self {
        self.on_end = Some(Box::new(on_end));
        self
    }

    /// Returns the lane.
    pub fn lane(&self) -> LaneKind {
        self.lane
    }
}

fn guarded<R: Send + 'static>(handler: SyncHandler<Record, R>) -> SyncHandler<Record, R> {
    Arc::new(move |context, record| if record.begin() { handler(context, record) } else { withdrawn() })
}

/// Returns an outcome of which nobody hears: the record's receipt was taken back before.
fn withdrawn<R>() -> Outcome<R> {
    Outcome::Skipped(Skip::Revoked)
}
