//! Redis for tests, on a free port of the loopback.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::{Deref, DerefMut},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::process::Process;

/// A `redis-server`. Nothing is written to disk unless it is asked to.
pub struct Redis {
    process: Process,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one, with these arguments beside ours (`["--appendonly", "yes"]`). `None` where it is
    /// not installed: then the test has said so, and is over; with `CI` set that is a failure.
    ///
    /// # Panics
    /// It does not start; or it is not installed, and `CI=true` says that it has to be.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            let text = "redis-server is missing: install it (Debian and Ubuntu: the package `redis-server`; Fedora: `redis`; macOS: `brew install redis`)";
            crate::left_out::missing(text);
            return None;
        }
        let mut server = Self { process: Process::new("redis"), port: 0, arguments: arguments.iter().map(ToString::to_string).collect() };
        // Another process may take the port between our look and the server's bind.
        for attempt in 0.. {
            server.port = free_port();
            server.launch();
            if server.is_up() {
                break;
            }
            server.kill();
            assert!(attempt < 5, "redis-server does not start: {}", server.log());
        }
        Some(server)
    }

    /// Starts a sentinel that watches this server under this name.
    ///
    /// # Panics
    /// It does not start.
    pub fn sentinel(&self, name: &str) -> Self {
        let configuration = self.directory().join(format!("sentinel-{name}.conf"));
        std::fs::write(&configuration, format!("sentinel monitor {name} 127.0.0.1 {} 1\n", self.port)).expect("a file");
        let path = configuration.display().to_string();
        Self::start(&[&path, "--sentinel"]).expect("what has started once starts again")
    }

    /// `redis://127.0.0.1:PORT/0`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again on its port and in its directory, and waits until it answers.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
        assert!(self.is_up(), "redis-server does not start again: {}", self.log());
    }

    /// One command, and what the server answers, as it stands on the wire.
    ///
    /// # Panics
    /// It does not answer.
    pub fn command(&self, arguments: &[&str]) -> String {
        exchange(self.port, arguments).expect("redis-server answers")
    }

    fn launch(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        // A file of settings stands first.
        let (file, arguments) = self.arguments.split_at(usize::from(self.arguments.first().is_some_and(|first| !first.starts_with('-'))));
        command.args(file).args(["--port", &port, "--bind", "127.0.0.1"]).args(arguments);
        if file.is_empty() {
            command.args(["--save", "", "--dir"]).arg(self.directory());
        }
        self.process.start(command, "log");
    }

    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if self.process.ended().is_some() {
                return false;
            }
            // Any word but that it still loads; one that asks for a password is up too.
            match ping(self.port) {
                Ok(answer) if !answer.contains("LOADING") => return true,
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
        false
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }
}

impl Deref for Redis {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Returns ports that differ: one that is given back may come again at once.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("an address").port())
}

/// The first words of the answer; a sentinel does not end the connection when it is asked to.
fn ping(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer)?;
    if count == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}

fn exchange(port: u16, arguments: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        text += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    text += "*1\r\n$4\r\nQUIT\r\n";
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned())
}
