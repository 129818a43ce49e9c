//! The parts of a pipeline that are no lanes: its source, and the stages that group items or send
//! them to branches. Each is a task on the runtime.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use crate::{
    block_on::thread_waker,
    decide::Verdict,
    lane::panic_text,
    outcome::Outcome,
    pipeline::{
        exit::Exit,
        meter::{Meter, StageTimes},
        post::{Post, Tried},
        queue::{Ask, Given, ItemBatch, TakenItems},
        run::PipelineRun,
    },
    source::{Fetched, Settlement, Source},
};

/// Items fetched at once.
const FETCH: usize = 64;

/// Gives a whole batch; `false` after a stop. The time that it takes is counted as blocked.
async fn give<V>(exit: &mut dyn Exit<V>, batch: &mut ItemBatch<V>, post: &Meter, clock: crate::Clock) -> bool {
    let mut since = None;
    let given = poll_fn(|cx| match exit.give(batch, cx.waker()) {
        Given::All => Poll::Ready(true),
        Given::Stopped => Poll::Ready(false),
        Given::Full => {
            since.get_or_insert_with(|| clock.now());
            Poll::Pending
        }
    })
    .await;
    if let Some(since) = since {
        post.tally.lock().times.blocked += clock.now().saturating_duration_since(since);
    }
    given
}

/// Adds up a worker's time.
struct Watch<'a> {
    meter: &'a Meter,
    clock: crate::Clock,
    since: Instant,
}

impl<'a> Watch<'a> {
    fn new(meter: &'a Meter, clock: crate::Clock) -> Self {
        Self { meter, clock, since: clock.now() }
    }

    /// The time since the last call went into this.
    fn lap(&mut self, into: impl FnOnce(&mut StageTimes) -> &mut Duration) -> Duration {
        let now = self.clock.now();
        let time = now.saturating_duration_since(self.since);
        *into(&mut self.meter.tally.lock().times) += time;
        self.since = now;
        time
    }
}

/// An iterator that was quick for so many items in a row is slow by chance.
const LONG_QUICK: u64 = 16_384;

/// An iterator's turn on the runtime's thread. One that takes longer gets a thread of its own.
const TURN: Duration = Duration::from_millis(1);

/// After so many items only whole turns are timed.
const TRUSTED: u64 = 1_000;
/// An item that comes within this time comes quickly.
const PROMPT: Duration = Duration::from_micros(10);
/// Items in a row that came quickly on a thread of their own, before the iterator goes back to the
/// runtime; the next time eight times as many.
const QUICK: u64 = 256;

/// End of an iterator's turn.
enum Turn {
    More,
    Slow,
    End,
}

/// Asks an iterator for up to `room` items; a panic is a failure of the source.
fn turn<I: Iterator>(
    items: &mut I,
    room: usize,
    next: &mut u64,
    into: &mut ItemBatch<I::Item>,
    began: Instant,
    post: &Post<I::Item>,
) -> Turn {
    let asked = catch_unwind(AssertUnwindSafe(|| {
        for taken in 1..=room {
            let Some(item) = items.next() else { return Turn::End };
            into.push_back((*next, item));
            *next += 1;
            // Looked at now and then: the clock costs more than a cheap item. Once it is known to
            // be quick, only whole turns are timed, by the caller.
            if taken.is_power_of_two() && *next < TRUSTED && post.clock.now().saturating_duration_since(began) > TURN {
                return Turn::Slow;
            }
        }
        Turn::More
    }));
    asked.unwrap_or_else(|panic| {
        post.broken("source", format!("the iterator panicked: {}", panic_text(&*panic)));
        Turn::End
    })
}

