//! This worker's share of what lies in the broker: no more than it can start soon, so that workers
//! beside it get theirs. A lane that is full must not hold up the others, and nobody can see which
//! lane the next message is for, so a look ahead is allowed: what nobody else wanted for a while.

use std::time::{Duration, Instant};

use longshore_core::LaneKind;

/// Time for which others have the first choice of what a full worker would only look at. From look
/// to look it is twice as long, up to `LONGEST`.
const LOOK: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// After a look that took its time no other one follows for this many times as long: looks take at
/// most a twentieth of the time.
const REST: u32 = 20;
/// Most messages that it then takes.
const FEW: usize = 8;
/// Part of the latest messages that has to be for one lane, for the next ones to be expected for
/// it.
const MOST: f64 = 0.75;
/// The weight of the latest message.
const LATEST: f64 = 1.0 / 16.0;

/// Number of messages that may be claimed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimShare {
    UpTo(usize),
    /// Up to this many, if a look that takes nothing finds one of Celery's own tasks among the next
    /// ones; else none.
    IfBuiltIn(usize),
    /// None, before this time, or before something has ended.
    Later(Option<Instant>),
}

/// Most that a share is multiplied by.
const TIMES: usize = 64;

/// State of a worker on which its share depends, by lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareInput {
    pub(super) slots: [usize; 4],
    /// Running, and waiting to run.
    pub(super) busy: [usize; 4],
    /// Claimed, and not read.
    pub(super) unread: usize,
    /// As many as may be claimed ahead, because they will soon be done.
    pub(super) soon: [usize; 4],
    /// The last claim found less than it asked for.
    pub(super) drained: bool,
}

/// Forecast of the lane that the next messages are for, from the latest ones; decides this worker's
/// share.
pub(super) struct LaneForecast {
    /// The lanes of the tasks that this worker has, Celery's own aside.
    used: [bool; 4],
    /// The lanes of Celery's own.
    built_in: [bool; 4],
    /// The part of the latest messages that was for each lane.
    parts: [f64; 4],
    seen: bool,
    look_at: Option<Instant>,
    pause: Duration,
    /// The broker is left alone until then, after a look that took its time.
    rests: Option<Instant>,
    /// Number by which the share is multiplied: above one while what comes does not run now.
    times: usize,
}

impl LaneForecast {
    pub(super) fn new(lanes: impl IntoIterator<Item = LaneKind>, of_built_ins: impl IntoIterator<Item = LaneKind>) -> Self {
        let (mut used, mut built_in) = ([false; 4], [false; 4]);
        lanes.into_iter().for_each(|lane| used[lane as usize] = true);
        of_built_ins.into_iter().for_each(|lane| built_in[lane as usize] = true);
        Self { used, built_in, parts: [0.0; 4], seen: false, look_at: None, pause: LOOK, rests: None, times: 1 }
    }

    /// Notes that a message was for this lane.
    pub(super) fn saw(&mut self, lane: LaneKind) {
        if self.expected() != Some(lane as usize) {
            self.pause = LOOK;
        }
        let weight = if std::mem::replace(&mut self.seen, true) { LATEST } else { 1.0 };
        for (place, part) in self.parts.iter_mut().enumerate() {
            *part += (f64::from(u8::from(place == lane as usize)) - *part) * weight;
        }
    }

    /// Notes that of the messages that were read just now this many may run, and whether the queue
    /// is drained. What has to wait for its time takes no slot, however many there are.
    pub(super) fn read(&mut self, run: usize, drained: bool) {
        self.times = if run == 0 && !drained { (self.times * 2).min(TIMES) } else { 1 };
    }

    /// Notes that a look took so long and found nothing. Looks take no more than a small part of
    /// the time, however large the messages are that the broker has to look at.
    pub(super) fn looked(&mut self, took: Duration, now: Instant) {
        self.rests = Some(now + took * REST);
    }

    fn lanes(&self) -> impl Iterator<Item = usize> {
        let used = self.used;
        (0..4).filter(move |lane| used[*lane])
    }

    /// Returns the lane that the next messages are expected for, if it is one.
    fn expected(&self) -> Option<usize> {
        let only = self.lanes().next().filter(|_| self.lanes().count() == 1);
        only.or_else(|| (0..4).find(|lane| self.parts[*lane] >= MOST))
    }

