//! What to read and how, and why it cannot be.

use super::count_records;
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The default of `--max-record`.
pub const MAX_RECORD: usize = 16 << 20;

/// Rule by which an input is cut into records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// By the file's extension: `.jsonl`, `.ndjson`, `.csv`, `.tsv`, else lines. Standard input is
    /// lines, or JSON Lines if its first byte is `{`.
    #[default]
    Auto,
    /// A record is a line.
    Lines,
    /// A record is a line with a JSON value.
    Jsonl,
    /// Fields with commas between, quoted where needed.
    Csv,
    /// Fields with tabs between, quoted where needed.
    Tsv,
    /// A record ends with NUL, as of `find -print0`.
    Nul,
}

impl Format {
    pub(super) fn of_path(path: &Path) -> Self {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("jsonl" | "ndjson") => Self::Jsonl,
            Some("csv") => Self::Csv,
            Some("tsv") => Self::Tsv,
            _ => Self::Lines,
        }
    }

    /// The name, as `--format` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Lines => "lines",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Nul => "nul",
        }
    }

    pub(super) fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Lines, Self::Jsonl, Self::Csv, Self::Tsv, Self::Nul];
        all.into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| format!("`{text}` is no format: use auto, lines, jsonl, csv, tsv or nul"))
    }
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, a named pipe or a device.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// The words behind `:::`, each a record.
    Words(Vec<OsString>),
}

impl Source {
    /// The source that a word of the command line means: `-` is standard input, anything else a
    /// file.
    pub fn of_word(word: impl Into<PathBuf>) -> Self {
        let path = word.into();
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path) }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "stdin".into(),
            Self::Words(_) => "the words after :::".into(),
        }
    }
}

/// Inputs of a run, and how they are read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The inputs, read one after the other.
    pub sources: Vec<Source>,
    /// The format of all of them.
    pub format: Format,
    /// The first row of each table names its columns.
    pub header: bool,
    /// Number of records to pass over.
    pub skip: u64,
    /// The most records to give after those; `None` for all.
    pub take: Option<u64>,
    /// The most bytes of a record.
    pub max_record: usize,
    /// Ranges of about so many bytes are the records, instead of what is in them.
    pub split: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { sources: Vec::new(), format: Format::Auto, header: true, skip: 0, take: None, max_record: MAX_RECORD, split: None }
    }
}

impl Options {
    /// About how many records there will be: `None` unless every input is a regular file or a list
    /// of words. Counts line ends, so empty lines and quoted ones are counted too. Reads all files
    /// once; meant for a thread beside the run.
    pub fn estimate(&self) -> Option<u64> {
        let mut total: u64 = 0;
        for source in &self.sources {
            total += match source {
                Source::File(path) if let Some(size) = self.split => path.metadata().ok()?.len().div_ceil(size.max(1)),
                Source::File(path) => {
                    let format = if self.format == Format::Auto { Format::of_path(path) } else { self.format };
                    let header = u64::from(self.header && format.is_table());
                    count_records(std::slice::from_ref(path), format)?.saturating_sub(header)
                }
                Source::Words(words) => words.len() as u64,
                Source::Stdin => return None,
            };
        }
        let rest = total.saturating_sub(self.skip);
        Some(self.take.map_or(rest, |take| rest.min(take)))
    }
}

/// Reason why the input cannot be read, or not in this way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A file that cannot be opened.
    #[error("cannot open {}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// A directory.
    #[error("{} is a directory: name the files in it, as in {}/*.jsonl, or pipe a list of them in", path.display(), path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Reading failed midway.
    #[error("cannot read {name} after line {line}: {cause}")]
    Read {
        /// The input.
        name: String,
        /// The last line that was read.
        line: u64,
        /// The system's error.
        cause: io::Error,
    },
    /// Cutting a file into ranges failed midway.
    #[error("cannot read {name} after range {range}: {cause}")]
    Cut {
        /// The input.
        name: String,
        /// The last range that was cut.
        range: u64,
        /// The system's error, or one that says that the file has changed.
        cause: io::Error,
    },
    /// Inputs whose extensions mean different formats.
    #[error(
        "{first} is {} and {second} is {}: all inputs must have one format; name it with --format", first_format.name(), second_format.name()
    )]
    MixedFormats {
        /// One input.
        first: String,
        /// Its format.
        first_format: Format,
        /// Another input.
        second: String,
        /// The format of that one.
        second_format: Format,
    },
    /// Tables with different headers.
    #[error(
        "{second} has other columns than {first}:{}{}; run them apart, or bring them to the same columns",
        listed("missing", missing),
        listed("more", more)
    )]
    MixedColumns {
        /// The first table.
        first: String,
        /// The one that differs.
        second: String,
        /// Columns of the first that the second lacks.
        missing: Vec<String>,
        /// Columns that only the second has.
        more: Vec<String>,
    },
    /// Standard input twice.
    #[error("standard input can be read only once: name - only once")]
    StdinTwice,
    /// Words with a format that words cannot have.
    #[error("words after ::: cannot be read as {}: use --format lines or jsonl, or put them into a file", format.name())]
    Words {
        /// The format.
        format: Format,
    },
    /// A file that cannot be read in ranges.
    #[error("--split {name}: {reason}")]
    Split {
        /// The input.
        name: String,
        /// The reason, and what to do.
        reason: String,
    },
}

fn listed(what: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" {what} {}", names.join(", ")) }
}

impl InputError {
    /// True if the command line asks for something that cannot be, rather than a file that cannot
    /// be read.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::MixedFormats { .. } | Self::StdinTwice | Self::Words { .. } | Self::Split { .. })
    }
}
