//! The state of the client's thread, and its turns: take back, read, lend, commit.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::{Delivery, Receipt, SourceError, Verdict};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
};
use tokio::sync::oneshot;

use super::{
    ClientHooks, SERVE,
    assigned::{AssignedPartition, Reading},
    commit::CommitThread,
    dead_letters::{DeadLetters, Exhausted},
};
use crate::{
    counts::RecordCounts,
    exactly_once::{Output, StagedOutput},
    intake::{IntakeGate, KeyTable, Loans, share},
    options::{Order, Start},
    record::{PartitionLease, Record},
    source::{Command, Exchange, Failed, Partial, ReturnedWork},
    trouble::Affected,
    view::{PartitionView, View},
};

/// Time after which a closed gate has the client itself pause, which gives its buffers back.
const PAUSE_AFTER: Duration = Duration::from_secs(5);
/// Number of outputs that are a transaction at once, however early.
const STAGED: usize = 1_000;
/// Number of outputs waiting for a transaction at which nothing more is read.
const MOST_STAGED: usize = 10_000;
/// Time after which a member that has been assigned nothing is at the end of it.
const NOTHING: Duration = Duration::from_secs(5);

/// Settings by which the client's thread goes.
pub(crate) struct Rules {
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) order: Order,
    pub(crate) start: Start,
    pub(crate) until_end: bool,
    pub(crate) commit_every: Duration,
    pub(crate) pause_interval: Duration,
    /// Longest time that records in work may take when their partition is taken from us.
    pub(crate) drain: Duration,
    pub(crate) exhausted: Exhausted,
    /// Longest time for which a permission that is needed may be missing.
    pub(crate) without_permission: Duration,
    /// Commits are transactions.
    pub(crate) transactional: bool,
}

/// All that the client's thread knows.
pub(crate) struct ClientState {
    pub(crate) rules: Rules,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) consumer: Arc<BaseConsumer<ClientHooks>>,
    pub(crate) seats: Vec<Option<AssignedPartition>>,
    pub(crate) keys: KeyTable,
    pub(crate) lent: Loans,
    pub(crate) gate: IntakeGate,
    pub(crate) dead: Option<DeadLetters>,
    pub(crate) counts: RecordCounts,
    /// Most characters that the broker takes as metadata, as far as we know.
    pub(crate) most_characters: usize,
    pub(crate) committer: CommitThread,
    /// Commits that were refused, one after the other.
    pub(crate) refusals: u32,
    /// Outputs to be written in the next transaction.
    pub(crate) staged: Vec<StagedOutput>,
    pub(crate) last_commit: Option<Instant>,
    pub(crate) next_commit: Instant,
    /// Moment at which partitions last came or went.
    pub(crate) rebalanced: Option<Instant>,
    /// The engine has ended.
    pub(crate) finishing: bool,
    failed: HashMap<Receipt, Failed>,
    outputs: HashMap<Receipt, Vec<Output>>,
    /// Callers that wait for a view.
    asked: Vec<oneshot::Sender<Partial>>,
    back: ReturnedWork,
    reading: Reading,
    lending: Vec<Delivery<Record>>,
    /// The number of the last record lent.
    number: u64,
    /// Which seat is read first.
    first: usize,
    /// Time of the next look into all queues, whatever they have told.
    next_look: Instant,
    paused: bool,
    last_pause: Option<Instant>,
    /// Time of the next look at what is wrong.
    pub(crate) next_check: Instant,
    /// Time at which topics that are missing are next asked for.
    pub(crate) next_metadata: Instant,
    /// Looks at the brokers in a row that found none that answers.
    pub(crate) silent: u32,
}

/// Next thing that the thread does after a turn.
pub(crate) enum NextTurn {
    /// Another turn.
    Again,
    /// Sleeps until it is woken, for so long at most.
    Sleep(Duration),
}

impl ClientState {
    pub(crate) fn new(
        rules: Rules,
        exchange: Arc<Exchange>,
        consumer: Arc<BaseConsumer<ClientHooks>>,
        gate: IntakeGate,
        dead: Option<DeadLetters>,
        most_characters: usize,
        committer: CommitThread,
    ) -> Self {
        let now = Instant::now();
        Self {
            next_commit: now + rules.commit_every,
            rules,
            exchange,
            consumer,
            seats: Vec::new(),
            keys: KeyTable::default(),
            lent: Loans::default(),
            gate,
            dead,
            counts: RecordCounts::default(),
            most_characters,
            committer,
            refusals: 0,
            staged: Vec::new(),
            last_commit: None,
            rebalanced: None,
            finishing: false,
            failed: HashMap::new(),
            outputs: HashMap::new(),
            asked: Vec::new(),
            back: ReturnedWork::default(),
            reading: Reading::default(),
            lending: Vec::new(),
            number: 0,
            first: 0,
            next_look: now,
            paused: false,
            last_pause: None,
            next_check: now,
            next_metadata: now,
            silent: 0,
        }
    }

