//! The broker and result backend of a run: one state, whose steps are atomic, and the deliveries
//! that a dead worker leaves behind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use longshore_brokers::{
    AHEAD, ChordPart, Claimed, DeadLetter, End, Ended, Finish, Key, Outgoing, PartState, Slot, Stored, crash::after_crash,
};
use longshore_celery::crashes_of;
use longshore_core::Receipt;
use tokio::sync::mpsc;

use crate::{
    Sabotage, clock,
    ledger::{Invariant, Ledger, is_final},
    plan::{HOURS, LEASE},
};

#[derive(Clone)]
pub(crate) struct Msg {
    pub(crate) id: String,
    retries: u32,
    queue: Arc<str>,
    raw: Vec<u8>,
    crashes: u32,
    lent: bool,
}

#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) msg: Msg,
    pub(crate) owner: u64,
    pub(crate) node: usize,
    accused: bool,
    pub(crate) started: bool,
}

#[derive(Clone, Default)]
struct Chord {
    size: Option<u64>,
    grown: u64,
    /// How often a part was told.
    told: u64,
    parts: BTreeMap<(Option<i64>, String), Vec<u8>>,
    claim: Option<(String, u64)>,
    over: bool,
}

pub(crate) struct Listener {
    pub(crate) exchange: String,
    pub(crate) pattern: String,
    pub(crate) sender: mpsc::Sender<(String, Vec<u8>)>,
}

pub(crate) struct Watcher {
    pub(crate) ids: HashSet<String>,
    pub(crate) sender: mpsc::Sender<(String, Vec<u8>)>,
}

pub(crate) struct Broker {
    pub(crate) ledger: Ledger,
    last: u64,
    pub(crate) queue: VecDeque<Msg>,
    pub(crate) held: BTreeMap<u64, Held>,
    /// Who is alive, and when it said so last.
    owners: BTreeMap<u64, (usize, u64)>,
    pub(crate) dead: Vec<DeadLetter>,
    documents: HashMap<Key, Vec<u8>>,
    chords: HashMap<String, Chord>,
    next_slot: HashMap<String, u64>,
    pub(crate) revoked: Vec<String>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) watchers: Vec<Watcher>,
    /// By how many seconds its time of the day is wrong.
    pub(crate) wrong: i64,
    /// What it will have when it is started again.
    past: Option<Past>,
    /// How often it was started again, and until when it is too young to know who is dead.
    pub(crate) restarts: u64,
    young: u64,
}

/// What a broker has stored.
#[derive(Clone)]
struct Past {
    at: u64,
    queue: VecDeque<Msg>,
    held: BTreeMap<u64, Held>,
    owners: BTreeMap<u64, (usize, u64)>,
    dead: Vec<DeadLetter>,
    documents: HashMap<Key, Vec<u8>>,
    chords: HashMap<String, Chord>,
    next_slot: HashMap<String, u64>,
    revoked: Vec<String>,
}

/// Finds the value of a key in JSON as it is written, without reading all of it.
fn find<'a>(raw: &'a [u8], key: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(raw).ok()?;
    let at = text.find(&format!("\"{key}\":"))? + key.len() + 3;
    let rest = text[at..].trim_start();
    match rest.strip_prefix('"') {
        Some(rest) => rest.split('"').next(),
        None => rest.split([',', '}']).next(),
    }
}

