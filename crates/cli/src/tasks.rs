//! Tasks that programs serve: `[tasks.NAME]` with `exec`, `pipe` or `http`. They make a Celery
//! worker of the stock binary, for programs in any language.
//!
//! Layout:
//! - `spec.rs`: a section of the configuration, read and checked
//! - `record.rs`: a task's message as its templates and its program see it
//! - `children.rs`: the child processes of all of them: their slots, their guardian, and how a task
//!   that is given up ends its child
//! - `exec.rs`, `pipe.rs`, `http.rs`: what runs
//! - `answer.rs`: how that ends, in the worker's words

mod answer;
mod children;
mod exec;
mod http;
mod pipe;
mod record;
mod spec;
#[cfg(test)]
mod tests;

use std::io;

use longshore_core::LaneKind;
use longshore_worker::{Handler, Task};
use tokio::runtime::Handle as Runtime;

pub use spec::Spec;

use self::{children::Nursery, spec::What};
use crate::config::{Config, ConfigErrors};

/// The programs of a worker. When the worker has ended, [`end`](Self::end) ends the children that
/// stay.
pub struct Programs {
    nursery: Nursery,
    pipes: Vec<std::sync::Arc<pipe::Pool>>,
}

/// All that the configuration names, in the order of their names.
///
/// # Errors
/// Every mistake.
pub fn specs(config: &Config) -> Result<Vec<Spec>, ConfigErrors> {
    let (mut specs, mut errors) = (Vec::new(), Vec::new());
    for name in config.tasks() {
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
        let mut pipes = Vec::new();
        let tasks = specs.into_iter().map(|spec| {
            let Spec { name, what, policy, retry, .. } = spec;
            let told = answer::Told { retry };
            Ok(match what {
                What::Exec(plan) => {
                    let exec = exec::Exec { plan, told, origin: record::origin(&name), nursery: nursery.clone() };
                    Task::plain(name, move |context, call| exec.run(&context, &call)).on(LaneKind::Process)
                }
                What::Pipe(plan) => {
                    let pool = std::sync::Arc::new(pipe::Pool::new(*plan, told, nursery.clone()));
                    pipes.push(pool.clone());
                    Task::plain(name, move |context, call| pool.run(&context, &call)).on(LaneKind::Process)
                }
                What::Http(plan) => {
                    let http = http::Http::new(*plan, told, record::origin(&name)).map_err(io::Error::other)?;
                    Task {
                        name: name.as_str().into(),
                        lane: LaneKind::Async,
                        policy: policy.clone(),
                        handler: Handler::Async(http.handler()),
                    }
                }
            }
            .policy(policy))
        });
        let tasks = tasks.collect::<io::Result<Vec<_>>>()?;
        Ok((Self { nursery, pipes }, tasks))
    }

    /// Signals every child that runs.
    pub fn stop(&self, how: longshore_core::Stop) {
        self.nursery.stop(how);
    }

    /// Ends the children that stay, softly first; to be called when nothing runs any more. Blocks.
    pub fn end(self) {
        std::thread::scope(|scope| {
            for pool in &self.pipes {
                scope.spawn(|| pool.end());
            }
        });
        self.nursery.end();
    }
}
