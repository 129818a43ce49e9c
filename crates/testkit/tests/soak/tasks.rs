//! The tasks of a run, and what they do.

use std::{sync::Arc, time::Duration};

use longshore_celery::Value;
use longshore_core::{LaneKind, Rate};
use longshore_worker::{Acks, App, Failure, Handler, RateScope, Task, TaskContext, TaskPolicy};
use tokio::time::sleep;

use crate::{
    Sabotage,
    adapter::World,
    clock,
    ledger::Invariant,
    plan::{self, Kind, NAMES, Plan, RATE},
};

pub(crate) fn app(world: &Arc<World>, plan: &Arc<Plan>, node: usize) -> App {
    let lease = if world.cheats(Sabotage::LeaseByWall) { clock::lease_by_wall } else { clock::now };
    let app = App::new().told(None).environment(clock::environment(lease)).broker("model://broker");
    NAMES.into_iter().fold(app, |app, name| app.task(task(name, world, plan, node)))
}

fn task(name: &'static str, world: &Arc<World>, plan: &Arc<Plan>, node: usize) -> Task {
    let (world, plan) = (world.clone(), plan.clone());
    let handler = Handler::Async(Arc::new(move |context, _| Box::pin(behave(world.clone(), plan.clone(), node, context))));
    let lane = match name {
        "blocking" => LaneKind::Blocking,
        "cpu" => LaneKind::Cpu,
        "process" => LaneKind::Process,
        _ => LaneKind::Async,
    };
    let mut policy = TaskPolicy::default();
    match name {
        "early" => policy.acks = Some(Acks::Early),
        "rated" => policy.rate_limit = Some(Rate::per_second(RATE)),
        "shared" => (policy.rate_limit, policy.rate_scope) = (Some(Rate::per_second(RATE)), RateScope::Shared),
        _ => {}
    }
    Task { name: name.into(), lane, policy, handler }
}

/// What a task does.
async fn behave(world: Arc<World>, plan: Arc<Plan>, node: usize, context: TaskContext) -> Result<Value, Failure> {
    let id = context.id().to_owned();
    let Some(task) = plan::place(&id).and_then(|place| plan.tasks.get(place)) else { return Ok(Value::Null) };
    world.broker().start(node, &id, task.name == "early", plan.one_store);
    let wall = clock::wall();
    let latest = world.ledger(|ledger| ledger.nodes.entry(node).or_default().latest).map_or(wall, |latest| latest.max(wall));
    // Its time has come once, even where the clock was set back since.
    let early = context.message().eta.is_some_and(|eta| eta > latest);
    let late = context.message().expires.is_some_and(|expires| expires <= wall);
    if early || late {
        world.ledger(|ledger| {
            ledger.blame(Invariant::InTime, || format!("node {node} starts {id} too {}", if early { "early" } else { "late" }))
        });
    }
    let done = |value: &str| {
        world.ledger(|ledger| ledger.of(&id).done += 1);
        Ok(value.into())
    };
    match task.kind {
        Kind::Ok(ms) => {
            sleep(Duration::from_millis(ms)).await;
            done("ok")
        }
        Kind::Fails => Err(Failure::error("ValueError", "as planned")),
        Kind::Retries(times) if context.retries() < times => Err(context.retry_in(Duration::from_millis(300))),
        Kind::Retries(_) => done("at last"),
        Kind::Hangs => std::future::pending().await,
        Kind::Panics => std::panic::panic_any("planned"),
        Kind::Poison => {
            world.weather().killed.push(node);
            std::future::pending().await
        }
        Kind::ChildDies => Err(Failure::Crashed { reason: "as planned".to_owned() }),
        Kind::Refused => done("too large to be stored"),
        Kind::Unknown => done("it was known"),
    }
}
