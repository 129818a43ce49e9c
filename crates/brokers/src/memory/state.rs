//! The state of a memory and its steps. Nothing here waits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Instant, SystemTime},
};

use longshore_celery::crashes_of;
use longshore_core::Receipt;
use tokio::sync::mpsc;

use super::{schedules::MemorySchedules, shared::MemoryShared};
use crate::{
    broker::QueueState,
    crash::after_crash,
    halves::{DeadLetter, LeftOut},
    json,
    memory::results::Documents,
    message::{Claimed, Outgoing},
    pattern::matches,
    rotation::Rotation,
};

pub(crate) struct Message {
    pub(crate) queue: Arc<str>,
    pub(crate) priority: u8,
    pub(crate) raw: Vec<u8>,
    pub(crate) crashes: u32,
    /// True if it was lent before.
    pub(crate) lent: bool,
    pub(crate) at: Instant,
}

pub(crate) struct HeldMessage {
    pub(crate) message: Message,
    pub(crate) owner: u64,
    pub(crate) node: Arc<str>,
    pub(crate) accused: bool,
    pub(crate) since: SystemTime,
}

pub(crate) struct BusListener {
    pub(crate) number: u64,
    pub(crate) exchange: String,
    pub(crate) pattern: String,
    pub(crate) sender: mpsc::Sender<(String, Vec<u8>)>,
    pub(crate) left_out: LeftOut,
}

#[derive(Default)]
pub(crate) struct MemoryState {
    last: u64,
    lines: HashMap<Arc<str>, BTreeMap<u8, VecDeque<Message>>>,
    pub(crate) later: BTreeMap<(SystemTime, u64), Message>,
    /// By receipt: the order in which they were claimed.
    pub(crate) held: BTreeMap<u64, HeldMessage>,
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) dead_priority: HashMap<String, u8>,
    /// Name of whoever paused a queue, and the moment.
    pub(crate) paused: HashMap<Arc<str>, (String, SystemTime)>,
    pub(crate) listeners: Vec<BusListener>,
    pub(crate) documents: Documents,
    pub(crate) shared: MemoryShared,
    pub(crate) schedules: MemorySchedules,
}

