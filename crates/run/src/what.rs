//! What runs for each record: a command, an HTTP request, a line to a living child, or nothing.

use std::{ffi::OsString, future::Future, sync::Arc, time::Duration};

use longshore_brokers::mask_text;
use longshore_core::{
    ChildLimits, Clock, Context, LaneKind, Outcome, TaskError,
    engine::Lanes,
    lane::{
        AsyncHandler, Lane, Outbox,
        async_::AsyncLane,
        blocking::BlockingLane,
        child::{self, Children, Command, Exit, Stdin},
        children::ChildLane,
        cpu::CpuLane,
        process::{ProcessLane, exit_outcome},
    },
};

use crate::{
    batch::{Batching, Weight},
    call::Call,
    command::{CommandPlan, told},
    environment::{constants, env_pair, line_by_line, surroundings},
    event::Tell,
    heard::Heard,
    http::{HttpClient, HttpOptions, HttpPlan, HttpWords, Request, SPOOL},
    last_output::LastOutputs,
    live::Live,
    overdue::Overdue,
    pipe::{Pipe, PipeOptions, line},
    program::{OpenProgram, ProgramEnd, ProgramHandler, ProgramUser, pipe_lines},
    record::Record,
    reply::Reply,
    spec::{PipeSpec, Program, ProgramLimits, RequestSpec},
    spool::Spool,
    task::TaskPlan,
    template::{Expr, Shape, Vars},
};

/// The program that runs for each record, with its templates compiled.
pub enum What {
    /// A child process per task.
    Command(Arc<CommandPlan>),
    /// A request per task.
    Http(Arc<HttpPlan>),
    /// A line to one of the children that stay alive.
    Pipe(Arc<PipePlan>),
    /// A task of a queue per task.
    Task(Arc<TaskPlan>),
    /// Nothing.
    Noop,
}

/// A child that stays alive.
pub struct PipePlan {
    options: PipeOptions,
    env: Vec<(OsString, Expr)>,
    text: String,
    /// Lines that a child may have at once.
    window: usize,
}

impl What {
    /// Compiles the templates of what runs, for records of this shape.
    ///
    /// # Errors
    /// A sentence for people: a bad template, a field that cannot be there, a placeholder whose
    /// value a shell would run.
    pub fn compile(program: &Program, limits: &ProgramLimits, shape: &Shape) -> Result<Self, String> {
        let what = Self::compile_known(program, limits, shape)?;
        what.injection().map_or(Ok(what), Err)
    }

    /// Returns why it would run what stands in a record, and what to write; `None` if it does not.
    pub(crate) fn injection(&self) -> Option<String> {
        if let What::Command(plan) = self { plan.injection() } else { None }
    }

