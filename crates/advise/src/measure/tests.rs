use super::*;
use crate::{Bound, Place};

/// Measures again, as the advice says, while others had most of the machine: ten times at most.
fn when_others_are_done(measure: impl Fn() -> Measurement) -> Measurement {
    let busy = |seen: &Measurement| seen.measured.others > 0.5;
    (1..10).map(|_| measure()).find(|seen| !busy(seen)).unwrap_or_else(&measure)
}

#[test]
fn waiting_is_told_from_computing() {
    let nap = || std::thread::sleep(Duration::from_millis(2));
    let nap = when_others_are_done(|| Measure::of(vec![(); 32]).budget(Duration::from_millis(500)).run(move |()| nap()).unwrap());
    assert_eq!((nap.advice.bound, nap.advice.place), (Bound::Io, Place::Lane(LaneKind::Blocking)), "{nap:?}");
    assert!(nap.advice.workers >= 4 && nap.measured.item.voluntary >= 0.9, "{nap:?}");

    let spin = || {
        let begin = longshore_sys::clock::thread_cpu_time();
        while longshore_sys::clock::thread_cpu_time() - begin < Duration::from_millis(1) {}
    };
    let computes = when_others_are_done(|| Measure::of(vec![(); 32]).budget(Duration::from_millis(300)).run(move |()| spin()).unwrap());
    // How many, tests with made-up measurements say: here other tests have the cores too.
    assert_eq!(computes.advice.bound, Bound::Cpu, "{computes:?}");
    assert!([Place::Sequential, Place::Lane(LaneKind::Cpu)].contains(&computes.advice.place), "{computes:?}");
}

#[test]
fn an_async_function_is_measured_on_its_lane() {
    let nap = |_| tokio::time::sleep(Duration::from_millis(5));
    let all = || Measure::of((0..64).collect::<Vec<u8>>()).budget(Duration::from_millis(600));
    let measured = when_others_are_done(|| all().run_async(nap).unwrap());
    assert_eq!(measured.advice.place, Place::Lane(LaneKind::Async), "{measured:?}");
    assert!(measured.advice.workers >= 4, "{measured:?}");
    assert!(measured.measured.runs.iter().all(|run| run.lane == LaneKind::Async && run.workers <= 64));
}

#[test]
fn what_cannot_be_measured_says_why() {
    let empty = Measure::of(Vec::<u8>::new()).run(|n| n);
    assert_eq!(empty.unwrap_err(), MeasureError::Empty);
    let panics = Measure::of(vec![1, 2, 3]).run(|n: u8| assert!(n < 3, "three is too many"));
    assert_eq!(panics.unwrap_err(), MeasureError::Panicked { item: 2, text: "three is too many".into() });
    let fails = Measure::of(vec![1_u8]).expect(Result::is_ok).run_async(|_| async { Err::<(), _>("no") });
    assert_eq!(fails.unwrap_err(), MeasureError::Unexpected { item: 0 });
}

#[test]
fn one_item_stays_sequential_and_its_size_is_told() {
    let one = Measure::of(vec![vec![0_u8; 1000]]).count(1).payload(|data| data.len() as u64).run(|data| data.len()).unwrap();
    assert_eq!((one.advice.place, one.advice.workers), (Place::Sequential, 1));
    assert_eq!(one.measured.payload, 1024);
    assert!(one.measured.runs.is_empty());
}

#[test]
fn memory_that_an_item_holds_is_seen() {
    let measured = Measure::of(vec![(); 4])
        .budget(Duration::from_millis(100))
        .run(|()| std::hint::black_box(vec![1_u8; 64 << 20]).len())
        .unwrap()
        .measured;
    if let Some(memory) = measured.memory {
        assert!(memory.growth >= 60 << 20, "{memory:?}");
    }
}
