//! Settings of a Kafka: its address, who we are there, and what its client is set to.

use std::{collections::BTreeMap, fmt};

use longshore_brokers::{BrokerError, decode_url, mask};
use longshore_core::ErrorKind;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

/// Address of a Kafka, the user that we are there, and settings of the client.
///
/// Neither `Debug` nor `Display` show a password.
/// ```
/// use longshore_kafka::Settings;
///
/// let settings = Settings::parse("kafka://shop:s%40crt@a.example,b.example:9093/?mechanism=PLAIN")?.with("client.id=till-3")?;
/// assert_eq!(settings.servers(), "a.example:9092,b.example:9093");
/// assert_eq!(settings.to_string(), "kafka://shop:***@a.example:9092,b.example:9093");
/// assert_eq!(Settings::parse("127.0.0.1")?.to_string(), "kafka://127.0.0.1:9092");
/// # Ok::<(), longshore_brokers::BrokerError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Settings {
    servers: String,
    tls: bool,
    user: Option<String>,
    properties: BTreeMap<String, String>,
}

/// Options of a URL, each with the client's own name for it.
const SHORT: &[(&str, &str)] = &[
    ("ca", "ssl.ca.location"),
    ("certificate", "ssl.certificate.location"),
    ("key", "ssl.key.location"),
    ("key-password", "ssl.key.password"),
    ("mechanism", "sasl.mechanism"),
];

/// Settings of the client that are decided elsewhere, each with the place.
const TAKEN: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is the address itself"),
    ("metadata.broker.list", "it is the address itself"),
    ("group.id", "the group has an option of its own"),
    ("enable.auto.commit", "offsets are committed when their records have been processed"),
    ("auto.commit.enable", "offsets are committed when their records have been processed"),
    ("enable.auto.offset.store", "offsets are committed when their records have been processed"),
    ("enable.partition.eof", "the ends of partitions are watched by us"),
];

/// Settings that name a file, which has to be there.
const FILES: &[&str] = &["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location", "ssl.crl.location"];

fn refused(message: String) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message }
}

