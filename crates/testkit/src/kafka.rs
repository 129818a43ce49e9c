//! A real Kafka for tests: one node, broker and controller in one process, on free ports of the
//! loopback, in a directory of its own.
//!
//! It is started from `KAFKA_HOME`, a folder with `libs/*.jar` as every download of Kafka is, with
//! the `java` on the path (17 or newer). Tests that need no node of their own may also use one that
//! runs: `LONGSHORE_KAFKA=HOST:PORT`.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, TcpStream},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{process::Process, servers::free_ports};

mod acl;

pub use acl::{Operation, Thing};

/// What to set where no Kafka can be found.
const WHAT_TO_SET: &str = "no Kafka: set KAFKA_HOME to a folder with libs/*.jar (any download of Kafka 4; Java 17 or newer is needed: Debian's package \
                           openjdk-17-jre-headless)";
/// Loaded machines need long for two starts of a Java machine.
const START_WITHIN: Duration = Duration::from_secs(90);
const CLUSTER: &str = "bG9uZ3Nob3JlLXRlc3QtMQ";

/// One node, with the log `server.log`.
///
/// Topics are not made by being named (`auto.create.topics.enable` is off), groups rebalance
/// without a delay, sessions may be as short as a second.
pub struct Kafka {
    process: Process,
    port: u16,
    secure_port: Option<u16>,
    /// Nobody but the node itself speaks to it.
    controller: u16,
}

impl Kafka {
    /// Starts a node with these settings beside ours (`&[("message.max.bytes", "1000")]`). `None`
    /// where `KAFKA_HOME` is not set: then the test has said so, and is over; with `CI=true` that
    /// is a failure.
    ///
    /// # Panics
    /// It does not start; or there is none, and `CI=true` says that there has to be.
    pub fn start(settings: &[(&str, &str)]) -> Option<Self> {
        Self::start_as(settings, false)
    }

    /// As [`start`](Self::start), with a second listener for TLS and SASL/PLAIN: user `admin`,
    /// password `admin-secret`, may do all; `guest`, `guest-secret`, nothing. The first listener
    /// stays open to all. Needs `openssl` on the path.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_secure(settings: &[(&str, &str)]) -> Option<Self> {
        Self::start_as(settings, true)
    }

    fn start_as(settings: &[(&str, &str)], secure: bool) -> Option<Self> {
        let Some(home) = home() else {
            crate::left_out::missing(&format!("{WHAT_TO_SET}; this test starts a node of its own"));
            return None;
        };
        // Another process may take a port between our look and the node's bind.
        for attempt in 1.. {
            let [port, secured, controller] = free_ports();
            let mut node = Self { process: Process::new("kafka"), port, secure_port: secure.then_some(secured), controller };
            node.configure(settings);
            node.format(&home);
            match node.launch(&home) {
                Ok(()) => return Some(node),
                Err(why) => assert!(attempt < 3, "the node does not start: {why}"),
            }
        }
        None
    }

    /// `127.0.0.1:PORT`, open to all.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port, for a proxy. (A client learns the node's own address from it and goes there from
    /// then on.)
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT` of the listener with TLS and SASL.
    ///
    /// # Panics
    /// It was not started with `start_secure`.
    pub fn secure_address(&self) -> String {
        format!("127.0.0.1:{}", self.secure_port.expect("started with start_secure"))
    }

    /// Returns the address of `guest` at that listener, for whoever reads one:
    /// `kafkas://guest:…`.
    ///
    /// # Panics
    /// It was not started with `start_secure`.
    pub fn guest(&self) -> String {
        format!("kafkas://guest:guest-secret@{}/?ca={}", self.secure_address(), self.ca().display())
    }

    /// The certificate that signed the node's own.
    pub fn ca(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    /// Starts it again on its ports, with its data and its settings, and waits until it serves.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.kill();
        let home = home().expect("it was there before");
        if let Err(why) = self.launch(&home) {
            panic!("the node does not start again: {why}");
        }
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let mut text = String::new();
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{}", self.port);
        if let Some(port) = self.secure_port {
            certificates(self.directory());
            listeners += &format!(",SASL_SSL://127.0.0.1:{port}");
            let plain = "org.apache.kafka.common.security.plain.PlainLoginModule";
            text += "sasl.enabled.mechanisms=PLAIN\nssl.keystore.type=PEM\n";
            text += &format!("ssl.keystore.location={}\n", self.directory().join("node.pem").display());
            text += &format!(
                "listener.name.sasl_ssl.plain.sasl.jaas.config={plain} required user_admin=\"admin-secret\" user_guest=\"guest-secret\";\n"
            );
            text +=
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS;User:admin\n";
        }
        text += &format!("advertised.listeners={listeners}\nlisteners={listeners},CONTROLLER://127.0.0.1:{}\n", self.controller);
        text +=
            &format!("controller.quorum.voters=1@127.0.0.1:{}\nlog.dirs={}\n", self.controller, self.directory().join("data").display());
        text += FIXED;
        for (name, value) in settings {
            text += &format!("{name}={value}\n");
        }
        fs::write(self.directory().join("server.properties"), text).expect("settings");
        fs::write(self.directory().join("log4j2.properties"), LOGGING.replace("DIRECTORY", &self.directory().display().to_string()))
            .expect("settings");
    }

    fn format(&self, home: &Path) {
        let settings = self.directory().join("server.properties");
        let mut command = self.java(home, "128m", "kafka.tools.StorageTool");
        command.args(["format", "-t", CLUSTER, "-c"]).arg(settings).stdin(Stdio::null());
        let output = command.output().expect("there is a java");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "the node's directory could not be formatted: {}", String::from_utf8_lossy(&said));
    }

    fn java(&self, home: &Path, heap: &str, main: &str) -> Command {
        let mut command = Command::new("java");
        // A node lives for seconds: what the second compiler gains never pays for it.
        let quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned);
        command.args([format!("-Xms{heap}"), format!("-Xmx{heap}")]).args(quick);
        command.arg(format!("-Dlog4j2.configurationFile={}", self.directory().join("log4j2.properties").display()));
        command.arg("-cp").arg(home.join("libs/*")).arg(main);
        command
    }

    /// Starts the process and waits until it serves.
    fn launch(&mut self, home: &Path) -> Result<(), String> {
        let log = self.directory().join("server.log");
        let seen = fs::metadata(&log).map_or(0, |log| log.len());
        let mut command = self.java(home, "512m", "kafka.Kafka");
        command.arg(self.directory().join("server.properties"));
        self.process.start(command, "stdout.log");
        let begun = Instant::now();
        while begun.elapsed() < START_WITHIN {
            if let Some(status) = self.process.ended() {
                self.kill();
                return Err(format!("{status}: {}", last_lines(&log) + &last_lines(&self.directory().join("stdout.log"))));
            }
            let accepts = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            if since(&log, seen).contains("Kafka Server started") && accepts(self.port) && self.secure_port.is_none_or(accepts) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("it does not serve after {START_WITHIN:?}: {}", last_lines(&log)))
    }
}

