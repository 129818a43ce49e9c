//! Bytes, wherever they come from.

use std::{
    io::{self, Read, Write},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// Reads what has come, past the runtime; `WouldBlock` where nothing has, or where it cannot be
    /// told because it is not hidden.
    fn read_now(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Hides it: the runtime hears of nothing that comes, until it is asked to wait for it.
    fn hide(&mut self) {}

    fn is_hidden(&self) -> bool {
        false
    }
}

/// Leaves the methods as they are, which look at nothing past the runtime: what has come may be
/// half of a record.
impl Socket for TlsStream<TcpStream> {}

/// A socket without encryption. The runtime knows of it only while somebody waits for it: who looks
/// for an answer himself has no thread woken for it.
pub(super) enum Plain<S: Stream> {
    Hidden(S::Bare),
    Known(S),
    /// The runtime could not take it, or give it back.
    Gone,
}

/// A socket of the runtime's, and what it is without it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Sized {
    type Bare: Read + Write;
    fn meet(bare: Self::Bare) -> io::Result<Self>;
    fn part(self) -> io::Result<Self::Bare>;
}

impl Stream for TcpStream {
    type Bare = std::net::TcpStream;

    fn meet(bare: Self::Bare) -> io::Result<Self> {
        Self::from_std(bare)
    }

    fn part(self) -> io::Result<Self::Bare> {
        self.into_std()
    }
}

impl Stream for UnixStream {
    type Bare = std::os::unix::net::UnixStream;

    fn meet(bare: Self::Bare) -> io::Result<Self> {
        Self::from_std(bare)
    }

    fn part(self) -> io::Result<Self::Bare> {
        self.into_std()
    }
}

impl<S: Stream> Plain<S> {
    /// Tries without the runtime. `None` where it knows of the socket, or has to wait for it.
    fn try_now<T>(&mut self, io: impl FnOnce(&mut S::Bare) -> io::Result<T>) -> Option<io::Result<T>> {
        let Self::Hidden(bare) = self else { return None };
        match io(bare) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            done => Some(done),
        }
    }

    /// Returns the runtime's own. What came since the last look is the first thing that it tells.
    fn known(&mut self) -> io::Result<Pin<&mut S>> {
        if let Self::Hidden(_) = self
            && let Self::Hidden(bare) = mem::replace(self, Self::Gone)
        {
            *self = Self::Known(S::meet(bare)?);
        }
        match self {
            Self::Known(known) => Ok(Pin::new(known)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<S: Stream<Bare: Send + Sync> + Send + Sync> Socket for Plain<S>
where
    Self: Unpin,
{
    fn read_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Hidden(bare) => bare.read(into),
            Self::Known(_) => Err(io::ErrorKind::WouldBlock.into()),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn hide(&mut self) {
        if self.is_hidden() {
            return;
        }
        if let Self::Known(known) = mem::replace(self, Self::Gone)
            && let Ok(bare) = known.part()
        {
            *self = Self::Hidden(bare);
        }
    }

    fn is_hidden(&self) -> bool {
        matches!(self, Self::Hidden(_))
    }
}

impl<S: Stream> AsyncRead for Plain<S>
where
    Self: Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.try_now(|bare| bare.read(into.initialize_unfilled())) {
            Some(read) => Poll::Ready(read.map(|count| into.advance(count))),
            None => this.known()?.poll_read(cx, into),
        }
    }
}

impl<S: Stream> AsyncWrite for Plain<S>
where
    Self: Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.try_now(|bare| bare.write(bytes)) {
            Some(written) => Poll::Ready(written),
            None => this.known()?.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream as Bare,
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Plain<UnixStream>, Bare) {
        let (ours, theirs) = Bare::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Plain::Hidden(ours), theirs)
    }

    #[tokio::test]
    async fn what_comes_is_read_whether_the_runtime_knows_of_the_socket_or_not() {
        let (mut ours, mut theirs) = pair();
        let mut buffer = [0; 8];
        assert!(ours.is_hidden());
        for round in 0..3 {
            theirs.write_all(b"one").unwrap();
            assert_eq!(ours.read(&mut buffer).await.unwrap(), 3, "{round}");
            let (read, _) = tokio::join!(ours.read(&mut buffer), async { theirs.write_all(b"two!").unwrap() });
            assert_eq!(read.unwrap(), 4);
            assert!(!ours.is_hidden(), "it was waited for");
            ours.hide();
            assert_eq!(ours.read_now(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            theirs.write_all(b"three").unwrap();
            assert_eq!(ours.read_now(&mut buffer).unwrap(), 5);
            assert!(ours.is_hidden());
        }
        drop(theirs);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0, "the end");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_written_when_there_is_some() {
        let (mut ours, mut theirs) = pair();
        let much = vec![7; 8 << 20];
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        ours.write_all(&much).await.unwrap();
        drop(ours);
        assert_eq!(reading.join().unwrap(), much.len());
    }
}
