//! What has happened to whom, and what must hold: who breaks a promise is blamed by its name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

use crate::{
    Sabotage,
    plan::{self, Fault, Kind, Plan, RATE, WORKERS},
};

/// The promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// Whatever was sent ends, in a result or a dead letter.
    Ends,
    /// A result is stored, or the next attempt sent, before the message is acknowledged.
    ResultFirst,
    /// What was claimed ends once, by whoever holds it.
    OneEnd,
    /// Nothing starts that is not held by who starts it: nothing after its lease is over.
    Own,
    /// What is delivered once starts once, and not after it is done.
    Once,
    /// What follows is sent when it is due, and once.
    FollowUps,
    /// A chord's body is sent after all of its parts, once.
    ChordBody,
    /// Buried is only what was running, or about to, with workers that died.
    Buried,
    /// What was called off does not start.
    Revoked,
    /// Nothing succeeds that did not run.
    Invented,
    /// Nothing starts before its time, or when its time is over.
    InTime,
    /// No rate is exceeded.
    Rate,
    /// The counts of a worker's summary are what it did.
    Counts,
    /// A worker stops within its limits.
    Stops,
    /// Nothing is left in flight at the end.
    Left,
}

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// No way to a store is longer, with the turn in which it ends.
const WAY: u64 = 120_000_000;

/// What is known of a task.
#[derive(Default)]
pub(crate) struct Known {
    /// Messages with it that were sent, by how often it had been retried.
    pub(crate) sent: BTreeMap<u32, u32>,
    /// Messages that may have been sent twice, since nobody heard that they were sent.
    pub(crate) doubtful: u32,
    /// The client knows that it was sent.
    pub(crate) confirmed: bool,
    pub(crate) starts: u32,
    /// It came to its end in a handler.
    pub(crate) done: u32,
    /// Its final state, as it is stored.
    pub(crate) state: Option<String>,
    pub(crate) dead: u32,
    /// Workers that died, or were taken for dead, while it was accused.
    pub(crate) blames: u32,
    /// And while it was held.
    pub(crate) deaths: u32,
    /// When it was called off.
    pub(crate) revoked: Option<u64>,
    /// The broker has forgotten something of it, or that it was sent at all.
    forgotten: bool,
    pub(crate) lost: bool,
    /// The store has forgotten that it was counted as a part of its chord. Who had counted it may
    /// have acknowledged it since.
    pub(crate) uncounted: bool,
    /// When it came back last from a worker that is taken for dead.
    back: u64,
    /// A result of it was on its way to a store apart when the lease of its worker ran out: where
    /// another one ends it otherwise, what follows is sent by nobody.
    overtaken: bool,
}

/// What is known of a node.
#[derive(Default)]
pub(crate) struct NodeFacts {
    /// When it came to be, and until when it was frozen or heard nothing.
    pub(crate) began: u64,
    pub(crate) deaf: u64,
    /// Until when it stood still.
    pub(crate) still: u64,
    pub(crate) succeeded: u64,
    /// The latest time of the day that it has seen.
    pub(crate) latest: Option<SystemTime>,
}

pub(crate) struct Ledger {
    plan: Plan,
    pub(crate) sabotage: Sabotage,
    pub(crate) known: HashMap<String, Known>,
    pub(crate) nodes: HashMap<usize, NodeFacts>,
    /// Starts of tasks with a rate: of all together, of each node.
    paced_starts: HashMap<Option<usize>, Vec<u64>>,
    ended: HashSet<u64>,
    pub(crate) blame: Option<(Invariant, String)>,
    /// What happened when, where anybody wants to know.
    pub(crate) trace: Option<Vec<(u64, String)>>,
    pub(crate) starts: u64,
    pub(crate) redelivered: u64,
    pub(crate) waiting: u64,
    /// Of whom anything has happened since the broker last wrote down what it has, if it did.
    pub(crate) touched: Option<BTreeSet<String>>,
    /// The parts of chords that were counted since then.
    pub(crate) counted: BTreeSet<String>,
}

/// Whether a task with this state has ended.
pub(crate) fn is_final(state: &str) -> bool {
    ["SUCCESS", "FAILURE", "REVOKED"].contains(&state)
}

impl Ledger {
    pub(crate) fn new(plan: Plan, sabotage: Sabotage, traced: bool) -> Self {
        Self {
            plan,
            sabotage,
            known: HashMap::new(),
            nodes: HashMap::new(),
            paced_starts: HashMap::new(),
            ended: HashSet::new(),
            blame: None,
            trace: traced.then(Vec::new),
            starts: 0,
            redelivered: 0,
            waiting: 0,
            touched: None,
            counted: BTreeSet::new(),
        }
    }

