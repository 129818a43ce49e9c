//! Waiting without taking anything: the server tracks the lengths that this connection asked for, and tells when one of the lists changed. They are asked
//! for behind the command that takes from them, on the same way: what takes the last message is told so, and nothing has to be asked before the wait.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    fail::{Fail, Refusal, explain, refusal},
    layout::Layout,
    link::{Link, Wait, pause},
    resp::{Pack, Reply},
};

/// How long a change may be missed: then the lengths are asked for again.
const SAFETY: Duration = Duration::from_secs(1);
/// The same for a list that is waited for while there is always something in another one.
const RARELY: Duration = Duration::from_secs(10);

/// One of the lists of a queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    pub(super) queue: Arc<str>,
    pub(super) key: String,
}

/// The lists that are served, and what is known of them.
pub(super) struct Lists {
    link: Arc<Link>,
    layout: Layout,
    known: Known,
    /// When nothing was known for certain last.
    looked: Instant,
    /// What answers to lengths have said that were no lengths.
    trouble: Option<String>,
    attempt: u32,
}

/// What the server has told and not taken back.
#[derive(Default)]
struct Known {
    lengths: HashMap<String, i64>,
    paused: Option<HashSet<Vec<u8>>>,
}

impl Known {
    /// Whether there may be something to take. What is not known may be anything.
    fn may_have(&self, list: &List) -> bool {
        let is_paused = || self.paused.as_ref().is_some_and(|paused| paused.contains(list.queue.as_bytes()));
        self.lengths.get(&list.key) != Some(&0) && !is_paused()
    }
}

impl Lists {
    /// The link must be one that [tracks](Link::tracking).
    pub(super) fn new(link: Arc<Link>) -> Self {
        let layout = Layout::new(link.config());
        Self { link, layout, known: Known::default(), looked: Instant::now(), trouble: None, attempt: 0 }
    }

    /// The way on which all of it is asked.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn paused_key(&self) -> String {
        self.layout.own("paused")
    }

    fn all(&self, queues: &[Arc<str>]) -> Vec<List> {
        let lists = |place| queues.iter().map(move |queue| List { queue: queue.clone(), key: self.layout.list_at(queue, place) });
        (0..self.layout.steps()).flat_map(lists).collect()
    }

    /// Those lists of these queues that may have something to take, in the order of service.
    pub(super) fn open(&mut self, queues: &[Arc<str>]) -> Vec<List> {
        let changed = self.link.changes();
        if changed.all || self.looked.elapsed() > RARELY {
            (self.known, self.looked) = (Known::default(), Instant::now());
        }
        for key in changed.keys {
            if key == self.paused_key().as_bytes() {
                self.known.paused = None;
            } else if let Ok(key) = std::str::from_utf8(&key) {
                self.known.lengths.remove(key);
            }
        }
        let mut lists = self.all(queues);
        lists.retain(|list| self.known.may_have(list));
        lists
    }

    /// Does this, which takes from these lists, and learns what it leaves there. Dropped, it leaves nothing known of them.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn call(&mut self, mut pack: Pack, lists: &[List]) -> Result<Vec<Reply>, Fail> {
        let (own, paused_key) = (pack.replies(), self.paused_key());
        let asks_paused = self.known.paused.is_none();
        let keys = lists.iter().map(|list| [&b"LLEN"[..], list.key.as_bytes()]);
        for ask in keys.chain(asks_paused.then_some([&b"HKEYS"[..], paused_key.as_bytes()])) {
            pack.aside(&[b"CLIENT", b"CACHING", b"YES"]);
            pack.aside(&ask);
        }
        for list in lists {
            self.known.lengths.remove(&list.key);
        }
        let mut replies = self.link.call(pack, Wait::Forever).await?;
        let mut answers = replies.split_off(own).into_iter();
        for list in lists {
            match (answers.next(), answers.next()) {
                (Some(Reply::Bulk(_)), Some(Reply::Int(length))) => drop(self.known.lengths.insert(list.key.clone(), length)),
                (said, length) => self.note([said, length]),
            }
        }
        if asks_paused {
            match (answers.next(), answers.next()) {
                (Some(Reply::Bulk(_)), Some(Reply::List(names))) => {
                    self.known.paused = Some(names.into_iter().filter_map(Reply::into_bytes).collect());
                }
                (said, names) => self.note([said, names]),
            }
        }
        Ok(replies)
    }

    fn note(&mut self, answers: [Option<Reply>; 2]) {
        let error = answers.iter().flatten().find_map(Reply::error).unwrap_or("an answer is missing");
        self.trouble = Some(error.to_owned());
    }

    /// When nothing was there to take: whether lists that it cannot learn the lengths of are to be asked again, which it leaves time for.
    ///
    /// # Errors
    /// They never will be told: we may not ask.
    pub(super) async fn settle(&mut self) -> Result<(), Fail> {
        let Some(trouble) = self.trouble.take() else {
            self.attempt = 0;
            return Ok(());
        };
        if refusal(&trouble) == Refusal::Never {
            return Err(Fail::Refused(explain(&self.link.config().place(), &trouble)));
        }
        sleep(pause(self.attempt)).await;
        self.attempt += 1;
        Ok(())
    }

    /// Resolves when [`open`](Self::open) may find something, and at the latest after a second. May be dropped at any point.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub(super) async fn wait(&mut self, queues: &[Arc<str>]) -> Result<(), Fail> {
        if timeout(SAFETY, self.link.changed()).await.is_ok() {
            return Ok(());
        }
        // Asked, not taken: this is for a change that was never told, which is not to be expected.
        self.known = Known::default();
        match self.call(Pack::default(), &self.all(queues)).await {
            Err(fail @ Fail::Refused(_)) => Err(fail),
            Err(_) | Ok(_) => self.settle().await,
        }
    }
}
