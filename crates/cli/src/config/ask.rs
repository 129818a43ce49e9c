//! The question whether a folder's file is trusted: put once for each content of it.

use std::io::{self, BufRead, Write};

use super::{Config, Value, expand, trust::TrustStore};

/// Most settings that are named.
const NAMED: usize = 12;

impl Config {
    /// Returns whether [`ask`](Self::ask) has something to ask.
    #[must_use]
    pub fn has_question(&self) -> bool {
        let Some((path, text)) = &self.undecided else { return false };
        TrustStore::of(&self.vars).is_some_and(|store| !store.has_declined(path, text))
    }

    /// Asks whether the folder's file is trusted, where something in it waits for that and nobody
    /// has answered for this content of it. The answer is kept: yes lets it in, no is not asked
    /// about again (`longshore config trust` is there for a change of mind).
    ///
    /// # Errors
    /// Those of `input` and `out`; the answer cannot be kept.
    pub fn ask(&mut self, input: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<()> {
        let Some((path, text)) = self.undecided.take() else { return Ok(()) };
        let Some(store) = TrustStore::of(&self.vars).filter(|store| !store.has_declined(&path, &text)) else { return Ok(()) };
        let shown = path.canonicalize().unwrap_or_else(|_| path.clone());
        writeln!(out, "longshore: {shown:?} says what runs, where it reaches, or what it reads of your environment:")?;
        let sections = self.sections.iter().flat_map(|(id, section)| section.iter().map(move |(name, setting)| (id, name, setting)));
        let waiting: Vec<_> = sections.filter(|(.., setting)| setting.waits.is_some()).collect();
        for (id, name, setting) in waiting.iter().take(NAMED) {
            writeln!(out, "  {} = {}{}", name.replace('-', "_"), harmless(&expand::masked(name, &setting.value)), id.place())?;
        }
        if waiting.len() > NAMED {
            writeln!(out, "  and {} more", waiting.len() - NAMED)?;
        }
        write!(out, "Trust this file as it is now? (longshore config trust, untrust) [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        if input.read_line(&mut answer)? == 0 {
            // Nobody has answered.
            return writeln!(out);
        }
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            store.trust(&path, &text)?;
            self.let_in();
            return Ok(());
        }
        store.decline(&path, &text)
    }
}

/// Returns a value that can do nothing to a terminal.
fn harmless(value: &Value) -> String {
    match value {
        Value::Bool(on) => on.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(list) => format!("{list:?}"),
    }
}
