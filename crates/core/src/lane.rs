//! Where attempts run.

pub mod async_;
pub mod blocking;
pub mod child;
pub mod children;
pub mod cpu;
mod handler;
pub mod isolated;
pub mod process;
pub(crate) mod watchdog;

pub use handler::{AsyncHandler, Context, IntoOutcome, SyncHandler};
pub(crate) use handler::{FutureBox, called};

pub(crate) use crate::outcome::{caught, panic_text};
pub use crate::{
    cancel::Stop,
    engine::{Lane, Outbox},
};
