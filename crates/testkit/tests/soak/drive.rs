//! Drives the nodes of a run by turns: each has a runtime on a paused clock of its own, so that one
//! can be killed, frozen, or given wrong clocks while the others go on.

use std::{
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use longshore_celery::control::Request;
use longshore_worker::{Client, Stopper, Worker, WorkerOptions, WorkerSummary, remote};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    time::{Instant, advance, sleep, sleep_until},
};

use crate::{
    Sabotage,
    adapter::{Link, Weather, World},
    clock::{self, Here},
    ledger::{Invariant, Ledger},
    model,
    plan::{self, CLIENTS, Fault, GRACE, HOURS, Kind, LEASE, LONG, LOST, Plan, Trouble, Unit, WORKERS},
    tasks::app,
};

/// A run that broke a promise.
#[derive(Clone)]
pub(crate) struct Violation {
    pub(crate) plan: Plan,
    pub(crate) sabotage: Sabotage,
    pub(crate) invariant: Invariant,
    pub(crate) what: String,
    pub(crate) trace: Vec<(u64, String)>,
}

/// What runs were like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) starts: u64,
    pub(crate) redelivered: u64,
    pub(crate) dead: u64,
    pub(crate) seconds: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            starts: self.starts + other.starts,
            redelivered: self.redelivered + other.redelivered,
            dead: self.dead + other.dead,
            seconds: self.seconds + other.seconds,
        }
    }
}

const MS: u64 = 1_000_000;
/// A node runs so far ahead of the others.
const TURN: u64 = 20 * MS;
/// A node that was killed or has stopped is replaced after this time.
const GONE: u64 = 1_000 * MS;
/// A run that has not ended after this time never will.
const PATIENCE: u64 = 600_000 * MS;
/// So often another worker begins at the end, for what was sent at a stop.
const ROUNDS: u32 = 3;
/// A worker that was told to stop is gone after this time: its grace, and fifteen seconds.
const STOPS: u64 = 18_500 * MS;

struct Node {
    seat: usize,
    number: usize,
    runtime: Runtime,
    here: Here,
    link: Link,
    /// Until when it stands still, and whether its machine sleeps.
    frozen: Option<(u64, bool)>,
    /// When its time of the day is right again.
    leaps: Option<u64>,
    beaten: u64,
    /// When it was told to stop, at the latest.
    stops: Option<u64>,
    stopper: Arc<Mutex<Option<Stopper>>>,
    ended: Arc<Mutex<Option<Option<WorkerSummary>>>>,
}

struct Run {
    plan: Arc<Plan>,
    world: Arc<World>,
    nodes: Vec<Node>,
    /// Seats whose node comes back then.
    empty: Vec<(usize, u64)>,
    numbers: usize,
    now: u64,
    rng: Rng,
    troubles: Vec<Trouble>,
    /// When the broker writes down what it will not lose.
    memories: Vec<u64>,
    /// How many units each client has sent, or begun to send.
    sent: [Arc<AtomicUsize>; CLIENTS],
    /// No node was killed, frozen or cut off.
    reliable: bool,
    /// How often a worker began again at the end.
    rounds: u32,
}

/// Runs a plan once.
pub(crate) fn simulate(plan: &Plan, sabotage: Sabotage, traced: bool) -> Result<Tally, Box<Violation>> {
    let (world, now) = carry_out(plan, sabotage, traced);
    let mut broker = world.broker();
    let dead = broker.dead.len() as u64;
    let ledger = &mut broker.ledger;
    match ledger.blame.take() {
        Some((invariant, what)) => {
            Err(Box::new(Violation { plan: plan.clone(), sabotage, invariant, what, trace: ledger.trace.take().unwrap_or_default() }))
        }
        None => Ok(Tally { runs: 1, starts: ledger.starts, redelivered: ledger.redelivered, dead, seconds: now / MS / 1000 }),
    }
}

/// Runs a plan once: what happened, and when.
pub(crate) fn trace(plan: &Plan) -> Vec<(u64, String)> {
    let (world, _) = carry_out(plan, Sabotage::None, true);
    world.ledger(|ledger| ledger.trace.take()).unwrap_or_default()
}

