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
            Kind::ChannelsLimitReached => Consequence::Channel,
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

/// Returns whether nothing was answered in time.
pub(super) fn is_silence(error: &lapin::Error) -> bool {
    matches!(error.kind(), Kind::IOError(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

/// Returns whether the server cannot do what it was asked, and has ended the connection over it.
pub(super) fn is_not_implemented(error: &lapin::Error) -> bool {
    let not_implemented = AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED);
    matches!(error.kind(), Kind::ProtocolError(error) if *error.kind() == not_implemented)
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

/// Returns whether the user has no permission for what was asked for.
pub(super) fn is_denied(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::ACCESSREFUSED)
}

/// Returns the error in words, with what to do about it. What was asked for needs this permission:
/// `configure`, `write` or `read`.
pub(super) fn advised(error: &lapin::Error, permission: &str) -> String {
    let text = words(error);
    let Some(advice) = advice(&text, permission) else { return text };
    format!("{}; {advice}", text.trim_end_matches('.'))
}

/// Returns what to do about a refusal, of which RabbitMQ says this.
fn advice(text: &str, permission: &str) -> Option<String> {
    let advice = match text.split_once(" - ")? {
        ("ACCESS_REFUSED", what) if what.starts_with("Login") => "look at user and password of the URL".to_owned(),
        ("NOT_ALLOWED", what) if what.ends_with("not found") => {
            "make it (`rabbitmqctl add_vhost`), or name another one in the URL".to_owned()
        }
        ("NOT_ALLOWED", what) if what.starts_with("access to vhost") => "let that user in (`rabbitmqctl set_permissions`)".to_owned(),
        ("ACCESS_REFUSED", what) if what.ends_with("in exclusive use") => "another consumer has it for itself: end that one".to_owned(),
        ("RESOURCE_LOCKED", _) => "it belongs to another connection, and goes with it: name another queue".to_owned(),
        ("ACCESS_REFUSED", what) if what.contains("refused for user") => {
            format!("let that user {permission} it (`rabbitmqctl set_permissions`)")
        }
        _ => return None,
    };
    Some(advice)
}

/// Makes an error for callers: transient, where the connection went away.
pub(super) fn transient(place: &str, what: &str) -> BrokerError {
    BrokerError { kind: ErrorKind::Transient, message: format!("rabbitmq at {place}: {what}") }
}

/// Makes an error for callers: asking again is no use.
pub(super) fn refused(place: &str, what: &str) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message: format!("rabbitmq at {place}: {what}") }
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn what_to_do_stands_behind_what_is_refused_and_nowhere_else() {
        for (text, expected) in [
            ("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", Some("user and password")),
            ("NOT_ALLOWED - vhost v not found", Some("add_vhost")),
            ("NOT_ALLOWED - access to vhost '/' refused for user 'u'", Some("let that user in")),
            ("ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'u'", Some("let that user read it")),
            ("ACCESS_REFUSED - queue 'q' in vhost 'v' in exclusive use", Some("end that one")),
            ("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost 'v'", Some("another queue")),
            ("ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", None),
            ("NOT_FOUND - no queue 'q' in vhost 'v'", None),
            ("Connection reset by peer", None),
        ] {
            let found = advice(text, "read");
            assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
            assert!(found.is_none_or(|found| found.contains(expected.unwrap_or_default())), "{text}");
        }
    }
}
