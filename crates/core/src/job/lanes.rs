//! What a job runs, and where: its lanes.

use std::{future::Future, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Handle as Runtime;

use super::Job;
use crate::{
    clock::Clock,
    error::TaskError,
    lane::{
        AsyncHandler, Context, IntoOutcome, Lane, Outbox, SyncHandler,
        async_::AsyncLane,
        blocking::BlockingLane,
        child::{self, Command, Output},
        children::ChildLimits,
        cpu::CpuLane,
        isolated::{IsolatedLane, Parcel},
        process::{ProcessHandler, ProcessLane, exit_outcome},
    },
    outcome::Outcome,
    retry::RetryPolicy,
    task::LaneKind,
    watch::Hub,
};

impl<T: Send + 'static, R: Send + 'static> Job<T, R> {
    /// A job that runs an async function, on the async lane. For work that waits; a function that
    /// computes or blocks belongs to [`blocking`](Job::blocking) or [`cpu`](Job::cpu).
    pub fn new<F, Fut, A>(function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: IntoOutcome<R>,
    {
        Self::on_lane(LaneKind::Async).on_async(function)
    }

    /// A job that runs an async function which wants to know its attempt: which task, which
    /// attempt, which slot, and a token that says when nobody wants the result any more.
    /// ```
    /// use longshore_core::{Context, Job};
    ///
    /// // A loop that cleans up when nobody wants its result any more.
    /// let collected = Job::with_context(|context: Context, n: u64| async move {
    ///     for step in 0..n {
    ///         if context.cancel.is_cancelled() {
    ///             return Err("not wanted any more");
    ///         }
    ///         assert_eq!((context.id, context.attempt), (1, 1), "step {step}");
    ///     }
    ///     Ok(n)
    /// })
    /// .params([10])
    /// .collect();
    /// assert_eq!(collected.results().unwrap(), [10]);
    /// ```
    pub fn with_context<F, Fut, A>(function: F) -> Self
    where
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: IntoOutcome<R>,
    {
        Self::on_lane(LaneKind::Async).async_handler(AsyncHandler::with_context(function))
    }

    /// A job that runs a plain function on the blocking lane, a thread for each running task.
    pub fn blocking<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        Self::on_lane(LaneKind::Blocking).on_blocking(move |_, payload| function(payload))
    }

    /// A job that runs a plain function on the cpu lane: as many threads as cores, at a lower
    /// priority.
    pub fn cpu<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        Self::on_lane(LaneKind::Cpu).on_cpu(move |_, payload| function(payload))
    }

    fn on_lane(lane: LaneKind) -> Self {
        Self {
            lanes: [None, None, None, None],
            lane,
            workers: [None; 4],
            concurrency: None,
            adaptive: None,
            queue: None,
            results: None,
            handlers: 1,
            producers: Vec::new(),
            options: None,
            lane_of: None,
            key_of: None,
            rate: None,
            limits: Vec::new(),
            retry: RetryPolicy::NONE,
            timeout: None,
            copy: None,
            keep: false,
            clock: Clock::SYSTEM,
            seed: None,
            on_task_complete: None,
            on_job_complete: None,
            events: Hub::new(),
            labels: None,
        }
    }

    fn async_handler(mut self, handler: AsyncHandler<T, R>) -> Self {
        self.lanes[LaneKind::Async as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, runtime: &Runtime, _| {
            Arc::new(AsyncLane::new(handler, outbox.clone(), clock, runtime)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// Sets what tasks on the async lane run.
    pub fn on_async<F, Fut, A>(self, function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: IntoOutcome<R>,
    {
        self.async_handler(AsyncHandler::new(function))
    }

    /// Sets what tasks on the blocking lane run.
    pub fn on_blocking<F, A>(mut self, function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        let handler: SyncHandler<T, R> = Arc::new(move |context, payload| function(context, payload).into_outcome());
        self.lanes[LaneKind::Blocking as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, _| {
            Arc::new(BlockingLane::new(handler, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// Sets what tasks on the cpu lane run.
    pub fn on_cpu<F, A>(mut self, function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: IntoOutcome<R>,
    {
        let handler: SyncHandler<T, R> = Arc::new(move |context, payload| function(context, payload).into_outcome());
        self.lanes[LaneKind::Cpu as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, workers| {
            Arc::new(CpuLane::new(handler, workers, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// Sets what tasks on the process lane run: a child process each, and what is made of its end
    /// ([`exit_outcome`](crate::lane::process::exit_outcome) is the usual choice).
    ///
    /// A command that passes its timeout gets TERM, ten seconds later KILL, its whole group with
    /// it; of each of its streams the first MiB is kept. If this program is killed, its children go
    /// on, unless its `main` begins with [`init`](crate::init).
    pub fn on_process<C, A>(mut self, command: C, answer: A) -> Self
    where
        C: Fn(&T) -> Command + Send + Sync + 'static,
        A: Fn(&Context, T, Output) -> Outcome<R> + Send + Sync + 'static,
    {
        let limits = child::Limits::default();
        let handler = ProcessHandler {
            command: Arc::new(move |_, payload| Ok(command(payload))),
            answer: Arc::new(answer),
            kill_after: limits.kill_after,
            max_output: limits.max_output,
        };
        self.lanes[LaneKind::Process as usize] =
            Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, _| match crate::init::children(&[]) {
                Ok(children) => Arc::new(ProcessLane::new(handler, children, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>,
                // Without descriptors no child can be had.
                Err(error) => refusing(TaskError::new("spawn", format!("no children can be started: {error}")), outbox, clock),
            }));
        self
    }

    /// A job that runs a function of this program in child processes, as many as cores unless
    /// [`workers`](Job::workers) says otherwise: a crash, an abort, a stack overflow, memory
    /// without end or a loop without end ends its task, and nothing else. See
    /// [`on_isolated`](Job::on_isolated).
    pub fn isolated<F, A>(function: F, limits: ChildLimits) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: IntoOutcome<R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Self::on_lane(LaneKind::Process).on_isolated(function, limits)
    }

    /// Sets what tasks on the process lane run: a function of this program, in child processes that
    /// serve many tasks each.
    ///
    /// `main` must begin with [`init_with`](crate::init_with), and add the function there; else
    /// every task fails with kind `setup`, which says so. The children are this executable, started
    /// again: they share nothing with this process, neither its statics nor its open files but
    /// standard output and error. Payload and result travel as bytes (serde, in the format of
    /// `postcard`, which cannot carry types that want to see what follows, such as untagged enums).
    ///
    /// | what the function does | outcome |
    /// |---|---|
    /// | returns, panics | as on any other lane |
    /// | passes its timeout | `TimedOut`; its child is killed at once, by SIGKILL |
    /// | aborts, overflows the stack, is killed | `Killed`, with the signal |
    /// | calls `exit` | `Lost`, with the code |
    /// | holds more than [`ChildLimits::memory`] | `Failed`, kind `memory` |
    ///
    /// A child that ends is replaced. What else was sent to it and had not begun is run by another
    /// one; nothing that ran is run again but by the job's retries. Processes that a function
    /// leaves behind are killed with its child, when that ends or is replaced, unless they left its
    /// process group. When this program dies, by whatever death, so do its children. Linux alone.
    ///
    /// The bounds on `function` are those of [`Functions::with`](crate::Functions::with): it
    /// captures nothing.
    pub fn on_isolated<F, A>(mut self, function: F, limits: ChildLimits) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: IntoOutcome<R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        // Its type says which one it is.
        drop(function);
        self.lanes[LaneKind::Process as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, workers| {
            match IsolatedLane::new::<F>(workers, limits, outbox.clone(), clock) {
                Ok(lane) => Arc::new(lane) as Arc<dyn Lane<T, R>>,
                Err(error) => refusing(error, outbox, clock),
            }
        }));
        self
    }
}

/// A lane that cannot be had: that is what each of its tasks says.
fn refusing<T: Send + 'static, R: Send + 'static>(error: TaskError, outbox: &Outbox<T, R>, clock: Clock) -> Arc<dyn Lane<T, R>> {
    let handler: SyncHandler<T, R> = Arc::new(move |_, _| Outcome::Failed(error.clone()));
    Arc::new(BlockingLane::new(handler, outbox.clone(), clock))
}

impl<T, R> Job<Parcel<T, R>, Vec<Outcome<R>>>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    /// As [`isolated`](Job::isolated), for tasks that are several items.
    pub(crate) fn isolated_parcels<F, A>(function: F, limits: ChildLimits) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: IntoOutcome<R>,
    {
        drop(function);
        let mut job = Self::on_lane(LaneKind::Process);
        job.lanes[LaneKind::Process as usize] =
            Some(Box::new(move |outbox, clock, _, workers| match IsolatedLane::of_parcels::<F>(workers, limits, outbox.clone(), clock) {
                Ok(lane) => Arc::new(lane) as Arc<dyn Lane<_, _>>,
                Err(error) => refusing(error, outbox, clock),
            }));
        job
    }
}

impl<T: Send + 'static> Job<T, Output> {
    /// A job that runs a command for each parameter, as a child process of its own. A task ends
    /// well when its command ends with 0.
    ///
    /// ```
    /// use longshore_core::{Job, lane::child::Command};
    ///
    /// let job = Job::commands(|n: &u32| Command { program: "echo".into(), args: vec![n.to_string().into()], ..Command::default() });
    /// let outputs = job.params(1..=3).collect().results().expect("echo ends with 0");
    /// assert_eq!(outputs[2].stdout, b"3\n");
    /// ```
    pub fn commands(command: impl Fn(&T) -> Command + Send + Sync + 'static) -> Self {
        Self::on_lane(LaneKind::Process).on_process(command, |context, _, output| exit_outcome(output, context.timeout))
    }
}
