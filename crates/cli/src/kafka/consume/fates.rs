//! Records that ended badly: counted by error, with what the first of each kind ended of.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, PoisonError},
};

use longshore_brokers::mask_text;
use longshore_core::{Finished, TaskError, Word};
use longshore_kafka as kafka;
use serde_json::{Value as Json, json};

use crate::{
    progress::{Voice, text},
    queue::show::{cut, plain},
};

/// Most kinds of errors that are counted apart; those beyond are `other`.
const KINDS: usize = 50;
/// Most lines that wait to be told.
const WAITING: usize = 10_000;
/// Most characters of a message.
const MESSAGE: usize = 300;

/// Records that ended, told from the engine.
#[derive(Default)]
pub(super) struct Fates {
    voice: Voice,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kinds: BTreeMap<String, Failures>,
    /// First of their kind, not told yet.
    firsts: Vec<Failures>,
    lines: Vec<String>,
}

/// Records that failed for good with one kind of error.
#[derive(Clone, Debug)]
pub(super) struct Failures {
    pub(super) kind: String,
    pub(super) count: u64,
    /// Its first record: `orders[3]@17`.
    first: String,
    attempt: u32,
    /// The error of that one, with its secrets hidden, cut.
    message: String,
}

impl Failures {
    /// Says what the first one failed of.
    pub(super) fn sentence(&self) -> String {
        let Self { first, attempt, message, .. } = self;
        let times = if *attempt > 1 { format!(" after {attempt} attempts") } else { String::new() };
        format!("{first} failed for good{times}: {message}")
    }

    /// Writes it as an object.
    pub(super) fn json(&self) -> Json {
        json!({ "error": self.kind, "count": self.count, "first": self.first, "attempts": self.attempt, "message": self.message })
    }
}

/// Returns an error's text on one line, with the last line that was said before it, without secrets
/// and cut.
fn shown(error: &TaskError) -> String {
    let mut text = error.to_string();
    if let Some(last) = error.tail().and_then(|tail| tail.lines().rfind(|line| !line.trim().is_empty())) {
        text += &format!("; said last: {last}");
    }
    // Cut first at a length that no time is lost with, and again when it is masked.
    cut(&plain(&mask_text(&cut(&text, 10 * MESSAGE)).replace('\n', " ")), MESSAGE)
}

impl Fates {
    pub(super) fn new(voice: Voice) -> Self {
        Self { voice, inner: Mutex::default() }
    }

    /// Takes in a record that has ended for good.
    pub(super) fn ended<R>(&self, finished: &Finished<kafka::Record, R>) {
        let word = finished.outcome.word();
        let well = matches!(word, Word::Ok | Word::Skipped | Word::Cancelled);
        if well && !self.voice.tells(word) {
            return;
        }
        let place = || finished.task.payload.as_ref().map_or_else(String::new, ToString::to_string);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !well {
            let kind = finished.outcome.class().map_or_else(
                || word.as_str().to_owned(),
                |(kind, code)| match code {
                    Some(code) => format!("{kind} {code}"),
                    None => kind.to_owned(),
                },
            );
            let known = inner.kinds.contains_key(&kind) || inner.kinds.len() < KINDS;
            let kind = if known { kind } else { "other".to_owned() };
            if let Some(failures) = inner.kinds.get_mut(&kind) {
                failures.count += 1;
            } else {
                let message = finished.outcome.error().map_or_else(|| word.as_str().to_owned(), |error| shown(&error));
                let first = Failures { kind: kind.clone(), count: 1, first: place(), attempt: finished.task.attempt, message };
                inner.firsts.push(first.clone());
                inner.kinds.insert(kind, first);
            }
        }
        if self.voice.tells(word) && inner.lines.len() < WAITING {
            let why = finished.outcome.error().map_or_else(String::new, |error| format!(": {}", shown(&error)));
            inner.lines.push(format!(
                " {} {} in {}   attempt {}{why}",
                place(),
                word.as_str(),
                text::short(finished.run()),
                finished.task.attempt
            ));
        }
    }

    /// Takes the lines that are to be told now.
    pub(super) fn told(&self) -> Vec<String> {
        mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).lines)
    }

    /// Takes what failed since the last call in a way that is new.
    pub(super) fn firsts(&self) -> Vec<Failures> {
        mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).firsts)
    }

    /// Returns each kind, the most frequent first.
    pub(super) fn by_error(&self) -> Vec<Failures> {
        let mut kinds: Vec<_> = self.inner.lock().unwrap_or_else(PoisonError::into_inner).kinds.values().cloned().collect();
        kinds.sort_by_key(|failures| std::cmp::Reverse(failures.count));
        kinds
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::TaskError;

    use super::{Failures, MESSAGE, shown};

    #[test]
    fn an_error_is_shown_on_one_line_without_secrets_and_cut() {
        for (error, want) in [
            ("no such field", "invalid: no such field"),
            ("two\nlines\u{1b}[2J", "invalid: two lines\u{fffd}[2J"),
            ("GET https://me:hush@host/?token=hush failed", "invalid: GET https://me:***@host/?token=*** failed"),
        ] {
            assert_eq!(shown(&TaskError::invalid(error)), want);
        }
        let said = TaskError::new("exit", "exit status 3").with_code(3).with_tail("first\nAPI_TOKEN=hush is wrong\n \n");
        assert_eq!(shown(&said), "exit 3: exit status 3; said last: API_TOKEN=*** is wrong");
        let long = shown(&TaskError::invalid("x".repeat(1 << 20)));
        assert!(long.chars().count() == MESSAGE + 1 && long.ends_with('…'), "{} characters", long.chars().count());
        // What is masked is what is shown: a cut leaves no half of a secret's name behind.
        let cut = shown(&TaskError::invalid(format!("{} password=hush", "x".repeat(MESSAGE))));
        assert!(!cut.contains("hush"), "{cut}");
    }

    #[test]
    fn a_failure_says_which_record_it_was_and_how_often_it_was_tried() {
        let mut failures = Failures {
            kind: "exit 3".to_owned(),
            count: 2,
            first: "orders[3]@17".to_owned(),
            attempt: 1,
            message: "exit 3: no".to_owned(),
        };
        assert_eq!(failures.sentence(), "orders[3]@17 failed for good: exit 3: no");
        failures.attempt = 5;
        assert_eq!(failures.sentence(), "orders[3]@17 failed for good after 5 attempts: exit 3: no");
        assert_eq!(failures.json()["first"], "orders[3]@17");
    }
}