fn carry_out(plan: &Plan, sabotage: Sabotage, traced: bool) -> (Arc<World>, u64) {
    quiet();
    clock::seed(plan.seed);
    clock::enter(Here { base: None, missed: 0, wrong: 0 });
    let mut run = Run::new(plan, sabotage, traced);
    for seat in 0..WORKERS + CLIENTS {
        run.begin(seat);
    }
    run.drive();
    let Run { world, nodes, now, .. } = run;
    clock::enter(Here { base: None, missed: now, wrong: 0 });
    drop(nodes);
    (world, now)
}

/// Tasks that panic say nothing.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"planned") {
                loud(info);
            }
        }));
    });
}

impl Run {
    fn new(plan: &Plan, sabotage: Sabotage, traced: bool) -> Self {
        let weather = Weather {
            rng: Rng::with_seed(plan.seed ^ 0x77),
            armed: Vec::new(),
            cut: Vec::new(),
            down: 0,
            full: 0,
            slow: 2,
            killed: Vec::new(),
        };
        let world = World {
            broker: Mutex::new(model::Broker::new(Ledger::new(plan.clone(), sabotage, traced))),
            weather: Mutex::new(weather),
            changed: Notify::new(),
            one_store: plan.one_store,
        };
        Self {
            plan: Arc::new(plan.clone()),
            world: Arc::new(world),
            nodes: Vec::new(),
            empty: Vec::new(),
            numbers: 0,
            now: 0,
            rng: Rng::with_seed(plan.seed ^ 0x5eed),
            troubles: plan.troubles.clone(),
            memories: plan
                .troubles
                .iter()
                .filter(|trouble| matches!(trouble.fault, Fault::Restart(_)))
                .map(|trouble| trouble.at.saturating_sub(LOST) * MS)
                .collect(),
            sent: std::array::from_fn(|_| Arc::default()),
            reliable: true,
            rounds: 0,
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.world.ledger(|ledger| ledger.note(self.now, what));
    }

    /// Lets a node begin in this seat.
    fn begin(&mut self, seat: usize) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of this thread");
        self.numbers += 1;
        let number = self.numbers;
        let base = runtime.block_on(async { Instant::now() });
        let wrong = if self.is_late() { HOURS } else { 0 };
        let here = Here { base: Some(base), missed: self.now, wrong };
        let link = Link { world: self.world.clone(), node: number, taker: Arc::default() };
        self.note(|| format!("node {number} begins in seat {seat}"));
        self.world.ledger(|ledger| ledger.nodes.entry(number).or_default().began = self.now);
        let node = Node {
            seat,
            number,
            runtime,
            here,
            link,
            frozen: None,
            leaps: None,
            beaten: self.now,
            stops: None,
            stopper: Arc::default(),
            ended: Arc::default(),
        };
        clock::enter(here);
        if seat < WORKERS {
            self.work(&node)
        } else {
            self.send(&node, seat - WORKERS)
        }
        self.nodes.push(node);
    }

    fn work(&self, node: &Node) {
        let app = app(&self.world, &self.plan, node.number);
        let mut options = WorkerOptions::new(format!("w{}@model", node.number));
        (options.lanes, options.lease, options.grace, options.parking) = ([self.plan.slots; 4], LEASE, GRACE, 20);
        let (link, stopper, ended) = (node.link.clone(), node.stopper.clone(), node.ended.clone());
        node.runtime.spawn(async move {
            let Ok(worker) = Worker::over(app, options, link.connected()).await else {
                *ended.lock().expect("nobody panics with it") = Some(None);
                return;
            };
            *stopper.lock().expect("nobody panics with it") = Some(worker.stopper());
            let summary = worker.join().await;
            *ended.lock().expect("nobody panics with it") = Some(Some(summary));
        });
    }