impl MemoryState {
    /// Returns a number that was never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn publish(&mut self, message: &Outgoing) {
        let Outgoing { queue, priority, due, raw, .. } = message;
        let message =
            Message { queue: Arc::clone(queue), priority: *priority, raw: raw.clone(), crashes: 0, lent: false, at: Instant::now() };
        match due {
            Some(due) if *due > SystemTime::now() => {
                let number = self.number();
                self.later.insert((*due, number), message);
            }
            _ => self.back(message, false),
        }
    }

    /// Puts a message into its queue.
    pub(crate) fn back(&mut self, message: Message, front: bool) {
        let line = self.lines.entry(Arc::clone(&message.queue)).or_default().entry(message.priority.min(9)).or_default();
        if front { line.push_front(message) } else { line.push_back(message) }
    }

    /// Makes messages of these tasks due at once: whoever takes them ends them before their time.
    pub(crate) fn end_early(&mut self, ids: &[String]) {
        let now = SystemTime::now();
        let is_meant = |raw: &[u8]| json::task_id(raw).is_some_and(|id| ids.iter().any(|other| other == id));
        let meant: Vec<_> = self.later.iter().filter(|(_, message)| is_meant(&message.raw)).map(|(key, _)| *key).collect();
        for key in meant {
            if let Some(message) = self.later.remove(&key) {
                self.later.insert((now, key.1), message);
            }
        }
    }

    /// Lets what is due wait in its queue.
    pub(crate) fn promote(&mut self, now: SystemTime) {
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            let message = first.remove();
            self.back(message, false);
        }
    }

    pub(crate) fn claim(&mut self, room: usize, turns: &Rotation, owner: u64, node: &Arc<str>, into: &mut Vec<Claimed>) {
        self.promote(SystemTime::now());
        let order: Vec<_> = turns.order().into_iter().filter(|queue| !self.paused.contains_key(queue)).collect();
        let priorities: BTreeSet<u8> = order.iter().filter_map(|queue| self.lines.get(queue)).flat_map(BTreeMap::keys).copied().collect();
        let mut left = room;
        let of = |priority: u8| order.iter().map(move |queue| (priority, queue));
        let mut lines: Vec<(u8, &Arc<str>)> = priorities.iter().copied().flat_map(of).collect();
        if turns.is_strict() {
            lines.sort_by_key(|(_, queue)| order.iter().position(|name| name == *queue));
        }
        for (priority, queue) in lines {
            let Some(line) = self.lines.get_mut(queue).and_then(|lines| lines.get_mut(&priority)) else { continue };
            let messages: Vec<_> = line.drain(..left.min(line.len())).collect();
            if !messages.is_empty() {
                turns.served(queue);
                left -= messages.len();
            }
            for message in messages {
                let receipt = self.number();
                into.push(Claimed {
                    receipt: Receipt(receipt),
                    queue: Arc::clone(queue),
                    raw: message.raw.clone(),
                    crashes: crashes_of(&message.raw).max(message.crashes),
                    redelivered: message.lent,
                    given: false,
                });
                let message = Message { lent: true, ..message };
                self.held.insert(receipt, HeldMessage { message, owner, node: Arc::clone(node), accused: false, since: SystemTime::now() });
            }
        }
    }

    pub(crate) fn bury(&mut self, message: Message, reason: String) {
        let key = self.number().to_string();
        self.dead_priority.insert(key.clone(), message.priority);
        let (queue, crashes, raw) = (message.queue.to_string(), message.crashes, message.raw);
        self.dead.push(DeadLetter { key, queue, at: SystemTime::now(), reason, crashes, raw });
    }

    /// Takes everything from an owner, and puts it back to the front in the order in which it was
    /// claimed; if the owner died, its crash counts.
    pub(crate) fn give_back(&mut self, owner: u64, died: bool) {
        let receipts: Vec<u64> = self.held.iter().filter(|(_, held)| held.owner == owner).map(|(receipt, _)| *receipt).collect();
        for receipt in receipts.into_iter().rev() {
            let Some(HeldMessage { mut message, accused, .. }) = self.held.remove(&receipt) else { continue };
            if died {
                message.crashes = after_crash(message.crashes, accused, false);
            }
            self.back(message, true);
        }
    }

    /// Tells those who listen. Returns how many there are.
    pub(crate) fn tell(&mut self, exchange: &str, key: &str, raw: &[u8]) -> u64 {
        let mut count = 0;
        for listener in self.listeners.iter().filter(|listener| listener.exchange == exchange && matches(&listener.pattern, key)) {
            // Nobody waits for a listener that does not keep up, or is gone.
            listener.left_out.note(listener.sender.try_send((key.to_owned(), raw.to_vec())));
            count += u64::from(!listener.sender.is_closed());
        }
        count
    }

    /// Returns the waiting messages of a queue, the next one first.
    pub(crate) fn waiting(&self, queue: &str) -> impl Iterator<Item = &Message> {
        self.lines.get(queue).into_iter().flat_map(|lines| lines.values().flatten())
    }

    /// Takes everything that waits, what is held back until its time included.
    pub(crate) fn take_all(&mut self, queue: &str) -> Vec<Message> {
        let mut taken: Vec<_> = self.lines.get_mut(queue).map(std::mem::take).into_iter().flatten().flat_map(|(_, line)| line).collect();
        let keys: Vec<_> = self.later.iter().filter(|(_, message)| &*message.queue == queue).map(|(key, _)| *key).collect();
        taken.extend(keys.iter().filter_map(|key| self.later.remove(key)));
        taken
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let lines = self.lines.keys().chain(self.paused.keys()).cloned();
        let messages = self.later.values().map(|message| &message.queue).chain(self.held.values().map(|held| &held.message.queue)).cloned();
        let dead = self.dead.iter().map(|dead| dead.queue.as_str().into());
        lines.chain(messages).chain(dead).collect::<BTreeSet<Arc<str>>>().into_iter().collect()
    }

    pub(crate) fn queue(&self, name: &str) -> QueueState {
        QueueState {
            name: name.to_owned(),
            waiting: self.waiting(name).count() as u64,
            held: self.held.values().filter(|held| &*held.message.queue == name).count() as u64,
            // A message is lent when it is due, not before.
            consumers: None,
            held_for_later: 0,
            later: self.later.values().filter(|message| &*message.queue == name).count() as u64,
            dead: self.dead.iter().filter(|dead| dead.queue == name).count() as u64,
            dead_dropped: 0,
            oldest: self.waiting(name).map(|message| message.at.elapsed()).max(),
            oldest_at_least: false,
            idle_since: None,
            paused: self.paused.get(name).map(|(by, _)| by.clone()),
            paused_since: self.paused.get(name).map(|(_, since)| *since),
        }
    }
}
