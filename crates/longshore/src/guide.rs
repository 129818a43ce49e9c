#![doc = include_str!("../guide/start.md")]

#[doc = include_str!("../guide/waiting-and-thinking.md")]
pub mod waiting_and_thinking {}

#[doc = include_str!("../guide/thread-pools.md")]
pub mod thread_pools {}

#[doc = include_str!("../guide/cpu-work.md")]
pub mod cpu_work {}

#[doc = include_str!("../guide/queues.md")]
pub mod queues {}

#[doc = include_str!("../guide/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../guide/gotchas.md")]
pub mod gotchas {}

#[doc = include_str!("../guide/from-python.md")]
pub mod from_python {}
