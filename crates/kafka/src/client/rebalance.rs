//! Partitions come and go. All of it happens inside of the client's `poll`, on its thread, before
//! the client is told that we agree.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use longshore_core::SourceError;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer as _, RebalanceProtocol},
    error::{KafkaResult, RDKafkaErrorCode as Code},
    types::RDKafkaRespErr,
};

use super::{assigned::AssignedPartition, state::ClientState};
use crate::{
    heard::code_of,
    ledger::Ledger,
    metadata,
    options::{Order, Start},
    record::PartitionLease,
    trouble::Affected,
};

/// The broker is asked for what is committed, and as often. It answers when no transaction of a
/// dead member is open any more.
const ASK: Duration = Duration::from_secs(10);
const ASKS: usize = 6;

impl ClientState {
    /// Takes what is given, and gives what is taken.
    pub(crate) fn rebalance(&mut self, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let cooperative = matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        self.counts.rebalances += 1;
        self.rebalanced = Some(Instant::now());
        let agreed = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            match self.assign(partitions) {
                Ok(starts) if cooperative => self.consumer.incremental_assign(&starts).and_then(|()| self.consumer.resume(&starts)),
                // The client keeps its pause beyond a revocation.
                Ok(starts) => self.consumer.assign(&starts).and_then(|()| self.consumer.resume(&starts)),
                Err(error) => {
                    // Without what is committed nothing can be read; whoever starts us again finds
                    // everything as it is.
                    self.exchange.end(Err(error));
                    if cooperative { self.consumer.incremental_assign(&TopicPartitionList::new()) } else { self.consumer.unassign() }
                }
            }
        } else {
            self.revoke(partitions);
            if cooperative { self.consumer.incremental_unassign(partitions) } else { self.consumer.unassign() }
        };
        if let Err(error) = agreed {
            self.meet(Affected::Group, code_of(&error).unwrap_or(Code::Fail));
        }
    }

    /// Prepares a seat for each partition; says where each starts.
    fn assign(&mut self, partitions: &TopicPartitionList) -> Result<TopicPartitionList, SourceError> {
        let places: Vec<(String, i32)> =
            partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        // What is still here was lost without a word.
        for (topic, partition) in &places {
            if let Some(at) = self.seat_of(topic, *partition) {
                self.abandon(at);
            }
        }
        let list = || {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in &places {
                list.add_partition(topic, *partition);
            }
            list
        };
        if places.is_empty() {
            return Ok(list());
        }
        let mut starts = TopicPartitionList::new();
        // One request for all of them, since nothing is read before it is answered.
        let known = self.ask_committed(list)?;
        let mut new = Vec::new();
        for element in known.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            if let Err(error) = element.error() {
                return Err(SourceError::fatal(format!("{topic}[{partition}]: what is committed cannot be read: {error}")));
            }
            let committed = match element.offset() {
                Offset::Offset(offset) if offset >= 0 => Some(offset),
                _ => None,
            };
            // The client crate panics where that is not UTF-8.
            let told = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).map_err(drop);
            let beyond = match committed.is_some().then(|| told.and_then(|told| metadata::decode(&told).map_err(drop))) {
                Some(Ok(beyond)) => Some(beyond),
                Some(Err(_)) => {
                    // Without the map, records beyond the commit are done again: better than not at
                    // all.
                    self.meet(Affected::Metadata { topic: topic.to_owned(), partition }, Code::NoError);
                    None
                }
                None => None,
            };
            new.push((topic.to_owned(), partition, committed, beyond));
        }
        // Only a partition without a commit needs a start of its own, which may cost another
        // question.
        let fresh: Vec<(&str, i32)> = new
            .iter()
            .filter(|(_, _, committed, _)| committed.is_none())
            .map(|(topic, partition, ..)| (topic.as_str(), *partition))
            .collect();
        let told = self
            .first_offsets(&fresh)
            .map_err(|error| SourceError::fatal(format!("group `{}`: where to start cannot be told: {error}", self.rules.group)))?;
        for (topic, partition, committed, beyond) in new {
            let start = match committed {
                Some(offset) => Offset::Offset(offset),
                None => told
                    .as_ref()
                    .and_then(|told| told.find_partition(&topic, partition))
                    .map_or(if matches!(self.rules.start, Start::Earliest) { Offset::Beginning } else { Offset::End }, |element| {
                        element.offset()
                    }),
            };
            let Some(mut queue) = self.consumer.split_partition_queue(&topic, partition) else {
                return Err(SourceError::fatal(format!("{topic}[{partition}]: the client has no queue for it")));
            };
            // True at first: what came before the callback was set has told nobody.
            let nonempty = Arc::new(AtomicBool::new(true));
            let (told, thread) = (nonempty.clone(), std::thread::current());
            queue.set_nonempty_callback(move || {
                told.store(true, Ordering::Release);
                thread.unpark();
            });
            let lease = Arc::new(PartitionLease { topic: topic.as_str().into(), partition, revoked: AtomicBool::new(false) });
            let ledger = Ledger::with_limit(committed.unwrap_or_default(), beyond, self.most_characters);
            let own = matches!(self.rules.order, Order::Partition).then(|| self.keys.number());
            let seat = AssignedPartition::new(lease, ledger, queue, nonempty, own, committed, start);
            // Loans know their partition by its seat's index, so seats never move; a free one is
            // used again.
            match self.seats.iter_mut().find(|seat| seat.is_none()) {
                Some(free) => *free = Some(seat),
                None => self.seats.push(Some(seat)),
            }
            if let Err(error) = starts.add_partition_offset(&topic, partition, start) {
                return Err(SourceError::fatal(format!("{topic}[{partition}]: no start at {start:?}: {error}")));
            }
        }
        Ok(starts)
    }

    fn ask_committed(&self, list: impl Fn() -> TopicPartitionList) -> Result<TopicPartitionList, SourceError> {
        let mut asked = 0;
        loop {
            asked += 1;
            match self.consumer.committed_offsets(list(), ASK) {
                Ok(known) => {
                    // Whoever may read what is committed may commit.
                    self.exchange.board.end_if(|affected, trouble| match affected {
                        Affected::Group => true,
                        Affected::Commits => trouble.is_denied(),
                        _ => false,
                    });
                    return Ok(known);
                }
                Err(error) if asked == ASKS => {
                    let explained = self.consumer.context().heard.explain_committed(&error, "read what is committed");
                    return Err(SourceError::fatal(format!("group `{}`: {}", self.rules.group, explained.message)));
                }
                Err(error) => self.meet(Affected::Group, code_of(&error).unwrap_or(Code::Fail)),
            }
        }
    }

    /// Asks where partitions start for which nothing is committed; `None` if the start is no point
    /// in time, so that nothing has to be asked.
    fn first_offsets(&self, fresh: &[(&str, i32)]) -> KafkaResult<Option<TopicPartitionList>> {
        let Start::At(time) = self.rules.start else { return Ok(None) };
        if fresh.is_empty() {
            return Ok(None);
        }
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut times = TopicPartitionList::new();
        for (topic, partition) in fresh {
            times.add_partition_offset(topic, *partition, Offset::Offset(i64::try_from(since).unwrap_or(i64::MAX)))?;
        }
        self.consumer.offsets_for_times(times, ASK).map(Some)
    }

    /// Gives partitions up: what has not begun is withdrawn, what runs may end within a limit, what
    /// is done is committed.
    fn revoke(&mut self, partitions: &TopicPartitionList) {
        let lost = self.consumer.assignment_lost();
        if lost {
            self.counts.lost += 1;
            // It ends when partitions are given to us again. The client has said it already where
            // it was not polled.
            if !self.exchange.board.has(&Affected::Group) {
                self.meet(Affected::Group, Code::UnknownMemberId);
            }
        }
        let seats: Vec<usize> =
            partitions.elements().iter().filter_map(|element| self.seat_of(element.topic(), element.partition())).collect();
        // What was settled is not to be withdrawn.
        self.take_back();
        for at in &seats {
            self.forget_loans(*at, false);
            if let Some(Some(seat)) = self.seats.get_mut(*at) {
                seat.leaving = true;
            }
        }
        self.exchange.call_back(|record| record.is_withdrawn());
        if !lost {
            if !self.finishing {
                self.drain(&seats);
            }
            self.commit_now(|at| seats.contains(&at));
        }
        for seat in seats.iter().filter_map(|at| self.seats.get(*at)?.as_ref()) {
            // At the end they were counted before the group was left.
            self.counts.repeated += if self.finishing { 0 } else { seat.uncommitted() };
        }
        for at in seats {
            self.abandon(at);
        }
    }

    /// Waits for what runs of these seats. The others go on meanwhile.
    fn drain(&mut self, seats: &[usize]) {
        let until = Instant::now() + self.rules.drain;
        loop {
            self.take_back();
            let now = Instant::now();
            let running = seats.iter().any(|at| self.lent.of_seat(*at as u32).next().is_some());
            if !running || now >= until || self.finishing {
                return;
            }
            self.read_and_lend(now);
            if self.exchange.sleep_until(1) {
                std::thread::park_timeout(until.saturating_duration_since(now).min(Duration::from_millis(20)));
            }
        }
    }

    /// Takes the loans of a seat back: those that wait for an attempt, or `all` of them.
    pub(crate) fn forget_loans(&mut self, at: usize, all: bool) {
        let Some(Some(seat)) = self.seats.get(at) else { return };
        let loans: Vec<_> = self.lent.of_seat(at as u32).map(|(receipt, loan)| (receipt, *loan)).collect();
        for (receipt, loan) in loans {
            let withdrawn = seat.batches.withdraw(loan.offset);
            if withdrawn || all {
                let _ = self.lent.end(&mut self.keys, receipt);
                let counts = &mut self.counts;
                let unburied = self.dead.as_mut().is_some_and(|dead| dead.forget(receipt));
                *(match (withdrawn, unburied) {
                    (true, _) => &mut counts.withdrawn,
                    (_, true) => &mut counts.unburied,
                    _ => &mut counts.abandoned,
                }) += 1;
            }
        }
    }

    /// Ends a seat. What comes of it later is nobody's.
    pub(crate) fn abandon(&mut self, at: usize) {
        self.forget_loans(at, true);
        if let Some(seat) = self.seats.get_mut(at).and_then(Option::take) {
            seat.lease.revoked.store(true, Ordering::Relaxed);
            if seat.ask_again.is_some() && !self.exchange.is_closed() {
                self.exchange.board.end(&seat.affected());
            }
            self.keys.forget(seat.names, seat.own);
        }
    }

    pub(crate) fn seat_of(&self, topic: &str, partition: i32) -> Option<usize> {
        self.seats
            .iter()
            .position(|seat| seat.as_ref().is_some_and(|seat| *seat.lease.topic == *topic && seat.lease.partition == partition))
    }
}
