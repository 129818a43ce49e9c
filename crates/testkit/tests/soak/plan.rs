//! What a seed stands for: tasks, settings and faults.

use std::time::Duration;

use fastrand::Rng;
use longshore_celery::Value;
use longshore_worker::{Signature, chain, chord, group};

/// What a task does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Takes so many milliseconds, and has a result.
    Ok(u64),
    /// Fails.
    Fails,
    /// Asks to be tried again so many times.
    Retries(u32),
    /// Hangs until its time limit.
    Hangs,
    Panics,
    /// Kills its worker.
    Poison,
    /// The child that runs it dies.
    ChildDies,
    /// Its result is refused by the store.
    Refused,
    /// Nobody knows it.
    Unknown,
}

/// A task of the run; its id is its place, `t7`.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Under which name it is registered: its policy and its lane.
    pub(crate) name: &'static str,
    /// Not to be started before so many milliseconds after it was sent, and not after so many.
    pub(crate) countdown: Option<u64>,
    pub(crate) expires: Option<u64>,
    /// Sent when that one has succeeded, or failed.
    pub(crate) after: Option<(usize, bool)>,
    /// The members of the chord whose body it is.
    pub(crate) parts: Vec<usize>,
}

/// What a client sends in one step.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    One(usize),
    Chain(Vec<usize>),
    Group(Vec<usize>),
    Chord(Vec<usize>, usize),
    /// A task, what is sent with its result, and what is told of its failure.
    Linked(usize, usize, usize),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The broker does what this node asks next, and the answer is lost.
    ReplyLost,
    /// What this node asks next does not reach the broker.
    RequestLost,
    /// The next answer is late by so many milliseconds.
    ReplyLate(u64),
    /// This node and the broker do not hear each other for so long.
    Cut(u64),
    /// Nobody and the broker hear each other for so long.
    Down(u64),
    /// The broker is down for so long, and has lost its last second.
    Restart(u64),
    /// The broker can take nothing for so long.
    Full(u64),
    /// Every way to the broker takes so long.
    Slow(u64),
    /// The node is killed, and another one takes its place.
    Kill,
    /// The node is stopped for so long, and goes on.
    Freeze(u64),
    /// The node's machine sleeps for so long.
    Sleep(u64),
    /// The node's time of the day is set anew, by so many seconds.
    Wall(i64),
    /// It is wrong by so many seconds, hours of them, and right again after so many milliseconds.
    Leap(i64, u64),
    /// The broker's is.
    BrokerWall(i64),
    /// This task is called off.
    Revoke(usize),
    /// The worker is stopped, warmly, and another one takes its place.
    Warm,
    /// The worker is stopped, coldly.
    Cold,
}

/// A fault, when it happens, and to whom: workers come first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) at: u64,
    pub(crate) node: usize,
    pub(crate) fault: Fault,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) tasks: Vec<Planned>,
    /// Of each client: when, and what.
    pub(crate) clients: [Vec<(u64, Unit)>; CLIENTS],
    pub(crate) troubles: Vec<Trouble>,
    /// Broker and result backend are one store.
    pub(crate) one_store: bool,
    pub(crate) slots: usize,
}

pub(crate) const WORKERS: usize = 3;
pub(crate) const CLIENTS: usize = 2;
const TASKS: usize = 200;
const FAULTS: usize = 20;
/// Faults and sending are over after so many milliseconds.
pub(crate) const LONG: u64 = 20_000;
/// What a broker that is started again has lost, in milliseconds.
pub(crate) const LOST: u64 = 1_000;
/// No clock is wrong by more seconds.
pub(crate) const HOURS: i64 = 5 * 3600;
/// How long a worker lets its tasks run on after a stop; how long a hanging task may run.
pub(crate) const GRACE: Duration = Duration::from_secs(3);
pub(crate) const LIMIT: Duration = Duration::from_secs(2);
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// Starts a second of tasks with a rate.
pub(crate) const RATE: f64 = 20.0;
/// Names of tasks; the last one's are shared by all workers.
pub(crate) const NAMES: [&str; 7] = ["plain", "blocking", "cpu", "process", "early", "rated", "shared"];

pub(crate) fn id(place: usize) -> String {
    format!("t{place}")
}

