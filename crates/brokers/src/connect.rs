//! From a URL to a broker and a result backend.
//!
//! | URL | what it is |
//! |---|---|
//! | `memory://NAME` | this process's memory, one for each name |
//! | `sqlite:PATH`, `sqlite:///PATH`, or a path that ends in `.db`, `.sqlite` or `.sqlite3` | a file |
//! | `amqp://`, `pyamqp://`, `amqps://` (TLS) | a RabbitMQ server, for tasks |
//! | `rpc://` | results that the RabbitMQ server of the tasks carries to whoever asked |
//! | `redis://`, `rediss://` (TLS), `unix://` and `redis+socket://` (a Unix socket), `sentinel://` | a Redis or Valkey server |

use std::{path::PathBuf, sync::Arc};

use longshore_core::ErrorKind;

use crate::{
    connected::{Connected, Halves},
    error::BrokerError,
    mask::mask,
    memory::MemoryHandle,
    news::{Notice, of_results},
    urls::is_file,
};

type Constructor = fn(&str, Notice) -> Result<Halves, BrokerError>;

struct Scheme {
    /// Name of the scheme: all before the first colon.
    name: &'static str,
    /// Example of such a URL, for people.
    example: &'static str,
    feature: &'static str,
    /// Makes what the scheme has. `None`: its feature is off.
    connect: Option<Constructor>,
}

#[cfg(feature = "sqlite")]
const SQLITE: Option<Constructor> = Some(crate::sqlite::connect);
#[cfg(not(feature = "sqlite"))]
const SQLITE: Option<Constructor> = None;

#[cfg(feature = "redis")]
const REDIS: Option<Constructor> = Some(crate::redis::connect);
#[cfg(not(feature = "redis"))]
const REDIS: Option<Constructor> = None;

#[cfg(feature = "amqp")]
const AMQP: Option<Constructor> = Some(crate::amqp::connect);
#[cfg(not(feature = "amqp"))]
const AMQP: Option<Constructor> = None;

#[cfg(feature = "amqp")]
const RPC: Option<Constructor> = Some(crate::amqp::rpc_alone);
#[cfg(not(feature = "amqp"))]
const RPC: Option<Constructor> = None;

const SCHEMES: &[Scheme] = &[
    Scheme { name: "sqlite", example: "sqlite:PATH", feature: "sqlite", connect: SQLITE },
    Scheme { name: "redis", example: "redis://HOST:PORT/DB", feature: "redis", connect: REDIS },
    Scheme { name: "rediss", example: "rediss://HOST:PORT/DB", feature: "redis", connect: REDIS },
    Scheme { name: "unix", example: "unix://PATH", feature: "redis", connect: REDIS },
    Scheme { name: "redis+socket", example: "redis+socket://PATH", feature: "redis", connect: REDIS },
    Scheme { name: "sentinel", example: "sentinel://HOST:PORT", feature: "redis", connect: REDIS },
    Scheme { name: "amqp", example: "amqp://HOST:PORT/VHOST", feature: "amqp", connect: AMQP },
    Scheme { name: "amqps", example: "amqps://HOST:PORT/VHOST", feature: "amqp", connect: AMQP },
    Scheme { name: "pyamqp", example: "pyamqp://HOST:PORT/VHOST", feature: "amqp", connect: AMQP },
    Scheme { name: "rpc", example: "rpc:// (results alone)", feature: "amqp", connect: RPC },
    Scheme { name: "memory", example: "memory://NAME", feature: "", connect: Some(memory) },
];

fn memory(url: &str, _: Notice) -> Result<Halves, BrokerError> {
    let handle = Arc::new(MemoryHandle::open(url.strip_prefix("memory:").unwrap_or(url).trim_start_matches('/')));
    Ok(Connected::whole(handle.clone(), handle).into())
}