/// Moves an iterator's items into the pipeline: on the runtime's thread while they come quickly,
/// else on a thread of its own. There each item goes on before the next one is asked for, so that
/// none waits for an iterator that waits.
///
/// An iterator that knows nothing of its length (a channel, the lines of a pipe) has a thread from
/// the beginning.
pub(super) async fn iterate<I>(items: I, exit: Box<dyn Exit<I::Item>>, post: Arc<Post<I::Item>>)
where
    I: Iterator + Send + 'static,
    I::Item: Send + 'static,
{
    let mut way = ProducerWay { items, next: 1, exit };
    let mut patience = if way.items.size_hint() == (0, None) { u64::MAX } else { QUICK / 8 };
    let mut slow = patience == u64::MAX;
    let mut back_at = 0;
    loop {
        if !slow {
            if !iterate_quickly(&mut way, &post).await {
                return;
            }
            let quick_for = way.next - back_at;
            patience = if quick_for > LONG_QUICK { QUICK } else { patience.saturating_mul(8) };
        }
        let (ended, end) = tokio::sync::oneshot::channel();
        let own = post.clone();
        let work = move || {
            let _ = ended.send(iterate_here(way, patience, &own));
        };
        if let Err(error) = std::thread::Builder::new().name("source".to_owned()).spawn(work) {
            post.broken("lost", format!("no thread for its iterator: {error}"));
        }
        // An iterator that blocks cannot be woken: when the pipeline stops it is left behind, with
        // what it may still bring.
        match futures_util::future::select(end, pin!(post.run.stopped.cancelled())).await {
            futures_util::future::Either::Left((Ok(Some(back)), _)) => way = back,
            _ => return,
        }
        // It was slow once, or the kernel let another thread go first.
        (slow, back_at) = (false, way.next);
    }
}

/// An iterator, the number of its next item, and where its items go.
struct ProducerWay<I: Iterator> {
    items: I,
    next: u64,
    exit: Box<dyn Exit<I::Item>>,
}

/// Moves an iterator's items in batches, on a thread of the runtime. `true`: it turned out slow.
async fn iterate_quickly<I: Iterator>(way: &mut ProducerWay<I>, post: &Post<I::Item>) -> bool {
    let mut batch = VecDeque::new();
    let mut watch = Watch::new(&post.meter, post.clock);
    loop {
        let room = wait_for_room(&mut *way.exit).await;
        watch.lap(|times| &mut times.blocked);
        let Some(room) = room else { return false };
        // The first items one, two, four at a time: none waits long for an iterator that turns out
        // slow.
        let most = room.min(FETCH).min(usize::try_from(way.next).unwrap_or(FETCH));
        let turn = turn(&mut way.items, most, &mut way.next, &mut batch, watch.since, post);
        let took = watch.lap(|times| &mut times.busy);
        count_source(&post.meter, batch.len());
        if !give(&mut *way.exit, &mut batch, &post.meter, post.clock).await {
            return false;
        }
        match turn {
            Turn::End => return false,
            Turn::More if took <= TURN => {}
            Turn::More | Turn::Slow => return true,
        }
    }
}

/// Moves an iterator's items, one at a time, on this thread. Gives it back when so many came
/// quickly in a row.
fn iterate_here<I: Iterator>(mut way: ProducerWay<I>, patience: u64, post: &Post<I::Item>) -> Option<ProducerWay<I>> {
    let waker = thread_waker();
    let mut watch = Watch::new(&post.meter, post.clock);
    let mut batch = VecDeque::new();
    let mut quick = 0;
    loop {
        let turn = turn(&mut way.items, 1, &mut way.next, &mut batch, watch.since, post);
        let took = watch.lap(|times| &mut times.busy);
        quick = if took < PROMPT { quick + 1 } else { 0 };
        count_source(&post.meter, batch.len());
        let mut blocked = false;
        loop {
            match way.exit.give(&mut batch, &waker) {
                Given::All => break,
                Given::Stopped => return None,
                Given::Full => std::thread::park(),
            }
            blocked = true;
        }
        if blocked {
            watch.lap(|times| &mut times.blocked);
        }
        match turn {
            Turn::End => return None,
            _ if quick >= patience => return Some(way),
            _ => {}
        }
    }
}

