//! Where the journal stands between the engine and the world: start lines before attempts start,
//! result lines before tasks are settled.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::{BoxFuture, FutureExt};
use longshore_core::{
    Attempt, Finished, Outcome, SinkError, Stop,
    lane::{
        Lane, Outbox,
        child::{self, Output},
    },
    sink::{Room, Sink},
    watch::Counts,
};
use tokio::sync::oneshot;

use crate::{
    call::{Call, Item},
    event::{RunEvent, TaskEnd, Teller},
    intake::IntakeCounts,
    journal::{ErrorLine, Journal, ResultLine, Shared, Start},
    last_output::LastOutputs,
    output::save::SaveOutput,
    reply::{self, Cut, Reply},
    report::FailureSample,
    story::Storyteller,
};

/// A lane whose attempts start when their start lines have been written.
pub(crate) struct Journaled {
    lane: Arc<dyn Lane<Call, Reply>>,
    journal: Arc<Journal>,
    outbox: Outbox<Call, Reply>,
    counts: Arc<IntakeCounts>,
}

impl Journaled {
    /// Puts the journal before a lane. How far the input has been read, as `counts` says, stands
    /// there before what starts of it.
    pub(crate) fn new(
        lane: Arc<dyn Lane<Call, Reply>>,
        journal: Arc<Journal>,
        outbox: Outbox<Call, Reply>,
        counts: Arc<IntakeCounts>,
    ) -> Self {
        Self { lane, journal, outbox, counts }
    }
}

impl Lane<Call, Reply> for Journaled {
    fn start(&self, batch: &mut Vec<Attempt<Call>>) {
        let mut batch = std::mem::take(batch);
        let start = |attempt: u32, item: &Item| Start { seq: item.record.seq(), key: item.key, nth: item.nth, attempt };
        let starts = batch.iter().flat_map(|attempt| attempt.payload.iter().map(move |item| start(attempt.task.attempt, item))).collect();
        let (lane, outbox) = (self.lane.clone(), self.outbox.clone());
        self.journal.read(self.counts.read.load(Ordering::Relaxed), false);
        self.journal.starts(
            starts,
            Box::new(move |written| match written {
                Ok(()) => lane.start(&mut batch),
                // The run is stopping: nobody may start what the journal does not know.
                Err(_) => outbox.finish(&mut batch.into_iter().map(|attempt| attempt.unstarted(Outcome::Cancelled)).collect()),
            }),
        );
    }

    fn capacity(&self) -> Option<usize> {
        self.lane.capacity()
    }

    fn stop(&self, how: Stop) {
        self.lane.stop(how);
    }
}

/// Sums over the tasks that have ended in this sitting: the sink adds to them, the watch and the
/// end read them.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Sums>);

/// The sums of a [`Tally`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    /// Tasks by outcome.
    pub(crate) counts: Counts,
    /// Of those that needed more than one attempt: how many ended well.
    pub(crate) ok_retried: u64,
    /// Failures by class.
    pub(crate) errors: HashMap<String, u64>,
    /// The first task of each class.
    pub(crate) samples: Vec<FailureSample>,
    /// Part of what tasks wrote that the journal and JSON lack.
    pub(crate) cut: Cut,
}

/// Bytes of standard error that a result line has of a command that a timeout or a signal ended, as
/// of one that failed by itself.
const TAIL: usize = 2000;

/// Classes of errors that are told apart; further ones count as "other".
const CLASSES: usize = 1000;

impl Tally {
    pub(crate) fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, ended: &EndedTask) {
        let finished = &ended.finished;
        let outcome = &finished.outcome;
        // Records are counted, however many of them shared a call.
        let count = finished.task.payload.as_ref().map_or(1, |call| call.len() as u64);
        let cut = Cut::of(outcome, ended.output());
        let mut sums = self.sums();
        sums.counts.add(outcome.word(), count);
        sums.cut.add(cut);
        if finished.task.attempt > 1 {
            sums.counts.retried += count;
            sums.ok_retried += if outcome.is_ok() { count } else { 0 };
        }
        if let Some((kind, code)) = outcome.class() {
            let class = code.map_or_else(|| kind.to_owned(), |code| format!("{kind} {code}"));
            let first = !sums.errors.contains_key(&class);
            let known = sums.errors.len() < CLASSES || !first;
            let class = if known { class } else { "other".to_owned() };
            if first && known {
                sums.samples.extend(ended.sample(&class));
            }
            *sums.errors.entry(class).or_default() += count;
        }
    }
}

