//! `--split`: one large file or stream as byte ranges, cut at records.
//!
//! The file is read once from start to end, a piece at a time, to find where records end and to
//! hash what lies between: memory is the same for every size of file. A range ends with the record
//! in which it reaches the size that was asked for. The ranges of a stream hold their bytes, since
//! nobody can read them again: as many are held as wait or run.

use super::{Format, InputError, table::Quotes};
use crate::{
    record::{HeldBytes, Place, Range, Record, Whole},
    units,
};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::SystemTime,
};
use xxhash_rust::xxh3::Xxh3;

/// One read asks for so much.
const BUFFER: usize = 256 << 10;

/// Cuts a file into ranges.
pub(super) struct Splitter {
    source: SplitSource,
    whole: Arc<Whole>,
    ends: RecordEnds,
    size: u64,
    max_record: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been looked at, and bytes that are in it.
    at: usize,
    filled: usize,
    /// Offset in the file of the next byte to look at.
    offset: u64,
}

/// Origin of the bytes that are cut.
enum SplitSource {
    File(File),
    Stream(Box<dyn Read + Send>),
}

/// Reason why a range cannot be handed out.
enum Flaw {
    /// A record that is longer than allowed: where it begins, and how long it is.
    TooLong { at: u64, bytes: u64 },
    /// A quote is open until the end of the file.
    Open { at: u64 },
}

impl Splitter {
    /// Opens a file, and reads the header if it is a table that has one.
    pub(super) fn open(path: &Path, format: Format, header: bool, size: u64, max_record: usize) -> Result<Self, InputError> {
        let refused = |reason: &str| InputError::Split { name: path.display().to_string(), reason: reason.to_owned() };
        if size == 0 {
            return Err(refused("a range has at least 1 byte"));
        }
        let name = path.to_str().ok_or_else(|| refused("its name is not UTF-8, so that no range can name it"))?;
        // Asked before opening: opening a named pipe would wait for its writer.
        let meta = std::fs::metadata(path).map_err(|cause| InputError::Open { path: path.into(), cause })?;
        if !meta.is_file() {
            return Err(refused("only a regular file can be read in ranges"));
        }
        let file = File::open(path).map_err(|cause| InputError::Open { path: path.into(), cause })?;
        let failed = |cause| InputError::Read { name: path.display().to_string(), line: 0, cause };
        let meta = file.metadata().map_err(failed)?;
        let whole = Whole { path: name.into(), len: meta.len(), modified: meta.modified().map_err(failed)?, header: Box::default() };
        Self::begin(SplitSource::File(file), whole, format, header, size, max_record).map_err(failed)
    }

    /// Takes a stream, and reads the header if it is a table that has one.
    pub(super) fn of_stream(
        name: &str,
        stream: Box<dyn Read + Send>,
        format: Format,
        header: bool,
        size: u64,
        max_record: usize,
    ) -> Result<Self, InputError> {
        if size == 0 {
            return Err(InputError::Split { name: name.to_owned(), reason: "a range has at least 1 byte".to_owned() });
        }
        let whole = Whole { path: name.into(), len: u64::MAX, modified: SystemTime::UNIX_EPOCH, header: Box::default() };
        let failed = |cause| InputError::Read { name: name.to_owned(), line: 0, cause };
        Self::begin(SplitSource::Stream(stream), whole, format, header, size, max_record).map_err(failed)
    }

    fn begin(source: SplitSource, mut whole: Whole, format: Format, header: bool, size: u64, max_record: usize) -> io::Result<Self> {
        let mut this = Self {
            source,
            whole: Arc::new(whole.clone()),
            ends: RecordEnds::new(format),
            size,
            max_record: max_record as u64,
            buffer: vec![0; BUFFER],
            at: 0,
            filled: 0,
            offset: 0,
        };
        this.fill()?;
        if format != Format::Nul && this.buffer[..this.filled].starts_with(b"\xef\xbb\xbf") {
            this.go_on(3);
        }
        if header && format.is_table() {
            whole.header = this.header()?;
            this.whole = Arc::new(whole);
        }
        Ok(this)
    }

