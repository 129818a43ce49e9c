//! What can go wrong between us and the server, and what each refusal of the server's means.

use longshore_core::ErrorKind;

use crate::broker::BrokerError;

/// Why a request has no replies.
#[derive(Clone, Debug)]
pub(super) enum Fail {
    /// It was sent and its replies never came: unknown whether it was done. The connection that carried it is dead on the server's side too, so that
    /// what is looked up now stays as it is.
    Lost(String),
    /// The server could not be reached, or was not able, for as long as the caller wanted to wait. Nothing was done.
    Unable(String),
    /// It understood, and said no.
    Refused(String),
}

impl Fail {
    pub(super) fn text(&self) -> &str {
        match self {
            Fail::Lost(text) | Fail::Unable(text) | Fail::Refused(text) => text,
        }
    }
}

impl From<Fail> for BrokerError {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Lost(message) | Fail::Unable(message) => BrokerError { kind: ErrorKind::Transient, message },
            Fail::Refused(message) => BrokerError { kind: ErrorKind::Refused, message },
        }
    }
}

/// What a refusal of the server's means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot now: it loads, its disk or memory is full, a script keeps it busy. Nothing was done.
    NotNow,
    /// The same, and it is the wrong server to ask: another one took its place.
    NotThere,
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

/// The same for people, with what to do.
pub(super) fn explain(place: &str, error: &str) -> String {
    let advice = match error.split([' ', ':']).next().unwrap_or_default() {
        "NOAUTH" => "; put the password into the URL (redis://:password@host)",
        "WRONGPASS" => "; check user and password in the URL (`%` for what is special in them)",
        _ if error.contains("invalid password") => "; check user and password in the URL",
        _ if error.contains("NOPERM") || error.contains("has no permissions") || error.contains("can't run this command") => {
            "; allow it with ACL SETUSER (ACL.md of longshore-brokers lists what is needed)"
        }
        "WRONGTYPE" => "; another program uses this key",
        "MISCONF" => "; free its disk, it waits for that",
        "OOM" => "; raise maxmemory or free some, it waits for that",
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
            ("NOPERM this user has no permissions to run the 'eval' command", Refusal::Never),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Refusal::Never),
        ] {
            assert_eq!(refusal(error), is, "{error}");
        }
        let text = explain("h:1", "NOPERM this user has no permissions to access one of the keys used as arguments");
        assert!(text.contains("h:1") && text.contains("ACL SETUSER"), "{text}");
    }
}
