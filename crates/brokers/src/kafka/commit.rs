//! Commits: position and map of each partition in one step, only of what is ours, never back.

use std::time::Instant;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaResult, RDKafkaErrorCode as Code},
};

use super::{client::Desk, heard::plain};

impl Desk {
    /// Sends what has been done since the last commit, and does not wait.
    pub(super) fn commit_what_is_new(&mut self) {
        let list = self.to_commit(|_| true);
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            self.refused(&list, &error.to_string());
        }
    }

    /// Commits what these seats have done, and waits for the broker.
    pub(super) fn commit_now(&mut self, seats: impl Fn(usize) -> bool) {
        let list = self.to_commit(seats);
        if list.count() == 0 {
            return;
        }
        let result = self.consumer.commit(&list, CommitMode::Sync);
        self.committed(&result, &list);
    }

    fn to_commit(&mut self, wanted: impl Fn(usize) -> bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat.as_mut().filter(|seat| wanted(at) && seat.ledger.finished() != seat.commit.sent) else { continue };
            let commit = seat.ledger.commit();
            seat.commit.sent = seat.ledger.finished();
            // What the broker does not take is left out; records beyond are then done again after a restart.
            let metadata = if commit.metadata.len() <= self.most_characters { commit.metadata.as_str() } else { "" };
            seat.commit.metadata = metadata.len();
            let mut element = list.add_partition(&seat.lease.topic, seat.lease.partition);
            if element.set_offset(Offset::Offset(commit.offset)).is_ok() && !metadata.is_empty() {
                element.set_metadata(metadata);
            }
        }
        list
    }

    /// What the broker said to a commit.
    pub(super) fn committed(&mut self, result: &KafkaResult<()>, offsets: &TopicPartitionList) {
        match result {
            Ok(()) => {
                for element in offsets.elements() {
                    if let (Ok(()), Offset::Offset(offset), Some(at)) =
                        (element.error(), element.offset(), self.seat_of(element.topic(), element.partition()))
                        && let Some(Some(seat)) = self.seats.get_mut(at)
                    {
                        seat.commit.offset = seat.commit.offset.max(Some(offset));
                    }
                }
                self.last_commit = Some(Instant::now());
                self.counts.commits += 1;
            }
            // Nothing was to be committed.
            Err(error) if error.rdkafka_error_code() == Some(Code::NoOffset) => {}
            Err(error) => {
                let code = error.rdkafka_error_code();
                if code == Some(Code::OffsetMetadataTooLarge) {
                    let longest = self.seats.iter().flatten().map(|seat| seat.commit.metadata).max().unwrap_or_default();
                    self.most_characters = self.most_characters.min(longest / 2);
                }
                let why = code.map_or_else(|| error.to_string(), plain);
                self.refused(offsets, &why);
            }
        }
    }

    /// It is sent again with the next one.
    fn refused(&mut self, offsets: &TopicPartitionList, why: &str) {
        self.counts.commits_failed += 1;
        for element in offsets.elements() {
            if let Some(at) = self.seat_of(element.topic(), element.partition())
                && let Some(Some(seat)) = self.seats.get_mut(at)
            {
                seat.commit.sent = u64::MAX;
            }
        }
        self.note(format!("a commit was refused: {why}; it is sent again"));
    }
}
