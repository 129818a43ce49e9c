//! Putting messages into queues, and saying that the queues exist.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use super::{
    fail::Fail,
    layout::{Layout, binding},
    link::{Link, Wait, locked},
    resp::Pack,
};
use crate::broker::Outgoing;

/// The queues that were said to exist, since the connection that heard it.
#[derive(Default)]
pub(super) struct Declared(Mutex<(u64, HashSet<Arc<str>>)>);

impl Declared {
    /// Says that these queues exist, where it was not said before: a foreign worker restores what has an exchange by these sets.
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
        link.ask(pack, wait).await?;
        locked(&self.0).1.extend(new);
        Ok(())
    }
}

/// All of them, or none.
pub(super) fn pack(layout: &Layout, batch: &[Outgoing]) -> Pack {
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
                // A list may come again: its messages join those that are there, so that each list is written once and keeps its order.
                runs.iter().position(|(known, _)| *known == list).unwrap_or_else(|| {
                    runs.push((list, Vec::new()));
                    runs.len() - 1
                })
            }
        };
        runs[run].1.push(&message.raw);
        last = Some((message, run));
    }
    let push = |pack: &mut Pack| {
        for (list, messages) in &runs {
            let mut args: Vec<&[u8]> = vec![b"LPUSH", list.as_bytes()];
            args.extend(messages);
            pack.add(&args);
        }
    };
    if runs.len() == 1 {
        let mut pack = Pack::default();
        push(&mut pack);
        return pack;
    }
    Pack::transaction(push)
}

#[cfg(test)]
mod tests {
    use super::{super::url::Config, *};

    #[test]
    fn a_batch_is_one_command_for_one_list_and_a_transaction_for_several() {
        let layout = Layout::new(&Config::parse("redis://").unwrap());
        let message = |queue: &str, priority, raw: &str| Outgoing { queue: queue.into(), priority, due: None, raw: raw.into() };
        let text = |batch: &[Outgoing]| {
            let mut out = Vec::new();
            pack(&layout, batch).write_to(&mut out);
            String::from_utf8(out).unwrap().split("\r\n").filter(|line| !line.starts_with(['$', '*'])).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&[message("a", 0, "1"), message("a", 2, "2"), message("a", 0, "3")]), "LPUSH a 1 2 3 ");
        assert_eq!(text(&[message("a", 0, "1"), message("b", 3, "2"), message("a", 0, "3")]), "MULTI LPUSH a 1 3 LPUSH b\x06\x163 2 EXEC ");
    }
}