impl Settings {
    /// Reads `HOST:PORT[,HOST:PORT…]`, `kafka://[user:password@]HOST[:9092][,…][/?option=value]`,
    /// or the same with `kafkas://` for TLS.
    ///
    /// With a user the client signs in by SASL (PLAIN, unless `mechanism` says another). Options
    /// are `ca`, `certificate`, `key` (PEM files), `key-password`, `mechanism`, `insecure=true`
    /// (certificates are not checked), and every setting of librdkafka by its own name.
    ///
    /// # Errors
    /// Refused: it is not such an address, an option is unknown or decided elsewhere, or TLS is not
    /// built in. No error shows a password.
    pub fn parse(address: &str) -> Result<Self, BrokerError> {
        // The address may hold a password, which no message may show.
        let wrong = |what: String| {
            refused(format!(
                "Kafka address `{}`: {what}; expected HOST:PORT or kafka://[user:password@]host[:9092][/?option=value]",
                mask(address)
            ))
        };
        let (scheme, rest) = address.split_once("://").unwrap_or(("kafka", address));
        let tls = match scheme {
            "kafka" => false,
            "kafkas" => true,
            other => return Err(wrong(format!("unknown scheme `{other}`"))),
        };
        if tls && !cfg!(feature = "tls") {
            return Err(wrong("TLS is not built in; build with the cargo feature `kafka-tls`".into()));
        }
        let (rest, query) = match rest.split_once('?') {
            // A question mark in a password is no query.
            Some((rest, query)) if !query.contains('@') => (rest, query),
            _ => (rest, ""),
        };
        let (who, hosts) = rest.rsplit_once('@').map_or((None, rest), |(who, hosts)| (Some(who), hosts));
        let mut settings =
            Self { servers: servers(hosts.trim_end_matches('/')).map_err(wrong)?, tls, user: None, properties: BTreeMap::new() };
        if let Some(who) = who {
            let (user, password) = who.split_once(':').ok_or_else(|| wrong("a user without a password".into()))?;
            let (user, password) = (decode_url(user).map_err(wrong)?, decode_url(password).map_err(wrong)?);
            // Before the options, one of which may name another mechanism.
            settings.properties.extend([
                ("sasl.mechanism".to_owned(), "PLAIN".to_owned()),
                ("sasl.username".to_owned(), user.clone()),
                ("sasl.password".to_owned(), password),
            ]);
            settings.user = Some(user);
        }
        let protocol = match (tls, settings.user.is_some()) {
            (false, false) => "plaintext",
            (false, true) => "sasl_plaintext",
            (true, false) => "ssl",
            (true, true) => "sasl_ssl",
        };
        settings.properties.insert("security.protocol".to_owned(), protocol.to_owned());
        // Last, so that an option wins over what the rest of the address implies.
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| wrong(format!("the option `{option}` has no value")))?;
            settings.put(name, decode_url(value).map_err(wrong)?).map_err(wrong)?;
        }
        Ok(settings)
    }

    /// Adds a setting of librdkafka, `key=value`, or one of a URL's options. The last of equal ones
    /// counts.
    ///
    /// # Errors
    /// Refused: the client knows no such setting or takes no such value, or it is decided
    /// elsewhere.
    pub fn with(mut self, setting: &str) -> Result<Self, BrokerError> {
        let (name, value) = setting.split_once('=').ok_or_else(|| refused(format!("`{setting}`: a setting is key=value")))?;
        self.put(name.trim(), value.to_owned()).map_err(refused)?;
        Ok(self)
    }

    fn put(&mut self, name: &str, value: String) -> Result<(), String> {
        if name == "insecure" {
            let on = value == "true" || value == "1";
            return self.put("enable.ssl.certificate.verification", (!on).to_string());
        }
        let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        if let Some((_, why)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
            return Err(format!("`{name}` cannot be set: {why}"));
        }
        // Asked of the client itself, alone: its message never has another setting's value, and
        // never this one's.
        let mut alone = ClientConfig::new();
        alone.set(name, &value);
        if let Err(rdkafka::error::KafkaError::ClientConfig(_, why, ..)) = alone.create_native_config() {
            let unknown = why.starts_with("No such configuration property");
            let why = if unknown { "Kafka's client has no such setting".to_owned() } else { why.replace(&value, "…") };
            return Err(format!("`{name}`: {why}"));
        }
        if FILES.contains(&name)
            && value != "probe"
            && let Err(error) = std::fs::metadata(&value)
        {
            // The client would speak of its library for certificates.
            return Err(format!("`{name}`: {value}: {}", longshore_sys::files::cause(&error)));
        }
        self.properties.insert(name.to_owned(), value);
        Ok(())
    }

    /// Returns the servers as `host:port`, with commas between several.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Returns the user that we are there, if one is named.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns true if this setting of the client was given.
    pub fn has(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// Returns the client's own form of it, to which its owner adds; what the user has set is [set
    /// last](Self::finish).
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("client.id", "longshore").set_log_level(RDKafkaLogLevel::Warning);
        // A broker that is being started again takes seconds; ten more, as the client would wait at
        // last, are not needed.
        config.set("reconnect.backoff.max.ms", "1000");
        config
    }

    /// Adds the user's settings, which win over those that their owner has added.
    pub(crate) fn finish(&self, config: &mut ClientConfig) {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
    }
}

/// `kafka://user:***@host:port`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "kafkas" } else { "kafka" };
        match &self.user {
            Some(user) => write!(f, "{scheme}://{user}:***@{}", self.servers),
            None => write!(f, "{scheme}://{}", self.servers),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names alone: which values are secrets only the client knows.
        write!(f, "Settings({self}, {:?})", self.properties.keys().collect::<Vec<_>>())
    }
}

