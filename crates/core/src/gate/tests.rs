//! The gate against a naive model: a list that is scanned from its front.
#![allow(clippy::unwrap_used, reason = "in tests; the lint knows only functions that are tests themselves")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::task::{Delivery, Options};

const MS: Duration = Duration::from_millis(1);
/// The lateness that a leaky bucket forgives.
const LATENESS: f64 = 0.010;

/// Step of a test.
#[derive(Clone, Debug)]
enum GateStep {
    /// A task comes.
    Push {
        lane: u8,
        key: Option<u8>,
        values: Vec<(usize, u8)>,
    },
    /// Number of tasks that ask to pass.
    Pass(usize),
    /// A running task ends: the n-th of those that run. Well, or to be tried again.
    End(usize, bool),
    /// A task in backoff comes back.
    Again(usize),
    /// Number of results that leave the result queue.
    Release(usize),
    /// Time goes by, in ms.
    Wait(u64),
    Concurrency(Option<u8>, usize),
    Rate(Option<(u16, u32)>),
    Pause(bool),
}

fn step(rules: usize) -> impl Strategy<Value = GateStep> {
    let values = if rules == 0 {
        Just(Vec::new()).boxed()
    } else {
        prop::collection::vec(0..3u8, rules).prop_map(|values| values.into_iter().enumerate().collect()).boxed()
    };
    prop_oneof![
        6 => (0..2u8, prop::option::of(0..3u8), prop_oneof![Just(Vec::new()), values])
            .prop_map(|(lane, key, values)| GateStep::Push { lane, key, values }),
        5 => (1..8usize).prop_map(GateStep::Pass),
        5 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(nth, again)| GateStep::End(nth, again)),
        2 => any::<usize>().prop_map(GateStep::Again),
        4 => (1..5usize).prop_map(GateStep::Release),
        3 => (1..40u64).prop_map(GateStep::Wait),
        1 => (prop::option::of(0..2u8), 1..5usize).prop_map(|(lane, most)| GateStep::Concurrency(lane, most)),
        1 => prop::option::of((1..1000u16, 1..4u32)).prop_map(GateStep::Rate),
        1 => any::<bool>().prop_map(GateStep::Pause),
    ]
}

fn config() -> impl Strategy<Value = GateConfig> {
    let rate = || prop::option::of((10..1000u16, 1..4u32).prop_map(|(count, burst)| Rate::per_second(f64::from(count)).burst(burst)));
    let limit = (prop::option::of(1..3usize), rate()).prop_map(|(concurrency, rate)| Limit { name: "limit".into(), concurrency, rate });
    (
        prop::option::of(1..6usize),
        (1..4usize, 1..4usize),
        rate(),
        prop::collection::vec(limit, 0..3),
        prop_oneof![1..4usize, Just(1000)],
        0..6usize,
    )
        .prop_map(|(concurrency, (first, second), rate, limits, parking, results)| GateConfig {
            concurrency,
            lanes: [first, second, 0, 0],
            rate,
            limits,
            parking,
            results,
        })
}

/// Everything about the gate that can be known from outside, kept the simplest way.
struct Model {
    gate: Gate<u64>,
    config: GateConfig,
    now: Instant,
    paused: bool,
    next: u64,
    /// Pushed and not passed, in their order; what comes back from backoff stands here too.
    waiting: Vec<(u64, WantedStart)>,
    running: Vec<(EngineTask<u64>, WantedStart)>,
    backoff: Vec<(Attempt<u64>, WantedStart)>,
    unreleased: usize,
    /// Task that holds each key, from its first start until it is done.
    keys: BTreeMap<u8, u64>,
    last_of_key: BTreeMap<u8, u64>,
    /// Times at which tasks passed since the rate last changed, in all and by value.
    starts: Vec<Instant>,
    starts_of: BTreeMap<(usize, u8), Vec<Instant>>,
    /// Nothing may pass before this time, unless something else happens.
    closed_until: Option<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct WantedStart {
    lane: LaneKind,
    key: Option<u8>,
    values: Vec<(usize, u8)>,
}

impl Model {
    fn new(config: GateConfig) -> Self {
        Self {
            gate: Gate::new(config.clone()),
            config,
            now: Instant::now(),
            paused: false,
            next: 1,
            waiting: Vec::new(),
            running: Vec::new(),
            backoff: Vec::new(),
            unreleased: 0,
            keys: BTreeMap::new(),
            last_of_key: BTreeMap::new(),
            starts: Vec::new(),
            starts_of: BTreeMap::new(),
            closed_until: None,
        }
    }