fn count_source(meter: &Meter, items: usize) {
    let mut tally = meter.tally.lock();
    tally.taken += items as u64;
    tally.counts.ok += items as u64;
}

/// Returns how many items would go now, when there is room. `None` after a stop.
async fn wait_for_room<V>(exit: &mut dyn Exit<V>) -> Option<usize> {
    poll_fn(|cx| match exit.room(cx.waker()) {
        Some(0) => Poll::Pending,
        room => Poll::Ready(room),
    })
    .await
}

/// Moves what a source brings into the pipeline, never asking for more than there is room for.
pub(super) async fn feed<T: Send + 'static>(source: Box<dyn Source<T>>, settles: bool, mut exit: Box<dyn Exit<T>>, post: Arc<Post<T>>) {
    let mut watch = Watch::new(&post.meter, post.clock);
    let mut fetched = Vec::new();
    let mut batch: ItemBatch<T> = VecDeque::new();
    let mut settlements = Vec::new();
    loop {
        let room = wait_for_room(&mut *exit).await;
        watch.lap(|times| &mut times.blocked);
        let Some(room) = room else { break };
        let end = match fetch(&*source, room.min(FETCH), &mut fetched, &post.run).await {
            Ok(fetched) => fetched == Fetched::End,
            Err(why) => {
                post.broken("source", why);
                true
            }
        };
        watch.lap(|times| &mut times.busy);
        count_source(&post.meter, fetched.len());
        if settles {
            settlements.extend(fetched.iter().map(|delivery| Settlement { receipt: delivery.receipt, verdict: Verdict::Ack }));
        }
        batch.extend(fetched.drain(..).map(|delivery| (delivery.id, delivery.payload)));
        let open = give(&mut *exit, &mut batch, &post.meter, post.clock).await;
        watch.since = post.clock.now();
        if settles {
            // In this process settling cannot fail.
            let _ = source.settle(&settlements).await;
            settlements.clear();
        }
        if end || !open {
            break;
        }
    }
    source.close();
}

/// One fetch. It is never cut off: a stop closes the source, and the fetch then returns.
async fn fetch<T>(source: &dyn Source<T>, room: usize, into: &mut Vec<crate::Delivery<T>>, run: &PipelineRun) -> Result<Fetched, String> {
    let mut fetching = pin!(AssertUnwindSafe(async { source.fetch(room, into).await }).catch_unwind());
    let said = |fetched: std::thread::Result<Result<Fetched, crate::SourceError>>| match fetched {
        Ok(Ok(fetched)) => Ok(fetched),
        Ok(Err(error)) => Err(error.message),
        Err(panic) => Err(format!("panicked: {}", panic_text(&*panic))),
    };
    if let Some(fetched) = poll_fn(|cx| {
        Poll::Ready(match fetching.as_mut().poll(cx) {
            Poll::Ready(fetched) => Some(fetched),
            Poll::Pending => None,
        })
    })
    .await
    {
        return said(fetched);
    }
    let mut stopped = pin!(run.stopped.cancelled());
    let mut closed = false;
    poll_fn(|cx| {
        if !closed && stopped.as_mut().poll(cx).is_ready() {
            closed = true;
            source.close();
        }
        fetching.as_mut().poll(cx)
    })
    .await
    .map_or_else(|panic| said(Err(panic)), |fetched| said(Ok(fetched)))
}

/// Takes items from the queue in front; waits until there are some, or until `limit`.
async fn take<T>(post: &Post<T>, most: usize, into: &mut ItemBatch<T>, limit: Option<Instant>) -> Option<TakenItems> {
    let ask = Ask { most, sharers: 1, eager: false };
    let look = |into: &mut ItemBatch<T>, waker: &Waker| match post.input.take(0, ask, into, waker) {
        TakenItems::Empty | TakenItems::Ahead => None,
        taken => Some(taken),
    };
    let taking = poll_fn(|cx| look(into, cx.waker()).map_or(Poll::Pending, Poll::Ready));
    match limit {
        None => Some(taking.await),
        Some(limit) => tokio::time::timeout_at(limit.into(), taking).await.ok(),
    }
}