pub(crate) fn place(id: &str) -> Option<usize> {
    id.strip_prefix('t')?.parse().ok()
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0073_6f61_6b00);
        let rng = &mut rng;
        let mut plan = Self {
            seed,
            tasks: Vec::new(),
            clients: [const { Vec::new() }; CLIENTS],
            troubles: Vec::new(),
            one_store: rng.u8(..3) > 0,
            slots: rng.usize(2..8),
        };
        let mut poison = rng.usize(..2);
        while plan.tasks.len() < TASKS {
            let unit = plan.unit(rng, &mut poison);
            plan.clients[rng.usize(..CLIENTS)].push((rng.u64(..LONG * 3 / 4), unit));
        }
        plan.clients.iter_mut().for_each(|units| units.sort_by_key(|(at, _)| *at));
        plan.troubles = (0..FAULTS).map(|_| trouble(rng)).collect();
        plan.troubles.sort_by_key(|trouble| trouble.at);
        plan
    }

    /// A plan of one unit, sent by the first client, and these tasks before it.
    pub(crate) fn of(slots: usize, before: &[Kind], unit: impl FnOnce(&mut Self) -> Unit, troubles: Vec<Trouble>) -> Self {
        let clients = [const { Vec::new() }; CLIENTS];
        let mut plan = Self { seed: 0, tasks: Vec::new(), clients, troubles, one_store: true, slots };
        for kind in before {
            let place = plan.add(*kind, "plain");
            plan.clients[0].push((0, Unit::One(place)));
        }
        let unit = unit(&mut plan);
        plan.clients[0].push((100, unit));
        plan
    }

    pub(crate) fn chord(&mut self, parts: Vec<usize>) -> Unit {
        let body = self.add(Kind::Ok(5), "plain");
        self.tasks[body].parts.clone_from(&parts);
        Unit::Chord(parts, body)
    }

    pub(crate) fn add(&mut self, kind: Kind, name: &'static str) -> usize {
        self.tasks.push(Planned { kind, name, countdown: None, expires: None, after: None, parts: Vec::new() });
        self.tasks.len() - 1
    }

    /// A task that may be a part of something.
    fn part(&mut self, rng: &mut Rng) -> usize {
        let kind = match rng.u8(..20) {
            0 => Kind::Fails,
            1 => Kind::Retries(rng.u32(1..3)),
            2 => Kind::Ok(rng.u64(500..4_000)),
            _ => Kind::Ok(rng.u64(..60)),
        };
        self.add(kind, NAMES[rng.usize(..4)])
    }

    fn unit(&mut self, rng: &mut Rng, poison: &mut usize) -> Unit {
        match rng.u8(..20) {
            0..4 => {
                let links: Vec<usize> = (0..3).map(|_| self.part(rng)).collect();
                links.windows(2).for_each(|pair| self.tasks[pair[1]].after = Some((pair[0], true)));
                Unit::Chain(links)
            }
            4 => Unit::Group((0..3).map(|_| self.part(rng)).collect()),
            5 => {
                let name = if rng.bool() { "rated" } else { "shared" };
                Unit::Group((0..12).map(|_| self.add(Kind::Ok(1), name)).collect())
            }
            6..9 => {
                let parts: Vec<usize> = (0..rng.usize(2..6)).map(|_| self.part(rng)).collect();
                self.chord(parts)
            }
            9 => {
                let kind = if rng.bool() { Kind::Fails } else { Kind::Ok(10) };
                let first = self.add(kind, "plain");
                let (link, errback) = (self.add(Kind::Ok(5), "plain"), self.add(Kind::Ok(5), "plain"));
                self.tasks[link].after = Some((first, true));
                self.tasks[errback].after = Some((first, false));
                Unit::Linked(first, link, errback)
            }
            _ if *poison > 0 => {
                *poison -= 1;
                Unit::One(self.add(Kind::Poison, "plain"))
            }
            _ => Unit::One(self.single(rng)),
        }
    }

    fn single(&mut self, rng: &mut Rng) -> usize {
        match rng.u8(..24) {
            0 => self.add(Kind::Hangs, "plain"),
            1 => self.add(Kind::Panics, "plain"),
            2 => self.add(Kind::ChildDies, "process"),
            3 => self.add(Kind::Refused, "plain"),
            4 => self.add(Kind::Unknown, "unknown"),
            5..8 => self.add(Kind::Ok(20), "early"),
            8..10 => self.add(Kind::Ok(1), "rated"),
            10..12 => self.add(Kind::Ok(1), "shared"),
            12..15 => {
                let place = self.part(rng);
                self.tasks[place].countdown = Some(rng.u64(200..15_000));
                place
            }
            15 => {
                let place = self.part(rng);
                self.tasks[place].expires = Some(rng.u64(1..2_000));
                place
            }
            _ => self.part(rng),
        }
    }

    /// Whether anything is lost that goes on from one of these times of the run, in nanoseconds, to
    /// the other.
    pub(crate) fn is_lost(&self, from: u64, to: u64) -> bool {
        // A fault strikes up to two turns late.
        let late = 40;
        self.troubles.iter().any(|trouble| {
            let is_restart = matches!(trouble.fault, Fault::Restart(_));
            is_restart && from <= (trouble.at + late) * 1_000_000 && to >= trouble.at.saturating_sub(LOST) * 1_000_000
        })
    }

    /// Whether it is a part of a chord.
    pub(crate) fn is_part(&self, place: usize) -> bool {
        self.tasks.iter().any(|task| task.parts.contains(&place))
    }

    /// Whether the broker loses anything at all.
    pub(crate) fn loses(&self) -> bool {
        self.troubles.iter().any(|trouble| matches!(trouble.fault, Fault::Restart(_)))
    }

    /// What is sent for it.
    pub(crate) fn signature(&self, place: usize) -> Signature {
        let task = &self.tasks[place];
        let mut signature = Signature::named(task.name).task_id(id(place)).immutable();
        if let Some(countdown) = task.countdown {
            signature = signature.countdown(Duration::from_millis(countdown));
        }
        if let Some(expires) = task.expires {
            signature = signature.expires_in(Duration::from_millis(expires));
        }
        if task.kind == Kind::Hangs {
            signature = signature.time_limit(LIMIT);
        }
        signature
    }

    pub(crate) fn canvas(&self, unit: &Unit) -> Signature {
        let all = |places: &[usize]| places.iter().map(|place| self.signature(*place)).collect::<Vec<_>>();
        let untyped = |wire: Result<longshore_celery::WireSignature, longshore_worker::ClientError>| {
            Signature::<Value>::from(wire.expect("a signature that can be written"))
        };
        match unit {
            Unit::One(place) => self.signature(*place),
            Unit::Chain(links) => chain(all(links)),
            Unit::Group(members) => untyped(group(all(members)).into_wire()),
            Unit::Chord(parts, body) => chord(all(parts), self.signature(*body)),
            Unit::Linked(first, link, errback) => self.signature(*first).link(self.signature(*link)).link_error(self.signature(*errback)),
        }
    }
}

