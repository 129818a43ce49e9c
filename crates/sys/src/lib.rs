//! What longshore needs from the operating system beyond the standard library, and the only crate
//! of the workspace with unsafe code.
//!
//! Layout:
//! - [`clock`]: CPU time of a thread and of the process.
//! - [`priority`]: the nice value of a thread.
//! - [`child`]: waiting for a child with what it used, signals to process groups, pid file
//!   descriptors.
//! - [`poll`]: waiting for several descriptors at once.
//! - [`table`]: the process groups that live, in memory shared with the guardian.
//! - [`guardian`]: the process that kills those groups when their parent has died.
//! - [`files`]: how files that are written are opened, and the signal of one that is too large.
//! - [`heap`]: what the allocator keeps.
//! - [`place`]: adding to a vector without moving what is added.
//! - [`isolated`]: a child that runs functions of its own program. [`board`]: what it shares with
//!   its parent.
//!
//! Linux first. Elsewhere everything compiles; what is missing answers
//! [`std::io::ErrorKind::Unsupported`].

pub mod board;
pub mod child;
pub mod clock;
pub mod files;
pub mod guardian;
pub mod heap;
pub mod isolated;
pub mod place;
pub mod poll;
pub mod priority;
#[cfg(target_os = "linux")]
pub(crate) mod shared;
pub mod table;

pub use board::{Board, SIDES};
pub use child::{Exit, Status, Usage};
pub use guardian::Guardian;
pub use table::SlotTable;

/// The error of what this system does not offer.
#[cfg(not(target_os = "linux"))]
fn unsupported(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, format!("{what} is not supported on this system"))
}
