//! A consumer: waits, claims, holds, finishes.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, try_join_all};
use longshore_celery::Stub;
use longshore_core::{ErrorKind, Receipt, source::Fetched};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    claim::{self, ClaimBatch},
    early, exchanges,
    fail::{Fail, is_wrong_type},
    finish::{self, Ending, FinishPlace, Moved},
    layout::Layout,
    lease::{Beat, LeaseOwner},
    link::{Link, Notice, Wait, locked, pause},
    listeners::{Hearing, Listeners, Post},
    publish::Declared,
    pubsub::PubSub,
    rescue,
    resp::Pack,
    wait::{self, List, Lists},
    watcher,
};
use crate::{
    apart,
    broker::{Consumer, OpenOptions},
    error::BrokerError,
    lease::Lease,
    message::{Claimed, End, Ended, Finish},
    names,
    rotation::Rotation,
};

/// Time for which a stop waits for what is being claimed, so that it goes back at once.
const LAST_CLAIM: Duration = Duration::from_secs(1);

/// Time after which a key that another program uses is looked at again.
const STRANGE: Duration = Duration::from_secs(1);

pub(super) struct RedisConsumer {
    link: Arc<Link>,
    layout: Layout,
    declared: Arc<Declared>,
    owner: LeaseOwner,
    /// Messages are given, not lent; the key of our copy of those that were given last.
    early: Option<String>,
    /// Text before the number in our tags: the owner and a colon.
    boot: String,
    /// The number of the next message.
    next: AtomicU64,
    /// The number of the next step of ending.
    step: AtomicU64,
    /// Microseconds that the last claim took, there and back; 0 before the first.
    trip: AtomicU64,
    /// Messages that were told to stay claimed.
    kept: Mutex<HashSet<u64>>,
    /// Messages that were lent as a stub: the rest of each lies aside.
    stubs: Mutex<HashSet<u64>>,
    claiming: tokio::sync::Mutex<Claiming>,
    /// The way on which messages are claimed.
    claims: Arc<Link>,
    /// Queues that are served; a change wakes an idle claim.
    served: watch::Sender<Served>,
    rescue: JoinHandle<()>,
    /// Our place among those who wait; `None` where we may not hear when we are called.
    listeners: Option<(Arc<Listeners>, Hearing)>,
    beat: Mutex<Option<Beat>>,
}

struct Claiming {
    lists: Lists,
    /// The other way's connection, when it was looked at last.
    generation: u64,
    turns: Rotation,
    /// In the order of service, as `turns` has it.
    order: Vec<Arc<str>>,
}

#[derive(Default)]
struct Served {
    queues: Vec<Arc<str>>,
    closed: bool,
}

/// Makes the error that says that nothing more can come of this consumer.
fn fatal(fail: Fail) -> BrokerError {
    BrokerError { kind: ErrorKind::Fatal, message: fail.text().to_owned() }
}

impl RedisConsumer {
    /// Says that it lives, and begins to look after what the dead have left.
    pub(super) async fn open(link: Arc<Link>, pubsub: &PubSub, declared: Arc<Declared>, options: OpenOptions) -> Result<Self, Fail> {
        let config = link.config().clone();
        let layout = Layout::new(&config);
        let lease = options.lease.max(Duration::from_millis(30));
        let owner = LeaseOwner {
            layout: layout.clone(),
            boot: uuid::Uuid::new_v4().simple().to_string(),
            node: options.node,
            lease,
            renewal: Arc::new(Lease::new(lease)),
            visibility_timeout: config.visibility_timeout.unwrap_or(options.visibility_timeout),
            held: Arc::default(),
            claiming: Arc::default(),
            watches: Arc::default(),
            alone: Arc::default(),
            config: config.clone(),
        };
        declared.say(&link, &layout, options.queues.iter(), Wait::Patience).await?;
        // Our sign of life stands before anything is claimed: without it others would take what we
        // hold for something that the dead have left.
        link.ask(owner.sign(&mut 0, true), Wait::Patience).await?;
        let beat = Beat::start(owner.clone()).map_err(|error| Fail::Unable(format!("no thread for the sign of life: {error}")))?;
        let notice: Notice = {
            let link = link.clone();
            // What both ways suffer from is told by one.
            Arc::new(move |news| {
                if link.trouble() != Some(news.to_string()) {
                    (link.notice())(news)
                }
            })
        };
        // Claims have a connection of their own, since the server tracks keys by connection.
        let turns = Rotation::new(Vec::new(), options.order);
        let lists = Lists::new(Arc::new(Link::tracking(config, notice))).strictly(turns.is_strict());
        // A server that does not let us listen is no obstacle: we are not called then, and look
        // ourselves.
        let listeners = Listeners::open(link.clone(), layout.clone(), pubsub, &owner.boot).await.ok();
        let rescue = tokio::spawn(watcher::run(link.clone(), lists.link().clone(), owner.clone()));
        let claiming = Claiming { lists, turns, order: Vec::new(), generation: link.generation() };
        Ok(Self {
            boot: format!("{}:", owner.boot),
            early: options.early.then(|| layout.own(&format!("given:{}", owner.boot))),
            link,
            layout,
            declared,
            owner,
            next: AtomicU64::new(1),
            step: AtomicU64::new(1),
            trip: AtomicU64::new(0),
            kept: Mutex::default(),
            stubs: Mutex::default(),
            claims: claiming.lists.link().clone(),
            claiming: tokio::sync::Mutex::new(claiming),
            served: watch::Sender::new(Served { queues: options.queues, closed: false }),
            rescue,
            listeners,
            beat: Mutex::new(Some(beat)),
        })
    }

