//! The attempts of one loop that are pending: places that are used again and again, each with a
//! waker that lasts as long as the loop.
//!
//! What `FuturesUnordered` does for futures that come and go rarely; here a million of them pass
//! through fifty places, so a place costs no allocation and a future is polled with its own waker
//! from the first time on. A waker that somebody keeps beyond the end of its future wakes the next
//! one in the same place: one poll too many, which every future must bear.
//!
//! Most wakes come from the loop's own thread while it polls (a task yields, or feeds its
//! neighbour): they go into a list of that thread ([`Near`]), without a lock or an atomic exchange.

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    sync::{Arc, atomic::Ordering},
    task::{Context, Wake, Waker},
};

use crate::sync::{AtomicBool, Mutex};

#[cfg(all(test, longshore_loom))]
mod loom_tests;

/// Places for pending work `P`.
pub(crate) struct Pending<P> {
    places: Vec<PendingPlace<P>>,
    /// Empty places; the last one first, because it is warm.
    free: Vec<u32>,
    woken: Arc<Woken>,
    /// Places taken from `woken`, and how many of them have had their turn.
    turn: Vec<u32>,
    had: usize,
}

struct PendingPlace<P> {
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

impl Woken {
    /// Tells one loop from another, as long as it lives.
    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// The waker of a place.
struct Bell {
    place: u32,
    /// The place stands in the list.
    listed: AtomicBool,
    /// The polling thread has woken it, and it has not had its turn since. Only whoever polls the
    /// loop looks at this.
    near: AtomicBool,
    woken: Arc<Woken>,
}

/// Notes of a thread for the time in which it polls a loop.
struct Here {
    /// The address of the loop's `Woken`; 0: it polls none.
    woken: Cell<usize>,
    /// The loop's places that it woke itself.
    places: RefCell<Vec<u32>>,
}

impl Here {
    const fn new() -> Self {
        Self { woken: Cell::new(0), places: RefCell::new(Vec::new()) }
    }
}

#[cfg(not(longshore_loom))]
thread_local! {
    static HERE: Here = const { Here::new() };
}
#[cfg(longshore_loom)]
loom::thread_local! {
    static HERE: Here = Here::new();
}

/// While it lives, this thread polls this loop: what it wakes there it remembers for itself.
/// Not to be sent elsewhere.
pub(crate) struct Near(Option<Arc<Woken>>, PhantomData<*const ()>);

impl Drop for Near {
    /// Moves what was woken and not polled any more to where every thread finds it.
    fn drop(&mut self) {
        let Some(woken) = &self.0 else { return };
        let sleeper = HERE.with(|here| {
            here.woken.set(0);
            let mut places = here.places.borrow_mut();
            if places.is_empty() {
                return None;
            }
            let mut list = woken.list.lock();
            list.places.append(&mut places);
            if std::mem::take(&mut list.asleep) { list.sleeper.take() } else { None }
        });
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let near = HERE.try_with(|here| {
            let near = here.woken.get() == self.woken.address();
            if near && !self.near.load(Ordering::Relaxed) {
                self.near.store(true, Ordering::Relaxed);
                here.places.borrow_mut().push(self.place);
            }
            near
        });
        if near.unwrap_or(false) || self.listed.swap(true, Ordering::AcqRel) {
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

    /// To be held while the loop is polled, for quicker wakes; not across polls.
    pub(crate) fn near(&self) -> Near {
        HERE.with(|here| {
            // In a loop within a loop, the outer one has it.
            let free = here.woken.get() == 0;
            if free {
                here.woken.set(self.woken.address());
            }
            Near(free.then(|| self.woken.clone()), PhantomData)
        })
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
        let bell = Arc::new(Bell { place, listed: AtomicBool::new(false), near: AtomicBool::new(false), woken: self.woken.clone() });
        self.places.push(PendingPlace { work: None, waker: Waker::from(bell.clone()), bell });
        self.free.push(place);
        place
    }

    /// Returns the waker of the work in a place.
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

    /// Polls up to `most` of those that were woken, and hands over with its output what is over;
    /// then its place is free. Returns how many were polled.
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
            HERE.with(|here| {
                if here.woken.get() == self.woken.address() {
                    std::mem::swap(&mut *here.places.borrow_mut(), &mut self.turn);
                }
            });
            let mut list = self.woken.list.lock();
            list.asleep = false;
            self.turn.append(&mut list.places);
        }
        let mut polled = 0;
        while polled < most
            && let Some(index) = self.turn.get(self.had)
        {
            self.had += 1;
            let place = &mut self.places[*index as usize];
            // From here on a wake counts for the next time.
            place.bell.near.store(false, Ordering::Relaxed);
            if place.bell.listed.load(Ordering::Relaxed) {
                place.bell.listed.swap(false, Ordering::AcqRel);
            }
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
        let woken_here = HERE.with(|here| here.woken.get() == self.woken.address() && !here.places.borrow().is_empty());
        if self.had < self.turn.len() || woken_here {
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

#[cfg(all(test, not(longshore_loom)))]
mod tests {
    use super::*;

    /// Places with nothing to do but to be polled, and how often each was.
    fn places(count: usize) -> (Pending<usize>, Vec<Waker>) {
        let mut pending = Pending::new();
        let wakers = (0..count)
            .map(|number| {
                let place = pending.vacant();
                pending.put(place, number);
                pending.waker(place).clone()
            })
            .collect();
        (pending, wakers)
    }

    fn poll(pending: &mut Pending<usize>) -> Vec<usize> {
        let mut polled = Vec::new();
        pending.poll_woken(
            usize::MAX,
            |number, _| {
                polled.push(*number);
                None::<()>
            },
            |_, ()| {},
        );
        polled
    }

    fn sleeps(pending: &mut Pending<usize>) -> bool {
        pending.sleep(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_is_woken_by_the_loops_own_thread_is_polled_once_and_before_it_sleeps() {
        let (mut pending, wakers) = places(3);
        let near = pending.near();
        wakers[2].wake_by_ref();
        wakers[0].wake_by_ref();
        wakers[2].wake_by_ref();
        assert!(pending.woken.list.lock().places.is_empty(), "without the lock");
        assert!(!sleeps(&mut pending));
        assert_eq!(poll(&mut pending), [2, 0]);
        assert!(sleeps(&mut pending));
        drop(near);
        assert!(poll(&mut pending).is_empty());
    }

    #[test]
    fn a_task_that_wakes_itself_and_its_neighbour_has_both_polled_next_time() {
        let (mut pending, wakers) = places(2);
        let _near = pending.near();
        wakers[0].wake_by_ref();
        let mut wake_both = |number: &mut usize, cx: &mut Context<'_>| {
            assert_eq!(*number, 0, "the neighbour has its turn with the next look");
            cx.waker().wake_by_ref();
            wakers[1].wake_by_ref();
            None::<()>
        };
        assert_eq!(pending.poll_woken(1, &mut wake_both, |_, ()| {}), 1);
        assert_eq!(poll(&mut pending), [0, 1]);
        assert!(sleeps(&mut pending));
    }

    #[test]
    fn what_was_woken_and_not_polled_is_found_by_the_next_thread() {
        let (mut pending, wakers) = places(2);
        let near = pending.near();
        wakers[1].wake_by_ref();
        drop(near);
        // Woken once more on the way, from afar: one poll too many is allowed, one too few is not.
        let polled = std::thread::spawn(move || {
            wakers[1].wake_by_ref();
            let _near = pending.near();
            assert!(!sleeps(&mut pending));
            let polled = poll(&mut pending);
            assert!(sleeps(&mut pending));
            polled
        });
        assert!(matches!(polled.join().expect("no panic")[..], [1] | [1, 1]));
    }

    #[test]
    fn a_loop_is_not_taken_for_another_one_on_the_same_thread() {
        let ((mut outer, outers), (mut inner, inners)) = (places(1), places(1));
        let near = outer.near();
        let second = inner.near();
        outers[0].wake_by_ref();
        inners[0].wake_by_ref();
        drop(second);
        assert_eq!((poll(&mut inner), poll(&mut outer)), (vec![0], vec![0]));
        drop(near);
        // A place that nobody polls any more wakes through the list, and the loop out of its sleep.
        assert!(sleeps(&mut outer));
        outers[0].wake_by_ref();
        assert_eq!(poll(&mut outer), [0]);
    }
}
