//! Queues as the management plugin tells of them, where a URL names it: all of a virtual host, with
//! what is lent and who consumes. Its numbers are up to five seconds old.

use std::{collections::BTreeMap, time::SystemTime};

use base64::Engine as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use longshore_celery::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    dead,
    fail::{refused, transient},
    own,
    url::{Config, Management, Server},
};
use crate::{
    broker::QueueState,
    error::BrokerError,
    tls::{self, Tls},
};

/// Number of queues that are asked for at once, and of times that are asked.
const PAGE: usize = 500;
const PAGES: usize = 40;
/// The longest answer that is read.
const LARGEST: usize = 32 << 20;
/// Beginnings of names of queues that hold what is on its way, and nobody's tasks.
const INNER: &str = "celery_delayed_";

/// Numbers of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Numbers {
    ready: u64,
    unacked: u64,
    consumers: u64,
    idle_since: Option<SystemTime>,
}

/// Queues of a virtual host.
#[derive(Debug, Default)]
pub(super) struct Told {
    queues: BTreeMap<String, Numbers>,
}

impl Told {
    /// Takes in a page. Returns how many pages there are.
    fn add(&mut self, page: &Value) -> Option<i64> {
        for row in page.get("items")?.as_list()? {
            let Some(name) = row.get("name").and_then(Value::as_str) else { continue };
            let is = |what: &str| row.get(what).and_then(Value::as_bool).unwrap_or(false);
            let expires = row.get("arguments").is_some_and(|arguments| arguments.get("x-expires").is_some());
            // Those of clients and of remote control are somebody's own, and go with them.
            let is_reply = expires && (is_id(name) || name.contains("pidbox") || name.starts_with("celeryev."));
            if is("exclusive") || is("auto_delete") || is_reply || name.starts_with(INNER) {
                continue;
            }
            let number = |what: &str| row.get(what).and_then(Value::as_i64).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
            let numbers = Numbers {
                ready: number("messages_ready"),
                unacked: number("messages_unacknowledged"),
                consumers: number("consumers"),
                idle_since: row.get("idle_since").and_then(Value::as_str).and_then(moment),
            };
            self.queues.insert(name.to_owned(), numbers);
        }
        page.get("page_count")?.as_i64()
    }

    /// Returns the state of each queue that holds tasks.
    pub(super) fn states(&self) -> Vec<QueueState> {
        let tasks = self.queues.iter().filter(|(name, _)| !own::is_own(name));
        let state = |(name, numbers): (&String, &Numbers)| {
            let letters = dead::queues_of(name);
            let dead =
                letters.iter().filter_map(|letters| self.queues.get(&**letters)).map(|letters| letters.ready + letters.unacked).sum();
            let mut state = QueueState { name: name.clone(), waiting: numbers.ready, dead, ..QueueState::default() };
            self.complete(&mut state);
            state
        };
        tasks.map(state).collect()
    }

    /// Adds what nobody else can say of a queue.
    pub(super) fn complete(&self, state: &mut QueueState) {
        if let Some(numbers) = self.queues.get(&state.name) {
            state.held = numbers.unacked;
            state.consumers = Some(numbers.consumers);
            state.idle_since = numbers.idle_since;
        }
    }
}

/// Asks for the queues of the virtual host, if the URL says where.
///
/// # Errors
/// Transient: nobody answers. Refused: whoever does refuses.
pub(super) async fn queues(config: &Config) -> Result<Option<Told>, BrokerError> {
    let Some(management) = &config.management else { return Ok(None) };
    let mut last = transient(&config.place(), "no server is named");
    for server in &config.servers {
        let place = Place::of(config, management, server);
        match timeout(config.patience, place.all()).await {
            Ok(Ok(told)) => return Ok(Some(told)),
            Ok(Err(error)) => last = error,
            Err(_) => last = place.away("no answer"),
        }
        if management.host.is_some() {
            break;
        }
    }
    Err(last)
}

/// Server to ask, and the user to ask as.
struct Place<'a> {
    server: &'a Server,
    host: &'a str,
    port: u16,
    prefix: &'a str,
    tls: Option<Tls>,
}

impl<'a> Place<'a> {
    fn of(config: &Config, management: &'a Management, server: &'a Server) -> Self {
        let encrypted = management.encrypted.unwrap_or(config.tls.is_some());
        let plain = Tls { insecure: false, authorities: None, identity: None };
        Self {
            server,
            host: management.host.as_deref().unwrap_or(&server.host),
            port: management.port,
            prefix: &management.prefix,
            tls: encrypted.then(|| config.tls.clone().unwrap_or(plain)),
        }
    }

