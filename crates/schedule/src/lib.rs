//! When a periodic task is due: a pure function of its last due time and now.
//!
//! Layout:
//! - `spec.rs`: what a schedule says, and the next due time
//! - `zone.rs`: from times of a calendar to instants; `cron.rs`: the five fields

mod cron;
mod spec;
mod zone;

pub use spec::{LATE, MissedPolicy, NextDue, ScheduleSpec, Timing};
