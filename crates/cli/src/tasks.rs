//! Tasks that programs serve: `[tasks.NAME]` with `exec`, `pipe` or `http`. They make a Celery
//! worker of the stock binary, for programs in any language.
//!
//! Layout:
//! - `spec.rs`: a section of the configuration, read and checked
//! - `record.rs`: a task's message as its templates and its program see it
//! - `children.rs`: the child processes of all of them: their slots, their guardian, and how a task
//!   that is given up ends its child
//! - `handler.rs`: a program as a task's handler
//! - `answer.rs`: how that ends, in the worker's words

mod answer;
mod children;
mod handler;
mod record;
mod spec;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use longshore_run::{environment::line_by_line, http::HttpClient, pipe::Pipe, program::OpenProgram};
use longshore_worker::Task;
use tokio::runtime::Handle as Runtime;

pub use spec::Spec;

use self::{
    answer::Told,
    children::Nursery,
    handler::{TaskProgram, TaskUser},
    spec::What,
};
use crate::config::{Config, ConfigErrors};

/// The programs of a worker. When the worker has ended, [`end`](Self::end) ends the children that
/// stay.
pub struct Programs {
    nursery: Nursery,
    programs: Vec<Arc<TaskProgram>>,
}

/// All that the configuration names, in the order of their names.
///
/// # Errors
/// Every mistake; also that one of them waits for the user's word.
pub fn specs(config: &Config) -> Result<Vec<Spec>, ConfigErrors> {
    read(config, config.tasks())
}

/// As [`specs`], for whoever runs none of them: without those that wait for the user's word.
///
/// # Errors
/// Every mistake in the others.
pub fn known(config: &Config) -> Result<Vec<Spec>, ConfigErrors> {
    read(config, config.tasks().filter(|name| !config.task_waits(name)))
}

fn read<'a>(config: &Config, names: impl Iterator<Item = &'a str>) -> Result<Vec<Spec>, ConfigErrors> {
    let (mut specs, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match Spec::read(config, name) {
            Ok(spec) => specs.push(spec),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(specs) } else { Err(ConfigErrors(errors)) }
}

impl Programs {
    /// Makes tasks of programs, which run while this lives. With `guarded`, a guardian ends their
    /// children should this process die
    /// ([`Children::guarded`](longshore_core::lane::child::Children::guarded) says what `main` has
    /// to do).
    ///
    /// # Errors
    /// No guardian could be started; or a sentence about an HTTP client.
    pub fn start(specs: Vec<Spec>, guarded: bool, runtime: &Runtime) -> io::Result<(Self, Vec<Task>)> {
        let nursery = Nursery::new(guarded && specs.iter().any(Spec::has_children), runtime)?;
        let mut programs = Vec::new();
        let tasks = specs.into_iter().map(|spec| {
            let lane = spec.lane();
            let Spec { name, what, policy, retry, .. } = spec;
            let opened = what.open(&nursery)?;
            let user = TaskUser { origin: record::origin(&name), max_output: opened.max_output };
            let Opened { program, kill_after, most, .. } = opened;
            let program = Arc::new(TaskProgram { program, told: Told { retry }, nursery: nursery.clone(), kill_after, most });
            programs.push(program.clone());
            Ok(Task { name: name.as_str().into(), lane, policy, handler: program.handler(user) })
        });
        let tasks = tasks.collect::<io::Result<Vec<_>>>()?;
        Ok((Self { nursery, programs }, tasks))
    }

    /// Signals every child that runs.
    pub fn stop(&self, how: longshore_core::Stop) {
        self.nursery.stop(how);
    }

    /// Ends the children that stay, softly first; to be called when nothing runs any more. Blocks.
    pub fn end(self) {
        std::thread::scope(|scope| {
            for program in &self.programs {
                scope.spawn(|| program.end());
            }
        });
        self.nursery.end();
    }
}

/// Program of a section, ready for tasks.
struct Opened {
    program: OpenProgram,
    /// The longest result.
    max_output: usize,
    /// Between TERM and KILL.
    kill_after: Duration,
    /// The most children that stay.
    most: usize,
}

impl What {
    fn open(self, nursery: &Nursery) -> io::Result<Opened> {
        Ok(match self {
            What::Exec(plan) => {
                let (max_output, kill_after) = (plan.max_output, plan.kill_after);
                Opened { program: OpenProgram::Command(Arc::new(*plan)), max_output, kill_after, most: 0 }
            }
            What::Pipe(mut options, most) => {
                options.env.extend(line_by_line());
                let kill_after = options.limits.kill_after.unwrap_or_default();
                let pipe = Pipe::new(*options, nursery.children().clone()).map_err(io::Error::other)?;
                Opened { program: OpenProgram::Pipe(Arc::new(pipe)), max_output: 0, kill_after, most }
            }
            What::Http(plan) => {
                let client = HttpClient::new(plan.options()).map_err(io::Error::other)?;
                let max_output = plan.options().max_body;
                Opened { program: OpenProgram::Http(Arc::new(*plan), client), max_output, kill_after: Duration::ZERO, most: 0 }
            }
        })
    }
}