    /// Reads the first row that is not empty, its line end included.
    fn header(&mut self) -> io::Result<Box<[u8]>> {
        let bad = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let mut row = Vec::new();
        loop {
            if self.at == self.filled && !self.fill()? {
                break;
            }
            let bytes = &self.buffer[self.at..self.filled];
            let end = self.ends.next(bytes);
            let count = end.unwrap_or(bytes.len());
            row.extend_from_slice(&bytes[..count]);
            self.go_on(count);
            if row.len() as u64 > self.max_record {
                return bad(format!("its header is longer than {}; --max-record raises the limit", units::show_size(self.max_record)));
            }
            if end.is_some() {
                if !row.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                    break;
                }
                row.clear();
            }
        }
        if self.ends.is_quoted() { bad("a quote is left open in its header".to_owned()) } else { Ok(row.into()) }
    }

    /// The next range, `None` at the end of the file.
    pub(super) fn next(&mut self, place: Place) -> io::Result<Option<Record>> {
        let (start, mut record_start, mut flaw) = (self.offset, self.offset, None);
        let mut hash = Box::new(Xxh3::new());
        let mut held = matches!(self.source, SplitSource::Stream(_)).then(Vec::new);
        loop {
            if self.at == self.filled && !self.fill()? {
                // Ranges of a file that changes meanwhile would belong to different contents.
                self.check_whole()?;
                if self.offset == start {
                    return Ok(None);
                }
                let bytes = self.offset - record_start;
                // An open quote explains a record that is too long, so it is said instead.
                if self.ends.is_quoted() {
                    flaw.get_or_insert(Flaw::Open { at: record_start });
                } else if bytes > self.max_record {
                    flaw.get_or_insert(Flaw::TooLong { at: record_start, bytes });
                }
                break;
            }
            let from = self.at;
            let mut enough = false;
            while !enough && self.at < self.filled {
                let bytes = &self.buffer[self.at..self.filled];
                let Some(count) = self.ends.next(bytes) else {
                    self.go_on(bytes.len());
                    break;
                };
                self.go_on(count);
                // Without its line end, which may be CR LF.
                let bytes = self.offset - record_start - 1;
                if bytes > self.max_record + 1 {
                    flaw.get_or_insert(Flaw::TooLong { at: record_start, bytes });
                }
                record_start = self.offset;
                enough = self.offset - start >= self.size;
            }
            // Hashed while the bytes are here: the hash names the range, and the file is read only
            // once.
            hash.update(&self.buffer[from..self.at]);
            // Of a record that is too long nobody gets the bytes.
            if flaw.is_some() || self.offset - record_start > self.max_record + 2 {
                held = held.map(|_| Vec::new());
            } else if let Some(held) = &mut held {
                held.extend_from_slice(&self.buffer[from..self.at]);
            }
            if enough {
                break;
            }
        }
        let range = Range { whole: self.whole.clone(), start, end: self.offset, hash: hash.digest128(), held: held.map(HeldBytes::from) };
        let limit = units::show_size(self.max_record);
        Ok(Some(match flaw {
            None => Record::range(place, range),
            Some(Flaw::TooLong { at, bytes }) => {
                let hint = if self.ends.quotes.is_some() { ", is a quote left open there?" } else { "" };
                let reason = format!(
                    ": the record at byte {at} is longer than {limit} ({} bytes){hint}; --max-record raises the limit",
                    units::show_count(bytes)
                );
                Record::bad_range(place, &range, &reason)
            }
            Some(Flaw::Open { at }) => {
                let reason = format!(": in the record at byte {at} a quote is left open until the end of the file");
                Record::bad_range(place, &range, &reason)
            }
        }))
    }

    fn go_on(&mut self, count: usize) {
        self.at += count;
        self.offset += count as u64;
    }

    /// Reads on; false at the end. What was added since the file was opened is not read.
    fn fill(&mut self) -> io::Result<bool> {
        let left = self.whole.len - self.offset;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
        self.at = 0;
        self.filled = loop {
            let buffer = &mut self.buffer[..most];
            let read = match &mut self.source {
                SplitSource::File(file) => file.read(buffer),
                SplitSource::Stream(stream) => stream.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if self.filled == 0 && left > 0 && matches!(self.source, SplitSource::File(_)) {
            return Err(changed());
        }
        Ok(self.filled > 0)
    }

    /// That the file is still what it was when its first range was cut.
    fn check_whole(&self) -> io::Result<()> {
        match &self.source {
            SplitSource::File(file) if !self.whole.is(&file.metadata()?) => Err(changed()),
            SplitSource::File(_) | SplitSource::Stream(_) => Ok(()),
        }
    }
}

fn changed() -> io::Error {
    io::Error::other("it has changed while it was cut into ranges")
}

/// Finds the ends of records in bytes that come in pieces.
struct RecordEnds {
    end: u8,
    quotes: Option<Quotes>,
    /// In the middle of a record.
    within: bool,
}

impl RecordEnds {
    fn new(format: Format) -> Self {
        let quotes = match format {
            Format::Csv => Some(Quotes::new(b',')),
            Format::Tsv => Some(Quotes::new(b'\t')),
            _ => None,
        };
        Self { end: if format == Format::Nul { 0 } else { b'\n' }, quotes, within: false }
    }

    /// Returns the number of these bytes that belong to the present record, its end included;
    /// `None` if it goes on behind them.
    fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut from = 0;
        loop {
            let end = memchr::memchr(self.end, &bytes[from..]);
            if let Some(quotes) = &mut self.quotes {
                let piece = &bytes[from..end.map_or(bytes.len(), |end| from + end)];
                // Most lines have no quote, and then nothing changes, unless the record goes on
                // behind these bytes.
                if self.within || end.is_none() || memchr::memchr(b'"', piece).is_some() {
                    quotes.feed(piece);
                }
            }
            let Some(end) = end else {
                self.within = true;
                return None;
            };
            from += end + 1;
            if self.is_quoted() {
                self.within = true;
                continue;
            }
            self.within = false;
            if let Some(quotes) = &mut self.quotes {
                quotes.begin();
            }
            return Some(from);
        }
    }

    fn is_quoted(&self) -> bool {
        self.quotes.as_ref().is_some_and(Quotes::is_inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Origin, Unit};
    use std::path::PathBuf;

    fn place() -> Place {
        Place { seq: 1, line: 1, origin: Arc::new(Origin { name: "f".into(), unit: Unit::Range }) }
    }

    fn file(dir: &tempfile::TempDir, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).expect("writes");
        path
    }

    fn ranges(splitter: &mut Splitter) -> Vec<Record> {
        std::iter::from_fn(|| splitter.next(place()).expect("reads")).collect()
    }

    /// Start and end of each range; a bad one as its message.
    fn cut(bytes: impl AsRef<[u8]>, format: Format, header: bool, size: u64, max: usize) -> Vec<Result<(u64, u64), String>> {
        let dir = tempfile::tempdir().expect("a directory");
        let mut splitter = Splitter::open(&file(&dir, bytes), format, header, size, max).expect("opens");
        let shown = |record: &Record| match record.as_range() {
            Some(range) => Ok((range.start, range.end)),
            None => Err(record.check().expect_err("bad").message().to_owned()),
        };
        ranges(&mut splitter).iter().map(shown).collect()
    }

    #[test]
    fn a_range_ends_with_the_record_that_reaches_its_size() {
        let good = |ranges: &[(u64, u64)]| ranges.iter().map(|range| Ok(*range)).collect::<Vec<_>>();
        for (bytes, format, header, size, want) in [
            ("aa\nbb\ncc\n", Format::Lines, true, 1, vec![(0, 3), (3, 6), (6, 9)]),
            ("aa\nbb\ncc\n", Format::Lines, true, 3, vec![(0, 3), (3, 6), (6, 9)]),
            ("aa\nbb\ncc\n", Format::Lines, true, 4, vec![(0, 6), (6, 9)]),
            ("aa\nbb\ncc", Format::Jsonl, true, 4, vec![(0, 6), (6, 8)]),
            ("aa\nbb\ncc", Format::Lines, true, 100, vec![(0, 8)]),
            ("a\nb\0c\n\0", Format::Nul, true, 1, vec![(0, 4), (4, 7)]),
            ("\u{feff}aa\nbb\n", Format::Lines, true, 1, vec![(3, 6), (6, 9)]),
            ("", Format::Lines, true, 1, vec![]),
            // The header is of no range, unless it is none.
            ("h,i\n1,2\n3,4\n", Format::Csv, true, 1, vec![(4, 8), (8, 12)]),
            ("h,i\n1,2\n3,4\n", Format::Csv, false, 1, vec![(0, 4), (4, 8), (8, 12)]),
            ("\r\n\u{feff}h\r\n1\r\n", Format::Csv, true, 1, vec![(8, 11)]),
            ("h,i\n", Format::Csv, true, 1, vec![]),
            ("\"h\n\",i\n1,2\n", Format::Csv, true, 1, vec![(7, 11)]),
            // A newline in quotes ends nothing; a quote inside a field is none.
            ("1,\"a\nb\"\n2,c\n", Format::Csv, false, 1, vec![(0, 8), (8, 12)]),
            ("1,\"a\"\"\n\"\"b\"\n2,c\n", Format::Csv, false, 1, vec![(0, 12), (12, 16)]),
            ("1,5\" pipe\n2,6\"\n", Format::Csv, false, 1, vec![(0, 10), (10, 15)]),
            ("1\t\"a,\n\"\n2,\"\t3\n", Format::Tsv, false, 1, vec![(0, 8), (8, 14)]),
        ] {
            assert_eq!(cut(bytes, format, header, size, 1 << 20), good(&want), "{bytes:?} {size}");
        }
    }

    #[test]
    fn a_range_with_a_bad_record_says_where_it_is() {
        let words = "f range 1: the record at byte 2 is longer than 4B (6 bytes); --max-record raises the limit";
        assert_eq!(cut("a\nbbbbbb\nc\n", Format::Lines, true, 4, 4), [Err(words.to_owned()), Ok((9, 11))]);
        assert_eq!(cut("aaaa\r\nbbbb\n", Format::Lines, true, 1, 4), [Ok((0, 6)), Ok((6, 11))]);
        let words = "f range 1: in the record at byte 4 a quote is left open until the end of the file";
        assert_eq!(cut("1,2\n3,\"4\n5,6\n", Format::Csv, false, 100, 100), [Err(words.to_owned())]);
    }

    #[test]
    fn a_key_is_of_the_place_and_of_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = |bytes: &str| {
            let mut splitter = Splitter::open(&file(&dir, bytes), Format::Lines, true, 3, 100).expect("opens");
            ranges(&mut splitter).iter().map(Record::key).collect::<Vec<_>>()
        };
        let (one, two) = (keys("aa\naa\ncc\n"), keys("aa\nab\ncc\n"));
        assert_ne!(one[0], one[1], "the same bytes elsewhere");
        assert_eq!((one[0], one[2]), (two[0], two[2]));
        assert_ne!(one[1], two[1], "other bytes in the same place");
    }

    #[test]
    fn a_range_is_read_as_it_was_cut_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(&dir, "h,i\n1,2\n3,4\n");
        let mut splitter = Splitter::open(&path, Format::Csv, true, 4, 100).expect("opens");
        let cut = ranges(&mut splitter);
        let read = |record: &Record| {
            let mut text = String::new();
            let mut reader = record.as_range().expect("a range").open().expect("opens");
            reader.read_to_string(&mut text).map(|_| text).map_err(|error| error.to_string())
        };
        assert_eq!(read(&cut[1]).expect("reads"), "h,i\n3,4\n", "behind the header");
        std::fs::write(&path, "h,i\n1,2\n3,5\n").expect("writes");
        assert_eq!(read(&cut[0]).expect("what did not change is still there"), "h,i\n1,2\n");
        assert!(read(&cut[1]).expect_err("changed").ends_with("has changed since it was cut into ranges"));
        std::fs::write(&path, "h,i\n1,2\n3").expect("writes");
        assert!(read(&cut[1]).expect_err("shorter").ends_with("has changed since it was cut into ranges"));
        assert!(cut[0].as_range().expect("a range").check_unchanged().is_err());
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_cut_ends_the_input() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(&dir, "a\n".repeat(BUFFER));
        let mut splitter = Splitter::open(&path, Format::Lines, true, BUFFER as u64, 100).expect("opens");
        assert!(splitter.next(place()).expect("reads").is_some());
        std::fs::write(&path, "a\n").expect("writes");
        assert!(splitter.next(place()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn ranges_cover_the_file_and_hold_the_rows_that_the_csv_crate_finds(
            fields in proptest::collection::vec(proptest::collection::vec("[ab,\"\n]{0,4}", 2), 1..20),
            size in 1_u64..40,
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            fields.iter().for_each(|row| writer.write_record(row).expect("writes"));
            let bytes = writer.into_inner().expect("flushes");
            let mut found = Vec::new();
            let mut at = 0;
            for range in cut(&bytes, Format::Csv, false, size, 1000) {
                let (start, end) = range.expect("good");
                proptest::prop_assert_eq!(start, at);
                at = end;
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&bytes[start as usize..end as usize]);
                found.extend(reader.records().map(|row| row.expect("UTF-8").iter().map(str::to_owned).collect::<Vec<_>>()));
            }
            proptest::prop_assert_eq!(at, bytes.len() as u64);
            proptest::prop_assert_eq!(found, fields);
        }
    }
}