impl Broker {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            last: 0,
            queue: VecDeque::new(),
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            dead: Vec::new(),
            documents: HashMap::new(),
            chords: HashMap::new(),
            next_slot: HashMap::new(),
            revoked: Vec::new(),
            listeners: Vec::new(),
            watchers: Vec::new(),
            wrong: 0,
            past: None,
            restarts: 0,
            young: 0,
        }
    }

    fn cheats(&self, sabotage: Sabotage) -> bool {
        self.ledger.sabotage == sabotage
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Writes down all that there is; what comes later is lost when it is started again.
    pub(crate) fn remember(&mut self) {
        let Self { queue, held, owners, dead, documents, chords, next_slot, revoked, .. } = self;
        self.past = Some(Past {
            at: clock::now(),
            queue: queue.clone(),
            held: held.clone(),
            owners: owners.clone(),
            dead: dead.clone(),
            documents: documents.clone(),
            chords: chords.clone(),
            next_slot: next_slot.clone(),
            revoked: revoked.clone(),
        });
        self.ledger.touched = Some(BTreeSet::new());
        self.ledger.counted.clear();
    }

    /// Is started again at that time, with what was written down. Nobody listens any more.
    pub(crate) fn restart(&mut self, up: u64) {
        self.restarts += 1;
        self.young = up + LEASE.as_nanos() as u64;
        self.listeners.clear();
        self.watchers.clear();
        let Some(past) = self.past.take() else { return };
        (self.queue, self.held, self.owners, self.dead) = (past.queue, past.held, past.owners, past.dead);
        (self.documents, self.chords, self.next_slot, self.revoked) = (past.documents, past.chords, past.next_slot, past.revoked);
        let touched = self.ledger.touched.take().unwrap_or_default();
        std::mem::take(&mut self.ledger.counted).iter().for_each(|id| self.ledger.of(id).uncounted = true);
        for id in touched {
            let stored = self.documents.get(&Key::Task(id.clone())).and_then(|doc| find(doc, "status"));
            let state = stored.filter(|state| is_final(state)).map(str::to_owned);
            let dead = self.dead.iter().filter(|letter| find(&letter.raw, "id") == Some(&id)).count();
            self.ledger.forgotten(past.at, &id, state, dead);
        }
    }

    /// The receipts of this owner that it knows nothing of.
    pub(crate) fn strays(&self, owner: u64, known: &BTreeSet<u64>) -> BTreeSet<u64> {
        self.held.iter().filter(|(receipt, held)| held.owner == owner && !known.contains(receipt)).map(|(receipt, _)| *receipt).collect()
    }

    /// Puts back what nobody knows of.
    pub(crate) fn put_back(&mut self, receipts: impl Iterator<Item = u64>) {
        for receipt in receipts {
            let Some(held) = self.held.remove(&receipt) else { continue };
            self.ledger.note(clock::now(), || format!("{} is found again", held.msg.id));
            self.queue.push_front(held.msg);
        }
    }

    pub(crate) fn publish(&mut self, out: &Outgoing) {
        let id = find(&out.raw, "id").unwrap_or_default().to_owned();
        let retries = find(&out.raw, "retries").and_then(|text| text.parse().ok()).unwrap_or(0);
        self.ledger.sent(clock::now(), &id, retries);
        self.queue.push_back(Msg { id, retries, queue: out.queue.clone(), raw: out.raw.clone(), crashes: 0, lent: false });
    }

    /// The ids of what may have been sent without anybody's knowing.
    pub(crate) fn doubt(&mut self, batch: &[Outgoing]) {
        for out in batch {
            let id = find(&out.raw, "id").unwrap_or_default().to_owned();
            self.ledger.of(&id).doubtful += 1;
        }
    }

    pub(crate) fn enlist(&mut self, node: usize) -> u64 {
        let owner = self.number();
        self.owners.insert(owner, (node, clock::now()));
        owner
    }

    /// A sign of life; `false`: it was taken for dead.
    pub(crate) fn renew(&mut self, owner: u64, node: usize) -> bool {
        self.owners.insert(owner, (node, clock::now())).is_some()
    }

    /// Takes from those who gave no sign of life what they hold.
    pub(crate) fn sweep(&mut self, now: u64) -> bool {
        let lease = LEASE.as_nanos() as u64;
        if now < self.young {
            return false;
        }
        let over: Vec<u64> = self.owners.iter().filter(|(_, (_, seen))| seen + lease <= now).map(|(owner, _)| *owner).collect();
        over.iter().for_each(|owner| self.give_back(*owner, true));
        !over.is_empty()
    }

    pub(crate) fn give_back(&mut self, owner: u64, died: bool) {
        self.owners.remove(&owner);
        let receipts: Vec<u64> = self.held.iter().filter(|(_, held)| held.owner == owner).map(|(receipt, _)| *receipt).collect();
        for receipt in receipts.into_iter().rev() {
            let Some(Held { mut msg, accused, .. }) = self.held.remove(&receipt) else { continue };
            if died {
                self.ledger.died(clock::now(), &msg.id, accused);
                let accused = accused || self.cheats(Sabotage::InnocentIsCounted);
                msg.crashes = after_crash(crashes_of(&msg.raw).max(msg.crashes), accused, false);
                self.ledger.note(clock::now(), || format!("{} comes back, {} crashes", msg.id, msg.crashes));
            }
            self.queue.push_front(msg);
        }
    }

    pub(crate) fn claim(&mut self, owner: u64, node: usize, room: usize) -> Vec<Claimed> {
        if !self.owners.contains_key(&owner) {
            return Vec::new();
        }
        let count = room.min(self.queue.len());
        let taken: Vec<Msg> = self.queue.drain(..count).collect();
        let claim = |msg: Msg| {
            let receipt = self.number();
            let claimed = Claimed {
                receipt: Receipt(receipt),
                queue: msg.queue.clone(),
                raw: msg.raw.clone(),
                crashes: crashes_of(&msg.raw).max(msg.crashes),
                redelivered: msg.lent,
                given: false,
            };
            let msg = Msg { lent: true, ..msg };
            self.ledger.note(clock::now(), || format!("node {node} claims {} (delivery {receipt})", msg.id));
            self.ledger.touch(&msg.id);
            self.held.insert(receipt, Held { msg, owner, node, accused: false, started: false });
            claimed
        };
        taken.into_iter().map(claim).collect()
    }

    pub(crate) fn load(&self, owner: u64, receipt: Receipt) -> Option<Vec<u8>> {
        self.held.get(&receipt.0).filter(|held| held.owner == owner).map(|held| held.msg.raw.clone())
    }

    pub(crate) fn accuse(&mut self, owner: u64, running: &[Receipt]) {
        for (number, held) in self.held.iter_mut().filter(|(_, held)| held.owner == owner) {
            held.accused = running.contains(&Receipt(*number));
        }
    }

    /// Notes a start; which delivery of it this node holds, and whether that had started before.
    pub(crate) fn start(&mut self, node: usize, id: &str, early: bool, one_store: bool) {
        let mut of = self.held.values_mut().filter(|held| held.node == node && held.msg.id == id).collect::<Vec<_>>();
        let held = match of.iter_mut().find(|held| !held.started) {
            Some(held) => {
                held.started = true;
                Some(false)
            }
            None => (!of.is_empty()).then_some(true),
        };
        self.ledger.start(clock::now(), node, id, held, early, one_store);
    }

    pub(crate) fn finish(&mut self, owner: u64, node: usize, finish: &Finish) -> Ended {
        let receipt = finish.receipt.0;
        let ours = self.held.get(&receipt).is_some_and(|held| held.owner == owner);
        if !ours && !self.cheats(Sabotage::LateEndIsTaken) {
            self.ledger.note(clock::now(), || format!("node {node} is refused delivery {receipt}"));
            return Ended::Refused;
        }
        if finish.results.iter().any(is_refused) {
            return Ended::Impossible { reason: "the value is too large".to_owned() };
        }
        let id = self.held.get(&receipt).map(|held| held.msg.id.clone()).unwrap_or_default();
        let sends_itself = finish.publish.iter().any(|out| find(&out.raw, "id") == Some(&id));
        finish.publish.iter().for_each(|out| self.publish(out));
        for stored in &finish.results {
            self.store(node, stored);
            self.heard(node, stored);
        }
        if let Some(part) = &finish.part
            && let ours @ PartState::Ours { .. } = self.part(part)
        {
            return Ended::Complete(ours);
        }
        if finish.end == End::Keep {
            return Ended::Done;
        }
        let Some(held) = self.held.remove(&receipt) else {
            self.ledger.ended(clock::now(), node, receipt, &id, ours, sends_itself);
            return Ended::Done;
        };
        match &finish.end {
            End::Back { front } => {
                self.ledger.note(clock::now(), || format!("node {node} hands back {id}"));
                if self.cheats(Sabotage::HandedBackTwice) {
                    self.queue.push_back(held.msg.clone());
                }
                if *front {
                    self.queue.push_front(held.msg)
                } else {
                    self.queue.push_back(held.msg)
                }
                return Ended::Done;
            }
            End::Dead { reason } | End::Junk { reason } => self.bury(held.msg, reason),
            End::Ack | End::Keep => {}
        }
        self.ledger.ended(clock::now(), node, receipt, &id, ours, sends_itself);
        Ended::Done
    }

    /// Acknowledges before anything else is done.
    pub(crate) fn acknowledge_first(&mut self, finish: &Finish) {
        if finish.end == End::Keep {
            return;
        }
        if let Some(held) = self.held.remove(&finish.receipt.0) {
            let sends_itself = finish.publish.iter().any(|out| find(&out.raw, "id") == Some(&held.msg.id));
            self.ledger.ended(clock::now(), held.node, finish.receipt.0, &held.msg.id, true, sends_itself);
        }
    }

    fn bury(&mut self, msg: Msg, reason: &str) {
        self.ledger.buried(clock::now(), &msg.id, reason);
        let key = self.number().to_string();
        let queue = msg.queue.to_string();
        self.dead.push(DeadLetter { key, queue, at: clock::wall(), reason: reason.to_owned(), crashes: msg.crashes, raw: msg.raw });
    }

    pub(crate) fn store(&mut self, node: usize, stored: &Stored) {
        if let Key::Task(id) = &stored.key {
            let state = find(&stored.doc, "status").unwrap_or_default().to_owned();
            let holds = self.held.values().any(|held| held.node == node && held.msg.id == *id);
            self.ledger.stored(clock::now(), node, id, &state, holds);
        }
        let succeeded = self.documents.get(&stored.key).is_some_and(|doc| find(doc, "status") == Some("SUCCESS"));
        if stored.keep_success && succeeded {
            return;
        }
        self.documents.insert(stored.key.clone(), stored.doc.clone());
        if let Key::Task(id) = &stored.key {
            self.watchers.retain(|watcher| !watcher.sender.is_closed());
            for watcher in self.watchers.iter().filter(|watcher| watcher.ids.contains(id)) {
                let _ = watcher.sender.try_send((id.clone(), stored.doc.clone()));
            }
        }
    }

    /// A node has heard that it is stored: it counts it. What it did not hear of it stores again.
    pub(crate) fn heard(&mut self, node: usize, stored: &Stored) {
        if matches!(stored.key, Key::Task(_)) && find(&stored.doc, "status") == Some("SUCCESS") {
            self.ledger.nodes.entry(node).or_default().succeeded += 1;
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.documents.get(key).cloned()
    }

    pub(crate) fn forget(&mut self, keys: &[Key]) -> u64 {
        keys.iter().filter(|key| self.documents.remove(key).is_some()).count() as u64
    }

    pub(crate) fn chord_start(&mut self, group: &str, size: u64) {
        let chord = self.chords.entry(group.to_owned()).or_default();
        (chord.size, chord.claim, chord.over) = (Some(size), None, false);
    }

    pub(crate) fn chord_grow(&mut self, group: &str) {
        self.chords.entry(group.to_owned()).or_default().grown += 1;
    }

    pub(crate) fn part(&mut self, part: &ChordPart) -> PartState {
        let now = clock::now();
        self.ledger.note(now, || format!("the part {} is counted", part.id));
        self.ledger.counted.insert(part.id.clone());
        let twice = self.cheats(Sabotage::PartIsCountedTwice);
        let chord = self.chords.entry(part.group.clone()).or_default();
        chord.parts.entry((part.index, part.id.clone())).or_insert_with(|| part.member.clone());
        chord.told += 1;
        if chord.over {
            return PartState::Over;
        }
        let counted = if twice { chord.told } else { chord.parts.len() as u64 };
        let complete = chord.size.is_some_and(|size| counted >= size + chord.grown);
        let free = chord.claim.as_ref().is_none_or(|(token, until)| *until <= now || *token == part.token);
        if !complete || !free {
            return PartState::Waiting;
        }
        chord.claim = Some((part.token.clone(), now + 6_000_000_000));
        PartState::Ours { token: part.token.clone() }
    }

    pub(crate) fn parts(&mut self, group: &str) -> Vec<Vec<u8>> {
        self.chords.entry(group.to_owned()).or_default().parts.values().cloned().collect()
    }

    fn ours(&mut self, group: &str, token: &str) -> Option<&mut Chord> {
        let now = clock::now();
        self.chords.get_mut(group).filter(|chord| chord.claim.as_ref().is_some_and(|(holder, until)| holder == token && *until > now))
    }

    pub(crate) fn extend(&mut self, group: &str, token: &str, by: Duration) -> bool {
        let now = clock::now();
        let Some(chord) = self.chords.get_mut(group).filter(|chord| !chord.over) else { return false };
        // It may be taken again while nobody has it.
        let may = chord.claim.as_ref().is_none_or(|(holder, until)| holder == token || *until <= now);
        if may {
            chord.claim = Some((token.to_owned(), now + by.as_nanos() as u64));
        }
        may
    }

    pub(crate) fn over(&mut self, group: &str, token: &str) -> bool {
        let Some(chord) = self.ours(group, token) else { return false };
        *chord = Chord { over: true, ..Chord::default() };
        true
    }

    /// Slots of a leaky bucket without a burst.
    pub(crate) fn reserve(&mut self, limit: &str, interval: u64, count: usize) -> Vec<Slot> {
        // Long after the beginning of time, however wrong it is.
        let now = clock::now() + u64::try_from(2 * HOURS + self.wrong).unwrap_or(0) * 1_000_000_000;
        let ahead = AHEAD.as_nanos() as u64;
        let next = self.next_slot.entry(limit.to_owned()).or_default();
        *next = (*next).clamp(now, now + ahead + interval);
        let slot = |_| {
            if *next > now + ahead {
                return Slot::Ask(Duration::from_millis(250));
            }
            let wait = *next - now;
            *next += interval;
            Slot::Reserved(Duration::from_nanos(wait))
        };
        (0..count).map(slot).collect()
    }

    pub(crate) fn tell(&mut self, exchange: &str, key: &str, raw: &[u8]) {
        self.listeners.retain(|listener| !listener.sender.is_closed());
        for listener in self.listeners.iter().filter(|listener| listener.exchange == exchange) {
            if listener.pattern == "#" || listener.pattern == key {
                let _ = listener.sender.try_send((key.to_owned(), raw.to_vec()));
            }
        }
    }

    /// What must hold when all is over.
    pub(crate) fn check_end(&mut self, reliable: bool) {
        let left: Vec<String> =
            self.queue.iter().chain(self.held.values().map(|held| &held.msg)).map(|msg| format!("{}/{}", msg.id, msg.retries)).collect();
        if !left.is_empty() {
            self.ledger.blame(Invariant::Left, || format!("{} messages are left: {}", left.len(), left.join(" ")));
        }
        self.ledger.check_end(reliable);
    }
}

/// What no store takes.
pub(crate) fn is_refused(stored: &Stored) -> bool {
    find(&stored.doc, "result") == Some("too large to be stored")
}
