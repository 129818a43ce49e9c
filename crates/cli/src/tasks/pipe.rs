//! `pipe`: children that stay, a line for each task and a line for its answer.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use longshore_celery::Value;
use longshore_core::{Outcome, TaskError};
use longshore_worker::{Call, Failure, TaskContext};

use super::{
    answer::{self, Told},
    children::{GivenUp, Nursery, Slot},
    record,
};
use longshore_run::{
    environment::line_by_line,
    pipe::{Answer, Limits, Pipe},
};

/// How a pipe is set up.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) limits: Limits,
    /// The most children.
    pub(super) children: usize,
    /// A child is replaced after so many tasks.
    pub(super) max_tasks: Option<u64>,
}

/// The children of one task, each with a place of its own.
pub(super) struct Pool {
    pipe: Result<Pipe, TaskError>,
    told: Told,
    nursery: Nursery,
    kill_after: Duration,
    most: usize,
    max_tasks: Option<u64>,
    seats: Mutex<Seats>,
    freed: Condvar,
}

#[derive(Default)]
struct Seats {
    /// Seats that nobody asks now, the last used last: its child is warm.
    free: Vec<Slot>,
    made: usize,
    /// How many tasks the child of a slot has had.
    asked: HashMap<u32, u64>,
}

impl Pool {
    pub(super) fn new(plan: Plan, told: Told, nursery: Nursery) -> Self {
        let Plan { argv, mut env, cwd, limits, children: most, max_tasks } = plan;
        env.extend(line_by_line());
        let kill_after = limits.kill_after;
        let pipe = Pipe::new(argv, env, cwd, limits, nursery.children().clone());
        Self { pipe, told, nursery, kill_after, most, max_tasks, seats: Mutex::default(), freed: Condvar::new() }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a child that nobody asks.
    fn take(&self) -> Slot {
        let mut seats = self.seats();
        loop {
            if let Some(slot) = seats.free.pop() {
                return slot;
            }
            if seats.made < self.most {
                seats.made += 1;
                return self.nursery.slot();
            }
            seats = self.freed.wait(seats).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives it back; one that has had its tasks is ended first.
    fn give(&self, slot: Slot, pipe: &Pipe) {
        let asked = {
            let mut seats = self.seats();
            let asked = seats.asked.entry(slot.number).or_default();
            *asked += 1;
            *asked
        };
        if self.max_tasks.is_some_and(|most| asked >= most) {
            pipe.end_slot(slot.number);
            self.seats().asked.remove(&slot.number);
        }
        self.seats().free.push(slot);
        self.freed.notify_one();
    }

    pub(super) fn run(&self, context: &TaskContext, call: &Call) -> Result<Value, Failure> {
        let attempt = record::attempt(context);
        let failed = |outcome: Outcome<()>| Err(self.told.failure(&outcome, attempt));
        let pipe = match &self.pipe {
            Ok(pipe) => pipe,
            Err(error) => return failed(Outcome::Failed(error.clone())),
        };
        let line = record::json(context, call);
        let slot = self.take();
        let watch = self.nursery.watch(slot.number, context, self.kill_after);
        // It may have waited for a child, and for that to start.
        let answer = pipe.ask_if(slot.number, &line, context.time_limit(), &|| context.may_begin());
        let given_up = watch.given_up();
        drop(watch);
        self.give(slot, pipe);
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