/// Groups items: `size` of them, or what there is `within` after the first of a group came.
pub(super) async fn group<T: Send + 'static>(post: Arc<Post<T>>, mut exit: Box<dyn Exit<Vec<T>>>, size: usize, within: Duration) {
    let mut watch = Watch::new(&post.meter, post.clock);
    let mut items: ItemBatch<T> = VecDeque::new();
    let (mut number, mut group, mut limit) = (0, Vec::new(), None);
    let mut out = VecDeque::new();
    loop {
        let taken = take(&post, size - group.len(), &mut items, limit).await;
        watch.lap(|times| &mut times.waiting);
        let end = matches!(taken, Some(TakenItems::End | TakenItems::Stopped));
        post.meter.tally.lock().taken += items.len() as u64;
        for (item_number, item) in items.drain(..) {
            if group.is_empty() {
                (number, limit) = (item_number, post.clock.now().checked_add(within));
            }
            group.push(item);
        }
        if taken == Some(TakenItems::Stopped) {
            // A part of a group is of no use to anybody.
            post.meter.tally.lock().taken -= group.len() as u64;
            post.input.put_back(group.len());
            return;
        }
        if !group.is_empty() && (group.len() >= size || end || taken.is_none()) {
            post.meter.tally.lock().counts.ok += group.len() as u64;
            out.push_back((number, std::mem::take(&mut group)));
            limit = None;
            if !give(&mut *exit, &mut out, &post.meter, post.clock).await {
                return;
            }
            watch.since = post.clock.now();
        }
        if end {
            return;
        }
    }
}

/// Sends each item to the branch that `choose` names.
pub(super) async fn route<T: Send + 'static>(
    post: Arc<Post<T>>,
    mut exits: Vec<Box<dyn Exit<T>>>,
    choose: impl Fn(&T) -> usize + Send + 'static,
) {
    let mut watch = Watch::new(&post.meter, post.clock);
    let mut items: ItemBatch<T> = VecDeque::new();
    let mut outs: Vec<ItemBatch<T>> = exits.iter().map(|_| VecDeque::new()).collect();
    loop {
        let taken = take(&post, post.meter.queue.min(FETCH), &mut items, None).await;
        watch.lap(|times| &mut times.waiting);
        if matches!(taken, None | Some(TakenItems::End | TakenItems::Stopped)) {
            return;
        }
        let mut ok = 0;
        post.meter.tally.lock().taken += items.len() as u64;
        for (number, item) in items.drain(..) {
            let branch = catch_unwind(AssertUnwindSafe(|| choose(&item)));
            let outcome = match branch {
                Ok(branch) if branch < outs.len() => {
                    ok += 1;
                    outs[branch].push_back((number, item));
                    continue;
                }
                Ok(branch) => Outcome::<()>::Failed(crate::TaskError::invalid(format!(
                    "there is no branch {branch}; the branches are 0 to {}",
                    outs.len().saturating_sub(1)
                ))),
                Err(panic) => Outcome::Panicked(panic_text(&*panic)),
            };
            post.failed(&outcome, Tried { number, attempts: 1, copy: None });
        }
        post.meter.tally.lock().counts.ok += ok;
        watch.lap(|times| &mut times.busy);
        for (exit, out) in exits.iter_mut().zip(&mut outs) {
            if !out.is_empty() {
                // After a stop every exit counts what it refuses.
                give(&mut **exit, out, &post.meter, post.clock).await;
            }
        }
        watch.since = post.clock.now();
    }
}
