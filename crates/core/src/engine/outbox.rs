//! The lanes as the engine sees them: what starts attempts, and where they report their ends.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{Mail, helm::Crew};
use crate::{
    cancel::Stop,
    mailbox::{Mailbox, append},
    task::{Attempt, Finished},
};

/// Attempts that a loop of the async lane takes at once. Few, because those behind one that
/// computes or blocks wait for it; what is still in the queue, another loop may take.
pub(crate) const CHUNK: usize = 8;

/// Place where attempts run. Takes a batch and returns at once; each attempt reports exactly one
/// outcome to the lane's [`Outbox`], in batches.
pub trait Lane<T, R>: Send + Sync {
    /// Starts every attempt of the batch, which is drained. Must not block.
    fn start(&self, batch: &mut Vec<Attempt<T>>);

    /// Starts batch after batch; they are left empty.
    fn start_all(&self, batches: &mut [Vec<Attempt<T>>]) {
        for batch in batches {
            self.start(batch);
        }
    }

    /// Returns how many attempts the lane wants to hold at once, where it knows better than its
    /// number of workers (tiny items travel in chunks).
    fn capacity(&self) -> Option<usize> {
        None
    }

    /// Ends what runs: softly (tokens, TERM) or by force (futures dropped, threads abandoned,
    /// KILL). Each attempt still reports its outcome.
    fn stop(&self, how: Stop);
}

/// Receiver of a lane's outcomes.
pub struct Outbox<T, R> {
    pub(crate) mailbox: Arc<Mailbox<Mail<T, R>>>,
    /// The engine, once it has been started.
    pub(crate) crew: Arc<OnceLock<Crew>>,
}

impl<T, R> Clone for Outbox<T, R> {
    fn clone(&self) -> Self {
        Self { mailbox: self.mailbox.clone(), crew: self.crew.clone() }
    }
}

impl<T, R> Outbox<T, R> {
    /// Reports ended attempts; the batch is drained.
    pub fn finish(&self, batch: &mut Vec<Finished<T, R>>) {
        if !batch.is_empty() {
            self.mailbox.post(|mail| append(&mut mail.finished, batch));
        }
    }

    /// As [`finish`](Outbox::finish), from a task of the engine's runtime, which does the engine's
    /// work in place of waking it; with `all`, that of its outside too ([`Crew::turn`]).
    pub(crate) fn finish_in_passing(&self, batch: &mut Vec<Finished<T, R>>, all: bool) {
        if batch.is_empty() {
            return;
        }
        match self.crew.get() {
            Some(crew) => {
                self.mailbox.post_asleep(|mail| append(&mut mail.finished, batch));
                crew.turn(all);
            }
            None => self.finish(batch),
        }
    }

    /// Reports one ended attempt.
    pub fn finish_one(&self, finished: Finished<T, R>) {
        self.mailbox.post(|mail| mail.finished.push(finished));
    }

    /// Reports that a task has held a loop for so long; without a time, that it does no more.
    pub(crate) fn stalled(&self, id: u64, held: Option<Duration>) {
        self.mailbox.post(|mail| mail.stalled.push((id, held)));
    }
}
