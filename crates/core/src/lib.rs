//! The engine of longshore.
mod error;
mod outcome;
mod retry;
pub use error::{Again, ErrorKind, SinkError, SourceError, TaskError};
pub use outcome::{Outcome, Skip, Word};
pub use retry::{Backoff, ErrorClass, RetryOn, RetryPolicy};
pub mod lane {
    //! Where work runs.
    pub mod child;
}
