//! Queues that hold no tasks, because longshore keeps its own data in them.

use lapin::types::{AMQPValue, FieldTable};

use super::{dead, url::QueueKind};

/// Queue whose one message says all of the schedules.
pub(super) const SCHEDULES: &str = "longshore.schedules";
/// Queue in which schedulers stand in line: the first one leads.
pub(super) const SCHEDULER: &str = "longshore.scheduler";
/// Most tokens that wait for a scheduler. One would do.
const TOKENS: i32 = 10;
/// Times that a quorum queue gives out one message. A server of 4.0 and later throws it away after
/// 20 unless it is told, and each look is one.
const LOOKS: i32 = 1_000_000_000;

/// Returns whether a name is that of a queue of ours.
pub(super) fn is_own(queue: &str) -> bool {
    dead::is_dead(queue) || is_of_schedules(queue)
}

fn is_of_schedules(queue: &str) -> bool {
    [SCHEDULES, SCHEDULER].contains(&queue)
}

/// Returns the arguments of a queue of ours, where others are of this kind.
pub(super) fn arguments(queue: &str, kind: QueueKind) -> FieldTable {
    if !is_of_schedules(queue) {
        return dead::arguments();
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    if kind == QueueKind::Quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(LOOKS));
    }
    if queue == SCHEDULER {
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(TOKENS));
    }
    arguments
}