impl Deref for Kafka {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Kafka {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The address of a Kafka that all tests of this process share: the one of `LONGSHORE_KAFKA`, else
/// a node that the first caller starts and that ends with this process. Topics and groups need
/// names of their own ([`name`]). `None`, or a panic, as [`Kafka::start`] has it.
///
/// # Panics
/// As `Kafka::start`.
pub fn shared() -> Option<String> {
    static NODE: OnceLock<Option<Kafka>> = OnceLock::new();
    if let Ok(address) = std::env::var("LONGSHORE_KAFKA")
        && !address.is_empty()
    {
        return Some(address);
    }
    if home().is_none() {
        // Each test says so for itself.
        crate::left_out::missing(WHAT_TO_SET);
        return None;
    }
    NODE.get_or_init(|| Kafka::start(&[])).as_ref().map(Kafka::address)
}

/// A name that no other test has: of a topic, of a group.
pub fn name(stem: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    format!("{stem}-{since}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The folder with the jars.
///
/// # Panics
/// `KAFKA_HOME` names a folder without them, or there is no `java`: both are mistakes, not reasons
/// to skip.
fn home() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("KAFKA_HOME").filter(|home| !home.is_empty())?);
    let jars = fs::read_dir(home.join("libs"))
        .map(|mut files| files.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|end| end == "jar"))));
    assert!(matches!(jars, Ok(true)), "KAFKA_HOME={}: no libs/*.jar there", home.display());
    let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        java.is_ok_and(|status| status.success()),
        "no java on the path: install Java 17 or newer (Debian's package openjdk-17-jre-headless)"
    );
    Some(home)
}

/// A certificate authority, and a certificate of the loopback that it signed.
fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
        let output = output.expect("no openssl on the path: install Debian's package openssl");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(directory.join("san.cnf"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("a file");
    openssl("req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=test-ca -keyout ca.key -out ca.pem");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout node.key -out node.csr");
    openssl("x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile san.cnf -out node.crt");
    let both = ["node.key", "node.crt"].map(|file| fs::read_to_string(directory.join(file)).expect("what was just made")).concat();
    fs::write(directory.join("node.pem"), both).expect("a file");
}

fn since(log: &Path, seen: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(log)
        && file.seek(SeekFrom::Start(seen)).is_ok()
    {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(log: &Path) -> String {
    let text = since(log, 0);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

const FIXED: &str = "process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
";

const LOGGING: &str = "appenders = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = DIRECTORY/server.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c{1})%n
rootLogger.level = INFO
rootLogger.appenderRefs = file
rootLogger.appenderRef.file.ref = file
";

#[cfg(test)]
mod tests {
    use super::{Kafka, shared};

    #[test]
    fn a_node_can_be_killed_and_started_again_and_another_is_shared() {
        let Some(mut node) = Kafka::start(&[("message.max.bytes", "1000")]) else { return };
        let (address, first) = (node.address(), node.pid());
        node.kill();
        node.restart();
        assert_eq!(node.address(), address);
        assert_ne!(node.pid(), first);
        let (one, other) = (shared(), shared());
        assert!(one.is_some() && one == other && one != Some(address));
    }

    #[test]
    fn a_secure_node_has_a_second_listener_and_a_certificate() {
        let Some(node) = Kafka::start_secure(&[]) else { return };
        assert_ne!(node.secure_address(), node.address());
        assert!(node.ca().exists());
    }
}
