//! What goes past lapin on a connection of its own making: messages that are published, delivered
//! and confirmed, and acknowledgements. All else, and the life of channels and of the connection,
//! is lapin's.
//!
//! Ours are whole frames on channels that were taken over ([`Direct::take_over`]): between them and
//! lapin's there is no order but the one in which they were handed over. Nothing is written on a
//! channel after its end was read, which is before lapin answers that end.

use std::{
    collections::{HashMap, HashSet},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker, ready},
};

use lapin::{ConnectionState, ErrorKind, protocol::AMQPError};
use tokio::{io::AsyncWrite, net::tcp::OwnedWriteHalf};

use super::{
    confirms::{Batch, Confirms},
    frames::{self, FrameEnds, Method},
    headers::Taker,
    link::locked,
    properties::RawProperties,
    publish::Routed,
};

/// Bytes that may wait to be written before lapin's own have to.
const MOST: usize = 1 << 20;

/// A message that was delivered.
pub(super) struct Arrival {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    pub(super) properties: RawProperties,
    pub(super) body: Vec<u8>,
}

/// Takes messages that came together for a queue. It is called where nothing may wait.
pub(super) type Takes = Box<dyn Fn(&Arc<str>, Vec<Arrival>) + Send + Sync>;

/// Consumers of a channel, and who takes what they are sent.
pub(super) struct Inbox {
    /// Tags of consumers, with their queues.
    consumers: Mutex<Vec<(String, Arc<str>)>>,
    takes: Takes,
}

impl Inbox {
    pub(super) fn new(takes: Takes) -> Arc<Self> {
        Arc::new(Self { consumers: Mutex::default(), takes })
    }

    /// Adds a consumer, before the server knows it.
    pub(super) fn add(&self, tag: &str, queue: &Arc<str>) {
        locked(&self.consumers).push((tag.to_owned(), queue.clone()));
    }

    /// Forgets a consumer: the server has said that it sends it nothing more.
    pub(super) fn remove(&self, tag: &str) {
        locked(&self.consumers).retain(|(other, _)| other != tag);
    }

    fn queue(&self, tag: &[u8]) -> Option<Arc<str>> {
        let consumers = locked(&self.consumers);
        consumers.iter().find(|(other, _)| other.as_bytes() == tag).map(|(_, queue)| queue.clone())
    }
}

/// Taker of what comes on a channel.
#[derive(Clone)]
enum Sink {
    Confirms(Arc<Confirms>),
    Inbox(Arc<Inbox>),
    /// The channel was given up, and its end is on its way.
    Nobody,
}

/// Our share in a connection.
pub(super) struct Direct {
    sinks: Mutex<HashMap<u16, Sink>>,
    out: Mutex<Out>,
}

/// Bytes that are to be written.
struct Out {
    bytes: Vec<u8>,
    /// Number of them that were written.
    at: usize,
    /// Number of all that were written and forgotten.
    forgotten: u64,
    /// Ours that wait for the end of a frame of lapin's.
    held: Vec<u8>,
    lapins: FrameEnds,
    /// Channels that may be written on.
    open: HashSet<u16>,
    /// The socket, where it can be written to from anywhere; else lapin's thread alone writes.
    socket: Option<OwnedWriteHalf>,
    /// Wakes lapin's thread to read, before which it writes.
    waker: Option<Waker>,
    /// Wakes it to write, as it asked, and to read.
    both: Option<(Waker, Waker)>,
    gone: Option<lapin::Error>,
    /// Nobody waits for what is read here any more.
    is_abandoned: bool,
}

impl Direct {
    pub(super) fn new(socket: Option<OwnedWriteHalf>) -> Arc<Self> {
        let out = Out {
            bytes: Vec::new(),
            at: 0,
            forgotten: 0,
            held: Vec::new(),
            lapins: FrameEnds::default(),
            open: HashSet::new(),
            socket,
            waker: None,
            both: None,
            gone: None,
            is_abandoned: false,
        };
        Arc::new(Self { sinks: Mutex::default(), out: Mutex::new(out) })
    }

    /// Takes over a channel that lapin has opened, to publish with confirmations on it.
    pub(super) fn publishes(self: &Arc<Self>, channel: u16, frame_max: usize) -> DirectChannel {
        let confirms: Arc<Confirms> = Arc::default();
        self.take_over(channel, Sink::Confirms(confirms.clone()), confirms, frame_max)
    }

    /// Takes over a channel that lapin has opened, to consume on it.
    pub(super) fn consumes(self: &Arc<Self>, channel: u16, inbox: Arc<Inbox>) -> DirectChannel {
        self.take_over(channel, Sink::Inbox(inbox), Arc::default(), 0)
    }

