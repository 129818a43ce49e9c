//! Map of what is done beyond a committed offset: one bit an offset.

/// Most offsets that a map reaches over: half a megabyte of bits, wherever in a word they begin.
/// What lies further is not known to be done, so it is done again.
pub const MOST_OFFSETS: usize = (1 << 22) - 64;

/// Map of the offsets that are done beyond a committed one.
///
/// Bit 0 is the committed offset itself. The last bit is always a done one: an offset behind it is
/// not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    words: Vec<u64>,
    len: usize,
}

impl Beyond {
    /// Makes a map in which nothing is done.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a map of bits, least significant first, a set one being done.
    pub(crate) fn from_words(words: Vec<u64>, len: usize) -> Self {
        let mut beyond = Self { words, len: 0 };
        beyond.truncate(len.min(beyond.words.len() * 64));
        beyond
    }

    /// Returns the number of offsets from the committed one to the last done one, both counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if nothing is done beyond the committed offset.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns true if the offset this far from the committed one is done.
    #[must_use]
    pub fn is_done(&self, index: usize) -> bool {
        index < self.len && self.words[index / 64] >> (index % 64) & 1 == 1
    }

    /// Returns how many offsets before the last done one are not done.
    #[must_use]
    pub fn incomplete(&self) -> usize {
        self.len - self.words.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }

    /// Adds offsets at the end. What reaches beyond [`MOST_OFFSETS`] is left out.
    pub(crate) fn push(&mut self, done: bool, count: usize) {
        let end = self.len.saturating_add(count).min(MOST_OFFSETS);
        self.words.resize(end.div_ceil(64), 0);
        if done {
            fill(&mut self.words, self.len, end);
        }
        self.len = end;
    }

    /// Forgets what is done from `len` on, and ends at the last done offset before it.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.words.truncate(len.div_ceil(64));
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), len % 64) {
            *last &= (1 << rest) - 1;
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self.len = self.words.last().map_or(0, |last| self.words.len() * 64 - last.leading_zeros() as usize);
    }

    /// Returns the lengths of runs of equal bits: not done, done, not done… The first may be 0; the
    /// last is a done one.
    pub(crate) fn runs(&self) -> impl Iterator<Item = usize> {
        let (mut at, mut done) = (0, false);
        std::iter::from_fn(move || {
            if at >= self.len {
                return None;
            }
            let from = at;
            at = self.end_of_run(from, done);
            done = !done;
            Some(at - from)
        })
    }

    /// Returns the index at which the bits from `at` on stop being `done`.
    fn end_of_run(&self, at: usize, done: bool) -> usize {
        let mut index = at / 64;
        let mut skip = at % 64;
        while index < self.words.len() {
            let other = if done { !self.words[index] } else { self.words[index] } >> skip << skip;
            if other != 0 {
                return (index * 64 + other.trailing_zeros() as usize).min(self.len);
            }
            index += 1;
            skip = 0;
        }
        self.len
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
}

/// Sets the bits from `from` up to `to`.
fn fill(words: &mut [u64], from: usize, to: usize) {
    let mut at = from;
    while at < to {
        let bits = (64 - at % 64).min(to - at);
        words[at / 64] |= (u64::MAX >> (64 - bits)) << (at % 64);
        at += bits;
    }
}
