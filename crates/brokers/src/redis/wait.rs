//! Waiting without taking anything: the server tracks the lengths that this connection asked for,
//! and tells when one of the lists changed. They are asked for behind the command that takes from
//! them, on the same way: what takes the last message is told so, and nothing has to be asked
//! before the wait.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    fail::{Fail, Refusal, explain, is_wrong_type, refusal},
    layout::Layout,
    link::{Link, Wait, pause},
    resp::{Pack, Reply},
};

/// Longest time for which a change may be missed that was never told, because the connection is
/// dead without a word. Then the server is asked whether there is anything, with one command for
/// all lists. This is the time for whoever waits for an answer.
pub(super) const ASKING: Duration = Duration::from_secs(1);
/// The same for a worker that nobody stands beside.
pub(super) const ALONE: Duration = Duration::from_secs(4);
/// The same for one beside others, who are told as well.
pub(super) const AMONG: Duration = Duration::from_secs(15);
/// The same for a worker that stands in line: all who listen may have died at once.
pub(super) const IN_LINE: Duration = Duration::from_secs(5);
/// Time after which the server is told anew what it has to track.
const ANEW: Duration = Duration::from_secs(60);
/// Longest time for which a change may be missed on a list that is waited for while there is always
/// something in another one; longer than an idle worker's looks are apart.
const RARELY: Duration = Duration::from_secs(20);
/// Time after which whoever waits looks around here, at the latest. That costs the server nothing.
pub(super) const GLANCE: Duration = Duration::from_secs(1);

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
    known: KnownLists,
    /// Moment at which nothing was known for certain last.
    looked: Instant,
    /// Time at which the server was told last what is to be tracked.
    told: Instant,
    /// True if the server is to tell of changes.
    tracks: bool,
    /// True where a queue goes before all priorities of those behind it.
    strict: bool,
    /// Error that came as an answer to a question for lengths.
    trouble: Option<String>,
    /// Keys that are no lists, and were told of.
    strange: HashSet<String>,
    attempt: u32,
}

/// Facts that the server has told and not taken back.
#[derive(Default)]
struct KnownLists {
    lengths: HashMap<String, i64>,
    paused: Option<HashSet<Vec<u8>>>,
}

impl KnownLists {
    fn is_paused(&self, list: &List) -> bool {
        self.paused.as_ref().is_some_and(|paused| paused.contains(list.queue.as_bytes()))
    }

    /// Returns true if there may be something to take. Of what is not known anything may be true.
    fn may_have(&self, list: &List) -> bool {
        self.lengths.get(&list.key) != Some(&0) && !self.is_paused(list)
    }
}

impl Lists {
    /// Serves lists over this link, which must be one that [tracks](Link::tracking).
    pub(super) fn new(link: Arc<Link>) -> Self {
        let layout = Layout::new(link.config());
        Self {
            link,
            layout,
            known: KnownLists::default(),
            looked: Instant::now(),
            told: Instant::now(),
            tracks: true,
            strict: false,
            trouble: None,
            strange: HashSet::new(),
            attempt: 0,
        }
    }

