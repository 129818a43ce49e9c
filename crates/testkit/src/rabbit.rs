//! A real RabbitMQ for tests: one node on free ports of the loopback, with a name, a cookie, an
//! epmd and a directory of its own.
//!
//! It takes 2 to 3 seconds of a core to start, so tests that do no harm to it share one and have a
//! virtual host each ([`vhost`], 15 ms). Debian's package `rabbitmq-server` is what it is started
//! from; a service that the package has started is in nobody's way.

pub mod raw;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    ops::{Deref, DerefMut},
    os::unix::{fs::symlink, net::UnixStream},
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

const MISSING: &str = "rabbitmq-server is missing: install it (Debian and Ubuntu: the package `rabbitmq-server`; its service need not run)";
/// A loaded machine needs long for three seconds of work.
const START_WITHIN: Duration = Duration::from_secs(90);
/// What ends it by itself: the node hands its queues over to its files first.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How a node is started.
#[derive(Clone, Debug, Default)]
pub struct RabbitOptions {
    settings: String,
    advanced: Option<String>,
    management: bool,
}

impl RabbitOptions {
    /// Starts from what a node has by itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds lines of `rabbitmq.conf`: `consumer_timeout = 60000`,
    /// `vm_memory_high_watermark.absolute = 200MB`, `heartbeat = 2`.
    #[must_use]
    pub fn conf(mut self, lines: &str) -> Self {
        self.settings += lines.trim();
        self.settings += "\n";
        self
    }

    /// Sets the text of `advanced.config`: `[{rabbit, [{channel_tick_interval, 1000}]}].`
    #[must_use]
    pub fn advanced(mut self, text: &str) -> Self {
        self.advanced = Some(text.to_owned());
        self
    }

    /// Starts the management plugin too, which takes a second more; see
    /// [`management`](RabbitServer::management).
    #[must_use]
    pub fn management(mut self) -> Self {
        self.management = true;
        self
    }

    /// Starts the node. `None` where it is not installed: then the test has said so, and is over;
    /// with `CI=true` that is a failure.
    ///
    /// # Panics
    /// It does not start; or it is not installed, and `CI=true` says that it has to be.
    pub fn start(self) -> Option<RabbitServer> {
        let Some(home) = home() else {
            crate::left_out::missing(MISSING);
            return None;
        };
        // Another process may take a port between our look and the node's bind.
        for attempt in 1.. {
            let mut server = RabbitServer::new(self.clone(), home.clone());
            match server.launch() {
                Ok(()) => return Some(server),
                Err(why) => assert!(attempt < 4, "rabbitmq-server does not start: {why}"),
            }
        }
        None
    }
}

/// A node, with the log `log`. User `guest`, password `guest` may do all.
pub struct RabbitServer {
    // Dropped in this order: a node that lost its epmd would look for it.
    process: Process,
    epmd: Process,
    home: PathBuf,
    options: RabbitOptions,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    management: u16,
    epmd: u16,
    /// Where `rabbitmqctl` talks to the node.
    distribution: u16,
}

impl RabbitServer {
    /// Starts a node with these lines in its `rabbitmq.conf`, as [`RabbitOptions::start`] has it.
    ///
    /// # Panics
    /// As `RabbitOptions::start`.
    pub fn start(conf: &[&str]) -> Option<Self> {
        conf.iter().fold(RabbitOptions::new(), |options, line| options.conf(line)).start()
    }

    fn new(options: RabbitOptions, home: PathBuf) -> Self {
        let [amqp, management, epmd, distribution] = free_ports();
        let ports = Ports { amqp, management, epmd, distribution };
        let (process, epmd) = (Process::new("rabbit"), Process::new("epmd"));
        let server = Self { process, epmd, home, options, ports };
        server.configure();
        server
    }

    /// `amqp://127.0.0.1:PORT`: the virtual host `/`, the user `guest`.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.ports.amqp)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// `127.0.0.1:PORT` of its HTTP interface.
    ///
    /// # Panics
    /// It was started without one.
    pub fn management(&self) -> String {
        assert!(self.options.management, "started with RabbitOptions::management");
        format!("127.0.0.1:{}", self.ports.management)
    }