/// Uses of a command's output beside the journal.
#[derive(Clone, Default)]
pub(crate) struct KeepOutput {
    /// `--save-output`.
    pub save: Option<SaveOutput>,
    /// Gets the stderr of commands whose stdout goes raw to ours.
    pub stderr: Option<Arc<dyn Fn(&mut dyn Read) + Send + Sync>>,
}

impl KeepOutput {
    /// Returns whether that takes so long that it needs a thread of its own.
    fn is_slow(&self, ended: &EndedTask) -> bool {
        let long = |output: &Output| output.stdout_rest.is_some() || output.stderr_rest.is_some();
        (self.save.is_some() || self.stderr.is_some()) && ended.output().is_some_and(long)
    }

    fn keep(&self, seq: u64, output: Option<&Output>) -> std::io::Result<()> {
        let Some(output) = output else { return Ok(()) };
        if let Some(stderr) = self.stderr.as_ref().filter(|_| !output.stderr.is_empty()) {
            match &output.stderr_rest {
                None => stderr(&mut output.stderr.as_slice()),
                Some(rest) => stderr(&mut output.stderr.as_slice().chain(File::open(rest.path())?)),
            }
        }
        self.save.as_ref().map_or(Ok(()), |save| save.save(seq, output))
    }
}

/// A finished task, with what its last attempt wrote where the outcome cannot carry it.
struct EndedTask {
    finished: Finished<Call, Reply>,
    last: Option<Arc<Output>>,
}

impl EndedTask {
    fn output(&self) -> Option<&Output> {
        reply::command_output(&self.finished.outcome).or(self.last.as_deref())
    }

    /// Returns it as an example of its class of failures.
    fn sample(&self, class: &str) -> Option<FailureSample> {
        let record = &self.finished.task.payload.as_ref()?.first()?.record;
        let error = self.finished.outcome.error()?;
        let said = self.last.as_ref().and_then(|output| tail(&output.stderr));
        Some(FailureSample::new(class, record.seq(), record.raw(), error.message(), error.tail().or(said.as_deref())))
    }
}

/// The sink of a run: results go to the journal, and from there to the output.
pub(crate) struct Ledger {
    /// The journal.
    pub journal: Arc<Journal>,
    /// Counts.
    pub tally: Arc<Tally>,
    /// The output shows raw bytes, so that the journal has to keep them.
    pub raw: bool,
    /// Uses of a command's output beside the journal.
    pub keep: KeepOutput,
    /// Outputs of commands that a timeout or a signal ended.
    pub last: Arc<LastOutputs>,
    /// Told what could not be written.
    pub unwritable: Box<dyn Fn(String) + Send>,
    /// Told that the program cannot be started; `None` where it is another for each record.
    pub no_program: Option<Box<dyn Fn(String) + Send>>,
    /// A pair of readings, so that the engine's instants can be told as times of day.
    pub epoch: (Instant, SystemTime),
    /// Tells of tasks as they end.
    pub(crate) teller: Teller,
    /// Notes how the run goes, if that was asked for.
    pub(crate) story: Option<Storyteller>,
}

impl Ledger {
    /// A line for each record of a call. What the call wrote stands in the line of the first.
    fn lines(&self, ended: &EndedTask, lines: &mut Vec<ResultLine>) {
        let (finished, output) = (&ended.finished, ended.output());
        let started = self.epoch.1 + finished.started.since(self.epoch.0.into());
        let (run_ms, wait_ms) = (millis(finished.run()), millis(finished.wait()));
        let Some(call) = &finished.task.payload else { return };
        let shared = (call.len() > 1).then(|| Shared { records: call.len() as u64, call: finished.task.id });
        // A record has a line of its own, though a call can have many: each is resumed and retried
        // by itself.
        for (place, item) in call.iter().enumerate() {
            let first = place == 0;
            // Empty is not absent: without raw bytes the output would count the record as one that
            // it cannot show.
            let raw = match &finished.outcome {
                _ if !self.raw => None,
                _ if !first => Some(Box::default()),
                Outcome::Ok(reply) => Some(reply.raw()),
                _ => output.map(|output| output.stdout.as_slice().into()),
            };
            let rest = match &finished.outcome {
                _ if !self.raw || !first => None,
                Outcome::Ok(reply) => reply.rest(),
                _ => output.and_then(|output| output.stdout_rest.clone()),
            };
            let (value, error) = match &finished.outcome {
                Outcome::Ok(reply) => (first.then(|| reply.to_json()), None),
                other => (None, other.error().map(|error| Box::new(ErrorLine::from(&error)))),
            };
            // An outcome that a timeout or a signal made has no words of the command; its last ones
            // help most.
            let error = error.map(|error| match (&error.tail, &ended.last) {
                (None, Some(output)) => Box::new(ErrorLine { tail: tail(&output.stderr), ..*error }),
                _ => error,
            });
            // As with the value: what the call wrote stands in one line, and not in each.
            let error = error.map(|error| if first { error } else { Box::new(ErrorLine { tail: None, ..*error }) });
            lines.push(ResultLine {
                seq: item.record.seq(),
                key: item.key,
                nth: item.nth,
                task: item.record.to_json().get().into(),
                outcome: finished.outcome.word(),
                attempts: finished.task.attempt,
                wait_ms,
                run_ms,
                started: Some(started),
                slot: Some(finished.slot + 1),
                shared,
                value,
                error,
                raw,
                rest,
            });
        }
    }