    /// Returns the way on which all of it is asked.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn paused_key(&self) -> String {
        self.layout.own("paused")
    }

    /// Sets whether a queue goes before all priorities of those behind it.
    pub(super) fn strictly(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    fn all(&self, queues: &[Arc<str>]) -> Vec<List> {
        let list = |queue: &Arc<str>, place| List { queue: queue.clone(), key: self.layout.list_at(queue, place) };
        let places = 0..self.layout.steps();
        if self.strict {
            return queues.iter().flat_map(|queue| places.clone().map(move |place| list(queue, place))).collect();
        }
        places.flat_map(|place| queues.iter().map(move |queue| list(queue, place))).collect()
    }

    /// Returns those lists of these queues that may have something to take, in the order of
    /// service.
    pub(super) fn open(&mut self, queues: &[Arc<str>]) -> Vec<List> {
        let changed = self.link.changes();
        if changed.all || self.looked.elapsed() > RARELY {
            (self.known, self.looked) = (KnownLists::default(), Instant::now());
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

    /// Sets whether the server is to tell of changes from now on. Where it was not, nothing is
    /// known.
    pub(super) fn track(&mut self, tracks: bool) {
        if !self.tracks && tracks {
            self.forget();
        }
        self.tracks = tracks;
    }

    /// Takes nothing that was told for known.
    pub(super) fn forget(&mut self) {
        (self.known, self.looked) = (KnownLists::default(), Instant::now());
    }

    /// Returns how many messages the last look at the lists left there, of queues that are not
    /// paused.
    pub(super) fn left(&self, queues: &[Arc<str>]) -> u64 {
        let lists = self.all(queues);
        let lengths = lists.iter().filter(|list| !self.known.is_paused(list)).filter_map(|list| self.known.lengths.get(&list.key));
        lengths.map(|length| length.unsigned_abs()).sum()
    }

    /// Does this, which takes from these lists, and learns what it leaves there. Dropped, it leaves
    /// nothing known of them.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn call(&mut self, mut pack: Pack, lists: &[List]) -> Result<Vec<Reply>, Fail> {
        let (own, paused_key) = (pack.replies(), self.paused_key());
        let asks_paused = self.known.paused.is_none();
        let keys = lists.iter().map(|list| [&b"LLEN"[..], list.key.as_bytes()]);
        for ask in keys.chain(asks_paused.then_some([&b"HKEYS"[..], paused_key.as_bytes()])) {
            // Tracking is switched on for one command at a time.
            if self.tracks {
                pack.aside(&[b"CLIENT", b"CACHING", b"YES"]);
            }
            pack.aside(&ask);
        }
        // Until the answers are here nothing is known of these lists, not even if this is dropped
        // meanwhile.
        for list in lists {
            self.known.lengths.remove(&list.key);
        }
        let mut replies = self.link.call(pack, Wait::Forever).await?;
        // The answers to our questions stand behind those to the caller's.
        let mut answers = replies.split_off(own).into_iter();
        let tracks = self.tracks;
        let mut next = || (if tracks { answers.next() } else { Some(Reply::Bulk(Vec::new())) }, answers.next());
        let mut trouble = None;
        for list in lists {
            match next() {
                (Some(Reply::Bulk(_)), Some(Reply::Int(length))) => {
                    self.strange.remove(&list.key);
                    self.known.lengths.insert(list.key.clone(), length);
                }
                (Some(Reply::Bulk(_)), Some(reply)) if reply.error().is_some_and(is_wrong_type) => {
                    // There is nothing to take there until it changes.
                    self.known.lengths.insert(list.key.clone(), 0);
                    if self.strange.insert(list.key.clone()) {
                        let said = explain(&self.link.config().place(), reply.error().unwrap_or_default());
                        (self.link.notice())(&crate::News::remark(format!(
                            "{said}: nothing is taken from the queue {} while {} is no list",
                            list.queue, list.key
                        )));
                    }
                }
                (said, length) => trouble = Some([said, length]),
            }
        }
        if asks_paused {
            match next() {
                (Some(Reply::Bulk(_)), Some(Reply::List(names))) => {
                    self.known.paused = Some(names.into_iter().filter_map(Reply::into_bytes).collect());
                }
                (said, names) => trouble = Some([said, names]),
            }
        }
        if let Some(answers) = trouble {
            self.note(answers);
        }
        Ok(replies)
    }

    fn note(&mut self, answers: [Option<Reply>; 2]) {
        let error = answers.iter().flatten().find_map(Reply::error).unwrap_or("an answer is missing");
        self.trouble = Some(error.to_owned());
    }

    /// Ends a claim that found nothing: decides whether lists of unknown length are to be asked
    /// again, and leaves time for it.
    ///
    /// # Errors
    /// They never will be told: we may not ask.
    pub(super) async fn settle(&mut self) -> Result<(), Fail> {
        let Some(trouble) = self.trouble.take() else {
            self.attempt = 0;
            return Ok(());
        };
        if refusal(&trouble) == Refusal::Never && !is_wrong_type(&trouble) {
            return Err(Fail::Refused(explain(&self.link.config().place(), &trouble)));
        }
        sleep(pause(self.attempt)).await;
        self.attempt += 1;
        Ok(())
    }

    /// Resolves when [`open`](Self::open) may find something, and at the latest after a second.
    /// Changes that were not told are looked for after `safety`. May be dropped at any point.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub(super) async fn wait(&mut self, queues: &[Arc<str>], safety: Duration) -> Result<(), Fail> {
        if timeout(GLANCE, self.link.changed()).await.is_ok() || self.looked.elapsed() < safety {
            return Ok(());
        }
        let anew = self.tracks && self.told.elapsed() > ANEW;
        match self.look(queues, anew).await {
            Err(fail @ Fail::Refused(_)) => Err(fail),
            Err(_) | Ok(()) => self.settle().await,
        }
    }

    /// Asks whether there is anything, without taking it. `tracked`: the server tells of the next
    /// change of any of these lists.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn look(&mut self, queues: &[Arc<str>], tracked: bool) -> Result<(), Fail> {
        if tracked {
            self.known = KnownLists::default();
        }
        let lists = self.all(queues);
        let lists: Vec<&List> = lists.iter().filter(|list| !self.known.is_paused(list)).collect();
        let mut pack = Pack::default();
        if tracked {
            pack.aside(&[b"CLIENT", b"CACHING", b"YES"]);
        }
        let keys = lists.iter().map(|list| list.key.as_bytes());
        // One question for all lists, which does not tell them apart.
        let asks: Vec<&[u8]> = [&b"EXISTS"[..]].into_iter().chain(keys).collect();
        if !lists.is_empty() {
            pack.aside(&asks);
        }
        let paused_key = self.paused_key();
        if tracked {
            pack.aside(&[b"CLIENT", b"CACHING", b"YES"]);
            pack.aside(&[b"HKEYS", paused_key.as_bytes()]);
        }
        if pack.is_empty() {
            self.looked = Instant::now();
            return Ok(());
        }
        let mut replies = self.link.ask(pack, Wait::Forever).await?;
        self.looked = Instant::now();
        if tracked {
            self.told = self.looked;
        }
        if let Some(error) = replies.iter().find_map(Reply::error) {
            self.trouble = Some(error.to_owned());
            return Ok(());
        }
        if tracked && let Some(Reply::List(names)) = replies.pop() {
            self.known.paused = Some(names.into_iter().filter_map(Reply::into_bytes).collect());
        }
        let is_empty = replies.iter().all(|reply| !matches!(reply, Reply::Int(1..)));
        match (is_empty, tracked) {
            (true, true) => self.known.lengths.extend(lists.iter().map(|list| (list.key.clone(), 0))),
            (true, false) => {}
            // Which of them it is, is found by taking.
            (false, _) => self.known.lengths.clear(),
        }
        Ok(())
    }
}