    fn name(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_owned() };
        format!("{scheme}://{host}:{} (its management plugin)", self.port)
    }

    fn away(&self, what: &str) -> BrokerError {
        transient(&self.name(), what)
    }

    async fn all(&self) -> Result<Told, BrokerError> {
        let mut told = Told::default();
        for page in 1..=PAGES {
            let path = format!(
                "{}/api/queues/{}?columns=name,messages_ready,messages_unacknowledged,consumers,idle_since,exclusive,auto_delete,arguments\
                 &page={page}&page_size={PAGE}",
                self.prefix,
                encoded(&self.server.vhost)
            );
            let body = self.get(&path).await?;
            let answer = Value::parse(&body, 20).map_err(|error| self.away(&format!("its answer is no JSON: {error}")))?;
            let pages = told.add(&answer).ok_or_else(|| self.away("its answer is not a list of queues"))?;
            if i64::try_from(page).is_ok_and(|page| page >= pages) {
                break;
            }
        }
        Ok(told)
    }

    async fn get(&self, path: &str) -> Result<Bytes, BrokerError> {
        let stream = TcpStream::connect((self.host, self.port)).await.map_err(|error| self.away(&error.to_string()))?;
        match &self.tls {
            None => self.ask(stream, path).await,
            Some(how) => {
                let stream = tls::wrap(stream, self.host, how).await.map_err(|error| self.away(&format!("TLS: {error}")))?;
                self.ask(stream, path).await
            }
        }
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str) -> Result<Bytes, BrokerError> {
        let away = |error: hyper::Error| self.away(&error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(away)?;
        // It ends with the sender.
        let connection = tokio::spawn(connection);
        let Server { user, password, vhost, .. } = self.server;
        let who = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let request = Request::get(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(AUTHORIZATION, format!("Basic {who}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| refused(&self.name(), &error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(away)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        connection.abort();
        match status {
            StatusCode::OK => body.map(http_body_util::Collected::to_bytes).map_err(|error| self.away(&error.to_string())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let what = format!(
                    "it lets user {user} see nothing of virtual host {vhost} ({status}): the user needs a password that is right, the tag \
                     `management` (`rabbitmqctl set_user_tags {user} management`), and permissions there"
                );
                Err(refused(&self.name(), &what))
            }
            StatusCode::NOT_FOUND => {
                Err(refused(&self.name(), &format!("it knows no virtual host {vhost}, or is no management plugin ({status})")))
            }
            _ => Err(self.away(&format!("it answers {status}"))),
        }
    }
}

/// Reads a moment in UTC: `2026-11-24 8:05:09`, as RabbitMQ 3.10 writes it, or ISO 8601.
fn moment(text: &str) -> Option<SystemTime> {
    if text.contains('T') {
        return longshore_celery::parse_iso(text);
    }
    let (date, time) = text.split_once(' ')?;
    let [year, month, day]: [&str; 3] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let [hour, minute, second]: [&str; 3] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    longshore_celery::parse_iso(&format!("{year}-{month:0>2}-{day:0>2}T{hour:0>2}:{minute:0>2}:{second:0>2}Z"))
}

/// Returns whether a name is an id, with dashes or without, as those of queues for results are.
fn is_id(name: &str) -> bool {
    matches!(name.len(), 32 | 36) && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Returns a name as one part of a path.
fn encoded(name: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_tasks_are_told_with_their_dead_letters_and_others_are_not() {
        let page = r#"{"page_count": 3, "items": [
            {"name": "q", "messages_ready": 3, "messages_unacknowledged": 2, "consumers": 1, "exclusive": false, "auto_delete": false, "arguments": {}},
            {"name": "new", "exclusive": false, "auto_delete": false, "arguments": {"x-max-priority": 5}},
            {"name": "longshore.dead.q", "messages_ready": 4, "messages_unacknowledged": 1},
            {"name": "longshore.junk.q", "messages_ready": 1},
            {"name": "celery_delayed_3", "messages_ready": 9},
            {"name": "w@h.celery.pidbox", "auto_delete": true},
            {"name": "0123456789abcdef0123456789abcdef", "arguments": {"x-expires": 86400000}},
            {"name": "9d563efa-1c2b-3d4e-8f90-0123456789ab", "arguments": {"x-expires": 86400000}},
            {"name": "w.celeryev.pidbox", "arguments": {"x-expires": 10000}},
            {"name": "short-lived", "arguments": {"x-expires": 86400000}},
            {"name": "mine", "exclusive": true},
            {"strange": 1}]}"#;
        let mut told = Told::default();
        assert_eq!(told.add(&Value::parse(page.as_bytes(), 9).unwrap()), Some(3));
        let states: Vec<_> =
            told.states().into_iter().map(|state| (state.name, state.waiting, state.held, state.dead, state.consumers)).collect();
        let row = |name: &str, waiting, held, dead, consumers| (name.to_owned(), waiting, held, dead, Some(consumers));
        assert_eq!(states, [row("new", 0, 0, 0, 0), row("q", 3, 2, 6, 1), row("short-lived", 0, 0, 0, 0)]);
        let mut exact = QueueState { name: "q".to_owned(), waiting: 7, ..QueueState::default() };
        told.complete(&mut exact);
        assert_eq!((exact.waiting, exact.held), (7, 2), "what was counted just now stays");
        assert_eq!(told.add(&Value::parse(b"[]", 9).unwrap()), None);
    }

    #[test]
    fn the_moment_since_which_nothing_happens_is_read_in_either_form() {
        let seconds = |text: &str| moment(text).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        for text in ["2026-11-24 8:05:09", "2026-11-24 08:05:09", "2026-11-24T08:05:09.000+00:00"] {
            assert_eq!(seconds(text), Some(1_795_507_509), "{text}");
        }
        for text in ["", "now", "2026-11-24", "2026-11-24 8:05"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn a_virtual_host_is_one_part_of_a_path() {
        assert_eq!((encoded("/").as_str(), encoded("a/b c").as_str(), encoded("v-1").as_str()), ("%2F", "a%2Fb%20c", "v-1"));
    }
}
