//! A function over an input: lazy, ordered unless told otherwise, with a bounded look-ahead.
//!
//! A plain function is run over chunks of the input, a chunk being one call. Chunks grow with what
//! items are measured to take, until a chunk is worth many times what handing it over costs; items
//! that take long travel alone. An async function gets a call for each item.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::Stream;

use crate::{
    error::TaskError,
    executor::{
        Executor, TaskHandle,
        call::{CallWork, block_for},
        inbox::CallInbox,
    },
    lane::{isolated::MOST as BATCH, panic_text},
    task::LaneKind,
};

/// The least work that a chunk of tiny items should be. Handing one over costs some microseconds.
const LEAST: Duration = Duration::from_micros(100);
/// The most work in a chunk of several items.
const CHUNK: Duration = Duration::from_millis(4);
/// A chunk is at most this share of the time that the map has run: the first results come soon, and
/// a long run pays for few hand-overs.
const PATIENCE: u32 = 16;
/// The most items in a chunk, however tiny.
const MOST: usize = 1 << 16;
/// By how much a chunk may outgrow the largest before it: what is known of the first items need not
/// hold for the next.
const GROWTH: usize = 8;
/// Chunks on their way for each child process.
const AHEAD: usize = 32;
/// The shares into which what is known to remain is divided for each worker, so that all are done
/// at about the same time.
const SHARES: usize = 4;

/// One input failed: which, and why.
#[derive(Clone, Debug)]
pub struct InputError {
    /// The place of the input, from 0.
    pub index: usize,
    /// Why.
    pub error: TaskError,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {}: {}", self.index, self.error)
    }
}

impl std::error::Error for InputError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Results of a chunk of inputs.
pub(super) struct Chunk<R> {
    results: Vec<R>,
    /// Failures, by their place in the chunk.
    failed: Vec<(usize, TaskError)>,
    took: Duration,
}

impl<R> Chunk<R> {
    pub(super) fn of(ends: impl Iterator<Item = Result<R, TaskError>>, took: Duration) -> Self {
        let mut chunk = Self { results: Vec::with_capacity(ends.size_hint().0), failed: Vec::new(), took };
        for (place, ended) in ends.enumerate() {
            match ended {
                Ok(result) => chunk.results.push(result),
                Err(error) => chunk.failed.push((place, error)),
            }
        }
        chunk
    }

    pub(super) fn of_one(ended: Result<R, TaskError>) -> Self {
        let (results, failed) = match ended {
            Ok(result) => (vec![result], Vec::new()),
            Err(error) => (Vec::new(), vec![(0, error)]),
        };
        Self { results, failed, took: Duration::ZERO }
    }
}

type ChunkStart<T, R> = Box<dyn Fn(&Executor, Vec<T>) -> TaskHandle<Chunk<R>> + Send + Sync>;

/// A function over an input, not yet run: an iterator over its results (blocking), or a
/// [stream](Map::stream).
///
/// Results come in the order of the inputs, or [as they are done](Map::unordered). Inputs are drawn
/// from their iterator only as far ahead as the lane can use, on the thread that asks for results;
/// the input may be endless. One whose items come slowly should go with [`chunk(1)`](Map::chunk): a
/// chunk waits until it is full. Dropping it cancels what is on its way.
///
/// ```
/// use longshore_core::Executor;
///
/// let pool = Executor::new();
/// // Endless input, of which only what is needed is drawn.
/// let first: Vec<u64> = pool.cpu().map(0.., |n| n * 2).map(Result::unwrap).take(3).collect();
/// assert_eq!(first, [0, 2, 4]);
///
/// // One failure does not stop the others, and says which input it was.
/// let mixed = pool.blocking().try_map(["1", "two", "3"], |text| text.parse::<u32>().map_err(|error| error.to_string()));
/// let ended: Vec<_> = mixed.collect();
/// assert_eq!((ended[0].as_ref().unwrap(), ended[2].as_ref().unwrap()), (&1, &3));
/// assert_eq!(ended[1].as_ref().unwrap_err().index, 1);
/// ```
#[must_use = "a map does nothing until its results are asked for"]
pub struct Map<I: Iterator, R: Send + 'static> {
    pool: Executor,
    inputs: I,
    start: ChunkStart<I::Item, R>,
    workers: usize,
    /// Items in a chunk: given, or found out.
    chunk: Option<usize>,
    ahead: Option<usize>,
    ordered: bool,
    sizes: Sizes,
    began: Option<Instant>,
    exhausted: bool,
    drawn: usize,
    /// Chunks on their way, by the order of their start; those that have been read are taken out
    /// from the front.
    flying: VecDeque<Flying<R>>,
    /// The number of the first of them.
    first: usize,
    inbox: Arc<CallInbox>,
    reading: Option<Reading<R>>,
}

