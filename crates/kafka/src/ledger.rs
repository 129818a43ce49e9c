//! Ledger of the offsets of a partition that are done: it says what may be committed, and what may
//! be started.
//!
//! A ring of bits over the offsets from the oldest incomplete one to the newest taken one, a set
//! bit being an offset that was taken and is not done. An offset that was never delivered
//! (compaction, markers of transactions) has no bit, and so holds up nothing.

#[cfg(test)]
mod tests;

use crate::metadata::{self, Beyond, MOST_CHARACTERS, MOST_OFFSETS};

/// Answer of the ledger to an offset that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is to be done now.
    New,
    /// It was done before this ledger began: skip the record.
    AlreadyDone,
    /// If it were done before older ones, that could not be written down: do not start it, and take
    /// nothing of this partition until an older one is done. The same offset is then taken again.
    /// Nothing has changed.
    TooFar,
    /// The reader went back: to an offset at or below one that it had already delivered, or below
    /// the committed one. So the log was cut or made anew. Nothing has changed; begin another epoch
    /// with `Ledger::new(offset, None)`.
    Backwards,
}

/// Contents of a commit: position and map belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The first offset that is not done; a consumer that starts over starts here.
    pub offset: i64,
    /// Map of the offsets that are done beyond it, in Parallel Consumer's formats; empty when none
    /// is.
    pub metadata: String,
}

/// The ledger of one partition in one epoch.
///
/// Pure: no clock, no client. Offsets are taken in the order in which they are read, each once, and
/// done in any order. An offset taken and done costs nanoseconds; memory is a bit for each offset
/// between the oldest incomplete one and the newest taken one, at most half a megabyte.
#[derive(Debug)]
pub struct Ledger {
    /// Set: incomplete. A power of two of words; those outside of the window are 0.
    ring: Vec<u64>,
    /// The number of set bits.
    incomplete: usize,
    /// The lowest set bit, while there is one.
    oldest: i64,
    /// The highest offset that was taken or skipped.
    seen: i64,
    highest_done: i64,
    /// The committed offset at the beginning.
    start: i64,
    /// The highest offset that the map at the beginning tells of.
    told: i64,
    most_characters: usize,
    finished: u64,
    /// Number of offsets that may be taken before the map is measured again.
    room: usize,
    /// Number of offsets that were incomplete when a measured map left no room.
    full_at: Option<usize>,
}

/// Smallest ring.
const FEWEST_WORDS: usize = 16;
/// Maps of fewer characters say too little about what others would take.
const WORTH_MEASURING: usize = 1_000;
/// Most characters that one more offset adds to a compressed map, with some to spare.
const GROWTH: usize = 6;
/// Measuring takes as long as some thousand offsets, so it must not be for a few.
const LEAST_ROOM: usize = 32;

impl Ledger {
    /// A ledger that begins at a committed offset (0 where there is none) with what the commit's
    /// metadata says is done beyond it.
    #[must_use]
    pub fn new(committed: i64, beyond: Option<Beyond>) -> Self {
        Self::with_limit(committed, beyond, MOST_CHARACTERS)
    }

    /// The same with another limit for the metadata, in characters (the broker's
    /// `offset.metadata.max.bytes`). With 0, one offset at a time is taken, because nothing could
    /// be written down of what ends out of order.
    #[must_use]
    pub fn with_limit(committed: i64, beyond: Option<Beyond>, most_characters: usize) -> Self {
        let mut ledger = Self {
            ring: vec![0; FEWEST_WORDS],
            incomplete: 0,
            oldest: committed,
            seen: committed.saturating_sub(1),
            highest_done: committed.saturating_sub(1),
            start: committed,
            told: committed.saturating_sub(1),
            most_characters,
            finished: 0,
            room: 0,
            full_at: None,
        };
        if let Some(beyond) = beyond.filter(|beyond| !beyond.is_empty()) {
            ledger.restore(&beyond);
        }
        ledger
    }

    /// Changes the limit for the metadata. Where a lower one does not hold what is done already,
    /// the end of that is left out of commits (and would be done again), and nothing more is taken
    /// until it fits.
    pub fn set_limit(&mut self, most_characters: usize) {
        self.most_characters = most_characters;
        (self.room, self.full_at) = (0, None);
    }

