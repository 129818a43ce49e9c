//! Contents of a URL: the servers, who we are there, and how queues are declared.

use std::time::Duration;

use longshore_core::ErrorKind;

use crate::{
    error::BrokerError,
    mask::mask,
    queue_spec::DeadLetterPlace,
    tls::{Tls, TlsOptions},
    urls::decode_url,
};

/// A server, and who we are there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Server { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Kind of the queues that we declare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum QueueKind {
    /// A classic queue, which is what no argument means.
    #[default]
    Classic,
    /// A quorum queue.
    Quorum,
}

/// Contents of a URL.
#[derive(Clone)]
pub(super) struct Config {
    /// The URL without its password.
    pub(super) masked: String,
    /// At least one; the first that answers is taken.
    pub(super) servers: Vec<Server>,
    pub(super) tls: Option<Tls>,
    /// Silence after which the other side is taken for dead.
    pub(super) heartbeat: u16,
    /// Longest time that a call waits for a server that does not answer.
    pub(super) patience: Duration,
    /// Queues are only looked for: somebody else declares them.
    pub(super) passive: bool,
    pub(super) kind: QueueKind,
    /// `x-max-priority` of the queues that we declare.
    pub(super) max_priority: Option<u8>,
    /// Place of what workers reject or bury, of queues that do not say it themselves.
    pub(super) dead: DeadLetterPlace,
    /// Place at which the management plugin answers.
    pub(super) management: Option<Management>,
}

/// Place at which the management plugin answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Management {
    /// With TLS or without; where absent, as the server itself.
    pub(super) encrypted: Option<bool>,
    /// The server's own where absent.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    /// Beginning of all paths, without the last `/`.
    pub(super) prefix: String,
}

impl Management {
    /// Reads a port, or `http://host:15672/prefix`.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("option `management`: {what}; expected a port, or http://host:15672");
        if let Ok(port) = text.parse() {
            return Ok(Self { encrypted: None, host: None, port, prefix: String::new() });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no `://` in it"))?;
        let encrypted = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("another scheme than http and https")),
        };
        if rest.contains('@') {
            return Err(wrong("it has a user, who is that of the URL"));
        }
        let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host_and_port(place).map_err(|what| wrong(&what))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{}", prefix.trim_end_matches('/')) };
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("its path has a character that no path has"));
        }
        Ok(Self { encrypted: Some(encrypted), host: Some(host), port: port.unwrap_or(if encrypted { 15671 } else { 15672 }), prefix })
    }
}

/// Options of Celery's that mean nothing to us: connections are ours to look after.
const IGNORED: &[&str] = &[
    "connect_timeout",
    "connection_timeout",
    "login_method",
    "frame_max",
    "channel_max",
    "confirm_publish",
    "read_timeout",
    "write_timeout",
    "max_retries",
    "interval_start",
    "interval_step",
    "interval_max",
];

/// Seconds of silence after which a server is taken for dead, and we by it.
const HEARTBEAT: u16 = 20;

/// Returns the scheme's name, if it is one of ours, and whether it is with TLS.
fn scheme(name: &str) -> Option<bool> {
    match name {
        "amqp" | "pyamqp" => Some(false),
        "amqps" => Some(true),
        _ => None,
    }
}

impl Config {
    /// Reads `amqp://`, `pyamqp://` and `amqps://`, several of them separated by `;`.
    pub(super) fn parse(url: &str) -> Result<Self, BrokerError> {
        let masked = mask(url);
        let wrong = |what: String| BrokerError {
            kind: ErrorKind::Refused,
            message: format!("broker URL `{masked}`: {what}; expected amqp://[user:password@]host[:5672][/vhost][?option=value]"),
        };
        let mut config = Self {
            masked: masked.clone(),
            servers: Vec::new(),
            tls: None,
            heartbeat: HEARTBEAT,
            patience: Duration::from_secs(5),
            passive: false,
            kind: QueueKind::Classic,
            max_priority: None,
            dead: DeadLetterPlace::Kept,
            management: None,
        };
        let mut encrypted = None;
        let mut tls = TlsOptions::default();
        for part in parts(url) {
            let (name, rest) = part.split_once("://").ok_or_else(|| wrong("no `://` in it".into()))?;
            let on = scheme(name).ok_or_else(|| wrong(format!("unknown scheme `{name}`")))?;
            if encrypted.is_some_and(|other| other != on) {
                return Err(wrong("some servers with TLS and some without".into()));
            }
            encrypted = Some(on);
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            config.servers.push(server(rest, if on { 5671 } else { 5672 }).map_err(wrong)?);
            for option in query.split('&').filter(|option| !option.is_empty()) {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let value = decode_url(value).map_err(wrong)?;
                if tls.takes(name) {
                    tls.set(name, value);
                } else {
                    config.set(name, &value).map_err(wrong)?;
                }
            }
        }
        config.tls = tls.tls(encrypted == Some(true), "amqps").map_err(wrong)?;
        if config.kind == QueueKind::Quorum && config.max_priority.is_some() {
            return Err(wrong("quorum queues have no priorities; leave `max_priority` out".into()));
        }
        Ok(config)
    }

