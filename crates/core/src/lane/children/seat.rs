//! One child after the other in one slot, and the work that they have: it is sent, its time is
//! kept, and whatever ends a child, each piece gets one end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use longshore_sys::poll::{Interest, ready};

use super::{
    ChildLimits, KILL_AFTER, KeptChild,
    blame::{Charge, Due, Term, Why, blame, charge, due},
    kept::LOOK,
    link::{ChildKind, ChildLink as _, Resting, Said, TalkLink as _},
};
use crate::{
    clock,
    error::TaskError,
    lane::child::{Children, End, Exit},
    outcome::Outcome,
};

/// Time for which the end of a child is waited for that has closed its output, so that its own end
/// is seen and not our signal.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// A piece of work for a child.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Its number, which no other has that is on its way.
    pub(crate) id: u64,
    pub(crate) work: Vec<u8>,
    /// After this time it is asked to end.
    pub(crate) soft: Option<Duration>,
    /// After this time its child is ended.
    pub(crate) hard: Option<Duration>,
    /// A child ended well with this as its first unanswered piece: the next one that does has begun
    /// it.
    pub(crate) is_doubtful: bool,
}

/// End of a piece of work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildAnswer {
    /// The answer, or why there is none.
    pub outcome: Outcome<Vec<u8>>,
    /// The last that the child wrote to its standard error meanwhile. An outcome that has an error
    /// holds it too.
    pub tail: Option<String>,
}

impl ChildAnswer {
    pub(crate) fn none(outcome: Outcome<Infallible>) -> Self {
        let tail = outcome.error().and_then(|error| error.tail().map(str::to_owned));
        Self { outcome: outcome.map(|never| match never {}), tail }
    }
}

/// Source of a seat's work, which also takes the ends of it.
pub(crate) trait Feed {
    /// Returns the next piece of work, if there is one now.
    fn next(&mut self) -> Option<Errand>;

    /// Returns whether a piece may begin, now that a child is ready for it.
    fn may_begin(&mut self, id: u64) -> bool;

    /// Takes back a piece that no child has begun, in front of those that wait.
    fn again(&mut self, errand: Errand);

    /// Takes the end of a piece, and since when it was with its child.
    fn ended(&mut self, id: u64, since: Option<Instant>, answer: ChildAnswer);

    /// Returns what is readable when there may be more work.
    fn bell(&self) -> Option<BorrowedFd<'_>>;

    /// Notes that this was readable, so that it is so again when there is more.
    fn hear_bell(&mut self);

    /// Returns whether nobody wants a piece any more.
    fn is_called_off(&self, id: u64) -> bool;

    /// Returns whether that can be, so that it has to be looked for every 20 ms.
    fn may_call_off(&self) -> bool;
}

/// Means that all seats of a pool have in common.
pub(crate) struct SeatKind<'a, K> {
    pub(crate) kind: &'a K,
    pub(crate) limits: &'a ChildLimits,
    pub(crate) children: &'a Children,
}

impl<K> Clone for SeatKind<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for SeatKind<'_, K> {}

/// One child after the other in one slot.
pub(crate) struct ChildSeat<K: ChildKind> {
    slot: u32,
    child: Option<KeptChild<K::Link>>,
    flights: VecDeque<Flight>,
    /// True once the present child has begun anything.
    is_proven: bool,
    /// When it answered last.
    answered: Option<Instant>,
    fruitless: u32,
    /// True once everything stops; its child is killed at the time that follows.
    is_stopping: bool,
    kill_at: Option<Instant>,
}

/// A piece of work that a child has.
struct Flight {
    errand: Errand,
    sent: Instant,
    begun: Option<Instant>,
    is_asked: bool,
}

impl Flight {
    /// Returns since when its child has worked on it, as far as that is known, where the child
    /// answered another one last at this instant.
    fn since(&self, answered: Option<Instant>) -> Instant {
        self.begun.unwrap_or_else(|| answered.map_or(self.sent, |at| at.max(self.sent)))
    }
}