    /// Takes back, reads, lends, commits.
    pub(crate) fn turn(&mut self, now: Instant) -> NextTurn {
        self.take_back();
        if self.finishing {
            return NextTurn::Again;
        }
        let more = self.read_and_lend(now);
        self.pause_after_long(now);
        self.check(now);
        if now >= self.next_commit || self.staged.len() >= STAGED {
            self.next_commit = now + self.rules.commit_every;
            self.commit_what_is_new();
        }
        for answer in std::mem::take(&mut self.asked) {
            let _ = answer.send(self.partial(now));
        }
        if self.rules.until_end && self.is_at_end(now) {
            self.exchange.end(Ok(()));
        }
        if more || !self.exchange.sleep_until(self.wake_at()) {
            return NextTurn::Again;
        }
        let commit = self.next_commit.saturating_duration_since(now);
        NextTurn::Sleep(self.rules.pause_interval.min(commit).max(Duration::from_millis(1)))
    }

    /// Takes what the engine has settled, and what it asks.
    pub(crate) fn take_back(&mut self) {
        let mut back = std::mem::take(&mut self.back);
        self.exchange.take_back(&mut back, usize::MAX);
        for (receipt, away) in back.away.drain(..) {
            self.lent.back_off(&mut self.keys, receipt, away);
        }
        // Failures and outputs come before settlements, which look them up. A record that was
        // called back is another member's, so nothing of it counts here.
        for failed in back.failed.drain(..) {
            if self.lent.get(failed.receipt).is_some() {
                self.failed.insert(failed.receipt, failed);
            }
        }
        for (receipt, outputs) in back.outputs.drain(..) {
            if self.lent.get(receipt).is_some() {
                self.outputs.insert(receipt, outputs);
            }
        }
        for settled in back.settled.drain(..) {
            match settled.verdict {
                // Handed back: the engine stops.
                Verdict::Requeue { .. } => drop(self.lent.end(&mut self.keys, settled.receipt)),
                Verdict::Ack | Verdict::Reject => self.ended(settled.receipt),
            }
        }
        for command in back.commands.drain(..) {
            match command {
                Command::Limits(limits) => self.gate.set_limits(limits),
                Command::View(answer) => self.asked.push(answer),
                Command::Records(receipts, answer) => {
                    let _ = answer.send(receipts.into_iter().map(|receipt| self.record(receipt)).collect());
                }
                Command::Committed(result, work) => self.committed(result, work),
                Command::Finish => self.finishing = true,
            }
        }
        back.clear();
        self.back = back;
        let Some(dead) = &mut self.dead else { return };
        // These records are done only now that the topic has their letters.
        for receipt in dead.turn(Instant::now()) {
            self.counts.dead += 1;
            self.done(receipt);
        }
        for (topic, code) in self.dead.as_mut().map(DeadLetters::refusals).unwrap_or_default() {
            self.meet(Affected::DeadLetters { topic }, code);
        }
    }

    /// Settles a record that has ended for good.
    fn ended(&mut self, receipt: Receipt) {
        // Most records do not fail, and then there is nothing to look up.
        let failed = if self.failed.is_empty() { None } else { self.failed.remove(&receipt) };
        let outputs = if self.outputs.is_empty() { None } else { self.outputs.remove(&receipt) };
        if let Some(outputs) = outputs {
            self.stage(receipt, outputs);
        }
        let Some(failed) = failed else { return self.done(receipt) };
        match (&self.rules.exhausted, &mut self.dead) {
            (Exhausted::Stop, _) => {
                let _ = self.lent.end(&mut self.keys, receipt);
                let Failed { record, error, attempts, .. } = failed;
                let text = format!("{record} failed after {attempts} attempts: {error}; told to stop then");
                self.exchange.end(Err(SourceError { kind: longshore_core::ErrorKind::Refused, message: text }));
            }
            (Exhausted::Skip, _) | (_, None) => {
                self.counts.skipped += 1;
                self.done(receipt);
            }
            // Exactly once is for dead letters too.
            (_, Some(dead)) if self.rules.transactional => {
                let letter = dead.letter(&failed);
                self.stage(receipt, letter.into_iter().collect());
                self.counts.dead += 1;
                self.done(receipt);
            }
            // It is done when the dead-letter topic has it.
            (_, Some(dead)) => dead.bury(failed),
        }
    }

