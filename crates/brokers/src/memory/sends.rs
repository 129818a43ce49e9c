//! Notes of what is sent once under a key.

use std::{collections::HashMap, time::Instant};

use crate::send_notes::{NotedEnd, NotedSend, SendNote};

/// Number of notes from which those that are over are looked for.
const SWEEP_FROM: usize = 1_024;

#[derive(Default)]
pub(crate) struct MemorySends {
    notes: HashMap<String, MemorySend>,
    sweep_at: usize,
}

struct MemorySend {
    digest: String,
    id: String,
    /// Who sends it, and until when the others leave it to that one; none: it was sent.
    sending: Option<(String, Instant)>,
    until: Instant,
}

impl MemorySends {
    pub(crate) fn note(&mut self, note: &SendNote) -> NotedSend {
        let now = Instant::now();
        if self.notes.len() >= self.sweep_at {
            self.notes.retain(|_, known| known.until > now);
            self.sweep_at = (self.notes.len() * 2).max(SWEEP_FROM);
        }
        let sending = Some((note.by.clone(), now + note.hold));
        let Some(known) = self.notes.get_mut(&note.key).filter(|known| known.until > now) else {
            let (digest, id, until) = (note.digest.clone(), note.id.clone(), now + note.keep);
            self.notes.insert(note.key.clone(), MemorySend { digest, id, sending, until });
            return NotedSend::First;
        };
        if known.digest != note.digest {
            return NotedSend::Other;
        }
        let id = known.id.clone();
        match &known.sending {
            None => NotedSend::Sent { id },
            Some((by, until)) if *by != note.by && *until > now => NotedSend::Underway { id },
            Some(_) => {
                known.sending = sending;
                NotedSend::Unfinished { id }
            }
        }
    }

    pub(crate) fn end(&mut self, note: &SendNote, ending: NotedEnd) {
        let Some(known) = self.notes.get_mut(&note.key).filter(|known| known.digest == note.digest) else { return };
        let is_theirs = known.sending.as_ref().is_none_or(|(by, _)| *by != note.by);
        match ending {
            NotedEnd::Sent => known.sending = None,
            _ if is_theirs => {}
            NotedEnd::NotSent => drop(self.notes.remove(&note.key)),
            NotedEnd::Unknown => known.sending = Some((note.by.clone(), Instant::now())),
        }
    }
}
