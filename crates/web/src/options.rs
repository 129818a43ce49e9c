//! Who may see and do what.

use std::{fmt, net::IpAddr};

use longshore_ops::limits::LimitsRequest;
use longshore_run::jobs::StateDir;
use ring::hmac;

use crate::{audit::Auditor, history::HistoryOptions};

/// Shortest token that is taken.
pub(crate) const SHORTEST_TOKEN: usize = 16;

/// Shortest token or password that passes also while its address has to wait because of wrong ones.
const PASSES_ALWAYS: usize = 12;

/// Options of everything that is served.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WebOptions {
    /// Proof that whoever asks has to bring.
    pub access: Access,
    /// Nobody may change anything.
    pub read_only: bool,
    /// Arguments and results of tasks are not shown.
    pub hide_args: bool,
    /// The directory with the journals of jobs; without one a dashboard has no page of them.
    pub jobs: Option<StateDir>,
    /// Hears of each action; without one it goes to the log (`tracing`, target `longshore::audit`).
    pub audit: Option<Auditor>,
    /// Place where the site of a deployment remembers what has happened; without one it does not.
    pub history: Option<HistoryOptions>,
    /// Limits and rates that a configuration says: the page lists those, too, that nobody has used
    /// yet.
    pub limits: LimitsRequest,
    /// Workers are not asked to send events of their tasks: the site of a deployment shows those
    /// that are sent anyway.
    pub leaves_events: bool,
    /// The Kafka whose groups the site of a deployment shows.
    #[cfg(feature = "kafka")]
    pub kafka: Option<crate::kafka::KafkaOptions>,
}

/// Proof that a client has to bring.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Access {
    /// None. Only for loopback addresses.
    #[default]
    Open,
    /// A token: `Authorization: Bearer TOKEN`, or typed once into the login page.
    Token(Secret),
    /// A user with a password, which browsers ask for.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A proxy that has asked for it: it names the user in a header.
    Proxy {
        /// Name of the header that holds the user, such as `X-Forwarded-User`.
        header: String,
        /// Addresses of proxies that are believed. Requests of all others are refused.
        from: Vec<IpAddr>,
    },
}

/// A token or a password. It is never shown, and compared in constant time.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    bytes: usize,
}

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()), bytes: text.len() }
    }

    /// Returns whether it is long enough for a token, which nobody types from memory.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes >= SHORTEST_TOKEN
    }

    /// Returns whether it is too long to be found by trying, however fast: only shorter ones need
    /// the wait after wrong ones.
    pub(crate) fn passes_always(&self) -> bool {
        self.bytes >= PASSES_ALWAYS
    }

    /// Returns whether it is empty, as a variable is that was never set.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns whether this text is the secret.
    pub(crate) fn is(&self, text: &str) -> bool {
        let other = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let same = hmac::sign(&other, b"longshore is it the same");
        hmac::verify(&self.key, b"longshore is it the same", same.as_ref()).is_ok()
    }

    /// Returns the proof, by this secret, of a text.
    pub(crate) fn sign(&self, text: &str) -> String {
        hex(hmac::sign(&self.key, text.as_bytes()).as_ref())
    }

    /// Returns whether this is the proof, by this secret, of a text.
    pub(crate) fn has_signed(&self, text: &str, proof: &str) -> bool {
        unhex(proof).is_some_and(|proof| hmac::verify(&self.key, text.as_bytes(), &proof).is_ok())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_knows_itself_and_what_it_has_signed() {
        let secret = Secret::new("a long enough token");
        assert!(secret.is("a long enough token") && !secret.is("a long enough toke") && !secret.is(""));
        let proof = secret.sign("until 12");
        assert!(secret.has_signed("until 12", &proof));
        for (text, proof) in [("until 13", proof.as_str()), ("until 12", ""), ("until 12", "zz"), ("until 12", &proof[..63])] {
            assert!(!secret.has_signed(text, proof), "{text} {proof}");
        }
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
