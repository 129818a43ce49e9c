//! Records that ended badly: counted by error, and told where that is asked for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use longshore_brokers::kafka;
use longshore_core::{Finished, Word};

use crate::progress::{Voice, text};

/// Kinds of errors that are counted apart; beyond, they are `other`.
const KINDS: usize = 50;
/// Lines that wait to be told.
const WAITING: usize = 10_000;

/// What became of records, told from the engine.
#[derive(Default)]
pub(super) struct Fates {
    voice: Voice,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kinds: BTreeMap<String, u64>,
    lines: Vec<String>,
}

impl Fates {
    pub(super) fn new(voice: Voice) -> Self {
        Self { voice, inner: Mutex::default() }
    }

    /// A record has ended for good.
    pub(super) fn ended<R>(&self, finished: &Finished<kafka::Record, R>) {
        let word = finished.outcome.word();
        if matches!(word, Word::Ok | Word::Skipped | Word::Cancelled) && !self.voice.tells(word) {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(word, Word::Ok | Word::Skipped | Word::Cancelled) {
            let kind = finished.outcome.class().map_or_else(
                || word.as_str().to_owned(),
                |(kind, code)| match code {
                    Some(code) => format!("{kind} {code}"),
                    None => kind.to_owned(),
                },
            );
            let known = inner.kinds.contains_key(&kind) || inner.kinds.len() < KINDS;
            *inner.kinds.entry(if known { kind } else { "other".to_owned() }).or_default() += 1;
        }
        if self.voice.tells(word) && inner.lines.len() < WAITING {
            let place = finished.task.payload.as_ref().map_or_else(String::new, ToString::to_string);
            let why = finished.outcome.error().map_or_else(String::new, |error| format!(": {}", error.to_string().escape_debug()));
            inner.lines.push(format!(
                " {place} {} in {}   attempt {}{why}",
                word.as_str(),
                text::short(finished.run()),
                finished.task.attempt
            ));
        }
    }

    /// What is to be told now.
    pub(super) fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).lines)
    }

    /// `31 exit 1   5 timeout`, the most frequent first.
    pub(super) fn by_error(&self) -> Vec<(String, u64)> {
        let mut kinds: Vec<_> = self.inner.lock().unwrap_or_else(PoisonError::into_inner).kinds.clone().into_iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds
    }
}
