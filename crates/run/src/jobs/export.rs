//! A job's result lines for others: as they are, some of their members, or a table for
//! spreadsheets and for whatever reads the job log of GNU parallel.

use std::{borrow::Cow, io::Write};

use longshore_core::Word;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{JobError, StateDir, each_current};
use crate::{
    journal::{PastError, format::seconds_of},
    output::{Only, dig, push_fields},
};

/// The columns of GNU parallel's job log, in its order and words, and three of ours behind them.
pub const COLUMNS: [&str; 12] =
    ["Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command", "Key", "Outcome", "Error"];

/// Form of what is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportForm {
    /// Result lines.
    #[default]
    Jsonl,
    /// A table, its fields parted by commas.
    Csv,
    /// A table, its fields parted by tabs.
    Tsv,
}

/// Says what is exported of a job.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExportSpec {
    /// Its form.
    pub form: ExportForm,
    /// Only these results.
    pub only: Option<Only>,
    /// Paths into the result line, such as `seq` or `value.status`; of a table also its
    /// [columns](COLUMNS). All columns, or the whole line, where it is empty.
    pub fields: Vec<String>,
}

impl ExportSpec {
    /// Exports all results in this form.
    #[must_use]
    pub fn new(form: ExportForm) -> Self {
        Self { form, ..Self::default() }
    }
}

/// Writes the results of a job, each task's last one; returns how many.
///
/// # Errors
/// When there is no such job, its journal cannot be read, or `out` cannot be written.
pub fn export(state: &StateDir, job: &str, spec: &ExportSpec, out: &mut impl Write) -> Result<u64, JobError> {
    let info = state.find(job)?;
    let broken = |error: std::io::Error| JobError::Io { path: "output".into(), cause: error.to_string() };
    let mut written = 0;
    let wanted = |word: Word| match spec.only {
        None => true,
        Some(Only::Ok) => word == Word::Ok,
        Some(Only::Failed) => word.is_failure(),
    };
    let delimiter = match spec.form {
        ExportForm::Jsonl => None,
        ExportForm::Csv => Some(b','),
        ExportForm::Tsv => Some(b'\t'),
    };
    let Some(delimiter) = delimiter else {
        let mut shown = Vec::new();
        each_current(&info, |word, line| {
            if wanted(word) {
                written += 1;
                if spec.fields.is_empty() {
                    return out.write_all(line);
                }
                shown.clear();
                push_fields(&mut shown, line, &spec.fields);
                out.write_all(&shown)?;
            }
            Ok(())
        })?;
        out.flush().map_err(broken)?;
        return Ok(written);
    };
    let fields: Vec<&str> = if spec.fields.is_empty() { COLUMNS.to_vec() } else { spec.fields.iter().map(|field| column(field)).collect() };
    let mut table = csv::WriterBuilder::new().delimiter(delimiter).from_writer(&mut *out);
    table.write_record(&fields).map_err(|error| broken(error.into()))?;
    each_current(&info, |word, line| {
        if wanted(word) {
            written += 1;
            table.write_record(row(line, word, &fields))?;
        }
        Ok(())
    })?;
    table.flush().map_err(broken)?;
    Ok(written)
}

/// Returns the column of this name, however it is written; else the path that it is.
fn column(field: &str) -> &str {
    COLUMNS.into_iter().find(|column| column.eq_ignore_ascii_case(field)).unwrap_or(field)
}

/// Parts of a result line that columns are made of.
#[derive(Deserialize)]
struct JobLine<'a> {
    seq: u64,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    task: &'a RawValue,
    #[serde(default)]
    run_ms: u64,
    #[serde(borrow)]
    started: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    error: Option<PastError>,
    #[serde(borrow)]
    out: Option<Cow<'a, str>>,
    #[serde(borrow)]
    out_latin1: Option<Cow<'a, str>>,
    spool: Option<JobSpool>,
}

/// Output beside the journal, because it is long.
#[derive(Deserialize)]
struct JobSpool {
    bytes: u64,
}

/// The part of a command's or a request's value that says how much came.
#[derive(Deserialize)]
struct JobValue<'a> {
    #[serde(borrow)]
    stdout: Option<Cow<'a, str>>,
    bytes: Option<u64>,
}

/// Returns the fields of a result line. What it does not have is empty.
fn row(line: &[u8], word: Word, fields: &[&str]) -> Vec<String> {
    let text = std::str::from_utf8(line).unwrap_or("null");
    let read = serde_json::from_str::<JobLine<'_>>(text).ok();
    let of = |field: &&str| match (COLUMNS.contains(field), &read) {
        (true, Some(line)) => line.column(field, word),
        (true, None) => String::new(),
        (false, _) => dig(text, field).map(text_of).unwrap_or_default(),
    };
    fields.iter().map(of).collect()
}

