//! A program as a handler: a command, a request, or a line to a child that stays. Whoever has tasks
//! for one says what it is told of them, and what its ends mean.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use longshore_core::{
    Context, Outcome, TaskError,
    lane::{
        AsyncHandler, SyncHandler,
        child::{Command, Output},
        children::ChildHandler,
        process::ProcessHandler,
    },
};

use crate::{
    command::CommandPlan,
    http::{HttpClient, HttpPlan, Request},
    pipe::{self, Answer, Failure, Pipe, line},
    record::Record,
    reply::Reply,
    template::Vars,
};

/// A program that is ready for tasks: what stays between them is open.
#[derive(Clone)]
pub enum OpenProgram {
    /// A child process per task.
    Command(Arc<CommandPlan>),
    /// A request per task.
    Http(Arc<HttpPlan>, HttpClient),
    /// A line per task to one of the children that stay.
    Pipe(Arc<Pipe>),
}

/// A program as the lanes know it.
pub enum ProgramHandler<T, R> {
    /// Of a command, for the process lane.
    Process(ProcessHandler<T, R>),
    /// Of requests, for the async lane.
    Async(AsyncHandler<T, R>),
    /// Of children that stay. It keeps to its timeout itself.
    Blocking(SyncHandler<T, R>),
}

/// End of a program with a task.
pub enum ProgramEnd {
    /// A command, in whatever way.
    Command(Box<Output>),
    /// A server or a child that stays has answered.
    Reply(Reply),
    /// It has not.
    None(Outcome<Infallible>),
}

/// Whoever has tasks for a program.
pub trait ProgramUser: Send + Sync + 'static {
    /// A task.
    type Task: Send + 'static;
    /// The value that the user makes of an answer.
    type Made: Send + 'static;

    /// Shows a task as templates see it.
    fn fill<R>(&self, context: &Context, task: &Self::Task, fill: impl FnOnce(&[&Record], &Vars<'_>) -> R) -> R;

    /// Adds to a command what its templates do not say. The last thing before its start.
    ///
    /// # Errors
    /// What the task fails with.
    fn tell(&self, context: &Context, task: &Self::Task, command: &mut Command) -> Result<(), TaskError>;

    /// Adds to a request what its templates do not say.
    fn ask(&self, _context: &Context, _task: &Self::Task, _request: &mut Request) {}

    /// Returns what a child that stays reads.
    ///
    /// # Errors
    /// What the task fails with.
    fn line(&self, context: &Context, task: &Self::Task) -> Result<Vec<u8>, TaskError> {
        self.fill(context, task, |records, _| records.first().map_or_else(|| Ok(Vec::new()), |record| line(record)))
    }

    /// Returns whether a task still may begin, when a child that stays is ready for it.
    fn may_begin(&self, _task: &Self::Task) -> bool {
        true
    }

    /// Waits until a request that begins now has taken too long, where its context does not say
    /// so; returns the limit. It is dropped when the answer comes.
    fn passed(&self) -> impl Future<Output = Duration> + Send {
        std::future::pending()
    }

    /// Makes an outcome of an end.
    fn ended(&self, context: &Context, task: Self::Task, end: ProgramEnd) -> Outcome<Self::Made>;

    /// Does as [`ended`](Self::ended), without holding up its thread.
    fn ended_later(&self, context: &Context, task: Self::Task, end: ProgramEnd) -> impl Future<Output = Outcome<Self::Made>> + Send {
        std::future::ready(self.ended(context, task, end))
    }
}

impl OpenProgram {
    /// Makes the handler for somebody's tasks.
    pub fn handler<U: ProgramUser>(&self, user: U) -> ProgramHandler<U::Task, U::Made> {
        let user = Arc::new(user);
        match self {
            OpenProgram::Command(plan) => ProgramHandler::Process(command(plan.clone(), user)),
            OpenProgram::Http(plan, client) => ProgramHandler::Async(request(plan.clone(), client.clone(), user)),
            OpenProgram::Pipe(pipe) => ProgramHandler::Blocking(pipe_line(pipe.clone(), user)),
        }
    }

    /// Ends the children that stay, softly first; to be called when nothing runs any more. Blocks.
    pub fn end(&self) {
        if let OpenProgram::Pipe(pipe) = self {
            pipe.end();
        }
    }
}

fn command<U: ProgramUser>(plan: Arc<CommandPlan>, user: Arc<U>) -> ProcessHandler<U::Task, U::Made> {
    let (kill_after, max_output, teller) = (plan.kill_after, plan.max_output, user.clone());
    ProcessHandler {
        command: Arc::new(move |context: &Context, task: &U::Task| {
            let mut command = teller.fill(context, task, |records, vars| plan.command(records, vars))?;
            teller.tell(context, task, &mut command)?;
            Ok(command)
        }),
        answer: Arc::new(move |context: &Context, task, output| user.ended(context, task, ProgramEnd::Command(Box::new(output)))),
        kill_after,
        max_output,
    }
}

fn request<U: ProgramUser>(plan: Arc<HttpPlan>, client: HttpClient, user: Arc<U>) -> AsyncHandler<U::Task, U::Made> {
    AsyncHandler::with_context(move |context: Context, task: U::Task| {
        let (plan, client, user) = (plan.clone(), client.clone(), user.clone());
        async move {
            let filled = user.fill(&context, &task, |records, vars| match records.first() {
                Some(record) => plan.request(record, vars),
                None => Err(TaskError::invalid("a request without a record")),
            });
            let mut request = match filled {
                Ok(request) => request,
                Err(error) => return Outcome::Failed(error),
            };
            user.ask(&context, &task, &mut request);
            // A request needs no time to end well: it is dropped when nobody wants it any more.
            let end = tokio::select! {
                biased;
                () = context.cancel.cancelled() => ProgramEnd::None(Outcome::Cancelled),
                limit = user.passed() => ProgramEnd::None(Outcome::TimedOut { limit }),
                reply = client.send(request) => match reply {
                    Ok(reply) => ProgramEnd::Reply(Reply::Http(Arc::new(reply))),
                    Err(error) => ProgramEnd::None(Outcome::Failed(error)),
                }
            };
            user.ended_later(&context, task, end).await
        }
    })
}

fn pipe_line<U: ProgramUser>(pipe: Arc<Pipe>, user: Arc<U>) -> SyncHandler<U::Task, U::Made> {
    Arc::new(move |context: &Context, task: U::Task| {
        let line = match user.line(context, &task) {
            Ok(line) => line,
            Err(error) => return Outcome::Failed(error),
        };
        let answer = pipe.ask_if(context.slot, line, context.timeout, &|| user.may_begin(&task));
        user.ended(context, task, answered(answer))
    })
}

/// Makes the handler for somebody's tasks of children that have several lines at once.
pub(crate) fn pipe_lines<U: ProgramUser>(user: U) -> ChildHandler<U::Task, U::Made> {
    let user = Arc::new(user);
    let teller = user.clone();
    ChildHandler {
        work: Box::new(move |context, task| pipe::one_line(teller.line(context, task)?)),
        answer: Box::new(move |context, task, answer| user.ended(context, task, answered(pipe::read(answer)))),
        soft: |_| None,
        called_off: None,
    }
}

fn answered(answer: Result<Answer, Failure>) -> ProgramEnd {
    match answer {
        Ok(answer) => ProgramEnd::Reply(Reply::Pipe(Arc::new(answer))),
        Err(failure) => ProgramEnd::None(failure.outcome),
    }
}