    /// Notes what is ours from now on.
    fn note_taken(&self, taken: &[Claimed]) {
        let lent = taken.iter().filter(|claimed| !claimed.given);
        locked(&self.owner.held).extend(lent.map(|claimed| claimed.receipt.0));
        let stubs = taken.iter().filter(|claimed| Stub::is_one(&claimed.raw));
        locked(&self.stubs).extend(stubs.map(|claimed| claimed.receipt.0));
    }

    /// Waits until this was closed so long ago that a claim which is under way is given up.
    async fn closed_for_long(&self, closing: &mut watch::Receiver<Served>) {
        // An error would mean that this consumer is gone.
        let _ = closing.wait_for(|served| served.closed).await;
        // What is given and not heard of is lost; what is lent would go back late.
        let patience = self.link.config().patience;
        tokio::time::sleep(if self.early.is_some() { patience } else { patience.min(LAST_CLAIM) }).await;
    }

    async fn claim_some(&self, room: usize, into: &mut Vec<Claimed>) -> Result<Fetched, Fail> {
        let mut claiming = self.claiming.lock().await;
        let (mut served, mut closing) = (self.served.subscribe(), self.served.subscribe());
        let listeners = self.listeners.as_ref().map(|(listeners, _)| listeners);
        let mut attends = false;
        let mut unable = false;
        loop {
            let is_new = {
                let now = served.borrow_and_update();
                if now.closed {
                    listeners.inspect(|listeners| listeners.stop());
                    return Ok(Fetched::End);
                }
                claiming.follow(&now.queues)
            };
            if is_new {
                self.declared.say(&self.link, &self.layout, claiming.order.iter(), Wait::Forever).await?;
            }
            if let Some(listeners) = listeners
                && (is_new || !attends)
            {
                listeners.attend(is_new.then_some(&claiming.order));
            }
            if claiming.order.is_empty() || room == 0 {
                let _ = served.changed().await;
                continue;
            }
            let Claiming { lists, order, generation, .. } = &mut *claiming;
            let now = self.link.generation();
            // It may be another server now: what is claimed is claimed where it is finished.
            if *generation != now && self.claims.renew() {
                *generation = now;
            }
            let (post, called) = listeners.map_or((Post::Listens, false), |listeners| listeners.post());
            lists.track(post == Post::Listens);
            if called || (post != Post::Listens && !attends) {
                // Nobody has told us of what changed meanwhile.
                lists.forget();
            }
            if called && post == Post::Listens {
                tokio::select! {
                    looked = lists.look(order, true) => looked?,
                    _ = closing.wait_for(|served| served.closed) => continue,
                }
            }
            let waited = std::mem::replace(&mut attends, true) && !called;
            let open = lists.open(order);
            if !open.is_empty() {
                let most = room.min(if self.early.is_some() { early::MOST } else { claim::MOST });
                let taken = tokio::select! {
                    biased;
                    taken = self.take(most, &open, lists) => taken,
                    // A server that is away holds up no stop; whatever it still lends us is handed
                    // back by `leave`.
                    () = self.closed_for_long(&mut closing) => return Ok(Fetched::End),
                };
                let taken = match taken {
                    Err(Fail::Refused(text)) if is_wrong_type(&text) => {
                        // Another program uses a key that we need: nothing was taken, and nobody
                        // can take anything until it goes.
                        self.link.is_unable(&text);
                        unable = true;
                        let _ = timeout(STRANGE, served.wait_for(|served| served.closed)).await;
                        continue;
                    }
                    taken => taken?,
                };
                if std::mem::take(&mut unable) {
                    self.link.is_able();
                }
                if !taken.is_empty() {
                    self.note_taken(&taken);
                    if let Some(listeners) = listeners {
                        if waited {
                            listeners.found_uncalled();
                        }
                        listeners.took(taken.len(), room, lists.left(order));
                    }
                    claiming.served(&taken);
                    into.extend(taken);
                    return Ok(Fetched::More);
                }
                lists.settle().await?;
                continue;
            }
            self.wait_for_more(post, listeners, lists, order, &mut served).await?;
        }
    }

