//! The connection for commands: one task writes in one go whatever has gathered, and hands each caller its replies. A caller that finds nothing under
//! way writes by itself, which spares it the switch to the task. Nothing on it has a response timeout. When it is lost, or silent while the server answers others, it is replaced; the server is told to end the old one, and
//! only then do
//! those hear of it whose replies are missing: what they look up then stays as it is.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};

use super::{
    connection::{Connection, Hello},
    fail::{Fail, Refusal, explain, refusal},
    luck::{Advice, Luck},
    resp::{Pack, Reply},
    url::Config,
};

/// Is told, in a sentence for people, when the server goes away, comes back, or cannot do what it should.
pub use crate::connect::Notice;

/// How long a caller waits for a server that is away or unable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wait {
    /// As long as the URL says.
    Patience,
    /// As long as it takes.
    Forever,
}

/// After so long without a word, while a reply is due, the server is asked over another connection whether it lives.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a caller looks for its answer before it sleeps.
const GLANCE: Duration = Duration::from_micros(50);

/// How long to wait before the next try, with jitter.
pub(super) fn pause(attempt: u32) -> Duration {
    let most = Duration::from_millis(50 << attempt.min(4));
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    pack: Arc<Pack>,
    done: oneshot::Sender<Result<Vec<Reply>, Fail>>,
}

/// A way to the server for any number of callers.
pub(super) struct Link {
    shared: Arc<Shared>,
    requests: Mutex<Option<mpsc::UnboundedSender<Request>>>,
}

struct Shared {
    config: Arc<Config>,
    notice: Notice,
    /// Why it is away, while it is.
    trouble: Mutex<Option<String>>,
    hello: Mutex<Hello>,
    /// How often it was connected.
    generation: AtomicU64,
    /// While it serves.
    wire: Mutex<Option<Wire>>,
    /// Requests on their way to the task.
    queued: AtomicUsize,
    /// The task.
    task: AtomicWaker,
    luck: Luck,
    /// [`WATCHED`] and [`SKIPPED`].
    watch: AtomicU8,
}

/// A caller reads; the task keeps its hands off meanwhile.
const WATCHED: u8 = 1;
/// The task did so, and is not told of what comes in until it is woken.
const SKIPPED: u8 = 2;

/// A connection, and those whose replies it owes.
struct Wire {
    connection: Connection,
    waiting: VecDeque<Waiting>,
    heard: Instant,
    /// What a caller found when it looked for its answer.
    broken: Option<io::Error>,
}

