//! The bytes of a map: bits or runs, narrow or wide. Numbers are big-endian, as Java writes them.

use super::{Beyond, MetadataError};

/// Layout of a map's bytes, without its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A byte an offset. Parallel Consumer's first one; it is read and never written.
    Bytes,
    /// The number of bits, then bits, least significant first.
    Bits(Width),
    /// The lengths of runs; the first is of offsets that are not done.
    Runs(Width),
}

/// The width of a layout's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 16 bits, signed.
    Narrow,
    /// 32 bits, signed.
    Wide,
}

impl Width {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Narrow => 2,
            Self::Wide => 4,
        }
    }

    pub(crate) const fn most(self) -> usize {
        match self {
            Self::Narrow => i16::MAX as usize,
            Self::Wide => i32::MAX as usize,
        }
    }

    /// Returns the narrowest that holds a number.
    pub(crate) const fn of(number: usize) -> Self {
        if number <= Self::Narrow.most() { Self::Narrow } else { Self::Wide }
    }

    fn put(self, number: usize, out: &mut Vec<u8>) {
        let bytes = (number as u32).to_be_bytes();
        out.extend_from_slice(&bytes[4 - self.bytes()..]);
    }

    fn get(self, bytes: &[u8]) -> Result<usize, MetadataError> {
        let number = match self {
            Self::Narrow => i32::from(i16::from_be_bytes([bytes[0], bytes[1]])),
            Self::Wide => i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        };
        usize::try_from(number).map_err(|_| MetadataError::Damaged("a length is negative"))
    }
}

/// Returns the bytes that bits take.
pub(crate) const fn bits_bytes(offsets: usize, width: Width) -> usize {
    // Parallel Consumer leaves an empty byte behind; so do we, to be equal to it.
    width.bytes() + offsets.div_ceil(8) + 1
}

pub(crate) fn write(layout: Layout, beyond: &Beyond, out: &mut Vec<u8>) {
    match layout {
        Layout::Bytes => out.extend((0..beyond.len()).map(|index| u8::from(beyond.is_done(index)))),
        Layout::Bits(width) => {
            let end = out.len() + bits_bytes(beyond.len(), width);
            width.put(beyond.len(), out);
            out.extend(beyond.words().iter().flat_map(|word| word.to_le_bytes()));
            out.resize(end, 0);
        }
        Layout::Runs(width) => {
            for run in beyond.runs() {
                width.put(run, out);
            }
        }
    }
}

pub(crate) fn read(layout: Layout, bytes: &[u8]) -> Result<Beyond, MetadataError> {
    let mut beyond = Beyond::new();
    match layout {
        Layout::Bytes => {
            for byte in bytes {
                beyond.push(*byte == 1, 1);
            }
        }
        Layout::Bits(width) => {
            if bytes.len() < width.bytes() {
                return Err(MetadataError::Damaged("it ends before its length"));
            }
            let (len, bits) = bytes.split_at(width.bytes());
            let len = width.get(len)?;
            if bits.len() < len.div_ceil(8) {
                return Err(MetadataError::Damaged("it has fewer bits than it says"));
            }
            let words = bits.chunks(8).take(len.min(super::MOST_OFFSETS).div_ceil(64)).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            return Ok(Beyond::from_words(words.collect(), len));
        }
        Layout::Runs(width) => {
            let runs = bytes.chunks_exact(width.bytes());
            if !runs.remainder().is_empty() {
                return Err(MetadataError::Damaged("it ends within a run's length"));
            }
            for (index, run) in runs.enumerate() {
                beyond.push(index % 2 == 1, width.get(run)?);
            }
        }
    }
    // Older ones went on to the last offset seen.
    beyond.truncate(beyond.len());
    Ok(beyond)
}
