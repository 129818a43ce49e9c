//! A connection that is replaced when it is lost: one for what we send and ask, one for each
//! consumer. A server that is short of memory or disk takes nothing from a connection that sends;
//! one that only acknowledges goes on.

use std::{
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_rs::Runtime;
use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, Event,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    direct::Direct,
    fail::{Consequence, advised, consequence, refused, transient, words},
    url::{Config, Server},
    wire::{WireKit, WireStream},
};
use crate::{
    error::BrokerError,
    news::{Ability, Happened, News, Notice},
    tls,
};

/// Longest time that a server has to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time between two looks at what is not answered.
const LOOK: Duration = Duration::from_millis(250);
/// Patiences within which a server that lives answers what it is asked: it may be busy.
const PATIENCES: u32 = 6;
const UNANSWERED: &str = "it does not answer what it is asked";

/// Patience of a caller with a server that is away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wait {
    /// As long as the URL says.
    Patience,
    /// As long as it takes.
    Forever,
}

/// Returns how long to wait before the next try, with jitter.
pub(super) fn pause(attempt: u32) -> Duration {
    let most = Duration::from_millis(50 << attempt.min(5));
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Returns how long one of some servers has to shake hands: where another may answer, no longer
/// than leaves time for it, and more with each attempt.
fn time_for_one(servers: usize, patience: Duration, attempt: u32) -> Duration {
    if servers < 2 {
        return HANDSHAKE;
    }
    let part = patience / u32::try_from(servers + 1).unwrap_or(u32::MAX);
    part.saturating_mul(attempt.saturating_add(1)).min(HANDSHAKE)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that was made.
pub(super) struct Open {
    pub(super) connection: Connection,
    /// Way past lapin.
    pub(super) direct: Arc<Direct>,
    /// The server, for people.
    pub(super) place: String,
    /// `RabbitMQ 3.10.8`, as far as the server said.
    pub(super) version: String,
    /// The server takes nothing from us for now.
    blocked: Arc<AtomicBool>,
    /// Longest time that it has for an answer.
    most: Duration,
    /// It lives, and does not answer: it is not used any more.
    stuck: AtomicBool,
    notice: Notice,
}

/// Waits for what a server has to say, so long at most since there was progress; time in which it
/// has said that it takes nothing does not count. `None`: it says nothing.
async fn within<T, P: PartialEq>(
    most: Duration,
    blocked: &AtomicBool,
    progress: impl Fn() -> P,
    said: impl Future<Output = T>,
) -> Option<T> {
    let mut said = pin!(said);
    let (mut silent, mut before) = (Duration::ZERO, progress());
    while silent < most {
        match timeout(LOOK, said.as_mut()).await {
            Ok(said) => return Some(said),
            Err(_) if blocked.load(Ordering::Relaxed) => silent = Duration::ZERO,
            Err(_) => silent += LOOK,
        }
        let now = progress();
        if now != before {
            (silent, before) = (Duration::ZERO, now);
        }
    }
    None
}

impl Open {
    /// Returns whether it can be used, as far as is known here.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected() && !self.stuck.load(Ordering::Acquire)
    }

    /// Waits for the answer to what any server answers. One that does not has lost it, whatever
    /// else it does: the connection is given up, and the next one is another.
    pub(super) async fn answer<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
        match within(self.most, &self.blocked, || (), asked).await {
            Some(answered) => answered,
            None => {
                let error = unanswered();
                if !self.stuck.swap(true, Ordering::AcqRel) {
                    self.direct.end(&error);
                    let text = format!(
                        "rabbitmq at {}: {UNANSWERED}, for {:.0} s; another connection is made",
                        self.place,
                        self.most.as_secs_f64()
                    );
                    (self.notice)(&News::remark(text));
                }
                Err(error)
            }
        }
    }

    /// Waits for the answer of a queue or an exchange. One that does not answer harms no other:
    /// the connection is kept.
    pub(super) async fn answer_of_queue<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
        within(self.most, &self.blocked, || (), asked).await.unwrap_or_else(|| Err(unanswered()))
    }

    /// Makes a channel.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.answer(self.connection.create_channel()).await
    }

    /// Returns whether the server limits what all queues of a channel send together.
    pub(super) fn limits_channels(&self) -> bool {
        limits_channels(&self.version)
    }

    /// Returns the largest frame that may be sent.
    pub(super) fn frame_max(&self) -> usize {
        match self.connection.configuration().frame_max() {
            0 => 131_072,
            size => size as usize,
        }
    }
}

