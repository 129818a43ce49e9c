//! How a node reaches the broker of a run: requests and answers that take their time and get lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::BoxFuture;
use longshore_brokers::{
    Broker, BrokerError, Bus, ChordPart, Claimed, Connected, Consumer, DeadLetter, DeadLetters, End, Ended, Finish, Found, Inspect, Key,
    LeftOut, LimitState, OpenOptions, Outgoing, Page, PartState, QueueState, ResultBackend, SharedState, Slot, Stored, Subscription, Watch,
    lease::Lease,
};
use longshore_core::{ErrorKind, Rate, Receipt, source::Fetched};
use tokio::sync::{Notify, mpsc};

use crate::{Sabotage, clock, ledger::Ledger, model, model::Listener, plan::Fault};

/// What all nodes of a run share.
pub(crate) struct World {
    pub(crate) broker: Mutex<model::Broker>,
    pub(crate) weather: Mutex<Weather>,
    /// Something may be there to be claimed.
    pub(crate) changed: Notify,
    pub(crate) one_store: bool,
}

/// What goes wrong now.
pub(crate) struct Weather {
    pub(crate) rng: Rng,
    /// What happens to the next request of a node.
    pub(crate) armed: Vec<(usize, Fault)>,
    /// Who hears nothing until when; of all nodes.
    pub(crate) cut: Vec<(usize, u64)>,
    pub(crate) down: u64,
    pub(crate) full: u64,
    /// What each way takes, at most, in milliseconds.
    pub(crate) slow: u64,
    pub(crate) killed: Vec<usize>,
}

/// What became of a request.
enum Said<T> {
    Answer(T),
    /// It was done, and nobody heard of it.
    Unanswered(T),
    /// It was not done.
    Unheard,
}

impl World {
    pub(crate) fn broker(&self) -> MutexGuard<'_, model::Broker> {
        self.broker.lock().expect("nobody panics in a step")
    }

    pub(crate) fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().expect("nobody panics in a step")
    }

    pub(crate) fn cheats(&self, sabotage: Sabotage) -> bool {
        self.broker().ledger.sabotage == sabotage
    }

    pub(crate) fn ledger<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        act(&mut self.broker().ledger)
    }
}

impl Weather {
    pub(crate) fn is_cut(&self, node: usize, now: u64) -> bool {
        now < self.down || self.cut.iter().any(|(who, until)| *who == node && now < *until)
    }

    fn way(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(..=self.slow))
    }
}

/// How long a lost answer is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// And then the broker is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// A node's way to the broker and to the results.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) world: Arc<World>,
    pub(crate) node: usize,
    /// The consumer that it has opened, for whoever gives its signs of life.
    pub(crate) taker: Arc<Mutex<Option<Arc<Taker>>>>,
}

impl Link {
    fn is_killed(&self) -> bool {
        self.world.weather().killed.contains(&self.node)
    }

