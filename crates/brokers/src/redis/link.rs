//! The connection for commands: one task writes in one go whatever has gathered, and hands each
//! caller its replies. A caller that finds nothing under way writes by itself, and looks for its
//! answer for a moment, which spares it the switch to the task. Nothing on it has a response
//! timeout. When it is lost, or silent while the server answers others, it is replaced; the server
//! is told to end the old one, and only then do those hear of it whose replies are missing: what
//! they look up then stays as it is.
//!
//! Layout: `wire.rs`: who is owed which replies; `task.rs`: the task; `changes.rs`: what the server
//! tells of the keys that it tracks

mod changes;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

pub(super) use self::changes::Changed;
use self::{
    changes::Changes,
    task::run,
    wire::{Until, Wire},
};
use super::{
    connection::{Connection, Hello},
    fail::{Fail, Refusal, explain, is_wrong_type, refusal},
    look_first::{Advice, LookRecord},
    resp::{Pack, Reply},
    url::Config,
};

/// Is told, in a sentence for people, when the server goes away, comes back, or cannot do what it
/// should.
pub use crate::news::Notice;
use crate::news::{Ability, Happened};

/// Patience of a caller with a server that is away or unable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wait {
    /// As long as the URL says.
    Patience,
    /// As long as it takes.
    Forever,
}

/// Time for which a caller looks for its answer before it sleeps.
const GLANCE: Duration = Duration::from_micros(100);

/// Size of a request, in bytes, below which no server refuses it for its size: a limit of less than
/// a megabyte cannot be set.
const LARGE: usize = 1 << 20;
/// Number of connections in a row that end with the same large request on them before the request
/// is to blame.
pub(super) const LOSSES: u32 = 3;

/// Says whether a request of this size, with which so many connections have ended, is more than the
/// server takes. What ends them by chance does not hit the same one again and again, and a small
/// one is never to blame.
pub(super) fn is_too_much(losses: u32, size: usize) -> bool {
    losses >= LOSSES && size >= LARGE
}

/// Returns how long to wait before the next try, with jitter.
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
    shared: Arc<LinkShared>,
    requests: Mutex<Option<mpsc::UnboundedSender<Request>>>,
}

struct LinkShared {
    config: Arc<Config>,
    notice: Notice,
    /// Reason why it is away, while it is.
    trouble: Mutex<Option<String>>,
    /// Reason why it takes nothing, though it is there.
    unable: Mutex<Option<String>>,
    hello: Mutex<Hello>,
    /// Number of times that it was connected.
    generation: AtomicU64,
    /// While it serves.
    wire: Mutex<Option<Wire>>,
    /// Requests on their way to the task.
    queued: AtomicUsize,
    /// The task.
    task: Mutex<Waker>,
    look_record: LookRecord,
    /// [`WATCHED`] and [`SKIPPED`].
    watch: AtomicU8,
    /// Changes since they were last asked for, where the server tracks what we ask for.
    changes: Option<Arc<Changes>>,
}

/// A caller reads; the task keeps its hands off meanwhile.
const WATCHED: u8 = 1;
/// The task did so, and is not told of what comes in until it is woken.
const SKIPPED: u8 = 2;