    /// Makes a task whose program could not be started one that has not run, where that is no fault
    /// of its record: all others would end like it, and it is to run when the program is there.
    fn spare(&self, finished: &mut Finished<Call, Reply>) {
        if let (Some(tell), Outcome::Failed(error)) = (&self.no_program, &finished.outcome)
            && child::is_of_program(error)
        {
            tell(error.message().to_owned());
            finished.outcome = Outcome::Cancelled;
        }
    }

    /// Tells that a task has ended, if anybody wants to hear of it.
    fn say(&self, finished: &Finished<Call, Reply>) {
        let word = finished.outcome.word();
        if self.teller.hears_of(word) {
            self.teller.tell(&RunEvent::Ended(TaskEnd {
                seq: finished.task.id,
                records: finished.task.payload.as_ref().map_or(1, |call| call.len()),
                word,
                attempt: finished.task.attempt,
                run: finished.run(),
                slot: finished.slot + 1,
                error: finished.outcome.error().map(|error| error.message().to_owned()),
            }));
        }
    }
}

impl Sink<Call, Reply> for Ledger {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<Call, Reply>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        async move {
            let count = batch.len();
            batch.iter_mut().for_each(|finished| self.spare(finished));
            let ended: Vec<EndedTask> =
                batch.drain(..).map(|finished| EndedTask { last: self.last.take(finished.task.id), finished }).collect();
            // Saved before its result line is written: a kill between the two runs the task again,
            // and loses nothing.
            let keep = &self.keep;
            let mut kept = Vec::new();
            for ended in &ended {
                let seq = ended.finished.task.id;
                let slow = keep.is_slow(ended).then(|| (keep.clone(), ended.finished.outcome.clone(), ended.last.clone()));
                kept.push((seq, if slow.is_none() { keep.keep(seq, ended.output()) } else { Ok(()) }, slow));
            }
            for (seq, mut done, slow) in kept {
                // Long output is written on a thread for such work, as this one belongs to the
                // reactor.
                if let Some((keep, outcome, last)) = slow {
                    let output = move || keep.keep(seq, reply::command_output(&outcome).or(last.as_deref()));
                    done = tokio::task::spawn_blocking(output).await.map_err(std::io::Error::other).flatten();
                }
                if let Err(error) = done {
                    let why = format!("--save-output, task #{seq}: {error}");
                    (self.unwritable)(why.clone());
                    return Err(SinkError::fatal(why));
                }
            }
            let mut lines = Vec::with_capacity(count);
            for ended in &ended {
                self.tally.add(ended);
                self.say(&ended.finished);
                self.lines(ended, &mut lines);
            }
            if let Some(story) = &self.story {
                story.add(ended.iter().map(|ended| &ended.finished));
            }
            drop(ended);
            let (tell, written) = oneshot::channel();
            self.journal.results(
                lines,
                Box::new(move |result| {
                    let _ = tell.send(result);
                }),
            );
            match written.await {
                Ok(Ok(())) => {
                    // Not earlier: whoever kills the run meets no more unwritten ends than there
                    // are slots.
                    room.release(count);
                    Ok(())
                }
                Ok(Err(error)) => Err(SinkError::fatal(error.to_string())),
                Err(_) => Err(SinkError::fatal("the journal's thread ended")),
            }
        }
        .boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// Returns the end of what a command said, for its result line.
fn tail(stderr: &[u8]) -> Option<Box<str>> {
    let last = &stderr[stderr.len().saturating_sub(TAIL)..];
    Some(String::from_utf8_lossy(last).trim_end()).filter(|text| !text.is_empty()).map(Into::into)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
