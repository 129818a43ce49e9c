//! Random pipelines against the same work done one after another.

use std::time::Duration;

use longshore_core::{LaneKind, OnError, Pipeline, Stage};
use proptest::prelude::*;

use super::{LANES, endings::adds_up, ends};

/// What a stage does with its items.
#[derive(Clone, Copy, Debug)]
enum Work {
    Same,
    /// Fails for multiples of this number.
    Fails(u32),
    /// Panics for multiples of this number.
    Panics(u32),
    /// Each item comes out so many times as its last digit in this base says.
    Several(u32),
    /// Groups of so many, handed on as their sum.
    Groups(u32),
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    work: Work,
    lane: LaneKind,
    workers: usize,
    queue: usize,
    yields: bool,
}

fn run(n: u32, work: Work) -> Result<Vec<u32>, String> {
    match work {
        Work::Fails(by) if n.is_multiple_of(by) => Err(format!("a multiple of {by}")),
        Work::Panics(by) if n.is_multiple_of(by) => std::panic::panic_any(()),
        Work::Several(base) => Ok(vec![n; (n % base) as usize]),
        _ => Ok(vec![n]),
    }
}

/// The same, one after another.
fn model(items: Vec<u32>, plan: Plan) -> Vec<u32> {
    match plan.work {
        Work::Groups(size) => items.chunks(size as usize).map(|group| group.iter().fold(0, |sum, n| sum ^ n)).collect(),
        Work::Fails(by) | Work::Panics(by) => items.into_iter().filter(|n| !n.is_multiple_of(by)).collect(),
        work => items.into_iter().flat_map(|n| run(n, work).unwrap_or_default()).collect(),
    }
}

fn add(pipeline: Pipeline<u32>, plan: Plan) -> Pipeline<u32> {
    let Plan { work, lane, workers, queue, yields } = plan;
    if let Work::Groups(size) = work {
        // The time never comes: groups are as in the model.
        let sum = Stage::blocking(|group: Vec<u32>| Ok::<_, String>(group.into_iter().fold(0, |sum, n| sum ^ n)));
        return pipeline.batch(size as usize, Duration::from_secs(3600)).stage(sum.queue(queue).workers(workers));
    }
    let stage: Stage<u32, Vec<u32>> = match lane {
        LaneKind::Async => Stage::new(move |n| async move {
            if yields {
                for _ in 0..n % 4 {
                    tokio::task::yield_now().await;
                }
            }
            run(n, work)
        }),
        lane => {
            let function = move |n: u32| {
                if yields && n.is_multiple_of(3) {
                    std::thread::yield_now();
                }
                run(n, work)
            };
            if lane == LaneKind::Blocking { Stage::blocking(function) } else { Stage::cpu(function) }
        }
    };
    pipeline.stage(stage.workers(workers).queue(queue).on_error(OnError::Skip).flatten())
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        3 => Just(Work::Same),
        1 => (2..7_u32).prop_map(Work::Fails),
        1 => (5..9_u32).prop_map(Work::Panics),
        1 => (2..5_u32).prop_map(Work::Several),
        1 => (1..6_u32).prop_map(Work::Groups),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    (work(), 0..3_usize, 1..5_usize, 1..9_usize, any::<bool>()).prop_map(|(work, lane, workers, queue, yields)| Plan {
        work,
        lane: LANES[lane],
        workers,
        queue,
        yields,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pipeline_gives_what_its_stages_give_one_after_another(
        plans in prop::collection::vec(plan(), 1..5),
        count in 0..300_u32,
        outputs in 1..9_usize,
    ) {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let want = plans.iter().fold((0..count).collect::<Vec<_>>(), |items, plan| model(items, *plan));
        let plan = plans.clone();
        let collected = ends(move || {
            plan.into_iter().fold(Pipeline::from_iter(0..count), add).output_queue(outputs).collect()
        });
        std::panic::set_hook(quiet);
        prop_assert_eq!(&collected.outputs, &want);
        if !plans.iter().any(|plan| matches!(plan.work, Work::Groups(_))) {
            adds_up(&collected.report);
        }
        for (stage, plan) in collected.report.stages.iter().skip(1).zip(&plans) {
            // A group comes before the stage that sums it.
            prop_assert!(stage.most <= plan.workers.max(1) || matches!(plan.work, Work::Groups(_)) || plans.iter().any(|plan| matches!(plan.work, Work::Groups(_))));
        }
    }
}
