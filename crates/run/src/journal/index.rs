//! What a journal says about each task, in a few bytes a task.

use std::collections::HashMap;

use longshore_core::{Word, watch::Counts};

use super::{
    format::{Head, Start, is_final},
    table::Table,
};

/// State of a task, as far as the journal knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskState {
    /// Nothing: it never started.
    New,
    /// It started and has no final result: its run died, or was stopped, or its failure is to be
    /// retried.
    InFlight {
        /// The number of its last attempt; the next one is this plus 1.
        attempts: u32,
    },
    /// It is done with.
    Finished {
        /// The word for its outcome.
        word: Word,
        /// Offset in the journal at which its result line begins.
        at: u64,
    },
}

/// The state of every task that a journal mentions, by key and number of occurrence.
///
/// An entry is 96 bits of what identifies a task, and 64 of what is known of it: 20 bytes, 24 to 29
/// with the table's empty places. (That two tasks of a billion share their 96 bits is one chance in
/// 100 billion.)
#[derive(Debug, Default)]
pub(crate) struct Index {
    tasks: Table<3, 5>,
    counts: Counts,
    in_flight: u64,
    /// Those of them that wait for nothing: neither cancelled nor to be retried.
    started: u64,
}

/// Attempts take 20 bits of a packed state; a larger number stays at this one.
const MOST_ATTEMPTS: u64 = (1 << 20) - 1;
const IN_FLIGHT: u64 = 15;
/// It was cancelled, or its failure is to be retried, and it has not started again.
const WAITING: u64 = 14;

impl Index {
    /// Returns the state of the task that has this key and stands behind `nth` others with the same
    /// key.
    pub(crate) fn state_of(&self, key: u128, nth: u32) -> TaskState {
        self.tasks.get(identity(key, nth)).map_or(TaskState::New, |entry| unpack(packed(entry)))
    }

    /// Returns finished tasks by outcome.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the number of tasks that are finished.
    pub(crate) fn finished(&self) -> u64 {
        self.counts.done()
    }

    /// Returns the number of tasks that are finished and count as failed.
    pub(crate) fn failed(&self) -> u64 {
        self.counts.failures()
    }

    /// Returns the number of tasks that started and have no final result.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Returns the number of tasks that run, or ran when their run died.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Returns true if the result line that begins at `at` is the one that counts for its task.
    pub(crate) fn is_current(&self, key: u128, nth: u32, at: u64) -> bool {
        matches!(self.state_of(key, nth), TaskState::Finished { at: current, .. } if current == at)
    }

    pub(crate) fn start(&mut self, start: &Start) {
        self.put(identity(start.key, start.nth), pack(0, IN_FLIGHT, start.attempt));
    }

    pub(crate) fn result(&mut self, head: &Head<'_>, at: u64) {
        let state = if is_final(head.outcome) { head.outcome as u64 } else { WAITING };
        self.put(identity(head.key, head.nth), pack(at, state, head.attempts));
    }

    /// Makes every failed task unfinished again; its attempts go on from where they were.
    pub(crate) fn reopen_failed(&mut self) {
        for entry in self.tasks.entries_mut() {
            let before = packed(entry);
            if let TaskState::Finished { word, .. } = unpack(before)
                && word.is_failure()
            {
                self.counts.take(word, 1);
                self.in_flight += 1;
                entry[3..].copy_from_slice(&pack(0, WAITING, attempts_of(before)));
            }
        }
    }

    fn put(&mut self, [a, b, c]: [u32; 3], now: [u32; 2]) {
        let before = self.tasks.insert([a, b, c, now[0], now[1]]).map(|entry| packed(&entry));
        self.started -= u64::from(before.is_some_and(is_started));
        self.started += u64::from(is_started(now));
        match before.map(unpack) {
            None | Some(TaskState::New) => {}
            Some(TaskState::InFlight { .. }) => self.in_flight -= 1,
            Some(TaskState::Finished { word, .. }) => self.counts.take(word, 1),
        }
        match unpack(now) {
            TaskState::Finished { word, .. } => self.counts.add(word, 1),
            TaskState::New | TaskState::InFlight { .. } => self.in_flight += 1,
        }
    }
}

/// One number for a key and its occurrence. Keys are 128-bit hashes, so that spreading the
/// occurrence over all bits keeps them apart.
fn identity(key: u128, nth: u32) -> [u32; 3] {
    let mixed = key ^ u128::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let [a, b] = spread(mixed as u64 ^ (mixed >> 64) as u64);
    [a, b, (mixed >> 96) as u32]
}

/// The number in another order of all numbers: the table looks at the top bits first, and a product
/// is mixed best there.
fn spread(number: u64) -> [u32; 2] {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [(spread >> 32) as u32, spread as u32]
}

/// Returns what an entry says of its task.
fn packed(entry: &[u32; 5]) -> [u32; 2] {
    [entry[3], entry[4]]
}

/// 40 bits of offset (a journal of 1 TiB), 4 of outcome, 20 of attempts; two halves, so that an
/// entry has no padding.
fn pack(at: u64, state: u64, attempts: u32) -> [u32; 2] {
    let packed = at << 24 | state << 20 | u64::from(attempts).min(MOST_ATTEMPTS);
    [packed as u32, (packed >> 32) as u32]
}