    async fn way(&self) {
        let way = self.world.weather().way();
        if !way.is_zero() {
            tokio::time::sleep(way).await;
        }
        if self.is_killed() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks for one step of the broker.
    async fn say<T>(&self, step: impl FnOnce(&mut model::Broker) -> T) -> Said<T> {
        let fate = {
            let mut weather = self.world.weather();
            let armed = weather.armed.iter().position(|(node, _)| *node == self.node);
            armed.map(|place| weather.armed.remove(place).1)
        };
        self.way().await;
        if fate == Some(Fault::RequestLost) || self.world.weather().is_cut(self.node, clock::now()) {
            tokio::time::sleep(PATIENCE).await;
            return Said::Unheard;
        }
        let value = step(&mut self.world.broker());
        self.world.changed.notify_waiters();
        if let Some(Fault::ReplyLate(late)) = fate {
            tokio::time::sleep(Duration::from_millis(late)).await;
        }
        self.way().await;
        if fate == Some(Fault::ReplyLost) || self.world.weather().is_cut(self.node, clock::now()) {
            tokio::time::sleep(PATIENCE).await;
            return Said::Unanswered(value);
        }
        Said::Answer(value)
    }

    /// Asks until it is done, and finds out what was done where the answer is lost.
    async fn insist<T>(&self, mut step: impl FnMut(&mut model::Broker) -> T) -> T {
        loop {
            match self.say(&mut step).await {
                Said::Answer(value) | Said::Unanswered(value) => return value,
                Said::Unheard => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Asks once; a lost request and a lost answer are the same to whoever asks.
    async fn ask<T>(&self, step: impl FnOnce(&mut model::Broker) -> T) -> Result<T, BrokerError> {
        match self.say(step).await {
            Said::Answer(value) => Ok(value),
            Said::Unanswered(_) | Said::Unheard => Err(unknown("no answer")),
        }
    }

    fn is_full(&self) -> bool {
        clock::now() < self.world.weather().full
    }
}

fn unknown(message: &str) -> BrokerError {
    BrokerError { kind: ErrorKind::Transient, message: message.to_owned() }
}

fn refused() -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message: "the value is too large".to_owned() }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, BrokerError>>;

fn ready<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Link {
    fn listen<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> Answer<'a, Subscription> {
        Box::pin(async move {
            let (sender, messages) = mpsc::channel(10_000);
            let listener = Listener { exchange: exchange.to_owned(), pattern: pattern.to_owned(), sender };
            self.insist(|broker| broker.listeners.push(Listener { sender: listener.sender.clone(), ..listener.copy() })).await;
            Ok(Subscription { messages, left_out: LeftOut::default(), guard: Box::new(()) })
        })
    }
}

impl Listener {
    fn copy(&self) -> Self {
        Self { exchange: self.exchange.clone(), pattern: self.pattern.clone(), sender: self.sender.clone() }
    }
}

impl Link {
    /// Returns the model as a broker and a result backend. It keeps no schedules.
    pub(crate) fn connected(self) -> Connected {
        let link = Arc::new(self);
        let mut connected = Connected::new(link.clone(), link.clone());
        connected.bus = Some(link.clone());
        connected.inspect = Some(link.clone());
        connected.letters = Some(link.clone());
        connected.shared = Some(link);
        connected
    }
}

impl Broker for Link {
    fn url(&self) -> &str {
        "model://broker"
    }

    fn ping(&self) -> Answer<'_, (String, Duration)> {
        ready(("model".to_owned(), Duration::ZERO))
    }

    fn is_store_of(&self, _: &str) -> bool {
        self.world.one_store
    }

    fn open(&self, options: OpenOptions) -> Answer<'_, Arc<dyn Consumer>> {
        Box::pin(async move {
            let asked = clock::now();
            let owner = self.insist(|broker| broker.enlist(self.node)).await;
            let taker = Arc::new(Taker {
                link: self.clone(),
                owner: AtomicU64::new(owner),
                lease: Arc::new(Lease::at(options.lease, asked)),
                closed: AtomicBool::new(false),
                known: Mutex::default(),
            });
            *self.taker.lock().expect("nobody panics with it") = Some(taker.clone());
            Ok(taker as Arc<dyn Consumer>)
        })
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.is_full() {
                self.way().await;
                return Err(unknown("no memory"));
            }
            match self.say(|broker| batch.iter().for_each(|out| broker.publish(out))).await {
                Said::Answer(()) => Ok(()),
                Said::Unanswered(()) => {
                    self.world.broker().doubt(batch);
                    Err(unknown("no answer"))
                }
                Said::Unheard if self.world.cheats(Sabotage::LostIsDone) => Ok(()),
                Said::Unheard => Err(unknown("no answer")),
            }
        })
    }

    fn queues<'a>(&'a self, _: &'a [Arc<str>]) -> Answer<'a, Vec<QueueState>> {
        ready(Vec::new())
    }

    fn purge<'a>(&'a self, _: &'a str) -> Answer<'a, u64> {
        ready(0)
    }
}

impl Bus for Link {
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(self.ask(move |broker| broker.tell(exchange, routing_key, raw)))
    }

    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> Answer<'a, Subscription> {
        self.listen(exchange, pattern)
    }

    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> Answer<'a, ()> {
        self.broadcast(exchange, routing_key, raw)
    }

    fn replies<'a>(&'a self, oid: &'a str) -> Answer<'a, Subscription> {
        self.listen("reply.celery.pidbox", oid)
    }

    fn has_strangers(&self) -> Answer<'_, bool> {
        ready(false)
    }
}

impl Inspect for Link {
    fn peek<'a>(&'a self, _: &'a str, _: usize) -> Answer<'a, Vec<Vec<u8>>> {
        ready(Vec::new())
    }

    fn transfer<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, u64> {
        ready(0)
    }

    fn pause<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> Answer<'a, ()> {
        ready(())
    }

    fn find<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<Found>> {
        ready(Vec::new())
    }

    fn list<'a>(&'a self, _: Option<&'a str>, _: usize) -> Answer<'a, Vec<Found>> {
        ready(Vec::new())
    }
}

impl DeadLetters for Link {
    fn dead<'a>(&'a self, _: Option<&'a str>) -> Answer<'a, Vec<DeadLetter>> {
        ready(self.world.broker().dead.clone())
    }

    fn bury<'a>(&'a self, _: &'a [DeadLetter], _: bool) -> Answer<'a, u64> {
        ready(0)
    }
}

impl SharedState for Link {
    fn reserve<'a>(&'a self, limit: &'a str, rate: Rate, count: usize) -> Answer<'a, Vec<Slot>> {
        let interval = rate.interval().as_nanos() as u64;
        Box::pin(async move {
            if self.world.cheats(Sabotage::RateIsIgnored) {
                return Ok(vec![Slot::Reserved(Duration::ZERO); count]);
            }
            self.ask(move |broker| broker.reserve(limit, interval, count)).await
        })
    }