struct Flying<R: Send + 'static> {
    handle: Option<TaskHandle<Chunk<R>>>,
    from: usize,
    count: usize,
    ended: bool,
}

/// A chunk whose results are being read.
struct Reading<R> {
    from: usize,
    at: usize,
    results: std::vec::IntoIter<R>,
    failed: std::iter::Peekable<std::vec::IntoIter<(usize, TaskError)>>,
}

/// Finds out how many items make a chunk.
struct Sizes {
    /// Time that an item takes, in nanoseconds, once one is known.
    each: Option<f64>,
    largest: usize,
    most: usize,
}

impl Sizes {
    /// Returns how many items the next chunk should have, after the map has run for `ran`, when
    /// `left` items are known to be left.
    fn next(&self, ran: Duration, left: Option<usize>, workers: usize) -> usize {
        let Some(each) = self.each else { return 1 };
        let items = |work: Duration| (work.as_nanos() as f64 / each.max(0.5)) as usize;
        let (least, wanted) = (items(LEAST), items((ran / PATIENCE).clamp(LEAST, CHUNK)));
        let share = left.map_or(usize::MAX, |left| left.div_ceil(workers * SHARES).max(least));
        wanted.min(self.largest * GROWTH).min(share).clamp(1, self.most)
    }

    fn learn(&mut self, count: usize, took: Duration) {
        let last = (took.as_nanos() as f64 / count.max(1) as f64).max(0.1);
        self.largest = self.largest.max(count);
        // Quick to believe in longer items, slower to believe in shorter ones.
        self.each = Some(match self.each {
            Some(each) if last < each => each * 0.5 + last * 0.5,
            _ => last,
        });
    }
}

