//! The table of when a suspect starts, and what comes of it: storms of kills from outside, and
//! poison.

use std::collections::VecDeque;

use longshore_brokers::crash::after_crash;

use super::*;

fn here(crashes: u32) -> Suspect {
    Suspect { crashes, apart: false }
}

fn apart(crashes: u32) -> Suspect {
    Suspect { crashes, apart: true }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn one_starts_at_a_time_and_who_is_blamed_twice_is_alone() {
    let start = Instant::now();
    let running = |rows: &[(u32, u64)]| -> Vec<Accused> {
        rows.iter().map(|&(crashes, at)| Accused { receipt: Receipt(at), suspect: here(crashes), since: start + ms(at) }).collect()
    };
    // Its crashes; crashes and start of those that run; when it may start, at 5 s.
    let rows: &[(u32, &[(u32, u64)], Option<u64>)] = &[
        (1, &[], Some(5000)),
        (2, &[], Some(5000)),
        (1, &[(1, 4900)], Some(5900)),
        (1, &[(1, 1000)], Some(5000)),
        (1, &[(1, 1000), (1, 4500)], Some(5500)),
        (1, &[(2, 1000)], None),
        (2, &[(1, 1000)], None),
    ];
    for &(crashes, others, expected) in rows {
        let expected = expected.map(|at| start + ms(at));
        assert_eq!(may_start(here(crashes), &running(others), start + ms(5000)), expected, "{crashes} beside {others:?}");
    }
}

#[test]
fn whom_the_next_death_would_bury_waits_until_it_is_calm_and_holds_up_nobody() {
    let now = Instant::now();
    // The crashes of those in line; when it is calm; who starts, and when.
    let rows: &[(&[u32], u64, Option<(usize, u64)>)] = &[
        (&[], 10, None),
        (&[1, 2], 10, Some((0, 0))),
        (&[2, 2, 1], 10, Some((2, 0))),
        (&[2, 2], 10, Some((0, 10))),
        (&[2, 1], 0, Some((0, 0))),
    ];
    for &(line, calm, expected) in rows {
        let expected = expected.map(|(place, at)| (place, now + ms(at)));
        assert_eq!(next(line.iter().copied().map(here), &[], now + ms(calm), now), expected, "{line:?}, calm in {calm} ms");
    }
}

#[test]
fn what_runs_apart_from_its_worker_is_alone_waits_for_calm_and_is_guilty_after_far_more_deaths() {
    let now = Instant::now();
    // Its crashes; whether it runs all alone, waits for calm, is run no more.
    let rows = [
        (here(1), [false, false, false]),
        (here(2), [true, true, false]),
        (here(3), [true, true, true]),
        (apart(1), [false, false, false]),
        (apart(10), [false, false, false]),
        (apart(11), [true, false, false]),
        (apart(18), [true, false, false]),
        (apart(19), [true, true, false]),
        (apart(20), [true, true, true]),
        (apart(u32::MAX), [true, true, true]),
    ];
    for (suspect, expected) in rows {
        let beside = [Accused { receipt: Receipt(1), suspect: apart(1), since: now }];
        let alone = may_start(suspect, &beside, now).is_none();
        let waits = next([suspect].into_iter(), &[], now + ms(10), now) == Some((0, now + ms(10)));
        assert_eq!([alone, waits, suspect.is_guilty()], expected, "{suspect:?}");
    }
    let line = [here(2), apart(2)];
    assert_eq!(next(line.into_iter(), &[], now + ms(10), now), Some((1, now)), "nobody is held up by who waits for calm");
}

#[test]
fn after_one_of_them_the_next_waits_for_longer_than_it_ran() {
    let since = Instant::now();
    for (crashes, ran, rest) in [(1, 10, None), (2, 10, Some(90)), (2, 1000, Some(9000)), (2, 60_000, Some(10_000))] {
        let now = since + ms(ran);
        let ended = Accused { receipt: Receipt(1), suspect: here(crashes), since };
        assert_eq!(rested(&ended, now), rest.map(|rest| now + ms(rest)), "{crashes} crashes, {ran} ms");
    }
}

#[test]
fn a_suspect_is_accused_when_its_lane_lets_it_begin_and_holds_up_nobody_of_another() {
    const LONG: LaneKind = LaneKind::Blocking;
    const SHORT: LaneKind = LaneKind::Async;
    let now = Instant::now();
    let lanes = |long, short| {
        let (mut slots, mut tasks) = ([0; 4], [0; 4]);
        (slots[LONG as usize], slots[SHORT as usize]) = (2, 4);
        (tasks[LONG as usize], tasks[SHORT as usize]) = (long, short);
        LaneUse { slots, tasks }
    };
    // The line; tasks of both lanes; when it is calm; who starts, and when; the lane that is
    // reserved.
    type Row = (&'static [(u32, LaneKind)], [usize; 2], u64, Option<(usize, u64)>, Option<LaneKind>);
    let rows: &[Row] = &[
        (&[], [2, 4], 0, None, None),
        (&[(1, LONG)], [1, 9], 0, Some((0, 0)), None),
        (&[(1, LONG)], [2, 0], 0, None, Some(LONG)),
        (&[(1, LONG), (1, LONG)], [3, 0], 0, None, Some(LONG)),
        (&[(1, LONG), (2, SHORT)], [2, 3], 0, Some((1, 0)), Some(LONG)),
        (&[(1, LONG), (2, SHORT)], [2, 3], 10, Some((1, 10)), Some(LONG)),
        (&[(1, LONG), (1, SHORT)], [2, 4], 0, None, Some(LONG)),
        // Nothing is reserved before its time has come.
        (&[(2, LONG)], [2, 0], 10, Some((0, 10)), None),
        (&[(2, LONG), (1, SHORT)], [2, 0], 10, Some((1, 0)), None),
    ];
    for &(line, [long, short], calm, starts, reserved) in rows {
        let expected = SuspectTurn { starts: starts.map(|(place, at)| (place, now + ms(at))), reserved };
        let suspects: Vec<_> = line.iter().map(|&(crashes, lane)| (here(crashes), lane)).collect();
        assert_eq!(turn(&suspects, &lanes(long, short), &[], now + ms(calm), now), expected, "{line:?}, {long} and {short} tasks");
    }
    // A lane that has no slots at all has one.
    let none = LaneUse { slots: [0; 4], tasks: [0; 4] };
    assert_eq!(turn(&[(here(1), LONG)], &none, &[], now, now).starts, Some((0, now)));
}

#[test]
fn whom_the_next_death_would_bury_starts_a_second_after_the_last_that_stood_in_line_or_after_eleven() {
    let now = Instant::now();
    let lanes = |tasks| LaneUse { slots: [1; 4], tasks: [tasks; 4] };
    // When it is looked at, tasks of each lane with its one slot; until when it waits.
    let ended: &[(u64, usize, Option<u64>)] =
        &[(0, 2, Some(1000)), (700, 2, Some(1700)), (900, 1, Some(1900)), (1899, 1, Some(1900)), (1900, 1, None)];
    let stays: &[(u64, usize, Option<u64>)] = &[(0, 2, Some(1000)), (9999, 2, Some(10_999)), (10_500, 2, Some(11_500)), (11_500, 2, None)];
    for (rows, crashes) in [(ended, 2), (stays, 2)] {
        let (mut quiet, mut fresh) = (QuietWait::default(), None);
        for &(at, tasks, until) in rows {
            let found = quiet.until(here(crashes), &lanes(tasks), &mut fresh, now + ms(at));
            assert_eq!(found, until.map(|until| now + ms(until)), "at {at} ms, of {rows:?}");
        }
    }
    let mut fresh = Some(now);
    assert_eq!(QuietWait::default().until(here(1), &lanes(2), &mut fresh, now), None, "others are not waited for");
    assert_eq!(fresh, Some(now));
}

/// A message of the model: how long it runs, and when it kills its worker, if it does.
struct Message {
    takes: u64,
    kills: Option<u64>,
    /// It runs in a child of its own.
    apart: bool,
    crashes: u32,
}

impl Message {
    fn suspect(&self) -> Suspect {
        Suspect { crashes: self.crashes, apart: self.apart }
    }
}

struct Worker {
    born: Instant,
    /// What it runs, and since when.
    runs: Vec<(usize, Instant)>,
    /// What waits for a slot.
    parked: VecDeque<usize>,
    suspects: VecDeque<usize>,
    accused: Vec<Accused>,
    calm: Instant,
    /// When the last one started that nobody suspects.
    fresh: Option<Instant>,
}

/// A queue and workers, a millisecond at a time. What a worker held comes back a moment after its
/// death; a new worker is there soon.
struct Model {
    now: Instant,
    messages: Vec<Message>,
    queue: VecDeque<usize>,
    workers: Vec<Worker>,
    /// Back then, at the front.
    coming: VecDeque<(Instant, Vec<usize>)>,
    buried: Vec<usize>,
    done: usize,
    deaths: u32,
    /// Whether it has to be calm for whom the next death would bury.
    calm: bool,
    /// True if nobody starts beside it whom nobody suspects.
    alone: bool,
    /// True if what is sent runs apart from its worker.
    apart: bool,
}

const SLOTS: usize = 4;
const PARKED: usize = 100;
const BACK: u64 = 200;
const NEW: u64 = 200;

impl Model {
    fn new(workers: usize, calm: bool) -> Self {
        let now = Instant::now();
        let mut model = Self {
            now,
            messages: Vec::new(),
            queue: VecDeque::new(),
            workers: Vec::new(),
            coming: VecDeque::new(),
            buried: Vec::new(),
            done: 0,
            deaths: 0,
            calm,
            alone: true,
            apart: false,
        };
        for _ in 0..workers {
            model.start_worker(0);
        }
        model
    }

    fn start_worker(&mut self, after: u64) {
        let born = self.now + ms(after);
        let (runs, parked, suspects, accused) = Default::default();
        let calm = if self.calm { calm(born) } else { born };
        self.workers.push(Worker { born, runs, parked, suspects, accused, calm, fresh: None });
    }

    fn send(&mut self, count: usize, takes: u64, kills: Option<u64>) {
        for _ in 0..count {
            self.queue.push_back(self.messages.len());
            self.messages.push(Message { takes, kills, apart: self.apart, crashes: 0 });
        }
    }

    fn kill(&mut self, place: usize) {
        let worker = self.workers.remove(place);
        self.deaths += 1;
        let mut back: Vec<usize> = worker.runs.iter().map(|(message, _)| *message).chain(worker.suspects).chain(worker.parked).collect();
        back.sort_unstable();
        for &message in &back {
            let accused = worker.accused.iter().any(|accused| accused.receipt.0 == message as u64);
            let crashes = &mut self.messages[message].crashes;
            *crashes = after_crash(*crashes, accused, false);
        }
        self.coming.push_back((self.now + ms(BACK), back));
        self.start_worker(NEW);
    }

    fn step(&mut self) {
        self.now += ms(1);
        while self.coming.front().is_some_and(|(at, _)| *at <= self.now) {
            for message in self.coming.pop_front().into_iter().flat_map(|(_, back)| back).rev() {
                self.queue.push_front(message);
            }
        }
        let mut killed = None;
        for (place, worker) in self.workers.iter_mut().enumerate().filter(|(_, worker)| worker.born <= self.now) {
            let now = self.now;
            let ran = |since: Instant| now.duration_since(since).as_millis() as u64;
            let messages = &mut self.messages;
            if worker.runs.iter().any(|&(message, since)| messages[message].kills.is_some_and(|after| ran(since) >= after)) {
                killed = Some(place);
                continue;
            }
            let before = worker.runs.len();
            worker.runs.retain(|&(message, since)| ran(since) < messages[message].takes);
            self.done += before - worker.runs.len();
            let held: Vec<usize> = worker.runs.iter().map(|(message, _)| *message).chain(worker.parked.iter().copied()).collect();
            let (stay, ended): (Vec<_>, Vec<_>) = worker.accused.iter().partition(|accused| held.contains(&(accused.receipt.0 as usize)));
            worker.accused = stay;
            if self.calm
                && let Some(rested) = ended.iter().filter_map(|ended| rested(ended, now)).max()
            {
                worker.calm = worker.calm.max(rested);
            }
            while worker.parked.len() + worker.suspects.len() < PARKED
                && let Some(message) = self.queue.pop_front()
            {
                match messages[message].suspect() {
                    Suspect { crashes: 0, .. } => worker.parked.push_back(message),
                    suspect if suspect.is_guilty() => self.buried.push(message),
                    _ => worker.suspects.push_back(message),
                }
            }
            let line = worker.suspects.iter().map(|message| messages[*message].suspect());
            let mut kept_back = keeps_back(&worker.accused);
            if let Some((place, _)) = next(line, &worker.accused, worker.calm, now).filter(|(_, at)| *at <= now) {
                let message = worker.suspects[place];
                let waits = tried(messages[message].suspect(), worker.fresh).filter(|at| self.alone && *at > now);
                kept_back = kept_back.max(waits);
                if waits.is_none() {
                    worker.suspects.remove(place);
                    worker.accused.push(Accused { receipt: Receipt(message as u64), suspect: messages[message].suspect(), since: now });
                    kept_back = keeps_back(&worker.accused);
                    worker.parked.push_front(message);
                }
            }
            let kept_back = kept_back.is_some_and(|until| self.alone && now < until);
            while worker.runs.len() < SLOTS
                && let Some(message) = worker.parked.pop_front_if(|message| messages[*message].crashes > 0 || !kept_back)
            {
                if messages[message].crashes == 0 {
                    worker.fresh = Some(now);
                }
                worker.runs.push((message, now));
            }
        }
        if let Some(place) = killed {
            self.kill(place);
        }
    }

    fn run(&mut self, millis: u64) {
        (0..millis).for_each(|_| self.step());
    }

    fn finish(&mut self) {
        for _ in 0..6_000_000 {
            if self.done + self.buried.len() == self.messages.len() {
                return;
            }
            self.step();
        }
        panic!("{} of {} are done, {} buried", self.done, self.messages.len(), self.buried.len());
    }
}

/// Two workers, of which one is killed every 50 to `pause` ms: how many innocents were buried.
fn storm(calm: bool, takes: u64, pause: u64) -> usize {
    let mut draw = fastrand::Rng::with_seed(7);
    let mut model = Model::new(2, calm);
    for _ in 0..200 {
        model.send((pause * 2 / takes).clamp(4, 120) as usize, takes, None);
        model.run(draw.u64(50..=pause));
        model.kill(0);
    }
    model.finish();
    model.buried.len()
}

#[test]
fn a_storm_of_kills_from_outside_buries_nobody() {
    // It would, if nobody waited until it is over.
    assert!(storm(false, 10, 150) > 5 && storm(false, 300, 400) > 20);
    for (takes, pause) in [(10, 150), (10, 400), (300, 400), (300, 4000)] {
        assert_eq!(storm(true, takes, pause), 0, "{takes} ms each, a kill every 50 to {pause} ms");
    }
}

#[test]
fn what_runs_apart_outlives_kills_that_meet_it_again_and_again() {
    let buried = |apart| {
        let mut model = Model { apart, ..Model::new(1, true) };
        model.send(1, 20_000, None);
        for _ in 0..10 {
            model.run(13_000);
            model.kill(0);
        }
        model.finish();
        model.buried.len()
    };
    assert_eq!((buried(false), buried(true)), (1, 0), "calm alone saves nobody from ten kills");
}

#[test]
fn poison_that_runs_apart_is_buried_after_twenty_crashes_and_its_neighbours_are_spared() {
    for (workers, neighbours_apart) in [(1, true), (2, false)] {
        for (kills, takes) in [(0, 20), (300, 2000), (3000, 20)] {
            let mut model = Model { apart: neighbours_apart, ..Model::new(workers, true) };
            model.send(50, takes, None);
            model.apart = true;
            model.send(1, kills + 1000, Some(kills));
            model.apart = neighbours_apart;
            model.send(50, takes, None);
            model.finish();
            let case = format!("{workers} workers, it kills after {kills} ms, beside others of {takes} ms, apart: {neighbours_apart}");
            assert_eq!(model.buried, [50], "{case}");
            assert_eq!(model.deaths, MOST_CRASHES_APART, "{case}");
        }
    }
}

#[test]
fn poison_is_buried_after_three_crashes_whenever_it_kills_and_its_neighbours_are_spared() {
    for workers in [1, 2] {
        for kills in [0, 300, 3000, 30_000] {
            let mut model = Model::new(workers, true);
            model.send(50, 20, None);
            model.send(1, kills + 1000, Some(kills));
            model.send(50, 20, None);
            model.finish();
            assert_eq!(model.buried, [50], "{workers} workers, it kills after {kills} ms");
            assert_eq!(model.deaths, 3, "{workers} workers, it kills after {kills} ms");
        }
    }
}

/// Poison comes again and again, to workers that run long innocents: how many of these are buried.
fn beside_fresh_poison(alone: bool, takes: u64, pause: u64) -> usize {
    let mut draw = fastrand::Rng::with_seed(7);
    let mut model = Model { alone, ..Model::new(2, true) };
    let mut poison = Vec::new();
    for _ in 0..20 {
        model.send(1, takes, None);
        model.run(draw.u64(1..=pause));
        poison.push(model.messages.len());
        model.send(1, 1000, Some(0));
        model.run(draw.u64(1..=pause));
    }
    model.finish();
    assert!(poison.iter().all(|message| model.buried.contains(message)), "all poison is buried");
    model.buried.len() - poison.len()
}

#[test]
fn who_runs_alone_is_not_buried_for_poison_that_comes_meanwhile() {
    // It would, if others could start beside it.
    assert!(beside_fresh_poison(false, 8000, 20_000) > 0);
    assert_eq!(beside_fresh_poison(true, 8000, 20_000), 0);
}

#[test]
fn nobody_starts_beside_whom_the_next_death_would_bury_for_ten_seconds() {
    let now = Instant::now();
    for (crashes, kept_back) in [(1, None), (2, Some(10_000))] {
        let running = [Accused { receipt: Receipt(1), suspect: here(crashes), since: now }];
        assert_eq!(keeps_back(&running), kept_back.map(|after| now + ms(after)), "{crashes} crashes");
        assert_eq!(tried(here(crashes), Some(now)), kept_back.map(|_| now + TRIED), "{crashes} crashes");
        assert_eq!(tried(here(crashes), None), None, "{crashes} crashes");
    }
}
