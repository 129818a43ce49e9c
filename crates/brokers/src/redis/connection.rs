//! One connection: bytes out, replies in. Who uses it decides what a lost one means.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    fail::{Fail, Refusal, explain, refusal},
    resp::{Pack, Parsed, Reply, parse, parse_much},
    sentinel,
    socket::{Plain, Socket},
    url::{Config, ServerPlace},
};

/// Longest time that a server may take to accept a connection and to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(3);
const ROOM: usize = 64 << 10;
/// Bytes beyond which a reply is looked at before it is read.
const MUCH: usize = 4 * ROOM;

/// Words of the server about itself and about us.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hello {
    /// `redis`, `valkey`.
    pub(super) server: String,
    pub(super) version: String,
    /// The number and the address that it knows this connection by.
    pub(super) id: i64,
    pub(super) address: String,
}

/// A connection on which the server has introduced itself and is able to serve.
pub(super) struct Connection {
    socket: Box<dyn Socket>,
    /// Bytes that were read: `input[from..to]` is not parsed yet, and nothing can be made of it
    /// before `need` bytes are there.
    input: Vec<u8>,
    from: usize,
    to: usize,
    need: usize,
    pub(super) out: Vec<u8>,
    written: usize,
    /// Some of it may still be with the socket.
    flushing: bool,
    /// Messages that came unasked.
    pub(super) pushes: VecDeque<Vec<Reply>>,
    pub(super) hello: Hello,
}

impl Connection {
    /// Connects and introduces itself; for the server behind sentinels, asks them first.
    pub(super) async fn open(config: &Config) -> Result<Self, Fail> {
        let late = || Fail::Unable(format!("redis at {} does not answer (no word within {INTRODUCTION:?})", config.place()));
        timeout(INTRODUCTION, async {
            match &config.sentinel {
                Some(name) => sentinel::open(config, name).await,
                None => Self::open_at(config, &config.places[0]).await,
            }
        })
        .await
        .map_err(|_| late())?
    }

    /// Connects to this place, without asking sentinels.
    pub(super) async fn open_at(config: &Config, place: &ServerPlace) -> Result<Self, Fail> {
        let mut connection = Self::raw(config, place).await?;
        connection.introduce(config, place).await?;
        Ok(connection)
    }