fn attempts_of(packed: [u32; 2]) -> u32 {
    packed[0] & MOST_ATTEMPTS as u32
}

fn is_started(packed: [u32; 2]) -> bool {
    u64::from(packed[0]) >> 20 & 15 == IN_FLIGHT
}

fn unpack(packed: [u32; 2]) -> TaskState {
    let state = packed[0] as usize >> 20 & 15;
    match Word::ALL.get(state) {
        Some(&word) => TaskState::Finished { word, at: u64::from(packed[1]) << 8 | u64::from(packed[0] >> 24) },
        None => TaskState::InFlight { attempts: attempts_of(packed) },
    }
}

/// Counts how many times each key has been seen in the input, which makes equal records different
/// tasks.
///
/// It remembers 64 bits of each key. Should two keys share them (one chance in 37 million for a
/// million records), the later counts as a repeat of the earlier, every time in the same way. That
/// is 10 to 12 bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Occurrences {
    seen: Table<2, 2>,
    repeats: HashMap<u64, u32>,
}

impl Occurrences {
    /// Counts this occurrence, and returns how many stood before it.
    pub(crate) fn next(&mut self, key: u128) -> u32 {
        let short = key as u64 ^ (key >> 64) as u64;
        if self.seen.insert(spread(short)).is_none() {
            return 0;
        }
        let repeats = self.repeats.entry(short).or_default();
        *repeats = repeats.saturating_add(1);
        *repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn head(key: u128, nth: u32, outcome: Word, attempts: u32) -> Head<'static> {
        Head { job: "a".into(), key, nth, outcome, attempts, spool: None }
    }

    #[test]
    fn a_task_goes_from_new_over_in_flight_to_finished() {
        let mut index = Index::default();
        assert_eq!(index.state_of(7, 0), TaskState::New);
        index.start(&Start { seq: 0, key: 7, nth: 0, attempt: 2 });
        assert_eq!(index.state_of(7, 0), TaskState::InFlight { attempts: 2 });
        index.result(&head(7, 0, Word::Timeout, 2), (1 << 40) - 1);
        assert_eq!(index.state_of(7, 0), TaskState::Finished { word: Word::Timeout, at: (1 << 40) - 1 });
        assert!(index.is_current(7, 0, (1 << 40) - 1) && !index.is_current(7, 0, 5));
        assert_eq!(index.state_of(7, 1), TaskState::New, "the second task with this key is another one");
        assert_eq!((index.finished(), index.failed(), index.in_flight()), (1, 1, 0));
        index.reopen_failed();
        assert_eq!(index.state_of(7, 0), TaskState::InFlight { attempts: 2 });
        assert_eq!((index.finished(), index.failed(), index.in_flight(), index.started()), (0, 0, 1, 0));
        index.start(&Start { seq: 0, key: 7, nth: 0, attempt: 3 });
        assert_eq!((index.in_flight(), index.started()), (1, 1));
        index.result(&head(7, 0, Word::Ok, 3), 9);
        assert_eq!((index.in_flight(), index.started()), (0, 0));
    }

    #[test]
    fn a_cancelled_task_is_not_finished() {
        let mut index = Index::default();
        index.start(&Start { seq: 0, key: 7, nth: 0, attempt: 1 });
        index.result(&head(7, 0, Word::Cancelled, 1), 9);
        assert_eq!(index.state_of(7, 0), TaskState::InFlight { attempts: 1 });
        assert_eq!((index.in_flight(), index.started()), (1, 0));
    }

    #[test]
    fn occurrences_count_from_zero_for_each_key() {
        let mut seen = Occurrences::default();
        let counted: Vec<u32> = [5, 6, 5, 5, 6, 7].map(|key: u128| seen.next(key)).into();
        assert_eq!(counted, [0, 0, 1, 2, 1, 0]);
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<([u32; 4], [u32; 2])>(), 24);
    }

    proptest::proptest! {
        #[test]
        fn counts_are_those_of_the_states(steps in proptest::collection::vec((0_u128..6, 0_u32..2, 0_usize..10, 1_u32..4), 0..60)) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (at, (key, nth, what, attempt)) in steps.into_iter().enumerate() {
                match what {
                    0 => index.start(&Start { seq: 0, key, nth, attempt }),
                    1 => index.reopen_failed(),
                    _ => index.result(&head(key, nth, Word::ALL[what - 2], attempt), at as u64),
                }
                if what == 1 {
                    model.values_mut().for_each(|word: &mut Option<Word>| *word = word.filter(|word| !word.is_failure()));
                } else {
                    model.insert((key, nth), what.checked_sub(2).map(|what| Word::ALL[what]).filter(|word| is_final(*word)));
                }
            }
            let mut counts = Counts::default();
            model.values().flatten().for_each(|word| counts.add(*word, 1));
            proptest::prop_assert_eq!(index.counts(), counts);
            proptest::prop_assert_eq!(index.in_flight(), model.values().filter(|word| word.is_none()).count() as u64);
        }
    }
}
