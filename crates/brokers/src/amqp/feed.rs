//! A channel that gives messages, looked after: made again when it is lost, with a window that
//! follows the worker, and asked now and then whether it still lives.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    consumer::Shared,
    declare::{Giving, Undeclared},
    direct::{DirectChannel, Inbox},
    fail::{Consequence, advised, consequence, is_not_found, is_not_implemented, words},
    link::{Open, Wait, pause},
    window,
};
use crate::{lease, news::News};

/// Longest time between two looks whether the server still answers, which cost two frames each.
const LOOK: Duration = Duration::from_secs(5);
/// Time that a channel has to close.
const CLOSE: Duration = Duration::from_secs(3);
/// Time after which what nobody claims goes back.
const UNCLAIMED: Duration = Duration::from_secs(1);
/// Time after which a queue that cannot be had is asked for again, and one that does not answer.
const AGAIN: Duration = Duration::from_secs(5);
const RARELY: Duration = Duration::from_secs(60);
/// Longest time that a queue has to answer.
const ANSWER: Duration = Duration::from_secs(10);
const NO_ANSWER: &str = "it does not answer (a quorum queue without a leader?); look at it with `rabbitmq-queues quorum_status`, and make it anew where it \
                         is lost";

/// End of one queue's deliveries.
struct Stopped {
    queue: Arc<str>,
    tag: String,
    error: Option<lapin::Error>,
}

/// Failure to become a queue's consumer.
enum Unserved {
    /// The queue does not take us: the reason. The channel is lost.
    No(String),
    /// The connection went away.
    Away(String),
}

/// Reason why a channel is given up.
enum Lost {
    /// The consumer is closed.
    Closed,
    /// The server, or the way to it, has ended it.
    Away(String),
}

/// Looks after the channel of one kind of queues until the consumer is closed.
pub(super) async fn run(shared: Arc<Shared>, giving: Giving, heartbeat: Duration) {
    let mut attempt = 0;
    let (mut missing, mut kept_out) = (Reasons::new(), Reasons::new());
    while !shared.is_closed() {
        let Ok(open) = shared.link.open(Wait::Forever).await else { return };
        let begun = Instant::now();
        let mut feed = Feed { shared: &shared, giving, heartbeat, open: &open, missing: &mut missing, kept_out: &mut kept_out };
        let lost = feed.serve().await;
        let count = shared.lose(giving);
        match lost {
            Lost::Closed => return,
            Lost::Away(why) if count > 0 => {
                let text = format!("rabbitmq at {}: {why}; {} lent to {} may run again", open.place, messages(count), shared.node);
                (shared.link.notice())(&News::remark(text));
            }
            Lost::Away(why) if giving == Giving::Classic && !open.is_up() && !shared.has_left() => {
                let text = format!("rabbitmq at {}: {why}; nothing was lent to {}", open.place, shared.node);
                (shared.link.notice())(&News::remark(text));
            }
            Lost::Away(_) => {}
        }
        attempt = if begun.elapsed() > AGAIN { 0 } else { attempt + 1 };
        sleep(pause(attempt)).await;
    }
}

/// Returns the time between two looks: some come within the time after which a side that is silent
/// is taken for dead, which is the lease's.
fn between_looks(heartbeat: Duration) -> Duration {
    LOOK.min(heartbeat / 4)
}

fn messages(count: usize) -> String {
    if count == 1 { "1 message that was".to_owned() } else { format!("{count} messages that were") }
}

/// Reasons that were told for which queues give nothing, and when they are asked for again.
type Reasons = HashMap<Arc<str>, (String, Instant)>;

struct Feed<'a> {
    shared: &'a Arc<Shared>,
    giving: Giving,
    heartbeat: Duration,
    open: &'a Arc<Open>,
    /// Queues that are not there, and cannot be made.
    missing: &'a mut Reasons,
    /// Queues that are there, and do not take us as a consumer.
    kept_out: &'a mut Reasons,
}