impl<I: Iterator, R: Send + 'static> Map<I, R>
where
    I::Item: Send + 'static,
{
    pub(super) fn in_chunks<E, F>(pool: Executor, lane: LaneKind, inputs: I, function: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(I::Item) -> Result<R, E> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        let start = Box::new(move |pool: &Executor, items: Vec<I::Item>| {
            let function = function.clone();
            pool.submit(lane, CallWork::Plain(Box::new(move |token| Ok(run(&*function, items, || token.is_cancelled())))))
        });
        Self::new(pool, lane, inputs, start, None)
    }

    pub(super) fn one_by_one<E, F, Fut>(pool: Executor, inputs: I, function: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(I::Item) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let start = Box::new(move |pool: &Executor, mut items: Vec<I::Item>| {
            // A panic of the function itself, before there is a future, is that item's error as
            // well.
            let future = catch_unwind(AssertUnwindSafe(|| items.pop().map(&function)));
            let work = async move {
                let ended = match future {
                    Ok(Some(future)) => future.await.map_err(Into::into),
                    Ok(None) => Err(TaskError::new("lost", "a call without an input")),
                    Err(panic) => Err(TaskError::new("panicked", panic_text(&*panic))),
                };
                Ok(Chunk::of_one(ended))
            };
            pool.submit(LaneKind::Async, CallWork::Async(Box::pin(work)))
        });
        Self::new(pool, LaneKind::Async, inputs, start, Some(1))
    }

    /// A call for each chunk, made by `call`.
    pub(super) fn in_parcels(
        pool: Executor,
        inputs: I,
        chunk: Option<usize>,
        call: impl Fn(Vec<I::Item>) -> TaskHandle<Chunk<R>> + Send + Sync + 'static,
    ) -> Self {
        let mut map = Self::new(pool, LaneKind::Process, inputs, Box::new(move |_, items| call(items)), chunk);
        map.sizes.most = BATCH;
        // A child takes them faster than a round by way of the engine and this map lasts, so there
        // are enough for both directions.
        map.ahead = Some(AHEAD * map.workers);
        map
    }

    fn new(pool: Executor, lane: LaneKind, inputs: I, start: ChunkStart<I::Item, R>, chunk: Option<usize>) -> Self {
        Self {
            workers: pool.0.workers(lane),
            pool,
            inputs,
            start,
            chunk,
            ahead: None,
            ordered: true,
            sizes: Sizes { each: None, largest: 1, most: MOST },
            began: None,
            exhausted: false,
            drawn: 0,
            flying: VecDeque::new(),
            first: 0,
            inbox: Arc::default(),
            reading: None,
        }
    }

    /// Items in a chunk, instead of finding out. For async functions it is always 1.
    pub fn chunk(mut self, items: usize) -> Self {
        if self.chunk != Some(1) {
            self.chunk = Some(items.max(1));
        }
        self
    }

    /// Sets how many chunks are on their way at once, those that are done and not read included
    /// (eight times as many as the lane has workers, so that one that takes long does not leave the
    /// others without work while its result is waited for).
    pub fn ahead(mut self, chunks: usize) -> Self {
        self.ahead = Some(chunks.max(1));
        self
    }

    /// Results as they are done, instead of in the order of the inputs. Errors still say which
    /// input they belong to.
    pub fn unordered(mut self) -> Self {
        self.ordered = false;
        self
    }

    /// All results, in their order, if every item ended well. Blocks this thread.
    ///
    /// # Errors
    /// The first failure that is met; what is on its way is then cancelled.
    pub fn results(mut self) -> Result<Vec<R>, InputError> {
        let mut all = Vec::with_capacity(self.inputs.size_hint().0);
        loop {
            self.wait("results()");
            let Some(mut reading) = self.reading.take() else { return Ok(all) };
            if let Some((place, error)) = reading.failed.next() {
                return Err(InputError { index: reading.from + place, error });
            }
            all.extend(reading.results);
        }
    }

    /// Folds the results, as they are done, with a function that does not care for their order;
    /// failures are listed, and the rest is kept. Blocks this thread.
    ///
    /// ```
    /// use longshore_core::Executor;
    ///
    /// let pool = Executor::new();
    /// let halves = pool.cpu().try_map(0..10u32, |n| if n == 7 { Err("seven") } else { Ok(n) });
    /// let combined = halves.combine(0, |sum, n| sum + n);
    /// assert_eq!((combined.value, combined.count), (38, 9));
    /// assert_eq!(combined.failed[0].to_string(), "input 7: error: seven");
    /// ```
    pub fn combine<A>(self, from: A, mut combine: impl FnMut(A, R) -> A) -> Combined<A> {
        let mut combined = Combined { value: from, count: 0, failed: Vec::new() };
        for ended in self.unordered() {
            match ended {
                Ok(result) => {
                    combined.value = combine(combined.value, result);
                    combined.count += 1;
                }
                Err(failed) => combined.failed.push(failed),
            }
        }
        combined.failed.sort_by_key(|failed| failed.index);
        combined
    }

    /// The results as a stream, for async code.
    pub fn stream(self) -> MapStream<I, R> {
        MapStream(self)
    }

    fn wait(&mut self, what: &str) {
        let (number, tally) = (self.pool.0.number, self.pool.0.tally.clone());
        block_for(number, &tally, what, std::future::poll_fn(|cx| self.poll_reading(cx)));
    }

    /// Starts chunks until enough are on their way.
    fn fill(&mut self) {
        let ahead = self.ahead.unwrap_or(8 * self.workers);
        let began = *self.began.get_or_insert_with(Instant::now);
        while !self.exhausted && self.flying.len() < ahead {
            let left = match self.inputs.size_hint() {
                (low, Some(high)) if low == high => Some(low),
                _ => None,
            };
            let count = self.chunk.unwrap_or_else(|| self.sizes.next(began.elapsed(), left, self.workers));
            let mut items = Vec::with_capacity(count.min(left.unwrap_or(count)));
            items.extend(self.inputs.by_ref().take(count));
            self.exhausted = items.len() < count;
            if items.is_empty() {
                break;
            }
            let (from, count) = (self.drawn, items.len());
            self.drawn += count;
            let handle = (self.start)(&self.pool, items);
            handle.tell(&self.inbox, self.first + self.flying.len());
            self.flying.push_back(Flying { handle: Some(handle), from, count, ended: false });
        }
    }

    /// Makes `reading` the next chunk with something to read; ready without one at the end.
    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.reading.as_ref().is_some_and(|reading| !reading.is_empty()) {
                return Poll::Ready(());
            }
            self.reading = None;
            self.fill();
            if self.flying.is_empty() {
                return Poll::Ready(());
            }
            if self.ordered && self.flying.front().is_some_and(|flying| flying.ended) {
                self.read(0);
                continue;
            }
            self.help();
            let Poll::Ready(number) = self.inbox.poll_pop(cx) else { return Poll::Pending };
            let place = number - self.first;
            match self.ordered {
                true => self.flying[place].ended = true,
                false => self.read(place),
            }
        }
    }

    /// Inside a call of the same pool nobody else may have a place for what this one waits for.
    fn help(&mut self) {
        if let Some(flying) = self.flying.iter().find(|flying| flying.handle.as_ref().is_some_and(TaskHandle::is_waiting))
            && let Some(handle) = &flying.handle
        {
            handle.help();
        }
    }

    fn read(&mut self, place: usize) {
        let flying = &mut self.flying[place];
        let (from, count) = (flying.from, flying.count);
        if let Some(handle) = flying.handle.take() {
            let chunk = handle.take().unwrap_or_else(|error| Chunk {
                results: Vec::new(),
                // The chunk as a whole has no answer: timed out, cancelled, refused.
                failed: (0..count).map(|place| (place, error.clone())).collect(),
                took: Duration::ZERO,
            });
            if !chunk.took.is_zero() {
                self.sizes.learn(count, chunk.took);
            }
            self.reading = Some(Reading { from, at: 0, results: chunk.results.into_iter(), failed: chunk.failed.into_iter().peekable() });
        }
        while self.flying.front().is_some_and(|flying| flying.handle.is_none()) {
            self.flying.pop_front();
            self.first += 1;
        }
    }
}

