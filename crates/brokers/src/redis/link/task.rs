//! The task of a link: keeps the connection, writes what has gathered, and hands out the replies
//! that no caller looks for himself.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::news::Happened;

use super::{
    super::{
        connection::{Connection, Hello},
        fail::{Fail, explain},
        resp::{Pack, Reply},
        url::Config,
    },
    LinkShared, Request, SKIPPED, WATCHED, locked, pause,
    wire::{Until, Waiting, Wire},
};

/// Number of tries, which take about ten seconds, until a connection that is beside another says
/// that it cannot connect.
const LONG: u32 = 16;
/// Time without a word, while a reply is due, after which the server is asked over another
/// connection whether it lives.
const SILENCE: Duration = Duration::from_secs(1);

/// Runs the task: connects when there is something to do, and again whenever that is lost, until no
/// caller is left.
pub(super) async fn run(shared: Arc<LinkShared>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let place = shared.config.place();
    let mut first = shared.next(&mut requests).await;
    let mut in_doubt: VecDeque<Waiting> = VecDeque::new();
    let mut old: Option<Hello> = None;
    let mut attempt = 0;
    while !(requests.is_closed() && requests.is_empty()) || first.is_some() {
        // Its caller may have given up while there was no connection.
        first = first.filter(|request| !request.done.is_closed());
        let connection = match connect(&shared, old.as_ref()).await {
            Ok(connection) => connection,
            Err(fail) => {
                let text = fail.text().to_owned();
                let before = locked(&shared.trouble).replace(text.clone());
                // That it does not let us in is more than that it was away.
                let is_refusal = matches!(fail, Fail::Refused(_) | Fail::Shut(_));
                let is_new = before.is_none_or(|before| is_refusal && before != text);
                let is_news = if shared.is_beside() { attempt == LONG } else { is_new };
                if is_news {
                    let reason = text;
                    (shared.notice)(&if is_refusal { Happened::Refused { reason } } else { Happened::Lost { reason } }.into());
                }
                if is_refusal {
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
        if locked(&shared.trouble).take().is_some() && !shared.is_quiet() {
            (shared.notice)(&Happened::Back { server: format!("redis at {place}") }.into());
        }
        attempt = 0;
        old = Some(connection.hello.clone());
        *locked(&shared.hello) = connection.hello.clone();
        shared.generation.fetch_add(1, Ordering::AcqRel);
        shared.changes.iter().for_each(|changes| changes.forget());
        // Only now is the connection before surely dead, so whoever looks up what was done finds an
        // answer that stays.
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
        if !shared.is_quiet() {
            (shared.notice)(&Happened::Lost { reason: text }.into());
        }
    }
}

/// Connects, and makes sure that the connection before is dead on the server's side: nothing that
/// was sent on it is done from now on.
async fn connect(LinkShared { config, changes, .. }: &LinkShared, old: Option<&Hello>) -> Result<Connection, Fail> {
    let mut connection = Connection::open(config).await?;
    let mut pack = Pack::default();
    if let Some(old) = old.filter(|old| !old.address.is_empty()) {
        pack.add(&[b"CLIENT", b"KILL", b"ID", old.id.to_string().as_bytes(), b"ADDR", old.address.as_bytes()]);
    }
    if changes.is_some() {
        pack.add(&[b"CLIENT", b"TRACKING", b"ON", b"OPTIN", b"NOLOOP"]);
    }
    if !pack.is_empty() {
        let lost = |text: String| Fail::Unable(format!("redis at {} was lost again: {text}", config.place()));
        let replies = timeout(SILENCE, connection.call(&pack))
            .await
            .map_err(|_| lost("no answer".into()))?
            .map_err(|error| lost(error.to_string()))?;
        if let Some(error) = replies.iter().find_map(Reply::error) {
            return Err(Fail::Refused(explain(&config.place(), error)));
        }
    }
    Ok(connection)
}

impl LinkShared {
    /// Returns true if there is another connection, which tells how the server is.
    fn is_beside(&self) -> bool {
        self.changes.is_some()
    }

    /// Returns whether nothing is to be said: somebody else tells how the server is, or what it
    /// suffers from was told, and other connections are tried.
    fn is_quiet(&self) -> bool {
        self.is_beside() || locked(&self.unable).is_some()
    }

    async fn next(&self, requests: &mut mpsc::UnboundedReceiver<Request>) -> Option<Request> {
        let request = requests.recv().await?;
        self.queued.fetch_sub(1, Ordering::AcqRel);
        Some(request)
    }
}

/// One connection's time of service. Ends well when no caller is left.
struct Serving<'a> {
    shared: &'a LinkShared,
    requests: &'a mut mpsc::UnboundedReceiver<Request>,
    tick: Pin<Box<Sleep>>,
    probe: Option<JoinHandle<bool>>,
    closed: bool,
}

impl<'a> Serving<'a> {
    /// Serves one connection; returns how that ended, and the requests whose replies are missing.
    async fn serve(
        shared: &'a LinkShared,
        connection: Connection,
        requests: &'a mut mpsc::UnboundedReceiver<Request>,
        first: Option<Request>,
    ) -> (io::Result<()>, VecDeque<Waiting>) {
        let runtime = Handle::current();
        let changes = shared.changes.clone();
        let mut wire = Wire { connection, waiting: VecDeque::new(), runtime, heard: Instant::now(), changes, broken: None };
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
        locked(&shared.task).clone_from(cx.waker());
        if shared.watch.fetch_or(SKIPPED, Ordering::AcqRel) & WATCHED != 0 {
            while self.tick.as_mut().poll(cx).is_ready() {
                self.tick.as_mut().reset(Instant::now() + SILENCE / 2);
            }
            return Poll::Pending;
        }
        shared.watch.fetch_and(!SKIPPED, Ordering::AcqRel);
        let mut wire = locked(&shared.wire);
        let Some(wire) = wire.as_mut() else { return Poll::Ready(Ok(())) };
        // Nothing more is said on it: that would be in doubt.
        if let Some(error) = wire.broken.take() {
            return Poll::Ready(Err(error));
        }
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
        wire.read(|connection| connection.poll_fill(cx), Until::Nothing)?;
        if self.closed && wire.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_silence(wire, cx)
    }

    /// A server that says nothing may be busy, or frozen, or the connection may be dead without a
    /// word. It is asked over another one: if it answers there and still not here, this connection
    /// is given up.
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

/// Returns true if the server answers on a new connection; it then gets a moment more to answer on
/// the old one.
async fn probe(config: &Config) -> bool {
    let answers = Connection::open(config).await.is_ok();
    if answers {
        sleep(SILENCE / 4).await;
    }
    answers
}
