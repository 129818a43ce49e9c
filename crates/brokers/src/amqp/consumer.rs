//! A consumer: what the server sends is kept until it is claimed, and what was claimed until it
//! ends. Its channels are looked after by `feed.rs`.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::{Receipt, source::Fetched};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    declare::{Declarer, Giving},
    delay,
    direct::{Arrival, DirectChannel},
    feed,
    finish::MOST_ASIDE,
    held::{Again, Held, Lent, Tag, acknowledgements},
    link::{Link, Wait, locked},
    parts::Parcel,
    plan::copy,
    publish::{Publisher, Routed},
    window,
};
use crate::{
    broker::{Consumer, OpenOptions},
    error::BrokerError,
    lease::Lease,
    message::{Claimed, Ended, Finish},
    rotation::Rotation,
};

/// A message that the server has sent, and nobody has claimed.
pub(super) struct Arrived {
    tag: Tag,
    redelivered: bool,
    parcel: Arc<Parcel>,
    at: Instant,
}

/// A channel that gives.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) direct: Arc<DirectChannel>,
    /// Tags that are not acknowledged.
    pub(super) outstanding: BTreeSet<u64>,
    /// Number of those that nobody has claimed.
    ready: usize,
    /// Number of messages that it may send ahead.
    pub(super) window: u16,
    /// First tag that counts against the window: those before it were delivered to consumers that
    /// are no more.
    pub(super) counts_from: u64,
    last: u64,
}

impl Session {
    /// Returns whether the server has sent all that it may send.
    fn is_full(&self) -> bool {
        let all_count = self.outstanding.first().is_none_or(|first| *first >= self.counts_from);
        let sent = if all_count { self.outstanding.len() } else { self.outstanding.range(self.counts_from..).count() };
        sent >= usize::from(self.window)
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) ready: HashMap<Arc<str>, VecDeque<Arrived>>,
    pub(super) held: Held,
    pub(super) sessions: [Option<Session>; 2],
    /// Room of the latest claim.
    pub(super) room: usize,
    /// A claim waits.
    pub(super) waits: bool,
    /// Channels that give, while somebody claims what they send: the others rest until a claim
    /// waits.
    pub(super) gives: [bool; 2],
    /// Moments since which channels are there, or nothing is to come on one; `None` while one is to
    /// be made.
    pub(super) begun: [Option<Instant>; 2],
    last_session: u64,
}

/// State that a consumer's parts share.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) publisher: Arc<Publisher>,
    pub(super) declarer: Arc<Declarer>,
    pub(super) turns: Rotation,
    /// A new term begins whenever a channel is lost.
    pub(super) lease: Arc<Lease>,
    pub(super) node: String,
    /// Others find what holds messages back for quorum queues.
    pub(super) takes_delayed: bool,
    /// Deliveries, taken in on a thread of lapin's.
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    /// Something has come, or a channel was lost or made.
    pub(super) arrived: Notify,
    /// The feeds have something to do.
    pub(super) changed: Notify,
    /// Nothing is claimed any more; what is claimed goes on.
    closed: AtomicBool,
    /// The channels are given up, and what they lent with them.
    left: AtomicBool,
    /// Room for ends that wait beside the others.
    pub(super) asides: Arc<Semaphore>,
}

impl State {
    /// Returns the number of the next channel.
    pub(super) fn next_session(&mut self) -> u64 {
        self.last_session += 1;
        self.last_session
    }

    pub(super) fn begin(&mut self, giving: Giving, id: u64, direct: Arc<DirectChannel>, window: u16) {
        self.begun[giving as usize] = Some(Instant::now());
        self.sessions[giving as usize] =
            Some(Session { id, direct, outstanding: BTreeSet::new(), ready: 0, window, counts_from: 0, last: 0 });
    }

    /// Returns how many messages of a channel are claimed and have not ended; with those that are
    /// expected to come again.
    pub(super) fn claimed(&self, giving: Giving) -> usize {
        let lost = self.held.lost();
        let Some(session) = &self.sessions[giving as usize] else { return lost };
        session.outstanding.len().saturating_sub(session.ready) + lost
    }

    /// Notes that consumers begin anew, to which nothing was delivered yet.
    pub(super) fn count_anew(&mut self, giving: Giving) {
        if let Some(session) = &mut self.sessions[giving as usize] {
            session.counts_from = session.last + 1;
        }
    }