    fn restore(&mut self, beyond: &Beyond) {
        let Some(last) = self.start.checked_add(beyond.len() as i64 - 1) else { return };
        self.reach(self.start, last);
        let (mut at, mut done) = (self.start, false);
        for run in beyond.runs() {
            for offset in at..at + if done { 0 } else { run as i64 } {
                self.set(offset);
            }
            (at, done) = (at + run as i64, !done);
        }
        self.incomplete = beyond.incomplete();
        self.told = last;
        self.highest_done = last;
        self.oldest = self.next_set(self.start);
    }

    /// An offset was read. Only [`Taken::New`] makes it this ledger's.
    pub fn take(&mut self, offset: i64) -> Taken {
        if offset <= self.seen || offset < self.start || offset == i64::MAX {
            return Taken::Backwards;
        }
        if offset <= self.told {
            // What was told to be incomplete, and is not among what is read, exists no more.
            self.forget(self.seen + 1, offset);
            self.seen = offset;
            return if self.is_set(offset) { Taken::New } else { Taken::AlreadyDone };
        }
        if self.seen < self.told {
            self.forget(self.seen + 1, self.told + 1);
            self.seen = self.told;
        }
        if self.incomplete == 0 {
            self.oldest = offset;
        } else if !self.could_be_written(offset) {
            return Taken::TooFar;
        }
        self.reach(self.oldest, offset);
        self.set(offset);
        self.incomplete += 1;
        self.seen = offset;
        Taken::New
    }

    /// An offset that was taken is done. Says false, and changes nothing, when it is none that was
    /// taken here and is not done.
    pub fn done(&mut self, offset: i64) -> bool {
        if self.incomplete == 0 || offset < self.oldest || offset > self.seen || !self.is_set(offset) {
            return false;
        }
        self.clear(offset);
        self.incomplete -= 1;
        self.finished += 1;
        self.highest_done = self.highest_done.max(offset);
        if offset == self.oldest && self.incomplete > 0 {
            self.oldest = self.next_set(offset);
        }
        true
    }

    /// Returns what may be committed now. Never past an incomplete offset, and never before what an
    /// earlier call said.
    ///
    /// Costs some microseconds, a millisecond at most.
    #[must_use]
    pub fn commit(&self) -> Commit {
        let mut beyond = self.beyond(self.highest_done, |word, _| word);
        loop {
            if let Some(metadata) = metadata::encode(&beyond, self.most_characters) {
                return Commit { offset: self.position(), metadata };
            }
            // `take` sees to it that this is not needed, by a measured margin. The end of the map
            // is then done again; nothing is lost.
            beyond.truncate(beyond.len() / 8 * 7);
        }
    }

    /// The first offset that is not done: what `commit` says, without its map.
    #[must_use]
    pub fn position(&self) -> i64 {
        if self.incomplete > 0 { self.oldest } else { self.highest_done.saturating_add(1) }
    }

    /// Returns how many offsets are not done: those taken, and those that the map at the beginning
    /// told of and that have not been read yet.
    #[must_use]
    pub fn incomplete(&self) -> usize {
        self.incomplete
    }