    /// Waits until these lists may have something, a listener calls, or what is served changes.
    async fn wait_for_more(
        &self,
        post: Post,
        listeners: Option<&Arc<Listeners>>,
        lists: &mut Lists,
        order: &[Arc<str>],
        served: &mut watch::Receiver<Served>,
    ) -> Result<(), Fail> {
        let safety = match post {
            Post::None => {
                // A server that is away holds up no stop.
                tokio::select! {
                    entered = enter(listeners, lists, order) => entered?,
                    _ = served.changed() => {}
                }
                return Ok(());
            }
            Post::InLine => wait::IN_LINE,
            Post::Listens if self.owner.alone.load(Ordering::Relaxed) => wait::ALONE,
            Post::Listens => wait::AMONG,
        };
        let called = async {
            match listeners {
                Some(listeners) => listeners.called().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            waited = lists.wait(order, safety) => waited?,
            () = called => {}
            _ = served.changed() => {}
        }
        Ok(())
    }

    /// Takes what there is now, at most so many.
    async fn take(&self, most: usize, lists: &[List], from: &mut Lists) -> Result<Vec<Claimed>, Fail> {
        let first = self.next.fetch_add(most as u64, Ordering::Relaxed);
        self.owner.claiming.store(first, Ordering::Release);
        let begun = Instant::now();
        let taken = match &self.early {
            Some(copy) => early::GivenBatch { layout: &self.layout, boot: &self.boot, copy, lists, first, most }.take(from).await,
            None => ClaimBatch { layout: &self.layout, boot: &self.boot, lists, first, most }.take(from).await,
        };
        self.trip.store(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        taken
    }

    /// Ends what can end: a message for an exchange without such a queue keeps back its own alone.
    async fn end_all(&self, batch: &[Finish]) -> Result<Vec<Ended>, Fail> {
        let Some(spread) = exchanges::spread_each(&self.link, &self.layout, batch).await? else { return self.end(batch).await };
        let able: Vec<Finish> = spread.iter().flatten().cloned().collect();
        let mut ended = if able.is_empty() { Vec::new() } else { self.end(&able).await? }.into_iter();
        Ok(spread.into_iter().filter_map(|one| one.map_or_else(|reason| Some(Ended::Impossible { reason }), |_| ended.next())).collect())
    }

    async fn end(&self, batch: &[Finish]) -> Result<Vec<Ended>, Fail> {
        if let Some(again) = again(batch) {
            // Twice the same one: what the second finds is known after the first.
            let mut ended = Box::pin(self.end(&batch[..again])).await?;
            ended.extend(Box::pin(self.end(&batch[again..])).await?);
            return Ok(ended);
        }
        let refused = |finish: &Finish| names::refused_among(self.layout.prefix(), &finish.publish);
        let queues =
            batch.iter().filter(|finish| refused(finish).is_none()).flat_map(|finish| &finish.publish).map(|message| &message.queue);
        self.declared.say(&self.link, &self.layout, queues, Wait::Forever).await?;
        let needs_entry: Vec<bool> = {
            let stubs = locked(&self.stubs);
            let needs = |finish: &Finish| match finish.end {
                End::Back { .. } | End::Dead { .. } | End::Junk { .. } => true,
                End::Ack => !stubs.is_empty() && stubs.contains(&finish.receipt.0),
                End::Keep => false,
            };
            batch.iter().map(needs).collect()
        };
        let moving = || batch.iter().zip(&needs_entry).filter(|(_, needs)| **needs).map(|(finish, _)| finish);
        let numbers: Vec<u64> = moving().map(|finish| finish.receipt.0).collect();
        // What goes back or dies is written anew, out of what the server holds of it.
        let entries = claim::entries(&self.link, &self.layout, &self.boot, &numbers).await?;
        let mut moved = self.moved(moving(), entries).await.into_iter();
        let first = self.step.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let endings: Vec<Ending<'_>> = {
            let kept = locked(&self.kept);
            let ending = |((finish, needs), step): ((_, &bool), u64)| {
                let finish: &Finish = finish;
                let moved = if *needs { moved.next().flatten() } else { None };
                let kept = !kept.is_empty() && kept.contains(&finish.receipt.0);
                Ending { finish, step, moved, kept, impossible: refused(finish) }
            };
            batch.iter().zip(&needs_entry).zip(first..).map(ending).collect()
        };
        let place = FinishPlace { link: &self.link, layout: &self.layout, boot: &self.boot };
        let ended = try_join_all(finish::parcels(&endings).into_iter().map(|parcel| place.end(parcel))).await?.concat();
        let (mut kept, mut over) = (locked(&self.kept), Vec::with_capacity(batch.len()));
        for (finish, ended) in batch.iter().zip(&ended) {
            let number = finish.receipt.0;
            // Nothing was done with it, so it is held as before.
            if matches!(ended, Ended::Impossible { .. }) {
                continue;
            }
            // Its note stays on the server until a later end removes it.
            if matches!(ended, Ended::Complete(_)) || (*ended == Ended::Done && finish.end == End::Keep) {
                kept.insert(number);
            } else {
                over.push(number);
            }
        }
        drop(kept);
        self.forget(over.into_iter());
        Ok(ended)
    }

    /// Notes that these are not held any more.
    fn forget(&self, numbers: impl Iterator<Item = u64>) {
        let (mut held, mut kept, mut stubs) = (locked(&self.owner.held), locked(&self.kept), locked(&self.stubs));
        for number in numbers {
            held.remove(&number);
            for notes in [&mut *kept, &mut *stubs] {
                if !notes.is_empty() {
                    notes.remove(&number);
                }
            }
        }
    }

    /// Makes what messages become that go back or die.
    async fn moved<'f>(&self, finishes: impl Iterator<Item = &'f Finish>, entries: Vec<Option<(Vec<u8>, String)>>) -> Vec<Option<Moved>> {
        let bytes = entries.iter().flatten().map(|(raw, _)| raw.len()).sum();
        let ends: Vec<End> = finishes.map(|finish| finish.end.clone()).collect();
        let layout = self.layout.clone();
        let become_what =
            move |(end, entry): (End, Option<(Vec<u8>, String)>)| entry.map(|(raw, queue)| Moved::of(&layout, &end, &raw, queue));
        apart(bytes, move || ends.into_iter().zip(entries).map(become_what).collect()).await
    }