    /// Returns why its program cannot run for any record, as far as that is known before it is
    /// tried. Blocks.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            What::Command(plan) => plan.missing(),
            What::Pipe(plan) => plan.missing(),
            What::Http(_) | What::Task(_) | What::Noop => None,
        }
    }

    /// Returns whether it starts the same program for every record, so that a program that cannot
    /// be started is no record's fault.
    pub(crate) fn has_one_program(&self) -> bool {
        match self {
            What::Command(plan) => plan.has_one_program(),
            What::Pipe(_) => true,
            What::Http(_) | What::Task(_) | What::Noop => false,
        }
    }

    /// Does as [`compile`](Self::compile), for a job that may have begun in a version that did not
    /// look at what a shell would run.
    pub(crate) fn compile_known(program: &Program, limits: &ProgramLimits, shape: &Shape) -> Result<Self, String> {
        let env = |pairs: &[String]| {
            let pair = |pair: &String| env_pair(pair, shape).map_err(|error| format!("--env {error}"));
            pairs.iter().map(pair).collect::<Result<Vec<_>, _>>()
        };
        Ok(match program {
            Program::Http(spec) => What::Http(Arc::new(http_plan(spec, limits, shape)?)),
            Program::Task(spec) => What::Task(Arc::new(TaskPlan::compile(spec, limits.retries_failed, shape)?)),
            Program::Pipe(spec) => What::Pipe(Arc::new(PipePlan::compile(spec, env(&spec.env)?, limits)?)),
            Program::Command(spec) => What::Command(Arc::new(CommandPlan::compile(spec, env(&spec.env)?, limits, shape)?)),
            Program::Nothing => What::Noop,
        })
    }

    /// The lane that tasks run on unless told otherwise, and the lanes that there are.
    pub fn lanes(&self) -> (LaneKind, &'static [LaneKind]) {
        match self {
            What::Command(_) => (LaneKind::Process, &[LaneKind::Process]),
            What::Http(_) | What::Task(_) => (LaneKind::Async, &[LaneKind::Async]),
            What::Pipe(_) => (LaneKind::Blocking, &[LaneKind::Blocking]),
            What::Noop => (LaneKind::Async, &[LaneKind::Async, LaneKind::Blocking, LaneKind::Cpu]),
        }
    }

    /// Returns the number of tasks that run at once unless told otherwise.
    pub fn default_concurrency(&self) -> usize {
        match self {
            What::Command(_) | What::Pipe(_) => LaneKind::Process.default_workers(),
            What::Http(_) | What::Task(_) | What::Noop => LaneKind::Async.default_workers(),
        }
    }

    /// Returns how many tasks a child that stays may have at once.
    pub(crate) fn window(&self) -> usize {
        if let What::Pipe(plan) = self { plan.window } else { 1 }
    }

    /// Returns true for an HTTP request.
    pub fn is_http(&self) -> bool {
        matches!(self, What::Http(_))
    }

    /// Returns the program as people read it, without secrets.
    pub fn text(&self) -> String {
        match self {
            What::Command(plan) => plan.text().to_owned(),
            What::Http(plan) => plan.text(),
            What::Pipe(plan) => format!("--pipe {}", plan.text),
            What::Task(plan) => format!("--task {}", plan.text()),
            What::Noop => "--noop".to_owned(),
        }
    }

    /// Everything that decides what a task does, for the journal's hash.
    pub fn sources(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        match self {
            What::Command(plan) => all.extend(plan.sources()),
            What::Http(plan) => all.extend(plan.sources()),
            What::Pipe(plan) => {
                all.push(b"pipe".to_vec());
                all.extend(plan.options.argv.iter().map(|arg| arg.as_encoded_bytes().to_vec()));
                all.extend(surroundings(plan.options.cwd.as_deref(), &plan.env));
            }
            What::Task(plan) => all.extend(plan.sources()),
            What::Noop => all.push(b"noop".to_vec()),
        }
        all
    }

    /// Fills every template in, as a task would, and says what it would do: for `--strict` and
    /// `--dry-run`. Only a command takes several records at once.
    ///
    /// # Errors
    /// What the task would fail with.
    pub fn show(&self, records: &[&Record], slot: u32) -> Result<String, TaskError> {
        let Some(record) = records.first() else { return Ok(String::new()) };
        records.iter().try_for_each(|record| record.check())?;
        let vars = Vars { slot: slot as usize + 1, ..Vars::default() };
        match self {
            What::Command(plan) => {
                let command = plan.command(records, &vars)?;
                let words = std::iter::once(&command.program).chain(&command.args).map(|word| word.to_string_lossy().into_owned());
                let words = shell_words::join(words);
                Ok(match (command.stdin, record.as_range()) {
                    (Stdin::Stream(_), Some(range)) => format!("{words} < bytes {} to {} of {}", range.start, range.end, range.whole.path),
                    _ => words,
                })
            }
            What::Http(plan) => {
                let request = plan.request(record, &vars)?;
                Ok(format!("{} {}", request.method, mask_text(&request.url)))
            }
            What::Pipe(plan) => Ok(format!("{} ← {}", plan.text, String::from_utf8_lossy(&line(record)?))),
            What::Task(plan) => plan.show(record),
            What::Noop => Ok("nothing".to_owned()),
        }
    }

    /// Opens what stays between tasks: a client's connections, children, none of which is started
    /// yet.
    ///
    /// # Errors
    /// A sentence for people: the program does not exist, or it is none.
    pub fn open(&self, job: String, children: &Children) -> Result<OpenProgram, String> {
        if let Some(why) = self.missing() {
            return Err(why);
        }
        Ok(match self {
            What::Command(plan) => OpenProgram::Command(plan.clone()),
            What::Http(plan) => OpenProgram::Http(plan.clone(), HttpClient::new(plan.options())?),
            What::Pipe(plan) => OpenProgram::Pipe(Arc::new(plan.open(job, children.clone())?)),
            What::Task(_) | What::Noop => return Err("there is no program to run".to_owned()),
        })
    }

    /// Returns the bytes that a record adds to a call that it shares with others.
    ///
    /// # Errors
    /// What a call of it alone would fail with.
    pub fn weigh(&self, record: &Record) -> Result<Weight, TaskError> {
        match self {
            What::Command(plan) => plan.weigh(record),
            _ => Ok(Weight::default()),
        }
    }

    /// The host that a record's request goes to, for `--per host=N`.
    pub fn host(&self, record: &Record) -> Option<String> {
        let What::Http(plan) = self else { return None };
        plan.host(record)
    }

    /// Returns true if its children need a guardian.
    pub fn has_children(&self) -> bool {
        matches!(self, What::Command(_) | What::Pipe(_))
    }
}

