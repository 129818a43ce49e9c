//! The socket that lapin is given: ours, with our TLS, and with what the server sends looked at
//! first (`headers.rs`).

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::Stream;
use lapin::AsyncTcpStream;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::{TcpStream, tcp::OwnedReadHalf},
};
use tokio_rustls::client::TlsStream;

use super::{
    direct::{Direct, Encrypted, Reads},
    frames,
    headers::HeaderFilter,
    link::locked,
    url::Server,
};
use crate::tls::{self, Tls};

/// Bytes that are read in one go.
const ROOM: usize = 64 << 10;
/// Most times that the socket is read in a row with nothing for lapin: it has to write, too.
const IN_A_ROW: usize = 8;
/// Time after which lapin is told that the server is alive, of which it has seen nothing itself.
const ALIVE: Duration = Duration::from_secs(1);

enum Socket {
    /// The half that is read; the other is [`Direct`]'s.
    Plain(OwnedReadHalf),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// A connection's bytes.
pub(super) struct WireStream {
    socket: Socket,
    direct: Arc<Direct>,
    reads: Reads,
    filter: HeaderFilter,
    /// Time at which lapin was given something last.
    fed: Instant,
    /// Waker of lapin for a read.
    waker: Option<Waker>,
    input: Box<[u8]>,
    /// Bytes that have come and were looked at, and how many of them were read.
    ready: Vec<u8>,
    at: usize,
    /// Name and version of the server, once it has said them.
    version: Arc<Mutex<String>>,
    greeted: bool,
}

impl WireStream {
    /// Connects.
    pub(super) async fn connect(server: &Server, how: Option<&Tls>) -> io::Result<Self> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        stream.set_nodelay(true)?;
        let (socket, direct) = match how {
            None => {
                let (reads, writes) = stream.into_split();
                (Socket::Plain(reads), Direct::new(Some(writes)))
            }
            Some(how) => (Socket::Encrypted(Box::new(tls::wrap(stream, &server.host, how).await?)), Direct::new(None)),
        };
        Ok(Self {
            socket,
            reads: Reads::new(direct.clone()),
            direct,
            fed: Instant::now(),
            filter: HeaderFilter::default(),
            waker: None,
            input: vec![0; ROOM].into(),
            ready: Vec::new(),
            at: 0,
            version: Arc::default(),
            greeted: false,
        })
    }

    /// Returns where name and version of the server stand, once it has said them.
    pub(super) fn version(&self) -> Arc<Mutex<String>> {
        self.version.clone()
    }

    /// Returns our share in it.
    pub(super) fn direct(&self) -> Arc<Direct> {
        self.direct.clone()
    }

    /// Returns the socket, if lapin's thread alone writes to it.
    fn encrypted(socket: &mut Socket) -> Option<&mut Encrypted> {
        match socket {
            Socket::Plain(_) => None,
            Socket::Encrypted(socket) => Some(&mut **socket),
        }
    }

    /// Returns it as lapin takes it.
    pub(super) fn into_stream(self) -> AsyncTcpStream<Self> {
        AsyncTcpStream::Plain(self)
    }
}

impl futures_io::AsyncRead for WireStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            this.direct.wakes(cx.waker());
            this.waker = Some(cx.waker().clone());
        }
        if !this.greeted && this.direct.is_abandoned() {
            return Poll::Ready(Ok(0));
        }
        let mut reads = 0;
        while this.at == this.ready.len() {
            if reads == IN_A_ROW {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            let mut buffer = ReadBuf::new(&mut this.input);
            match &mut this.socket {
                Socket::Plain(socket) => ready!(Pin::new(socket).poll_read(cx, &mut buffer))?,
                Socket::Encrypted(socket) => ready!(Pin::new(&mut **socket).poll_read(cx, &mut buffer))?,
            }
            let count = buffer.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.ready.clear();
            this.at = 0;
            this.filter.pass(&this.input[..count], &mut this.ready, &mut this.reads);
            this.reads.deliver();
            if !std::mem::replace(&mut this.greeted, true) {
                *locked(&this.version) = greeting(&this.ready);
            }
            // It takes a server that sends it nothing for dead.
            if this.ready.is_empty() && this.filter.is_between() && this.fed.elapsed() > ALIVE {
                frames::heartbeat(&mut this.ready);
            }
        }
        this.fed = Instant::now();
        let count = into.len().min(this.ready.len() - this.at);
        into[..count].copy_from_slice(&this.ready[this.at..this.at + count]);
        this.at += count;
        Poll::Ready(Ok(count))
    }
}

impl futures_io::AsyncWrite for WireStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.direct.poll_write(cx, bytes, Self::encrypted(&mut this.socket))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.direct.poll_flush(cx, Self::encrypted(&mut this.socket))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.socket {
            Socket::Plain(_) => this.direct.poll_shutdown(cx),
            Socket::Encrypted(socket) => Pin::new(&mut **socket).poll_shutdown(cx),
        }
    }
}

impl Drop for WireStream {
    fn drop(&mut self) {
        self.direct.close();
    }
}

/// Returns name and version, as they stand in what a server sends first. lapin keeps them to
/// itself.
fn greeting(bytes: &[u8]) -> String {
    let property = |name: &[u8]| {
        let at = memchr::memmem::find(bytes, name)? + name.len();
        let size = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        std::str::from_utf8(bytes.get(at + 4..at + 4 + size)?).ok().map(str::to_owned)
    };
    [property(b"\x07productS"), property(b"\x07versionS")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The runtime as lapin sees it: Tokio, with our sockets.
#[derive(Clone, Debug)]
pub(super) struct WireKit(Tokio);

impl WireKit {
    /// Makes it of the runtime that is current now.
    pub(super) fn current() -> Self {
        Self(Tokio::current())
    }
}

impl RuntimeKit for WireKit {}

impl Executor for WireKit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, f: F) -> Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, f: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for WireKit {
    type TcpStream = WireStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        // Connections are made by `WireStream::connect` alone.
        Err::<WireStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
