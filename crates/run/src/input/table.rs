//! Rows of CSV and TSV.
//!
//! Where a row ends is found here, so that a row has its raw text, its line and a bound on its
//! length; what its fields are says the csv crate. Both must agree on quotes, which a property test
//! holds against the csv crate reading the whole text.

use super::cut::{Cutter, Long, Passing, Stop};
use crate::record::Columns;
use std::{
    io::{self, Read},
    sync::Arc,
};

/// Reads rows.
pub(super) struct Table {
    cutter: Cutter,
    delimiter: u8,
    max: usize,
    row: Vec<u8>,
    line: u64,
    fields: FieldReader,
    columns: Option<Arc<Columns>>,
    /// The first row of a table without a header: it was needed to count the columns.
    first: Option<u64>,
}

/// One row.
pub(super) enum Row<'a> {
    Whole {
        line: u64,
        raw: &'a [u8],
        fields: csv::ByteRecord,
        columns: Arc<Columns>,
    },
    TooLong {
        line: u64,
        long: Long,
    },
    /// A quote is open until the end of the input.
    Open {
        line: u64,
        raw: &'a [u8],
    },
}

/// Result of cutting once. A row itself is in `Table::row`.
enum Next {
    Row { line: u64 },
    TooLong { line: u64, long: Long },
    Open { line: u64 },
    Eof,
}

impl Table {
    pub(super) fn new(reader: Box<dyn Read + Send>, delimiter: u8, max: usize) -> Self {
        let cutter = Cutter::new(reader, b'\n', max);
        Self { cutter, delimiter, max, row: Vec::new(), line: 0, fields: FieldReader::new(delimiter), columns: None, first: None }
    }

