//! A connection that sends tasks, one after the other, as any program would.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// An open connection.
pub(crate) struct Caller {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

/// Status of an answer, and what `Retry-After` said.
pub(crate) type Told = (u16, Option<u64>);

impl Caller {
    /// Connects, to send this body to this path over and over.
    pub(crate) async fn connect(address: &str, path: &str, body: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        Ok(Self { stream: BufReader::new(stream), request: request.into_bytes() })
    }

    /// Sends it once, and waits for the answer.
    pub(crate) async fn send(&mut self) -> io::Result<Told> {
        self.stream.get_mut().write_all(&self.request).await?;
        let (mut told, mut length) = ((0, None), 0);
        for number in 0.. {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if number == 0 {
                told.0 = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
            } else if let Some(bytes) = line.strip_prefix("content-length: ") {
                length = bytes.parse().unwrap_or_default();
            } else if let Some(after) = line.strip_prefix("retry-after: ") {
                told.1 = after.parse().ok();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(told)
    }
}
