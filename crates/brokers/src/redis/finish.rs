//! Ending messages: one script a batch, and what to do when its answer is lost.

use longshore_celery::{Stub, crashes_of};
use longshore_core::Receipt;
use tokio::time::sleep;

use super::{
    dead,
    fail::{Fail, Refusal, explain, is_its_own, is_protocol, refusal},
    layout::Layout,
    link::{Link, Wait, is_too_much, pause},
    marks,
    resp::{Pack, RedisCall, Reply, decimal},
    scripts,
};
use crate::{
    message::{End, Ended, Finish},
    results::{ChordPart, Key, PartState, Stored},
};

/// The most that one script ends.
const MOST: usize = 100;
/// The most bytes that one script is given, unless one end alone has more.
const MOST_BYTES: usize = 4 << 20;
/// Bytes of a value beyond which no server takes it, unless somebody told it to.
pub(super) const LARGEST: usize = 512 << 20;

/// A message to be ended, with what its end needs to know of it.
pub(super) struct Ending<'a> {
    pub(super) finish: &'a Finish,
    /// Names this end among all of this consumer.
    pub(super) step: u64,
    /// Form that it takes where it is handed back or dies.
    pub(super) moved: Option<Moved>,
    /// True if an earlier end left a note that it stays claimed.
    pub(super) kept: bool,
    /// Reason why it is impossible, where that is known without asking.
    pub(super) impossible: Option<String>,
}

/// A message that goes back or dies, or for which something lies aside.
pub(super) struct Moved {
    queue: String,
    priority: u8,
    /// The message as it goes back, or its dead letter.
    bytes: Vec<u8>,
    /// The key of what lies aside, where this is a stub.
    aside: Option<String>,
}

impl Moved {
    /// Goes through the whole message.
    pub(super) fn of(layout: &Layout, end: &End, raw: &[u8], queue: String) -> Self {
        let crashes = crashes_of(raw);
        let (priority, bytes) = match end {
            End::Dead { reason } | End::Junk { reason } => (0, dead::encode(layout, reason, crashes, raw)),
            End::Ack | End::Back { .. } | End::Keep => (marks::priority_of(raw), marks::mark_redelivered(raw, crashes)),
        };
        Self { queue, priority, bytes, aside: Stub::read(raw).map(|stub| layout.aside(stub.tag)) }
    }
}

impl Ending<'_> {
    /// Returns the sizes of what is stored and sent.
    fn sizes(&self) -> impl Iterator<Item = usize> {
        let Finish { publish, results, part, .. } = self.finish;
        let moved = self.moved.as_ref().map_or(0, |moved| moved.bytes.len());
        let (messages, documents) = (publish.iter().map(|message| message.raw.len()), results.iter().map(|stored| stored.doc.len()));
        messages.chain(documents).chain(part.as_ref().map(|part| part.member.len())).chain([moved])
    }

    fn size(&self) -> usize {
        self.sizes().sum()
    }
}

/// Cuts a batch into what one script takes.
pub(super) fn parcels<'e, 'f>(mut endings: &'e [Ending<'f>]) -> Vec<&'e [Ending<'f>]> {
    let mut parcels = Vec::new();
    while !endings.is_empty() {
        let (mut count, mut bytes) = (0, 0);
        for ending in endings.iter().take(MOST) {
            bytes += ending.size();
            if count > 0 && bytes > MOST_BYTES {
                break;
            }
            count += 1;
        }
        let (parcel, rest) = endings.split_at(count);
        parcels.push(parcel);
        endings = rest;
    }
    parcels
}

/// Place where the ends are told.
pub(super) struct FinishPlace<'a> {
    pub(super) link: &'a Link,
    pub(super) layout: &'a Layout,
    /// Text before the number in our tags; ends with a colon.
    pub(super) boot: &'a str,
}

