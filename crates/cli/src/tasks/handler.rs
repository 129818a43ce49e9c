//! `exec`: a child process for each attempt. Its stdout is the result.

use std::sync::Arc;

use longshore_celery::Value;
use longshore_core::{
    Outcome, TaskError,
    lane::{
        child::{self, Exit, Limits, Output},
        process::exit_outcome,
    },
};
use longshore_worker::{Call, Failure, TaskContext};

use super::{
    answer::{self, TRY_AGAIN, Told},
    children::{GivenUp, Nursery},
    record::{self, told, vars},
};
use longshore_run::{command::CommandPlan, record::Origin};

pub(super) struct Exec {
    pub(super) plan: Box<CommandPlan>,
    pub(super) told: Told,
    pub(super) origin: Arc<Origin>,
    pub(super) nursery: Nursery,
}

impl Exec {
    pub(super) fn run(&self, context: &TaskContext, call: &Call) -> Result<Value, Failure> {
        let attempt = record::attempt(context);
        let failed = |outcome: Outcome<()>| self.told.failure(&outcome, attempt);
        let record = record::record(&self.origin, context, call);
        let mut command = self.plan.command(&[&record], &vars(context)).map_err(|error| failed(Outcome::Failed(error)))?;
        command.env.extend(told(context));
        let limit = context.time_limit();
        let limits = Limits { timeout: limit, kill_after: self.plan.kill_after, max_output: self.plan.max_output };
        let slot = self.nursery.children().claim();
        let watch = self.nursery.watch(slot.number(), context, self.plan.kill_after);
        if !context.may_begin() {
            return Err(answer::stopped());
        }
        let ended = child::run(&command, &limits, slot.number(), self.nursery.children());
        match watch.given_up() {
            Some(GivenUp::SoftLimit) if !ended.as_ref().is_ok_and(ended_well) => return Err(answer::soft_time_limit()),
            Some(GivenUp::Stopped) if !ended.as_ref().is_ok_and(ended_well) => return Err(answer::stopped()),
            _ => {}
        }
        let output = ended.map_err(|error| failed(outcome_of(error)))?;
        if let Exit::Code(TRY_AGAIN) = output.exit {
            let tail = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            let why = TaskError::new("exit", "it asks to be tried again (exit status 75)").with_code(TRY_AGAIN.into());
            let why = if tail.is_empty() { why } else { why.with_tail(tail) };
            return Err(failed(Outcome::Retry { after: None, why }));
        }
        match exit_outcome(output, limit) {
            Outcome::Ok(output) if output.stdout_cut > 0 => Err(failed(Outcome::Failed(answer::too_long(self.plan.max_output)))),
            Outcome::Ok(output) => Ok(answer::value(&output.stdout)),
            other => Err(failed(other.map(drop))),
        }
    }
}

/// It finished its work although it was told to end.
fn ended_well(output: &Output) -> bool {
    output.exit.success() && !output.timed_out
}

/// What could not be started because everything stops is handed back.
pub(super) fn outcome_of(error: TaskError) -> Outcome<()> {
    if error.kind() == "cancelled" { Outcome::Cancelled } else { Outcome::Failed(error) }
}