    fn fetched(&self, id: u64, wants: &WantedStart) -> Delivery<u64> {
        // One of the keys has a number, as those of a source that numbers them.
        let number = wants.key.filter(|key| *key == 2).map(u32::from).and_then(NonZeroU32::new);
        let text = wants.key.filter(|_| number.is_none());
        let options = (text.is_some() || !wants.values.is_empty()).then(|| {
            Box::new(Options {
                key: text.map(|key| key.to_string().into()),
                limits: wants.values.iter().map(|(rule, value)| (*rule, value.to_string().into())).collect(),
                ..Options::default()
            })
        });
        Delivery { options, key: number, ..Delivery::new(id, id) }
    }

    fn most(&self) -> usize {
        let size = self.config.lanes.iter().sum();
        self.config.concurrency.map_or(size, |most| most.min(size))
    }

    fn running_on(&self, lane: LaneKind) -> usize {
        self.running.iter().filter(|(_, wants)| wants.lane == lane).count()
    }

    fn running_of(&self, value: (usize, u8)) -> usize {
        self.running.iter().filter(|(_, wants)| wants.values.contains(&value)).count()
    }

    /// Returns why this task cannot start by anything but a pace.
    fn blocked(&self, id: u64, wants: &WantedStart) -> bool {
        self.running_on(wants.lane) >= self.config.lanes[wants.lane as usize]
            || wants.key.is_some_and(|key| {
                self.keys.get(&key).is_some_and(|holder| *holder != id)
                    || self.waiting.iter().any(|(other, others)| *other < id && others.key == Some(key))
            })
            || wants
                .values
                .iter()
                .any(|(rule, value)| self.config.limits[*rule].concurrency.is_some_and(|most| self.running_of((*rule, *value)) >= most))
    }

    /// Passes one task; checks everything about it, or about the refusal.
    fn pass(&mut self) -> bool {
        let attempt = match self.gate.next(self.now) {
            Ok(attempt) => attempt,
            Err(refusal) => {
                self.check_refusal(&refusal);
                return false;
            }
        };
        let id = attempt.task.id;
        let place = self.waiting.iter().position(|(other, _)| *other == id).expect("what passes has waited");
        let (_, wants) = self.waiting.remove(place);
        assert!(!self.paused, "task {id} passes a gate that is closed");
        assert!(self.running.len() < self.most(), "task {id}: more run than may");
        assert!(
            self.unreleased == 0 || self.running.len() + self.unreleased < self.most() + self.config.results,
            "task {id}: there is no room for its result"
        );
        assert!(!self.blocked(id, &wants), "task {id} passes what is busy: {wants:?}");
        let slots: BTreeSet<_> = self.running.iter().map(|(task, _)| (task.lane, task.slot)).collect();
        assert!(!slots.contains(&(wants.lane, attempt.task.slot)), "task {id} gets a slot that is taken");
        if let Some(Some(until)) = self.closed_until {
            assert!(self.now >= until, "task {id} passes before the time that the refusal told");
        }
        if let Some(key) = wants.key {
            let last = self.last_of_key.entry(key).or_default();
            assert!(*last <= id, "task {id} passes after {last} of its key");
            *last = id;
            self.keys.insert(key, id);
        }
        self.starts.push(self.now);
        if let Some(rate) = self.config.rate {
            assert!(!crowded(rate, &self.starts), "task {id}: too many starts at {rate:?}: {:?}", self.starts);
        }
        for place in &wants.values {
            let starts = self.starts_of.entry(*place).or_default();
            starts.push(self.now);
            if let Some(rate) = self.config.limits[place.0].rate {
                assert!(!crowded(rate, starts), "task {id}: too many starts of value {place:?} at {rate:?}");
            }
        }
        self.running.push((attempt.task, wants));
        self.check_counts();
        true
    }

    fn check_refusal(&mut self, refusal: &Refusal) {
        let truth = match &refusal.reason {
            Reason::Empty => true,
            Reason::Paused => self.paused,
            Reason::Concurrency { most } => *most == self.most() && self.running.len() >= *most,
            Reason::Results { capacity } => {
                *capacity == self.config.results && self.running.len() + self.unreleased >= self.most() + capacity
            }
            Reason::Pace { rate } => Some(*rate) == self.config.rate && refusal.until.is_some_and(|until| until > self.now),
            Reason::Lane { lane } => self.running_on(*lane) >= self.config.lanes[*lane as usize],
            Reason::Key { key } => {
                self.keys.contains_key(&key.trim_start_matches('#').parse().unwrap())
                    || self.waiting.iter().any(|(_, wants)| wants.key.is_some())
            }
            Reason::Limit { .. } => !self.config.limits.is_empty(),
            other => panic!("the gate does not know {other:?}"),
        };
        assert!(truth, "the refusal lies: {refusal:?}");
        if let Some(until) = refusal.until {
            assert!(until > self.now, "a time that is past: {refusal:?}");
        }
        // Nothing that is told to wait for nothing could go: only a pace may stop what the naive
        // scan lets pass.
        if refusal.reason == Reason::Empty
            && let Some((id, wants)) = self.waiting.iter().find(|(id, wants)| !self.blocked(*id, wants))
        {
            let paced = wants.values.iter().any(|(rule, _)| self.config.limits[*rule].rate.is_some());
            // Another task of its key may hold it while it waits for a pace or a lane.
            let behind = wants.key.is_some();
            assert!(paced || behind, "task {id} could pass, and the gate is said to be empty");
            assert!(behind || refusal.until.is_some(), "task {id} waits for a pace, and nobody will wake the gate");
        }
        if matches!(refusal.reason, Reason::Pace { .. }) || refusal.reason == Reason::Empty {
            self.closed_until = Some(refusal.until);
        }
    }