/// Returns the servers, each with its port.
fn servers(hosts: &str) -> Result<String, String> {
    let one = |host: &str| {
        let host = host.trim();
        let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, port)) => (format!("[{name}]"), port.strip_prefix(':')),
            None => host.split_once(':').map_or((host.to_owned(), None), |(name, port)| (name.to_owned(), Some(port))),
        };
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._[]:%".contains(letter);
        if name.is_empty() || !name.chars().all(fits) {
            return Err("a host is missing, or has a letter that none can have (in a password write it as %XX)".to_owned());
        }
        let port = port.unwrap_or("9092");
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err("a port is no number up to 65535 (a `/` in a password is written %2F)".to_owned());
        }
        Ok(format!("{name}:{port}"))
    };
    hosts.split(',').map(one).collect::<Result<Vec<_>, _>>().map(|all| all.join(","))
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn refusal(address: &str) -> String {
        Settings::parse(address).expect_err("it should be refused").to_string()
    }

    #[test]
    fn addresses_say_where_and_who() {
        for (address, servers, shown) in [
            ("127.0.0.1:9092", "127.0.0.1:9092", "kafka://127.0.0.1:9092"),
            ("a, b:1", "a:9092,b:1", "kafka://a:9092,b:1"),
            ("kafka://[::1]:7/", "[::1]:7", "kafka://[::1]:7"),
            ("kafka://me:p%2Fw@h", "h:9092", "kafka://me:***@h:9092"),
            ("kafka://me:p@w?x@h", "h:9092", "kafka://me:***@h:9092"),
            ("kafka://h?fetch.wait.max.ms=5&queued.min.messages=9", "h:9092", "kafka://h:9092"),
        ] {
            let settings = Settings::parse(address).unwrap();
            assert_eq!((settings.servers(), settings.to_string().as_str()), (servers, shown), "{address}");
        }
        let settings = Settings::parse("kafka://me:p%2Fw@h/?mechanism=SCRAM-SHA-256").unwrap();
        assert_eq!(settings.properties["sasl.password"], "p/w");
        assert_eq!(settings.properties["sasl.mechanism"], "SCRAM-SHA-256");
        assert_eq!(settings.properties["security.protocol"], "sasl_plaintext");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason_and_without_the_password() {
        for (address, why) in [
            ("http://me:secret@h", "unknown scheme `http`"),
            ("kafka://me:sec/ret@h:x", "no number"),
            ("kafka://me@h", "without a password"),
            ("kafka://me:secret@", "a host is missing"),
            ("kafka://h:70000", "65535"),
            ("h:9092,", "a host is missing"),
            ("kafka://h/?sasl.passwort=secret", "`sasl.passwort`: Kafka's client has no such setting"),
            ("kafka://h/?fetch.wait.max.ms=soon", "fetch.wait.max.ms"),
            ("kafka://h/?group.id=g", "`group.id` cannot be set"),
            ("kafka://me:sec%ret@h", "two hexadecimal digits"),
        ] {
            let text = refusal(address);
            assert!(text.contains(why) && !text.contains("secret"), "{address}: {text}");
        }
    }

    #[test]
    fn settings_of_the_client_are_taken_and_win() {
        let settings = Settings::parse("h").unwrap().with("fetch.wait.max.ms=7").unwrap();
        let mut config = settings.config();
        config.set("fetch.wait.max.ms", "100");
        settings.finish(&mut config);
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        for (setting, why) in [("nothing", "key=value"), ("enable.auto.commit=true", "have been processed"), ("wait=1", "no such setting")]
        {
            let error = Settings::parse("h").unwrap().with(setting).expect_err(setting).to_string();
            assert!(error.contains(why), "{setting}: {error}");
        }
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let settings = Settings::parse("kafka://me:secret@h").unwrap().with("ssl.key.password=hidden");
        if let Ok(settings) = settings {
            let text = format!("{settings} {settings:?}");
            assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_not_built_in_says_how_to_build_it_in() {
        assert!(refusal("kafkas://me:secret@h").contains("cargo feature `kafka-tls`"));
    }
}