impl<R> Reading<R> {
    fn is_empty(&self) -> bool {
        self.results.len() == 0 && self.failed.len() == 0
    }

    #[inline]
    fn next(&mut self) -> Option<Result<R, InputError>> {
        let at = self.at;
        self.at += 1;
        if let Some((_, error)) = self.failed.next_if(|(place, _)| *place == at) {
            return Some(Err(InputError { index: self.from + at, error }));
        }
        self.results.next().map(Ok)
    }
}

/// Runs a function over a chunk. A panic ends its item, not the chunk; after a cancellation the
/// rest is not run.
fn run<T, R, E: Into<TaskError>>(function: &impl Fn(T) -> Result<R, E>, items: Vec<T>, cancelled: impl Fn() -> bool) -> Chunk<R> {
    let began = Instant::now();
    let mut chunk = Chunk { results: Vec::with_capacity(items.len()), failed: Vec::new(), took: Duration::ZERO };
    let mut items = items.into_iter();
    loop {
        let Chunk { results, failed, .. } = &mut chunk;
        let all = catch_unwind(AssertUnwindSafe(|| {
            for item in items.by_ref() {
                if cancelled() {
                    failed.push((results.len() + failed.len(), TaskError::new("cancelled", "cancelled before it ran")));
                    continue;
                }
                match function(item) {
                    Ok(result) => results.push(result),
                    Err(error) => failed.push((results.len() + failed.len(), error.into())),
                }
            }
        }));
        match all {
            Ok(()) => break,
            Err(panic) => {
                let place = chunk.results.len() + chunk.failed.len();
                chunk.failed.push((place, TaskError::new("panicked", panic_text(&*panic))));
            }
        }
    }
    chunk.took = began.elapsed();
    chunk
}

