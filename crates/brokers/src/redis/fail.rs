//! Failures between us and the server, and the meaning of each of the server's refusals.

use longshore_core::ErrorKind;

use crate::error::BrokerError;

/// Reason why a request has no replies.
#[derive(Clone, Debug)]
pub(super) enum Fail {
    /// It was sent and its replies never came: unknown whether it was done. The connection that
    /// carried it is dead on the server's side too, so that what is looked up now stays as it is.
    Lost(String),
    /// The server could not be reached, or was not able, for as long as the caller wanted to wait.
    /// Nothing was done.
    Unable(String),
    /// It understood, and said no.
    Refused(String),
    /// It does not let us in: it wants another name or password. Nothing was done.
    Shut(String),
}

impl Fail {
    pub(super) fn text(&self) -> &str {
        match self {
            Fail::Lost(text) | Fail::Unable(text) | Fail::Refused(text) | Fail::Shut(text) => text,
        }
    }
}

impl From<Fail> for BrokerError {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Lost(message) | Fail::Unable(message) => BrokerError { kind: ErrorKind::Transient, message },
            Fail::Refused(message) | Fail::Shut(message) => BrokerError { kind: ErrorKind::Refused, message },
        }
    }
}

/// Meaning of a refusal of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot now: it loads, its disk or memory is full, a script keeps it busy. Nothing was
    /// done.
    NotNow,
    /// The same, and it is the wrong server to ask: another one took its place.
    NotThere,
    /// It does not know us, or not any more.
    Shut,
    /// It does not know the script.
    Unknown,
    /// It may not, or it makes no sense.
    Never,
}

pub(super) fn refusal(error: &str) -> Refusal {
    match error.split([' ', ':']).next().unwrap_or_default() {
        "LOADING" | "BUSY" | "MISCONF" | "OOM" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => Refusal::NotNow,
        "READONLY" | "MASTERDOWN" => Refusal::NotThere,
        "NOSCRIPT" => Refusal::Unknown,
        "NOAUTH" | "WRONGPASS" => Refusal::Shut,
        // The transaction was given up because of an error that was said before; that one decides.
        "EXECABORT" => Refusal::Never,
        _ if error.contains("max number of clients") => Refusal::NotNow,
        // What a script ran into: Redis 6.2 puts its own words around it.
        _ if error.contains("-LOADING") || error.contains("-MISCONF") || error.contains("-OOM") || error.contains("-BUSY") => {
            Refusal::NotNow
        }
        _ if error.contains("-READONLY") => Refusal::NotThere,
        _ => Refusal::Never,
    }
}

/// Says whether a key holds something of another kind than we keep there.
pub(super) fn is_wrong_type(error: &str) -> bool {
    error.contains("WRONGTYPE")
}

/// Says whether it could not read a request; it ends the connection then.
pub(super) fn is_protocol(error: &str) -> bool {
    error.contains("Protocol error")
}

/// Says whether it does not allow us to do so. Each version has its own words, and others again
/// for what a script asks for.
fn is_forbidden(error: &str) -> bool {
    ["NOPERM", "can't access", "can't run", "can't publish", "has no permissions"].iter().any(|word| error.contains(word))
}

/// Says whether the end of a message was refused for what it asks for, and not for how the server
/// is. `operation` is the one of `finish.lua` that met the error. What is forbidden is the
/// message's own affair only where that is to send to a queue that we may not use; a result that
/// may not be stored may not be stored for anybody.
pub(super) fn is_its_own(operation: &str, error: &str) -> bool {
    if refusal(error) != Refusal::Never {
        return false;
    }
    let is_of_keys = error.contains("key");
    !is_forbidden(error) || (operation == "L" && is_of_keys)
}

/// Explains an error of the server's for people, with what to do.
pub(super) fn explain(place: &str, error: &str) -> String {
    let advice = match error.split([' ', ':']).next().unwrap_or_default() {
        "NOAUTH" => "; put the password into the URL (redis://:password@host)",
        "WRONGPASS" => "; check user and password in the URL (`%` for what is special in them)",
        _ if error.contains("invalid password") => "; check user and password in the URL",
        _ if is_forbidden(error) => "; allow it with ACL SETUSER (ACL.md of longshore-brokers lists what is needed)",
        "WRONGTYPE" => "; another program uses this key",
        "MISCONF" => "; free its disk, it waits for that",
        "OOM" => "; raise maxmemory or free some, it waits for that",
        "READONLY" => "; it is a replica now: name the server that takes writes, or wait until this one does",
        _ => "",
    };
    format!("redis at {place}: {}{advice}", error.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (error, is) in [
            ("LOADING Redis is loading the dataset in memory", Refusal::NotNow),
            ("OOM command not allowed when used memory > 'maxmemory'.", Refusal::NotNow),
            ("ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed", Refusal::NotNow),
            ("MISCONF Redis is configured to save RDB snapshots", Refusal::NotNow),
            ("ERR max number of clients reached", Refusal::NotNow),
            ("READONLY You can't write against a read only replica.", Refusal::NotThere),
            ("NOSCRIPT No matching script. Please use EVAL.", Refusal::Unknown),
            ("NOAUTH Authentication required.", Refusal::Shut),
            ("NOPERM this user has no permissions to run the 'eval' command", Refusal::Never),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Refusal::Never),
        ] {
            assert_eq!(refusal(error), is, "{error}");
        }
        for (operation, error, own) in [
            ("L", "WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("K", "WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("C", "ERR value is not an integer or out of range", true),
            ("L", "NOPERM this user has no permissions to access one of the keys used as arguments", true),
            ("L", "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments", true),
            ("K", "NOPERM this user has no permissions to access one of the keys used as arguments", false),
            ("L", "NOPERM this user has no permissions to run the 'lpush' command", false),
            ("S", "ERR The user executing the script can't publish to the channel mentioned in the command", false),
            ("S", "NOPERM No permissions to access channel", false),
            ("L", "OOM command not allowed when used memory > 'maxmemory'.", false),
            ("K", "READONLY You can't write against a read only replica.", false),
            ("K", "MISCONF Redis is configured to save RDB snapshots", false),
            ("K", "NOAUTH Authentication required.", false),
        ] {
            assert_eq!(is_its_own(operation, error), own, "{operation} {error}");
        }
        let text = explain("h:1", "NOPERM this user has no permissions to access one of the keys used as arguments");
        assert!(text.contains("h:1") && text.contains("ACL SETUSER"), "{text}");
    }
}
