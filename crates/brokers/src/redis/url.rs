//! Contents of a URL: the server's place, who we are there, and the transport options that Celery's
//! users know.

use std::time::Duration;

use longshore_core::ErrorKind;

use crate::{
    error::BrokerError,
    mask::mask,
    tls::{Tls, TlsOptions},
    urls::decode_url,
};

/// Address of a server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ServerPlace {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

impl std::fmt::Display for ServerPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerPlace::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ServerPlace::Tcp { host, port } => write!(f, "{host}:{port}"),
            ServerPlace::Unix { path } => f.write_str(path),
        }
    }
}

/// Contents of a URL.
#[derive(Clone)]
pub(super) struct Config {
    /// The URL without its password.
    pub(super) masked: String,
    /// The server, or the sentinels that know it.
    pub(super) places: Vec<ServerPlace>,
    /// The name under which sentinels know the server.
    pub(super) sentinel: Option<String>,
    /// Name that we have at the sentinels.
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<String>,
    pub(super) tls: Option<Tls>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: u32,
    /// Between a queue and its priority.
    pub(super) sep: String,
    /// Ascending; the first is 0.
    pub(super) steps: Vec<u8>,
    /// Before every key and channel.
    pub(super) prefix: String,
    pub(super) visibility_timeout: Option<Duration>,
    /// Longest time that a call waits for a server that does not answer.
    pub(super) patience: Duration,
    /// Most messages of tasks that failed or were called off which are kept; 0 for none.
    pub(super) kept_messages: u64,
}

/// Options of Celery's that mean nothing to us: connections are ours to look after.
const IGNORED: &[&str] = &[
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "health_check_interval",
    "retry_on_timeout",
    "max_connections",
    "protocol",
];

/// Options of Celery's that have one value here, its default: the option, the ways to write that
/// value, and why there is no other.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("fanout_prefix", &["true", "1", "yes", "/{db}."], "remote control and events go over the channels `/<database>.<exchange>`"),
    ("fanout_patterns", &["true", "1", "yes"], "remote control and events are told apart by their routing keys"),
    ("queue_order_strategy", &["round_robin"], "queues are served in turn"),
    ("ssl_check_hostname", &["true", "1", "yes"], "a certificate is good for its host only; `insecure` does not look at it at all"),
];

fn refused(message: String) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message }
}

/// Options that make sense only together with others.
#[derive(Default)]
struct NamedOptions {
    tls: TlsOptions,
    master: Option<String>,
}

impl Config {
    /// Reads `redis://`, `rediss://`, `unix://`, `redis+socket://` and `sentinel://…;sentinel://…`.
    pub(super) fn parse(url: &str) -> Result<Self, BrokerError> {
        let masked = mask(url);
        let wrong = |what: String| {
            refused(format!("broker URL `{masked}`: {what}; expected redis://[user:password@]host[:6379][/0][?option=value]"))
        };
        let mut config = Self {
            masked: masked.clone(),
            places: Vec::new(),
            sentinel: None,
            sentinel_user: None,
            sentinel_password: None,
            tls: None,
            user: None,
            password: None,
            db: 0,
            // Celery's own separator and steps, so that both find the same lists.
            sep: "\x06\x16".to_owned(),
            steps: vec![0, 3, 6, 9],
            prefix: String::new(),
            visibility_timeout: None,
            patience: Duration::from_secs(5),
            kept_messages: 10_000,
        };
        let mut tls = false;
        let mut named = NamedOptions::default();
        let mut is_sentinel = false;
        // Celery writes each sentinel as a URL of its own.
        for part in url.split(';') {
            let (scheme, rest) = part.split_once("://").ok_or_else(|| wrong("no `://` in it".into()))?;
            match scheme {
                "redis" | "unix" | "redis+socket" => {}
                "rediss" => tls = true,
                "sentinel" => is_sentinel = true,
                other => return Err(wrong(format!("unknown scheme `{other}`"))),
            }
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            let unix = matches!(scheme, "unix" | "redis+socket");
            // A path of a socket begins with the first slash that is not in a password.
            let cut = rest.rfind('@').map_or(0, |at| at + 1);
            let (who, address) = (rest[..cut].strip_suffix('@'), &rest[cut..]);
            if let Some(who) = who {
                let (user, password) = who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
                if !user.is_empty() {
                    config.user = Some(decode_url(user).map_err(wrong)?);
                }
                config.password = password.map(decode_url).transpose().map_err(wrong)?;
                if config.password.is_none() {
                    return Err(wrong("a user without a password".into()));
                }
            }
            if unix {
                config.places.push(ServerPlace::Unix { path: decode_url(address).map_err(wrong)? });
            } else {
                let (host, db) = address.split_once('/').unwrap_or((address, ""));
                if !db.is_empty() {
                    config.db = number(db.trim_end_matches('/')).ok_or_else(|| wrong(format!("`{db}` is no number of a database")))?;
                }
                config.places.push(place(host, if is_sentinel { 26379 } else { 6379 }).map_err(wrong)?);
            }
            for option in query.split('&').filter(|option| !option.is_empty()) {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let value = decode_url(value).map_err(wrong)?;
                config.set(name, value, &mut named).map_err(wrong)?;
            }
        }
        // Only now, because the name may stand at any of the sentinels.
        if is_sentinel {
            config.sentinel = Some(named.master.take().ok_or_else(|| wrong("sentinels need `?master_name=…`".into()))?);
        } else if config.places.len() > 1 {
            return Err(wrong("several servers (only sentinels may be several)".into()));
        }
        config.tls = named.tls.tls(tls, "rediss").map_err(wrong)?;
        Ok(config)
    }

