//! Whole workers on a real RabbitMQ: messages that no client of Celery's sends, ends that the
//! server refuses, and servers that go away.
#![expect(clippy::unwrap_used, reason = "a test")]

mod bench;
mod cuts;
mod days;
mod disk;
mod exchanges;
mod hostile;
mod kills;
mod permissions;
mod runs;
mod schedules;
mod shares;
mod strangers;
