//! The error of everything that talks to a broker or a result backend.

/// Reason why a broker or a result backend could not do what it was asked. Its text says what
/// happened, where, and what to do; never a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    /// Kind of the error. Adapters wait out what is transient by themselves (with backoff and
    /// jitter, and they say so) wherever waiting cannot double anything; a transient error that
    /// reaches the caller means: unknown whether it was done.
    pub kind: longshore_core::ErrorKind,
    /// Text for people: what happened.
    pub message: String,
}