    /// Takes one option of the query, or says why it cannot.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = || format!("option `{name}={value}` cannot be read");
        match name {
            "heartbeat" => self.heartbeat = value.parse().ok().filter(|beat| (2..=3600).contains(beat)).ok_or_else(bad)?,
            "patience" => self.patience = seconds(value).ok_or_else(bad)?,
            "queue_type" => {
                self.kind = match value {
                    "classic" => QueueKind::Classic,
                    "quorum" => QueueKind::Quorum,
                    _ => return Err(format!("{}; known are classic and quorum", bad())),
                }
            }
            "dead" => {
                self.dead = match value {
                    "keep" => DeadLetterPlace::Kept,
                    "reject" => DeadLetterPlace::Exchange,
                    _ => return Err(format!("{}; known are keep and reject", bad())),
                }
            }
            "management" => self.management = Some(Management::parse(value)?),
            "max_priority" => self.max_priority = Some(value.parse().ok().filter(|most| *most > 0).ok_or_else(bad)?),
            "declare" => {
                self.passive = match value {
                    "active" => false,
                    "passive" => true,
                    _ => return Err(format!("{}; known are active and passive", bad())),
                }
            }
            name if IGNORED.contains(&name) => {}
            name => return Err(format!("unknown option `{name}`")),
        }
        Ok(())
    }

    /// Tells whether this is the same place, as the same user.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.servers == other.servers
    }

    /// Returns for people where the servers are.
    pub(super) fn place(&self) -> String {
        self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the URLs of a list. A `;` begins another one only before a scheme: it may stand in a
/// password.
fn parts(url: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in url.split(';') {
        let begins = part.split_once("://").is_some_and(|(name, _)| scheme(name).is_some());
        match parts.last_mut() {
            Some(before) if !begins => {
                before.push(';');
                before.push_str(part);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Reads all behind `://` and before the query.
fn server(rest: &str, default: u16) -> Result<Server, String> {
    // The last `@` before the path ends who we are; a password may have one, and a `/`.
    let cut = rest.rfind('@').map_or(0, |at| at + 1);
    let (who, address) = (rest[..cut].strip_suffix('@'), &rest[cut..]);
    let (place, path) = address.split_once('/').map_or((address, None), |(place, path)| (place, Some(path)));
    let (user, password) = match who {
        None => ("guest".to_owned(), "guest".to_owned()),
        Some(who) => {
            let (user, password) = who.split_once(':').unwrap_or((who, ""));
            let user = decode_url(user)?;
            (if user.is_empty() { "guest".to_owned() } else { user }, decode_url(password)?)
        }
    };
    let (host, port) = host_and_port(place)?;
    let port = port.unwrap_or(default);
    // As kombu reads it: no path, an empty one and `//` are the virtual host `/`.
    let vhost = path.map(decode_url).transpose()?.filter(|vhost| !vhost.is_empty()).unwrap_or_else(|| "/".to_owned());
    if vhost.len() > 255 {
        return Err("a virtual host has 255 bytes at most".into());
    }
    Ok(Server { host, port, user, password, vhost })
}

/// Reads `host:port`, of which both may be missing.
fn host_and_port(place: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.filter(|port| !port.is_empty()).map(|port| port.parse().map_err(|_| "the port is no number".to_owned()));
    let host = if host.is_empty() { "localhost".to_owned() } else { decode_url(host)? };
    Ok((host, port.transpose()?))
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.trim_end_matches('s').parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(url: &str) -> Server {
        Config::parse(url).unwrap().servers.remove(0)
    }

    #[test]
    fn urls_say_where_and_who_as_kombu_reads_them() {
        for (url, host, port, user, password, vhost) in [
            ("amqp://", "localhost", 5672, "guest", "guest", "/"),
            ("amqp://h", "h", 5672, "guest", "guest", "/"),
            ("amqp://h/", "h", 5672, "guest", "guest", "/"),
            ("pyamqp://h//", "h", 5672, "guest", "guest", "/"),
            ("amqp://me:p%40ss@h:7000/%2F", "h", 7000, "me", "p@ss", "/"),
            ("amqp://me:p@s/s@h/prod", "h", 5672, "me", "p@s/s", "prod"),
            ("amqps://me:x;y@[::1]/a%2Fb", "::1", 5671, "me", "x;y", "a/b"),
            ("amqp://me@h", "h", 5672, "me", "", "/"),
        ] {
            let Server { host: h, port: p, user: u, password: w, vhost: v } = first(url);
            assert_eq!((h.as_str(), p, u.as_str(), w.as_str(), v.as_str()), (host, port, user, password, vhost), "{url}");
        }
        let config = Config::parse("amqp://u:S3CRET@a/v;amqp://u:S3CRET@b:1/v?heartbeat=5&queue_type=quorum&declare=passive").unwrap();
        assert_eq!((config.place().as_str(), config.heartbeat, config.passive), ("a:5672, b:1", 5, true));
        assert_eq!(config.kind, QueueKind::Quorum);
        assert!(!config.masked.contains("S3CRET"), "{}", config.masked);
        assert_eq!(Config::parse("amqp://h?max_priority=10").unwrap().max_priority, Some(10));
        assert_eq!(Config::parse("amqp://h?dead=reject").unwrap().dead, DeadLetterPlace::Exchange);
        for (text, encrypted, host, port, prefix) in [
            ("15673", None, None, 15673, ""),
            ("http://m", Some(false), Some("m"), 15672, ""),
            ("https://m:443/rabbit/", Some(true), Some("m"), 443, "/rabbit"),
        ] {
            let expected = Management { encrypted, host: host.map(str::to_owned), port, prefix: prefix.to_owned() };
            assert_eq!(Config::parse(&format!("amqp://u:p@h/v?management={text}")).unwrap().management, Some(expected));
        }
        assert!(Config::parse("amqps://h?ssl_cert_reqs=CERT_NONE").unwrap().tls.unwrap().insecure);
    }

    #[test]
    fn a_wrong_url_is_refused_with_the_reason_and_without_the_password() {
        for (url, word) in [
            ("amqp:h", "://"),
            ("redis://u:S3CRET@h", "scheme"),
            ("amqp://u:S3CRET@h:port", "port"),
            ("amqp://u:S3CRET%zz@h", "%25"),
            ("amqp://u:S3CRET@h?nonsense=1", "nonsense"),
            ("amqp://u:S3CRET@h?management=http://u:S3CRET@h", "management"),
            ("amqp://u:S3CRET@h?management=ftp://h", "management"),
            ("amqp://u:S3CRET@h?management=99999", "management"),
            ("amqp://u:S3CRET@h?heartbeat=0", "heartbeat"),
            ("amqp://u:S3CRET@h?queue_type=stream", "quorum"),
            ("amqp://u:S3CRET@h?queue_type=quorum&max_priority=3", "priorities"),
            ("amqp://u:S3CRET@h?max_priority=0", "max_priority"),
            ("amqp://u:S3CRET@h?dead=drop", "keep and reject"),
            ("amqp://u:S3CRET@a;amqps://u:S3CRET@b", "TLS"),
            ("amqp://u:S3CRET@h?ssl_ca_certs=ca.pem", "amqps://"),
        ] {
            let error = Config::parse(url).err().unwrap();
            assert!(error.message.contains(word) && !error.message.contains("S3CRET"), "{}", error.message);
            assert_eq!(error.kind, ErrorKind::Refused);
        }
    }
}