    /// Makes a virtual host in which nothing lies and `guest` may do all; returns its URL.
    ///
    /// # Panics
    /// The node does not answer.
    pub fn vhost(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("v{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.add_vhost(&name);
        format!("{}/{name}", self.url())
    }

    /// Makes the virtual host of this name, in which `guest` may do all.
    ///
    /// # Panics
    /// The node does not answer.
    pub fn add_vhost(&self, name: &str) {
        let all = r#"<<".*">>, <<".*">>, <<".*">>"#;
        self.eval(&format!(
            r#"ok = rabbit_vhost:add(<<"{name}">>, <<"test">>),
            rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {all}, <<"test">>)."#
        ));
    }

    /// Evaluates Erlang in the node, as `rabbitmqctl eval` does, in a thousandth of its time; each
    /// expression ends with a full stop or a comma. Returns the value as Erlang writes it.
    ///
    /// # Panics
    /// The node does not answer, or the expression fails.
    pub fn eval(&self, expression: &str) -> String {
        match self.try_eval(expression) {
            Ok(answer) => match answer.split_once(' ') {
                Some(("ok", value)) => value.to_owned(),
                _ => panic!("{expression} => {answer}"),
            },
            Err(error) => panic!("{expression}: the node does not answer: {error}"),
        }
    }

