//! A small HTTP server for the demos: a thread for each connection, a handful of paths.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{Builder, sleep},
    time::Duration,
};

/// Ends with the program; its threads wait for nobody.
pub(crate) struct Server(SocketAddr);

impl Server {
    /// Starts it on a free port of the loopback. `/delay` answers after `delay`, `/late` after
    /// `late`.
    pub(crate) fn start(delay: Duration, late: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        Builder::new().name("demo-server".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = move || {
                    let _ = answer(stream, delay, late);
                };
                let _ = Builder::new().name("demo-connection".to_owned()).spawn(serve);
            }
        })?;
        Ok(Self(address))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0)
    }
}

/// An address of the loopback where nobody listens.
pub(crate) fn refusing() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn answer(stream: TcpStream, delay: Duration, late: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && header.trim() != "" {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        match path {
            "/delay" => sleep(delay),
            "/late" => sleep(late),
            _ => {}
        }
        let (status, body) = match path {
            "/delay" | "/late" => ("200 OK", r#"{"delayed":true}"#),
            "/json" => ("200 OK", r#"{"title":"a quick answer","items":[1,2,3]}"#),
            "/uuid" => ("200 OK", r#"{"uuid":"7d8e5f0c-3a51-4a7b-9a55-0d2f6c1e4b90"}"#),
            "/503" => ("503 Service Unavailable", "not now"),
            _ => ("404 Not Found", "no such path"),
        };
        // In one piece: two small ones would wait for each other's acknowledgement.
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    }
}