    fn set_limit<'a>(&'a self, _: &'a str, _: Option<Rate>) -> Answer<'a, ()> {
        ready(())
    }

    fn limits(&self) -> Answer<'_, Vec<LimitState>> {
        ready(Vec::new())
    }

    fn revoke<'a>(&'a self, ids: &'a [String]) -> Answer<'a, ()> {
        Box::pin(self.ask(move |broker| broker.revoked.extend_from_slice(ids)))
    }

    fn note_runs<'a>(&'a self, _: &'a str, ids: &'a [String], _: Duration) -> Answer<'a, Vec<bool>> {
        // Nobody asks: what is lent here is lent to one.
        ready(vec![true; ids.len()])
    }

    fn forget_runs<'a>(&'a self, _: &'a str, _: &'a [String]) -> Answer<'a, ()> {
        ready(())
    }

    fn revoked(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move {
            if self.world.cheats(Sabotage::RevokedIsNotAsked) {
                return Ok(Vec::new());
            }
            // As everywhere, a broker that is away is waited for when a worker starts.
            Ok(self.insist(|broker| broker.revoked.clone()).await)
        })
    }
}

impl ResultBackend for Link {
    fn url(&self) -> &str {
        "model://results"
    }

    fn ping(&self) -> Answer<'_, (String, Duration)> {
        ready(("model".to_owned(), Duration::ZERO))
    }

    fn store<'a>(&'a self, batch: &'a [Stored]) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.is_full() {
                self.way().await;
                return Err(unknown("no memory"));
            }
            if batch.iter().any(model::is_refused) {
                return Err(refused());
            }
            self.ask(|broker| batch.iter().for_each(|stored| broker.store(self.node, stored))).await?;
            batch.iter().for_each(|stored| self.world.broker().heard(self.node, stored));
            Ok(())
        })
    }

    fn get<'a>(&'a self, keys: &'a [Key]) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(self.ask(move |broker| keys.iter().map(|key| broker.get(key)).collect()))
    }

    fn forget<'a>(&'a self, keys: &'a [Key]) -> Answer<'a, u64> {
        Box::pin(self.ask(move |broker| broker.forget(keys)))
    }

    fn page<'a>(&'a self, _: Option<&'a str>) -> Answer<'a, Page> {
        ready(Page::default())
    }

    fn watch<'a>(&'a self, ids: &'a [String]) -> Answer<'a, Watch> {
        Box::pin(async move {
            let (sender, results) = mpsc::channel(1_000);
            let stored = self
                .insist(|broker| {
                    broker.watchers.push(model::Watcher { ids: ids.iter().cloned().collect(), sender: sender.clone() });
                    ids.iter().map(|id| broker.get(&Key::Task(id.clone()))).collect()
                })
                .await;
            Ok(Watch { stored, results, guard: Box::new(()) })
        })
    }

    fn chord_start<'a>(&'a self, group: &'a str, size: u64, _: Duration) -> Answer<'a, ()> {
        Box::pin(self.ask(move |broker| broker.chord_start(group, size)))
    }

    fn chord_part<'a>(&'a self, part: &'a ChordPart) -> Answer<'a, PartState> {
        Box::pin(self.ask(move |broker| broker.part(part)))
    }

    fn chord_parts<'a>(&'a self, group: &'a str) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(self.ask(move |broker| broker.parts(group)))
    }

    fn chord_extend<'a>(&'a self, group: &'a str, token: &'a str, by: Duration) -> Answer<'a, bool> {
        Box::pin(self.ask(move |broker| broker.extend(group, token, by)))
    }

    fn chord_over<'a>(&'a self, group: &'a str, token: &'a str) -> Answer<'a, bool> {
        Box::pin(self.ask(move |broker| broker.over(group, token)))
    }

    fn chord_grow<'a>(&'a self, group: &'a str) -> Answer<'a, ()> {
        Box::pin(self.ask(move |broker| broker.chord_grow(group)))
    }
}

/// A node's consumer.
pub(crate) struct Taker {
    link: Link,
    owner: AtomicU64,
    pub(crate) lease: Arc<Lease>,
    closed: AtomicBool,
    known: Mutex<Known>,
}

/// What a consumer has claimed and not ended, and what a broker that was started again thinks that
/// it has.
#[derive(Default)]
struct Known {
    held: BTreeSet<u64>,
    /// Later numbers may be on their way.
    claiming: Option<u64>,
    restarts: u64,
    looks: u8,
    strays: BTreeSet<u64>,
}