    /// Stages outputs, to be written with the commit that says that this record is done.
    fn stage(&mut self, receipt: Receipt, outputs: Vec<Output>) {
        let Some(loan) = self.lent.get(receipt) else { return };
        let Some(Some(seat)) = self.seats.get(loan.seat as usize) else { return };
        let lease = &seat.lease;
        self.staged.extend(outputs.into_iter().map(|output| StagedOutput { output, lease: lease.clone() }));
    }

    pub(crate) fn done(&mut self, receipt: Receipt) {
        let Some(loan) = self.lent.end(&mut self.keys, receipt) else { return };
        if let Some(Some(seat)) = self.seats.get_mut(loan.seat as usize) {
            self.counts.done += u64::from(seat.ledger.done(loan.offset));
        }
    }

    /// Reads as much as there is room for; says whether there is more.
    pub(crate) fn read_and_lend(&mut self, now: Instant) -> bool {
        if now >= self.next_look {
            self.next_look = now + SERVE;
            self.seats.iter().flatten().for_each(AssignedPartition::look);
        }
        let limits = *self.gate.limits();
        let mut room = self.gate.room(self.lent.in_flight(), self.lent.parked(), self.lent.bytes(), now);
        if room == 0 || self.seats.is_empty() || self.staged.len() >= MOST_STAGED || self.exchange.is_closed() {
            return false;
        }
        let Self { seats, keys, .. } = &mut *self;
        let open = seats.iter_mut().flatten().filter_map(|seat| seat.is_readable(keys, &limits).then_some(())).count();
        let share = share(room, open);
        let count = self.seats.len();
        let first = self.first;
        for at in (0..count).map(|step| (first + step) % count) {
            room -= self.read(at, share.min(room));
            if room == 0 {
                break;
            }
        }
        self.first = (self.first + 1) % count;
        // It closes now, not when the next one would be read.
        room = self.gate.room(self.lent.in_flight(), self.lent.parked(), self.lent.bytes(), now);
        if !self.lending.is_empty() {
            self.exchange.lend(&mut self.lending);
        }
        let Self { seats, keys, .. } = &mut *self;
        room > 0 && seats.iter_mut().flatten().any(|seat| seat.is_readable(keys, &limits))
    }

    /// Reads up to so many records of one partition; says how many.
    fn read(&mut self, at: usize, most: usize) -> usize {
        let limits = *self.gate.limits();
        let mut total = 0;
        // A batch is small, so filling the room may take several.
        while total < most && self.lent.bytes() < limits.bytes {
            let Some(Some(seat)) = self.seats.get_mut(at) else { break };
            if !seat.is_readable(&self.keys, &limits) {
                break;
            }
            let reading = &mut self.reading;
            seat.read(most - total, self.rules.order, &mut self.keys, &limits, reading);
            self.counts.read += std::mem::take(&mut reading.read);
            self.counts.known += std::mem::take(&mut reading.known);
            let (state, bad_header) = (reading.state.take(), std::mem::take(&mut reading.bad_header));
            let backwards = reading.backwards.take();
            let count = reading.gather.len();
            if count > 0 {
                let batch = reading.gather.finish(&seat.lease);
                seat.batches.push(&batch);
                for (place, (offset, key)) in reading.fresh.drain(..).enumerate() {
                    let payload = batch.record(place as u32);
                    let receipt = self.lent.lend(&self.keys, at as u32, key, offset, payload.bytes());
                    self.number += 1;
                    self.lending.push(Delivery { id: self.number, payload, receipt, options: None, key });
                }
            }
            total += count;
            // What was gathered before that step back is lent already, so all of the old log is
            // forgotten together.
            if let Some(offset) = backwards {
                self.begin_anew(at, offset);
            }
            if let Some(state) = state {
                self.can_be_read(at, state);
            }
            if bad_header && let Some(Some(seat)) = self.seats.get(at) {
                let PartitionLease { topic, partition, .. } = &*seat.lease;
                self.meet(Affected::Header { topic: topic.to_string(), partition: *partition }, Code::NoError);
            }
            // Its queue is empty, or it waits for something: reading on would be a busy loop.
            if count == 0 {
                break;
            }
        }
        total
    }

    /// Begins a partition anew whose log was cut, or whose topic was made again: what is in work of
    /// the old one is nobody's.
    fn begin_anew(&mut self, at: usize, offset: i64) {
        self.forget_loans(at, true);
        if let Some(Some(seat)) = self.seats.get_mut(at) {
            let PartitionLease { topic, partition, .. } = &*seat.lease;
            let log = Affected::Log { topic: topic.to_string(), partition: *partition, from: seat.position, to: offset };
            seat.begin_anew(offset, self.most_characters);
            // The record itself was read already: it comes again when the partition is read from
            // there.
            let _ = self.consumer.seek(&seat.lease.topic, seat.lease.partition, rdkafka::Offset::Offset(offset), Duration::from_secs(1));
            self.meet(log, Code::NoError);
        }
    }