    /// Asks until it is granted: what is refused of all that a consumer needs is waited for, and
    /// said.
    async fn insist<T, F: Future<Output = Result<T, Fail>>>(&self, mut ask: impl FnMut() -> F) -> Result<T, BrokerError> {
        for attempt in 0.. {
            match ask().await {
                Err(Fail::Refused(text)) => {
                    self.link.is_unable(&text);
                    sleep(pause(attempt)).await;
                }
                granted => {
                    if attempt > 0 {
                        self.link.is_able();
                    }
                    return granted.map_err(fatal);
                }
            }
        }
        unreachable!("attempts do not run out")
    }

    async fn give_back(&self) -> Result<(), Fail> {
        self.rescue.abort();
        if let Some((listeners, _)) = &self.listeners {
            listeners.leave().await?;
        }
        // What was being claimed on the other way is claimed before.
        let _ = timeout(self.link.config().patience / 2, self.claims.one(&[b"PING"], Wait::Forever)).await;
        let all = rescue::give_back(&self.link, &self.owner).await?;
        // The sign of life ends after what it stands for.
        drop(locked(&self.beat).take());
        let (owners, boot) = (self.layout.own("owners"), self.owner.boot.as_bytes());
        let own = |name: &str| self.layout.own(&format!("{name}:{}", self.owner.boot));
        let mut pack = Pack::default();
        // Where some could not go back, others find that we are gone, and what we left.
        if all {
            pack.add(&[b"SREM", owners.as_bytes(), boot]);
        }
        pack.add(&[b"DEL", own("owner").as_bytes(), own("accused").as_bytes(), own("kept").as_bytes(), own("rescued").as_bytes()]);
        if let Some(copy) = &self.early {
            pack.add(&[b"DEL", copy.as_bytes()]);
        }
        self.link.ask(pack, Wait::Patience).await?;
        Ok(())
    }
}

/// Returns the place of the first that ends what one before it ends, too.
fn again(batch: &[Finish]) -> Option<usize> {
    let mut numbers: Vec<u64> = batch.iter().map(|finish| finish.receipt.0).collect();
    numbers.sort_unstable();
    if numbers.windows(2).all(|pair| pair[0] < pair[1]) {
        return None;
    }
    let mut once = HashSet::new();
    batch.iter().position(|finish| !once.insert(finish.receipt))
}