    /// The oldest offset that is not done.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        (self.incomplete > 0).then_some(self.oldest)
    }

    /// The highest offset that is done.
    #[must_use]
    pub fn highest_done(&self) -> i64 {
        self.highest_done
    }

    /// Returns how many offsets were done here. While this stands still, there is nothing new to
    /// commit.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// The characters of the metadata that a commit would carry now; as costly as `commit`.
    #[must_use]
    pub fn metadata_len(&self) -> usize {
        self.commit().metadata.len()
    }

    /// Returns true if every map that can come of what is incomplete, with an offset more, can be
    /// written.
    fn could_be_written(&mut self, offset: i64) -> bool {
        let Ok(span) = usize::try_from(offset.saturating_sub(self.oldest).saturating_add(1)) else { return false };
        if span > MOST_OFFSETS {
            return false;
        }
        if metadata::always_fits(span, self.incomplete + 1, self.most_characters) {
            (self.room, self.full_at) = (0, None);
            return true;
        }
        if self.most_characters < WORTH_MEASURING {
            return false;
        }
        if self.room == 0 && self.full_at.is_none_or(|then| self.incomplete < then - then / 32) {
            self.measure();
        }
        let fits = self.room > 0;
        self.room = self.room.saturating_sub(1);
        fits
    }

    /// Compressed maps have no bound that a formula gives. So the map is tried out as it would be
    /// if the newest offset ended now, and as it would be if besides it a quarter or half of those
    /// that are incomplete had ended, anywhere: there is most to tell when about half of all are
    /// done. What the longest leaves free of seven eighths of the limit is room for more.
    fn measure(&mut self) {
        let most = self.most_characters / 8 * 7;
        let longest = [|_| u64::MAX, |index| mixed_bits(index) | mixed_bits(!index), mixed_bits].map(|left: fn(u64) -> u64| {
            let map = self.beyond(self.seen, |word, index| word & left(index));
            metadata::encode(&map, most).map_or(usize::MAX, |written| written.len())
        });
        let room = longest.into_iter().map(|length| most.saturating_sub(length) / GROWTH).min().unwrap_or(0);
        self.room = if room < LEAST_ROOM { 0 } else { room };
        self.full_at = (self.room == 0).then_some(self.incomplete);
    }

    /// The map from the position up to an offset, of the ring's words with a change. That offset
    /// itself counts as done.
    fn beyond(&self, last: i64, change: impl Fn(u64, u64) -> u64) -> Beyond {
        let from = self.position();
        if last < from {
            return Beyond::new();
        }
        let len = (last - from + 1) as usize;
        let shift = (from & 63) as u32;
        let first = word_of(from);
        let word = |index: u64| if index <= word_of(last) { !change(self.ring[self.slot(index)], index) } else { u64::MAX };
        let mut words: Vec<u64> = (0..len.div_ceil(64) as u64)
            .map(|index| {
                let low = word(first + index) >> shift;
                if shift == 0 { low } else { low | word(first + index + 1) << (64 - shift) }
            })
            .collect();
        words[(len - 1) / 64] |= 1 << ((len - 1) % 64);
        Beyond::from_words(words, len)
    }

    /// Clears what is set from an offset up to another one.
    fn forget(&mut self, from: i64, to: i64) {
        let mut at = from;
        while at < to && self.incomplete > 0 {
            let end = ((at | 63).saturating_add(1)).min(to);
            let bits = (u64::MAX >> (64 - (end - at))) << (at & 63);
            let slot = self.slot(word_of(at));
            self.incomplete -= (self.ring[slot] & bits).count_ones() as usize;
            self.ring[slot] &= !bits;
            at = end;
        }
        if self.incomplete > 0 {
            self.oldest = self.next_set(self.oldest);
        }
    }

    /// Makes the ring large enough for a window.
    fn reach(&mut self, from: i64, to: i64) {
        let words = (word_of(to) - word_of(from) + 1) as usize;
        if words <= self.ring.len() {
            return;
        }
        let larger = vec![0; words.next_power_of_two()];
        let old = std::mem::replace(&mut self.ring, larger);
        for word in (word_of(from)..).take(old.len()) {
            let slot = self.slot(word);
            self.ring[slot] = old[word as usize & (old.len() - 1)];
        }
    }

    /// The lowest set bit from an offset on. There is one.
    fn next_set(&self, from: i64) -> i64 {
        let mut word = word_of(from);
        let mut bits = self.ring[self.slot(word)] >> (from & 63) << (from & 63);
        for _ in 0..self.ring.len() {
            if bits != 0 {
                return (word * 64) as i64 + i64::from(bits.trailing_zeros());
            }
            word += 1;
            bits = self.ring[self.slot(word)];
        }
        debug_assert!(self.incomplete == 0, "the count of set bits is right");
        from
    }

    fn slot(&self, word: u64) -> usize {
        word as usize & (self.ring.len() - 1)
    }

    fn is_set(&self, offset: i64) -> bool {
        self.ring[self.slot(word_of(offset))] >> (offset & 63) & 1 == 1
    }

    fn set(&mut self, offset: i64) {
        let slot = self.slot(word_of(offset));
        self.ring[slot] |= 1 << (offset & 63);
    }

    fn clear(&mut self, offset: i64) {
        let slot = self.slot(word_of(offset));
        self.ring[slot] &= !(1 << (offset & 63));
    }
}

const fn word_of(offset: i64) -> u64 {
    offset as u64 / 64
}

/// Bits without a pattern, the same for the same word.
const fn mixed_bits(word: u64) -> u64 {
    let mut mixed = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