/// Parts that lanes are made from.
pub(crate) struct Lanebuilder {
    /// The channel to which they report.
    pub outbox: Outbox<Call, Reply>,
    /// The registry of their children.
    pub children: Children,
    /// The job's id, for children.
    pub job: String,
    /// Threads of the cpu lane.
    pub cpu: usize,
    /// Most tasks at once.
    pub concurrency: usize,
    /// The limit of running attempts, with `--timeout 300%`.
    pub overdue: Option<Arc<Overdue>>,
    /// With `--batch`: told how long calls took.
    pub batching: Option<Arc<Batching>>,
    /// The signals that ask the run to stop: they may reach its children, too.
    pub heard: Arc<Heard>,
    /// Place for output that is too long for the journal, if anybody wants it.
    pub spool: Option<Arc<Spool>>,
    /// Gets what commands wrote that a timeout or a signal ended.
    pub last: Arc<LastOutputs>,
    /// Gets what commands write while they run, if that is shown.
    pub live: Option<Live>,
    /// Told that a server is away.
    pub tell: Tell,
}

impl Lanebuilder {
    /// Makes the lanes on the current runtime, and a function that ends the children that stay
    /// alive.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn build(self, what: &What) -> Result<(Lanes<Call, Reply>, Box<dyn FnOnce() + Send>), String> {
        let mut lanes: Lanes<Call, Reply> = [const { None }; 4];
        let clock = Clock::SYSTEM;
        let runtime = tokio::runtime::Handle::current();
        let outbox = self.outbox.clone();
        let overdue = self.overdue.clone();
        let mut end: Box<dyn FnOnce() + Send> = Box::new(|| ());
        let mut put = |kind: LaneKind, lane: Arc<dyn Lane<Call, Reply>>| lanes[kind as usize] = Some(lane);
        match what {
            // For measuring the machinery itself, so it has every lane on which there is something
            // to measure.
            What::Noop => {
                let sync = |_: &Context, _: Call| Outcome::Ok(Reply::Null);
                let quick = AsyncHandler::new(|_| std::future::ready(Outcome::Ok(Reply::Null)));
                put(LaneKind::Async, Arc::new(AsyncLane::new(quick, outbox.clone(), clock, &runtime)));
                put(LaneKind::Blocking, Arc::new(BlockingLane::new(Arc::new(sync), outbox.clone(), clock)));
                put(LaneKind::Cpu, Arc::new(CpuLane::new(Arc::new(sync), self.cpu, outbox, clock)));
            }
            What::Task(plan) => {
                let sender = Arc::new(plan.sender(self.job, self.tell)?);
                let handler = AsyncHandler::with_context(move |context: Context, call: Call| {
                    let (sender, overdue) = (sender.clone(), overdue.clone());
                    async move {
                        // The attempt alone ends: the task may run on in its queue, and the next
                        // attempt finds its answer there.
                        tokio::select! {
                            biased;
                            () = context.cancel.cancelled() => Outcome::Cancelled,
                            limit = passed(overdue.as_deref()) => Outcome::TimedOut { limit },
                            ended = sender.run(&call[0], context.attempt) => ended.map(|answer| Reply::Pipe(Arc::new(answer))),
                        }
                    }
                });
                put(LaneKind::Async, Arc::new(AsyncLane::new(handler, outbox, clock, &runtime)));
            }
            What::Pipe(plan) if plan.window > 1 => {
                let (children, size) = (self.children.clone(), self.concurrency.div_ceil(plan.window));
                if let Some(why) = plan.missing() {
                    return Err(why);
                }
                let (lines, limits) = plan.options(self.job.clone())?.kind().map_err(|error| error.message().to_owned())?;
                let lane = Arc::new(ChildLane::new(lines, pipe_lines(self.user()), size, limits, children, outbox, clock));
                put(LaneKind::Blocking, lane.clone());
                end = Box::new(move || lane.end());
            }
            What::Command(_) | What::Http(_) | What::Pipe(_) => {
                let children = self.children.clone();
                let program = what.open(self.job.clone(), &children)?;
                match program.handler(self.user()) {
                    ProgramHandler::Process(handler) => {
                        put(LaneKind::Process, Arc::new(ProcessLane::new(handler, children, outbox, clock)))
                    }
                    ProgramHandler::Async(handler) => put(LaneKind::Async, Arc::new(AsyncLane::new(handler, outbox, clock, &runtime))),
                    ProgramHandler::Blocking(handler) => {
                        put(LaneKind::Blocking, Arc::new(PipeLane { lane: BlockingLane::patient(handler, outbox, clock), children }));
                    }
                }
                end = Box::new(move || program.end());
            }
        }
        Ok((lanes, end))
    }

    /// Returns what a run says of its calls to a program, and how it judges its ends.
    fn user(self) -> RunUser {
        let Self { job, batching, overdue, heard, spool, last, live, .. } = self;
        RunUser { job, batching, overdue, heard, spool, last, live }
    }
}

