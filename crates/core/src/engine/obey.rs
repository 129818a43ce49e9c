//! What somebody tells an engine while it runs: to drain, to stop, to change its numbers, to say
//! how it is doing.

use std::time::{Duration, Instant};

use super::{Engine, Snapshot, handle::Control};
use crate::{
    decide::Verdict,
    event::{Event, Phase},
    gate::Reason,
    source::Settlement,
    task::{Attempt, EngineTask, LaneKind},
};

impl<T: Send + 'static, R: Send + 'static> Engine<T, R> {
    pub(super) fn obey(&mut self) {
        for control in std::mem::take(&mut self.mail.controls) {
            let now = self.now;
            match control {
                Control::Drain => self.drain(),
                Control::Stop(how) => {
                    self.drain();
                    self.enter(Phase::Cancelling);
                    for lane in self.lanes.iter().flatten() {
                        lane.stop(how);
                    }
                }
                Control::Pause(paused) if self.phase < Phase::Draining => {
                    self.gate.set_paused(paused);
                    self.enter(if paused { Phase::Paused } else { Phase::Running });
                }
                Control::Pause(_) => {}
                Control::Concurrency(lane, most) => {
                    self.gate.set_concurrency(lane, most);
                    match lane {
                        Some(lane) => {
                            self.config.gate.lanes[lane as usize] = most;
                            self.set[lane as usize] = Some(most);
                        }
                        None => {
                            // Whoever sets a number wants that number.
                            self.adaptive = None;
                            self.config.gate.concurrency = Some(most);
                        }
                    }
                }
                Control::Rate(rate) => self.gate.set_rate(rate, now),
                Control::Timeout(timeout) => self.config.timeout = timeout,
                Control::Snapshot(answer) => {
                    let _ = answer.send(self.snapshot(now));
                }
            }
        }
    }

    /// Fetches no more, starts no more, gives back what waits.
    pub(super) fn drain(&mut self) {
        if self.phase >= Phase::Draining {
            return;
        }
        self.enter(Phase::Draining);
        self.pump.close();
        for attempt in self.gate.take_all() {
            self.give_back(attempt);
        }
        while let Some(due) = self.backoff.pop() {
            self.give_back(due.attempt);
        }
    }

    pub(super) fn give_back(&mut self, attempt: Attempt<T>) {
        self.hand_back(&attempt.task);
    }

    pub(super) fn hand_back(&mut self, task: &EngineTask<T>) {
        self.gate.done(task);
        self.stats.counts.handed_back += 1;
        self.back.push(Settlement { receipt: task.receipt, verdict: Verdict::Requeue { after: Duration::ZERO } });
        if self.telling {
            self.happened.push(Event::HandedBack { id: task.id });
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.happened.push(Event::Job { phase });
        }
    }

    /// Adds the time since the last turn to the reason for which tasks waited in it.
    pub(super) fn account_for_waiting(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.since);
        self.since = now;
        if self.gate.waiting_count() > 0 || self.refusal.reason != Reason::Empty {
            self.stats.waited(&self.refusal.reason, waited);
        }
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let mut waiting = self.gate.waiting(&self.refusal.reason);
        waiting.retain(|(reason, _)| *reason != Reason::Empty);
        let times = self.reports.times();
        let mut summary = self.stats.summary(&times, now);
        summary.events_dropped = self.events.missed();
        Snapshot {
            phase: self.phase,
            active: self.gate.running(),
            retrying: self.backoff.len(),
            waiting,
            refusal: self.refusal.clone(),
            running: self.stats.running(now, &self.gate),
            rate: self.gate.rate(),
            concurrency: self.config.gate.concurrency,
            lanes: LaneKind::ALL.map(|lane| self.gate.slots(lane).size()),
            until_in: self.refusal.until.map(|until| until.saturating_duration_since(now)),
            stall: self.stats.latest_stall(now),
            run: times.run.timing(),
            wait: times.wait.timing(),
            labels: times.labels(),
            summary,
        }
    }
}
