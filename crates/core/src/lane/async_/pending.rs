//! The attempts of one loop that are pending: places that are used again and again, each with a waker that lasts as long as the loop.
//!
//! What `FuturesUnordered` does for futures that come and go rarely; here a million of them pass through fifty places, so a place costs no allocation
//! and a future is polled with its own waker from the first time on. A waker that somebody keeps beyond the end of its future wakes the next one in
//! the same place: one poll too many, which every future must bear.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use crate::sync::Mutex;

/// Places for pending work `P`.
pub(crate) struct Pending<P> {
    places: Vec<Place<P>>,
    /// Empty places; the last one first, because it is warm.
    free: Vec<u32>,
    woken: Arc<Woken>,
    /// Places taken from `woken`, and how many of them have had their turn.
    turn: Vec<u32>,
    had: usize,
}

struct Place<P> {
    work: Option<P>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Places that were woken since the loop last looked.
struct Woken {
    list: Mutex<List>,
}

struct List {
    places: Vec<u32>,
    /// The loop sleeps, and is to be woken through this.
    sleeper: Option<Waker>,
    asleep: bool,
}

/// The waker of a place.
struct Bell {
    place: u32,
    /// The place stands in the list.
    listed: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut list = self.woken.list.lock();
        list.places.push(self.place);
        // A loop that is awake looks at the list before it sleeps.
        let sleeper = if std::mem::take(&mut list.asleep) { list.sleeper.take() } else { None };
        drop(list);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl<P> Pending<P> {
    pub(crate) fn new() -> Self {
        let list = List { places: Vec::new(), sleeper: None, asleep: false };
        Self { places: Vec::new(), free: Vec::new(), woken: Arc::new(Woken { list: Mutex::new(list) }), turn: Vec::new(), had: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// An empty place. It stays empty until work is [`put`](Pending::put) there.
    #[inline]
    pub(crate) fn vacant(&mut self) -> u32 {
        if let Some(place) = self.free.last() {
            return *place;
        }
        let place = u32::try_from(self.places.len()).unwrap_or_else(|_| unreachable!("the gate has fewer slots"));
        let bell = Arc::new(Bell { place, listed: AtomicBool::new(false), woken: self.woken.clone() });
        self.places.push(Place { work: None, waker: Waker::from(bell.clone()), bell });
        self.free.push(place);
        place
    }

    /// What wakes the work in a place.
    #[inline]
    pub(crate) fn waker(&self, place: u32) -> &Waker {
        &self.places[place as usize].waker
    }

    /// Puts work into the place that [`vacant`](Pending::vacant) named last.
    #[inline]
    pub(crate) fn put(&mut self, place: u32, work: P) {
        debug_assert_eq!(self.free.last(), Some(&place), "another place");
        self.free.pop();
        self.places[place as usize].work = Some(work);
    }

    /// Polls up to `most` of those that were woken, and hands over with its output what is over; then its place is free. Returns how many were polled.
    #[inline]
    pub(crate) fn poll_woken<O>(
        &mut self,
        most: usize,
        mut poll: impl FnMut(&mut P, &mut Context<'_>) -> Option<O>,
        mut over: impl FnMut(P, O),
    ) -> usize {
        if self.had == self.turn.len() {
            self.turn.clear();
            self.had = 0;
            let mut list = self.woken.list.lock();
            list.asleep = false;
            std::mem::swap(&mut list.places, &mut self.turn);
        }
        let mut polled = 0;
        while polled < most
            && let Some(index) = self.turn.get(self.had)
        {
            self.had += 1;
            let place = &mut self.places[*index as usize];
            // From here on a wake counts for the next time.
            place.bell.listed.swap(false, Ordering::AcqRel);
            let Some(work) = &mut place.work else { continue };
            polled += 1;
            if let Some(output) = poll(work, &mut Context::from_waker(&place.waker))
                && let Some(work) = place.work.take()
            {
                self.free.push(*index);
                over(work, output);
            }
        }
        polled
    }

    /// Lets the loop sleep until one is woken; `false` if one has been.
    pub(crate) fn sleep(&mut self, cx: &Context<'_>) -> bool {
        if self.had < self.turn.len() {
            return false;
        }
        let mut list = self.woken.list.lock();
        if !list.places.is_empty() {
            return false;
        }
        list.asleep = true;
        match &list.sleeper {
            Some(sleeper) if sleeper.will_wake(cx.waker()) => {}
            _ => list.sleeper = Some(cx.waker().clone()),
        }
        true
    }

    /// Calls `look` with all that is pending; where it returns `true`, the work is polled soon.
    pub(crate) fn look(&mut self, mut look: impl FnMut(&mut P) -> bool) {
        for place in &mut self.places {
            if let Some(work) = &mut place.work
                && look(work)
            {
                place.waker.wake_by_ref();
            }
        }
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = P> + '_ {
        self.free.clear();
        self.free.extend(0..self.places.len() as u32);
        self.places.iter_mut().filter_map(|place| place.work.take())
    }
}
