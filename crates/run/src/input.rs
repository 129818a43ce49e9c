//! The input of a run: files, standard input or words of the command line, cut into records.
//!
//! ```text
//! input.rs            Input: opens one source after the other, numbers and skips records
//! input/options.rs    Options, Source, Format, InputError
//! input/cut.rs        Cutter: pieces up to a line end or NUL, of bounded length, from any reader
//! input/table.rs      Table: rows of CSV and TSV, which may go over several lines
//! input/split.rs      Splitter: byte ranges of a large file, cut at records
//! input/count.rs      about how many records there are, for the progress bar
//! ```
//!
//! Memory is bounded by the longest record that is allowed, whatever is in the files. A bad record
//! is a [`Record`] that says so; only what ends the reading is an [`InputError`].
//!
//! Rules: a line ends with LF or CRLF; a NUL record ends with NUL and keeps everything else. A byte
//! order mark at the start is dropped, except from NUL records. Empty lines and empty NUL records
//! are no records, and neither are lines of spaces in JSON Lines.

mod count;
mod cut;
mod options;
mod split;
mod table;

pub use count::count_records;
pub use options::{Format, InputError, MAX_RECORD, Options, Source};

use super::record::{Columns, Cut, Origin, Place, Record, Unit};
use crate::units;
use cut::{Cutter, Passing, Piece};
use split::Splitter;
use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};
use table::Table;

/// The records of all inputs, one after the other.
///
/// An iterator of `Result<Record, InputError>`; after an error it has ended. Blocks where reading
/// blocks; runs well on a thread of its own.
pub struct Input {
    waiting: VecDeque<Source>,
    reading: Option<Reading>,
    /// Standard input, if its first bytes have been looked at.
    stdin: Option<Box<dyn Read + Send>>,
    format: Format,
    header: bool,
    max_record: usize,
    split: Option<u64>,
    columns: Option<Arc<Columns>>,
    first_table: String,
    seq: u64,
    skip: u64,
    left: u64,
}

/// The source that is being read.
struct Reading {
    origin: Arc<Origin>,
    kind: Kind,
    line: u64,
}

enum Kind {
    Cut(Cutter),
    Table(Box<Table>),
    Split(Box<Splitter>),
    Words(std::vec::IntoIter<OsString>),
}

