//! The lines in which tasks wait for what is busy: a lane, a key, a value. They are parked there,
//! freed in turn, or rung for when a bucket has a slot again.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use super::{Gate, LINES, Line, Passage, Place, Reason, Rule, Value, pace::Pace};
use crate::task::Attempt;

impl<T> Gate<T> {
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// Frees the values whose bucket has a slot again.
    #[inline]
    pub(super) fn ring(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, rule, value))) = self.timers.pop() {
                if let Some(entry) = self.rules[rule].values.get_mut(&value) {
                    entry.timed = false;
                }
                self.free(Place::Value(rule, value));
            }
        }
    }

    /// Notes that the line of a place may pass. A key is freed once for each time that it was held;
    /// lanes and values are marked, so that no place stands here twice.
    pub(super) fn free(&mut self, place: Place) {
        let known = match &place {
            Place::Key(_) | Place::Number(_) => false,
            Place::Lane(lane) => std::mem::replace(&mut self.lane_freed[*lane as usize], true),
            Place::Value(rule, value) => match self.rules[*rule].values.get_mut(value) {
                Some(value) => std::mem::replace(&mut value.freed, true),
                None => true,
            },
        };
        if !known {
            self.freed.push_back(place);
        }
    }

    /// The first task of the first line whose place is free.
    #[inline]
    pub(super) fn pop_freed(&mut self, now: Instant) -> Option<Attempt<T>> {
        while let Some(place) = self.freed.front() {
            let attempt = match place {
                Place::Lane(lane) if self.slots[*lane as usize].has_room() => self.lane_lines[*lane as usize].pop_front(),
                Place::Key(key) => self.keys.get_mut(key).filter(|key| !key.held).and_then(|key| key.line.pop_front()),
                Place::Number(number) => {
                    self.numbers.get_mut(number.get() as usize).filter(|key| !key.held).and_then(|key| key.line.pop_front())
                }
                Place::Value(rule, value) => {
                    let rule = &mut self.rules[*rule];
                    let most = rule.limit.concurrency.unwrap_or(usize::MAX);
                    match rule.values.get_mut(value) {
                        Some(value) if value.running < most && value.pace.as_ref().is_none_or(|pace| pace.slot(now) <= now) => {
                            value.line.pop_front()
                        }
                        _ => None,
                    }
                }
                Place::Lane(_) => None,
            };
            if attempt.is_some() {
                self.parked -= 1;
                return attempt;
            }
            match self.freed.pop_front() {
                Some(Place::Lane(lane)) => self.lane_freed[lane as usize] = false,
                Some(Place::Value(rule, value)) => {
                    if let Some(value) = self.rules[rule].values.get_mut(&value) {
                        value.freed = false;
                    }
                    self.set_timer(rule, &value, now);
                }
                Some(Place::Key(_) | Place::Number(_)) | None => {}
            }
        }
        None
    }

    pub(super) fn park(&mut self, place: Place, attempt: Attempt<T>, now: Instant, parked: bool) -> Passage<T> {
        let full = |line: &Line<T>| !parked && (line.len() >= self.parking || self.parked >= self.parking.saturating_mul(LINES));
        let line = match &place {
            Place::Lane(lane) => Some(&mut self.lane_lines[*lane as usize]),
            Place::Key(key) => self.keys.get_mut(key).map(|key| &mut key.line),
            Place::Number(number) => self.numbers.get_mut(number.get() as usize).map(|key| &mut key.line),
            Place::Value(rule, value) => self.rules[*rule].values.get_mut(value).map(|value| &mut value.line),
        };
        let Some(line) = line.filter(|line| !full(line)) else {
            let reason = match place {
                Place::Lane(lane) => Reason::Lane { lane },
                Place::Key(key) => Reason::Key { key },
                Place::Number(number) => Reason::Key { key: format!("#{number}").into() },
                Place::Value(rule, value) => Reason::Limit { name: self.rules[rule].limit.name.clone(), value },
            };
            return Passage::Refused(attempt, reason);
        };
        line.push_back(attempt);
        self.parked += 1;
        if let Place::Value(rule, value) = &place {
            self.set_timer(*rule, value, now);
        }
        Passage::Parked
    }

    /// Sets a timer for the next slot of a value's bucket, if tasks wait for it.
    fn set_timer(&mut self, rule: usize, value: &Arc<str>, now: Instant) {
        let most = self.rules[rule].limit.concurrency.unwrap_or(usize::MAX);
        let Some(state) = self.rules[rule].values.get_mut(value) else { return };
        if state.line.is_empty() || state.timed || state.running >= most {
            return;
        }
        if let Some(pace) = &mut state.pace {
            let slot = pace.slot(now);
            if slot > now {
                pace.wait();
                state.timed = true;
                self.timers.push(Reverse((slot, rule, value.clone())));
            }
        }
    }

    pub(super) fn end_value(&mut self, rule: usize, value: &Arc<str>) {
        let Some(state) = self.rules[rule].values.get_mut(value) else { return };
        state.running -= 1;
        if !state.line.is_empty() {
            self.free(Place::Value(rule, value.clone()));
        } else if state.running == 0 && state.pace.is_none() {
            self.rules[rule].values.remove(value);
        }
    }
}

impl<T> Rule<T> {
    /// Makes sure that a value is known. Values whose bucket has leaked empty are forgotten now and
    /// then, so that memory goes with the values in use.
    pub(super) fn value(&mut self, value: &Arc<str>, now: Instant) -> &mut Value<T> {
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, value| {
                value.running > 0 || !value.line.is_empty() || value.pace.as_ref().is_some_and(|pace| pace.level(now) > 0.0)
            });
            self.sweep_at = (self.values.len() * 2).max(1024);
        }
        self.values.entry(value.clone()).or_insert_with(|| Value {
            running: 0,
            pace: self.limit.rate.map(Pace::new),
            line: Line::new(),
            timed: false,
            freed: false,
        })
    }
}