/// Reason why a child has to be buried.
struct Death {
    why: Option<Why>,
    culprit: Option<u64>,
}

fn wrong(error: TaskError) -> Death {
    Death { why: Some(Why::Wrong(error)), culprit: None }
}

impl<K: ChildKind> ChildSeat<K> {
    pub(crate) fn new(slot: u32) -> Self {
        Self {
            slot,
            child: None,
            flights: VecDeque::new(),
            is_proven: false,
            answered: None,
            fruitless: 0,
            is_stopping: false,
            kill_at: None,
        }
    }

    /// Does work until there is none. Afterwards each piece has its end, or has been taken back.
    pub(crate) fn run(&mut self, own: SeatKind<'_, K>, feed: &mut impl Feed) {
        loop {
            self.fill(own, feed);
            if self.flights.is_empty() {
                return;
            }
            if let Err(death) = self.attend(own, feed) {
                self.bury(own, feed, death);
            }
        }
    }

    pub(crate) fn has_child(&self) -> bool {
        self.child.is_some()
    }

    /// Returns how many pieces of work its child may have now.
    fn most(&self, limits: &ChildLimits) -> usize {
        let at_once = limits.at_once.map_or(1, |most| most.max(1) as usize);
        self.child.as_ref().map_or(at_once, |child| child.link.most(at_once))
    }

    /// Takes its child away, to be ended.
    pub(crate) fn take(&mut self) -> Option<K::Link> {
        self.child.take().map(|child| child.link)
    }

    /// Gives the child as much as it may have at once.
    fn fill(&mut self, own: SeatKind<'_, K>, feed: &mut impl Feed) {
        while self.flights.len() < self.most(own.limits) {
            // A child that has had enough ends what it has first.
            if !self.flights.is_empty() && self.child.as_mut().is_none_or(|child| child.is_worn(own.limits, clock::now())) {
                return;
            }
            let Some(errand) = feed.next() else { return };
            if let Err(answer) = self.fit(own) {
                feed.ended(errand.id, None, answer);
                continue;
            }
            // A place and a child may have been waited for.
            if !feed.may_begin(errand.id) {
                feed.ended(errand.id, None, ChildAnswer::none(Outcome::Cancelled));
                continue;
            }
            let Some(child) = self.child.as_mut() else { return feed.again(errand) };
            child.give(1);
            child.link.send(errand.id, &errand.work);
            self.flights.push_back(Flight { errand, sent: clock::now(), begun: None, is_asked: false });
        }
    }

    /// Sees to it that there is a child which serves.
    fn fit(&mut self, own: SeatKind<'_, K>) -> Result<(), ChildAnswer> {
        if !self.flights.is_empty() {
            return Ok(());
        }
        if let Some(child) = self.child.as_mut()
            && child.is_worn(own.limits, clock::now())
        {
            self.take().into_iter().for_each(|link| link.retire(own.limits));
        }
        match self.child.as_mut().map(|child| child.link.rest()) {
            Some(Resting::Quiet) => return Ok(()),
            Some(Resting::Wrong(error)) => {
                self.child = None;
                return Err(ChildAnswer::none(Outcome::Failed(error)));
            }
            Some(Resting::Ended) | None => self.child = None,
        }
        let link = own
            .kind
            .start(self.slot, own.children, own.limits)
            .map_err(|error| ChildAnswer::none(if own.children.is_stopping() { Outcome::Cancelled } else { Outcome::Failed(error) }))?;
        (self.child, self.is_proven, self.answered) = (Some(KeptChild::new(link, clock::now())), false, None);
        Ok(())
    }