impl Input {
    /// Opens the inputs and checks what can be checked before anything runs: every file can be
    /// opened, all have one format, and all tables the same columns. Waits for the first byte of
    /// standard input if its format is to be found out, and for the first row of a table.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn open(options: &Options) -> Result<Self, InputError> {
        let sources = &options.sources;
        // All mistakes that can be seen before anything runs are told here, not after hours at the
        // third file.
        if sources.iter().filter(|source| **source == Source::Stdin).count() > 1 {
            return Err(InputError::StdinTwice);
        }
        if options.split.is_some() && !matches!(sources.as_slice(), [Source::File(_) | Source::Stdin]) {
            let name =
                sources.iter().find(|source| matches!(source, Source::Words(_))).or(sources.get(1)).map_or_else(String::new, Source::name);
            return Err(InputError::Split { name, reason: "ranges are of one file or of stdin: name it, and nothing else".to_owned() });
        }
        let mut stdin = None;
        let mut formats: Option<(String, Format)> = None;
        for source in sources {
            let format = match source {
                Source::File(path) => {
                    probe(path)?;
                    Format::of_path(path)
                }
                Source::Stdin if options.format == Format::Auto => {
                    // What was read to find out cannot be read again, so the reader is kept.
                    let (format, reader) =
                        sniff(Box::new(io::stdin())).map_err(|cause| InputError::Read { name: source.name(), line: 0, cause })?;
                    stdin = Some(reader);
                    format
                }
                Source::Stdin | Source::Words(_) => Format::Lines,
            };
            let format = if options.format == Format::Auto { format } else { options.format };
            if matches!(source, Source::Words(_)) && !matches!(format, Format::Lines | Format::Jsonl) {
                return Err(InputError::Words { format });
            }
            // Templates and expressions are compiled for one kind of record.
            match &formats {
                Some((first, first_format)) if *first_format != format => {
                    let (first, first_format) = (first.clone(), *first_format);
                    return Err(InputError::MixedFormats { first, first_format, second: source.name(), second_format: format });
                }
                Some(_) => {}
                None => formats = Some((source.name(), format)),
            }
        }
        let format = formats.map_or(options.format, |(_, format)| format);
        let mut this = Self::new(options, if format == Format::Auto { Format::Lines } else { format });
        this.waiting = sources.iter().cloned().collect();
        this.check_columns(sources)?;
        this.stdin = stdin;
        // The first source is opened now, since the columns of a table decide which fields
        // templates may name.
        this.next_source()?;
        Ok(this)
    }

    /// The records of one reader; `Format::Auto` finds out as for standard input.
    ///
    /// # Errors
    /// Reading failed.
    pub fn from_reader(name: &str, reader: impl Read + Send + 'static, options: &Options) -> Result<Self, InputError> {
        let (format, reader): (_, Box<dyn Read + Send>) = match options.format {
            Format::Auto => sniff(Box::new(reader)).map_err(|cause| InputError::Read { name: name.into(), line: 0, cause })?,
            format => (format, Box::new(reader)),
        };
        let mut this = Self::new(options, format);
        this.begin(name.into(), reader)?;
        Ok(this)
    }

    fn new(options: &Options, format: Format) -> Self {
        Self {
            waiting: VecDeque::new(),
            reading: None,
            stdin: None,
            format,
            header: options.header,
            max_record: options.max_record,
            split: options.split,
            columns: None,
            first_table: String::new(),
            seq: 0,
            skip: options.skip,
            left: options.take.unwrap_or(u64::MAX),
        }
    }

    /// Returns true if its records are ranges of a file.
    pub fn is_split(&self) -> bool {
        self.split.is_some()
    }

    /// The format that was found; never `Auto`.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The columns, if the input is a table with at least one row.
    pub fn columns(&self) -> Option<&Arc<Columns>> {
        self.columns.as_ref()
    }

    /// Reads the headers of all tables that are regular files, so that a table with other columns
    /// is refused before anything runs. Pipes are not touched: what is read of them is gone.
    fn check_columns(&mut self, sources: &[Source]) -> Result<(), InputError> {
        if !self.format.is_table() || !self.header || sources.len() < 2 {
            return Ok(());
        }
        for source in sources {
            if let Source::File(path) = source
                && path.is_file()
            {
                self.begin(source.name(), Box::new(open(path)?))?;
                self.reading = None;
            }
        }
        Ok(())
    }

    /// Goes on to the next source; false if there is none.
    fn next_source(&mut self) -> Result<bool, InputError> {
        match self.waiting.pop_front() {
            None => return Ok(false),
            Some(Source::Words(words)) => {
                let origin = Arc::new(Origin { name: "arguments".into(), unit: Unit::Argument });
                self.reading = Some(Reading { origin, kind: Kind::Words(words.into_iter()), line: 0 });
            }
            Some(Source::Stdin) => {
                let reader = self.stdin.take().unwrap_or_else(|| Box::new(io::stdin()));
                if let Some(size) = self.split {
                    let splitter = Splitter::of_stream("stdin", reader, self.format, self.header, size, self.max_record)?;
                    let origin = Arc::new(Origin { name: "stdin".into(), unit: Unit::Range });
                    self.reading = Some(Reading { origin, kind: Kind::Split(Box::new(splitter)), line: 0 });
                    return Ok(true);
                }
                self.begin("stdin".into(), reader)?;
            }
            Some(Source::File(path)) if let Some(size) = self.split => {
                let splitter = Splitter::open(&path, self.format, self.header, size, self.max_record)?;
                let origin = Arc::new(Origin { name: path.display().to_string().into(), unit: Unit::Range });
                self.reading = Some(Reading { origin, kind: Kind::Split(Box::new(splitter)), line: 0 });
            }
            Some(Source::File(path)) => {
                let file = open(&path)?;
                self.begin(path.display().to_string(), Box::new(file))?;
            }
        }
        Ok(true)
    }

    fn begin(&mut self, name: String, reader: Box<dyn Read + Send>) -> Result<(), InputError> {
        let unit = if self.format == Format::Nul { Unit::Record } else { Unit::Line };
        let origin = Arc::new(Origin { name: name.clone().into(), unit });
        let kind = match self.format {
            Format::Csv | Format::Tsv => {
                let delimiter = if self.format == Format::Csv { b',' } else { b'\t' };
                let mut table = Table::new(reader, delimiter, self.max_record);
                let columns = table.columns(self.header).map_err(|cause| InputError::Read { name: name.clone(), line: 0, cause })?;
                if let Some(columns) = columns {
                    self.same_columns(&name, columns)?;
                }
                Kind::Table(Box::new(table))
            }
            Format::Nul => Kind::Cut(Cutter::new(reader, 0, self.max_record)),
            _ => Kind::Cut(Cutter::new(reader, b'\n', self.max_record)),
        };
        self.reading = Some(Reading { origin, kind, line: 0 });
        Ok(())
    }

    /// Takes the columns of the first table for all. A table with the same names in another order
    /// has its own.
    fn same_columns(&mut self, name: &str, columns: Arc<Columns>) -> Result<(), InputError> {
        let Some(first) = &self.columns else {
            self.first_table = name.into();
            self.columns = Some(columns);
            return Ok(());
        };
        if !first.is_named() {
            return Ok(());
        }
        let without = |these: &Columns, those: &Columns| {
            these.names().iter().filter(|name| !those.names().contains(name)).cloned().collect::<Vec<_>>()
        };
        let (missing, more) = (without(first, &columns), without(&columns, first));
        if missing.is_empty() && more.is_empty() {
            return Ok(());
        }
        Err(InputError::MixedColumns { first: self.first_table.clone(), second: name.into(), missing, more })
    }

    fn end(&mut self) {
        self.reading = None;
        self.waiting.clear();
        self.left = 0;
    }

    fn step(&mut self) -> Result<Option<Record>, InputError> {
        loop {
            let Some(reading) = &mut self.reading else {
                if !self.next_source()? {
                    return Ok(None);
                }
                continue;
            };
            let skipping = self.skip > 0;
            let place = |line: u64| Place { seq: self.seq + 1, line, origin: reading.origin.clone() };
            let failed = |line: u64, cause| InputError::Read { name: reading.origin.name.to_string(), line, cause };
            let record = match &mut reading.kind {
                Kind::Words(words) => words.next().map(|word| {
                    reading.line += 1;
                    let (place, word) = (place(reading.line), word.as_bytes());
                    match self.format {
                        _ if word.len() > self.max_record => too_long(place, Passing::new(word).end(), self.max_record, ""),
                        Format::Jsonl => Record::json(place, word),
                        _ => Record::text(place, word),
                    }
                }),
                Kind::Cut(cutter) => loop {
                    let piece = cutter.next().map_err(|cause| failed(reading.line, cause))?;
                    let Some(piece) = piece else { break None };
                    reading.line += 1;
                    let bytes = match piece {
                        // A record that is too long fails alone: a run must not end because of one
                        // line.
                        Piece::TooLong(long) => break Some(too_long(place(reading.line), long, self.max_record, "")),
                        Piece::Whole(bytes) => match self.format {
                            Format::Nul => bytes,
                            _ => without_line_end(bytes, reading.line == 1),
                        },
                    };
                    let nothing = if self.format == Format::Jsonl { bytes.trim_ascii().is_empty() } else { bytes.is_empty() };
                    if nothing {
                        continue;
                    }
                    // A record that is passed over is not parsed.
                    break Some(match self.format {
                        Format::Jsonl if !skipping => Record::json(place(reading.line), bytes),
                        _ if skipping => Record::text(place(reading.line), b""),
                        _ => Record::text(place(reading.line), bytes),
                    });
                },
                Kind::Split(splitter) => {
                    let range = reading.line;
                    reading.line += 1;
                    let failed = |cause| InputError::Cut { name: reading.origin.name.to_string(), range, cause };
                    splitter.next(place(reading.line)).map_err(failed)?
                }
                Kind::Table(table) => {
                    let line = table.line();
                    let row = table.next().map_err(|cause| failed(line, cause))?;
                    row.map(|row| match row {
                        table::Row::Whole { line, raw, fields, columns } => Record::row(place(line), raw, fields, columns),
                        table::Row::TooLong { line, long } => too_long(place(line), long, self.max_record, ", is a quote left open there?"),
                        table::Row::Open { line, raw } => {
                            Record::bad(place(line), raw, ": a quote is left open until the end of the input", None)
                        }
                    })
                }
            };
            match record {
                None => self.reading = None,
                // It is counted all the same: the places of records are those in the input, skipped
                // ones included.
                Some(_) if skipping => {
                    self.seq += 1;
                    self.skip -= 1;
                }
                Some(record) => {
                    self.seq += 1;
                    return Ok(Some(record));
                }
            }
        }
    }
}