    /// Returns how many may be claimed, where the engine has this room.
    pub(super) fn share(&mut self, room: usize, load: &ShareInput, now: Instant) -> ClaimShare {
        let Some(lane) = self.expected() else {
            self.look_at = None;
            // Nothing is known yet: what any lane could start.
            let fewest = self.lanes().map(|lane| load.slots[lane]).min().unwrap_or(room).max(1);
            return ClaimShare::UpTo(if self.seen { room } else { room.min(fewest.saturating_mul(self.times)) });
        };
        // Where there was nothing left, the next ones may be of another kind, and take longer.
        let ahead = if load.drained { 0 } else { load.soon[lane] };
        let free = (load.slots[lane] + ahead).saturating_sub(load.busy[lane] + load.unread);
        if free >= (ahead / 2).max(1) {
            (self.look_at, self.pause) = (None, LOOK);
            return ClaimShare::UpTo(room.min(free.saturating_mul(self.times)));
        }
        if free > 0 {
            // A batch is worth waiting for, as long as tasks end.
            return ClaimShare::Later(Some(now + LOOK));
        }
        // Of one lane nothing is taken ahead, but Celery's own tasks (the body of a chord may wait
        // for one) shall not wait for a lane that is not theirs.
        let one_lane = self.lanes().count() <= 1;
        if one_lane && !(0..4).any(|other| other != lane && self.built_in[other] && load.busy[other] < load.slots[other]) {
            return ClaimShare::Later(None);
        }
        let at = (*self.look_at.get_or_insert(now + self.pause)).max(self.rests.unwrap_or(now));
        if at > now {
            return ClaimShare::Later(Some(at));
        }
        (self.look_at, self.pause) = (None, (self.pause * 2).min(LONGEST));
        if one_lane { ClaimShare::IfBuiltIn(room.min(FEW)) } else { ClaimShare::UpTo(room.min(FEW)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [usize; 4] = [200, 32, 2, 2];

    fn load(lane: LaneKind, busy: usize) -> ShareInput {
        let mut load = ShareInput { slots: SLOTS, busy: [0; 4], unread: 0, soon: [0; 4], drained: false };
        load.busy[lane as usize] = busy;
        load
    }

    fn after(mut forecast: LaneForecast, messages: &[LaneKind]) -> LaneForecast {
        messages.iter().for_each(|lane| forecast.saw(*lane));
        forecast
    }

    #[test]
    fn a_worker_of_one_lane_takes_what_that_lane_can_start() {
        let (mut forecast, now) = (LaneForecast::new([LaneKind::Process], []), Instant::now());
        for (busy, share) in
            [(0, ClaimShare::UpTo(2)), (1, ClaimShare::UpTo(1)), (2, ClaimShare::Later(None)), (3, ClaimShare::Later(None))]
        {
            assert_eq!(forecast.share(236, &load(LaneKind::Process, busy), now), share, "{busy} busy");
            forecast.saw(LaneKind::Process);
        }
        assert_eq!(forecast.share(1, &load(LaneKind::Process, 0), now), ClaimShare::UpTo(1), "no more than the engine has room for");
    }

    #[test]
    fn a_worker_of_one_lane_that_is_full_looks_for_celerys_own_tasks_and_takes_nothing_else() {
        let (now, full) = (Instant::now(), load(LaneKind::Process, 2));
        let mut forecast = LaneForecast::new([LaneKind::Process], [LaneKind::Async]);
        assert_eq!(forecast.share(236, &full, now), ClaimShare::Later(Some(now + LOOK)));
        assert_eq!(forecast.share(236, &full, now + LOOK), ClaimShare::IfBuiltIn(FEW));
        assert_eq!(forecast.share(236, &full, now + LOOK), ClaimShare::Later(Some(now + 3 * LOOK)), "twice as long");
        forecast.saw(LaneKind::Async);
        assert_eq!(forecast.share(236, &full, now + 3 * LOOK), ClaimShare::IfBuiltIn(FEW));
        assert_eq!(forecast.share(236, &full, now + 3 * LOOK), ClaimShare::Later(Some(now + 5 * LOOK)), "there was one, so looking pays");
        assert_eq!(forecast.share(236, &load(LaneKind::Process, 1), now + 3 * LOOK), ClaimShare::UpTo(1), "a slot is free");
        let mut both_full = full;
        both_full.busy[LaneKind::Async as usize] = 200;
        assert_eq!(forecast.share(236, &both_full, now + 9 * LOOK), ClaimShare::Later(None), "theirs is full, too");
        assert_eq!(
            LaneForecast::new([LaneKind::Async], [LaneKind::Async]).share(236, &load(LaneKind::Async, 200), now),
            ClaimShare::Later(None)
        );
    }

    #[test]
    fn a_look_that_took_its_time_is_followed_by_none_for_twenty_times_as_long_though_a_slot_was_free() {
        let (now, full) = (Instant::now(), load(LaneKind::Process, 2));
        let mut forecast = LaneForecast::new([LaneKind::Process], [LaneKind::Async]);
        forecast.share(236, &full, now);
        assert_eq!(forecast.share(236, &full, now + LOOK), ClaimShare::IfBuiltIn(FEW));
        let (looked, took) = (now + 2 * LOOK, LOOK);
        forecast.looked(took, looked);
        assert_eq!(forecast.share(236, &load(LaneKind::Process, 1), looked), ClaimShare::UpTo(1), "a slot is free");
        assert_eq!(forecast.share(236, &full, looked), ClaimShare::Later(Some(looked + REST * took)));
        assert_eq!(forecast.share(236, &full, looked + REST * took), ClaimShare::IfBuiltIn(FEW));
    }

    #[test]
    fn quick_tasks_are_claimed_ahead_in_batches_while_there_are_more_of_them() {
        let (mut forecast, now) = (after(LaneForecast::new([LaneKind::Process], []), &[LaneKind::Process]), Instant::now());
        let quick = |busy| ShareInput { soon: [2500, 0, 0, 20], unread: 5, ..load(LaneKind::Process, busy) };
        assert_eq!(forecast.share(236, &quick(2), now), ClaimShare::UpTo(15), "those of its own lane count, and those on their way");
        assert_eq!(forecast.share(236, &quick(7), now), ClaimShare::UpTo(10));
        assert_eq!(forecast.share(236, &quick(8), now), ClaimShare::Later(Some(now + LOOK)), "for nine a claim is not worth it yet");
        assert_eq!(forecast.share(236, &quick(17), now), ClaimShare::Later(None));
        assert_eq!(
            forecast.share(236, &ShareInput { drained: true, unread: 0, ..quick(1) }, now),
            ClaimShare::UpTo(1),
            "who knows what comes next"
        );
    }

    #[test]
    fn what_waits_for_its_time_takes_no_slot_and_is_soon_through() {
        let (now, lanes) = (Instant::now(), [LaneKind::Async, LaneKind::Process]);
        for (mut forecast, one) in [(LaneForecast::new([LaneKind::Process], []), 1), (LaneForecast::new(lanes, []), 2)] {
            let one_busy = load(LaneKind::Process, 1);
            (0..3).for_each(|_| forecast.read(0, false));
            assert_eq!(forecast.share(236, &one_busy, now), ClaimShare::UpTo(8 * one));
            forecast.read(0, true);
            assert_eq!(forecast.share(236, &one_busy, now), ClaimShare::UpTo(one), "no more of them lie there");
            (0..3).for_each(|_| forecast.read(0, false));
            forecast.read(1, false);
            assert_eq!(forecast.share(236, &one_busy, now), ClaimShare::UpTo(one), "others lie between");
        }
    }

    #[test]
    fn the_first_claim_is_what_any_lane_could_start() {
        let (mut forecast, now) = (LaneForecast::new([LaneKind::Async, LaneKind::Blocking], []), Instant::now());
        assert_eq!(forecast.share(236, &load(LaneKind::Async, 0), now), ClaimShare::UpTo(32));
        assert_eq!(LaneForecast::new([], []).share(5, &load(LaneKind::Async, 0), now), ClaimShare::UpTo(5));
    }

    #[test]
    fn while_all_are_for_one_lane_that_is_full_looks_ahead_wait_until_others_had_their_choice() {
        let (now, full) = (Instant::now(), load(LaneKind::Blocking, 32));
        let mut forecast = after(LaneForecast::new([LaneKind::Async, LaneKind::Blocking], []), &[LaneKind::Blocking]);
        assert_eq!(forecast.share(200, &full, now), ClaimShare::Later(Some(now + LOOK)));
        assert_eq!(forecast.share(200, &full, now + LOOK / 2), ClaimShare::Later(Some(now + LOOK)));
        assert_eq!(forecast.share(200, &full, now + LOOK), ClaimShare::UpTo(FEW));
        assert_eq!(forecast.share(200, &full, now + LOOK), ClaimShare::Later(Some(now + 3 * LOOK)), "twice as long");
        forecast.saw(LaneKind::Async);
        assert_eq!(forecast.share(200, &full, now + 3 * LOOK), ClaimShare::UpTo(FEW));
        assert_eq!(
            forecast.share(200, &full, now + 3 * LOOK),
            ClaimShare::Later(Some(now + 5 * LOOK)),
            "there are others, so looking pays"
        );
        assert_eq!(forecast.share(200, &load(LaneKind::Blocking, 31), now + 3 * LOOK), ClaimShare::UpTo(1), "a slot is free");
    }

    #[test]
    fn where_messages_are_for_several_lanes_a_full_one_holds_up_none() {
        let (now, full) = (Instant::now(), load(LaneKind::Blocking, 32));
        let lanes = [LaneKind::Async, LaneKind::Blocking].repeat(20);
        assert_eq!(after(LaneForecast::new(lanes.clone(), []), &lanes).share(200, &full, now), ClaimShare::UpTo(200));
        // What comes after many of one kind is soon known.
        let turned: Vec<_> = [[LaneKind::Blocking; 50], [LaneKind::Async; 50]].concat();
        assert_eq!(after(LaneForecast::new(lanes.clone(), []), &turned[..53]).share(200, &full, now), ClaimShare::Later(Some(now + LOOK)));
        assert_eq!(after(LaneForecast::new(lanes.clone(), []), &turned[..60]).share(200, &full, now), ClaimShare::UpTo(200));
        assert_eq!(after(LaneForecast::new(lanes, []), &turned).share(200, &full, now), ClaimShare::UpTo(200));
    }
}