    /// Takes one option of the query, or says why it cannot.
    fn set(&mut self, name: &str, value: String, named: &mut NamedOptions) -> Result<(), String> {
        let bad = || format!("option `{name}={value}` cannot be read");
        match name {
            "visibility_timeout" => self.visibility_timeout = Some(seconds(&value).ok_or_else(bad)?),
            "patience" => self.patience = seconds(&value).ok_or_else(bad)?,
            "kept_messages" => self.kept_messages = number(&value).ok_or_else(bad)?,
            "sep" => self.sep = value,
            "global_keyprefix" => self.prefix = value,
            "priority_steps" => {
                let steps: Option<Vec<u8>> = value.split(',').map(|step| step.trim().parse().ok()).collect();
                let mut steps = steps.filter(|steps| !steps.is_empty() && steps.iter().all(|step| *step <= 9)).ok_or_else(bad)?;
                steps.sort_unstable();
                steps.dedup();
                self.steps = steps;
            }
            "db" | "virtual_host" => self.db = number(value.trim_start_matches('/')).ok_or_else(bad)?,
            "master_name" => named.master = Some(value),
            "sentinel_username" => self.sentinel_user = Some(value),
            "sentinel_password" => self.sentinel_password = Some(value),
            "username" => self.user = Some(value),
            "password" => self.password = Some(value),
            name if IGNORED.contains(&name) => {}
            name if named.tls.takes(name) => named.tls.set(name, value),
            name => match FIXED.iter().find(|(fixed, ..)| *fixed == name) {
                Some((_, same, _)) if same.contains(&value.to_ascii_lowercase().as_str()) => {}
                Some((_, same, why)) => return Err(format!("option `{name}={value}` is not there: {why}; only `{name}={}`", same[0])),
                None => return Err(format!("unknown option `{name}`")),
            },
        }
        Ok(())
    }

