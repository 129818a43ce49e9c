//! `pipe`: children that stay, a line for each task and a line for its answer.

use std::time::Duration;

use longshore_celery::Value;
use longshore_core::{Outcome, TaskError};
use longshore_run::{
    environment::line_by_line,
    pipe::{Answer, Pipe, PipeOptions},
};
use longshore_worker::{Call, Failure, TaskContext};

use super::{
    answer::{self, Told},
    children::{GivenUp, Nursery},
    record,
};

/// How a pipe is set up.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) options: PipeOptions,
    /// The most children.
    pub(super) children: usize,
}

/// The children of one task.
pub(super) struct Pool {
    pipe: Result<Pipe, TaskError>,
    told: Told,
    nursery: Nursery,
    kill_after: Duration,
    most: usize,
}

impl Pool {
    pub(super) fn new(plan: Plan, told: Told, nursery: Nursery) -> Self {
        let Plan { mut options, children: most } = plan;
        options.env.extend(line_by_line());
        let kill_after = options.limits.kill_after.unwrap_or_default();
        let pipe = Pipe::new(options, nursery.children().clone());
        Self { pipe, told, nursery, kill_after, most }
    }

    pub(super) fn run(&self, context: &TaskContext, call: &Call) -> Result<Value, Failure> {
        let attempt = record::attempt(context);
        let failed = |outcome: Outcome<()>| Err(self.told.failure(&outcome, attempt));
        let pipe = match &self.pipe {
            Ok(pipe) => pipe,
            Err(error) => return failed(Outcome::Failed(error.clone())),
        };
        let line = record::json(context, call);
        let slot = pipe.take(self.most);
        let watch = self.nursery.watch(slot.number(), context, self.kill_after);
        // It may have waited for a child, and for that to start.
        let answer = pipe.ask_if(slot.number(), line, context.time_limit(), &|| context.may_begin());
        let given_up = watch.given_up();
        drop(watch);
        match (answer, given_up) {
            (Ok(Answer::Json(json)), _) => Ok(answer::value(json.get().as_bytes())),
            (Ok(Answer::Text(text)), _) => Ok(Value::Text(text)),
            (Ok(Answer::Bytes(bytes)), _) => Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned())),
            (Err(_), Some(GivenUp::SoftLimit)) => Err(answer::soft_time_limit()),
            (Err(_), Some(GivenUp::Stopped)) => Err(answer::stopped()),
            (Err(failure), None) => failed(failure.into_outcome()),
        }
    }

    pub(super) fn end(&self) {
        if let Ok(pipe) = &self.pipe {
            pipe.end();
        }
    }
}
