//! A small HTTP client, for bytes as they are.
#![allow(dead_code, reason = "not every test file needs everything")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// An answer: status, head in small letters and as it came, body.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) sent_head: String,
    pub(crate) body: String,
}

impl Answered {
    /// Returns a header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split_once(':').is_some_and(|(its, _)| its.eq_ignore_ascii_case(name));
        self.sent_head.lines().find(is_it).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

/// Sends these bytes and reads the answer to its end; `None` where the connection is just closed.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Option<Answered> {
    answer_of(TcpStream::connect(address).await.unwrap(), request).await
}

async fn answer_of(mut stream: TcpStream, request: &[u8]) -> Option<Answered> {
    // A server that has refused already reads no further.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("an answer within a minute");
    if read.is_err() && answer.is_empty() {
        return None;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.get(9..12)?.parse().unwrap();
    let (head, sent_head) = (head.to_ascii_lowercase(), head.to_owned());
    let body = if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_owned() };
    Some(Answered { status, head, sent_head, body })
}

fn written(method: &str, path: &str, headers: &str, body: &str) -> String {
    let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
    let length = if headers.to_ascii_lowercase().contains("transfer-encoding:") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n{body}")
}

/// Asks with these further headers, each with its line's end.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answered {
    let request = written(method, path, headers, body);
    raw(address, request.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Asks from this address of the loopback.
pub(crate) async fn ask_from(from: IpAddr, address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answered {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let request = written(method, path, headers, body);
    answer_of(stream, request.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Asks for what has no end, and reads the head of the answer.
pub(crate) async fn head_of(address: SocketAddr, path: &str, headers: &str) -> Answered {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(written("GET", path, headers, "").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(60), stream.read_u8()).await.expect("a head within a minute");
        head.push(byte.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    Answered { status: head[9..12].parse().unwrap(), head: head.to_ascii_lowercase(), sent_head: head, body: String::new() }
}

fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    body
}
