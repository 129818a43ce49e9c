//! Meaning of lapin's errors.

use lapin::{
    ErrorKind as Kind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use longshore_core::ErrorKind;

use crate::error::BrokerError;

/// Consequence of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The channel is closed, because of what was asked on it; the connection goes on.
    Channel,
    /// The connection is gone; the next one may do.
    Connection,
    /// The server refuses us, and will again.
    Refused,
}

/// Returns what follows from an error.
pub(super) fn consequence(error: &lapin::Error) -> Consequence {
    let Kind::ProtocolError(protocol) = error.kind() else {
        return match error.kind() {
            Kind::InvalidChannelState(..) | Kind::InvalidChannel(_) | Kind::ChannelsLimitReached => Consequence::Channel,
            Kind::InvalidProtocolVersion(_) | Kind::AuthProviderError(_) => Consequence::Refused,
            _ => Consequence::Connection,
        };
    };
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Consequence::Refused,
        AMQPErrorKind::Soft(_) => Consequence::Channel,
        // A virtual host that is not there, or not ours.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Consequence::Refused,
        AMQPErrorKind::Hard(_) => Consequence::Connection,
    }
}

/// Returns whether the server knows nothing of that name.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::NOTFOUND)
}

/// Returns whether the server holds a condition for broken: arguments that differ, a message that
/// is too large, an acknowledgement that came too late.
pub(super) fn is_precondition(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::PRECONDITIONFAILED)
}

/// Returns whether a queue is somebody's alone.
pub(super) fn is_locked(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::RESOURCELOCKED) || is_soft(error, &AMQPSoftError::ACCESSREFUSED)
}

fn is_soft(error: &lapin::Error, which: &AMQPSoftError) -> bool {
    matches!(error.kind(), Kind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Soft(kind) if kind == which))
}

/// Returns the error in words, without lapin's own.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        Kind::ProtocolError(error) => error.get_message().as_str().to_owned(),
        Kind::IOError(error) => error.to_string(),
        Kind::MissingHeartbeatError => "it is silent: no sign of life for longer than the heartbeat allows".to_owned(),
        Kind::InvalidConnectionState(_) | Kind::InvalidChannelState(..) => "the connection is gone".to_owned(),
        _ => error.to_string(),
    }
}

/// Makes an error for callers: transient, where the connection went away.
pub(super) fn transient(place: &str, what: &str) -> BrokerError {
    BrokerError { kind: ErrorKind::Transient, message: format!("rabbitmq at {place}: {what}") }
}

/// Makes an error for callers: asking again is no use.
pub(super) fn refused(place: &str, what: &str) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message: format!("rabbitmq at {place}: {what}") }
}
