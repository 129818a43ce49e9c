//! Volume and form of what a run says on stderr: `-q`, `-v`, `--log-format`.

use std::fmt;

use longshore_core::Word;
use longshore_run::{TaskDetail, TaskEnd};
use serde_json::json;

use super::{Mode, text};

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// A JSON object a line, everything else included: progress, summary, errors.
    Json,
}

impl LogFormat {
    /// Parses the flag's word.
    ///
    /// # Errors
    /// A sentence that lists the words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "text" => Self::Text,
            "json" => Self::Json,
            _ => return Err(format!("`{text}` is not a form of log lines; write auto, text or json")),
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Voice of a command: how much is said beside results, and in which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voice {
    /// Below 0: errors alone. 0: progress, notes and the summary. 1: also each task that failed.
    /// From 2 on: each task.
    pub level: i8,
    /// JSON in place of text.
    pub json: bool,
}

impl Voice {
    /// The voice that the flags ask for.
    pub fn new(verbose: u8, quiet: bool, format: LogFormat) -> Self {
        let level = if quiet { -1 } else { i8::try_from(verbose).unwrap_or(i8::MAX) };
        Self { level, json: format == LogFormat::Json }
    }

    /// The form of progress: lines of another form, or a bar, would be no JSON; who wants it quiet
    /// wants none.
    pub fn progress(self, asked: Mode) -> Mode {
        match asked {
            Mode::Auto if self.level < 0 => Mode::None,
            Mode::Auto if self.json => Mode::Json,
            asked => asked,
        }
    }

    /// The form of the summary, unless one was asked for.
    pub fn summary(self) -> Option<&'static str> {
        match self {
            Self { level: ..0, .. } => Some("none"),
            Self { json: true, .. } => Some("json"),
            Self { .. } => None,
        }
    }

    /// A line about the run, if it is to be said.
    pub fn note(self, line: &str) -> Option<String> {
        match self {
            Self { level: ..0, .. } => None,
            Self { json: true, .. } => Some(json!({ "level": "info", "message": line.trim() }).to_string()),
            Self { .. } => Some(line.to_owned()),
        }
    }

    /// A line about what went wrong: always said.
    pub fn error(self, message: &str) -> String {
        if self.json { json!({ "level": "error", "message": message }).to_string() } else { format!("longshore: {message}") }
    }

    /// Returns which tasks are told as they end.
    pub fn tasks(self) -> TaskDetail {
        match self.level {
            ..1 => TaskDetail::None,
            1 => TaskDetail::Failed,
            2.. => TaskDetail::All,
        }
    }

    /// Returns whether a task that ended like this is told.
    pub fn tells(self, word: Word) -> bool {
        self.level >= if word == Word::Ok { 2 } else { 1 }
    }

    /// The line about a task.
    pub fn task(self, ended: &TaskEnd) -> String {
        let TaskEnd { seq, records, word, attempt, run, slot, error } = ended;
        let level = if *word == Word::Ok { "info" } else { "warning" };
        if self.json {
            let run_ms = u64::try_from(run.as_millis()).unwrap_or(u64::MAX);
            let (outcome, attempts) = (word.as_str(), attempt);
            return json!({
                "level": level, "seq": seq, "records": records, "outcome": outcome, "attempts": attempts, "run_ms": run_ms, "slot": slot, "error": error
            })
            .to_string();
        }
        let more = if *records > 1 { format!(" and {} more", records - 1) } else { String::new() };
        let why = error.as_ref().map_or(String::new(), |error| format!(": {}", error.escape_debug()));
        format!(" #{seq}{more} {} in {}   attempt {attempt}   slot {slot}{why}", word.as_str(), text::short(*run))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn flags_choose_what_is_said_and_how() {
        let voice = |verbose, quiet, format: &str| Voice::new(verbose, quiet, LogFormat::parse(format).expect("a form"));
        for (voice, mode, summary, note, tasks) in [
            (voice(0, false, "auto"), Mode::Auto, None, Some(" hi"), TaskDetail::None),
            (voice(0, false, "json"), Mode::Json, Some("json"), Some(r#"{"level":"info","message":"hi"}"#), TaskDetail::None),
            (voice(0, true, "json"), Mode::None, Some("none"), None, TaskDetail::None),
            (voice(3, true, "text"), Mode::None, Some("none"), None, TaskDetail::None),
            (voice(1, false, "text"), Mode::Auto, None, Some(" hi"), TaskDetail::Failed),
            (voice(2, false, "text"), Mode::Auto, None, Some(" hi"), TaskDetail::All),
        ] {
            assert_eq!((voice.progress(Mode::Auto), voice.summary()), (mode, summary), "{voice:?}");
            assert_eq!(voice.note(" hi").as_deref(), note, "{voice:?}");
            assert_eq!(voice.tasks(), tasks, "{voice:?}");
            assert_eq!(voice.progress(Mode::Plain), Mode::Plain, "what was asked for by name");
        }
        assert!(LogFormat::parse("xml").expect_err("no form").contains("auto, text or json"));
    }

    #[test]
    fn a_task_is_told_on_one_line_whatever_its_error_says() {
        let ended = |error: Option<&str>| TaskEnd {
            seq: 7,
            records: 3,
            word: Word::Failed,
            attempt: 2,
            run: Duration::from_millis(412),
            slot: 1,
            error: error.map(str::to_owned),
        };
        let text = Voice::default();
        assert_eq!(text.task(&ended(Some("a\nb"))), " #7 and 2 more failed in 412ms   attempt 2   slot 1: a\\nb");
        let json = Voice { json: true, ..text };
        let want = r#"{"level":"warning","seq":7,"records":3,"outcome":"failed","attempts":2,"run_ms":412,"slot":1,"error":"a\nb"}"#;
        assert_eq!(json.task(&ended(Some("a\nb"))), want);
    }
}