    /// Waits until there is room for more work, or the child has to be buried.
    fn attend(&mut self, own: SeatKind<'_, K>, feed: &mut impl Feed) -> Result<(), Death> {
        let most = self.most(own.limits);
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        loop {
            let now = clock::now();
            // Limits first, because what they ask for says how long to wait.
            let mut until = [self.kill_at, child.next_look(own.limits)].into_iter().flatten().min();
            if feed.may_call_off() {
                until = [until, now.checked_add(LOOK)].into_iter().flatten().min();
                if let Some(flight) = self.flights.iter().find(|flight| feed.is_called_off(flight.errand.id)) {
                    return Err(Death { why: Some(Why::CalledOff), culprit: Some(flight.errand.id) });
                }
            }
            let is_any_begun = self.flights.iter().any(|flight| flight.begun.is_some());
            for (place, flight) in self.flights.iter_mut().enumerate() {
                // What waits in the child behind others has time.
                if flight.begun.is_none() && (is_any_begun || place > 0) {
                    continue;
                }
                let since = flight.since(self.answered);
                let Errand { id, soft, hard, .. } = flight.errand;
                match due(&Term { since, soft, hard, is_asked: flight.is_asked }, now) {
                    Due::Hard(limit) => return Err(Death { why: Some(Why::Late(limit)), culprit: Some(id) }),
                    Due::Soft => {
                        child.link.soften(id);
                        flight.is_asked = true;
                        until = Some(now);
                    }
                    Due::Later(at) => until = [until, at].into_iter().flatten().min(),
                }
            }
            if let Some(why) = child.too_large(own.limits, now) {
                return Err(Death { why: Some(why), culprit: None });
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                child.link.child().kill();
                self.kill_at = None;
            }
            let room = if self.flights.len() < most { feed.bell() } else { None };
            let stop = (!self.is_stopping).then(|| own.children.stop_fd());
            let time = until.map(|at| at.saturating_duration_since(now));
            let woken = child.link.wait([room, stop], time).map_err(|error| wrong(error.into()))?;
            // What it said counts before its end does.
            let before = self.flights.len();
            while let Some(said) = child.link.said().map_err(wrong)? {
                hear(&mut self.flights, said, self.answered, child.link.tail(), feed).map_err(wrong)?;
                (self.is_proven, self.fruitless) = (true, 0);
            }
            if self.flights.len() < before {
                self.answered = Some(clock::now());
            }
            if woken.gone {
                // One that has nothing to do any more is replaced when there is work.
                return if self.flights.is_empty() { Ok(()) } else { Err(Death { why: None, culprit: None }) };
            }
            let [is_more, stops] = woken.others;
            if stops {
                // Whoever stops has sent a signal already; what is left is to lose patience.
                self.is_stopping = true;
                self.kill_at = clock::now().checked_add(own.limits.kill_after.unwrap_or(KILL_AFTER));
            }
            if is_more {
                feed.hear_bell();
            }
            if is_more || self.flights.len() < before {
                return Ok(());
            }
        }
    }

