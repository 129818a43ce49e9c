use std::{cell::Cell, time::Duration};

use super::*;
use crate::decide::{Item, Kind, Overhead, decide};

fn waits(millis: u64, share: f64) -> Measured {
    let wall = Duration::from_millis(millis);
    let item = Item { wall, cpu: wall.mul_f64(share), queued: Duration::ZERO, spread: 0.0, voluntary: 1.0, forced: 0.0, timed: 1 };
    Measured {
        kind: Kind::Plain,
        cores: 2,
        count: None,
        most: 64,
        payload: 0,
        item,
        memory: None,
        overheads: Vec::new(),
        sequential: Vec::new(),
        runs: Vec::new(),
        others: 0.0,
    }
}

/// Climbs over a service that does `limit` items a second, in make-believe time. The levels that
/// were measured on the blocking lane.
fn climb(measured: &mut Measured, sample: usize, limit: f64) -> Vec<usize> {
    let (item, cores) = (measured.item.clone(), measured.cores as f64);
    let until = Instant::now() + Duration::from_secs(3600);
    Ladder { now: &Instant::now, sample, until }
        .climb(measured, &mut |_, workers, _, items| {
            let rate = (workers as f64 / item.alone()).min(limit).min(cores / item.cpu.as_secs_f64().max(1e-9));
            Ok(Ran {
                wall: Duration::from_secs_f64(items as f64 / rate),
                p99: Duration::from_secs_f64((workers as f64 / rate).max(item.alone())),
            })
        })
        .unwrap();
    measured.runs.iter().filter(|run| run.lane == LaneKind::Blocking).map(|run| run.workers).collect()
}

#[test]
fn the_climb_ends_one_or_two_steps_behind_the_knee() {
    for (limit, want) in [(400.0, vec![1, 2, 4, 8]), (1_000.0, vec![1, 2, 4, 8, 16, 32]), (1e9, vec![1, 2, 4, 8, 16, 32, 64])] {
        let got = climb(&mut waits(10, 0.0), 1_000, limit);
        assert_eq!(got, want, "{limit}");
    }
}

#[test]
fn no_more_run_at_once_than_the_sample_has_items() {
    assert_eq!(climb(&mut waits(10, 0.0), 12, 1e9), [1, 2, 4, 8, 12]);
    let mut few = waits(10, 0.0);
    few.count = Some(5);
    assert_eq!(climb(&mut few, 100, 1e9), [1, 2, 4, 5]);
    let mut one = waits(10, 0.0);
    one.count = Some(1);
    assert_eq!(climb(&mut one, 100, 1e9), [0; 0]);
}

#[test]
fn where_time_is_short_the_numbers_that_matter_are_measured() {
    for (share, left, want) in [(0.0, 3.0, vec![64, 32]), (0.5, 3.0, vec![8]), (0.0, 0.5, vec![])] {
        let measured = waits(1_000, share);
        let climb = Climb::new(&measured, LaneKind::Blocking, 64, left);
        assert_eq!(climb.that_fit(&levels(&measured, LaneKind::Blocking, 64)), want, "{share} {left}");
    }
}

#[test]
fn the_lanes_and_one_after_another_take_turns() {
    let mut measured = waits(1, 0.75);
    let mut turns = Vec::new();
    let ladder = Ladder { now: &Instant::now, sample: 2, until: Instant::now() + Duration::from_secs(60) };
    ladder
        .climb(&mut measured, &mut |place, workers, _, items| {
            turns.push(format!("{place} {workers}"));
            Ok(Ran { wall: Duration::from_millis(items as u64), p99: Duration::from_millis(1) })
        })
        .unwrap();
    let round = ["sequential 1", "cpu 1", "cpu 2", "cpu 4", "blocking 1", "blocking 2"];
    assert_eq!(turns, round.repeat(ROUNDS));
    assert_eq!((measured.sequential.len(), measured.runs.len()), (ROUNDS, 5));
}

/// A made-up machine with two cores, on which runs take what arithmetic says, give or take a few
/// per cent.
struct Machine {
    item: Item,
    overheads: Vec<Overhead>,
    now: Cell<Instant>,
    noise: Cell<u64>,
}

