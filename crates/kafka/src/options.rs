//! Choices that a consumer is given: order, start, and what becomes of what fails.

use std::time::SystemTime;

/// Which records wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// Those of one key, in one partition: one after the other, any number of keys at once. Records
    /// without a key wait for nobody.
    #[default]
    Key,
    /// Those of one partition.
    Partition,
    /// None.
    None,
}

/// Place where a group starts that has committed nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest record that is there: nothing is skipped unasked.
    #[default]
    Earliest,
    /// With records that are produced from now on.
    Latest,
    /// With the first record of this time or later.
    At(SystemTime),
}

/// Treatment of a record whose last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// It goes to the topic with the name of its own and this behind it.
    Suffix(String),
    /// It goes to this topic.
    Topic(String),
    /// It is skipped, and counted.
    Skip,
    /// The consumer stops; the record is not done, and comes again at the next start.
    Stop,
}

impl Default for DeadLetter {
    fn default() -> Self {
        DeadLetter::Suffix("-dlt".to_owned())
    }
}