/// Returns whether a server of this name and version keeps `global` limits: RabbitMQ answers them,
/// from 4.3 on, and takes them for those of each consumer.
fn limits_channels(version: &str) -> bool {
    let Some((_, number)) = version.rsplit_once(' ') else { return true };
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    !version.starts_with("RabbitMQ") || (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (4, 3)
}

/// A way to the server, for any number of callers.
pub(super) struct Link {
    config: Arc<Config>,
    notice: Notice,
    /// Stands beside our name in the server's list of connections.
    purpose: String,
    open: tokio::sync::Mutex<Option<Arc<Open>>>,
    state: Arc<LinkState>,
    /// The server takes nothing from us for now. It says so to each connection.
    blocked: Arc<AtomicBool>,
    closed: AtomicBool,
    /// It has one connection, which is not replaced.
    once: bool,
}

/// State of a link, as it is told.
#[derive(Default)]
struct LinkState {
    /// Reason why it is away, while it is.
    trouble: Mutex<Option<String>>,
    /// Number of the server that answered last: all connections go to the same, if they can.
    server: AtomicUsize,
}

/// An attempt to connect. One that is dropped before it is over leaves no thread and no socket
/// behind.
struct Attempt(Option<Arc<Direct>>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.take().iter().for_each(|direct| direct.abandon());
    }
}

/// Failure of one attempt to connect.
enum Unable {
    /// Another attempt may do.
    Away(String),
    /// It would be refused again.
    No(String),
}

impl Unable {
    /// Names the server, where there are several.
    fn of(self, server: &Server, config: &Config) -> Self {
        let named = |what: String| if config.servers.len() > 1 { format!("{server}: {what}") } else { what };
        match self {
            Self::Away(what) => Self::Away(named(what)),
            Self::No(what) => Self::No(named(what)),
        }
    }
}

impl Link {
    pub(super) fn new(config: Arc<Config>, notice: Notice, purpose: String) -> Self {
        let (open, state, blocked) = (tokio::sync::Mutex::default(), Arc::default(), Arc::default());
        Self { config, notice, purpose, open, state, blocked, closed: AtomicBool::new(false), once: false }
    }

    /// Makes another way to the same server. What befalls both is told once.
    pub(super) fn beside(&self, purpose: String) -> Self {
        Self { state: self.state.clone(), ..Self::new(self.config.clone(), self.notice.clone(), purpose) }
    }

    /// Makes another way to the same server that ends with its first connection, of which so many
    /// seconds of silence are a heartbeat at most.
    pub(super) fn only_once(&self, purpose: String, heartbeat: u16) -> Self {
        let mut config = Config::clone(&self.config);
        config.heartbeat = if config.heartbeat == 0 { heartbeat } else { config.heartbeat.min(heartbeat) };
        Self { config: Arc::new(config), once: true, ..self.beside(purpose) }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) fn notice(&self) -> &Notice {
        &self.notice
    }

    pub(super) fn place(&self) -> String {
        self.config.place()
    }

    /// Returns whether the server has said that it takes nothing for now.
    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Waits for what a server has to say of what it was sent, so long at most since there was
    /// progress. `None`: nothing.
    pub(super) async fn said<T, P: PartialEq>(&self, most: Duration, progress: impl Fn() -> P, said: impl Future<Output = T>) -> Option<T> {
        within(most, &self.blocked, progress, said).await
    }

    /// Returns how long a server may say nothing of what it was sent.
    pub(super) fn silence(&self, wait: Wait) -> Duration {
        let patience = self.config.patience;
        if wait == Wait::Patience { patience } else { patience.saturating_mul(PATIENCES) }
    }

    /// Returns the error of a caller whose patience is over.
    pub(super) fn late(&self) -> BrokerError {
        let why = self.trouble().unwrap_or_else(|| "no answer".to_owned());
        transient(&self.place(), &format!("{why} (waited for {:.1} s)", self.config.patience.as_secs_f64()))
    }