    fn check_counts(&self) {
        assert_eq!(self.gate.running(), self.running.len());
        assert_eq!(self.gate.waiting_count(), self.waiting.len());
        assert_eq!(self.gate.unreleased(), self.unreleased);
        let lines: usize = self.gate.waiting(&Reason::Empty).iter().map(|(_, count)| count).sum();
        assert_eq!(lines, self.waiting.len());
    }

    fn end(&mut self, nth: usize, again: bool) {
        if self.running.is_empty() {
            return;
        }
        self.closed_until = None;
        let (task, wants) = self.running.remove(nth % self.running.len());
        self.gate.end(&task);
        if again {
            self.gate.release(1);
            self.backoff.push((Attempt { payload: task.id, task, admitted: self.now.into(), timeout: None }, wants));
        } else {
            self.unreleased += 1;
            self.gate.done(&task);
            if let Some(key) = wants.key {
                self.keys.remove(&key);
            }
        }
        self.check_counts();
    }

    fn again(&mut self, nth: usize) {
        if !self.backoff.is_empty() {
            self.closed_until = None;
            let (attempt, wants) = self.backoff.remove(nth % self.backoff.len());
            self.waiting.push((attempt.task.id, wants));
            self.gate.push_again(attempt);
        }
    }

    fn release(&mut self, results: usize) {
        let results = results.min(self.unreleased);
        self.closed_until = None;
        self.unreleased -= results;
        self.gate.release(results);
    }

    fn step(&mut self, step: &GateStep) {
        match step {
            GateStep::Push { lane, key, values } => {
                let values = values.iter().filter(|(rule, _)| *rule < self.config.limits.len()).copied().collect();
                let lane = LaneKind::ALL[*lane as usize];
                let wants = WantedStart { lane, key: *key, values };
                let fetched = self.fetched(self.next, &wants);
                self.waiting.push((self.next, wants));
                self.next += 1;
                let buffer = self.gate.push(vec![fetched], lane, self.now.into());
                assert!(buffer.is_empty());
                // The time was told for what waited then.
                self.closed_until = None;
            }
            GateStep::Pass(most) => {
                for _ in 0..*most {
                    if !self.pass() {
                        break;
                    }
                }
            }
            GateStep::End(nth, again) => self.end(*nth, *again),
            GateStep::Again(nth) => self.again(*nth),
            GateStep::Release(results) => self.release(*results),
            GateStep::Wait(ms) => self.now += MS * (*ms as u32),
            GateStep::Concurrency(lane, most) => {
                self.closed_until = None;
                let lane = lane.map(|lane| LaneKind::ALL[lane as usize]);
                match lane {
                    None => self.config.concurrency = Some(*most),
                    Some(lane) => self.config.lanes[lane as usize] = *most,
                }
                self.gate.set_concurrency(lane, *most);
            }
            GateStep::Rate(rate) => {
                self.closed_until = None;
                self.config.rate = rate.map(|(count, burst)| Rate::per_second(f64::from(count)).burst(burst));
                self.starts.clear();
                self.gate.set_rate(self.config.rate, self.now);
            }
            GateStep::Pause(paused) => {
                self.closed_until = None;
                self.paused = *paused;
                self.gate.set_paused(*paused);
            }
        }
        self.check_counts();
    }

