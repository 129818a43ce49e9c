//! Listening to channels: one connection for all who listen. After a lost one it listens again by
//! itself, and says that something may have been missed. Whoever listens to documents is told what
//! is stored already on the same way: asked for behind the subscription, it can miss nothing.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{interval, sleep, timeout},
};

use super::{
    connection::Connection,
    fail::{Fail, explain},
    link::{Notice, locked, pause},
    resp::{Pack, Reply},
    url::Config,
};
use crate::halves::LeftOut;

/// Channel to listen to, or all channels that match a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Channel(String),
    Pattern(String),
}

impl Topic {
    fn name(&self) -> &str {
        match self {
            Topic::Channel(name) | Topic::Pattern(name) => name,
        }
    }
}

/// Listener to topics.
pub(super) struct Listener {
    pub(super) topics: Vec<Topic>,
    /// Keys to look up once, when the topics are subscribed to.
    pub(super) keys: Vec<String>,
    /// Receives a channel's name, as the listener calls it, and what came on it. Never waited for:
    /// what finds no room is left out, and `missed` told.
    pub(super) sink: mpsc::Sender<(String, Vec<u8>)>,
    pub(super) name: Box<dyn Fn(&str) -> String + Send>,
    /// Is told when something may have been missed.
    pub(super) missed: Arc<Notify>,
    /// Counts what found no room.
    pub(super) left_out: LeftOut,
}

/// Values that were found, by key.
type FoundKeys = Vec<Option<Vec<u8>>>;

/// Request to listen; its maker is told when that begins.
struct Ask {
    id: u64,
    listener: Listener,
    ready: oneshot::Sender<Result<FoundKeys, Fail>>,
}

/// The way to the connection.
pub(super) struct PubSub {
    config: Arc<Config>,
    notice: Notice,
    asks: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
    gone: Arc<Gone>,
    next: AtomicU64,
}

/// Those who listen no more. The server hears of it with the next thing that it is told: nobody is
/// woken for that.
type Gone = Mutex<Vec<u64>>;

/// Ends the listening when it is dropped.
pub(super) struct Guard {
    id: u64,
    gone: Arc<Gone>,
    /// Keeps the connection.
    _asks: mpsc::UnboundedSender<Ask>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        locked(&self.gone).push(self.id);
    }
}

/// Time after which a server that does not answer is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// Number of these times between two questions while nobody waits for a result: remote control may
/// be deaf for as long.
const CALM: u32 = 5;
/// Number of these times for which a connection is kept that nobody listens on: who waits for one
/// result often waits for the next.
const LINGERS: u32 = 5;
/// Keys of one look.
const LOOK: usize = 500;

impl PubSub {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        Self { config, notice, asks: Mutex::new(None), gone: Arc::default(), next: AtomicU64::new(0) }
    }

    /// Resolves when the server has confirmed all topics, with what was stored then under the
    /// listener's keys.
    pub(super) async fn listen(&self, listener: Listener) -> Result<(Guard, FoundKeys), Fail> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (ready, confirmed) = oneshot::channel();
        let asks = {
            let mut asks = locked(&self.asks);
            match asks.as_ref().filter(|asks| !asks.is_closed()) {
                Some(asks) => asks.clone(),
                None => {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    tokio::spawn(run(self.config.clone(), self.notice.clone(), receiver, self.gone.clone()));
                    asks.insert(sender).clone()
                }
            }
        };
        let guard = Guard { id, gone: self.gone.clone(), _asks: asks.clone() };
        let _ = asks.send(Ask { id, listener, ready });
        let place = self.config.place();
        match timeout(self.config.patience, confirmed).await {
            Ok(Ok(result)) => result.map(|found| (guard, found)),
            Ok(Err(_)) => Err(Fail::Unable("the runtime ended".into())),
            Err(_) => {
                Err(Fail::Unable(format!("redis at {place} did not let us listen within {:?}; is it running?", self.config.patience)))
            }
        }
    }
}

#[derive(Default)]
struct TopicState {
    listeners: HashMap<u64, Listener>,
    by_topic: HashMap<Topic, Vec<u64>>,
    confirmed: HashSet<Topic>,
    /// Those that wait for the server's word.
    pending: Vec<Pending>,
    /// Number of the listener whose documents come next.
    looking: Option<u64>,
    gone: Arc<Gone>,
}

/// Waits for topics to be confirmed and keys to be looked up.
struct Pending {
    id: u64,
    topics: HashSet<Topic>,
    keys: Vec<String>,
    found: FoundKeys,
    ready: oneshot::Sender<Result<FoundKeys, Fail>>,
}

