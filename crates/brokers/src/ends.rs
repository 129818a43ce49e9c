//! Looks for words in the ends of messages: what Celery says of a message stands before or behind
//! its body.

/// Number of bytes of each end that are looked at.
pub(crate) const END: usize = 16 << 10;
/// Number of bytes of messages after which no further one is looked at: to read them takes time.
pub(crate) const MUCH: usize = 1 << 20;

/// Looks at messages one after the other, until there was much to look at.
#[derive(Default)]
pub(crate) struct Looked(usize);

impl Looked {
    /// Returns whether another message may be looked at.
    pub(crate) fn goes_on(&self) -> bool {
        self.0 < MUCH
    }

    /// Returns whether one of these words stands in an end of this message.
    pub(crate) fn finds(&mut self, raw: &[u8], words: &[&[u8]]) -> bool {
        self.0 += raw.len();
        let (head, tail) = (&raw[..raw.len().min(END)], &raw[raw.len().saturating_sub(END)..]);
        words.iter().any(|word| [head, tail].iter().any(|end| end.windows(word.len().max(1)).any(|bytes| bytes == *word)))
    }
}