impl Taker {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics with it")
    }

    fn owner(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Gives a sign of life, as the thread of a real one does.
    pub(crate) fn beat(&self) {
        let now = clock::now();
        if self.owner() == 0 || self.link.world.weather().is_cut(self.link.node, now) {
            return;
        }
        if !self.link.world.broker().renew(self.owner(), self.link.node) {
            self.lease.lose();
        }
        self.lease.renewed(now, now);
        self.look_for_strays();
    }

    /// After the broker was started again: what was ended, and is held again.
    fn look_for_strays(&self) {
        let (mut broker, mut known) = (self.link.world.broker(), self.known());
        if known.restarts != broker.restarts {
            (known.restarts, known.looks) = (broker.restarts, 3);
            known.strays.clear();
        }
        if known.looks == 0 || broker.ledger.sabotage == Sabotage::StraysAreLeft {
            return;
        }
        known.looks -= 1;
        let mut strays = broker.strays(self.owner(), &known.held);
        strays.retain(|receipt| known.claiming.is_none_or(|from| *receipt < from));
        // Seen twice: what is being claimed is on its way.
        let twice: Vec<u64> = strays.intersection(&known.strays).copied().collect();
        known.strays = strays;
        if !twice.is_empty() {
            broker.put_back(twice.into_iter());
            self.link.world.changed.notify_waiters();
        }
    }
}

impl Consumer for Taker {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> Answer<'a, Fetched> {
        Box::pin(async move {
            loop {
                let changed = self.link.world.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.closed.load(Ordering::Relaxed) {
                    return Ok(Fetched::End);
                }
                if room == 0 {
                    return Ok(Fetched::More);
                }
                let is_empty = self.link.world.broker().queue.is_empty();
                if !is_empty {
                    self.known().claiming = Some(self.link.world.broker().number());
                    into.extend(self.link.insist(|broker| broker.claim(self.owner(), self.link.node, room)).await);
                    let mut known = self.known();
                    known.held.extend(into.iter().map(|claimed| claimed.receipt.0));
                    known.claiming = None;
                    drop(known);
                    if !into.is_empty() {
                        return Ok(Fetched::More);
                    }
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), changed).await;
            }
        })
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        (!self.link.world.cheats(Sabotage::LeaseIsNotLookedAt)).then(|| self.lease.clone())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.link.world.changed.notify_waiters();
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let load = |broker: &mut model::Broker| receipts.iter().map(|receipt| broker.load(self.owner(), *receipt)).collect::<Vec<_>>();
            let loaded = self.link.insist(load).await;
            let mut known = self.known();
            for (receipt, _) in receipts.iter().zip(&loaded).filter(|(_, raw)| raw.is_none()) {
                known.held.remove(&receipt.0);
            }
            drop(known);
            Ok(loaded)
        })
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> Answer<'a, Vec<Ended>> {
        Box::pin(async move {
            while self.link.is_full() {
                tokio::time::sleep(AGAIN).await;
            }
            if self.link.world.cheats(Sabotage::AcknowledgedFirst) {
                self.link.insist(|broker| batch.iter().for_each(|finish| broker.acknowledge_first(finish))).await;
            }
            loop {
                let finish = |broker: &mut model::Broker| {
                    batch.iter().map(|finish| broker.finish(self.owner(), self.link.node, finish)).collect::<Vec<Ended>>()
                };
                let said = self.link.say(finish).await;
                if let Said::Answer(ended) | Said::Unanswered(ended) = &said {
                    let over = |(finish, ended): &(&Finish, &Ended)| match ended {
                        Ended::Done => finish.end != End::Keep,
                        ended => matches!(ended, Ended::Refused),
                    };
                    let over = batch.iter().zip(ended).filter(over).map(|(finish, _)| finish.receipt.0);
                    let mut known = self.known();
                    for receipt in over {
                        known.held.remove(&receipt);
                    }
                }
                match said {
                    Said::Answer(ended) => return Ok(ended),
                    Said::Unanswered(ended) => {
                        if self.link.world.cheats(Sabotage::SentAgain) {
                            let mut broker = self.link.world.broker();
                            batch.iter().flat_map(|finish| &finish.publish).for_each(|out| broker.publish(out));
                        }
                        return Ok(ended);
                    }
                    Said::Unheard if self.link.world.cheats(Sabotage::LostIsDone) => return Ok(vec![Ended::Done; batch.len()]),
                    Said::Unheard => tokio::time::sleep(AGAIN).await,
                }
            }
        })
    }

    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.link.insist(|broker| broker.accuse(self.owner(), running)).await;
            Ok(())
        })
    }

    fn serve(&self, _: &str, _: bool) {}

    fn serving(&self) -> Vec<Arc<str>> {
        vec!["celery".into()]
    }

    fn leave(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.close();
            self.link.insist(|broker| broker.give_back(self.owner(), false)).await;
            self.owner.store(0, Ordering::Relaxed);
            Ok(())
        })
    }
}
