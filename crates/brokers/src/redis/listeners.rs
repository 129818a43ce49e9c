//! Places of the workers that serve the same queues and have nothing to do. Four of them are told
//! by the server when a list changes. The others stand in line and are called one by one, each on a
//! channel of its own. A listener that is busy gives its place to the next in line; whoever takes
//! messages and leaves some calls two more. So a message wakes a few workers, however many there
//! are, and up to four pay nothing for it.
//!
//! Anything lost on the way costs time and no message: whoever stands in line looks for itself
//! every few seconds.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{interval, sleep},
};

use super::{
    fail::Fail,
    layout::Layout,
    link::{Link, Wait, locked},
    pubsub::{Guard, Listener, PubSub, Topic},
    resp::{Pack, RedisCall, Reply},
    scripts,
};
use crate::halves::LeftOut;

/// Most that listen, of those that serve the same queues.
const MOST: u64 = 4;
/// Most that are called by one that leaves messages behind: each of them may call as many.
const CALLED: u64 = 2;
/// Time after which a listener that has room and has not come back is busy.
const BUSY: Duration = Duration::from_millis(20);
/// Time after which a listener that has not looked around waits, and is not let: its claim was put
/// aside while it is busy with what it held.
const ASIDE: Duration = Duration::from_secs(3);
/// Time after which whoever stands in line says so again: it may have been forgotten, or those who
/// listened are dead. The script forgets it after three of these times.
const REMINDED: Duration = Duration::from_secs(120);
/// The exchange of the channels on which workers are called.
const EXCHANGE: &str = "longshore.wake";

/// Place of a worker that has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Post {
    /// Nothing yet: it has to [enter](Listeners::enter).
    #[default]
    None,
    /// The server tells it what changes.
    Listens,
    /// It waits until it is called.
    InLine,
}

/// Knowledge of whether others stand in line.
#[derive(Debug, Default)]
struct Crowd {
    /// Somebody may.
    is_there: bool,
    /// Number of times that this was heard.
    heard: u64,
}

impl Crowd {
    fn hear(&mut self) {
        self.is_there = true;
        self.heard += 1;
    }

    /// Takes an answer to what was asked when so much had been heard. What was heard since may have
    /// come to be behind the answer, on another connection.
    fn answered(&mut self, heard: u64, is_there: bool) {
        if is_there || self.heard == heard {
            self.is_there = is_there;
        }
    }
}

#[derive(Default)]
struct LineState {
    post: Post,
    /// It has just been called: nothing is known of the lists.
    called: bool,
    crowd: Crowd,
    /// It is about to claim, or waits for something to claim.
    attends: bool,
    /// Time at which it looked around last.
    seen: Option<Instant>,
    /// Number of times that it began to attend.
    turn: u64,
    /// The connection on which it entered.
    generation: u64,
    entered: Option<Instant>,
    /// Hash of the queues that are served: the end of the names of the keys.
    group: String,
    /// Task that is saying something to the others: nothing is said before it is done.
    saying: Option<JoinHandle<()>>,
}

/// A worker's place among those that serve the same queues.
pub(super) struct Listeners {
    link: Arc<Link>,
    layout: Layout,
    boot: String,
    state: Mutex<LineState>,
    hint: Notify,
}

/// Ends the hearing when it is dropped.
pub(super) struct Hearing {
    _guard: Guard,
    task: JoinHandle<()>,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    /// Makes a worker's place. With the other value it hears when it is called.
    ///
    /// # Errors
    /// We may not listen to the channel, or cannot: then every worker has to be told what changes,
    /// for itself.
    pub(super) async fn open(link: Arc<Link>, layout: Layout, pubsub: &PubSub, boot: &str) -> Result<(Arc<Self>, Hearing), Fail> {
        let (sink, mut calls) = mpsc::channel::<(String, Vec<u8>)>(64);
        let topics = vec![Topic::Channel(layout.channel(EXCHANGE, boot))];
        let missed = Arc::new(Notify::new());
        let listener = Listener {
            topics,
            keys: Vec::new(),
            sink,
            name: Box::new(str::to_owned),
            missed: missed.clone(),
            left_out: LeftOut::default(),
        };
        let (guard, _) = pubsub.listen(listener).await?;
        let own = Arc::new(Self { link, layout, boot: boot.to_owned(), state: Mutex::default(), hint: Notify::new() });
        let hears = own.clone();
        let task = tokio::spawn(async move {
            let mut tick = interval(ASIDE / 3);
            loop {
                tokio::select! {
                    _ = tick.tick() => hears.give_way(),
                    call = calls.recv() => match call {
                        Some((_, word)) => hears.hear(&word),
                        None => return,
                    },
                    () = missed.notified() => hears.forget(),
                }
            }
        });
        Ok((own, Hearing { _guard: guard, task }))
    }