    fn send(&self, node: &Node, client: usize) {
        let (world, plan, link, ended) = (self.world.clone(), self.plan.clone(), node.link.clone(), node.ended.clone());
        let app = app(&self.world, &self.plan, node.number);
        let (begun, sent) = (self.now, self.sent[client].clone());
        node.runtime.spawn(async move {
            let client_of = Client::over(&app, link.connected());
            let base = Instant::now();
            // What a client was sending when it died is not sent again.
            for (at, unit) in plan.clients[client].iter().skip(sent.load(Ordering::Relaxed)) {
                sleep_until(base + Duration::from_millis(*at).saturating_sub(Duration::from_nanos(begun))).await;
                sent.fetch_add(1, Ordering::Relaxed);
                let began = clock::now();
                let answer = loop {
                    match client_of.send(plan.canvas(unit)).await {
                        Ok(answer) => break answer,
                        Err(_) => {
                            // Some of it may have been sent before what was not heard of.
                            world.ledger(|ledger| ledger.doubt(unit.sent()));
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                };
                world.ledger(|ledger| unit.sent().iter().for_each(|place| ledger.of(&plan::id(*place)).confirmed = true));
                if plan.is_lost(began, clock::now()) {
                    world.ledger(|ledger| unit.all().iter().for_each(|place| ledger.of(&plan::id(*place)).lost = true));
                }
                // Of what a broker has forgotten nobody is told.
                let waits = !plan.loses() && matches!(unit, Unit::One(place) if plan.tasks[*place].name != "early");
                if waits {
                    let waiting = Waiting::new(world.clone());
                    tokio::spawn(async move {
                        let _ = answer.get().await;
                        drop(waiting);
                    });
                }
            }
            *ended.lock().expect("nobody panics with it") = Some(None);
        });
    }

    /// To the end, or the first broken promise.
    fn drive(&mut self) {
        let mut stopping = false;
        while self.world.ledger(|ledger| ledger.blame.is_none()) {
            self.turn();
            if self.now > PATIENCE {
                let mut broker = self.world.broker();
                let left: Vec<&str> = broker.queue.iter().chain(broker.held.values().map(|held| &held.msg)).map(|msg| &*msg.id).collect();
                let (left, waiting) = (left.join(" "), broker.ledger.waiting);
                broker.ledger.blame(Invariant::Ends, || format!("the run does not end; {waiting} clients wait; left: {left}"));
            }
            if stopping {
                if self.nodes.iter().all(|node| node.seat >= WORKERS) {
                    if self.check_end() {
                        return;
                    }
                    // What a worker sent while it stopped is another one's.
                    stopping = false;
                    self.begin(0);
                }
            } else if self.is_quiet() {
                stopping = true;
            }
            if stopping {
                self.empty.clear();
                let told = |node: &Node| node.seat >= WORKERS || node.stops.is_some();
                (0..self.nodes.len())
                    .filter(|place| !told(&self.nodes[*place]))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|place| self.stop(place, true));
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let sent = self.nodes.iter().filter(|node| node.seat >= WORKERS).all(|node| node.ended.lock().is_ok_and(|ended| ended.is_some()));
        let over = self.troubles.is_empty() && self.empty.iter().all(|(seat, _)| *seat >= WORKERS) && sent;
        let weather = self.world.weather();
        let fair = weather.down.max(weather.full) < self.now && weather.cut.iter().all(|(_, until)| *until < self.now);
        drop(weather);
        let broker = self.world.broker();
        let awake = self.nodes.iter().all(|node| node.frozen.is_none());
        over && fair && awake && broker.queue.is_empty() && broker.held.is_empty() && broker.ledger.waiting == 0 && !self.is_stopping()
    }

    fn is_stopping(&self) -> bool {
        self.nodes.iter().any(|node| node.stops.is_some())
    }

    /// Whether all clocks have gone on by hours, so that nothing waits for what a clock that was as
    /// wrong has said.
    fn is_late(&self) -> bool {
        let leaps = |trouble: &Trouble| matches!(trouble.fault, Fault::Leap(..));
        self.now > (LONG + 40_000) * MS && self.plan.troubles.iter().any(leaps)
    }

    fn turn(&mut self) {
        while self.memories.first().is_some_and(|at| *at <= self.now) {
            self.memories.remove(0);
            clock::enter(Here { base: None, missed: self.now, wrong: 0 });
            self.world.broker().remember();
        }
        while self.troubles.first().is_some_and(|trouble| trouble.at * MS <= self.now) {
            let trouble = self.troubles.remove(0);
            self.strike(trouble);
        }
        let back: Vec<usize> = self.empty.extract_if(.., |(_, at)| *at <= self.now).map(|(seat, _)| seat).collect();
        back.into_iter().for_each(|seat| self.begin(seat));
        self.now += TURN;
        let mut place = 0;
        while place < self.nodes.len() {
            if self.step(place) {
                place += 1;
            }
        }
        clock::enter(Here { base: None, missed: self.now, wrong: 0 });
        if self.world.broker().sweep(self.now) {
            self.world.changed.notify_waiters();
        }
    }

    /// Lets a node go on until now; `false`: it is no more.
    fn step(&mut self, place: usize) -> bool {
        let (now, beats_first) = (self.now, self.rng.bool());
        let late = self.is_late();
        let node = &mut self.nodes[place];
        if node.leaps.take_if(|until| *until <= now).is_some() {
            set_wall(&self.world, node, 0);
        }
        if late && node.here.wrong < HOURS {
            set_wall(&self.world, node, HOURS);
        }
        if node.frozen.is_some_and(|(until, _)| until > now) {
            return true;
        }
        clock::enter(node.here);
        if let Some((_, asleep)) = node.frozen.take() {
            let missed = now - TURN - node.runtime.block_on(async { clock::now() }).min(now - TURN);
            if asleep {
                node.here.missed += missed;
                clock::enter(node.here);
            } else {
                node.runtime.block_on(advance(Duration::from_nanos(missed)));
            }
            let number = node.number;
            self.world.ledger(|ledger| ledger.note(now, || format!("node {number} goes on")));
        }
        let node = &mut self.nodes[place];
        if beats_first {
            beat(node, now);
        }
        let until = node.here.base.map(|base| base + Duration::from_nanos(now - node.here.missed));
        node.runtime.block_on(async { sleep_until(until.unwrap_or_else(Instant::now)).await });
        if !beats_first {
            beat(node, now);
        }
        let number = node.number;
        if self.world.weather().killed.contains(&number) {
            self.kill(place);
            return false;
        }
        let ended = if node.seat < WORKERS { node.ended.lock().expect("nobody panics with it").take() } else { None };
        if let Some(summary) = ended {
            self.check_summary(number, summary);
            self.kill(place);
            return false;
        }
        let overdue = node.stops.is_some_and(|at| at < now);
        if overdue {
            self.world.ledger(|ledger| ledger.blame(Invariant::Stops, || format!("node {number} has not stopped in time")));
        }
        true
    }

    fn check_summary(&self, number: usize, summary: Option<WorkerSummary>) {
        let Some(summary) = summary else { return };
        let one_store = self.plan.one_store;
        self.note(|| format!("node {number} has stopped: {summary:?}"));
        self.world.ledger(|ledger| {
            let succeeded = ledger.nodes.entry(number).or_default().succeeded;
            // Of what it has told and got no answer for it knows nothing.
            let ok = summary.counts.ok;
            if one_store && !(ok..=ok + summary.untold).contains(&succeeded) {
                ledger.blame(Invariant::Counts, || format!("node {number} stored {succeeded} results of success, and counts {summary:?}"));
            }
        });
    }

    /// A node is no more; what it did not say nobody hears.
    fn kill(&mut self, place: usize) {
        let node = self.nodes.remove(place);
        self.note(|| format!("node {} is gone", node.number));
        self.empty.push((node.seat, self.now + GONE));
        self.world.weather().killed.push(node.number);
        drop(node.runtime);
    }

    fn stop(&mut self, place: usize, warm: bool) {
        let node = &mut self.nodes[place];
        let Some(stopper) = node.stopper.lock().expect("nobody panics with it").clone() else { return };
        clock::enter(node.here);
        let _entered = node.runtime.enter();
        node.stops.get_or_insert(self.now + STOPS);
        if warm { stopper.warm() } else { stopper.cold() }
    }

    fn strike(&mut self, Trouble { node: seat, fault, .. }: Trouble) {
        let now = self.now;
        self.note(|| format!("{fault:?} strikes seat {seat}"));
        let place = self.nodes.iter().position(|node| node.seat == seat);
        let until = |ms: u64| now + ms * MS;
        match fault {
            Fault::Down(ms) => {
                self.world.weather().down = until(ms);
                self.deafen(None, until(ms));
                return;
            }
            Fault::Restart(ms) => {
                self.world.weather().down = until(ms);
                self.deafen(None, until(ms));
                clock::enter(Here { base: None, missed: now, wrong: 0 });
                self.world.broker().restart(until(ms));
                return;
            }
            Fault::Full(ms) => return self.world.weather().full = until(ms),
            Fault::Slow(ms) => return self.world.weather().slow = ms,
            Fault::BrokerWall(by) => return self.world.broker().wrong = by,
            _ => {}
        }
        let Some(place) = place else { return };
        let node = &mut self.nodes[place];
        let number = node.number;
        match fault {
            Fault::ReplyLost | Fault::RequestLost | Fault::ReplyLate(_) => self.world.weather().armed.push((number, fault)),
            Fault::Cut(ms) => {
                self.world.weather().cut.push((number, until(ms)));
                self.deafen(Some(place), until(ms));
                self.reliable = false;
            }
            Fault::Kill => {
                self.reliable = false;
                self.kill(place);
            }
            Fault::Freeze(ms) | Fault::Sleep(ms) => {
                node.frozen = Some((until(ms), matches!(fault, Fault::Sleep(_))));
                self.world.ledger(|ledger| ledger.nodes.entry(number).or_default().still = until(ms));
                self.deafen(Some(place), until(ms));
                self.reliable = false;
            }
            Fault::Wall(by) => set_wall(&self.world, node, by),
            Fault::Leap(by, ms) => {
                node.leaps = Some(until(ms));
                set_wall(&self.world, node, by);
            }
            Fault::Warm | Fault::Cold => self.stop(place, fault == Fault::Warm),
            Fault::Revoke(task) => self.revoke(place, plan::id(task)),
            Fault::Down(_) | Fault::Restart(_) | Fault::Full(_) | Fault::Slow(_) | Fault::BrokerWall(_) => {}
        }
    }

    /// A node, or all, hears nothing until then, and takes so much longer to stop.
    fn deafen(&mut self, place: Option<usize>, until: u64) {
        for (_, node) in self.nodes.iter_mut().enumerate().filter(|(at, _)| place.is_none_or(|place| place == *at)) {
            node.stops = node.stops.map(|stops| stops + until.saturating_sub(self.now));
            self.world.ledger(|ledger| {
                let facts = ledger.nodes.entry(node.number).or_default();
                facts.deaf = facts.deaf.max(until);
            });
        }
    }

    fn revoke(&self, place: usize, id: String) {
        let (link, world, plan) = (self.nodes[place].link.clone(), self.world.clone(), self.plan.clone());
        let lost = move |from, to| plan.is_lost(from, to);
        self.nodes[place].runtime.spawn(async move {
            let began = clock::now();
            let connected = link.connected();
            let store = connected.shared().expect("the model keeps what is revoked");
            while store.revoke(std::slice::from_ref(&id)).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
            while remote::tell(&connected, Request::new("revoke").argument("task_id", id.as_str())).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
            let now = clock::now();
            world.ledger(|ledger| {
                ledger.note(now, || format!("{id} is called off"));
                if !lost(began, now) {
                    ledger.of(&id).revoked.get_or_insert(now);
                }
            });
        });
    }

    /// Returns whether all is over.
    fn check_end(&mut self) -> bool {
        let reliable = self.reliable && !self.plan.tasks.iter().any(|task| task.kind == Kind::Poison);
        let mut broker = self.world.broker();
        if !broker.queue.is_empty() && broker.held.is_empty() && self.rounds < ROUNDS {
            self.rounds += 1;
            return false;
        }
        broker.check_end(reliable);
        true
    }
}

/// Sets a node's time of the day.
fn set_wall(world: &World, node: &mut Node, wrong: i64) {
    clock::enter(node.here);
    let wall = node.runtime.block_on(async { clock::wall() });
    node.here.wrong = wrong;
    world.ledger(|ledger| {
        let facts = ledger.nodes.entry(node.number).or_default();
        facts.latest = facts.latest.max(Some(wall));
    });
}

/// Gives the sign of life of a worker, when it is time.
fn beat(node: &mut Node, now: u64) {
    if now < node.beaten + LEASE.as_nanos() as u64 / 3 {
        return;
    }
    node.beaten = now;
    let taker = node.link.taker.lock().expect("nobody panics with it").clone();
    let _entered = node.runtime.enter();
    if let Some(taker) = taker {
        taker.beat();
    }
}

/// Somebody who waits for a result.
struct Waiting(Arc<World>);

impl Waiting {
    fn new(world: Arc<World>) -> Self {
        world.ledger(|ledger| ledger.waiting += 1);
        Self(world)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.ledger(|ledger| ledger.waiting -= 1);
    }
}