/// The run as user of a program: tells it about calls, and turns its ends into replies.
struct RunUser {
    job: String,
    batching: Option<Arc<Batching>>,
    overdue: Option<Arc<Overdue>>,
    heard: Arc<Heard>,
    spool: Option<Arc<Spool>>,
    last: Arc<LastOutputs>,
    live: Option<Live>,
}

impl ProgramUser for RunUser {
    type Task = Call;
    type Made = Reply;

    fn fill<R>(&self, context: &Context, call: &Call, fill: impl FnOnce(&[&Record], &Vars<'_>) -> R) -> R {
        let records: Vec<&Record> = call.iter().map(|item| &item.record).collect();
        fill(&records, &vars(context))
    }

    fn tell(&self, context: &Context, call: &Call, command: &mut Command) -> Result<(), TaskError> {
        command.env.extend(told(&self.job, call, context));
        command.spill = self.spool.as_ref().map(|spool| spool.of(context.id, context.attempt));
        command.listener = self.live.as_ref().map(|live| live.of(context, call));
        Ok(())
    }

    fn ask(&self, context: &Context, _: &Call, request: &mut Request) {
        request.spill = self.spool.as_ref().map(|spool| spool.of(context.id, context.attempt));
    }

    fn passed(&self) -> impl Future<Output = Duration> + Send {
        passed(self.overdue.as_deref())
    }

    fn ended(&self, context: &Context, call: Call, end: ProgramEnd) -> Outcome<Reply> {
        let judge = |outcome| late(self.overdue.as_deref(), context).unwrap_or_else(|| self.heard.judge(outcome));
        let output = match end {
            ProgramEnd::Reply(reply) => return Outcome::Ok(reply),
            ProgramEnd::None(outcome) => return judge(outcome.map(|never| match never {})),
            ProgramEnd::Command(output) => *output,
        };
        let wall = output.wall;
        if let (Some(why), Some(spool)) = (&output.unspilled, &self.spool) {
            spool.fail(why);
        }
        // Of the others the outcome itself has the output.
        let may_lack = output.timed_out || self.overdue.is_some() || matches!(output.exit, Exit::Signal(_));
        let kept = may_lack.then(|| output.clone());
        let outcome = match exit_outcome(output, context.timeout) {
            Outcome::Ok(output) => Outcome::Ok(Reply::Command(Arc::new(output))),
            other => judge(other.map(|_| Reply::Null)),
        };
        if let Some(output) = kept {
            self.last.put(context.id, context.attempt, &outcome, output);
        }
        if let Some(batching) = &self.batching {
            batching.ended(call.len(), wall, outcome.is_ok());
        }
        outcome
    }

    /// No signal reaches a request.
    fn ended_later(&self, _: &Context, _: Call, end: ProgramEnd) -> impl Future<Output = Outcome<Reply>> + Send {
        std::future::ready(match end {
            ProgramEnd::Reply(reply) => Outcome::Ok(reply),
            ProgramEnd::None(Outcome::Failed(error)) if error.kind() == SPOOL => {
                self.spool.iter().for_each(|spool| spool.fail(error.message()));
                Outcome::Cancelled
            }
            ProgramEnd::None(outcome) => outcome.map(|never| match never {}),
            ProgramEnd::Command(_) => Outcome::Cancelled,
        })
    }
}

/// Waits until an attempt that starts now passes a share of the median; for ever without one.
async fn passed(overdue: Option<&Overdue>) -> Duration {
    match overdue {
        Some(overdue) => overdue.passed().await,
        None => std::future::pending().await,
    }
}

/// The outcome of an attempt that was ended because it passed a share of the median.
fn late(overdue: Option<&Overdue>, context: &Context) -> Option<Outcome<Reply>> {
    let limit = overdue?.was_ended(context.id, context.attempt)?;
    Some(Outcome::TimedOut { limit })
}

/// The blocking lane of children that stay alive: stopping it stops them.
struct PipeLane {
    lane: BlockingLane<Call, Reply>,
    children: Children,
}

impl Lane<Call, Reply> for PipeLane {
    fn start(&self, batch: &mut Vec<longshore_core::Attempt<Call>>) {
        self.lane.start(batch);
    }