async fn run(config: Arc<Config>, notice: Notice, mut asks: mpsc::UnboundedReceiver<Ask>, gone: Arc<Gone>) {
    let mut state = TopicState { gone, ..TopicState::default() };
    let mut attempt = 0;
    loop {
        state.forget();
        if state.listeners.is_empty() {
            // Nobody listens: no connection is kept.
            match asks.recv().await {
                Some(ask) => drop(state.take(ask)),
                None => return,
            }
            continue;
        }
        let error = match Connection::open(&config).await {
            Ok(connection) => match state.serve(connection, &config, &mut asks, &mut attempt).await {
                Ok(()) => continue,
                Err(error) => format!("redis at {}: the connection for listening was lost ({error}); connecting again", config.place()),
            },
            Err(fail @ (Fail::Refused(_) | Fail::Shut(_))) => {
                state.refuse(&fail);
                fail.text().to_owned()
            }
            Err(fail) => fail.text().to_owned(),
        };
        // Whoever has gone meanwhile needs no connection.
        state.forget();
        if state.listeners.is_empty() {
            continue;
        }
        if attempt == 0 {
            notice(&crate::News::remark(error));
        }
        let rest = sleep(pause(attempt));
        attempt += 1;
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => break,
                ask = asks.recv() => match ask {
                    Some(ask) => drop(state.take(ask)),
                    None => return,
                },
            }
        }
    }
}

impl TopicState {
    /// Takes a listener in; returns what is to be said to the server because of it.
    fn take(&mut self, Ask { id, listener, ready }: Ask) -> Pack {
        let mut pack = Pack::default();
        let mut new = Vec::new();
        for topic in &listener.topics {
            let listeners = self.by_topic.entry(topic.clone()).or_default();
            if listeners.is_empty() {
                new.push(topic.clone());
            }
            listeners.push(id);
        }
        say(&mut pack, true, &new);
        let topics: HashSet<Topic> = listener.topics.iter().filter(|topic| !self.confirmed.contains(*topic)).cloned().collect();
        let pending = Pending { id, topics, keys: listener.keys.clone(), found: FoundKeys::new(), ready };
        self.listeners.insert(id, listener);
        pending.look(&mut pack);
        self.pending.push(pending);
        self.settle();
        pack
    }

    /// Forgets those who listen no more; returns what is to be said to the server because of that.
    fn forget(&mut self) -> Pack {
        let mut old = Vec::new();
        let gone = std::mem::take(&mut *locked(&self.gone));
        for id in gone {
            self.remove(id, &mut old);
        }
        let mut pack = Pack::default();
        say(&mut pack, false, &old);
        pack
    }

