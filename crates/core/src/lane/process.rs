//! The process lane: a child process for each attempt, in a group of its own.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    error::TaskError,
    lane::{
        Context, Lane, Outbox, Stop,
        blocking::{BlockingPool, BlockingWork},
        caught,
        child::{self, Children, Command, Exit, Limits, Output},
    },
    outcome::Outcome,
    task::Attempt,
};

/// Command that the process lane runs for a task, and the outcome that it makes of its end.
pub struct ProcessHandler<T, R> {
    /// The command for a task.
    pub command: Arc<dyn Fn(&Context, &T) -> Result<Command, TaskError> + Send + Sync>,
    /// The outcome of a command that ended on time, by itself. [`exit_outcome`] is the usual
    /// choice.
    pub answer: Arc<dyn Fn(&Context, T, Output) -> Outcome<R> + Send + Sync>,
    /// Between TERM and KILL for a command that passes its timeout.
    pub kill_after: Duration,
    /// The most of each of its output streams that is kept, in bytes.
    pub max_output: usize,
}

/// The process lane.
pub struct ProcessLane<T, R> {
    pool: Arc<BlockingPool<T, R>>,
    children: Children,
}

impl<T: Send + 'static, R: Send + 'static> ProcessLane<T, R> {
    /// Makes a lane whose children are entered in this registry.
    pub fn new(handler: ProcessHandler<T, R>, children: Children, outbox: Outbox<T, R>, clock: Clock) -> Self {
        let registry = children.clone();
        let work: BlockingWork<T, R> = Box::new(move |context, payload| handler.run(&registry, context, payload));
        Self { pool: BlockingPool::new("process", work, outbox, clock, false), children }
    }
}

impl<T, R> ProcessHandler<T, R> {
    /// Runs one task's command in the context's slot of `children`, on the calling thread; returns
    /// its outcome, and the CPU time that it used.
    pub fn run(&self, children: &Children, context: &Context, payload: T) -> (Outcome<R>, Option<Duration>) {
        let mut cpu = None;
        let outcome = caught(|| {
            if context.cancel.is_cancelled() {
                return Outcome::Cancelled;
            }
            let command = match (self.command)(context, &payload) {
                Ok(command) => command,
                Err(error) => return Outcome::Failed(error),
            };
            let limits = Limits { timeout: context.timeout, kill_after: self.kill_after, max_output: self.max_output };
            match child::run(&command, &limits, context.slot, children) {
                // It was refused since all are being stopped: it is to run again.
                Err(_) if children.is_stopping() => Outcome::Cancelled,
                Err(error) => Outcome::Failed(error),
                Ok(output) => {
                    cpu = Some(output.usage.cpu());
                    (self.answer)(context, payload, output)
                }
            }
        });
        (outcome, cpu)
    }
}

/// Returns the outcome that an ended command stands for: `Ok` for exit 0; what it wrote goes along
/// as the detail of an error.
///
/// `Cancelled` where the command's [`Spill`](child::Spill) could not be written, or its
/// [`OutputListener`](child::OutputListener) did not get all, which is not its fault; a timeout is
/// `TimedOut`, a signal `Killed`, a child that we ended because the job stops `Cancelled`, any
/// other exit `Failed` with kind `exit`, its code and the end of what it wrote to stderr.
pub fn exit_outcome(output: Output, limit: Option<Duration>) -> Outcome<Output> {
    if output.unspilled.is_some() || output.heard == Some(false) {
        return Outcome::Cancelled;
    }
    if output.timed_out {
        return Outcome::TimedOut { limit: limit.unwrap_or(output.wall) };
    }
    if output.stopped {
        return Outcome::Cancelled;
    }
    match output.exit {
        Exit::Code(0) => Outcome::Ok(output),
        Exit::Code(code) => {
            let tail = String::from_utf8_lossy(tail(&output.stderr)).trim_end().to_owned();
            let error = TaskError::new("exit", format!("exit status {code}")).with_code(i64::from(code));
            let error = if tail.is_empty() { error } else { error.with_tail(tail) };
            Outcome::Failed(error.with_detail(Arc::new(output)))
        }
        Exit::Signal(signal) => Outcome::Killed { signal },
    }
}

/// Returns the last part of what a command said.
fn tail(stream: &[u8]) -> &[u8] {
    &stream[stream.len().saturating_sub(2000)..]
}

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> for ProcessLane<T, R> {
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        self.pool.start(batch);
    }

    fn stop(&self, how: Stop) {
        self.pool.stop(how);
        self.children.stop(how);
    }
}

impl<T, R> Drop for ProcessLane<T, R> {
    fn drop(&mut self) {
        self.pool.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CancelToken, task::LaneKind};

    #[test]
    fn a_command_that_is_refused_since_all_are_being_stopped_did_not_fail() {
        let children = Children::new().unwrap();
        let stopped = children.clone();
        let handler: ProcessHandler<(), Output> = ProcessHandler {
            command: Arc::new(move |_, ()| {
                stopped.stop(Stop::Soft);
                Ok(Command { program: "true".into(), ..Command::default() })
            }),
            answer: Arc::new(|_, (), output| exit_outcome(output, None)),
            kill_after: Duration::from_secs(1),
            max_output: 0,
        };
        let context = Context { id: 1, attempt: 1, lane: LaneKind::Process, slot: 0, timeout: None, cancel: CancelToken::new() };
        assert!(matches!(handler.run(&children, &context, ()).0, Outcome::Cancelled));
    }
}