    fn stop(&self, how: longshore_core::Stop) {
        self.lane.stop(longshore_core::Stop::Soft);
        self.children.stop(how);
    }
}

fn vars(context: &Context) -> Vars<'static> {
    Vars { slot: context.slot as usize + 1, attempt: context.attempt, extra: &[] }
}

fn http_plan(spec: &RequestSpec, limits: &ProgramLimits, shape: &Shape) -> Result<HttpPlan, String> {
    let options = HttpOptions {
        ok: spec.ok.clone(),
        // The engine times attempts.
        timeout: None,
        connect_timeout: spec.connect_timeout,
        redirects: spec.redirects,
        http2: spec.http2,
        insecure: spec.insecure,
        proxy: spec.proxy.clone(),
        max_body: usize::try_from(limits.max_output.max(1 << 20)).unwrap_or(usize::MAX),
        retry_after: limits.retry_after,
        guard: None,
    };
    if let Some(dir) = &spec.save_body {
        std::fs::create_dir_all(dir).map_err(|error| format!("--save-body {}: {error}", dir.display()))?;
    }
    let words = HttpWords {
        dashes: true,
        headers: &spec.headers,
        body_json: spec.body_json.as_deref(),
        body: spec.body.as_deref(),
        form: &spec.form,
    };
    HttpPlan::compile(&spec.request, &words, shape, options, spec.save_body.clone())
}

impl PipePlan {
    fn compile(spec: &PipeSpec, env: Vec<(OsString, Expr)>, limits: &ProgramLimits) -> Result<Self, String> {
        let text = &spec.command;
        let argv: Vec<OsString> =
            shell_words::split(text).map_err(|error| format!("--pipe: {error}"))?.into_iter().map(OsString::from).collect();
        if argv.is_empty() {
            return Err("--pipe needs a program to run".to_owned());
        }
        let mut options = PipeOptions::new(argv);
        options.cwd.clone_from(&spec.cwd);
        options.max_answer = Some((usize::try_from(limits.max_record).unwrap_or(usize::MAX), " (--max-record)"));
        options.limits = ChildLimits::default().kill_after(limits.kill_after);
        if spec.window > 1 {
            options.limits = options.limits.at_once(spec.window);
        }
        Ok(Self { options, env, text: text.clone(), window: spec.window.max(1) as usize })
    }

    fn missing(&self) -> Option<String> {
        let sets_path = self.env.iter().any(|(name, _)| name == "PATH");
        let program = self.options.argv.first().filter(|_| !sets_path)?;
        let command = Command { program: program.clone(), cwd: self.options.cwd.clone(), ..Command::default() };
        child::missing(&command).map(|error| error.message().to_owned())
    }

    /// The children, none of which is started yet.
    ///
    /// # Errors
    /// A variable of theirs that depends on a record.
    fn open(&self, job: String, children: Children) -> Result<Pipe, String> {
        Pipe::new(self.options(job)?, children).map_err(|error| error.message().to_owned())
    }

    /// Returns how they are started.
    ///
    /// # Errors
    /// A variable of theirs that depends on a record.
    fn options(&self, job: String) -> Result<PipeOptions, String> {
        let mut options = self.options.clone();
        let env = &mut options.env;
        env.push(("LONGSHORE_JOB".into(), job.into()));
        env.extend(line_by_line());
        env.extend(
            constants(&self.env)
                .map_err(|name| format!("--env {name}: a child of --pipe serves many records; write a constant: {{{{ 'x' }}}}"))?,
        );
        Ok(options)
    }
}
