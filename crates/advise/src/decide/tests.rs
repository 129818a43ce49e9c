use super::*;

const MS: Duration = Duration::from_millis(1);

fn item(wall: Duration, share: f64) -> Item {
    Item { wall, cpu: wall.mul_f64(share), queued: Duration::ZERO, spread: 0.0, voluntary: 1.0, forced: 0.0, timed: 50 }
}

fn measured(wall: Duration, share: f64, count: impl Into<Option<u64>>, runs: Vec<Run>) -> Measured {
    let overhead = |lane, each| Overhead { lane, start: Duration::from_micros(300), each: Duration::from_nanos(each) };
    Measured {
        kind: Kind::Plain,
        cores: 2,
        count: count.into(),
        most: 64,
        payload: 8,
        item: item(wall, share),
        memory: None,
        overheads: vec![overhead(LaneKind::Cpu, 600), overhead(LaneKind::Blocking, 8_000), overhead(LaneKind::Async, 300)],
        sequential: Vec::new(),
        runs,
        others: 0.0,
    }
}

fn runs(lane: LaneKind, rates: &[(usize, f64)]) -> Vec<Run> {
    let run = |(workers, rate): &(usize, f64)| Run { lane, workers: *workers, chunk: 1, rates: vec![*rate; 3], p99: MS };
    rates.iter().map(run).collect()
}

#[test]
fn from_measurements_to_advice() {
    use LaneKind::{Blocking, Cpu};
    let us = Duration::from_micros;
    let both = |cpu: &[(usize, f64)], blocking: &[(usize, f64)]| [runs(Cpu, cpu), runs(Blocking, blocking)].concat();
    for (what, given, place, workers) in [
        (
            "nothing but waiting, no knee",
            measured(10 * MS, 0.0, 1_000, runs(Blocking, &[(1, 99.0), (2, 198.0), (4, 396.0), (8, 790.0)])),
            "blocking",
            8,
        ),
        ("a knee at 4", measured(10 * MS, 0.0, 1_000, runs(Blocking, &[(1, 99.0), (2, 198.0), (4, 396.0), (8, 400.0)])), "blocking", 4),
        ("computing", measured(10 * MS, 1.0, 1_000, runs(Cpu, &[(1, 99.0), (2, 196.0), (4, 196.0)])), "cpu", 2),
        (
            "computing, on a machine with one core",
            measured(10 * MS, 1.0, 1_000, runs(Cpu, &[(1, 99.0), (2, 99.0), (4, 98.0)])),
            "sequential",
            1,
        ),
        (
            "three quarters computing: more threads than cores",
            measured(10 * MS, 0.75, 1_000, both(&[(1, 99.0), (2, 195.0), (4, 240.0)], &[(2, 195.0), (4, 250.0), (8, 264.0)])),
            "blocking",
            8,
        ),
        ("equally fast: the cpu lane", measured(10 * MS, 0.94, None, both(&[(2, 196.0)], &[(2, 197.0), (4, 198.0)])), "cpu", 2),
        ("one item", measured(Duration::from_secs(9), 0.0, 1, vec![]), "sequential", 1),
        ("too little work for a start", measured(us(1), 1.0, 100, vec![]), "sequential", 1),
        ("tiny and many, nothing measured", measured(us(1), 1.0, 10_000_000, vec![]), "cpu", 2),
        ("tiny, and the lane was no faster", measured(us(1), 1.0, 10_000_000, runs(Cpu, &[(1, 6e5), (2, 1.05e6)])), "sequential", 1),
        (
            "five items, wave by wave",
            measured(100 * MS, 0.0, 5, runs(Blocking, &[(1, 10.0), (2, 17.0), (4, 25.0), (5, 50.0)])),
            "blocking",
            5,
        ),
        ("long, waits, nothing measured", measured(Duration::from_secs(60), 0.0, 1_000, vec![]), "blocking", 8),
        ("long, computes, nothing measured", measured(Duration::from_secs(60), 1.0, 1_000, vec![]), "cpu", 2),
    ] {
        let advice = decide(&given);
        assert_eq!((advice.place.as_str(), advice.workers), (place, workers), "{what}: {advice:#?}");
        let SpeedUp { low, likely, high } = advice.speed_up;
        assert!(low <= likely && likely <= high, "{what}: {:?}", advice.speed_up);
        assert!(advice.reasons.len() >= 2 || given.count == Some(1), "{what}");
        assert_eq!(advice.predicted.is_some(), given.count.is_some());
    }
}