impl Machine {
    fn new(wall: Duration, share: f64, seed: u64) -> Self {
        let overhead = |lane, each| Overhead { lane, start: Duration::from_micros(300), each: Duration::from_nanos(each) };
        Self {
            item: Item { wall, cpu: wall.mul_f64(share), queued: Duration::ZERO, spread: 0.05, voluntary: 1.0, forced: 0.0, timed: 20 },
            overheads: vec![overhead(LaneKind::Cpu, 600), overhead(LaneKind::Blocking, 6_000)],
            now: Cell::new(Instant::now()),
            noise: Cell::new(seed),
        }
    }

    /// What so many items take, in seconds.
    fn takes(&self, place: Place, workers: usize, chunk: usize, items: u64) -> f64 {
        let (wall, cpu, cores) = (self.item.alone(), self.item.cpu.as_secs_f64(), 2.0);
        let Place::Lane(lane) = place else { return items as f64 * wall };
        let workers = workers.min(items.div_ceil(chunk as u64) as usize);
        let own = self.overheads.iter().find(|overhead| overhead.lane == lane).map_or(0.0, |overhead| overhead.each.as_secs_f64());
        // A lane's own cost is on the cores too, whoever pays it.
        let by_workers = workers as f64 / (wall + own / chunk as f64);
        let by_cores = 1.0 / (cpu / cores + own / chunk as f64).max(1e-12);
        // Near the point where both limit, neither is reached.
        let rate = 1.0 / (by_workers.powi(-4) + by_cores.powi(-4)).powf(0.25);
        let waves = items.div_ceil(chunk as u64).div_ceil(workers as u64) as f64 * chunk.min(items as usize) as f64 * wall;
        (items as f64 / rate).max(if waves < 8.0 * wall { waves } else { 0.0 })
    }

    fn noise(&self) -> f64 {
        let next = self.noise.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.noise.set(next);
        0.96 + 0.08 * ((next >> 33) as f64 / f64::from(1_u32 << 31))
    }

    /// Measures, and advises.
    fn advise(&self, count: u64, budget: Duration) -> crate::Advice {
        let began = self.now.get();
        self.now.set(began + self.item.wall.max(budget / 10));
        let mut measured = Measured { overheads: self.overheads.clone(), item: self.item.clone(), count: Some(count), ..waits(1, 0.0) };
        let now = || self.now.get();
        let ladder = Ladder { now: &now, sample: count.min(1024) as usize, until: began + budget };
        ladder
            .climb(&mut measured, &mut |place, workers, chunk, items| {
                let wall = Duration::from_secs_f64(self.takes(place, workers, chunk, items as u64) * self.noise());
                self.now.set(self.now.get() + wall);
                Ok(Ran { wall, p99: self.item.wall.max(wall.mul_f64((workers * chunk) as f64 / items as f64)) })
            })
            .unwrap();
        decide(&measured)
    }
}

#[test]
fn on_a_made_up_machine_the_advice_is_near_the_best_in_every_cell_of_the_grid() {
    let (mut cells, mut far) = (0, Vec::new());
    for decade in 0..7 {
        let wall = Duration::from_micros(10_u64.pow(decade));
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            for seed in 0..5 {
                let machine = Machine::new(wall, share, seed);
                let rate = (64.0 / wall.as_secs_f64()).min(2.0 / (share * wall.as_secs_f64()).max(1e-9)).min(1e6);
                let count = (rate * (4.0 * wall.as_secs_f64()).clamp(0.25, 1.0)).round().max(2.0) as u64;
                let budget = Duration::from_secs(if decade == 6 { 6 } else { 2 });
                let advice = machine.advise(count, budget);
                let took = machine.takes(advice.place, advice.workers, advice.chunk, count);
                let (cpu, blocking) = (Place::Lane(LaneKind::Cpu), Place::Lane(LaneKind::Blocking));
                let set = [(Place::Sequential, 1), (cpu, 2)].into_iter().chain([1, 2, 4, 8, 16, 32, 64].map(|workers| (blocking, workers)));
                let (best, ways) = set
                    .map(|(place, workers)| (machine.takes(place, workers, 1, count), (place, workers)))
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap();
                cells += 1;
                if took > 1.15 * best {
                    far.push(format!("{wall:?} {share} ×{count}: {} {} {took:.3} s, {ways:?} {best:.3} s", advice.place, advice.workers));
                }
                assert!(machine.now.get().duration_since(Instant::now()) < budget + 3 * wall, "{wall:?} {share}: over the budget");
            }
        }
    }
    assert!(far.len() * 20 <= cells, "{} of {cells}:\n{}", far.len(), far.join("\n"));
}
