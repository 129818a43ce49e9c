//! What happens to a scheduler, told to whoever listens.

use std::{fmt, sync::Arc, time::SystemTime};

/// Something that happened to a scheduler. As text it is a sentence for people.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SchedulerEvent {
    /// It leads from now on: it sends what is due of so many schedules.
    Leads {
        /// Number of schedules that are not paused.
        schedules: usize,
    },
    /// Another one leads, and this one waits.
    Waits {
        /// The other.
        leader: String,
    },
    /// It has sent a task.
    Sent {
        /// The schedule.
        name: String,
        /// The task.
        task: String,
        /// The task's id.
        id: String,
        /// Due time.
        due: SystemTime,
    },
    /// Due times before this one were missed, and are left out as the schedule says.
    Skipped {
        /// The schedule.
        name: String,
        /// The due time that is sent next.
        due: SystemTime,
    },
    /// A task cannot be sent; its due time passes.
    NotSent {
        /// The schedule.
        name: String,
        /// Why.
        reason: String,
    },
    /// A queue takes nothing for now, while the broker answers: what is due there is tried again.
    /// Told once of a queue, and once of all that give the same reason.
    QueueHeld {
        /// The schedule whose task was to be sent.
        name: String,
        /// The queue.
        queue: String,
        /// Why.
        reason: String,
    },
    /// A queue that was told to take nothing takes tasks again.
    QueueBack {
        /// The queue.
        queue: String,
    },
    /// A schedule cannot be read, and is not run.
    Unreadable {
        /// The schedule.
        name: String,
        /// Why.
        reason: String,
    },
    /// A schedule was taken over from a program or a configuration, new or with what it says now.
    Kept {
        /// The schedule.
        name: String,
    },
    /// A schedule is in the store that came from a configuration, and not in this one.
    Left {
        /// The schedule.
        name: String,
    },
    /// The clock was set.
    ClockMoved {
        /// Seconds by which it went forward; back, if negative.
        seconds: i64,
    },
    /// The store or the broker cannot be reached, and is waited for.
    Away {
        /// Why.
        reason: String,
    },
    /// It answers again.
    Back,
    /// The store refuses the scheduler of a worker, or is gone: nothing is sent. It is tried again
    /// every thirty seconds.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Is told what happens to a scheduler. Must not block.
pub type SchedulerNotice = Arc<dyn Fn(&SchedulerEvent) + Send + Sync>;

impl SchedulerEvent {
    /// Returns whether it is told to people who asked for nothing: all but that a task was sent.
    #[must_use]
    pub fn is_notable(&self) -> bool {
        !matches!(self, SchedulerEvent::Sent { .. })
    }
}

impl fmt::Display for SchedulerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leads { schedules: 1 } => f.write_str("this scheduler leads: 1 schedule"),
            Self::Leads { schedules } => write!(f, "this scheduler leads: {schedules} schedules"),
            Self::Waits { leader } => write!(f, "the scheduler {leader} leads; this one waits, and takes over when it is gone"),
            Self::Sent { name, task, id, .. } => write!(f, "schedule {name}: sent {task}[{id}]"),
            Self::Skipped { name, .. } => {
                write!(f, "schedule {name}: due times were missed; those that it does not make up for are left out")
            }
            Self::NotSent { name, reason } => write!(f, "schedule {name}: its task was not sent: {reason}"),
            Self::QueueHeld { name, queue, reason } => {
                write!(f, "schedule {name}: its task waits: {reason}; what is due for the queue {queue} is tried again, the rest goes on")
            }
            Self::QueueBack { queue } => write!(f, "the queue {queue} takes scheduled tasks again"),
            Self::Unreadable { name, reason } => write!(f, "schedule {name} is not run: it cannot be read: {reason}"),
            Self::Kept { name } => write!(f, "schedule {name}: new, or changed"),
            Self::Left { name } => write!(
                f,
                "schedule {name} is in the store and not in this configuration; it is run all the same (longshore schedule remove {name})"
            ),
            Self::ClockMoved { seconds } if *seconds < 0 => {
                write!(f, "the clock went back by {} s: what was sent of that time is not sent again", -seconds)
            }
            Self::ClockMoved { seconds } => {
                write!(f, "the clock went forward by {seconds} s: each schedule says what becomes of times that were missed")
            }
            Self::Away { reason } => write!(f, "the scheduler waits: {reason}"),
            Self::Back => f.write_str("the scheduler goes on"),
            Self::Refused { reason } => {
                write!(f, "the scheduler of this worker sends nothing, and is tried again every 30 s: {reason}")
            }
        }
    }
}
