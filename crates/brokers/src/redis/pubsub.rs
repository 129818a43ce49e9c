//! Listening to channels: one connection for all who listen. After a lost one it listens again by itself, and says that something may have been
//! missed.

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

/// What is listened to: a channel, or all that match a pattern.
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

/// Who listens.
pub(super) struct Listener {
    pub(super) topics: Vec<Topic>,
    /// What a channel is called there, and what came on it. Never waited for: what finds no room is left out, and `missed` told.
    pub(super) sink: mpsc::Sender<(String, Vec<u8>)>,
    pub(super) name: Box<dyn Fn(&str) -> String + Send>,
    /// Is told when something may have been missed.
    pub(super) missed: Arc<Notify>,
}

enum Ask {
    Listen(u64, Listener, oneshot::Sender<Result<(), Fail>>),
    Quit(u64),
}

/// The way to the connection.
pub(super) struct PubSub {
    config: Arc<Config>,
    notice: Notice,
    asks: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
    next: AtomicU64,
}

/// Ends the listening when it is dropped.
pub(super) struct Guard {
    id: u64,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.asks.send(Ask::Quit(self.id));
    }
}

/// A server that does not answer for so long is given up.
const SILENCE: Duration = Duration::from_secs(2);

impl PubSub {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        Self { config, notice, asks: Mutex::new(None), next: AtomicU64::new(0) }
    }

    /// Resolves when the server has confirmed all topics.
    pub(super) async fn listen(&self, listener: Listener) -> Result<Guard, Fail> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (ready, confirmed) = oneshot::channel();
        let asks = {
            let mut asks = locked(&self.asks);
            match asks.as_ref().filter(|asks| !asks.is_closed()) {
                Some(asks) => asks.clone(),
                None => {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    tokio::spawn(run(self.config.clone(), self.notice.clone(), receiver));
                    asks.insert(sender).clone()
                }
            }
        };
        let guard = Guard { id, asks: asks.clone() };
        let _ = asks.send(Ask::Listen(id, listener, ready));
        let place = self.config.place();
        match timeout(self.config.patience, confirmed).await {
            Ok(Ok(result)) => result.map(|()| guard),
            Ok(Err(_)) => Err(Fail::Unable("the runtime ended".into())),
            Err(_) => {
                Err(Fail::Unable(format!("redis at {place} did not let us listen within {:?}; is it running?", self.config.patience)))
            }
        }
    }
}

#[derive(Default)]
struct State {
    listeners: HashMap<u64, Listener>,
    by_topic: HashMap<Topic, Vec<u64>>,
    confirmed: HashSet<Topic>,
    /// Those that wait for topics to be confirmed.
    pending: Vec<(u64, HashSet<Topic>, oneshot::Sender<Result<(), Fail>>)>,
}

async fn run(config: Arc<Config>, notice: Notice, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut state = State::default();
    let mut attempt = 0;
    loop {
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
            Err(fail @ Fail::Refused(_)) => {
                state.refuse(&fail);
                fail.text().to_owned()
            }
            Err(fail) => fail.text().to_owned(),
        };
        if attempt == 0 {
            notice(&error);
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

impl State {
    /// What is to be said to the server because of this.
    fn take(&mut self, ask: Ask) -> Pack {
        let mut pack = Pack::default();
        match ask {
            Ask::Listen(id, listener, ready) => {
                let mut new = Vec::new();
                for topic in &listener.topics {
                    let listeners = self.by_topic.entry(topic.clone()).or_default();
                    if listeners.is_empty() {
                        new.push(topic.clone());
                    }
                    listeners.push(id);
                }
                let waits: HashSet<Topic> = listener.topics.iter().filter(|topic| !self.confirmed.contains(*topic)).cloned().collect();
                self.listeners.insert(id, listener);
                say(&mut pack, true, &new);
                if waits.is_empty() {
                    let _ = ready.send(Ok(()));
                } else {
                    self.pending.push((id, waits, ready));
                }
            }
            Ask::Quit(id) => {
                let Some(listener) = self.listeners.remove(&id) else { return pack };
                self.pending.retain(|pending| pending.0 != id);
                let mut old = Vec::new();
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
                say(&mut pack, false, &old);
            }
        }
        pack
    }

    fn refuse(&mut self, fail: &Fail) {
        for (id, _, ready) in std::mem::take(&mut self.pending) {
            let _ = ready.send(Err(fail.clone()));
            self.take(Ask::Quit(id));
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
        self.confirmed.clear();
        let mut pack = Pack::default();
        say(&mut pack, true, &self.by_topic.keys().cloned().collect::<Vec<_>>());
        pack.write_to(&mut connection.out);
        let mut tick = interval(SILENCE);
        let mut asked = false;
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
                        reply => if let Some(error) = reply.error() {
                            self.refuse(&Fail::Refused(explain(&config.place(), error)));
                        },
                    }
                }
                ask = asks.recv() => {
                    let Some(ask) = ask else { return Ok(()) };
                    self.take(ask).write_to(&mut connection.out);
                    if self.listeners.is_empty() {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    if asked {
                        *attempt = 1;
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    asked = true;
                    Pack::of(&[b"PING"]).write_to(&mut connection.out);
                }
            }
        }
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
                && listener.sink.try_send(((listener.name)(&channel), message.clone())).is_err()
            {
                listener.missed.notify_one();
            }
        }
    }

    fn confirm(&mut self, topic: Topic) {
        if !self.by_topic.contains_key(&topic) {
            return;
        }
        let mut waiting = Vec::new();
        for (id, mut waits, ready) in std::mem::take(&mut self.pending) {
            waits.remove(&topic);
            if waits.is_empty() {
                let _ = ready.send(Ok(()));
            } else {
                waiting.push((id, waits, ready));
            }
        }
        self.pending = waiting;
        self.confirmed.insert(topic);
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
