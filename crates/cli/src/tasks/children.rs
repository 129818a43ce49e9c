//! The child processes of a worker's programs: their slots, their guardian, and how a task that is
//! given up ends its child.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use longshore_core::{Stop, lane::child::Children};
use longshore_worker::TaskContext;
use tokio::{runtime::Handle as Runtime, task::JoinHandle};

/// Time between two looks for a child that was not there yet when its task was given up.
const AGAIN: Duration = Duration::from_millis(20);

/// The registry of the children of all programs, and the slots in it.
#[derive(Clone)]
pub(super) struct Nursery(Arc<NurseryParts>);

struct NurseryParts {
    children: Children,
    runtime: Runtime,
}

impl Nursery {
    pub(super) fn new(guarded: bool, runtime: &Runtime) -> io::Result<Self> {
        let children = if guarded { Children::guarded(&[])? } else { Children::new()? };
        Ok(Self(Arc::new(NurseryParts { children, runtime: runtime.clone() })))
    }

    pub(super) fn children(&self) -> &Children {
        &self.0.children
    }

    pub(super) fn stop(&self, how: Stop) {
        self.0.children.stop(how);
    }

    pub(super) fn end(&self) {
        // All that can fail is that it has gone already.
        let _ = self.0.children.finish();
    }

    /// Ends the child in a slot when its task is given up or passes its soft limit: TERM, and KILL
    /// after this time.
    pub(super) fn watch(&self, slot: u32, context: &TaskContext, kill_after: Duration) -> Watch {
        let given_up = Arc::new(AtomicU8::new(KEPT));
        let (flag, children) = (given_up.clone(), self.0.children.clone());
        let (cancel, soft) = (context.cancel_token().clone(), context.soft_limit().clone());
        let task = self.0.runtime.spawn(async move {
            let why = tokio::select! {
                biased;
                () = cancel.cancelled() => STOPPED,
                () = soft.cancelled() => SOFT,
            };
            flag.store(why, Ordering::Release);
            let kill = tokio::time::sleep(kill_after);
            tokio::pin!(kill);
            let mut how = Stop::Soft;
            loop {
                for child in children.running().into_iter().filter(|child| child.slot == slot) {
                    children.end(slot, child.pid, how);
                }
                tokio::select! {
                    () = &mut kill, if how == Stop::Soft => how = Stop::Hard,
                    // It may be on its way into its slot.
                    () = tokio::time::sleep(AGAIN), if how == Stop::Hard || children.running().iter().all(|child| child.slot != slot) => {}
                }
            }
        });
        Watch { given_up, task }
    }
}

const KEPT: u8 = 0;
const STOPPED: u8 = 1;
const SOFT: u8 = 2;

/// Looks after a child until it is dropped.
pub(super) struct Watch {
    given_up: Arc<AtomicU8>,
    task: JoinHandle<()>,
}

/// Reason that a child was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    Stopped,
    SoftLimit,
}

impl Watch {
    /// Returns why it ended its child, if it did.
    pub(super) fn given_up(&self) -> Option<GivenUp> {
        match self.given_up.load(Ordering::Acquire) {
            STOPPED => Some(GivenUp::Stopped),
            SOFT => Some(GivenUp::SoftLimit),
            _ => None,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