impl FinishPlace<'_> {
    /// Ends them all. When the answer is lost, finds out which were ended, and ends the others.
    /// What is refused of one alone is impossible; what is refused because of how the server is, is
    /// waited for.
    pub(super) async fn end(&self, endings: &[Ending<'_>]) -> Result<Vec<Ended>, Fail> {
        let place = self.link.config().place();
        let mut ended: Vec<Option<Ended>> = endings.iter().map(|ending| self.foreseen(ending)).collect();
        let mut open: Vec<usize> = (0..endings.len()).filter(|at| ended[*at].is_none()).collect();
        let (mut losses, mut attempt) = (0, 0);
        while !open.is_empty() {
            if losses > 1 && open.len() > 1 {
                // One of them may be what ends the connection: each is tried alone.
                for at in open.drain(..) {
                    ended[at] = Box::pin(self.end(&endings[at..=at])).await?.pop();
                }
                break;
            }
            let call = self.call(open.iter().map(|at| &endings[*at]), open.len());
            let size = call.size();
            let mut trouble = None;
            match self.link.call(call, Wait::Forever).await {
                Ok(mut replies) => {
                    let replies = replies.pop().unwrap_or(Reply::Nil).into_list();
                    for (at, reply) in std::mem::take(&mut open).into_iter().zip(replies) {
                        ended[at] = match (reply.int(), reply.text()) {
                            (Some(0), _) => Some(Ended::Refused),
                            (Some(2), _) => Some(complete(endings[at].finish)),
                            (Some(_), _) | (None, None) => Some(Ended::Done),
                            (None, Some(text)) => {
                                let (operation, error) = text.split_once(' ').unwrap_or_default();
                                let said = explain(&place, error);
                                if is_its_own(operation, error) {
                                    Some(Ended::Impossible { reason: said })
                                } else {
                                    if refusal(error) == Refusal::NotThere {
                                        self.link.renew();
                                    }
                                    open.push(at);
                                    trouble = Some(said);
                                    None
                                }
                            }
                        };
                    }
                }
                Err(Fail::Lost(_)) => {
                    losses += 1;
                    let fates = self.fates(open.iter().map(|at| &endings[*at])).await?;
                    for (at, fate) in std::mem::take(&mut open).into_iter().zip(fates) {
                        match fate {
                            0 if endings.len() == 1 && is_too_much(losses, size) => {
                                ended[at] = Some(Ended::Impossible { reason: self.link.too_much(size) });
                            }
                            0 => open.push(at),
                            1 if endings[at].finish.part.is_some() => ended[at] = Some(complete(endings[at].finish)),
                            1 | 2 => ended[at] = Some(Ended::Done),
                            _ => ended[at] = Some(Ended::Refused),
                        }
                    }
                }
                // It says so before it ends the connection.
                Err(Fail::Refused(text)) if is_protocol(&text) => losses += 1 + u32::from(size > MOST_BYTES),
                // Of all of them at once: whoever changed what we may or what we need will change
                // it back. Nothing was done.
                Err(Fail::Refused(text)) => trouble = Some(text),
                Err(fail) => return Err(fail),
            }
            match trouble {
                Some(text) => {
                    self.link.is_unable(&text);
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
                None if attempt > 0 => self.link.is_able(),
                None => {}
            }
        }
        Ok(ended.into_iter().map(|ended| ended.unwrap_or(Ended::Refused)).collect())
    }

    /// Returns how it ends where nobody has to be asked.
    fn foreseen(&self, ending: &Ending<'_>) -> Option<Ended> {
        let too_large = || {
            let size = ending.sizes().find(|size| *size > LARGEST)?;
            Some(too_large(self.link, size))
        };
        let reason = ending.impossible.clone().or_else(too_large)?;
        Some(Ended::Impossible { reason })
    }

    fn key(&self, name: &str) -> String {
        self.layout.own(&format!("{name}:{}", self.boot.trim_end_matches(':')))
    }

    fn call<'e>(&self, endings: impl Iterator<Item = &'e Ending<'e>> + Clone, count: usize) -> Pack {
        let keys = [self.layout.unacked(), self.layout.unacked_index(), self.key("kept")];
        let mut call = RedisCall::new(&scripts::FINISH, &keys.each_ref().map(|key| key.as_bytes()));
        call.number(count as u64);
        for ending in endings.clone() {
            call.arg(tag(self.boot, ending.finish.receipt));
        }
        for ending in endings {
            self.operations(ending, &mut call);
        }
        call.pack()
    }

    fn operations(&self, ending: &Ending<'_>, call: &mut RedisCall) {
        let Ending { finish, step, moved, kept, .. } = ending;
        // In the order that `Finish` promises, so that a prefix of it repeats harmlessly.
        for message in &finish.publish {
            call.arg("L");
            call.arg(self.layout.list(&message.queue, message.priority));
            call.arg(&message.raw);
        }
        finish.results.iter().for_each(|stored| store(self.layout, stored, call));
        if let Some(part) = &finish.part {
            call.arg("C");
            part_args(self.layout, part, call);
            call.number(*step);
        }
        if finish.end == End::Keep {
            call.arg("P");
            return call.number(*step);
        }
        // Before what cannot be taken back.
        if *kept {
            call.arg("U");
        }
        match (&finish.end, moved) {
            (End::Back { front }, Some(Moved { queue, priority, bytes, aside })) => {
                let (operation, command) = if *front { ("R", "RPUSH") } else { ("L", "LPUSH") };
                call.arg(if aside.is_some() { "W" } else { operation });
                call.arg(self.layout.list(queue, *priority));
                call.arg(bytes);
                if let Some(aside) = aside {
                    call.arg(aside);
                    call.arg(command);
                }
            }
            (End::Ack, Some(Moved { aside: Some(aside), .. })) => {
                call.arg("A");
                call.arg(aside);
            }
            (End::Dead { .. } | End::Junk { .. }, Some(Moved { queue, bytes, .. })) => {
                let (letters, junk) = (self.layout.dead(queue), self.layout.junk(queue));
                let is_junk = matches!(finish.end, End::Junk { .. });
                let (list, other) = if is_junk { (junk, letters) } else { (letters, junk) };
                call.arg("D");
                call.arg(list);
                call.arg(bytes);
                call.number(dead::MOST);
                call.arg(if is_junk { self.layout.dropped_junk() } else { self.layout.dropped() });
                call.arg(queue);
                call.arg(other);
            }
            // Without its entry it is not there any more, which the script finds too.
            (End::Ack | End::Keep | End::Back { .. } | End::Dead { .. } | End::Junk { .. }, _) => {}
        }
        call.arg("E");
    }

    async fn fates<'e>(&self, endings: impl Iterator<Item = &'e Ending<'e>>) -> Result<Vec<i64>, Fail> {
        let keys = [self.layout.unacked_index(), self.key("kept"), self.key("rescued")];
        let mut call = RedisCall::new(&scripts::DOUBT, &keys.each_ref().map(|key| key.as_bytes()));
        for ending in endings {
            call.arg(tag(self.boot, ending.finish.receipt));
            call.number(ending.step);
        }
        let replies = self.link.ask(call.pack(), Wait::Forever).await?;
        Ok(replies.into_iter().flat_map(Reply::into_list).map(|fate| fate.int().unwrap_or(0)).collect())
    }
}

