//! When messages are claimed, and how many.

use std::{sync::atomic::Ordering, time::Instant};

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, Claimed, lease::Term};
use longshore_core::source::Fetched;

use super::{
    ClaimedBatch, HELD, Intake, IntakeState, READ, ahead,
    share::{ClaimShare, ShareInput},
};

/// Ways in which a message says that it is for one of Celery's own tasks.
const BUILT_IN: &[&[u8]] = &[b"\"task\": \"celery.", b"\"task\":\"celery."];

impl Intake {
    /// Returns how many more may be claimed, of those that `prefetch` allows.
    fn left(&self, state: &IntakeState) -> usize {
        if self.most == usize::MAX {
            return self.most;
        }
        let here = self.shared.load.busy().iter().sum::<usize>() + state.unread.len() + state.suspects.len();
        self.most.saturating_sub(here)
    }

    pub(super) fn may_claim(&self, state: &IntakeState) -> bool {
        !self.closed.load(Ordering::Acquire) && !state.ended && state.held.len() < HELD && self.shared.term().is_some()
    }

    pub(super) fn claim(&self, state: &mut IntakeState, room: usize) -> BoxFuture<'static, ClaimedBatch> {
        let consumer = self.shared.consumer.clone();
        let term = self.shared.term().unwrap_or_default();
        let left = self.left(state);
        let room = room.min(left);
        let claim = move |room| async move {
            let mut claimed = Vec::new();
            let result = consumer.claim(room, &mut claimed).await;
            ClaimedBatch { term, asked: room, claimed, result, look: None }
        };
        // What is given is lost with whoever does not listen; and it comes while the batch before
        // is worked on.
        let claim = if self.early {
            let ahead = if state.drained { 0 } else { state.ahead.given(self.shared.environment.now()) };
            tokio::spawn(claim(ahead.clamp(room.min(ahead::MOST), ahead::MOST).min(left)))
        } else if state.ahead.is_far() {
            tokio::spawn(claim(room))
        } else {
            return Box::pin(claim(room));
        };
        Box::pin(async move {
            let lost = |error: tokio::task::JoinError| ClaimedBatch {
                term,
                asked: 0,
                claimed: Vec::new(),
                look: None,
                result: Err(BrokerError {
                    kind: longshore_core::ErrorKind::Fatal,
                    message: format!("a claim has ended in the middle: {error}"),
                }),
            };
            claim.await.unwrap_or_else(lost)
        })
    }

    /// Reads the next of what was claimed. Returns whether there was any.
    pub(super) async fn read_some(&self) -> Result<bool, BrokerError> {
        let (term, some): (Term, Vec<Claimed>) = {
            let mut state = self.state();
            let Some(term) = state.unread.front().map(|unread| unread.term) else { return Ok(false) };
            let count = state.unread.iter().take(READ).take_while(|unread| unread.term == term).count();
            (term, state.unread.drain(..count).map(|unread| unread.claimed).collect())
        };
        let run = self.take(some, term, false).await?;
        let mut state = self.state();
        let drained = state.drained;
        state.forecast.read(run, drained);
        Ok(true)
    }

    /// Claims while there is still something to run, where messages are given, or come from far
    /// away.
    pub(super) fn claim_ahead(&self, state: &mut IntakeState, room: usize) {
        let here = state.ready.len() + state.unread.len();
        if state.claim.is_some() || !self.may_claim(state) || self.left(state) == 0 {
            return;
        }
        let now = self.shared.environment.now();
        if self.early && here < state.ahead.given(now) {
            let room = match self.share(state, room.saturating_sub(here), now) {
                ClaimShare::UpTo(room) => room.max(1),
                ClaimShare::IfBuiltIn(_) | ClaimShare::Later(_) => 1,
            };
            state.full = false;
            state.claim = Some(self.claim(state, room));
            return;
        }
        let room = self.far(state, now);
        if room > 0 {
            match self.share(state, room, now) {
                ClaimShare::UpTo(room) => state.claim = Some(self.claim(state, room)),
                ClaimShare::IfBuiltIn(room) => state.claim = Some(self.claim_if_built_in(room)),
                ClaimShare::Later(_) => {}
            }
        }
    }

    /// Claims up to so many, if one of Celery's own tasks is among the next ones of a queue. Where
    /// none is, nothing was asked for. No message is brought here to find out.
    pub(super) fn claim_if_built_in(&self, room: usize) -> BoxFuture<'static, ClaimedBatch> {
        let shared = self.shared.clone();
        let term = shared.term().unwrap_or_default();
        Box::pin(async move {
            let begun = shared.environment.now();
            let inspect = shared.connected.inspect().ok();
            for (queue, inspect) in shared.consumer.serving().into_iter().filter_map(|queue| Some((queue, inspect?))) {
                // A broker that is away is told of by the next claim.
                if inspect.look_ahead(&queue, room, BUILT_IN).await.unwrap_or_default() {
                    let mut claimed = Vec::new();
                    let result = shared.consumer.claim(room, &mut claimed).await;
                    return ClaimedBatch { term, asked: room, claimed, result, look: None };
                }
            }
            let look = Some(shared.environment.now().duration_since(begun));
            ClaimedBatch { term, asked: 0, claimed: Vec::new(), result: Ok(Fetched::More), look }
        })
    }

    /// Returns how many messages of a far broker may lie here while the engine has no room for
    /// them.
    fn far(&self, state: &mut IntakeState, now: Instant) -> usize {
        if self.early || state.drained || !state.ahead.is_far() {
            return 0;
        }
        state.ahead.lent(now).iter().sum::<usize>().saturating_sub(state.ready.len() + state.unread.len())
    }

    /// Returns how many may be claimed, where the engine has this room.
    pub(super) fn share(&self, state: &mut IntakeState, room: usize, now: Instant) -> ClaimShare {
        let (slots, busy) = (self.shared.load.slots(), self.shared.load.busy());
        let left = self.left(state);
        if left == 0 {
            state.full = true;
            return ClaimShare::Later(None);
        }
        let room = room.max(self.far(state, now)).min(left);
        let load = ShareInput { slots, busy, unread: state.unread.len(), soon: state.ahead.lent(now), drained: state.drained };
        let share = state.forecast.share(room, &load, now);
        state.full = !matches!(share, ClaimShare::UpTo(_));
        share
    }
}