    pub(crate) fn of(&mut self, id: &str) -> &mut Known {
        if !self.known.contains_key(id) {
            self.known.insert(id.to_owned(), Known::default());
        }
        self.known.get_mut(id).expect("it was just put there")
    }

    pub(crate) fn blame(&mut self, invariant: Invariant, what: impl FnOnce() -> String) {
        if self.blame.is_none() {
            self.blame = Some((invariant, what()));
        }
    }

    pub(crate) fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push((now / 1_000_000, what()));
        }
    }

    /// Something has happened to it, which a broker may forget.
    pub(crate) fn touch(&mut self, id: &str) {
        if let Some(touched) = &mut self.touched {
            touched.insert(id.to_owned());
        }
    }

    /// The broker has forgotten what has happened to it since then: this is left.
    pub(crate) fn forgotten(&mut self, since: u64, id: &str, state: Option<String>, dead: usize) {
        let known = self.of(id);
        known.forgotten = true;
        (known.state, known.dead) = (state, dead as u32);
        known.revoked = known.revoked.filter(|at| *at < since);
    }

    /// Whether anything of it, or of what it follows, was forgotten.
    fn is_forgotten(&self, id: &str) -> bool {
        let forgotten = |id: &str| self.known.get(id).is_some_and(|known| known.forgotten || known.lost);
        let task = plan::place(id).and_then(|place| self.plan.tasks.get(place));
        let before = task.into_iter().flat_map(|task| task.after.iter().map(|(place, _)| place).chain(&task.parts));
        forgotten(id) || before.into_iter().any(|place| forgotten(&plan::id(*place)))
    }

    pub(crate) fn kind(&self, id: &str) -> Option<Kind> {
        Some(self.plan.tasks.get(plan::place(id)?)?.kind)
    }

    pub(crate) fn name(&self, id: &str) -> Option<&'static str> {
        Some(self.plan.tasks.get(plan::place(id)?)?.name)
    }

    /// Whether a message with it may be sent again, by whoever runs it or by doubt.
    fn is_sent_again(&self, id: &str) -> bool {
        self.name(id) == Some("early") || self.kind(id) == Some(Kind::ChildDies)
    }

    /// A message is put into its queue.
    pub(crate) fn sent(&mut self, now: u64, id: &str, retries: u32) {
        self.note(now, || format!("{id} is sent, attempt {retries}"));
        self.touch(id);
        let (forgets, forgotten) = (self.touched.is_some(), self.is_forgotten(id));
        let again = self.is_sent_again(id);
        let task = plan::place(id).and_then(|place| self.plan.tasks.get(place)).cloned();
        // Whatever is sent twice in doubt has whatever follows it twice.
        let of = |place: &usize| self.known.get(&plan::id(*place)).and_then(|known| known.sent.get(&0)).copied().unwrap_or(0);
        let before = match (&task, retries) {
            (_, 1..) => self.known.get(id).and_then(|known| known.sent.get(&(retries - 1))).copied().unwrap_or(0),
            (Some(task), 0) => task.after.iter().map(|(place, _)| of(place)).chain(task.parts.iter().map(of)).max().unwrap_or(1),
            (None, 0) => 1,
        };
        // Whose worker dies while it sends the body has sent it, or not: nobody knows.
        let parts = task.iter().flat_map(|task| &task.parts);
        let deaths: u32 = parts.filter_map(|part| self.known.get(&plan::id(*part))).map(|part| part.deaths).sum();
        let known = self.of(id);
        known.lost |= forgets && known.sent.is_empty();
        let sent = known.sent.entry(retries).or_default();
        *sent += 1;
        let (sent, doubtful) = (*sent, known.doubtful);
        if sent > before.max(1) + doubtful + deaths && !again && !forgotten {
            self.blame(Invariant::FollowUps, || format!("attempt {retries} of {id} is sent {sent} times"));
        }
        let Some(task) = task else { return };
        for part in task.parts {
            let part = plan::id(part);
            if !forgotten && self.known.get(&part).is_none_or(|known| known.state.is_none()) {
                self.blame(Invariant::ChordBody, || format!("the body {id} is sent before its part {part} has ended"));
            }
        }
    }

    /// A client is to send these once more.
    pub(crate) fn doubt(&mut self, places: &[usize]) {
        for place in places {
            let known = self.of(&plan::id(*place));
            known.doubtful += u32::from(!known.sent.is_empty());
        }
    }

    /// A result is stored. `holds`: this node holds a delivery of it.
    pub(crate) fn stored(&mut self, now: u64, node: usize, id: &str, state: &str, holds: bool) {
        if !is_final(state) {
            return;
        }
        self.touch(id);
        self.note(now, || format!("node {node} stores {state} of {id}"));
        // One that is called off, and a body whose part has failed, has its state from anybody.
        let is_body = plan::place(id).is_some_and(|place| self.plan.tasks.get(place).is_some_and(|task| !task.parts.is_empty()));
        let from_anybody = state == "REVOKED" || (state == "FAILURE" && is_body);
        let elsewhere = !holds && !from_anybody && !self.of(id).sent.is_empty() && self.name(id) != Some("early");
        if elsewhere && !self.is_forgotten(id) {
            // No more than the way to the store lies between its look and this.
            let still = self.nodes.entry(node).or_default().still;
            let known = self.of(id);
            let on_its_way = known.back.max(still) + WAY > now;
            known.overtaken |= on_its_way;
            if !on_its_way {
                self.blame(Invariant::Own, || format!("node {node} stores {state} of {id}, which it does not hold"));
            }
        }
        let known = self.of(id);
        if known.state.as_deref() != Some("SUCCESS") {
            known.state = Some(state.to_owned());
        }
        if state == "SUCCESS" && known.done == 0 && plan::place(id).is_some() {
            self.blame(Invariant::Invented, || format!("{id} has succeeded and never ran to its end"));
        }
    }

    /// What was claimed ends: acknowledged, or gone to the dead letters.
    pub(crate) fn ended(&mut self, now: u64, node: usize, receipt: u64, id: &str, ours: bool, sends_itself: bool) {
        self.note(now, || format!("node {node} ends {id} (delivery {receipt})"));
        self.touch(id);
        if !self.ended.insert(receipt) || !ours {
            self.blame(Invariant::OneEnd, || format!("delivery {receipt} of {id} is ended by node {node}, which does not hold it"));
        }
        if plan::place(id).is_none() || self.name(id) == Some("early") || sends_itself {
            return;
        }
        if self.of(id).state.is_none() && !self.is_forgotten(id) {
            self.blame(Invariant::ResultFirst, || format!("{id} is acknowledged without a result"));
        }
    }

    /// A worker died, or is taken for dead.
    pub(crate) fn died(&mut self, now: u64, id: &str, accused: bool) {
        self.redelivered += 1;
        self.touch(id);
        let known = self.of(id);
        known.back = now;
        known.deaths += 1;
        known.blames += u32::from(accused);
    }

    pub(crate) fn buried(&mut self, now: u64, id: &str, reason: &str) {
        self.note(now, || format!("{id} is a dead letter: {reason}"));
        self.touch(id);
        let known = self.of(id);
        known.dead += 1;
        let (blames, deaths) = (known.blames, known.deaths);
        if reason.contains("workers died while it ran") && (blames < 2 || deaths < 3) {
            self.blame(Invariant::Buried, || format!("{id} is buried after {deaths} deaths, in {blames} of which it was accused"));
        }
    }

    /// A handler begins. `held`: whether this node holds a delivery of it that has not started.
    pub(crate) fn start(&mut self, now: u64, node: usize, id: &str, held: Option<bool>, early: bool, one_store: bool) {
        self.starts += 1;
        self.note(now, || format!("node {node} starts {id}"));
        self.touch(id);
        let forgotten = self.is_forgotten(id);
        let copies: u32 = self.of(id).sent.values().sum();
        let known = self.of(id);
        known.starts += 1;
        // What is acknowledged as it starts comes again where the broker did not hear it in time.
        let once_too_often = early && known.starts > copies + known.deaths;
        let done = known.state.as_deref() == Some("SUCCESS");
        let revoked = known.revoked;
        if !early {
            match held {
                _ if forgotten => {}
                None => self.blame(Invariant::Own, || format!("node {node} starts {id}, which it does not hold")),
                // Of one that was sent twice nobody can tell which delivery this is.
                Some(true) if copies > 1 => {}
                Some(true) => self.blame(Invariant::Once, || format!("node {node} starts one delivery of {id} twice")),
                Some(false) => {}
            }
        }
        if done && copies == 1 && one_store && !early && !forgotten {
            self.blame(Invariant::Once, || format!("node {node} starts {id}, which has succeeded already"));
        }
        if once_too_often && !forgotten {
            self.blame(Invariant::Once, || format!("node {node} starts {id} more often than it came"));
        }
        let facts = self.nodes.entry(node).or_default();
        // Time to hear of it.
        let knows = |at: u64| facts.began > at || at.max(facts.began + SECOND).max(facts.deaf) + SECOND < now;
        if revoked.is_some_and(knows) {
            self.blame(Invariant::Revoked, || format!("node {node} starts {id}, which was called off at {revoked:?}"));
        }
        self.pace(now, node, id);
    }

    fn pace(&mut self, now: u64, node: usize, id: &str) {
        // A broker whose time of the day is set anew gives its slots anew, and so does one that has
        // forgotten them; and of an answer that is late nobody knows how long ago its slots were.
        let unsure = |trouble: &plan::Trouble| matches!(trouble.fault, Fault::BrokerWall(_) | Fault::ReplyLate(_) | Fault::Restart(_));
        let (of, workers, sure) = match self.name(id) {
            Some("shared") => (None, WORKERS, !self.plan.troubles.iter().any(unsure)),
            Some("rated") => (Some(node), 1, true),
            _ => return,
        };
        let starts = self.paced_starts.entry(of).or_default();
        starts.push(now);
        if !sure {
            return;
        }
        // No window holds more than rate × (window + what steps and ways are late by) and one, and
        // what waits at each worker with its slot: one of this rate.
        let late = 0.35;
        let many = starts.iter().rev().zip(1_u32..).find(|(at, count)| {
            let window = now.saturating_sub(**at) as f64 / SECOND as f64;
            f64::from(*count) > RATE * (window + late) + 1.0 + workers as f64
        });
        if let Some((at, count)) = many.map(|(at, count)| (*at, count)) {
            self.blame(Invariant::Rate, || format!("{count} starts of {id} and its like since {at} at {now} on node {node}"));
        }
    }

    /// What must hold when all is quiet.
    pub(crate) fn check_end(&mut self, reliable: bool) {
        let plan = self.plan.clone();
        for (place, task) in plan.tasks.iter().enumerate() {
            let id = plan::id(place);
            let Some(known) = self.known.get(&id) else { continue };
            let ended = known.state.is_some() || known.dead > 0;
            // Where results are stored first and acknowledged later, one may be forgotten between;
            // so may that of a part, whose message is acknowledged when the body is sent.
            let in_steps = task.name == "early" || task.kind == Kind::ChildDies || !plan.one_store || plan.is_part(place);
            let forgotten = known.forgotten && in_steps;
            let may_be_lost = known.lost || forgotten || (task.name == "early" && !reliable);
            if (known.confirmed || !known.sent.is_empty()) && !ended && !may_be_lost {
                self.blame(Invariant::Ends, || {
                    format!("{id} ({:?}, {}) was sent, and has neither result nor dead letter", task.kind, task.name)
                });
            }
        }
        let state = |ledger: &Self, place: usize| ledger.known.get(&plan::id(place)).and_then(|known| known.state.clone());
        for (place, task) in plan.tasks.iter().enumerate() {
            let id = plan::id(place);
            let has = self.known.get(&id).is_some_and(|known| !known.sent.is_empty() || known.state.is_some());
            if let Some((before, succeeded)) = task.after {
                let before_state = state(self, before);
                let overtaken = self.known.get(&plan::id(before)).is_some_and(|known| known.overtaken);
                let due = before_state.as_deref() == Some(if succeeded { "SUCCESS" } else { "FAILURE" }) && !overtaken;
                if due && !has && !self.is_forgotten(&id) {
                    self.blame(Invariant::FollowUps, || format!("{id} was not sent although {} is {before_state:?}", plan::id(before)));
                }
                let sent = self.known.get(&id).is_some_and(|known| !known.sent.is_empty());
                if before_state.is_none() && sent && !self.is_forgotten(&id) {
                    self.blame(Invariant::FollowUps, || format!("{id} was sent although {} has not ended", plan::id(before)));
                }
            }
            let complete = !task.parts.is_empty() && task.parts.iter().all(|part| state(self, *part).as_deref() == Some("SUCCESS"));
            let uncounted = |part: &usize| self.known.get(&plan::id(*part)).is_some_and(|known| known.uncounted);
            if complete && !has && !self.is_forgotten(&id) && !task.parts.iter().any(uncounted) {
                self.blame(Invariant::ChordBody, || format!("the body {id} was not sent although all of its parts are there"));
            }
        }
    }
}
