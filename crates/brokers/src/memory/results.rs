//! Results and chords in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use crate::{
    broker::Broker,
    error::BrokerError,
    json,
    memory::{Memory, MemoryHandle, version},
    results::{CHORD_CLAIM, ChordPart, Key, Page, PartState, ResultBackend, Stored, Watch},
};

/// Time for which a chord is remembered whose body was sent.
const OVER: Duration = Duration::from_secs(300);

struct Document {
    bytes: Vec<u8>,
    until: Option<Instant>,
}

struct Chord {
    size: Option<u64>,
    grown: u64,
    /// Place (none goes last), what was told.
    parts: HashMap<(String, Option<i64>), Vec<u8>>,
    claim: Option<(String, Instant)>,
    over: bool,
    until: Instant,
}

struct ResultWatcher {
    number: u64,
    ids: HashSet<String>,
    sender: mpsc::UnboundedSender<(String, Vec<u8>)>,
}

#[derive(Default)]
pub(crate) struct Documents {
    all: HashMap<Key, Document>,
    /// Documents by the moment at which they are forgotten; one that was stored again since then
    /// lives on.
    ends: BTreeMap<Instant, Vec<Key>>,
    chords: HashMap<String, Chord>,
    watchers: Vec<ResultWatcher>,
}

impl Documents {
    fn prune(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.ends.first_entry().filter(|first| *first.key() <= now) {
            for key in first.remove() {
                if self.all.get(&key).and_then(|document| document.until).is_some_and(|until| until <= now) {
                    self.all.remove(&key);
                }
            }
        }
    }

    pub(crate) fn store(&mut self, stored: &Stored) {
        self.prune();
        if stored.keep_success && self.all.get(&stored.key).is_some_and(|document| json::is_success(&document.bytes)) {
            return;
        }
        let until = stored.expires.and_then(|expires| Instant::now().checked_add(expires));
        if let Some(until) = until {
            self.ends.entry(until).or_default().push(stored.key.clone());
        }
        self.all.insert(stored.key.clone(), Document { bytes: stored.doc.clone(), until });
        if let Key::Task(id) = &stored.key {
            for watcher in self.watchers.iter().filter(|watcher| watcher.ids.contains(id)) {
                let _ = watcher.sender.send((id.clone(), stored.doc.clone()));
            }
        }
    }

    fn chord(&mut self, group: &str) -> &mut Chord {
        let now = Instant::now();
        self.chords.retain(|_, chord| chord.until > now);
        self.chords.entry(group.to_owned()).or_insert_with(|| Chord {
            size: None,
            grown: 0,
            parts: HashMap::new(),
            claim: None,
            over: false,
            until: now + Duration::from_secs(86_400),
        })
    }

    pub(crate) fn part(&mut self, part: &ChordPart) -> PartState {
        let now = Instant::now();
        let chord = self.chord(&part.group);
        chord.parts.entry((part.id.clone(), part.index)).or_insert_with(|| part.member.clone());
        chord.until = now + part.expires;
        // Noted all the same: the chord may be on its way again, and is begun anew just before the
        // last of its tasks is sent.
        if chord.over {
            return PartState::Over;
        }
        let complete = chord.size.is_some_and(|size| chord.parts.len() as u64 >= size + chord.grown);
        let free = chord.claim.as_ref().is_none_or(|(token, until)| *until <= now || *token == part.token);
        if !complete || !free {
            return PartState::Waiting;
        }
        chord.claim = Some((part.token.clone(), now + CHORD_CLAIM));
        PartState::Ours { token: part.token.clone() }
    }

    /// Returns the chord, if the right to send its body is held under this token.
    fn ours(&mut self, group: &str, token: &str) -> Option<&mut Chord> {
        let chord = self.chords.get_mut(group)?;
        let held = chord.claim.as_ref().is_some_and(|(holder, until)| holder == token && *until > Instant::now());
        held.then_some(chord)
    }
}