    /// Says why it is away, or takes nothing, if it does.
    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.state.trouble).clone().or_else(|| self.is_blocked().then(|| "it takes nothing for want of memory or disk".to_owned()))
    }

    /// Returns a connection that is up, as far as is known; makes one if there is none.
    ///
    /// # Errors
    /// Transient: it is away for longer than the patience. Refused: it does not want us.
    pub(super) async fn open(&self, wait: Wait) -> Result<Arc<Open>, BrokerError> {
        let until = Instant::now() + self.config.patience;
        let fetch = async {
            let mut slot = self.open.lock().await;
            if let Some(open) = slot.as_ref().filter(|open| open.is_up()) {
                return Ok(open.clone());
            }
            let first = slot.is_none();
            if self.once && !first {
                return Err(transient(&self.place(), "the connection was lost"));
            }
            *slot = None;
            let mut attempt = 0;
            loop {
                if self.closed.load(Ordering::Acquire) {
                    return Err(transient(&self.place(), "the connection was closed"));
                }
                match self.connect(attempt).await {
                    Ok(open) => {
                        let open = Arc::new(open);
                        *slot = Some(open.clone());
                        self.back(&open.place);
                        return Ok(open);
                    }
                    // What is wrong with a URL shows at once. What worked before may work again: a
                    // server that comes back knows nobody for a while.
                    Err(Unable::No(why)) if first && wait == Wait::Patience => return Err(refused(&self.place(), &why)),
                    Err(Unable::No(why) | Unable::Away(why)) => self.lost(&why),
                }
                attempt += 1;
                sleep(pause(attempt)).await;
            }
        };
        match wait {
            Wait::Forever => fetch.await,
            Wait::Patience => timeout_at(until, fetch).await.unwrap_or_else(|_| Err(self.late())),
        }
    }

    /// Returns a channel of its own, and its connection.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) async fn channel(&self, wait: Wait) -> Result<(Arc<Open>, Channel), BrokerError> {
        let mut attempt = 0;
        loop {
            let open = self.open(wait).await?;
            match open.channel().await {
                Ok(channel) => return Ok((open, channel)),
                // Too many channels, or the connection went just now.
                Err(error) if wait == Wait::Patience && attempt >= 3 => return Err(transient(&open.place, &words(&error))),
                Err(_) => sleep(pause(attempt)).await,
            }
            attempt += 1;
        }
    }

    /// Connects if need be; the server's name and version, and the time of one round trip.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) async fn ping(&self) -> Result<(String, Duration), BrokerError> {
        let open = self.open(Wait::Patience).await?;
        let begun = Instant::now();
        let channel = open.channel().await.map_err(|error| transient(&open.place, &words(&error)))?;
        let took = begun.elapsed();
        let _ = channel.close(200, "".into()).await;
        Ok((open.version.to_lowercase(), took))
    }

    /// Tells whether it was closed for good.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the connection; none is made any more.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Whoever connects meanwhile sees that it is closed.
        if let Ok(mut slot) = timeout(Duration::from_secs(1), self.open.lock()).await
            && let Some(open) = slot.take().filter(|open| open.is_up())
        {
            let _ = timeout(Duration::from_secs(2), open.connection.close(200, "".into())).await;
        }
    }

    /// Tells that it is away, once.
    fn lost(&self, why: &str) {
        let mut trouble = locked(&self.state.trouble);
        if trouble.is_none() {
            let reason = format!("rabbitmq at {}: {why}", self.place());
            (self.notice)(&Happened::Lost { reason }.into());
        }
        *trouble = Some(why.to_owned());
    }

    fn back(&self, place: &str) {
        if locked(&self.state.trouble).take().is_some() {
            (self.notice)(&Happened::Back { server: format!("rabbitmq at {place}") }.into());
        }
    }

    /// Tries each server once, first the one that answered last.
    async fn connect(&self, attempt: u32) -> Result<Open, Unable> {
        let mut last = Unable::Away("no server is named".to_owned());
        let (servers, first) = (&self.config.servers, self.state.server.load(Ordering::Relaxed));
        let most = time_for_one(servers.len(), self.config.patience, attempt);
        for at in (0..servers.len()).map(|at| (first + at) % servers.len()) {
            let server = &servers[at];
            match timeout(most, self.connect_to(server)).await {
                Ok(Ok(open)) => {
                    self.state.server.store(at, Ordering::Relaxed);
                    return Ok(open);
                }
                Ok(Err(unable)) => last = unable.of(server, &self.config),
                Err(_) => last = Unable::Away("it accepts connections and says nothing".to_owned()).of(server, &self.config),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, server: &Server) -> Result<Open, Unable> {
        let stream = WireStream::connect(server, self.config.tls.as_ref()).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Unable::No(tls::objection(&error).unwrap_or_else(|| format!("TLS: {error}")))
            }
            _ => Unable::Away(error.to_string()),
        })?;
        let (version, direct) = (stream.version(), stream.direct());
        let mut attempt = Attempt(Some(direct.clone()));
        // lapin asks for a socket once, since it may not connect by itself.
        let stream = Mutex::new(Some(stream));
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username: server.user.clone(), password: server.password.clone() },
                host: server.host.clone(),
                port: server.port,
            },
            vhost: server.vhost.clone(),
            query: AMQPQueryString { heartbeat: Some(self.config.heartbeat), ..AMQPQueryString::default() },
        };
        let properties = ConnectionProperties::default()
            .with_client_property("product".into(), "longshore".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
            .with_connection_name(format!("longshore {}", self.purpose).into());
        let connect = async move |_: AMQPUri, _: Runtime<WireKit>| match locked(&stream).take() {
            Some(stream) => Ok(stream.into_stream()),
            None => Err(lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected))),
        };
        let connection = Connection::connector(uri, WireKit::current().into(), connect, properties).await.map_err(|error| {
            let greeted = !locked(&version).is_empty();
            self.unable(&error, greeted)
        })?;
        attempt.0 = None;
        self.listen(&connection, direct.clone(), server.to_string());
        let version = locked(&version).clone();
        Ok(Open {
            connection,
            direct,
            place: server.to_string(),
            version,
            blocked: self.blocked.clone(),
            most: self.config.patience.saturating_mul(PATIENCES),
            stuck: AtomicBool::new(false),
            notice: self.notice.clone(),
        })
    }

    /// Says why a server did not take us, which may have said something before.
    fn unable(&self, error: &lapin::Error, greeted: bool) -> Unable {
        if let ErrorKind::IOError(error) = error.kind()
            && let Some(objection) = tls::objection(error)
        {
            return Unable::No(objection);
        }
        let what = advised(error, "use");
        // One that wants to know us may end the connection before what it says of that is read.
        let is_unknown = self.config.tls.as_ref().is_some_and(|tls| tls.identity.is_none());
        let wants = if is_unknown && !greeted { tls::WANTS } else { "" };
        match consequence(error) {
            Consequence::Refused => Unable::No(what),
            // The server ends the connection without a word where it does not know the user.
            _ => Unable::Away(format!("{what}{wants}")),
        }
    }

    /// Tells when the server takes nothing, and when it does again.
    fn listen(&self, connection: &Connection, direct: Arc<Direct>, place: String) {
        let (mut events, notice, blocked) = (connection.events_listener(), self.notice.clone(), self.blocked.clone());
        blocked.store(false, Ordering::Relaxed);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        blocked.store(true, Ordering::Relaxed);
                        let reason = format!("rabbitmq at {place}: it takes nothing for now ({reason}); what is sent waits");
                        notice(&Happened::Refused { reason }.into());
                    }
                    Event::ConnectionUnblocked => {
                        blocked.store(false, Ordering::Relaxed);
                        notice(&Happened::Able { server: format!("rabbitmq at {place}"), again: Ability::Take }.into());
                    }
                    Event::Error(error) if consequence(&error) == Consequence::Connection => {
                        direct.end(&error);
                        break;
                    }
                    // An end of a channel among them.
                    _ => {}
                }
            }
        });
    }
}

fn unanswered() -> lapin::Error {
    io::Error::new(io::ErrorKind::TimedOut, UNANSWERED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_know_no_limits_of_channels_are_told_from_others() {
        for (version, limits) in [
            ("RabbitMQ 3.10.8", true),
            ("RabbitMQ 4.2.1", true),
            ("RabbitMQ 4.3.0-beta.1", false),
            ("RabbitMQ 5.0.0", false),
            ("LavinMQ 4.9.0", true),
            ("", true),
        ] {
            assert_eq!(limits_channels(version), limits, "{version}");
        }
    }

    #[test]
    fn a_silent_server_leaves_time_for_the_next_and_has_more_with_each_attempt() {
        for (servers, attempt, millis) in [(1, 0, 10_000), (1, 9, 10_000), (2, 0, 1_666), (2, 1, 3_333), (3, 0, 1_250), (3, 100, 10_000)] {
            assert_eq!(time_for_one(servers, Duration::from_secs(5), attempt).as_millis(), millis, "{servers} {attempt}");
        }
    }
}
