//! Ending messages: one script a batch, and what to do when its answer is lost.

use longshore_celery::crashes_of;
use longshore_core::Receipt;

use super::{
    dead,
    fail::Fail,
    layout::Layout,
    link::{Link, Wait},
    marks,
    resp::{Call, Pack, Reply, decimal},
    scripts,
};
use crate::{
    broker::{End, Ended, Finish},
    results::{ChordPart, PartState, Stored},
};

/// The most that one script ends.
pub(super) const MOST: usize = 100;

/// A message to be ended, with what its end needs to know of it.
pub(super) struct Ending<'a> {
    pub(super) finish: &'a Finish,
    /// Names this end among all of this consumer.
    pub(super) step: u64,
    /// Message and queue, where it is handed back or dies.
    pub(super) entry: Option<(Vec<u8>, String)>,
    /// Whether an earlier end left a note that it stays claimed.
    pub(super) kept: bool,
}

/// Where the ends are told.
pub(super) struct Place<'a> {
    pub(super) link: &'a Link,
    pub(super) layout: &'a Layout,
    /// What stands before the number in our tags; ends with a colon.
    pub(super) boot: &'a str,
}

impl Place<'_> {
    /// Ends them all. When the answer is lost, finds out which were ended, and ends the others.
    pub(super) async fn end(&self, endings: &[Ending<'_>]) -> Result<Vec<Ended>, Fail> {
        let mut ended: Vec<Option<Ended>> = vec![None; endings.len()];
        let mut open: Vec<usize> = (0..endings.len()).collect();
        while !open.is_empty() {
            let answer = self.link.call(self.call(open.iter().map(|at| &endings[*at]), open.len()), Wait::Forever).await;
            match answer {
                Ok(mut replies) => {
                    for (at, reply) in open.drain(..).zip(replies.pop().unwrap_or(Reply::Nil).into_list()) {
                        ended[at] = Some(match reply.int() {
                            Some(0) => Ended::Refused,
                            Some(2) => complete(endings[at].finish),
                            _ => Ended::Done,
                        });
                    }
                }
                Err(Fail::Lost(_)) => {
                    let fates = self.fates(open.iter().map(|at| &endings[*at])).await?;
                    for (at, fate) in std::mem::take(&mut open).into_iter().zip(fates) {
                        match fate {
                            0 => open.push(at),
                            1 if endings[at].finish.part.is_some() => ended[at] = Some(complete(endings[at].finish)),
                            1 | 2 => ended[at] = Some(Ended::Done),
                            _ => ended[at] = Some(Ended::Refused),
                        }
                    }
                }
                Err(fail) => return Err(fail),
            }
        }
        Ok(ended.into_iter().map(|ended| ended.unwrap_or(Ended::Refused)).collect())
    }

    fn key(&self, name: &str) -> String {
        self.layout.own(&format!("{name}:{}", self.boot.trim_end_matches(':')))
    }

    fn call<'e>(&self, endings: impl Iterator<Item = &'e Ending<'e>> + Clone, count: usize) -> Pack {
        let keys = [self.layout.unacked(), self.layout.unacked_index(), self.key("kept")];
        let mut call = Call::new(&scripts::FINISH, &keys.each_ref().map(|key| key.as_bytes()));
        call.number(count as u64);
        for ending in endings.clone() {
            call.arg(tag(self.boot, ending.finish.receipt));
        }
        for ending in endings {
            self.operations(ending, &mut call);
        }
        call.pack()
    }

    fn operations(&self, ending: &Ending<'_>, call: &mut Call) {
        let Ending { finish, step, entry, kept } = ending;
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
        match (&finish.end, entry) {
            (End::Keep, _) => {
                call.arg("P");
                return call.number(*step);
            }
            (End::Back { front }, Some((raw, queue))) => {
                call.arg(if *front { "R" } else { "L" });
                call.arg(self.layout.list(queue, marks::priority_of(raw)));
                call.arg(marks::mark_redelivered(raw, crashes_of(raw)));
            }
            (End::Dead { reason }, Some((raw, queue))) => {
                call.arg("D");
                call.arg(self.layout.dead(queue));
                call.arg(dead::encode(reason, crashes_of(raw), raw));
                call.number(dead::MOST);
                call.arg(self.layout.dropped());
                call.arg(queue);
            }
            // Without its entry it is not there any more, which the script finds too.
            (End::Ack | End::Back { .. } | End::Dead { .. }, _) => {}
        }
        if *kept {
            call.arg("U");
        }
        call.arg("E");
    }

    async fn fates<'e>(&self, endings: impl Iterator<Item = &'e Ending<'e>>) -> Result<Vec<i64>, Fail> {
        let keys = [self.layout.unacked_index(), self.key("kept"), self.key("rescued")];
        let mut call = Call::new(&scripts::DOUBT, &keys.each_ref().map(|key| key.as_bytes()));
        for ending in endings {
            call.arg(tag(self.boot, ending.finish.receipt));
            call.number(ending.step);
        }
        let replies = self.link.ask(call.pack(), Wait::Forever).await?;
        Ok(replies.into_iter().flat_map(Reply::into_list).map(|fate| fate.int().unwrap_or(0)).collect())
    }
}

/// Our name for a message in `unacked`.
pub(super) fn tag(boot: &str, receipt: Receipt) -> String {
    let mut digits = [0; 20];
    [boot, std::str::from_utf8(decimal(receipt.0, &mut digits)).unwrap_or_default()].concat()
}

fn complete(finish: &Finish) -> Ended {
    let token = finish.part.as_ref().map(|part| part.token.clone()).unwrap_or_default();
    Ended::Complete(PartState::Ours { token })
}

/// The operation that stores a document.
pub(super) fn store(layout: &Layout, stored: &Stored, call: &mut Call) {
    call.arg(if stored.keep_success { "K" } else { "S" });
    call.arg(layout.document(&stored.key));
    call.number(stored.expires.map_or(0, seconds));
    call.arg(&stored.doc);
}

/// A life of at least a second, as the server counts.
pub(super) fn seconds(life: std::time::Duration) -> u64 {
    (life.as_secs() + u64::from(life.subsec_nanos() > 0)).max(1)
}

/// What the counting of a part is told: base key, id, score, member, life, token.
pub(super) fn part_args(layout: &Layout, part: &ChordPart, call: &mut Call) {
    call.arg(layout.group(&part.group));
    call.arg(&part.id);
    call.arg(part.index.map_or_else(|| "+inf".to_owned(), |index| index.to_string()));
    call.arg(&part.member);
    call.number(if part.expires.is_zero() { 0 } else { seconds(part.expires) });
    call.arg(&part.token);
}
