//! Putting messages into queues, and saying that the queues exist.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use super::{
    fail::{Fail, is_protocol, is_wrong_type},
    layout::{Layout, binding},
    link::{LOSSES, Link, Wait, is_too_much, locked},
    resp::{Pack, RedisCall},
    scripts,
};
use crate::message::Outgoing;

/// The queues that were said to exist, since the connection that heard it.
#[derive(Default)]
pub(super) struct Declared(Mutex<(u64, HashSet<Arc<str>>)>);

impl Declared {
    /// Says that these queues exist, where it was not said before: a foreign worker restores what
    /// has an exchange by these sets.
    pub(super) async fn say(&self, link: &Link, layout: &Layout, queues: impl Iterator<Item = &Arc<str>>, wait: Wait) -> Result<(), Fail> {
        let mut pack = Pack::default();
        let mut new = Vec::new();
        {
            let mut declared = locked(&self.0);
            if declared.0 != link.generation() {
                *declared = (link.generation(), HashSet::new());
            }
            for queue in queues.filter(|queue| !declared.1.contains(*queue)) {
                let member = binding(queue, queue);
                pack.add(&[b"SADD", layout.binding(queue).as_bytes(), member.as_bytes()]);
                pack.add(&[b"SADD", layout.permanent(queue).as_bytes(), member.as_bytes()]);
                new.push(queue.clone());
            }
        }
        if pack.is_empty() {
            return Ok(());
        }
        match link.ask(pack, wait).await {
            // Somebody uses these keys for something else: our queues work without, and a foreign
            // worker that restores what has an exchange sees no less than before.
            Err(Fail::Refused(text)) if is_wrong_type(&text) => (link.notice())(&crate::News::remark(text)),
            said => drop(said?),
        }
        locked(&self.0).1.extend(new);
        Ok(())
    }
}

/// Token under which a batch is sent once, however often it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Once<'a> {
    /// The key that says that it was sent.
    pub(super) key: &'a str,
    /// Keys that nobody will ask for any more.
    pub(super) over: &'a [String],
}

/// Keys of what was sent under tokens, and is known to be: they go with what is sent next.
#[derive(Default)]
pub(super) struct Known(Mutex<Vec<String>>);

impl Known {
    pub(super) fn add(&self, key: String) {
        locked(&self.0).push(key);
    }

    /// Takes some.
    pub(super) fn some(&self) -> Vec<String> {
        let mut known = locked(&self.0);
        let rest = known.len().saturating_sub(100);
        known.split_off(rest)
    }
}

/// Sends them all, or none. A connection that ends leaves open whether they were sent, but where
/// it ends with whatever is so large: that is refused, and nothing was sent.
pub(super) async fn all(link: &Link, layout: &Layout, batch: &[Outgoing], once: Option<Once<'_>>) -> Result<(), Fail> {
    let pack = pack(layout, batch, once);
    let size = pack.size();
    match link.call(pack, Wait::Patience).await {
        Err(Fail::Refused(text)) if is_protocol(&text) => Err(Fail::Refused(link.too_much(size))),
        Err(Fail::Lost(_)) if is_too_much(LOSSES, size) && !takes(link, batch).await => Err(Fail::Refused(link.too_much(size))),
        said => said.map(drop),
    }
}

/// Says whether the server takes so much at once: it is asked for keys of these names, which does
/// nothing.
async fn takes(link: &Link, batch: &[Outgoing]) -> bool {
    let words: Vec<&[u8]> = [&b"EXISTS"[..]].into_iter().chain(batch.iter().map(|message| &*message.raw)).collect();
    for _ in 0..LOSSES {
        match link.call(Pack::of(&words), Wait::Patience).await {
            Err(Fail::Lost(_)) => {}
            Err(Fail::Refused(text)) if is_protocol(&text) => return false,
            // It may refuse them as keys: then it has read them.
            _ => return true,
        }
    }
    false
}

/// Packs all of them, to be sent whole or not at all.
pub(super) fn pack(layout: &Layout, batch: &[Outgoing], once: Option<Once<'_>>) -> Pack {
    // Runs for the same list go in one command.
    let mut runs: Vec<(String, Vec<&[u8]>)> = Vec::new();
    let mut last: Option<(&Outgoing, usize)> = None;
    for message in batch {
        let same = last.filter(|(last, _)| {
            last.priority == message.priority && (Arc::ptr_eq(&last.queue, &message.queue) || last.queue == message.queue)
        });
        let run = match same {
            Some((_, run)) => run,
            None => {
                let list = layout.list(&message.queue, message.priority);
                // A list may come again: its messages join those that are there, so that each list
                // is written once and keeps its order.
                runs.iter().position(|(known, _)| *known == list).unwrap_or_else(|| {
                    runs.push((list, Vec::new()));
                    runs.len() - 1
                })
            }
        };
        runs[run].1.push(&message.raw);
        last = Some((message, run));
    }
    if let ([(list, messages)], None) = (runs.as_slice(), once) {
        let mut args: Vec<&[u8]> = vec![b"LPUSH", list.as_bytes()];
        args.extend(messages);
        return Pack::of(&args);
    }
    // In a transaction of Redis' the others would be done though one is refused.
    let keys: Vec<&[u8]> = runs.iter().map(|(list, _)| list.as_bytes()).collect();
    let mut call = RedisCall::new(&scripts::PUBLISH, &keys);
    let Once { key, over } = once.unwrap_or(Once { key: "", over: &[] });
    call.arg(key);
    call.number(over.len() as u64);
    over.iter().for_each(|key| call.arg(key));
    for (_, messages) in &runs {
        call.number(messages.len() as u64);
        messages.iter().for_each(|message| call.arg(message));
    }
    call.pack()
}

#[cfg(test)]
mod tests {
    use super::{super::url::Config, *};

    #[test]
    fn a_batch_is_one_command_for_one_list_and_one_script_for_several() {
        let layout = Layout::new(&Config::parse("redis://").unwrap());
        let message =
            |queue: &str, priority, raw: &str| Outgoing { queue: queue.into(), exchange: None, priority, due: None, raw: raw.into() };
        let text = |batch: &[Outgoing]| {
            let mut out = Vec::new();
            pack(&layout, batch, None).write_to(&mut out);
            String::from_utf8(out).unwrap().split("\r\n").filter(|line| !line.starts_with(['$', '*'])).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&[message("a", 0, "1"), message("a", 2, "2"), message("a", 0, "3")]), "LPUSH a 1 2 3 ");
        assert_eq!(
            text(&[message("a", 0, "1"), message("b", 3, "2"), message("a", 0, "3")]),
            format!("EVALSHA {} 2 a b\x06\x163  0 2 1 3 1 2 ", scripts::PUBLISH.digest())
        );
    }
}
