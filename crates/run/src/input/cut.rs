//! Pieces of a stream, each up to a byte that ends it, none longer in memory than allowed.

use std::io::{self, BufRead, BufReader, Read};
use xxhash_rust::xxh3::Xxh3;

/// One read asks for so much; large enough that system calls do not count, small enough for the
/// cache.
const BUFFER: usize = 256 << 10;

/// A buffer that grew beyond this for one long piece is given back.
const KEEP: usize = 1 << 20;

/// Bytes that are kept of a piece that is too long, to show people which one it was.
const HEAD: usize = 256;

/// Cuts a stream at a byte.
pub(super) struct Cutter {
    reader: BufReader<Box<dyn Read + Send>>,
    end: u8,
    max: usize,
    piece: Vec<u8>,
}

/// A piece without the byte that ended it.
pub(super) enum Piece<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than allowed, and has been read to its end.
    TooLong(Long),
}

/// A piece that was too long: its length, its hash and its beginning.
pub(super) struct Long {
    /// Its length.
    pub(super) bytes: u64,
    /// The hash of all its bytes.
    pub(super) key: u128,
    /// Its first bytes.
    pub(super) head: Vec<u8>,
}

/// The bytes of something too long, while they go by.
pub(super) struct Passing {
    bytes: u64,
    hash: Box<Xxh3>,
    head: Vec<u8>,
}

impl Passing {
    pub(super) fn new(held: &[u8]) -> Self {
        let mut this = Self { bytes: 0, hash: Box::default(), head: held[..held.len().min(HEAD)].to_vec() };
        this.add(held);
        this
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn end(self) -> Long {
        Long { bytes: self.bytes, key: self.hash.digest128(), head: self.head }
    }
}

/// Reason why one reading of the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The byte that ends a piece, which has been taken off.
    End,
    /// As many bytes as were asked for have been read; the piece goes on.
    Most,
    /// The stream is at its end.
    Eof,
}

impl Cutter {
    pub(super) fn new(reader: Box<dyn Read + Send>, end: u8, max: usize) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, reader), end, max, piece: Vec::new() }
    }

    /// The next piece; `None` at the end of the stream. Bytes behind the last end byte are a piece,
    /// but nothing is not.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        piece.shrink_to(KEEP);
        // One byte more than allowed shows that it is too long; another is the CR that belongs to
        // the line end.
        let stop = self.read(&mut piece, self.max.saturating_add(2))?;
        self.piece = piece;
        if stop == Stop::Eof && self.piece.is_empty() {
            return Ok(None);
        }
        let held = self.piece.len() - usize::from(self.end == b'\n' && stop != Stop::Most && self.piece.ends_with(b"\r"));
        if stop != Stop::Most && held <= self.max {
            return Ok(Some(Piece::Whole(&self.piece)));
        }
        let mut passing = Passing::new(&self.piece);
        let mut stop = stop;
        while stop == Stop::Most {
            let mut piece = std::mem::take(&mut self.piece);
            piece.clear();
            piece.shrink_to(KEEP);
            stop = self.read(&mut piece, BUFFER)?;
            passing.add(&piece);
            self.piece = piece;
        }
        Ok(Some(Piece::TooLong(passing.end())))
    }

    /// Appends to the piece up to the end byte, but at most so many bytes.
    pub(super) fn read(&mut self, piece: &mut Vec<u8>, most: usize) -> io::Result<Stop> {
        let count = (&mut self.reader).take(most as u64).read_until(self.end, piece)?;
        if count > 0 && piece.last() == Some(&self.end) {
            piece.pop();
            return Ok(Stop::End);
        }
        Ok(if count == most { Stop::Most } else { Stop::Eof })
    }
}