    /// Looks around: what we do, as it was said on this connection; `true` where we were called
    /// since the last time.
    pub(super) fn post(&self) -> (Post, bool) {
        let mut state = locked(&self.state);
        let is_old = state.post == Post::InLine && state.entered.is_none_or(|at| at.elapsed() > REMINDED);
        if state.generation != self.link.generation() || is_old {
            (state.generation, state.post) = (self.link.generation(), Post::None);
        }
        let called = std::mem::take(&mut state.called);
        state.seen = Some(Instant::now());
        (state.post, called)
    }

    /// Begins to attend, for these queues where they are not those of before.
    pub(super) fn attend(&self, queues: Option<&Vec<Arc<str>>>) {
        let Some(queues) = queues else {
            let mut state = locked(&self.state);
            (state.attends, state.turn) = (true, state.turn + 1);
            return;
        };
        let mut sorted: Vec<&str> = queues.iter().map(|queue| &**queue).collect();
        sorted.sort_unstable();
        let group = sha1_smol::Sha1::from(sorted.join("\n")).digest().to_string();
        let old = {
            let mut state = locked(&self.state);
            state.attends = true;
            state.turn += 1;
            (state.group != group).then(|| (std::mem::replace(&mut state.group, group), std::mem::take(&mut state.post)))
        };
        // Other queues have others who serve them.
        if let Some((group, post)) = old
            && post != Post::None
        {
            locked(&self.state).saying = None;
            let (link, pack) = (self.link.clone(), self.leave_pack(&group));
            tokio::spawn(async move { drop(link.ask(pack, Wait::Forever).await) });
        }
    }

    /// Attends no more: this many were taken where there was this much room, and so many are left
    /// there.
    pub(super) fn took(self: &Arc<Self>, taken: usize, room: usize, left: u64) {
        let (leaves, calls, listens) = {
            let mut state = locked(&self.state);
            state.attends = false;
            if !state.crowd.is_there {
                return;
            }
            let listens = state.post == Post::Listens;
            (listens && taken >= room, left.min(CALLED), listens)
        };
        if leaves || calls > 0 {
            self.pass(leaves, calls);
        }
        if listens && !leaves {
            let turn = locked(&self.state).turn;
            let own = self.clone();
            tokio::spawn(async move {
                sleep(BUSY).await;
                let is_busy = {
                    let state = locked(&own.state);
                    state.turn == turn && !state.attends && state.post == Post::Listens
                };
                if is_busy {
                    own.pass(true, 0);
                }
            });
        }
    }