impl Iterator for Input {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // The rest is not read: a pipe's writer may go on for ever.
            self.end();
            return None;
        }
        match self.step() {
            Ok(Some(record)) => {
                self.left -= 1;
                Some(Ok(record))
            }
            Ok(None) => {
                self.end();
                None
            }
            Err(error) => {
                self.end();
                Some(Err(error))
            }
        }
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("format", &self.format).field("seq", &self.seq).finish_non_exhaustive()
    }
}

fn too_long(place: Place, long: cut::Long, limit: usize, hint: &str) -> Record {
    let reason = format!(
        ": longer than {} ({} bytes){hint}; --max-record raises the limit",
        units::show_size(limit as u64),
        units::show_count(long.bytes)
    );
    Record::bad(place, &long.head, &reason, Some(Cut { bytes: long.bytes, key: long.key }))
}

/// A line without CR at its end, and without a byte order mark if it is the first.
fn without_line_end(bytes: &[u8], first: bool) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if first { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes }
}

/// Checks that the file can be read; a pipe is not opened, for its writer would see the reader go
/// away.
fn probe(path: &Path) -> Result<(), InputError> {
    let meta = std::fs::metadata(path).map_err(|cause| InputError::Open { path: path.into(), cause })?;
    if meta.is_dir() {
        return Err(InputError::Directory { path: path.into() });
    }
    if meta.is_file() {
        open(path)?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, InputError> {
    let failed = |cause| InputError::Open { path: path.into(), cause };
    let file = File::open(path).map_err(failed)?;
    // A directory opens like a file, and only reading it fails.
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(InputError::Directory { path: path.into() });
    }
    Ok(file)
}

/// Finds out whether a stream is lines or JSON Lines by its first byte (behind a byte order mark),
/// and gives the stream back whole.
fn sniff(mut reader: Box<dyn Read + Send>) -> io::Result<(Format, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(4);
    // One byte at a time: a person at a terminal may have typed no more than one.
    for mark in [0xef, 0xbb, 0xbf] {
        let before = head.len();
        reader.by_ref().take(1).read_to_end(&mut head)?;
        if head.len() == before || head[before] != mark {
            break;
        }
        if head.len() == 3 {
            reader.by_ref().take(1).read_to_end(&mut head)?;
        }
    }
    let format = if head.last() == Some(&b'{') { Format::Jsonl } else { Format::Lines };
    Ok((format, Box::new(io::Cursor::new(head).chain(reader))))
}

#[cfg(test)]
mod tests;
