//! A run from plan to report.

use std::sync::Arc;

use longshore_core::watch::{Detail, Events, Hub};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    assemble::Assembled,
    checks::Check,
    conclude::Ended,
    error::RunError,
    event::{RunEvent, Teller},
    heard::Heard,
    journal::{Begin, StateDir},
    open::{Opened, Surroundings},
    plan::Plan,
    report::Report,
    socket::Served,
    spec::{JournalSpec, RunSpec},
    steer::{Order, RunHandle},
    view::RunView,
    watch::{Watch, WatchState, Why},
};

/// A batch: commands, requests or lines to children, one for each record, journaled and resumable.
///
/// A run is planned, started, and then viewed, heard, steered and awaited. It prints nothing, reads
/// no terminal and installs no signal handler; that is its caller's business.
///
/// A program that runs commands calls [`longshore_core::init`] first thing in its `main`: then its
/// commands end with it, whatever ends it.
///
/// Whatever it says about its job is true at every instant: a start line is in the journal before
/// an attempt starts, a result line before a result is shown or counts. So a run that is killed
/// goes on where it stopped ([`Run::resume`]), and repeats at most what was running.
///
/// ```
/// use longshore_run::{Program, Run, RunSpec};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let spec = RunSpec::new(Program::command(["test", "{}", "-lt", "3"])).records(["1", "2", "3"]);
/// let running = Run::start(Run::plan(spec)?).await?;
/// let report = running.await;
/// assert_eq!((report.ran(), report.failed()), (3, 1));
/// # Ok::<_, longshore_run::RunError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Run(());

impl Run {
    /// Compiles all templates and expressions of a spec, opens its input, and checks what can be
    /// checked before anything runs.
    ///
    /// # Errors
    /// Of kind usage for what the spec says, of kind input for what it names.
    pub fn plan(spec: RunSpec) -> Result<Plan, RunError> {
        Plan::new(spec)
    }

    /// Starts a run on the current runtime, which has to have more than one thread.
    ///
    /// # Errors
    /// The journal, the output or a server cannot be used, or another process runs the job.
    ///
    /// # Cancel safety
    /// A future that is dropped before it is done starts nothing that goes on; its job is in the
    /// journal with nothing done.
    pub async fn start(plan: Plan) -> Result<Running, RunError> {
        Self::start_in(plan, Surroundings::default()).await
    }

    /// Starts a run as [`start`](Self::start) does, for somebody who listens, or shares a terminal
    /// with it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    pub async fn start_in(plan: Plan, mut around: Surroundings) -> Result<Running, RunError> {
        let teller = Teller::new(around.listener.take());
        let (tell, mut reasons) = mpsc::unbounded_channel::<Why>();
        // All that can refuse comes before anything runs: files here, servers next.
        let ramp = plan.ramp();
        let (mut opened, files) = Opened::open(plan, &mut around, &tell)?;
        let heard = Arc::new(Heard::default());
        let assembled = Assembled::start(&mut opened, &files, &around, &teller, &heard, &tell).await?;
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let first = RunView { name: assembled.name.clone(), job: opened.id.clone(), ..RunView::default() };
        let (views, viewed) = watch::channel(Arc::new(first));
        let handle = RunHandle { orders, views: viewed, heard, story: assembled.story.clone() };
        let Assembled { engine, name, counts, tally, unread, median, auto, estimate, end_children, is_http, story } = assembled;
        let checked = opened.plan.spec.stop.checks.iter().any(Check::is_on_failed);
        let watch = Watch {
            spec: opened.plan.spec.clone(),
            handle: engine.handle(),
            children: opened.children.clone(),
            counts: counts.clone(),
            tally: tally.clone(),
            index: opened.index.clone(),
            feed: files.output.feed(),
            teller: teller.clone(),
            views: views.clone(),
            name: name.clone(),
            id: opened.id.clone(),
            concurrency: opened.plan.concurrency,
            median,
            auto,
            ramp,
            state: WatchState::checked(checked),
        };
        let (hub, listened) = (teller.hub(), teller.until_dropped());
        // Beside the run, which has begun: whoever passes signals on needs its handle now.
        let served = tokio::spawn(served(opened.plan.spec.journal.clone(), handle.clone()));
        let task = tokio::spawn(async move {
            let _listened = listened;
            // Watched until the engine ends, then concluded; orders are heard to the very end.
            let left = watch.until_end(engine, estimate, &mut reasons, &mut ordered).await;
            drop(tell);
            let (journal, output) = (Some(files.journal), Some(files.output));
            let ended = Ended { opened, journal, output, left, name, counts, tally, unread, end_children, is_http, teller, story };
            let report = ended.conclude(&mut ordered, &views).await;
            // Whoever watches sees how it ended.
            views.send_replace(Arc::new(report.last_view()));
            drop(views);
            if let Ok(Some(served)) = served.await {
                served.close().await;
            }
            report
        });
        Ok(Running { handle, task, hub })
    }

    /// Plans to go on with a job: this one, else the one of the spec's name, else the latest
    /// unfinished one that does the same. The spec is the same as before; a journal has no
    /// programs.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn resume(spec: RunSpec, job: Option<&str>) -> Result<Plan, RunError> {
        Self::begin(spec, Begin::Resume(job.map(str::to_owned)))
    }

    /// Plans to run the failed tasks of a job again, as [`resume`](Self::resume) does the
    /// unfinished ones.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn retry_failed(spec: RunSpec, job: Option<&str>) -> Result<Plan, RunError> {
        Self::begin(spec, Begin::RetryFailed(job.map(str::to_owned)))
    }

    fn begin(spec: RunSpec, begin: Begin) -> Result<Plan, RunError> {
        let mut spec = spec.journaled();
        spec.journal.begin = begin;
        Self::plan(spec)
    }
}

/// Lets other processes reach a run. One that cannot be reached runs all the same.
async fn served(spec: JournalSpec, handle: RunHandle) -> Option<Served> {
    let spec = Some(spec).filter(|spec| spec.reachable)?;
    let state = StateDir::open(spec.state_dir.as_deref()).ok()?;
    Served::start(state.path().to_owned(), handle).await.ok()
}

/// A run that runs. Awaiting it waits for its end and gives its report.
///
/// Dropping it leaves the run running, for as long as its runtime lives.
#[derive(Debug)]
pub struct Running {
    handle: RunHandle,
    task: JoinHandle<Report>,
    hub: Hub<RunEvent>,
}

impl Running {
    /// Returns what it looked like a moment ago.
    pub fn view(&self) -> Arc<RunView> {
        self.handle.view()
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read.
    pub fn events(&self, capacity: usize) -> Events<RunEvent> {
        self.hub.listen(Detail::Tasks, capacity)
    }

    /// Returns a handle, to view and to steer it.
    pub fn handle(&self) -> RunHandle {
        self.handle.clone()
    }

    /// Waits for its end: every task has ended, all results are where they go, the journal is
    /// closed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the run running.
    pub async fn join(self) -> Report {
        let Self { handle, task, .. } = self;
        let view = handle.view();
        match task.await {
            Ok(report) => report,
            Err(error) => Report::broken(&view, format!("the run ended: {error}")),
        }
    }
}

impl IntoFuture for Running {
    type Output = Report;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Report> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.join())
    }
}