#[test]
fn waiting_for_a_cpu_that_others_have_is_no_waiting() {
    let mut busy = measured(10 * MS, 0.5, 1_000, runs(LaneKind::Cpu, &[(1, 200.0), (2, 400.0)]));
    busy.item.queued = 5 * MS;
    let advice = decide(&busy);
    assert_eq!((advice.bound, advice.place), (Bound::Cpu, Place::Lane(LaneKind::Cpu)));
    assert!(advice.reasons.iter().any(|reason| reason.contains("the machine was busy")), "{advice:?}");
    busy.item.queued = Duration::ZERO;
    assert_eq!(decide(&busy).bound, Bound::Mixed);
}

#[test]
fn memory_and_data_bound_workers_and_queue() {
    let mut large = measured(10 * MS, 0.0, 1_000, runs(LaneKind::Blocking, &[(1, 100.0), (2, 200.0), (4, 400.0), (8, 800.0)]));
    large.memory = Some(Memory { growth: 100 << 20, free: 1 << 30 });
    let advice = decide(&large);
    assert_eq!(advice.workers, 4, "five fit into half of what is free, and four of those were measured");
    large.memory = Some(Memory { growth: 1 << 30, free: 1 << 30 });
    assert_eq!(decide(&large).place, Place::Sequential);
    large.memory = None;
    assert_eq!((decide(&large).workers, decide(&large).queue_capacity), (8, 16));
    large.payload = 32 << 20;
    assert_eq!(decide(&large).queue_capacity, 2);
    large.payload = 1 << 40;
    assert_eq!(decide(&large).queue_capacity, 1);
}

#[test]
fn tiny_items_travel_in_chunks_whose_own_cost_is_small() {
    let advice = decide(&measured(Duration::from_micros(1), 1.0, 10_000_000, vec![]));
    assert_eq!(advice.chunk, 100, "{advice:?}");
    assert!((1.8..2.0).contains(&advice.speed_up.likely), "{advice:?}");
    for (given, want) in [(None, 1_000), (Some(8_000), 1_000), (Some(4_000), 500), (Some(3), 1)] {
        assert_eq!(chunk_for(Duration::from_nanos(100), Duration::from_micros(1), 2, given), want, "{given:?}");
    }
}

#[test]
fn an_async_function_stays_on_its_lane_and_is_told_where_it_belongs() {
    let mut given = measured(10 * MS, 1.0, 1_000, runs(LaneKind::Async, &[(1, 99.0), (2, 195.0), (4, 196.0)]));
    given.kind = Kind::Async;
    let advice = decide(&given);
    assert_eq!((advice.place, advice.workers), (Place::Lane(LaneKind::Async), 2));
    assert!(advice.reasons.iter().any(|reason| reason.contains("belongs on the cpu lane")), "{advice:?}");
}

#[test]
fn the_reasons_tell_what_was_measured() {
    let advice = decide(&measured(10 * MS, 0.01, None, runs(LaneKind::Blocking, &[(1, 99.0), (2, 198.0), (4, 396.0), (8, 400.0)])));
    assert_eq!(
        advice.reasons,
        [
            "an item takes 10ms, 100µs of it on a CPU, so it waits 99 % of the time: I/O-bound",
            "measured on the blocking lane: ×1.0 at 1, ×2.0 at 2, ×4.0 at 4, ×4.0 at 8",
            "while one waits, others can run: workers cost little",
            "knee measured at 4: 396/s at 4, 400/s at 8, p99 ×1.0",
        ]
    );
    let json = serde_json::to_value(&advice).unwrap();
    assert_eq!((json["place"].as_str(), json["workers"].as_u64(), json["bound"].as_str()), (Some("blocking"), Some(4), Some("io")));
}

#[test]
fn on_a_busy_machine_the_cpu_lane_is_reckoned_not_measured() {
    let mut busy = measured(10 * MS, 1.0, 1_000, runs(LaneKind::Cpu, &[(1, 40.0), (2, 45.0), (4, 44.0)]));
    busy.sequential = vec![50.0, 51.0, 52.0];
    assert_eq!(decide(&busy).place, Place::Sequential);
    busy.others = 0.6;
    let advice = decide(&busy);
    assert_eq!((advice.place, advice.workers), (Place::Lane(LaneKind::Cpu), 2), "{advice:?}");
    assert!(advice.reasons.iter().any(|reason| reason.contains("others had 60 % of its CPU time")), "{advice:?}");
}
