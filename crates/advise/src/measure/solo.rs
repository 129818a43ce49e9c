//! Items one after another, on a thread of their own: what one of them takes when it has the
//! machine for itself.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use longshore_sys::clock::{thread_cpu_time, thread_queued_time, thread_usage};

use super::{
    memory,
    runs::{Ran, Work},
};
use crate::{
    MeasureError,
    decide::{Item, Memory},
};

/// Time that one turn should take: items so short that reading clocks would show are timed
/// together.
const TURN: Duration = Duration::from_micros(500);
/// Turns that are enough for quarters that mean something.
const TURNS: usize = 100;
/// Fewest turns with which it can be enough.
const FEW: usize = 5;

/// One turn.
struct Turn {
    items: u32,
    wall: Duration,
    cpu: Duration,
    queued: Duration,
}

/// Runs items of the sample alone, for about this long.
pub(super) fn solo(work: &Work, sample: usize, time: Duration) -> Result<(Item, Option<Memory>), MeasureError> {
    thread::scope(|scope| {
        let timed = thread::Builder::new().name("measure".into()).spawn_scoped(scope, || match work {
            Work::Plain(work) => timed(&|index| work(index), sample, time),
            Work::Async(work) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| MeasureError::System(format!("no runtime: {error}")))?;
                timed(&|index| runtime.block_on(async { work(index).await }), sample, time)
            }
        });
        let thread = timed.map_err(|error| MeasureError::System(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(MeasureError::System("the measuring thread panicked".into())))
    })
}

/// Runs items one after another, timed as a whole.
pub(super) fn sequential(work: &Work, items: usize) -> Result<Ran, MeasureError> {
    let all = |item: &dyn Fn(usize) -> bool| {
        let began = Instant::now();
        let unexpected = (0..items).find(|index| !item(*index));
        unexpected.map_or_else(|| Ok(began.elapsed()), |item| Err(MeasureError::Unexpected { item }))
    };
    let ran = match work {
        Work::Plain(work) => catch_unwind(AssertUnwindSafe(|| all(&|index| work(index)))),
        Work::Async(work) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| MeasureError::System(format!("no runtime: {error}")))?;
            // A thread of its own: this one may belong to a runtime, which would not have another
            // one block it.
            thread::scope(|scope| scope.spawn(|| all(&|index| runtime.block_on(async { work(index).await }))).join())
        }
    };
    let wall = ran.unwrap_or_else(|panic| Err(MeasureError::Panicked { item: 0, text: text(&*panic) }))?;
    Ok(Ran { wall, p99: Duration::ZERO })
}

fn timed(item: &dyn Fn(usize) -> bool, sample: usize, time: Duration) -> Result<(Item, Option<Memory>), MeasureError> {
    let mut next = 0;
    let mut turn = |items: u32| {
        let queued = thread_queued_time();
        let (cpu, began) = (thread_cpu_time(), Instant::now());
        for _ in 0..items {
            let index = next % sample;
            next += 1;
            match catch_unwind(AssertUnwindSafe(|| item(index))) {
                Ok(true) => {}
                Ok(false) => return Err(MeasureError::Unexpected { item: index }),
                Err(panic) => return Err(MeasureError::Panicked { item: index, text: text(&*panic) }),
            }
        }
        let wall = began.elapsed();
        let cpu = thread_cpu_time().saturating_sub(cpu);
        let queued = thread_queued_time().zip(queued).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before));
        Ok(Turn { items, wall, cpu, queued })
    };
    let began = Instant::now();
    let peak = memory::Peak::begin();
    let switches = thread_usage().ok();
    // The first item is slower than all others (caches, connections), and counts only if there is
    // no time for another.
    let first = turn(1)?;
    let growth = peak.map(memory::Peak::end);
    let mut turns = Vec::new();
    let mut items = 1;
    // Every item of the sample once, if there is time: they may differ.
    while began.elapsed() + first.wall.min(time) < time
        && (turns.len() < TURNS || turns.iter().map(|turn: &Turn| turn.items as usize).sum::<usize>() < sample)
    {
        let last = turn(items)?;
        // What ran while turns were still growing is no match for those that came after.
        if last.wall < TURN / 2 && items < 1 << 20 {
            items *= 2;
            turns.clear();
        }
        turns.push(last);
        if began.elapsed() > time / 2 && turns.len() >= FEW {
            break;
        }
    }
    let all = next as f64;
    let count = |which: fn(&longshore_sys::Usage) -> u64| {
        let (before, after) = (switches.as_ref().map_or(0, which), thread_usage().as_ref().map_or(0, which));
        after.saturating_sub(before) as f64 / all
    };
    let (voluntary, forced) = (count(|usage| usage.voluntary_switches), count(|usage| usage.forced_switches));
    if turns.is_empty() {
        turns.push(first);
    }
    let timed: u32 = turns.iter().map(|turn| turn.items).sum();
    let mean = |of: fn(&Turn) -> Duration| turns.iter().map(of).sum::<Duration>().div_f64(f64::from(timed));
    let (wall, cpu) = (mean(|turn| turn.wall), mean(|turn| turn.cpu));
    // What never gave up the CPU never waited: it was kept from it.
    let kept = switches.is_some() && voluntary == 0.0;
    let queued = if kept { wall.saturating_sub(cpu) } else { mean(|turn| turn.queued).min(wall) };
    let item = Item { wall, cpu, queued, spread: spread(&turns), voluntary, forced, timed: u64::from(timed) };
    let memory = growth.zip(memory::free()).map(|(growth, free)| Memory { growth, free });
    Ok((item, memory))
}

/// Half the distance of the outer quarters of the wall times, as a share of their median.
fn spread(turns: &[Turn]) -> f64 {
    let mut each: Vec<f64> = turns.iter().map(|turn| turn.wall.as_secs_f64() / f64::from(turn.items)).collect();
    each.sort_by(f64::total_cmp);
    let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize];
    if at(0.5) > 0.0 { (at(0.75) - at(0.25)) / 2.0 / at(0.5) } else { 0.0 }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic that is not text".into())
}
