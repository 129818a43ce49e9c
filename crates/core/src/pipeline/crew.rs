//! The loops of a pipeline that live on the runtime, as one task.
//!
//! They wake each other all the time: each batch that goes on wakes the stage behind, and the one
//! in front. Were each of them a task, every other wake would call a second thread of the runtime
//! to help, which costs more than a batch of tiny items, and the batches would wander from core to
//! core. Here a wake is an entry in a list. A loop whose turns turn out long (its functions
//! compute, after all) gets a task of its own, so that it holds up no other.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle as Runtime;

use crate::{clock::Clock, lane::async_::pending::Pending};

/// Polls of loops in one go.
const POLLS: usize = 16;
/// The time after which other tasks of the thread go on.
const TURN: Duration = Duration::from_micros(100);
/// A turn that takes longer is long.
const LONG: Duration = Duration::from_micros(100);
/// A loop with so many strikes gets a task of its own: a long turn is four of them, a short one
/// takes one back, since now and then a turn is long because the kernel let another thread go
/// first.
const STRIKES: u32 = 12;

struct Member {
    work: BoxFuture<'static, ()>,
    strikes: u32,
}

pub(super) struct StageCrew {
    members: Pending<Member>,
    runtime: Runtime,
    clock: Clock,
}

thread_local! {
    /// The crew of this thread read the clock just now: a reading costs as much as a tiny item.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time at which the crew of this thread let a member go on, which has done nothing since;
/// elsewhere the time now.
#[inline]
pub(super) fn turn_began(clock: Clock) -> Instant {
    NOW.take().unwrap_or_else(|| clock.now())
}

impl StageCrew {
    pub(super) fn new(loops: Vec<BoxFuture<'static, ()>>, runtime: Runtime, clock: Clock) -> Self {
        let mut members = Pending::new();
        for work in loops {
            let place = members.vacant();
            members.put(place, Member { work, strikes: 0 });
            members.waker(place).wake_by_ref();
        }
        Self { members, runtime, clock }
    }
}

enum Over {
    Ended,
    Long,
}

impl Future for StageCrew {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { members, runtime, clock } = &mut *self;
        let began = clock.now();
        let mut now = began;
        // A function that waits for something of tokio's may not be polled for ever without tokio
        // having its turn.
        while now.duration_since(began) < TURN && tokio::task::coop::has_budget_remaining() {
            let polled = members.poll_woken(
                POLLS,
                |member, cx| {
                    NOW.set(Some(now));
                    let polled = member.work.as_mut().poll(cx);
                    NOW.set(None);
                    if polled.is_ready() {
                        return Some(Over::Ended);
                    }
                    let began = std::mem::replace(&mut now, clock.now());
                    member.strikes = if now.duration_since(began) > LONG { member.strikes + 4 } else { member.strikes.saturating_sub(1) };
                    (member.strikes >= STRIKES).then_some(Over::Long)
                },
                |member, over| {
                    if let Over::Long = over {
                        runtime.spawn(member.work);
                    }
                },
            );
            if members.is_empty() {
                return Poll::Ready(());
            }
            if polled == 0 && members.sleep(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