    /// Returns how many settlements have to come before the thread is woken.
    pub(crate) fn wake_at(&self) -> usize {
        let limits = self.gate.limits();
        let gate = self.gate.to_reopen(self.lent.in_flight());
        if gate > 0 {
            return gate;
        }
        self.seats.iter().flatten().filter_map(|seat| seat.waits_for(&self.keys, limits)).min().unwrap_or(usize::MAX)
    }

    /// Pauses the client after seconds behind a closed gate, so that it gives back what it holds
    /// ready; once more records are wanted, it goes on.
    fn pause_after_long(&mut self, now: Instant) {
        let closed = self.gate.closed_since().is_some_and(|since| now.duration_since(since) >= PAUSE_AFTER);
        let recently = self.last_pause.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1));
        if closed == self.paused || recently && closed {
            return;
        }
        let all = self.all();
        let result = if closed { self.consumer.pause(&all) } else { self.consumer.resume(&all) };
        match result {
            Ok(()) => {
                self.paused = closed;
                self.last_pause = Some(now);
                self.counts.pauses += u64::from(closed);
                self.seats.iter_mut().flatten().for_each(|seat| seat.paused = closed);
            }
            Err(error) => self.meet(Affected::Client, error.rdkafka_error_code().unwrap_or(Code::Fail)),
        }
    }

    /// Returns all partitions that are assigned to us.
    fn all(&self) -> TopicPartitionList {
        let mut all = TopicPartitionList::new();
        for seat in self.seats.iter().flatten() {
            all.add_partition(&seat.lease.topic, seat.lease.partition);
        }
        all
    }

    fn is_at_end(&self, now: Instant) -> bool {
        let Some(rebalanced) = self.rebalanced else { return false };
        // Who comes later gets nothing at first, until others have given some up.
        let something = self.seats.iter().any(Option::is_some) || now.duration_since(rebalanced) >= NOTHING;
        something && self.lent.len() == 0 && self.seats.iter().flatten().all(AssignedPartition::is_at_end)
    }

    /// Lets go of the client.
    pub(crate) fn close(self) -> RecordCounts {
        self.committer.close();
        self.counts
    }

    fn record(&self, receipt: Receipt) -> Option<Record> {
        let loan = self.lent.get(receipt)?;
        self.seats.get(loan.seat as usize)?.as_ref()?.batches.record(loan.offset)
    }

    fn partial(&self, now: Instant) -> Partial {
        let partitions = self.seats.iter().flatten().map(|seat| {
            let committed = seat.commit.offset;
            PartitionView {
                topic: seat.lease.topic.clone(),
                partition: seat.lease.partition,
                position: seat.position,
                committed,
                // An end that was told before the partition could not be read any more is too old
                // to go by. Behind a commit there may be nothing but marks of transactions, which
                // nobody can process.
                lag: seat.high.filter(|_| seat.ask_again.is_none()).map(|end| match seat.is_done() {
                    true => 0,
                    false => (end - committed.unwrap_or_else(|| seat.ledger.position())).max(0),
                }),
                incomplete: seat.ledger.incomplete(),
                oldest: seat.ledger.oldest(),
                metadata: seat.commit.metadata,
                state: seat.intake(),
            }
        });
        let partitions: Vec<_> = partitions.collect();
        let (limits, gate) = (*self.gate.limits(), self.gate.state(now));
        let (closings, closed_for) = (self.gate.closings(), self.gate.closed_for(now));
        let (in_flight, parked, bytes) = (self.lent.in_flight(), self.lent.parked(), self.lent.bytes());
        let burying = self.dead.as_ref().map_or(0, DeadLetters::len);
        let committed_ago = self.last_commit.map(|at| now.duration_since(at));
        let troubles = self.exchange.board.current();
        let complaint = self.consumer.context().heard.last();
        let counts = self.counts;
        // This thread does not wait for the engine: whoever asks for the view brings its part.
        Box::new(move |engine, max_threads| View {
            engine,
            max_threads,
            in_flight,
            max_in_flight: limits.in_flight,
            bytes,
            max_bytes: limits.bytes,
            reopen_at: limits.reopen_at(),
            gate,
            closings,
            closed_for,
            parked,
            burying,
            partitions,
            counts,
            committed_ago,
            troubles,
            complaint,
        })
    }
}
