//! A commit's metadata: what is done beyond the committed offset, in the formats of Confluent's
//! Parallel Consumer.
//!
//! Both sides read each other's, so that a group can be taken over and given back without repeating
//! what was done out of order. A map is the standard Base64 of a byte that names the format, and
//! the map's bytes; no metadata means that nothing is done beyond. We write bits or runs while they
//! are short, and compressed bits when those are shorter; Parallel Consumer writes more formats,
//! and all of them are read.
//!
//! Layout:
//! - `metadata/beyond.rs`: the map itself
//! - `metadata/layout.rs`: its bytes before compression

mod beyond;
mod layout;
#[cfg(test)]
mod tests;

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

pub use beyond::{Beyond, MOST_OFFSETS};
use layout::{Layout, Width};

/// Most characters of a commit's metadata unless said otherwise. Brokers refuse more than 4 096
/// (`offset.metadata.max.bytes`), old ones 4 096 too.
pub const MOST_CHARACTERS: usize = 4_000;

/// Longer metadata is not read at all.
const LONGEST_READ: usize = 1 << 20;
/// Most bytes that a compressed map may grow to: all offsets that we keep, as bits.
const MOST_BYTES: u64 = (MOST_OFFSETS / 8 + 16) as u64;
/// Most memory for the decompressor's window, as a power of two. Parallel Consumer's is 21.
const WINDOW_LOG: u32 = 22;
/// Maps of at most so many bytes are not worth compressing.
const SHORT: usize = 200;
/// Level of compression: for maps of some 10 kB in the mean, higher ones take ten times as long for
/// a hundredth less.
const LEVEL: i32 = 3;

const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Reason why metadata is not a map of offsets. The records beyond the committed offset are then
/// done again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It is not Base64, so some other program wrote it.
    #[error("it is not Base64: another kind of program wrote it")]
    NotBase64,
    /// It is of Kafka Streams.
    #[error("Kafka Streams wrote it")]
    KafkaStreams,
    /// The format is none that is known.
    #[error("its format is not known (it begins with the byte {0:#04x})")]
    Unknown(u8),
    /// The format is known, the rest does not fit it.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is longer than any map.
    #[error("it has {0} bytes, which is longer than any map of offsets")]
    TooLong(usize),
}

/// A format: the byte that names it, its layout, and whether it is compressed with zstd.
struct Format {
    magic: u8,
    layout: Layout,
    compressed: bool,
}

const fn format(magic: u8, layout: Layout, compressed: bool) -> Format {
    Format { magic, layout, compressed }
}

/// Parallel Consumer's.
const FORMATS: [Format; 10] = [
    format(b'L', Layout::Bytes, false),
    format(0xee, Layout::Bytes, true),
    format(b'l', Layout::Bits(Width::Narrow), false),
    format(b'a', Layout::Bits(Width::Narrow), true),
    format(b'o', Layout::Bits(Width::Wide), false),
    format(b's', Layout::Bits(Width::Wide), true),
    format(b'n', Layout::Runs(Width::Narrow), false),
    format(b'J', Layout::Runs(Width::Narrow), true),
    format(b'e', Layout::Runs(Width::Wide), false),
    format(b'p', Layout::Runs(Width::Wide), true),
];

/// Reads the metadata of a committed offset.
///
/// Memory is bounded whatever is read: the map has at most [`MOST_OFFSETS`] bits, and what a
/// damaged one claims to have beyond is left out.
///
/// # Errors
/// When it is not a map: foreign, damaged or of an unknown format. The caller says so and starts at
/// the committed offset without one.
pub fn decode(metadata: &str) -> Result<Beyond, MetadataError> {
    if metadata.len() > LONGEST_READ {
        return Err(MetadataError::TooLong(metadata.len()));
    }
    let bytes = BASE64.decode(metadata).map_err(|_| MetadataError::NotBase64)?;
    let Some((magic, bytes)) = bytes.split_first() else { return Ok(Beyond::new()) };
    let Some(format) = FORMATS.iter().find(|format| format.magic == *magic) else {
        return Err(if matches!(magic, 1 | 2) { MetadataError::KafkaStreams } else { MetadataError::Unknown(*magic) });
    };
    if format.compressed { layout::read(format.layout, &decompressed(bytes)?) } else { layout::read(format.layout, bytes) }
}

/// Writes a map in the shortest format, or `None` when that has more than `most` characters.
#[must_use]
pub fn encode(beyond: &Beyond, most: usize) -> Option<String> {
    if beyond.is_empty() {
        return Some(String::new());
    }
    let mut best = packed(shortest_plain(beyond), beyond);
    if best.len() > SHORT {
        let bits = packed(FORMATS.iter().find(|format| format.magic == b's')?, beyond);
        if bits.len() < best.len() {
            best = bits;
        }
    }
    (characters(best.len()) <= most).then(|| BASE64.encode(best))
}

/// The characters that bytes take.
pub(crate) const fn characters(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Returns true if any map over `offsets` offsets, `incomplete` of them not done, takes at most
/// `most` characters without compression.
pub(crate) const fn always_fits(offsets: usize, incomplete: usize, most: usize) -> bool {
    let width = Width::of(offsets);
    // Each offset that is not done begins a run at most, with a run of done ones behind it.
    characters(1 + layout::bits_bytes(offsets, width)) <= most || characters(1 + 2 * incomplete * width.bytes()) <= most
}

/// The shortest format without compression.
fn shortest_plain(beyond: &Beyond) -> &'static Format {
    let (mut count, mut longest) = (0, 0);
    for run in beyond.runs() {
        count += 1;
        longest = longest.max(run);
    }
    let (bits, runs) = (Width::of(beyond.len()), Width::of(longest));
    let wanted = if layout::bits_bytes(beyond.len(), bits) <= count * runs.bytes() { Layout::Bits(bits) } else { Layout::Runs(runs) };
    let found = FORMATS.iter().find(|format| format.layout == wanted && !format.compressed);
    found.expect("each layout has a format")
}

/// The bytes of a map in a format.
fn packed(format: &Format, beyond: &Beyond) -> Vec<u8> {
    let mut out = vec![format.magic];
    if format.compressed {
        let mut plain = Vec::new();
        layout::write(format.layout, beyond, &mut plain);
        out.extend(zstd::bulk::compress(&plain, LEVEL).expect("memory is written to"));
    } else {
        layout::write(format.layout, beyond, &mut out);
    }
    out
}

fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, MetadataError> {
    const BROKEN: MetadataError = MetadataError::Damaged("it does not decompress");
    let mut out = Vec::new();
    let mut reader = zstd::stream::read::Decoder::with_buffer(bytes).map_err(|_| BROKEN)?;
    reader.window_log_max(WINDOW_LOG).map_err(|_| BROKEN)?;
    reader.take(MOST_BYTES + 1).read_to_end(&mut out).map_err(|_| BROKEN)?;
    if out.len() as u64 > MOST_BYTES { Err(MetadataError::Damaged("it grows beyond any map")) } else { Ok(out) }
}