    /// Returns whether consumers of this kind have all that they may have, and a claim waits.
    pub(super) fn is_starved(&self, giving: Giving) -> bool {
        self.waits && self.sessions[giving as usize].as_ref().is_some_and(Session::is_full)
    }

    fn session_of(&mut self, tag: Tag) -> Option<&mut Session> {
        self.sessions.iter_mut().flatten().find(|session| session.id == tag.session)
    }

    /// Leaves a message to the dead-letter exchange of its queue.
    pub(super) fn reject(&mut self, tag: Tag) {
        let session = self.session_of(tag).filter(|session| session.outstanding.contains(&tag.tag));
        if let Some(session) = session {
            session.outstanding.remove(&tag.tag);
            session.direct.reject(tag.tag);
        }
    }

    /// Takes what nobody has claimed since then out of a channel's, with the queues.
    pub(super) fn unclaimed(&mut self, session: u64, since: Instant) -> Vec<(Arc<str>, Arrived)> {
        let mut unclaimed = Vec::new();
        for (queue, line) in &mut self.ready {
            let (stay, go): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(line).into_iter().partition(|arrived| arrived.tag.session != session || arrived.at > since);
            *line = stay;
            unclaimed.extend(go.into_iter().map(|arrived| (queue.clone(), arrived)));
        }
        if let Some(session) = self.session_of(Tag { session, tag: 0 }) {
            session.ready -= unclaimed.len();
        }
        unclaimed
    }

    /// Keeps a message until it is claimed. One whose channel is gone comes again.
    fn keep(&mut self, queue: &Arc<str>, arrived: Arrived) {
        if let Some(session) = self.session_of(arrived.tag) {
            session.ready += 1;
            self.ready.entry(queue.clone()).or_default().push_back(arrived);
        }
    }

    /// Takes the next message of a queue, if it has one.
    fn pop(&mut self, queue: &str) -> Option<Arrived> {
        let arrived = self.ready.get_mut(queue)?.pop_front()?;
        if let Some(session) = self.session_of(arrived.tag) {
            session.ready -= 1;
        }
        Some(arrived)
    }

    /// Returns the queue that has something, if it is one alone: then there are no turns.
    fn only_queue(&self) -> Option<Arc<str>> {
        let mut some = self.ready.iter().filter(|(_, line)| !line.is_empty());
        some.next().filter(|_| some.next().is_none()).map(|(queue, _)| queue.clone())
    }