impl JobLine<'_> {
    fn column(&self, name: &str, word: Word) -> String {
        match name {
            "Seq" => self.seq.to_string(),
            // GNU parallel's word for this machine.
            "Host" => ":".to_owned(),
            "Starttime" => self.started.as_ref().and_then(|at| seconds_of(at)).map_or_else(String::new, |at| format!("{at:.3}")),
            "JobRuntime" => format!("{}.{:03}", self.run_ms / 1_000, self.run_ms % 1_000),
            "Send" => "0".to_owned(),
            "Receive" => self.received().to_string(),
            "Exitval" => match &self.error {
                None => "0".to_owned(),
                Some(error) if error.kind == "exit" => error.code.unwrap_or(-1).to_string(),
                Some(error) if error.kind == "signal" => "0".to_owned(),
                // No exit at all: a timeout, a record that is malformed.
                Some(_) => "-1".to_owned(),
            },
            "Signal" => self.error.as_ref().filter(|error| error.kind == "signal").and_then(|error| error.code).unwrap_or(0).to_string(),
            "Command" => text_of(self.task.get()),
            "Key" => self.key.to_string(),
            "Outcome" => word.as_str().to_owned(),
            _ => self.error.as_ref().map_or_else(String::new, |error| format!("{}: {}", error.class(), error.message)),
        }
    }

    /// Returns how many bytes the task wrote to stdout, or its answer had.
    fn received(&self) -> u64 {
        let value = self.value.and_then(|value| serde_json::from_str::<JobValue<'_>>(value.get()).ok());
        let of_value = value.and_then(|value| value.bytes.or(value.stdout.map(|text| text.len() as u64)));
        let raw = self.out.as_ref().map(|text| text.len() as u64);
        // One character for each byte.
        let raw = raw.or(self.out_latin1.as_ref().map(|text| text.chars().count() as u64));
        let rest = self.spool.as_ref().map_or(0, |spool| spool.bytes);
        raw.or(of_value).unwrap_or(0) + rest
    }
}

/// Returns a JSON value as a field has it: a text without its quotes, all else as JSON.
fn text_of(json: &str) -> String {
    match serde_json::from_str::<String>(json) {
        Ok(text) => text,
        Err(_) if json == "null" => String::new(),
        Err(_) => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_row_and_what_it_does_not_have_is_empty() {
        let head = r#"{"job":"a","seq":7,"key":"9c1e","task":"a\tb","outcome":"#;
        let rest = r#""attempts":1,"wait_ms":0,"run_ms":1234,"started":"2026-11-21T12:00:00.250Z","slot":1"#;
        for (outcome, word, more, fields, want) in [
            (
                "ok",
                Word::Ok,
                r#""value":{"exit":0,"stdout":"hello","cpu_ms":1}"#,
                &COLUMNS[..],
                "7|:|1795262400.250|1.234|0|5|0|0|a\tb|9c1e|ok|",
            ),
            (
                "failed",
                Word::Failed,
                r#""error":{"kind":"exit","code":3,"message":"exit status 3"}"#,
                &["Exitval", "Signal", "Error", "error.message", "nope"],
                "3|0|exit 3: exit status 3|exit status 3|",
            ),
            ("killed", Word::Killed, r#""error":{"kind":"signal","code":9,"message":"m"}"#, &["Exitval", "Signal"], "0|9"),
            ("timeout", Word::Timeout, r#""error":{"kind":"timeout","message":"m"}"#, &["Exitval", "Signal"], "-1|0"),
            ("ok", Word::Ok, r#""value":null,"out":"é","spool":{"file":"x","bytes":10}"#, &["Receive", "value"], "12|"),
            ("ok", Word::Ok, r#""value":null,"out_latin1":"é""#, &["Receive"], "1"),
            (
                "ok",
                Word::Ok,
                r#""value":{"status":200,"bytes":812}"#,
                &["Receive", "value.status", "value"],
                "812|200|{\"status\":200,\"bytes\":812}",
            ),
            ("ok", Word::Ok, r#""value":5"#, &["Receive", "value"], "0|5"),
        ] {
            let line = format!("{head}\"{outcome}\",{rest},{more}}}\n");
            assert_eq!(row(line.as_bytes(), word, fields).join("|"), want, "{more}");
        }
    }

    #[test]
    fn columns_are_known_however_they_are_written() {
        assert_eq!(["seq", "EXITVAL", "Key", "value.status"].map(column), ["Seq", "Exitval", "Key", "value.status"]);
    }
}
