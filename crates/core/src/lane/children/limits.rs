//! Decides, without effects, how far children may go, and when they are replaced.

use std::time::Duration;

/// Limits of a child that serves many tasks, and reasons to replace it. Nothing is limited by
/// default, but for the time that it has to start and to end.
///
/// ```
/// use longshore_core::ChildLimits;
///
/// let limits = ChildLimits::default().memory(256 << 20).max_tasks(10_000);
/// assert_eq!((limits.max_age, limits.at_once), (None, None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildLimits {
    /// The most memory that a child may hold, in bytes (resident, shared pages of the program
    /// included; what the child itself starts is not counted). It is looked at every 20 ms while a
    /// task runs: a child that holds more is killed, and its task has failed with kind `memory`.
    /// What it can take within 20 ms comes on top. Between tasks, a child that holds more than half
    /// is replaced, so that no task pays for what others leaked.
    pub memory: Option<u64>,
    /// A child is replaced after this many tasks.
    pub max_tasks: Option<u32>,
    /// A child is replaced, between tasks, when it is older than this.
    pub max_age: Option<Duration>,
    /// A child is replaced, between tasks, when it holds more than this many bytes. Half of
    /// `memory` if that is less or this is absent.
    pub max_size: Option<u64>,
    /// A child that had nothing to do for this long is ended; the next task starts another.
    pub max_idle: Option<Duration>,
    /// Number of tasks that a child is given at once, 1 to 512. A function's child does them one
    /// after the other; by default it gets as many as make up 200 µs of measured work, so one if
    /// they take longer. While it works on a batch that takes less than a millisecond, it has the
    /// next one already. A child that is talked to in frames or lines gets one by default.
    pub at_once: Option<u32>,
    /// The time that a child has until it is ready; 20 s by default.
    pub start_up: Option<Duration>,
    /// The time between a child's being asked to end and its being killed; by default it is that of
    /// the kind of child: nothing for functions, 10 s for others.
    pub kill_after: Option<Duration>,
    /// The time that a child has for its own end after its input has ended; 200 ms for functions
    /// and 5 s for others by default.
    pub farewell: Option<Duration>,
}

/// Makes a builder's method of each field.
macro_rules! setters {
    ($($field:ident: $type:ty),* $(,)?) => {
        impl ChildLimits {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = Some($field);
                    self
                }
            )*
        }
    };
}

setters! {
    memory: u64,
    max_tasks: u32,
    max_age: Duration,
    max_size: u64,
    max_idle: Duration,
    at_once: u32,
    start_up: Duration,
    kill_after: Duration,
    farewell: Duration,
}

/// The state of a child that has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wear {
    /// Number of tasks that it has been given.
    pub(crate) tasks: u32,
    pub(crate) age: Duration,
    /// The memory that it held when it was looked at last, in bytes.
    pub(crate) resident: u64,
}

impl ChildLimits {
    /// Returns the memory beyond which a child is replaced between tasks.
    pub(crate) fn worn_size(&self) -> Option<u64> {
        [self.max_size, self.memory.map(|memory| memory / 2)].into_iter().flatten().min()
    }

    /// Returns whether a child that has nothing to do is to be replaced.
    pub(crate) fn is_worn(&self, wear: Wear) -> bool {
        self.max_tasks.is_some_and(|most| wear.tasks >= most)
            || self.max_age.is_some_and(|most| wear.age > most)
            || self.worn_size().is_some_and(|most| wear.resident > most)
    }

    /// Returns how many more tasks a child may have that has had so many; never nothing, because a
    /// child that has had its last is replaced before the next.
    pub(crate) fn rest(&self, given: u32, most: usize) -> usize {
        match self.max_tasks {
            Some(limit) if given < limit => most.min((limit - given) as usize),
            Some(limit) => most.min(limit as usize),
            None => most,
        }
        .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_child_is_replaced_after_its_tasks_its_age_or_its_size() {
        let none = ChildLimits::default();
        let tasks = none.clone().max_tasks(3);
        let age = none.clone().max_age(Duration::from_secs(9));
        let size = none.clone().max_size(100);
        let memory = none.clone().memory(100);
        let s = Duration::from_secs;
        for (limits, tasks, age, resident, worn) in [
            (&none, u32::MAX, Duration::MAX, u64::MAX, false),
            (&tasks, 2, s(0), 0, false),
            (&tasks, 3, s(0), 0, true),
            (&age, 1, s(9), 0, false),
            (&age, 1, s(10), 0, true),
            (&size, 1, s(0), 100, false),
            (&size, 1, s(0), 101, true),
            (&memory, 1, s(0), 50, false),
            (&memory, 1, s(0), 51, true),
        ] {
            assert_eq!(limits.is_worn(Wear { tasks, age, resident }), worn, "{limits:?} {tasks} {age:?} {resident}");
        }
    }

    proptest! {
        /// However tasks are handed out, no child gets more than its tasks, and each gets all of
        /// them.
        #[test]
        fn every_child_but_the_last_has_exactly_its_tasks(limit in 1_u32..20, batches in prop::collection::vec(1_usize..30, 1..60)) {
            let limits = ChildLimits::default().max_tasks(limit);
            let (mut given, mut children) = (0, Vec::new());
            for most in batches {
                if limits.is_worn(Wear { tasks: given, age: Duration::ZERO, resident: 0 }) {
                    children.push(std::mem::take(&mut given));
                }
                given += u32::try_from(limits.rest(given, most)).unwrap();
                prop_assert!(given <= limit);
            }
            prop_assert!(children.iter().all(|tasks| *tasks == limit));
        }
    }
}