    /// Lets everything end, and time go by as the refusals say: whatever waits must pass.
    fn finish(&mut self) {
        self.paused = false;
        self.gate.set_paused(false);
        self.closed_until = None;
        for round in 0.. {
            while !self.backoff.is_empty() {
                self.again(0);
            }
            self.release(usize::MAX);
            let before = self.waiting.len();
            while self.pass() {}
            let passed = before > self.waiting.len();
            let until = self.gate.next(self.now).err().and_then(|refusal| refusal.until);
            if self.waiting.is_empty() && self.running.is_empty() {
                return;
            }
            while !self.running.is_empty() {
                self.end(0, false);
            }
            if !passed && let Some(until) = until {
                self.now = self.now.max(until);
            }
            assert!(round < 20_000, "{} tasks wait for ever: {:?}", self.waiting.len(), self.waiting);
        }
    }
}

/// Returns true if some window holds more than `burst + rate × (window + 10 ms)` starts.
fn crowded(rate: Rate, starts: &[Instant]) -> bool {
    let per_second = rate.count / rate.per.as_secs_f64();
    let last = starts[starts.len() - 1];
    (0..starts.len()).any(|first| {
        let window = last.duration_since(starts[first]).as_secs_f64();
        (starts.len() - first) as f64 > f64::from(rate.burst) + per_second * (window + LATENESS) + 1e-6
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_gate_lets_pass_what_a_naive_model_allows_and_all_of_it_in_the_end(
        config in config(),
        steps in prop::collection::vec(step(2), 0..120),
    ) {
        let mut model = Model::new(config);
        for step in &steps {
            model.step(step);
        }
        model.finish();
        prop_assert_eq!(model.gate.waiting_count(), 0);
        prop_assert!(model.gate.keys.is_empty(), "keys are kept for ever");
        prop_assert!(model.gate.numbers.iter().all(|key| !key.held && key.line.is_empty()), "a numbered key is held for ever");
    }

    #[test]
    fn a_refusal_for_a_pace_tells_the_time_at_which_something_passes(
        count in 1..5000u16,
        burst in 1..6u32,
        tasks in 1..60u64,
        late in prop::collection::vec(0..3u32, 60),
    ) {
        let rate = Rate::per_second(f64::from(count)).burst(burst);
        let mut model = Model::new(GateConfig {
            concurrency: None, lanes: [100, 0, 0, 0], rate: Some(rate), limits: Vec::new(), parking: 10, results: 100,
        });
        for _ in 0..tasks {
            model.step(&GateStep::Push { lane: 0, key: None, values: Vec::new() });
        }
        let mut late = late.into_iter().cycle();
        while !model.waiting.is_empty() {
            let refusal = match model.gate.next(model.now) {
                Err(refusal) => refusal,
                Ok(attempt) => {
                    model.waiting.retain(|(id, _)| *id != attempt.task.id);
                    model.starts.push(model.now);
                    prop_assert!(!crowded(rate, &model.starts));
                    continue;
                }
            };
            prop_assert_eq!(refusal.reason, Reason::Pace { rate });
            let until = refusal.until.expect("a pace knows its time");
            prop_assert!(until > model.now && until <= model.now + rate.interval(), "one interval is the longest wait");
            prop_assert!(model.gate.next(until - Duration::from_nanos(1)).is_err(), "not before");
            // The timer may be late by a millisecond or two.
            let at = until + Duration::from_millis(u64::from(late.next().unwrap_or(0)));
            let attempt = model.gate.next(at);
            prop_assert!(attempt.is_ok(), "and not after");
            model.now = at;
            model.waiting.remove(0);
            model.starts.push(at);
            prop_assert!(!crowded(rate, &model.starts));
        }
    }
}

/// The model itself must be able to fail: with a gate that forgets a key it does.
#[test]
#[should_panic(expected = "passes what is busy")]
fn a_gate_that_forgets_keys_is_found_out() {
    let config = GateConfig { concurrency: None, lanes: [4, 0, 0, 0], rate: None, limits: Vec::new(), parking: 10, results: 10 };
    let mut model = Model::new(config);
    for _ in 0..2 {
        model.step(&GateStep::Push { lane: 0, key: Some(1), values: Vec::new() });
    }
    model.step(&GateStep::Pass(1));
    model.gate.done(&model.running[0].0);
    model.step(&GateStep::Pass(1));
}

#[test]
fn a_key_that_nobody_needs_any_more_is_forgotten() {
    let config = GateConfig { concurrency: None, lanes: [4, 0, 0, 0], rate: None, limits: Vec::new(), parking: 10, results: 10 };
    let mut model = Model::new(config);
    for _ in 0..3 {
        model.step(&GateStep::Push { lane: 0, key: Some(1), values: Vec::new() });
    }
    model.step(&GateStep::Pass(1));
    let all = model.gate.take_all();
    assert_eq!(all.iter().map(|attempt| attempt.task.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(model.gate.keys.len(), 1);
    let (task, _) = model.running.remove(0);
    model.gate.end(&task);
    model.gate.done(&task);
    assert!(model.gate.keys.is_empty());
}