impl<I: Iterator, R: Send + 'static> Iterator for Map<I, R>
where
    I::Item: Send + 'static,
{
    type Item = Result<R, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(next) = self.reading.as_mut().and_then(Reading::next) {
            return Some(next);
        }
        self.wait("a map's iterator");
        self.reading.as_mut()?.next()
    }
}

impl<I: Iterator, R: Send + 'static> Drop for Map<I, R> {
    fn drop(&mut self) {
        for flying in &mut self.flying {
            if let Some(handle) = flying.handle.take() {
                handle.cancel();
                // What nobody wants any more is no unread failure.
                handle.discard();
            }
        }
    }
}

/// The results of a [`Map`] as a stream. Cancel safe: a result that was not taken is there at the
/// next poll.
pub struct MapStream<I: Iterator, R: Send + 'static>(Map<I, R>);

impl<I: Iterator, R: Send + 'static> Unpin for MapStream<I, R> {}

impl<I: Iterator, R: Send + 'static> Stream for MapStream<I, R>
where
    I::Item: Send + 'static,
{
    type Item = Result<R, InputError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let map = &mut self.0;
        if let Some(next) = map.reading.as_mut().and_then(Reading::next) {
            return Poll::Ready(Some(next));
        }
        std::task::ready!(map.poll_reading(cx));
        Poll::Ready(map.reading.as_mut().and_then(Reading::next))
    }
}

/// Result of a fold over the results.
#[derive(Clone, Debug)]
pub struct Combined<A> {
    /// The value.
    pub value: A,
    /// Results that are in it.
    pub count: usize,
    /// Inputs that failed, by their place.
    pub failed: Vec<InputError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_grows_by_measured_time_up_to_its_share_of_what_remains() {
        let (early, late) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut sizes = Sizes { each: None, largest: 1, most: MOST };
        assert_eq!(sizes.next(early, Some(1_000_000), 2), 1, "nothing is known yet");
        sizes.learn(1, Duration::from_nanos(100));
        assert_eq!(sizes.next(early, Some(1_000_000), 2), 8, "no more than eight times the largest so far");
        for count in [8, 64, 512, 4_096] {
            sizes.learn(count, Duration::from_nanos(100) * count as u32);
        }
        assert_eq!(sizes.next(early, None, 2), 1_000, "100 µs of 100 ns at first");
        assert_eq!(sizes.next(Duration::from_millis(16), None, 2), 10_000, "a sixteenth of the time that it has run");
        assert_eq!(sizes.next(late, None, 2), 32_768, "as before, eight times the largest");
        assert_eq!(sizes.next(late, Some(80_000), 2), 10_000, "a quarter of what remains for each of two workers");
        assert_eq!(sizes.next(late, Some(50), 2), 1_000, "but at the end not less than is worth a hand-over");
        sizes.learn(5_000, Duration::from_millis(500));
        assert_eq!(sizes.next(late, None, 2), 40, "longer items are believed at once: 4 ms of 100 µs");
        sizes.learn(1, Duration::from_secs(1));
        assert_eq!(sizes.next(late, None, 2), 1);
    }

    #[test]
    fn a_panic_and_a_failure_in_a_chunk_are_theirs_alone() {
        let function = |n: u32| match n {
            2 => panic!("two"),
            4 => Err("four"),
            n => Ok(n * 10),
        };
        let chunk = run(&function, (0..6).collect(), || false);
        let mut reading = Reading { from: 100, at: 0, results: chunk.results.into_iter(), failed: chunk.failed.into_iter().peekable() };
        let read: Vec<_> = std::iter::from_fn(|| reading.next()).map(|ended| ended.map_err(|error| error.to_string())).collect();
        assert_eq!(
            read,
            [Ok(0), Ok(10), Err("input 102: panicked: two".to_owned()), Ok(30), Err("input 104: error: four".to_owned()), Ok(50)]
        );
    }
}