impl Link {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        let shared = Shared {
            config,
            notice,
            trouble: Mutex::default(),
            hello: Mutex::default(),
            generation: AtomicU64::new(0),
            wire: Mutex::default(),
            queued: AtomicUsize::new(0),
            task: AtomicWaker::new(),
            luck: Luck::default(),
            watch: AtomicU8::new(0),
        };
        Self { shared: Arc::new(shared), requests: Mutex::new(None) }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.shared.config
    }

    pub(super) fn notice(&self) -> &Notice {
        &self.shared.notice
    }

    /// What the server said of itself when it was connected last.
    pub(super) fn hello(&self) -> Hello {
        locked(&self.shared.hello).clone()
    }

    /// How often it was connected: what was told to one connection is not known to the next.
    pub(super) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Sends commands and waits for their replies; waits out a server that is away before they are sent, or that cannot now. If the pack writes, it
    /// does so in one command or transaction.
    ///
    /// Dropping the future withdraws what was not sent yet.
    pub(super) async fn call(&self, pack: Pack, wait: Wait) -> Result<Vec<Reply>, Fail> {
        let deadline = Instant::now() + self.shared.config.patience;
        let mut pack = Arc::new(pack);
        let mut brought = 0;
        for attempt in 0.. {
            let sent = self.send(pack.clone());
            let mut replies = match wait {
                Wait::Forever => sent.await?,
                Wait::Patience => timeout_at(deadline, sent).await.map_err(|_| self.late())??,
            };
            let Some(error) = replies.iter().find_map(Reply::error) else {
                replies.drain(..brought);
                return Ok(replies);
            };
            let text = explain(&self.shared.config.place(), error);
            match refusal(error) {
                Refusal::Never => return Err(Fail::Refused(format!("{text} (asked to do {})", pack.describe()))),
                Refusal::Unknown => match pack.with_script() {
                    Some(with) if brought == 0 => (pack, brought) = (Arc::new(with), 1),
                    _ => return Err(Fail::Refused(text)),
                },
                Refusal::NotNow | Refusal::NotThere => {
                    if attempt == 0 {
                        (self.shared.notice)(&text);
                    }
                    let pause = pause(attempt);
                    if wait == Wait::Patience && Instant::now() + pause > deadline {
                        return Err(Fail::Unable(text));
                    }
                    sleep(pause).await;
                }
            }
        }
        unreachable!("attempts do not run out")
    }

    /// The same for what may be done twice: asks again when the replies are lost.
    pub(super) async fn ask(&self, pack: Pack, wait: Wait) -> Result<Vec<Reply>, Fail> {
        loop {
            match self.call(pack.clone(), wait).await {
                Err(Fail::Lost(_)) => {}
                other => return other,
            }
        }
    }

    /// The same for one command.
    pub(super) async fn one(&self, args: &[&[u8]], wait: Wait) -> Result<Reply, Fail> {
        Ok(self.ask(Pack::of(args), wait).await?.pop().unwrap_or(Reply::Nil))
    }

    async fn send(&self, pack: Arc<Pack>) -> Result<Vec<Reply>, Fail> {
        let (done, replies) = oneshot::channel();
        if self.enqueue(Request { pack, done }) == Way::Direct {
            let advice = self.shared.luck.advice();
            if advice == Advice::LookAfterOthers {
                tokio::task::yield_now().await;
            }
            if advice == Advice::Sleep || !self.shared.watch() {
                self.shared.leave_to_task();
            }
        }
        replies.await.unwrap_or_else(|_| Err(Fail::Lost("the runtime ended in the middle of a request".into())))
    }

    fn enqueue(&self, mut request: Request) -> Way {
        match self.shared.write_now(request) {
            None => return Way::Direct,
            Some(back) => request = back,
        }
        let mut requests = locked(&self.requests);
        self.shared.queued.fetch_add(1, Ordering::AcqRel);
        if let Some(sender) = &*requests {
            match sender.send(request) {
                Ok(()) => return Way::Task,
                // Its task has ended with the runtime that it lived on.
                Err(back) => request = back.0,
            }
        }
        self.shared.queued.store(1, Ordering::Release);
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(request);
        *requests = Some(sender);
        tokio::spawn(run(self.shared.clone(), receiver));
        Way::Task
    }

    fn late(&self) -> Fail {
        let Shared { config, trouble, .. } = &*self.shared;
        match locked(trouble).clone() {
            Some(text) => Fail::Unable(text),
            None => {
                Fail::Lost(format!("redis at {} did not answer within {:?}; unknown whether it was done", config.place(), config.patience))
            }
        }
    }
}

impl Shared {
    /// Writes a request if nothing is under way and no other one waits; else gives it back.
    fn write_now(&self, request: Request) -> Option<Request> {
        if self.queued.load(Ordering::Acquire) > 0 {
            return Some(request);
        }
        let mut wire = locked(&self.wire);
        let Some(wire) = wire.as_mut().filter(|wire| wire.waiting.is_empty() && wire.connection.out.is_empty()) else {
            return Some(request);
        };
        wire.admit(request);
        // What could not be written, and what went wrong, is for the task.
        if !matches!(wire.connection.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.task.wake();
        }
        None
    }