    /// Returns when the first of what waits to be claimed came.
    pub(super) fn oldest(&self, session: u64) -> Option<Instant> {
        self.ready.values().flatten().filter(|arrived| arrived.tag.session == session).map(|arrived| arrived.at).min()
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Notes that no channel is needed: what came on the last one does not come again.
    pub(super) fn needs_none(&self, giving: Giving) {
        let mut state = self.state();
        if state.begun[giving as usize].is_none() {
            state.begun[giving as usize] = Some(Instant::now());
            self.arrived.notify_waiters();
        }
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Takes in what has come for a queue.
    pub(super) fn arrive(self: &Arc<Self>, queue: &Arc<str>, session: u64, deliveries: Vec<Arrival>) {
        let (mut over, mut off) = (Vec::new(), Vec::new());
        let now = SystemTime::now();
        {
            let mut state = self.state();
            let state = &mut *state;
            for delivery in deliveries {
                let tag = Tag { session, tag: delivery.tag };
                let parcel = Arc::new(Parcel { properties: delivery.properties, body: delivery.body });
                let Some(of) = state.sessions.iter_mut().flatten().find(|other| other.id == session) else { return };
                of.outstanding.insert(tag.tag);
                of.last = of.last.max(tag.tag);
                let again = if delivery.redelivered { state.held.again(queue, &parcel, tag) } else { Again::New };
                match again {
                    Again::Ours => {}
                    Again::Over => over.push(tag),
                    // Nobody else could do anything with it meanwhile, and the server waits for
                    // nobody for ever.
                    Again::New if delay::due_of(&parcel).is_some_and(|due| due > now + delay::LONG) => off.push((tag, parcel)),
                    Again::New => {
                        let arrived = Arrived { tag, redelivered: delivery.redelivered, parcel, at: Instant::now() };
                        state.keep(queue, arrived);
                    }
                }
            }
        }
        if !over.is_empty() {
            self.settle(over, Vec::new());
        }
        if !off.is_empty() {
            let (shared, queue) = (self.clone(), queue.clone());
            self.runtime.spawn(async move { shared.put_off(&queue, off).await });
        }
        self.arrived.notify_waiters();
        if self.is_closed() {
            self.changed.notify_waiters();
        }
    }

    /// Sends messages that are not due for long to where the server holds them back. Where it
    /// cannot, they are lent as they are.
    async fn put_off(&self, queue: &Arc<str>, off: Vec<(Tag, Arc<Parcel>)>) {
        let routed = |(_, parcel): &(Tag, Arc<Parcel>)| {
            let due = delay::due_of(parcel);
            Routed { due, ..Routed::to(queue, copy(parcel)) }
        };
        let sends: Vec<Routed> = off.iter().map(routed).collect();
        // What may have been sent, and is not known to be, is kept, too: it comes twice then, and
        // not never.
        let are_off = self.publisher.put_off(&sends).await.unwrap_or_else(|_| vec![false; sends.len()]);
        let (mut acks, mut state) = (Vec::new(), self.state());
        for ((tag, parcel), is_off) in off.into_iter().zip(are_off) {
            if is_off {
                acks.push(tag);
            } else {
                state.keep(queue, Arrived { tag, redelivered: false, parcel, at: Instant::now() });
            }
        }
        drop(state);
        self.settle(acks, Vec::new());
        self.arrived.notify_waiters();
    }

    /// Gives messages back that nobody has claimed. Those that were lent in vain too often go back
    /// as new ones: the server would throw them away.
    pub(super) fn give_back(self: &Arc<Self>, unclaimed: Vec<(Arc<str>, Arrived)>) {
        let (worn, backs): (Vec<_>, Vec<_>) = unclaimed.into_iter().partition(|(_, arrived)| arrived.parcel.is_worn());
        self.settle(Vec::new(), backs.into_iter().map(|(_, arrived)| arrived.tag).collect());
        if worn.is_empty() {
            return;
        }
        let shared = self.clone();
        self.runtime.spawn(async move {
            let sends: Vec<Routed> = worn.iter().map(|(queue, arrived)| Routed::to(queue, copy(&arrived.parcel))).collect();
            let Ok(refusals) = shared.publisher.send(&sends, Wait::Forever).await else { return };
            let (acks, backs): (Vec<_>, Vec<_>) = worn.iter().zip(refusals).partition(|(_, refusal)| refusal.is_none());
            let tags = |some: Vec<(&(Arc<str>, Arrived), Option<String>)>| some.iter().map(|((_, arrived), _)| arrived.tag).collect();
            shared.settle(tags(acks), tags(backs));
        });
    }

    /// Notes that a channel is gone: what came on it may be anybody's. Returns how many messages
    /// were claimed of it.
    pub(super) fn lose(&self, giving: Giving) -> usize {
        let mut state = self.state();
        let Some(session) = state.sessions[giving as usize].take() else { return 0 };
        state.ready.values_mut().for_each(|line| line.retain(|arrived| arrived.tag.session != session.id));
        let count = state.held.lose(session.id);
        state.begun[giving as usize] = None;
        if count > 0 {
            self.lease.lose();
        }
        drop(state);
        self.arrived.notify_waiters();
        count
    }

    /// Takes what is there, from each queue in its turn.
    fn take(&self, room: usize, into: &mut Vec<Claimed>) {
        let mut taken = Vec::new();
        {
            let mut state = self.state();
            let state = &mut *state;
            let only = state.only_queue().filter(|queue| self.turns.order().contains(queue));
            while taken.len() < room {
                let next = match &only {
                    Some(queue) => state.pop(queue).map(|arrived| (arrived, queue.clone())),
                    None => self.turns.order().into_iter().find_map(|queue| Some((state.pop(&queue)?, queue))),
                };
                let Some((arrived, queue)) = next else { break };
                if only.is_none() {
                    self.turns.served(&queue);
                }
                let number = state.held.add(queue.clone(), arrived.parcel.clone(), arrived.tag);
                taken.push((number, queue, arrived));
            }
            state.room = room;
            state.waits = taken.is_empty();
        }
        into.extend(taken.into_iter().map(|(number, queue, arrived)| arrived.parcel.claimed(number, queue, arrived.redelivered)));
    }

    /// Wakes the feeds if a window is to be changed.
    fn look_at_windows(&self) {
        let state = self.state();
        let wanted = window::wanted(state.claimed(Giving::Classic), state.room);
        let classic = state.sessions[Giving::Classic as usize].as_ref();
        let change = classic.is_some_and(|session| window::is_to_change(session.window, wanted, state.waits));
        let starved = state.is_starved(Giving::Fixed) || (state.waits && state.gives != [true; 2]);
        drop(state);
        if change || starved {
            self.changed.notify_waiters();
        }
    }

    /// Acknowledges some and gives others back to their places. What was delivered on a channel
    /// that is gone comes again.
    ///
    /// An acknowledgement of many is of all that came before, so what is outstanding and what goes
    /// to the server change in one step.
    pub(super) fn settle(&self, acks: Vec<Tag>, backs: Vec<Tag>) {
        let mut by_session: HashMap<u64, [Vec<u64>; 2]> = HashMap::new();
        acks.into_iter().for_each(|tag| by_session.entry(tag.session).or_default()[0].push(tag.tag));
        backs.into_iter().for_each(|tag| by_session.entry(tag.session).or_default()[1].push(tag.tag));
        let mut state = self.state();
        for (session, [acks, mut backs]) in by_session {
            let Some(session) = state.session_of(Tag { session, tag: 0 }) else { continue };
            let acks = acknowledgements(&mut session.outstanding, acks);
            backs.retain(|tag| session.outstanding.remove(tag));
            session.direct.settle(&acks, &backs);
        }
    }
}

/// A consumer of some queues.
pub(super) struct AmqpConsumer {
    shared: Arc<Shared>,
    feeds: Vec<tokio::task::JoinHandle<()>>,
}

impl AmqpConsumer {
    /// Opens it: the server is there, and takes us.
    pub(super) async fn open(
        link: Link,
        publisher: Arc<Publisher>,
        declarer: Arc<Declarer>,
        options: OpenOptions,
    ) -> Result<Self, BrokerError> {
        let open = link.open(Wait::Patience).await?;
        let heartbeat = match open.connection.configuration().heartbeat() {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()),
        };
        let shared = Arc::new(Shared {
            link,
            publisher,
            declarer,
            turns: Rotation::new(options.queues, options.order),
            lease: Arc::new(Lease::new(heartbeat)),
            node: options.node,
            takes_delayed: options.takes_delayed,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            arrived: Notify::new(),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            asides: Arc::new(Semaphore::new(MOST_ASIDE as usize)),
        });
        let feeds = [Giving::Classic, Giving::Fixed].map(|giving| tokio::spawn(feed::run(shared.clone(), giving, heartbeat)));
        Ok(Self { shared, feeds: feeds.into() })
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        self.shared.left.store(true, Ordering::Release);
        self.feeds.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Consumer for AmqpConsumer {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>> {
        Box::pin(async move {
            loop {
                let arrived = self.shared.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if self.shared.is_closed() {
                    return Ok(Fetched::End);
                }
                let before = into.len();
                self.shared.take(room, into);
                self.shared.look_at_windows();
                if into.len() > before || room == 0 {
                    return Ok(Fetched::More);
                }
                arrived.await;
            }
        })
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        Some(self.shared.lease.clone())
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.arrived.notify_waiters();
        self.shared.changed.notify_waiters();
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let lent: Vec<Option<Lent>> = {
            let mut state = self.shared.state();
            let mut one = |receipt: &Receipt| {
                let lent = state.held.get(receipt.0)?.clone();
                if lent.tag.is_some() {
                    return Some(lent);
                }
                // Who is told so forgets it. When it comes again, it is a new one.
                state.held.remove(receipt.0, false);
                None
            };
            receipts.iter().map(&mut one).collect()
        };
        let raw = |lent: Lent| lent.parcel.to_raw("", &lent.queue);
        Box::pin(std::future::ready(Ok(lent.into_iter().map(|lent| lent.map(raw)).collect())))
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>> {
        Box::pin(self.shared.finish_all(batch))
    }

    fn may_have_more(&self) -> bool {
        self.shared.state().sessions.iter().flatten().any(Session::is_full)
    }

    fn lends_again(&self) -> bool {
        true
    }

    fn serve(&self, queue: &str, on: bool) {
        self.shared.turns.serve(queue, on);
        self.shared.changed.notify_waiters();
    }

    fn serving(&self) -> Vec<Arc<str>> {
        self.shared.turns.order()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            self.close();
            self.shared.wait_for_asides().await;
            self.shared.left.store(true, Ordering::Release);
            self.shared.changed.notify_waiters();
            // With its connection the server takes back what is left.
            self.shared.link.close().await;
            self.shared.lose(Giving::Classic);
            self.shared.lose(Giving::Fixed);
            Ok(())
        })
    }
}