    /// Listens, or stands in line; with `true` where that is to begin.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn enter(&self) -> Result<Post, Fail> {
        let said = locked(&self.state).saying.take();
        if let Some(said) = said {
            let _ = said.await;
        }
        let (group, generation, heard) = {
            let state = locked(&self.state);
            (state.group.clone(), state.generation, state.crowd.heard)
        };
        let keys = self.keys(&group);
        let mut call = RedisCall::new(&scripts::ENTER, &keys.each_ref().map(|key| key.as_bytes()));
        call.arg(&self.boot);
        call.arg(self.layout.own("owner:"));
        call.arg(self.channels());
        call.number(MOST);
        let said = self.link.ask(call.pack(), Wait::Forever).await?.pop().as_ref().and_then(Reply::int);
        let mut state = locked(&self.state);
        state.entered = Some(Instant::now());
        // It was called before it had heard that it stands in line.
        if state.called || state.generation != generation {
            return Ok(state.post);
        }
        state.post = if matches!(said, Some(1 | 2)) { Post::Listens } else { Post::InLine };
        state.crowd.answered(heard, said != Some(1));
        Ok(state.post)
    }

    /// Notes that what lay there was found, and nobody had called: where we stand in line, those
    /// who listen may be dead. Entering again finds out.
    pub(super) fn found_uncalled(&self) {
        let mut state = locked(&self.state);
        if state.post == Post::InLine && !state.called {
            state.post = Post::None;
        }
    }

    /// Returns whether we are one of the few.
    pub(super) fn listens(&self) -> bool {
        locked(&self.state).post == Post::Listens
    }

    /// Resolves when we are called.
    pub(super) async fn called(&self) {
        self.hint.notified().await;
    }

    /// Gives the place away: nothing more is claimed.
    pub(super) fn stop(self: &Arc<Self>) {
        let post = {
            let mut state = locked(&self.state);
            state.attends = false;
            std::mem::take(&mut state.post)
        };
        if post != Post::None {
            self.pass(true, 0);
        }
    }

    /// The same, and waits until it is said.
    pub(super) async fn leave(&self) -> Result<(), Fail> {
        let said = locked(&self.state).saying.take();
        if let Some(said) = said {
            let _ = said.await;
        }
        let group = {
            let mut state = locked(&self.state);
            (state.attends, state.post) = (false, Post::None);
            state.group.clone()
        };
        if !group.is_empty() {
            self.link.ask(self.leave_pack(&group), Wait::Patience).await?;
        }
        Ok(())
    }

    /// Gives the place away where our claim is put aside.
    fn give_way(self: &Arc<Self>) {
        let is_aside = {
            let mut state = locked(&self.state);
            let is_aside = state.crowd.is_there
                && state.attends
                && state.post == Post::Listens
                && state.seen.is_some_and(|seen| seen.elapsed() > ASIDE);
            state.called |= is_aside;
            is_aside
        };
        if is_aside {
            self.pass(true, 0);
        }
    }

    fn forget(&self) {
        let mut state = locked(&self.state);
        (state.post, state.called) = (Post::None, true);
        drop(state);
        self.hint.notify_one();
    }

    fn hear(self: &Arc<Self>, word: &[u8]) {
        let (leaves, calls) = {
            let mut state = locked(&self.state);
            match word {
                b"crowd" => {
                    state.crowd.hear();
                    (state.post == Post::Listens && !state.attends, 0)
                }
                b"listen" => {
                    (state.post, state.called) = (Post::Listens, true);
                    state.crowd.hear();
                    (!state.attends, 0)
                }
                _ => {
                    if state.post == Post::InLine {
                        state.post = Post::None;
                    }
                    state.called = true;
                    state.crowd.hear();
                    (false, u64::from(!state.attends))
                }
            }
        };
        self.hint.notify_one();
        // Busy: another one hears it in our place.
        if leaves || calls > 0 {
            self.pass(leaves, calls);
        }
    }

    /// Tells the next in line, behind whatever is being said.
    fn pass(self: &Arc<Self>, leaves: bool, calls: u64) {
        let mut state = locked(&self.state);
        if leaves {
            state.post = Post::None;
        }
        let pack = self.pass_pack(&state.group, leaves, calls);
        let (own, before) = (self.clone(), state.saying.take());
        state.saying = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let heard = locked(&own.state).crowd.heard;
            if let Ok(said) = own.link.ask(pack, Wait::Forever).await
                && said.last().and_then(Reply::int) == Some(0)
            {
                locked(&own.state).crowd.answered(heard, false);
            }
        }));
    }

    /// Returns what stands before a worker's name in its channel.
    fn channels(&self) -> String {
        format!("{}/", self.layout.channel(EXCHANGE, ""))
    }

    fn keys(&self, group: &str) -> [String; 3] {
        ["listeners", "line", "crowd"].map(|name| self.layout.own(&format!("{name}:{group}")))
    }

    fn pass_pack(&self, group: &str, leaves: bool, calls: u64) -> Pack {
        let keys = self.keys(group);
        let mut call = RedisCall::new(&scripts::PASS, &keys.each_ref().map(|key| key.as_bytes()));
        call.arg(&self.boot);
        call.arg(self.channels());
        call.number(leaves.into());
        call.number(calls);
        call.pack()
    }

    fn leave_pack(&self, group: &str) -> Pack {
        self.pass_pack(group, true, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_nobody_stands_in_line_counts_unless_somebody_was_heard_of_meanwhile() {
        // Heard of before the question, and between question and answer; the answer; what is known
        // then.
        let rows = [
            (0, 0, false, false),
            (0, 0, true, true),
            (1, 0, false, false),
            (1, 0, true, true),
            (0, 1, false, true),
            (1, 1, false, true),
            (1, 1, true, true),
        ];
        for (before, meanwhile, answer, expected) in rows {
            let mut crowd = Crowd::default();
            (0..before).for_each(|_| crowd.hear());
            let asked = crowd.heard;
            (0..meanwhile).for_each(|_| crowd.hear());
            crowd.answered(asked, answer);
            assert_eq!(crowd.is_there, expected, "{before} before, {meanwhile} meanwhile, answer {answer}");
        }
    }
}