    fn try_eval(&self, expression: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.directory().join("eval"))?;
        stream.set_read_timeout(Some(START_WITHIN))?;
        let length = u32::try_from(expression.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(expression.as_bytes())?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Returns the names of a virtual host's queues, each with how many messages are ready, how
    /// many wait for their acknowledgement, and how many consumers it has.
    ///
    /// # Panics
    /// The node does not answer.
    pub fn queues(&self, vhost: &str) -> Vec<(String, u64, u64, u64)> {
        // One that is deleted meanwhile does not answer.
        let told = self.eval(&format!(
            r#"iolist_to_binary([try
                I = rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged, consumers]), N = element(4, amqqueue:get_name(Q)),
                [N, [[9, integer_to_binary(V)] || {{_, V}} <- I], 10]
            catch exit:_ -> [] end || Q <- rabbit_amqqueue:list(<<"{vhost}">>)])."#
        ));
        // A binary of printable characters: <<"celery\t1\t0\t2\n">>
        let text = told.trim_start_matches("<<\"").trim_end_matches("\">>").replace("\\t", "\t").replace("\\n", "\n");
        let mut queues: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let mut parts = line.split('\t');
                let name = parts.next()?.to_owned();
                let mut number = || parts.next()?.parse().ok();
                Some((name, number()?, number()?, number()?))
            })
            .collect();
        queues.sort();
        queues
    }

    /// Closes all connections to a virtual host, as an administrator may. Returns how many there
    /// were.
    ///
    /// # Panics
    /// The node does not answer.
    pub fn close_connections(&self, vhost: &str) -> u64 {
        let told = self.eval(&format!(
            r#"length([rabbit_networking:close_connection(P, "test") || [{{pid, P}}, {{vhost, <<"{vhost}">>}}]
                <- rabbit_networking:connection_info_all([pid, vhost])])."#
        ));
        told.parse().expect("a number")
    }

    /// Runs `rabbitmqctl` on it, and returns what that prints.
    ///
    /// # Panics
    /// It fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.home.join("sbin/rabbitmqctl"));
        self.environment(&mut command);
        command.args(["--longnames", "--node", &self.name(), "--quiet"]).args(arguments).stdin(Stdio::null());
        let output = command.output().expect("there is a rabbitmqctl");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {said}");
        said
    }

    /// Ends it as `rabbitmqctl stop` does, and waits until it has.
    pub fn stop(&mut self) {
        // It may end before it has answered.
        let _ = self.try_eval("spawn(fun() -> rabbit:stop_and_halt() end), ok.");
        let begun = Instant::now();
        while self.process.ended().is_none() && begun.elapsed() < STOP_WITHIN {
            thread::sleep(Duration::from_millis(10));
        }
        self.process.kill();
    }

    /// Starts it again (it is killed if it runs) on its ports and with its data, and waits until it
    /// serves.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(why) = self.launch() {
            panic!("rabbitmq-server does not start again: {why}");
        }
    }

    /// Returns what its log has.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("rabbit-{}@127.0.0.1", self.ports.amqp)
    }

    fn configure(&self) {
        let directory = self.directory();
        let Ports { amqp, management, .. } = self.ports;
        let mut text = format!("listeners.tcp.1 = 127.0.0.1:{amqp}\n");
        if self.options.management {
            text += &format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n");
        }
        text += &self.options.settings;
        fs::write(directory.join("rabbitmq.conf"), text).expect("settings");
        if let Some(advanced) = &self.options.advanced {
            fs::write(directory.join("advanced.config"), advanced).expect("settings");
        }
        let plugins = if self.options.management { "[rabbitmq_management]." } else { "[]." };
        fs::write(directory.join("enabled_plugins"), plugins).expect("settings");
        // It looks for each of its modules in each folder of libraries: without those of plugins
        // that do not run it has started in half the time.
        let libraries = directory.join("libraries");
        fs::create_dir_all(&libraries).expect("a folder");
        for library in fs::read_dir(self.home.join("plugins")).expect("the server's libraries").flatten() {
            let name = library.file_name();
            let is_plugin = name.to_string_lossy().strip_prefix("rabbitmq_").is_some_and(|rest| !rest.starts_with("prelaunch"));
            if self.options.management || !is_plugin {
                symlink(library.path(), libraries.join(name)).expect("a link");
            }
        }
    }

    /// What the node and its commands are told by variables. Nothing of the user's is read: no
    /// cookie, no settings.
    fn environment(&self, command: &mut Command) {
        let directory = self.directory();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", directory).env("ERL_EPMD_PORT", self.ports.epmd.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODENAME", self.name()).env("RABBITMQ_USE_LONGNAME", "true").env("RABBITMQ_LOGS", "-");
        command.env("RABBITMQ_HOME", &self.home).env("ERL_LIBS", directory.join("libraries")).env("ERL_MAX_ETS_TABLES", "50000");
        let files = [
            ("CONF_ENV_FILE", "no-environment"),
            ("CONFIG_FILE", "rabbitmq.conf"),
            ("ADVANCED_CONFIG_FILE", "advanced.config"),
            ("ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("MNESIA_BASE", "data"),
            ("LOG_BASE", "logs"),
            ("PID_FILE", "pid"),
            ("GENERATED_CONFIG_DIR", "generated"),
        ];
        for (name, file) in files {
            command.env(format!("RABBITMQ_{name}"), directory.join(file));
        }
    }

    fn launch(&mut self) -> Result<(), String> {
        self.start_epmd()?;
        let _ = fs::remove_file(self.directory().join("eval"));
        // What the script `rabbitmq-server` ends in; without it the process is the node itself.
        let mut command = Command::new("erl");
        self.environment(&mut command);
        command.args(["-noinput", "-eval", EVAL, "-s", "rabbit", "boot", "-boot", "start_sasl"]);
        // One scheduler, which sleeps when there is nothing to do.
        command.args("+W w +S 1:1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none +MBas ageffcbf +MHas ageffcbf +MMmcs 30".split(' '));
        command.args("-syslog logger [] -syslog syslog_error_logger false -kernel prevent_overlapping_partitions false".split(' '));
        // A node that has its name from the start need not start another one to look for epmd.
        let distribution = self.ports.distribution.to_string();
        command.args(["-name", &self.name(), "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
        command.args(["-kernel", "inet_dist_listen_min", &distribution, "-kernel", "inet_dist_listen_max", &distribution]);
        self.process.start(command, "log");
        let begun = Instant::now();
        while begun.elapsed() < START_WITHIN {
            if let Some(status) = self.process.ended() {
                return Err(format!("{status}: {}", last_lines(&self.log())));
            }
            if !self.directory().join("eval").exists() {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            match self.try_eval("ok = rabbit:await_startup(node(), false, 80000), ok.") {
                Ok(answer) if answer == "ok ok" => return Ok(()),
                // The node ends, or has not got as far as that.
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(format!("it does not serve after {START_WITHIN:?}: {}", last_lines(&self.log())))
    }

    /// Without one on its port, a node would start one that nobody ends.
    fn start_epmd(&mut self) -> Result<(), String> {
        if self.epmd.runs() {
            return Ok(());
        }
        let mut command = Command::new("epmd");
        command.args(["-port", &self.ports.epmd.to_string(), "-address", "127.0.0.1"]);
        self.epmd.start(command, "log");
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.epmd)).is_err() {
            if !self.epmd.runs() || begun.elapsed() > START_WITHIN {
                return Err("epmd does not start".to_owned());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Deref for RabbitServer {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for RabbitServer {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Makes a virtual host on a node that all tests of this process share, and returns its URL:
/// `amqp://127.0.0.1:PORT/v7`. `None`, or a panic, as [`RabbitOptions::start`] has it.
///
/// # Panics
/// As `RabbitOptions::start`.
pub fn vhost() -> Option<String> {
    shared().map(RabbitServer::vhost)
}

/// Returns the node that all tests of this process share; it ends with this process.
///
/// # Panics
/// As `RabbitOptions::start`.
pub fn shared() -> Option<&'static RabbitServer> {
    static NODE: OnceLock<Option<RabbitServer>> = OnceLock::new();
    if home().is_none() {
        // Each test says so for itself.
        crate::left_out::missing(MISSING);
        return None;
    }
    NODE.get_or_init(|| RabbitOptions::new().start()).as_ref()
}

/// The folder with the server's libraries and commands.
fn home() -> Option<PathBuf> {
    let is_home = |home: &PathBuf| home.join("plugins").is_dir() && home.join("sbin/rabbitmqctl").exists();
    let named = std::env::var_os("RABBITMQ_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let installed = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten().map(|folder| folder.path());
    let home = named.into_iter().chain(installed).find(is_home)?;
    let on_path = |program: &str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists()))
    };
    (on_path("erl") && on_path("epmd")).then_some(home)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Listens at a socket in its directory for expressions, each with its length in front.
const EVAL: &str = r#"spawn(fun() ->
    {ok, L} = gen_tcp:listen(0, [{ifaddr, {local, os:getenv("HOME") ++ "/eval"}}, {packet, 4}, {active, false}, binary]),
    Serve = fun Serve(S) ->
        case gen_tcp:recv(S, 0) of
            {ok, Text} ->
                Answer = try
                    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text)),
                    {ok, Parsed} = erl_parse:parse_exprs(Tokens),
                    {value, Value, _} = erl_eval:exprs(Parsed, []),
                    io_lib:format("ok ~0tp", [Value])
                catch Class:Reason -> io_lib:format("error ~0tp: ~0tp", [Class, Reason]) end,
                gen_tcp:send(S, unicode:characters_to_binary(Answer)), Serve(S);
            _ -> gen_tcp:close(S)
        end end,
    Accept = fun Accept() ->
        {ok, S} = gen_tcp:accept(L),
        P = spawn(fun() -> receive serve -> Serve(S) end end),
        ok = gen_tcp:controlling_process(S, P), P ! serve, Accept() end,
    Accept() end)."#;

#[cfg(test)]
mod tests {
    use super::{RabbitOptions, RabbitServer, shared, vhost};

    #[test]
    fn a_node_keeps_its_queues_when_it_is_killed_stopped_and_started_again() {
        let Some(mut node) = RabbitServer::start(&["consumer_timeout = 70000", "heartbeat = 7"]) else { return };
        assert_eq!(node.eval("application:get_env(rabbit, consumer_timeout)."), "{ok,70000}");
        let declare = r#"rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"kept">>), true, false, [], none, <<"test">>), ok."#;
        assert_eq!(node.eval(declare), "ok");
        let (url, first) = (node.url(), node.pid());
        node.kill();
        node.restart();
        assert_ne!(node.pid(), first);
        node.stop();
        node.restart();
        node.freeze();
        node.thaw();
        assert_eq!(node.queues("/"), [("kept".to_owned(), 0, 0, 0)]);
        assert_eq!(node.url(), url);
        // Its own command finds it, without the user's cookie.
        assert!(node.ctl(&["list_queues", "name"]).contains("kept"));
        let cookie = std::fs::read_to_string(node.directory().join(".erlang.cookie")).expect("a cookie of its own");
        assert!(!cookie.is_empty());
    }

    #[test]
    fn tests_share_a_node_and_each_has_its_virtual_host() {
        let (Some(one), Some(other)) = (vhost(), vhost()) else { return };
        assert_ne!(one, other);
        let node = shared().expect("it runs");
        assert!(one.starts_with(&format!("{}/v", node.url())));
        let failed = std::panic::catch_unwind(|| node.eval("1 + a."));
        assert!(failed.is_err(), "what fails in the node fails here");
    }

    #[test]
    fn a_node_has_its_management_plugin_and_advanced_settings_where_they_are_asked_for() {
        let advanced = "[{rabbit, [{channel_tick_interval, 1234}]}].";
        let Some(node) = RabbitOptions::new().management().advanced(advanced).start() else { return };
        assert_eq!(node.eval("application:get_env(rabbit, channel_tick_interval)."), "{ok,1234}");
        assert!(std::net::TcpStream::connect(node.management()).is_ok());
    }
}
