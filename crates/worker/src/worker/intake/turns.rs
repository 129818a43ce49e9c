//! Whose turn it is: of the suspects, and of those that nobody suspects.

use std::{sync::Arc, time::Instant};

use longshore_brokers::BrokerError;
use longshore_core::LaneKind;

use super::{
    super::{
        suspects::{self, Accused, LaneUse, QuietWait, Suspect, SuspectTurn},
        work::ClaimedTask,
    },
    Intake, IntakeState,
};
use crate::task::Task;

pub(super) fn suspect(crashes: u32, task: &Task) -> Suspect {
    Suspect { crashes, apart: task.lane == LaneKind::Process }
}

impl Intake {
    /// Lets the next suspect start, if it may: accused first, so that should this worker die now,
    /// those that run are to blame.
    pub(super) async fn try_suspect(&self) -> Result<(), BrokerError> {
        self.date_the_accused();
        let (work, accused) = {
            let mut state = self.state();
            let now = self.shared.environment.now();
            let SuspectTurn { starts, reserved } = self.turn(&state, now);
            (state.hush, state.reserved) = (None, reserved);
            let place = starts.filter(|(_, at)| *at <= now).map(|(place, _)| place);
            let Some((place, next)) = place.and_then(|place| Some((place, state.suspects.get(place)?.clone()))) else {
                state.quiet = QuietWait::default();
                return Ok(());
            };
            let (next, lanes) = (suspect(next.crashes, &next.task), self.lanes(&state));
            let IntakeState { quiet, fresh, .. } = &mut *state;
            state.hush = quiet.until(next, &lanes, fresh, now);
            if state.hush.is_some() {
                return Ok(());
            }
            state.quiet = QuietWait::default();
            let Some(work) = state.suspects.remove(place) else { return Ok(()) };
            state.accused.push(Accused { receipt: work.receipt, suspect: next, since: now });
            (work, state.accused.iter().map(|accused| accused.receipt).collect::<Vec<_>>())
        };
        self.shared.consumer.accuse(&accused).await?;
        if let Some(runs) = &self.shared.runs {
            runs.accuse(&work.message.id, work.crashes).await;
        }
        self.shared.load.add(work.task.lane, 1);
        // Before those that wait behind it for its lane.
        self.state().ready.push_front(work);
        Ok(())
    }

    /// Returns whose turn it is, of the suspects.
    pub(super) fn turn(&self, state: &IntakeState, now: Instant) -> SuspectTurn {
        if state.suspects.is_empty() {
            return SuspectTurn::default();
        }
        let line: Vec<_> = state.suspects.iter().map(|work| (suspect(work.crashes, &work.task), work.task.lane)).collect();
        suspects::turn(&line, &self.lanes(state), &state.accused, state.calm.unwrap_or(now), now)
    }

    /// Returns what the engine has to do; what is ready and stays here is not in its lines.
    fn lanes(&self, state: &IntakeState) -> LaneUse {
        let (slots, mut tasks) = (self.shared.load.slots(), self.shared.load.busy());
        for work in state.ready.iter().filter(|work| work.crashes == 0) {
            let tasks = &mut tasks[work.task.lane as usize];
            *tasks = tasks.saturating_sub(1);
        }
        LaneUse { slots, tasks }
    }

    /// Notes when those that were accused began.
    fn date_the_accused(&self) {
        let receipts: Vec<_> = self.state().accused.iter().map(|accused| accused.receipt).collect();
        if receipts.is_empty() {
            return;
        }
        let begun: Vec<_> = {
            let live = self.shared.live();
            receipts.into_iter().filter_map(|receipt| Some((receipt, live.get(&receipt.0)?.started()?.since))).collect()
        };
        let mut state = self.state();
        for accused in &mut state.accused {
            if let Some((_, since)) = begun.iter().find(|(receipt, _)| *receipt == accused.receipt) {
                accused.since = *since;
            }
        }
    }
}

impl IntakeState {
    /// Returns until when those that nobody suspects are kept back, if they are.
    pub(super) fn keeps_back(&self, now: Instant) -> Option<Instant> {
        self.hush.max(suspects::keeps_back(&self.accused)).filter(|until| *until > now)
    }

    /// Returns how many more of those that nobody suspects may be brought here, where the engine
    /// has room for so many: none that would only wait.
    pub(super) fn room_for_fresh(&self, room: usize, now: Instant) -> usize {
        if self.keeps_back(now).is_some() { 0 } else { room.saturating_sub(self.ready.len()) }
    }

    /// Takes those that may start now.
    pub(super) fn take_ready(&mut self, room: usize, now: Instant) -> Vec<Arc<ClaimedTask>> {
        let kept_back = self.keeps_back(now).is_some();
        if !kept_back && self.reserved.is_none() {
            let count = self.ready.len().min(room);
            let works: Vec<_> = self.ready.drain(..count).collect();
            self.took_fresh(&works, now);
            return works;
        }
        let reserved = self.reserved;
        let may_start = |work: &ClaimedTask| work.crashes > 0 || (!kept_back && reserved != Some(work.task.lane));
        let mut works = Vec::new();
        while works.len() < room
            && let Some(place) = self.ready.iter().position(|work| may_start(work))
        {
            works.extend(self.ready.remove(place));
        }
        self.took_fresh(&works, now);
        works
    }

    fn took_fresh(&mut self, works: &[Arc<ClaimedTask>], now: Instant) {
        if works.iter().any(|work| work.crashes == 0) {
            self.fresh = Some(now);
        }
    }
}