impl Claiming {
    /// Takes up what is served now, in the order that it had. Whether that is something new.
    fn follow(&mut self, queues: &[Arc<str>]) -> bool {
        if self.order.len() == queues.len() && self.order.iter().all(|queue| queues.contains(queue)) {
            return false;
        }
        self.order.iter().filter(|queue| !queues.contains(queue)).for_each(|queue| self.turns.serve(queue, false));
        queues.iter().for_each(|queue| self.turns.serve(queue, true));
        self.order = self.turns.order();
        true
    }

    /// Lets the queues that were just served go last.
    fn served(&mut self, taken: &[Claimed]) {
        if self.order.len() > 1 {
            let served = self.order.iter().filter(|queue| taken.iter().any(|claimed| claimed.queue == **queue));
            served.for_each(|queue| self.turns.served(queue));
            self.order = self.turns.order();
        }
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.rescue.abort();
    }
}

impl Consumer for RedisConsumer {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>> {
        Box::pin(async move { self.claim_some(room, into).await.map_err(fatal) })
    }

    fn trip(&self) -> Option<Duration> {
        Some(self.trip.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        Some(self.owner.renewal.clone())
    }

    fn close(&self) {
        self.served.send_modify(|served| served.closed = true);
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        Box::pin(async move {
            let mut loaded = Vec::with_capacity(receipts.len());
            for some in receipts.chunks(claim::MOST) {
                let numbers: Vec<u64> = some.iter().map(|receipt| receipt.0).collect();
                let entries = self.insist(|| claim::entries(&self.link, &self.layout, &self.boot, &numbers)).await?;
                // What was taken from us is not held: a server that forgets who has it now may give
                // it to us again, and then it is a stray.
                let gone = numbers.iter().zip(&entries).filter(|(_, entry)| entry.is_none());
                self.forget(gone.map(|(number, _)| *number));
                loaded.extend(entries.into_iter().map(|entry| entry.map(|(raw, _)| raw)));
            }
            Ok(loaded)
        })
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>> {
        Box::pin(async move { self.insist(|| self.end_all(batch)).await })
    }

    fn hold<'a>(&'a self, given: &'a [Claimed]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            // Noted first: what stands under our name and is not noted is taken for a stray.
            locked(&self.owner.held).extend(given.iter().map(|claimed| claimed.receipt.0));
            self.insist(|| early::hold(&self.link, &self.layout, &self.boot, given)).await
        })
    }

    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let key = self.layout.own(&format!("accused:{}", self.owner.boot));
            // Outlives us; a day is long enough for others to see it.
            let numbers: Vec<String> = running.iter().map(|receipt| receipt.0.to_string()).collect();
            let accused = numbers.join(" ");
            let set: [&[u8]; 5] = [b"SET", key.as_bytes(), accused.as_bytes(), b"EX", b"86400"];
            self.insist(|| self.link.one(&set, Wait::Forever)).await.map(drop)
        })
    }

    fn serve(&self, queue: &str, on: bool) {
        self.served.send_if_modified(|served| {
            let at = served.queues.iter().position(|known| &**known == queue);
            match (at, on) {
                (None, true) => served.queues.push(queue.into()),
                (Some(at), false) => drop(served.queues.remove(at)),
                _ => return false,
            }
            true
        });
    }

    fn serving(&self) -> Vec<Arc<str>> {
        self.served.borrow().queues.clone()
    }

    fn stands_for_all(&self) -> bool {
        self.owner.watches.load(Ordering::Relaxed) || self.listeners.as_ref().is_none_or(|(listeners, _)| listeners.listens())
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            // A server that is away holds up no stop: what was held is taken by others when the
            // lease is over.
            let config = self.link.config();
            let late = || Fail::Unable(format!("redis at {} is away; what was held comes back when the lease is over", config.place()));
            let left = timeout(config.patience, self.give_back()).await.unwrap_or_else(|_| Err(late()));
            drop(locked(&self.beat).take());
            left.map_err(Into::into)
        })
    }
}

/// Stands in line, and looks at the lists as soon as this is one that listens.
async fn enter(listeners: Option<&Arc<Listeners>>, lists: &mut Lists, order: &[Arc<str>]) -> Result<(), Fail> {
    if let Some(listeners) = listeners
        && listeners.enter().await? == Post::Listens
    {
        lists.track(true);
        lists.look(order, true).await?;
    }
    Ok(())
}