/// A channel in service.
struct Serving {
    /// Our share in the channel, given back before that ends.
    direct: Arc<DirectChannel>,
    inbox: Arc<Inbox>,
    channel: Channel,
    session: u64,
    window: u16,
    /// Queues that give, with the tags of their consumers.
    consuming: HashMap<Arc<str>, String>,
    stopped: mpsc::UnboundedSender<Stopped>,
}

/// Returns whether a queue is not to be asked for yet.
fn is_to_wait(reasons: &Reasons, queue: &str) -> bool {
    reasons.get(queue).is_some_and(|(_, again)| *again > Instant::now())
}

fn silent(queue: &str) -> Result<Giving, Undeclared> {
    Err(Undeclared::Later(format!("queue {queue}: {NO_ANSWER}")))
}

/// Notes a reason, and returns whether it is to be told.
fn note(reasons: &mut Reasons, queue: &Arc<str>, why: &str, again: Duration) -> bool {
    let before = reasons.insert(queue.clone(), (why.to_owned(), Instant::now() + again));
    before.is_none_or(|(before, _)| before != why)
}

impl Feed<'_> {
    async fn serve(&mut self) -> Lost {
        let mut serving: Option<Serving> = None;
        let lost = self.serve_on(&mut serving).await;
        if let Some(serving) = serving
            && serving.channel.status().connected()
        {
            serving.direct.give_back();
            let _ = timeout(CLOSE, serving.channel.close(200, "".into())).await;
        }
        lost
    }

    async fn serve_on(&mut self, serving: &mut Option<Serving>) -> Lost {
        let (stopped, mut stops) = mpsc::unbounded_channel();
        let every = between_looks(self.heartbeat);
        let mut look = Instant::now() + every;
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            if self.shared.has_left() || (self.shared.is_closed() && serving.is_none()) {
                return Lost::Closed;
            }
            if let Err(lost) = self.adjust(serving, &stopped).await {
                return lost;
            }
            let wake = self.next_look(serving.as_ref(), look);
            tokio::select! {
                () = changed => {}
                stop = stops.recv() => {
                    let Some(stop) = stop else { continue };
                    if let Err(lost) = self.stopped(stop, serving.as_mut()) {
                        return lost;
                    }
                }
                () = sleep_until(wake) => {
                    if Instant::now() >= look {
                        look = Instant::now() + every;
                        if let Err(lost) = self.look(serving.as_ref()).await {
                            return lost;
                        }
                    }
                    if let Some(serving) = serving
                        && let Err(lost) = self.give_back(serving, Instant::now() - UNCLAIMED).await
                    {
                        return lost;
                    }
                }
            }
        }
    }

    fn next_look(&self, serving: Option<&Serving>, look: Instant) -> Instant {
        let oldest = serving.and_then(|serving| self.shared.state().oldest(serving.session));
        oldest.map_or(look, |oldest| look.min(oldest + UNCLAIMED))
    }

    /// Makes the channel and its consumers as they should be.
    async fn adjust(&mut self, slot: &mut Option<Serving>, stopped: &mpsc::UnboundedSender<Stopped>) -> Result<(), Lost> {
        if let (true, Some(serving)) = (self.shared.is_closed(), slot.as_mut()) {
            // What was claimed ends on this channel; the rest is for others.
            self.cancel_all(serving).await?;
            return self.give_back(serving, Instant::now()).await;
        }
        let queues = self.mine().await?;
        if slot.is_none() && queues.is_empty() {
            self.shared.needs_none(self.giving);
            return if self.open.is_up() { Ok(()) } else { Err(Lost::Away("the connection is gone".to_owned())) };
        }
        let (claimed, room, waits) = {
            let state = self.shared.state();
            (state.claimed(self.giving), state.room, state.waits)
        };
        let wanted = window::wanted(claimed, room);
        if slot.is_none() {
            *slot = Some(self.begin(wanted, stopped.clone()).await?);
        }
        let Some(serving) = slot else { return Ok(()) };
        if self.is_to_begin_anew() {
            self.begin_anew(serving, claimed, room).await?;
        } else if self.giving == Giving::Classic && window::is_to_change(serving.window, wanted, waits) {
            self.set_window(serving, wanted).await?;
        }
        let gone: Vec<_> = serving.consuming.keys().filter(|queue| !queues.contains(queue)).cloned().collect();
        for queue in gone {
            self.cancel(serving, &queue).await?;
        }
        if self.shared.state().gives[self.giving as usize] {
            for queue in queues {
                if !serving.consuming.contains_key(&queue) {
                    self.consume(serving, &queue).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether consumers are to begin anew: a claim waits, and they rest, or have all that
    /// they may have.
    fn is_to_begin_anew(&self) -> bool {
        let mut state = self.shared.state();
        let rested = state.waits && !std::mem::replace(&mut state.gives[self.giving as usize], true);
        rested || (self.giving == Giving::Fixed && state.is_starved(self.giving))
    }

    async fn begin_anew(&self, serving: &mut Serving, claimed: usize, room: usize) -> Result<(), Lost> {
        self.cancel_all(serving).await?;
        self.shared.state().count_anew(self.giving);
        // A limit for all consumers counts what is claimed; one for each begins with nothing, but
        // for what comes again.
        let claimed = if self.giving == Giving::Classic { claimed } else { self.shared.state().held.lost() };
        self.set_window(serving, window::wanted(claimed, room)).await
    }

    async fn cancel_all(&self, serving: &mut Serving) -> Result<(), Lost> {
        let queues: Vec<_> = serving.consuming.keys().cloned().collect();
        for queue in queues {
            self.cancel(serving, &queue).await?;
        }
        Ok(())
    }

    /// Returns the queues in service that give as this channel does.
    async fn mine(&mut self) -> Result<Vec<Arc<str>>, Lost> {
        let mut mine = Vec::new();
        for queue in self.shared.turns.order() {
            if is_to_wait(self.missing, &queue) {
                continue;
            }
            // One that does not answer holds up the others no longer than this.
            match timeout(LOOK, self.shared.declarer.ensure(self.open, &queue)).await.unwrap_or_else(|_| silent(&queue)) {
                Ok(giving) => {
                    if self.missing.remove(&queue).is_some() && giving == self.giving {
                        self.tell(format!("queue {queue} is there"));
                    }
                    if giving == self.giving {
                        mine.push(queue);
                    }
                }
                // Both channels look; one of them tells.
                Err(Undeclared::No(why) | Undeclared::Later(why)) => {
                    let again = if why.ends_with(NO_ANSWER) { RARELY } else { AGAIN };
                    if note(self.missing, &queue, &why, again) && self.giving == Giving::Classic {
                        self.tell_refusal(&queue, &why, again);
                    }
                }
                Err(Undeclared::Away(why)) => return Err(Lost::Away(why)),
            }
        }
        Ok(mine)
    }

    fn tell_refusal(&self, queue: &str, why: &str, again: Duration) {
        self.tell(format!("nothing is taken from queue {queue}: {why}; asked again every {} s", again.as_secs()));
    }

    /// Notes that a queue does not take us.
    fn keep_out(&mut self, queue: &Arc<str>, why: &str) {
        if note(self.kept_out, queue, why, AGAIN) {
            self.tell_refusal(queue, why, AGAIN);
        }
    }

    fn tell(&self, text: String) {
        (self.shared.link.notice())(&News::remark(format!("rabbitmq at {}: {text}", self.open.place)));
    }

    async fn begin(&self, window: u16, stopped: mpsc::UnboundedSender<Stopped>) -> Result<Serving, Lost> {
        let channel = self.open.channel().await.map_err(|error| Lost::Away(words(&error)))?;
        let asked = lease::clock();
        self.open.answer(channel.basic_qos(window, self.qos())).await.map_err(|error| Lost::Away(words(&error)))?;
        self.shared.lease.renewed(asked, lease::clock());
        let session = self.shared.state().next_session();
        // Whoever drops the consumer drops its connection.
        let shared = Arc::downgrade(self.shared);
        let inbox = Inbox::new(Box::new(move |queue, arrivals| {
            if let Some(shared) = shared.upgrade() {
                shared.arrive(queue, session, arrivals);
            }
        }));
        let direct = Arc::new(self.open.direct.consumes(channel.id(), inbox.clone()));
        self.shared.state().begin(self.giving, session, direct.clone(), window);
        self.shared.arrived.notify_waiters();
        Ok(Serving { direct, inbox, channel, session, window, consuming: HashMap::new(), stopped })
    }

    fn qos(&self) -> BasicQosOptions {
        BasicQosOptions { global: self.giving == Giving::Classic }
    }

    async fn set_window(&self, serving: &mut Serving, window: u16) -> Result<(), Lost> {
        self.open.answer(serving.channel.basic_qos(window, self.qos())).await.map_err(|error| Lost::Away(words(&error)))?;
        serving.window = window;
        if let Some(session) = &mut self.shared.state().sessions[self.giving as usize] {
            session.window = window;
        }
        Ok(())
    }

    /// Asks for a queue's messages.
    async fn ask(&mut self, channel: &Channel, queue: &Arc<str>, tag: &str) -> Result<Consumer, Unserved> {
        let asked = channel.basic_consume((**queue).into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default());
        match timeout(ANSWER, asked).await {
            Ok(Ok(consumer)) => Ok(consumer),
            Ok(Err(error)) if consequence(&error) == Consequence::Connection => {
                if is_not_implemented(&error) && self.giving == Giving::Classic {
                    self.shared.declarer.gives_fixed(queue);
                }
                Err(Unserved::Away(words(&error)))
            }
            Ok(Err(error)) => {
                if is_not_found(&error) {
                    self.shared.declarer.forget(queue);
                }
                Err(Unserved::No(advised(&error, "read")))
            }
            Err(_) => Err(Unserved::No(NO_ANSWER.to_owned())),
        }
    }

    /// Tries a queue that has kept us out on a channel of its own: what it refuses ends nothing
    /// else. Returns whether it takes us now.
    async fn takes_us_again(&mut self, queue: &Arc<str>) -> Result<bool, Lost> {
        if is_to_wait(self.kept_out, queue) {
            return Ok(false);
        }
        let channel = self.open.channel().await.map_err(|error| Lost::Away(words(&error)))?;
        let _ = self.open.answer(channel.basic_qos(1, BasicQosOptions::default())).await;
        let asked = self.ask(&channel, queue, "").await;
        if channel.status().connected() {
            let _ = timeout(LOOK, channel.close(200, "".into())).await;
        }
        match asked {
            Ok(_) => {
                self.kept_out.remove(queue);
                self.tell(format!("queue {queue} gives again"));
                Ok(true)
            }
            Err(Unserved::No(why)) => {
                self.keep_out(queue, &why);
                Ok(false)
            }
            Err(Unserved::Away(why)) => Err(Lost::Away(why)),
        }
    }

    async fn consume(&mut self, serving: &mut Serving, queue: &Arc<str>) -> Result<(), Lost> {
        if self.kept_out.contains_key(queue) && !self.takes_us_again(queue).await? {
            return Ok(());
        }
        let tag = format!("{} {}", self.shared.node, uuid::Uuid::new_v4().simple());
        let tag: String = tag.chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        serving.inbox.add(&tag, queue);
        let consumer = match self.ask(&serving.channel, queue, &tag).await {
            Ok(consumer) => consumer,
            Err(Unserved::Away(why)) => return Err(Lost::Away(why)),
            Err(Unserved::No(why)) => {
                self.keep_out(queue, &why);
                return Err(Lost::Away(why));
            }
        };
        serving.consuming.insert(queue.clone(), tag.clone());
        if self.shared.publisher.is_to_bind(queue, self.shared.takes_delayed && self.giving == Giving::Fixed) {
            let (publisher, queue) = (self.shared.publisher.clone(), queue.clone());
            tokio::spawn(async move { publisher.take_delayed(&queue).await });
        }
        // What it is sent goes past lapin; its end does not.
        let (queue, stopped) = (queue.clone(), serving.stopped.clone());
        tokio::spawn(async move {
            let mut consumer = consumer;
            let error = loop {
                match consumer.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            };
            let _ = stopped.send(Stopped { queue, tag, error });
        });
        Ok(())
    }

    async fn cancel(&self, serving: &mut Serving, queue: &Arc<str>) -> Result<(), Lost> {
        let Some(tag) = serving.consuming.remove(queue) else { return Ok(()) };
        let canceled = serving.channel.basic_cancel(tag.as_str().into(), BasicCancelOptions::default());
        self.open.answer_of_queue(canceled).await.map_err(|error| Lost::Away(words(&error)))?;
        // Everything that it was sent came before that answer.
        serving.inbox.remove(&tag);
        Ok(())
    }

    /// Takes note that a queue gives nothing any more.
    fn stopped(&mut self, stop: Stopped, serving: Option<&mut Serving>) -> Result<(), Lost> {
        if let Some(error) = stop.error {
            return Err(Lost::Away(words(&error)));
        }
        let Some(serving) = serving else { return Ok(()) };
        if !serving.channel.status().connected() {
            return Err(Lost::Away("the channel was closed".to_owned()));
        }
        // We have canceled it ourselves, or the server has: the queue was deleted.
        if serving.consuming.get(&stop.queue) == Some(&stop.tag) {
            serving.consuming.remove(&stop.queue);
            serving.inbox.remove(&stop.tag);
            self.shared.publisher.deleted(&stop.queue);
            self.tell(format!("queue {} was deleted while it was served; it is declared again", stop.queue));
        }
        Ok(())
    }

    /// Asks for an answer, which says that the server takes us for alive, and that it has all
    /// acknowledgements that went before.
    async fn look(&self, serving: Option<&Serving>) -> Result<(), Lost> {
        let Some(serving) = serving else {
            return if self.open.is_up() { Ok(()) } else { Err(Lost::Away("the connection is gone".to_owned())) };
        };
        let (asked, place) = (lease::clock(), self.shared.state().held.last_end());
        match timeout(self.heartbeat, serving.channel.basic_qos(serving.window, self.qos())).await {
            Ok(Ok(())) => {
                self.shared.lease.renewed(asked, lease::clock());
                self.shared.state().held.has_all(serving.session, place);
                Ok(())
            }
            Ok(Err(error)) => Err(Lost::Away(words(&error))),
            // It may be frozen, or the way to it: the heartbeat decides.
            Err(_) => Ok(()),
        }
    }

    /// Gives back what has come until then and nobody claims, for others to do.
    async fn give_back(&self, serving: &mut Serving, since: Instant) -> Result<(), Lost> {
        let unclaimed = self.shared.state().unclaimed(serving.session, since);
        if unclaimed.is_empty() {
            return Ok(());
        }
        // First it must not come again at once.
        self.shared.state().gives[self.giving as usize] = false;
        // Where that is not answered, the channel ends, and with it what it has lent.
        self.cancel_all(serving).await?;
        self.shared.give_back(unclaimed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_looks_come_within_a_heartbeat_and_no_more_than_need_be() {
        for (heartbeat, millis) in [(2, 500), (5, 1_250), (20, 5_000), (3_600, 5_000)] {
            assert_eq!(between_looks(Duration::from_secs(heartbeat)), Duration::from_millis(millis), "{heartbeat}");
        }
        assert_eq!(between_looks(Duration::MAX), LOOK);
    }
}