struct MemoryWatching {
    memory: Arc<Memory>,
    number: u64,
}

impl Drop for MemoryWatching {
    fn drop(&mut self) {
        self.memory.lock().documents.watchers.retain(|watcher| watcher.number != self.number);
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, BrokerError>> {
    std::future::ready(Ok(value)).boxed()
}

impl ResultBackend for MemoryHandle {
    fn url(&self) -> &str {
        Broker::url(self)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        ready(version())
    }

    fn store<'a>(&'a self, batch: &'a [Stored]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut state = self.0.lock();
        batch.iter().for_each(|stored| state.documents.store(stored));
        ready(())
    }

    fn get<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let mut state = self.0.lock();
        state.documents.prune();
        ready(keys.iter().map(|key| state.documents.all.get(key).map(|document| document.bytes.clone())).collect())
    }

    fn forget<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let mut state = self.0.lock();
        state.documents.prune();
        ready(keys.iter().filter(|key| state.documents.all.remove(key).is_some()).count() as u64)
    }

    fn page<'a>(&'a self, _from: Option<&'a str>) -> BoxFuture<'a, Result<Page, BrokerError>> {
        let mut state = self.0.lock();
        state.documents.prune();
        // One page: it is in this process's memory anyway.
        let task = |(key, document): (&Key, &Document)| match key {
            Key::Task(id) => Some((id.clone(), document.bytes.clone())),
            Key::Group(_) | Key::Message(_) => None,
        };
        ready(Page { results: state.documents.all.iter().filter_map(task).collect(), next: None })
    }

    fn watch<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Watch, BrokerError>> {
        let (sender, mut stored) = mpsc::unbounded_channel();
        let mut state = self.0.lock();
        let number = state.number();
        state.documents.watchers.push(ResultWatcher { number, ids: ids.iter().cloned().collect(), sender });
        state.documents.prune();
        let documents = &state.documents.all;
        let already = ids.iter().map(|id| documents.get(&Key::Task(id.clone())).map(|document| document.bytes.clone())).collect();
        drop(state);
        async move {
            let (out, results) = mpsc::channel(64);
            tokio::spawn(async move {
                while let Some(result) = stored.recv().await {
                    if out.send(result).await.is_err() {
                        break;
                    }
                }
            });
            Ok(Watch { stored: already, results, guard: Box::new(MemoryWatching { memory: Arc::clone(&self.0), number }) })
        }
        .boxed()
    }

    fn chord_start<'a>(&'a self, group: &'a str, size: u64, expires: Duration) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut state = self.0.lock();
        let chord = state.documents.chord(group);
        (chord.size, chord.claim, chord.over, chord.until) = (Some(size), None, false, Instant::now() + expires);
        ready(())
    }

    fn chord_part<'a>(&'a self, part: &'a ChordPart) -> BoxFuture<'a, Result<PartState, BrokerError>> {
        ready(self.0.lock().documents.part(part))
    }

    fn chord_parts<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let mut state = self.0.lock();
        let mut parts: Vec<_> =
            state.documents.chord(group).parts.iter().map(|((_, index), member)| (index.is_none(), *index, member.clone())).collect();
        parts.sort();
        ready(parts.into_iter().map(|(_, _, member)| member).collect())
    }

    fn chord_extend<'a>(&'a self, group: &'a str, token: &'a str, by: Duration) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let mut state = self.0.lock();
        let chord = state.documents.ours(group, token);
        ready(chord.map(|chord| chord.claim = Some((token.to_owned(), Instant::now() + by))).is_some())
    }

    fn chord_over<'a>(&'a self, group: &'a str, token: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let mut state = self.0.lock();
        let Some(chord) = state.documents.ours(group, token) else { return ready(false) };
        *chord = Chord { size: None, grown: 0, parts: HashMap::new(), claim: None, over: true, until: Instant::now() + OVER };
        ready(true)
    }

    fn chord_grow<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().documents.chord(group).grown += 1;
        ready(())
    }
}
