//! From a URL to a broker and a result backend.
//!
//! | URL | what it is |
//! |---|---|
//! | `memory://NAME` | this process's memory, one for each name |
//! | `sqlite:PATH`, `sqlite:///PATH`, or a path that ends in `.db`, `.sqlite` or `.sqlite3` | a file |
//! | `redis://`, `rediss://` (TLS), `unix://` and `redis+socket://` (a Unix socket), `sentinel://` | a Redis or Valkey server |

use std::sync::Arc;

use longshore_core::ErrorKind;

use crate::{
    broker::{Broker, BrokerError},
    mask::mask,
    memory::MemoryHandle,
    news::{Notice, of_results},
    results::ResultBackend,
};

/// A broker and a result backend.
pub type Connected = (Arc<dyn Broker>, Arc<dyn ResultBackend>);

type Constructor = fn(&str, Notice) -> Result<Connected, BrokerError>;

struct Scheme {
    /// What stands before the first colon.
    name: &'static str,
    /// How to write it, for people.
    example: &'static str,
    feature: &'static str,
    /// `None`: its feature is off. One that opens nothing before it is used serves as either half
    /// alone.
    connect: Option<Constructor>,
}

#[cfg(feature = "sqlite")]
const SQLITE: Option<Constructor> = Some(crate::sqlite::connect);
#[cfg(not(feature = "sqlite"))]
const SQLITE: Option<Constructor> = None;

#[cfg(feature = "redis")]
const REDIS: Option<Constructor> = Some(crate::redis::both_with);
#[cfg(not(feature = "redis"))]
const REDIS: Option<Constructor> = None;

const SCHEMES: &[Scheme] = &[
    Scheme { name: "sqlite", example: "sqlite:PATH", feature: "sqlite", connect: SQLITE },
    Scheme { name: "redis", example: "redis://HOST:PORT/DB", feature: "redis", connect: REDIS },
    Scheme { name: "rediss", example: "rediss://HOST:PORT/DB", feature: "redis", connect: REDIS },
    Scheme { name: "unix", example: "unix://PATH", feature: "redis", connect: REDIS },
    Scheme { name: "redis+socket", example: "redis+socket://PATH", feature: "redis", connect: REDIS },
    Scheme { name: "sentinel", example: "sentinel://HOST:PORT", feature: "redis", connect: REDIS },
    Scheme { name: "memory", example: "memory://NAME", feature: "", connect: Some(memory) },
];

fn memory(url: &str, _: Notice) -> Result<Connected, BrokerError> {
    let handle = MemoryHandle::open(url.strip_prefix("memory:").unwrap_or(url).trim_start_matches('/'));
    Ok((Arc::new(handle.clone()), Arc::new(handle)))
}

/// The broker of a URL, and the result backend of another; without the other the broker's store
/// keeps the results too.
///
/// A server is connected to when it is first needed, and waited for as its URL says; a file is
/// opened now.
///
/// # Errors
/// Refused: no such scheme, or it was not built in, or the URL is wrong, or the file cannot be
/// opened. No error shows a password.
/// ```
/// let (broker, results) = longshore_brokers::connect("memory://docs", None)?;
/// assert!(broker.is_store_of(results.url()));
/// # Ok::<(), longshore_brokers::BrokerError>(())
/// ```
pub fn connect(broker_url: &str, results_url: Option<&str>) -> Result<Connected, BrokerError> {
    connect_with(broker_url, results_url, Arc::new(|_| {}))
}

/// [`connect`], and what happens to the connections is told.
///
/// # Errors
/// As `connect`.
pub fn connect_with(broker_url: &str, results_url: Option<&str>, notice: Notice) -> Result<Connected, BrokerError> {
    let (broker, results) = pair(broker_url, notice.clone())?;
    match results_url {
        Some(url) if !broker.is_store_of(url) => Ok((broker, pair(url, of_results(notice))?.1)),
        _ => Ok((broker, results)),
    }
}

fn pair(url: &str, notice: Notice) -> Result<Connected, BrokerError> {
    let refused = |message: String| BrokerError { kind: ErrorKind::Refused, message };
    let name = if is_file(url) { "sqlite" } else { url.split_once(':').map_or("", |(name, _)| name) };
    let Some(scheme) = SCHEMES.iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name)) else {
        let known: Vec<_> = SCHEMES.iter().map(|scheme| scheme.example).collect();
        let hint =
            if url.is_empty() || url.contains(':') { String::new() } else { format!("; the file of this name is sqlite:{}", mask(url)) };
        return Err(refused(format!("{}: not a broker that is known; known are {}{hint}", mask(url), known.join(", "))));
    };
    let Some(connect) = scheme.connect else {
        let (shown, feature) = (mask(url), scheme.feature);
        return Err(refused(format!("{shown}: support for {name} is not built in; build with the cargo feature `{feature}`")));
    };
    connect(url, notice)
}

/// A plain path to a database file.
pub(crate) fn is_file(url: &str) -> bool {
    let path = url.split('?').next().unwrap_or(url);
    let ends = [".db", ".sqlite", ".sqlite3"].iter().any(|end| path.ends_with(end));
    ends && !path.contains("://") && !SCHEMES.iter().any(|scheme| path.starts_with(&format!("{}:", scheme.name)))
}

/// Returns a part of a URL with its `%XX` read.
///
/// # Errors
/// A sentence about what does not belong there.
pub fn decode_url(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (hex(rest.next()), hex(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a `%` that is not followed by two hexadecimal digits (write `%25`)".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "bytes that are no UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::{connect, is_file};

    fn refusal(url: &str) -> String {
        connect(url, None).err().expect("it should be refused").to_string()
    }

    #[test]
    fn a_path_is_a_file_by_its_end() {
        for path in ["tasks.db", "./a/b.sqlite", "/x/y.sqlite3", "tasks.db?sync=normal", "odd:name.db"] {
            assert!(is_file(path), "{path}");
        }
        for url in ["tasks.txt", "redis://host/x.db", "sqlite:x.db", "memory:x.db"] {
            assert!(!is_file(url), "{url}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_told_the_known_ones_without_its_password() {
        let text = refusal("amqp://me:secret@host//");
        assert!(text.contains("amqp://me:***@host//") && text.contains("redis://HOST:PORT/DB") && text.contains("sqlite:PATH"), "{text}");
        assert!(refusal("").contains("memory://NAME"));
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_scheme_that_is_not_built_in_says_how_to_build_it_in() {
        assert!(refusal("rediss://:secret@host").contains("cargo feature `redis`"));
    }

    #[test]
    fn one_memory_is_broker_and_result_backend_and_another_name_is_another() {
        let (broker, results) = connect("memory://one", None).unwrap();
        assert!(broker.is_store_of(results.url()));
        let (broker, results) = connect("memory://one", Some("memory://two")).unwrap();
        assert_eq!((broker.url(), results.url()), ("memory://one", "memory://two"));
        assert!(!broker.is_store_of(results.url()));
    }
}