    /// Reads the header, or the first row of a table without one, and says the columns; `None` for
    /// an empty table. To be called once, first.
    pub(super) fn columns(&mut self, header: bool) -> io::Result<Option<Arc<Columns>>> {
        match self.read()? {
            Next::Eof => return Ok(None),
            Next::Open { line } => {
                let message = format!("a quote is left open in the row at line {line}, so the columns are unknown");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Next::TooLong { line, long } => {
                let message =
                    format!("the row at line {line} is longer than --max-record ({} bytes), so the columns are unknown", long.bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Next::Row { line } => {
                let fields = self.fields.split(&self.row)?;
                let columns = if header {
                    Columns::named(fields.iter().map(|name| String::from_utf8_lossy(name)))
                } else {
                    self.first = Some(line);
                    Columns::unnamed(fields.len())
                };
                self.columns = Some(Arc::new(columns));
            }
        }
        Ok(self.columns.clone())
    }

    /// The last line that was read.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row<'_>>> {
        let read = match self.first.take() {
            Some(line) => Next::Row { line },
            None => self.read()?,
        };
        match (read, &self.columns) {
            (Next::TooLong { line, long }, _) => Ok(Some(Row::TooLong { line, long })),
            (Next::Open { line }, _) => Ok(Some(Row::Open { line, raw: &self.row })),
            (Next::Row { line }, Some(columns)) => {
                let fields = self.fields.split(&self.row)?;
                Ok(Some(Row::Whole { line, raw: &self.row, fields, columns: columns.clone() }))
            }
            // Without columns the table is empty.
            (Next::Eof, _) | (Next::Row { .. }, None) => Ok(None),
        }
    }

    /// Reads the next row that is not empty into `self.row`, without its line end.
    fn read(&mut self) -> io::Result<Next> {
        self.row.clear();
        // One row of many megabytes must not hold its memory to the end of the run.
        self.row.shrink_to(1 << 20);
        let mut line = self.line + 1;
        let mut quotes = Quotes::new(self.delimiter);
        let mut passing: Option<Passing> = None;
        loop {
            let from = self.row.len();
            // Two more than allowed: one shows that the row is too long, the other may be the CR of
            // its line end.
            let most = (self.max.saturating_add(2) - from.min(self.max)).max(1);
            let stop = self.cutter.read(&mut self.row, most)?;
            if from == 0 && passing.is_none() && self.row.is_empty() && stop == Stop::Eof {
                return Ok(Next::Eof);
            }
            // Some programs write a byte order mark; it would become part of the first column's
            // name.
            if self.line == 0 && from == 0 && self.row.starts_with(b"\xef\xbb\xbf") {
                self.row.drain(..3);
            }
            // Most lines have no quote, and then nothing changes, unless the next piece goes on in
            // the middle of a field.
            let fresh = &self.row[from..];
            if fresh.contains(&b'"') || stop == Stop::Most || passing.is_some() {
                quotes.feed(fresh);
            }
            let goes_on = stop == Stop::Most || stop == Stop::End && quotes.inside;
            if stop == Stop::End {
                self.line += 1;
                // The cutter took the line end off, but inside quotes it belongs to the field.
                if goes_on {
                    self.row.push(b'\n');
                }
            }
            if stop == Stop::Eof && self.row.len() > from {
                self.line += 1;
            }
            // A row that is too long is hashed and counted while it goes by, and not held.
            if let Some(passing) = &mut passing {
                passing.add(&self.row[from..]);
                self.row.clear();
            } else if self.row.len() - usize::from(!goes_on && self.row.ends_with(b"\r")) > self.max {
                passing = Some(Passing::new(&self.row));
                self.row.clear();
                self.row.shrink_to(1 << 20);
            }
            if goes_on {
                continue;
            }
            if let Some(passing) = passing {
                return Ok(Next::TooLong { line, long: passing.end() });
            }
            if quotes.inside {
                return Ok(Next::Open { line });
            }
            if self.row.ends_with(b"\r") {
                self.row.pop();
            }
            if !self.row.is_empty() {
                return Ok(Next::Row { line });
            }
            if stop == Stop::Eof {
                return Ok(Next::Eof);
            }
            line = self.line + 1;
            quotes = Quotes::new(self.delimiter);
        }
    }
}

/// Follows the quotes of a row, to know whether a place is inside them: a quote opens only at the
/// start of a field, and a doubled one inside is a quote.
pub(super) struct Quotes {
    delimiter: u8,
    inside: bool,
    /// At the start of a field, outside quotes.
    start: bool,
    /// The last byte was a quote that closed, or the first half of a doubled one.
    closed: bool,
}

impl Quotes {
    pub(super) fn new(delimiter: u8) -> Self {
        Self { delimiter, inside: false, start: true, closed: false }
    }

    /// At the start of a row.
    pub(super) fn begin(&mut self) {
        *self = Self::new(self.delimiter);
    }

    pub(super) fn is_inside(&self) -> bool {
        self.inside
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.inside {
                if *byte == b'"' {
                    self.inside = false;
                    self.closed = true;
                }
            } else if *byte == self.delimiter {
                self.start = true;
                self.closed = false;
            } else {
                self.inside = *byte == b'"' && (self.start || self.closed);
                self.start = false;
                self.closed = false;
            }
        }
    }
}

/// The csv crate, fed one row at a time. Making a reader for each row would cost more than reading
/// it.
struct FieldReader {
    reader: csv::Reader<Slot>,
    delimiter: u8,
}

impl FieldReader {
    fn new(delimiter: u8) -> Self {
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(Slot::default());
        Self { reader, delimiter }
    }

    fn split(&mut self, row: &[u8]) -> io::Result<csv::ByteRecord> {
        let slot = self.reader.get_mut();
        slot.row.clear();
        slot.row.extend_from_slice(row);
        slot.row.push(b'\n');
        slot.given = 0;
        let mut fields = csv::ByteRecord::new();
        self.reader.read_byte_record(&mut fields).map_err(io::Error::other)?;
        if self.reader.is_done() {
            // It asked for more than the row. A reader that has seen the end reads no more, so
            // there must be a new one.
            *self = Self::new(self.delimiter);
        }
        Ok(fields)
    }
}

/// Gives the row that was put in, once.
#[derive(Default)]
struct Slot {
    row: Vec<u8>,
    given: usize,
}

impl Read for Slot {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = (&self.row[self.given..]).read(into)?;
        self.given += count;
        Ok(count)
    }
}
