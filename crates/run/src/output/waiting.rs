//! Text that waits for its turn in the order of the input: in memory up to a limit, beyond it in a
//! file without a name, which goes with this process.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Most bytes of waiting text in memory.
const MOST: usize = 16 << 20;

/// Texts that wait.
pub(super) struct Waiting {
    most: usize,
    in_memory: usize,
    /// Made when it is needed first.
    file: Option<File>,
    /// Number of bytes in the file that are not shown yet, and the end of what stands in it.
    in_file: u64,
    end: u64,
}

/// One text that waits.
pub(super) enum Held {
    Here(Box<[u8]>),
    /// In the file.
    Apart {
        at: u64,
        len: usize,
    },
}

impl Default for Waiting {
    fn default() -> Self {
        Self::with_most(MOST)
    }
}

impl Waiting {
    pub(super) fn with_most(most: usize) -> Self {
        Self { most, in_memory: 0, file: None, in_file: 0, end: 0 }
    }

    /// Keeps a text until it is [taken](Self::take).
    pub(super) fn keep(&mut self, text: &[u8]) -> Held {
        // A text that the file does not take, on a full disk for example, stays in memory: it is
        // not in the output yet, and must not be lost.
        if self.in_memory + text.len() > self.most
            && let Ok(at) = self.write(text)
        {
            return Held::Apart { at, len: text.len() };
        }
        self.in_memory += text.len();
        Held::Here(text.into())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<u64> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        if self.in_file == 0 {
            // All that stood there is shown: its room is given back.
            file.set_len(0)?;
            self.end = 0;
        }
        let at = self.end;
        file.write_all_at(text, at)?;
        self.end += text.len() as u64;
        self.in_file += text.len() as u64;
        Ok(at)
    }

    /// Gives a text back, whose turn has come.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn take(&mut self, held: Held) -> io::Result<Box<[u8]>> {
        match held {
            Held::Here(text) => {
                self.in_memory -= text.len();
                Ok(text)
            }
            Held::Apart { at, len } => {
                let mut text = vec![0; len];
                let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                file.read_exact_at(&mut text, at)?;
                self.in_file -= len as u64;
                Ok(text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Held, Waiting};

    #[test]
    fn what_is_beyond_the_limit_waits_in_a_file_and_its_room_is_used_again() {
        let mut waiting = Waiting::with_most(10);
        for _ in 0..3 {
            let (here, apart) = (waiting.keep(b"12345678"), waiting.keep(b"abcdefgh"));
            assert!(matches!((&here, &apart), (Held::Here(_), Held::Apart { at: 0, len: 8 })));
            assert_eq!(&*waiting.take(apart).unwrap(), b"abcdefgh");
            assert_eq!(&*waiting.take(here).unwrap(), b"12345678");
        }
        assert_eq!((waiting.in_memory, waiting.in_file), (0, 0));
    }

    proptest! {
        #[test]
        fn whatever_waits_comes_back_as_it_was_and_memory_keeps_its_limit(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..60),
            turns in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut waiting = Waiting::with_most(100);
            let mut kept = Vec::new();
            for (text, turn) in texts.iter().zip(turns) {
                kept.push((waiting.keep(text), text));
                prop_assert!(waiting.in_memory <= 100);
                if kept.len() > 5 {
                    let (held, text) = kept.swap_remove(turn.index(kept.len()));
                    prop_assert_eq!(&*waiting.take(held).unwrap(), &text[..]);
                }
            }
            for (held, text) in kept {
                prop_assert_eq!(&*waiting.take(held).unwrap(), &text[..]);
            }
        }
    }
}