impl Unit {
    /// All that belong to it.
    pub(crate) fn all(&self) -> Vec<usize> {
        match self {
            Self::One(place) => vec![*place],
            Self::Chain(all) | Self::Group(all) => all.clone(),
            Self::Chord(parts, body) => parts.iter().copied().chain([*body]).collect(),
            Self::Linked(first, link, errback) => vec![*first, *link, *errback],
        }
    }

    /// Those that are sent with it at once.
    pub(crate) fn sent(&self) -> &[usize] {
        match self {
            Unit::One(place) | Unit::Linked(place, ..) => std::slice::from_ref(place),
            Unit::Chain(links) => &links[..1],
            Unit::Group(all) | Unit::Chord(all, _) => all,
        }
    }
}

/// One to five hours, forwards or backwards.
fn hours(rng: &mut Rng) -> i64 {
    let seconds = rng.i64(3600..HOURS);
    if rng.bool() { seconds } else { -seconds }
}

fn trouble(rng: &mut Rng) -> Trouble {
    let (at, worker) = (rng.u64(200..LONG), rng.usize(..WORKERS));
    let anybody = rng.usize(..WORKERS + CLIENTS);
    let (node, fault) = match rng.u8(..30) {
        0..6 => (anybody, Fault::ReplyLost),
        6..9 => (anybody, Fault::RequestLost),
        9 => (anybody, Fault::ReplyLate(rng.u64(50..3_000))),
        10..12 => (anybody, Fault::Cut(rng.u64(100..9_000))),
        12 if rng.bool() => (worker, Fault::Down(rng.u64(100..3_000))),
        12 => (worker, Fault::Restart(rng.u64(100..3_000))),
        13 => (worker, Fault::Full(rng.u64(100..3_000))),
        14 => (worker, Fault::Slow(rng.u64(5..80))),
        15..18 => (worker, Fault::Kill),
        18 => (WORKERS + rng.usize(..CLIENTS), Fault::Kill),
        19..21 => (worker, Fault::Freeze(rng.u64(500..12_000))),
        21 => (worker, Fault::Sleep(rng.u64(500..12_000))),
        22 if rng.bool() => (worker, Fault::Wall(rng.i64(-30..60))),
        22 => (worker, Fault::Leap(hours(rng), rng.u64(500..8_000))),
        23 if rng.bool() => (worker, Fault::BrokerWall(rng.i64(-30..60))),
        23 => (worker, Fault::BrokerWall(hours(rng))),
        24..26 => (anybody, Fault::Revoke(rng.usize(..TASKS))),
        26..28 => (worker, Fault::Warm),
        _ => (worker, Fault::Cold),
    };
    Trouble { at, node, fault }
}