/// Says for people why a value of this size is refused.
pub(super) fn too_large(link: &Link, size: usize) -> String {
    format!("redis at {}: {size} bytes are more than a value may have ({LARGEST})", link.config().place())
}

/// Returns our name for a message in `unacked`.
pub(super) fn tag(boot: &str, receipt: Receipt) -> String {
    let mut digits = [0; 20];
    [boot, std::str::from_utf8(decimal(receipt.0, &mut digits)).unwrap_or_default()].concat()
}

fn complete(finish: &Finish) -> Ended {
    let token = finish.part.as_ref().map(|part| part.token.clone()).unwrap_or_default();
    Ended::Complete(PartState::Ours { token })
}

/// The longest message of an ended task that is kept, in bytes.
const LONGEST_KEPT: usize = 1 << 20;
/// Most bytes of all that are kept.
const MOST_KEPT_BYTES: u64 = 64 << 20;

/// Adds the operation that stores a document; none for a message that is not kept.
pub(super) fn store(layout: &Layout, stored: &Stored, call: &mut RedisCall) {
    if let Key::Message(id) = &stored.key {
        if layout.most_kept() > 0 && stored.doc.len() <= LONGEST_KEPT && !id.is_empty() {
            call.arg("M");
            call.arg(layout.own(""));
            call.arg(id);
            call.number(stored.expires.map_or(0, seconds));
            call.arg(&stored.doc);
            call.number(layout.most_kept());
            call.number(MOST_KEPT_BYTES);
        }
        return;
    }
    call.arg(if stored.keep_success { "K" } else { "S" });
    call.arg(layout.document(&stored.key));
    call.number(stored.expires.map_or(0, seconds));
    call.arg(&stored.doc);
}

/// Returns a life in seconds, as the server counts: one at least.
pub(super) fn seconds(life: std::time::Duration) -> u64 {
    (life.as_secs() + u64::from(life.subsec_nanos() > 0)).max(1)
}

/// Adds the arguments for counting a part: base key, id, score, member, life, token.
pub(super) fn part_args(layout: &Layout, part: &ChordPart, call: &mut RedisCall) {
    call.arg(layout.group(&part.group));
    call.arg(&part.id);
    call.arg(part.index.map_or_else(|| "+inf".to_owned(), |index| index.to_string()));
    call.arg(&part.member);
    call.number(if part.expires.is_zero() { 0 } else { seconds(part.expires) });
    call.arg(&part.token);
}