    fn remove(&mut self, id: u64, old: &mut Vec<Topic>) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        self.pending.retain(|pending| pending.id != id);
        for topic in listener.topics {
            if let Some(listeners) = self.by_topic.get_mut(&topic) {
                listeners.retain(|other| *other != id);
                if listeners.is_empty() {
                    self.by_topic.remove(&topic);
                    self.confirmed.remove(&topic);
                    old.push(topic);
                }
            }
        }
    }

    /// Tells those that wait for nothing more.
    fn settle(&mut self) {
        for pending in self.pending.extract_if(.., |pending| pending.is_complete()) {
            let _ = pending.ready.send(Ok(pending.found));
        }
    }

    fn refuse(&mut self, fail: &Fail) {
        for pending in std::mem::take(&mut self.pending) {
            let _ = pending.ready.send(Err(fail.clone()));
            self.remove(pending.id, &mut Vec::new());
        }
    }

    /// Ends well when nobody listens any more.
    async fn serve(
        &mut self,
        mut connection: Connection,
        config: &Config,
        asks: &mut mpsc::UnboundedReceiver<Ask>,
        attempt: &mut u32,
    ) -> io::Result<()> {
        // A new connection knows of no subscription.
        self.confirmed.clear();
        let mut pack = Pack::default();
        say(&mut pack, true, &self.by_topic.keys().cloned().collect::<Vec<_>>());
        for pending in &mut self.pending {
            pending.found.clear();
            pending.look(&mut pack);
        }
        pack.write_to(&mut connection.out);
        let mut tick = interval(SILENCE);
        let (mut asked, mut calm) = (false, 0);
        let mut alone = 0;
        let mut again = *attempt > 0;
        loop {
            if again && self.by_topic.len() == self.confirmed.len() {
                self.listeners.values().for_each(|listener| listener.missed.notify_one());
                again = false;
            }
            tokio::select! {
                reply = connection.any() => {
                    asked = false;
                    // What was lost while nobody could know of it.
                    if std::mem::take(attempt) > 0 {
                        again = true;
                    }
                    match reply? {
                        Reply::Push(push) => self.heard(push),
                        // Says whose documents come next.
                        Reply::Bulk(text) => self.looking = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()),
                        reply => match reply.error() {
                            Some(error) => self.refuse(&Fail::Refused(explain(&config.place(), error))),
                            None => self.found(reply.into_list()),
                        },
                    }
                }
                ask = asks.recv() => {
                    let Some(ask) = ask else { return Ok(()) };
                    self.forget().write_to(&mut connection.out);
                    self.take(ask).write_to(&mut connection.out);
                }
                _ = tick.tick() => {
                    // The question before has not been answered within a whole tick. Nothing else
                    // tells of a connection that died without a word.
                    if asked {
                        *attempt = 1;
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.forget().write_to(&mut connection.out);
                    alone = if self.listeners.is_empty() { alone + 1 } else { 0 };
                    if alone > LINGERS {
                        return Ok(());
                    }
                    calm += 1;
                    if calm >= CALM || self.is_waited_for() {
                        (asked, calm) = (true, 0);
                        Pack::of(&[b"PING"]).write_to(&mut connection.out);
                    }
                }
            }
        }
    }

    /// Returns whether somebody waits for documents, and not only for whatever may come.
    fn is_waited_for(&self) -> bool {
        !self.pending.is_empty() || self.listeners.values().any(|listener| !listener.keys.is_empty())
    }

    fn heard(&mut self, push: Vec<Reply>) {
        let mut parts = push.into_iter();
        let Some(kind) = parts.next().and_then(Reply::into_bytes) else { return };
        let mut text = || parts.next().and_then(|part| part.text()).unwrap_or_default();
        let (topic, channel) = match kind.as_slice() {
            b"message" => {
                let channel = text();
                (Topic::Channel(channel.clone()), channel)
            }
            b"pmessage" => (Topic::Pattern(text()), text()),
            b"subscribe" => return self.confirm(Topic::Channel(text())),
            b"psubscribe" => return self.confirm(Topic::Pattern(text())),
            _ => return,
        };
        let message = parts.next().and_then(Reply::into_bytes).unwrap_or_default();
        for id in self.by_topic.get(&topic).into_iter().flatten() {
            if let Some(listener) = self.listeners.get(id)
                && let sent = listener.sink.try_send(((listener.name)(&channel), message.clone()))
                && sent.is_err()
            {
                listener.left_out.note(sent);
                listener.missed.notify_one();
            }
        }
    }

    fn confirm(&mut self, topic: Topic) {
        if !self.by_topic.contains_key(&topic) {
            return;
        }
        for pending in &mut self.pending {
            pending.topics.remove(&topic);
        }
        self.confirmed.insert(topic);
        self.settle();
    }

    fn found(&mut self, documents: Vec<Reply>) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| Some(pending.id) == self.looking) {
            pending.found.extend(documents.into_iter().map(Reply::into_bytes));
            self.settle();
        }
    }
}

impl Pending {
    /// Asks for the documents, each list of them behind the listener's number: an answer that is an
    /// error leaves no doubt whose the next one is.
    fn look(&self, pack: &mut Pack) {
        for some in self.keys.chunks(LOOK) {
            pack.add(&[b"PING", self.id.to_string().as_bytes()]);
            let mut args: Vec<&[u8]> = vec![b"MGET"];
            args.extend(some.iter().map(String::as_bytes));
            pack.add(&args);
        }
    }

    fn is_complete(&self) -> bool {
        self.topics.is_empty() && self.found.len() == self.keys.len()
    }
}

fn say(pack: &mut Pack, on: bool, topics: &[Topic]) {
    let (channels, patterns): (Vec<&Topic>, Vec<&Topic>) = topics.iter().partition(|topic| matches!(topic, Topic::Channel(_)));
    let verbs: [&[u8]; 2] = if on { [b"SUBSCRIBE", b"PSUBSCRIBE"] } else { [b"UNSUBSCRIBE", b"PUNSUBSCRIBE"] };
    for (verb, topics) in verbs.into_iter().zip([channels, patterns]) {
        for some in topics.chunks(1000) {
            let mut args = vec![verb];
            args.extend(some.iter().map(|topic| topic.name().as_bytes()));
            pack.add(&args);
        }
    }
}