    /// Connects, and says nothing yet.
    pub(super) async fn raw(config: &Config, place: &ServerPlace) -> Result<Self, Fail> {
        let unable =
            |error: io::Error| Fail::Unable(format!("redis at {place} cannot be reached: {error}; is it running, and is the URL right?"));
        let socket: Box<dyn Socket> = match place {
            ServerPlace::Unix { path } => Box::new(Plain::Known(UnixStream::connect(path).await.map_err(unable)?)),
            ServerPlace::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unable)?;
                stream.set_nodelay(true).map_err(unable)?;
                match &config.tls {
                    None => Box::new(Plain::Known(stream)),
                    Some(how) => Box::new(crate::tls::wrap(stream, host, how).await.map_err(|error| match error.kind() {
                        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                            Fail::Refused(format!("redis at {place}: TLS: {error}"))
                        }
                        _ => unable(error),
                    })?),
                }
            }
        };
        let input = vec![0; ROOM];
        Ok(Self {
            socket,
            input,
            from: 0,
            to: 0,
            need: 1,
            out: Vec::new(),
            written: 0,
            flushing: false,
            pushes: VecDeque::new(),
            hello: Hello::default(),
        })
    }

    async fn introduce(&mut self, config: &Config, place: &ServerPlace) -> Result<(), Fail> {
        let lost = |error: io::Error| match crate::tls::objection(&error) {
            Some(objection) => Fail::Refused(format!("redis at {place}: {objection}")),
            None => Fail::Unable(format!("redis at {place} ended the connection at once: {error}")),
        };
        let db = config.db.to_string();
        let mut pack = Pack::default();
        // Name and password go along with `HELLO`, because a server that wants them answers nothing
        // before.
        match (&config.user, &config.password) {
            (user, Some(password)) => {
                let user = user.as_deref().unwrap_or("default");
                pack.add(&[b"HELLO", b"3", b"AUTH", user.as_bytes(), password.as_bytes(), b"SETNAME", b"longshore"]);
            }
            _ => pack.add(&[b"HELLO", b"3", b"SETNAME", b"longshore"]),
        }
        if config.db != 0 {
            pack.add(&[b"SELECT", db.as_bytes()]);
        }
        // Tells the address under which the server knows this connection: after a loss the next one
        // has it killed.
        pack.add(&[b"CLIENT", b"INFO"]);
        // Unlike the commands before it, this one is refused while a server still loads its data.
        pack.add(&[b"PING"]);
        let replies = self.call(&pack).await.map_err(lost)?;
        if let Some(error) = replies.iter().find_map(Reply::error) {
            if error.starts_with("ERR unknown command") || error.starts_with("NOPROTO") {
                return Err(Fail::Refused(format!("redis at {place} is older than 6.2, which longshore needs")));
            }
            let text = explain(&place.to_string(), error);
            return Err(match refusal(error) {
                Refusal::NotNow | Refusal::NotThere => Fail::Unable(text),
                Refusal::Shut => Fail::Shut(text),
                Refusal::Unknown | Refusal::Never => Fail::Refused(text),
            });
        }
        let mut replies = replies.into_iter();
        let facts = replies.next().map(Reply::into_list).unwrap_or_default();
        for fact in facts.chunks(2) {
            match (fact[0].text().as_deref(), fact.get(1)) {
                (Some("server"), Some(value)) => self.hello.server = value.text().unwrap_or_default(),
                (Some("version"), Some(value)) => self.hello.version = value.text().unwrap_or_default(),
                (Some("id"), Some(value)) => self.hello.id = value.int().unwrap_or_default(),
                _ => {}
            }
        }
        let about_us = replies.nth(usize::from(config.db != 0)).and_then(|reply| reply.text()).unwrap_or_default();
        self.hello.address = about_us.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap_or_default().to_owned();
        if is_old(&self.hello.version) {
            let Hello { server, version, .. } = &self.hello;
            return Err(Fail::Refused(format!("{server} {version} at {place} is too old: longshore needs Redis 6.2 or newer, or Valkey")));
        }
        Ok(())
    }

    /// Sends and waits for all replies. What is pushed meanwhile is kept in `pushes`.
    pub(super) async fn call(&mut self, pack: &Pack) -> io::Result<Vec<Reply>> {
        pack.write_to(&mut self.out);
        let mut replies = Vec::with_capacity(pack.replies());
        poll_fn(|cx| {
            loop {
                while replies.len() < pack.replies() {
                    match self.next()? {
                        Some(Reply::Push(push)) => self.pushes.push_back(push),
                        Some(reply) => replies.push(reply),
                        None => break,
                    }
                }
                if replies.len() == pack.replies() {
                    return Poll::Ready(io::Result::Ok(()));
                }
                let _ = self.poll_flush(cx)?;
                ready!(self.poll_fill(cx))?;
            }
        })
        .await?;
        Ok(replies)
    }

    /// Waits for whatever the server says next. May be dropped at any point.
    pub(super) async fn any(&mut self) -> io::Result<Reply> {
        poll_fn(|cx| {
            loop {
                if let Some(push) = self.pushes.pop_front() {
                    return Poll::Ready(Ok(Reply::Push(push)));
                }
                if let Some(reply) = self.next()? {
                    return Poll::Ready(Ok(reply));
                }
                let _ = self.poll_flush(cx)?;
                ready!(self.poll_fill(cx))?;
            }
        })
        .await
    }

    /// Writes what is in `out`. Ready when all of it is written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.flushing {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.out.clear();
        self.written = 0;
        // A large batch leaves no large buffer behind.
        if self.out.capacity() > 16 * ROOM {
            self.out.shrink_to(ROOM);
        }
        // What is encrypted may be written in part.
        self.flushing = true;
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.flushing = false;
        Poll::Ready(Ok(()))
    }

    /// Reads what there is, at least a byte.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.input[self.to..]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        Poll::Ready(self.filled(count))
    }

    /// Reads what has come, without the runtime: pending means that nothing has, and nobody is
    /// woken when it does.
    pub(super) fn fill_now(&mut self) -> Poll<io::Result<()>> {
        self.make_room();
        match self.socket.read_now(&mut self.input[self.to..]) {
            Ok(count) => Poll::Ready(self.filled(count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Hides the socket from the runtime: what comes from now on is looked for by
    /// [`fill_now`](Self::fill_now), or waited for by [`poll_fill`](Self::poll_fill) first.
    pub(super) fn hide(&mut self) {
        self.socket.hide();
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.socket.is_hidden()
    }

    fn make_room(&mut self) {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.input.len() > 16 * ROOM {
                self.input.truncate(ROOM);
                self.input.shrink_to_fit();
            }
        }
        if self.from + self.need.max(ROOM / 4) > self.input.len() {
            self.input.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            // Room for what is known to come, but never for more than four times what is there:
            // what is announced may be a lie.
            let wanted = self.need.min(self.to * 4).max(self.to + ROOM / 2);
            if self.input.len() < wanted {
                self.input.resize(wanted.next_multiple_of(ROOM), 0);
            }
        }
    }

    fn filled(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the connection"));
        }
        self.to += count;
        Ok(())
    }

    /// Returns the next whole reply of what was read.
    pub(super) fn next(&mut self) -> io::Result<Option<Reply>> {
        if self.to - self.from < self.need {
            return Ok(None);
        }
        let there = &self.input[self.from..self.to];
        match if there.len() > MUCH { parse_much(there) } else { parse(there) } {
            Parsed::Whole(reply, taken) => {
                self.from += taken;
                self.need = 1;
                Ok(Some(reply))
            }
            Parsed::Short(need) => {
                self.need = need;
                Ok(None)
            }
            Parsed::Garbage => Err(garbage()),
        }
    }
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers there does not speak Redis' protocol")
}

fn is_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 2)
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_before_6_2_are_old() {
        for (version, old) in [("6.0.16", true), ("6.2.0", false), ("7.0.15", false), ("8.1", false), ("255.255.255", false), ("5.0", true)]
        {
            assert_eq!(super::is_old(version), old, "{version}");
        }
    }
}
