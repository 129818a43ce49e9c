//! Commits: position and map of each partition in one step, only of what is ours, never back.
//!
//! The client tells nobody what became of a commit that it was not waited for. So a thread waits
//! for each, one at a time, and the client's thread goes on.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use longshore_core::SourceError;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::RDKafkaErrorCode as Code,
};

use super::{ClientHooks, state::ClientState};
use crate::{
    exactly_once::StagedOutput,
    heard::plain,
    source::{Command, CommitWork, Exchange, Refusal},
    trouble::Affected,
};

/// Makes a commit, and waits for the broker.
pub(crate) type MakeCommit = Box<dyn FnMut(&CommitWork) -> Result<(), Refusal> + Send>;

/// Makes plain commits, outside of any transaction.
pub(crate) fn plainly(consumer: Arc<BaseConsumer<ClientHooks>>) -> MakeCommit {
    Box::new(move |work| {
        consumer.commit(&work.list, CommitMode::Sync).map_err(|error| {
            let code = error.rdkafka_error_code();
            Refusal { code, text: code.map_or_else(|| error.to_string(), plain), fatal: false }
        })
    })
}

/// The thread that waits for commits.
pub(crate) struct CommitThread {
    work: SyncSender<CommitWork>,
    answers: Receiver<()>,
    thread: JoinHandle<()>,
    /// A commit is on its way, since then.
    busy: Option<Instant>,
}

impl CommitThread {
    pub(crate) fn new(mut make: MakeCommit, exchange: Arc<Exchange>) -> std::io::Result<Self> {
        let (work, wanted) = sync_channel::<CommitWork>(1);
        let (done, answers) = sync_channel(1);
        let thread = std::thread::Builder::new().name("kafka-commits".to_owned()).spawn(move || {
            for work in wanted {
                let result = make(&work);
                exchange.command(Command::Committed(result, work));
                if done.send(()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { work, answers, thread, busy: None })
    }

    /// Returns true while a commit is on its way.
    fn is_busy(&mut self) -> bool {
        self.busy = self.busy.filter(|_| self.answers.try_recv().is_err());
        self.busy.is_some()
    }

    /// Returns for how long a commit has been on its way.
    fn waits(&mut self) -> Option<Duration> {
        if self.is_busy() { self.busy.map(|since| since.elapsed()) } else { None }
    }

    fn send(&mut self, work: CommitWork) {
        self.busy = self.work.send(work).is_ok().then(Instant::now);
    }

    /// Waits for the one that is on its way, so that none overtakes another; no longer than
    /// [`ANSWER`], and tells whether it has ended.
    fn wait(&mut self) -> bool {
        let ended = self.busy.is_none() || !matches!(self.answers.recv_timeout(ANSWER), Err(RecvTimeoutError::Timeout));
        self.busy = self.busy.filter(|_| !ended);
        ended
    }

    /// Ends the thread, which then holds the client no more. One that still waits for the broker is
    /// left alone, and ends when the client gives up.
    pub(crate) fn close(mut self) {
        let waits = self.is_busy();
        drop(self.work);
        drop(self.answers);
        if !waits {
            let _ = self.thread.join();
        }
    }
}

impl ClientState {
    /// Sends what has been done since the last commit, and does not wait.
    pub(crate) fn commit_what_is_new(&mut self) {
        match self.committer.waits() {
            None => self.send_commit(|_| true),
            Some(time) if time >= ANSWER && !self.exchange.board.has(&Affected::Commits) => {
                self.meet(Affected::Commits, Code::OperationTimedOut);
            }
            Some(_) => {}
        }
    }

    /// Commits what these seats have done, and waits for the broker. Of a transaction all outputs
    /// go along. Tells whether the broker has answered.
    pub(crate) fn commit_now(&mut self, seats: impl Fn(usize) -> bool) -> bool {
        let mut answered = self.committer.wait();
        // What became of the one before.
        self.take_back();
        if answered {
            let transactional = !self.staged.is_empty();
            self.send_commit(|at| transactional || seats(at));
            answered = self.committer.wait();
            self.take_back();
        }
        if !answered {
            self.meet(Affected::Commits, Code::OperationTimedOut);
        }
        answered
    }

    fn send_commit(&mut self, seats: impl Fn(usize) -> bool) {
        let list = self.what_is_new(seats);
        if list.count() > 0 {
            let mut outputs = std::mem::take(&mut self.staged);
            outputs.retain(StagedOutput::is_ours);
            self.committer.send(CommitWork { list, outputs });
        }
    }

    fn what_is_new(&mut self, wanted: impl Fn(usize) -> bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat.as_mut().filter(|seat| wanted(at) && seat.ledger.finished() != seat.commit.sent) else { continue };
            let commit = seat.ledger.commit();
            seat.commit.sent = seat.ledger.finished();
            let metadata = commit.metadata.as_str();
            seat.commit.metadata = metadata.len();
            let mut element = list.add_partition(&seat.lease.topic, seat.lease.partition);
            if element.set_offset(Offset::Offset(commit.offset)).is_ok() && !metadata.is_empty() {
                element.set_metadata(metadata);
            }
        }
        list
    }

    /// Takes in what the broker said to a commit.
    pub(crate) fn committed(&mut self, result: Result<(), Refusal>, mut work: CommitWork) {
        let refusal = match result {
            Ok(()) => {
                for element in work.list.elements() {
                    if let (Offset::Offset(offset), Some(at)) = (element.offset(), self.seat_of(element.topic(), element.partition()))
                        && let Some(Some(seat)) = self.seats.get_mut(at)
                    {
                        seat.commit.offset = seat.commit.offset.max(Some(offset));
                        // One commit is on its way at a time.
                        seat.commit.accepted = seat.commit.sent;
                    }
                }
                self.exchange.board.end(&Affected::Commits);
                self.last_commit = Some(Instant::now());
                self.counts.commits += 1;
                self.refusals = 0;
                return;
            }
            Err(refusal) => refusal,
        };
        if refusal.code == Some(Code::OffsetMetadataTooLarge) {
            let longest = self.seats.iter().flatten().map(|seat| seat.commit.metadata).max().unwrap_or_default();
            self.most_characters = self.most_characters.min(longest / 2);
            self.seats.iter_mut().flatten().for_each(|seat| seat.ledger.set_limit(self.most_characters));
        }
        self.counts.commits_failed += 1;
        self.refusals += 1;
        for element in work.list.elements() {
            if let Some(at) = self.seat_of(element.topic(), element.partition())
                && let Some(Some(seat)) = self.seats.get_mut(at)
            {
                // It is sent again with the next one.
                seat.commit.sent = u64::MAX;
            }
        }
        let transaction = !work.outputs.is_empty();
        work.outputs.append(&mut self.staged);
        self.staged = work.outputs;
        // Of a plain commit nothing depends; a transaction that fails again and again has something
        // in it that cannot be written.
        if refusal.fatal || transaction && self.refusals >= REFUSALS {
            self.exchange.end(Err(SourceError::fatal(format!("group `{}`: {}", self.rules.group, refusal.text))));
        }
        self.meet(Affected::Commits, refusal.code.unwrap_or(Code::Fail));
    }
}

/// Time after which a broker that has not answered to a commit is said to be silent. Where
/// something ends, it is waited for no longer.
const ANSWER: Duration = Duration::from_secs(10);
/// Number of times that a transaction is tried.
const REFUSALS: u32 = 5;