impl Link {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        Self::with(config, notice, None)
    }

    /// A way beside another one, which tells when the server goes away and comes back: of that this
    /// one is silent, unless it is away for long. On this one the server tracks what is asked for
    /// behind `CLIENT CACHING YES`, until somebody else changes it.
    pub(super) fn tracking(config: Arc<Config>, notice: Notice) -> Self {
        Self::with(config, notice, Some(Arc::default()))
    }

    fn with(config: Arc<Config>, notice: Notice, changes: Option<Arc<Changes>>) -> Self {
        let shared = LinkShared {
            config,
            notice,
            trouble: Mutex::default(),
            unable: Mutex::default(),
            hello: Mutex::default(),
            generation: AtomicU64::new(0),
            wire: Mutex::default(),
            queued: AtomicUsize::new(0),
            task: Mutex::new(Waker::noop().clone()),
            look_record: LookRecord::default(),
            watch: AtomicU8::new(0),
            changes,
        };
        Self { shared: Arc::new(shared), requests: Mutex::new(None) }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.shared.config
    }

    pub(super) fn notice(&self) -> &Notice {
        &self.shared.notice
    }

    /// Returns the server's introduction of itself on the last connection.
    pub(super) fn hello(&self) -> Hello {
        locked(&self.shared.hello).clone()
    }

    /// Returns how often it was connected: what was told to one connection is not known to the
    /// next.
    pub(super) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Sends commands and waits for their replies; waits out a server that is away before they are
    /// sent, or that cannot now. If the pack writes, it does so in one command or transaction.
    ///
    /// Dropping the future withdraws what was not sent yet.
    pub(super) async fn call(&self, pack: Pack, wait: Wait) -> Result<Vec<Reply>, Fail> {
        let deadline = Instant::now() + self.shared.config.patience;
        let mut pack = Arc::new(pack);
        let mut brought = 0;
        for attempt in 0.. {
            let sent = self.send(pack.clone());
            let replies = match wait {
                Wait::Forever => sent.await,
                Wait::Patience => timeout_at(deadline, sent).await.map_err(|_| self.late())?,
            };
            let mut replies = match replies {
                // It has let us in before: whoever changed the password will say it, or change it
                // back.
                Err(Fail::Shut(_)) if wait == Wait::Forever => {
                    sleep(pause(attempt)).await;
                    continue;
                }
                replies => replies?,
            };
            // What is asked aside decides nothing: what came before it is done.
            let decide = &replies[..replies.len() - pack.asides()];
            let Some(error) = decide.iter().filter_map(Reply::error).find(|error| !(pack.looks() && is_wrong_type(error))) else {
                if attempt > 0 {
                    self.is_able();
                }
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
                Refusal::Shut if wait == Wait::Patience => return Err(Fail::Shut(text)),
                Refusal::NotNow | Refusal::NotThere | Refusal::Shut => {
                    self.is_unable(&text);
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
        for losses in 1.. {
            match self.call(pack.clone(), wait).await {
                Err(Fail::Lost(_)) if is_too_much(losses, pack.size()) => return Err(Fail::Refused(self.too_much(pack.size()))),
                Err(Fail::Lost(_)) => {}
                other => return other,
            }
        }
        unreachable!("attempts do not run out")
    }

    /// Says why something of this size is refused, for people.
    pub(super) fn too_much(&self, size: usize) -> String {
        format!(
            "redis at {}: {size} bytes are more than it takes at once: it ended the connection whenever it was given them (see its proto-max-bulk-len and client-query-buffer-limit)",
            self.shared.config.place()
        )
    }

    /// Says that the server is there and takes nothing, once until it [is able](Self::is_able)
    /// again.
    pub(super) fn is_unable(&self, text: &str) {
        if locked(&self.shared.unable).replace(text.to_owned()).is_none() {
            (self.shared.notice)(&Happened::Refused { reason: text.to_owned() }.into());
        }
    }

    /// Says that it takes what it is given again, if it did not.
    pub(super) fn is_able(&self) {
        if locked(&self.shared.unable).take().is_some() {
            let server = format!("redis at {}", self.shared.config.place());
            (self.shared.notice)(&Happened::Able { server, again: Ability::Obey }.into());
        }
    }

    /// The same for one command.
    pub(super) async fn one(&self, args: &[&[u8]], wait: Wait) -> Result<Reply, Fail> {
        Ok(self.ask(Pack::of(args), wait).await?.pop().unwrap_or(Reply::Nil))
    }

    /// Resolves when something that is tracked may have changed. One waits at a time.
    pub(super) async fn changed(&self) {
        let Some(changes) = &self.shared.changes else { return };
        while changes.are_none() {
            self.shared.arm();
            changes.told().await;
        }
    }

    /// Gives the connection up for another one; false where there is none now.
    pub(super) fn renew(&self) -> bool {
        let mut wire = locked(&self.shared.wire);
        let Some(wire) = wire.as_mut() else { return false };
        wire.broken = Some(io::Error::other("it is to be another one"));
        self.shared.wake();
        true
    }

    /// Returns why it is away or takes nothing, while it is so.
    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.shared.trouble).clone().or_else(|| locked(&self.shared.unable).clone())
    }

    /// Returns what has changed since this was asked the last time.
    pub(super) fn changes(&self) -> Changed {
        self.shared.changes.as_ref().map(|changes| changes.take()).unwrap_or_default()
    }

    async fn send(&self, pack: Arc<Pack>) -> Result<Vec<Reply>, Fail> {
        let (done, replies) = oneshot::channel();
        if self.enqueue(Request { pack, done }) == Way::Direct {
            let advice = self.shared.look_record.advice();
            if advice == Advice::LookAfterOthers {
                // For the case that this is dropped here.
                self.shared.arm();
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
        let LinkShared { config, trouble, .. } = &*self.shared;
        match locked(trouble).clone() {
            Some(text) => Fail::Unable(text),
            None => {
                Fail::Lost(format!("redis at {} did not answer within {:?}; unknown whether it was done", config.place(), config.patience))
            }
        }
    }
}

impl LinkShared {
    /// Writes a request if nothing is under way and no other one waits; else gives it back.
    fn write_now(&self, request: Request) -> Option<Request> {
        if self.queued.load(Ordering::Acquire) > 0 {
            return Some(request);
        }
        let mut wire = locked(&self.wire);
        let Some(wire) = wire.as_mut().filter(|wire| wire.waiting.is_empty() && wire.connection.out.is_empty() && wire.broken.is_none())
        else {
            return Some(request);
        };
        // What nobody has looked at for a while may have ended.
        if wire.connection.is_hidden()
            && let Err(error) = wire.read(Connection::fill_now, Until::Nothing)
        {
            wire.broken = Some(error);
            self.wake();
            return Some(request);
        }
        wire.admit(request);
        let runtime = wire.runtime.clone();
        let _there = runtime.enter();
        // What could not be written, and what went wrong, is for the task.
        if !matches!(wire.connection.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.wake();
        }
        None
    }

    fn wake(&self) {
        locked(&self.task).wake_by_ref();
    }

    /// Looks for the answer to what was just written for a moment, as long as nothing else is under
    /// way: to be put to sleep and woken takes longer than many an answer does. Whether it came.
    fn watch(&self) -> bool {
        self.watch.fetch_or(WATCHED, Ordering::AcqRel);
        let start = std::time::Instant::now();
        loop {
            {
                let mut wire = locked(&self.wire);
                let Some(wire) = wire.as_mut() else { return false };
                if wire.waiting.len() > 1 || self.queued.load(Ordering::Acquire) > 0 {
                    self.look_record.crowd();
                    return false;
                }
                if !wire.connection.out.is_empty() {
                    // The server cannot answer half of it, and the task waits to write the rest.
                    return false;
                }
                wire.connection.hide();
                if let Err(error) = wire.read(Connection::fill_now, Until::Answered) {
                    wire.broken = Some(error);
                    self.watch.fetch_or(SKIPPED, Ordering::AcqRel);
                    return false;
                }
                if wire.waiting.is_empty() {
                    self.look_record.was(true);
                    // What came for the task since the look above, and found it with its hands off.
                    let skipped = self.watch.fetch_and(!WATCHED, Ordering::AcqRel) & SKIPPED != 0;
                    if skipped && (self.queued.load(Ordering::Acquire) > 0 || wire.broken.is_some()) {
                        self.wake();
                    }
                    return true;
                }
            }
            if start.elapsed() > GLANCE {
                self.look_record.was(false);
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Leaves to the task what comes in from now on.
    fn leave_to_task(&self) {
        if self.watch.swap(0, Ordering::AcqRel) & SKIPPED != 0 {
            self.wake();
        } else {
            self.arm();
        }
    }

    /// The task is woken by what comes in from now on.
    fn arm(&self) {
        let mut wire = locked(&self.wire);
        let Some(wire) = wire.as_mut().filter(|wire| wire.connection.is_hidden()) else { return };
        let (task, runtime) = (locked(&self.task).clone(), wire.runtime.clone());
        let _there = runtime.enter();
        let fill = |connection: &mut Connection| connection.poll_fill(&mut Context::from_waker(&task));
        if let Err(error) = wire.read(fill, Until::Nothing) {
            wire.broken = Some(error);
            task.wake();
        }
    }
}

/// Which way a request went.
#[derive(PartialEq)]
enum Way {
    Direct,
    Task,
}
