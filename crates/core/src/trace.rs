//! Spans and events for `tracing`, with the feature of that name; nothing at all without it.
//!
//! Each attempt on the async, blocking and cpu lanes, those of executors among them, runs in a span
//! `attempt` of the target `longshore` at level DEBUG: what its handler records is inside. Its
//! fields are `id`, `attempt`, `lane`, `slot` and, where the product knows one, `name`. [`follow`]
//! tells the typed events too. It is one more reader of the face: it holds up nobody, and what it
//! misses is said.
//!
//! ```
//! # #[cfg(feature = "tracing")]
//! # fn main() {
//! use longshore_core::{Job, trace};
//!
//! let (events, job) = Job::blocking(|n: u32| {
//!     tracing::info!(n, "squared");
//!     Ok::<_, String>(n * n)
//! })
//! .params(0..3)
//! .events(1_000);
//! let told = std::thread::spawn(move || trace::follow(events));
//! assert_eq!(job.run().ok(), 3);
//! told.join().unwrap();
//! # }
//! # #[cfg(not(feature = "tracing"))]
//! # fn main() {}
//! ```

use crate::task::LaneKind;

/// An attempt, as its span names it.
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "only spans read it"))]
pub(crate) struct AttemptName {
    pub(crate) id: u64,
    pub(crate) attempt: u32,
    pub(crate) lane: LaneKind,
    pub(crate) slot: u32,
}

#[cfg(feature = "tracing")]
mod on {
    use tracing::{Level, Span, debug, debug_span, enabled, field::Empty, info, warn};

    use super::AttemptName;
    use crate::{
        event::Event,
        watch::{Events, Heard},
    };

    /// The span of an attempt, if somebody collects it.
    pub(crate) struct AttemptSpan(Option<Span>);

    impl AttemptSpan {
        pub(crate) fn of(name: &AttemptName) -> Self {
            // Looked at first: an attempt that nobody follows makes nothing.
            if !enabled!(target: "longshore", Level::DEBUG) {
                return Self(None);
            }
            let AttemptName { id, attempt, lane, slot } = *name;
            Self(Some(debug_span!(target: "longshore", "attempt", id, attempt, lane = lane.as_str(), slot, name = Empty)))
        }

        pub(crate) fn within<O>(&self, work: impl FnOnce() -> O) -> O {
            match &self.0 {
                Some(span) => span.in_scope(work),
                None => work(),
            }
        }
    }

    /// Names the attempt that runs here: a task's name, a record's place.
    pub fn name(name: &str) {
        Span::current().record("name", name);
    }

    /// Tells what a listener hears to whatever collects traces, until there will be nothing more.
    /// Blocks its thread; [`follow_async`] does not.
    pub fn follow(mut events: Events<Event>) {
        while let Some(heard) = events.blocking_next() {
            tell(&heard);
        }
    }

    /// Does as [`follow`] does, as a future.
    ///
    /// # Cancel safety
    /// Dropping the future ends the listener; what it has not told is not told.
    pub async fn follow_async(mut events: Events<Event>) {
        while let Some(heard) = events.next().await {
            tell(&heard);
        }
    }

    fn tell(heard: &Heard<Event>) {
        match heard {
            Heard::Event(Event::Admitted { id, attempt, lane, slot, .. }) => {
                debug!(target: "longshore", id, attempt, lane = lane.as_str(), slot, "admitted");
            }
            Heard::Event(Event::Ended { id, attempt, lane, slot, started, ended, word, again_after, .. }) => {
                let (run, again) = (ended.saturating_duration_since(*started).as_secs_f64(), again_after.map(|after| after.as_secs_f64()));
                let (lane, outcome) = (lane.as_str(), word.as_str());
                debug!(target: "longshore", id, attempt, lane, slot, outcome, run, again, "ended");
            }
            Heard::Event(Event::HandedBack { id }) => debug!(target: "longshore", id, "handed back"),
            Heard::Event(Event::Stalled { id, held, .. }) => {
                warn!(target: "longshore", id, held = held.as_secs_f64(), "a task holds a loop of the async lane");
            }
            Heard::Event(Event::Job { phase }) => info!(target: "longshore", ?phase, "phase"),
            Heard::Missed(count) => warn!(target: "longshore", count, "events were missed"),
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use super::AttemptName;

    /// Nothing: there are no spans.
    pub(crate) struct AttemptSpan;

    impl AttemptSpan {
        #[inline(always)]
        pub(crate) fn of(_: &AttemptName) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn within<O>(&self, work: impl FnOnce() -> O) -> O {
            work()
        }
    }

    /// Names the attempt that runs here; does nothing without the feature `tracing`.
    #[inline]
    pub fn name(_: &str) {}
}

#[cfg(not(feature = "tracing"))]
pub(crate) use off::AttemptSpan;
#[cfg(not(feature = "tracing"))]
pub use off::name;
#[cfg(feature = "tracing")]
pub(crate) use on::AttemptSpan;
#[cfg(feature = "tracing")]
pub use on::{follow, follow_async, name};