/// Returns the broker of a URL, and the result backend of another; without the other the broker's
/// store keeps the results too.
///
/// A server is connected to when it is first needed, and waited for as its URL says; a file is
/// opened now.
///
/// # Errors
/// Refused: no such scheme, or it was not built in, or the URL is wrong, or the file cannot be
/// opened. No error shows a password.
/// ```
/// let connected = longshore_brokers::connect("memory://docs", None)?;
/// assert!(connected.broker.is_store_of(connected.results.url()));
/// # Ok::<(), longshore_brokers::BrokerError>(())
/// ```
pub fn connect(broker_url: &str, results_url: Option<&str>) -> Result<Connected, BrokerError> {
    connect_with(broker_url, results_url, Arc::new(|_| {}))
}

/// Connects as [`connect`] does; the notice is told what happens to the connections.
///
/// # Errors
/// As `connect`.
pub fn connect_with(broker_url: &str, results_url: Option<&str>, notice: Notice) -> Result<Connected, BrokerError> {
    let here = halves(broker_url, notice.clone())?;
    let apart = results_url.filter(|url| here.broker.as_ref().is_none_or(|broker| !broker.is_store_of(url)));
    let beside = apart.map(|url| halves(url, of_results(notice))).transpose()?;
    let missing = |url: &str, what: &str| {
        let message = format!("{}: {what}", mask(url));
        BrokerError { kind: ErrorKind::Refused, message }
    };
    // Which half is whose is decided here, once: the broker's own go before those of the results.
    let Some(broker) = here.broker else {
        return Err(missing(broker_url, "it keeps results and no queues; name a broker beside it"));
    };
    let (results, store) = match beside {
        Some(beside) => (beside.results.clone(), beside),
        None => (here.results, Halves::default()),
    };
    let Some(results) = results else {
        let what =
            if apart.is_some() { "it keeps no results; name another result backend" } else { "it keeps no results; name a result backend" };
        return Err(missing(apart.unwrap_or(broker_url), what));
    };
    Ok(Connected {
        broker,
        results,
        bus: here.bus.or(store.bus),
        inspect: here.inspect,
        letters: here.letters,
        shared: here.shared.or(store.shared),
        schedules: here.schedules.or(store.schedules).or(here.schedules_last),
    })
}

/// Returns the file that a URL names, if it names one that is not there: connecting would make it.
#[must_use]
pub fn missing_file(url: &str) -> Option<PathBuf> {
    let path = if is_file(url) { url } else { url.strip_prefix("sqlite:")? };
    let path = path.strip_prefix("//").unwrap_or(path).split('?').next().unwrap_or(path);
    Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty() && !path.exists())
}

fn halves(url: &str, notice: Notice) -> Result<Halves, BrokerError> {
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

#[cfg(test)]
mod tests {
    use super::{Connected, SCHEMES, connect};

    fn refusal(url: &str) -> String {
        connect(url, None).err().expect("it should be refused").to_string()
    }

    #[test]
    fn an_unknown_scheme_is_told_the_known_ones_without_its_password() {
        let text = refusal("sqs://me:secret@host//");
        assert!(text.contains("sqs://me:***@host//") && text.contains("redis://HOST:PORT/DB") && text.contains("sqlite:PATH"), "{text}");
        assert!(refusal("").contains("memory://NAME"));
    }

    #[test]
    fn the_schemes_that_tell_a_url_from_a_file_are_those_of_the_table() {
        assert!(SCHEMES.iter().map(|scheme| scheme.name).eq(crate::urls::SCHEMES));
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_scheme_that_is_not_built_in_says_how_to_build_it_in() {
        assert!(refusal("rediss://:secret@host").contains("cargo feature `redis`"));
    }

    #[test]
    fn one_memory_is_broker_and_result_backend_and_another_name_is_another() {
        let Connected { broker, results, .. } = connect("memory://one", None).unwrap();
        assert!(broker.is_store_of(results.url()));
        let Connected { broker, results, .. } = connect("memory://one", Some("memory://two")).unwrap();
        assert_eq!((broker.url(), results.url()), ("memory://one", "memory://two"));
        assert!(!broker.is_store_of(results.url()));
    }
}