    /// Ends a child, if it has not ended, and finds out what that means for each piece of work.
    fn bury(&mut self, own: SeatKind<'_, K>, feed: &mut impl Feed, death: Death) {
        let Some(child) = self.child.take() else { return };
        let mut link = child.link;
        self.kill_at = None;
        // Its last words may still be on their way when its end is seen: kill first, then read what
        // is left.
        match death.why {
            Some(_) => link.child().kill(),
            None => _ = wait_for_end(link.child().end_fd(), LAST_BREATH),
        }
        for said in link.last_said() {
            // After a mistake nothing counts. Else nobody is left to be told of one.
            if !matches!(death.why, Some(Why::Wrong(_))) {
                let _ = hear(&mut self.flights, said, self.answered, link.tail(), feed);
            }
        }
        let tail = link.tail();
        let may_have_begun = link.may_have_begun();
        let is_own_end = death.why.is_some() || wait_for_end(link.child().end_fd(), Duration::ZERO);
        let end = link.into_child().reap().ok().filter(|_| is_own_end);
        // One that has several at once reads ahead. Where it answered and ended well, it had begun
        // nothing else; that is believed once of each piece.
        let ended_well = death.why.is_none() && end.as_ref().is_some_and(|end| end.status.exit == Exit::Code(0));
        let is_believed = ended_well && self.is_proven && own.limits.at_once > Some(1);
        let doubtful = may_have_begun.filter(|_| is_believed);
        let is_new = |id: u64| self.flights.iter().any(|flight| flight.errand.id == id && !flight.errand.is_doubtful);
        let may_have_begun = may_have_begun.filter(|id| !(is_believed && is_new(*id)));
        // A child that has ended before it began anything will do so again; one that served before
        // is replaced without a word.
        if !self.is_proven {
            self.fruitless += 1;
        }
        let is_fruitless = self.fruitless >= K::FRUITLESS;
        if is_fruitless {
            self.fruitless = 0;
        }
        let outcome = fate(death.why.as_ref(), end.as_ref(), tail.as_deref());
        // The last first, because each that goes back stands before those that went back already.
        for mut flight in std::mem::take(&mut self.flights).into_iter().rev() {
            let (id, since) = (flight.errand.id, flight.since(self.answered));
            let begun = flight.begun.is_some() || may_have_begun == Some(id);
            let outcome = match charge(id, begun, death.culprit, is_fruitless) {
                _ if end.as_ref().is_some_and(|end| end.stopped) => Outcome::Cancelled,
                Charge::Again => {
                    flight.errand.is_doubtful |= doubtful == Some(id);
                    feed.again(flight.errand);
                    continue;
                }
                Charge::Blamed => outcome.clone(),
                Charge::Bystander => Outcome::Lost("its child process was ended because of another of its tasks".to_owned()),
            };
            feed.ended(id, Some(since), ChildAnswer { tail: tail.clone(), ..ChildAnswer::none(outcome) });
        }
    }
}

/// Takes what a child said to whom it is about.
fn hear(
    flights: &mut VecDeque<Flight>,
    said: Said,
    answered: Option<Instant>,
    tail: Option<String>,
    feed: &mut impl Feed,
) -> Result<(), TaskError> {
    let unasked = |id: u64| TaskError::new("answer", format!("the child speaks of task {id}, which it does not have"));
    match said {
        Said::Begun(id) => {
            let flight = flights.iter_mut().find(|flight| flight.errand.id == id).ok_or_else(|| unasked(id))?;
            flight.begun.get_or_insert_with(clock::now);
        }
        Said::Answer(id, answer) => {
            let at = flights.iter().position(|flight| flight.errand.id == id);
            let flight = at.and_then(|at| flights.remove(at)).ok_or_else(|| unasked(id))?;
            feed.ended(id, Some(flight.since(answered)), ChildAnswer { outcome: Outcome::Ok(answer), tail });
        }
    }
    Ok(())
}

/// Returns the outcome of what is to blame for a child's end; without an end it closed its output.
fn fate(why: Option<&Why>, end: Option<&End>, tail: Option<&str>) -> Outcome<Infallible> {
    let last = || tail.and_then(|tail| tail.trim_end().lines().next_back()).map_or_else(String::new, |line| format!(": {line}"));
    let Some(end) = end else { return Outcome::Lost(format!("the child closed its output before it had answered{}", last())) };
    match blame(why, end, &|code| format!("the child ended with {} before it had answered{}", Exit::Code(code), last())) {
        Outcome::Failed(error) => Outcome::Failed(match tail {
            Some(tail) => error.with_tail(tail),
            None => error,
        }),
        other => other,
    }
}

fn wait_for_end(end: BorrowedFd<'_>, patience: Duration) -> bool {
    let ended: io::Result<[bool; 1]> = ready([Some((end, Interest::Read))], Some(patience));
    ended.is_ok_and(|[ended]| ended)
}