    fn take_over(self: &Arc<Self>, id: u16, sink: Sink, confirms: Arc<Confirms>, frame_max: usize) -> DirectChannel {
        locked(&self.sinks).insert(id, sink);
        locked(&self.out).open.insert(id);
        DirectChannel { direct: self.clone(), id, confirms, frame_max }
    }

    /// Ends a connection that is not made whole: lapin, which waits for its server, reads an end.
    pub(super) fn abandon(&self) {
        let waker = {
            let mut out = locked(&self.out);
            out.is_abandoned = true;
            out.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Returns whether nobody waits for what is read.
    pub(super) fn is_abandoned(&self) -> bool {
        locked(&self.out).is_abandoned
    }

    /// Lets the socket go.
    pub(super) fn close(&self) {
        self.end(&gone());
        drop(locked(&self.out).socket.take());
    }

    /// Ends it all: the connection is gone, or will be.
    pub(super) fn end(&self, error: &lapin::Error) {
        let mut out = locked(&self.out);
        out.gone.get_or_insert_with(|| error.clone());
        out.open.clear();
        drop(out);
        let sinks = std::mem::take(&mut *locked(&self.sinks));
        for sink in sinks.into_values() {
            if let Sink::Confirms(confirms) = sink {
                confirms.fail(error);
            }
        }
    }

    /// Notes that the server has ended a channel.
    fn channel_ended(&self, channel: u16, error: &lapin::Error) {
        locked(&self.out).open.remove(&channel);
        if let Some(Sink::Confirms(confirms)) = locked(&self.sinks).remove(&channel) {
            confirms.fail(error);
        }
    }

    /// Takes what wakes lapin's thread for a read: before that it writes. What wakes it for a write
    /// will not do: it forgets that where it has nothing to write itself.
    pub(super) fn wakes(&self, waker: &Waker) {
        let mut out = locked(&self.out);
        (out.waker, out.both) = (Some(waker.clone()), None);
    }

    /// Takes bytes of lapin's.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8], encrypted: Option<&mut Encrypted>) -> Poll<io::Result<usize>> {
        let mut out = locked(&self.out);
        if out.bytes.len() - out.at > MOST {
            ready!(out.poll_flush(cx, encrypted))?;
        }
        out.bytes.extend_from_slice(bytes);
        out.lapins.take(bytes);
        if out.lapins.is_between() && !out.held.is_empty() {
            let held = std::mem::take(&mut out.held);
            out.bytes.extend_from_slice(&held);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Writes what there is.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>, encrypted: Option<&mut Encrypted>) -> Poll<io::Result<()>> {
        locked(&self.out).poll_flush(cx, encrypted)
    }

    /// Closes the socket for writing.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut locked(&self.out).socket {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A socket that only lapin's thread writes to.
pub(super) type Encrypted = dyn AsyncWrite + Unpin;

/// Two that are woken together.
struct BothWakers(Waker, Waker);

impl Wake for BothWakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

impl Out {
    /// Takes frames of ours, and writes them at once where that can be.
    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.lapins.is_between() {
            write(&mut self.held);
            return;
        }
        write(&mut self.bytes);
        if let Some(socket) = &self.socket {
            while self.at < self.bytes.len() {
                match socket.try_write(&self.bytes[self.at..]) {
                    Ok(count) if count > 0 => self.at += count,
                    // Its reason is lapin's to find, too.
                    _ => break,
                }
            }
            self.written();
        }
        if self.at < self.bytes.len()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, encrypted: Option<&mut Encrypted>) -> Poll<io::Result<()>> {
        let waker = self.both(cx);
        let cx = &mut Context::from_waker(&waker);
        let Self { bytes, at, forgotten, socket, .. } = self;
        let socket: &mut Encrypted = match (encrypted, socket) {
            (Some(encrypted), _) => encrypted,
            (None, Some(socket)) => socket,
            (None, None) => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        let mut socket = Pin::new(socket);
        while *at < bytes.len() {
            match ready!(socket.as_mut().poll_write(cx, &bytes[*at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *at += count,
            }
            if *at >= MOST {
                *forgotten += *at as u64;
                bytes.drain(..std::mem::take(at));
            }
        }
        ready!(socket.poll_flush(cx))?;
        self.written();
        Poll::Ready(Ok(()))
    }

    /// Returns what wakes lapin's thread as it asked, and so that it does not go to sleep again
    /// where it has nothing to write itself.
    fn both(&mut self, cx: &Context<'_>) -> Waker {
        let Some(reads) = &self.waker else { return cx.waker().clone() };
        if let Some((_, both)) = self.both.as_ref().filter(|(writes, _)| writes.will_wake(cx.waker())) {
            return both.clone();
        }
        let both = Waker::from(Arc::new(BothWakers(cx.waker().clone(), reads.clone())));
        self.both = Some((cx.waker().clone(), both.clone()));
        both
    }

    /// Forgets what was written: all of it, or a large part of what a slow socket leaves.
    fn written(&mut self) {
        if self.at == self.bytes.len() || self.at >= MOST {
            self.bytes.drain(..self.at);
            self.forgotten += self.at as u64;
            self.at = 0;
            if self.bytes.len() < MOST {
                self.bytes.shrink_to(MOST);
            }
        }
    }
}

/// A channel that was taken over. It is given back to lapin, for its end, when this is dropped.
pub(super) struct DirectChannel {
    direct: Arc<Direct>,
    id: u16,
    confirms: Arc<Confirms>,
    frame_max: usize,
}

impl DirectChannel {
    /// Publishes messages, in order.
    pub(super) fn publish(&self, sends: Vec<Routed>) -> Arc<Batch> {
        let batch = Batch::new(sends);
        let mut out = locked(&self.direct.out);
        if let Some(error) = self.end_of(&out) {
            drop(out);
            batch.fail(&error);
            return batch;
        }
        // The server counts them as they come.
        self.confirms.add(&batch);
        out.send(|bytes| {
            for routed in &batch.sends {
                let message = frames::Outgoing {
                    exchange: &routed.exchange,
                    key: &routed.key,
                    mandatory: routed.mandatory,
                    properties: routed.parcel.properties.bytes(),
                    body: &routed.parcel.body,
                };
                frames::publish(self.id, &message, self.frame_max, bytes);
            }
        });
        batch
    }

    /// Returns those of a batch of which the server has said nothing.
    pub(super) fn unsaid(&self, batch: &Arc<Batch>) -> Vec<usize> {
        self.confirms.unsaid(batch)
    }

    /// Returns how many bytes a slow connection has taken so far; `None`: it has taken all. What
    /// lapin writes by itself, heartbeats, is no progress.
    pub(super) fn taken(&self) -> Option<u64> {
        let out = locked(&self.direct.out);
        (out.at < out.bytes.len()).then(|| out.forgotten + out.at as u64)
    }

    /// Acknowledges tags, of which each may mean all before it, too; and gives others back.
    pub(super) fn settle(&self, acks: &[(u64, bool)], backs: &[u64]) {
        let mut out = locked(&self.direct.out);
        if self.end_of(&out).is_some() {
            return;
        }
        out.send(|bytes| {
            acks.iter().for_each(|(tag, multiple)| frames::ack(self.id, *tag, *multiple, bytes));
            backs.iter().for_each(|tag| frames::give_back(self.id, *tag, bytes));
        });
    }

    /// Gives one back that nobody is to be given again.
    pub(super) fn reject(&self, tag: u64) {
        let mut out = locked(&self.direct.out);
        if self.end_of(&out).is_none() {
            out.send(|bytes| frames::reject(self.id, tag, bytes));
        }
    }

    fn end_of(&self, out: &Out) -> Option<lapin::Error> {
        if out.open.contains(&self.id) {
            return None;
        }
        Some(out.gone.clone().unwrap_or_else(gone))
    }
}

impl DirectChannel {
    /// Gives the channel back to lapin, for its end.
    pub(super) fn give_back(&self) {
        let was_ours = locked(&self.direct.out).open.remove(&self.id);
        if was_ours && let Some(sink) = locked(&self.direct.sinks).get_mut(&self.id) {
            *sink = Sink::Nobody;
        }
        self.confirms.fail(&gone());
    }
}

impl Drop for DirectChannel {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Returns the error of what is not there any more.
fn gone() -> lapin::Error {
    ErrorKind::InvalidConnectionState(ConnectionState::Closed).into()
}

fn error_of(code: u16, text: &[u8]) -> lapin::Error {
    let error = AMQPError::from_id(code, String::from_utf8_lossy(text).as_ref().into());
    error.map_or_else(gone, |error| ErrorKind::ProtocolError(error).into())
}

/// Reads what comes on a connection, and takes what is ours.
pub(super) struct Reads {
    direct: Arc<Direct>,
    /// Messages that have come in part.
    contents: Vec<Content>,
    /// Messages that have come whole, by those who take them.
    arrived: Vec<(Arc<Inbox>, Arc<str>, Vec<Arrival>)>,
}

/// A message that has come in part.
struct Content {
    channel: u16,
    whose: Whose,
    properties: Vec<u8>,
    body: Vec<u8>,
    left: usize,
}

enum Whose {
    Delivery { inbox: Arc<Inbox>, queue: Arc<str>, tag: u64, redelivered: bool },
    Returned { confirms: Arc<Confirms>, exchange: Vec<u8>, key: Vec<u8> },
    Nobody,
}

impl Reads {
    pub(super) fn new(direct: Arc<Direct>) -> Self {
        Self { direct, contents: Vec::new(), arrived: Vec::new() }
    }

    /// Hands over what has come.
    pub(super) fn deliver(&mut self) {
        for (inbox, queue, arrivals) in self.arrived.drain(..) {
            (inbox.takes)(&queue, arrivals);
        }
    }

    fn sink(&self, channel: u16) -> Option<Sink> {
        locked(&self.direct.sinks).get(&channel).cloned()
    }

    fn begin(&mut self, channel: u16, whose: Whose) -> bool {
        self.contents.push(Content { channel, whose, properties: Vec::new(), body: Vec::new(), left: 0 });
        true
    }

    fn content(&mut self, channel: u16) -> Option<&mut Content> {
        self.contents.iter_mut().find(|content| content.channel == channel)
    }

    fn end_if_whole(&mut self, channel: u16) {
        let Some(at) = self.contents.iter().position(|content| content.channel == channel && content.left == 0) else { return };
        let Content { whose, properties, body, .. } = self.contents.swap_remove(at);
        match whose {
            Whose::Nobody => {}
            Whose::Returned { confirms, exchange, key } => confirms.returned(&exchange, &key, &properties, &body),
            Whose::Delivery { inbox, queue, tag, redelivered } => {
                let arrival = Arrival { tag, redelivered, properties: RawProperties::received(properties), body };
                match self.arrived.last_mut() {
                    Some((last, its, arrivals)) if Arc::ptr_eq(last, &inbox) && *its == queue => arrivals.push(arrival),
                    _ => self.arrived.push((inbox, queue, vec![arrival])),
                }
            }
        }
    }

    /// Notes the end of a channel or of all. lapin has to know it as well.
    fn ended(&mut self, channel: u16, method: &Method<'_>) {
        match method {
            Method::ChannelClose { code, text } => {
                self.direct.channel_ended(channel, &error_of(*code, text));
                self.contents.retain(|content| content.channel != channel);
            }
            Method::ChannelClosed => {
                self.direct.channel_ended(channel, &gone());
                self.contents.retain(|content| content.channel != channel);
            }
            Method::ConnectionClose { code, text } => self.direct.end(&error_of(*code, text)),
            _ => {}
        }
    }
}

impl Taker for Reads {
    fn method(&mut self, channel: u16, payload: &[u8]) -> bool {
        let Some(method) = Method::read(payload) else { return false };
        let sink = self.sink(channel);
        match (method, sink) {
            (Method::Deliver { consumer, tag, redelivered }, Some(Sink::Inbox(inbox))) => match inbox.queue(consumer) {
                Some(queue) => self.begin(channel, Whose::Delivery { inbox, queue, tag, redelivered }),
                None => false,
            },
            (Method::Return { exchange, key }, Some(Sink::Confirms(confirms))) => {
                self.begin(channel, Whose::Returned { confirms, exchange: exchange.to_vec(), key: key.to_vec() })
            }
            (Method::Deliver { .. } | Method::Return { .. }, Some(Sink::Nobody)) => self.begin(channel, Whose::Nobody),
            (Method::Confirm { tag, multiple, ok }, Some(Sink::Confirms(confirms))) => {
                confirms.confirm(tag, multiple, ok);
                true
            }
            (Method::Confirm { .. }, Some(Sink::Nobody)) => true,
            (method, _) => {
                self.ended(channel, &method);
                false
            }
        }
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> bool {
        let Some(content) = self.content(channel) else { return false };
        let Some((head, properties)) = payload.split_at_checked(12) else { return false };
        let size = u64::from_be_bytes([head[4], head[5], head[6], head[7], head[8], head[9], head[10], head[11]]);
        content.left = usize::try_from(size).unwrap_or(usize::MAX);
        if !matches!(content.whose, Whose::Nobody) {
            content.properties = properties.to_vec();
            // It is reserved as it comes: what the server announces is not there yet.
            content.body.reserve(content.left.min(1 << 20));
        }
        self.end_if_whole(channel);
        true
    }

    fn has_body(&mut self, channel: u16) -> bool {
        self.content(channel).is_some()
    }

    fn body(&mut self, channel: u16, piece: &[u8]) {
        let Some(content) = self.content(channel) else { return };
        if !matches!(content.whose, Whose::Nobody) {
            content.body.extend_from_slice(piece);
        }
        content.left = content.left.saturating_sub(piece.len());
        self.end_if_whole(channel);
    }
}