    /// Returns for people where the server is.
    pub(super) fn place(&self) -> String {
        self.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Returns true if scripts there reach the same keys.
    pub(super) fn is_same_store(&self, other: &Self) -> bool {
        self.places == other.places && self.sentinel == other.sentinel && self.db == other.db && self.prefix == other.prefix
    }
}

fn place(host: &str, port: u16) -> Result<ServerPlace, String> {
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').map_or(Some(port), number)),
        None => match host.rsplit_once(':') {
            Some((host, text)) => (host, number(text)),
            None => (host, Some(port)),
        },
    };
    let port = port.ok_or("the port is no number")?;
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(ServerPlace::Tcp { host: decode_url(host)?, port })
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.trim_end_matches('s').parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_who_and_how() {
        let config = Config::parse(
            "redis://worker:s%40crt@db.example:7000/3?visibility_timeout=60&global_keyprefix=app1&priority_steps=0,5&sep=%3A&patience=0.5",
        )
        .unwrap();
        assert_eq!(config.places, [ServerPlace::Tcp { host: "db.example".into(), port: 7000 }]);
        assert_eq!((config.user.as_deref(), config.password.as_deref(), config.db), (Some("worker"), Some("s@crt"), 3));
        assert_eq!((config.sep.as_str(), config.steps.as_slice(), config.prefix.as_str()), (":", &[0, 5][..], "app1"));
        assert_eq!((config.visibility_timeout, config.patience), (Some(Duration::from_secs(60)), Duration::from_millis(500)));
        assert_eq!(
            config.masked,
            "redis://worker:***@db.example:7000/3?visibility_timeout=60&global_keyprefix=app1&priority_steps=0,5&sep=%3A&patience=0.5"
        );

        let config = Config::parse("redis://").unwrap();
        assert_eq!(config.place(), "localhost:6379");
        let config = Config::parse("redis+socket:///run/redis.sock?virtual_host=2").unwrap();
        assert_eq!((config.places.as_slice(), config.db), (&[ServerPlace::Unix { path: "/run/redis.sock".into() }][..], 2));
        let config = Config::parse("redis://:only@[::1]:1/0").unwrap();
        assert_eq!((config.place().as_str(), config.user, config.masked.as_str()), ("[::1]:1", None, "redis://:***@[::1]:1/0"));
        let config = Config::parse("sentinel://a:1;sentinel://:pw@b/4?master_name=m").unwrap();
        assert_eq!((config.place().as_str(), config.sentinel.as_deref(), config.db), ("a:1, b:26379", Some("m"), 4));
        assert_eq!(config.masked, "sentinel://a:1;sentinel://:***@b/4?master_name=m");
        assert!(Config::parse("rediss://h?ssl_cert_reqs=CERT_NONE").unwrap().tls.unwrap().insecure);
        assert!(!Config::parse("rediss://h?ssl_cert_reqs=required").unwrap().tls.unwrap().insecure);
    }

    #[test]
    fn a_wrong_url_is_refused_with_the_reason_and_without_the_password() {
        for (url, word) in [
            ("redis:/x", "://"),
            ("amqp://u:S3CRET@h", "scheme"),
            ("redis://u:S3CRET@h:port", "port"),
            ("redis://u:S3CRET@h/x", "database"),
            ("redis://u:S3CRET@h/0?nonsense=1", "nonsense"),
            ("redis://u:S3CRET@h/0?priority_steps=0,77", "priority_steps"),
            ("redis://u:S3CRET%zz@h", "%25"),
            ("redis://u:S3CRET@h/0?kept_messages=few", "kept_messages"),
            ("redis://user@h", "password"),
            ("redis://a;redis://b", "sentinels"),
            ("sentinel://a", "master_name"),
            ("rediss://u:S3CRET@h?ssl_certfile=c.pem", "without `ssl_keyfile`"),
            ("rediss://u:S3CRET@h?ssl_keyfile=c.key", "without `ssl_certfile`"),
            ("redis://u:S3CRET@h?ssl_certfile=c.pem&ssl_keyfile=c.key", "rediss://"),
            ("redis://u:S3CRET@h?ssl_ca_certs=ca.pem", "rediss://"),
        ] {
            let error = Config::parse(url).err().unwrap();
            assert!(error.message.contains(word) && !error.message.contains("S3CRET"), "{}", error.message);
            assert_eq!(error.kind, ErrorKind::Refused);
        }
    }
    #[test]
    fn an_option_that_has_one_value_here_is_refused_with_any_other() {
        for (name, same, other) in [
            ("fanout_prefix", "True", "false"),
            ("fanout_prefix", "/{db}.", "app."),
            ("fanout_patterns", "true", "0"),
            ("queue_order_strategy", "round_robin", "priority"),
            ("ssl_check_hostname", "1", "False"),
        ] {
            Config::parse(&format!("rediss://h/0?{name}={same}")).unwrap();
            let error = Config::parse(&format!("rediss://h/0?{name}={other}")).err().unwrap();
            assert!(error.message.contains(&format!("`{name}={other}` is not there")), "{}", error.message);
        }
        // What only says how connections are looked after may say anything.
        Config::parse("redis://h/0?socket_timeout=3&health_check_interval=25&protocol=2").unwrap();
    }
}