    /// Looks for the answer to what was just written for a moment, as long as nothing else is under way: to be put to sleep and woken takes longer
    /// than many an answer does. Whether it came.
    fn watch(&self) -> bool {
        self.watch.fetch_or(WATCHED, Ordering::AcqRel);
        let start = std::time::Instant::now();
        loop {
            {
                let mut wire = locked(&self.wire);
                let Some(wire) = wire.as_mut() else { return false };
                if wire.waiting.len() > 1 || self.queued.load(Ordering::Acquire) > 0 {
                    self.luck.crowd();
                    return false;
                }
                if let Err(error) = wire.read(Connection::fill_now) {
                    wire.broken = Some(error);
                    self.watch.fetch_or(SKIPPED, Ordering::AcqRel);
                    return false;
                }
                if wire.waiting.is_empty() {
                    self.luck.was(true);
                    // What came for the task since the look above, and found it with its hands off.
                    let skipped = self.watch.fetch_and(!WATCHED, Ordering::AcqRel) & SKIPPED != 0;
                    if skipped && self.queued.load(Ordering::Acquire) > 0 {
                        self.task.wake();
                    }
                    return true;
                }
            }
            if start.elapsed() > GLANCE {
                self.luck.was(false);
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// What comes in from now on is for the task.
    fn leave_to_task(&self) {
        if self.watch.swap(0, Ordering::AcqRel) & SKIPPED != 0 {
            self.task.wake();
        }
    }
}

/// Which way a request went.
#[derive(PartialEq)]
enum Way {
    Direct,
    Task,
}

struct Waiting {
    request: Request,
    replies: Vec<Reply>,
}

/// The task: connects when there is something to do, and again whenever that is lost, until no caller is left.
async fn run(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let place = shared.config.place();
    let mut first = shared.next(&mut requests).await;
    let mut in_doubt: VecDeque<Waiting> = VecDeque::new();
    let mut old: Option<Hello> = None;
    let mut attempt = 0;
    while !(requests.is_closed() && requests.is_empty()) || first.is_some() {
        first = first.filter(|request| !request.done.is_closed());
        let connection = match connect(&shared.config, old.as_ref()).await {
            Ok(connection) => connection,
            Err(fail) => {
                let text = fail.text().to_owned();
                if locked(&shared.trouble).replace(text.clone()).is_none() {
                    (shared.notice)(&text);
                }
                if matches!(fail, Fail::Refused(_)) {
                    // Whoever waits hears it; the next request tries again.
                    in_doubt.drain(..).chain(first.take().map(Waiting::new)).for_each(|waiting| waiting.end(Err(fail.clone())));
                    while let Ok(request) = requests.try_recv() {
                        shared.queued.fetch_sub(1, Ordering::AcqRel);
                        let _ = request.done.send(Err(fail.clone()));
                    }
                    first = shared.next(&mut requests).await;
                } else {
                    sleep(pause(attempt)).await;
                }
                attempt += 1;
                continue;
            }
        };
        if locked(&shared.trouble).take().is_some() {
            (shared.notice)(&format!("redis at {place} answers again"));
        }
        attempt = 0;
        old = Some(connection.hello.clone());
        *locked(&shared.hello) = connection.hello.clone();
        shared.generation.fetch_add(1, Ordering::AcqRel);
        in_doubt.drain(..).for_each(|waiting| {
            waiting.end(Err(Fail::Lost(format!(
                "the connection to redis at {place} was lost before it answered; unknown whether it was done"
            ))));
        });
        let (served, waiting) = Serving::serve(&shared, connection, &mut requests, first.take()).await;
        in_doubt = waiting;
        let Err(error) = served else { return };
        let text = format!("redis at {place}: the connection was lost ({error}); connecting again");
        *locked(&shared.trouble) = Some(text.clone());
        (shared.notice)(&text);
    }
}

/// Connects, and makes sure that the connection before is dead on the server's side: nothing that was sent on it is done from now on.
async fn connect(config: &Config, old: Option<&Hello>) -> Result<Connection, Fail> {
    let mut connection = Connection::open(config).await?;
    if let Some(old) = old.filter(|old| !old.address.is_empty()) {
        let id = old.id.to_string();
        let kill = Pack::of(&[b"CLIENT", b"KILL", b"ID", id.as_bytes(), b"ADDR", old.address.as_bytes()]);
        let lost = |text: String| Fail::Unable(format!("redis at {} was lost again: {text}", config.place()));
        let replies = timeout(SILENCE, connection.call(&kill))
            .await
            .map_err(|_| lost("no answer".into()))?
            .map_err(|error| lost(error.to_string()))?;
        if let Some(error) = replies[0].error() {
            return Err(Fail::Refused(explain(&config.place(), error)));
        }
    }
    Ok(connection)
}

impl Waiting {
    fn new(request: Request) -> Self {
        Self { request, replies: Vec::new() }
    }

    fn end(self, result: Result<Vec<Reply>, Fail>) {
        let _ = self.request.done.send(result);
    }
}

impl Wire {
    fn admit(&mut self, request: Request) {
        // Its caller has given up, so it is not done at all.
        if request.done.is_closed() {
            return;
        }
        if self.waiting.is_empty() {
            self.heard = Instant::now();
        }
        request.pack.write_to(&mut self.connection.out);
        self.waiting.push_back(Waiting::new(request));
    }

    /// Hands out the replies that are there, and those that `fill` brings.
    fn read(&mut self, mut fill: impl FnMut(&mut Connection) -> Poll<io::Result<()>>) -> io::Result<()> {
        loop {
            while let Some(reply) = self.connection.next()? {
                self.heard = Instant::now();
                if matches!(reply, Reply::Push(_)) {
                    continue;
                }
                let Some(waiting) = self.waiting.front_mut() else {
                    return Err(io::Error::other(reply.error().unwrap_or("a reply that nobody asked for").to_owned()));
                };
                let moved = reply.error().is_some_and(|error| refusal(error) == Refusal::NotThere);
                waiting.replies.push(reply);
                if waiting.replies.len() == waiting.request.pack.replies()
                    && let Some(mut waiting) = self.waiting.pop_front()
                {
                    let replies = std::mem::take(&mut waiting.replies);
                    waiting.end(Ok(replies));
                }
                if moved {
                    return Err(io::Error::other("it is a replica now"));
                }
            }
            match fill(&mut self.connection) {
                Poll::Ready(read) => {
                    read?;
                    self.heard = Instant::now();
                }
                Poll::Pending => return Ok(()),
            }
        }
    }
}

impl Shared {
    async fn next(&self, requests: &mut mpsc::UnboundedReceiver<Request>) -> Option<Request> {
        let request = requests.recv().await?;
        self.queued.fetch_sub(1, Ordering::AcqRel);
        Some(request)
    }
}

/// One connection's time of service. Ends well when no caller is left.
struct Serving<'a> {
    shared: &'a Shared,
    requests: &'a mut mpsc::UnboundedReceiver<Request>,
    tick: Pin<Box<Sleep>>,
    probe: Option<JoinHandle<bool>>,
    closed: bool,
}

impl<'a> Serving<'a> {
    /// How it ended, and whose replies are missing.
    async fn serve(
        shared: &'a Shared,
        connection: Connection,
        requests: &'a mut mpsc::UnboundedReceiver<Request>,
        first: Option<Request>,
    ) -> (io::Result<()>, VecDeque<Waiting>) {
        let mut wire = Wire { connection, waiting: VecDeque::new(), heard: Instant::now(), broken: None };
        first.into_iter().for_each(|request| wire.admit(request));
        *locked(&shared.wire) = Some(wire);
        let mut serving = Self { shared, requests, tick: Box::pin(sleep(SILENCE)), probe: None, closed: false };
        let served = poll_fn(|cx| serving.poll(cx)).await;
        // Before anybody writes on it again.
        let wire = locked(&shared.wire).take();
        (served, wire.map(|wire| wire.waiting).unwrap_or_default())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = self.shared;
        shared.task.register(cx.waker());
        if shared.watch.fetch_or(SKIPPED, Ordering::AcqRel) & WATCHED != 0 {
            while self.tick.as_mut().poll(cx).is_ready() {
                self.tick.as_mut().reset(Instant::now() + SILENCE / 2);
            }
            return Poll::Pending;
        }
        shared.watch.fetch_and(!SKIPPED, Ordering::AcqRel);
        let mut wire = locked(&shared.wire);
        let Some(wire) = wire.as_mut() else { return Poll::Ready(Ok(())) };
        while !self.closed {
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => {
                    shared.queued.fetch_sub(1, Ordering::AcqRel);
                    wire.admit(request);
                }
                Poll::Ready(None) => self.closed = true,
                Poll::Pending => break,
            }
        }
        if self.closed && wire.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let _ = wire.connection.poll_flush(cx)?;
        if let Some(error) = wire.broken.take() {
            return Poll::Ready(Err(error));
        }
        wire.read(|connection| connection.poll_fill(cx))?;
        if self.closed && wire.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_silence(wire, cx)
    }

    /// A server that says nothing may be busy, or frozen, or the connection may be dead without a word. It is asked over another one: if it answers
    /// there and still not here, this connection is given up.
    fn poll_silence(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(probe) = &mut self.probe
            && let Poll::Ready(answered) = Pin::new(probe).poll(cx)
        {
            self.probe = None;
            if answered.unwrap_or(false) && !wire.waiting.is_empty() && wire.heard.elapsed() >= SILENCE {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it answers others, but not here")));
            }
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            self.tick.as_mut().reset(Instant::now() + SILENCE / 2);
            let silent = !wire.waiting.is_empty() && wire.heard.elapsed() >= SILENCE;
            if silent && self.probe.is_none() {
                let config = self.shared.config.clone();
                let mut probe = tokio::spawn(async move { probe(&config).await });
                // Registers for its end.
                if pin!(&mut probe).poll(cx).is_pending() {
                    self.probe = Some(probe);
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        // Where the runtime ends in the middle: whoever waits hears of it.
        locked(&self.shared.wire).take();
    }
}

/// Whether the server answers on a new connection; if so, it gets a moment more to answer on the old one.
async fn probe(config: &Config) -> bool {
    let answers = Connection::open(config).await.is_ok();
    if answers {
        sleep(SILENCE / 4).await;
    }
    answers
}
